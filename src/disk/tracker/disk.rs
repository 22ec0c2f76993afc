//! A disk whose writes are logged: what its hypervisor is served.

use super::gate::{Gate, Shared};
use super::log::DiskLogs;
use super::range_guard::RangeGuard;
use super::room::{self, Growth};
use super::state::TrackedState;
use super::suspect::Suspects;
use super::{Broken, TrackError, names::Names};
use crate::disk::bounds;
use crate::disk::hrl::format::DATA_BYTES_MAX;
use crate::disk::hrl::{LogError, LogTime};
use crate::disk::raw::SECTOR_BYTES;
use crate::domain::id::DiskId;
use crate::ports::block::{BlockDevice, DiskIdentity, Write};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One disk below a tracker.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) id: DiskId,
    pub(super) name: String,
    pub(super) names: Names,
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) suspects: Suspects,
    /// What the log in transit takes on its volume.
    pub(super) transit_bytes: AtomicU64,
    /// What its logs took when the active one was last compacted, or have taken since, whichever is less.
    compacted_bytes: AtomicU64,
    growth: Mutex<Growth>,
    guard: RangeGuard,
    /// Whether a flush of the device failed. The kernel reports such an error once and then forgets the
    /// data, so no later flush proves anything.
    flush_failed: AtomicBool,
}

impl Disk {
    pub(super) fn new(
        id: DiskId,
        name: String,
        names: Names,
        device: Arc<dyn BlockDevice>,
    ) -> Self {
        let flush_failed = AtomicBool::new(false);
        let suspects = Suspects::new(id, device.size_bytes(), &names);
        let guard = RangeGuard::default();
        Self {
            id,
            name,
            names,
            device,
            suspects,
            transit_bytes: AtomicU64::new(0),
            compacted_bytes: AtomicU64::new(0),
            growth: Mutex::default(),
            guard,
            flush_failed,
        }
    }

    /// Makes the device durable. Fails for good once it has failed, until [`Disk::accept_as_it_is`].
    pub(super) fn flush_device(&self) -> io::Result<()> {
        if self.flush_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush of this disk failed"));
        }
        self.device.flush().inspect_err(|_| self.doubt())
    }

    /// Whether [`Disk::flush_device`] fails whatever the device says.
    pub(super) fn flush_has_failed(&self) -> bool {
        self.flush_failed.load(Ordering::Acquire)
    }

    /// What its file is. Makes the device durable, as far as [`Disk::flush_device`] can still prove it.
    pub(super) fn identity(&self) -> Result<Option<DiskIdentity>, TrackError> {
        self.device.identity().map_err(|source| TrackError::Disk { disk: self.id, source })
    }

    /// How fast its logs grow.
    pub(super) fn growth(&self) -> MutexGuard<'_, Growth> {
        self.growth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its logs, which take so much, are large, and have grown since the active one was last compacted.
    pub(super) fn is_worth_compacting(&self, log_bytes: u64) -> bool {
        let size_bytes = self.device.size_bytes();
        let compacted = self.compacted_bytes.fetch_min(log_bytes, Ordering::Relaxed).min(log_bytes);
        let again = compacted + room::compact_again_bytes(size_bytes);
        room::compact_bytes(size_bytes) <= log_bytes && again <= log_bytes
    }

    pub(super) fn was_compacted(&self, log_bytes: u64) {
        self.compacted_bytes.store(log_bytes, Ordering::Relaxed);
    }

    /// Why logs of which the active one takes `active_bytes` end tracking, if they do.
    fn too_large(&self, active_bytes: u64) -> Option<Broken> {
        let log_bytes = active_bytes + self.transit_bytes.load(Ordering::Relaxed);
        let size_bytes = self.device.size_bytes();
        let reason = Broken::LogsTooLarge { disk: self.id, log_bytes, size_bytes };
        (room::limit_bytes(size_bytes) <= log_bytes).then_some(reason)
    }

    /// What the disk holds is what counts: it was written again, or nobody was promised that it is durable.
    pub(super) fn accept_as_it_is(&self) {
        self.flush_failed.store(false, Ordering::Release);
    }

    /// As after a flush that failed: what the disk holds may not be durable, whatever it answers.
    pub(super) fn doubt(&self) {
        self.flush_failed.store(true, Ordering::Release);
    }
}

/// Enters what the disks' files are into `known`. Makes the disks durable.
pub(super) fn identify(
    disks: &[Disk],
    known: &mut BTreeMap<DiskId, TrackedState>,
) -> Result<(), TrackError> {
    for disk in disks {
        if let Some(known) = known.get_mut(&disk.id) {
            known.identity = disk.identity()?.map(|identity| identity.file);
        }
    }
    Ok(())
}

/// A disk that a [`Tracker`](super::Tracker) serves.
///
/// While tracking is on, a write is appended to the log, then written to the disk, then acknowledged;
/// a flush makes the log durable, not the disk. Otherwise everything goes straight to the disk.
#[derive(Debug)]
pub struct TrackedDisk {
    shared: Arc<Shared>,
    index: usize,
}

