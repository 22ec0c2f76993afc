//! Fidelity `sizes`: the entities and the rules of retries as they are, over a world of sizes and rates, for fleets
//! and for months. No disks, no objects, no futures: whatever takes time is an entry of one queue.
//!
//! What needs bytes cannot be checked here, and the outcome says so. An event is durable when it is decided. The
//! hash of the log is that of all commits; the commits themselves are kept only while they are few.

mod calls;
mod judge;
mod world;

use super::driver::Driver;
use super::ghost::Invariant;
use super::report::{Ended, Outcome, Ran};
use super::run::{
    ADMINISTRATOR_AFTER, Change, RunError, RunOptions, TWO_PRIMARIES_MS, WATCH_INTERVAL, changes,
    operation,
};
use super::scenario::{Deed, Scenario, Schedule, Step};
use crate::actors::{Hosted, IDLE_PAUSE, Origin, RetrySupervision};
use crate::domain::cloud::{self, Cloud};
use crate::domain::entity::{Commit, Entity, Entry, Kind, StreamId};
use crate::domain::failure::Failure;
use crate::domain::host::{self, Host};
use crate::domain::id::JobId;
use crate::domain::vault::{self, Vault};
use crate::domain::vm::{self, Effect, Outcome as Done, Phase, RetryReason, Vm, Work};
use calls::{Call, calls, disk_of};
use judge::Judge;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use uuid::Uuid;
use world::{Begun, World};

/// Time between two looks at a tracker that may lose track, in milliseconds.
const TRACKING_MS: u64 = 10_000;

/// Looks that are left out at most: those of a day.
const LOOKS_LEFT_OUT_MAX: u64 = 24 * 60 * 6;

/// Invariants that need bytes.
const UNCHECKED: &[Invariant] = &[Invariant::Durability, Invariant::Restorable];

/// Runs a scenario of sizes.
pub(super) fn run(scenario: &Scenario, options: RunOptions) -> Result<Outcome, RunError> {
    if options.driver != Driver::Loop {
        return Err(RunError::OnlyByLoop);
    }
    let mut fleet = Fleet::new(scenario, options.seed);
    fleet.live();
    Ok(fleet.outcome())
}

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: u64,
    /// Decides between what is due at one moment.
    tie: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A change of the timeline.
    Change(usize),
    /// The faults have ended; an administrator comes.
    Administrator,
    /// A piece of work of a VM, by its number.
    Work {
        vm: usize,
        nth: u64,
    },
    /// A look at a host, or at the vault, in this life of the service.
    Heartbeat {
        host: usize,
        life: u64,
    },
    Probe {
        life: u64,
    },
}

/// What is being done about an effect.
struct Running {
    effect: Effect,
    nth: u64,
    called_by: Option<u64>,
    doing: Doing,
}

enum Doing {
    Timer,
    /// It begins anew after a pause.
    Pause,
    /// A call of a step, by its place among them.
    Call(usize, Begun),
    /// Nothing but the commit.
    Nothing,
    Tracking,
    /// Both sites have run it for so long.
    Replica(u64),
}

/// A VM with the work that it calls for.
struct Hosting {
    stream: StreamId,
    state: Vm,
    seq: u64,
    last: Option<u64>,
    running: Vec<Running>,
}

/// An entity that only looks on.
struct Other<E> {
    stream: StreamId,
    state: E,
    seq: u64,
    last: Option<u64>,
}

impl<E: Entity> Other<E> {
    fn new(id: Uuid) -> Self {
        let stream = StreamId { kind: E::KIND, id };
        Self { stream, state: E::default(), seq: 0, last: None }
    }
}

