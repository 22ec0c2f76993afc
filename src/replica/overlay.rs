//! A failed-over disk: a recovery point that is fetched as it is read, under a local file that takes
//! every write.
//!
//! The local file is sparse and as large as the disk. A chunk of 64 KiB is either present in it, or
//! absent and read from the vault, once, when it is first needed. Which chunks are present is kept in
//! a map beside the file (`<path>.map`) that is written only after the data that it speaks of is
//! durable: whatever the moment of a kill or a power loss, the map never claims data that is not there.
//!
//! So a write is certain only after [`Overlay::flush`]; before that a kill -9 can take it back, since
//! the chunk counts as absent again. The tracker that wraps an overlay closes that gap: its write log
//! has every write that was acknowledged since the last flush and redoes them.
//!
//! Lock order: stripes in ascending order, then nothing. Nothing else waits while a stripe is held but
//! the storage and the local file.

use super::error::{OverlayError, VaultError};
use super::image::DiskImage;
use super::presence::{CHUNK_BYTES, Identity, Presence, damaged, failed, folder};
use crate::ports::block::BlockDevice;
use crate::ports::files::{File, Files, Open};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

/// Chunks that are handled together, and read ahead where reads follow each other: 1 MiB hides most
/// of a storage 20 ms away (data-plane measurement 1).
const WINDOW_CHUNKS: u64 = 16;

/// Locks that the chunks share. More than the connections of an export and than a window.
const STRIPES: u64 = 64;

/// A disk image with a local file over it. Calls block, on the network too, and must not come from a
/// thread that runs async tasks.
#[derive(Debug)]
pub struct Overlay {
    data: Arc<dyn File>,
    presence: Presence,
    image: Arc<DiskImage>,
    runtime: Handle,
    size: u64,
    /// Held by whoever fills an absent chunk, so that it is fetched once and not over a write.
    stripes: Vec<Mutex<()>>,
    flushing: Mutex<()>,
    /// A sync of the data was refused. The kernel may have dropped writes that it still shows, so that
    /// no later sync proves anything: only opening the overlay again does.
    sync_refused: AtomicBool,
    /// What was last found damaged in the vault.
    damage: Mutex<Option<VaultError>>,
}

impl Overlay {
    /// Opens the overlay at `path`, or makes it; what was flushed to it is there again. `runtime`
    /// carries the requests to the vault.
    ///
    /// # Errors
    /// [`OverlayError::OtherImage`] if it was made for another disk or recovery point;
    /// [`OverlayError::Damaged`]; [`OverlayError::File`].
    pub fn open(
        files: &dyn Files,
        path: &Path,
        image: Arc<DiskImage>,
        runtime: Handle,
    ) -> Result<Self, OverlayError> {
        let size = image.size_bytes();
        let identity = Identity { disk: image.disk(), sequence: image.sequence(), size };
        let map = Self::map_path(path);
        let (data, presence) = if files.exists(&map) {
            resume(files, path, &map, &identity)?
        } else {
            make(files, path, &map, &identity)?
        };
        Ok(Self {
            data,
            presence,
            image,
            runtime,
            size,
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            flushing: Mutex::new(()),
            sync_refused: AtomicBool::new(false),
            damage: Mutex::default(),
        })
    }

    /// Where the map of the overlay at `path` lies.
    pub fn map_path(path: &Path) -> PathBuf {
        let mut map = path.as_os_str().to_owned();
        map.push(".map");
        PathBuf::from(map)
    }

    /// The damage of the recovery point that a read has met, if one has since this was last asked.
    pub fn take_damage(&self) -> Option<VaultError> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes what is damaged, for whoever asks why the VM does not start.
    fn noted(&self, error: VaultError) -> io::Error {
        let damage = match &error {
            VaultError::Damaged { object, damage } => {
                Some(VaultError::Damaged { object: object.clone(), damage: damage.clone() })
            }
            VaultError::Missing { object } => Some(VaultError::Missing { object: object.clone() }),
            _ => None,
        };
        if damage.is_some() {
            *self.damage.lock().unwrap_or_else(PoisonError::into_inner) = damage;
        }
        error.into()
    }

    /// What of the disk is in the local file, in bytes, ascending: fetched or written. All the rest is as
    /// in the recovery point.
    pub fn present(&self) -> Vec<Range<u64>> {
        let runs = self.presence.runs(0..self.size.div_ceil(CHUNK_BYTES));
        runs.filter(|(_, present)| *present).map(|(run, _)| self.bytes_of(&run)).collect()
    }

    /// The first run at or after `from`, in bytes, that is in the vault only; both ends are those of chunks, or
    /// of the disk. `None` once the local file is the whole disk, which it stays: it is durable as such, and may be
    /// opened as a raw image, after the next flush.
    pub fn absent(&self, from: u64) -> Option<Range<u64>> {
        // The end of a disk is that of its last chunk, also where it is in the middle of one.
        let chunks = from.div_ceil(CHUNK_BYTES)..self.size.div_ceil(CHUNK_BYTES);
        let (run, _) = self.presence.runs(chunks).find(|(_, present)| !present)?;
        Some(self.bytes_of(&run))
    }

