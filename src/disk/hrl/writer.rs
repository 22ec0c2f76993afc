//! Appends to a log.

use super::format::{
    BLOCK_BYTES, BlockHeader, DATA_BYTES_MAX, ENTRY_BYTES, Entry, GROUP_ENTRIES_MAX, HEADER_BYTES,
    Header, LogTime, SealRecord, SealSlot, ZERO_CHECKSUM, checksum,
};
use super::tail::Slot;
use super::{LogError, Tail};
use crate::ports::block::Write;
use crate::ports::files::{File, Files, Open};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// Length of a log without writes, and where the data of the first group starts: after the header and
/// the empty first block.
pub const EMPTY_LOG_BYTES: u64 = HEADER_BYTES + BLOCK_BYTES;

/// Room that is asked for ahead of a log's end: as much as it has, within these bounds. Appending into it
/// is spared the search for free blocks; a log that hardly grows takes hardly more than it holds.
const RESERVED_BYTES: RangeInclusive<u64> = (256 << 10)..=(16 << 20);

/// The CRC32 of the longest piece of zeroes, computed once.
static ZERO_PIECE_CRC: LazyLock<u32> = LazyLock::new(|| compute_zero_crc(DATA_BYTES_MAX));

/// The writing end of one log. After an error the log must be given up: what it holds is not known.
#[derive(Debug)]
pub struct LogWriter {
    file: Arc<dyn File>,
    /// `None` where nobody needs the log before it is closed.
    tail: Option<Tail>,
    path: PathBuf,
    header: Header,
    /// Where the next data or block goes.
    end: u64,
    /// Where the data of the open group starts, right after the last block.
    group_start: u64,
    /// The entries of the open group.
    group: Vec<[u8; ENTRY_BYTES]>,
    total_entries: u64,
    /// Bytes of the log that are holes, since their data is zeroes.
    hole_bytes: u64,
    /// Which flush record is the older one.
    next_record: bool,
    /// Up to where room was asked for.
    reserved: u64,
}

/// Where a log that is written on ends, as its recovery found it.
pub(super) struct Position {
    pub(super) end: u64,
    pub(super) total_entries: u64,
    pub(super) hole_bytes: u64,
    pub(super) next_record: bool,
}

