//! Which recovery points are kept: all of the last hours, then ever fewer.
//!
//! A point of an hour ago is wanted to the second, one of yesterday to some minutes. Time is cut into
//! windows that do not move; once a whole window is older than its level begins, one point of it is left.

use super::time::Timestamp;
use std::time::Duration;

/// From this age on, one point is kept of each window of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The age at which it begins.
    pub from: Duration,
    /// The length of its windows.
    pub window: Duration,
}

/// The levels, the youngest first. Younger points are all kept; how old a point can become is the
/// policy's `recovery_point_retention_h`. Source: levels of 30 s, 5 min and 1 h keep a VM's history of
/// three days in some 570 points, and each takes less room than the one before (data-plane measurements).
pub const LEVELS: [Level; 2] = [
    Level { from: Duration::from_hours(2), window: Duration::from_mins(5) },
    Level { from: Duration::from_hours(24), window: Duration::from_hours(1) },
];

/// A recovery point, as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its cycle.
    pub cycle: u64,
    /// When it was made.
    pub at: Timestamp,
    /// Whether applications had put their data in order.
    pub application_consistent: bool,
}

/// The cycles that the levels let go at `now`, ascending. Of a window its application-consistent points
/// are left, or else its newest.
pub fn thinned_out(points: &[Candidate], now: Timestamp) -> Vec<u64> {
    let window = |point: &Candidate| {
        let level = LEVELS.iter().rev().find(|level| level.is_over(point.at, now))?;
        Some(((level.window, level.number(point.at)), *point))
    };
    let mut windows: Vec<_> = points.iter().filter_map(window).collect();
    // As good as sorted already: points come in the order of their making.
    windows.sort_by_key(|(window, _)| *window);
    let windows = windows.chunk_by(|(one, _), (other, _)| one == other);
    let mut let_go: Vec<u64> = windows.flat_map(let_go_of_window).collect();
    let_go.sort_unstable();
    let_go
}

fn let_go_of_window<W>(points: &[(W, Candidate)]) -> impl Iterator<Item = u64> {
    let newest = points.iter().map(|(_, point)| point.cycle).max();
    let any_consistent = points.iter().any(|(_, point)| point.application_consistent);
    let is_left = move |point: &Candidate| {
        if any_consistent { point.application_consistent } else { Some(point.cycle) == newest }
    };
    let points = points.iter().map(|(_, point)| point);
    points.filter(move |point| !is_left(point)).map(|point| point.cycle)
}

/// From when on the levels can let one of some points go: before that nobody need look. It follows from the
/// points, so it is no part of what makes two states differ, and is never stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct NextThinning(Option<Timestamp>);

impl NextThinning {
    /// That of these points, in the order of their making. Where their times are in another order, a clock was
    /// set back, and it is at any time.
    pub fn of(points: impl Iterator<Item = Candidate> + Clone) -> Self {
        if !points.clone().is_sorted_by_key(|point| point.at) {
            return Self::default();
        }
        let pairs = points.clone().zip(points.skip(1));
        let first_of = |level: Level| {
            // In order, so the first window with two points is the first that is over.
            let mut pairs = pairs.clone();
            let crowded = pairs.find(|(one, other)| {
                let stay = one.application_consistent && other.application_consistent;
                !stay && level.number(one.at) == level.number(other.at)
            });
            crowded.map_or(NEVER, |(one, _)| level.over_at(one.at))
        };
        Self(LEVELS.into_iter().map(first_of).min())
    }

    /// Another point is made after the newest.
    pub fn added(&mut self, newest: Timestamp, at: Timestamp) {
        let Some(due) = self.0 else { return };
        let shared = LEVELS.into_iter().filter(|level| level.number(newest) == level.number(at));
        let earliest = shared.map(|level| level.over_at(at)).min().unwrap_or(NEVER);
        self.0 = (newest <= at).then_some(due.min(earliest));
    }

    /// Those of these points that are worth a look at `now`: in order, the young ones at the end are not.
    pub fn old_enough(
        self,
        points: impl Iterator<Item = Candidate>,
        now: Timestamp,
    ) -> impl Iterator<Item = Candidate> {
        let in_order = self.0.is_some();
        points.take_while(move |point| !in_order || LEVELS[0].from <= now.since(point.at))
    }

    /// Whether the levels may let one go at `now`.
    pub fn is_due(self, now: Timestamp) -> bool {
        self.0.is_none_or(|due| due <= now)
    }
}

impl PartialEq for NextThinning {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for NextThinning {}

/// The far end of time.
const NEVER: Timestamp = Timestamp::from_millis(i64::MAX);

impl Level {
    /// The number of the window that a moment lies in.
    fn number(self, at: Timestamp) -> i64 {
        at.as_millis().div_euclid(self.window.as_millis() as i64)
    }

    /// Whether all of the window that a moment lies in is as old as the level.
    fn is_over(self, at: Timestamp, now: Timestamp) -> bool {
        self.from <= now.since(at) && self.over_at(at) <= now
    }

    /// When all of the window that a moment lies in is as old as the level.
    fn over_at(self, at: Timestamp) -> Timestamp {
        let end = self.number(at).saturating_add(1).saturating_mul(self.window.as_millis() as i64);
        Timestamp::from_millis(end).after(self.from)
    }
}
