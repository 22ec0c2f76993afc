//! A recovery plan: many VMs failed over in an order, with actions between, as one run.
//!
//! ```text
//!  run: actions before | all VMs are shut down | actions after | all VMs to where they could start | actions after |
//!       group 1: actions before | its VMs start | actions after | group 2 ...
//! ```
//!
//! All VMs are failed over at the same time, up to the moment at which their replicas could start; then the
//! groups start one after the other, the VMs of a group at the same time. Where something is to be done between
//! shutting down and failing over, they wait for each other there as well. An action is a script, something
//! that a person does and confirms, or a gate: a probe that has to succeed before the run goes on. It is for every
//! kind of run that fails over, or for some.
//!
//! A planned run stops where something fails, and can be begun again: what is done already is passed over.
//! Unplanned and test runs go on to their end, since half a recovery is better than none; only a gate
//! that stays shut waits for somebody to say what to do.
//!
//! A run that has ended, however it did, lets go of the VMs that it has not started: those of an unplanned run
//! and the copies of a test start without waiting for a group that does not come. Those of a planned run that
//! have been shut down already stay off, since nothing is lost while the primary site is there, and the actions between were not done: the plan
//! can be run again and goes on with them, or somebody starts or cancels them by hand.

use super::entity::{Entity, Kind, Rejection, check_name, entry_conversions};
use super::failure::Failure;
use super::id::{JobId, PlanId, VmId};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub mod earlier;
mod moves;
mod options;
mod run;

pub use moves::{Move, let_go, next_move};
pub use options::RunOptions;
pub use run::{Run, RunOutcome, Step, StepState, Task, VmState, step_failure};

/// Groups of a plan, at most. Source: Site Recovery's limit.
pub const GROUPS_MAX: usize = 7;

/// VMs of a plan, at most. Source: Site Recovery's limit.
pub const VMS_MAX: usize = 100;

/// Seconds that a script may take, or a gate may stay shut, at most.
pub const PATIENCE_MAX_S: u32 = 24 * 3600;

/// What a run does with the VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunKind {
    /// Starts copies of them in this network.
    Test {
        /// The network.
        network: String,
    },
    /// Moves them to the recovery site without loss.
    Planned,
    /// Starts them at the recovery site.
    Unplanned,
    /// Ends their tests.
    CleanUp,
    /// Makes their failovers final.
    Commit,
    /// Replicates them again after a failback.
    Reverse,
}

impl RunKind {
    /// Its word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Test { .. } => "test",
            Self::Planned => "planned",
            Self::Unplanned => "unplanned",
            Self::CleanUp => "clean-up",
            Self::Commit => "commit",
            Self::Reverse => "reverse",
        }
    }

    /// What it is of those that start VMs group by group, with the actions of the plan.
    pub const fn failover_type(&self) -> Option<FailoverType> {
        match self {
            Self::Test { .. } => Some(FailoverType::Test),
            Self::Planned => Some(FailoverType::Planned),
            Self::Unplanned => Some(FailoverType::Unplanned),
            Self::CleanUp | Self::Commit | Self::Reverse => None,
        }
    }

    /// Whether it starts VMs group by group, with the actions of the plan.
    pub const fn fails_over(&self) -> bool {
        self.failover_type().is_some()
    }
}

/// A kind of run that fails VMs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailoverType {
    /// [`RunKind::Test`].
    Test,
    /// [`RunKind::Planned`].
    Planned,
    /// [`RunKind::Unplanned`].
    Unplanned,
}

/// A question whose answer opens a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// A connection is accepted at `host:port`.
    Tcp {
        /// Where.
        address: String,
    },
    /// A request is answered with a status of 200 to 399.
    Http {
        /// What for.
        url: String,
    },
    /// A script ends with exit code 0.
    Script {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// What an action does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionKind {
    /// Runs a program, with what is known of the run as JSON on its standard input.
    Script {
        /// The program and its arguments.
        command: Vec<String>,
        /// Seconds after which it is ended and counts as failed.
        timeout_s: u32,
    },
    /// Waits until a person confirms that it is done.
    Manual {
        /// What to do.
        instructions: String,
    },
    /// Waits until a probe succeeds.
    Gate {
        /// The probe.
        probe: Probe,
        /// Seconds after which somebody has to decide.
        within_s: u32,
    },
}

/// A step of a plan that is not a VM's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: ActionKind,
    /// The kinds of run that it is for; empty for all that fail over.
    pub only: BTreeSet<FailoverType>,
}

impl Action {
    /// An action of every run that fails over.
    pub fn of_every_run(name: String, kind: ActionKind) -> Self {
        Self { name, kind, only: BTreeSet::new() }
    }

