//! `lifeboat simulate`: outages in virtual time.

mod against;
mod many;
mod report;
mod topology;

use super::grid::columns;
use super::replay::PaceArgs;
use super::{Answer, CommandError, Output, print};
use crate::domain::entity::Commit;
use crate::replay::StatesOfExport;
use crate::sim::{
    Driver, Explored, Finding, Outcome, RunOptions, Scenario, ScenarioError, Span, Subject,
    Verdict, explore, run, shrink, survey, use_huge_pages,
};
use crate::store::{MemoryStore, jsonl};
use std::fs::File;
use std::io::{BufWriter, IsTerminal};
use std::path::{Path, PathBuf};

/// Columns of the progress bar.
const BAR: usize = 40;

/// Run an outage in virtual time.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run it and play its event log, commit by commit
    Show {
        #[command(flatten)]
        what: WhatArgs,
        /// Keep the log there, for `lifeboat replay --log`
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        #[command(flatten)]
        pace: PaceArgs,
    },
    /// Write the site of a running service as a scenario's topology
    ExportTopology(topology::ExportArgs),
    /// Find the smallest timeline that still fails
    Shrink {
        #[command(flatten)]
        what: WhatArgs,
        /// Where the smallest scenario goes; standard output if it is not given
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

/// What is simulated.
#[derive(Debug, clap::Args)]
struct WhatArgs {
    /// The scenario
    #[arg(required_unless_present = "swarm")]
    scenario: Option<PathBuf>,
    /// A random scenario, which follows from the seed
    #[arg(long, conflicts_with = "scenario")]
    swarm: bool,
    /// A random fleet of 40 VMs for 4 hours instead, of sizes and rates
    #[arg(long, requires = "swarm", conflicts_with = "scenario")]
    sizes: bool,
    /// Everything that is left to chance follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What runs the entities
    #[arg(long, value_enum, default_value_t)]
    driver: DriverArg,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    what: WhatArgs,
    /// Run so many seeds, from --seed on, and stop at the first that fails, unless there is to be a report
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Write the event log as JSON Lines, as `lifeboat events import` reads it
    #[arg(long, value_name = "FILE", conflicts_with = "runs")]
    log: Option<PathBuf>,
    /// Write one HTML page with everything in it: the verdict, RPO over time with the outages behind it, jobs;
    /// of many runs their verdicts, how RPO and RTO are spread over them, and the worst seeds
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The same under another policy, side by side: a file with `copy_frequency`, `retention`, `resync_window`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["swarm", "log"])]
    against: Option<PathBuf>,
}

/// The drivers by their names here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum DriverArg {
    /// A discrete-event loop
    #[default]
    Loop,
    /// The actors of the service, under virtual time
    Actix,
}

impl From<DriverArg> for Driver {
    fn from(driver: DriverArg) -> Self {
        match driver {
            DriverArg::Loop => Self::Loop,
            DriverArg::Actix => Self::Actix,
        }
    }
}

pub(super) fn run_command(args: &Args) -> Result<Answer, CommandError> {
    use_huge_pages();
    match &args.command {
        Some(Command::Show { what, log, pace }) => show(what, log.as_deref(), pace),
        Some(Command::ExportTopology(args)) => topology::export(args),
        Some(Command::Shrink { what, to }) => shrink_to(what, to.as_deref()),
        None => match args.run.runs {
            Some(runs) => run_many(&args.run, runs),
            None => run_one(&args.run),
        },
    }
}

impl WhatArgs {
    fn options(&self) -> RunOptions {
        RunOptions { seed: self.seed, driver: self.driver.into(), plant: None }
    }

    /// The scenario, or none for a swarm.
    fn read(&self) -> Result<Option<Scenario>, ScenarioError> {
        self.scenario.as_deref().map(Scenario::read).transpose()
    }
}

fn subject<'a>(what: &WhatArgs, scenario: Option<&'a Scenario>) -> Subject<'a> {
    let random = if what.sizes { Subject::Fleets } else { Subject::Swarm };
    scenario.map_or(random, Subject::One)
}

