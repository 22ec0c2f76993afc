//! One run: a scenario with a seed, from the first event to the verdict.

mod second;
mod sites;

use super::driver::{Driver, Service, State};
use super::errands::Errands;
use super::ghost::Invariant;
use super::journal::Journal;
use super::observer::Observer;
use super::outside::{Outside, Room, Standing, added_disk};
use super::plans::{definition, plan_id, run_kind};
use super::plant::Plant;
use super::ports::{DataPlane, PrimarySite, RecoveryHypervisors};
use super::proof;
use super::quantity::Span;
use super::report::{self, Outcome};
use super::scenario::{Deed, Fidelity, Scenario, Schedule, Step};
use super::sizes;
use crate::actors::{Origin, World};
use crate::disk::raw::SECTOR_BYTES;
use crate::domain::cloud;
use crate::domain::entity::{Entity, Entry, Kind, StreamId};
use crate::domain::fabric;
use crate::domain::host;
use crate::domain::id::{CloudId, FabricId, HostId, JobId, PlanId, VaultId, VmId};
use crate::domain::plan::{self, Plan};
use crate::domain::time::Timestamp;
use crate::domain::vault;
use crate::domain::vm::Phase;
use crate::domain::vm::{self, AfterFailover, PointChoice, RetryReason, Vm};
use crate::ports::clock::Clock;
use crate::ports::event_store::{EventStore, StoreError};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, sleep_until};

/// Time between two passes over the space of a VM's replica.
const RECLAIM_INTERVAL: Duration = Duration::from_mins(5);

/// Time between two looks at hosts and vaults; that of the service.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Time between two looks at every VM's health.
const LOOK: Duration = Duration::from_secs(10);

/// How long a source may run beside its replica while its host is within reach.
pub(super) const TWO_PRIMARIES_MS: u64 = 5 * 60_000;

/// When after the end of the faults an administrator has everything tried again.
pub(super) const ADMINISTRATOR_AFTER: Duration = Duration::from_mins(1);

/// Recovery points of a VM that are proven at the end, spread over all.
const PROVEN_AT_END: usize = 8;

/// How a run is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// What runs the entities.
    pub driver: Driver,
    /// A bug that a checker must find.
    pub plant: Option<Plant>,
}

