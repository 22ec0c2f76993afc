//! Which recovery points are kept: the whole table of levels, and what a VM lets go.

use super::story::{Story, quiet, second};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::retention::{Candidate, LEVELS, NextThinning, thinned_out};
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{Command, Event};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn crash(cycle: u64, at: i64) -> Candidate {
    Candidate { cycle, at: Timestamp::from_millis(at * 1000), application_consistent: false }
}

fn consistent(cycle: u64, at: i64) -> Candidate {
    Candidate { application_consistent: true, ..crash(cycle, at) }
}

fn left(points: &[Candidate], now: i64) -> Vec<Candidate> {
    let gone = thinned_out(points, Timestamp::from_millis(now * 1000));
    points.iter().copied().filter(|point| !gone.contains(&point.cycle)).collect()
}

/// A point every 30 s for three days, the application's in order every hour, looked at every 30 s.
fn three_days() -> (Vec<Candidate>, i64) {
    let (mut points, mut now) = (Vec::new(), 0);
    for cycle in 0..3 * DAY / 30 {
        now = cycle * 30;
        let point = if cycle % 120 == 7 { consistent } else { crash };
        points.push(point(cycle as u64, now));
        points = left(&points, now);
    }
    (points, now)
}

#[test]
fn after_three_days_every_age_has_the_points_of_its_level() {
    let (points, now) = three_days();
    let ages: Vec<i64> = points.iter().map(|point| now - point.at.as_millis() / 1000).collect();
    let count = |from: i64, to: i64| ages.iter().filter(|age| (from..to).contains(*age)).count();
    assert_eq!(count(0, 2 * HOUR), 240, "all of the last two hours");
    // A window straddles the border between two levels at most, and is whole until it is over.
    assert_eq!(count(3 * HOUR, 23 * HOUR), 20 * 12, "one every 5 minutes");
    assert_eq!(count(26 * HOUR, 70 * HOUR), 44, "one an hour");
    assert!(points.len() < 580, "{}", points.len());
    let gaps = points.windows(2).map(|pair| pair[1].at.since(pair[0].at));
    assert!(gaps.max().unwrap() <= Duration::from_secs(2 * HOUR as u64));
    assert_eq!(points.iter().filter(|point| point.application_consistent).count(), 72);
}

#[test]
fn a_window_is_whole_until_all_of_it_is_as_old_as_its_level() {
    let points: Vec<_> = (0..10).map(|nth| crash(nth, nth as i64 * 30)).collect();
    let begins = LEVELS[0].from.as_secs() as i64;
    assert_eq!(left(&points, 5 * MINUTE + begins - 1), points);
    assert_eq!(left(&points, 5 * MINUTE + begins), [crash(9, 270)]);
}

#[test]
fn an_application_consistent_point_is_kept_rather_than_the_newest_of_its_window() {
    let points = [crash(1, 10), consistent(2, 20), crash(3, 30), crash(4, 310)];
    assert_eq!(left(&points, 3 * HOUR), [consistent(2, 20), crash(4, 310)]);
    let points = [consistent(1, 10), consistent(2, 20), crash(3, 30)];
    assert_eq!(left(&points, 2 * DAY), points[..2]);
}

#[test]
fn points_of_the_future_and_from_before_1970_do_no_harm() {
    let points = [crash(1, i64::MAX / 1000), crash(2, -30), crash(3, -20)];
    assert_eq!(left(&points, 0), points);
    assert_eq!(left(&points, 3 * HOUR), [points[0], points[2]]);
}

