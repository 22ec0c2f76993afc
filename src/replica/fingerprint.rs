//! What the vault knows of a disk without reading it: checksums, to compare a disk with its replica.
//!
//! There are two levels. The first are the hashes that the indexes hold anyway, one for each frame of up
//! to 64 KiB; they tell which chunks differ. The second are hashes of blocks of 4 KiB, kept in an object
//! of its own beside each base region and read only for chunks that differ:
//!
//! ```text
//! <region:08x>.<first half of the region's hash>.sum
//! header (64)  0   8  magic "LBREPSUM"
//!              8   2  version, 1
//!             10   2  0
//!             12   4  number of records
//!             16  32  hash of the region
//!             48  12  0
//!             60   4  CRC32 of bytes 0..60
//! records      0   4  CRC32 of the rest of the record
//!              4 256  16 hashes of 16 bytes, one for each 4 KiB of the chunk; beyond its end it is zero
//! ```
//!
//! There is one record for each chunk of the region that is not all zeroes, in their order. The name
//! binds the object to the region as it was written: a region that was read again later, after its
//! checksums had been sent, has another hash and so no checksums. Where they are missing or damaged, or
//! find nothing in a chunk that differs, the data is read instead: they are worth nothing but time.
//!
//! A segment of the log has no such object. Its frames are as long as what was written: where one lies
//! within a block, its hash says whether the block differs, and where one spans several, whether none of
//! them does; what a hash leaves open is read, and nothing of the base around it.

use super::error::VaultError;
use super::image::{DiskImage, Known, KnownPiece};
use super::keys::HashKey;
use super::segment::{FRAME_BYTES, Flaw, REGION_BYTES, SegmentHash, damage, same};
use super::vault::{PARALLEL, Vault, damaged, in_object};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a chunk, at whose multiples the first level is compared.
pub const CHUNK_BYTES: u64 = FRAME_BYTES;

/// Bytes of a block: the smallest difference that is told apart. What file systems write at least.
pub const BLOCK_BYTES: u64 = 4096;

const BLOCKS: usize = (CHUNK_BYTES / BLOCK_BYTES) as usize;
const MAGIC: &[u8; 8] = b"LBREPSUM";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
const HASH_BYTES: usize = 16;
const RECORD_BYTES: usize = 4 + BLOCKS * HASH_BYTES;

/// Records that are not wanted but read along, since each request has its price: four of them have
/// about the size of a request's own headers.
const GAP_RECORDS: u64 = 4;

/// What is known of one region of a disk without reading it.
#[derive(Debug)]
pub struct Fingerprint {
    region: u64,
    range: Range<u64>,
    /// Ascending and without gaps; none crosses a multiple of 64 KiB.
    pieces: Vec<KnownPiece>,
}

/// How a chunk of a disk compares with its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They hold the same.
    Same,
    /// They differ somewhere.
    Different,
    /// What the vault knows is not enough: the blocks must be compared.
    Unknown,
}

/// The checksums of a base region, read and checked.
#[derive(Debug)]
pub(super) struct RegionSums {
    path: Path,
    key: HashKey,
    /// Those of each chunk, by its offset on the disk.
    chunks: BTreeMap<u64, Bytes>,
}

/// Blocks of a chunk, by their numbers in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks(u16);

/// A chunk whose blocks are compared.
struct Comparison<'a> {
    offset: u64,
    data: &'a [u8],
    /// What differs for certain.
    different: Blocks,
    /// What lies in the base alone, and is told apart by its checksums.
    of_base: Blocks,
    /// What only the data tells.
    open: Blocks,
    /// Whether all of it lies in the base, and differs.
    differs_as_a_whole: bool,
}

