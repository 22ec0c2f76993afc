//! A protected virtual machine.
//!
//! ```text
//!  Unprotected --EnableProtection--> Enabling --> InitialReplication --> Finalizing --> Protected
//!       ^                                |                |                  |           |    ^
//!       '------- a check failed ---------'                '- tracking lost --+-----------'    |
//!                                                                v                            |
//!                                                         Resynchronizing --------------------'
//!
//!  Protected --PlannedFailover-----> FailingOver --> CommitPending --CommitFailover--> FailedOver
//!  Protected --UnplannedFailover--->      |   ^             ^                              |
//!  Resynchronizing ----"------------------|---'             '------- a check failed -------'
//!  Protected <----- a check failed -------'
//! ```
//!
//! `Resynchronizing` begins with a wait for the [`ResyncWindow`], unless it is open. Nothing is logged
//! meanwhile: logs would only grow, and what differs is found by comparing anyway. A replica that is
//! itself suspect is copied again in full, and only then are older recovery points dropped; else only what
//! differs is sent, and they stay.
//!
//! A failover that is not committed can be cancelled, and before that another point chosen:
//!
//! ```text
//!  FailingOver, CommitPending --CancelFailover--> CancellingFailover --> Finalizing --> Protected
//!  CommitPending --ChangeRecoveryPoint--> FailingOver --> CommitPending
//! ```
//!
//! The way back is [`failback`], the copy for a test is [`test_failover`], a disk that grows is [`resize`], one
//! that is added is [`addition`], and the end of protection is [`ending`].
//!
//! A failed check of a failover leads back to the phase that the first of the failovers left. Tracking
//! that is lost in a planned failover, before the last log has arrived, undoes it: once the VM has been started where
//! its disks are, `Resynchronizing` follows.
//!
//! Work fails in one of two ways: a recoverable failure schedules another attempt of the same work
//! ([`Trouble`], see [`RetryLadder`]); a non-recoverable one waits for an administrator, except that a
//! failed check ends its job and puts the VM back where it was. A VM does one piece of [`Work`] at a
//! time: the running job's task, or else the delta.

mod addition;
mod effects;
mod ending;
mod failback;
mod failover;
mod health;
mod message;
mod operations;
mod points;
mod quiescence;
mod resize;
mod resync;
mod rules;
mod source;
mod statistics;
mod test_failover;
mod window;

pub use addition::AddedDisk;
pub use failback::{AfterFailover, Failback, Whereabouts};
pub use failover::Failover;
pub use health::{Health, HealthCause};
pub use message::{Command, Effect, Event, Outcome, RetryReason, Wake, Work};
pub use points::Points;
pub use quiescence::Quiescence;
pub use resize::{FormerSize, Resize};
pub use resync::Resync;
pub use rules::SCHEDULED_WITHIN;
pub use source::{SourceEnd, SourceEnded};
pub use statistics::{Interval, Statistics, StatisticsSchedule};
pub use test_failover::{LEASE_HOURS, TestFailover, TestResult, TestStatus};
pub use window::{Opening, ResyncWindow};

use super::entity::{Entity, Kind, Rejection, entry_conversions};
use super::failure::Failure;
use super::id::{CloudId, DiskId, HostId, JobId, PlanId, RecoveryPointId, VaultId, VmId};
use super::job::{Job, JobKind, JobOutcome, Step, TaskState};
use super::machine::Machine;
use super::placement::{Placement, Target};
use super::policy::Policy;
use super::retention::{Candidate, NextThinning};
use super::retry::RetryLadder;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A virtual disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its identity.
    pub id: DiskId,
    /// Its name, unique in the VM; the stem of its files.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A moment to which the VM can be recovered: every disk as it was when a cycle's logs were cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// The cycle, and the sequence number of each disk's segment.
    pub cycle: u64,
    /// The instant of the cut.
    pub at: Timestamp,
    /// Bytes that the cycle stored in the vault.
    pub bytes: u64,
}

impl RecoveryPoint {
    /// Its identity in the vault.
    pub fn id(&self, vm: VmId) -> RecoveryPointId {
        RecoveryPointId::derived(vm.0, self.cycle)
    }
}

/// Which recovery point a failover uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PointChoice {
    /// The newest that is complete in the vault.
    Latest,
    /// The one of this cycle.
    Cycle(u64),
    /// The newest that is known when the failover is asked for. [`PointChoice::Latest`] also takes a
    /// newer one that is found complete in the vault when the source is fenced: it loses less.
    LatestProcessed,
    /// The newest known one that is application-consistent.
    LatestApplicationConsistent,
}

