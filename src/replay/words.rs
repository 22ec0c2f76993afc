//! Commits in words: who did what, and what became true.
//!
//! Every command and every event has a sentence of its own, with its numbers: one that is added does not
//! compile without.

use super::past::Past;
use crate::domain::cloud;
use crate::domain::entity::{Commit, Entry};
use crate::domain::fabric;
use crate::domain::failure::Failure;
use crate::domain::host;
use crate::domain::id::JobId;
use crate::domain::job::JobOutcome;
use crate::domain::placement::Placement;
use crate::domain::plan::{self, RunKind, RunOptions, RunOutcome};
use crate::domain::policy::Policy;
use crate::domain::time::Timestamp;
use crate::domain::vault;
use crate::domain::vm::{
    AfterFailover, Command, Event, FailoverKind, Opening, Outcome, PointChoice, ResyncWindow,
    RetryReason, SourceEnded, StatisticsSchedule, Wake, Work,
};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

/// Jobs whose tasks are remembered by what they do; older ones are told by their numbers.
const JOBS_KNOWN: usize = 10_000;

/// What the tasks of jobs do. Commits say only which number a task has.
#[derive(Clone, Debug, Default)]
pub struct Titles {
    of: BTreeMap<JobId, Vec<&'static str>>,
    /// Recovery plans by what their commits have as the actor.
    plans: BTreeMap<String, String>,
}

impl Titles {
    /// Learns from the state after a commit.
    pub fn note(&mut self, past: &Past, commit: &Commit) {
        if let Entry::Plan { .. } = &commit.entry {
            let (actor, name) = (commit.stream.to_string(), past.name(commit.stream));
            // A plan that is deleted has no name any more.
            if past.begins(commit.stream) {
                self.plans.insert(actor, format!("plan {name}"));
            }
            return;
        }
        let Entry::Vm { .. } = &commit.entry else { return };
        let Some(job) = past.vm(commit.stream.id).and_then(|vm| vm.job.as_ref()) else { return };
        if self.of.contains_key(&job.id) {
            return;
        }
        if self.of.len() == JOBS_KNOWN {
            self.of.clear();
        }
        self.of.insert(job.id, job.tasks.iter().map(|task| task.step.title()).collect());
    }

    /// Who an actor is, as the beginning of a sentence.
    pub(super) fn who(&self, actor: &str) -> String {
        self.plans.get(actor).cloned().unwrap_or_else(|| who(actor))
    }

    /// A task by its number, and by what it does if that is known.
    fn task(&self, job: JobId, task: u32) -> String {
        let title = self.of.get(&job).and_then(|titles| titles.get(task as usize));
        let number = task.saturating_add(1);
        title.map_or(format!("task {number}"), |title| format!("task {number} ({title:?})"))
    }
}

/// The name of a commit's command, as in `ReportShipped`.
pub(super) fn command_word(entry: &Entry) -> String {
    match entry {
        Entry::Vm { command, .. } => variant(command),
        Entry::Host { command, .. } => variant(command),
        Entry::Cloud { command, .. } => variant(command),
        Entry::Vault { command, .. } => variant(command),
        Entry::Plan { command, .. } => variant(command),
        Entry::Fabric { command, .. } => variant(command),
    }
}

/// Who said what to the entity called `name`: the first half of a sentence.
pub fn command_in_words(commit: &Commit, name: &str, titles: &Titles) -> String {
    let who = titles.who(&commit.actor);
    match &commit.entry {
        Entry::Vm { command, .. } => vm_command(command, &who, name, commit.at, titles),
        Entry::Host { command, .. } => match command {
            host::Command::Register { .. } => format!("{who} registered host {name}"),
            host::Command::ReportHeartbeat => format!("{who} saw that host {name} answers"),
            host::Command::ReportSilence { failure } => {
                format!("{who} saw that host {name} does not answer: {failure}")
            }
            host::Command::RegisterAgent { .. } => {
                format!("{who} registered the agent of host {name}")
            }
            host::Command::JoinCluster { cluster: Some(cluster) } => {
                format!("{who} saw that host {name} is a member of cluster {cluster}")
            }
            host::Command::JoinCluster { cluster: None } => {
                format!("{who} saw that host {name} is a member of no cluster")
            }
        },
        Entry::Cloud { command, .. } => match command {
            cloud::Command::Create { .. } => format!("{who} created cloud {name}"),
            cloud::Command::AddHost { .. } => format!("{who} added a host to cloud {name}"),
            cloud::Command::AddVm { .. } => format!("{who} added a VM to cloud {name}"),
            cloud::Command::AssociatePolicy { policy } => {
                format!("{who} gave cloud {name} a policy: {}", policy_in_words(policy))
            }
            cloud::Command::ConfigurePolicy { policy } => {
                format!("{who} has for cloud {name} a policy: {}", policy_in_words(policy))
            }
            cloud::Command::ReportPolicyTaken { revision, .. } => {
                format!("{who} told cloud {name} that a VM took over policy {revision}")
            }
        },
        Entry::Vault { command, .. } => match command {
            vault::Command::Create { .. } => format!("{who} created vault {name}"),
            vault::Command::ReportReachable => format!("{who} saw that vault {name} answers"),
            vault::Command::ReportUnreachable { failure } => {
                format!("{who} saw that vault {name} cannot be reached: {failure}")
            }
            vault::Command::IssueRegistrationKey { .. } => {
                format!("{who} had vault {name} issue a registration key")
            }
            vault::Command::UseRegistrationKey { name: by, .. } => {
                format!("{who} had {by} admitted to vault {name}")
            }
        },
        Entry::Plan { command, .. } => plan_command(command, &who, name),
        Entry::Fabric { command, .. } => fabric_command(command, &who, name),
    }
}

