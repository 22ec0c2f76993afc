//! A disk that is added: what is on it is in the replica, and in no point from before.

use super::{BOOT, MIB, Rig, SIZES, assert_same, disk_id, job};
use lifeboat::disk::files::RealFiles;
use lifeboat::disk::raw::RawDisk;
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::job::{JobKind, Step};
use lifeboat::domain::vm::{Command, Disk, Phase, PointChoice};
use lifeboat::drivers::lab::Fault;
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::Open;
use lifeboat::ports::replication::Replication;
use std::sync::Arc;

/// More than a region.
const SIZE: u64 = 70 * MIB;

const ADDED: usize = SIZES.len();

/// Where its image holds something before it is added.
const HELD: u64 = 65 * MIB;

fn order(rig: &mut Rig) {
    let disk = Disk { id: disk_id(ADDED), name: "disk2".to_owned(), size_bytes: SIZE };
    let path = rig.folder.path().join("disk2.img");
    let image = RawDisk::create(&rig.host, &path, SIZE).unwrap();
    image.write_at(&[5; 8192], HELD, false).unwrap();
    let image = path.display().to_string();
    rig.tell(&Command::AddDisk { job: job(2), disk, image });
}

/// What a host does of it.
fn offer(rig: &mut Rig) {
    rig.tracker.close().unwrap();
    rig.reopen_host(Arc::new(RealFiles), BOOT);
    let broken = rig.tracker.status().broken;
    assert!(rig.tracker.status().tracking, "{broken:?}");
}

fn until_offered(rig: &mut Rig) {
    order(rig);
    rig.work_until(Step::OfferAddedDisk(disk_id(ADDED)));
    offer(rig);
    rig.step().unwrap();
}

/// A VM that has got a third disk.
fn added() -> Rig {
    let mut rig = Rig::protected();
    rig.write(30);
    rig.cycle();
    rig.write(5);
    until_offered(&mut rig);
    // Somebody writes while it is seeded.
    write(&rig, 0, 7);
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    rig
}

fn write(rig: &Rig, offset: u64, byte: u8) {
    let disk = rig.tracker.disk(disk_id(ADDED)).unwrap();
    disk.write_at(&[byte; 4096], offset, false).unwrap();
}

#[track_caller]
fn assert_replica_is_in_step(rig: &Rig) {
    let path = rig.folder.path().join("disk2.img");
    let disk = RawDisk::open(&rig.host, &path, Open::Read).unwrap();
    let point = rig.latest().cycle;
    let sequence = rig.record(point).disks[&disk_id(ADDED)].sequence;
    assert_same(&rig.image(ADDED, sequence), &disk);
    assert_eq!(rig.prove(point), rig.written);
}

#[track_caller]
fn assert_points_from_before_are_without_it(rig: &Rig) {
    for point in rig.vm.points.iter() {
        let disks = rig.vm.disks_in_point(point.cycle).count();
        assert_eq!(rig.record(point.cycle).disks.len(), disks, "point {}", point.cycle);
        rig.prove(point.cycle);
    }
}

#[test]
fn it_is_in_points_from_one_on_and_only_what_is_on_it_is_sent() {
    let mut rig = Rig::protected();
    rig.write(30);
    rig.cycle();
    let before = rig.sent();
    until_offered(&mut rig);
    write(&rig, 0, 7);
    rig.work_off().unwrap();
    // The blocks that it held, and what was written to it, whether it was compared before or after that.
    let (compared, different) = *rig.compared.last().unwrap();
    assert_eq!(compared, SIZE);
    assert!([8192, 8192 + 4096].contains(&different), "{different}");
    let of_others = |object: &&String| {
        let own = disk_id(ADDED).to_string();
        !object.contains(&own) && object.contains("/base/") && !before.contains_key(*object)
    };
    let after = rig.sent();
    assert_eq!(after.keys().filter(of_others).count(), 0, "{after:?}");
    assert_replica_is_in_step(&rig);
    assert_points_from_before_are_without_it(&rig);
    let last = rig.vm.points.len() - 1;
    assert!(rig.vm.points[..last].iter().all(|it| rig.record(it.cycle).disks.len() == 2));

    write(&rig, SIZE - 4096, 9);
    rig.write(10);
    rig.cycle();
    assert_replica_is_in_step(&rig);
    // What was seeded is not suspect any more.
    let suspect = rig.tracker.suspect(disk_id(ADDED)).bytes(SIZE);
    assert!(suspect < MIB, "{suspect}");
}

#[test]
fn a_service_that_starts_again_at_any_step_ends_as_it_would_have() {
    let mut steps = 0;
    loop {
        let mut rig = Rig::protected();
        rig.write(10);
        rig.cycle();
        order(&mut rig);
        for _ in 0..steps {
            if matches!(rig.vm.work(), Some(work) if format!("{work:?}").contains("OfferAdded")) {
                offer(&mut rig);
            }
            if rig.vm.work().is_some() {
                rig.step().unwrap();
            }
        }
        // The work is done, and nobody hears of it.
        let ended = rig.vm.work().is_none();
        if !ended {
            if rig.vm.disks.len() == 3 {
                offer(&mut rig);
            }
            rig.perform().unwrap();
            rig.write(3);
            rig.tracker.close().unwrap();
            rig.reopen_host(Arc::new(RealFiles), BOOT);
        }
        rig.write(2);
        while rig.vm.work().is_some() {
            if rig.vm.disks.len() == 3 && rig.tracker.disk(disk_id(ADDED)).is_none() {
                offer(&mut rig);
            }
            rig.step().unwrap();
        }
        rig.cycle();
        assert_eq!(rig.vm.phase, Phase::Protected, "after {steps} steps");
        assert_replica_is_in_step(&rig);
        assert_points_from_before_are_without_it(&rig);
        if ended {
            break;
        }
        steps += 1;
    }
    assert_eq!(steps, 6);
}

