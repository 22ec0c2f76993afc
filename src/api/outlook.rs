//! What an operation would do if it were asked for: allowed or not, the checks, and the consequence.

use super::control::Outside;
use super::failback;
use super::operation::{Asked, Needs, Operation, disk_to_add, test_network};
use super::problem::Problem;
use crate::domain::entity::Entity;
use crate::domain::failure::Failure;
use crate::domain::host::Host;
use crate::domain::placement::{Placement, Purpose};
use crate::domain::plan::{
    ActionKind, Command, Move, Plan, Probe, Run, RunKind, RunOptions, Task, next_move,
};
use crate::domain::prerequisites::of_cluster;
use crate::domain::time::Timestamp;
use crate::domain::vm::{self, Phase, PointChoice, Vm};
use crate::views::{PointView, PrerequisiteView, Site, TargetView};
use serde::{Deserialize, Serialize};
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
        let image = image_check(operation, asked)?;
        let decided = match (operation.command)(asked) {
            Ok(command) => asked.vm.decide(&command, asked.now).map_err(Problem::from),
            // The other checks are told as well.
            Err(problem) if image.as_ref().is_some_and(|check| !check.ok) => Err(problem),
            Err(problem) => return Err(problem),
        };
        let changes = decided.as_ref().is_ok_and(|events| !events.is_empty());
        let problem = decided.err();
        let loses = operation.path == "unplanned-failover" && problem.is_none();
        let point = asked.point().filter(|_| loses);
        let recovery_point = point.map(|point| PointView::new(point, asked.vm, asked.now));
        let refused = problem.as_ref().map(|problem| problem.detail.clone());
        let refused = match &image {
            Some(check) if !check.ok => state_of_add(asked.vm),
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
        checks.extend(image);
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

/// Whether an image can be a disk of the VM, where that is asked.
fn image_check(operation: &Operation, asked: &Asked<'_>) -> Result<Option<Check>, Problem> {
    if operation.path != "add-disk" {
        return Ok(None);
    }
    let because = disk_to_add(asked)?.err().map(|failure| failure.to_string());
    Ok(Some(Check::of("the image can be a disk of the VM".to_owned(), because)))
}

/// Why a disk cannot be added to a VM as it is, whatever the disk.
fn state_of_add(vm: &Vm) -> Option<String> {
    let allowed = vm.allowed_operations();
    let names = allowed.join(", ");
    (!allowed.contains(&"AddDisks")).then(|| format!("it allows {names}, and no disk to be added"))
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
    let placed = match (sites.place(vm, purpose), purpose) {
        (Some(placed), _) => placed,
        (None, Purpose::Failback) => return (None, None),
        (None, _) => Ok(Placement::default()),
    };
    let wrong = sites.admits(purpose).and(placed.map(drop).map_err(|wrong| wrong.join("; ")));
    let mut target = TargetView::new(vm, site, purpose);
    let is_failover = matches!(purpose, Purpose::Planned | Purpose::Unplanned);
    if let (Some(target), true) = (&mut target, is_failover) {
        target.add_clashes(vm, &site.clashes(), site);
    }
    let site = if purpose == Purpose::Failback { "primary" } else { "recovery" };
    (target, Some(Check::of(format!("there is a place at the {site} site"), wrong.err())))
}

/// Whether those answer that the operation needs.
fn outside_checks(needs: Needs, site: &Site, vm: &Vm, host: Option<&Host>) -> Vec<Check> {
    let because = |failed: &Option<(Timestamp, Failure)>| {
        failed.as_ref().map(|(since, failure)| format!("{failure}, since {since}"))
    };
    let mut checks = Vec::new();
    if let (Needs::HostAndVault, Some(host)) = (needs, host) {
        checks.push(Check::of(format!("host {} answers", host.name), because(&host.silent)));
    }
    let vault = site.vaults.get(&vm.vault);
    if let (Needs::HostAndVault | Needs::Vault, Some(vault)) = (needs, vault) {
        let name = format!("vault {} can be reached", vault.name);
        checks.push(Check::of(name, because(&vault.unreachable)));
    }
    checks
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
    /// Why the state does not allow it.
    pub problem: Option<Problem>,
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
        if let (None, Command::Start { .. } | Command::StartWith { .. }, Some(run)) =
            (&problem, command, &begun.run)
        {
            checks.extend(vm_checks(&begun, run, site, now));
            checks.extend(script_checks(&begun, run, outside));
        }
        Self {
            operation: operation.to_owned(),
            plan: plan.name.clone(),
            allowed: problem.is_none(),
            changes,
            ready: checks.iter().all(|check| check.ok),
            checks,
            consequence: consequence(command, plan, site),
            problem,
        }
    }
}

