//! Work that is not wanted any more.

use super::outside::{Answer, End, Op};
use super::scripted_store::Append;
use super::testbed::{
    HOUR, MINUTE, Running, SECOND, Testbed, every_30_s, job_id, stream_of, vm_id,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::vm::{Command, Phase, PointChoice, ResyncReason, Work};

fn check_failed() -> Failure {
    Failure::new(Code::PrerequisiteFailed, Cause::Itself, "")
}

#[test]
fn a_failover_stops_the_delta_that_hangs() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        bed.outside.always(vm.0, Op::Ship, Answer::Hang);
        service.until(vm, |vm| matches!(vm.work(), Some(Work::Ship { .. }))).await;
        service.sleep(HOUR).await;
        let asked = bed.clock.elapsed();
        let point = PointChoice::Latest;
        service.tell_vm(vm, Command::UnplannedFailover { job: job_id(2), point }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
        let ship = bed.outside.calls_of(vm.0, Op::Ship).remove(0);
        assert_eq!(ship.ended, Some((asked, End::Dropped)));
    });
    bed.outside.check();
}

/// The delta is done while the failover is being recorded: it was not wanted when it could have told.
#[test]
fn work_that_ends_while_its_end_is_recorded_changes_nothing() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        bed.outside.always(vm.0, Op::Ship, Answer::After(3 * SECOND));
        service.until(vm, |vm| matches!(vm.work(), Some(Work::Ship { .. }))).await;
        bed.store.script(stream_of(vm), [Append::After(10 * SECOND)]);
        let point = PointChoice::Latest;
        service.tell_vm(vm, Command::UnplannedFailover { job: job_id(2), point }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
        let ship = bed.outside.calls_of(vm.0, Op::Ship).remove(0);
        assert_eq!(ship.ended.unwrap().1, End::Dropped);
    });
    bed.outside.check();
}

#[test]
fn a_delta_that_a_failover_stopped_is_taken_up_where_the_failover_is_refused() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        bed.outside.always(vm.0, Op::Ship, Answer::After(3 * SECOND));
        service.until(vm, |vm| matches!(vm.work(), Some(Work::Ship { .. }))).await;
        for nth in 0..20 {
            bed.outside.script(vm.0, Op::CheckSource, [Answer::Fail(check_failed())]);
            let job = job_id(100 + nth);
            service.tell_vm(vm, Command::PlannedFailover { job }).await.unwrap();
            service.until(vm, |vm| vm.phase == Phase::Protected).await;
        }
        service.until(vm, |vm| 2 <= vm.points.len()).await;
        bed.outside.heal(vm.0, Op::Ship);
        service.sleep(10 * MINUTE).await;
    });
    bed.outside.check();
    let ships = bed.outside.calls_of(vm_id(1).0, Op::Ship);
    let done = ships.iter().filter(|ship| ship.ended.unwrap().1 == End::Succeeded).count();
    assert_eq!(done + 1, bed.logged(vm_id(1)).points.len());
}

/// Commands in one mailbox, so that work is stopped and called for again without a pause between.
#[test]
fn work_that_is_stopped_and_called_for_again_at_once_never_runs_twice_at_a_time() {
    for latency_ms in (100..4_000).step_by(100) {
        let bed = Testbed::new();
        bed.run(async |service: Running| {
            let vm = service.protected(1, every_30_s()).await;
            bed.outside.always(vm.0, Op::Ship, Answer::After(SECOND));
            bed.outside.always(vm.0, Op::CheckSource, Answer::Fail(check_failed()));
            service.until(vm, |vm| matches!(vm.work(), Some(Work::Ship { .. }))).await;
            let latency = std::time::Duration::from_millis(latency_ms);
            bed.store.script(stream_of(vm), [Append::After(latency); 6]);
            let fail_over = |n| service.tell_vm(vm, Command::PlannedFailover { job: job_id(n) });
            let _ = tokio::join!(fail_over(100), fail_over(101), fail_over(102), fail_over(103));
            bed.outside.heal(vm.0, Op::CheckSource);
            service.until(vm, |vm| 5 <= vm.points.len()).await;
        });
        bed.outside.check();
    }
}

#[test]
fn a_loss_of_tracking_stops_the_copy_and_starts_it_over() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.discover(1, 2).await;
        bed.outside.script(vm.0, Op::CopyDisk, [Answer::After(HOUR)]);
        service.enable(1, every_30_s()).await;
        service.until(vm, |vm| vm.phase == Phase::InitialReplication).await;
        service.sleep(MINUTE).await;
        let lost = Some(ResyncReason::PowerLoss);
        bed.outside.change(vm, |facts| facts.tracking_lost = lost);
        service.until(vm, |vm| vm.phase == Phase::Protected).await;
        let copies = bed.outside.calls_of(vm.0, Op::CopyDisk);
        let ends: Vec<_> = copies.iter().map(|copy| copy.ended.unwrap().1).collect();
        assert_eq!(ends, [End::Dropped, End::Succeeded, End::Succeeded]);
        assert!(bed.clock.elapsed() < HOUR);
    });
    bed.outside.check();
}

#[test]
fn a_replica_that_runs_is_kept_running_by_each_start_of_the_service() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        service.tell_vm(vm, Command::PlannedFailover { job: job_id(2) }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
        service.sleep(MINUTE).await;
    });
    let starts = bed.outside.began(vm.0, Op::Start).len();
    let down = Failure::new(Code::HostLost, Cause::Itself, "");
    bed.outside.script(vm.0, Op::Start, [Answer::Fail(down), Answer::Panic]);
    bed.run(async |service: Running| service.sleep(HOUR).await);
    assert_eq!(bed.outside.began(vm.0, Op::Start).len(), starts + 3);
    bed.outside.check();
}
