//! What a VM has to be told next, for its part of a step of a run.

use super::run::{Run, Task};
use super::{Plan, RunKind, RunOptions};
use crate::domain::id::JobId;
use crate::domain::vm::{Command, FailoverKind, NextStep, Phase, Vm};

/// What comes next for a VM in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// It is to be told this.
    Tell(Box<Command>),
    /// It is at it.
    Wait,
    /// It has done its part.
    Done,
    /// It cannot.
    Fail(String),
}

/// What comes next for `vm` in the running step, as the VM is.
pub fn next_move(plan: &Plan, run: &Run, vm: &Vm) -> Move {
    let Some(step) = run.step() else { return Move::Done };
    let begun_in = match step.task {
        Task::FailOver => run.first_of_failover(),
        _ => run.current,
    };
    let job = JobId::named(run.job.0, &format!("{} {begun_in}", vm.id));
    let the_move = match (&step.task, &run.kind) {
        (Task::FailOver, RunKind::Test { network }) => test(plan, run, vm, job, network),
        (Task::ShutDown | Task::FailOver, _) => fail_over(plan, run, vm, job),
        (Task::Boot { .. }, kind) => boot(plan, vm, matches!(kind, RunKind::Test { .. })),
        (Task::All, RunKind::CleanUp) => clean_up(vm, job, &run.options),
        (Task::All, RunKind::Commit) => commit(vm, job),
        (Task::All, _) => reverse(vm, job),
        (Task::Act { .. }, _) => Move::Done,
    };
    match (&the_move, trouble(vm)) {
        // What it is doing does not go on by itself.
        (Move::Wait, Some(why)) => Move::Fail(why),
        _ => the_move,
    }
}

/// What comes for `vm` once the run has ended without starting it. Its start waits for no group any more,
/// unless it was to move without loss and has been shut down for it: then it can as well go back, which
/// somebody has to decide.
pub fn let_go(plan: &Plan, run: &Run, vm: &Vm) -> Move {
    let is_off = run.kind == RunKind::Planned && matches!(vm.phase, Phase::FailingOver(_));
    if vm.held != Some(plan.id) || is_off {
        return Move::Done;
    }
    tell(Command::ReleaseStart)
}

fn trouble(vm: &Vm) -> Option<String> {
    let trouble = vm.trouble.as_ref()?;
    (trouble.next == NextStep::Administrator).then(|| trouble.failure.to_string())
}

fn tell(command: Command) -> Move {
    Move::Tell(Box::new(command))
}

/// Whether a job of this run for this VM ended without success. The VM may be at its next one already: a
/// resynchronization goes on as soon as a failover has failed its check.
fn has_failed(vm: &Vm, job: JobId) -> bool {
    vm.unsuccessful == Some(job)
}

fn not_allowed(vm: &Vm, operation: &str) -> Move {
    Move::Fail(format!("{operation} of {} is not allowed while it is {}", vm.name, vm.phase))
}

/// Up to where it is shut down, or from there or from the beginning to where it could start.
fn fail_over(plan: &Plan, run: &Run, vm: &Vm, job: JobId) -> Move {
    let shuts_down = run.step().is_some_and(|step| step.task == Task::ShutDown);
    let was_shut_down = run.first_of_failover() != run.current;
    let is_held = vm.held == Some(plan.id);
    let waits = vm.failover_waits_for_plan();
    let (operation, command) = match run.kind {
        RunKind::Planned => ("PlannedFailover", Command::PlannedFailover { job }),
        _ if run.options.synchronize => {
            ("UnplannedFailover", Command::SynchronizeAndFailOver { job })
        }
        _ => {
            let point = run.options.point;
            ("UnplannedFailover", Command::UnplannedFailover { job, point })
        }
    };
    match vm.phase {
        // Another plan, or somebody by hand, has failed it over.
        Phase::CommitPending(_) | Phase::FailedOver(_) | Phase::UnprotectedAtRecovery => Move::Done,
        // A planned run has left it so, and its host may be the one that is lost. One that could start lost nothing.
        Phase::FailingOver(FailoverKind::Planned)
            if run.kind == RunKind::Unplanned && is_held && (vm.held_off || !waits) =>
        {
            let RunOptions { point, synchronize, .. } = run.options;
            tell(Command::ReplaceFailover { job, point, synchronize })
        }
        Phase::FailingOver(_) if is_held && waits => {
            if shuts_down || !vm.held_off {
                Move::Done
            } else {
                tell(Command::ReleaseFailover)
            }
        }
        Phase::FailingOver(_) if waits => {
            Move::Fail(format!("{} waits for another recovery plan to start it", vm.name))
        }
        _ if has_failed(vm, job) => Move::Fail(format!("the failover of {} failed", vm.name)),
        // What an earlier run of a plan that did nothing in between has begun.
        Phase::FailingOver(_)
            if shuts_down && is_held && !vm.held_off && vm.is_not_shut_down_yet() =>
        {
            tell(Command::HoldFailover)
        }
        Phase::FailingOver(_) => Move::Wait,
        // It was released, or taken back, and what was done since was done for a VM that is off.
        _ if was_shut_down => {
            Move::Fail(format!("{} is not shut down any more: it is {}", vm.name, vm.phase))
        }
        _ if !vm.allowed_operations().contains(&operation) => not_allowed(vm, operation),
        _ if !is_held => tell(Command::HoldStart { plan: plan.id }),
        _ if shuts_down && !vm.held_off => tell(Command::HoldFailover),
        _ => tell(command),
    }
}

