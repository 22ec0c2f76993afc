//! A log as JSON Lines: readable, portable, and as well protected as the store.
//!
//! The first line is `{"format":"lifeboat events","version":1,"count":…,"first":…,"last":…,"chain":"…","written_by":[…]}`,
//! every other one `{"crc":"…","commit":{…}}`. `crc` is the CRC32 of the commit's JSON, `chain` runs
//! over all of them. An imported log exports to the same bytes. [`LogFile`] reads on behind damage.

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
const VERSION: u32 = 1;

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

/// Writes all durable commits of `store` to `out`. Reads the log twice: once for the header.
///
/// # Errors
/// [`TransferError::Store`] at the first commit that cannot be read, [`TransferError::Io`].
pub fn export(store: &dyn EventStore, out: &mut dyn Write) -> Result<Header, TransferError> {
    let last = store.durable();
    let mut running = 0;
    each_line(store, last, |crc, _| {
        running = chain(running, crc);
        Ok(())
    })?;
    let header = Header::new(last, running, store.written_by());
    writeln!(out, "{}", json(&header))?;
    each_line(store, last, |crc, commit| Ok(write_line(out, crc, commit)?))?;
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

/// Writes the commits that `each` hands on as a log that says that its texts are pseudonyms. They are
/// asked for twice: the first line tells what follows.
///
/// # Errors
/// What `each` answers; the file system's.
pub fn write_redacted<E: From<io::Error>>(
    written_by: Vec<WrittenBy>,
    mut each: impl FnMut(&mut dyn FnMut(&Commit) -> io::Result<()>) -> Result<(), E>,
    out: &mut dyn Write,
) -> Result<Header, E> {
    let (mut count, mut running) = (0, 0);
    each(&mut |commit| {
        count += 1;
        running = chain(running, crc32fast::hash(json(commit).as_bytes()));
        Ok(())
    })?;
    let header = Header { redacted: true, ..Header::new(count, running, written_by) };
    writeln!(out, "{}", json(&header))?;
    each(&mut |commit| {
        let text = json(commit);
        write_line(out, crc32fast::hash(text.as_bytes()), &text)
    })?;
    out.flush()?;
    Ok(header)
}

fn write_line(out: &mut dyn Write, crc: u32, commit: &str) -> io::Result<()> {
    writeln!(out, r#"{{"crc":"{crc:08x}","commit":{commit}}}"#)
}

/// The checksum under which a line's commit was written, if that is the checksum of its bytes.
fn sound_crc(line: &str) -> Option<u32> {
    let rest = line.trim_end().strip_prefix(r#"{"crc":""#)?;
    let (crc, rest) = rest.split_at_checked(8)?;
    let commit = rest.strip_prefix(r#"","commit":"#)?.strip_suffix('}')?;
    let crc = u32::from_str_radix(crc, 16).ok()?;
    (crc32fast::hash(commit.as_bytes()) == crc).then_some(crc)
}

/// A line's commit with its checksum, which was proven: over the bytes as they are, or, where somebody
/// wrote the same in another way, over the commit as this build writes it.
fn proven(line: &str) -> Result<(Commit, u32), String> {
    let Line { crc, commit } = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if let Some(crc) = sound_crc(line) {
        return Ok((commit, crc));
    }
    let actual = crc32fast::hash(json(&commit).as_bytes());
    if format!("{actual:08x}") != crc {
        return Err(format!("its checksum is {actual:08x}, not {crc}"));
    }
    Ok((commit, actual))
}

fn each_line(
    store: &dyn EventStore,
    last: u64,
    mut visit: impl FnMut(u32, &str) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let mut next = 1;
    while next <= last {
        let limit = BATCH.min(usize::try_from(last - next + 1).unwrap_or(BATCH));
        for commit in store.read_all(next, limit)? {
            let text = json(&commit);
            visit(crc32fast::hash(text.as_bytes()), &text)?;
            next = commit.global + 1;
        }
    }
    Ok(())
}

fn json(value: &impl Serialize) -> String {
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
    chain: u32,
    seqs: BTreeMap<StreamId, u64>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, TransferError> {
        let reader = BufReader::new(File::open(path)?);
        let header = Header::new(0, 0, Vec::new());
        let seqs = BTreeMap::new();
        let mut lines = Self { path: path.to_path_buf(), reader, header, line: 0, chain: 0, seqs };
        let text = lines.next_line()?.ok_or_else(|| lines.damaged("the file is empty"))?;
        let header: Header = serde_json::from_str(&text).map_err(|error| lines.damaged(error))?;
        if header.format != FORMAT || header.version != VERSION {
            let what = format!("{} {} is unknown", header.format, header.version);
            return Err(lines.damaged(what));
        }
        if header.last != header.count || header.first != header.count.min(1) {
            return Err(lines.damaged("the log does not start with the first commit"));
        }
        lines.header = header;
        Ok(lines)
    }

    /// The next commit; `None` at the end, if it is where the header says.
    fn next_commit(&mut self) -> Result<Option<Commit>, TransferError> {
        let Some(text) = self.next_line()? else {
            let read = self.line - 1;
            if read != self.header.count {
                let what = format!("{read} commits, but the header says {}", self.header.count);
                return Err(self.damaged(what));
            }
            if format!("{:08x}", self.chain) != self.header.chain {
                return Err(self.damaged("the lines do not match the header's chain"));
            }
            return Ok(None);
        };
        let (commit, crc) = proven(&text).map_err(|what| self.damaged(what))?;
        self.check_numbers(&commit)?;
        self.chain = chain(self.chain, crc);
        Ok(Some(commit))
    }

    fn check_numbers(&mut self, commit: &Commit) -> Result<(), TransferError> {
        if commit.global != self.line - 1 {
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
        let limited = &mut io::Read::take(&mut self.reader, LINE_BYTES_MAX);
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
            let header = text.and_then(|text| {
                let header: Header = serde_json::from_str(&text).map_err(|e| e.to_string())?;
                let known = header.format == FORMAT && header.version == VERSION;
                let unknown = || format!("{} {} is unknown", header.format, header.version);
                if known { Ok(header) } else { Err(unknown()) }
            });
            file.header = header.map_err(|what| BadLine { line: 1, what });
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

    /// The next line's commit, whose own checksum holds; `None` at the end.
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
        if read == 0 {
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
