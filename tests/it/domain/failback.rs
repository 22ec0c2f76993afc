//! Cancelling a failover, choosing another point, and the way back to the primary site.

use super::story::{
    Story, cancel_failover, change_point, check_failed, commit, complete_failback, disable,
    failback, failback_to_host, host, job_id, link_down, other_host, planned, reverse, unplanned,
    vault,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::CloudId;
use lifeboat::domain::job::{JobKind, JobOutcome, Step};
use lifeboat::domain::vm::{
    AfterFailover, Command, Effect, Event, Health, Phase, PointChoice, ResyncReason, Side, Stage,
    Wake,
};
use std::time::Duration;

fn kinds(story: &Story) -> Vec<JobKind> {
    let events = story.told.iter().flat_map(|(_, _, events)| events);
    events
        .filter_map(|event| match event {
            Event::JobStarted { kind, .. } => Some(*kind),
            _ => None,
        })
        .collect()
}

fn steps_from(story: &Story, job: JobKind) -> Vec<Step> {
    let job = story.vm.job.as_ref().filter(|own| own.kind == job).expect("it was the last job");
    job.tasks.iter().map(|task| task.step).collect()
}

#[test]
fn a_vm_goes_to_the_recovery_site_and_back_and_is_protected_again() {
    let mut story = Story::failed_over();
    let kept = story.vm.points.clone();
    story.tell(failback());
    assert_eq!((story.vm.source, &story.vm.phase), (Side::Recovery, &Phase::FailingBack));
    story.work_off();
    assert_eq!(story.vm.phase, Phase::FailbackReady);
    let restored = story.vm.failback.as_ref().and_then(|failback| failback.restored);
    assert_eq!(restored, story.vm.latest_point());
    assert!(kept.iter().all(|point| story.vm.points.contains(point)));

    // It is replicated from there until somebody completes it.
    let points = story.vm.points.len();
    story.wake();
    story.work_off();
    assert_eq!(story.vm.points.len(), points + 1);
    assert_eq!(story.vm.health(story.now), Health::Normal);

    story.tell(complete_failback());
    story.until_step(|step| step == Step::ShutDownReplica);
    assert!(!story.vm.pending().contains(&Effect::RunReplica), "it would be started again");
    story.work_off();
    assert_eq!(story.vm.phase, Phase::FailbackCommitPending);
    assert_eq!((story.vm.source, story.vm.epoch), (Side::Primary, 3));
    assert!(story.vm.may_run_at_primary());

    story.tell(commit());
    story.work_off();
    assert_eq!(story.vm.phase, Phase::FailedBack);
    story.tell(reverse());
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);
    assert_eq!(story.vm.failover, None);
    assert!(!kinds(&story).contains(&JobKind::ResynchronizeDifferences), "all was compared again");
    story.wake();
    story.work_off();
    assert_eq!(story.vm.health(story.now), Health::Normal);
}

#[test]
fn the_stop_of_a_failback_sends_fetches_and_fences_before_anything_starts() {
    let story = Story::failed_back();
    let steps = steps_from(&story, JobKind::CompleteFailback);
    let place = |step: Step| steps.iter().rposition(|own| *own == step).expect("it is a step");
    let disk = story.vm.disks[0].id;
    assert!(place(Step::ShutDownReplica) < place(Step::PrepareForFailover));
    assert!(place(Step::PrepareForFailover) < place(Step::FenceReplica));
    assert!(place(Step::FenceReplica) < place(Step::RestoreDisk(disk)));
    assert!(place(Step::RestoreDisk(disk)) < place(Step::TrackRestored));
    assert_eq!(steps.last(), Some(&Step::StartSource));
}

#[test]
fn a_failback_can_be_given_up_until_the_primary_site_is_tracked_again() {
    let mut cancellable = 0;
    let mut story = Story::failed_over();
    story.tell(failback());
    let expect_back = |story: &Story| {
        let mut story = story.clone();
        story.tell(Command::CancelFailback);
        assert!(matches!(story.vm.phase, Phase::FailedOver(_)), "{:?}", story.vm.phase);
        assert!(story.vm.pending().contains(&Effect::RunReplica), "the VM is off");
        // And it can be begun again.
        story.tell(failback());
        story.work_off();
        assert_eq!(story.vm.phase, Phase::FailbackReady);
    };
    loop {
        if story.vm.phase == Phase::FailbackReady && cancellable < 100 {
            expect_back(&story);
            cancellable += 100;
            story.tell(complete_failback());
        }
        if !story.vm.allowed_operations().contains(&"CancelFailback") {
            break;
        }
        expect_back(&story);
        cancellable += 1;
        story.succeed();
    }
    assert_eq!(cancellable, 100 + 6 + 8, "steps at which it was given up");
    let refused = story.try_tell(Command::CancelFailback);
    assert!(matches!(refused, Err(Rejection::NotAllowed { operation: "CancelFailback", .. })));
    story.work_off();
    assert_eq!(story.vm.phase, Phase::FailbackCommitPending);
}

