//! A fleet by a loop: no actors, no futures. What the actors do in their order is done in the same order here.

use super::calls::{Call, call, disk_of, next_place};
use super::site::{Site, Stream, What};
use super::world::{Begun, World};
use super::{Service, WATCH_MS};
use crate::actors::{Hosted, IDLE_PAUSE, Origin, RetrySupervision};
use crate::domain::cloud::{self, Cloud};
use crate::domain::entity::{Commit, Entity, Entry, Kind, NewCommit, Rejection, StreamId};
use crate::domain::failure::{Cause, Failure};
use crate::domain::host::{self, Host};
use crate::domain::job::Step;
use crate::domain::time::Timestamp;
use crate::domain::vault::{self, Vault};
use crate::domain::vm::{self, Effect, Outcome as Done, RetryReason, SourceEnd, Vm, Work};
use std::collections::{BTreeMap, VecDeque};
use std::ops::DerefMut;
use uuid::Uuid;

/// The longest pause between two looks at a vault, as `actors/hosted/watch.rs` has it.
const LONGEST_PAUSE_MS: u64 = 16 * WATCH_MS;

/// What is being done about an effect.
struct Running {
    effect: Effect,
    nth: u64,
    called_by: Option<u64>,
    doing: Doing,
}

enum Doing {
    Alarm,
    /// It begins anew after a pause.
    Pause,
    /// A call of a piece of work, by its place among them.
    Call(usize, Call, Begun),
    /// Nothing but the commit.
    Nothing,
    Tracking,
    /// A call that keeps the replica on or the source off; or it waits to be made again.
    Keeping(Call, Option<Begun>),
    /// A look whether the vault answers; or the pause before it, of so many milliseconds.
    AwaitingVault(u64, Option<Begun>),
    /// Both are as they shall be.
    Kept,
}

/// The work that a VM calls for.
#[derive(Default)]
struct Hosting {
    /// The last commit of this life of the service.
    last: Option<u64>,
    running: Vec<Running>,
    /// How the last calls to it ended the source of a failover.
    source: Option<SourceEnd>,
}

impl Hosting {
    fn note_end_of_source(&mut self, call: Call, done: &Result<Done, Failure>) {
        self.source = match (call, done) {
            (Call::StopSource, Ok(_)) => Some(SourceEnd::ShutDown),
            (Call::SwitchOff, Ok(_)) => Some(SourceEnd::SwitchedOff),
            (Call::SwitchOff, Err(failure)) => Some(SourceEnd::OutOfReach(failure.clone())),
            _ => return,
        };
    }
}

/// A watch that is kept.
#[derive(Clone, Copy)]
struct Watch {
    /// The number of the answer that it waits for.
    nth: u64,
    called_by: Option<u64>,
}

/// The watch over a host, or over the vault.
#[derive(Default)]
struct Watching {
    /// The last commit of this life of the service.
    last: Option<u64>,
    watch: Option<Watch>,
    /// How long it pauses, and what it saw last.
    pause_ms: u64,
    answered: Option<bool>,
}

/// What an entity has before it.
#[expect(clippy::large_enum_variant, reason = "nearly every letter is the large one")]
enum Mail {
    Command(StreamId, Entry, Origin),
    /// Work of a VM that was nothing but the commit.
    Done {
        vm: usize,
        nth: u64,
    },
}

pub(super) struct LoopService {
    site: Site,
    vms: Vec<Hosting>,
    hosts: Vec<Watching>,
    vault: Watching,
    retries: RetrySupervision,
    mail: VecDeque<Mail>,
    /// VMs in the order of their ids, and the place of each in it.
    ids: Vec<(Uuid, usize)>,
    ranks: Vec<usize>,
    /// Answers of hosts that work of a VM waits for.
    asked: BTreeMap<u64, usize>,
    /// Room for what a VM calls for.
    wanted: Vec<Effect>,
}