/// What became true, one sentence an event.
pub fn events_in_words(commit: &Commit, titles: &Titles) -> Vec<String> {
    match &commit.entry {
        Entry::Vm { events, .. } => {
            events.iter().map(|it| vm_event(it, commit.at, titles)).collect()
        }
        Entry::Host { events, .. } => events.iter().map(host_event).collect(),
        Entry::Cloud { events, .. } => events.iter().map(cloud_event).collect(),
        Entry::Vault { events, .. } => events.iter().map(vault_event).collect(),
        Entry::Plan { events, .. } => events.iter().map(plan_event).collect(),
        Entry::Fabric { events, .. } => events.iter().map(fabric_event).collect(),
    }
}

/// A length of time as people say it.
pub fn span(span: Duration) -> String {
    let ms = span.as_millis();
    match (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000) {
        (0, 0, 0, ms) => format!("{ms} ms"),
        (0, 0, s, _) => format!("{s} s"),
        (0, m, 0, _) => format!("{m} min"),
        (0, m, s, _) => format!("{m} min {s} s"),
        (h, 0, _, _) => format!("{h} h"),
        (h, m, _, _) => format!("{h} h {m} min"),
    }
}

/// A number of bytes as people say it.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// The time of the day, to the millisecond.
pub fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(11..23).map_or(text.clone(), ToOwned::to_owned)
}

fn who(actor: &str) -> String {
    match actor {
        "timer" => "the timer".to_owned(),
        "agent" => "the agent".to_owned(),
        "monitor" => "the monitor".to_owned(),
        "supervisor" => "the supervisor".to_owned(),
        "configuration" => "the configuration".to_owned(),
        "cloud" => "the cloud".to_owned(),
        other => other.to_owned(),
    }
}

