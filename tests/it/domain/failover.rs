//! Failovers that meet something: a delta in flight, another failover, a failed check, old points.

use super::story::{
    Story, cancel_failover, change_point, check_failed, commit, complete_failback, host, link_down,
    planned, second, synchronized, unplanned,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::PlanId;
use lifeboat::domain::job::{JobKind, Step};
use lifeboat::domain::vm::{
    Command, Effect, Event, FailoverKind, Outcome, Phase, PointChoice, RecoveryPoint, SourceEnd,
    Stage, Work,
};
use std::time::Duration;

const PLANNED_STEPS: [Step; 5] = [
    Step::CheckPlannedFailover,
    Step::ShutDownSource,
    Step::PrepareForFailover,
    Step::StartFailover,
    Step::StartReplica,
];

fn point(cycle: u64) -> RecoveryPoint {
    RecoveryPoint { cycle, at: second(1000 + cycle as i64), bytes: 1 }
}

fn cycles(story: &Story) -> Vec<u64> {
    story.vm.points.iter().map(|point| point.cycle).collect()
}

/// Deltas go on: each is cut before it is sent, and makes one point.
#[track_caller]
fn expect_deltas_to_go_on(mut story: Story) {
    for _ in 0..3 {
        let before = cycles(&story);
        if story.alarm().is_some() {
            story.wake();
        }
        if let Some(Work::Ship { cycle, .. }) = story.vm.work() {
            let cut = story.told.iter().flat_map(|(_, _, events)| events).any(
                |event| matches!(event, Event::SnapshotTaken { cycle: cut, .. } if *cut == cycle),
            );
            assert!(cut, "cycle {cycle} is sent but was never cut");
        }
        story.work_off();
        assert_eq!(cycles(&story).len(), before.len() + 1, "{}", story.transcript);
        assert!(story.alarm().is_some(), "{}", story.transcript);
    }
}

/// A failed check of an unplanned failover that had taken the place of a planned one used to leave
/// the VM in the planned failover without a job; and where the disks were already served at the
/// recovery site, back in its protected state without another delta.
#[test]
fn an_unplanned_failover_that_replaced_a_planned_one_and_fails_its_check_goes_back_to_deltas() {
    for given in [Story::protected_with_points(2), Story::shipping()] {
        for step in PLANNED_STEPS {
            let mut story = given.clone();
            story.tell(planned());
            story.until_step(|current| current == step);
            story.tell(unplanned(PointChoice::Latest));
            story.fail(check_failed());
            assert_eq!(story.vm.phase, Phase::Protected, "after {step:?}");
            assert_eq!(story.vm.failover, None, "after {step:?}");
            expect_deltas_to_go_on(story);
        }
    }
}

#[test]
fn a_planned_failover_that_fails_its_check_resumes_the_delta_in_flight() {
    let mut story = Story::shipping();
    let shipping = story.vm.pending();
    story.tell(planned());
    story.fail(check_failed());
    assert_eq!(story.vm.phase, Phase::Protected);
    assert_eq!(story.vm.pending(), shipping);
    expect_deltas_to_go_on(story);
}

#[test]
fn an_unplanned_failover_that_fails_its_check_resumes_what_it_interrupted() {
    let mut story = Story::shipping();
    story.tell(unplanned(PointChoice::Latest));
    story.fail(check_failed());
    assert_eq!(story.vm.phase, Phase::Protected);
    expect_deltas_to_go_on(story);

    let mut story = Story::resynchronizing();
    story.until_step(|step| matches!(step, Step::CompareDisk(_)));
    let phase = story.vm.phase.clone();
    story.tell(unplanned(PointChoice::Latest));
    story.fail(check_failed());
    assert_eq!(story.vm.phase, phase);
    let kind = story.vm.job.as_ref().map(|job| job.kind);
    assert_eq!(kind, Some(JobKind::ResynchronizeDifferences));
    story.work_off();
    expect_deltas_to_go_on(story);
}

#[test]
fn a_commit_that_fails_its_check_can_be_asked_for_again() {
    let mut story = Story::protected();
    story.tell(planned());
    story.work_off();
    story.tell(commit());
    story.fail(check_failed());
    assert_eq!(story.vm.phase, Phase::CommitPending(FailoverKind::Planned));
    story.tell(commit());
    story.work_off();
    assert_eq!(story.vm.phase, Phase::FailedOver(FailoverKind::Planned));
}

#[test]
fn a_delta_that_arrives_after_a_planned_failover_began_is_counted_once() {
    let mut story = Story::shipping();
    let late = story.success().expect("a delta is being sent");
    story.tell(planned());
    assert_eq!(story.tell(late.clone()), []);
    story.work_off();
    assert_eq!(cycles(&story), [1, 2, 3]);
    assert_eq!(story.tell(late), []);
    assert_eq!(story.vm.failover.map(|failover| failover.point.cycle), Some(3));
}

/// Fencing used to let go of points past their retention, the chosen one among them; the failover
/// then ended without a point, in no state that anything could leave.
#[test]
fn a_failover_keeps_the_point_that_was_chosen_however_old_it_is() {
    let mut story = Story::protected_with_points(3);
    story.wait(Duration::from_hours(3));
    story.tell(unplanned(PointChoice::Cycle(1)));
    story.work_off();
    assert_eq!(story.vm.phase, Phase::CommitPending(FailoverKind::Unplanned));
    assert_eq!(story.vm.failover.map(|failover| failover.point.cycle), Some(1));
    assert_eq!(cycles(&story), [1, 2, 3]);
}

#[test]
fn points_found_by_fencing_are_used_by_latest_and_only_kept_by_a_chosen_older_one() {
    for (choice, used) in [(PointChoice::Latest, 7), (PointChoice::Cycle(2), 2)] {
        let mut story = Story::protected_with_points(3);
        story.tell(unplanned(choice));
        story.until_step(|step| step == Step::FenceSource);
        let Some(Work::Task { job, task, .. }) = story.vm.work() else { unreachable!() };
        // Known, repeated and out of order: what a listing of the vault can give.
        let found = vec![point(7), point(3), point(4), point(4)];
        let outcome = Outcome::Fenced { found };
        let events = story.tell(Command::ReportDone { job, task, outcome });
        let shipped: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::LogShipped { point } => Some(point.cycle),
                _ => None,
            })
            .collect();
        assert_eq!(shipped, [4, 7]);
        assert_eq!(cycles(&story), [1, 2, 3, 4, 7]);
        assert_eq!(story.vm.delta.cycle, 8);
        assert_eq!(story.vm.epoch, 2);
        story.work_off();
        assert_eq!(story.vm.failover.map(|failover| failover.point.cycle), Some(used));
        story.tell(commit());
        story.work_off();
        assert_eq!(cycles(&story), [used]);
    }
}

