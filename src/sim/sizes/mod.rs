//! Fidelity `sizes`: the entities and the rules of retries as they are, over a world of sizes and rates, for fleets
//! and for months. No disks and no objects: whatever takes time is an entry of one queue.
//!
//! ```text
//!   Fleet: timeline, faults, operators
//!      |                    |
//!      v                    v
//!   Service: LoopService or ActorService --> Site: World, what is due, the log with the Judge that reads it
//! ```
//!
//! One thing that is due is dealt with at a time, with all that follows from it, before the next: so both drivers write
//! the same log. What needs bytes cannot be checked here, and the outcome says so. An event is durable when it is
//! decided. The hash of the log is that of all commits; the commits themselves are kept only while they are few.

mod actors;
mod calls;
mod event_loop;
mod judge;
mod site;
mod world;

use super::driver::Driver;
use super::ghost::Invariant;
use super::report::{Ended, Outcome, Ran};
use super::run::{
    ADMINISTRATOR_AFTER, Change, RunError, RunOptions, WATCH_INTERVAL, changes, operation,
};
use super::scenario::{Deed, Scenario, Step};
use crate::domain::cloud::{self, Cloud};
use crate::domain::entity::{Entity, Entry, StreamId};
use crate::domain::host::{self, Host};
use crate::domain::id::JobId;
use crate::domain::vault::{self, Vault};
use crate::domain::vm::{self, Phase, RetryReason, Vm};
use actors::ActorService;
use event_loop::LoopService;
use site::{Site, What};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::DerefMut;
use world::World;

/// Time between two looks at a host or the vault, in milliseconds.
const WATCH_MS: u64 = WATCH_INTERVAL.as_millis() as u64;

/// Invariants that need bytes.
const UNCHECKED: &[Invariant] = &[Invariant::Durability, Invariant::Restorable];

/// Runs a scenario of sizes.
pub(super) fn run(scenario: &Scenario, options: RunOptions) -> Result<Outcome, RunError> {
    let site = Site::new(scenario, options.seed);
    Ok(match options.driver {
        Driver::Loop => Fleet::new(scenario, options.seed, LoopService::new(site)).run(),
        Driver::Actix => Fleet::new(scenario, options.seed, ActorService::new(site)?).run(),
    })
}

/// What runs the entities. All that follows from what it is told has been done when it returns.
trait Service {
    /// What it acts on. Must be let go of before the service is asked for anything.
    fn site(&mut self) -> impl DerefMut<Target = Site>;

    /// Begins a life: it finds its place in the log, and takes up the work that it calls for.
    fn start(&mut self);

    /// Ends it at this instant; nothing of it goes on.
    fn kill(&mut self);

    /// Tells an entity something; answers why it refused, if so.
    fn tell(&mut self, stream: StreamId, command: Entry, who: &str) -> Result<(), String>;

    /// Lets time pass until something is due, or until a moment.
    fn next(&mut self, until: u64) -> Option<What>;

    /// Deals with something that is due.
    fn due(&mut self, what: What);

    /// Looks, at the end, whether its entities are what the log tells.
    fn look_back(&mut self);
}

struct Fleet<'a, S> {
    scenario: &'a Scenario,
    seed: u64,
    service: S,
    runs: bool,
    steps: Vec<Step>,
    timeline: Vec<(u64, Change)>,
    active: BTreeMap<usize, Step>,
    remarks: Vec<(u64, String)>,
}

impl<'a, S: Service> Fleet<'a, S> {
    fn new(scenario: &'a Scenario, seed: u64, service: S) -> Self {
        let steps: Vec<Step> = scenario.timeline().into_iter().cloned().collect();
        let timeline = changes(&steps, scenario.duration.0);
        let (active, remarks) = (BTreeMap::new(), Vec::new());
        Self { scenario, seed, service, runs: false, steps, timeline, active, remarks }
    }

