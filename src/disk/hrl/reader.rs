//! Reads a log: walks back from its last block, then forward, entry by entry.
//!
//! Nothing is believed: every length and position is checked against the file before it is used, and
//! no more than a block and a piece of data is in memory at a time.

use super::LogError;
use super::format::{
    BLOCK_BYTES, BLOCK_BYTES_MAX, BlockHeader, Checksum, DATA_BYTES_MAX, Damage, ENTRY_BYTES,
    Entry, HEADER_BYTES, Header, LogTime,
};
use super::recovery::hole_bytes;
use super::writer::{LogWriter, block};
use crate::domain::time::Timestamp;
use crate::ports::block::BlockDevice;
use crate::ports::files::{File, Files, Open};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Data is verified in pieces of this size: fits the processor's cache.
const PIECE_BYTES: usize = 128 * 1024;

/// What is done about a header whose checksum does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderTrust {
    /// It is damage.
    Verified,
    /// It is accepted: the log was written by another product, whose sample in the specification does
    /// not agree with the specification's own definition.
    Foreign,
}

/// A closed log, or an open one up to a block that is known to be its last.
#[derive(Debug)]
pub struct LogReader {
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    pub(super) header: Header,
    /// Where the blocks are, the oldest first. 8 bytes for each 127 writes.
    pub(super) blocks: Vec<u64>,
    pub(super) total_entries: u64,
    pub(super) verified: bool,
    /// The last block, where the file has none yet: its entries come from the tail.
    pub(super) unsealed: Option<Box<[u8; BLOCK_BYTES as usize]>>,
}

/// One write of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedWrite {
    /// Byte offset on the disk.
    pub offset: u64,
    /// Bytes of data; a foreign log can have more in one entry than fits in memory.
    pub length: u32,
    /// When it was written, in whole seconds.
    pub at: Timestamp,
    /// Where the data is in the log's file.
    pub position: u64,
    /// Whether the data is nothing but zeroes.
    pub zero: bool,
}

impl LoggedWrite {
    /// Where on the disk.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.length)
    }
}

impl LogReader {
    /// Opens a closed log and finds its blocks. Data is verified by [`LogReader::entries`].
    ///
    /// # Errors
    /// [`LogError`]; a log that was not closed is [`Damage::NotClosed`].
    pub fn open(files: &dyn Files, path: &Path, trust: HeaderTrust) -> Result<Self, LogError> {
        let file = files.open(path, Open::Read).map_err(LogError::io(path))?;
        let (_, header) = read_header(&*file, path, trust)?;
        let damaged = |damage| LogError::damaged(path, 44, damage);
        if header.end_of_log == 0 {
            return Err(damaged(Damage::NotClosed));
        }
        if file.len().map_err(LogError::io(path))? < header.end_of_log {
            return Err(damaged(Damage::EndsEarly));
        }
        let last = header
            .end_of_log
            .checked_sub(u64::from(header.metadata_size))
            .ok_or_else(|| damaged(Damage::EndOfLog(header.end_of_log)))?;
        let reader = Self::up_to(file, path, header, last)?;
        if reader.total_entries != header.total_entries {
            let (header, blocks) = (header.total_entries, reader.total_entries);
            return Err(LogError::damaged(path, 96, Damage::EntryTotal { header, blocks }));
        }
        Ok(reader)
    }

