//! A job with its tasks, under the names that Site Recovery gives them.

use super::failure::FailureView;
use super::plan::{instructions, run_state, step_name, step_state};
use super::{Moment, seconds};
use crate::domain::entity::Entity;
use crate::domain::failure::Failure;
use crate::domain::id::JobId;
use crate::domain::job::{Job, JobKind, JobOutcome, Step, Task, TaskState};
use crate::domain::plan::{self, Plan, Run, RunKind, StepState};
use crate::domain::time::Timestamp;
use crate::domain::vm::{Command, NextStep, Phase, Trouble, Vm, Work};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its identity.
    pub id: JobId,
    /// What it does, as in `PlannedFailover`.
    pub scenario_name: String,
    /// What people read.
    pub friendly_name: String,
    /// `InProgress`, `Waiting`, `WaitingForManualAction`, `WaitingForUserInputAfterDataSync` (a failback that is
    /// ready to be completed), `Succeeded`, `PartiallySucceeded`, `Failed` or `Cancelled`.
    pub state: String,
    /// For whom or what it waits.
    pub waiting_for: Option<String>,
    /// `ProtectionEntity`, a VM, or `RecoveryPlan`.
    pub target_type: String,
    /// The VM or plan that it is of.
    pub target_id: Uuid,
    /// Its name.
    pub target_name: String,
    /// Who asked for it, where that is known.
    pub asked_by: Option<String>,
    /// When it started.
    pub started_at: Moment,
    /// When its tasks had ended.
    pub ended_at: Option<Moment>,
    /// How long it took, or has taken so far.
    pub duration_seconds: f64,
    /// Its tasks, in order.
    pub tasks: Vec<TaskView>,
    /// What went wrong, the last last.
    pub errors: Vec<FailureView>,
    /// What can be done with it: `Cancel`, while it can be given up; `Resume`, while it waits for somebody;
    /// `Restart`, if it was not done and could be begun again.
    pub allowed_actions: Vec<String>,
    /// The global position of the last commit that changed it, where the log was read for it.
    pub last_commit: Option<u64>,
}

/// One task of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// What it does, as in `VmShutdownVmOnPrimary`.
    pub name: String,
    /// What people read.
    pub friendly_name: String,
    /// `NotStarted`, `InProgress`, `Succeeded` or `Failed`.
    pub state: String,
    /// The disk that it is about.
    pub disk: Option<String>,
    /// When it started.
    pub started_at: Option<Moment>,
    /// When it ended.
    pub ended_at: Option<Moment>,
    /// Bytes dealt with, of a task that moves data.
    pub done_bytes: Option<u64>,
    /// Bytes in all.
    pub total_bytes: Option<u64>,
}

impl JobView {
    /// What is to be said of a job of `vm` at `now`. `errors` are those that it has met.
    pub fn new(
        job: &Job,
        vm: &Vm,
        asked_by: Option<&str>,
        errors: &[Failure],
        now: Timestamp,
    ) -> Self {
        let trouble = trouble_of(job, vm);
        let ended_at = job.ended.map(|(at, _)| at);
        let tasks = job.tasks.iter().map(|task| TaskView::new(task, vm));
        Self {
            id: job.id,
            scenario_name: job.kind.name().to_owned(),
            friendly_name: job.kind.title().to_owned(),
            state: state(job, vm, trouble).to_owned(),
            waiting_for: if is_synchronized(job, vm) {
                Some(format!(
                    "somebody who completes the failback with `lifeboat failback complete {0}`, or gives it up with \
                     `lifeboat failback cancel {0}`",
                    vm.name
                ))
            } else if is_paused(job, vm) {
                Some(format!("somebody who resumes it with `lifeboat vm resume {}`", vm.name))
            } else {
                trouble.and_then(waits_for)
            },
            target_type: "ProtectionEntity".to_owned(),
            target_id: vm.id.0,
            target_name: vm.name.clone(),
            asked_by: asked_by.map(str::to_owned),
            started_at: job.started_at.into(),
            ended_at: ended_at.map(Moment),
            duration_seconds: seconds(ended_at.unwrap_or(now).since(job.started_at)),
            tasks: tasks.collect(),
            errors: errors.iter().map(FailureView::new).collect(),
            allowed_actions: allowed_actions(job, vm, now),
            last_commit: None,
        }
    }

