//! A disk that grows while its VM is protected.

use super::story::{
    Story, cancel_failover, change_point, check_failed, commit, described, disable, discover,
    disk_id, enable, failback, host, job_id, link_down, resize, unplanned,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::Rejection;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::job::{JobKind, Step};
use lifeboat::domain::vm::{Command, Event, Health, Outcome, Phase, PointChoice, Stage, Work};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A protected VM with three points, whose disk has grown by a MiB.
fn grown() -> Story {
    let mut story = Story::protected_with_points(3);
    story.tell(resize(MIB));
    story.work_off();
    story
}

/// The sizes of the disk in the points, the oldest first.
fn sizes(story: &Story) -> Vec<u64> {
    let disk = &story.vm.disks[0];
    story.vm.points.iter().map(|point| story.vm.size_in_point(disk, point.cycle)).collect()
}

#[test]
fn a_disk_grows_while_the_vm_stays_protected_and_earlier_points_keep_its_size() {
    let mut story = Story::protected_with_points(3);
    story.tell(resize(MIB));
    let mut steps = vec![];
    while let Some(Work::Task { step, .. }) = story.vm.work() {
        steps.push(step);
        assert_eq!(story.vm.phase, Phase::Protected);
        assert_eq!(story.vm.health(story.now), Health::Normal);
        // What was added is compared, and nothing else, once it is there.
        let added = story.vm.added_range(disk_id(0));
        let is_there = steps.iter().any(|step| matches!(step, Step::OfferGrownDisk(_)));
        assert_eq!(added, is_there.then_some(GIB..GIB + MIB));
        story.succeed();
    }
    let disk = disk_id(0);
    let expected = [
        Step::CheckResize,
        // What was written until then is in a point of the earlier size.
        Step::SendBeforeResize,
        Step::GrowDisk(disk),
        Step::OfferGrownDisk(disk),
        Step::CompareDisk(disk),
        Step::ApplyTrackedChanges,
        Step::VerifyReplica,
    ];
    assert_eq!(steps, expected);
    assert_eq!(sizes(&story), [GIB, GIB, GIB, GIB, GIB + MIB]);
    assert_eq!((story.vm.resize, story.vm.resync.compared_bytes), (None, 0));

    story.wake();
    story.work_off();
    assert_eq!(sizes(&story).last(), Some(&(GIB + MIB)));
}

#[test]
fn only_the_disk_that_grows_is_compared() {
    let mut story = Story::discovered(2);
    story.tell(enable());
    story.work_off();
    story.tell(Command::ResizeDisk { job: job_id(14), disk: disk_id(1), size_bytes: 2 * GIB });
    let tasks = &story.vm.job.as_ref().unwrap().tasks;
    let compared: Vec<_> =
        tasks.iter().filter(|task| matches!(task.step, Step::CompareDisk(_))).collect();
    assert_eq!(compared.len(), 1);
    assert_eq!(compared[0].step, Step::CompareDisk(disk_id(1)));
    story.work_off();
    assert_eq!([story.vm.disks[0].size_bytes, story.vm.disks[1].size_bytes], [GIB, 2 * GIB]);
}

#[test]
fn a_disk_cannot_shrink_and_what_is_refused_is_named() {
    let mut story = Story::protected();
    let ask = |disk, size_bytes| Command::ResizeDisk { job: job_id(14), disk, size_bytes };
    let refused = story.try_tell(ask(disk_id(0), GIB - 512)).unwrap_err().to_string();
    assert!(refused.contains("cannot shrink") && refused.contains("disk0"), "{refused}");
    let refused = story.try_tell(ask(disk_id(0), GIB + 1)).unwrap_err().to_string();
    assert!(refused.contains("a multiple of 512"), "{refused}");
    let refused = story.try_tell(ask(disk_id(9), 2 * GIB)).unwrap_err();
    assert!(matches!(refused, Rejection::Unknown { what: "disk", .. }), "{refused}");
    assert_eq!(story.tell(ask(disk_id(0), GIB)), [], "it has that size");
}

#[test]
fn a_disk_that_would_be_too_large_to_be_protected_does_not_grow() {
    let mut story = Story::protected();
    story.tell(described());
    let refused = story.try_tell(resize(3000 * GIB)).unwrap_err();
    let Rejection::Prerequisites { failed, .. } = &refused else { panic!("{refused}") };
    assert!(failed.iter().any(|check| check.contains("2,048 GB")), "{failed:?}");
    story.tell(resize(MIB));
}

#[test]
fn a_resize_is_given_up_only_until_the_disk_has_grown() {
    let mut story = Story::shipping();
    let before = story.vm.clone();
    story.tell(resize(MIB));
    story.tell(Command::CancelJob { job: job_id(14) });
    assert_eq!((&story.vm.disks, story.vm.resize), (&before.disks, None));
    assert_eq!(story.vm.work(), before.work(), "the delta goes on");

    story.tell(resize(MIB));
    story.until_step(|step| matches!(step, Step::OfferGrownDisk(_)));
    let refused = story.try_tell(Command::CancelJob { job: job_id(14) });
    assert!(matches!(refused, Err(Rejection::NotAllowed { .. })), "{refused:?}");
    story.work_off();
    assert_eq!(sizes(&story).last(), Some(&(GIB + MIB)));
}

#[test]
fn a_check_that_fails_leaves_everything_as_it_was() {
    let mut story = Story::protected();
    let before = story.vm.disks.clone();
    story.tell(resize(MIB));
    story.fail(check_failed());
    assert_eq!((&story.vm.phase, &story.vm.disks), (&Phase::Protected, &before));
    assert_eq!(story.vm.resize, None);
    assert!(matches!(story.vm.delta.stage, Stage::Waiting { .. }));
}

#[test]
fn work_that_fails_is_tried_again_until_the_disk_has_grown() {
    let mut story = Story::protected();
    story.tell(resize(MIB));
    while story.vm.resize.is_some() {
        let failure = Failure::new(Code::HostLost, Cause::Host(host()), "");
        story.fail(failure);
        assert!(story.vm.allowed_operations().contains(&"UnplannedFailover"));
        let (due, ring) = story.alarm().expect("it is tried again");
        story.now = due;
        story.tell(ring);
        story.succeed();
    }
    assert_eq!(sizes(&story).last(), Some(&(GIB + MIB)));
}

#[test]
fn a_failover_to_a_point_from_before_has_the_size_of_that_point() {
    let mut story = grown();
    let first = story.vm.points[0].cycle;
    story.tell(unplanned(PointChoice::Cycle(first)));
    story.work_off();
    assert_eq!(story.vm.disks[0].size_bytes, GIB + MIB, "it may still be cancelled");
    story.tell(commit());
    story.work_off();
    assert_eq!(story.vm.disks[0].size_bytes, GIB);
    assert_eq!(story.vm.former_sizes, []);
    story.tell(failback());
    story.work_off();
    assert_eq!(story.vm.phase, Phase::FailbackReady);
}

#[test]
fn a_failover_that_is_cancelled_and_one_to_the_latest_point_keep_the_size() {
    let mut story = grown();
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    let first = story.vm.points[0].cycle;
    story.tell(change_point(PointChoice::Cycle(first)));
    story.work_off();
    story.tell(cancel_failover());
    story.work_off();
    assert_eq!((&story.vm.phase, story.vm.disks[0].size_bytes), (&Phase::Protected, GIB + MIB));
    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    story.tell(commit());
    assert_eq!(story.vm.disks[0].size_bytes, GIB + MIB);
}

#[test]
fn a_failover_in_the_middle_goes_on_and_if_it_is_cancelled_the_rest_is_compared() {
    let mut story = Story::protected_with_points(3);
    story.tell(resize(MIB));
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
        assert_eq!(over.vm.size_in_point(&over.vm.disks[0], point), over.vm.disks[0].size_bytes);

        let grew = back.vm.resize.is_some_and(|resize| resize.grown);
        back.tell(cancel_failover());
        while back.vm.job.as_ref().is_some_and(|job| job.kind == JobKind::CancelFailover) {
            back.succeed();
        }
        let kind = back.vm.job.as_ref().map(|job| job.kind);
        let expected =
            if grew { JobKind::ResynchronizeDifferences } else { JobKind::ResumeReplication };
        assert_eq!(kind, Some(expected), "{:?}", story.vm.work());
        back.work_off();
        assert_eq!((&back.vm.phase, back.vm.resize), (&Phase::Protected, None));
        let size = if grew { GIB + MIB } else { GIB };
        assert_eq!(back.vm.disks[0].size_bytes, size);

        // One whose check fails leads back as well.
        let mut failed = story.clone();
        failed.tell(unplanned(PointChoice::Latest));
        failed.fail(check_failed());
        failed.work_off();
        assert_eq!(failed.vm.phase, Phase::Protected);
        met += 1;
        story.succeed();
        if story.vm.resize.is_none() {
            break;
        }
    }
    assert_eq!(met, 7);
}