#[test]
fn what_is_known_of_the_source_is_recorded_and_shown_until_the_failover_is_undone() {
    let silent = Failure::new(Code::HostLost, Cause::Host(host()), "").with("host", "host-1");
    let unsent = link_down();
    let ends = [
        (SourceEnd::ShutDown, None, "was shut down"),
        (
            SourceEnd::SwitchedOff,
            Some(unsent.clone()),
            "power was cut; what it wrote last could not",
        ),
        (SourceEnd::OutOfReach(silent), Some(unsent), "may run on, and is turned off once"),
    ];
    for (source, unsent, words) in ends {
        let mut story = Story::protected_with_points(3);
        story.tell(synchronized());
        assert!(story.vm.synchronizes);
        story.until_step(|step| step == Step::FenceSource);
        let Some(Work::Task { job, task, .. }) = story.vm.work() else { unreachable!() };
        let at = story.now;
        let outcome =
            Outcome::SourceFenced { found: vec![point(4)], source: source.clone(), unsent };
        story.tell(Command::ReportDone { job, task, outcome });
        let ended = story.vm.source_ended.clone().expect("it is recorded");
        assert_eq!((ended.at, &ended.how), (at, &source));
        assert!(ended.to_string().contains(words), "{ended}");
        story.work_off();
        assert_eq!(story.vm.failover.map(|failover| failover.point.cycle), Some(4));
        assert!(story.vm.source_ended.is_some());
        let first = story.vm.failover.expect("it was failed over");
        story.wait(Duration::from_hours(1));
        let mut changed = story.clone();
        changed.tell(change_point(PointChoice::Cycle(2)));
        changed.work_off();
        let then = changed.vm.failover.expect("it runs from another point");
        assert_eq!((then.point.cycle, then.asked_at), (2, first.asked_at));
        assert_eq!(
            (then.first_started_at, first.first_started_at),
            (first.started_at, first.started_at)
        );
        assert!(first.started_at < then.started_at);
        assert_eq!(changed.vm.source_ended.as_ref(), Some(&ended), "it is off as it was");
        changed.tell(commit());
        changed.work_off();
        assert_eq!(changed.vm.source_ended, Some(ended));
        for mut story in [story, changed] {
            if story.try_tell(cancel_failover()).is_err() {
                continue;
            }
            story.work_off();
            assert_eq!(story.vm.source_ended, None, "it runs again");
        }
    }
}

