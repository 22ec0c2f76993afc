//! Long logs: what is kept of them shortens the way to a moment, and changes no answer.

use super::damage::long_log;
use super::folded;
use lifeboat::domain::entity::{Commit, NewCommit};
use lifeboat::ports::event_store::EventStore;
use lifeboat::replay::{Checkpoints, History, Moment, Past, keep};
use lifeboat::store::SledStore;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

fn as_new(commit: Commit) -> NewCommit {
    let Commit { stream, seq, global: _, at, actor, correlation, causation, entry } = commit;
    NewCommit { stream, expected_seq: seq - 1, at, actor, correlation, causation, entry }
}

async fn filled(folder: &Path, commits: impl Iterator<Item = Commit>) -> SledStore {
    let store = SledStore::open(folder).unwrap();
    append(&store, commits).await;
    store
}

async fn append(store: &SledStore, commits: impl Iterator<Item = Commit>) {
    let mut commits = commits.peekable();
    while commits.peek().is_some() {
        store.append_in_order(commits.by_ref().take(10_000).map(as_new).collect()).await.unwrap();
    }
}

/// Everything that a folder's log holds, with what is kept and without.
fn read(folder: &Path, kept: &Checkpoints) -> Past {
    let past = folded(&mut History::of_store_kept(folder, kept).unwrap());
    assert_eq!(past, folded(&mut History::of_store(folder).unwrap()));
    past
}

/// Flips a bit in every copy of a record.
fn damage(folder: &Path, global: u64) {
    let db = folder.join("log/db");
    let bytes = fs::read(&db).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&db).unwrap();
    for at in memchr::memmem::find_iter(&bytes, b"LBE1") {
        if bytes.get(at + 16..at + 24) == Some(&global.to_le_bytes()) {
            file.write_all_at(&[bytes[at + 60] ^ 0x20], at as u64 + 60).unwrap();
        }
    }
}

#[tokio::test]
async fn where_commits_lie_is_kept_and_whatever_is_wrong_with_it_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events");
    let kept = Checkpoints::in_folder(&folder.path().join("replay"));
    let places = folder.path().join("replay/places");
    let all = long_log(64_000);
    let store = filled(&log, all[..60_000].iter().cloned()).await;
    assert_eq!(read(&log, &kept).position, 60_000);
    let first = fs::read(&places).unwrap();
    // What is written since is found, while the log is open and afterwards.
    append(&store, all[60_000..].iter().cloned()).await;
    assert_eq!(read(&log, &kept).position, 64_000);
    store.close().unwrap();
    let whole = read(&log, &kept);
    assert_eq!((whole.position, whole.damage.len()), (64_000, 0));
    assert_eq!(whole.site, folded(&mut History::Commits(all.clone())).site);
    // A torn file, or that of another log, is as good as none.
    for other in [&first[..first.len() / 2], b"noise"] {
        fs::write(&places, other).unwrap();
        assert_eq!(read(&log, &kept), whole);
    }
    let another = folder.path().join("another");
    let others = all[..50_500].iter().map(|it| Commit { actor: "somebody".into(), ..it.clone() });
    filled(&another, others).await.close().unwrap();
    fs::write(&places, &first).unwrap();
    assert_eq!(read(&another, &kept).position, 50_500);
    // What is damaged since is named, and nothing else is lost.
    fs::write(&places, &first).unwrap();
    damage(&log, 30_000);
    let past = read(&log, &kept);
    assert_eq!(past.position, 64_000);
    let said: Vec<_> = past.damage.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["commit 30000: is missing"]);
}

#[tokio::test]
async fn a_service_keeps_what_the_first_look_into_its_log_goes_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("events");
    let kept = Checkpoints::in_folder(&folder.path().join("replay"));
    let all = long_log(101_000);
    for part in [&all[..100_500], &all[100_500..]] {
        let store = Arc::new(filled(&log, part.iter().cloned()).await);
        let shared: Arc<dyn EventStore> = Arc::clone(&store) as Arc<dyn EventStore>;
        let keeping = tokio::spawn(keep(shared, log.clone(), kept.clone()));
        while fs::read_dir(folder.path().join("replay")).map_or(0, Iterator::count) < 2 {
            tokio::task::yield_now().await;
        }
        store.close().unwrap();
        keeping.await.unwrap();
    }
    // Where the log is not read from its beginning, what is missing there is not met.
    damage(&log, 50_000);
    let wanted = Moment::Position(100_900);
    let past = History::of_store(&log).unwrap().past(wanted, Some(&kept)).unwrap();
    assert_eq!((past.position, past.damage.len()), (100_900, 0));
    assert_eq!(past.site, folded(&mut History::Commits(all[..100_900].to_vec())).site);
}
