//! The initial copy, while the VM writes and however often it is interrupted.

use super::tap::Death;
use super::{MIB, Rig, SIZES, disk_id, write_one};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::Phase;
use lifeboat::replica::VaultError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[test]
fn a_copy_of_a_vm_that_writes_ends_in_points_that_are_prefixes_of_its_writes() {
    let mut rig = Rig::new();
    rig.enable();
    rig.work_until(Step::CopyDisk(disk_id(0)));
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(rig.written));
    let before = rig.written;
    std::thread::scope(|scope| {
        let (workload, tracker) = (rig.workload.clone(), rig.tracker.clone());
        let (stop, written) = (&stop, &written);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let n = written.load(Ordering::Relaxed) + 1;
                write_one(&workload, &tracker, n);
                written.store(n, Ordering::Relaxed);
            }
        });
        while written.load(Ordering::Relaxed) < before + 20 {
            std::thread::yield_now();
        }
        rig.work_until(Step::ApplyTrackedChanges);
        rig.step().unwrap();
        stop.store(true, Ordering::Relaxed);
    });
    rig.written = written.load(Ordering::Relaxed);
    let first = rig.prove(rig.latest().cycle);
    assert!((before + 20..=rig.written).contains(&first), "{first}");
    assert!(rig.copied < SIZES.iter().sum::<u64>(), "{} bytes", rig.copied);
    rig.work_off().unwrap();

    for _ in 0..2 {
        rig.write(10);
        let written = rig.written;
        rig.wake();
        rig.step().unwrap();
        // Behind the cut, and so in no point that it makes.
        rig.write(10);
        rig.work_off().unwrap();
        assert_eq!(rig.prove(rig.latest().cycle), written);
    }
}

#[test]
fn holes_are_not_sent() {
    let rig = Rig::protected();
    let writes = rig.workload.written_bytes(0, rig.written);
    assert!(rig.copied <= writes, "{} bytes of {writes}", rig.copied);
    assert!(0 < rig.copied && rig.copied < 8 * MIB);
}

#[test]
fn a_base_shows_no_point_before_the_first_cut_after_its_copy() {
    let rig = Rig::protected();
    for disk in 0..2 {
        let opened = rig.runtime.block_on(rig.proof.open_disk(disk_id(disk), 0));
        assert!(matches!(opened, Err(VaultError::NoBase { sequence: 0, .. })), "{opened:?}");
    }
}

#[test]
fn a_copy_killed_at_any_request_is_taken_up_and_no_region_is_sent_twice() {
    for death in [Death::Before, Death::After] {
        for requests in 0.. {
            let mut rig = Rig::new();
            rig.enable();
            rig.work_until(Step::CopyDisk(disk_id(0)));
            rig.tap.die_after(requests, death);
            let result = rig.work_off();
            assert_eq!(result.is_err(), rig.tap.revive(), "{result:?}");
            if let Err(failure) = &result {
                assert_eq!(failure.code, Code::LinkDown, "{failure}");
                rig.restart_engine();
                rig.write(2);
                rig.work_off().unwrap();
            }
            assert_eq!(rig.vm.phase, Phase::Protected);
            assert_eq!(rig.cycles_in_vault(), [1]);
            let point = rig.prove(1);
            rig.write(1);
            rig.cycle();
            assert_eq!(rig.prove(2), rig.written);
            assert!(point < rig.written);
            for (object, times) in rig.tap.sent() {
                assert!(
                    times == 1 || !object.contains("/base/") || super::is_named(&object, "sum"),
                    "{object} was sent {times} times"
                );
            }
            if result.is_ok() {
                assert!(20 < requests, "the whole run has {requests} requests");
                break;
            }
        }
    }
}
