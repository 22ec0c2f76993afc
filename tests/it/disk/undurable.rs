//! Disks that cannot be flushed while their logs cannot take their place, and then the power goes.

use super::{BOOT, Machine, choices, content};
use lifeboat::disk::files::MemoryFiles;
use lifeboat::disk::tracker::{BootId, Broken, TrackedDisk, Tracker};
use lifeboat::ports::block::BlockDevice;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

const SECTORS: usize = 64;
const SIZE: u64 = SECTORS as u64 * 512;

#[test]
fn logs_that_are_too_large_are_not_given_up_before_the_disk_has_what_they_hold() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    disk.write_at(&[1; 4096], 0, false).unwrap();
    disk.flush().unwrap();
    tracker.cut(1).unwrap();
    files.refuse(&machine.image(0), Some(ErrorKind::Other));
    tracker.acknowledge(1).unwrap_err();
    files.refuse(&machine.image(0), None);
    while tracker.status().tracking {
        disk.write_at(&[2; 2048], 8192, false).unwrap();
        disk.flush().unwrap();
    }
    assert!(matches!(tracker.status().broken, Some(Broken::LogsTooLarge { .. })));
    disk.write_at(&[3; 512], 16_384, true).unwrap();
    files.lose_power();
    let _after = machine.open(boot(2)).unwrap();
    let found = content(&machine.raw(0));
    let held = [found[0], found[8192], found[16_384]];
    assert_eq!(held, [1, 2, 3], "all of it was flushed");
}

#[test]
fn what_neither_the_disk_nor_a_flush_can_promise_is_in_the_logs_until_it_can() {
    for seed in 0..24 {
        // Where the state cannot be written either, a log says it.
        for says_so in ["/vm/tracking.state.next", "/nothing"] {
            let (files, machine) = Machine::in_memory(seed, 1, SIZE);
            let tracker = machine.tracking();
            let disk = tracker.disk(Machine::id(0)).unwrap();
            disk.write_at(&[1; 1024], 0, false).unwrap();
            disk.flush().unwrap();
            files.refuse(Path::new(says_so), Some(ErrorKind::StorageFull));
            files.refuse(&machine.image(0), Some(ErrorKind::Other));
            tracker.cut(1).unwrap();
            tracker.acknowledge(1).unwrap_err();
            files.refuse(Path::new("/vm/disk0.hrl.tail"), Some(ErrorKind::StorageFull));
            assert!(disk.write_at(&[9; 512], 4096, false).is_err(), "neither takes it");
            assert!(!tracker.status().tracking);
            files.refuse(&machine.image(0), None);
            disk.write_at(&[2; 512], 0, false).unwrap();
            disk.flush().unwrap_err();
            disk.write_at(&[3; 512], 8192, true).unwrap_err();

            files.refuse(Path::new(says_so), None);
            files.restart();
            let tracker = machine.open(BOOT).unwrap();
            let disk = tracker.disk(Machine::id(0)).unwrap();
            assert_eq!(content(&*disk)[0], 2, "what a guest sees does not go back");
            disk.flush().expect_err("no start makes a disk durable");

            files.lose_power();
            let tracker = machine.open(boot(2)).unwrap();
            let found = content(&machine.raw(0));
            assert!([1, 2].contains(&found[0]), "{}", found[0]);
            assert_eq!(found[512..1024], [1; 512], "it was flushed");
            assert!([0, 9].contains(&found[4096]), "{}", found[4096]);
            assert!([0, 3].contains(&found[8192]), "{}", found[8192]);

            // From here on the disk is all that counts.
            let disk = tracker.disk(Machine::id(0)).unwrap();
            disk.write_at(&[4; 1024], 0, false).unwrap();
            disk.flush().unwrap();
            files.lose_power();
            let _after = machine.open(boot(3)).unwrap();
            assert_eq!(content(&machine.raw(0))[..1024], [4; 1024]);
        }
    }
}

#[test]
fn another_chain_starts_with_what_the_disk_shows() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    disk.write_at(&[1; 4096], 0, false).unwrap();
    disk.flush().unwrap();
    files.refuse(&machine.image(0), Some(ErrorKind::Other));
    tracker.cut(1).unwrap();
    tracker.acknowledge(1).unwrap_err();
    files.refuse(Path::new("/vm/disk0.hrl.tail"), Some(ErrorKind::StorageFull));
    disk.zero(512..1024, true, false).unwrap_err();
    tracker.start().expect_err("the disk cannot be written");
    files.refuse(&machine.image(0), None);
    files.refuse(Path::new("/vm/disk0.hrl.tail"), None);
    disk.write_at(&[2; 512], 8192, false).unwrap();
    disk.flush().unwrap_err();
    tracker.start().unwrap();
    disk.flush().unwrap();
    let shown = content(&*disk);
    files.lose_power();
    let _after = machine.open(boot(2)).unwrap();
    assert_eq!(content(&machine.raw(0)), shown);
    assert_eq!((shown[0], shown[512], shown[8192]), (1, 1, 2));
}

