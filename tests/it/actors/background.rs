//! What an actor does beside replication: guests are brought to rest and always let go on, sources of a
//! failover are kept off, and space is reclaimed whatever becomes of it.

use super::outside::{Answer, End, Op, host_lost, link_down};
use super::testbed::{
    HOUR, MINUTE, Running, SECOND, Testbed, every_30_s, host_id, job_id, vault_id, vm_id,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::vm::{Command, Event, Health, Phase, PointChoice, SourceEnd};
use lifeboat::ports::clock::Clock;

fn with_consistent_points() -> Policy {
    Policy { app_consistent_frequency_h: 1, recovery_point_retention_h: 24, ..every_30_s() }
}

fn busy() -> Failure {
    Failure::new(Code::GuestNotQuiesced, Cause::Itself, "busy")
}

fn missed(bed: &Testbed) -> usize {
    let events = bed.events_of(vm_id(1)).into_iter();
    events.filter(|(_, event)| matches!(event, Event::ApplicationConsistencyMissed { .. })).count()
}

#[test]
fn every_hour_the_guest_is_at_rest_while_the_logs_are_cut() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.protected(1, with_consistent_points()).await;
        service.sleep(2 * HOUR + MINUTE).await;
    });
    let (freezes, thaws) =
        (bed.outside.calls_of(vm.0, Op::Freeze), bed.outside.calls_of(vm.0, Op::Thaw));
    assert_eq!((freezes.len(), thaws.len()), (3, 3));
    for (freeze, thaw) in freezes.iter().zip(&thaws) {
        let cuts = bed.outside.calls_of(vm.0, Op::Snapshot).into_iter();
        let between = cuts.filter(|cut| {
            freeze.ended.unwrap().0 <= cut.began && cut.ended.unwrap().0 <= thaw.began
        });
        assert_eq!(between.count(), 1);
    }
    assert_eq!((bed.logged(vm).application_consistent.len(), missed(&bed)), (3, 0));
    bed.outside.check();
}

#[test]
fn a_guest_that_cannot_be_brought_to_rest_misses_no_cycle_and_is_let_go_on() {
    for answer in [Answer::Fail(busy()), Answer::Hang, Answer::Panic] {
        let bed = Testbed::new();
        let vm = vm_id(1);
        bed.outside.script(vm.0, Op::Freeze, [answer.clone()]);
        let before = bed.run(async |service: Running| {
            let vm = service.protected(1, with_consistent_points()).await;
            service.sleep(10 * MINUTE).await;
            service.vm(vm).await.points.len()
        });
        assert!(20 <= before, "{answer:?}: {before} points in ten minutes");
        assert_eq!(bed.outside.calls_of(vm.0, Op::Thaw).len(), 1, "{answer:?}");
        assert_eq!(missed(&bed), 1, "{answer:?}");
        assert!(bed.logged(vm).application_consistent.is_empty());
        assert!(!bed.outside.facts(vm).frozen);
    }
}

#[test]
fn a_cut_that_fails_lets_the_guest_go_on() {
    for answer in [Answer::Fail(host_lost(host_id())), Answer::Panic] {
        let bed = Testbed::new();
        let vm = vm_id(1);
        bed.outside.script(vm.0, Op::Snapshot, [answer]);
        bed.run(async |service: Running| {
            service.protected(1, with_consistent_points()).await;
            service.until(vm, |vm| vm.trouble.is_some()).await;
            service.sleep(SECOND).await;
            assert!(!bed.outside.facts(vm).frozen);
            service.retry(vm).await;
            service.until(vm, |vm| !vm.application_consistent.is_empty()).await;
        });
        assert_eq!(bed.outside.calls_of(vm.0, Op::Thaw).len(), 2);
    }
}

#[test]
fn a_guest_that_went_on_by_itself_gives_a_crash_consistent_point() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.outside.script(vm.0, Op::Thaw, [Answer::Fail(busy())]);
    bed.run(async |service: Running| {
        service.protected(1, with_consistent_points()).await;
        service.sleep(5 * MINUTE).await;
    });
    assert_eq!((bed.logged(vm).application_consistent.len(), missed(&bed)), (0, 1));
}

