//! Disks that somebody changes while nothing tracks them.

use super::{BOOT, Machine, NEXT_BOOT};
use lifeboat::disk::files::RealFiles;
use lifeboat::disk::tracker::{BootId, Broken, Tracker};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::{Files, Open};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SIZE: u64 = 1 << 20;

type Harm = fn(&Path);

/// How a run of the tracker ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Closed,
    Killed,
}

/// What is found of a VM whose tracker ended, after `harm` was done to the image of its second disk.
fn reopened(boot: BootId, end: End, harm: impl Fn(&Path)) -> (Arc<Tracker>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new(Arc::new(RealFiles), folder.path(), 2, SIZE);
    let tracker = machine.tracking();
    tracker.disk(Machine::id(1)).unwrap().write_at(&[1; 4096], 8192, false).unwrap();
    if end == End::Closed {
        tracker.close().unwrap();
    }
    drop(tracker);
    harm(&machine.image(1));
    (machine.open(boot).unwrap(), folder)
}

fn set_modified(image: &Path, change: impl Fn(std::time::SystemTime) -> std::time::SystemTime) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    let at = file.metadata().unwrap().modified().unwrap();
    file.set_modified(change(at)).unwrap();
}

/// Writes in place. The time is moved as well: a file system's clock has ticks.
fn edit(image: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    file.write_all_at(b"patched", 4096).unwrap();
    set_modified(image, |at| at + Duration::from_millis(10));
}

/// Puts another file with the same content and time in place.
fn replace(image: &Path) {
    let copy = image.with_extension("copy");
    fs::copy(image, &copy).unwrap();
    let at = fs::metadata(image).unwrap().modified().unwrap();
    fs::rename(&copy, image).unwrap();
    set_modified(image, |_| at);
}

fn set_back(image: &Path) {
    set_modified(image, |at| at - Duration::from_hours(1));
}

#[test]
fn a_disk_that_nobody_touched_is_tracked_on() {
    for end in [End::Closed, End::Killed] {
        let (tracker, _folder) = reopened(BOOT, end, |_| ());
        assert!(tracker.status().tracking);
    }
    let (tracker, _folder) = reopened(NEXT_BOOT, End::Closed, |_| ());
    assert!(tracker.status().tracking);
}

#[test]
fn a_disk_that_was_changed_offline_breaks_tracking_with_what_was_expected_and_found() {
    let cases: [(End, Harm, bool); 5] = [
        (End::Closed, edit, false),
        (End::Closed, replace, true),
        (End::Closed, set_back, false),
        (End::Killed, replace, true),
        (End::Killed, set_back, false),
    ];
    for (index, (end, harm, replaces)) in cases.into_iter().enumerate() {
        let (tracker, folder) = reopened(BOOT, end, harm);
        let broken = tracker.status().broken;
        let Some(Broken::DiskChangedOffline { disk, path, expected, found }) = &broken else {
            panic!("case {index}: {broken:?}")
        };
        assert_eq!(*disk, Machine::id(1));
        assert_eq!(*path, folder.path().join("disk1.img"));
        assert_eq!(expected.inode != found.inode, replaces, "case {index}");
        let said = broken.as_ref().unwrap().to_string();
        for part in ["disk1.img", &expected.to_string(), &found.to_string()] {
            assert!(said.contains(part), "case {index}: {said}");
        }
    }
}

#[test]
fn a_disk_that_was_replaced_after_a_power_loss_is_named() {
    let (tracker, _folder) = reopened(NEXT_BOOT, End::Killed, replace);
    assert!(matches!(tracker.status().broken, Some(Broken::DiskChangedOffline { .. })));
    let (tracker, _folder) = reopened(NEXT_BOOT, End::Killed, set_back);
    assert_eq!(tracker.status().broken, Some(Broken::PowerLoss));
}

#[test]
fn the_reason_survives_a_restart_and_ends_with_another_chain() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    machine.tracking().close().unwrap();
    let image = machine.image(0);
    files.open(&image, Open::Write).unwrap().write_all_at(b"patched", 0).unwrap();
    let broken = machine.open(BOOT).unwrap().status().broken;
    assert!(matches!(broken, Some(Broken::DiskChangedOffline { .. })), "{broken:?}");
    files.restart();
    let tracker = machine.open(BOOT).unwrap();
    assert_eq!(tracker.status().broken, broken);
    tracker.start().unwrap();
    tracker.close().unwrap();
    assert!(machine.open(BOOT).unwrap().status().tracking);
}

#[test]
fn a_power_loss_after_a_close_is_no_change_of_the_disk() {
    for seed in 0..16 {
        let (files, machine) = Machine::in_memory(seed, 1, SIZE);
        let tracker = machine.tracking();
        tracker.disk(Machine::id(0)).unwrap().write_at(&[1; 4096], 0, false).unwrap();
        tracker.close().unwrap();
        files.lose_power();
        let broken = machine.open(NEXT_BOOT).unwrap().status().broken;
        assert_eq!(broken, None, "seed {seed}");
    }
}

/// What the logs held is not written over a disk that took the place of the one that they belong to: a backup that
/// was restored after a power loss had the last logs applied to it.
#[test]
fn the_logs_of_a_disk_are_not_applied_to_one_that_took_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new(Arc::new(RealFiles), folder.path(), 1, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    disk.write_at(&[1; 4096], 8192, false).unwrap();
    disk.flush().unwrap();
    drop((disk, tracker));
    let backup = vec![7; SIZE as usize];
    let image = machine.image(0);
    fs::write(image.with_extension("backup"), &backup).unwrap();
    fs::rename(image.with_extension("backup"), &image).unwrap();
    let tracker = machine.open(NEXT_BOOT).unwrap();
    assert!(matches!(tracker.status().broken, Some(Broken::DiskChangedOffline { .. })));
    assert!(fs::read(&image).unwrap() == backup, "a log was applied to the backup");
}
