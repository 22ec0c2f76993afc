//! A scenario out of a recorded log: the site, its writes, what went wrong and what operators did.
//!
//! A log tells what was noticed, not what was the case. A fault lasts here from the first failure that it
//! caused to half of the time between the last failure and the first success. What leaves no trace, such as
//! a kill of the service, or writes within a delta, is not there.

use super::quantity::{Size, Span, Window};
use super::scenario::{
    ActionWord, Deed, Fidelity, GroupSpec, PlanSpec, RunWord, Scenario, Schedule, SiteSpec, Step,
    VmSpec,
};
use crate::domain::catalogue::Code;
use crate::domain::entity::{Commit, Entry, Kind, StreamId};
use crate::domain::failure::Cause;
use crate::domain::id::{CloudId, HostId, PlanId, VmId};
use crate::domain::plan::{self, Action, ActionKind, Definition, FailoverType, Group, RunKind};
use crate::domain::policy::Policy;
use crate::domain::time::Timestamp;
use crate::domain::vm::{Command, Event, ResyncReason, ResyncWindow, RetryReason, Vm};
use crate::domain::{cloud, host, vault};
use crate::replay::{Damage, History, HistoryError, Past, Recorded, Titles, command_in_words};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use toml::Spanned;

/// Largest disk that a scenario may have.
const DISK_BYTES_MAX: u64 = 64 << 20;

const BLOCK: u64 = 4096;

/// What a guest of a scenario writes at a time, on average. Source: the logs of simulated guests, in which
/// most writes are of 4 KiB and few of up to 256.
pub(super) const WRITE_BYTES: u64 = 16 << 10;

/// Writes of a guest in a minute, at most: more only takes longer to simulate.
const WRITES_MAX: u64 = 600;

/// Faults that are no farther apart are one; and none is shorter.
const APART_MS: i64 = 5_000;

/// Time after the timeline in which everything comes to rest.
const SETTLE: Span = Span(45 * 60_000);

/// Things that are not taken over and are told one by one.
const LEFT_OUT_TOLD: usize = 20;

/// A fault under way or over.
#[derive(Clone, Copy, Debug)]
struct Fault {
    from: i64,
    /// The last sign of it.
    seen: i64,
    /// The first sign that it is over.
    over: Option<i64>,
}

/// What a fault is, and of whom.
type Place = (Deed, Option<String>);

/// Makes a scenario of a log, called `title`; also answers what it leaves out or changes.
///
/// # Errors
/// [`HistoryError`].
pub fn recorded(
    history: &mut History,
    title: &str,
) -> Result<(Scenario, Vec<String>), HistoryError> {
    let mut reading = Reading::default();
    history.each(|found| {
        match found {
            Ok(Recorded { commit, .. }) => reading.take(&commit),
            Err(damage) => reading.past.met(&damage),
        }
        ControlFlow::Continue(())
    })?;
    let damage = Damage::told(&reading.past.damage);
    reading.remarks.extend(damage.iter().map(|it| format!("the log is damaged: {it}")));
    Ok(reading.scenario(title))
}

#[derive(Default)]
struct Reading {
    past: Past,
    began: Option<Timestamp>,
    /// Bytes of all logs that were cut, by VM.
    written: BTreeMap<VmId, u64>,
    faults: BTreeMap<Place, Vec<Fault>>,
    /// What stopped each VM.
    stopped: BTreeMap<VmId, Place>,
    /// Hosts that lost power, with the moment at which it was noticed.
    power: BTreeSet<(HostId, i64)>,
    /// When something was asked for of a VM, and what.
    operations: Vec<(i64, Step)>,
    /// The host that each VM was found at.
    hosts: BTreeMap<VmId, HostId>,
    /// The plans as they were defined last.
    plans: BTreeMap<PlanId, (String, Definition)>,
    /// When a plan was run, and how, or had to go on.
    /// Runs that began, and those that somebody had go on.
    runs: Vec<(i64, PlanId, Step)>,
    /// When a cloud got a policy.
    policies: Vec<(i64, CloudId, Policy)>,
    titles: Titles,
    /// What a scenario cannot have.
    left_out: Vec<String>,
    remarks: Vec<String>,
}

