//! The tracker while nothing crashes: what a cut holds, and what ends tracking.

use super::{BOOT, Machine, NEXT_BOOT, StoppedClock, content};
use lifeboat::disk::files::{MemoryFiles, RealFiles};
use lifeboat::disk::hrl::{HeaderTrust, LogReader};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{Broken, Cut, DiskSpec, TrackError, Tracker};
use lifeboat::domain::id::DiskId;
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::clock::Clock;
use lifeboat::ports::files::{Files, Open};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use uuid::Uuid;

const SIZE: u64 = 1 << 20;

/// What a vault would hold: every cut applied to a copy of the disks.
struct Replica {
    disks: Vec<RawDisk>,
}

impl Replica {
    fn of(machine: &Machine) -> Self {
        let files = MemoryFiles::new(0);
        let copy = |disk| {
            let path = format!("/{disk}");
            let copy = RawDisk::create(&*files, Path::new(&path), machine.raw(disk).size_bytes());
            let copy = copy.unwrap();
            copy.write_at(&content(&machine.raw(disk)), 0, false).unwrap();
            copy
        };
        Self { disks: (0..machine.disks).map(copy).collect() }
    }

    fn apply(&self, files: &dyn Files, cut: &Cut) {
        for (disk, log) in self.disks.iter().zip(&cut.logs) {
            let log = LogReader::open(files, &log.path, HeaderTrust::Verified).unwrap();
            log.apply_to(disk).unwrap();
        }
    }

    fn assert_equals(&self, machine: &Machine) {
        for (index, disk) in self.disks.iter().enumerate() {
            assert!(content(disk) == content(&machine.raw(index as u128)), "disk {index} differs");
        }
    }
}

/// A disk that lets others go first, some writes longer than others.
#[derive(Debug)]
struct Hesitant(RawDisk);

impl BlockDevice for Hesitant {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64, fua: bool) -> io::Result<()> {
        for _ in 0..data[0] % 16 {
            thread::yield_now();
        }
        self.0.write_at(data, offset, fua)
    }

    fn zero(&self, range: Range<u64>, punch: bool, fua: bool) -> io::Result<()> {
        self.0.zero(range, punch, fua)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.0.next_data(from)
    }
}

/// Ends the writers also where a check fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn ship(tracker: &Tracker, machine: &Machine, replica: &Replica, number: u64) -> Cut {
    let cut = tracker.cut(number).unwrap();
    replica.apply(&*machine.files, &cut);
    tracker.acknowledge(number).unwrap();
    cut
}

fn broken(tracker: &Tracker) -> Broken {
    tracker.status().broken.expect("tracking should be broken")
}

#[test]
fn cuts_hold_the_writes_between_them_and_chain() {
    let (_, machine) = Machine::in_memory(1, 2, SIZE);
    let tracker = machine.open(BOOT).unwrap();
    let disks = [0, 1].map(|disk| tracker.disk(Machine::id(disk)).unwrap());
    disks[0].write_at(&[9; 512], 0, false).unwrap();
    assert!(!tracker.status().tracking);
    assert!(matches!(tracker.cut(1), Err(TrackError::NotTracking)));
    tracker.start().unwrap();
    tracker.start().unwrap();
    let replica = Replica::of(&machine);
    disks[0].write_at(&[1; 4096], 4096, false).unwrap();
    disks[1].write_at(&[2; 100], 777, false).unwrap();
    let first = ship(&tracker, &machine, &replica, 1);
    replica.assert_equals(&machine);
    disks[0].zero(300..200_000, true, false).unwrap();
    disks[1].zero(777..800, false, true).unwrap();
    disks[1].write_at(&vec![3; 3 << 18], 1000, true).unwrap();
    let second = ship(&tracker, &machine, &replica, 2);
    replica.assert_equals(&machine);
    assert_eq!(first.at, StoppedClock.now());
    for (first, second) in first.logs.iter().zip(&second.logs) {
        assert_eq!(first.previous_unique_id, Uuid::nil());
        assert_eq!(second.previous_unique_id, first.unique_id);
        assert_eq!(
            second.path.file_name().unwrap().to_str().unwrap().split_once('.').unwrap().1,
            "hrl.2.transit"
        );
    }
}

