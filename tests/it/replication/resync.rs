//! Another copy after tracking was lost.

use super::{Rig, disk_id};
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::{Command, Phase, ResyncReason, RetryReason};
use lifeboat::ports::replication::Replication;
use lifeboat::replica::VaultError;

#[test]
fn a_vm_that_lost_track_is_copied_again_and_its_older_points_stay_what_they_were() {
    let mut rig = Rig::protected();
    rig.write(5);
    rig.cycle();
    let older = [(1, rig.prove(1)), (2, rig.prove(2))];
    let records = [rig.record(1), rig.record(2)];
    let ends = [0, 1].map(|disk| {
        let sequence = records[1].disks[&disk_id(disk)].sequence;
        (disk, sequence, rig.hash(disk, sequence))
    });

    rig.host.fill_disk();
    rig.write(5);
    rig.host.free_disk();
    assert!(!rig.tracker.status().tracking);
    let reason = rig.runtime.block_on(rig.engine.tracking_lost(&rig.vm));
    assert!(matches!(&reason, ResyncReason::LogWriteFailed(text) if text.contains("disk")));
    let first_cycle = rig.vm.delta.chain_first_cycle;
    rig.tell(&Command::ReportTrackingLost { first_cycle, reason });
    rig.write(5);
    rig.work_until(Step::ApplyTrackedChanges);
    rig.write(5);
    rig.work_off().unwrap();
    assert_eq!((&rig.vm.phase, rig.vm.delta.generation), (&Phase::Protected, 1));
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
    assert_eq!(older, [(1, rig.prove(1)), (2, rig.prove(2))]);
    assert_eq!(records, [rig.record(1), rig.record(2)]);
    for (disk, sequence, hash) in ends {
        let late = rig.late_delta(disk, sequence, hash);
        assert!(matches!(late, Err(VaultError::Fenced { .. })), "{late:?}");
    }
    rig.write(5);
    rig.cycle();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_delta_of_a_chain_that_was_lost_before_its_first_point_is_refused_too() {
    let mut rig = Rig::protected();
    rig.lose_tracking();
    rig.write(3);
    rig.work_until(Step::ApplyTrackedChanges);
    let ends = [0, 1].map(|disk| {
        let head = rig.runtime.block_on(rig.proof.head(disk_id(disk))).unwrap().unwrap();
        (disk, head.header.sequence, head.hash)
    });
    rig.lose_tracking();
    rig.tell(&Command::Retry { because: RetryReason::Administrator });
    rig.write(3);
    rig.work_until(Step::ApplyTrackedChanges);
    for (disk, sequence, hash) in ends {
        let late = rig.late_delta(disk, sequence, hash);
        assert!(matches!(late, Err(VaultError::Fenced { .. })), "{late:?}");
    }
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_completed_copy_that_is_declared_complete_again_stays_as_it_is() {
    let mut rig = Rig::protected();
    rig.lose_tracking();
    rig.work_until(Step::CompleteCopy);
    rig.perform().unwrap();
    let objects = rig.sent().len();
    rig.restart_engine();
    rig.perform().unwrap();
    assert_eq!(rig.sent().len(), objects);
    rig.work_off().unwrap();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}
