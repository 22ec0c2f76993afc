//! Measures a disk's life in a vault against tools that copy, back up and bring back disks: the initial
//! copy, a delta of one per cent, and how soon a failed-over disk is read. One JSON line per row.
//!
//! `replica [folder] [MiB of files] [recovery points]`. The image is an ext4 file system, 1.8 times the
//! size of the files in it, which are this machine's own (`/usr`); it is in the page cache. Every copy
//! ends when its bytes are durable. What is in the page cache of one tool is in that of all.

use lifeboat::disk::files::RealFiles;
use lifeboat::disk::nbd::{Endpoint, Exports, NbdDisk, Server};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{BootId, DiskSpec, Tracker};
use lifeboat::domain::id::{DiskId, VaultId, VmId};
use lifeboat::domain::vm::{Disk, Vm};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::Open;
use lifeboat::ports::replication::Replication;
use lifeboat::replica::{KeyFile, Vault, VaultKeys};
use lifeboat::replication::{Engine, EngineParts, RecoverySite, Sources};
use lifeboat::service::{KernelRandom, SystemClock};
use lifeboat_bench::{UPLOADS, bring_memory, half_compressible, is_installed, row};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const DISK: &str = "disk";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let base = args.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let number = |nth: usize, default| {
        args.get(nth).map_or(default, |text: &String| text.parse().expect("a number"))
    };
    let (files_mib, points) = (number(1, 2200), number(2, 2880));
    let folder =
        tempfile::Builder::new().prefix("lifeboat-bench").tempdir_in(base).expect("folder");
    let folder = folder.path();
    let image = folder.join("image");
    let allocated = make_image(&image, folder, files_mib);
    eprintln!("an image with {} MiB of data", allocated / MIB);
    let changes = changes(fs::metadata(&image).expect("image").len(), allocated / 100);
    let changed: u64 = changes.iter().map(|(_, length)| length).sum();

    let peers = [Peer::Restic, Peer::Borg, Peer::Rsync, Peer::QemuImg];
    let peers: Vec<_> = peers.into_iter().filter(|peer| is_installed(peer.program())).collect();
    let copies: Vec<_> = peers
        .iter()
        .map(|peer| {
            let copy = folder.join(peer.program());
            (timed(|| peer.copy(&image, &copy)), copy)
        })
        .collect();
    let ours = Ours::new(&image, folder);
    let copy_s = timed(|| ours.copy());
    for (peer, (seconds, _)) in peers.iter().zip(&copies) {
        row("initial copy, seconds", copy_s, *seconds, peer.program());
    }
    row("initial copy, MiB stored", mib_in(&ours.vault), mib_in(&copies[0].1), peers[0].program());

    let before = mib_in(&ours.vault);
    ours.write(&changes);
    let delta_s = timed(|| ours.ship());
    for (peer, (_, copy)) in peers.iter().zip(&copies) {
        row("delta of 1 %, seconds", delta_s, timed(|| peer.copy(&image, copy)), peer.program());
    }
    let stored = mib_in(&ours.vault) - before;
    row("delta of 1 %, MiB stored", stored, changed as f64 / MIB as f64, "the changed bytes");

    (0..points).for_each(|nth| ours.one_more_point(nth));
    let read_s = timed(|| ours.fail_over_and_read());
    let work = format!("first read of a failed-over disk, {points} recovery points, seconds");
    for (peer, (_, copy)) in peers.iter().zip(&copies) {
        if let Peer::Restic = peer {
            row(&work, read_s, timed(|| restic_restore(copy, folder)), "restic restore");
        }
    }
    row(&work, read_s, 1.0, "limit");
    large_and_sparse(&folder.join("large"), points);
}

/// A disk of 1 TiB with 64 MiB of data: what depends on the size of a disk shows here.
fn large_and_sparse(folder: &Path, points: u64) {
    fs::create_dir(folder).expect("folder");
    let image = folder.join("image");
    let file = fs::File::create(&image).expect("image");
    file.set_len(1 << 40).expect("size the image");
    let mut piece = vec![0; MIB as usize];
    for nth in 0..64 {
        half_compressible(nth, &mut piece);
        // Some of it far behind.
        let offset = if nth % 2 == 0 { nth * MIB } else { nth << 34 };
        file.write_all_at(&piece, offset).expect("write the image");
    }
    file.sync_all().expect("sync the image");
    let ours = Ours::new(&image, folder);
    ours.copy();
    (0..points).for_each(|nth| ours.one_more_point(nth));
    let read_s = timed(|| ours.fail_over_and_read());
    let work = format!("first read of 1 TiB, sparse, {points} recovery points, seconds");
    row(&work, read_s, 1.0, "limit");
}

