//! When failed work is tried again.

use super::outside::{Answer, Op, credentials_refused, host_lost, link_down};
use super::testbed::{
    DAY, HOUR, MINUTE, Running, SECOND, Testbed, every_30_s, host_id, vault_id, vm_id,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::Cause;
use lifeboat::domain::id::VmId;
use lifeboat::domain::policy::Policy;
use lifeboat::domain::vm::{Event, Health, NextStep, RetryReason, Vm};
use std::time::Duration;

fn is_waiting(vm: &Vm) -> bool {
    vm.trouble.as_ref().is_some_and(|trouble| matches!(trouble.next, NextStep::RetryAt(_)))
}

/// Attempts, early or not, that the log tells of.
fn retries(bed: &Testbed, vm: VmId) -> Vec<(u32, Option<RetryReason>)> {
    let events = bed.events_of(vm).into_iter();
    let retries = events.filter_map(|(_, event)| match event {
        Event::RetryStarted { attempt, early } => Some((attempt, early)),
        _ => None,
    });
    retries.collect()
}

fn early_retries(bed: &Testbed, vm: VmId) -> Vec<RetryReason> {
    retries(bed, vm).into_iter().filter_map(|(_, early)| early).collect()
}

fn minutes_after(first: Duration, moments: &[Duration]) -> Vec<f64> {
    moments.iter().map(|moment| (*moment - first).as_secs_f64() / 60.0).collect()
}

/// The moments of the schedule up to an end, in minutes after the first attempt.
fn ladder(up_to_min: u32) -> Vec<f64> {
    let tail = (40..=up_to_min).step_by(30);
    [0, 1, 2, 4, 8, 10].into_iter().chain(tail).map(f64::from).collect()
}

/// Nobody reaches the vault.
fn cut_vault_off(bed: &Testbed, vms: &[VmId]) {
    bed.outside.always(vault_id().0, Op::ProbeVault, Answer::Fail(link_down(vault_id())));
    for vm in vms {
        cut_link(bed, *vm);
    }
}

fn mend_vault(bed: &Testbed, vms: &[VmId]) {
    bed.outside.heal(vault_id().0, Op::ProbeVault);
    for vm in vms {
        mend_link(bed, *vm);
    }
}

/// The link between the host of a VM and the vault is cut.
fn cut_link(bed: &Testbed, vm: VmId) {
    for op in [Op::ReachVault, Op::Ship] {
        bed.outside.always(vm.0, op, Answer::Fail(link_down(vault_id())));
    }
}

fn mend_link(bed: &Testbed, vm: VmId) {
    for op in [Op::ReachVault, Op::Ship] {
        bed.outside.heal(vm.0, op);
    }
}

#[test]
fn a_cut_link_is_tried_after_1_2_4_8_and_10_minutes_and_then_every_30_for_three_days() {
    let mut bed = Testbed::new();
    bed.watch_interval = MINUTE / 2;
    bed.run(async |service: Running| {
        service.create_surroundings().await;
        let vm = service.protected(1, every_30_s()).await;
        cut_vault_off(&bed, &[vm]);
        service.until(vm, is_waiting).await;
        service.sleep(3 * DAY).await;
        assert!(is_waiting(&service.vm(vm).await));
        mend_vault(&bed, &[vm]);
        service.until(vm, |vm| vm.trouble.is_none()).await;
    });
    let vm = vm_id(1);
    let mut attempts = bed.outside.began(vm.0, Op::Ship);
    let first = attempts[0];
    attempts.retain(|attempt| *attempt < first + 3 * DAY);
    assert_eq!(minutes_after(first, &attempts), ladder(3 * 24 * 60 - 1));

    let first_failed = bed.events_of(vm).into_iter().find_map(|(commit, event)| {
        matches!(event, Event::RetryScheduled { .. }).then_some(commit.at)
    });
    let scheduled: Vec<_> = bed
        .events_of(vm)
        .into_iter()
        .filter_map(|(_, event)| match event {
            Event::RetryScheduled { attempt, due, because, .. } => {
                assert_eq!(because, link_down(vault_id()));
                let minutes = due.since(first_failed.unwrap()).as_secs_f64() / 60.0;
                Some((attempt, minutes))
            }
            _ => None,
        })
        .collect();
    let expected: Vec<_> = (1..).zip(ladder(3 * 24 * 60 + 29).into_iter().skip(1)).collect();
    assert_eq!(scheduled, expected);
    let retries = retries(&bed, vm);
    let (early, due) = retries.split_last().unwrap();
    assert!(due.iter().enumerate().all(|(n, retry)| *retry == (n as u32 + 1, None)));
    assert_eq!(early.1, Some(RetryReason::CauseEnded(Cause::Vault(vault_id()))));
    bed.outside.check();
}

#[test]
fn work_that_takes_long_to_fail_skips_the_moments_that_passed_meanwhile() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        let slow = Answer::FailAfter(5 * MINUTE, link_down(vault_id()));
        bed.outside.always(vm.0, Op::Ship, slow);
        bed.outside.always(vm.0, Op::ReachVault, Answer::Fail(link_down(vault_id())));
        service.until(vm, is_waiting).await;
        service.sleep(HOUR).await;
    });
    let began = bed.outside.began(vm_id(1).0, Op::Ship);
    let first_failed = began[0] + 5 * MINUTE;
    // 1 min; its failure at 6 min leads to 8; that at 13 to 40.
    assert_eq!(minutes_after(first_failed, &began[1..]), [1.0, 8.0, 40.0]);
}

