//! How the steps of a recovery plan are done.

use super::{Hosted, Reporter, World};
use crate::actors::entity_actor::{EntityActor, TellError, catch_up, load_entity};
use crate::actors::supervisor::Shelves;
use crate::domain::entity::{Kind, StreamId};
use crate::domain::failure::Failure;
use crate::domain::id::{JobId, VmId};
use crate::domain::plan::{
    Action, ActionKind, Command, Effect, Move, Plan, Probe, Run, RunKind, Task, let_go, next_move,
    step_failure,
};
use crate::domain::vm::{PointChoice, Vm};
use crate::ports::actions::Ended;
use actix::Addr;
use futures_util::future::LocalBoxFuture;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Time between two looks at a VM of a step, or between two questions to a gate.
const LOOK: Duration = Duration::from_secs(1);

/// How long one question to a gate may take.
const PROBE_AT_MOST: Duration = Duration::from_secs(10);

/// Looks after which a VM that does not get on counts as failed: half an hour. It goes on by itself even so.
const LOOKS_MAX: u32 = 1800;

impl Hosted for Plan {
    const WORKER: &'static str = "plan";
    const STATE_SCHEMA: u16 = 4;

    fn shelf(shelves: &mut Shelves) -> &mut BTreeMap<Uuid, Addr<EntityActor<Self>>> {
        &mut shelves.plans
    }

    fn running_job(&self) -> Option<JobId> {
        self.running().map(|run| run.job)
    }

    fn perform(
        state: &Arc<Self>,
        effect: Effect,
        world: Arc<World>,
        reporter: Reporter<Self>,
    ) -> LocalBoxFuture<'static, Command> {
        let plan = Arc::clone(state);
        Box::pin(async move {
            match effect {
                Effect::Act { job, step } => {
                    let (output, failure) = match plan.running().and_then(Run::step) {
                        Some(now) => match &now.task {
                            Task::Act { action, group } => act(&plan, action, *group, &world).await,
                            Task::ShutDown | Task::FailOver | Task::Boot { .. } | Task::All => {
                                Default::default()
                            }
                        },
                        None => Default::default(),
                    };
                    Command::ReportAction { job, step, output, failure }
                }
                Effect::Move { job, step, vm } => {
                    let moved = bring_along(&plan, vm, next_move, &world, &reporter).await;
                    let failure = moved.err().map(|why| vm_failed(&plan, &why));
                    Command::ReportVm { job, step, vm, failure }
                }
                Effect::LetGo { job, vm } => {
                    // What the run told it last arrives before it is looked at.
                    actix::clock::sleep(LOOK).await;
                    if let Err(why) = bring_along(&plan, vm, let_go, &world, &reporter).await {
                        tracing::warn!(%vm, why, "let go of a VM of a recovery plan");
                    }
                    Command::ReportLetGo { job, vm }
                }
            }
        })
    }
}

fn vm_failed(plan: &Plan, why: &str) -> Failure {
    let step = plan.running().and_then(Run::step);
    let name = match step.map(|step| &step.task) {
        Some(Task::ShutDown) => "shutdown of all VMs".to_owned(),
        Some(Task::FailOver) => "failover of all VMs".to_owned(),
        Some(Task::Boot { group }) => format!("start of group {group}"),
        _ => plan.running().map_or_else(String::new, |run| run.kind.name().to_owned()),
    };
    step_failure(&name, why)
}

/// Tells a VM what comes `next` for it until it has done its part.
async fn bring_along(
    plan: &Plan,
    id: VmId,
    next: fn(&Plan, &Run, &Vm) -> Move,
    world: &World,
    reporter: &Reporter<Plan>,
) -> Result<(), String> {
    let Some(run) = &plan.run else { return Ok(()) };
    let stream = StreamId { kind: Kind::Vm, id: id.0 };
    let (mut vm, mut seq) = load_entity::<Vm>(&*world.store, stream).map_err(in_words)?;
    for _ in 0..LOOKS_MAX {
        catch_up(&*world.store, stream, &mut vm, &mut seq).map_err(in_words)?;
        if vm.name.is_empty() {
            return Err(format!("there is no VM {id}"));
        }
        match next(plan, run, &vm) {
            Move::Done => return Ok(()),
            Move::Fail(why) => return Err(why),
            Move::Tell(command) => match reporter.tell::<Vm>(id.0, *command).await {
                // What was told shows at the next look; a VM may have gone on since the last.
                Ok(()) => continue,
                Err(TellError::Rejected(rejection)) => return Err(rejection.to_string()),
                Err(error) => tracing::warn!(%id, %error, "tell a VM of a recovery plan"),
            },
            Move::Wait => {}
        }
        actix::clock::sleep(LOOK).await;
    }
    Err(format!("it did not get on for {} minutes", LOOK.as_secs() * u64::from(LOOKS_MAX) / 60))
}