#[test]
fn a_cut_is_the_same_until_it_is_acknowledged() {
    let (_, machine) = Machine::in_memory(1, 2, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    disk.write_at(&[1; 512], 0, false).unwrap();
    let cut = tracker.cut(5).unwrap();
    disk.write_at(&[2; 512], 0, false).unwrap();
    assert_eq!(tracker.cut(5).unwrap(), cut);
    assert_eq!(tracker.transit(), Some(cut.clone()));
    assert!(matches!(tracker.cut(6), Err(TrackError::InTransit { number: 5 })));
    assert!(matches!(tracker.acknowledge(6), Err(TrackError::NotInTransit { number: 6 })));
    let status = tracker.status();
    assert!(status.disks[0].active_bytes > 8192 && status.disks[0].transit_bytes > 8192);
    tracker.acknowledge(5).unwrap();
    tracker.acknowledge(5).unwrap();
    assert_eq!(tracker.transit(), None);
    assert!(!machine.files.exists(&cut.logs[0].path));
    assert!(matches!(tracker.cut(5), Err(TrackError::NumberUsed { number: 5, last: 5 })));
    tracker.cut(6).unwrap();
}

#[test]
fn stopping_drops_every_log_and_another_start_is_another_chain() {
    let (files, machine) = Machine::in_memory(1, 2, SIZE);
    let tracker = machine.tracking();
    let first = tracker.cut(1).unwrap();
    tracker.stop().unwrap();
    tracker.stop().unwrap();
    assert_eq!(tracker.transit(), None);
    let names: Vec<_> = files.list(Path::new("/vm")).unwrap();
    assert!(names.iter().all(|path| !path.to_str().unwrap().contains("hrl")), "{names:?}");
    tracker.start().unwrap();
    let second = tracker.cut(1).unwrap();
    assert_ne!(first.logs[0].unique_id, second.logs[0].unique_id);
    assert_eq!(second.logs[0].previous_unique_id, Uuid::nil());
}

#[test]
fn a_closed_tracker_refuses_writes_and_the_next_goes_on_with_the_same_logs() {
    let (_, machine) = Machine::in_memory(1, 2, SIZE);
    let tracker = machine.tracking();
    let replica = Replica::of(&machine);
    let disk = tracker.disk(Machine::id(1)).unwrap();
    disk.write_at(&[1; 512], 0, false).unwrap();
    let in_transit = tracker.cut(1).unwrap();
    disk.write_at(&[2; 512], 512, false).unwrap();
    tracker.close().unwrap();
    tracker.close().unwrap();
    assert_eq!(disk.write_at(&[3; 512], 0, false).unwrap_err().kind(), ErrorKind::NotConnected);
    assert!(matches!(tracker.cut(2), Err(TrackError::InTransit { .. })));
    assert!(matches!(tracker.start(), Err(TrackError::Closed)));

    let tracker = machine.open(NEXT_BOOT).unwrap();
    assert!(tracker.status().tracking);
    assert_eq!(tracker.transit(), Some(in_transit.clone()));
    replica.apply(&*machine.files, &in_transit);
    tracker.acknowledge(1).unwrap();
    tracker.disk(Machine::id(1)).unwrap().write_at(&[4; 512], 1024, false).unwrap();
    ship(&tracker, &machine, &replica, 2);
    replica.assert_equals(&machine);
}

#[test]
fn overlapping_writers_leave_log_and_disk_equal() {
    let folder = tempfile::tempdir().unwrap();
    // Room for logs that are half as large.
    let machine = Machine::new(Arc::new(RealFiles), folder.path(), 1, 32 << 20);
    let device = Arc::new(Hesitant(machine.raw(0)));
    let spec = DiskSpec { id: Machine::id(0), name: "disk0".to_owned(), device };
    let (files, clock) = (machine.files.clone(), Arc::new(StoppedClock));
    let tracker = Tracker::open(files, folder.path(), vec![spec], BOOT, clock).unwrap();
    tracker.start().unwrap();
    let replica = Replica::of(&machine);
    let disk = tracker.disk(Machine::id(0)).unwrap();
    thread::scope(|scope| {
        for writer in 0..4_u64 {
            let disk = &disk;
            scope.spawn(move || {
                for nth in 0..400_u64 {
                    let mix = (writer * 1000 + nth).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
                    let offset = mix % 100 * 512 + mix % 3 * 17;
                    let data = vec![(nth * 4 + writer) as u8; 1024 + (mix % 7) as usize * 512];
                    disk.write_at(&data, offset, nth % 97 == 0).unwrap();
                    if nth % 50 == 0 {
                        disk.zero(offset..offset + 4096, true, false).unwrap();
                    }
                }
            });
        }
        for number in 1..10 {
            ship(&tracker, &machine, &replica, number);
        }
    });
    ship(&tracker, &machine, &replica, 10);
    replica.assert_equals(&machine);
}

#[test]
fn a_cut_is_one_instant_for_all_disks() {
    const WRITERS: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new(Arc::new(RealFiles), folder.path(), 2, 1 << 16);
    let tracker = machine.tracking();
    let replica = Replica::of(&machine);
    let disks = [0, 1].map(|disk| tracker.disk(Machine::id(disk)).unwrap());
    let done = AtomicBool::new(false);
    // Bounds how far the writers run ahead, so that a slow machine ships as fast as they write.
    let allowed = AtomicU64::new(0);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (disks, done, allowed) = (&disks, &done, &allowed);
            scope.spawn(move || {
                let mut count = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    if allowed.load(Ordering::Relaxed) <= count {
                        thread::yield_now();
                        continue;
                    }
                    count += 1;
                    let mut sector = [0; 512];
                    sector[..8].copy_from_slice(&count.to_le_bytes());
                    // The second write depends on the first: it is made once that is acknowledged.
                    disks[0].write_at(&sector, writer as u64 * 512, false).unwrap();
                    disks[1].write_at(&sector, writer as u64 * 512, false).unwrap();
                }
            });
        }
        let _ends = SetOnDrop(&done);
        for number in 1..30 {
            allowed.fetch_add(400, Ordering::Relaxed);
            ship(&tracker, &machine, &replica, number);
            for writer in 0..WRITERS {
                let [first, second] = [0, 1].map(|disk| {
                    let mut count = [0; 8];
                    replica.disks[disk].read_at(&mut count, writer as u64 * 512).unwrap();
                    u64::from_le_bytes(count)
                });
                assert!(second <= first && first <= second + 1, "{first} then {second}");
            }
        }
    });
}

