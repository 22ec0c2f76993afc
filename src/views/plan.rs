//! A recovery plan with its running run, or its last one.

use super::failure::FailureView;
use super::{CauseView, IssueView, Moment, Site, seconds};
use crate::domain::catalogue::Code;
use crate::domain::failure::Failure;
use crate::domain::id::{JobId, PlanId};
use crate::domain::plan::{
    Action, ActionKind, Plan, Run, RunKind, RunOptions, RunOutcome, Step, StepState, Task,
};
use crate::domain::time::Timestamp;
use crate::domain::vm::PointChoice;
use serde::{Deserialize, Serialize};

/// A recovery plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// Its identity.
    pub id: PlanId,
    /// Its name.
    pub name: String,
    /// The names of the VMs of each group, in the order in which the groups start.
    pub groups: Vec<Vec<String>>,
    /// The running run, or the last one.
    pub run: Option<RunView>,
    /// How many runs there have been.
    pub runs: u64,
    /// The VMs that its last run left off at both sites: they could start, and no run is to start them.
    #[serde(default)]
    pub left_off: Vec<String>,
}

/// A run of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// Its job.
    pub id: JobId,
    /// `test`, `planned`, `unplanned`, `clean-up`, `commit` or `reverse`.
    pub kind: String,
    /// `InProgress`, `WaitingForManualAction`, `Waiting`, `Succeeded`, `PartiallySucceeded`, `Failed` or
    /// `Cancelled`.
    pub state: String,
    /// The number of the step that is being done, from 0.
    pub current_step: u32,
    /// When it began.
    pub started_at: Moment,
    /// When it ended.
    pub ended_at: Option<Moment>,
    /// How long it took, or has taken so far.
    pub duration_seconds: f64,
    /// Its steps.
    pub steps: Vec<StepView>,
    /// From which recovery points its VMs, or the copies of a test, start, where that was chosen.
    #[serde(default)]
    pub point: Option<String>,
    /// Whether an unplanned run sends first what the VMs wrote last.
    #[serde(default)]
    pub synchronize: bool,
    /// Hours after which the copies of a test are cleaned up by themselves.
    #[serde(default)]
    pub lease_hours: Option<u32>,
    /// What is to be kept of the tests that it cleans up.
    #[serde(default)]
    pub notes: String,
}

/// A step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// What it does.
    pub name: String,
    /// What people read.
    pub state: String,
    /// Its VMs, with what became of each.
    pub vms: Vec<StepVmView>,
    /// When it began last.
    pub started_at: Option<Moment>,
    /// When it ended.
    pub ended_at: Option<Moment>,
    /// What a person has to do for it, of a manual action.
    #[serde(default)]
    pub instructions: Option<String>,
    /// What its action printed.
    pub output: String,
    /// What the person said who confirmed it.
    pub notes: String,
    /// Why it failed.
    pub failure: Option<FailureView>,
}

/// A VM in a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepVmView {
    /// Its name.
    pub name: String,
    /// `Waiting`, `Done` or `Failed`.
    pub state: String,
    /// Why it failed.
    #[serde(default)]
    pub failure: Option<FailureView>,
}

impl PlanView {
    /// What is to be said of a plan at `now`.
    pub fn new(plan: &Plan, site: &Site, now: Timestamp) -> Self {
        let names = |group: &crate::domain::plan::Group| {
            group.vms.iter().map(|vm| site.vm_name(*vm)).collect()
        };
        Self {
            id: plan.id,
            name: plan.name.clone(),
            groups: plan.definition.groups.iter().map(names).collect(),
            run: plan.run.as_ref().map(|run| RunView::new(run, site, now)),
            runs: plan.runs,
            left_off: site.kept_off_by(plan.id).map(|vm| vm.name.clone()).collect(),
        }
    }
}

