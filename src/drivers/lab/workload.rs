//! The workload: a total order of writes over all disks of a VM, and the proof that disks hold a
//! prefix of it.
//!
//! Write `n` and each byte that it leaves follow from the seed and `n` alone, so nothing needs to be
//! recorded: whoever knows the [`Workload`] can tell from the disks how far it came, and whether
//! anything is missing, stale, damaged or out of order.
//!
//! A written block of 4,096 bytes, integers little-endian:
//!
//! | Offset | Size | Field |
//! |---|---|---|
//! | 0 | 8 | magic `LABWRITE` |
//! | 8 | 8 | seed |
//! | 16 | 8 | number of the write, from 1 |
//! | 24 | 8 | index of the disk |
//! | 32 | 8 | index of the block on the disk |
//! | 40 | 2,008 | random, keyed by the four fields before |
//! | 2,048 | 2,048 | one random 8-byte word, repeated: half of a block compresses away |

use crate::ports::block::BlockDevice;
use crate::ports::replication::Progress;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;

/// Size of a block, the grain of the writes. Source: the page and sector size of today's guests.
pub const BLOCK_BYTES: usize = 4096;

/// Blocks in a write of the install: 1 MiB, the usual size of a streaming copy.
const INSTALL_BLOCKS: u64 = 256;

/// Writes after the install are 2^0 to 2^6 blocks, 4 to 256 KiB; 16 KiB on average.
const SIZE_EXPONENT_MAX: u32 = 6;

/// One part in so many of a disk is hot: it takes 80 % of the writes (the usual 80/20 rule).
const HOT_PART: u64 = 5;

const MAGIC: &[u8; 8] = b"LABWRITE";
const HEADER_BYTES: usize = 40;
const ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The check reads this much at a time: large enough that a request's own cost does not matter.
const READ_BYTES: u64 = 1 << 20;

/// The writes of a VM: first an install, which fills the beginning of each disk in order, then a mix
/// of sizes over all disks without an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    seed: u64,
    disks: Vec<u64>,
    install_bytes: u64,
    /// What it writes first after the install.
    recorded: Arc<Vec<Write>>,
}

/// One write: a run of blocks of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Index of the disk.
    pub disk: usize,
    /// Index of the first block.
    pub first_block: u64,
    /// How many blocks; at least 1.
    pub blocks: u32,
}

/// Why there is no such workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WorkloadError {
    /// There is nothing to write to.
    #[error("make a workload: it has no disks")]
    NoDisks,
    /// A disk does not hold one block.
    #[error("make a workload: disk {disk} of {size_bytes} bytes is smaller than a block of 4096")]
    TooSmall {
        /// Index of the disk.
        disk: usize,
        /// Its size.
        size_bytes: u64,
    },
}

impl Write {
    /// Its position on the disk in bytes.
    pub fn offset(&self) -> u64 {
        self.first_block * BLOCK_BYTES as u64
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_BYTES as u64
    }

    /// The blocks that it covers.
    pub fn range(&self) -> Range<u64> {
        self.first_block..self.first_block + u64::from(self.blocks)
    }
}

impl Workload {
    /// The workload of `seed` on disks of these sizes in bytes; a last part smaller than a block is
    /// never written. The install covers `install_bytes` of each disk, or all of a smaller one.
    ///
    /// # Errors
    /// [`WorkloadError`].
    pub fn new(seed: u64, disks: Vec<u64>, install_bytes: u64) -> Result<Self, WorkloadError> {
        if disks.is_empty() {
            return Err(WorkloadError::NoDisks);
        }
        match disks.iter().position(|size| *size < BLOCK_BYTES as u64) {
            Some(disk) => Err(WorkloadError::TooSmall { disk, size_bytes: disks[disk] }),
            None => Ok(Self { seed, disks, install_bytes, recorded: Arc::default() }),
        }
    }

    /// The same with these writes after the install, each within its disk; what comes after them is as without.
    #[must_use]
    pub fn with_recorded(self, recorded: Vec<Write>) -> Self {
        Self { recorded: Arc::new(recorded), ..self }
    }

    /// The recorded write that write `n` is, if it is one: its place among them.
    pub fn recorded_place(&self, n: u64) -> Option<usize> {
        let place = usize::try_from(n.checked_sub(self.install_writes() + 1)?).ok()?;
        (place < self.recorded.len()).then_some(place)
    }