/// The record of a chunk that begins with `data` and is zero after it.
pub(super) fn sum_record(key: &HashKey, data: &[u8]) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    let (checksum, sums) = record.split_at_mut(4);
    for (nth, sum) in sums.chunks_exact_mut(HASH_BYTES).enumerate() {
        let start = (nth * BLOCK_BYTES as usize).min(data.len());
        let block = &data[start..(start + BLOCK_BYTES as usize).min(data.len())];
        sum.copy_from_slice(&padded_hash(key, block));
    }
    checksum.copy_from_slice(&crc32fast::hash(sums).to_le_bytes());
    record
}

/// The hash of a block, which is zero beyond the end of the disk.
fn padded_hash(key: &HashKey, block: &[u8]) -> [u8; HASH_BYTES] {
    if block.len() as u64 == BLOCK_BYTES {
        return key.frame(block);
    }
    let mut padded = [0; BLOCK_BYTES as usize];
    padded[..block.len()].copy_from_slice(block);
    key.frame(&padded)
}

/// The checksums of the region with this hash, of the records of its chunks.
pub(super) fn sums_object(region: SegmentHash, records: Vec<u8>) -> Vec<Bytes> {
    let mut header = [0; HEADER_BYTES];
    let count = (records.len() / RECORD_BYTES) as u32;
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&count.to_le_bytes());
    header[16..48].copy_from_slice(&region.0);
    let checksum = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&checksum.to_le_bytes());
    vec![Bytes::copy_from_slice(&header), Bytes::from(records)]
}

impl Vault {
    /// The hash by which data is compared: that of the frames in the indexes, keyed as they are.
    pub(super) fn data_hash(&self, data: &[u8]) -> [u8; HASH_BYTES] {
        self.hash_key().frame(data)
    }
}

impl Fingerprint {
    /// The part of the disk that it is of.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Whether the replica has nothing but zeroes in `range`.
    pub fn is_zero(&self, range: &Range<u64>) -> bool {
        self.pieces_in(range).iter().all(|piece| matches!(piece.known, Known::Zeroes))
    }

    /// Compares a chunk of the disk, cut to the region, with the replica.
    pub fn compare(&self, image: &DiskImage, offset: u64, chunk: &[u8]) -> Verdict {
        let range = offset..offset + chunk.len() as u64;
        let mut verdict = Verdict::Same;
        for piece in self.pieces_in(&range) {
            let part = (piece.range.start - offset) as usize..(piece.range.end - offset) as usize;
            let same = match &piece.known {
                Known::Zeroes => is_zero(&chunk[part]),
                Known::Hash(hash) => image.vault().data_hash(&chunk[part]) == *hash,
                Known::Data => {
                    verdict = Verdict::Unknown;
                    continue;
                }
            };
            if !same {
                return Verdict::Different;
            }
        }
        verdict
    }

    fn pieces_in(&self, range: &Range<u64>) -> &[KnownPiece] {
        let first = self.pieces.partition_point(|piece| piece.range.end <= range.start);
        let rest = &self.pieces[first..];
        &rest[..rest.partition_point(|piece| piece.range.start < range.end)]
    }
}

impl Blocks {
    /// Whether the block with this number is among them.
    pub fn contains(self, nth: usize) -> bool {
        self.0 & (1 << nth) != 0
    }

    fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Those that `range` touches, as bytes of the chunk.
    fn touched(range: &Range<usize>) -> Self {
        let block = BLOCK_BYTES as usize;
        (range.start / block..range.end.div_ceil(block)).collect()
    }

    fn numbers(self) -> impl Iterator<Item = usize> {
        (0..BLOCKS).filter(move |nth| self.contains(*nth))
    }

    fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }

    fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

impl FromIterator<usize> for Blocks {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        Self(numbers.into_iter().fold(0, |set, nth| set | 1 << nth))
    }
}

