//! The log of records: opening, reading, appending, closing. It knows nothing of what is in them.
//!
//! A folder holds `LOCK` (held while open), `HEAD` (the [watermark](super::watermark)) and `log/`
//! (sled's). In sled: blocks of records by first global sequence number, [index](super::index) pages,
//! state snapshots, and a format key.

use super::committer::{Committer, Request};
use super::index::Index;
use super::opening::{self, FolderLock, Opened};
use super::record::{self, RECORD_BYTES_MAX, Record, StreamKey};
use super::sled_tree::{SledTree, StateKey, io, panic_text};
use super::state::{STATE_BYTES_MAX, StateRecord};
use super::watermark::Watermark;
use crate::ports::event_store::StoreError;
use sled::IVec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot, watch};

/// State snapshots kept of each stream.
const STATES_KEPT: usize = 2;

/// Blocks that are read at a time while the records of those before are visited; fewer cost a switch of
/// threads too often.
const BLOCKS_AHEAD: usize = 32;

/// A record that is to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// To which stream.
    pub stream: StreamKey,
    /// The sequence number of the stream's last record; 0 for a stream without records.
    pub expected_seq: u64,
    /// Wall time in milliseconds since 1970.
    pub at_ms: i64,
    /// Version of the payload's shape.
    pub version: u16,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Draft {
    /// Bytes of the record that it becomes.
    pub(crate) fn bytes(&self) -> usize {
        Record::bytes(self.payload.len())
    }
}

/// Where a record was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// In the whole log.
    pub global: u64,
    /// In its stream.
    pub seq: u64,
}

/// How far the log is durable, and whether it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    durable: u64,
    stopped: bool,
}

/// What the committer and the readers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) folder: PathBuf,
    /// `None` once closed; held for writing while sled is closed and opened again.
    tree: RwLock<Option<SledTree>>,
    index: RwLock<Index>,
    progress: watch::Sender<Progress>,
    stopped: OnceLock<String>,
}

/// A log of records in a folder, open for reading and appending by this process alone.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    writing: Mutex<Option<Writing>>,
}

/// The way to the committer, until the log is closed.
#[derive(Debug)]
struct Writing {
    requests: mpsc::UnboundedSender<Request>,
    committer: JoinHandle<Committer>,
    _lock: FolderLock,
}

impl Shared {
    /// Calls into sled; keeps it open meanwhile.
    pub(crate) fn with_tree<T>(
        &self,
        call: impl FnOnce(&SledTree) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        call(tree.as_ref().ok_or_else(|| self.stopped_error())?)
    }

    /// Lets sled cover what it holds by a page table, so that the next opening has little to walk.
    /// Readers wait for as long as that takes. After an error sled stays closed.
    pub(crate) fn cover(&self, mark: Watermark) -> Result<Watermark, StoreError> {
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        drop(tree.take());
        let (reopened, mark) = opening::reopen(&self.folder, mark)?;
        *tree = Some(reopened);
        Ok(mark)
    }

