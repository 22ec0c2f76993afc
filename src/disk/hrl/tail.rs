//! The tail beside an open log: the entries of the group that has no metadata block yet.
//!
//! 127 slots of 64 bytes, slot `n` for entry `n` of the group, used again for the next group. A slot is
//! written after its data is in the log and before the disk is touched, so a write that was acknowledged
//! is in the log and in a slot. Slots are not synced: they are for kill -9, where the page cache lives
//! on. After a power loss the seal records of the log count alone.
//!
//! | offset | field | type |
//! |---|---|---|
//! | 0 | Magic, `lbts` | u8\[4\] |
//! | 4 | CRC32 of bytes 8..64 | u32 |
//! | 8 | first half of the log's `UniqueId` | u8\[8\] |
//! | 16 | where the group's data starts in the log | u64 |
//! | 24 | index of the slot | u32 |
//! | 28 | CRC32 of the data | u32 |
//! | 32 | the entry, as the metadata block will hold it | u8\[32\] |

use super::LogError;
use super::format::{Damage, ENTRY_BYTES, Entry, GROUP_ENTRIES_MAX, Take};
use crate::ports::files::{File, Files, Open};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

const SLOT_BYTES: usize = 64;
const TAIL_BYTES: usize = GROUP_ENTRIES_MAX * SLOT_BYTES;
const MAGIC: [u8; 4] = *b"lbts";

/// The tail of one disk; each of its logs uses it while it is the active one.
#[derive(Clone, Debug)]
pub struct Tail {
    file: Arc<dyn File>,
    path: PathBuf,
}

/// One slot: an entry that has no block yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Where the data of the group starts in the log.
    pub(super) group_start: u64,
    /// Which entry of the group this is.
    pub(super) index: usize,
    /// CRC32 of the data.
    pub(super) data_crc: u32,
    /// The entry's bytes.
    pub(super) entry: [u8; ENTRY_BYTES],
}

impl Tail {
    /// Opens the tail, or makes one.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn create(files: &dyn Files, path: &Path) -> Result<Self, LogError> {
        Self::with(files, path, Open::Create)
    }

    /// Opens a tail that must exist.
    ///
    /// # Errors
    /// [`LogError::Io`], also where there is none.
    pub fn open(files: &dyn Files, path: &Path) -> Result<Self, LogError> {
        Self::with(files, path, Open::Write)
    }

    /// Opens a tail to read its slots alone; `None` if there is none.
    ///
    /// # Errors
    /// [`LogError`], also where it is shorter than any tail.
    pub(super) fn open_to_read(files: &dyn Files, path: &Path) -> Result<Option<Self>, LogError> {
        let file = match files.open(path, Open::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::io(path)(error)),
        };
        let len = file.len().map_err(LogError::io(path))?;
        if len < TAIL_BYTES as u64 {
            return Err(LogError::damaged(path, len, Damage::EndsEarly));
        }
        Ok(Some(Self { file, path: path.to_owned() }))
    }

    fn with(files: &dyn Files, path: &Path, how: Open) -> Result<Self, LogError> {
        let io = LogError::io(path);
        let file = files.open(path, how).map_err(io)?;
        if file.len().map_err(io)? < TAIL_BYTES as u64 {
            file.set_len(TAIL_BYTES as u64).map_err(io)?;
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Where the tail is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the slots durable: for a tracker that is closed, whose logs then go on after a power loss.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(LogError::io(&self.path))
    }

    /// Writes slots that follow one another in their group; they survive kill -9 from then on.
    pub(super) fn write(&self, log: Uuid, slots: &[Slot]) -> io::Result<()> {
        let Some(first) = slots.first() else { return Ok(()) };
        let at = (first.index * SLOT_BYTES) as u64;
        if let [slot] = slots {
            return self.file.write_all_at(&slot.encode(log), at);
        }
        let bytes: Vec<u8> = slots.iter().flat_map(|slot| slot.encode(log)).collect();
        self.file.write_all_at(&bytes, at)
    }

    /// The slots of the youngest group of `log`, by index; what is not whole is left out.
    pub(super) fn youngest_group(&self, log: Uuid) -> Result<Vec<Slot>, LogError> {
        let mut bytes = [0; TAIL_BYTES];
        self.file.read_exact_at(&mut bytes, 0).map_err(LogError::io(&self.path))?;
        let (slots, _) = bytes.as_chunks();
        let mut slots: Vec<Slot> = slots
            .iter()
            .enumerate()
            .filter_map(|(index, bytes)| {
                Slot::decode(bytes, log).filter(|slot| slot.index == index)
            })
            .collect();
        let youngest = slots.iter().map(|slot| slot.group_start).max();
        slots.retain(|slot| Some(slot.group_start) == youngest);
        Ok(slots)
    }
}

impl Slot {
    fn encode(&self, log: Uuid) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&log.as_bytes()[..8]);
        bytes[16..24].copy_from_slice(&self.group_start.to_le_bytes());
        bytes[24..28].copy_from_slice(&(self.index as u32).to_le_bytes());
        bytes[28..32].copy_from_slice(&self.data_crc.to_le_bytes());
        bytes[32..].copy_from_slice(&self.entry);
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT_BYTES], log: Uuid) -> Option<Self> {
        let mut fields = Take(bytes);
        let (magic, crc, id): ([u8; 4], u32, [u8; 8]) =
            (fields.array(), fields.u32(), fields.array());
        let slot = Self {
            group_start: fields.u64(),
            index: fields.u32() as usize,
            data_crc: fields.u32(),
            entry: fields.array(),
        };
        let ours =
            magic == MAGIC && id == log.as_bytes()[..8] && crc == crc32fast::hash(&bytes[8..]);
        (ours && Entry::decode(&slot.entry).is_ok()).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::hrl::LogTime;

    #[test]
    fn a_slot_reads_back_for_its_own_log_only() {
        let entry = Entry { offset: 512, length: 1024, at: LogTime(7), data_checksum: 9 }.encode();
        let slot = Slot { group_start: 8192, index: 5, data_crc: 77, entry };
        let log = Uuid::from_u128(1 << 100);
        let mut bytes = slot.encode(log);
        assert_eq!(Slot::decode(&bytes, log), Some(slot));
        assert_eq!(Slot::decode(&bytes, Uuid::nil()), None);
        bytes[40] ^= 1;
        assert_eq!(Slot::decode(&bytes, log), None);
    }
}
