//! The replication policy of a cloud.

use super::entity::Rejection;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a cloud's VMs are replicated. Defaults and ranges follow Site Recovery for Hyper-V; where ours
/// is wider, the field says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Seconds between two deltas. Site Recovery allows 30, 300 and 900; Lifeboat any from 1 to 900.
    pub copy_frequency_s: u32,
    /// Hours for which recovery points are kept, 0 to 72; the older, the fewer are. With 0 only the latest
    /// is kept. Site Recovery allows up to 24.
    pub recovery_point_retention_h: u32,
    /// Hours between application-consistent points, 1 to 12, and less than the retention, so that there is always
    /// one; 0 for none.
    pub app_consistent_frequency_h: u32,
}

impl Default for Policy {
    /// 5 minutes, 2 hours, 1 hour: the defaults of the Site Recovery portal.
    fn default() -> Self {
        Self { copy_frequency_s: 300, recovery_point_retention_h: 2, app_consistent_frequency_h: 1 }
    }
}

impl Policy {
    /// Time between two deltas.
    pub const fn copy_frequency(&self) -> Duration {
        Duration::from_secs(self.copy_frequency_s as u64)
    }

    /// Time between application-consistent points; `None` for none.
    pub const fn app_consistent_frequency(&self) -> Option<Duration> {
        match self.app_consistent_frequency_h {
            0 => None,
            hours => Some(Duration::from_secs(hours as u64 * 3600)),
        }
    }

    /// Time for which recovery points are kept.
    pub const fn retention(&self) -> Duration {
        Duration::from_secs(self.recovery_point_retention_h as u64 * 3600)
    }

    /// Checks every range, and that application-consistent points are made before the last one is let go.
    ///
    /// # Errors
    /// [`Rejection::OutOfRange`] naming the first value that is outside.
    pub fn check(&self) -> Result<(), Rejection> {
        let outside = |what, value: u32, allowed| {
            Err(Rejection::OutOfRange { what, value: value.to_string(), allowed })
        };
        if !(1..=900).contains(&self.copy_frequency_s) {
            return outside("copy_frequency_s", self.copy_frequency_s, "from 1 to 900");
        }
        if 72 < self.recovery_point_retention_h {
            return outside(
                "recovery_point_retention_h",
                self.recovery_point_retention_h,
                "from 0 to 72",
            );
        }
        if 12 < self.app_consistent_frequency_h {
            return outside(
                "app_consistent_frequency_h",
                self.app_consistent_frequency_h,
                "from 1 to 12, or 0 for none",
            );
        }
        if 0 < self.app_consistent_frequency_h
            && self.recovery_point_retention_h <= self.app_consistent_frequency_h
        {
            return outside(
                "app_consistent_frequency_h",
                self.app_consistent_frequency_h,
                "less than recovery_point_retention_h, or 0 for none",
            );
        }
        Ok(())
    }
}
