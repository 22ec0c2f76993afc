//! `lifeboat replay`: what was, and why, from the event log of a service or of a file.

mod at;
mod play;
mod report;
mod what_if;

pub(super) use play::PaceArgs;

use super::{Answer, CommandError, Output, print};
use crate::domain::vm::Health;
use crate::ports::event_store::{EventStore, Snapshot, StoreError};
use crate::replay::{
    Change, Checkpoints, Damage, Diverging, Explanation, History, HistoryError, Moment, Past,
    Question, Recorded, Seen, Titles, Verification, command_in_words, events_in_words, explain,
    snapshot_schema, told, verify,
};
use crate::sim::{Scenario, recorded};
use crate::store::{BUILD, SledStore};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Explain an incident from the event log.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Everything as it was at a moment: VMs, health with causes, hosts, clouds, vaults, jobs
    At {
        #[command(flatten)]
        source: SourceArg,
        /// After the commit of this position
        #[arg(long, value_name = "N", conflicts_with = "time")]
        seq: Option<u64>,
        /// At this time, as in 2026-11-23T02:13:00Z; the end of the log if neither is given
        #[arg(long, value_name = "TIME")]
        time: Option<Moment>,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Why there is a commit, or why a VM came into its state of health
    Why {
        #[command(flatten)]
        source: SourceArg,
        /// The commit's position
        #[arg(required_unless_present = "vm", conflicts_with = "vm")]
        seq: Option<u64>,
        /// The VM, by name or id
        #[arg(long, value_name = "NAME")]
        vm: Option<String>,
        /// Which state; the one that it has if it is not given
        #[arg(long, value_enum, requires = "vm")]
        state: Option<StateArg>,
        /// The last time before this position or time
        #[arg(long, value_name = "MOMENT", requires = "vm")]
        until: Option<Moment>,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Decide every recorded command again with this build and compare; exit code 1 if anything differs
    Verify {
        #[command(flatten)]
        source: SourceArg,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// What changed from one moment to another, or from one log to another
    Diff {
        /// Two moments: positions, or times as in 2026-11-23T02:13:00Z; with two logs, one or none
        #[arg(value_name = "MOMENT", num_args = 0..=2)]
        moments: Vec<Moment>,
        /// The folder with a service's data
        #[arg(long, value_name = "DIR", conflicts_with = "log", required_unless_present = "log")]
        data: Option<PathBuf>,
        /// An exported log; given twice, two logs are compared
        #[arg(long, value_name = "FILE", num_args = 1)]
        log: Vec<PathBuf>,
        /// Also every field of the states that differs, as it is kept
        #[arg(long)]
        all: bool,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Play the log: each commit with its effect
    Run(play::Args),
    /// One page of an incident: timeline, RPO and log curves, jobs, retries, causes
    Report(report::Args),
    /// The same outages under another policy or another schedule of retries
    WhatIf(what_if::Args),
    /// Turn the log into a scenario that `lifeboat simulate` runs
    ToScenario {
        /// The exported log
        #[arg(value_name = "LOG")]
        log: PathBuf,
        /// Where the scenario goes; standard output if it is not given
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// The log that is read.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct SourceArg {
    /// The folder with a service's data; the service may be running
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// An exported or simulated log
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// The states of health by their names here.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum StateArg {
    Critical,
    Warning,
    Normal,
}

impl From<StateArg> for Health {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Critical => Self::Critical,
            StateArg::Warning => Self::Warning,
            StateArg::Normal => Self::Normal,
        }
    }
}

/// Plays an exported log.
pub(super) fn play_file(log: &Path, pace: &PaceArgs) -> Result<Answer, CommandError> {
    play::play(&mut History::of_file(log)?, pace)
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    match &args.command {
        Command::At { source, seq, time, output } => {
            let moment = seq.map(Moment::Position).or(*time).unwrap_or(Moment::End);
            at::show(&mut source.open()?, &source.checkpoints(), moment, *output)
        }
        Command::Why { source, seq, vm, state, until, output } => {
            let question = match (seq, vm) {
                (Some(seq), _) => Question::Commit(*seq),
                (None, vm) => Question::Vm {
                    name: vm.clone().unwrap_or_default(),
                    state: state.map(Health::from),
                    until: until.unwrap_or(Moment::End),
                },
            };
            why(&mut source.open()?, &question, *output)
        }
        Command::Verify { source, output } => verify_log(source, *output),
        Command::Diff { moments, data, log, all, output } => {
            let form = DiffForm { all: *all, output: *output };
            diff(moments, data.as_deref(), log, form)
        }
        Command::Run(args) => play::run(args),
        Command::Report(args) => report::run(args),
        Command::WhatIf(args) => what_if::run(args),
        Command::ToScenario { log, output } => to_scenario(log, output.as_deref()),
    }
}

impl SourceArg {
    fn open(&self) -> Result<History, CommandError> {
        match (&self.data, &self.log) {
            (Some(data), _) => open_data(data, &self.checkpoints()),
            (None, Some(log)) => Ok(History::of_file(log)?),
            (None, None) => Err("give --data DIR or --log FILE".into()),
        }
    }

    /// Where the states of a long log are kept: beside it.
    fn checkpoints(&self) -> Checkpoints {
        match (&self.data, &self.log) {
            (Some(data), _) => Checkpoints::of_data(data),
            (None, log) => {
                let log = log.clone().unwrap_or_default();
                Checkpoints::in_folder(&log.with_extension("replay"))
            }
        }
    }
}

/// Opens a log that must be there: a look at nothing must not make something.
pub(super) fn open_data(data: &Path, kept: &Checkpoints) -> Result<History, CommandError> {
    let folder = data.join("events");
    if !folder.is_dir() {
        let place = data.display();
        return Err(format!("no event log in {place}: --data names a service's data folder").into());
    }
    Ok(History::of_store_kept(&folder, kept)?)
}

/// Checks that a stretch of a log does not end before it begins.
fn check_order(from: Option<Moment>, to: Option<Moment>) -> Result<(), CommandError> {
    let (Some(from), Some(to)) = (from, to) else { return Ok(()) };
    if from.is_behind(to) {
        return Err(
            format!("--from {from} is behind --to {to}: give the earlier moment first").into()
        );
    }
    Ok(())
}

/// Why there is no answer, with the damage that may be the cause.
fn with_damage(what: &str, damage: &[Damage]) -> CommandError {
    let lines = [what.to_owned()].into_iter().chain(damaged(damage));
    lines.collect::<Vec<_>>().join("\n  ").into()
}

/// Damage, a line each.
fn damaged(damage: &[Damage]) -> Vec<String> {
    Damage::told(damage).iter().map(|damage| format!("damaged: {damage}")).collect()
}

/// What is not certain of a moment.
fn uncertain(past: &Past) -> Vec<String> {
    let incomplete = past.incomplete.iter().map(|(stream, since)| {
        let name = past.name(*stream);
        let what = if past.begins(*stream) { "commits" } else { "the first commits" };
        format!("not certain: {what} of {name} are missing before commit {since}")
    });
    incomplete.chain(damaged(&past.damage)).collect()
}

/// That the log ends before the moment, if it does: then everything is as it was at the end of the log.
fn ends_before(seen: &Seen, moment: Moment) -> Option<String> {
    let past = &seen.past;
    let is_before = match moment {
        Moment::Position(wanted) => past.position < wanted,
        Moment::Time(time) => past.latest < time,
        Moment::End => false,
    };
    let (last, at) = (past.position, past.at);
    (is_before && seen.ends).then(|| {
        format!("the log ends before, with commit {last} at {at}: this is how things were then")
    })
}

/// Checks that there is something at a moment.
fn check_not_empty(past: &Past) -> Result<(), CommandError> {
    if 0 < past.position {
        return Ok(());
    }
    Err(with_damage("the log has nothing at or before this moment", &past.damage))
}

fn why(history: &mut History, question: &Question, output: Output) -> Result<Answer, CommandError> {
    let explanation = explain(history, question)?;
    match output {
        Output::Json => print(&serde_json::to_string(&explanation)?),
        Output::Table => in_sentences(&explanation).iter().for_each(|line| print(line)),
    }
    Ok(Answer::Done)
}

fn in_sentences(explanation: &Explanation) -> Vec<String> {
    let mut lines = explanation.what.clone();
    if !lines.is_empty() {
        lines.push(String::new());
    }
    for (nth, link) in explanation.chain.iter().enumerate() {
        let arrow = if nth == 0 { "" } else { "<- " };
        lines.push(format!("{:>6}  {}  {arrow}{}", link.seq, link.at, link.command));
        lines.extend(link.events.iter().map(|event| format!("{:36}{event}", "")));
        lines.extend(link.origin.iter().map(|origin| format!("{:32}<- {origin}", "")));
    }
    if !explanation.meanwhile.is_empty() {
        lines.push(String::new());
        lines.extend(explanation.meanwhile.iter().map(|line| format!("meanwhile: {line}")));
    }
    lines.extend(explanation.uncertain.iter().map(|line| format!("not certain: {line}")));
    lines
}

fn verify_log(source: &SourceArg, output: Output) -> Result<Answer, CommandError> {
    let (snapshots, unchecked) = snapshots(source)?;
    let result = verify(&mut source.open()?, snapshots)?;
    match output {
        Output::Json => print(&serde_json::to_string(&as_json(&result))?),
        Output::Table => tell(&result, unchecked.as_deref()),
    }
    Ok(if result.is_sound() { Answer::Done } else { Answer::No })
}

/// The state snapshots of a store, or why they are not looked at.
fn snapshots(source: &SourceArg) -> Result<(Vec<Snapshot>, Option<String>), CommandError> {
    let Some(data) = &source.data else {
        return Ok((vec![], Some("this file has none".to_owned())));
    };
    if !data.join("events").join("HEAD").is_file() {
        return Ok((vec![], Some("the store was never used".to_owned())));
    }
    let store = match SledStore::open(&data.join("events")) {
        Ok(store) => store,
        Err(error @ (StoreError::InUse { .. } | StoreError::Damaged { .. })) => {
            return Ok((vec![], Some(error.to_string())));
        }
        Err(error) => return Err(error.into()),
    };
    let mut snapshots = Vec::new();
    for (stream, _) in store.streams()? {
        snapshots.extend(store.snapshot(stream, snapshot_schema(stream.kind))?);
    }
    store.close()?;
    Ok((snapshots, None))
}

fn tell(result: &Verification, unchecked: Option<&str>) {
    for line in damaged(&result.damage) {
        print(&line);
    }
    for diverging in &result.first {
        tell_divergence(diverging);
    }
    let more = result.diverging - result.first.len() as u64;
    if 0 < more {
        print(&format!("... and {more} more commits that are decided otherwise"));
    }
    for wrong in &result.wrong_snapshots {
        print(&format!("wrong: {wrong}"));
    }
    if 0 < result.undecidable {
        print(&format!(
            "{} commits were not decided again: earlier commits of their streams are missing",
            result.undecidable
        ));
    }
    match unchecked {
        Some(because) if result.snapshots == 0 => {
            print(&format!("no state snapshots compared: {because}"));
        }
        _ => print(&format!("{} state snapshots compared", result.snapshots)),
    }
    for line in verdict(result) {
        print(&line);
    }
}

/// What the decisions were, and, apart from that, how the log is.
fn verdict(result: &Verification) -> Vec<String> {
    if result.commits == 0 {
        return vec!["the log is empty: there is nothing to decide again".to_owned()];
    }
    let as_recorded = if result.is_as_recorded() { "as recorded" } else { "NOT as recorded" };
    let (decided, commits) = (result.decided, result.commits);
    let mut lines = vec![format!("{decided} of {commits} commits decided again: {as_recorded}")];
    if !result.damage.is_empty() {
        lines.push(format!("the log is damaged in {}", places(result.damage.len())));
    }
    if !result.wrong_snapshots.is_empty() {
        lines.push(format!("states are wrong in {}", places(result.wrong_snapshots.len())));
    }
    lines
}

fn places(count: usize) -> String {
    if count == 1 { "1 place".to_owned() } else { format!("{count} places") }
}

fn tell_divergence(diverging: &Diverging) {
    let Diverging { stream, name, seq, global, at, command, divergence, .. } = diverging;
    print(&format!(
        "commit {global}, {name} ({stream}) {seq}, {at}: {command} is decided otherwise"
    ));
    match &divergence.again {
        Err(refusal) => print(&format!("  it is refused: {refusal}")),
        Ok(_) => {
            for Change { field, before, after } in &divergence.fields {
                let shown = |value: &Option<serde_json::Value>| {
                    value.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
                };
                let (recorded, again) = (shown(before), shown(after));
                print(&format!("  {field}: recorded {recorded}, decided again {again}"));
            }
        }
    }
    print(&format!("  {}; this is build {BUILD}", written_by(diverging)));
}

/// Who wrote a commit, as far as the log says so.
fn written_by(diverging: &Diverging) -> String {
    let build = diverging.build.as_ref().map_or_else(
        || "written by an unknown build".to_owned(),
        |build| format!("written by build {build}"),
    );
    let version = diverging.version.map(|version| format!(" in payload version {version}"));
    build + &version.unwrap_or_default()
}

fn as_json(result: &Verification) -> serde_json::Value {
    let first: Vec<_> = result
        .first
        .iter()
        .map(|it| {
            json!({
                "stream": it.stream.to_string(), "name": it.name, "stream_seq": it.seq,
                "seq": it.global, "at": it.at.to_string(), "command": it.command,
                "payload_version": it.version, "build": it.build, "fields": it.divergence.fields,
                "refused": it.divergence.again.as_ref().err(),
            })
        })
        .collect();
    json!({
        "sound": result.is_sound(), "as_recorded": result.is_as_recorded(), "commits": result.commits, "decided": result.decided,
        "undecidable": result.undecidable, "diverging": result.diverging, "first": first,
        "damage": result.damage, "snapshots": result.snapshots,
        "wrong_snapshots": result.wrong_snapshots, "written_by": result.written_by,
        "this_build": BUILD,
    })
}

fn to_scenario(log: &Path, output: Option<&Path>) -> Result<Answer, CommandError> {
    let name = log.file_stem().unwrap_or_default().to_string_lossy();
    let (scenario, remarks) = recorded(&mut History::of_file(log)?, &name)?;
    if scenario.vm.is_empty() {
        let remarks = remarks.iter().fold(String::new(), |text, it| format!("{text}\n  {it}"));
        return Err(format!("the log has no VM that was replicated{remarks}").into());
    }
    let text = scenario.to_toml()?;
    Scenario::parse(&name, &text)?;
    let notes = remarks.iter().fold(String::new(), |notes, remark| format!("{notes}# {remark}\n"));
    let text = format!("{notes}{text}");
    match output {
        Some(path) => {
            write_new(path, text.as_bytes())?;
            for remark in &remarks {
                print(remark);
            }
            print(&format!(
                "{} steps of {} VMs in {}",
                scenario.at.len(),
                scenario.vm.len(),
                path.display()
            ));
        }
        None => print(text.trim_end()),
    }
    Ok(Answer::Done)
}

/// Writes a file that is not there yet.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    let create = |error| format!("create {}: {error}", path.display());
    let mut file = File::create_new(path).map_err(create)?;
    file.write_all(bytes).map_err(|error| format!("write {}: {error}", path.display()))?;
    Ok(())
}

fn diff(
    moments: &[Moment],
    data: Option<&Path>,
    logs: &[PathBuf],
    form: DiffForm,
) -> Result<Answer, CommandError> {
    let source = match (data, logs, moments) {
        (data @ Some(_), [], [_, _]) => SourceArg { data: data.map(Path::to_path_buf), log: None },
        (None, [log], [_, _]) => SourceArg { data: None, log: Some(log.clone()) },
        (None, [one, other], [] | [_]) => {
            let moment = moments.first().copied().unwrap_or(Moment::End);
            return diff_logs(one, other, moment, form);
        }
        _ => return Err("give two moments of one log, or --log twice".into()),
    };
    let (mut history, kept) = (source.open()?, source.checkpoints());
    // Before the first commit there is nothing, which can be compared too, but not with nothing.
    let one = history.seen_at(moments[0], Some(&kept))?;
    let other = history.seen_at(moments[1], Some(&kept))?;
    if one.past.position.max(other.past.position) == 0 {
        let damage = &other.past.damage;
        return Err(with_damage("the log has nothing at or before these moments", damage));
    }
    tell_changes(&one.past, &other.past, form)?;
    let beyond = [ends_before(&one, moments[0]), ends_before(&other, moments[1])];
    if let Some(line) = beyond.into_iter().flatten().next()
        && form.output == Output::Table
    {
        print(&line);
    }
    Ok(Answer::Done)
}

/// How differences are told.
#[derive(Clone, Copy)]
struct DiffForm {
    /// Also those of the states themselves.
    all: bool,
    output: Output,
}

fn tell_changes(one: &Past, other: &Past, form: DiffForm) -> Result<(), CommandError> {
    let differences = told::differences(one, other);
    let changes = one.changes_to(other);
    form.tell(&differences)?;
    if form.output == Output::Table {
        match (differences.is_empty(), changes.len()) {
            (_, 0) => print("nothing differs"),
            (true, count) => print(&format!(
                "nothing differs but {count} fields that the states keep for themselves: --all shows them"
            )),
            _ => {}
        }
    }
    if form.all {
        if form.output == Output::Table {
            print("\nevery field of the states that differs:");
        }
        form.tell(&changes)?;
    }
    if form.output == Output::Table {
        let remarks: BTreeSet<String> = [one, other].into_iter().flat_map(uncertain).collect();
        for remark in &remarks {
            print(remark);
        }
    }
    Ok(())
}

impl DiffForm {
    fn tell<T: Serialize + ToString>(self, lines: &[T]) -> Result<(), CommandError> {
        for line in lines {
            match self.output {
                Output::Json => print(&serde_json::to_string(line)?),
                Output::Table => print(&line.to_string()),
            }
        }
        Ok(())
    }
}

/// Two logs: up to where they are the same, and what differs in the end.
fn diff_logs(
    one: &Path,
    other: &Path,
    moment: Moment,
    form: DiffForm,
) -> Result<Answer, CommandError> {
    let mut logs = [History::of_file(one)?, History::of_file(other)?];
    let [one, other] = &mut logs;
    let same = common_commits(one, other)?;
    let (past, other_past) = (one.past(moment, None)?, other.past(moment, None)?);
    check_not_empty(&past)?;
    check_not_empty(&other_past)?;
    if form.output == Output::Table {
        print(&format!("the first {same} commits are the same"));
        for (log, which) in logs.iter_mut().zip(["one", "other"]) {
            next_in_words(log, which, same)?.iter().for_each(|line| print(line));
        }
    }
    tell_changes(&past, &other_past, form)?;
    Ok(Answer::Done)
}

/// What a log has behind its first commits.
fn next_in_words(log: &mut History, which: &str, first: u64) -> Result<Vec<String>, HistoryError> {
    let (mut past, mut titles, mut count) = (Past::default(), Titles::default(), 0);
    let mut lines = vec![format!("the {which} ends there")];
    log.each(|found| {
        let commit = match found {
            Ok(Recorded { commit, .. }) => commit,
            Err(damage) if count == first => {
                lines = vec![format!("the {which} is damaged there: {damage}")];
                return ControlFlow::Break(());
            }
            Err(_) => return ControlFlow::Continue(()),
        };
        past.apply(&commit);
        titles.note(&past, &commit);
        count += 1;
        if count <= first {
            return ControlFlow::Continue(());
        }
        let (name, at) = (past.name(commit.stream), commit.at);
        let did = command_in_words(&commit, &name, &titles);
        lines = vec![format!("the {which} goes on with commit {}, {at}: {did}", commit.global)];
        lines.extend(events_in_words(&commit, &titles).iter().map(|it| format!("    {it}")));
        ControlFlow::Break(())
    })?;
    Ok(lines)
}

/// How many commits two logs begin with that are the same.
fn common_commits(one: &mut History, other: &mut History) -> Result<u64, CommandError> {
    let mut hashes = Vec::new();
    one.each(|found| {
        hashes.push(found.ok().map(|it| hash(&it)));
        ControlFlow::Continue(())
    })?;
    let (mut hashes, mut same) = (hashes.into_iter(), 0);
    other.each(|found| match (hashes.next(), found) {
        (Some(Some(one)), Ok(other)) if one == hash(&other) => {
            same += 1;
            ControlFlow::Continue(())
        }
        _ => ControlFlow::Break(()),
    })?;
    Ok(same)
}

fn hash(recorded: &Recorded) -> u32 {
    let text = serde_json::to_vec(&recorded.commit).expect("a commit always has a JSON form");
    crc32fast::hash(&text)
}
