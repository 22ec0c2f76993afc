//! State snapshots: kept twice, proven, never believed.

use super::{copy_open_store, fill, open, stream};
use lifeboat::ports::event_store::{EventStore, Snapshot, StoreError};
use lifeboat::store::MemoryStore;
use lifeboat::store::verify::verify;
use std::path::Path;
use tempfile::tempdir;

fn snapshot(seq: u64, schema: u16, bytes: usize) -> Snapshot {
    let state = (0..bytes).map(|at| (at as u64 + seq) as u8).collect();
    Snapshot { stream: stream(0), seq, schema, state }
}

#[tokio::test]
async fn the_newest_snapshot_of_the_wanted_schema_is_found() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    fill(&store, 50, 10).await;
    assert_eq!(store.snapshot(stream(0), 1).unwrap(), None);
    store.save_snapshot(snapshot(3, 1, 10)).unwrap();
    store.save_snapshot(snapshot(7, 2, 100_000)).unwrap();
    assert_eq!(store.snapshot(stream(0), 1).unwrap(), Some(snapshot(3, 1, 10)));
    assert_eq!(store.snapshot(stream(0), 2).unwrap(), Some(snapshot(7, 2, 100_000)));
    assert_eq!(store.snapshot(stream(0), 3).unwrap(), None);
    assert_eq!(store.snapshot(stream(1), 1).unwrap(), None);
    store.save_snapshot(snapshot(9, 1, 70_000)).unwrap();
    store.save_snapshot(snapshot(10, 1, 0)).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.snapshot(stream(0), 1).unwrap(), Some(snapshot(10, 1, 0)));
    assert_eq!(store.snapshot(stream(0), 2).unwrap(), None, "only the last two are kept");
}

#[tokio::test]
async fn a_snapshot_of_commits_that_the_stream_does_not_have_is_refused() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    fill(&store, 5, 10).await;
    let refused = store.save_snapshot(snapshot(2, 1, 10));
    assert!(matches!(refused, Err(StoreError::WrongSequence { expected: 2, actual: 1 })));
    let refused = store.save_snapshot(snapshot(1, 1, 5 << 20));
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    let memory = MemoryStore::default();
    assert!(memory.save_snapshot(snapshot(2, 1, 10)).is_err());
}

#[tokio::test]
async fn a_damaged_snapshot_is_passed_over_for_the_one_before() {
    let dir = tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    fill(&store, 20, 10).await;
    store.save_snapshot(snapshot(3, 1, 40_000)).unwrap();
    store.save_snapshot(snapshot(4, 1, 40_000)).unwrap();
    fill(&store, 1, 10).await;
    let crashed = dir.path().join("crashed");
    copy_open_store(&dir.path().join("store"), &crashed);
    damage_newest_state(&crashed);
    let store = open(&crashed);
    assert_eq!(store.snapshot(stream(0), 1).unwrap(), Some(snapshot(3, 1, 40_000)));
    drop(store);
    let report = verify(&crashed, dir.path()).unwrap();
    let [finding] = &report.findings[..] else { panic!("{report:?}") };
    assert!(finding.place.starts_with("state snapshot"), "{finding}");
}

/// Changes a byte in the newest state's last part, through sled, which then vouches for it.
fn damage_newest_state(folder: &Path) {
    let config = sled::Config::new().path(folder.join("log")).segment_size(4 << 20);
    let tree = config.open().unwrap();
    let (key, value) = tree.range(vec![b'S']..vec![b'T']).next_back().unwrap().unwrap();
    let mut value = value.to_vec();
    value[100] ^= 1;
    tree.insert(key, value).unwrap();
}
