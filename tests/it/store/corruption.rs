//! Damage to every file of a store: what is read is what was written, or it is an error that `verify`
//! can explain. Never fewer commits, and never a panic.

use super::kill::Random;
use super::{copy_folder, copy_open_store, fill, open, read_everything};
use lifeboat::domain::entity::Commit;
use lifeboat::ports::event_store::EventStore;
use lifeboat::store::verify::{Report, verify};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

const BYTES: usize = 1500;
const COMMITS: u64 = 1200;

/// A store that was closed in good order, and the same one as it was when its process was killed.
struct Stores {
    dir: TempDir,
    commits: Vec<Commit>,
}

impl Stores {
    async fn fill() -> Self {
        let dir = tempdir().unwrap();
        let folder = dir.path().join("closed");
        let store = open(&folder);
        fill(&store, COMMITS / 3, BYTES).await;
        drop(store);
        let store = open(&folder);
        fill(&store, COMMITS - COMMITS / 3, BYTES).await;
        let commits = store.read_all(1, usize::MAX).unwrap();
        copy_open_store(&folder, &dir.path().join("killed"));
        store.close().unwrap();
        Self { dir, commits }
    }

    fn files(&self, state: &str) -> Vec<PathBuf> {
        let folder = self.dir.path().join(state);
        let mut files: Vec<_> = ["HEAD", "log/conf", "log/db"].map(PathBuf::from).to_vec();
        for entry in fs::read_dir(folder.join("log")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            files.extend(name.starts_with("snap.").then(|| Path::new("log").join(name)));
        }
        files
    }

    /// Damages a copy, opens it, reads it, and judges the outcome. Returns whether it was an error.
    fn try_damage(&self, state: &str, what: &str, damage: impl FnOnce(&Path)) -> Option<Report> {
        let copy = self.dir.path().join("copy");
        copy_folder(&self.dir.path().join(state), &copy);
        damage(&copy);
        let outcome = match read_everything(&copy) {
            Ok(held) => {
                assert!(held == self.commits, "{what}: {} commits, or other ones", held.len());
                None
            }
            Err(error) => {
                let report = verify(&copy, self.dir.path()).unwrap();
                assert!(!report.findings.is_empty(), "{what}: {error}, but verify finds nothing");
                Some(report)
            }
        };
        fs::remove_dir_all(&copy).unwrap();
        outcome
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    FlipBit,
    Zero(u64),
    Truncate,
}

fn inflict(file: &Path, damage: Damage, at: u64) {
    let open = OpenOptions::new().read(true).write(true).open(file).unwrap();
    match damage {
        Damage::FlipBit => {
            let mut byte = [0];
            open.read_exact_at(&mut byte, at).unwrap();
            open.write_all_at(&[byte[0] ^ 1 << (at % 8)], at).unwrap();
        }
        Damage::Zero(bytes) => {
            let bytes = bytes.min(open.metadata().unwrap().len() - at);
            open.write_all_at(&vec![0; bytes as usize], at).unwrap();
        }
        Damage::Truncate => open.set_len(at).unwrap(),
    }
}

/// How much of a file has anything in it.
fn used_bytes(file: &Path) -> u64 {
    fs::read(file).unwrap().iter().rposition(|byte| *byte != 0).map_or(1, |at| at as u64 + 1)
}

#[tokio::test]
async fn damage_anywhere_is_harmless_or_an_error_that_verify_explains() {
    let stores = Stores::fill().await;
    let mut random = Random(99);
    let (mut harmless, mut errors) = (0, 0);
    for state in ["closed", "killed"] {
        for file in stores.files(state) {
            let used = used_bytes(&stores.dir.path().join(state).join(&file));
            let trials = if file.ends_with("db") { 8 } else { 2 };
            for damage in [Damage::FlipBit, Damage::Zero(512), Damage::Zero(4096), Damage::Truncate]
            {
                for _ in 0..trials {
                    let at = random.below(used);
                    let what = format!("{state}, {damage:?} of {} at {at}", file.display());
                    let report = stores
                        .try_damage(state, &what, |copy| inflict(&copy.join(&file), damage, at));
                    match report {
                        None => harmless += 1,
                        Some(report) => {
                            errors += 1;
                            check_recoverable(&report, damage, &what);
                        }
                    }
                }
            }
        }
    }
    assert!(20 < errors && 10 < harmless, "{errors} errors, {harmless} harmless");
}

/// Opening a damaged store, which has been tried before `verify`, destroys nothing; what small damage
/// did not hit can be got back.
fn check_recoverable(report: &Report, damage: Damage, what: &str) {
    let recoverable = report.recoverable.as_ref().unwrap();
    let missing: u64 = recoverable.missing.iter().map(|gap| gap.end() - gap.start() + 1).sum();
    assert_eq!(recoverable.commits + missing, COMMITS, "{what}");
    let of_streams: u64 =
        recoverable.missing_of_streams.iter().map(|(_, gap)| gap.end() - gap.start() + 1).sum();
    assert!(of_streams <= missing, "{what}");
    match damage {
        Damage::FlipBit | Damage::Zero(_) => {
            assert!(missing <= 6, "{what}: {missing} missing, {:?}", report.findings);
        }
        Damage::Truncate => {}
    }
}

#[tokio::test]
async fn a_missing_file_is_harmless_or_an_error() {
    let stores = Stores::fill().await;
    for state in ["closed", "killed"] {
        for file in stores.files(state) {
            let what = format!("{state} without {}", file.display());
            let report = stores.try_damage(state, &what, |copy| {
                fs::remove_file(copy.join(&file)).unwrap();
            });
            let must_fail = file.ends_with("HEAD") || file.ends_with("db");
            assert!(!must_fail || report.is_some(), "{what}");
        }
        let what = format!("{state} without log");
        let report =
            stores.try_damage(state, &what, |copy| fs::remove_dir_all(copy.join("log")).unwrap());
        assert!(report.is_some(), "{what}");
    }
}

#[tokio::test]
async fn an_older_log_under_a_newer_watermark_is_refused() {
    let dir = tempdir().unwrap();
    let (folder, older) = (dir.path().join("store"), dir.path().join("older"));
    let store = open(&folder);
    fill(&store, 10, 100).await;
    drop(store);
    copy_folder(&folder, &older);
    let store = open(&folder);
    fill(&store, 10, 100).await;
    drop(store);
    fs::remove_dir_all(folder.join("log")).unwrap();
    copy_folder(&older.join("log"), &folder.join("log"));
    let error = read_everything(&folder).unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("lifeboat events verify"), "{error}");
    let report = verify(&folder, dir.path()).unwrap();
    assert_eq!((report.commits, report.acknowledged), (10, Some(20)));
    assert_eq!(report.recoverable.unwrap().missing, [11..=20]);
}