#[expect(clippy::too_many_lines, reason = "one sentence for each command")]
fn vm_command(command: &Command, who: &str, name: &str, at: Timestamp, titles: &Titles) -> String {
    match command {
        Command::Discover { .. } => format!("{who} made {name} known"),
        Command::EnableProtection { policy, .. } => {
            format!("{who} asked for the protection of {name}, with {}", policy_in_words(policy))
        }
        Command::ChangePolicy { policy } => {
            format!("{who} gave {name} another policy: {}", policy_in_words(policy))
        }
        Command::PlannedFailover { .. } => format!("{who} asked for a planned failover of {name}"),
        Command::UnplannedFailover { point, .. } => {
            format!("{who} asked for an unplanned failover of {name} from {}", chosen(*point))
        }
        Command::CommitFailover { .. } => format!("{who} committed the failover of {name}"),
        Command::Retry { because: RetryReason::CauseEnded(_) } => {
            format!(
                "{who} had {name} tried again at once, since the cause of its failure had ended"
            )
        }
        Command::Retry { because: RetryReason::Administrator } => {
            format!("{who} had {name} tried again")
        }
        Command::Wake { due, wake } => {
            let late = at.since(*due);
            let late = if late < Duration::from_secs(1) {
                String::new()
            } else {
                format!(", {} late", span(late))
            };
            format!("{}{late}", wake_in_words(*wake, name))
        }
        Command::ReportDone { job, task, outcome } => {
            format!("{who} did {} for {name}{}", titles.task(*job, *task), came_of(outcome))
        }
        Command::ReportProgress { job, task, done_bytes, total_bytes } => format!(
            "{who} goes on with {} for {name}: {} of {}",
            titles.task(*job, *task),
            bytes(*done_bytes),
            bytes(*total_bytes)
        ),
        Command::ReportSnapshot { cycle, .. } => {
            format!("{who} cut the logs of {name} for delta {cycle}")
        }
        Command::ReportQuiescedSnapshot { cycle, missed: None, .. } => {
            format!("{who} cut the logs of {name} for delta {cycle} while its guest was at rest")
        }
        Command::ReportQuiescedSnapshot { cycle, missed: Some(failure), .. } => format!(
            "{who} cut the logs of {name} for delta {cycle}, but its guest was not at rest: \
             {failure}"
        ),
        Command::ReportShipped { cycle, .. } => format!("{who} sent delta {cycle} of {name}"),
        Command::ReportFailure { work, failure } => {
            format!("{who} could not {} for {name}: {failure}", work_in_words(*work))
        }
        Command::ReportTrackingLost { reason, .. } => {
            format!("{who} saw that the changes of {name} are not tracked any more: {reason}")
        }
        Command::Resynchronize { .. } => {
            format!("{who} asked for the resynchronization of {name}")
        }
        Command::ChangeStatisticsSchedule { schedule } => {
            format!("{who} had {name} measured in {}", schedule_in_words(*schedule))
        }
        Command::ChangeResyncWindow { window } => {
            format!("{who} had {name} resynchronize by itself {}", window_in_words(*window))
        }
        Command::ConfigureResyncWindow { window } => {
            format!("{who} has {name} resynchronize by itself {}", window_in_words(*window))
        }
        Command::ReportSpace { failure: None } => {
            format!("{who} freed what the replica of {name} does not need any more")
        }
        Command::ReportSpace { failure: Some(failure) } => {
            format!("{who} could not free what the replica of {name} does not need: {failure}")
        }
        Command::ReportLogVolume { short: None } => {
            format!("{who} found room on the volume of the replication logs of {name}")
        }
        Command::ReportLogVolume { short: Some(failure) } => {
            format!(
                "{who} found the volume of the replication logs of {name} short of space: {failure}"
            )
        }
        Command::TestFailover { point, network, lease_h, .. } => format!(
            "{who} asked for a test failover of {name} from {} in network {network}, for {lease_h} h",
            chosen(*point)
        ),
        Command::CleanUpTestFailover { notes, .. } => {
            format!("{who} had the test failover of {name} cleaned up{}", quoted(notes))
        }
        Command::ChangeRecoveryPoint { point, .. } => {
            format!("{who} had the failover of {name} run from {}", chosen(*point))
        }
        Command::CancelFailover { .. } => format!("{who} cancelled the failover of {name}"),
        Command::DecideFailover { due, then } => format!(
            "{who} had the failover of {name} {} at {due}, unless somebody decides before",
            decided(*then)
        ),
        Command::Failback { in_full: false, .. } => {
            format!("{who} asked for the failback of {name}, by what differs")
        }
        Command::Failback { in_full: true, .. } => {
            format!("{who} asked for the failback of {name}, by downloading everything")
        }
        Command::FailbackToHost { in_full: false, .. } => {
            format!("{who} asked for the failback of {name} to a host of their choice")
        }
        Command::FailbackToHost { in_full: true, .. } => format!(
            "{who} asked for the failback of {name} to a host of their choice, by downloading everything"
        ),
        Command::ReportLeft { .. } => {
            format!("{who} saw that {name} is off at the host that it was brought away from")
        }
        Command::CompleteFailback { .. } => format!("{who} completed the failback of {name}"),
        Command::CancelFailback => format!("{who} gave up the failback of {name}"),
        Command::ReverseReplicate { .. } => {
            format!("{who} had {name} replicated from the primary site again")
        }
        Command::DisableProtection { source_gone: false, .. } => {
            format!("{who} ended the protection of {name}")
        }
        Command::DisableProtection { source_gone: true, .. } => {
            format!("{who} ended the protection of {name}, and left its host as it is")
        }
        Command::PauseReplication => format!("{who} paused the replication of {name}"),
        Command::ResumeReplication => format!("{who} resumed the replication of {name}"),
        Command::TakeRecoveryPoint { application_consistent: false } => {
            format!("{who} asked for a recovery point of {name} at once")
        }
        Command::TakeRecoveryPoint { application_consistent: true } => {
            format!("{who} asked for an application-consistent recovery point of {name} at once")
        }
        Command::HoldStart { .. } => {
            format!("{who} had {name} wait before it starts, for a recovery plan")
        }
        Command::ReleaseStart => format!("{who} let {name} start"),
        Command::HoldFailover => {
            format!(
                "{who} had the failover of {name} wait once it is shut down, for a recovery plan"
            )
        }
        Command::ReleaseFailover => format!("{who} let the failover of {name} go on"),
        Command::ReplaceFailover { point, synchronize, .. } => format!(
            "{who} had {name} fail over unplanned from {}{}, in the place of the planned failover that its plan holds",
            chosen(*point),
            if *synchronize { ", with what its source wrote last" } else { "" }
        ),
        Command::CancelJob { .. } => format!("{who} gave up the running job of {name}"),
        Command::Describe { .. } => format!("{who} said what {name} is"),
        Command::ChangeTarget { .. } => format!("{who} chose what the replica of {name} gets"),
        Command::ReportMoved { .. } => format!("{who} saw that {name} runs on another host"),
        Command::ResizeDisk { size_bytes, .. } => {
            format!("{who} asked for a disk of {name} to be made {} large", bytes(*size_bytes))
        }
        Command::AddDisk { disk, image, .. } => format!(
            "{who} asked for disk {} of {} to be added to {name}, from {image}",
            disk.name,
            bytes(disk.size_bytes)
        ),
        Command::SynchronizeAndFailOver { .. } => format!(
            "{who} asked for an unplanned failover of {name}, with what its source wrote last if that can be had"
        ),
        Command::EnableProtectionAt { due, .. } => {
            format!("{who} asked for the protection of {name}, to be copied from {due} on")
        }
    }
}