#[test]
fn logs_that_are_given_up_on_a_full_volume_are_of_no_disk_after_a_power_loss() {
    for seed in 0..24 {
        let (files, machine) = Machine::in_memory(seed, 2, SIZE);
        let tracker = machine.tracking();
        let write = |value| flushed_to_both(&tracker, value);
        write(1);
        tracker.cut(1).unwrap();
        write(2);
        files.refuse(Path::new("/vm/tracking.state.next"), Some(ErrorKind::StorageFull));
        files.refuse(Path::new("/vm/disk0.hrl.tail"), Some(ErrorKind::StorageFull));
        write(3);
        assert!(!tracker.status().tracking);
        files.refuse(Path::new("/vm/tracking.state.next"), None);
        files.lose_power();
        let tracker = machine.open(boot(2)).unwrap();
        assert!(!tracker.status().tracking);
        let found = [0, 1].map(|disk| content(&machine.raw(disk))[0]);
        assert_eq!(found, [3, 3], "they were flushed to the disks");
    }
}

#[test]
fn a_volume_of_logs_that_takes_nothing_at_all_has_its_logs_applied_to_no_disk_later() {
    for ended in ["kill -9", "power loss"] {
        let (files, machine) = Machine::in_memory(7, 2, SIZE);
        let tracker = machine.tracking();
        let write = |value| flushed_to_both(&tracker, value);
        write(1);
        let volume =
            ["tracking.state.next", "disk0.hrl", "disk0.hrl.tail", "disk1.hrl", "disk1.hrl.tail"];
        let refuse = |kind| {
            for name in volume {
                files.refuse(&Path::new("/vm").join(name), kind);
            }
        };
        refuse(Some(ErrorKind::ReadOnlyFilesystem));
        write(2);
        assert!(!tracker.status().tracking);
        refuse(None);
        let next = if ended == "kill -9" {
            files.restart();
            BOOT
        } else {
            files.lose_power();
            boot(2)
        };
        let tracker = machine.open(next).unwrap();
        assert!(!tracker.status().tracking, "{ended}");
        let found = [0, 1].map(|disk| content(&machine.raw(disk))[0]);
        assert_eq!(found, [2, 2], "{ended}: they were flushed to the disks");
        tracker.start().unwrap();
        tracker.close().unwrap();
        assert!(machine.open(next).unwrap().status().tracking, "the mark is gone");
    }
}

/// Fills the first sector of both disks with `value`, and flushes them.
fn flushed_to_both(tracker: &Tracker, value: u8) {
    for disk in [0, 1] {
        let disk = tracker.disk(Machine::id(disk)).unwrap();
        disk.write_at(&[value; 512], 0, false).unwrap();
        disk.flush().unwrap();
    }
}

/// What a disk may hold, by sector.
struct Model {
    /// What its guest reads: the last of what was written; several after a write that failed.
    shown: Vec<Vec<u8>>,
    /// What it may hold after a power loss.
    possible: Vec<Vec<u8>>,
    /// Whether a flush may have failed that nobody could record: its guest was told, a later start is not.
    untold: bool,
    /// Which seed and step it is.
    at: (u64, u8),
}

impl Model {
    fn new() -> Self {
        Self {
            shown: vec![vec![0]; SECTORS],
            possible: vec![vec![0]; SECTORS],
            untold: false,
            at: (0, 0),
        }
    }

    fn wrote(&mut self, sectors: std::ops::Range<usize>, value: u8, succeeded: bool) {
        for sector in sectors {
            if succeeded {
                self.shown[sector].clear();
            }
            self.shown[sector].push(value);
            self.possible[sector].push(value);
        }
    }

    /// Checks what the disk shows; that is what it was, and is, from here on.
    fn read(&mut self, found: &[u8], after: &str) {
        let at = self.at;
        for (sector, bytes) in found.chunks(512).enumerate() {
            let shown = &mut self.shown[sector];
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{at:?}: sector {sector} is torn");
            assert!(
                shown.contains(&bytes[0]),
                "{at:?}, {after}: sector {sector}: {} of {shown:?}",
                bytes[0]
            );
            *shown = vec![bytes[0]];
        }
    }