#[test]
fn space_that_cannot_be_freed_is_a_warning_that_ends_by_itself_and_delays_nothing() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.outside.always(vm.0, Op::ReclaimSpace, Answer::Fail(link_down(vault_id())));
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        service.sleep(21 * MINUTE).await;
        let state = service.vm(vm).await;
        assert_eq!(state.health(bed.clock.now()), Health::Warning);
        let because = &state.health_causes(bed.clock.now())[0].because;
        assert!(because.contains("SR-2204") && because.contains("connection refused"), "{because}");
        assert_eq!(state.phase, Phase::Protected);
        assert!(40 <= state.points.len());
        bed.outside.heal(vm.0, Op::ReclaimSpace);
        service.sleep(6 * MINUTE).await;
        assert_eq!(service.vm(vm).await.health(bed.clock.now()), Health::Normal);
    });
    let told = bed.events_of(vm).into_iter().filter(|(_, event)| {
        matches!(event, Event::SpaceNotReclaimed { .. } | Event::SpaceReclaimed)
    });
    assert_eq!(told.count(), 2, "only what changes is told");
    assert_eq!(bed.outside.calls_of(vm.0, Op::ReclaimSpace).len(), 5);
    bed.outside.check();
}

#[test]
fn a_volume_of_logs_that_was_freed_while_the_service_was_down_is_short_no_more() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    let short = Failure::new(Code::LogVolumeLow, Cause::Host(host_id()), "1 byte is free");
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        bed.outside.change(vm, |facts| facts.log_volume_short = Some(short));
        service.sleep(MINUTE).await;
        let state = service.vm(vm).await;
        let causes = state.health_causes(bed.clock.now());
        assert_eq!(
            (state.health(bed.clock.now()), causes[0].code),
            (Health::Warning, Code::LogVolumeLow)
        );
    });
    bed.outside.change(vm, |facts| facts.log_volume_short = None);
    bed.run(async |service: Running| {
        service.sleep(MINUTE).await;
        assert_eq!(service.vm(vm).await.health(bed.clock.now()), Health::Normal);
    });
    bed.outside.check();
}

#[test]
fn a_pass_that_never_ends_ends_with_the_phase_that_it_was_for() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.outside.always(vm.0, Op::ReclaimSpace, Answer::Hang);
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        service.sleep(20 * MINUTE).await;
        service
            .tell_vm(vm, Command::PlannedFailover { job: super::testbed::job_id(7) })
            .await
            .unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
    });
    let passes = bed.outside.calls_of(vm.0, Op::ReclaimSpace);
    assert_eq!(passes.len(), 1);
    assert_eq!(passes[0].ended.unwrap().1, super::outside::End::Dropped);
}

/// The fence holds either way; but a guest that came back into reach meanwhile may not run on beside it.
#[test]
fn a_source_that_came_back_after_the_fence_is_shut_down_before_its_replica_starts() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        bed.outside.script(vm.0, Op::ShutDown, [Answer::Fail(host_lost(host_id()))]);
        let point = PointChoice::Latest;
        service.tell_vm(vm, Command::UnplannedFailover { job: job_id(2), point }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
        let shut_down = bed.outside.calls_of(vm.0, Op::ShutDown);
        let ends: Vec<_> = shut_down.iter().map(|call| call.ended.unwrap().1).collect();
        assert_eq!(ends, [End::Failed, End::Succeeded]);
        let started = bed.outside.began(vm.0, Op::Start)[0];
        assert!(shut_down[1].ended.unwrap().0 <= started);
    });
    bed.outside.check();
}

/// It may come back at any moment: from the last time that it was out of reach until the replica runs, too.
#[test]
fn a_source_that_comes_back_while_its_replica_boots_is_shut_down_meanwhile() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        for op in [Op::ShutDown, Op::SwitchOff] {
            bed.outside.script(vm.0, op, vec![Answer::Fail(host_lost(host_id())); 4]);
        }
        bed.outside.script(vm.0, Op::Start, [Answer::After(10 * MINUTE)]);
        let point = PointChoice::Latest;
        service.tell_vm(vm, Command::UnplannedFailover { job: job_id(2), point }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
        let shut_down = bed.outside.calls_of(vm.0, Op::ShutDown);
        let off = shut_down.iter().find_map(|call| match call.ended {
            Some((at, End::Succeeded)) => Some(at),
            _ => None,
        });
        let runs = bed.outside.calls_of(vm.0, Op::Start)[0].ended.unwrap().0;
        assert!(off.unwrap() + 9 * MINUTE < runs, "{shut_down:#?}");
    });
    bed.outside.check();
}

