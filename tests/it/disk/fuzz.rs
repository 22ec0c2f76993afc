//! Bytes of any kind as logs, and requests of any kind on a connection. The kept corpus, in
//! `tests/fixtures/hrl` and `tests/fixtures/nbd`, is tried each time, cut short at many places as well.

use super::Served;
use lifeboat::disk::files::MemoryFiles;
use lifeboat::disk::hrl::format::{BLOCK_BYTES, BlockHeader, Entry, HEADER_BYTES, Header};
use lifeboat::disk::hrl::{
    HeaderTrust, LogReader, LogTime, Tail, read_header_alone, recover_after_kill,
    recover_after_power_loss, unique_bytes,
};
use lifeboat::disk::nbd::Endpoint;
use lifeboat::disk::raw::RawDisk;
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::{Files, Open};
use proptest::prelude::*;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

const LOG: &str = "/a.hrl";

/// Reads bytes as a log in every way. Whatever is read must lie inside of the file, and the disk that it
/// is applied to keeps its size.
fn read_as_log(bytes: &[u8]) {
    let files = MemoryFiles::new(1);
    files.open(Path::new(LOG), Open::Create).unwrap().write_all_at(bytes, 0).unwrap();
    let disk = RawDisk::create(&*files, Path::new("/disk"), 1 << 20).unwrap();
    _ = read_header_alone(&*files, Path::new(LOG));
    let mut logs = vec![recover_after_power_loss(&*files, Path::new(LOG))];
    for trust in [HeaderTrust::Verified, HeaderTrust::Foreign] {
        logs.push(LogReader::open(&*files, Path::new(LOG), trust));
        logs.push(LogReader::search(&*files, Path::new(LOG), trust));
    }
    for log in logs.into_iter().flatten() {
        // Of a log without writes it is where the first would go.
        assert!(log.total_entries() == 0 || log.end() <= bytes.len() as u64);
        for write in log.entries().flatten() {
            assert!(write.position + u64::from(write.length) <= bytes.len() as u64);
        }
        let blocks = log.summaries().count();
        assert!(blocks * 512 <= bytes.len(), "{blocks} blocks in {} bytes", bytes.len());
        _ = unique_bytes(&log);
        _ = log.apply_to(&disk);
    }
    let tail = Tail::create(&*files, Path::new("/a.hrl.tail")).unwrap();
    _ = recover_after_kill(&*files, Path::new(LOG), tail);
    assert_eq!(disk.size_bytes(), 1 << 20);
}

fn corpus(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// A log whose checksums hold and whose fields need not make sense: two blocks with data between them.
#[derive(Debug)]
struct Crafted {
    end_of_log: u64,
    metadata_size: u32,
    total_entries: u64,
    distances: [u64; 2],
    count: u32,
    entries: Vec<(u64, u32, u32)>,
    data_bytes: usize,
}

impl Crafted {
    fn bytes(&self) -> Vec<u8> {
        let header = Header {
            end_of_log: self.end_of_log,
            metadata_size: self.metadata_size,
            total_entries: self.total_entries,
            ..Header::open(Uuid::from_u128(1), Uuid::nil(), Uuid::nil(), LogTime(0))
        };
        let block = |distance, entries, bytes: Vec<u8>| {
            let mut block = BlockHeader { distance, entries }.encode().to_vec();
            block.extend(bytes);
            block.resize(BLOCK_BYTES as usize, 0);
            block
        };
        let entry = |&(offset, length, data_checksum): &(u64, u32, u32)| {
            Entry { offset, length, at: LogTime(0), data_checksum }.encode()
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend(block(self.distances[0], 0, Vec::new()));
        bytes.extend(vec![0; self.data_bytes]);
        let entries: Vec<u8> = self.entries.iter().flat_map(entry).collect();
        bytes.extend(block(self.distances[1], self.count, entries));
        bytes
    }
}

fn crafted() -> impl Strategy<Value = Crafted> {
    let number = || prop_oneof![0..40_000_u64, any::<u64>(), Just(u64::MAX)];
    let sectors = |count: u64| (0..count).prop_map(|sectors| sectors * 512);
    let entry = (
        prop_oneof![sectors(2048), number()],
        prop_oneof![sectors(8).prop_map(|length| length as u32), any::<u32>()],
        prop_oneof![Just(0_u32), Just(u32::MAX), any::<u32>()],
    );
    (
        prop::collection::vec(entry, 0..6),
        (sectors(16), any::<bool>(), any::<bool>()),
        (number(), number(), number(), number()),
        prop_oneof![Just(4096_u32), Just(512), any::<u32>()],
        prop_oneof![Just(None), any::<u32>().prop_map(Some)],
    )
        .prop_map(
            |(entries, (data_bytes, honest_end, honest_distance), numbers, size, count)| {
                let end = HEADER_BYTES + 2 * BLOCK_BYTES + data_bytes;
                let (total_entries, wild_end, wild_first, wild_second) = numbers;
                Crafted {
                    end_of_log: if honest_end { end } else { wild_end },
                    metadata_size: if honest_end { 4096 } else { size },
                    total_entries: if honest_end { entries.len() as u64 } else { total_entries },
                    distances: if honest_distance {
                        [0, BLOCK_BYTES + data_bytes]
                    } else {
                        [wild_first, wild_second]
                    },
                    count: count.unwrap_or(entries.len() as u32),
                    entries,
                    data_bytes: data_bytes as usize,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_log_with_wild_fields_is_read_or_refused(log in crafted()) {
        read_as_log(&log.bytes());
    }

    #[test]
    fn a_log_with_spliced_bytes_is_read_or_refused(
        seed in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 8]>(), 1..9_usize), 0..6),
        length in any::<prop::sample::Index>(),
        cut: bool,
    ) {
        let corpus = corpus("hrl");
        let mut bytes = seed.get(&corpus).clone();
        for (at, value, count) in edits {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                let end = bytes.len().min(at + count);
                bytes[at..end].copy_from_slice(&value[..end - at]);
            }
        }
        if cut && !bytes.is_empty() {
            bytes.truncate(length.index(bytes.len()));
        }
        read_as_log(&bytes);
    }
}

#[test]
fn the_kept_logs_are_read_or_refused_at_every_length() {
    let corpus = corpus("hrl");
    assert!(5 <= corpus.len());
    for bytes in corpus {
        read_as_log(&bytes);
        for length in (0..bytes.len()).step_by(509) {
            read_as_log(&bytes[..length]);
        }
    }
}

#[test]
fn the_kept_conversations_leave_the_server_serving() {
    let corpus = corpus("nbd");
    assert!(5 <= corpus.len());
    let served = Served::raw(1 << 16);
    let mut other = served.client();
    for bytes in corpus {
        for length in (0..=bytes.len()).rev().step_by(7) {
            let Endpoint::Unix(path) = served.server.endpoint() else { panic!("a Unix socket") };
            let mut stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            _ = stream.write_all(&bytes[..length]);
            _ = stream.shutdown(std::net::Shutdown::Write);
            stream.read_to_end(&mut Vec::new()).unwrap_or_default();
        }
        other.write_at(&[1; 512], 0, false).unwrap();
        served.client().flush().unwrap();
    }
}
