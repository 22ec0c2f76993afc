//! Which chunks of an overlay are in its local file: a bitmap in memory and its map on disk.
//!
//! ```text
//! header (4096)   0   8  magic "LBOVRMAP"
//!                 8   4  version, 1
//!                12   4  bytes of the disk per bit, 65536
//!                16  16  disk id
//!                32   8  sequence of the recovery point
//!                40   8  disk size in bytes
//!                48   4  CRC32 of bytes 0..48; zeroes follow
//! block b, at 4096 + b x 8192: two slots of 4096 bytes
//! slot            0   4  CRC32 of bytes 4..4096
//!                 4   4  0
//!                 8   8  generation, from 1; it lies in slot `generation % 2`
//!                16 4080 bits of 32,640 chunks, chunk 0 in the lowest bit of the first byte
//! ```
//! Little-endian. A block is saved into the slot that does not hold its newest generation, so that a
//! write torn by power loss leaves the one before. A block that was never saved is a hole.

use super::error::OverlayError;
use crate::domain::id::DiskId;
use crate::ports::files::{File, Files, Open};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// Bytes of the disk per bit.
pub(super) const CHUNK_BYTES: u64 = 64 * 1024;

const MAGIC: &[u8; 8] = b"LBOVRMAP";
const VERSION: u32 = 1;
const SLOT_BYTES: u64 = 4096;
const SLOT_HEAD: usize = 16;
const WORDS_PER_BLOCK: usize = (SLOT_BYTES as usize - SLOT_HEAD) / 8;

/// What an overlay was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) disk: DiskId,
    pub(super) sequence: u64,
    pub(super) size: u64,
}

/// The bitmap. A bit is set once its chunk was written and never cleared.
#[derive(Debug)]
pub(super) struct Presence {
    file: Arc<dyn File>,
    chunks: u64,
    words: Vec<AtomicU64>,
    /// Blocks with bits that the map does not have.
    dirty: Mutex<BTreeSet<usize>>,
    /// Newest saved generation of each block.
    generations: Mutex<Vec<u64>>,
}

/// The bits of the dirty blocks at one moment.
#[derive(Debug)]
pub(super) struct Snapshot(Vec<(usize, Vec<u64>)>);

enum Slot {
    Hole,
    Saved { generation: u64, words: Vec<u64> },
    Torn,
}

