//! Power loss: the service and a client that flushes run *in* the guest, whose QEMU is killed. What the
//! guest had in memory is gone, what it had flushed to its disk is not.

use super::{DISK_BYTES, Disk, Lab, Machine, Replica, e2fsck, make_ext4, wait_until};
use lifeboat::disk::nbd::{Client, Endpoint};
use lifeboat::domain::vm::{Health, Phase};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The service and its client have more in memory than files.
const MEMORY_MIB: u32 = 384;

/// In the guest: the last write of each earlier round that was flushed, as JSON.
const FLUSHED: &str = "GUEST_FLUSHED";

/// In the guest: the socket of the export.
const SOCKET: &str = "GUEST_SOCKET";

/// In the guest: what is to be done there once every flushed write was found.
const TASK: &str = "GUEST_TASK";

/// The tasks: to write until the power is lost, to say as well when the replica has a point of it, to end once the
/// replica has everything, to end.
const WRITE: &str = "write";
const WRITE_AND_WATCH: &str = "watch";
const REPLICATE: &str = "replicate";
const CHECK: &str = "check";

/// The exports of the two sites, in the guest.
const PRIMARY: &str = "/mnt/data/nbd.sock";
const RECOVERY: &str = "/mnt/data/recovery/nbd.sock";

/// The configuration, in the guest.
const CONFIG: &str = "/etc/lifeboat.toml";

/// Writes of a round have numbers above these many times the round.
const ROUND: u64 = 1_000_000;

/// Writes between two flushes.
const UNFLUSHED: u64 = 10;

/// A write fills one block with its number. A block is a page of the guest's cache.
const BLOCK_BYTES: u64 = 4_096;
const BLOCKS: u64 = 512;

/// The block of a write.
fn block(number: u64) -> u64 {
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % BLOCKS
}

/// Not a test by itself: this binary runs in the guest, as the client.
#[test]
fn write_and_flush() {
    let Ok(flushed) = std::env::var(FLUSHED) else { return };
    let flushed: Vec<u64> = serde_json::from_str(&flushed).unwrap();
    let endpoint = Endpoint::Unix(PathBuf::from(std::env::var_os(SOCKET).unwrap()));
    let mut client = None;
    wait_until("the export", || {
        client = Client::connect(&endpoint, "vm-01-os").ok();
        client.is_some()
    });
    let mut client = client.unwrap();
    check_blocks(&mut client, &flushed);
    say(&format!("VERIFIED {}", flushed.len()));
    match &*std::env::var(TASK).unwrap() {
        WRITE => write_until_killed(&mut client, flushed.len() as u64 * ROUND),
        WRITE_AND_WATCH => {
            std::thread::spawn(|| {
                Replica::of(Path::new("/mnt/data")).wait_for_next_point();
                say("REPLICATED 1");
            });
            write_until_killed(&mut client, flushed.len() as u64 * ROUND);
        }
        REPLICATE => {
            // The first could be of logs that were cut before the power was lost.
            let replica = Replica::of(Path::new("/mnt/data"));
            replica.wait_for_next_point();
            replica.wait_for_next_point();
        }
        task => assert_eq!(task, CHECK),
    }
}

fn write_until_killed(client: &mut Client, mut number: u64) {
    loop {
        number += 1;
        let data = number.to_le_bytes().repeat(BLOCK_BYTES as usize / 8);
        client.write_at(&data, block(number) * BLOCK_BYTES, false).unwrap();
        if number.is_multiple_of(UNFLUSHED) {
            client.flush().unwrap();
            say(&format!("FLUSHED {number}"));
        }
    }
}

/// What the serial port shows.
#[expect(clippy::print_stdout, reason = "that is how a guest tells")]
fn say(what: &str) {
    println!("GUEST {what}");
}

/// Every block has its last write that was flushed, or a later one.
fn check_blocks(client: &mut Client, flushed: &[u64]) {
    let mut at_least = vec![0; BLOCKS as usize];
    for (round, last) in flushed.iter().enumerate() {
        for number in round as u64 * ROUND + 1..=*last {
            at_least[block(number) as usize] = number;
        }
    }
    for (index, at_least) in at_least.iter().enumerate() {
        let mut data = vec![0; BLOCK_BYTES as usize];
        client.read_at(&mut data, index as u64 * BLOCK_BYTES).unwrap();
        let (words, _) = data.as_chunks::<8>();
        for number in words.iter().map(|word| u64::from_le_bytes(*word)) {
            let fits = number == 0 || block(number) == index as u64;
            assert!(*at_least <= number && fits, "block {index}: {number}, flushed {at_least}");
        }
    }
}

#[test]
fn a_service_whose_machine_loses_power_has_every_flushed_write_and_resynchronizes() {
    let test = "a_service_whose_machine_loses_power_has_every_flushed_write_and_resynchronizes";
    let Some(mut lab) = Lab::new(test) else { return };
    lab.memory_mib = MEMORY_MIB;
    let disk = lab.path("machine.img");
    make_disk(&lab, &disk);

    let mut machine = Powerless { lab: &lab, disk: &disk, flushed: Vec::new() };
    // The initial copy, deltas, and a resynchronization are cut short.
    machine.write_until_power_is_lost("agent", PRIMARY, 40);
    machine.replicate_until_power_is_lost("agent", PRIMARY);
    machine.write_until_power_is_lost("agent", PRIMARY, 150);
    machine.run_to_its_end("agent", PRIMARY, REPLICATE);
    check_data(&lab, &disk);

    // A failed-over VM is as safe: what it writes is tracked too.
    machine.write_until_power_is_lost("failover", RECOVERY, 150);
    machine.write_until_power_is_lost("agent", RECOVERY, 150);
    machine.run_to_its_end("agent", RECOVERY, CHECK);
}