    /// Whether it is for such a run.
    pub fn is_for(&self, kind: &RunKind) -> bool {
        kind.failover_type().is_some_and(|of| self.only.is_empty() || self.only.contains(&of))
    }
}

/// VMs that start together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Done before they start, in this order.
    pub before: Vec<Action>,
    /// The VMs.
    pub vms: Vec<VmId>,
    /// Done once they run, in this order.
    pub after: Vec<Action>,
}

/// What a plan does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Done before any VM is touched, in this order.
    pub before: Vec<Action>,
    /// Done once the VMs are shut down, as far as they can be reached, and before they fail over; in this order. A test
    /// shuts nothing down.
    pub after_shutdown: Vec<Action>,
    /// Done once all VMs could start, in this order.
    pub after_failover: Vec<Action>,
    /// The groups, in the order in which they start.
    pub groups: Vec<Group>,
}

impl Definition {
    /// Every VM, in the order of the groups.
    pub fn vms(&self) -> impl Iterator<Item = VmId> {
        self.groups.iter().flat_map(|group| group.vms.iter().copied())
    }

    /// Every action.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        let of_groups =
            self.groups.iter().flat_map(|group| group.before.iter().chain(&group.after));
        let of_all = self.before.iter().chain(&self.after_shutdown).chain(&self.after_failover);
        of_all.chain(of_groups)
    }

    /// Checks limits, and that no VM is named twice.
    ///
    /// # Errors
    /// [`Rejection::OutOfRange`] that names what is wrong.
    pub fn check(&self) -> Result<(), Rejection> {
        let wrong =
            |what, value: String, allowed| Err(Rejection::OutOfRange { what, value, allowed });
        if !(1..=GROUPS_MAX).contains(&self.groups.len()) {
            let found = self.groups.len().to_string();
            return wrong("the number of groups of a recovery plan", found, "1 to 7");
        }
        let (all, distinct) = (self.vms().count(), self.vms().collect::<BTreeSet<_>>().len());
        if !(1..=VMS_MAX).contains(&all) {
            return wrong("the number of VMs of a recovery plan", all.to_string(), "1 to 100");
        }
        if all != distinct {
            let found = format!("{all} places for {distinct} VMs");
            return wrong("a recovery plan", found, "a plan in which each VM has one place");
        }
        for action in self.actions() {
            if action.name.is_empty() {
                return wrong("the name of an action", "empty".to_owned(), "given");
            }
            let (patience, command) = match &action.kind {
                ActionKind::Script { command, timeout_s } => (*timeout_s, Some(command)),
                ActionKind::Gate { probe: Probe::Script { command }, within_s } => {
                    (*within_s, Some(command))
                }
                ActionKind::Gate { within_s, .. } => (*within_s, None),
                ActionKind::Manual { .. } => continue,
            };
            if !(1..=PATIENCE_MAX_S).contains(&patience) {
                let found = format!("{patience} s ({})", action.name);
                return wrong("the time limit of an action", found, "1 to 86400 seconds");
            }
            if command.is_some_and(Vec::is_empty) {
                return wrong("the command of an action", action.name.clone(), "a program");
            }
        }
        let test_alone = |action: &&Action| action.only.iter().eq(&[FailoverType::Test]);
        if let Some(action) = self.after_shutdown.iter().find(test_alone) {
            let allowed = "for planned or unplanned runs: a test shuts nothing down";
            return wrong(
                "an action after the shutdown",
                format!("{} for tests only", action.name),
                allowed,
            );
        }
        Ok(())
    }
}

/// What a plan can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// [`Command::DefinePlan`] as it was before.
    Define {
        /// Its identity.
        id: PlanId,
        /// Its name.
        name: String,
        /// What it does.
        definition: earlier::Definition,
    },
    /// It is not wanted any more.
    Delete,
    /// Run it.
    Start {
        /// The id of the job that this starts.
        job: JobId,
        /// How.
        kind: RunKind,
    },
    /// A manual action was done, or a step that failed is to be passed over.
    Continue {
        /// Which step.
        step: u32,
        /// What the person says of it.
        notes: String,
    },
    /// Try a step that failed once more.
    Retry {
        /// Which step.
        step: u32,
    },
    /// End the run where it is. What was started stays so; for what was not, see [`let_go`].
    Cancel,
    /// An action of the running step ended.
    ReportAction {
        /// Of which run.
        job: JobId,
        /// Which step.
        step: u32,
        /// What it printed, at most its last 4 KiB.
        output: String,
        /// Why it failed, if it did.
        failure: Option<Failure>,
    },
    /// A VM did its part of the running step.
    ReportVm {
        /// Of which run.
        job: JobId,
        /// Which step.
        step: u32,
        /// Which VM.
        vm: VmId,
        /// Why it failed, if it did.
        failure: Option<Failure>,
    },
    /// A VM that a run had not started when it ended was let go of.
    ReportLetGo {
        /// Of which run.
        job: JobId,
        /// Which VM.
        vm: VmId,
    },
    /// Run it, with what was chosen for this run.
    StartWith {
        /// The id of the job that this starts.
        job: JobId,
        /// How.
        kind: RunKind,
        /// What was chosen.
        options: RunOptions,
    },
    /// It is this from here on. A plan that runs is not changed.
    DefinePlan {
        /// Its identity.
        id: PlanId,
        /// Its name.
        name: String,
        /// What it does.
        definition: Definition,
    },
}

