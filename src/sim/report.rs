//! What a run came to: the verdict, every expectation and invariant, and the figures of every VM.

use super::attempts::{self, RetryReport};
use super::ghost::{Invariant, Violation};
use super::journal::Journal;
use super::observer::Figures;
use super::outside::Outside;
use super::quantity::{Size, Span};
use super::scenario::{Expectation, Figure, Scenario, Unit, Wanted};
use crate::domain::entity::Commit;
use crate::domain::time::Timestamp;
use crate::domain::vm::{Health, Vm};
use crate::ports::clock::Clock;
use crate::ports::event_store::{EventStore, StoreError};
use serde::Serialize;

/// Whether everything was as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every expectation and every invariant held.
    Pass,
    /// One or more did not.
    Fail,
    /// Nothing can be said of it in a run of this fidelity.
    Unchecked,
}

/// Something that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// Whether it was as it must be.
    pub verdict: Verdict,
    /// What was found, where that says more.
    pub found: String,
}

/// A fault of the timeline.
#[derive(Clone, Debug, Serialize)]
pub struct Outage {
    /// What happened.
    pub what: String,
    /// The host or the VM that it hit; none for all of them.
    pub of: Option<String>,
    /// From when, in milliseconds.
    pub from_ms: u64,
    /// Until when, in milliseconds.
    pub until_ms: u64,
}

/// A VM in the end.
#[derive(Clone, Debug, Serialize)]
pub struct VmReport {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub phase: String,
    /// Its health.
    pub health: String,
    /// The worst cause of it; empty where all is well.
    pub because: String,
    /// The age that the newest recovery point reached: half of the time, 95 times in 100, at most; in
    /// milliseconds.
    pub rpo_ms: [u64; 3],
    /// Of the greatest RPO: how much was outage, by the timeline, and how much of the rest was waiting for the
    /// next attempt; in milliseconds.
    pub rpo_max_of_ms: [u64; 2],
    /// From the order to fail over to the replica's start, in milliseconds.
    pub rto_ms: Option<u64>,
    /// Bytes that a failover did not bring along.
    pub lost_bytes: Option<u64>,
    /// How often its replica had to be brought into step.
    pub resyncs: u64,
    /// How often work was tried again.
    pub retries: u64,
    /// The catalogue entries of its failures.
    pub failures: Vec<&'static str>,
    /// Recovery points.
    pub points: usize,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The scenario.
    pub title: String,
    /// The seed.
    pub seed: u64,
    /// The verdict.
    pub verdict: Verdict,
    /// The hash of the whole event log.
    pub log_hash: String,
    /// Commits of the log.
    pub commits: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// What the scenario expects.
    pub expectations: Vec<Finding>,
    /// What holds in every run.
    pub invariants: Vec<Finding>,
    /// The VMs, in the order of their names.
    pub vms: Vec<VmReport>,
    /// Attempts of failed work against the schedule, of all VMs: by failure, then by when they were planned.
    pub attempts: Vec<RetryReport>,
    /// What happened when, in milliseconds: the timeline, and what operators were answered.
    pub remarks: Vec<(u64, String)>,
    /// The faults of the timeline.
    pub outages: Vec<Outage>,
    /// What must never be, and was.
    #[serde(skip)]
    pub violations: Vec<Violation>,
    /// The event log.
    #[serde(skip)]
    pub log: Vec<Commit>,
}

impl Outcome {
    /// Whether everything was as it must be.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Pass
    }
}

