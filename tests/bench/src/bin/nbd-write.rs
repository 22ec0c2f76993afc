//! Measures writes over NBD, with `fio` as the client: a pass-through export and a tracked one of our
//! server, and `qemu-nbd`, all on the same image. Rounds are interleaved, figures are medians: one JSON line
//! per row, IOPS or MB/s.
//!
//! `nbd-write [folder] [seconds per round] [rounds]`. In a folder in RAM (`/dev/shm`) the rows show the
//! cost of the processor; on a disk, also what its writeback takes.
//!
//! * "image cached": it is in the page cache as writes of 1 MiB have left it, in large folios. The kernel walks all
//!   blocks of a folio for each write into it, one write of a file at a time, whoever serves it.
//! * "image not cached": a round begins with nothing of it in the page cache, so that writes of 4 KiB make folios of 4 KiB.
//! * "tracked": the chain of logs starts again before each round, outside of the time measured.
//! * "tracked, shipping": every half second the logs are cut and acknowledged, as after a shipment.
//!   Each cut makes the log durable and each acknowledgement the disk, which the others never do.

use lifeboat::disk::files::RealFiles;
use lifeboat::disk::nbd::{Endpoint, Exports, Server};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{BootId, DiskSpec, Tracker};
use lifeboat::domain::id::DiskId;
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::Open;
use lifeboat::service::SystemClock;
use lifeboat_bench::{half_compressible, is_installed, median, medians, row};
use rustix::fs::{Advice, fadvise};
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use uuid::Uuid;

/// What is written to, and full of data.
const AREA_BYTES: u64 = 1 << 30;

/// The disk, the rest of which is a hole: logs that take half of it end tracking, which no round may reach.
const IMAGE_BYTES: u64 = 16 << 30;

const SHIPMENT: Duration = Duration::from_millis(500);
const EXPORT: &str = "disk";

struct Load {
    name: &'static str,
    pattern: &'static str,
    block: &'static str,
    depth: &'static str,
    /// What is measured: `iops`, or `bw_bytes`.
    figure: &'static str,
}

const LOADS: [Load; 4] = [
    load("nbd 4 KiB random write QD1", "randwrite", "4k", "1", "iops"),
    load("nbd 4 KiB random write QD32", "randwrite", "4k", "32", "iops"),
    load("nbd 64 KiB random write QD8", "randwrite", "64k", "8", "bw_bytes"),
    load("nbd 1 MiB sequential write QD4", "write", "1m", "4", "bw_bytes"),
];

const fn load(
    name: &'static str,
    pattern: &'static str,
    block: &'static str,
    depth: &'static str,
    figure: &'static str,
) -> Load {
    Load { name, pattern, block, depth, figure }
}

impl Load {
    fn unit(&self) -> &str {
        if self.figure == "bw_bytes" { "MB/s" } else { "IOPS" }
    }
}

/// A server to write to.
enum Contestant {
    Pass(Server),
    Tracked { server: Server, tracker: Arc<Tracker>, ships: bool, cuts: u64 },
    Qemu { socket: PathBuf, child: Child },
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let base = args.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = args.get(1).map_or(1.5, |text| text.parse().expect("seconds"));
    let rounds = args.get(2).map_or(3, |text| text.parse().expect("rounds"));
    if !is_installed("fio") {
        return;
    }
    let folder =
        tempfile::Builder::new().prefix("lifeboat-bench").tempdir_in(base).expect("folder");
    let folder = folder.path();
    let image = folder.join("image");
    fill(&image);

    let mut contestants = vec![
        Contestant::pass(&image, folder),
        Contestant::tracked(&image, &folder.join("tracked"), false),
        Contestant::tracked(&image, &folder.join("shipping"), true),
    ];
    if is_installed("qemu-nbd") {
        contestants.push(Contestant::qemu(&image, folder));
    }
    for is_cached in [true, false] {
        for load in &LOADS {
            compare(load, is_cached, (seconds, rounds), &image, &mut contestants);
        }
    }
}

/// A load on every contestant, and its rows.
fn compare(
    load: &Load,
    is_cached: bool,
    (seconds, rounds): (f64, usize),
    image: &Path,
    contestants: &mut [Contestant],
) {
    let title = format!("{}, image {}cached", load.name, if is_cached { "" } else { "not " });
    let mut tails = vec![Vec::new(); contestants.len()];
    let mut turn = 0;
    let figures = medians(rounds, contestants, |contestant| {
        settle(image, is_cached);
        let (figure, p99_us) = contestant.measure(load, seconds);
        tails[turn].push(p99_us);
        turn = (turn + 1) % tails.len();
        figure
    });
    let tails: Vec<_> = tails.into_iter().map(median).collect();
    let (pass, tracked, shipping) = (figures[0], figures[1], figures[2]);
    let of_figure = format!("{title}, {}", load.unit());
    row(&format!("{of_figure}, tracked"), tracked, pass, "pass-through");
    row(&format!("{of_figure}, tracked, shipping"), shipping, pass, "pass-through");
    if let Some(qemu) = figures.get(3) {
        row(&format!("{of_figure}, tracked"), tracked, *qemu, "qemu-nbd");
        row(&format!("{of_figure}, tracked, shipping"), shipping, *qemu, "qemu-nbd");
        row(&format!("{of_figure}, pass-through"), pass, *qemu, "qemu-nbd");
        let of_p99 = format!("{title}, µs at the 99th percentile");
        row(&format!("{of_p99}, tracked"), tails[1], tails[3], "qemu-nbd");
        row(&format!("{of_p99}, tracked, shipping"), tails[2], tails[3], "qemu-nbd");
    }
}

