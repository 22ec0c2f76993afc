//! The observer of the log: folds every commit beside the service, decides it again, and keeps the
//! figures of every VM.

use super::attempts::Attempts;
use super::ghost::Invariant;
use super::outside::Outside;
use super::scenario::Figure;
use crate::domain::catalogue::Code;
use crate::domain::entity::{Commit, Entry, Kind};
use crate::domain::failure::Class;
use crate::domain::id::VmId;
use crate::domain::job::{JobKind, JobOutcome};
use crate::domain::placement::PlacedNic;
use crate::domain::policy::Policy;
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
pub(super) const WINDOW_MS: u64 = 10 * 60_000;

/// Commits of any other entity within that time.
const COMMITS_OF_OTHERS: u64 = 100;

/// Waits for an attempt that are kept of one recovery point: a week of them, on the schedule.
const WAITS_MAX: usize = 400;

/// Recovery points beyond those of the retention.
const POINTS_SPARE: u64 = 20;

/// Minutes after a first failure at which the schedule of Site Recovery tries again, then every 30.
const SCHEDULE_MIN: [i64; 5] = [1, 2, 4, 8, 10];

/// Values that are gathered before they are counted: one after the other, each would find its place in
/// memory that others took meanwhile.
const GATHERED: usize = 128;

/// How often each value was met.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    times: BTreeMap<u64, u64>,
    all: u64,
    /// Not yet among `times`.
    gathered: Vec<u64>,
}

impl Spread {
    pub(super) fn add(&mut self, value: u64) {
        self.gathered.push(value);
        self.all += 1;
        if GATHERED <= self.gathered.len() {
            self.count();
        }
    }

    fn count(&mut self) {
        self.gathered.sort_unstable();
        for same in self.gathered.chunk_by(|one, other| one == other) {
            *self.times.entry(same[0]).or_default() += same.len() as u64;
        }
        self.gathered.clear();
    }

    /// The value that so many of a hundred do not exceed.
    pub(super) fn at(&mut self, percent: u64) -> Option<u64> {
        self.count();
        let place = self.all.saturating_sub(1) * percent / 100;
        let mut before = 0;
        self.times.iter().find_map(|(value, times)| {
            before += times;
            (place < before).then_some(*value)
        })
    }
}

/// How a recovery point aged: from the moment it was cut, and the waits for an attempt meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Aging {
    from: u64,
    until: u64,
    waits: Vec<(u64, u64)>,
}

impl Aging {
    /// How much of it lies in `outages`, which are in order and apart, and how much of the rest is waiting
    /// for an attempt; in milliseconds.
    pub(super) fn split(&self, outages: &[(u64, u64)]) -> [u64; 2] {
        let within = |from: u64, until: u64| -> u64 {
            let common = |(a, b): &(u64, u64)| until.min(*b).saturating_sub(from.max(*a));
            outages.iter().map(common).sum()
        };
        let waited = self.waits.iter().map(|(from, until)| {
            let (from, until) = ((*from).max(self.from), (*until).min(self.until));
            until.saturating_sub(from).saturating_sub(within(from, until))
        });
        [within(self.from, self.until), waited.sum()]
    }
}

/// What is known of a VM.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) rpo_max_ms: u64,
    pub(super) rto_max_ms: Option<u64>,
    pub(super) resyncs: u64,
    pub(super) retries: u64,
    pub(super) retry_minutes: BTreeSet<u64>,
    pub(super) failures: BTreeSet<&'static str>,
    pub(super) resync_reasons: BTreeSet<String>,
    /// What a second service met with it.
    pub(super) second_service: BTreeSet<&'static str>,
    pub(super) worst: Option<Health>,
    pub(super) administrator: u64,
    pub(super) attempts: Attempts,
    /// Every age that its newest recovery point reached before the next one, in milliseconds.
    pub(super) rpos_ms: Spread,
    /// How the greatest RPO came about: from the cut to its end, and the waits for an attempt meanwhile.
    pub(super) longest: Aging,
    waits: Vec<(u64, u64)>,
    waits_since: Option<u64>,
    protected_once: bool,
    /// When the newest recovery point was cut.
    newest_cut_ms: Option<u64>,
    /// When each cycle was cut that is not shipped: one, as a rule.
    cut_ms: Vec<(u64, u64)>,
    failover_asked_ms: Option<u64>,
    trouble_since: Option<Timestamp>,
    /// The shortest time between deltas and the longest retention of all policies that it had: what an earlier one
    /// made is there for a while.
    widest: Option<Policy>,
}