/// Looks at a run that has ended.
pub(super) fn outcome(
    scenario: &Scenario,
    seed: u64,
    outside: &Outside,
    journal: &Journal,
    remarks: Vec<(u64, String)>,
) -> Result<Outcome, StoreError> {
    let log_hash = journal.hash()?;
    let log = journal.read_all(1, usize::MAX)?;
    let now = outside.clock.now();
    let observer = journal.observer();
    let ended = outside.vm_ids().into_iter().map(|id| {
        let vm = observer.past.site.vms.get(&id).cloned().unwrap_or_default();
        let name = outside.machine(id).name;
        let host = Some(outside.host_name(vm.host));
        let ended = Ended::new(name, vm, now, outside.ghost.lost_bytes(id), observer.figures(id));
        Ended { host, ..ended }
    });
    let ended = ended.collect();
    let (commits, virtual_ms) = (observer.commits, outside.clock.passed_ms());
    let violations = outside.ghost.violations();
    let unchecked = &[];
    let run =
        Ran { seed, log_hash, log, commits, virtual_ms, remarks, violations, ended, unchecked };
    Ok(run.outcome(scenario))
}

/// A run that has ended, by whatever fidelity.
pub(super) struct Ran {
    pub(super) seed: u64,
    pub(super) log_hash: String,
    pub(super) log: Vec<Commit>,
    pub(super) commits: u64,
    pub(super) virtual_ms: u64,
    pub(super) remarks: Vec<(u64, String)>,
    pub(super) violations: Vec<Violation>,
    pub(super) ended: Vec<Ended>,
    /// What nothing can be said of.
    pub(super) unchecked: &'static [Invariant],
}

impl Ran {
    pub(super) fn outcome(mut self, scenario: &Scenario) -> Outcome {
        let expected = scenario.expect.iter();
        let expectations: Vec<_> =
            expected.flat_map(|expect| judged(expect, &self.ended)).collect();
        let invariants = invariants(&self.violations, self.unchecked);
        let failed = expectations.iter().chain(&invariants).any(|it| it.verdict == Verdict::Fail);
        let outages = joined(scenario.outages());
        let attempts =
            attempts::joined(self.ended.iter().flat_map(|vm| vm.figures.attempts.reports()));
        let mut vms: Vec<_> = self.ended.iter_mut().map(|vm| vm.report(&outages)).collect();
        vms.sort_by(|one, other| one.name.cmp(&other.name));
        Outcome {
            title: scenario.title.clone(),
            seed: self.seed,
            verdict: if failed { Verdict::Fail } else { Verdict::Pass },
            log_hash: self.log_hash,
            commits: self.commits,
            virtual_ms: self.virtual_ms,
            expectations,
            invariants,
            vms,
            attempts,
            remarks: self.remarks,
            outages: scenario.faults(),
            violations: self.violations,
            log: self.log,
        }
    }
}

/// Times in order and apart.
fn joined(mut times: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    times.sort_unstable();
    let mut apart: Vec<(u64, u64)> = Vec::new();
    for (from, until) in times {
        match apart.last_mut().filter(|last| from <= last.1) {
            Some(last) => last.1 = last.1.max(until),
            None => apart.push((from, until)),
        }
    }
    apart
}

/// A VM when the run has ended.
pub(super) struct Ended {
    name: String,
    vm: Vm,
    /// The name of its host, where hosts are simulated.
    pub(super) host: Option<String>,
    health: Health,
    because: String,
    lost: Option<u64>,
    figures: Figures,
}

impl Ended {
    pub(super) fn new(
        name: String,
        vm: Vm,
        now: Timestamp,
        lost: Option<u64>,
        figures: Figures,
    ) -> Self {
        let worst = vm.health_causes(now).into_iter().next();
        let because = worst.map_or_else(String::new, |cause| cause.because);
        Self { name, host: None, health: vm.health(now), because, lost, figures, vm }
    }

    fn report(&mut self, outages: &[(u64, u64)]) -> VmReport {
        VmReport {
            name: self.name.clone(),
            phase: self.vm.phase.to_string(),
            health: self.health.to_string(),
            because: self.because.clone(),
            rpo_ms: [50, 95, 100].map(|percent| self.figures.rpos_ms.at(percent).unwrap_or(0)),
            rpo_max_of_ms: self.figures.longest.split(outages),
            rto_ms: self.figures.rto_max_ms,
            lost_bytes: self.lost,
            resyncs: self.figures.resyncs,
            retries: self.figures.retries,
            failures: self.figures.failures.iter().copied().collect(),
            points: self.vm.points.len(),
        }
    }

