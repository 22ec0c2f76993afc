//! A failure in full: what its catalogue entry says of it.

use crate::domain::catalogue::{self, Entry, Level, ResolvedBy};
use crate::domain::failure::{Class, Failure};
use serde::{Deserialize, Serialize};

/// A failure with all that its entry of the catalogue says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureView {
    /// The id of the entry, as in `SR-2101`.
    pub code: String,
    /// A fact in at most 60 characters.
    pub title: String,
    /// What stopped, for whom.
    pub detail: String,
    /// What the failing component said, word for word.
    pub provider: String,
    /// Whether it is tried again.
    pub class: Class,
    /// How bad it is.
    pub level: Level,
    /// Who ends it.
    pub resolved_by: ResolvedBy,
    /// Possible causes, the likeliest first.
    pub causes: Vec<String>,
    /// What happens if nobody does anything.
    pub next: String,
    /// What to do.
    pub action: String,
}

impl FailureView {
    /// All that the catalogue says of a failure.
    pub fn new(failure: &Failure) -> Self {
        let entry = catalogue::entry(failure.code);
        Self {
            detail: catalogue::render(entry.message, &failure.facts),
            provider: failure.provider.clone(),
            ..Self::of_entry(entry)
        }
    }

    /// What stopped, for whom, and what the failing component said of it.
    pub fn because(&self) -> String {
        if self.provider.is_empty() {
            return self.detail.clone();
        }
        format!("{} ({})", self.detail, self.provider)
    }

    /// What an entry says, whatever it happens to: its message names no facts.
    pub fn of_entry(entry: &Entry) -> Self {
        Self {
            code: entry.id.to_owned(),
            title: entry.title.to_owned(),
            detail: entry.message.to_owned(),
            provider: String::new(),
            class: entry.class,
            level: entry.level,
            resolved_by: entry.resolved_by,
            causes: entry.causes.iter().map(|cause| (*cause).to_owned()).collect(),
            next: entry.next.to_owned(),
            action: entry.action.to_owned(),
        }
    }
}
