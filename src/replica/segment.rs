//! The one format of every binary object in the vault.
//!
//! ```text
//! header (128) | wrapped data key (0 or 68) | frames, back to back | footer | trailer (64)
//!
//! header   0   8  magic "LBREPSEG"
//!          8   2  version, 1
//!         10   1  kind: 1 delta, 2 base region, 3 fence, 4 part of a delta or base region, 5 manifest
//!         11   1  flags, 0
//!         12   2  length of the wrapped data key: 68, or 0 (not encrypted)
//!         14   2  0
//!         16  16  vault id
//!         32  16  disk id
//!         48   8  sequence (delta, fence, part) or generation (base region, manifest)
//!         56   8  epoch of the writer
//!         64  32  hash of the segment before; zeroes if there is none. Manifest: of the segment `from_seq`
//!         96   8  time of the cut, milliseconds since 1970 (signed)
//!        104   8  disk size in bytes
//!        112   8  place: region number, part number, or the first usable sequence of a manifest
//!        120   4  0
//!        124   4  CRC32 of bytes 0..124
//! wrapped  0   8  id of the key that wraps it
//!          8  12  nonce
//!         20  48  the data key, AES-256-GCM with the header as additional data
//! frame           up to 65,536 bytes of the disk, never across a multiple of 65,536: compressed by its
//!                 codec, then AES-256-GCM if there is a data key (nonce: the disk offset; tag at the end)
//! footer   0   4  number of parts P              (a manifest has a footer of its own)
//!          4   4  number of rows R
//!          8   8  sum of the lengths of the data rows
//!         16  40P parts: u64 length of the object, 32 bytes BLAKE3 of the rows whose frames it holds
//!             48R rows, ascending by disk offset, not overlapping:
//!                  0  8  disk offset
//!                  8  8  length in bytes
//!                 16  8  position of the frame in its object; 0 for zeroes
//!                 24  4  stored length of the frame; 0 for zeroes
//!                 28  2  object: 0 this one, k the k-th part
//!                 30  1  kind: 1 data, 2 zeroes
//!                 31  1  codec: 0 raw, 1 zstd
//!                 32 16  first half of the BLAKE3 of the frame's data; 0 for zeroes
//! trailer  0   8  position of the footer
//!          8   8  length of the footer
//!         16  32  BLAKE3 of header, footer and trailer bytes 0..16: the segment's hash
//!         48   8  0
//!         56   8  magic "LBREPEND"
//! ```
//! Everything is little-endian. The hash covers every row and so, by the rows' hashes, every byte of
//! data; a segment names the hash of the one before, so that a chain cannot lose or swap a link.
//! A part is a header, its data key and frames only: the segment that owns it holds its rows.
//!
//! In an encrypted vault every object has a data key and every BLAKE3 is keyed, which makes a segment's
//! hash the proof that it was written by who has the vault's keys. No hash covers data keys or what they
//! made of the data: a segment that is written twice is the same one. What stays in the clear are ids,
//! times, and which ranges of a disk were written.
//!
//! Nothing in this file does I/O. Decoding trusts nothing: a wrong field is a [`Damage`] that names
//! its place, and no length is believed before it is compared with what there is.

use super::keys::{HashKey, KeyId, TAG_BYTES, WRAPPED_KEY_BYTES};
use crate::domain::id::{DiskId, VaultId};
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use uuid::Uuid;

/// Most bytes of the disk in one frame. 64 KiB reads with 0.1 ms from a local store and is the
/// granularity of resynchronization (data-plane measurements 5 and 6).
pub const FRAME_BYTES: u64 = 64 * 1024;

/// Bytes of data after which a delta or a base region goes on in another object, which bounds a sender's
/// memory: a part is made while some before it are sent. Several of this size at a time fill a link as
/// well as fewer larger ones do, and what an interruption makes somebody send again is less.
pub const PART_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes of the disk in a base region.
pub const REGION_BYTES: u64 = 64 * 1024 * 1024;

/// Most rows in one segment: 96 MiB of index. A longer delta is sent as several segments.
pub const MAX_ROWS: usize = 1 << 21;

/// Most regions in a manifest: a disk of 64 TiB.
pub(crate) const MAX_REGIONS: u64 = 1 << 20;

