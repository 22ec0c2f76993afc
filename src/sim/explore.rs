//! Many runs: seeds one after the other on every processor, and the smallest timeline that still fails.

use super::attempts::{self, RetryReport};
use super::report::{Outcome, Verdict};
use super::run::{RunError, RunOptions, run};
use super::scenario::{Scenario, Step};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use toml::Spanned;

/// Seeds that are told as the worst.
const WORST: usize = 5;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// This scenario under every seed.
    One(&'a Scenario),
    /// The random scenario of each seed.
    Swarm,
    /// The random fleet of each seed: sizes and rates.
    Fleets,
}

impl Subject<'_> {
    /// The scenario under a seed.
    pub fn scenario(&self, seed: u64) -> Scenario {
        match self {
            Self::One(scenario) => (*scenario).clone(),
            Self::Swarm => Scenario::random(seed),
            Self::Fleets => Scenario::random_fleet(seed),
        }
    }
}

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Explored {
    /// Runs that were made.
    pub runs: u64,
    /// Commits of all logs.
    pub commits: u64,
    /// Virtual time of all runs, in milliseconds.
    pub virtual_ms: u64,
    /// The outcome of the first seed that failed, of those that were run.
    pub failed: Option<Outcome>,
    /// The seeds with the greatest RPO, the worst first, with that in milliseconds.
    pub worst: Vec<(u64, u64)>,
    /// Each run, by its seed.
    pub all: Vec<RunSummary>,
    /// Attempts of failed work against the schedule, of all runs.
    pub attempts: Vec<RetryReport>,
}

/// How a figure is spread over many runs: what half of them stay below, what 95 in 100 do, and the greatest.
pub type Percentiles = [u64; 3];

/// The percentiles of what many runs came to; none of nothing.
pub fn percentiles(mut figures: Vec<u64>) -> Option<Percentiles> {
    figures.sort_unstable();
    let last = figures.len().checked_sub(1)?;
    Some([50, 95, 100].map(|percent| figures[last * percent / 100]))
}

/// A VM in many runs; in random ones, all that have its name.
#[derive(Clone, Debug, Serialize)]
pub struct VmSpread {
    /// Its name.
    pub name: String,
    /// Its greatest RPO of a run, over the runs, in milliseconds.
    pub rpo_max_ms: Percentiles,
    /// Its RTO, over the runs in which it was failed over, in milliseconds.
    pub rto_ms: Option<Percentiles>,
}

/// An expectation or an invariant that did not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Broken {
    /// Which.
    pub what: String,
    /// In how many runs.
    pub runs: usize,
    /// The first of their seeds.
    pub first_seed: u64,
}

/// One of many runs.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    /// Its seed.
    pub seed: u64,
    /// Its verdict.
    pub verdict: Verdict,
    /// The hash of its event log.
    pub log_hash: String,
    /// The greatest RPO and the RTO of each VM, by its name, in milliseconds.
    pub vms: BTreeMap<String, (u64, Option<u64>)>,
    /// Expectations and invariants that were broken.
    pub broken: Vec<String>,
    /// The greatest age of a newest recovery point, of all VMs, in milliseconds.
    pub rpo_max_ms: u64,
    /// The greatest age that a VM's newest recovery point stayed below 95 times in 100, in milliseconds.
    pub rpo_p95_ms: u64,
    /// The longest time to a replica's start, in milliseconds.
    pub rto_max_ms: Option<u64>,
    /// Bytes that failovers did not bring along.
    pub lost_bytes: u64,
    /// Resynchronizations of all VMs.
    pub resyncs: u64,
    /// Attempts of all VMs.
    pub retries: u64,
    /// The catalogue entries of failures, each with how many VMs met it.
    pub failures: BTreeMap<&'static str, usize>,
}

