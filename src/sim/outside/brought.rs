//! Failbacks to another host. A guest that nobody reached when its VM was brought away from its host runs on there,
//! until somebody turns it off or the host dies.

use super::Outside;
use crate::domain::id::{HostId, VmId};
use crate::domain::vm::{Failback, Vm};
use crate::ports::files::{Files, Open};
use crate::sim::dice::keyed;
use crate::sim::plant::Plant;
use std::io;

impl Outside {
    /// Has a VM be at its host: whoever has its disks lets them go, and those that are to be made there are.
    ///
    /// # Errors
    /// What the files of the host answer.
    pub(in crate::sim) fn bring(&self, vm: &Vm) -> io::Result<()> {
        self.leave_other_host(vm);
        if vm.failback.as_ref().is_some_and(Failback::makes_disks) {
            self.make_disks(vm)?;
        }
        Ok(())
    }

    fn leave_other_host(&self, vm: &Vm) {
        let machine = self.machine(vm.id);
        let (from, to) = (machine.host, vm.host);
        if from == to {
            return;
        }
        let is_there = self.answers(from);
        if let Some(life) = self.state().life.as_ref() {
            life.sources.detach(vm.id);
        }
        if let Some(tracker) = machine.tracker.as_ref().filter(|_| is_there) {
            // What could not be closed is found as after a kill.
            _ = tracker.close();
        }
        self.set_failing(vm.id, false);
        let shared = self.share_disks(from, to);
        let mut state = self.state();
        if shared {
            let forgets = keyed(state.lives, &machine.name, machine.acked);
            let memory = if is_there { None } else { Some(forgets) };
            state.hosts[&from].disk.hand_over(&machine.folder(), &state.hosts[&to].disk, memory);
        }
        let Some(own) = state.vms.get_mut(&vm.id) else { return };
        if std::mem::take(&mut own.runs) && !is_there {
            own.strays.insert(from);
        }
        own.strays.remove(&to);
        (own.host, own.tracker, own.closed) = (to, None, false);
    }

    /// Makes the images of those disks that are not there, empty.
    fn make_disks(&self, vm: &Vm) -> io::Result<()> {
        let (folder, files) = {
            let state = self.state();
            (state.vms[&vm.id].folder(), state.hosts[&vm.host].files.clone())
        };
        for disk in &vm.disks {
            let file = files.open(&folder.join(format!("{}.img", disk.name)), Open::Create)?;
            if file.len()? < disk.size_bytes {
                file.set_len(disk.size_bytes)?;
            }
            file.sync_data()?;
        }
        files.sync_dir(&folder)
    }

    /// Whether a host is one that the VM was brought away from, or is about to be brought to.
    pub(in crate::sim) fn is_elsewhere(&self, vm: &Vm) -> bool {
        self.machine(vm.id).host != vm.host
    }

    /// A guest that ran on at such a host is off.
    pub(in crate::sim) fn end_stray(&self, vm: VmId, host: HostId) {
        if self.plant == Some(Plant::ShutDownLies) {
            return;
        }
        if let Some(machine) = self.state().vms.get_mut(&vm) {
            machine.strays.remove(&host);
        }
    }

    /// Whether a guest runs on at such a host, where the service could turn it off.
    pub(in crate::sim) fn stray_within_reach(&self, vm: VmId) -> bool {
        self.machine(vm).strays.iter().any(|host| self.answers(*host))
    }

    /// A host died, and its guests with it.
    pub(super) fn lose_strays(&self, host: HostId) {
        for machine in self.state().vms.values_mut() {
            machine.strays.remove(&host);
        }
    }
}
