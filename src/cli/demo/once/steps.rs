//! What follows the failovers: a test failover, the way back of a VM that was moved away, and a recovery
//! plan with a gate.

use super::{PATIENCE, Sample, Scene, is_between};
use crate::actors::Origin;
use crate::cli::CommandError;
use crate::domain::id::{JobId, PlanId};
use crate::domain::plan::{
    Action, ActionKind, Command as PlanCommand, Definition, Group, Plan, Probe, Run, RunKind,
    RunOutcome, Task,
};
use crate::domain::time::Timestamp;
use crate::domain::vm::{Command, Health, Phase, PointChoice, Vm};
use crate::drivers::lab::{AfterBoot, LabError};
use crate::ports::clock::Clock;
use crate::service::{ProtectedVm, SystemClock};
use serde::Serialize;
use std::fmt::{self, Display, Formatter};
use std::net::TcpListener;

/// The network of the copies that tests start.
const NETWORK: &str = "isolated";

/// Hours until a test would be cleaned up by itself.
const LEASE_H: u32 = 1;

/// Seconds for which the gate of the recovery plan may stay shut.
const GATE_WITHIN_S: u32 = 60;

/// Writes that the VM makes at the recovery site before it is brought back.
const WRITES_AWAY: u64 = 60;

/// The result of one step.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StepResult {
    name: &'static str,
    pub(super) verified: bool,
}

impl Display for StepResult {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let proof = if self.verified { "verified byte by byte" } else { "NOT VERIFIED" };
        write!(f, "{:<48}  {proof}", self.name.replace('_', " "))
    }
}

