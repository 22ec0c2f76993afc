//! Recovery plans by the actors: across restarts, with a gate that stays shut.

use super::outside::Facts;
use super::restarts::timeless;
use super::testbed::*;
use lifeboat::actors::Origin;
use lifeboat::domain::id::{PlanId, VmId};
use lifeboat::domain::plan::{
    Action, ActionKind, Command, Definition, Group, Plan, Probe, Run, RunKind, RunOutcome,
};
use lifeboat::domain::vm::{Command as VmCommand, FailoverKind, Phase, Vm};
use std::time::Duration;
use uuid::Uuid;

const GATE: &str = "db:5432";

fn plan_id() -> PlanId {
    PlanId(Uuid::from_u128(77))
}

fn shop(vms: [VmId; 2]) -> Definition {
    let probe = Probe::Tcp { address: GATE.to_owned() };
    let gate = ActionKind::Gate { probe, within_s: 30 };
    let script = ActionKind::Script { command: vec!["announce".to_owned()], timeout_s: 60 };
    let action = |name: &str, kind| Action::of_every_run(name.to_owned(), kind);
    Definition {
        before: vec![action("announce", script)],
        after_shutdown: vec![],
        after_failover: vec![],
        groups: vec![
            Group {
                vms: vec![vms[0]],
                after: vec![action("db answers", gate)],
                ..Group::default()
            },
            Group { vms: vec![vms[1]], ..Group::default() },
        ],
    }
}

async fn tell(service: &Running<'_>, command: Command) {
    let origin = Origin::of("operator");
    service.site.tell::<Plan>(plan_id().0, command, origin).await.expect("the plan takes it");
}

async fn plan(service: &Running<'_>) -> Plan {
    service.site.state::<Plan>(plan_id().0).await.expect("the plan is there")
}

async fn until(service: &Running<'_>, wanted: impl Fn(&Plan) -> bool) -> Plan {
    for _ in 0..3600 {
        let plan = plan(service).await;
        if wanted(&plan) {
            return plan;
        }
        service.sleep(Duration::from_secs(1)).await;
    }
    panic!("it never came to that: {:#?}", plan(service).await.run)
}

#[test]
fn a_run_waits_at_a_shut_gate_over_restarts_and_then_goes_on() {
    let bed = Testbed::new();
    bed.steps.shut.lock().unwrap().insert(GATE.to_owned());
    let mut vms = Vec::new();
    bed.run(async |service: Running| {
        for nth in 1..=2 {
            vms.push(service.protected(nth, every_30_s()).await);
        }
        let (id, name) = (plan_id(), "shop".to_owned());
        let definition = shop([vms[0], vms[1]]);
        tell(&service, Command::DefinePlan { id, name, definition }).await;
        let (job, kind) = (job_id(70), RunKind::Planned);
        tell(&service, Command::Start { job, kind }).await;
        until(&service, |plan| plan.running().is_some_and(|run| run.current == 1)).await;
    });
    // The service dies while VMs are being failed over, and again at the gate.
    bed.run(async |service: Running| {
        until(&service, |plan| plan.running().is_some_and(Run::waits_for_somebody)).await;
        let first = service.site.state::<Vm>(vms[0].0).await.expect("it is there");
        let second = service.site.state::<Vm>(vms[1].0).await.expect("it is there");
        assert!(matches!(first.phase, Phase::CommitPending(_)), "{}", first.phase);
        assert!(second.waits_for_plan(), "it started before the gate was open");
    });
    bed.steps.shut.lock().unwrap().clear();
    bed.run(async |service: Running| {
        let step = plan(&service).await.running().expect("it waits").current;
        tell(&service, Command::Retry { step }).await;
        let plan = until(&service, |plan| plan.running().is_none()).await;
        let ended = plan.run.expect("it ran").ended;
        assert_eq!(ended.map(|(_, outcome)| outcome), Some(RunOutcome::Completed));
        let second = service.site.state::<Vm>(vms[1].0).await.expect("it is there");
        assert!(matches!(second.phase, Phase::CommitPending(_)), "{}", second.phase);
    });
    bed.outside.check();
    let runs = bed.steps.runs.lock().unwrap();
    let context: serde_json::Value = serde_json::from_str(&runs[0].1).expect("it is JSON");
    assert_eq!(context["RecoveryPlanName"], "shop");
    assert_eq!(context["FailoverType"], "Planned");
    let told = context["VmMap"].as_object().expect("it names the VMs");
    assert_eq!(told.len(), 2);
    for vm in told.values() {
        assert!(vm["State"].is_string() && vm["Nics"].is_array(), "{vm}");
    }
}