/// Where it is asked of a job, what it is of makes no difference.
impl From<PlanOutlook> for Outlook {
    fn from(outlook: PlanOutlook) -> Self {
        let PlanOutlook { operation, plan, allowed, changes, ready, checks, consequence, problem } =
            outlook;
        let of_plan = Self::of_change(&operation, &plan, changes, consequence);
        Self { allowed, ready, checks, problem, ..of_plan }
    }
}

/// Whether each VM can do what the run is for, and whether those answer that it needs.
fn vm_checks(plan: &Plan, run: &Run, site: &Site, now: Timestamp) -> Vec<Check> {
    let mut run = run.clone();
    let is_for_all = |task: &Task| matches!(task, Task::FailOver | Task::All);
    let step = run.steps.iter().zip(0..).find(|(step, _)| is_for_all(&step.task));
    run.current = step.map_or(0, |(_, number)| number);
    let needs = match run.kind {
        RunKind::Planned | RunKind::Reverse => Needs::HostAndVault,
        RunKind::Test { .. } | RunKind::Unplanned | RunKind::Commit => Needs::Vault,
        RunKind::CleanUp => Needs::Nothing,
    };
    let (mut checks, mut around) = (Vec::new(), Vec::new());
    for id in plan.definition.vms() {
        let Some(vm) = site.vms.get(&id).filter(|vm| !vm.name.is_empty()) else {
            checks.push(Check::of(format!("VM {id}"), Some("it does not exist".to_owned())));
            continue;
        };
        checks.push(Check::of(format!("VM {}", vm.name), hindrance(plan, &run, vm, now)));
        for check in outside_checks(needs, site, vm, site.hosts.get(&vm.host)) {
            if !around.contains(&check) {
                around.push(check);
            }
        }
    }
    checks.append(&mut around);
    checks
}

/// Why a VM could not do its part of the current step, if it could not.
fn hindrance(plan: &Plan, run: &Run, vm: &Vm, now: Timestamp) -> Option<String> {
    let mut vm = vm.clone();
    loop {
        let command = match next_move(plan, run, &vm) {
            Move::Tell(command) => command,
            Move::Fail(why) => return Some(why),
            Move::Wait | Move::Done => return None,
        };
        let events = match vm.decide(&command, now) {
            Ok(events) => events,
            Err(rejection) => return Some(rejection.to_string()),
        };
        // That its start is held is only the beginning of its part.
        if events.is_empty() || !matches!(*command, vm::Command::HoldStart { .. }) {
            return None;
        }
        for event in &events {
            vm.apply(event, now);
        }
    }
}

/// Whether the programs are there that the run would start.
fn script_checks(plan: &Plan, run: &Run, outside: &dyn Outside) -> Vec<Check> {
    if !run.kind.fails_over() {
        return vec![];
    }
    let commands = plan.definition.actions().filter_map(|action| match &action.kind {
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
        Command::Define { definition, .. } => {
            let (vms, groups) = (definition.vms().count(), definition.groups.len());
            format!("{name} fails over {vms} VMs in {groups} groups. No VM is touched.")
        }
        Command::Delete => format!("The plan {name} is deleted. Its {vms} VMs stay as they are."),
        Command::Start { kind, .. } => run_in_words(kind, &RunOptions::default(), name, vms),
        Command::StartWith { kind, options, .. } => run_in_words(kind, options, name, vms),
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
fn run_in_words(kind: &RunKind, options: &RunOptions, name: &str, vms: usize) -> String {
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
        RunKind::Commit => format!(
            "The failover of the {vms} VMs of {name} becomes final: other recovery points are deleted."
        ),
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
