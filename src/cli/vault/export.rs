//! `lifeboat vault export`: a disk out of the vault, checked as it is read, with nothing else at hand.

use super::lease::Reader;
use super::verify::Bar;
use super::{PlaceArgs, disk_name, name_of, until_interrupted};
use crate::cli::{Answer, CommandError, print};
use crate::domain::id::{DiskId, VmId};
use crate::replica::{DiskImage, RecoveryPointRecord, Vault, VaultError};
use chrono::DateTime;
use clap::ValueEnum;
use futures_util::{StreamExt, stream};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Bytes that are read at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// Zeroes of this length are left out.
const BLOCK_BYTES: usize = 64 << 10;

/// Pieces that are read at one time.
const PIECES: usize = 4;

/// Write a disk as it was at a recovery point to a file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The VM: its name or id
    vm: String,
    #[command(flatten)]
    place: PlaceArgs,
    /// The recovery point: its cycle, `latest`, or a time, which means the last point until then
    #[arg(long, default_value = "latest", value_name = "POINT")]
    point: String,
    /// The disk: its name or id
    #[arg(long, value_name = "NAME")]
    disk: String,
    /// The file
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// What the file is; all but raw are made by qemu-img
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

/// Formats of disk files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The bytes of the disk; zeroes are holes.
    #[default]
    Raw,
    /// QEMU's.
    Qcow2,
    /// Virtual PC's and Azure's.
    Vhd,
    /// Hyper-V's.
    Vhdx,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    if !args.force && args.to.exists() {
        let file = args.to.display();
        return Err(
            format!("{file} exists: choose another file, or replace it with --force").into()
        );
    }
    if args.format != Format::Raw {
        find_qemu_img()?;
    }
    let (runtime, vault) = args.place.open()?;
    let reader = Reader::new();
    let work = async {
        let (vm, points) = find_vm(&vault, &args.vm).await?;
        let point = choose_point(&points, &args.point)?;
        let disk = find_disk(point, &args.disk)?;
        let sequence = point.disks[&disk].sequence;
        let image = Arc::new(vault.open_disk(disk, sequence).await?);
        let to = partial(&args.to);
        let written = write_raw(&image, &to);
        let data_bytes = reader.hold(&vault, vm, &image, written).await?;
        Ok::<_, CommandError>((vm, point.clone(), disk, image.size_bytes(), data_bytes))
    };
    let read = until_interrupted(&runtime, work);
    runtime.block_on(reader.release(&vault));
    let done = read.and_then(|done| {
        finish(args)?;
        Ok(done)
    });
    let (vm, point, disk, size_bytes, data_bytes) = done.inspect_err(|_| {
        // What is there is worth nothing.
        for file in [partial(&args.to), converted(&args.to)] {
            let _ = fs::remove_file(file);
        }
    })?;
    print(&format!(
        "{}: disk {} of {} as of {} ({} point {}), {size_bytes} bytes, {data_bytes} of them data, all checked",
        args.to.display(),
        disk_name(disk, &point.names),
        name_of(vm, &point.names),
        point.at,
        format!("{:?}", point.consistency).to_lowercase(),
        point.cycle,
    ));
    Ok(Answer::Done)
}

/// The raw disk under way.
fn partial(to: &Path) -> PathBuf {
    with_suffix(to, ".partial")
}

/// The converted disk under way.
fn converted(to: &Path) -> PathBuf {
    with_suffix(to, ".converted.partial")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

async fn find_vm(
    vault: &Vault,
    wanted: &str,
) -> Result<(VmId, Vec<RecoveryPointRecord>), CommandError> {
    let mut known = Vec::new();
    for vm in vault.vms().await? {
        let points = vault.points(vm).await?.points;
        let name = points.last().map_or(String::new(), |point| point.names.vm.clone());
        if vm.to_string() == wanted || name == wanted {
            return Ok((vm, points));
        }
        known.push(if name.is_empty() { vm.to_string() } else { name });
    }
    Err(format!("the vault has no VM {wanted}; it has: {}", known.join(", ")).into())
}

fn choose_point<'a>(
    points: &'a [RecoveryPointRecord],
    wanted: &str,
) -> Result<&'a RecoveryPointRecord, CommandError> {
    let found = if wanted == "latest" {
        points.last()
    } else if let Ok(cycle) = wanted.parse::<u64>() {
        points.iter().find(|point| point.cycle == cycle)
    } else {
        let time = DateTime::parse_from_rfc3339(wanted).map_err(|_| {
            format!(
                "{wanted} is neither a cycle, nor `latest`, nor a time as in 2026-11-23T04:00:00Z"
            )
        })?;
        points.iter().rev().find(|point| point.at.as_millis() <= time.timestamp_millis())
    };
    found.ok_or_else(|| {
        let ends = match (points.first(), points.last()) {
            (Some(first), Some(last)) => {
                format!("{} of {} to {} of {}", first.cycle, first.at, last.cycle, last.at)
            }
            _ => "none".to_owned(),
        };
        format!("the VM has no recovery point {wanted}; it has: {ends}").into()
    })
}