impl LoopService {
    pub(super) fn new(site: Site) -> Self {
        let ids: Vec<_> = site.ids().collect();
        let mut ranks = vec![0; ids.len()];
        for (rank, (_, vm)) in ids.iter().enumerate() {
            ranks[*vm] = rank;
        }
        Self {
            vms: ids.iter().map(|_| Hosting::default()).collect(),
            hosts: site.hosts.iter().map(|_| Watching::default()).collect(),
            vault: Watching::default(),
            retries: RetrySupervision::default(),
            mail: VecDeque::new(),
            ids,
            ranks,
            asked: BTreeMap::new(),
            wanted: Vec::new(),
            site,
        }
    }
}

impl Service for LoopService {
    fn site(&mut self) -> impl DerefMut<Target = Site> {
        &mut self.site
    }

    /// Whom they suspect is told before the VMs go on, each entity by itself, in the order in which they are built.
    fn start(&mut self) {
        let ids = self.ids.iter().map(|(_, vm)| &self.site.vms[*vm].state);
        let suspects = ids.filter_map(|vm| RetrySupervision::suspect(vm.waits_for_end_of()?));
        let mut suspects: Vec<_> = suspects.collect();
        suspects.sort_by_key(|(to, _)| *to);
        let commands = suspects.into_iter().map(|(to, command)| (to, command, supervisor()));
        self.mail.extend(commands.map(|(to, command, who)| Mail::Command(to, command, who)));
        for rank in 0..self.ids.len() {
            self.align(self.ids[rank].1);
        }
        for host in 0..self.hosts.len() {
            self.watch_host(host);
        }
        self.watch_vault();
        self.deliver();
    }

    fn kill(&mut self) {
        self.vms.iter_mut().for_each(|vm| *vm = Hosting::default());
        self.hosts.iter_mut().for_each(|host| *host = Watching::default());
        self.vault = Watching::default();
        self.retries = RetrySupervision::default();
        self.mail.clear();
        self.asked.clear();
    }

    fn tell(&mut self, stream: StreamId, command: Entry, who: &str) -> Result<(), String> {
        let told = self.told(stream, command, Origin::of(who));
        self.deliver();
        told.map_err(|rejection| rejection.to_string())
    }

    fn next(&mut self, until: u64) -> Option<What> {
        let at = self.site.next_at().filter(|at| *at <= until);
        self.site.world.now = at.unwrap_or(until);
        at.and_then(|_| self.site.pop())
    }

    fn due(&mut self, what: What) {
        match what {
            What::Alarm { rank, nth, .. } => {
                self.work_due(self.ids[rank].1, nth);
                // The supervisor wakes all whose moment has come before one of them acts.
                while let Some((at, What::Alarm { rank, nth, .. })) = self.site.peek()
                    && at <= self.site.world.now
                {
                    self.site.pop();
                    self.work_due(self.ids[rank].1, nth);
                }
            }
            What::Pause { vm, nth } | What::Call { vm, nth, .. } => self.work_due(vm, nth),
            What::Heartbeat { host, nth } => self.host_answers(host, nth),
            What::Probe { nth } => self.vault_answers(nth),
            What::Change(_) | What::Administrator | What::Look => {}
        }
        self.deliver();
    }

    /// Its entities are what the log tells.
    fn look_back(&mut self) {}
}

fn supervisor() -> Origin {
    Origin::of("supervisor")
}

/// The work of VMs.
impl LoopService {
    /// Starts what the state newly calls for and stops what it calls for no more.
    fn align(&mut self, vm: usize) {
        let mut wanted = std::mem::take(&mut self.wanted);
        self.site.vms[vm].state.each_effect(|effect| wanted.push(effect));
        self.vms[vm].running.retain(|running| wanted.contains(&running.effect));
        for effect in wanted.drain(..) {
            let known = self.vms[vm].running.iter().any(|running| running.effect == effect);
            if !known {
                let called_by = self.vms[vm].last;
                self.begin(vm, effect, called_by);
            }
        }
        self.wanted = wanted;
    }

