//! The figures of an incident: what every VM went through from one moment to another.

use super::history::{Damage, History, HistoryError, Recorded};
use super::past::{Moment, Past};
use super::words::{Titles, command_in_words, events_in_words};
use crate::domain::catalogue;
use crate::domain::entity::{Commit, Entry, Kind, StreamId};
use crate::domain::failure::Failure;
use crate::domain::host;
use crate::domain::id::{PlanId, VmId};
use crate::domain::plan;
use crate::domain::time::Timestamp;
use crate::domain::vault;
use crate::domain::vm::{Command, Event, FailoverKind, Health, Vm};
use crate::views::{self, VmView};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

/// Looks at every VM between the first moment and the last: health can change with time alone.
const LOOKS: u64 = 600;

/// Samples of one curve that are kept; more cannot be seen on a page.
const SAMPLES_MAX: usize = 3_000;

/// Lines of the timeline that are kept. An incident of more is a different report.
const LINES_MAX: usize = 2_000;

/// What happened from one moment to another.
#[derive(Clone, Debug, Serialize)]
pub struct Incident {
    /// The first moment.
    pub from: views::Moment,
    /// The last moment.
    pub to: views::Moment,
    /// Commits in between.
    pub commits: u64,
    /// What each VM went through, by name.
    pub vms: Vec<Track>,
    /// Vaults and hosts that were away.
    pub away: Vec<Away>,
    /// Jobs that ran, and runs of recovery plans.
    pub jobs: Vec<JobSpan>,
    /// Failovers whose replicas began to run.
    pub failovers: Vec<FailedOver>,
    /// Failed attempts.
    pub attempts: Vec<Attempt>,
    /// What happened, in order; deltas that went well are left out.
    pub timeline: Vec<Line>,
    /// Whether the timeline had more lines than are kept.
    pub cut_short: bool,
    /// Damage in the log.
    pub damage: Vec<Damage>,
}

/// A VM.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Track {
    /// Its name.
    pub name: String,
    /// Its host and its vault, as in [`Away::what`].
    pub depends_on: Vec<String>,
    /// What the policy asks for, in the end.
    pub rpo_target_seconds: f64,
    /// The greatest age of its newest recovery point.
    pub rpo_max_seconds: f64,
    /// The age of its newest recovery point over time.
    pub rpo: Vec<(i64, f64)>,
    /// The logs that were cut. What gathers between two cuts is on the host alone.
    pub logs: Vec<CutLog>,
    /// Its health, whenever that changed.
    pub health: Vec<(i64, Health)>,
    /// For how long it was Critical.
    pub critical_seconds: f64,
    /// How often it was marked for resynchronization.
    pub resyncs: u64,
    /// The catalogue entries of its failures.
    pub failures: BTreeSet<&'static str>,
}

/// Logs of a VM that were cut at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CutLog {
    /// When, in milliseconds since 1970.
    pub cut: i64,
    /// How many bytes they have.
    pub bytes: u64,
    /// When they were in the vault; `None` if they were not in the end, or something else came in their place.
    pub arrived: Option<i64>,
}

impl Track {
    fn log_arrives(&mut self, at: i64) {
        if let Some(log) = self.logs.last_mut() {
            log.arrived.get_or_insert(at);
        }
    }
}

/// A time for which something was away.
#[derive(Clone, Debug, Serialize)]
pub struct Away {
    /// As in `vault vault-1`.
    pub what: String,
    /// From when, in milliseconds since 1970.
    pub from: i64,
    /// Until when; `None` if it still was in the end.
    pub until: Option<i64>,
    /// How it was noticed.
    pub because: String,
}

/// A failover whose replica ran.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailedOver {
    /// The VM.
    pub vm: String,
    /// Planned or unplanned.
    pub kind: FailoverKind,
    /// When it was asked for, in milliseconds since 1970.
    pub asked_at: i64,
    /// When the replica ran.
    pub started_at: i64,
    /// The moment to which it was recovered: what was written between that and when it was asked for is lost,
    /// unless it was planned.
    pub recovered_to: i64,
}

