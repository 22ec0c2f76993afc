//! An initial replication that begins at a set time.

use super::story::{Story, check_failed, disable, enable, enable_at, second};
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::{Command, Effect, Health, Phase, Wake};

const HOUR: i64 = 3_600;

/// Its checks are passed, and it waits.
fn scheduled() -> Story {
    let mut story = Story::discovered(1);
    story.tell(enable_at(second(2 * HOUR)));
    story.until_step(|step| step == Step::IdentifyTarget);
    story.succeed();
    story
}

#[test]
fn a_vm_is_checked_at_once_and_tracked_and_copied_from_its_time_on() {
    let mut story = scheduled();
    let due = second(2 * HOUR);
    let vm = &story.vm;
    assert_eq!((vm.phase.clone(), vm.work(), vm.is_tracked()), (Phase::Enabling, None, false));
    let wake = Wake::InitialReplication;
    assert_eq!(vm.pending(), [Effect::WakeAt { due, wake }]);
    let cause = vm.health_causes(story.now).remove(0);
    assert_eq!(cause.level, Health::Warning);
    assert!(cause.next.contains(&due.to_string()), "{}", cause.next);
    // A wake of another moment is none.
    assert!(story.tell(Command::Wake { due: second(HOUR), wake }).is_empty());

    story.now = due;
    story.tell(Command::Wake { due, wake });
    story.until_step(|step| step == Step::EnableReplication);
    story.work_off();
    assert_eq!((&story.vm.phase, story.vm.copy_due), (&Phase::Protected, None));
}

#[test]
fn a_moment_that_has_passed_is_at_once_and_one_in_two_days_is_refused() {
    let mut story = Story::discovered(1);
    story.now = second(HOUR);
    story.tell(enable_at(second(0)));
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);

    let mut story = Story::discovered(1);
    let refused = story.try_tell(enable_at(second(48 * HOUR)));
    assert!(matches!(refused, Err(Rejection::OutOfRange { .. })), "{refused:?}");
    assert_eq!(story.vm.phase, Phase::Unprotected);
}

#[test]
fn a_vm_that_waits_can_be_left_unprotected() {
    let mut story = scheduled();
    story.tell(disable());
    story.work_off();
    assert_eq!((&story.vm.phase, story.vm.copy_due), (&Phase::Unprotected, None));
}

#[test]
fn a_moment_does_not_outlive_the_protection_that_it_was_for() {
    let mut story = Story::discovered(1);
    story.tell(enable_at(second(2 * HOUR)));
    story.fail(check_failed());
    assert_eq!(story.vm.phase, Phase::Unprotected);
    story.tell(enable());
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);
}
