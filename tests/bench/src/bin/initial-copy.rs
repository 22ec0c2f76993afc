//! Measures the initial copy of a disk into a vault in a folder. A vault without compression and
//! encryption meets tools that copy a disk to a file in the same folder: `qemu-img convert` from the
//! image, `nbdcopy` from an export of it. A vault with both, as they are by default, meets `restic` and
//! `borg`, which compress and encrypt as well. Every copy ends when its bytes are durable. Rounds are
//! interleaved, figures are medians: one JSON line per row, MB of data per second.
//!
//! `initial-copy [folder] [MiB of data] [rounds]`. The image holds files of this system, is in the page
//! cache, and has a hole of a quarter of its data.

use lifeboat::disk::files::RealFiles;
use lifeboat::disk::nbd::{Endpoint, Exports, Server};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{BootId, DiskSpec, Tracker};
use lifeboat::domain::id::{DiskId, VaultId, VmId};
use lifeboat::domain::vm::{Disk, Vm};
use lifeboat::ports::files::Open;
use lifeboat::ports::replication::Replication;
use lifeboat::replica::{Compression, KeyFile, Vault, VaultKeys};
use lifeboat::replication::{Engine, EngineParts, RecoverySite, Sources};
use lifeboat::service::{KernelRandom, SystemClock};
use lifeboat_bench::{UPLOADS, half_compressible, is_installed, medians, row};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
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
    Raw(&'a Ours),
    QemuImg,
    Nbdcopy(Server),
    Sealed(&'a Ours),
    Restic,
    Borg,
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

    let raw = "initial copy, MB/s";
    let sealed = "initial copy into a local vault, zstd and encryption on, MB/s";
    let mut contestants = vec![Contestant::Raw(&ours), Contestant::Sealed(&ours)];
    let mut names = vec![];
    if is_installed("qemu-img") {
        contestants.push(Contestant::QemuImg);
        names.push((raw, 0, "qemu-img convert"));
    }
    if is_installed("nbdcopy") {
        contestants.push(Contestant::Nbdcopy(image.serve(folder.join("sock"))));
        names.push((raw, 0, "nbdcopy"));
    }
    if is_installed("restic") {
        contestants.push(Contestant::Restic);
        names.push((sealed, 1, "restic backup"));
    }
    if is_installed("borg") {
        contestants.push(Contestant::Borg);
        names.push((sealed, 1, "borg create, zstd 1"));
    }
    let figures = medians(rounds, &mut contestants, |contestant| {
        let target = folder.join("target");
        fs::create_dir(&target).expect("folder");
        contestant.prepare(&target);
        let start = Instant::now();
        contestant.copy(&image, &target);
        let seconds = start.elapsed().as_secs_f64();
        fs::remove_dir_all(&target).expect("remove the copy");
        image.data_bytes as f64 / 1e6 / seconds
    });
    for ((work, ours, name), figure) in names.iter().zip(&figures[2..]) {
        row(work, figures[*ours], *figure, name);
    }
}

/// The files of this system one after the other: data as disks have it.
struct SystemFiles {
    paths: Vec<PathBuf>,
    file: Option<fs::File>,
}

impl SystemFiles {
    fn new() -> Self {
        Self { paths: vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/bin")], file: None }
    }

    /// Opens the next file, if there is one.
    fn open_next(&mut self) -> Option<fs::File> {
        loop {
            let path = self.paths.pop()?;
            let Ok(about) = fs::symlink_metadata(&path) else { continue };
            if about.is_dir() {
                let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
                entries.sort_unstable();
                self.paths.append(&mut entries);
            } else if about.is_file()
                && let Ok(file) = fs::File::open(&path)
            {
                return Some(file);
            }
        }
    }
}

impl Read for SystemFiles {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if let Some(file) = &mut self.file {
                match file.read(buffer)? {
                    0 => self.file = None,
                    length => return Ok(length),
                }
            }
            self.file = self.open_next();
            if self.file.is_none() {
                return Ok(0);
            }
        }
    }
}

impl Image {
    fn fill(path: PathBuf, data_mib: u64) -> Self {
        let file = fs::File::create(&path).expect("image");
        let mut piece = vec![0; MIB as usize];
        let hole = data_mib / 2..data_mib / 2 + data_mib / 4;
        let mut content = SystemFiles::new();
        for nth in (0..hole.start).chain(hole.end..data_mib + data_mib / 4) {
            if content.read_exact(&mut piece).is_err() {
                half_compressible(nth, &mut piece);
            }
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
    /// Makes the empty repository, which is not part of the copy.
    fn prepare(&self, target: &Path) {
        let repository = target.join("copy");
        match self {
            Self::Restic => run(restic(&repository).arg("init")),
            Self::Borg => run(borg().args(["init", "-e", "repokey-blake2"]).arg(&repository)),
            Self::Raw(_) | Self::Sealed(_) | Self::QemuImg | Self::Nbdcopy(_) => {}
        }
    }

    fn copy(&self, image: &Image, target: &Path) {
        match self {
            Self::Raw(ours) => {
                ours.copy(image, target, |vault| vault.with_compression(Compression::Off));
            }
            Self::Sealed(ours) => ours.copy(image, target, |vault| {
                let keys =
                    VaultKeys::new(&KeyFile::generate(&KernelRandom), Arc::new(KernelRandom));
                vault.with_keys(Arc::new(keys))
            }),
            Self::Restic => {
                run(restic(&target.join("copy")).arg("backup").arg(&image.path));
                run(Command::new("sync").arg("-f").arg(target));
            }
            Self::Borg => {
                let mut archive = target.join("copy").into_os_string();
                archive.push("::first");
                let options = ["create", "--compression", "zstd,1"];
                run(borg().args(options).arg(archive).arg(&image.path));
                run(Command::new("sync").arg("-f").arg(target));
            }
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

fn restic(repository: &Path) -> Command {
    let mut command = Command::new("restic");
    let cache = repository.with_extension("cache");
    command.arg("--cache-dir").arg(cache).arg("-r").arg(repository).env("RESTIC_PASSWORD", "bench");
    command
}

fn borg() -> Command {
    let mut command = Command::new("borg");
    command.env("BORG_PASSPHRASE", "bench").env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
    command
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("start the tool").success(), "{command:?} failed");
}

/// Runs a tool, then makes what it made durable.
fn run_durably(command: &mut Command, copy: &Path) {
    run(command);
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

    fn copy(&self, image: &Image, target: &Path, open: impl FnOnce(Vault) -> Vault) {
        let vault = Vault::in_folder(target, self.vm.vault).expect("open the vault");
        let vault = open(vault.with_uploads(UPLOADS));
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
