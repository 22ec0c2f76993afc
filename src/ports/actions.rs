//! The actions port: what a recovery plan does beside its VMs.

use crate::domain::plan::Probe;
use async_trait::async_trait;
use std::time::Duration;

/// What came of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The end of what it printed, at most [`OUTPUT_MAX`] bytes.
    pub output: String,
    /// Why it counts as failed, if it does.
    pub failure: Option<String>,
}

/// Bytes of a script's output that are kept: its last ones.
pub const OUTPUT_MAX: usize = 4096;

/// Scripts and probes.
#[async_trait]
pub trait Actions: Send + Sync {
    /// Runs a program with `context` as its standard input, and ends it and all that it started after
    /// `at_most`. May be called again for a program that was cut off by a crash of the service: scripts
    /// have to be repeatable.
    async fn run(&self, command: &[String], context: &str, at_most: Duration) -> Ended;

    /// Asks a probe once.
    ///
    /// # Errors
    /// Why it does not succeed, in words.
    async fn probe(&self, probe: &Probe, at_most: Duration) -> Result<(), String>;
}