#[test]
fn a_vm_comes_back_to_another_host_and_the_one_that_it_left_is_turned_off_there() {
    let mut story = Story::failed_over();
    story.tell(failback_to_host());
    assert_eq!(story.vm.host, other_host(), "all that is done there is done at that host");
    let keeps_off = |story: &Story, host| story.vm.pending().contains(&Effect::KeepOff { host });
    assert!(keeps_off(&story, host()), "it may come back with the VM running");
    story.work_off();
    story.tell(complete_failback());
    story.work_off();
    story.tell(commit());
    story.work_off();
    story.tell(reverse());
    story.work_off();
    assert_eq!((&story.vm.phase, story.vm.host), (&Phase::Protected, other_host()));
    assert_eq!(story.vm.brought_to, Some(other_host()));
    assert!(keeps_off(&story, host()), "it has not answered yet");
    assert!(!kinds(&story).contains(&JobKind::ResynchronizeDifferences), "all was compared again");

    story.tell(Command::ReportLeft { host: host() });
    assert!(!keeps_off(&story, host()));
    assert_eq!(story.tell(Command::ReportLeft { host: host() }), [], "that is known");
    story.wake();
    story.work_off();
    assert_eq!(story.vm.health(story.now), Health::Normal);
}

#[test]
fn a_failback_to_another_host_that_is_given_up_leaves_the_vm_with_the_host_before() {
    for gives_up_after in 0..6 {
        let mut story = Story::failed_over();
        story.tell(failback_to_host());
        for _ in 0..gives_up_after {
            story.succeed();
        }
        story.tell(Command::CancelFailback);
        assert_eq!((story.vm.host, story.vm.brought_to), (host(), None));
        assert!(story.vm.pending().contains(&Effect::KeepOff { host: host() }));
        // The way back that it had is as it was, and the VM is no more turned off where it comes back to.
        story.tell(failback());
        assert!(story.vm.left.is_empty());
        story.work_off();
        story.tell(complete_failback());
        story.work_off();
        assert_eq!(story.vm.host, host());
        assert!(story.vm.may_run_at_primary());
    }
    let mut story = Story::failed_over();
    story.tell(failback_to_host());
    story.fail(check_failed());
    assert_eq!((story.vm.host, story.vm.brought_to), (host(), None), "its check failed");
}

#[test]
fn a_host_of_another_cloud_is_refused_and_so_is_word_of_a_move_meanwhile() {
    let mut story = Story::failed_over();
    let elsewhere = Command::FailbackToHost {
        job: job_id(15),
        in_full: false,
        host: other_host(),
        cloud: CloudId::default(),
    };
    let refused = story.try_tell(elsewhere);
    assert!(matches!(refused, Err(Rejection::Refused { .. })), "{refused:?}");
    story.tell(failback_to_host());
    assert_eq!(story.tell(Command::ReportMoved { host: host() }), [], "it is not there any more");
}

#[test]
fn a_vm_can_be_brought_back_to_the_host_that_it_left() {
    let mut story = Story::failed_over();
    let there_and_back = |story: &mut Story, begin: Command| {
        story.tell(begin);
        for next in [complete_failback(), commit(), reverse()] {
            story.work_off();
            story.tell(next);
        }
        story.work_off();
        assert_eq!(story.vm.phase, Phase::Protected);
    };
    there_and_back(&mut story, failback_to_host());
    story.tell(planned());
    story.work_off();
    story.tell(commit());
    story.work_off();
    let Command::FailbackToHost { job, in_full, cloud, .. } = failback_to_host() else { return };
    there_and_back(&mut story, Command::FailbackToHost { job, in_full, host: host(), cloud });
    assert_eq!((story.vm.host, story.vm.brought_to), (host(), Some(host())));
    let left: Vec<_> = story.vm.left.iter().copied().collect();
    assert_eq!(left, [other_host()], "only the one that it left last");
}

