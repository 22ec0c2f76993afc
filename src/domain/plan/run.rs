//! One run of a recovery plan: its steps, one after the other.

use super::{Action, ActionKind, Definition, Effect, Event, FailoverType, RunKind, RunOptions};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::{JobId, VmId};
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunOutcome {
    /// Every step was done.
    Completed,
    /// It went to its end, and some steps failed.
    PartiallySucceeded,
    /// It stopped at a step that failed.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// An action of the plan; of the group of this number from 1, or of all.
    Act {
        /// The group.
        group: Option<u32>,
        /// The action.
        action: Action,
    },
    /// Brings all VMs to where they could start.
    FailOver,
    /// Starts the VMs of the group of this number, from 1.
    Boot {
        /// The group.
        group: u32,
    },
    /// Cleans up, commits, or reverses all VMs: what the run is for.
    All,
    /// Shuts all VMs down, as far as they can be reached: where something is done before they fail over.
    ShutDown,
}

/// What a VM has done of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmState {
    /// Which VM.
    pub vm: VmId,
    /// Whether it has, and why it failed, if it did.
    pub done: Option<Option<Failure>>,
}

/// Where a step stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepState {
    /// Its turn has not come.
    NotStarted,
    /// It is being done.
    InProgress,
    /// It waits for a person to do it.
    WaitingForManualAction,
    /// It failed and waits for somebody to say what to do.
    Blocked(Failure),
    /// It is done.
    Completed,
    /// It failed.
    Failed(Failure),
    /// It failed, and somebody had it passed over.
    Skipped(Failure),
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it does.
    pub task: Task,
    /// Where it stands.
    pub state: StepState,
    /// Its VMs.
    pub vms: Vec<VmState>,
    /// When it began last.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// What its action printed.
    pub output: String,
    /// What the person said who confirmed it.
    pub notes: String,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The id of its job.
    pub job: JobId,
    /// What it does.
    pub kind: RunKind,
    /// Its steps.
    pub steps: Vec<Step>,
    /// The step that is being done.
    pub current: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// When and how it ended.
    pub ended: Option<(Timestamp, RunOutcome)>,
    /// The VMs that it had not started when it ended, and has let go of.
    pub let_go: BTreeSet<VmId>,
    /// What was chosen for it.
    pub options: RunOptions,
}

fn tasks(kind: &RunKind, definition: &Definition) -> Vec<(Task, Vec<VmId>)> {
    let all: Vec<_> = definition.vms().collect();
    if !kind.fails_over() {
        return vec![(Task::All, all)];
    }
    let actions = |group: Option<u32>, actions: &[Action]| -> Vec<(Task, Vec<VmId>)> {
        let act = |action: &Action| (Task::Act { group, action: action.clone() }, vec![]);
        actions.iter().filter(|action| action.is_for(kind)).map(act).collect()
    };
    let mut tasks = actions(None, &definition.before);
    let after_shutdown = actions(None, &definition.after_shutdown);
    if kind.failover_type() != Some(FailoverType::Test) && !after_shutdown.is_empty() {
        tasks.push((Task::ShutDown, all.clone()));
        tasks.extend(after_shutdown);
    }
    tasks.push((Task::FailOver, all));
    tasks.extend(actions(None, &definition.after_failover));
    for (group, number) in definition.groups.iter().zip(1..) {
        tasks.extend(actions(Some(number), &group.before));
        if !group.vms.is_empty() {
            tasks.push((Task::Boot { group: number }, group.vms.clone()));
        }
        tasks.extend(actions(Some(number), &group.after));
    }
    tasks
}

impl Run {
    pub(super) fn new(
        job: JobId,
        kind: RunKind,
        definition: &Definition,
        started_at: Timestamp,
    ) -> Self {
        let step = |(task, vms): (Task, Vec<VmId>)| Step {
            task,
            state: StepState::NotStarted,
            vms: vms.into_iter().map(|vm| VmState { vm, done: None }).collect(),
            started_at: None,
            ended_at: None,
            output: String::new(),
            notes: String::new(),
        };
        let steps = tasks(&kind, definition).into_iter().map(step).collect();
        let (let_go, options) = (BTreeSet::new(), RunOptions::default());
        Self { job, kind, steps, current: 0, started_at, ended: None, let_go, options }
    }

