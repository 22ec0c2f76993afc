//! What a VM decides.

use super::{
    Command, Effect, Event, FailoverKind, NextStep, Opening, Outcome, Phase, PointChoice,
    RecoveryPoint, ResyncReason, ResyncWindow, RetryLadder, RetryReason, Vm, Wake, Work,
};
use crate::domain::catalogue::Code;
use crate::domain::entity::{Entity, Rejection};
use crate::domain::failure::{Cause, Class, Failure};
use crate::domain::id::JobId;
use crate::domain::job::{Job, JobKind, JobOutcome, Step};
use crate::domain::time::Timestamp;

pub(super) fn decide(vm: &Vm, command: &Command, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::Discover { id, name, host, cloud, disks } => {
            if vm.phase == Phase::Undiscovered {
                return Ok(vec![Event::Discovered {
                    id: *id,
                    name: name.clone(),
                    host: *host,
                    cloud: *cloud,
                    disks: disks.clone(),
                }]);
            }
            if vm.disks != *disks {
                let difference = "set of disks";
                return Err(Rejection::Conflict { name: vm.name.clone(), difference });
            }
            Ok(vec![])
        }
        Command::EnableProtection { job, vault, policy } => {
            allow(vm, "EnableProtection")?;
            policy.check()?;
            let mut events = vec![Event::ProtectionEnabled { vault: *vault, policy: *policy }];
            events.extend(start(*job, JobKind::EnableProtection));
            Ok(events)
        }
        Command::ChangePolicy { policy } => {
            policy.check()?;
            if vm.policy == *policy || matches!(vm.phase, Phase::Undiscovered | Phase::Unprotected)
            {
                return Ok(vec![]);
            }
            Ok(vec![Event::PolicyChanged { policy: *policy }])
        }
        Command::PlannedFailover { job } => {
            allow(vm, "PlannedFailover")?;
            Ok(start(*job, JobKind::PlannedFailover))
        }
        Command::UnplannedFailover { job, point } => {
            allow(vm, "UnplannedFailover")?;
            if let PointChoice::Cycle(cycle) = point
                && !vm.points.iter().any(|known| known.cycle == *cycle)
            {
                let name = cycle.to_string();
                return Err(Rejection::Unknown { what: "recovery point", name });
            }
            let mut events = cancel_job(vm);
            events.push(Event::FailoverRequested { point: *point });
            events.extend(start(*job, JobKind::UnplannedFailover));
            Ok(events)
        }
        Command::CommitFailover { job } => {
            allow(vm, "Commit")?;
            Ok(start(*job, JobKind::CommitFailover))
        }
        Command::Retry { because } => Ok(retry_early(vm, because)),
        Command::Wake { due, wake } => Ok(wake_up(vm, *due, *wake, now)),
        Command::ReportDone { job, task, outcome } => task_done(vm, *job, *task, outcome, now),
        Command::ReportProgress { job, task, done_bytes, total_bytes } => {
            let current = vm.job.as_ref().filter(|own| own.id == *job).and_then(Job::current);
            match current {
                Some((index, own))
                    if index == *task && own.progress != Some((*done_bytes, *total_bytes)) =>
                {
                    Ok(vec![Event::TaskProgressed {
                        job: *job,
                        task: *task,
                        done_bytes: *done_bytes,
                        total_bytes: *total_bytes,
                    }])
                }
                _ => Ok(vec![]),
            }
        }
        Command::ReportSnapshot { cycle, at, log_bytes } => {
            if vm.work() != Some(Work::Snapshot { cycle: *cycle }) {
                return Ok(vec![]);
            }
            // A cut that lies in the future is one of a host whose clock is ahead.
            let at = (*at).min(now);
            Ok(vec![Event::SnapshotTaken { cycle: *cycle, at, log_bytes: *log_bytes }])
        }
        Command::ReportShipped { cycle, shipped_bytes } => {
            let Some(Work::Ship { cycle: current, snapshot_at }) = vm.work() else {
                return Ok(vec![]);
            };
            if current != *cycle {
                return Ok(vec![]);
            }
            let point = RecoveryPoint { cycle: *cycle, at: snapshot_at, bytes: *shipped_bytes };
            Ok(shipped(vm, &[point], now))
        }
        Command::ReportFailure { work, failure } => Ok(work_failed(vm, *work, failure, now)),
        Command::ReportTrackingLost { first_cycle, reason } => {
            Ok(tracking_lost(vm, *first_cycle, reason, now))
        }
        Command::Resynchronize { job } => {
            allow(vm, REPAIR)?;
            Ok(resynchronize(vm, *job))
        }
        Command::ChangeResyncWindow { window } => {
            window.check()?;
            Ok(change_window(vm, *window, now))
        }
    }
}

