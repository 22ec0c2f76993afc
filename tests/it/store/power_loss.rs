//! Power loss: whatever the disk had not been told to keep is gone or torn, and every acknowledged
//! commit is there. And what happens when the disk refuses to keep something.

use super::kill::Random;
use super::syscall_trace::{self, Deed, Disk};
use super::{commit_of_bytes, is_commit_of_bytes, open};
use lifeboat::domain::entity::Commit;
use lifeboat::ports::event_store::{EventStore, StoreError};
use lifeboat::store::SledStore;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::{TempDir, tempdir};

const ROOT: &str = "TRACE_ROOT";
const WRITERS: u64 = 6;

/// How much the recorded process appends.
#[derive(Clone, Copy)]
struct Life {
    /// Its name in [`LIFE`].
    name: &'static str,
    /// Commits of each writer, each time that the store is open.
    each: u64,
    /// Bytes of every third commit.
    bytes: usize,
}

const LIFE: &str = "LIFEBOAT_TEST_LIFE";

/// Several of sled's segments are filled, given up and used again.
const SHORT: Life = Life { name: "short", each: 90, bytes: 20_000 };

/// Sled has to write a page table while the store is open.
const LONG: Life = Life { name: "long", each: 450, bytes: 40_000 };

/// Not a test of its own: the process whose deeds are recorded. Acknowledged commits are lines of the
/// file `acks`, so that the record holds them in order with everything else.
#[test]
fn child_that_appends_and_notes_what_was_acknowledged() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let acks = OpenOptions::new().create(true).append(true).open(root.join("acks")).unwrap();
    let acks = Arc::new(Mutex::new(acks));
    let life = std::env::var(LIFE).unwrap();
    let life = [SHORT, LONG].into_iter().find(|known| known.name == life).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for generation in 0..2 {
        let store = Arc::new(open(&root.join("store")));
        runtime.block_on(async {
            let writers = (0..WRITERS).map(|nth| {
                let (store, acks) = (Arc::clone(&store), Arc::clone(&acks));
                tokio::spawn(append_some(life, store, acks, nth, generation))
            });
            for writer in writers.collect::<Vec<_>>() {
                writer.await.unwrap();
            }
        });
        store.close().unwrap();
    }
}