/// What sled has moved elsewhere, it overwrites; even the segment in which its page table ends.
#[tokio::test]
async fn segments_that_were_used_again_since_the_opening_are_no_damage() {
    let dir = tempdir().unwrap();
    let (folder, killed) = (dir.path().join("store"), dir.path().join("killed"));
    let store = open(&folder);
    fill(&store, 40, 40_000).await;
    drop(store);
    let store = open(&folder);
    for _ in 0..6 {
        fill(&store, 100, 40_000).await;
        copy_open_store(&folder, &killed);
        assert_eq!(read_everything(&killed).unwrap().len() as u64, store.durable());
        fs::remove_dir_all(&killed).unwrap();
    }
}

/// sled writes its page table when it is opened, the watermark follows: a crash can come in between.
#[tokio::test]
async fn an_opening_that_was_cut_off_after_sleds_page_table_is_no_damage() {
    let stores = Stores::fill().await;
    let log = stores.dir.path().join("killed/log");
    let page_tables = || {
        let names = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("snap.")).collect::<Vec<_>>()
    };
    let before = page_tables();
    drop(sled::Config::new().path(&log).segment_size(4 << 20).open().unwrap());
    assert_ne!(page_tables(), before);
    assert!(read_everything(&stores.dir.path().join("killed")).unwrap() == stores.commits);
}

#[tokio::test]
async fn verify_finds_nothing_in_a_sound_store_and_changes_nothing() {
    let stores = Stores::fill().await;
    for state in ["closed", "killed"] {
        let folder = stores.dir.path().join(state);
        let contents = || -> Vec<_> {
            let files = stores.files(state);
            files.iter().map(|file| fs::read(folder.join(file)).unwrap()).collect()
        };
        let before = contents();
        let report = verify(&folder, stores.dir.path()).unwrap();
        assert_eq!(report.findings, [], "{state}");
        assert_eq!((report.commits, report.acknowledged), (COMMITS, Some(COMMITS)));
        assert_eq!(report.recoverable, None);
        assert!(before == contents());
    }
}

#[tokio::test]
async fn verify_names_the_commit_that_was_damaged() {
    let stores = Stores::fill().await;
    let copy = stores.dir.path().join("copy");
    copy_folder(&stores.dir.path().join("closed"), &copy);
    let wanted = &stores.commits[700];
    let db = fs::read(copy.join("log/db")).unwrap();
    let payload = lifeboat::store::payload::encode(
        &wanted.actor,
        wanted.correlation,
        wanted.causation,
        &wanted.entry,
    );
    for (at, _) in db.windows(payload.len()).enumerate().filter(|(_, window)| *window == payload) {
        inflict(&copy.join("log/db"), Damage::FlipBit, at as u64 + 50);
    }
    let report = verify(&copy, stores.dir.path()).unwrap();
    let recoverable = report.recoverable.unwrap();
    assert_eq!(recoverable.missing, [701..=701]);
    let [(stream, gap)] = &recoverable.missing_of_streams[..] else { panic!("{recoverable:?}") };
    assert_eq!((stream.id, gap.clone()), (wanted.stream.id, wanted.seq..=wanted.seq));
}
