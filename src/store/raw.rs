//! The log of a folder, read from the bytes of its file: while a service has it open, and where it is
//! damaged. Nothing is opened for writing, and no lock is taken.
//!
//! Records lie in sled's file uncompressed and prove themselves. The watermark, which is read first, says
//! up to where everything is on the disk, and its running checksum proves that what was found is the whole
//! log. sled moves records while somebody writes; a search that missed one for that reason is made again.

use super::opening::read_watermark;
use super::payload;
use super::record::{HEADER_BYTES, RECORD_BYTES_MAX, Record, chain};
use super::segments::{carve_file_places, read_up_to};
use super::sled_tree::io;
use super::watermark::State;
use crate::domain::entity::Commit;
use crate::ports::event_store::StoreError;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// How often a file that is being written is searched before what is missing counts as lost.
const SEARCHES: usize = 4;

/// Bytes read at a time; commits that were written together lie together.
const READ_BYTES: usize = 256 << 10;

const _: () = assert!(RECORD_BYTES_MAX <= READ_BYTES);

/// No record is known at this place.
const NOWHERE: u64 = u64::MAX;

/// Where the commits of a log lie.
#[derive(Debug)]
pub struct RawLog {
    db: PathBuf,
    file: File,
    /// By global position, from 1.
    places: Vec<u64>,
}

/// A commit that is there, with the version of its payload; or what is wrong with its place.
pub type RawCommit = Result<(Commit, u16), StoreError>;

impl RawLog {
    /// Finds the commits of the store in `folder` up to the last acknowledged one; without a watermark,
    /// all that the file holds.
    ///
    /// # Errors
    /// [`StoreError::Io`]. Commits that are missing are told where they are read.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let db = folder.join("log").join("db");
        let mut log = Self::search(folder, &db)?;
        for _ in 1..SEARCHES {
            if log.1 {
                break;
            }
            log = Self::search(folder, &db)?;
        }
        Ok(log.0)
    }

    /// Also answers whether another search could find no more than this one.
    fn search(folder: &Path, db: &Path) -> Result<(Self, bool), StoreError> {
        let watermark = read_watermark(folder)?.map(|reading| reading.watermark);
        let file = File::open(db).map_err(io("open", db))?;
        let most = watermark.map(|watermark| watermark.last);
        // A record has its header at least, so a damaged watermark cannot ask for more than that.
        let bytes = file.metadata().map_err(io("open", db))?.len();
        let most = most.map(|last| last.min(bytes / HEADER_BYTES as u64));
        let mut places = vec![NOWHERE; most.map_or(0, |last| last as usize)];
        let mut crcs = vec![0; places.len()];
        let mut seen = |at, record: Record<'_>| {
            let index = (record.global - 1) as usize;
            if most.is_none() && places.len() <= index && record.global <= bytes {
                places.resize(index + 1, NOWHERE);
                crcs.resize(index + 1, 0);
            }
            if let (Some(place), Some(crc)) = (places.get_mut(index), crcs.get_mut(index)) {
                (*place, *crc) = (at, record.crc);
            }
        };
        carve_file_places(db, |at, record| {
            if 0 < record.global {
                seen(at, record);
            }
        })
        .map_err(io("read", db))?;
        let running = crcs.iter().fold(0, |running, crc| chain(running, *crc));
        let whole = watermark.is_some_and(|watermark| running == watermark.chain);
        let still =
            watermark.is_none_or(|watermark| matches!(watermark.state, State::Closed { .. }));
        Ok((Self { db: db.to_path_buf(), file, places }, whole || still))
    }

    /// The last position that the log has, or should have.
    pub fn last(&self) -> u64 {
        self.places.len() as u64
    }

    /// Visits the commits of positions `from` to `to`, in order, until `visit` breaks. One that is not
    /// what was written is visited as the error that says so.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn read(
        &self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(u64, RawCommit) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut window = Window { base: 0, bytes: Vec::new() };
        for global in from.max(1)..=to.min(self.last()) {
            let place = self.places[(global - 1) as usize];
            let commit = if place == NOWHERE {
                Err(self.damaged(global, "is missing"))
            } else {
                window.reach(&self.file, place).map_err(io("read", &self.db))?;
                self.commit_at(global, window.at(place))
            };
            if visit(global, commit).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn commit_at(&self, global: u64, bytes: &[u8]) -> RawCommit {
        let record = Record::read(bytes).map_err(|flaw| self.damaged(global, flaw))?.0;
        if record.global != global {
            return Err(self.damaged(global, "was moved while it was read; read it again"));
        }
        Ok((payload::decode(&record)?, record.version))
    }

    fn damaged(&self, global: u64, what: impl std::fmt::Display) -> StoreError {
        StoreError::damaged(format!("commit {global} in {}", self.db.display()), what)
    }
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
