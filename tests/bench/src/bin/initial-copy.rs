//! Measures the initial copy of a disk into a vault in a folder against tools that copy a disk to a
//! file in the same folder: `qemu-img convert` from the image, `nbdcopy` from an export of it. Every
//! copy ends when its bytes are durable. Rounds are interleaved, figures are medians: one JSON line
//! per row, MB of data per second.
//!
//! `initial-copy [folder] [MiB of data] [rounds]`. The image is in the page cache and has a hole of a
//! quarter of its data.

use lifeboat::disk::files::RealFiles;
use lifeboat::disk::nbd::{Endpoint, Exports, Server};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{BootId, DiskSpec, Tracker};
use lifeboat::domain::id::{DiskId, VaultId, VmId};
use lifeboat::domain::vm::{Disk, Vm};
use lifeboat::ports::files::Open;
use lifeboat::ports::replication::Replication;
use lifeboat::replica::Vault;
use lifeboat::replication::{Engine, EngineParts, RecoverySite, Sources};
use lifeboat::service::SystemClock;
use lifeboat_bench::{half_compressible, is_installed, medians, row};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const EXPORT: &str = "disk";

struct Image {
    path: PathBuf,
    data_bytes: u64,
    size_bytes: u64,
}

enum Contestant<'a> {
    Ours(&'a Ours),
    QemuImg,
    Nbdcopy(Server),
}

/// What copies for us. Each copy goes to a vault of its own.
struct Ours {
    runtime: tokio::runtime::Runtime,
    sources: Sources,
    vm: Vm,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let base = args.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let data_mib: u64 = args.get(1).map_or(1024, |text| text.parse().expect("MiB"));
    let rounds = args.get(2).map_or(3, |text| text.parse().expect("rounds"));
    let folder =
        tempfile::Builder::new().prefix("lifeboat-bench").tempdir_in(base).expect("folder");
    let folder = folder.path();
    let image = Image::fill(folder.join("image"), data_mib);
    let ours = Ours::new(&image, &folder.join("logs"));

    let mut contestants = vec![Contestant::Ours(&ours)];
    let mut names = vec![];
    if is_installed("qemu-img") {
        contestants.push(Contestant::QemuImg);
        names.push("qemu-img convert");
    }
    if is_installed("nbdcopy") {
        contestants.push(Contestant::Nbdcopy(image.serve(folder.join("sock"))));
        names.push("nbdcopy");
    }
    let figures = medians(rounds, &mut contestants, |contestant| {
        let target = folder.join("target");
        fs::create_dir(&target).expect("folder");
        let start = Instant::now();
        contestant.copy(&image, &target);
        let seconds = start.elapsed().as_secs_f64();
        fs::remove_dir_all(&target).expect("remove the copy");
        image.data_bytes as f64 / 1e6 / seconds
    });
    for (name, figure) in names.iter().zip(&figures[1..]) {
        row("initial copy, MB/s", figures[0], *figure, name);
    }
    let peak = peak_resident_mib();
    println!("{}", serde_json::json!({ "work": "initial copy, peak resident MiB", "ours": peak }));
}

/// The most memory that this process ever had.
fn peak_resident_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("read the status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB");
    kib / 1024
}

impl Image {
    fn fill(path: PathBuf, data_mib: u64) -> Self {
        let file = fs::File::create(&path).expect("image");
        let mut piece = vec![0; MIB as usize];
        let hole = data_mib / 2..data_mib / 2 + data_mib / 4;
        for nth in (0..hole.start).chain(hole.end..data_mib + data_mib / 4) {
            half_compressible(nth, &mut piece);
            file.write_all_at(&piece, nth * MIB).expect("write the image");
        }
        file.sync_all().expect("sync the image");
        Self { path, data_bytes: data_mib * MIB, size_bytes: (data_mib + data_mib / 4) * MIB }
    }

    fn open(&self) -> Arc<RawDisk> {
        Arc::new(RawDisk::open(&RealFiles, &self.path, Open::Write).expect("open the image"))
    }

    fn serve(&self, socket: PathBuf) -> Server {
        let exports = Arc::new(Exports::default());
        exports.add(EXPORT, self.open());
        Server::bind(&Endpoint::Unix(socket), exports).expect("listen")
    }
}

impl Contestant<'_> {
    fn copy(&self, image: &Image, target: &Path) {
        match self {
            Self::Ours(ours) => ours.copy(image, target),
            Self::QemuImg => {
                let copy = target.join("copy");
                let mut command = Command::new("qemu-img");
                command.args(["convert", "-f", "raw", "-O", "raw"]).arg(&image.path).arg(&copy);
                run_durably(&mut command, &copy);
            }
            Self::Nbdcopy(server) => {
                let copy = target.join("copy");
                let mut command = Command::new("nbdcopy");
                command.arg(server.uri(EXPORT).to_string()).arg(&copy);
                run_durably(&mut command, &copy);
            }
        }
    }
}

/// Runs a tool, then makes what it made durable.
fn run_durably(command: &mut Command, copy: &Path) {
    let status = command.stdout(Stdio::null()).status().expect("start the tool");
    assert!(status.success(), "{command:?} failed");
    fs::File::open(copy).and_then(|file| file.sync_all()).expect("sync the copy");
}

impl Ours {
    fn new(image: &Image, logs: &Path) -> Self {
        fs::create_dir(logs).expect("folder");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
        let disk = DiskId(Uuid::from_u128(1));
        let spec = DiskSpec { id: disk, name: EXPORT.to_owned(), device: image.open() };
        let boot = BootId::of_this_machine().expect("boot id");
        let files = Arc::new(RealFiles);
        let tracker = Tracker::open(files.clone(), logs, vec![spec], boot, Arc::new(SystemClock))
            .expect("open the tracker");
        tracker.start().expect("start tracking");
        let mut vm = Vm::default();
        vm.id = VmId(Uuid::from_u128(2));
        vm.vault = VaultId(Uuid::from_u128(3));
        vm.disks = vec![Disk { id: disk, name: EXPORT.to_owned(), size_bytes: image.size_bytes }];
        let sources = Sources::default();
        sources.attach(vm.id, tracker, files);
        Self { runtime, sources, vm }
    }

    fn copy(&self, image: &Image, target: &Path) {
        let vault = Vault::in_folder(target, self.vm.vault).expect("open the vault");
        self.runtime.block_on(vault.establish()).expect("establish the vault");
        let boot = BootId::of_this_machine().expect("boot id");
        let recovery = RecoverySite::new(
            target.join("recovery"),
            Arc::new(RealFiles),
            Arc::new(Exports::default()),
            Endpoint::Unix(target.join("recovery.sock")),
            boot,
        );
        let engine = Engine::new(EngineParts {
            vaults: BTreeMap::from([(self.vm.vault, vault)]),
            sources: self.sources.clone(),
            recovery,
            clock: Arc::new(SystemClock),
            runtime: self.runtime.handle().clone(),
        });
        let copy = engine.copy_disk(&self.vm, self.vm.disks[0].id, &|_, _| {});
        let copied = self.runtime.block_on(copy).expect("copy the disk");
        assert_eq!(copied, image.data_bytes);
    }
}
