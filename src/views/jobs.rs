//! The history of a site, folded from the log: its jobs, what was asked for, and its compliance.

use super::JobView;
use super::compliance::{Compliance, ComplianceView};
use crate::domain::entity::{Commit, Entity, Entry, StreamId};
use crate::domain::failure::Failure;
use crate::domain::id::{JobId, VmId};
use crate::domain::job::Job;
use crate::domain::time::Timestamp;
use crate::domain::vm::{Event, Vm};
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
    compliance: BTreeMap<VmId, Compliance>,
    records: BTreeMap<JobId, Record>,
    order: VecDeque<JobId>,
    answered: BTreeMap<JobId, Answered>,
    answered_order: VecDeque<JobId>,
    global: u64,
}

#[derive(Clone, Debug)]
struct Record {
    vm: VmId,
    job: Job,
    asked_by: String,
    errors: VecDeque<Failure>,
    last_commit: u64,
}

impl Jobs {
    /// No jobs yet; at most `kept` will be, and answers to so many ids.
    pub fn new(kept: usize) -> Self {
        Self {
            kept,
            vms: BTreeMap::new(),
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
        let Entry::Vm { events, .. } = &commit.entry else { return };
        let id = VmId(commit.stream.id);
        for event in events {
            let vm = self.vms.entry(id).or_default();
            vm.apply(event, commit.at);
            let Some(job) = &vm.job else { continue };
            let error = match event {
                Event::TaskFailed { failure, .. } => Some(failure),
                Event::RetryScheduled { because, .. }
                | Event::AdministratorNeeded { because, .. } => {
                    super::job::trouble_of(job, vm).map(|_| because)
                }
                _ => None,
            };
            match self.records.get_mut(&job.id) {
                Some(record) => {
                    let waited = matches!(event, Event::RetryStarted { .. });
                    if record.job != *job || error.is_some() || waited {
                        record.job.clone_from(job);
                        record.last_commit = commit.global;
                    }
                    record.errors.extend(error.cloned());
                    if ERRORS_KEPT < record.errors.len() {
                        record.errors.pop_front();
                    }
                }
                // It may have been let go of: only the beginning of a job makes a record.
                None if matches!(event, Event::JobStarted { .. }) => {
                    let (job, asked_by) = (job.clone(), commit.actor.clone());
                    self.order.push_back(job.id);
                    let (errors, last_commit) = (VecDeque::new(), commit.global);
                    let record = Record { vm: id, job, asked_by, errors, last_commit };
                    self.records.insert(record.job.id, record);
                }
                None => {}
            }
        }
        if let Some(vm) = self.vms.get(&id) {
            self.compliance.entry(id).or_default().look(vm, commit.at);
        }
        while self.kept < self.order.len() {
            if let Some(oldest) = self.order.pop_front() {
                self.records.remove(&oldest);
            }
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
        self.records.get(&id).is_some_and(|record| record.job.ended.is_some())
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

    fn view(&self, record: &Record, now: Timestamp) -> JobView {
        let stranger = Vm::default();
        let vm = self.vms.get(&record.vm).unwrap_or(&stranger);
        let errors: Vec<_> = record.errors.iter().cloned().collect();
        let last_commit = Some(record.last_commit);
        let view = JobView::new(&record.job, vm, Some(&record.asked_by), &errors, now);
        JobView { last_commit, ..view }
    }
}
