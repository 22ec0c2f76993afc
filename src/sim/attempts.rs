//! Attempts of failed work against the schedule: which the retry class planned, and what became of each.

use crate::domain::catalogue::{self, Code};
use crate::domain::time::Timestamp;
use crate::domain::vm::{Event, RetryReason};
use serde::Serialize;
use std::collections::BTreeMap;

/// Attempts after one kind of failure at one place of the schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetryReport {
    /// The catalogue entry of the failure.
    pub failure: &'static str,
    /// How long after the first failure they were planned, in milliseconds; `None` where the class plans none,
    /// since an administrator must act.
    pub planned_ms: Option<u64>,
    /// How many were planned, or asked for of an administrator.
    pub times: u64,
    /// Made at their time.
    pub on_time: u64,
    /// Made before it, since the cause was seen to end.
    pub cause_ended: u64,
    /// Made when somebody asked for it.
    pub by_hand: u64,
    /// Never made: other work took the place of what had failed, or the run ended.
    pub left_out: u64,
    /// The earliest and the latest that was made, in milliseconds after the first failure.
    pub made_ms: Option<[u64; 2]>,
}

impl RetryReport {
    const fn new((failure, planned_ms): Place) -> Self {
        Self {
            failure,
            planned_ms,
            times: 0,
            on_time: 0,
            cause_ended: 0,
            by_hand: 0,
            left_out: 0,
            made_ms: None,
        }
    }

    fn made(&mut self, early: Option<&RetryReason>, after_ms: u64) {
        match early {
            None => self.on_time += 1,
            Some(RetryReason::CauseEnded(_)) => self.cause_ended += 1,
            Some(RetryReason::Administrator) => self.by_hand += 1,
        }
        self.made_between([after_ms; 2]);
    }

    fn made_between(&mut self, [first, last]: [u64; 2]) {
        let [earliest, latest] = self.made_ms.unwrap_or([first, last]);
        self.made_ms = Some([earliest.min(first), latest.max(last)]);
    }

    fn join(&mut self, other: &Self) {
        self.times += other.times;
        self.on_time += other.on_time;
        self.cause_ended += other.cause_ended;
        self.by_hand += other.by_hand;
        self.left_out += other.left_out;
        if let Some(made) = other.made_ms {
            self.made_between(made);
        }
    }
}

/// Attempts of several VMs or runs as one table, by failure and then by schedule.
pub(super) fn joined<'a>(all: impl Iterator<Item = &'a RetryReport>) -> Vec<RetryReport> {
    let mut places: BTreeMap<Place, RetryReport> = BTreeMap::new();
    for one in all {
        let place = (one.failure, one.planned_ms);
        places.entry(place).or_insert(RetryReport::new(place)).join(one);
    }
    places.into_values().collect()
}

/// A failure, and how long after the first the attempt is planned.
type Place = (&'static str, Option<u64>);

/// What is known of the attempts of a VM.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempts {
    places: BTreeMap<Place, RetryReport>,
    /// When the present work failed first: by the wall clock, and in milliseconds of the run.
    failed_first: Option<(Timestamp, u64)>,
    /// When tracking was lost first since the replica was in step: attempts to begin it again count from there.
    lost_first: Option<(Timestamp, u64)>,
    /// The attempt that is waited for, and from when it counts.
    waits: Option<(Place, u64)>,
}

