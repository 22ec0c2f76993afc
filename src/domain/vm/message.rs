//! What a VM can be told, what can become true of it, and the work that its state can call for.

use super::{
    AfterFailover, Disk, FailoverKind, Opening, PointChoice, RecoveryPoint, ResyncReason,
    ResyncWindow, SourceEnd, StatisticsSchedule,
};
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::{CloudId, DiskId, HostId, JobId, PlanId, VaultId, VmId};
use crate::domain::job::{JobKind, JobOutcome, Step};
use crate::domain::machine::Machine;
use crate::domain::placement::{Placement, Target};
use crate::domain::policy::Policy;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What a VM can be told: by an operator, by its cloud, or by the work done for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The inventory of a host found the VM.
    Discover {
        /// Its identity.
        id: VmId,
        /// Its name.
        name: String,
        /// Where it runs.
        host: HostId,
        /// The cloud of that host.
        cloud: CloudId,
        /// Its disks.
        disks: Vec<Disk>,
    },
    /// Protect it in a vault.
    EnableProtection {
        /// The id of the job that this starts.
        job: JobId,
        /// Where its replica goes.
        vault: VaultId,
        /// How it is replicated.
        policy: Policy,
    },
    /// Replicate by another policy from the next delta on.
    ChangePolicy {
        /// The policy.
        policy: Policy,
    },
    /// Move it to the recovery site without loss.
    PlannedFailover {
        /// The id of the job that this starts.
        job: JobId,
    },
    /// Start it at the recovery site from a recovery point.
    UnplannedFailover {
        /// The id of the job that this starts.
        job: JobId,
        /// From which point.
        point: PointChoice,
    },
    /// Make the failover final.
    CommitFailover {
        /// The id of the job that this starts.
        job: JobId,
    },
    /// Try failed work again.
    Retry {
        /// Why it may work this time.
        because: RetryReason,
    },
    /// A moment that the VM waited for has come. The timer says so, not the wall clock, which may
    /// have been set back since.
    Wake {
        /// The moment.
        due: Timestamp,
        /// What it waited for.
        wake: Wake,
    },
    /// A task is done.
    ReportDone {
        /// Its job.
        job: JobId,
        /// Its index in the job.
        task: u32,
        /// What came of it.
        outcome: Outcome,
    },
    /// A task has moved data.
    ReportProgress {
        /// Its job.
        job: JobId,
        /// Its index in the job.
        task: u32,
        /// Bytes dealt with.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// The logs of all disks were cut.
    ReportSnapshot {
        /// Of which cycle.
        cycle: u64,
        /// At which instant.
        at: Timestamp,
        /// Bytes in the logs that were cut.
        log_bytes: u64,
    },
    /// A delta is committed in the vault, and so is its recovery point.
    ReportShipped {
        /// Of which cycle.
        cycle: u64,
        /// Bytes stored in the vault.
        shipped_bytes: u64,
    },
    /// Work failed.
    ReportFailure {
        /// Which work.
        work: Work,
        /// How.
        failure: Failure,
    },
    /// The tracker lost track of the disks' changes.
    ReportTrackingLost {
        /// Of the chain of logs that begins with this cycle; an earlier chain's loss is dealt with.
        first_cycle: u64,
        /// Why.
        reason: ResyncReason,
    },
    /// Resynchronize it at once: it is marked and waits, or its replica is damaged.
    Resynchronize {
        /// The id of the job that this starts.
        job: JobId,
    },
    /// Begin resynchronizations by themselves only then.
    ChangeResyncWindow {
        /// When.
        window: ResyncWindow,
    },
    /// The logs of all disks were cut, and the guest was to be quiesced meanwhile.
    ReportQuiescedSnapshot {
        /// Of which cycle.
        cycle: u64,
        /// At which instant.
        at: Timestamp,
        /// Bytes in the logs that were cut.
        log_bytes: u64,
        /// Why it was not, if it was not.
        missed: Option<Failure>,
    },
    /// A pass over the replica's space in the vault ended.
    ReportSpace {
        /// Why nothing could be freed, if so.
        failure: Option<Failure>,
    },
    /// Start a copy of it from a recovery point, in a network apart. Replication goes on.
    TestFailover {
        /// The id of the job that this starts.
        job: JobId,
        /// From which point.
        point: PointChoice,
        /// The name of the network.
        network: String,
        /// Hours until it is cleaned up by itself: 1 to 336.
        lease_h: u32,
    },
    /// End the test and delete its copy.
    CleanUpTestFailover {
        /// The id of the job that this starts.
        job: JobId,
        /// What the tester wants to be kept of it.
        notes: String,
    },
    /// Run from another recovery point, before the failover is committed.
    ChangeRecoveryPoint {
        /// The id of the job that this starts.
        job: JobId,
        /// From which point.
        point: PointChoice,
    },
    /// Undo a failover that is not committed: the VM goes on at the primary site, from where it was
    /// there. What the replica wrote is lost.
    CancelFailover {
        /// The id of the job that this starts.
        job: JobId,
    },
    /// Commit the failover, or cancel it, at this moment, unless somebody has done either by then.
    DecideFailover {
        /// When.
        due: Timestamp,
        /// Which.
        then: AfterFailover,
    },
    /// Bring the primary site's disks to what the VM wrote at the recovery site, while it runs there.
    Failback {
        /// The id of the job that this starts.
        job: JobId,
        /// Download everything, instead of what differs.
        in_full: bool,
    },
    /// Move the VM back to the primary site, without loss: its disks there are in step.
    CompleteFailback {
        /// The id of the job that this starts.
        job: JobId,
    },
    /// Give a failback up: the VM stays at the recovery site.
    CancelFailback,
    /// Replicate the VM from the primary site again, after a failback that is committed.
    ReverseReplicate {
        /// The id of the job that this starts.
        job: JobId,
    },
    /// End protection. A VM that runs at the recovery site stays there, on disks of its own.
    DisableProtection {
        /// The id of the job that this starts.
        job: JobId,
        /// Its host does not answer, and is left as it is. At the recovery site it is asked for nothing anyway.
        source_gone: bool,
    },
    /// Send nothing until told to; writes are tracked.
    PauseReplication,
    /// Go on with replication.
    ResumeReplication,
    /// Make a recovery point at once.
    TakeRecoveryPoint {
        /// With the guest brought to rest.
        application_consistent: bool,
    },
    /// Let the next failover, or test failover, wait before its VM starts: a recovery plan says when.
    HoldStart {
        /// Which plan.
        plan: PlanId,
    },
    /// Let the VM start that waits for it.
    ReleaseStart,
    /// Give the running job up. The VM is as well protected as before.
    CancelJob {
        /// Which.
        job: JobId,
    },
    /// Measure replication in these intervals.
    ChangeStatisticsSchedule {
        /// When they begin, and how long they are.
        schedule: StatisticsSchedule,
    },
    /// This is what it is.
    Describe {
        /// Its description.
        machine: Machine,
    },
    /// Have its replica placed so.
    ChangeTarget {
        /// What was chosen.
        target: Target,
    },
    /// It runs on another host of its cluster.
    ReportMoved {
        /// Which.
        host: HostId,
    },
    /// Make a disk larger while it runs; only what is added has to be sent.
    ResizeDisk {
        /// The id of the job that this starts.
        job: JobId,
        /// Which disk.
        disk: DiskId,
        /// Its size then.
        size_bytes: u64,
    },
    /// Bring it back to this host of the primary site, where its disks are made if they are not there: the
    /// host that it came from may be gone for ever.
    FailbackToHost {
        /// The id of the job that this starts.
        job: JobId,
        /// Download everything, instead of what differs.
        in_full: bool,
        /// Which host.
        host: HostId,
        /// The cloud of that host.
        cloud: CloudId,
    },
    /// It is off at a host that a failback brought it away from.
    ReportLeft {
        /// Which.
        host: HostId,
    },
    /// Give it another disk while it runs; only that has to be sent.
    AddDisk {
        /// The id of the job that this starts.
        job: JobId,
        /// The disk.
        disk: Disk,
        /// The path of its image at the primary site.
        image: String,
    },
    /// As [`Command::UnplannedFailover`] from the latest point. Before its replica is closed, the source is shut down and
    /// what it wrote is sent, as far as host and link answer; where they do not, it goes on without.
    SynchronizeAndFailOver {
        /// The id of the job that this starts.
        job: JobId,
    },
    /// As [`Command::EnableProtection`], with tracking and the copy beginning at a set time, a day from now at most.
    EnableProtectionAt {
        /// The id of the job that this starts.
        job: JobId,
        /// Where its replica goes.
        vault: VaultId,
        /// How it is replicated.
        policy: Policy,
        /// When the initial replication begins; at once, where that has passed.
        due: Timestamp,
    },
    /// The configuration has this window: it counts where the configuration is another one than before. A window that
    /// somebody gave the VM since stays.
    ConfigureResyncWindow {
        /// When resynchronizations begin by themselves.
        window: ResyncWindow,
    },
    /// The volume of its replication logs was looked at.
    ReportLogVolume {
        /// What it lacks, if it is short of space.
        short: Option<Failure>,
    },
    /// Let the next failover, whose start is held, wait for that plan also once its source was shut down.
    HoldFailover,
    /// Let the failover go on that waits after its source was shut down. Its start stays held.
    ReleaseFailover,
    /// Fail over unplanned, in the place of a planned failover that a recovery plan holds: its host may be lost. What is
    /// held stays so.
    ReplaceFailover {
        /// The id of the job that this starts.
        job: JobId,
        /// From which recovery point.
        point: PointChoice,
        /// Whether what the source wrote last is sent first, if it can be.
        synchronize: bool,
    },
}

