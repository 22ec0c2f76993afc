//! Application-consistent points: when a guest is asked to come to rest.

use crate::domain::failure::Failure;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where application-consistent points stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiescence {
    /// The cycle for which the guest is to be quiesced.
    pub requested: Option<u64>,
    /// When the cycle began that was application-consistent last.
    pub reached_at: Option<Timestamp>,
    /// When the cycle began for which it was last tried in vain since, and why.
    pub missed: Option<(Timestamp, Failure)>,
}

impl Quiescence {
    /// Time between two attempts to quiesce a guest that cannot be: a guest that has to be waited for
    /// must not be in every cycle.
    const RETRY: Duration = Duration::from_mins(15);

    /// No application-consistent points are wanted: those that were missed are no concern any more.
    pub(super) fn asks_no_more(&mut self) {
        (self.requested, self.missed) = (None, None);
    }

    pub(super) fn is_due(&self, every: Duration, now: Timestamp) -> bool {
        // A moment in the future is one from before the clock was set back.
        let over = |since: Timestamp, time| now < since || time <= now.since(since);
        self.reached_at.is_none_or(|at| over(at, every))
            && self.missed.as_ref().is_none_or(|(at, _)| over(*at, Self::RETRY))
    }
}
