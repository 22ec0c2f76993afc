//! The proofs that no believer is asked for: what recovery points and served disks hold, byte for byte,
//! against what guests were told is safe.

use super::ghost::{CutState, Invariant};
use super::outside::{Machine, OpenDisk, Outside, check_notes};
use crate::disk::nbd::NbdUri;
use crate::domain::id::{DiskId, VmId};
use crate::domain::vm::{FailoverKind, SourceEnd, Vm};
use crate::drivers::lab::{CheckError, Checked, LastWrite, Workload, check};
use crate::ports::block::BlockDevice;
use crate::ports::replication::ServedDisk;
use crate::replica::DiskImage;
use object_store::ObjectStoreExt;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;

/// A disk of a recovery point, to be read.
#[derive(Debug)]
struct ImageDisk(DiskImage, Handle);

impl BlockDevice for ImageDisk {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        Ok(self.1.block_on(self.0.read_at(offset, buffer))?)
    }

    fn write_at(&self, _: &[u8], _: u64, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn zero(&self, _: Range<u64>, _: bool, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        Ok(self.1.block_on(self.0.next_data(from))?)
    }

    fn read_only(&self) -> bool {
        true
    }
}

/// Proves one recovery point.
pub(super) fn prove_point(outside: &Outside, vm: VmId, cycle: u64) {
    let machine = outside.machine(vm);
    let name = format!("recovery point {cycle} of {}", machine.name);
    let disks = match open_point(outside, vm, &machine, cycle) {
        Ok(disks) => disks,
        // A replica that rotted must not be offered as if it were whole; it was not.
        Err(_) if outside.ghost.is_rotten(vm) => return,
        Err(why) => {
            return outside.violation(Invariant::Restorable, format!("{name}: {why}"));
        }
    };
    let (second, disks) = disks;
    let states = outside.ghost.states_at(vm, second);
    match prefix(outside, &machine.workload, disks, last_of(&states)) {
        Err(CheckError::Unreadable { .. }) if outside.ghost.is_rotten(vm) => {}
        Err(error @ CheckError::Unreadable { .. }) => {
            outside.violation(Invariant::Restorable, format!("{name}: {error}"));
        }
        Err(error) => {
            let why = crate::domain::failure::in_full(&error);
            outside.violation(Invariant::Durability, format!("{name}: {why}"));
        }
        Ok(found) if is_among(found, &states) => {}
        Ok(found) => {
            let what = format!(
                "{name} holds the writes up to {}, but it was cut after {}",
                found.last_write,
                in_words(&states)
            );
            outside.violation(Invariant::Durability, what);
        }
    }
}

/// Proves that a recovery point has the disks that its VM had then, and that they have the sizes of that time.
pub(super) fn prove_sizes(outside: &Outside, vm: &Vm, cycle: u64) {
    let machine = outside.machine(vm.id);
    let Ok((_, disks)) = open_point(outside, vm.id, &machine, cycle) else { return };
    for disk in &vm.disks {
        let image = disks.iter().find(|(id, _)| *id == disk.id);
        let found = image.map_or(0, |(_, image)| image.size_bytes());
        let expected = vm.size_in_point(disk, cycle);
        if expected != found {
            let name = format!("{} in recovery point {cycle} of {}", disk.name, vm.name);
            let what = format!("{name} has {found} bytes, not {expected}");
            outside.violation(Invariant::Restorable, what);
        }
    }
}

/// The disks of a recovery point, and the second that its cut is named after.
fn open_point(
    outside: &Outside,
    vm: VmId,
    machine: &Machine,
    cycle: u64,
) -> Result<(i64, Vec<OpenDisk>), String> {
    let (vault, handle) = (&outside.proof, outside.inline.handle());
    let record = outside.inline.wait(vault.point(vm, cycle)).map_err(|error| error.to_string())?;
    let record = record.ok_or("it is not in the vault")?;
    let mut disks: Vec<OpenDisk> = Vec::new();
    for (nth, disk) in machine.disks.iter().enumerate() {
        let at = match record.disks.get(&disk.id) {
            Some(at) => at,
            // It was added later.
            None if machine.workload.disks().len() <= nth => continue,
            None => return Err("a disk has no place in it".to_owned()),
        };
        let image = outside.inline.wait(vault.open_disk(disk.id, at.sequence));
        let image = image.map_err(|error| crate::domain::failure::in_full(&error))?;
        disks.push((disk.id, Arc::new(ImageDisk(image, handle.clone()))));
    }
    Ok((record.at.as_millis().div_euclid(1_000), disks))
}

