//! The format, given bytes that nobody wrote.

use super::{DISK, VAULT, noise};
use bytes::Bytes;
use lifeboat::domain::time::Timestamp;
use lifeboat::replica::segment::{
    Content, Damage, FRAME_BYTES, HEADER_BYTES, Header, Index, Kind, Row, SegmentHash,
    TRAILER_BYTES, Trailer,
};
use lifeboat::replica::{Sealing, SegmentBuilder};
use proptest::prelude::*;

const DISK_SIZE: u64 = 1024 * 1024;

fn header() -> Header {
    Header {
        kind: Kind::Delta,
        vault: VAULT,
        disk: DISK,
        sequence: 7,
        epoch: 3,
        previous: SegmentHash([9; 32]),
        cut_at: Timestamp::from_millis(-5),
        disk_size: DISK_SIZE,
        place: 0,
        encrypted: false,
    }
}

/// A segment of three data extents and one of zeroes.
fn segment() -> Vec<u8> {
    let mut builder = SegmentBuilder::new(header(), &Sealing::default());
    builder.data(512, &noise(1, 700)).unwrap();
    builder.data(FRAME_BYTES - 100, &noise(2, 300)).unwrap();
    builder.zeroes(200_000..300_000).unwrap();
    builder.data(DISK_SIZE - 50, &noise(3, 50)).unwrap();
    builder.seal().bytes.concat()
}

/// Data by disk offset.
type Extents = Vec<(u64, Vec<u8>)>;

/// Reads a whole object as a reader of the vault does.
fn decode(object: &[u8]) -> Result<(Index, Extents), Damage> {
    let header = object.get(..HEADER_BYTES as usize).unwrap_or(object);
    let trailer_at = object.len().saturating_sub(TRAILER_BYTES as usize);
    let trailer = Trailer::decode(&object[trailer_at..], object.len() as u64)?;
    let footer = trailer.footer_range();
    let footer = &object[footer.start as usize..footer.end as usize];
    let sealing = Sealing::default();
    let index = Index::decode(header, footer, &trailer, &sealing.hash_key())?;
    let opener = sealing.opener(&index.header, object)?;
    let mut data = Vec::new();
    for row in &index.rows {
        if let Content::Frame { position, stored, .. } = row.content {
            let frame = Bytes::copy_from_slice(&object[position as usize..][..stored as usize]);
            data.push((row.offset, opener.open(row, &frame)?.to_vec()));
        }
    }
    Ok((index, data))
}

#[test]
fn a_segment_reads_back_as_it_was_written() {
    let (index, data) = decode(&segment()).unwrap();
    assert_eq!(index.header, header());
    assert_eq!(index.data_bytes, 1050);
    let ranges: Vec<_> = index.rows.iter().map(Row::range).collect();
    let cut = FRAME_BYTES - 100..FRAME_BYTES;
    let rest = FRAME_BYTES..FRAME_BYTES + 200;
    assert_eq!(ranges, [512..1212, cut, rest, 200_000..300_000, DISK_SIZE - 50..DISK_SIZE]);
    assert_eq!(data[0], (512, noise(1, 700)));
    assert_eq!([&data[1].1[..], &data[2].1[..]].concat(), noise(2, 300));
    assert_eq!(data[3].1, noise(3, 50));
}

/// The bytes of a published segment must stay readable for as long as there are vaults.
#[test]
fn the_format_is_frozen() {
    let bytes = segment();
    assert_eq!(bytes.len(), 1498);
    assert_eq!(
        blake3::hash(&bytes).to_string(),
        "efd6eaa193f67b313e875d62933bb4208e3dfe23eb446a6c45af00e1d9ea97d3"
    );
}

