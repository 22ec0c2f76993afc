//! Measures a resynchronization, of which tracking knows nothing, against `rsync --inplace
//! --no-whole-file` on a copy of the same image: one per cent of the image changes, scattered, and both
//! bring their replica into step, durably. Rounds are interleaved, figures are medians: one JSON line per
//! row.
//!
//! `resync [folder] [GiB of the image] [rounds]`. The image is full of data of which half can be
//! compressed away, and in the page cache. A change is 4 KiB for 60 % of the changed bytes, 64 KiB for
//! 25 % and 1 MiB for 15 %, four fifths of them in one eighth of the image. Bytes through the vault
//! are those of requests and answers, without what a protocol would add.

use futures_util::stream::BoxStream;
use lifeboat::disk::files::RealFiles;
use lifeboat::disk::nbd::{Endpoint, Exports};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{BootId, DiskSpec, Tracker};
use lifeboat::domain::id::{DiskId, VaultId, VmId};
use lifeboat::domain::vm::{Disk, Vm};
use lifeboat::ports::files::Open;
use lifeboat::ports::replication::Replication;
use lifeboat::replica::Vault;
use lifeboat::replication::{Engine, EngineParts, RecoverySite, Sources};
use lifeboat::service::SystemClock;
use lifeboat_bench::{UPLOADS, half_compressible, is_installed, medians, row};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Object;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
const DISK: &str = "disk";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let base = args.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let gib: u64 = args.get(1).map_or(4, |text| text.parse().expect("GiB"));
    let rounds = args.get(2).map_or(3, |text| text.parse().expect("rounds"));
    let folder =
        tempfile::Builder::new().prefix("lifeboat-bench").tempdir_in(base).expect("folder");
    let folder = folder.path();
    let mut image = Image::fill(folder.join("image"), gib << 30);
    let ours = Ours::new(&image, folder);
    let copy = folder.join("copy");
    let mut contestants = vec![Contestant::Ours];
    if is_installed("rsync") {
        fs::copy(&image.path, &copy).expect("copy the image");
        contestants.push(Contestant::Rsync);
    }
    let (mut our_bytes, mut rsync_bytes) = (Vec::new(), Vec::new());
    let figures = medians(rounds, &mut contestants, |contestant| {
        let seconds = match contestant {
            Contestant::Ours => {
                image.change();
                let (seconds, bytes) = ours.resync();
                our_bytes.push(bytes);
                seconds
            }
            Contestant::Rsync => {
                let start = Instant::now();
                let bytes = rsync(&image.path, &copy);
                rsync_bytes.push(bytes);
                start.elapsed().as_secs_f64()
            }
        };
        image.size as f64 / 1e6 / seconds
    });
    ours.check(&image);
    let peer_name = "rsync --inplace --no-whole-file";
    if let [ours, rsync] = figures[..] {
        row("resync of 1 %, MB of disk/s", ours, rsync, peer_name);
        let (our_mb, rsync_mb) = (middle_mb(our_bytes), middle_mb(rsync_bytes));
        row("resync of 1 %, MB moved", our_mb, rsync_mb, peer_name);
    } else {
        let row = serde_json::json!({
            "work": "resync of 1 %", "ours": figures[0], "moved_mb": middle_mb(our_bytes),
        });
        println!("{row}");
    }
}

enum Contestant {
    Ours,
    Rsync,
}

fn middle_mb(mut bytes: Vec<u64>) -> f64 {
    bytes.sort_unstable();
    bytes[bytes.len() / 2] as f64 / 1e6
}

/// Answers the bytes that its two processes sent each other.
fn rsync(image: &Path, copy: &Path) -> u64 {
    let mut command = Command::new("rsync");
    // Times would let it skip the file.
    command.args(["--inplace", "--no-whole-file", "--ignore-times", "--stats"]);
    let output = command.arg(image).arg(copy).output().expect("start rsync");
    assert!(output.status.success(), "rsync failed");
    fs::File::open(copy).and_then(|file| file.sync_all()).expect("sync the copy");
    let stats = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |line: &str| {
        line.chars().filter(char::is_ascii_digit).collect::<String>().parse::<u64>().expect("bytes")
    };
    let totals = stats
        .lines()
        .filter(|line| line.starts_with("Total bytes sent") || line.starts_with("Total bytes rec"));
    totals.map(number).sum()
}

struct Image {
    path: PathBuf,
    size: u64,
    random: u64,
}

impl Image {
    fn fill(path: PathBuf, size: u64) -> Self {
        let file = fs::File::create(&path).expect("image");
        let mut piece = vec![0; MIB as usize];
        for nth in 0..size / MIB {
            half_compressible(nth, &mut piece);
            file.write_all_at(&piece, nth * MIB).expect("write the image");
        }
        file.sync_all().expect("sync the image");
        Self { path, size, random: 0x9E37_79B9_7F4A_7C15 }
    }