    /// Puts what the recovery point holds from `offset` on into the local file, where it is not there: what was
    /// fetched or written meanwhile stays. Both ends must be those of chunks, or of the disk.
    ///
    /// # Errors
    /// What the local file answers.
    pub fn fill(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.fill_absent(offset..offset + data.len() as u64, |bytes| {
            let part = (bytes.start - offset) as usize..(bytes.end - offset) as usize;
            self.keep(&data[part], bytes)
        })
    }

    /// The same for a range in which the recovery point holds nothing but zeroes.
    ///
    /// # Errors
    /// What the local file answers.
    pub fn fill_zeroes(&self, range: Range<u64>) -> io::Result<()> {
        self.fill_absent(range, |bytes| self.data.zero(bytes.clone(), true))
    }

    fn fill_absent(
        &self,
        range: Range<u64>,
        keep: impl Fn(&Range<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.check(range.start, range.end - range.start)?;
        let chunks = chunks_of(&range);
        let _held = self.hold(&chunks);
        for (run, _) in self.presence.runs(chunks).filter(|(_, present)| !present) {
            keep(&self.bytes_of(&run))?;
            self.presence.set(run);
        }
        Ok(())
    }

    /// The recovery point that it lies over.
    pub fn image(&self) -> &DiskImage {
        &self.image
    }

    /// The segment of the disk's log whose end the overlay lies over.
    pub fn sequence(&self) -> u64 {
        self.image.sequence()
    }

    /// Flushes and lets go of the files.
    ///
    /// # Errors
    /// As [`Overlay::flush`].
    pub fn close(self) -> io::Result<()> {
        self.flush()
    }

    fn read_window(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let asked = offset..offset + buffer.len() as u64;
        let chunks = chunks_of(&asked);
        if self.presence.all(&chunks) {
            return self.data.read_exact_at(buffer, offset);
        }
        let chunks = self.with_read_ahead(chunks);
        let _held = self.hold(&chunks);
        for (run, present) in self.presence.runs(chunks) {
            let bytes = self.bytes_of(&run);
            let part = bytes.start.max(asked.start)..bytes.end.min(asked.end).max(asked.start);
            let target = if part.start < part.end {
                &mut buffer[(part.start - offset) as usize..(part.end - offset) as usize]
            } else {
                &mut []
            };
            if present {
                self.data.read_exact_at(target, part.start)?;
                continue;
            }
            let fetched = self.fetch(bytes.clone())?;
            if !target.is_empty() {
                let skip = (part.start - bytes.start) as usize;
                target.copy_from_slice(&fetched[skip..skip + target.len()]);
            }
            // A local file without room must not take the disk away: the chunk is fetched again.
            if self.keep(&fetched, &bytes).is_ok() {
                self.presence.set(run);
            }
        }
        Ok(())
    }

    /// Puts fetched bytes into the local file; zeroes take no room in it.
    fn keep(&self, fetched: &[u8], range: &Range<u64>) -> io::Result<()> {
        if fetched.iter().all(|byte| *byte == 0) {
            return self.data.zero(range.clone(), true);
        }
        self.data.write_all_at(fetched, range.start)
    }

    fn write_window(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let range = offset..offset + data.len() as u64;
        let chunks = chunks_of(&range);
        if self.presence.all(&chunks) {
            return self.data.write_all_at(data, offset);
        }
        let _held = self.hold(&chunks);
        let (before, after) = self.edges(&range)?;
        let start = offset - before.len() as u64;
        self.data.write_all_vectored_at(&[&before, data, &after], start)?;
        self.presence.set(chunks);
        Ok(())
    }

    /// What lies beside the range in its first and last chunk, where those are absent and only partly
    /// covered. Their stripes must be held.
    fn edges(&self, range: &Range<u64>) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let chunks = chunks_of(range);
        let whole = self.bytes_of(&chunks);
        let beside = |chunk: u64, bytes: Range<u64>| {
            if bytes.is_empty() || self.presence.has(chunk) {
                return Ok(Vec::new());
            }
            self.fetch(bytes)
        };
        let before = beside(chunks.start, whole.start..range.start)?;
        let after = beside(chunks.end - 1, range.end..whole.end)?;
        Ok((before, after))
    }

    fn fetch(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.runtime.block_on(self.image.read_at(range.start, &mut bytes));
        read.map_err(|error| self.noted(error))?;
        Ok(bytes)
    }

    /// Reads that follow each other are met by what was read ahead.
    fn with_read_ahead(&self, chunks: Range<u64>) -> Range<u64> {
        let follows = 0 < chunks.start && self.presence.has(chunks.start - 1);
        let ahead = if follows { chunks.start + WINDOW_CHUNKS } else { chunks.end };
        chunks.start..chunks.end.max(ahead.min(self.size.div_ceil(CHUNK_BYTES)))
    }