#[test]
fn a_failback_that_fails_its_check_leaves_the_vm_where_it_was() {
    let mut story = Story::failed_over();
    let before = story.vm.phase.clone();
    story.tell(failback());
    story.fail(check_failed());
    assert_eq!((&story.vm.phase, story.vm.source), (&before, Side::Primary));

    let mut story = Story::ready_to_fail_back();
    story.tell(complete_failback());
    story.fail(check_failed());
    assert_eq!(story.vm.phase, Phase::FailbackReady);
    assert!(matches!(story.vm.delta.stage, Stage::Waiting { .. }));
}

#[test]
fn tracking_that_is_lost_at_the_recovery_site_begins_the_failback_anew() {
    let mut story = Story::ready_to_fail_back();
    story.tell(story.tracking_lost());
    assert_eq!(story.vm.phase, Phase::FailingBack);
    assert_eq!(story.tell(story.tracking_lost()), [], "what it begins with deals with the loss");
    story.work_off();
    assert_eq!(story.vm.phase, Phase::FailbackReady);

    story.tell(complete_failback());
    story.until_step(|step| step == Step::FenceReplica);
    assert_eq!(story.tell(story.tracking_lost()), [], "nothing is written any more");
}

#[test]
fn tracking_that_is_lost_before_the_reversal_is_made_good_by_it() {
    let mut story = Story::failed_back();
    story.tell(story.tracking_lost());
    assert_eq!(story.vm.phase, Phase::FailbackCommitPending);
    assert_eq!(story.vm.health(story.now), Health::Critical);
    story.tell(commit());
    story.work_off();
    story.tell(reverse());
    assert!(matches!(story.vm.phase, Phase::Resynchronizing(_)));
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);
    assert_eq!(story.vm.resync.lost, None);
}

#[test]
fn the_point_that_the_replica_stands_on_is_kept_however_old_it_is() {
    let mut story = Story::ready_to_fail_back();
    let stands_on = story.vm.failover.expect("it failed over").point;
    for _ in 0..10 {
        story.wake();
        story.wait(Duration::from_hours(1));
        story.work_off();
    }
    assert!(story.vm.points.contains(&stands_on));
    assert_eq!(story.vm.failover_point(), Some(stands_on));
}

/// Whoever fails over to a suspect replica goes on with it: the point is kept in the way back, and where
/// that is given up.
#[test]
fn a_point_of_a_suspect_replica_is_kept_once_the_vm_runs_from_it() {
    let mut story = Story::protected();
    let damaged = Failure::new(Code::ReplicaDamaged, Cause::Vault(vault()), "checksum");
    story.wake();
    story.fail(damaged);
    story.tell(Command::Resynchronize { job: job_id(5) });
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    story.tell(commit());
    story.work_off();
    let stands_on = story.vm.failover.expect("it failed over").point;
    story.tell(failback());
    story.work_off();
    assert_eq!(story.vm.phase, Phase::FailbackReady);
    assert!(story.vm.points.contains(&stands_on));
    story.tell(Command::CancelFailback);
    assert!(story.vm.points.contains(&stands_on));
}

#[test]
fn points_made_at_the_recovery_site_become_too_old_like_others() {
    let mut story = Story::ready_to_fail_back();
    let stood_on = story.vm.failover.expect("it failed over").point.cycle;
    for _ in 0..5 {
        story.wake();
        story.wait(story.vm.policy.retention() + Duration::from_secs(1));
        story.work_off();
    }
    let cycles: Vec<_> = story.vm.points.iter().map(|point| point.cycle).collect();
    let newest = story.vm.latest_point().expect("it has points").cycle;
    assert_eq!(cycles, [stood_on, newest]);
}

#[test]
fn a_primary_site_that_is_lost_after_a_failback_can_be_failed_over_again() {
    let mut story = Story::failed_back();
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    assert!(matches!(story.vm.phase, Phase::CommitPending(_)));
    assert_eq!((story.vm.failback.as_ref(), story.vm.epoch), (None, 4));
}

