//! Resynchronization: when it begins, what it says of itself, and what becomes of a replica that is
//! itself suspect.

use super::story::{BEGINNING, Story, check_failed, job_id, link_down, unplanned, vault};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::Entity;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::job::{JobKind, Step};
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{
    Command, Effect, Event, Health, Opening, Outcome, Phase, PointChoice, RecoveryPoint,
    ResyncReason, ResyncWindow, RetryReason, Wake, Work,
};
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY_MS: i64 = 24 * 3_600_000;

/// 18:30 to 06:00 at a site on UTC. Every story begins at 08:00.
const NIGHT: ResyncWindow =
    ResyncWindow::Daily { from_minute: 18 * 60 + 30, to_minute: 6 * 60, utc_offset_minutes: 0 };

fn at(day: i64, hour: i64, minute: i64) -> Timestamp {
    let midnight = BEGINNING.as_millis() - BEGINNING.as_millis().rem_euclid(DAY_MS);
    Timestamp::from_millis(midnight + ((day * 24 + hour) * 60 + minute) * 60_000)
}

fn by_hand() -> Command {
    Command::Resynchronize { job: job_id(5) }
}

fn damaged() -> Failure {
    Failure::new(Code::ReplicaDamaged, Cause::Vault(vault()), "checksum")
        .with("object", "base/00000000/00000001.seg")
        .with("damage", "the checksum of the frame does not match")
}

fn protected(window: ResyncWindow) -> Story {
    let mut story = Story::protected();
    story.tell(Command::ChangeResyncWindow { window });
    story
}

/// A VM that was marked at 08:00 and waits for the night.
fn waiting() -> Story {
    let mut story = protected(NIGHT);
    story.tell(story.tracking_lost());
    assert_eq!(story.vm.resync.waits_for, Some(Opening::At(at(0, 18, 30))));
    story
}

fn running_job(story: &Story) -> Option<JobKind> {
    story.vm.job.as_ref().filter(|job| job.ended.is_none()).map(|job| job.kind)
}

#[track_caller]
fn expect_protected(mut story: Story) {
    story.work_off();
    assert_eq!((&story.vm.phase, story.vm.resync.waits_for), (&Phase::Protected, None));
    story.wake();
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);
}

