//! What an operation would do if it were asked for: allowed or not, the checks, and the consequence.

use super::control::Outside;
use super::failback;
use super::operation::{Asked, Needs, Operation, disk_to_add, test_network};
use super::problem::Problem;
use crate::domain::entity::Entity;
use crate::domain::failure::Failure;
use crate::domain::host::Host;
use crate::domain::id::JobId;
use crate::domain::placement::Purpose;
use crate::domain::plan::{
    ActionKind, Command, Move, Plan, Probe, Run, RunKind, RunOptions, Task, next_move,
};
use crate::domain::prerequisites::of_cluster;
use crate::domain::time::Timestamp;
use crate::domain::vm::{self, Phase, PointChoice, Vm};
use crate::views::{PointView, PrerequisiteView, Site, TargetView};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;

/// The answer to `?dry_run=true`. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outlook {
    /// What was asked.
    pub operation: String,
    /// Of which VM; or of which cloud, network or recovery plan, where it is not done to a VM.
    pub vm: String,
    /// Whether the state allows it.
    pub allowed: bool,
    /// Whether it changes anything: what is so already is allowed and changes nothing.
    pub changes: bool,
    /// Whether everything that it needs is there as well.
    pub ready: bool,
    /// Each thing that was looked at.
    pub checks: Vec<Check>,
    /// What it would do, in plain words.
    pub consequence: String,
    /// The recovery point that the VM would start from.
    pub recovery_point: Option<PointView>,
    /// Seconds of writes that would be lost at most.
    pub lost_seconds: Option<f64>,
    /// Bytes of logs that would be lost, where that is known.
    pub lost_log_bytes: Option<u64>,
    /// Why the state does not allow it.
    pub problem: Option<Problem>,
    /// Where the replica, or the copy of a test, would go.
    #[serde(default)]
    pub target: Option<TargetView>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What should be the case.
    pub name: String,
    /// Whether it is.
    pub ok: bool,
    /// Why not.
    pub because: Option<String>,
}

impl Check {
    pub(super) fn of(name: String, because: Option<String>) -> Self {
        Self { name, ok: because.is_none(), because }
    }
}

impl Outlook {
    /// Looks at an operation. The state machine itself is asked: on a state that is thrown away.
    pub(super) fn new(operation: &Operation, asked: &Asked<'_>) -> Result<Self, Problem> {
        let own = own_check(operation, asked)?;
        let decided = match (operation.command)(asked) {
            Ok(command) => asked.vm.decide(&command, asked.now).map_err(Problem::from),
            // The other checks are told as well.
            Err(problem) if own.as_ref().is_some_and(|(_, check)| !check.ok) => Err(problem),
            Err(problem) => return Err(problem),
        };
        let changes = decided.as_ref().is_ok_and(|events| !events.is_empty());
        let problem = decided.err();
        let loses = operation.path == "unplanned-failover" && problem.is_none();
        let point = asked.point().filter(|_| loses);
        let recovery_point = point.map(|point| PointView::new(point, asked.vm, asked.now));
        let refused = problem.as_ref().map(|problem| problem.detail.clone());
        let refused = match &own {
            Some((operation, check)) if !check.ok => state_forbids(asked.vm, operation),
            _ => refused,
        };
        let mut checks = vec![Check::of("the state allows it".to_owned(), refused)];
        let chosen = match operation.path {
            "failback" => failback::chosen_host(asked)?,
            _ => None,
        };
        let host = chosen.or_else(|| asked.site.hosts.get(&asked.vm.host));
        let needs = match operation.needs {
            Needs::VaultAndSource if asked.asks_source() => Needs::HostAndVault,
            Needs::VaultAndSource => Needs::Vault,
            needs => needs,
        };
        checks.extend(outside_checks(needs, asked.site, asked.vm, host));
        checks.extend(chosen.map(|host| failback::checks(asked, host)).unwrap_or_default());
        checks.extend(own.map(|(_, check)| check));
        checks.extend(prerequisites(operation, asked));
        let (target, place) = target(operation, asked);
        checks.extend(place);
        Ok(Self {
            target,
            operation: operation.path.to_owned(),
            vm: asked.vm.name.clone(),
            allowed: problem.is_none(),
            changes,
            ready: checks.iter().all(|check| check.ok),
            checks,
            consequence: (operation.consequence)(asked),
            lost_seconds: recovery_point.as_ref().map(|point| point.age_seconds),
            lost_log_bytes: asked.log_bytes().filter(|_| loses),
            recovery_point,
            problem,
        })
    }

