//! Failback: the VM is moved from the recovery site back to the primary site.
//!
//! ```text
//!  FailedOver --Failback--> FailingBack --> FailbackReady --CompleteFailback--> FailingBack
//!      ^                         |               |                                  |
//!      '------ CancelFailback ---+---------------+--- until tracking starts there --+
//!                                                                                   v
//!  Protected <-- Finalizing <--ReverseReplicate-- FailedBack <--Commit-- FailbackCommitPending
//! ```
//!
//! While the VM runs at the recovery site, what it wrote there is sent to the vault and from there brought to
//! the primary site's disks. Once they are in step the VM is replicated again, from the recovery site, until
//! somebody completes the failback; that sends and fetches the rest, twice: while the VM runs, so that the
//! stop is short, and after it was shut down. The primary site's disks belong to nobody meanwhile, so a
//! failback that is given up costs nothing.

use super::{Event, FailoverKind, Phase, RecoveryPoint, ResyncReason, Side, Stage, Vm};
use crate::domain::job::{Job, JobKind, Step};
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What becomes of a failover at the moment that somebody set for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterFailover {
    /// It is committed.
    Commit,
    /// It is cancelled.
    Cancel,
}

/// A failback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failback {
    /// Everything is downloaded, instead of what differs.
    pub in_full: bool,
    /// What the primary site's disks all are.
    pub restored: Option<RecoveryPoint>,
    /// The replica VM was shut down for it.
    pub replica_off: bool,
    /// Bytes of the disks that were compared.
    pub compared_bytes: u64,
    /// Bytes of them that differed.
    pub different_bytes: u64,
}

impl Vm {
    /// How the VM came to the recovery site.
    pub(super) fn failover_kind(&self) -> FailoverKind {
        self.failover.map_or(FailoverKind::Unplanned, |failover| failover.kind)
    }

    /// Whether the replica VM is to be kept running.
    pub(super) fn runs_replica(&self) -> bool {
        match self.phase {
            Phase::CommitPending(_) | Phase::FailedOver(_) | Phase::FailbackReady => true,
            Phase::FailingBack => {
                let current = self.job.as_ref().and_then(Job::current);
                let stops = current.is_some_and(|(_, task)| task.step == Step::ShutDownReplica);
                !stops && !self.failback.as_ref().is_some_and(|failback| failback.replica_off)
            }
            _ => false,
        }
    }

    /// Whether a failback can still be given up: until the VM may have been started at the primary site.
    pub(super) fn failback_can_be_cancelled(&self) -> bool {
        match self.phase {
            Phase::FailbackReady => true,
            Phase::FailingBack => {
                let current = self.job.as_ref().and_then(Job::current);
                !current.is_some_and(|(_, task)| {
                    matches!(task.step, Step::TrackRestored | Step::StartSource)
                })
            }
            _ => false,
        }
    }
}

/// What the restoring of a disk makes true.
pub(super) fn restored(vm: &Vm, event: Event) -> Vec<Event> {
    let next = vm.job.as_ref().and_then(|job| {
        let (index, _) = job.current()?;
        job.tasks.get(index as usize + 1)
    });
    let was_last = !next.is_some_and(|task| matches!(task.step, Step::RestoreDisk(_)));
    let mut events = vec![event];
    if was_last {
        events.extend(vm.latest_point().map(|point| Event::DisksRestored { point }));
    }
    events
}

/// Tracking at the recovery site was lost. What the VM wrote there is still on its disks, so that the
/// failback begins anew.
pub(super) fn tracking_lost(vm: &Vm, reason: &ResyncReason) -> Vec<Event> {
    // A failback that begins starts tracking first: what was lost before is what it deals with. Once
    // the replica VM is off nothing is written that could be lost.
    let begins = vm.job.as_ref().is_some_and(|job| {
        let current = job.current().map(|(_, task)| task.step);
        let begins = matches!(current, Some(Step::CheckFailback | Step::RestartTracking));
        job.kind == JobKind::Failback && begins
    });
    if begins || vm.failback.as_ref().is_some_and(|failback| failback.replica_off) {
        return vec![];
    }
    let mut events = super::rules::cancel_job(vm);
    events.push(Event::TrackingLost { reason: reason.clone() });
    events.extend(super::rules::start_next(vm, JobKind::Failback));
    events
}

/// What one event makes of a failback; those of its jobs are dealt with like those of any job.
pub(super) fn apply(vm: &mut Vm, event: &Event, at: Timestamp) {
    match event {
        Event::FailbackRequested { in_full } => {
            vm.failback = Some(Failback { in_full: *in_full, ..Failback::default() });
            vm.source = Side::Recovery;
        }
        Event::DiskRestored { compared_bytes, different_bytes, .. } => {
            if let Some(failback) = vm.failback.as_mut() {
                failback.compared_bytes += compared_bytes;
                failback.different_bytes += different_bytes;
            }
        }
        Event::DisksRestored { point } => {
            if let Some(failback) = vm.failback.as_mut() {
                failback.restored = Some(*point);
            }
        }
        Event::FailbackReady => {
            vm.enter(Phase::FailbackReady, at);
            vm.delta.started_at = vm.latest_point().map_or(at, |point| point.at);
            vm.wait_for_next_delta(at);
        }
        Event::ReplicaShutDown => {
            if let Some(failback) = vm.failback.as_mut() {
                failback.replica_off = true;
            }
        }
        Event::FailbackCancelled => {
            vm.failback = None;
            vm.source = Side::Primary;
            vm.delta.stage = Stage::Off;
            vm.trouble = None;
            vm.enter(Phase::FailedOver(vm.failover_kind()), at);
        }
        Event::RestoredTracked { first_cycle } => {
            vm.source = Side::Primary;
            vm.delta.stage = Stage::Off;
            vm.delta.chain_first_cycle = *first_cycle;
            vm.delta.cycle = *first_cycle;
        }
        Event::FailedBack => vm.enter(Phase::FailbackCommitPending, at),
        Event::FailbackCommitted => {
            vm.failback = None;
            (vm.failover, vm.placement) = (None, None);
            vm.enter(Phase::FailedBack, at);
        }
        Event::TrackingLost { reason } => {
            vm.trouble = None;
            vm.resync.lost = Some(reason.clone());
        }
        _ => {}
    }
}