    fn run(mut self) -> Outcome {
        let end = self.scenario.duration.0;
        for (index, (at, _)) in self.timeline.iter().enumerate() {
            self.service.site().push_change(*at, What::Change(index));
        }
        let heals = end + ADMINISTRATOR_AFTER.as_millis() as u64;
        self.service.site().push_change(heals, What::Administrator);
        self.service.site().look_at_replicas();
        self.start_service();
        while let Some(what) = self.service.next(end + self.scenario.settle.0) {
            match what {
                What::Change(index) => match self.timeline[index].1 {
                    Change::Begins(step) => self.begin_step(step),
                    Change::Ends(step) => self.end_step(step),
                },
                What::Administrator => self.heal(),
                What::Look => self.service.site().look_at_replicas(),
                of_service => self.service.due(of_service),
            }
        }
        self.service.look_back();
        self.outcome()
    }

    fn remark(&mut self, text: String) {
        let now = self.service.site().world.now;
        self.remarks.push((now, text));
    }

    fn hosts_called(&mut self, name: Option<&str>) -> Vec<usize> {
        let site = self.service.site();
        let hosts = site.world.hosts.iter().enumerate();
        hosts.filter(|(_, host)| name.is_none_or(|it| it == host.name)).map(|it| it.0).collect()
    }

    fn vms_called(&mut self, name: Option<&str>) -> Vec<usize> {
        let site = self.service.site();
        let guests = site.world.guests.iter().enumerate();
        guests.filter(|(_, guest)| name.is_none_or(|it| it == guest.name)).map(|it| it.0).collect()
    }

