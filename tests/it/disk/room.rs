//! Logs that take much room: compaction, the limit, the forecast, and a volume that fills up.

use super::{BOOT, Machine, content};
use lifeboat::disk::files::MemoryFiles;
use lifeboat::disk::hrl::{HeaderTrust, LogReader};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{
    BootId, Broken, CHUNK_BYTES, DiskSpec, Suspect, TrackError, Tracker,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::Classified;
use lifeboat::domain::time::Timestamp;
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::clock::Clock;
use lifeboat::ports::files::Files;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A disk whose logs may take 8 MiB, and are compacted from 6.4 MiB on.
const SIZE: u64 = 16 << 20;
const MIB: u64 = 1 << 20;

#[derive(Debug, Default)]
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

fn with_clock(machine: &Machine) -> (Arc<Tracker>, Arc<SetClock>) {
    let clock = Arc::new(SetClock::default());
    let device = Arc::new(machine.raw(0));
    let spec = DiskSpec { id: Machine::id(0), name: "disk0".to_owned(), device };
    let (files, own) = (machine.files.clone(), clock.clone());
    (Tracker::open(files, &machine.folder, vec![spec], BOOT, own).unwrap(), clock)
}

fn logs(files: &MemoryFiles) -> Vec<String> {
    let names = files.list(Path::new("/vm")).unwrap();
    let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    names.iter().map(name).filter(|name| name.contains(".hrl")).collect()
}

#[test]
fn the_active_log_is_compacted_while_a_guest_writes_and_holds_all_that_is_left() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    tracker.cut(1).unwrap(); // nobody takes it
    let kib64 = 64 << 10;
    let write = |nth: u64| {
        let data = vec![nth as u8 | 1; kib64];
        disk.write_at(&data, nth % 16 * kib64 as u64, false).unwrap();
    };
    let mut written = 0;
    for _ in 0..4 {
        // Over one MiB again and again, to 40 % of the disk and more.
        while tracker.status().disks[0].active_bytes < 7 * MIB {
            write(written);
            written += 1;
        }
        std::thread::scope(|scope| {
            let guest = scope.spawn(|| (written..written + 8).for_each(write));
            tracker.compact_large().unwrap();
            guest.join().unwrap();
        });
        written += 8;
        let left = tracker.status().disks[0].active_bytes;
        assert!((MIB..2 * MIB).contains(&left), "{left}");
        assert!(logs(&files).iter().all(|log| !log.ends_with("compact")));
    }
    tracker.compact_large().unwrap();
    write(written);
    let expected = content(&machine.raw(0));
    // As after kill -9, and in a cut.
    files.restart();
    let tracker = machine.open(BOOT).unwrap();
    assert!(tracker.status().tracking, "{:?}", tracker.status().broken);
    assert!(content(&machine.raw(0)) == expected);
    tracker.acknowledge(1).unwrap();
    let cut = tracker.cut(2).unwrap();
    let log = LogReader::open(&*files, &cut.logs[0].path, HeaderTrust::Verified).unwrap();
    let copy = RawDisk::create(&*files, Path::new("/copy"), SIZE).unwrap();
    log.apply_to(&copy).unwrap();
    assert!(content(&copy) == expected, "the log leads to the disk");
}

#[test]
fn a_guest_at_rest_for_a_cut_waits_for_no_compaction() {
    fn never() {
        panic!("there is nothing to be at rest for");
    }
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    (0..7).for_each(|_| disk.write_at(&vec![1; MIB as usize], 0, false).unwrap());
    let compacted = || logs(&files).iter().any(|log| log.ends_with("compact"));
    let active_bytes = || tracker.status().disks[0].active_bytes;
    let (cut, compaction) = std::thread::scope(|scope| {
        let mut compaction = None;
        let rest = || {
            compaction = Some(scope.spawn(|| tracker.compact_large()));
            std::thread::sleep(Duration::from_millis(200));
            // What a guest does that comes to rest.
            disk.write_at(&[2; 512], MIB, true).unwrap();
            assert!(7 * MIB <= active_bytes() && !compacted(), "a log was compacted");
        };
        let go_on = || {
            assert!(active_bytes() < MIB, "the instant of the cut is over");
            assert!(!compacted());
            disk.write_at(&[3; 512], 2 * MIB, true).unwrap();
        };
        let cut = tracker.cut_at_rest(1, rest, go_on).unwrap();
        (cut, compaction.unwrap().join().unwrap())
    });
    compaction.unwrap();
    assert!(cut.logs[0].bytes < 2 * MIB, "it is compacted when the guest goes on");
    let log = LogReader::open(&*files, &cut.logs[0].path, HeaderTrust::Verified).unwrap();
    let copy = RawDisk::create(&*files, Path::new("/copy"), SIZE).unwrap();
    log.apply_to(&copy).unwrap();
    let first = [content(&copy)[0], content(&copy)[MIB as usize], content(&copy)[2 * MIB as usize]];
    assert_eq!(first, [1, 2, 0]);
    assert_eq!(tracker.cut_at_rest(1, never, never).unwrap(), cut);
    tracker.acknowledge(1).unwrap();
    let used = tracker.cut_at_rest(1, never, never);
    assert!(matches!(used, Err(TrackError::NumberUsed { .. })), "{used:?}");
}

