//! The bytes of a log: header, metadata blocks, entries, checksum. Little-endian, packed.
//!
//! Header, 4,096 bytes at offset 0 ([MS-HRL] 2.2):
//!
//! | offset | field | type |
//! |---|---|---|
//! | 0 | Cookie, `msctlog ` | u8\[8\] |
//! | 8 | `LogFormatVersion`, 0x00020000; 0x00010000 is read | u32 |
//! | 12 | `TimeStamp`, seconds since 2000 | u32 |
//! | 16 | `CreatorApplication`, `ct  ` | u8\[4\] |
//! | 20 | `CreatorVersion` | u32 |
//! | 24 | `OriginalSize` | u64 |
//! | 32 | `CurrentSize` | u64 |
//! | 40 | Checksum of the header without this field | u32 |
//! | 44 | `EOLLocation`, 0 while open | u64 |
//! | 52 | `ErrorCode` | i32 |
//! | 56 | `MetadataSize` | u32 |
//! | 60 | `UniqueId` | u8\[16\] |
//! | 76 | `PreviousUniqueId` | u8\[16\] |
//! | 92 | `LastModifiedTimeStamp` | u32 |
//! | 96 | `TotalMetadataEntries` | u64 |
//! | 104 | `FileType` | u32 |
//! | 108 | Flags | u8\[2\] |
//! | 110 | `Vhd2DataWriteGuid` | u8\[16\] |
//! | 126 | Reserved, 0 once closed | u8\[3970\] |
//!
//! Metadata block, `MetadataSize` bytes ([MS-HRL] 2.3): `PreviousMetadataLocation` u64 (how far back the
//! block before starts; 0 in the first), `ValidMetadataEntries` u32, Checksum u32, Reserved u8\[16\]; then
//! entries of 32 bytes ([MS-HRL] 2.4): `ByteOffset` u64, Checksum u32, `DataLength` u32, `TimeStamp` u32,
//! `MetaOperation` u8, `DataChecksum` u32, Location u8, Reserved u8\[6\].
//!
//! GUIDs are stored the way Windows stores them: the first three groups little-endian.

use crate::domain::time::Timestamp;
use thiserror::Error;
use uuid::Uuid;

/// Length of the file header. Source: [MS-HRL] 2.2.
pub const HEADER_BYTES: u64 = 4096;

/// Length of a metadata block as we write it, the default of [MS-HRL] 2.2.
pub const BLOCK_BYTES: u64 = 4096;

/// Longest metadata block that is read: far above anything known, small enough to hold in memory.
pub const BLOCK_BYTES_MAX: u32 = 1 << 20;

/// Length of a block's header and of an entry. Source: [MS-HRL] 2.3, 2.4.
pub const ENTRY_BYTES: usize = 32;

/// Entries of one block as we write it: what fits after the block's header.
pub const GROUP_ENTRIES_MAX: usize = BLOCK_BYTES as usize / ENTRY_BYTES - 1;

/// Longest data of one entry that we write. Bounds a reader's buffer; and it is below 16 MiB, so the
/// checksum's sum cannot wrap and [`ZERO_CHECKSUM`] proves that data is zeroes.
pub const DATA_BYTES_MAX: usize = 1 << 20;

/// The checksum of nothing but zero bytes.
pub const ZERO_CHECKSUM: u32 = !0;

/// Above this many bytes the sum of a checksum can wrap.
const SUM_CANNOT_WRAP: u32 = u32::MAX / 255;

/// Bytes that are added up in lanes of 16 bits before these overflow: each lane has a quarter of them.
const LANES_SUM_BYTES: usize = 512;

const COOKIE: [u8; 8] = *b"msctlog ";
/// Without `Vhd2DataWriteGuid`, whose place is reserved there.
const VERSION_1: u32 = 0x0001_0000;
const VERSION_2: u32 = 0x0002_0000;
const CREATOR: [u8; 4] = *b"ct  ";
const CREATOR_VERSION: u32 = 0x000A_0000; // the value of the specification's sample
const OPERATION_WRITE: u8 = 1;

/// Seconds from 1970 to 2000, both at 00:00:00Z.
const EPOCH_2000: i64 = 946_684_800;

/// A length of the fields of the header, without what is reserved.
const FIELDS: usize = 126;