impl FailedOver {
    fn of(vm: &VmView) -> Option<Self> {
        let failover = vm.failover.as_ref()?;
        Some(Self {
            vm: vm.name.clone(),
            kind: failover.kind,
            asked_at: failover.asked_at.0.as_millis(),
            started_at: failover.started_at?.0.as_millis(),
            recovered_to: failover.recovered_to.0.as_millis(),
        })
    }

    /// From asking to running.
    pub fn rto(&self) -> Duration {
        Timestamp::from_millis(self.started_at).since(Timestamp::from_millis(self.asked_at))
    }

    /// The last writes that may be lost; none where the source was shut down first.
    pub fn lost(&self) -> Duration {
        match self.kind {
            FailoverKind::Planned => Duration::ZERO,
            FailoverKind::Unplanned => {
                let recovered_to = Timestamp::from_millis(self.recovered_to);
                Timestamp::from_millis(self.asked_at).since(recovered_to)
            }
        }
    }
}

/// A job.
#[derive(Clone, Debug, Serialize)]
pub struct JobSpan {
    /// Whose: a VM, or a recovery plan.
    pub vm: String,
    /// What it did.
    pub title: String,
    /// Who asked for it.
    pub asked_by: String,
    /// From when, in milliseconds since 1970.
    pub from: i64,
    /// Until when; `None` if it still ran in the end.
    pub until: Option<i64>,
    /// How it ended, as `Completed`.
    pub outcome: Option<String>,
}

/// A failed attempt.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    /// Whose.
    pub vm: String,
    /// Which, from 1.
    pub attempt: u32,
    /// When it failed, in milliseconds since 1970.
    pub at: i64,
    /// When the next was due.
    pub due: i64,
    /// Why it failed.
    pub because: String,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its position in the log.
    pub seq: u64,
    /// When.
    pub at: views::Moment,
    /// Who said what.
    pub command: String,
    /// What became true.
    pub events: Vec<String>,
}

/// Reads what happened between two moments; the ends of the log where they are not given.
///
/// # Errors
/// [`HistoryError`].
pub fn incident(
    history: &mut History,
    from: Option<Moment>,
    to: Option<Moment>,
) -> Result<Incident, HistoryError> {
    let (first, last) = ends(history, from, to)?;
    let mut reading = Reading::new(first, last);
    history.each(|found| {
        match found {
            Ok(Recorded { commit, .. }) => {
                if to.is_some_and(|to| !to.includes(&commit)) {
                    return ControlFlow::Break(());
                }
                reading.take(&commit, from.is_none_or(|from| begins(from, &commit)));
            }
            Err(damage) => reading.past.met(&damage),
        }
        ControlFlow::Continue(())
    })?;
    Ok(reading.end())
}

fn begins(from: Moment, commit: &Commit) -> bool {
    match from {
        Moment::Position(position) => position <= commit.global,
        Moment::Time(time) => time <= commit.at,
        Moment::End => false,
    }
}

/// The first and the last moment.
fn ends(
    history: &mut History,
    from: Option<Moment>,
    to: Option<Moment>,
) -> Result<(Timestamp, Timestamp), HistoryError> {
    let time = |moment| match moment {
        Some(Moment::Time(time)) => Some(time),
        Some(Moment::Position(_) | Moment::End) | None => None,
    };
    let (mut first, mut last) = (None, Timestamp::default());
    history.each(|found| {
        let Ok(Recorded { commit, .. }) = found else { return ControlFlow::Continue(()) };
        if to.is_some_and(|to| !to.includes(&commit)) {
            return ControlFlow::Break(());
        }
        if from.is_none_or(|from| begins(from, &commit)) {
            first.get_or_insert(commit.at);
        }
        last = last.max(commit.at);
        ControlFlow::Continue(())
    })?;
    let first = time(from).or(first).unwrap_or(last);
    Ok((first, time(to).unwrap_or(last).max(first)))
}

