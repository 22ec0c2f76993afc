//! Jobs: an operation on a VM as a list of tasks, done one after the other.
//!
//! Kinds and task names are those that Site Recovery reports (recorded from its API) where it has
//! them; the names of the tasks of unplanned failover, resynchronization and commit are ours.

use super::id::{DiskId, JobId};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobKind {
    /// Checks the VM, prepares the vault and starts tracking.
    EnableProtection,
    /// Copies the disks while the VM runs.
    InitialReplication,
    /// Proves the replica and starts deltas.
    FinalizeProtection,
    /// Copies the disks again, for a replica that cannot be relied on.
    Resynchronize,
    /// Moves the VM to the recovery site without loss.
    PlannedFailover,
    /// Starts the VM at the recovery site from a recovery point.
    UnplannedFailover,
    /// Makes a failover final.
    CommitFailover,
    /// Brings a replica that lost track back into step: only what differs is sent.
    ResynchronizeDifferences,
    /// Starts a copy of the VM from a recovery point, in a network apart.
    TestFailover,
    /// Deletes the copy that a test made.
    TestFailoverCleanup,
    /// Runs a failed-over VM from another recovery point.
    ChangeRecoveryPoint,
    /// Undoes a failover that is not committed.
    CancelFailover,
    /// Brings the primary site into step with a VM that runs at the recovery site.
    Failback,
    /// Moves the VM back to the primary site.
    CompleteFailback,
    /// Makes a failback final.
    CommitFailback,
    /// Replicates a VM that was failed back.
    ReverseReplicate,
    /// Goes on with replication where it was, after a failover that was cancelled.
    ResumeReplication,
    /// Ends protection.
    DisableProtection,
    /// Ends the protection of a VM whose host does not answer.
    RemoveProtection,
    /// Makes a disk larger while the VM runs and is replicated.
    ResizeDisk,
    /// Gives the VM another disk while it runs and is replicated.
    AddDisk,
    /// Ends the protection of a VM that runs at the recovery site, where it stays.
    DisableAtRecovery,
}

