//! What replication did in an interval.

use super::story::{BEGINNING, Story, link_down};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::Entity;
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{
    Command, Event, Health, Interval, Phase, Stage, StatisticsSchedule, Vm, Work,
};
use std::time::Duration;

const CYCLE: Duration = Duration::from_mins(5);

/// The interval that is being measured at the moment of a story.
fn interval(story: &Story) -> Interval {
    story.vm.statistics_at(story.now).current.expect("replication has begun")
}

fn schedule(hours: u16, start_minute: u16) -> Command {
    let schedule = StatisticsSchedule { hours, start_minute, utc_offset_minutes: 0 };
    Command::ChangeStatisticsSchedule { schedule }
}

/// One delta, from its due moment to its point.
fn delta(story: &mut Story, takes: Duration) {
    story.wake();
    story.succeed();
    story.wait(takes);
    story.succeed();
}

/// The minute of the UTC day.
fn minute_of_day(at: Timestamp) -> i64 {
    at.as_millis().rem_euclid(86_400_000) / 60_000
}

#[test]
fn intervals_begin_at_nine_and_at_nine_local_time_unless_it_is_said_otherwise() {
    let mut story = Story::protected();
    let found = interval(&story);
    assert!([540, 1260].contains(&minute_of_day(found.begins)), "{}", found.begins);
    assert_eq!(found.ends.since(found.begins), Duration::from_hours(12));
    assert!(found.begins <= found.since && found.since <= story.now);

    let changed = story.tell(schedule(6, 30));
    assert!(matches!(changed[..], [Event::StatisticsScheduleChanged { .. }]), "{changed:?}");
    assert_eq!(story.tell(schedule(6, 30)), [], "told twice");
    let found = interval(&story);
    assert_eq!(minute_of_day(found.begins) % 360, 30, "{}", found.begins);
    assert_eq!(found.ends.since(found.begins), Duration::from_hours(6));
    for wrong in [schedule(0, 0), schedule(169, 0), schedule(12, 1440)] {
        assert!(story.try_tell(wrong).is_err());
    }
}

#[test]
fn successful_cycles_are_measured() {
    let mut story = Story::protected();
    story.tell(schedule(168, 0));
    for takes in [10, 20] {
        delta(&mut story, Duration::from_secs(takes));
    }
    let found = interval(&story);
    assert_eq!((found.successful, found.missed, found.total()), (2, 0, 2));
    assert_eq!(
        found.average_latency(),
        Some(Duration::from_secs(17)),
        "a second for each piece of work"
    );
    let sizes: Vec<_> = story.vm.points.iter().rev().take(2).map(|point| point.bytes).collect();
    assert_eq!(found.average_bytes(), Some(sizes.iter().sum::<u64>() / 2));
    assert_eq!(found.largest_bytes, *sizes.iter().max().expect("two were sent"));
    assert_eq!(found.last_sent_at, Some(story.now));
    assert_eq!(found.errors, 0);
}

#[test]
fn a_delta_that_takes_three_cycles_misses_two_also_while_it_is_not_done() {
    let mut story = Story::protected();
    story.tell(schedule(168, 0));
    story.wake();
    story.succeed();
    let cut = story.vm.statistics.cut_bytes;
    assert_ne!(cut, 0, "its logs are in no recovery point");
    story.wait(CYCLE * 2);
    assert_eq!(interval(&story).missed, 1);
    story.wait(CYCLE);
    assert_eq!(interval(&story).missed, 2);
    story.succeed();
    assert_eq!(story.vm.statistics.cut_bytes, 0);
    story.wake();
    let found = interval(&story);
    assert_eq!((found.successful, found.missed), (1, 2));
}

#[test]
fn failed_attempts_are_counted_and_the_cycles_that_they_cost() {
    let mut story = Story::protected();
    story.tell(schedule(168, 0));
    story.wake();
    for _ in 0..4 {
        story.fail(link_down());
        story.wake();
    }
    let found = interval(&story);
    assert_eq!(found.errors, 4);
    assert_eq!(found.missed, 0, "four attempts take less than two cycles");
}

#[test]
fn nothing_is_missed_while_replication_is_paused() {
    let mut story = Story::protected();
    story.tell(schedule(168, 0));
    story.tell(Command::PauseReplication);
    story.wait(CYCLE * 50);
    story.tell(Command::ResumeReplication);
    assert_eq!(interval(&story).missed, 0);
    story.wait(CYCLE * 3);
    assert_eq!(interval(&story).missed, 2);
}

