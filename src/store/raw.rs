//! The log of a folder, read from the bytes of its file: while a service has it open, and where it is
//! damaged. Nothing is opened for writing, and no lock is taken.
//!
//! Records lie in sled's file uncompressed and prove themselves. The watermark, which is read first, says
//! up to where everything is on the disk, and its running checksum proves that what was found is the whole
//! log. sled moves records while somebody writes; a search that missed one for that reason is made again.

use super::builds;
use super::opening::read_watermark;
use super::payload;
use super::places::{Kept, Places};
use super::record::{HEADER_BYTES, RECORD_BYTES_MAX, Record};
use super::segments::{Stretch, carve_segment, read_up_to, stretches};
use super::sled_tree::io;
use super::watermark::{State, Watermark};
use crate::domain::entity::Commit;
use crate::ports::event_store::{StoreError, WrittenBy};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// How often a file that is being written is searched before what is missing counts as lost.
const SEARCHES: usize = 4;

/// Bytes read at a time; commits that were written together lie together.
const READ_BYTES: usize = 256 << 10;

const _: () = assert!(RECORD_BYTES_MAX <= READ_BYTES);

/// Where the commits of a log lie.
#[derive(Debug)]
pub struct RawLog {
    folder: PathBuf,
    db: PathBuf,
    file: File,
    places: Places,
    /// Whether records may lie elsewhere by now: a part of the places is from an earlier search, or
    /// somebody writes.
    may_have_moved: bool,
}

/// A commit that is there, with the version of its payload; or what is wrong with its place.
pub type RawCommit = Result<(Commit, u16), StoreError>;

/// What a search came to.
struct Search {
    log: RawLog,
    stretches: Vec<Stretch>,
    /// Whether the watermark's checksum says that this is the whole log.
    is_whole: bool,
    /// Whether another search could find more.
    may_find_more: bool,
}

impl RawLog {
    /// Finds the commits of the store in `folder` up to the last acknowledged one; without a watermark,
    /// all that the file holds.
    ///
    /// # Errors
    /// [`StoreError::Io`]. Commits that are missing are told where they are read.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        Ok(Self::search_patiently(folder)?.log)
    }

    /// The same, but looks only at what changed since the search that left the file `kept`, and leaves one
    /// for the next.
    ///
    /// # Errors
    /// As [`RawLog::open`]. A file that cannot be written is none.
    pub fn open_kept(folder: &Path, kept: &Path) -> Result<Self, StoreError> {
        let search = match Self::search(folder, Kept::open(kept))? {
            search if search.is_whole => search,
            _ => Self::search_patiently(folder)?,
        };
        let Search { mut log, stretches, is_whole, .. } = search;
        if is_whole
            && log.places.are_worth_keeping()
            && let Err(error) = log.places.write(kept, &stretches)
        {
            tracing::warn!(path = %kept.display(), %error, "keep where commits lie");
        }
        Ok(log)
    }

    fn search_patiently(folder: &Path) -> Result<Search, StoreError> {
        let mut search = Self::search(folder, None)?;
        for _ in 1..SEARCHES {
            if !search.may_find_more {
                break;
            }
            search = Self::search(folder, None)?;
        }
        Ok(search)
    }

    fn search(folder: &Path, kept: Option<Kept>) -> Result<Search, StoreError> {
        let db = folder.join("log").join("db");
        let watermark = read_watermark(folder)?.map(|reading| reading.watermark);
        let file = File::open(&db).map_err(io("open", &db))?;
        // A record has its header at least, so a damaged watermark cannot ask for more than that.
        let most = file.metadata().map_err(io("open", &db))?.len() / HEADER_BYTES as u64;
        let last = watermark.map(|watermark| watermark.last.min(most));
        let kept = kept.filter(|kept| last.is_some_and(|last| kept.last() <= last));
        let from_kept = kept.is_some();
        let mut places = Places::new(kept, last.unwrap_or(0));
        let stretches = stretches(&file).map_err(io("read", &db))?;
        let mut window = Vec::new();
        for stretch in &stretches {
            if places.knows(*stretch) {
                continue;
            }
            let seen = |at, record: Record<'_>| {
                if last.is_none() && record.global <= most {
                    places.extend_to(record.global);
                }
                if 0 < record.global {
                    places.found(at, &record);
                }
            };
            carve_segment(&file, stretch.base, &mut window, seen).map_err(io("read", &db))?;
        }
        let is_whole = watermark.is_some_and(|watermark| leads_to(&places, watermark));
        let still = watermark.is_none_or(|it| matches!(it.state, State::Closed { .. }));
        let may_have_moved = from_kept || !still;
        let log = Self { folder: folder.to_path_buf(), db, file, places, may_have_moved };
        Ok(Search { log, stretches, is_whole, may_find_more: !is_whole && !still })
    }

    /// Which builds wrote the log.
    pub fn written_by(&self) -> Vec<WrittenBy> {
        builds::read(&self.folder)
    }

    /// The last position that the log has, or should have.
    pub fn last(&self) -> u64 {
        self.places.last()
    }

    /// Visits the commits of positions `from` to `to`, in order, until `visit` breaks. One that is not
    /// what was written is visited as the error that says so.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn read(
        &mut self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(u64, RawCommit) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut window = Window { base: 0, bytes: Vec::new() };
        let to = to.min(self.last());
        for global in from.max(1)..=to {
            let mut commit = self.commit(global, &mut window)?;
            if commit.is_err() && self.may_have_moved {
                *self = Self { may_have_moved: false, ..Self::open(&self.folder)? };
                window = Window { base: 0, bytes: Vec::new() };
                commit = self.commit(global, &mut window)?;
            }
            if visit(global, commit).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn commit(&mut self, global: u64, window: &mut Window) -> Result<RawCommit, StoreError> {
        let Some((place, crc)) = self.places.of(global) else {
            return Ok(Err(self.damaged(global, "is missing")));
        };
        window.reach(&self.file, place).map_err(io("read", &self.db))?;
        Ok(self.commit_at(global, crc, window.at(place)))
    }

    fn commit_at(&self, global: u64, crc: u32, bytes: &[u8]) -> RawCommit {
        let record = Record::read(bytes).map_err(|flaw| self.damaged(global, flaw))?.0;
        if (record.global, record.crc) != (global, crc) {
            return Err(self.damaged(global, "was moved while it was read; read it again"));
        }
        Ok((payload::decode(&record)?, record.version))
    }

    fn damaged(&self, global: u64, what: impl std::fmt::Display) -> StoreError {
        StoreError::damaged(format!("commit {global} in {}", self.db.display()), what)
    }
}

/// Whether the checksums that were found are those of the whole log.
fn leads_to(places: &Places, watermark: Watermark) -> bool {
    places.last() == watermark.last && places.chain() == watermark.chain
}

/// A stretch of the file in memory.
struct Window {
    base: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Makes sure that it holds the record at `place`, as far as the file does.
    fn reach(&mut self, file: &File, place: u64) -> std::io::Result<()> {
        let end = self.base + self.bytes.len() as u64;
        let is_all_there = self.bytes.len() < READ_BYTES || place + RECORD_BYTES_MAX as u64 <= end;
        if (self.base..end).contains(&place) && is_all_there {
            return Ok(());
        }
        self.bytes.resize(READ_BYTES, 0);
        let read = read_up_to(file, &mut self.bytes, place)?;
        self.bytes.truncate(read);
        self.base = place;
        Ok(())
    }

    fn at(&self, place: u64) -> &[u8] {
        self.bytes.get((place - self.base) as usize..).unwrap_or_default()
    }
}