impl Command {
    /// The same once more, as another job; `None` for a command that starts none.
    #[must_use]
    pub fn as_job(&self, id: JobId) -> Option<Self> {
        let mut again = self.clone();
        let (Self::EnableProtection { job, .. }
        | Self::PlannedFailover { job }
        | Self::UnplannedFailover { job, .. }
        | Self::CommitFailover { job }
        | Self::Resynchronize { job }
        | Self::TestFailover { job, .. }
        | Self::CleanUpTestFailover { job, .. }
        | Self::ChangeRecoveryPoint { job, .. }
        | Self::CancelFailover { job }
        | Self::Failback { job, .. }
        | Self::CompleteFailback { job }
        | Self::ReverseReplicate { job }
        | Self::DisableProtection { job, .. }
        | Self::ResizeDisk { job, .. }
        | Self::FailbackToHost { job, .. }
        | Self::AddDisk { job, .. }
        | Self::SynchronizeAndFailOver { job }
        | Self::EnableProtectionAt { job, .. }) = &mut again
        else {
            return None;
        };
        *job = id;
        Some(again)
    }
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing but that it is done.
    Done,
    /// A disk was copied.
    Copied {
        /// Which.
        disk: DiskId,
        /// Bytes that were sent.
        bytes: u64,
    },
    /// Deltas were sent; the recovery points that they made.
    Shipped {
        /// In the order of their cycles.
        points: Vec<RecoveryPoint>,
    },
    /// The replica is closed to who wrote to it before.
    Fenced {
        /// Recovery points that were complete in the vault but not yet recorded.
        found: Vec<RecoveryPoint>,
    },
    /// A disk was compared with its replica, and what differed was sent.
    Compared {
        /// Which.
        disk: DiskId,
        /// Bytes of the disk that were compared.
        compared_bytes: u64,
        /// Bytes of them that differed.
        different_bytes: u64,
    },
    /// A disk at the primary site was brought to a recovery point.
    Restored {
        /// Which.
        disk: DiskId,
        /// Bytes of the disk that were looked at.
        compared_bytes: u64,
        /// Bytes of them that differed and were written.
        different_bytes: u64,
    },
    /// The check was passed, and the replica has its place at the recovery site.
    Placed {
        /// Its place.
        placement: Placement,
    },
    /// The replica is closed to the primary site, by an unplanned failover.
    SourceFenced {
        /// Recovery points that were complete in the vault but not yet recorded.
        found: Vec<RecoveryPoint>,
        /// How the source was ended.
        source: SourceEnd,
        /// Why what it wrote last could not be sent, where that was asked for.
        unsent: Option<Failure>,
    },
}