/// How a failover came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FailoverKind {
    /// The source was shut down first; nothing is lost.
    Planned,
    /// The source was lost.
    Unplanned,
}

/// One of the two sites of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// Where it runs when all is well.
    #[default]
    Primary,
    /// Where it runs after a failover.
    Recovery,
}

/// Why the replica must be resynchronized.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResyncReason {
    /// A log could not be written.
    LogWriteFailed(String),
    /// A log or its chain is damaged.
    LogDamaged(String),
    /// A log is not where it was left.
    LogMissing(String),
    /// The host lost power: writes that were never flushed can be on the disk but not in the log.
    PowerLoss,
    /// A disk is not what it was when it was tracked last.
    DiskChanged(String),
    /// The logs of a disk reached half of its size.
    LogsTooLarge(String),
    /// The replica itself is not what it must be.
    ReplicaSuspect(String),
}

impl std::fmt::Display for ResyncReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LogWriteFailed(what) => {
                write!(f, "a replication log could not be written: {what}")
            }
            Self::LogDamaged(what) => write!(f, "a replication log is damaged: {what}"),
            Self::LogMissing(what) => write!(f, "a replication log is missing: {what}"),
            Self::PowerLoss => f.write_str("the host lost power while writes were not yet flushed"),
            Self::DiskChanged(what) => write!(f, "a disk changed: {what}"),
            Self::LogsTooLarge(what) => write!(f, "the replication logs grew too large: {what}"),
            Self::ReplicaSuspect(what) => write!(f, "the replica cannot be relied on: {what}"),
        }
    }
}

/// Where the VM stands in its protected life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing is known of it.
    #[default]
    Undiscovered,
    /// It is known and not protected.
    Unprotected,
    /// Protection is being enabled.
    Enabling,
    /// Its disks are being copied.
    InitialReplication,
    /// Its replica is being proven.
    Finalizing,
    /// It is replicated.
    Protected,
    /// Its replica is being brought into step.
    Resynchronizing(ResyncReason),
    /// It is being moved to the recovery site.
    FailingOver(FailoverKind),
    /// It runs at the recovery site; another recovery point could still be chosen.
    CommitPending(FailoverKind),
    /// It runs at the recovery site for good.
    FailedOver(FailoverKind),
    /// A failover is being undone: the replica is removed, then the source is started.
    CancellingFailover,
    /// It is being moved back to the primary site; until it is shut down for that, it runs at the
    /// recovery site.
    FailingBack,
    /// It runs at the recovery site and is replicated from there; the primary site's disks are in step.
    FailbackReady,
    /// It runs at the primary site again; its replica's disks are still there.
    FailbackCommitPending,
    /// It runs at the primary site again, tracked and not yet replicated.
    FailedBack,
    /// Its protection is being ended.
    Disabling,
    /// It is not protected, and runs at the recovery site on disks of its own.
    UnprotectedAtRecovery,
}

/// Where the delta replication stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// There is none.
    #[default]
    Off,
    /// The next delta is due then.
    Waiting {
        /// When.
        due: Timestamp,
    },
    /// The logs are being cut.
    Snapshotting,
    /// The logs that were cut are being sent.
    Shipping {
        /// When they were cut.
        snapshot_at: Timestamp,
    },
    /// Nothing is sent until somebody resumes it.
    Paused {
        /// Since when.
        since: Timestamp,
    },
}

/// Delta replication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Where it stands.
    pub stage: Stage,
    /// The number of the delta in progress, or of the next one; from 1.
    pub cycle: u64,
    /// The cycle with which the tracked chain of logs begins.
    pub chain_first_cycle: u64,
    /// Which copy of the disks the replica builds on: 0 from the initial replication, one more with
    /// each further copy in full.
    pub generation: u32,
    /// When the delta in progress, or the last one, began.
    pub started_at: Timestamp,
}

/// Failed work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Which work.
    pub work: Work,
    /// The last failure.
    pub failure: Failure,
    /// When the first attempt failed.
    pub since: Timestamp,
    /// How many attempts failed.
    pub attempt: u32,
    /// What happens next.
    pub next: NextStep,
    /// The last attempt was made since the cause was seen to end. Where it failed all the same, the cause is
    /// another one: to look for its end again would lead from attempt to attempt without a pause.
    pub tried_early: bool,
    /// Why the replica itself is suspect, since an attempt found that: an attempt that fails for another reason does
    /// not make it any better.
    pub suspect: Option<Failure>,
}

