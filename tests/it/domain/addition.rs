//! A disk that is added while its VM is protected.

use super::story::{
    Story, add_disk, cancel_failover, change_point, check_failed, commit, complete_failback,
    described, disable, disk_id, enable, failback, host, job_id, reverse, test_failover, unplanned,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::Rejection;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::job::{JobKind, Step};
use lifeboat::domain::vm::{Command, Disk, Health, Phase, PointChoice, Stage, Work};

const MIB: u64 = 1 << 20;

/// A protected VM with four points of one disk, and one of two.
fn added() -> Story {
    let mut story = Story::protected_with_points(3);
    story.tell(add_disk());
    story.work_off();
    story
}

/// How many disks each point has, the oldest first.
fn disks_of_points(story: &Story) -> Vec<usize> {
    let points = story.vm.points.iter();
    points.map(|point| story.vm.disks_in_point(point.cycle).count()).collect()
}

fn names(story: &Story) -> Vec<&str> {
    story.vm.disks.iter().map(|disk| disk.name.as_str()).collect()
}

#[test]
fn a_disk_is_added_while_the_vm_stays_protected_and_earlier_points_are_without_it() {
    let mut story = Story::protected_with_points(3);
    story.tell(add_disk());
    let disk = disk_id(7);
    let mut steps = vec![];
    while let Some(Work::Task { step, .. }) = story.vm.work() {
        steps.push(step);
        assert_eq!(story.vm.phase, Phase::Protected);
        assert_eq!(story.vm.health(story.now), Health::Normal);
        // It is the VM's once what was written before is in a point, and all of it is seeded.
        let is_there = steps.contains(&Step::OfferAddedDisk(disk));
        assert_eq!(names(&story).contains(&"data"), is_there);
        assert_eq!(story.vm.disk_to_add().is_some(), !is_there);
        assert_eq!(story.vm.added_range(disk), is_there.then_some(0..MIB));
        story.succeed();
    }
    let expected = [
        Step::CheckAddDisk,
        Step::SendBeforeResize,
        Step::OfferAddedDisk(disk),
        Step::CompareDisk(disk),
        Step::ApplyTrackedChanges,
        Step::VerifyReplica,
    ];
    assert_eq!(steps, expected);
    assert_eq!(disks_of_points(&story), [1, 1, 1, 1, 2]);
    assert_eq!((story.vm.resize, story.vm.resync.compared_bytes), (None, 0));
    let image = story.vm.added_disk(disk).map(|added| added.image.as_str());
    assert_eq!(image, Some("/disks/data.img"));

    story.wake();
    story.work_off();
    assert_eq!(disks_of_points(&story).last(), Some(&2));
}

#[test]
fn what_is_refused_is_named_and_what_is_so_already_changes_nothing() {
    let mut story = added();
    assert_eq!(story.tell(add_disk()), [], "it has the disk");
    let ask = |n, name: &str, size_bytes| Command::AddDisk {
        job: job_id(15),
        disk: Disk { id: disk_id(n), name: name.to_owned(), size_bytes },
        image: "/disks/other.img".to_owned(),
    };
    for (command, says) in [
        (ask(7, "data", MIB), "already with another image"),
        (ask(8, "disk0", MIB), "already with another image"),
        (ask(8, "../disk", MIB), "letters, digits and hyphens"),
        (ask(8, "", MIB), "letters, digits and hyphens"),
        (ask(8, "more", MIB + 1), "a multiple of 512"),
        (ask(8, "more", 0), "not 0"),
    ] {
        let refused = story.try_tell(command.clone()).unwrap_err().to_string();
        assert!(refused.contains(says), "{command:?}: {refused}");
    }
}

#[test]
fn a_vm_that_could_not_be_protected_with_the_disk_does_not_get_it() {
    let mut story = Story::protected();
    story.tell(described());
    let disk = Disk { id: disk_id(7), name: "data".to_owned(), size_bytes: 5000 << 30 };
    let image = "/disks/data.img".to_owned();
    let refused = story.try_tell(Command::AddDisk { job: job_id(15), disk, image }).unwrap_err();
    let Rejection::Prerequisites { failed, .. } = &refused else { panic!("{refused}") };
    assert!(failed.iter().any(|check| check.contains("4,095 GB")), "{failed:?}");
    story.tell(add_disk());
}

#[test]
fn an_addition_is_given_up_only_until_the_disk_is_there() {
    let mut story = Story::shipping();
    let before = story.vm.clone();
    story.tell(add_disk());
    story.tell(Command::CancelJob { job: job_id(15) });
    assert_eq!((&story.vm.disks, &story.vm.added), (&before.disks, &before.added));
    assert_eq!((story.vm.resize, story.vm.work()), (None, before.work()), "the delta goes on");

    story.tell(add_disk());
    story.until_step(|step| matches!(step, Step::OfferAddedDisk(_)));
    let refused = story.try_tell(Command::CancelJob { job: job_id(15) });
    assert!(matches!(refused, Err(Rejection::NotAllowed { .. })), "{refused:?}");
    story.work_off();
    assert_eq!(names(&story), ["disk0", "data"]);
}

#[test]
fn a_check_that_fails_leaves_everything_as_it_was() {
    let mut story = Story::protected();
    story.tell(add_disk());
    story.fail(check_failed());
    assert_eq!((&story.vm.phase, names(&story)), (&Phase::Protected, vec!["disk0"]));
    assert_eq!((story.vm.resize, story.vm.added.len()), (None, 0));
    assert!(matches!(story.vm.delta.stage, Stage::Waiting { .. }));
}

#[test]
fn work_that_fails_is_tried_again_until_the_disk_is_seeded() {
    let mut story = Story::protected();
    story.tell(add_disk());
    while story.vm.resize.is_some() {
        story.fail(Failure::new(Code::LogVolumeFull, Cause::Host(host()), ""));
        assert!(story.vm.allowed_operations().contains(&"UnplannedFailover"));
        let (due, ring) = story.alarm().expect("it is tried again");
        story.now = due;
        story.tell(ring);
        story.succeed();
    }
    assert_eq!(disks_of_points(&story).last(), Some(&2));
}

#[test]
fn a_failover_to_a_point_from_before_leaves_the_vm_without_the_disk_once_it_is_committed() {
    let mut story = added();
    let first = story.vm.points[0].cycle;
    story.tell(unplanned(PointChoice::Cycle(first)));
    story.work_off();
    assert_eq!(names(&story), ["disk0", "data"], "it may still be cancelled");
    story.tell(commit());
    story.work_off();
    assert_eq!(names(&story), ["disk0"]);
    assert_eq!((&story.vm.former_sizes, &story.vm.added), (&vec![], &vec![]));
    for command in [failback(), complete_failback(), commit(), reverse()] {
        story.tell(command);
        story.work_off();
    }
    assert_eq!(story.vm.phase, Phase::Protected);
    // It can be added once more.
    story.tell(add_disk());
    story.work_off();
    assert_eq!(names(&story), ["disk0", "data"]);
}

#[test]
fn a_failover_that_is_cancelled_and_one_to_the_latest_point_keep_the_disk() {
    let mut story = added();
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    let first = story.vm.points[0].cycle;
    story.tell(change_point(PointChoice::Cycle(first)));
    story.work_off();
    story.tell(cancel_failover());
    story.work_off();
    assert_eq!((&story.vm.phase, names(&story)), (&Phase::Protected, vec!["disk0", "data"]));
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    story.tell(commit());
    story.work_off();
    assert_eq!(names(&story), ["disk0", "data"]);
    for command in [failback(), complete_failback(), commit(), reverse()] {
        story.tell(command);
        story.work_off();
    }
    assert_eq!(disks_of_points(&story).last(), Some(&2));
}

#[test]
fn a_failover_in_the_middle_goes_on_and_if_it_is_cancelled_the_disk_is_compared() {
    let mut story = Story::protected_with_points(3);
    story.tell(add_disk());
    let mut met = 0;
    loop {
        let mut over = story.clone();
        over.tell(unplanned(PointChoice::Latest));
        over.work_off();
        assert!(matches!(over.vm.phase, Phase::CommitPending(_)));
        let mut back = over.clone();
        over.tell(commit());
        over.work_off();
        let point = over.vm.points[0].cycle;
        assert_eq!(over.vm.disks_in_point(point).count(), over.vm.disks.len());
        assert_eq!(over.vm.added.len() + 1, over.vm.disks.len());

        let there = back.vm.disks.len() == 2;
        back.tell(cancel_failover());
        while back.vm.job.as_ref().is_some_and(|job| job.kind == JobKind::CancelFailover) {
            back.succeed();
        }
        let kind = back.vm.job.as_ref().map(|job| job.kind);
        let expected =
            if there { JobKind::ResynchronizeDifferences } else { JobKind::ResumeReplication };
        assert_eq!(kind, Some(expected), "{:?}", story.vm.work());
        back.work_off();
        assert_eq!((&back.vm.phase, back.vm.resize), (&Phase::Protected, None));
        assert_eq!(disks_of_points(&back).last(), Some(if there { &2 } else { &1 }));
        met += 1;
        story.succeed();
        if story.vm.resize.is_none() {
            break;
        }
    }
    assert_eq!(met, 6);
}

#[test]
fn tracking_that_is_lost_in_the_middle_is_made_good_with_the_disks_that_the_vm_has() {
    let mut story = Story::protected_with_points(2);
    story.tell(add_disk());
    for _ in 0..6 {
        let mut lost = story.clone();
        lost.tell(lost.tracking_lost());
        let there = lost.vm.disks.len() == 2;
        lost.work_off();
        assert_eq!((&lost.vm.phase, lost.vm.resize), (&Phase::Protected, None));
        assert_eq!(disks_of_points(&lost).last(), Some(if there { &2 } else { &1 }));
        assert_eq!(lost.vm.added.len(), usize::from(there));
        story.succeed();
    }
}

#[test]
fn a_test_of_an_earlier_point_can_run_while_a_disk_is_added() {
    let mut story = Story::protected_with_points(2);
    story.tell(add_disk());
    story.until_step(|step| matches!(step, Step::CompareDisk(_)));
    story.tell(test_failover());
    while story.test_work().is_some() {
        story.succeed_in_test();
    }
    story.work_off();
    let test = story.vm.test.as_ref().expect("it is not cleaned up");
    assert_eq!(story.vm.disks_in_point(test.point.cycle).count(), 1);
    assert_eq!(names(&story), ["disk0", "data"]);
}

#[test]
fn a_vm_whose_protection_ended_keeps_its_disks_and_is_found_with_them() {
    let mut story = added();
    story.tell(disable());
    story.work_off();
    assert_eq!((names(&story), story.vm.added.len()), (vec!["disk0", "data"], 1));
    let Disk { id, name, .. } = story.vm.disks[1].clone();
    let found = vec![story.vm.disks[0].clone(), Disk { id, name, size_bytes: 2 * MIB }];
    let (vm, name, host, cloud) =
        (story.vm.id, story.vm.name.clone(), story.vm.host, story.vm.cloud);
    story.tell(Command::Discover { id: vm, name, host, cloud, disks: found });
    assert_eq!(story.vm.disks[1].size_bytes, 2 * MIB);
    story.tell(enable());
    story.work_off();
    assert_eq!(disks_of_points(&story).last(), Some(&2));
}