#[test]
fn when_the_vault_is_seen_again_those_that_waited_for_it_are_tried_at_once_and_once() {
    let bed = Testbed::new();
    let (waiting, also_waiting, elsewhere) = (vm_id(1), vm_id(2), vm_id(3));
    let mended = bed.run(async |service: Running| {
        service.create_surroundings().await;
        for n in 1..=3 {
            service.protected(n, every_30_s()).await;
        }
        cut_vault_off(&bed, &[waiting, also_waiting]);
        bed.outside.always(elsewhere.0, Op::Ship, Answer::Fail(host_lost(host_id())));
        for vm in [waiting, also_waiting, elsewhere] {
            service.until(vm, is_waiting).await;
        }
        // Past the last rung: the next attempt by schedule is far away.
        service.sleep(45 * MINUTE).await;
        mend_vault(&bed, &[waiting, also_waiting]);
        let mended = bed.clock.elapsed();
        service.sleep(20 * SECOND).await;
        mended
    });
    for vm in [waiting, also_waiting] {
        let began = bed.outside.began(vm.0, Op::Ship);
        let again = began.into_iter().find(|began| mended <= *began).unwrap();
        assert!(again - mended <= 3 * SECOND, "{again:?}");
        assert_eq!(bed.logged(vm).trouble, None);
        let reason = RetryReason::CauseEnded(Cause::Vault(vault_id()));
        assert_eq!(early_retries(&bed, vm), [reason]);
    }
    let began = bed.outside.began(elsewhere.0, Op::Ship);
    assert!(began.iter().all(|began| *began < mended), "{began:?}");
    bed.outside.check();
}

#[test]
fn when_the_host_is_seen_again_its_vms_are_tried_at_once() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    let back = bed.run(async |service: Running| {
        service.create_surroundings().await;
        service.protected(1, every_30_s()).await;
        bed.outside.always(host_id().0, Op::Heartbeat, Answer::Fail(host_lost(host_id())));
        bed.outside.always(vm.0, Op::Snapshot, Answer::Fail(host_lost(host_id())));
        service.until(vm, is_waiting).await;
        service.sleep(45 * MINUTE).await;
        bed.outside.heal(vm.0, Op::Snapshot);
        bed.outside.heal(host_id().0, Op::Heartbeat);
        let back = bed.clock.elapsed();
        service.sleep(20 * SECOND).await;
        back
    });
    let began = bed.outside.began(vm.0, Op::Snapshot);
    let again = began.into_iter().find(|began| back <= *began).unwrap();
    assert!(again - back <= 3 * SECOND, "{again:?}");
    assert_eq!(early_retries(&bed, vm), [RetryReason::CauseEnded(Cause::Host(host_id()))]);
}

#[test]
fn an_outage_between_two_looks_at_the_vault_is_tried_again_after_the_next_look() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.create_surroundings().await;
        service.protected(1, every_30_s()).await;
        bed.outside.script(vm.0, Op::Ship, [Answer::Fail(link_down(vault_id()))]);
        service.until(vm, is_waiting).await;
        service.sleep(10 * SECOND).await;
    });
    let began = bed.outside.began(vm.0, Op::Ship);
    assert_eq!(began.len(), 2, "{began:?}");
    assert!(began[1] - began[0] <= 3 * SECOND, "{began:?}");
    assert_eq!(bed.logged(vm).trouble, None);
}

#[test]
fn a_vm_whose_link_alone_is_cut_is_tried_on_the_schedule_and_soon_after_its_link_is_back() {
    let bed = Testbed::new();
    let (vm, other) = (vm_id(1), vm_id(2));
    let mended = bed.run(async |service: Running| {
        service.create_surroundings().await;
        for n in 1..=2 {
            service.protected(n, every_30_s()).await;
        }
        cut_link(&bed, vm);
        service.until(vm, is_waiting).await;
        service.sleep(45 * MINUTE).await;
        mend_link(&bed, vm);
        let mended = bed.clock.elapsed();
        service.sleep(2 * MINUTE).await;
        mended
    });
    let attempts = bed.outside.began(vm.0, Op::Ship);
    let first = attempts.iter().position(|at| mended <= *at).expect("an attempt after the cut");
    let ended = attempts[first];
    assert!(ended - mended <= 35 * SECOND, "{:?} later", ended - mended);
    let failed = bed.outside.began(vm.0, Op::ReachVault)[0];
    let failing: Vec<_> = attempts[..first].iter().copied().filter(|at| failed <= *at).collect();
    assert_eq!(failing.len(), ladder(45).len() - 1, "nothing between the attempts of the schedule");
    assert_eq!(early_retries(&bed, vm), [RetryReason::CauseEnded(Cause::Vault(vault_id()))]);
    assert_eq!(bed.logged(vm).trouble, None);
    assert!(bed.outside.began(other.0, Op::ReachVault).is_empty(), "it reaches the vault");
    bed.outside.check();
}