/// What happens about failed work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextStep {
    /// It is tried again then.
    RetryAt(Timestamp),
    /// It is being tried again.
    Trying,
    /// An administrator must act.
    Administrator,
}

/// A virtual machine: the state folded from its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Its identity.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// The host that it runs on.
    pub host: HostId,
    /// The cloud of that host.
    pub cloud: CloudId,
    /// Its vault, once it was protected.
    pub vault: VaultId,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// How it is replicated.
    pub policy: Policy,
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub phase_since: Timestamp,
    /// The phase that a failover left, and to which it returns by a failed check.
    phase_before: Phase,
    /// The running job, or the last one.
    pub job: Option<Job>,
    /// How many jobs there have been.
    pub jobs: u64,
    /// The last job that ended otherwise than completed.
    pub unsuccessful: Option<JobId>,
    /// Which point the running failover uses.
    chosen: Option<PointChoice>,
    /// Delta replication.
    pub delta: Delta,
    /// Recovery points, the oldest first.
    pub points: Points,
    /// Failed work, if any.
    pub trouble: Option<Trouble>,
    /// The epoch of the replica's writer; a failover raises it.
    pub epoch: u64,
    /// The last failover.
    pub failover: Option<Failover>,
    /// The side whose writes are tracked and sent.
    pub source: Side,
    /// The failback under way.
    pub failback: Option<Failback>,
    /// When and how a failover is decided by itself.
    pub decision: Option<(Timestamp, AfterFailover)>,
    /// The plan that says when the VM of a failover, or of a test, starts.
    pub held: Option<PlanId>,
    /// Whether its failover waits for that plan also once its source was shut down.
    pub held_off: bool,
    /// The test failover that is not cleaned up.
    pub test: Option<TestFailover>,
    /// What came of the last test failover.
    pub last_test: Option<TestResult>,
    /// Resynchronization.
    pub resync: Resync,
    /// The cycles of application-consistent points.
    pub application_consistent: BTreeSet<u64>,
    /// Application-consistent points.
    pub quiescence: Quiescence,
    /// Since when the replica's space in the vault cannot be freed, and why.
    pub space: Option<(Timestamp, Failure)>,
    /// Since when the volume of its replication logs is short of space, and of what.
    pub log_volume: Option<(Timestamp, Failure)>,
    /// What replication did lately.
    pub statistics: Statistics,
    /// What its hypervisor says that it is.
    pub machine: Option<Machine>,
    /// What was chosen for its replica.
    pub target: Target,
    /// Where the replica of the last failover is placed.
    pub placement: Option<Placement>,
    /// From when on the levels of retention can let points go.
    #[serde(skip)]
    thinning: NextThinning,
    /// The disk that is being made larger; one that is being added grows from nothing.
    pub resize: Option<Resize>,
    /// What sizes disks have in points from before they grew.
    pub former_sizes: Vec<FormerSize>,
    /// The host to which a failback brought its disks; `None` while they are where they were made.
    pub brought_to: Option<HostId>,
    /// Hosts that a failback brought it away from, where it may still run and must not.
    pub left: BTreeSet<HostId>,
    /// The disks that were added, and the one that is to be.
    pub added: Vec<AddedDisk>,
    /// Whether the failover under way sends what the source wrote last, if it can.
    pub synchronizes: bool,
    /// What is known of the source since the last failover.
    pub source_ended: Option<SourceEnded>,
    /// When the initial replication begins, while it waits for that.
    pub copy_due: Option<Timestamp>,
}

impl Vm {
    /// The newest recovery point.
    pub fn latest_point(&self) -> Option<RecoveryPoint> {
        self.points.last().copied()
    }

    /// The recovery point that the running failover uses, once it is certain, or that the last one used.
    pub fn failover_point(&self) -> Option<RecoveryPoint> {
        if let (Some(failover), false) =
            (self.failover, matches!(self.phase, Phase::FailingOver(_)))
        {
            return Some(failover.point);
        }
        match self.chosen {
            None | Some(PointChoice::Latest) => self.latest_point(),
            Some(choice) => self.known_point(choice),
        }
    }

    /// The point that a choice means among those that are known.
    pub fn known_point(&self, choice: PointChoice) -> Option<RecoveryPoint> {
        let mut points = self.points.iter().copied().rev();
        match choice {
            PointChoice::Latest | PointChoice::LatestProcessed => points.next(),
            PointChoice::Cycle(cycle) => points.find(|point| point.cycle == cycle),
            PointChoice::LatestApplicationConsistent => {
                points.find(|point| self.application_consistent.contains(&point.cycle))
            }
        }
    }

