//! Where the commits of a log lie in sled's file, as a search found them, and kept in a file of its own so
//! that the next search looks only at what changed since.
//!
//! The file says which segments it was made from. A segment that is complete does not change; one that sled
//! gave up and began anew has another sequence number, and what sled kept of it lies in a later segment.
//! Places are kept only of a log that was proven whole by the watermark's running checksum, which is also
//! how it is told that the file belongs to the log: from its own checksum on, the commits since must lead
//! to the watermark's. A place that does not hold its commit leads to a search of everything. The file can be
//! deleted at any time, and is written without being synced: a torn one proves itself wrong.
//!
//! | at | bytes | what |
//! |---:|------:|------|
//! |  0 |     4 | magic `LBO1` |
//! |  4 |     4 | CRC32 of the rest of the head |
//! |  8 |     8 | the last commit that it has |
//! | 16 |     4 | running checksum of the log after it |
//! | 20 |     4 | segments |
//! | 24 |   8 n | the sequence number of each segment, in the order of the file; -1 if it was not complete |
//! |  … |   4 m | CRC32 of each page |
//! |  … |    12 | place and checksum of each commit, in pages of 4096 |
//!
//! Integers are little-endian.

use super::record::{Record, chain, field};
use super::segments::{SEGMENT_BYTES, Stretch, read_up_to};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: [u8; 4] = *b"LBO1";
const HEAD_BYTES: usize = 24;
const SLOT_BYTES: usize = 12;
const PAGE_SLOTS: usize = 4096;
const PAGE_BYTES: usize = PAGE_SLOTS * SLOT_BYTES;

/// Bytes of the largest head that is read: of a file of 16 TiB.
const HEAD_BYTES_MAX: u64 = 64 << 20;

/// Commits found since from which on the file is written again. Searching for fewer takes no time.
const WRITTEN_FROM: usize = 50_000;

/// No record is known at this place.
const NOWHERE: u64 = u64::MAX;

/// Where a record lies, and the checksum under which it is stored: 8 and 4 bytes, as in the file.
type Slot = [u8; SLOT_BYTES];

