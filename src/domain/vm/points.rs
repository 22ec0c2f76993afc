//! The recovery points of a VM.

use super::{PointChoice, RecoveryPoint};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Deref;

/// As people name it.
impl fmt::Display for PointChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Cycle(cycle) => write!(f, "{cycle}"),
            Self::LatestProcessed => f.write_str("latest-processed"),
            Self::LatestApplicationConsistent => f.write_str("latest-application-consistent"),
        }
    }
}

/// Recovery points, the oldest first, by ascending cycle: a slice that grows at its end. With every delta one
/// expires at the beginning; those that stay are moved up only when as many are gone.
#[derive(Clone, Default)]
pub struct Points {
    all: Vec<RecoveryPoint>,
    /// How many at the beginning are gone.
    gone: usize,
}

impl Points {
    /// Adds the newest.
    pub(super) fn push(&mut self, point: RecoveryPoint) {
        self.all.push(point);
    }

    /// Lets those before a cycle go.
    pub(super) fn expire(&mut self, kept_from_cycle: u64) {
        // From the beginning: as a rule it is one, and a search would look at points all over.
        self.gone += self.iter().take_while(|point| point.cycle < kept_from_cycle).count();
        if self.all.len() <= 2 * self.gone {
            self.all.drain(..self.gone);
            self.gone = 0;
        }
    }

    /// Lets all go but some.
    pub(super) fn retain(&mut self, stays: impl FnMut(&RecoveryPoint) -> bool) {
        self.all.drain(..self.gone);
        self.gone = 0;
        self.all.retain(stays);
    }

    /// Lets all go.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Deref for Points {
    type Target = [RecoveryPoint];

    fn deref(&self) -> &[RecoveryPoint] {
        &self.all[self.gone..]
    }
}

impl From<Vec<RecoveryPoint>> for Points {
    fn from(all: Vec<RecoveryPoint>) -> Self {
        Self { all, gone: 0 }
    }
}

impl PartialEq for Points {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Points {}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// As a list of those that are there.
impl Serialize for Points {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self[..].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Points {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    fn point(cycle: u64) -> RecoveryPoint {
        RecoveryPoint { cycle, at: Timestamp::from_millis(0), bytes: 0 }
    }

    fn cycles(points: &Points) -> Vec<u64> {
        points.iter().map(|point| point.cycle).collect()
    }

    #[test]
    fn points_that_expired_are_seen_by_nobody() {
        let mut points = Points::default();
        for cycle in 1..=10 {
            points.push(point(cycle));
            points.expire(cycle.saturating_sub(2));
        }
        assert_eq!(cycles(&points), [8, 9, 10]);
        assert_eq!(points, Points::from(vec![point(8), point(9), point(10)]));
        points.expire(9);
        points.retain(|point| point.cycle != 9);
        assert_eq!(cycles(&points), [10]);
    }

    #[test]
    fn they_are_stored_as_a_list() {
        let mut points = Points::from((1..=5).map(point).collect::<Vec<_>>());
        points.expire(3);
        let config = bincode::config::standard();
        let stored = bincode::serde::encode_to_vec(&points, config).expect("it has an encoding");
        let list = bincode::serde::encode_to_vec([3, 4, 5].map(point).to_vec(), config);
        assert_eq!(stored, list.expect("it has an encoding"));
        let (read, _): (Points, _) =
            bincode::serde::decode_from_slice(&stored, config).expect("it was written");
        assert_eq!(read, points);
    }
}
