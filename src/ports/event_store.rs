//! The event store port.

use crate::domain::entity::{Commit, NewCommit, StreamId};
use async_trait::async_trait;
use thiserror::Error;

/// A state of an entity, kept to make its loading short. It can always be thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The entity.
    pub stream: StreamId,
    /// The sequence number of the last commit that it contains.
    pub seq: u64,
    /// The schema of `state`.
    pub schema: u16,
    /// The state.
    pub state: Vec<u8>,
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Somebody else appended first.
    #[error("append to {stream}: its last commit is {actual}, not {expected}")]
    WrongSequence {
        /// The stream.
        stream: StreamId,
        /// What the caller expected.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// An I/O error stopped the store for good.
    #[error("the event store has stopped: {because}")]
    Stopped {
        /// The error.
        because: String,
    },
}

/// The event log.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// Appends; returns once durable.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn append(&self, commit: NewCommit) -> Result<Commit, StoreError>;
    /// Commits of a stream.
    ///
    /// # Errors
    /// [`StoreError`].
    fn read_stream(
        &self,
        stream: StreamId,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Commit>, StoreError>;
    /// Commits of all streams.
    ///
    /// # Errors
    /// [`StoreError`].
    fn read_all(&self, from_global: u64, limit: usize) -> Result<Vec<Commit>, StoreError>;
    /// Every stream with its last sequence number.
    ///
    /// # Errors
    /// [`StoreError`].
    fn streams(&self) -> Result<Vec<(StreamId, u64)>, StoreError>;
    /// The last durable global position.
    fn durable(&self) -> u64;
    /// Keeps a snapshot.
    ///
    /// # Errors
    /// [`StoreError`].
    fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError>;
    /// The newest usable snapshot.
    ///
    /// # Errors
    /// [`StoreError`].
    fn snapshot(&self, stream: StreamId) -> Result<Option<Snapshot>, StoreError>;
}