impl Reading {
    fn take(&mut self, commit: &Commit) {
        self.began.get_or_insert(commit.at);
        self.past.apply(commit);
        let at = commit.at.as_millis();
        match &commit.entry {
            Entry::Vm { command, events } => {
                self.operation(command, commit);
                for event in events {
                    self.vm_event(commit, event, at);
                }
            }
            Entry::Host { events, .. } => {
                let place = (Deed::KillHost, Some(self.past.name(commit.stream)));
                for event in events {
                    match event {
                        host::Event::HeartbeatLost { .. } => self.fails(place.clone(), at),
                        host::Event::HeartbeatRestored => self.came_back(&place, at),
                        host::Event::Registered { .. }
                        | host::Event::AgentRegistered { .. }
                        | host::Event::ClusterChanged { .. } => {}
                    }
                }
            }
            Entry::Vault { events, .. } => {
                let place = (Deed::VaultUnreachable, None);
                for event in events {
                    match event {
                        vault::Event::VaultUnreachable { .. } => self.fails(place.clone(), at),
                        vault::Event::VaultReachable => self.came_back(&place, at),
                        vault::Event::Created { .. }
                        | vault::Event::RegistrationKeyIssued { .. }
                        | vault::Event::RegistrationKeyUsed { .. } => {}
                    }
                }
            }
            Entry::Plan { command, .. } => self.plan_command(command, commit),
            Entry::Cloud {
                command:
                    cloud::Command::AssociatePolicy { policy }
                    | cloud::Command::ConfigurePolicy { policy },
                ..
            } => {
                self.policies.push((at, CloudId(commit.stream.id), *policy));
            }
            // Networks are as they are in the end.
            Entry::Cloud { .. } | Entry::Fabric { .. } => {}
        }
    }

    fn plan_command(&mut self, command: &plan::Command, commit: &Commit) {
        let (id, at) = (PlanId(commit.stream.id), commit.at.as_millis());
        match command {
            plan::Command::Define { name, definition, .. } => {
                self.plans.insert(id, (name.clone(), definition.clone().into()));
            }
            plan::Command::DefinePlan { name, definition, .. } => {
                self.plans.insert(id, (name.clone(), definition.clone()));
            }
            plan::Command::Start { kind, .. } => self.runs.push((at, id, run_of(kind))),
            plan::Command::StartWith { kind, options, .. } => {
                self.runs.push((at, id, run_of(kind).with_options(options)));
            }
            plan::Command::Continue { .. } => self.runs.push((at, id, step(0, Deed::ContinuePlan))),
            plan::Command::Cancel => self.runs.push((at, id, step(0, Deed::EndPlan))),
            plan::Command::ReportAction { failure: None, .. }
            | plan::Command::ReportVm { .. }
            | plan::Command::ReportLetGo { .. } => {}
            plan::Command::Delete
            | plan::Command::Retry { .. }
            | plan::Command::ReportAction { failure: Some(_), .. } => self.leave_out(commit),
        }
    }

    /// Notes something that a scenario cannot have.
    fn leave_out(&mut self, commit: &Commit) {
        let name = self.past.name(commit.stream);
        self.titles.note(&self.past, commit);
        let sentence = command_in_words(commit, &name, &self.titles);
        self.left_out.push(format!("not taken over, at {}: {sentence}", commit.at));
    }

    /// Whether a plan did this, which does it again in the scenario.
    fn is_of_plan(&self, commit: &Commit) -> bool {
        let stream = |id: &PlanId| StreamId { kind: Kind::Plan, id: id.0 }.to_string();
        self.plans.keys().any(|id| stream(id) == commit.actor)
    }

