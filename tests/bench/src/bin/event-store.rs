//! Measures the event store against SQLite (WAL, `synchronous = FULL`) in the same run: one JSON line
//! per row. Rounds are interleaved, figures are medians.
//!
//! `event-store [folder] [seconds per round] [commits]`; the folder should be on the disk that counts.

use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::{Commit, Entity, Entry, Kind, NewCommit, StreamId};
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::{JobId, VaultId};
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{Command, Event, RecoveryPoint, Vm, Work};
use lifeboat::ports::event_store::EventStore;
use lifeboat::store::record::{Record, StreamKey};
use lifeboat::store::{SledStore, payload};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

const WRITERS: u64 = 64;
const ROUNDS: usize = 3;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, folder] = &args[..]
        && let Some(mode) = mode.strip_prefix("child:")
    {
        return child(mode, Path::new(folder));
    }
    let base = args.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = args.get(1).map_or(3.0, |text| text.parse().expect("seconds"));
    let commits = args.get(2).map_or(1_000_000, |text| text.parse().expect("commits"));
    let folder =
        tempfile::Builder::new().prefix("lifeboat-bench").tempdir_in(base).expect("folder");
    writers(folder.path(), Duration::from_secs_f64(seconds), WRITERS);
    writers(folder.path(), Duration::from_secs_f64(seconds), 1);
    full_store(folder.path(), commits);
}

fn row(work: &str, ours: f64, peer: f64, peer_name: &str) {
    let row = serde_json::json!({
        "work": work, "ours": ours, "peer": peer, "peer_name": peer_name, "ratio": ours / peer,
    });
    println!("{row}");
}

/// A commit of about 200 bytes: a delta that was shipped after a slow vault had held up a few others
/// (nine in ten), or a failure in the vault's words.
fn commit(writer: u64, expected_seq: u64) -> NewCommit {
    let id = Uuid::from_u128(u128::from(writer) << 64 | 0x5eed);
    let at = Timestamp::from_millis(1_700_000_000_000 + expected_seq as i64 * 30_000);
    let entry =
        if expected_seq % 10 == 9 { failed(id, expected_seq) } else { shipped(expected_seq, at) };
    NewCommit {
        stream: StreamId { kind: Kind::Vm, id },
        expected_seq,
        at,
        actor: "agent host-0042.primary.example".to_owned(),
        correlation: Some(JobId(id)),
        causation: Some(1 + expected_seq),
        entry,
    }
}

fn shipped(cycle: u64, at: Timestamp) -> Entry {
    let shipped_bytes = 9_000_000 + cycle;
    let point = |cycle| RecoveryPoint { cycle, at, bytes: shipped_bytes };
    let mut events: Vec<Event> = (cycle..cycle + 5)
        .map(|cycle| Event::LogShipped { point: point(cycle + 100_000) })
        .collect();
    events.push(Event::RecoveryPointsExpired { kept_from_cycle: 90_000 + cycle });
    events.push(Event::SnapshotTaken { cycle: cycle + 100_005, at, log_bytes: 12_000_000 });
    Vm::entry(Command::ReportShipped { cycle: cycle + 100_000, shipped_bytes }, events)
}

fn failed(id: Uuid, cycle: u64) -> Entry {
    let failure = Failure::new(Code::VaultBusy, Cause::Vault(VaultId(id)), "503 Server Busy")
        .with("vault", "vault-west-2");
    let work = Work::Snapshot { cycle };
    let due = Timestamp::from_millis(1_700_000_060_000);
    let command = Command::ReportFailure { work, failure: failure.clone() };
    let event = Event::RetryScheduled { work, attempt: 1, due, because: failure };
    Vm::entry(command, vec![event, Event::CycleStarted { cycle: cycle + 1 }])
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    runtime.expect("runtime")
}

/// Appends per second of `writers` concurrent writers, each waiting for its commit to be durable.
fn writers(folder: &Path, time: Duration, writers: u64) {
    let (mut ours, mut grouped, mut single) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(our_rate(&folder.join(format!("ours-{writers}-{round}")), time, writers));
        let file = folder.join(format!("grouped-{writers}-{round}.sqlite"));
        grouped.push(sqlite_grouped_rate(&file, time, writers));
        let file = folder.join(format!("single-{writers}-{round}.sqlite"));
        single.push(sqlite_single_rate(&file, time, writers));
    }
    let work = format!("durable appends a second, {writers} writers");
    let ours = median(ours);
    row(&work, ours, median(grouped), "SQLite WAL FULL, same group commit");
    row(&work, ours, median(single), "SQLite WAL FULL, a transaction and a connection per writer");
}

fn our_rate(folder: &Path, time: Duration, writers: u64) -> f64 {
    let store = Arc::new(SledStore::open(folder).expect("open"));
    let start = Instant::now();
    let appended = runtime().block_on(append_all(&store, writers, move |_| start.elapsed() < time));
    let rate = appended as f64 / start.elapsed().as_secs_f64();
    store.close().expect("close");
    rate
}

