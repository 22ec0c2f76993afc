//! The NBD server against other people's clients.
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use super::{Machine, Served, StoppedClock};
use lifeboat::disk::files::RealFiles;
use lifeboat::disk::hrl::{HeaderTrust, LogReader};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{BootId, DiskSpec, Tracker};
use lifeboat::ports::files::Open;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use uuid::Uuid;

/// More than twice of what is written, for the logs may take half of it.
const SIZE: u64 = 64 << 20;

/// A tracked disk on a socket, tracking on.
fn tracked() -> (Served, Arc<Tracker>) {
    let mut opened = None;
    let served = Served::new(|folder| {
        let image = RawDisk::create(&RealFiles, &folder.join("disk.img"), SIZE).unwrap();
        let spec =
            DiskSpec { id: Machine::id(0), name: "disk".to_owned(), device: Arc::new(image) };
        let (files, boot) = (Arc::new(RealFiles), BootId(Uuid::from_u128(1)));
        let tracker =
            Tracker::open(files, folder, vec![spec], boot, Arc::new(StoppedClock)).unwrap();
        tracker.start().unwrap();
        let disk = tracker.disk(Machine::id(0)).unwrap();
        opened = Some(tracker);
        disk
    });
    (served, opened.unwrap())
}

/// Cuts, and checks that the log leads from zeroes to what the disk holds.
fn assert_log_equals_disk(served: &Served, tracker: &Tracker) {
    let cut = tracker.cut(1).unwrap();
    let copy = RawDisk::create(&RealFiles, &served.folder.path().join("copy.img"), SIZE).unwrap();
    let log = LogReader::open(&RealFiles, &cut.logs[0].path, HeaderTrust::Verified).unwrap();
    log.apply_to(&copy).unwrap();
    assert!(log.total_entries() > 0);
    assert!(super::content(&copy) == super::content(&*served.exports.get("disk").unwrap()));
}

/// Runs a tool, or says that the test was skipped.
fn run(test: &str, tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED {test}: {tool} is not installed");
            None
        }
        Err(error) => panic!("{tool}: {error}"),
    }
}

fn assert_success(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{error}");
    text
}

