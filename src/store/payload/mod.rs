//! What a commit is in a record's payload: bincode, one frozen shape per version.
//!
//! Stream, sequence numbers and time are the record's; the payload holds the rest. The latest version
//! is written, all versions are read: a version's module turns its shape into the latest. bincode
//! stores neither names nor types, so a change of any type that can be reached from
//! [`Entry`](crate::domain::entity::Entry) is a change of shape: it needs a version, and the frozen
//! bytes under `tests/fixtures/events/` fail where it was forgotten.

pub mod v1;

use super::log::Draft;
use super::record::{RECORD_BYTES_MAX, Record, StreamKey};
use crate::domain::entity::{Commit, Entry, Kind, NewCommit, StreamId};
use crate::domain::id::JobId;
use crate::domain::time::Timestamp;
use crate::ports::event_store::StoreError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version that is written.
pub const VERSION: u16 = 2;

/// Version 2, with the commit that led to this one.
#[derive(Debug, Deserialize)]
struct Payload {
    actor: String,
    correlation: Option<JobId>,
    causation: Option<u64>,
    entry: Entry,
}

/// Version 2, borrowed for writing. Fields as in [`Payload`], in the same order.
#[derive(Debug, Serialize)]
struct PayloadRef<'a> {
    actor: &'a str,
    correlation: Option<JobId>,
    causation: Option<u64>,
    entry: &'a Entry,
}

/// The payload of a commit, in the latest version.
pub fn encode(
    actor: &str,
    correlation: Option<JobId>,
    causation: Option<u64>,
    entry: &Entry,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(&mut bytes, actor, correlation, causation, entry);
    bytes
}

/// The same, behind what `bytes` holds.
pub fn encode_into(
    bytes: &mut Vec<u8>,
    actor: &str,
    correlation: Option<JobId>,
    causation: Option<u64>,
    entry: &Entry,
) {
    let payload = PayloadRef { actor, correlation, causation, entry };
    bincode::serde::encode_into_std_write(payload, bytes, bincode::config::standard())
        .expect("a commit is plain data and writes to memory");
}

/// The record that a new commit becomes.
pub(crate) fn draft(commit: &NewCommit) -> Draft {
    let NewCommit { stream, expected_seq, at, actor, correlation, causation, entry } = commit;
    Draft {
        stream: stream_key(*stream),
        expected_seq: *expected_seq,
        at_ms: at.as_millis(),
        version: VERSION,
        payload: encode(actor, *correlation, *causation, entry),
    }
}

/// The commit of a record, whatever version it was written in.
///
/// # Errors
/// [`StoreError::Unsupported`] for a later version, [`StoreError::Damaged`] for bytes that are no
/// payload of their version, or not one of the record's stream.
pub fn decode(record: &Record<'_>) -> Result<Commit, StoreError> {
    let Payload { actor, correlation, causation, entry } = match record.version {
        1 => exact::<v1::Payload>(record)?.into(),
        2 => exact::<Payload>(record)?,
        version => {
            let global = record.global;
            return Err(StoreError::Unsupported { global, version, supported: VERSION });
        }
    };
    let stream = stream_id(record.stream).filter(|stream| stream.kind == entry.kind());
    let stream = stream.ok_or_else(|| {
        let what = format!("a {} entry in stream {}", entry.kind().name(), record.stream);
        damaged(record, what)
    })?;
    Ok(Commit {
        stream,
        seq: record.seq,
        global: record.global,
        at: Timestamp::from_millis(record.at_ms),
        actor,
        correlation,
        causation,
        entry,
    })
}

/// Decodes a payload, all of its bytes.
fn exact<T: DeserializeOwned>(record: &Record<'_>) -> Result<T, StoreError> {
    let config = bincode::config::standard().with_limit::<RECORD_BYTES_MAX>();
    let (payload, read) = bincode::serde::decode_from_slice(record.payload, config)
        .map_err(|error| damaged(record, error))?;
    if read == record.payload.len() {
        Ok(payload)
    } else {
        Err(damaged(record, format!("{} bytes are left over", record.payload.len() - read)))
    }
}

fn damaged(record: &Record<'_>, what: impl std::fmt::Display) -> StoreError {
    let place = format!("payload of commit {}, version {}", record.global, record.version);
    StoreError::damaged(place, what)
}

/// A stream as the byte level knows it: kinds by their number.
pub(crate) fn stream_key(stream: StreamId) -> StreamKey {
    StreamKey { kind: stream.kind as u8, id: stream.id }
}

/// A stream as the domain knows it; `None` for a kind that this build does not know.
pub(crate) fn stream_id(stream: StreamKey) -> Option<StreamId> {
    let kind = *Kind::ALL.get(usize::from(stream.kind))?;
    Some(StreamId { kind, id: stream.id })
}