impl LogWriter {
    /// Makes an empty log; header and first block are durable on return, the name after a sync of the
    /// folder. Remainders of an earlier file of that name are dropped.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn create(
        files: &dyn Files,
        path: &Path,
        tail: Tail,
        header: Header,
    ) -> Result<Self, LogError> {
        Self::create_with(files, path, Some(tail), header)
    }

    /// As [`LogWriter::create`], for a log of which nothing need be there until it is closed.
    pub(super) fn create_without_tail(
        files: &dyn Files,
        path: &Path,
        header: Header,
    ) -> Result<Self, LogError> {
        Self::create_with(files, path, None, header)
    }

    fn create_with(
        files: &dyn Files,
        path: &Path,
        tail: Option<Tail>,
        header: Header,
    ) -> Result<Self, LogError> {
        let io = LogError::io(path);
        let file = files.open(path, Open::Create).map_err(io)?;
        file.set_len(0).map_err(io)?;
        file.write_all_vectored_at(&[&header.encode(), &block(0, &[])], 0).map_err(io)?;
        file.sync_data().map_err(io)?;
        let position =
            Position { end: EMPTY_LOG_BYTES, total_entries: 0, hole_bytes: 0, next_record: false };
        Ok(Self::at(file, tail, path, header, &position))
    }

    /// Writes on where a recovery found the end, which is the end of a block.
    pub(super) fn at(
        file: Arc<dyn File>,
        tail: Option<Tail>,
        path: &Path,
        header: Header,
        position: &Position,
    ) -> Self {
        Self {
            file,
            tail,
            path: path.to_owned(),
            header,
            end: position.end,
            group_start: position.end,
            group: Vec::with_capacity(GROUP_ENTRIES_MAX),
            total_entries: position.total_entries,
            hole_bytes: position.hole_bytes,
            next_record: position.next_record,
            reserved: position.end,
        }
    }

    /// The header as the log was made.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file, to sync it without holding up those who append.
    pub fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file)
    }

    /// The tail beside the log.
    pub fn tail(&self) -> Option<&Tail> {
        self.tail.as_ref()
    }

    /// Where the file was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says where the file is after a rename.
    pub fn renamed(&mut self, to: &Path) {
        to.clone_into(&mut self.path);
    }

    /// Bytes of the log up to its end.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that the log takes on its volume.
    pub fn allocated_bytes(&self) -> u64 {
        self.end - self.hole_bytes
    }

    /// Appends one write, in pieces of [`DATA_BYTES_MAX`]. It survives kill -9 on return.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn append(&mut self, data: &[u8], offset: u64, at: LogTime) -> Result<(), LogError> {
        for (nth, piece) in data.chunks(DATA_BYTES_MAX).enumerate() {
            self.seal_full_group()?;
            let offset = offset + (nth * DATA_BYTES_MAX) as u64;
            self.reserve(piece.len() as u64);
            self.file.write_all_at(piece, self.end).map_err(LogError::io(&self.path))?;
            self.enter(&[described(piece, offset, at)])?;
        }
        Ok(())
    }

    /// Appends writes of at most [`DATA_BYTES_MAX`], in their order, with two system calls for each
    /// group of them. They survive kill -9 on return; after an earlier kill the first ones may be there.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn append_each(&mut self, writes: &[Write<'_>], at: LogTime) -> Result<(), LogError> {
        let mut rest = writes;
        while !rest.is_empty() {
            self.seal_full_group()?;
            let room = GROUP_ENTRIES_MAX - self.group.len();
            let (group, after) = rest.split_at(rest.len().min(room));
            let data: Vec<&[u8]> = group.iter().map(|write| write.data).collect();
            self.reserve(data.iter().map(|data| data.len() as u64).sum());
            self.file.write_all_vectored_at(&data, self.end).map_err(LogError::io(&self.path))?;
            let entries: Vec<_> =
                group.iter().map(|write| described(write.data, write.offset, at)).collect();
            self.enter(&entries)?;
            rest = after;
        }
        Ok(())
    }

    /// Appends zeroes, in pieces of [`DATA_BYTES_MAX`]: as data, the only operation that the format
    /// knows, but as a hole of the file, so that a trim of a terabyte does not fill the volume. It
    /// survives kill -9 on return.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn append_zeroes(&mut self, range: Range<u64>, at: LogTime) -> Result<(), LogError> {
        let mut offset = range.start;
        while offset < range.end {
            self.seal_full_group()?;
            let length = (range.end - offset).min(DATA_BYTES_MAX as u64) as u32;
            let entry = Entry { offset, length, at, data_checksum: ZERO_CHECKSUM };
            let end = self.end + u64::from(length);
            self.file.set_len(end).map_err(LogError::io(&self.path))?;
            self.hole_bytes += u64::from(length);
            self.enter(&[(entry, zero_crc(length as usize))])?;
            offset += u64::from(length);
        }
        Ok(())
    }

    /// Writes the metadata block of the open group, if it has entries.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn seal(&mut self) -> Result<(), LogError> {
        if self.group.is_empty() {
            return Ok(());
        }
        let distance = self.end - self.group_start + BLOCK_BYTES;
        let bytes = block(distance, &self.group);
        self.file.write_all_at(&bytes, self.end).map_err(LogError::io(&self.path))?;
        self.total_entries += self.group.len() as u64;
        self.group.clear();
        self.end += BLOCK_BYTES;
        self.group_start = self.end;
        Ok(())
    }

    /// Seals and names the last block in the older flush record: everything up to [`LogWriter::end`]
    /// survives power loss after the next sync of the file. That sync must have completed before this
    /// is called again.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn seal_for_flush(&mut self) -> Result<(), LogError> {
        self.seal()?;
        self.write_record(SealSlot::Flush(self.next_record))?;
        self.next_record = !self.next_record;
        Ok(())
    }

    /// Seals and says that nothing follows, so that the tail is free for the next log. Two small
    /// writes; [`LogWriter::close`] does the rest.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn seal_for_cut(&mut self) -> Result<(), LogError> {
        self.seal()?;
        self.write_record(SealSlot::Cut)
    }

    /// Seals, and says that a log which was written without a tail is complete up to here; from then on it
    /// has this one. The file is to be synced before it is used.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn begin_here(&mut self, tail: Option<Tail>) -> Result<(), LogError> {
        self.seal()?;
        self.write_record(SealSlot::Begin)?;
        self.tail = tail;
        Ok(())
    }

    /// Closes the log: syncs, writes the end into the header, syncs, and clears the seal records, so
    /// that the file is what the specification says. Durable on return.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn close(&mut self, at: LogTime) -> Result<(), LogError> {
        self.seal()?;
        let io = LogError::io(&self.path);
        self.header.current_size = self.end;
        self.header.end_of_log = self.end;
        self.header.last_modified = at;
        self.header.total_entries = self.total_entries;
        let header = self.header.encode();
        let (fields, reserved) = header.split_at(SealSlot::Flush(false).position() as usize);
        if self.end < self.reserved {
            self.file.set_len(self.end).map_err(io)?;
        }
        // The end must not become durable before what it says, and the records not go before the end.
        self.file.sync_data().map_err(io)?;
        self.file.write_all_at(fields, 0).map_err(io)?;
        self.file.sync_data().map_err(io)?;
        self.file.write_all_at(reserved, fields.len() as u64).map_err(io)
    }

    /// Marks the log as given up, in place, which works on a volume without room.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn give_up(&mut self, error_code: i32) -> Result<(), LogError> {
        self.header.error_code = error_code;
        let fields = &self.header.encode()[..SealSlot::Flush(false).position() as usize];
        self.file.write_all_at(fields, 0).map_err(LogError::io(&self.path))?;
        self.file.sync_data().map_err(LogError::io(&self.path))
    }

    /// Asks for room for so many more bytes, and for those after them, if there is none yet.
    fn reserve(&mut self, bytes: u64) {
        let end = self.end + bytes;
        if self.reserved < end {
            let ahead = end.clamp(*RESERVED_BYTES.start(), *RESERVED_BYTES.end());
            self.file.reserve(self.reserved.max(self.end)..end + ahead);
            self.reserved = end + ahead;
        }
    }

    fn seal_full_group(&mut self) -> Result<(), LogError> {
        if self.group.len() == GROUP_ENTRIES_MAX { self.seal() } else { Ok(()) }
    }

    /// Enters data that lies at the end into the open group, which has room: entries, and the CRC32 of
    /// what they are of.
    fn enter(&mut self, entries: &[(Entry, u32)]) -> Result<(), LogError> {
        if let Some(tail) = &self.tail {
            let (group_start, first) = (self.group_start, self.group.len());
            let slots: Vec<Slot> = (first..)
                .zip(entries)
                .map(|(index, (entry, data_crc))| Slot {
                    group_start,
                    index,
                    data_crc: *data_crc,
                    entry: entry.encode(),
                })
                .collect();
            tail.write(self.header.unique_id, &slots).map_err(LogError::io(tail.path()))?;
        }
        for (entry, _) in entries {
            self.group.push(entry.encode());
            self.end += u64::from(entry.length);
        }
        Ok(())
    }

    fn write_record(&self, slot: SealSlot) -> Result<(), LogError> {
        let record =
            SealRecord { block: self.group_start - BLOCK_BYTES, total_entries: self.total_entries };
        let bytes = record.encode(self.header.unique_id);
        self.file.write_all_at(&bytes, slot.position()).map_err(LogError::io(&self.path))
    }
}

