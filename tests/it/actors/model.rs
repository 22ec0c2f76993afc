//! Random operations, failures and kills against the actors, on virtual time.
//!
//! The world outside knows what the guests wrote and what is in which recovery point; so after each move it can
//! be said whether something was lost that nobody announced. At the end of a history everything is mended,
//! and every VM has to come to rest.

use super::outside::{Answer, Op, credentials_refused, host_lost, link_down};
use super::testbed::{
    HOUR, MINUTE, Running, Testbed, every_30_s, host_id, job_id, other_host_id, vault_id, vm_id,
};
use super::virtual_clock::BEGINNING;
use lifeboat::actors::{Origin, TellError};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::Entity;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::{DiskId, PlanId, VmId};
use lifeboat::domain::job::{Job, JobKind};
use lifeboat::domain::placement::Target;
use lifeboat::domain::plan::{self, Action, ActionKind, Definition, Group, Plan, RunKind};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::vm::{
    AfterFailover, Command, Disk, Effect, Health, NextStep, Phase, PointChoice, ResyncReason,
    ResyncWindow, RetryReason, Side, Vm, Wake, Work,
};
use lifeboat::ports::clock::Clock;
use lifeboat::views::JobView;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

/// How many VMs live on the host.
const VMS: u128 = 2;

/// What an operator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Enable,
    Disable(bool),
    Planned,
    Unplanned(bool),
    Synchronize,
    ChangePoint,
    CancelFailover,
    Commit,
    Test,
    CleanUp,
    Failback(bool),
    FailbackToHost,
    Complete,
    CancelFailback,
    Reverse,
    Pause,
    Resume,
    TakePoint,
    Resync,
    Hold,
    Release,
    CancelJob,
    Retry,
    Resize,
    AddDisk,
    /// In ten minutes.
    EnableAt,
    /// In two minutes the failover is committed, or undone.
    Decide(AfterFailover),
    /// Another policy: a delta every minute.
    Policy(bool),
    /// Resynchronizations wait for an operator, or begin at once.
    Window(bool),
    /// A size that the recovery site does not have, or none.
    Target(bool),
    HoldFailover,
    ReleaseFailover,
}

const ASKS: [Ask; 39] = [
    Ask::Enable,
    Ask::EnableAt,
    Ask::Decide(AfterFailover::Commit),
    Ask::Decide(AfterFailover::Cancel),
    Ask::Policy(true),
    Ask::Policy(false),
    Ask::Window(true),
    Ask::Window(false),
    Ask::Target(true),
    Ask::Target(false),
    Ask::HoldFailover,
    Ask::ReleaseFailover,
    Ask::Disable(false),
    Ask::Disable(true),
    Ask::Planned,
    Ask::Unplanned(false),
    Ask::Unplanned(true),
    Ask::Synchronize,
    Ask::ChangePoint,
    Ask::CancelFailover,
    Ask::Commit,
    Ask::Test,
    Ask::CleanUp,
    Ask::Failback(false),
    Ask::Failback(true),
    Ask::FailbackToHost,
    Ask::Complete,
    Ask::CancelFailback,
    Ask::Reverse,
    Ask::Pause,
    Ask::Resume,
    Ask::TakePoint,
    Ask::Resync,
    Ask::Hold,
    Ask::Release,
    Ask::CancelJob,
    Ask::Retry,
    Ask::Resize,
    Ask::AddDisk,
];

/// A life there and back, from its end.
const ONWARD: [&str; 5] =
    ["ReverseReplicate", "CompleteFailback", "Commit", "Failback", "PlannedFailover"];

#[derive(Clone, Debug)]
enum Move {
    Ask(u128, Ask),
    /// Whatever the state allows: of what it does, the one of this number.
    AskAllowed(u128, usize),
    /// So many steps of a life there and back, with a few seconds for each.
    GoOnward(u128, u32),
    CutLink,
    MendLink,
    /// The host is out of reach, with its guests on or off.
    LoseHost(bool),
    ReviveHost,
    /// The next call fails.
    Fail(u128, Op, Code),
    /// The next call takes this long.
    Delay(u128, Op, Duration),
    LoseTracking(u128),
    /// The recovery plan of all VMs.
    Run(RunKind),
    /// Somebody does what its run waits for, or ends it.
    GoOnWithPlan,
    EndPlan,
    Pass(Duration),
    /// The service is killed, and starts again.
    Kill,
}

