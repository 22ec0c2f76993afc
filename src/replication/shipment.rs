//! Sending one cut: the logs of all disks become segments, then a recovery point, then they go.

use super::engine::{Work, fence_disk};
use super::failures::invalid;
use super::last_writes::{EXTENTS_MAX, LastWrites};
use super::source::{Head, Source};
use crate::disk::hrl::{HeaderTrust, LogReader, LoggedWrite};
use crate::disk::tracker::{Cut, TransitLog};
use crate::domain::failure::Failure;
use crate::domain::id::DiskId;
use crate::domain::time::Timestamp;
use crate::domain::vm::{RecoveryPoint, Vm};
use crate::ports::files::Files;
use crate::replica::segment::Kind;
use crate::replica::{
    Consistency, DeltaHeader, DeltaWriter, DiskPoint, Names, RecoveryPointRecord,
    generation_of_copy,
};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes read from a log at a time.
const PIECE_BYTES: u32 = 1 << 20;

/// Sends a cut and makes its recovery point; a part that is in the vault already is recognized. The
/// logs are removed once the point is durable.
pub(super) fn ship(
    work: &Work<'_>,
    source: &Source,
    cut: &Cut,
    last_cycle: Option<u64>,
) -> Result<RecoveryPoint, Failure> {
    let known = source.take_heads();
    let mut heads = BTreeMap::new();
    let mut disks = BTreeMap::new();
    let mut stored_bytes = 0;
    for log in &cut.logs {
        let before = head_before(work, known.get(&log.disk), log.disk, last_cycle, cut.at)?;
        let (head, bytes) = ship_log(work, &*source.files, log, before, cut.at)?;
        stored_bytes += bytes;
        heads.insert(log.disk, (cut.number, head));
        let Head { sequence, generation, .. } = head;
        disks.insert(log.disk, DiskPoint { sequence, generation, epoch: work.vm.epoch });
    }
    let (cycle, at) = (cut.number, cut.at);
    let point = RecoveryPoint { cycle, at, bytes: stored_bytes };
    let record = RecoveryPointRecord {
        id: point.id(work.vm.id),
        vm: work.vm.id,
        cycle,
        at,
        consistency: if work.vm.application_consistent.contains(&cycle) {
            Consistency::Application
        } else {
            Consistency::Crash
        },
        stored_bytes,
        disks,
        names: names(work.vm),
    };
    work.vault_call("making a recovery point", work.vault.put_point(&record))?;
    source.remember_heads(heads);
    work.checked_at_host("removing sent logs", source.tracker.acknowledge(cycle))?;
    Ok(point)
}

fn names(vm: &Vm) -> Names {
    let disks = vm.disks.iter().map(|disk| (disk.id, disk.name.clone())).collect();
    Names { vm: vm.name.clone(), disks }
}

fn ship_log(
    work: &Work<'_>,
    files: &dyn Files,
    log: &TransitLog,
    before: Head,
    cut_at: Timestamp,
) -> Result<(Head, u64), Failure> {
    let operation = "reading a replication log";
    let reader = LogReader::open(files, &log.path, HeaderTrust::Verified);
    let reader = work.checked_at_host(operation, reader)?;
    let mut writes = LastWrites::of(&reader, EXTENTS_MAX);
    let mut sender = Sender::new(work, log.disk, before, cut_at)?;
    while let Some(part) = work.checked_at_host(operation, writes.next())? {
        for extent in part.iter() {
            if sender.writer.is_full() {
                sender = sender.commit()?;
            }
            sender.send(&reader, &extent.range, extent.value)?;
        }
    }
    let sender = sender.commit()?;
    Ok((sender.head, sender.stored_bytes))
}

/// Sends the merged writes of one log as one segment, or as several where one cannot hold them.
struct Sender<'a> {
    work: &'a Work<'a>,
    disk: DiskId,
    disk_size: u64,
    cut_at: Timestamp,
    head: Head,
    writer: DeltaWriter,
    stored_bytes: u64,
    buffer: Vec<u8>,
}

impl<'a> Sender<'a> {
    const OPERATION: &'static str = "sending a delta";

    fn new(
        work: &'a Work<'a>,
        disk: DiskId,
        head: Head,
        cut_at: Timestamp,
    ) -> Result<Self, Failure> {
        let disk_size = work.disk_size(disk)?;
        let writer = work.vault.delta(disk, header_after(work, head, disk_size, cut_at));
        let buffer = Vec::new();
        Ok(Self { work, disk, disk_size, cut_at, head, writer, stored_bytes: 0, buffer })
    }

