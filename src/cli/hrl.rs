//! `lifeboat hrl`: replication logs in the public format, of ours or of others.

use super::{Answer, CommandError, Output, complain, print};
use crate::disk::files::RealFiles;
use crate::disk::hrl::{
    BlockSummary, Damage, Ending, Header, HeaderTrust, LogError, LogReader, open_unclosed,
    read_header_alone,
};
use crate::disk::raw::RawDisk;
use crate::domain::time::Timestamp;
use crate::ports::block::BlockDevice;
use crate::ports::files::Open;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Look into replication logs, verify and apply them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the header and what each metadata block holds
    Inspect {
        /// The log
        file: PathBuf,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Check everything; exit code 1 if something does not hold
    Verify {
        /// The log
        file: PathBuf,
        /// Accept a header whose checksum does not hold, as other products write it
        #[arg(long)]
        foreign: bool,
    },
    /// Check logs and their chain, then write what they hold to a disk image that nothing else uses
    Apply {
        /// The logs, the oldest first
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The raw disk image
        #[arg(long, value_name = "IMAGE")]
        to: PathBuf,
        /// Accept headers whose checksum does not hold, as other products write them
        #[arg(long)]
        foreign: bool,
    },
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    match &args.command {
        Command::Inspect { file, output } => inspect(file, *output),
        Command::Verify { file, foreign } => verify(file, trust(*foreign)),
        Command::Apply { files, to, foreign } => apply(files, to, trust(*foreign)),
    }
}

fn trust(foreign: bool) -> HeaderTrust {
    if foreign { HeaderTrust::Foreign } else { HeaderTrust::Verified }
}

/// A closed log, or an open one as far as its records and its tail say, or else a search finds its
/// blocks, with a warning.
fn open(file: &Path, trust: HeaderTrust) -> Result<LogReader, LogError> {
    match LogReader::open(&RealFiles, file, trust) {
        Err(error @ LogError::Damaged { damage: Damage::NotClosed, .. }) => {
            let (log, ending) = open_not_closed(file, trust)?;
            complain(&NotClosed { error, known: known_of(ending) });
            Ok(log)
        }
        opened => opened,
    }
}

/// A log that was not closed, and what says where it ends: nothing where its blocks were searched for.
fn open_not_closed(
    file: &Path,
    trust: HeaderTrust,
) -> Result<(LogReader, Option<Ending>), LogError> {
    let mut tail = file.as_os_str().to_owned();
    tail.push(".tail");
    match open_unclosed(&RealFiles, file, Path::new(&tail), trust)? {
        Some((log, ending)) => Ok((log, Some(ending))),
        None => Ok((LogReader::search(&RealFiles, file, trust)?, None)),
    }
}

/// What is to be known of a log that was not closed.
#[derive(Debug, thiserror::Error)]
#[error("{error}; {known}")]
struct NotClosed {
    error: LogError,
    known: &'static str,
}

fn known_of(ending: Option<Ending>) -> &'static str {
    match ending {
        Some(Ending::Cut) => "its writer ended it by a cut, and it is read up to there",
        Some(Ending::Tail) => {
            "it is read with the tail beside it, up to the last write that was acknowledged"
        }
        Some(Ending::Record) => {
            "it is read up to the last block that its writer recorded: there is no tail beside it, \
             which would have any writes after that"
        }
        None => {
            "its blocks were searched for: writes after the last one found, if there are any, are left \
             out, and a guest that wrote something that looks like a block can have chosen what is found"
        }
    }
}

/// What `inspect -o json` prints.
#[derive(Serialize)]
struct Inspected {
    file: PathBuf,
    version: String,
    created: Timestamp,
    last_modified: Timestamp,
    creator_version: u32,
    original_size: u64,
    current_size: u64,
    end_of_log: u64,
    closed: bool,
    error_code: i32,
    metadata_size: u32,
    unique_id: String,
    previous_unique_id: String,
    data_write_guid: String,
    total_entries: u64,
    header_checksum_holds: bool,
    blocks: Vec<Block>,
    damage: Option<String>,
}

#[derive(Serialize)]
struct Block {
    at: u64,
    entries: u64,
    data_bytes: u64,
    disk_start: Option<u64>,
    disk_end: Option<u64>,
    oldest: Option<Timestamp>,
    youngest: Option<Timestamp>,
}

impl From<BlockSummary> for Block {
    fn from(block: BlockSummary) -> Self {
        let BlockSummary { at, entries, data_bytes, disk, times } = block;
        Self {
            at,
            entries,
            data_bytes,
            disk_start: disk.as_ref().map(|disk| disk.start),
            disk_end: disk.map(|disk| disk.end),
            oldest: times.map(|(oldest, _)| oldest.into()),
            youngest: times.map(|(_, youngest)| youngest.into()),
        }
    }
}

