//! `replay what-if`: what was, beside what would have been.

use super::super::{Answer, CommandError, Output, print};
use super::{SourceArg, damaged, with_damage};
use crate::domain::policy::Policy;
use crate::replay::{Asked, Comparison, Fate, LATE, Schedule, UNKNOWN, span, what_if};
use crate::sim::{Span, Window};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts of which the minutes are shown.
const MINUTES_SHOWN: usize = 12;

const POLICY_HELP: &str = "TOML as for simulate --against, as in copy_frequency = \"5m\", or with any of \
    copy_frequency_seconds, recovery_point_retention_hours and app_consistent_frequency_hours";

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

/// A policy file: as `simulate --against` has it, or by the names of the API. What it does not name stays as
/// it was.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    copy_frequency: Option<Span>,
    retention: Option<Span>,
    resync_window: Option<Window>,
    copy_frequency_seconds: Option<u32>,
    recovery_point_retention_hours: Option<u32>,
    app_consistent_frequency_hours: Option<u32>,
}

impl PolicyFile {
    fn asked(&self) -> Result<Asked, String> {
        let asked = Asked {
            copy_frequency_s: one_of(
                ("copy_frequency", whole(self.copy_frequency, 1_000)?),
                ("copy_frequency_seconds", self.copy_frequency_seconds),
            )?,
            recovery_point_retention_h: one_of(
                ("retention", whole(self.retention, 3_600_000)?),
                ("recovery_point_retention_hours", self.recovery_point_retention_hours),
            )?,
            app_consistent_frequency_h: self.app_consistent_frequency_hours,
        };
        if asked == Asked::default() && self.resync_window.is_none() {
            return Err(
                "it names no policy: give copy_frequency, retention or resync_window".into()
            );
        }
        Ok(asked)
    }
}

/// A length of time in whole units of so many milliseconds.
fn whole(span: Option<Span>, unit_ms: u64) -> Result<Option<u32>, String> {
    let Some(span) = span else { return Ok(None) };
    let count = u32::try_from(span.0 / unit_ms).ok().filter(|_| span.0.is_multiple_of(unit_ms));
    let unit = Span(unit_ms);
    count.map(Some).ok_or_else(|| format!("{span} is not a whole number of times {unit}"))
}

/// What one of two keys says.
fn one_of(
    (name, one): (&str, Option<u32>),
    (other_name, other): (&str, Option<u32>),
) -> Result<Option<u32>, String> {
    match (one, other) {
        (Some(_), Some(_)) => Err(format!("{name} and {other_name} are the same: give one")),
        _ => Ok(one.or(other)),
    }
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    let asked = args.policy.as_deref().map(asked).transpose()?.unwrap_or_default();
    let schedule: Option<Schedule> = args.retry.as_deref().map(read).transpose()?;
    schedule.as_ref().map_or(Ok(()), Schedule::check)?;
    let (compared, damage) = what_if(&mut args.source.open()?, asked, schedule.as_ref())?;
    if compared.is_empty() {
        return Err(with_damage("the log has no VM that was replicated", &damage));
    }
    match args.output {
        Output::Json => {
            let document =
                json!({ "vms": compared, "late": LATE, "unknown": UNKNOWN, "damage": damage });
            print(&serde_json::to_string(&document)?);
        }
        Output::Table => {
            let lines = table(&compared).into_iter().chain(damaged(&damage));
            lines.for_each(|line| print(&line));
        }
    }
    Ok(Answer::Done)
}

fn asked(path: &Path) -> Result<Asked, CommandError> {
    let file: PolicyFile = read(path)?;
    let asked = file.asked().map_err(|error| format!("read {}: {error}", path.display()))?;
    // What it does not name is as in the log, where any that is allowed can stand.
    let any = Policy {
        recovery_point_retention_h: 72,
        app_consistent_frequency_h: 0,
        ..Policy::default()
    };
    asked.instead_of(any).check()?;
    Ok(asked)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, CommandError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("read {}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("read {}: {error}", path.display()).into())
}

fn table(compared: &[Comparison]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<14} {:<10} {:>12} {:>12} {:>7} {:>7}  {:CURVE$}  {}",
        "VM",
        "",
        "RPO max",
        "late",
        "deltas",
        "failed",
        "RPO over time",
        "attempts, minutes after the first failure"
    )];
    for compared in compared {
        let Comparison { vm, recorded, modelled, what_if, .. } = compared;
        let highest = [recorded, modelled, what_if].map(|it| it.rpo_max_seconds);
        let highest = highest.into_iter().fold(0.0, f64::max);
        lines.push(line(vm, "recorded", recorded, highest));
        lines.push(line("", "modelled", modelled, highest));
        lines.push(line("", "what if", what_if, highest));
        lines.push(fit(compared));
    }
    lines.push(String::new());
    lines.push(LATE.to_owned());
    lines.push(UNKNOWN.to_owned());
    lines
}

/// How well the model of what was in force comes to what was recorded.
fn fit(compared: &Comparison) -> String {
    let Comparison { vm, recorded, modelled, fits, .. } = compared;
    let figures = format!(
        "RPO max {} recorded, {} modelled; {} failed attempts recorded, {} modelled",
        time(recorded.rpo_max_seconds),
        time(modelled.rpo_max_seconds),
        recorded.failed_attempts,
        modelled.failed_attempts
    );
    if *fits {
        format!("  the model fits what was recorded of {vm}: {figures}")
    } else {
        format!(
            "  WARNING: the model does not come to what was recorded of {vm}, so do not rely on its \
             what if: {figures}"
        )
    }
}

fn time(seconds: f64) -> String {
    span(Duration::from_secs(seconds.round() as u64))
}

fn line(vm: &str, what: &str, fate: &Fate, highest: f64) -> String {
    let minutes: Vec<String> =
        fate.retry_minutes.iter().take(MINUTES_SHOWN).map(ToString::to_string).collect();
    let more = if MINUTES_SHOWN < fate.retry_minutes.len() { ", ..." } else { "" };
    let line = format!(
        "{vm:<14} {what:<10} {:>12} {:>12} {:>7} {:>7}  {}  {}{more}",
        time(fate.rpo_max_seconds),
        time(fate.late_seconds),
        fate.deltas,
        fate.failed_attempts,
        curve(&fate.rpo, highest),
        minutes.join(", ")
    );
    line.trim_end().to_owned()
}

/// Columns of a curve.
const CURVE: usize = 32;

/// The greatest age of the newest recovery point in each part of the time, the lowest step first.
fn curve(rpo: &[(i64, f64)], highest: f64) -> String {
    const STEPS: [char; 8] = [
        '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}',
        '\u{2588}',
    ];
    let (Some((from, _)), Some((to, _))) = (rpo.first(), rpo.last()) else {
        return " ".repeat(CURVE);
    };
    let width = ((to - from) / CURVE as i64).max(1);
    let column = |nth: usize| {
        let end = from + (nth as i64 + 1) * width;
        let within = rpo.iter().filter(|(at, _)| (end - width..=end).contains(at));
        // Between two samples it grows as the time goes on.
        let next = rpo.iter().find(|(at, _)| end < *at);
        let at_end = next.map_or(0.0, |(at, rpo)| rpo - (at - end) as f64 / 1_000.0);
        let age = within.map(|(_, rpo)| *rpo).fold(at_end, f64::max);
        let step = (age / highest.max(f64::MIN_POSITIVE) * 7.0).round().clamp(0.0, 7.0);
        STEPS[step as usize]
    };
    (0..CURVE).map(column).collect()
}
