//! Scripts and probes that keep to what a test says.

use async_trait::async_trait;
use lifeboat::domain::plan::Probe;
use lifeboat::ports::actions::{Actions, Ended};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

/// Every script ends well and every gate is open, but for those that are named.
#[derive(Default)]
pub(crate) struct Steps {
    /// Programs that fail.
    pub(crate) failing: Mutex<BTreeSet<String>>,
    /// Addresses that do not answer.
    pub(crate) shut: Mutex<BTreeSet<String>>,
    /// What was run, with what it was told.
    pub(crate) runs: Mutex<Vec<(Vec<String>, String)>>,
}

#[async_trait]
impl Actions for Steps {
    async fn run(&self, command: &[String], context: &str, _: Duration) -> Ended {
        self.runs.lock().unwrap().push((command.to_vec(), context.to_owned()));
        let fails = command.iter().any(|word| self.failing.lock().unwrap().contains(word));
        let failure = fails.then(|| "it ended with exit status: 1".to_owned());
        Ended { output: format!("{} ran", command.join(" ")), failure }
    }

    async fn probe(&self, probe: &Probe, _: Duration) -> Result<(), String> {
        let Probe::Tcp { address } = probe else { return Ok(()) };
        let shut = self.shut.lock().unwrap().contains(address);
        if shut { Err(format!("connect to {address}: refused")) } else { Ok(()) }
    }
}
