//! Which operations a state allows, and those that end or interrupt something.
//!
//! The table of [`allowed_operations`] is the one place where that is said; names are those of Site
//! Recovery's API where it has them. A test failover never stands in the way of a failover on the worst
//! day: it runs on disks of its own.

use super::rules::{
    begin_resync, cancel_job, start, start_next, suspect_replica, unplanned_failover,
};
use super::{
    AfterFailover, Event, FailoverKind, Opening, Phase, PointChoice, Stage, Vm, addition, ending,
    resize,
};
use crate::domain::entity::Rejection;
use crate::domain::id::{JobId, PlanId};
use crate::domain::job::{Job, JobKind, Step};
use crate::domain::policy::Policy;
use crate::domain::time::Timestamp;

/// The operation that begins a resynchronization, by the name of the API.
pub(super) const REPAIR: &str = "RepairReplication";

impl Vm {
    /// Whether what its source wrote last would make a recovery point: it is replicated, and in step.
    pub fn can_send_the_latest(&self) -> bool {
        let job_runs = self.job.as_ref().is_some_and(|job| job.ended.is_none());
        self.phase == Phase::Protected && !job_runs && suspect_replica(self).is_none()
    }

    /// Whether its disks at the host that it runs on are to be attached though it may not run there: they are tracked,
    /// or its failover still has to send what was written to them last.
    pub fn needs_disks_of_source(&self) -> bool {
        self.is_tracked() || (self.is_in_synchronized_failover() && self.source_ended.is_none())
    }

    /// Whether its failover sends what its source, which is off, wrote last.
    pub fn sends_the_latest(&self) -> bool {
        self.is_in_planned_failover() || self.is_in_synchronized_failover()
    }

    fn is_in_synchronized_failover(&self) -> bool {
        self.phase == Phase::FailingOver(FailoverKind::Unplanned) && self.synchronizes
    }

    /// Whether its failover, or its test, waits for its recovery plan.
    pub fn waits_for_plan(&self) -> bool {
        self.test_waits_for_plan() || self.failover_waits_for_plan()
    }

    /// Whether its test waits for its recovery plan, when it could start.
    pub fn test_waits_for_plan(&self) -> bool {
        let test = self.test.as_ref().and_then(|test| test.job.current());
        self.held.is_some() && test.is_some_and(|(_, task)| task.step == Step::StartTest)
    }

    /// Whether its failover waits for its recovery plan: once its source was shut down, or when it could start.
    pub fn failover_waits_for_plan(&self) -> bool {
        let current = self.job.as_ref().and_then(Job::current).map(|(_, task)| task.step);
        match current {
            Some(Step::StartReplica) => self.held.is_some(),
            // The tasks after those that shut the source of a planned and of an unplanned failover down.
            Some(Step::PrepareForFailover | Step::StartFailover) => self.held_off,
            _ => false,
        }
    }

    /// Whether its failover has not come to where it waits if it is held once its source was shut down.
    pub fn is_not_shut_down_yet(&self) -> bool {
        let current = self.job.as_ref().and_then(Job::current).map(|(_, task)| task.step);
        matches!(
            current,
            Some(
                Step::CheckPlannedFailover
                    | Step::ShutDownSource
                    | Step::CheckUnplannedFailover
                    | Step::FenceSource
            )
        )
    }

    /// Nothing waits for a plan any more.
    pub(super) fn released(&mut self) {
        (self.held, self.held_off) = (None, false);
    }
}

/// The operations of a state, by the names of the API.
pub(super) fn allowed_operations(vm: &Vm) -> Vec<&'static str> {
    let mut operations = operations_of_phase(vm);
    let waits = matches!(vm.phase, Phase::Resynchronizing(_)) && vm.resync.waits_for.is_some();
    if waits || suspect_replica(vm).is_some() {
        operations.push(REPAIR);
    }
    if vm.held.is_some() {
        operations.push("ReleaseStart");
    }
    if vm.test.is_some() {
        // The copy reads from the replica.
        operations.retain(|operation| !matches!(*operation, "TestFailover" | "DisableProtection"));
        operations.push("TestFailoverCleanup");
    }
    operations
}