/// The operation that begins a resynchronization, by the name of the API.
const REPAIR: &str = "RepairReplication";

/// The operations of a state, by the names of the API.
pub(super) fn allowed_operations(vm: &Vm) -> Vec<&'static str> {
    let mut operations = operations_of_phase(vm);
    let waits = matches!(vm.phase, Phase::Resynchronizing(_)) && vm.resync.waits_for.is_some();
    if waits || suspect_replica(vm).is_some() {
        operations.push(REPAIR);
    }
    operations
}

fn operations_of_phase(vm: &Vm) -> Vec<&'static str> {
    let job_runs = vm.job.as_ref().is_some_and(|job| job.ended.is_none());
    let has_point = !vm.points.is_empty();
    match &vm.phase {
        Phase::Unprotected => vec!["EnableProtection"],
        Phase::Protected if has_point => vec!["PlannedFailover", "UnplannedFailover"],
        // The source cannot be trusted to send its last changes, but earlier points can be used.
        Phase::Resynchronizing(_) | Phase::FailingOver(FailoverKind::Planned) if has_point => {
            vec!["UnplannedFailover"]
        }
        Phase::CommitPending(_) if !job_runs => vec!["Commit"],
        Phase::Undiscovered
        | Phase::Enabling
        | Phase::InitialReplication
        | Phase::Finalizing
        | Phase::Protected
        | Phase::Resynchronizing(_)
        | Phase::FailingOver(_)
        | Phase::CommitPending(_)
        | Phase::FailedOver(_) => vec![],
    }
}

fn allow(vm: &Vm, operation: &'static str) -> Result<(), Rejection> {
    let allowed = allowed_operations(vm);
    if allowed.contains(&operation) {
        return Ok(());
    }
    Err(Rejection::NotAllowed {
        operation,
        name: vm.name.clone(),
        state: vm.phase.to_string(),
        allowed,
    })
}

fn start(job: JobId, kind: JobKind) -> Vec<Event> {
    vec![Event::JobStarted { job, kind }, Event::TaskStarted { job, task: 0 }]
}

fn start_next(vm: &Vm, kind: JobKind) -> Vec<Event> {
    start(JobId::derived(vm.id.0, vm.jobs), kind)
}

fn cancel_job(vm: &Vm) -> Vec<Event> {
    match &vm.job {
        Some(job) if job.ended.is_none() => {
            vec![Event::JobEnded { job: job.id, outcome: JobOutcome::Cancelled }]
        }
        _ => vec![],
    }
}

/// Begins the resynchronization of a VM that is marked, or lets it wait for the window. One that has
/// no recovery point to fall back on does not wait.
fn begin_resync(vm: &Vm, window: ResyncWindow, now: Timestamp) -> Vec<Event> {
    match window.opens(now) {
        Opening::At(moment) if moment <= now => start_next(vm, vm.resync_kind()),
        _ if vm.points.is_empty() => start_next(vm, vm.resync_kind()),
        opening => vec![Event::ResyncScheduled { opening }],
    }
}

/// What is wrong with the replica, where that is what an administrator has to act on.
fn suspect_replica(vm: &Vm) -> Option<&Failure> {
    let trouble = vm.trouble.as_ref().filter(|it| it.next == NextStep::Administrator)?;
    let is_suspect = matches!(trouble.failure.code, Code::ReplicaDamaged | Code::ReplicaInvalid);
    let is_replicated = vm.is_tracked() && vm.may_run_at_primary();
    (is_suspect && is_replicated).then_some(&trouble.failure)
}