async fn append_some(
    life: Life,
    store: Arc<SledStore>,
    acks: Arc<Mutex<std::fs::File>>,
    nth: u64,
    generation: u64,
) {
    for seq in generation * life.each..(generation + 1) * life.each {
        let bytes = if seq % 3 == 0 { life.bytes } else { 100 };
        let appended = store.append(commit_of_bytes(nth, seq, bytes)).await.unwrap();
        let line = format!("{}\n", appended.global);
        acks.lock().unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// The deeds of a whole life of a store; `None` without a C compiler.
fn record(test: &str, life: Life, setting: Option<(&str, &str)>) -> Option<(Vec<Deed>, TempDir)> {
    let dir = tempdir().unwrap();
    let shim = syscall_trace::build(test, dir.path())?;
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let trace = dir.path().join("trace");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("store::power_loss::child_that_appends_and_notes_what_was_acknowledged")
        .env("LD_PRELOAD", shim)
        .env("TRACE_OUT", &trace)
        .env(ROOT, &root)
        .env(LIFE, life.name)
        .envs(setting)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some((syscall_trace::read(&trace, &root), dir))
}

/// What the store answers after power was lost before deed number `cut`, and what was acknowledged.
fn after_power_loss(
    deeds: &[Deed],
    cut: usize,
    torn: bool,
    random: &mut Random,
) -> (Vec<u64>, Result<Vec<Commit>, StoreError>) {
    let mut disk = Disk::default();
    let mut acknowledged = Vec::new();
    for deed in &deeds[..cut] {
        match deed {
            Deed::Write { path, bytes, .. } if path.ends_with("acks") => {
                let line = std::str::from_utf8(bytes).unwrap();
                acknowledged.push(line.trim().parse().unwrap());
            }
            _ => {}
        }
        disk.perform(deed);
    }
    let image = tempdir().unwrap();
    disk.lose_power(image.path(), torn, random);
    let store = image.path().join("store");
    let held = SledStore::open(&store).and_then(|store| store.read_all(1, usize::MAX));
    (acknowledged, held)
}

fn is_sound(life: Life, commit: &Commit) -> bool {
    let bytes = if (commit.seq - 1).is_multiple_of(3) { life.bytes } else { 100 };
    is_commit_of_bytes(commit, bytes)
}

/// Loses power at each cut and checks that every acknowledged commit is there; returns in how many
/// cases there was one.
fn check_cuts(life: Life, deeds: &[Deed], cuts: impl Iterator<Item = usize>) -> usize {
    let mut random = Random(4712);
    let mut with_commits = 0;
    for (trial, cut) in cuts.enumerate() {
        let (acknowledged, held) = after_power_loss(deeds, cut, trial % 2 == 1, &mut random);
        let held = held.unwrap_or_else(|error| panic!("trial {trial}, cut {cut}: {error}"));
        assert!(held.iter().all(|commit| is_sound(life, commit)), "trial {trial}, cut {cut}");
        let last = acknowledged.iter().max().copied().unwrap_or(0);
        assert!(last <= held.len() as u64, "trial {trial}, cut {cut}: {last} > {}", held.len());
        with_commits += usize::from(0 < last);
    }
    with_commits
}

#[test]
fn every_acknowledged_commit_survives_a_power_loss() {
    let test = "every_acknowledged_commit_survives_a_power_loss";
    let Some((deeds, _dir)) = record(test, SHORT, None) else { return };
    let mut random = Random(4711);
    let cuts = (0..30).map(|_| random.below(deeds.len() as u64) as usize);
    assert!(15 < check_cuts(SHORT, &deeds, cuts));
}

#[test]
fn a_power_loss_while_sled_is_made_to_cover_its_log_loses_nothing() {
    let test = "a_power_loss_while_sled_is_made_to_cover_its_log_loses_nothing";
    let Some((deeds, _dir)) = record(test, LONG, None) else { return };
    let is_table = |deed: &Deed| {
        let Deed::Rename { to, .. } = deed else { return false };
        to.file_name().unwrap().to_str().unwrap().starts_with("snap.")
    };
    let appended = |deed: &Deed| matches!(deed, Deed::Write { path, .. } if path.ends_with("acks"));
    let first = deeds.iter().position(appended).unwrap();
    let table = first + deeds[first..].iter().position(is_table).unwrap();
    assert!(deeds[table..].iter().any(appended), "the page table was written by closing");
    let cuts = (table - 6..table + 14).chain([table - 40, table + 60]);
    assert_eq!(check_cuts(LONG, &deeds, cuts), 22);
}

/// The test above must be able to fail: without the `fdatasync` after sled's flush, what was
/// acknowledged is lost. And even then the watermark does not let it pass.
#[test]
fn without_the_sync_of_sleds_file_commits_would_be_lost_and_the_loss_is_noticed() {
    let test = "without_the_sync_of_sleds_file_commits_would_be_lost_and_the_loss_is_noticed";
    let Some((deeds, _dir)) = record(test, SHORT, Some(("TRACE_DEAF_DB", "1"))) else { return };
    let mut random = Random(4711);
    let mut lost = 0;
    for trial in 0..12 {
        let cut = random.below(deeds.len() as u64) as usize;
        match after_power_loss(&deeds, cut, trial % 2 == 1, &mut random) {
            (acknowledged, Ok(held)) => {
                let last = acknowledged.iter().max().copied().unwrap_or(0);
                assert!(last <= held.len() as u64, "{last} acknowledged, {} held", held.len());
            }
            (_, Err(_)) => lost += 1,
        }
    }
    assert!(0 < lost, "nothing was lost without the sync: the model is too kind");
}

const FAILING: &str = "LIFEBOAT_TEST_FAILING_FOLDER";

/// Not a test of its own: the process whose disk refuses to keep the eleventh group.
#[test]
fn child_whose_disk_fails() {
    let Some(folder) = std::env::var_os(FAILING).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = open(&folder);
        let mut acknowledged = 0;
        let because = loop {
            match store.append(commit_of_bytes(1, acknowledged, 100)).await {
                Ok(_) => acknowledged += 1,
                Err(StoreError::Stopped { because }) => break because,
                Err(error) => panic!("{error}"),
            }
        };
        assert!(because.contains("sync") && because.contains("/db"), "{because}");
        match store.append(commit_of_bytes(2, 0, 100)).await {
            Err(StoreError::Stopped { because: again }) => assert_eq!(again, because),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.durable(), acknowledged);
        assert_eq!(store.read_all(1, usize::MAX).unwrap().len() as u64, acknowledged);
        assert!(store.durable_after(acknowledged).await.is_err());
        assert!(store.close().is_err());
        std::fs::write(folder.join("acknowledged"), acknowledged.to_string()).unwrap();
    });
}

#[test]
fn a_failed_sync_stops_the_store_for_good_and_says_why() {
    let dir = tempdir().unwrap();
    let test = "a_failed_sync_stops_the_store_for_good_and_says_why";
    let Some(shim) = syscall_trace::build(test, dir.path()) else { return };
    let folder = dir.path().join("store");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "store::power_loss::child_whose_disk_fails"])
        .env("LD_PRELOAD", shim)
        .env(ROOT, dir.path())
        .env("TRACE_FAIL_DB_AFTER", "12")
        .env(FAILING, &folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let acknowledged: usize = read_number(&folder.join("acknowledged"));
    let held = open(&folder).read_all(1, usize::MAX).unwrap();
    assert!(0 < acknowledged && acknowledged <= held.len(), "{acknowledged}, {}", held.len());
}

fn read_number(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}
