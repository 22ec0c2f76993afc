//! Commits in words: who did what, and what became true.
//!
//! What matters in an incident has a sentence with its numbers. Everything else is told by its name and
//! fields, so that an event which is added later is never left out.

use crate::domain::cloud;
use crate::domain::entity::{Commit, Entry};
use crate::domain::fabric;
use crate::domain::failure::Failure;
use crate::domain::host;
use crate::domain::job::{JobOutcome, Step};
use crate::domain::plan;
use crate::domain::time::Timestamp;
use crate::domain::vault;
use crate::domain::vm::{Command, Event, Opening, RetryReason, Wake, Work};
use std::fmt::Debug;
use std::time::Duration;

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
pub fn command_in_words(commit: &Commit, name: &str) -> String {
    let who = who(&commit.actor);
    match &commit.entry {
        Entry::Vm { command, .. } => vm_command(command, &who, name, commit.at),
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
            cloud::Command::AssociatePolicy { .. } => {
                format!("{who} gave cloud {name} its policy")
            }
            cloud::Command::ReportPolicyTaken { .. } => {
                format!("{who} told cloud {name} that a VM took over its policy")
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
        Entry::Plan { command, .. } => match command {
            plan::Command::Define { .. } => format!("{who} defined recovery plan {name}"),
            plan::Command::Delete => format!("{who} deleted recovery plan {name}"),
            plan::Command::Start { kind, .. } => {
                format!("{who} began a {} run of recovery plan {name}", kind.name())
            }
            plan::Command::Continue { step, .. } => {
                format!("{who} had recovery plan {name} go on after step {step}")
            }
            plan::Command::Retry { step } => {
                format!("{who} had step {step} of recovery plan {name} tried again")
            }
            plan::Command::Cancel => format!("{who} ended the run of recovery plan {name}"),
            plan::Command::ReportAction { step, .. } | plan::Command::ReportVm { step, .. } => {
                format!("step {step} of recovery plan {name} got on")
            }
        },
        Entry::Fabric { command, .. } => match command {
            fabric::Command::Create { .. } => format!("{who} created fabric {name}"),
            fabric::Command::MapNetwork { network, to } => {
                format!("{who} mapped network {network} of {name} to {to}")
            }
            fabric::Command::ReportHeartbeat => {
                format!("{who} saw that the provider of {name} answers")
            }
            fabric::Command::ReportSilence { failure } => {
                format!("{who} saw that the provider of {name} does not answer: {failure}")
            }
            other => format!("{who} told {name}: {}", told(other)),
        },
    }
}

/// What became true, one sentence an event.
pub fn events_in_words(commit: &Commit) -> Vec<String> {
    match &commit.entry {
        Entry::Vm { events, .. } => events.iter().map(|it| vm_event(it, commit.at)).collect(),
        Entry::Host { events, .. } => events.iter().map(host_event).collect(),
        Entry::Cloud { events, .. } => events.iter().map(told).collect(),
        Entry::Vault { events, .. } => events.iter().map(vault_event).collect(),
        Entry::Plan { events, .. } => events.iter().map(told).collect(),
        Entry::Fabric { events, .. } => events.iter().map(told).collect(),
    }
}

/// A whole commit as one sentence.
pub fn commit_in_words(commit: &Commit, name: &str) -> String {
    let events = events_in_words(commit).join("; ");
    format!("{}: {events}", command_in_words(commit, name))
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

fn vm_command(command: &Command, who: &str, name: &str, at: Timestamp) -> String {
    match command {
        Command::Discover { .. } => format!("{who} made {name} known"),
        Command::EnableProtection { .. } => format!("{who} asked for the protection of {name}"),
        Command::ChangePolicy { policy } => {
            format!("{who} gave {name} a policy: a delta every {} s", policy.copy_frequency_s)
        }
        Command::PlannedFailover { .. } => format!("{who} asked for a planned failover of {name}"),
        Command::UnplannedFailover { .. } => {
            format!("{who} asked for an unplanned failover of {name}")
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
            match wake {
                Wake::Cycle(cycle) => format!("delta {cycle} of {name} was due{late}"),
                Wake::Retry(attempt) => {
                    format!("attempt {} of {name} was due{late}", attempt + 1)
                }
                Wake::Resync => format!("the resync window of {name} opened{late}"),
                Wake::TestLease => {
                    format!("the time of the test failover of {name} was up{late}")
                }
                Wake::Decision => format!("the failover of {name} was to be decided{late}"),
            }
        }
        Command::ReportDone { .. } => format!("{who} did a task for {name}"),
        Command::ReportProgress { .. } => format!("{who} goes on with a task for {name}"),
        Command::ReportSnapshot { cycle, .. } | Command::ReportQuiescedSnapshot { cycle, .. } => {
            format!("{who} cut the logs of {name} for delta {cycle}")
        }
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
        other => format!("{who} told {name}: {}", told(other)),
    }
}

/// What the work is, after "could not".
fn work_in_words(work: Work) -> String {
    match work {
        Work::Task { step, .. } => format!("do {:?}", task(step)),
        Work::Snapshot { cycle } => format!("cut the logs of delta {cycle}"),
        Work::Ship { cycle, .. } => format!("send delta {cycle}"),
    }
}

fn task(step: Step) -> &'static str {
    step.title()
}

fn vm_event(event: &Event, at: Timestamp) -> String {
    match event {
        Event::Discovered { name, disks, .. } => {
            format!("{name} is known, with {} disks", disks.len())
        }
        Event::JobStarted { kind, .. } => format!("job {:?} began", kind.title()),
        Event::TaskStarted { task, .. } => format!("task {} began", task + 1),
        Event::TaskProgressed { task, done_bytes, total_bytes, .. } => {
            format!("task {} is at {} of {}", task + 1, bytes(*done_bytes), bytes(*total_bytes))
        }
        Event::TaskCompleted { task, .. } => format!("task {} is done", task + 1),
        Event::TaskFailed { task, failure, .. } => format!("task {} failed: {failure}", task + 1),
        Event::JobEnded { outcome, .. } => match outcome {
            JobOutcome::Completed => "the job is done".to_owned(),
            JobOutcome::Failed => "the job failed".to_owned(),
            JobOutcome::Cancelled => "the job gave way to another".to_owned(),
        },
        Event::DiskCopied { bytes: sent, .. } => {
            format!("a disk was copied, {} sent", bytes(*sent))
        }
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
            format!("attempt {} began", attempt + 1)
        }
        Event::RetryStarted { attempt, early: Some(_) } => {
            format!("attempt {} began before its time", attempt + 1)
        }
        Event::AdministratorNeeded { because, .. } => {
            format!("an administrator must act ({})", code(because))
        }
        Event::SourceShutDown => "the source is shut down".to_owned(),
        Event::SourceFenced { epoch } => {
            format!("the replica is closed to the primary site, epoch {epoch}")
        }
        Event::FailedOver { point, .. } => {
            format!("the disks of recovery point {} are served", point.cycle)
        }
        Event::ReplicaStarted => "the replica runs".to_owned(),
        Event::FailoverCommitted => "the failover is final".to_owned(),
        Event::ResyncScheduled { opening: Opening::At(moment) } => {
            format!("its resynchronization begins at {moment}")
        }
        Event::ResyncScheduled { opening: Opening::ByHand } => {
            "its resynchronization waits to be begun by hand".to_owned()
        }
        Event::RecoveryPointsThinned { cycles } => {
            format!("{} recovery points were let go", cycles.len())
        }
        other => told(other),
    }
}

