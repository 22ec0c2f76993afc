//! Application-consistent points: when they are due, what a guest that cannot be quiesced costs, and how a
//! failover chooses one.

use super::story::{Story, commit, unplanned};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::Rejection;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::vm::{Command, Event, Health, PointChoice, Work};
use std::time::Duration;

fn hourly() -> Story {
    let mut story = Story::protected();
    story.tell(Command::ChangePolicy { policy: Policy::default() });
    story
}

fn cycle(story: &mut Story) -> Vec<Event> {
    let mut events = story.wake();
    events.extend(story.succeed());
    events.extend(story.succeed());
    events
}

fn miss(story: &mut Story) -> Vec<Event> {
    let mut events = story.wake();
    let Some(Work::Snapshot { cycle }) = story.vm.work() else { panic!("no cut is due") };
    assert!(story.vm.is_to_be_quiesced(cycle));
    let missed = Some(Failure::new(Code::GuestNotQuiesced, Cause::Itself, "busy"));
    let (at, log_bytes) = (story.now, 1);
    events.extend(story.tell(Command::ReportQuiescedSnapshot { cycle, at, log_bytes, missed }));
    events.extend(story.succeed());
    events
}

fn requested(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::ApplicationConsistencyRequested { .. }))
}

#[test]
fn one_is_due_at_the_first_cycle_and_then_every_so_many_hours() {
    let mut story = hourly();
    let due: Vec<bool> = (0..26).map(|_| requested(&cycle(&mut story))).collect();
    let at: Vec<usize> = (0..26).filter(|nth| due[*nth]).collect();
    assert_eq!(at, [0, 12, 24], "every 12 cycles of 5 minutes");
    assert_eq!(story.vm.application_consistent.len(), 2, "the first is past its retention");
}

#[test]
fn a_guest_that_cannot_be_quiesced_costs_no_cycle_and_is_tried_again_after_15_minutes() {
    let mut story = hourly();
    let events = miss(&mut story);
    assert!(events.iter().any(|event| matches!(event, Event::LogShipped { .. })));
    assert!(matches!(events[2], Event::ApplicationConsistencyMissed { .. }), "{events:?}");
    assert_eq!(story.vm.health(story.now), Health::Warning);
    assert!(story.vm.health_causes(story.now)[0].because.contains("SR-2011"));
    let due: Vec<bool> = (0..4).map(|_| requested(&cycle(&mut story))).collect();
    assert_eq!(due, [false, false, true, false]);
    assert_eq!(story.vm.health(story.now), Health::Normal);
}

#[test]
fn a_policy_without_them_asks_for_none() {
    let mut story = hourly();
    let policy = Policy { app_consistent_frequency_h: 0, ..Policy::default() };
    story.tell(Command::ChangePolicy { policy });
    assert!((0..20).all(|_| !requested(&cycle(&mut story))));
}

/// Nobody would ever have tried again, so that the VM was in Warning for good.
#[test]
fn what_was_missed_is_no_concern_once_a_policy_asks_for_none() {
    let mut story = hourly();
    miss(&mut story);
    assert_eq!(story.vm.health(story.now), Health::Warning);
    let none = Policy { app_consistent_frequency_h: 0, ..Policy::default() };
    story.tell(Command::ChangePolicy { policy: none });
    assert_eq!(story.vm.health(story.now), Health::Normal);
    // Nor is one that was under way then.
    story.tell(Command::ChangePolicy { policy: Policy::default() });
    story.wake();
    story.tell(Command::ChangePolicy { policy: none });
    let (cycle, at) = (story.vm.delta.cycle, story.now);
    let missed = Some(Failure::new(Code::GuestNotQuiesced, Cause::Itself, "busy"));
    story.tell(Command::ReportQuiescedSnapshot { cycle, at, log_bytes: 1, missed });
    story.succeed();
    assert_eq!(story.vm.health(story.now), Health::Normal);
}

#[test]
fn a_clock_that_was_set_back_does_not_put_them_off() {
    let mut story = hourly();
    assert!(requested(&cycle(&mut story)));
    let back = Duration::from_hours(48).as_millis() as i64;
    story.now = lifeboat::domain::time::Timestamp::from_millis(story.now.as_millis() - back);
    let (due, command) = story.alarm().unwrap();
    assert!(story.now < due);
    assert!(requested(&story.tell(command)));
}

#[test]
fn a_report_about_another_cycle_says_nothing() {
    let mut story = hourly();
    story.wake();
    let (cycle, at) = (story.vm.delta.cycle + 1, story.now);
    let report = Command::ReportQuiescedSnapshot { cycle, at, log_bytes: 1, missed: None };
    assert_eq!(story.tell(report), []);
}

#[test]
fn a_failover_can_choose_the_latest_consistent_or_the_latest_that_is_known() {
    let mut story = hourly();
    for choice in [PointChoice::LatestApplicationConsistent, PointChoice::Cycle(77)] {
        let refused = story.try_tell(unplanned(choice)).unwrap_err();
        assert!(matches!(refused, Rejection::Unknown { what: "recovery point", .. }), "{refused}");
    }
    cycle(&mut story);
    let consistent = story.vm.latest_point().unwrap();
    cycle(&mut story);
    let latest = story.vm.latest_point().unwrap();
    for (choice, point) in [
        (PointChoice::LatestApplicationConsistent, consistent),
        (PointChoice::LatestProcessed, latest),
    ] {
        let mut story = story.clone();
        let events = story.tell(unplanned(choice));
        let certain = PointChoice::Cycle(point.cycle);
        assert!(events.contains(&Event::FailoverRequested { point: certain }), "{events:?}");
        story.work_off();
        assert_eq!(story.vm.failover.unwrap().point, point);
        story.tell(commit());
        story.work_off();
        assert_eq!(story.vm.application_consistent.contains(&point.cycle), point == consistent);
    }
}