/// A machine that is switched on again and again.
struct Powerless<'a> {
    lab: &'a Lab,
    disk: &'a Path,
    /// The last write of each round that was flushed.
    flushed: Vec<u64>,
}

impl Powerless<'_> {
    fn write_until_power_is_lost(&mut self, mode: &str, socket: &str, writes: u64) {
        let round = self.flushed.len() as u64;
        let mut machine = self.boot(mode, socket, WRITE);
        machine.wait_for("FLUSHED", round * ROUND + writes);
        self.lose_power(machine);
    }

    /// As above, but not before the replica has a point of what is written: the VM is tracked then.
    fn replicate_until_power_is_lost(&mut self, mode: &str, socket: &str) {
        let mut machine = self.boot(mode, socket, WRITE_AND_WATCH);
        machine.wait_for("REPLICATED", 1);
        self.lose_power(machine);
    }

    fn lose_power(&mut self, mut machine: Machine) {
        machine.kill();
        self.flushed.push(machine.number("FLUSHED"));
    }

    fn run_to_its_end(&self, mode: &str, socket: &str, task: &str) {
        let verified = self.boot(mode, socket, task).ended("VERIFIED");
        assert_eq!(verified, self.flushed.len().to_string());
    }

    fn boot(&self, mode: &str, socket: &str, task: &str) -> Machine {
        let name = format!("{task}-{}", self.flushed.len());
        let flushed = serde_json::to_string(&self.flushed).unwrap();
        let mode = format!(
            "mode={mode} {FLUSHED}={flushed} {SOCKET}={socket} {TASK}={task} {}={CONFIG}",
            super::failover::CONFIG
        );
        Machine::boot(self.lab, &name, Disk::Image(self.disk), &mode)
    }
}

/// Makes the guest's disk, with the product and this binary on it, but not what only a debugger reads;
/// the guest boots with their libraries.
fn make_disk(lab: &Lab, disk: &Path) {
    let programs = lab.path("programs");
    fs::create_dir_all(programs.join("bin")).unwrap();
    let mut system = lab.system();
    let this = std::env::current_exe().unwrap();
    for (name, program) in
        [("lifeboat", Path::new(env!("CARGO_BIN_EXE_lifeboat"))), ("client", &this)]
    {
        let stripped = programs.join("bin").join(name);
        let done = Command::new("strip").arg("-o").arg(&stripped).arg(program).status().unwrap();
        assert!(done.success());
        system.libraries_of(&stripped);
    }
    let mib = (BLOCKS * BLOCK_BYTES) >> 20;
    let config = format!(
        "data = '/mnt/data'\nlisten = \"127.0.0.1:0\"\n[policy]\ncopy_frequency_s = 1\nresync_window = \"always\"\n\
         [[host]]\nname = \"host-1\"\n[[host.vm]]\nname = \"vm-01\"\n\
         disk = [{{ name = \"os\", path = '/mnt/vm-01.img', create_mib = {mib} }}]\n"
    );
    system.file(CONFIG, config.as_bytes());
    lab.pack(system);
    File::create_new(disk).unwrap().set_len(2 * DISK_BYTES).unwrap();
    make_ext4(disk, &["-d".as_ref(), programs.as_ref()]);
}

/// Reads the guest's disk without mounting it: the event log is sound and tells of the power loss, the
/// VM is protected again, and its replica equals its disk.
fn check_data(lab: &Lab, disk: &Path) {
    assert_eq!(e2fsck(&["-f", "-n"], disk), Some(0));
    let folder = lab.folder.path().display();
    for command in [format!("rdump /data {folder}"), format!("dump /vm-01.img {folder}/vm-01.img")]
    {
        let dumped = Command::new("debugfs").args(["-R", &command]).arg(disk).output().unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    }
    let exported = lab.path("events.jsonl");
    for arguments in [&["verify"][..], &["export", "--to", exported.to_str().unwrap()]] {
        let done = Command::new(env!("CARGO_BIN_EXE_lifeboat"))
            .arg("events")
            .args(arguments)
            .arg("--data")
            .arg(lab.data())
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let events = fs::read_to_string(exported).unwrap();
    let lost = events.matches("PowerLoss").count();
    assert!(0 < lost, "the power loss is not in the log");

    let replica = Replica::of(&lab.data());
    let vm = replica.state_of_vm(&lab.data());
    assert_eq!(vm.phase, Phase::Protected);
    let newest = replica.points().pop().unwrap();
    assert_eq!(vm.health(newest.at), Health::Normal);
    let image = fs::read(lab.path("vm-01.img")).unwrap();
    assert!(replica.content(&newest) == image, "replica and disk differ");
}
