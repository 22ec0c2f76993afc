//! Tracking that is lost in the middle of something.

use super::story::{Story, disk_id, enable, link_down, planned, unplanned};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::Entity;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::job::{JobKind, JobOutcome, Step};
use lifeboat::domain::vm::{Command, Effect, Event, Phase, PointChoice, ResyncReason, Work};
use std::collections::BTreeSet;

#[track_caller]
fn expect_resync(story: &mut Story) {
    let before = story.vm.job.clone().expect("there was a job");
    let events = story.tell(story.tracking_lost());
    assert_eq!(story.vm.phase, Phase::Resynchronizing(ResyncReason::PowerLoss));
    // Without a point there is nothing to compare with.
    let kind = if story.vm.points.is_empty() {
        JobKind::Resynchronize
    } else {
        JobKind::ResynchronizeDifferences
    };
    assert_eq!(story.vm.job.as_ref().map(|job| job.kind), Some(kind));
    let cancelled = Event::JobEnded { job: before.id, outcome: JobOutcome::Cancelled };
    assert_eq!(events.contains(&cancelled), before.ended.is_none());
    let again = matches!(before.kind, JobKind::Resynchronize | JobKind::ResynchronizeDifferences);
    if again && before.ended.is_none() {
        story.wake();
    }
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);
}

/// The report was swallowed during a planned failover, which then claimed that nothing is lost.
#[test]
fn a_loss_resynchronizes_the_vm_wherever_its_changes_still_matter() {
    let mut given = vec![Story::in_initial_replication(), Story::shipping(), Story::protected()];
    let mut snapshotting = Story::protected();
    snapshotting.wake();
    given.push(snapshotting);
    for step in [Step::CompleteCopy, Step::ApplyTrackedChanges, Step::VerifyReplica] {
        let mut story = Story::in_initial_replication();
        story.until_step(|current| current == step);
        given.push(story);
    }
    for step in [Step::CompareDisk(disk_id(0)), Step::ApplyTrackedChanges, Step::VerifyReplica] {
        let mut story = Story::resynchronizing();
        story.until_step(|current| current == step);
        given.push(story);
    }
    let mut failing_over = Story::shipping();
    failing_over.tell(planned());
    given.push(failing_over);
    for mut story in given {
        expect_resync(&mut story);
        let mut retrying = story;
        retrying.wake();
        retrying.fail(link_down());
        expect_resync(&mut retrying);
    }
}

/// It was resynchronized where it was off, and nobody started it there.
#[test]
fn a_loss_while_a_planned_failover_has_shut_its_source_down_undoes_it_first() {
    for step in [Step::ShutDownSource, Step::PrepareForFailover] {
        let mut story = Story::shipping();
        story.tell(planned());
        story.until_step(|current| current == step);
        story.tell(story.tracking_lost());
        assert_eq!(story.vm.phase, Phase::CancellingFailover);
        story.until_step(|current| current == Step::StartSource);
        story.succeed();
        assert_eq!(story.vm.phase, Phase::Resynchronizing(ResyncReason::PowerLoss));
        story.work_off();
        assert_eq!(story.vm.phase, Phase::Protected);
    }
}

#[test]
fn a_loss_is_ignored_where_nothing_depends_on_it() {
    let mut given = vec![Story::discovered(1)];
    let mut enabling = Story::discovered(1);
    enabling.tell(enable());
    given.push(enabling);
    given.push(Story::resynchronizing());
    for step in [Step::StartFailover, Step::StartReplica] {
        let mut story = Story::shipping();
        story.tell(planned());
        story.until_step(|current| current == step);
        given.push(story);
    }
    let mut failing_over = Story::shipping();
    failing_over.tell(unplanned(PointChoice::Latest));
    given.push(failing_over.clone());
    failing_over.work_off();
    given.push(failing_over);
    for mut story in given {
        assert_eq!(story.tell(story.tracking_lost()), [], "{:?}", story.vm.phase);
    }
}

/// A second report of the first loss used to start the resynchronization over; a loss in the instant
/// between the restart and its report used to be swallowed, and nobody looked again.
#[test]
fn a_chain_that_was_replaced_is_not_lost_again_and_its_successor_is_watched_anew() {
    let mut story = Story::protected();
    let watched = |story: &Story| {
        story.vm.pending().into_iter().find_map(|effect| match effect {
            Effect::WatchTracking { first_cycle } => Some(first_cycle),
            Effect::Do(_)
            | Effect::RunReplica
            | Effect::KeepOff { .. }
            | Effect::AwaitVault { .. }
            | Effect::ReclaimSpace
            | Effect::WakeAt { .. } => None,
        })
    };
    assert_eq!(watched(&story), Some(1));
    let first = story.tracking_lost();
    story.tell(first.clone());
    assert_eq!(story.tell(first.clone()), []);
    story.succeed();
    assert_eq!(story.tell(first), []);
    assert_ne!(watched(&story), Some(1));
    let second = story.tracking_lost();
    assert_ne!(story.tell(second), []);
}

