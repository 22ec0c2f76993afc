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

impl Level {
    /// The number of the window that a moment lies in.
    fn number(self, at: Timestamp) -> i64 {
        at.as_millis().div_euclid(self.window.as_millis() as i64)
    }

    /// Whether all of the window that a moment lies in is as old as the level.
    fn is_over(self, at: Timestamp, now: Timestamp) -> bool {
        if now.since(at) < self.from {
            return false;
        }
        let end = self.number(at).saturating_add(1).saturating_mul(self.window.as_millis() as i64);
        Timestamp::from_millis(end) <= now && self.from <= now.since(Timestamp::from_millis(end))
    }
}