fn test(plan: &Plan, run: &Run, vm: &Vm, job: JobId, network: &str) -> Move {
    let Some(test) = &vm.test else {
        let ended = vm.last_test.as_ref().is_some_and(|result| run.started_at <= result.at);
        if ended {
            return Move::Fail(format!("the test failover of {} failed its check", vm.name));
        }
        if !vm.allowed_operations().contains(&"TestFailover") {
            return not_allowed(vm, "TestFailover");
        }
        if vm.held != Some(plan.id) {
            return tell(Command::HoldStart { plan: plan.id });
        }
        let RunOptions { point, lease_h, .. } = run.options;
        let network = network.to_owned();
        return tell(Command::TestFailover { job, point, network, lease_h });
    };
    if test.job.id != job {
        return Move::Fail(format!("{} has a test failover that is not cleaned up", vm.name));
    }
    match &test.failure {
        Some(failure) => Move::Fail(failure.to_string()),
        None if test.started_at.is_some() || vm.test_waits_for_plan() => Move::Done,
        None => Move::Wait,
    }
}

fn boot(plan: &Plan, vm: &Vm, is_test: bool) -> Move {
    if vm.held == Some(plan.id) {
        return tell(Command::ReleaseStart);
    }
    if is_test {
        return match &vm.test {
            Some(test) if test.started_at.is_some() => Move::Done,
            Some(test) => {
                test.failure.as_ref().map_or(Move::Wait, |failure| Move::Fail(failure.to_string()))
            }
            None => Move::Fail(format!("the test failover of {} has ended", vm.name)),
        };
    }
    match vm.phase {
        Phase::CommitPending(_) | Phase::FailedOver(_) | Phase::UnprotectedAtRecovery => Move::Done,
        Phase::FailingOver(_) => Move::Wait,
        _ => Move::Fail(format!("{} is {}", vm.name, vm.phase)),
    }
}

fn clean_up(vm: &Vm, job: JobId, options: &RunOptions) -> Move {
    match &vm.test {
        None => Move::Done,
        Some(test) if test.job.id == job => Move::Wait,
        Some(_) => {
            let notes = match options.notes.as_str() {
                "" => "cleaned up with its recovery plan".to_owned(),
                given => given.to_owned(),
            };
            tell(Command::CleanUpTestFailover { job, notes })
        }
    }
}

fn commit(vm: &Vm, job: JobId) -> Move {
    match vm.phase {
        Phase::FailedOver(_) | Phase::FailedBack | Phase::UnprotectedAtRecovery => Move::Done,
        _ if has_failed(vm, job) => Move::Fail(format!("the commit of {} failed", vm.name)),
        _ if vm.allowed_operations().contains(&"Commit") => tell(Command::CommitFailover { job }),
        Phase::CommitPending(_) | Phase::FailbackCommitPending => Move::Wait,
        _ => not_allowed(vm, "Commit"),
    }
}

fn reverse(vm: &Vm, job: JobId) -> Move {
    match vm.phase {
        Phase::Protected => Move::Done,
        _ if has_failed(vm, job) => Move::Fail(format!("the reversal of {} failed", vm.name)),
        Phase::Finalizing | Phase::Resynchronizing(_) => Move::Wait,
        Phase::FailedBack => tell(Command::ReverseReplicate { job }),
        _ => not_allowed(vm, "ReverseReplicate"),
    }
}