/// Where the logs cannot be written, tracking is lost again as soon as it is restarted: that used to
/// go round as fast as the host could restart it.
#[test]
fn a_resynchronization_that_loses_track_again_begins_again_by_the_retry_schedule() {
    let mut story = Story::resynchronizing();
    let first = story.now;
    let mut begun_at = Vec::new();
    for _ in 0..7 {
        story.succeed();
        let events = story.tell(story.tracking_lost());
        assert!(matches!(events.last(), Some(Event::RetryScheduled { .. })), "{events:?}");
        story.wake();
        assert!(matches!(story.vm.work(), Some(Work::Task { step: Step::RestartTracking, .. })));
        begun_at.push(story.now.since(first).as_secs() / 60);
    }
    assert_eq!(begun_at, [1, 2, 4, 8, 10, 40, 70]);
    assert_eq!(story.vm.phase_since, first);
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);
}

/// A planned failover sends the delta under way and one more; a chain that began right after the
/// first used the sequence number of the second.
#[test]
fn a_chain_begins_after_every_cycle_that_an_interrupted_job_may_have_sent() {
    let mut story = Story::shipping();
    let under_way = story.vm.delta.cycle;
    story.tell(planned());
    story.until_step(|step| step == Step::PrepareForFailover);
    story.tell(story.tracking_lost());
    story.until_step(|step| step == Step::RestartTracking);
    story.succeed();
    assert!(under_way + 1 < story.vm.delta.chain_first_cycle);
}

/// The catalogue promises a resynchronization; the rules waited for an administrator, who has no
/// other way to it.
#[test]
fn a_broken_chain_of_logs_marks_the_vm_for_resynchronization() {
    let broken = || Failure::new(Code::LogChainBroken, Cause::Itself, "crc mismatch");
    let mut shipping = Story::shipping();
    shipping.fail(broken());
    assert!(matches!(shipping.vm.phase, Phase::Resynchronizing(ResyncReason::LogDamaged(_))));

    let mut preparing = Story::protected();
    preparing.tell(planned());
    preparing.until_step(|step| step == Step::PrepareForFailover);
    preparing.fail(broken());
    preparing.until_step(|step| step == Step::RestartTracking);
    assert!(matches!(preparing.vm.phase, Phase::Resynchronizing(ResyncReason::LogDamaged(_))));
}

#[test]
fn each_copy_in_full_is_one_of_its_own_and_a_comparison_makes_none() {
    let mut story = Story::in_initial_replication();
    for generation in 1..4 {
        story.tell(story.tracking_lost());
        if let Some((_, Command::Wake { .. })) = story.alarm() {
            story.wake();
        }
        story.succeed();
        assert_eq!(story.vm.delta.generation, generation);
    }
    story.work_off();
    story.tell(story.tracking_lost());
    story.work_off();
    assert_eq!((&story.vm.phase, story.vm.delta.generation), (&Phase::Protected, 3));
}

#[test]
fn points_from_before_a_loss_stay_usable() {
    let mut story = Story::resynchronizing();
    let allowed = story.vm.allowed_operations();
    assert!(allowed.contains(&"UnplannedFailover") && !allowed.contains(&"PlannedFailover"));
    story.until_step(|step| matches!(step, Step::CompareDisk(_)));
    story.tell(unplanned(PointChoice::Cycle(1)));
    story.work_off();
    assert_eq!(story.vm.failover.map(|failover| failover.point.cycle), Some(1));

    let mut never_copied = Story::in_initial_replication();
    never_copied.tell(never_copied.tracking_lost());
    let allowed = never_copied.vm.allowed_operations();
    assert_eq!(allowed, ["DisableProtection", "PauseReplication"]);
}

#[test]
fn a_late_report_of_an_earlier_delta_does_not_end_the_one_under_way() {
    let mut story = Story::shipping();
    let earlier = story.success().expect("a delta is being sent");
    story.succeed();
    story.wake();
    let cutting = story.vm.work();
    assert_eq!(story.tell(earlier), []);
    story.succeed();
    for cycle in [2, 4] {
        assert_eq!(story.tell(Command::ReportShipped { cycle, shipped_bytes: 1 }), []);
    }
    assert_ne!(story.vm.work(), cutting);
    assert!(matches!(story.vm.work(), Some(Work::Ship { cycle: 3, .. })));
}

#[test]
fn every_job_has_an_id_of_its_own() {
    let mut story = Story::resynchronizing();
    story.work_off();
    story.tell(story.tracking_lost());
    story.work_off();
    let jobs: Vec<_> = story
        .told
        .iter()
        .flat_map(|(_, _, events)| events)
        .filter_map(|event| match event {
            Event::JobStarted { job, .. } => Some(*job),
            _ => None,
        })
        .collect();
    assert_eq!(jobs.len(), 5);
    assert_eq!(jobs.iter().collect::<BTreeSet<_>>().len(), jobs.len());
}

#[test]
fn a_late_report_of_replaced_work_changes_nothing() {
    let mut story = Story::shipping();
    let late = [
        story.success().expect("a delta is being sent"),
        Command::ReportFailure {
            work: story.vm.work().expect("a delta is being sent"),
            failure: link_down(),
        },
    ];
    story.tell(story.tracking_lost());
    for report in late {
        assert_eq!(story.tell(report), []);
    }
    assert!(matches!(story.vm.work(), Some(Work::Task { .. })));
}