/// Length of the header.
pub const HEADER_BYTES: u64 = 128;

/// Length of the trailer.
pub const TRAILER_BYTES: u64 = 64;

/// Longest footer of any object.
pub(crate) const MAX_FOOTER_BYTES: u64 =
    FOOTER_HEAD as u64 + MAX_PARTS * PART_ROW as u64 + (MAX_ROWS * ROW) as u64;

const HEADER_MAGIC: &[u8; 8] = b"LBREPSEG";
pub(super) const TRAILER_MAGIC: &[u8; 8] = b"LBREPEND";
const VERSION: u16 = 1;
pub(super) const MAX_PARTS: u64 = u16::MAX as u64;
pub(super) const FOOTER_HEAD: usize = 16;
pub(super) const PART_ROW: usize = 40;
pub(super) const ROW: usize = 48;

/// The BLAKE3 hash by which a segment is known. Zeroes stand for "none".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SegmentHash(pub [u8; 32]);

/// What an object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The changes of one cycle.
    Delta,
    /// A region of the initial copy or of a compacted base.
    Base,
    /// A mark that ends the right of earlier epochs to write.
    Fence,
    /// Frames of a delta or base region that is too large for one object.
    Part,
    /// The list of the regions of a base.
    Manifest,
}

/// The header of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the object is for.
    pub kind: Kind,
    /// The vault it belongs to.
    pub vault: VaultId,
    /// The disk it belongs to.
    pub disk: DiskId,
    /// The sequence number (delta, fence, part) or the generation (base region, manifest).
    pub sequence: u64,
    /// The epoch of the writer.
    pub epoch: u64,
    /// The segment before.
    pub previous: SegmentHash,
    /// When the content was true.
    pub cut_at: Timestamp,
    /// The disk's size in bytes at that time.
    pub disk_size: u64,
    /// Region number, part number or first usable sequence; otherwise 0.
    pub place: u64,
    /// Whether a wrapped data key follows. Writers take it from the vault, whatever is here.
    pub encrypted: bool,
}

/// One row of an index: a range of the disk and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes on the disk; at most [`FRAME_BYTES`] for data.
    pub length: u64,
    /// What is there.
    pub content: Content,
}

/// What a row's range holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeroes, which are not stored.
    Zeroes,
    /// The frame that holds the data.
    Frame {
        /// Position in its object.
        position: u64,
        /// Bytes in its object.
        stored: u32,
        /// 0 for the object of the index, k for its k-th part.
        part: u16,
        /// First half of the BLAKE3 of the data.
        hash: [u8; 16],
        /// How the data is compressed.
        codec: Codec,
    },
}

/// How the data of a frame is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Raw,
    /// One Zstandard frame.
    Zstd,
}

/// A part object as its segment knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Length of the object in bytes.
    pub length: u64,
    /// BLAKE3 of the rows whose frames it holds.
    pub hash: SegmentHash,
}

/// The index of a segment, checked in every field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The header.
    pub header: Header,
    /// The segment's hash.
    pub hash: SegmentHash,
    /// The part objects that hold frames of this segment, from part 1 on.
    pub parts: Vec<Part>,
    /// What the segment says about the disk, ascending by offset.
    pub rows: Vec<Row>,
    /// Sum of the lengths of the data rows.
    pub data_bytes: u64,
}

/// What is wrong with an object, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {flaw}")]
pub struct Damage {
    /// Position in the object.
    pub at: u64,
    /// What is wrong.
    #[source]
    pub flaw: Flaw,
}

