//! Moments and durations, as programs read them.

use crate::domain::time::Timestamp;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// A moment that is written as RFC 3339 in UTC, with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Timestamp);

impl From<Timestamp> for Moment {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let millis = match text.strip_suffix("ms") {
            // A moment too far away for a calendar.
            Some(millis) => millis.parse().map_err(D::Error::custom)?,
            None => chrono::DateTime::parse_from_rfc3339(&text)
                .map_err(|_| {
                    D::Error::custom(format!("{text:?} is no moment, as 2026-01-31T22:00:00Z is"))
                })?
                .timestamp_millis(),
        };
        Ok(Self(Timestamp::from_millis(millis)))
    }
}

/// A duration in seconds, to the millisecond.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_back_as_it_was_written() {
        for millis in [0, 1_700_000_000_123, -1, i64::MAX] {
            let moment = Moment(Timestamp::from_millis(millis));
            let text = serde_json::to_string(&moment).expect("a moment is a string");
            let read: Moment = serde_json::from_str(&text).expect("it was written");
            assert_eq!(read, moment, "{text}");
        }
        assert!(serde_json::from_str::<Moment>("\"soon\"").is_err());
    }
}
