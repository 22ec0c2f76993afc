//! Disks that are added to VMs while they run.
//!
//! A guest goes on with the writes of its workload on the disks that it was made for. On each disk that was added it
//! notes every write before it makes it, in one of a few blocks by turns: so what the disk must hold follows from how
//! far the guest is. The last block of an image is filled before anybody adds it.

use super::{Away, Machine, Outside};
use crate::disk::raw::RawDisk;
use crate::disk::tracker::Tracker;
use crate::domain::id::{DiskId, VmId};
use crate::domain::vm::{AddedDisk, Disk};
use crate::drivers::lab::{BLOCK_BYTES, CheckError, Content, Mismatch, Workload};
use crate::ports::block::BlockDevice;
use crate::ports::files::{Files, Open};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The size of a disk that is added.
const DISK_BYTES: u64 = 64 * BLOCK_BYTES as u64;

/// Blocks that take the notes by turns.
const NOTES: u64 = 16;

/// What the last block of an image is filled with.
const FILLED: u8 = 0xa5;

/// A disk that can be read.
pub(in crate::sim) type OpenDisk = (DiskId, Arc<dyn BlockDevice>);

/// A note that is to be made.
pub(super) struct Note {
    device: Arc<dyn BlockDevice>,
    offset: u64,
    content: Vec<u8>,
}

impl Note {
    pub(super) fn write(self) -> io::Result<()> {
        self.device.write_at(&self.content, self.offset, false)
    }
}

/// A disk that an operator adds, and the path of its image.
pub(in crate::sim) fn added_disk(vm: VmId, vm_name: &str, name: String) -> (Disk, String) {
    let image = format!("/vms/{vm_name}/{name}.img");
    (Disk { id: DiskId::named(vm.0, &name), name, size_bytes: DISK_BYTES }, image)
}

/// The note of a write, and where it goes.
pub(super) fn note(workload: &Workload, disk: DiskId, bytes: u64, n: u64) -> (u64, Vec<u8>) {
    let block = n % NOTES.min(bytes / BLOCK_BYTES as u64 - 1);
    let mut content = [0; BLOCK_BYTES];
    workload.fill(&mut content, disk.0.as_u64_pair().0 as usize, block, n);
    (block * BLOCK_BYTES as u64, content.to_vec())
}

/// What an image holds before it is added.
pub(super) fn begin(device: &dyn BlockDevice) -> io::Result<()> {
    let last = device.size_bytes() - BLOCK_BYTES as u64;
    device.write_at(&[FILLED; BLOCK_BYTES], last, false)?;
    device.flush()
}

impl Outside {
    /// Somebody makes an image at a VM's host.
    pub(in crate::sim) fn make_image(&self, vm: VmId, disk: &Disk, image: &str) -> io::Result<()> {
        let files = self.files_of(vm);
        let made = RawDisk::create(&*files, Path::new(image), disk.size_bytes);
        begin(&made.map_err(io::Error::other)?)?;
        files.sync_dir(&self.machine(vm).folder())
    }

    /// Whether an image can be a disk.
    pub(in crate::sim) fn check_image(&self, vm: VmId, disk: &AddedDisk) -> Result<(), String> {
        let image = RawDisk::open(&*self.files_of(vm), Path::new(&disk.image), Open::Read);
        let bytes = image.map_err(|error| crate::domain::failure::in_full(&error))?.size_bytes();
        let fits = bytes == disk.disk.size_bytes;
        if fits { Ok(()) } else { Err(format!("it has {bytes} bytes")) }
    }

    fn files_of(&self, vm: VmId) -> Arc<dyn Files> {
        let state = self.state();
        Arc::new(state.hosts[&state.vms[&vm].host].files.clone())
    }

    /// The notes that a guest makes of a write at the primary site.
    pub(super) fn notes(&self, machine: &Machine, tracker: &Tracker, n: u64) -> Vec<Note> {
        let added = machine.disks.iter().skip(machine.workload.disks().len());
        let device = |disk: &Disk| {
            let device = tracker.disk(disk.id)? as Arc<dyn BlockDevice>;
            Some(self.note(machine, disk.id, device, n))
        };
        added.filter_map(device).collect()
    }

    /// The notes that it makes at the recovery site.
    pub(super) fn notes_away(&self, machine: &Machine, away: &Away, n: u64) -> Vec<Note> {
        let added = away.exports.iter().skip(machine.workload.disks().len());
        let device = |(disk, export): &(DiskId, String)| {
            Some(self.note(machine, *disk, self.served(export)?, n))
        };
        added.filter_map(device).collect()
    }

    fn note(&self, machine: &Machine, disk: DiskId, device: Arc<dyn BlockDevice>, n: u64) -> Note {
        self.ghost.noted(disk, n);
        let (offset, content) = note(&machine.workload, disk, device.size_bytes(), n);
        Note { device, offset, content }
    }
}

/// Proves a disk that was added, of a guest which came to a write: it has the note of each of the last writes from
/// the first that was noted on. That of the write after it may be there, or be there in part.
pub(in crate::sim) fn check_notes(
    workload: &Workload,
    nth: usize,
    (id, device): &OpenDisk,
    last_write: u64,
    noted_from: u64,
) -> Result<(), CheckError> {
    let read = |offset: u64| {
        let mut block = vec![0; BLOCK_BYTES];
        device.read_at(&mut block, offset).map_err(|source| CheckError::Unreadable {
            disk: nth,
            offset,
            source,
        })?;
        Ok::<_, CheckError>(block)
    };
    let wrong = |offset: u64, expected| {
        let block = offset / BLOCK_BYTES as u64;
        CheckError::from(Mismatch {
            disk: nth,
            block,
            last_write,
            expected,
            found: Content::Damaged,
        })
    };
    let size = device.size_bytes();
    for n in (last_write + 2).saturating_sub(NOTES)..=last_write {
        let (offset, expected) = note(workload, *id, size, n);
        let found = read(offset)?;
        let may_be_blank = n < noted_from && found.iter().all(|byte| *byte == 0);
        if found != expected && !may_be_blank {
            return Err(wrong(offset, Content::Write(n)));
        }
    }
    let last = size - BLOCK_BYTES as u64;
    if read(last)?.iter().any(|byte| *byte != FILLED) {
        return Err(wrong(last, Content::Untouched));
    }
    Ok(())
}
