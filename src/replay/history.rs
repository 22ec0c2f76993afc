//! Where a log is read from: a service's folder, or a file that was exported or simulated.

use super::checkpoints::{Checkpoint, Checkpoints};
use super::past::{Gaps, Moment, Past};
use crate::domain::catalogue::Code;
use crate::domain::entity::{Commit, StreamId};
use crate::domain::failure::Classified;
use crate::ports::event_store::{StoreError, WrittenBy};
use crate::store::jsonl::{BadLine, LogFile};
use crate::store::raw::RawLog;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
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

/// Damage that is told; the rest of a long list says nothing more.
const TOLD: usize = 10;

impl Damage {
    /// A list for people: the first of it, and how much more there is.
    pub fn told(list: &[Self]) -> Vec<String> {
        let more = list.len().saturating_sub(TOLD);
        let rest = (0 < more).then(|| format!("and {more} more places of the log"));
        list.iter().take(TOLD).map(ToString::to_string).chain(rest).collect()
    }

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
                Lines::of(file, from).each(&mut take).map_err(io)
            }
        }
    }

    /// Every entity as it was at a moment. What the log tells behind it is used for one thing: to tell which
    /// of them commits are missing of. It goes on from a state that an exported log has with it, or,
    /// with `kept`, that an earlier reading kept; those that it passes are kept as well.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn past(
        &mut self,
        moment: Moment,
        kept: Option<&Checkpoints>,
    ) -> Result<Past, HistoryError> {
        Ok(self.seen_at(moment, kept)?.past)
    }

    /// The same, with where the moment lies in the log.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn seen_at(
        &mut self,
        moment: Moment,
        kept: Option<&Checkpoints>,
    ) -> Result<Seen, HistoryError> {
        let begin = self.kept_before(moment, kept)?;
        let (position, at) = begin.as_ref().map(|kept| (kept.past.position, kept.place)).unzip();
        let past = begin.map_or_else(Past::default, |kept| kept.past);
        let mut seen = Seen { past, ends: true, behind: Vec::new() };
        let mut behind = None;
        // The commit that the kept state comes after is read again: in a file, the next one is behind it.
        self.each_from(position.unwrap_or(1), at, |found| {
            match found {
                Ok(recorded) if moment.includes(&recorded.commit) => {
                    seen.meet_behind();
                    if seen.past.position < recorded.commit.global {
                        seen.past.apply(&recorded.commit);
                        kept.inspect(|kept| _ = kept.keep(&seen.past, &recorded));
                    }
                }
                Ok(recorded) => {
                    seen.ends = false;
                    let behind = behind.get_or_insert_with(|| {
                        seen.miss_up_to(moment.last_before(recorded.commit.global));
                        Behind::of(&seen.past)
                    });
                    return behind.take(&recorded.commit);
                }
                Err(damage) if behind.is_none() => damage.list(&mut seen.behind),
                Err(_) => {}
            }
            ControlFlow::Continue(())
        })?;
        if seen.ends {
            seen.meet_behind();
        }
        behind.unwrap_or_else(|| Behind::of(&seen.past)).settle(&mut seen.past);
        Ok(seen)
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

/// A moment of a log.
#[derive(Debug)]
pub struct Seen {
    /// Every entity as it was.
    pub past: Past,
    /// Whether the log has nothing behind it.
    pub ends: bool,
    /// Damage that was met behind it, where what is told of the moment does not depend on it.
    pub behind: Vec<Damage>,
}

impl Seen {
    /// What was met since the last commit lies before the moment after all.
    fn meet_behind(&mut self) {
        self.behind.drain(..).for_each(|damage| self.past.met(&damage));
    }

    /// All behind the last commit up to a position is missing, and belongs to the moment.
    fn miss_up_to(&mut self, last: u64) {
        if self.past.position < last {
            self.meet_behind();
            self.past.gaps.miss(self.past.position, last, self.past.seqs.keys());
        }
    }
}

/// What commits behind a moment tell of the missing ones before it.
struct Behind {
    position: u64,
    seqs: BTreeMap<StreamId, u64>,
    gaps: Gaps,
    /// Streams of which commits before the moment are missing.
    torn: BTreeSet<StreamId>,
}

impl Behind {
    fn of(past: &Past) -> Self {
        let (position, seqs) = (past.position.max(past.gaps.last), past.seqs.clone());
        Self { position, seqs, gaps: past.gaps.clone(), torn: BTreeSet::new() }
    }

    /// Takes the next commit behind the moment, until nothing is left to find out.
    fn take(&mut self, commit: &Commit) -> ControlFlow<()> {
        if self.gaps.are_settled() {
            return ControlFlow::Break(());
        }
        let before = self.seqs.insert(commit.stream, commit.seq);
        let was_suspect = before.is_none() || self.gaps.may_be_of(commit.stream);
        if self.gaps.follow(self.position, before, commit) && was_suspect {
            self.torn.insert(commit.stream);
        }
        self.position = commit.global;
        ControlFlow::Continue(())
    }

    /// Says of every stream of a moment whether commits of it may be missing.
    fn settle(self, past: &mut Past) {
        let behind = past.gaps.last + 1;
        for stream in self.torn.into_iter().chain(self.gaps.into_suspects()) {
            past.incomplete.entry(stream).or_insert(behind);
        }
    }
}

/// Commits of a file that are read ahead to find one which is not in its place.
const AHEAD: usize = 64;

/// The lines of a file as commits in the order of the log.
struct Lines<'a> {
    file: &'a mut LogFile,
    /// The position that comes next.
    next: u64,
    /// Damaged lines so far: each may have held a commit.
    bad: u64,
    /// Those of them before the commit that was handed on last.
    bad_before: u64,
    /// Commits that are ahead of their turn.
    ahead: BTreeMap<u64, Ahead>,
}