    /// The same, of something that is not allowed, whatever else was looked at.
    pub(super) fn refused(mut self, problem: Problem) -> Self {
        let because = Some(problem.detail.clone());
        let state = Check::of("the state allows it".to_owned(), because);
        match self.checks.first_mut() {
            Some(first) => *first = state,
            None => self.checks.push(state),
        }
        (self.allowed, self.changes, self.ready) = (false, false, false);
        Self { problem: Some(problem), ..self }
    }

    /// The same with another thing that was looked at.
    pub(super) fn with(mut self, check: Check) -> Self {
        self.ready &= check.ok;
        self.checks.push(check);
        self
    }

    /// Of a change that is allowed, and not done to one VM: there is nothing else that it needs.
    pub(super) fn of_change(
        operation: &str,
        target: &str,
        changes: bool,
        consequence: String,
    ) -> Self {
        Self {
            operation: operation.to_owned(),
            vm: target.to_owned(),
            allowed: true,
            changes,
            ready: true,
            checks: vec![],
            consequence,
            recovery_point: None,
            lost_seconds: None,
            lost_log_bytes: None,
            problem: None,
            target: None,
        }
    }
}

/// What an operation asks of what the VM itself does not know, with the name by which the VM allows it: whether an
/// image can be its disk, whether its host is gone.
fn own_check(
    operation: &Operation,
    asked: &Asked<'_>,
) -> Result<Option<(&'static str, Check)>, Problem> {
    Ok(match operation.path {
        "add-disk" => {
            let because = disk_to_add(asked)?.err().map(|failure| failure.to_string());
            let name = "the image can be a disk of the VM".to_owned();
            Some(("AddDisks", Check::of(name, because)))
        }
        "unprotect" => asked.source_that_is_gone()?.map(|(host, answers)| {
            let because = answers.then(|| "it answers: let it end tracking".to_owned());
            ("DisableProtection", Check::of(format!("host {host} is gone"), because))
        }),
        _ => None,
    })
}

/// Why a VM does not allow an operation as it is, whatever else the operation asks for.
fn state_forbids(vm: &Vm, operation: &str) -> Option<String> {
    let allowed = vm.allowed_operations();
    let names = allowed.join(", ");
    (!allowed.contains(&operation)).then(|| format!("it allows {names}, and not {operation}"))
}

/// What the VM must be to be protected, as it is or with the disk that is to be added.
fn prerequisites(operation: &Operation, asked: &Asked<'_>) -> Vec<Check> {
    let all = match operation.path {
        "protect" => prerequisites_of(asked.vm, asked.site, asked.outside),
        "add-disk" => {
            let mut vm = asked.vm.clone();
            vm.disks.extend(disk_to_add(asked).into_iter().flatten());
            PrerequisiteView::all(&vm)
        }
        _ => return vec![],
    };
    let check = |it: PrerequisiteView| {
        let because = it.found.map(|found| format!("{found}. {}", it.action));
        Check::of(format!("{}: {}", it.id, it.rule), because)
    };
    all.into_iter().map(check).collect()
}

/// What is asked of a VM, and of the cluster of its host if it is in one.
pub(super) fn prerequisites_of(
    vm: &Vm,
    site: &Site,
    outside: &dyn Outside,
) -> Vec<PrerequisiteView> {
    let mut all = PrerequisiteView::all(vm);
    let members = outside.cluster_of(vm.host);
    if !members.is_empty() {
        let registered = |name: &str| {
            let mut hosts = site.hosts.values();
            hosts.any(|host| host.name == name && host.agent.is_some())
        };
        let unregistered = members.into_iter().filter(|name| !registered(name));
        all.push(of_cluster(unregistered).into());
    }
    all
}

