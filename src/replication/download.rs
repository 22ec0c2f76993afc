//! Downloading: what of a failed-over VM's disks is in the vault only is brought to the recovery site, while the VM
//! runs on them. Once nothing is left, its disks are whole images there, and the vault is needed for nothing.
//!
//! Which parts are there is noted by the overlay, durably from time to time, so that a download which is interrupted
//! goes on where it was. What the VM writes meanwhile is there as it is, and not downloaded.

use super::engine::Work;
use super::failures::RECOVERY_SITE;
use super::source::Source;
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::DiskId;
use crate::ports::block::BlockDevice;
use crate::ports::replication::Progress;
use crate::replica::{CHUNK_BYTES, Overlay};
use std::ops::Range;

const OPERATION: &str = "downloading a disk";

/// Bytes downloaded at a time: enough to keep several requests to the vault under way.
const DOWNLOAD_BYTES: u64 = 16 << 20;

/// Bytes after which what was downloaded is made durable: what an interruption costs at most.
const DURABLE_EVERY: u64 = 256 << 20;

/// Checks that `free` bytes are enough for what the disks lack, holes left out.
pub(super) fn check_room(work: &Work<'_>, source: &Source, free: u64) -> Result<(), Failure> {
    let mut missing = 0;
    for overlay in source.overlays.values() {
        missing += missing_bytes(work, overlay)?;
    }
    if missing <= free {
        return Ok(());
    }
    let check =
        format!("room at {RECOVERY_SITE} (its disks lack {missing} bytes, {free} are free)");
    Err(Failure::new(Code::PrerequisiteFailed, Cause::Itself, "")
        .with("check", check)
        .with("vm", &work.vm.name))
}

/// Bytes of data that are in the vault only.
fn missing_bytes(work: &Work<'_>, overlay: &Overlay) -> Result<u64, Failure> {
    let (mut at, mut bytes) = (0, 0);
    while let Some(absent) = overlay.absent(at) {
        at = absent.start;
        while let Some(data) = next_data(work, overlay, at..absent.end)? {
            bytes += data.end - data.start;
            at = data.end;
        }
        at = absent.end;
    }
    Ok(bytes)
}

/// The first run of data within a range.
fn next_data(
    work: &Work<'_>,
    overlay: &Overlay,
    range: Range<u64>,
) -> Result<Option<Range<u64>>, Failure> {
    let data = work.vault_call(OPERATION, overlay.image().next_data(range.start))?;
    let data = data.map(|data| data.start.max(range.start)..data.end.min(range.end));
    Ok(data.filter(|data| data.start < data.end))
}

/// Makes a disk whole, durably.
pub(super) fn download(
    work: &Work<'_>,
    source: &Source,
    disk: DiskId,
    progress: Progress<'_>,
) -> Result<(), Failure> {
    let Some(overlay) = source.overlays.get(&disk) else { return Ok(()) };
    let size = overlay.size_bytes();
    let (mut at, mut unsaved) = (0, 0);
    while let Some(absent) = overlay.absent(at) {
        work.still_wanted()?;
        let done = fill_some(work, overlay, &absent)?;
        at = done.end;
        unsaved += done.end - done.start;
        if DURABLE_EVERY <= unsaved {
            work.disk_call(OPERATION, overlay.flush())?;
            unsaved = 0;
        }
        progress(at, size);
    }
    // Also where nothing was missing: what an earlier attempt downloaded may not be durable.
    work.disk_call(OPERATION, overlay.flush())?;
    progress(size, size);
    Ok(())
}

/// Fills the beginning of a run that is absent: a hole as a whole, or some data. Answers what it filled.
fn fill_some(
    work: &Work<'_>,
    overlay: &Overlay,
    absent: &Range<u64>,
) -> Result<Range<u64>, Failure> {
    let data = next_data(work, overlay, absent.clone())?;
    let hole_end = data.map_or(absent.end, |data| data.start / CHUNK_BYTES * CHUNK_BYTES);
    if absent.start < hole_end {
        let hole = absent.start..hole_end;
        work.disk_call(OPERATION, overlay.fill_zeroes(hole.clone()))?;
        return Ok(hole);
    }
    let piece = absent.start..absent.end.min(absent.start + DOWNLOAD_BYTES);
    let mut bytes = vec![0; (piece.end - piece.start) as usize];
    work.vault_call(OPERATION, overlay.image().read_at(piece.start, &mut bytes))?;
    work.disk_call(OPERATION, overlay.fill(&bytes, piece.start))?;
    Ok(piece)
}

/// Has the VM go on with nothing but its disks, which are whole: their writes are tracked no more. Durable when this
/// returns.
pub(super) fn leave_vault(work: &Work<'_>, source: &Source) -> Result<(), Failure> {
    for disk in source.overlays.keys() {
        download(work, source, *disk, &|_, _| ())?;
    }
    // What was flushed is in the logs only, until tracking has ended. That there was a chain is still known then: if the
    // end of protection is given up, the disks are not taken for their recovery point.
    work.checked_at_host("ending tracking", source.tracker.stop())
}
