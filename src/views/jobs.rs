//! The history of a site, folded from the log: its jobs, what was asked for, and its compliance.

use super::JobView;
use super::compliance::{Compliance, ComplianceView};
use crate::domain::entity::{Commit, Entity, Entry, StreamId};
use crate::domain::failure::Failure;
use crate::domain::id::{JobId, PlanId, VmId};
use crate::domain::job::{Job, JobKind, JobOutcome};
use crate::domain::plan::{self, Plan, Run};
use crate::domain::time::Timestamp;
use crate::domain::vm::{Command, Event, Vm};
use std::collections::{BTreeMap, VecDeque};

/// Errors of one job that are kept, the last: a job can fail every half hour for months.
const ERRORS_KEPT: usize = 20;

/// The first commit of everything that was asked for under one correlation id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its global position.
    pub commit: u64,
    /// Of which entity.
    pub stream: StreamId,
}

/// The last jobs of a site, and what was asked for under which id.
#[derive(Clone, Debug)]
pub struct Jobs {
    kept: usize,
    vms: BTreeMap<VmId, Vm>,
    plans: BTreeMap<PlanId, Plan>,
    compliance: BTreeMap<VmId, Compliance>,
    records: BTreeMap<JobId, Record>,
    order: VecDeque<JobId>,
    answered: BTreeMap<JobId, Answered>,
    answered_order: VecDeque<JobId>,
    global: u64,
}

#[derive(Clone, Debug)]
struct Record {
    of: Of,
    asked_by: String,
    errors: VecDeque<Failure>,
    last_commit: u64,
}

/// What a job is of.
#[derive(Clone, Debug)]
enum Of {
    /// A job of a VM, with the command that started it, unless it began by itself.
    Vm { vm: VmId, job: Job, asked: Option<Command> },
    /// A run of a recovery plan.
    Plan { plan: PlanId, run: Run },
}

/// How a job is begun again.
#[derive(Clone, Debug, PartialEq)]
pub enum Again {
    /// By this command to a VM.
    Vm(VmId, Command),
    /// By a run of its plan, with what was chosen for it.
    Plan {
        /// How.
        kind: plan::RunKind,
        /// What was chosen.
        options: plan::RunOptions,
    },
}

impl Record {
    fn new(of: Of, commit: &Commit) -> Self {
        let (asked_by, last_commit) = (commit.actor.clone(), commit.global);
        Self { of, asked_by, errors: VecDeque::new(), last_commit }
    }

    /// Takes what an event made of the job.
    fn take(&mut self, event: &Event, now: &Job, error: Option<Failure>, commit: u64) {
        let Of::Vm { job, .. } = &mut self.of else { return };
        let tried_again = matches!(event, Event::RetryStarted { .. });
        if *job == *now && error.is_none() && !tried_again {
            return;
        }
        job.clone_from(now);
        self.changed(error, commit);
    }

    /// Takes what an event made of the run.
    fn take_run(&mut self, event: &plan::Event, now: &Run, commit: u64) {
        let Of::Plan { run, .. } = &mut self.of else { return };
        run.clone_from(now);
        let error = match event {
            plan::Event::StepFailed { failure, .. } | plan::Event::StepBlocked { failure, .. } => {
                Some(failure.clone())
            }
            plan::Event::VmDone { failure, .. } => failure.clone(),
            _ => None,
        };
        // A step fails with what one of its VMs failed with, which was told.
        let error = error.filter(|error| !self.errors.contains(error));
        self.changed(error, commit);
    }

    fn changed(&mut self, error: Option<Failure>, commit: u64) {
        self.last_commit = commit;
        self.errors.extend(error);
        if ERRORS_KEPT < self.errors.len() {
            self.errors.pop_front();
        }
    }

    fn ended(&self) -> bool {
        match &self.of {
            Of::Vm { job, .. } => job.ended.is_some(),
            Of::Plan { run, .. } => run.ended.is_some(),
        }
    }

