//! The one place that reads the system's clock.

#![expect(clippy::disallowed_methods, reason = "this is the adapter that owns the clock")]

use crate::domain::time::Timestamp;
use crate::ports::clock::Clock;

/// The system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// What local time is ahead of UTC, in minutes, at present.
    pub fn utc_offset_minutes() -> i16 {
        (chrono::Local::now().offset().local_minus_utc() / 60) as i16
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(chrono::Utc::now().timestamp_millis())
    }
}
