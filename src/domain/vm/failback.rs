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
//!
//! It can lead to another host, where the disks are made if they are not there. The VM is that host's from the
//! moment on that this is asked for, and that of the one before again if the failback is given up. Nothing is
//! asked of the host that it leaves, which may be gone for ever: should it come back with the VM running, the
//! VM is turned off there, for which it stays in [`Vm::left`] until it was seen to be so.

use super::{Event, FailoverKind, Phase, RecoveryPoint, ResyncReason, Side, Stage, Vm};
use crate::domain::entity::Rejection;
use crate::domain::id::{CloudId, HostId, JobId};
use crate::domain::job::{Job, JobKind, Step};
use crate::domain::placement::Placement;
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
    /// Where it was, if it is brought to a host that somebody chose.
    pub before: Option<Whereabouts>,
    /// Where it is placed at the primary site, if that is described.
    pub placement: Option<Placement>,
}

/// Where a VM is at the primary site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The host that it runs on.
    pub host: HostId,
    /// The host to which a failback brought its disks.
    pub brought_to: Option<HostId>,
}

impl Failback {
    /// Whether disks that are not at the host are to be made there: before the first of them was restored.
    pub const fn makes_disks(&self) -> bool {
        self.before.is_some() && self.restored.is_none()
    }
}

impl Vm {
    /// Whether a failback is under way, or not committed, that brings it to a host that somebody chose.
    pub fn is_brought_to_host(&self) -> bool {
        self.failback.as_ref().is_some_and(|failback| failback.before.is_some())
    }

    /// How the VM came to the recovery site.
    pub(super) fn failover_kind(&self) -> FailoverKind {
        self.failover.map_or(FailoverKind::Unplanned, |failover| failover.kind)
    }

    /// Whether the replica VM is to be kept running.
    pub(super) fn runs_replica(&self) -> bool {
        match self.phase {
            Phase::CommitPending(_)
            | Phase::FailedOver(_)
            | Phase::FailbackReady
            | Phase::UnprotectedAtRecovery => true,
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

/// It is to be brought back, to the host that it came from or to one that somebody chose.
pub(super) fn request(job: JobId, in_full: bool, host: Option<HostId>) -> Vec<Event> {
    let mut events = vec![Event::FailbackRequested { in_full }];
    events.extend(host.map(|host| Event::FailbackHostChosen { host }));
    events.extend(super::rules::start(job, JobKind::Failback));
    events
}

/// A VM is replicated by the policy of its cloud, so that it stays in it.
pub(super) fn check_cloud(vm: &Vm, cloud: CloudId) -> Result<(), Rejection> {
    if cloud == vm.cloud {
        return Ok(());
    }
    let because = format!("the host is of another cloud than {}", vm.name);
    Err(Rejection::Refused { because })
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
            // Where it is brought back to it is off before anything is done there.
            vm.left.remove(&vm.host);
        }
        Event::FailbackHostChosen { host } => {
            let before = Whereabouts { host: vm.host, brought_to: vm.brought_to };
            if let Some(failback) = vm.failback.as_mut() {
                failback.before = Some(before);
            }
            vm.left.insert(before.host);
            vm.left.remove(host);
            (vm.host, vm.brought_to) = (*host, Some(*host));
        }
        Event::HostLeft { host } => {
            vm.left.remove(host);
        }
        Event::SourcePlaced { placement } => {
            if let Some(failback) = vm.failback.as_mut() {
                failback.placement = Some(placement.clone());
            }
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
            if let Some(before) = vm.failback.take().and_then(|failback| failback.before) {
                (vm.host, vm.brought_to) = (before.host, before.brought_to);
            }
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
