//! The event log of a run, and the observer that reads every commit as it becomes durable.

use super::dice::keyed;
use super::observer::Observer;
use super::outside::Outside;
use super::plant::Plant;
use crate::domain::entity::{Commit, Entry, NewCommit, StreamId};
use crate::domain::vm;
use crate::ports::event_store::{EventStore, Snapshot, StoreError, WrittenBy};
use crate::store::{MemoryStore, payload};
use async_trait::async_trait;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// How long an append takes until it is durable, in milliseconds.
const APPEND_MS: (u64, u64) = (1, 4);

/// How long the news of it takes, in milliseconds: a kill in between leaves a commit that nobody heard of.
const NEWS_MS: u64 = 1;

/// How far a planted bug puts a retry off.
const OFF_SCHEDULE: Duration = Duration::from_secs(7);

/// The event store port, in memory, with the time that a disk takes.
pub(super) struct Journal {
    store: MemoryStore,
    outside: Arc<Outside>,
    observer: Mutex<Observer>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("durable", &self.store.durable()).finish_non_exhaustive()
    }
}

impl Journal {
    pub(super) fn new(outside: Arc<Outside>, observer: Observer) -> Self {
        Self { store: MemoryStore::default(), outside, observer: Mutex::new(observer) }
    }

    /// A second log, which begins as this one is.
    pub(super) fn copied(&self, outside: Arc<Outside>) -> Result<Self, StoreError> {
        let log = self.read_all(1, usize::MAX)?;
        let observer = Mutex::new(Observer::after(&log));
        Ok(Self { store: MemoryStore::of_this_build(log)?, outside, observer })
    }

    pub(super) fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hash of the whole log: stream, place, time and bytes of every commit, in order.
    pub(super) fn hash(&self) -> Result<String, StoreError> {
        let mut hasher = blake3::Hasher::new_derive_key("lifeboat 2026 simulated event log");
        self.store.replay(1, &mut |commit| {
            hasher.update(&[commit.stream.kind as u8]);
            hasher.update(commit.stream.id.as_bytes());
            hasher.update(&commit.seq.to_le_bytes());
            hasher.update(&commit.at.as_millis().to_le_bytes());
            let Commit { actor, correlation, causation, entry, .. } = &commit;
            let bytes = payload::encode(actor, *correlation, *causation, entry);
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        })?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// What is appended in the place of this commit, where a bug is planted.
    fn forged(&self, mut commit: NewCommit) -> NewCommit {
        let Entry::Vm { events, .. } = &mut commit.entry else { return commit };
        for event in events {
            match (self.outside.plant, event) {
                (
                    Some(Plant::ForgedEvent | Plant::UndecidedEvent),
                    vm::Event::LogShipped { point },
                ) => point.bytes += 1,
                (Some(Plant::HastyTimer), vm::Event::RetryScheduled { due, .. }) => {
                    *due = due.after(OFF_SCHEDULE);
                }
                _ => {}
            }
        }
        commit
    }
}

#[async_trait]
impl EventStore for Journal {
    async fn append(&self, commit: NewCommit) -> Result<Commit, StoreError> {
        let place = commit.stream.to_string();
        let ms =
            APPEND_MS.0 + keyed(0, &place, commit.expected_seq) % (APPEND_MS.1 - APPEND_MS.0 + 1);
        sleep(Duration::from_millis(ms)).await;
        let true_entry = commit.entry.clone();
        let mut commit = self.store.append(self.forged(commit)).await?;
        let points = self.observer().observe(&self.outside, &commit);
        for (vm, cycle) in points {
            super::proof::prove_point(&self.outside, vm, cycle);
        }
        sleep(Duration::from_millis(NEWS_MS)).await;
        if self.outside.plant == Some(Plant::ForgedEvent) {
            commit.entry = true_entry;
        }
        Ok(commit)
    }

    fn read_stream(
        &self,
        stream: StreamId,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Commit>, StoreError> {
        self.store.read_stream(stream, from_seq, limit)
    }

    fn read_all(&self, from_global: u64, limit: usize) -> Result<Vec<Commit>, StoreError> {
        self.store.read_all(from_global, limit)
    }

    fn replay(&self, from_global: u64, visit: &mut dyn FnMut(Commit)) -> Result<(), StoreError> {
        self.store.replay(from_global, visit)
    }

    fn streams(&self) -> Result<Vec<(StreamId, u64)>, StoreError> {
        self.store.streams()
    }

    fn durable(&self) -> u64 {
        self.store.durable()
    }

    fn written_by(&self) -> Vec<WrittenBy> {
        self.store.written_by()
    }

    async fn durable_after(&self, global: u64) -> Result<u64, StoreError> {
        self.store.durable_after(global).await
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.store.save_snapshot(snapshot)
    }

    fn snapshot(&self, stream: StreamId, schema: u16) -> Result<Option<Snapshot>, StoreError> {
        self.store.snapshot(stream, schema)
    }
}
