//! Appending, reading and following.

use super::{
    commit, commit_of_bytes, copy_open_store, fill, is_commit_of_bytes, open, read_everything,
    stream,
};
use lifeboat::domain::entity::{Entity, Kind, StreamId};
use lifeboat::domain::vault::{Command, Vault};
use lifeboat::ports::event_store::{EventStore, StoreError};
use lifeboat::store::{MemoryStore, SledStore};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::tempdir;

#[tokio::test]
async fn commits_are_numbered_in_their_stream_and_over_all() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let first = store.append(commit(1, 0)).await.unwrap();
    let second = store.append(commit(2, 0)).await.unwrap();
    let third = store.append(commit(1, 1)).await.unwrap();
    assert_eq!([first.global, second.global, third.global], [1, 2, 3]);
    assert_eq!([first.seq, second.seq, third.seq], [1, 1, 2]);
    assert_eq!(store.read_stream(stream(1), 1, 9).unwrap(), [first.clone(), third.clone()]);
    assert_eq!(store.read_stream(stream(1), 2, 9).unwrap(), std::slice::from_ref(&third));
    assert_eq!(store.read_stream(stream(1), 1, 1).unwrap(), [first]);
    assert_eq!(store.read_stream(stream(1), 3, 9).unwrap(), []);
    assert_eq!(store.read_stream(stream(7), 1, 9).unwrap(), []);
    assert_eq!(store.read_all(2, 9).unwrap(), [second, third]);
    assert_eq!(store.read_all(4, 9).unwrap(), []);
    assert_eq!(store.streams().unwrap(), [(stream(1), 2), (stream(2), 1)]);
    assert_eq!(store.durable(), 3);
}

#[tokio::test]
async fn an_append_on_an_old_sequence_number_is_refused_and_changes_nothing() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    fill(&store, 12, 40).await;
    for expected in [0, 1, 4, 9] {
        match store.append(commit(0, expected)).await {
            Err(StoreError::WrongSequence { expected: told, actual }) => {
                assert_eq!((told, actual), (expected, 3));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.durable(), 12);
    assert_eq!(store.append(commit(0, 3)).await.unwrap().global, 13);
}

#[tokio::test]
async fn a_commit_over_the_limit_is_refused_with_the_limit() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    match store.append(commit_of_bytes(1, 0, 50_000)).await {
        Err(StoreError::TooLarge { bytes, limit }) => assert!(limit < bytes && limit < 50_000),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.durable(), 0);
    let large = store.append(commit_of_bytes(1, 0, 48_000)).await.unwrap();
    assert_eq!(store.read_all(1, 1).unwrap(), [large]);
}

#[tokio::test]
async fn an_entry_of_another_kind_than_its_stream_is_refused() {
    let entry = Vault::entry(Command::ReportReachable, vec![]);
    let stream = StreamId { kind: Kind::Host, ..commit(1, 0).stream };
    let wrong = lifeboat::domain::entity::NewCommit { stream, entry, ..commit(1, 0) };
    let dir = tempdir().unwrap();
    let stores: [Box<dyn EventStore>; 2] =
        [Box::new(open(dir.path())), Box::new(MemoryStore::default())];
    for store in stores {
        let refused = store.append(wrong.clone()).await;
        assert!(matches!(refused, Err(StoreError::WrongKind { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn large_commits_never_leave_the_one_file_that_is_synced() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    fill(&store, 150, 47_000).await;
    let blobs = std::fs::read_dir(dir.path().join("log/blobs")).unwrap().count();
    assert_eq!(blobs, 0);
    store.close().unwrap();
    assert_eq!(open(dir.path()).read_all(1, usize::MAX).unwrap().len(), 150);
}

/// 64 writers, each to a stream of its own and, every third time, to one that all want.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_get_one_gapless_order_and_each_sees_what_was_acknowledged() {
    const WRITERS: u64 = 64;
    const EACH: u64 = 30;
    let dir = tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut globals = Vec::new();
                for seq in 0..EACH {
                    let appended = store.append(commit(writer, seq)).await.unwrap();
                    assert!(appended.global <= store.durable());
                    let found = store.read_stream(appended.stream, appended.seq, 1).unwrap();
                    assert_eq!(found, std::slice::from_ref(&appended));
                    globals.push(appended.global);
                    if seq % 3 == 0 {
                        globals.push(append_to_contended(&store).await);
                    }
                }
                globals
            })
        })
        .collect();
    let mut acknowledged = BTreeSet::new();
    for task in tasks {
        for global in task.await.unwrap() {
            assert!(acknowledged.insert(global), "{global} was given out twice");
        }
    }
    let count = WRITERS * (EACH + EACH / 3);
    assert!(acknowledged.iter().copied().eq(1..=count));
    let globals = store.read_all(1, usize::MAX).unwrap();
    assert!(globals.iter().map(|commit| commit.global).eq(1..=count));
    let contended = store.read_stream(stream(1000), 1, usize::MAX).unwrap();
    assert!(contended.iter().map(|commit| commit.seq).eq(1..=WRITERS * EACH / 3));
}

