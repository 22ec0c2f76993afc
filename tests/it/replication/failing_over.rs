//! The fence against the primary site, and the recovery site's disks.

use super::tap::Death;
use super::{Rig, SIZES, VAULT, VM, assert_same, disk_id, job};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::Class;
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::{Command, Outcome, Phase, PointChoice, RecoveryPoint};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::clock::Clock;
use lifeboat::ports::replication::Replication;
use std::sync::Arc;

fn fail_over(rig: &mut Rig, point: PointChoice) {
    rig.tell(&Command::UnplannedFailover { job: job(3), point });
}

fn found(rig: &Rig) -> Vec<RecoveryPoint> {
    match rig.perform().unwrap() {
        Command::ReportDone {
            outcome: Outcome::Fenced { found } | Outcome::SourceFenced { found, .. },
            ..
        } => found,
        other => panic!("{other:?} is no fence"),
    }
}

#[test]
fn a_primary_site_that_goes_on_after_the_fence_changes_no_point() {
    for requests in 0..8 {
        let mut rig = Rig::protected();
        rig.write(3);
        rig.cycle();
        rig.write(3);
        rig.wake();
        rig.step().unwrap();
        let zombie = rig.vm.clone();
        rig.tap.die_after(requests, Death::After);
        let shipped = rig.step().is_ok();
        rig.tap.revive();
        fail_over(&mut rig, PointChoice::Latest);
        rig.work_until(Step::FenceSource);
        let (before, answer) = (rig.cycles_in_vault(), found(&rig));
        let records: Vec<_> = before.iter().map(|cycle| rig.record(*cycle)).collect();
        let proven: Vec<_> = before.iter().map(|cycle| rig.prove(*cycle)).collect();
        rig.step().unwrap();

        let cycle = zombie.delta.cycle;
        let late = rig.engine.ship(&zombie, cycle, rig.clock.now());
        let late = rig.runtime.block_on(late);
        if shipped {
            assert_eq!(before, [1, 2, 3]);
        } else if let Err(failure) = late {
            assert_eq!(failure.code, Code::ReplicaInvalid, "{failure}");
            assert!(failure.to_string().contains("fenced off"), "{failure}");
            assert_eq!(rig.cycles_in_vault(), before);
        } else {
            // All of its segments were there before the fence: only then can its point come late.
            assert_eq!(rig.prove(cycle), rig.written);
        }
        for (cycle, (record, proven)) in before.iter().zip(records.iter().zip(proven)) {
            assert_eq!((&rig.record(*cycle), rig.prove(*cycle)), (record, proven));
        }
        let known: Vec<_> = answer.iter().map(|point| point.cycle).collect();
        assert!(known.iter().all(|cycle| before.contains(cycle)));
        rig.work_off().unwrap();
        assert!(matches!(rig.vm.phase, Phase::CommitPending(_)));
    }
}

#[test]
fn the_second_fence_answers_as_the_first() {
    let mut rig = Rig::protected();
    rig.write(3);
    fail_over(&mut rig, PointChoice::Latest);
    rig.work_until(Step::FenceSource);
    rig.perform_killed_at_every_request();
    let objects = rig.sent().len();
    assert_eq!(found(&rig), found(&rig));
    assert_eq!(rig.sent().len(), objects);
}

/// Whoever cancels a failover cannot know on which disks the fence is up: the VM goes on all the same.
#[test]
fn a_failover_that_is_cancelled_at_any_request_of_the_fence_goes_on() {
    let planned = Command::PlannedFailover { job: job(3) };
    let unplanned = Command::UnplannedFailover { job: job(3), point: PointChoice::Latest };
    for (failover, step) in [(planned, Step::PrepareForFailover), (unplanned, Step::FenceSource)] {
        let mut requests = 0;
        loop {
            let mut rig = Rig::protected();
            rig.write(3);
            rig.tell(&failover);
            rig.work_until(step);
            rig.tap.die_after(requests, Death::After);
            let done = rig.perform().is_ok();
            rig.tap.revive();
            rig.tell(&Command::CancelFailover { job: job(4) });
            rig.work_off().unwrap();
            assert_eq!(rig.vm.phase, Phase::Protected, "after {requests} requests");
            rig.write(3);
            rig.cycle();
            assert_eq!(rig.prove(rig.latest().cycle), rig.written);
            requests += 1;
            if done {
                break;
            }
        }
        assert!(SIZES.len() <= requests, "a fence for each disk");
    }
}

