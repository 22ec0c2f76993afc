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
        }
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
            Self::CommitFailover => "Commit",
        }
    }

    /// The tasks of a job on a VM with these disks, in order.
    pub fn steps(self, disks: &[DiskId]) -> Vec<Step> {
        let copies = disks.iter().copied().map(Step::CopyDisk);
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
        }
    }

    /// Whether the task only looks: a job whose check fails ends, and nothing was changed.
    pub const fn is_check(self) -> bool {
        matches!(
            self,
            Self::CheckEnableProtection
                | Self::CheckPlannedFailover
                | Self::CheckUnplannedFailover
                | Self::CheckCommit
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
