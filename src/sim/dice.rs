//! Keyed randomness: a draw follows from the seed, what it is for, and how often that was drawn before.
//!
//! There is no shared stream: one more draw for one thing changes nothing for another, so a fault that
//! is taken out of a scenario leaves the rest of the run as it was, as far as it does not depend on it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The source of every choice of a run.
#[derive(Debug)]
pub(super) struct Dice {
    seed: u64,
    drawn: Mutex<BTreeMap<String, u64>>,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, drawn: Mutex::default() }
    }

    /// The next number for `what`.
    pub(super) fn next(&self, what: &str) -> u64 {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let nth = if let Some(nth) = drawn.get_mut(what) {
            *nth += 1;
            *nth
        } else {
            drawn.insert(what.to_owned(), 0);
            0
        };
        keyed(self.seed, what, nth)
    }

    /// The next number in `low..=high`.
    pub(super) fn between(&self, what: &str, low: u64, high: u64) -> u64 {
        low + self.next(what) % (high - low + 1)
    }

    /// Whether something happens that does so `percent` times in a hundred.
    pub(super) fn happens(&self, what: &str, percent: u32) -> bool {
        0 < percent && self.next(what) % 100 < u64::from(percent)
    }
}

/// The `nth` number for `what` under `seed`: FNV-1a over the name, then splitmix64. Sources: Fowler, Noll,
/// Vo (1991); Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
pub(super) fn keyed(seed: u64, what: &str, nth: u64) -> u64 {
    let name = what.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    [seed, name, nth].into_iter().fold(0, |state: u64, part| mixed(state ^ part))
}

fn mixed(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_for_one_thing_do_not_change_those_for_another() {
        let (one, other) = (Dice::new(7), Dice::new(7));
        one.next("a");
        assert_eq!(one.next("b"), other.next("b"));
        assert_ne!(one.next("b"), Dice::new(8).next("b"));
    }
}