/// What is wrong with the bytes of a log.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Damage {
    /// The file is shorter than what it must hold here.
    #[error("the file ends early")]
    EndsEarly,
    /// The cookie is another.
    #[error("this is not a replication log")]
    Cookie,
    /// A version that is not read here.
    #[error("log format version {0:#010x} is not supported")]
    Version(u32),
    /// The header's checksum does not hold.
    #[error("the header's checksum does not hold")]
    HeaderChecksum,
    /// The header was marked: the writer met an error.
    #[error("the log was given up by its writer with error {0}")]
    GivenUp(i32),
    /// No block has such a size.
    #[error("metadata size {0} is not possible")]
    MetadataSize(u32),
    /// The log was not closed.
    #[error("the log was not closed")]
    NotClosed,
    /// The end of the log lies where it cannot.
    #[error("end of log {0} is not possible")]
    EndOfLog(u64),
    /// A block's checksum does not hold.
    #[error("the metadata block's checksum does not hold")]
    BlockChecksum,
    /// A block counts more entries than fit it.
    #[error("{0} entries do not fit the metadata block")]
    EntryCount(u32),
    /// The block before lies where it cannot.
    #[error("no metadata block can be {0} bytes back")]
    Distance(u64),
    /// An entry's checksum does not hold.
    #[error("the entry's checksum does not hold")]
    EntryChecksum,
    /// An operation that is not a write.
    #[error("operation {0} is not known")]
    Operation(u8),
    /// An entry that ends beyond the largest disk.
    #[error("an entry ends beyond any disk")]
    EntryRange,
    /// The entries describe more or less data than there is.
    #[error("the entries describe {described} bytes where {present} are present")]
    DataLength {
        /// What the entries sum up to.
        described: u64,
        /// What lies between the blocks.
        present: u64,
    },
    /// The data is not what was written.
    #[error("the data's checksum does not hold")]
    DataChecksum,
    /// The header counts other entries than the blocks hold.
    #[error("the header counts {header} entries, the blocks hold {blocks}")]
    EntryTotal {
        /// By the header.
        header: u64,
        /// By the blocks.
        blocks: u64,
    },
    /// The tail beside the log lacks writes that it must hold.
    #[error("the tail beside the log lacks writes")]
    TailIncomplete,
    /// A block that was flushed is not among those before the entries of the tail.
    #[error("the metadata block that a seal record names is not among the log's blocks")]
    SealedBlock,
    /// The log belongs to another disk, chain or place in the chain.
    #[error("the log does not continue its chain")]
    Chain,
    /// The disk was written without a log between this one and the one before.
    #[error("the log continues data write GUID {found}, the log before it {before}")]
    DataWriteGuid {
        /// In this log.
        found: Uuid,
        /// In the log before.
        before: Uuid,
    },
}

/// A time in a log: seconds since 2000-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogTime(pub u32);

impl From<Timestamp> for LogTime {
    /// Rounds down to seconds; a time outside of what a log can hold becomes the nearest it can.
    fn from(at: Timestamp) -> Self {
        let seconds = at.as_millis().div_euclid(1000).saturating_sub(EPOCH_2000);
        Self(u32::try_from(seconds.max(0)).unwrap_or(u32::MAX))
    }
}

impl From<LogTime> for Timestamp {
    fn from(at: LogTime) -> Self {
        Self::from_millis((i64::from(at.0) + EPOCH_2000) * 1000)
    }
}

/// The checksum of [MS-HRL] 2.6: ones' complement of the wrapping sum of the bytes. It does not see
/// bytes that changed places; what leaves the host has stronger checksums of its own.
pub fn checksum(bytes: &[u8]) -> u32 {
    Checksum::default().with(bytes).finish()
}

/// The same checksum, over bytes that come in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum(u32);

impl Checksum {
    /// Adds the next bytes.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let (chunks, rest) = bytes.as_chunks();
        let mut sum = self.0;
        for chunk in chunks {
            sum = sum.wrapping_add(sum_in_lanes(chunk));
        }
        for byte in rest {
            sum = sum.wrapping_add(u32::from(*byte));
        }
        Self(sum)
    }

    /// The checksum of all bytes that were added.
    pub fn finish(self) -> u32 {
        !self.0
    }
}

