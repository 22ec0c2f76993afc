//! How much room the logs take, and when they have taken too much.

use crate::domain::catalogue::Code;
use crate::domain::failure::Classified;
use crate::domain::time::Timestamp;
use std::path::PathBuf;
use thiserror::Error;

/// Logs of a disk that reach this share of its size end tracking: comparing the disk with its replica
/// is cheaper than to ship so much. Source: Hyper-V Replica marks a VM for resynchronization when its
/// logs reach 50 % of the disk.
const LIMIT_SHARE: u64 = 2;

/// Logs up to this size are always kept: half of a disk of 8 MiB, smaller than that of any real one.
const LIMIT_BYTES_MIN: u64 = 4 << 20;

/// From 40 % on, a log is compacted: early enough to be done before 50 %.
const COMPACT_PERCENT: u64 = 40;

/// The time constant of the mean rate of growth: ten cycles of 30 s, so that the saw teeth of cuts and
/// shipments cancel out.
const RATE_TIME_CONSTANT_S: f64 = 300.0;

/// A forecast that is further away than this is none: 30 days.
const FORECAST_MS_MAX: f64 = 30.0 * 86_400_000.0;

/// Free space below which the volume counts as low: 64 MiB, some seconds of a guest that writes much,
/// or 1 % of the VM's disks, a fiftieth of what its logs may take.
const LOW_BYTES_MIN: u64 = 64 << 20;
const LOW_SHARE: u64 = 100;

/// A volume that was low has room again from a quarter more on: what is freed and taken around the mark is told once.
const ROOM_AGAIN_SHARE: u64 = 4;

/// What a cut needs for its own files: two blocks a log, its state, and some slack.
const CUT_BYTES_PER_DISK: u64 = 256 << 10;

/// The volume of the logs is short of space.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "keep replication logs in {folder}: {free_bytes} bytes are free, {needed_bytes} are needed"
)]
pub struct LowSpace {
    /// Where the logs are.
    pub folder: PathBuf,
    /// What is free for this process.
    pub free_bytes: u64,
    /// What should be.
    pub needed_bytes: u64,
}

impl Classified for LowSpace {
    fn code(&self) -> Code {
        Code::LogVolumeFull
    }
}

/// The size of logs at which a disk must be resynchronized.
pub(super) fn limit_bytes(disk_bytes: u64) -> u64 {
    (disk_bytes / LIMIT_SHARE).max(LIMIT_BYTES_MIN)
}

/// The size of logs from which they are compacted.
pub(super) fn compact_bytes(disk_bytes: u64) -> u64 {
    limit_bytes(disk_bytes) / 100 * (COMPACT_PERCENT * LIMIT_SHARE)
}

/// By how much logs have to grow before one that is large is compacted again: each time reads it as a whole. Three
/// times between 40 % and 50 %.
pub(super) fn compact_again_bytes(disk_bytes: u64) -> u64 {
    limit_bytes(disk_bytes) / 16
}

/// What should be free on the volume of the logs of disks of so many bytes in all, and, where it was low, for it not
/// to be low any more.
pub(super) fn low_bytes(disks_bytes: u64, was_low: bool) -> u64 {
    let needed = (disks_bytes / LOW_SHARE).max(LOW_BYTES_MIN);
    if was_low { needed + needed / ROOM_AGAIN_SHARE } else { needed }
}

/// What must be free for a cut of so many disks.
pub(super) fn cut_bytes(disks: usize) -> u64 {
    CUT_BYTES_PER_DISK * disks as u64
}

/// How fast the logs of a disk grow: an exponentially weighted mean over the times it was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    last: Option<(Timestamp, u64)>,
    /// The weighted sum of bytes per millisecond, and of the weights.
    sum: f64,
    weight: f64,
}

impl Growth {
    /// Enters what the logs take; answers when they will reach `limit` at the mean rate.
    pub(super) fn forecast(&mut self, now: Timestamp, bytes: u64, limit: u64) -> Option<Timestamp> {
        self.enter(now, bytes);
        let rate = if 0.0 < self.weight { self.sum / self.weight } else { 0.0 };
        if limit <= bytes || rate <= 0.0 {
            return None;
        }
        let left_ms = (limit - bytes) as f64 / rate;
        let at = || Timestamp::from_millis(now.as_millis().saturating_add(left_ms as i64));
        (left_ms <= FORECAST_MS_MAX).then(at)
    }

    fn enter(&mut self, now: Timestamp, bytes: u64) {
        if let Some((before, last_bytes)) = self.last {
            let elapsed_ms = now.as_millis().saturating_sub(before.as_millis()) as f64;
            if elapsed_ms <= 0.0 {
                return;
            }
            let kept = (-elapsed_ms / (RATE_TIME_CONSTANT_S * 1000.0)).exp();
            let rate = (bytes as f64 - last_bytes as f64) / elapsed_ms;
            self.sum = self.sum * kept + rate * (1.0 - kept);
            self.weight = self.weight * kept + (1.0 - kept);
        }
        self.last = Some((now, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn steady_growth_is_forecast_from_the_second_look_on() {
        let mut growth = Growth::default();
        assert_eq!(growth.forecast(at(0), 0, 10_000), None);
        for second in 1..100 {
            let forecast = growth.forecast(at(second), second as u64 * 10, 10_000);
            let error = forecast.map(|found| found.as_millis() - 1_000_000);
            assert!(error.is_some_and(|error| error.abs() < 100), "{second}: {error:?}");
        }
    }

    #[test]
    fn saw_teeth_and_silence_are_no_growth() {
        let mut growth = Growth::default();
        for second in 0..3000 {
            growth.forecast(at(second), (second % 30) as u64, 1 << 40);
        }
        assert_eq!(growth.forecast(at(3000), 0, 1 << 40), None);
        assert_eq!(growth.forecast(at(40_000), 0, 1 << 40), None);
        assert_eq!(growth.forecast(at(40_000), 5, 1 << 40), None, "a clock that stands still");
    }

    #[test]
    fn limits_follow_the_disk_and_have_a_floor() {
        assert_eq!(limit_bytes(1 << 30), 1 << 29);
        assert_eq!(limit_bytes(4096), LIMIT_BYTES_MIN);
        assert_eq!(compact_bytes(1000 << 20), 400 << 20);
        assert_eq!(low_bytes(1 << 20, false), LOW_BYTES_MIN);
        assert_eq!(low_bytes(100 << 30, false), 1 << 30);
        assert_eq!(low_bytes(100 << 30, true), (1 << 30) + (256 << 20));
    }
}