    /// Whether the guest is to be quiesced while the logs of this cycle are cut.
    pub fn is_to_be_quiesced(&self, cycle: u64) -> bool {
        self.quiescence.requested == Some(cycle)
    }

    /// Whether what let go points took in the vault can be freed: while no failover may still choose.
    const fn reclaims_space(&self) -> bool {
        matches!(self.phase, Phase::Protected | Phase::FailedOver(_))
    }

    fn forget_consistency_of_gone_points(&mut self) {
        if self.application_consistent.is_empty() {
            return;
        }
        let (points, next) = (&self.points, self.delta.cycle);
        self.application_consistent.retain(|cycle| {
            next <= *cycle || points.binary_search_by_key(cycle, |point| point.cycle).is_ok()
        });
    }

    /// The operations that the state allows, by their names in the API.
    pub fn allowed_operations(&self) -> Vec<&'static str> {
        operations::allowed_operations(self)
    }

    /// The work in progress: the running job's task, or else the delta's.
    pub fn work(&self) -> Option<Work> {
        if let Some((task, current)) = self.job.as_ref().and_then(Job::current) {
            if self.failover_waits_for_plan()
                || self.waits_for_its_time().is_some()
                || self.is_resync_paused()
            {
                return None;
            }
            let job = self.job.as_ref().map(|job| job.id).unwrap_or_default();
            return Some(Work::Task { job, task, step: current.step });
        }
        match self.delta.stage {
            Stage::Off | Stage::Waiting { .. } | Stage::Paused { .. } => None,
            Stage::Snapshotting => Some(Work::Snapshot { cycle: self.delta.cycle }),
            Stage::Shipping { snapshot_at } => {
                Some(Work::Ship { cycle: self.delta.cycle, snapshot_at })
            }
        }
    }

    /// When its initial replication begins, of a VM that is ready for it before.
    pub fn waits_for_its_time(&self) -> Option<Timestamp> {
        let current = self.job.as_ref().and_then(Job::current).map(|(_, task)| task.step);
        self.copy_due.filter(|_| current == Some(Step::EnableReplication))
    }

    /// Whether the VM may run at the primary site: at no time may it run at both.
    pub const fn may_run_at_primary(&self) -> bool {
        !matches!(
            self.phase,
            Phase::FailingOver(_)
                | Phase::CommitPending(_)
                | Phase::FailedOver(_)
                | Phase::CancellingFailover
                | Phase::FailingBack
                | Phase::FailbackReady
                | Phase::UnprotectedAtRecovery
        )
    }

    /// Whether the source's writes are to be tracked.
    pub fn is_tracked(&self) -> bool {
        match self.phase {
            // What it runs from changes: the source is off, as it was since the failover.
            Phase::FailingOver(_) if operations::is_changing_point(self) => false,
            Phase::InitialReplication
            | Phase::Finalizing
            | Phase::Protected
            | Phase::FailingBack
            | Phase::FailbackReady
            | Phase::FailbackCommitPending
            | Phase::FailedBack
            | Phase::FailingOver(FailoverKind::Planned) => self.resync.lost.is_none(),
            Phase::Resynchronizing(_) => self.resync.waits_for.is_none(),
            Phase::Undiscovered
            | Phase::Unprotected
            | Phase::Enabling
            | Phase::FailingOver(FailoverKind::Unplanned)
            | Phase::CommitPending(_)
            | Phase::FailedOver(_)
            | Phase::CancellingFailover
            | Phase::Disabling
            | Phase::UnprotectedAtRecovery => false,
        }
    }

    /// The job that brings the replica into step: a copy where there is nothing to compare with.
    fn resync_kind(&self) -> JobKind {
        if self.points.is_empty() || self.resync.suspect.is_some() {
            JobKind::Resynchronize
        } else {
            JobKind::ResynchronizeDifferences
        }
    }

    /// The first cycle of a chain of logs that starts from nothing: one that no earlier chain can
    /// have used. Three of its cycles may have reached the vault unrecorded, those that interrupted
    /// planned failovers send: the delta under way, the last one, and, where the VM wrote on in
    /// between, one more.
    pub const fn first_cycle_of_new_chain(&self) -> u64 {
        if self.delta.chain_first_cycle == 0 { 1 } else { self.delta.cycle + 3 }
    }

    /// The cycle that a job which sends what is tracked ends with, the same in every attempt: the
    /// next one after a delta that a planned failover met under way, or else the next one.
    pub const fn last_cycle_of_job(&self) -> u64 {
        match self.delta.stage {
            Stage::Off | Stage::Waiting { .. } | Stage::Paused { .. } => self.delta.cycle,
            Stage::Snapshotting | Stage::Shipping { .. } => self.delta.cycle + 1,
        }
    }

    fn enter(&mut self, phase: Phase, at: Timestamp) {
        self.phase = phase;
        self.phase_since = at;
    }

    /// One failover can take the place of another; neither is where a failed check leads back to.
    fn fail_over(&mut self, kind: FailoverKind, at: Timestamp) {
        if !matches!(self.phase, Phase::FailingOver(_)) {
            self.phase_before = self.phase.clone();
        }
        self.enter(Phase::FailingOver(kind), at);
    }

    fn job_mut(&mut self, id: JobId) -> Option<&mut Job> {
        let test = self.test.as_mut().map(|test| &mut test.job);
        self.job.as_mut().into_iter().chain(test).find(|job| job.id == id)
    }

    fn task_mut(&mut self, job: JobId, task: u32) -> Option<&mut super::job::Task> {
        self.job_mut(job)?.tasks.get_mut(task as usize)
    }

    /// Whether a job is that of the test failover, which has nothing to do with the VM's own.
    fn is_test_job(&self, id: JobId) -> bool {
        self.test.as_ref().is_some_and(|test| test.job.id == id)
    }

    fn job_started(&mut self, id: JobId, kind: JobKind, at: Timestamp) {
        let job = Job::new(id, kind, &self.disks_of(kind), at);
        self.jobs += 1;
        if let (JobKind::TestFailover | JobKind::TestFailoverCleanup, Some(test)) =
            (kind, self.test.as_mut())
        {
            test.job = job;
            return;
        }
        self.job = Some(job);
        self.trouble = None;
        match kind {
            JobKind::EnableProtection => self.enter(Phase::Enabling, at),
            JobKind::InitialReplication => self.enter(Phase::InitialReplication, at),
            JobKind::FinalizeProtection => self.enter(Phase::Finalizing, at),
            // The phase came with `MarkedForResync`, which says why.
            JobKind::Resynchronize | JobKind::ResynchronizeDifferences => {
                self.resync.waits_for = None;
                self.delta.stage = Stage::Off;
                (self.resync.compared_bytes, self.resync.different_bytes) = (0, 0);
            }
            JobKind::CommitFailover => self.decision = None,
            JobKind::CommitFailback
            | JobKind::TestFailover
            | JobKind::TestFailoverCleanup
            | JobKind::ResizeDisk
            | JobKind::AddDisk
            | JobKind::DisableAtRecovery => {}
            // What it compares is the first that is.
            JobKind::Failback => {
                self.resync.lost = None;
                (self.resync.compared_bytes, self.resync.different_bytes) = (0, 0);
                self.enter(Phase::FailingBack, at);
            }
            JobKind::CompleteFailback => self.enter(Phase::FailingBack, at),
            JobKind::ReverseReplicate | JobKind::ResumeReplication => {
                self.enter(Phase::Finalizing, at);
            }
            JobKind::CancelFailover => {
                self.decision = None;
                self.enter(Phase::CancellingFailover, at);
            }
            // What a cancelled failover leads back to is not this.
            JobKind::ChangeRecoveryPoint => {
                self.enter(Phase::FailingOver(self.failover_kind()), at);
            }
            JobKind::DisableProtection | JobKind::RemoveProtection => {
                self.delta.stage = Stage::Off;
                self.enter(Phase::Disabling, at);
            }
            JobKind::PlannedFailover => {
                (self.chosen, self.source_ended) = (None, None);
                self.fail_over(FailoverKind::Planned, at);
            }
            JobKind::UnplannedFailover => {
                self.failback = None;
                self.fail_over(FailoverKind::Unplanned, at);
            }
        }
    }

    /// Whether it is being failed over as planned: shut down, sent whole, and then closed off.
    pub const fn is_in_planned_failover(&self) -> bool {
        matches!(self.phase, Phase::FailingOver(FailoverKind::Planned))
    }

    /// Whether the running job copies the disks anew.
    fn copies_anew(&self) -> bool {
        self.job.as_ref().is_some_and(|job| {
            matches!(job.kind, JobKind::Resynchronize | JobKind::EnableProtection)
        })
    }

    fn job_ended(&mut self, id: JobId, outcome: JobOutcome, at: Timestamp) {
        let Some(job) = self.job_mut(id) else { return };
        job.ended = Some((at, outcome));
        let kind = job.kind;
        if outcome != JobOutcome::Completed {
            self.unsuccessful = Some(id);
        }
        let of_test = self.is_test_job(id);
        // What is held while it is failed over is held for that, not for a test.
        if kind.fails_over() && !(of_test && matches!(self.phase, Phase::FailingOver(_))) {
            self.released();
        }
        if of_test {
            return;
        }
        self.trouble = None;
        if kind.changes_disks() {
            self.resize = self.resize.filter(|resize| resize.grown);
            addition::forget_disks_that_are_not_there(self);
        }
        match (kind, outcome) {
            (JobKind::EnableProtection, JobOutcome::Failed) => self.enter(Phase::Unprotected, at),
            (JobKind::PlannedFailover | JobKind::UnplannedFailover, JobOutcome::Failed) => {
                (self.failover, self.placement) = (None, None);
                self.enter(self.phase_before.clone(), at);
            }
            (JobKind::ChangeRecoveryPoint, JobOutcome::Failed) => {
                self.chosen = self.failover.map(|it| PointChoice::Cycle(it.point.cycle));
                self.enter(Phase::CommitPending(self.failover_kind()), at);
            }
            (JobKind::Failback, JobOutcome::Failed) => {
                failback::apply(self, &Event::FailbackCancelled, at);
            }
            (JobKind::CompleteFailback, JobOutcome::Failed) => {
                failback::apply(self, &Event::FailbackReady, at);
            }
            (JobKind::ReverseReplicate, JobOutcome::Failed) => self.enter(Phase::FailedBack, at),
            _ => {}
        }
    }

    fn point_added(&mut self, point: RecoveryPoint) {
        let last = self.points.last().copied();
        if last.is_none_or(|last| last.cycle < point.cycle) {
            let newest = last.map_or(point.at, |last| last.at);
            self.points.push(point);
            // What was due before has been done meanwhile.
            if self.thinning.is_due(newest) {
                self.thinning = NextThinning::of(self.candidates());
            } else {
                self.thinning.added(newest, point.at);
            }
        }
        self.delta.cycle = self.delta.cycle.max(point.cycle + 1);
    }

    /// The recovery points, as retention sees them.
    fn candidates(&self) -> impl Iterator<Item = Candidate> + Clone {
        self.points.iter().map(|point| Candidate {
            cycle: point.cycle,
            at: point.at,
            application_consistent: self.application_consistent.contains(&point.cycle),
        })
    }

    fn wait_for_next_delta(&mut self, at: Timestamp) {
        let interval = self.policy.copy_frequency();
        let on_schedule = self.delta.started_at.after(interval);
        // A beginning in the future is one from before the clock was set back.
        self.delta.stage = Stage::Waiting { due: on_schedule.clamp(at, at.after(interval)) };
    }
}

