//! The guests: each issues the numbered writes of its workload, at whichever site it runs.

use super::super::ghost::{CutState, Invariant, Violation};
use super::super::plant::Plant;
use super::super::scenario::Burst;
use super::added::{Note, OpenDisk};
use super::{Away, Machine, Outside, Standing};
use crate::disk::raw::RawDisk;
use crate::disk::tracker::Tracker;
use crate::domain::id::VmId;
use crate::domain::vm::{Disk, Side, Vm};
use crate::ports::block::BlockDevice;
use crate::ports::clock::Clock;
use crate::ports::files::Open;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Writes of a guest between two flushes.
const FLUSH_EVERY: u64 = 8;

impl Away {
    /// How far it is.
    pub(in crate::sim) fn state(&self) -> CutState {
        CutState { acked: self.acked, torn: self.torn }
    }
}

impl Outside {
    /// Milliseconds until a guest writes again.
    pub(in crate::sim) fn pause_ms(&self, id: VmId) -> u64 {
        let machine = self.machine(id);
        let now = self.clock.passed_ms();
        if let Some(trace) = &machine.recorded {
            let next = machine
                .away
                .as_ref()
                .filter(|away| away.runs)
                .map_or(machine.acked, |away| away.acked);
            let due = machine.workload.recorded_place(next + 1).map(|place| trace.at_ms[place]);
            return due.map_or(60_000, |due| due.saturating_sub(now)).clamp(1, 60_000);
        }
        let in_burst =
            |burst: &&Burst| burst.at.0 <= now && now < burst.at.0.saturating_add(burst.r#for.0);
        let burst = machine.bursts.iter().find(in_burst);
        let rate = burst.map_or(machine.writes_per_minute, |burst| burst.writes_per_minute);
        let mean = 60_000 / u64::from(rate.max(1));
        let pace = format!("{} pace", machine.name);
        // A burst is looked for often enough not to be slept through.
        self.dice.between(&pace, mean / 2, mean + mean / 2).clamp(1, 60_000)
    }

    /// Whether it is time for a guest's write: one that was recorded has its moment, and after the last there is
    /// none.
    fn is_due(&self, machine: &Machine, n: u64) -> bool {
        let Some(trace) = &machine.recorded else { return true };
        let due = machine.workload.recorded_place(n).map(|place| trace.at_ms[place]);
        n <= machine.workload.install_writes()
            || due.is_some_and(|due| due <= self.clock.passed_ms())
    }

    /// The guest's turn: it writes where it runs, or tries to boot.
    pub(in crate::sim) fn guest_turn(&self, id: VmId, standing: Standing) {
        let machine = self.machine(id);
        self.replica_writes(id);
        if machine.runs {
            self.guest_writes(id);
        } else if machine.tracker.is_some() && !machine.switched_off && standing == Standing::Runs {
            self.boot(id);
        }
    }

    /// The guest's next write.
    pub(in crate::sim) fn guest_writes(&self, id: VmId) {
        let machine = self.machine(id);
        let Some(tracker) = machine.tracker.as_ref().filter(|_| machine.runs) else { return };
        let n = machine.acked + 1;
        if !self.is_due(&machine, n) || self.is_at_rest(&machine) {
            return;
        }
        if self.write(&machine, tracker, n).is_err() {
            if let Some(machine) = self.state().vms.get_mut(&id) {
                machine.torn = true;
            }
            return;
        }
        let flushed = n.is_multiple_of(FLUSH_EVERY) && flush(&machine, tracker).is_ok();
        let mut state = self.state();
        if let Some(machine) = state.vms.get_mut(&id) {
            machine.acked = n;
            machine.torn = false;
            if flushed {
                machine.flushed = n;
            }
        }
    }

    /// The next write of a guest at the recovery site.
    pub(in crate::sim) fn replica_writes(&self, id: VmId) {
        let machine = self.machine(id);
        let Some(away) = machine.away.as_ref().filter(|away| away.runs) else { return };
        let n = away.acked + 1;
        let (write, content) = (machine.workload.write(n), machine.workload.content(n));
        let device = away.exports.get(write.disk).and_then(|(_, export)| self.served(export));
        // What nobody serves, nobody writes to.
        let is_due = self.is_due(&machine, n) && !self.is_at_rest(&machine);
        let Some(device) = device.filter(|_| is_due) else { return };
        let notes = self.notes_away(&machine, away, n);
        self.storage.begin(None);
        let written = self.inline.call(move || {
            notes.into_iter().try_for_each(Note::write)?;
            device.write_at(&content, write.offset(), false)?;
            if n.is_multiple_of(FLUSH_EVERY) { device.flush() } else { Ok(()) }
        });
        let done = matches!(written, Ok(Ok(())));
        if let Some(away) = self.state().vms.get_mut(&id).and_then(|vm| vm.away.as_mut()) {
            away.torn = !done;
            away.acked += u64::from(done);
        }
    }

    pub(in crate::sim) fn write(
        &self,
        machine: &Machine,
        tracker: &Arc<Tracker>,
        n: u64,
    ) -> io::Result<()> {
        let write = machine.workload.write(n);
        let content = machine.workload.content(n);
        if self.plant == Some(Plant::UntrackedWrite) && n.is_multiple_of(9) {
            let disk = &machine.disks[write.disk];
            let files = self.state().hosts[&machine.host].files.clone();
            let image = machine.folder().join(format!("{}.img", disk.name));
            let device = RawDisk::open(&files, &image, Open::Write).map_err(io::Error::other)?;
            return device.write_at(&content, write.offset(), false);
        }
        self.notes(machine, tracker, n).into_iter().try_for_each(Note::write)?;
        let disk = tracker.disk(machine.disks[write.disk].id);
        disk.ok_or(io::ErrorKind::NotFound)?.write_at(&content, write.offset(), false)
    }

    /// A guest boots: it proves that what it had flushed is there, and writes the rest again, as a file
    /// system does from its journal.
    pub(in crate::sim) fn boot(&self, id: VmId) {
        let machine = self.machine(id);
        let Some(tracker) = machine.tracker.clone() else { return };
        let last = match (machine.acked, machine.torn) {
            // The very first boot installs the guest.
            (0, _) => machine.workload.install_writes(),
            (acked, true) => acked + 1,
            (acked, false) => acked,
        };
        let first = if machine.torn || machine.acked == 0 { machine.flushed } else { last };
        for n in first + 1..=last {
            if self.write(&machine, &tracker, n).is_err() {
                return;
            }
        }
        let mut state = self.state();
        let Some(booted) = state.vms.get_mut(&id) else { return };
        booted.acked = last;
        booted.torn = false;
        booted.rests_until_ms = 0;
        booted.runs = true;
    }

    /// Brings a guest to rest where it runs, for so long at most; answers whether it runs anywhere.
    pub(in crate::sim) fn rest(&self, id: VmId, at_most: Duration) -> io::Result<bool> {
        let machine = self.machine(id);
        if let Some(tracker) = machine.tracker.as_ref().filter(|_| machine.runs) {
            flush(&machine, tracker)?;
        }
        let until_ms = self.clock.passed_ms() + at_most.as_millis() as u64;
        let mut state = self.state();
        let Some(resting) = state.vms.get_mut(&id) else { return Ok(false) };
        if resting.runs {
            resting.flushed = resting.acked;
        }
        if self.plant != Some(Plant::RestlessGuest) {
            resting.rests_until_ms = until_ms;
        }
        Ok(resting.runs || resting.away.as_ref().is_some_and(|away| away.runs))
    }

    /// A guest goes on.
    pub(in crate::sim) fn wake(&self, id: VmId) {
        if let Some(machine) = self.state().vms.get_mut(&id) {
            machine.rests_until_ms = 0;
        }
    }

    fn is_at_rest(&self, machine: &Machine) -> bool {
        self.clock.passed_ms() < machine.rests_until_ms
    }

    /// Shuts a guest down in an orderly way.
    pub(in crate::sim) fn shut_down(&self, id: VmId) -> io::Result<()> {
        if self.plant == Some(Plant::ShutDownLies) {
            return Ok(());
        }
        let machine = self.machine(id);
        if let Some(tracker) = machine.tracker.as_ref().filter(|_| machine.runs) {
            flush(&machine, tracker)?;
        }
        let mut state = self.state();
        if let Some(off) = state.vms.get_mut(&id) {
            // One that lost its power flushes nothing any more.
            if off.runs {
                off.flushed = off.acked;
            }
            off.runs = false;
            off.switched_off = true;
        }
        Ok(())
    }

    /// The VM runs at the recovery site.
    pub(in crate::sim) fn runs_away(&self, id: VmId, away: Away) {
        if let Some(machine) = self.state().vms.get_mut(&id) {
            machine.away = Some(away);
        }
    }

    /// The VM does not run at the recovery site any more.
    pub(in crate::sim) fn ends_away(&self, id: VmId) {
        if self.plant == Some(Plant::ShutDownLies) {
            return;
        }
        if let Some(away) = self.state().vms.get_mut(&id).and_then(|vm| vm.away.as_mut()) {
            away.runs = false;
        }
    }

    /// Cuts a guest's power for good: only [`Outside::start_restored`] switches it on again.
    pub(in crate::sim) fn switch_off(&self, id: VmId) {
        if let Some(machine) = self.state().vms.get_mut(&id) {
            machine.runs = false;
            machine.switched_off = true;
        }
    }

    /// Switches a guest on whose disks hold the writes up to `last_write`. One that runs goes on.
    pub(in crate::sim) fn start_restored(&self, id: VmId, last_write: u64) {
        let mut state = self.state();
        let Some(machine) = state.vms.get_mut(&id).filter(|machine| !machine.runs) else { return };
        (machine.acked, machine.flushed) = (last_write, last_write);
        machine.torn = false;
        machine.switched_off = false;
        machine.away = None;
        machine.runs = true;
    }

    /// The disks of a VM that its host has attached.
    pub(in crate::sim) fn attached(&self, id: VmId) -> Option<Vec<OpenDisk>> {
        let machine = self.machine(id);
        let tracker = machine.tracker.as_ref()?;
        let device = |disk: &Disk| Some((disk.id, tracker.disk(disk.id)? as Arc<dyn BlockDevice>));
        machine.disks.iter().map(device).collect()
    }

    /// Switches a guest on whose failover was called off.
    pub(in crate::sim) fn switch_on(&self, id: VmId) {
        let off = {
            let mut state = self.state();
            state.vms.get_mut(&id).is_some_and(|vm| std::mem::take(&mut vm.switched_off))
        };
        if off {
            self.boot(id);
        }
    }

    /// Boots a guest that is off, from its disks as they are; answers whether it runs.
    pub(in crate::sim) fn boot_again(&self, id: VmId) -> bool {
        if let Some(machine) = self.state().vms.get_mut(&id) {
            machine.switched_off = false;
            machine.away = None;
        }
        if !self.machine(id).runs {
            self.boot(id);
        }
        self.machine(id).runs
    }

    /// Notes that the guest's disks may be cut at this moment, on the side that is replicated.
    pub(in crate::sim) fn may_be_cut(&self, vm: &Vm) {
        let machine = self.machine(vm.id);
        let second = self.clock.now().as_millis().div_euclid(1_000);
        if self.is_at_rest(&machine) {
            self.ghost.rests(vm.id, second);
        }
        let Machine { acked, torn, away, .. } = machine;
        let state = match vm.source {
            Side::Primary => CutState { acked, torn },
            Side::Recovery => away.map_or(CutState { acked: 0, torn: false }, |away| away.state()),
        };
        self.ghost.may_be_cut(vm.id, second, state);
    }

    /// Notes something that must never be.
    pub(in crate::sim) fn violation(&self, invariant: Invariant, what: String) {
        self.ghost.violated(Violation { invariant, at_ms: self.clock.passed_ms(), what });
    }
}

pub(in crate::sim) fn flush(machine: &Machine, tracker: &Arc<Tracker>) -> io::Result<()> {
    machine.disks.iter().filter_map(|disk| tracker.disk(disk.id)).try_for_each(|disk| disk.flush())
}