impl<'a> Comparison<'a> {
    /// What is known of a chunk's blocks without asking for more.
    fn begin(fingerprint: &Fingerprint, image: &DiskImage, offset: u64, data: &'a [u8]) -> Self {
        let [mut different, mut of_base, mut open, mut of_log] = [Blocks::default(); 4];
        let mut differs_as_a_whole = false;
        for piece in fingerprint.pieces_in(&(offset..offset + data.len() as u64)) {
            let start = piece.range.start.max(offset) - offset;
            let end = piece.range.end - offset;
            let part = start as usize..data.len().min(end as usize);
            let blocks = Blocks::touched(&part);
            if piece.of_log {
                of_log.add(blocks);
            }
            let same = match &piece.known {
                Known::Zeroes => {
                    different.add(nonzero(data, &part));
                    continue;
                }
                Known::Hash(hash) => image.vault().data_hash(&data[part.clone()]) == *hash,
                Known::Data => false,
            };
            let is_certain = matches!(piece.known, Known::Hash(_));
            match (same, piece.of_log) {
                (true, _) => {}
                (false, _) if is_certain && blocks.0.is_power_of_two() => different.add(blocks),
                (false, true) => open.add(blocks),
                (false, false) => {
                    differs_as_a_whole |= is_certain && part.len() == data.len();
                    of_base.add(blocks);
                }
            }
        }
        // A checksum is of a whole block of the base.
        open.add(Blocks(of_base.0 & of_log.0));
        let of_base = of_base.without(of_log).without(different);
        let open = open.without(different);
        Self { offset, data, different, of_base, open, differs_as_a_whole }
    }

    /// Compares what lies in the base with its checksums; `None` leaves it open.
    fn compare_sums(&mut self, image: &DiskImage, sums: Option<&Bytes>) {
        let key = image.vault().hash_key();
        let differs = |nth: &usize| {
            let sum = sums.map(|sums| &sums[nth * HASH_BYTES..(nth + 1) * HASH_BYTES]);
            sum.is_none_or(|sum| *sum != padded_hash(&key, self.block(*nth)))
        };
        let found: Blocks = self.of_base.numbers().filter(differs).collect();
        if sums.is_none() || self.differs_as_a_whole && found.is_empty() {
            self.open.add(self.of_base);
        } else {
            self.different.add(found);
        }
    }

    /// Compares the open blocks with the replica's data, which `data` holds for each.
    fn compare_data<'d>(&mut self, data: impl Iterator<Item = &'d [u8]>) {
        let open = self.open.numbers().zip(data);
        let found = open.filter(|(nth, data)| self.block(*nth) != *data);
        let found: Blocks = found.map(|(nth, _)| nth).collect();
        self.different.add(found);
    }

    fn block(&self, nth: usize) -> &[u8] {
        let start = nth * BLOCK_BYTES as usize;
        &self.data[start..self.data.len().min(start + BLOCK_BYTES as usize)]
    }

    /// The open blocks as ranges of the disk.
    fn open_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.open.numbers().map(|nth| {
            let start = self.offset + nth as u64 * BLOCK_BYTES;
            start..start + self.block(nth).len() as u64
        })
    }
}

/// The blocks of a chunk that are not zero in `part` of it.
fn nonzero(chunk: &[u8], part: &Range<usize>) -> Blocks {
    let block = BLOCK_BYTES as usize;
    let of_block = |nth: &usize| part.start.max(nth * block)..part.end.min((nth + 1) * block);
    let touched = Blocks::touched(part);
    touched.numbers().filter(|nth| !is_zero(&chunk[of_block(nth)])).collect()
}

impl DiskImage {
    /// What is known of a region of the disk; reads at most the index of its base region.
    ///
    /// # Errors
    /// As [`DiskImage::read_at`].
    pub async fn fingerprint(&self, region: u64) -> Result<Fingerprint, VaultError> {
        let start = region.saturating_mul(REGION_BYTES).min(self.size_bytes());
        let range = start..start.saturating_add(REGION_BYTES).min(self.size_bytes());
        let pieces = self.known(range.clone(), CHUNK_BYTES).await?;
        Ok(Fingerprint { region, range, pieces })
    }