/// The logs of a VM that is not in step make no recovery point: there is nothing to send.
#[test]
fn only_a_vm_that_is_in_step_is_synchronized_by_its_failover() {
    let paused = |mut story: Story| {
        story.tell(Command::PauseReplication);
        story
    };
    let growing = |mut story: Story| {
        story.tell(super::story::resize(1 << 20));
        story
    };
    for (mut story, sends) in [
        (Story::protected(), true),
        (Story::shipping(), true),
        (paused(Story::protected()), true),
        (Story::resynchronizing(), false),
        (growing(Story::protected()), false),
    ] {
        story.tell(synchronized());
        assert_eq!(story.vm.synchronizes, sends, "{}", story.transcript);
        story.work_off();
        assert!(matches!(story.vm.phase, Phase::CommitPending(FailoverKind::Unplanned)));
        // The next failover is asked anew.
        story.tell(change_point(PointChoice::Cycle(1)));
        assert!(!story.vm.synchronizes);
    }
}

/// A report without what the task must bring used to complete it: a failover went on unfenced.
#[test]
fn a_task_is_not_done_without_what_it_must_bring() {
    let refused = |mut story: Story, outcomes: &[Outcome]| {
        for outcome in outcomes {
            let Some(Work::Task { job, task, .. }) = story.vm.work() else { unreachable!() };
            let before = story.vm.clone();
            let outcome = outcome.clone();
            let answer = story.try_tell(Command::ReportDone { job, task, outcome });
            assert!(matches!(answer, Err(Rejection::OutOfRange { .. })), "{answer:?}");
            assert_eq!(story.vm, before);
        }
    };
    let mut fencing = Story::protected();
    fencing.tell(unplanned(PointChoice::Latest));
    fencing.succeed();
    refused(fencing, &[Outcome::Done, Outcome::Shipped { points: vec![point(9)] }]);

    let mut applying = Story::in_initial_replication();
    let other = Outcome::Copied { disk: super::story::disk_id(7), bytes: 1 };
    refused(applying.clone(), &[Outcome::Done, other]);
    applying.until_step(|step| step == Step::ApplyTrackedChanges);
    refused(applying, &[Outcome::Done, Outcome::Shipped { points: vec![] }]);

    let mut preparing = Story::protected();
    preparing.tell(planned());
    preparing.until_step(|step| step == Step::PrepareForFailover);
    refused(preparing, &[Outcome::Done]);
}

#[test]
fn a_planned_failover_without_a_last_change_runs_from_the_latest_point() {
    let mut story = Story::protected();
    story.tell(planned());
    story.until_step(|step| step == Step::PrepareForFailover);
    let Some(Work::Task { job, task, .. }) = story.vm.work() else { unreachable!() };
    let outcome = Outcome::Fenced { found: vec![] };
    story.tell(Command::ReportDone { job, task, outcome });
    story.work_off();
    assert_eq!(story.vm.failover.map(|failover| failover.point.cycle), Some(1));
}

#[test]
fn every_failover_closes_the_replica_to_the_primary_site() {
    for failover in [planned(), unplanned(PointChoice::Latest)] {
        let mut story = Story::protected();
        let before = story.vm.epoch;
        story.tell(failover);
        story.work_off();
        assert!(matches!(story.vm.phase, Phase::CommitPending(_)));
        assert_eq!(story.vm.epoch, before + 1);
    }
}