impl PlanView {
    /// The step at which the running run waits for somebody.
    pub fn waits_for_somebody(&self) -> Option<IssueView> {
        let run = self.run.as_ref().filter(|run| run.state.starts_with("Waiting"))?;
        let step = run.steps.get(run.current_step as usize)?;
        let why = match (&step.failure, &step.instructions) {
            (Some(failure), _) => format!("{:?} failed: {}", step.name, failure.because()),
            (None, Some(instructions)) => format!("{:?} is to be done: {instructions}", step.name),
            (None, None) => format!("{:?} is to be done by somebody", step.name),
        };
        let because = format!("the {} run of {} waits: {why}", run.kind, self.name);
        let name = &self.name;
        let action = format!(
            "Do it, then `lifeboat plan continue {name}`; or `lifeboat plan retry {name}`, or `lifeboat plan cancel {name}`."
        );
        let cause = CauseView::of(Code::RunWaits, because, step.started_at);
        Some(IssueView {
            subject: format!("job {} step {}", run.id, run.current_step + 1),
            cause: CauseView { action, ..cause },
            affects: self.groups.iter().flatten().cloned().collect(),
        })
    }
}

impl RunView {
    fn new(run: &Run, site: &Site, now: Timestamp) -> Self {
        let ended_at = run.ended.map(|(at, _)| at);
        let RunOptions { point, synchronize, lease_h, notes } = &run.options;
        Self {
            point: (*point != PointChoice::Latest).then(|| point.to_string()),
            synchronize: *synchronize,
            lease_hours: matches!(run.kind, RunKind::Test { .. }).then_some(*lease_h),
            notes: notes.clone(),
            id: run.job,
            kind: run.kind.name().to_owned(),
            state: run_state(run).to_owned(),
            current_step: run.current,
            started_at: run.started_at.into(),
            ended_at: ended_at.map(Moment),
            duration_seconds: seconds(ended_at.unwrap_or(now).since(run.started_at)),
            steps: run.steps.iter().map(|step| StepView::new(step, site)).collect(),
        }
    }
}

/// Where a run stands, as one word.
pub(super) fn run_state(run: &Run) -> &'static str {
    match (run.ended, run.step().map(|step| &step.state)) {
        (Some((_, RunOutcome::Completed)), _) => "Succeeded",
        (Some((_, RunOutcome::PartiallySucceeded)), _) => "PartiallySucceeded",
        (Some((_, RunOutcome::Failed)), _) => "Failed",
        (Some((_, RunOutcome::Cancelled)), _) => "Cancelled",
        (None, Some(StepState::WaitingForManualAction)) => "WaitingForManualAction",
        (None, Some(StepState::Blocked(_))) => "Waiting",
        (None, _) => "InProgress",
    }
}

/// What a step does, for people.
pub(super) fn step_name(step: &Step) -> String {
    match &step.task {
        Task::Act { action, .. } => action.name.clone(),
        Task::ShutDown => "Shutdown of all VMs".to_owned(),
        Task::FailOver => "Failover of all VMs".to_owned(),
        Task::Boot { group } => format!("Start of group {group}"),
        Task::All => "All VMs".to_owned(),
    }
}

/// What a person has to do for a step.
pub(super) fn instructions(step: &Step) -> Option<&str> {
    match &step.task {
        Task::Act { action: Action { kind: ActionKind::Manual { instructions }, .. }, .. } => {
            Some(instructions)
        }
        _ => None,
    }
}

/// Where a step stands, as one word, and why it failed.
pub(super) fn step_state(step: &Step) -> (&'static str, Option<&Failure>) {
    match &step.state {
        StepState::NotStarted => ("NotStarted", None),
        StepState::InProgress => ("InProgress", None),
        StepState::WaitingForManualAction => ("WaitingForManualAction", None),
        StepState::Blocked(failure) => ("Blocked", Some(failure)),
        StepState::Completed => ("Succeeded", None),
        StepState::Failed(failure) => ("Failed", Some(failure)),
        StepState::Skipped(failure) => ("Skipped", Some(failure)),
    }
}

impl StepView {
    fn new(step: &Step, site: &Site) -> Self {
        let (state, failure) = step_state(step);
        let vms = step.vms.iter().map(|state| StepVmView {
            name: site.vm_name(state.vm),
            state: match &state.done {
                None => "Waiting",
                Some(None) => "Done",
                Some(Some(_)) => "Failed",
            }
            .to_owned(),
            failure: state.done.as_ref().and_then(Option::as_ref).map(FailureView::new),
        });
        Self {
            name: step_name(step),
            state: state.to_owned(),
            vms: vms.collect(),
            started_at: step.started_at.map(Moment),
            ended_at: step.ended_at.map(Moment),
            instructions: instructions(step).map(str::to_owned),
            output: step.output.clone(),
            notes: step.notes.clone(),
            failure: failure.map(FailureView::new),
        }
    }
}