    fn operation(&mut self, command: &Command, commit: &Commit) {
        if self.is_of_plan(commit) {
            return;
        }
        let deed = match command {
            Command::PlannedFailover { .. } => Deed::PlannedFailover,
            Command::UnplannedFailover { .. } => Deed::UnplannedFailover,
            Command::SynchronizeAndFailOver { .. } => Deed::SynchronizedFailover,
            Command::CommitFailover { .. } => Deed::Commit,
            Command::TestFailover { .. } => Deed::TestFailover,
            Command::CleanUpTestFailover { .. } => Deed::CleanUpTest,
            Command::ChangeRecoveryPoint { .. } => Deed::ChangePoint,
            Command::CancelFailover { .. } => Deed::CancelFailover,
            Command::Failback { .. } => Deed::Failback,
            Command::FailbackToHost { .. } => Deed::FailbackToHost,
            Command::Resynchronize { .. } => Deed::Resync,
            Command::DecideFailover { .. } => Deed::DecideFailover,
            Command::CompleteFailback { .. } => Deed::CompleteFailback,
            Command::CancelFailback => Deed::CancelFailback,
            Command::ReverseReplicate { .. } => Deed::ReverseReplicate,
            Command::DisableProtection { .. } => Deed::DisableProtection,
            Command::EnableProtection { .. } | Command::EnableProtectionAt { .. }
                if commit.actor != "configuration" =>
            {
                Deed::Protect
            }
            Command::PauseReplication => Deed::Pause,
            Command::ResumeReplication => Deed::Resume,
            Command::TakeRecoveryPoint { .. } => Deed::TakePoint,
            Command::CancelJob { .. } => Deed::CancelJob,
            Command::ResizeDisk { .. } => Deed::ResizeDisk,
            Command::AddDisk { .. } => Deed::AddDisk,
            Command::Retry { because: RetryReason::Administrator }
                if commit.actor != "configuration" =>
            {
                Deed::Retry
            }
            Command::ReportMoved { host } if self.is_in_cluster(*host) => Deed::MoveVm,
            Command::ReportMoved { .. }
            | Command::ChangeResyncWindow { .. }
            | Command::ConfigureResyncWindow { .. }
            | Command::ChangeTarget { .. }
            | Command::HoldStart { .. }
            | Command::HoldFailover
            | Command::ReleaseFailover
            | Command::ReplaceFailover { .. }
            | Command::ReleaseStart => {
                // What the configuration asks for, or a cloud, is there from the beginning.
                if !matches!(commit.actor.as_str(), "configuration" | "cloud" | "timer") {
                    self.leave_out(commit);
                }
                return;
            }
            _ => return,
        };
        let mut step = Step::of(Span(0), deed);
        step.vm = Some(unplaced(self.past.name(commit.stream)));
        if let Command::FailbackToHost { host, .. } | Command::ReportMoved { host } = command {
            let host = self.past.name(StreamId { kind: Kind::Host, id: host.0 });
            step.host = Some(unplaced(host));
        }
        if let Command::Failback { in_full, .. } | Command::FailbackToHost { in_full, .. } = command
        {
            step.full = in_full.then_some(true);
        }
        if let Command::DisableProtection { source_gone, .. } = command {
            step.source_gone = source_gone.then_some(true);
        }
        if let Command::EnableProtectionAt { due, .. } = command {
            step.after = Some(Span(due.since(commit.at).as_millis() as u64));
        }
        if let Command::DecideFailover { due, then } = command {
            step.after = Some(Span(due.since(commit.at).as_millis() as u64));
            step.then = Some((*then).into());
        }
        self.operations.push((commit.at.as_millis(), step));
    }

    fn is_in_cluster(&self, host: HostId) -> bool {
        self.past.site.hosts.get(&host).is_some_and(|host| host.cluster.is_some())
    }

    fn vm_event(&mut self, commit: &Commit, event: &Event, at: i64) {
        let id = VmId(commit.stream.id);
        match event {
            Event::Discovered { host, .. } => {
                self.hosts.insert(id, *host);
            }
            Event::SnapshotTaken { log_bytes, .. } => {
                *self.written.entry(id).or_default() += log_bytes;
            }
            Event::RetryScheduled { because, .. } | Event::AdministratorNeeded { because, .. } => {
                if let Some(place) = self.place(id, because.code, because.cause) {
                    self.fails(place.clone(), at);
                    self.stopped.insert(id, place);
                }
            }
            Event::LogShipped { .. } | Event::TaskCompleted { .. } => {
                if let Some(place) = self.stopped.remove(&id) {
                    self.works(&place, at);
                }
            }
            Event::LogVolumeLow { .. } | Event::LogVolumeFreed => {
                let host = self.past.site.vms.get(&id).map(|vm| vm.host);
                let Some(host) = host else { return };
                let name = self.past.name(StreamId { kind: Kind::Host, id: host.0 });
                let place = (Deed::CrowdDisk, Some(name));
                if let Event::LogVolumeFreed = event {
                    self.came_back(&place, at);
                } else {
                    self.fails(place, at);
                }
            }
            Event::MarkedForResync { reason: ResyncReason::PowerLoss } => {
                let host = self.past.site.vms.get(&id).map(|vm| vm.host);
                self.power.extend(host.map(|host| (host, at)));
            }
            _ => {}
        }
    }

