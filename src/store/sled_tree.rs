//! The only place that calls sled: its settings, the keys, and the fences around its traps.
//!
//! sled 0.34.7 `flush()` writes with `sync_file_range`, which neither flushes the disk's cache nor
//! records the file's length (spacejam/sled#1452); every commit is therefore followed by an
//! `fdatasync` of the same file through a handle of our own. sled can also panic on damaged bytes;
//! panics end here, as errors.

use super::record::StreamKey;
use super::segments::SEGMENT_BYTES;
use crate::ports::event_store::StoreError;
use sled::IVec;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of pages that sled keeps in RAM, roughly: it notices only after 64 accesses to a page in the
/// same of 256 shards (`lru.rs`), so what a scan leaves behind comes on top. Its default is 1 GiB.
const CACHE_BYTES: u64 = 16 << 20;

/// How often sled tidies up segments in the background.
const TIDY_EVERY_MS: u64 = 500;

/// How often, and how far apart, sled's lock is tried: for two seconds.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

const BLOCK: u8 = b'L';
const FORMAT: u8 = b'M';
const STATE: u8 = b'S';
const PAGE: u8 = b'X';

/// The value of the format key.
const FORMAT_VERSION: &[u8] = b"lifeboat events 1";

/// sled's folder of a store, opened.
#[derive(Debug)]
pub(crate) struct SledTree {
    tree: sled::Db,
    db: File,
    db_path: PathBuf,
}

impl SledTree {
    /// Opens or creates sled's folder.
    pub(crate) fn open(log: &Path) -> Result<Self, StoreError> {
        let db_path = log.join("db");
        let config = sled::Config::new()
            .path(log)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .mode(sled::Mode::HighThroughput)
            .use_compression(false)
            .flush_every_ms(Some(TIDY_EVERY_MS));
        let tree = open_once_unlocked(&db_path, &config)?;
        let db = File::open(&db_path).map_err(io("open", &db_path))?;
        Ok(Self { tree, db, db_path })
    }

    /// Marks a store that was just created, and makes everything that sled made durable.
    pub(crate) fn initialize(&self, log: &Path) -> Result<(), StoreError> {
        self.put(&[FORMAT], FORMAT_VERSION)?;
        self.sync()?;
        for made in [log.join("conf"), log.join("blobs"), log.to_path_buf()] {
            sync(&made)?;
        }
        Ok(())
    }

    /// Whether the format key is there and of this build.
    pub(crate) fn check_format(&self) -> Result<(), StoreError> {
        let format = guarded(&self.db_path, || self.tree.get([FORMAT]))?;
        match format {
            Some(format) if format == FORMAT_VERSION => Ok(()),
            Some(format) => Err(self.damaged(format!("unknown format {format:?}"))),
            None => Err(self.damaged("format key is missing")),
        }
    }