fn find_disk(point: &RecoveryPointRecord, wanted: &str) -> Result<DiskId, CommandError> {
    let mut disks = point.disks.keys().copied();
    let is_wanted =
        |disk: &DiskId| disk.to_string() == wanted || disk_name(*disk, &point.names) == wanted;
    disks.find(is_wanted).ok_or_else(|| {
        let known: Vec<String> =
            point.disks.keys().map(|disk| disk_name(*disk, &point.names)).collect();
        format!("the point has no disk {wanted}; it has: {}", known.join(", ")).into()
    })
}

/// Writes the disk, sparse and synced; answers its bytes of data.
async fn write_raw(image: &Arc<DiskImage>, to: &Path) -> Result<u64, CommandError> {
    let failed = |error| format!("write {}: {error}", to.display());
    let file = File::create(to).map_err(failed)?;
    file.set_len(image.size_bytes()).map_err(failed)?;
    let bar = Bar::over(image.size_bytes());
    let mut pieces =
        std::pin::pin!(pieces(image).map(|piece| read_piece(image, piece)).buffered(PIECES));
    let mut data_bytes = 0;
    while let Some(piece) = pieces.next().await {
        let (offset, data) = piece?;
        data_bytes += write_sparse(&file, offset, &data).map_err(failed)?;
        bar.show(offset + data.len() as u64);
    }
    bar.clear();
    file.sync_all().map_err(failed)?;
    Ok(data_bytes)
}

/// The parts of the disk that hold data, with what lies between near ones.
fn pieces(image: &DiskImage) -> impl stream::Stream<Item = Result<Range<u64>, VaultError>> + '_ {
    stream::try_unfold(0, move |from| async move {
        let Some(run) = image.next_data(from).await? else { return Ok(None) };
        let end = image.size_bytes().min(run.start + PIECE_BYTES);
        Ok(Some((run.start..end, end)))
    })
}

/// Writes what is not zero.
fn write_sparse(file: &File, offset: u64, data: &[u8]) -> io::Result<u64> {
    let mut written = 0;
    for (at, block) in (offset..).step_by(BLOCK_BYTES).zip(data.chunks(BLOCK_BYTES)) {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at)?;
            written += block.len() as u64;
        }
    }
    Ok(written)
}

/// Reads a piece on a task of its own, so that every core decodes.
async fn read_piece(
    image: &Arc<DiskImage>,
    piece: Result<Range<u64>, VaultError>,
) -> Result<(u64, Vec<u8>), CommandError> {
    let (image, piece) = (Arc::clone(image), piece?);
    let read = tokio::spawn(async move {
        let mut data = vec![0; (piece.end - piece.start) as usize];
        image.read_at(piece.start, &mut data).await.map(|()| (piece.start, data))
    });
    Ok(read.await??)
}

/// Converts where that was asked for, and gives the file its name.
fn finish(args: &Args) -> Result<(), CommandError> {
    let raw = partial(&args.to);
    let ready = match args.format {
        Format::Raw => raw,
        Format::Qcow2 | Format::Vhd | Format::Vhdx => {
            let target = converted(&args.to);
            convert(&raw, &target, args.format)?;
            fs::remove_file(&raw)?;
            target
        }
    };
    fs::rename(&ready, &args.to)
        .map_err(|error| format!("rename {} to {}: {error}", ready.display(), args.to.display()))?;
    let folder = args.to.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(())
}

fn convert(raw: &Path, target: &Path, format: Format) -> Result<(), CommandError> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw", "-O"]);
    match format {
        Format::Raw => command.arg("raw"),
        Format::Qcow2 => command.arg("qcow2"),
        // Without `force_size` the size is rounded to a cylinder, which Azure refuses.
        Format::Vhd => command.args(["vpc", "-o", "subformat=dynamic,force_size=on"]),
        Format::Vhdx => command.arg("vhdx"),
    };
    let output = command.arg(raw).arg(target).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("convert the disk with qemu-img: {}", said.trim()).into());
    }
    Ok(File::open(target)?.sync_all()?)
}

fn find_qemu_img() -> Result<(), CommandError> {
    let mut command = Command::new("qemu-img");
    match command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err("this format needs qemu-img, which is not installed: export raw, or install it"
                .into())
        }
        Err(error) => Err(format!("start qemu-img: {error}").into()),
    }
}
