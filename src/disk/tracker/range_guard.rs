//! Makes writes that overlap wait for each other, so that the order of the log is the order of the disk.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The ranges of one disk that are being written.
#[derive(Debug, Default)]
pub(super) struct RangeGuard {
    ranges: Mutex<Ranges>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Ranges {
    held: Vec<Range<u64>>,
    /// How many wait: waking nobody would still be a system call for every write.
    waiting: usize,
}

impl RangeGuard {
    /// Waits until nobody holds a part of `range`, then holds it until the return value is dropped.
    pub(super) fn hold(&self, range: Range<u64>) -> Held<'_> {
        self.hold_each(vec![range])
    }

    /// As [`RangeGuard::hold`], for all of `wanted` at once: who waits holds nothing. They may overlap
    /// each other.
    pub(super) fn hold_each(&self, wanted: Vec<Range<u64>>) -> Held<'_> {
        let mut ranges = self.lock();
        while ranges.held.iter().any(|held| wanted.iter().any(|range| overlap(held, range))) {
            ranges.waiting += 1;
            ranges = self.released.wait(ranges).unwrap_or_else(PoisonError::into_inner);
            ranges.waiting -= 1;
        }
        ranges.held.extend(wanted.iter().cloned());
        Held { guard: self, ranges: wanted }
    }

    fn lock(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Ranges that are held.
#[derive(Debug)]
pub(super) struct Held<'a> {
    guard: &'a RangeGuard,
    ranges: Vec<Range<u64>>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut ranges = self.guard.lock();
        for own in &self.ranges {
            if let Some(index) = ranges.held.iter().position(|range| range == own) {
                ranges.held.swap_remove(index);
            }
        }
        if 0 < ranges.waiting {
            self.guard.released.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn apart_ranges_are_held_together_and_overlapping_ones_never() {
        let guard = RangeGuard::default();
        let inside = AtomicUsize::new(0);
        let apart = guard.hold(100..200);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _held = guard.hold(0..100);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        drop(apart);
        assert!(guard.lock().held.is_empty());
    }
}
