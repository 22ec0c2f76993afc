//! The observer of the log: folds every commit beside the service, decides it again, and keeps the
//! figures of every VM.

use super::ghost::Invariant;
use super::outside::Outside;
use super::scenario::Figure;
use crate::domain::catalogue::Code;
use crate::domain::entity::{Commit, Entry, Kind};
use crate::domain::failure::Class;
use crate::domain::id::VmId;
use crate::domain::job::{JobKind, JobOutcome};
use crate::domain::time::Timestamp;
use crate::domain::vm::{Event, Health, NextStep, Opening, Phase, Stage, Vm};
use crate::replay::Past;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// One recovery point in so many is read back byte for byte as soon as it is made.
const PROVE_ONE_IN: u64 = 6;

/// Commits of a VM within [`WINDOW_MS`] beyond those that its deltas need.
const COMMITS_SPARE: u64 = 250;
const COMMITS_PER_DELTA: u64 = 8;
const WINDOW_MS: u64 = 10 * 60_000;

/// Commits of any other entity within that time.
const COMMITS_OF_OTHERS: u64 = 100;

/// Recovery points beyond those of the retention.
const POINTS_SPARE: u64 = 20;

/// Minutes after a first failure at which the schedule of Site Recovery tries again, then every 30.
const SCHEDULE_MIN: [i64; 5] = [1, 2, 4, 8, 10];

/// What is known of a VM.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) rpo_max_ms: u64,
    pub(super) rto_max_ms: Option<u64>,
    pub(super) resyncs: u64,
    pub(super) retries: u64,
    pub(super) retry_minutes: BTreeSet<u64>,
    pub(super) failures: BTreeSet<&'static str>,
    pub(super) worst: Option<Health>,
    pub(super) administrator: u64,
    /// Every age that its newest recovery point reached before the next one, in milliseconds.
    pub(super) rpos_ms: Vec<u64>,
    protected_once: bool,
    /// When the newest recovery point was cut.
    newest_cut_ms: Option<u64>,
    cut_ms: BTreeMap<u64, u64>,
    failover_asked_ms: Option<u64>,
    trouble_since: Option<Timestamp>,
}

impl Figures {
    /// The newest recovery point is so old before another takes its place.
    fn aged(&mut self, now_ms: u64) {
        if let Some(cut) = self.newest_cut_ms {
            let age = now_ms.saturating_sub(cut);
            self.rpo_max_ms = self.rpo_max_ms.max(age);
            self.rpos_ms.push(age);
        }
    }
}

/// Every entity as the log tells it, and the figures.
#[derive(Debug, Default)]
pub(super) struct Observer {
    pub(super) past: Past,
    figures: BTreeMap<Uuid, Figures>,
    /// Commits of each stream in the present window of time.
    lately: BTreeMap<(Kind, Uuid), (u64, u64)>,
    /// Whether somebody set the wall clock: schedules cannot be told from it then.
    pub(super) clock_was_set: bool,
    pub(super) commits: u64,
}

impl Observer {
    pub(super) fn figures(&self, vm: VmId) -> Figures {
        self.figures.get(&vm.0).cloned().unwrap_or_default()
    }

    /// Reads a commit; answers the recovery points that are to be proven.
    pub(super) fn observe(&mut self, outside: &Outside, commit: &Commit) -> Vec<(VmId, u64)> {
        self.commits += 1;
        self.count(outside, commit);
        let id = commit.stream.id;
        if let Err(why) = self.past.apply_decided_again(commit) {
            let what = format!("commit {} of {}: {why}", commit.seq, commit.stream);
            outside.violation(Invariant::RedecideEqualsLog, what);
        }
        let Entry::Vm { events, .. } = &commit.entry else { return vec![] };
        let mut points = Vec::new();
        for event in events {
            points.extend(self.note(outside, VmId(id), event, commit.at));
        }
        // What was in trouble before is done, or something else is.
        if self.past.vm(id).is_none_or(|vm| vm.trouble.is_none()) {
            self.figures.entry(id).or_default().trouble_since = None;
        }
        self.bound_points(outside, id);
        points
    }