/// The request that put it up was on its way when the failover was cancelled.
#[test]
fn a_fence_of_our_own_that_lands_late_is_met_once() {
    let mut rig = Rig::protected();
    fail_over(&mut rig, PointChoice::Latest);
    rig.work_until(Step::FenceSource);
    rig.tell(&Command::CancelFailover { job: job(4) });
    rig.work_off().unwrap();
    rig.write(3);
    rig.cycle();
    let last = rig.record(rig.latest().cycle).disks[&disk_id(0)].sequence;
    rig.late_fence(0, last, rig.vm.epoch);

    rig.write(3);
    rig.wake();
    rig.step().unwrap();
    let failure = rig.step().unwrap_err();
    assert_eq!(failure.code, Code::VaultBusy, "{failure}");
    assert_eq!(failure.class(), Class::Recoverable);
    rig.step().unwrap();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_fence_finds_the_point_that_was_sent_and_not_reported() {
    let mut rig = Rig::protected();
    rig.write(3);
    rig.wake();
    rig.step().unwrap();
    let Command::ReportShipped { cycle, shipped_bytes } = rig.perform().unwrap() else {
        panic!("nothing was sent");
    };
    fail_over(&mut rig, PointChoice::Latest);
    rig.work_until(Step::FenceSource);
    let at = rig.record(cycle).at;
    assert_eq!(found(&rig), [RecoveryPoint { cycle, at, bytes: shipped_bytes }]);
    rig.work_off().unwrap();
    assert_eq!(rig.vm.failover.unwrap().point.cycle, cycle);
    assert_eq!(rig.prove(cycle), rig.written);
}

#[test]
fn a_fence_finds_the_first_point_of_a_chain_that_left_cycles_out() {
    let mut rig = Rig::protected();
    rig.lose_tracking();
    rig.write(3);
    rig.work_until(Step::ApplyTrackedChanges);
    rig.perform().unwrap();
    fail_over(&mut rig, PointChoice::Latest);
    rig.work_off().unwrap();
    let first = rig.vm.delta.chain_first_cycle;
    assert!(2 < first, "the chain leaves no cycle out");
    assert_eq!(rig.vm.failover.unwrap().point.cycle, first);
    assert_eq!(rig.prove(first), rig.written);
}

fn served(rig: &Rig) -> Vec<Arc<dyn BlockDevice>> {
    (0..SIZES.len()).map(|disk| rig.exports.get(&format!("sql-01-disk{disk}")).unwrap()).collect()
}

fn serve(rig: &Rig, point: RecoveryPoint) -> Vec<String> {
    let disks = rig.runtime.block_on(rig.engine.serve(&rig.vm, point)).unwrap();
    disks.into_iter().map(|disk| disk.uri).collect()
}

#[test]
fn a_served_point_is_the_point_byte_for_byte_and_takes_writes_of_its_own() {
    let mut rig = Rig::protected();
    rig.write(20);
    rig.cycle();
    let point = rig.latest();
    let uris = serve(&rig, point);
    assert_eq!(uris[1], "nbd+unix:///sql-01-disk1?socket=/run/lifeboat/recovery.sock");
    let disks = served(&rig);
    for (disk, image) in disks.iter().zip(rig.images(point.cycle)) {
        assert_same(&**disk, &image);
    }

    let sent = rig.sent();
    disks[0].write_at(&[9; 4096], 4096, false).unwrap();
    disks[0].flush().unwrap();
    assert_eq!(serve(&rig, point), uris);
    let again = served(&rig);
    assert!(disks.iter().zip(&again).all(|(one, other)| Arc::ptr_eq(one, other)));
    assert_eq!((rig.sent(), rig.prove(point.cycle)), (sent, rig.written));

    drop((disks, again));
    rig.restart_engine();
    assert_eq!(serve(&rig, point), uris);
    let disk = served(&rig).remove(0);
    let mut block = [0; 4096];
    disk.read_at(&mut block, 4096).unwrap();
    assert_eq!(block, [9; 4096]);
    disk.read_at(&mut block, 0).unwrap();
    assert_eq!(block[..], rig.workload.content(1)[..4096]);
}

#[test]
fn a_vm_that_was_served_from_one_point_can_be_served_from_another() {
    let mut rig = Rig::protected();
    rig.write(20);
    rig.cycle();
    let (older, newer) = (rig.vm.points[0], rig.latest());
    serve(&rig, newer);
    served(&rig)[0].write_at(&[9; 4096], 4096, false).unwrap();
    serve(&rig, older);
    let disks = served(&rig);
    let disks: Vec<_> = disks.iter().map(|disk| &**disk).collect();
    assert_eq!(rig.prove_disks(&disks), rig.prove(older.cycle));
}

#[test]
fn a_commit_leaves_the_point_of_the_failover_alone() {
    let mut rig = Rig::protected();
    rig.write(5);
    rig.cycle();
    fail_over(&mut rig, PointChoice::Cycle(1));
    rig.work_off().unwrap();
    rig.tell(&Command::CommitFailover { job: job(4) });
    rig.work_off().unwrap();
    assert!(matches!(rig.vm.phase, Phase::FailedOver(_)));
    assert_eq!(rig.cycles_in_vault(), [1]);
    rig.prove(1);
    assert_eq!(rig.runtime.block_on(rig.proof.points(VM)).unwrap().points.len(), 1);
}

/// The newest segment is damaged: a fence used to fail on it, and with it every failover.
#[test]
fn a_damaged_end_of_the_log_does_not_stop_a_failover_to_a_point_before_it() {
    let mut rig = Rig::protected();
    rig.write(3);
    rig.cycle();
    let written = rig.written;
    rig.write(3);
    rig.cycle();
    let newest = rig.vm.latest_point().unwrap().cycle;
    let sequence = rig.record(newest).disks[&disk_id(0)].sequence;
    let object = format!("v1/{VAULT}/disk/{}/log/{sequence:020}.seg", disk_id(0));
    rig.damage(&object, 60);

    fail_over(&mut rig, PointChoice::Latest);
    let failed = rig.perform().unwrap_err();
    assert_eq!(failed.code, Code::ReplicaDamaged, "{failed}");
    rig.fail(failed);
    assert_eq!(rig.vm.phase, Phase::Protected);

    fail_over(&mut rig, PointChoice::Cycle(newest - 1));
    rig.work_off().unwrap();
    assert_eq!(rig.vm.failover.unwrap().point.cycle, newest - 1);
    assert_eq!(rig.prove(newest - 1), written);
}

/// Bit rot in data is met when the VM reads it, and starting the VM again would meet it again.
#[test]
fn damaged_data_that_a_served_vm_reads_is_named_when_it_is_served_again() {
    let mut rig = Rig::protected();
    rig.write(20);
    rig.cycle();
    let point = rig.latest();
    let sequence = rig.record(point.cycle).disks[&disk_id(0)].sequence;
    let object = format!("v1/{VAULT}/disk/{}/log/{sequence:020}.seg", disk_id(0));
    rig.damage(&object, 200);
    serve(&rig, point);
    let disk = served(&rig).remove(0);
    let error = read_data(&*disk).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");

    let failed = rig.runtime.block_on(rig.engine.serve(&rig.vm, point)).unwrap_err();
    assert_eq!(failed.code, Code::ReplicaDamaged, "{failed}");
    assert!(failed.to_string().contains(&object), "{failed}");
    // Somebody may have put the object right.
    serve(&rig, point);
}

/// Reads all data of a disk.
fn read_data(disk: &dyn BlockDevice) -> std::io::Result<()> {
    let mut at = 0;
    while let Some(run) = disk.next_data(at)? {
        disk.read_at(&mut vec![0; (run.end - run.start) as usize], run.start)?;
        at = run.end;
    }
    Ok(())
}

/// Whatever has become of the delta under way, nothing that the source wrote is missing.
#[test]
fn a_failover_that_synchronizes_loses_nothing_of_a_source_that_can_be_reached() {
    for steps in 0..3 {
        let mut rig = Rig::protected();
        rig.write(5);
        rig.cycle();
        rig.write(5);
        if 0 < steps {
            rig.wake();
            (1..steps).for_each(|_| rig.step().unwrap());
            rig.write(5);
        }
        rig.tell(&Command::SynchronizeAndFailOver { job: job(3) });
        rig.work_off().unwrap();
        assert!(matches!(rig.vm.phase, Phase::CommitPending(_)));
        assert_eq!(rig.prove(rig.latest().cycle), rig.written, "after {steps} steps of a delta");
        assert_eq!(rig.vm.failover_point(), rig.vm.latest_point());
        assert_eq!(rig.vm.source_ended.as_ref().and_then(|ended| ended.unsent.clone()), None);
    }
}

/// The agent, or the vault, dies at any request of the last delta: the failover goes on with what is there.
#[test]
fn a_failover_that_cannot_synchronize_says_why_and_goes_on() {
    for requests in 0..6 {
        let mut rig = Rig::protected();
        rig.write(5);
        rig.cycle();
        let before = rig.written;
        rig.write(5);
        rig.tell(&Command::SynchronizeAndFailOver { job: job(3) });
        rig.work_until(Step::FenceSource);
        rig.tap.die_after(requests, Death::After);
        let interrupted = rig.step().is_err();
        rig.tap.revive();
        rig.work_off().unwrap();
        let held = rig.prove(rig.vm.failover_point().unwrap().cycle);
        assert!(before <= held && held <= rig.written);
        assert!(!interrupted || held == rig.written, "it was tried again, and sent all");
    }
}
