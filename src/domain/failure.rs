//! Failures as the domain sees them: an entry of the [catalogue](super::catalogue) with its facts.
//!
//! An adapter turns what it met (an I/O error, a refused request) into a [`Failure`] by choosing a
//! [`Code`]; class, wording and next step follow from the catalogue, never from the place it happened.

use super::catalogue::{self, Code};
use super::id::{HostId, VaultId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What is done about a failure. See the two retry classes of Site Recovery for Hyper-V.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Tried again on the schedule of [`RetryLadder`](super::retry::RetryLadder), for as long as it lasts.
    Recoverable,
    /// Not tried again: the VM is Critical until an administrator acts.
    NonRecoverable,
}

/// The thing whose recovery ends the failure; its return is the signal to retry at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The vault, or the way to it.
    Vault(VaultId),
    /// A host, its agent or its storage.
    Host(HostId),
    /// Nothing that can be watched from outside.
    Itself,
}

/// Bytes kept of a text that a component or an adapter supplies. A failure is part of a commit, whose
/// size is limited, and a server can answer with a page of any length.
const TEXT_BYTES_MAX: usize = 2_000;

fn clipped(text: impl fmt::Display) -> String {
    let mut text = text.to_string();
    if TEXT_BYTES_MAX < text.len() {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

/// One failure: a catalogue code with the facts that its message names.
///
/// Text is rendered when it is read, so an old log gets better words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// The catalogue entry.
    pub code: Code,
    /// What must recover.
    pub cause: Cause,
    /// Values for the `{placeholders}` of the entry's message.
    pub facts: BTreeMap<String, String>,
    /// What the failing component said, word for word; clipped where it is very long.
    pub provider: String,
}

impl Failure {
    /// A failure with what the component said. Add facts with [`Failure::with`].
    pub fn new(code: Code, cause: Cause, provider: impl fmt::Display) -> Self {
        Self { code, cause, facts: BTreeMap::new(), provider: clipped(provider) }
    }

    /// Adds one fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.facts.insert(name.to_owned(), clipped(value));
        self
    }

    /// The retry class, from the catalogue.
    pub fn class(&self) -> Class {
        catalogue::entry(self.code).class
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = catalogue::entry(self.code);
        write!(f, "{} {}", entry.id, catalogue::render(entry.message, &self.facts))?;
        if !self.provider.is_empty() {
            write!(f, " ({})", self.provider)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Characters of a provider's text that are kept: an error that quotes a whole answer must not fill
/// the event log.
const PROVIDER_CHARS_MAX: usize = 1_000;

/// An error with everything that led to it, in one line of bounded length.
pub fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors print their source themselves.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    if let Some((end, _)) = text.char_indices().nth(PROVIDER_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// An error of an adapter that knows which catalogue entry it is.
pub trait Classified: std::error::Error {
    /// The catalogue entry.
    fn code(&self) -> Code;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_end_is_clipped_between_characters() {
        let page = "ä".repeat(100_000);
        let failure = Failure::new(Code::VaultBusy, Cause::Itself, &page).with("target", &page);
        for text in [&failure.provider, &failure.facts["target"]] {
            assert!(text.len() <= TEXT_BYTES_MAX + '…'.len_utf8());
            assert!(text.ends_with("ä…"));
        }
    }
}
