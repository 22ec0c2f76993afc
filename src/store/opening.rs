//! Opening and closing a store's folder: what is checked before sled may touch it, and after.

use super::index::Index;
use super::log::{check_seq, place, records};
use super::record::{Record, StreamKey, chain};
use super::segments::{self, Walk};
use super::sled_tree::{SledTree, io, sync};
use super::watermark::{self, Reading, State, Watermark, WatermarkFile};
use crate::ports::event_store::StoreError;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

/// A folder that was opened, with everything that it holds durable.
pub(crate) struct Opened {
    pub(crate) lock: FolderLock,
    pub(crate) tree: SledTree,
    pub(crate) watermark: WatermarkFile,
    /// What it says.
    pub(crate) mark: Watermark,
    pub(crate) index: Index,
}

/// Opens the store in `folder`, or creates it.
pub(crate) fn open(folder: &Path) -> Result<Opened, StoreError> {
    fs::create_dir_all(folder).map_err(io("create", folder))?;
    let lock = lock(folder)?;
    let (mut watermark, reading) = match open_watermark(folder)? {
        Some(opened) => opened,
        None => create(folder)?,
    };
    let (tree, mark) = reopen(folder, reading.watermark)?;
    tree.check_format()?;
    let (index, chain) = load(&tree, &reading.watermark)?;
    tree.sync()?;
    let last = index.last();
    let mark = Watermark { state: State::Open, last, covered: last, chain, ..mark };
    watermark.write_both(mark).map_err(io("write", &folder.join("HEAD")))?;
    Ok(Opened { lock, tree, watermark, mark, index })
}

/// Opens sled's part of a store, which covers what it holds by a page table; returns the watermark that
/// says so.
pub(crate) fn reopen(folder: &Path, mark: Watermark) -> Result<(SledTree, Watermark), StoreError> {
    check_before_sled(folder, &mark)?;
    let log = folder.join("log");
    segments::remove_unfinished_page_tables(&log).map_err(io("tidy", &log))?;
    let tree = SledTree::open(&log)?;
    sync(&log)?;
    let covered_lsn = segments::covered_lsn(&log).map_err(io("list", &log))?;
    Ok((tree, Watermark { covered: mark.last, covered_lsn, ..mark }))
}

/// Lets sled cover everything by a page table, and notes that the store is closed.
pub(crate) fn seal(
    folder: &Path,
    mut watermark: WatermarkFile,
    mark: Watermark,
) -> Result<(), StoreError> {
    let log = folder.join("log");
    let db = log.join("db");
    drop(SledTree::open(&log)?);
    sync(&db)?;
    sync(&log)?;
    let db_bytes = fs::metadata(&db).map_err(io("measure", &db))?.len();
    let covered_lsn = segments::covered_lsn(&log).map_err(io("list", &log))?;
    let state = State::Closed { db_bytes };
    let closed = Watermark { state, covered: mark.last, covered_lsn, ..mark };
    watermark.write_both(closed).map_err(io("write", &folder.join("HEAD")))
}

/// Keeps other processes out of a folder until it is dropped.
#[derive(Debug)]
pub(crate) struct FolderLock(File);

impl Drop for FolderLock {
    /// Closing would not do: a child that is just being started can hold a copy for a moment.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "event store not unlocked");
        }
    }
}

fn lock(folder: &Path) -> Result<FolderLock, StoreError> {
    let path = folder.join("LOCK");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(io("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(FolderLock(lock)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { folder: folder.to_path_buf() }),
        Err(TryLockError::Error(error)) => Err(io("lock", &path)(error)),
    }
}

/// The watermark of a store; `None` if there never was one.
fn open_watermark(folder: &Path) -> Result<Option<(WatermarkFile, Reading)>, StoreError> {
    let path = folder.join("HEAD");
    match WatermarkFile::open(&path) {
        Ok(Some(opened)) => Ok(Some(opened)),
        Ok(None) => Err(StoreError::damaged(path.display(), "neither slot is sound")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("open", &path)(error)),
    }
}

/// Creates an empty store. `HEAD` comes last: a folder without one was never used, and what an
/// interrupted creation left in it is cleared away, unless there are records in it.
fn create(folder: &Path) -> Result<(WatermarkFile, Reading), StoreError> {
    let log = folder.join("log");
    let path = folder.join("HEAD");
    if log.exists() {
        if holds_records(&log.join("db"))? {
            let what = "is missing, but the log holds commits";
            return Err(StoreError::damaged(path.display(), what));
        }
        fs::remove_dir_all(&log).map_err(io("clear", &log))?;
    }
    SledTree::open(&log)?.initialize(&log)?;
    sync(folder)?;
    folder.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync)?;
    let watermark = Watermark { state: State::Open, last: 0, covered: 0, covered_lsn: 0, chain: 0 };
    let file = WatermarkFile::create(&path, watermark).map_err(io("create", &path))?;
    sync(folder)?;
    drop(file);
    open_watermark(folder)?.ok_or_else(|| StoreError::damaged(path.display(), "vanished"))
}