#[test]
fn a_log_that_cannot_be_written_never_fails_the_guest() {
    for refused in ["/vm/disk0.hrl", "/vm/disk0.hrl.tail"] {
        let (files, machine) = Machine::in_memory(1, 2, SIZE);
        let tracker = machine.tracking();
        let disk = tracker.disk(Machine::id(0)).unwrap();
        disk.write_at(&[1; 512], 0, false).unwrap();
        files.refuse(Path::new(refused), Some(ErrorKind::StorageFull));
        disk.write_at(&[2; 512], 0, true).unwrap();
        disk.flush().unwrap();
        let Broken::LogWriteFailed { disk: which, path, .. } = broken(&tracker) else {
            panic!("another reason")
        };
        assert_eq!((which, path.as_path()), (Machine::id(0), Path::new(refused)));
        assert!(matches!(tracker.cut(1), Err(TrackError::Broken(Broken::LogWriteFailed { .. }))));
        files.refuse(Path::new(refused), None);
        disk.write_at(&[3; 512], 512, false).unwrap();

        // The reason survives a restart, and the logs are not applied over later writes.
        files.restart();
        let tracker = machine.open(BOOT).unwrap();
        assert!(matches!(broken(&tracker), Broken::LogWriteFailed { .. }));
        assert_eq!(content(&machine.raw(0))[..1024], [[2; 512], [3; 512]].concat());
        tracker.start().unwrap();
        assert_eq!(tracker.status().broken, None);
        tracker.cut(1).unwrap();
    }
}