    /// The step that is being done.
    pub fn step(&self) -> Option<&Step> {
        self.steps.get(self.current as usize)
    }

    /// Whether it goes on only when somebody says so.
    pub fn waits_for_somebody(&self) -> bool {
        self.step().is_some_and(|step| {
            matches!(step.state, StepState::WaitingForManualAction | StepState::Blocked(_))
        })
    }

    /// The step in which its VMs begin to fail over, from 0.
    pub(super) fn first_of_failover(&self) -> u32 {
        let mut steps = self.steps.iter().zip(0..);
        let begins = |step: &Step| matches!(step.task, Task::ShutDown | Task::FailOver);
        steps.find(|(step, _)| begins(step)).map_or(self.current, |(_, number)| number)
    }

    /// Whether a VM failed before: it is left out of what follows.
    fn is_left_out(&self, vm: VmId) -> bool {
        let mut states = self.steps.iter().flat_map(|step| &step.vms);
        states.any(|state| state.vm == vm && matches!(state.done, Some(Some(_))))
    }

    /// The VMs that the step still waits for.
    fn awaited<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = VmId> {
        step.vms
            .iter()
            .filter(|state| state.done.is_none() && !self.is_left_out(state.vm))
            .map(|state| state.vm)
    }

    /// Whether it has begun to fail VMs over.
    pub fn touches_vms(&self) -> bool {
        let mut began = self.steps.iter().filter(|step| step.state != StepState::NotStarted);
        began.any(|step| !step.vms.is_empty())
    }

    /// Whether the turn of this VM is still to come.
    pub fn will_start(&self, vm: VmId) -> bool {
        self.ended.is_none() && self.not_started().any(|it| it == vm) && !self.is_left_out(vm)
    }

    /// The VMs that it fails over and has not started.
    pub fn not_started(&self) -> impl Iterator<Item = VmId> {
        let boots = self.steps.iter().filter(|step| matches!(step.task, Task::Boot { .. }));
        let states = boots.flat_map(|step| &step.vms);
        states.filter(|state| state.done != Some(None)).map(|state| state.vm)
    }

    /// The VMs that it had not started when it ended, and has to let go of.
    pub(super) fn to_let_go(&self) -> impl Iterator<Item = VmId> {
        let holds = self.ended.is_some() && self.touches_vms();
        self.not_started().filter(move |vm| holds && !self.let_go.contains(vm))
    }

    pub(super) fn pending(&self) -> Vec<Effect> {
        let (job, step) = (self.job, self.current);
        if self.ended.is_some() {
            return self.to_let_go().map(|vm| Effect::LetGo { job, vm }).collect();
        }
        let Some(current) = self.step().filter(|it| it.state == StepState::InProgress) else {
            return vec![];
        };
        match current.task {
            Task::Act { .. } => vec![Effect::Act { job, step }],
            Task::ShutDown | Task::FailOver | Task::Boot { .. } | Task::All => {
                self.awaited(current).map(|vm| Effect::Move { job, step, vm }).collect()
            }
        }
    }

    /// What is decided of the current step, and what follows from the run as it then is.
    pub(super) fn going_on(&self, mut events: Vec<Event>) -> Vec<Event> {
        let mut run = self.clone();
        for event in &events {
            run.apply(event, run.started_at);
        }
        events.extend(run.next());
        events
    }

    /// What follows the current step, which has ended. A group of which no VM is left is passed over.
    fn next(&self) -> Vec<Event> {
        let left = |state: &VmState| !self.is_left_out(state.vm);
        let mut rest = self.steps.iter().zip(0..).skip(self.current as usize + 1);
        let next = rest.find(|(step, _)| step.vms.is_empty() || step.vms.iter().any(left));
        if let Some((_, step)) = next {
            return vec![Event::StepStarted { step }];
        }
        let failed = |step: &Step| {
            let vm_failed = step.vms.iter().any(|state| matches!(state.done, Some(Some(_))));
            vm_failed || matches!(step.state, StepState::Failed(_) | StepState::Skipped(_))
        };
        let outcome = if self.steps.iter().any(failed) {
            RunOutcome::PartiallySucceeded
        } else {
            RunOutcome::Completed
        };
        vec![Event::RunEnded { outcome }]
    }

