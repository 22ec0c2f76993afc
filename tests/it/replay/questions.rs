//! What can be asked, and what there is no answer to.

use super::{commits, fixture, folded, lifeboat, log, text};
use lifeboat::domain::entity::{Entity, Entry};
use lifeboat::domain::vm::{Event, Health, Vm};
use lifeboat::replay::{History, Moment, Question, explain, verify};

fn critical(name: &str) -> Question {
    let end = Moment::Position(u64::MAX);
    Question::Vm { name: name.to_owned(), state: Some(Health::Critical), until: end }
}

#[test]
fn any_moment_is_the_fold_of_the_commits_up_to_it() {
    let all = commits(&mut log("vault_full"));
    for position in [1, 2, 17, all.len() as u64] {
        let part = all[..position as usize].to_vec();
        let past = log("vault_full").past(Moment::Position(position), None).unwrap();
        assert_eq!(past, folded(&mut History::Commits(part)));
    }
}

#[test]
fn a_time_is_before_the_first_commit_that_is_later() {
    let all = commits(&mut log("vault_full"));
    let at = all[40].at;
    let past = log("vault_full").past(Moment::Time(at), None).unwrap();
    assert!(past.at <= at && at < all[past.position as usize].at);
}

#[test]
fn a_chain_leads_back_over_failed_attempts_to_a_schedule() {
    let all = commits(&mut log("vault_full"));
    let last_retry = all.iter().rfind(|commit| match &commit.entry {
        Entry::Vm { events, .. } => {
            events.iter().any(|it| matches!(it, Event::RetryScheduled { attempt: 3, .. }))
        }
        _ => false,
    });
    let question = Question::Commit(last_retry.unwrap().global);
    let answer = explain(&mut log("vault_full"), &question).unwrap();
    let failures = answer.chain.iter().filter(|link| link.command.contains("could not")).count();
    assert_eq!(failures, 3, "{:#?}", answer.chain);
    let origin = answer.chain.last().unwrap().origin.as_deref();
    assert_eq!(origin, Some("the policy asks for a delta every 60 s"));
}

/// Logs of earlier builds do not say what called for work and timers; it follows from the states.
#[test]
fn a_log_that_names_no_causes_is_explained_all_the_same() {
    let mut all = commits(&mut log("vault_full"));
    for commit in &mut all {
        if commit.actor != "supervisor" {
            commit.causation = None;
        }
    }
    let with = explain(&mut log("vault_full"), &critical("db")).unwrap();
    let without = explain(&mut History::Commits(all), &critical("db")).unwrap();
    assert_eq!(with, without);
}

#[test]
fn an_event_that_nobody_would_decide_is_named_with_its_field() {
    let mut all = commits(&mut log("link_flaps"));
    let forged = all.iter_mut().find_map(|commit| {
        let Entry::Vm { events, .. } = &mut commit.entry else { return None };
        events.iter_mut().find_map(|event| match event {
            Event::RetryScheduled { attempt, .. } => {
                *attempt += 1;
                Some(commit.global)
            }
            _ => None,
        })
    });
    let result = verify(&mut History::Commits(all), vec![]).unwrap();
    let first = &result.first[0];
    assert_eq!(Some(first.global), forged);
    assert_eq!((first.name.as_str(), first.command.as_str()), ("web", "ReportFailure"));
    let fields: Vec<String> = first.divergence.fields.iter().map(ToString::to_string).collect();
    assert_eq!(fields, ["[0].RetryScheduled.attempt: 2 -> 1"]);
    assert!(!result.is_sound());
}

#[test]
fn a_state_snapshot_that_its_commits_do_not_fold_to_is_named() {
    use lifeboat::domain::entity::Kind;
    use lifeboat::ports::event_store::Snapshot;
    let all = commits(&mut log("vault_full"));
    let stream = all.iter().find(|commit| commit.stream.kind == Kind::Vm).unwrap().stream;
    let mut vm = Vm::default();
    let own: Vec<_> = all.iter().filter(|commit| commit.stream == stream).take(30).collect();
    for commit in &own {
        let (_, events) = Vm::of(&commit.entry).unwrap();
        for event in events {
            vm.apply(event, commit.at);
        }
    }
    let snapshot = |vm: &Vm| Snapshot {
        stream,
        seq: 30,
        schema: 3,
        state: bincode::serde::encode_to_vec(vm, bincode::config::standard()).unwrap(),
    };
    let sound = verify(&mut History::Commits(all.clone()), vec![snapshot(&vm)]).unwrap();
    assert!(sound.is_sound() && sound.snapshots == 1);
    vm.jobs += 1;
    let result = verify(&mut History::Commits(all), vec![snapshot(&vm)]).unwrap();
    assert_eq!(result.wrong_snapshots.len(), 1, "{result:#?}");
}

#[test]
fn what_the_log_does_not_know_is_refused_with_what_it_knows() {
    let file = fixture("vault_full", "jsonl");
    let file = file.to_str().unwrap();
    for (arguments, says) in [
        (&["why", "--log", file, "--vm", "nobody"][..], "the log knows db"),
        (&["why", "--log", file, "99999"], "positions 1 to"),
        (&["at", "--log", file, "--time", "2025-01-01T00:00:00Z"], "nothing at or before"),
        (&["at", "--log", "no-such-file"], "read log no-such-file"),
        (&["at", "--data", "no-such-folder"], "no event log in no-such-folder"),
        (&["run", "--log", file, "--vm", "nobody"], "the log knows db"),
    ] {
        let output = lifeboat(&[&["replay"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(says), "{}", text(&output.stderr));
    }
}
