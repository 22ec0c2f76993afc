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
//! checksums had been sent, has another hash and so no checksums. Where they are missing or damaged the
//! data is read instead: they are worth nothing but time.

use super::error::VaultError;
use super::image::{DiskImage, Known, KnownPiece};
use super::keys::HashKey;
use super::segment::{FRAME_BYTES, REGION_BYTES, SegmentHash};
use super::vault::{PARALLEL, Vault};
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

/// Most bytes of data that are asked for at one time where there are no checksums.
const RUN_BYTES: u64 = 4 * 1024 * 1024;

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

/// What the blocks of a chunk are compared with.
#[derive(Debug)]
pub enum Blocks {
    /// All of it is zero.
    Zeroes,
    /// The hash of each block.
    Sums(Bytes),
    /// The data.
    Data(Vec<u8>),
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

    fn is_of_base(&self, range: &Range<u64>) -> bool {
        self.pieces_in(range).iter().all(|piece| !piece.of_log)
    }

    fn chunk(&self, offset: u64) -> Range<u64> {
        offset..(offset + CHUNK_BYTES).min(self.range.end)
    }
}

impl Blocks {
    /// Whether the block with this number differs from `block`, the same part of the disk.
    pub fn differs(&self, image: &DiskImage, nth: usize, block: &[u8]) -> bool {
        match self {
            Self::Zeroes => !is_zero(block),
            Self::Sums(sums) => {
                let hash = padded_hash(&image.vault().hash_key(), block);
                sums[nth * HASH_BYTES..(nth + 1) * HASH_BYTES] != hash
            }
            Self::Data(data) => {
                let at = nth * BLOCK_BYTES as usize;
                data[at..at + block.len()] != *block
            }
        }
    }
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

    /// What to compare the blocks of chunks with, which begin at `offsets`, ascending. Checksums where
    /// the vault has them, else the data: memory is that of the chunks at most.
    ///
    /// # Errors
    /// As [`DiskImage::read_at`].
    pub async fn blocks(
        &self,
        fingerprint: &Fingerprint,
        offsets: &[u64],
    ) -> Result<Vec<(u64, Blocks)>, VaultError> {
        let mut found = BTreeMap::new();
        let (mut of_base, mut to_read) = (Vec::new(), Vec::new());
        for &offset in offsets {
            let chunk = fingerprint.chunk(offset);
            if fingerprint.is_zero(&chunk) {
                found.insert(offset, Blocks::Zeroes);
            } else if fingerprint.is_of_base(&chunk) {
                of_base.push(offset);
            } else {
                to_read.push(offset);
            }
        }
        if !of_base.is_empty() {
            let mut sums = self.sums(fingerprint, &of_base).await?;
            for offset in of_base {
                match sums.remove(&offset) {
                    Some(sums) => _ = found.insert(offset, Blocks::Sums(sums)),
                    None => to_read.push(offset),
                }
            }
            to_read.sort_unstable();
        }
        for run in runs(&to_read, CHUNK_BYTES, RUN_BYTES) {
            let range = run.start..run.end.min(fingerprint.range.end);
            let mut data = vec![0; (range.end - range.start) as usize];
            self.read_at(range.start, &mut data).await?;
            for (nth, chunk) in data.chunks(CHUNK_BYTES as usize).enumerate() {
                let offset = range.start + nth as u64 * CHUNK_BYTES;
                found.insert(offset, Blocks::Data(chunk.to_vec()));
            }
        }
        Ok(found.into_iter().collect())
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
            let (checksum, sums) = record.split_at(4);
            (checksum == crc32fast::hash(sums).to_le_bytes()).then(|| (nth, bytes.slice_ref(sums)))
        });
        Ok(whole.collect())
    }
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

/// Ascending offsets of pieces of `length` as ranges of at most `most`.
fn runs(offsets: &[u64], length: u64, most: u64) -> impl Iterator<Item = Range<u64>> {
    let mut offsets = offsets.iter().copied().peekable();
    std::iter::from_fn(move || {
        let start = offsets.next()?;
        let mut end = start + length;
        while offsets.next_if(|next| *next == end && end - start < most).is_some() {
            end += length;
        }
        Some(start..end)
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
    fn runs_are_of_neighbours_and_bounded() {
        let got: Vec<_> = runs(&[0, 1, 2, 3, 7], 1, 3).collect();
        assert_eq!(got, [0..3, 3..4, 7..8]);
    }
}