    /// What is to be said of a run of a plan at `now`.
    pub fn of_run(
        run: &Run,
        plan: &Plan,
        asked_by: Option<&str>,
        errors: &[Failure],
        now: Timestamp,
    ) -> Self {
        let ended_at = run.ended.map(|(at, _)| at);
        let kind = job_kind(&run.kind);
        Self {
            id: run.job,
            scenario_name: kind.name().to_owned(),
            friendly_name: kind.title().to_owned(),
            state: run_state(run).to_owned(),
            waiting_for: run_waits_for(run),
            target_type: "RecoveryPlan".to_owned(),
            target_id: plan.id.0,
            target_name: plan.name.clone(),
            asked_by: asked_by.map(str::to_owned),
            started_at: run.started_at.into(),
            ended_at: ended_at.map(Moment),
            duration_seconds: seconds(ended_at.unwrap_or(now).since(run.started_at)),
            tasks: run.steps.iter().map(TaskView::of_step).collect(),
            errors: errors.iter().map(FailureView::new).collect(),
            allowed_actions: actions_of_run(run, plan, now),
            last_commit: None,
        }
    }

    /// Whether it is over.
    pub fn ended(&self) -> bool {
        self.ended_at.is_some()
    }

    /// Whether somebody has to do something.
    pub fn waits(&self) -> bool {
        self.state.starts_with("Waiting")
    }
}

impl TaskView {
    fn new(task: &Task, vm: &Vm) -> Self {
        let disk = match task.step {
            Step::CopyDisk(id)
            | Step::CompareDisk(id)
            | Step::RestoreDisk(id)
            | Step::GrowDisk(id)
            | Step::OfferGrownDisk(id)
            | Step::OfferAddedDisk(id) => {
                let to_add = vm.disk_to_add().map(|added| &added.disk);
                vm.disks.iter().chain(to_add).find(|disk| disk.id == id)
            }
            _ => None,
        };
        let state = match task.state {
            TaskState::NotStarted => "NotStarted",
            TaskState::InProgress => "InProgress",
            TaskState::Completed => "Succeeded",
            TaskState::Failed => "Failed",
        };
        Self {
            name: task.step.name().to_owned(),
            friendly_name: task.step.title().to_owned(),
            state: state.to_owned(),
            disk: disk.map(|disk| disk.name.clone()),
            started_at: task.started_at.map(Moment),
            ended_at: task.ended_at.map(Moment),
            done_bytes: disk.map(|disk| task.done_bytes(disk.size_bytes)),
            total_bytes: disk.map(|disk| disk.size_bytes),
        }
    }
}

impl TaskView {
    fn of_step(step: &plan::Step) -> Self {
        let name = match step.task {
            plan::Task::Act { .. } => "RecoveryPlanAction",
            plan::Task::FailOver => "RecoveryPlanFailover",
            plan::Task::Boot { .. } => "RecoveryPlanBoot",
            plan::Task::All => "RecoveryPlanAllVms",
            plan::Task::ShutDown => "RecoveryPlanShutdown",
        };
        Self {
            name: name.to_owned(),
            friendly_name: step_name(step),
            state: step_state(step).0.to_owned(),
            disk: None,
            started_at: step.started_at.map(Moment),
            ended_at: step.ended_at.map(Moment),
            done_bytes: None,
            total_bytes: None,
        }
    }
}

/// What a run does with each of its VMs.
const fn job_kind(kind: &RunKind) -> JobKind {
    match kind {
        RunKind::Test { .. } => JobKind::TestFailover,
        RunKind::Planned => JobKind::PlannedFailover,
        RunKind::Unplanned => JobKind::UnplannedFailover,
        RunKind::CleanUp => JobKind::TestFailoverCleanup,
        RunKind::Commit => JobKind::CommitFailover,
        RunKind::Reverse => JobKind::ReverseReplicate,
    }
}