impl Scene<'_> {
    /// A test failover: the copy must be the VM as it was at its point, and replication must not notice.
    pub(super) async fn test_failover(&self, vm: &ProtectedVm) -> Result<StepResult, CommandError> {
        self.say(&format!("test failover of {}, beside replication", vm.name));
        self.switch_on(vm).await?;
        let mut samples = self.watch(vm).await?;
        let (job, point) = (self.new_job(vm).await?, PointChoice::Latest);
        let network = NETWORK.to_owned();
        self.order(vm, Command::TestFailover { job, point, network, lease_h: LEASE_H }).await?;
        let tested = self.wait_for(vm, "tested", |state| test_started(state).is_some()).await?;
        let last = self.sample(vm).ok_or("the VM has no guest")?;
        samples.push(last);
        let (write, proven) = self.prove_copy(vm, &tested, &samples).await?;
        let before = tested.latest_point().map_or(0, |point| point.cycle);
        self.wait_for(vm, "replicated beside its test", |state| {
            state.phase == Phase::Protected
                && state.health(SystemClock.now()) == Health::Normal
                && state.latest_point().is_some_and(|point| before < point.cycle)
        })
        .await?;
        let wrote_on = self.sample(vm).is_some_and(|now| last.acknowledged < now.acknowledged);
        let (job, notes) = (self.new_job(vm).await?, "proven".to_owned());
        self.order(vm, Command::CleanUpTestFailover { job, notes }).await?;
        self.wait_for(vm, "cleaned up", |state| state.test.is_none()).await?;
        let gone = self.is_copy_gone(vm).await;
        self.say(&format!(
            "  its copy is the VM after write {write}, exactly its recovery point: {proven}"
        ));
        self.say(&format!(
            "  the guest and its recovery points went on: {wrote_on}; nothing is left of the copy: {gone}"
        ));
        Ok(StepResult { name: "test_failover", verified: proven && wrote_on && gone })
    }

    /// A failback of a VM that was moved away and has written there since: nothing may be lost, and it
    /// must be replicated again.
    pub(super) async fn failback(&self, vm: &ProtectedVm) -> Result<StepResult, CommandError> {
        self.say(&format!("failback of {}, which writes at the recovery site", vm.name));
        let before = self.write_away(vm).await?;
        let (job, in_full) = (self.new_job(vm).await?, false);
        self.order(vm, Command::Failback { job, in_full }).await?;
        let ready = |state: &Vm| state.phase == Phase::FailbackReady;
        self.wait_for(vm, "ready for its failback", ready).await?;
        let job = self.new_job(vm).await?;
        self.order(vm, Command::CompleteFailback { job }).await?;
        let back = |state: &Vm| state.phase == Phase::FailbackCommitPending;
        let state = self.wait_for(vm, "failed back", back).await?;
        let away = self.service.recovery().guest(vm.id).map_or(0, |guest| guest.acknowledged);
        let boot = self.service.primary().guest(vm.id).and_then(|guest| guest.boot);
        let found = boot.ok_or("the VM did not boot at the primary site")?;
        let proven = found.last_write == away && !found.torn && before < away;
        let written = vm.workload.as_ref().map_or(0, |own| own.written_bytes(before, away));
        let (compared, moved) =
            state.failback.map_or((0, 0), |it| (it.compared_bytes, it.different_bytes));
        self.say(&format!(
            "  the primary site's disks hold all {away} writes, byte by byte: {proven}"
        ));
        self.say(&format!(
            "  {written} bytes were written away, {moved} of {compared} compared were brought back"
        ));
        let job = self.new_job(vm).await?;
        self.order(vm, Command::CommitFailover { job }).await?;
        let committed = |state: &Vm| state.phase == Phase::FailedBack;
        self.wait_for(vm, "committed", committed).await?;
        let job = self.new_job(vm).await?;
        self.order(vm, Command::ReverseReplicate { job }).await?;
        let protected = |state: &Vm| state.phase == Phase::Protected;
        self.wait_for(vm, "protected again", protected).await?;
        let (point, acknowledged, same) = self.stop_and_compare(vm).await?;
        self.say(&format!(
            "  committed and replicated again: all {acknowledged} writes are in recovery point {}; bytes equal: {same}",
            point.cycle
        ));
        Ok(StepResult { name: "failback", verified: proven && same })
    }

    /// A test run of a recovery plan of two groups: the second may start only once the gate behind the
    /// first is open.
    pub(super) async fn recovery_plan(
        &self,
        vms: [&ProtectedVm; 2],
    ) -> Result<StepResult, CommandError> {
        let [first, second] = vms;
        self.say(&format!("test run of a recovery plan: {}, a gate, {}", first.name, second.name));
        let mut samples = Vec::new();
        for vm in vms {
            self.switch_on(vm).await?;
            samples.push(self.watch(vm).await?);
        }
        // Nobody answers there until the gate is to open.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (id, name) = (PlanId::named(first.id.0, "demo"), "demo".to_owned());
        let definition = in_order(vms, address.to_string());
        self.tell_plan(id, PlanCommand::DefinePlan { id, name, definition }).await?;
        let kind = RunKind::Test { network: NETWORK.to_owned() };
        self.tell_plan(id, PlanCommand::Start { job: JobId::derived(id.0, 0), kind }).await?;
        self.wait_for_run(id, "come to its gate", is_at_gate).await?;
        let recovery = self.service.recovery();
        let waits = test_started(&self.state(first).await?).is_some()
            && test_started(&self.state(second).await?).is_none()
            && recovery.test_guest(second.id).is_none();
        let gate = TcpListener::bind(address)?;
        let run = self.wait_for_run(id, "ended", |run| run.ended.is_some()).await?;
        drop(gate);
        let mut verified = waits && has_completed(&run);
        let mut starts = Vec::new();
        for (vm, samples) in vms.into_iter().zip(&mut samples) {
            samples.extend(self.sample(vm));
            let state = self.state(vm).await?;
            starts.extend(test_started(&state));
            let (write, proven) = self.prove_copy(vm, &state, samples).await?;
            self.say(&format!(
                "  the copy of {} is the VM after write {write}, exactly its recovery point: {proven}",
                vm.name
            ));
            verified &= proven;
        }
        let opened = run.steps.iter().find(|step| is_gate(&step.task)).and_then(|it| it.ended_at);
        let ordered = matches!((&starts[..], opened),
            ([first, second], Some(opened)) if *first <= opened && opened <= *second);
        let job = JobId::derived(id.0, 1);
        self.tell_plan(id, PlanCommand::Start { job, kind: RunKind::CleanUp }).await?;
        let over = |run: &Run| run.job == job && run.ended.is_some();
        let run = self.wait_for_run(id, "cleaned up", over).await?;
        let gone = self.is_copy_gone(first).await && self.is_copy_gone(second).await;
        self.say(&format!(
            "  the second group waited for the gate: {}; cleaned up: {gone}",
            waits && ordered
        ));
        verified &= ordered && gone && has_completed(&run);
        Ok(StepResult { name: "recovery_plan", verified })
    }

    /// Reads the copy of a test and proves it against the workload and its recovery point; answers the
    /// last write that it holds. The copy's own guest has to have found the same.
    async fn prove_copy(
        &self,
        vm: &ProtectedVm,
        state: &Vm,
        samples: &[Sample],
    ) -> Result<(u64, bool), CommandError> {
        let point = state.test.as_ref().ok_or("the VM has no test")?.point.at;
        let write = self.check_replica(&copy_of(vm)).await?;
        let boot = self.service.recovery().test_guest(vm.id).and_then(|guest| guest.boot);
        let booted = boot.is_some_and(|boot| boot.last_write == write);
        Ok((write, booted && is_between(samples, point, write)))
    }

    /// Whether neither the guest nor the disks of a test's copy are there.
    async fn is_copy_gone(&self, vm: &ProtectedVm) -> bool {
        let no_guest = self.service.recovery().test_guest(vm.id).is_none();
        no_guest && self.open_replica(&copy_of(vm)).await.is_err()
    }

    /// Switches the guest at the primary site on, if it is off, and waits until it has booted.
    async fn switch_on(&self, vm: &ProtectedVm) -> Result<(), CommandError> {
        let (site, id) = (self.service.primary().clone(), vm.id);
        let uris: Vec<_> = vm.disks.iter().map(|disk| disk.uri.clone()).collect();
        tokio::task::spawn_blocking(move || site.boot(id, &uris)).await??;
        Ok(())
    }

    /// Has the guest at the recovery site, which rests since its failover, write; answers the last write
    /// that was there before.
    async fn write_away(&self, vm: &ProtectedVm) -> Result<u64, CommandError> {
        let (site, id, uris) =
            (self.service.recovery().clone(), vm.id, self.service.replica_uris(vm));
        let booted = tokio::task::spawn_blocking(move || {
            site.stop(id)?;
            site.set_after_boot(id, AfterBoot::KeepWriting)?;
            let booted = site.boot(id, &uris)?;
            Ok::<_, LabError>(booted.last_write)
        });
        let before = booted.await??;
        self.wait_for(vm, "written to at the recovery site", |_| {
            let guest = self.service.recovery().guest(vm.id);
            guest.is_some_and(|guest| before + WRITES_AWAY <= guest.acknowledged)
        })
        .await?;
        Ok(before)
    }

    async fn tell_plan(&self, id: PlanId, command: PlanCommand) -> Result<(), CommandError> {
        self.service.site.tell::<Plan>(id.0, command, Origin::of("demo")).await?;
        Ok(())
    }

    async fn wait_for_run(
        &self,
        id: PlanId,
        what: &str,
        reached: impl Fn(&Run) -> bool,
    ) -> Result<Run, CommandError> {
        let run = async || Ok::<_, CommandError>(self.service.site.state::<Plan>(id.0).await?.run);
        for _ in 0..super::looks() {
            if let Some(run) = run().await?.filter(|run| reached(run)) {
                return Ok(run);
            }
            actix::clock::sleep(super::LOOK).await;
        }
        let step = run().await?.and_then(|run| run.step().cloned());
        let waited = PATIENCE.as_secs();
        Err(format!("the recovery plan has not {what} within {waited} s: {step:?}").into())
    }
}

