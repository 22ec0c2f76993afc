//! Compliance: in which share of the time a VM had the recovery point that its policy asks for.
//!
//! It says nothing of the present, which health does. A VM is measured while losing its site would lose what
//! is younger than its newest recovery point: not before it has one, and not at the recovery site.

use crate::domain::time::Timestamp;
use crate::domain::vm::Vm;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// The longest time that is looked back on.
const MONTH: Duration = Duration::from_hours(30 * 24);

/// Spans of one VM that are kept: a month in which it is late once in ten minutes.
const SPANS_KEPT: usize = 4_320;

/// The age up to which a recovery point is as the policy asks: that from which on health warns.
fn target(vm: &Vm) -> Duration {
    (vm.policy.copy_frequency() * 2).max(Duration::from_secs(30))
}

/// The share of the measured time, 0 to 1, in which the newest recovery point was as young as it should be;
/// nothing where nothing was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComplianceView {
    /// Of the last 24 hours.
    pub day_ratio: Option<f64>,
    /// Of the last 7 days.
    pub week_ratio: Option<f64>,
    /// Of the last 30 days.
    pub month_ratio: Option<f64>,
}

/// What was measured of a VM.
#[derive(Clone, Debug, Default)]
pub(super) struct Compliance {
    measured: Spans,
    late: Spans,
    present: Option<Present>,
}

/// What holds since the last look.
#[derive(Clone, Copy, Debug)]
struct Present {
    since: Timestamp,
    late_from: Timestamp,
}

impl Compliance {
    /// Looks at a VM after something has changed.
    pub(super) fn look(&mut self, vm: &Vm, at: Timestamp) {
        self.pass(at);
        let point = vm.latest_point().filter(|_| vm.rpo(at).is_some());
        self.present =
            point.map(|point| Present { since: at, late_from: point.at.after(target(vm)) });
    }

    fn pass(&mut self, at: Timestamp) {
        let Some(Present { since, late_from }) = self.present else { return };
        self.measured.add(since, at);
        self.late.add(late_from.max(since), at);
    }

    pub(super) fn view(&self, now: Timestamp) -> ComplianceView {
        let mut passed = self.clone();
        passed.pass(now);
        let ratio = |hours| {
            let window = Duration::from_hours(hours);
            let measured = passed.measured.within(window, now).as_secs_f64();
            let late = passed.late.within(window, now).as_secs_f64();
            (0.0 < measured).then(|| 1.0 - late / measured)
        };
        ComplianceView {
            day_ratio: ratio(24),
            week_ratio: ratio(7 * 24),
            month_ratio: ratio(30 * 24),
        }
    }
}

/// Spans of time, the oldest first, that do not overlap.
#[derive(Clone, Debug, Default)]
struct Spans(VecDeque<(Timestamp, Timestamp)>);

impl Spans {
    /// Adds a span that begins where the last one ended, or later; none where the clock was set back.
    fn add(&mut self, from: Timestamp, to: Timestamp) {
        if to <= from {
            return;
        }
        match self.0.back_mut() {
            Some(last) if from == last.1 => last.1 = to,
            _ => self.0.push_back((from, to)),
        }
        let is_old = |span: &(Timestamp, Timestamp)| MONTH < to.since(span.1);
        while SPANS_KEPT < self.0.len() || self.0.front().is_some_and(is_old) {
            self.0.pop_front();
        }
    }

    /// How long they are together, within the last `window` before `now`.
    fn within(&self, window: Duration, now: Timestamp) -> Duration {
        let age = |at: Timestamp| now.since(at).min(window);
        self.0.iter().map(|(from, to)| age(*from).saturating_sub(age(*to))).sum()
    }
}
