//! Disks that join those of their VM between two runs of its tracker.

use super::{BOOT, Machine, NEXT_BOOT, content};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{Broken, CHUNK_BYTES, Suspect, Tracker};
use lifeboat::ports::block::BlockDevice;
use std::sync::Arc;

const SIZE: u64 = 4 << 20;

/// One chunk of a disk.
fn chunk(nth: u64) -> Suspect {
    let range = nth * CHUNK_BYTES..(nth + 1) * CHUNK_BYTES;
    Suspect::Ranges(vec![range])
}

fn write(tracker: &Tracker, disk: u128, offset: u64, byte: u8) {
    tracker.disk(Machine::id(disk)).unwrap().write_at(&[byte; 4096], offset, false).unwrap();
}

/// A VM that is tracked, with nothing suspect but one chunk of its first disk.
fn tracked(machine: &Machine) -> Arc<Tracker> {
    let tracker = machine.tracking();
    tracker.resolve_suspect(tracker.chain()).unwrap();
    write(&tracker, 0, 8192, 1);
    tracker.cut(1).unwrap();
    tracker.acknowledge(1).unwrap();
    write(&tracker, 0, CHUNK_BYTES, 2);
    tracker
}

/// The same VM with one disk more.
fn with_another(machine: Machine) -> Machine {
    let machine = Machine { disks: machine.disks + 1, ..machine };
    let image = machine.image(machine.disks - 1);
    RawDisk::create(&*machine.files, &image, SIZE).unwrap().flush().unwrap();
    machine.files.sync_dir(&machine.folder).unwrap();
    machine
}

#[test]
fn a_disk_that_joins_is_tracked_in_the_chain_of_the_others_and_all_of_it_is_suspect() {
    for closes in [true, false] {
        let (files, machine) = Machine::in_memory(1, 2, SIZE);
        let tracker = tracked(&machine);
        let chain = tracker.chain();
        if closes {
            tracker.close().unwrap();
        }
        files.restart();
        let machine = with_another(machine);
        let tracker = machine.open(BOOT).unwrap();
        assert!(tracker.status().tracking, "{:?}", tracker.status().broken);
        assert_eq!(tracker.chain(), chain);
        assert_eq!(tracker.suspect(Machine::id(2)), Suspect::Everything);
        assert_eq!(tracker.suspect(Machine::id(0)), chunk(1));

        write(&tracker, 2, 4096, 3);
        let cut = tracker.cut(2).unwrap();
        assert_eq!(cut.logs.len(), 3);
        write(&tracker, 2, 0, 4);
        // What was suspect stays so, also where the service starts again, until it is said to be there.
        files.restart();
        let tracker = machine.open(BOOT).unwrap();
        assert_eq!(tracker.transit().map(|cut| cut.number), Some(2));
        assert_eq!(tracker.suspect(Machine::id(2)), Suspect::Everything);
        tracker.resolve_suspect(tracker.chain()).unwrap();
        tracker.acknowledge(2).unwrap();
        assert_eq!(tracker.suspect(Machine::id(2)), chunk(0));
        let written = content(&machine.raw(2));
        assert_eq!((written[0], written[4096]), (4, 3));
    }
}

#[test]
fn a_start_with_a_disk_that_joins_can_be_killed_at_every_call() {
    let mut calls = 0;
    loop {
        let (files, machine) = Machine::in_memory(calls, 2, SIZE);
        tracked(&machine).close().unwrap();
        files.restart();
        let machine = with_another(machine);
        files.kill_after(calls);
        let complete = machine.open(BOOT).is_ok();
        files.restart();
        let tracker = machine.open(BOOT).unwrap();
        assert!(tracker.status().tracking, "killed at call {calls}: {:?}", tracker.status());
        assert_eq!(tracker.suspect(Machine::id(2)), Suspect::Everything, "call {calls}");
        write(&tracker, 2, 0, 9);
        assert_eq!(tracker.cut(2).unwrap().logs.len(), 3, "call {calls}");
        assert_eq!(content(&machine.raw(0))[8192], 1);
        if complete {
            break;
        }
        calls += 1;
    }
    assert!(5 < calls, "{calls}");
}

#[test]
fn where_it_cannot_be_told_apart_from_another_set_of_disks_tracking_breaks() {
    // A cut has a log of each disk.
    let (files, machine) = Machine::in_memory(1, 2, SIZE);
    let tracker = tracked(&machine);
    tracker.cut(2).unwrap();
    files.restart();
    let machine = with_another(machine);
    let tracker = machine.open(BOOT).unwrap();
    assert_eq!(tracker.status().broken, Some(Broken::DiskChanged { disk: Machine::id(2) }));
    assert_eq!(tracker.transit(), None);
    tracker.start_again().unwrap();
    assert!(tracker.status().tracking);
    files.restart();
    assert!(machine.open(BOOT).unwrap().status().tracking);
}

#[test]
fn a_disk_that_joins_after_a_power_loss_is_suspect_as_a_whole() {
    let (files, machine) = Machine::in_memory(1, 2, SIZE);
    tracked(&machine);
    files.lose_power();
    let machine = with_another(machine);
    let tracker = machine.open(NEXT_BOOT).unwrap();
    assert_eq!(tracker.status().broken, Some(Broken::PowerLoss));
    assert_eq!(tracker.suspect(Machine::id(2)), Suspect::Everything);
    write(&tracker, 2, 0, 9);
    tracker.start_again().unwrap();
    files.restart();
    let tracker = machine.open(NEXT_BOOT).unwrap();
    assert!(tracker.status().tracking);
    assert_eq!(tracker.suspect(Machine::id(2)), Suspect::Everything);
}

#[test]
fn what_an_earlier_life_of_a_disk_left_in_the_folder_does_not_count() {
    let (files, machine) = Machine::in_memory(1, 2, SIZE);
    tracked(&machine).close().unwrap();
    files.restart();
    let three = with_another(machine);
    let tracker = three.open(BOOT).unwrap();
    write(&tracker, 2, 0, 9);
    tracker.resolve_suspect(tracker.chain()).unwrap();
    tracker.stop().unwrap();
    tracker.close().unwrap();
    files.restart();
    let two = Machine { disks: 2, ..three };
    let tracker = two.open(BOOT).unwrap();
    tracker.start().unwrap();
    tracker.resolve_suspect(tracker.chain()).unwrap();
    tracker.close().unwrap();
    files.restart();
    let three = Machine { disks: 3, ..two };
    let tracker = three.open(BOOT).unwrap();
    assert!(tracker.status().tracking);
    assert_eq!(tracker.suspect(Machine::id(2)), Suspect::Everything);
}
