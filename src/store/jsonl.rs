//! A log as JSON Lines: readable, portable, and as well protected as the store.
//!
//! The first line is `{"format":"lifeboat events","version":1,"count":…,"first":…,"last":…,"chain":"…","written_by":[…]}`,
//! every other one `{"crc":"…","commit":{…}}`. `crc` is the CRC32 of the commit's JSON, `chain` runs
//! over all of them. An imported log exports to the same bytes. [`LogFile`] reads on behind damage.
//!
//! Version 2 may have [states](super::attached) behind the commits; version 1 has none.

use super::attached::{self, Attached, StateAt, is_behind_commits};
use super::record::chain;
use super::sled_store::SledStore;
use crate::domain::catalogue::Code;
use crate::domain::entity::{Commit, NewCommit, StreamId};
use crate::domain::failure::Classified;
use crate::ports::event_store::{EventStore, StoreError, WrittenBy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

const FORMAT: &str = "lifeboat events";
const VERSION: u32 = 2;
const OLDEST_VERSION: u32 = 1;

/// Commits that are read or appended at once.
const BATCH: usize = 4096;

/// Bytes of the longest line that is read.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What the file is.
    pub format: String,
    /// The version of this format.
    pub version: u32,
    /// How many commits follow.
    pub count: u64,
    /// Global position of the first.
    pub first: u64,
    /// Global position of the last.
    pub last: u64,
    /// Running checksum of all lines, in hexadecimal.
    pub chain: String,
    /// Whether names and texts were replaced by pseudonyms.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
    /// Which builds wrote the commits; of those before the first, that is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written_by: Vec<WrittenBy>,
}

impl Header {
    fn is_known(&self) -> bool {
        self.format == FORMAT && (OLDEST_VERSION..=VERSION).contains(&self.version)
    }

    fn new(count: u64, chain: u32, written_by: Vec<WrittenBy>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            count,
            first: count.min(1),
            last: count,
            chain: format!("{chain:08x}"),
            redacted: false,
            written_by: written_by.into_iter().filter(|it| it.from <= count).collect(),
        }
    }
}

/// Every other line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    crc: String,
    commit: Commit,
}

