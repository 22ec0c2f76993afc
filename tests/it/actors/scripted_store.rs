//! An event store whose appends do what the test says.

use super::virtual_clock::{Fate, VirtualClock};
use async_trait::async_trait;
use lifeboat::domain::entity::{Commit, NewCommit, StreamId};
use lifeboat::ports::event_store::{EventStore, Snapshot, StoreError};
use lifeboat::store::MemoryStore;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of an append.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Append {
    /// It becomes durable after this long.
    After(Duration),
    /// It never becomes durable.
    Hang,
    /// The store stops; all that follow fail as well.
    Stop,
    /// The commit is over the size limit.
    TooLarge,
    /// The store panics.
    Panic,
}

#[derive(Debug)]
pub(crate) struct ScriptedStore {
    pub(crate) inner: MemoryStore,
    clock: Arc<VirtualClock>,
    fate: Arc<Fate>,
    script: Mutex<Script>,
}

#[derive(Debug, Default)]
struct Script {
    next: BTreeMap<StreamId, VecDeque<Append>>,
    stopped: bool,
    read_panics: bool,
    began: Vec<(StreamId, Duration)>,
    durable_at: BTreeMap<u64, Duration>,
    commits_read: usize,
}

impl ScriptedStore {
    pub(crate) fn new(inner: MemoryStore, clock: Arc<VirtualClock>, fate: Arc<Fate>) -> Self {
        Self { inner, clock, fate, script: Mutex::default() }
    }

    /// The next appends to a stream do this, one after the other.
    pub(crate) fn script(&self, stream: StreamId, next: impl IntoIterator<Item = Append>) {
        self.script.lock().unwrap().next.entry(stream).or_default().extend(next);
    }

    /// Reading a stream panics from here on.
    pub(crate) fn poison_reads(&self) {
        self.script.lock().unwrap().read_panics = true;
    }

    pub(crate) fn commits(&self) -> Vec<Commit> {
        self.inner.read_all(1, usize::MAX).unwrap()
    }

    /// The moment at which a commit became durable.
    pub(crate) fn durable_at(&self, global: u64) -> Duration {
        self.script.lock().unwrap().durable_at[&global]
    }

    /// When appends to a stream were asked for.
    pub(crate) fn began_appends(&self, stream: StreamId) -> Vec<Duration> {
        let script = self.script.lock().unwrap();
        let of_stream = script.began.iter().filter(|(own, _)| *own == stream);
        of_stream.map(|(_, at)| *at).collect()
    }

    /// Commits that something reads from streams.
    pub(crate) fn count_reads<T>(&self, something: impl FnOnce() -> T) -> usize {
        self.script.lock().unwrap().commits_read = 0;
        something();
        self.script.lock().unwrap().commits_read
    }

    fn next(&self, stream: StreamId) -> Append {
        let mut script = self.script.lock().unwrap();
        if script.stopped {
            return Append::Stop;
        }
        let next = script.next.get_mut(&stream).and_then(VecDeque::pop_front);
        if let Some(Append::Stop) = next {
            script.stopped = true;
        }
        next.unwrap_or(Append::After(Duration::ZERO))
    }
}

#[async_trait]
impl EventStore for ScriptedStore {
    async fn append(&self, commit: NewCommit) -> Result<Commit, StoreError> {
        let (stream, after) = (commit.stream, commit.expected_seq);
        self.fate.instant(|| format!("append to {stream} after {after} begins")).await;
        self.script.lock().unwrap().began.push((commit.stream, self.clock.elapsed()));
        match self.next(commit.stream) {
            Append::After(latency) if latency.is_zero() => {}
            Append::After(latency) => tokio::time::sleep(latency).await,
            Append::Hang => std::future::pending().await,
            Append::Stop => {
                return Err(StoreError::Stopped { because: "the disk is gone".to_owned() });
            }
            Append::TooLarge => return Err(StoreError::TooLarge { bytes: 99_999, limit: 48_000 }),
            Append::Panic => panic!("the store panics"),
        }
        let commit = self.inner.append(commit).await?;
        self.script.lock().unwrap().durable_at.insert(commit.global, self.clock.elapsed());
        self.fate.instant(|| format!("append to {stream} after {after} ends")).await;
        Ok(commit)
    }

    fn read_stream(
        &self,
        stream: StreamId,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Commit>, StoreError> {
        assert!(!self.script.lock().unwrap().read_panics, "the store panics");
        let commits = self.inner.read_stream(stream, from_seq, limit)?;
        self.script.lock().unwrap().commits_read += commits.len();
        Ok(commits)
    }

    fn read_all(&self, from_global: u64, limit: usize) -> Result<Vec<Commit>, StoreError> {
        self.inner.read_all(from_global, limit)
    }

    fn replay(&self, from_global: u64, visit: &mut dyn FnMut(Commit)) -> Result<(), StoreError> {
        self.inner.replay(from_global, visit)
    }

    fn streams(&self) -> Result<Vec<(StreamId, u64)>, StoreError> {
        self.inner.streams()
    }

    fn durable(&self) -> u64 {
        self.inner.durable()
    }

    async fn durable_after(&self, global: u64) -> Result<u64, StoreError> {
        self.inner.durable_after(global).await
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.inner.save_snapshot(snapshot)
    }

    fn snapshot(&self, stream: StreamId, schema: u16) -> Result<Option<Snapshot>, StoreError> {
        self.inner.snapshot(stream, schema)
    }
}