    /// Which blocks of chunks differ from the replica, for chunks with what the disk holds there, by
    /// their offsets and ascending. Reads checksums where the vault has them, else the data of the blocks
    /// that are in question; memory is that of the chunks at most.
    ///
    /// # Errors
    /// As [`DiskImage::read_at`].
    pub async fn differing_blocks(
        &self,
        fingerprint: &Fingerprint,
        chunks: &[(u64, &[u8])],
    ) -> Result<Vec<Blocks>, VaultError> {
        let mut chunks: Vec<Comparison<'_>> = chunks
            .iter()
            .map(|&(offset, data)| Comparison::begin(fingerprint, self, offset, data))
            .collect();
        let of_base = chunks.iter().filter(|chunk| !chunk.of_base.is_empty());
        let of_base: Vec<u64> = of_base.map(|chunk| chunk.offset).collect();
        if !of_base.is_empty() {
            let sums = self.sums(fingerprint, &of_base).await?;
            for chunk in &mut chunks {
                chunk.compare_sums(self, sums.get(&chunk.offset));
            }
        }
        let open: Vec<Range<u64>> = chunks.iter().flat_map(Comparison::open_ranges).collect();
        let data = self.read_each(&open).await?;
        let mut data = data.iter().map(Vec::as_slice);
        for chunk in &mut chunks {
            chunk.compare_data(&mut data);
        }
        Ok(chunks.into_iter().map(|chunk| chunk.different).collect())
    }

    /// The checksums of chunks of the base, as far as they are there and undamaged.
    async fn sums(
        &self,
        fingerprint: &Fingerprint,
        offsets: &[u64],
    ) -> Result<BTreeMap<u64, Bytes>, VaultError> {
        let Some(region) = self.base_region(fingerprint.region).await? else {
            return Ok(BTreeMap::new());
        };
        let chunks = region.chunks();
        match self.vault().read(&region.sums, 0..HEADER_BYTES as u64).await {
            Ok((header, _)) if is_header_of(&header, region.hash, chunks.len()) => {}
            Ok(_) | Err(VaultError::Missing { .. } | VaultError::Damaged { .. }) => {
                return Ok(BTreeMap::new());
            }
            Err(error) => return Err(error),
        }
        let ranks: Vec<u64> = offsets
            .iter()
            .filter_map(|offset| chunks.binary_search(&(offset / CHUNK_BYTES)).ok())
            .map(|rank| rank as u64)
            .collect();
        let requests: Vec<_> = joined(&ranks).collect();
        let answers: Vec<_> = stream::iter(requests)
            .map(|records| self.read_records(&region.sums, records))
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        let found = answers.into_iter().flatten();
        Ok(found.map(|(rank, sums)| (chunks[rank as usize] * CHUNK_BYTES, sums)).collect())
    }

    /// All checksums of a region of the base; `None` if it has none.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] if they cannot all be used; [`VaultError::Store`].
    pub(super) async fn region_sums(&self, region: u64) -> Result<Option<RegionSums>, VaultError> {
        let Some(region) = self.base_region(region).await? else { return Ok(None) };
        let (path, numbers) = (region.sums.clone(), region.chunks());
        let length = (HEADER_BYTES + numbers.len() * RECORD_BYTES) as u64;
        let (bytes, found) = match self.vault().read(&path, 0..length).await {
            Err(VaultError::Missing { .. }) => return Ok(None),
            read => read?,
        };
        same(found, "length of the object", found, length).map_err(in_object(&path))?;
        let (header, records) = bytes.split_at(HEADER_BYTES);
        if !is_header_of(header, region.hash, numbers.len()) {
            return Err(damaged(&path, damage(0, Flaw::Checksum("header"))));
        }
        let mut chunks = BTreeMap::new();
        for (nth, (number, record)) in
            numbers.iter().zip(records.chunks_exact(RECORD_BYTES)).enumerate()
        {
            let sums = checked_record(record).ok_or_else(|| {
                let at = HEADER_BYTES + nth * RECORD_BYTES;
                damaged(&path, damage(at as u64, Flaw::Checksum("record")))
            })?;
            chunks.insert(number * CHUNK_BYTES, bytes.slice_ref(sums));
        }
        Ok(Some(RegionSums { path, key: self.vault().hash_key(), chunks }))
    }

