//! The event store of the service: commits as records in a [`Log`].

use super::builds;
use super::log::{Log, Placed};
use super::payload;
use super::record::Record;
use super::state::StateRecord;
use crate::domain::entity::{Commit, NewCommit, StreamId};
use crate::ports::event_store::{EventStore, Snapshot, StoreError, WrittenBy};
use async_trait::async_trait;
use std::io;
use std::path::{Path, PathBuf};

/// Commits that a single read makes room for at once.
const READ_AHEAD: usize = 4096;

/// An event store in a folder, for this process alone. Close it with [`SledStore::close`]; dropping it
/// does the same and logs what goes wrong.
#[derive(Debug)]
pub struct SledStore {
    log: Log,
    folder: PathBuf,
}

impl SledStore {
    /// Opens the store in `folder`, or creates it. Blocks.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let log = Log::open(folder)?;
        let folder = folder.to_path_buf();
        let store = Self { log, folder };
        store.set_written_by(builds::note(&store.folder, store.log.durable() + 1));
        Ok(store)
    }

    /// Closes the store in good order. Blocks.
    ///
    /// # Errors
    /// As [`Log::close`].
    pub fn close(&self) -> Result<(), StoreError> {
        self.log.close()
    }

    /// Appends commits in this order, as if one after the other, but without waiting in between.
    /// Returns once all of them are durable.
    ///
    /// # Errors
    /// That of the first commit that was refused; those after it may have been appended.
    pub async fn append_in_order(&self, commits: Vec<NewCommit>) -> Result<(), StoreError> {
        commits.iter().try_for_each(check_kind)?;
        self.log.append_in_order(commits.iter().map(payload::draft)).await
    }

    /// Notes who wrote the commits that were imported.
    pub(super) fn note_written_by(&self, written_by: Vec<WrittenBy>) {
        self.set_written_by(builds::write(&self.folder, written_by));
    }

    /// A log without this note is as good as any other: nothing fails for it.
    fn set_written_by(&self, noted: io::Result<()>) {
        if let Err(error) = noted {
            tracing::warn!(folder = %self.folder.display(), %error, "note which build writes the log");
            builds::forget(&self.folder);
        }
    }

    /// The log of records under the commits.
    pub fn log(&self) -> &Log {
        &self.log
    }
}

#[async_trait]
impl EventStore for SledStore {
    async fn append(&self, commit: NewCommit) -> Result<Commit, StoreError> {
        check_kind(&commit)?;
        let Placed { global, seq } = self.log.append(payload::draft(&commit)).await?;
        Ok(placed(commit, global, seq))
    }

    fn read_stream(
        &self,
        stream: StreamId,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Commit>, StoreError> {
        let mut commits = Vec::with_capacity(limit.min(READ_AHEAD));
        let stream = payload::stream_key(stream);
        self.log.read_stream(stream, from_seq, limit, |record| collect(&mut commits, &record))?;
        Ok(commits)
    }

    fn read_all(&self, from_global: u64, limit: usize) -> Result<Vec<Commit>, StoreError> {
        let mut commits = Vec::with_capacity(limit.min(READ_AHEAD));
        self.log.read_all(from_global, limit, |record| collect(&mut commits, &record))?;
        Ok(commits)
    }

    fn streams(&self) -> Result<Vec<(StreamId, u64)>, StoreError> {
        let named = self.log.streams()?.into_iter().map(|(stream, seq)| {
            let unknown = || StoreError::damaged(format!("stream {stream}"), "is of unknown kind");
            Ok((payload::stream_id(stream).ok_or_else(unknown)?, seq))
        });
        named.collect()
    }

    fn replay(&self, from_global: u64, visit: &mut dyn FnMut(Commit)) -> Result<(), StoreError> {
        self.log.read_all(from_global, usize::MAX, |record| {
            visit(payload::decode(&record)?);
            Ok(())
        })
    }

    fn durable(&self) -> u64 {
        self.log.durable()
    }

    async fn durable_after(&self, global: u64) -> Result<u64, StoreError> {
        self.log.durable_after(global).await
    }

    fn written_by(&self) -> Vec<WrittenBy> {
        builds::read(&self.folder)
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        let Snapshot { stream, seq, schema, state } = snapshot;
        let stream = payload::stream_key(stream);
        self.log.save_state(&StateRecord { stream, seq, schema, state })
    }

    fn snapshot(&self, stream: StreamId, schema: u16) -> Result<Option<Snapshot>, StoreError> {
        let found = self.log.state(payload::stream_key(stream), schema)?;
        Ok(found.map(|StateRecord { seq, schema, state, .. }| Snapshot {
            stream,
            seq,
            schema,
            state,
        }))
    }
}

fn collect(commits: &mut Vec<Commit>, record: &Record<'_>) -> Result<(), StoreError> {
    commits.push(payload::decode(record)?);
    Ok(())
}

/// Refuses an entry of another kind than its stream, which could never be read back.
pub(super) fn check_kind(commit: &NewCommit) -> Result<(), StoreError> {
    let (stream, kind) = (commit.stream, commit.entry.kind());
    if stream.kind == kind {
        return Ok(());
    }
    Err(StoreError::WrongKind { stream, kind })
}

/// The commit that a new one became.
pub(super) fn placed(commit: NewCommit, global: u64, seq: u64) -> Commit {
    let NewCommit { stream, expected_seq: _, at, actor, correlation, causation, entry } = commit;
    Commit { stream, seq, global, at, actor, correlation, causation, entry }
}
