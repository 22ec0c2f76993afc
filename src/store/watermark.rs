//! The watermark: how far the log was acknowledged, kept in a small file of its own (`HEAD`).
//!
//! sled takes a bad frame for the end of its log and goes on with what is before it. The watermark is
//! written and synced with every group commit, before anything is acknowledged: a log that holds less
//! than it says has lost acknowledged records, and is refused.
//!
//! The file has two slots of 4 KiB that are written in turn, so that a torn write leaves the other:
//!
//! | at | bytes | what |
//! |---:|------:|------|
//! |  0 |     4 | magic `LBH1` |
//! |  4 |     1 | state: 1 open, 2 closed |
//! |  5 |     3 | zero |
//! |  8 |     8 | turn: the higher one counts |
//! | 16 |     8 | last acknowledged global sequence number |
//! | 24 |     8 | last one that sled's page table file covers |
//! | 32 |     8 | bytes of `log/db` (0 unless closed) |
//! | 40 |     8 | log sequence number of sled that its page table file covers |
//! | 48 |     4 | running checksum up to the last one |
//! | 52 |     4 | CRC32 of bytes 0..52 |

use super::record::field;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: [u8; 4] = *b"LBH1";
const SLOT_BYTES: usize = 56;
const SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// Whether the store was closed in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// In use, or its process died.
    Open,
    /// Closed; `log/db` has this many bytes, and its page table covers everything.
    Closed {
        /// Length of `log/db`.
        db_bytes: u64,
    },
}

/// What the watermark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watermark {
    /// Whether the store was closed in good order.
    pub(crate) state: State,
    /// Last acknowledged global sequence number; 0 before the first.
    pub(crate) last: u64,
    /// Every record up to here is covered by the page table that sled wrote when it was last opened;
    /// sled reads only what follows when it recovers.
    pub(crate) covered: u64,
    /// The log sequence number of sled that corresponds to `covered`.
    pub(crate) covered_lsn: i64,
    /// Running checksum of the records up to `last`.
    pub(crate) chain: u32,
}

/// The `HEAD` file.
#[derive(Debug)]
pub(crate) struct WatermarkFile {
    file: File,
    turn: u64,
}

/// What was read from a `HEAD` file.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The watermark of the higher turn.
    pub(crate) watermark: Watermark,
    /// How many of the two slots are sound. One is normal after a power loss, damage after a close.
    pub(crate) sound_slots: usize,
    turn: u64,
}

impl WatermarkFile {
    /// Makes the file with both slots filled. Returns once synced; the folder is not.
    pub(crate) fn create(path: &Path, watermark: Watermark) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.set_len(SLOT_OFFSETS[1] + 4096)?;
        let mut created = Self { file, turn: 0 };
        created.write_both(watermark)?;
        created.file.sync_all()?;
        Ok(created)
    }

    /// Opens the file of a store; `None` if no slot is sound.
    pub(crate) fn open(path: &Path) -> io::Result<Option<(Self, Reading)>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let reading = read_slots(&file)?;
        Ok(reading.map(|reading| (Self { file, turn: reading.turn }, reading)))
    }

    /// Writes the watermark over the older slot. Returns once synced.
    pub(crate) fn write(&mut self, watermark: Watermark) -> io::Result<()> {
        self.turn += 1;
        let slot = SLOT_OFFSETS[usize::from(self.turn % 2 == 1)];
        self.file.write_all_at(&encode(watermark, self.turn), slot)?;
        self.file.sync_data()
    }

    /// Writes the watermark into both slots, one after the other: either can be damaged afterwards.
    pub(crate) fn write_both(&mut self, watermark: Watermark) -> io::Result<()> {
        self.write(watermark)?;
        self.write(watermark)
    }
}

/// Reads a `HEAD` file without opening it for writing; `None` if no slot is sound.
pub(crate) fn read(path: &Path) -> io::Result<Option<Reading>> {
    read_slots(&File::open(path)?)
}

fn read_slots(file: &File) -> io::Result<Option<Reading>> {
    let mut sound = Vec::new();
    for offset in SLOT_OFFSETS {
        let mut slot = [0; SLOT_BYTES];
        match file.read_exact_at(&mut slot, offset) {
            Ok(()) => sound.extend(decode(&slot)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    let sound_slots = sound.len();
    let newest = sound.into_iter().max_by_key(|(_, turn)| *turn);
    Ok(newest.map(|(watermark, turn)| Reading { watermark, sound_slots, turn }))
}

fn encode(watermark: Watermark, turn: u64) -> [u8; SLOT_BYTES] {
    let (state, db_bytes) = match watermark.state {
        State::Open => (1, 0),
        State::Closed { db_bytes } => (2, db_bytes),
    };
    let mut slot = [0; SLOT_BYTES];
    slot[..4].copy_from_slice(&MAGIC);
    slot[4] = state;
    slot[8..16].copy_from_slice(&turn.to_le_bytes());
    slot[16..24].copy_from_slice(&watermark.last.to_le_bytes());
    slot[24..32].copy_from_slice(&watermark.covered.to_le_bytes());
    slot[32..40].copy_from_slice(&u64::to_le_bytes(db_bytes));
    slot[40..48].copy_from_slice(&watermark.covered_lsn.to_le_bytes());
    slot[48..52].copy_from_slice(&watermark.chain.to_le_bytes());
    let crc = crc32fast::hash(&slot[..52]);
    slot[52..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(Watermark, u64)> {
    if slot[..4] != MAGIC || crc32fast::hash(&slot[..52]) != u32::from_le_bytes(field(slot, 52)) {
        return None;
    }
    let state = match slot[4] {
        1 => State::Open,
        2 => State::Closed { db_bytes: u64::from_le_bytes(field(slot, 32)) },
        _ => return None,
    };
    let watermark = Watermark {
        state,
        last: u64::from_le_bytes(field(slot, 16)),
        covered: u64::from_le_bytes(field(slot, 24)),
        covered_lsn: i64::from_le_bytes(field(slot, 40)),
        chain: u32::from_le_bytes(field(slot, 48)),
    };
    Some((watermark, u64::from_le_bytes(field(slot, 8))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(last: u64) -> Watermark {
        Watermark { state: State::Open, last, covered: 3, covered_lsn: 55, chain: 9 }
    }

    #[test]
    fn a_torn_write_leaves_the_watermark_before_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("HEAD");
        let mut file = WatermarkFile::create(&path, mark(0)).expect("create");
        file.write(mark(7)).expect("write");
        file.write(mark(8)).expect("write");
        let newest = SLOT_OFFSETS[usize::from(file.turn % 2 == 1)];
        file.file.write_all_at(&[0xff; 20], newest).expect("damage");
        let (_, reading) = WatermarkFile::open(&path).expect("open").expect("one slot");
        assert_eq!((reading.watermark, reading.sound_slots), (mark(7), 1));
    }

    #[test]
    fn a_file_without_a_sound_slot_says_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("HEAD");
        std::fs::write(&path, vec![0; 8192]).expect("write");
        assert!(read(&path).expect("read").is_none());
        std::fs::write(&path, b"").expect("write");
        assert!(read(&path).expect("read").is_none());
    }
}
