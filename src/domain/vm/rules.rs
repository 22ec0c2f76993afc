//! What a VM decides.

use super::{
    Command, Effect, Event, FailoverKind, NextStep, Opening, Outcome, Phase, PointChoice,
    RecoveryPoint, ResyncReason, ResyncWindow, RetryLadder, RetryReason, Stage, Vm, Wake, Work,
};
use crate::domain::catalogue::Code;
use crate::domain::entity::Rejection;
use crate::domain::failure::{Cause, Class, Failure};
use crate::domain::id::{JobId, VaultId};
use crate::domain::job::{Job, JobKind, JobOutcome, Step};
use crate::domain::policy::Policy;
use crate::domain::prerequisites;
use crate::domain::retention::thinned_out;
use crate::domain::time::Timestamp;
use std::time::Duration;

use super::addition;
use super::ending;
use super::failback;
use super::operations::{self, REPAIR, allow};
use super::resize;
use super::resync;
use super::test_failover;

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
            if let Some(events) = resize::found_unprotected(vm, disks) {
                return Ok(events);
            }
            if vm.disks != *disks {
                let difference = "set of disks";
                return Err(Rejection::Conflict { name: vm.name.clone(), difference });
            }
            Ok(vec![])
        }
        Command::EnableProtection { job, vault, policy } => {
            enable_protection(vm, *job, *vault, policy, None)
        }
        Command::EnableProtectionAt { job, vault, policy, due } => {
            if now.after(SCHEDULED_WITHIN) < *due {
                let (value, allowed) = (due.to_string(), "a moment within 24 hours from now");
                let what = "the start of the initial replication";
                return Err(Rejection::OutOfRange { what, value, allowed });
            }
            enable_protection(vm, *job, *vault, policy, Some(*due).filter(|due| now < *due))
        }
        Command::ChangePolicy { policy } => {
            policy.check()?;
            let unprotected =
                matches!(vm.phase, Phase::Undiscovered | Phase::Unprotected) || vm.has_left_vault();
            if vm.policy == *policy || unprotected {
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
            let mut events = cancel_job(vm);
            events.extend(unplanned_failover(vm, *job, *point, false)?);
            Ok(events)
        }
        Command::SynchronizeAndFailOver { job } => {
            allow(vm, "UnplannedFailover")?;
            let mut events = cancel_job(vm);
            events.extend(unplanned_failover(vm, *job, PointChoice::Latest, true)?);
            Ok(events)
        }
        Command::ReplaceFailover { job, point, synchronize } => {
            operations::replace_failover(vm, *job, *point, *synchronize)
        }
        Command::CommitFailover { job } => {
            allow(vm, "Commit")?;
            let failed_back = vm.phase == Phase::FailbackCommitPending;
            let kind = if failed_back { JobKind::CommitFailback } else { JobKind::CommitFailover };
            Ok(start(*job, kind))
        }
        Command::TestFailover { job, point, network, lease_h } => {
            allow(vm, "TestFailover")?;
            test_failover::request(vm, *job, *point, network, *lease_h, now)
        }
        Command::CleanUpTestFailover { job, notes } => {
            allow(vm, "TestFailoverCleanup")?;
            let test = vm.test.as_ref();
            Ok(test.map_or(vec![], |test| test_failover::clean_up(test, *job, notes)))
        }
        Command::ChangeRecoveryPoint { job, point } => {
            allow(vm, "ChangePit")?;
            let point = match certain_choice(vm, *point)? {
                PointChoice::Latest => certain_choice(vm, PointChoice::LatestProcessed)?,
                certain => certain,
            };
            Ok(operations::change_point(vm, *job, point))
        }
        Command::CancelFailover { job } => {
            allow(vm, "CancelFailover")?;
            Ok(operations::cancel_failover(vm, *job))
        }
        Command::DecideFailover { due, then } => {
            allow(vm, "CancelFailover")?;
            Ok(vec![Event::FailoverDecisionScheduled { due: (*due).max(now), then: *then }])
        }
        Command::Failback { job, in_full } => {
            allow(vm, "Failback")?;
            Ok(failback::request(*job, *in_full, None))
        }
        Command::FailbackToHost { job, in_full, host, cloud } => {
            allow(vm, "Failback")?;
            failback::check_cloud(vm, *cloud)?;
            Ok(failback::request(*job, *in_full, Some(*host)))
        }
        Command::ReportLeft { host } => {
            let is_left = vm.left.contains(host);
            Ok(if is_left { vec![Event::HostLeft { host: *host }] } else { vec![] })
        }
        Command::CompleteFailback { job } => {
            allow(vm, "CompleteFailback")?;
            Ok(start(*job, JobKind::CompleteFailback))
        }
        Command::CancelFailback => {
            allow(vm, "CancelFailback")?;
            Ok(operations::cancel_failback(vm))
        }
        Command::ReverseReplicate { job } => {
            allow(vm, "ReverseReplicate")?;
            Ok(reverse_replicate(vm, *job))
        }
        Command::DisableProtection { job, source_gone } => {
            allow(vm, "DisableProtection")?;
            Ok(ending::disable(vm, *job, *source_gone))
        }
        Command::ResizeDisk { job, disk, size_bytes } => {
            allow(vm, resize::OPERATION)?;
            resize::request(vm, *job, *disk, *size_bytes)
        }
        Command::AddDisk { job, disk, image } => {
            allow(vm, addition::OPERATION)?;
            addition::request(vm, *job, disk, image)
        }
        Command::PauseReplication => {
            allow(vm, "PauseReplication")?;
            Ok(vec![Event::ReplicationPaused])
        }
        Command::ResumeReplication => {
            allow(vm, "ResumeReplication")?;
            Ok(match vm.phase {
                Phase::Resynchronizing(_) if vm.resync.waits_for.is_some() => {
                    start_next(vm, vm.resync_kind())
                }
                _ => vec![Event::ReplicationResumed],
            })
        }
        Command::TakeRecoveryPoint { application_consistent } => {
            allow(vm, "TakeRecoveryPoint")?;
            Ok(take_point(vm, *application_consistent))
        }
        Command::HoldStart { plan } => operations::hold_start(vm, *plan),
        Command::HoldFailover => operations::hold_failover(vm),
        Command::ReleaseFailover if vm.held_off => Ok(vec![Event::FailoverReleased]),
        Command::ReleaseFailover => Ok(vec![]),
        Command::ReleaseStart => {
            allow(vm, "ReleaseStart")?;
            Ok(vec![Event::StartReleased])
        }
        Command::CancelJob { job } => operations::cancel(vm, *job),
        Command::Describe { machine } => {
            let known = vm.phase == Phase::Undiscovered || vm.machine.as_ref() == Some(machine);
            Ok(if known { vec![] } else { vec![Event::Described { machine: machine.clone() }] })
        }
        Command::ChangeTarget { target } => {
            let same = vm.phase == Phase::Undiscovered || vm.target == *target;
            Ok(if same { vec![] } else { vec![Event::TargetChanged { target: target.clone() }] })
        }
        Command::ReportMoved { host } => {
            let is_elsewhere = vm.is_brought_to_host() && !vm.may_run_at_primary();
            if vm.phase == Phase::Undiscovered || vm.host == *host || is_elsewhere {
                return Ok(vec![]);
            }
            let mut events = vec![Event::Moved { host: *host }];
            // What waited for the host that it left has nothing to wait for.
            events.extend(retry_early(vm, &RetryReason::CauseEnded(Cause::Host(vm.host))));
            Ok(events)
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
        Command::ReportQuiescedSnapshot { cycle, at, log_bytes, missed } => {
            if vm.work() != Some(Work::Snapshot { cycle: *cycle }) {
                return Ok(vec![]);
            }
            let (cycle, log_bytes) = (*cycle, *log_bytes);
            let reached = match missed.clone() {
                None => Some(Event::ApplicationConsistent { cycle }),
                // By now nobody wants it any more.
                Some(_) if !vm.is_to_be_quiesced(cycle) => None,
                Some(because) => Some(Event::ApplicationConsistencyMissed { cycle, because }),
            };
            let at = (*at).min(now);
            let taken = Event::SnapshotTaken { cycle, at, log_bytes };
            Ok(reached.into_iter().chain([taken]).collect())
        }
        Command::ReportSpace { failure } => Ok(match (failure, &vm.space) {
            (Some(because), None) => vec![Event::SpaceNotReclaimed { because: because.clone() }],
            (None, Some(_)) => vec![Event::SpaceReclaimed],
            (Some(_), Some(_)) | (None, None) => vec![],
        }),
        Command::ReportLogVolume { short } => Ok(match (short, &vm.log_volume) {
            (Some(because), None) => vec![Event::LogVolumeLow { because: because.clone() }],
            (None, Some(_)) => vec![Event::LogVolumeFreed],
            (Some(_), Some(_)) | (None, None) => vec![],
        }),
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
            Ok(resync::change_window(vm, *window, now))
        }
        Command::ConfigureResyncWindow { window } => {
            window.check()?;
            Ok(resync::configure_window(vm, *window, now))
        }
        Command::ChangeStatisticsSchedule { schedule } => {
            schedule.check()?;
            let known = vm.phase != Phase::Undiscovered && vm.statistics.schedule != *schedule;
            let changed = Event::StatisticsScheduleChanged { schedule: *schedule };
            Ok(if known { vec![changed] } else { vec![] })
        }
    }
}

