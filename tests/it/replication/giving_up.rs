//! A guest never waits for the vault, also not while it is at rest, and work that nobody waits for ends.

use super::{Rig, wait_until};
use async_trait::async_trait;
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::Failure;
use lifeboat::drivers::lab::Fault;
use lifeboat::ports::replication::{Guest, Replication, Snapshot};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A guest, and what it was asked.
#[derive(Default)]
struct Asked {
    asked: Mutex<Vec<&'static str>>,
    never_rests: bool,
}

#[async_trait]
impl Guest for Asked {
    async fn freeze(&self) {
        self.asked.lock().unwrap().push("freeze");
        if self.never_rests {
            std::future::pending::<()>().await;
        }
    }

    async fn thaw(&self) {
        self.asked.lock().unwrap().push("thaw");
    }
}

impl Asked {
    fn asked(&self) -> Vec<&'static str> {
        self.asked.lock().unwrap().clone()
    }
}

fn cut_at_rest(rig: &Rig, cycle: u64, guest: &Arc<Asked>) -> JoinHandle<Result<Snapshot, Failure>> {
    let (engine, vm, guest) = (rig.engine.clone(), rig.vm.clone(), Arc::clone(guest));
    rig.runtime.spawn(async move { engine.snapshot_at_rest(&vm, cycle, &*guest).await })
}

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

#[test]
fn a_guest_is_asked_to_come_to_rest_when_no_other_work_has_its_disks() {
    let rig = cut();
    let next = rig.vm.delta.cycle + 1;
    rig.tap.hold();
    let delta = rig.begin();
    wait_until(|| rig.tap.waiting().0 == 1);
    let guest = Arc::new(Asked::default());
    let cutting = cut_at_rest(&rig, next, &guest);
    std::thread::sleep(Duration::from_millis(300));
    assert!(guest.asked().is_empty() && !cutting.is_finished());
    rig.tap.release();
    rig.runtime.block_on(delta).unwrap().unwrap();
    assert!(rig.runtime.block_on(cutting).unwrap().unwrap().fresh);
    assert_eq!(guest.asked(), ["freeze", "thaw"]);
    // There is nothing to be at rest for.
    let again = rig.runtime.block_on(cut_at_rest(&rig, next, &guest)).unwrap().unwrap();
    assert!(!again.fresh);
    let other = rig.runtime.block_on(cut_at_rest(&rig, next + 1, &guest)).unwrap();
    assert!(other.is_err(), "the one before was not sent");
    rig.sources.detach(rig.vm.id);
    let silent = rig.runtime.block_on(cut_at_rest(&rig, next, &guest)).unwrap();
    assert_eq!(silent.unwrap_err().code, Code::HostLost);
    assert_eq!(guest.asked(), ["freeze", "thaw"]);
}

#[test]
fn a_cut_that_is_given_up_while_its_guest_comes_to_rest_holds_up_nobody() {
    let mut rig = Rig::protected();
    rig.wake();
    let guest = Arc::new(Asked { never_rests: true, ..Asked::default() });
    let cutting = cut_at_rest(&rig, rig.vm.delta.cycle, &guest);
    wait_until(|| guest.asked() == ["freeze"]);
    rig.write(3);
    cutting.abort();
    rig.work_off().unwrap();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}
