//! What replication did in an interval, as Hyper-V Replica measures it: by default 12 hours that begin at
//! 09:00 and 21:00 local time.
//!
//! Everything is folded from the events of the VM, so a replay gives the same figures. A cycle is missed when
//! the moment of the next one comes and it has not begun: a delta that takes three copy intervals leaves out
//! two. Only time in which deltas are due counts; neither a pause nor a resynchronization misses anything.

use super::{Event, Phase, Vm};
use crate::domain::entity::Rejection;
use crate::domain::job::JobKind;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Hours of an interval. Source: Hyper-V Replica's monitoring interval, an hour to seven days.
const HOURS: RangeInclusive<u16> = 1..=168;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MINUTES: u16 = 24 * 60;

/// Farthest from UTC that local time is told to be, in minutes.
const OFFSET_MAX: i16 = 18 * 60;

/// A VM is in Warning when more than this share of the cycles of an interval was missed. Source: Hyper-V
/// Replica. The share is of all cycles that the interval has room for: of those due so far, one missed cycle
/// were more than that at the beginning of every interval.
const MISSED_PERCENT_MAX: u64 = 20;

/// A VM is in Warning when its cycles take longer than this on average. Source: Hyper-V Replica.
const LATENCY_MAX: Duration = Duration::from_mins(5);

/// When intervals begin and how long they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticsSchedule {
    /// Hours of an interval, 1 to 168.
    pub hours: u16,
    /// A minute of the day, from local midnight, at which one begins; 0 to 1439. Where a day is no multiple of
    /// an interval, they are counted from 1970-01-01 on.
    pub start_minute: u16,
    /// What local time is ahead of UTC, in minutes; west of Greenwich it is negative.
    pub utc_offset_minutes: i16,
}

impl Default for StatisticsSchedule {
    /// 12 hours, from 09:00, at a site whose clocks show UTC.
    fn default() -> Self {
        Self { hours: 12, start_minute: 9 * 60, utc_offset_minutes: 0 }
    }
}