fn holds_records(db: &Path) -> Result<bool, StoreError> {
    let mut found = false;
    segments::carve_file(db, |_| found = true).map_err(io("read", db))?;
    Ok(found)
}

/// Proves what can be proven before sled, which overwrites what it takes for a torn end, opens its
/// folder.
pub(crate) fn check_before_sled(folder: &Path, watermark: &Watermark) -> Result<(), StoreError> {
    let log = folder.join("log");
    let db = log.join("db");
    let bytes = fs::metadata(&db).map_err(io("open", &db))?.len();
    if let State::Closed { db_bytes } = watermark.state
        && bytes != db_bytes
    {
        let what = format!("has {bytes} bytes, but was closed with {db_bytes}");
        return Err(StoreError::damaged(db.display(), what));
    }
    check_reachable(&log, &db, watermark)
}

fn check_reachable(log: &Path, db: &Path, watermark: &Watermark) -> Result<(), StoreError> {
    let expected = watermark.covered + 1..=watermark.last;
    let count = usize::try_from(watermark.last.saturating_sub(watermark.covered))
        .map_err(|_| StoreError::damaged(log.display(), "more commits than memory can hold"))?;
    let mut found = vec![false; count];
    let seen = |record: Record<'_>| {
        if expected.contains(&record.global) {
            found[(record.global - expected.start()) as usize] = true;
        }
    };
    // A newer page table than the watermark's was written by an opening, or a closing, that was cut off.
    let newest_lsn = segments::covered_lsn(log).map_err(io("list", log))?;
    let from_lsn = watermark.covered_lsn.min(newest_lsn);
    let walk = segments::walk(db, from_lsn, newest_lsn, seen).map_err(io("read", db))?;
    let missing = found.iter().filter(|found| !**found).count();
    if let Some(at) = found.iter().position(|found| !found) {
        let first = expected.start() + at as u64;
        let what = format!("{missing} acknowledged commits are out of reach, the first is {first}");
        return Err(StoreError::damaged(db.display(), what));
    }
    match walk {
        Walk::Sound => Ok(()),
        Walk::StopsAt { offset } => {
            Err(StoreError::damaged(db.display(), format!("bad frame at byte {offset}")))
        }
        Walk::SegmentMissing => {
            Err(StoreError::damaged(db.display(), "the segment written last has a bad header"))
        }
    }
}

/// Builds the index: from its pages, then from the records after them. What was written but never
/// acknowledged is kept as far as it is whole.
fn load(tree: &SledTree, watermark: &Watermark) -> Result<(Index, u32), StoreError> {
    let mut index = Index::default();
    let mut chain_at_last = 0;
    for page in tree.pages() {
        let Some(chain) = page.ok().and_then(|page| index.add_page(&page)) else { break };
        chain_at_last = chain;
    }
    let mut mark = (index.last() == watermark.last).then_some(chain_at_last);
    while let Some((first, block)) = tree.block_from(index.last() + 1)? {
        let acknowledged = first <= watermark.last;
        match add_block(&mut index, &mut chain_at_last, &mut mark, watermark.last, first, &block) {
            Ok(()) => {}
            Err(error) if acknowledged => return Err(error),
            Err(_) => tree.remove_block(first)?,
        }
    }
    if index.last() < watermark.last {
        let what = format!("{} was acknowledged and is missing", place(watermark.last));
        return Err(StoreError::damaged(format!("log after {}", place(index.last())), what));
    }
    if mark.is_some_and(|chain| chain != watermark.chain) {
        let what = "does not match the running checksum of the log";
        return Err(StoreError::damaged("HEAD", what));
    }
    Ok((index, chain_at_last))
}

/// Adds a block's records to the index, all or none; notes the running checksum at `marked`.
fn add_block(
    index: &mut Index,
    chain_at_last: &mut u32,
    mark: &mut Option<u32>,
    marked: u64,
    first: u64,
    block: &[u8],
) -> Result<(), StoreError> {
    if first != index.last() + 1 {
        return Err(StoreError::damaged(place(index.last() + 1), "is missing"));
    }
    let block: Vec<Record<'_>> = records(first, block).collect::<Result<_, _>>()?;
    if block.is_empty() {
        return Err(StoreError::damaged(place(first), "is in an empty block"));
    }
    let mut seqs: BTreeMap<StreamKey, u64> = BTreeMap::new();
    for record in &block {
        seqs.entry(record.stream).or_insert_with(|| index.seq(record.stream));
        check_seq(&mut seqs, record)?;
    }
    for record in block {
        index.push(record.stream);
        *chain_at_last = chain(*chain_at_last, record.crc);
        if record.global == marked {
            *mark = Some(*chain_at_last);
        }
    }
    Ok(())
}

/// What a store's watermark says, read without changing anything.
pub(crate) fn read_watermark(folder: &Path) -> Result<Option<Reading>, StoreError> {
    let path = folder.join("HEAD");
    match watermark::read(&path) {
        Ok(reading) => Ok(reading),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", &path)(error)),
    }
}