/// Why there is no outcome.
#[derive(Debug, Error)]
pub enum RunError {
    /// The machine does not give what a run needs.
    #[error("start a simulation")]
    Start(#[from] io::Error),
    /// The log of the run cannot be read.
    #[error("read the log of a simulation")]
    Log(#[from] StoreError),
}

/// Runs a scenario. The same scenario and options give the same outcome, wherever it is.
///
/// # Errors
/// [`RunError`]; what goes wrong in the simulated world is part of the outcome.
pub fn run(scenario: &Scenario, options: RunOptions) -> Result<Outcome, RunError> {
    if scenario.fidelity == Fidelity::Sizes {
        return sizes::run(scenario, options);
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    LocalSet::new().block_on(&runtime, async { Run::start(scenario, options)?.finish().await })
}

/// A run under way. Clones are the same run.
#[derive(Clone)]
struct Run {
    scenario: Rc<Scenario>,
    options: RunOptions,
    outside: Arc<Outside>,
    journal: Arc<Journal>,
    service: Rc<RefCell<Option<Rc<dyn Service>>>>,
    /// Faults that have begun and not ended, by their place in the timeline.
    active: Rc<RefCell<BTreeMap<usize, Step>>>,
    remarks: Rc<RefCell<Vec<(u64, String)>>>,
    /// Second services that are to start, or run, by their place in the timeline.
    seconds: Rc<RefCell<BTreeMap<usize, second::Second>>>,
}

/// Something of the timeline at its moment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Begins(usize),
    Ends(usize),
}

impl Run {
    fn start(scenario: &Scenario, options: RunOptions) -> Result<Self, RunError> {
        let outside = Outside::new(scenario, options.seed, options.plant)?;
        let journal = Arc::new(Journal::new(Arc::clone(&outside), Observer::default()));
        Ok(Self::of(Rc::new(scenario.clone()), options, outside, journal))
    }

    /// A run in which nothing has happened yet.
    fn of(
        scenario: Rc<Scenario>,
        options: RunOptions,
        outside: Arc<Outside>,
        journal: Arc<Journal>,
    ) -> Self {
        Self {
            scenario,
            options,
            outside,
            journal,
            service: Rc::default(),
            active: Rc::default(),
            remarks: Rc::default(),
            seconds: Rc::default(),
        }
    }

    async fn finish(self) -> Result<Outcome, RunError> {
        self.start_service().await;
        self.run_guests(|| true);
        spawn_local(self.clone().watch());
        self.timeline().await;
        self.heal().await;
        let end = self.scenario.duration.0 + self.scenario.settle.0;
        // What is due at the last moment is done, whichever comes first of it and the end.
        sleep_until(self.outside.clock.moment(end + 1)).await;
        self.judge().await;
        let outcome = report::outcome(
            &self.scenario,
            self.options.seed,
            &self.outside,
            &self.journal,
            self.remarks.take(),
        )?;
        self.outside.close();
        Ok(outcome)
    }

    /// Lets every guest act in its turn, as long as they are to.
    fn run_guests(&self, go_on: impl Fn() -> bool + Clone + 'static) {
        for vm in self.outside.vm_ids() {
            let (outside, standing) = (Arc::clone(&self.outside), self.standing());
            let go_on = go_on.clone();
            spawn_local(async move {
                while go_on() {
                    sleep(Duration::from_millis(outside.pause_ms(vm))).await;
                    outside.guest_turn(vm, standing(vm));
                }
            });
        }
    }

    fn remark(&self, text: String) {
        self.remarks.borrow_mut().push((self.outside.clock.passed_ms(), text));
    }

    /// Starts the service, which finds its place in the log, and tells it the configuration.
    async fn start_service(&self) {
        let engine = self.outside.begin_life(&self.standing());
        let outside = &self.outside;
        let world = Arc::new(World {
            store: Arc::clone(&self.journal) as Arc<dyn EventStore>,
            clock: Arc::clone(&outside.clock) as Arc<dyn Clock>,
            replication: Arc::new(DataPlane::new(Arc::clone(outside), engine)),
            primary: Arc::new(PrimarySite(Arc::clone(outside))),
            recovery: Arc::new(RecoveryHypervisors(Arc::clone(outside))),
            actions: Arc::new(Errands(Arc::clone(outside))),
            watch_interval: WATCH_INTERVAL,
            reclaim_interval: RECLAIM_INTERVAL,
        });
        let shuffle =
            (self.scenario.schedule == Schedule::Shuffle).then(|| Arc::clone(&self.outside.dice));
        let service = self.options.driver.start(world, shuffle).await;
        *self.service.borrow_mut() = Some(service);
        self.enrol().await;
    }

    /// What VMs may do at the primary site, by the log; as the service decides it at its start.
    fn standing(&self) -> impl Fn(VmId) -> Standing + use<> {
        let (journal, outside) = (Arc::clone(&self.journal), Arc::clone(&self.outside));
        move |vm| {
            let observer = journal.observer();
            let Some(vm) = observer.past.site.vms.get(&vm) else { return Standing::Runs };
            outside.know(vm);
            match vm {
                vm if vm.may_run_at_primary() => Standing::Runs,
                // A failover may still have to send what its source wrote last.
                vm if vm.needs_disks_of_source() => Standing::Tracked,
                _ => Standing::Away,
            }
        }
    }

    /// What the service does with its configuration at each start.
    async fn enrol(&self) {
        let outside = &self.outside;
        let (cloud, vault) = (outside.cloud, outside.vault);
        let policy = self.scenario.site.policy();
        let name = "vault".to_owned();
        self.configure(Kind::Vault, vault.0, vault::Command::Create { id: vault, name }).await;
        let name = "cloud".to_owned();
        self.configure(Kind::Cloud, cloud.0, cloud::Command::Create { id: cloud, name }).await;
        self.configure(Kind::Cloud, cloud.0, cloud::Command::ConfigurePolicy { policy }).await;
        for (id, name) in outside.host_ids().into_iter().filter(|(id, _)| self.admits(*id)) {
            self.configure(Kind::Host, id.0, host::Command::Register { id, name, cloud }).await;
            let cluster = outside.cluster_of(id);
            self.configure(Kind::Host, id.0, host::Command::JoinCluster { cluster }).await;
            self.configure(Kind::Cloud, cloud.0, cloud::Command::AddHost { host: id }).await;
        }
        self.describe_sites().await;
        for id in outside.vm_ids() {
            let machine = outside.machine(id);
            let (name, host, disks) = (machine.name, machine.host, machine.disks);
            if !self.admits(host) {
                continue;
            }
            let discover = vm::Command::Discover { id, name, host, cloud, disks };
            self.configure(Kind::Vm, id.0, discover).await;
            // Where a cluster has it, if the service died before it heard of that.
            if outside.share_disks(self.known(id).host, host) {
                self.configure(Kind::Vm, id.0, vm::Command::ReportMoved { host }).await;
            }
            if let Some(machine) = machine.described {
                self.configure(Kind::Vm, id.0, vm::Command::Describe { machine }).await;
            }
            let window = self.scenario.site.resync_window.0;
            self.configure(Kind::Vm, id.0, vm::Command::ConfigureResyncWindow { window }).await;
            let known = self.known(id);
            if known.phase == Phase::Unprotected && known.jobs == 0 {
                let job = JobId::derived(id.0, known.jobs);
                let enable = vm::Command::EnableProtection { job, vault, policy };
                self.configure(Kind::Vm, id.0, enable).await;
            }
            let because = RetryReason::Administrator;
            self.configure(Kind::Vm, id.0, vm::Command::Retry { because }).await;
            self.configure(Kind::Cloud, cloud.0, cloud::Command::AddVm { vm: id }).await;
        }
        self.define_plans().await;
    }

    async fn configure(&self, kind: Kind, id: uuid::Uuid, command: impl IntoEntry) {
        self.tell(StreamId { kind, id }, command.into_entry(), "configuration").await;
    }

    async fn tell(&self, stream: StreamId, command: Entry, who: &str) {
        let service = self.service.borrow().clone();
        let Some(service) = service else {
            return self.remark(format!("{who} does not reach the service"));
        };
        if let Err(error) = service.tell(stream, command, Origin::of(who)).await {
            self.remark(format!("{who}: {error}"));
        }
    }

    fn known(&self, vm: VmId) -> Vm {
        self.journal.observer().past.site.vms.get(&vm).cloned().unwrap_or_default()
    }

    /// Carries the timeline out; returns at its end, when every fault has ended.
    async fn timeline(&self) {
        let steps: Vec<Step> = self.scenario.timeline().into_iter().cloned().collect();
        let end = self.scenario.duration.0;
        self.prepare_second_services(&steps);
        for (at, change) in changes(&steps, end) {
            sleep_until(self.outside.clock.moment(at)).await;
            match change {
                Change::Begins(index) => self.begin(index, &steps[index], at).await,
                Change::Ends(index) => self.end(index, &steps[index], at).await,
            }
        }
        sleep_until(self.outside.clock.moment(end)).await;
    }

    async fn begin(&self, index: usize, step: &Step, at: u64) {
        let deed = *step.r#do.get_ref();
        if step.first_begins(at) {
            self.remark(step.to_string());
        }
        if deed.is_operation() {
            return self.operate(step);
        }
        let was_down = self.is_down();
        let hosts_down = self.hosts_down();
        self.active.borrow_mut().insert(index, step.clone());
        match deed {
            Deed::KillService if !was_down => self.kill_service().await,
            Deed::StopService if !was_down => self.stop_service().await,
            Deed::SecondService => self.start_second_service(index).await,
            Deed::EditDisk => self.edit_disks(step),
            Deed::KillHost | Deed::PowerLoss => {
                for host in self.outside.hosts_called(step.host()) {
                    if !hosts_down.contains(&host) {
                        self.outside.host_down(host, deed == Deed::PowerLoss);
                        self.let_cluster_take_over(host);
                    }
                }
            }
            Deed::JumpClock => {
                let forward = step.forward.map_or(0, |span| span.0 as i64);
                let back = step.back.map_or(0, |span| span.0 as i64);
                self.journal.observer().clock_was_set = true;
                self.outside.clock.set_wall(forward - back);
            }
            Deed::RotVault => {
                for vm in self.outside.vms_called(step.vm()) {
                    self.rot(vm).await;
                }
            }
            _ => self.weather(),
        }
    }

    async fn end(&self, index: usize, step: &Step, at: u64) {
        self.active.borrow_mut().remove(&index);
        let deed = *step.r#do.get_ref();
        if deed.is_instant() {
            return;
        }
        if step.last_ends(at, self.scenario.duration.0) {
            self.remark(format!("{} ends", deed.word()));
        }
        match deed {
            Deed::KillService | Deed::StopService if !self.is_down() => self.start_service().await,
            Deed::SecondService => self.end_second_service(index).await,
            Deed::KillHost | Deed::PowerLoss => {
                let still_down = self.hosts_down();
                for host in self.outside.hosts_called(step.host()) {
                    if !still_down.contains(&host) {
                        self.outside.host_up(host, &self.standing());
                    }
                }
            }
            _ => self.weather(),
        }
    }

    async fn kill_service(&self) {
        self.outside.doom_life();
        let service = self.service.borrow_mut().take();
        if let Some(service) = service {
            service.kill().await;
        }
        self.outside.end_life();
    }

    async fn stop_service(&self) {
        let service = self.service.borrow_mut().take();
        if let Some(service) = service {
            service.kill().await;
        }
        self.outside.close_life();
    }

    fn edit_disks(&self, step: &Step) {
        let standing = self.standing();
        for vm in self.outside.vms_called(step.vm()) {
            if let Err(because) = self.outside.edit_disks(vm, standing(vm)) {
                let name = self.outside.machine(vm).name;
                self.remark(format!("nobody can edit the disks of {name}: {because}"));
            }
        }
    }

    fn is_down(&self) -> bool {
        let active = self.active.borrow();
        let ends = |deed| matches!(deed, Deed::KillService | Deed::StopService);
        active.values().any(|step| ends(*step.r#do.get_ref()))
    }

    fn hosts_down(&self) -> BTreeSet<crate::domain::id::HostId> {
        let active = self.active.borrow();
        let down = active
            .values()
            .filter(|step| matches!(step.r#do.get_ref(), Deed::KillHost | Deed::PowerLoss));
        down.flat_map(|step| self.outside.hosts_called(step.host())).collect()
    }

    /// Makes the world as the active faults say.
    fn weather(&self) {
        let active = self.active.borrow();
        let of = |deed: Deed| active.values().filter(move |step| *step.r#do.get_ref() == deed);
        let percent = |deed| of(deed).filter_map(|step| step.percent).max().unwrap_or(0);
        let outside = &self.outside;
        let cut = of(Deed::CutLink).chain(of(Deed::FlapLink));
        let cut = cut.flat_map(|step| outside.hosts_called(step.host())).collect();
        outside.storage.change_weather(|weather| {
            weather.unreachable = of(Deed::VaultUnreachable).next().is_some();
            weather.cut = cut;
            weather.refuses = of(Deed::ExpireCredentials).next().is_some();
            weather.full = of(Deed::FillVault).next().is_some();
            weather.throttled = percent(Deed::ThrottleVault);
            weather.failing = percent(Deed::FailVault);
            weather.lossy = percent(Deed::LossyLink);
            weather.answers_lost = percent(Deed::LoseAnswers);
            weather.gates_shut = of(Deed::ShutGates).next().is_some();
            weather.scripts_fail = of(Deed::FailScripts).next().is_some();
            weather.provider_silent = of(Deed::SilenceProvider).next().is_some();
        });
        let rtt = of(Deed::SlowLink).filter_map(|step| step.rtt).max();
        outside.set_rtt(rtt.unwrap_or(self.scenario.site.rtt).0);
        let hosts = |deed| -> BTreeSet<_> {
            of(deed).flat_map(|step| outside.hosts_called(step.host())).collect()
        };
        let (isolated, full) = (hosts(Deed::IsolateHost), hosts(Deed::FillDisk));
        let crowded = hosts(Deed::CrowdDisk);
        for (host, _) in outside.host_ids() {
            outside.set_managed(host, !isolated.contains(&host));
            let room = match (full.contains(&host), crowded.contains(&host)) {
                (true, _) => Room::None,
                (false, true) => Room::Little,
                (false, false) => Room::Enough,
            };
            outside.set_room(host, room);
        }
        let failing: BTreeSet<_> =
            of(Deed::FailDisk).flat_map(|step| outside.vms_called(step.vm())).collect();
        for vm in outside.vm_ids() {
            outside.set_failing(vm, failing.contains(&vm));
        }
    }

    /// A bit of the newest segment of each disk flips.
    async fn rot(&self, vm: VmId) {
        self.outside.ghost.rotted(vm);
        for disk in self.outside.machine(vm).disks {
            let named = self.outside.storage.named(&format!("{}/log/", disk.id)).await;
            if let Some(object) = named.last() {
                let at = self.outside.dice.next("rot");
                self.outside.storage.rot(object, at).await;
            }
        }
    }

    /// An operator acts and does not wait for the answer.
    fn operate(&self, step: &Step) {
        match step.r#do.get_ref() {
            deed if deed.is_of_plan() => return self.operate_plan(step),
            Deed::MoveVm => return self.order_move(step),
            Deed::ChangePolicy => return self.change_policy(step),
            Deed::MapNetwork => return self.map_network(step),
            Deed::RegisterHost => return self.register_host(step),
            _ => {}
        }
        for vm in self.outside.vms_called(step.vm()) {
            let known = self.known(vm);
            if step.source_is_gone() && self.outside.answers(known.host) {
                self.remark(format!(
                    "protection of {} does not end without its host, which answers",
                    known.name
                ));
                continue;
            }
            let mut command = operation(step, vm, &known, self.outside.clock.now());
            if let vm::Command::AddDisk { disk, image, .. } = &command
                && let Err(error) = self.outside.make_image(vm, disk, image)
            {
                self.remark(format!("nobody can make image {image}: {error}"));
            }
            if let vm::Command::TestFailover { network, .. } = &mut command {
                *network = self.scenario.site.test_network();
            }
            if let vm::Command::FailbackToHost { host, .. } = &mut command {
                *host = self.outside.hosts_called(step.host()).first().copied().unwrap_or(*host);
            }
            let run = self.clone();
            spawn_local(async move {
                let stream = StreamId { kind: Kind::Vm, id: vm.0 };
                run.tell(stream, command.into_entry(), "operator").await;
            });
        }
    }

    fn change_policy(&self, step: &Step) {
        let id = self.outside.cloud;
        let known = self.journal.observer().past.site.clouds.get(&id).map(|cloud| cloud.policy);
        let policy = step.policy(known.unwrap_or_else(|| self.scenario.site.policy()));
        let run = self.clone();
        spawn_local(async move {
            let stream = StreamId { kind: Kind::Cloud, id: id.0 };
            let command = cloud::Command::AssociatePolicy { policy };
            run.tell(stream, command.into_entry(), "operator").await;
        });
    }

    fn operate_plan(&self, step: &Step) {
        let Some(name) = step.plan.as_ref().map(|name| name.get_ref().clone()) else { return };
        let id = plan_id(&name);
        let known = self.journal.observer().past.site.plans.get(&id).cloned().unwrap_or_default();
        let command = if let (Deed::RunPlan, Some(word)) = (step.r#do.get_ref(), step.kind) {
            let job = JobId::derived(id.0, known.runs);
            let kind = run_kind(word, self.scenario.site.test_network());
            plan::Command::start(job, kind, step.options())
        } else if *step.r#do.get_ref() == Deed::EndPlan {
            plan::Command::Cancel
        } else {
            let step = known.running().map_or(0, |run| run.current);
            plan::Command::Continue { step, notes: "by the scenario".to_owned() }
        };
        let run = self.clone();
        spawn_local(async move {
            let stream = StreamId { kind: Kind::Plan, id: id.0 };
            run.tell(stream, Plan::entry(command, vec![]), "operator").await;
        });
    }

    /// Defines the scenario's recovery plans.
    async fn define_plans(&self) {
        for spec in &self.scenario.plan {
            let id = plan_id(&spec.name);
            let definition = definition(spec, |name| self.outside.vms_called(Some(name)));
            let command = plan::Command::DefinePlan { id, name: spec.name.clone(), definition };
            let stream = StreamId { kind: Kind::Plan, id: id.0 };
            self.tell(stream, Plan::entry(command, vec![]), "configuration").await;
        }
    }

    /// The faults have ended: whoever is needed comes and has everything tried again.
    async fn heal(&self) {
        self.active.borrow_mut().clear();
        self.weather();
        sleep(ADMINISTRATOR_AFTER).await;
        for vm in self.outside.vm_ids() {
            self.outside.attach_again(vm, self.standing()(vm));
            let because = RetryReason::Administrator;
            self.configure(Kind::Vm, vm.0, vm::Command::Retry { because }).await;
        }
    }

    /// Looks on, as a person would, and sees what may not be.
    async fn watch(self) {
        let mut together: BTreeMap<VmId, u64> = BTreeMap::new();
        loop {
            sleep(LOOK).await;
            let now = self.outside.clock.now();
            self.journal.observer().look(now);
            for id in self.outside.vm_ids() {
                let vm = self.known(id);
                let source = self.outside.machine(id);
                let replica_runs = vm.pending().contains(&vm::Effect::RunReplica);
                let beside_replica =
                    replica_runs && source.runs && self.outside.answers(source.host);
                if beside_replica || self.outside.stray_within_reach(id) {
                    let for_ms = together.entry(id).or_default();
                    *for_ms += LOOK.as_millis() as u64;
                    if *for_ms == TWO_PRIMARIES_MS {
                        let what = format!(
                            "{} has run twice for 5 minutes, with its host within reach",
                            vm.name
                        );
                        self.outside.violation(Invariant::OnePrimary, what);
                    }
                } else {
                    together.remove(&id);
                }
                if vm.may_run_at_primary() {
                    self.outside.switch_on(id);
                }
            }
        }
    }

    /// What can be said only at the end.
    async fn judge(&self) {
        let now = self.outside.clock.now();
        self.journal.observer().end(self.outside.clock.passed_ms());
        let service = self.service.borrow().clone();
        match service {
            None => self.broken(Invariant::Convergence, "the service does not run".to_owned()),
            Some(service) => {
                if let Some(because) = service.failed() {
                    self.broken(Invariant::Convergence, format!("the service failed: {because}"));
                }
                self.compare_states(&*service).await;
            }
        }
        for id in self.outside.vm_ids() {
            let vm = self.known(id);
            if !self.outside.ghost.is_rotten(id)
                && let Err(what) = Observer::settled(&vm, now)
            {
                self.broken(Invariant::Convergence, what);
            }
            if let Err(what) = Observer::job_says_why(&vm) {
                self.broken(Invariant::JobsEnd, what);
            }
            let step = vm.points.len().div_ceil(PROVEN_AT_END).max(1);
            for point in vm.points.iter().rev().step_by(step) {
                proof::prove_point(&self.outside, id, point.cycle);
                proof::prove_sizes(&self.outside, &vm, point.cycle);
            }
        }
    }

    async fn compare_states(&self, service: &dyn Service) {
        let streams = match self.journal.streams() {
            Ok(streams) => streams,
            Err(error) => return self.broken(Invariant::ReplayEqualsLive, error.to_string()),
        };
        for (stream, _) in streams {
            let live = service.state(stream).await;
            if live != self.folded(stream) {
                let what = format!("{stream} is not what its log tells");
                self.broken(Invariant::ReplayEqualsLive, what);
            }
        }
    }

    fn folded(&self, stream: StreamId) -> Option<State> {
        let observer = self.journal.observer();
        let (site, id) = (&observer.past.site, stream.id);
        match stream.kind {
            Kind::Vm => site.vms.get(&VmId(id)).cloned().map(|vm| State::Vm(Box::new(vm))),
            Kind::Host => site.hosts.get(&HostId(id)).cloned().map(State::Host),
            Kind::Cloud => site.clouds.get(&CloudId(id)).cloned().map(State::Cloud),
            Kind::Vault => site.vaults.get(&VaultId(id)).cloned().map(State::Vault),
            Kind::Plan => {
                site.plans.get(&PlanId(id)).cloned().map(|plan| State::Plan(Box::new(plan)))
            }
            Kind::Fabric => site.fabrics.get(&FabricId(id)).cloned().map(State::from),
        }
    }

    fn broken(&self, invariant: Invariant, what: String) {
        self.outside.violation(invariant, what);
    }
}

impl Step {
    pub(super) fn host(&self) -> Option<&str> {
        self.host.as_ref().map(|host| host.get_ref().as_str())
    }

    pub(super) fn vm(&self) -> Option<&str> {
        self.vm.as_ref().map(|vm| vm.get_ref().as_str())
    }

    /// Until when it lasts, in a timeline that ends at `end`; in milliseconds.
    pub(super) fn until(&self, end: u64) -> u64 {
        self.r#for.map_or(end, |span| self.t.get_ref().0.saturating_add(span.0)).min(end)
    }

    /// Whether it begins at this moment for the first time, of all that it comes and goes.
    pub(super) fn first_begins(&self, at: u64) -> bool {
        *self.t.get_ref() == Span(at)
    }

    /// Whether it ends at this moment for the last time.
    pub(super) fn last_ends(&self, at: u64, end: u64) -> bool {
        self.every.is_none_or(|every| self.until(end) <= at.saturating_add(every.0))
    }
}

/// What an operator tells a VM that is known so.
pub(super) fn operation(step: &Step, id: VmId, known: &Vm, now: Timestamp) -> vm::Command {
    let job = JobId::derived(id.0, known.jobs);
    match *step.r#do.get_ref() {
        Deed::PlannedFailover => vm::Command::PlannedFailover { job },
        Deed::UnplannedFailover => {
            vm::Command::UnplannedFailover { job, point: PointChoice::Latest }
        }
        Deed::SynchronizedFailover => vm::Command::SynchronizeAndFailOver { job },
        Deed::Commit => vm::Command::CommitFailover { job },
        Deed::TestFailover => vm::Command::TestFailover {
            job,
            point: PointChoice::Latest,
            network: "isolated".to_owned(),
            lease_h: 2,
        },
        Deed::CleanUpTest => vm::Command::CleanUpTestFailover { job, notes: String::new() },
        Deed::ChangePoint => {
            let oldest = known.points.first().map_or(0, |point| point.cycle);
            vm::Command::ChangeRecoveryPoint { job, point: PointChoice::Cycle(oldest) }
        }
        Deed::CancelFailover => vm::Command::CancelFailover { job },
        Deed::Failback => vm::Command::Failback { job, in_full: step.in_full() },
        Deed::FailbackToHost => {
            let (host, cloud) = (known.host, known.cloud);
            vm::Command::FailbackToHost { job, in_full: step.in_full(), host, cloud }
        }
        Deed::Resync => vm::Command::Resynchronize { job },
        Deed::DecideFailover => {
            let due = now.after(step.after.unwrap_or_default().duration());
            let then = step.then.map_or(AfterFailover::Commit, AfterFailover::from);
            vm::Command::DecideFailover { due, then }
        }
        Deed::ReleaseStart => vm::Command::ReleaseStart,
        Deed::CompleteFailback => vm::Command::CompleteFailback { job },
        Deed::CancelFailback => vm::Command::CancelFailback,
        Deed::ReverseReplicate => vm::Command::ReverseReplicate { job },
        Deed::DisableProtection => {
            vm::Command::DisableProtection { job, source_gone: step.source_is_gone() }
        }
        Deed::Protect => {
            let (vault, policy) = (known.vault, known.policy);
            match step.after {
                None => vm::Command::EnableProtection { job, vault, policy },
                Some(after) => {
                    let due = now.after(after.duration());
                    vm::Command::EnableProtectionAt { job, vault, policy, due }
                }
            }
        }
        Deed::Pause => vm::Command::PauseReplication,
        Deed::Resume => vm::Command::ResumeReplication,
        Deed::TakePoint => vm::Command::TakeRecoveryPoint { application_consistent: false },
        Deed::ResizeDisk => {
            let disk = known.disks.first().map(|disk| (disk.id, disk.size_bytes));
            let (disk, size) = disk.unwrap_or_default();
            let size_bytes = (size + size / 2).next_multiple_of(SECTOR_BYTES);
            vm::Command::ResizeDisk { job, disk, size_bytes }
        }
        Deed::AddDisk => {
            // Of no other disk that it had once.
            let name = format!("added{}", known.jobs);
            let (disk, image) = added_disk(id, &known.name, name);
            vm::Command::AddDisk { job, disk, image }
        }
        Deed::CancelJob => {
            let job = known.job.as_ref().map(|job| job.id).unwrap_or_default();
            vm::Command::CancelJob { job }
        }
        _ => vm::Command::Retry { because: RetryReason::Administrator },
    }
}

/// Every beginning and end of the timeline, in order.
pub(super) fn changes(steps: &[Step], end: u64) -> Vec<(u64, Change)> {
    let mut all = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let from = step.t.get_ref().0;
        let until = step.until(end);
        let Some(every) = step.every else {
            all.push((from, Change::Begins(index)));
            all.push((until, Change::Ends(index)));
            continue;
        };
        let mut at = from;
        while at < until {
            all.push((at, Change::Begins(index)));
            all.push((at.saturating_add(every.0).min(until), Change::Ends(index)));
            at = at.saturating_add(every.0.saturating_mul(2));
        }
    }
    // What ends at a moment ends before something else begins.
    all.sort_by_key(|(at, change)| (*at, matches!(change, Change::Begins(_))));
    all
}

/// A command without the events that it will cause.
trait IntoEntry {
    fn into_entry(self) -> Entry;
}

macro_rules! into_entry {
    ($($command:ty => $variant:ident),+) => {$(
        impl IntoEntry for $command {
            fn into_entry(self) -> Entry {
                Entry::$variant { command: self, events: vec![] }
            }
        }
    )+};
}

into_entry!(vm::Command => Vm, host::Command => Host, cloud::Command => Cloud, vault::Command => Vault,
    fabric::Command => Fabric);
