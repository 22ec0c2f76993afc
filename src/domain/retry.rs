//! When a recoverable failure is tried again.

use super::time::Timestamp;
use backoff::backoff::Backoff;
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);

/// Minutes after the **first** attempt at which the first retries are due.
/// Source: Azure Site Recovery, "Hyper-V to Azure architecture", retry process.
const RUNGS_MIN: [u32; 5] = [1, 2, 4, 8, 10];

/// Minutes between the retries after the last rung, without end. Same source.
const TAIL_MIN: u32 = 30;

/// The retry schedule of the recoverable class: 1, 2, 4, 8 and 10 minutes after the first attempt,
/// then every 30 minutes for as long as it lasts.
///
/// As a [`Backoff`] it yields the gaps between those moments; it never gives up and has no jitter,
/// since a schedule that people read must be the one that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryLadder {
    rung: u32,
}

impl RetryLadder {
    /// The longest time between two attempts.
    pub const LONGEST_GAP: Duration = Duration::from_secs(60 * TAIL_MIN as u64);

    /// Minutes after the first attempt at which rung `index` (from 0) stands.
    const fn minutes(index: u32) -> u32 {
        if (index as usize) < RUNGS_MIN.len() {
            RUNGS_MIN[index as usize]
        } else {
            RUNGS_MIN[RUNGS_MIN.len() - 1] + TAIL_MIN * (index + 1 - RUNGS_MIN.len() as u32)
        }
    }

    /// The first rung after `now` for a failure first met at `first_failed`: a rung that passed while
    /// an attempt was still running is skipped. If the clock was set back since, the ladder starts
    /// at `now`.
    pub fn next_due(first_failed: Timestamp, now: Timestamp) -> Timestamp {
        let mut ladder = Self::default();
        let mut due = first_failed.min(now);
        while due <= now {
            let Some(gap) = ladder.next_backoff() else { break };
            due = due.after(gap);
        }
        due
    }
}

impl Backoff for RetryLadder {
    fn reset(&mut self) {
        self.rung = 0;
    }

    fn next_backoff(&mut self) -> Option<Duration> {
        let before = if self.rung == 0 { 0 } else { Self::minutes(self.rung - 1) };
        let gap = Self::minutes(self.rung) - before;
        self.rung = self.rung.saturating_add(1).min(u32::MAX / (2 * TAIL_MIN));
        Some(MINUTE * gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(n: i64) -> Timestamp {
        Timestamp::from_millis(n * 60_000)
    }

    #[test]
    fn rungs_are_counted_from_the_first_attempt() {
        let mut due = minute(0);
        let mut seen = Vec::new();
        for _ in 0..8 {
            due = RetryLadder::next_due(minute(0), due);
            seen.push(due.as_millis() / 60_000);
        }
        assert_eq!(seen, [1, 2, 4, 8, 10, 40, 70, 100]);
    }

    #[test]
    fn a_rung_that_passed_during_an_attempt_is_skipped() {
        let late = Timestamp::from_millis(5 * 60_000 + 1);
        assert_eq!(RetryLadder::next_due(minute(0), late), minute(8));
    }

    #[test]
    fn a_reset_ladder_starts_again() {
        let mut ladder = RetryLadder::default();
        ladder.next_backoff();
        ladder.next_backoff();
        ladder.reset();
        assert_eq!(ladder.next_backoff(), Some(MINUTE));
    }
}
