//! A disk that joins those of its VM while they are tracked.

use super::disk::Disk;
use super::log::DiskLogs;
use super::state::State;
use super::{TrackError, lineage, log_id};
use crate::disk::hrl::{Header, LogTime, LogWriter, Tail};
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
        disk.names
            .remove_logs(files)
            .map_err(|source| TrackError::File { path: disk.names.active(), source })?;
        let id = log_id(disk.id, state.chain, Uuid::nil(), 0);
        let header = Header::open(id, Uuid::nil(), lineage(disk.id, state.chain), at);
        let tail = Tail::create(files, &disk.names.tail())?;
        all.push(DiskLogs::of(LogWriter::create(files, &disk.names.active(), tail, header)?));
    }
    files
        .sync_dir(folder)
        .map_err(|source| TrackError::File { path: folder.to_owned(), source })?;
    Ok(all)
}