#[test]
fn nbdinfo_sees_what_is_offered() {
    let test = "nbdinfo_sees_what_is_offered";
    let (served, _tracker) = tracked();
    let uri = served.server.uri("disk").to_string();
    let Some(output) = run(test, "nbdinfo", &["--json", &uri]) else { return };
    let text = assert_success(&output);
    for expected in [
        "\"protocol\": \"newstyle-fixed\"",
        "\"structured\": true",
        "\"export-size\": 67108864",
        "\"base:allocation\"",
        "\"can_multi_conn\": true",
        "\"can_flush\": true",
        "\"can_fua\": true",
        "\"can_trim\": true",
        "\"can_zero\": true",
        "\"can_cache\": true",
        "\"is_read_only\": false",
        "\"block_size_minimum\": 1",
        "\"block_size_preferred\": 4096",
        "\"block_size_maximum\": 33554432",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    let Some(output) = run(test, "nbdinfo", &["--list", "--json", &uri]) else { return };
    assert!(assert_success(&output).contains("\"export-name\": \"disk\""));
    served.client().write_at(&vec![1; 65_536], 1 << 20, false).unwrap();
    let Some(output) = run(test, "nbdinfo", &["--map", &uri]) else { return };
    let map = assert_success(&output);
    let runs: Vec<Vec<&str>> =
        map.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(
        runs,
        [["0", "1048576", "3"], ["1048576", "65536", "0"], ["1114112", "65994752", "3"]]
    );
}

#[test]
fn nbdcopy_writes_and_reads_an_image() {
    let test = "nbdcopy_writes_and_reads_an_image";
    let (served, tracker) = tracked();
    let uri = served.server.uri("disk").to_string();
    let (source, target) =
        (served.folder.path().join("source"), served.folder.path().join("target"));
    write_pattern(&source);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let Some(output) = run(test, "nbdcopy", &["--flush", &path(&source), &uri]) else { return };
    assert_success(&output);
    let Some(output) = run(test, "nbdcopy", &[&uri, &path(&target)]) else { return };
    assert_success(&output);
    assert!(image(&source) == image(&target));
    assert_log_equals_disk(&served, &tracker);
}

#[test]
fn qemu_img_converts_into_compares_and_maps_an_export() {
    let test = "qemu_img_converts_into_compares_and_maps_an_export";
    let (served, tracker) = tracked();
    let uri = served.server.uri("disk").to_string();
    let source = served.folder.path().join("source");
    write_pattern(&source);
    let source = source.to_str().unwrap();
    let convert = ["convert", "-n", "-f", "raw", "-O", "raw", source, &uri];
    let Some(output) = run(test, "qemu-img", &convert) else { return };
    assert_success(&output);
    let compare = ["compare", "-f", "raw", "-F", "raw", source, &uri];
    let Some(output) = run(test, "qemu-img", &compare) else { return };
    assert!(assert_success(&output).contains("identical"));
    let Some(output) = run(test, "qemu-img", &["map", "-f", "raw", "--output=json", &uri]) else {
        return;
    };
    let map = assert_success(&output);
    assert!(map.contains("\"zero\": true") && map.contains("\"zero\": false"), "{map}");
    assert_log_equals_disk(&served, &tracker);
}

#[test]
fn qemu_io_writes_zeroes_discards_and_verifies() {
    let test = "qemu_io_writes_zeroes_discards_and_verifies";
    let (served, tracker) = tracked();
    let uri = served.server.uri("disk").to_string();
    let commands = [
        "write -P 0xab 0 4M",
        "write -f -P 0xcd 1M 4k",
        "write -P 0x11 4M 700",
        "write -z 2M 64k",
        "write -z -u 3M 64k",
        "discard 3584k 128k",
        "flush",
        "read -P 0xab 0 1M",
        "read -P 0xcd 1M 4k",
        "read -P 0x11 4M 512",
        "read -P 0 2M 64k",
        "read -P 0 3M 64k",
        "read -P 0 3584k 128k",
        "aio_write -P 7 8M 1M",
        "aio_flush",
        "read -P 7 8M 1M",
    ];
    let mut arguments = vec!["-f", "raw"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(&uri);
    let Some(output) = run(test, "qemu-io", &arguments) else { return };
    let text = assert_success(&output);
    assert!(!text.contains("failed"), "{text}");
    assert_log_equals_disk(&served, &tracker);
}

#[test]
fn fio_verifies_what_it_wrote() {
    let test = "fio_verifies_what_it_wrote";
    let (served, tracker) = tracked();
    let uri = format!("--uri={}", served.server.uri("disk"));
    let arguments = [
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--iodepth=32",
        "--size=16m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--do_verify=1",
        "--fsync=50",
        "--verify_state_save=0",
        "--randseed=7",
        "--group_reporting",
    ];
    let Some(output) = run(test, "fio", &arguments) else { return };
    if String::from_utf8_lossy(&output.stderr).contains("nbd: No such file") {
        println!("SKIPPED {test}: fio has no nbd engine");
        return;
    }
    assert_success(&output);
    assert_log_equals_disk(&served, &tracker);
}

/// An image with data, runs of one byte, and holes.
fn write_pattern(path: &Path) {
    use lifeboat::ports::block::BlockDevice;
    let image = RawDisk::create(&RealFiles, path, SIZE).unwrap();
    let data: Vec<u8> =
        (0..3_000_000_u32).map(|nth| (nth.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    image.write_at(&data, 12_345, false).unwrap();
    image.write_at(&vec![7; 1 << 20], 8 << 20, false).unwrap();
    image.write_at(&[1; 1], SIZE - 1, false).unwrap();
}

fn image(path: &Path) -> Vec<u8> {
    super::content(&RawDisk::open(&RealFiles, path, Open::Read).unwrap())
}