impl Entity for Vm {
    const KIND: Kind = Kind::Vm;
    type Command = Command;
    type Event = Event;
    type Effect = Effect;

    fn decide(&self, command: &Command, now: Timestamp) -> Result<Vec<Event>, Rejection> {
        rules::decide(self, command, now)
    }

    fn apply(&mut self, event: &Event, at: Timestamp) {
        statistics::apply(self, event, at);
        match event {
            Event::Discovered { id, name, host, cloud, disks } => {
                self.id = *id;
                self.name.clone_from(name);
                self.host = *host;
                self.cloud = *cloud;
                self.disks.clone_from(disks);
                self.delta.cycle = 1;
                self.epoch = 1;
                self.enter(Phase::Unprotected, at);
            }
            Event::JobStarted { job, kind } => self.job_started(*job, *kind, at),
            Event::TaskStarted { job, task } => {
                if let Some(task) = self.task_mut(*job, *task) {
                    task.state = TaskState::InProgress;
                    task.started_at = Some(at);
                }
            }
            Event::TaskProgressed { job, task, done_bytes, total_bytes } => {
                if let Some(task) = self.task_mut(*job, *task) {
                    task.progress = Some((*done_bytes, *total_bytes));
                }
            }
            Event::TaskCompleted { job, task } => {
                if !self.is_test_job(*job) {
                    self.trouble = None;
                }
                if let Some(task) = self.task_mut(*job, *task) {
                    task.state = TaskState::Completed;
                    task.ended_at = Some(at);
                }
            }
            Event::TaskFailed { job, task, failure } => {
                if let Some(test) = self.test.as_mut().filter(|test| test.job.id == *job) {
                    test.failure = Some(failure.clone());
                }
                if let Some(task) = self.task_mut(*job, *task) {
                    task.state = TaskState::Failed;
                    task.ended_at = Some(at);
                }
            }
            Event::JobEnded { job, outcome } => self.job_ended(*job, *outcome, at),
            Event::ProtectionEnabled { vault, policy } => {
                self.vault = *vault;
                self.policy = *policy;
                self.copy_due = None;
            }
            Event::TrackingStarted { first_cycle } => {
                if 1 < *first_cycle && self.copies_anew() {
                    self.delta.generation += 1;
                }
                self.delta.chain_first_cycle = *first_cycle;
                self.delta.cycle = *first_cycle;
                self.resync.lost = None;
            }
            Event::DiskCopied { .. } | Event::StatisticsScheduleChanged { .. } => {}
            Event::SourceShutDown | Event::SourceEnded { .. } => source::apply(self, event, at),
            Event::InitialReplicationScheduled { due } => self.copy_due = Some(*due),
            Event::InitialReplicationDue => self.copy_due = None,
            Event::PolicyChanged { policy } => self.change_policy(*policy, at),
            Event::Protected => {
                self.resync.suspect = None;
                self.resize = None;
                self.enter(Phase::Protected, at);
                self.delta.started_at = self.latest_point().map_or(at, |point| point.at);
                self.wait_for_next_delta(at);
            }
            Event::CycleStarted { cycle } => {
                self.delta.cycle = *cycle;
                self.delta.started_at = at;
                self.delta.stage = Stage::Snapshotting;
            }
            Event::SnapshotTaken { at: snapshot_at, .. } => {
                self.trouble = None;
                self.delta.stage = Stage::Shipping { snapshot_at: *snapshot_at };
            }
            Event::LogShipped { point } => {
                self.trouble = None;
                self.point_added(*point);
                // Also where a failover sent it: if that leads back, the delta must not go on.
                if self.delta.stage != Stage::Off {
                    self.wait_for_next_delta(at);
                }
            }
            Event::RecoveryPointsExpired { kept_from_cycle }
            | Event::RecoveryPointsDropped { kept_from_cycle, .. } => {
                self.points.expire(*kept_from_cycle);
                self.forget_consistency_of_gone_points();
                self.former_sizes.retain(|former| *kept_from_cycle <= former.until_cycle);
            }
            Event::RecoveryPointsThinned { cycles } => {
                self.points.retain(|point| cycles.binary_search(&point.cycle).is_err());
                self.forget_consistency_of_gone_points();
            }
            Event::ApplicationConsistencyRequested { cycle } => {
                self.quiescence.requested = Some(*cycle);
            }
            Event::ApplicationConsistent { cycle } => {
                self.application_consistent.insert(*cycle);
                let reached_at = Some(self.delta.started_at);
                self.quiescence = Quiescence { reached_at, ..Quiescence::default() };
            }
            Event::ApplicationConsistencyMissed { because, .. } => {
                self.quiescence.requested = None;
                self.quiescence.missed = Some((self.delta.started_at, because.clone()));
            }
            Event::SpaceNotReclaimed { because } => self.space = Some((at, because.clone())),
            Event::SpaceReclaimed => self.space = None,
            Event::LogVolumeLow { because } => self.log_volume = Some((at, because.clone())),
            Event::LogVolumeFreed => self.log_volume = None,
            Event::MarkedForResync { reason } => {
                self.delta.stage = Stage::Off;
                self.trouble = None;
                // What was added to a disk is suspect like everything else.
                self.resize = None;
                if matches!(reason, ResyncReason::ReplicaSuspect(_)) {
                    self.resync.suspect = Some(reason.clone());
                }
                let since = match self.phase {
                    Phase::Resynchronizing(_) => self.phase_since,
                    _ => at,
                };
                self.enter(Phase::Resynchronizing(reason.clone()), since);
            }
            Event::RetryScheduled { work, attempt, due, because } => {
                let earlier = self.trouble.as_ref();
                self.trouble = Some(Trouble {
                    work: *work,
                    failure: because.clone(),
                    since: earlier.map_or(at, |trouble| trouble.since),
                    attempt: *attempt,
                    next: NextStep::RetryAt(*due),
                    tried_early: earlier.is_some_and(|trouble| trouble.tried_early),
                    suspect: earlier.and_then(|trouble| trouble.suspect.clone()),
                });
            }
            Event::RetryStarted { early, .. } => {
                if let Some(trouble) = self.trouble.as_mut() {
                    trouble.next = NextStep::Trying;
                    trouble.tried_early = matches!(early, Some(RetryReason::CauseEnded(_)));
                }
            }
            Event::AdministratorNeeded { work, because } => {
                let earlier = self.trouble.take();
                let suspect = rules::makes_replica_suspect(because).then(|| because.clone());
                self.trouble = Some(Trouble {
                    suspect: suspect.or(earlier.as_ref().and_then(|it| it.suspect.clone())),
                    work: *work,
                    failure: because.clone(),
                    since: earlier.as_ref().map_or(at, |trouble| trouble.since),
                    attempt: earlier.map_or(0, |trouble| trouble.attempt) + 1,
                    next: NextStep::Administrator,
                    tried_early: false,
                });
            }
            Event::FailoverRequested { .. }
            | Event::SynchronizationRequested
            | Event::SourceFenced { .. }
            | Event::FailedOver { .. }
            | Event::ReplicaStarted => failover::apply(self, event, at),
            Event::ResyncWindowChanged { window } => self.resync.window = *window,
            Event::ResyncWindowConfigured { window } => self.resync.configure(*window),
            Event::ResyncScheduled { opening } => self.resync.waits_for = Some(*opening),
            Event::DiskCompared { .. } if self.resize.is_some() => {}
            Event::DiskCompared { compared_bytes, different_bytes, .. } => {
                self.resync.compared_bytes += compared_bytes;
                self.resync.different_bytes += different_bytes;
            }
            Event::TestFailoverRequested { .. }
            | Event::TestStarted
            | Event::TestCleanUpRequested { .. }
            | Event::TestCleanUpPutOff { .. }
            | Event::TestCleanedUp { .. } => test_failover::apply(self, event, at),
            Event::FailbackRequested { .. }
            | Event::FailbackHostChosen { .. }
            | Event::HostLeft { .. }
            | Event::SourcePlaced { .. }
            | Event::DiskRestored { .. }
            | Event::DisksRestored { .. }
            | Event::FailbackReady
            | Event::ReplicaShutDown
            | Event::FailbackCancelled
            | Event::RestoredTracked { .. }
            | Event::FailedBack
            | Event::FailbackCommitted
            | Event::TrackingLost { .. } => failback::apply(self, event, at),
            Event::FailoverDecisionScheduled { due, then } => self.decision = Some((*due, *then)),
            Event::FailoverCancelled => {
                self.failover = None;
                self.source_ended = None;
                self.chosen = None;
                self.decision = None;
                self.placement = None;
                self.delta.stage = Stage::Off;
            }
            Event::VaultLeft | Event::ProtectionDisabled => ending::apply(self, event, at),
            Event::ReplicationPaused => {
                self.trouble = None;
                self.delta.stage = Stage::Paused { since: at };
            }
            Event::ReplicationResumed if self.is_resync_paused() => self.delta.stage = Stage::Off,
            Event::ReplicationResumed => self.wait_for_next_delta(at),
            Event::StartHeld { plan } => self.held = Some(*plan),
            Event::StartReleased => self.released(),
            Event::FailoverHeld => self.held_off = true,
            Event::FailoverReleased => self.held_off = false,
            Event::Described { machine } => self.machine = Some(machine.clone()),
            Event::TargetChanged { target } => self.target.clone_from(target),
            Event::ReplicaPlaced { placement } => self.placement = Some(placement.clone()),
            Event::TestPlaced { placement } => {
                if let Some(test) = self.test.as_mut() {
                    test.placement = Some(placement.clone());
                }
            }
            Event::Moved { host } => {
                self.host = *host;
                self.left.remove(host);
            }
            Event::DiskResizeRequested { .. } | Event::DiskResized { .. } => {
                resize::apply(self, event);
            }
            Event::DiskAddRequested { .. } | Event::DiskAdded { .. } => {
                addition::apply(self, event);
            }
            Event::FailoverCommitted => {
                self.decision = None;
                // The VM goes on with the replica as it is: nothing takes its place.
                self.resync.suspect = None;
                resize::go_back_to_disks_of_point(self);
                if let Some(failover) = self.failover {
                    self.points.retain(|point| point.cycle == failover.point.cycle);
                    self.forget_consistency_of_gone_points();
                    self.enter(Phase::FailedOver(failover.kind), at);
                }
            }
        }
    }

    fn pending(&self) -> Vec<Effect> {
        let mut pending = Vec::with_capacity(effects::USUAL);
        self.each_effect(|effect| pending.push(effect));
        pending
    }

    entry_conversions!(Vm);
}