#[test]
fn a_full_volume_that_takes_no_state_still_keeps_old_logs_from_being_applied() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    disk.write_at(&[1; 512], 0, false).unwrap();
    for path in ["/vm/disk0.hrl.tail", "/vm/tracking.state.next"] {
        files.refuse(Path::new(path), Some(ErrorKind::StorageFull));
    }
    disk.write_at(&[2; 512], 0, false).unwrap();
    for path in ["/vm/disk0.hrl.tail", "/vm/tracking.state.next"] {
        files.refuse(Path::new(path), None);
    }
    files.restart();
    let tracker = machine.open(BOOT).unwrap();
    assert!(matches!(broken(&tracker), Broken::LogDamaged { .. }));
    assert_eq!(content(&machine.raw(0))[..512], [2; 512]);
}

#[test]
fn what_was_flushed_into_a_log_survives_the_end_of_that_log() {
    for seed in 0..32 {
        let (files, machine) = Machine::in_memory(seed, 2, SIZE);
        let tracker = machine.tracking();
        let disks = [0, 1].map(|disk| tracker.disk(Machine::id(disk)).unwrap());
        disks[0].write_at(&[1; 4096], 0, true).unwrap();
        files.refuse(Path::new("/vm/disk1.hrl"), Some(ErrorKind::StorageFull));
        disks[1].write_at(&[2; 512], 0, false).unwrap();
        assert!(tracker.status().broken.is_some());
        files.refuse(Path::new("/vm/disk1.hrl"), None);
        files.lose_power();
        machine.open(NEXT_BOOT).unwrap();
        assert_eq!(content(&machine.raw(0))[..4096], [1; 4096], "seed {seed}");
    }
}

#[test]
fn a_flush_that_the_log_refuses_is_made_by_the_disk() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    disk.write_at(&[1; 512], 0, false).unwrap();
    files.refuse(Path::new("/vm/disk0.hrl"), Some(ErrorKind::Other));
    disk.flush().unwrap();
    assert!(matches!(broken(&tracker), Broken::LogWriteFailed { .. }));
    files.refuse(Path::new("/vm/disk0.hrl"), None);
    files.lose_power();
    let tracker = machine.open(NEXT_BOOT).unwrap();
    assert!(tracker.status().broken.is_some());
    assert_eq!(content(&machine.raw(0))[..512], [1; 512]);
}

#[test]
fn a_write_that_the_disk_refuses_leaves_the_log_with_what_the_disk_holds() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let replica = Replica::of(&machine);
    let disk = tracker.disk(Machine::id(0)).unwrap();
    disk.write_at(&[1; 512], 0, false).unwrap();
    files.refuse(&machine.image(0), Some(ErrorKind::StorageFull));
    let error = disk.write_at(&[2; 512], 0, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    files.refuse(&machine.image(0), None);
    ship(&tracker, &machine, &replica, 1);
    replica.assert_equals(&machine);
    assert_eq!(content(&machine.raw(0))[..512], [1; 512]);
}

#[test]
fn logs_are_kept_while_the_disk_cannot_be_made_durable() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let cut = tracker.cut(1).unwrap();
    files.refuse(&machine.image(0), Some(ErrorKind::Other));
    assert!(matches!(tracker.acknowledge(1), Err(TrackError::NotDurable { .. })));
    assert!(matches!(tracker.acknowledge(1), Err(TrackError::NotDurable { .. })));
    assert!(machine.files.exists(&cut.logs[0].path));
    files.refuse(&machine.image(0), None);
    tracker.acknowledge(1).unwrap();
    assert!(!machine.files.exists(&cut.logs[0].path));
}

