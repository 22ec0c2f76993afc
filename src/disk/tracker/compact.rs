//! Logs without the data that later writes of the same log replace.
//!
//! A log in transit is compacted after its cut. The active one is compacted where its disk's logs come
//! near the size that ends tracking: while the vault is away it alone grows. The guest writes on meanwhile:
//!
//! ```text
//! active     | writes so far | written meanwhile |
//!                   |                 |
//! compacted  | what is left of them | the same  |   durable, then renamed over the active log
//! ```
//!
//! Writers are held up only for what was written meanwhile. The new log has an identity of its own, so that
//! nothing that the tail says of the old one counts for it, and the same place in the chain: whatever the
//! process or the machine dies of, one of the two is there, and both say the same.

use super::disk::Disk;
use super::gate::Gate;
use super::log::{DiskLogs, Log};
use super::{Broken, Cut, TrackError, Tracker, log_id, names, rename_failed, room};
use crate::disk::hrl::{
    Header, HeaderTrust, LogError, LogReader, LogWriter, begin_compacted, compact, unique_bytes,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Tracker {
    /// Whether [`Tracker::compact_large`] would look at a log. Takes no time.
    pub fn has_large_logs(&self) -> bool {
        let mut disks = self.shared.disks.iter().enumerate();
        disks.any(|(index, disk)| disk.is_worth_compacting(self.log_bytes(index)))
    }

    /// Compacts the active logs of disks whose logs take 40 % of them, where it helps, and again when they have
    /// grown: for a source that does not ship, as while the vault is away, or during a copy.
    ///
    /// # Errors
    /// As [`Tracker::compact_active`].
    pub fn compact_large(&self) -> Result<(), TrackError> {
        self.compact_where(|index, disk| disk.is_worth_compacting(self.log_bytes(index)))
    }

    /// Compacts the active logs where that makes them smaller by a quarter. Writers are held up for what
    /// they wrote meanwhile; cuts and acknowledgements wait.
    ///
    /// # Errors
    /// [`TrackError::LowSpace`] where the compacted log has no room beside the other;
    /// [`TrackError::Broken`] if the logs lack writes; else the logs are as they were.
    pub fn compact_active(&self) -> Result<(), TrackError> {
        self.compact_where(|_, _| true)
    }

    fn compact_where(&self, wanted: impl Fn(usize, &Disk) -> bool) -> Result<(), TrackError> {
        let _control = self.lock_control();
        let disks = self.shared.disks.iter().enumerate();
        disks.filter(|(index, disk)| wanted(*index, disk)).try_for_each(|(index, disk)| {
            let compacted = self.compact_active_log(index, disk);
            disk.was_compacted(self.log_bytes(index));
            compacted
        })
    }

    fn compact_active_log(&self, index: usize, disk: &Disk) -> Result<(), TrackError> {
        let active = match &*self.shared.read_gate() {
            Gate::On(logs) => Arc::clone(&logs[index].active),
            Gate::Off | Gate::Broken(_) | Gate::Closed => return Ok(()),
        };
        let (files, path, to) = (&*self.shared.files, disk.names.active(), disk.names.compact(0));
        let sealed = seal(&active);
        let (end, header) =
            sealed.map_err(|error| self.break_with(Broken::log_write_failed(disk.id, &error)))?;
        let log = LogReader::open_up_to(files, &path, end)?;
        let unique = unique_bytes(&log)?;
        if end / 4 * 3 < unique {
            return Ok(());
        }
        self.check_room(unique)?;
        let id = log_id(disk.id, self.chain(), header.unique_id, 0);
        let header = Header::open(
            id,
            header.previous_unique_id,
            header.data_write_guid,
            header.last_modified,
        );
        let compacted = begin_compacted(files, &log, &to, header).and_then(|log| {
            log.file().sync_data().map_err(|source| LogError::Io { path: to.clone(), source })?;
            Ok(log)
        });
        let done = compacted
            .map_err(TrackError::from)
            .and_then(|compacted| self.exchange(index, disk, compacted, end));
        if done.is_err() {
            // One that is left is removed by the next start, or by the next attempt.
            let _ = names::remove(files, &to);
        }
        done
    }

    /// Puts a compacted log, which has everything before byte `end` of the active one, in its place.
    fn exchange(
        &self,
        index: usize,
        disk: &Disk,
        mut compacted: LogWriter,
        end: u64,
    ) -> Result<(), TrackError> {
        let (files, path) = (&*self.shared.files, disk.names.active());
        let mut gate = self.shared.write_gate();
        let Gate::On(logs) = &mut *gate else {
            let unused = disk.names.compact(0);
            return names::remove(files, &unused).map_err(in_file(&unused));
        };
        let before = Arc::clone(&logs[index].active);
        let now_end = match seal(&before) {
            Ok((now_end, _)) => now_end,
            Err(error) => {
                drop(gate);
                return Err(self.break_with(Broken::log_write_failed(disk.id, &error)));
            }
        };
        LogReader::open_up_to(files, &path, now_end)?.append_to(end, &mut compacted)?;
        compacted.begin_here(before.writer().tail().cloned())?;
        compacted.file().sync_data().map_err(in_file(&path))?;
        // What is written from here on goes to the compacted log alone. A name that is not durable could
        // bring the other one back after a power loss.
        let named = files
            .rename(&disk.names.compact(0), &path)
            .and_then(|()| files.sync_dir(&self.shared.folder));
        compacted.renamed(&path);
        logs[index] = DiskLogs { active: Arc::new(Log::new(compacted)), retired: None };
        drop(gate);
        named.map_err(|error| self.break_with(rename_failed(disk, &error)))
    }

    /// Compacts the logs of a cut in transit where the logs of their disk are large and it helps.
    /// Answers the cut if that changed it. Appending to logs goes on meanwhile, and so does everything
    /// else: the files are exchanged at the end, if they still count.
    pub(super) fn compact_in_transit(&self, number: u64) -> Result<Option<Cut>, TrackError> {
        let mut changed = None;
        for (index, disk) in self.shared.disks.iter().enumerate() {
            if self.log_bytes(index) < room::compact_bytes(disk.device.size_bytes()) {
                continue;
            }
            let files = &*self.shared.files;
            let (path, to) = (disk.names.transit(number), disk.names.compact(number));
            let log = LogReader::open(files, &path, HeaderTrust::Verified)?;
            if log.end() / 4 * 3 < unique_bytes(&log)? {
                continue;
            }
            let compacted = compact(files, &log, &to)?;
            let _control = self.lock_control();
            let mut transit = self.lock_transit();
            let Some(transit) = transit.as_mut().filter(|transit| transit.cut.number == number)
            else {
                names::remove(files, &to).map_err(in_file(&to))?;
                return Ok(None);
            };
            files.rename(&to, &path).map_err(in_file(&path))?;
            self.sync_folder()?;
            transit.allocated_bytes[index] = compacted.allocated_bytes();
            transit.cut.logs[index].bytes = compacted.end();
            disk.transit_bytes.store(compacted.allocated_bytes(), Ordering::Relaxed);
            changed = Some(transit.cut.clone());
        }
        Ok(changed)
    }
}

/// Seals the open group of a log; answers where the log ends, and its header.
fn seal(log: &Log) -> Result<(u64, Header), LogError> {
    let mut writer = log.writer();
    writer.seal()?;
    Ok((writer.end(), *writer.header()))
}

fn in_file(path: &Path) -> impl FnOnce(std::io::Error) -> TrackError {
    let path = path.to_owned();
    move |source| TrackError::File { path, source }
}
