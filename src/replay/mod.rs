//! Replay: what was, and why, from the event log alone.
//!
//! ```text
//!  store folder --.
//!  exported log ---+--> History --> Past (every entity as it was) --> at, diff, verify, why, report
//!  simulation ----'
//! ```
//!
//! Everything here is a pure fold over commits: no clock, nothing that is done, and no second idea of what
//! a command causes, which is asked of the entities themselves. Damage is part of what is read: commits
//! before and after it are used, and whatever follows from an incomplete stream says so.

mod checkpoints;
mod difference;
mod history;
mod incident;
mod keeper;
mod page;
mod past;
mod pseudonyms;
mod redact;
pub mod told;
mod verify;
mod what_if;
mod why;
mod words;

pub use checkpoints::{Checkpoints, StatesOfExport};
pub use difference::{Change, between};
pub use history::{Damage, Found, History, HistoryError, Recorded, Seen};
pub use incident::{Attempt, Away, CutLog, FailedOver, Incident, JobSpan, Line, Track, incident};
pub use keeper::keep;
pub use page::{Bars, Part, Table, page, page_of, page_with};
pub use past::{Divergence, Moment, Past};
pub use pseudonyms::Unveilable;
pub use redact::{RedactError, Redactor};
pub use verify::{Diverging, Verification, snapshot_schema, verify};
pub use what_if::{Asked, Comparison, Fate, LATE, Schedule, UNKNOWN, what_if};
pub use why::{Explanation, Link, Question, WhyError, explain};
pub use words::{Titles, bytes, clock, command_in_words, events_in_words, span};
