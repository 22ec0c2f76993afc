//! Timers: the wall clock is set, work is not wanted any more, there are many of them. And what the log
//! says of a long run: snapshots of state, the same log again.

use super::outside::{Answer, Op, host_lost, link_down};
use super::testbed::{
    DAY, HOUR, MINUTE, Running, SECOND, Testbed, every_30_s, folded, host_id, job_id, stream_of,
    vault_id, vm_id,
};
use lifeboat::actors::{Hosted, load_entity};
use lifeboat::domain::entity::Commit;
use lifeboat::domain::policy::Policy;
use lifeboat::domain::vm::{Command, NextStep, Phase, PointChoice, Stage, Vm};
use lifeboat::ports::event_store::EventStore;
use lifeboat::store::MemoryStore;
use std::time::Duration;

fn is_waiting(vm: &Vm) -> bool {
    vm.trouble.as_ref().is_some_and(|trouble| matches!(trouble.next, NextStep::RetryAt(_)))
}

/// Distances between the beginnings of deltas, in whole seconds.
fn gaps(bed: &Testbed) -> Vec<u64> {
    let began = bed.outside.began(vm_id(1).0, Op::Snapshot);
    began.windows(2).map(|two| (two[1] - two[0]).as_secs()).collect()
}

#[test]
fn deltas_begin_every_30_s_by_a_clock_that_is_right() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        service.sleep(10 * MINUTE).await;
    });
    assert_eq!(gaps(&bed), [30; 19]);
}

#[test]
fn a_wall_clock_that_is_set_back_an_hour_puts_no_delta_off() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        service.sleep(2 * MINUTE + 10 * SECOND).await;
        bed.clock.set_wall_back(HOUR);
        service.sleep(8 * MINUTE).await;
    });
    let gaps = gaps(&bed);
    assert!(18 <= gaps.len() && gaps.iter().all(|gap| *gap <= 31), "{gaps:?}");
}

#[test]
fn a_wall_clock_that_is_set_back_while_the_service_is_down_puts_no_delta_off() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        service.sleep(10 * SECOND).await;
    });
    bed.clock.set_wall_back(HOUR);
    bed.run(async |service: Running| service.sleep(10 * MINUTE).await);
    let gaps = gaps(&bed);
    assert!(18 <= gaps.len() && gaps.iter().all(|gap| *gap <= 61), "{gaps:?}");
}

#[test]
fn a_wall_clock_that_is_set_back_while_the_service_is_down_puts_no_attempt_off() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        bed.outside.always(vm.0, Op::Ship, Answer::Fail(link_down(vault_id())));
        service.until(vm, is_waiting).await;
        service.sleep(HOUR).await;
        bed.outside.heal(vm.0, Op::Ship);
    });
    bed.clock.set_wall_back(DAY);
    bed.run(async |service: Running| service.sleep(30 * MINUTE + SECOND).await);
    assert_eq!(bed.logged(vm_id(1)).trouble, None);
}

#[test]
fn a_wall_clock_that_is_set_forward_loses_no_delta() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        service.protected(1, Policy::default()).await;
        service.sleep(11 * MINUTE).await;
        bed.clock.set_wall(HOUR);
        service.sleep(30 * MINUTE).await;
    });
    let gaps = gaps(&bed);
    assert!(7 <= gaps.len() && gaps.iter().all(|gap| *gap <= 300), "{gaps:?}");
    // It is noticed within half a minute that the next one is due.
    assert!(gaps.iter().any(|gap| *gap < 150), "{gaps:?}");
}

#[test]
fn no_timer_fires_for_what_is_not_wanted_any_more() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        service.until(vm, |vm| matches!(vm.delta.stage, Stage::Waiting { .. })).await;
        let point = PointChoice::Latest;
        service.tell_vm(vm, Command::UnplannedFailover { job: job_id(2), point }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
        service.sleep(MINUTE).await;
        let (commits, calls) = (bed.store.commits().len(), bed.outside.calls().len());
        service.sleep(DAY).await;
        assert_eq!(bed.store.commits().len(), commits);
        assert_eq!(bed.outside.calls().len(), calls);
    });
    bed.outside.check();
}

#[test]
fn a_policy_that_asks_for_more_deltas_counts_at_once() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, Policy::default()).await;
        service.sleep(MINUTE).await;
        let policy = every_30_s();
        service.tell_vm(vm, Command::ChangePolicy { policy }).await.unwrap();
        service.sleep(10 * SECOND).await;
        assert_eq!(bed.outside.began(vm.0, Op::Snapshot).len(), 1);
    });
}

