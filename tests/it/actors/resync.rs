//! Resynchronization as the actors do it: its timer, and where it goes on.

use super::outside::{Answer, Op};
use super::testbed::{DAY, HOUR, MINUTE, Running, Testbed, every_30_s, vm_id};
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{Command, Opening, Phase, ResyncReason, ResyncWindow};
use lifeboat::ports::clock::Clock;

const DAY_MINUTES: i64 = 24 * 60;

/// A window of an hour that opens in four hours.
fn window_after(now: Timestamp) -> ResyncWindow {
    let minute = (now.as_millis() / 60_000).rem_euclid(DAY_MINUTES);
    let in_hours = |hours: i64| ((minute + hours * 60) % DAY_MINUTES) as u16;
    let (from_minute, to_minute) = (in_hours(4), in_hours(5));
    ResyncWindow::Daily { from_minute, to_minute, utc_offset_minutes: 0 }
}

async fn lose_tracking(service: &Running<'_>) {
    let lost = Some(ResyncReason::PowerLoss);
    service.bed.outside.change(vm_id(1), |facts| facts.tracking_lost = lost);
    service.until(vm_id(1), |vm| matches!(vm.phase, Phase::Resynchronizing(_))).await;
}

#[test]
fn a_marked_vm_begins_when_its_window_opens_also_after_a_restart() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        let window = window_after(bed.clock.now());
        service.tell_vm(vm, Command::ChangeResyncWindow { window }).await.unwrap();
        lose_tracking(&service).await;
        service.sleep(HOUR).await;
        assert!(bed.outside.began(vm.0, Op::CompareDisk).is_empty());
    });
    let Some(Opening::At(due)) = bed.logged(vm).resync.waits_for else { panic!("it waits") };
    bed.run(async |service: Running| {
        service.until(vm, |vm| vm.phase == Phase::Protected).await;
        let late = bed.clock.now().since(due);
        assert!(due <= bed.clock.now() && late < MINUTE, "{late:?}");
    });
    bed.outside.check();
}

#[test]
fn a_clock_that_is_set_back_does_not_put_a_resynchronization_off() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        let window = window_after(bed.clock.now());
        service.tell_vm(vm, Command::ChangeResyncWindow { window }).await.unwrap();
        lose_tracking(&service).await;
        let marked_at = bed.clock.elapsed();
        bed.clock.set_wall_back(2 * DAY);
        service.until(vm, |vm| vm.phase == Phase::Protected).await;
        assert!(bed.clock.elapsed() - marked_at <= DAY + MINUTE);
    });
    bed.outside.check();
}

#[test]
fn a_comparison_is_told_what_was_recorded_as_done() {
    let bed = Testbed::new();
    let vm = vm_id(1);
    bed.run(async |service: Running| {
        service.protected(1, every_30_s()).await;
        bed.outside.script(vm.0, Op::CompareDisk, [Answer::After(HOUR)]);
        lose_tracking(&service).await;
        // Progress is told in the middle of the hour.
        service.sleep(40 * MINUTE).await;
    });
    bed.run(async |service: Running| {
        service.until(vm, |vm| vm.phase == Phase::Protected).await;
    });
    let compared_from = bed.outside.facts(vm).compared_from;
    assert_eq!(compared_from[..2], [0, 1 << 19]);
    bed.outside.check();
}