/// Why a log was not moved.
#[derive(Debug, Error)]
pub enum TransferError {
    /// A line is not what was exported.
    #[error("import line {line} of {} refused: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counted from 1, the header is line 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The store that should take the log has commits.
    #[error("import {} refused: the event store holds {commits} commits already", path.display())]
    NotEmpty {
        /// The file.
        path: PathBuf,
        /// How many.
        commits: u64,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file could not be read or written.
    #[error("transfer event log")]
    Io(#[from] io::Error),
}

impl Classified for TransferError {
    fn code(&self) -> Code {
        Code::EventLogFailed
    }
}

/// The state after a commit whose line begins behind these lines and bytes, if one is to be in the file.
pub type StateAfter<'a> = &'a mut dyn FnMut(&Commit, (u64, u64)) -> Option<Vec<u8>>;

/// Writes all durable commits of `store` to `out`, with states behind them. Reads the log twice: the first
/// line tells what follows.
///
/// # Errors
/// [`TransferError::Store`] at the first commit that cannot be read, [`TransferError::Io`].
pub fn export(
    store: &dyn EventStore,
    state_after: StateAfter<'_>,
    out: &mut dyn Write,
) -> Result<Header, TransferError> {
    let last = store.durable();
    let each = |write: &mut dyn FnMut(&Commit) -> io::Result<()>| {
        let mut next = 1;
        while next <= last {
            let limit = BATCH.min(usize::try_from(last - next + 1).unwrap_or(BATCH));
            for commit in store.read_all(next, limit)? {
                next = commit.global + 1;
                write(&commit)?;
            }
        }
        Ok(())
    };
    write(false, store.written_by(), each, state_after, out)
}

/// The same of the commits that `each` hands on, which are asked for twice. The first line says who wrote
/// them, and whether their texts are pseudonyms.
///
/// # Errors
/// What `each` answers; the file system's.
pub fn write<E: From<io::Error>>(
    redacted: bool,
    written_by: Vec<WrittenBy>,
    mut each: impl FnMut(&mut dyn FnMut(&Commit) -> io::Result<()>) -> Result<(), E>,
    state_after: StateAfter<'_>,
    out: &mut dyn Write,
) -> Result<Header, E> {
    let (mut count, mut running) = (0, 0);
    each(&mut |commit| {
        count += 1;
        running = chain(running, crc32fast::hash(json(commit).as_bytes()));
        Ok(())
    })?;
    let header = Header { redacted, ..Header::new(count, running, written_by) };
    let first = json(&header);
    writeln!(out, "{first}")?;
    let (mut line, mut offset) = (1, first.len() as u64 + 1);
    let mut attached = Attached::new();
    each(&mut |commit| {
        let place = (line, offset);
        line += 1;
        offset += write_checked(out, "commit", &json(commit))?;
        attached.after(commit.global, commit.at, state_after(commit, place));
        Ok(())
    })?;
    attached.write(offset, out)?;
    out.flush()?;
    Ok(header)
}

/// Appends the log in the file at `path` to an empty store. Reads it twice: nothing is appended unless
/// every line is sound. Returns once everything is durable.
///
/// # Errors
/// [`TransferError::Damaged`] names the first line that is not what was exported;
/// [`TransferError::NotEmpty`]; [`TransferError::Store`], after which a part may have been appended.
pub async fn import(path: &Path, store: &SledStore) -> Result<Header, TransferError> {
    let commits = store.durable();
    if commits != 0 {
        return Err(TransferError::NotEmpty { path: path.to_path_buf(), commits });
    }
    let mut verified = Lines::open(path)?;
    while verified.next_commit()?.is_some() {}
    let mut lines = Lines::open(path)?;
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(commit) = lines.next_commit()? {
        batch.push(as_new(commit));
        if batch.len() == BATCH {
            store.append_in_order(std::mem::take(&mut batch)).await?;
        }
    }
    store.append_in_order(batch).await?;
    store.note_written_by(lines.header.written_by.clone());
    Ok(lines.header)
}

/// Writes a line that holds a document with its checksum; answers its bytes.
pub(super) fn write_checked(out: &mut dyn Write, key: &str, json: &str) -> io::Result<u64> {
    let crc = crc32fast::hash(json.as_bytes());
    writeln!(out, r#"{{"crc":"{crc:08x}","{key}":{json}}}"#)?;
    Ok((CHECKED_BYTES + key.len() + json.len()) as u64)
}

/// Bytes of such a line but for the key and the document.
const CHECKED_BYTES: usize = r#"{"crc":"00000000","":}"#.len() + 1;

/// The document of a line and its checksum, if that is the checksum of its bytes.
pub(super) fn checked<'a>(line: &'a str, key: &str) -> Option<(u32, &'a str)> {
    let rest = line.trim_end().strip_prefix(r#"{"crc":""#)?;
    let (crc, rest) = rest.split_at_checked(8)?;
    let rest = rest.strip_prefix(r#"",""#)?.strip_prefix(key)?;
    let json = rest.strip_prefix(r#"":"#)?.strip_suffix('}')?;
    let crc = u32::from_str_radix(crc, 16).ok()?;
    (crc32fast::hash(json.as_bytes()) == crc).then_some((crc, json))
}

/// A line's commit with its checksum, which was proven: over the bytes as they are, or, where somebody
/// wrote the same in another way, over the commit as this build writes it.
fn proven(line: &str) -> Result<(Commit, u32), String> {
    let Line { crc, commit } = serde_json::from_str(line).map_err(|error| unreadable(&error))?;
    if let Some((crc, _)) = checked(line, "commit") {
        return Ok((commit, crc));
    }
    let actual = crc32fast::hash(json(&commit).as_bytes());
    if format!("{actual:08x}") != crc {
        return Err(format!("its checksum is {actual:08x}, not {crc}"));
    }
    Ok((commit, actual))
}

/// What is wrong with the JSON of a line, which is told with its number elsewhere.
fn unreadable(error: &serde_json::Error) -> String {
    let told = error.to_string();
    let what = told.rsplit_once(" at line ").map_or(told.as_str(), |(what, _)| what);
    format!("is not as it was written: {what} (column {})", error.column())
}

pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data with text keys always has a JSON form")
}

fn as_new(commit: Commit) -> NewCommit {
    let Commit { stream, seq, global: _, at, actor, correlation, causation, entry } = commit;
    NewCommit { stream, expected_seq: seq - 1, at, actor, correlation, causation, entry }
}

/// The lines of an exported log, each proven.
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    header: Header,
    /// The number of the line that was read last.
    line: u64,
    commits: u64,
    chain: u32,
    seqs: BTreeMap<StreamId, u64>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, TransferError> {
        let reader = BufReader::new(File::open(path)?);
        let header = Header::new(0, 0, Vec::new());
        let (path, seqs) = (path.to_path_buf(), BTreeMap::new());
        let mut lines = Self { path, reader, header, line: 0, commits: 0, chain: 0, seqs };
        let text = lines.next_line()?.ok_or_else(|| lines.damaged("the file is empty"))?;
        let header: Header =
            serde_json::from_str(&text).map_err(|error| lines.damaged(unreadable(&error)))?;
        if !header.is_known() {
            let what = format!("{} {} is unknown", header.format, header.version);
            return Err(lines.damaged(what));
        }
        if header.last != header.count || header.first != header.count.min(1) {
            return Err(lines.damaged("the log does not start with the first commit"));
        }
        lines.header = header;
        Ok(lines)
    }

    /// The next commit; `None` at the end, if it is where the header says and what is behind it is sound.
    fn next_commit(&mut self) -> Result<Option<Commit>, TransferError> {
        let text = match self.next_line()? {
            Some(text) if !is_behind_commits(text.as_bytes()) => text,
            behind => {
                self.check_end()?;
                self.check_what_is_behind(behind)?;
                return Ok(None);
            }
        };
        let (commit, crc) = proven(&text).map_err(|what| self.damaged(what))?;
        self.check_numbers(&commit)?;
        self.commits += 1;
        self.chain = chain(self.chain, crc);
        Ok(Some(commit))
    }

    fn check_end(&self) -> Result<(), TransferError> {
        let (read, told) = (self.commits, self.header.count);
        if read != told {
            return Err(self.damaged(format!("{read} commits, but the header says {told}")));
        }
        if format!("{:08x}", self.chain) != self.header.chain {
            return Err(self.damaged("the lines do not match the header's chain"));
        }
        Ok(())
    }

    fn check_what_is_behind(&mut self, mut line: Option<String>) -> Result<(), TransferError> {
        while let Some(text) = line {
            if !attached::is_sound(&text) {
                return Err(self.damaged("is not what was written behind the commits"));
            }
            line = self.next_line()?;
        }
        Ok(())
    }

    fn check_numbers(&mut self, commit: &Commit) -> Result<(), TransferError> {
        if commit.global != self.commits + 1 {
            return Err(self.damaged(format!("holds commit {}", commit.global)));
        }
        let before = self.seqs.insert(commit.stream, commit.seq).unwrap_or(0);
        if before + 1 != commit.seq {
            let what = format!("{} goes from {before} to {}", commit.stream, commit.seq);
            return Err(self.damaged(what));
        }
        Ok(())
    }

    fn next_line(&mut self) -> Result<Option<String>, TransferError> {
        let mut text = String::new();
        let limited = &mut io::Read::take(&mut self.reader, attached::LINE_BYTES_MAX);
        self.line += 1;
        match limited.read_line(&mut text) {
            Ok(0) => {
                self.line -= 1;
                Ok(None)
            }
            Ok(_) if text.ends_with('\n') => Ok(Some(text)),
            Ok(_) => Err(self.damaged("does not end")),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(self.damaged(error)),
            Err(error) => Err(error.into()),
        }
    }

    fn damaged(&self, what: impl std::fmt::Display) -> TransferError {
        let (path, line) = (self.path.clone(), self.line.max(1));
        TransferError::Damaged { path, line, what: what.to_string() }
    }
}

/// What a line of a log holds: a commit, or what is wrong with it.
pub type FoundLine = Result<Commit, BadLine>;

/// A line that is not what was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Counted from 1, the header is line 1.
    pub line: u64,
    /// What is wrong with it.
    pub what: String,
}

/// An exported log that is read as far as it is sound, before damage and behind it.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    reader: BufReader<File>,
    /// The first line; `None` where that is damaged.
    header: Result<Header, BadLine>,
    /// The number of the line that was read last.
    line: u64,
    /// Where the next one starts.
    offset: u64,
    /// The place before the line that was read last.
    before: (u64, u64),
}

impl LogFile {
    /// Opens the file and reads its first line.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let reader = BufReader::new(File::open(path)?);
        let nothing = BadLine { line: 1, what: "the file is empty".to_owned() };
        let path = path.to_path_buf();
        let (line, offset, before) = (0, 0, (0, 0));
        let mut file = Self { path, reader, header: Err(nothing), line, offset, before };
        if let Some(text) = file.next_text()? {
            let is_commit = text.as_ref().is_ok_and(|text| proven(text).is_ok());
            let header = text.and_then(|text| {
                if is_commit {
                    return Err(
                        "holds a commit: the line before it, with how many there are, is lost"
                            .into(),
                    );
                }
                let header: Header = serde_json::from_str(&text).map_err(|it| unreadable(&it))?;
                let unknown = || format!("{} {} is unknown", header.format, header.version);
                if header.is_known() { Ok(header) } else { Err(unknown()) }
            });
            file.header = header.map_err(|what| BadLine { line: 1, what });
            if is_commit {
                file.go_to((0, 0))?;
            }
        }
        Ok(file)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the first line says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn header(&self) -> Result<&Header, &BadLine> {
        self.header.as_ref()
    }

