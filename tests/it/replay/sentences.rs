//! Every command and event that can be in a log has a sentence, and what a log says of its builds.

use super::{commits, fixture, lifeboat, log, text};
use lifeboat::domain::entity::{Commit, Entry, StreamId};
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::Event;
use lifeboat::ports::event_store::{EventStore, WrittenBy};
use lifeboat::replay::{History, Past, Titles, command_in_words, events_in_words, verify};
use lifeboat::store::{SledStore, jsonl, this_build};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One commit with each command and each event that was ever frozen.
fn samples() -> Vec<Commit> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events/v2.jsonl");
    let lines = fs::read_to_string(file).unwrap();
    let entries = lines.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        serde_json::from_value::<Entry>(line["means"]["entry"].clone()).unwrap()
    });
    let commit = |entry: Entry| Commit {
        stream: StreamId { kind: entry.kind(), id: uuid::Uuid::nil() },
        seq: 1,
        global: 1,
        at: Timestamp::from_millis(1_700_000_000_000),
        actor: "operator anna".to_owned(),
        correlation: None,
        causation: None,
        entry,
    };
    entries.map(commit).collect()
}

/// The names of the variants in an entry: of its command, and of its events.
fn variants(entry: &Entry) -> (String, Vec<String>) {
    let name = |value: &Value| match value {
        Value::Object(fields) => fields.keys().next().unwrap().clone(),
        value => value.as_str().unwrap().to_owned(),
    };
    let entry = serde_json::to_value(entry).unwrap();
    let (kind, body) = entry.as_object().unwrap().iter().next().unwrap();
    let command = format!("{kind} {}", name(&body["command"]));
    let events = body["events"].as_array().unwrap().iter();
    (command, events.map(|event| format!("{kind} {}", name(event))).collect())
}

/// A name as words: what a sentence would be that nobody wrote.
fn spelled(variant: &str) -> String {
    let name = variant.split(' ').next_back().unwrap();
    let spaced = name.chars().flat_map(|letter| {
        let gap = letter.is_uppercase().then_some(' ');
        gap.into_iter().chain(letter.to_lowercase())
    });
    spaced.collect::<String>().trim().to_owned()
}

#[test]
fn every_command_and_event_has_a_sentence_of_its_own() {
    let mut sentences: BTreeMap<String, String> = BTreeMap::new();
    let mut check = |variant: String, sentence: String| {
        for generic in ["{ ", " }", "Some(", "None", "Timestamp", "Id("] {
            assert!(!sentence.contains(generic), "{variant}: {sentence}");
        }
        let generic = spelled(&variant);
        let told = sentence.starts_with(&format!("{generic} (")) || sentence == generic;
        assert!(!told || generic == "protected", "{variant}: {sentence}");
        assert!(9 < sentence.len(), "{variant}: {sentence:?}");
        let kind = variant.split(' ').next().unwrap();
        let of = sentences.entry(format!("{kind}: {sentence}")).or_insert_with(|| variant.clone());
        assert_eq!(*of, variant, "two have the same sentence: {sentence}");
    };
    let mut commands = 0;
    for commit in samples() {
        let (command, events) = variants(&commit.entry);
        check(command, command_in_words(&commit, "db-1", &Titles::default()));
        commands += 1;
        for (event, sentence) in
            events.into_iter().zip(events_in_words(&commit, &Titles::default()))
        {
            check(event, sentence);
        }
    }
    assert!(60 < commands && 120 < sentences.len(), "{commands}, {}", sentences.len());
}