    /// How it is begun again as another job, if it has ended and was not done.
    fn again(&self, id: JobId) -> Option<Again> {
        match &self.of {
            Of::Vm { vm, job, asked } => {
                job.ended.filter(|(_, outcome)| *outcome != JobOutcome::Completed)?;
                let resyncs =
                    matches!(job.kind, JobKind::Resynchronize | JobKind::ResynchronizeDifferences);
                // A resynchronization begins by itself; an operator asks for it all the same.
                let asked = asked.as_ref().and_then(|asked| asked.as_job(id));
                let asked = asked.or(resyncs.then_some(Command::Resynchronize { job: id }));
                Some(Again::Vm(*vm, asked?))
            }
            Of::Plan { run, .. } => {
                run.ended.filter(|(_, outcome)| *outcome != plan::RunOutcome::Completed)?;
                Some(Again::Plan { kind: run.kind.clone(), options: run.options.clone() })
            }
        }
    }
}

/// What went wrong with a job of a VM by an event.
fn error_of<'a>(event: &'a Event, job: &Job, vm: &Vm) -> Option<&'a Failure> {
    match event {
        Event::TaskFailed { job: failed, failure, .. } if *failed == job.id => Some(failure),
        Event::RetryScheduled { because, .. } | Event::AdministratorNeeded { because, .. } => {
            super::job::trouble_of(job, vm).map(|_| because)
        }
        Event::TestCleanUpPutOff { because, .. } => {
            vm.test.as_ref().filter(|test| test.job.id == job.id).map(|_| because)
        }
        _ => None,
    }
}

impl Jobs {
    /// No jobs yet; at most `kept` will be, and answers to so many ids.
    pub fn new(kept: usize) -> Self {
        Self {
            kept,
            vms: BTreeMap::new(),
            plans: BTreeMap::new(),
            compliance: BTreeMap::new(),
            records: BTreeMap::new(),
            order: VecDeque::new(),
            answered: BTreeMap::new(),
            answered_order: VecDeque::new(),
            global: 0,
        }
    }

    /// Takes the next commit of the log. Commits are taken from the first on, in order.
    pub fn apply(&mut self, commit: &Commit) {
        self.global = commit.global;
        if let Some(correlation) = commit.correlation {
            let (commit, stream) = (commit.global, commit.stream);
            self.remember(correlation, Answered { commit, stream });
        }
        match &commit.entry {
            Entry::Vm { command, events } => self.take_vm(commit, command, events),
            Entry::Plan { events, .. } => self.take_plan(commit, events),
            Entry::Host { .. }
            | Entry::Cloud { .. }
            | Entry::Vault { .. }
            | Entry::Fabric { .. } => return,
        }
        while self.kept < self.order.len() {
            if let Some(oldest) = self.order.pop_front() {
                self.records.remove(&oldest);
            }
        }
    }

    fn begin(&mut self, id: JobId, record: Record) {
        self.order.push_back(id);
        self.records.insert(id, record);
    }

    fn take_plan(&mut self, commit: &Commit, events: &[plan::Event]) {
        let id = PlanId(commit.stream.id);
        for event in events {
            let plan = self.plans.entry(id).or_default();
            plan.apply(event, commit.at);
            let Some(run) = &plan.run else { continue };
            if let plan::Event::RunStarted { job, .. } = event {
                let record = Record::new(Of::Plan { plan: id, run: run.clone() }, commit);
                self.begin(*job, record);
            } else if let Some(record) = self.records.get_mut(&run.job) {
                record.take_run(event, run, commit.global);
            }
        }
    }

    fn take_vm(&mut self, commit: &Commit, command: &Command, events: &[Event]) {
        let id = VmId(commit.stream.id);
        for event in events {
            let mut begun = None;
            let vm = self.vms.entry(id).or_default();
            vm.apply(event, commit.at);
            let tested = vm.test.as_ref().map(|test| &test.job);
            for job in vm.job.iter().chain(tested) {
                let error = error_of(event, job, vm).cloned();
                match self.records.get_mut(&job.id) {
                    Some(record) => record.take(event, job, error, commit.global),
                    // It may have been let go of: only the beginning of a job makes a record.
                    None if matches!(event, Event::JobStarted { job: begun, .. } if *begun == job.id) =>
                    {
                        // Of several jobs that a commit starts, the command asked for that of its own id.
                        let asked = command.as_job(job.id).filter(|it| it == command);
                        begun = Some(Of::Vm { vm: id, job: job.clone(), asked });
                    }
                    None => {}
                }
            }
            if let (Event::JobStarted { job, .. }, Some(of)) = (event, begun) {
                self.begin(*job, Record::new(of, commit));
            }
        }
        if let Some(vm) = self.vms.get(&id) {
            self.compliance.entry(id).or_default().look(vm, commit.at);
        }
    }

