//! Which parts of a disk may differ from the replica as of the last acknowledged cut.
//!
//! ```text
//!            write                cut                acknowledge
//!   (equal) ------> current -------------> in transit -----------> (equal)
//!                      |  start, of another chain |
//!                      +----------> carried <-----+
//!                                      |  resolve
//!                                      v
//!                                   (equal)
//! ```
//!
//! Each set is a bitmap of 64 KiB chunks in memory. What a restart knows of them:
//!
//! | the last run ended by | suspect is | from |
//! |---|---|---|
//! | anything, while the logs are whole | exact | carried: `<disk>.bm`; the rest: the logs |
//! | [`Tracker::close`](super::Tracker::close), while broken | exact | `<disk>.bm` |
//! | kill -9 while broken | chunks up to the break, regions of 32 MiB after it | `<disk>.bm`, `<disk>.al` |
//! | power loss, or a log that is gone or damaged | carried chunks, and the regions written since the last cut was acknowledged | `<disk>.bm`, `<disk>.al` |
//! | whichever, with one of the two files damaged or gone, the disk changed offline, or in the middle of a start | everything | |
//!
//! It holds at every moment, on the medium: what differs is in `<disk>.bm`, or in a region that
//! `<disk>.al` marks. Marks are cleared only after the disk was flushed, and only of regions that have
//! no write since the last cut, or whose writes `<disk>.bm` took over.
//!
//! `<disk>.bm` is replaced as a whole. Its payload, in the tracker's frame:
//!
//! | offset | field | type |
//! |---|---|---|
//! | 0 | the chain of logs that it belongs to | u64 |
//! | 8 | size of the disk in bytes | u64 |
//! | 16 | identity of the disk | u8\[16\] |
//! | 32 | 1 if everything is suspect and no bits follow, else 0 | u64 |
//! | 40 | the bits, lowest chunk first | u64\[\] |

use super::TrackError;
use super::bitmap::{self, Bitmap};
use super::frame::{HEAD_BYTES, frame, unframe};
use super::marks::Marks;
use super::names::{self, Names};
use crate::disk::hrl::format::Take;
use crate::domain::id::DiskId;
use crate::ports::files::{Files, Open};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of one chunk: 2 MiB of bitmap for a disk of 1 TiB.
pub const CHUNK_BYTES: u64 = 64 << 10;

const MAGIC: [u8; 8] = *b"lbsuspc\0";
const VERSION: u32 = 1;
const FIELDS_BYTES: usize = 40;

/// What of a disk may differ from its replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// Nothing is known.
    Everything,
    /// Nothing outside of these ranges of bytes: sorted, apart from each other, inside the disk.
    Ranges(Vec<Range<u64>>),
}

impl Suspect {
    /// Bytes of a disk of `size_bytes` that may differ.
    pub fn bytes(&self, size_bytes: u64) -> u64 {
        match self {
            Self::Everything => size_bytes,
            Self::Ranges(ranges) => ranges.iter().map(|range| range.end - range.start).sum(),
        }
    }

    /// What may differ of a disk of `size_bytes`: sorted, apart from each other.
    #[must_use]
    pub fn ranges(self, size_bytes: u64) -> Vec<Range<u64>> {
        match self {
            Self::Everything => std::iter::once(0..size_bytes).collect(),
            Self::Ranges(ranges) => ranges,
        }
    }

    /// What is suspect and in one of `ranges`, which are sorted and apart from each other.
    #[must_use]
    pub fn within(self, ranges: Vec<Range<u64>>) -> Self {
        let Self::Ranges(suspect) = self else { return Self::Ranges(ranges) };
        let mut both = Vec::new();
        let mut others = ranges.into_iter().peekable();
        for own in suspect {
            while let Some(other) = others.peek().filter(|other| other.start < own.end) {
                let common = own.start.max(other.start)..own.end.min(other.end);
                if !common.is_empty() {
                    both.push(common);
                }
                if own.end < other.end {
                    break;
                }
                others.next();
            }
        }
        Self::Ranges(both)
    }