fn slot(at: u64, crc: u32) -> Slot {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&at.to_le_bytes());
    slot[8..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn place_of(slot: &Slot) -> u64 {
    u64::from_le_bytes(field(slot, 0))
}

fn crc_of(slot: &Slot) -> u32 {
    u32::from_le_bytes(field(slot, 8))
}

/// The places of a log's commits: those of the file, and those that were found since.
#[derive(Debug)]
pub(super) struct Places {
    kept: Option<Kept>,
    /// Commits of the file that lie elsewhere by now.
    moved: BTreeMap<u64, Slot>,
    /// The commits behind those of the file.
    tail: Vec<Slot>,
}

impl Places {
    /// Places of which none is known but those in `kept`, with room for commits up to `last`.
    pub(super) fn new(kept: Option<Kept>, last: u64) -> Self {
        let known = kept.as_ref().map_or(0, |kept| kept.last);
        let tail = vec![slot(NOWHERE, 0); last.saturating_sub(known) as usize];
        Self { kept, moved: BTreeMap::new(), tail }
    }

    /// The last commit that there is room for.
    pub(super) fn last(&self) -> u64 {
        self.known() + self.tail.len() as u64
    }

    fn known(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.last)
    }

    /// Makes room for commits up to `last`.
    pub(super) fn extend_to(&mut self, last: u64) {
        let length = last.saturating_sub(self.known()) as usize;
        self.tail.resize(length.max(self.tail.len()), slot(NOWHERE, 0));
    }

    /// Notes where a record was found.
    pub(super) fn found(&mut self, at: u64, record: &Record<'_>) {
        let found = slot(at, record.crc);
        let known = self.known();
        if record.global <= known {
            self.moved.insert(record.global, found);
        } else if let Some(slot) = self.tail.get_mut((record.global - known - 1) as usize) {
            *slot = found;
        }
    }

    /// Whether a stretch need not be searched.
    pub(super) fn knows(&self, stretch: Stretch) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.knows(stretch))
    }

    /// The running checksum of the log after its last commit.
    pub(super) fn chain(&self) -> u32 {
        let known = self.kept.as_ref().map_or(0, |kept| kept.chain);
        self.tail.iter().fold(known, |running, slot| chain(running, crc_of(slot)))
    }

    /// Where a commit lies, and its checksum; `None` if that is not known.
    pub(super) fn of(&mut self, global: u64) -> Option<(u64, u32)> {
        let known = self.known();
        let slot = match &mut self.kept {
            Some(kept) if global <= known => {
                let slot = kept.slot(global)?;
                let moved = self.moved.get(&global).copied();
                moved.filter(|moved| crc_of(moved) == crc_of(&slot)).unwrap_or(slot)
            }
            _ => *self.tail.get(usize::try_from(global.checked_sub(known + 1)?).ok()?)?,
        };
        (place_of(&slot) != NOWHERE).then_some((place_of(&slot), crc_of(&slot)))
    }

    /// Whether so much was found that it is worth writing down.
    pub(super) fn are_worth_keeping(&self) -> bool {
        WRITTEN_FROM <= self.tail.len() + self.moved.len()
    }

    /// Writes the file: all places of a log that was proven whole, found in these stretches.
    pub(super) fn write(&mut self, path: &Path, stretches: &[Stretch]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let unfinished = path.with_extension(format!("{}.unfinished", std::process::id()));
        let written = self.write_all(&unfinished, stretches);
        let written = written.and_then(|()| fs::rename(&unfinished, path));
        if written.is_err() {
            // Nobody reads it under this name.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn write_all(&mut self, path: &Path, stretches: &[Stretch]) -> io::Result<()> {
        let (last, chain) = (self.last(), self.chain());
        let pages = (last as usize).div_ceil(PAGE_SLOTS);
        let mut head = Vec::with_capacity(HEAD_BYTES + 8 * stretches.len() + 4 * pages);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&last.to_le_bytes());
        head.extend_from_slice(&chain.to_le_bytes());
        head.extend_from_slice(&(stretches.len() as u32).to_le_bytes());
        let mut lsns = vec![-1_i64; stretches.len()];
        for stretch in stretches {
            lsns[(stretch.base / SEGMENT_BYTES as u64) as usize] = stretch.settled.unwrap_or(-1);
        }
        head.extend(lsns.iter().flat_map(|lsn| lsn.to_le_bytes()));
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&vec![0; head.len() + 4 * pages])?;
        for nth in 0..pages {
            let page = self.page(nth, last)?;
            head.extend_from_slice(&crc32fast::hash(&page).to_le_bytes());
            file.write_all(&page)?;
        }
        let crc = crc32fast::hash(&head[8..]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.write_all_at(&head, 0)
    }

    fn page(&mut self, nth: usize, last: u64) -> io::Result<Vec<u8>> {
        let first = (nth * PAGE_SLOTS) as u64 + 1;
        let mut page = Vec::with_capacity(PAGE_BYTES);
        for global in first..=last.min(first + PAGE_SLOTS as u64 - 1) {
            let lost = || io::Error::other(format!("the place of commit {global} is lost"));
            let (at, crc) = self.of(global).ok_or_else(lost)?;
            page.extend_from_slice(&slot(at, crc));
        }
        Ok(page)
    }
}

/// The file of an earlier search. Its pages are read as they are asked for.
#[derive(Debug)]
pub(super) struct Kept {
    file: File,
    last: u64,
    chain: u32,
    lsns: Vec<i64>,
    page_crcs: Vec<u32>,
    /// The page that was read last.
    page: (usize, Vec<u8>),
}