/// Those of its phase, whatever stands in their way.
pub(super) fn operations_of_phase(vm: &Vm) -> Vec<&'static str> {
    let job_runs = vm.job.as_ref().is_some_and(|job| job.ended.is_none());
    let has_point = !vm.points.is_empty();
    match &vm.phase {
        Phase::Unprotected => vec!["EnableProtection"],
        // What waits for a disk that grows need not wait on the worst day.
        Phase::Protected if job_runs => {
            let mut operations = vec![];
            if has_point {
                operations.extend(["UnplannedFailover", "TestFailover"]);
            }
            operations.push("DisableProtection");
            operations
        }
        Phase::Protected => {
            let mut operations = vec![];
            if has_point {
                operations.extend(["PlannedFailover", "UnplannedFailover", "TestFailover"]);
            }
            operations.push("DisableProtection");
            operations.extend(operations_of_deltas(vm));
            if !matches!(vm.delta.stage, Stage::Paused { .. }) {
                operations.extend([resize::OPERATION, addition::OPERATION]);
            }
            operations
        }
        // The source cannot be trusted to send its last changes, but earlier points can be used.
        Phase::Resynchronizing(_) => {
            let mut operations = vec![];
            if has_point {
                operations.extend(["UnplannedFailover", "TestFailover"]);
            }
            operations.push("DisableProtection");
            match vm.resync.waits_for {
                None => operations.push(pause_or_resume(vm)),
                Some(Opening::ByHand) => operations.push("ResumeReplication"),
                Some(Opening::At(_)) => {}
            }
            operations
        }
        Phase::Enabling | Phase::InitialReplication | Phase::Finalizing => {
            let mut operations = vec![];
            // After a failover that was cancelled, or a failback, there are points.
            if has_point {
                operations.extend(["UnplannedFailover", "TestFailover"]);
            }
            operations.push("DisableProtection");
            operations
        }
        Phase::FailingOver(FailoverKind::Planned) if has_point && !is_changing_point(vm) => {
            vec!["UnplannedFailover", "CancelFailover"]
        }
        Phase::FailingOver(_) => vec!["CancelFailover"],
        Phase::CommitPending(_) if !job_runs => vec!["Commit", "ChangePit", "CancelFailover"],
        // The primary site may be lost while the VM is being brought back to it.
        Phase::CancellingFailover if has_point => vec!["UnplannedFailover"],
        Phase::FailedOver(_) if !job_runs => vec!["Failback", "TestFailover", "DisableProtection"],
        Phase::FailingBack if vm.failback_can_be_cancelled() => vec!["CancelFailback"],
        Phase::FailbackReady if job_runs => vec![],
        Phase::FailbackReady => {
            let mut operations = vec!["CompleteFailback", "CancelFailback", "TestFailover"];
            operations.extend(operations_of_deltas(vm));
            operations
        }
        Phase::FailbackCommitPending if !job_runs => {
            vec!["Commit", "UnplannedFailover", "TestFailover"]
        }
        Phase::FailedBack => {
            vec!["ReverseReplicate", "UnplannedFailover", "TestFailover", "DisableProtection"]
        }
        // Without its source, where that does not answer.
        Phase::Disabling if ending::waits_for_source(vm) => vec!["DisableProtection"],
        Phase::Undiscovered
        | Phase::Disabling
        | Phase::CommitPending(_)
        | Phase::CancellingFailover
        | Phase::FailedOver(_)
        | Phase::FailingBack
        | Phase::FailbackCommitPending
        // Where it runs nothing tracks what it writes, and its disks at the primary site are those of a past.
        | Phase::UnprotectedAtRecovery => vec![],
    }
}

/// Whether the running job, or the last one, chose another point for a VM that was failed over.
pub(super) fn is_changing_point(vm: &Vm) -> bool {
    vm.job.as_ref().is_some_and(|job| job.kind == JobKind::ChangeRecoveryPoint)
}