/// Where the replica would go, and whether it can.
fn target(operation: &Operation, asked: &Asked<'_>) -> (Option<TargetView>, Option<Check>) {
    let network = test_network(asked).unwrap_or_default();
    let purpose = match operation.path {
        "planned-failover" => Purpose::Planned,
        "unplanned-failover" => Purpose::Unplanned,
        "test-failover" => Purpose::Test(&network),
        "failback" => Purpose::Failback,
        _ => return (None, None),
    };
    let (vm, site) = (asked.vm, asked.site);
    let Some(sites) = site.sites() else { return (None, None) };
    if purpose == Purpose::Failback && sites.place(vm, purpose).is_none() {
        return (None, None);
    }
    let mut target = TargetView::new(vm, site, purpose);
    let is_failover = matches!(purpose, Purpose::Planned | Purpose::Unplanned);
    if let (Some(target), true) = (&mut target, is_failover) {
        target.add_clashes(vm, &site.clashes(), site);
    }
    let side = if purpose == Purpose::Failback { "primary" } else { "recovery" };
    let because = no_place(vm, site, purpose);
    (target, Some(Check::of(format!("there is a place at the {side} site"), because)))
}

/// Why a VM would not find its place, if it would not.
fn no_place(vm: &Vm, site: &Site, purpose: Purpose<'_>) -> Option<String> {
    let hindrances = site.sites()?.hindrances(vm, purpose);
    (!hindrances.is_empty()).then(|| hindrances.join("; "))
}

/// Whether those answer that the operation needs.
fn outside_checks(needs: Needs, site: &Site, vm: &Vm, host: Option<&Host>) -> Vec<Check> {
    let mut checks = Vec::new();
    if let (Needs::HostAndVault, Some(host)) = (needs, host) {
        checks.push(host_answers(host));
    }
    let vault = site.vaults.get(&vm.vault);
    if let (Needs::HostAndVault | Needs::Vault, Some(vault)) = (needs, vault) {
        let name = format!("vault {} can be reached", vault.name);
        checks.push(Check::of(name, lasting(vault.unreachable.as_ref())));
    }
    checks
}

/// Whether a host answers.
pub(super) fn host_answers(host: &Host) -> Check {
    Check::of(format!("host {} answers", host.name), lasting(host.silent.as_ref()))
}

fn lasting(failed: Option<&(Timestamp, Failure)>) -> Option<String> {
    failed.map(|(since, failure)| format!("{failure}, since {since}"))
}

/// What an operation on a recovery plan would do; for a run, what would fail. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanOutlook {
    /// What was asked.
    pub operation: String,
    /// Of which plan.
    pub plan: String,
    /// Whether the state of the plan allows it.
    pub allowed: bool,
    /// Whether it changes anything.
    pub changes: bool,
    /// Whether each VM, script, host and vault is ready as well.
    pub ready: bool,
    /// Each thing that was looked at.
    pub checks: Vec<Check>,
    /// What it would do, in plain words.
    pub consequence: String,
    /// What a run would do with each of its VMs, in the order of the plan.
    #[serde(default)]
    pub vms: Vec<VmOutlook>,
    /// Why the state does not allow it.
    pub problem: Option<Problem>,
}

/// What a run would do with one VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmOutlook {
    /// Which.
    pub vm: String,
    /// Whether it begins what the run is for; it does not where it is so already, or cannot.
    pub begins: bool,
    /// Why it cannot.
    pub because: Option<String>,
    /// The recovery point that it, or its copy, would start from, as far as it is known.
    pub recovery_point: Option<PointView>,
    /// Seconds of writes that would be lost at most.
    pub lost_seconds: Option<f64>,
    /// Bytes of logs that would be lost, where that is known.
    pub lost_log_bytes: Option<u64>,
    /// What is to be said of it, in plain words.
    pub consequence: Option<String>,
}

impl PlanOutlook {
    /// Looks at an operation. The state machines themselves are asked: on states that are thrown away.
    pub(super) fn new(
        operation: &str,
        command: &Command,
        plan: &Plan,
        site: &Site,
        outside: &dyn Outside,
        now: Timestamp,
    ) -> Self {
        // One that is to be defined has its name already, which its state may not.
        let known = site.plans.get(&plan.id).cloned().unwrap_or_default();
        let decided = deletable(command, plan, site)
            .and_then(|()| known.decide(command, now).map_err(Problem::from));
        let changes = decided.as_ref().is_ok_and(|events| !events.is_empty());
        let mut begun = known;
        decided.iter().flatten().for_each(|event| begun.apply(event, now));
        let problem = decided.err();
        let refused = problem.as_ref().map(|problem| problem.detail.clone());
        let mut checks = vec![Check::of("the state of the plan allows it".to_owned(), refused)];
        let (mut consequence, mut vms) = (consequence(command, plan, site), vec![]);
        if let (None, Command::Start { .. } | Command::StartWith { .. }, Some(run)) =
            (&problem, command, &begun.run)
        {
            let run = at_its_vms(run);
            checks.extend(vm_checks(&begun, &run, site, now));
            checks.extend(script_checks(&run, outside));
            vms = of_each_vm(&begun, &run, site, outside, now);
            for line in vms.iter().filter_map(|it| it.consequence.as_ref()) {
                consequence.push_str("\n  ");
                consequence.push_str(line);
            }
        }
        Self {
            operation: operation.to_owned(),
            plan: plan.name.clone(),
            allowed: problem.is_none(),
            changes,
            ready: checks.iter().all(|check| check.ok),
            checks,
            consequence,
            vms,
            problem,
        }
    }
}

