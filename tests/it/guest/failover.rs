//! A site that is lost under a guest that writes: the guest boots from a recovery point, writes on, and
//! what it wrote comes back.
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
use lifeboat::service::{Config, Service, SystemClock};
use std::fs::{self, File};
use std::path::Path;

/// Names the configuration, for the process that fails over and is killed.
pub(super) const CONFIG: &str = "LIFEBOAT_TEST_FAIL_OVER";

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
        let job = JobId::derived(id, service.site.state::<Vm>(id).await.unwrap().jobs);
        let command = Command::UnplannedFailover { job, point: PointChoice::Latest };
        service.site.tell::<Vm>(id, command, Origin::of("administrator")).await.unwrap();
        let mut said = false;
        loop {
            let vm = service.site.state::<Vm>(id).await.unwrap();
            if vm.phase == Phase::CommitPending(FailoverKind::Unplanned) && !said {
                println!("{SERVES}{}", vm.failover.unwrap().point.cycle);
                said = true;
            }
            actix::clock::sleep(super::LOOK).await;
        }
    });
}

/// Starts that process; answers the cycle of the recovery point.
fn fail_over(lab: &Lab) -> (Agent, u64) {
    let log = lab.path("fails-over.log");
    let file = File::create_new(&log).unwrap();
    let this = std::env::current_exe().unwrap();
    let process = command(this.to_str().unwrap())
        .args(["guest::failover::fail_over_and_serve_until_killed", "--exact", "--nocapture"])
        .env(CONFIG, lab.config())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let agent = Agent::started(process, &log, SERVES);
    let said = super::text_of(&log);
    let cycle = said.split(SERVES).nth(1).unwrap().lines().next().unwrap();
    (agent, cycle.parse().unwrap())
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
    let (agent, cycle) = fail_over(&lab);
    let point = replica.points().into_iter().find(|point| point.cycle == cycle).unwrap();
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

fn copy_back(socket: &Path, image: &Path) {
    let uri = NbdUri { endpoint: Endpoint::Unix(socket.to_owned()), export: "vm-01-os".to_owned() };
    let served = NbdDisk::connect(&uri.to_string()).unwrap();
    assert_eq!(served.size_bytes(), DISK_BYTES);
    let mut bytes = vec![0; DISK_BYTES as usize];
    served.read_at(&mut bytes, 0).unwrap();
    fs::write(image, bytes).unwrap();
}
