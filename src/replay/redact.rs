//! A log without names, addresses and free texts, which still replays and verifies as the whole one does.
//!
//! A command's texts are replaced by [pseudonyms](super::pseudonyms). What it causes is then decided again
//! from the state that the pseudonyms lead to, rather than replaced as well: a job id that follows from its
//! VM's id, or a reason that quotes a failure, comes out as it must. Events that this build would not
//! decide are replaced one text at a time, and stay what they were: not as decided.

use super::past::{Past, plain};
use super::pseudonyms::{Pseudonyms, Unveilable};
use crate::domain::catalogue::Code;
use crate::domain::entity::{Commit, Entry, StreamId};
use crate::domain::failure::Classified;
use crate::domain::id::JobId;
use serde_json::Value;
use thiserror::Error;
use uuid::Uuid;

/// Why a commit cannot be told without its texts.
#[derive(Debug, Error)]
pub enum RedactError {
    /// It holds something that has no pseudonym.
    #[error("redact commit {global}")]
    Unveilable {
        /// Its position.
        global: u64,
        /// What.
        #[source]
        source: Unveilable,
    },
    /// With pseudonyms it is no commit any more.
    #[error("redact commit {global}")]
    Unreadable {
        /// Its position.
        global: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Classified for RedactError {
    fn code(&self) -> Code {
        Code::EventLogFailed
    }
}

/// Redacts a log, commit by commit from its first.
#[derive(Debug)]
pub struct Redactor {
    pseudonyms: Pseudonyms,
    /// As it was.
    seen: Past,
    /// The same behind pseudonyms.
    veiled: Past,
}

impl Redactor {
    /// A redactor with a random key. Whoever has the key can tell whether a text that they guess was in the
    /// log; the same key gives the same pseudonyms.
    pub fn new(key: [u8; 32]) -> Self {
        let pseudonyms = Pseudonyms::new(key);
        Self { pseudonyms, seen: Past::default(), veiled: Past::default() }
    }

    /// The next commit without its texts.
    ///
    /// # Errors
    /// [`RedactError`].
    pub fn redact(&mut self, commit: &Commit) -> Result<Commit, RedactError> {
        let as_decided = self.seen.apply_decided_again(commit).is_ok();
        let id = self.pseudonyms.id(commit.stream.id);
        let replaced = self.veil(commit, &commit.entry)?;
        let mut veiled = Commit {
            stream: StreamId { kind: commit.stream.kind, id },
            actor: self.pseudonyms.actor(&commit.actor),
            correlation: commit.correlation.map(|job| JobId(self.pseudonyms.id(job.0))),
            entry: replaced,
            ..commit.clone()
        };
        if as_decided
            && let Ok(decided) = self.veiled.decide(&veiled)
            && same_shape(&plain(&decided), &plain(&commit.entry))
        {
            self.learn(&plain(&commit.entry), &plain(&decided));
            veiled.entry = decided;
        }
        self.veiled.apply(&veiled);
        Ok(veiled)
    }

    fn veil(&self, commit: &Commit, entry: &Entry) -> Result<Entry, RedactError> {
        let global = commit.global;
        let value = self
            .pseudonyms
            .veil(entry)
            .map_err(|source| RedactError::Unveilable { global, source })?;
        serde_json::from_value(value).map_err(|source| RedactError::Unreadable { global, source })
    }

    /// Remembers ids that came out of decisions.
    fn learn(&mut self, was: &Value, is: &Value) {
        match (was, is) {
            (Value::Object(was), Value::Object(is)) => {
                was.values().zip(is.values()).for_each(|(was, is)| self.learn(was, is));
            }
            (Value::Array(was), Value::Array(is)) => {
                was.iter().zip(is).for_each(|(was, is)| self.learn(was, is));
            }
            (Value::String(was), Value::String(is)) => {
                if let (Ok(was), Ok(is)) = (Uuid::parse_str(was), Uuid::parse_str(is))
                    && self.pseudonyms.id(was) != is
                {
                    self.pseudonyms.follow(was, is);
                }
            }
            _ => {}
        }
    }
}

/// Whether two values differ in nothing but texts.
fn same_shape(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| {
                    other.get(key).is_some_and(|other| same_shape(value, other))
                })
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| same_shape(one, other))
        }
        (Value::String(_), Value::String(_)) => true,
        _ => one == other,
    }
}
