//! How a command that operates a service ends: each kind of no has an exit code of its own.

use crate::api::Problem;
use std::fmt;

/// The service refused, failed, or does not answer.
pub(super) const FAILED: u8 = 1;
/// The arguments cannot be used.
pub(super) const USAGE: u8 = 2;
/// There is nothing of that name.
pub(super) const NOT_FOUND: u8 = 3;
/// The token was refused.
pub(super) const NOT_ALLOWED: u8 = 4;
/// The state does not allow the operation.
pub(super) const WRONG_STATE: u8 = 5;
/// The job failed, or was cancelled.
pub(super) const JOB_FAILED: u8 = 6;
/// The job waits for somebody.
pub(super) const JOB_WAITS: u8 = 7;
/// The job runs still.
pub(super) const STILL_RUNNING: u8 = 8;
/// `status --exit-code`: something may come to hurt protection.
pub(super) const WARNING: u8 = 10;
/// `status --exit-code`: something is not being protected.
pub(super) const CRITICAL: u8 = 11;

/// Why a command ended without a result, and with which exit code.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) exit_code: u8,
    text: String,
}

impl Refusal {
    pub(super) fn new(exit_code: u8, text: impl fmt::Display) -> Self {
        Self { exit_code, text: text.to_string() }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let exit_code = match problem.status {
            400 | 413 => USAGE,
            401 | 403 => NOT_ALLOWED,
            404 => NOT_FOUND,
            409 => WRONG_STATE,
            _ => FAILED,
        };
        let mut text = format!("{problem}\n  next: {}", problem.next);
        for action in &problem.actions {
            text.push_str("\n  to do: ");
            text.push_str(action);
        }
        Self { exit_code, text }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}
