//! The event store: appending, crashes, power loss, damage, moving a log, stored shapes.

mod appending;
mod corruption;
mod differential;
mod kill;
mod payloads;
mod power_loss;
mod snapshots;
mod syscall_trace;
mod transfer;

use lifeboat::domain::entity::{Commit, Entity, Kind, NewCommit, StreamId};
use lifeboat::domain::host::{self, Host};
use lifeboat::domain::id::{CloudId, HostId, JobId};
use lifeboat::domain::time::Timestamp;
use lifeboat::ports::event_store::{EventStore, StoreError};
use lifeboat::store::SledStore;
use std::path::Path;
use uuid::Uuid;

/// The `nth` host's stream.
fn stream(nth: u64) -> StreamId {
    StreamId { kind: Kind::Host, id: Uuid::from_u128(u128::from(nth)) }
}

/// A commit that can be told from every other by its stream and number.
fn commit(nth: u64, expected_seq: u64) -> NewCommit {
    commit_of_bytes(nth, expected_seq, 40)
}

/// One whose payload has at least `bytes` bytes, other ones in every commit.
fn commit_of_bytes(nth: u64, expected_seq: u64, bytes: usize) -> NewCommit {
    let stream = stream(nth);
    let name = format!("host {nth} commit {expected_seq} ");
    let filler =
        (0..bytes as u64).map(|at| char::from(b'a' + ((at * 7 + expected_seq) % 26) as u8));
    let event = host::Event::Registered {
        id: HostId(stream.id),
        name: name + &filler.collect::<String>(),
        cloud: CloudId(Uuid::from_u128(9)),
    };
    NewCommit {
        stream,
        expected_seq,
        at: Timestamp::from_millis(1_000_000 + expected_seq as i64),
        actor: "tests".to_owned(),
        correlation: Some(JobId(Uuid::from_u128(u128::from(expected_seq)))),
        causation: (expected_seq != 0).then_some(expected_seq),
        entry: Host::entry(host::Command::ReportHeartbeat, vec![event]),
    }
}

/// What `commit_of_bytes` became, or would become.
fn is_commit_of_bytes(found: &Commit, bytes: usize) -> bool {
    let nth = found.stream.id.as_u128() as u64;
    let expected = commit_of_bytes(nth, found.seq - 1, bytes);
    (found.stream, found.at, &found.entry) == (expected.stream, expected.at, &expected.entry)
        && (found.correlation, found.causation) == (expected.correlation, expected.causation)
}

/// Appends `count` commits to a few streams in turn.
async fn fill(store: &SledStore, count: u64, bytes: usize) -> Vec<Commit> {
    let mut commits = Vec::new();
    let start = store.durable();
    for at in start..start + count {
        let new = commit_of_bytes(at % 5, at / 5, bytes);
        commits.push(store.append(new).await.unwrap());
    }
    commits
}

fn open(folder: &Path) -> SledStore {
    SledStore::open(folder).unwrap()
}

fn read_everything(folder: &Path) -> Result<Vec<Commit>, StoreError> {
    SledStore::open(folder)?.read_all(1, usize::MAX)
}

/// Copies a store that is open, as a kill would leave it: until nothing was written meanwhile.
fn copy_open_store(from: &Path, to: &Path) {
    let same =
        |file| std::fs::read(from.join(file)).unwrap() == std::fs::read(to.join(file)).unwrap();
    copy_folder(from, to);
    while !same("log/db") || !same("HEAD") {
        std::fs::remove_dir_all(to).unwrap();
        copy_folder(from, to);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).unwrap();
        }
    }
}