#[test]
fn logs_that_reach_half_of_the_disk_end_tracking_and_are_dropped_and_the_guest_goes_on() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    tracker.resolve_suspect(1).unwrap();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    let megabyte = vec![1; MIB as usize];
    disk.write_at(&megabyte, 0, false).unwrap();
    disk.write_at(&megabyte, MIB, false).unwrap();
    tracker.cut(1).unwrap();
    for nth in 2..7 {
        disk.write_at(&megabyte, nth * MIB, false).unwrap();
    }
    let status = tracker.status();
    assert!(status.tracking);
    assert!((0.43..0.5).contains(&status.disks[0].log_share()), "{status:?}");
    disk.write_at(&megabyte, 7 * MIB, true).unwrap();
    let Some(broken @ Broken::LogsTooLarge { log_bytes, size_bytes: SIZE, .. }) =
        tracker.status().broken
    else {
        panic!("{:?}", tracker.status())
    };
    assert!((8 * MIB..9 * MIB).contains(&log_bytes));
    assert_eq!(logs(&files), Vec::<String>::new());
    assert_eq!(tracker.transit(), None);
    assert!(matches!(tracker.acknowledge(1), Err(TrackError::Broken(reason)) if reason == broken));
    assert!(matches!(tracker.cut(2), Err(TrackError::Broken(reason)) if reason == broken));
    disk.write_at(&[2; 512], 12 * MIB, true).unwrap();
    let suspect = Suspect::Ranges(vec![0..8 * MIB, 12 * MIB..12 * MIB + CHUNK_BYTES]);
    assert_eq!(tracker.suspect(Machine::id(0)), suspect);

    // The reason and what is suspect survive a restart and a power loss.
    tracker.close().unwrap();
    files.lose_power();
    let tracker = machine.open(super::NEXT_BOOT).unwrap();
    assert_eq!(tracker.status().broken, Some(broken));
    assert_eq!(tracker.suspect(Machine::id(0)), suspect);
    assert_eq!(content(&machine.raw(0))[..8 << 20], vec![1; 8 << 20]);
    tracker.start().unwrap();
    assert!(tracker.status().tracking);
}

#[test]
fn logs_that_a_kill_kept_from_being_dropped_are_dropped_by_the_next_start() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    for nth in 0..8 {
        disk.write_at(&vec![1; MIB as usize], nth * MIB, false).unwrap();
    }
    files.restart();
    assert_eq!(logs(&files), ["disk0.hrl", "disk0.hrl.tail"]);
    let tracker = machine.open(BOOT).unwrap();
    assert!(matches!(tracker.status().broken, Some(Broken::LogsTooLarge { .. })));
    assert_eq!(logs(&files), Vec::<String>::new());
}