fn run_one(args: &RunArgs) -> Result<Answer, CommandError> {
    let scenario = args.what.read()?;
    if let (Some(path), Some(scenario)) = (&args.against, &scenario) {
        return against::run_both(args, scenario, path);
    }
    let scenario = subject(&args.what, scenario.as_ref()).scenario(args.what.seed);
    let outcome = run(&scenario, args.what.options())?;
    if let Some(path) = &args.report {
        report::write(&outcome, vec![], path)?;
    }
    if let Some(path) = &args.log {
        export(&outcome, path)?;
    }
    tell(&outcome, args.output)?;
    Ok(answer(outcome.passed()))
}

fn run_many(args: &RunArgs, runs: u64) -> Result<Answer, CommandError> {
    let scenario = args.what.read()?;
    if let (Some(path), Some(scenario)) = (&args.against, &scenario) {
        return against::run_both_many(args, runs, scenario, path);
    }
    let explored = explored(args, runs, subject(&args.what, scenario.as_ref()))?;
    if let Some(path) = &args.report {
        let title = title(&args.what, scenario.as_ref());
        write_file(path, many::page(&explored, &title, &what_in_words(&args.what)))?;
    }
    tell_explored(&explored, args)?;
    Ok(answer(explored.failed.is_none()))
}

/// Runs many seeds, all of them where there is to be a page.
fn explored(args: &RunArgs, runs: u64, subject: Subject<'_>) -> Result<Explored, CommandError> {
    let progress = |done: u64| show_progress(done, runs);
    let run_all = if args.report.is_some() { survey } else { explore };
    let explored = run_all(subject, args.what.options(), runs, &progress)?;
    hide_progress();
    Ok(explored)
}

/// What was run many times.
fn title(what: &WhatArgs, scenario: Option<&Scenario>) -> String {
    let random = if what.sizes { "Random fleets" } else { "Random sites and faults" };
    scenario.map_or_else(|| random.to_owned(), |scenario| scenario.title.clone())
}

/// What is simulated, as it is given on the command line, without the seed.
fn what_in_words(what: &WhatArgs) -> String {
    let mut words = match &what.scenario {
        Some(path) => path.display().to_string(),
        None => "--swarm".to_owned(),
    };
    if what.sizes {
        words += " --sizes";
    }
    if let DriverArg::Actix = what.driver {
        words += " --driver actix";
    }
    words
}

fn answer(passed: bool) -> Answer {
    if passed { Answer::Done } else { Answer::No }
}

fn shrink_to(what: &WhatArgs, to: Option<&Path>) -> Result<Answer, CommandError> {
    let scenario = what.read()?;
    let scenario = subject(what, scenario.as_ref()).scenario(what.seed);
    let steps = scenario.at.len();
    let progress = |left: usize| note(&format!("\r{left} of {steps} steps "));
    let smallest = shrink(&scenario, what.options(), &progress)?;
    hide_progress();
    let Some(smallest) = smallest else {
        print(&format!("seed {} passes: there is nothing to shrink", what.seed));
        return Ok(Answer::No);
    };
    let text = smallest.to_toml()?;
    match to {
        Some(path) => {
            write_file(path, text)?;
            print(&format!(
                "{} of {steps} steps are left in {}",
                smallest.at.len(),
                path.display()
            ));
        }
        None => print(text.trim_end()),
    }
    Ok(Answer::Done)
}

/// Runs a scenario and opens its log in `replay`.
fn show(what: &WhatArgs, log: Option<&Path>, pace: &PaceArgs) -> Result<Answer, CommandError> {
    let scenario = what.read()?;
    let scenario = subject(what, scenario.as_ref()).scenario(what.seed);
    let outcome = run(&scenario, what.options())?;
    let passing = std::env::temp_dir().join(format!("lifeboat-show-{}.jsonl", std::process::id()));
    let path = log.unwrap_or(&passing);
    let played = export(&outcome, path).and_then(|()| super::replay::play_file(path, pace));
    if log.is_none() {
        // What is left there is nobody's loss.
        _ = std::fs::remove_file(path);
    }
    played?;
    Ok(answer(outcome.passed()))
}