/// The sum of the bytes, eight at a time: even ones and odd ones in four lanes of a word.
fn sum_in_lanes(chunk: &[u8; LANES_SUM_BYTES]) -> u32 {
    const BYTES: u64 = 0x00ff_00ff_00ff_00ff;
    const PAIRS: u64 = 0x0000_ffff_0000_ffff;
    let mut lanes = 0;
    for word in chunk.as_chunks().0 {
        let word = u64::from_le_bytes(*word);
        lanes += (word & BYTES) + (word >> 8 & BYTES);
    }
    let halves = (lanes & PAIRS) + (lanes >> 16 & PAIRS);
    halves as u32 + (halves >> 32) as u32
}

/// The fields of the header that have a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the format, the major one in the high half.
    pub version: u32,
    /// When the log was made.
    pub created: LogTime,
    /// Version of the creator; not verified by anybody.
    pub creator_version: u32,
    /// Length of the file when it was made, in bytes.
    pub original_size: u64,
    /// Length of the file, in bytes.
    pub current_size: u64,
    /// End of the log, in bytes; 0 while it is open.
    pub end_of_log: u64,
    /// 0, or why the writer gave the log up.
    pub error_code: i32,
    /// Bytes of one metadata block.
    pub metadata_size: u32,
    /// Identity of this log.
    pub unique_id: Uuid,
    /// Identity of the log before it; nil in the first of a chain.
    pub previous_unique_id: Uuid,
    /// When the log was changed last.
    pub last_modified: LogTime,
    /// Entries of all blocks.
    pub total_entries: u64,
    /// Identity of the content that the chain of logs continues: of this generation of the disk. Nil in
    /// version 1.
    pub data_write_guid: Uuid,
}

impl Header {
    /// The header of an open log that holds nothing.
    pub fn open(
        unique_id: Uuid,
        previous_unique_id: Uuid,
        data_write_guid: Uuid,
        at: LogTime,
    ) -> Self {
        Self {
            version: VERSION_2,
            created: at,
            creator_version: CREATOR_VERSION,
            original_size: HEADER_BYTES + BLOCK_BYTES,
            current_size: HEADER_BYTES + BLOCK_BYTES,
            end_of_log: 0,
            error_code: 0,
            metadata_size: BLOCK_BYTES as u32,
            unique_id,
            previous_unique_id,
            last_modified: at,
            total_entries: 0,
            data_write_guid,
        }
    }

    /// The bytes at offset 0 of the file.
    pub fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        let mut out = Put { bytes: &mut bytes, at: 0 };
        out.put(&COOKIE);
        out.put(&self.version.to_le_bytes());
        out.put(&self.created.0.to_le_bytes());
        out.put(&CREATOR);
        out.put(&self.creator_version.to_le_bytes());
        out.put(&self.original_size.to_le_bytes());
        out.put(&self.current_size.to_le_bytes());
        out.put(&[0; 4]);
        out.put(&self.end_of_log.to_le_bytes());
        out.put(&self.error_code.to_le_bytes());
        out.put(&self.metadata_size.to_le_bytes());
        out.put(&self.unique_id.to_bytes_le());
        out.put(&self.previous_unique_id.to_bytes_le());
        out.put(&self.last_modified.0.to_le_bytes());
        out.put(&self.total_entries.to_le_bytes());
        out.put(&[0; 4 + 2]);
        out.put(&self.data_write_guid.to_bytes_le());
        let sum = checksum(&bytes); // the field itself is 0, which adds nothing
        bytes[40..44].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a header, and whether its checksum holds. What is reserved is not looked at: it is zero
    /// in a closed log, and in an open one it holds [`SealRecord`]s.
    ///
    /// # Errors
    /// [`Damage`] where the header cannot be a header whatever its checksum says.
    pub fn decode(bytes: &[u8; HEADER_BYTES as usize]) -> Result<(Self, bool), Damage> {
        let mut fields = Take(&bytes[..FIELDS]);
        if fields.array() != COOKIE {
            return Err(Damage::Cookie);
        }
        let version = fields.u32();
        if ![VERSION_1, VERSION_2].contains(&version) {
            return Err(Damage::Version(version));
        }
        let created = LogTime(fields.u32());
        let _creator: [u8; 4] = fields.array();
        let creator_version = fields.u32();
        let original_size = fields.u64();
        let current_size = fields.u64();
        let stored = fields.u32();
        let header = Self {
            version,
            created,
            creator_version,
            original_size,
            current_size,
            end_of_log: fields.u64(),
            error_code: fields.i32(),
            metadata_size: fields.u32(),
            unique_id: Uuid::from_bytes_le(fields.array()),
            previous_unique_id: Uuid::from_bytes_le(fields.array()),
            last_modified: LogTime(fields.u32()),
            total_entries: fields.u64(),
            data_write_guid: {
                let _file_type_and_flags: [u8; 6] = fields.array();
                let guid = Uuid::from_bytes_le(fields.array());
                if version == VERSION_1 { Uuid::nil() } else { guid }
            },
        };
        let size = header.metadata_size;
        if size < 512 || !size.is_multiple_of(512) || BLOCK_BYTES_MAX < size {
            return Err(Damage::MetadataSize(size));
        }
        let computed = Checksum::default().with(&bytes[..40]).with(&bytes[44..FIELDS]).finish();
        Ok((header, stored == computed))
    }
}

