//! The end of protection of a VM that runs at the recovery site.

use super::story::{
    Story, check_failed, commit, credentials_refused, disable, job_id, link_down, remove, unplanned,
};
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::job::{JobOutcome, Step};
use lifeboat::domain::vm::{Command, Effect, Event, Health, Phase, PointChoice, Statistics, Vm};

/// The steps of the running job, or of the last one.
fn steps(story: &Story) -> Vec<Step> {
    let tasks = story.vm.job.iter().flat_map(|job| &job.tasks);
    tasks.map(|task| task.step).collect()
}

fn ending() -> Story {
    let mut story = Story::failed_over();
    story.tell(disable());
    story
}

/// What the VM is, but for its jobs.
fn but_for_jobs(vm: &Vm) -> Vm {
    let mut vm = vm.clone();
    (vm.job, vm.unsuccessful, vm.jobs) = (None, None, 0);
    vm.statistics = Statistics::default();
    vm
}

#[test]
fn a_vm_stays_at_the_recovery_site_on_disks_of_its_own_and_starts_nowhere_else() {
    let mut story = ending();
    let failover = story.vm.failover;
    let disks: Vec<Step> = story.vm.disks.iter().map(|disk| Step::DownloadDisk(disk.id)).collect();
    let expected =
        [&[Step::CheckDisable], &disks[..], &[Step::LeaveVault, Step::DeleteReplica]].concat();
    assert_eq!(steps(&story), expected);

    while story.vm.work().is_some() {
        assert!(story.vm.pending().contains(&Effect::RunReplica), "it runs on meanwhile");
        assert!(!story.vm.may_run_at_primary());
        story.succeed();
    }
    let vm = &story.vm;
    assert_eq!((&vm.phase, vm.points.len()), (&Phase::UnprotectedAtRecovery, 0));
    assert_eq!((vm.failover, vm.health(story.now)), (failover, Health::NotApplicable));
    assert_eq!(vm.pending(), [Effect::RunReplica], "it is kept running, and off elsewhere");
    assert!(!vm.may_run_at_primary() && !vm.is_tracked());
    assert_eq!(vm.rpo(story.now), None);
}

#[test]
fn until_its_disks_are_whole_a_vm_is_as_failed_over_as_before() {
    let before = Story::failed_over();
    for done in 0.. {
        let mut story = ending();
        (0..done).for_each(|_| _ = story.succeed());
        let job = story.vm.job.as_ref().expect("it began").id;
        if story.vm.has_left_vault() {
            let refused = story.vm.decide(&Command::CancelJob { job }, story.now);
            assert!(matches!(refused, Err(Rejection::NotAllowed { .. })), "{refused:?}");
            break;
        }
        story.tell(Command::CancelJob { job });
        assert_eq!(but_for_jobs(&story.vm), but_for_jobs(&before.vm), "cancelled after {done}");
        assert_eq!(story.vm.allowed_operations(), before.vm.allowed_operations());
    }
}

#[test]
fn a_check_that_fails_changes_nothing_and_work_that_fails_waits_or_asks_for_somebody() {
    let before = Story::failed_over();
    let mut story = ending();
    story.fail(check_failed());
    assert_eq!(but_for_jobs(&story.vm), but_for_jobs(&before.vm));
    let outcome = story.vm.job.as_ref().and_then(|job| job.ended).map(|(_, outcome)| outcome);
    assert_eq!(outcome, Some(JobOutcome::Failed));

    let mut story = ending();
    story.succeed();
    story.fail(link_down());
    assert_eq!(story.vm.health(story.now), Health::Critical);
    story.wake();
    story.fail(credentials_refused());
    assert_eq!(story.vm.health(story.now), Health::Critical);
    let job = story.vm.job.as_ref().expect("it began").id;
    story.tell(Command::CancelJob { job });
    assert_eq!(but_for_jobs(&story.vm), but_for_jobs(&before.vm));
}

#[test]
fn a_vm_that_stayed_at_the_recovery_site_is_not_protected_again() {
    let mut story = ending();
    story.work_off();
    for command in [super::story::enable(), disable(), super::story::failback()] {
        match story.vm.decide(&command, story.now) {
            Err(refused @ Rejection::NotAllowed { .. }) => {
                let said = refused.to_string();
                assert!(said.contains("not protected, at the recovery site"), "{said}");
            }
            other => panic!("{command:?}: {other:?}"),
        }
    }
}

#[test]
fn a_failover_is_committed_before_protection_is_ended() {
    let mut story = Story::protected_with_points(3);
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    let refused = story.vm.decide(&disable(), story.now).expect_err("it is not committed");
    assert!(refused.to_string().contains("allowed: Commit, "), "{refused}");
    story.tell(commit());
    story.work_off();
    let job = job_id(13);
    assert!(story.tell(disable()).contains(&Event::TaskStarted { job, task: 0 }));
}

/// The host does not come back, and whoever waits for it need not.
#[test]
fn an_end_of_protection_that_waits_for_its_host_is_made_one_without() {
    let mut story = Story::protected();
    story.tell(disable());
    story.fail(link_down());
    assert_eq!(story.vm.allowed_operations(), ["DisableProtection"]);
    assert!(story.tell(disable()).is_empty(), "it is under way");
    story.tell(remove());
    assert_eq!(steps(&story), [Step::DeleteReplica]);
    assert!(story.vm.trouble.is_none(), "nothing is asked of the host");
    assert!(story.vm.allowed_operations().is_empty());
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Unprotected);
}