/// A disk as the kernel keeps it: a flush that fails is reported once, and what it was to make durable is
/// gone.
#[derive(Debug)]
struct Forgetful {
    disk: RawDisk,
    durable: Mutex<Vec<u8>>,
    /// Flushes that fail from now on.
    fails: AtomicU64,
}

impl BlockDevice for Forgetful {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64, fua: bool) -> io::Result<()> {
        self.disk.write_at(data, offset, fua)
    }

    fn zero(&self, range: Range<u64>, punch: bool, fua: bool) -> io::Result<()> {
        self.disk.zero(range, punch, fua)
    }

    fn flush(&self) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap();
        let left = self.fails.load(Ordering::Relaxed);
        if left == 0 {
            *durable = content(&self.disk);
            return self.disk.flush();
        }
        self.fails.store(left - 1, Ordering::Relaxed);
        self.disk.write_at(&durable, 0, false).unwrap();
        Err(io::Error::from_raw_os_error(5))
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.disk.next_data(from)
    }
}

#[test]
fn what_a_disk_lost_with_a_failed_flush_is_written_to_it_again_from_its_logs() {
    // A flush that fails once, or again at every attempt but the last.
    for fails in [1, 3] {
        let (files, machine) = Machine::in_memory(1, 1, SIZE);
        let replica = Replica::of(&machine);
        let (durable, none) = (Mutex::new(vec![0; SIZE as usize]), AtomicU64::new(0));
        let device = Arc::new(Forgetful { disk: machine.raw(0), durable, fails: none });
        let spec = DiskSpec {
            id: Machine::id(0),
            name: "disk0".to_owned(),
            device: Arc::clone(&device) as Arc<dyn BlockDevice>,
        };
        let clock = Arc::new(StoppedClock);
        let tracker =
            Tracker::open(files.clone(), &machine.folder, vec![spec], BOOT, clock).unwrap();
        tracker.start().unwrap();
        let disk = tracker.disk(Machine::id(0)).unwrap();
        disk.write_at(&[1; 4096], 0, false).unwrap();
        ship(&tracker, &machine, &replica, 1);
        disk.write_at(&[2; 4096], 1024, false).unwrap();
        disk.zero(0..512, true, false).unwrap();
        let cut = tracker.cut(2).unwrap();
        replica.apply(&*machine.files, &cut);
        disk.write_at(&[3; 512], 2048, false).unwrap();
        disk.flush().unwrap();
        let all = content(&device.disk);
        device.fails.store(fails, Ordering::Relaxed);
        for _ in 0..fails {
            let failed = tracker.acknowledge(2).unwrap_err();
            assert!(matches!(failed, TrackError::NotDurable { .. }), "{failed}");
            assert_eq!(content(&device.disk)[..4096], [1; 4096], "the kernel forgot it");
            assert!(tracker.status().tracking);
        }
        disk.write_at(&[4; 512], 8192, false).unwrap();
        tracker.acknowledge(2).unwrap();
        let mut expected = all;
        expected[8192..8704].fill(4);
        assert_eq!(content(&device.disk), expected, "{fails}");
        // Nothing is lost for the replica either, and nothing of it waits for the logs any more.
        ship(&tracker, &machine, &replica, 3);
        replica.assert_equals(&machine);
        assert_eq!(*device.durable.lock().unwrap(), expected);
    }
}

