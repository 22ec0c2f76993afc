//! Tests of `disk`.

mod conformance;
mod crash;
mod files;
mod fuzz;
mod growing;
mod hrl;
mod joining;
mod kill;
mod nbd;
mod offline;
mod room;
mod suspects;
mod tracker;
mod undurable;

use lifeboat::disk::files::{MemoryFiles, RealFiles};
use lifeboat::disk::nbd::{Client, Endpoint, Exports, Server};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{BootId, DiskSpec, TrackError, Tracker};
use lifeboat::domain::id::DiskId;
use lifeboat::domain::time::Timestamp;
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::clock::Clock;
use lifeboat::ports::files::{Files, Open};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// A clock that stands still at 2026-01-01.
#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_767_225_600_000)
    }
}

const BOOT: BootId = BootId(Uuid::from_u128(1));
const NEXT_BOOT: BootId = BootId(Uuid::from_u128(2));

/// A VM with some disks in one folder, on any file system.
struct Machine {
    files: Arc<dyn Files>,
    folder: PathBuf,
    disks: u128,
}

impl Machine {
    fn new(files: Arc<dyn Files>, folder: &Path, disks: u128, size_bytes: u64) -> Self {
        let machine = Self { files, folder: folder.to_owned(), disks };
        for disk in 0..disks {
            let image = machine.image(disk);
            RawDisk::create(&*machine.files, &image, size_bytes).unwrap().flush().unwrap();
        }
        machine.files.sync_dir(&machine.folder).unwrap();
        machine
    }

    fn in_memory(seed: u64, disks: u128, size_bytes: u64) -> (Arc<MemoryFiles>, Self) {
        let files = MemoryFiles::new(seed);
        let machine = Self::new(files.clone(), Path::new("/vm"), disks, size_bytes);
        (files, machine)
    }

    fn id(disk: u128) -> DiskId {
        DiskId(Uuid::from_u128(disk + 1))
    }

    fn image(&self, disk: u128) -> PathBuf {
        self.folder.join(format!("disk{disk}.img"))
    }

    fn raw(&self, disk: u128) -> RawDisk {
        RawDisk::open(&*self.files, &self.image(disk), Open::Write).unwrap()
    }

    fn open(&self, boot: BootId) -> Result<Arc<Tracker>, TrackError> {
        let spec = |disk| DiskSpec {
            id: Self::id(disk),
            name: format!("disk{disk}"),
            device: Arc::new(self.raw(disk)),
        };
        let specs = (0..self.disks).map(spec).collect();
        Tracker::open(self.files.clone(), &self.folder, specs, boot, Arc::new(StoppedClock))
    }

    fn tracking(&self) -> Arc<Tracker> {
        let tracker = self.open(BOOT).unwrap();
        tracker.start().unwrap();
        tracker
    }
}

/// Everything that a disk holds.
fn content(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.size_bytes() as usize];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Numbers below a bound, which follow from `seed`.
fn choices(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |bound| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    }
}

/// A server on a Unix socket in a folder of its own, offering one disk as `disk`.
struct Served {
    folder: tempfile::TempDir,
    exports: Arc<Exports>,
    server: Server,
}

impl Served {
    fn new(device: impl FnOnce(&Path) -> Arc<dyn BlockDevice>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let exports = Arc::new(Exports::default());
        exports.add("disk", device(folder.path()));
        let endpoint = Endpoint::Unix(folder.path().join("nbd.sock"));
        let server = Server::bind(&endpoint, exports.clone()).unwrap();
        Self { folder, exports, server }
    }

    /// A raw image of `size_bytes`.
    fn raw(size_bytes: u64) -> Self {
        Self::new(|folder| {
            let path = folder.join("disk.img");
            Arc::new(RawDisk::create(&RealFiles, &path, size_bytes).unwrap())
        })
    }

    fn client(&self) -> Client {
        Client::connect(self.server.endpoint(), "disk").unwrap()
    }
}