    /// An action ended.
    pub(super) fn action_ended(
        &self,
        step: u32,
        output: &str,
        failure: Option<&Failure>,
    ) -> Vec<Event> {
        let output = output.to_owned();
        let current = self.step().filter(|it| it.state == StepState::InProgress);
        let Some(Step { task: Task::Act { action, .. }, .. }) =
            current.filter(|_| step == self.current)
        else {
            return vec![];
        };
        let Some(failure) = failure.cloned() else {
            return self.going_on(vec![Event::StepCompleted { step, output }]);
        };
        if let ActionKind::Gate { .. } = action.kind {
            return vec![Event::StepBlocked { step, output, failure }];
        }
        self.step_failed(vec![Event::StepFailed { step, output, failure }])
    }

    /// A step failed: a planned run ends, others go on to their end.
    fn step_failed(&self, mut events: Vec<Event>) -> Vec<Event> {
        if self.kind != RunKind::Planned {
            return self.going_on(events);
        }
        events.push(Event::RunEnded { outcome: RunOutcome::Failed });
        events
    }

    /// A VM did its part, or failed to.
    pub(super) fn vm_done(&self, step: u32, vm: VmId, failure: Option<&Failure>) -> Vec<Event> {
        let current = self.step().filter(|it| it.state == StepState::InProgress);
        let Some(current) = current.filter(|_| step == self.current) else { return vec![] };
        if !self.awaited(current).any(|awaited| awaited == vm) {
            return vec![];
        }
        let mut events = vec![Event::VmDone { step, vm, failure: failure.cloned() }];
        if self.awaited(current).any(|awaited| awaited != vm) {
            return events;
        }
        let earlier = current.vms.iter().find_map(|state| state.done.clone().flatten());
        let output = String::new();
        if let Some(failure) = failure.cloned().or(earlier) {
            events.push(Event::StepFailed { step, output, failure });
            return self.step_failed(events);
        }
        events.push(Event::StepCompleted { step, output });
        self.going_on(events)
    }

    pub(super) fn apply(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::RunEnded { outcome } => self.ended = Some((at, *outcome)),
            Event::VmLetGo { vm } => {
                self.let_go.insert(*vm);
            }
            Event::OptionsChosen { options } => self.options.clone_from(options),
            _ => {}
        }
        let (Event::StepStarted { step }
        | Event::VmDone { step, .. }
        | Event::StepCompleted { step, .. }
        | Event::StepFailed { step, .. }
        | Event::StepBlocked { step, .. }
        | Event::StepContinued { step, .. }) = event
        else {
            return;
        };
        let number = *step;
        let Some(step) = self.steps.get_mut(number as usize) else { return };
        match event {
            Event::StepStarted { .. } => {
                let manual = matches!(&step.task, Task::Act { action, .. } if action.is_manual());
                step.state =
                    if manual { StepState::WaitingForManualAction } else { StepState::InProgress };
                step.started_at = Some(at);
                step.ended_at = None;
                self.current = number;
            }
            Event::VmDone { vm, failure, .. } => {
                if let Some(state) = step.vms.iter_mut().find(|state| state.vm == *vm) {
                    state.done = Some(failure.clone());
                }
            }
            Event::StepCompleted { output, .. } => {
                step.output.clone_from(output);
                step.state = StepState::Completed;
                step.ended_at = Some(at);
            }
            Event::StepFailed { output, failure, .. } => {
                step.output.clone_from(output);
                step.state = StepState::Failed(failure.clone());
                step.ended_at = Some(at);
            }
            Event::StepBlocked { output, failure, .. } => {
                step.output.clone_from(output);
                step.state = StepState::Blocked(failure.clone());
            }
            Event::StepContinued { notes, .. } => {
                step.notes.clone_from(notes);
                step.state = match &step.state {
                    StepState::Blocked(failure) => StepState::Skipped(failure.clone()),
                    _ => StepState::Completed,
                };
                step.ended_at = Some(at);
            }
            _ => {}
        }
    }
}

impl Action {
    /// Whether a person does it.
    pub const fn is_manual(&self) -> bool {
        matches!(self.kind, ActionKind::Manual { .. })
    }

    /// The failure of one that did not do what it should.
    pub fn failure(&self, why: impl std::fmt::Display) -> Failure {
        step_failure(&self.name, why)
    }
}

/// The failure of the step that is called so.
pub fn step_failure(name: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::ActionFailed, Cause::Itself, why).with("action", name)
}
