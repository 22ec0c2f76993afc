//! `replay what-if`: what was, beside what would have been.

use super::super::{Answer, CommandError, Output, print};
use super::{SourceArg, damaged, with_damage};
use crate::domain::policy::Policy;
use crate::replay::{Comparison, Fate, Schedule, UNKNOWN, span, what_if};
use crate::views::PolicyView;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts of which the minutes are shown.
const MINUTES_SHOWN: usize = 12;

const POLICY_HELP: &str = "TOML with copy_frequency_seconds, recovery_point_retention_hours and \
    app_consistent_frequency_hours";

const RETRY_HELP: &str = "TOML as in minutes = [1, 2, 4, 8, 10], then_every_minutes = 30 and \
    when_the_cause_ends = true";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArg,
    /// The policy, as TOML
    #[arg(long, value_name = "FILE", required_unless_present = "retry", help = POLICY_HELP)]
    policy: Option<PathBuf>,
    /// The schedule, as TOML
    #[arg(long, value_name = "FILE", help = RETRY_HELP)]
    retry: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    let policy: Option<PolicyView> = args.policy.as_deref().map(read).transpose()?;
    let policy = policy.map(Policy::from);
    policy.map_or(Ok(()), |policy| policy.check())?;
    let schedule: Option<Schedule> = args.retry.as_deref().map(read).transpose()?;
    schedule.as_ref().map_or(Ok(()), Schedule::check)?;
    let (compared, damage) = what_if(&mut args.source.open()?, policy, schedule.as_ref())?;
    if compared.is_empty() {
        return Err(with_damage("the log has no VM that was replicated", &damage));
    }
    match args.output {
        Output::Json => {
            let document = json!({ "vms": compared, "unknown": UNKNOWN, "damage": damage });
            print(&serde_json::to_string(&document)?);
        }
        Output::Table => {
            let lines = table(&compared).into_iter().chain(damaged(&damage));
            lines.for_each(|line| print(&line));
        }
    }
    Ok(Answer::Done)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, CommandError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("read {}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("read {}: {error}", path.display()).into())
}

fn table(compared: &[Comparison]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<14} {:<10} {:>12} {:>12} {:>7} {:>7}  {}",
        "VM",
        "",
        "RPO max",
        "late",
        "deltas",
        "failed",
        "attempts, minutes after the first failure"
    )];
    for Comparison { vm, recorded, modelled, what_if } in compared {
        lines.push(line(vm, "recorded", recorded));
        lines.push(line("", "modelled", modelled));
        lines.push(line("", "what if", what_if));
    }
    lines.push(String::new());
    lines.push(UNKNOWN.to_owned());
    lines
}

fn line(vm: &str, what: &str, fate: &Fate) -> String {
    let time = |seconds: f64| span(Duration::from_secs(seconds.round() as u64));
    let minutes: Vec<String> =
        fate.retry_minutes.iter().take(MINUTES_SHOWN).map(ToString::to_string).collect();
    let more = if MINUTES_SHOWN < fate.retry_minutes.len() { ", ..." } else { "" };
    format!(
        "{vm:<14} {what:<10} {:>12} {:>12} {:>7} {:>7}  {}{more}",
        time(fate.rpo_max_seconds),
        time(fate.late_seconds),
        fate.deltas,
        fate.failed_attempts,
        minutes.join(", ")
    )
}