    /// Records by their numbers; those that are damaged are left out.
    async fn read_records(
        &self,
        path: &Path,
        records: Range<u64>,
    ) -> Result<Vec<(u64, Bytes)>, VaultError> {
        let place = |record: u64| HEADER_BYTES as u64 + record * RECORD_BYTES as u64;
        let bytes = match self.vault().read(path, place(records.start)..place(records.end)).await {
            Ok((bytes, _)) => bytes,
            Err(VaultError::Missing { .. } | VaultError::Damaged { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let whole = records.zip(bytes.chunks_exact(RECORD_BYTES)).filter_map(|(nth, record)| {
            checked_record(record).map(|sums| (nth, bytes.slice_ref(sums)))
        });
        Ok(whole.collect())
    }
}

impl RegionSums {
    /// Where they are.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether those of the chunk at `offset` are those of its data.
    pub(super) fn fit(&self, offset: u64, data: &[u8]) -> bool {
        let made = sum_record(&self.key, data);
        self.chunks.get(&offset).is_some_and(|sums| *sums == made[4..])
    }

    /// Length of the object.
    pub(super) fn bytes(&self) -> u64 {
        (HEADER_BYTES + self.chunks.len() * RECORD_BYTES) as u64
    }
}

/// The checksums in a record, unless it is damaged.
fn checked_record(record: &[u8]) -> Option<&[u8]> {
    let (checksum, sums) = record.split_at(4);
    (checksum == crc32fast::hash(sums).to_le_bytes()).then_some(sums)
}

fn is_header_of(header: &[u8], region: SegmentHash, records: usize) -> bool {
    header[..8] == *MAGIC
        && header[8..10] == VERSION.to_le_bytes()
        && header[12..16] == (records as u32).to_le_bytes()
        && header[16..48] == region.0
        && header[60..] == crc32fast::hash(&header[..60]).to_le_bytes()
}

/// Compares with zeroes, which the compiler makes a `memcmp` of: byte by byte would be the slower half
/// of a comparison of holes.
pub(super) fn is_zero(data: &[u8]) -> bool {
    const ZEROES: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
    data.chunks(ZEROES.len()).all(|block| *block == ZEROES[..block.len()])
}

/// Record numbers, ascending, as ranges to ask for.
fn joined(ranks: &[u64]) -> impl Iterator<Item = Range<u64>> {
    let mut ranks = ranks.iter().copied().peekable();
    std::iter::from_fn(move || {
        let first = ranks.next()?;
        let mut end = first + 1;
        while let Some(next) = ranks.next_if(|next| *next <= end + GAP_RECORDS) {
            end = next + 1;
        }
        Some(first..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_join_over_small_gaps_only() {
        let got: Vec<_> = joined(&[0, 1, 6, 12, 20]).collect();
        assert_eq!(got, [0..7, 12..13, 20..21]);
        assert_eq!(joined(&[]).count(), 0);
    }

    #[test]
    fn blocks_are_those_that_a_range_touches_and_zeroes_are_looked_for_in_it_only() {
        let block = BLOCK_BYTES as usize;
        let touched = Blocks::touched(&(block - 1..2 * block + 1));
        assert_eq!(touched, [0, 1, 2].into_iter().collect());
        assert!(touched.contains(2) && !touched.contains(3));
        let mut chunk = vec![0; 4 * block];
        (chunk[0], chunk[2 * block]) = (1, 1);
        assert_eq!(nonzero(&chunk, &(1..4 * block)), [2].into_iter().collect());
    }
}