/// What can be wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It ends too early or goes on too long.
    #[error("{what} has {found} bytes instead of {expected}")]
    Length {
        /// Which part of the object.
        what: &'static str,
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// Nothing of this kind begins or ends here.
    #[error("the magic number is not that of a segment")]
    Magic,
    /// It was written by a version that this one cannot read.
    #[error("format version {0} is not known")]
    Version(u16),
    /// A checksum does not match.
    #[error("the checksum of the {0} does not match")]
    Checksum(&'static str),
    /// A field holds what it must not.
    #[error("{field} is {found}, which it cannot be")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// A number is not the one that the object's name promises.
    #[error("{field} is {found} instead of {expected}")]
    OtherNumber {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What the name says.
        expected: u64,
    },
    /// It belongs to something else.
    #[error("{field} is {found} instead of {expected}")]
    OtherId {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: Uuid,
        /// What the name says.
        expected: Uuid,
    },
    /// It is encrypted, and there are no keys.
    #[error("it is encrypted: name the vault's key file")]
    Encrypted,
    /// It is not encrypted, but its vault is.
    #[error("it is not encrypted, though the vault is: it was not written with the vault's keys")]
    NotEncrypted,
    /// Its data key is wrapped by a key that is not there.
    #[error("its data key needs key {0}, which the key file does not have")]
    UnknownKey(KeyId),
    /// What is encrypted does not belong here.
    #[error("the {0} does not open: it was tampered with, or belongs to another place or vault")]
    Forged(&'static str),
    /// A frame cannot be decompressed.
    #[error("the frame cannot be decompressed to its length")]
    Compression,
    /// It cannot be parsed as text.
    #[error("it is not the text that it should be: {0}")]
    Text(String),
}

/// The last bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the footer lies.
    pub footer: (u64, u64),
    /// The segment's hash.
    pub hash: SegmentHash,
}

impl SegmentHash {
    /// No segment.
    pub const NONE: Self = Self([0; 32]);
}

impl fmt::Display for SegmentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SegmentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<SegmentHash> for String {
    fn from(hash: SegmentHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for SegmentHash {
    type Error = blake3::HexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes()))
    }
}

impl Kind {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Delta => 1,
            Self::Base => 2,
            Self::Fence => 3,
            Self::Part => 4,
            Self::Manifest => 5,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Delta,
            2 => Self::Base,
            3 => Self::Fence,
            4 => Self::Part,
            5 => Self::Manifest,
            _ => return None,
        })
    }
}

impl Codec {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(HEADER_MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.kind.byte();
        bytes[12..14].copy_from_slice(&(self.wrapped_key_bytes() as u16).to_le_bytes());
        bytes[16..32].copy_from_slice(self.vault.0.as_bytes());
        bytes[32..48].copy_from_slice(self.disk.0.as_bytes());
        bytes[48..56].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[64..96].copy_from_slice(&self.previous.0);
        bytes[96..104].copy_from_slice(&self.cut_at.as_millis().to_le_bytes());
        bytes[104..112].copy_from_slice(&self.disk_size.to_le_bytes());
        bytes[112..120].copy_from_slice(&self.place.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..124]);
        bytes[124..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`Damage`] naming the first field that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut fields = Fields::of(bytes, 0, "the header", HEADER_BYTES)?;
        if fields.take(8) != HEADER_MAGIC {
            return Err(damage(0, Flaw::Magic));
        }
        let version = fields.u16();
        if version != VERSION {
            return Err(damage(8, Flaw::Version(version)));
        }
        if crc32fast::hash(&bytes[..124]) != u32::from_le_bytes(four(&bytes[124..])) {
            return Err(damage(124, Flaw::Checksum("header")));
        }
        let kind = fields.u8();
        let kind = Kind::of(kind).ok_or_else(|| impossible(10, "kind", kind.into()))?;
        fields.zero_u8("flags")?;
        let encrypted = match u64::from(fields.u16()) {
            0 => false,
            WRAPPED_KEY_BYTES => true,
            length => return Err(impossible(12, "length of the wrapped key", length)),
        };
        fields.zero_u16("reserved field")?;
        let header = Self {
            kind,
            vault: VaultId(fields.uuid()),
            disk: DiskId(fields.uuid()),
            sequence: fields.u64(),
            epoch: fields.u64(),
            previous: SegmentHash(fields.hash()),
            cut_at: Timestamp::from_millis(fields.u64().cast_signed()),
            disk_size: fields.u64(),
            place: fields.u64(),
            encrypted,
        };
        fields.zero_u32("reserved field")?;
        Ok(header)
    }

    /// Length of what follows the header before the first frame.
    pub fn wrapped_key_bytes(&self) -> u64 {
        if self.encrypted { WRAPPED_KEY_BYTES } else { 0 }
    }

    /// The part of the disk that rows of this object may speak of; empty where there is none.
    pub fn limits(&self) -> Range<u64> {
        match self.kind {
            Kind::Delta | Kind::Fence | Kind::Part | Kind::Manifest => 0..self.disk_size,
            Kind::Base => {
                let start = self.place.saturating_mul(REGION_BYTES).min(self.disk_size);
                start..start.saturating_add(REGION_BYTES).min(self.disk_size)
            }
        }
    }

    /// Checks that the object is what its name says.
    ///
    /// # Errors
    /// [`Damage`] naming the field that differs.
    pub fn expect(&self, vault: VaultId, disk: DiskId, sequence: u64) -> Result<(), Damage> {
        let id = |at, field, found: Uuid, expected: Uuid| {
            if found == expected {
                return Ok(());
            }
            Err(damage(at, Flaw::OtherId { field, found, expected }))
        };
        id(16, "vault", self.vault.0, vault.0)?;
        id(32, "disk", self.disk.0, disk.0)?;
        same(48, "sequence", self.sequence, sequence)
    }
}

