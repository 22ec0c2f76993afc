//! kill -9 of a real process that serves a tracked disk, with a client writing.
#![expect(clippy::print_stdout, reason = "the process that is killed says when it serves")]

use super::nbd::transmission;
use super::{BOOT, Machine, StoppedClock};
use lifeboat::disk::files::RealFiles;
use lifeboat::disk::hrl::{HeaderTrust, LogReader};
use lifeboat::disk::nbd::protocol::{Request, command, flag};
use lifeboat::disk::nbd::{Endpoint, Exports, Server};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{DiskSpec, Tracker};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::Open;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

/// Names the folder to serve, for the process that is killed.
const FOLDER: &str = "LIFEBOAT_TEST_SERVE_FOLDER";
const SECTORS: u64 = 64;
const KILLS: u64 = 6;

/// Not a test by itself: this binary is started again, as the process that is killed.
#[test]
fn serve_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let tracker = open(folder);
    tracker.start().unwrap();
    let exports = Arc::new(Exports::default());
    exports.add("disk", tracker.disk(Machine::id(0)).unwrap());
    let _server = Server::bind(&Endpoint::Unix(folder.join("nbd.sock")), exports).unwrap();
    println!("SERVING");
    // Cuts go on while the client writes, so that some kills hit one.
    let mut number = tracker.transit().map_or(0, |cut| cut.number);
    loop {
        number += 1;
        if let Ok(cut) = tracker.cut(number) {
            apply(folder, &cut.logs[0].path);
            tracker.acknowledge(number).unwrap();
        } else if let Some(cut) = tracker.transit() {
            apply(folder, &cut.logs[0].path);
            tracker.acknowledge(cut.number).unwrap();
        }
    }
}

fn open(folder: &Path) -> Arc<Tracker> {
    let image = folder.join("disk0.img");
    let device = Arc::new(RawDisk::open(&RealFiles, &image, Open::Write).unwrap());
    let spec = DiskSpec { id: Machine::id(0), name: "disk0".to_owned(), device };
    Tracker::open(Arc::new(RealFiles), folder, vec![spec], BOOT, Arc::new(StoppedClock)).unwrap()
}

/// Applies a log to the replica; again after a crash, which changes nothing.
fn apply(folder: &Path, log: &Path) {
    let replica = RawDisk::open(&RealFiles, &folder.join("replica.img"), Open::Write).unwrap();
    let log = LogReader::open(&RealFiles, log, HeaderTrust::Verified).unwrap();
    log.apply_to(&replica).unwrap();
}

fn spawn(folder: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["disk::kill::serve_until_killed", "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("SERVING") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the server ended");
    }
    // Keeps the pipe open for what the process still prints.
    thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    child
}

/// Writes counters, so many at a time and no two of them into one place, until the connection breaks. Returns
/// those that had no answer, with the first of their two sectors; enters the others into `acknowledged`.
fn write_until_broken(
    folder: &Path,
    first: u64,
    depth: usize,
    acknowledged: &mut [u64],
    enough: impl Fn(u64),
) -> BTreeMap<u64, u64> {
    let mut stream = transmission(&Endpoint::Unix(folder.join("nbd.sock")));
    let (mut count, mut done) = (first, 0);
    let mut in_flight = BTreeMap::new();
    loop {
        let mut packet = Vec::new();
        while in_flight.len() < depth {
            count += 1;
            let apart = |sector: &u64| in_flight.values().all(|other| 2 <= sector.abs_diff(*other));
            let start = count.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            let mut places = (start..start + SECTORS).map(|sector| sector % (SECTORS - 1));
            let free = places.find(apart).unwrap();
            let flags = if count.is_multiple_of(50) { flag::FUA } else { 0 };
            let (command, offset) = (command::WRITE, free * 512);
            let request = Request { flags, command, cookie: count, offset, length: 2 * 512 };
            packet.extend(request.encode());
            packet.extend(count.to_le_bytes().repeat(2 * 512 / 8));
            in_flight.insert(count, free);
        }
        // What was answered before the end is read, also where nothing more can be sent.
        _ = stream.write_all(&packet);
        for _ in 0..depth.div_ceil(2) {
            let mut reply = [0; 16];
            if stream.read_exact(&mut reply).is_err() {
                return in_flight;
            }
            assert_eq!(reply[4..8], [0; 4], "an error");
            let answered = u64::from_be_bytes(reply[8..].try_into().unwrap());
            let sector = in_flight.remove(&answered).unwrap() as usize;
            acknowledged[sector..sector + 2].fill(answered);
            done += 1;
            enough(done);
        }
    }
}

fn counters(path: &Path) -> Vec<u64> {
    let disk = RawDisk::open(&RealFiles, path, Open::Read).unwrap();
    let content = super::content(&disk);
    let counter = |sector: &[u8]| {
        let (words, _) = sector.as_chunks::<8>();
        assert!(words.iter().all(|word| *word == words[0]), "a torn sector");
        u64::from_le_bytes(words[0])
    };
    content.chunks(512).map(counter).collect()
}

#[test]
fn a_killed_server_loses_no_acknowledged_write_from_disk_or_log() {
    kill_while_written_to(1);
}

#[test]
fn a_server_that_is_killed_with_many_writes_in_flight_loses_none_that_it_acknowledged() {
    kill_while_written_to(16);
}

fn kill_while_written_to(depth: usize) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for image in ["disk0.img", "replica.img"] {
        RawDisk::create(&RealFiles, &folder.join(image), SECTORS * 512).unwrap();
    }
    let mut acknowledged = vec![0; SECTORS as usize];
    let mut count = 0;
    for kill in 0..KILLS {
        let mut child = spawn(folder);
        let pid = rustix::process::Pid::from_child(&child);
        let kill_after = 300 + kill * 171;
        let enough = |done| {
            if done == kill_after {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
        };
        let in_flight = write_until_broken(folder, count, depth, &mut acknowledged, enough);
        count = in_flight.keys().chain(&acknowledged).copied().max().unwrap();
        child.wait().unwrap();

        let tracker = open(folder);
        let status = tracker.status();
        assert!(status.tracking && status.broken.is_none(), "{status:?}");
        let found = counters(&folder.join("disk0.img"));
        for (index, (found, acknowledged)) in found.iter().zip(&acknowledged).enumerate() {
            let of_flight = in_flight.get(found);
            let was_in_flight = of_flight.is_some_and(|at| (*at..at + 2).contains(&(index as u64)));
            assert!(
                found == acknowledged || was_in_flight,
                "kill {kill}: sector {index} holds {found} where {acknowledged} was acknowledged"
            );
        }
        acknowledged.clone_from(&found);
        let mut last = 1_000_000 * (kill + 1);
        if let Some(cut) = tracker.transit() {
            apply(folder, &cut.logs[0].path);
            tracker.acknowledge(cut.number).unwrap();
            last = last.max(cut.number + 1);
        }
        let cut = tracker.cut(last).unwrap();
        apply(folder, &cut.logs[0].path);
        tracker.acknowledge(last).unwrap();
        assert_eq!(counters(&folder.join("replica.img")), found, "kill {kill}: the logs differ");
        // The next process numbers its cuts from 1, in a chain of its own.
        tracker.stop().unwrap();
    }
    let device = RawDisk::open(&RealFiles, &folder.join("disk0.img"), Open::Read).unwrap();
    assert_eq!(device.size_bytes(), SECTORS * 512);
}
