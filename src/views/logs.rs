//! The replication logs of a VM: what they take, and when that will be too much.

use serde::{Deserialize, Serialize};

/// Logs below this share of their disk come and go with each delta: a forecast from them is noise.
const FORECAST_SHARE_MIN: f64 = 0.05;

/// A forecast that is further away needs nobody's attention: a day.
const FORECAST_SECONDS_MAX: f64 = 86_400.0;

/// The replication logs of a VM's disks, in transit included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogsView {
    /// What they take on their volume.
    pub bytes: u64,
    /// What they take of the disk of which they take most; at 0.5 the VM has to be resynchronized.
    pub share: f64,
    /// When that is reached at the present rate, if they grow.
    pub half_full_in_seconds: Option<f64>,
}

impl LogsView {
    /// That they will be too large, where somebody should know of it before it is too late.
    pub fn warning(&self) -> Option<String> {
        self.half_full_in_seconds
            .filter(|seconds| *seconds <= FORECAST_SECONDS_MAX)
            .filter(|_| FORECAST_SHARE_MIN <= self.share)
            .map(|seconds| {
                format!("log half full in {}, then a resynchronization", in_words(seconds))
            })
    }
}

fn in_words(seconds: f64) -> String {
    let minutes = (seconds / 60.0) as u64;
    match minutes {
        0 => format!("{} s", seconds as u64),
        1..120 => format!("{minutes} min"),
        _ => format!("{} h", minutes / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_told_once_logs_have_grown() {
        let mut logs = LogsView { share: 0.2, ..LogsView::default() };
        assert_eq!(logs.warning(), None);
        for (seconds, said) in [(43.0 * 60.0, "43 min"), (20.0, "20 s"), (7200.0, "2 h")] {
            logs.half_full_in_seconds = Some(seconds);
            let expected = format!("log half full in {said}, then a resynchronization");
            assert_eq!(logs.warning(), Some(expected));
        }
        logs.half_full_in_seconds = Some(100_000.0);
        assert_eq!(logs.warning(), None);
        logs = LogsView { share: 0.01, half_full_in_seconds: Some(60.0), ..logs };
        assert_eq!(logs.warning(), None);
    }
}