fn wake_in_words(wake: Wake, name: &str) -> String {
    match wake {
        Wake::Cycle(cycle) => format!("delta {cycle} of {name} was due"),
        Wake::Retry(attempt) => format!("attempt {} of {name} was due", attempt.saturating_add(1)),
        Wake::Resync => format!("the resync window of {name} opened"),
        Wake::TestLease => format!("the time of the test failover of {name} was up"),
        Wake::Decision => format!("the failover of {name} was to be decided"),
        Wake::InitialReplication => format!("the initial replication of {name} was due"),
    }
}

/// What came of a task, behind it.
fn came_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => String::new(),
        Outcome::Copied { bytes: sent, .. } => format!(": {} were sent", bytes(*sent)),
        Outcome::Shipped { points } => format!(": {} deltas were sent", points.len()),
        Outcome::Fenced { found } | Outcome::SourceFenced { found, .. } if found.is_empty() => {
            ": the replica is closed to who wrote to it before".to_owned()
        }
        Outcome::Fenced { found } | Outcome::SourceFenced { found, .. } => format!(
            ": the replica is closed to who wrote to it before; {} recovery points were found in it that \
             had not been reported",
            found.len()
        ),
        Outcome::Compared { compared_bytes, different_bytes, .. } => {
            format!(
                ": of {} compared, {} differed",
                bytes(*compared_bytes),
                bytes(*different_bytes)
            )
        }
        Outcome::Restored { compared_bytes, different_bytes, .. } => format!(
            ": of {} looked at, {} were written",
            bytes(*compared_bytes),
            bytes(*different_bytes)
        ),
        Outcome::Placed { placement } => format!(": {}", place_in_words(placement)),
    }
}

/// The size and the addresses of a replica.
fn place_in_words(placement: &Placement) -> String {
    let size = placement.size.as_deref().unwrap_or("its own");
    let addresses = placement.addresses();
    let addresses: Vec<_> = addresses.iter().map(|it| it.address.as_str()).collect();
    let addresses = if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") };
    format!("size {size}, addresses {addresses}")
}

pub(super) fn policy_in_words(policy: &Policy) -> String {
    let Policy { copy_frequency_s, recovery_point_retention_h, app_consistent_frequency_h } =
        policy;
    let consistent = match app_consistent_frequency_h {
        0 => String::new(),
        hours => format!(", an application-consistent one every {hours} h"),
    };
    format!(
        "a delta every {copy_frequency_s} s, recovery points kept for {recovery_point_retention_h} h\
         {consistent}"
    )
}

/// Which point, after "from".
fn chosen(point: PointChoice) -> String {
    match point {
        PointChoice::Latest => "the latest recovery point".to_owned(),
        PointChoice::Cycle(cycle) => format!("recovery point {cycle}"),
        PointChoice::LatestProcessed => "the latest known recovery point".to_owned(),
        PointChoice::LatestApplicationConsistent => {
            "the latest application-consistent recovery point".to_owned()
        }
    }
}

const fn decided(then: AfterFailover) -> &'static str {
    match then {
        AfterFailover::Commit => "committed",
        AfterFailover::Cancel => "cancelled",
    }
}

fn schedule_in_words(schedule: StatisticsSchedule) -> String {
    let StatisticsSchedule { hours, start_minute, .. } = schedule;
    format!("intervals of {hours} hours from {:02}:{:02}", start_minute / 60, start_minute % 60)
}

/// When, after "by itself".
fn window_in_words(window: ResyncWindow) -> String {
    match window {
        ResyncWindow::Always => "at any time".to_owned(),
        ResyncWindow::Manual => "never".to_owned(),
        ResyncWindow::Daily { .. } => format!("from {window}"),
    }
}

/// What a person wrote, behind a sentence.
fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text:?}") }
}

/// What the work is, after "could not".
fn work_in_words(work: Work) -> String {
    match work {
        Work::Task { step, .. } => format!("do {:?}", step.title()),
        Work::Snapshot { cycle } => format!("cut the logs of delta {cycle}"),
        Work::Ship { cycle, .. } => format!("send delta {cycle}"),
    }
}

