//! The end of protection.
//!
//! At the primary site the VM stays as it is. Where it runs at the recovery site its disks are the recovery point that
//! it was failed over from, in the vault, under what it wrote since:
//!
//! ```text
//!  FailedOver --DisableProtection--> FailedOver --> UnprotectedAtRecovery
//! ```
//!
//! What they lack is downloaded while the VM runs, which misses nothing of it; until the last of them is whole the VM
//! is as failed over as before, and the job can be cancelled. From then on it needs nothing of the vault, where its
//! replica is deleted last. As long as it runs there it may not run at the primary site, whatever comes back.

use super::rules::{cancel_job, start};
use super::{Event, Phase, Quiescence, Resync, Stage, Vm};
use crate::domain::id::JobId;
use crate::domain::job::JobKind;
use crate::domain::time::Timestamp;

impl Vm {
    /// Whether it runs at the recovery site on disks that are whole, and needs nothing of the vault.
    pub const fn has_left_vault(&self) -> bool {
        matches!(self.phase, Phase::UnprotectedAtRecovery)
    }
}

/// Whether the end of protection has the source end tracking, which may not answer.
pub(super) fn waits_for_source(vm: &Vm) -> bool {
    vm.job.as_ref().is_some_and(|job| job.kind == JobKind::DisableProtection && job.ended.is_none())
}

/// Protection is to be ended, where the VM is. An end that waits for its source can be made one that does not.
pub(super) fn disable(vm: &Vm, job: JobId, source_gone: bool) -> Vec<Event> {
    if vm.phase == Phase::Disabling && !source_gone {
        return vec![];
    }
    if let Phase::FailedOver(_) = vm.phase {
        return start(job, JobKind::DisableAtRecovery);
    }
    let mut events = cancel_job(vm);
    let kind = if source_gone { JobKind::RemoveProtection } else { JobKind::DisableProtection };
    events.extend(start(job, kind));
    events
}

/// What one event makes of a VM whose protection ends; those of its job are dealt with like those of any job.
pub(super) fn apply(vm: &mut Vm, event: &Event, at: Timestamp) {
    match event {
        Event::VaultLeft => vm.enter(Phase::UnprotectedAtRecovery, at),
        Event::ProtectionDisabled => {
            vm.points.clear();
            vm.forget_consistency_of_gone_points();
            vm.delta.stage = Stage::Off;
            (vm.failback, vm.decision, vm.copy_due) = (None, None, None);
            (vm.resize, vm.former_sizes) = (None, vec![]);
            (vm.space, vm.log_volume, vm.quiescence) = (None, None, Quiescence::default());
            let Resync { window, configured, .. } = vm.resync;
            vm.resync = Resync { window, configured, ..Resync::default() };
            // Where it runs on are its disks, and its place, of the failover.
            if !vm.has_left_vault() {
                (vm.failover, vm.placement, vm.source_ended) = (None, None, None);
                vm.enter(Phase::Unprotected, at);
            }
        }
        _ => {}
    }
}