#[test]
fn a_vm_that_missed_more_than_a_fifth_of_an_interval_is_in_warning_until_the_next_one() {
    let mut story = Story::protected();
    let begins = minute_of_day(story.now) as u16;
    story.tell(schedule(1, begins));
    let room = Duration::from_hours(1).as_secs() / CYCLE.as_secs();
    assert_eq!(room, 12);
    story.wake();
    story.succeed();
    // Three are a quarter of the hour.
    story.wait(CYCLE * 4);
    story.succeed();
    delta(&mut story, Duration::ZERO);
    let told = |story: &Story| {
        let causes = story.vm.health_causes(story.now);
        causes.into_iter().find(|cause| cause.because.contains("cycles were missed"))
    };
    let cause = told(&story).expect("a fifth of 12 is fewer than 3");
    assert_eq!(cause.level, Health::Warning);
    assert_eq!(cause.because, "3 of 5 cycles were missed");
    assert_eq!(story.vm.health(story.now), Health::Warning);

    let ends = interval(&story).ends;
    while story.now < ends {
        delta(&mut story, Duration::ZERO);
    }
    assert_eq!(told(&story), None, "{:?}", story.vm.statistics);
    let statistics = story.vm.statistics_at(story.now);
    assert_eq!(statistics.previous.map(|previous| previous.missed), Some(3));
}

#[test]
fn an_interval_in_which_nothing_happened_is_told_of_as_the_one_before() {
    let mut story = Story::protected();
    story.tell(schedule(1, minute_of_day(story.now) as u16));
    delta(&mut story, Duration::ZERO);
    story.wait(Duration::from_hours(30));
    let statistics = story.vm.statistics_at(story.now);
    let (previous, current) = (statistics.previous.unwrap(), statistics.current.unwrap());
    assert_eq!(previous.ends, current.begins);
    assert!(current.begins <= story.now && story.now < current.ends);
    assert_eq!((previous.successful, previous.missed), (0, 12));
}

#[test]
fn the_log_alone_gives_the_same_figures() {
    let mut story = Story::protected();
    for nth in 0..40 {
        story.wake();
        if nth % 7 == 0 {
            story.fail(link_down());
            story.wait(Duration::from_mins(nth));
            story.wake();
        }
        story.succeed();
        story.wait(Duration::from_secs(nth));
        story.succeed();
    }
    let mut folded = Vm::default();
    for (at, _, events) in &story.told {
        for event in events {
            folded.apply(event, *at);
        }
    }
    assert_eq!(folded.statistics, story.vm.statistics);
    assert!(5 <= interval(&story).errors + folded.statistics.previous.map_or(0, |it| it.errors));
}

#[test]
fn a_clock_that_jumps_to_either_end_of_time_is_survived() {
    for at in [i64::MIN, i64::MIN / 2, -1, i64::MAX / 2, i64::MAX] {
        let mut story = Story::protected();
        story.now = Timestamp::from_millis(at);
        let _ = story.vm.statistics_at(story.now);
        for _ in 0..3 {
            story.vm.apply(&Event::CycleStarted { cycle: 9 }, story.now);
            story.now = BEGINNING;
        }
        assert!(interval(&story).begins <= BEGINNING);
        assert_eq!(story.vm.phase, Phase::Protected);
        assert!(matches!(story.vm.delta.stage, Stage::Snapshotting));
        assert!(matches!(story.vm.work(), Some(Work::Snapshot { .. })));
    }
}

#[test]
fn a_vm_whose_cycles_take_long_on_average_is_in_warning() {
    let told = |story: &Story| {
        let causes = story.vm.health_causes(story.now);
        causes.into_iter().find(|cause| cause.code == Code::LatencyHigh)
    };
    let mut story = Story::protected();
    story.tell(schedule(168, 0));
    delta(&mut story, Duration::from_mins(5) - Duration::from_secs(2));
    assert_eq!(interval(&story).average_latency(), Some(Duration::from_mins(5)));
    assert_eq!(told(&story), None, "five minutes are normal");
    delta(&mut story, Duration::from_mins(7));
    let cause = told(&story).expect("they take six minutes on average");
    assert_eq!(cause.level, Health::Warning);
    assert!(
        cause.because.contains("361 s") && cause.next.contains("replication goes on"),
        "{cause:?}"
    );
    for _ in 0..4 {
        delta(&mut story, Duration::ZERO);
    }
    assert_eq!(told(&story), None, "{:?}", interval(&story));
}