fn operations_of_deltas(vm: &Vm) -> Vec<&'static str> {
    match vm.delta.stage {
        Stage::Paused { .. } => vec![pause_or_resume(vm)],
        _ => vec!["TakeRecoveryPoint", pause_or_resume(vm)],
    }
}

const fn pause_or_resume(vm: &Vm) -> &'static str {
    match vm.delta.stage {
        Stage::Paused { .. } => "ResumeReplication",
        _ => "PauseReplication",
    }
}

/// Its start is held for a recovery plan. No operation of a state: only a plan asks for it, before a failover or a test.
pub(super) fn hold_start(vm: &Vm, plan: PlanId) -> Result<Vec<Event>, Rejection> {
    let starts = ["PlannedFailover", "UnplannedFailover", "TestFailover"];
    let allowed = operations_of_phase(vm);
    let can_start = allowed.iter().any(|operation| starts.contains(operation));
    if vm.held.is_some() || matches!(vm.phase, Phase::FailingOver(_)) || !can_start {
        return Err(not_allowed(vm, "HoldStart"));
    }
    Ok(vec![Event::StartHeld { plan }])
}

/// Its failover, whose start is held, waits also once its source was shut down.
pub(super) fn hold_failover(vm: &Vm) -> Result<Vec<Event>, Rejection> {
    let is_too_late = matches!(vm.phase, Phase::FailingOver(_)) && !vm.is_not_shut_down_yet();
    if vm.held.is_none() || is_too_late {
        return Err(not_allowed(vm, "HoldFailover"));
    }
    Ok(if vm.held_off { vec![] } else { vec![Event::FailoverHeld] })
}

/// An unplanned failover takes the place of the planned one that a plan holds, and is held as that one was.
pub(super) fn replace_failover(
    vm: &Vm,
    job: JobId,
    point: PointChoice,
    synchronize: bool,
) -> Result<Vec<Event>, Rejection> {
    let plan = vm.held.filter(|_| vm.phase == Phase::FailingOver(FailoverKind::Planned));
    let Some(plan) = plan else { return Err(not_allowed(vm, "UnplannedFailover")) };
    allow(vm, "UnplannedFailover")?;
    let mut events = cancel_job(vm);
    events.push(Event::StartHeld { plan });
    events.extend(vm.held_off.then_some(Event::FailoverHeld));
    events.extend(unplanned_failover(vm, job, point, synchronize)?);
    Ok(events)
}

pub(super) fn allow(vm: &Vm, operation: &'static str) -> Result<(), Rejection> {
    if allowed_operations(vm).contains(&operation) {
        Ok(())
    } else {
        Err(not_allowed(vm, operation))
    }
}

fn not_allowed(vm: &Vm, operation: &'static str) -> Rejection {
    let (name, state) = (vm.name.clone(), vm.phase.to_string());
    Rejection::NotAllowed { operation, name, state, allowed: allowed_operations(vm) }
}

/// Another point is chosen for a VM that runs at the recovery site.
pub(super) fn change_point(vm: &Vm, job: JobId, choice: PointChoice) -> Vec<Event> {
    let mut events = vec![Event::FailoverRequested { point: choice }];
    events.extend(cancel_job(vm));
    events.extend(start(job, JobKind::ChangeRecoveryPoint));
    events
}

/// The failover is to be undone.
pub(super) fn cancel_failover(vm: &Vm, job: JobId) -> Vec<Event> {
    let mut events = cancel_job(vm);
    events.extend(start(job, JobKind::CancelFailover));
    events
}