/// One change of a disk.
#[derive(Clone)]
enum Change<'a> {
    Data { data: Cow<'a, [u8]>, offset: u64 },
    Zero { range: Range<u64>, punch: bool },
}

impl TrackedDisk {
    pub(super) fn new(shared: Arc<Shared>, index: usize) -> Self {
        Self { shared, index }
    }

    fn disk(&self) -> &Disk {
        &self.shared.disks[self.index]
    }

    fn device(&self) -> &dyn BlockDevice {
        &*self.disk().device
    }

    fn change(&self, change: &Change<'_>, fua: bool) -> io::Result<()> {
        let suspects = &self.disk().suspects;
        let sectors = change.sectors();
        loop {
            let gate = self.shared.read_gate();
            if matches!(&*gate, Gate::On(_) | Gate::Broken(_)) {
                if !suspects.marks.cover(&sectors) {
                    drop(gate); // a cut need not wait for a sync
                    self.shared.mark(self.disk(), &sectors);
                    continue;
                }
                suspects.touch(&sectors);
            }
            let logs = match &*gate {
                Gate::Closed => return Err(io::ErrorKind::NotConnected.into()),
                Gate::Off | Gate::Broken(_) => {
                    change.apply_to(self.device())?;
                    return if fua { self.shared.flush_device(self.disk()) } else { Ok(()) };
                }
                Gate::On(logs) => &logs[self.index],
            };
            let held = self.disk().guard.hold(sectors.clone());
            let log_bytes = match self.append(logs, &change.widened(self.device())?) {
                Ok(log_bytes) => log_bytes,
                Err(error) => {
                    drop(held);
                    drop(gate);
                    self.shared.break_with(Broken::log_write_failed(self.disk().id, &error));
                    continue;
                }
            };
            let applied = change.apply_to(self.device());
            let kept = match &applied {
                Ok(()) => self.disk().too_large(log_bytes).map_or(Ok(()), Err),
                Err(_) => self.log_what_the_disk_holds(logs, sectors.clone()),
            };
            drop(held);
            drop(gate);
            if let Err(reason) = kept {
                self.shared.break_with(reason);
            }
            applied?;
            return if fua { self.flush() } else { Ok(()) };
        }
    }