#[test]
fn a_source_that_cannot_be_shut_down_is_switched_off_by_an_unplanned_failover() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        let failure = Failure::new(Code::SourceDidNotStop, Cause::Host(host_id()), "a disk fails");
        bed.outside.always(vm.0, Op::ShutDown, Answer::Fail(failure));
        let point = PointChoice::Latest;
        service.tell_vm(vm, Command::UnplannedFailover { job: job_id(2), point }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
        let off = bed.outside.calls_of(vm.0, Op::SwitchOff)[0].ended.unwrap();
        assert!(off.0 <= bed.outside.began(vm.0, Op::Fence)[0]);
        assert!(!bed.outside.facts(vm).runs_at_primary);
    });
    let ended = bed.logged(vm_id(1)).source_ended.map(|ended| ended.how);
    assert_eq!(ended, Some(SourceEnd::SwitchedOff));
    bed.outside.check();
}

/// What the source wrote last is sent once it is off, and is in the point that its replica starts from.
#[test]
fn a_failover_that_synchronizes_sends_the_last_log_of_a_source_that_is_off() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        service.tell_vm(vm, Command::SynchronizeAndFailOver { job: job_id(2) }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
    });
    let off = bed.outside.calls_of(vm.0, Op::ShutDown)[0].ended.unwrap().0;
    let sent = bed.outside.calls_of(vm.0, Op::ShipThrough).last().unwrap().began;
    assert!(off <= sent && sent <= bed.outside.began(vm.0, Op::Fence)[0]);
    let state = bed.logged(vm);
    let ended = state.source_ended.clone().unwrap();
    assert_eq!((ended.how, ended.unsent), (SourceEnd::ShutDown, None));
    assert_eq!(state.failover_point(), state.latest_point());
    bed.outside.check();
}

/// A host that is out of reach, and a last log that hangs, hold up nobody for long.
#[test]
fn a_failover_that_cannot_synchronize_goes_on_and_says_why() {
    let cases: [(Op, Answer, Code); 2] = [
        (Op::ShipThrough, Answer::Fail(host_lost(host_id())), Code::HostLost),
        (Op::ShipThrough, Answer::Hang, Code::LinkDown),
    ];
    for (op, answer, code) in cases {
        let bed = Testbed::new();
        let vm = vm_id(1);
        bed.run(async |service: Running| {
            service.protected(1, every_30_s()).await;
            bed.outside.always(vm.0, op, answer);
            bed.outside.always(vm.0, Op::ShutDown, Answer::Fail(host_lost(host_id())));
            bed.outside.always(vm.0, Op::SwitchOff, Answer::Fail(host_lost(host_id())));
            service.tell_vm(vm, Command::SynchronizeAndFailOver { job: job_id(2) }).await.unwrap();
            service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
        });
        let ended = bed.logged(vm).source_ended.unwrap();
        assert_eq!(ended.how, SourceEnd::OutOfReach(host_lost(host_id())));
        assert_eq!(ended.unsent.map(|failure| failure.code), Some(code));
    }
}

/// It was kept on as what it was when that began, and the vault serves nothing of it once its protection has ended.
#[test]
fn a_replica_that_does_not_start_at_once_is_tried_again_as_what_it_has_become() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        service.tell_vm(vm, Command::PlannedFailover { job: job_id(2) }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
        service.tell_vm(vm, Command::CommitFailover { job: job_id(3) }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::FailedOver(_))).await;
    });
    let refused = Failure::new(Code::ReplicaDidNotStart, Cause::Itself, "no memory");
    bed.outside.script(vm.0, Op::Start, [Answer::FailAfter(MINUTE, refused)]);
    let before = bed.outside.calls_of(vm.0, Op::Start).len();
    bed.run(async |service: Running| {
        let disable = Command::DisableProtection { job: job_id(4), source_gone: false };
        service.tell_vm(vm, disable).await.unwrap();
        service.until(vm, |vm| vm.points.is_empty()).await;
        service.sleep(HOUR).await;
    });
    assert_eq!(bed.logged(vm).phase, Phase::UnprotectedAtRecovery);
    let starts = bed.outside.calls_of(vm.0, Op::Start).into_iter().skip(before);
    let ends: Vec<_> = starts.map(|start| start.ended.map(|(_, end)| end)).collect();
    assert_eq!(ends, [Some(End::Failed), Some(End::Succeeded)]);
    bed.outside.check();
}
