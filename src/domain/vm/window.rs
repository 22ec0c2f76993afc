//! When a resynchronization may begin by itself: outside office hours, since it reads whole disks.
//!
//! The window is a time of day at the site. The domain knows moments only, so the window carries the
//! site's distance to UTC.

use crate::domain::entity::Rejection;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

const MINUTE_MS: i64 = 60_000;
const DAY_MINUTES: i64 = 24 * 60;
const DAY_MS: i64 = DAY_MINUTES * MINUTE_MS;

/// Farthest from UTC that a clock on Earth is: UTC+14 and UTC-12, and room for oddities.
const OFFSET_MAX: i16 = 18 * 60;

/// When a resynchronization may begin by itself. One that has begun goes on when the window ends, also
/// where it has to begin again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResyncWindow {
    /// At once.
    #[default]
    Always,
    /// Never: an operator asks for it.
    Manual,
    /// From a time of the day to another.
    Daily {
        /// Where it begins, in minutes after local midnight, 0 to 1439.
        from_minute: u16,
        /// Where it ends, excluded, likewise. Before `from_minute` it is on the next day; equal to it,
        /// the window is the whole day.
        to_minute: u16,
        /// What local time is ahead of UTC, in minutes; west of Greenwich it is negative.
        utc_offset_minutes: i16,
    },
}

impl ResyncWindow {
    /// The longest wait for a window that opens every day.
    pub const LONGEST_WAIT: Duration = Duration::from_hours(24);

    /// Checks every range.
    ///
    /// # Errors
    /// [`Rejection::OutOfRange`] naming the first value that is outside.
    pub fn check(&self) -> Result<(), Rejection> {
        let Self::Daily { from_minute, to_minute, utc_offset_minutes } = *self else {
            return Ok(());
        };
        let outside =
            |what, value: String, allowed| Err(Rejection::OutOfRange { what, value, allowed });
        for minute in [from_minute, to_minute] {
            if DAY_MINUTES <= i64::from(minute) {
                let allowed = "a minute of the day, from 0 to 1439";
                return outside("resync window", minute.to_string(), allowed);
            }
        }
        if !(-OFFSET_MAX..=OFFSET_MAX).contains(&utc_offset_minutes) {
            let allowed = "from -1080 to 1080";
            return outside("utc_offset_minutes", utc_offset_minutes.to_string(), allowed);
        }
        Ok(())
    }

    /// Whether they are the same for who reads a clock at the site.
    pub fn is_same_by_local_time(self, other: Self) -> bool {
        let times = |window| match window {
            Self::Daily { from_minute, to_minute, .. } => Some((from_minute, to_minute)),
            Self::Always | Self::Manual => None,
        };
        self == other || times(self).is_some_and(|own| times(other) == Some(own))
    }

    /// When a resynchronization may begin that is called for at `now`: `now` itself inside the window.
    pub fn opens(&self, now: Timestamp) -> Opening {
        let Self::Daily { from_minute, to_minute, utc_offset_minutes } = *self else {
            return if *self == Self::Always { Opening::At(now) } else { Opening::ByHand };
        };
        let offset_ms = i64::from(utc_offset_minutes) * MINUTE_MS;
        let now_of_day = now.as_millis().saturating_add(offset_ms).rem_euclid(DAY_MS);
        let from_ms = i64::from(from_minute) * MINUTE_MS;
        let to_ms = i64::from(to_minute) * MINUTE_MS;
        let length_ms = match (to_ms - from_ms).rem_euclid(DAY_MS) {
            0 => DAY_MS,
            length_ms => length_ms,
        };
        let since_opening = (now_of_day - from_ms).rem_euclid(DAY_MS);
        if since_opening < length_ms {
            return Opening::At(now);
        }
        let wait_ms = DAY_MS - since_opening;
        Opening::At(Timestamp::from_millis(now.as_millis().saturating_add(wait_ms)))
    }
}

/// When a resynchronization may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    /// Then.
    At(Timestamp),
    /// When an operator asks for it.
    ByHand,
}

impl fmt::Display for ResyncWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Daily { from_minute, to_minute, utc_offset_minutes } = *self else {
            return f.write_str(if *self == Self::Always { "always" } else { "manual" });
        };
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let sign = if utc_offset_minutes < 0 { '-' } else { '+' };
        let offset = clock(utc_offset_minutes.unsigned_abs());
        write!(f, "{}-{} (UTC{sign}{offset})", clock(from_minute), clock(to_minute))
    }
}
