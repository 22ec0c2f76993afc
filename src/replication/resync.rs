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

use super::differences::{Differences, no_thread, stretch_bytes};
use super::engine::{Work, fence_disk};
use super::failures::invalid;
use super::shipment::header_after;
use super::source::Head;
use crate::disk::tracker::Suspect;
use crate::domain::failure::Failure;
use crate::domain::id::DiskId;
use crate::domain::time::Timestamp;
use crate::ports::block::BlockDevice;
use crate::ports::replication::{Compared, Progress};
use crate::replica::segment::REGION_BYTES;
use crate::replica::{BLOCK_BYTES, CHUNK_BYTES, Committed, DeltaWriter, Fingerprint};
use std::panic::resume_unwind;
use std::thread::{self, Scope, ScopedJoinHandle};

const OPERATION: &str = "comparing a disk with its replica";

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
    let differences = Differences { work, operation: OPERATION, device, suspect, image };
    let comparison = Comparison { work, disk, differences, size, now };
    let sent = comparison.run(head, done_bytes, progress)?;
    fence_disk(work, disk, work.vm.epoch, 0, now)?;
    Ok(Compared { compared_bytes: suspect.bytes(size), different_bytes: before + sent })
}

struct Comparison<'a> {
    work: &'a Work<'a>,
    disk: DiskId,
    differences: Differences<'a>,
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
        let stretch_bytes = stretch_bytes(self.size);
        let (mut head, mut sent_bytes) = (head, 0);
        thread::scope(|scope| {
            let mut sending: Option<Sending<'_>> = None;
            let mut start = done_bytes;
            while start < self.size {
                let end = ((start / stretch_bytes + 1) * stretch_bytes).min(self.size);
                let mut stretch = Stretch { head, writer: None, different_bytes: 0 };
                for region in start / REGION_BYTES..end.div_ceil(REGION_BYTES) {
                    self.work.still_wanted()?;
                    let Some((fingerprint, chunks)) = self.differences.unequal(region)? else {
                        continue;
                    };
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
        let thread = thread.map_err(|error| no_thread(OPERATION, &error))?;
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

    /// Compares chunks block by block and writes what differs.
    fn send_blocks(
        &self,
        stretch: &mut Stretch,
        fingerprint: &Fingerprint,
        chunks: &[u64],
    ) -> Result<(), Failure> {
        let Differences { image, device, .. } = &self.differences;
        let length = |offset: u64| (self.size - offset).min(CHUNK_BYTES) as usize;
        let mut buffer = vec![0; chunks.iter().map(|offset| length(*offset)).sum()];
        let (mut found, mut rest) = (Vec::with_capacity(chunks.len()), &mut buffer[..]);
        for offset in chunks {
            let (chunk, after) = rest.split_at_mut(length(*offset));
            self.work.disk_call(OPERATION, device.read_at(chunk, *offset))?;
            found.push((*offset, &*chunk));
            rest = after;
        }
        let differing = image.differing_blocks(fingerprint, &found);
        let differing = self.work.vault_call(OPERATION, differing)?;
        for ((offset, chunk), differing) in found.into_iter().zip(differing) {
            let blocks = chunk.chunks(BLOCK_BYTES as usize).enumerate();
            for (nth, block) in blocks.filter(|(nth, _)| differing.contains(*nth)) {
                let at = offset + nth as u64 * BLOCK_BYTES;
                let mut writer = self.writer(stretch)?;
                self.work.vault_call(OPERATION, writer.data(at, block))?;
                stretch.writer = Some(writer);
                stretch.different_bytes += block.len() as u64;
            }
        }
        Ok(())
    }
}

fn follow(head: Head, committed: &Committed) -> Head {
    Head { sequence: committed.sequence, hash: committed.hash, ..head }
}
