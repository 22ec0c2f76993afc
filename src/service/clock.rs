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

/// Minutes that local time is ahead of UTC at this moment; summer time counts.
pub(super) fn utc_offset_minutes() -> i16 {
    let seconds = chrono::Local::now().offset().local_minus_utc();
    i16::try_from(seconds / 60).unwrap_or(0)
}