    /// Closes sled.
    fn close_tree(&self) {
        drop(self.tree.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change_index<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets readers see records that have become durable.
    pub(crate) fn advance(&self, streams: impl Iterator<Item = StreamKey>) {
        let durable = self.change_index(|index| {
            streams.for_each(|stream| index.push(stream));
            index.last()
        });
        self.progress.send_modify(|progress| progress.durable = durable);
    }

    /// Stops the log for good; the first reason stays.
    pub(crate) fn stop(&self, because: String) {
        let _ = self.stopped.set(because);
        self.progress.send_modify(|progress| progress.stopped = true);
    }

    pub(crate) fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    pub(crate) fn stopped_error(&self) -> StoreError {
        let because = self.stopped().unwrap_or("its committer ended").to_owned();
        StoreError::Stopped { because }
    }
}

impl Log {
    /// Opens the log in `folder`, or creates it. Returns once everything that it holds is durable.
    ///
    /// Reads the index and what was appended since its last page. After an unclean shutdown it first
    /// proves, without writing, that sled will find every acknowledged record.
    ///
    /// # Errors
    /// [`StoreError::InUse`]; [`StoreError::Damaged`] if acknowledged records are missing or cannot be
    /// reached; [`StoreError::Io`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let Opened { lock, tree, watermark, mark, index } = opening::open(folder)?;
        let shared = Arc::new(Shared {
            folder: folder.to_path_buf(),
            tree: RwLock::new(Some(tree)),
            index: RwLock::new(index),
            progress: watch::Sender::new(Progress { durable: mark.last, stopped: false }),
            stopped: OnceLock::new(),
        });
        let (requests, receiver) = mpsc::unbounded_channel();
        let committer = Committer { shared: Arc::clone(&shared), watermark, mark, uncovered: 0 };
        let committer = std::thread::Builder::new()
            .name("event-store".to_owned())
            .spawn(move || committer.run(receiver))
            .map_err(io("start the committer of", folder))?;
        let writing = Mutex::new(Some(Writing { requests, committer, _lock: lock }));
        Ok(Self { shared, writing })
    }

    /// Appends a record. Returns once it survives a power loss.
    ///
    /// # Errors
    /// As [`EventStore::append`](crate::ports::event_store::EventStore::append).
    pub async fn append(&self, draft: Draft) -> Result<Placed, StoreError> {
        let answer = self.request(draft)?;
        answer.await.map_err(|_| self.shared.stopped_error())?
    }

    /// Appends records in this order without waiting for one before the next is on its way. Returns
    /// once all of them survive a power loss.
    ///
    /// # Errors
    /// That of the first record that was refused; those after it may have been appended.
    pub async fn append_in_order(
        &self,
        drafts: impl Iterator<Item = Draft> + Send,
    ) -> Result<(), StoreError> {
        let answers: Vec<_> = drafts.map(|draft| self.request(draft)).collect::<Result<_, _>>()?;
        for answer in answers {
            answer.await.map_err(|_| self.shared.stopped_error())??;
        }
        Ok(())
    }

    /// Hands a record to the committer; the answer comes once it is durable.
    fn request(
        &self,
        draft: Draft,
    ) -> Result<oneshot::Receiver<Result<Placed, StoreError>>, StoreError> {
        if RECORD_BYTES_MAX < draft.bytes() {
            let limit = RECORD_BYTES_MAX - record::HEADER_BYTES;
            return Err(StoreError::TooLarge { bytes: draft.payload.len(), limit });
        }
        let (reply, answer) = oneshot::channel();
        let writing = self.writing();
        let sent = writing.as_ref().and_then(|it| it.requests.send(Request { draft, reply }).ok());
        sent.map(|()| answer).ok_or_else(|| self.shared.stopped_error())
    }

    /// The global sequence number of the last durable record.
    pub fn durable(&self) -> u64 {
        self.shared.progress.borrow().durable
    }

    /// Waits for a durable record after `global`; returns the last one's.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] if there will be none.
    pub async fn durable_after(&self, global: u64) -> Result<u64, StoreError> {
        let mut progress = self.shared.progress.subscribe();
        let changed = progress.wait_for(|now| global < now.durable || now.stopped).await;
        match changed {
            Ok(now) if global < now.durable => Ok(now.durable),
            Ok(_) | Err(_) => Err(self.shared.stopped_error()),
        }
    }

    /// Every stream with its last sequence number, in order.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] if the log was closed.
    pub fn streams(&self) -> Result<Vec<(StreamKey, u64)>, StoreError> {
        self.shared.with_tree(|_| Ok(self.shared.index().streams().collect()))
    }

    /// Visits the durable records from global sequence number `from` on, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] at a record that is not what was written; what `visit` answers.
    pub fn read_all(
        &self,
        from: u64,
        limit: usize,
        mut visit: impl FnMut(Record<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let until = self.durable().min(from.max(1).saturating_add(limit as u64) - 1);
        let mut next = from.max(1);
        let mut seqs: BTreeMap<StreamKey, u64> = BTreeMap::new();
        self.shared.with_tree(|tree| {
            std::thread::scope(|scope| {
                let (send, ahead) = std::sync::mpsc::sync_channel(1);
                scope.spawn(move || send_blocks(tree, next, until, &send));
                let mut blocks = ahead.into_iter().flatten();
                while next <= until {
                    let missing = || StoreError::damaged(place(next), "is missing");
                    let (first, block) = blocks.next().ok_or_else(missing)??;
                    if next < first {
                        return Err(missing());
                    }
                    for record in records(first, &block) {
                        let record = record?;
                        if (next..=until).contains(&record.global) {
                            next += 1;
                            check_seq(&mut seqs, &record)?;
                            visit(record)?;
                        }
                    }
                }
                Ok(())
            })
        })
    }

    /// Visits the records of a stream from `from_seq` on, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] at a record that is not what was written; what `visit` answers.
    pub fn read_stream(
        &self,
        stream: StreamKey,
        from_seq: u64,
        limit: usize,
        mut visit: impl FnMut(Record<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let globals = self.shared.index().globals(stream, from_seq, limit);
        self.shared.with_tree(|tree| {
            let mut block: Option<(u64, IVec)> = None;
            for (global, seq) in globals.into_iter().zip(from_seq.max(1)..) {
                let (first, bytes) = match block.take() {
                    Some((first, bytes)) if Record::find(&bytes, global).is_ok() => (first, bytes),
                    _ => block_of(tree, global)?,
                };
                let record = Record::find(&bytes, global)
                    .map_err(|flaw| StoreError::damaged(place(global), flaw))?;
                if record.stream != stream || record.seq != seq {
                    let what =
                        format!("holds {} {}, not {stream} {seq}", record.stream, record.seq);
                    return Err(StoreError::damaged(place(global), what));
                }
                visit(record)?;
                block = Some((first, bytes));
            }
            Ok(())
        })
    }

    /// Stores a state snapshot and drops all but the last two of the stream.
    ///
    /// # Errors
    /// As [`EventStore::save_snapshot`](crate::ports::event_store::EventStore::save_snapshot).
    pub fn save_state(&self, state: &StateRecord) -> Result<(), StoreError> {
        if STATE_BYTES_MAX < state.state.len() {
            return Err(StoreError::TooLarge { bytes: state.state.len(), limit: STATE_BYTES_MAX });
        }
        if self.shared.stopped().is_some() {
            return Err(self.shared.stopped_error());
        }
        let actual = self.shared.index().seq(state.stream);
        if actual < state.seq {
            return Err(StoreError::WrongSequence { expected: state.seq, actual });
        }
        self.shared.with_tree(|tree| {
            for (key, part) in state.parts() {
                tree.put_state(&key, &part)?;
            }
            drop_old_states(tree, state.stream)
        })
    }

    /// The newest sound state snapshot of the stream under `schema`.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] if the log was closed.
    pub fn state(&self, stream: StreamKey, schema: u16) -> Result<Option<StateRecord>, StoreError> {
        let head = self.shared.index().seq(stream);
        self.shared.with_tree(|tree| {
            let sound = whole_states(tree.states_back(stream)).map_while(Result::ok);
            let usable = |it: &StateRecord| it.schema == schema && it.seq <= head;
            Ok(sound.filter_map(|(_, _, state)| state).find(usable))
        })
    }

    /// Closes the log: waits for what is being appended, lets sled write a page table that covers
    /// everything (so that later damage is an error of a read, not an end of the log), and notes in
    /// the watermark that nothing was left open. Does nothing the second time.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] if writing failed before; the log is closed all the same, and the next
    /// opening checks it as after a crash.
    pub fn close(&self) -> Result<(), StoreError> {
        let Some(Writing { requests, committer, _lock }) = self.writing().take() else {
            return Ok(());
        };
        drop(requests);
        let committer =
            committer.join().map_err(|panic| StoreError::Stopped { because: panic_text(&*panic) });
        let failed = self.shared.stopped().is_some();
        self.shared.stop("it was closed".to_owned());
        self.shared.close_tree();
        let Committer { watermark, mark, .. } = committer?;
        if failed {
            return Err(self.shared.stopped_error());
        }
        opening::seal(&self.shared.folder, watermark, mark)
    }

    fn writing(&self) -> MutexGuard<'_, Option<Writing>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(folder = %self.shared.folder.display(), %error, "event store not closed in good order");
        }
    }
}

/// The blocks' records in order, checked against the block's key.
pub(crate) fn records(
    first: u64,
    block: &[u8],
) -> impl Iterator<Item = Result<Record<'_>, StoreError>> {
    let mut rest = block;
    let mut next = first;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let read = Record::read(rest).map_err(|flaw| StoreError::damaged(place(next), flaw));
        let checked = read.and_then(|(record, after)| {
            if record.global != next {
                let what = format!("holds commit {} instead", record.global);
                return Err(StoreError::damaged(place(next), what));
            }
            rest = after;
            next += 1;
            Ok(record)
        });
        if checked.is_err() {
            rest = &[];
        }
        Some(checked)
    })
}