    fn remember(&mut self, correlation: JobId, answered: Answered) {
        if self.answered.contains_key(&correlation) {
            return;
        }
        self.answered.insert(correlation, answered);
        self.answered_order.push_back(correlation);
        while self.kept < self.answered_order.len() {
            if let Some(oldest) = self.answered_order.pop_front() {
                self.answered.remove(&oldest);
            }
        }
    }

    /// In which share of the time before `now` a VM had the recovery points that it should have.
    pub fn compliance(&self, vm: VmId, now: Timestamp) -> Option<ComplianceView> {
        self.compliance.get(&vm).map(|compliance| compliance.view(now))
    }

    /// The global position of the last commit that was taken.
    pub fn global(&self) -> u64 {
        self.global
    }

    /// What came first of what was asked for under this id.
    pub fn answered(&self, id: JobId) -> Option<Answered> {
        self.answered.get(&id).copied()
    }

    /// The global position of the last commit that changed a job.
    pub fn last_commit(&self, id: JobId) -> Option<u64> {
        self.records.get(&id).map(|record| record.last_commit)
    }

    /// Whether a job is over.
    pub fn ended(&self, id: JobId) -> bool {
        self.records.get(&id).is_some_and(Record::ended)
    }

    /// A job at `now`.
    pub fn job(&self, id: JobId, now: Timestamp) -> Option<JobView> {
        Some(self.view(self.records.get(&id)?, now))
    }

    /// The job whose id begins like this, if it is the only one.
    pub fn find(&self, beginning: &str) -> Option<JobId> {
        let is_meant = |id: &&JobId| !beginning.is_empty() && id.to_string().starts_with(beginning);
        let mut meant = self.records.keys().filter(is_meant);
        meant.next().filter(|_| meant.next().is_none()).copied()
    }

    /// Every job at `now`, the last first.
    pub fn list(&self, now: Timestamp) -> impl Iterator<Item = JobView> {
        let records = self.order.iter().rev().filter_map(|id| self.records.get(id));
        records.map(move |record| self.view(record, now))
    }

    /// How a job that was not done is begun again, as the job of another id. Whether the state allows it is
    /// decided then.
    pub fn again(&self, id: JobId, as_job: JobId) -> Option<Again> {
        self.records.get(&id)?.again(as_job)
    }

    /// The VM of a name.
    pub fn vm_named(&self, name: &str) -> Option<VmId> {
        self.vms.iter().find(|(_, vm)| vm.name == name).map(|(id, _)| *id)
    }

    fn view(&self, record: &Record, now: Timestamp) -> JobView {
        let errors: Vec<_> = record.errors.iter().cloned().collect();
        let (asked_by, last_commit) = (Some(&*record.asked_by), Some(record.last_commit));
        let mut view = match &record.of {
            Of::Vm { vm, job, .. } => {
                let stranger = Vm::default();
                let vm = self.vms.get(vm).unwrap_or(&stranger);
                JobView::new(job, vm, asked_by, &errors, now)
            }
            Of::Plan { plan, run } => {
                let stranger = Plan::default();
                let plan = self.plans.get(plan).unwrap_or(&stranger);
                JobView::of_run(run, plan, asked_by, &errors, now)
            }
        };
        if let Some(Again::Vm(vm, command)) = record.again(JobId::default())
            && self.vms.get(&vm).is_some_and(|vm| vm.decide(&command, now).is_ok())
        {
            view.allowed_actions.push("Restart".to_owned());
        }
        JobView { last_commit, ..view }
    }
}
