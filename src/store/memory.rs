//! An event store in RAM that behaves as the one on disk does, for tests and simulations.

use super::builds::this_build;
use super::payload;
use super::record::{HEADER_BYTES, RECORD_BYTES_MAX};
use super::sled_store::{check_kind, placed};
use super::state::STATE_BYTES_MAX;
use crate::domain::entity::{Commit, NewCommit, StreamId};
use crate::ports::event_store::{EventStore, Snapshot, StoreError, WrittenBy};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// State snapshots kept of each stream.
const STATES_KEPT: usize = 2;

/// An event store in RAM. Everything appended is durable for as long as the value lives.
#[derive(Debug)]
pub struct MemoryStore {
    log: Mutex<Contents>,
    durable: watch::Sender<u64>,
    /// Whether this process wrote what it holds.
    is_own: bool,
}

#[derive(Debug, Default)]
struct Contents {
    commits: Vec<Commit>,
    /// Places in `commits`.
    streams: BTreeMap<StreamId, Vec<usize>>,
    states: BTreeMap<StreamId, BTreeMap<u64, Snapshot>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { log: Mutex::default(), durable: watch::Sender::new(0), is_own: true }
    }
}

impl MemoryStore {
    /// A store that holds `commits`, which must be a log from its beginning.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] at the first commit whose numbers do not follow.
    pub fn of(commits: Vec<Commit>) -> Result<Self, StoreError> {
        let store = Self { is_own: false, ..Self::default() };
        for commit in commits {
            store.push(commit)?;
        }
        Ok(store)
    }

    /// The same, for commits that this build made.
    ///
    /// # Errors
    /// As [`MemoryStore::of`].
    pub fn of_this_build(commits: Vec<Commit>) -> Result<Self, StoreError> {
        Ok(Self { is_own: true, ..Self::of(commits)? })
    }

    fn push(&self, commit: Commit) -> Result<(), StoreError> {
        let mut log = self.contents();
        let (global, seq) = (log.commits.len() as u64 + 1, log.seq(commit.stream) + 1);
        if (commit.global, commit.seq) != (global, seq) {
            let what = format!(
                "is number {} of {}, not {seq} after {} commits",
                commit.seq,
                commit.stream,
                global - 1
            );
            return Err(StoreError::damaged(format!("commit {}", commit.global), what));
        }
        log.push(commit);
        self.durable.send_replace(global);
        Ok(())
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn seq(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).map_or(0, |places| places.len() as u64)
    }

    fn push(&mut self, commit: Commit) {
        let places = self.streams.entry(commit.stream).or_default();
        places.push(self.commits.len());
        self.commits.push(commit);
    }
}

#[async_trait]
impl EventStore for MemoryStore {
    async fn append(&self, commit: NewCommit) -> Result<Commit, StoreError> {
        check_kind(&commit)?;
        let bytes = payload::draft(&commit).payload.len();
        if RECORD_BYTES_MAX - HEADER_BYTES < bytes {
            return Err(StoreError::TooLarge { bytes, limit: RECORD_BYTES_MAX - HEADER_BYTES });
        }
        let mut log = self.contents();
        let actual = log.seq(commit.stream);
        if commit.expected_seq != actual {
            return Err(StoreError::WrongSequence { expected: commit.expected_seq, actual });
        }
        let commit = placed(commit, log.commits.len() as u64 + 1, actual + 1);
        log.push(commit.clone());
        self.durable.send_replace(commit.global);
        Ok(commit)
    }

    fn read_stream(
        &self,
        stream: StreamId,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Commit>, StoreError> {
        let log = self.contents();
        let places = log.streams.get(&stream).map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(from_seq.saturating_sub(1)).unwrap_or(usize::MAX);
        let places = places.iter().skip(from).take(limit);
        Ok(places.map(|place| log.commits[*place].clone()).collect())
    }

    fn read_all(&self, from_global: u64, limit: usize) -> Result<Vec<Commit>, StoreError> {
        let from = usize::try_from(from_global.saturating_sub(1)).unwrap_or(usize::MAX);
        Ok(self.contents().commits.iter().skip(from).take(limit).cloned().collect())
    }

    fn replay(&self, from_global: u64, visit: &mut dyn FnMut(Commit)) -> Result<(), StoreError> {
        self.read_all(from_global, usize::MAX)?.into_iter().for_each(visit);
        Ok(())
    }

    fn streams(&self) -> Result<Vec<(StreamId, u64)>, StoreError> {
        let log = self.contents();
        Ok(log.streams.iter().map(|(stream, places)| (*stream, places.len() as u64)).collect())
    }

    fn durable(&self) -> u64 {
        *self.durable.borrow()
    }

    async fn durable_after(&self, global: u64) -> Result<u64, StoreError> {
        let mut durable = self.durable.subscribe();
        let reached = durable.wait_for(|durable| global < *durable).await;
        reached
            .map(|durable| *durable)
            .map_err(|_| StoreError::Stopped { because: "it was dropped".to_owned() })
    }

    fn written_by(&self) -> Vec<WrittenBy> {
        if self.is_own { vec![this_build(1)] } else { Vec::new() }
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        if STATE_BYTES_MAX < snapshot.state.len() {
            let bytes = snapshot.state.len();
            return Err(StoreError::TooLarge { bytes, limit: STATE_BYTES_MAX });
        }
        let mut log = self.contents();
        let actual = log.seq(snapshot.stream);
        if actual < snapshot.seq {
            return Err(StoreError::WrongSequence { expected: snapshot.seq, actual });
        }
        let states = log.states.entry(snapshot.stream).or_default();
        states.insert(snapshot.seq, snapshot);
        if STATES_KEPT < states.len() {
            states.pop_first();
        }
        Ok(())
    }

    fn snapshot(&self, stream: StreamId, schema: u16) -> Result<Option<Snapshot>, StoreError> {
        let log = self.contents();
        let states = log.states.get(&stream).into_iter().flat_map(|states| states.values().rev());
        Ok(states.into_iter().find(|state| state.schema == schema).cloned())
    }
}