/// Calls that reach the vault.
const VAULT_OPS: [Op; 15] = [
    Op::CheckVault,
    Op::CopyDisk,
    Op::CompareDisk,
    Op::CompleteCopy,
    Op::Ship,
    Op::ShipThrough,
    Op::Verify,
    Op::Fence,
    Op::Serve,
    Op::KeepOnly,
    Op::ServeTest,
    Op::RestoreDisk,
    Op::DeleteReplica,
    Op::CheckDownload,
    Op::DownloadDisk,
];

/// Calls that reach the host.
const HOST_OPS: [Op; 10] = [
    Op::CheckSource,
    Op::StartTracking,
    Op::Snapshot,
    Op::ShutDown,
    Op::KeepOff,
    Op::CheckRoom,
    Op::Attach,
    Op::StartSource,
    Op::TrackRestored,
    Op::StopTracking,
];

/// Calls that reach the recovery site.
const RECOVERY_OPS: [Op; 4] = [Op::Start, Op::StartTest, Op::ShutDownReplica, Op::StopServing];

fn an_op() -> impl Strategy<Value = Op> {
    let all = VAULT_OPS.into_iter().chain(HOST_OPS).chain(RECOVERY_OPS);
    proptest::sample::select(all.collect::<Vec<_>>())
}

fn a_run() -> impl Strategy<Value = RunKind> {
    proptest::sample::select(vec![
        RunKind::Planned,
        RunKind::Planned,
        RunKind::Unplanned,
        RunKind::Test { network: "apart".to_owned() },
        RunKind::CleanUp,
        RunKind::Commit,
        RunKind::Reverse,
    ])
}

/// Somebody looks at what was shut down, and at the first VM before the second starts.
fn plan() -> Definition {
    let look = |name: &str| {
        let instructions = "look".to_owned();
        Action::of_every_run(name.to_owned(), ActionKind::Manual { instructions })
    };
    let group = |nth, before| Group { before, vms: vec![vm_id(nth)], after: vec![] };
    Definition {
        after_shutdown: vec![look("both are off")],
        groups: vec![group(1, vec![]), group(2, vec![look("the first runs")])],
        ..Definition::default()
    }
}

fn plan_id() -> PlanId {
    PlanId(uuid::Uuid::from_u128(78))
}

fn a_move() -> impl Strategy<Value = Move> {
    let vm = 1..=VMS;
    let code = proptest::sample::select(vec![
        Code::LinkDown,
        Code::LinkDown,
        Code::AuthenticationFailed,
        Code::PrerequisiteFailed,
        Code::ReplicaDamaged,
        Code::HostResourcesShort,
    ]);
    prop_oneof![
        6 => (vm.clone(), proptest::sample::select(ASKS.to_vec())).prop_map(|(vm, ask)| Move::Ask(vm, ask)),
        20 => (vm.clone(), any::<usize>()).prop_map(|(vm, nth)| Move::AskAllowed(vm, nth)),
        6 => (vm.clone(), 1_u32..7).prop_map(|(vm, steps)| Move::GoOnward(vm, steps)),
        2 => Just(Move::CutLink),
        3 => Just(Move::MendLink),
        2 => any::<bool>().prop_map(Move::LoseHost),
        3 => Just(Move::ReviveHost),
        6 => (vm.clone(), an_op(), code).prop_map(|(vm, op, code)| Move::Fail(vm, op, code)),
        3 => (vm.clone(), an_op(), 1_u64..900).prop_map(|(vm, op, seconds)| {
            Move::Delay(vm, op, Duration::from_secs(seconds))
        }),
        2 => vm.prop_map(Move::LoseTracking),
        5 => a_run().prop_map(Move::Run),
        5 => Just(Move::GoOnWithPlan),
        1 => Just(Move::EndPlan),
        16 => (100_u64..5_000).prop_map(|millis| Move::Pass(Duration::from_millis(millis))),
        6 => (5_u64..600).prop_map(|seconds| Move::Pass(Duration::from_secs(seconds))),
        5 => Just(Move::Kill),
    ]
}

