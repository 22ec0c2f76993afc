//! A disk that grows: what was added is in the replica, and in no point from before.

use super::{BOOT, MIB, Rig, SIZES, assert_same, disk_id, job};
use lifeboat::disk::files::RealFiles;
use lifeboat::disk::raw::RawDisk;
use lifeboat::domain::job::{JobKind, Step};
use lifeboat::domain::vm::{Command, Phase, PointChoice};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::{Files, Open};
use std::sync::Arc;

/// Its second disk grows by more than a region.
const GROWN: u64 = SIZES[1] + 100 * MIB;

fn order(rig: &mut Rig) {
    rig.tell(&Command::ResizeDisk { job: job(2), disk: disk_id(1), size_bytes: GROWN });
}

/// What a host does of a resize.
fn lengthen(rig: &Rig) {
    let path = rig.folder.path().join("disk1.img");
    rig.host.open(&path, Open::Write).unwrap().set_len(GROWN).unwrap();
}

fn offer(rig: &mut Rig) {
    rig.tracker.close().unwrap();
    rig.reopen_host(Arc::new(RealFiles), BOOT);
}

/// A VM whose second disk has grown, with `before` done to its image before that.
fn grown(before: impl Fn(&Rig)) -> Rig {
    let mut rig = Rig::protected();
    rig.write(30);
    rig.cycle();
    rig.write(5);
    before(&rig);
    order(&mut rig);
    rig.work_until(Step::GrowDisk(disk_id(1)));
    lengthen(&rig);
    rig.work_until(Step::OfferGrownDisk(disk_id(1)));
    offer(&mut rig);
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    rig
}

fn size_in(rig: &Rig, cycle: u64) -> u64 {
    rig.images(cycle)[1].size_bytes()
}

fn disk(rig: &Rig) -> RawDisk {
    let path = rig.folder.path().join("disk1.img");
    RawDisk::open(&rig.host, &path, Open::Read).unwrap()
}

#[test]
fn points_from_before_keep_the_size_and_those_after_have_what_is_written_there() {
    let mut rig = grown(|_| ());
    let cycles = rig.cycles_known();
    let (last, before) = cycles.split_last().unwrap();
    assert_eq!(size_in(&rig, *last), GROWN);
    for cycle in before {
        assert_eq!(size_in(&rig, *cycle), SIZES[1]);
        rig.prove(*cycle);
    }
    // Nothing was there, so nothing was sent but what the guest wrote.
    assert_eq!(rig.compared.last(), Some(&(100 * MIB, 0)));

    let grown = rig.tracker.disk(disk_id(1)).unwrap();
    grown.write_at(&[9; 4096], GROWN - 4096, false).unwrap();
    rig.write(10);
    rig.cycle();
    let point = rig.latest().cycle;
    assert_same(&rig.images(point)[1], &disk(&rig));
    assert_eq!(rig.prove_disks(&[&rig.images(point)[0], &rig.images(point)[1]]), rig.written);
    assert_eq!(size_in(&rig, before[0]), SIZES[1]);
}

#[test]
fn what_the_image_held_beyond_the_disk_is_sent_and_nothing_else_is_compared() {
    let held = |rig: &Rig| {
        let path = rig.folder.path().join("disk1.img");
        let file = rig.host.open(&path, Open::Write).unwrap();
        file.write_all_at(&[5; 8192], SIZES[1] + 70 * MIB).unwrap();
    };
    let rig = grown(held);
    let (compared, different) = *rig.compared.last().unwrap();
    assert_eq!((compared, different), (100 * MIB, 8192));
    assert_same(&rig.images(rig.latest().cycle)[1], &disk(&rig));
}

#[test]
fn a_delta_that_was_under_way_has_the_earlier_size_and_is_sent_first() {
    let mut rig = Rig::protected();
    rig.write(10);
    rig.wake();
    rig.step().unwrap();
    let cut_after = rig.written;
    rig.write(3);
    order(&mut rig);
    rig.work_until(Step::GrowDisk(disk_id(1)));
    let cycles = rig.cycles_known();
    let proven: Vec<_> = cycles.iter().map(|cycle| rig.prove(*cycle)).collect();
    assert!(proven.contains(&cut_after) && proven.contains(&rig.written), "{proven:?}");
    assert!(cycles.iter().all(|cycle| size_in(&rig, *cycle) == SIZES[1]));
}

#[test]
fn a_failover_to_a_point_from_before_serves_the_disk_at_the_size_it_had() {
    let mut rig = grown(|_| ());
    let first = rig.cycles_known()[0];
    rig.tell(&Command::UnplannedFailover { job: job(3), point: PointChoice::Cycle(first) });
    rig.work_off().unwrap();
    let sizes: Vec<_> = rig
        .exports
        .names()
        .iter()
        .map(|name| rig.exports.get(name).unwrap().size_bytes())
        .collect();
    assert_eq!(sizes, SIZES);
    rig.tell(&Command::CommitFailover { job: job(4) });
    rig.work_off().unwrap();
    assert_eq!(rig.vm.disks[1].size_bytes, SIZES[1]);
    rig.tell(&Command::Failback { job: job(5), in_full: false });
    rig.work_until(Step::AttachSource);
    rig.prove(rig.latest().cycle);
    assert_eq!(size_in(&rig, rig.latest().cycle), SIZES[1]);
}

#[test]
fn tracking_that_is_lost_before_what_was_added_is_seeded_leads_to_a_replica_in_step() {
    let mut rig = Rig::protected();
    rig.write(10);
    order(&mut rig);
    rig.work_until(Step::GrowDisk(disk_id(1)));
    lengthen(&rig);
    let path = rig.folder.path().join("disk1.img");
    rig.host.open(&path, Open::Write).unwrap().write_all_at(&[6; 4096], GROWN - MIB).unwrap();
    rig.work_until(Step::OfferGrownDisk(disk_id(1)));
    offer(&mut rig);
    rig.work_until(Step::CompareDisk(disk_id(1)));
    rig.lose_tracking();
    assert_eq!(rig.vm.job.as_ref().unwrap().kind, JobKind::ResynchronizeDifferences);
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    assert_same(&rig.images(rig.latest().cycle)[1], &disk(&rig));
}

#[test]
fn an_upkeep_of_the_replica_leaves_points_of_both_sizes_readable() {
    let mut rig = grown(|_| ());
    for _ in 0..4 {
        rig.write(10);
        rig.cycle();
    }
    let cycles = rig.cycles_known();
    rig.runtime.block_on(async {
        use lifeboat::ports::replication::Replication;
        rig.engine.reclaim_space(&rig.vm).await.unwrap();
    });
    for cycle in cycles {
        let disk = &rig.vm.disks[1];
        assert_eq!(size_in(&rig, cycle), rig.vm.size_in_point(disk, cycle));
        rig.prove(cycle);
    }
}