impl Kept {
    /// Opens it; `None` if it is not there, or not sound.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let mut start = [0; HEAD_BYTES];
        file.read_exact_at(&mut start, 0).ok()?;
        let last = u64::from_le_bytes(field(&start, 8));
        let segments = u64::from(u32::from_le_bytes(field(&start, 20)));
        let pages = last.div_ceil(PAGE_SLOTS as u64);
        let bytes = (HEAD_BYTES as u64 + 8 * segments).checked_add(pages.checked_mul(4)?)?;
        if start[..4] != MAGIC || HEAD_BYTES_MAX < bytes || file.metadata().ok()?.len() < bytes {
            return None;
        }
        let mut head = vec![0; bytes as usize];
        file.read_exact_at(&mut head, 0).ok()?;
        if crc32fast::hash(&head[8..]) != u32::from_le_bytes(field(&head, 4)) {
            return None;
        }
        let (lsns, crcs) = head[HEAD_BYTES..].split_at(8 * segments as usize);
        let lsns = lsns.as_chunks::<8>().0.iter().map(|it| i64::from_le_bytes(*it)).collect();
        let page_crcs = crcs.as_chunks::<4>().0.iter().map(|it| u32::from_le_bytes(*it)).collect();
        let chain = u32::from_le_bytes(field(&head, 16));
        Some(Self { file, last, chain, lsns, page_crcs, page: (usize::MAX, Vec::new()) })
    }

    /// The last commit that it has.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    fn knows(&self, Stretch { base, settled }: Stretch) -> bool {
        let nth = (base / SEGMENT_BYTES as u64) as usize;
        settled.is_some_and(|lsn| self.lsns.get(nth) == Some(&lsn))
    }

    fn slot(&mut self, global: u64) -> Option<Slot> {
        let nth = usize::try_from(global.checked_sub(1)?).ok()?;
        if self.page.0 != nth / PAGE_SLOTS {
            self.page = (nth / PAGE_SLOTS, self.read_page(nth / PAGE_SLOTS)?);
        }
        self.page.1.as_chunks::<SLOT_BYTES>().0.get(nth % PAGE_SLOTS).copied()
    }

    fn read_page(&self, nth: usize) -> Option<Vec<u8>> {
        let head = HEAD_BYTES + 8 * self.lsns.len() + 4 * self.page_crcs.len();
        let mut page =
            vec![0; PAGE_BYTES.min((self.last as usize - nth * PAGE_SLOTS) * SLOT_BYTES)];
        let read = read_up_to(&self.file, &mut page, (head + nth * PAGE_BYTES) as u64).ok()?;
        (read == page.len() && crc32fast::hash(&page) == *self.page_crcs.get(nth)?).then_some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::StreamKey;

    fn record(global: u64) -> Record<'static> {
        let stream = StreamKey { kind: 0, id: uuid::Uuid::nil() };
        let crc = global as u32 * 3;
        Record { global, stream, seq: 1, at_ms: 0, version: 2, payload: b"", crc }
    }

    fn written(path: &Path, last: u64) {
        let mut places = Places::new(None, last);
        (1..=last).for_each(|global| places.found(global * 100, &record(global)));
        let stretch = Stretch { base: 0, settled: Some(0) };
        places.write(path, &[stretch]).expect("write");
    }

    #[test]
    fn places_are_read_back_and_what_is_found_since_counts() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("places");
        let last = PAGE_SLOTS as u64 + 5;
        written(&path, last);
        let mut places = Places::new(Kept::open(&path), last + 2);
        assert_eq!(places.of(last), Some((last * 100, last as u32 * 3)));
        assert_eq!((places.of(0), places.of(last + 1)), (None, None));
        places.found(7, &record(3));
        places.found(8, &record(last + 1));
        // A record of the same number that is not the one of the log.
        places.found(9, &Record { crc: 1, ..record(4) });
        let found = [3, 4, last + 1].map(|global| places.of(global).map(|it| it.0));
        assert_eq!(found, [Some(7), Some(400), Some(8)]);
        assert!(places.knows(Stretch { base: 0, settled: Some(0) }));
        assert!(!places.knows(Stretch { base: 0, settled: Some(4 << 20) }));
        assert!(!places.knows(Stretch { base: 0, settled: None }));
    }

    #[test]
    fn a_damaged_file_is_not_used() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("places");
        written(&path, 20);
        let bytes = fs::read(&path).expect("read");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).expect("write");
            let of = |global| Kept::open(&path).and_then(|mut kept| kept.slot(global));
            assert_eq!(of(20), None, "byte {at}");
            fs::write(&path, &bytes[..at]).expect("write");
            assert_eq!(of(20), None, "cut at {at}");
        }
    }
}