#[test]
fn tracking_that_is_lost_in_the_middle_is_made_good_at_the_size_that_the_disk_has() {
    let mut story = Story::protected_with_points(2);
    story.tell(resize(MIB));
    for _ in 0..7 {
        let mut lost = story.clone();
        lost.tell(lost.tracking_lost());
        let grew = lost.vm.disks[0].size_bytes == GIB + MIB;
        lost.work_off();
        assert_eq!((&lost.vm.phase, lost.vm.resize), (&Phase::Protected, None));
        assert_eq!(sizes(&lost).last(), Some(&if grew { GIB + MIB } else { GIB }));
        story.succeed();
    }
}

#[test]
fn a_vm_that_is_not_protected_has_the_sizes_that_are_found() {
    let mut story = Story::discovered(2);
    let Command::Discover { id, name, host, cloud, mut disks } = discover(2) else {
        unreachable!()
    };
    disks[1].size_bytes = 3 * GIB;
    let found = |disks| Command::Discover { id, name: name.clone(), host, cloud, disks };
    story.tell(found(disks.clone()));
    assert_eq!(story.vm.disks, disks);
    assert_eq!(story.tell(found(disks.clone())), [], "it is known");

    let fewer = found(disks[..1].to_vec());
    assert!(matches!(story.try_tell(fewer), Err(Rejection::Conflict { .. })));
    story.tell(enable());
    story.work_off();
    assert!(matches!(story.try_tell(discover(2)), Err(Rejection::Conflict { .. })));
}

#[test]
fn sizes_of_points_that_are_gone_are_forgotten() {
    let mut story = grown();
    assert_eq!(story.vm.former_sizes.len(), 1);
    for _ in 0..200 {
        story.wake();
        story.work_off();
    }
    assert_eq!(story.vm.former_sizes, [], "{:?}", story.vm.points.first());
    story.tell(disable());
    story.fail(link_down());
    assert_eq!(story.vm.phase, Phase::Disabling);
}

#[test]
fn a_task_of_a_resize_has_to_bring_what_it_makes() {
    let mut story = Story::protected();
    story.tell(resize(MIB));
    story.until_step(|step| matches!(step, Step::CompareDisk(_)));
    let (task, _) = story.vm.job.as_ref().unwrap().current().unwrap();
    let done = Command::ReportDone { job: job_id(14), task, outcome: Outcome::Done };
    assert!(story.try_tell(done).is_err());
    let told = story.told.iter().flat_map(|(_, _, events)| events);
    let resized = told.filter(|event| matches!(event, Event::DiskResized { .. })).count();
    assert_eq!(resized, 1);
}
