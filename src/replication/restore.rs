//! Restoring: a disk of the primary site is brought to a recovery point. The other way round than a
//! resynchronization: what differs is downloaded.
//!
//! Nothing tracks the disk meanwhile, since logs of what it held before would be applied to it again after
//! a kill. So nothing is known of it but what it holds: unless it was restored before, to a point from
//! which the difference is known, all of it is read and compared with the checksums in the vault.
//!
//! A stretch of the disk counts as done, and is told, once it is durable. Downloads are not held up by
//! the pace of the host, which is one for what it sends.

use super::differences::{Differences, stretch_bytes};
use super::engine::{Work, required_point};
use super::failures::{host_lost, invalid};
use super::source::Source;
use crate::disk::tracker::Suspect;
use crate::domain::failure::Failure;
use crate::domain::id::DiskId;
use crate::domain::vm::{RecoveryPoint, Side};
use crate::ports::block::BlockDevice;
use crate::ports::replication::{Compared, Progress, Restore};
use crate::replica::segment::REGION_BYTES;
use crate::replica::{BLOCK_BYTES, CHUNK_BYTES, VaultError};
use std::ops::Range;

const OPERATION: &str = "bringing a disk to a recovery point";

/// Bytes downloaded at a time: enough to keep several requests to the vault under way.
const DOWNLOAD_BYTES: u64 = 16 << 20;

/// Restores a disk, which nobody else may use.
pub(super) fn restore_disk(
    work: &Work<'_>,
    source: &Source,
    restore: Restore,
    progress: Progress<'_>,
) -> Result<Compared, Failure> {
    let Restore { disk, point, from, in_full, done_bytes } = restore;
    let through = sequence_of(work, point, disk)?;
    let suspect = match from {
        Some(from) if !in_full => between(work, from, through, disk)?,
        Some(_) | None => Suspect::Everything,
    };
    work.checked_at_host(OPERATION, source.tracker.stop())?;
    let device = source.tracker.disk(disk).ok_or_else(|| host_lost(work.vm, Side::Primary))?;
    let image = work.vault_call(OPERATION, work.vault.open_disk(disk, through))?;
    let size = device.size_bytes();
    if image.size_bytes() != size {
        return Err(invalid(work.vm, OPERATION, "it has another size than the disk"));
    }
    let (device, suspect) = (&*device as &dyn BlockDevice, &suspect);
    let differences = Differences { work, operation: OPERATION, device, suspect, image };
    let different_bytes = Restoration { differences, in_full }.run(done_bytes, progress)?;
    let compared_bytes = if in_full { 0 } else { suspect.bytes(size) };
    Ok(Compared { compared_bytes, different_bytes })
}

fn sequence_of(work: &Work<'_>, point: RecoveryPoint, disk: DiskId) -> Result<u64, Failure> {
    let record = required_point(work, point)?;
    let at = record.disks.get(&disk).map(|at| at.sequence);
    at.ok_or_else(|| invalid(work.vm, OPERATION, "the disk has no place in the recovery point"))
}

/// What may differ between a point that the disk was brought to and a later one.
fn between(
    work: &Work<'_>,
    from: RecoveryPoint,
    through: u64,
    disk: DiskId,
) -> Result<Suspect, Failure> {
    let Some(record) = work.point(from.cycle)? else { return Ok(Suspect::Everything) };
    let Some(at) = record.disks.get(&disk) else { return Ok(Suspect::Everything) };
    written_after(work, disk, at.sequence, through)
}

/// What the log of a disk says something about after one segment and up to another.
pub(super) fn written_after(
    work: &Work<'_>,
    disk: DiskId,
    after: u64,
    through: u64,
) -> Result<Suspect, Failure> {
    let written = work.vault.written_between(disk, after, through);
    let written = async {
        match written.await {
            // What stands there does not tell; whoever opens the disk says what is wrong with it.
            Err(VaultError::ChainBroken { .. } | VaultError::EpochFell { .. }) => Ok(None),
            written => written,
        }
    };
    let written = work.vault_call(OPERATION, written)?;
    Ok(written.map_or(Suspect::Everything, Suspect::Ranges))
}

struct Restoration<'a> {
    differences: Differences<'a>,
    in_full: bool,
}