/// Lets every writer append to a stream of its own while `go_on`; returns how many were appended.
async fn append_all(
    store: &Arc<SledStore>,
    writers: u64,
    go_on: impl Fn(u64) -> bool + Clone + Send + 'static,
) -> u64 {
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, go_on) = (Arc::clone(store), go_on.clone());
            tokio::spawn(async move {
                let streams = store.streams().expect("streams");
                let stream = commit(writer, 0).stream;
                let found = streams.iter().find(|(known, _)| *known == stream);
                let mut seq = found.map_or(0, |(_, seq)| *seq);
                while go_on(seq) {
                    seq = store.append(commit(writer, seq)).await.expect("append").seq;
                }
                seq
            })
        })
        .collect();
    let mut appended = 0;
    for task in tasks {
        appended += task.await.expect("writer");
    }
    appended
}

const INSERT: &str = "INSERT INTO events (stream, seq, at, payload) VALUES (?1, ?2, ?3, ?4)";

fn sqlite(file: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(file).expect("open");
    connection.busy_timeout(Duration::from_secs(60)).expect("timeout");
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS events (global INTEGER PRIMARY KEY, stream BLOB NOT NULL,
                seq INTEGER NOT NULL, at INTEGER NOT NULL, payload BLOB NOT NULL,
                UNIQUE (stream, seq));",
        )
        .expect("schema");
    connection
}

fn insert(connection: &rusqlite::Connection, commit: &NewCommit) {
    let NewCommit { stream, expected_seq, at, actor, correlation, causation, entry } = commit;
    let payload = payload::encode(actor, *correlation, *causation, entry);
    let seq = *expected_seq as i64 + 1;
    let values = (stream.id.as_bytes(), seq, at.as_millis(), payload);
    connection.prepare_cached(INSERT).expect("statement").execute(values).expect("insert");
}

/// SQLite behind the same kind of committer: one transaction for all that wait.
fn sqlite_grouped_rate(file: &Path, time: Duration, writers: u64) -> f64 {
    let connection = sqlite(file);
    let (requests, mut waiting) = mpsc::channel::<(NewCommit, oneshot::Sender<()>)>(4096);
    let committer = std::thread::spawn(move || {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < 512
                && let Ok(next) = waiting.try_recv()
            {
                group.push(next);
            }
            connection.execute_batch("BEGIN IMMEDIATE").expect("begin");
            group.iter().for_each(|(commit, _)| insert(&connection, commit));
            connection.execute_batch("COMMIT").expect("commit");
            group.into_iter().for_each(|(_, reply)| reply.send(()).expect("reply"));
        }
    });
    let start = Instant::now();
    let appended = runtime().block_on(async {
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let requests = requests.clone();
                tokio::spawn(async move {
                    let mut seq = 0;
                    while start.elapsed() < time {
                        let (reply, answer) = oneshot::channel();
                        requests.send((commit(writer, seq), reply)).await.expect("send");
                        answer.await.expect("answer");
                        seq += 1;
                    }
                    seq
                })
            })
            .collect();
        let mut appended = 0;
        for task in tasks {
            appended += task.await.expect("writer");
        }
        appended
    });
    let rate = appended as f64 / start.elapsed().as_secs_f64();
    drop(requests);
    committer.join().expect("committer");
    rate
}

fn sqlite_single_rate(file: &Path, time: Duration, writers: u64) -> f64 {
    drop(sqlite(file));
    let start = Instant::now();
    let threads: Vec<_> = (0..writers)
        .map(|writer| {
            let connection = sqlite(file);
            std::thread::spawn(move || {
                let mut seq = 0;
                while start.elapsed() < time {
                    insert(&connection, &commit(writer, seq));
                    seq += 1;
                }
                seq
            })
        })
        .collect();
    let appended: u64 = threads.into_iter().map(|thread| thread.join().expect("writer")).sum();
    appended as f64 / start.elapsed().as_secs_f64()
}

