//! Which command is accepted in which state: the whole table, every state built by driving the VM.

use super::story::{
    Story, add_disk, cancel_failover, change_point, check_failed, clean_up, commit,
    complete_failback, credentials_refused, disable, enable, enable_at, failback, failback_to_host,
    job_id, link_down, planned, remove, resize, reverse, second, synchronized, test_failover,
    unplanned,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::PlanId;
use lifeboat::domain::job::Step;
use lifeboat::domain::policy::Policy;
use lifeboat::domain::vm::{
    AfterFailover, Command, PointChoice, ResyncReason, ResyncWindow, RetryReason,
};
use std::fmt::Write;

/// A window that is closed when stories begin.
const TONIGHT: ResyncWindow =
    ResyncWindow::Daily { from_minute: 1110, to_minute: 360, utc_offset_minutes: 0 };

fn change_window(window: ResyncWindow) -> Command {
    Command::ChangeResyncWindow { window }
}

fn tracking_lost(first_cycle: u64) -> Command {
    Command::ReportTrackingLost { first_cycle, reason: ResyncReason::PowerLoss }
}

fn hold() -> Command {
    Command::HoldStart { plan: PlanId::default() }
}

fn damaged() -> Failure {
    Failure::new(Code::ReplicaDamaged, Cause::Itself, "checksum of the frame at 65536")
}

/// Every phase, with and without what makes a difference.
fn states() -> Vec<(&'static str, Story)> {
    let driven = |mut story: Story, commands: &[Command]| {
        for command in commands {
            story.tell(command.clone());
        }
        story
    };
    let worked_off = |mut story: Story| {
        story.work_off();
        story
    };
    let failed = |mut story: Story, failure| {
        story.fail(failure);
        story
    };
    let tested = |mut story: Story| {
        story.tell(test_failover());
        while story.test_work().is_some() {
            story.succeed_in_test();
        }
        story
    };
    let latest = || unplanned(PointChoice::Latest);
    let mut scheduled = driven(Story::discovered(1), &[enable_at(second(3_600))]);
    scheduled.until_step(|step| step == Step::IdentifyTarget);
    scheduled.succeed();
    let mut never_copied = Story::in_initial_replication();
    never_copied.tell(never_copied.tracking_lost());
    let mut finalizing = Story::in_initial_replication();
    finalizing.succeed();
    finalizing.succeed();
    finalizing.succeed();
    let planned_done = worked_off(driven(Story::protected(), &[planned()]));
    let unplanned_done = worked_off(driven(Story::protected(), &[latest()]));
    let shut_down_and_held = |failover: Command, then: Step| {
        let mut story = driven(Story::protected(), &[hold(), Command::HoldFailover, failover]);
        while story.vm.work().is_some() {
            story.succeed();
        }
        let current = story.vm.job.as_ref().and_then(|job| job.current());
        assert_eq!(current.map(|(_, task)| task.step), Some(then));
        story
    };
    let mut shut_down = driven(Story::protected(), &[planned()]);
    shut_down.succeed();
    vec![
        ("undiscovered", Story::new()),
        ("unprotected", Story::discovered(1)),
        (
            "unprotected, check failed",
            failed(driven(Story::discovered(1), &[enable()]), check_failed()),
        ),
        ("enabling", driven(Story::discovered(1), &[enable()])),
        ("enabling, retry due", failed(driven(Story::discovered(1), &[enable()]), link_down())),
        ("enabling, waits for its time", scheduled),
        ("initial replication", Story::in_initial_replication()),
        ("finalizing", finalizing),
        ("protected, waiting", Story::protected()),
        ("protected, shipping", Story::shipping()),
        ("protected, retry due", failed(Story::shipping(), link_down())),
        ("protected, administrator", failed(Story::shipping(), credentials_refused())),
        ("resynchronizing, no point", never_copied),
        ("protected, replica is suspect", failed(Story::shipping(), damaged())),
        ("resynchronizing", Story::resynchronizing()),
        (
            "marked, waits for its window",
            driven(Story::protected(), &[change_window(TONIGHT), tracking_lost(1)]),
        ),
        (
            "marked, waits for somebody",
            driven(Story::protected(), &[change_window(ResyncWindow::Manual), tracking_lost(1)]),
        ),
        (
            "copying anew",
            driven(
                failed(Story::shipping(), damaged()),
                &[Command::Resynchronize { job: job_id(5) }],
            ),
        ),
        ("resynchronizing, paused", driven(Story::resynchronizing(), &[Command::PauseReplication])),
        ("planned failover", driven(Story::protected(), &[planned()])),
        ("planned failover, retry due", failed(shut_down.clone(), link_down())),
        ("planned failover, administrator", failed(shut_down, credentials_refused())),
        ("unplanned failover", driven(Story::protected(), &[latest()])),
        ("unplanned failover, held", {
            let mut story = driven(Story::protected(), &[hold(), latest()]);
            story.until_step(|step| step == Step::StartFailover);
            story.succeed();
            story
        }),
        (
            "planned failover, held when off",
            shut_down_and_held(planned(), Step::PrepareForFailover),
        ),
        ("unplanned failover, held when off", shut_down_and_held(latest(), Step::StartFailover)),
        ("planned, commit required", planned_done.clone()),
        ("unplanned, commit pending", unplanned_done.clone()),
        ("committing", driven(unplanned_done.clone(), &[commit()])),
        ("planned, committed", worked_off(driven(planned_done, &[commit()]))),
        ("unplanned, committed", worked_off(driven(unplanned_done.clone(), &[commit()]))),
        ("protected, paused", driven(Story::protected(), &[Command::PauseReplication])),
        ("protected, test begins", driven(Story::protected(), &[test_failover()])),
        ("protected, test runs", tested(Story::protected())),
        ("protected, test is cleaned up", driven(tested(Story::protected()), &[clean_up()])),
        ("protected, disk grows", driven(Story::protected(), &[resize(1 << 20)])),
        ("protected, disk is added", driven(Story::protected(), &[add_disk()])),
        ("cancelling a failover", driven(unplanned_done.clone(), &[cancel_failover()])),
        ("changing the point", driven(unplanned_done, &[change_point(PointChoice::Latest)])),
        ("failing back", driven(Story::failed_over(), &[failback()])),
        ("failing back to another host", driven(Story::failed_over(), &[failback_to_host()])),
        ("failing back, tracking starts", {
            let mut story = driven(Story::ready_to_fail_back(), &[complete_failback()]);
            story.until_step(|step| step == Step::TrackRestored);
            story
        }),
        ("ready to fail back", Story::ready_to_fail_back()),
        ("failback, commit required", Story::failed_back()),
        ("committing a failback", driven(Story::failed_back(), &[commit()])),
        ("failed back", worked_off(driven(Story::failed_back(), &[commit()]))),
        ("reversing", driven(worked_off(driven(Story::failed_back(), &[commit()])), &[reverse()])),
        ("disabling", driven(Story::protected(), &[disable()])),
        ("disabling, retry due", failed(driven(Story::protected(), &[disable()]), link_down())),
        ("disabling without the source", driven(Story::protected(), &[remove()])),
        ("disabled", worked_off(driven(Story::protected(), &[disable()]))),
        ("disabling at the recovery site", driven(Story::failed_over(), &[disable()])),
        ("the same, without the vault", {
            let mut story = driven(Story::failed_over(), &[disable()]);
            story.until_step(|step| step == Step::DeleteReplica);
            story
        }),
        ("disabled at the recovery site", worked_off(driven(Story::failed_over(), &[disable()]))),
    ]
}

#[test]
fn each_state_accepts_what_it_allows_and_refuses_the_rest_naming_what_it_allows() {
    let operations = [
        ("EnableProtection", enable()),
        ("PlannedFailover", planned()),
        ("UnplannedFailover", unplanned(PointChoice::Latest)),
        ("UnplannedFailover", synchronized()),
        ("EnableProtection", enable_at(second(3_600))),
        ("DisableProtection", remove()),
        ("Commit", commit()),
        ("RepairReplication", Command::Resynchronize { job: job_id(5) }),
        ("TestFailover", test_failover()),
        ("TestFailoverCleanup", clean_up()),
        ("ChangePit", change_point(PointChoice::Latest)),
        ("CancelFailover", cancel_failover()),
        ("Failback", failback()),
        ("Failback", failback_to_host()),
        ("CompleteFailback", complete_failback()),
        ("CancelFailback", Command::CancelFailback),
        ("ReverseReplicate", reverse()),
        ("DisableProtection", disable()),
        ("ReleaseStart", Command::ReleaseStart),
        ("PauseReplication", Command::PauseReplication),
        ("ResumeReplication", Command::ResumeReplication),
        ("TakeRecoveryPoint", Command::TakeRecoveryPoint { application_consistent: false }),
        ("ResizeDisk", resize(1 << 20)),
        ("AddDisks", add_disk()),
    ];
    let mut operations_table = String::new();
    for (name, story) in states() {
        let allowed = story.vm.allowed_operations();
        for (operation, command) in &operations {
            match story.vm.decide(command, story.now) {
                Ok(events) => {
                    assert!(allowed.contains(operation), "{operation} while {name}");
                    // A delta under way makes a point anyway, and protection is being ended.
                    let already = *operation == "TakeRecoveryPoint"
                        || name.starts_with("disabling") && *command == disable();
                    assert!(already || !events.is_empty(), "{operation} while {name}");
                }
                Err(Rejection::NotAllowed { operation: refused, allowed: named, .. }) => {
                    assert!(!allowed.contains(operation), "{operation} while {name}");
                    assert_eq!((refused, &named), (*operation, &allowed));
                }
                Err(other) => panic!("{operation} while {name}: {other}"),
            }
        }
        let _ = writeln!(operations_table, "{name}: {}", allowed.join(" "));
        let known: Vec<_> = operations.iter().map(|(operation, _)| *operation).collect();
        assert!(allowed.iter().all(|operation| known.contains(operation)), "{allowed:?}");
    }
    assert_eq!(operations_table, OPERATIONS, "the table is\n{operations_table}");
}

const OPERATIONS: &str = "\
undiscovered: 
unprotected: EnableProtection
unprotected, check failed: EnableProtection
enabling: DisableProtection
enabling, retry due: DisableProtection
enabling, waits for its time: DisableProtection
initial replication: DisableProtection
finalizing: UnplannedFailover TestFailover DisableProtection
protected, waiting: PlannedFailover UnplannedFailover TestFailover DisableProtection TakeRecoveryPoint PauseReplication ResizeDisk AddDisks
protected, shipping: PlannedFailover UnplannedFailover TestFailover DisableProtection TakeRecoveryPoint PauseReplication ResizeDisk AddDisks
protected, retry due: PlannedFailover UnplannedFailover TestFailover DisableProtection TakeRecoveryPoint PauseReplication ResizeDisk AddDisks
protected, administrator: PlannedFailover UnplannedFailover TestFailover DisableProtection TakeRecoveryPoint PauseReplication ResizeDisk AddDisks
resynchronizing, no point: DisableProtection PauseReplication
protected, replica is suspect: PlannedFailover UnplannedFailover TestFailover DisableProtection TakeRecoveryPoint PauseReplication ResizeDisk AddDisks RepairReplication
resynchronizing: UnplannedFailover TestFailover DisableProtection PauseReplication
marked, waits for its window: UnplannedFailover TestFailover DisableProtection RepairReplication
marked, waits for somebody: UnplannedFailover TestFailover DisableProtection ResumeReplication RepairReplication
copying anew: UnplannedFailover TestFailover DisableProtection PauseReplication
resynchronizing, paused: UnplannedFailover TestFailover DisableProtection ResumeReplication
planned failover: UnplannedFailover CancelFailover
planned failover, retry due: UnplannedFailover CancelFailover
planned failover, administrator: UnplannedFailover CancelFailover
unplanned failover: CancelFailover
unplanned failover, held: CancelFailover ReleaseStart
planned failover, held when off: UnplannedFailover CancelFailover ReleaseStart
unplanned failover, held when off: CancelFailover ReleaseStart
planned, commit required: Commit ChangePit CancelFailover
unplanned, commit pending: Commit ChangePit CancelFailover
committing: 
planned, committed: Failback TestFailover DisableProtection
unplanned, committed: Failback TestFailover DisableProtection
protected, paused: PlannedFailover UnplannedFailover TestFailover DisableProtection ResumeReplication
protected, test begins: PlannedFailover UnplannedFailover TakeRecoveryPoint PauseReplication ResizeDisk AddDisks TestFailoverCleanup
protected, test runs: PlannedFailover UnplannedFailover TakeRecoveryPoint PauseReplication ResizeDisk AddDisks TestFailoverCleanup
protected, test is cleaned up: PlannedFailover UnplannedFailover TakeRecoveryPoint PauseReplication ResizeDisk AddDisks TestFailoverCleanup
protected, disk grows: UnplannedFailover TestFailover DisableProtection
protected, disk is added: UnplannedFailover TestFailover DisableProtection
cancelling a failover: UnplannedFailover
changing the point: CancelFailover
failing back: CancelFailback
failing back to another host: CancelFailback
failing back, tracking starts: 
ready to fail back: CompleteFailback CancelFailback TestFailover TakeRecoveryPoint PauseReplication
failback, commit required: Commit UnplannedFailover TestFailover
committing a failback: 
failed back: ReverseReplicate UnplannedFailover TestFailover DisableProtection
reversing: UnplannedFailover TestFailover DisableProtection
disabling: DisableProtection
disabling, retry due: DisableProtection
disabling without the source: 
disabled: EnableProtection
disabling at the recovery site: 
the same, without the vault: 
disabled at the recovery site: 
";

#[test]
fn a_plan_holds_the_start_of_whoever_could_be_started() {
    let held = [
        "finalizing",
        "protected, waiting",
        "protected, shipping",
        "protected, retry due",
        "protected, administrator",
        "protected, replica is suspect",
        "resynchronizing",
        "marked, waits for its window",
        "marked, waits for somebody",
        "copying anew",
        "resynchronizing, paused",
        "planned, committed",
        "unplanned, committed",
        "protected, paused",
        "protected, test begins",
        "protected, test runs",
        "protected, test is cleaned up",
        "protected, disk grows",
        "protected, disk is added",
        "cancelling a failover",
        "ready to fail back",
        "failback, commit required",
        "failed back",
        "reversing",
    ];
    for (name, story) in states() {
        match story.vm.decide(&hold(), story.now) {
            Ok(events) => assert!(held.contains(&name) && !events.is_empty(), "{name}"),
            Err(Rejection::NotAllowed { allowed, .. }) => {
                assert!(!held.contains(&name), "{name}");
                assert_eq!(allowed, story.vm.allowed_operations(), "{name}");
            }
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

/// One letter an answer: `x` accepted, `-` accepted without effect, blank refused.
#[test]
fn the_table_of_answers() {
    let faster = Policy { copy_frequency_s: 30, ..Policy::default() };
    let columns = |story: &Story| {
        let ring = story.alarm().map(|(_, ring)| ring);
        let vm = story.vm.clone();
        let report = story.success();
        [
            Some(enable()),
            Some(planned()),
            Some(unplanned(PointChoice::Latest)),
            Some(commit()),
            Some(Command::ChangePolicy { policy: faster }),
            Some(Command::Retry { because: RetryReason::Administrator }),
            ring,
            report,
            Some(Command::ReportTrackingLost {
                first_cycle: vm.delta.chain_first_cycle,
                reason: ResyncReason::PowerLoss,
            }),
            vm.job.as_ref().map(|job| Command::CancelJob { job: job.id }),
            Some(Command::DecideFailover { due: second(9_000), then: AfterFailover::Commit }),
            Some(Command::HoldFailover),
            Some(Command::ReleaseFailover),
        ]
    };
    let mut table = String::from(
        "State                             Enable Planned Unplanned Commit Policy Retry Wake Done Lost Cancel Decide Hold Release\n",
    );
    for (name, story) in states() {
        let _ = write!(table, "{name:34}");
        for (command, width) in
            columns(&story).into_iter().zip([7, 8, 10, 7, 7, 6, 5, 5, 5, 7, 7, 5, 7])
        {
            let answer = match command.map(|command| story.vm.decide(&command, story.now)) {
                None | Some(Err(_)) => ' ',
                Some(Ok(events)) if events.is_empty() => '-',
                Some(Ok(_)) => 'x',
            };
            let _ = write!(table, "{answer:width$}");
        }
        table = table.trim_end().to_owned() + "\n";
    }
    assert_eq!(table, TABLE, "the table is\n{table}");
}

const TABLE: &str = "\
State                             Enable Planned Unplanned Commit Policy Retry Wake Done Lost Cancel Decide Hold Release
undiscovered                                                      -      -               -                       -
unprotected                       x                               -      -               -                       -
unprotected, check failed         x                               -      -               -                       -
enabling                                                          x      -          x    -    x                  -
enabling, retry due                                               x      x     x    x    -    x                  -
enabling, waits for its time                                      x      -     x         -    x                  -
initial replication                                               x      -          x    x    x                  -
finalizing                                       x                x      -          x    x    x                  -
protected, waiting                       x       x                x      -     x         x                       -
protected, shipping                      x       x                x      -          x    x                       -
protected, retry due                     x       x                x      x     x    x    x                       -
protected, administrator                 x       x                x      x          x    x                       -
resynchronizing, no point                                         x      -          x    -    x                  -
protected, replica is suspect            x       x                x      x          x    x                       -
resynchronizing                                  x                x      -          x    -    x                  -
marked, waits for its window                     x                x      -     x         -                       -
marked, waits for somebody                       x                x      -               -                       -
copying anew                                     x                x      -          x    -    x                  -
resynchronizing, paused                          x                x      -               -    x                  -
planned failover                                 x                x      -          x    x    x      x           -
planned failover, retry due                      x                x      x     x    x    x    x      x           -
planned failover, administrator                  x                x      x          x    x    x      x           -
unplanned failover                                                x      -          x    -    x      x           -
unplanned failover, held                                          x      -               -    x      x           -
planned failover, held when off                  x                x      -               x    x      x           x
unplanned failover, held when off                                 x      -               -    x      x           x
planned, commit required                                   x      x      -               -           x           -
unplanned, commit pending                                  x      x      -               -           x           -
committing                                                        x      -          x    -                       -
planned, committed                                                x      -               -                       -
unplanned, committed                                              x      -               -                       -
protected, paused                        x       x                x      -               x                       -
protected, test begins                   x       x                x      -     x    x    x                       -
protected, test runs                     x       x                x      -     x         x                       -
protected, test is cleaned up            x       x                x      -     x    x    x                       -
protected, disk grows                            x                x      -          x    x    x                  -
protected, disk is added                         x                x      -          x    x    x                  -
cancelling a failover                            x                x      -          x    -                       -
changing the point                                                x      -          x    -    x      x           -
failing back                                                      x      -          x    -    x                  -
failing back to another host                                      x      -          x    -    x                  -
failing back, tracking starts                                     x      -          x    -                       -
ready to fail back                                                x      -     x         x                       -
failback, commit required                        x         x      x      -               x                       -
committing a failback                                             x      -          x    x                       -
failed back                                      x                x      -               x                       -
reversing                                        x                x      -          x    x                       -
disabling                                                         x      -          x    -                       -
disabling, retry due                                              x      x     x    x    -                       -
disabling without the source                                      x      -          x    -                       -
disabled                          x                               -      -               -                       -
disabling at the recovery site                                    x      -          x    -    x                  -
the same, without the vault                                       -      -          x    -                       -
disabled at the recovery site                                     -      -               -                       -
";
