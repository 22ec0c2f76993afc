//! The initial copy of a disk: region by region, holes skipped, while the VM writes.
//!
//! Regions that an earlier run has sent stand as they are: whatever was written since is in the logs,
//! which go on top. Returns are durable as the vault's are.

use super::engine::Work;
use crate::domain::failure::Failure;
use crate::ports::block::BlockDevice;
use crate::ports::replication::Progress;
use crate::replica::segment::REGION_BYTES;
use crate::replica::{BaseCopy, RegionWriter};
use std::io;
use std::ops::Range;

/// Bytes read from the disk at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Copies the whole disk and answers the bytes that were sent.
pub(super) fn copy_disk(
    work: &Work<'_>,
    device: &dyn BlockDevice,
    copy: &BaseCopy,
    progress: Progress<'_>,
) -> Result<u64, Failure> {
    let size = device.size_bytes();
    let present = work.vault_call("copying a disk", copy.regions_present())?;
    let mut sent_bytes = 0;
    progress(0, size);
    for region in 0..size.div_ceil(REGION_BYTES) {
        work.still_wanted()?;
        let range = region * REGION_BYTES..((region + 1) * REGION_BYTES).min(size);
        if !present.contains_key(&region) {
            let mut writer = copy.region(region);
            sent_bytes += read_region(work, device, &mut writer, range.clone())?;
            work.vault_call("copying a disk", writer.commit())?;
        }
        progress(range.end, size);
    }
    Ok(sent_bytes)
}

fn read_region(
    work: &Work<'_>,
    device: &dyn BlockDevice,
    writer: &mut RegionWriter<'_>,
    range: Range<u64>,
) -> Result<u64, Failure> {
    let mut buffer = Vec::new();
    let mut bytes = 0;
    let mut at = range.start;
    while let Some(data) = work.disk_read(data_in(device, at..range.end))? {
        for piece in pieces(data.clone()) {
            work.still_wanted()?;
            buffer.resize((piece.end - piece.start) as usize, 0);
            work.disk_read(device.read_at(&mut buffer, piece.start))?;
            work.checked("copying a disk", writer.data(piece.start, &buffer))?;
        }
        bytes += data.end - data.start;
        at = data.end;
    }
    Ok(bytes)
}

/// The first run of data within `range`.
fn data_in(device: &dyn BlockDevice, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    if range.is_empty() {
        return Ok(None);
    }
    let data = device.next_data(range.start)?.filter(|data| data.start < range.end);
    Ok(data.map(|data| data.start.max(range.start)..data.end.min(range.end)))
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.step_by(PIECE_BYTES as usize).map(move |start| start..(start + PIECE_BYTES).min(end))
}