impl RunSummary {
    fn of(outcome: &Outcome) -> Self {
        let vms = &outcome.vms;
        let mut failures = BTreeMap::new();
        for failure in vms.iter().flat_map(|vm| &vm.failures) {
            *failures.entry(*failure).or_default() += 1;
        }
        Self {
            seed: outcome.seed,
            verdict: outcome.verdict,
            log_hash: outcome.log_hash.clone(),
            vms: vms.iter().map(|vm| (vm.name.clone(), (vm.rpo_ms[2], vm.rto_ms))).collect(),
            broken: wrong(outcome).into_iter().collect(),
            rpo_max_ms: vms.iter().map(|vm| vm.rpo_ms[2]).max().unwrap_or(0),
            rpo_p95_ms: vms.iter().map(|vm| vm.rpo_ms[1]).max().unwrap_or(0),
            rto_max_ms: vms.iter().filter_map(|vm| vm.rto_ms).max(),
            lost_bytes: vms.iter().filter_map(|vm| vm.lost_bytes).sum(),
            resyncs: vms.iter().map(|vm| vm.resyncs).sum(),
            retries: vms.iter().map(|vm| vm.retries).sum(),
            failures,
        }
    }
}

/// Runs seeds from `options.seed` on, `runs` of them, each on one thread, on as many threads as the machine
/// has processors; stops at the first that fails. `tell` is told after each run how many there were.
///
/// # Errors
/// [`RunError`] of the first run that could not be made.
pub fn explore(
    subject: Subject<'_>,
    options: RunOptions,
    runs: u64,
    tell: &(dyn Fn(u64) + Sync),
) -> Result<Explored, RunError> {
    run_seeds(subject, options, runs, true, tell)
}

/// As [`explore`], and goes on after a run that fails: what many runs come to is told of all.
///
/// # Errors
/// [`RunError`] of the first run that could not be made.
pub fn survey(
    subject: Subject<'_>,
    options: RunOptions,
    runs: u64,
    tell: &(dyn Fn(u64) + Sync),
) -> Result<Explored, RunError> {
    run_seeds(subject, options, runs, false, tell)
}

fn run_seeds(
    subject: Subject<'_>,
    options: RunOptions,
    runs: u64,
    stops_at_failure: bool,
    tell: &(dyn Fn(u64) + Sync),
) -> Result<Explored, RunError> {
    let next = AtomicU64::new(0);
    let last = AtomicU64::new(runs);
    let found = Mutex::new((Explored::default(), None));
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..threads.min(usize::try_from(runs).unwrap_or(threads)) {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::SeqCst);
                    if last.load(Ordering::SeqCst) <= nth {
                        return;
                    }
                    let seed = options.seed.wrapping_add(nth);
                    let outcome = run(&subject.scenario(seed), RunOptions { seed, ..options });
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    let (explored, error) = &mut *found;
                    match outcome {
                        Ok(outcome) => {
                            if stops_at_failure && !outcome.passed() {
                                last.fetch_min(nth, Ordering::SeqCst);
                            }
                            explored.add(outcome);
                        }
                        Err(failed) => {
                            last.store(0, Ordering::SeqCst);
                            error.get_or_insert(failed);
                        }
                    }
                    tell(explored.runs);
                }
            });
        }
    });
    let (mut explored, error) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Those that other threads made meanwhile are not told of: how many they are is chance.
    if stops_at_failure && let Some(failed) = &explored.failed {
        let before = failed.seed.wrapping_sub(options.seed);
        explored.all.retain(|run| run.seed.wrapping_sub(options.seed) <= before);
    }
    explored.all.sort_unstable_by_key(|run| run.seed);
    error.map_or(Ok(explored), Err)
}

impl Explored {
    /// The greatest RPO of each run, over the runs, in milliseconds.
    pub fn rpo_max_ms(&self) -> Percentiles {
        percentiles(self.all.iter().map(|run| run.rpo_max_ms).collect()).unwrap_or_default()
    }

    /// Every VM over the runs, by its name.
    pub fn vms(&self) -> Vec<VmSpread> {
        let mut all: BTreeMap<&String, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
        for (name, (rpo, rto)) in self.all.iter().flat_map(|run| &run.vms) {
            let (rpos, rtos) = all.entry(name).or_default();
            rpos.push(*rpo);
            rtos.extend(rto);
        }
        let spread = all.into_iter().map(|(name, (rpos, rtos))| VmSpread {
            name: name.clone(),
            rpo_max_ms: percentiles(rpos).unwrap_or_default(),
            rto_ms: percentiles(rtos),
        });
        spread.collect()
    }