    fn hold(&self, chunks: &Range<u64>) -> Vec<MutexGuard<'_, ()>> {
        let mut stripes: Vec<u64> =
            (chunks.start..chunks.end.min(chunks.start + STRIPES)).map(|c| c % STRIPES).collect();
        stripes.sort_unstable();
        let lock = |stripe: u64| &self.stripes[stripe as usize];
        stripes
            .into_iter()
            .map(|stripe| lock(stripe).lock().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    fn bytes_of(&self, chunks: &Range<u64>) -> Range<u64> {
        chunks.start * CHUNK_BYTES..(chunks.end * CHUNK_BYTES).min(self.size)
    }

    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        if offset.checked_add(length).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        let what = format!("{length} bytes at {offset} leave a disk of {} bytes", self.size);
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }
}

impl BlockDevice for Overlay {
    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(offset, buffer.len() as u64)?;
        let mut rest = buffer;
        for window in windows(offset, rest.len() as u64) {
            let (head, tail) = rest.split_at_mut((window.end - window.start) as usize);
            self.read_window(head, window.start)?;
            rest = tail;
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64, fua: bool) -> io::Result<()> {
        self.check(offset, data.len() as u64)?;
        let mut rest = data;
        for window in windows(offset, rest.len() as u64) {
            let (head, tail) = rest.split_at((window.end - window.start) as usize);
            self.write_window(head, window.start)?;
            rest = tail;
        }
        if fua { self.flush() } else { Ok(()) }
    }

    fn zero(&self, range: Range<u64>, punch: bool, fua: bool) -> io::Result<()> {
        self.check(range.start, range.end.saturating_sub(range.start))?;
        if range.start < range.end {
            let chunks = chunks_of(&range);
            let _held = self.hold(&chunks);
            let (before, after) = self.edges(&range)?;
            self.data.write_all_at(&before, range.start - before.len() as u64)?;
            self.data.write_all_at(&after, range.end)?;
            self.data.zero(range, punch)?;
            self.presence.set(chunks);
        }
        if fua { self.flush() } else { Ok(()) }
    }

    /// Makes every write that was acknowledged durable: first the data, then the map.
    fn flush(&self) -> io::Result<()> {
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sync_refused.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync was refused: open the overlay again"));
        }
        // Taken before the sync: it speaks only of data that was written by then.
        let snapshot = self.presence.snapshot();
        if let Err(error) = self.data.sync_data() {
            self.sync_refused.store(true, Ordering::Release);
            self.presence.forget(snapshot);
            return Err(error);
        }
        self.presence.save(snapshot)
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let mut from = from;
        let chunks = from / CHUNK_BYTES..self.size.div_ceil(CHUNK_BYTES);
        for (run, present) in self.presence.runs(chunks) {
            let bytes = self.bytes_of(&run);
            from = from.max(bytes.start);
            let data = if present {
                self.data.next_data(from)?
            } else {
                self.runtime.block_on(self.image.next_data(from))?
            };
            if let Some(data) = data.filter(|data| data.start < bytes.end && from < data.end) {
                return Ok(Some(data.start.max(from)..data.end.min(bytes.end)));
            }
        }
        Ok(None)
    }
}

fn make(
    files: &dyn Files,
    path: &Path,
    map: &Path,
    identity: &Identity,
) -> Result<(Arc<dyn File>, Presence), OverlayError> {
    let made = || -> io::Result<Arc<dyn File>> {
        let data = files.open(path, Open::Create)?;
        // What an attempt left that was cut off before it had a map.
        data.set_len(0)?;
        data.set_len(identity.size)?;
        data.sync_data()?;
        files.sync_dir(folder(path))?;
        Ok(data)
    };
    let data = made().map_err(|source| failed("make", path, source))?;
    Ok((data, Presence::create(files, map, identity)?))
}

fn resume(
    files: &dyn Files,
    path: &Path,
    map: &Path,
    identity: &Identity,
) -> Result<(Arc<dyn File>, Presence), OverlayError> {
    let (presence, made_for) = Presence::open(files, map)?;
    if made_for != *identity {
        return Err(OverlayError::OtherImage {
            path: map.to_owned(),
            disk: made_for.disk,
            sequence: made_for.sequence,
            size: made_for.size,
            asked_disk: identity.disk,
            asked_sequence: identity.sequence,
            asked_size: identity.size,
        });
    }
    let data = files.open(path, Open::Write).map_err(|source| failed("open", path, source))?;
    if data.len().map_err(|source| failed("read", path, source))? != identity.size {
        return Err(damaged(path, 0, "its length is not that of the disk"));
    }
    Ok((data, presence))
}

/// The chunks that a range touches.
fn chunks_of(range: &Range<u64>) -> Range<u64> {
    range.start / CHUNK_BYTES..range.end.div_ceil(CHUNK_BYTES)
}

/// A range cut at every [`WINDOW_CHUNKS`] chunks.
fn windows(offset: u64, length: u64) -> impl Iterator<Item = Range<u64>> {
    let window = WINDOW_CHUNKS * CHUNK_BYTES;
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let start = at;
        at = end.min((at / window + 1) * window);
        (start < end).then_some(start..at)
    })
}
