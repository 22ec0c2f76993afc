//! Failover of a guest that writes. Unplanned: its site is lost, it boots from a recovery point, writes on,
//! and what it wrote comes back. Planned: nothing is lost.
#![expect(clippy::print_stdout, reason = "the process that is killed says when it serves")]

use super::{Agent, DISK_BYTES, Disk, Lab, Machine, Replica, command, e2fsck, wait_until};
use lifeboat::actors::Origin;
use lifeboat::disk::nbd::{Endpoint, NbdDisk, NbdUri};
use lifeboat::domain::id::JobId;
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{Command, FailoverKind, Phase, PointChoice, Vm};
use lifeboat::drivers::lab::AfterBoot;
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::clock::Clock;
use lifeboat::replica::RecoveryPointRecord;
use lifeboat::service::{Config, Service, SystemClock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Names the configuration, for the process that fails over and is killed.
pub(super) const CONFIG: &str = "LIFEBOAT_TEST_FAIL_OVER";

/// Names the file whose appearance asks that process for a planned failover; without it the process fails
/// over unplanned and at once.
const ASKED: &str = "LIFEBOAT_TEST_FAIL_OVER_ASKED";

/// What that process says when it waits for that file.
const WAITS: &str = "WAITS TO BE ASKED";

/// What that process says before the cycle of the recovery point that it serves.
const SERVES: &str = "SERVES THE POINT OF CYCLE ";

/// Recovery points that are made while the guest writes.
const POINTS: usize = 3;

/// Files that the replica writes before and after its disk is lost for a moment.
const FILES: u64 = 5;

/// Not a test by itself: this binary is started again, as the process that is killed.
#[test]
fn fail_over_and_serve_until_killed() {
    let Some(config) = std::env::var_os(CONFIG) else { return };
    let config = Config::read(Path::new(&config)).unwrap();
    actix::System::new().block_on(async {
        let service = Service::start(&config, AfterBoot::Idle).await.unwrap();
        let id = service.vms[0].id.0;
        let asked = std::env::var_os(ASKED);
        if let Some(asked) = &asked {
            println!("{WAITS}");
            while !Path::new(asked).exists() {
                actix::clock::sleep(super::LOOK).await;
            }
        }
        let job = JobId::derived(id, service.site.state::<Vm>(id).await.unwrap().jobs);
        let (command, kind) = if asked.is_some() {
            (Command::PlannedFailover { job }, FailoverKind::Planned)
        } else {
            let point = PointChoice::Latest;
            (Command::UnplannedFailover { job, point }, FailoverKind::Unplanned)
        };
        service.site.tell::<Vm>(id, command, Origin::of("administrator")).await.unwrap();
        let mut said = false;
        loop {
            let vm = service.site.state::<Vm>(id).await.unwrap();
            if vm.phase == Phase::CommitPending(kind) && !said {
                println!("{SERVES}{}", vm.failover.unwrap().point.cycle);
                said = true;
            }
            actix::clock::sleep(super::LOOK).await;
        }
    });
}

/// Starts that process; returns when it has said this.
fn start(lab: &Lab, asked: Option<&Path>, until: &str) -> Agent {
    let log = log(lab);
    let file = File::create_new(&log).unwrap();
    let this = std::env::current_exe().unwrap();
    let process = command(this.to_str().unwrap())
        .args(["guest::failover::fail_over_and_serve_until_killed", "--exact", "--nocapture"])
        .env(CONFIG, lab.config())
        .envs(asked.map(|asked| (ASKED, asked)))
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    Agent::started(process, &log, until)
}

fn log(lab: &Lab) -> PathBuf {
    lab.path("fails-over.log")
}

/// Waits until that process serves; answers the recovery point.
fn served(lab: &Lab, replica: &Replica) -> RecoveryPointRecord {
    let mut cycle = None;
    wait_until("the failover", || {
        let said = super::text_of(&log(lab));
        cycle = said.split(SERVES).nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        cycle.is_some()
    });
    replica.points().into_iter().find(|point| Some(point.cycle) == cycle).unwrap()
}

#[test]
fn a_guest_that_is_lost_with_its_site_boots_from_a_recovery_point_and_what_it_writes_then_comes_back()
 {
    let test = "a_guest_that_is_lost_with_its_site_boots_from_a_recovery_point_and_what_it_writes_\
                then_comes_back";
    let Some(lab) = Lab::new(test) else { return };
    let image = lab.protect();
    let socket = lab.data().join("nbd.sock");
    let disk = Disk::Export { socket: &socket, name: "vm-01-os" };

    // The site is lost while the guest writes.
    let agent = Agent::serve(&lab, "primary");
    let mut guest = Machine::boot(&lab, "source", disk, "mode=write");
    guest.wait_for("WROTE", 1);
    let replica = Replica::of(&lab.data());
    let points = replica.points().len();
    let mut written: Vec<(Timestamp, u64)> = Vec::new();
    wait_until("recovery points while the guest writes", || {
        written.push((SystemClock.now(), guest.number("WROTE")));
        points + POINTS <= replica.points().len()
    });
    guest.kill();
    agent.kill();
    let at_most = guest.number("WROTE");
    fs::rename(&image, lab.path("unreachable")).unwrap();

    // The recovery point is the disk at its instant: points are dated in whole seconds.
    let agent = start(&lab, None, SERVES);
    let point = served(&lab, &replica);
    let before = |(at, _): &&(Timestamp, u64)| *at <= point.at;
    let (_, at_least) = *written.iter().rev().find(before).unwrap();
    assert!(0 < at_least, "nothing was written before the point");
    let as_recovered = lab.path("as-recovered.img");
    fs::write(&as_recovered, replica.content(&point)).unwrap();
    e2fsck(&["-y", "-E", "journal_only"], &as_recovered);
    assert_eq!(e2fsck(&["-f", "-n"], &as_recovered), Some(0));

    // It boots there and writes on, over a kill -9 of whatever serves it.
    let socket = lab.data().join("recovery/nbd.sock");
    let disk = Disk::Export { socket: &socket, name: "vm-01-os" };
    let mut guest = Machine::boot(&lab, "replica", disk, "mode=write");
    guest.wait_for("WROTE", 1);
    let recovered = guest.number("VERIFIED");
    assert_eq!(guest.told("VERIFIED").unwrap(), format!("{recovered} of {recovered}"));
    // It is a disk that lost power, not one that was shut down.
    assert!(guest.told("REPLAYED").is_some());
    assert!(
        (at_least..=at_most + 1).contains(&recovered),
        "{recovered} files in the point, {at_least} to {at_most} were written"
    );
    guest.wait_for("WROTE", recovered + FILES);
    agent.kill();
    let agent = Agent::serve(&lab, "recovery");
    guest.wait_for("WROTE", recovered + 2 * FILES);
    let wrote = guest.power_off("WROTE");

    // Point and overlay, copied from the export into an image, are the disk that it left.
    let back = lab.path("back.img");
    copy_back(&socket, &back);
    agent.stop();
    assert_eq!(e2fsck(&["-f", "-n"], &back), Some(0));
    let verified = Machine::boot(&lab, "back", Disk::Image(&back), "mode=verify").ended("VERIFIED");
    assert_eq!(verified, format!("{wrote} of {wrote}"));
}

#[test]
fn a_guest_that_is_failed_over_as_planned_in_the_middle_of_its_writes_loses_none() {
    let test = "a_guest_that_is_failed_over_as_planned_in_the_middle_of_its_writes_loses_none";
    let Some(lab) = Lab::new(test) else { return };
    let image = lab.protect();
    let asked = lab.path("asked");
    let _agent = start(&lab, Some(&asked), WAITS);
    let socket = lab.data().join("nbd.sock");
    let disk = Disk::Export { socket: &socket, name: "vm-01-os" };
    let mut source = Machine::boot(&lab, "source", disk, "mode=write");
    source.wait_for("WROTE", 1);
    let replica = Replica::of(&lab.data());
    let points = replica.points().len();
    wait_until("recovery points", || points + POINTS <= replica.points().len());

    // Nobody shuts this guest down: it is cut off, and waits for its disk.
    File::create_new(&asked).unwrap();
    let point = served(&lab, &replica);
    source.kill();
    let wrote = source.number("WROTE");
    assert!(replica.content(&point) == fs::read(&image).unwrap(), "they differ");

    let socket = lab.data().join("recovery/nbd.sock");
    let disk = Disk::Export { socket: &socket, name: "vm-01-os" };
    let verified = Machine::boot(&lab, "replica", disk, "mode=verify").ended("VERIFIED");
    // The last file may have been synced by a guest that could not say so any more.
    let all = [wrote, wrote + 1].map(|files| format!("{files} of {files}"));
    assert!(all.contains(&verified), "{verified} files, {wrote} were written");
}

fn copy_back(socket: &Path, image: &Path) {
    let uri = NbdUri { endpoint: Endpoint::Unix(socket.to_owned()), export: "vm-01-os".to_owned() };
    let served = NbdDisk::connect(&uri.to_string()).unwrap();
    assert_eq!(served.size_bytes(), DISK_BYTES);
    let mut bytes = vec![0; DISK_BYTES as usize];
    served.read_at(&mut bytes, 0).unwrap();
    fs::write(image, bytes).unwrap();
}