/// Writes the event log of a run.
fn export(outcome: &Outcome, path: &Path) -> Result<(), CommandError> {
    if outcome.log.is_empty() {
        let text = "write the log refused: it is too long to be kept; shorten the scenario";
        return Err(text.into());
    }
    let store = MemoryStore::of_this_build(outcome.log.clone())?;
    let mut states = StatesOfExport::default();
    let mut state_after = |commit: &Commit, place| states.after(commit, place);
    let file = File::create(path).map_err(|error| not_written(path, &error))?;
    jsonl::export(&store, &mut state_after, &mut BufWriter::new(file))?;
    Ok(())
}

fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<(), CommandError> {
    std::fs::write(path, content).map_err(|error| not_written(path, &error).into())
}

fn not_written(path: &Path, error: &std::io::Error) -> String {
    format!("write {}: {error}", path.display())
}

fn show_progress(done: u64, of: u64) {
    let filled = usize::try_from(done.saturating_mul(BAR as u64) / of.max(1)).unwrap_or(BAR);
    let filled = filled.min(BAR);
    note(&format!("\r[{}{}] {done} of {of} runs ", "#".repeat(filled), ".".repeat(BAR - filled)));
}

fn hide_progress() {
    note("\r\u{1b}[K");
}

/// Tells somebody who watches.
#[expect(clippy::print_stderr, reason = "the command line talks to a person")]
fn note(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("{text}");
    }
}

fn tell_explored(explored: &Explored, args: &RunArgs) -> Result<(), CommandError> {
    if let Some(failed) = &explored.failed {
        tell(failed, args.output)?;
    }
    match args.output {
        Output::Json => print(&serde_json::to_string(&many::told(explored))?),
        Output::Table => many::tell_people(explored),
    }
    Ok(())
}

fn tell(outcome: &Outcome, output: Output) -> Result<(), CommandError> {
    match output {
        Output::Json => print(&serde_json::to_string(outcome)?),
        Output::Table => tell_people(outcome),
    }
    Ok(())
}

fn tell_people(outcome: &Outcome) {
    print(&format!("{}, seed {}", outcome.title, outcome.seed));
    print("");
    for (at, what) in &outcome.remarks {
        print(&format!("  {:>12}  {what}", Span(*at).to_string()));
    }
    print("");
    for vm in &outcome.vms {
        let [half, most, max] = vm.rpo_ms.map(|ms| Span(ms).to_string());
        print(&format!("  {:<10} {}, {} {}", vm.name, vm.phase, vm.health, vm.because));
        let of = report::split_in_words(vm);
        print(&format!("  {:<10} RPO p50 {half}, p95 {most}, max {max}{of}", ""));
        let (resyncs, retries) = (vm.resyncs, vm.retries);
        let counted = [format!("{resyncs} resynchronizations"), format!("{retries} retries")];
        let failures = vm.failures.iter().map(|failure| (*failure).to_owned());
        let counts: Vec<String> = counted.into_iter().chain(failures).collect();
        print(&format!("  {:<10} {}", "", counts.join(", ")));
        if let Some(rto) = vm.rto_ms {
            let lost = vm.lost_bytes.unwrap_or(0);
            print(&format!("  {:<10} RTO {}, {lost} bytes lost", "", Span(rto)));
        }
    }
    if !outcome.attempts.is_empty() {
        print("");
        let (heads, rows) = report::attempts(&outcome.attempts);
        let heads: Vec<_> = heads.into_iter().map(str::to_uppercase).collect();
        let heads: Vec<_> = heads.iter().map(String::as_str).collect();
        for line in columns(&heads, &rows).lines() {
            print(&format!("  {line}"));
        }
    }
    print("");
    for finding in outcome.expectations.iter().chain(&outcome.invariants) {
        print(&format!("  {}", in_words(finding)));
    }
    print("");
    let verdict = if outcome.passed() { "pass" } else { "fail" };
    print(&format!(
        "{verdict}: {} commits in {} of virtual time, log {}",
        outcome.commits,
        Span(outcome.virtual_ms),
        outcome.log_hash
    ));
}

fn in_words(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Pass => "ok  ",
        Verdict::Fail => "FAIL",
        Verdict::Unchecked => "-   not checked by sizes:",
    };
    let found =
        if finding.found.is_empty() { String::new() } else { format!(": {}", finding.found) };
    format!("{mark} {}{found}", finding.what)
}
