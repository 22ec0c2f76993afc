//! What a disk lost with a flush that failed is written to it again.
//!
//! The kernel reports such an error once, and then forgets both the error and the data: a later flush that
//! succeeds proves nothing, and after a power loss the disk may be as it was before. So it is written again, and a
//! flush that succeeds after that proves everything:
//!
//! | tracking | what is written again |
//! |---|---|
//! | on | the logs: they are dropped only once the disk is durable, so whatever it can have lost is in them |
//! | broken | the logs, by the start after a power loss: what came after them no flush has promised. While the machine runs, what the disk shows of all that is suspect, which is what its guest goes on with |
//! | off | nothing: its guest was told |

use super::disk::Disk;
use super::gate::{Gate, Shared};
use super::log::DiskLogs;
use super::reopen::file_error;
use super::state::{Durable, State};
use super::{TrackError, Tracker, lineage};
use crate::disk::hrl::{Damage, LogError, LogReader, recover_after_power_loss};
use crate::ports::files::Files;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Bytes that are read and written again at a time, with writers held up.
const PIECE_BYTES: u64 = 1 << 20;

impl Tracker {
    /// Makes the disks durable, also those of which an earlier flush failed.
    ///
    /// # Errors
    /// [`TrackError::NotDurable`], with the logs as they are: it can be tried again.
    pub(super) fn flush_disks(&self) -> Result<(), TrackError> {
        for (index, disk) in self.shared.disks.iter().enumerate() {
            if disk.flush_has_failed() {
                self.write_again(index, disk)?;
            }
            self.shared.flush_device(disk).map_err(not_durable(disk))?;
        }
        Ok(())
    }

    fn write_again(&self, index: usize, disk: &Disk) -> Result<(), TrackError> {
        let gate = self.shared.write_gate();
        match &*gate {
            Gate::On(logs) => self.shared.redo(disk, &logs[index]),
            Gate::Broken(_) => {
                drop(gate);
                self.rewrite_what_is_shown(disk)
            }
            Gate::Off | Gate::Closed => {
                disk.accept_as_it_is();
                Ok(())
            }
        }
    }

    fn rewrite_what_is_shown(&self, disk: &Disk) -> Result<(), TrackError> {
        for range in self.suspect(disk.id).ranges(disk.device.size_bytes()) {
            let mut at = range.start;
            while at < range.end {
                let _gate = self.shared.write_gate();
                at = rewrite_piece(disk, at..range.end).map_err(not_durable(disk))?;
            }
        }
        let _gate = self.shared.write_gate();
        disk.device.flush().map_err(not_durable(disk))?;
        self.shared.change_state(|state| {
            if let Some(known) = state.disks.get_mut(&disk.id) {
                known.durable = Durable::Yes;
            }
        })?;
        disk.accept_as_it_is();
        tracing::info!(disk = %disk.name, "a disk that could not be flushed was written again");
        Ok(())
    }
}

impl Shared {
    /// Applies the logs of a disk to it again; durable on return. Nobody may write meanwhile.
    pub(super) fn redo(&self, disk: &Disk, logs: &DiskLogs) -> Result<(), TrackError> {
        logs.flush()?;
        let found: Vec<LogReader> = flushed_logs(&*self.files, &self.folder, disk, &self.state())?
            .into_iter()
            .collect::<Result<_, _>>()?;
        let active = logs.active.unique_id();
        if found.last().is_none_or(|last| last.header().unique_id != active) {
            let (path, at) = (logs.active.path(), 0);
            return Err(LogError::Damaged { path, at, damage: Damage::Chain }.into());
        }
        for log in found {
            log.apply_to(&*disk.device).map_err(|error| match error {
                LogError::Apply { source, .. } => not_durable(disk)(source),
                error => error.into(),
            })?;
        }
        disk.device.flush().map_err(not_durable(disk))?;
        disk.accept_as_it_is();
        tracing::info!(disk = %disk.name, "a disk that could not be flushed has all of its logs again");
        Ok(())
    }
}

/// The logs of a disk that are to be applied, the oldest first, each as far as it is sure to have been flushed.
pub(super) fn flushed_logs(
    files: &dyn Files,
    folder: &Path,
    disk: &Disk,
    state: &State,
) -> Result<Vec<Result<LogReader, LogError>>, TrackError> {
    let since = disk.names.since(files, state.acknowledged);
    let paths = since.map_err(|source| file_error(folder, source))?;
    let mut logs = Vec::new();
    for path in paths {
        let is_next = path.extension().is_some_and(|kind| kind == "next");
        match flushed_part(files, disk, state, &path) {
            // Writes go to the log of a cut only after its header is durable.
            Err(_) if is_next => {}
            log => logs.push(log),
        }
    }
    Ok(logs)
}

fn flushed_part(
    files: &dyn Files,
    disk: &Disk,
    state: &State,
    path: &Path,
) -> Result<LogReader, LogError> {
    let log = recover_after_power_loss(files, path)?;
    let continues = log.header().data_write_guid == lineage(disk.id, state.chain);
    if continues { Ok(log) } else { Err(out_of_chain(&log)) }
}

pub(super) fn out_of_chain(log: &LogReader) -> LogError {
    LogError::Damaged { path: log.path().to_owned(), at: 76, damage: Damage::Chain }
}

/// Writes the first part of `range` again as it is; answers where that ends. Nobody may write meanwhile.
fn rewrite_piece(disk: &Disk, range: Range<u64>) -> io::Result<u64> {
    let data = disk.device.next_data(range.start)?.filter(|data| data.start < range.end);
    match data {
        Some(data) if data.start <= range.start => {
            let end = range.end.min(data.end).min(range.start + PIECE_BYTES);
            let mut bytes = vec![0; (end - range.start) as usize];
            disk.device.read_at(&mut bytes, range.start)?;
            disk.device.write_at(&bytes, range.start, false)?;
            Ok(end)
        }
        data => {
            let end = data.map_or(range.end, |data| data.start);
            disk.device.zero(range.start..end, true, false)?;
            Ok(end)
        }
    }
}

fn not_durable(disk: &Disk) -> impl FnOnce(io::Error) -> TrackError {
    let disk = disk.id;
    move |source| TrackError::NotDurable { disk, source }
}