/// An operator asks for it: whatever the window says.
fn resynchronize(vm: &Vm, job: JobId) -> Vec<Event> {
    let Some(failure) = suspect_replica(vm) else { return start(job, vm.resync_kind()) };
    let mut events = cancel_job(vm);
    let reason = ResyncReason::ReplicaSuspect(failure.to_string());
    events.push(Event::MarkedForResync { reason });
    events.extend(start(job, JobKind::Resynchronize));
    events
}

fn change_window(vm: &Vm, window: ResyncWindow, now: Timestamp) -> Vec<Event> {
    if vm.resync.window == window || vm.phase == Phase::Undiscovered {
        return vec![];
    }
    let mut events = vec![Event::ResyncWindowChanged { window }];
    if let (Phase::Resynchronizing(_), Some(_)) = (&vm.phase, vm.resync.waits_for) {
        events.extend(begin_resync(vm, window, now));
    }
    events
}

fn wake_up(vm: &Vm, due: Timestamp, wake: Wake, now: Timestamp) -> Vec<Event> {
    if !vm.pending().contains(&Effect::WakeAt { due, wake }) {
        return vec![];
    }
    match wake {
        // The moment counts where the clock was set back since; where it was missed, as by a service
        // that did not run, the window has to be open still.
        Wake::Resync => begin_resync(vm, vm.resync.window, now.max(due)),
        Wake::Cycle(cycle) => vec![Event::CycleStarted { cycle }],
        Wake::Retry(attempt) => vec![Event::RetryStarted { attempt, early: None }],
    }
}

fn retry_early(vm: &Vm, because: &RetryReason) -> Vec<Event> {
    let Some(trouble) = &vm.trouble else { return vec![] };
    let fits = match (because, trouble.next) {
        (RetryReason::Administrator, NextStep::RetryAt(_) | NextStep::Administrator) => true,
        (RetryReason::CauseEnded(ended), NextStep::RetryAt(_)) => *ended == trouble.failure.cause,
        (RetryReason::CauseEnded(_), NextStep::Administrator) | (_, NextStep::Trying) => false,
    };
    if !fits {
        return vec![];
    }
    vec![Event::RetryStarted { attempt: trouble.attempt, early: Some(because.clone()) }]
}

fn work_failed(vm: &Vm, work: Work, failure: &Failure, now: Timestamp) -> Vec<Event> {
    // Work that waits for its time or for an administrator is not being done: this was told before.
    if !vm.pending().contains(&Effect::Do(work)) {
        return vec![];
    }
    // What the catalogue promises of a broken chain, wherever the chain still matters.
    if failure.code == Code::LogChainBroken {
        let reason = ResyncReason::LogDamaged(failure.to_string());
        let events = tracking_lost(vm, vm.delta.chain_first_cycle, &reason, now);
        if !events.is_empty() {
            return events;
        }
    }
    match (failure.class(), work) {
        (Class::Recoverable, _) => {
            let earlier = vm.trouble.as_ref();
            let since = earlier.map_or(now, |trouble| trouble.since);
            vec![Event::RetryScheduled {
                work,
                attempt: earlier.map_or(0, |trouble| trouble.attempt) + 1,
                due: RetryLadder::next_due(since, now),
                because: failure.clone(),
            }]
        }
        (Class::NonRecoverable, Work::Task { job, task, step }) if step.is_check() => {
            let mut events = vec![
                Event::TaskFailed { job, task, failure: failure.clone() },
                Event::JobEnded { job, outcome: JobOutcome::Failed },
            ];
            // The failover had taken the place of a resynchronization, which begins again.
            if let (Phase::FailingOver(_), Phase::Resynchronizing(_)) =
                (&vm.phase, &vm.phase_before)
            {
                match vm.resync.waits_for {
                    // It waits on, and the moment may have passed meanwhile.
                    Some(_) => events.extend(begin_resync(vm, vm.resync.window, now)),
                    None => events.extend(start_next(vm, vm.resync_kind())),
                }
            }
            events
        }
        (Class::NonRecoverable, _) => {
            vec![Event::AdministratorNeeded { work, because: failure.clone() }]
        }
    }
}

