//! A map from byte ranges to values in which the latest insert wins.
//!
//! It turns an ordered log of writes into what a disk holds after all of them: readers of a recovery
//! point stack the indexes of its segments in it, and a log is merged in it before it is sent.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ordered, non-overlapping extents over `u64` positions. Inserting over earlier extents splits or
/// shortens them; a shortened extent remembers by [`Extent::skip`] where in its value it begins.
#[derive(Clone, Debug)]
pub struct ExtentMap<T> {
    /// By start.
    extents: BTreeMap<u64, Stored<T>>,
}

/// A range and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent<T> {
    /// The positions; never empty.
    pub range: Range<u64>,
    /// What was inserted.
    pub value: T,
    /// Distance from the start of the range that `value` was inserted for to `range.start`.
    pub skip: u64,
}

/// What a lookup finds, in ascending order and without holes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a, T> {
    /// Nothing was inserted here.
    Gap(Range<u64>),
    /// A part of an extent, cut to the range that was asked for.
    Extent(Extent<&'a T>),
}

#[derive(Clone, Debug)]
struct Stored<T> {
    end: u64,
    value: T,
    skip: u64,
}

impl<T> Default for ExtentMap<T> {
    fn default() -> Self {
        Self { extents: BTreeMap::new() }
    }
}

impl<T: Clone> ExtentMap<T> {
    /// A map without extents.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lays `value` over `range`; what was there before is gone. An empty range changes nothing.
    pub fn insert(&mut self, range: Range<u64>, value: T) {
        if range.is_empty() {
            return;
        }
        self.remove(range.clone());
        self.extents.insert(range.start, Stored { end: range.end, value, skip: 0 });
    }

    /// Makes `range` a gap.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.split_at(range.start);
        self.split_at(range.end);
        while let Some((&start, _)) = self.extents.range(range.clone()).next() {
            self.extents.remove(&start);
        }
    }

    /// Forgets the upper half of the extents; answers where it began. Nothing if there are fewer than two.
    pub fn halve(&mut self) -> Option<u64> {
        let middle = self.extents.len() / 2;
        let (&from, _) = self.extents.iter().nth(middle).filter(|_| 0 < middle)?;
        self.extents.split_off(&from);
        Some(from)
    }

    /// How many extents there are.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether there is no extent.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Every extent, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Extent<&T>> {
        self.extents.iter().map(|(&start, stored)| stored.cut(start, start..stored.end))
    }

    /// What covers `range`, gaps included: the pieces touch each other and fill the range exactly.
    pub fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Piece<'_, T>> {
        let from = self.first_touching(range.start);
        let mut extents = self.extents.range(from..range.end.max(from)).peekable();
        let mut at = range.start;
        std::iter::from_fn(move || {
            if range.end <= at {
                return None;
            }
            let Some((&start, stored)) = extents.peek().copied() else {
                let gap = at..range.end;
                at = range.end;
                return Some(Piece::Gap(gap));
            };
            if at < start {
                let gap = at..start;
                at = start;
                return Some(Piece::Gap(gap));
            }
            extents.next();
            let part = at..stored.end.min(range.end);
            at = part.end;
            Some(Piece::Extent(stored.cut(start, part)))
        })
    }

    /// The start of the extent that covers `position`, or `position` itself.
    fn first_touching(&self, position: u64) -> u64 {
        match self.extents.range(..position).next_back() {
            Some((&start, stored)) if position < stored.end => start,
            _ => position,
        }
    }

    /// Makes `position` a border between extents.
    fn split_at(&mut self, position: u64) {
        let Some((&start, stored)) = self.extents.range_mut(..position).next_back() else { return };
        if stored.end <= position {
            return;
        }
        let right = Stored {
            end: stored.end,
            value: stored.value.clone(),
            skip: stored.skip + (position - start),
        };
        stored.end = position;
        self.extents.insert(position, right);
    }
}

impl<T> Stored<T> {
    /// The part of the extent beginning at `start` that lies in `range`, which it covers.
    fn cut(&self, start: u64, range: Range<u64>) -> Extent<&T> {
        let skip = self.skip + (range.start - start);
        Extent { range, value: &self.value, skip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_insert_splits_an_earlier_one_which_keeps_its_source_positions() {
        let mut map = ExtentMap::new();
        map.insert(100..200, 'a');
        map.insert(120..130, 'b');
        let got: Vec<_> = map.iter().map(|e| (e.range, *e.value, e.skip)).collect();
        assert_eq!(got, [(100..120, 'a', 0), (120..130, 'b', 0), (130..200, 'a', 30)]);
    }

    #[test]
    fn a_lookup_names_the_gaps() {
        let mut map = ExtentMap::new();
        map.insert(10..20, 1);
        let got: Vec<_> = map.pieces(5..25).collect();
        assert_eq!(
            got,
            [
                Piece::Gap(5..10),
                Piece::Extent(Extent { range: 10..20, value: &1, skip: 0 }),
                Piece::Gap(20..25),
            ]
        );
    }

    #[test]
    fn the_last_position_of_all_can_be_used() {
        let mut map = ExtentMap::new();
        map.insert(u64::MAX - 1..u64::MAX, ());
        map.insert(0..1, ());
        assert_eq!(map.pieces(0..u64::MAX).count(), 3);
    }
}