    /// What a failure is in a scenario, where it is a fault of its own.
    fn place(&self, vm: VmId, code: Code, cause: Cause) -> Option<Place> {
        let vm = self.past.site.vms.get(&vm)?;
        let host = || self.past.name(StreamId { kind: Kind::Host, id: vm.host.0 });
        match (code, cause) {
            (Code::LinkDown, Cause::Vault(_)) => Some((Deed::VaultUnreachable, None)),
            (Code::VaultFull, _) => Some((Deed::FillVault, None)),
            (Code::VaultBusy, _) => Some((Deed::ThrottleVault, None)),
            (Code::AuthenticationFailed | Code::AuthorizationFailed, _) => {
                Some((Deed::ExpireCredentials, None))
            }
            (Code::LogVolumeFull, _) => Some((Deed::FillDisk, Some(host()))),
            // A flush that fails is told as the host's, since its log can fail as well as the disk.
            (Code::DiskUnusable, _) | (Code::HostResourcesShort, Cause::Host(_)) => {
                Some((Deed::FailDisk, Some(vm.name.clone())))
            }
            _ => None,
        }
    }

    fn fails(&mut self, place: Place, at: i64) {
        let faults = self.faults.entry(place).or_default();
        match faults.last_mut() {
            Some(fault) if fault.over.is_none_or(|over| at < over + APART_MS) => {
                fault.seen = fault.seen.max(at);
                fault.over = None;
            }
            _ => faults.push(Fault { from: at, seen: at, over: None }),
        }
    }

    /// A monitor looks every few seconds: what it sees end has just ended.
    fn came_back(&mut self, place: &Place, at: i64) {
        if let Some(fault) = self.faults.get_mut(place).and_then(|faults| faults.last_mut()) {
            fault.seen = fault.seen.max(at);
            fault.over = Some(at);
        }
    }

    fn works(&mut self, place: &Place, at: i64) {
        if let Some(fault) = self.faults.get_mut(place).and_then(|faults| faults.last_mut()) {
            fault.over.get_or_insert(at);
        }
    }

    fn scenario(mut self, title: &str) -> (Scenario, Vec<String>) {
        let began = self.began.unwrap_or_default();
        let length_ms = self.past.latest.since(began).as_millis() as u64;
        let duration = Span(length_ms.div_ceil(60_000).max(1) * 60_000);
        let site = self.site();
        let vms = self.vms(length_ms, &site);
        let plan = self.plans();
        let at = self.steps(began.as_millis(), duration);
        let more = self.left_out.len().saturating_sub(LEFT_OUT_TOLD);
        self.left_out.truncate(LEFT_OUT_TOLD);
        self.remarks.append(&mut self.left_out);
        if 0 < more {
            self.remarks.push(format!("and {more} more things are not taken over"));
        }
        let (from, to) = (began, self.past.latest);
        let scenario = Scenario {
            title: title.to_owned(),
            why: format!("Recorded from {from} to {to}: {} commits.", self.past.position),
            duration,
            settle: SETTLE,
            schedule: Schedule::default(),
            fidelity: Fidelity::Blocks,
            topology: None,
            site,
            vm: vms,
            plan,
            at,
            expect: vec![],
        };
        (scenario, self.remarks)
    }

    fn site(&mut self) -> SiteSpec {
        let mut hosts: Vec<String> =
            self.past.site.hosts.values().map(|host| host.name.clone()).collect();
        if hosts.is_empty() {
            hosts.push("host-1".to_owned());
        }
        hosts.sort();
        let policy = self.policies().next().map(|(_, policy)| policy).unwrap_or_default();
        if 1 < self.past.site.clouds.len() {
            self.remarks.push("a scenario has one cloud: its policy is that of the first".into());
        }
        let (copy_frequency, retention, app_consistent) = spans(policy);
        let mut site = SiteSpec {
            hosts: hosts.into_iter().map(unplaced).collect(),
            copy_frequency,
            retention,
            app_consistent,
            ..SiteSpec::default()
        };
        let known = &self.past.site;
        let windows: Vec<ResyncWindow> = known.vms.values().map(|vm| vm.resync.window).collect();
        if let Some(window) = windows.first() {
            site.resync_window = Window(*window);
        }
        if windows.iter().any(|window| Some(window) != windows.first()) {
            let what =
                "a scenario has one window of resynchronizations: it is that of the first VM";
            self.remarks.push(what.into());
        }
        site.take_over(&known.hosts(self.past.at), &known.fabrics(), &known.mappings());
        // Of a log without its names and addresses, what stands for an address is none.
        if let Some((_, _, problem)) = site.misfit() {
            self.remarks
                .push(format!("networks, clusters and sizes are not taken over: {problem}"));
            (site.cluster, site.network, site.recovery_network, site.size) = Default::default();
        }
        site
    }