/// Where it is asked of a job, what it is of makes no difference.
impl From<PlanOutlook> for Outlook {
    fn from(outlook: PlanOutlook) -> Self {
        let of_plan = Self::of_change(
            &outlook.operation,
            &outlook.plan,
            outlook.changes,
            outlook.consequence,
        );
        let PlanOutlook { allowed, ready, checks, problem, .. } = outlook;
        Self { allowed, ready, checks, problem, ..of_plan }
    }
}

/// A run at the step in which its VMs begin what it is for.
fn at_its_vms(run: &Run) -> Run {
    let is_for_all = |task: &Task| matches!(task, Task::ShutDown | Task::FailOver | Task::All);
    let step = run.steps.iter().zip(0..).find(|(step, _)| is_for_all(&step.task));
    Run { current: step.map_or(0, |(_, number)| number), ..run.clone() }
}

/// Whether each VM can do what the run is for, and whether those answer that it needs.
fn vm_checks(plan: &Plan, run: &Run, site: &Site, now: Timestamp) -> Vec<Check> {
    let (needs, purpose) = match &run.kind {
        RunKind::Planned => (Needs::HostAndVault, Some(Purpose::Planned)),
        RunKind::Reverse => (Needs::HostAndVault, None),
        RunKind::Test { network } => (Needs::Vault, Some(Purpose::Test(network))),
        RunKind::Unplanned => (Needs::Vault, Some(Purpose::Unplanned)),
        RunKind::Commit => (Needs::Vault, None),
        RunKind::CleanUp => (Needs::Nothing, None),
    };
    let (mut checks, mut around) = (Vec::new(), Vec::new());
    for id in plan.definition.vms() {
        let Some(vm) = site.vms.get(&id).filter(|vm| !vm.name.is_empty()) else {
            checks.push(Check::of(format!("VM {id}"), Some("it does not exist".to_owned())));
            continue;
        };
        let because = match part(plan, run, vm, now) {
            Part::Begins => purpose.and_then(|purpose| no_place(vm, site, purpose)),
            Part::PassedOver => None,
            Part::Cannot(why) => Some(why),
        };
        checks.push(Check::of(format!("VM {}", vm.name), because));
        for check in outside_checks(needs, site, vm, site.hosts.get(&vm.host)) {
            if !around.contains(&check) {
                around.push(check);
            }
        }
    }
    checks.append(&mut around);
    checks
}

/// What comes of a VM in a run.
enum Part {
    /// It begins what the run is for.
    Begins,
    /// It has done so, or is at it.
    PassedOver,
    /// It cannot.
    Cannot(String),
}

/// What would come of a VM in the current step.
fn part(plan: &Plan, run: &Run, vm: &Vm, now: Timestamp) -> Part {
    let mut vm = vm.clone();
    loop {
        let command = match next_move(plan, run, &vm) {
            Move::Tell(command) => command,
            Move::Fail(why) => return Part::Cannot(why),
            Move::Wait | Move::Done => return Part::PassedOver,
        };
        let events = match vm.decide(&command, now) {
            Ok(events) => events,
            Err(rejection) => return Part::Cannot(rejection.to_string()),
        };
        // That it is held, or let go on, is only the beginning of its part.
        let is_of_plan = matches!(
            *command,
            vm::Command::HoldStart { .. }
                | vm::Command::HoldFailover
                | vm::Command::ReleaseFailover
        );
        if events.is_empty() || !is_of_plan {
            return Part::Begins;
        }
        for event in &events {
            vm.apply(event, now);
        }
    }
}