/// Reads the disks whole; they must hold a prefix of the guest's writes, and those that were added their notes.
fn prefix(
    outside: &Outside,
    workload: &Workload,
    disks: Vec<OpenDisk>,
    last: LastWrite,
) -> Result<Checked, CheckError> {
    let workload = workload.clone();
    let noted = disks.iter().map(|(disk, _)| outside.ghost.noted_from(*disk));
    let noted: Vec<u64> = noted.collect();
    let read = outside.inline.call(move || {
        let (own, added) = disks.split_at(workload.disks().len().min(disks.len()));
        let own_disks: Vec<&dyn BlockDevice> = own.iter().map(|(_, disk)| &**disk).collect();
        let checked = check(&workload, &own_disks, last, &|_, _| ())?;
        let added = (own.len()..).zip(added).zip(&noted[own.len()..]);
        for ((nth, disk), noted_from) in added {
            check_notes(&workload, nth, disk, checked.last_write, *noted_from)?;
        }
        Ok(checked)
    });
    read.unwrap_or_else(|panic| {
        Err(CheckError::Unreadable { disk: 0, offset: 0, source: io::Error::other(panic) })
    })
}

fn last_of(states: &BTreeSet<CutState>) -> LastWrite {
    if states.iter().any(|state| state.torn) { LastWrite::MayBeTorn } else { LastWrite::Whole }
}

fn is_among(found: Checked, states: &BTreeSet<CutState>) -> bool {
    states.iter().any(|state| {
        found.last_write == state.acked || (state.torn && found.last_write == state.acked + 1)
    })
}

fn in_words(states: &BTreeSet<CutState>) -> String {
    let each: Vec<_> = states.iter().map(|state| state.acked.to_string()).collect();
    if each.is_empty() { "nothing that is known".to_owned() } else { each.join(" or ") }
}

/// The disks at these places, with the names of their exports.
pub(super) fn exports(disks: &[ServedDisk]) -> Vec<(DiskId, String)> {
    let export = |disk: &ServedDisk| Some((disk.disk, disk.uri.parse::<NbdUri>().ok()?.export));
    disks.iter().filter_map(export).collect()
}

/// What is served at these places.
fn devices(outside: &Outside, disks: &[ServedDisk]) -> Result<Vec<OpenDisk>, String> {
    let device = |disk: &ServedDisk| {
        let uri: NbdUri = disk.uri.parse().map_err(|error| format!("{}: {error}", disk.uri))?;
        let device = outside.served(&uri.export).ok_or("a disk is not served")?;
        Ok((disk.disk, device))
    };
    disks.iter().map(device).collect()
}

/// How far the disks are that the recovery site serves.
pub(super) fn served_prefix(
    outside: &Outside,
    vm: &Vm,
    disks: &[ServedDisk],
) -> Result<u64, String> {
    let machine = outside.machine(vm.id);
    let devices = devices(outside, disks)?;
    let point = vm.failover_point().ok_or("it has no recovery point")?;
    let mut states = if vm.has_left_vault() {
        BTreeSet::new()
    } else {
        let record = outside.inline.wait(outside.proof.point(vm.id, point.cycle));
        let record = record.map_err(|error| error.to_string())?;
        let record = record.ok_or("its recovery point is gone")?;
        outside.ghost.states_at(vm.id, record.at.as_millis().div_euclid(1_000))
    };
    // One that ran on these disks before finds what it wrote there.
    if let Some(away) = machine.away.as_ref().filter(|away| away.point == point.cycle) {
        if vm.failover.is_some_and(|failover| failover.started_at.is_some()) {
            states.clear();
        }
        states.insert(away.state());
    }
    outside.storage.begin(None);
    match prefix(outside, &machine.workload, devices, last_of(&states)) {
        Ok(found) => {
            if !is_among(found, &states) {
                let what = format!(
                    "{} was started on the writes up to {}, but point {} was cut after {}",
                    vm.name,
                    found.last_write,
                    point.cycle,
                    in_words(&states)
                );
                outside.violation(Invariant::Durability, what);
            }
            Ok(found.last_write)
        }
        Err(error @ CheckError::Unreadable { .. }) => Err(crate::domain::failure::in_full(&error)),
        Err(error) => {
            let why = crate::domain::failure::in_full(&error);
            outside.violation(Invariant::Durability, format!("served disks of {}: {why}", vm.name));
            Err(why)
        }
    }
}