    fn begin(&mut self, vm: usize, effect: Effect, called_by: Option<u64>) {
        match effect {
            Effect::WakeAt { due, .. } => {
                let at = World::passed(due).max(self.site.world.now);
                let nth = self.site.push_alarm(at, due.as_millis(), self.ranks[vm]);
                self.run(vm, Running { effect, nth, called_by, doing: Doing::Alarm });
            }
            Effect::Do(work) => self.begin_call(vm, work, 0, called_by),
            Effect::WatchTracking { .. } => {
                let nth = self.site.watch_tracker(vm);
                self.run(vm, Running { effect, nth, called_by, doing: Doing::Tracking });
            }
            Effect::RunReplica => {
                for call in [Call::StopSource, Call::Serve] {
                    self.keep(vm, effect, call, called_by);
                }
            }
            Effect::AwaitVault { .. } => self.await_vault(vm, effect, WATCH_MS, called_by),
            // Space is not modelled, and nothing is brought to another host.
            Effect::ReclaimSpace | Effect::KeepOff { .. } => {}
        }
    }

    fn run(&mut self, vm: usize, running: Running) {
        self.vms[vm].running.push(running);
    }

    /// Begins a call of a piece of work.
    fn begin_call(&mut self, vm: usize, work: Work, place: usize, called_by: Option<u64>) {
        let effect = Effect::Do(work);
        let Some(call) = call(&self.site.vms[vm].state, work, place) else {
            let nth = self.site.number();
            self.run(vm, Running { effect, nth, called_by, doing: Doing::Nothing });
            return self.mail.push_back(Mail::Done { vm, nth });
        };
        let (nth, begun) = self.site.begin_call(vm, call, disk_of(work));
        if call == Call::Heartbeat {
            self.asked.insert(nth, vm);
        }
        let doing = Doing::Call(place, call, begun);
        self.run(vm, Running { effect, nth, called_by, doing });
    }

    /// Begins a call that keeps the replica on or the source off.
    fn keep(&mut self, vm: usize, effect: Effect, call: Call, called_by: Option<u64>) {
        let (nth, begun) = self.site.begin_call(vm, call, None);
        let doing = Doing::Keeping(call, Some(begun));
        self.run(vm, Running { effect, nth, called_by, doing });
    }

    fn work_due(&mut self, vm: usize, nth: u64) {
        let running = &mut self.vms[vm].running;
        let Some(place) = running.iter().position(|running| running.nth == nth) else { return };
        let Running { effect, called_by, doing, .. } = running.swap_remove(place);
        match (effect, doing) {
            (_, Doing::Pause) => self.begin(vm, effect, called_by),
            (Effect::WakeAt { due, wake }, _) => {
                let command = vm::Command::Wake { due, wake };
                self.report(vm, effect, command, "timer", called_by);
            }
            (Effect::Do(work), Doing::Nothing) => {
                self.work_done(vm, work, Ok(Done::Done), called_by);
            }
            (Effect::Do(work), Doing::Call(place, ended, begun)) => {
                let done = self.site.end_call(vm, begun);
                self.vms[vm].note_end_of_source(ended, &done);
                let next = next_place(ended, place, done.is_ok())
                    .and_then(|next| Some((next, call(&self.site.vms[vm].state, work, next)?)));
                let Some((next, following)) = next else {
                    return self.work_done(vm, work, done, called_by);
                };
                self.begin_call(vm, work, next, called_by);
                if done.is_err() && following == Call::StartReplica {
                    // Out of reach; it may come back before the replica runs.
                    self.keep(vm, effect, Call::StopSource, called_by);
                }
            }
            (Effect::WatchTracking { first_cycle }, _) => match self.site.tracking_lost(vm) {
                Ok(reason) => {
                    let command = vm::Command::ReportTrackingLost { first_cycle, reason };
                    self.report(vm, effect, command, Vm::WORKER, called_by);
                }
                Err(nth) => {
                    self.run(vm, Running { effect, nth, called_by, doing: Doing::Tracking });
                }
            },
            (_, Doing::Keeping(call, begun)) => self.kept(vm, effect, call, begun, called_by),
            (Effect::AwaitVault { vault }, Doing::AwaitingVault(pause_ms, begun)) => {
                let Some(begun) = begun else {
                    let (nth, begun) = self.site.begin_call(vm, Call::ReachVault, None);
                    let doing = Doing::AwaitingVault(pause_ms, Some(begun));
                    return self.run(vm, Running { effect, nth, called_by, doing });
                };
                if self.site.end_call(vm, begun).is_ok() {
                    let because = RetryReason::CauseEnded(Cause::Vault(vault));
                    let command = vm::Command::Retry { because };
                    self.report(vm, effect, command, Vm::WORKER, called_by);
                } else {
                    let pause_ms = (pause_ms * 2).min(LONGEST_PAUSE_MS);
                    self.await_vault(vm, effect, pause_ms, called_by);
                }
            }
            (
                Effect::Do(_)
                | Effect::RunReplica
                | Effect::ReclaimSpace
                | Effect::KeepOff { .. }
                | Effect::AwaitVault { .. },
                _,
            ) => {}
        }
    }