impl JobKind {
    /// The scenario name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EnableProtection => "EnableDr",
            Self::InitialReplication => "InitialReplication",
            Self::FinalizeProtection => "EnableProtection",
            Self::Resynchronize | Self::ResynchronizeDifferences => "RepairReplication",
            Self::PlannedFailover => "PlannedFailover",
            Self::UnplannedFailover => "UnplannedFailover",
            Self::CommitFailover => "CommitFailover",
            Self::TestFailover => "TestFailover",
            Self::TestFailoverCleanup => "TestFailoverCleanup",
            Self::ChangeRecoveryPoint => "ApplyRecoveryPoint",
            Self::CancelFailover => "FailoverCancel",
            Self::Failback => "Failback",
            Self::CompleteFailback => "CompleteFailback",
            Self::CommitFailback => "CommitFailback",
            Self::ReverseReplicate => "ReprotectReplicationGroup",
            Self::ResumeReplication => "ResumeReplication",
            Self::DisableProtection => "DisableDr",
            Self::RemoveProtection => "RemoveDr",
            Self::DisableAtRecovery => "DisableDrAtRecovery",
            Self::ResizeDisk => "ResizeDisk",
            Self::AddDisk => "AddDisks",
        }
    }

    /// Whether it ends with the start of a VM at the recovery site, which a plan can hold.
    pub const fn fails_over(self) -> bool {
        matches!(
            self,
            Self::PlannedFailover
                | Self::UnplannedFailover
                | Self::ChangeRecoveryPoint
                | Self::TestFailover
        )
    }

    /// Whether it leaves the VM with other disks, or sizes of them.
    pub const fn changes_disks(self) -> bool {
        matches!(self, Self::ResizeDisk | Self::AddDisk)
    }

    /// What people read.
    pub const fn title(self) -> &'static str {
        match self {
            Self::EnableProtection => "Enable replication",
            Self::InitialReplication => "Initial replication",
            Self::FinalizeProtection => "Finalize protection on the virtual machine",
            Self::Resynchronize => "Resynchronize by a full copy",
            Self::ResynchronizeDifferences => "Resynchronize",
            Self::PlannedFailover => "Planned failover",
            Self::UnplannedFailover => "Unplanned failover",
            Self::CommitFailover | Self::CommitFailback => "Commit",
            Self::TestFailover => "Test failover",
            Self::TestFailoverCleanup => "Clean up test failover",
            Self::ChangeRecoveryPoint => "Change recovery point",
            Self::CancelFailover => "Cancel failover",
            Self::Failback => "Synchronize for failback",
            Self::CompleteFailback => "Complete failback",
            Self::ReverseReplicate => "Reverse replication",
            Self::ResumeReplication => "Resume replication",
            Self::DisableProtection => "Disable replication and remove",
            Self::RemoveProtection => "Remove",
            Self::ResizeDisk => "Resize a disk",
            Self::AddDisk => "Add a disk",
            Self::DisableAtRecovery => "Disable replication at the recovery site",
        }
    }

    /// The tasks of a job on a VM with these disks, or on these disks of it, in order.
    pub fn steps(self, disks: &[DiskId]) -> Vec<Step> {
        let copies = disks.iter().copied().map(Step::CopyDisk);
        let restores = disks.iter().copied().map(Step::RestoreDisk);
        match self {
            Self::EnableProtection => vec![
                Step::CheckEnableProtection,
                Step::IdentifyTarget,
                Step::EnableReplication,
                Step::StartInitialReplication,
                Step::UpdateProviderState,
            ],
            Self::InitialReplication => {
                copies.chain([Step::CompleteCopy, Step::ApplyTrackedChanges]).collect()
            }
            Self::FinalizeProtection => vec![Step::VerifyReplica, Step::UpdateProviderState],
            Self::Resynchronize => [Step::RestartTracking]
                .into_iter()
                .chain(copies)
                .chain([Step::CompleteCopy, Step::ApplyTrackedChanges, Step::VerifyReplica])
                .collect(),
            Self::ResynchronizeDifferences => [Step::RestartTracking]
                .into_iter()
                .chain(disks.iter().copied().map(Step::CompareDisk))
                .chain([Step::ApplyTrackedChanges, Step::VerifyReplica])
                .collect(),
            Self::PlannedFailover => vec![
                Step::CheckPlannedFailover,
                Step::ShutDownSource,
                Step::PrepareForFailover,
                Step::StartFailover,
                Step::StartReplica,
            ],
            Self::UnplannedFailover => vec![
                Step::CheckUnplannedFailover,
                Step::FenceSource,
                Step::StartFailover,
                Step::StartReplica,
            ],
            Self::CommitFailover => vec![Step::CheckCommit, Step::DropOtherPoints],
            Self::TestFailover => {
                vec![Step::CheckTestFailover, Step::PrepareTest, Step::StartTest]
            }
            Self::TestFailoverCleanup => vec![Step::StopTest, Step::DeleteTest],
            Self::ChangeRecoveryPoint => vec![
                Step::CheckUnplannedFailover,
                Step::ShutDownReplica,
                Step::DeleteReplicaDisks,
                Step::StartFailover,
                Step::StartReplica,
            ],
            Self::CancelFailover => {
                vec![Step::ShutDownReplica, Step::DeleteReplicaDisks, Step::StartSource]
            }
            Self::Failback => [Step::CheckFailback, Step::RestartTracking]
                .into_iter()
                .chain(disks.iter().copied().map(Step::CompareDisk))
                .chain([Step::ApplyTrackedChanges, Step::AttachSource])
                .chain(restores)
                .collect(),
            Self::CompleteFailback => [Step::CheckFailback, Step::ApplyTrackedChanges]
                .into_iter()
                .chain([Step::AttachSource])
                .chain(restores.clone())
                .chain([Step::ShutDownReplica, Step::PrepareForFailover, Step::FenceReplica])
                .chain(restores)
                .chain([Step::TrackRestored, Step::StartSource])
                .collect(),
            Self::CommitFailback => vec![Step::DeleteReplicaDisks],
            Self::ReverseReplicate => {
                vec![Step::CheckReverseReplicate, Step::ApplyTrackedChanges, Step::VerifyReplica]
            }
            Self::ResumeReplication => vec![Step::ApplyTrackedChanges, Step::VerifyReplica],
            Self::DisableProtection => vec![Step::StopTracking, Step::DeleteReplica],
            Self::RemoveProtection => vec![Step::DeleteReplica],
            Self::DisableAtRecovery => [Step::CheckDisable]
                .into_iter()
                .chain(disks.iter().copied().map(Step::DownloadDisk))
                .chain([Step::LeaveVault, Step::DeleteReplica])
                .collect(),
            // What was written before is sent first: a point has one size of each disk.
            Self::ResizeDisk => [Step::CheckResize, Step::SendBeforeResize]
                .into_iter()
                .chain(disks.iter().copied().flat_map(|disk| {
                    [Step::GrowDisk(disk), Step::OfferGrownDisk(disk), Step::CompareDisk(disk)]
                }))
                .chain([Step::ApplyTrackedChanges, Step::VerifyReplica])
                .collect(),
            // A point has one set of disks.
            Self::AddDisk => [Step::CheckAddDisk, Step::SendBeforeResize]
                .into_iter()
                .chain(
                    disks
                        .iter()
                        .copied()
                        .flat_map(|disk| [Step::OfferAddedDisk(disk), Step::CompareDisk(disk)]),
                )
                .chain([Step::ApplyTrackedChanges, Step::VerifyReplica])
                .collect(),
        }
    }
}