    /// What did not hold, by name.
    pub fn broken(&self) -> Vec<Broken> {
        let mut all: BTreeMap<&String, (usize, u64)> = BTreeMap::new();
        for run in &self.all {
            for what in &run.broken {
                all.entry(what).or_insert((0, run.seed)).0 += 1;
            }
        }
        let broken = all.into_iter();
        broken
            .map(|(what, (runs, first_seed))| Broken { what: what.clone(), runs, first_seed })
            .collect()
    }

    /// The hash of the hashes of all logs, in the order of the seeds.
    pub fn log_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("lifeboat 2026 simulated event logs");
        for run in &self.all {
            hasher.update(run.log_hash.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn add(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.commits += outcome.commits;
        self.virtual_ms += outcome.virtual_ms;
        let run = RunSummary::of(&outcome);
        self.worst.push((run.seed, run.rpo_max_ms));
        self.all.push(run);
        self.attempts = attempts::joined(self.attempts.iter().chain(&outcome.attempts));
        self.worst.sort_by_key(|(seed, rpo)| (std::cmp::Reverse(*rpo), *seed));
        self.worst.truncate(WORST);
        let earlier = |failed: &Outcome| failed.seed < outcome.seed;
        if !outcome.passed() && !self.failed.as_ref().is_some_and(earlier) {
            self.failed = Some(outcome);
        }
    }
}

/// What a run found wrong, by name.
fn wrong(outcome: &Outcome) -> BTreeSet<String> {
    let all = outcome.expectations.iter().chain(&outcome.invariants);
    all.filter(|it| it.verdict == Verdict::Fail).map(|it| it.what.clone()).collect()
}

/// The smallest part of a failing scenario that fails in the same way under the same options; `None` if it
/// does not fail. `tell` is told of every attempt: how many steps are left.
///
/// # Errors
/// [`RunError`].
pub fn shrink(
    scenario: &Scenario,
    options: RunOptions,
    tell: &dyn Fn(usize),
) -> Result<Option<Scenario>, RunError> {
    let first = wrong(&run(scenario, options)?);
    if first.is_empty() {
        return Ok(None);
    }
    let fails = |candidate: &Scenario| -> Result<bool, RunError> {
        tell(candidate.at.len());
        Ok(!wrong(&run(candidate, options)?).is_disjoint(&first))
    };
    let mut smallest = scenario.clone();
    // Halves first, then quarters, ... then single steps. Source: Zeller, Hildebrandt, "Simplifying and
    // isolating failure-inducing input" (2002).
    let mut piece = smallest.at.len().div_ceil(2);
    while 0 < piece {
        let mut from = 0;
        while from < smallest.at.len() {
            let mut candidate = smallest.clone();
            let until = (from + piece).min(candidate.at.len());
            candidate.at.drain(from..until);
            if fails(&candidate)? {
                smallest = candidate;
            } else {
                from = until;
            }
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    for index in (0..smallest.plan.len()).rev() {
        let mut candidate = smallest.clone();
        let gone = candidate.plan.remove(index);
        let runs =
            |step: &Step| step.plan.as_ref().is_some_and(|plan| *plan.get_ref() == gone.name);
        if !candidate.at.iter().any(runs) && fails(&candidate)? {
            smallest = candidate;
        }
    }
    for index in (0..smallest.vm.len()).rev() {
        let mut candidate = smallest.clone();
        let gone = candidate.vm.remove(index);
        let is_gone = |vm: &Spanned<String>| vm.get_ref() == gone.name.get_ref();
        let named = |step: &Step| step.vm.as_ref().is_some_and(is_gone);
        let mut groups = candidate.plan.iter().flat_map(|plan| &plan.group);
        let is_used = candidate.at.iter().any(named)
            || groups.any(|group| group.vms.iter().any(is_gone))
            || candidate.vm.is_empty();
        if !is_used && gone.count.is_none() && fails(&candidate)? {
            smallest = candidate;
        }
    }
    Ok(Some(smallest))
}