#[test]
fn a_failover_can_be_cancelled_at_every_task_and_leads_back_to_protection() {
    for failover in [planned(), unplanned(PointChoice::Latest)] {
        let mut story = Story::protected_with_points(2);
        story.tell(failover);
        loop {
            let mut cancelled = story.clone();
            cancelled.tell(cancel_failover());
            assert!(!cancelled.vm.may_run_at_primary(), "the replica may still run");
            cancelled.until_step(|step| step == Step::ApplyTrackedChanges);
            assert!(cancelled.vm.may_run_at_primary());
            cancelled.work_off();
            assert_eq!(cancelled.vm.phase, Phase::Protected);
            assert_eq!(cancelled.vm.failover, None);
            cancelled.wake();
            cancelled.work_off();
            if let Phase::CommitPending(_) = story.vm.phase {
                break;
            }
            story.succeed();
        }
    }
}

#[test]
fn a_cancelled_failover_of_a_vm_that_lost_track_goes_on_with_the_resynchronization() {
    let mut story = Story::resynchronizing();
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    story.tell(cancel_failover());
    story.until_step(|step| matches!(step, Step::CompareDisk(_)));
    assert!(matches!(story.vm.phase, Phase::Resynchronizing(_)));
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);
}

/// Random histories found that it went on with logs that were no more, and waited for an administrator for ever.
#[test]
fn a_cancelled_failover_of_a_vm_that_lost_track_after_its_failback_is_followed_by_a_resynchronization()
 {
    let mut story = Story::failed_back();
    story.tell(story.tracking_lost());
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    story.tell(cancel_failover());
    story.until_step(|step| step == Step::RestartTracking);
    assert!(matches!(story.vm.phase, Phase::Resynchronizing(ResyncReason::PowerLoss)));
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);
    assert_eq!(story.vm.resync.lost, None);
}

#[test]
fn a_source_that_cannot_be_started_again_can_be_failed_over_again() {
    let mut story = Story::protected();
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    story.tell(cancel_failover());
    story.until_step(|step| step == Step::StartSource);
    story.fail(link_down());
    story.tell(unplanned(PointChoice::Latest));
    story.fail(check_failed());
    assert_eq!(story.vm.phase, Phase::CancellingFailover, "it goes on where it was");
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    assert!(matches!(story.vm.phase, Phase::CommitPending(_)));
}

#[test]
fn another_point_can_be_chosen_until_the_failover_is_committed() {
    let mut story = Story::protected_with_points(3);
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    let first = story.vm.points[0];
    story.tell(change_point(PointChoice::Cycle(first.cycle)));
    assert!(!story.vm.pending().contains(&Effect::RunReplica));
    story.work_off();
    assert!(matches!(story.vm.phase, Phase::CommitPending(_)));
    assert_eq!(story.vm.failover.map(|failover| failover.point), Some(first));

    // One whose check fails changes nothing.
    story.tell(change_point(PointChoice::Latest));
    story.fail(check_failed());
    assert!(matches!(story.vm.phase, Phase::CommitPending(_)));
    assert_eq!(story.vm.failover_point(), Some(first));

    story.tell(commit());
    story.work_off();
    assert_eq!(*story.vm.points, [first]);
    assert!(story.try_tell(change_point(PointChoice::Latest)).is_err());
}

#[test]
fn a_failover_is_decided_by_itself_if_nobody_does() {
    for (then, ends) in
        [(AfterFailover::Commit, "failover committed"), (AfterFailover::Cancel, "protected")]
    {
        let mut story = Story::protected();
        story.tell(unplanned(PointChoice::Latest));
        let due = story.now.after(Duration::from_hours(2));
        story.tell(Command::DecideFailover { due, then });
        story.work_off();
        let asked = story.vm.pending().contains(&Effect::WakeAt { due, wake: Wake::Decision });
        assert!(asked, "{:?}", story.vm.pending());
        story.wake();
        story.work_off();
        assert_eq!(story.vm.phase.to_string(), ends);
        assert_eq!(story.vm.decision, None);
    }
}

#[test]
fn protection_ends_in_every_state_before_a_failover_and_can_begin_again() {
    let waiting_for_copy = Story::in_initial_replication();
    for mut story in
        [waiting_for_copy, Story::protected(), Story::shipping(), Story::resynchronizing()]
    {
        let cycle = story.vm.delta.cycle;
        story.tell(disable());
        assert!(!story.vm.is_tracked());
        story.work_off();
        assert_eq!((&story.vm.phase, story.vm.points.len()), (&Phase::Unprotected, 0));
        assert_eq!(story.vm.health(story.now), Health::NotApplicable);
        story.tell(super::story::enable());
        story.work_off();
        assert_eq!(story.vm.phase, Phase::Protected);
        assert!(cycle < story.vm.points[0].cycle, "a cycle is used twice");
        assert_ne!(story.vm.delta.generation, 0, "the copy builds on what was deleted");
    }
}