    /// The number of the line that was read last, and where the next one starts.
    pub fn place(&self) -> (u64, u64) {
        (self.line, self.offset)
    }

    /// The same of the line before: from there, the line that was read last is read again.
    pub fn place_before(&self) -> (u64, u64) {
        self.before
    }

    /// Goes on behind a line, whose [`LogFile::place`] this was.
    ///
    /// # Errors
    /// The file system's.
    pub fn go_to(&mut self, (line, offset): (u64, u64)) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(offset))?;
        (self.line, self.offset) = (line, offset);
        Ok(())
    }

    /// Where states lie that were put behind the commits, in their order. Reading goes on elsewhere.
    ///
    /// # Errors
    /// The file system's.
    pub fn states(&mut self) -> io::Result<Vec<StateAt>> {
        attached::index(&mut self.reader)
    }

    /// The state that lies there; `None` if it is damaged. Reading goes on elsewhere.
    ///
    /// # Errors
    /// The file system's.
    pub fn state(&mut self, at: StateAt) -> io::Result<Option<Vec<u8>>> {
        attached::state(&mut self.reader, at)
    }

    /// The next line's commit, whose own checksum holds; `None` behind the last.
    ///
    /// # Errors
    /// The file system's.
    pub fn next_commit(&mut self) -> io::Result<Option<FoundLine>> {
        let text = self.next_text()?;
        Ok(text.map(|text| {
            let commit = text.and_then(|text| proven(&text)).map(|(commit, _)| commit);
            commit.map_err(|what| BadLine { line: self.line, what })
        }))
    }

    fn next_text(&mut self) -> io::Result<Option<Result<String, String>>> {
        let mut bytes = Vec::new();
        let limited = &mut io::Read::take(&mut self.reader, LINE_BYTES_MAX);
        let read = limited.read_until(b'\n', &mut bytes)? as u64;
        if read == 0 || is_behind_commits(&bytes) {
            return Ok(None);
        }
        self.before = (self.line, self.offset);
        self.line += 1;
        self.offset += read;
        if bytes.ends_with(b"\n") {
            return Ok(Some(String::from_utf8(bytes).map_err(|error| error.to_string())));
        }
        if read == LINE_BYTES_MAX {
            self.offset += self.reader.skip_until(b'\n')? as u64;
            return Ok(Some(Err("is longer than any commit".to_owned())));
        }
        Ok(Some(Err("does not end".to_owned())))
    }
}
