//! Whole lives, told as given / when / then / do: which task follows, which facts, which work.

use super::story::{Story, commit, enable, planned, unplanned};
use lifeboat::domain::vm::PointChoice;

#[track_caller]
fn check(story: &Story, expected: &str) {
    let expected: Vec<_> = expected.trim_matches('\n').lines().map(str::trim_end).collect();
    let told: Vec<_> = story.transcript.lines().collect();
    if expected != told {
        panic!("the story went another way:\n{}", story.transcript);
    }
}

#[test]
fn x() {
    let mut story = Story::discovered(2);
    story.transcript_from_here();
    story.tell(enable());
    story.work_off();
    story.wake();
    story.work_off();
    check(&story, "");
}
#[test]
fn y() {
    let mut story = Story::shipping();
    story.transcript_from_here();
    story.tell(planned());
    story.work_off();
    story.tell(commit());
    story.work_off();
    check(&story, "");
}
#[test]
fn z() {
    let mut story = Story::protected_with_points(3);
    story.transcript_from_here();
    story.tell(unplanned(PointChoice::Cycle(2)));
    story.work_off();
    story.tell(commit());
    story.work_off();
    check(&story, "");
}
#[test]
fn w() {
    let mut story = Story::shipping();
    story.transcript_from_here();
    story.tell(story.tracking_lost());
    story.work_off();
    check(&story, "");
}
