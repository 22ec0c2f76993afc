//! The clocks of a run: virtual time that passes, and a wall clock that can be set.

use crate::domain::time::Timestamp;
use crate::ports::clock::Clock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The wall time at which every run begins: 2026-01-05T08:00:00Z, a Monday.
pub const BEGINNING: Timestamp = Timestamp::from_millis(1_767_600_000_000);

/// Nothing stands still.
const RUNNING: i64 = -1;

/// The clock port of a run. Must be made where the run's virtual time passes.
#[derive(Debug)]
pub(super) struct SimClock {
    began: Instant,
    ahead_ms: AtomicI64,
    /// Time that stands still while blocking work is done elsewhere, where virtual time cannot be read.
    frozen_ms: AtomicI64,
}

impl SimClock {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            ahead_ms: AtomicI64::new(0),
            frozen_ms: AtomicI64::new(RUNNING),
        }
    }

    /// Virtual time since the beginning of the run, in milliseconds. Nobody can set it.
    pub(super) fn passed_ms(&self) -> u64 {
        match self.frozen_ms.load(Ordering::SeqCst) {
            RUNNING => (Instant::now() - self.began).as_millis() as u64,
            frozen => frozen as u64,
        }
    }

    /// The moment at which so much virtual time has passed.
    pub(super) fn moment(&self, passed_ms: u64) -> Instant {
        self.began + Duration::from_millis(passed_ms)
    }

    /// Somebody sets the wall clock.
    pub(super) fn set_wall(&self, by_ms: i64) {
        self.ahead_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    pub(super) fn freeze(&self) {
        self.frozen_ms.store(self.passed_ms() as i64, Ordering::SeqCst);
    }

    pub(super) fn thaw(&self) {
        self.frozen_ms.store(RUNNING, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let ahead = self.ahead_ms.load(Ordering::SeqCst);
        Timestamp::from_millis(BEGINNING.as_millis() + self.passed_ms() as i64 + ahead)
    }
}