#[test]
fn a_link_that_is_cut_while_it_is_seeded_is_waited_for() {
    let mut rig = Rig::protected();
    until_offered(&mut rig);
    rig.faults.raise(Fault::LinkCut);
    assert_eq!(rig.perform().unwrap_err().code, Code::LinkDown);
    rig.faults.clear(Fault::LinkCut);
    rig.work_off().unwrap();
    assert_replica_is_in_step(&rig);
}

#[test]
fn a_failover_to_a_point_from_before_serves_the_vm_without_it_and_failback_leaves_it_out() {
    let mut rig = added();
    let first = rig.cycles_known()[0];
    rig.tell(&Command::UnplannedFailover { job: job(3), point: PointChoice::Cycle(first) });
    rig.work_off().unwrap();
    assert_eq!(rig.exports.names().len(), 2);
    rig.tell(&Command::CommitFailover { job: job(4) });
    rig.work_off().unwrap();
    assert_eq!(rig.vm.disks.len(), 2);
    let left = rig.runtime.block_on(rig.proof.last_sequence(disk_id(ADDED))).unwrap();
    assert_eq!(left, None, "nobody needs what the vault had of it");
    rig.tell(&Command::Failback { job: job(5), in_full: false });
    rig.work_until(Step::AttachSource);
    rig.prove(rig.latest().cycle);
    // The host attaches the disks that the VM has.
    rig.tracker.close().unwrap();
    rig.reopen_host(Arc::new(RealFiles), BOOT);
    for command in [
        Command::CompleteFailback { job: job(6) },
        Command::CommitFailover { job: job(7) },
        Command::ReverseReplicate { job: job(8) },
    ] {
        rig.work_off().unwrap();
        rig.tell(&command);
    }
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    rig.written = rig.prove(rig.latest().cycle);

    // Added again, with other content: what the vault has of its first life does no harm.
    std::fs::remove_file(rig.folder.path().join("disk2.img")).unwrap();
    order(&mut rig);
    rig.work_until(Step::OfferAddedDisk(disk_id(ADDED)));
    offer(&mut rig);
    rig.work_off().unwrap();
    assert_replica_is_in_step(&rig);
}

#[test]
fn a_failover_to_the_latest_point_has_it_there_and_back() {
    let mut rig = added();
    write(&rig, MIB, 3);
    rig.cycle();
    rig.tell(&Command::UnplannedFailover { job: job(3), point: PointChoice::Latest });
    rig.work_off().unwrap();
    let name = rig.exports.names().into_iter().find(|name| name.contains("disk2")).unwrap();
    let served = rig.exports.get(&name).unwrap();
    let mut found = [0; 4096];
    served.read_at(&mut found, MIB).unwrap();
    assert_eq!(found, [3; 4096]);
    rig.tell(&Command::CommitFailover { job: job(4) });
    rig.work_off().unwrap();
    served.write_at(&[4; 4096], 2 * MIB, false).unwrap();
    rig.tell(&Command::Failback { job: job(5), in_full: false });
    rig.work_off().unwrap();
    rig.tell(&Command::CompleteFailback { job: job(6) });
    rig.work_off().unwrap();
    let disk = rig.tracker.disk(disk_id(ADDED)).unwrap();
    for (offset, byte) in [(0, 7), (MIB, 3), (2 * MIB, 4), (HELD, 5)] {
        disk.read_at(&mut found, offset).unwrap();
        assert_eq!(found, [byte; 4096], "at {offset}");
    }
}

#[test]
fn an_unplanned_failover_while_it_is_seeded_that_is_cancelled_leads_to_a_replica_in_step() {
    let mut rig = Rig::protected();
    rig.write(10);
    rig.cycle();
    until_offered(&mut rig);
    rig.tell(&Command::UnplannedFailover { job: job(3), point: PointChoice::Latest });
    rig.work_off().unwrap();
    assert_eq!(rig.exports.names().len(), 2);
    write(&rig, 3 * MIB, 8);
    rig.tell(&Command::CancelFailover { job: job(4) });
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    assert_replica_is_in_step(&rig);
    assert_points_from_before_are_without_it(&rig);
}

#[test]
fn tracking_that_is_lost_before_it_is_seeded_leads_to_a_replica_in_step() {
    let mut rig = Rig::protected();
    rig.write(10);
    until_offered(&mut rig);
    rig.lose_tracking();
    assert_eq!(rig.vm.job.as_ref().unwrap().kind, JobKind::ResynchronizeDifferences);
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    assert_replica_is_in_step(&rig);
}

#[test]
fn an_upkeep_of_the_replica_leaves_points_of_both_kinds_readable() {
    let mut rig = Rig::protected();
    rig.write(10);
    until_offered(&mut rig);
    let reclaim = |rig: &Rig| {
        rig.runtime.block_on(async { rig.engine.reclaim_space(&rig.vm).await.unwrap() });
    };
    while rig.vm.work().is_some() {
        reclaim(&rig);
        rig.step().unwrap();
    }
    for byte in 0..4 {
        rig.write(10);
        write(&rig, 2 * MIB, byte);
        rig.cycle();
    }
    reclaim(&rig);
    assert_points_from_before_are_without_it(&rig);
    assert_replica_is_in_step(&rig);
}

#[test]
fn protection_that_ends_leaves_nothing_of_it_in_the_vault() {
    let mut rig = added();
    rig.tell(&Command::DisableProtection { job: job(3), source_gone: false });
    rig.work_off().unwrap();
    assert!(rig.cycles_in_vault().is_empty());
    rig.enable_as(4);
    rig.work_off().unwrap();
    assert_replica_is_in_step(&rig);
}