    /// The plans, with stand-ins for what they do besides.
    fn plans(&mut self) -> Vec<PlanSpec> {
        let names = |vm: &VmId| self.past.site.vms.get(vm).map(|vm| unplaced(vm.name.clone()));
        let has = |actions: &[Action], is: fn(&ActionKind) -> bool| {
            actions.iter().any(|action| is(&action.kind))
        };
        let mut plans = Vec::new();
        for (name, definition) in self.plans.values() {
            let group = |group: &Group| GroupSpec {
                vms: group.vms.iter().filter_map(names).collect(),
                script: has(&group.before, |it| matches!(it, ActionKind::Script { .. })),
                manual: has(&group.before, |it| matches!(it, ActionKind::Manual { .. })),
                gate: has(&group.after, |it| matches!(it, ActionKind::Gate { .. })),
                only: only_for(group.before.iter().chain(&group.after)),
            };
            let of_all = |action: &Action| match action.kind {
                ActionKind::Script { .. } => Some(ActionWord::Script),
                ActionKind::Manual { .. } => Some(ActionWord::Manual),
                ActionKind::Gate { .. } => None,
            };
            let after_shutdown: Vec<_> =
                definition.after_shutdown.iter().filter_map(of_all).collect();
            let groups: Vec<GroupSpec> = definition.groups.iter().map(group).collect();
            let kept: usize = groups
                .iter()
                .map(|it| usize::from(it.script) + usize::from(it.manual) + usize::from(it.gate))
                .sum::<usize>()
                + after_shutdown.len();
            let actions = definition.actions().count();
            if 0 < actions {
                self.remarks.push(format!(
                    "of the {actions} actions of plan {name}, {kept} have stand-ins, which do nothing; \
                     the others are not taken over"
                ));
            }
            plans.push(PlanSpec { name: name.clone(), after_shutdown, group: groups });
        }
        plans
    }

    fn vms(&mut self, length_ms: u64, site: &SiteSpec) -> Vec<VmSpec> {
        let mut specs = Vec::new();
        for (id, vm) in &self.past.site.vms {
            let host = self.hosts.get(id).unwrap_or(&vm.host);
            let host = self.past.site.hosts.get(host).map(|host| host.name.clone());
            // Those that were added are added again.
            let disks = vm.disks.iter().filter(|disk| vm.added_disk(disk.id).is_none());
            let sizes = disks.map(|disk| fitting(disk.size_bytes)).collect();
            let written = self.written.get(id).copied().unwrap_or(0);
            let minutes = (length_ms / 60_000).max(1);
            if vm.disks.iter().any(|disk| fitting(disk.size_bytes).0 != disk.size_bytes) {
                self.remarks.push(remark_on_sizes(vm));
            }
            let host = unplaced(host.unwrap_or_else(|| "host-1".to_owned()));
            let mut spec = VmSpec {
                writes_per_minute: writes_per_minute(written / minutes),
                ..VmSpec::named(unplaced(vm.name.clone()), host, unplaced(sizes))
            };
            spec.take_over(vm.machine.as_ref(), site);
            if let Some((_, _, problem)) = spec.misfit(site) {
                self.remarks
                    .push(format!("the adapters of {} are not taken over: {problem}", vm.name));
                spec.nic.clear();
            }
            specs.push(spec);
        }
        specs.sort_by(|one, other| one.name.get_ref().cmp(other.name.get_ref()));
        specs
    }

