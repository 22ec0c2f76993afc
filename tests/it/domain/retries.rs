//! The two retry classes.

use super::story::{
    Story, check_failed, credentials_refused, host, link_down, planned, second, unplanned, vault,
};
use lifeboat::domain::entity::Entity;
use lifeboat::domain::failure::Cause;
use lifeboat::domain::policy::Policy;
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{
    Command, Effect, Event, Health, NextStep, Phase, PointChoice, RetryReason, Stage, Wake, Work,
};
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);

fn retry(because: RetryReason) -> Command {
    Command::Retry { because }
}

/// One VM in each kind of work.
fn at_work() -> Vec<Story> {
    let mut enabling = Story::discovered(1);
    enabling.tell(super::story::enable());
    let mut snapshotting = Story::protected();
    snapshotting.wake();
    let mut failing_over = Story::protected();
    failing_over.tell(unplanned(PointChoice::Latest));
    vec![enabling, Story::in_initial_replication(), snapshotting, Story::shipping(), failing_over]
}

fn due(story: &Story) -> Option<Timestamp> {
    match story.vm.trouble.as_ref()?.next {
        NextStep::RetryAt(due) => Some(due),
        NextStep::Trying | NextStep::Administrator => None,
    }
}

#[test]
fn recoverable_work_is_tried_1_2_4_8_10_minutes_after_the_first_attempt_and_then_every_30() {
    for mut story in at_work() {
        let work = story.vm.work().expect("it is at work");
        let first = story.now;
        story.fail(link_down());
        for (index, minutes) in [1, 2, 4, 8, 10, 40, 70, 100].into_iter().enumerate() {
            let attempt = index as u32 + 1;
            assert_eq!(story.vm.trouble.as_ref().map(|trouble| trouble.attempt), Some(attempt));
            assert_eq!(due(&story), Some(first.after(MINUTE * minutes)));
            assert!(!story.vm.pending().contains(&Effect::Do(work)), "it waits");
            story.wake();
            assert!(story.vm.pending().contains(&Effect::Do(work)), "the same work again");
            story.fail(link_down());
        }
        story.wake();
        story.succeed();
        assert_eq!(story.vm.trouble, None);
    }
}

#[test]
fn an_attempt_that_outlasts_a_rung_is_followed_by_the_next_rung() {
    let mut story = Story::shipping();
    let first = story.now;
    story.fail(link_down());
    story.wake();
    story.wait(MINUTE * 4);
    story.fail(link_down());
    assert_eq!(due(&story), Some(first.after(MINUTE * 8)));
}

#[test]
fn the_end_of_the_cause_and_of_nothing_else_is_a_reason_to_retry_at_once() {
    let mut story = Story::shipping();
    story.fail(link_down());
    for other in [Cause::Host(host()), Cause::Itself] {
        assert_eq!(story.tell(retry(RetryReason::CauseEnded(other))), []);
    }
    let ended = RetryReason::CauseEnded(Cause::Vault(vault()));
    let started = Event::RetryStarted { attempt: 1, early: Some(ended.clone()) };
    assert_eq!(story.tell(retry(ended.clone())), [started]);
    assert!(
        matches!(story.vm.work(), Some(work) if story.vm.pending().contains(&Effect::Do(work)))
    );
    assert_eq!(story.tell(retry(ended)), [], "it is being tried already");
    story.fail(link_down());
    assert_eq!(story.vm.trouble.as_ref().map(|trouble| trouble.attempt), Some(2));
}

#[test]
fn the_timer_of_a_retry_that_came_early_does_nothing() {
    let mut story = Story::shipping();
    story.fail(link_down());
    let (_, ring) = story.alarm().expect("a retry is due");
    story.tell(retry(RetryReason::Administrator));
    assert_eq!(story.tell(ring), []);
}

#[test]
fn non_recoverable_work_waits_for_an_administrator_and_for_nobody_else() {
    for mut story in at_work() {
        if matches!(story.vm.phase, Phase::Enabling | Phase::FailingOver(_)) {
            story.succeed();
        }
        let work = story.vm.work().expect("it is at work");
        story.fail(credentials_refused());
        assert_eq!(story.vm.health(story.now), Health::Critical);
        assert_eq!(story.alarm(), None, "no retry");
        assert!(!story.vm.pending().contains(&Effect::Do(work)));
        let ended = RetryReason::CauseEnded(Cause::Vault(vault()));
        assert_eq!(story.tell(retry(ended)), []);
        assert_eq!(story.tell(retry(RetryReason::Administrator)).len(), 1);
        assert!(story.vm.pending().contains(&Effect::Do(work)));
        story.succeed();
        assert_eq!(story.vm.trouble, None);
    }
}

#[test]
fn a_non_recoverable_failure_is_critical_whatever_its_code() {
    let mut story = Story::protected();
    story.tell(planned());
    story.succeed();
    story.fail(check_failed());
    assert_eq!(
        story.vm.trouble.as_ref().map(|trouble| trouble.next),
        Some(NextStep::Administrator)
    );
    assert_eq!(story.vm.health(story.now), Health::Critical);
}

/// A failure told twice used to count as two attempts, and one told late turned the wait for an
/// administrator into a schedule.
#[test]
fn a_failure_is_news_only_while_the_work_is_being_done() {
    let mut story = Story::shipping();
    story.fail(link_down());
    assert_eq!(story.fail(link_down()), []);
    assert_eq!(story.fail(credentials_refused()), []);
    story.wake();
    story.fail(credentials_refused());
    assert_eq!(story.fail(link_down()), []);
    assert_eq!(
        story.vm.trouble.as_ref().map(|trouble| trouble.next),
        Some(NextStep::Administrator)
    );
}

