//! The one place that reads the system's clock.

#![expect(clippy::disallowed_methods, reason = "this is the adapter that owns the clock")]

use crate::domain::time::Timestamp;
use crate::ports::clock::Clock;

/// The system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(chrono::Utc::now().timestamp_millis())
    }
}