#[expect(clippy::too_many_lines, reason = "one sentence for each event")]
fn vm_event(event: &Event, at: Timestamp, titles: &Titles) -> String {
    match event {
        Event::Discovered { name, disks, .. } => {
            format!("{name} is known, with {} disks", disks.len())
        }
        Event::JobStarted { kind, .. } => format!("job {:?} began", kind.title()),
        Event::TaskStarted { job, task } => format!("{} began", titles.task(*job, *task)),
        Event::TaskProgressed { job, task, done_bytes, total_bytes } => format!(
            "{} is at {} of {}",
            titles.task(*job, *task),
            bytes(*done_bytes),
            bytes(*total_bytes)
        ),
        Event::TaskCompleted { job, task } => format!("{} is done", titles.task(*job, *task)),
        Event::TaskFailed { job, task, failure } => {
            format!("{} failed: {failure}", titles.task(*job, *task))
        }
        Event::JobEnded { outcome, .. } => match outcome {
            JobOutcome::Completed => "the job is done".to_owned(),
            JobOutcome::Failed => "the job failed".to_owned(),
            JobOutcome::Cancelled => "the job gave way to another, or was given up".to_owned(),
        },
        Event::ProtectionEnabled { policy, .. } => {
            format!("it is to be replicated, with {}", policy_in_words(policy))
        }
        Event::TrackingStarted { first_cycle } => {
            format!("its writes are tracked, in logs from delta {first_cycle} on")
        }
        Event::DiskCopied { bytes: sent, .. } => {
            format!("a disk was copied, {} sent", bytes(*sent))
        }
        Event::PolicyChanged { policy } => format!("its policy is {}", policy_in_words(policy)),
        Event::Protected => "it is protected".to_owned(),
        Event::CycleStarted { cycle } => format!("delta {cycle} began"),
        Event::SnapshotTaken { cycle, log_bytes, .. } => {
            format!("the logs of delta {cycle} were cut, {}", bytes(*log_bytes))
        }
        Event::LogShipped { point } => format!(
            "recovery point {} is complete, of {} ago, {} stored",
            point.cycle,
            span(at.since(point.at)),
            bytes(point.bytes)
        ),
        Event::RecoveryPointsExpired { kept_from_cycle } => {
            format!("recovery points before {kept_from_cycle} are past their retention")
        }
        Event::MarkedForResync { reason } => {
            format!("it is marked for resynchronization: {reason}")
        }
        Event::RetryScheduled { attempt, due, because, .. } => format!(
            "attempt {attempt} failed; the next is due at {}, in {} ({})",
            clock(*due),
            span(due.since(at)),
            code(because)
        ),
        Event::RetryStarted { attempt, early: None } => {
            format!("attempt {} began", attempt.saturating_add(1))
        }
        Event::RetryStarted { attempt, early: Some(_) } => {
            format!("attempt {} began before its time", attempt.saturating_add(1))
        }
        Event::AdministratorNeeded { because, .. } => {
            format!("an administrator must act ({})", code(because))
        }
        Event::FailoverRequested { point } => {
            format!("it is to be failed over from {}", chosen(*point))
        }
        Event::SourceShutDown => "the source is shut down".to_owned(),
        Event::SynchronizationRequested => "what its source wrote last is to be sent first".to_owned(),
        Event::SourceEnded { how, unsent } => {
            SourceEnded { at, how: how.clone(), unsent: unsent.clone() }.to_string()
        }
        Event::InitialReplicationScheduled { due } => {
            format!("its initial replication begins at {due}")
        }
        Event::InitialReplicationDue => "its initial replication begins".to_owned(),
        Event::SourceFenced { epoch } => {
            format!("the replica is closed to who wrote to it before, epoch {epoch}")
        }
        Event::FailedOver { kind: FailoverKind::Planned, point } => {
            format!("the disks of recovery point {} are served; nothing is lost", point.cycle)
        }
        Event::FailedOver { kind: FailoverKind::Unplanned, point } => format!(
            "the disks of recovery point {} are served, which is of {} ago",
            point.cycle,
            span(at.since(point.at))
        ),
        Event::ReplicaStarted => "the replica runs".to_owned(),
        Event::FailoverCommitted => "the failover is final".to_owned(),
        Event::StatisticsScheduleChanged { schedule } => {
            format!("it is measured in {}", schedule_in_words(*schedule))
        }
        Event::ResyncWindowChanged { window } => {
            format!("it resynchronizes by itself {}", window_in_words(*window))
        }
        Event::ResyncWindowConfigured { window } => {
            format!("its configuration has it resynchronize by itself {}", window_in_words(*window))
        }
        Event::ResyncScheduled { opening: Opening::At(moment) } => {
            format!("its resynchronization begins at {moment}")
        }
        Event::ResyncScheduled { opening: Opening::ByHand } => {
            "its resynchronization waits to be begun by hand".to_owned()
        }
        Event::DiskCompared { compared_bytes, different_bytes, .. } => format!(
            "a disk was compared: of {}, {} differed",
            bytes(*compared_bytes),
            bytes(*different_bytes)
        ),
        Event::RecoveryPointsDropped { kept_from_cycle, because } => {
            format!("recovery points before {kept_from_cycle} were dropped: {because}")
        }
        Event::RecoveryPointsThinned { cycles } => {
            format!("{} recovery points were let go", cycles.len())
        }
        Event::ApplicationConsistencyRequested { cycle } => {
            format!("the guest is to be at rest while the logs of delta {cycle} are cut")
        }
        Event::ApplicationConsistent { cycle } => {
            format!("recovery point {cycle} will be application-consistent")
        }
        Event::ApplicationConsistencyMissed { cycle, because } => format!(
            "recovery point {cycle} will be crash-consistent, since the guest was not at rest: \
             {because}"
        ),
        Event::SpaceNotReclaimed { because } => {
            format!("what its replica does not need cannot be freed: {because}")
        }
        Event::SpaceReclaimed => "what its replica does not need was freed".to_owned(),
        Event::LogVolumeLow { because } => {
            format!("the volume of its replication logs is short of space: {because}")
        }
        Event::LogVolumeFreed => "the volume of its replication logs has room again".to_owned(),
        Event::TestFailoverRequested { point, network, lease_ends } => format!(
            "recovery point {} is to be tested in network {network}, until {lease_ends} at most",
            point.cycle
        ),
        Event::TestStarted => "the copy of the test runs".to_owned(),
        Event::TestCleanUpRequested { notes } => {
            format!("the test is to be cleaned up{}", quoted(notes))
        }
        Event::TestCleanUpPutOff { due, because } => {
            format!("the test could not be cleaned up, which is tried again at {due}: {because}")
        }
        Event::TestCleanedUp { notes } => {
            format!("the test is over and its copy deleted{}", quoted(notes))
        }
        Event::ReplicaShutDown => "the replica is shut down".to_owned(),
        Event::FailoverCancelled => {
            "the failover is undone; what the replica wrote is lost".to_owned()
        }
        Event::FailoverDecisionScheduled { due, then } => {
            format!("the failover is {} at {due} unless somebody decides before", decided(*then))
        }
        Event::FailbackRequested { in_full: false } => {
            "what differs is to be brought to the primary site".to_owned()
        }
        Event::FailbackRequested { in_full: true } => {
            "everything is to be downloaded to the primary site".to_owned()
        }
        Event::DiskRestored { compared_bytes, different_bytes, .. } => format!(
            "a disk of the primary site was brought up to date: of {} looked at, {} were written",
            bytes(*compared_bytes),
            bytes(*different_bytes)
        ),
        Event::DisksRestored { point } => {
            format!("the disks of the primary site are recovery point {}", point.cycle)
        }
        Event::FailbackReady => {
            "the primary site is in step: the failback can be completed".to_owned()
        }
        Event::FailbackCancelled => {
            "the failback is given up; it stays at the recovery site".to_owned()
        }
        Event::RestoredTracked { first_cycle } => format!(
            "writes at the primary site are tracked again, in logs from delta {first_cycle} on"
        ),
        Event::FailedBack => "it runs at the primary site again".to_owned(),
        Event::FailbackCommitted => "the failback is final".to_owned(),
        Event::TrackingLost { reason } => format!("its changes are not tracked any more: {reason}"),
        Event::VaultLeft => {
            "its disks at the recovery site are whole: it goes on without the vault".to_owned()
        }
        Event::ProtectionDisabled => "it is not protected any more".to_owned(),
        Event::ReplicationPaused => "nothing is sent until somebody resumes it".to_owned(),
        Event::ReplicationResumed => "its replication goes on".to_owned(),
        Event::StartHeld { .. } => "it waits before it starts, for a recovery plan".to_owned(),
        Event::StartReleased => "it may start".to_owned(),
        Event::FailoverHeld => {
            "its failover waits once it is shut down, for its recovery plan".to_owned()
        }
        Event::FailoverReleased => "its failover goes on from there".to_owned(),
        Event::Described { machine } => format!(
            "it has {} cores, {} MiB of memory and {} network adapters",
            machine.cores,
            machine.memory_mib,
            machine.nics.len()
        ),
        Event::TargetChanged { .. } => "its replica is to get what was chosen".to_owned(),
        Event::ReplicaPlaced { placement } => {
            format!("its replica has its place: {}", place_in_words(placement))
        }
        Event::TestPlaced { placement } => {
            format!("the copy of the test has its place: {}", place_in_words(placement))
        }
        Event::Moved { .. } => "it runs on another host".to_owned(),
        Event::FailbackHostChosen { .. } => {
            "it is brought to a host that was chosen, and the one that it came from is left as it is"
                .to_owned()
        }
        Event::SourcePlaced { placement } => {
            format!("at the primary site it gets its place back: {}", place_in_words(placement))
        }
        Event::HostLeft { .. } => {
            "it is off at a host that it was brought away from".to_owned()
        }
        Event::DiskResizeRequested { size_bytes, .. } => {
            format!("a disk is to be made {} large", bytes(*size_bytes))
        }
        Event::DiskResized { size_bytes, .. } => {
            format!("a disk is {} large, in points from here on", bytes(*size_bytes))
        }
        Event::DiskAddRequested { disk, image } => {
            format!("disk {} of {} is to be added, from {image}", disk.name, bytes(disk.size_bytes))
        }
        Event::DiskAdded { .. } => "the disk is one of its own, in points from here on".to_owned(),
    }
}