/// How far ahead an initial replication can be scheduled. Source: Site Recovery, which starts one "no later than 24 hours
/// from the start of the job".
pub const SCHEDULED_WITHIN: Duration = Duration::from_hours(24);

fn enable_protection(
    vm: &Vm,
    job: JobId,
    vault: VaultId,
    policy: &Policy,
    due: Option<Timestamp>,
) -> Result<Vec<Event>, Rejection> {
    allow(vm, "EnableProtection")?;
    policy.check()?;
    let failed = prerequisites::failed(vm);
    if !failed.is_empty() {
        return Err(Rejection::Prerequisites { name: vm.name.clone(), failed });
    }
    let mut events = vec![Event::ProtectionEnabled { vault, policy: *policy }];
    events.extend(due.map(|due| Event::InitialReplicationScheduled { due }));
    events.extend(start(job, JobKind::EnableProtection));
    Ok(events)
}

/// Once nothing else runs.
pub(super) fn unplanned_failover(
    vm: &Vm,
    job: JobId,
    point: PointChoice,
    synchronize: bool,
) -> Result<Vec<Event>, Rejection> {
    let point = certain_choice(vm, point)?;
    let synchronizes = synchronize && vm.can_send_the_latest();
    let mut events = vec![Event::FailoverRequested { point }];
    events.extend(synchronizes.then_some(Event::SynchronizationRequested));
    events.extend(start(job, JobKind::UnplannedFailover));
    Ok(events)
}