    /// The sizes of the disks in bytes.
    pub fn disks(&self) -> &[u64] {
        &self.disks
    }

    /// How many writes the install has: those up to this number.
    pub fn install_writes(&self) -> u64 {
        (0..self.disks.len()).map(|disk| self.install_blocks(disk).div_ceil(INSTALL_BLOCKS)).sum()
    }

    /// Write number `n`, from 1.
    pub fn write(&self, n: u64) -> Write {
        assert!(n != 0, "writes are numbered from 1");
        if let Some(place) = self.recorded_place(n) {
            return self.recorded[place];
        }
        self.install_write(n - 1).unwrap_or_else(|| self.running_write(n))
    }

    /// What write `n` writes.
    pub fn content(&self, n: u64) -> Vec<u8> {
        let write = self.write(n);
        let mut content = vec![0; write.bytes() as usize];
        for (buffer, block) in content.as_chunks_mut().0.iter_mut().zip(write.range()) {
            self.fill(buffer, write.disk, block, n);
        }
        content
    }

    /// What write `n` leaves in a block.
    pub fn fill(&self, buffer: &mut [u8; BLOCK_BYTES], disk: usize, block: u64, n: u64) {
        let key = [self.seed, n, disk as u64, block];
        let (header, body) = buffer.split_at_mut(HEADER_BYTES);
        header[..8].copy_from_slice(MAGIC);
        for (field, value) in header[8..].as_chunks_mut().0.iter_mut().zip(key) {
            *field = value.to_le_bytes();
        }
        let (random, repeated) = body.split_at_mut(BLOCK_BYTES / 2 - HEADER_BYTES);
        let mut generator = Generator::keyed(&key);
        for word in random.as_chunks_mut().0 {
            *word = generator.next().to_le_bytes();
        }
        repeated.as_chunks_mut().0.fill(generator.next().to_le_bytes());
    }

    /// Bytes of the writes after number `from`, up to and with number `to`: what is lost when disks
    /// that stood at `to` come back at `from`.
    pub fn written_bytes(&self, from: u64, to: u64) -> u64 {
        (from..to).map(|before| self.write(before + 1).bytes()).sum()
    }

    fn blocks(&self, disk: usize) -> u64 {
        self.disks[disk] / BLOCK_BYTES as u64
    }

    fn install_blocks(&self, disk: usize) -> u64 {
        (self.install_bytes / BLOCK_BYTES as u64).min(self.blocks(disk))
    }

    /// Write number `index` of the install, from 0.
    fn install_write(&self, mut index: u64) -> Option<Write> {
        for disk in 0..self.disks.len() {
            let blocks = self.install_blocks(disk);
            let writes = blocks.div_ceil(INSTALL_BLOCKS);
            if index < writes {
                let first_block = index * INSTALL_BLOCKS;
                let blocks = (blocks - first_block).min(INSTALL_BLOCKS) as u32;
                return Some(Write { disk, first_block, blocks });
            }
            index -= writes;
        }
        None
    }

    fn running_write(&self, n: u64) -> Write {
        let mut generator = Generator::keyed(&[self.seed, n]);
        let disk = generator.below(self.disks.len() as u64) as usize;
        let on_disk = self.blocks(disk);
        // Half of all numbers have no trailing zero, a quarter has one, ...: small writes prevail.
        let exponent = generator.next().trailing_zeros().min(SIZE_EXPONENT_MAX);
        let blocks = (1 << exponent).min(on_disk);
        let region = if generator.below(5) < 4 { self.hot_blocks(disk) } else { 0..on_disk };
        let first_block = region.start + generator.below(region.end - region.start);
        Write { disk, first_block: first_block.min(on_disk - blocks), blocks: blocks as u32 }
    }

    fn hot_blocks(&self, disk: usize) -> Range<u64> {
        let blocks = self.blocks(disk);
        let hot = (blocks / HOT_PART).max(1);
        let start = Generator::keyed(&[self.seed, disk as u64, HOT_PART]).below(blocks - hot + 1);
        start..start + hot
    }

