//! Merging: neighbouring stretches of a disk's log become one, and the log up to a point becomes part of
//! the base. Nothing is changed; what is merged says the same as what it was made of, and may be made again.

use super::error::VaultError;
use super::image::{DiskImage, End, regions_of};
use super::segment::{Header, Kind, MAX_ROWS, REGION_BYTES};
use super::stretch::Stretch;
use super::vault::{PutOutcome, Vault};
use super::writer::{Finished, Place, SegmentWriter};
use super::{Completion, RegionPresent};
use crate::domain::id::DiskId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Bytes read at a time.
const PIECE_BYTES: u64 = 1024 * 1024;

/// Most rows of a merged segment: its index stays below half of what a segment may have.
const ROWS_MAX: usize = MAX_ROWS / 2;

/// The bits of a generation that say up to which segment the log was merged into the base; above them is
/// the number of the copy.
const SEQUENCE_BITS: u32 = 40;

/// The generation of a base that is the `copy`-th copy of its disk. Copies count from 0; what is merged into
/// a copy makes generations of its own above it and below the next copy.
pub const fn generation_of_copy(copy: u32) -> u64 {
    (copy as u64) << SEQUENCE_BITS
}

impl Vault {
    /// Makes one segment of neighbouring stretches of the log, ascending and without gaps: later writes win,
    /// zeroes stay zeroes. `None` where they cannot be one segment. Holds a few parts of 4 MiB, and
    /// the rows.
    pub(super) async fn merge(
        &self,
        disk: DiskId,
        stretches: &[Stretch],
    ) -> Result<Option<Stretch>, VaultError> {
        let (Some(first), Some(last)) = (stretches.first(), stretches.last()) else {
            return Ok(None);
        };
        let (from, to) = (first.from, last.to);
        let image = DiskImage::of_log(self, disk, stretches.to_vec(), ROWS_MAX).await?;
        let Some((image, previous)) = image else { return Ok(None) };
        let End { hash, epoch, cut_at } = image.end();
        let header = Header {
            kind: Kind::Delta,
            vault: self.id(),
            disk,
            sequence: to,
            epoch,
            previous,
            cut_at,
            disk_size: image.size_bytes(),
            place: from,
            encrypted: false,
        };
        let stretch = Stretch { from, to, end: Some(hash) };
        let slots = self.upload_slots();
        let mut writer = SegmentWriter::new(self, header, Place::Log(stretch), slots);
        let mut buffer = Vec::new();
        for (range, zeroes) in joined(image.log_extents()) {
            if zeroes {
                writer.zeroes(range)?;
                continue;
            }
            for piece in pieces(range) {
                buffer.resize((piece.end - piece.start) as usize, 0);
                image.read_at(piece.start, &mut buffer).await?;
                writer.data(piece.start, &buffer).await?;
            }
        }
        let Finished { path, sealed, .. } = writer.finish().await?;
        // One that is there already says the same: its name says what it was made of.
        match self.create(&path, sealed.bytes).await? {
            PutOutcome::Created | PutOutcome::Existed => Ok(Some(stretch)),
        }
    }

    /// Merges the log up to the end of `image` into its base: every region that the log touches is
    /// written anew, the others are taken over. Points before it cannot be read from the base that this
    /// makes. Holds a few parts of 4 MiB.
    pub(super) async fn merge_into_base(&self, image: &DiskImage) -> Result<(), VaultError> {
        let (base, base_size) = image.base();
        let (disk, sequence) = (image.disk(), image.sequence());
        let generation = (base >> SEQUENCE_BITS << SEQUENCE_BITS) | sequence;
        let touched = if base_size == image.size_bytes() {
            touched_regions(image)
        } else {
            regions_of(&(0..image.size_bytes().max(base_size))).collect()
        };
        let End { hash, epoch, cut_at } = image.end();
        // The last segment's epoch and not that of whoever merges: the same merge makes the same base.
        let copy = self.base(disk, generation, epoch, image.size_bytes());
        let present = copy.regions_present().await?;
        let mut buffer = Vec::new();
        for region in touched.iter().filter(|region| !present.contains_key(region)) {
            let range =
                region * REGION_BYTES..((region + 1) * REGION_BYTES).min(image.size_bytes());
            let mut writer = copy.region(*region);
            let mut at = range.start;
            while let Some(run) = image.next_data(at).await?.filter(|run| run.start < range.end) {
                let run = run.start.max(at)..run.end.min(range.end);
                at = run.end;
                for piece in pieces(run) {
                    buffer.resize((piece.end - piece.start) as usize, 0);
                    image.read_at(piece.start, &mut buffer).await?;
                    writer.data(piece.start, &buffer).await?;
                }
                if range.end <= at {
                    break;
                }
            }
            writer.commit().await?;
        }
        let untouched = |(region, _): &(&u64, &RegionPresent)| !touched.contains(region);
        let taken_over: BTreeMap<u64, RegionPresent> = image
            .base_regions()
            .iter()
            .filter(untouched)
            .map(|(region, present)| (*region, *present))
            .collect();
        let (from_seq, from_hash) = (sequence, hash);
        let completion = Completion { from_seq, from_hash, usable_from: sequence, at: cut_at };
        copy.complete_over(taken_over, completion).await.map(drop)
    }
}

/// The regions that the log speaks of.
pub(super) fn touched_regions(image: &DiskImage) -> BTreeSet<u64> {
    image.log_extents().flat_map(|(range, _)| regions_of(&range)).collect()
}

/// Extents of one kind that touch, as one: their frames become common ones.
fn joined(
    extents: impl Iterator<Item = (Range<u64>, bool)>,
) -> impl Iterator<Item = (Range<u64>, bool)> {
    let mut extents = extents.peekable();
    std::iter::from_fn(move || {
        let (mut range, zeroes) = extents.next()?;
        while let Some((next, _)) =
            extents.next_if(|(next, kind)| *kind == zeroes && next.start == range.end)
        {
            range.end = next.end;
        }
        Some((range, zeroes))
    })
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    let mut start = range.start;
    std::iter::from_fn(move || {
        let piece = start..((start / PIECE_BYTES + 1) * PIECE_BYTES).min(end);
        start = piece.end;
        (piece.start < piece.end).then_some(piece)
    })
}