/// The choice as it stays while the failover runs: only [`PointChoice::Latest`] may become another
/// point, if a newer one is found.
fn certain_choice(vm: &Vm, choice: PointChoice) -> Result<PointChoice, Rejection> {
    if choice == PointChoice::Latest {
        return Ok(choice);
    }
    let point = vm.known_point(choice);
    point
        .map(|point| PointChoice::Cycle(point.cycle))
        .ok_or(Rejection::Unknown { what: "recovery point", name: choice_name(choice) })
}

/// What a choice is called.
pub(super) fn choice_name(choice: PointChoice) -> String {
    match choice {
        PointChoice::Cycle(cycle) => cycle.to_string(),
        PointChoice::LatestApplicationConsistent => "the latest application-consistent".to_owned(),
        PointChoice::Latest | PointChoice::LatestProcessed => "the latest".to_owned(),
    }
}

/// A point at once: the next delta begins before its time. One that is under way makes one anyway.
fn take_point(vm: &Vm, application_consistent: bool) -> Vec<Event> {
    if !matches!(vm.delta.stage, Stage::Waiting { .. }) || vm.work().is_some() {
        return vec![];
    }
    let cycle = vm.delta.cycle;
    let mut events = vec![Event::CycleStarted { cycle }];
    if application_consistent {
        events.push(Event::ApplicationConsistencyRequested { cycle });
    }
    events
}