fn tracking_lost(vm: &Vm, first_cycle: u64, reason: &ResyncReason, now: Timestamp) -> Vec<Event> {
    if !vm.is_tracked() || first_cycle != vm.delta.chain_first_cycle {
        return vec![];
    }
    // A resynchronization restarts tracking first; until it has, the loss is the one it deals with.
    // When a planned failover starts, all that was tracked has arrived, and the source is off.
    let irrelevant = matches!(
        vm.work(),
        Some(Work::Task {
            step: Step::RestartTracking | Step::StartFailover | Step::StartReplica,
            ..
        })
    );
    if irrelevant {
        return vec![];
    }
    let mut events = cancel_job(vm);
    events.push(Event::MarkedForResync { reason: reason.clone() });
    if let Phase::Resynchronizing(_) = vm.phase {
        // Lost again: at once it would be lost as fast as the host can restart it.
        events.extend(start_next(vm, vm.resync_kind()));
        let job = JobId::derived(vm.id.0, vm.jobs);
        events.push(Event::RetryScheduled {
            work: Work::Task { job, task: 0, step: Step::RestartTracking },
            attempt: 1,
            due: RetryLadder::next_due(vm.phase_since, now),
            because: Failure::new(Code::TrackingLostAgain, Cause::Itself, reason)
                .with("vm", &vm.name),
        });
    } else {
        events.extend(begin_resync(vm, vm.resync.window, now));
    }
    events
}

fn task_done(
    vm: &Vm,
    job: JobId,
    task: u32,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    let Some(Work::Task { job: current, task: index, step }) = vm.work() else {
        return Ok(vec![]);
    };
    if (current, index) != (job, task) {
        return Ok(vec![]);
    }
    check_outcome(vm, step, outcome)?;
    let mut events = facts(vm, step, outcome, now);
    events.push(Event::TaskCompleted { job, task });
    let tasks = vm.job.as_ref().map_or(0, |job| job.tasks.len());
    if (task as usize) + 1 < tasks {
        events.push(Event::TaskStarted { job, task: task + 1 });
        return Ok(events);
    }
    events.push(Event::JobEnded { job, outcome: JobOutcome::Completed });
    match vm.job.as_ref().map(|job| job.kind) {
        Some(JobKind::EnableProtection) => {
            events.extend(start_next(vm, JobKind::InitialReplication));
        }
        Some(JobKind::InitialReplication) => {
            events.extend(start_next(vm, JobKind::FinalizeProtection));
        }
        Some(
            JobKind::FinalizeProtection
            | JobKind::Resynchronize
            | JobKind::ResynchronizeDifferences,
        ) => events.push(Event::Protected),
        Some(JobKind::PlannedFailover | JobKind::UnplannedFailover) => {
            events.push(Event::ReplicaStarted);
        }
        Some(JobKind::CommitFailover) => events.push(Event::FailoverCommitted),
        None => {}
    }
    Ok(events)
}

/// A task is done only with what it must bring: no failover goes on unfenced, no VM is protected
/// without a recovery point of its chain.
fn check_outcome(vm: &Vm, step: Step, outcome: &Outcome) -> Result<(), Rejection> {
    let fits = match (step, outcome) {
        (Step::CopyDisk(disk), Outcome::Copied { disk: done, .. })
        | (Step::CompareDisk(disk), Outcome::Compared { disk: done, .. }) => disk == *done,
        (Step::ApplyTrackedChanges, Outcome::Shipped { points }) => {
            points.iter().any(|point| vm.delta.chain_first_cycle <= point.cycle)
        }
        (Step::PrepareForFailover, Outcome::Shipped { .. })
        | (Step::FenceSource, Outcome::Fenced { .. }) => true,
        (
            Step::CopyDisk(_)
            | Step::CompareDisk(_)
            | Step::ApplyTrackedChanges
            | Step::PrepareForFailover
            | Step::FenceSource,
            _,
        ) => false,
        (_, outcome) => *outcome == Outcome::Done,
    };
    if fits {
        return Ok(());
    }
    let value = format!("{outcome:?} for {}", step.name());
    Err(Rejection::OutOfRange { what: "the outcome", value, allowed: "what the task makes" })
}