/// What becomes of each VM: from which point it starts and what is lost of it, and which are passed over.
fn of_each_vm(
    plan: &Plan,
    run: &Run,
    site: &Site,
    outside: &dyn Outside,
    now: Timestamp,
) -> Vec<VmOutlook> {
    let body = json!({ "point": run.options.point.to_string() }).to_string();
    let vms = plan.definition.vms().filter_map(|id| site.vms.get(&id));
    let is_unplanned = run.kind == RunKind::Unplanned;
    let moves = matches!(run.kind, RunKind::Planned | RunKind::Unplanned);
    let outlook = |vm: &Vm| {
        let asked = Asked { vm, site, outside, now, job: JobId::default(), body: body.as_bytes() };
        let part = part(plan, run, vm, now);
        let begins = matches!(part, Part::Begins);
        let starts = begins && (is_unplanned || matches!(run.kind, RunKind::Test { .. }));
        let point = asked.point().filter(|_| starts);
        let recovery_point = point.map(|point| PointView::new(point, vm, now));
        let sends = run.options.synchronize && vm.can_send_the_latest();
        let loses = begins && is_unplanned && !sends;
        let passed_over = moves && matches!(part, Part::PassedOver);
        let consequence = match &part {
            Part::Begins if is_unplanned && run.options.synchronize => {
                Some(asked.loss_if_not_synchronized())
            }
            Part::Begins if is_unplanned => Some(asked.loss()),
            Part::PassedOver if passed_over => Some(why_passed_over(plan, vm)),
            Part::Begins | Part::PassedOver | Part::Cannot(_) => None,
        };
        VmOutlook {
            vm: vm.name.clone(),
            begins,
            lost_seconds: recovery_point.as_ref().map(|it| it.age_seconds).filter(|_| loses),
            lost_log_bytes: asked.log_bytes().filter(|_| loses),
            recovery_point,
            because: match part {
                Part::Cannot(why) => Some(why),
                Part::Begins | Part::PassedOver => None,
            },
            consequence,
        }
    };
    vms.map(outlook).collect()
}

fn why_passed_over(plan: &Plan, vm: &Vm) -> String {
    let name = &vm.name;
    match vm.held == Some(plan.id) {
        true if vm.held_off && vm.failover_waits_for_plan() => {
            format!("{name} is shut down already, and goes on from there.")
        }
        true if vm.held_off => {
            format!("{name} is being shut down already, and goes on from there.")
        }
        true => format!("{name} could start already, and starts with its group."),
        false => format!("{name} is passed over: it is {}.", vm.phase),
    }
}

/// Whether the programs are there that the run would start.
fn script_checks(run: &Run, outside: &dyn Outside) -> Vec<Check> {
    let actions = run.steps.iter().filter_map(|step| match &step.task {
        Task::Act { action, .. } => Some(action),
        _ => None,
    });
    let commands = actions.filter_map(|action| match &action.kind {
        ActionKind::Script { command, .. }
        | ActionKind::Gate { probe: Probe::Script { command }, .. } => {
            Some((&action.name, command.first()?))
        }
        ActionKind::Gate { .. } | ActionKind::Manual { .. } => None,
    });
    let commands: BTreeSet<_> = commands.collect();
    let check = |(name, program): (&String, &String)| {
        Check::of(format!("script of {name}"), outside.program_missing(program))
    };
    commands.into_iter().map(check).collect()
}

/// A plan that left VMs off is not deleted: they can be started in their order by it alone, and are found by
/// its name.
pub(super) fn deletable(command: &Command, plan: &Plan, site: &Site) -> Result<(), Problem> {
    let off: Vec<_> = site.kept_off_by(plan.id).map(|vm| vm.name.clone()).collect();
    if *command != Command::Delete || off.is_empty() {
        return Ok(());
    }
    Err(Problem::not_allowed(format!(
        "{} cannot be deleted while its last run leaves VMs off at both sites: {}. Run it again, or decide each with \
         `lifeboat failover release VM` or `lifeboat failover cancel VM`",
        plan.name,
        off.join(", ")
    )))
}

