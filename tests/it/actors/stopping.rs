//! Stopping a site in an orderly way.

use super::outside::{Answer, Op, link_down};
use super::testbed::{DAY, MINUTE, Running, SECOND, Testbed, every_30_s, job_id, vault_id, vm_id};
use lifeboat::actors::TellError;
use lifeboat::domain::fabric::{self, Fabric};
use lifeboat::domain::id::FabricId;
use lifeboat::domain::vm::{Command, NextStep, Side, Work};
use std::sync::Arc;
use uuid::Uuid;

/// A site with a VM that sends, one that waits to try again, and watches.
async fn busy(service: &Running<'_>) {
    let bed = service.bed;
    service.create_surroundings().await;
    let sends = service.protected(1, every_30_s()).await;
    let waits = service.protected(2, every_30_s()).await;
    bed.outside.always(sends.0, Op::Ship, Answer::After(5 * MINUTE));
    bed.outside.always(waits.0, Op::Ship, Answer::Fail(link_down(vault_id())));
    bed.outside.always(vault_id().0, Op::ProbeVault, Answer::Fail(link_down(vault_id())));
    service.until(sends, |vm| matches!(vm.work(), Some(Work::Ship { .. }))).await;
    let is_waiting = |next| matches!(next, NextStep::RetryAt(_));
    service.until(waits, |vm| vm.trouble.as_ref().is_some_and(|t| is_waiting(t.next))).await;
}

async fn check_nothing_runs(service: &Running<'_>) {
    let bed = service.bed;
    let (calls, commits) = (bed.outside.calls(), bed.store.commits().len());
    assert!(calls.iter().all(|call| call.ended.is_some()), "{calls:#?}");
    service.sleep(DAY).await;
    assert_eq!(bed.outside.calls().len(), calls.len());
    assert_eq!(bed.store.commits().len(), commits);
}

#[test]
fn a_stopped_site_does_nothing_more_and_a_later_start_goes_on() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        busy(&service).await;
        service.site.stop().await;
        check_nothing_runs(&service).await;
        let answer = service.tell_vm(vm_id(1), Command::PlannedFailover { job: job_id(9) }).await;
        assert!(matches!(answer, Err(TellError::Gone { .. })), "{answer:?}");
        let state = service.site.state::<lifeboat::domain::vm::Vm>(vm_id(1).0).await;
        assert!(matches!(state, Err(TellError::Gone { .. })), "{state:?}");
        assert_eq!(*service.site.failed().borrow(), None);
        service.site.stop().await;
    });
    for n in 1..=2 {
        bed.outside.heal(vm_id(n).0, Op::Ship);
    }
    bed.outside.heal(vault_id().0, Op::ProbeVault);
    bed.run(async |service: Running| {
        for n in 1..=2 {
            service.until(vm_id(n), |vm| vm.trouble.is_none() && 3 <= vm.points.len()).await;
        }
    });
    bed.outside.check();
}

#[test]
fn nobody_is_left_of_a_stopped_site() {
    let bed = Testbed::new();
    let hold_the_world = || Arc::strong_count(&bed.steps);
    let before = hold_the_world();
    bed.run(async |service: Running| {
        busy(&service).await;
        let id = FabricId(Uuid::from_u128(7));
        let create = fabric::Command::Create { id, name: "east".to_owned(), side: Side::Primary };
        service.tell::<Fabric>(id.0, create).await.unwrap();
        service.site.stop().await;
        service.sleep(SECOND).await;
        assert_eq!(hold_the_world(), before);
    });
}

#[test]
fn two_that_stop_a_site_at_once_stop_it_whole() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        busy(&service).await;
        tokio::join!(service.site.stop(), service.site.stop());
        check_nothing_runs(&service).await;
    });
}

#[test]
fn commands_that_are_under_way_while_a_site_stops_are_answered_or_gone() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        busy(&service).await;
        let policy = lifeboat::domain::policy::Policy::default();
        let tell = || service.tell_vm(vm_id(1), Command::ChangePolicy { policy });
        let (before, (), after) = tokio::join!(tell(), service.site.stop(), tell());
        assert!(matches!(before, Ok(_) | Err(TellError::Gone { .. })), "{before:?}");
        assert!(matches!(after, Ok(_) | Err(TellError::Gone { .. })), "{after:?}");
        let recorded = bed.logged(vm_id(1)).policy == policy;
        assert_eq!(recorded, before.is_ok() || after.is_ok());
        check_nothing_runs(&service).await;
    });
}

#[test]
fn a_stop_waits_for_the_commit_that_is_being_made() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        busy(&service).await;
        let slow = super::scripted_store::Append::After(10 * SECOND);
        bed.store.script(super::testbed::stream_of(vm_id(1)), [slow]);
        let policy = lifeboat::domain::policy::Policy::default();
        let began = bed.clock.elapsed();
        let tell = service.tell_vm(vm_id(1), Command::ChangePolicy { policy });
        let stop = async {
            service.sleep(SECOND).await;
            service.site.stop().await;
        };
        let (told, ()) = tokio::join!(tell, stop);
        assert!(told.unwrap().commit.is_some());
        assert_eq!(bed.clock.elapsed(), began + 10 * SECOND);
        check_nothing_runs(&service).await;
    });
}