fn inspect(file: &Path, output: Output) -> Result<Answer, CommandError> {
    let (header, holds) = read_header_alone(&RealFiles, file)?;
    let mut blocks = Vec::new();
    let read = open(file, HeaderTrust::Foreign).and_then(|log| {
        log.summaries().try_for_each(|block| {
            blocks.push(Block::from(block?));
            Ok(())
        })
    });
    let damage = read.err().map(|error| error.to_string());
    let answer = if damage.is_none() { Answer::Done } else { Answer::No };
    let inspected = inspected(file, &header, holds, blocks, damage);
    match output {
        Output::Json => print(&serde_json::to_string(&inspected)?),
        Output::Table => print_table(&inspected),
    }
    Ok(answer)
}

fn inspected(
    file: &Path,
    header: &Header,
    header_checksum_holds: bool,
    blocks: Vec<Block>,
    damage: Option<String>,
) -> Inspected {
    Inspected {
        file: file.to_owned(),
        version: format!("{}.{}", header.version >> 16, header.version & 0xffff),
        created: header.created.into(),
        last_modified: header.last_modified.into(),
        creator_version: header.creator_version,
        original_size: header.original_size,
        current_size: header.current_size,
        end_of_log: header.end_of_log,
        closed: header.end_of_log != 0,
        error_code: header.error_code,
        metadata_size: header.metadata_size,
        unique_id: header.unique_id.to_string(),
        previous_unique_id: header.previous_unique_id.to_string(),
        data_write_guid: header.data_write_guid.to_string(),
        total_entries: header.total_entries,
        header_checksum_holds,
        blocks,
        damage,
    }
}

fn print_table(log: &Inspected) {
    let closed = if log.closed { "" } else { " (not closed)" };
    let holds = if log.header_checksum_holds { "holds" } else { "DOES NOT HOLD" };
    for (name, value) in [
        ("file", log.file.display().to_string()),
        ("version", log.version.clone()),
        ("created", log.created.to_string()),
        ("last modified", log.last_modified.to_string()),
        ("unique id", log.unique_id.clone()),
        ("previous unique id", log.previous_unique_id.clone()),
        ("data write guid", log.data_write_guid.clone()),
        ("size when created", log.original_size.to_string()),
        ("size", log.current_size.to_string()),
        ("end of log", format!("{}{closed}", log.end_of_log)),
        ("error code", log.error_code.to_string()),
        ("metadata size", log.metadata_size.to_string()),
        ("entries", log.total_entries.to_string()),
        ("header checksum", holds.to_owned()),
    ] {
        print(&format!("{name:<19} {value}"));
    }
    print(&format!(
        "\n{:>14} {:>7} {:>12} {:>16} {:>16}  {:<24} {}",
        "BLOCK AT", "ENTRIES", "DATA BYTES", "FROM DISK BYTE", "TO DISK BYTE", "OLDEST", "YOUNGEST"
    ));
    for block in &log.blocks {
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        let time = |at: Option<Timestamp>| at.map_or("-".to_owned(), |at| at.to_string());
        print(&format!(
            "{:>14} {:>7} {:>12} {:>16} {:>16}  {:<24} {}",
            block.at,
            block.entries,
            block.data_bytes,
            number(block.disk_start),
            number(block.disk_end),
            time(block.oldest),
            time(block.youngest)
        ));
    }
    if let Some(damage) = &log.damage {
        print(&format!("damaged: {damage}"));
    }
}

fn verify(file: &Path, trust: HeaderTrust) -> Result<Answer, CommandError> {
    match open(file, trust).and_then(|mut log| log.verify().map(|()| log)) {
        Ok(log) => {
            let (entries, end) = (log.total_entries(), log.end());
            print(&format!("{}: {entries} writes in {end} bytes: sound", file.display()));
            Ok(Answer::Done)
        }
        Err(error @ LogError::Damaged { .. }) => {
            print(&format!("damaged: {error}"));
            Ok(Answer::No)
        }
        Err(error) => Err(error.into()),
    }
}

fn apply(files: &[PathBuf], to: &Path, trust: HeaderTrust) -> Result<Answer, CommandError> {
    let disk = RawDisk::open(&RealFiles, to, Open::Write)?;
    let mut logs: Vec<LogReader> = Vec::new();
    for file in files {
        let mut log = open(file, trust)?;
        if let Some(before) = logs.last() {
            log.check_follows(before)?;
        }
        log.verify()?;
        check_sizes(&log, &disk, to)?;
        logs.push(log);
    }
    // Nothing was written until here; from here on only the medium can fail.
    for log in &logs {
        log.apply_to(&disk)?;
    }
    disk.flush().map_err(|error| format!("flush {}: {error}", to.display()))?;
    let writes: u64 = logs.iter().map(LogReader::total_entries).sum();
    let s = if logs.len() == 1 { "" } else { "s" };
    print(&format!("{writes} writes of {} log{s} applied to {}", logs.len(), to.display()));
    Ok(Answer::Done)
}

/// Refuses a log with a write that does not fit the disk.
fn check_sizes(log: &LogReader, disk: &RawDisk, to: &Path) -> Result<(), CommandError> {
    let size = disk.size_bytes();
    for write in log.entries_without_data() {
        let range = write?.range();
        if size < range.end {
            let (log, image) = (log.path().display(), to.display());
            return Err(format!(
                "apply {log} to {image}: bytes {} to {} of the disk are beyond its {size} bytes",
                range.start, range.end
            )
            .into());
        }
    }
    Ok(())
}