/// The header of a metadata block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// How many bytes back the block before starts; 0 in the first block.
    pub distance: u64,
    /// Entries in use.
    pub entries: u32,
}

impl BlockHeader {
    /// The first 32 bytes of a block.
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.distance.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.entries.to_le_bytes());
        let sum = checksum(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads and verifies the first 32 bytes of a block of `block_bytes`.
    ///
    /// # Errors
    /// [`Damage`] if the checksum does not hold or the entries cannot fit.
    pub fn decode(bytes: &[u8; ENTRY_BYTES], block_bytes: u32) -> Result<Self, Damage> {
        let mut fields = Take(bytes);
        let header = Self { distance: fields.u64(), entries: fields.u32() };
        if fields.u32() != checksum_without(bytes, 12) {
            return Err(Damage::BlockChecksum);
        }
        if block_bytes / ENTRY_BYTES as u32 - 1 < header.entries {
            return Err(Damage::EntryCount(header.entries));
        }
        Ok(header)
    }
}

/// One write: where it belongs and what its data sums up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Byte offset on the disk.
    pub offset: u64,
    /// Bytes of data.
    pub length: u32,
    /// When it was written.
    pub at: LogTime,
    /// Checksum of the data; 0 where the creator computed none.
    pub data_checksum: u32,
}

impl Entry {
    /// The 32 bytes of the entry.
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.at.0.to_le_bytes());
        bytes[20] = OPERATION_WRITE;
        bytes[21..25].copy_from_slice(&self.data_checksum.to_le_bytes());
        let sum = checksum(&bytes);
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads and verifies an entry.
    ///
    /// # Errors
    /// [`Damage`] if the checksum does not hold, the operation is unknown, or no disk is so long.
    pub fn decode(bytes: &[u8; ENTRY_BYTES]) -> Result<Self, Damage> {
        let mut fields = Take(bytes);
        let offset = fields.u64();
        if fields.u32() != checksum_without(bytes, 8) {
            return Err(Damage::EntryChecksum);
        }
        let (length, at) = (fields.u32(), LogTime(fields.u32()));
        let [operation] = fields.array();
        if operation != OPERATION_WRITE {
            return Err(Damage::Operation(operation));
        }
        if offset.checked_add(u64::from(length)).is_none() {
            return Err(Damage::EntryRange);
        }
        Ok(Self { offset, length, at, data_checksum: fields.u32() })
    }

    /// Whether data that has this entry's checksum is nothing but zeroes.
    pub fn is_zero(&self) -> bool {
        self.data_checksum == ZERO_CHECKSUM && self.length <= SUM_CANNOT_WRAP
    }
}

/// Where an open log keeps its seal records: sectors of the header that are reserved, so that a write
/// of one cannot tear another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealSlot {
    /// The two flush records take turns: the older is overwritten only after the flush of the newer
    /// has completed, so that one of them always names a block that is durable.
    Flush(bool),
    /// Written once, at a cut: nothing follows the block that it names.
    Cut,
    /// Written once, before a compacted log is in use: everything up to the block that it names is there
    /// and durable, and the tail says nothing of it.
    Begin,
}