/// A commit with its line, and how many damaged ones there are before that.
struct Ahead {
    line: u64,
    bad: u64,
    recorded: Recorded,
}

impl<'a> Lines<'a> {
    fn of(file: &'a mut LogFile, next: u64) -> Self {
        Self { file, next, bad: 0, bad_before: 0, ahead: BTreeMap::new() }
    }

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
        let _ = self.end(take);
        Ok(())
    }

    fn take(
        &mut self,
        commit: Commit,
        take: &mut impl FnMut(Found) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let ((line, _), global) = (self.file.place(), commit.global);
        if global < self.next || self.ahead.contains_key(&global) {
            let what = format!("holds commit {global}, which came before");
            return take(Err(self.at(line, what)));
        }
        if let Some((last, _)) = self.ahead.last_key_value().filter(|(last, _)| global < **last) {
            let what =
                format!("holds commit {global} behind commit {last}: it is read in its turn");
            take(Err(self.at(line, what)))?;
        }
        let (before, offset) = self.file.place_before();
        let recorded = Recorded { commit, version: None, place: Place { line: before, offset } };
        let next = Ahead { line, bad: self.bad, recorded };
        if self.ahead.is_empty() && self.has_turn(&next) {
            return self.hand_on(next, take);
        }
        self.ahead.insert(global, next);
        self.hand_on_all(AHEAD, take)
    }

    /// Whether nothing is missing before a commit, or damaged lines may have held it.
    fn has_turn(&self, next: &Ahead) -> bool {
        next.recorded.commit.global <= self.next + next.bad.saturating_sub(self.bad_before)
    }

    /// Hands on what has its turn, and more where too much waits for a commit that does not come.
    fn hand_on_all(
        &mut self,
        waiting: usize,
        take: &mut impl FnMut(Found) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        while let Some((global, first)) = self.ahead.pop_first() {
            if self.ahead.len() < waiting && !self.has_turn(&first) {
                self.ahead.insert(global, first);
                break;
            }
            self.hand_on(first, take)?;
        }
        ControlFlow::Continue(())
    }

    fn hand_on(
        &mut self,
        next: Ahead,
        take: &mut impl FnMut(Found) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let global = next.recorded.commit.global;
        if !self.has_turn(&next) {
            let what = format!("{} missing before it", commits(self.next, global - 1));
            take(Err(self.at(next.line, what)))?;
        }
        self.next = global + 1;
        self.bad_before = self.bad_before.max(next.bad);
        take(Ok(next.recorded))
    }

    /// Hands on what still waits, and tells of commits that the first line counts and no line holds.
    fn end(&mut self, take: &mut impl FnMut(Found) -> ControlFlow<()>) -> ControlFlow<()> {
        self.hand_on_all(0, take)?;
        let count = self.file.header().map_or(0, |header| header.count);
        if self.next + (self.bad - self.bad_before) <= count {
            let (line, _) = self.file.place();
            let what = format!("{} missing behind it", commits(self.next, count));
            take(Err(self.at(line, what)))?;
        }
        ControlFlow::Continue(())
    }

    fn at(&self, line: u64, what: String) -> Damage {
        let name = self.file.path().file_name().unwrap_or_default().to_string_lossy();
        Damage { place: format!("line {line} of {name}"), what }
    }
}

fn commits(first: u64, last: u64) -> String {
    if first == last {
        format!("commit {first} is")
    } else {
        format!("commits {first} to {last} are")
    }
}
