//! A record as bytes: self-contained, so that it can be found and proven in a damaged file.
//!
//! | at | bytes | what |
//! |---:|------:|------|
//! |  0 |     4 | magic `LBE1` |
//! |  4 |     1 | header version, 1 |
//! |  5 |     1 | stream kind |
//! |  6 |     2 | payload version |
//! |  8 |     4 | payload length in bytes |
//! | 12 |     4 | CRC32 over bytes 0..12, 16..56 and the payload |
//! | 16 |     8 | global sequence number, from 1 |
//! | 24 |     8 | sequence number in the stream, from 1 |
//! | 32 |     8 | wall time in milliseconds since 1970 (signed) |
//! | 40 |    16 | stream id |
//! | 56 |     … | payload |
//!
//! Integers are little-endian.

use std::fmt;
use uuid::Uuid;

/// First bytes of every record.
const MAGIC: [u8; 4] = *b"LBE1";

/// The only header layout so far.
const HEADER_VERSION: u8 = 1;

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 56;

/// The largest record, header included.
///
/// A leaf of sled 0.34.7 holds up to 17 values (`node.rs`, `should_split`), and a page of more than a
/// quarter of a segment goes to a separate file that sled never syncs (`logger.rs`, `reserve_inner`;
/// `blob_io.rs`, `write_blob`). 17 values of this size stay below that with segments of 4 MiB.
pub const RECORD_BYTES_MAX: usize = 48 << 10;

/// A stream, as the byte level knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    /// What kind of entity; the numbers belong to the typed level.
    pub kind: u8,
    /// Which one.
    pub id: Uuid,
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}

/// A stored record, borrowed from the block it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Position in the whole log, from 1, without gaps.
    pub global: u64,
    /// The stream.
    pub stream: StreamKey,
    /// Position in the stream, from 1, without gaps.
    pub seq: u64,
    /// Wall time in milliseconds since 1970.
    pub at_ms: i64,
    /// Version of the payload's shape.
    pub version: u16,
    /// The payload.
    pub payload: &'a [u8],
    /// The checksum under which the record is stored.
    pub crc: u32,
}

/// What a record's bytes fail to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The bytes end before the record does.
    #[error("record is cut short")]
    Short,
    /// No record starts here.
    #[error("no record starts here")]
    Magic,
    /// Written by a later build, or damaged.
    #[error("record has header version {0}, this build reads {HEADER_VERSION}")]
    Version(u8),
    /// The length cannot be.
    #[error("record says that it has {0} bytes of payload")]
    Length(u32),
    /// The checksum differs.
    #[error("record has a wrong checksum")]
    Checksum,
}

impl<'a> Record<'a> {
    /// Bytes of a record with a payload of `payload` bytes.
    pub(crate) const fn bytes(payload: usize) -> usize {
        HEADER_BYTES + payload
    }

    /// Appends the record to `block` and returns its checksum. The field `crc` is not looked at.
    pub(crate) fn write(&self, block: &mut Vec<u8>) -> u32 {
        let start = block.len();
        let len = u32::try_from(self.payload.len()).expect("a record is below its size limit");
        block.extend_from_slice(&MAGIC);
        block.push(HEADER_VERSION);
        block.push(self.stream.kind);
        block.extend_from_slice(&self.version.to_le_bytes());
        block.extend_from_slice(&len.to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(&self.global.to_le_bytes());
        block.extend_from_slice(&self.seq.to_le_bytes());
        block.extend_from_slice(&self.at_ms.to_le_bytes());
        block.extend_from_slice(self.stream.id.as_bytes());
        block.extend_from_slice(self.payload);
        let crc = checksum(&block[start..]);
        block[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads the record at the start of `bytes`; returns it and what follows.
    ///
    /// # Errors
    /// The flaw of the bytes.
    pub fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Flaw> {
        let frame = Frame::at(bytes)?;
        if checksum(&bytes[..frame.len]) != frame.crc() {
            return Err(Flaw::Checksum);
        }
        Ok((frame.record(), &bytes[frame.len..]))
    }

    /// The record of `global` in a block, the others stepped over unread.
    ///
    /// # Errors
    /// The flaw that stopped the search; [`Flaw::Short`] if the block ends first.
    pub(crate) fn find(mut block: &'a [u8], global: u64) -> Result<Self, Flaw> {
        loop {
            let frame = Frame::at(block)?;
            if frame.record().global == global {
                return Ok(Self::read(block)?.0);
            }
            block = &block[frame.len..];
        }
    }
}

/// Every sound record in `bytes`, wherever it starts: what can be got back from a damaged file.
pub fn carve(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    carve_places(bytes).map(|(_, record)| record)
}

/// The same, each with where it starts.
pub(crate) fn carve_places(bytes: &[u8]) -> impl Iterator<Item = (usize, Record<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(step) = memchr::memmem::find(&bytes[at..], &MAGIC) {
            at += step;
            if let Ok((record, _)) = Record::read(&bytes[at..]) {
                let place = at;
                at += Record::bytes(record.payload.len());
                return Some((place, record));
            }
            at += 1;
        }
        at = bytes.len();
        None
    })
}

/// Continues the running checksum of a log with the next record's.
pub(crate) fn chain(before: u32, record: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&before.to_le_bytes());
    hasher.update(&record.to_le_bytes());
    hasher.finalize()
}