/// Logs of builds that did not close the replica in a planned failover mean what they meant.
#[test]
fn a_planned_failover_that_only_sent_the_last_log_goes_on() {
    let mut story = Story::protected();
    story.tell(planned());
    story.until_step(|step| step == Step::PrepareForFailover);
    let Some(Work::Task { job, task, .. }) = story.vm.work() else { unreachable!() };
    let points = vec![RecoveryPoint { cycle: story.vm.delta.cycle, at: story.now, bytes: 1 }];
    story.tell(Command::ReportDone { job, task, outcome: Outcome::Shipped { points } });
    story.work_off();
    assert_eq!(story.vm.phase, Phase::CommitPending(FailoverKind::Planned));
}

/// The fence may be up on some disks already: what goes on is written under an epoch that it lets pass.
#[test]
fn a_failover_cancelled_while_it_closes_the_replica_goes_on_in_the_epoch_of_the_fence() {
    let closing = [
        (planned(), Step::PrepareForFailover),
        (unplanned(PointChoice::Latest), Step::FenceSource),
    ];
    for (failover, step) in closing {
        let mut story = Story::protected();
        let before = story.vm.epoch;
        story.tell(failover);
        story.until_step(|at| at == step);
        story.tell(cancel_failover());
        assert_eq!(story.vm.epoch, before + 1);
        story.work_off();
        assert_eq!(story.vm.phase, Phase::Protected);
    }
    let mut story = Story::ready_to_fail_back();
    let before = story.vm.epoch;
    story.tell(complete_failback());
    story.until_step(|at| at == Step::FenceReplica);
    story.tell(Command::CancelFailback);
    assert_eq!(story.vm.epoch, before + 1);
}

#[test]
fn a_planned_failover_forgets_the_point_that_an_earlier_attempt_had_chosen() {
    let mut story = Story::protected_with_points(3);
    story.tell(unplanned(PointChoice::Cycle(1)));
    story.fail(check_failed());
    story.tell(planned());
    story.work_off();
    assert_eq!(story.vm.failover.map(|failover| failover.point.cycle), Some(4));
}

#[test]
fn nothing_of_the_primary_site_goes_on_after_a_failover() {
    for command in [planned(), unplanned(PointChoice::Latest)] {
        let mut story = Story::shipping();
        story.tell(command);
        story.work_off();
        assert_eq!(story.vm.delta.stage, Stage::Off);
        assert_eq!(story.vm.pending(), [Effect::RunReplica]);
    }
}

/// The source is off since the failover. A loss of tracking there used to make the VM a protected one of the
/// primary site while its replica ran.
#[test]
fn tracking_lost_while_another_point_is_chosen_changes_nothing() {
    let mut story = Story::protected_with_points(2);
    let lost = story.tracking_lost();
    story.tell(planned());
    story.work_off();
    story.tell(change_point(PointChoice::Cycle(1)));
    while let Some(success) = story.success() {
        assert_eq!(story.tell(lost.clone()), [], "{}", story.transcript);
        assert!(!story.vm.needs_disks_of_source(), "{}", story.transcript);
        story.tell(success);
    }
    assert_eq!(story.vm.phase, Phase::CommitPending(FailoverKind::Planned));
}

#[test]
fn tracking_lost_while_a_plan_holds_the_start_changes_nothing() {
    let mut story = Story::protected();
    story.tell(Command::HoldStart { plan: PlanId::default() });
    story.tell(planned());
    story.work_off();
    assert!(story.vm.waits_for_plan(), "{}", story.transcript);
    assert_eq!(story.tell(story.tracking_lost()), []);
}

#[test]
fn an_unknown_point_cannot_be_chosen() {
    let mut story = Story::protected();
    let answer = story.try_tell(unplanned(PointChoice::Cycle(99)));
    assert!(matches!(answer, Err(Rejection::Unknown { what: "recovery point", .. })));
}

#[test]
fn a_failover_tells_what_was_lost() {
    let mut story = Story::protected();
    let point = story.vm.latest_point().expect("a protected VM has a point");
    story.wait(Duration::from_secs(42));
    let asked_at = story.now;
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    let failover = story.vm.failover.expect("it failed over");
    assert_eq!((failover.point, failover.asked_at), (point, asked_at));
    assert_eq!(failover.started_at, Some(story.now));
}