fn plan_command(command: &plan::Command, who: &str, name: &str) -> String {
    let plan = format!("recovery plan {name}");
    match command {
        plan::Command::Define { .. } => format!("{who} defined {plan}"),
        plan::Command::DefinePlan { definition, .. } => {
            format!("{who} defined {plan} with {} actions", definition.actions().count())
        }
        plan::Command::Delete => format!("{who} deleted {plan}"),
        plan::Command::Start { kind, .. } => format!("{who} began {} of {plan}", run(kind)),
        plan::Command::Continue { step, notes } => {
            format!("{who} had {plan} go on after step {}{}", step.saturating_add(1), quoted(notes))
        }
        plan::Command::Retry { step } => {
            format!("{who} had step {} of {plan} tried again", step.saturating_add(1))
        }
        plan::Command::Cancel => format!("{who} ended the run of {plan}"),
        plan::Command::ReportAction { step, failure: None, .. } => {
            format!("{who} did the action of step {} of {plan}", step.saturating_add(1))
        }
        plan::Command::ReportAction { step, failure: Some(failure), .. } => {
            format!(
                "{who} could not do the action of step {} of {plan}: {failure}",
                step.saturating_add(1)
            )
        }
        plan::Command::ReportVm { step, failure: None, .. } => {
            format!("{who} saw that a VM did its part of step {} of {plan}", step.saturating_add(1))
        }
        plan::Command::ReportVm { step, failure: Some(failure), .. } => {
            format!(
                "{who} saw that a VM failed in step {} of {plan}: {failure}",
                step.saturating_add(1)
            )
        }
        plan::Command::ReportLetGo { .. } => {
            format!("{who} let go of a VM that {plan} had not started")
        }
        plan::Command::StartWith { kind, options, .. } => {
            format!("{who} began {} of {plan}; {}", run(kind), options_in_words(options))
        }
    }
}