/// How far the disks of the primary site are once they were restored: as far as the replica was.
pub(super) fn restored_prefix(outside: &Outside, vm: &Vm) -> Result<u64, String> {
    let machine = outside.machine(vm.id);
    if machine.runs {
        return Ok(machine.acked);
    }
    let disks = outside.attached(vm.id).ok_or("its disks are not attached")?;
    let found = match prefix(outside, &machine.workload, disks, LastWrite::MayBeTorn) {
        Ok(found) => found.last_write,
        Err(error @ CheckError::Unreadable { .. }) => {
            return Err(crate::domain::failure::in_full(&error));
        }
        Err(error) => {
            let why = crate::domain::failure::in_full(&error);
            outside.violation(Invariant::Durability, format!("restored {}: {why}", vm.name));
            return Err(why);
        }
    };
    let expected = machine.away.as_ref().map_or(0, |away| away.acked);
    if found < expected {
        let what = format!(
            "{} was brought back with the writes up to {found}, and its replica had {expected}",
            vm.name
        );
        outside.violation(Invariant::PlannedWithoutLoss, what);
    }
    Ok(found)
}

/// Proves the disks of a test.
pub(super) fn test_prefix(outside: &Outside, vm: &Vm, disks: &[ServedDisk]) -> Result<(), String> {
    let machine = outside.machine(vm.id);
    outside.storage.begin(None);
    match prefix(outside, &machine.workload, devices(outside, disks)?, LastWrite::MayBeTorn) {
        Ok(_) => Ok(()),
        Err(error @ CheckError::Unreadable { .. }) => Err(crate::domain::failure::in_full(&error)),
        Err(error) => {
            let why = crate::domain::failure::in_full(&error);
            outside.violation(Invariant::Restorable, format!("a test of {}: {why}", vm.name));
            Err(why)
        }
    }
}

/// What a failover brought along.
pub(super) fn judge_failover(outside: &Outside, vm: &Vm, served: u64, source: &Machine) {
    let Some(failover) = vm.failover else { return };
    if failover.started_at.is_some() {
        return;
    }
    let lost = source.workload.written_bytes(served, source.acked.max(served));
    outside.ghost.lost(vm.id, lost);
    // An operator who chose an older point asked for the loss.
    let is_latest = Some(failover.point) == vm.latest_point();
    let sent_first = vm.source_ended.as_ref().is_some_and(|ended| {
        vm.synchronizes && ended.unsent.is_none() && !matches!(ended.how, SourceEnd::OutOfReach(_))
    });
    let is_promised = failover.kind == FailoverKind::Planned || sent_first;
    if is_promised && is_latest && served < source.acked {
        let what = format!(
            "{} was moved with the writes up to {served}, and {} had been acknowledged",
            vm.name, source.acked
        );
        outside.violation(Invariant::PlannedWithoutLoss, what);
    }
}

/// Removes the newest segment of a VM's first disk, which somebody was told is safe.
pub(super) async fn lose_newest_object(outside: &Outside, vm: &Vm) {
    let Some(disk) = vm.disks.first() else { return };
    let named = outside.storage.named(&format!("{}/log/", disk.id)).await;
    if let Some(object) = named.last() {
        // It was listed just before.
        _ = outside.storage.objects().delete(object).await;
    }
}
