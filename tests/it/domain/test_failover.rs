//! Test failovers: beside replication, and never in its way.

use super::story::{
    BEGINNING, Story, check_failed, clean_up, disable, link_down, test_failover, unplanned,
};
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::{Command, Effect, Health, Phase, PointChoice, TestStatus, Wake, Work};
use std::time::Duration;

/// The copy runs.
fn tested(mut story: Story) -> Story {
    story.tell(test_failover());
    while story.test_work().is_some() {
        story.succeed_in_test();
    }
    assert!(story.vm.test.as_ref().is_some_and(|test| test.started_at.is_some()));
    story
}

#[test]
fn a_test_counts_once_it_is_cleaned_up() {
    let mut story = tested(Story::protected());
    assert_eq!(story.vm.last_test, None);
    story.tell(clean_up());
    while story.test_work().is_some() {
        story.succeed_in_test();
    }
    let result = story.vm.last_test.clone().expect("it was cleaned up");
    assert_eq!((result.succeeded, result.notes.as_str()), (true, "it booted"));
    assert_eq!(story.vm.test, None);
    assert!(story.vm.allowed_operations().contains(&"TestFailover"));
}

#[test]
fn replication_goes_on_beside_a_test_at_every_step() {
    let mut story = Story::protected();
    story.tell(test_failover());
    for _ in 0..3 {
        let points = story.vm.points.len();
        let mut replicating = story.clone();
        let due = replicating.alarm().expect("the next delta is due").0;
        replicating.now = due;
        replicating.wake();
        while let Some(work @ (Work::Snapshot { .. } | Work::Ship { .. })) = replicating.vm.work() {
            assert!(replicating.vm.pending().contains(&Effect::Do(work)));
            replicating.succeed();
        }
        assert_eq!(replicating.vm.points.len(), points + 1);
        story.succeed_in_test();
    }
    assert_eq!(story.vm.health(story.now), Health::Normal);
}

#[test]
fn trouble_of_replication_and_of_a_test_do_not_touch_each_other() {
    let mut story = Story::shipping();
    story.fail(link_down());
    story.tell(test_failover());
    story.succeed_in_test();
    assert!(story.vm.trouble.is_some(), "the delta still waits for its retry");
    let work = story.test_work().expect("the copy is prepared");
    story.tell(Command::ReportFailure { work, failure: link_down() });
    assert!(story.test_work().is_none(), "a test does not wait for better times");
    let test = story.vm.test.as_ref().expect("what it left is to be cleaned up");
    assert!(test.failure.is_some() && test.waits_for_clean_up());
    assert!(story.vm.trouble.is_some());
}

#[test]
fn a_test_that_fails_its_check_leaves_nothing_to_clean_up() {
    let mut story = Story::protected();
    story.tell(test_failover());
    let work = story.test_work().expect("it is checked");
    assert!(matches!(work, Work::Task { step: Step::CheckTestFailover, .. }));
    story.tell(Command::ReportFailure { work, failure: check_failed() });
    assert_eq!(story.vm.test, None);
    assert!(story.vm.last_test.as_ref().is_some_and(|result| !result.succeeded));
}

#[test]
fn a_test_is_cleaned_up_when_its_lease_ends_and_until_that_worked() {
    let mut story = tested(Story::protected());
    let (due, wake) = story.alarms().find(|(_, wake)| *wake == Wake::TestLease).expect("a lease");
    story.now = due;
    story.tell(Command::Wake { due, wake });
    let work = story.test_work().expect("it is cleaned up");
    assert!(matches!(work, Work::Task { step: Step::StopTest, .. }));
    story.tell(Command::ReportFailure { work, failure: link_down() });
    assert!(story.test_work().is_none());
    let causes = story.vm.health_causes(story.now);
    assert!(causes.iter().any(|cause| cause.because.contains("not cleaned up")));
    let (due, wake) = story.alarms().find(|(_, wake)| *wake == Wake::TestLease).expect("a retry");
    assert_eq!(due.since(story.now), Duration::from_mins(1));
    story.now = due;
    story.tell(Command::Wake { due, wake });
    while story.test_work().is_some() {
        story.succeed_in_test();
    }
    assert_eq!(story.vm.test, None);
}

#[test]
fn a_failover_does_not_wait_for_a_test() {
    let mut story = tested(Story::protected());
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    assert!(matches!(story.vm.phase, Phase::CommitPending(_)));
    assert!(story.vm.test.is_some());
    story.tell(clean_up());
    while story.test_work().is_some() {
        story.succeed_in_test();
    }
    assert!(matches!(story.vm.phase, Phase::CommitPending(_)));
}

#[test]
fn what_a_test_reads_is_not_deleted_under_it() {
    let mut story = tested(Story::protected());
    assert!(matches!(story.try_tell(disable()), Err(Rejection::NotAllowed { .. })));
    assert!(matches!(story.try_tell(test_failover()), Err(Rejection::NotAllowed { .. })));
}

#[test]
fn a_lease_out_of_range_and_a_point_that_is_not_there_are_refused() {
    let story = Story::protected();
    let Command::TestFailover { job, network, .. } = test_failover() else { unreachable!() };
    for lease_h in [0, 337] {
        let point = PointChoice::Latest;
        let command = Command::TestFailover { job, point, network: network.clone(), lease_h };
        let refused = story.vm.decide(&command, story.now);
        assert!(matches!(refused, Err(Rejection::OutOfRange { .. })), "{lease_h}");
    }
    let point = PointChoice::Cycle(999);
    let command = Command::TestFailover { job, point, network, lease_h: 4 };
    assert!(matches!(story.vm.decide(&command, story.now), Err(Rejection::Unknown { .. })));
}

#[test]
fn a_vm_is_to_be_tested_every_180_days() {
    let day = Duration::from_hours(24);
    assert_eq!(
        Story::in_initial_replication().vm.test_status(BEGINNING),
        TestStatus::NotApplicable
    );
    let mut story = Story::protected();
    assert_eq!(story.vm.test_status(story.now), TestStatus::TestRecommended, "it never was");
    story = tested(story);
    assert_eq!(
        story.vm.test_status(story.now),
        TestStatus::TestRecommended,
        "it does not count yet"
    );
    story.tell(clean_up());
    while story.test_work().is_some() {
        story.succeed_in_test();
    }
    for (age, status) in [
        (0, TestStatus::PerformedSuccessfully),
        (180, TestStatus::PerformedSuccessfully),
        (181, TestStatus::TestRecommended),
    ] {
        assert_eq!(story.vm.test_status(story.now.after(day * age)), status, "{age} days");
    }
    let mut failed = story.clone();
    failed.tell(test_failover());
    failed.tell(clean_up());
    while failed.test_work().is_some() {
        failed.succeed_in_test();
    }
    assert_eq!(failed.vm.test_status(failed.now), TestStatus::TestRecommended, "it did not start");
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    assert_eq!(story.vm.test_status(story.now), TestStatus::NotApplicable);
}