    fn flushed(&mut self) {
        if !self.untold {
            self.possible.clone_from(&self.shown);
        }
    }

    fn power_was_lost(&mut self, found: &[u8]) {
        self.shown.clone_from(&self.possible);
        self.read(found, "power loss");
        self.untold = false;
        self.flushed();
    }
}

/// One disk of a machine whose media fail at times.
struct Life {
    files: Arc<MemoryFiles>,
    machine: Machine,
    tracker: Arc<Tracker>,
    disk: Arc<TrackedDisk>,
    boot: u128,
    model: Model,
    refused: BTreeSet<&'static str>,
}

const IMAGE: &str = "/vm/disk0.img";
const LOG: &str = "/vm/disk0.hrl";
const STATE: &str = "/vm/tracking.state.next";

impl Life {
    fn new(seed: u64) -> Self {
        let (files, machine) = Machine::in_memory(seed, 1, SIZE);
        let tracker = machine.tracking();
        let disk = tracker.disk(Machine::id(0)).unwrap();
        Self {
            files,
            machine,
            tracker,
            disk,
            boot: 1,
            model: Model::new(),
            refused: BTreeSet::new(),
        }
    }

    fn refuse(&mut self, path: &'static str) {
        // Where none of these takes a word, nobody can say that the logs are over.
        if [STATE, LOG, IMAGE].iter().all(|one| *one == path || self.refused.contains(one)) {
            self.heal();
        }
        self.files.refuse(Path::new(path), Some(ErrorKind::Other));
        self.refused.insert(path);
        self.may_be_untold();
    }

    fn may_be_untold(&mut self) {
        let status = self.tracker.status();
        let nobody_records =
            self.refused.contains(STATE) || !status.tracking && status.broken.is_none();
        self.model.untold |= self.refused.contains(IMAGE) && nobody_records;
    }

    fn heal(&mut self) {
        for path in std::mem::take(&mut self.refused) {
            self.files.refuse(Path::new(path), None);
        }
    }

    fn reopen(&mut self) {
        self.heal();
        self.tracker = self.machine.open(boot(self.boot)).unwrap();
        self.disk = self.tracker.disk(Machine::id(0)).unwrap();
    }

    fn step(&mut self, choices: &mut impl FnMut(usize) -> usize, value: u8) {
        self.may_be_untold();
        match choices(24) {
            0..=7 => {
                let sector = choices(SECTORS);
                let count = 1 + choices((SECTORS - sector).min(6));
                let fua = choices(4) == 0;
                let at = sector as u64 * 512;
                let wrote = if choices(4) == 0 {
                    let range = at..at + count as u64 * 512;
                    let zeroed = self.disk.zero(range, true, false);
                    self.model.wrote(sector..sector + count, 0, zeroed.is_ok());
                    return;
                } else {
                    self.disk.write_at(&vec![value; count * 512], at, fua)
                };
                self.model.wrote(sector..sector + count, value, wrote.is_ok());
                self.model.read(&content(&self.machine.raw(0)), "write");
                if wrote.is_ok() && fua {
                    self.model.flushed();
                }
            }
            8..=11 => {
                if self.disk.flush().is_ok() {
                    self.model.read(&content(&self.machine.raw(0)), "flush");
                    self.model.flushed();
                }
            }
            12 => self.refuse(IMAGE),
            13 => self.refuse("/vm/disk0.hrl.tail"),
            14 => self.refuse(STATE),
            15 => self.refuse(LOG),
            16 | 17 => self.heal(),
            18 => drop(self.tracker.cut(u64::from(value))),
            19 => {
                if let Some(cut) = self.tracker.transit() {
                    drop(self.tracker.acknowledge(cut.number));
                }
            }
            20 => drop(self.tracker.start()),
            21 => {
                self.files.restart();
                self.reopen();
                self.model.read(&content(&self.machine.raw(0)), "kill -9");
            }
            22 => {
                drop(self.tracker.close());
                self.reopen();
                self.model.read(&content(&self.machine.raw(0)), "close");
            }
            _ => {
                self.files.lose_power();
                self.boot += 1;
                self.reopen();
                self.model.power_was_lost(&content(&self.machine.raw(0)));
            }
        }
    }
}

#[test]
fn media_that_fail_at_times_lose_nothing_that_was_flushed() {
    for seed in 0..500 {
        let mut below = choices(seed);
        let mut life = Life::new(seed);
        for step in 0..120 {
            life.model.at = (seed, step);
            life.step(&mut below, step + 1);
        }
    }
}

fn boot(number: u128) -> BootId {
    BootId(Uuid::from_u128(number))
}