/// The failover is undone: replication goes on with what was tracked, or with the resynchronization that
/// the failover had taken the place of, or that is due since tracking was lost before it.
pub(super) fn failover_cancelled(vm: &Vm, now: Timestamp) -> Vec<Event> {
    let mut events = vec![Event::FailoverCancelled];
    let lost = match &vm.phase_before {
        Phase::Resynchronizing(reason) => Some(reason),
        _ => vm.resync.lost.as_ref(),
    };
    if let Some(unfinished) = resize::left_unfinished(vm, now) {
        events.extend(unfinished);
    } else if let Some(reason) = lost {
        events.push(Event::MarkedForResync { reason: reason.clone() });
        events.extend(begin_resync(vm, vm.resync.window, now));
    } else {
        events.extend(start_next(vm, JobKind::ResumeReplication));
    }
    events
}

impl Vm {
    /// It is replicated by this policy from now on.
    pub(super) fn change_policy(&mut self, policy: Policy, at: Timestamp) {
        self.policy = policy;
        if policy.app_consistent_frequency().is_none() {
            self.quiescence.asks_no_more();
        }
        if let Stage::Waiting { .. } = self.delta.stage {
            self.wait_for_next_delta(at);
        }
    }
}

/// What was set for the moment that has come.
pub(super) fn decide_failover(vm: &Vm, then: AfterFailover) -> Vec<Event> {
    match then {
        AfterFailover::Commit => start_next(vm, JobKind::CommitFailover),
        AfterFailover::Cancel => cancel_failover(vm, JobId::derived(vm.id.0, vm.jobs)),
    }
}

/// The running job is given up.
pub(super) fn cancel(vm: &Vm, job: JobId) -> Result<Vec<Event>, Rejection> {
    let next = JobId::derived(vm.id.0, vm.jobs);
    if let Some(test) = vm.test.as_ref().filter(|test| test.job.id == job)
        && test.job.kind == JobKind::TestFailover
    {
        return Ok(super::test_failover::clean_up(test, next, "it was cancelled"));
    }
    let running = vm.job.as_ref().filter(|own| own.id == job && own.ended.is_none());
    let Some(running) = running else {
        return Err(Rejection::Unknown { what: "running job", name: job.to_string() });
    };
    let unable = || Rejection::NotAllowed {
        operation: "CancelJob",
        name: vm.name.clone(),
        state: vm.phase.to_string(),
        allowed: allowed_operations(vm),
    };
    match running.kind {
        JobKind::EnableProtection | JobKind::InitialReplication | JobKind::FinalizeProtection => {
            Ok(ending::disable(vm, next, false))
        }
        JobKind::Resynchronize | JobKind::ResynchronizeDifferences => {
            let mut events = cancel_job(vm);
            events.push(Event::ResyncScheduled { opening: Opening::ByHand });
            Ok(events)
        }
        JobKind::PlannedFailover | JobKind::UnplannedFailover | JobKind::ChangeRecoveryPoint => {
            Ok(cancel_failover(vm, next))
        }
        JobKind::Failback | JobKind::CompleteFailback if vm.failback_can_be_cancelled() => {
            Ok(cancel_failback(vm))
        }
        JobKind::ResizeDisk | JobKind::AddDisk if vm.resize.is_some_and(|resize| !resize.grown) => {
            Ok(cancel_job(vm))
        }
        // What was downloaded is on its disks as it was in the vault.
        JobKind::DisableAtRecovery if !vm.has_left_vault() => Ok(cancel_job(vm)),
        // What these undo or make final is half done: going on is the only way to a sound state.
        JobKind::CommitFailover
        | JobKind::CommitFailback
        | JobKind::CancelFailover
        | JobKind::Failback
        | JobKind::CompleteFailback
        | JobKind::ReverseReplicate
        | JobKind::ResumeReplication
        | JobKind::DisableProtection
        | JobKind::RemoveProtection
        | JobKind::DisableAtRecovery
        | JobKind::ResizeDisk
        | JobKind::AddDisk
        | JobKind::TestFailover
        | JobKind::TestFailoverCleanup => Err(unable()),
    }
}

pub(super) fn cancel_failback(vm: &Vm) -> Vec<Event> {
    let mut events = cancel_job(vm);
    events.push(Event::FailbackCancelled);
    events
}