/// The reading under way.
struct Reading {
    from: Timestamp,
    to: Timestamp,
    past: Past,
    titles: Titles,
    commits: u64,
    tracks: BTreeMap<VmId, Track>,
    away: Vec<(StreamId, Away)>,
    jobs: Vec<(uuid::Uuid, JobSpan)>,
    failovers: Vec<FailedOver>,
    attempts: Vec<Attempt>,
    timeline: Vec<Line>,
    cut_short: bool,
    next_look: Timestamp,
    step_ms: i64,
}

impl Reading {
    fn new(from: Timestamp, to: Timestamp) -> Self {
        let step_ms = (to.since(from).as_millis() as i64 / LOOKS as i64).max(1_000);
        Self {
            from,
            to,
            past: Past::default(),
            titles: Titles::default(),
            commits: 0,
            tracks: BTreeMap::new(),
            away: Vec::new(),
            jobs: Vec::new(),
            failovers: Vec::new(),
            attempts: Vec::new(),
            timeline: Vec::new(),
            cut_short: false,
            next_look: from,
            step_ms,
        }
    }

    fn take(&mut self, commit: &Commit, shown: bool) {
        while shown && self.next_look < commit.at {
            self.look_at_all(self.next_look);
            self.next_look =
                Timestamp::from_millis(self.next_look.as_millis().saturating_add(self.step_ms));
        }
        if shown {
            self.look(commit);
        }
        self.past.apply(commit);
        self.titles.note(&self.past, commit);
        self.note_away(commit);
        self.note_plan(commit);
        self.note_vm(commit, shown);
        if shown {
            self.commits += 1;
            self.look(commit);
            self.note_line(commit);
        }
    }

    fn look_at_all(&mut self, at: Timestamp) {
        for vm in self.past.site.vms.values() {
            observe(self.tracks.entry(vm.id).or_default(), vm, at);
        }
    }

    fn look(&mut self, commit: &Commit) {
        if let (Kind::Vm, Some(vm)) = (commit.stream.kind, self.past.vm(commit.stream.id)) {
            observe(self.tracks.entry(vm.id).or_default(), vm, commit.at);
        }
    }

    fn note_away(&mut self, commit: &Commit) {
        let at = commit.at.as_millis();
        match &commit.entry {
            Entry::Vault { events, .. } => events.iter().for_each(|event| match event {
                vault::Event::VaultUnreachable { because } => {
                    self.left(commit.stream, at, because);
                }
                vault::Event::VaultReachable => self.came_back(commit.stream, at),
                vault::Event::Created { .. }
                | vault::Event::RegistrationKeyIssued { .. }
                | vault::Event::RegistrationKeyUsed { .. } => {}
            }),
            Entry::Host { events, .. } => events.iter().for_each(|event| match event {
                host::Event::HeartbeatLost { because } => self.left(commit.stream, at, because),
                host::Event::HeartbeatRestored => self.came_back(commit.stream, at),
                host::Event::Registered { .. }
                | host::Event::AgentRegistered { .. }
                | host::Event::ClusterChanged { .. } => {}
            }),
            Entry::Vm { .. } | Entry::Cloud { .. } | Entry::Plan { .. } | Entry::Fabric { .. } => {}
        }
    }

    fn left(&mut self, stream: StreamId, from: i64, because: &Failure) {
        let what = called(&self.past, stream);
        let away = Away { what, from, until: None, because: because.to_string() };
        self.away.push((stream, away));
    }

    fn came_back(&mut self, stream: StreamId, at: i64) {
        if let Some((_, away)) = self.away.iter_mut().rev().find(|(it, _)| *it == stream) {
            away.until = Some(at);
        }
    }

    fn note_plan(&mut self, commit: &Commit) {
        let Entry::Plan { events, .. } = &commit.entry else { return };
        for event in events {
            match event {
                plan::Event::RunStarted { job, kind } => {
                    self.job_begins(job.0, format!("{} run of the plan", kind.name()), commit);
                }
                plan::Event::RunEnded { outcome } => {
                    let plan = self.past.site.plans.get(&PlanId(commit.stream.id));
                    let run = plan.and_then(|plan| plan.run.as_ref());
                    if let Some(run) = run {
                        self.job_ends(run.job.0, format!("{outcome:?}"), commit.at);
                    }
                }
                _ => {}
            }
        }
    }