    /// Makes everything put before durable. Returns once synced.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        guarded(&self.db_path, || self.tree.flush())?;
        self.db.sync_data().map_err(io("sync", &self.db_path))
    }

    /// Puts a block under its first global sequence number.
    pub(crate) fn put_block(&self, first: u64, block: &[u8]) -> Result<(), StoreError> {
        self.put(&numbered(BLOCK, first), block)
    }

    /// The block that holds `global`, with its first sequence number.
    pub(crate) fn block_of(&self, global: u64) -> Result<Option<(u64, IVec)>, StoreError> {
        let after = numbered(BLOCK, global.saturating_add(1));
        let found = guarded(&self.db_path, || self.tree.get_lt(after))?;
        Ok(found.and_then(|(key, block)| Some((number(BLOCK, &key)?, block))))
    }

    /// The first block whose key is `global` or higher.
    pub(crate) fn block_from(&self, global: u64) -> Result<Option<(u64, IVec)>, StoreError> {
        let mut range = self.tree.range(numbered(BLOCK, global)..=numbered(BLOCK, u64::MAX));
        let found = guarded(&self.db_path, || range.next().transpose())?;
        Ok(found.and_then(|(key, block)| Some((number(BLOCK, &key)?, block))))
    }

    /// Removes a block that was never acknowledged.
    pub(crate) fn remove_block(&self, first: u64) -> Result<(), StoreError> {
        guarded(&self.db_path, || self.tree.remove(numbered(BLOCK, first))).map(drop)
    }

    /// Puts an index page under its last global sequence number.
    pub(crate) fn put_page(&self, last: u64, page: &[u8]) -> Result<(), StoreError> {
        self.put(&numbered(PAGE, last), page)
    }

    /// The index pages, in order.
    pub(crate) fn pages(&self) -> impl Iterator<Item = Result<IVec, StoreError>> {
        let mut range = self.tree.range(numbered(PAGE, 0)..=numbered(PAGE, u64::MAX));
        std::iter::from_fn(move || {
            guarded(&self.db_path, || range.next().transpose())
                .map(|found| found.map(|(_, page)| page))
                .transpose()
        })
    }

    /// Puts one part of a state snapshot.
    pub(crate) fn put_state(&self, key: &StateKey, part: &[u8]) -> Result<(), StoreError> {
        self.put(&key.encode(), part)
    }

    /// Removes one part of a state snapshot.
    pub(crate) fn remove_state(&self, key: &StateKey) -> Result<(), StoreError> {
        guarded(&self.db_path, || self.tree.remove(key.encode())).map(drop)
    }

    /// The parts of a stream's state snapshots, the last first.
    pub(crate) fn states_back(
        &self,
        stream: StreamKey,
    ) -> impl Iterator<Item = Result<(StateKey, IVec), StoreError>> {
        let first = StateKey { stream, seq: 0, part: 0 };
        let last = StateKey { stream, seq: u64::MAX, part: u8::MAX };
        self.states_between(first, last)
    }

    /// The parts of all state snapshots, the last first.
    pub(crate) fn all_states_back(
        &self,
    ) -> impl Iterator<Item = Result<(StateKey, IVec), StoreError>> {
        let stream = |kind, id| StreamKey { kind, id };
        let first = StateKey { stream: stream(0, uuid::Uuid::nil()), seq: 0, part: 0 };
        let last = StateKey { stream: stream(255, uuid::Uuid::max()), seq: u64::MAX, part: 255 };
        self.states_between(first, last)
    }

    fn states_between(
        &self,
        first: StateKey,
        last: StateKey,
    ) -> impl Iterator<Item = Result<(StateKey, IVec), StoreError>> {
        let mut range = self.tree.range(first.encode()..=last.encode());
        std::iter::from_fn(move || {
            guarded(&self.db_path, || range.next_back().transpose())
                .map(|found| found.and_then(|(key, part)| Some((StateKey::decode(&key)?, part))))
                .transpose()
        })
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        guarded(&self.db_path, || self.tree.insert(key, value)).map(drop)
    }

    fn damaged(&self, what: impl std::fmt::Display) -> StoreError {
        StoreError::damaged(self.db_path.display(), what)
    }
}

/// Opens sled as soon as its own lock is free. The store's lock is held, so whoever has sled's is
/// about to let go of it: a child of this process that was being started when sled was closed.
#[expect(clippy::disallowed_methods, reason = "sled only tries its lock, and cannot wait for it")]
fn open_once_unlocked(db: &Path, config: &sled::Config) -> Result<sled::Db, StoreError> {
    let mut tries = LOCK_TRIES;
    loop {
        match guarded(db, || config.open()) {
            Err(StoreError::Io { source, .. })
                if source.to_string().contains("could not acquire lock") && 0 < tries =>
            {
                tries -= 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Where a part of a state snapshot lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateKey {
    pub(crate) stream: StreamKey,
    pub(crate) seq: u64,
    pub(crate) part: u8,
}

impl StateKey {
    pub(crate) fn encode(&self) -> [u8; 27] {
        let mut key = [0; 27];
        key[0] = STATE;
        key[1] = self.stream.kind;
        key[2..18].copy_from_slice(self.stream.id.as_bytes());
        key[18..26].copy_from_slice(&self.seq.to_be_bytes());
        key[26] = self.part;
        key
    }

    fn decode(key: &[u8]) -> Option<Self> {
        let key: &[u8; 27] = key.try_into().ok()?;
        let id = uuid::Uuid::from_slice(&key[2..18]).ok()?;
        let seq = u64::from_be_bytes(*key[18..].first_chunk()?);
        Some(Self { stream: StreamKey { kind: key[1], id }, seq, part: key[26] })
    }
}

/// Runs a call into sled; its errors and panics become [`StoreError`]s that name the file.
fn guarded<T>(db: &Path, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(io("access", db)(error)),
        Ok(Err(error)) => Err(StoreError::damaged(db.display(), error)),
        Err(panic) => Err(StoreError::damaged(db.display(), panic_text(&*panic))),
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    format!("sled panicked: {}", text.unwrap_or_else(|| "without a message".to_owned()))
}

/// Makes a file or folder durable.
pub(crate) fn sync(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(io("sync", path))
}

/// An [`StoreError::Io`] for `path`.
pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Io { doing, path, source }
}

/// A key that sorts by number.
fn numbered(prefix: u8, number: u64) -> [u8; 9] {
    let mut key = [prefix; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number of a key under `prefix`.
fn number(prefix: u8, key: &[u8]) -> Option<u64> {
    let key: &[u8; 9] = key.try_into().ok()?;
    (key[0] == prefix).then(|| u64::from_be_bytes(*key[1..].first_chunk().expect("8 bytes follow")))
}
