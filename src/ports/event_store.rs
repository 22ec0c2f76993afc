//! The event store port: the one log that everything is decided into and folded from.

use crate::domain::catalogue::Code;
use crate::domain::entity::{Commit, Kind, NewCommit, StreamId};
use crate::domain::failure::Classified;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A log of commits: one stream per entity, one order over all.
///
/// Everything that can be read is durable. Readers block; appending does not.
#[async_trait]
pub trait EventStore: Send + Sync + Debug {
    /// Appends a commit to its stream. Returns once it survives a power loss.
    ///
    /// If the caller stops waiting, the commit may or may not become durable.
    ///
    /// # Errors
    /// [`StoreError::WrongSequence`] if the stream has moved on, [`StoreError::TooLarge`] for a commit
    /// over the size limit; neither changes anything. [`StoreError::Stopped`] if writing failed, at
    /// this commit or before; this one may or may not be found durable when the store is opened again.
    async fn append(&self, commit: NewCommit) -> Result<Commit, StoreError>;

    /// The commits of a stream from `from_seq` on, at most `limit`; none beyond its end.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if what is stored is not what was written.
    fn read_stream(
        &self,
        stream: StreamId,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Commit>, StoreError>;

    /// The commits of all streams from global position `from_global` on, in order, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if what is stored is not what was written.
    fn read_all(&self, from_global: u64, limit: usize) -> Result<Vec<Commit>, StoreError>;

    /// Hands every commit from global position `from_global` up to the last durable one to `visit`, in
    /// order. For reading much: it holds one commit at a time. `visit` must not call the store.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if what is stored is not what was written.
    fn replay(&self, from_global: u64, visit: &mut dyn FnMut(Commit)) -> Result<(), StoreError>;

    /// Every stream with the sequence number of its last commit, in order.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] if the store was closed.
    fn streams(&self) -> Result<Vec<(StreamId, u64)>, StoreError>;

    /// The global position of the last durable commit; 0 before the first.
    fn durable(&self) -> u64;

    /// Waits until there is a commit after global position `global` and returns the last one's.
    /// Together with [`EventStore::read_all`] this follows the log without gap or repetition.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] once the store stopped and everything durable is at or before `global`.
    async fn durable_after(&self, global: u64) -> Result<u64, StoreError>;

    /// Which builds wrote the log, in the order of their positions. What lies before the first is of a
    /// build that is not known.
    fn written_by(&self) -> Vec<WrittenBy> {
        Vec::new()
    }

    /// Stores a state snapshot; the last two of a stream are kept. Not durable on return: a lost one
    /// only costs replay.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] over the size limit; [`StoreError::WrongSequence`] if it claims
    /// commits that the stream does not have; [`StoreError::Stopped`].
    fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError>;

    /// The newest state snapshot of the stream under `schema` that is sound; one that is damaged,
    /// has another schema, or claims commits that the stream does not have is passed over.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] if the store was closed.
    fn snapshot(&self, stream: StreamId, schema: u16) -> Result<Option<Snapshot>, StoreError>;
}

/// Who wrote the commits from a position on, up to the next of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenBy {
    /// The first global position.
    pub from: u64,
    /// The build's version.
    pub build: String,
    /// The payload version that it wrote.
    pub payload_version: u16,
}

/// The state of an entity after a commit, kept so that loading it need not replay its whole stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose state.
    pub stream: StreamId,
    /// The sequence number of the last commit in it.
    pub seq: u64,
    /// The version of `state`'s shape; it belongs to the entity.
    pub schema: u16,
    /// The state, encoded by the entity's host.
    pub state: Vec<u8>,
}

/// Why the event store did not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The stream's last commit is not the one that the append was decided on.
    #[error("append after sequence {expected} refused: the stream's last commit is {actual}")]
    WrongSequence {
        /// What the append expected.
        expected: u64,
        /// The sequence number of the stream's last commit.
        actual: u64,
    },
    /// The entry is of another kind than its stream.
    #[error("append {} entry to {stream} refused", kind.name())]
    WrongKind {
        /// The stream.
        stream: StreamId,
        /// The kind of the entry.
        kind: Kind,
    },
    /// The store stopped writing.
    #[error("event store stopped: {because}")]
    Stopped {
        /// What stopped it.
        because: String,
    },
    /// What is stored is not what was written.
    #[error("event store damaged: {place}: {what}; run `lifeboat events verify`")]
    Damaged {
        /// File, block or commit.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// More bytes than a commit or a state snapshot may have.
    #[error("store {bytes} bytes refused: at most {limit} are possible")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Written by a later build.
    #[error("read commit {global} refused: payload version {version} is later than {supported}")]
    Unsupported {
        /// Its global position.
        global: u64,
        /// The version of its payload.
        version: u16,
        /// The last version that this build reads.
        supported: u16,
    },
    /// Another process has it open.
    #[error("open event store {} refused: another process has it open, stop that first", folder.display())]
    InUse {
        /// The store's folder.
        folder: PathBuf,
    },
    /// The file system refused.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done, as "verb".
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// A [`StoreError::Damaged`].
    pub fn damaged(place: impl std::fmt::Display, what: impl std::fmt::Display) -> Self {
        Self::Damaged { place: place.to_string(), what: what.to_string() }
    }
}

impl Classified for StoreError {
    fn code(&self) -> Code {
        Code::EventLogFailed
    }
}
