//! Scripts and gates of recovery plans, in a simulation: they take a while, and succeed unless the
//! scenario says otherwise.

use super::outside::Outside;
use crate::domain::plan::Probe;
use crate::ports::actions::{Actions, Ended};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How long a script and an answer to a probe take, in milliseconds.
const SCRIPT_MS: (u64, u64) = (500, 20_000);
const PROBE_MS: (u64, u64) = (5, 200);

pub(super) struct Errands(pub(super) Arc<Outside>);

impl Errands {
    async fn take(&self, what: &str, (low, high): (u64, u64), at_most: Duration) -> bool {
        let ms = self.0.dice.between(what, low, high);
        sleep(Duration::from_millis(ms).min(at_most)).await;
        Duration::from_millis(ms) < at_most
    }
}

#[async_trait]
impl Actions for Errands {
    async fn run(&self, command: &[String], _: &str, at_most: Duration) -> Ended {
        let what = command.join(" ");
        let in_time = self.take(&what, SCRIPT_MS, at_most).await;
        let failure = match (in_time, self.0.storage.weather().scripts_fail) {
            (false, _) => Some("it took too long and was killed".to_owned()),
            (true, true) => Some("it ended with exit status: 1".to_owned()),
            (true, false) => None,
        };
        Ended { output: format!("{what} was run"), failure }
    }

    async fn probe(&self, _: &Probe, at_most: Duration) -> Result<(), String> {
        let in_time = self.take("probe", PROBE_MS, at_most).await;
        if in_time && !self.0.storage.weather().gates_shut {
            return Ok(());
        }
        Err("nothing answers".to_owned())
    }
}
