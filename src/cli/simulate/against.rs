//! `simulate --against`: the same faults under two policies, side by side.

use super::super::grid::columns;
use super::{
    Answer, CommandError, Output, RunArgs, answer, explored, many, print, report, what_in_words,
    write_file,
};
use crate::replay::{Bars, Part, Table, page_of};
use crate::sim::{Explored, Outcome, RunSummary, Scenario, Span, Subject, Window, run};
use serde::Deserialize;
use serde_json::{Value, json};
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
    args: &RunArgs,
    scenario: &Scenario,
    policy: &Path,
) -> Result<Answer, CommandError> {
    let (other, options) = (changed(scenario, policy)?, args.what.options());
    let (one, other) = (run(scenario, options)?, run(&other, options)?);
    let table = side_by_side(&one, &other);
    if let Some(path) = &args.report {
        let against = report::verdict(&other);
        let against = Table { title: format!("Against: {}", against.title), ..against };
        report::write(&one, vec![titled(&table), against], path)?;
    }
    match args.output {
        Output::Json => tell_both(&json!(one), &json!(other)),
        Output::Table => tell_rows(&table),
    }
    Ok(answer(one.passed() && other.passed()))
}

/// The same with many seeds.
pub(super) fn run_both_many(
    args: &RunArgs,
    runs: u64,
    scenario: &Scenario,
    policy: &Path,
) -> Result<Answer, CommandError> {
    let other = changed(scenario, policy)?;
    let one = explored(args, runs, Subject::One(scenario))?;
    let other = explored(args, runs, Subject::One(&other))?;
    let table = many_side_by_side(&one, &other);
    if let Some(path) = &args.report {
        let what = what_in_words(&args.what);
        let mut parts = vec![Part::Table(titled(&table))];
        parts.extend(many::parts(&one, &what));
        parts.extend(many::parts(&other, &what).into_iter().map(of_the_other));
        let lead = format!("As it is: {}. Against: {}.", many::lead(&one), many::lead(&other));
        let title = format!("{}: {runs} runs under two policies", scenario.title);
        write_file(path, page_of(&title, &lead, &parts))?;
    }
    match args.output {
        Output::Json => tell_both(&many::told(&one), &many::told(&other)),
        Output::Table => tell_rows(&table),
    }
    Ok(answer(one.failed.is_none() && other.failed.is_none()))
}

/// A part of the page, named as one of the other policy.
fn of_the_other(mut part: Part) -> Part {
    let (Part::Table(Table { title, .. }) | Part::Bars(Bars { title, .. })) = &mut part;
    *title = format!("Against: {title}");
    part
}

fn tell_both(one: &Value, other: &Value) {
    print(&json!({ "as_it_is": one, "against": other }).to_string());
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

/// Figures of both, each a row: the VM where it is named first, the figure, and what it came to.
type Rows = Vec<[String; 4]>;

const HEADS: [&str; 4] = ["VM", "Figure", "As it is", "Against"];

fn titled(rows: &Rows) -> Table {
    Table {
        title: "Two policies, side by side".to_owned(),
        heads: HEADS.to_vec(),
        rows: rows.iter().map(|row| row.to_vec()).collect(),
    }
}

fn tell_rows(rows: &Rows) {
    let heads = HEADS.map(str::to_uppercase);
    let Table { rows, .. } = titled(rows);
    print(columns(&heads.each_ref().map(String::as_str), &rows).trim_end());
}

fn time(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| Span(ms).to_string())
}

/// A row for a figure of both.
fn row<T>(what: &str, of: [&T; 2], figure: impl Fn(&T) -> String) -> [String; 4] {
    let [one, other] = of.map(figure);
    [String::new(), what.to_owned(), one, other]
}

/// Names the VM in the first of its rows.
fn named(name: &str, mut rows: Rows) -> Rows {
    if let Some([vm, ..]) = rows.first_mut() {
        name.clone_into(vm);
    }
    rows
}

fn side_by_side(one: &Outcome, other: &Outcome) -> Rows {
    let number = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let mut rows = Vec::new();
    for (one, other) in one.vms.iter().zip(&other.vms) {
        let of = [one, other];
        let own = vec![
            row("RPO p50", of, |vm| time(Some(vm.rpo_ms[0]))),
            row("RPO p95", of, |vm| time(Some(vm.rpo_ms[1]))),
            row("RPO max", of, |vm| time(Some(vm.rpo_ms[2]))),
            row("  of it outage", of, |vm| time(Some(vm.rpo_max_of_ms[0]))),
            row("  of it back-off", of, |vm| time(Some(vm.rpo_max_of_ms[1]))),
            row("RTO", of, |vm| time(vm.rto_ms)),
            row("bytes lost", of, |vm| number(vm.lost_bytes)),
            row("resynchronizations", of, |vm| vm.resyncs.to_string()),
            row("retries", of, |vm| vm.retries.to_string()),
            row("points", of, |vm| vm.points.to_string()),
            row("health", of, |vm| vm.health.clone()),
        ];
        rows.extend(named(&one.name, own));
    }
    let word = |outcome: &Outcome| if outcome.passed() { "pass" } else { "fail" }.to_owned();
    rows.push(row("verdict", [one, other], word));
    rows
}

fn many_side_by_side(one: &Explored, other: &Explored) -> Rows {
    let mut rows = Vec::new();
    for (one, other) in one.vms().iter().zip(&other.vms()) {
        let of = [one, other];
        let mut own = Vec::new();
        for (nth, what) in ["p50", "p95", "max"].into_iter().enumerate() {
            own.push(row(&format!("RPO {what}"), of, |vm| time(Some(vm.rpo_max_ms[nth]))));
        }
        for (nth, what) in ["p50", "p95", "max"].into_iter().enumerate() {
            own.push(row(&format!("RTO {what}"), of, |vm| time(vm.rto_ms.map(|rto| rto[nth]))));
        }
        rows.extend(named(&one.name, own));
    }
    let of = [one, other];
    let sum = |explored: &Explored, figure: fn(&RunSummary) -> u64| {
        explored.all.iter().map(figure).sum::<u64>().to_string()
    };
    rows.extend([
        row("bytes lost in all", of, |explored| sum(explored, |run| run.lost_bytes)),
        row("resynchronizations in all", of, |explored| sum(explored, |run| run.resyncs)),
        row("retries in all", of, |explored| sum(explored, |run| run.retries)),
        row("runs that failed", of, |explored| many::failed_runs(explored).to_string()),
        row("verdict", of, |explored| many::word(explored).to_owned()),
    ]);
    rows
}