impl Command {
    /// Runs a plan. One for which nothing was chosen is asked for as it always was.
    pub fn start(job: JobId, kind: RunKind, options: RunOptions) -> Self {
        if options.are_given() {
            Self::StartWith { job, kind, options }
        } else {
            Self::Start { job, kind }
        }
    }
}

/// What can become true of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// [`Event::PlanDefined`] as it was before.
    Defined {
        /// Its identity.
        id: PlanId,
        /// Its name.
        name: String,
        /// What it does.
        definition: earlier::Definition,
    },
    /// It is not wanted any more.
    Deleted,
    /// A run began.
    RunStarted {
        /// Its id.
        job: JobId,
        /// How.
        kind: RunKind,
    },
    /// A step began.
    StepStarted {
        /// Which.
        step: u32,
    },
    /// A VM did its part of the step.
    VmDone {
        /// Of which step.
        step: u32,
        /// Which VM.
        vm: VmId,
        /// Why it failed, if it did.
        failure: Option<Failure>,
    },
    /// A step is done.
    StepCompleted {
        /// Which.
        step: u32,
        /// What it printed.
        output: String,
    },
    /// A step failed and the run goes on, or ends with it.
    StepFailed {
        /// Which.
        step: u32,
        /// What it printed.
        output: String,
        /// Why.
        failure: Failure,
    },
    /// A step failed and the run waits for somebody to say what to do.
    StepBlocked {
        /// Which.
        step: u32,
        /// What it printed.
        output: String,
        /// Why.
        failure: Failure,
    },
    /// Somebody confirmed a step, or had it passed over.
    StepContinued {
        /// Which.
        step: u32,
        /// What the person said.
        notes: String,
    },
    /// The run ended.
    RunEnded {
        /// How.
        outcome: RunOutcome,
    },
    /// The run that has ended has nothing more to tell a VM that it had not started.
    VmLetGo {
        /// Which VM.
        vm: VmId,
    },
    /// For the run that began, this was chosen.
    OptionsChosen {
        /// What.
        options: RunOptions,
    },
    /// It is this.
    PlanDefined {
        /// Its identity.
        id: PlanId,
        /// Its name.
        name: String,
        /// What it does.
        definition: Definition,
    },
}

/// The work that a plan's state can call for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Do the action of a step and report.
    Act {
        /// Of which run.
        job: JobId,
        /// Which step.
        step: u32,
    },
    /// Have a VM do its part of a step, and report when it has.
    Move {
        /// Of which run.
        job: JobId,
        /// Which step.
        step: u32,
        /// Which VM.
        vm: VmId,
    },
    /// Let go of a VM that a run has not started, and has ended.
    LetGo {
        /// Of which run.
        job: JobId,
        /// Which VM.
        vm: VmId,
    },
}

/// A recovery plan: the state folded from its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its identity.
    pub id: PlanId,
    /// Its name; empty before it is defined and once it is deleted.
    pub name: String,
    /// What it does.
    pub definition: Definition,
    /// The running run, or the last one.
    pub run: Option<Run>,
    /// How many runs there have been.
    pub runs: u64,
}

impl Plan {
    /// The run that has not ended.
    pub fn running(&self) -> Option<&Run> {
        self.run.as_ref().filter(|run| run.ended.is_none())
    }