#[test]
fn tasks_are_told_by_what_they_do() {
    let (mut past, mut titles) = (Past::default(), Titles::default());
    let mut told = Vec::new();
    for commit in commits(&mut log("host_killed_in_failover")) {
        past.apply(&commit);
        titles.note(&past, &commit);
        told.push(command_in_words(&commit, "sql", &titles));
        told.extend(events_in_words(&commit, &titles));
    }
    let told = told.join("\n");
    for sentence in [
        "the agent did task 1 (\"Prerequisites check for planned failover\") for sql",
        "task 2 (\"Shut down the virtual machine\") began",
        // The last task of a job is told in the commit that begins the next job.
        "task 5 (\"Updating the provider states\") is done",
    ] {
        assert!(told.contains(sentence), "{sentence}: {told}");
    }
    assert!(!told.contains(['{', '_']), "{told}");
}

/// An incident in which one event is not what was decided, written by these builds.
fn with_a_divergence(folder: &Path, written_by: Vec<WrittenBy>) -> PathBuf {
    let mut all = commits(&mut log("link_flaps"));
    for event in all.iter_mut().flat_map(|commit| match &mut commit.entry {
        Entry::Vm { events, .. } => events.as_mut_slice(),
        _ => &mut [],
    }) {
        if let Event::RetryScheduled { attempt, .. } = event {
            *attempt += 7;
        }
    }
    let mut bytes = Vec::new();
    jsonl::write::<std::io::Error>(
        true,
        written_by,
        |write| all.iter().try_for_each(&mut *write),
        &mut |_, _| None,
        &mut bytes,
    )
    .unwrap();
    let file = folder.join("log.jsonl");
    fs::write(&file, bytes).unwrap();
    file
}

#[test]
fn a_divergence_names_the_build_that_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let earlier = WrittenBy { from: 1, build: "0.0.7".to_owned(), payload_version: 1 };
    let cases = [
        (vec![], "written by an unknown build;"),
        (vec![earlier.clone()], "written by build 0.0.7 in payload version 1;"),
        (vec![earlier.clone(), this_build(2)], "in payload version 2;"),
        (vec![WrittenBy { from: 100, ..earlier }], "written by an unknown build;"),
    ];
    for (written_by, said) in cases {
        let file = with_a_divergence(folder.path(), written_by.clone());
        let mut history = History::of_file(&file).unwrap();
        let result = verify(&mut history, vec![]).unwrap();
        assert!(0 < result.diverging);
        assert!(result.first[0].global < 100);
        let output = lifeboat(&["replay", "verify", "--log", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stdout).contains(said), "{said}: {}", text(&output.stdout));
    }
}

#[tokio::test]
async fn a_log_keeps_who_wrote_it_when_it_is_moved() {
    let folder = tempfile::tempdir().unwrap();
    let earlier = WrittenBy { from: 1, build: "0.0.7".to_owned(), payload_version: 1 };
    for (name, written_by) in [("old", vec![]), ("known", vec![earlier])] {
        let file = with_a_divergence(folder.path(), written_by.clone());
        let at = folder.path().join(name);
        let store = SledStore::open(&at).unwrap();
        assert_eq!(store.written_by(), [this_build(1)]);
        let header = jsonl::import(&file, &store).await.unwrap();
        assert_eq!(store.written_by(), written_by);
        store.close().unwrap();
        // From here on this build would write.
        let store = SledStore::open(&at).unwrap();
        let next = this_build(header.count + 1);
        assert_eq!(store.written_by(), [written_by.clone(), vec![next.clone()]].concat());
        assert_eq!(History::of_store(&at).unwrap().written_by().last(), Some(&next));
        let mut bytes = Vec::new();
        // It has written nothing yet, so that an export does not name it.
        assert_eq!(
            jsonl::export(&store, &mut |_, _| None, &mut bytes).unwrap().written_by,
            written_by
        );
        store.close().unwrap();
    }
    let simulated = fixture("link_flaps", "toml");
    let log = folder.path().join("simulated.jsonl");
    let arguments = ["simulate", simulated.to_str().unwrap(), "--log", log.to_str().unwrap()];
    assert!(lifeboat(&arguments).status.success());
    assert_eq!(History::of_file(&log).unwrap().written_by(), [this_build(1)]);
}
