//! What replication of a VM did in the present interval, and in the one before.

use super::{Moment, seconds};
use crate::domain::time::Timestamp;
use crate::domain::vm::{Interval, Vm};
use serde::{Deserialize, Serialize};

/// Statistics of a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatisticsView {
    /// The interval that is being measured.
    pub current: IntervalView,
    /// The one before it.
    pub previous: Option<IntervalView>,
    /// Bytes of the logs that were cut and are in no recovery point yet. What was written since the cut is in
    /// `log_bytes` of the VM, where its host's agent can be asked.
    pub cut_bytes: u64,
}

/// An interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntervalView {
    /// When it began.
    pub begins: Moment,
    /// When it ends, or ended.
    pub ends: Moment,
    /// Since when it is measured.
    pub since: Moment,
    /// Cycles that ended with a recovery point.
    pub successful_cycles: u64,
    /// Cycles that did not begin in time.
    pub missed_cycles: u64,
    /// Cycles that were due.
    pub total_cycles: u64,
    /// The average time from the beginning of a cycle to its recovery point.
    pub average_latency_seconds: Option<f64>,
    /// The average of what a cycle stored in the vault.
    pub average_bytes: Option<u64>,
    /// The most that a cycle stored.
    pub largest_bytes: u64,
    /// Attempts of any work of the VM that failed.
    pub errors: u64,
    /// When a recovery point was completed last.
    pub last_sent_at: Option<Moment>,
}

impl StatisticsView {
    /// Those of a VM at `now`, once its replication has begun.
    pub(super) fn of(vm: &Vm, now: Timestamp) -> Option<Self> {
        let statistics = vm.statistics_at(now);
        Some(Self {
            current: IntervalView::new(&statistics.current?),
            previous: statistics.previous.as_ref().map(IntervalView::new),
            cut_bytes: statistics.cut_bytes,
        })
    }
}

impl IntervalView {
    fn new(interval: &Interval) -> Self {
        Self {
            begins: interval.begins.into(),
            ends: interval.ends.into(),
            since: interval.since.into(),
            successful_cycles: interval.successful,
            missed_cycles: interval.missed,
            total_cycles: interval.total(),
            average_latency_seconds: interval.average_latency().map(seconds),
            average_bytes: interval.average_bytes(),
            largest_bytes: interval.largest_bytes,
            errors: interval.errors,
            last_sent_at: interval.last_sent_at.map(Moment),
        }
    }
}