#[test]
fn five_hundred_vms_with_deltas_every_30_s_keep_their_schedule() {
    const VMS: u128 = 500;
    let mut bed = Testbed::unchecked();
    bed.watch_interval = 10 * SECOND;
    bed.outside.relax();
    let began = std::time::Instant::now();
    bed.run(async |service: Running| {
        service.create_surroundings().await;
        for n in 1..=VMS {
            service.discover(n, 1).await;
            service.enable(n, every_30_s()).await;
            // So that they are not all due at the same instant.
            service.sleep(Duration::from_millis(59)).await;
        }
        service.sleep(20 * MINUTE).await;
    });
    let events = bed.store.inner.durable();
    let per_second = events as f64 / began.elapsed().as_secs_f64();
    println!("{VMS} VMs, 20 min: {events} commits, {per_second:.0} commits/s");
    for n in 1..=VMS {
        let vm = bed.logged(vm_id(n));
        assert!((39..=42).contains(&vm.points.len()), "{} points", vm.points.len());
        assert_eq!(vm.trouble, None);
    }
}

#[test]
fn a_vm_with_many_commits_starts_from_its_snapshot_as_it_would_from_its_log() {
    let bed = Testbed::unchecked();
    let stream = stream_of(vm_id(1));
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        service.sleep(4 * HOUR).await;
    });
    let commits = bed.store.commits();
    let snapshot = bed.store.snapshot(stream, Vm::STATE_SCHEMA).unwrap().unwrap();
    assert!(1_000 < snapshot.seq && snapshot.seq.is_multiple_of(200), "{}", snapshot.seq);
    let from_log = folded::<Vm>(&commits, stream);
    let (from_snapshot, seq) = load_entity::<Vm>(&*bed.store, stream).unwrap();
    assert_eq!((&from_snapshot, seq), (&from_log, commits.len() as u64));
    let bare = MemoryStore::of(commits).unwrap();
    assert_eq!(load_entity::<Vm>(&bare, stream).unwrap().0, from_log);
    // The snapshot is really what is loaded: without the commits before it.
    let read = bed.store.count_reads(|| load_entity::<Vm>(&*bed.store, stream).unwrap());
    assert!(read < 200, "{read} commits were read");
    bed.run(async |service: Running| {
        assert_eq!(service.vm(vm_id(1)).await, from_log);
        service.until(vm_id(1), |vm| from_log.delta.cycle + 2 < vm.delta.cycle).await;
    });
}

#[test]
fn a_snapshot_that_cannot_be_read_costs_only_time() {
    let bed = Testbed::unchecked();
    let stream = stream_of(vm_id(1));
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        service.sleep(HOUR).await;
    });
    let mut snapshot = bed.store.snapshot(stream, Vm::STATE_SCHEMA).unwrap().unwrap();
    snapshot.state.truncate(20);
    bed.store.save_snapshot(snapshot).unwrap();
    let from_log = folded::<Vm>(&bed.store.commits(), stream);
    assert_eq!(load_entity::<Vm>(&*bed.store, stream).unwrap().0, from_log);
}

/// Twelve VMs, a link that comes and goes, a host that is lost, a failover, a kill.
fn eventful_day() -> Vec<Commit> {
    let bed = Testbed::unchecked();
    bed.run(async |service: Running| {
        service.create_surroundings().await;
        for n in 1..=12 {
            service.discover(n, 2).await;
            service.enable(n, every_30_s()).await;
        }
        service.sleep(10 * MINUTE).await;
        bed.outside.always(vault_id().0, Op::ProbeVault, Answer::Fail(link_down(vault_id())));
        for n in 1..=8 {
            let down = link_down(vault_id());
            let slow = Answer::FailAfter(Duration::from_millis(700 * n as u64), down);
            bed.outside.always(vm_id(n).0, Op::Ship, slow);
        }
        for n in 9..=12 {
            bed.outside.always(vm_id(n).0, Op::Snapshot, Answer::Fail(host_lost(host_id())));
        }
        service.sleep(HOUR).await;
        bed.outside.heal(vault_id().0, Op::ProbeVault);
        for n in 1..=12 {
            bed.outside.heal(vm_id(n).0, Op::Ship);
            bed.outside.heal(vm_id(n).0, Op::Snapshot);
        }
        let (job, point) = (job_id(99), PointChoice::Latest);
        service.tell_vm(vm_id(3), Command::UnplannedFailover { job, point }).await.unwrap();
        service.sleep(HOUR).await;
    });
    bed.run(async |service: Running| service.sleep(HOUR).await);
    bed.store.commits()
}

#[test]
fn the_same_day_twice_gives_the_same_log() {
    let (first, second) = (eventful_day(), eventful_day());
    assert!(5_000 < first.len());
    for (one, two) in first.iter().zip(&second) {
        assert_eq!(one, two);
    }
    assert_eq!(first.len(), second.len());
}