/// Only what was written since the VM came back is sent, unless tracking was lost meanwhile.
fn reverse_replicate(vm: &Vm, job: JobId) -> Vec<Event> {
    match &vm.resync.lost {
        None => start(job, JobKind::ReverseReplicate),
        Some(reason) => {
            let mut events = vec![Event::MarkedForResync { reason: reason.clone() }];
            events.extend(start(job, vm.resync_kind()));
            events
        }
    }
}

pub(super) fn start(job: JobId, kind: JobKind) -> Vec<Event> {
    vec![Event::JobStarted { job, kind }, Event::TaskStarted { job, task: 0 }]
}

pub(super) fn start_next(vm: &Vm, kind: JobKind) -> Vec<Event> {
    start(JobId::derived(vm.id.0, vm.jobs), kind)
}

pub(super) fn cancel_job(vm: &Vm) -> Vec<Event> {
    let Some(job) = vm.job.as_ref().filter(|job| job.ended.is_none()) else { return vec![] };
    let mut events = Vec::new();
    if is_fencing(vm) {
        // The fence may be up already, on some of the disks or on all: whoever goes on must not be shut out.
        events.push(Event::SourceFenced { epoch: vm.epoch + 1 });
    }
    events.push(Event::JobEnded { job: job.id, outcome: JobOutcome::Cancelled });
    events
}

/// Whether what was tried last was refused, since somebody else has closed the replica: then nothing was closed here, nor
/// may it be when it is tried again.
fn is_shut_out(vm: &Vm) -> bool {
    vm.trouble.as_ref().is_some_and(|trouble| trouble.failure.code == Code::ReplicaInvalid)
}

/// Whether the task under way closes the replica to whoever wrote to it.
fn is_fencing(vm: &Vm) -> bool {
    let current = vm.job.as_ref().and_then(Job::current).map(|(_, task)| task.step);
    match current {
        Some(Step::FenceSource | Step::FenceReplica) => true,
        Some(Step::PrepareForFailover) => vm.is_in_planned_failover() && !vm.held_off,
        Some(Step::RestartTracking) => vm.takes_replica_over().is_some() && !is_shut_out(vm),
        _ => false,
    }
}

/// Begins the resynchronization of a VM that is marked, or lets it wait for the window. One that has
/// no recovery point to fall back on does not wait.
pub(super) fn begin_resync(vm: &Vm, window: ResyncWindow, now: Timestamp) -> Vec<Event> {
    match window.opens(now) {
        Opening::At(moment) if moment <= now => start_next(vm, vm.resync_kind()),
        _ if vm.points.is_empty() => start_next(vm, vm.resync_kind()),
        opening => vec![Event::ResyncScheduled { opening }],
    }
}

/// What is wrong with the replica, where that is what an administrator has to act on.
pub(super) fn suspect_replica(vm: &Vm) -> Option<&Failure> {
    let trouble = vm.trouble.as_ref().filter(|it| it.next == NextStep::Administrator)?;
    let is_replicated = vm.is_tracked() && vm.may_run_at_primary();
    (makes_replica_suspect(&trouble.failure) && is_replicated).then_some(&trouble.failure)
}