#[test]
fn a_script_that_fails_stops_a_planned_run_before_any_vm_is_touched() {
    let bed = Testbed::new();
    bed.steps.failing.lock().unwrap().insert("announce".to_owned());
    bed.run(async |service: Running| {
        let vms =
            [service.protected(1, every_30_s()).await, service.protected(2, every_30_s()).await];
        let (id, name) = (plan_id(), "shop".to_owned());
        tell(&service, Command::DefinePlan { id, name, definition: shop(vms) }).await;
        let (job, kind) = (job_id(70), RunKind::Planned);
        tell(&service, Command::Start { job, kind }).await;
        let plan = until(&service, |plan| plan.running().is_none()).await;
        let run = plan.run.expect("it ran");
        assert_eq!(run.ended.map(|(_, outcome)| outcome), Some(RunOutcome::Failed));
        assert_eq!(run.steps[0].output, "announce ran");
        for vm in vms {
            let vm = service.site.state::<Vm>(vm.0).await.expect("it is there");
            assert_eq!(vm.phase, Phase::Protected);
        }
    });
    bed.outside.check();
}

/// A plan for two VMs that are protected.
async fn defined(service: &Running<'_>) -> [VmId; 2] {
    let vms = [service.protected(1, every_30_s()).await, service.protected(2, every_30_s()).await];
    let (id, name) = (plan_id(), "shop".to_owned());
    tell(service, Command::DefinePlan { id, name, definition: shop(vms) }).await;
    vms
}

#[test]
fn vms_that_a_cancelled_run_has_not_started_start_now_and_without_a_plan() {
    let bed = Testbed::new();
    bed.steps.shut.lock().unwrap().insert(GATE.to_owned());
    bed.run(async |service: Running| {
        let vms = defined(&service).await;
        tell(&service, Command::Start { job: job_id(70), kind: RunKind::Unplanned }).await;
        until(&service, |plan| plan.running().is_some_and(Run::waits_for_somebody)).await;
        let second = service.site.state::<Vm>(vms[1].0).await.expect("it is there");
        assert!(second.waits_for_plan(), "the gate of the first group is shut");
        tell(&service, Command::Cancel).await;
        let is_let_go =
            |plan: &Plan| plan.run.as_ref().is_some_and(|run| run.let_go.contains(&vms[1]));
        until(&service, is_let_go).await;
        service.sleep(Duration::from_mins(1)).await;
        let second = service.site.state::<Vm>(vms[1].0).await.expect("it is there");
        assert_eq!(second.phase, Phase::CommitPending(FailoverKind::Unplanned));
        assert_eq!(second.held, None);
    });
    bed.outside.check();
}

/// What is done with the plan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// A test and its clean-up, a planned failover and its commit.
    TestedAndMoved,
    /// An unplanned failover and its commit; once its VMs were brought back by hand, the commit of that and the
    /// reversal.
    LostAndBack,
}

impl Life {
    /// What is run of the plan, one after the other.
    fn runs(self) -> [RunKind; 4] {
        let network = "apart".to_owned();
        match self {
            Self::TestedAndMoved => {
                [RunKind::Test { network }, RunKind::CleanUp, RunKind::Planned, RunKind::Commit]
            }
            Self::LostAndBack => {
                [RunKind::Unplanned, RunKind::Commit, RunKind::Commit, RunKind::Reverse]
            }
        }
    }

    /// Whether the VMs are brought back before the run of this number.
    fn brings_back_before(self, nth: usize) -> bool {
        self == Self::LostAndBack && nth == 2
    }