#[test]
fn logs_that_are_shipped_in_time_never_end_tracking() {
    let (_, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    for number in 1..20 {
        for nth in 0..3 {
            disk.write_at(&vec![1; MIB as usize], nth * MIB, false).unwrap();
        }
        tracker.cut(number).unwrap();
        tracker.acknowledge(number).unwrap();
    }
    assert!(tracker.status().tracking);
}

#[test]
fn the_forecast_says_when_the_limit_is_reached() {
    let (_, machine) = Machine::in_memory(1, 1, SIZE);
    let (tracker, clock) = with_clock(&machine);
    tracker.start().unwrap();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    assert_eq!(tracker.status().disks[0].full_at, None);
    for second in 1..=30 {
        clock.0.store(second * 1000, Ordering::Relaxed);
        disk.write_at(&vec![1; 100_352], 0, false).unwrap();
        tracker.status();
    }
    // Of 8 MiB, 8192 + 30 x 100352 bytes are taken, and the rest lasts 53.5 s at this rate.
    let full_at = tracker.status().disks[0].full_at.unwrap().as_millis();
    assert!((82_000..85_000).contains(&full_at), "{full_at}");
    tracker.cut(1).unwrap();
    tracker.acknowledge(1).unwrap();
    clock.0.store(31_000, Ordering::Relaxed);
    assert_eq!(tracker.status().disks[0].full_at, None, "all of it was shipped");
}

#[test]
fn a_volume_that_fills_up_is_reported_before_a_log_cannot_be_written() {
    let (files, machine) = Machine::in_memory(1, 2, SIZE);
    let tracker = machine.tracking();
    assert_eq!(tracker.status().low_space, None);
    files.set_free_bytes(40 * MIB);
    let low = tracker.status().low_space.unwrap();
    assert_eq!((low.free_bytes, low.needed_bytes), (40 * MIB, 64 * MIB));
    assert_eq!(low.code(), Code::LogVolumeFull);
    // What is shipped can be removed, so a cut that still has room is made.
    tracker.cut(1).unwrap();
    tracker.acknowledge(1).unwrap();
    files.set_free_bytes(1000);
    let error = tracker.cut(2).unwrap_err();
    assert!(matches!(error, TrackError::LowSpace(_)), "{error}");
    assert_eq!(error.code(), Code::LogVolumeFull);
    assert!(error.to_string().contains("/vm"), "{error}");
    assert!(tracker.status().tracking);
    files.set_free_bytes(u64::MAX);
    tracker.cut(2).unwrap();
    // Around the mark it is told once.
    for (free_bytes, is_low) in
        [(100, false), (70, false), (63, true), (70, true), (80, false), (70, false)]
    {
        files.set_free_bytes(free_bytes * MIB);
        assert_eq!(tracker.status().low_space.is_some(), is_low, "{free_bytes} MiB");
    }
}

/// Tracks a disk that was overwritten much, up to just before a cut that compacts its log; what it was
/// at the start of the chain is all zeroes.
fn overwritten(machine: &Machine, boot: BootId) -> Arc<Tracker> {
    let tracker = machine.open(boot).unwrap();
    tracker.start().unwrap();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    for nth in 0..14_u8 {
        disk.write_at(&vec![nth + 1; 512 << 10], u64::from(nth % 3) * 40 * 512, false).unwrap();
    }
    disk.zero(10_240..30_720, true, false).unwrap();
    disk.write_at(&[77; 1000], 12_000, false).unwrap();
    tracker
}

fn replayed(files: &dyn Files, log: &Path) -> Vec<u8> {
    let copy = RawDisk::create(&*MemoryFiles::new(0), Path::new("/copy"), SIZE).unwrap();
    LogReader::open(files, log, HeaderTrust::Verified).unwrap().apply_to(&copy).unwrap();
    content(&copy)
}

#[test]
fn a_large_log_that_overwrites_itself_is_compacted_and_stays_the_same_cut() {
    let (_, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = overwritten(&machine, BOOT);
    let before = tracker.status().disks[0];
    let expected = content(&machine.raw(0));
    let cut = tracker.cut(1).unwrap();
    tracker.disk(Machine::id(0)).unwrap().write_at(&[99; 512], 0, false).unwrap();
    let log = LogReader::open(&*machine.files, &cut.logs[0].path, HeaderTrust::Verified).unwrap();
    assert_eq!(log.header().unique_id, cut.logs[0].unique_id);
    assert_eq!(log.header().previous_unique_id, cut.logs[0].previous_unique_id);
    assert_eq!(log.end(), cut.logs[0].bytes);
    assert!(log.end() < before.active_bytes / 5, "{} of {}", log.end(), before.active_bytes);
    assert!(replayed(&*machine.files, &cut.logs[0].path) == expected);
    assert!(tracker.status().disks[0].transit_bytes <= log.end());
    assert_eq!(tracker.cut(1).unwrap(), cut);
    assert_eq!(tracker.transit(), Some(cut.clone()));
    tracker.close().unwrap();
    let tracker = machine.open(BOOT).unwrap();
    assert_eq!(tracker.transit(), Some(cut));
    tracker.acknowledge(1).unwrap();
    let next = tracker.cut(2).unwrap();
    assert_eq!(next.logs[0].previous_unique_id, log.header().unique_id);
}

#[test]
fn a_crash_at_any_call_of_a_compaction_leaves_the_log_or_the_compacted_log() {
    let (files, machine) = Machine::in_memory(5, 1, SIZE);
    let tracker = overwritten(&machine, BOOT);
    let before = files.calls();
    let expected = content(&machine.raw(0));
    tracker.cut(1).unwrap();
    let calls = files.calls() - before;
    let mut seen = [0, 0];
    for call in 0..=calls {
        let (files, machine) = Machine::in_memory(5, 1, SIZE);
        let tracker = overwritten(&machine, BOOT);
        files.kill_after(call);
        assert_eq!(tracker.cut(1).is_ok() && !files.is_killed(), call == calls);
        let boot = if call % 2 == 0 {
            files.restart();
            BOOT
        } else {
            files.lose_power();
            super::NEXT_BOOT
        };
        let tracker = machine.open(boot).unwrap();
        if let Some(cut) = tracker.transit() {
            seen[usize::from(cut.logs[0].bytes < 2 * MIB)] += 1;
            assert!(replayed(&*files, &cut.logs[0].path) == expected, "call {call}");
            tracker.acknowledge(1).unwrap();
        }
        tracker.start_again().unwrap();
        assert_eq!(logs(&files), ["disk0.hrl", "disk0.hrl.tail"], "call {call}");
    }
    assert!(seen.iter().all(|times| 0 < *times), "{seen:?}");
}
