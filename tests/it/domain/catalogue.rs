//! Words for people: the error catalogue, names of jobs and tasks.

use lifeboat::domain::catalogue::{ENTRIES, Level, ResolvedBy};
use lifeboat::domain::failure::{Cause, Class, Failure};
use lifeboat::domain::id::DiskId;
use lifeboat::domain::job::{JobKind, Step};
use std::collections::{BTreeMap, BTreeSet};

/// The facts that messages may name.
const FACTS: [&str; 16] = [
    "action",
    "address",
    "check",
    "cycle",
    "damage",
    "disk",
    "fabric",
    "host",
    "network",
    "object",
    "operation",
    "path",
    "setting",
    "target",
    "vm",
    "provider",
];

const JOBS: [JobKind; 22] = [
    JobKind::EnableProtection,
    JobKind::InitialReplication,
    JobKind::FinalizeProtection,
    JobKind::Resynchronize,
    JobKind::PlannedFailover,
    JobKind::UnplannedFailover,
    JobKind::CommitFailover,
    JobKind::ResynchronizeDifferences,
    JobKind::TestFailover,
    JobKind::TestFailoverCleanup,
    JobKind::ChangeRecoveryPoint,
    JobKind::CancelFailover,
    JobKind::Failback,
    JobKind::CompleteFailback,
    JobKind::CommitFailback,
    JobKind::ReverseReplicate,
    JobKind::ResumeReplication,
    JobKind::DisableProtection,
    JobKind::RemoveProtection,
    JobKind::ResizeDisk,
    JobKind::AddDisk,
    JobKind::DisableAtRecovery,
];

#[test]
fn a_message_with_its_facts_has_no_place_left_unfilled() {
    for entry in ENTRIES {
        let failure = FACTS
            .iter()
            .fold(Failure::new(entry.code, Cause::Itself, "as it said"), |failure, fact| {
                failure.with(fact, format!("<{fact}>"))
            });
        let text = failure.to_string();
        assert!(!text.contains(['{', '}']), "{text}");
        assert!(text.starts_with(entry.id) && text.ends_with("(as it said)"), "{text}");
        assert!(text.contains('<') || !entry.message.contains('{'), "{text}");
    }
}

#[test]
fn every_fact_is_named_by_a_message() {
    for fact in FACTS.iter().filter(|fact| **fact != "provider") {
        let place = format!("{{{fact}}}");
        assert!(ENTRIES.iter().any(|entry| entry.message.contains(&place)), "{fact}");
    }
}

#[test]
fn every_entry_says_why_what_next_and_what_to_do() {
    for entry in ENTRIES {
        let id = entry.id;
        assert!(!entry.causes.is_empty() && entry.causes.iter().all(|it| !it.is_empty()), "{id}");
        for sentence in [entry.next, entry.action] {
            assert!(sentence.ends_with('.') && !sentence.contains('{'), "{id}: {sentence}");
            assert!(sentence.starts_with(char::is_uppercase), "{id}: {sentence}");
        }
        assert!(entry.title.starts_with(char::is_uppercase) && !entry.title.ends_with('.'), "{id}");
        assert!(!entry.message.ends_with('.') && !entry.message.contains("failed to"), "{id}");
        let number = id.strip_prefix("SR-").expect("ids begin with SR-");
        assert!(number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit()), "{id}");
    }
}

/// What is tried again by itself must say so, and what is not must not.
#[test]
fn the_next_step_fits_the_class() {
    for entry in ENTRIES {
        let by_itself = ["tried again", "by itself"].iter().any(|it| entry.next.contains(it));
        assert_eq!(by_itself, entry.class == Class::Recoverable, "{}: {}", entry.id, entry.next);
        assert_eq!(entry.resolved_by == ResolvedBy::System, entry.class == Class::Recoverable);
        // Nothing was changed: what was protected is.
        let only_refused = entry.id == "SR-3003" || entry.next == "Nothing was changed.";
        let critical = entry.level == Level::Critical;
        // These warn of what a failover would bring, which goes on as well.
        let only_warns = ["SR-3021", "SR-3022", "SR-3023"].contains(&entry.id);
        // These are as somebody wanted it, or name what has causes of its own.
        let waits = ["SR-2012", "SR-2312", "SR-3034", "SR-3037", "SR-3038", "SR-3102"];
        let only_warns = only_warns || waits.contains(&entry.id);
        assert!(
            critical || only_refused || only_warns || entry.class == Class::Recoverable,
            "{}",
            entry.id
        );
    }
}

#[test]
fn jobs_and_the_tasks_of_a_job_have_names_of_their_own() {
    // The API knows one scenario for both ways to resynchronize; people know one word for both commits.
    assert_eq!(JOBS.iter().map(|job| job.name()).collect::<BTreeSet<_>>().len(), JOBS.len() - 1);
    assert_eq!(JOBS.iter().map(|job| job.title()).collect::<BTreeSet<_>>().len(), JOBS.len() - 1);
    let mut names: BTreeMap<&str, Step> = BTreeMap::new();
    let mut titles: BTreeMap<&str, Step> = BTreeMap::new();
    for job in JOBS {
        let steps = job.steps(&[DiskId::default()]);
        let once: Vec<_> =
            steps.iter().filter(|step| !matches!(step, Step::RestoreDisk(_))).collect();
        assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), once.len(), "{job:?}");
        for step in steps {
            assert_eq!(*names.entry(step.name()).or_insert(step), step, "{}", step.name());
            assert_eq!(*titles.entry(step.title()).or_insert(step), step, "{}", step.title());
        }
    }
    assert_eq!(names.len(), 45);
}

/// Only then can a job that fails a check end with nothing changed.
#[test]
fn a_check_is_the_first_task_of_its_job_or_none() {
    for job in JOBS {
        let steps = job.steps(&[DiskId::default()]);
        assert!(steps.iter().skip(1).all(|step| !step.is_check()), "{job:?}");
    }
}

#[test]
fn a_job_copies_each_disk() {
    let disks: Vec<_> = (1..4).map(super::story::disk_id).collect();
    for job in [JobKind::InitialReplication, JobKind::Resynchronize] {
        let copied: Vec<_> = job
            .steps(&disks)
            .into_iter()
            .filter_map(|step| match step {
                Step::CopyDisk(disk) => Some(disk),
                _ => None,
            })
            .collect();
        assert_eq!(copied, disks);
    }
}