    /// In which state the VMs are in the end.
    fn last_phase(self) -> Phase {
        match self {
            Self::TestedAndMoved => Phase::FailedOver(FailoverKind::Planned),
            Self::LostAndBack => Phase::Protected,
        }
    }
}

/// Goes on with bringing the VMs back; answers whether they are.
async fn are_back(service: &Running<'_>) -> bool {
    let mut all = true;
    for nth in [1, 2] {
        let next = match service.vm(vm_id(nth)).await.phase {
            Phase::FailbackCommitPending => continue,
            Phase::FailedOver(_) => {
                Some(VmCommand::Failback { job: job_id(80 + nth), in_full: false })
            }
            Phase::FailbackReady => Some(VmCommand::CompleteFailback { job: job_id(90 + nth) }),
            _ => None,
        };
        all = false;
        if let Some(command) = next {
            // Refused where the state has moved on since it was looked at.
            let _ = service.tell_vm(vm_id(nth), command).await;
        }
    }
    all
}

/// Begins whatever comes next until all runs have ended.
async fn run_all(service: Running<'_>, life: Life) {
    let began = service.bed.clock.elapsed();
    let job = |nth: usize| job_id(70 + nth as u128);
    loop {
        let run = plan(&service).await.run;
        assert!(service.bed.clock.elapsed() - began < DAY, "{run:#?}");
        let next = match &run {
            None => Some(0),
            Some(run) if run.ended.is_some() => {
                (0..life.runs().len()).find(|nth| run.job == job(*nth)).map(|nth| nth + 1)
            }
            Some(_) => None,
        };
        match next.map(|nth| (nth, life.runs().into_iter().nth(nth))) {
            Some((nth, _)) if life.brings_back_before(nth) && !are_back(&service).await => {}
            Some((nth, Some(kind))) => tell(&service, Command::Start { job: job(nth), kind }).await,
            Some((_, None)) => return,
            None => {}
        }
        service.sleep(SECOND).await;
    }
}

/// What the runs come to when the service is killed at an instant; with what was going on at each.
fn run_through(life: Life, kill: Option<usize>) -> (Testbed, Vec<String>, serde_json::Value) {
    let bed = Testbed::new();
    bed.fate.kill_at(None);
    bed.run(async |service: Running| defined(&service).await);
    let mut told = Vec::new();
    for kill in kill.into_iter().map(Some).chain([None]) {
        bed.fate.kill_at(kill);
        let complete = bed.run(async |service: Running| {
            bed.fate.until_killed(run_all(service, life)).await.is_some()
        });
        told = bed.fate.instants();
        if complete {
            break;
        }
    }
    let plan = bed.run(async |service: Running| plan(&service).await);
    let vms = [vm_id(1), vm_id(2)].map(|id| {
        let (vm, facts) = (bed.logged(id), bed.outside.facts(id));
        let Facts { fenced, runs_at_primary, runs_at_recovery, .. } = facts;
        let test = vm.last_test.map(|test| test.succeeded);
        let phase = vm.phase.to_string();
        serde_json::json!([phase, vm.held, test, fenced, runs_at_primary, runs_at_recovery])
    });
    let outcome = serde_json::json!({ "plan": timeless(&plan), "vms": vms });
    (bed, told, outcome)
}

#[test]
fn tests_and_planned_runs_of_a_plan_come_to_the_same_whenever_the_service_is_killed() {
    killed_at_every_instant(Life::TestedAndMoved);
}

#[test]
fn unplanned_runs_and_reversals_of_a_plan_come_to_the_same_whenever_the_service_is_killed() {
    killed_at_every_instant(Life::LostAndBack);
}

fn killed_at_every_instant(life: Life) {
    let (bed, instants, expected) = run_through(life, None);
    bed.outside.check();
    assert!(200 < instants.len(), "{instants:#?}");
    for vm in expected["vms"].as_array().unwrap() {
        assert_eq!(vm[0], life.last_phase().to_string(), "{expected:#}");
    }
    for (kill, instant) in instants.iter().enumerate() {
        let (bed, _, found) = run_through(life, Some(kill));
        assert_eq!(found, expected, "killed at {kill}: {instant}");
        bed.outside.check();
    }
    println!("{} instants", instants.len());
}
