//! Region marks: which regions of a disk were written since the marks were cleared. A mark is durable
//! before the first write into its region, so that after a power loss nothing outside of the marked
//! regions can differ from what was known then.
//!
//! The file `<disk>.al` has two slots which take turns: the one that is not written is whole, whatever
//! happens. The younger whole slot counts. Payload of a slot, in the tracker's frame:
//!
//! | offset | field | type |
//! |---|---|---|
//! | 0 | sequence number of the slot | u64 |
//! | 8 | size of the disk in bytes | u64 |
//! | 16 | identity of the disk | u8\[16\] |
//! | 32 | the bits, lowest region first | u64\[\] |

use super::bitmap::{self, Bitmap};
use super::frame::{HEAD_BYTES, frame, unframe};
use super::names;
use crate::disk::hrl::format::Take;
use crate::domain::id::DiskId;
use crate::ports::files::{File, Files, Open};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of one region. A mark costs a sync, so regions are large; what is compared after a power loss
/// is whole regions, so they are not larger.
pub const REGION_BYTES: u64 = 32 << 20;

/// With a region that continues marked ones, as many are marked ahead as are marked before it, up to
/// this: a sequential writer waits for few syncs, and at most twice of what it wrote is compared.
const REGIONS_AHEAD_MAX: u64 = 32;

const MAGIC: [u8; 8] = *b"lbmarks\0";
const VERSION: u32 = 1;
const FIELDS_BYTES: usize = 32;

/// Slots begin at multiples of this, so that no sector belongs to two.
const SLOT_ALIGNMENT: usize = 4096;

/// The marks of one disk.
#[derive(Debug)]
pub(super) struct Marks {
    disk: DiskId,
    size_bytes: u64,
    path: PathBuf,
    regions: Bitmap,
    slots: Mutex<Slots>,
}

/// The file of the marks.
#[derive(Debug, Default)]
struct Slots {
    /// `None` while it is not trusted: every region then counts as marked.
    file: Option<Arc<dyn File>>,
    sequence: u64,
    /// The regions that the younger slot holds.
    saved: Vec<u64>,
}

