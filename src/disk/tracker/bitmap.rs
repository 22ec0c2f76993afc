//! Bitmaps over a disk: which parts of it were written.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bit for each `unit_bytes` of a disk. Set by many threads at once; whoever clears or reads it must
/// know by other means that nobody sets bits meanwhile, or that it does not matter.
#[derive(Debug)]
pub(super) struct Bitmap {
    words: Box<[AtomicU64]>,
    unit_bytes: u64,
}

impl Bitmap {
    /// A bitmap over `size_bytes` with no bit set.
    pub(super) fn new(size_bytes: u64, unit_bytes: u64) -> Self {
        let words = (0..words_of(size_bytes, unit_bytes)).map(|_| AtomicU64::new(0)).collect();
        Self { words, unit_bytes }
    }

    /// Sets the bits of every unit that `range` touches. One load for each 64 units if they are set.
    pub(super) fn set(&self, range: &Range<u64>) {
        for (word, mask) in self.masks(range) {
            if word.load(Ordering::Relaxed) & mask != mask {
                word.fetch_or(mask, Ordering::Relaxed);
            }
        }
    }

    /// Whether the bits of every unit that `range` touches are set.
    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        self.masks(range).all(|(word, mask)| word.load(Ordering::Relaxed) & mask == mask)
    }

    /// What is set.
    pub(super) fn words(&self) -> Vec<u64> {
        self.words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// Sets exactly these.
    pub(super) fn replace(&self, words: &[u64]) {
        for (word, value) in self.words.iter().zip(words) {
            word.store(*value, Ordering::Relaxed);
        }
    }

    pub(super) fn clear(&self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// The words that `range` touches, each with the bits of its units.
    fn masks(&self, range: &Range<u64>) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let (first, end) = (range.start / self.unit_bytes, range.end.div_ceil(self.unit_bytes));
        (first / 64..end.div_ceil(64)).filter_map(move |index| {
            let (from, to) =
                (first.max(index * 64) - index * 64, end.min(index * 64 + 64) - index * 64);
            let mask = (u64::MAX >> (64 - (to - from))) << from;
            self.words.get(index as usize).map(|word| (word, mask))
        })
    }
}

/// How many words a bitmap over `size_bytes` has.
pub(super) fn words_of(size_bytes: u64, unit_bytes: u64) -> usize {
    size_bytes.div_ceil(unit_bytes).div_ceil(64) as usize
}

/// Adds the bits of `more` to `words`.
pub(super) fn add(words: &mut [u64], more: &[u64]) {
    words.iter_mut().zip(more).for_each(|(word, more)| *word |= more);
}

/// The runs of set bits as ranges of a disk of `size_bytes`: sorted, apart from each other.
pub(super) fn ranges(words: &[u64], unit_bytes: u64, size_bytes: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let mut rest = *word;
        while rest != 0 {
            let from = rest.trailing_zeros();
            let length = (rest >> from).trailing_ones();
            rest &= u64::MAX.checked_shl(from + length).unwrap_or(0);
            let start = (index as u64 * 64 + u64::from(from)) * unit_bytes;
            let end = (start + u64::from(length) * unit_bytes).min(size_bytes);
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                Some(_) | None => ranges.push(start..end),
            }
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 300 * 64 + 7;

    #[test]
    fn every_unit_that_a_range_touches_is_set_and_no_other() {
        for start in [0, 1, 63, 64, 64 * 63, 64 * 64 - 1, 64 * 130] {
            for length in [1, 63, 64, 65, 64 * 64, 64 * 150] {
                let bitmap = Bitmap::new(SIZE, 64);
                let range = start..start + length;
                bitmap.set(&range);
                assert!(bitmap.covers(&range));
                let expected = start / 64 * 64..(start + length).next_multiple_of(64);
                assert_eq!(ranges(&bitmap.words(), 64, SIZE), std::slice::from_ref(&expected));
                assert!(!bitmap.covers(&(range.start..expected.end + 1)));
            }
        }
    }

    #[test]
    fn the_last_unit_ends_with_the_disk() {
        let bitmap = Bitmap::new(SIZE, 64);
        bitmap.set(&(0..SIZE));
        assert_eq!(ranges(&bitmap.words(), 64, SIZE), std::slice::from_ref(&(0..SIZE)));
        bitmap.clear();
        bitmap.set(&(SIZE - 1..SIZE));
        bitmap.set(&(0..0));
        let last = 300 * 64..SIZE;
        assert_eq!(ranges(&bitmap.words(), 64, SIZE), std::slice::from_ref(&last));
    }
}
