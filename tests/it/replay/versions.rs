//! A log of every payload version that was ever written is read, folded, decided again and answered from. The
//! records of each are frozen under `tests/fixtures/events/`: those of a vault that ran full.

use super::{commits, lifeboat, log, text};
use lifeboat::domain::entity::Commit;
use lifeboat::replay::{History, Moment, verify};
use lifeboat::store::log::{Draft, Log};
use lifeboat::store::payload::{self, VERSION, v1};
use lifeboat::store::record::StreamKey;
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const INCIDENT: &str = "vault_full";

fn frozen(version: u16) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events");
    folder.join(format!("{INCIDENT}_v{version}.jsonl"))
}

/// The payload of a commit in a version that can still be written.
fn payload_of(version: u16, commit: &Commit) -> Vec<u8> {
    let Commit { actor, correlation, causation, entry, .. } = commit;
    match version {
        1 => {
            let (actor, correlation, entry) = (actor.clone(), *correlation, entry.clone());
            let payload = v1::Payload { actor, correlation, entry };
            bincode::serde::encode_to_vec(payload, bincode::config::standard()).unwrap()
        }
        _ => payload::encode(actor, *correlation, *causation, entry),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The records of a version, as they were frozen. With `LIFEBOAT_FREEZE=1` those that are not there yet are
/// written down; none is ever changed.
fn drafts(version: u16) -> Vec<Draft> {
    let file = frozen(version);
    if std::env::var_os("LIFEBOAT_FREEZE").is_some() && !file.exists() {
        let lines = commits(&mut log(INCIDENT)).into_iter().fold(String::new(), |lines, commit| {
            let line = json!({
                "kind": commit.stream.kind as u8, "id": commit.stream.id, "seq": commit.seq,
                "at_ms": commit.at.as_millis(), "payload": hex(&payload_of(version, &commit)),
            });
            lines + &line.to_string() + "\n"
        });
        fs::write(&file, lines).unwrap();
    }
    let text = fs::read_to_string(&file).unwrap();
    let draft = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let number = |key: &str| line[key].as_u64().unwrap();
        Draft {
            stream: StreamKey {
                kind: u8::try_from(number("kind")).unwrap(),
                id: line["id"].as_str().unwrap().parse().unwrap(),
            },
            expected_seq: number("seq") - 1,
            at_ms: line["at_ms"].as_i64().unwrap(),
            version,
            payload: unhex(line["payload"].as_str().unwrap()),
        }
    };
    text.lines().map(draft).collect()
}

/// The data folder of a service whose log holds these records.
async fn data_with(drafts: Vec<Draft>) -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let log = Log::open(&data.path().join("events")).unwrap();
    log.append_in_order(drafts.into_iter()).await.unwrap();
    log.close().unwrap();
    data
}

fn opened(data: &tempfile::TempDir) -> History {
    History::of_store(&data.path().join("events")).unwrap()
}

/// What is known of a commit whose payload had no place for what led to it.
fn without_causation(commit: Commit) -> Commit {
    Commit { causation: None, ..commit }
}

fn check(data: &tempfile::TempDir, known: &[Commit]) {
    assert_eq!(commits(&mut opened(data)), known);
    let result = verify(&mut opened(data), vec![]).unwrap();
    assert!(result.is_sound(), "{:#?}", result.first);
    assert_eq!(result.decided, known.len() as u64);
    for moment in [Moment::Position(45), Moment::End] {
        let sites = [opened(data), log(INCIDENT)].map(|mut it| it.past(moment, None).unwrap().site);
        assert_eq!(sites[0], sites[1]);
    }
    let data = data.path().to_str().unwrap();
    let at = lifeboat(&["replay", "at", "--data", data, "--seq", "45"]);
    assert!(text(&at.stdout).contains("SR-2201"), "{}", text(&at.stdout));
    let verified = lifeboat(&["replay", "verify", "--data", data]);
    let said = format!("{0} of {0} commits decided again: as recorded", known.len());
    assert!(text(&verified.stdout).contains(&said), "{}", text(&verified.stdout));
    assert!(verified.status.success());
    let why = lifeboat(&["replay", "why", "--data", data, "--vm", "db", "--state", "critical"]);
    assert!(text(&why.stdout).contains("the policy asks for a delta"), "{}", text(&why.stdout));
}

#[tokio::test]
async fn a_log_of_every_payload_version_is_replayed() {
    for version in 1..=VERSION {
        let mut known = commits(&mut log(INCIDENT));
        if version == 1 {
            known = known.into_iter().map(without_causation).collect();
        }
        check(&data_with(drafts(version)).await, &known);
    }
}

/// A service is updated while its log goes on.
#[tokio::test]
async fn a_log_that_goes_on_in_another_version_is_replayed() {
    let half = 30;
    let drafts = [&drafts(1)[..half], &drafts(VERSION)[half..]].concat();
    let known: Vec<Commit> = commits(&mut log(INCIDENT));
    let (old, new) = known.split_at(half);
    let old: Vec<Commit> = old.iter().cloned().map(without_causation).collect();
    check(&data_with(drafts).await, &[&old, new].concat());
}
