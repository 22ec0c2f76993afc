//! Where each stream's commits lie, in RAM; written down in pages of 1024 so that opening the store
//! need not read the log.
//!
//! A page is derived from the records and proven by its checksum: if one is missing or damaged, it and
//! everything after it is read from the log instead.

use super::record::StreamKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Records in a page. The worst page, each record in a stream of its own, has 31 KiB.
pub(crate) const PAGE_RECORDS: u64 = 1024;

/// First bytes of a page; its CRC32 follows, then the page in bincode.
const MAGIC: [u8; 4] = *b"LBX1";

/// Stream -> the global sequence numbers of its commits, in order.
#[derive(Debug, Default)]
pub(crate) struct Index {
    streams: BTreeMap<StreamKey, Vec<u64>>,
    last: u64,
    /// Streams of the commits after the last page, in global order.
    unpaged: Vec<StreamKey>,
}

/// What a page says of the records `first..first + order.len()`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Page {
    first: u64,
    /// Running checksum of the log after the page's last record.
    chain: u32,
    /// Kind, id, and sequence number before the page, of each stream in the page.
    streams: Vec<(u8, [u8; 16], u64)>,
    /// For each record, its stream's place in `streams`.
    order: Vec<u16>,
}

impl Index {
    /// The last global sequence number.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// The stream's last sequence number; 0 before the first commit.
    pub(crate) fn seq(&self, stream: StreamKey) -> u64 {
        self.streams.get(&stream).map_or(0, |globals| globals.len() as u64)
    }

    /// The global sequence numbers of the stream's commits from `from_seq` on.
    pub(crate) fn globals(&self, stream: StreamKey, from_seq: u64, limit: usize) -> Vec<u64> {
        let start = usize::try_from(from_seq.saturating_sub(1)).unwrap_or(usize::MAX);
        let globals = self.streams.get(&stream).and_then(|globals| globals.get(start..));
        globals.map_or_else(Vec::new, |globals| globals[..limit.min(globals.len())].to_vec())
    }

    /// Every stream with its last sequence number, in order.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (StreamKey, u64)> {
        self.streams.iter().map(|(stream, globals)| (*stream, globals.len() as u64))
    }

    /// Adds the next commit of the log.
    pub(crate) fn push(&mut self, stream: StreamKey) {
        self.place(stream);
        self.unpaged.push(stream);
    }

    fn place(&mut self, stream: StreamKey) {
        self.last += 1;
        self.streams.entry(stream).or_default().push(self.last);
    }

    /// Records that no page covers.
    pub(crate) fn unpaged(&self) -> u64 {
        self.unpaged.len() as u64
    }

    /// Writes a page over all records that none covers; returns its last global and its bytes.
    /// `chain` is the running checksum at the end of the log. Call it when there are
    /// [`PAGE_RECORDS`] of them or more: what lies over that goes into the same page, so a group of
    /// commits must be smaller than a page.
    pub(crate) fn cut_page(&mut self, chain: u32) -> (u64, Vec<u8>) {
        let unpaged = std::mem::take(&mut self.unpaged);
        let mut places: BTreeMap<StreamKey, (u16, u64)> = BTreeMap::new();
        let mut streams = Vec::new();
        let mut order = Vec::with_capacity(unpaged.len());
        for stream in unpaged {
            let (place, count) = places.entry(stream).or_insert_with(|| {
                streams.push(stream);
                (u16::try_from(streams.len() - 1).expect("a page has few streams"), 0)
            });
            *count += 1;
            order.push(*place);
        }
        let streams = streams
            .into_iter()
            .map(|stream| {
                let before = self.seq(stream) - places[&stream].1;
                (stream.kind, stream.id.into_bytes(), before)
            })
            .collect();
        let first = self.last + 1 - order.len() as u64;
        (self.last, Page { first, chain, streams, order }.encode())
    }

    /// Adds what a page says, if it is sound and continues the index; returns its checksum of the log.
    pub(crate) fn add_page(&mut self, bytes: &[u8]) -> Option<u32> {
        let page = Page::decode(bytes)?;
        if page.first != self.last + 1 || !self.unpaged.is_empty() {
            return None;
        }
        let streams: Vec<StreamKey> =
            page.streams.iter().map(|(kind, id, _)| key(*kind, *id)).collect();
        let continues = page
            .streams
            .iter()
            .zip(&streams)
            .all(|((_, _, before), stream)| self.seq(*stream) == *before);
        if !continues || page.order.iter().any(|place| streams.len() <= usize::from(*place)) {
            return None;
        }
        page.order.iter().for_each(|place| self.place(streams[usize::from(*place)]));
        Some(page.chain)
    }
}

fn key(kind: u8, id: [u8; 16]) -> StreamKey {
    StreamKey { kind, id: Uuid::from_bytes(id) }
}

impl Page {
    fn encode(&self) -> Vec<u8> {
        let body = bincode::serde::encode_to_vec(self, bincode::config::standard())
            .expect("a page is numbers and writes to memory");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (crc, body) = rest.split_first_chunk::<4>()?;
        if *magic != MAGIC || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let config = bincode::config::standard().with_limit::<{ 1 << 20 }>();
        let (page, read) = bincode::serde::decode_from_slice(body, config).ok()?;
        (read == body.len()).then_some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: u128) -> StreamKey {
        StreamKey { kind: 1, id: Uuid::from_u128(id) }
    }

    #[test]
    fn pages_rebuild_the_index_they_were_cut_from() {
        let mut index = Index::default();
        let mut pages = Vec::new();
        for at in 0..3000_u128 {
            index.push(stream(at % 7 + at / 1000));
            if index.unpaged() == PAGE_RECORDS {
                pages.push(index.cut_page(at as u32));
            }
        }
        let mut rebuilt = Index::default();
        for (last, page) in &pages {
            assert_eq!(rebuilt.add_page(page), Some(*last as u32 - 1));
            assert_eq!(rebuilt.last(), *last);
        }
        (rebuilt.last()..index.last())
            .for_each(|at| rebuilt.push(stream(u128::from(at) % 7 + u128::from(at) / 1000)));
        assert_eq!(rebuilt.streams, index.streams);
        assert_eq!(rebuilt.globals(stream(8), 3, 2), index.globals(stream(8), 3, 2));
    }

    #[test]
    fn a_damaged_or_misplaced_page_is_not_taken() {
        let mut index = Index::default();
        (0..10).for_each(|at| index.push(stream(at)));
        let (_, page) = index.cut_page(1);
        for at in 0..page.len() {
            let mut damaged = page.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Index::default().add_page(&damaged), None);
        }
        let mut further = Index::default();
        further.push(stream(1));
        assert_eq!(further.add_page(&page), None);
    }

    #[test]
    fn the_worst_page_fits_a_value() {
        let mut index = Index::default();
        (0..2 * u128::from(PAGE_RECORDS)).for_each(|at| index.push(stream(at << 64)));
        assert!(index.cut_page(0).1.len() < super::super::record::RECORD_BYTES_MAX);
    }
}
