//! Whole lives, told as given / when / then / do: which task follows, which facts, which work.

use super::story::{
    Story, check_failed, commit, credentials_refused, enable, link_down, planned, unplanned, vault,
};
use lifeboat::domain::failure::Cause;
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::{Command, PointChoice, RetryReason};

#[track_caller]
fn check(story: &Story, expected: &str) {
    assert_eq!(story.transcript, expected, "the story went so:\n{}", story.transcript);
}

#[test]
fn a_vm_becomes_protected_and_sends_its_first_delta() {
    let mut story = Story::discovered(2);
    story.transcript_from_here();
    story.tell(enable());
    story.work_off();
    story.wake();
    story.work_off();
    check(&story, BECOMES_PROTECTED);
}

const BECOMES_PROTECTED: &str = "\
when EnableProtection
  then ProtectionEnabled
  then JobStarted EnableProtection
  then TaskStarted CheckEnableProtection
    do CheckEnableProtection
when ReportDone
  then TaskCompleted CheckEnableProtection
  then TaskStarted IdentifyTarget
    do IdentifyTarget
when ReportDone
  then TaskCompleted IdentifyTarget
  then TaskStarted EnableReplication
    do EnableReplication
when ReportDone
  then TrackingStarted from 1
  then TaskCompleted EnableReplication
  then TaskStarted StartInitialReplication
    do StartInitialReplication
when ReportDone
  then TaskCompleted StartInitialReplication
  then TaskStarted UpdateProviderState
    do UpdateProviderState
when ReportDone
  then TaskCompleted UpdateProviderState
  then JobEnded Completed
  then JobStarted InitialReplication
  then TaskStarted CopyDisk
    do CopyDisk
    do WatchTracking from 1
when ReportDone
  then DiskCopied
  then TaskCompleted CopyDisk
  then TaskStarted CopyDisk
    do CopyDisk
    do WatchTracking from 1
when ReportDone
  then DiskCopied
  then TaskCompleted CopyDisk
  then TaskStarted CompleteCopy
    do CompleteCopy
    do WatchTracking from 1
when ReportDone
  then TaskCompleted CompleteCopy
  then TaskStarted ApplyTrackedChanges
    do ApplyTrackedChanges
    do WatchTracking from 1
when ReportDone
  then LogShipped 1
  then TaskCompleted ApplyTrackedChanges
  then JobEnded Completed
  then JobStarted FinalizeProtection
  then TaskStarted VerifyReplica
    do VerifyReplica
    do WatchTracking from 1
when ReportDone
  then TaskCompleted VerifyReplica
  then TaskStarted UpdateProviderState
    do UpdateProviderState
    do WatchTracking from 1
when ReportDone
  then TaskCompleted UpdateProviderState
  then JobEnded Completed
  then Protected
    do WakeAt 309s for Cycle(2)
    do WatchTracking from 1
when Wake
  then CycleStarted 2
    do Snapshot 2
    do WatchTracking from 1
when ReportSnapshot
  then SnapshotTaken 2
    do Ship 2
    do WatchTracking from 1
when ReportShipped
  then LogShipped 2
    do WakeAt 609s for Cycle(3)
    do WatchTracking from 1
";

#[test]
fn a_planned_failover_in_the_middle_of_a_delta_loses_nothing_and_is_committed() {
    let mut story = Story::shipping();
    story.transcript_from_here();
    story.tell(planned());
    story.work_off();
    story.tell(commit());
    story.work_off();
    check(&story, PLANNED_FAILOVER);
}

const PLANNED_FAILOVER: &str = "\
when PlannedFailover
  then JobStarted PlannedFailover
  then TaskStarted CheckPlannedFailover
    do CheckPlannedFailover
    do WatchTracking from 1
when ReportDone
  then TaskCompleted CheckPlannedFailover
  then TaskStarted ShutDownSource
    do ShutDownSource
    do WatchTracking from 1
when ReportDone
  then SourceShutDown
  then TaskCompleted ShutDownSource
  then TaskStarted PrepareForFailover
    do PrepareForFailover
    do WatchTracking from 1
when ReportDone
  then LogShipped 2
  then LogShipped 3
  then SourceFenced epoch 2
  then TaskCompleted PrepareForFailover
  then TaskStarted StartFailover
    do StartFailover
    do WatchTracking from 1
when ReportDone
  then FailedOver Planned at 3
  then TaskCompleted StartFailover
  then TaskStarted StartReplica
    do StartReplica
    do WatchTracking from 1
when ReportDone
  then TaskCompleted StartReplica
  then JobEnded Completed
  then ReplicaStarted
    do RunReplica
when CommitFailover
  then JobStarted CommitFailover
  then TaskStarted CheckCommit
    do CheckCommit
    do RunReplica
when ReportDone
  then TaskCompleted CheckCommit
  then TaskStarted DropOtherPoints
    do DropOtherPoints
    do RunReplica
when ReportDone
  then TaskCompleted DropOtherPoints
  then JobEnded Completed
  then FailoverCommitted
    do RunReplica
";

