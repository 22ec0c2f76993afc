//! Finds the end of a log that was not closed.
//!
//! After kill -9 the page cache is as the process left it, so the log and its tail together hold every
//! write that was acknowledged, and anything that does not fit is damage. After a power loss only what
//! was flushed is sure to be there: the youngest seal record whose whole log verifies counts, and what
//! comes after it was never promised.

use super::format::{
    BLOCK_BYTES, Damage, ENTRY_BYTES, Entry, HEADER_BYTES, Header, SealRecord, SealSlot,
};
use super::reader::{HeaderTrust, LogReader, pieces, read, read_header, read_header_of_any};
use super::tail::Slot;
use super::writer::{EMPTY_LOG_BYTES, LogWriter, Position, block};
use super::{LogError, Tail};
use crate::ports::files::{File, Files, Open};
use std::path::Path;
use std::sync::Arc;

/// Finds the end of an open log after kill -9 (or a clean stop) and seals it there. Returns the
/// writing end, and a reader of everything that is in the log, not yet verified. Can be done again if
/// it is interrupted.
///
/// # Errors
/// [`LogError`]: then the log does not hold every write that was acknowledged.
pub fn recover_after_kill(
    files: &dyn Files,
    path: &Path,
    tail: Tail,
) -> Result<(LogWriter, LogReader), LogError> {
    let file = files.open(path, Open::Write).map_err(LogError::io(path))?;
    let (bytes, header) = read_header(&*file, path, HeaderTrust::Verified)?;
    let records = Records::of(&bytes, &header);
    let end = match records.cut {
        Some(cut) => Sealed::at(&cut),
        None => seal_group(&*file, path, &header, &tail, records.begin)?,
    };
    let incomplete = |at| LogError::damaged(tail.path(), at, Damage::TailIncomplete);
    if let Some(flushed) = records.flushed.iter().flatten().map(|record| record.block).max()
        && end.last_block < flushed
    {
        return Err(incomplete(0));
    }
    let reader = LogReader::up_to(Arc::clone(&file), path, header, end.last_block)?;
    file.set_len(end.end).map_err(LogError::io(path))?;
    // The next flush overwrites the older seal record, so the younger must be durable by then.
    file.sync_data().map_err(LogError::io(path))?;
    let position = Position {
        end: end.end,
        total_entries: reader.total_entries(),
        hole_bytes: hole_bytes(&*file, path, end.end)?,
        next_record: records.older_flushed(),
    };
    Ok((LogWriter::at(file, Some(tail), path, header, &position), reader))
}

/// Finds the youngest flushed end of a log after a power loss. The reader that is returned is verified
/// and holds every flushed write, and possibly some that were not flushed. Changes nothing. A log that was given up
/// is read too, as its header says.
///
/// # Errors
/// [`LogError`]: then even flushed writes are not all there.
pub fn recover_after_power_loss(files: &dyn Files, path: &Path) -> Result<LogReader, LogError> {
    let file = files.open(path, Open::Read).map_err(LogError::io(path))?;
    let (bytes, header) = read_header_of_any(&*file, path, HeaderTrust::Verified)?;
    if header.end_of_log != 0 {
        // The end is written only after all before it is durable.
        let mut reader = LogReader::open(files, path, HeaderTrust::Verified)?;
        reader.verify()?;
        return Ok(reader);
    }
    let records = Records::of(&bytes, &header);
    let mut last_blocks = vec![EMPTY_LOG_BYTES - BLOCK_BYTES];
    let sealed = records.flushed.iter().chain([&records.cut, &records.begin]).flatten();
    last_blocks.extend(sealed.map(|record| record.block));
    last_blocks.sort_unstable();
    // Of two flush records at most the younger can miss its data, and of an empty log nothing can.
    let whole = |last| {
        let mut reader = LogReader::up_to(Arc::clone(&file), path, header, last)?;
        reader.verify()?;
        Ok(reader)
    };
    let mut outcome = whole(last_blocks.pop().expect("the empty first block is one"));
    let fallbacks = 1 + usize::from(records.cut.is_some());
    for _ in 0..fallbacks {
        if outcome.is_ok() {
            break;
        }
        let Some(last) = last_blocks.pop() else { break };
        outcome = whole(last);
    }
    outcome
}