impl Trailer {
    /// Reads the trailer of an object of `object_bytes` bytes.
    ///
    /// # Errors
    /// [`Damage`] naming the first field that is wrong.
    pub fn decode(bytes: &[u8], object_bytes: u64) -> Result<Self, Damage> {
        let at = object_bytes.saturating_sub(TRAILER_BYTES);
        let mut fields = Fields::of(bytes, at, "the trailer", TRAILER_BYTES)?;
        let offset = fields.u64();
        let length = fields.u64();
        let hash = SegmentHash(fields.hash());
        let reserved = fields.u64();
        if fields.take(8) != TRAILER_MAGIC {
            return Err(damage(at + 56, Flaw::Magic));
        }
        if reserved != 0 {
            return Err(impossible(at + 48, "reserved field", reserved));
        }
        if offset < HEADER_BYTES || at < offset {
            return Err(impossible(at, "position of the footer", offset));
        }
        if MAX_FOOTER_BYTES < length || at - offset != length {
            return Err(impossible(at + 8, "length of the footer", length));
        }
        Ok(Self { footer: (offset, length), hash })
    }

    /// Where the footer lies.
    pub fn footer_range(&self) -> Range<u64> {
        self.footer.0..self.footer.0 + self.footer.1
    }

    /// Checks that header and footer are the ones that were sealed in the vault with this hash key.
    ///
    /// # Errors
    /// [`Damage`] if they are not.
    pub fn verify(&self, header: &[u8], footer: &[u8], hash: &HashKey) -> Result<(), Damage> {
        if seal_hash(header, footer, self.footer, hash) == self.hash {
            return Ok(());
        }
        Err(damage(self.footer.0 + self.footer.1 + 16, Flaw::Checksum("header and footer")))
    }
}

impl Index {
    /// Reads the index of a delta, base region or fence from the three ends of its object.
    ///
    /// # Errors
    /// [`Damage`] naming the first field that is wrong.
    pub fn decode(
        header: &[u8],
        footer: &[u8],
        trailer: &Trailer,
        hash: &HashKey,
    ) -> Result<Self, Damage> {
        trailer.verify(header, footer, hash)?;
        let header = Header::decode(header)?;
        match header.kind {
            Kind::Delta | Kind::Base | Kind::Fence => {}
            Kind::Part | Kind::Manifest => {
                return Err(impossible(10, "kind", header.kind.byte().into()));
            }
        }
        let at = trailer.footer.0;
        let counts = footer.get(..FOOTER_HEAD).unwrap_or(footer);
        let mut fields = Fields::of(counts, at, "the head of the footer", FOOTER_HEAD as u64)?;
        let (parts, rows, data_bytes) =
            (fields.u32() as usize, fields.u32() as usize, fields.u64());
        if MAX_PARTS < parts as u64 || MAX_ROWS < rows {
            return Err(impossible(at, "number of parts or rows", parts.max(rows) as u64));
        }
        let expected = FOOTER_HEAD + parts * PART_ROW + rows * ROW;
        if footer.len() != expected {
            let (found, expected) = (footer.len() as u64, expected as u64);
            return Err(damage(at, Flaw::Length { what: "the footer", found, expected }));
        }
        let (part_rows, extent_rows) = footer[FOOTER_HEAD..].split_at(parts * PART_ROW);
        let parts: Vec<Part> = part_rows.chunks_exact(PART_ROW).map(Part::decode).collect();
        let index = Self { header, hash: trailer.hash, parts, rows: Vec::new(), data_bytes };
        let rows_at = at + (FOOTER_HEAD + part_rows.len()) as u64;
        let rows = index.decode_rows(extent_rows, rows_at, trailer.footer.0)?;
        Ok(Self { rows, ..index })
    }