    fn text(&self, figure: Figure) -> Option<String> {
        match figure {
            Figure::Health => Some(self.health.to_string()),
            Figure::WorstHealth => self.figures.worst.map(|health| health.to_string()),
            Figure::Phase => Some(self.vm.phase.to_string()),
            Figure::Host => self.host.clone(),
            Figure::LastTest => Some(last_test(&self.vm).to_owned()),
            _ => None,
        }
    }
}

fn last_test(vm: &Vm) -> &'static str {
    match &vm.last_test {
        None => "none",
        Some(test) if test.succeeded => "succeeded",
        Some(_) => "failed",
    }
}

fn invariants(violations: &[Violation], unchecked: &[Invariant]) -> Vec<Finding> {
    Invariant::ALL
        .into_iter()
        .map(|invariant| {
            let mut broken = violations.iter().filter(|it| it.invariant == invariant);
            let first = broken.next();
            let found = first.map_or_else(String::new, |violation| {
                let more = broken.count();
                let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
                format!("{} after {}{more}", violation.what, Span(violation.at_ms))
            });
            let verdict = match first {
                Some(_) => Verdict::Fail,
                None if unchecked.contains(&invariant) => Verdict::Unchecked,
                None => Verdict::Pass,
            };
            Finding { what: invariant.name().to_owned(), verdict, found }
        })
        .collect()
}

fn judged(expect: &Expectation, ended: &[Ended]) -> Vec<Finding> {
    let figure = *expect.that.get_ref();
    let mut findings = Vec::new();
    for (word, value) in expect.comparisons() {
        let Ok(wanted) = figure.unit().read(value.get_ref()) else { continue };
        let of = expect.vm.as_ref().map(|vm| vm.get_ref().as_str());
        for vm in ended.iter().filter(|vm| of.is_none_or(|name| name == vm.name)) {
            let (held, found) = compare(figure, word, &wanted, vm);
            let shown = value.get_ref();
            findings.push(Finding {
                what: format!(
                    "{} of {} {} {shown}",
                    figure.word(),
                    vm.name,
                    word.replace('_', " ")
                ),
                verdict: if held { Verdict::Pass } else { Verdict::Fail },
                found,
            });
        }
    }
    findings
}

/// Whether a figure is as it is wanted, and what it is.
fn compare(figure: Figure, word: &str, wanted: &Wanted, vm: &Ended) -> (bool, String) {
    let figures = &vm.figures;
    match (figure.unit(), wanted) {
        (Unit::Texts, Wanted::Text(wanted)) => {
            let found = figure.texts(&vm.vm, figures);
            (found.contains(wanted), found.join(", "))
        }
        (Unit::Numbers, wanted) => {
            let found: Vec<u64> = figures.retry_minutes.iter().copied().collect();
            let held = match wanted {
                Wanted::Number(wanted) => found.contains(wanted),
                Wanted::Numbers(wanted) if word == "is" => found == *wanted,
                Wanted::Numbers(wanted) => wanted.iter().all(|one| found.contains(one)),
                Wanted::Text(_) => false,
            };
            (held, format!("{found:?}"))
        }
        (Unit::Text, Wanted::Text(wanted)) => {
            let found = vm.text(figure).unwrap_or_else(|| "none".to_owned());
            (found == *wanted, found)
        }
        (unit, Wanted::Number(wanted)) => {
            let Some(found) = figure.number(&vm.vm, figures, vm.lost) else {
                return (false, "none".to_owned());
            };
            let held = match word {
                "at_most" => found <= *wanted,
                "at_least" => *wanted <= found,
                _ => found == *wanted,
            };
            let shown = match unit {
                Unit::Time => Span(found).to_string(),
                Unit::Size => Size(found).to_string(),
                _ => found.to_string(),
            };
            (held, shown)
        }
        _ => (false, "it cannot be compared".to_owned()),
    }
}