    /// Looks at every VM's health, as a person would now and then.
    pub(super) fn look(&mut self, now: Timestamp) {
        for (id, vm) in &self.past.site.vms {
            let figures = self.figures.entry(id.0).or_default();
            if figures.protected_once {
                figures.worst = figures.worst.max(Some(vm.health(now)));
            }
        }
    }

    /// The run is over: what has aged has done so up to now.
    pub(super) fn end(&mut self, now_ms: u64) {
        for (id, vm) in &self.past.site.vms {
            if vm.rpo(vm.phase_since).is_some() {
                self.figures.entry(id.0).or_default().aged(now_ms);
            }
        }
    }

    fn note(
        &mut self,
        outside: &Outside,
        id: VmId,
        event: &Event,
        at: Timestamp,
    ) -> Option<(VmId, u64)> {
        let now_ms = outside.clock.passed_ms();
        let clock_was_set = self.clock_was_set;
        let figures = self.figures.entry(id.0).or_default();
        match event {
            Event::SnapshotTaken { cycle, .. } => _ = figures.cut_ms.insert(*cycle, now_ms),
            Event::LogShipped { point } => {
                figures.aged(now_ms);
                let cut = figures.cut_ms.remove(&point.cycle).unwrap_or(now_ms);
                figures.newest_cut_ms = figures.newest_cut_ms.max(Some(cut));
                let chosen = outside.dice.next("prove").is_multiple_of(PROVE_ONE_IN);
                return chosen.then_some((id, point.cycle));
            }
            Event::Protected => figures.protected_once = true,
            Event::MarkedForResync { .. } => {
                figures.resyncs += 1;
                figures.cut_ms.clear();
                figures.trouble_since = None;
            }
            Event::RetryScheduled { due, because, .. } => {
                figures.failures.insert(crate::domain::catalogue::entry(because.code).id);
                let since = *figures.trouble_since.get_or_insert(at);
                // Tracking that is lost again and again counts from the first loss.
                if !clock_was_set && because.code != Code::TrackingLostAgain {
                    figures.retry_minutes.insert(due.since(since).as_secs() / 60);
                    if !on_schedule(since, *due) {
                        let what = format!(
                            "attempt of {} due {} s after the first failure",
                            outside.machine(id).name,
                            due.since(since).as_secs()
                        );
                        outside.violation(Invariant::RetrySchedule, what);
                    }
                }
            }
            Event::RetryStarted { .. } => figures.retries += 1,
            Event::AdministratorNeeded { because, .. } => {
                figures.failures.insert(crate::domain::catalogue::entry(because.code).id);
                // Attempts after an administrator's are on the schedule of the first failure.
                figures.trouble_since.get_or_insert(at);
                figures.administrator += 1;
            }
            Event::TaskFailed { failure, .. } => {
                figures.failures.insert(crate::domain::catalogue::entry(failure.code).id);
            }
            Event::JobStarted {
                kind: JobKind::PlannedFailover | JobKind::UnplannedFailover,
                ..
            } => {
                figures.failover_asked_ms.get_or_insert(now_ms);
            }
            Event::FailoverCancelled => figures.failover_asked_ms = None,
            Event::JobEnded { outcome: JobOutcome::Failed, .. } => {
                figures.failover_asked_ms = None;
            }
            Event::ReplicaStarted => {
                if let Some(asked) = figures.failover_asked_ms.take() {
                    figures.rto_max_ms = figures.rto_max_ms.max(Some(now_ms - asked));
                    let cut = figures.newest_cut_ms.take();
                    if let Some(cut) = cut {
                        figures.rpo_max_ms = figures.rpo_max_ms.max(asked.saturating_sub(cut));
                        figures.rpos_ms.push(asked.saturating_sub(cut));
                    }
                }
            }
            _ => {}
        }
        None
    }