/// A record's place in bytes: length checked, checksum not.
struct Frame<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Frame<'a> {
    fn at(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(Flaw::Short) };
        if header[..4] != MAGIC {
            return Err(Flaw::Magic);
        }
        if header[4] != HEADER_VERSION {
            return Err(Flaw::Version(header[4]));
        }
        let payload = u32::from_le_bytes(field(header, 8));
        let len = HEADER_BYTES + payload as usize;
        if RECORD_BYTES_MAX < len {
            return Err(Flaw::Length(payload));
        }
        if bytes.len() < len {
            return Err(Flaw::Short);
        }
        Ok(Self { bytes, len })
    }

    fn crc(&self) -> u32 {
        u32::from_le_bytes(field(self.bytes, 12))
    }

    fn record(&self) -> Record<'a> {
        let bytes = self.bytes;
        Record {
            global: u64::from_le_bytes(field(bytes, 16)),
            stream: StreamKey { kind: bytes[5], id: Uuid::from_bytes(field(bytes, 40)) },
            seq: u64::from_le_bytes(field(bytes, 24)),
            at_ms: i64::from_le_bytes(field(bytes, 32)),
            version: u16::from_le_bytes(field(bytes, 6)),
            payload: &bytes[HEADER_BYTES..self.len],
            crc: self.crc(),
        }
    }
}

/// The checksum of a whole record, its own field left out.
fn checksum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..12]);
    hasher.update(&record[16..]);
    hasher.finalize()
}

/// The `N` bytes at `at`.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the caller checked the length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(global: u64, payload: &[u8]) -> Record<'_> {
        let stream = StreamKey { kind: 2, id: Uuid::from_u128(77) };
        Record { global, stream, seq: 3, at_ms: -5, version: 2, payload, crc: 0 }
    }

    fn block() -> Vec<u8> {
        let mut block = Vec::new();
        for global in 1..=3 {
            sample(global, b"payload").write(&mut block);
        }
        block
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let block = block();
        let (record, rest) = Record::read(&block).expect("sound");
        assert_eq!(Record { crc: 0, ..record }, sample(1, b"payload"));
        assert_eq!(rest.len(), 2 * Record::bytes(7));
        assert_eq!(Record::find(&block, 3).expect("there").global, 3);
        assert_eq!(Record::find(&block, 4), Err(Flaw::Short));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut bytes = Vec::new();
        sample(1, b"payload").write(&mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(Record::read(&bytes[..cut]), Err(Flaw::Short));
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::read(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn carving_finds_sound_records_between_damage() {
        let mut bytes = b"LBLBE1LBE1 noise".to_vec();
        bytes.extend(block());
        let second = 16 + Record::bytes(7) + 60;
        bytes[second] ^= 1;
        let found: Vec<u64> = carve(&bytes).map(|record| record.global).collect();
        assert_eq!(found, [1, 3]);
    }
}
