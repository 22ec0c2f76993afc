//! Disks that somebody changes while the agent that tracks them is down.
//!
//! Somebody runs the guest elsewhere, without a tracker: what it writes there is acknowledged, and from then on
//! part of what the VM is. So whether a change was noticed is proven as everything else is: recovery points that
//! are made later must hold it.

use super::super::plant::Plant;
use super::added::{begin, note};
use super::{Machine, Outside, Standing};
use crate::disk::raw::RawDisk;
use crate::domain::id::VmId;
use crate::ports::block::BlockDevice;
use crate::ports::files::{Files, Open};
use std::io;
use std::path::Path;

/// Writes that a guest makes elsewhere, at most.
const WRITES: (u64, u64) = (1, 12);

impl Outside {
    /// Somebody runs a VM elsewhere for a while: in place where its disks were closed in good order, else from copies,
    /// which then take the place of its disks. What is written in place after a kill cannot be told from what the
    /// killed agent itself wrote last.
    ///
    /// # Errors
    /// Why nobody can.
    pub(in crate::sim) fn edit_disks(&self, id: VmId, standing: Standing) -> Result<(), String> {
        let machine = self.machine(id);
        let is_up = {
            let state = self.state();
            state.life.is_some() && state.hosts[&machine.host].up
        };
        if is_up {
            return Err("its agent runs and holds its disks".to_owned());
        }
        if machine.acked == 0 || machine.switched_off || standing != Standing::Runs {
            return Err("it is not to run at the primary site".to_owned());
        }
        let disk = self.state().hosts[&machine.host].disk.clone();
        disk.restart();
        let last = machine.acked + self.dice.between("edited", WRITES.0, WRITES.1);
        let in_place = machine.closed || self.plant == Some(Plant::UnseenEdit);
        let edited = if in_place {
            write_in_place(&*disk, &machine, last)
        } else {
            replace(&*disk, &machine, last)
        };
        disk.kill_after(0);
        edited.map_err(|error| error.to_string())?;
        if let Some(machine) = self.state().vms.get_mut(&id) {
            (machine.acked, machine.flushed, machine.torn) = (last, last, false);
        }
        Ok(())
    }
}

/// The guest's writes up to `last`, in the files that are there.
fn write_in_place(files: &dyn Files, machine: &Machine, last: u64) -> io::Result<()> {
    let image = |name: &str| machine.folder().join(format!("{name}.img"));
    let open = |path: &Path| RawDisk::open(files, path, Open::Write).map_err(io::Error::other);
    let disks: Vec<RawDisk> =
        machine.disks.iter().map(|disk| open(&image(&disk.name))).collect::<io::Result<_>>()?;
    write(machine, &disks, machine.flushed + 1, last)
}

/// Other files with all of the guest's writes take the place of those that are there.
fn replace(files: &dyn Files, machine: &Machine, last: u64) -> io::Result<()> {
    let folder = machine.folder();
    let copy = |name: &str| folder.join(format!("{name}.copy"));
    let create = |disk: &crate::domain::vm::Disk| {
        RawDisk::create(files, &copy(&disk.name), disk.size_bytes).map_err(io::Error::other)
    };
    let disks: Vec<RawDisk> = machine.disks.iter().map(create).collect::<io::Result<_>>()?;
    disks.iter().skip(machine.workload.disks().len()).try_for_each(|disk| begin(disk))?;
    write(machine, &disks, 1, last)?;
    for disk in &machine.disks {
        files.rename(&copy(&disk.name), &folder.join(format!("{}.img", disk.name)))?;
    }
    files.sync_dir(&folder)
}

fn write(machine: &Machine, disks: &[RawDisk], first: u64, last: u64) -> io::Result<()> {
    for n in first..=last {
        let write = machine.workload.write(n);
        for (disk, device) in machine.disks.iter().zip(disks).skip(machine.workload.disks().len()) {
            let (offset, note) = note(&machine.workload, disk.id, disk.size_bytes, n);
            device.write_at(&note, offset, false)?;
        }
        disks[write.disk].write_at(&machine.workload.content(n), write.offset(), false)?;
    }
    // Whoever does this closes the disks, and what file systems write by themselves within seconds, as the time of the
    // change, is there before anything else goes wrong.
    disks.iter().try_for_each(|disk| disk.identity().map(drop))
}