impl Presence {
    /// Makes the map of an overlay without chunks: durable, by rename, once this returns.
    pub(super) fn create(
        files: &dyn Files,
        path: &Path,
        identity: &Identity,
    ) -> Result<Self, OverlayError> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        let made = || -> io::Result<Arc<dyn File>> {
            let file = files.open(&unfinished, Open::Create)?;
            file.set_len(0)?;
            file.write_all_at(&identity.encode(), 0)?;
            file.set_len(block_at(blocks(identity.size)))?;
            file.sync_data()?;
            files.rename(&unfinished, path)?;
            files.sync_dir(folder(path))?;
            Ok(file)
        };
        let file = made().map_err(|source| failed("make", path, source))?;
        Ok(Self::of(file, identity.size))
    }

    /// Opens a map, with what it was made for.
    pub(super) fn open(files: &dyn Files, path: &Path) -> Result<(Self, Identity), OverlayError> {
        let read = |source| failed("read", path, source);
        let file = files.open(path, Open::Write).map_err(|source| failed("open", path, source))?;
        let mut header = [0; SLOT_BYTES as usize];
        file.read_exact_at(&mut header, 0).map_err(read)?;
        let identity = Identity::decode(&header).map_err(|(at, what)| damaged(path, at, what))?;
        if file.len().map_err(read)? != block_at(blocks(identity.size)) {
            return Err(damaged(path, 40, "its length does not fit the disk's size"));
        }
        let mut presence = Self::of(file, identity.size);
        presence.load(path)?;
        Ok((presence, identity))
    }

    /// Whether every chunk of the range is present.
    pub(super) fn all(&self, chunks: &Range<u64>) -> bool {
        self.run_end(chunks.clone(), true) == chunks.end
    }

    /// Whether the chunk is present.
    pub(super) fn has(&self, chunk: u64) -> bool {
        let word = &self.words[(chunk / 64) as usize];
        word.load(Ordering::Acquire) & (1 << (chunk % 64)) != 0
    }

    /// Notes chunks that were written to the local file.
    pub(super) fn set(&self, chunks: Range<u64>) {
        let mut changed = BTreeSet::new();
        let mut at = chunks.start;
        while at < chunks.end {
            let word = (at / 64) as usize;
            let end = chunks.end.min((at / 64 + 1) * 64);
            let mask = (u64::MAX >> (64 - (end - at))) << (at % 64);
            if self.words[word].fetch_or(mask, Ordering::AcqRel) & mask != mask {
                changed.insert(word / WORDS_PER_BLOCK);
            }
            at = end;
        }
        if !changed.is_empty() {
            self.dirty.lock().unwrap_or_else(PoisonError::into_inner).append(&mut changed);
        }
    }

    /// The range cut into runs of chunks that are all present or all absent.
    pub(super) fn runs(&self, chunks: Range<u64>) -> impl Iterator<Item = (Range<u64>, bool)> {
        let mut at = chunks.start;
        std::iter::from_fn(move || {
            if chunks.end <= at {
                return None;
            }
            let present = self.has(at);
            let run = at..self.run_end(at..chunks.end, present);
            at = run.end;
            Some((run, present))
        })
    }

    /// Takes what has to be saved. What is set after this belongs to the next snapshot.
    pub(super) fn snapshot(&self) -> Snapshot {
        let dirty = std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner));
        let words = |block: usize| {
            let words = block * WORDS_PER_BLOCK..;
            let words = self.words[words].iter().take(WORDS_PER_BLOCK);
            words.map(|word| word.load(Ordering::Acquire)).collect()
        };
        Snapshot(dirty.into_iter().map(|block| (block, words(block))).collect())
    }

    /// Writes a snapshot to the map: durable once this returns. The data that it speaks of must be
    /// durable before the call. After an error the blocks count as not saved.
    pub(super) fn save(&self, snapshot: Snapshot) -> io::Result<()> {
        if snapshot.0.is_empty() {
            return Ok(());
        }
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = snapshot
            .0
            .iter()
            .try_for_each(|(block, words)| {
                let generation = generations[*block] + 1;
                let slot = encode_slot(generation, words);
                self.file.write_all_at(&slot, slot_at(*block, generation))
            })
            .and_then(|()| self.file.sync_data());
        match saved {
            Ok(()) => snapshot.0.iter().for_each(|(block, _)| generations[*block] += 1),
            Err(_) => self.forget(snapshot),
        }
        saved
    }

    /// Gives a snapshot back that could not be saved.
    pub(super) fn forget(&self, snapshot: Snapshot) {
        let blocks = snapshot.0.into_iter().map(|(block, _)| block);
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner).extend(blocks);
    }

    fn of(file: Arc<dyn File>, size: u64) -> Self {
        let chunks = size.div_ceil(CHUNK_BYTES);
        Self {
            file,
            chunks,
            words: (0..chunks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            dirty: Mutex::default(),
            generations: Mutex::new(vec![0; blocks(size)]),
        }
    }

    fn load(&mut self, path: &Path) -> Result<(), OverlayError> {
        let read = |source| failed("read", path, source);
        let mut from = block_at(0);
        while let Some(run) = self.file.next_data(from).map_err(read)? {
            let block = ((run.start.max(from) - block_at(0)) / (2 * SLOT_BYTES)) as usize;
            from = block_at(block + 1);
            let mut slots = [0; 2 * SLOT_BYTES as usize];
            self.file.read_exact_at(&mut slots, block_at(block)).map_err(read)?;
            let (even, odd) = slots.split_at(SLOT_BYTES as usize);
            let (even, odd) = (decode_slot(even, 0), decode_slot(odd, 1));
            let newest = newest(even, odd).map_err(|what| damaged(path, block_at(block), what))?;
            let Some((generation, words)) = newest else { continue };
            self.adopt(block, generation, &words)
                .map_err(|what| damaged(path, block_at(block), what))?;
        }
        Ok(())
    }

    fn adopt(&mut self, block: usize, generation: u64, saved: &[u64]) -> Result<(), &'static str> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations[block] = generation;
        let mut words = self.words.iter_mut().skip(block * WORDS_PER_BLOCK);
        for saved in saved {
            match words.next() {
                Some(word) => *word.get_mut() = *saved,
                None if *saved == 0 => {}
                None => return Err("it has bits beyond the end of the disk"),
            }
        }
        Ok(())
    }

    /// The end of the run of equal chunks at the start of the range.
    fn run_end(&self, chunks: Range<u64>, present: bool) -> u64 {
        let mut at = chunks.start;
        while at < chunks.end {
            let word = self.words[(at / 64) as usize].load(Ordering::Acquire);
            let equal = if present { word } else { !word };
            let rest = equal >> (at % 64);
            let run = u64::from(rest.trailing_ones());
            at += run;
            if run == 0 || !at.is_multiple_of(64) {
                break;
            }
        }
        at.min(chunks.end).min(self.chunks)
    }
}