/// The seal records of a log.
struct Records {
    flushed: [Option<SealRecord>; 2],
    cut: Option<SealRecord>,
    begin: Option<SealRecord>,
}

impl Records {
    fn of(bytes: &[u8; HEADER_BYTES as usize], header: &Header) -> Self {
        let [first, second, cut, begin] =
            SealSlot::ALL.map(|slot| SealRecord::find(bytes, slot, header.unique_id));
        Self { flushed: [first, second], cut, begin }
    }

    /// Which of the two flush records is to be overwritten next.
    fn older_flushed(&self) -> bool {
        let [first, second] = self.flushed.map(|record| record.map(|record| record.block));
        second < first
    }
}

/// The end of a log: its last block, and where that ends.
struct Sealed {
    last_block: u64,
    end: u64,
}

impl Sealed {
    fn at(record: &SealRecord) -> Self {
        Self { last_block: record.block, end: record.block.saturating_add(BLOCK_BYTES) }
    }
}

/// Gives the entries of the tail the metadata block that they lack.
fn seal_group(
    file: &dyn File,
    path: &Path,
    header: &Header,
    tail: &Tail,
    begin: Option<SealRecord>,
) -> Result<Sealed, LogError> {
    let slots = tail.youngest_group(header.unique_id)?;
    let Some(first) = slots.first() else {
        if let Some(begin) = begin {
            return Ok(Sealed::at(&begin));
        }
        return Ok(Sealed { last_block: EMPTY_LOG_BYTES - BLOCK_BYTES, end: EMPTY_LOG_BYTES });
    };
    let incomplete = LogError::damaged(tail.path(), 0, Damage::TailIncomplete);
    let len = file.len().map_err(LogError::io(path))?;
    if first.group_start < EMPTY_LOG_BYTES || len < first.group_start {
        return Err(incomplete);
    }
    let mut end = first.group_start;
    for (index, slot) in slots.iter().enumerate() {
        if slot.index != index {
            return Err(incomplete);
        }
        end = verify_data(file, path, slot, end)?;
    }
    let entries: Vec<[u8; ENTRY_BYTES]> = slots.iter().map(|slot| slot.entry).collect();
    let bytes = block(end - first.group_start + BLOCK_BYTES, &entries);
    file.write_all_at(&bytes, end).map_err(LogError::io(path))?;
    Ok(Sealed { last_block: end, end: end + BLOCK_BYTES })
}

/// Verifies the data of one slot at `position` of the log; returns where it ends.
fn verify_data(file: &dyn File, path: &Path, slot: &Slot, position: u64) -> Result<u64, LogError> {
    let damaged = |damage| LogError::damaged(path, position, damage);
    let entry = Entry::decode(&slot.entry).map_err(damaged)?;
    let mut crc = crc32fast::Hasher::new();
    let mut piece = Vec::new();
    for part in pieces(u64::from(entry.length), 128 * 1024) {
        piece.resize((part.end - part.start) as usize, 0);
        read(file, path, &mut piece, position + part.start)?;
        crc.update(&piece);
    }
    if crc.finalize() == slot.data_crc {
        Ok(position + u64::from(entry.length))
    } else {
        Err(damaged(Damage::DataChecksum))
    }
}

/// How much of the log's first `end` bytes are holes.
pub(in crate::disk) fn hole_bytes(file: &dyn File, path: &Path, end: u64) -> Result<u64, LogError> {
    let mut data_bytes = 0;
    let mut from = 0;
    while let Some(run) = file.next_data(from).map_err(LogError::io(path))? {
        data_bytes += run.end.min(end).saturating_sub(run.start);
        from = run.end.max(from + 1);
        if end <= from {
            break;
        }
    }
    Ok(end.saturating_sub(data_bytes))
}