    /// What is suspect or in one of `ranges`.
    #[must_use]
    pub fn with(self, ranges: Vec<Range<u64>>) -> Self {
        let Self::Ranges(mut all) = self else { return Self::Everything };
        all.extend(ranges);
        all.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(all.len());
        for next in all {
            match joined.last_mut() {
                Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
                _ => joined.push(next),
            }
        }
        Self::Ranges(joined)
    }

    /// Whether any byte of `range` may differ.
    pub fn touches(&self, range: &Range<u64>) -> bool {
        match self {
            Self::Everything => !range.is_empty(),
            Self::Ranges(ranges) => {
                let first = ranges.partition_point(|suspect| suspect.end <= range.start);
                ranges.get(first).is_some_and(|suspect| suspect.start < range.end)
            }
        }
    }
}

/// The sets of one disk.
#[derive(Debug)]
pub(super) struct Suspects {
    disk: DiskId,
    size_bytes: u64,
    path: PathBuf,
    /// Chunks written since the last cut, and those of the cut in transit.
    epochs: [Bitmap; 2],
    /// Which of the two takes the writes.
    current: AtomicUsize,
    carried: Mutex<Carried>,
    pub(super) marks: Marks,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Carried {
    Everything,
    Chunks(Vec<u64>),
}

impl Suspects {
    /// Everything is suspect.
    pub(super) fn new(disk: DiskId, size_bytes: u64, names: &Names) -> Self {
        let epoch = || Bitmap::new(size_bytes, CHUNK_BYTES);
        Self {
            disk,
            size_bytes,
            path: names.suspects(),
            epochs: [epoch(), epoch()],
            current: AtomicUsize::new(0),
            carried: Mutex::new(Carried::Everything),
            marks: Marks::new(disk, size_bytes, names.marks()),
        }
    }

    /// Notes a write. Its regions must be marked.
    pub(super) fn touch(&self, range: &Range<u64>) {
        self.current().set(range);
    }

    /// What is suspect.
    pub(super) fn suspect(&self) -> Suspect {
        match self.all() {
            Carried::Everything => Suspect::Everything,
            Carried::Chunks(words) => {
                Suspect::Ranges(bitmap::ranges(&words, CHUNK_BYTES, self.size_bytes))
            }
        }
    }

    /// The writes so far go with the cut that is made; nobody may write meanwhile.
    pub(super) fn cut(&self) {
        self.current.fetch_xor(1, Ordering::Relaxed);
    }

    /// Notes a write of the cut in transit, where its log is found.
    pub(super) fn touch_in_transit(&self, range: &Range<u64>) {
        self.in_transit().set(range);
    }

    /// The cut in transit is in the replica.
    pub(super) fn acknowledged(&self) {
        self.in_transit().clear();
    }

    /// Keeps the marks of what was written since the last cut alone; nobody may write meanwhile.
    /// The disk must have been flushed since that cut was acknowledged.
    pub(super) fn keep_current_marks(&self) {
        self.marks.keep(&self.ranges_of(self.current()));
    }

    /// Carries everything over into another chain; nobody may write meanwhile.
    pub(super) fn settle(&self) {
        let all = self.all();
        *self.lock_carried() = all;
        self.epochs.iter().for_each(Bitmap::clear);
    }

    /// Forgets what is known: everything is suspect.
    pub(super) fn forget(&self) {
        *self.lock_carried() = Carried::Everything;
        self.epochs.iter().for_each(Bitmap::clear);
    }

    /// Nothing is carried any more. Nobody may write meanwhile. Durable on return.
    pub(super) fn resolve(&self, files: &dyn Files, chain: u64) -> Result<(), TrackError> {
        let mut written = self.ranges_of(self.current());
        written.extend(self.ranges_of(self.in_transit()));
        self.create_marks(files, &written)?;
        let nothing = Carried::Chunks(vec![0; self.words()]);
        self.write(files, chain, &nothing)?;
        *self.lock_carried() = nothing;
        Ok(())
    }

