//! Test failover: a copy of the VM runs from a recovery point, in a network apart, beside the VM and its
//! replication, which never notice.
//!
//! ```text
//!  none --TestFailover--> preparing --> running --CleanUpTestFailover, or its lease ends--> cleaning up --> none
//!   ^                        |  '-- failed --CleanUpTestFailover-----------------------------^
//!   '---- a check failed ----'
//! ```
//!
//! A test does not wait for better times: whatever fails fails it, and it is cleaned up and run again. Only
//! the clean-up is tried again, by the schedule of everything else, since what a test left would otherwise
//! stay.

use super::{Event, Outcome, PointChoice, RecoveryPoint, Vm, Work, operations};
use crate::domain::entity::Rejection;
use crate::domain::failure::Failure;
use crate::domain::id::JobId;
use crate::domain::job::{Job, JobKind, JobOutcome, Step};
use crate::domain::placement::Placement;
use crate::domain::retry::RetryLadder;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Hours that the copy of a test may be kept. Source: Site Recovery cleans a test up by itself after two
/// weeks.
pub const LEASE_HOURS: std::ops::RangeInclusive<u32> = 1..=336;

/// A VM is to be tested at least this often. Source: Site Recovery's advice of every six months.
const TEST_EVERY: Duration = Duration::from_hours(180 * 24);

/// Whether a VM is to be tested. Its health does not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TestStatus {
    /// It cannot be tested where it stands.
    #[default]
    NotApplicable,
    /// Its last test was more than 180 days ago or did not succeed, or there was none.
    TestRecommended,
    /// Its last test succeeded, and was not longer than 180 days ago.
    PerformedSuccessfully,
}

impl std::fmt::Display for TestStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotApplicable => "not applicable",
            Self::TestRecommended => "test recommended",
            Self::PerformedSuccessfully => "performed successfully",
        })
    }
}

impl Vm {
    /// Whether it is to be tested, at `now`.
    pub fn test_status(&self, now: Timestamp) -> TestStatus {
        let counts = |test: &TestResult| test.succeeded && now.since(test.at) <= TEST_EVERY;
        if !operations::operations_of_phase(self).contains(&"TestFailover") {
            TestStatus::NotApplicable
        } else if self.last_test.as_ref().is_some_and(counts) {
            TestStatus::PerformedSuccessfully
        } else {
            TestStatus::TestRecommended
        }
    }
}

/// A test failover that is not cleaned up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestFailover {
    /// The job that prepares it, or cleans it up.
    pub job: Job,
    /// The point that it runs from.
    pub point: RecoveryPoint,
    /// The network that it runs in.
    pub network: String,
    /// When it is cleaned up by itself.
    pub lease_ends: Timestamp,
    /// When the copy ran.
    pub started_at: Option<Timestamp>,
    /// Why it did not come to that.
    pub failure: Option<Failure>,
    /// When its clean-up is tried again.
    pub retry_at: Option<Timestamp>,
    /// What its tester said.
    pub notes: String,
    /// Where the copy is placed.
    pub placement: Option<Placement>,
}

/// What came of the last test failover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestResult {
    /// When it was cleaned up. A test counts only then.
    pub at: Timestamp,
    /// Whether the copy ran.
    pub succeeded: bool,
    /// What its tester said.
    pub notes: String,
}

impl TestFailover {
    /// Whether the copy runs and waits to be cleaned up.
    pub fn waits_for_clean_up(&self) -> bool {
        self.job.ended.is_some()
    }

    fn cleans_up(&self) -> bool {
        self.job.kind == JobKind::TestFailoverCleanup
    }

    /// The work that is to be done for it.
    pub(super) fn work(&self) -> Option<Work> {
        let (task, current) = self.job.current()?;
        self.retry_at.is_none().then_some(Work::Task { job: self.job.id, task, step: current.step })
    }

    /// The moment that it waits for, if it does.
    pub(super) fn waits_until(&self) -> Option<Timestamp> {
        self.retry_at.or_else(|| (!self.cleans_up()).then_some(self.lease_ends))
    }
}