struct Fleet<'a> {
    scenario: &'a Scenario,
    seed: u64,
    world: World,
    queue: BinaryHeap<Reverse<Due>>,
    counted: u64,
    vms: Vec<Hosting>,
    places: BTreeMap<Uuid, usize>,
    hosts: Vec<Other<Host>>,
    vault: Other<Vault>,
    cloud: Other<Cloud>,
    retries: RetrySupervision,
    mail: VecDeque<(StreamId, Entry, Origin)>,
    judge: Judge,
    /// How often the service was started; nothing of an earlier life goes on.
    life: u64,
    runs: bool,
    /// How long the vault's watch pauses, and what it saw last.
    probing: (u64, Option<bool>),
    steps: Vec<Step>,
    timeline: Vec<(u64, Change)>,
    active: BTreeMap<usize, Step>,
    remarks: Vec<(u64, String)>,
}

impl<'a> Fleet<'a> {
    fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let world = World::new(scenario, seed);
        let hosting = |id| Hosting {
            stream: StreamId { kind: Kind::Vm, id },
            state: Vm::default(),
            seq: 0,
            last: None,
            running: Vec::new(),
        };
        let vms: Vec<_> = world.guests.iter().map(|guest| hosting(guest.id.0)).collect();
        let places = vms.iter().enumerate().map(|(index, vm)| (vm.stream.id, index)).collect();
        let steps: Vec<Step> = scenario.timeline().into_iter().cloned().collect();
        let timeline = changes(&steps, scenario.duration.0);
        Self {
            scenario,
            seed,
            queue: BinaryHeap::new(),
            counted: 0,
            places,
            hosts: world.hosts.iter().map(|host| Other::new(host.id.0)).collect(),
            vault: Other::new(world.vault.0),
            cloud: Other::new(World::cloud().0),
            retries: RetrySupervision::default(),
            mail: VecDeque::new(),
            judge: Judge::new(vms.len()),
            life: 0,
            runs: false,
            probing: (0, None),
            steps,
            timeline,
            active: BTreeMap::new(),
            remarks: Vec::new(),
            vms,
            world,
        }
    }

    fn live(&mut self) {
        let end = self.scenario.duration.0;
        for (index, (at, _)) in self.timeline.iter().enumerate() {
            self.queue.push(Reverse(Due { at: *at, tie: index as u64, what: What::Change(index) }));
        }
        self.counted = self.timeline.len() as u64;
        self.push(end + ADMINISTRATOR_AFTER.as_millis() as u64, What::Administrator);
        self.start_service();
        let all = end + self.scenario.settle.0;
        while let Some(Reverse(due)) = self.queue.pop()
            && due.at <= all
        {
            self.world.now = due.at;
            self.deal_with(due.what);
            self.deliver();
        }
        self.world.now = all;
    }

    fn push(&mut self, at: u64, what: What) {
        self.counted += 1;
        let tie = match self.scenario.schedule {
            Schedule::Fifo => self.counted,
            Schedule::Shuffle => super::dice::keyed(self.seed, "what is due", self.counted),
        };
        self.queue.push(Reverse(Due { at, tie, what }));
    }

    fn deal_with(&mut self, what: What) {
        match what {
            What::Change(index) => match self.timeline[index].1 {
                Change::Begins(step) => self.begin_step(step),
                Change::Ends(step) => self.end_step(step),
            },
            What::Administrator => self.heal(),
            What::Work { vm, nth } => self.work_due(vm, nth),
            What::Heartbeat { host, life } if life == self.life && self.runs => {
                let command = match self.world.heartbeat(host) {
                    Ok(()) => host::Command::ReportHeartbeat,
                    Err(failure) => host::Command::ReportSilence { failure },
                };
                self.tell_host(host, command, Origin::called(Host::WORKER, None));
                self.push(self.world.now + WATCH_INTERVAL.as_millis() as u64, what);
            }
            What::Probe { life } if life == self.life && self.runs => self.probe(what),
            What::Heartbeat { .. } | What::Probe { .. } => {}
        }
    }

    /// As the vault's watch does it: slower while answers come and go.
    fn probe(&mut self, what: What) {
        let probed = self.world.probed();
        let answers = probed.is_ok();
        let command = match probed {
            Ok(()) => vault::Command::ReportReachable,
            Err(failure) => vault::Command::ReportUnreachable { failure },
        };
        self.tell_vault(command, Origin::called(Vault::WORKER, None));
        let (pause, answered) = self.probing;
        let changed = answered.is_some_and(|before| before != answers);
        let pause = if changed { pause * 2 } else { pause / 2 };
        let shortest = WATCH_INTERVAL.as_millis() as u64;
        let pause = pause.clamp(shortest, 16 * shortest);
        self.probing = (pause, Some(answers));
        self.push(self.world.now + pause, what);
    }
}