    /// Writes everything that is suspect, then clears the marks; nobody may write meanwhile, and the
    /// disk must have been flushed. Durable on return.
    pub(super) fn save(&self, files: &dyn Files, chain: u64) -> Result<(), TrackError> {
        self.write(files, chain, &self.all())?;
        let cleared = self.create_marks(files, &[]);
        if cleared.is_err() && !self.marks.are_trusted() {
            // What is written from here on would be in neither file.
            self.remove(files)?;
        }
        cleared
    }

    /// Gives up marks that cannot be written, so that a restart knows nothing instead of too little.
    /// Durable on return.
    pub(super) fn give_marks_up(&self, files: &dyn Files) -> Result<(), TrackError> {
        self.marks.distrust(files).or_else(|_| self.remove(files))
    }

    /// Reads what the last run left. With `logs` the epochs were found in whole logs, and are left as
    /// they are.
    pub(super) fn load(&self, files: &dyn Files, chain: u64, logs: LogsFound) {
        let marked = self.marks.load(files);
        let carried = match self.read(files, chain) {
            Some(carried) if marked => carried,
            Some(_) | None => Carried::Everything,
        };
        *self.lock_carried() = carried;
        if logs == LogsFound::Broken {
            self.marks.ranges().iter().for_each(|range| self.touch(range));
            self.settle();
        }
    }

    /// As [`Suspects::load`], for a disk that had `size_bytes` when it was tracked last: what was added is
    /// suspect. The files are those of the larger disk on return, durably; a start that was interrupted before
    /// knows too little, and then everything is suspect.
    pub(super) fn load_grown(
        &self,
        files: &dyn Files,
        chain: u64,
        logs: LogsFound,
        size_bytes: u64,
    ) -> Result<(), TrackError> {
        let mut before = Self {
            disk: self.disk,
            size_bytes,
            path: self.path.clone(),
            epochs: [Bitmap::new(0, CHUNK_BYTES), Bitmap::new(0, CHUNK_BYTES)],
            current: AtomicUsize::new(0),
            carried: Mutex::new(Carried::Everything),
            marks: Marks::new(self.disk, size_bytes, self.marks.path().to_owned()),
        };
        before.load(files, chain, LogsFound::Whole);
        let marked = before.marks.ranges();
        let carried = match before.carried.get_mut().unwrap_or_else(PoisonError::into_inner) {
            Carried::Everything => Carried::Everything,
            Carried::Chunks(words) => {
                let all = Bitmap::new(self.size_bytes, CHUNK_BYTES);
                all.replace(words);
                all.set(&(size_bytes..self.size_bytes));
                Carried::Chunks(all.words())
            }
        };
        self.write(files, chain, &carried)?;
        self.create_marks(files, &marked)?;
        *self.lock_carried() = carried;
        if logs == LogsFound::Broken {
            for range in &marked {
                self.touch(range);
            }
            self.settle();
        }
        Ok(())
    }

    /// Forgets what is known, also what a restart would know. Durable on return.
    pub(super) fn forget_durably(&self, files: &dyn Files) -> Result<(), TrackError> {
        self.forget();
        self.remove(files)
    }

    fn remove(&self, files: &dyn Files) -> Result<(), TrackError> {
        let folder = self.path.parent().unwrap_or(&self.path);
        names::remove(files, &self.path)
            .and_then(|()| files.sync_dir(folder))
            .map_err(|source| self.failed(source))
    }

    fn create_marks(&self, files: &dyn Files, ranges: &[Range<u64>]) -> Result<(), TrackError> {
        let path = self.marks.path();
        let folder = path.parent().unwrap_or(path);
        self.marks
            .create(files, ranges)
            .and_then(|()| files.sync_dir(folder))
            .map_err(|source| TrackError::File { path: path.to_owned(), source })
    }

    /// All sets together.
    fn all(&self) -> Carried {
        let carried = self.lock_carried();
        let Carried::Chunks(mut words) = carried.clone() else { return Carried::Everything };
        for epoch in &self.epochs {
            bitmap::add(&mut words, &epoch.words());
        }
        Carried::Chunks(words)
    }

    fn ranges_of(&self, epoch: &Bitmap) -> Vec<Range<u64>> {
        bitmap::ranges(&epoch.words(), CHUNK_BYTES, self.size_bytes)
    }