    /// Opens a log that is written on as it was when its last block ended at `end`.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open_up_to(files: &dyn Files, path: &Path, end: u64) -> Result<Self, LogError> {
        let file = files.open(path, Open::Read).map_err(LogError::io(path))?;
        let (_, header) = read_header(&*file, path, HeaderTrust::Verified)?;
        Self::up_to(file, path, header, end.saturating_sub(u64::from(header.metadata_size)))
    }

    /// Finds the blocks of a log by walking back from `last`.
    pub(super) fn up_to(
        file: Arc<dyn File>,
        path: &Path,
        header: Header,
        last: u64,
    ) -> Result<Self, LogError> {
        if last < HEADER_BYTES {
            return Err(LogError::damaged(path, 44, Damage::EndOfLog(last)));
        }
        let mut blocks = vec![last];
        let mut total_entries = 0;
        let mut at = last;
        loop {
            let mut bytes = [0; ENTRY_BYTES];
            read(&*file, path, &mut bytes, at)?;
            let damaged = |damage| LogError::damaged(path, at, damage);
            let block = BlockHeader::decode(&bytes, header.metadata_size).map_err(damaged)?;
            total_entries += u64::from(block.entries);
            if block.distance == 0 {
                break;
            }
            // Each step goes back by a block at least, so the walk ends.
            let possible = u64::from(header.metadata_size)..=at - HEADER_BYTES;
            if !possible.contains(&block.distance) {
                return Err(damaged(Damage::Distance(block.distance)));
            }
            at -= block.distance;
            blocks.push(at);
        }
        blocks.reverse();
        let path = path.to_owned();
        Ok(Self { file, path, header, blocks, total_entries, verified: false, unsealed: None })
    }

    /// Adds entries whose block, which would be at `at`, was not written.
    pub(super) fn with_group(mut self, at: u64, entries: &[[u8; ENTRY_BYTES]]) -> Self {
        self.unsealed = Some(Box::new(block(at - self.end() + BLOCK_BYTES, entries)));
        self.blocks.push(at);
        self.total_entries += entries.len() as u64;
        self.verified = false;
        self
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the file was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Entries of all blocks.
    pub fn total_entries(&self) -> u64 {
        self.total_entries
    }

    /// Bytes from the start of the file to the end of the last block, also of one that is not written yet.
    pub fn end(&self) -> u64 {
        let last = self.blocks.last().copied().unwrap_or(HEADER_BYTES);
        last + u64::from(self.header.metadata_size)
    }

    /// Bytes that the log takes on its volume.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn allocated_bytes(&self) -> Result<u64, LogError> {
        let end = self.end();
        Ok(end - hole_bytes(&*self.file, &self.path, end)?)
    }

    /// The writes, the oldest first, each with its metadata and data verified. Ends after the first
    /// error.
    pub fn entries(&self) -> Entries<'_> {
        let verified = self.verified;
        Entries { log: self, verified, block: 0, of_block: Vec::new().into_iter(), piece: vec![] }
    }

    /// As [`LogReader::entries`], with the metadata verified and the data not even read.
    pub fn entries_without_data(&self) -> Entries<'_> {
        Entries { verified: true, ..self.entries() }
    }

    /// Calls `take` with each write of `entries`, the newest first, each verified as `entries` are.
    ///
    /// # Errors
    /// The first [`LogError`], of the log or of `take`.
    pub(super) fn for_each_newest_first(
        &self,
        mut entries: Entries<'_>,
        mut take: impl FnMut(&LoggedWrite) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        for block in (0..self.blocks.len()).rev() {
            for (entry, position) in
                self.read_block(self.blocks[block], self.data_of(block))?.iter().rev()
            {
                take(&entries.verified(entry, *position)?)?;
            }
        }
        Ok(())
    }

    /// Where the data of a block is: between the block before and itself.
    pub(super) fn data_of(&self, block: usize) -> Range<u64> {
        let start = match block.checked_sub(1) {
            Some(before) => self.blocks[before] + u64::from(self.header.metadata_size),
            None => HEADER_BYTES,
        };
        start..self.blocks[block]
    }

    /// Fills `buffer` with a part of a write's data, from byte `from` of it on.
    ///
    /// # Errors
    /// [`LogError`]; also if the buffer asks for more than the write has.
    pub fn read_data(
        &self,
        write: &LoggedWrite,
        from: u32,
        buffer: &mut [u8],
    ) -> Result<(), LogError> {
        if u64::from(write.length) < u64::from(from) + buffer.len() as u64 {
            return Err(LogError::damaged(&self.path, write.position, Damage::EndsEarly));
        }
        read(&*self.file, &self.path, buffer, write.position + u64::from(from))
    }

    /// Verifies everything once; [`LogReader::entries`] does not verify the data again.
    ///
    /// # Errors
    /// The first [`LogError`].
    pub fn verify(&mut self) -> Result<(), LogError> {
        self.entries().try_for_each(|entry| entry.map(drop))?;
        self.verified = true;
        Ok(())
    }

    /// Appends the writes that lie after byte `from`, where a block ends, to another log, in order.
    ///
    /// # Errors
    /// [`LogError`] of either log.
    pub fn append_to(&self, from: u64, other: &mut LogWriter) -> Result<(), LogError> {
        let mut buffer = Vec::new();
        let block = self.blocks.partition_point(|at| *at < from);
        for write in (Entries { block, ..self.entries() }) {
            let write = write?;
            let at = LogTime::from(write.at);
            if write.zero {
                other.append_zeroes(write.range(), at)?;
                continue;
            }
            for part in pieces(u64::from(write.length), DATA_BYTES_MAX) {
                buffer.resize((part.end - part.start) as usize, 0);
                self.read_data(&write, part.start as u32, &mut buffer)?;
                other.append(&buffer, write.offset + part.start, at)?;
            }
        }
        Ok(())
    }

    /// Writes everything to `device`, in order. Durable after a flush of the device. Where a log
    /// follows an older state of the disk, verify it first: a part of a log is no state of the disk.
    ///
    /// # Errors
    /// [`LogError::Apply`] if the device refuses; else as [`LogReader::entries`].
    pub fn apply_to(&self, device: &dyn BlockDevice) -> Result<(), LogError> {
        let mut buffer = Vec::new();
        for write in self.entries() {
            let write = write?;
            let offset = write.offset;
            let failed = |source| LogError::Apply { path: self.path.clone(), offset, source };
            if write.zero {
                let range = offset..offset + u64::from(write.length);
                device.zero(range, true, false).map_err(failed)?;
                continue;
            }
            for part in pieces(u64::from(write.length), DATA_BYTES_MAX) {
                buffer.resize((part.end - part.start) as usize, 0);
                self.read_data(&write, part.start as u32, &mut buffer)?;
                device.write_at(&buffer, offset + part.start, false).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// The writes of a log, the oldest first.
#[derive(Debug)]
pub struct Entries<'a> {
    log: &'a LogReader,
    /// Whether the data needs no look.
    verified: bool,
    /// Which block is read next.
    block: usize,
    of_block: std::vec::IntoIter<(Entry, u64)>,
    piece: Vec<u8>,
}

impl Iterator for Entries<'_> {
    type Item = Result<LoggedWrite, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if matches!(next, Some(Err(_))) {
            self.block = self.log.blocks.len();
            self.of_block = Vec::new().into_iter();
        }
        next
    }
}