/// Whether a failure says that the replica is not what it must be, or somebody else's by now.
pub(super) fn makes_replica_suspect(failure: &Failure) -> bool {
    matches!(failure.code, Code::ReplicaDamaged | Code::ReplicaInvalid)
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

fn wake_up(vm: &Vm, due: Timestamp, wake: Wake, now: Timestamp) -> Vec<Event> {
    if !vm.calls_for(&Effect::WakeAt { due, wake }) {
        return vec![];
    }
    match wake {
        // The moment counts where the clock was set back since; where it was missed, as by a service
        // that did not run, the window has to be open still.
        Wake::Resync => begin_resync(vm, vm.resync.window, now.max(due)),
        Wake::Cycle(cycle) => {
            let every = vm.policy.app_consistent_frequency();
            let mut events = vec![Event::CycleStarted { cycle }];
            if every.is_some_and(|every| vm.quiescence.is_due(every, now)) {
                events.push(Event::ApplicationConsistencyRequested { cycle });
            }
            events
        }
        Wake::Retry(attempt) => vec![Event::RetryStarted { attempt, early: None }],
        Wake::TestLease => vm.test.as_ref().map_or(vec![], |test| test_failover::woken(vm, test)),
        Wake::InitialReplication => vec![Event::InitialReplicationDue],
        Wake::Decision => {
            vm.decision.map_or(vec![], |(_, then)| operations::decide_failover(vm, then))
        }
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
    if !vm.calls_for(&Effect::Do(work)) {
        return vec![];
    }
    if let (Some(test), Work::Task { job, task, step }) = (&vm.test, work)
        && test.job.id == job
    {
        return test_failover::task_failed(test, (task, step), failure, now);
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
            let kind = vm.job.as_ref().map(|job| job.kind);
            if let Some(JobKind::PlannedFailover | JobKind::UnplannedFailover) = kind {
                events.extend(resumed(vm, now));
            }
            events
        }
        (Class::NonRecoverable, _) => {
            vec![Event::AdministratorNeeded { work, because: failure.clone() }]
        }
    }
}

/// The failover had taken the place of other work, which begins again since its check failed.
fn resumed(vm: &Vm, now: Timestamp) -> Vec<Event> {
    match vm.phase_before {
        // It waits on, and the moment may have passed meanwhile.
        Phase::Resynchronizing(_) if vm.resync.waits_for.is_some() => {
            begin_resync(vm, vm.resync.window, now)
        }
        Phase::Resynchronizing(_) if matches!(vm.delta.stage, Stage::Paused { .. }) => {
            vec![Event::ResyncScheduled { opening: Opening::ByHand }]
        }
        Phase::Resynchronizing(_) => start_next(vm, vm.resync_kind()),
        Phase::Finalizing => start_next(vm, JobKind::ResumeReplication),
        Phase::CancellingFailover => start_next(vm, JobKind::CancelFailover),
        _ => resize::left_unfinished(vm, now).unwrap_or_default(),
    }
}

fn tracking_lost(vm: &Vm, first_cycle: u64, reason: &ResyncReason, now: Timestamp) -> Vec<Event> {
    if !vm.is_tracked() || first_cycle != vm.delta.chain_first_cycle {
        return vec![];
    }
    // A resynchronization restarts tracking first; until it has, the loss is the one it deals with.
    // When a planned failover starts, all that was tracked has arrived, and the source is off: also
    // where a recovery plan holds the start.
    let step = vm.job.as_ref().and_then(Job::current).map(|(_, task)| task.step);
    let irrelevant =
        matches!(step, Some(Step::RestartTracking | Step::StartFailover | Step::StartReplica));
    if irrelevant {
        return vec![];
    }
    match vm.phase {
        Phase::FailingBack | Phase::FailbackReady => return failback::tracking_lost(vm, reason),
        Phase::FailbackCommitPending | Phase::FailedBack => {
            return vec![Event::TrackingLost { reason: reason.clone() }];
        }
        _ => {}
    }
    // It is off, or about to be, and what it wrote last cannot be sent any more: it goes on where its disks are.
    if matches!(step, Some(Step::ShutDownSource | Step::PrepareForFailover))
        && vm.is_in_planned_failover()
    {
        let mut events = vec![Event::TrackingLost { reason: reason.clone() }];
        events.extend(operations::cancel_failover(vm, JobId::derived(vm.id.0, vm.jobs)));
        return events;
    }
    let mut events = cancel_job(vm);
    // A replica that somebody else writes to is no better for it: the administrator is waited for all the same,
    // and then nothing of it is relied on.
    let suspect = vm.trouble.as_ref().and_then(|trouble| trouble.suspect.as_ref());
    if let Some(failure) = suspect.filter(|_| vm.may_run_at_primary()) {
        let reason = ResyncReason::ReplicaSuspect(failure.to_string());
        events.push(Event::MarkedForResync { reason });
        events.push(Event::ResyncScheduled { opening: Opening::ByHand });
        return events;
    }
    events.push(Event::MarkedForResync { reason: reason.clone() });
    if vm.is_resync_paused() {
        events.push(Event::ResyncScheduled { opening: Opening::ByHand });
    } else if let Phase::Resynchronizing(_) = vm.phase {
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
    if let Some(test) = vm.test.as_ref().filter(|test| test.job.id == job) {
        let current = test.job.current().map(|(index, _)| index);
        return Ok(if current == Some(task) {
            test_failover::task_done(test, task, outcome)
        } else {
            vec![]
        });
    }
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
            | JobKind::ResynchronizeDifferences
            | JobKind::ReverseReplicate
            | JobKind::ResumeReplication
            | JobKind::ResizeDisk
            | JobKind::AddDisk,
        ) => events.push(Event::Protected),
        Some(
            JobKind::PlannedFailover | JobKind::UnplannedFailover | JobKind::ChangeRecoveryPoint,
        ) => events.push(Event::ReplicaStarted),
        Some(JobKind::CommitFailover) => events.push(Event::FailoverCommitted),
        Some(JobKind::CancelFailover) => {
            events.extend(operations::failover_cancelled(vm, now));
        }
        Some(JobKind::Failback) => events.push(Event::FailbackReady),
        Some(JobKind::CompleteFailback) => events.push(Event::FailedBack),
        Some(JobKind::CommitFailback) => events.push(Event::FailbackCommitted),
        Some(
            JobKind::DisableProtection | JobKind::RemoveProtection | JobKind::DisableAtRecovery,
        ) => events.push(Event::ProtectionDisabled),
        // Those of a test are its own.
        Some(JobKind::TestFailover | JobKind::TestFailoverCleanup) | None => {}
    }
    Ok(events)
}