/// The timeline.
impl Fleet<'_> {
    fn remark(&mut self, text: String) {
        self.remarks.push((self.world.now, text));
    }

    fn hosts_called(&self, name: Option<&str>) -> Vec<usize> {
        let hosts = self.world.hosts.iter().enumerate();
        hosts.filter(|(_, host)| name.is_none_or(|it| it == host.name)).map(|it| it.0).collect()
    }

    fn vms_called(&self, name: Option<&str>) -> Vec<usize> {
        let guests = self.world.guests.iter().enumerate();
        guests.filter(|(_, guest)| name.is_none_or(|it| it == guest.name)).map(|it| it.0).collect()
    }

    fn begin_step(&mut self, index: usize) {
        let step = self.steps[index].clone();
        self.remark(step.to_string());
        let deed = *step.r#do.get_ref();
        if deed.is_operation() {
            for vm in self.vms_called(step.vm()) {
                let hosting = &self.vms[vm];
                let command = operation(deed, self.world.guests[vm].id, &hosting.state);
                let entry = Entry::Vm { command, events: vec![] };
                self.tell(hosting.stream, entry, Origin::of("operator"));
            }
            return;
        }
        let hosts_down = self.hosts_down();
        self.active.insert(index, step.clone());
        match deed {
            Deed::KillService if self.runs => self.kill_service(),
            Deed::KillHost | Deed::PowerLoss => {
                for host in self.hosts_called(step.host()) {
                    if !hosts_down.contains(&host) {
                        self.world.host_down(host, deed == Deed::PowerLoss);
                    }
                }
            }
            _ => self.weather(),
        }
    }

    fn end_step(&mut self, index: usize) {
        let Some(step) = self.active.remove(&index) else { return };
        let deed = *step.r#do.get_ref();
        self.remark(format!("{} ends", deed.word()));
        match deed {
            Deed::KillService if !self.killed() => self.start_service(),
            Deed::KillHost | Deed::PowerLoss => {
                let still_down = self.hosts_down();
                for host in self.hosts_called(step.host()) {
                    if !still_down.contains(&host) {
                        self.world.hosts[host].up = true;
                        self.attach_host(host);
                    }
                }
            }
            _ => self.weather(),
        }
    }

    fn killed(&self) -> bool {
        self.active.values().any(|step| *step.r#do.get_ref() == Deed::KillService)
    }

    fn hosts_down(&self) -> BTreeSet<usize> {
        let down = self
            .active
            .values()
            .filter(|step| matches!(step.r#do.get_ref(), Deed::KillHost | Deed::PowerLoss));
        down.flat_map(|step| self.hosts_called(step.host())).collect()
    }

    fn weather(&mut self) {
        self.world.change_weather(&self.active.values());
        self.look_at_trackers();
    }

    fn attach_host(&mut self, host: usize) {
        if !self.runs {
            return;
        }
        for vm in 0..self.vms.len() {
            if self.world.guests[vm].host == host {
                self.world.attach(vm, self.vms[vm].state.may_run_at_primary());
            }
        }
        self.look_at_trackers();
    }

    /// What broke trackers is seen at once.
    fn look_at_trackers(&mut self) {
        for vm in 0..self.vms.len() {
            if self.world.tracking_lost(vm).is_some() {
                let tracking = self.vms[vm].running.iter();
                let nth =
                    tracking.filter(|it| matches!(it.doing, Doing::Tracking)).map(|it| it.nth);
                let nth: Vec<u64> = nth.collect();
                for nth in nth {
                    self.work_due(vm, nth);
                }
            }
        }
    }

    fn kill_service(&mut self) {
        self.runs = false;
        for host in 0..self.hosts.len() {
            self.world.agents_die(host);
        }
        self.mail.clear();
        for hosting in &mut self.vms {
            hosting.running.clear();
            hosting.last = None;
        }
        self.retries = RetrySupervision::default();
    }

    /// Starts the service; it is told its configuration, as each time.
    fn start_service(&mut self) {
        self.life += 1;
        self.runs = true;
        for vm in 0..self.vms.len() {
            self.world.attach(vm, self.vms[vm].state.may_run_at_primary());
            if let Some(because) = self.vms[vm].state.waits_for_end_of().cloned() {
                self.suspect(&because);
            }
            self.align(vm);
        }
        let (cloud, vault) = (World::cloud(), self.world.vault);
        let policy = self.scenario.site.policy();
        let configuration = || Origin::of("configuration");
        self.tell_vault(
            vault::Command::Create { id: vault, name: "vault".to_owned() },
            configuration(),
        );
        self.tell_cloud(
            cloud::Command::Create { id: cloud, name: "cloud".to_owned() },
            configuration(),
        );
        self.tell_cloud(cloud::Command::AssociatePolicy { policy }, configuration());
        for host in 0..self.hosts.len() {
            let (id, name) = (self.world.hosts[host].id, self.world.hosts[host].name.clone());
            self.tell_host(host, host::Command::Register { id, name, cloud }, configuration());
            self.tell_cloud(cloud::Command::AddHost { host: id }, configuration());
            let life = self.life;
            self.push(self.world.now + 1, What::Heartbeat { host, life });
        }
        self.probing = (WATCH_INTERVAL.as_millis() as u64, None);
        self.push(self.world.now + 1, What::Probe { life: self.life });
        for vm in 0..self.vms.len() {
            let guest = &self.world.guests[vm];
            let (id, name, disks) = (guest.id, guest.name.clone(), guest.disks.clone());
            let host = self.world.hosts[guest.host].id;
            self.tell_vm(
                vm,
                vm::Command::Discover { id, name, host, cloud, disks },
                configuration(),
                None,
            );
            let window = self.scenario.site.resync_window.0;
            let change = vm::Command::ChangeResyncWindow { window };
            self.tell_vm(vm, change, configuration(), None);
            let known = &self.vms[vm].state;
            if known.phase == Phase::Unprotected && known.jobs == 0 {
                let job = JobId::derived(id.0, known.jobs);
                let enable = vm::Command::EnableProtection { job, vault, policy };
                self.tell_vm(vm, enable, configuration(), None);
            }
            let because = RetryReason::Administrator;
            self.tell_vm(vm, vm::Command::Retry { because }, configuration(), None);
            self.tell_cloud(cloud::Command::AddVm { vm: id }, configuration());
            self.deliver();
        }
    }

    /// The faults have ended: whoever is needed comes and has everything tried again.
    fn heal(&mut self) {
        self.active.clear();
        self.weather();
        for vm in 0..self.vms.len() {
            self.world.attach(vm, self.vms[vm].state.may_run_at_primary());
            let because = RetryReason::Administrator;
            let origin = Origin::of("configuration");
            self.tell_vm(vm, vm::Command::Retry { because }, origin, None);
        }
    }
}

/// The work of VMs.
impl Fleet<'_> {
    /// Starts what the state newly calls for and stops what it calls for no more.
    fn align(&mut self, vm: usize) {
        let wanted = self.vms[vm].state.pending();
        self.vms[vm].running.retain(|running| wanted.contains(&running.effect));
        for effect in wanted {
            // Space is not modelled, and nothing is brought to another host.
            let is_modelled = !matches!(effect, Effect::ReclaimSpace | Effect::KeepOff { .. });
            let known = self.vms[vm].running.iter().any(|running| running.effect == effect);
            if !known && is_modelled {
                let called_by = self.vms[vm].last;
                self.begin(vm, effect, called_by);
            }
        }
    }

    fn begin(&mut self, vm: usize, effect: Effect, called_by: Option<u64>) {
        let now = self.world.now;
        let (at, doing) = match effect {
            Effect::WakeAt { due, .. } => (World::passed(due).max(now), Doing::Timer),
            Effect::Do(work) => self.begin_call(vm, work, 0),
            Effect::WatchTracking { .. } => (now + 1, Doing::Tracking),
            Effect::RunReplica => (now + 1, Doing::Replica(0)),
            Effect::ReclaimSpace | Effect::KeepOff { .. } => return,
        };
        self.run(vm, at, Running { effect, nth: 0, called_by, doing });
    }

    fn run(&mut self, vm: usize, at: u64, running: Running) {
        let nth = self.counted + 1;
        self.push(at, What::Work { vm, nth });
        self.vms[vm].running.push(Running { nth, ..running });
    }

    /// Begins a call of a piece of work; answers when it ends.
    fn begin_call(&mut self, vm: usize, work: Work, nth: usize) -> (u64, Doing) {
        let (call, disk) = match work {
            Work::Snapshot { .. } => (Some(Call::Cut), None),
            Work::Ship { .. } => (Some(Call::Ship), None),
            Work::Task { step, .. } => (calls(step).get(nth).copied(), disk_of(step)),
        };
        let Some(call) = call else { return (self.world.now + 1, Doing::Nothing) };
        let (begun, takes) = self.world.begin(vm, &self.vms[vm].state, call, disk);
        (self.world.now + takes, Doing::Call(nth, begun))
    }

    fn work_due(&mut self, vm: usize, nth: u64) {
        let running = &mut self.vms[vm].running;
        let Some(place) = running.iter().position(|running| running.nth == nth) else { return };
        let Running { effect, called_by, doing, .. } = running.swap_remove(place);
        let again = |doing| Running { effect, nth: 0, called_by, doing };
        match (effect, doing) {
            (_, Doing::Pause) => self.begin(vm, effect, called_by),
            (Effect::WakeAt { due, wake }, _) => {
                let command = vm::Command::Wake { due, wake };
                self.report(vm, effect, command, "timer", called_by);
            }
            (Effect::Do(work), Doing::Nothing) => {
                self.work_done(vm, work, Ok(Done::Done), called_by);
            }
            (Effect::Do(work), Doing::Call(place, begun)) => {
                let mut broken = Vec::new();
                let done = self.world.end(vm, &self.vms[vm].state, begun, &mut broken);
                for (invariant, what) in broken {
                    self.judge.violation(self.world.now, invariant, what);
                }
                let calls = if let Work::Task { step, .. } = work { calls(step).len() } else { 1 };
                if done.is_ok() && place + 1 < calls {
                    let (at, doing) = self.begin_call(vm, work, place + 1);
                    return self.run(vm, at, again(doing));
                }
                self.work_done(vm, work, done, called_by);
            }
            (Effect::WatchTracking { first_cycle }, _) => {
                let Some(reason) = self.world.tracking_lost(vm) else {
                    let at = self.world.now + self.next_look(vm);
                    return self.run(vm, at, again(Doing::Tracking));
                };
                let command = vm::Command::ReportTrackingLost { first_cycle, reason };
                self.report(vm, effect, command, Vm::WORKER, called_by);
            }
            (Effect::RunReplica, Doing::Replica(for_ms)) => {
                let off = self.world.keep_off(vm);
                let twice = self.world.runs_twice(vm);
                let step = WATCH_INTERVAL.as_millis() as u64;
                let for_ms = if twice { for_ms + step } else { 0 };
                if for_ms == TWO_PRIMARIES_MS {
                    let name = &self.vms[vm].state.name;
                    let what = format!("{name} has run at both sites for 5 minutes");
                    self.judge.violation(self.world.now, Invariant::OnePrimary, what);
                }
                // One that is off stays off.
                let step = if off { u64::MAX / 2 } else { step };
                self.run(vm, self.world.now.saturating_add(step), again(Doing::Replica(for_ms)));
            }
            (
                Effect::Do(_) | Effect::RunReplica | Effect::ReclaimSpace | Effect::KeepOff { .. },
                _,
            ) => {}
        }
    }

    /// Time to the next look at a tracker: that by which it could have lost track, since faults are looked at
    /// when they happen. A shuffled schedule has each look take its turn.
    fn next_look(&self, vm: usize) -> u64 {
        let looks = match self.scenario.schedule {
            Schedule::Fifo => self.world.tracks_for(vm) / TRACKING_MS,
            Schedule::Shuffle => 1,
        };
        looks.clamp(1, LOOKS_LEFT_OUT_MAX) * TRACKING_MS
    }

    fn work_done(
        &mut self,
        vm: usize,
        work: Work,
        done: Result<Done, Failure>,
        called_by: Option<u64>,
    ) {
        let command = match (done, work) {
            (Err(failure), work) => vm::Command::ReportFailure { work, failure },
            (Ok(outcome), Work::Task { job, task, .. }) => {
                vm::Command::ReportDone { job, task, outcome }
            }
            (Ok(_), Work::Snapshot { cycle }) => {
                let log_bytes = self.world.cut_bytes(vm);
                vm::Command::ReportSnapshot { cycle, at: self.world.wall(), log_bytes }
            }
            (Ok(_), Work::Ship { cycle, .. }) => {
                let shipped_bytes = self.world.shipped_bytes(vm);
                vm::Command::ReportShipped { cycle, shipped_bytes }
            }
        };
        self.report(vm, Effect::Do(work), command, Vm::WORKER, called_by);
    }

    /// Work reports its end. What changes nothing is done again after a pause, if it is still called for.
    fn report(
        &mut self,
        vm: usize,
        effect: Effect,
        command: vm::Command,
        actor: &str,
        called_by: Option<u64>,
    ) {
        let origin = Origin::called(actor, called_by);
        let changed = self.tell_vm(vm, command, origin, Some(effect));
        let hosting = &self.vms[vm];
        if !changed
            && hosting.state.pending().contains(&effect)
            && !hosting.running.iter().any(|running| running.effect == effect)
        {
            let at = self.world.now + IDLE_PAUSE.as_millis() as u64;
            self.run(vm, at, Running { effect, nth: 0, called_by, doing: Doing::Pause });
        }
    }
}

/// Telling entities.
impl Fleet<'_> {
    fn deliver(&mut self) {
        while let Some((stream, entry, origin)) = self.mail.pop_front() {
            self.tell(stream, entry, origin);
        }
    }

    fn tell(&mut self, stream: StreamId, entry: Entry, origin: Origin) {
        if !self.runs {
            return self.remark(format!("{} does not reach the service", origin.actor));
        }
        match entry {
            Entry::Vm { command, .. } => {
                if let Some(vm) = self.places.get(&stream.id).copied() {
                    self.tell_vm(vm, command, origin, None);
                }
            }
            Entry::Vault { command, .. } => self.tell_vault(command, origin),
            Entry::Cloud { command, .. } => self.tell_cloud(command, origin),
            Entry::Host { command, .. } => {
                if let Some(host) = self.hosts.iter().position(|host| host.stream == stream) {
                    self.tell_host(host, command, origin);
                }
            }
            Entry::Plan { .. } | Entry::Fabric { .. } => {}
        }
    }

    /// Tells a VM something; answers whether that changed anything.
    fn tell_vm(
        &mut self,
        vm: usize,
        command: vm::Command,
        origin: Origin,
        ends: Option<Effect>,
    ) -> bool {
        let (now, at) = (self.world.now, self.world.wall());
        let hosting = &mut self.vms[vm];
        let events = match hosting.state.decide(&command, at) {
            Ok(events) if events.is_empty() => return false,
            Ok(events) => events,
            Err(rejection) => {
                if ends.is_none() {
                    let text = format!("{}: {rejection}", origin.actor);
                    self.remark(text);
                }
                return false;
            }
        };
        let correlation = origin.correlation.or_else(|| hosting.state.running_job());
        self.judge.before(vm, &hosting.state, &events, at);
        let news = events.iter().any(is_news);
        for event in &events {
            hosting.state.apply(event, at);
        }
        hosting.seq += 1;
        let entry = Entry::Vm { command, events };
        let Origin { actor, causation, .. } = origin;
        let (stream, seq) = (hosting.stream, hosting.seq);
        let commit = Commit { stream, seq, global: 0, at, actor, correlation, causation, entry };
        self.judge.after(vm, &hosting.state, &commit, now);
        let commit = self.judge.keep(commit, news);
        hosting.last = Some(self.judge.commits());
        if self.vms[vm].state.may_run_at_primary() {
            self.world.switch_on(vm);
        }
        if let Some(commit) = commit {
            self.supervise(&commit);
        }
        self.align(vm);
        true
    }

    fn tell_host(&mut self, host: usize, command: host::Command, origin: Origin) {
        let at = self.world.wall();
        if let Some(commit) = self.judge.told(&mut self.hosts[host], command, origin, at) {
            self.supervise(&commit);
        }
    }

    fn tell_vault(&mut self, command: vault::Command, origin: Origin) {
        let at = self.world.wall();
        if let Some(commit) = self.judge.told(&mut self.vault, command, origin, at) {
            self.supervise(&commit);
        }
    }

    fn tell_cloud(&mut self, command: cloud::Command, origin: Origin) {
        let at = self.world.wall();
        let Some(commit) = self.judge.told(&mut self.cloud, command, origin, at) else { return };
        let policy = self.cloud.state.policy;
        for cloud::Effect::HandPolicy { vm, revision } in self.cloud.state.pending() {
            let causation = Some(commit.global);
            let handed = vm::Command::ChangePolicy { policy };
            let origin = Origin::called(&self.cloud.stream.to_string(), causation);
            let stream = StreamId { kind: Kind::Vm, id: vm.0 };
            self.mail.push_back((stream, Entry::Vm { command: handed, events: vec![] }, origin));
            let command = cloud::Command::ReportPolicyTaken { vm, revision };
            let origin = Origin::called(Cloud::WORKER, causation);
            let entry = Entry::Cloud { command, events: vec![] };
            self.mail.push_back((self.cloud.stream, entry, origin));
        }
    }

    fn supervise(&mut self, commit: &Commit) {
        let vms = self.vms.iter().map(|vm| vm.stream.id);
        for (to, command) in self.retries.committed(commit, vms) {
            self.mail.push_back((to, command, Origin::caused_by(commit)));
        }
    }

    fn suspect(&mut self, because: &Failure) {
        if let Some((to, command)) = RetrySupervision::suspect(because) {
            self.mail.push_back((to, command, Origin::of("supervisor")));
        }
    }

    fn outcome(mut self) -> Outcome {
        let (now, at) = (self.world.now, self.world.wall());
        for (index, hosting) in self.vms.iter().enumerate() {
            self.judge.end(index, &hosting.state, now, at);
        }
        if !self.runs {
            let what = "the service does not run".to_owned();
            self.judge.violation(now, Invariant::Convergence, what);
        }
        let figures = std::mem::take(&mut self.judge.figures);
        let ended = self.vms.iter().zip(figures).enumerate().map(|(index, (hosting, figures))| {
            let name = self.world.guests[index].name.clone();
            Ended::new(name, hosting.state.clone(), at, self.world.lost(index), figures)
        });
        let ended = ended.collect();
        let commits = self.judge.commits();
        let (log_hash, log, violations) = self.judge.close();
        let ran = Ran {
            seed: self.seed,
            log_hash,
            log,
            commits,
            virtual_ms: now,
            remarks: self.remarks,
            violations,
            ended,
            unchecked: UNCHECKED,
        };
        ran.outcome(self.scenario)
    }
}

/// Whether the supervisor does something about an event of a VM.
const fn is_news(event: &vm::Event) -> bool {
    matches!(event, vm::Event::RetryStarted { .. } | vm::Event::RetryScheduled { .. })
}
