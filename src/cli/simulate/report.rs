//! `simulate --report`: the page of a run, drawn as that of an incident, with its verdict and its outages.

use super::{CommandError, export, write_file};
use crate::replay::{Away, History, Incident, Table, Track, incident, page_with};
use crate::sim::{BEGINNING, Finding, Outage, Outcome, RetryReport, Span, Verdict, VmReport};
use std::path::Path;

/// Writes the page of a run, with tables before those of its own.
pub(super) fn write(outcome: &Outcome, first: Vec<Table>, path: &Path) -> Result<(), CommandError> {
    let log = path.with_extension("jsonl");
    export(outcome, &log)?;
    let mut incident = incident(&mut History::of_file(&log)?, None, None)?;
    for outage in &outcome.outages {
        add_outage(&mut incident, outage);
    }
    let title = format!("{}, seed {}", outcome.title, outcome.seed);
    let mut tables = first;
    tables.extend([verdict(outcome), figures(outcome)]);
    tables.extend(attempts_table(&outcome.attempts));
    write_file(path, page_with(&incident, &[], &title, &tables))
}

/// Draws an outage of the timeline, behind the RPO of every VM that it hit too.
fn add_outage(incident: &mut Incident, outage: &Outage) {
    let at = |ms: u64| BEGINNING.as_millis() + ms as i64;
    let is_hit = |vm: &Track| {
        let depends_on = |of: &String| vm.depends_on.contains(&format!("host {of}"));
        outage.of.as_ref().is_none_or(|of| vm.name == *of || depends_on(of))
    };
    for vm in incident.vms.iter_mut().filter(|vm| is_hit(vm)) {
        vm.depends_on.push(outage.what.clone());
    }
    incident.away.push(Away {
        what: outage.what.clone(),
        from: at(outage.from_ms),
        until: Some(at(outage.until_ms)),
        because: "the scenario".to_owned(),
    });
}

pub(super) fn verdict(outcome: &Outcome) -> Table {
    let word = if outcome.passed() { "pass" } else { "fail" };
    let row = |finding: &Finding| {
        let mark = match finding.verdict {
            Verdict::Pass => "ok",
            Verdict::Fail => "FAIL",
            Verdict::Unchecked => "not checked",
        };
        vec![mark.to_owned(), finding.what.clone(), finding.found.clone()]
    };
    let all = outcome.expectations.iter().chain(&outcome.invariants);
    Table {
        title: format!("Verdict: {word}"),
        heads: vec!["", "What", "Found"],
        rows: all.map(row).collect(),
    }
}

/// Attempts of failed work against the schedule, for a page; none where nothing failed.
pub(super) fn attempts_table(all: &[RetryReport]) -> Option<Table> {
    let (heads, rows) = attempts(all);
    let title = "Attempts against the schedule".to_owned();
    (!rows.is_empty()).then_some(Table { title, heads, rows })
}

/// Attempts of failed work against the schedule: the heads of a table, and its rows.
pub(super) fn attempts(all: &[RetryReport]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let time = |ms: u64| Span(ms).to_string();
    let row = |it: &RetryReport| {
        let planned = it.planned_ms.map_or_else(|| "by hand".to_owned(), time);
        let made = match it.made_ms {
            None => "-".to_owned(),
            Some([first, last]) if first == last => time(first),
            Some([first, last]) => format!("{} to {}", time(first), time(last)),
        };
        let counts = [it.times, it.on_time, it.cause_ended, it.by_hand, it.left_out];
        let counts = counts.map(|count| count.to_string());
        [vec![it.failure.to_owned(), planned], counts.to_vec(), vec![made]].concat()
    };
    let heads = vec![
        "Failure",
        "Planned after",
        "Planned",
        "On time",
        "Cause ended",
        "By hand",
        "Left out",
        "Made after",
    ];
    (heads, all.iter().map(row).collect())
}

fn figures(outcome: &Outcome) -> Table {
    let time = |ms: u64| Span(ms).to_string();
    let row = |vm: &VmReport| {
        let [half, most, max] = vm.rpo_ms.map(time);
        let [outage, waiting] = vm.rpo_max_of_ms.map(time);
        let rto = vm.rto_ms.map_or_else(|| "-".to_owned(), time);
        let lost = vm.lost_bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        let counts = [vm.resyncs, vm.retries].map(|count| count.to_string());
        let cells =
            [vec![vm.name.clone(), half, most, max, outage, waiting, rto, lost], counts.to_vec()];
        cells.concat()
    };
    Table {
        title: "Figures".to_owned(),
        heads: vec![
            "VM",
            "RPO p50",
            "p95",
            "max",
            "of it outage",
            "of it back-off",
            "RTO",
            "bytes lost",
            "resyncs",
            "retries",
        ],
        rows: outcome.vms.iter().map(row).collect(),
    }
}

/// How the greatest RPO came about, where an outage or a wait had part in it.
pub(super) fn split_in_words(vm: &VmReport) -> String {
    let [outage, waiting] = vm.rpo_max_of_ms;
    if outage + waiting == 0 {
        return String::new();
    }
    format!(" ({} of it outage, {} back-off)", Span(outage), Span(waiting))
}