impl Identity {
    fn encode(&self) -> [u8; SLOT_BYTES as usize] {
        let mut bytes = [0; SLOT_BYTES as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(CHUNK_BYTES as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(self.disk.0.as_bytes());
        bytes[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.size.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..48]);
        bytes[48..52].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header of [`SLOT_BYTES`]; an error is a place and what is wrong there.
    fn decode(bytes: &[u8]) -> Result<Self, (u64, &'static str)> {
        if &bytes[..8] != MAGIC {
            return Err((0, "the magic number is not that of an overlay map"));
        }
        if u32_at(bytes, 8) != VERSION {
            return Err((8, "the format version is not known"));
        }
        if u32_at(bytes, 48) != crc32fast::hash(&bytes[..48]) {
            return Err((48, "the checksum of the header does not match"));
        }
        if u64::from(u32_at(bytes, 12)) != CHUNK_BYTES {
            return Err((12, "the size of a chunk is not 64 KiB"));
        }
        let mut disk = [0; 16];
        disk.copy_from_slice(&bytes[16..32]);
        let disk = DiskId(Uuid::from_bytes(disk));
        Ok(Self { disk, sequence: u64_at(bytes, 32), size: u64_at(bytes, 40) })
    }
}

/// The folder of a file.
pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Picks the newest generation of a block; a slot that is neither saved nor a hole is a torn write,
/// which can only be the last one.
fn newest(even: Slot, odd: Slot) -> Result<Option<(u64, Vec<u64>)>, &'static str> {
    match (even, odd) {
        (Slot::Saved { generation: a, words }, Slot::Saved { generation: b, .. }) if b < a => {
            Ok(Some((a, words)))
        }
        (_, Slot::Saved { generation, words })
        | (Slot::Saved { generation, words }, Slot::Torn) => Ok(Some((generation, words))),
        (Slot::Hole, Slot::Hole | Slot::Torn) => Ok(None),
        (Slot::Saved { .. }, Slot::Hole) | (Slot::Torn, Slot::Hole | Slot::Torn) => {
            Err("neither copy of the block can be trusted")
        }
    }
}

fn encode_slot(generation: u64, words: &[u64]) -> [u8; SLOT_BYTES as usize] {
    let mut bytes = [0; SLOT_BYTES as usize];
    bytes[8..16].copy_from_slice(&generation.to_le_bytes());
    for (to, word) in bytes[SLOT_HEAD..].chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let checksum = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode_slot(bytes: &[u8], parity: u64) -> Slot {
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Hole;
    }
    let generation = u64_at(bytes, 8);
    let whole = u32_at(bytes, 0) == crc32fast::hash(&bytes[4..]);
    if !whole || generation == 0 || generation % 2 != parity {
        return Slot::Torn;
    }
    let words = (SLOT_HEAD..bytes.len()).step_by(8).map(|at| u64_at(bytes, at)).collect();
    Slot::Saved { generation, words }
}

fn blocks(size: u64) -> usize {
    size.div_ceil(CHUNK_BYTES).div_ceil(64).div_ceil(WORDS_PER_BLOCK as u64) as usize
}

fn block_at(block: usize) -> u64 {
    SLOT_BYTES + block as u64 * 2 * SLOT_BYTES
}

fn slot_at(block: usize, generation: u64) -> u64 {
    block_at(block) + generation % 2 * SLOT_BYTES
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

pub(super) fn failed(operation: &'static str, path: &Path, source: io::Error) -> OverlayError {
    OverlayError::File { operation, path: path.to_owned(), source }
}

pub(super) fn damaged(path: &Path, at: u64, what: &'static str) -> OverlayError {
    OverlayError::Damaged { path: path.to_owned(), at, what }
}