    fn allowed(&self) -> Vec<&'static str> {
        if self.name.is_empty() {
            return vec!["Define"];
        }
        match self.running() {
            None => vec!["Define", "Delete", "Start"],
            Some(run) if run.waits_for_somebody() => vec!["Continue", "Retry", "Cancel"],
            Some(_) => vec!["Cancel"],
        }
    }

    /// Whether it would be another one under this name with this definition.
    fn would_become(&self, name: &str, definition: &Definition) -> Result<bool, Rejection> {
        self.allow("Define")?;
        check_name(name)?;
        definition.check()?;
        Ok(self.name != name || self.definition != *definition)
    }

    fn defined(&mut self, id: PlanId, name: &str, definition: Definition) {
        self.id = id;
        name.clone_into(&mut self.name);
        self.definition = definition;
    }

    fn allow(&self, operation: &'static str) -> Result<(), Rejection> {
        let allowed = self.allowed();
        if allowed.contains(&operation) {
            return Ok(());
        }
        let state = if self.running().is_some() { "running" } else { "not running" }.to_owned();
        Err(Rejection::NotAllowed { operation, name: self.name.clone(), state, allowed })
    }
}

impl Entity for Plan {
    const KIND: Kind = Kind::Plan;
    type Command = Command;
    type Event = Event;
    type Effect = Effect;

    fn decide(&self, command: &Command, _: Timestamp) -> Result<Vec<Event>, Rejection> {
        match command {
            Command::Define { id, name, definition } => {
                let (name, definition) = (name.clone(), definition.clone());
                let changes = self.would_become(&name, &definition.clone().into())?;
                Ok(changes
                    .then_some(Event::Defined { id: *id, name, definition })
                    .into_iter()
                    .collect())
            }
            Command::DefinePlan { id, name, definition } => {
                let changes = self.would_become(name, definition)?;
                let (name, definition) = (name.clone(), definition.clone());
                let defined = Event::PlanDefined { id: *id, name, definition };
                Ok(changes.then_some(defined).into_iter().collect())
            }
            Command::Delete => {
                self.allow("Delete")?;
                Ok(vec![Event::Deleted])
            }
            Command::Start { job, kind } => {
                self.allow("Start")?;
                let (job, kind) = (*job, kind.clone());
                Ok(vec![Event::RunStarted { job, kind }, Event::StepStarted { step: 0 }])
            }
            Command::StartWith { job, kind, options } => {
                self.allow("Start")?;
                options.check(kind)?;
                let (job, kind, options) = (*job, kind.clone(), options.clone());
                let chosen = options.are_given().then_some(Event::OptionsChosen { options });
                let mut events = vec![Event::RunStarted { job, kind }];
                events.extend(chosen);
                events.push(Event::StepStarted { step: 0 });
                Ok(events)
            }
            Command::Continue { step, notes } => {
                self.allow("Continue")?;
                let Some(run) = self.running().filter(|run| run.current == *step) else {
                    return Err(not_waiting(*step));
                };
                Ok(run.going_on(vec![Event::StepContinued { step: *step, notes: notes.clone() }]))
            }
            Command::Retry { step } => {
                self.allow("Retry")?;
                if self.running().is_none_or(|run| run.current != *step) {
                    return Err(not_waiting(*step));
                }
                Ok(vec![Event::StepStarted { step: *step }])
            }
            Command::Cancel => {
                self.allow("Cancel")?;
                Ok(vec![Event::RunEnded { outcome: RunOutcome::Cancelled }])
            }
            Command::ReportAction { job, step, output, failure } => Ok(self
                .running()
                .filter(|run| run.job == *job)
                .map_or(vec![], |run| run.action_ended(*step, output, failure.as_ref()))),
            Command::ReportVm { job, step, vm, failure } => Ok(self
                .running()
                .filter(|run| run.job == *job)
                .map_or(vec![], |run| run.vm_done(*step, *vm, failure.as_ref()))),
            Command::ReportLetGo { job, vm } => {
                let run = self.run.as_ref().filter(|run| run.job == *job);
                let awaited = run.is_some_and(|run| run.to_let_go().any(|other| other == *vm));
                Ok(if awaited { vec![Event::VmLetGo { vm: *vm }] } else { vec![] })
            }
        }
    }

    fn apply(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::Defined { id, name, definition } => {
                self.defined(*id, name, definition.clone().into());
            }
            Event::PlanDefined { id, name, definition } => {
                self.defined(*id, name, definition.clone());
            }
            Event::Deleted => self.name.clear(),
            Event::RunStarted { job, kind } => {
                self.runs += 1;
                self.run = Some(Run::new(*job, kind.clone(), &self.definition, at));
            }
            _ => {
                if let Some(run) = self.run.as_mut() {
                    run.apply(event, at);
                }
            }
        }
    }

    fn pending(&self) -> Vec<Effect> {
        self.run.as_ref().map_or(vec![], Run::pending)
    }

    entry_conversions!(Plan);
}

fn not_waiting(step: u32) -> Rejection {
    Rejection::Unknown { what: "waiting step", name: step.to_string() }
}
