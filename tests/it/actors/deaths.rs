//! Panics: in work, in the store, in an actor. Nobody else notices, and what was to be done is done.

use super::outside::{Answer, Op};
use super::scripted_store::Append;
use super::testbed::{
    HOUR, MINUTE, Running, SECOND, Testbed, every_30_s, host_id, job_id, stream_of, vault_id,
};
use lifeboat::actors::TellError;
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::{Kind, StreamId};
use lifeboat::domain::vm::{Command, Phase, ResyncReason, Work};
use std::time::Duration;

#[test]
fn work_that_panics_is_a_failure_that_is_tried_again() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        bed.outside.script(vm.0, Op::Ship, [Answer::Panic]);
        let troubled = service.until(vm, |vm| vm.trouble.is_some()).await;
        let failure = troubled.trouble.unwrap().failure;
        assert_eq!(failure.code, Code::HostResourcesShort);
        assert!(failure.to_string().contains("Ship panics"), "{failure}");
        service.until(vm, |vm| 2 <= vm.points.len()).await;
        let began = bed.outside.began(vm.0, Op::Ship);
        assert_eq!(began[1] - began[0], MINUTE);
    });
    bed.outside.check();
}

#[test]
fn a_watch_that_panics_is_begun_again_and_disturbs_nobody() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        service.create_surroundings().await;
        let vm = service.protected(1, every_30_s()).await;
        // Work that would begin anew if its actor died.
        bed.outside.always(vm.0, Op::Ship, Answer::After(10 * SECOND));
        service.until(vm, |vm| matches!(vm.work(), Some(Work::Ship { .. }))).await;
        bed.outside.script(vm.0, Op::TrackingLost, [Answer::Panic]);
        bed.outside.script(vault_id().0, Op::ProbeVault, [Answer::Panic]);
        bed.outside.script(host_id().0, Op::Heartbeat, [Answer::Panic]);
        let looks = |of, op| bed.outside.calls_of(of, op).len();
        let (at_vault, at_host) =
            (looks(vault_id().0, Op::ProbeVault), looks(host_id().0, Op::Heartbeat));
        service.sleep(MINUTE).await;
        assert!(at_vault + 20 < looks(vault_id().0, Op::ProbeVault));
        assert!(at_host + 20 < looks(host_id().0, Op::Heartbeat));
        let ended = bed.outside.calls_of(vm.0, Op::Ship)[0].ended.unwrap();
        assert_eq!(ended.1, super::outside::End::Succeeded);
        let lost = Some(ResyncReason::PowerLoss);
        bed.outside.change(vm, |facts| facts.tracking_lost = lost);
        service.until(vm, |vm| 1 < vm.delta.chain_first_cycle).await;
    });
    bed.outside.check();
}

#[test]
fn an_actor_that_panics_is_built_anew_and_its_work_is_taken_up() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        let other = service.protected(2, every_30_s()).await;
        bed.outside.always(vm.0, Op::Ship, Answer::After(10 * SECOND));
        service.until(vm, |vm| matches!(vm.work(), Some(Work::Ship { .. }))).await;
        bed.store.script(stream_of(vm), [Append::Panic]);
        let answer = service.tell_vm(vm, Command::PlannedFailover { job: job_id(9) }).await;
        assert!(
            matches!(&answer, Err(TellError::Gone { stream }) if *stream == stream_of(vm)),
            "{answer:?}"
        );
        let points = bed.logged(vm).points.len();
        service.sleep(12 * SECOND).await;
        assert_eq!(bed.logged(vm).points.len(), points + 1);
        let ships = bed.outside.calls_of(vm.0, Op::Ship);
        assert_eq!(ships.len(), 2, "{ships:#?}");
        assert_eq!(ships[0].ended.unwrap().1, super::outside::End::Dropped);
        assert_eq!(ships[1].began - ships[0].ended.unwrap().0, SECOND);
        assert_eq!(bed.logged(vm).phase, Phase::Protected);
        assert_eq!(bed.logged(other).trouble, None);
        assert_eq!(*service.site.failed().borrow(), None);
    });
    bed.outside.check();
}

#[test]
fn an_actor_that_dies_again_and_again_is_built_anew_ever_more_rarely() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        bed.outside.set_latency(Duration::ZERO);
        service.until(vm, |vm| vm.work().is_none()).await;
        bed.store.script(stream_of(vm), [Append::Panic; 9]);
        service.sleep(HOUR / 2).await;
        let began: Vec<_> = bed.store.began_appends(stream_of(vm));
        let waits: Vec<_> = began.windows(2).map(|two| (two[1] - two[0]).as_secs()).collect();
        let first = waits.windows(9).position(|waits| waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(first.is_some(), "{waits:?}");
        assert!(30 < bed.logged(vm).points.len());

        // It lived on for long since: the next death is a first one.
        bed.store.script(stream_of(vm), [Append::Panic]);
        let before = bed.store.began_appends(stream_of(vm)).len();
        service.sleep(MINUTE).await;
        let began = bed.store.began_appends(stream_of(vm));
        assert_eq!(began[before + 1] - began[before], SECOND);
    });
}

#[test]
fn a_vault_whose_actor_dies_is_watched_again() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        service.create_surroundings().await;
        let stream = StreamId { kind: Kind::Vault, id: vault_id().0 };
        bed.store.script(stream, [Append::Panic]);
        let down = super::outside::link_down(vault_id());
        bed.outside.always(vault_id().0, Op::ProbeVault, Answer::Fail(down));
        service.sleep(MINUTE).await;
        let vault = service.site.state::<lifeboat::domain::vault::Vault>(vault_id().0).await;
        assert!(vault.unwrap().unreachable.is_some());
    });
}

#[test]
fn a_supervisor_that_panics_ends_the_site() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.discover(1, 1).await;
        let mut failed = service.site.failed();
        assert_eq!(*failed.borrow_and_update(), None);
        bed.store.poison_reads();
        bed.store.script(stream_of(vm), [Append::Panic]);
        let answer = service.tell_vm(vm, Command::PlannedFailover { job: job_id(9) }).await;
        assert!(matches!(answer, Err(TellError::Rejected(_))), "{answer:?}");
        bed.store.script(stream_of(vm), [Append::Panic]);
        let policy = every_30_s();
        let enable = Command::EnableProtection { job: job_id(1), vault: vault_id(), policy };
        let answer = service.tell_vm(vm, enable).await;
        assert!(matches!(answer, Err(TellError::Gone { .. })), "{answer:?}");
        // Building it anew kills the supervisor.
        service.sleep(MINUTE).await;
        assert!(failed.borrow_and_update().is_some());
    });
}
