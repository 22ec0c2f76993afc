//! Compaction: a closed log without the data that later writes of the same log replace.

use super::LogError;
use super::format::{DATA_BYTES_MAX, Header, LogTime};
use super::reader::{Entries, LogReader, LoggedWrite, pieces};
use super::writer::LogWriter;
use crate::ports::files::Files;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

const SECTOR: u64 = 512;

/// Sectors of one piece of [`Seen`]: 8 KiB of bits for 32 MiB of the disk.
const PIECE_SECTORS: u64 = 1 << 16;

/// Bytes of a log that no later write of the same log replaces.
///
/// # Errors
/// [`LogError`].
pub fn unique_bytes(log: &LogReader) -> Result<u64, LogError> {
    let mut bytes = 0;
    for_each_unique(log, log.entries_without_data(), |_, part| {
        bytes += part.end - part.start;
        Ok(())
    })?;
    Ok(bytes)
}

/// Writes a closed log with the same identity, place in the chain and result, but every byte of the disk
/// at most once: the writes lie newest first, which is as good as any order where none overlap. Closed
/// and durable on return, the name after a sync of the folder. Takes 8 KiB of memory for each 32 MiB of
/// the disk that the log touches.
///
/// # Errors
/// [`LogError`]; what is at `to` then is of no use.
pub fn compact(files: &dyn Files, log: &LogReader, to: &Path) -> Result<LogWriter, LogError> {
    let original = *log.header();
    let header = Header {
        end_of_log: 0,
        total_entries: 0,
        current_size: original.original_size,
        ..original
    };
    let mut writer = begin_compacted(files, log, to, header)?;
    writer.close(original.last_modified)?;
    Ok(writer)
}

/// Writes what is left of a log as the beginning of another one with this header, not closed. What
/// [`compact`] says of order and memory holds.
///
/// # Errors
/// As [`compact`].
pub fn begin_compacted(
    files: &dyn Files,
    log: &LogReader,
    to: &Path,
    header: Header,
) -> Result<LogWriter, LogError> {
    let mut writer = LogWriter::create_without_tail(files, to, header)?;
    let mut buffer = Vec::new();
    for_each_unique(log, log.entries(), |write, part| {
        let at = LogTime::from(write.at);
        if write.zero {
            return writer.append_zeroes(part, at);
        }
        for piece in pieces(part.end - part.start, DATA_BYTES_MAX) {
            let start = part.start + piece.start;
            buffer.resize((piece.end - piece.start) as usize, 0);
            log.read_data(write, (start - write.offset) as u32, &mut buffer)?;
            writer.append(&buffer, start, at)?;
        }
        Ok(())
    })?;
    Ok(writer)
}

/// Calls `take` with each write, the newest first, and each part of it that no later one covers.
fn for_each_unique(
    log: &LogReader,
    entries: Entries<'_>,
    mut take: impl FnMut(&LoggedWrite, Range<u64>) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut seen = Seen::default();
    log.for_each_newest_first(entries, |write| {
        for part in seen.unseen(&write.range()) {
            take(write, part)?;
        }
        Ok(())
    })
}

/// The sectors of a disk that were seen.
#[derive(Debug, Default)]
struct Seen(BTreeMap<u64, Box<[u64]>>);

impl Seen {
    /// The parts of a range of whole sectors, as our logs have, that were not seen; they are from then on.
    fn unseen(&mut self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut parts: Vec<Range<u64>> = Vec::new();
        for sector in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            let piece = self
                .0
                .entry(sector / PIECE_SECTORS)
                .or_insert_with(|| vec![0; (PIECE_SECTORS / 64) as usize].into_boxed_slice());
            let within = sector % PIECE_SECTORS;
            let (word, bit) = (&mut piece[(within / 64) as usize], 1 << (within % 64));
            if *word & bit != 0 {
                continue;
            }
            *word |= bit;
            let part = sector * SECTOR..(sector + 1).saturating_mul(SECTOR);
            match parts.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                Some(_) | None => parts.push(part),
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_unseen_once() {
        let mut seen = Seen::default();
        let far = PIECE_SECTORS * SECTOR;
        assert_eq!(seen.unseen(&(512..1024)), std::slice::from_ref(&(512..1024)));
        assert_eq!(seen.unseen(&(0..2048)), [0..512, 1024..2048]);
        assert_eq!(seen.unseen(&(0..2048)), []);
        let across = far - 512..far + 512;
        assert_eq!(seen.unseen(&across), std::slice::from_ref(&across));
    }
}