/// Makes the image and reads it into the page cache by writing it.
fn fill(image: &Path) {
    let file = fs::File::create(image).expect("image");
    let mut piece = vec![0; 1 << 20];
    file.set_len(IMAGE_BYTES).expect("make the image as large as the disk");
    for nth in 0..AREA_BYTES / piece.len() as u64 {
        half_compressible(nth, &mut piece);
        file.write_all_at(&piece, nth * piece.len() as u64).expect("write the image");
    }
}

/// Nobody pays for the writes of the one before; nor finds them in the page cache, unless the image stays there.
fn settle(image: &Path, is_cached: bool) {
    let file = fs::File::open(image).expect("open the image");
    file.sync_data().expect("sync the image");
    if !is_cached {
        fadvise(&file, 0, None, Advice::DontNeed).expect("drop the image from the page cache");
    }
}

fn open(image: &Path) -> Arc<dyn BlockDevice> {
    Arc::new(RawDisk::open(&RealFiles, image, Open::Write).expect("open the image"))
}

fn serve(device: Arc<dyn BlockDevice>, socket: PathBuf) -> Server {
    let exports = Arc::new(Exports::default());
    exports.add(EXPORT, device);
    Server::bind(&Endpoint::Unix(socket), exports).expect("listen")
}

impl Contestant {
    fn pass(image: &Path, folder: &Path) -> Self {
        Self::Pass(serve(open(image), folder.join("pass.sock")))
    }

    fn tracked(image: &Path, folder: &Path, ships: bool) -> Self {
        fs::create_dir(folder).expect("folder");
        let id = DiskId(Uuid::from_u128(1));
        let spec = DiskSpec { id, name: EXPORT.to_owned(), device: open(image) };
        let boot = BootId::of_this_machine().expect("boot id");
        let tracker =
            Tracker::open(Arc::new(RealFiles), folder, vec![spec], boot, Arc::new(SystemClock))
                .expect("open the tracker");
        tracker.start().expect("start tracking");
        let device = tracker.disk(id).expect("the disk");
        Self::Tracked { server: serve(device, folder.join("sock")), tracker, ships, cuts: 0 }
    }

    fn qemu(image: &Path, folder: &Path) -> Self {
        let socket = folder.join("qemu.sock");
        let child = Command::new("qemu-nbd")
            .args(["--format=raw", "--persistent", "--shared=0", "--export-name", EXPORT])
            .arg("--socket")
            .arg(&socket)
            .arg(image)
            .spawn()
            .expect("start qemu-nbd");
        while UnixStream::connect(&socket).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        Self::Qemu { socket, child }
    }

    /// The load's figure, and the microseconds that 99 % of the writes took at most.
    fn measure(&mut self, load: &Load, seconds: f64) -> (f64, f64) {
        match self {
            Self::Pass(server) => fio(&server.uri(EXPORT).to_string(), load, seconds),
            Self::Tracked { server, tracker, ships: false, .. } => {
                tracker.stop().and_then(|()| tracker.start()).expect("start the chain again");
                let figure = fio(&server.uri(EXPORT).to_string(), load, seconds);
                assert_eq!(tracker.status().broken, None, "not all of it was tracked");
                figure
            }
            Self::Tracked { server, tracker, ships: true, cuts } => {
                let (done, ended) = mpsc::channel::<()>();
                thread::scope(|scope| {
                    scope.spawn(move || {
                        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(SHIPMENT) {
                            *cuts += 1;
                            tracker.cut(*cuts).expect("cut");
                            tracker.acknowledge(*cuts).expect("acknowledge");
                        }
                    });
                    let figure = fio(&server.uri(EXPORT).to_string(), load, seconds);
                    drop(done);
                    figure
                })
            }
            Self::Qemu { socket, .. } => {
                let uri = format!("nbd+unix:///{EXPORT}?socket={}", socket.display());
                fio(&uri, load, seconds)
            }
        }
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        if let Self::Qemu { child, .. } = self {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// One round.
fn fio(uri: &str, load: &Load, seconds: f64) -> (f64, f64) {
    let output = Command::new("fio")
        .args(["--name=write", "--ioengine=nbd", "--time_based", "--norandommap"])
        .args(["--randrepeat=0", "--output-format=json"])
        .arg(format!("--uri={uri}"))
        .arg(format!("--size={AREA_BYTES}"))
        .arg(format!("--rw={}", load.pattern))
        .arg(format!("--bs={}", load.block))
        .arg(format!("--iodepth={}", load.depth))
        .arg(format!("--runtime={}ms", (seconds * 1000.0) as u64))
        .stderr(Stdio::inherit())
        .output()
        .expect("start fio");
    assert!(output.status.success(), "fio failed: {}", String::from_utf8_lossy(&output.stdout));
    // fio can print notes before its JSON.
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text.find('{').map_or("", |start| &text[start..]);
    let report: serde_json::Value = serde_json::from_str(json).expect("fio's report");
    let write = &report["jobs"][0]["write"];
    let figure = write[load.figure].as_f64().expect("a figure of fio");
    let p99_ns = write["clat_ns"]["percentile"]["99.000000"].as_f64().expect("a percentile of fio");
    (if load.figure == "bw_bytes" { figure / 1e6 } else { figure }, p99_ns / 1e3)
}
