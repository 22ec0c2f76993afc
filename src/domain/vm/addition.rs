//! A disk that is added while its VM runs and is replicated: one that grows from nothing, as a [`Resize`] does.
//!
//! ```text
//!  Protected --AddDisk--> what was written is sent --> DiskAdded --> it is tracked, offered, compared, and sent
//!      ^                                                                                                  |
//!      '--------------------------------------------------------------------------------------------------'
//! ```
//!
//! Points from before `DiskAdded` are of the VM without the disk, those from after it have it. It is tracked before
//! anybody can write to it, and compared with a replica of zeroes: of a blank disk nothing travels. The VM stays
//! protected throughout, and makes no point meanwhile: a point has all disks of the VM, cut at one instant, and a
//! VM does one piece of work at a time.
//!
//! From `DiskAdded` on there is no way back: somebody may have written to the disk. A failover to a point that lacks
//! it leaves the VM without the disk once it is committed; its image stays where it is.

use super::resize::{self, FormerSize, Resize};
use super::rules::start;
use super::{Disk, Event, Vm};
use crate::domain::entity::Rejection;
use crate::domain::id::{DiskId, JobId};
use crate::domain::job::JobKind;
use crate::domain::prerequisites::{self, NAME_RULE, is_good_name};
use serde::{Deserialize, Serialize};

/// The operation, by its name in the API.
pub(super) const OPERATION: &str = "AddDisks";

/// A disk that the log says where to find, since it was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedDisk {
    /// The disk as it was added.
    pub disk: Disk,
    /// The path of its image at the primary site.
    pub image: String,
}

impl Vm {
    /// What the log says of a disk that was added, or is to be.
    pub fn added_disk(&self, disk: DiskId) -> Option<&AddedDisk> {
        self.added.iter().find(|added| added.disk.id == disk)
    }

    /// The disk that is to be added, while it is not one of the VM's.
    pub fn disk_to_add(&self) -> Option<&AddedDisk> {
        self.added.iter().find(|added| self.disks.iter().all(|disk| disk.id != added.disk.id))
    }
}

/// The VM is to have another disk.
pub(super) fn request(
    vm: &Vm,
    job: JobId,
    disk: &Disk,
    image: &str,
) -> Result<Vec<Event>, Rejection> {
    if vm.added_disk(disk.id).is_some_and(|added| added.image == image) {
        return Ok(vec![]);
    }
    if vm.disks.iter().any(|own| own.id == disk.id || own.name == disk.name) {
        let name = format!("disk {} of {}", disk.name, vm.name);
        return Err(Rejection::Conflict { name, difference: "image" });
    }
    if !is_good_name(&disk.name) {
        let (value, allowed) = (format!("{:?}", disk.name), NAME_RULE);
        return Err(Rejection::OutOfRange { what: "the name of a disk", value, allowed });
    }
    if disk.size_bytes == 0 || !disk.size_bytes.is_multiple_of(resize::SECTOR_BYTES) {
        let value = format!("{} (disk {})", disk.size_bytes, disk.name);
        let (what, allowed) = ("the size of a disk in bytes", "a multiple of 512, and not 0");
        return Err(Rejection::OutOfRange { what, value, allowed });
    }
    let mut larger = vm.clone();
    larger.disks.push(disk.clone());
    let failed = prerequisites::failed(&larger);
    if !failed.is_empty() {
        return Err(Rejection::Prerequisites { name: vm.name.clone(), failed });
    }
    let requested = Event::DiskAddRequested { disk: disk.clone(), image: image.to_owned() };
    let mut events = vec![requested];
    events.extend(start(job, JobKind::AddDisk));
    Ok(events)
}

/// What was written before is in the vault: the disk becomes one of the VM's.
pub(super) fn added(vm: &Vm) -> Option<Event> {
    vm.disk_to_add().map(|added| Event::DiskAdded { disk: added.disk.id })
}

/// What one event makes of a VM's disks.
pub(super) fn apply(vm: &mut Vm, event: &Event) {
    match event {
        Event::DiskAddRequested { disk, image } => {
            let Disk { id, size_bytes, .. } = *disk;
            vm.resize =
                Some(Resize { disk: id, from_bytes: 0, to_bytes: size_bytes, grown: false });
            vm.added.push(AddedDisk { disk: disk.clone(), image: image.clone() });
        }
        Event::DiskAdded { disk } => {
            let Some(AddedDisk { disk, .. }) = vm.added_disk(*disk).cloned() else { return };
            if let Some(point) = vm.latest_point() {
                let (until_cycle, size_bytes) = (point.cycle, 0);
                vm.former_sizes.push(FormerSize { disk: disk.id, until_cycle, size_bytes });
            }
            vm.disks.push(disk);
            if let Some(resize) = vm.resize.as_mut() {
                resize.grown = true;
            }
        }
        _ => {}
    }
}

/// Nobody has to find a disk that was never added, or that a failover left behind.
pub(super) fn forget_disks_that_are_not_there(vm: &mut Vm) {
    let disks = &vm.disks;
    vm.added.retain(|added| disks.iter().any(|disk| disk.id == added.disk.id));
}