/// What the completion of a task makes true of the VM.
fn facts(vm: &Vm, step: Step, outcome: &Outcome, now: Timestamp) -> Vec<Event> {
    match (step, outcome) {
        (Step::EnableReplication | Step::RestartTracking, _) => {
            vec![Event::TrackingStarted { first_cycle: vm.first_cycle_of_new_chain() }]
        }
        (Step::CopyDisk(_), Outcome::Copied { disk, bytes }) => {
            vec![Event::DiskCopied { disk: *disk, bytes: *bytes }]
        }
        (Step::CompareDisk(_), Outcome::Compared { disk, compared_bytes, different_bytes }) => {
            vec![Event::DiskCompared {
                disk: *disk,
                compared_bytes: *compared_bytes,
                different_bytes: *different_bytes,
            }]
        }
        (Step::ApplyTrackedChanges | Step::PrepareForFailover, Outcome::Shipped { points }) => {
            let mut events = shipped(vm, points, now);
            events.extend(dropped(vm, step));
            events
        }
        (Step::ShutDownSource, _) => vec![Event::SourceShutDown],
        (Step::FenceSource, Outcome::Fenced { found }) => {
            let mut events = shipped(vm, found, now);
            events.push(Event::SourceFenced { epoch: vm.epoch + 1 });
            events
        }
        (Step::StartFailover, _) => match (&vm.phase, vm.failover_point()) {
            (Phase::FailingOver(kind), Some(point)) => {
                vec![Event::FailedOver { kind: *kind, point }]
            }
            _ => vec![],
        },
        _ => vec![],
    }
}

/// Records points, and lets go of those past their retention. The newest is always kept, and during
/// a failover so are all: one of them was chosen.
fn shipped(vm: &Vm, points: &[RecoveryPoint], now: Timestamp) -> Vec<Event> {
    let known = vm.latest_point().map_or(0, |point| point.cycle);
    let mut fresh: Vec<_> = points.iter().copied().filter(|point| known < point.cycle).collect();
    for point in &mut fresh {
        point.at = point.at.min(now);
    }
    fresh.sort_by_key(|point| point.cycle);
    fresh.dedup_by_key(|point| point.cycle);
    let newest = fresh.last().copied().or(vm.latest_point());
    let mut events: Vec<_> = fresh.into_iter().map(|point| Event::LogShipped { point }).collect();
    if matches!(vm.phase, Phase::FailingOver(_)) {
        return events;
    }
    let Some(newest) = newest else { return events };
    let retention = vm.policy.retention();
    let kept_from_cycle = vm
        .points
        .iter()
        .find(|point| now.since(point.at) <= retention)
        .map_or(newest.cycle, |point| point.cycle);
    if vm.points.first().is_some_and(|oldest| oldest.cycle < kept_from_cycle) {
        events.push(Event::RecoveryPointsExpired { kept_from_cycle });
    }
    events
}

/// Once another copy has its first point, those of the suspect replica go.
fn dropped(vm: &Vm, step: Step) -> Option<Event> {
    let because = vm.resync.suspect.clone().filter(|_| step == Step::ApplyTrackedChanges)?;
    let kept_from_cycle = vm.delta.chain_first_cycle;
    vm.points.first().filter(|oldest| oldest.cycle < kept_from_cycle)?;
    Some(Event::RecoveryPointsDropped { kept_from_cycle, because })
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Undiscovered => "not known",
            Self::Unprotected => "not protected",
            Self::Enabling => "enabling protection",
            Self::InitialReplication => "in initial replication",
            Self::Finalizing => "finalizing protection",
            Self::Protected => "protected",
            Self::Resynchronizing(_) => "resynchronizing",
            Self::FailingOver(FailoverKind::Planned) => "in planned failover",
            Self::FailingOver(FailoverKind::Unplanned) => "in unplanned failover",
            Self::CommitPending(FailoverKind::Planned) => {
                "planned failover finished, commit required"
            }
            Self::CommitPending(FailoverKind::Unplanned) => "failover completed, commit pending",
            Self::FailedOver(FailoverKind::Planned) => "planned failover committed",
            Self::FailedOver(FailoverKind::Unplanned) => "failover committed",
        })
    }
}