#[test]
fn a_source_that_is_gone_is_left_as_it_is() {
    let mut story = Story::protected();
    story.tell(Command::DisableProtection { job: job_id(13), source_gone: true });
    story.work_off();
    assert_eq!(steps_from(&story, JobKind::RemoveProtection), [Step::DeleteReplica]);
}

#[test]
fn a_job_that_is_cancelled_leaves_the_vm_as_protected_as_before() {
    let cancel = |story: &mut Story| {
        let job = story.vm.job.as_ref().expect("a job runs").id;
        story.tell(Command::CancelJob { job });
    };
    let mut story = Story::in_initial_replication();
    cancel(&mut story);
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Unprotected);

    let mut story = Story::resynchronizing();
    cancel(&mut story);
    assert!(story.vm.allowed_operations().contains(&"RepairReplication"));
    story.tell(Command::Resynchronize { job: job_id(5) });
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);

    let mut story = Story::protected();
    story.tell(planned());
    story.until_step(|step| step == Step::StartReplica);
    cancel(&mut story);
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);

    let mut story = Story::protected();
    story.tell(disable());
    let job = story.vm.job.as_ref().expect("a job runs").id;
    assert!(story.try_tell(Command::CancelJob { job }).is_err(), "it is half done");
    let unknown = story.try_tell(Command::CancelJob { job: job_id(99) });
    assert!(matches!(unknown, Err(Rejection::Unknown { .. })));
    let ended = story.told.iter().flat_map(|(_, _, events)| events).any(|event| {
        matches!(event, Event::JobEnded { outcome: JobOutcome::Cancelled, job: own } if *own == job)
    });
    assert!(!ended);
}

#[test]
fn replication_that_is_paused_sends_nothing_and_goes_on_with_the_same_cycle() {
    let mut story = Story::shipping();
    let cycle = story.vm.delta.cycle;
    story.tell(Command::PauseReplication);
    assert_eq!(story.vm.work(), None);
    assert!(story.vm.is_tracked());
    assert_eq!(story.vm.health(story.now), Health::Warning);
    story.wait(Duration::from_hours(3));
    story.tell(Command::ResumeReplication);
    story.wake();
    assert_eq!(story.vm.delta.cycle, cycle);
    story.work_off();
    assert_eq!(story.vm.latest_point().map(|point| point.cycle), Some(cycle));
}

#[test]
fn a_point_can_be_taken_at_once() {
    let mut story = Story::protected();
    let cycle = story.vm.delta.cycle;
    story.tell(Command::TakeRecoveryPoint { application_consistent: true });
    story.work_off();
    assert!(story.vm.application_consistent.contains(&cycle));
}

#[test]
fn a_volume_of_logs_that_is_short_of_space_is_a_warning_while_writes_are_tracked() {
    let mut story = Story::protected();
    let short = Failure::new(Code::LogVolumeLow, Cause::Host(host()), "1 byte is free");
    let report = |short| Command::ReportLogVolume { short };
    assert_eq!(story.tell(report(None)), []);
    assert_eq!(story.tell(report(Some(short.clone()))).len(), 1);
    assert_eq!(story.tell(report(Some(short.clone()))), [], "only what changes is told");
    let causes = story.vm.health_causes(story.now);
    assert_eq!((causes.len(), causes[0].code), (1, Code::LogVolumeLow));
    assert_eq!(causes[0].level, Health::Warning);
    story.tell(planned());
    story.work_off();
    assert!(story.vm.health_causes(story.now).iter().all(|cause| cause.code != Code::LogVolumeLow));
    story.tell(cancel_failover());
    story.work_off();
    assert_eq!(story.vm.health(story.now), Health::Warning);
    story.tell(report(None));
    assert_eq!(story.vm.health(story.now), Health::Normal);
}

#[test]
fn space_that_could_not_be_freed_is_no_concern_while_nothing_is_to_be_freed() {
    let mut story = Story::failed_over();
    story.tell(Command::ReportSpace { failure: Some(link_down()) });
    assert_eq!(story.vm.health(story.now), Health::Warning);
    story.tell(failback());
    story.work_off();
    assert_eq!(story.vm.health(story.now), Health::Normal);
}