/// A task is done only with what it must bring: no failover goes on unfenced, no VM is protected
/// without a recovery point of its chain.
fn check_outcome(vm: &Vm, step: Step, outcome: &Outcome) -> Result<(), Rejection> {
    let fits = match (step, outcome) {
        (Step::CopyDisk(disk), Outcome::Copied { disk: done, .. })
        | (Step::CompareDisk(disk), Outcome::Compared { disk: done, .. })
        | (Step::RestoreDisk(disk), Outcome::Restored { disk: done, .. }) => disk == *done,
        (Step::ApplyTrackedChanges | Step::SendBeforeResize, Outcome::Shipped { points }) => {
            points.iter().any(|point| vm.delta.chain_first_cycle <= point.cycle)
        }
        (
            Step::CheckPlannedFailover | Step::CheckUnplannedFailover | Step::CheckFailback,
            Outcome::Placed { .. } | Outcome::Done,
        )
        | (Step::PrepareForFailover, Outcome::Shipped { .. })
        | (Step::FenceSource, Outcome::SourceFenced { .. })
        | (Step::FenceSource | Step::FenceReplica, Outcome::Fenced { .. }) => true,
        (Step::RestartTracking, Outcome::Fenced { .. }) => vm.takes_replica_over().is_some(),
        (Step::PrepareForFailover, Outcome::Fenced { .. }) => vm.is_in_planned_failover(),
        (
            Step::CopyDisk(_)
            | Step::CompareDisk(_)
            | Step::RestoreDisk(_)
            | Step::FenceReplica
            | Step::ApplyTrackedChanges
            | Step::SendBeforeResize
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
        (Step::RestartTracking, Outcome::Fenced { found }) => resync::taken_over(vm, found),
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
        (
            Step::ApplyTrackedChanges | Step::SendBeforeResize | Step::PrepareForFailover,
            Outcome::Shipped { points },
        ) => {
            let mut events = shipped(vm, points, now);
            events.extend(dropped(vm, step));
            events.extend(addition::added(vm));
            events
        }
        (Step::GrowDisk(disk), _) => resize::grown(vm, disk),
        (Step::CheckFailback, Outcome::Placed { placement }) => {
            vec![Event::SourcePlaced { placement: placement.clone() }]
        }
        (_, Outcome::Placed { placement }) => {
            vec![Event::ReplicaPlaced { placement: placement.clone() }]
        }
        (Step::LeaveVault, _) => vec![Event::VaultLeft],
        (Step::ShutDownSource, _) => vec![Event::SourceShutDown],
        (Step::ShutDownReplica, _) => vec![Event::ReplicaShutDown],
        (Step::RestoreDisk(_), Outcome::Restored { disk, compared_bytes, different_bytes }) => {
            let restored = Event::DiskRestored {
                disk: *disk,
                compared_bytes: *compared_bytes,
                different_bytes: *different_bytes,
            };
            failback::restored(vm, restored)
        }
        (Step::TrackRestored, _) => {
            vec![Event::RestoredTracked { first_cycle: vm.first_cycle_of_new_chain() }]
        }
        (
            Step::FenceSource | Step::FenceReplica | Step::PrepareForFailover,
            Outcome::Fenced { found },
        ) => {
            let mut events = shipped(vm, found, now);
            events.push(Event::SourceFenced { epoch: vm.epoch + 1 });
            events
        }
        (Step::FenceSource, Outcome::SourceFenced { found, source, unsent }) => {
            let mut events =
                vec![Event::SourceEnded { how: source.clone(), unsent: unsent.clone() }];
            events.extend(shipped(vm, found, now));
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

/// Records points, and lets go of those past their retention and of those that the levels of retention
/// leave out. The newest is always kept, and during a failover so are all: one of them was chosen.
fn shipped(vm: &Vm, points: &[RecoveryPoint], now: Timestamp) -> Vec<Event> {
    let known = vm.latest_point().map_or(0, |point| point.cycle);
    let mut fresh: Vec<_> = points.iter().copied().filter(|point| known < point.cycle).collect();
    for point in &mut fresh {
        point.at = point.at.min(now);
    }
    fresh.sort_by_key(|point| point.cycle);
    fresh.dedup_by_key(|point| point.cycle);
    let newest = fresh.last().copied().or(vm.latest_point());
    // With room for those that may follow.
    let mut events = Vec::with_capacity(fresh.len() + 2);
    events.extend(fresh.into_iter().map(|point| Event::LogShipped { point }));
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
    // The disks of a VM that runs at the recovery site stand on the point that it came from.
    let stood_on = vm.failback.as_ref().and(vm.failover).map(|failover| failover.point.cycle);
    let kept_from_cycle = kept_from_cycle.min(stood_on.unwrap_or(u64::MAX));
    if vm.points.first().is_some_and(|oldest| oldest.cycle < kept_from_cycle) {
        events.push(Event::RecoveryPointsExpired { kept_from_cycle });
    }
    if stood_on.is_none() && !vm.thinning.is_due(now) {
        return events;
    }
    let may_go =
        |cycle: u64| kept_from_cycle <= cycle && cycle != newest.cycle && Some(cycle) != stood_on;
    let old = vm.thinning.old_enough(vm.candidates(), now);
    let old = old.filter(|point| may_go(point.cycle) && now.since(point.at) <= retention);
    let mut cycles = thinned_out(&old.collect::<Vec<_>>(), now);
    // Those after the point that is stood on become too old as well, where that is too young for the levels.
    let past = vm.points.iter().filter(|point| retention < now.since(point.at));
    cycles.extend(past.map(|point| point.cycle).filter(|cycle| may_go(*cycle)));
    cycles.sort_unstable();
    if !cycles.is_empty() {
        events.push(Event::RecoveryPointsThinned { cycles });
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
            Self::CancellingFailover => "cancelling a failover",
            Self::FailingBack => "in failback",
            Self::FailbackReady => "ready to complete the failback",
            Self::FailbackCommitPending => "failback finished, commit required",
            Self::FailedBack => "failed back, not replicated",
            Self::Disabling => "disabling protection",
            Self::UnprotectedAtRecovery => "not protected, at the recovery site",
        })
    }
}
