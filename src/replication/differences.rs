//! Where a disk and its replica differ: by checksums, without reading what the vault holds.

use super::engine::Work;
use crate::disk::tracker::Suspect;
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure, in_full};
use crate::ports::block::BlockDevice;
use crate::replica::segment::REGION_BYTES;
use crate::replica::{CHUNK_BYTES, DiskImage, Fingerprint, Verdict};
use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Bytes read from the disk at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Stretches of a disk, and so segments and recorded steps of progress, at most: up to 256 GiB each
/// stretch is one region of 64 MiB.
const STRETCHES_MAX: u64 = 4096;

/// A disk and what it is compared with.
pub(super) struct Differences<'a> {
    pub(super) work: &'a Work<'a>,
    /// What it is done for, in messages.
    pub(super) operation: &'static str,
    pub(super) device: &'a dyn BlockDevice,
    /// Only this is looked at.
    pub(super) suspect: &'a Suspect,
    /// As large as the disk.
    pub(super) image: DiskImage,
}

/// How much of a disk is done before that is told; whole regions.
pub(super) fn stretch_bytes(size: u64) -> u64 {
    size.div_ceil(REGION_BYTES).div_ceil(STRETCHES_MAX).max(1) * REGION_BYTES
}

impl Differences<'_> {
    /// The chunks of a region that are not known to be equal, with what is known of it; `None` if all
    /// are.
    pub(super) fn unequal(&self, region: u64) -> Result<Option<(Fingerprint, Vec<u64>)>, Failure> {
        let start = region * REGION_BYTES;
        let range = start..(start + REGION_BYTES).min(self.image.size_bytes());
        if !self.suspect.touches(&range) {
            return Ok(None);
        }
        let fingerprint = self.work.vault_call(self.operation, self.image.fingerprint(region))?;
        let data = self.data_in(range.clone())?;
        if data.is_empty() && fingerprint.is_zero(&range) {
            return Ok(None);
        }
        let (next, pieces) = (AtomicU64::new(0), (range.end - range.start).div_ceil(PIECE_BYTES));
        let compare = || {
            let mut found = Vec::new();
            let mut buffer = vec![0; PIECE_BYTES as usize];
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if pieces <= nth {
                    return Ok(found);
                }
                self.work.still_wanted()?;
                let start = range.start + nth * PIECE_BYTES;
                let piece = start..(start + PIECE_BYTES).min(range.end);
                self.compare_piece(&fingerprint, &data, piece, &mut buffer, &mut found)?;
            }
        };
        let mut chunks = thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, NonZero::get);
            let others: Vec<_> = (1..threads.min(pieces as usize))
                .map(|_| thread::Builder::new().spawn_scoped(scope, compare))
                .collect();
            let mut found = compare()?;
            for other in others {
                let other = other.map_err(|error| no_thread(self.operation, &error))?;
                found.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
            }
            Ok(found)
        })?;
        chunks.sort_unstable();
        Ok((!chunks.is_empty()).then_some((fingerprint, chunks)))
    }

    /// The runs of data of the disk within `range`; the rest is zero.
    fn data_in(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, Failure> {
        let mut runs = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let run = self.work.disk_call(self.operation, self.device.next_data(at))?;
            let Some(run) = run.filter(|run| run.start < range.end) else { break };
            at = run.end;
            runs.push(run.start.max(range.start)..run.end.min(range.end));
        }
        Ok(runs)
    }

    fn compare_piece(
        &self,
        fingerprint: &Fingerprint,
        data: &[Range<u64>],
        piece: Range<u64>,
        buffer: &mut [u8],
        found: &mut Vec<u64>,
    ) -> Result<(), Failure> {
        if !self.suspect.touches(&piece) {
            return Ok(());
        }
        let has_data = data.iter().any(|run| run.start < piece.end && piece.start < run.end);
        if !has_data && fingerprint.is_zero(&piece) {
            return Ok(());
        }
        let buffer = &mut buffer[..(piece.end - piece.start) as usize];
        if has_data {
            self.work.disk_call(self.operation, self.device.read_at(buffer, piece.start))?;
        } else {
            buffer.fill(0);
        }
        for (nth, chunk) in buffer.chunks(CHUNK_BYTES as usize).enumerate() {
            let offset = piece.start + nth as u64 * CHUNK_BYTES;
            let suspect = self.suspect.touches(&(offset..offset + chunk.len() as u64));
            if suspect && fingerprint.compare(&self.image, offset, chunk) != Verdict::Same {
                found.push(offset);
            }
        }
        Ok(())
    }
}

pub(super) fn no_thread(operation: &str, error: &std::io::Error) -> Failure {
    Failure::new(Code::HostResourcesShort, Cause::Itself, in_full(error))
        .with("host", "this service")
        .with("operation", operation)
}