    /// Pauses before a look whether the vault answers.
    fn await_vault(&mut self, vm: usize, effect: Effect, pause_ms: u64, called_by: Option<u64>) {
        let nth = self.site.push_pause(self.site.world.now + pause_ms, vm);
        let doing = Doing::AwaitingVault(pause_ms, None);
        self.run(vm, Running { effect, nth, called_by, doing });
    }

    /// A call that keeps the replica on or the source off has ended, or is made again.
    fn kept(
        &mut self,
        vm: usize,
        effect: Effect,
        call: Call,
        begun: Option<Begun>,
        called_by: Option<u64>,
    ) {
        let Some(begun) = begun else { return self.keep(vm, effect, call, called_by) };
        match (call, self.site.end_call(vm, begun).is_ok()) {
            (Call::Serve, true) => self.keep(vm, effect, Call::StartReplica, called_by),
            (Call::StopSource, false) => self.keep(vm, effect, Call::SwitchOff, called_by),
            (_, true) => self.run(vm, Running { effect, nth: 0, called_by, doing: Doing::Kept }),
            (call, false) => {
                let again = if call == Call::SwitchOff { Call::StopSource } else { Call::Serve };
                let nth = self.site.push_pause(self.site.world.now + WATCH_MS, vm);
                let doing = Doing::Keeping(again, None);
                self.run(vm, Running { effect, nth, called_by, doing });
            }
        }
    }