/// Opening and replaying a store of many commits, written by 64 writers, each in a process of its own.
fn full_store(folder: &Path, commits: u64) {
    let ours = folder.join("full");
    let store = Arc::new(SledStore::open(&ours).expect("open"));
    let start = Instant::now();
    let each = commits / WRITERS;
    let count = runtime().block_on(append_all(&store, WRITERS, move |seq| seq < each));
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let closing = Instant::now();
    store.close().expect("close");
    drop(store);
    let close_ms = closing.elapsed().as_secs_f64() * 1e3;
    let bytes = folder_bytes(&ours);
    eprintln!("{count} commits at {rate:.0}/s, {bytes} bytes on disk, closed in {close_ms:.0} ms");
    row(
        "bytes on disk a commit",
        bytes as f64 / count as f64,
        payload_bytes() as f64,
        "its payload",
    );

    let file = folder.join("full.sqlite");
    let connection = sqlite(&file);
    connection.execute_batch("BEGIN").expect("begin");
    for seq in 0..each {
        (0..WRITERS).for_each(|writer| insert(&connection, &commit(writer, seq)));
    }
    connection.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)").expect("commit");
    drop(connection);

    let mut opened = Vec::new();
    for _ in 0..ROUNDS {
        opened.push(measure_child("open", &ours));
    }
    let [open_ms, open_mib] = [0, 1].map(|at| median(opened.iter().map(|it| it[at]).collect()));
    row("open after close, ms", open_ms, 500.0, "limit");
    row("open after close, MiB resident", open_mib, 150.0, "limit");
    let mut replays = Vec::new();
    let mut sqlite_replays = Vec::new();
    for _ in 0..ROUNDS {
        replays.push(measure_child("replay", &ours));
        sqlite_replays.push(measure_child("sqlite-replay", &file)[0]);
    }
    let [rate, mib] = [0, 1].map(|at| median(replays.iter().map(|it| it[at]).collect()));
    row("replay, commits a second", rate, median(sqlite_replays), "SQLite, same payload");
    row("replay, commits a second", rate, 1e6, "limit");
    row("replay, MiB resident", mib, 150.0, "limit of opening");
    let killed = folder.join("killed");
    let mut opened = Vec::new();
    for _ in 0..ROUNDS {
        drop(std::fs::remove_dir_all(&killed));
        measure_child(&format!("fill-and-die-{commits}"), &killed);
        opened.push(measure_child("open", &killed)[0]);
    }
    row("open after kill, never opened before, ms", median(opened), 500.0, "limit");
}

fn payload_bytes() -> usize {
    let NewCommit { actor, correlation, causation, entry, .. } = commit(1, 1000);
    payload::encode(&actor, correlation, causation, &entry).len()
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries =
        std::fs::read_dir(folder).expect("list").map(|entry| entry.expect("entry").path());
    entries
        .map(|path| match path.is_dir() {
            true => folder_bytes(&path),
            false => path.metadata().expect("metadata").len(),
        })
        .sum()
}

/// Runs this program again on `folder` and reads the figures that it prints.
fn measure_child(mode: &str, folder: &Path) -> [f64; 2] {
    let exe = std::env::current_exe().expect("own path");
    let output = std::process::Command::new(exe).arg(format!("child:{mode}")).arg(folder).output();
    let text = String::from_utf8(output.expect("child").stdout).expect("text");
    let mut figures = text.split_whitespace().map(|figure| figure.parse().expect("figure"));
    [figures.next().expect("first"), figures.next().expect("second")]
}

fn child(mode: &str, folder: &Path) {
    let start = Instant::now();
    if let Some(commits) = mode.strip_prefix("fill-and-die-") {
        fill_and_die(folder, commits.parse().expect("number"));
    }
    let figure = match mode {
        "sqlite-replay" => sqlite_replay(folder),
        _ => {
            let store = SledStore::open(folder).expect("open");
            let open_ms = start.elapsed().as_secs_f64() * 1e3;
            if mode == "replay" { replay(&store) } else { open_ms }
        }
    };
    println!("{figure} {}", resident_mib());
}

/// Ends as a process that is killed does: nothing is closed.
fn fill_and_die(folder: &Path, commits: u64) -> ! {
    let store = Arc::new(SledStore::open(folder).expect("open"));
    let each = commits / WRITERS;
    let count = runtime().block_on(append_all(&store, WRITERS, move |seq| seq < each));
    println!("{count} 0");
    std::process::exit(9)
}

fn replay(store: &SledStore) -> f64 {
    let start = Instant::now();
    let mut last = 0;
    store.replay(1, &mut |commit: Commit| last = commit.global).expect("replay");
    last as f64 / start.elapsed().as_secs_f64()
}

fn sqlite_replay(file: &Path) -> f64 {
    let start = Instant::now();
    let connection = sqlite(file);
    let mut statement = connection
        .prepare("SELECT global, stream, seq, at, payload FROM events ORDER BY global")
        .expect("statement");
    let mut rows = statement.query(()).expect("query");
    let mut count = 0;
    while let Some(row) = rows.next().expect("row") {
        let record = Record {
            global: row.get::<_, i64>(0).expect("global") as u64,
            stream: StreamKey {
                kind: Kind::Vm as u8,
                id: Uuid::from_slice(row.get_ref(1).expect("stream").as_blob().expect("blob"))
                    .expect("id"),
            },
            seq: row.get::<_, i64>(2).expect("seq") as u64,
            at_ms: row.get(3).expect("at"),
            version: payload::VERSION,
            payload: row.get_ref(4).expect("payload").as_blob().expect("blob"),
            crc: 0,
        };
        drop(payload::decode(&record).expect("decode"));
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// The most memory that this process has had.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("number");
    kib / 1024.0
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