    /// What a block holds.
    fn recognize(&self, block: &[u8; BLOCK_BYTES], disk: usize, index: u64) -> Content {
        if *block == ZEROES {
            return Content::Untouched;
        }
        let mut number = [0; 8];
        number.copy_from_slice(&block[16..24]);
        let n = u64::from_le_bytes(number);
        let mut expected = ZEROES;
        self.fill(&mut expected, disk, index, n);
        // Zero stands for untouched, so no block is ever written by it.
        if n != 0 && *block == expected { Content::Write(n) } else { Content::Damaged }
    }
}

/// Keyed randomness: splitmix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators" (2014).
struct Generator(u64);

impl Generator {
    fn keyed(key: &[u64]) -> Self {
        key.iter().fold(Self(0), |mut generator, part| {
            generator.0 ^= part;
            Self(generator.next())
        })
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..end`, by multiplication, which is even enough for a workload.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// Which write left what is in each block, after the first so many writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    workload: Workload,
    applied: u64,
    last: Vec<Vec<u64>>,
}

impl Model {
    /// The disks after the first `writes` writes. Takes 8 bytes of memory for each block.
    pub fn after(workload: &Workload, writes: u64) -> Self {
        let last =
            (0..workload.disks.len()).map(|disk| vec![0; workload.blocks(disk) as usize]).collect();
        let mut model = Self { workload: workload.clone(), applied: 0, last };
        model.advance_to(writes);
        model
    }

    /// Goes on to the first `writes` writes; does nothing if that is not further.
    pub fn advance_to(&mut self, writes: u64) {
        while self.applied < writes {
            self.applied += 1;
            let write = self.workload.write(self.applied);
            let covered = write.first_block as usize..write.range().end as usize;
            self.last[write.disk][covered].fill(self.applied);
        }
    }

    /// How many writes are applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// What a block of the workload holds.
    pub fn content(&self, disk: usize, block: u64) -> Content {
        Content::of(self.last[disk][block as usize])
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeroes.
    Untouched,
    /// What the write of this number leaves, byte for byte.
    Write(u64),
    /// What no write of the workload leaves there.
    Damaged,
}

impl Content {
    fn of(last_write: u64) -> Self {
        if last_write == 0 { Self::Untouched } else { Self::Write(last_write) }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untouched => f.write_str("zeroes"),
            Self::Write(n) => write!(f, "write {n}"),
            Self::Damaged => f.write_str("bytes that no write left there"),
        }
    }
}

/// How whole the last write must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastWrite {
    /// All of its blocks are there: a recovery point.
    Whole,
    /// Some of its blocks may be missing: a host that was killed in the middle of it.
    MayBeTorn,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The disks hold exactly the writes up to this number; 0 if there is none.
    pub last_write: u64,
    /// Whether the disks also hold a part of the write after that one.
    pub torn: bool,
    /// Bytes read; the rest were holes.
    pub bytes_read: u64,
}

/// Why the disks do not hold a prefix of the workload.
#[derive(Debug, Error)]
pub enum CheckError {
    /// There are other disks than the workload's.
    #[error("check the disks: there are {found}, the workload has {expected}")]
    WrongCount {
        /// How many the workload has.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A disk is smaller.
    #[error("check disk {disk}: it has {found} bytes, the workload has {expected}")]
    WrongSize {
        /// Index of the disk.
        disk: usize,
        /// Its size in the workload.
        expected: u64,
        /// The size it has.
        found: u64,
    },
    /// A disk cannot be read.
    #[error("read disk {disk} at byte {offset}")]
    Unreadable {
        /// Index of the disk.
        disk: usize,
        /// Where.
        offset: u64,
        /// The error.
        source: io::Error,
    },
    /// A block is not what it must be.
    #[error("check the content")]
    Mismatch(#[from] Mismatch),
}

/// The first block that is not what the writes up to the last one found leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "block {block} of disk {disk} holds {found}, but after write {last_write} it must hold {expected}"
)]
pub struct Mismatch {
    /// Index of the disk.
    pub disk: usize,
    /// Index of the block.
    pub block: u64,
    /// The highest number of a write on the disks.
    pub last_write: u64,
    /// What the block must hold after that write.
    pub expected: Content,
    /// What it holds.
    pub found: Content,
}

/// Reads everything that the disks call data, byte for byte, and proves that every block of every disk
/// is what the first `last_write` writes leave, for one `last_write`. What they call holes counts as
/// zeroes. `progress` counts bytes of the disks, holes included.
///
/// # Errors
/// [`CheckError`].
pub fn check(
    workload: &Workload,
    disks: &[&dyn BlockDevice],
    last_write: LastWrite,
    progress: Progress<'_>,
) -> Result<Checked, CheckError> {
    let found = Findings::read(workload, disks, progress)?;
    let newest = found.newest();
    let torn = match last_write {
        LastWrite::Whole => {
            found.must_be(&Model::after(workload, newest), None)?;
            false
        }
        LastWrite::MayBeTorn => {
            let before = Model::after(workload, newest.saturating_sub(1));
            let mut after = before.clone();
            after.advance_to(newest);
            found.must_be(&after, Some(&before))?;
            found.last != after.last
        }
    };
    Ok(Checked { last_write: newest - u64::from(torn), torn, bytes_read: found.bytes_read })
}

/// What the disks hold.
struct Findings {
    /// For each block the write that left it; 0 for zeroes, and for the damaged block.
    last: Vec<Vec<u64>>,
    /// The first block that no write left.
    damaged: Option<(usize, u64)>,
    bytes_read: u64,
}

impl Findings {
    fn read(
        workload: &Workload,
        disks: &[&dyn BlockDevice],
        progress: Progress<'_>,
    ) -> Result<Self, CheckError> {
        if disks.len() != workload.disks.len() {
            let (expected, found) = (workload.disks.len(), disks.len());
            return Err(CheckError::WrongCount { expected, found });
        }
        let mut findings = Self { last: Vec::new(), damaged: None, bytes_read: 0 };
        let total = workload.disks.iter().sum();
        let mut done = 0;
        for (disk, device) in disks.iter().enumerate() {
            let (expected, found) = (workload.disks[disk], device.size_bytes());
            // What was added to a disk is not the guest's.
            if found < expected {
                return Err(CheckError::WrongSize { disk, expected, found });
            }
            findings.last.push(vec![0; workload.blocks(disk) as usize]);
            findings
                .read_disk(workload, disk, *device, &|on_disk| progress(done + on_disk, total))?;
            done += expected;
        }
        Ok(findings)
    }

    fn read_disk(
        &mut self,
        workload: &Workload,
        disk: usize,
        device: &dyn BlockDevice,
        progress: &dyn Fn(u64),
    ) -> Result<(), CheckError> {
        let size = workload.disks[disk];
        let mut buffer = vec![0; READ_BYTES as usize];
        let mut position = 0;
        while position < size {
            let unreadable = |source| CheckError::Unreadable { disk, offset: position, source };
            let Some(data) = device.next_data(position).map_err(unreadable)? else { break };
            if data.end <= position || data.end <= data.start || device.size_bytes() < data.end {
                let said = format!("it says that its data after {position} is {data:?}");
                return Err(unreadable(io::Error::new(io::ErrorKind::InvalidData, said)));
            }
            // Data need not begin at a block; the bytes of the block before it are read with it.
            position = position.max(data.start - data.start % BLOCK_BYTES as u64);
            let end = data.end.next_multiple_of(BLOCK_BYTES as u64).min(size);
            while position < end {
                let piece = &mut buffer[..(end - position).min(READ_BYTES) as usize];
                device.read_at(piece, position).map_err(|source| CheckError::Unreadable {
                    disk,
                    offset: position,
                    source,
                })?;
                self.note(workload, disk, position, piece);
                position += piece.len() as u64;
                self.bytes_read += piece.len() as u64;
                progress(position);
            }
        }
        progress(size);
        Ok(())
    }

    /// Notes what a piece that begins at a block holds.
    fn note(&mut self, workload: &Workload, disk: usize, offset: u64, piece: &[u8]) {
        let first = offset / BLOCK_BYTES as u64;
        let (blocks, rest) = piece.as_chunks();
        for (block, index) in blocks.iter().zip(first..) {
            match workload.recognize(block, disk, index) {
                Content::Untouched => {}
                Content::Write(n) => self.last[disk][index as usize] = n,
                Content::Damaged => _ = self.damaged.get_or_insert((disk, index)),
            }
        }
        // What is left at the end of a disk is smaller than a block and never written.
        if *rest != ZEROES[..rest.len()] {
            self.damaged.get_or_insert((disk, first + blocks.len() as u64));
        }
    }

    fn newest(&self) -> u64 {
        self.last.iter().flatten().copied().max().unwrap_or(0)
    }

    /// Every block is as in `model`, or as in `or_else` if that is given.
    fn must_be(&self, model: &Model, or_else: Option<&Model>) -> Result<(), Mismatch> {
        let last_write = model.applied;
        if let Some((disk, block)) = self.damaged {
            let expected = model.last[disk].get(block as usize).copied().unwrap_or(0);
            let (expected, found) = (Content::of(expected), Content::Damaged);
            return Err(Mismatch { disk, block, last_write, expected, found });
        }
        for (disk, blocks) in self.last.iter().enumerate() {
            for (block, &found) in blocks.iter().enumerate() {
                let expected = model.last[disk][block];
                let before = or_else.map_or(expected, |model| model.last[disk][block]);
                if found != expected && found != before {
                    let (expected, found) = (Content::of(expected), Content::of(found));
                    let block = block as u64;
                    return Err(Mismatch { disk, block, last_write, expected, found });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn workload() -> Workload {
        Workload::new(7, vec![64 * MIB, 40 * MIB], 3 * MIB + 4096).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn the_install_fills_the_beginning_of_each_disk_in_order() {
        let workload = workload();
        assert_eq!(workload.install_writes(), 8);
        assert_eq!(workload.write(1), Write { disk: 0, first_block: 0, blocks: 256 });
        assert_eq!(workload.write(4), Write { disk: 0, first_block: 768, blocks: 1 });
        assert_eq!(workload.write(5), Write { disk: 1, first_block: 0, blocks: 256 });
        assert_eq!(workload.written_bytes(0, 8), 2 * (3 * MIB + 4096));
    }

    #[test]
    fn most_writes_hit_a_fifth_of_every_disk_and_their_sizes_differ() {
        let workload = workload();
        let mut hot = [0, 0];
        let mut all = [0, 0];
        let mut sizes = std::collections::BTreeSet::new();
        for n in 9..10_009 {
            let write = workload.write(n);
            let region = workload.hot_blocks(write.disk);
            all[write.disk] += 1;
            hot[write.disk] += u32::from(region.contains(&write.first_block));
            sizes.insert(write.blocks);
        }
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64]);
        for disk in 0..2 {
            assert!((4_700..5_300).contains(&all[disk]), "{all:?}");
            // 80 % by intention, and a fifth of the rest by chance.
            let percent = hot[disk] * 100 / all[disk];
            assert!((80..88).contains(&percent), "{percent} %");
        }
    }

    #[test]
    fn no_write_leaves_its_disk() {
        let workload = Workload::new(1, vec![4096, 5 * 4096 + 512, MIB], 8192)
            .unwrap_or_else(|e| panic!("{e}"));
        for n in 1..2_000 {
            let write = workload.write(n);
            assert!(0 < write.blocks);
            assert!(write.offset() + write.bytes() <= workload.disks()[write.disk], "{write:?}");
        }
    }

    #[test]
    fn every_field_of_the_key_changes_header_and_both_halves() {
        let workload = workload();
        let other = Workload { seed: 8, ..workload.clone() };
        let mut first = ZEROES;
        workload.fill(&mut first, 0, 5, 9);
        for (workload, disk, block, n) in
            [(&other, 0, 5, 9), (&workload, 1, 5, 9), (&workload, 0, 6, 9), (&workload, 0, 5, 10)]
        {
            let mut second = ZEROES;
            workload.fill(&mut second, disk, block, n);
            for part in [0..HEADER_BYTES, HEADER_BYTES..2048, 2048..BLOCK_BYTES] {
                assert_ne!(first[part.clone()], second[part]);
            }
        }
    }

    #[test]
    fn a_model_that_advances_is_the_model_from_the_start() {
        let workload = workload();
        let mut model = Model::after(&workload, 5);
        model.advance_to(200);
        assert_eq!(model, Model::after(&workload, 200));
        assert_eq!(model.content(0, 768), Content::of(model.last[0][768]));
        assert_eq!(Model::after(&workload, 0).content(1, 0), Content::Untouched);
    }

    #[test]
    fn a_workload_needs_disks_of_a_block_or_more() {
        assert_eq!(Workload::new(1, vec![], 0), Err(WorkloadError::NoDisks));
        let small = Workload::new(1, vec![4096, 4095], 0);
        assert_eq!(small, Err(WorkloadError::TooSmall { disk: 1, size_bytes: 4095 }));
    }
}
