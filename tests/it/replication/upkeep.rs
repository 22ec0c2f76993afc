//! Upkeep through the engine: what a whole VM's vault keeps, deaths at any request, and readers that are
//! served meanwhile.

use super::tap::Death;
use super::{Rig, SIZES, VAULT, VM, job, wait_until};
use futures_util::TryStreamExt;
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::Entity;
use lifeboat::domain::failure::Failure;
use lifeboat::domain::vm::{Command, Event, Phase, PointChoice, ResyncReason, Vm};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::replication::Replication;
use lifeboat::replica::{Consistency, GRACE};
use lifeboat::replication::pace::{Limits, Pace};
use object_store::{ObjectMeta, ObjectStore};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn pass(rig: &Rig) -> Result<(), Failure> {
    rig.runtime.block_on(rig.engine.reclaim_space(&rig.vm))
}

fn wait(rig: &Rig) {
    let millis = i64::try_from(GRACE.as_millis()).unwrap();
    rig.clock.0.fetch_add(millis, Ordering::Relaxed);
}

fn objects(rig: &Rig, part: &str) -> usize {
    let all: Vec<ObjectMeta> =
        rig.runtime.block_on(async { rig.objects.list(None).try_collect().await }).unwrap();
    all.iter().filter(|meta| meta.location.as_ref().contains(part)).count()
}

/// Lets go of points as their retention would.
fn let_go(vm: &mut Vm, keep: impl Fn(u64) -> bool) {
    let newest = vm.latest_point().unwrap().cycle;
    let gone = vm.points.iter().map(|point| point.cycle);
    let cycles = gone.filter(|cycle| *cycle != newest && !keep(*cycle)).collect();
    vm.apply(&Event::RecoveryPointsThinned { cycles }, vm.phase_since);
}

/// A VM with ten points, of which three are kept.
fn thinned() -> Rig {
    let mut rig = Rig::protected();
    for _ in 0..9 {
        rig.write(3);
        rig.cycle();
    }
    let_go(&mut rig.vm, |cycle| cycle == 4 || cycle == 7);
    rig
}

#[test]
fn what_was_let_go_is_merged_and_freed_and_replication_goes_on() {
    let mut rig = thinned();
    let proven: Vec<u64> = [4, 7, 10].map(|cycle| rig.prove(cycle)).into();
    pass(&rig).unwrap();
    wait(&rig);
    pass(&rig).unwrap();
    assert_eq!(rig.cycles_in_vault(), [4, 7, 10]);
    assert!(objects(&rig, "/log/") <= 2 * SIZES.len());
    assert_eq!([4, 7, 10].map(|cycle| rig.prove(cycle)), proven[..]);
    rig.write(5);
    rig.cycle();
    assert_eq!(rig.prove(11), rig.written);
    rig.restart_engine();
    rig.write(5);
    rig.cycle();
    assert_eq!(rig.prove(12), rig.written);
}

#[test]
fn a_death_at_any_request_of_a_pass_loses_no_point_and_stops_no_cycle() {
    let mut rig = thinned();
    let proven: Vec<u64> = [4, 7, 10].map(|cycle| rig.prove(cycle)).into();
    for requests in 0.. {
        rig.tap.die_after(requests, if requests % 2 == 0 { Death::Before } else { Death::After });
        let done = pass(&rig).is_ok();
        rig.tap.revive();
        assert_eq!([4, 7, 10].map(|cycle| rig.prove(cycle)), proven[..], "{requests} requests");
        if done {
            break;
        }
        if requests % 7 == 0 {
            wait(&rig);
        }
    }
    rig.write(3);
    rig.cycle();
    assert_eq!(rig.prove(11), rig.written);
}

#[test]
fn a_replica_that_is_served_reads_on_while_everything_around_it_is_freed() {
    let mut rig = Rig::protected();
    for _ in 0..4 {
        rig.write(10);
        rig.cycle();
    }
    let proven = rig.prove(3);
    rig.tell(&Command::UnplannedFailover { job: job(3), point: PointChoice::Cycle(3) });
    rig.work_off().unwrap();
    assert_eq!(objects(&rig, "/lease/"), 1);
    rig.tell(&Command::CommitFailover { job: job(4) });
    rig.work_off().unwrap();
    assert!(matches!(rig.vm.phase, Phase::FailedOver(_)));
    for _ in 0..40 {
        pass(&rig).unwrap();
        wait(&rig);
    }
    assert!(1 <= objects(&rig, "/lease/"), "it is renewed");
    assert_eq!(rig.cycles_in_vault(), [3]);
    let disks: Vec<_> = (0..SIZES.len())
        .map(|disk| rig.exports.get(&format!("sql-01-disk{disk}")).unwrap())
        .collect();
    let disks: Vec<&dyn BlockDevice> = disks.iter().map(|disk| &**disk).collect();
    assert_eq!(rig.prove_disks(&disks), proven);
    assert_eq!(rig.prove(3), proven);
}

