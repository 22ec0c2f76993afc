//! The log of one disk as its writers share it.

use crate::disk::hrl::{LogError, LogTime, LogWriter};
use crate::ports::files::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// A log that many threads append to and flush.
#[derive(Debug)]
pub(super) struct Log {
    writer: Mutex<LogWriter>,
    file: Arc<dyn File>,
    /// Up to where the log is durable. Held while a flush runs: flushes of one log come one after the
    /// other, and those that waited find that the one before has done their work.
    flushed: Mutex<u64>,
}

/// The logs of one disk while it is tracked.
#[derive(Clone, Debug)]
pub(super) struct DiskLogs {
    /// Takes the writes.
    pub(super) active: Arc<Log>,
    /// The one before it, which a flush must cover until its cut has made it durable.
    pub(super) retired: Option<Arc<Log>>,
}

impl DiskLogs {
    /// A log with nothing before it.
    pub(super) fn of(writer: LogWriter) -> Self {
        Self { active: Arc::new(Log::new(writer)), retired: None }
    }

    /// Makes every write that was acknowledged before the call durable.
    pub(super) fn flush(&self) -> Result<(), LogError> {
        if let Some(retired) = &self.retired {
            retired.flush_retired()?;
        }
        self.active.flush()
    }
}

impl Log {
    /// As [`Log::flush`], the tail included: where the log ends is found again after a power loss.
    pub(super) fn flush_with_tail(&self) -> Result<(), LogError> {
        self.flush()?;
        let tail = self.writer().tail().cloned();
        tail.map_or(Ok(()), |tail| tail.sync())
    }

    pub(super) fn new(writer: LogWriter) -> Self {
        let file = writer.file();
        Self { writer: Mutex::new(writer), file, flushed: Mutex::new(0) }
    }

    /// The writing end, for one thread at a time.
    pub(super) fn writer(&self) -> MutexGuard<'_, LogWriter> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unique_id(&self) -> Uuid {
        self.writer().header().unique_id
    }

    pub(super) fn path(&self) -> PathBuf {
        self.writer().path().to_owned()
    }

    /// Makes everything appended before the call durable. One `fdatasync`, none if there is nothing.
    pub(super) fn flush(&self) -> Result<(), LogError> {
        let wanted = self.writer().end();
        let mut flushed = self.lock_flushed();
        if wanted <= *flushed {
            return Ok(());
        }
        let end = {
            let mut writer = self.writer();
            writer.seal_for_flush()?;
            writer.end()
        };
        self.sync()?;
        *flushed = end;
        Ok(())
    }

    /// As [`Log::flush`], for a log whose end its cut has recorded.
    pub(super) fn flush_retired(&self) -> Result<(), LogError> {
        let end = self.writer().end();
        let mut flushed = self.lock_flushed();
        if *flushed < end {
            self.sync()?;
            *flushed = end;
        }
        Ok(())
    }

    /// Closes a log whose end its cut has recorded. Durable on return.
    pub(super) fn close(&self, at: LogTime, renamed_to: &Path) -> Result<(), LogError> {
        self.flush_retired()?;
        let mut writer = self.writer();
        writer.close(at)?;
        writer.renamed(renamed_to);
        Ok(())
    }

    fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(|source| LogError::Io { path: self.path(), source })
    }

    fn lock_flushed(&self) -> MutexGuard<'_, u64> {
        self.flushed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
mod tests {
    use super::*;
    use crate::disk::files::MemoryFiles;
    use crate::disk::hrl::{Header, Tail, recover_after_power_loss};
    use crate::ports::files::Files;

    #[test]
    fn a_flush_in_the_middle_of_a_cut_covers_the_log_before() {
        for seed in 0..32 {
            let files = MemoryFiles::new(seed);
            let tail = Tail::create(&*files, Path::new("/tail")).unwrap();
            let log = |path: &str, id| {
                let header =
                    Header::open(Uuid::from_u128(id), Uuid::nil(), Uuid::nil(), LogTime(0));
                let path = Path::new(path);
                let writer = LogWriter::create(&*files, path, tail.clone(), header).unwrap();
                Arc::new(Log::new(writer))
            };
            let (before, after) = (log("/before", 1 << 100), log("/after", 2 << 100));
            files.sync_dir(Path::new("/")).unwrap();
            before.writer().append(&[1; 512], 0, LogTime(0)).unwrap();
            before.writer().seal_for_cut().unwrap();
            let logs = DiskLogs { active: after, retired: Some(before) };
            logs.active.writer().append(&[2; 512], 0, LogTime(0)).unwrap();
            logs.flush().unwrap();
            files.lose_power();
            for path in ["/before", "/after"] {
                let log = recover_after_power_loss(&*files, Path::new(path)).unwrap();
                assert_eq!(log.total_entries(), 1, "{path}, seed {seed}");
            }
        }
    }
}
