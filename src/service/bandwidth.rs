//! `[bandwidth]`: how fast hosts may send, as people write it.

use super::config::times_of_day;
use crate::replication::pace::{Limits, WorkingHours};
use serde::Deserialize;

/// Kilobits, as networks are measured, in bytes.
const BYTES_PER_KBIT: u64 = 1000 / 8;

/// The lowest limit: one that is lower could not keep any VM's replica up.
const MIN_KBPS: u64 = 64;

/// The most uploads of one VM at a time; Site Recovery's limit for `UploadThreadsPerVM`.
const MAX_UPLOADS: usize = 32;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// How fast a host may send.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BandwidthConfig {
    /// The days on which people work: `mon` to `sun`.
    pub work_days: Vec<String>,
    /// The local time in which they do: `HH:MM-HH:MM`.
    pub work_hours: String,
    /// Kilobits a second of each host in working hours; 0 for no limit.
    pub work_kbps: u64,
    /// The same at other times.
    pub other_kbps: u64,
    /// Uploads of one VM at a time.
    pub uploads_per_vm: usize,
}

impl Default for BandwidthConfig {
    fn default() -> Self {
        Self {
            work_days: DAYS[..5].iter().map(ToString::to_string).collect(),
            work_hours: "09:00-18:00".to_owned(),
            work_kbps: 0,
            other_kbps: 0,
            uploads_per_vm: Limits::default().uploads_per_vm,
        }
    }
}

impl BandwidthConfig {
    /// What people read of it.
    pub(super) fn in_words(&self) -> String {
        let limit = |kbps: u64| match kbps {
            0 => "no limit".to_owned(),
            kbps => format!("{kbps} kbit/s"),
        };
        if self.work_kbps == self.other_kbps {
            return limit(self.work_kbps);
        }
        let (days, hours) = (self.work_days.join(","), &self.work_hours);
        format!("{} on {days} {hours}, else {}", limit(self.work_kbps), limit(self.other_kbps))
    }

    /// The limits at a site whose local time is so many minutes ahead of UTC; else the key that is
    /// wrong, and why.
    pub(super) fn limits(&self, utc_offset_minutes: i16) -> Result<Limits, (&'static str, String)> {
        let mut days = [false; 7];
        for name in &self.work_days {
            let day = DAYS.iter().position(|day| day == name);
            let unknown = || ("work_days", format!("has {name:?}: write {}", DAYS.join(", ")));
            days[day.ok_or_else(unknown)?] = true;
        }
        let wrong = || {
            let text = &self.work_hours;
            ("work_hours", format!("is {text:?}, but must be two times of a day, as 09:00-18:00"))
        };
        let (from_minute, to_minute) = times_of_day(&self.work_hours).ok_or_else(wrong)?;
        if !(1..=MAX_UPLOADS).contains(&self.uploads_per_vm) {
            let problem =
                format!("is {}, but must be from 1 to {MAX_UPLOADS}", self.uploads_per_vm);
            return Err(("uploads_per_vm", problem));
        }
        Ok(Limits {
            uploads_per_vm: self.uploads_per_vm,
            working: limit(self.work_kbps).map_err(|problem| ("work_kbps", problem))?,
            otherwise: limit(self.other_kbps).map_err(|problem| ("other_kbps", problem))?,
            hours: WorkingHours { days, from_minute, to_minute, utc_offset_minutes },
        })
    }
}

fn limit(kbps: u64) -> Result<Option<u64>, String> {
    match kbps {
        0 => Ok(None),
        1..MIN_KBPS => {
            Err(format!("is {kbps}, but must be at least {MIN_KBPS}, or 0 for no limit"))
        }
        MIN_KBPS.. => Ok(Some(kbps.saturating_mul(BYTES_PER_KBIT))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_in_kilobits_and_0_is_none() {
        let config = BandwidthConfig { work_kbps: 512, ..BandwidthConfig::default() };
        let limits = config.limits(60).expect("it is right");
        assert_eq!((limits.working, limits.otherwise), (Some(64_000), None));
        assert_eq!(limits.hours, WorkingHours { utc_offset_minutes: 60, ..Default::default() });
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let base = BandwidthConfig::default;
        let cases = [
            (BandwidthConfig { work_days: vec!["Monday".to_owned()], ..base() }, "work_days"),
            (BandwidthConfig { work_hours: "9-18".to_owned(), ..base() }, "work_hours"),
            (BandwidthConfig { work_hours: "09:00-24:00".to_owned(), ..base() }, "work_hours"),
            (BandwidthConfig { work_kbps: 63, ..base() }, "work_kbps"),
            (BandwidthConfig { other_kbps: 1, ..base() }, "other_kbps"),
            (BandwidthConfig { uploads_per_vm: 0, ..base() }, "uploads_per_vm"),
            (BandwidthConfig { uploads_per_vm: 33, ..base() }, "uploads_per_vm"),
        ];
        for (config, expected) in cases {
            assert_eq!(config.limits(0).expect_err("it is wrong").0, expected);
        }
    }
}