fn run_waits_for(run: &Run) -> Option<String> {
    let step = run.step().filter(|_| run.ended.is_none())?;
    let name = step_name(step);
    match &step.state {
        StepState::WaitingForManualAction => {
            let what = instructions(step).map_or_else(String::new, |it| format!(": {it}"));
            Some(format!("somebody who does {name:?}{what}"))
        }
        StepState::Blocked(failure) => Some(format!("a decision about {name:?}: {failure}")),
        _ => None,
    }
}

fn actions_of_run(run: &Run, plan: &Plan, now: Timestamp) -> Vec<String> {
    let mut actions = Vec::new();
    let again = plan::Command::start(JobId::default(), run.kind.clone(), run.options.clone());
    match run.ended {
        None => {
            actions.push("Cancel");
            if run.waits_for_somebody() {
                actions.push("Resume");
            }
        }
        Some((_, plan::RunOutcome::Completed)) => {}
        Some(_) if plan.decide(&again, now).is_ok() => actions.push("Restart"),
        Some(_) => {}
    }
    actions.into_iter().map(str::to_owned).collect()
}

fn allowed_actions(job: &Job, vm: &Vm, now: Timestamp) -> Vec<String> {
    let cancel = Command::CancelJob { job: job.id };
    let running = job.ended.is_none();
    let can = running && vm.decide(&cancel, now).is_ok_and(|events| !events.is_empty());
    let waits = trouble_of(job, vm).is_some_and(|it| it.next == NextStep::Administrator);
    let actions = [("Cancel", can), ("Resume", waits)];
    actions.into_iter().filter(|(_, can)| *can).map(|(name, _)| name.to_owned()).collect()
}

/// The trouble that the task of a running job is in.
pub(super) fn trouble_of<'a>(job: &Job, vm: &'a Vm) -> Option<&'a Trouble> {
    let of_job = |work: Work| matches!(work, Work::Task { job: own, .. } if own == job.id);
    vm.trouble.as_ref().filter(|trouble| job.ended.is_none() && of_job(trouble.work))
}

/// Whether it has brought a VM's disks into step for a failback, which is to be completed now.
fn is_synchronized(job: &Job, vm: &Vm) -> bool {
    let ended = job.ended.map(|(at, _)| at);
    job.kind == JobKind::Failback
        && vm.phase == Phase::FailbackReady
        && ended == Some(vm.phase_since)
}

/// Whether it stands still because the VM's resynchronization was paused.
fn is_paused(job: &Job, vm: &Vm) -> bool {
    let is_its_own = vm.job.as_ref().is_some_and(|own| own.id == job.id);
    is_its_own && job.ended.is_none() && vm.is_resync_paused()
}

fn state(job: &Job, vm: &Vm, trouble: Option<&Trouble>) -> &'static str {
    match (job.ended, trouble.map(|trouble| trouble.next)) {
        // As the state of the VM is called meanwhile.
        _ if is_synchronized(job, vm) => super::vm::state(&vm.phase),
        (Some((_, JobOutcome::Completed)), _) => "Succeeded",
        (Some((_, JobOutcome::Failed)), _) => "Failed",
        (Some((_, JobOutcome::Cancelled)), _) => "Cancelled",
        (None, Some(NextStep::Administrator)) => "Waiting",
        (None, _) if is_paused(job, vm) => "Waiting",
        (None, Some(NextStep::RetryAt(_) | NextStep::Trying) | None) => "InProgress",
    }
}

fn waits_for(trouble: &Trouble) -> Option<String> {
    match trouble.next {
        NextStep::Administrator => Some(format!("an administrator: {}", trouble.failure)),
        NextStep::RetryAt(due) => {
            Some(format!("attempt {} at {due}: {}", trouble.attempt + 1, trouble.failure))
        }
        NextStep::Trying => None,
    }
}