/// A run, with its article.
fn run(kind: &RunKind) -> String {
    let article = if *kind == RunKind::Unplanned { "an" } else { "a" };
    format!("{article} {} run", kind.name())
}

/// What was chosen for a run.
fn options_in_words(options: &RunOptions) -> String {
    let RunOptions { point, synchronize, lease_h, notes } = options;
    let usual = RunOptions::default();
    let parts = [
        (*point != usual.point).then(|| format!("each VM from {}", chosen(*point))),
        synchronize.then(|| "what was written last is sent first".to_owned()),
        (*lease_h != usual.lease_h).then(|| format!("a lease of {lease_h} h")),
        (!notes.is_empty()).then(|| format!("notes{}", quoted(notes))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn plan_in_words(name: &str, definition: &plan::Definition) -> String {
    let (groups, vms) = (definition.groups.len(), definition.vms().count());
    format!("recovery plan {name} has {groups} groups with {vms} VMs")
}

fn plan_event(event: &plan::Event) -> String {
    match event {
        plan::Event::Defined { name, definition, .. } => {
            plan_in_words(name, &definition.clone().into())
        }
        plan::Event::PlanDefined { name, definition, .. } => {
            let actions = definition.actions().count();
            format!("{}, and {actions} actions", plan_in_words(name, definition))
        }
        plan::Event::Deleted => "it is not wanted any more".to_owned(),
        plan::Event::RunStarted { kind, .. } => format!("{} began", run(kind)),
        plan::Event::StepStarted { step } => format!("step {} began", step.saturating_add(1)),
        plan::Event::VmDone { step, failure: None, .. } => {
            format!("a VM did its part of step {}", step.saturating_add(1))
        }
        plan::Event::VmDone { step, failure: Some(failure), .. } => {
            format!("a VM failed in step {}: {failure}", step.saturating_add(1))
        }
        plan::Event::StepCompleted { step, .. } => {
            format!("step {} is done", step.saturating_add(1))
        }
        plan::Event::StepFailed { step, failure, .. } => {
            format!("step {} failed: {failure}", step.saturating_add(1))
        }
        plan::Event::StepBlocked { step, failure, .. } => format!(
            "step {} failed, and the run waits for somebody to say what to do: {failure}",
            step.saturating_add(1)
        ),
        plan::Event::StepContinued { step, notes } => {
            format!("step {} was confirmed or passed over{}", step.saturating_add(1), quoted(notes))
        }
        plan::Event::RunEnded { outcome } => match outcome {
            RunOutcome::Completed => "the run is done".to_owned(),
            RunOutcome::PartiallySucceeded => "the run is done, but some steps failed".to_owned(),
            RunOutcome::Failed => "the run failed".to_owned(),
            RunOutcome::Cancelled => "the run was ended by hand".to_owned(),
        },
        plan::Event::VmLetGo { .. } => {
            "a VM that it had not started waits for it no more, unless it was shut down".to_owned()
        }
        plan::Event::OptionsChosen { options } => {
            format!("for this run there was chosen: {}", options_in_words(options))
        }
    }
}

fn cloud_event(event: &cloud::Event) -> String {
    match event {
        cloud::Event::Created { name, .. } => format!("cloud {name} exists"),
        cloud::Event::HostAdded { .. } => "a host belongs to it".to_owned(),
        cloud::Event::VmAdded { .. } => "a VM of it is replicated".to_owned(),
        cloud::Event::PolicyAssociated { policy } => {
            format!("its policy is {}", policy_in_words(policy))
        }
        cloud::Event::PolicyConfigured { policy } => {
            format!("its configuration gives it a policy: {}", policy_in_words(policy))
        }
        cloud::Event::PolicyTaken { revision, .. } => {
            format!("a VM took over policy {revision}")
        }
    }
}

fn host_event(event: &host::Event) -> String {
    match event {
        host::Event::Registered { name, .. } => format!("host {name} is registered"),
        host::Event::HeartbeatLost { .. } => "its heartbeat is lost".to_owned(),
        host::Event::HeartbeatRestored => "its heartbeat is back".to_owned(),
        host::Event::AgentRegistered { .. } => "its agent is admitted to the vault".to_owned(),
        host::Event::ClusterChanged { cluster: Some(cluster) } => {
            format!("it is a member of cluster {cluster}")
        }
        host::Event::ClusterChanged { cluster: None } => "it is a member of no cluster".to_owned(),
    }
}

fn vault_event(event: &vault::Event) -> String {
    match event {
        vault::Event::Created { name, .. } => format!("vault {name} exists"),
        vault::Event::VaultUnreachable { .. } => "it counts as unreachable".to_owned(),
        vault::Event::VaultReachable => "it counts as reachable again".to_owned(),
        vault::Event::RegistrationKeyIssued { expires, .. } => {
            format!("a registration key is valid until {expires}")
        }
        vault::Event::RegistrationKeyUsed { name, .. } => format!("{name} is admitted"),
    }
}

fn fabric_command(command: &fabric::Command, who: &str, name: &str) -> String {
    match command {
        fabric::Command::Create { .. } => format!("{who} created fabric {name}"),
        fabric::Command::Describe { networks, sizes } => format!(
            "{who} said that fabric {name} has {} networks and {} sizes",
            networks.len(),
            sizes.len()
        ),
        fabric::Command::MapNetwork { network, to } => {
            format!("{who} mapped network {network} of fabric {name} to {to}")
        }
        fabric::Command::UnmapNetwork { network } => {
            format!("{who} mapped network {network} of fabric {name} to nothing")
        }
        fabric::Command::Claim { addresses, .. } => {
            format!("{who} took {} addresses of fabric {name}", addresses.len())
        }
        fabric::Command::Release { .. } => format!("{who} gave addresses of fabric {name} back"),
        fabric::Command::RegisterProvider { .. } => {
            format!("{who} registered the provider of fabric {name}")
        }
        fabric::Command::ReportHeartbeat => {
            format!("{who} saw that the provider of fabric {name} answers")
        }
        fabric::Command::ReportSilence { failure } => {
            format!("{who} saw that the provider of fabric {name} does not answer: {failure}")
        }
    }
}

fn fabric_event(event: &fabric::Event) -> String {
    match event {
        fabric::Event::Created { name, .. } => format!("fabric {name} exists"),
        fabric::Event::Described { networks, sizes } => {
            format!("it has {} networks and {} sizes", networks.len(), sizes.len())
        }
        fabric::Event::NetworkMapped { network, to } => format!("network {network} leads to {to}"),
        fabric::Event::NetworkUnmapped { network } => format!("network {network} leads nowhere"),
        fabric::Event::Claimed { addresses, .. } => {
            let addresses = addresses.iter().map(|it| it.address.as_str()).collect::<Vec<_>>();
            format!("a replica holds the addresses {}", addresses.join(", "))
        }
        fabric::Event::Released { .. } => "a replica holds no address".to_owned(),
        fabric::Event::ProviderRegistered { .. } => {
            "its provider is admitted to the vault".to_owned()
        }
        fabric::Event::HeartbeatLost { .. } => "the heartbeat of its provider is lost".to_owned(),
        fabric::Event::HeartbeatRestored => "the heartbeat of its provider is back".to_owned(),
    }
}

fn code(failure: &Failure) -> &'static str {
    crate::domain::catalogue::entry(failure.code).id
}

fn variant(what: &impl Debug) -> String {
    let text = format!("{what:?}");
    text.chars().take_while(char::is_ascii_alphanumeric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_said_as_people_say_them() {
        assert_eq!(span(Duration::from_millis(12)), "12 ms");
        assert_eq!(span(Duration::from_secs(90)), "1 min 30 s");
        assert_eq!(span(Duration::from_mins(121)), "2 h 1 min");
        assert_eq!((bytes(12), bytes(2_048)), ("12 B".to_owned(), "2.0 KiB".to_owned()));
    }
}