    /// What the segment says, without how it is stored: equal for segments with the same content.
    pub fn content(&self, hash: &HashKey) -> SegmentHash {
        content(&self.header, &self.rows, hash)
    }

    /// Bytes of the part objects.
    pub fn parts_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |bytes, part| part.length.saturating_add(bytes))
    }

    /// Reads the rows; frames of this object end before `frames_end`.
    fn decode_rows(&self, bytes: &[u8], at: u64, frames_end: u64) -> Result<Vec<Row>, Damage> {
        let limits = self.header.limits();
        let frames_start = HEADER_BYTES + self.header.wrapped_key_bytes();
        let mut end = limits.start;
        let mut data_bytes = 0_u64;
        let mut rows = Vec::with_capacity(bytes.len() / ROW);
        for (nth, bytes) in bytes.chunks_exact(ROW).enumerate() {
            let at = at + (nth * ROW) as u64;
            let row = Row::decode(bytes, at, self.header.encrypted)?;
            let row_end = row.offset.checked_add(row.length);
            let Some(row_end) = row_end.filter(|row_end| *row_end <= limits.end) else {
                return Err(impossible(at + 8, "end of an extent", row.length));
            };
            if row.offset < end {
                return Err(impossible(at, "disk offset", row.offset));
            }
            end = row_end;
            if let Content::Frame { position, stored, part, .. } = row.content {
                data_bytes += row.length;
                let object_end = match part {
                    0 => frames_end,
                    _ => match self.parts.get(usize::from(part) - 1) {
                        Some(part) => part.length,
                        None => return Err(impossible(at + 28, "part", part.into())),
                    },
                };
                let frame_end = position.checked_add(stored.into());
                if position < frames_start || frame_end.is_none_or(|end| object_end < end) {
                    return Err(impossible(at + 16, "position of a frame", position));
                }
            }
            rows.push(row);
        }
        same(at, "sum of the data", data_bytes, self.data_bytes)?;
        Ok(rows)
    }
}

impl Part {
    fn decode(bytes: &[u8]) -> Self {
        let mut fields = Fields { bytes, at: 0 };
        Self { length: fields.u64(), hash: SegmentHash(fields.hash()) }
    }
}

impl Row {
    /// The range of the disk.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        match self.content {
            Content::Zeroes => {
                out.extend_from_slice(&[0; 14]);
                out.extend_from_slice(&[2, 0]);
                out.extend_from_slice(&[0; 16]);
            }
            Content::Frame { position, stored, part, hash, codec } => {
                out.extend_from_slice(&position.to_le_bytes());
                out.extend_from_slice(&stored.to_le_bytes());
                out.extend_from_slice(&part.to_le_bytes());
                out.extend_from_slice(&[1, codec.byte()]);
                out.extend_from_slice(&hash);
            }
        }
    }

    fn decode(bytes: &[u8], at: u64, encrypted: bool) -> Result<Self, Damage> {
        let mut fields = Fields { bytes, at };
        let (offset, length) = (fields.u64(), fields.u64());
        let (position, stored, part) = (fields.u64(), fields.u32(), fields.u16());
        let (kind, codec) = (fields.u8(), fields.u8());
        let hash = sixteen(fields.take(16));
        if length == 0 {
            return Err(impossible(at + 8, "length of an extent", length));
        }
        let codec = match codec {
            0 => Codec::Raw,
            1 if kind == 1 => Codec::Zstd,
            _ => return Err(impossible(at + 31, "codec", codec.into())),
        };
        let content = match kind {
            1 => {
                if FRAME_BYTES - offset % FRAME_BYTES < length {
                    return Err(impossible(at + 8, "length of a frame", length));
                }
                let tag = if encrypted { TAG_BYTES as u64 } else { 0 };
                let fits = match (codec, u64::from(stored).checked_sub(tag)) {
                    (Codec::Raw, Some(stored)) => stored == length,
                    (Codec::Zstd, Some(stored)) => 0 < stored && stored < length,
                    (_, None) => false,
                };
                if !fits {
                    return Err(impossible(at + 24, "stored length", stored.into()));
                }
                Content::Frame { position, stored, part, hash, codec }
            }
            2 => {
                if (position, stored, part, hash) != (0, 0, 0, [0; 16]) {
                    return Err(impossible(at + 16, "position of zeroes", position));
                }
                Content::Zeroes
            }
            _ => return Err(impossible(at + 30, "kind of an extent", kind.into())),
        };
        Ok(Self { offset, length, content })
    }
}