/// What an operator asks for by a name of the API.
fn asked_by_name(name: &str) -> Option<Ask> {
    Some(match name {
        "EnableProtection" => Ask::Enable,
        // What ends a VM's life is asked for by itself.
        "PlannedFailover" => Ask::Planned,
        "UnplannedFailover" => Ask::Unplanned(false),
        "ChangePit" => Ask::ChangePoint,
        "CancelFailover" => Ask::CancelFailover,
        "Commit" => Ask::Commit,
        "TestFailover" => Ask::Test,
        "TestFailoverCleanup" => Ask::CleanUp,
        "Failback" => Ask::Failback(false),
        "CompleteFailback" => Ask::Complete,
        "CancelFailback" => Ask::CancelFailback,
        "ReverseReplicate" => Ask::Reverse,
        "PauseReplication" => Ask::Pause,
        "ResumeReplication" => Ask::Resume,
        "TakeRecoveryPoint" => Ask::TakePoint,
        "RepairReplication" => Ask::Resync,
        "ReleaseStart" => Ask::Release,
        "ResizeDisk" => Ask::Resize,
        "AddDisks" => Ask::AddDisk,
        _ => return None,
    })
}

fn failure(code: Code) -> Failure {
    match code {
        Code::LinkDown => link_down(vault_id()),
        Code::AuthenticationFailed => credentials_refused(vault_id()),
        other => Failure::new(other, Cause::Itself, "by the model"),
    }
}

/// A history: a testbed, and what has happened to it.
struct History {
    bed: Testbed,
    jobs: Cell<u128>,
    host_is_lost: Cell<bool>,
}

impl History {
    fn new() -> Self {
        let mut bed = Testbed::new();
        bed.watch_interval = Duration::from_secs(10);
        bed.outside.refuse_lost_chains();
        Self { bed, jobs: Cell::new(100), host_is_lost: Cell::new(false) }
    }

    fn command(&self, vm: &Vm, ask: Ask) -> Option<Command> {
        self.jobs.set(self.jobs.get() + 1);
        let job = job_id(self.jobs.get());
        Some(match ask {
            Ask::Enable => {
                Command::EnableProtection { job, vault: vault_id(), policy: every_30_s() }
            }
            // A host that answers is not left as it is.
            Ask::Disable(gone) => {
                Command::DisableProtection { job, source_gone: gone && self.host_is_lost.get() }
            }
            Ask::Planned => Command::PlannedFailover { job },
            Ask::Unplanned(oldest) => {
                let first = vm.points.first().filter(|_| oldest);
                let point =
                    first.map_or(PointChoice::Latest, |point| PointChoice::Cycle(point.cycle));
                Command::UnplannedFailover { job, point }
            }
            Ask::Synchronize => Command::SynchronizeAndFailOver { job },
            Ask::ChangePoint => {
                let point = PointChoice::Cycle(vm.points.first()?.cycle);
                Command::ChangeRecoveryPoint { job, point }
            }
            Ask::CancelFailover => Command::CancelFailover { job },
            Ask::Commit => Command::CommitFailover { job },
            Ask::Test => {
                let (point, network) = (PointChoice::Latest, "apart".to_owned());
                Command::TestFailover { job, point, network, lease_h: 1 }
            }
            Ask::CleanUp => Command::CleanUpTestFailover { job, notes: String::new() },
            Ask::Failback(in_full) => Command::Failback { job, in_full },
            Ask::FailbackToHost => {
                let back = vm.host == other_host_id();
                let host = if back { host_id() } else { other_host_id() };
                Command::FailbackToHost { job, in_full: false, host, cloud: vm.cloud }
            }
            Ask::Complete => Command::CompleteFailback { job },
            Ask::CancelFailback => Command::CancelFailback,
            Ask::Reverse => Command::ReverseReplicate { job },
            Ask::Pause => Command::PauseReplication,
            Ask::Resume => Command::ResumeReplication,
            Ask::TakePoint => Command::TakeRecoveryPoint { application_consistent: false },
            Ask::Resync => Command::Resynchronize { job },
            Ask::Hold => Command::HoldStart { plan: PlanId::default() },
            Ask::Release => Command::ReleaseStart,
            Ask::CancelJob => Command::CancelJob { job: running(vm)?.id },
            Ask::Retry => Command::Retry { because: RetryReason::Administrator },
            Ask::AddDisk => {
                let name = format!("data{}", vm.jobs);
                let (id, image) = (DiskId::named(vm.id.0, &name), format!("/{name}.img"));
                Command::AddDisk { job, disk: Disk { id, name, size_bytes: 1 << 20 }, image }
            }
            Ask::EnableAt => {
                let due = self.bed.clock.now().after(Duration::from_mins(10));
                let (vault, policy) = (vault_id(), every_30_s());
                Command::EnableProtectionAt { job, vault, policy, due }
            }
            Ask::Decide(then) => {
                let due = self.bed.clock.now().after(Duration::from_mins(2));
                Command::DecideFailover { due, then }
            }
            Ask::Policy(other) => {
                let usual = every_30_s();
                let minute = Policy { copy_frequency_s: 60, ..usual };
                Command::ChangePolicy { policy: if other { minute } else { usual } }
            }
            Ask::Window(manual) => {
                let window = if manual { ResyncWindow::Manual } else { ResyncWindow::Always };
                Command::ChangeResyncWindow { window }
            }
            Ask::Target(missing) => {
                let size = missing.then(|| "a size that nobody has".to_owned());
                Command::ChangeTarget { target: Target { size, nics: vec![] } }
            }
            Ask::HoldFailover => Command::HoldFailover,
            Ask::ReleaseFailover => Command::ReleaseFailover,
            Ask::Resize => {
                let disk = vm.disks.first()?;
                Command::ResizeDisk { job, disk: disk.id, size_bytes: disk.size_bytes + (1 << 20) }
            }
        })
    }

