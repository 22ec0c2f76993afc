//! A guest never waits for the vault, and work that nobody waits for ends.

use super::{Rig, wait_until};
use lifeboat::domain::catalogue::Code;
use lifeboat::drivers::lab::Fault;
use std::time::Duration;

fn cut() -> Rig {
    let mut rig = Rig::protected();
    rig.write(3);
    rig.wake();
    rig.step().unwrap();
    rig
}

#[test]
fn a_guest_writes_while_a_delta_hangs() {
    let mut rig = cut();
    rig.tap.hold();
    let delta = rig.begin();
    wait_until(|| rig.tap.waiting().0 == 1);
    let before = rig.written;
    rig.write(50);
    assert!(!delta.is_finished());
    rig.tap.release();
    rig.runtime.block_on(delta).unwrap().unwrap();
    rig.step().unwrap();
    assert_eq!(rig.prove(rig.latest().cycle), before);
    rig.cycle();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_guest_writes_while_the_vault_is_slow_or_gone() {
    let mut rig = cut();
    rig.faults.set_latency(Duration::from_hours(1));
    let delta = rig.begin();
    rig.write(50);
    assert!(!delta.is_finished());
    delta.abort();
    rig.faults.set_latency(Duration::ZERO);
    rig.faults.raise(Fault::LinkCut);
    assert_eq!(rig.step().unwrap_err().code, Code::LinkDown);
    rig.write(50);
    assert!(rig.tracker.status().tracking);
    rig.faults.clear(Fault::LinkCut);
    rig.work_off().unwrap();
    rig.cycle();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_delta_that_was_given_up_ends_although_the_vault_hangs() {
    let rig = cut();
    rig.tap.hold();
    let delta = rig.begin();
    wait_until(|| rig.tap.waiting().0 == 1);
    delta.abort();
    wait_until(|| rig.tap.waiting().0 == 0);
    rig.tap.release();
}

#[test]
fn a_delta_that_begins_again_at_once_does_not_run_beside_the_one_that_was_given_up() {
    let mut rig = cut();
    rig.tap.hold();
    for _ in 0..5 {
        let delta = rig.begin();
        wait_until(|| rig.tap.waiting().0 == 1);
        delta.abort();
    }
    let deltas = [rig.begin(), rig.begin(), rig.begin()];
    wait_until(|| rig.tap.waiting().0 == 1);
    let before = rig.written;
    rig.write(50);
    assert_eq!(rig.tap.waiting().1, 1, "two deltas at one time");
    rig.tap.release();
    for delta in deltas {
        rig.runtime.block_on(delta).unwrap().unwrap();
    }
    rig.step().unwrap();
    assert_eq!(rig.prove(rig.latest().cycle), before);
    assert_eq!(rig.cycles_in_vault(), [1, 2]);
}
