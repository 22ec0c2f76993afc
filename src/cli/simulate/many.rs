//! `simulate --runs --report`: the page of many runs, in the looks of that of one.

use super::report::attempts_table;
use crate::domain::catalogue::ENTRIES;
use crate::replay::{Bars, Part, Table, page_of};
use crate::sim::{Explored, RunSummary, Span, Verdict};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Runs that the table of the worst shows.
const WORST: usize = 20;

/// Ranges that figures are spread over at most.
const RANGES: u64 = 20;

/// Lengths of such a range, in milliseconds: what people count in.
const STEPS_MS: [u64; 16] = [
    10, 100, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000,
    3_600_000, 7_200_000, 21_600_000, 86_400_000,
];

/// The page. `what` is what was simulated as the command line takes it.
pub(super) fn page(explored: &Explored, title: &str, what: &str) -> String {
    let runs = &explored.all;
    let failed = runs.iter().filter(|run| failed(run)).count();
    let lead = format!(
        "{} runs, {} passed, {failed} failed; {} commits in {} of virtual time",
        runs.len(),
        runs.len() - failed,
        explored.commits,
        Span(explored.virtual_ms)
    );
    let mut parts = vec![Part::Table(verdicts(runs))];
    let rpo = |run: &RunSummary| Some(run.rpo_max_ms);
    parts.extend(spread("Greatest RPO of each run", runs, rpo));
    let rpo = |run: &RunSummary| Some(run.rpo_p95_ms);
    parts.extend(spread("RPO that 95 of 100 points of the worst VM kept, of each run", runs, rpo));
    let rto = |run: &RunSummary| run.rto_max_ms;
    parts.extend(spread("Longest RTO of each run with a failover", runs, rto));
    parts.push(Part::Table(worst(runs, what)));
    parts.extend(failures(runs).map(Part::Table));
    parts.extend(attempts_table(&explored.attempts).map(Part::Table));
    page_of(&format!("{title}: {} runs", runs.len()), &lead, &parts)
}

fn failed(run: &RunSummary) -> bool {
    run.verdict == Verdict::Fail
}

/// The verdict, and what was broken how often.
fn verdicts(runs: &[RunSummary]) -> Table {
    let mut broken: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for run in runs {
        for what in &run.broken {
            broken.entry(what).or_default().push(run.seed);
        }
    }
    let rows = broken.into_iter().map(|(what, seeds)| {
        let first = seeds.first().map_or_else(String::new, u64::to_string);
        vec!["FAIL".to_owned(), what.to_owned(), seeds.len().to_string(), first]
    });
    let mut rows: Vec<_> = rows.collect();
    let all =
        if rows.is_empty() { "every expectation and invariant, in every run" } else { "the rest" };
    rows.push(vec!["ok".to_owned(), all.to_owned(), "0".to_owned(), "-".to_owned()]);
    let word = if runs.iter().any(failed) { "fail" } else { "pass" };
    Table {
        title: format!("Verdict: {word}"),
        heads: vec!["", "What", "Runs that broke it", "First seed"],
        rows,
    }
}

/// How a figure is spread over the runs that have it.
fn spread(
    title: &str,
    runs: &[RunSummary],
    figure: impl Fn(&RunSummary) -> Option<u64>,
) -> Option<Part> {
    let mut values: Vec<(u64, bool)> =
        runs.iter().filter_map(|run| Some((figure(run)?, failed(run)))).collect();
    values.sort_unstable();
    let (least, most) = (values.first()?.0, values.last()?.0);
    let fits = |step: &&u64| most / **step - least / **step < RANGES;
    let widest = STEPS_MS[STEPS_MS.len() - 1].max(most / RANGES + 1);
    let step = STEPS_MS.iter().find(fits).copied().unwrap_or(widest);
    let bars = (least / step..=most / step).map(|range| {
        let within = values.iter().filter(|(value, _)| value / step == range);
        let bad = within.clone().filter(|(_, failed)| *failed).count();
        (format!("from {}", Span(range * step)), within.count() as u64, bad as u64)
    });
    let at = |percent: usize| Span(values[(values.len() - 1) * percent / 100].0);
    let key = format!(
        "p50 {}, p95 {}, max {}; each bar is {} wide and counts runs, red those that failed.",
        at(50),
        at(95),
        at(100),
        Span(step)
    );
    Some(Part::Bars(Bars { title: title.to_owned(), key, bars: bars.collect() }))
}

/// The worst runs: those that failed, then those with the greatest RPO; each with what opens it.
fn worst(runs: &[RunSummary], what: &str) -> Table {
    let mut order: Vec<_> = runs.iter().collect();
    order.sort_by_key(|run| (Reverse(failed(run)), Reverse(run.rpo_max_ms), run.seed));
    let row = |run: &&RunSummary| {
        let seed = run.seed;
        let mark = if failed(run) { "FAIL" } else { "ok" };
        let time = |ms: u64| Span(ms).to_string();
        vec![
            mark.to_owned(),
            seed.to_string(),
            time(run.rpo_max_ms),
            run.rto_max_ms.map_or_else(|| "-".to_owned(), time),
            run.lost_bytes.to_string(),
            run.resyncs.to_string(),
            run.retries.to_string(),
            run.broken.join("; "),
            format!("lifeboat simulate {what} --seed {seed} --report seed-{seed}.html"),
        ]
    };
    Table {
        title: "The worst seeds".to_owned(),
        heads: vec![
            "",
            "Seed",
            "RPO max",
            "RTO",
            "Bytes lost",
            "Resyncs",
            "Retries",
            "Broken",
            "Opened by",
        ],
        rows: order.iter().take(WORST).map(row).collect(),
    }
}

/// What failed at the sites: in how many runs, and for how many VMs of them.
fn failures(runs: &[RunSummary]) -> Option<Table> {
    let mut met: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (failure, vms) in runs.iter().flat_map(|run| &run.failures) {
        let (runs, all) = met.entry(failure).or_default();
        (*runs, *all) = (*runs + 1, *all + vms);
    }
    let row = |(failure, (in_runs, vms)): (&str, (usize, usize))| {
        let title = ENTRIES.iter().find(|it| it.id == failure).map_or("", |it| it.title);
        let share = format!("{in_runs} of {}", runs.len());
        vec![failure.to_owned(), title.to_owned(), share, vms.to_string()]
    };
    let rows: Vec<_> = met.into_iter().map(row).collect();
    let heads = vec!["Failure", "What it is", "Runs", "VMs"];
    (!rows.is_empty()).then(|| Table { title: "Failures of the sites".to_owned(), heads, rows })
}
