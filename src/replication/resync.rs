//! Resynchronization: a disk is compared with its replica by checksums, and only the blocks that differ
//! travel. They follow in the disk's log, so that older recovery points stay what they are.
//!
//! ```text
//!  ... older deltas | fence | blocks that differ, one segment a stretch | fence | first delta of the chain
//!        points ----^       '---------- no point names these ---------'           '---- the next point
//! ```
//!
//! The disk is written to meanwhile, and tracked. What was compared early may have changed since, so the
//! segments are no state that the disk ever had; with the logs of the chain on top they are. The first
//! fence keeps out deltas of an earlier chain that are still under way. The second says where the
//! comparison ends, so that a first delta which was half sent before a crash is found under its number.
//!
//! The work is done in stretches of whole regions. A stretch counts as done, and is told, once what
//! differed in it and in all before it is durable in the vault: work that begins again goes on there.
//! While a stretch is sent the next one is compared, by as many threads as there are cores; so what is
//! compared a second time is the stretch that was on its way and the one that had been begun.

use super::engine::{Work, fence_disk};
use super::failures::invalid;
use super::shipment::header_after;
use super::source::Head;
use crate::disk::tracker::Suspect;
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure, in_full};
use crate::domain::id::DiskId;
use crate::domain::time::Timestamp;
use crate::ports::block::BlockDevice;
use crate::ports::replication::{Compared, Progress};
use crate::replica::segment::REGION_BYTES;
use crate::replica::{
    BLOCK_BYTES, CHUNK_BYTES, Committed, DeltaWriter, DiskImage, Fingerprint, Verdict,
};
use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};

const OPERATION: &str = "comparing a disk with its replica";

/// Bytes read from the disk at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Stretches of a disk, and so segments and recorded steps of progress, at most: up to 256 GiB each
/// stretch is one region of 64 MiB.
const STRETCHES_MAX: u64 = 4096;

/// Chunks whose blocks are compared at a time: 4 MiB of data where there are no checksums.
const CHUNKS_AT_ONCE: usize = 64;

/// Compares what is suspect of the disk after its first `done_bytes`, and sends what differs.
pub(super) fn compare_disk(
    work: &Work<'_>,
    disk: DiskId,
    device: &dyn BlockDevice,
    suspect: &Suspect,
    done_bytes: u64,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Compared, Failure> {
    let begins = done_bytes == 0;
    if begins {
        // Always another one: a delta under way may name the one that the log ends with.
        fence_disk(work, disk, work.vm.epoch, u64::MAX, now)?;
    }
    let last = work.vault_call(OPERATION, work.vault.head(disk))?;
    let Some(last) = last.filter(|last| last.header.epoch <= work.vm.epoch) else {
        return Err(invalid(work.vm, OPERATION, "its log is not the one that was begun"));
    };
    let sequence = last.header.sequence;
    let image = work.vault_call(OPERATION, work.vault.open_disk(disk, sequence))?;
    let head = Head { sequence, hash: last.hash, generation: 0 };
    let size = device.size_bytes();
    if image.size_bytes() != size {
        return Err(invalid(work.vm, OPERATION, "it has another size than the disk"));
    }
    let before = if begins { 0 } else { image.bytes_after_fence() };
    let comparison = Comparison { work, disk, device, suspect, image, size, now };
    let sent = comparison.run(head, done_bytes, progress)?;
    fence_disk(work, disk, work.vm.epoch, 0, now)?;
    Ok(Compared { compared_bytes: suspect.bytes(size), different_bytes: before + sent })
}

struct Comparison<'a> {
    work: &'a Work<'a>,
    disk: DiskId,
    device: &'a dyn BlockDevice,
    suspect: &'a Suspect,
    image: DiskImage,
    size: u64,
    now: Timestamp,
}

/// A stretch that is being compared.
struct Stretch {
    /// What its next segment follows.
    head: Head,
    /// That segment, once something differed.
    writer: Option<DeltaWriter>,
    different_bytes: u64,
}

/// A stretch on its way to the vault, and where it ends.
struct Sending<'scope> {
    thread: ScopedJoinHandle<'scope, Result<Committed, Failure>>,
    end: u64,
}