#[test]
fn writes_that_touch_share_a_frame_and_zeroes_are_not_stored() {
    let mut builder = SegmentBuilder::new(header(), &Sealing::default());
    builder.data(0, &noise(1, 4096)).unwrap();
    builder.data(4096, &noise(2, 4096)).unwrap();
    builder.data(FRAME_BYTES, &vec![0; FRAME_BYTES as usize]).unwrap();
    builder.zeroes(2 * FRAME_BYTES..3 * FRAME_BYTES).unwrap();
    let (index, data) = decode(&builder.seal().bytes.concat()).unwrap();
    let ranges: Vec<_> = index.rows.iter().map(Row::range).collect();
    assert_eq!(ranges, [0..8192, FRAME_BYTES..3 * FRAME_BYTES]);
    assert_eq!(data.len(), 1);
}

#[test]
fn extents_out_of_order_or_outside_the_disk_are_refused() {
    let mut builder = SegmentBuilder::new(header(), &Sealing::default());
    builder.data(4096, &[1; 512]).unwrap();
    assert!(builder.data(4000, &[1; 8]).is_err());
    assert!(builder.zeroes(DISK_SIZE - 8..DISK_SIZE + 8).is_err());
    assert!(builder.data(u64::MAX - 1, &[1; 8]).is_err());
}

#[test]
fn an_index_that_promises_more_than_there_is_allocates_nothing() {
    let mut bytes = segment();
    let trailer_at = bytes.len() - TRAILER_BYTES as usize;
    bytes[trailer_at + 8..trailer_at + 16].copy_from_slice(&u64::MAX.to_le_bytes());
    let error = decode(&bytes).unwrap_err();
    assert_eq!(error.at, trailer_at as u64 + 8);
    assert!(error.to_string().contains("length of the footer"), "{error}");
}

#[test]
fn damage_is_named_with_its_place() {
    let whole = segment();
    let said = |at: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= to;
        decode(&bytes).unwrap_err().to_string()
    };
    assert!(said(130, 1).contains("at byte 128: the checksum of the frame"), "{}", said(130, 1));
    assert!(said(20, 1).contains("checksum of the header and footer"), "{}", said(20, 1));
    assert!(said(whole.len() - 1, 1).contains("magic"), "{}", said(whole.len() - 1, 1));
    let header = |at: usize| {
        let mut bytes = whole[..HEADER_BYTES as usize].to_vec();
        bytes[at] ^= 1;
        Header::decode(&bytes).unwrap_err().to_string()
    };
    assert_eq!(header(0), "at byte 0: the magic number is not that of a segment");
    assert_eq!(header(8), "at byte 8: format version 0 is not known");
    assert_eq!(header(60), "at byte 124: the checksum of the header does not match");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_flipped_bit_is_found(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = segment();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(&bytes).is_err(), "byte {} bit {}", at, bit);
    }

    #[test]
    fn a_truncated_or_lengthened_object_is_found(len in 0..4000_usize) {
        let mut bytes = segment();
        let whole = bytes.len();
        bytes.resize(len, 0);
        prop_assert_eq!(decode(&bytes).is_err(), len != whole);
    }

    /// Rows sealed with a right hash but wrong content, as a faulty or hostile writer would.
    #[test]
    fn nonsense_under_a_right_hash_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut bytes = segment();
        let trailer_at = bytes.len() - TRAILER_BYTES as usize;
        let trailer = Trailer::decode(&bytes[trailer_at..], bytes.len() as u64).unwrap();
        let footer = trailer.footer_range();
        for (at, byte) in edits {
            let at = footer.start as usize + at.index((footer.end - footer.start) as usize);
            bytes[at] = byte;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes[..HEADER_BYTES as usize]);
        hasher.update(&bytes[footer.start as usize..trailer_at + 16]);
        let hash = *hasher.finalize().as_bytes();
        bytes[trailer_at + 16..trailer_at + 48].copy_from_slice(&hash);
        if let Ok((index, _)) = decode(&bytes) {
            for row in &index.rows {
                prop_assert!(row.range().end <= DISK_SIZE);
            }
        }
    }
}