impl Attempts {
    /// What an event at `now_ms` of the run tells of them.
    pub(super) fn note(&mut self, event: &Event, at: Timestamp, now_ms: u64) {
        match event {
            Event::RetryScheduled { due, because, .. } => {
                let first = if because.code == Code::TrackingLostAgain {
                    self.lost_first
                } else {
                    Some(*self.failed_first.get_or_insert((at, now_ms)))
                };
                let (since, since_ms) = first.unwrap_or((at, now_ms));
                let planned_ms = due.since(since).as_millis() as u64;
                self.plan((catalogue::entry(because.code).id, Some(planned_ms)), since_ms);
            }
            Event::AdministratorNeeded { because, .. } => {
                let (_, since_ms) = *self.failed_first.get_or_insert((at, now_ms));
                self.plan((catalogue::entry(because.code).id, None), since_ms);
            }
            Event::RetryStarted { early, .. } => {
                if let Some((place, since_ms)) = self.waits.take() {
                    let after_ms = now_ms.saturating_sub(since_ms);
                    self.at(place).made(early.as_ref(), after_ms);
                }
            }
            Event::MarkedForResync { .. } => {
                self.lost_first.get_or_insert((at, now_ms));
                self.end();
            }
            Event::Protected => self.lost_first = None,
            _ => {}
        }
    }

    /// Nothing is in trouble any more, or the run is over: what is waited for will not be made.
    pub(super) fn end(&mut self) {
        self.failed_first = None;
        if let Some((place, _)) = self.waits.take() {
            self.at(place).left_out += 1;
        }
    }

    pub(super) fn reports(&self) -> impl Iterator<Item = &RetryReport> {
        self.places.values()
    }

    fn plan(&mut self, place: Place, since_ms: u64) {
        if let Some((earlier, _)) = self.waits.replace((place, since_ms)) {
            self.at(earlier).left_out += 1;
        }
        self.at(place).times += 1;
    }

    fn at(&mut self, place: Place) -> &mut RetryReport {
        self.places.entry(place).or_insert(RetryReport::new(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::failure::{Cause, Failure};
    use crate::domain::vm::Work;

    const MINUTE: u64 = 60_000;

    fn scheduled(attempt: u32, due_ms: u64) -> Event {
        Event::RetryScheduled {
            work: Work::Snapshot { cycle: 1 },
            attempt,
            due: Timestamp::from_millis(due_ms as i64),
            because: Failure::new(Code::LinkDown, Cause::Itself, ""),
        }
    }

    fn note(attempts: &mut Attempts, event: &Event, at_ms: u64) {
        attempts.note(event, Timestamp::from_millis(at_ms as i64), at_ms);
    }

    fn started(early: Option<RetryReason>) -> Event {
        Event::RetryStarted { attempt: 1, early }
    }

    #[test]
    fn each_attempt_stands_at_its_place_in_the_schedule_with_what_became_of_it() {
        let mut attempts = Attempts::default();
        note(&mut attempts, &scheduled(1, 5_000 + MINUTE), 5_000);
        note(&mut attempts, &started(None), 5_000 + MINUTE);
        note(&mut attempts, &scheduled(2, 5_000 + 2 * MINUTE), 7_000 + MINUTE);
        let ended = RetryReason::CauseEnded(Cause::Itself);
        note(&mut attempts, &started(Some(ended)), 25_000 + MINUTE);
        note(&mut attempts, &scheduled(3, 5_000 + 2 * MINUTE), 26_000 + MINUTE);
        attempts.end();
        let told: Vec<_> = attempts
            .reports()
            .map(|it| {
                (it.planned_ms, it.times, it.on_time, it.cause_ended, it.left_out, it.made_ms)
            })
            .collect();
        let expected = [
            (Some(MINUTE), 1, 1, 0, 0, Some([MINUTE; 2])),
            (Some(2 * MINUTE), 2, 0, 1, 1, Some([MINUTE + 20_000; 2])),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn tables_are_added_up_place_by_place() {
        let mut one = Attempts::default();
        note(&mut one, &scheduled(1, MINUTE), 0);
        note(&mut one, &started(None), MINUTE);
        let mut other = Attempts::default();
        note(&mut other, &scheduled(1, MINUTE), 0);
        note(&mut other, &started(Some(RetryReason::Administrator)), 1_000);
        let both = joined(one.reports().chain(other.reports()));
        assert_eq!(both.len(), 1);
        assert_eq!((both[0].times, both[0].on_time, both[0].by_hand), (2, 1, 1));
        assert_eq!(both[0].made_ms, Some([1_000, MINUTE]));
    }
}