/// Why failed work may succeed before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetryReason {
    /// The cause of the failure ended.
    CauseEnded(Cause),
    /// An administrator asked for it.
    Administrator,
}

/// What a timer was set for. A timer whose wake does not fit the state any more does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Wake {
    /// The next delta is due.
    Cycle(u64),
    /// The next attempt is due.
    Retry(u32),
    /// The window of resynchronizations opens.
    Resync,
    /// The lease of a test failover ends.
    TestLease,
    /// A failover is to be decided.
    Decision,
    /// The initial replication begins.
    InitialReplication,
}

/// One piece of work of a VM. At most one is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Work {
    /// A task of the running job.
    Task {
        /// The job.
        job: JobId,
        /// The task's index.
        task: u32,
        /// What it does.
        step: Step,
    },
    /// Cutting the logs of all disks at one instant.
    Snapshot {
        /// For which cycle.
        cycle: u64,
    },
    /// Sending the logs that were cut.
    Ship {
        /// Of which cycle.
        cycle: u64,
        /// When they were cut.
        snapshot_at: Timestamp,
    },
}

impl Work {
    /// Whether it starts the copy of a test.
    pub(super) const fn starts_test(&self) -> bool {
        matches!(self, Self::Task { step: Step::StartTest, .. })
    }
}