fn in_words(error: impl std::error::Error) -> String {
    error.to_string()
}

/// Does an action; answers what it printed, and why it failed.
async fn act(
    plan: &Plan,
    action: &Action,
    group: Option<u32>,
    world: &World,
) -> (String, Option<Failure>) {
    let ended = match &action.kind {
        ActionKind::Script { command, timeout_s } => {
            let context = context(plan, group, world);
            world.actions.run(command, &context, Duration::from_secs(u64::from(*timeout_s))).await
        }
        ActionKind::Gate { probe, within_s } => wait_at_gate(probe, *within_s, world).await,
        // A person does it; nothing calls for it here.
        ActionKind::Manual { .. } => Ended::default(),
    };
    (ended.output, ended.failure.map(|why| action.failure(why)))
}

async fn wait_at_gate(probe: &Probe, within_s: u32, world: &World) -> Ended {
    let within = Duration::from_secs(u64::from(within_s));
    let asking = async {
        let mut last = String::new();
        let opened = actix::clock::timeout(within, async {
            while let Err(why) = world.actions.probe(probe, PROBE_AT_MOST.min(within)).await {
                last = why;
                actix::clock::sleep(LOOK).await;
            }
        });
        match opened.await {
            Ok(()) => None,
            Err(_) if last.is_empty() => Some(format!("no answer within {within_s} s")),
            Err(_) => Some(format!("not open within {within_s} s: {last}")),
        }
    };
    Ended { output: String::new(), failure: asking.await }
}

/// What a script is told of the run: the context document of Site Recovery's runbooks, with our ids.
fn context(plan: &Plan, group: Option<u32>, world: &World) -> String {
    let Some(run) = plan.running() else { return String::new() };
    let vms = plan.definition.vms().filter_map(|id| {
        let stream = StreamId { kind: Kind::Vm, id: id.0 };
        let (vm, _) = load_entity::<Vm>(&*world.store, stream).ok()?;
        let test = vm.test.as_ref().map(|test| test.point);
        let failed_over = vm.failover.map(|failover| failover.point);
        let point = test.or(failed_over).map(|point| point.id(vm.id).to_string());
        let latest = vm.known_point(PointChoice::Latest).map(|point| point.id(vm.id).to_string());
        let of_test = vm.test.as_ref().and_then(|test| test.placement.as_ref());
        let placement = of_test.or(vm.placement.as_ref());
        let nics = placement.iter().flat_map(|placement| &placement.nics);
        let nics = nics.map(|nic| {
            json!({ "Name": nic.nic, "Network": nic.network, "Subnet": nic.subnet,
                "Address": nic.address, "Primary": nic.primary })
        });
        let state = json!({ "Name": vm.name, "State": vm.phase.to_string(),
            "RecoveryPointId": point, "LatestRecoveryPointId": latest,
            "Size": placement.map(|placement| &placement.size), "Nics": nics.collect::<Vec<_>>() });
        Some((id.to_string(), state))
    });
    let failover_type = match run.kind {
        RunKind::Test { .. } => "Test",
        RunKind::Planned => "Planned",
        _ => "Unplanned",
    };
    json!({
        "RecoveryPlanName": plan.name,
        "FailoverType": failover_type,
        "FailoverDirection": "PrimaryToRecovery",
        "GroupId": group.map(|group| format!("Group{group}")),
        "VmMap": vms.collect::<serde_json::Map<_, _>>(),
    })
    .to_string()
}