/// Reads the blocks that hold records `from..=until` ahead of who takes them, up to an error or until
/// there is nobody left to take them.
fn send_blocks(
    tree: &SledTree,
    from: u64,
    until: u64,
    taker: &SyncSender<Vec<Result<(u64, IVec), StoreError>>>,
) {
    let after = |found: &Result<(u64, IVec), StoreError>| {
        let next = found.as_ref().ok()?.0 + 1;
        (next <= until).then(|| tree.block_from(next).transpose())?
    };
    let mut blocks = std::iter::successors(tree.block_of(from).transpose(), after);
    loop {
        let some: Vec<_> = blocks.by_ref().take(BLOCKS_AHEAD).collect();
        if some.is_empty() || taker.send(some).is_err() {
            return;
        }
    }
}

/// The block that must hold `global`.
fn block_of(tree: &SledTree, global: u64) -> Result<(u64, IVec), StoreError> {
    let block = tree.block_of(global)?;
    block.ok_or_else(|| StoreError::damaged(place(global), "is missing"))
}

/// How a commit is named in an error.
pub(crate) fn place(global: u64) -> String {
    format!("commit {global}")
}

/// Refuses a record that does not follow the one before it in its stream, if that was read as well.
pub(crate) fn check_seq(
    seqs: &mut BTreeMap<StreamKey, u64>,
    record: &Record<'_>,
) -> Result<(), StoreError> {
    match seqs.insert(record.stream, record.seq) {
        Some(before) if before + 1 != record.seq => {
            let what = format!("{} goes from {before} to {}", record.stream, record.seq);
            Err(StoreError::damaged(place(record.global), what))
        }
        _ => Ok(()),
    }
}

