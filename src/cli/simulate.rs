//! `lifeboat simulate`: outages in virtual time.

use super::{Answer, CommandError, Output, print};
use crate::sim::{
    Driver, Finding, Outcome, RunOptions, Scenario, ScenarioError, Span, Verdict, run,
};
use crate::store::{MemoryStore, jsonl};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Run an outage in virtual time.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The scenario
    scenario: PathBuf,
    /// Everything that is left to chance follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Write the event log as JSON Lines, as `lifeboat events import` reads it
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

pub(super) fn run_command(args: &Args) -> Result<Answer, CommandError> {
    let scenario = read(&args.scenario)?;
    let options = RunOptions { seed: args.seed, driver: Driver::default(), plant: None };
    let outcome = run(&scenario, options)?;
    if let Some(path) = &args.log {
        export(&outcome, path)?;
    }
    tell(&outcome, args.output)?;
    Ok(if outcome.passed() { Answer::Done } else { Answer::No })
}

/// Reads a scenario.
fn read(path: &Path) -> Result<Scenario, ScenarioError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ScenarioError::Unreadable { path: path.to_owned(), source })?;
    Scenario::parse(&path.display().to_string(), &text)
}

/// Writes the event log of a run.
fn export(outcome: &Outcome, path: &Path) -> Result<(), CommandError> {
    let store = MemoryStore::of(outcome.log.clone())?;
    jsonl::export(&store, &mut BufWriter::new(File::create(path)?))?;
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
        print(&format!("  {:<10} RPO p50 {half}, p95 {most}, max {max}", ""));
        if let Some(rto) = vm.rto_ms {
            let lost = vm.lost_bytes.unwrap_or(0);
            print(&format!("  {:<10} RTO {}, {lost} bytes lost", "", Span(rto)));
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
    let mark = if finding.verdict == Verdict::Pass { "ok  " } else { "FAIL" };
    let found =
        if finding.found.is_empty() { String::new() } else { format!(": {}", finding.found) };
    format!("{mark} {}{found}", finding.what)
}