impl Marks {
    /// Marks that are not trusted yet.
    pub(super) fn new(disk: DiskId, size_bytes: u64, path: PathBuf) -> Self {
        let regions = Bitmap::new(size_bytes, REGION_BYTES);
        regions.set(&(0..size_bytes));
        Self { disk, size_bytes, path, regions, slots: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file. Answers whether there is a whole slot of this disk in it.
    pub(super) fn load(&self, files: &dyn Files) -> bool {
        let Ok(file) = files.open(&self.path, Open::Write) else { return false };
        let read = |slot| self.read(&*file, slot);
        let Some((sequence, words)) = [0, 1].into_iter().filter_map(read).max() else {
            return false;
        };
        let mut slots = self.lock();
        self.regions.replace(&words);
        *slots = Slots { file: Some(file), sequence, saved: words };
        true
    }

    /// Whether every region that `range` touches is marked.
    pub(super) fn cover(&self, range: &Range<u64>) -> bool {
        self.regions.covers(range)
    }

    /// The marked regions.
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        bitmap::ranges(&self.regions.words(), REGION_BYTES, self.size_bytes)
    }

    /// Marks every region that `range` touches; durable on return.
    pub(super) fn mark(&self, range: &Range<u64>) -> io::Result<()> {
        let mut slots = self.lock();
        if self.cover(range) || slots.file.is_none() {
            return Ok(());
        }
        let wanted = Bitmap::new(self.size_bytes, REGION_BYTES);
        wanted.replace(&self.regions.words());
        wanted.set(&self.with_ahead(range));
        self.write(&mut slots, wanted.words())?;
        self.regions.replace(&slots.saved);
        Ok(())
    }

    /// Keeps only the marks of `ranges`, in memory: nobody may write meanwhile. [`Marks::save`] makes it
    /// durable, and until then there are more marks than needed.
    pub(super) fn keep(&self, ranges: &[Range<u64>]) {
        let slots = self.lock();
        if slots.file.is_some() {
            self.regions.clear();
            for range in ranges {
                self.regions.set(range);
            }
        }
    }

    /// Makes what [`Marks::keep`] left durable.
    pub(super) fn save(&self) -> io::Result<()> {
        let mut slots = self.lock();
        let words = self.regions.words();
        if slots.file.is_none() || slots.saved == words {
            return Ok(());
        }
        self.write(&mut slots, words)
    }

    /// Makes the file anew with the marks of `ranges` alone; nobody may write meanwhile. Durable on
    /// return, the name after a sync of the folder. The marks are trusted from then on. After an error
    /// they are what they were.
    pub(super) fn create(&self, files: &dyn Files, ranges: &[Range<u64>]) -> io::Result<()> {
        let mut slots = self.lock();
        let file = files.open(&self.path, Open::Create)?;
        let wanted = Bitmap::new(self.size_bytes, REGION_BYTES);
        for range in ranges {
            wanted.set(range);
        }
        let mut fresh = Slots { file: Some(file), sequence: slots.sequence, saved: Vec::new() };
        self.write(&mut fresh, wanted.words())?;
        self.regions.replace(&fresh.saved);
        // The other slot as well, so that marking needs no room on the volume later.
        let second = self.write(&mut fresh, wanted.words());
        *slots = fresh;
        second
    }

    /// Whether the file stands for what is marked; else every region counts as marked.
    pub(super) fn are_trusted(&self) -> bool {
        self.lock().file.is_some()
    }

    /// Gives the marks up, durably: every region counts as marked, now and after a restart.
    pub(super) fn distrust(&self, files: &dyn Files) -> io::Result<()> {
        let mut slots = self.lock();
        slots.file = None;
        self.regions.set(&(0..self.size_bytes));
        names::remove(files, &self.path)?;
        files.sync_dir(self.path.parent().unwrap_or(Path::new("/")))
    }

    /// The range, and what comes after it where it continues what is marked.
    fn with_ahead(&self, range: &Range<u64>) -> Range<u64> {
        let first = range.start / REGION_BYTES;
        let marked = |region: &u64| self.cover(&(region * REGION_BYTES..region * REGION_BYTES + 1));
        let run = (first.saturating_sub(REGIONS_AHEAD_MAX)..first).rev().take_while(marked).count();
        range.start..range.end.saturating_add(run as u64 * REGION_BYTES).min(self.size_bytes)
    }

    fn write(&self, slots: &mut Slots, words: Vec<u64>) -> io::Result<()> {
        let Some(file) = &slots.file else { return Ok(()) };
        let sequence = slots.sequence + 1;
        let mut payload = Vec::with_capacity(FIELDS_BYTES + words.len() * 8);
        payload.extend(sequence.to_le_bytes());
        payload.extend(self.size_bytes.to_le_bytes());
        payload.extend(self.disk.0.as_bytes());
        payload.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        let place = sequence % 2 * self.slot_bytes() as u64;
        file.write_all_at(&frame(MAGIC, VERSION, &payload), place)?;
        file.sync_data()?;
        slots.sequence = sequence;
        slots.saved = words;
        Ok(())
    }

    fn read(&self, file: &dyn File, slot: u64) -> Option<(u64, Vec<u64>)> {
        let mut bytes = vec![0; self.frame_bytes()];
        file.read_exact_at(&mut bytes, slot * self.slot_bytes() as u64).ok()?;
        let (version, payload) = unframe(MAGIC, &bytes)?;
        if version != VERSION || payload.len() != self.frame_bytes() - HEAD_BYTES {
            return None;
        }
        let mut fields = Take(payload);
        let (sequence, size_bytes, disk) = (fields.u64(), fields.u64(), fields.array());
        let ours = size_bytes == self.size_bytes && disk == *self.disk.0.as_bytes();
        let words = payload[FIELDS_BYTES..].as_chunks().0.iter().copied().map(u64::from_le_bytes);
        ours.then(|| (sequence, words.collect()))
    }

    fn frame_bytes(&self) -> usize {
        HEAD_BYTES + FIELDS_BYTES + bitmap::words_of(self.size_bytes, REGION_BYTES) * 8
    }

    fn slot_bytes(&self) -> usize {
        self.frame_bytes().next_multiple_of(SLOT_ALIGNMENT)
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
mod tests {
    use super::*;
    use crate::disk::files::MemoryFiles;
    use uuid::Uuid;

    const SIZE: u64 = 100 * REGION_BYTES;

    fn marks(disk: u128, size_bytes: u64) -> Marks {
        Marks::new(DiskId(Uuid::from_u128(disk)), size_bytes, PathBuf::from("/a.al"))
    }

    fn region(first: u64, end: u64) -> Range<u64> {
        first * REGION_BYTES..end * REGION_BYTES
    }

    #[test]
    fn a_mark_survives_a_power_loss_at_any_call_after_it_was_set() {
        for seed in 0..8 {
            for call in 0..10 {
                let files = MemoryFiles::new(seed);
                let own = marks(1, SIZE);
                own.create(&*files, &[]).unwrap();
                files.sync_dir(Path::new("/")).unwrap();
                files.kill_after(call);
                let mut set = Vec::new();
                for nth in [3, 50, 7, 99, 20] {
                    let range = region(nth, nth + 1);
                    if own.mark(&range).is_err() {
                        break;
                    }
                    set.push(range);
                }
                files.lose_power();
                let found = marks(1, SIZE);
                assert!(found.load(&*files), "seed {seed}, call {call}");
                assert!(set.iter().all(|range| found.cover(range)), "seed {seed}, call {call}");
                assert!(!found.cover(&region(60, 61)), "seed {seed}, call {call}");
            }
        }
    }

    #[test]
    fn a_sequential_writer_marks_ahead_and_what_is_kept_alone_is_saved() {
        let files = MemoryFiles::new(1);
        let own = marks(1, SIZE);
        own.create(&*files, &[]).unwrap();
        own.mark(&region(10, 11)).unwrap();
        assert_eq!(own.ranges(), [region(10, 11)]);
        own.mark(&(11 * REGION_BYTES..11 * REGION_BYTES + 512)).unwrap();
        assert_eq!(own.ranges(), [region(10, 13)]);
        own.mark(&region(13, 14)).unwrap();
        assert_eq!(own.ranges(), [region(10, 17)]);
        own.keep(&[region(12, 13)]);
        own.save().unwrap();
        let found = marks(1, SIZE);
        assert!(found.load(&*files));
        assert_eq!(found.ranges(), [region(12, 13)]);
    }

    #[test]
    fn marks_of_another_disk_or_size_and_given_up_ones_are_not_trusted() {
        let files = MemoryFiles::new(1);
        let own = marks(1, SIZE);
        own.create(&*files, &[]).unwrap();
        for other in [marks(2, SIZE), marks(1, SIZE / 2)] {
            assert!(!other.load(&*files));
            assert!(other.cover(&(0..SIZE / 2)));
        }
        own.distrust(&*files).unwrap();
        assert!(own.cover(&(0..SIZE)));
        own.mark(&region(0, 1)).unwrap();
        assert!(!marks(1, SIZE).load(&*files));
    }
}
