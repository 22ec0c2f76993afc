//! Health: a level, and for each cause what comes next.

use super::story::{
    Story, commit, credentials_refused, enable, link_down, planned, second, unplanned,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::job::Step;
use lifeboat::domain::policy::Policy;
use lifeboat::domain::vm::{Command, Health, Outcome, PointChoice, RecoveryPoint, Work};
use std::time::Duration;

#[track_caller]
fn check(story: &Story, level: Health, because: &str, next: &str) {
    assert_eq!(story.vm.health(story.now), level, "{:?}", story.vm.health_causes(story.now));
    let causes = story.vm.health_causes(story.now);
    let Some(worst) = causes.first() else {
        assert_eq!((because, next), ("", ""), "no cause holds");
        return;
    };
    assert!(worst.because.contains(because), "{}", worst.because);
    assert!(worst.next.contains(next), "{}", worst.next);
    assert!(!because.is_empty() && !next.is_empty() && worst.since.is_some());
}

#[test]
fn every_phase_has_its_level_and_its_next_step() {
    let copying = "first recovery point is not complete";
    check(&Story::new(), Health::NotApplicable, "", "");
    check(&Story::discovered(1), Health::NotApplicable, "", "");
    let mut story = Story::discovered(1);
    story.tell(enable());
    check(&story, Health::Warning, copying, "initial replication has ended");
    story.until_step(|step| matches!(step, Step::CopyDisk(_)));
    check(&story, Health::Warning, copying, "initial replication has ended");
    story.until_step(|step| step == Step::VerifyReplica);
    check(&story, Health::Warning, "not complete", "initial replication has ended");
    story.work_off();
    check(&story, Health::Normal, "", "");

    check(&Story::resynchronizing(), Health::Critical, "lost power", "being resynchronized");
    for failover in [planned(), unplanned(PointChoice::Latest)] {
        let mut story = Story::protected();
        story.tell(failover);
        check(&story, Health::Warning, "is being failed over", "when the job has ended");
        story.work_off();
        check(&story, Health::Warning, "runs at the recovery site", "commit the failover");
        story.tell(commit());
        story.work_off();
        check(&story, Health::NotApplicable, "", "");
    }
}

#[test]
fn trouble_says_which_attempt_is_next_and_when() {
    let mut story = Story::shipping();
    story.fail(link_down());
    let due = story.alarm().expect("a retry is due").0.to_string();
    check(&story, Health::Critical, "SR-2101", &format!("attempt 2 at {due}"));
    story.wake();
    check(&story, Health::Critical, "SR-2101", "attempt 2 is running");
    story.fail(credentials_refused());
    check(&story, Health::Critical, "SR-1011", "then retry the VM");

    let mut slow = Story::shipping();
    slow.fail(Failure::new(Code::VaultBusy, Cause::Itself, "503"));
    check(&slow, Health::Warning, "SR-2102", "attempt 2 at");
}

#[test]
fn a_late_recovery_point_warns_after_two_intervals_and_is_critical_after_three() {
    let mut story = Story::protected();
    let newest = story.vm.latest_point().expect("it is protected").at;
    let at = |seconds| newest.after(Duration::from_secs(seconds));
    for (age, level) in [
        (0, Health::Normal),
        (600, Health::Normal),
        (601, Health::Warning),
        (899, Health::Warning),
        (900, Health::Critical),
    ] {
        story.now = at(age);
        assert_eq!(story.vm.health(story.now), level, "{age} s");
        assert_eq!(story.vm.rpo(story.now), Some(Duration::from_secs(age)));
    }
    check(&story, Health::Critical, "900 s old", "next delta");

    let policy = Policy { copy_frequency_s: 1, ..Policy::default() };
    story.tell(Command::ChangePolicy { policy });
    assert_eq!(story.vm.health(at(29)), Health::Normal, "one slow delta is no incident");
    assert_eq!(story.vm.health(at(30)), Health::Critical);
}

#[test]
fn the_recovery_point_objective_is_told_only_where_it_means_something() {
    assert_eq!(Story::in_initial_replication().vm.rpo(second(0)), None);
    let mut story = Story::protected();
    assert!(story.vm.rpo(story.now).is_some());
    let resync = Story::resynchronizing();
    assert!(resync.vm.rpo(resync.now).is_some());
    assert_eq!(story.vm.rpo(second(-86_400)), Some(Duration::ZERO), "a clock that was set back");
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    assert_eq!(story.vm.rpo(story.now), None);
}

/// A host whose clock is ahead used to hide the age of its recovery points.
#[test]
fn a_recovery_point_is_never_younger_than_its_report() {
    let hour = Duration::from_secs(3600);
    let mut story = Story::protected();
    story.wake();
    let cut_at = story.now;
    story.tell(Command::ReportSnapshot { cycle: 2, at: cut_at.after(hour), log_bytes: 1 });
    story.succeed();
    assert_eq!(story.vm.latest_point().map(|point| point.at), Some(cut_at));

    story.tell(unplanned(PointChoice::Latest));
    story.succeed();
    let Some(Work::Task { job, task, .. }) = story.vm.work() else { unreachable!() };
    let found = vec![RecoveryPoint { cycle: 3, at: story.now.after(hour), bytes: 1 }];
    story.tell(Command::ReportDone { job, task, outcome: Outcome::Fenced { found } });
    assert_eq!(story.vm.latest_point().map(|point| point.at), Some(story.now));
}

#[test]
fn all_causes_are_told_the_worst_first() {
    let mut story = Story::resynchronizing();
    story.fail(Failure::new(Code::VaultBusy, Cause::Itself, "503"));
    let levels: Vec<_> =
        story.vm.health_causes(story.now).iter().map(|cause| cause.level).collect();
    assert_eq!(levels, [Health::Critical, Health::Warning]);
}