#[test]
fn missing_and_damaged_logs_break_tracking_with_the_reason() {
    type Harm = fn(&MemoryFiles);
    fn flip(files: &MemoryFiles, path: &str) {
        let file = files.open(Path::new(path), Open::Write).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 8192 + 100).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 8192 + 100).unwrap();
    }
    let harms: [(Harm, &str); 5] = [
        (
            |files| files.remove(Path::new("/vm/disk1.hrl")).unwrap(),
            "find replication log /vm/disk1.hrl:",
        ),
        (
            |files| files.remove(Path::new("/vm/disk0.hrl.tail")).unwrap(),
            "find replication log /vm/disk0.hrl.tail",
        ),
        (
            |files| files.remove(Path::new("/vm/disk0.hrl.1.transit")).unwrap(),
            "disk0.hrl.1.transit: it is gone",
        ),
        (|files| flip(files, "/vm/disk0.hrl"), "the data's checksum does not hold at byte 8192"),
        (
            |files| flip(files, "/vm/disk1.hrl.1.transit"),
            "disk1.hrl.1.transit: the data's checksum does not hold at byte 8192",
        ),
    ];
    for (harm, said) in harms {
        let (files, machine) = Machine::in_memory(1, 2, SIZE);
        let tracker = machine.tracking();
        for disk in [0, 1] {
            let disk = tracker.disk(Machine::id(disk)).unwrap();
            disk.write_at(&[1; 512], 0, false).unwrap();
        }
        tracker.cut(1).unwrap();
        for disk in [0, 1] {
            let disk = tracker.disk(Machine::id(disk)).unwrap();
            disk.write_at(&[2; 512], 0, false).unwrap();
        }
        files.restart();
        harm(&files);
        let tracker = machine.open(BOOT).unwrap();
        let reason = broken(&tracker).to_string();
        assert!(reason.contains(said), "{reason}");
        for disk in [0, 1] {
            assert_eq!(content(&machine.raw(disk))[..512], [2; 512], "acknowledged writes stay");
        }
    }
}

#[test]
fn a_log_of_an_older_chain_is_refused() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let log = files.open(Path::new("/vm/disk0.hrl"), Open::Read).unwrap();
    tracker.disk(Machine::id(0)).unwrap().write_at(&[1; 512], 0, false).unwrap();
    let mut old = vec![0; log.len().unwrap() as usize];
    log.read_exact_at(&mut old, 0).unwrap();
    tracker.stop().unwrap();
    tracker.start().unwrap();
    let path = Path::new("/vm/disk0.hrl");
    files.open(path, Open::Write).unwrap().write_all_at(&old, 0).unwrap();
    files.restart();
    let reason = broken(&machine.open(BOOT).unwrap());
    assert!(reason.to_string().contains("does not continue its chain"), "{reason}");
}

#[test]
fn another_set_of_disks_breaks_tracking() {
    let (files, machine) = Machine::in_memory(1, 2, SIZE);
    machine.tracking();
    files.restart();
    let fewer = Machine { disks: 1, ..machine };
    assert_eq!(broken(&fewer.open(BOOT).unwrap()), Broken::DiskChanged { disk: Machine::id(1) });
}

#[test]
fn a_damaged_state_is_an_error_that_names_the_file() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    machine.tracking();
    files.restart();
    let path = Path::new("/vm/tracking.state");
    files.open(path, Open::Write).unwrap().write_all_at(&[0xff], 30).unwrap();
    let error = machine.open(BOOT).unwrap_err();
    assert!(matches!(&error, TrackError::StateDamaged { .. }), "{error}");
    assert!(error.to_string().contains("/vm/tracking.state"), "{error}");
}

#[test]
fn names_that_would_leave_the_folder_are_refused() {
    let (files, machine) = Machine::in_memory(1, 1, SIZE);
    for name in ["", "../disk0", "a/b"] {
        let device = Arc::new(machine.raw(0));
        let id = DiskId(Uuid::nil());
        let spec = DiskSpec { id, name: name.to_owned(), device };
        let clock = Arc::new(StoppedClock);
        let outcome = Tracker::open(files.clone(), Path::new("/vm"), vec![spec], BOOT, clock);
        assert!(matches!(outcome, Err(TrackError::DiskName { .. })), "{name:?}");
    }
}