fn timed(work: impl FnOnce()) -> f64 {
    bring_memory();
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Makes an ext4 image of files of this machine; answers the bytes allocated to it.
fn make_image(image: &Path, folder: &Path, files_mib: u64) -> u64 {
    let tree = folder.join("tree");
    let mut left = files_mib * MIB;
    take_files(Path::new("/usr"), &tree, &mut left);
    let file = fs::File::create(image).expect("image");
    file.set_len(files_mib * MIB / 5 * 9).expect("size the image");
    let mut mkfs = Command::new("mkfs.ext4");
    run(mkfs.args(["-q", "-F", "-d"]).arg(&tree).arg(image));
    fs::remove_dir_all(&tree).expect("remove the tree");
    file.sync_all().expect("sync the image");
    fs::metadata(image).expect("image").blocks() * 512
}

/// Links files into `tree`, in the order of their names, until `left` bytes are there.
fn take_files(from: &Path, tree: &Path, left: &mut u64) {
    fs::create_dir_all(tree).expect("folder");
    let Ok(entries) = fs::read_dir(from) else { return };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let Ok(about) = path.symlink_metadata() else { continue };
        let into = tree.join(path.file_name().expect("a name"));
        if about.is_dir() {
            take_files(&path, &into, left);
        } else if about.is_file() && about.len() <= *left {
            let linked = fs::hard_link(&path, &into).or_else(|_| fs::copy(&path, &into).map(drop));
            *left -= if linked.is_ok() { about.len() } else { 0 };
        }
    }
}

/// Scattered places and lengths of about `bytes` in all: 60 % of them in pieces of 4 KiB, 25 % in
/// pieces of 64 KiB, 15 % in pieces of 1 MiB; four of five pieces in one of the disk's eighths.
fn changes(disk: u64, bytes: u64) -> Vec<(u64, u64)> {
    let mut state = 0x5eed_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % below
    };
    let mut changes = Vec::new();
    for (length, share) in [(4096, 60), (65_536, 25), (MIB, 15)] {
        for _ in 0..bytes * share / 100 / length {
            let eighth = if random(5) < 4 { 2 } else { random(8) };
            let within = random(disk / 8 / length - 1) * length;
            changes.push((eighth * (disk / 8) / length * length + within, length));
        }
    }
    changes
}

/// MiB that the files of a folder take.
fn mib_in(folder: &Path) -> f64 {
    fn bytes(path: &Path) -> u64 {
        let about = path.symlink_metadata().expect("metadata");
        if !about.is_dir() {
            return about.len();
        }
        let entries = fs::read_dir(path).expect("list");
        entries.map(|entry| bytes(&entry.expect("entry").path())).sum()
    }
    bytes(folder) as f64 / MIB as f64
}

enum Peer {
    Restic,
    Borg,
    Rsync,
    QemuImg,
}

impl Peer {
    fn program(&self) -> &'static str {
        match self {
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Rsync => "rsync",
            Self::QemuImg => "qemu-img",
        }
    }

    /// Brings `copy` into step with the image; makes it if it is not there.
    fn copy(&self, image: &Path, copy: &Path) {
        let first = !copy.exists();
        match self {
            Self::Restic => {
                if first {
                    run(restic(copy).arg("init"));
                }
                run(restic(copy).arg("backup").arg(image));
            }
            Self::Borg => {
                if first {
                    run(borg().args(["init", "--encryption=repokey"]).arg(copy));
                }
                let name = if first { "first" } else { "second" };
                let archive = format!("{}::{name}", copy.display());
                run(borg().args(["create", "--read-special", &archive]).arg(image));
            }
            Self::Rsync => {
                fs::create_dir_all(copy).expect("folder");
                let mut rsync = Command::new("rsync");
                let how: &[&str] = match first {
                    true => &["--sparse", "--whole-file"],
                    false => &["--inplace", "--no-whole-file", "--ignore-times"],
                };
                run(rsync.args(how).arg(image).arg(copy.join("image")));
            }
            Self::QemuImg => {
                fs::create_dir_all(copy).expect("folder");
                let mut convert = Command::new("qemu-img");
                let how = ["convert", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd"];
                run(convert.args(how).args(["-c", "-W", "-m", "2"]).arg(image).arg(copy.join("a")));
            }
        }
        run(Command::new("sync").arg("-f").arg(copy));
    }
}

fn restic(repository: &Path) -> Command {
    let mut command = Command::new("restic");
    command.env("RESTIC_PASSWORD", "bench").arg("--no-cache").arg("--repo").arg(repository);
    command
}

fn restic_restore(repository: &Path, folder: &Path) {
    run(restic(repository).args(["restore", "latest", "--target"]).arg(folder.join("restored")));
}

fn borg() -> Command {
    let mut command = Command::new("borg");
    command.env("BORG_PASSPHRASE", "bench");
    command
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("start the tool").success(), "{command:?} failed");
}

