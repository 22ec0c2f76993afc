//! Stretches of a disk's log: single segments, and the merged ones that stand for several.
//!
//! ```text
//! v1/<vault>/disk/<disk>/merged/<from:020>-<to:020>.<end:64>.seg      what segments `from` to `to` say together
//! v1/<vault>/disk/<disk>/merged/<from:020>-<to:020>.p<part>.<hash:32>  data of a large one
//! ```
//!
//! A merged segment is a delta whose header names `to` as its sequence, `from` as its place and the segment
//! before `from` as the one before; `end` in its name is the hash of segment `to`, which the segment after
//! it names. So a chain is proven through it as through the segments that it stands for. Of two merged
//! segments one lies in the other or they do not touch: merging only ever joins whole neighbours.

use super::error::VaultError;
use super::segment::SegmentHash;
use super::vault::Vault;
use crate::domain::id::DiskId;
use object_store::path::Path;

/// A stretch of a disk's log that is in one object (and its parts).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stretch {
    /// Its first sequence.
    pub(super) from: u64,
    /// Its last sequence.
    pub(super) to: u64,
    /// The hash of segment `to`, if the stretch is a merged one.
    pub(super) end: Option<SegmentHash>,
}

impl Stretch {
    /// One segment.
    pub(super) const fn single(sequence: u64) -> Self {
        Self { from: sequence, to: sequence, end: None }
    }

    /// What the name of an object in the folder of merged segments says.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let (range, end) = name.strip_suffix(".seg")?.split_once('.')?;
        let (from, to) = range.split_once('-')?;
        let end = SegmentHash::try_from(end.to_owned()).ok()?;
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        (from < to).then_some(Self { from, to, end: Some(end) })
    }

    pub(super) fn path(&self, vault: &Vault, disk: DiskId) -> Path {
        match self.end {
            None => vault.segment_path(disk, self.to),
            Some(end) => vault.folder(disk, "merged").join(format!("{}.{end}.seg", self.range())),
        }
    }

    pub(super) fn part_path(
        &self,
        vault: &Vault,
        disk: DiskId,
        part: u16,
        hash: SegmentHash,
    ) -> Path {
        if self.end.is_none() {
            return vault.part_path(disk, self.to, part, hash);
        }
        let hash = hash.to_string();
        vault.folder(disk, "merged").join(format!("{}.p{part}.{}", self.range(), &hash[..32]))
    }

    /// The part of a merged segment's name that says what it stands for.
    pub(super) fn range(&self) -> String {
        format!("{:020}-{:020}", self.from, self.to)
    }
}

impl Vault {
    /// The merged segments of a disk's log, in order.
    pub(super) async fn merged_stretches(&self, disk: DiskId) -> Result<Vec<Stretch>, VaultError> {
        // Without the vault its segments are missing too.
        let listed = self.list_maybe(&self.folder(disk, "merged")).await?;
        let names = listed.iter().filter_map(|meta| meta.location.filename());
        let mut stretches: Vec<_> = names.filter_map(Stretch::of_name).collect();
        stretches.sort_unstable();
        Ok(stretches)
    }
}

/// The fewest stretches that make up the log after sequence `after` up to `through`; `merged` are in order.
pub(super) fn cover(merged: &[Stretch], after: u64, through: u64) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut next = after.saturating_add(1);
    while next <= through {
        let up_to = merged.partition_point(|stretch| (stretch.from, stretch.to) <= (next, through));
        let longest = merged[..up_to].last().filter(|stretch| stretch.from == next);
        let stretch = longest.copied().unwrap_or(Stretch::single(next));
        next = stretch.to + 1;
        stretches.push(stretch);
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cover_takes_the_longest_merged_segment_that_does_not_go_beyond_the_point() {
        let merged = |from, to| Stretch { from, to, end: Some(SegmentHash([7; 32])) };
        let all = [merged(2, 4), merged(2, 9), merged(6, 9)];
        let single = Stretch::single;
        assert_eq!(cover(&all, 0, 10), [single(1), merged(2, 9), single(10)]);
        assert_eq!(cover(&all, 1, 8), [merged(2, 4), single(5), single(6), single(7), single(8)]);
        assert_eq!(cover(&all, 5, 9), [merged(6, 9)]);
        assert_eq!(cover(&all, 9, 9), []);
    }

    #[test]
    fn a_name_says_what_a_merged_segment_stands_for() {
        let stretch = Stretch { from: 7, to: 12, end: Some(SegmentHash([0xab; 32])) };
        let name = format!("{}.{}.seg", stretch.range(), SegmentHash([0xab; 32]));
        assert_eq!(Stretch::of_name(&name), Some(stretch));
        for other in ["7-12.seg", "00000000000000000007.seg", "12-7.ab.seg", ""] {
            assert_eq!(Stretch::of_name(other), None);
        }
        assert_eq!(Stretch::of_name(&format!("{}.p1.{}", stretch.range(), "ab".repeat(16))), None);
    }
}