    /// Does plain writes of whole sectors together: logs all of them, then writes each. `None` where it
    /// has to be done one by one, with nothing done.
    fn write_together(&self, writes: &[Write<'_>]) -> Option<Vec<io::Result<()>>> {
        let disk = self.disk();
        let sectors: Vec<Range<u64>> =
            writes.iter().map(|write| self.whole_sectors(write)).collect::<Option<_>>()?;
        let gate = self.shared.read_gate();
        let Gate::On(logs) = &*gate else { return None };
        let logs = &logs[self.index];
        if !sectors.iter().all(|sectors| disk.suspects.marks.cover(sectors)) {
            return None;
        }
        for sectors in &sectors {
            disk.suspects.touch(sectors);
        }
        let held = disk.guard.hold_each(sectors);
        let log_bytes = match self.append_each(logs, writes) {
            Ok(log_bytes) => log_bytes,
            Err(error) => {
                drop(held);
                drop(gate);
                self.shared.break_with(Broken::log_write_failed(disk.id, &error));
                return None;
            }
        };
        let applied = self.device().write_each_at(writes);
        // After the last of them: the log then ends with what the disk holds, whoever overlaps whom.
        let refused = applied.iter().zip(writes).filter(|(applied, _)| applied.is_err());
        let kept = refused
            .map(|(_, write)| write.offset..write.offset + write.data.len() as u64)
            .try_for_each(|range| self.log_what_the_disk_holds(logs, range))
            .and_then(|()| disk.too_large(log_bytes).map_or(Ok(()), Err));
        drop(held);
        drop(gate);
        if let Err(reason) = kept {
            self.shared.break_with(reason);
        }
        Some(applied)
    }

    /// The range of a write that takes whole sectors of the disk and one entry of the log.
    fn whole_sectors(&self, write: &Write<'_>) -> Option<Range<u64>> {
        let length = write.data.len() as u64;
        bounds::check(self.size_bytes(), write.offset, length).ok()?;
        let whole = write.offset.is_multiple_of(SECTOR_BYTES)
            && length.is_multiple_of(SECTOR_BYTES)
            && (1..=DATA_BYTES_MAX as u64).contains(&length);
        whole.then_some(write.offset..write.offset + length)
    }

    /// Answers what the log takes on its volume then.
    fn append_each(&self, logs: &DiskLogs, writes: &[Write<'_>]) -> Result<u64, LogError> {
        let at = LogTime::from(self.shared.clock.now());
        let mut writer = logs.active.writer();
        writer.append_each(writes, at)?;
        Ok(writer.allocated_bytes())
    }

    /// Answers what the log takes on its volume then.
    fn append(&self, logs: &DiskLogs, change: &Change<'_>) -> Result<u64, LogError> {
        let at = LogTime::from(self.shared.clock.now());
        let mut writer = logs.active.writer();
        match change {
            Change::Data { data, offset } => writer.append(data, *offset, at)?,
            Change::Zero { range, .. } => writer.append_zeroes(range.clone(), at)?,
        }
        Ok(writer.allocated_bytes())
    }

    /// After a write that the disk refused, or took a part of: logs what is there, so that the log
    /// still leads to what the disk holds.
    fn log_what_the_disk_holds(&self, logs: &DiskLogs, range: Range<u64>) -> Result<(), Broken> {
        let disk = self.disk();
        let at = LogTime::from(self.shared.clock.now());
        let mut buffer = Vec::new();
        for start in range.clone().step_by(DATA_BYTES_MAX) {
            let length = (range.end - start).min(DATA_BYTES_MAX as u64);
            buffer.resize(length as usize, 0);
            let unknown = |error: io::Error| Broken::DiskUnknown {
                disk: disk.id,
                offset: start,
                error: error.to_string(),
            };
            disk.device.read_at(&mut buffer, start).map_err(unknown)?;
            let appended = logs.active.writer().append(&buffer, start, at);
            appended.map_err(|error| Broken::log_write_failed(disk.id, &error))?;
        }
        Ok(())
    }
}

impl BlockDevice for TrackedDisk {
    fn size_bytes(&self) -> u64 {
        self.device().size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.device().read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64, fua: bool) -> io::Result<()> {
        bounds::check(self.size_bytes(), offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(());
        }
        self.change(&Change::Data { data: Cow::Borrowed(data), offset }, fua)
    }

    fn write_each_at(&self, writes: &[Write<'_>]) -> Vec<io::Result<()>> {
        self.write_together(writes).unwrap_or_else(|| {
            writes.iter().map(|write| self.write_at(write.data, write.offset, false)).collect()
        })
    }

    fn zero(&self, range: Range<u64>, punch: bool, fua: bool) -> io::Result<()> {
        let length = range.end.saturating_sub(range.start);
        bounds::check(self.size_bytes(), range.start, length)?;
        let sector = SECTOR_BYTES;
        let inner = range.start.next_multiple_of(sector)..range.end - range.end % sector;
        if inner.is_empty() {
            return self.write_at(&vec![0; length as usize], range.start, fua);
        }
        // Edges inside a sector are written as data; the log holds whole sectors only.
        let edge = [0; SECTOR_BYTES as usize];
        self.write_at(&edge[..(inner.start - range.start) as usize], range.start, false)?;
        self.write_at(&edge[..(range.end - inner.end) as usize], inner.end, false)?;
        let zero = Change::Zero { range: inner.clone(), punch };
        if inner == range {
            return self.change(&zero, fua);
        }
        self.change(&zero, false)?;
        if fua { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> io::Result<()> {
        loop {
            let gate = self.shared.read_gate();
            let logs = match &*gate {
                Gate::On(logs) => logs[self.index].clone(),
                Gate::Off | Gate::Broken(_) | Gate::Closed => {
                    drop(gate);
                    return self.shared.flush_device(self.disk());
                }
            };
            drop(gate); // a cut need not wait for a flush
            let Err(error) = logs.flush() else { return Ok(()) };
            self.shared.break_with(Broken::log_write_failed(self.disk().id, &error));
        }
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.device().next_data(from)
    }

    fn read_only(&self) -> bool {
        self.device().read_only()
    }
}

impl Change<'_> {
    /// The whole sectors that the change touches.
    fn sectors(&self) -> Range<u64> {
        match self {
            Self::Zero { range, .. } => range.clone(),
            Self::Data { data, offset } => {
                let end = offset + data.len() as u64;
                offset - offset % SECTOR_BYTES..end.next_multiple_of(SECTOR_BYTES)
            }
        }
    }

    /// The change as the log takes it, in whole sectors: what is missing is read from the disk, which
    /// nobody else changes there meanwhile.
    fn widened(&self, device: &dyn BlockDevice) -> io::Result<Self> {
        let Self::Data { data, offset } = self else { return Ok(self.clone()) };
        let sectors = self.sectors();
        if sectors.end - sectors.start == data.len() as u64 {
            return Ok(self.clone());
        }
        let mut whole = vec![0; (sectors.end - sectors.start) as usize];
        device.read_at(&mut whole, sectors.start)?;
        let start = (offset - sectors.start) as usize;
        whole[start..start + data.len()].copy_from_slice(data);
        Ok(Change::Data { data: Cow::Owned(whole), offset: sectors.start })
    }

    fn apply_to(&self, device: &dyn BlockDevice) -> io::Result<()> {
        match self {
            Self::Data { data, offset } => device.write_at(data, *offset, false),
            Self::Zero { range, punch } => device.zero(range.clone(), *punch, false),
        }
    }
}