proptest! {
    /// Whatever the points are, and however often it is looked at in between.
    #[test]
    fn each_window_that_is_over_has_one_point_or_its_consistent_ones(
        steps in prop::collection::vec((1..4000_i64, prop::bool::weighted(0.1)), 1..120),
        looks in prop::collection::vec(0..4_i64, 120),
    ) {
        let (mut points, mut now) = (Vec::new(), 0);
        let mut all = Vec::new();
        for (cycle, ((step, in_order), look)) in steps.into_iter().zip(looks).enumerate() {
            now += step;
            let point = if in_order { consistent } else { crash };
            points.push(point(cycle as u64, now));
            all.push(point(cycle as u64, now));
            if look == 0 {
                points = left(&points, now);
                prop_assert_eq!(left(&points, now), points.clone(), "a second look lets go of more");
            }
        }
        now += 30 * DAY;
        // It does not matter when it was looked at.
        prop_assert_eq!(left(&points, now), left(&all, now));
        let mut windows: BTreeMap<i64, Vec<Candidate>> = BTreeMap::new();
        for point in left(&all, now) {
            windows.entry(point.at.as_millis() / (HOUR * 1000)).or_default().push(point);
        }
        let filled: BTreeSet<i64> =
            all.iter().map(|point| point.at.as_millis() / (HOUR * 1000)).collect();
        prop_assert_eq!(filled, windows.keys().copied().collect::<BTreeSet<_>>());
        for kept in windows.values() {
            prop_assert!(
                kept.len() == 1 || kept.iter().all(|point| point.application_consistent)
            );
        }
    }
}

#[test]
fn a_vm_lets_go_of_what_its_levels_leave_out_and_of_nothing_during_a_failover() {
    let mut story = Story::protected();
    let policy = Policy { recovery_point_retention_h: 72, ..quiet() };
    story.tell(Command::ChangePolicy { policy: Policy { copy_frequency_s: 60, ..policy } });
    let mut thinned = Vec::new();
    while story.now < second(3 * HOUR) {
        story.wake();
        story.succeed();
        for event in story.succeed() {
            if let Event::RecoveryPointsThinned { cycles } = event {
                thinned.extend(cycles);
            }
        }
    }
    assert!(!thinned.is_empty());
    assert!(story.vm.points.iter().all(|point| !thinned.contains(&point.cycle)));
    let known = story.vm.points.len() + thinned.len();
    assert_eq!(known as u64, story.vm.delta.cycle - 1, "a point is neither kept nor let go");
    assert!(thinned.is_sorted());

    story.wait(Duration::from_hours(5));
    let before = story.vm.points.clone();
    story.tell(super::story::planned());
    story.work_off();
    assert_eq!(story.vm.points[..before.len()], *before);
}

proptest! {
    /// Whoever looks only when it is due misses nothing, however the points came, and whichever of them are
    /// gone or exempt by then.
    #[test]
    fn before_the_next_thinning_is_due_there_is_nothing_to_let_go(
        steps in prop::collection::vec((-40_i64..400, any::<bool>()), 2..120),
        known in 1_usize..60,
        ages in prop::collection::vec(0..3 * DAY, 1..20),
        exempt in prop::collection::vec(any::<bool>(), 120),
    ) {
        let mut now = 3 * DAY;
        let mut points = Vec::new();
        for (cycle, (step, in_order)) in steps.into_iter().enumerate() {
            now += step;
            let point = if in_order { consistent } else { crash };
            points.push(point(cycle as u64, now));
        }
        let known = known.min(points.len());
        let mut next = NextThinning::of(points[..known].iter().copied());
        for pair in points[known - 1..].windows(2) {
            next.added(pair[0].at, pair[1].at);
        }
        let left: Vec<_> = points.iter().zip(&exempt).filter(|it| *it.1).map(|it| *it.0).collect();
        for age in ages {
            let then = Timestamp::from_millis((now + age) * 1000);
            if !next.is_due(then) {
                prop_assert_eq!(thinned_out(&left, then), Vec::<u64>::new());
            }
        }
    }
}

#[test]
fn the_next_thinning_is_due_when_a_window_with_two_points_is_over() {
    let begins = LEVELS[0].from.as_secs() as i64;
    let at = |second: i64| Timestamp::from_millis(second * 1000);
    let mut next = NextThinning::of([crash(1, 0), crash(2, 5 * MINUTE)].into_iter());
    next.added(at(5 * MINUTE), at(6 * MINUTE));
    assert!(!next.is_due(at(10 * MINUTE + begins - 1)));
    assert!(next.is_due(at(10 * MINUTE + begins)));
    assert!(NextThinning::default().is_due(at(0)), "nothing is known of it");
}
