//! A disk that is made larger while its VM runs and is replicated.
//!
//! ```text
//!  Protected --ResizeDisk--> what was written is sent --> DiskResized --> what was added is tracked, offered,
//!      ^                                                                  compared, and sent
//!      '------------------------------------------------------------------------------'
//! ```
//!
//! The size of a disk is the one that the VM's events say. Its file may be longer: what lies beyond is no part
//! of the disk until a resize takes it up. So a file that somebody made longer changes nothing by itself, and
//! points from before a resize keep the size that the disk had.
//!
//! The VM stays protected throughout. From `DiskResized` on there is no way back: a disk cannot shrink. What
//! was added is only compared, so a file that was longer before and holds something there is no special case.
//! A failover that took the place of the job and led back leaves what was added unseeded, and then the VM is
//! resynchronized.

use super::addition;
use super::rules::{begin_resync, start};
use super::{Disk, Event, Phase, ResyncReason, ResyncWindow, Vm};
use crate::domain::entity::Rejection;
use crate::domain::id::{DiskId, JobId};
use crate::domain::job::JobKind;
use crate::domain::prerequisites;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The operation, by its name in the API.
pub(super) const OPERATION: &str = "ResizeDisk";

/// What the size of a disk is a multiple of.
pub(super) const SECTOR_BYTES: u64 = 512;

/// A disk that is being made larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    /// Which disk.
    pub disk: DiskId,
    /// Its size before, in bytes.
    pub from_bytes: u64,
    /// Its size then.
    pub to_bytes: u64,
    /// Whether it has that size: what was added is still to be seeded.
    pub grown: bool,
}

/// The size of a disk in recovery points from before it grew; 0 in those from before it was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerSize {
    /// Which disk.
    pub disk: DiskId,
    /// The last cycle whose point has it so.
    pub until_cycle: u64,
    /// Its size in bytes.
    pub size_bytes: u64,
}

impl Vm {
    /// The size of one of its disks in the point of a cycle.
    pub fn size_in_point(&self, disk: &Disk, cycle: u64) -> u64 {
        let former = self.former_sizes.iter().filter(|it| it.disk == disk.id);
        let at = former.filter(|it| cycle <= it.until_cycle).min_by_key(|it| it.until_cycle);
        at.map_or(disk.size_bytes, |former| former.size_bytes)
    }

    /// Whether the point of a cycle has one of its disks: none has it from before it was added.
    pub fn is_in_point(&self, disk: &Disk, cycle: u64) -> bool {
        0 < self.size_in_point(disk, cycle)
    }

    /// Those of its disks that the point of a cycle has.
    pub fn disks_in_point(&self, cycle: u64) -> impl Iterator<Item = &Disk> {
        self.disks.iter().filter(move |disk| self.is_in_point(disk, cycle))
    }

    /// The disks that a job is about.
    pub(super) fn disks_of(&self, kind: JobKind) -> Vec<DiskId> {
        match (kind, self.resize) {
            (kind, Some(resize)) if kind.changes_disks() => vec![resize.disk],
            _ => self.disks.iter().map(|disk| disk.id).collect(),
        }
    }

    /// What was added to a disk and has to be seeded, while that is done.
    pub fn added_range(&self, disk: DiskId) -> Option<Range<u64>> {
        let resize = self.resize.filter(|resize| resize.disk == disk)?;
        self.has_added_something().then_some(resize.from_bytes..resize.to_bytes)
    }

    /// Whether the running job has added something to the disks, which it seeds.
    pub fn has_added_something(&self) -> bool {
        self.resize.is_some_and(|resize| resize.grown)
            && self.job.as_ref().is_some_and(|job| job.kind.changes_disks())
    }
}

/// A disk is to have another size.
pub(super) fn request(
    vm: &Vm,
    job: JobId,
    disk: DiskId,
    size_bytes: u64,
) -> Result<Vec<Event>, Rejection> {
    let known = vm.disks.iter().find(|known| known.id == disk);
    let known = known.ok_or(Rejection::Unknown { what: "disk", name: disk.to_string() })?;
    let refused = |allowed| {
        let value = format!("{size_bytes} (disk {} has {})", known.name, known.size_bytes);
        Err(Rejection::OutOfRange { what: "the size of a disk in bytes", value, allowed })
    };
    if size_bytes < known.size_bytes {
        return refused("not less than the disk has: a protected disk cannot shrink");
    }
    if !size_bytes.is_multiple_of(SECTOR_BYTES) {
        return refused("a multiple of 512");
    }
    if size_bytes == known.size_bytes {
        return Ok(vec![]);
    }
    let mut grown = vm.clone();
    set_size(&mut grown, disk, size_bytes);
    let failed = prerequisites::failed(&grown);
    if !failed.is_empty() {
        return Err(Rejection::Prerequisites { name: vm.name.clone(), failed });
    }
    let mut events = vec![Event::DiskResizeRequested { disk, size_bytes }];
    events.extend(start(job, JobKind::ResizeDisk));
    Ok(events)
}

