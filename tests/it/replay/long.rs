//! Long logs: what is kept of them shortens the way to a moment, and changes no answer.

use super::damage::long_log;
use super::folded;
use lifeboat::domain::entity::{Commit, NewCommit};
use lifeboat::ports::event_store::EventStore;
use lifeboat::replay::{Checkpoints, History, Moment, Past, StatesOfExport, keep, verify};
use lifeboat::store::{MemoryStore, SledStore, jsonl};
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

/// Exports commits, with the states that `seen` leads to.
fn exported(file: &Path, commits: &[Commit], seen: impl Fn(&Commit) -> Commit) {
    let store = MemoryStore::of_this_build(commits.to_vec()).unwrap();
    let mut states = StatesOfExport::default();
    let mut state_after = |commit: &Commit, place| states.after(&seen(commit), place);
    let mut out = std::io::BufWriter::new(fs::File::create(file).unwrap());
    jsonl::export(&store, &mut state_after, &mut out).unwrap();
}

#[test]
fn an_exported_log_has_states_with_it_which_the_first_look_goes_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.jsonl");
    let all = long_log(201_000);
    exported(&file, &all, Clone::clone);
    let verified = verify(&mut History::of_file(&file).unwrap(), vec![]).unwrap();
    assert_eq!((verified.commits, verified.snapshots), (201_000, 2));
    assert!(verified.damage.is_empty() && verified.wrong_snapshots.is_empty());
    let whole = folded(&mut History::of_file(&file).unwrap());
    assert_eq!(whole.site, folded(&mut History::Commits(all.clone())).site);
    // Damage at the beginning is not met where reading begins behind it.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen(r#""seq":9,"#, r#""seq":8,"#, 1)).unwrap();
    let mut history = History::of_file(&file).unwrap();
    let at = |history: &mut History, moment| history.past(moment, None).unwrap();
    let late = at(&mut history, Moment::Position(200_500));
    assert_eq!((late.position, late.damage.len()), (200_500, 0));
    assert_eq!(late.site, folded(&mut History::Commits(all[..200_500].to_vec())).site);
    let by_time = at(&mut history, Moment::Time(all[150_000].at));
    assert_eq!((by_time.position, by_time.damage.len()), (150_001, 0));
    assert_eq!(at(&mut history, Moment::Position(99_999)).damage.len(), 1);
    // Without the last line, every commit is read.
    let end = text.trim_end().rfind('\n').unwrap();
    fs::write(&file, &text[..=end]).unwrap();
    assert_eq!(at(&mut History::of_file(&file).unwrap(), Moment::Position(u64::MAX)), whole);
}

#[test]
fn states_of_an_exported_log_that_its_commits_do_not_lead_to_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.jsonl");
    let all = long_log(100_001);
    let other = |commit: &Commit| {
        let text = serde_json::to_string(commit).unwrap().replace("host-1", "host-2");
        serde_json::from_str(&text).unwrap()
    };
    exported(&file, &all, other);
    let verified = verify(&mut History::of_file(&file).unwrap(), vec![]).unwrap();
    let found = "states behind the log after commit 100000: are not what its commits fold to";
    assert_eq!((verified.wrong_snapshots, verified.snapshots), (vec![found.to_owned()], 1));
}
