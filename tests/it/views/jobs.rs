//! The history of jobs.

use super::{history, jobs_of, json, last_job, log_of};
use crate::domain::story::{
    Story, check_failed, commit, credentials_refused, link_down, planned, unplanned,
};
use lifeboat::domain::id::JobId;
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::Command;
use lifeboat::domain::vm::PointChoice;
use lifeboat::views::{Again, JobView, Jobs};

fn states(history: &[(String, String)]) -> Vec<(&str, &str)> {
    history.iter().map(|(name, state)| (name.as_str(), state.as_str())).collect()
}

#[test]
fn every_job_of_a_life_is_told_in_order_with_who_asked_and_how_it_ended() {
    let mut story = Story::protected();
    story.tell(planned());
    story.work_off();
    story.tell(commit());
    story.work_off();
    let wanted = [
        ("EnableDr", "Succeeded"),
        ("InitialReplication", "Succeeded"),
        ("EnableProtection", "Succeeded"),
        ("PlannedFailover", "Succeeded"),
        ("CommitFailover", "Succeeded"),
    ];
    assert_eq!(states(&history(&story, 100)), wanted);
    assert_eq!(states(&history(&story, 2)), wanted[3..], "only the last two are kept");

    let jobs = jobs_of(&story, 100);
    let job = jobs.job(last_job(&story), story.now).unwrap();
    assert_eq!(job.asked_by.as_deref(), Some("operator"));
    assert_eq!(job.target_name, "sql-01");
    assert!(job.ended() && job.tasks.iter().all(|task| task.state == "Succeeded"));
    let copy = jobs.list(story.now).find(|job| job.scenario_name == "InitialReplication").unwrap();
    let task = &copy.tasks[0];
    assert_eq!((task.name.as_str(), task.disk.as_deref()), ("VmCopyDisk", Some("disk0")));
    assert_eq!((task.done_bytes, task.total_bytes), (Some(1 << 30), Some(1 << 30)));
}

#[test]
fn a_job_says_for_whom_it_waits_and_what_went_wrong() {
    let mut story = Story::protected();
    story.tell(planned());
    story.until_step(|step| step == Step::PrepareForFailover);
    let look = |story: &Story| {
        let job = jobs_of(story, 100).job(last_job(story), story.now).unwrap();
        let codes: Vec<_> = job.errors.iter().map(|error| error.code.clone()).collect();
        (job.state, job.waiting_for.unwrap_or_default(), codes.join(" "))
    };
    assert_eq!(look(&story), ("InProgress".to_owned(), String::new(), String::new()));
    story.fail(link_down());
    let (state, waits, codes) = look(&story);
    assert_eq!((state.as_str(), codes.as_str()), ("InProgress", "SR-2101"));
    assert!(waits.starts_with("attempt 2 at 20"), "{waits}");
    story.wake();
    assert_eq!(look(&story).1, "", "it is being tried");
    story.fail(credentials_refused());
    let (state, waits, codes) = look(&story);
    assert_eq!((state.as_str(), codes.as_str()), ("Waiting", "SR-2101 SR-1011"));
    assert!(waits.starts_with("an administrator: SR-1011"), "{waits}");
}

#[test]
fn a_failed_check_and_a_job_whose_place_was_taken_are_told() {
    let mut story = Story::protected();
    story.tell(planned());
    story.fail(check_failed());
    story.tell(planned());
    story.until_step(|step| step == Step::PrepareForFailover);
    story.tell(unplanned(PointChoice::Latest));
    let history = history(&story, 100);
    let wanted = [
        // Asked for twice under one id: one record.
        ("PlannedFailover", "Cancelled"),
        ("UnplannedFailover", "InProgress"),
    ];
    assert_eq!(states(&history)[3..], wanted);
    let failed = jobs_of(&story, 100).list(story.now).find(|job| job.state == "Cancelled").unwrap();
    assert_eq!(failed.errors[0].code, "SR-3003");
}

#[test]
fn what_was_asked_for_under_an_id_is_found_again_and_the_oldest_is_forgotten() {
    let story = Story::protected_with_points(3);
    let mut jobs = Jobs::new(2);
    let ids: Vec<_> = (0..4).map(crate::domain::story::job_id).collect();
    for (commit, nth) in log_of(&story, "operator").iter_mut().take(8).zip(0..) {
        commit.correlation = Some(ids[nth / 2]);
        jobs.apply(commit);
    }
    assert_eq!(jobs.global(), 8);
    assert!(jobs.answered(ids[0]).is_none() && jobs.answered(ids[1]).is_none());
    assert_eq!(jobs.answered(ids[3]).unwrap().commit, 7, "the first of its commits");
}

#[test]
fn a_view_of_a_job_is_read_back_as_it_was_written() {
    let mut story = Story::protected();
    story.tell(planned());
    story.until_step(|step| step == Step::PrepareForFailover);
    story.fail(link_down());
    let job = jobs_of(&story, 10).job(last_job(&story), story.now).unwrap();
    let read: JobView = serde_json::from_value(json(&job)).unwrap();
    assert_eq!(read, job);
}

#[test]
fn a_job_that_was_given_up_can_be_begun_again_once_the_state_allows_it() {
    let mut story = Story::protected();
    story.tell(planned());
    let failover = last_job(&story);
    story.tell(Command::CancelJob { job: failover });
    let told = |story: &Story| jobs_of(story, 100).job(failover, story.now).unwrap();
    assert_eq!(told(&story).state, "Cancelled");
    assert_eq!(told(&story).allowed_actions, [""; 0], "the failover is being undone");
    story.work_off();
    assert_eq!(told(&story).allowed_actions, ["Restart"]);
    let again = jobs_of(&story, 100).again(failover, JobId::default());
    let command = Command::PlannedFailover { job: JobId::default() };
    assert_eq!(again, Some(Again::Vm(story.vm.id, command)));
}

#[test]
fn a_job_that_waits_for_an_administrator_can_be_resumed() {
    let mut story = Story::protected();
    story.tell(planned());
    story.until_step(|step| step == Step::PrepareForFailover);
    story.fail(credentials_refused());
    let job = jobs_of(&story, 100).job(last_job(&story), story.now).unwrap();
    assert_eq!(
        (job.state.as_str(), job.allowed_actions.contains(&"Resume".to_owned())),
        ("Waiting", true)
    );
    assert_eq!(jobs_of(&story, 100).again(job.id, JobId::default()), None, "it has not ended");
}
