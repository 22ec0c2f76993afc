//! A disk that joins those of its VM while they are tracked.

use super::disk::Disk;
use super::log::DiskLogs;
use super::reopen::file_error;
use super::state::State;
use super::{TrackError, header};
use crate::disk::hrl::{LogTime, LogWriter, Tail};
use crate::ports::files::Files;
use std::path::Path;
use uuid::Uuid;

/// Adds a log, the first of its chain, for each of `disks` that the state does not know to those that go on. Durable
/// on return; until the state knows the disk it can be done again.
pub(super) fn join(
    files: &dyn Files,
    folder: &Path,
    disks: &[Disk],
    state: &State,
    logs: Vec<DiskLogs>,
    at: LogTime,
) -> Result<Vec<DiskLogs>, TrackError> {
    let mut known = logs.into_iter();
    let mut all = Vec::with_capacity(disks.len());
    for disk in disks {
        if state.disks.contains_key(&disk.id) {
            all.extend(known.next());
            continue;
        }
        // Of another life of the disk, or of an attempt that was interrupted.
        let removed = disk.names.remove_logs(files);
        removed.map_err(|source| file_error(&disk.names.active(), source))?;
        all.push(first_log(files, disk, state.chain, at)?);
    }
    files.sync_dir(folder).map_err(|source| file_error(folder, source))?;
    Ok(all)
}

/// The first log of a disk in a chain. Durable once the folder is synced.
pub(super) fn first_log(
    files: &dyn Files,
    disk: &Disk,
    chain: u64,
    at: LogTime,
) -> Result<DiskLogs, TrackError> {
    let tail = Tail::create(files, &disk.names.tail())?;
    let header = header(disk, chain, Uuid::nil(), 0, at);
    Ok(DiskLogs::of(LogWriter::create(files, &disk.names.active(), tail, header)?))
}