impl StatisticsSchedule {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Rejection::OutOfRange`] naming the first value that is outside.
    pub fn check(&self) -> Result<(), Rejection> {
        let outside =
            |what, value: String, allowed| Err(Rejection::OutOfRange { what, value, allowed });
        if !HOURS.contains(&self.hours) {
            return outside("interval_h", self.hours.to_string(), "from 1 to 168");
        }
        if DAY_MINUTES <= self.start_minute {
            let allowed = "a minute of the day, from 0 to 1439";
            return outside("start_minute", self.start_minute.to_string(), allowed);
        }
        if !(-OFFSET_MAX..=OFFSET_MAX).contains(&self.utc_offset_minutes) {
            let value = self.utc_offset_minutes.to_string();
            return outside("utc_offset_minutes", value, "from -1080 to 1080");
        }
        Ok(())
    }

    fn length_ms(self) -> i64 {
        i64::from(self.hours.max(1)) * HOUR_MS
    }

    /// The beginning of the interval that a moment is in.
    fn begins(self, at: Timestamp) -> Timestamp {
        let start = i64::from(self.start_minute) - i64::from(self.utc_offset_minutes);
        let into = at.as_millis().saturating_sub(start * MINUTE_MS).rem_euclid(self.length_ms());
        Timestamp::from_millis(at.as_millis().saturating_sub(into))
    }

    fn interval(self, begins: Timestamp, since: Timestamp) -> Interval {
        let ends = Timestamp::from_millis(begins.as_millis().saturating_add(self.length_ms()));
        Interval { begins, ends, since, ..Interval::default() }
    }
}

/// What happened in an interval.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// When it began.
    pub begins: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
    /// Since when it is measured: its beginning, unless replication began later.
    pub since: Timestamp,
    /// Cycles that ended with a recovery point.
    pub successful: u64,
    /// Cycles that did not begin in time.
    pub missed: u64,
    /// Time from the beginning of each successful cycle to its recovery point, summed up, in milliseconds.
    pub latency_ms: u64,
    /// Bytes that the successful cycles stored in the vault.
    pub bytes: u64,
    /// The most that one of them stored.
    pub largest_bytes: u64,
    /// Attempts of any work of the VM that failed.
    pub errors: u64,
    /// When a recovery point was completed last.
    pub last_sent_at: Option<Timestamp>,
}

impl Interval {
    /// Cycles that were due.
    pub const fn total(&self) -> u64 {
        self.successful + self.missed
    }

    /// The average time from the beginning of a cycle to its recovery point.
    pub fn average_latency(&self) -> Option<Duration> {
        self.latency_ms.checked_div(self.successful).map(Duration::from_millis)
    }

    /// The average of what a cycle stored.
    pub fn average_bytes(&self) -> Option<u64> {
        self.bytes.checked_div(self.successful)
    }

    /// The average latency, if it is longer than Normal health allows.
    pub(super) fn too_slow(&self) -> Option<Duration> {
        self.average_latency().filter(|latency| LATENCY_MAX < *latency)
    }

    /// Whether more cycles were missed than Normal health allows, at this frequency.
    pub(super) fn misses_too_many(&self, every: Duration) -> bool {
        let length_ms = self.ends.since(self.begins).as_millis();
        let room = length_ms.checked_div(every.as_millis()).unwrap_or(u128::MAX);
        room * u128::from(MISSED_PERCENT_MAX) < u128::from(self.missed) * 100
    }
}

/// Statistics of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// When intervals begin.
    pub schedule: StatisticsSchedule,
    /// The interval that is being measured, once replication has begun.
    pub current: Option<Interval>,
    /// The one before it.
    pub previous: Option<Interval>,
    /// Bytes of the logs that were cut and are not yet in a recovery point.
    pub cut_bytes: u64,
    /// When the last cycle began, while cycles are due, and how many that followed are counted as missed.
    due_since: Option<(Timestamp, u64)>,
}

impl Statistics {
    /// What they are at `now`, which may be later than the last event.
    fn at(&self, now: Timestamp, every: Duration) -> Self {
        let mut then = self.clone();
        then.pass(now, every);
        then
    }

    /// Time has passed: intervals end, and cycles that should have begun are missed.
    fn pass(&mut self, now: Timestamp, every: Duration) {
        // The present one, the last in which nothing happened, and the next.
        for _ in 0..3 {
            let ends = self.current.as_ref().map(|current| current.ends);
            let Some(ends) = ends.filter(|ends| *ends <= now) else { break };
            self.count_missed(ends, every);
            // Of intervals in which nothing happened only the last is kept.
            let length_ms = self.schedule.length_ms();
            let last_but_one = self.schedule.begins(now).as_millis().saturating_sub(length_ms);
            let begins = self.schedule.begins(ends.max(Timestamp::from_millis(last_but_one)));
            let missed_before = self.missed_by(begins, every);
            if let Some((_, counted)) = &mut self.due_since {
                *counted = (*counted).max(missed_before);
            }
            let next = self.schedule.interval(begins, begins);
            self.previous = self.current.replace(next);
        }
        self.count_missed(now, every);
    }

    /// Cycles that were missed by a moment since the last one began. The first that is due is missed when the
    /// second is.
    fn missed_by(&self, at: Timestamp, every: Duration) -> u64 {
        let Some((since, _)) = self.due_since else { return 0 };
        let [age_ms, every_ms] = [at.since(since), every].map(|span| span.as_millis() as u64);
        age_ms.checked_div(every_ms).unwrap_or(0).saturating_sub(1)
    }

    fn count_missed(&mut self, at: Timestamp, every: Duration) {
        let missed = self.missed_by(at, every);
        let (Some((_, counted)), Some(current)) = (&mut self.due_since, &mut self.current) else {
            return;
        };
        current.missed += missed.saturating_sub(*counted);
        *counted = missed.max(*counted);
    }

    /// Cycles are due from a moment on.
    fn begin(&mut self, at: Timestamp) {
        // An interval that begins in the future is one from before the clock was set back.
        if self.current.as_ref().is_none_or(|current| at < current.begins) {
            self.current = Some(self.schedule.interval(self.schedule.begins(at), at));
        }
        self.due_since = Some((at, 0));
    }
}

impl Vm {
    /// What replication did in the present interval, and in the one before, at `now`.
    pub fn statistics_at(&self, now: Timestamp) -> Statistics {
        self.statistics.at(now, self.policy.copy_frequency())
    }
}

/// What one event makes of the statistics, before it makes anything of the VM.
pub(super) fn apply(vm: &mut Vm, event: &Event, at: Timestamp) {
    let replicated = matches!(vm.phase, Phase::Protected | Phase::FailbackReady);
    let (every, started_at) = (vm.policy.copy_frequency(), vm.delta.started_at);
    let statistics = &mut vm.statistics;
    match event {
        Event::Protected
        | Event::FailbackReady
        | Event::ReplicationResumed
        | Event::CycleStarted { .. } => {
            statistics.pass(at, every);
            statistics.begin(at);
        }
        Event::SnapshotTaken { log_bytes, .. } => statistics.cut_bytes = *log_bytes,
        Event::LogShipped { point } => {
            statistics.cut_bytes = 0;
            statistics.pass(at, every);
            if let (true, Some(current)) = (replicated, &mut statistics.current) {
                current.successful += 1;
                current.latency_ms += at.since(started_at).as_millis() as u64;
                current.bytes += point.bytes;
                current.largest_bytes = current.largest_bytes.max(point.bytes);
                current.last_sent_at = Some(at);
            }
        }
        Event::RetryScheduled { .. } | Event::AdministratorNeeded { .. } => {
            statistics.pass(at, every);
            if let Some(current) = &mut statistics.current {
                current.errors += 1;
            }
        }
        Event::PolicyChanged { .. } => {
            // What is missed by the old frequency is; the new one counts from here on.
            statistics.pass(at, every);
            if let Some(due) = &mut statistics.due_since {
                *due = (at, 0);
            }
        }
        // A test runs beside the deltas; every other job takes their place.
        Event::JobStarted {
            kind: JobKind::TestFailover | JobKind::TestFailoverCleanup, ..
        } => {}
        Event::JobStarted { .. } | Event::ReplicationPaused | Event::MarkedForResync { .. } => {
            statistics.stop(at, every);
        }
        Event::ProtectionDisabled => {
            let schedule = statistics.schedule;
            *statistics = Statistics { schedule, ..Statistics::default() };
        }
        Event::StatisticsScheduleChanged { schedule } => {
            statistics.pass(at, every);
            statistics.schedule = *schedule;
            if let Some(current) = statistics.current.take() {
                statistics.previous = Some(Interval { ends: at, ..current });
                statistics.current = Some(schedule.interval(schedule.begins(at), at));
            }
        }
        _ => {}
    }
}

impl Statistics {
    /// No cycle is due from a moment on.
    fn stop(&mut self, at: Timestamp, every: Duration) {
        self.pass(at, every);
        self.due_since = None;
        self.cut_bytes = 0;
    }
}
