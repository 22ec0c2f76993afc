//! The log of a service's folder: read while it is written, and where it is damaged.

use super::{commits, folded, log};
use lifeboat::domain::entity::NewCommit;
use lifeboat::ports::event_store::EventStore;
use lifeboat::replay::History;
use lifeboat::store::{SledStore, jsonl};
use std::os::unix::fs::FileExt;
use std::path::Path;

async fn filled(folder: &Path) -> SledStore {
    let store = SledStore::open(folder).unwrap();
    jsonl::import(&super::fixture("resync_storm", "jsonl"), &store).await.unwrap();
    store
}

#[tokio::test]
async fn a_log_is_read_whole_while_another_has_it_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path()).await;
    let all = commits(&mut log("resync_storm"));
    assert_eq!(commits(&mut History::of_store(folder.path()).unwrap()), all);
    // What is appended since is there as soon as it is acknowledged.
    let mut more = Vec::new();
    for commit in all.iter().rev().take(1) {
        let new = NewCommit {
            stream: commit.stream,
            expected_seq: commit.seq,
            at: commit.at,
            actor: commit.actor.clone(),
            correlation: None,
            causation: None,
            entry: commit.entry.clone(),
        };
        more.push(store.append(new).await.unwrap());
    }
    let read = commits(&mut History::of_store(folder.path()).unwrap());
    assert_eq!(read, [all.clone(), more].concat());
    let before = std::fs::read(folder.path().join("HEAD")).unwrap();
    store.close().unwrap();
    let closed = commits(&mut History::of_store(folder.path()).unwrap());
    assert_eq!(closed, read);
    assert_ne!(before, std::fs::read(folder.path().join("HEAD")).unwrap());
}

#[tokio::test]
async fn reading_changes_nothing_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await.close().unwrap();
    let files = || {
        let mut files = Vec::new();
        for name in ["HEAD", "log/db"] {
            files.push(std::fs::read(folder.path().join(name)).unwrap());
        }
        files
    };
    let before = files();
    commits(&mut History::of_store(folder.path()).unwrap());
    assert!(before == files());
}

#[tokio::test]
async fn a_damaged_record_is_named_and_all_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await.close().unwrap();
    let all = commits(&mut log("resync_storm"));
    let db = folder.path().join("log/db");
    let bytes = std::fs::read(&db).unwrap();
    // Wherever a copy of the record lies, a byte of its payload flips.
    let global = 70_u64;
    let file = std::fs::OpenOptions::new().write(true).open(&db).unwrap();
    let starts = bytes.windows(4).enumerate().filter(|(_, magic)| *magic == b"LBE1");
    for (at, _) in starts {
        if bytes[at + 16..at + 24] == global.to_le_bytes() {
            file.write_all_at(&[bytes[at + 60] ^ 0x20], at as u64 + 60).unwrap();
        }
    }
    let past = folded(&mut History::of_store(folder.path()).unwrap());
    let said: Vec<_> = past.damage.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["commit 70: is missing"]);
    assert_eq!(past.position, all.len() as u64);
    assert!(!past.is_complete(all[69].stream));
}