/// A test is asked for.
pub(super) fn request(
    vm: &Vm,
    job: JobId,
    choice: PointChoice,
    network: &str,
    lease_h: u32,
    now: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    if !LEASE_HOURS.contains(&lease_h) {
        let (what, value) = ("the lease of a test failover in hours", lease_h.to_string());
        return Err(Rejection::OutOfRange { what, value, allowed: "1 to 336" });
    }
    let point = vm.known_point(choice).ok_or(Rejection::Unknown {
        what: "recovery point",
        name: super::rules::choice_name(choice),
    })?;
    let lease_ends = now.after(Duration::from_hours(u64::from(lease_h)));
    let network = network.to_owned();
    let mut events = vec![Event::TestFailoverRequested { point, network, lease_ends }];
    events.extend(super::rules::start(job, JobKind::TestFailover));
    Ok(events)
}

/// It is to end, whatever became of it.
pub(super) fn clean_up(test: &TestFailover, job: JobId, notes: &str) -> Vec<Event> {
    let mut events = Vec::new();
    if test.job.ended.is_none() {
        let outcome = JobOutcome::Cancelled;
        events.push(Event::JobEnded { job: test.job.id, outcome });
    }
    events.push(Event::TestCleanUpRequested { notes: notes.to_owned() });
    events.extend(super::rules::start(job, JobKind::TestFailoverCleanup));
    events
}

/// Its lease ended, or its clean-up is to be tried again.
pub(super) fn woken(vm: &Vm, test: &TestFailover) -> Vec<Event> {
    if test.retry_at.is_some() {
        return vec![Event::TestCleanUpRequested { notes: test.notes.clone() }];
    }
    clean_up(test, JobId::derived(vm.id.0, vm.jobs), "its lease ended")
}

/// A task of it is done.
pub(super) fn task_done(test: &TestFailover, task: u32, outcome: &Outcome) -> Vec<Event> {
    let job = test.job.id;
    let mut events = Vec::new();
    if let Outcome::Placed { placement } = outcome {
        events.push(Event::TestPlaced { placement: placement.clone() });
    }
    events.push(Event::TaskCompleted { job, task });
    if (task as usize) + 1 < test.job.tasks.len() {
        events.push(Event::TaskStarted { job, task: task + 1 });
        return events;
    }
    events.push(Event::JobEnded { job, outcome: JobOutcome::Completed });
    events.push(if test.cleans_up() {
        Event::TestCleanedUp { notes: test.notes.clone() }
    } else {
        Event::TestStarted
    });
    events
}

/// A task of it failed.
pub(super) fn task_failed(
    test: &TestFailover,
    (task, step): (u32, Step),
    failure: &Failure,
    now: Timestamp,
) -> Vec<Event> {
    let job = test.job.id;
    if test.cleans_up() {
        let due = RetryLadder::next_due(test.job.started_at, now);
        return vec![Event::TestCleanUpPutOff { due, because: failure.clone() }];
    }
    let mut events = vec![
        Event::TaskFailed { job, task, failure: failure.clone() },
        Event::JobEnded { job, outcome: JobOutcome::Failed },
    ];
    if step.is_check() {
        events.push(Event::TestCleanedUp { notes: String::new() });
    }
    events
}

/// What one event makes of a test; those of its job are dealt with like those of any job.
pub(super) fn apply(vm: &mut Vm, event: &Event, at: Timestamp) {
    match event {
        Event::TestFailoverRequested { point, network, lease_ends } => {
            vm.test = Some(TestFailover {
                job: Job::new(JobId::default(), JobKind::TestFailover, &[], at),
                point: *point,
                network: network.clone(),
                lease_ends: *lease_ends,
                started_at: None,
                failure: None,
                retry_at: None,
                notes: String::new(),
                placement: None,
            });
        }
        Event::TestStarted => {
            if let Some(test) = vm.test.as_mut() {
                test.started_at = Some(at);
            }
        }
        Event::TestCleanUpRequested { notes } => {
            if let Some(test) = vm.test.as_mut() {
                test.notes.clone_from(notes);
                test.retry_at = None;
            }
        }
        Event::TestCleanUpPutOff { due, because } => {
            if let Some(test) = vm.test.as_mut() {
                test.retry_at = Some(*due);
                test.failure = Some(because.clone());
            }
        }
        Event::TestCleanedUp { notes } => {
            if let Some(test) = vm.test.take() {
                let succeeded = test.started_at.is_some();
                vm.last_test = Some(TestResult { at, succeeded, notes: notes.clone() });
            }
        }
        _ => {}
    }
}
