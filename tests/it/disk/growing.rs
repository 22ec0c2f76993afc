//! Disks that grow between two runs of their tracker.

use super::{BOOT, Machine, NEXT_BOOT, content};
use lifeboat::disk::tracker::{Broken, CHUNK_BYTES, REGION_BYTES, Suspect, Tracker};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::Open;
use std::sync::Arc;

const SIZE: u64 = 3 * REGION_BYTES + 4096;
const GROWN: u64 = 5 * REGION_BYTES;

/// Makes the image of the second disk longer.
fn lengthen(machine: &Machine, size: u64) {
    let file = machine.files.open(&machine.image(1), Open::Write).unwrap();
    file.set_len(size).unwrap();
    file.sync_data().unwrap();
}

/// What was added and is suspect, to whole chunks.
fn added(tracker: &Tracker) -> bool {
    match tracker.suspect(Machine::id(1)) {
        Suspect::Everything => true,
        Suspect::Ranges(ranges) => {
            let inside = |range: &std::ops::Range<u64>| range.start <= SIZE && GROWN <= range.end;
            ranges.iter().any(inside)
        }
    }
}

fn write(tracker: &Tracker, disk: u128, offset: u64, byte: u8) {
    tracker.disk(Machine::id(disk)).unwrap().write_at(&[byte; 4096], offset, false).unwrap();
}

/// A VM that is tracked, with nothing suspect, a cut in transit and a write since.
fn tracked(machine: &Machine) -> Arc<Tracker> {
    let tracker = machine.tracking();
    tracker.resolve_suspect(tracker.chain()).unwrap();
    write(&tracker, 1, 8192, 1);
    tracker.cut(1).unwrap();
    write(&tracker, 1, REGION_BYTES, 2);
    tracker
}

#[test]
fn a_disk_that_grew_is_tracked_on_and_only_what_was_added_is_suspect_besides() {
    for closes in [true, false] {
        let (files, machine) = Machine::in_memory(1, 2, SIZE);
        let tracker = tracked(&machine);
        lengthen(&machine, GROWN);
        if closes {
            tracker.close().unwrap();
        }
        files.restart();
        let tracker = machine.open(BOOT).unwrap();
        assert!(tracker.status().tracking, "{:?}", tracker.status().broken);
        let cut = tracker.transit().unwrap();
        assert_eq!((cut.number, cut.logs.len()), (1, 2));
        let chunk = |at: u64| at..at + CHUNK_BYTES;
        let expected = vec![chunk(0), chunk(REGION_BYTES), SIZE - 4096..GROWN];
        assert_eq!(tracker.suspect(Machine::id(1)), Suspect::Ranges(expected));
        assert_eq!(tracker.suspect(Machine::id(0)), Suspect::Ranges(vec![]));

        // What is written there is logged.
        write(&tracker, 1, GROWN - 4096, 3);
        tracker.acknowledge(1).unwrap();
        tracker.cut(2).unwrap();
        files.restart();
        let tracker = machine.open(BOOT).unwrap();
        assert!(tracker.status().tracking);
        assert_eq!(tracker.transit().map(|cut| cut.number), Some(2));
        assert_eq!(content(&machine.raw(1))[(GROWN - 4096) as usize..], [3; 4096]);
        assert!(added(&tracker));
        tracker.resolve_suspect(tracker.chain()).unwrap();
        tracker.acknowledge(2).unwrap();
        assert_eq!(tracker.suspect(Machine::id(1)), Suspect::Ranges(vec![]));
    }
}

#[test]
fn a_disk_that_grew_before_a_power_loss_is_suspect_as_far_as_it_would_have_been_and_where_it_grew()
{
    let (files, machine) = Machine::in_memory(1, 2, SIZE);
    tracked(&machine);
    lengthen(&machine, GROWN);
    files.lose_power();
    let tracker = machine.open(NEXT_BOOT).unwrap();
    assert_eq!(tracker.status().broken, Some(Broken::PowerLoss));
    assert!(added(&tracker));
    let Suspect::Ranges(ranges) = tracker.suspect(Machine::id(1)) else { panic!("everything") };
    assert_eq!(ranges.iter().map(|range| range.start).min(), Some(0));
}

#[test]
fn a_disk_that_shrank_is_another_disk() {
    let (files, machine) = Machine::in_memory(1, 2, SIZE);
    tracked(&machine).close().unwrap();
    files.restart();
    lengthen(&machine, SIZE - 4096);
    let broken = machine.open(BOOT).unwrap().status().broken;
    assert_eq!(broken, Some(Broken::DiskChanged { disk: Machine::id(1) }));
}

#[test]
fn a_start_with_a_disk_that_grew_can_be_killed_at_every_call() {
    let mut calls = 0;
    loop {
        let (files, machine) = Machine::in_memory(calls, 2, SIZE);
        let tracker = tracked(&machine);
        lengthen(&machine, GROWN);
        tracker.close().unwrap();
        files.restart();
        files.kill_after(calls);
        let complete = machine.open(BOOT).is_ok();
        files.restart();
        let tracker = machine.open(BOOT).unwrap();
        assert!(tracker.status().tracking, "killed at call {calls}: {:?}", tracker.status());
        assert!(added(&tracker), "killed at call {calls}");
        let written = content(&machine.raw(1));
        assert_eq!((written[8192], written[REGION_BYTES as usize]), (1, 2), "call {calls}");
        if complete {
            break;
        }
        calls += 1;
    }
    assert!(5 < calls, "{calls}");
}

#[test]
fn a_disk_is_the_beginning_of_a_longer_image_where_it_is_said_so() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    machine.raw(0).write_at(&[7; 4096], SIZE - 4096, false).unwrap();
    let disk = machine.raw(0).limited_to(SIZE - 4096);
    assert_eq!(disk.size_bytes(), SIZE - 4096);
    assert!(disk.write_at(&[1; 512], SIZE - 4096, false).is_err());
    let mut at = 0;
    while let Some(data) = disk.next_data(at).unwrap() {
        assert!(data.end <= SIZE - 4096, "{data:?}");
        at = data.end;
    }
    assert_eq!(machine.raw(0).limited_to(2 * SIZE).size_bytes(), SIZE);
    drop(files);
}
