//! The files of a lab host, which can be killed or run out of space.

use crate::ports::files::{File, FileIdentity, Files, Open};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The file system as one run of a host's agent sees it. Clones are the same run; one that was killed
/// stays dead, as its successor begins with another.
#[derive(Clone, Debug)]
pub struct LabFiles {
    files: Arc<dyn Files>,
    agent: Arc<Agent>,
}

/// The process that has the files open.
#[derive(Debug)]
struct Agent {
    host: String,
    /// Held for reading by every operation, so that a kill waits for those under way.
    alive: RwLock<bool>,
    disk_full: AtomicBool,
}

impl LabFiles {
    /// The files of an agent on `host` that has just been started.
    pub fn new(files: Arc<dyn Files>, host: &str) -> Self {
        let (alive, disk_full) = (RwLock::new(true), AtomicBool::new(false));
        Self { files, agent: Arc::new(Agent { host: host.to_owned(), alive, disk_full }) }
    }

    /// Ends the agent as kill -9 does: once this returns, every operation, on files that are open as
    /// well, fails with `NotConnected` and changes nothing. What was written stays.
    pub fn kill(&self) {
        *self.agent.alive.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Fills the volume: a write that would extend a replication log fails with `StorageFull`.
    pub fn fill_disk(&self) {
        self.agent.disk_full.store(true, Ordering::Relaxed);
    }

    /// Ends [`LabFiles::fill_disk`].
    pub fn free_disk(&self) {
        self.agent.disk_full.store(false, Ordering::Relaxed);
    }
}

impl Agent {
    /// Does `what` unless the agent is dead.
    fn perform<T>(&self, what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let alive = self.alive.read().unwrap_or_else(PoisonError::into_inner);
        if !*alive {
            let down = format!("host {} is down", self.host);
            return Err(io::Error::new(io::ErrorKind::NotConnected, down));
        }
        what()
    }

    fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }
}

impl Files for LabFiles {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let file = self.agent.perform(|| self.files.open(path, how))?;
        Ok(Arc::new(LabFile { file, path: path.to_owned(), agent: self.agent.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.agent.perform(|| self.files.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.agent.perform(|| self.files.remove(path))
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.agent.perform(|| self.files.make_folder(folder))
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        self.agent.perform(|| self.files.sync_dir(folder))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.agent.perform(|| self.files.list(folder))
    }

    fn folders(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.agent.perform(|| self.files.folders(folder))
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        self.agent.perform(|| self.files.remove_folder(folder))
    }

    fn exists(&self, path: &Path) -> bool {
        self.agent.perform(|| Ok(self.files.exists(path))).unwrap_or(false)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let free = self.agent.perform(|| self.files.free_bytes(path))?;
        Ok(if self.agent.is_disk_full() { 0 } else { free })
    }
}

/// An open file of a lab host.
#[derive(Debug)]
struct LabFile {
    file: Arc<dyn File>,
    path: PathBuf,
    agent: Arc<Agent>,
}

impl LabFile {
    /// Whether there is room for the file to become `len` bytes long.
    fn room_for(&self, len: u64) -> io::Result<()> {
        let is_log = self.path.file_name().is_some_and(|name| {
            // `<disk>.hrl` and what is made beside it: `.hrl.tail`, `.hrl.<number>.transit`.
            name.to_string_lossy().split('.').any(|part| part == "hrl")
        });
        if is_log && self.agent.is_disk_full() && self.file.len()? < len {
            let full = format!("no space left for {}", self.path.display());
            return Err(io::Error::new(io::ErrorKind::StorageFull, full));
        }
        Ok(())
    }
}

impl File for LabFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.agent.perform(|| self.file.read_exact_at(buffer, offset))
    }

    fn write_all_vectored_at(&self, buffers: &[&[u8]], offset: u64) -> io::Result<()> {
        let bytes: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        self.agent.perform(|| {
            self.room_for(offset.saturating_add(bytes))?;
            self.file.write_all_vectored_at(buffers, offset)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.agent.perform(|| self.file.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        self.agent.perform(|| self.file.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.agent.perform(|| {
            self.room_for(len)?;
            self.file.set_len(len)
        })
    }

    fn zero(&self, range: Range<u64>, punch: bool) -> io::Result<()> {
        self.agent.perform(|| self.file.zero(range, punch))
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.agent.perform(|| self.file.next_data(from))
    }

    fn identity(&self) -> io::Result<Option<FileIdentity>> {
        self.agent.perform(|| self.file.identity())
    }

    fn set_mark(&self, marked: bool) -> io::Result<()> {
        self.agent.perform(|| self.file.set_mark(marked))
    }

    fn is_marked(&self) -> io::Result<bool> {
        self.agent.perform(|| self.file.is_marked())
    }
}