/// The inventory found a VM that is not protected with disks of other sizes: nothing depends on those that
/// were known. `None` where that is not all that differs.
pub(super) fn found_unprotected(vm: &Vm, disks: &[Disk]) -> Option<Vec<Event>> {
    let same = |(known, found): (&Disk, &Disk)| known.id == found.id && known.name == found.name;
    let same = vm.disks.len() == disks.len() && vm.disks.iter().zip(disks).all(same);
    let pairs = vm.disks.iter().zip(disks);
    let resized = pairs.filter(|(known, found)| known.size_bytes != found.size_bytes);
    (vm.phase == Phase::Unprotected && same).then(|| {
        let resized = resized.map(|(_, found)| (found.id, found.size_bytes));
        resized.map(|(disk, size_bytes)| Event::DiskResized { disk, size_bytes }).collect()
    })
}

/// The file of the disk is as long as it has to be.
pub(super) fn grown(vm: &Vm, disk: DiskId) -> Vec<Event> {
    let resize = vm.resize.filter(|resize| resize.disk == disk);
    resize.map_or(vec![], |it| vec![Event::DiskResized { disk, size_bytes: it.to_bytes }])
}

/// What brings a disk into step that grew, and whose job a failover took the place of; `None` if none did.
pub(super) fn left_unfinished(vm: &Vm, now: Timestamp) -> Option<Vec<Event>> {
    let resize = vm.resize.filter(|resize| resize.grown)?;
    let disk = vm.disks.iter().find(|disk| disk.id == resize.disk);
    let name = disk.map_or_else(|| resize.disk.to_string(), |disk| disk.name.clone());
    let because = if resize.from_bytes == 0 {
        format!("disk {name} was added, and is not in the replica")
    } else {
        format!("disk {name} grew, and what was added is not in the replica")
    };
    let mut events = vec![Event::MarkedForResync { reason: ResyncReason::DiskChanged(because) }];
    // Whoever led the failover back is there, and wants the VM as well protected as before.
    events.extend(begin_resync(vm, ResyncWindow::Always, now));
    Some(events)
}

/// The disks, and their sizes, are those of the point that the VM failed over to.
pub(super) fn go_back_to_disks_of_point(vm: &mut Vm) {
    let Some(failover) = vm.failover else { return };
    let cycle = failover.point.cycle;
    let disks = vm.disks_in_point(cycle);
    let disks =
        disks.map(|disk| Disk { size_bytes: vm.size_in_point(disk, cycle), ..disk.clone() });
    vm.disks = disks.collect();
    (vm.resize, vm.former_sizes) = (None, vec![]);
    addition::forget_disks_that_are_not_there(vm);
}

/// What one event makes of a VM's disks.
pub(super) fn apply(vm: &mut Vm, event: &Event) {
    match event {
        Event::DiskResizeRequested { disk, size_bytes } => {
            let known = vm.disks.iter().find(|known| known.id == *disk);
            vm.resize = known.map(|known| Resize {
                disk: *disk,
                from_bytes: known.size_bytes,
                to_bytes: *size_bytes,
                grown: false,
            });
        }
        Event::DiskResized { disk, size_bytes } => {
            let known = vm.disks.iter().find(|known| known.id == *disk);
            if let (Some(known), Some(point)) = (known, vm.latest_point()) {
                let (disk, until_cycle, size_bytes) = (*disk, point.cycle, known.size_bytes);
                vm.former_sizes.push(FormerSize { disk, until_cycle, size_bytes });
            }
            set_size(vm, *disk, *size_bytes);
            if let Some(resize) = vm.resize.as_mut() {
                resize.grown = true;
            }
        }
        _ => {}
    }
}

fn set_size(vm: &mut Vm, disk: DiskId, size_bytes: u64) {
    if let Some(disk) = vm.disks.iter_mut().find(|known| known.id == disk) {
        disk.size_bytes = size_bytes;
    }
}