    fn send(
        &mut self,
        reader: &LogReader,
        range: &Range<u64>,
        write: &LoggedWrite,
    ) -> Result<(), Failure> {
        if write.zero {
            return self.work.checked(Self::OPERATION, self.writer.zeroes(range.clone()));
        }
        let mut at = range.start;
        while at < range.end {
            self.work.still_wanted()?;
            let length = (range.end - at).min(u64::from(PIECE_BYTES)) as usize;
            self.buffer.resize(length, 0);
            let from = (at - write.offset) as u32;
            let read = reader.read_data(write, from, &mut self.buffer);
            self.work.checked_at_host(Self::OPERATION, read)?;
            self.work.vault_call(Self::OPERATION, self.writer.data(at, &self.buffer))?;
            at += length as u64;
        }
        Ok(())
    }

    /// Commits what was sent. The hash that the next segment names is known only then.
    fn commit(mut self) -> Result<Self, Failure> {
        let committed = self.work.vault_call(Self::OPERATION, self.writer.commit())?;
        let (sequence, hash) = (committed.sequence, committed.hash);
        self.head = Head { sequence, hash, ..self.head };
        self.stored_bytes += committed.stored_bytes;
        let header = header_after(self.work, self.head, self.disk_size, self.cut_at);
        self.writer = self.work.vault.delta(self.disk, header);
        Ok(self)
    }
}

pub(super) fn header_after(
    work: &Work<'_>,
    head: Head,
    disk_size: u64,
    cut_at: Timestamp,
) -> DeltaHeader {
    let (sequence, previous) = (head.sequence + 1, head.hash);
    DeltaHeader { sequence, epoch: work.vm.epoch, previous, cut_at, disk_size }
}

/// What the disk's next delta follows: the newest recovery point, or the base where that is newer.
///
/// Not simply the last segment in the vault: that may be one of this very delta, sent before a crash,
/// which is to be found again under its own number.
fn head_before(
    work: &Work<'_>,
    known: Option<&(u64, Head)>,
    disk: DiskId,
    last_cycle: Option<u64>,
    now: Timestamp,
) -> Result<Head, Failure> {
    let operation = Sender::OPERATION;
    // Of the copy, whatever was merged into it since.
    let generation = generation_of_copy(work.vm.delta.generation);
    if let Some((cycle, head)) = known
        && Some(*cycle) == last_cycle
        && head.generation == generation
    {
        return Ok(*head);
    }
    let base = work.vault_call(operation, work.vault.newest_base(disk))?;
    let Some((_, base)) = base else {
        return Err(invalid(work.vm, operation, "its disks were never copied completely"));
    };
    let from_base = Head { sequence: base.from_seq, hash: base.from_hash, generation };
    let Some(cycle) = last_cycle else { return Ok(from_base) };
    let record = work.point(cycle)?;
    let point = record.and_then(|record| record.disks.get(&disk).copied());
    let from_point = match point {
        Some(DiskPoint { sequence, .. }) if base.from_seq < sequence => {
            let segment = work.vault_call(operation, work.vault.segment(disk, sequence))?;
            let Some(segment) = segment else {
                return Err(invalid(work.vm, operation, "its last segment is missing"));
            };
            Head { sequence, hash: segment.hash, generation }
        }
        Some(_) | None => from_base,
    };
    let epoch = point.map_or(work.vm.epoch, |point| point.epoch);
    after_fence(work, disk, from_point, epoch, now)
}

/// What the next delta follows: the last fence that this side put up after the newest point. One closed
/// what a comparison had sent, or closed the log to the other site, or was put up by a failover that was
/// cancelled. `before` itself, of this epoch, where there is none, or where somebody else closed the log
/// meanwhile, which sending will meet.
///
/// An epoch begins with its fence: where a failover was cancelled before it had come so far, it is put up
/// here, after whatever was half sent in the epoch before.
fn after_fence(
    work: &Work<'_>,
    disk: DiskId,
    before: Head,
    epoch: u64,
    now: Timestamp,
) -> Result<Head, Failure> {
    let operation = Sender::OPERATION;
    let last = work.vault_call(operation, work.vault.last_sequence(disk))?;
    let mut fence = None;
    for sequence in (before.sequence + 1..=last.unwrap_or(0)).rev() {
        let segment = work.vault_call(operation, work.vault.segment(disk, sequence))?;
        fence = segment.filter(|segment| segment.header.kind == Kind::Fence);
        if fence.is_some() {
            break;
        }
    }
    let begun = fence.as_ref().map_or(epoch, |fence| fence.header.epoch);
    match fence {
        _ if begun < work.vm.epoch => {
            let (sequence, hash) = fence_disk(work, disk, work.vm.epoch, before.sequence, now)?;
            Ok(Head { sequence, hash, ..before })
        }
        Some(fence) if begun == work.vm.epoch => {
            Ok(Head { sequence: fence.header.sequence, hash: fence.hash, ..before })
        }
        Some(_) | None => Ok(before),
    }
}
