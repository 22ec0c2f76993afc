//! What a tracker and its disks share: the gate that every write passes, and the state file.

use super::disk::Disk;
use super::log::DiskLogs;
use super::state::{Durable, State, StateFile, Tracking};
use super::{Broken, TrackError};
use crate::domain::id::DiskId;
use crate::ports::clock::Clock;
use crate::ports::files::Files;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What happens to a write. Whoever writes holds the gate for reading from before the log is written
/// until the disk is; whoever changes it holds it for writing, and so sees no write half done on any
/// disk of the VM.
#[derive(Debug)]
pub(super) enum Gate {
    /// It goes to the disk.
    Off,
    /// It goes to the disk's log, then to the disk. By index of the disk.
    On(Vec<DiskLogs>),
    /// It goes to the disk; the logs lack some.
    Broken(Broken),
    /// It is refused.
    Closed,
}

/// What a tracker and its disks share. Locks are taken in the order gate, state.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) files: Arc<dyn Files>,
    pub(super) folder: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) disks: Vec<Disk>,
    gate: RwLock<Gate>,
    state_file: StateFile,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(
        files: Arc<dyn Files>,
        folder: PathBuf,
        clock: Arc<dyn Clock>,
        disks: Vec<Disk>,
        state: State,
        gate: Gate,
    ) -> Self {
        let state_file = StateFile::new(&folder);
        let (gate, state) = (RwLock::new(gate), Mutex::new(state));
        Self { files, folder, clock, disks, gate, state_file, state }
    }

    pub(super) fn read_gate(&self) -> RwLockReadGuard<'_, Gate> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_gate(&self) -> RwLockWriteGuard<'_, Gate> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> State {
        self.lock_state().clone()
    }

    /// Changes the state; durable on return. An error leaves it as it was, at least in memory.
    pub(super) fn change_state(&self, change: impl FnOnce(&mut State)) -> Result<(), TrackError> {
        let mut state = self.lock_state();
        let mut changed = state.clone();
        change(&mut changed);
        self.state_file.write(&*self.files, &changed)?;
        *state = changed;
        Ok(())
    }

    /// Removes the state file; durable on return. The count of chains goes on as long as this lives.
    pub(super) fn forget_state(&self) -> Result<(), TrackError> {
        let _state = self.lock_state();
        self.state_file.remove(&*self.files)
    }

    /// Makes all devices durable.
    pub(super) fn flush_devices(&self) -> Result<(), TrackError> {
        for disk in &self.disks {
            self.flush_device(disk).map_err(|source| TrackError::Disk { disk: disk.id, source })?;
        }
        Ok(())
    }

    /// Makes a device durable. Where that fails while tracking is broken, the next start knows it too.
    pub(super) fn flush_device(&self, disk: &Disk) -> io::Result<()> {
        disk.flush_device().inspect_err(|_| {
            let state = self.state();
            let known = state.disks.get(&disk.id).map(|known| known.durable);
            if !matches!(state.tracking, Tracking::Broken(_)) || known != Some(Durable::Yes) {
                return;
            }
            if let Err(error) = self.change_state(|state| state.doubt(|id| *id == disk.id)) {
                tracing::error!(disk = %disk.name, %error, "cannot record that a flush failed");
            }
        })
    }

    /// Ends tracking for a reason, with the guest going on. Returns once it is certain that no start
    /// of the tracker takes the logs for whole. What was flushed is durable on the disks by then; of a disk that
    /// cannot be made durable it is in the logs, and the state says so: flushes of it by the guest fail from there
    /// on, and a start after a power loss applies them.
    pub(super) fn break_with(&self, reason: Broken) {
        let mut gate = self.write_gate();
        let Gate::On(logs) = &*gate else { return };
        tracing::error!(folder = %self.folder.display(), %reason, "tracking is broken");
        let undurable = self.undurable(logs);
        if undurable.is_empty() {
            self.save_suspects();
        }
        self.record_broken(&reason, logs, &undurable);
        *gate = Gate::Broken(reason);
    }

    /// The disks that cannot be made durable, not even by their logs.
    fn undurable(&self, logs: &[DiskLogs]) -> BTreeSet<DiskId> {
        let mut undurable = BTreeSet::new();
        for (disk, logs) in self.disks.iter().zip(logs) {
            if disk.flush_device().is_ok() {
                continue;
            }
            if let Err(error) = self.redo(disk, logs) {
                tracing::error!(disk = %disk.name, %error, "a disk cannot be made durable");
                undurable.insert(disk.id);
            }
        }
        undurable
    }

    /// Marks the regions that `range` touches, before the first write into them. A guest is never held
    /// up by marks that cannot be written: they are given up, and tracking is broken.
    pub(super) fn mark(&self, disk: &Disk, range: &Range<u64>) {
        let Err(error) = disk.suspects.marks.mark(range) else { return };
        let path = disk.suspects.marks.path().to_owned();
        if let Err(error) = disk.suspects.give_marks_up(&*self.files) {
            tracing::error!(
                path = %path.display(), %error,
                "cannot remove marks that lack a region; remove the file before the next start"
            );
        }
        let error = error.to_string();
        self.break_with(Broken::LogWriteFailed { disk: disk.id, path, error });
    }

    /// Saves what is suspect, where that works; marks stand in for it where it does not. Nobody may
    /// write meanwhile, and the disks must have been flushed.
    fn save_suspects(&self) {
        let chain = self.state().chain;
        for disk in &self.disks {
            if let Err(error) = disk.suspects.save(&*self.files, chain) {
                tracing::warn!(disk = %disk.name, %error, "what may differ is known by region only");
            }
        }
    }

    /// Records that the logs are not whole, and which disks may lack what they hold: in the state, or else, on a
    /// volume that is full, in the logs themselves, or else by removing them, or else, where that volume takes nothing
    /// at all, by a mark on the disks.
    fn record_broken(&self, reason: &Broken, logs: &[DiskLogs], undurable: &BTreeSet<DiskId>) {
        let broken = |state: &mut State| {
            state.tracking = Tracking::Broken(reason.clone());
            for (disk, known) in &mut state.disks {
                known.durable =
                    if undurable.contains(disk) { Durable::WithItsLogs } else { Durable::Yes };
            }
        };
        let Err(error) = self.change_state(broken) else { return };
        broken(&mut self.lock_state());
        for (disk, log) in self.disks.iter().zip(logs) {
            let is_needed = undurable.contains(&disk.id);
            let code = if is_needed { GIVEN_UP_AND_NEEDED } else { GIVEN_UP };
            let marked = log.active.writer().give_up(code).is_ok();
            let recorded = marked
                || !is_needed
                    && (disk.names.remove_logs(&*self.files).is_ok()
                        || disk.device.set_mark(true).is_ok());
            if !recorded {
                tracing::error!(
                    disk = %disk.name, %error,
                    "cannot record that the logs are not whole; do not let them be applied"
                );
            }
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error code in the header of a log that was given up: `E_FAIL` of Windows.
const GIVEN_UP: i32 = 0x8000_4005_u32 as i32;

/// The same for a log of a disk that may lack what it holds: `STG_E_WRITEFAULT` of Windows.
pub(super) const GIVEN_UP_AND_NEEDED: i32 = 0x8003_001D_u32 as i32;