    fn job_begins(&mut self, job: uuid::Uuid, title: String, commit: &Commit) {
        let vm = self.past.name(commit.stream);
        let (asked_by, from) = (self.titles.who(&commit.actor), commit.at.as_millis());
        let span = JobSpan { vm, title, asked_by, from, until: None, outcome: None };
        self.jobs.push((job, span));
    }

    fn job_ends(&mut self, job: uuid::Uuid, outcome: String, at: Timestamp) {
        if let Some((_, span)) = self.jobs.iter_mut().rev().find(|(own, _)| *own == job) {
            (span.until, span.outcome) = (Some(at.as_millis()), Some(outcome));
        }
    }

    fn note_vm(&mut self, commit: &Commit, shown: bool) {
        let Entry::Vm { events, .. } = &commit.entry else { return };
        let (id, at) = (VmId(commit.stream.id), commit.at.as_millis());
        let name = self.past.name(commit.stream);
        for event in events {
            match event {
                Event::JobStarted { job, kind } => {
                    self.job_begins(job.0, kind.title().to_owned(), commit);
                }
                Event::JobEnded { job, outcome } => {
                    self.job_ends(job.0, format!("{outcome:?}"), commit.at);
                }
                _ => {}
            }
            if shown {
                let track = self.tracks.entry(id).or_default();
                track.failures.extend(failure_of(event).map(|it| catalogue::entry(it.code).id));
                match event {
                    Event::SnapshotTaken { log_bytes, .. } => {
                        track.logs.push(CutLog { cut: at, bytes: *log_bytes, arrived: None });
                    }
                    Event::LogShipped { .. } => track.log_arrives(at),
                    Event::MarkedForResync { .. } => track.resyncs += 1,
                    Event::ReplicaStarted => {
                        let site = &self.past.site;
                        let vm = site.vms.get(&id).map(|vm| VmView::new(vm, site, commit.at));
                        self.failovers.extend(vm.as_ref().and_then(FailedOver::of));
                    }
                    Event::RetryScheduled { attempt, due, because, .. } => {
                        self.attempts.push(Attempt {
                            vm: name.clone(),
                            attempt: *attempt,
                            at,
                            due: due.as_millis(),
                            because: because.to_string(),
                        });
                    }
                    _ => {}
                }
            }
        }
    }

    fn note_line(&mut self, commit: &Commit) {
        if is_routine(commit) {
            return;
        }
        if self.timeline.len() == LINES_MAX {
            self.cut_short = true;
            return;
        }
        self.timeline.push(Line {
            seq: commit.global,
            at: commit.at.into(),
            command: command_in_words(commit, &self.past.name(commit.stream), &self.titles),
            events: events_in_words(commit, &self.titles),
        });
    }

    fn end(mut self) -> Incident {
        let to = self.to;
        self.look_at_all(to);
        let (from_ms, to_ms) = (self.from.as_millis(), to.as_millis());
        let overlaps = |from: i64, until: Option<i64>| {
            from <= to_ms && until.is_none_or(|until| from_ms <= until)
        };
        let mut vms: Vec<Track> = Vec::new();
        for (id, mut track) in self.tracks {
            let Some(vm) = self.past.site.vms.get(&id) else { continue };
            track.name.clone_from(&vm.name);
            let host = StreamId { kind: Kind::Host, id: vm.host.0 };
            let vault = StreamId { kind: Kind::Vault, id: vm.vault.0 };
            track.depends_on = [host, vault].map(|stream| called(&self.past, stream)).to_vec();
            track.rpo_target_seconds = views::seconds(vm.policy.copy_frequency());
            track.critical_seconds = critical_seconds(&track.health, to_ms);
            track.rpo = thinned(track.rpo);
            vms.push(track);
        }
        vms.sort_by(|one, other| one.name.cmp(&other.name));
        let away = self.away.into_iter().map(|(_, away)| away);
        let jobs = self.jobs.into_iter().map(|(_, job)| job);
        Incident {
            from: self.from.into(),
            to: to.into(),
            commits: self.commits,
            vms,
            away: away.filter(|it| overlaps(it.from, it.until)).collect(),
            jobs: jobs.filter(|it| overlaps(it.from, it.until)).collect(),
            failovers: self.failovers,
            attempts: self.attempts,
            timeline: self.timeline,
            cut_short: self.cut_short,
            damage: self.past.damage,
        }
    }
}