/// Every state snapshot of a store, with its place; `None` for one that is not sound.
pub(crate) fn states(
    tree: &SledTree,
) -> impl Iterator<Item = Result<(StreamKey, u64, Option<StateRecord>), StoreError>> {
    whole_states(tree.all_states_back())
}

/// Puts parts, the last first, together.
fn whole_states(
    mut parts: impl Iterator<Item = Result<(StateKey, IVec), StoreError>>,
) -> impl Iterator<Item = Result<(StreamKey, u64, Option<StateRecord>), StoreError>> {
    let mut held: Vec<(StateKey, IVec)> = Vec::new();
    std::iter::from_fn(move || {
        for found in parts.by_ref() {
            match found {
                Ok((key, part)) => {
                    held.push((key, part));
                    if key.part == 0 {
                        let whole = StateRecord::from_parts(held.drain(..).rev());
                        return Some(Ok((key.stream, key.seq, whole)));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
        None
    })
}

fn drop_old_states(tree: &SledTree, stream: StreamKey) -> Result<(), StoreError> {
    let mut kept = Vec::new();
    for found in tree.states_back(stream) {
        let (key, _) = found?;
        if !kept.contains(&key.seq) {
            kept.push(key.seq);
        }
        if STATES_KEPT < kept.len() {
            tree.remove_state(&key)?;
        }
    }
    Ok(())
}