    fn current(&self) -> &Bitmap {
        &self.epochs[self.current.load(Ordering::Relaxed) & 1]
    }

    fn in_transit(&self) -> &Bitmap {
        &self.epochs[self.current.load(Ordering::Relaxed) & 1 ^ 1]
    }

    fn words(&self) -> usize {
        bitmap::words_of(self.size_bytes, CHUNK_BYTES)
    }

    fn write(&self, files: &dyn Files, chain: u64, all: &Carried) -> Result<(), TrackError> {
        let mut payload = Vec::with_capacity(FIELDS_BYTES + self.words() * 8);
        payload.extend(chain.to_le_bytes());
        payload.extend(self.size_bytes.to_le_bytes());
        payload.extend(self.disk.0.as_bytes());
        payload.extend(u64::from(*all == Carried::Everything).to_le_bytes());
        if let Carried::Chunks(words) = all {
            payload.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        let bytes = frame(MAGIC, VERSION, &payload);
        names::replace(files, &self.path, &bytes).map_err(|source| self.failed(source))
    }

    fn read(&self, files: &dyn Files, chain: u64) -> Option<Carried> {
        let file = files.open(&self.path, Open::Read).ok()?;
        let whole_bytes = HEAD_BYTES + FIELDS_BYTES + self.words() * 8;
        let len = usize::try_from(file.len().ok()?).ok()?;
        if whole_bytes < len {
            return None;
        }
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let (version, payload) = unframe(MAGIC, &bytes)?;
        if version != VERSION || payload.len() < FIELDS_BYTES {
            return None;
        }
        let mut fields = Take(payload);
        let (of_chain, size_bytes, disk) = (fields.u64(), fields.u64(), fields.array());
        let everything = fields.u64();
        // A start writes the file before its chain counts.
        let ours = (chain..=chain.saturating_add(1)).contains(&of_chain)
            && size_bytes == self.size_bytes
            && disk == *self.disk.0.as_bytes();
        if !ours || everything != 0 || len != whole_bytes {
            return None;
        }
        let words = payload[FIELDS_BYTES..].as_chunks().0.iter().copied().map(u64::from_le_bytes);
        Some(Carried::Chunks(words.collect()))
    }

    fn failed(&self, source: io::Error) -> TrackError {
        TrackError::File { path: self.path.clone(), source }
    }

    fn lock_carried(&self) -> MutexGuard<'_, Carried> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a start found the logs whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogsFound {
    /// Yes: they say what was written since the last cut that was acknowledged.
    Whole,
    /// No.
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(of: &[(u64, u64)]) -> Vec<Range<u64>> {
        of.iter().map(|(start, end)| *start..*end).collect()
    }

    #[test]
    fn what_is_within_other_ranges_is_in_both() {
        let suspect = || Suspect::Ranges(ranges(&[(0, 10), (20, 30), (40, 50)]));
        let within = |of: &[(u64, u64)]| suspect().within(ranges(of));
        assert_eq!(within(&[(5, 45)]), Suspect::Ranges(ranges(&[(5, 10), (20, 30), (40, 45)])));
        assert_eq!(within(&[(1, 2), (3, 4), (10, 20)]), Suspect::Ranges(ranges(&[(1, 2), (3, 4)])));
        assert_eq!(within(&[]), Suspect::Ranges(Vec::new()));
        let all = ranges(&[(7, 9)]);
        assert_eq!(Suspect::Everything.within(all.clone()), Suspect::Ranges(all));
    }

    #[test]
    fn what_is_added_is_joined_to_what_it_touches() {
        let suspect = Suspect::Ranges(ranges(&[(0, 10), (20, 30)]));
        let all = suspect.with(ranges(&[(28, 40), (10, 12), (15, 16)]));
        assert_eq!(all, Suspect::Ranges(ranges(&[(0, 12), (15, 16), (20, 40)])));
        assert_eq!(Suspect::Everything.with(ranges(&[(0, 1)])), Suspect::Everything);
    }
}