/// What one task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// Checks that the VM and its disks can be protected.
    CheckEnableProtection,
    /// Checks that the vault answers.
    IdentifyTarget,
    /// Starts tracking the VM's writes.
    EnableReplication,
    /// Lets the initial replication begin.
    StartInitialReplication,
    /// Records the result at the provider.
    UpdateProviderState,
    /// Starts a chain of logs from nothing.
    RestartTracking,
    /// Copies one disk to the vault, holes skipped.
    CopyDisk(DiskId),
    /// Declares the copy of all disks complete in the vault.
    CompleteCopy,
    /// Sends what was written during the copy; makes the first recovery point.
    ApplyTrackedChanges,
    /// Proves that the latest recovery point can be read.
    VerifyReplica,
    /// Checks that a planned failover can start.
    CheckPlannedFailover,
    /// Shuts the source VM down.
    ShutDownSource,
    /// Sends the last log; proves that all that was tracked has arrived.
    PrepareForFailover,
    /// Checks that an unplanned failover can start.
    CheckUnplannedFailover,
    /// Closes the replica to the primary site.
    FenceSource,
    /// Serves the disks of the recovery point at the recovery site.
    StartFailover,
    /// Starts the replica VM.
    StartReplica,
    /// Checks that the failover can be committed.
    CheckCommit,
    /// Deletes all other recovery points.
    DropOtherPoints,
    /// Compares one disk with its replica, by checksums, and sends what differs.
    CompareDisk(DiskId),
    /// Checks that a test failover can start.
    CheckTestFailover,
    /// Serves the disks of the recovery point for a test.
    PrepareTest,
    /// Starts the copy of the VM.
    StartTest,
    /// Stops the copy of the VM.
    StopTest,
    /// Deletes what the test wrote.
    DeleteTest,
    /// Shuts the replica VM down.
    ShutDownReplica,
    /// Stops serving the replica VM's disks and deletes what was written to them.
    DeleteReplicaDisks,
    /// Starts the VM at the primary site.
    StartSource,
    /// Checks that the VM can be brought back to the primary site.
    CheckFailback,
    /// Attaches the disks of the primary site.
    AttachSource,
    /// Brings one disk at the primary site to the latest recovery point.
    RestoreDisk(DiskId),
    /// Closes the replica to the recovery site.
    FenceReplica,
    /// Starts tracking at the primary site, on disks that are in step.
    TrackRestored,
    /// Checks that replication can go on from the primary site.
    CheckReverseReplicate,
    /// Ends tracking.
    StopTracking,
    /// Deletes the replica from the vault.
    DeleteReplica,
    /// Checks that a disk can be made larger.
    CheckResize,
    /// Makes the file of one disk longer.
    GrowDisk(DiskId),
    /// Tracks what was added to one disk, and offers it to the VM.
    OfferGrownDisk(DiskId),
    /// Sends what was written before a disk grows, or is added.
    SendBeforeResize,
    /// Checks that a disk can be added.
    CheckAddDisk,
    /// Tracks a disk that is added, and offers it to the VM.
    OfferAddedDisk(DiskId),
    /// Checks that protection can be ended at the recovery site.
    CheckDisable,
    /// Brings what of one disk is in the vault only to the recovery site.
    DownloadDisk(DiskId),
    /// Has the VM at the recovery site go on with nothing but its own disks.
    LeaveVault,
}