pub(crate) fn damage(at: u64, flaw: Flaw) -> Damage {
    Damage { at, flaw }
}

pub(crate) fn impossible(at: u64, field: &'static str, found: u64) -> Damage {
    damage(at, Flaw::Field { field, found })
}

pub(crate) fn same(at: u64, field: &'static str, found: u64, expected: u64) -> Result<(), Damage> {
    if found == expected {
        return Ok(());
    }
    Err(damage(at, Flaw::OtherNumber { field, found, expected }))
}

/// The hash in the trailer of an object whose footer lies at `place`.
pub(super) fn seal_hash(
    header: &[u8],
    footer: &[u8],
    place: (u64, u64),
    hash: &HashKey,
) -> SegmentHash {
    let mut hasher = hash.hasher();
    hasher.update(header).update(footer);
    hasher.update(&place.0.to_le_bytes()).update(&place.1.to_le_bytes());
    SegmentHash(*hasher.finalize().as_bytes())
}

/// What a segment says, without how it is stored.
pub(super) fn content(header: &Header, rows: &[Row], hash: &HashKey) -> SegmentHash {
    let mut hasher = hash.hasher();
    hasher.update(&header.encode());
    for row in rows {
        hasher.update(&row.offset.to_le_bytes()).update(&row.length.to_le_bytes());
        match &row.content {
            Content::Zeroes => hasher.update(&[2]),
            Content::Frame { hash, .. } => hasher.update(&[1]).update(hash),
        };
    }
    SegmentHash(*hasher.finalize().as_bytes())
}

fn four(bytes: &[u8]) -> [u8; 4] {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[..4]);
    out
}

fn sixteen(bytes: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&bytes[..16]);
    out
}

/// Reads fields one after the other from bytes whose number was checked.
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    /// Position of the next field in the object.
    at: u64,
}

impl<'a> Fields<'a> {
    /// The fields of `bytes`, which lie at `at` of the object and must be `expected` long.
    pub(crate) fn of(
        bytes: &'a [u8],
        at: u64,
        what: &'static str,
        expected: u64,
    ) -> Result<Self, Damage> {
        let found = bytes.len() as u64;
        if found != expected {
            return Err(damage(at, Flaw::Length { what, found, expected }));
        }
        Ok(Self { bytes, at })
    }

    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        self.at += len as u64;
        head
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        let bytes = self.take(2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(four(self.take(4)))
    }

    pub(crate) fn u64(&mut self) -> u64 {
        let mut out = [0; 8];
        out.copy_from_slice(self.take(8));
        u64::from_le_bytes(out)
    }

    pub(crate) fn hash(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.take(32));
        out
    }

    pub(crate) fn uuid(&mut self) -> Uuid {
        Uuid::from_bytes(sixteen(self.take(16)))
    }

    pub(crate) fn zero_u8(&mut self, field: &'static str) -> Result<(), Damage> {
        let at = self.at;
        let found = self.u8();
        same(at, field, found.into(), 0)
    }

    pub(crate) fn zero_u16(&mut self, field: &'static str) -> Result<(), Damage> {
        let at = self.at;
        let found = self.u16();
        same(at, field, found.into(), 0)
    }

    pub(crate) fn zero_u32(&mut self, field: &'static str) -> Result<(), Damage> {
        let at = self.at;
        let found = self.u32();
        same(at, field, found.into(), 0)
    }
}