    fn work_done(
        &mut self,
        vm: usize,
        work: Work,
        done: Result<Done, Failure>,
        called_by: Option<u64>,
    ) {
        let source = self.vms[vm].source.take();
        let world = &self.site.world;
        let command = match (done, work) {
            (Err(failure), work) => vm::Command::ReportFailure { work, failure },
            (Ok(Done::Fenced { found }), Work::Task { job, task, step: Step::FenceSource }) => {
                let source = source.unwrap_or(SourceEnd::ShutDown);
                let outcome = Done::SourceFenced { found, source, unsent: None };
                vm::Command::ReportDone { job, task, outcome }
            }
            (Ok(outcome), Work::Task { job, task, .. }) => {
                vm::Command::ReportDone { job, task, outcome }
            }
            (Ok(_), Work::Snapshot { cycle }) => {
                let log_bytes = world.cut_bytes(vm);
                vm::Command::ReportSnapshot { cycle, at: world.wall(), log_bytes }
            }
            (Ok(_), Work::Ship { cycle, .. }) => {
                vm::Command::ReportShipped { cycle, shipped_bytes: world.shipped_bytes(vm) }
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
        let changed = self.tell_vm(vm, command, origin).unwrap_or(false);
        if !changed && self.site.vms[vm].state.calls_for(&effect) {
            self.vms[vm].running.retain(|running| running.effect != effect);
            let at = self.site.world.now + IDLE_PAUSE.as_millis() as u64;
            let nth = self.site.push_pause(at, vm);
            self.run(vm, Running { effect, nth, called_by, doing: Doing::Pause });
        }
    }
}

/// Watching hosts and the vault.
impl LoopService {
    fn watch_host(&mut self, host: usize) {
        let calls = self.site.hosts[host].state.pending().contains(&host::Effect::Watch);
        let watching = &mut self.hosts[host];
        if calls && watching.watch.is_none() {
            watching.begin(self.site.push_heartbeat(0, host));
        }
    }

    fn watch_vault(&mut self) {
        let calls = self.site.vault.state.pending().contains(&vault::Effect::Watch);
        if calls && self.vault.watch.is_none() {
            self.vault.begin(self.site.push_probe(0));
        }
    }

    fn host_answers(&mut self, host: usize, nth: u64) {
        if let Some(vm) = self.asked.remove(&nth) {
            return self.work_due(vm, nth);
        }
        let Some(Watch { called_by, .. }) = self.hosts[host].that_waits_for(nth) else { return };
        let answer = self.site.world.heartbeat(host);
        let pause_ms = self.hosts[host].pause(answer.is_ok(), WATCH_MS);
        self.hosts[host].waits_for(self.site.push_heartbeat(pause_ms, host));
        let command = match answer {
            Ok(()) => host::Command::ReportHeartbeat,
            Err(failure) => host::Command::ReportSilence { failure },
        };
        // What it changes is in the log; that it changes nothing is no news.
        _ = self.tell_host(host, command, Origin::called(Host::WORKER, called_by));
    }

    fn vault_answers(&mut self, nth: u64) {
        let Some(Watch { called_by, .. }) = self.vault.that_waits_for(nth) else { return };
        let answer = self.site.world.probed();
        let pause_ms = self.vault.pause(answer.is_ok(), LONGEST_PAUSE_MS);
        self.vault.waits_for(self.site.push_probe(pause_ms));
        let command = match answer {
            Ok(()) => vault::Command::ReportReachable,
            Err(failure) => vault::Command::ReportUnreachable { failure },
        };
        // As for a host.
        _ = self.tell_vault(command, Origin::called(Vault::WORKER, called_by));
    }
}

impl Watching {
    fn begin(&mut self, nth: u64) {
        self.watch = Some(Watch { nth, called_by: self.last });
        self.pause_ms = WATCH_MS;
    }

    fn waits_for(&mut self, nth: u64) {
        self.watch = self.watch.map(|watch| Watch { nth, ..watch });
    }

    fn that_waits_for(&self, nth: u64) -> Option<Watch> {
        self.watch.filter(|watch| watch.nth == nth)
    }

    /// How long to pause after an answer, as `actors/hosted/watch.rs` has it: longer while answers come and go.
    fn pause(&mut self, answers: bool, longest_ms: u64) -> u64 {
        let changed = self.answered.is_some_and(|before| before != answers);
        let pause_ms = if changed { self.pause_ms * 2 } else { self.pause_ms / 2 };
        self.pause_ms = pause_ms.clamp(WATCH_MS, longest_ms);
        self.answered = Some(answers);
        self.pause_ms
    }
}

/// Telling entities.
impl LoopService {
    fn deliver(&mut self) {
        while let Some(mail) = self.mail.pop_front() {
            match mail {
                // A command that is refused has no effect, and nobody waits for the answer.
                Mail::Command(to, command, origin) => _ = self.told(to, command, origin),
                Mail::Done { vm, nth } => self.work_due(vm, nth),
            }
        }
    }

    fn told(&mut self, to: StreamId, command: Entry, origin: Origin) -> Result<(), Rejection> {
        match command {
            Entry::Vm { command, .. } => match self.site.place(to.id) {
                Some(vm) => self.tell_vm(vm, command, origin).map(|_| ()),
                None => Ok(()),
            },
            Entry::Host { command, .. } => match self.site.host(to.id) {
                Some(host) => self.tell_host(host, command, origin),
                None => Ok(()),
            },
            Entry::Vault { command, .. } => self.tell_vault(command, origin),
            Entry::Cloud { command, .. } => self.tell_cloud(command, origin),
            Entry::Plan { .. } | Entry::Fabric { .. } => Ok(()),
        }
    }

    /// Tells a VM something; answers whether that changed anything.
    fn tell_vm(
        &mut self,
        vm: usize,
        command: vm::Command,
        origin: Origin,
    ) -> Result<bool, Rejection> {
        let at = self.site.world.wall();
        let stream = &self.site.vms[vm];
        let Some(commit) = decided(stream, command, origin, at)? else { return Ok(false) };
        let commit = self.site.append_of_vm(vm, commit);
        self.vms[vm].last = Some(commit.global);
        self.supervise(&commit);
        self.align(vm);
        Ok(true)
    }

    fn tell_host(
        &mut self,
        host: usize,
        command: host::Command,
        origin: Origin,
    ) -> Result<(), Rejection> {
        let at = self.site.world.wall();
        let commit = decided(&self.site.hosts[host], command, origin, at)?;
        let Some(commit) = commit.and_then(|commit| self.site.append(commit).ok()) else {
            return Ok(());
        };
        self.hosts[host].last = Some(commit.global);
        self.supervise(&commit);
        self.watch_host(host);
        Ok(())
    }

    fn tell_vault(&mut self, command: vault::Command, origin: Origin) -> Result<(), Rejection> {
        let at = self.site.world.wall();
        let commit = decided(&self.site.vault, command, origin, at)?;
        let Some(commit) = commit.and_then(|commit| self.site.append(commit).ok()) else {
            return Ok(());
        };
        self.vault.last = Some(commit.global);
        self.supervise(&commit);
        self.watch_vault();
        Ok(())
    }

    fn tell_cloud(&mut self, command: cloud::Command, origin: Origin) -> Result<(), Rejection> {
        let at = self.site.world.wall();
        let commit = decided(&self.site.cloud, command, origin, at)?;
        let Some(commit) = commit.and_then(|commit| self.site.append(commit).ok()) else {
            return Ok(());
        };
        let Stream { id, state, .. } = &self.site.cloud;
        for cloud::Effect::HandPolicy { vm, revision } in state.pending() {
            let causation = Some(commit.global);
            let handed = vm::Command::ChangePolicy { policy: state.policy };
            let origin = Origin::called(&id.to_string(), causation);
            let to = StreamId { kind: Kind::Vm, id: vm.0 };
            self.mail.push_back(Mail::Command(to, Vm::entry(handed, vec![]), origin));
            let taken = cloud::Command::ReportPolicyTaken { vm, revision };
            let origin = Origin::called(Cloud::WORKER, causation);
            self.mail.push_back(Mail::Command(*id, Cloud::entry(taken, vec![]), origin));
        }
        Ok(())
    }

    /// What the supervisor does about a commit.
    fn supervise(&mut self, commit: &Commit) {
        if !RetrySupervision::is_concerned(&commit.entry) {
            return;
        }
        let vms = self.ids.iter().map(|(id, _)| *id);
        for (to, command) in self.retries.committed(commit, vms) {
            self.mail.push_back(Mail::Command(to, command, Origin::caused_by(commit)));
        }
    }
}

/// What an entity decides about a command, as a commit; `None` where it changes nothing.
fn decided<E: Hosted>(
    stream: &Stream<E>,
    command: E::Command,
    origin: Origin,
    at: Timestamp,
) -> Result<Option<NewCommit>, Rejection> {
    let events = stream.state.decide(&command, at)?;
    if events.is_empty() {
        return Ok(None);
    }
    Ok(Some(NewCommit {
        stream: stream.id,
        expected_seq: stream.seq,
        at,
        actor: origin.actor,
        correlation: origin.correlation.or_else(|| stream.state.running_job()),
        causation: origin.causation,
        entry: E::entry(command, events),
    }))
}