#[test]
fn a_resynchronization_after_upkeep_keeps_the_points_and_upkeep_goes_on_after_it() {
    let mut rig = thinned();
    pass(&rig).unwrap();
    wait(&rig);
    pass(&rig).unwrap();
    let proven: Vec<u64> = [4, 7, 10].map(|cycle| rig.prove(cycle)).into();
    rig.lose_tracking();
    assert!(matches!(rig.vm.phase, Phase::Resynchronizing(ResyncReason::PowerLoss)));
    rig.write(5);
    rig.work_off().unwrap();
    assert_eq!([4, 7, 10].map(|cycle| rig.prove(cycle)), proven[..]);
    let mut writes = BTreeMap::from([(4, proven[0]), (7, proven[1]), (10, proven[2])]);
    writes.insert(rig.latest().cycle, rig.written);
    for _ in 0..4 {
        rig.write(3);
        rig.cycle();
        writes.insert(rig.latest().cycle, rig.written);
        pass(&rig).unwrap();
        // The levels of retention let go of points, too, as time passes.
        for cycle in rig.cycles_known() {
            assert_eq!(rig.prove(cycle), writes[&cycle], "{cycle}");
        }
        wait(&rig);
    }
    let_go(&mut rig.vm, |_| false);
    for _ in 0..2 {
        pass(&rig).unwrap();
        wait(&rig);
    }
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
    assert_eq!(objects(&rig, "/man/"), SIZES.len());
    rig.write(3);
    rig.cycle();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_point_says_that_its_applications_were_in_order_and_a_cut_made_before_does_not() {
    let mut rig = Rig::protected();
    let cycle = rig.vm.delta.cycle;
    rig.wake();
    let cut = rig.runtime.block_on(rig.engine.snapshot(&rig.vm, cycle)).unwrap();
    assert!(cut.fresh);
    let again = rig.runtime.block_on(rig.engine.snapshot(&rig.vm, cycle)).unwrap();
    assert!(!again.fresh, "the guest may not have been at rest at the first one");
    let (at, log_bytes) = (cut.at, cut.log_bytes);
    rig.tell(&Command::ReportQuiescedSnapshot { cycle, at, log_bytes, missed: None });
    rig.work_off().unwrap();
    assert_eq!(rig.record(cycle).consistency, Consistency::Application);
    rig.cycle();
    assert_eq!(rig.record(cycle + 1).consistency, Consistency::Crash);
}

/// Merged segments and regions of bases.
fn merged(rig: &Rig) -> usize {
    objects(rig, "/merged/") + objects(rig, "/base/")
}

#[test]
fn merges_keep_to_the_pace_of_the_host_and_deltas_go_on() {
    let mut rig = thinned();
    // The first object may go at once; the next one when it is paid for, in hours.
    let limits = Limits { working: Some(1), otherwise: Some(1), ..Limits::default() };
    let lane = Pace::new(limits, rig.clock.clone()).lane(VM);
    let host = Arc::new(rig.host.clone());
    rig.sources.attach_at_pace(VM, rig.tracker.clone(), host, Some(lane));
    let before = merged(&rig);
    let (engine, vm) = (rig.engine.clone(), rig.vm.clone());
    let pass = rig.runtime.spawn(async move { engine.reclaim_space(&vm).await });
    wait_until(|| merged(&rig) == before + 1);
    // It has nothing of the source that a cut needs.
    rig.write(3);
    rig.wake();
    rig.step().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(merged(&rig), before + 1);
    assert!(!pass.is_finished());
    pass.abort();
}

#[test]
fn merges_go_on_while_the_host_is_silent() {
    let rig = thinned();
    let before = merged(&rig);
    rig.sources.detach(VM);
    pass(&rig).unwrap();
    assert!(before + 1 < merged(&rig));
}

#[test]
fn a_vault_that_is_away_is_named() {
    let rig = thinned();
    rig.faults.raise(lifeboat::drivers::lab::Fault::LinkCut);
    let failure = pass(&rig).unwrap_err();
    assert_eq!(failure.code, Code::LinkDown, "{failure}");
    assert!(failure.to_string().contains("freeing space"), "{failure}");
    assert_eq!(rig.vm.id, VM);
    assert_eq!(rig.vm.vault, VAULT);
}
