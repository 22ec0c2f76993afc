//! Where a log is read from: a service's folder, or a file that was exported or simulated.

use super::checkpoints::{Checkpoint, Checkpoints};
use super::past::{Moment, Past};
use crate::domain::catalogue::Code;
use crate::domain::entity::Commit;
use crate::domain::failure::Classified;
use crate::ports::event_store::{StoreError, WrittenBy};
use crate::store::jsonl::{BadLine, LogFile};
use crate::store::raw::RawLog;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A commit, as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The commit.
    pub commit: Commit,
    /// The version of its payload; an exported log does not tell it.
    pub version: Option<u16>,
    /// Where it was found.
    pub(super) place: Place,
}

impl Recorded {
    /// A commit that a store answered.
    pub(super) fn of_store(commit: Commit) -> Self {
        Self { commit, version: None, place: Place::default() }
    }
}

/// Where in a file a line begins: the lines before it, and their bytes. Nowhere in particular for a log
/// that is no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) offset: u64,
}

/// Something in the place of commits that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Line or commit.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Damage that is listed; where there is more, a log has to be restored rather than read.
const LISTED: usize = 1_000;

impl Damage {
    /// Adds it to a list, which it lets grow only so long.
    pub(super) fn list(self, list: &mut Vec<Self>) {
        match list.len() {
            0..LISTED => list.push(self),
            LISTED => list.push(Self {
                place: "further on".to_owned(),
                what: "there is more, which is not listed".to_owned(),
            }),
            _ => {}
        }
    }
}

/// What is read in a log's order.
pub type Found = Result<Recorded, Damage>;

/// Why a log cannot be read at all.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The folder's log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file cannot be read.
    #[error("read log {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
}

impl Classified for HistoryError {
    fn code(&self) -> Code {
        Code::EventLogFailed
    }
}

/// A log that can be read again and again, from its beginning or from anywhere.
#[derive(Debug)]
pub enum History {
    /// Of a service, which may be running.
    Folder(RawLog),
    /// An exported log, with where its second line starts.
    File(Box<LogFile>, (u64, u64)),
    /// In memory.
    Commits(Vec<Commit>),
}

impl History {
    /// The log in the folder of an event store. It is only read, also while a service writes it.
    ///
    /// # Errors
    /// [`HistoryError::Store`]. Damage is met where it is read.
    pub fn of_store(folder: &Path) -> Result<Self, HistoryError> {
        Ok(Self::Folder(RawLog::open(folder)?))
    }

    /// The same, with what an earlier reading kept of where its commits lie.
    ///
    /// # Errors
    /// As [`History::of_store`].
    pub fn of_store_kept(folder: &Path, kept: &Checkpoints) -> Result<Self, HistoryError> {
        Ok(Self::Folder(RawLog::open_kept(folder, &kept.places())?))
    }

    /// An exported log.
    ///
    /// # Errors
    /// [`HistoryError::Io`]. Damage is met where it is read.
    pub fn of_file(path: &Path) -> Result<Self, HistoryError> {
        let io = |source| HistoryError::Io { path: path.to_path_buf(), source };
        let file = LogFile::open(path).map_err(io)?;
        let start = file.place();
        Ok(Self::File(Box::new(file), start))
    }

    /// Which builds wrote the log; of what lies before the first, that is not known.
    pub fn written_by(&self) -> Vec<WrittenBy> {
        match self {
            Self::Folder(log) => log.written_by(),
            Self::File(file, _) => {
                file.header().map_or_else(|_| vec![], |it| it.written_by.clone())
            }
            Self::Commits(_) => Vec::new(),
        }
    }

    /// The last position that the log has, or should have; 0 if that is not known.
    pub fn last(&self) -> u64 {
        match self {
            Self::Folder(log) => log.last(),
            Self::File(file, _) => file.header().map_or(0, |header| header.last),
            Self::Commits(commits) => commits.last().map_or(0, |commit| commit.global),
        }
    }

