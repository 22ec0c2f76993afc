//! The timers of a site, in the order in which they are due by either clock.

use crate::domain::entity::StreamId;
use crate::domain::time::Timestamp;
use actix::clock::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The longest sleep of whoever waits for a timer: the wall clock may be set while it sleeps.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Identifies a timer; ordered by when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerId {
    /// When, by the wall clock.
    pub due: Timestamp,
    /// Whose.
    pub stream: StreamId,
    /// Tells apart those of one entity.
    pub nth: u64,
}

/// What a timer does when it is due.
pub type Wake = Box<dyn FnOnce() + Send>;

/// A timer is due when the wall clock says so, or when the time has really passed, whichever is
/// first: a clock that is set back must not put a retry off.
#[derive(Default)]
pub struct Timers {
    by_wall: BTreeMap<TimerId, (Instant, Wake)>,
    by_time_passed: BTreeSet<(Instant, TimerId)>,
}

impl Timers {
    /// Sets a timer that is also due once the time `passed_at` has really come.
    pub fn set(&mut self, id: TimerId, passed_at: Instant, wake: Wake) {
        self.by_wall.insert(id, (passed_at, wake));
        self.by_time_passed.insert((passed_at, id));
    }

    /// Takes a timer back.
    pub fn clear(&mut self, id: TimerId) -> Option<Wake> {
        let (passed_at, wake) = self.by_wall.remove(&id)?;
        self.by_time_passed.remove(&(passed_at, id));
        Some(wake)
    }

    /// Takes back all timers of an entity.
    pub fn clear_of(&mut self, stream: StreamId) {
        self.by_wall.retain(|id, _| id.stream != stream);
        self.by_time_passed.retain(|(_, id)| id.stream != stream);
    }

    /// Takes all timers back.
    pub fn clear_all(&mut self) {
        *self = Self::default();
    }

    /// When the next one is due, unless the wall clock is set.
    pub fn next(&self) -> Option<Instant> {
        self.by_time_passed.first().map(|(passed_at, _)| *passed_at)
    }

    /// How long whoever waits for the next timer may sleep.
    pub fn wait_for(next: Instant, now: Instant) -> Duration {
        next.saturating_duration_since(now).min(LOOK_AGAIN)
    }

    /// Takes one that is due.
    pub fn pop_due(&mut self, now: Timestamp, instant: Instant) -> Option<Wake> {
        let by_wall = self.by_wall.keys().next().filter(|id| id.due <= now);
        let by_time_passed = self.by_time_passed.first().filter(|(at, _)| *at <= instant);
        let id = by_wall.or(by_time_passed.map(|(_, id)| id)).copied()?;
        self.clear(id)
    }
}