/// The entry of a piece of data, and its CRC32.
fn described(data: &[u8], offset: u64, at: LogTime) -> (Entry, u32) {
    let entry = Entry { offset, length: data.len() as u32, at, data_checksum: checksum(data) };
    (entry, crc32fast::hash(data))
}

/// A metadata block.
pub(super) fn block(distance: u64, entries: &[[u8; ENTRY_BYTES]]) -> [u8; BLOCK_BYTES as usize] {
    let mut bytes = [0; BLOCK_BYTES as usize];
    let header = BlockHeader { distance, entries: entries.len() as u32 };
    bytes[..ENTRY_BYTES].copy_from_slice(&header.encode());
    for (place, entry) in bytes[ENTRY_BYTES..].chunks_exact_mut(ENTRY_BYTES).zip(entries) {
        place.copy_from_slice(entry);
    }
    bytes
}

/// The CRC32 of `length` zero bytes.
fn zero_crc(length: usize) -> u32 {
    if length == DATA_BYTES_MAX { *ZERO_PIECE_CRC } else { compute_zero_crc(length) }
}

fn compute_zero_crc(length: usize) -> u32 {
    let piece = [0; 4096];
    let mut crc = crc32fast::Hasher::new();
    for start in (0..length).step_by(piece.len()) {
        crc.update(&piece[..piece.len().min(length - start)]);
    }
    crc.finalize()
}