    /// Hands everything from the beginning on to `take`, in order, until it breaks.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn each(&mut self, take: impl FnMut(Found) -> ControlFlow<()>) -> Result<(), HistoryError> {
        self.each_since(1, take)
    }

    /// The same from a position on. A file is read from its beginning all the same.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn each_since(
        &mut self,
        from: u64,
        mut take: impl FnMut(Found) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let is_file = matches!(self, Self::File(..));
        self.each_from(if is_file { 1 } else { from }, None, |found| match found {
            Ok(recorded) if recorded.commit.global < from => ControlFlow::Continue(()),
            found => take(found),
        })
    }

    /// The same from a position on, which in a file lies at this place.
    fn each_from(
        &mut self,
        from: u64,
        at: Option<Place>,
        mut take: impl FnMut(Found) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        match self {
            Self::Commits(commits) => {
                let found = commits.iter().filter(|commit| from <= commit.global);
                let mut found = found.map(|commit| Recorded::of_store(commit.clone()));
                let _ = found.try_for_each(|recorded| take(Ok(recorded)));
                Ok(())
            }
            Self::Folder(log) => Ok(log.read(from, u64::MAX, |global, found| {
                take(
                    found
                        .map(|(commit, version)| Recorded {
                            version: Some(version),
                            ..Recorded::of_store(commit)
                        })
                        .map_err(|error| damaged_commit(global, error)),
                )
            })?),
            Self::File(file, start) => {
                let path = file.path().to_path_buf();
                let io = |source| HistoryError::Io { path: path.clone(), source };
                file.go_to(at.map_or(*start, |place| (place.line, place.offset))).map_err(io)?;
                Lines { file, next: from, bad: 0 }.each(&mut take).map_err(io)
            }
        }
    }

    /// Every entity as it was at a moment. It goes on from a state that an exported log has with it, or,
    /// with `kept`, that an earlier reading kept; those that it passes are kept as well.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn past(
        &mut self,
        moment: Moment,
        kept: Option<&Checkpoints>,
    ) -> Result<Past, HistoryError> {
        Ok(self.past_or_end(moment, kept)?.0)
    }

    /// The same, and whether the log ends with it.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn past_or_end(
        &mut self,
        moment: Moment,
        kept: Option<&Checkpoints>,
    ) -> Result<(Past, bool), HistoryError> {
        let begin = self.kept_before(moment, kept)?;
        let (position, at) = begin.as_ref().map(|kept| (kept.past.position, kept.place)).unzip();
        let mut past = begin.map_or_else(Past::default, |kept| kept.past);
        let mut ends = true;
        // The commit that the kept state comes after is read again: in a file, the next one is behind it.
        self.each_from(position.unwrap_or(1), at, |found| {
            match found {
                Ok(recorded) if moment.includes(&recorded.commit) => {
                    if past.position < recorded.commit.global {
                        past.apply(&recorded.commit);
                        kept.inspect(|kept| _ = kept.keep(&past, &recorded));
                    }
                }
                Ok(_) => {
                    ends = false;
                    return ControlFlow::Break(());
                }
                Err(damage) => past.met(&damage),
            }
            ControlFlow::Continue(())
        })?;
        Ok((past, ends))
    }

    /// The last state at or before a moment that was kept, beside the log or in it, and is one of this log.
    fn kept_before(
        &mut self,
        moment: Moment,
        kept: Option<&Checkpoints>,
    ) -> Result<Option<Checkpoint>, HistoryError> {
        let attached = self.attached_before(moment)?;
        let from = attached.as_ref().map_or(0, |kept| kept.past.position + 1);
        for kept in kept.into_iter().flat_map(|kept| kept.before(moment)) {
            if kept.past.position < from {
                break;
            }
            if self.has(&kept)? {
                return Ok(Some(kept));
            }
        }
        Ok(attached)
    }

    /// The states that an exported log has with it, by the position of the commit that they come after.
    pub(super) fn attached(&mut self) -> Result<BTreeMap<u64, Vec<u8>>, HistoryError> {
        let mut attached = BTreeMap::new();
        for at in self.ask_file(LogFile::states)? {
            if let Some(state) = self.ask_file(|file| file.state(at))? {
                attached.insert(at.after, state);
            }
        }
        Ok(attached)
    }

    /// The last state before a moment that an exported log has with it.
    fn attached_before(&mut self, moment: Moment) -> Result<Option<Checkpoint>, HistoryError> {
        let mut states = self.ask_file(LogFile::states)?;
        states.retain(|it| moment.is_at_or_after(it.after, it.latest_ms));
        for at in states.into_iter().rev() {
            let bytes = self.ask_file(|file| file.state(at))?;
            let kept = bytes.and_then(|bytes| Checkpoint::read(&bytes, at.after));
            if let Some(kept) = kept
                && self.has(&kept)?
            {
                return Ok(Some(kept));
            }
        }
        Ok(None)
    }

    /// What the file of an exported log answers; of another log, nothing.
    fn ask_file<T: Default>(
        &mut self,
        ask: impl FnOnce(&mut LogFile) -> io::Result<T>,
    ) -> Result<T, HistoryError> {
        let Self::File(file, _) = self else { return Ok(T::default()) };
        ask(file).map_err(|source| HistoryError::Io { path: file.path().to_path_buf(), source })
    }

    /// Whether the commit that a state comes after lies where it says.
    fn has(&mut self, kept: &Checkpoint) -> Result<bool, HistoryError> {
        let mut is_of_this_log = false;
        self.each_from(kept.past.position, Some(kept.place), |found| {
            is_of_this_log = found.is_ok_and(|found| kept.is_after(&found.commit));
            ControlFlow::Break(())
        })?;
        Ok(is_of_this_log)
    }
}