impl SealSlot {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Flush(false), Self::Flush(true), Self::Cut, Self::Begin];

    /// Where in the file.
    pub const fn position(self) -> u64 {
        match self {
            Self::Flush(false) => SECTOR,
            Self::Flush(true) => 2 * SECTOR,
            Self::Cut => 3 * SECTOR,
            Self::Begin => 4 * SECTOR,
        }
    }
}

const SECTOR: u64 = 512;

/// Names the last block of an open log at some moment. 44 bytes: magic u8\[8\], `UniqueId` of the log
/// u8\[16\], offset of the block u64, entries up to it u64, CRC32 of what comes before u32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealRecord {
    /// Offset of the block in the log.
    pub block: u64,
    /// Entries up to and in that block.
    pub total_entries: u64,
}

impl SealRecord {
    /// Length in bytes.
    pub const BYTES: usize = 44;
    const MAGIC: [u8; 8] = *b"lbseal01";

    /// The bytes of the record.
    pub fn encode(&self, log: Uuid) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&Self::MAGIC);
        bytes[8..24].copy_from_slice(log.as_bytes());
        bytes[24..32].copy_from_slice(&self.block.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.total_entries.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..40]);
        bytes[40..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The record of `log` in one slot of a header, if there is a whole one.
    pub fn find(header: &[u8; HEADER_BYTES as usize], slot: SealSlot, log: Uuid) -> Option<Self> {
        let start = slot.position() as usize;
        let bytes = &header[start..start + Self::BYTES];
        let mut fields = Take(bytes);
        let (magic, id): ([u8; 8], [u8; 16]) = (fields.array(), fields.array());
        let record = Self { block: fields.u64(), total_entries: fields.u64() };
        let whole = fields.u32() == crc32fast::hash(&bytes[..40]);
        (whole && magic == Self::MAGIC && id == *log.as_bytes()).then_some(record)
    }
}

/// The checksum of 32 bytes without the four at `field`.
fn checksum_without(bytes: &[u8; ENTRY_BYTES], field: usize) -> u32 {
    Checksum::default().with(&bytes[..field]).with(&bytes[field + 4..]).finish()
}

/// Writes fields one after the other.
struct Put<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Put<'_> {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }
}

/// Reads fields one after the other, out of bytes that are known to be long enough.
pub(in crate::disk) struct Take<'a>(pub(in crate::disk) &'a [u8]);