fn host_event(event: &host::Event) -> String {
    match event {
        host::Event::Registered { name, .. } => format!("host {name} is registered"),
        host::Event::HeartbeatLost { .. } => "its heartbeat is lost".to_owned(),
        host::Event::HeartbeatRestored => "its heartbeat is back".to_owned(),
        host::Event::AgentRegistered { .. } | host::Event::ClusterChanged { .. } => told(event),
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

fn code(failure: &Failure) -> &'static str {
    crate::domain::catalogue::entry(failure.code).id
}

/// What has no sentence of its own: `RecoveryPointsExpired { kept_from_cycle: 3 }` becomes
/// `recovery points expired (kept_from_cycle: 3)`.
fn told(what: &impl Debug) -> String {
    let name = variant(what);
    let words = name.char_indices().fold(String::new(), |mut words, (at, letter)| {
        if letter.is_uppercase() && 0 < at {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
        words
    });
    let text = format!("{what:?}");
    let fields = text[name.len()..].trim();
    let fields = fields.strip_prefix(['{', '(']).unwrap_or(fields);
    let fields = fields.strip_suffix(['}', ')']).unwrap_or(fields).trim();
    if fields.is_empty() { words } else { format!("{words} ({fields})") }
}

fn variant(what: &impl Debug) -> String {
    let text = format!("{what:?}");
    text.chars().take_while(char::is_ascii_alphanumeric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_sentence_is_told_by_its_name_and_fields() {
        let event = Event::RecoveryPointsExpired { kept_from_cycle: 3 };
        assert_eq!(told(&event), "recovery points expired (kept_from_cycle: 3)");
        assert_eq!(told(&Event::SpaceReclaimed), "space reclaimed");
    }

    #[test]
    fn spans_and_sizes_are_said_as_people_say_them() {
        assert_eq!(span(Duration::from_millis(12)), "12 ms");
        assert_eq!(span(Duration::from_secs(90)), "1 min 30 s");
        assert_eq!(span(Duration::from_mins(121)), "2 h 1 min");
        assert_eq!((bytes(12), bytes(2_048)), ("12 B".to_owned(), "2.0 KiB".to_owned()));
    }
}