fn damaged_commit(global: u64, error: StoreError) -> Damage {
    let place = format!("commit {global}");
    match error {
        StoreError::Damaged { what, .. } => Damage { place, what },
        error => Damage { place, what: error.to_string() },
    }
}

/// The lines of a file as commits in the order of the log.
struct Lines<'a> {
    file: &'a mut LogFile,
    /// The position that comes next.
    next: u64,
    /// Damaged lines since the last commit: each may have held one.
    bad: u64,
}

impl Lines<'_> {
    fn each(&mut self, take: &mut impl FnMut(Found) -> ControlFlow<()>) -> io::Result<()> {
        if let Err(bad) = self.file.header().map_err(BadLine::clone)
            && take(Err(self.at(bad.line, bad.what))).is_break()
        {
            return Ok(());
        }
        while let Some(found) = self.file.next_commit()? {
            let flow = match found {
                Err(BadLine { line, what }) => {
                    self.bad += 1;
                    take(Err(self.at(line, what)))
                }
                Ok(commit) => self.take(commit, take),
            };
            if flow.is_break() {
                return Ok(());
            }
        }
        let count = self.file.header().map_or(0, |header| header.count);
        let _ = self.gap(count + 1, take);
        Ok(())
    }

    fn take(
        &mut self,
        commit: Commit,
        take: &mut impl FnMut(Found) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (line, _) = self.file.place();
        if commit.global < self.next {
            let what = format!("holds commit {}, which came before", commit.global);
            return take(Err(self.at(line, what)));
        }
        self.gap(commit.global, take)?;
        self.next = commit.global + 1;
        self.bad = 0;
        let (line, offset) = self.file.place_before();
        take(Ok(Recorded { commit, version: None, place: Place { line, offset } }))
    }

    /// Tells of commits before `global` that no line holds, not even a damaged one.
    fn gap(&self, global: u64, take: &mut impl FnMut(Found) -> ControlFlow<()>) -> ControlFlow<()> {
        if global <= self.next + self.bad {
            return ControlFlow::Continue(());
        }
        let (line, _) = self.file.place();
        let what = format!("commits {} to {} are missing before it", self.next, global - 1);
        take(Err(self.at(line, what)))
    }

    fn at(&self, line: u64, what: String) -> Damage {
        let name = self.file.path().file_name().unwrap_or_default().to_string_lossy();
        Damage { place: format!("line {line} of {name}"), what }
    }
}
