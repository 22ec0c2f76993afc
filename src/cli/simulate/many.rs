//! `simulate --runs`: what many runs came to, on the terminal, in JSON, and as a page in the looks of that of one.

use super::super::grid::columns;
use super::print;
use super::report::attempts_table;
use crate::domain::catalogue::ENTRIES;
use crate::replay::{Bars, Part, Table, page_of};
use crate::sim::{Broken, Explored, Percentiles, RunSummary, Span, Verdict, VmSpread, percentiles};
use serde_json::{Value, json};
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

/// What many runs came to, as the last line of `-o json`.
pub(super) fn told(explored: &Explored) -> Value {
    json!({
        "verdict": word(explored),
        "log_hash": explored.log_hash(),
        "runs": explored.runs,
        "failed_runs": failed_runs(explored),
        "failed_seed": explored.failed.as_ref().map(|outcome| outcome.seed),
        "broken": explored.broken(),
        "commits": explored.commits,
        "virtual_ms": explored.virtual_ms,
        "rpo_max_ms": explored.rpo_max_ms(),
        "vms": explored.vms(),
        "worst_seeds": explored.worst,
        "attempts": explored.attempts,
    })
}

/// The same for people.
pub(super) fn tell_people(explored: &Explored) {
    let failed = explored.failed.as_ref().map_or_else(String::new, |outcome| {
        let broken = explored.broken().into_iter().map(|broken| broken.what);
        format!(", seed {} failed: {}", outcome.seed, broken.collect::<Vec<_>>().join("; "))
    });
    print(&format!(
        "{}: {} runs{failed}, {} commits in {} of virtual time, logs {}",
        word(explored),
        explored.runs,
        explored.commits,
        Span(explored.virtual_ms),
        explored.log_hash()
    ));
    let [half, most, max] = explored.rpo_max_ms().map(|ms| Span(ms).to_string());
    print(&format!("worst RPO of a run: p50 {half}, p95 {most}, max {max}"));
    let Table { heads, rows, .. } = vms(explored);
    let heads: Vec<_> = heads.iter().map(|head| head.to_uppercase()).collect();
    let heads: Vec<_> = heads.iter().map(String::as_str).collect();
    print(columns(&heads, &rows).trim_end());
    let seeds = explored.worst.iter();
    let seeds: Vec<_> = seeds.map(|(seed, ms)| format!("{seed} ({})", Span(*ms))).collect();
    print(&format!("the worst seeds: {}", seeds.join(", ")));
}

pub(super) fn word(explored: &Explored) -> &'static str {
    if explored.failed.is_none() { "pass" } else { "fail" }
}

pub(super) fn failed_runs(explored: &Explored) -> usize {
    explored.all.iter().filter(|run| failed(run)).count()
}

/// The page. `what` is what was simulated as the command line takes it.
pub(super) fn page(explored: &Explored, title: &str, what: &str) -> String {
    let runs = explored.all.len();
    page_of(&format!("{title}: {runs} runs"), &lead(explored), &parts(explored, what))
}

/// What many runs came to, in a line.
pub(super) fn lead(explored: &Explored) -> String {
    let (runs, failed) = (explored.all.len(), failed_runs(explored));
    format!(
        "{runs} runs, {} passed, {failed} failed; {} commits in {} of virtual time",
        runs - failed,
        explored.commits,
        Span(explored.virtual_ms)
    )
}

/// The parts of their page.
pub(super) fn parts(explored: &Explored, what: &str) -> Vec<Part> {
    let runs = &explored.all;
    let mut parts = vec![Part::Table(verdicts(explored)), Part::Table(vms(explored))];
    let rpo = |run: &RunSummary| Some(run.rpo_max_ms);
    parts.extend(spread("Greatest RPO of each run", runs, rpo));
    let rpo = |run: &RunSummary| Some(run.rpo_p95_ms);
    parts.extend(spread("RPO that 95 of 100 points of the worst VM kept, of each run", runs, rpo));
    let rto = |run: &RunSummary| run.rto_max_ms;
    parts.extend(spread("Longest RTO of each run with a failover", runs, rto));
    parts.push(Part::Table(worst(runs, what)));
    parts.extend(failures(runs).map(Part::Table));
    parts.extend(attempts_table(&explored.attempts).map(Part::Table));
    parts
}

fn failed(run: &RunSummary) -> bool {
    run.verdict == Verdict::Fail
}

/// The verdict, and what was broken how often.
fn verdicts(explored: &Explored) -> Table {
    let rows = explored.broken().into_iter().map(|Broken { what, runs, first_seed }| {
        vec!["FAIL".to_owned(), what, runs.to_string(), first_seed.to_string()]
    });
    let mut rows: Vec<_> = rows.collect();
    let all =
        if rows.is_empty() { "every expectation and invariant, in every run" } else { "the rest" };
    rows.push(vec!["ok".to_owned(), all.to_owned(), "0".to_owned(), "-".to_owned()]);
    Table {
        title: format!("Verdict: {}", word(explored)),
        heads: vec!["", "What", "Runs that broke it", "First seed"],
        rows,
    }
}

/// The RPO and RTO of every VM over the runs.
fn vms(explored: &Explored) -> Table {
    let cells = |figures: Option<Percentiles>| match figures {
        Some(figures) => figures.map(|ms| Span(ms).to_string()),
        None => ["-"; 3].map(str::to_owned),
    };
    let row = |vm: VmSpread| {
        let (rpo, rto) = (cells(Some(vm.rpo_max_ms)), cells(vm.rto_ms));
        [vec![vm.name], rpo.to_vec(), rto.to_vec()].concat()
    };
    Table {
        title: "Greatest RPO and RTO of each VM, over the runs".to_owned(),
        heads: vec!["VM", "RPO p50", "RPO p95", "RPO max", "RTO p50", "RTO p95", "RTO max"],
        rows: explored.vms().into_iter().map(row).collect(),
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
    let [half, most, max] =
        percentiles(values.iter().map(|(value, _)| *value).collect())?.map(Span);
    let key = format!(
        "p50 {half}, p95 {most}, max {max}; each bar is {} wide and counts runs, red those that failed.",
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