impl Comparison<'_> {
    /// Answers the bytes that differed.
    fn run(&self, head: Head, done_bytes: u64, progress: Progress<'_>) -> Result<u64, Failure> {
        let regions = self.size.div_ceil(REGION_BYTES);
        let stretch_bytes = regions.div_ceil(STRETCHES_MAX).max(1) * REGION_BYTES;
        let (mut head, mut sent_bytes) = (head, 0);
        thread::scope(|scope| {
            let mut sending: Option<Sending<'_>> = None;
            let mut start = done_bytes;
            while start < self.size {
                let end = ((start / stretch_bytes + 1) * stretch_bytes).min(self.size);
                let mut stretch = Stretch { head, writer: None, different_bytes: 0 };
                for region in start / REGION_BYTES..end.div_ceil(REGION_BYTES) {
                    self.work.still_wanted()?;
                    let Some((fingerprint, chunks)) = self.unequal(region)? else { continue };
                    if let Some(before) = sending.take() {
                        stretch.head = self.sent(before, stretch.head, progress)?;
                    }
                    for chunks in chunks.chunks(CHUNKS_AT_ONCE) {
                        self.send_blocks(&mut stretch, &fingerprint, chunks)?;
                    }
                }
                if let Some(before) = sending.take() {
                    stretch.head = self.sent(before, stretch.head, progress)?;
                }
                sent_bytes += stretch.different_bytes;
                head = stretch.head;
                match stretch.writer {
                    Some(writer) => sending = Some(self.send(scope, writer, end)?),
                    None => progress(end, self.size),
                }
                start = end;
            }
            if let Some(last) = sending {
                self.sent(last, head, progress)?;
            }
            Ok(sent_bytes)
        })
    }

    /// The segment that the next block goes to.
    fn writer(&self, stretch: &mut Stretch) -> Result<DeltaWriter, Failure> {
        if let Some(full) = stretch.writer.take_if(|writer| writer.is_full()) {
            let committed = self.work.vault_call(OPERATION, full.commit())?;
            stretch.head = follow(stretch.head, &committed);
        }
        Ok(stretch.writer.take().unwrap_or_else(|| {
            let header = header_after(self.work, stretch.head, self.size, self.now);
            self.work.vault.delta(self.disk, header)
        }))
    }

    /// Sends what differed in a stretch on a thread of its own.
    fn send<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        writer: DeltaWriter,
        end: u64,
    ) -> Result<Sending<'scope>, Failure> {
        let send = move || self.work.vault_call(OPERATION, writer.commit());
        let thread = thread::Builder::new().name("resync".to_owned()).spawn_scoped(scope, send);
        let thread = thread.map_err(|error| no_thread(&error))?;
        Ok(Sending { thread, end })
    }

    /// Waits until a stretch is in the vault.
    fn sent(
        &self,
        sending: Sending<'_>,
        head: Head,
        progress: Progress<'_>,
    ) -> Result<Head, Failure> {
        let committed = sending.thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        progress(sending.end, self.size);
        Ok(follow(head, &committed))
    }

    /// The chunks of a region that are not known to be equal, with what is known of it; `None` if all
    /// are.
    fn unequal(&self, region: u64) -> Result<Option<(Fingerprint, Vec<u64>)>, Failure> {
        let start = region * REGION_BYTES;
        let range = start..(start + REGION_BYTES).min(self.size);
        if !self.suspect.touches(&range) {
            return Ok(None);
        }
        let fingerprint = self.work.vault_call(OPERATION, self.image.fingerprint(region))?;
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
                let other = other.map_err(|error| no_thread(&error))?;
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
            let run = self.work.disk_read(self.device.next_data(at))?;
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
            self.work.disk_read(self.device.read_at(buffer, piece.start))?;
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

    /// Compares chunks block by block and writes what differs.
    fn send_blocks(
        &self,
        stretch: &mut Stretch,
        fingerprint: &Fingerprint,
        chunks: &[u64],
    ) -> Result<(), Failure> {
        let blocks = self.image.blocks(fingerprint, chunks);
        let blocks = self.work.vault_call(OPERATION, blocks)?;
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        for (offset, blocks) in blocks {
            let length = (self.size - offset).min(CHUNK_BYTES) as usize;
            let chunk = &mut buffer[..length];
            self.work.disk_read(self.device.read_at(chunk, offset))?;
            for (nth, block) in chunk.chunks(BLOCK_BYTES as usize).enumerate() {
                if blocks.differs(&self.image, nth, block) {
                    let at = offset + nth as u64 * BLOCK_BYTES;
                    let mut writer = self.writer(stretch)?;
                    self.work.vault_call(OPERATION, writer.data(at, block))?;
                    stretch.writer = Some(writer);
                    stretch.different_bytes += block.len() as u64;
                }
            }
        }
        Ok(())
    }
}

fn follow(head: Head, committed: &Committed) -> Head {
    Head { sequence: committed.sequence, hash: committed.hash, ..head }
}

fn no_thread(error: &std::io::Error) -> Failure {
    Failure::new(Code::HostResourcesShort, Cause::Itself, in_full(error))
        .with("host", "this service")
        .with("operation", OPERATION)
}
