//! `lifeboat events`: the event log of a service, which may be running unless it is imported or verified.

use super::replay::open_data;
use super::{Answer, CommandError, DataArg, Output, Results, print};
use crate::domain::entity::{Commit, Entry};
use crate::ports::random::Random;
use crate::replay::{Checkpoints, Damage, History, Redactor, StatesOfExport};
use crate::service::KernelRandom;
use crate::store::jsonl::Header;
use crate::store::{SledStore, jsonl, verify};
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Read the event log.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The last events, one a line
    Tail {
        #[command(flatten)]
        data: DataArg,
        /// How many commits
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Commits in full: command, events, who, when, and what led to it
    Show {
        #[command(flatten)]
        data: DataArg,
        /// The first global position
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// The last global position; that of --from alone if it is not given
        #[arg(long)]
        to: Option<u64>,
        /// Only this stream, as in vm/0198...; its beginning is enough
        #[arg(long, value_name = "STREAM")]
        stream: Option<String>,
    },
    /// Write the log as JSON Lines
    Export {
        #[command(flatten)]
        data: DataArg,
        /// Replace names, addresses and free texts by pseudonyms; it replays and verifies all the same
        #[arg(long)]
        redact: bool,
        /// The file; standard output if it is not given
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Read an exported log into a folder that has none
    Import {
        #[command(flatten)]
        data: DataArg,
        /// The exported file
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
    },
    /// Read everything and name what is damaged; exit code 1 if something is
    Verify {
        #[command(flatten)]
        data: DataArg,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    match &args.command {
        Command::Tail { data, lines, output } => tail(data, *lines, *output),
        Command::Show { data, from, to, stream } => {
            show(data, *from, to.unwrap_or(*from), stream.as_deref(), to.is_none())
        }
        Command::Export { data, redact, to } => export(data, *redact, to.as_ref()),
        Command::Import { data, from } => import(data, from),
        Command::Verify { data, output } => verify_log(data, *output),
    }
}

fn folder(data: &DataArg) -> PathBuf {
    data.data.join("events")
}

/// Opens a log to read it, also of a service that runs.
fn open(data: &DataArg) -> Result<History, CommandError> {
    open_data(&data.data, &Checkpoints::of_data(&data.data))
}

/// Hands the commits from a position on to `take`, until it has enough.
fn each(
    log: &mut History,
    from: u64,
    mut take: impl FnMut(Commit) -> Result<bool, CommandError>,
) -> Result<(), CommandError> {
    let mut ended = Ok(());
    log.each_since(from, |found| {
        let unreadable = |damage: Damage| {
            CommandError::from(format!("{damage}; `lifeboat replay` reads on behind it"))
        };
        match found.map_err(unreadable).and_then(|recorded| take(recorded.commit)) {
            Ok(true) => return ControlFlow::Continue(()),
            Ok(false) => {}
            Err(error) => ended = Err(error),
        }
        ControlFlow::Break(())
    })?;
    ended
}

fn tail(data: &DataArg, lines: usize, output: Output) -> Result<Answer, CommandError> {
    let mut log = open(data)?;
    let from = (log.last() + 1).saturating_sub(lines as u64);
    each(&mut log, from, |commit| {
        match output {
            Output::Json => print(&serde_json::to_string(&commit)?),
            Output::Table => in_lines(&commit).iter().for_each(|line| print(line)),
        }
        Ok(true)
    })?;
    Ok(Answer::Done)
}

fn show(
    data: &DataArg,
    from: u64,
    to: u64,
    stream: Option<&str>,
    one: bool,
) -> Result<Answer, CommandError> {
    let mut log = open(data)?;
    let to = if one && stream.is_some() { u64::MAX } else { to };
    let mut shown = 0;
    each(&mut log, from, |commit| {
        if to < commit.global {
            return Ok(false);
        }
        if stream.is_none_or(|stream| commit.stream.to_string().starts_with(stream)) {
            print(&serde_json::to_string_pretty(&commit)?);
            shown += 1;
        }
        Ok(true)
    })?;
    if shown == 0 {
        return Err(format!("no such commit: the log has positions 1 to {}", log.last()).into());
    }
    Ok(Answer::Done)
}

fn export(data: &DataArg, redact: bool, to: Option<&PathBuf>) -> Result<Answer, CommandError> {
    let mut log = open(data)?;
    if let Some(path) = to {
        let file = File::create_new(path)
            .map_err(|error| format!("create {}: {error}", path.display()))?;
        let mut out = BufWriter::new(file);
        let header = write(&mut log, redact, &mut out)?;
        out.into_inner()?.sync_all()?;
        print(&format!("{} commits exported to {}", header.count, path.display()));
    } else {
        let mut out = BufWriter::new(Results(std::io::stdout().lock()));
        write(&mut log, redact, &mut out)?;
        out.flush()?;
    }
    Ok(Answer::Done)
}

/// Pseudonyms are made under a key that is forgotten with the end of this process.
fn write(log: &mut History, redact: bool, out: &mut dyn Write) -> Result<Header, CommandError> {
    let mut key = [0; 32];
    KernelRandom.fill(&mut key);
    let written_by = log.written_by();
    let commits = |write: &mut dyn FnMut(&Commit) -> std::io::Result<()>| {
        let mut redactor = redact.then(|| Redactor::new(key));
        each(log, 1, |commit| {
            match &mut redactor {
                Some(redactor) => write(&redactor.redact(&commit)?)?,
                None => write(&commit)?,
            }
            Ok(true)
        })
    };
    let mut states = StatesOfExport::default();
    let mut state_after = |commit: &Commit, place| states.after(commit, place);
    jsonl::write::<CommandError>(redact, written_by, commits, &mut state_after, out)
}

fn import(data: &DataArg, from: &Path) -> Result<Answer, CommandError> {
    // Nothing is made for a file that is not there.
    File::open(from).map_err(|error| format!("open {}: {error}", from.display()))?;
    std::fs::create_dir_all(&data.data)
        .map_err(|error| format!("make folder {}: {error}", data.data.display()))?;
    let store = SledStore::open(&folder(data))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let header = runtime.block_on(jsonl::import(from, &store))?;
    store.close()?;
    print(&format!("{} commits imported into {}", header.count, data.data.display()));
    Ok(Answer::Done)
}

/// What `verify -o json` prints.
#[derive(Serialize)]
struct Verified {
    sound: bool,
    commits: u64,
    acknowledged: Option<u64>,
    findings: Vec<String>,
}

fn verify_log(data: &DataArg, output: Output) -> Result<Answer, CommandError> {
    let folder = folder(data);
    if !folder.is_dir() {
        return Err(format!("no event log in {}", data.data.display()).into());
    }
    let scratch = std::env::temp_dir().join(format!("lifeboat-verify-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let report = verify::verify(&folder, &scratch);
    std::fs::remove_dir_all(&scratch)?;
    let report = report?;
    let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    let sound = findings.is_empty();
    match output {
        Output::Json => {
            let (commits, acknowledged) = (report.commits, report.acknowledged);
            let verified = Verified { sound, commits, acknowledged, findings };
            print(&serde_json::to_string(&verified)?);
        }
        Output::Table => {
            for finding in &findings {
                print(&format!("damaged: {finding}"));
            }
            if let Some(recoverable) = &report.recoverable {
                let missing: Vec<_> = recoverable
                    .missing
                    .iter()
                    .map(|gone| format!("{} to {}", gone.start(), gone.end()))
                    .collect();
                print(&format!(
                    "{} commits can be got back; missing: {}",
                    recoverable.commits,
                    if missing.is_empty() { "none".to_owned() } else { missing.join(", ") }
                ));
            }
            let verdict = if sound { "sound" } else { "DAMAGED" };
            print(&format!("{} commits in order from the first: {verdict}", report.commits));
        }
    }
    Ok(if sound { Answer::Done } else { Answer::No })
}

/// A commit for people: one line an event.
fn in_lines(commit: &Commit) -> Vec<String> {
    let events: Vec<String> = match &commit.entry {
        Entry::Vm { events, .. } => events.iter().map(|event| format!("{event:?}")).collect(),
        Entry::Host { events, .. } => events.iter().map(|event| format!("{event:?}")).collect(),
        Entry::Cloud { events, .. } => events.iter().map(|event| format!("{event:?}")).collect(),
        Entry::Vault { events, .. } => events.iter().map(|event| format!("{event:?}")).collect(),
        Entry::Plan { events, .. } => events.iter().map(|event| format!("{event:?}")).collect(),
        Entry::Fabric { events, .. } => events.iter().map(|event| format!("{event:?}")).collect(),
    };
    let stream = commit.stream.to_string();
    let stream = stream.get(..stream.len().min(14)).unwrap_or(&stream);
    events
        .iter()
        .map(|event| {
            format!("{:>6} {} {stream:<14} {:<13} {event}", commit.global, commit.at, commit.actor)
        })
        .collect()
}