/// Every minute of two days in every window of a grid, with a second oracle of what "inside" is.
#[test]
fn a_window_opens_at_its_next_beginning_or_is_open() {
    let inside = |from: i64, to: i64, minute: i64| match from.cmp(&to) {
        std::cmp::Ordering::Less => from <= minute && minute < to,
        std::cmp::Ordering::Greater => from <= minute || minute < to,
        std::cmp::Ordering::Equal => true,
    };
    let minutes: Vec<i64> = (0..1440).step_by(131).chain([1, 1439]).collect();
    for offset in [-720_i64, -210, 0, 60, 345, 840] {
        for &from in &minutes {
            for &to in &minutes {
                let window = ResyncWindow::Daily {
                    from_minute: from as u16,
                    to_minute: to as u16,
                    utc_offset_minutes: offset as i16,
                };
                window.check().unwrap();
                let local =
                    |moment: Timestamp| (moment.as_millis() + offset * 60_000).rem_euclid(DAY_MS);
                let is_inside = |moment| inside(from, to, local(moment) / 60_000);
                for minute in (-1440..1440).step_by(7) {
                    for millis in [0, 1, 59_999] {
                        let now = Timestamp::from_millis(at(0, 0, minute).as_millis() + millis);
                        let Opening::At(opens) = window.opens(now) else { unreachable!() };
                        if is_inside(now) {
                            assert_eq!(opens, now, "{window} at {now}");
                            continue;
                        }
                        let before = Timestamp::from_millis(opens.as_millis() - 1);
                        assert!(now < opens && opens.since(now) < ResyncWindow::LONGEST_WAIT);
                        assert_eq!(local(opens), from * 60_000, "{window} at {now}: {opens}");
                        assert!(is_inside(opens) && !is_inside(before), "{window} at {now}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_other_windows_are_always_open_or_never() {
    for now in [at(-20_000_000, 0, 0), at(0, 8, 0), Timestamp::from_millis(i64::MAX)] {
        assert_eq!(ResyncWindow::Always.opens(now), Opening::At(now));
        assert_eq!(ResyncWindow::Manual.opens(now), Opening::ByHand);
        let Opening::At(opens) = NIGHT.opens(now) else { unreachable!() };
        assert!(now <= opens);
    }
    assert_eq!(NIGHT.to_string(), "18:30-06:00 (UTC+00:00)");
}

#[test]
fn a_window_outside_the_day_is_refused() {
    let mut story = Story::protected();
    for (from_minute, to_minute, utc_offset_minutes) in [(1440, 0, 0), (0, 1440, 0), (0, 0, -1081)]
    {
        let window = ResyncWindow::Daily { from_minute, to_minute, utc_offset_minutes };
        assert!(story.try_tell(Command::ChangeResyncWindow { window }).is_err());
    }
    assert_eq!(story.vm.resync.window, ResyncWindow::Always);
}

#[test]
fn a_marked_vm_waits_for_its_window_and_says_so() {
    let mut story = protected(NIGHT);
    let events = story.tell(story.tracking_lost());
    let opening = Opening::At(at(0, 18, 30));
    assert_eq!(
        events,
        [
            Event::MarkedForResync { reason: ResyncReason::PowerLoss },
            Event::ResyncScheduled { opening }
        ]
    );
    // Nothing is done meanwhile, not even watched: logs would only grow.
    let (due, wake) = (at(0, 18, 30), Wake::Resync);
    assert_eq!(story.vm.pending(), [Effect::WakeAt { due, wake }]);
    assert_eq!(story.tell(story.tracking_lost()), []);
    let allowed = story.vm.allowed_operations();
    assert!(["UnplannedFailover", "RepairReplication"].iter().all(|it| allowed.contains(it)));
    let cause = story.vm.health_causes(story.now).remove(0);
    assert_eq!(cause.level, Health::Critical);
    assert!(cause.because.contains("lost power"), "{}", cause.because);
    for word in [&due.to_string(), "18:30-06:00", "by hand", "earlier recovery points"] {
        assert!(cause.next.contains(word), "{}", cause.next);
    }
    story.wake();
    assert_eq!(story.now, due);
    assert_eq!(running_job(&story), Some(JobKind::ResynchronizeDifferences));
    expect_protected(story);
}

#[test]
fn a_vm_that_is_marked_inside_the_window_does_not_wait() {
    for (hour, minute) in [(18, 30), (23, 59), (24, 0), (29, 59)] {
        let mut story = protected(NIGHT);
        story.now = at(0, hour, minute);
        story.tell(story.tracking_lost());
        assert_eq!(running_job(&story), Some(JobKind::ResynchronizeDifferences));
    }
    let mut story = protected(NIGHT);
    story.now = at(1, 6, 0);
    story.tell(story.tracking_lost());
    assert_eq!(story.vm.resync.waits_for, Some(Opening::At(at(1, 18, 30))));
}

#[test]
fn an_operator_need_not_wait() {
    let mut story = waiting();
    story.wait(HOUR);
    story.tell(by_hand());
    assert_eq!(running_job(&story), Some(JobKind::ResynchronizeDifferences));
    assert!(story.try_tell(by_hand()).is_err(), "it runs already");
    expect_protected(story);
    assert!(Story::protected().try_tell(by_hand()).is_err(), "nothing calls for it");
}

#[test]
fn without_a_window_it_waits_for_an_operator_and_says_so() {
    let mut story = protected(ResyncWindow::Manual);
    story.tell(story.tracking_lost());
    assert_eq!(story.vm.pending(), []);
    let cause = story.vm.health_causes(story.now).remove(0);
    assert!(cause.next.contains("by hand"), "{}", cause.next);
    story.tell(by_hand());
    expect_protected(story);
}

#[test]
fn a_vm_without_any_recovery_point_does_not_wait() {
    let mut story = Story::in_initial_replication();
    story.tell(Command::ChangeResyncWindow { window: NIGHT });
    story.tell(story.tracking_lost());
    assert_eq!(running_job(&story), Some(JobKind::Resynchronize));
    let next = story.vm.health_causes(story.now).remove(0).next;
    assert!(next.contains("there is no recovery point") && !next.contains("earlier"), "{next}");
    expect_protected(story);
}

#[test]
fn a_window_that_was_missed_is_not_made_up_for_in_office_hours() {
    let mut story = waiting();
    let (_, alarm) = story.alarm().unwrap();
    story.now = at(1, 9, 0);
    story.tell(alarm.clone());
    assert_eq!(story.vm.resync.waits_for, Some(Opening::At(at(1, 18, 30))));
    assert_eq!(story.tell(alarm), [], "the timer of the day before");
    story.wake();
    expect_protected(story);
}

#[test]
fn a_clock_that_was_set_back_does_not_put_it_off() {
    for back in [MINUTE, 3 * HOUR, 30 * HOUR, 24 * 365 * HOUR] {
        let mut story = waiting();
        let (due, alarm) = story.alarm().unwrap();
        story.now = Timestamp::from_millis(due.as_millis() - back.as_millis() as i64);
        story.tell(alarm);
        assert_eq!(running_job(&story), Some(JobKind::ResynchronizeDifferences), "{back:?}");
        expect_protected(story);
    }
}

#[test]
fn a_resynchronization_goes_on_when_the_window_ends() {
    let mut story = waiting();
    story.wake();
    story.until_step(|step| matches!(step, Step::CompareDisk(_)));
    story.now = at(1, 5, 59);
    story.fail(link_down());
    story.now = at(1, 7, 0);
    story.wake();
    assert!(story.vm.work().is_some());
    // Also where it has to begin again, which the retry schedule slows down.
    let events = story.tell(story.tracking_lost());
    assert!(matches!(events.last(), Some(Event::RetryScheduled { .. })), "{events:?}");
    story.wake();
    assert!(story.now < at(1, 8, 0));
    expect_protected(story);
}

#[test]
fn a_window_that_changes_counts_for_who_waits() {
    let change = |window| {
        let mut story = waiting();
        story.wait(MINUTE);
        story.tell(Command::ChangeResyncWindow { window });
        story
    };
    assert!(running_job(&change(ResyncWindow::Always)).is_some());
    assert_eq!(change(ResyncWindow::Manual).vm.resync.waits_for, Some(Opening::ByHand));
    let noon = ResyncWindow::Daily { from_minute: 720, to_minute: 780, utc_offset_minutes: 120 };
    assert_eq!(change(noon).vm.resync.waits_for, Some(Opening::At(at(0, 10, 0))));
    let mut same = waiting();
    assert_eq!(same.tell(Command::ChangeResyncWindow { window: NIGHT }), []);
}

#[test]
fn a_window_given_by_hand_outlives_a_start_until_the_configuration_has_another() {
    let configure = |window| Command::ConfigureResyncWindow { window };
    let summer = ResyncWindow::Daily { from_minute: 1110, to_minute: 360, utc_offset_minutes: 120 };
    let winter = ResyncWindow::Daily { from_minute: 1110, to_minute: 360, utc_offset_minutes: 60 };
    let mut story = Story::protected_with_points(1);
    story.tell(configure(summer));
    assert_eq!(story.tell(configure(summer)), []);
    story.tell(configure(winter));
    assert_eq!(story.vm.resync.window, winter);
    story.tell(Command::ChangeResyncWindow { window: ResyncWindow::Manual });
    for _ in 0..2 {
        assert_eq!(story.tell(configure(winter)), []);
        assert_eq!(story.tell(configure(summer)), [], "the clock changed, not the configuration");
    }
    assert_eq!(story.vm.resync.window, ResyncWindow::Manual);
    story.tell(configure(ResyncWindow::Always));
    assert_eq!(story.vm.resync.window, ResyncWindow::Always);
}

#[test]
fn a_window_that_is_configured_counts_for_who_waits() {
    let mut story = waiting();
    story.tell(Command::ConfigureResyncWindow { window: ResyncWindow::Always });
    assert!(running_job(&story).is_some());
}

#[test]
fn an_unplanned_failover_that_fails_its_check_leads_back_to_the_wait() {
    let mut story = waiting();
    story.wait(HOUR);
    story.tell(unplanned(PointChoice::Latest));
    assert!(!story.vm.pending().iter().any(|effect| matches!(effect, Effect::WakeAt { .. })));
    story.fail(check_failed());
    assert_eq!(story.vm.resync.waits_for, Some(Opening::At(at(0, 18, 30))));
    story.wake();
    expect_protected(story);
}

#[test]
fn it_says_how_far_it_is_and_what_it_found() {
    let mut story = Story::resynchronizing();
    story.succeed();
    let Some(job) = story.vm.job.clone() else { unreachable!() };
    let (done_bytes, total_bytes) = (256 << 20, 1 << 30);
    story.tell(Command::ReportProgress { job: job.id, task: 1, done_bytes, total_bytes });
    let next = |story: &Story| story.vm.health_causes(story.now).remove(0).next;
    assert!(next(&story).contains("256 of 1024 MiB"), "{}", next(&story));
    let events = story.succeed();
    assert!(matches!(events[0], Event::DiskCompared { different_bytes: 1_048_576, .. }));
    assert!(next(&story).contains("1024 of 1024 MiB so far, 1 MiB"), "{}", next(&story));
    assert_eq!(
        (story.vm.resync.compared_bytes, story.vm.resync.different_bytes),
        (1 << 30, 1 << 20)
    );
    story.work_off();
    story.tell(story.tracking_lost());
    assert_eq!(story.vm.resync.compared_bytes, 0);
}

/// Found with two services over one vault: what an attempt had found was forgotten when the next one met a host that
/// did not answer, and a replica with somebody else's writes was taken for the VM's own.
#[test]
fn a_replica_stays_suspect_whatever_else_fails_until_its_work_succeeds() {
    let mut story = Story::protected_with_points(3);
    story.wake();
    story.fail(damaged());
    story.tell(Command::Retry { because: RetryReason::Administrator });
    story.fail(link_down());
    story.tell(story.tracking_lost());
    assert!(matches!(story.vm.phase, Phase::Resynchronizing(ResyncReason::ReplicaSuspect(_))));
    assert_eq!(story.vm.resync.waits_for, Some(Opening::ByHand));

    let mut story = Story::protected_with_points(3);
    story.wake();
    story.fail(damaged());
    story.tell(Command::Retry { because: RetryReason::Administrator });
    story.work_off();
    story.tell(story.tracking_lost());
    assert!(matches!(story.vm.phase, Phase::Resynchronizing(ResyncReason::PowerLoss)));
}

#[test]
fn a_suspect_replica_is_copied_anew_by_hand_and_its_points_go_when_another_one_is_there() {
    let mut story = Story::protected_with_points(3);
    story.wake();
    story.fail(damaged());
    assert!(story.vm.allowed_operations().contains(&"RepairReplication"));
    story.tell(by_hand());
    assert_eq!(running_job(&story), Some(JobKind::Resynchronize));
    let cause = story.vm.health_causes(story.now).remove(0);
    assert!(cause.because.contains("checksum of the frame"), "{}", cause.because);
    assert!(cause.next.contains("may be damaged"), "{}", cause.next);

    // A loss of tracking in the middle makes the replica no better.
    story.until_step(|step| step == Step::CompleteCopy);
    story.tell(story.tracking_lost());
    story.wake();
    assert_eq!(running_job(&story), Some(JobKind::Resynchronize));
    story.until_step(|step| step == Step::ApplyTrackedChanges);
    assert_eq!(story.vm.points.len(), 3, "a suspect point is better than none");
    let events = story.succeed();
    let dropped = events.iter().find_map(|event| match event {
        Event::RecoveryPointsDropped { because, .. } => Some(because),
        _ => None,
    });
    assert!(matches!(dropped, Some(ResyncReason::ReplicaSuspect(what)) if what.contains("frame")));
    assert_eq!(story.vm.points.len(), 1);
    story.work_off();
    // What follows is compared again, and keeps its points.
    story.tell(story.tracking_lost());
    assert_eq!(running_job(&story), Some(JobKind::ResynchronizeDifferences));
    story.work_off();
    assert_eq!(story.vm.points.len(), 2);
}

#[test]
fn only_damage_of_the_replica_calls_for_another_copy() {
    for failure in [super::story::credentials_refused(), link_down()] {
        let mut story = Story::shipping();
        story.fail(failure);
        assert!(story.try_tell(by_hand()).is_err());
    }
    let mut comparing = Story::resynchronizing();
    comparing.until_step(|step| matches!(step, Step::CompareDisk(_)));
    comparing.fail(damaged());
    comparing.tell(by_hand());
    assert_eq!(running_job(&comparing), Some(JobKind::Resynchronize));
    expect_protected(comparing);
}

/// A state that was folded before windows existed begins at once, as it did then.
#[test]
fn a_vm_that_was_told_of_no_window_begins_at_once() {
    let story = Story::resynchronizing();
    assert_eq!(story.vm.resync.window, ResyncWindow::Always);
    assert!(running_job(&story).is_some());
}

/// One that was told of points which it did not make itself may not number its own as those.
#[test]
fn a_suspect_replica_is_closed_to_whoever_else_writes_to_it_before_it_is_copied() {
    let restarting = || {
        let mut story = Story::protected_with_points(3);
        story.wake();
        story.fail(damaged());
        story.tell(by_hand());
        assert_eq!(story.vm.takes_replica_over(), Some(story.now));
        story
    };
    let point = |cycle| RecoveryPoint { cycle, at: BEGINNING, bytes: 1 };
    for (found, unused) in [(vec![], 0), (vec![point(4), point(9)], 11)] {
        let mut story = restarting();
        let first_cycle = story.vm.first_cycle_of_new_chain().max(unused);
        let (epoch, work) = (story.vm.epoch + 1, story.vm.work());
        let Some(Work::Task { job, task, .. }) = work else { panic!("{work:?}") };
        let outcome = Outcome::Fenced { found };
        let events = story.tell(Command::ReportDone { job, task, outcome });
        let begun = [Event::SourceFenced { epoch }, Event::TrackingStarted { first_cycle }];
        assert_eq!(events[..2], begun);
        assert_eq!(story.vm.points.len(), 3, "what was found is not its own");
        expect_protected(story);
    }
    // It may be closed by now; not where somebody else closed it before.
    let refused = Failure::new(Code::ReplicaInvalid, Cause::Vault(vault()), "closed off");
    for (failure, raises) in [(None, true), (Some(link_down()), true), (Some(refused), false)] {
        let mut story = restarting();
        let before = story.vm.epoch;
        if let Some(failure) = failure {
            story.fail(failure);
        }
        story.tell(unplanned(PointChoice::Latest));
        assert_eq!(story.vm.epoch - before, u64::from(raises));
    }
}

/// A VM whose first disk was compared by half when its resynchronization was paused.
fn paused_half_way() -> Story {
    let mut story = protected(ResyncWindow::Always);
    story.tell(story.tracking_lost());
    story.until_step(|step| matches!(step, Step::CompareDisk(_)));
    let Some(Work::Task { job, task, .. }) = story.vm.work() else { panic!("nothing is done") };
    story.tell(Command::ReportProgress { job, task, done_bytes: 1 << 19, total_bytes: 1 << 20 });
    story.tell(Command::PauseReplication);
    story
}

#[test]
fn a_resynchronization_that_is_paused_goes_on_from_where_it_was() {
    let mut story = paused_half_way();
    let job = story.vm.job.clone();
    assert_eq!(
        (story.vm.work(), running_job(&story)),
        (None, Some(JobKind::ResynchronizeDifferences))
    );
    let next = &story.vm.health_causes(story.now)[0].next;
    assert!(next.contains("paused") && next.contains("earlier recovery points"), "{next}");
    let effects = story.vm.pending();
    let is_of_work = |effect: &&Effect| matches!(effect, Effect::Do(_) | Effect::WakeAt { .. });
    assert_eq!(effects.iter().find(is_of_work), None, "{effects:?}");
    story.tell(Command::ResumeReplication);
    assert_eq!(story.vm.job, job);
    assert!(matches!(story.vm.work(), Some(Work::Task { step: Step::CompareDisk(_), .. })));
    expect_protected(story);
}

#[test]
fn what_ends_a_paused_resynchronization_lets_it_wait_for_somebody() {
    let mut cancelled = paused_half_way();
    let job = cancelled.vm.job.as_ref().unwrap().id;
    cancelled.tell(Command::CancelJob { job });
    let mut lost_again = paused_half_way();
    lost_again.tell(lost_again.tracking_lost());
    let mut refused = paused_half_way();
    refused.tell(unplanned(PointChoice::Latest));
    refused.fail(check_failed());
    for mut story in [cancelled, lost_again, refused] {
        assert_eq!((running_job(&story), story.vm.work()), (None, None));
        assert_eq!(story.vm.resync.waits_for, Some(Opening::ByHand));
        story.tell(Command::ResumeReplication);
        assert_eq!(running_job(&story), Some(JobKind::ResynchronizeDifferences));
        expect_protected(story);
    }
}