    fn steps(&self, began: i64, duration: Span) -> Vec<Step> {
        let mut steps = Vec::new();
        for ((deed, whom), faults) in &self.faults {
            for fault in faults {
                let over = fault.over.map(|over| fault.seen.max(fault.from).midpoint(over));
                let deed = self.refined(*deed, whom.as_deref(), fault);
                let lasts = over.map(|over| Span((over - fault.from).max(APART_MS) as u64));
                let mut step = step(fault.from - began, deed);
                if matches!(deed, Deed::FailDisk) {
                    step.vm = whom.clone().map(unplaced);
                } else {
                    step.host = whom.clone().map(unplaced);
                }
                step.r#for = lasts;
                step.percent = (deed == Deed::ThrottleVault).then_some(50);
                steps.push(step);
            }
        }
        for (at, operation) in &self.operations {
            steps.push(Step { t: unplaced(after(at - began)), ..operation.clone() });
        }
        for (at, policy) in self.policies().skip(1) {
            let (copy_frequency, retention, app_consistent) = spans(policy);
            steps.push(Step {
                copy_frequency: Some(copy_frequency),
                retention: Some(retention),
                app_consistent: Some(app_consistent),
                ..step(at - began, Deed::ChangePolicy)
            });
        }
        for (at, id, run) in &self.runs {
            let Some((name, _)) = self.plans.get(id) else { continue };
            let (t, plan) = (unplaced(after(at - began)), Some(unplaced(name.clone())));
            steps.push(Step { t, plan, ..run.clone() });
        }
        steps.retain(|step| *step.t.get_ref() < duration);
        steps.sort_by_key(|step| *step.t.get_ref());
        steps
    }

    /// The policies of the first cloud, and when it got each.
    fn policies(&self) -> impl Iterator<Item = (i64, Policy)> {
        let cloud = self.past.site.clouds.keys().next();
        let own = self.policies.iter().filter(move |(_, of, _)| Some(of) == cloud);
        own.map(|(at, _, policy)| (*at, *policy))
    }

    /// A host that was silent lost power if the tracking of its VMs says so.
    fn refined(&self, deed: Deed, whom: Option<&str>, fault: &Fault) -> Deed {
        if deed != Deed::KillHost {
            return deed;
        }
        let until = fault.over.unwrap_or(i64::MAX).saturating_add(60_000);
        let lost_power = self.power.iter().any(|(host, at)| {
            let name = self.past.site.hosts.get(host).map(|host| host.name.as_str());
            name == whom && (fault.from..=until).contains(at)
        });
        if lost_power { Deed::PowerLoss } else { deed }
    }
}

/// The kinds of run for which one group's actions are, where all of them are for some only.
fn only_for<'a>(actions: impl Iterator<Item = &'a Action> + Clone) -> BTreeSet<FailoverType> {
    if actions.clone().any(|action| action.only.is_empty()) {
        return BTreeSet::new();
    }
    actions.flat_map(|action| action.only.iter().copied()).collect()
}

fn run_of(kind: &RunKind) -> Step {
    let word = match kind {
        RunKind::Test { .. } => RunWord::Test,
        RunKind::Planned => RunWord::Planned,
        RunKind::Unplanned => RunWord::Unplanned,
        RunKind::CleanUp => RunWord::CleanUp,
        RunKind::Commit => RunWord::Commit,
        RunKind::Reverse => RunWord::Reverse,
    };
    Step { kind: Some(word), ..step(0, Deed::RunPlan) }
}

fn after(ms: i64) -> Span {
    Span(ms.max(0) as u64)
}

fn step(after_ms: i64, deed: Deed) -> Step {
    Step::of(after(after_ms), deed)
}

/// The time between two deltas of a policy, its retention, and the time between application-consistent points.
fn spans(policy: Policy) -> (Span, Span, Span) {
    (
        Span(u64::from(policy.copy_frequency_s) * 1_000),
        Span::hours(u64::from(policy.recovery_point_retention_h)),
        Span::hours(u64::from(policy.app_consistent_frequency_h)),
    )
}

/// How often a guest writes that writes so much in a minute.
pub fn writes_per_minute(bytes: u64) -> u32 {
    (bytes / WRITE_BYTES).clamp(1, WRITES_MAX) as u32
}

/// The size that stands for a disk: as it is, or the largest that can be simulated.
pub fn fitting(bytes: u64) -> Size {
    Size((bytes / BLOCK * BLOCK).clamp(BLOCK, DISK_BYTES_MAX))
}

fn remark_on_sizes(vm: &Vm) -> String {
    let bytes: u64 = vm.disks.iter().map(|disk| disk.size_bytes).sum();
    format!("the disks of {} have {bytes} bytes; those of the scenario are smaller", vm.name)
}

/// A value that comes from no file.
fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