impl Take<'_> {
    pub(in crate::disk) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the fields fit their structure");
        self.0 = rest;
        *field
    }

    pub(in crate::disk) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(in crate::disk) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn i32(&mut self) -> i32 {
        i32::from_le_bytes(self.array())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::uuid;

    /// The header of the specification's sample ([MS-HRL] 3).
    fn sample() -> Header {
        Header {
            version: VERSION_2,
            created: LogTime(539_842_380),
            creator_version: 0x000A_0000,
            original_size: 0,
            current_size: 332_288,
            end_of_log: 332_288,
            error_code: 0,
            metadata_size: 4096,
            unique_id: uuid!("572fc7ff-1f03-49ab-b3c5-30a665b8e20c"),
            previous_unique_id: uuid!("a8ae4b46-f7ad-4402-87aa-5b33e9f89c77"),
            last_modified: LogTime(539_842_384),
            total_entries: 58,
            data_write_guid: uuid!("b9be5c57-f8be-5503-98bb-6c44faf9ac87"),
        }
    }

    #[test]
    fn a_header_reads_back_and_its_fields_lie_where_the_specification_puts_them() {
        let bytes = sample().encode();
        assert_eq!(Header::decode(&bytes), Ok((sample(), true)));
        assert_eq!(&bytes[..8], b"msctlog ");
        assert_eq!(bytes[8..12], [0, 0, 2, 0]);
        assert_eq!(bytes[44..52], 332_288_u64.to_le_bytes());
        assert_eq!(bytes[60..64], [0xff, 0xc7, 0x2f, 0x57]);
        assert_eq!(bytes[96..104], 58_u64.to_le_bytes());
        assert_eq!(bytes[110..114], [0x57, 0x5c, 0xbe, 0xb9]);
        assert!(bytes[126..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn the_printed_checksum_of_the_sample_header_is_seen_as_wrong() {
        let mut bytes = sample().encode();
        bytes[40..44].copy_from_slice(&4_294_959_739_u32.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Ok((sample(), false)));
    }

    #[test]
    fn a_header_of_version_1_has_no_guid_and_one_of_version_3_is_refused() {
        let mut bytes = Header { version: VERSION_1, ..sample() }.encode();
        let expected = Header { version: VERSION_1, data_write_guid: Uuid::nil(), ..sample() };
        assert_eq!(Header::decode(&bytes), Ok((expected, true)));
        bytes[10] = 3;
        assert_eq!(Header::decode(&bytes), Err(Damage::Version(0x0003_0000)));
    }

    #[test]
    fn an_empty_first_block_has_the_checksum_of_the_sample() {
        let bytes = BlockHeader { distance: 0, entries: 0 }.encode();
        assert_eq!(bytes[12..16], 4_294_967_295_u32.to_le_bytes());
    }

    #[test]
    fn entries_have_the_checksums_of_the_sample() {
        for (length, offset, at, expected) in [
            (4096, 3_626_340_352, 539_842_382, 4_294_966_639_u32),
            (4096, 3_626_344_448, 539_842_382, 4_294_966_623),
            (8192, 3_626_348_544, 539_842_382, 4_294_966_591),
            (4096, 3_628_871_680, 539_842_382, 4_294_966_696),
            (4096, 10_188_185_600, 539_842_382, 4_294_966_776),
            (31_232, 3_673_764_352, 539_842_382, 4_294_966_413),
            (512, 139_058_688, 539_842_382, 4_294_966_747),
            (512, 139_058_688, 539_842_381, 4_294_966_748),
            (1024, 135_266_304, 539_842_382, 4_294_967_024),
            (4096, 8_026_886_144, 539_842_381, 4_294_966_558),
        ] {
            let entry = Entry { offset, length, at: LogTime(at), data_checksum: 0 };
            let bytes = entry.encode();
            assert_eq!(bytes[8..12], expected.to_le_bytes(), "entry at {offset}");
            assert_eq!(Entry::decode(&bytes), Ok(entry));
        }
    }

    #[test]
    fn the_checksum_of_pieces_of_any_length_is_that_of_the_sum_of_all_bytes() {
        let bytes: Vec<u8> = (0..1000_u32).map(|nth| 255 - (nth * nth) as u8).collect();
        for cut in 0..bytes.len() {
            let (head, rest) = bytes.split_at(cut);
            let sum: u32 = bytes.iter().copied().map(u32::from).sum();
            assert_eq!(Checksum::default().with(head).with(rest).finish(), !sum, "cut at {cut}");
        }
        assert_eq!(checksum(&[255; 4096]), !(4096 * 255), "the largest bytes");
    }

    #[test]
    fn times_count_from_2000() {
        let at = Timestamp::from(LogTime(539_842_380));
        assert_eq!(at.to_string(), "2017-02-08T04:13:00.000Z");
        assert_eq!(LogTime::from(at), LogTime(539_842_380));
        assert_eq!(LogTime::from(Timestamp::from_millis(0)), LogTime(0));
    }

    #[test]
    fn only_data_of_zeroes_counts_as_zero() {
        let entry =
            |length, data_checksum| Entry { offset: 0, length, at: LogTime(0), data_checksum };
        assert!(entry(512, checksum(&[0; 512])).is_zero());
        assert!(!entry(512, checksum(&[1; 512])).is_zero());
        assert!(!entry(u32::MAX, ZERO_CHECKSUM).is_zero());
    }

    #[test]
    fn a_seal_record_belongs_to_its_log_and_slot() {
        let log = sample().unique_id;
        let record = SealRecord { block: 8192, total_entries: 3 };
        let mut header = sample().encode();
        header[1024..1024 + SealRecord::BYTES].copy_from_slice(&record.encode(log));
        assert_eq!(SealRecord::find(&header, SealSlot::Flush(true), log), Some(record));
        assert_eq!(SealRecord::find(&header, SealSlot::Flush(false), log), None);
        assert_eq!(SealRecord::find(&header, SealSlot::Flush(true), Uuid::nil()), None);
        header[1030] ^= 1;
        assert_eq!(SealRecord::find(&header, SealSlot::Flush(true), log), None);
    }
}