/// The work that a VM's state can call for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Do it and report.
    Do(Work),
    /// Watch the tracker and report if it loses, or has lost, track of the chain of logs that begins
    /// with this cycle, for as long as this is called for.
    WatchTracking {
        /// The chain's first cycle.
        first_cycle: u64,
    },
    /// Keep the replica VM running at the recovery site, for as long as this is called for.
    RunReplica,
    /// Turn the VM off at a host that a failback brought it away from, as soon as that answers, and report it.
    KeepOff {
        /// Which.
        host: HostId,
    },
    /// Free, again and again, what recovery points that were let go took in the vault, and report
    /// what changes.
    ReclaimSpace,
    /// Send [`Command::Wake`] at `due`. Being early is harmless, staying away is not: where the wall
    /// clock was set back, the time that really passed counts.
    WakeAt {
        /// When.
        due: Timestamp,
        /// With what.
        wake: Wake,
    },
    /// Try again and again to reach the vault from where the failed work is done, and report
    /// [`RetryReason::CauseEnded`] once it answers.
    AwaitVault {
        /// Which.
        vault: VaultId,
    },
}

/// What can become true of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It exists.
    Discovered {
        /// Its identity.
        id: VmId,
        /// Its name.
        name: String,
        /// Where it runs.
        host: HostId,
        /// The cloud of that host.
        cloud: CloudId,
        /// Its disks.
        disks: Vec<Disk>,
    },
    /// A job began.
    JobStarted {
        /// Its id.
        job: JobId,
        /// What it does.
        kind: JobKind,
    },
    /// A task began.
    TaskStarted {
        /// Its job.
        job: JobId,
        /// Its index.
        task: u32,
    },
    /// A task has moved data.
    TaskProgressed {
        /// Its job.
        job: JobId,
        /// Its index.
        task: u32,
        /// Bytes dealt with.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// A task is done.
    TaskCompleted {
        /// Its job.
        job: JobId,
        /// Its index.
        task: u32,
    },
    /// A task ended without being done.
    TaskFailed {
        /// Its job.
        job: JobId,
        /// Its index.
        task: u32,
        /// Why.
        failure: Failure,
    },
    /// A job ended.
    JobEnded {
        /// Its id.
        job: JobId,
        /// How.
        outcome: JobOutcome,
    },
    /// It is to be replicated into a vault.
    ProtectionEnabled {
        /// Which vault.
        vault: VaultId,
        /// By which policy.
        policy: Policy,
    },
    /// Its writes are tracked in a chain of logs that starts here.
    TrackingStarted {
        /// The cycle before which nothing of this chain can have been sent.
        first_cycle: u64,
    },
    /// A disk was copied to the vault.
    DiskCopied {
        /// Which.
        disk: DiskId,
        /// Bytes that were sent.
        bytes: u64,
    },
    /// The policy changed.
    PolicyChanged {
        /// To this.
        policy: Policy,
    },
    /// Replication reached its steady state: deltas at the policy's frequency.
    Protected,
    /// A delta began.
    CycleStarted {
        /// Its number.
        cycle: u64,
    },
    /// The logs of all disks were cut at one instant.
    SnapshotTaken {
        /// Of which cycle.
        cycle: u64,
        /// At which instant.
        at: Timestamp,
        /// Bytes in the logs.
        log_bytes: u64,
    },
    /// A delta is in the vault, and with it a recovery point.
    LogShipped {
        /// The point.
        point: RecoveryPoint,
    },
    /// Recovery points of cycles before this one are past their retention.
    RecoveryPointsExpired {
        /// The oldest cycle that is kept.
        kept_from_cycle: u64,
    },
    /// What differs between disks and replica is unknown; all of it must be brought into step.
    MarkedForResync {
        /// Why.
        reason: ResyncReason,
    },
    /// Work failed and will be tried again.
    RetryScheduled {
        /// Which work.
        work: Work,
        /// How many attempts have failed.
        attempt: u32,
        /// When the next is due.
        due: Timestamp,
        /// The failure.
        because: Failure,
    },
    /// Another attempt began.
    RetryStarted {
        /// How many attempts had failed before.
        attempt: u32,
        /// Why before its time; `None` if it was due.
        early: Option<RetryReason>,
    },
    /// Work failed and waits for an administrator.
    AdministratorNeeded {
        /// Which work.
        work: Work,
        /// The failure.
        because: Failure,
    },
    /// A failover from this recovery point was asked for.
    FailoverRequested {
        /// Which point.
        point: PointChoice,
    },
    /// The source VM was shut down by Lifeboat.
    SourceShutDown,
    /// The replica takes nothing more from who wrote to it before. Where a job was cancelled that was about to
    /// see to that: it may take nothing more.
    SourceFenced {
        /// The epoch that is written under from here on.
        epoch: u64,
    },
    /// The disks of this recovery point are served at the recovery site.
    FailedOver {
        /// How it came to this.
        kind: FailoverKind,
        /// The point.
        point: RecoveryPoint,
    },
    /// The replica VM runs.
    ReplicaStarted,
    /// The failover is final; only its own recovery point is left.
    FailoverCommitted,
    /// When resynchronizations begin by themselves changed.
    ResyncWindowChanged {
        /// To this.
        window: ResyncWindow,
    },
    /// A marked VM waits for its resynchronization.
    ResyncScheduled {
        /// When it begins.
        opening: Opening,
    },
    /// A disk was compared with its replica, and what differed is in the vault.
    DiskCompared {
        /// Which.
        disk: DiskId,
        /// Bytes of the disk that were compared.
        compared_bytes: u64,
        /// Bytes of them that differed; the others were found equal.
        different_bytes: u64,
    },
    /// Recovery points of cycles before this one cannot be relied on: the replica that they stand on was
    /// suspect and has been replaced by another copy.
    RecoveryPointsDropped {
        /// The oldest cycle that is kept.
        kept_from_cycle: u64,
        /// What was wrong.
        because: ResyncReason,
    },
    /// Recovery points were let go since fewer are kept the older they are.
    RecoveryPointsThinned {
        /// Their cycles, ascending.
        cycles: Vec<u64>,
    },
    /// The guest is to be quiesced while the logs of a cycle are cut.
    ApplicationConsistencyRequested {
        /// Which cycle.
        cycle: u64,
    },
    /// The guest was quiesced while the logs were cut: its applications had put their data in order.
    ApplicationConsistent {
        /// Of which cycle.
        cycle: u64,
    },
    /// The guest was not quiesced: the cycle's recovery point is crash-consistent.
    ApplicationConsistencyMissed {
        /// Which cycle.
        cycle: u64,
        /// Why.
        because: Failure,
    },
    /// What let go points took in the vault cannot be freed.
    SpaceNotReclaimed {
        /// Why.
        because: Failure,
    },
    /// It can be freed again.
    SpaceReclaimed,
    /// A test failover was asked for.
    TestFailoverRequested {
        /// From which point.
        point: RecoveryPoint,
        /// In which network.
        network: String,
        /// When it is cleaned up by itself.
        lease_ends: Timestamp,
    },
    /// The copy of the test runs.
    TestStarted,
    /// The test is to be cleaned up, or its clean-up is tried again.
    TestCleanUpRequested {
        /// What its tester said.
        notes: String,
    },
    /// The test could not be cleaned up, which is tried again.
    TestCleanUpPutOff {
        /// When.
        due: Timestamp,
        /// Why.
        because: Failure,
    },
    /// The test is over and its copy deleted.
    TestCleanedUp {
        /// What its tester said.
        notes: String,
    },
    /// The replica VM was shut down by Lifeboat.
    ReplicaShutDown,
    /// The failover is undone.
    FailoverCancelled,
    /// The failover is to be decided by then.
    FailoverDecisionScheduled {
        /// When.
        due: Timestamp,
        /// How.
        then: AfterFailover,
    },
    /// A failback was asked for.
    FailbackRequested {
        /// By downloading everything.
        in_full: bool,
    },
    /// A disk at the primary site was brought to a recovery point.
    DiskRestored {
        /// Which.
        disk: DiskId,
        /// Bytes of the disk that were looked at.
        compared_bytes: u64,
        /// Bytes of them that differed and were written.
        different_bytes: u64,
    },
    /// All disks at the primary site are what they are in this point.
    DisksRestored {
        /// The point.
        point: RecoveryPoint,
    },
    /// The primary site is in step with the replica VM, which runs and is replicated.
    FailbackReady,
    /// The failback is given up.
    FailbackCancelled,
    /// Writes are tracked at the primary site again, on disks that are in step.
    RestoredTracked {
        /// The cycle before which nothing of this chain can have been sent.
        first_cycle: u64,
    },
    /// The VM runs at the primary site again.
    FailedBack,
    /// The failback is final.
    FailbackCommitted,
    /// Tracking was lost while nothing was being replicated.
    TrackingLost {
        /// Why.
        reason: ResyncReason,
    },
    /// It is not protected any more.
    ProtectionDisabled,
    /// Nothing is sent until somebody resumes it.
    ReplicationPaused,
    /// Replication goes on.
    ReplicationResumed,
    /// The VM of the next failover waits before it starts.
    StartHeld {
        /// For which plan.
        plan: PlanId,
    },
    /// It may start.
    StartReleased,
    /// The intervals in which replication is measured changed.
    StatisticsScheduleChanged {
        /// To these.
        schedule: StatisticsSchedule,
    },
    /// This is what it is.
    Described {
        /// Its description.
        machine: Machine,
    },
    /// Its replica is to be placed so.
    TargetChanged {
        /// What was chosen.
        target: Target,
    },
    /// The replica of the running failover has its place.
    ReplicaPlaced {
        /// Its place.
        placement: Placement,
    },
    /// The copy of the test has its place.
    TestPlaced {
        /// Its place.
        placement: Placement,
    },
    /// It runs on another host.
    Moved {
        /// Which.
        host: HostId,
    },
    /// A disk is to be made larger.
    DiskResizeRequested {
        /// Which disk.
        disk: DiskId,
        /// Its size then.
        size_bytes: u64,
    },
    /// A disk has another size: in recovery points from here on, and in no earlier one.
    DiskResized {
        /// Which disk.
        disk: DiskId,
        /// Its size.
        size_bytes: u64,
    },
    /// The failback brings it to this host, and leaves the one that it came from as it is.
    FailbackHostChosen {
        /// Which host.
        host: HostId,
    },
    /// It is off at a host that a failback brought it away from.
    HostLeft {
        /// Which.
        host: HostId,
    },
    /// The failback brings it into these networks of the primary site.
    SourcePlaced {
        /// Its place there.
        placement: Placement,
    },
    /// A disk is to be added.
    DiskAddRequested {
        /// The disk.
        disk: Disk,
        /// The path of its image at the primary site.
        image: String,
    },
    /// The disk that was to be added is one of the VM's: in recovery points from here on, and in no earlier one.
    DiskAdded {
        /// Which disk.
        disk: DiskId,
    },
    /// Its disks at the recovery site are whole: it runs there without the vault, and protected no more.
    VaultLeft,
    /// Before its failover closes the replica, what the source wrote last is to be sent.
    SynchronizationRequested,
    /// The source of an unplanned failover was ended, or could not be.
    SourceEnded {
        /// How.
        how: SourceEnd,
        /// Why what it wrote last could not be sent, where that was asked for.
        unsent: Option<Failure>,
    },
    /// The initial replication begins then.
    InitialReplicationScheduled {
        /// When.
        due: Timestamp,
    },
    /// The moment has come.
    InitialReplicationDue,
    /// When resynchronizations begin by themselves is what the configuration says.
    ResyncWindowConfigured {
        /// This.
        window: ResyncWindow,
    },
    /// The volume of its replication logs is short of space.
    LogVolumeLow {
        /// What it lacks.
        because: Failure,
    },
    /// It has room again.
    LogVolumeFreed,
    /// The next failover waits for the plan that holds its start also once its source was shut down.
    FailoverHeld,
    /// It goes on from there.
    FailoverReleased,
}
