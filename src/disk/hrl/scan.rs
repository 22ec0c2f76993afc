//! Logs of others: one that was not closed and has no tail of ours, and what its blocks hold.

use super::LogError;
use super::format::{BlockHeader, Damage, ENTRY_BYTES, HEADER_BYTES, Header, LogTime};
use super::reader::{HeaderTrust, LogReader, read, read_header};
use crate::ports::files::{Files, Open};
use std::ops::Range;
use std::path::Path;

/// Blocks begin at multiples of this: they follow data, which is whole sectors.
const STEP: usize = 512;

/// The file is searched in windows of this size.
const WINDOW_BYTES: usize = 1 << 20;

/// One metadata block and the data that it describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSummary {
    /// Where the block is in the file.
    pub at: u64,
    /// How many writes it describes.
    pub entries: u64,
    /// Bytes of their data.
    pub data_bytes: u64,
    /// From the lowest byte of the disk that they write to the end of the highest; `None` without writes.
    pub disk: Option<Range<u64>>,
    /// When the oldest and the youngest were made.
    pub times: Option<(LogTime, LogTime)>,
}

/// Reads the header of a file, and whether its checksum holds, without a look at anything else.
///
/// # Errors
/// [`LogError`] where it is no header whatever its checksum says.
pub fn read_header_alone(files: &dyn Files, path: &Path) -> Result<(Header, bool), LogError> {
    let file = files.open(path, Open::Read).map_err(LogError::io(path))?;
    let mut bytes = [0; HEADER_BYTES as usize];
    read(&*file, path, &mut bytes, 0)?;
    Header::decode(&bytes).map_err(|damage| LogError::damaged(path, 0, damage))
}

impl LogReader {
    /// Opens a log that was not closed by a search for its blocks: from each block on, the next place
    /// with a block that verifies, points back to it, and describes exactly what is between them. What
    /// comes after the last such block is left out.
    ///
    /// **A guest can write bytes that look like a block**, and so can choose what is found from there
    /// on. A log of ours has records that its recovery trusts instead; this is for logs of others.
    ///
    /// # Errors
    /// [`LogError`], also where not even the first block is there.
    pub fn search(files: &dyn Files, path: &Path, trust: HeaderTrust) -> Result<Self, LogError> {
        let file = files.open(path, Open::Read).map_err(LogError::io(path))?;
        let (_, header) = read_header(&*file, path, trust)?;
        let mut log = Self::up_to(file, path, header, HEADER_BYTES)?;
        while let Some((at, entries)) = log.next_block()? {
            log.blocks.push(at);
            log.total_entries += entries;
        }
        Ok(log)
    }

    /// The block that follows the last one known, and how many entries it has.
    fn next_block(&self) -> Result<Option<(u64, u64)>, LogError> {
        let len = self.file.len().map_err(LogError::io(&self.path))?;
        let last = self.blocks.last().copied().unwrap_or(HEADER_BYTES);
        let size = u64::from(self.header.metadata_size);
        let mut from = last + size;
        let mut window = Vec::new();
        while from + size <= len {
            window.resize((len - from).min(WINDOW_BYTES as u64) as usize, 0);
            read(&*self.file, &self.path, &mut window, from)?;
            for (nth, bytes) in window.chunks(STEP).enumerate() {
                let at = from + (nth * STEP) as u64;
                if len < at + size {
                    break;
                }
                let Some(start) = bytes.first_chunk::<ENTRY_BYTES>() else { break };
                let Ok(block) = BlockHeader::decode(start, self.header.metadata_size) else {
                    continue;
                };
                if block.distance != at - last {
                    continue;
                }
                match self.read_block(at, last + size..at) {
                    Ok(entries) => return Ok(Some((at, entries.len() as u64))),
                    Err(LogError::Damaged { .. }) => {} // something that looks like a block
                    Err(error) => return Err(error),
                }
            }
            from += window.len() as u64 / STEP as u64 * STEP as u64;
            if window.len() < STEP {
                break;
            }
        }
        Ok(None)
    }

    /// The blocks, the oldest first, with their metadata verified; data is not read.
    pub fn summaries(&self) -> impl Iterator<Item = Result<BlockSummary, LogError>> {
        self.blocks.iter().enumerate().map(|(index, at)| {
            let entries = self.read_block(*at, self.data_of(index))?;
            let times = || entries.iter().map(|(entry, _)| entry.at);
            let starts = entries.iter().map(|(entry, _)| entry.offset);
            let ends = entries.iter().map(|(entry, _)| entry.offset + u64::from(entry.length));
            Ok(BlockSummary {
                at: *at,
                entries: entries.len() as u64,
                data_bytes: entries.iter().map(|(entry, _)| u64::from(entry.length)).sum(),
                disk: starts.min().zip(ends.max()).map(|(start, end)| start..end),
                times: times().min().zip(times().max()),
            })
        })
    }

    /// Refuses a log that does not directly follow `before`, or follows it on another content of the
    /// disk. Logs without a data-write GUID, as all of version 1 are, say nothing of the content.
    ///
    /// # Errors
    /// [`Damage::Chain`], [`Damage::DataWriteGuid`].
    pub fn check_follows(&self, before: &Self) -> Result<(), LogError> {
        let damaged = |at, damage| Err(LogError::damaged(&self.path, at, damage));
        if self.header.previous_unique_id != before.header.unique_id {
            return damaged(76, Damage::Chain);
        }
        let (found, before) = (self.header.data_write_guid, before.header.data_write_guid);
        if !found.is_nil() && !before.is_nil() && found != before {
            return damaged(110, Damage::DataWriteGuid { found, before });
        }
        Ok(())
    }
}