#[test]
fn a_success_that_is_told_late_is_taken() {
    let mut story = Story::shipping();
    let success = story.success().expect("a delta is being sent");
    story.fail(link_down());
    story.tell(success);
    assert_eq!((story.vm.trouble.clone(), story.vm.points.len()), (None, 2));
    assert!(matches!(story.vm.delta.stage, Stage::Waiting { .. }));
}

#[test]
fn a_failed_check_ends_its_job_without_a_trace_of_trouble() {
    let mut enabling = Story::discovered(1);
    enabling.tell(super::story::enable());
    enabling.fail(check_failed());
    assert_eq!(
        (enabling.vm.phase.clone(), enabling.vm.trouble.clone()),
        (Phase::Unprotected, None)
    );
    assert_eq!(enabling.vm.allowed_operations(), ["EnableProtection"]);
}

/// A retry used to be due when the wall clock had caught up, however far it was set back.
#[test]
fn a_clock_that_is_set_back_does_not_put_off_a_retry() {
    let mut story = Story::shipping();
    story.fail(link_down());
    story.wake();
    story.now = second(-86_400);
    story.fail(link_down());
    assert_eq!(due(&story), Some(story.now.after(MINUTE)));
}

/// A timer that rang while the wall clock was a little behind used to be lost, and with it the VM.
#[test]
fn a_timer_is_believed_even_if_the_wall_clock_was_set_back_since() {
    let mut story = Story::protected();
    let (due, ring) = story.alarm().expect("a delta is due");
    story.now = Timestamp::from_millis(due.as_millis() - 1);
    assert_eq!(story.tell(ring).len(), 1);
    story.fail(link_down());
    let (_, ring) = story.alarm().expect("a retry is due");
    assert_eq!(story.tell(ring).len(), 1);
}

/// The next delta used to be due one interval after the beginning of the last one, even if that
/// lay in the future by then.
#[test]
fn a_clock_that_is_set_back_does_not_put_off_the_next_delta() {
    let mut story = Story::shipping();
    story.now = second(-86_400);
    story.succeed();
    let (due, _) = story.alarm().expect("a delta is due");
    assert!(due <= story.now.after(story.vm.policy.copy_frequency()));
}

#[test]
fn a_delta_that_outlasts_its_interval_is_followed_at_once() {
    let mut story = Story::shipping();
    story.wait(MINUTE * 20);
    story.succeed();
    assert_eq!(story.alarm().map(|(due, _)| due), Some(story.now));
}

/// The first delta used to come one interval after the end of the verification, however long that
/// had taken: a VM that had just become protected was Critical for a late recovery point.
#[test]
fn the_first_delta_is_counted_from_the_first_recovery_point() {
    let mut story = Story::in_initial_replication();
    story.until_step(|step| step == lifeboat::domain::job::Step::VerifyReplica);
    story.wait(MINUTE * 20);
    story.work_off();
    assert_eq!(story.alarm().map(|(due, _)| due), Some(story.now));
}

#[test]
fn a_policy_that_changes_in_the_middle_of_a_cycle_counts_from_its_beginning() {
    let faster = Policy { copy_frequency_s: 30, ..Policy::default() };
    let mut waiting = Story::protected_with_points(2);
    let started_at = waiting.vm.delta.started_at;
    let (old_due, old_ring) = waiting.alarm().expect("a delta is due");
    waiting.tell(Command::ChangePolicy { policy: faster });
    assert_eq!(waiting.alarm().map(|(due, _)| due), Some(started_at.after(MINUTE / 2)));
    waiting.now = old_due;
    assert_eq!(waiting.tell(old_ring), [], "the old timer");
    waiting.wake();

    let mut shipping = Story::shipping();
    let started_at = shipping.vm.delta.started_at;
    shipping.tell(Command::ChangePolicy { policy: faster });
    assert!(matches!(shipping.vm.work(), Some(Work::Ship { .. })));
    shipping.succeed();
    assert_eq!(shipping.alarm().map(|(due, _)| due), Some(started_at.after(MINUTE / 2)));
}

#[test]
fn a_wake_of_another_attempt_does_nothing() {
    let mut story = Story::shipping();
    story.fail(link_down());
    let (due, _) = story.alarm().expect("a retry is due");
    story.now = due;
    for wake in [Wake::Retry(2), Wake::Retry(0), Wake::Cycle(2), Wake::Cycle(3)] {
        assert_eq!(story.tell(Command::Wake { due, wake }), []);
    }
}

#[test]
fn points_past_their_retention_go_but_never_the_newest() {
    let policy = Policy { recovery_point_retention_h: 0, ..super::story::quiet() };
    let mut story = Story::protected_with_points(3);
    story.tell(Command::ChangePolicy { policy });
    assert_eq!(story.vm.points.len(), 3, "until the next delta");
    story.wake();
    story.work_off();
    assert_eq!(story.vm.points.iter().map(|point| point.cycle).collect::<Vec<_>>(), [4]);

    let policy = Policy { recovery_point_retention_h: 1, ..super::story::quiet() };
    story.tell(Command::ChangePolicy { policy });
    for _ in 0..40 {
        story.wake();
        story.work_off();
    }
    let oldest = story.vm.points.first().expect("there are points");
    assert!(story.now.since(oldest.at) <= MINUTE * 60);
    assert!(11 <= story.vm.points.len());
}