impl Figures {
    /// The newest recovery point is so old before another takes its place.
    fn aged(&mut self, now_ms: u64) {
        if let Some(cut) = self.newest_cut_ms {
            let age = now_ms.saturating_sub(cut);
            if self.rpo_max_ms < age {
                let waits = self.waits_up_to(now_ms);
                self.longest = Aging { from: cut, until: now_ms, waits };
            }
            self.rpo_max_ms = self.rpo_max_ms.max(age);
            self.rpos_ms.add(age);
        }
    }

    fn waits_up_to(&self, now_ms: u64) -> Vec<(u64, u64)> {
        let under_way = self.waits_since.map(|since| (since, now_ms));
        self.waits.iter().copied().chain(under_way).collect()
    }

    /// What an event at `now_ms` of virtual time adds.
    ///
    /// # Errors
    /// Seconds between a first failure and an attempt that is off the schedule.
    pub(super) fn note(
        &mut self,
        event: &Event,
        at: Timestamp,
        now_ms: u64,
        clock_was_set: bool,
    ) -> Result<(), u64> {
        self.attempts.note(event, at, now_ms);
        match event {
            Event::SnapshotTaken { cycle, .. } => self.cut_ms.push((*cycle, now_ms)),
            Event::LogShipped { point } => {
                self.aged(now_ms);
                let cut = self.cut_ms.iter().rev().find(|(cycle, _)| *cycle == point.cycle);
                let cut = cut.map_or(now_ms, |(_, cut)| *cut);
                self.cut_ms.retain(|(cycle, _)| point.cycle < *cycle);
                self.newest_cut_ms = self.newest_cut_ms.max(Some(cut));
                // What lies before the cut makes no recovery point any older.
                self.waits.clear();
            }
            Event::Protected => self.protected_once = true,
            Event::ProtectionEnabled { policy, .. } | Event::PolicyChanged { policy } => {
                self.widest = Some(self.widest_with(*policy));
            }
            Event::MarkedForResync { reason } => {
                self.resyncs += 1;
                let because = reason.to_string();
                let kind = because.split(':').next().unwrap_or_default();
                self.resync_reasons.insert(kind.to_owned());
                self.cut_ms.clear();
                self.trouble_since = None;
            }
            Event::RetryScheduled { due, because, .. } => {
                self.failures.insert(crate::domain::catalogue::entry(because.code).id);
                self.waits_since = Some(now_ms);
                let since = *self.trouble_since.get_or_insert(at);
                // Tracking that is lost again and again counts from the first loss.
                if !clock_was_set && because.code != Code::TrackingLostAgain {
                    self.retry_minutes.insert(due.since(since).as_secs() / 60);
                    if !on_schedule(since, *due) {
                        return Err(due.since(since).as_secs());
                    }
                }
            }
            Event::RetryStarted { .. } => {
                self.retries += 1;
                let since = self.waits_since.take().unwrap_or(now_ms);
                if self.waits.len() < WAITS_MAX {
                    self.waits.push((since, now_ms));
                }
            }
            Event::AdministratorNeeded { because, .. } => {
                self.failures.insert(crate::domain::catalogue::entry(because.code).id);
                // Attempts after an administrator's are on the schedule of the first failure.
                self.trouble_since.get_or_insert(at);
                self.administrator += 1;
            }
            Event::TaskFailed { failure, .. } => {
                self.failures.insert(crate::domain::catalogue::entry(failure.code).id);
            }
            Event::JobStarted {
                kind: JobKind::PlannedFailover | JobKind::UnplannedFailover,
                ..
            } => {
                self.failover_asked_ms.get_or_insert(now_ms);
            }
            Event::FailoverCancelled | Event::JobEnded { outcome: JobOutcome::Failed, .. } => {
                self.failover_asked_ms = None;
            }
            Event::ReplicaStarted => {
                if let Some(asked) = self.failover_asked_ms.take() {
                    self.rto_max_ms = self.rto_max_ms.max(Some(now_ms - asked));
                    self.aged(asked);
                    self.newest_cut_ms = None;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn widest_with(&self, policy: Policy) -> Policy {
        let before = self.widest.unwrap_or(policy);
        let frequency = before.copy_frequency_s.min(policy.copy_frequency_s);
        let retention = before.recovery_point_retention_h.max(policy.recovery_point_retention_h);
        Policy { copy_frequency_s: frequency, recovery_point_retention_h: retention, ..policy }
    }

    /// Commits that the VM may make within [`WINDOW_MS`].
    pub(super) fn commits_allowed(&self, vm: Option<&Vm>) -> u64 {
        let frequency = vm.map(|vm| self.widest_with(vm.policy).copy_frequency());
        let frequency_ms = frequency.map_or(30_000, |span| span.as_millis() as u64);
        COMMITS_SPARE + WINDOW_MS / frequency_ms.max(1) * COMMITS_PER_DELTA
    }

    /// Recovery points that it may keep.
    pub(super) fn points_allowed(&self, vm: &Vm) -> u64 {
        let policy = self.widest_with(vm.policy);
        let frequency = policy.copy_frequency().as_secs().max(1);
        policy.retention().as_secs() / frequency + POINTS_SPARE
    }

    /// What was in trouble before is done, or something else is.
    pub(super) fn out_of_trouble(&mut self) {
        self.waits_since = None;
        self.trouble_since = None;
        self.attempts.end();
    }

    /// The run is over: what has aged has done so up to now.
    pub(super) fn end(&mut self, vm: &Vm, now_ms: u64) {
        if vm.rpo(vm.phase_since).is_some() {
            self.aged(now_ms);
        }
        self.attempts.end();
    }

    /// A VM's health, as it was seen.
    pub(super) fn seen(&mut self, health: Health) {
        if self.protected_once {
            self.worst = self.worst.max(Some(health));
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

    /// An observer of what goes on after this log.
    pub(super) fn after(log: &[Commit]) -> Self {
        let mut observer = Self::default();
        for commit in log {
            observer.past.apply(commit);
        }
        observer
    }

    /// Notes what a second service met with a VM.
    pub(super) fn second_service_met(&mut self, vm: VmId, failures: BTreeSet<&'static str>) {
        self.figures.entry(vm.0).or_default().second_service.extend(failures);
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
        prove_rest(outside, VmId(id), events);
        // What was in trouble before is done, or something else is.
        if self.past.vm(id).is_none_or(|vm| vm.trouble.is_none()) {
            self.figures.entry(id).or_default().out_of_trouble();
        }
        self.bound_points(outside, id);
        points
    }

    /// Looks at every VM's health, as a person would now and then.
    pub(super) fn look(&mut self, now: Timestamp) {
        for (id, vm) in &self.past.site.vms {
            self.figures.entry(id.0).or_default().seen(vm.health(now));
        }
    }

    /// The run is over: what has aged has done so up to now.
    pub(super) fn end(&mut self, now_ms: u64) {
        for (id, vm) in &self.past.site.vms {
            self.figures.entry(id.0).or_default().end(vm, now_ms);
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
        if let Err(after_s) = figures.note(event, at, now_ms, clock_was_set) {
            let name = outside.machine(id).name;
            let what = format!("attempt of {name} due {after_s} s after the first failure");
            outside.violation(Invariant::RetrySchedule, what);
        }
        let Event::LogShipped { point } = event else { return None };
        let chosen = outside.dice.next("prove").is_multiple_of(PROVE_ONE_IN);
        chosen.then_some((id, point.cycle))
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
                let figures = self.figures.entry(commit.stream.id).or_default();
                figures.commits_allowed(self.past.vm(commit.stream.id))
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
        let allowed = self.figures.get(&id).map_or(u64::MAX, |figures| figures.points_allowed(vm));
        if allowed < vm.points.len() as u64 && !self.clock_was_set {
            let what = format!("{} keeps {} recovery points", vm.name, vm.points.len());
            outside.violation(Invariant::Bounded, what);
        }
    }

    /// A job that runs in the end must have a reason that people can read.
    pub(super) fn job_says_why(vm: &Vm) -> Result<(), String> {
        let Some(job) = vm.job.as_ref().filter(|job| job.ended.is_none()) else { return Ok(()) };
        let says_why = vm.waits_for_plan()
            || vm.is_resync_paused()
            || vm.trouble.as_ref().is_some_and(|trouble| trouble.next != NextStep::Trying);
        if says_why {
            return Ok(());
        }
        Err(format!("{} of {} neither ends nor waits", job.kind.title(), vm.name))
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
            Phase::Undiscovered
            | Phase::Unprotected
            | Phase::FailedOver(_)
            | Phase::UnprotectedAtRecovery => Ok(()),
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
            Phase::Resynchronizing(_)
                if vm.resync.waits_for == Some(Opening::ByHand) || vm.is_resync_paused() =>
            {
                Ok(())
            }
            // It is well, or well again: what an interval of half a day missed, or was slow at, is told until that is
            // over, and that a guest was busy until it is asked again.
            Phase::Protected | Phase::FailbackReady
                if vm.health_causes(now).iter().all(|cause| {
                    let code = cause.code;
                    matches!(code, Code::CyclesMissed | Code::LatencyHigh | Code::GuestNotQuiesced)
                }) =>
            {
                Ok(())
            }
            _ => {
                let causes = vm.health_causes(now);
                let because = causes.first().map_or("", |cause| &cause.because);
                Err(format!("{} is {}, {}: {because}", vm.name, vm.phase, vm.health(now)))
            }
        }
    }
}

/// The network adapters of a replica, each with its place.
fn networks(vm: &Vm) -> Vec<String> {
    let nics = vm.placement.iter().flat_map(|placement| &placement.nics);
    let place = |nic: &PlacedNic| {
        let network = nic.network.as_deref().unwrap_or("none");
        let subnet = nic.subnet.as_ref().map_or_else(String::new, |subnet| format!("/{subnet}"));
        let address = nic.address.as_ref().map_or_else(String::new, |it| format!(" with {it}"));
        format!("{} in {network}{subnet}{address}", nic.nic)
    };
    nics.map(place).collect()
}

fn words(set: &BTreeSet<&'static str>) -> Vec<String> {
    set.iter().map(ToString::to_string).collect()
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
    /// The figure of a VM, as texts.
    pub(super) fn texts(self, vm: &Vm, figures: &Figures) -> Vec<String> {
        match self {
            Self::ResyncReasons => figures.resync_reasons.iter().cloned().collect(),
            Self::Networks => networks(vm),
            Self::SecondService => words(&figures.second_service),
            _ => words(&figures.failures),
        }
    }

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
            | Self::ResyncReasons
            | Self::SecondService
            | Self::Host
            | Self::LastTest
            | Self::Networks
            | Self::Health
            | Self::WorstHealth
            | Self::Phase => None,
        }
    }
}

/// Proves that a guest was at rest while its logs were cut, where a commit says so.
fn prove_rest(outside: &Outside, id: VmId, events: &[Event]) {
    let at_rest = events.iter().any(|event| matches!(event, Event::ApplicationConsistent { .. }));
    let cut = events.iter().find_map(|event| match event {
        Event::SnapshotTaken { at, .. } if at_rest => Some(*at),
        _ => None,
    });
    let second = cut.map(|at| at.as_millis().div_euclid(1_000));
    if second.is_some_and(|second| !outside.ghost.was_at_rest(id, second)) {
        let what = format!("{} was not at rest when it was cut", outside.machine(id).name);
        outside.violation(Invariant::AtRest, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_split_into_outage_and_waiting_after_it() {
        let waits = vec![(100, 160), (160, 400), (900, 1_000)];
        let aging = Aging { from: 50, until: 600, waits };
        // The outage from 100 to 300; the second attempt waits for 100 ms longer.
        assert_eq!(aging.split(&[(0, 10), (100, 300)]), [200, 100]);
    }

    #[test]
    fn a_spread_answers_what_so_many_do_not_exceed() {
        let mut spread = Spread::default();
        assert_eq!(spread.at(50), None);
        (1..=100).rev().for_each(|value| spread.add(value));
        assert_eq!([0, 50, 95, 100].map(|percent| spread.at(percent)), [1, 50, 95, 100].map(Some));
    }
}