/// A plan that starts a copy of the one, then waits until somebody answers at `address`, then of the other.
fn in_order([first, second]: [&ProtectedVm; 2], address: String) -> Definition {
    let kind = ActionKind::Gate { probe: Probe::Tcp { address }, within_s: GATE_WITHIN_S };
    let gate = Action::of_every_run("the first group answers".to_owned(), kind);
    let group = |vm: &ProtectedVm, after| Group { vms: vec![vm.id], after, ..Group::default() };
    let groups = vec![group(first, vec![gate]), group(second, vec![])];
    Definition { groups, ..Definition::default() }
}

fn is_gate(task: &Task) -> bool {
    matches!(task, Task::Act { .. })
}

fn is_at_gate(run: &Run) -> bool {
    run.step().is_some_and(|step| is_gate(&step.task))
}

fn has_completed(run: &Run) -> bool {
    run.ended.is_some_and(|(_, outcome)| outcome == RunOutcome::Completed)
}

/// When the copy of a test ran.
fn test_started(state: &Vm) -> Option<Timestamp> {
    state.test.as_ref().and_then(|test| test.started_at)
}

/// The copy that a test makes of a VM, by the name that its disks are served under.
fn copy_of(vm: &ProtectedVm) -> ProtectedVm {
    ProtectedVm { name: format!("test-{}", vm.name), ..vm.clone() }
}
