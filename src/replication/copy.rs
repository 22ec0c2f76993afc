//! The initial copy of a disk: region by region, holes skipped, while the VM writes. What was read is
//! sent in parts, several at a time while the next is read, and a region follows its parts while the next
//! region is read.
//!
//! Regions that an earlier run has sent stand as they are: whatever was written since is in the logs,
//! which go on top. Returns are durable as the vault's are.

use super::differences::no_thread;
use super::engine::Work;
use crate::domain::failure::Failure;
use crate::ports::block::BlockDevice;
use crate::ports::replication::Progress;
use crate::replica::segment::REGION_BYTES;
use crate::replica::{BaseCopy, RegionWriter};
use std::io;
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

const OPERATION: &str = "copying a disk";

/// Bytes read from the disk at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// A region on its way to the vault; answers its bytes.
type Committing<'scope> = ScopedJoinHandle<'scope, Result<u64, Failure>>;

/// Copies the whole disk and answers the bytes that were sent.
pub(super) fn copy_disk(
    work: &Work<'_>,
    device: &dyn BlockDevice,
    copy: &BaseCopy,
    progress: Progress<'_>,
) -> Result<u64, Failure> {
    let size = device.size_bytes();
    let present = work.vault_call(OPERATION, copy.regions_present())?;
    let (mut sent_bytes, mut done_bytes) = (0, 0);
    let mut done = |bytes| {
        done_bytes += bytes;
        progress(done_bytes, size);
    };
    done(0);
    thread::scope(|scope| {
        let mut committing = None;
        for region in 0..size.div_ceil(REGION_BYTES) {
            work.still_wanted()?;
            let range = region * REGION_BYTES..((region + 1) * REGION_BYTES).min(size);
            let bytes = range.end - range.start;
            if present.contains_key(&region) {
                done(bytes);
                continue;
            }
            let mut writer = copy.region(region);
            sent_bytes += read_region(work, device, &mut writer, range)?;
            done(wait(committing.take())?);
            let commit = move || work.vault_call(OPERATION, writer.commit()).map(|_| bytes);
            let thread = thread::Builder::new().name("copy".to_owned()).spawn_scoped(scope, commit);
            committing = Some(thread.map_err(|error| no_thread(OPERATION, &error))?);
        }
        done(wait(committing)?);
        Ok(sent_bytes)
    })
}

/// Waits until a region is in the vault, if one is on its way; answers its bytes.
fn wait(committing: Option<Committing<'_>>) -> Result<u64, Failure> {
    committing.map_or(Ok(0), |thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Adds the data of a region, and answers its bytes.
fn read_region(
    work: &Work<'_>,
    device: &dyn BlockDevice,
    writer: &mut RegionWriter<'_>,
    range: Range<u64>,
) -> Result<u64, Failure> {
    let mut buffer = Vec::new();
    let mut bytes = 0;
    let mut at = range.start;
    while let Some(data) = work.disk_call(OPERATION, data_in(device, at..range.end))? {
        for piece in pieces(data.clone()) {
            buffer.resize((piece.end - piece.start) as usize, 0);
            work.disk_call(OPERATION, device.read_at(&mut buffer, piece.start))?;
            work.vault_call(OPERATION, writer.data(piece.start, &buffer))?;
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