async fn append_to_contended(store: &SledStore) -> u64 {
    let mut expected = 0;
    loop {
        match store.append(commit(1000, expected)).await {
            Ok(appended) => return appended.global,
            Err(StoreError::WrongSequence { actual, .. }) => expected = actual,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_follower_sees_every_commit_once_and_the_end_of_the_store() {
    let dir = tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let follower = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut seen = Vec::new();
            while store.durable_after(seen.len() as u64).await.is_ok() {
                let commits = store.read_all(seen.len() as u64 + 1, 7).unwrap();
                seen.extend(commits.into_iter().map(|commit| commit.global));
                if seen.len() == 40 {
                    break;
                }
            }
            seen
        }
    });
    fill(&store, 40, 10).await;
    assert!(follower.await.unwrap().into_iter().eq(1..=40));
    store.close().unwrap();
    assert!(matches!(store.durable_after(40).await, Err(StoreError::Stopped { .. })));
    assert_eq!(store.durable_after(39).await.unwrap(), 40);
    assert!(matches!(store.append(commit(9, 0)).await, Err(StoreError::Stopped { .. })));
    assert!(matches!(store.read_all(1, 1), Err(StoreError::Stopped { .. })));
}

#[tokio::test]
async fn a_store_that_is_opened_again_goes_on_where_it_was() {
    let dir = tempdir().unwrap();
    let mut commits = Vec::new();
    for _ in 0..3 {
        let store = open(dir.path());
        assert_eq!(store.read_all(1, usize::MAX).unwrap(), commits);
        commits.extend(fill(&store, 700, 20).await);
        store.close().unwrap();
        store.close().unwrap();
    }
    assert_eq!(open(dir.path()).streams().unwrap().len(), 5);
}

#[tokio::test]
async fn a_folder_is_opened_by_one_at_a_time() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    assert!(matches!(SledStore::open(dir.path()), Err(StoreError::InUse { .. })));
    drop(store);
    open(dir.path());
}

/// A child has copies of all open files, and their locks, until it runs its program.
#[tokio::test]
async fn a_store_can_be_opened_again_while_children_are_started() {
    let stop = Arc::new(AtomicBool::new(false));
    let starting = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Relaxed) {
                std::process::Command::new("true").status().unwrap();
            }
        }
    });
    let dir = tempdir().unwrap();
    for count in 0..30 {
        let store = open(dir.path());
        assert_eq!(store.durable(), count);
        fill(&store, 1, 10).await;
        store.close().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    starting.join().unwrap();
}

#[tokio::test]
async fn replay_hands_over_what_reading_returns() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let commits = fill(&store, 300, 100).await;
    let mut replayed = Vec::new();
    store.replay(101, &mut |commit| replayed.push(commit)).unwrap();
    assert_eq!(replayed, commits[100..]);
}

fn page_tables(store: &Path) -> Vec<String> {
    let names = std::fs::read_dir(store.join("log")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("snap.")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_opening_after_a_kill_has_to_walk_is_bounded() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("store");
    let store = Arc::new(open(&folder));
    let before = page_tables(&folder);
    let reader = {
        let store = Arc::clone(&store);
        std::thread::spawn(move || {
            let mut read = 0;
            while read < 1700 {
                let commits = store.read_all(read + 1, 100).unwrap();
                assert!(commits.iter().all(|commit| is_commit_of_bytes(commit, 40_000)));
                read += commits.len() as u64;
            }
        })
    };
    let written = fill(&store, 1700, 40_000).await;
    reader.join().unwrap();
    assert_ne!(page_tables(&folder), before, "68 MB without a page table");
    let killed = dir.path().join("killed");
    copy_open_store(&folder, &killed);
    assert_eq!(read_everything(&killed).unwrap(), written);
    assert_eq!(store.read_all(1, usize::MAX).unwrap(), written);
}