    async fn ask(&self, service: &Running<'_>, vm: VmId, ask: Ask) {
        let state = self.bed.logged(vm);
        let Some(command) = self.command(&state, ask) else { return };
        match service.tell_vm(vm, command).await {
            Ok(_) | Err(TellError::Rejected(_)) => {}
            Err(error) => panic!("{ask:?}: {error}"),
        }
    }

    /// Tells the plan; what it does not allow it refuses.
    async fn tell_plan(&self, service: &Running<'_>, command: plan::Command) {
        let told = service.site.tell::<Plan>(plan_id().0, command, Origin::of("operator")).await;
        match told {
            Ok(_) | Err(TellError::Rejected(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn plan(&self, service: &Running<'_>) -> Plan {
        service.site.state::<Plan>(plan_id().0).await.expect("it is there")
    }

    /// Somebody does what the run waits for; answers whether there is a run.
    async fn go_on_with_plan(&self, service: &Running<'_>) -> bool {
        let plan = self.plan(service).await;
        let Some(run) = plan.running() else { return false };
        if run.waits_for_somebody() {
            let (step, notes) = (run.current, "seen".to_owned());
            self.tell_plan(service, plan::Command::Continue { step, notes }).await;
        }
        true
    }

    fn cut_link(&self) {
        let down = || Answer::Fail(link_down(vault_id()));
        self.bed.outside.always(vault_id().0, Op::ProbeVault, down());
        for vm in vms() {
            for op in VAULT_OPS {
                self.bed.outside.always(vm.0, op, down());
            }
        }
    }

    fn mend_link(&self) {
        self.bed.outside.heal(vault_id().0, Op::ProbeVault);
        for vm in vms() {
            for op in VAULT_OPS {
                self.bed.outside.heal(vm.0, op);
            }
        }
    }

    fn lose_host(&self, guests_run_on: bool) {
        self.host_is_lost.set(true);
        let lost = || Answer::Fail(host_lost(host_id()));
        self.bed.outside.always(host_id().0, Op::Heartbeat, lost());
        for vm in vms() {
            for op in HOST_OPS {
                self.bed.outside.always(vm.0, op, lost());
            }
            if !guests_run_on {
                let now = self.bed.clock.elapsed();
                self.bed.outside.change(vm, |facts| {
                    facts.switch(Side::Primary, false, now);
                    facts.attached = false;
                });
                self.lose_tracking(vm);
            }
        }
    }

    fn revive_host(&self) {
        if !self.host_is_lost.replace(false) {
            return;
        }
        self.bed.outside.heal(host_id().0, Op::Heartbeat);
        for vm in vms() {
            for op in HOST_OPS {
                self.bed.outside.heal(vm.0, op);
            }
            let runs = self.bed.logged(vm).may_run_at_primary();
            let now = self.bed.clock.elapsed();
            self.bed.outside.change(vm, |facts| {
                if runs {
                    facts.attached = true;
                    facts.switch(Side::Primary, true, now);
                }
            });
        }
    }

    fn lose_tracking(&self, vm: VmId) {
        if self.bed.logged(vm).is_tracked() {
            let lost = Some(ResyncReason::PowerLoss);
            self.bed.outside.change(vm, |facts| facts.tracking_lost = lost);
        }
    }

    /// One move; answers whether the service lives on.
    async fn make(&self, service: &Running<'_>, next: &Move) -> bool {
        match next {
            Move::Ask(vm, ask) => self.ask(service, vm_id(*vm), *ask).await,
            Move::AskAllowed(vm, nth) => {
                let vm = vm_id(*vm);
                let allowed = self.bed.logged(vm).allowed_operations();
                let mut asks: Vec<_> =
                    allowed.iter().filter_map(|name| asked_by_name(name)).collect();
                if asks.contains(&Ask::Failback(false)) {
                    asks.push(Ask::FailbackToHost);
                }
                if allowed.contains(&"UnplannedFailover") {
                    asks.push(Ask::Hold);
                }
                if let Some(ask) = asks.get(nth % asks.len().max(1)) {
                    self.ask(service, vm, *ask).await;
                }
            }
            Move::GoOnward(vm, steps) => {
                for _ in 0..*steps {
                    let allowed = self.bed.logged(vm_id(*vm)).allowed_operations();
                    let next = ONWARD.into_iter().find(|name| allowed.contains(name));
                    if let Some(ask) = next.and_then(asked_by_name) {
                        self.ask(service, vm_id(*vm), ask).await;
                    }
                    service.sleep(Duration::from_secs(5)).await;
                }
            }
            Move::CutLink => self.cut_link(),
            Move::MendLink => self.mend_link(),
            Move::LoseHost(guests_run_on) => self.lose_host(*guests_run_on),
            Move::ReviveHost => self.revive_host(),
            Move::Fail(vm, op, code) => {
                let answer = Answer::FailAfter(Duration::from_millis(50), failure(*code));
                self.bed.outside.script(vm_id(*vm).0, *op, [answer]);
            }
            Move::Delay(vm, op, time) => {
                self.bed.outside.script(vm_id(*vm).0, *op, [Answer::After(*time)]);
            }
            Move::LoseTracking(vm) => self.lose_tracking(vm_id(*vm)),
            Move::Run(kind) => {
                self.jobs.set(self.jobs.get() + 1);
                let (job, kind) = (job_id(self.jobs.get()), kind.clone());
                self.tell_plan(service, plan::Command::Start { job, kind }).await;
            }
            Move::GoOnWithPlan => drop(self.go_on_with_plan(service).await),
            Move::EndPlan => self.tell_plan(service, plan::Command::Cancel).await,
            Move::Pass(time) => service.sleep(*time).await,
            Move::Kill => return false,
        }
        true
    }

    /// Lives through the moves; each kill is followed by the next life.
    fn live(&self, moves: &[Move]) -> BTreeSet<String> {
        let mut met = BTreeSet::new();
        self.bed.run(async |service: Running| {
            service.create_surroundings().await;
            for nth in 1..=VMS {
                service.protected(nth, every_30_s()).await;
            }
            let (id, name, definition) = (plan_id(), "both".to_owned(), plan());
            self.tell_plan(&service, plan::Command::DefinePlan { id, name, definition }).await;
        });
        let mut rest = moves.iter();
        loop {
            let killed = self.bed.run(async |service: Running| {
                for next in rest.by_ref() {
                    if !self.make(&service, next).await {
                        return true;
                    }
                    for vm in vms() {
                        let state = self.bed.logged(vm);
                        self.check(&state, next);
                        met.insert(super::super::domain::story::word(&state.phase));
                    }
                }
                false
            });
            if !killed {
                break;
            }
        }
        self.bed.run(async |service: Running| self.come_to_rest(&service).await);
        self.bed.outside.check();
        met
    }

    /// What must hold after every move.
    fn check(&self, vm: &Vm, after: &Move) {
        self.bed.outside.check();
        let now = self.bed.clock.now();
        let place = || format!("after {after:?} {}: {vm:#?}", vm.phase);

        let facts = self.bed.outside.facts(vm.id);
        let both = facts.runs_at_primary && facts.runs_at_recovery;
        assert!(!both || facts.fenced, "two primaries {}", place());
        assert!(!facts.runs_at_recovery || !may_only_run_at_primary(vm), "{}", place());

        let deletes = running(vm).is_some_and(|job| {
            use JobKind::{CommitFailover, DisableProtection, RemoveProtection};
            matches!(job.kind, CommitFailover | DisableProtection | RemoveProtection)
                || vm.has_left_vault()
        });
        for point in vm.points.iter().filter(|_| !deletes) {
            let kept = facts.points.get(&point.cycle).unwrap_or_else(|| {
                panic!("point {} is announced and not there {}", point.cycle, place())
            });
            assert_eq!(kept.at, point.at, "{}", place());
        }
        if let (true, Some(over)) = (facts.runs_at_recovery, vm.failover)
            && !vm.has_left_vault()
        {
            let from = &facts.disks.points[&over.point.cycle];
            assert!(
                facts.disks.recovery.starts_with(from),
                "it runs from another point {}",
                place()
            );
            let cut = BEGINNING.after(from.last().map_or(Duration::ZERO, |(_, upto)| *upto));
            assert!(cut <= over.point.at, "more was lost than is announced {}", place());
        }

        if let Some(job) = running(vm) {
            let waits = waits_for_somebody(vm) || has_timer(vm, Wake::InitialReplication);
            assert!(goes_on(vm, job) || waits, "a job is stuck {}", place());
            let view = JobView::new(job, vm, None, &[], now);
            assert!(view.state != "Waiting" || view.waiting_for.is_some(), "{}", place());
        }
        if let Some(test) = &vm.test {
            assert!(
                goes_on(vm, &test.job) || has_timer(vm, Wake::TestLease) || vm.held.is_some(),
                "a test is stuck {}",
                place()
            );
        }
        let causes = vm.health_causes(now);
        let explained = |cause: &lifeboat::domain::vm::HealthCause| {
            !cause.because.is_empty() && !cause.next.is_empty()
        };
        assert!(causes.iter().all(explained), "{causes:?} {}", place());
        let bad = matches!(vm.health(now), Health::Warning | Health::Critical);
        assert_eq!(bad, !causes.is_empty(), "{}", place());
    }

    /// Everything is mended, and whoever is waited for does what is waited for: then every job ends, and what is
    /// protected gets recovery points.
    async fn come_to_rest(&self, service: &Running<'_>) {
        self.mend_link();
        self.revive_host();
        for vm in vms() {
            let all = HOST_OPS.into_iter().chain(RECOVERY_OPS);
            all.for_each(|op| self.bed.outside.heal(vm.0, op));
        }
        let began = self.bed.clock.elapsed();
        loop {
            // A run that ends lets go of its VMs at its next look.
            let mut at_rest = !self.go_on_with_plan(service).await;
            at_rest &= self.plan(service).await.pending().is_empty();
            for vm in vms() {
                let state = self.bed.logged(vm);
                self.check(&state, &Move::Pass(Duration::ZERO));
                at_rest &= state.trouble.is_none() && running(&state).is_none();
                at_rest &= state.test.as_ref().is_none_or(|test| test.job.ended.is_some());
                let allowed = state.allowed_operations();
                if allowed.contains(&"RepairReplication") {
                    at_rest = false;
                    self.ask(service, vm, Ask::Resync).await;
                } else if administrator_is_needed(&state) {
                    self.ask(service, vm, Ask::Retry).await;
                }
                if allowed.contains(&"ReleaseStart") {
                    self.ask(service, vm, Ask::Release).await;
                }
                if state.is_resync_paused() {
                    self.ask(service, vm, Ask::Resume).await;
                }
            }
            if at_rest {
                break;
            }
            let waited = self.bed.clock.elapsed() - began;
            let states = || vms().map(|vm| self.bed.logged(vm)).collect::<Vec<_>>();
            assert!(waited < 12 * HOUR, "they never come to rest: {:#?}", states());
            service.sleep(MINUTE).await;
        }
        let before: Vec<_> = vms().map(|vm| self.bed.logged(vm)).collect();
        // The slowest call that is under way takes a quarter of an hour.
        service.sleep(20 * MINUTE).await;
        for earlier in before {
            let vm = self.bed.logged(earlier.id);
            let replicated = matches!(vm.phase, Phase::Protected | Phase::FailbackReady);
            let paused = vm.allowed_operations().contains(&"ResumeReplication");
            let gets_on = earlier.latest_point() < vm.latest_point();
            assert!(!replicated || paused || gets_on, "it gets no points: {vm:#?}");
        }
    }
}

fn vms() -> impl Iterator<Item = VmId> {
    (1..=VMS).map(vm_id)
}

fn running(vm: &Vm) -> Option<&Job> {
    vm.job.as_ref().filter(|job| job.ended.is_none())
}

/// Whether nothing of the VM can be at the recovery site.
fn may_only_run_at_primary(vm: &Vm) -> bool {
    matches!(
        vm.phase,
        Phase::Unprotected | Phase::Enabling | Phase::InitialReplication | Phase::Protected
    )
}

fn goes_on(vm: &Vm, job: &Job) -> bool {
    let is_of_job = |work: Work| matches!(work, Work::Task { job: own, .. } if own == job.id);
    let retried = vm.trouble.as_ref().is_some_and(|trouble| is_of_job(trouble.work));
    vm.pending().into_iter().any(|effect| match effect {
        Effect::Do(work) => is_of_job(work),
        Effect::WakeAt { wake: Wake::Retry(_), .. } => retried,
        _ => false,
    })
}

fn has_timer(vm: &Vm, wanted: Wake) -> bool {
    let is_it = |effect: &Effect| matches!(effect, Effect::WakeAt { wake, .. } if *wake == wanted);
    vm.pending().iter().any(is_it)
}

fn administrator_is_needed(vm: &Vm) -> bool {
    matches!(vm.trouble.as_ref().map(|trouble| trouble.next), Some(NextStep::Administrator))
}

fn waits_for_somebody(vm: &Vm) -> bool {
    administrator_is_needed(vm) || vm.waits_for_plan() || vm.is_resync_paused()
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    proptest::collection::vec(a_move(), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 400, ..ProptestConfig::default() })]

    /// From fresh seeds.
    #[test]
    fn whatever_is_asked_for_and_fails_one_vm_runs_nothing_is_lost_unannounced_and_every_job_ends(
        moves in moves()
    ) {
        History::new().live(&moves);
    }
}

/// Its VM went on on disks that had become another point's.
#[test]
fn a_failover_that_takes_the_place_of_one_that_is_being_cancelled_starts_its_vm_anew() {
    for millis in (0..2_000).step_by(100) {
        let first = [Move::Pass(Duration::from_secs(40)), Move::Ask(1, Ask::Unplanned(true))];
        let rest = [Ask::CancelFailover, Ask::Unplanned(false)].map(|ask| Move::Ask(1, ask));
        let time = |millis| Move::Pass(Duration::from_millis(millis));
        let moves = first.into_iter().chain([time(millis)]).chain(rest).chain([time(10_000)]);
        History::new().live(&moves.collect::<Vec<_>>());
    }
}

/// The same histories each time, which lead everywhere.
#[test]
fn known_histories_hold_the_same_promises_and_meet_every_phase() {
    let mut runner = TestRunner::deterministic();
    let mut met = BTreeSet::new();
    let began = std::time::Instant::now();
    for _ in 0..40 {
        let drawn = moves().new_tree(&mut runner).expect("it can be drawn").current();
        met.extend(History::new().live(&drawn));
    }
    println!("40 histories in {:?}", began.elapsed());
    let wanted = [
        "CancellingFailover",
        "CommitPending",
        "FailedBack",
        "FailedOver",
        "FailbackCommitPending",
        "FailbackReady",
        "FailingBack",
        "FailingOver",
        "Protected",
        "Resynchronizing",
    ];
    let missed: Vec<_> = wanted.into_iter().filter(|phase| !met.contains(*phase)).collect();
    assert!(missed.is_empty(), "never {missed:?}, only {met:?}");
}
