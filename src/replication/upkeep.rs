//! Upkeep of a VM's replica: passes that free what nobody needs, and leases for what is being served.

use super::engine::{EngineParts, Work};
use super::failures::invalid;
use crate::domain::failure::Failure;
use crate::domain::id::{DiskId, RecoveryPointId, VmId};
use crate::domain::time::Timestamp;
use crate::replica::{Collection, Collector, Pins};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// For how long a lease is taken, and renewed when half of it is over. A service that was down for less
/// finds what its replicas read.
const LEASE_FOR: Duration = Duration::from_hours(24);

/// What deleting a replica is called in messages.
const DELETING: &str = "deleting a replica";

/// What passes remember of each VM. A pass holds its VM's entry, so that one that was given up and has
/// not ended yet is waited for.
#[derive(Debug, Default)]
pub(super) struct Upkeep(Mutex<BTreeMap<VmId, Arc<Mutex<Collector>>>>);

/// A reader's lease.
#[derive(Clone, Debug)]
pub(super) struct Leased {
    pub(super) pins: Pins,
    reader: RecoveryPointId,
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
        reader: RecoveryPointId,
        pins: Pins,
        now: Timestamp,
    ) -> Result<Self, Failure> {
        let expires = now.after(LEASE_FOR);
        let taken = work.vault.put_lease(work.vm.id, reader, &pins, expires);
        work.vault_call("taking a lease of a recovery point", taken)?;
        Ok(Self { pins, reader, expires })
    }

    /// Renews it if half of it is over.
    pub(super) fn renew(self, work: &Work<'_>, now: Timestamp) -> Result<Self, Failure> {
        if LEASE_FOR / 2 <= self.expires.since(now) {
            return Ok(self);
        }
        Self::take(work, self.reader, self.pins, now)
    }
}

/// Deletes everything that the vault holds of the VM, and what passes remember of it: another life of the
/// VM counts its cycles from the start.
pub(super) fn delete_replica(
    parts: &EngineParts,
    upkeep: &Upkeep,
    work: &Work<'_>,
) -> Result<(), Failure> {
    let vm = work.vm;
    // Disks that are whole are the VM's, and stay.
    if parts.recovery.serves(vm.id) && !vm.has_left_vault() {
        return Err(invalid(vm, DELETING, "the VM runs on it at the recovery site"));
    }
    let collector = upkeep.of(vm.id);
    let mut collector = collector.lock().unwrap_or_else(PoisonError::into_inner);
    *collector = Collector::default();
    if !vm.has_left_vault() {
        // An overlay of this life must not be met by another one.
        parts.recovery.stop_serving(work)?;
    }
    parts.recovery.end_test(work)?;
    let disks: Vec<DiskId> = vm.disks.iter().map(|disk| disk.id).collect();
    let deleted = work.vault_call(DELETING, work.vault.discard(vm.id, &disks))?;
    tracing::debug!(vm = %vm.name, objects = deleted, "a replica was deleted");
    Ok(())
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
    let clock = &*parts.clock;
    let pins = parts.recovery.renewed_pins(work, clock.now())?;
    let disks: Vec<DiskId> = vm.disks.iter().map(|disk| disk.id).collect();
    let kept: BTreeSet<u64> = vm.points.iter().map(|point| point.cycle).collect();
    let pass =
        Collection { vm: vm.id, disks: &disks, kept: &kept, epoch: vm.epoch, pins: &pins, clock };
    let collected = collector.collect(work.vault, &pass);
    let done = work.vault_call("freeing space", collected)?;
    tracing::debug!(vm = %vm.name, ?done, "a pass over the space of a replica");
    Ok(())
}
