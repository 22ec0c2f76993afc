//! Finds the end of a log that was not closed.
//!
//! After kill -9 the page cache is as the process left it, so the log and its tail together hold every
//! write that was acknowledged, and anything that does not fit is damage. After a power loss only what
//! was flushed is sure to be there: the youngest seal record whose whole log verifies counts, and what
//! comes after it was never promised.
//!
//! Who only looks changes nothing, and reads what there is of both: [`open_unclosed`].

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
    if records.flushed().is_some_and(|flushed| end.last_block < flushed) {
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

/// What says where an open log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The record of a cut: nothing follows.
    Cut,
    /// The tail beside the log: every write that was acknowledged is there.
    Tail,
    /// The youngest seal record; there is no tail that would say what follows.
    Record,
}

/// Opens a log of ours that was not closed and changes nothing: with the writes whose entries are only
/// in the tail, or else up to the block that the youngest seal record names, which must be there: an
/// earlier end is no answer for who asks whether the log is whole. Data is not verified yet. `None`
/// where neither record nor tail says anything of the log.
///
/// # Errors
/// [`LogError`].
pub fn open_unclosed(
    files: &dyn Files,
    path: &Path,
    tail: &Path,
    trust: HeaderTrust,
) -> Result<Option<(LogReader, Ending)>, LogError> {
    let file = files.open(path, Open::Read).map_err(LogError::io(path))?;
    // The header first: what is appended meanwhile is then in the tail.
    let (bytes, header) = read_header(&*file, path, trust)?;
    if u64::from(header.metadata_size) != BLOCK_BYTES {
        return Ok(None);
    }
    let records = Records::of(&bytes, &header);
    let up_to = |last| LogReader::up_to(Arc::clone(&file), path, header, last);
    if let Some(cut) = records.cut {
        return Ok(Some((up_to(cut.block)?, Ending::Cut)));
    }
    let (youngest, flushed) = (records.youngest(), records.flushed());
    let Some(tail) = Tail::open_to_read(files, tail)? else {
        let log = youngest.map(up_to).transpose()?;
        return Ok(log.map(|log| (log, Ending::Record)));
    };
    let group = group_of(&*file, path, &header, &tail)?;
    let known = group.as_ref().map(|group| group.end).or(records.begin.map(|begin| begin.block));
    let known = known.unwrap_or(EMPTY_LOG_BYTES - BLOCK_BYTES);
    if flushed.is_some_and(|flushed| known < flushed) {
        return Err(LogError::damaged(tail.path(), 0, Damage::TailIncomplete));
    }
    let Some(group) = group.filter(|group| youngest < Some(group.end)) else {
        let log = youngest.map(up_to).transpose()?;
        return Ok(log.map(|log| (log, Ending::Tail)));
    };
    let log = up_to(group.start - BLOCK_BYTES)?;
    if let Some(block) = youngest.filter(|block| !log.blocks.contains(block)) {
        return Err(LogError::damaged(path, block, Damage::SealedBlock));
    }
    Ok(Some((log.with_group(group.end, &group.entries), Ending::Tail)))
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

    /// The youngest block that a flush promised.
    fn flushed(&self) -> Option<u64> {
        self.flushed.iter().flatten().map(|record| record.block).max()
    }

    /// The youngest block that a flush promised, or that was there at the start.
    fn youngest(&self) -> Option<u64> {
        self.flushed().max(self.begin.map(|begin| begin.block))
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

/// The entries of the tail, whose data was verified.
struct Group {
    /// Where the data starts in the log, right after a block.
    start: u64,
    /// Where it ends, and the block belongs.
    end: u64,
    entries: Vec<[u8; ENTRY_BYTES]>,
}

/// Gives the entries of the tail the metadata block that they lack.
fn seal_group(
    file: &dyn File,
    path: &Path,
    header: &Header,
    tail: &Tail,
    begin: Option<SealRecord>,
) -> Result<Sealed, LogError> {
    let Some(Group { start, end, entries }) = group_of(file, path, header, tail)? else {
        if let Some(begin) = begin {
            return Ok(Sealed::at(&begin));
        }
        return Ok(Sealed { last_block: EMPTY_LOG_BYTES - BLOCK_BYTES, end: EMPTY_LOG_BYTES });
    };
    let bytes = block(end - start + BLOCK_BYTES, &entries);
    file.write_all_at(&bytes, end).map_err(LogError::io(path))?;
    Ok(Sealed { last_block: end, end: end + BLOCK_BYTES })
}

/// The entries of the tail; `None` if it has none of this log.
fn group_of(
    file: &dyn File,
    path: &Path,
    header: &Header,
    tail: &Tail,
) -> Result<Option<Group>, LogError> {
    let slots = tail.youngest_group(header.unique_id)?;
    let Some(start) = slots.first().map(|first| first.group_start) else { return Ok(None) };
    let incomplete = LogError::damaged(tail.path(), 0, Damage::TailIncomplete);
    let len = file.len().map_err(LogError::io(path))?;
    if start < EMPTY_LOG_BYTES || len < start {
        return Err(incomplete);
    }
    let mut end = start;
    for (index, slot) in slots.iter().enumerate() {
        if slot.index != index {
            return Err(incomplete);
        }
        end = verify_data(file, path, slot, end)?;
    }
    let entries = slots.iter().map(|slot| slot.entry).collect();
    Ok(Some(Group { start, end, entries }))
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