impl Entries<'_> {
    fn advance(&mut self) -> Option<Result<LoggedWrite, LogError>> {
        loop {
            if let Some((entry, position)) = self.of_block.next() {
                return Some(self.verified(&entry, position));
            }
            let at = *self.log.blocks.get(self.block)?;
            let data = self.log.data_of(self.block);
            self.block += 1;
            match self.log.read_block(at, data) {
                Ok(entries) => self.of_block = entries.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn verified(&mut self, entry: &Entry, position: u64) -> Result<LoggedWrite, LogError> {
        if !self.verified && entry.data_checksum != 0 {
            self.verify_data(entry, position)?;
        }
        Ok(LoggedWrite {
            offset: entry.offset,
            length: entry.length,
            at: entry.at.into(),
            position,
            zero: entry.is_zero(),
        })
    }

    fn verify_data(&mut self, entry: &Entry, position: u64) -> Result<(), LogError> {
        let mut sum = Checksum::default();
        for part in pieces(u64::from(entry.length), PIECE_BYTES) {
            self.piece.resize((part.end - part.start) as usize, 0);
            read(&*self.log.file, &self.log.path, &mut self.piece, position + part.start)?;
            sum = sum.with(&self.piece);
        }
        if sum.finish() == entry.data_checksum {
            Ok(())
        } else {
            Err(LogError::damaged(&self.log.path, position, Damage::DataChecksum))
        }
    }
}

impl LogReader {
    /// That the log was given up by its writer with a code, as an error.
    pub fn given_up(&self) -> LogError {
        let code = self.header.error_code;
        LogError::damaged(&self.path, ERROR_CODE_AT, Damage::GivenUp(code))
    }

    /// The entries of the block at `at`, each with the position of its data, which fill `data`.
    pub(super) fn read_block(
        &self,
        at: u64,
        data: Range<u64>,
    ) -> Result<Vec<(Entry, u64)>, LogError> {
        let damaged = |at, damage| LogError::damaged(&self.path, at, damage);
        let size = self.header.metadata_size.min(BLOCK_BYTES_MAX);
        let mut bytes = vec![0; size as usize];
        match &self.unsealed {
            Some(block) if self.blocks.last() == Some(&at) => bytes.copy_from_slice(&**block),
            _ => read(&*self.file, &self.path, &mut bytes, at)?,
        }
        let (parts, _) = bytes.as_chunks::<ENTRY_BYTES>();
        let (first, parts) = parts.split_first().expect("a block is longer than its header");
        let count = BlockHeader::decode(first, size).map_err(|damage| damaged(at, damage))?.entries;
        let mut entries = Vec::with_capacity(count as usize);
        let mut position = data.start;
        for (index, bytes) in parts[..count as usize].iter().enumerate() {
            let entry_at = at + ((index + 1) * ENTRY_BYTES) as u64;
            let entry = Entry::decode(bytes).map_err(|damage| damaged(entry_at, damage))?;
            entries.push((entry, position));
            position += u64::from(entry.length); // at most 2^32 entries of 2^32 bytes a block
        }
        if position == data.end {
            return Ok(entries);
        }
        let (described, present) = (position - data.start, data.end - data.start);
        Err(damaged(at, Damage::DataLength { described, present }))
    }
}

/// Reads and checks the header of a log: its bytes, with the reserved sectors, and its fields. A log that was given
/// up is damage.
pub(super) fn read_header(
    file: &dyn File,
    path: &Path,
    trust: HeaderTrust,
) -> Result<([u8; HEADER_BYTES as usize], Header), LogError> {
    let (bytes, header) = read_header_of_any(file, path, trust)?;
    match header.error_code {
        0 => Ok((bytes, header)),
        code => Err(LogError::damaged(path, ERROR_CODE_AT, Damage::GivenUp(code))),
    }
}

/// As [`read_header`], also of a log that was given up.
pub(super) fn read_header_of_any(
    file: &dyn File,
    path: &Path,
    trust: HeaderTrust,
) -> Result<([u8; HEADER_BYTES as usize], Header), LogError> {
    let damaged = |damage| LogError::damaged(path, 0, damage);
    let mut bytes = [0; HEADER_BYTES as usize];
    read(file, path, &mut bytes, 0)?;
    let (header, checksum_holds) = Header::decode(&bytes).map_err(damaged)?;
    if !checksum_holds && trust == HeaderTrust::Verified {
        return Err(damaged(Damage::HeaderChecksum));
    }
    Ok((bytes, header))
}

/// Where the error code is in the header.
const ERROR_CODE_AT: u64 = 52;

/// Reads from a log; a file that ends too early is damage, not an error of the medium.
pub(super) fn read(
    file: &dyn File,
    path: &Path,
    buffer: &mut [u8],
    at: u64,
) -> Result<(), LogError> {
    file.read_exact_at(buffer, at).map_err(|source| match source.kind() {
        std::io::ErrorKind::UnexpectedEof => LogError::damaged(path, at, Damage::EndsEarly),
        _ => LogError::io(path)(source),
    })
}

/// `length` bytes in pieces of at most `piece` bytes.
pub(super) fn pieces(length: u64, piece: usize) -> impl Iterator<Item = Range<u64>> {
    (0..length).step_by(piece).map(move |start| start..length.min(start + piece as u64))
}