    fn next(&mut self, below: u64) -> u64 {
        // xorshift64, by Marsaglia.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Changes one per cent.
    fn change(&mut self) {
        let file = fs::File::options().write(true).open(&self.path).expect("open the image");
        let all = self.size / 100;
        for (length, share) in [(4 * KIB, 60), (64 * KIB, 25), (MIB, 15)] {
            for _ in 0..all * share / 100 / length {
                let hot = self.next(5) < 4;
                let part = if hot { self.size / 8 } else { self.size };
                let offset = self.next(part / (4 * KIB) - length / (4 * KIB)) * 4 * KIB;
                let mut data = vec![0; length as usize];
                half_compressible(self.next(u64::MAX), &mut data);
                file.write_all_at(&data, offset).expect("change the image");
            }
        }
        file.sync_all().expect("sync the image");
    }
}

/// Our replica.
struct Ours {
    runtime: tokio::runtime::Runtime,
    engine: Engine,
    vault: Vault,
    vm: Vm,
    moved: Arc<AtomicU64>,
}

impl Ours {
    /// With a copy of the image.
    fn new(image: &Image, folder: &Path) -> Self {
        let (logs, target) = (folder.join("logs"), folder.join("vault"));
        fs::create_dir(&logs).and_then(|()| fs::create_dir(&target)).expect("folders");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
        let disk = DiskId(Uuid::from_u128(1));
        let device = RawDisk::open(&RealFiles, &image.path, Open::Write).expect("open the image");
        let spec = DiskSpec { id: disk, name: DISK.to_owned(), device: Arc::new(device) };
        let boot = BootId::of_this_machine().expect("boot id");
        let files = Arc::new(RealFiles);
        let tracker = Tracker::open(files.clone(), &logs, vec![spec], boot, Arc::new(SystemClock))
            .expect("open the tracker");
        tracker.start().expect("start tracking");
        let mut vm = Vm::default();
        vm.id = VmId(Uuid::from_u128(2));
        vm.vault = VaultId(Uuid::from_u128(3));
        vm.disks = vec![Disk { id: disk, name: DISK.to_owned(), size_bytes: image.size }];
        let sources = Sources::default();
        sources.attach(vm.id, tracker, files.clone());
        let moved = Arc::new(AtomicU64::new(0));
        let local = LocalFileSystem::new_with_prefix(&target).expect("vault").with_fsync(true);
        let counting = Counting { inner: Arc::new(local), moved: Arc::clone(&moved) };
        let vault = Vault::new(Arc::new(counting), vm.vault).with_uploads(UPLOADS);
        runtime.block_on(vault.establish()).expect("establish the vault");
        let recovery = RecoverySite::new(
            folder.join("recovery"),
            files,
            Arc::new(Exports::default()),
            Endpoint::Unix(folder.join("recovery.sock")),
            boot,
        );
        let engine = Engine::new(EngineParts {
            vaults: BTreeMap::from([(vm.vault, vault.clone())]),
            sources,
            recovery,
            clock: Arc::new(SystemClock),
            runtime: runtime.handle().clone(),
        });
        let copy = async {
            engine.copy_disk(&vm, disk, &|_, _| {}).await?;
            engine.complete_copy(&vm).await
        };
        runtime.block_on(copy).expect("copy the image");
        Self { runtime, engine, vault, vm, moved }
    }

    /// Answers seconds and the bytes that went through the vault.
    fn resync(&self) -> (f64, u64) {
        self.moved.store(0, Ordering::Relaxed);
        let start = Instant::now();
        let disk = self.vm.disks[0].id;
        let compare = self.engine.compare_disk(&self.vm, disk, 0, &|_, _| {});
        let compared = self.runtime.block_on(compare).expect("compare the disk");
        let seconds = start.elapsed().as_secs_f64();
        let moved = self.moved.load(Ordering::Relaxed);
        let different = compared.different_bytes as f64 / 1e6;
        eprintln!("{seconds:.2} s, {:.1} MB moved for {different:.1} MB", moved as f64 / 1e6);
        (seconds, moved)
    }

    /// The replica is the image.
    fn check(&self, image: &Image) {
        let disk = self.vm.disks[0].id;
        let replica = async {
            let head = self.vault.head(disk).await?.expect("the log has segments");
            self.vault.open_disk(disk, head.header.sequence).await
        };
        let replica = self.runtime.block_on(replica).expect("open the replica");
        let file = fs::File::open(&image.path).expect("open the image");
        let (mut left, mut right) = (vec![0; 4 * MIB as usize], vec![0; 4 * MIB as usize]);
        for at in (0..image.size).step_by(left.len()) {
            file.read_exact_at(&mut left, at).expect("read the image");
            self.runtime.block_on(replica.read_at(at, &mut right)).expect("read the replica");
            assert!(left == right, "the replica differs after byte {at}");
        }
    }
}

/// A storage that counts the bytes which go to it and come from it.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn ObjectStore>,
    moved: Arc<AtomicU64>,
}

impl std::fmt::Display for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Counting({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counting {
    async fn put_opts(
        &self,
        location: &Object,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.moved.fetch_add(payload.content_length() as u64, Ordering::Relaxed);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Object,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Object, options: GetOptions) -> Result<GetResult> {
        let asks_only = options.head;
        let got = self.inner.get_opts(location, options).await?;
        if !asks_only {
            self.moved.fetch_add(got.range.end - got.range.start, Ordering::Relaxed);
        }
        Ok(got)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Object>>,
    ) -> BoxStream<'static, Result<Object>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Object>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Object>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Object, to: &Object, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
