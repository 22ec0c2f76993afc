//! A redacted log: nothing of the original's words is in it, and it replays and verifies as that does.

use super::{INCIDENTS, commits, folded, log};
use lifeboat::domain::entity::Commit;
use lifeboat::domain::time::Timestamp;
use lifeboat::replay::{History, Redactor, verify};
use lifeboat::store::jsonl;
use std::collections::BTreeSet;

fn redacted(all: &[Commit], key: u8) -> Vec<Commit> {
    let mut redactor = Redactor::new([key; 32]);
    all.iter().map(|commit| redactor.redact(commit).unwrap()).collect()
}

/// Every text of a commit's JSON.
fn texts(value: &serde_json::Value, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::String(text) => _ = into.insert(text.clone()),
        serde_json::Value::Array(items) => items.iter().for_each(|it| texts(it, into)),
        serde_json::Value::Object(fields) => fields.values().for_each(|it| texts(it, into)),
        _ => {}
    }
}

#[test]
fn a_redacted_log_verifies_and_every_figure_stays() {
    for incident in INCIDENTS {
        let all = commits(&mut log(incident));
        let veiled = redacted(&all, 1);
        let result = verify(&mut History::Commits(veiled.clone()), vec![]).unwrap();
        assert!(result.is_sound(), "{incident}: {:#?}", result.first);
        let (one, other) =
            (folded(&mut History::Commits(all)), folded(&mut History::Commits(veiled)));
        let figures = |past: &lifeboat::replay::Past, now: Timestamp| {
            let status = past.site.status(now);
            let mut vms: Vec<_> = status
                .vms
                .iter()
                .map(|vm| {
                    (vm.state.clone(), vm.health, vm.recovery_points, vm.disk_bytes, vm.epoch)
                })
                .collect();
            vms.sort();
            (past.position, past.at, vms, status.health.worst, status.running_jobs.len())
        };
        assert_eq!(figures(&one, one.at), figures(&other, other.at), "{incident}");
    }
}

#[test]
fn no_name_address_or_free_text_is_left() {
    for incident in INCIDENTS {
        let all = commits(&mut log(incident));
        let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
        for (one, other) in all.iter().zip(redacted(&all, 1)) {
            texts(&serde_json::to_value(one).unwrap(), &mut before);
            texts(&serde_json::to_value(other).unwrap(), &mut after);
        }
        // Words of Lifeboat's own: variants, components, operations.
        let own = ["agent", "timer", "monitor", "supervisor", "configuration", "operator"];
        let nil = "00000000-0000-0000-0000-000000000000";
        let left: Vec<_> = before
            .intersection(&after)
            .filter(|text| !own.contains(&text.as_str()) && *text != nil)
            .filter(|text| {
                !text.chars().all(char::is_alphabetic) || !text.starts_with(char::is_uppercase)
            })
            .filter(|text| !text.bytes().all(|byte| byte.is_ascii_digit()))
            .collect();
        let operations: Vec<_> = left
            .iter()
            .filter(|text| !text.contains(' ') && !text.chars().all(char::is_alphabetic))
            .collect();
        assert!(operations.is_empty(), "{incident}: {left:?}");
        for word in ["web", "sql", "host-1", "simulated", "vault.json"] {
            assert!(!after.iter().any(|text| text.contains(word)), "{incident}: {word} is left");
        }
    }
}

#[test]
fn the_same_key_gives_the_same_log_and_another_key_another() {
    let all = commits(&mut log("vault_full"));
    assert_eq!(redacted(&all, 1), redacted(&all, 1));
    assert_ne!(redacted(&all, 1), redacted(&all, 2));
}

#[test]
fn a_redacted_log_that_was_not_decided_so_stays_undecided() {
    use lifeboat::domain::entity::Entry;
    use lifeboat::domain::vm::Event;
    let mut all = commits(&mut log("vault_full"));
    for commit in &mut all {
        let Entry::Vm { events, .. } = &mut commit.entry else { continue };
        for event in events {
            if let Event::LogShipped { point } = event {
                point.bytes += 1;
            }
        }
    }
    let before = verify(&mut History::Commits(all.clone()), vec![]).unwrap();
    let after = verify(&mut History::Commits(redacted(&all, 1)), vec![]).unwrap();
    assert!(0 < before.diverging);
    assert_eq!(before.diverging, after.diverging);
}

#[tokio::test]
async fn a_redacted_export_says_so_and_is_imported() {
    let all = commits(&mut log("resync_storm"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("redacted.jsonl");
    let veiled = redacted(&all, 3);
    let each =
        |write: &mut dyn FnMut(&Commit) -> std::io::Result<()>| veiled.iter().try_for_each(write);
    let mut bytes = Vec::new();
    let header =
        jsonl::write::<std::io::Error>(true, vec![], each, &mut |_, _| None, &mut bytes).unwrap();
    assert!(header.redacted);
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(commits(&mut History::of_file(&file).unwrap()), veiled);
    let store = lifeboat::store::SledStore::open(&folder.path().join("store")).unwrap();
    assert_eq!(jsonl::import(&file, &store).await.unwrap(), header);
}