    fn count(&mut self, outside: &Outside, commit: &Commit) {
        let window = outside.clock.passed_ms() / WINDOW_MS;
        let key = (commit.stream.kind, commit.stream.id);
        let lately = self.lately.entry(key).or_default();
        if lately.0 != window {
            *lately = (window, 0);
        }
        lately.1 += 1;
        let allowed = match commit.stream.kind {
            Kind::Vm => {
                let frequency = self.past.vm(commit.stream.id).map(|vm| vm.policy.copy_frequency());
                let frequency_ms = frequency.map_or(30_000, |span| span.as_millis() as u64);
                COMMITS_SPARE + WINDOW_MS / frequency_ms.max(1) * COMMITS_PER_DELTA
            }
            Kind::Host | Kind::Vault | Kind::Cloud | Kind::Plan | Kind::Fabric => COMMITS_OF_OTHERS,
        };
        if lately.1 == allowed + 1 {
            let what = format!("{} made more than {allowed} commits in 10 minutes", commit.stream);
            outside.violation(Invariant::Bounded, what);
        }
    }

    fn bound_points(&self, outside: &Outside, id: Uuid) {
        let Some(vm) = self.past.vm(id) else { return };
        let frequency = vm.policy.copy_frequency().as_secs().max(1);
        let allowed = vm.policy.retention().as_secs() / frequency + POINTS_SPARE;
        if allowed < vm.points.len() as u64 && !self.clock_was_set {
            let what = format!("{} keeps {} recovery points", vm.name, vm.points.len());
            outside.violation(Invariant::Bounded, what);
        }
    }

    /// Whether a VM is well, out of the service's hands, or says whom it waits for.
    pub(super) fn settled(vm: &Vm, now: Timestamp) -> Result<(), String> {
        if let Some(trouble) = &vm.trouble {
            let refused = trouble.failure.class() == Class::NonRecoverable;
            if trouble.next == NextStep::Administrator && refused {
                return Ok(());
            }
        }
        match vm.phase {
            Phase::Undiscovered | Phase::Unprotected | Phase::FailedOver(_) => Ok(()),
            Phase::CommitPending(_) | Phase::FailbackCommitPending | Phase::FailedBack
                if vm.trouble.is_none() =>
            {
                Ok(())
            }
            // A plan, or an operator, lets it go on.
            _ if vm.waits_for_plan() => Ok(()),
            Phase::Protected | Phase::FailbackReady
                if matches!(vm.delta.stage, Stage::Paused { .. }) =>
            {
                Ok(())
            }
            Phase::Resynchronizing(_) if vm.resync.waits_for == Some(Opening::ByHand) => Ok(()),
            Phase::Protected | Phase::FailbackReady if vm.health(now) == Health::Normal => Ok(()),
            _ => {
                let causes = vm.health_causes(now);
                let because = causes.first().map_or("", |cause| &cause.because);
                Err(format!("{} is {}, {}: {because}", vm.name, vm.phase, vm.health(now)))
            }
        }
    }
}

/// Whether an attempt is due at a rung of the schedule.
fn on_schedule(since: Timestamp, due: Timestamp) -> bool {
    let ms = due.as_millis() - since.as_millis();
    let minutes = ms / 60_000;
    let last = SCHEDULE_MIN[SCHEDULE_MIN.len() - 1];
    ms % 60_000 == 0
        && (SCHEDULE_MIN.contains(&minutes) || (last < minutes && (minutes - last) % 30 == 0))
}

impl Figure {
    /// The figure of a VM, as a number.
    pub(super) fn number(self, vm: &Vm, figures: &Figures, lost: Option<u64>) -> Option<u64> {
        match self {
            Self::RpoMax => Some(figures.rpo_max_ms),
            Self::RtoMax => figures.rto_max_ms,
            Self::Lost => lost,
            Self::Resyncs => Some(figures.resyncs),
            Self::Retries => Some(figures.retries),
            Self::Points => Some(vm.points.len() as u64),
            Self::AdministratorNeeded => Some(figures.administrator),
            Self::MissedCycles => {
                let intervals = vm.statistics.current.iter().chain(&vm.statistics.previous);
                Some(intervals.map(|interval| interval.missed).sum())
            }
            Self::RetryMinutes
            | Self::Failures
            | Self::Health
            | Self::WorstHealth
            | Self::Phase => None,
        }
    }
}
