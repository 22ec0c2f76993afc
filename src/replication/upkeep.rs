//! Upkeep of a VM's replica: passes that free what nobody needs, and leases for what is being served.

use super::engine::{EngineParts, Work};
use crate::domain::failure::Failure;
use crate::domain::id::{DiskId, VmId};
use crate::domain::time::Timestamp;
use crate::domain::vm::Phase;
use crate::replica::{Collection, Collector, Pins};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// For how long a lease is taken, and renewed when half of it is over. A service that was down for less
/// finds what its replicas read.
const LEASE_FOR: Duration = Duration::from_hours(24);

/// What passes remember of each VM. A pass holds its VM's entry, so that one that was given up and has
/// not ended yet is waited for.
#[derive(Debug, Default)]
pub(super) struct Upkeep(Mutex<BTreeMap<VmId, Arc<Mutex<Collector>>>>);

/// A reader's lease.
#[derive(Clone, Debug)]
pub(super) struct Leased {
    pub(super) pins: Pins,
    expires: Timestamp,
}

impl Upkeep {
    fn of(&self, vm: VmId) -> Arc<Mutex<Collector>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(vm).or_default())
    }
}

impl Leased {
    /// Takes a lease of what serving a recovery point reads.
    pub(super) fn take(
        work: &Work<'_>,
        cycle: u64,
        pins: Pins,
        now: Timestamp,
    ) -> Result<Self, Failure> {
        let expires = now.after(LEASE_FOR);
        let reader = crate::domain::id::RecoveryPointId::derived(work.vm.id.0, cycle);
        let taken = work.vault.put_lease(work.vm.id, reader, &pins, expires);
        work.vault_call("taking a lease of a recovery point", taken)?;
        Ok(Self { pins, expires })
    }

    /// Renews it if half of it is over.
    pub(super) fn renew(
        self,
        work: &Work<'_>,
        cycle: u64,
        now: Timestamp,
    ) -> Result<Self, Failure> {
        if LEASE_FOR / 2 <= self.expires.since(now) {
            return Ok(self);
        }
        Self::take(work, cycle, self.pins, now)
    }
}

/// One pass.
pub(super) fn reclaim_space(
    parts: &EngineParts,
    upkeep: &Upkeep,
    work: &Work<'_>,
) -> Result<(), Failure> {
    let vm = work.vm;
    let collector = upkeep.of(vm.id);
    let mut collector = collector.lock().unwrap_or_else(PoisonError::into_inner);
    let now = parts.clock.now();
    let pins = parts.recovery.renewed_pins(work, now)?;
    let disks: Vec<DiskId> = vm.disks.iter().map(|disk| disk.id).collect();
    let kept: BTreeSet<u64> = vm.points.iter().map(|point| point.cycle).collect();
    let pass = Collection {
        vm: vm.id,
        disks: &disks,
        kept: &kept,
        closed: matches!(vm.phase, Phase::FailedOver(_)),
        epoch: vm.epoch,
        pins: pins.as_ref(),
        now,
    };
    let collected = collector.collect(work.vault, &pass);
    let done = work.vault_call("freeing space", collected)?;
    tracing::debug!(vm = %vm.name, ?done, "a pass over the space of a replica");
    Ok(())
}