/// Our side: one VM with one disk, the image.
struct Ours {
    runtime: tokio::runtime::Runtime,
    engine: Engine,
    tracker: Arc<Tracker>,
    disk: DiskId,
    vm: std::cell::RefCell<Vm>,
    vault: PathBuf,
    _server: Server,
}

impl Ours {
    fn new(image: &Path, folder: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
        let device = RawDisk::open(&RealFiles, image, Open::Write).expect("open the image");
        let disk = DiskId(Uuid::from_u128(1));
        let mut vm = Vm::default();
        vm.id = VmId(Uuid::from_u128(2));
        vm.vault = VaultId(Uuid::from_u128(3));
        vm.epoch = 1;
        vm.disks = vec![Disk { id: disk, name: DISK.to_owned(), size_bytes: device.size_bytes() }];
        let spec = DiskSpec { id: disk, name: DISK.to_owned(), device: Arc::new(device) };
        let [logs, vault, recovery] = ["logs", "vault", "recovery"].map(|name| folder.join(name));
        fs::create_dir(&logs).expect("folder");
        fs::create_dir(&vault).expect("folder");
        let (files, clock) = (Arc::new(RealFiles), Arc::new(SystemClock));
        let boot = BootId::of_this_machine().expect("boot id");
        let tracker = Tracker::open(files.clone(), &logs, vec![spec], boot, clock.clone());
        let tracker = tracker.expect("open the tracker");
        let sources = Sources::default();
        sources.attach(vm.id, tracker.clone(), files.clone());
        let keys = VaultKeys::new(&KeyFile::generate(&KernelRandom), Arc::new(KernelRandom));
        let store = Vault::in_folder(&vault, vm.vault).expect("open the vault");
        let store = store.with_uploads(UPLOADS).with_keys(Arc::new(keys));
        runtime.block_on(store.establish()).expect("establish the vault");
        let exports = Arc::new(Exports::default());
        let endpoint = Endpoint::Unix(folder.join("recovery.sock"));
        let server = Server::bind(&endpoint, exports.clone()).expect("listen");
        let engine = Engine::new(EngineParts {
            vaults: BTreeMap::from([(vm.vault, store)]),
            sources,
            recovery: RecoverySite::new(recovery, files, exports, endpoint, boot),
            clock,
            runtime: runtime.handle().clone(),
        });
        let vm = std::cell::RefCell::new(vm);
        Self { runtime, engine, tracker, disk, vm, vault, _server: server }
    }

    /// The initial copy, up to a proven first recovery point.
    fn copy(&self) {
        let mut vm = self.vm.borrow_mut();
        self.runtime.block_on(async {
            self.engine.start_tracking(&vm).await.expect("start tracking");
            vm.delta.chain_first_cycle = 1;
            vm.delta.cycle = 1;
            self.engine.copy_disk(&vm, self.disk, &|_, _| {}).await.expect("copy");
            self.engine.complete_copy(&vm).await.expect("complete the copy");
            let points = self.engine.ship_through(&vm, 1).await.expect("first point");
            vm.points = points.into();
        });
    }

    fn write(&self, changes: &[(u64, u64)]) {
        let disk = self.tracker.disk(self.disk).expect("the disk");
        let mut data = vec![0; MIB as usize];
        for (nth, (offset, length)) in changes.iter().enumerate() {
            let data = &mut data[..*length as usize];
            half_compressible(nth as u64, data);
            disk.write_at(data, *offset, false).expect("write");
        }
    }

    /// Sends what was written as one delta.
    fn ship(&self) {
        let mut vm = self.vm.borrow_mut();
        let cycle = vm.points.last().expect("a point").cycle + 1;
        vm.delta.cycle = cycle;
        let points = self.runtime.block_on(self.engine.ship_through(&vm, cycle));
        let mut all = vm.points.to_vec();
        all.extend(points.expect("ship"));
        vm.points = all.into();
    }

    fn one_more_point(&self, nth: u64) {
        self.write(&[(nth * 4096 * 31 % (64 * MIB), 4096)]);
        self.ship();
    }

    /// What an administrator waits for: the newest point is served, and a client reads from it.
    fn fail_over_and_read(&self) {
        let vm = self.vm.borrow();
        let point = *vm.points.last().expect("a point");
        let served = self.runtime.block_on(self.engine.serve(&vm, point)).expect("serve");
        let client = NbdDisk::connect(&served[0].uri).expect("connect");
        let mut first = vec![0; MIB as usize];
        client.read_at(&mut first, 0).expect("read");
        let image = fs::File::open(self.image_path()).expect("image");
        let mut expected = vec![0; MIB as usize];
        image.read_exact_at(&mut expected, 0).expect("read the image");
        assert_eq!(first, expected);
    }

    fn image_path(&self) -> PathBuf {
        self.vault.with_file_name("image")
    }
}