impl Step {
    /// The task's name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CheckEnableProtection => "EnableProtectionPrerequisitesCheck",
            Self::IdentifyTarget => "CreateProtectionTarget",
            Self::EnableReplication => "EnableProtection",
            Self::StartInitialReplication => "VmStartInitialReplication",
            Self::UpdateProviderState => "UpdateDraState",
            Self::RestartTracking => "VmRestartTracking",
            Self::CopyDisk(_) => "VmCopyDisk",
            Self::CompleteCopy => "VmCompleteCopy",
            Self::ApplyTrackedChanges => "VmApplyTrackedChanges",
            Self::VerifyReplica => "VmVerifyReplica",
            Self::CheckPlannedFailover => "VmPfoPrerequisitesCheck",
            Self::ShutDownSource => "VmShutdownVmOnPrimary",
            Self::PrepareForFailover => "VmPrepareForFailover",
            Self::CheckUnplannedFailover => "VmUfoPrerequisitesCheck",
            Self::FenceSource => "VmFencePrimary",
            Self::StartFailover => "VmFailover",
            Self::StartReplica => "VmFoStartVmOnSecondary",
            Self::CheckCommit => "VmCommitPrerequisitesCheck",
            Self::DropOtherPoints => "VmCommitFailover",
            Self::CompareDisk(_) => "VmCompareDisk",
            Self::CheckTestFailover => "VmTfoPrerequisitesCheck",
            Self::PrepareTest => "VmTfoPrepareTestVm",
            Self::StartTest => "VmTfoBootTestVm",
            Self::StopTest => "VmTfoEndFailover",
            Self::DeleteTest => "VmTfoDeleteTestVm",
            Self::ShutDownReplica => "VmShutdownVmOnSecondary",
            Self::DeleteReplicaDisks => "VmDeleteReplicaDisks",
            Self::StartSource => "VmStartVmOnPrimary",
            Self::CheckFailback => "VmFailbackPrerequisitesCheck",
            Self::AttachSource => "VmAttachDisks",
            Self::RestoreDisk(_) => "VmRestoreDisk",
            Self::FenceReplica => "VmFenceSecondary",
            Self::TrackRestored => "VmTrackRestoredDisks",
            Self::CheckReverseReplicate => "VmReversePrerequisitesCheck",
            Self::StopTracking => "VmStopTracking",
            Self::DeleteReplica => "VmDeleteReplica",
            Self::CheckResize => "VmResizePrerequisitesCheck",
            Self::GrowDisk(_) => "VmGrowDisk",
            Self::OfferGrownDisk(_) => "VmOfferGrownDisk",
            Self::SendBeforeResize => "VmSendBeforeResize",
            Self::CheckAddDisk => "VmAddDiskPrerequisitesCheck",
            Self::OfferAddedDisk(_) => "VmOfferAddedDisk",
            Self::CheckDisable => "VmDisablePrerequisitesCheck",
            Self::DownloadDisk(_) => "VmDownloadDisk",
            Self::LeaveVault => "VmLeaveVault",
        }
    }

    /// What people read.
    pub const fn title(self) -> &'static str {
        match self {
            Self::CheckEnableProtection => "Prerequisites check for enabling protection",
            Self::IdentifyTarget => "Identifying the replication target",
            Self::EnableReplication => "Enable replication",
            Self::StartInitialReplication => "Starting initial replication",
            Self::UpdateProviderState => "Updating the provider states",
            Self::RestartTracking => "Restarting change tracking",
            Self::CopyDisk(_) => "Copying a disk",
            Self::CompleteCopy => "Completing the copy",
            Self::ApplyTrackedChanges => "Applying the changes made during the copy",
            Self::VerifyReplica => "Verifying the replica",
            Self::CheckPlannedFailover => "Prerequisites check for planned failover",
            Self::ShutDownSource => "Shut down the virtual machine",
            Self::PrepareForFailover => "Preparing for failover",
            Self::CheckUnplannedFailover => "Prerequisites check for unplanned failover",
            Self::FenceSource => "Closing the replica to the primary site",
            Self::StartFailover => "Start failover",
            Self::StartReplica => "Start the replica virtual machine",
            Self::CheckCommit => "Prerequisites check for commit",
            Self::DropOtherPoints => "Deleting the other recovery points",
            Self::CompareDisk(_) => "Comparing a disk with its replica",
            Self::CheckTestFailover => "Prerequisites check for test failover",
            Self::PrepareTest => "Creating the test virtual machine",
            Self::StartTest => "Start the test virtual machine",
            Self::StopTest => "Stop the test virtual machine",
            Self::DeleteTest => "Deleting the test virtual machine",
            Self::ShutDownReplica => "Shut down the replica virtual machine",
            Self::DeleteReplicaDisks => "Deleting the replica virtual machine's disks",
            Self::StartSource => "Start the virtual machine at the primary site",
            Self::CheckFailback => "Prerequisites check for failback",
            Self::AttachSource => "Attaching the disks of the primary site",
            Self::RestoreDisk(_) => "Synchronizing a disk of the primary site",
            Self::FenceReplica => "Closing the replica to the recovery site",
            Self::TrackRestored => "Starting change tracking at the primary site",
            Self::CheckReverseReplicate => "Prerequisites check for reverse replication",
            Self::StopTracking => "Stopping change tracking",
            Self::DeleteReplica => "Deleting the replica",
            Self::CheckResize => "Prerequisites check for resizing a disk",
            Self::GrowDisk(_) => "Growing the disk",
            Self::OfferGrownDisk(_) => "Tracking and offering what was added",
            Self::SendBeforeResize => "Sending what was written before",
            Self::CheckAddDisk => "Prerequisites check for adding a disk",
            Self::OfferAddedDisk(_) => "Tracking and offering the disk",
            Self::CheckDisable => "Prerequisites check for disabling protection",
            Self::DownloadDisk(_) => "Downloading what of a disk is in the vault only",
            Self::LeaveVault => "Going on without the vault",
        }
    }

    /// Whether the task reads the disks of the side that is replicated, or their logs.
    pub const fn is_at_source(self) -> bool {
        matches!(
            self,
            Self::RestartTracking
                | Self::CompareDisk(_)
                | Self::ApplyTrackedChanges
                | Self::PrepareForFailover
        )
    }

    /// Whether the task only looks: a job whose check fails ends, and nothing was changed.
    pub const fn is_check(self) -> bool {
        matches!(
            self,
            Self::CheckEnableProtection
                | Self::CheckPlannedFailover
                | Self::CheckUnplannedFailover
                | Self::CheckCommit
                | Self::CheckTestFailover
                | Self::CheckFailback
                | Self::CheckReverseReplicate
                | Self::CheckResize
                | Self::CheckAddDisk
                | Self::CheckDisable
        )
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    /// Its turn has not come.
    NotStarted,
    /// It is being done, or waits to be tried again.
    InProgress,
    /// It is done.
    Completed,
    /// It ended without being done.
    Failed,
}