    fn begin_step(&mut self, index: usize) {
        let step = self.steps[index].clone();
        let now = self.service.site().world.now;
        if step.first_begins(now) {
            self.remark(step.to_string());
        }
        let deed = *step.r#do.get_ref();
        if deed.is_operation() {
            for vm in self.vms_called(step.vm()) {
                let command = {
                    let site = self.service.site();
                    let (id, now) = (site.world.guests[vm].id, site.world.wall());
                    operation(&step, id, &site.vms[vm].state, now)
                };
                self.tell_vm(vm, command, "operator");
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
                        self.service.site().world.host_down(host, deed == Deed::PowerLoss);
                    }
                }
            }
            _ => self.weather(),
        }
    }

    fn end_step(&mut self, index: usize) {
        let Some(step) = self.active.remove(&index) else { return };
        let deed = *step.r#do.get_ref();
        let now = self.service.site().world.now;
        if step.last_ends(now, self.scenario.duration.0) {
            self.remark(format!("{} ends", deed.word()));
        }
        match deed {
            Deed::KillService if !self.killed() => self.start_service(),
            Deed::KillHost | Deed::PowerLoss => {
                let still_down = self.hosts_down();
                for host in self.hosts_called(step.host()) {
                    if !still_down.contains(&host) {
                        self.service.site().world.hosts[host].up = true;
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

    fn hosts_down(&mut self) -> BTreeSet<usize> {
        let is_down =
            |step: &&Step| matches!(step.r#do.get_ref(), Deed::KillHost | Deed::PowerLoss);
        let down: Vec<_> = self.active.values().filter(is_down).cloned().collect();
        down.iter().flat_map(|step| self.hosts_called(step.host())).collect()
    }

    fn weather(&mut self) {
        self.service.site().world.change_weather(&self.active.values());
        self.look_at_trackers();
    }

    fn attach_host(&mut self, host: usize) {
        if !self.runs {
            return;
        }
        self.attach(|on| on == host);
        self.look_at_trackers();
    }

    /// Attaches the guests of hosts.
    fn attach(&mut self, is_meant: impl Fn(usize) -> bool) {
        let mut site = self.service.site();
        for vm in 0..site.vms.len() {
            if is_meant(site.world.guests[vm].host) {
                let may_run = site.vms[vm].state.may_run_at_primary();
                site.world.attach(vm, may_run);
            }
        }
    }

    /// What broke trackers is seen at once.
    fn look_at_trackers(&mut self) {
        let vms = self.service.site().vms.len();
        for vm in 0..vms {
            let look = self.service.site().broken_tracker(vm);
            if let Some(look) = look {
                self.service.due(look);
            }
        }
    }

    fn kill_service(&mut self) {
        self.runs = false;
        for host in self.hosts_called(None) {
            self.service.site().world.agents_die(host);
        }
        self.service.kill();
    }

    /// Starts the service; it is told its configuration, as each time.
    fn start_service(&mut self) {
        self.runs = true;
        self.attach(|_| true);
        self.service.start();
        let (id, policy) = (World::cloud(), self.scenario.site.policy());
        let vault = self.service.site().world.vault;
        let name = "vault".to_owned();
        self.configure::<Vault>(vault.0, vault::Command::Create { id: vault, name });
        let name = "cloud".to_owned();
        self.configure::<Cloud>(id.0, cloud::Command::Create { id, name });
        self.configure::<Cloud>(id.0, cloud::Command::ConfigurePolicy { policy });
        for host in self.hosts_called(None) {
            self.enrol_host(host);
        }
        for vm in self.vms_called(None) {
            self.enrol_vm(vm);
        }
    }

    fn enrol_host(&mut self, host: usize) {
        let cloud = World::cloud();
        let (id, name) = {
            let site = self.service.site();
            (site.world.hosts[host].id, site.world.hosts[host].name.clone())
        };
        self.configure::<Host>(id.0, host::Command::Register { id, name, cloud });
        self.configure::<Cloud>(cloud.0, cloud::Command::AddHost { host: id });
    }

    fn enrol_vm(&mut self, vm: usize) {
        let (cloud, policy) = (World::cloud(), self.scenario.site.policy());
        let (discover, vault, id) = {
            let site = self.service.site();
            let guest = &site.world.guests[vm];
            let (id, name, disks) = (guest.id, guest.name.clone(), guest.disks.clone());
            let host = site.world.hosts[guest.host].id;
            (vm::Command::Discover { id, name, host, cloud, disks }, site.world.vault, id)
        };
        self.tell_vm(vm, discover, "configuration");
        let window = self.scenario.site.resync_window.0;
        self.tell_vm(vm, vm::Command::ConfigureResyncWindow { window }, "configuration");
        let (phase, jobs) = {
            let site = self.service.site();
            (site.vms[vm].state.phase.clone(), site.vms[vm].state.jobs)
        };
        if phase == Phase::Unprotected && jobs == 0 {
            let job = JobId::derived(id.0, jobs);
            let enable = vm::Command::EnableProtection { job, vault, policy };
            self.tell_vm(vm, enable, "configuration");
        }
        self.try_again(vm);
        self.configure::<Cloud>(cloud.0, cloud::Command::AddVm { vm: id });
    }

    /// The faults have ended: whoever is needed comes and has everything tried again.
    fn heal(&mut self) {
        self.active.clear();
        self.weather();
        self.attach(|_| true);
        for vm in self.vms_called(None) {
            self.try_again(vm);
        }
    }

    fn try_again(&mut self, vm: usize) {
        let because = RetryReason::Administrator;
        self.tell_vm(vm, vm::Command::Retry { because }, "configuration");
    }

    fn configure<E: Entity>(&mut self, id: uuid::Uuid, command: E::Command) {
        let stream = StreamId { kind: E::KIND, id };
        self.tell(stream, E::entry(command, vec![]), "configuration");
    }

    fn tell_vm(&mut self, vm: usize, command: vm::Command, who: &str) {
        let stream = self.service.site().vms[vm].id;
        self.tell(stream, Vm::entry(command, vec![]), who);
    }

    fn tell(&mut self, stream: StreamId, command: Entry, who: &str) {
        if !self.runs {
            return self.remark(format!("{who} does not reach the service"));
        }
        if let Err(because) = self.service.tell(stream, command, who) {
            self.remark(format!("{who}: {because}"));
        }
    }

    fn outcome(mut self) -> Outcome {
        let mut site = self.service.site();
        let site = &mut *site;
        let (now, at) = (site.world.now, site.world.wall());
        for (index, vm) in site.vms.iter().enumerate() {
            site.judge.end(index, &vm.state, now, at);
        }
        if !self.runs {
            let what = "the service does not run".to_owned();
            site.judge.violation(now, Invariant::Convergence, what);
        }
        let figures = std::mem::take(&mut site.judge.figures);
        let ended = site.vms.iter().zip(figures).enumerate().map(|(index, (vm, figures))| {
            let name = site.world.guests[index].name.clone();
            Ended::new(name, vm.state.clone(), at, site.world.lost(index), figures)
        });
        let ended = ended.collect();
        let commits = site.judge.commits();
        let (log_hash, log, violations) = site.judge.close();
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
