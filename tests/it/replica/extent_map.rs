//! The extent map against an array of bytes.

use lifeboat::replica::extent_map::{ExtentMap, Piece};
use proptest::prelude::*;

const LEN: usize = 96;

/// What a position holds: the number of the insert and the distance from its start.
type Model = [Option<(usize, u64)>; LEN];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn it_holds_what_an_array_would_hold(
        steps in prop::collection::vec((0..LEN, 0..LEN, prop::bool::weighted(0.8)), 0..40),
        look in (0..LEN, 0..LEN),
    ) {
        let mut map = ExtentMap::new();
        let mut model: Model = [None; LEN];
        for (nth, (a, b, insert)) in steps.into_iter().enumerate() {
            let (start, end) = (a.min(b), a.max(b));
            let range = start as u64..end as u64;
            if insert { map.insert(range, nth) } else { map.remove(range) }
            for (skip, held) in (0..).zip(&mut model[start..end]) {
                *held = insert.then_some((nth, skip));
            }
        }
        let mut end = 0;
        for extent in map.iter() {
            prop_assert!(end <= extent.range.start && !extent.range.is_empty());
            end = extent.range.end;
        }
        prop_assert_eq!(map.iter().count(), map.len());
        let (start, end) = (look.0.min(look.1) as u64, look.0.max(look.1) as u64);
        let mut at = start;
        for piece in map.pieces(start..end) {
            let (range, held) = match piece {
                Piece::Gap(range) => (range, None),
                Piece::Extent(extent) => (extent.range.clone(), Some((*extent.value, extent.skip))),
            };
            prop_assert_eq!(range.start, at);
            for position in range.clone() {
                let expected = held.map(|(nth, skip)| (nth, skip + (position - range.start)));
                prop_assert_eq!(model[position as usize], expected);
            }
            at = range.end;
        }
        prop_assert_eq!(at, end.max(start));
    }
}