/// One task of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What it does.
    pub step: Step,
    /// Where it stands.
    pub state: TaskState,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Bytes done and bytes to do, for a task that moves data.
    pub progress: Option<(u64, u64)>,
}

impl Task {
    /// Bytes that are dealt with, of a task that deals with `all` bytes of a disk.
    pub fn done_bytes(&self, all: u64) -> u64 {
        match (self.state, self.progress) {
            (TaskState::Completed, _) => all,
            (_, Some((done, _))) => done,
            (_, None) => 0,
        }
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobOutcome {
    /// Every task was done.
    Completed,
    /// A task failed for good.
    Failed,
    /// Another job took its place.
    Cancelled,
}

/// A job of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its identity; the correlation id of everything that it causes.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Its tasks, in order.
    pub tasks: Vec<Task>,
    /// When it started.
    pub started_at: Timestamp,
    /// When and how it ended.
    pub ended: Option<(Timestamp, JobOutcome)>,
}

impl Job {
    /// A job whose tasks have not started.
    pub fn new(id: JobId, kind: JobKind, disks: &[DiskId], started_at: Timestamp) -> Self {
        let tasks = kind
            .steps(disks)
            .into_iter()
            .map(|step| Task {
                step,
                state: TaskState::NotStarted,
                started_at: None,
                ended_at: None,
                progress: None,
            })
            .collect();
        Self { id, kind, tasks, started_at, ended: None }
    }

    /// The task in progress, with its index.
    pub fn current(&self) -> Option<(u32, &Task)> {
        if self.ended.is_some() {
            return None;
        }
        let index = self.tasks.iter().position(|task| task.state == TaskState::InProgress)?;
        Some((index as u32, &self.tasks[index]))
    }
}
