//! The initial copy of a disk: region by region, holes skipped, while the VM writes. What was read is
//! sent in parts of 16 MiB, one at a time while the next is read, so the copy holds two of them in memory
//! and a region follows its parts.
//!
//! Regions that an earlier run has sent stand as they are: whatever was written since is in the logs,
//! which go on top. Returns are durable as the vault's are.

use super::engine::Work;
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure, in_full};
use crate::ports::block::BlockDevice;
use crate::ports::replication::Progress;
use crate::replica::segment::REGION_BYTES;
use crate::replica::{BaseCopy, RegionPart, RegionWriter};
use std::io;
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread::{self, Scope, ScopedJoinHandle};

const OPERATION: &str = "copying a disk";

/// Bytes read from the disk at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// What is on its way to the vault; answers the bytes of the disk that are done with it.
type Sending<'scope> = ScopedJoinHandle<'scope, Result<u64, Failure>>;

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
        let mut outbox = Outbox { scope, sending: None };
        for region in 0..size.div_ceil(REGION_BYTES) {
            work.still_wanted()?;
            let range = region * REGION_BYTES..((region + 1) * REGION_BYTES).min(size);
            let bytes = range.end - range.start;
            if present.contains_key(&region) {
                done(bytes);
                continue;
            }
            let mut writer = copy.region(region);
            let mut send_part = |part: RegionPart| {
                let send = move || work.vault_call(OPERATION, part.send()).map(|()| 0);
                done(outbox.hand_over(send)?);
                Ok(())
            };
            sent_bytes += read_region(work, device, &mut writer, range, &mut send_part)?;
            let commit = move || work.vault_call(OPERATION, writer.commit()).map(|_| bytes);
            done(outbox.hand_over(commit)?);
        }
        done(outbox.wait()?);
        Ok(sent_bytes)
    })
}

/// Sends one thing at a time, on a thread of its own, while the next is read.
struct Outbox<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    sending: Option<Sending<'scope>>,
}

impl<'scope> Outbox<'scope, '_> {
    /// Begins to send once what was handed over before is in the vault; answers what is done with that.
    fn hand_over(
        &mut self,
        send: impl FnOnce() -> Result<u64, Failure> + Send + 'scope,
    ) -> Result<u64, Failure> {
        let done_bytes = self.wait()?;
        let thread = thread::Builder::new().name("copy".to_owned()).spawn_scoped(self.scope, send);
        self.sending = Some(thread.map_err(|error| {
            Failure::new(Code::HostResourcesShort, Cause::Itself, in_full(&error))
                .with("host", "this service")
                .with("operation", OPERATION)
        })?);
        Ok(done_bytes)
    }

    /// Waits until everything is in the vault.
    fn wait(&mut self) -> Result<u64, Failure> {
        let sending = self.sending.take();
        sending.map_or(Ok(0), |thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

fn read_region(
    work: &Work<'_>,
    device: &dyn BlockDevice,
    writer: &mut RegionWriter<'_>,
    range: Range<u64>,
    send_part: &mut dyn FnMut(RegionPart) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut buffer = Vec::new();
    let mut bytes = 0;
    let mut at = range.start;
    while let Some(data) = work.disk_call(OPERATION, data_in(device, at..range.end))? {
        for piece in pieces(data.clone()) {
            work.still_wanted()?;
            buffer.resize((piece.end - piece.start) as usize, 0);
            work.disk_call(OPERATION, device.read_at(&mut buffer, piece.start))?;
            if let Some(part) = writer.full_part() {
                send_part(part)?;
            }
            work.checked(OPERATION, writer.data(piece.start, &buffer))?;
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