fn consequence(command: &Command, plan: &Plan, site: &Site) -> String {
    let (name, vms) = (&plan.name, plan.definition.vms().count());
    match command {
        Command::Define { .. } => String::new(),
        Command::DefinePlan { definition, .. } => {
            let (vms, groups) = (definition.vms().count(), definition.groups.len());
            format!("{name} fails over {vms} VMs in {groups} groups. No VM is touched.")
        }
        Command::Delete => format!("The plan {name} is deleted. Its {vms} VMs stay as they are."),
        Command::Start { kind, .. } => run_in_words(kind, &RunOptions::default(), plan, site),
        Command::StartWith { kind, options, .. } => run_in_words(kind, options, plan, site),
        Command::Continue { .. } => format!("The run of {name} goes on with the next step."),
        Command::Retry { .. } => format!("The step of {name} that failed is tried once more."),
        Command::Cancel => match plan.running() {
            Some(run) => end_of_run(run, name, site),
            None => String::new(),
        },
        Command::ReportAction { .. } | Command::ReportVm { .. } | Command::ReportLetGo { .. } => {
            String::new()
        }
    }
}

/// What a run does with the VMs of a plan.
fn run_in_words(kind: &RunKind, options: &RunOptions, plan: &Plan, site: &Site) -> String {
    let (name, vms) = (&plan.name, plan.definition.vms().count());
    let points = match options.point {
        PointChoice::LatestApplicationConsistent => {
            "their latest application-consistent recovery points"
        }
        PointChoice::LatestProcessed => "their latest recovery points that are known now",
        PointChoice::Latest | PointChoice::Cycle(_) => "their latest recovery points",
    };
    match kind {
        RunKind::Test { network } => format!(
            "Copies of the {vms} VMs of {name} start in {network} from {points}, group by group. Replication goes \
             on. What is not cleaned up after {} h is then cleaned up by itself.",
            options.lease_h
        ),
        RunKind::Planned => format!(
            "The {vms} VMs of {name} are shut down, their last changes are sent, and they start at \
             the recovery site, group by group. Nothing is lost; they do not run meanwhile."
        ),
        RunKind::Unplanned if options.synchronize => format!(
            "The {vms} VMs of {name} are shut down and what they wrote last is sent, as far as hosts and vault \
             answer. Then they start at the recovery site, group by group; only where they did not answer, what was \
             written since the latest recovery point is lost."
        ),
        RunKind::Unplanned => format!(
            "The {vms} VMs of {name} start at the recovery site from {points}, group by group. What was written since \
             then is lost."
        ),
        RunKind::CleanUp => format!("The test copies of the {vms} VMs of {name} are deleted."),
        RunKind::Commit => {
            let known = plan.definition.vms().filter_map(|id| site.vms.get(&id));
            let back = known.filter(|vm| vm.phase == Phase::FailbackCommitPending).count();
            let parts = [
                (vms - back, "failover", "other recovery points are deleted"),
                (
                    back,
                    "failback",
                    "the replicas' disks at the recovery site are deleted, recovery points stay",
                ),
            ];
            let parts = parts.into_iter().filter(|(count, _, _)| 0 < *count);
            let parts = parts.map(|(count, what, then)| {
                format!("The {what} of {count} VMs of {name} becomes final: {then}.")
            });
            parts.collect::<Vec<_>>().join(" ")
        }
        RunKind::Reverse => format!("The {vms} VMs of {name} are replicated again."),
    }
}

/// What becomes of the VMs if a run ends now. See `let_go` of the domain.
fn end_of_run(run: &Run, name: &str, site: &Site) -> String {
    if !run.kind.fails_over() {
        return format!(
            "The run of {name} ends. What its VMs have begun goes on, the others stay as they are."
        );
    }
    if !run.touches_vms() {
        return format!("The run of {name} ends. No VM has been touched.");
    }
    let names = |is_meant: &dyn Fn(&Vm) -> bool| {
        let waiting = run.not_started().filter_map(|id| site.vms.get(&id));
        let names = waiting.filter(|vm| is_meant(vm)).map(|vm| vm.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let stays = format!("The run of {name} ends. VMs that it has started stay so.");
    let (moved, what_becomes) = match run.kind {
        RunKind::Test { .. } => (
            names(&|vm| vm.test.is_some()),
            "their copies start without waiting for their groups, until the tests are cleaned up",
        ),
        RunKind::Planned => (
            names(&|vm| matches!(vm.phase, Phase::FailingOver(_))),
            "off at both sites from here on, until the plan is run again, or somebody starts them with \
             `lifeboat failover release VM` or takes them back with `lifeboat failover cancel VM`",
        ),
        _ => (
            names(&|vm| matches!(vm.phase, Phase::FailingOver(_))),
            "they start at the recovery site without waiting for their groups",
        ),
    };
    if moved.is_empty() { stays } else { format!("{stays} {moved}: {what_becomes}.") }
}