#[test]
fn an_unplanned_failover_fences_the_source_and_runs_from_the_chosen_point() {
    let mut story = Story::protected_with_points(3);
    story.transcript_from_here();
    story.tell(unplanned(PointChoice::Cycle(2)));
    story.work_off();
    story.tell(commit());
    story.work_off();
    check(&story, UNPLANNED_FAILOVER);
}

const UNPLANNED_FAILOVER: &str = "\
when UnplannedFailover
  then FailoverRequested Cycle(2)
  then JobStarted UnplannedFailover
  then TaskStarted CheckUnplannedFailover
    do CheckUnplannedFailover
when ReportDone
  then TaskCompleted CheckUnplannedFailover
  then TaskStarted FenceSource
    do FenceSource
when ReportDone
  then SourceEnded ShutDown
  then SourceFenced epoch 2
  then TaskCompleted FenceSource
  then TaskStarted StartFailover
    do StartFailover
when ReportDone
  then FailedOver Unplanned at 2
  then TaskCompleted StartFailover
  then TaskStarted StartReplica
    do StartReplica
when ReportDone
  then TaskCompleted StartReplica
  then JobEnded Completed
  then ReplicaStarted
    do RunReplica
when CommitFailover
  then JobStarted CommitFailover
  then TaskStarted CheckCommit
    do CheckCommit
    do RunReplica
when ReportDone
  then TaskCompleted CheckCommit
  then TaskStarted DropOtherPoints
    do DropOtherPoints
    do RunReplica
when ReportDone
  then TaskCompleted DropOtherPoints
  then JobEnded Completed
  then FailoverCommitted
    do RunReplica
";

#[test]
fn a_vm_that_lost_track_is_resynchronized_and_goes_on_with_deltas() {
    let mut story = Story::shipping();
    story.transcript_from_here();
    story.tell(story.tracking_lost());
    story.work_off();
    check(&story, RESYNCHRONIZATION);
}

const RESYNCHRONIZATION: &str = "\
when ReportTrackingLost
  then MarkedForResync PowerLoss
  then JobStarted ResynchronizeDifferences
  then TaskStarted RestartTracking
    do RestartTracking
    do WatchTracking from 1
when ReportDone
  then TrackingStarted from 5
  then TaskCompleted RestartTracking
  then TaskStarted CompareDisk
    do CompareDisk
    do WatchTracking from 5
when ReportDone
  then DiskCompared
  then TaskCompleted CompareDisk
  then TaskStarted ApplyTrackedChanges
    do ApplyTrackedChanges
    do WatchTracking from 5
when ReportDone
  then LogShipped 5
  then TaskCompleted ApplyTrackedChanges
  then TaskStarted VerifyReplica
    do VerifyReplica
    do WatchTracking from 5
when ReportDone
  then TaskCompleted VerifyReplica
  then JobEnded Completed
  then Protected
    do WakeAt 612s for Cycle(6)
    do WatchTracking from 5
";

#[test]
fn a_link_that_fails_and_comes_back_and_credentials_that_are_renewed() {
    let mut story = Story::shipping();
    story.transcript_from_here();
    story.fail(link_down());
    story.wake();
    story.fail(link_down());
    story.tell(Command::Retry { because: RetryReason::CauseEnded(Cause::Vault(vault())) });
    story.fail(credentials_refused());
    story.tell(Command::Retry { because: RetryReason::Administrator });
    story.succeed();
    check(&story, RETRIES);
}

const RETRIES: &str = "\
when ReportFailure
  then RetryScheduled attempt 1, due at 369s
    do WakeAt 369s for Retry(1)
    do AwaitVault
    do WatchTracking from 1
when Wake
  then RetryStarted after attempt 1, as due
    do Ship 2
    do WatchTracking from 1
when ReportFailure
  then RetryScheduled attempt 2, due at 429s
    do WakeAt 429s for Retry(2)
    do AwaitVault
    do WatchTracking from 1
when Retry
  then RetryStarted after attempt 2, CauseEnded
    do Ship 2
    do WatchTracking from 1
when ReportFailure
  then AdministratorNeeded
    do WatchTracking from 1
when Retry
  then RetryStarted after attempt 3, Administrator
    do Ship 2
    do WatchTracking from 1
when ReportShipped
  then LogShipped 2
    do WakeAt 608s for Cycle(3)
    do WatchTracking from 1
";

#[test]
fn an_unplanned_failover_of_a_resynchronizing_vm_that_fails_its_check() {
    let mut story = Story::resynchronizing();
    story.until_step(|step| matches!(step, Step::CompareDisk(_)));
    story.transcript_from_here();
    story.tell(unplanned(PointChoice::Latest));
    story.fail(check_failed());
    check(&story, FAILED_CHECK);
}

const FAILED_CHECK: &str = "\
when UnplannedFailover
  then JobEnded Cancelled
  then FailoverRequested Latest
  then JobStarted UnplannedFailover
  then TaskStarted CheckUnplannedFailover
    do CheckUnplannedFailover
when ReportFailure
  then TaskFailed CheckUnplannedFailover
  then JobEnded Failed
  then JobStarted ResynchronizeDifferences
  then TaskStarted RestartTracking
    do RestartTracking
    do WatchTracking from 5
";