/// A thing by its kind and name.
fn called(past: &Past, stream: StreamId) -> String {
    format!("{} {}", stream.kind.name(), past.name(stream))
}

/// Notes how a VM is at a moment.
fn observe(track: &mut Track, vm: &Vm, at: Timestamp) {
    let level = vm.health(at);
    if track.health.last().is_none_or(|(_, before)| *before != level) {
        track.health.push((at.as_millis(), level));
    }
    if let Some(rpo) = vm.rpo(at).map(views::seconds) {
        track.rpo_max_seconds = track.rpo_max_seconds.max(rpo);
        track.rpo.push((at.as_millis(), rpo));
        // However long the log is, a curve takes no more room.
        if 4 * SAMPLES_MAX < track.rpo.len() {
            track.rpo = thinned(std::mem::take(&mut track.rpo));
        }
    }
}

fn critical_seconds(health: &[(i64, Health)], end: i64) -> f64 {
    let ends = health.iter().skip(1).map(|(at, _)| *at).chain([end]);
    let critical = health.iter().zip(ends).filter(|((_, level), _)| *level == Health::Critical);
    critical.map(|((from, _), until)| (until - from).max(0) as f64 / 1_000.0).sum()
}

/// A curve of fewer samples that keeps the highest ones: of each stretch its highest and its last.
pub(super) fn thinned(curve: Vec<(i64, f64)>) -> Vec<(i64, f64)> {
    if curve.len() <= SAMPLES_MAX {
        return curve;
    }
    let stretch = curve.len().div_ceil(SAMPLES_MAX / 2);
    let of_stretch = |samples: &[(i64, f64)]| {
        let highest = samples.iter().copied().max_by(|one, other| one.1.total_cmp(&other.1));
        [highest, samples.last().copied()].into_iter().flatten().collect::<Vec<_>>()
    };
    curve.chunks(stretch).flat_map(of_stretch).collect()
}

fn failure_of(event: &Event) -> Option<&Failure> {
    match event {
        Event::RetryScheduled { because, .. }
        | Event::AdministratorNeeded { because, .. }
        | Event::SpaceNotReclaimed { because }
        | Event::LogVolumeLow { because }
        | Event::ApplicationConsistencyMissed { because, .. } => Some(because),
        Event::TaskFailed { failure, .. } => Some(failure),
        _ => None,
    }
}

/// Whether a commit is a step of a delta that goes well, or the progress of a copy.
fn is_routine(commit: &Commit) -> bool {
    let Entry::Vm { command, .. } = &commit.entry else { return false };
    matches!(
        command,
        Command::Wake { wake: crate::domain::vm::Wake::Cycle(_), .. }
            | Command::ReportSnapshot { .. }
            | Command::ReportShipped { .. }
            | Command::ReportProgress { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_curve_keeps_its_peaks() {
        let curve: Vec<_> =
            (0..100_000).map(|at| (at, if at == 777 { 9.0 } else { 1.0 })).collect();
        let thin = thinned(curve);
        assert!(thin.len() <= SAMPLES_MAX + 2);
        assert!(thin.contains(&(777, 9.0)));
    }

    #[test]
    fn the_time_in_critical_is_the_sum_of_its_stretches() {
        let health = [
            (0, Health::Normal),
            (1_000, Health::Critical),
            (3_000, Health::Normal),
            (9_000, Health::Critical),
        ];
        assert!((critical_seconds(&health, 10_000) - 3.0).abs() < 1e-9);
    }
}
