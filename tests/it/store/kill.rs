//! kill -9 at random instants: nothing acknowledged is lost, nothing is numbered twice, and the store
//! opens every time.

use super::{commit_of_bytes, is_commit_of_bytes, open};
use lifeboat::ports::event_store::EventStore;
use lifeboat::store::SledStore;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tempfile::tempdir;

const FOLDER: &str = "LIFEBOAT_TEST_KILL_FOLDER";
const BYTES: usize = 150;
const WRITERS: u64 = 8;

/// Not a test of its own: the process that is killed.
#[test]
#[expect(clippy::print_stdout, reason = "its output is how it tells what was acknowledged")]
fn child_that_appends_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = Arc::new(open(Path::new(&folder)));
    let held = store.read_all(1, usize::MAX).unwrap();
    assert!(held.iter().all(|commit| is_commit_of_bytes(commit, BYTES)));
    println!("\nOPENED {}", held.len());
    runtime.block_on(async {
        let tasks: Vec<_> =
            (0..WRITERS).map(|nth| tokio::spawn(append_forever(Arc::clone(&store), nth))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[expect(clippy::print_stdout, reason = "its output is how it tells what was acknowledged")]
async fn append_forever(store: Arc<SledStore>, nth: u64) {
    let streams = store.streams().unwrap();
    let known = streams.iter().find(|(stream, _)| *stream == super::stream(nth));
    let mut seq = known.map_or(0, |(_, seq)| *seq);
    loop {
        let appended = store.append(commit_of_bytes(nth, seq, BYTES)).await.unwrap();
        seq = appended.seq;
        println!("\nACK {} {nth} {seq}", appended.global);
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_hundred_kills() {
    let loops: Vec<_> =
        (0..2_u64).map(|seed| std::thread::spawn(move || kill_often(seed, 50))).collect();
    let acknowledged: usize = loops.into_iter().map(|it| it.join().unwrap()).sum();
    assert!(500 < acknowledged, "only {acknowledged} commits were acknowledged");
}

/// Kills `kills` writers; a fresh store every ten.
fn kill_often(seed: u64, kills: u64) -> usize {
    let mut random = Random(0x9e37_79b9 + seed);
    let mut total = 0;
    for _ in 0..kills / 10 {
        let dir = tempdir().unwrap();
        let mut acknowledged = BTreeMap::new();
        for kill in 0..10 {
            let once_open = kill % 2 == 1;
            kill_once(dir.path(), once_open, random.below(60), &mut acknowledged);
        }
        check(dir.path(), &acknowledged);
        total += acknowledged.len();
    }
    total
}

/// Starts a writer and kills it `after_ms` later, or that long after it has opened its store.
fn kill_once(
    folder: &Path,
    once_open: bool,
    after_ms: u64,
    acknowledged: &mut BTreeMap<u64, (u64, u64)>,
) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "store::kill::child_that_appends_until_it_is_killed"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (opened, is_open) = mpsc::channel();
    let killer = std::thread::spawn(move || {
        if once_open {
            is_open.recv().unwrap();
        }
        std::thread::sleep(Duration::from_millis(after_ms));
        child.kill().unwrap();
        child.wait().unwrap()
    });
    let before = acknowledged.len();
    for line in stdout.split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["OPENED", held] => {
                opened.send(()).unwrap_or_default();
                assert!(
                    before <= held.parse::<usize>().unwrap(),
                    "{held} held, {before} acknowledged"
                );
            }
            ["ACK", global, nth, seq] if seq.parse::<u64>().is_ok() => {
                let place = (nth.parse().unwrap(), seq.parse().unwrap());
                let twice = acknowledged.insert(global.parse().unwrap(), place);
                assert_eq!(twice, None, "{global} was acknowledged twice");
            }
            _ => assert!(!line.contains("panicked"), "{line}"),
        }
    }
    let status = killer.join().unwrap();
    assert_eq!(status.signal(), Some(9), "the writer ended by itself: {status}");
}

fn check(folder: &Path, acknowledged: &BTreeMap<u64, (u64, u64)>) {
    let store = open(folder);
    let held = store.read_all(1, usize::MAX).unwrap();
    assert!(held.iter().map(|commit| commit.global).eq(1..=held.len() as u64));
    assert!(held.iter().all(|commit| is_commit_of_bytes(commit, BYTES)));
    for (global, (nth, seq)) in acknowledged {
        let commit = &held[usize::try_from(*global).unwrap() - 1];
        assert_eq!((commit.stream, commit.seq), (super::stream(*nth), *seq));
    }
    for (stream, last) in store.streams().unwrap() {
        let commits = store.read_stream(stream, 1, usize::MAX).unwrap();
        assert!(commits.iter().map(|commit| commit.seq).eq(1..=last));
    }
}

/// A small generator, so that a failure can be repeated.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit.max(1)
    }
}
