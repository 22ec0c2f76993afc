//! `lifeboat explain`: an entry of the error catalogue, without any service.

use super::ending::{NOT_FOUND, Refusal};
use super::grid::{Format, show};
use super::{Answer, CommandError};
use crate::domain::catalogue::ENTRIES;
use crate::domain::failure::Class;
use crate::views::FailureView;
use std::fmt::Write;

/// Explain an error: what it is, why it happens, what to do.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its id, as SR-2101
    code: String,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    let entry = ENTRIES.iter().find(|entry| entry.id.eq_ignore_ascii_case(&args.code));
    let entry = entry.ok_or_else(|| {
        Refusal::new(NOT_FOUND, format!("there is no error {}: ids are as SR-2101", args.code))
    })?;
    let view = FailureView::of_entry(entry);
    show(args.output, &serde_json::to_value(&view)?, || Ok(in_words(&view)))?;
    Ok(Answer::Done)
}

fn in_words(entry: &FailureView) -> String {
    let class = match entry.class {
        Class::Recoverable => "recoverable: it is tried again by itself",
        Class::NonRecoverable => "non-recoverable: somebody has to act",
    };
    let mut text = format!("{} {}\n  {:?}, {class}\n", entry.code, entry.title, entry.level);
    let _ = writeln!(text, "  {}", entry.detail);
    text.push_str("possible causes\n");
    for cause in &entry.causes {
        let _ = writeln!(text, "  - {cause}");
    }
    let _ = writeln!(text, "what happens next\n  {}\nwhat to do\n  {}", entry.next, entry.action);
    text
}