/// An attempt that runs while the vault comes back fails after it: that the cause ended is not told
/// again by itself.
#[test]
fn an_attempt_that_fails_after_the_vault_came_back_is_tried_again_soon() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    let back = bed.run(async |service: Running| {
        service.create_surroundings().await;
        service.protected(1, every_30_s()).await;
        cut_vault_off(&bed, &[vm]);
        service.until(vm, is_waiting).await;
        let slow = Answer::FailAfter(MINUTE, link_down(vault_id()));
        bed.outside.always(vm.0, Op::Ship, slow);
        // The attempt at 10 minutes is under way.
        service.sleep(10 * MINUTE + 10 * SECOND).await;
        mend_vault(&bed, &[vm]);
        let back = bed.clock.elapsed();
        service.sleep(5 * MINUTE).await;
        back
    });
    let began = bed.outside.began(vm.0, Op::Ship);
    let after: Vec<_> = began.into_iter().filter(|began| back <= *began).collect();
    assert!(after[0] - back <= MINUTE, "{after:?}");
    assert_eq!(bed.logged(vm).trouble, None);
}

/// The probe of the vault goes through where the delta does not: a firewall, a quota, a bad object.
#[test]
fn a_vault_that_answers_while_deltas_fail_does_not_lead_to_attempts_without_pause() {
    let bed = Testbed::unchecked();
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.create_surroundings().await;
        service.protected(1, every_30_s()).await;
        bed.outside.always(vm.0, Op::Ship, Answer::Fail(link_down(vault_id())));
        service.until(vm, is_waiting).await;
        service.sleep(DAY).await;
    });
    let attempts = bed.outside.began(vm.0, Op::Ship);
    let by_schedule = ladder(24 * 60);
    assert!(attempts.len() <= 2 * by_schedule.len(), "{} attempts", attempts.len());
    let moments = minutes_after(attempts[0], &attempts);
    for due in by_schedule {
        assert!(moments.contains(&due), "no attempt at {due} min: {moments:?}");
    }
}

#[test]
fn a_failure_that_needs_an_administrator_is_not_tried_again_until_one_asks() {
    let mut bed = Testbed::unchecked();
    bed.watch_interval = MINUTE;
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.create_surroundings().await;
        service.protected(1, every_30_s()).await;
        bed.outside.always(vm.0, Op::Ship, Answer::Fail(credentials_refused(vault_id())));
        service.until(vm, |vm| vm.trouble.is_some()).await;
        let before = bed.outside.began(vm.0, Op::Ship).len();
        // The vault going and coming is no reason to try.
        bed.outside.script(vault_id().0, Op::ProbeVault, [Answer::Fail(link_down(vault_id()))]);
        service.sleep(30 * DAY).await;
        assert_eq!(bed.outside.began(vm.0, Op::Ship).len(), before);

        let state = service.vm(vm).await;
        let now = lifeboat::ports::clock::Clock::now(&*bed.clock);
        assert_eq!(state.health(now), Health::Critical);
        let causes = state.health_causes(now);
        let cause = causes.iter().find(|cause| cause.because.contains("401")).unwrap();
        assert_eq!(cause.level, Health::Critical);
        assert!(!cause.next.is_empty());
        assert_eq!(state.trouble.unwrap().failure.code, Code::AuthenticationFailed);

        bed.outside.heal(vm.0, Op::Ship);
        let asked = bed.clock.elapsed();
        service.retry(vm).await;
        service.until(vm, |vm| vm.trouble.is_none()).await;
        assert_eq!(bed.outside.began(vm.0, Op::Ship)[before], asked);
    });
    assert_eq!(retries(&bed, vm), [(1, Some(RetryReason::Administrator))]);
}

/// A kill while the vault is out of reach: the service that starts looks for it anew.
#[test]
fn a_service_that_starts_while_a_vm_waits_for_a_vault_that_answers_tries_at_once() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.protected(1, Policy::default()).await;
        cut_link(&bed, vm);
        service.until(vm, is_waiting).await;
        service.sleep(45 * MINUTE).await;
        service.create_surroundings().await;
    });
    mend_link(&bed, vm);
    let started = bed.clock.elapsed();
    bed.run(async |service: Running| service.sleep(10 * SECOND).await);
    let began = bed.outside.began(vm.0, Op::Ship);
    assert!(started <= *began.last().unwrap(), "{began:?}");
    assert_eq!(bed.logged(vm).trouble, None);
}