impl Restoration<'_> {
    /// Answers the bytes that were written.
    fn run(&self, done_bytes: u64, progress: Progress<'_>) -> Result<u64, Failure> {
        let Differences { work, device, suspect, .. } = self.differences;
        let size = device.size_bytes();
        let (mut start, mut written) = (done_bytes, 0);
        while start < size {
            let end = ((start / stretch_bytes(size) + 1) * stretch_bytes(size)).min(size);
            if suspect.touches(&(start..end)) {
                for region in start / REGION_BYTES..end.div_ceil(REGION_BYTES) {
                    work.still_wanted()?;
                    written += self.region(region)?;
                }
                // Also where nothing was written: an earlier attempt may not have come as far as this.
                work.disk_call(OPERATION, device.flush())?;
                progress(end, size);
            }
            start = end;
        }
        work.disk_call(OPERATION, device.flush())?;
        progress(size, size);
        Ok(written)
    }

    fn region(&self, region: u64) -> Result<u64, Failure> {
        let mut written = 0;
        if self.in_full {
            let start = region * REGION_BYTES;
            let end = (start + REGION_BYTES).min(self.differences.image.size_bytes());
            for piece in pieces(start..end) {
                written += self.replace(piece)?;
            }
            return Ok(written);
        }
        let Some((_, chunks)) = self.differences.unequal(region)? else { return Ok(0) };
        for run in runs(&chunks, self.differences.image.size_bytes()) {
            for piece in pieces(run) {
                written += self.repair(piece)?;
            }
        }
        Ok(written)
    }

    /// Writes every block of a piece.
    fn replace(&self, piece: Range<u64>) -> Result<u64, Failure> {
        let Differences { work, device, image, .. } = &self.differences;
        let data = work.vault_call(OPERATION, image.next_data(piece.start))?;
        if data.is_none_or(|data| piece.end <= data.start) {
            work.disk_call(OPERATION, device.zero(piece.clone(), true, false))?;
            return Ok(piece.end - piece.start);
        }
        let wanted = self.download(&piece)?;
        self.write_blocks(piece.start, &wanted, |_| true)
    }

    /// Writes those blocks of a piece that are not what they must be.
    fn repair(&self, piece: Range<u64>) -> Result<u64, Failure> {
        let Differences { work, device, .. } = &self.differences;
        let wanted = self.download(&piece)?;
        let mut found = vec![0; wanted.len()];
        work.disk_call(OPERATION, device.read_at(&mut found, piece.start))?;
        self.write_blocks(piece.start, &wanted, |part| found[part.clone()] != wanted[part])
    }

    fn download(&self, piece: &Range<u64>) -> Result<Vec<u8>, Failure> {
        let Differences { work, image, .. } = &self.differences;
        let mut data = vec![0; (piece.end - piece.start) as usize];
        work.vault_call(OPERATION, image.read_at(piece.start, &mut data))?;
        Ok(data)
    }

    /// Writes the chosen blocks of `data`, as holes where they are zero; answers their bytes.
    fn write_blocks(
        &self,
        offset: u64,
        data: &[u8],
        chosen: impl Fn(Range<usize>) -> bool,
    ) -> Result<u64, Failure> {
        let Differences { work, device, .. } = &self.differences;
        let mut bytes = 0;
        for (part, content) in alike(data, chosen) {
            let place = offset + part.start as u64..offset + part.end as u64;
            let done = match content {
                Content::Kept => continue,
                Content::Zeroes => device.zero(place, true, false),
                Content::Data => device.write_at(&data[part.clone()], place.start, false),
            };
            work.disk_call(OPERATION, done)?;
            bytes += part.len() as u64;
        }
        Ok(bytes)
    }
}

/// What becomes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Kept,
    Zeroes,
    Data,
}

/// Neighbouring blocks of `data` that are dealt with alike.
fn alike(
    data: &[u8],
    chosen: impl Fn(Range<usize>) -> bool,
) -> impl Iterator<Item = (Range<usize>, Content)> {
    let content = move |part: Range<usize>| match chosen(part.clone()) {
        false => Content::Kept,
        true if data[part].iter().all(|byte| *byte == 0) => Content::Zeroes,
        true => Content::Data,
    };
    let mut blocks = (0..data.len())
        .step_by(BLOCK_BYTES as usize)
        .map(|start| start..(start + BLOCK_BYTES as usize).min(data.len()))
        .map(move |part| (part.clone(), content(part)))
        .peekable();
    std::iter::from_fn(move || {
        let (mut part, content) = blocks.next()?;
        while let Some((next, _)) = blocks.next_if(|(_, next)| *next == content) {
            part.end = next.end;
        }
        Some((part, content))
    })
}

/// Chunks by their offsets, ascending, as ranges of a disk of `size` bytes.
fn runs(chunks: &[u64], size: u64) -> impl Iterator<Item = Range<u64>> {
    let mut chunks = chunks.iter().copied().peekable();
    std::iter::from_fn(move || {
        let start = chunks.next()?;
        let mut end = start + CHUNK_BYTES;
        while chunks.next_if_eq(&end).is_some() {
            end += CHUNK_BYTES;
        }
        Some(start..end.min(size))
    })
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range
        .step_by(DOWNLOAD_BYTES as usize)
        .map(move |start| start..(start + DOWNLOAD_BYTES).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_blocks_are_written_at_once_and_zeroes_are_punched() {
        let block = BLOCK_BYTES as usize;
        let mut data = vec![7; 5 * block + 512];
        data[2 * block..4 * block].fill(0);
        let parts: Vec<_> = alike(&data, |part| part.start != 0).collect();
        let ends = [block, 2 * block, 4 * block, data.len()];
        let contents = [Content::Kept, Content::Data, Content::Zeroes, Content::Data];
        let expected: Vec<_> = std::iter::once(0)
            .chain(ends)
            .zip(ends)
            .zip(contents)
            .map(|((start, end), content)| (start..end, content))
            .collect();
        assert_eq!(parts, expected);
    }

    #[test]
    fn chunks_that_follow_each_other_are_one_run_up_to_the_end_of_the_disk() {
        let chunks = [0, CHUNK_BYTES, 3 * CHUNK_BYTES];
        let size = 3 * CHUNK_BYTES + 512;
        let got: Vec<_> = runs(&chunks, size).collect();
        assert_eq!(got, [0..2 * CHUNK_BYTES, 3 * CHUNK_BYTES..size]);
    }
}
