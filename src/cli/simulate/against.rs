//! `simulate --against`: the same faults under two policies, side by side.

use super::super::grid::columns;
use super::{Answer, CommandError, Output, answer, print};
use crate::sim::{Outcome, RunOptions, Scenario, Span, Window, run};
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// What differs; the rest is as the scenario has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    copy_frequency: Option<Span>,
    retention: Option<Span>,
    resync_window: Option<Window>,
}

/// Runs a scenario as it is and under the policy of a file, with the same seed.
pub(super) fn run_both(
    scenario: &Scenario,
    path: &Path,
    options: RunOptions,
    output: Output,
) -> Result<Answer, CommandError> {
    let other = changed(scenario, path)?;
    let (one, other) = (run(scenario, options)?, run(&other, options)?);
    match output {
        Output::Json => {
            print(&serde_json::to_string(&json!({ "as_it_is": one, "against": other }))?);
        }
        Output::Table => print(side_by_side(&one, &other).trim_end()),
    }
    Ok(answer(one.passed() && other.passed()))
}

fn changed(scenario: &Scenario, path: &Path) -> Result<Scenario, CommandError> {
    let name = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("read policy {name}: {error}"))?;
    let policy: Policy =
        toml::from_str(&text).map_err(|error| format!("read policy {name}: {error}"))?;
    let mut other = scenario.clone();
    let site = &mut other.site;
    site.copy_frequency = policy.copy_frequency.unwrap_or(site.copy_frequency);
    site.retention = policy.retention.unwrap_or(site.retention);
    site.resync_window = policy.resync_window.unwrap_or(site.resync_window);
    // Read again: a policy out of range is refused as in a scenario.
    Ok(Scenario::parse(&name.to_string(), &other.to_toml()?)?)
}

fn side_by_side(one: &Outcome, other: &Outcome) -> String {
    let mut rows = Vec::new();
    for (one, other) in one.vms.iter().zip(&other.vms) {
        let mut row = |what: &str, one: String, other: String| {
            rows.push(vec![String::new(), what.to_owned(), one, other]);
        };
        let time = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| Span(ms).to_string());
        let number = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |it| it.to_string());
        for (nth, what) in ["RPO p50", "RPO p95", "RPO max"].into_iter().enumerate() {
            row(what, time(Some(one.rpo_ms[nth])), time(Some(other.rpo_ms[nth])));
        }
        for (nth, what) in ["  of it outage", "  of it back-off"].into_iter().enumerate() {
            row(what, time(Some(one.rpo_max_of_ms[nth])), time(Some(other.rpo_max_of_ms[nth])));
        }
        row("RTO", time(one.rto_ms), time(other.rto_ms));
        row("bytes lost", number(one.lost_bytes), number(other.lost_bytes));
        row("resynchronizations", number(Some(one.resyncs)), number(Some(other.resyncs)));
        row("retries", number(Some(one.retries)), number(Some(other.retries)));
        row("points", one.points.to_string(), other.points.to_string());
        row("health", one.health.clone(), other.health.clone());
        if let Some(first) = rows.iter_mut().rev().nth(10) {
            first[0].clone_from(&one.name);
        }
    }
    let word = |outcome: &Outcome| if outcome.passed() { "pass" } else { "fail" };
    rows.push(vec![
        String::new(),
        "verdict".to_owned(),
        word(one).to_owned(),
        word(other).to_owned(),
    ]);
    columns(&["VM", "FIGURE", "AS IT IS", "AGAINST"], &rows)
}
