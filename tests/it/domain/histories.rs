//! Random histories of one VM: commands in any order, reports that are late, told twice or about
//! work that was replaced, failures of both classes, clocks that jump.

use super::story::{
    Story, add_disk, cancel_failover, change_point, check_failed, clean_up, commit,
    complete_failback, credentials_refused, disable, discover, enable, enable_at, failback,
    failback_to_host, host, job_id, link_down, planned, remove, resize, reverse, second,
    synchronized, test_failover, unplanned, vault, word,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::{Entity, Entry};
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::PlanId;
use lifeboat::domain::job::{JobKind, Step, TaskState};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{
    AfterFailover, Command, Effect, Event, Health, NextStep, Opening, Phase, PointChoice,
    ResyncWindow, RetryReason, Side, Stage, StatisticsSchedule, Vm, Wake, Work,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Move {
    Discover,
    Enable,
    ChangePolicy(u32, u32),
    Planned,
    Unplanned(Option<u8>),
    Commit,
    Retry(RetryReason),
    Ring,
    Succeed,
    Progress(u64),
    Fail(Code),
    LoseTracking,
    /// Tells again what was told before, this many commands ago.
    Again(u8),
    Pass(u32),
    SetBack(u32),
    Resynchronize,
    ChangeWindow(ResyncWindow),
    /// An operator's command, as it is.
    Operate(Command),
    /// The work or timer of a test failover.
    Test,
    FailTest(Code),
    CancelJob,
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        40 => Just(Move::Succeed),
        12 => Just(Move::Ring),
        2 => Just(Move::Discover),
        4 => Just(Move::Enable),
        2 => (1_u32..900, 0_u32..72).prop_map(|(every, keep)| Move::ChangePolicy(every, keep)),
        4 => Just(Move::Planned),
        4 => proptest::option::of(0_u8..6).prop_map(Move::Unplanned),
        3 => Just(Move::Commit),
        4 => prop_oneof![
            Just(RetryReason::Administrator),
            Just(RetryReason::CauseEnded(Cause::Vault(vault()))),
            Just(RetryReason::CauseEnded(Cause::Itself)),
        ].prop_map(Move::Retry),
        2 => (0_u64..1000).prop_map(Move::Progress),
        8 => prop_oneof![
            4 => Just(Code::LinkDown),
            2 => Just(Code::ReplicaDamaged),
            2 => Just(Code::PrerequisiteFailed),
            2 => Just(Code::AuthenticationFailed),
            1 => Just(Code::LogChainBroken),
        ].prop_map(Move::Fail),
        4 => Just(Move::LoseTracking),
        12 => any::<u8>().prop_map(Move::Again),
        4 => (0_u32..10_000_000).prop_map(Move::Pass),
        1 => (0_u32..100_000_000).prop_map(Move::SetBack),
        3 => Just(Move::Resynchronize),
        3 => prop_oneof![
            2 => Just(ResyncWindow::Always),
            1 => Just(ResyncWindow::Manual),
            3 => (0_u16..1440, 0_u16..1440, -720_i16..840).prop_map(|(from, to, offset)| {
                ResyncWindow::Daily {
                    from_minute: from,
                    to_minute: to,
                    utc_offset_minutes: offset,
                }
            }),
        ].prop_map(Move::ChangeWindow),
        28 => proptest::sample::select(operations()).prop_map(Move::Operate),
        8 => Just(Move::Test),
        2 => proptest::sample::select(vec![Code::LinkDown, Code::PrerequisiteFailed]).prop_map(Move::FailTest),
        2 => Just(Move::CancelJob),
    ]
}

fn operations() -> Vec<Command> {
    let now = super::story::BEGINNING;
    vec![
        test_failover(),
        clean_up(),
        cancel_failover(),
        change_point(PointChoice::Latest),
        failback(),
        failback(),
        failback_to_host(),
        Command::ReportLeft { host: host() },
        Command::ReportMoved { host: host() },
        complete_failback(),
        complete_failback(),
        reverse(),
        reverse(),
        disable(),
        remove(),
        synchronized(),
        synchronized(),
        enable_at(second(7_200)),
        Command::CancelFailback,
        Command::PauseReplication,
        Command::ResumeReplication,
        Command::TakeRecoveryPoint { application_consistent: true },
        Command::HoldStart { plan: PlanId::default() },
        Command::HoldFailover,
        Command::ReleaseFailover,
        Command::ReleaseFailover,
        Command::ReplaceFailover { job: job_id(0), point: PointChoice::Latest, synchronize: true },
        Command::ReleaseStart,
        Command::ReleaseStart,
        resize(1 << 20),
        add_disk(),
        Command::ChangeStatisticsSchedule {
            schedule: StatisticsSchedule { hours: 1, start_minute: 30, utc_offset_minutes: -90 },
        },
        Command::DecideFailover { due: now, then: AfterFailover::Commit },
        Command::DecideFailover { due: now, then: AfterFailover::Cancel },
    ]
}

fn command(story: &mut Story, next: Move) -> Option<Command> {
    Some(match next {
        Move::Discover => discover(2),
        Move::Enable => enable(),
        Move::ChangePolicy(copy_frequency_s, recovery_point_retention_h) => {
            let app_consistent_frequency_h = u32::from(1 < recovery_point_retention_h);
            let policy =
                Policy { copy_frequency_s, recovery_point_retention_h, app_consistent_frequency_h };
            Command::ChangePolicy { policy }
        }
        Move::Planned => planned(),
        Move::Unplanned(None) => unplanned(PointChoice::Latest),
        Move::Unplanned(Some(nth)) => {
            let point = story.vm.points.get(nth as usize).or(story.vm.points.first())?;
            unplanned(PointChoice::Cycle(point.cycle))
        }
        Move::Commit => commit(),
        Move::Retry(because) => Command::Retry { because },
        Move::Resynchronize => Command::Resynchronize { job: job_id(5) },
        Move::ChangeWindow(window) => Command::ChangeResyncWindow { window },
        Move::Operate(command) => command,
        Move::Test if story.test_work().is_some() => {
            story.succeed_in_test();
            return None;
        }
        Move::Test => {
            let (due, wake) = story.alarms().find(|(_, wake)| *wake == Wake::TestLease)?;
            story.now = story.now.max(due);
            Command::Wake { due, wake }
        }
        Move::FailTest(code) => {
            let failure = Failure::new(code, Cause::Itself, "");
            Command::ReportFailure { work: story.test_work()?, failure }
        }
        Move::CancelJob => {
            Command::CancelJob { job: story.vm.job.as_ref().filter(|job| job.ended.is_none())?.id }
        }
        Move::Ring => {
            let (due, ring) = story.alarm()?;
            story.now = story.now.max(due);
            ring
        }
        Move::Succeed => story.success()?,
        Move::Progress(done_bytes) => match story.vm.work()? {
            Work::Task { job, task, .. } => {
                Command::ReportProgress { job, task, done_bytes, total_bytes: 1000 }
            }
            Work::Snapshot { .. } | Work::Ship { .. } => return None,
        },
        Move::Fail(code) => {
            let failure = match code {
                Code::LinkDown => link_down(),
                Code::PrerequisiteFailed => check_failed(),
                Code::AuthenticationFailed => credentials_refused(),
                other => Failure::new(other, Cause::Itself, ""),
            };
            Command::ReportFailure { work: story.vm.work()?, failure }
        }
        Move::LoseTracking => story.tracking_lost(),
        Move::Again(back) => {
            let index = story.told.len().checked_sub(1 + back as usize)?;
            story.told[index].1.clone()
        }
        Move::Pass(millis) => {
            story.wait(Duration::from_millis(millis.into()));
            return None;
        }
        Move::SetBack(millis) => {
            story.now = Timestamp::from_millis(story.now.as_millis() - i64::from(millis));
            return None;
        }
    })
}

/// Whether a command is a report: telling it a second time must say nothing more.
fn is_report(command: &Command) -> bool {
    match command {
        Command::Discover { .. }
        | Command::Wake { .. }
        | Command::ReportDone { .. }
        | Command::ReportProgress { .. }
        | Command::ReportSnapshot { .. }
        | Command::ReportShipped { .. }
        | Command::ReportFailure { .. }
        | Command::ReportTrackingLost { .. }
        | Command::ReportQuiescedSnapshot { .. }
        | Command::ReportSpace { .. }
        | Command::ReportLogVolume { .. }
        | Command::ReportLeft { .. }
        | Command::ChangePolicy { .. }
        | Command::ChangeResyncWindow { .. }
        | Command::ConfigureResyncWindow { .. }
        | Command::ChangeStatisticsSchedule { .. } => true,
        Command::EnableProtection { .. }
        | Command::PlannedFailover { .. }
        | Command::UnplannedFailover { .. }
        | Command::CommitFailover { .. }
        | Command::Resynchronize { .. }
        | Command::TestFailover { .. }
        | Command::CleanUpTestFailover { .. }
        | Command::ChangeRecoveryPoint { .. }
        | Command::CancelFailover { .. }
        | Command::DecideFailover { .. }
        | Command::Failback { .. }
        | Command::FailbackToHost { .. }
        | Command::CompleteFailback { .. }
        | Command::CancelFailback
        | Command::ReverseReplicate { .. }
        | Command::DisableProtection { .. }
        | Command::PauseReplication
        | Command::ResumeReplication
        | Command::TakeRecoveryPoint { .. }
        | Command::CancelJob { .. }
        | Command::HoldStart { .. }
        | Command::HoldFailover
        | Command::ReleaseFailover
        | Command::ReplaceFailover { .. }
        | Command::ReleaseStart
        | Command::Describe { .. }
        | Command::ChangeTarget { .. }
        | Command::ReportMoved { .. }
        | Command::ResizeDisk { .. }
        | Command::AddDisk { .. }
        | Command::SynchronizeAndFailOver { .. }
        | Command::EnableProtectionAt { .. }
        | Command::Retry { .. } => false,
    }
}

fn kind_fits_phase(kind: JobKind, phase: &Phase) -> bool {
    use lifeboat::domain::vm::FailoverKind::{Planned, Unplanned};
    match kind {
        JobKind::EnableProtection => *phase == Phase::Enabling,
        JobKind::InitialReplication => *phase == Phase::InitialReplication,
        JobKind::FinalizeProtection | JobKind::ReverseReplicate | JobKind::ResumeReplication => {
            *phase == Phase::Finalizing
        }
        JobKind::Resynchronize | JobKind::ResynchronizeDifferences => {
            matches!(phase, Phase::Resynchronizing(_))
        }
        JobKind::PlannedFailover => *phase == Phase::FailingOver(Planned),
        JobKind::UnplannedFailover => *phase == Phase::FailingOver(Unplanned),
        JobKind::CommitFailover => matches!(phase, Phase::CommitPending(_)),
        JobKind::ChangeRecoveryPoint => matches!(phase, Phase::FailingOver(_)),
        JobKind::CancelFailover => *phase == Phase::CancellingFailover,
        JobKind::Failback | JobKind::CompleteFailback => *phase == Phase::FailingBack,
        JobKind::CommitFailback => *phase == Phase::FailbackCommitPending,
        JobKind::DisableProtection | JobKind::RemoveProtection => *phase == Phase::Disabling,
        JobKind::ResizeDisk | JobKind::AddDisk => *phase == Phase::Protected,
        JobKind::DisableAtRecovery => {
            matches!(phase, Phase::FailedOver(_) | Phase::UnprotectedAtRecovery)
        }
        // They are the test's own.
        JobKind::TestFailover | JobKind::TestFailoverCleanup => false,
    }
}

/// What must hold of every state that commands can lead to.
fn check_state(vm: &Vm) {
    assert!(vm.pending().iter().all(|effect| vm.calls_for(effect)));
    let kept_off = Effect::KeepOff { host: vm.host };
    assert_eq!(vm.calls_for(&kept_off), vm.pending().contains(&kept_off));
    let pending: Vec<_> =
        vm.pending().into_iter().filter(|effect| !is_of_test(vm, effect)).collect();
    check_test(vm);
    let to_do: Vec<_> = pending.iter().filter(|effect| matches!(effect, Effect::Do(_))).collect();
    // A decision that is set waits beside whatever an operator does before.
    let decision = |wake: &Wake| *wake == Wake::Decision;
    let timers: Vec<_> = pending
        .iter()
        .filter(|effect| matches!(effect, Effect::WakeAt { wake, .. } if !decision(wake)))
        .collect();
    assert!(to_do.len() + timers.len() <= 1, "one piece of work or one timer: {pending:?}");

    let waits_for_an_operator = match vm.trouble.as_ref().map(|trouble| trouble.next) {
        Some(NextStep::Administrator) => true,
        Some(NextStep::RetryAt(_) | NextStep::Trying) => false,
        None => {
            vm.work().is_none()
                && match vm.phase {
                    Phase::Undiscovered
                    | Phase::Unprotected
                    | Phase::CommitPending(_)
                    | Phase::FailbackCommitPending
                    | Phase::FailedBack
                    | Phase::UnprotectedAtRecovery
                    | Phase::FailedOver(_) => true,
                    Phase::Resynchronizing(_) => {
                        vm.resync.waits_for == Some(Opening::ByHand) || vm.is_resync_paused()
                    }
                    Phase::Protected | Phase::FailbackReady => {
                        matches!(vm.delta.stage, Stage::Paused { .. })
                    }
                    Phase::Enabling
                    | Phase::InitialReplication
                    | Phase::Finalizing
                    | Phase::CancellingFailover
                    | Phase::FailingBack
                    | Phase::Disabling => false,
                    Phase::FailingOver(_) => vm.waits_for_plan(),
                }
        }
    };
    assert_eq!(to_do.len() + timers.len() == 0, waits_for_an_operator, "stuck: {vm:?}");
    if waits_for_an_operator && vm.trouble.is_none() {
        let ends = matches!(vm.phase, Phase::Undiscovered | Phase::UnprotectedAtRecovery);
        let nothing = vm.allowed_operations().is_empty() || vm.held.is_some();
        assert_eq!(nothing, ends || vm.held.is_some(), "nothing to ask for: {vm:?}");
    }

    let job = vm.job.as_ref();
    match vm.work() {
        Some(Work::Task { .. }) => {
            assert!(job.is_some_and(|job| kind_fits_phase(job.kind, &vm.phase)), "{vm:?}");
        }
        Some(Work::Snapshot { .. } | Work::Ship { .. }) => {
            assert!(matches!(vm.phase, Phase::Protected | Phase::FailbackReady));
        }
        None => {
            let over = job.is_none_or(|job| job.ended.is_some());
            let waits =
                vm.waits_for_plan() || vm.waits_for_its_time().is_some() || vm.is_resync_paused();
            assert!(over || waits, "a job without a task");
        }
    }
    if let Some(trouble) = &vm.trouble {
        assert_eq!(Some(trouble.work), vm.work(), "trouble with what is not being done");
        assert!(1 <= trouble.attempt);
    }
    for timer in timers {
        match timer {
            Effect::WakeAt { wake: Wake::Cycle(cycle), .. } => {
                assert!(matches!(vm.phase, Phase::Protected | Phase::FailbackReady));
                assert_eq!(*cycle, vm.delta.cycle);
            }
            Effect::WakeAt { wake: Wake::Resync, due } => {
                assert!(matches!(vm.phase, Phase::Resynchronizing(_)));
                assert_eq!(vm.resync.waits_for, Some(Opening::At(*due)));
            }
            Effect::WakeAt { wake: Wake::InitialReplication, due } => {
                assert_eq!((&vm.phase, vm.copy_due), (&Phase::Enabling, Some(*due)));
            }
            Effect::WakeAt { wake: Wake::Retry(_), due } => {
                let next = vm.trouble.as_ref().map(|trouble| trouble.next);
                assert_eq!(next, Some(NextStep::RetryAt(*due)));
            }
            Effect::Do(_)
            | Effect::WatchTracking { .. }
            | Effect::RunReplica
            | Effect::KeepOff { .. }
            | Effect::AwaitVault { .. }
            | Effect::ReclaimSpace
            | Effect::WakeAt { wake: Wake::TestLease | Wake::Decision, .. } => unreachable!(),
        }
    }
    // Where it may run on and must not is another host than the one that it comes back to.
    for host in &vm.left {
        assert!(pending.contains(&Effect::KeepOff { host: *host }), "{vm:?}");
        assert!(*host != vm.host || !vm.may_run_at_primary(), "it is turned off where it runs");
        assert!(*host != vm.host || vm.failback.is_none(), "it is turned off where it is brought");
    }
    let runs_replica = pending.contains(&Effect::RunReplica);
    assert!(!(runs_replica && vm.may_run_at_primary()), "two primaries: {vm:?}");
    if vm.source == Side::Recovery {
        assert!(vm.failback.is_some() && !vm.may_run_at_primary(), "{vm:?}");
    }

    if let Some(job) = job {
        let states: Vec<_> = job.tasks.iter().map(|task| task.state).collect();
        let done = states.iter().take_while(|state| **state == TaskState::Completed).count();
        let rest = &states[done..];
        assert!(
            rest.iter().skip(1).all(|state| *state == TaskState::NotStarted),
            "tasks are done in order: {states:?}"
        );
        match rest.first() {
            Some(TaskState::InProgress | TaskState::Failed) | None => {}
            Some(TaskState::NotStarted | TaskState::Completed) => {
                panic!("a job between two tasks: {states:?}")
            }
        }
        for task in &job.tasks {
            assert_eq!(task.started_at.is_none(), task.state == TaskState::NotStarted);
        }
    }

    assert!(vm.points.is_sorted_by(|one, next| one.cycle < next.cycle), "{:?}", vm.points);
    assert!(vm.points.last().is_none_or(|newest| newest.cycle < vm.delta.cycle));
    match vm.phase {
        Phase::Protected => {
            assert!(!vm.points.is_empty());
            assert_ne!(vm.delta.stage, Stage::Off, "protected without deltas");
        }
        Phase::CommitPending(kind) | Phase::FailedOver(kind) => {
            let failover = vm.failover.expect("it failed over");
            assert_eq!(failover.kind, kind);
            assert!(failover.started_at.is_some());
            assert!(vm.points.contains(&failover.point));
            assert_eq!(vm.delta.stage, Stage::Off);
        }
        Phase::FailingOver(_) => assert!(vm.failover_point().is_some(), "no point to run from"),
        Phase::FailingBack | Phase::FailbackReady => {
            let point = vm.failover.expect("it failed over").point;
            assert_eq!(vm.failover_point(), Some(point), "its disks are those of another point");
        }
        Phase::FailbackCommitPending | Phase::FailedBack => {
            assert!(!vm.points.is_empty());
            assert_eq!(vm.delta.stage, Stage::Off);
        }
        Phase::UnprotectedAtRecovery => {
            assert!(vm.failover_point().is_some(), "nobody knows its disks");
            assert!(runs_replica && vm.source == Side::Primary && vm.failback.is_none(), "{vm:?}");
        }
        Phase::Undiscovered
        | Phase::Unprotected
        | Phase::Enabling
        | Phase::InitialReplication
        | Phase::Finalizing
        | Phase::CancellingFailover
        | Phase::Disabling
        | Phase::Resynchronizing(_) => {}
    }
}

fn is_of_test(vm: &Vm, effect: &Effect) -> bool {
    match effect {
        Effect::Do(Work::Task { job, .. }) => {
            vm.test.as_ref().is_some_and(|test| test.job.id == *job)
        }
        Effect::WakeAt { wake, .. } => *wake == Wake::TestLease,
        _ => false,
    }
}

/// A test that is not cleaned up is worked on, or waits for its lease to end.
fn check_test(vm: &Vm) {
    let pending = vm.pending();
    let of_test = pending.iter().filter(|effect| is_of_test(vm, effect)).count();
    assert!(vm.test.is_some() == (0 < of_test), "{:?}", vm.test);
    let can_be_cleaned_up = vm.allowed_operations().contains(&"TestFailoverCleanup");
    assert_eq!(vm.test.is_some(), can_be_cleaned_up);
}

/// Every level has its reasons, and every reason says what comes next.
fn check_health(vm: &Vm, now: Timestamp) {
    let causes = vm.health_causes(now);
    for cause in &causes {
        assert!(!cause.because.is_empty() && !cause.next.is_empty(), "{cause:?}");
    }
    assert!(causes.is_sorted_by(|one, next| next.level <= one.level));
    match vm.health(now) {
        Health::Warning | Health::Critical => assert!(!causes.is_empty()),
        Health::Normal => {
            assert!(matches!(vm.phase, Phase::Protected | Phase::FailbackReady | Phase::Disabling));
            assert_eq!(vm.trouble, None);
        }
        Health::NotApplicable => assert_eq!(vm.trouble, None),
    }
}

/// The newest cycle that can be in the vault if everything that is to be done was done unreported.
fn newest_cycle_in_vault(vm: &Vm) -> u64 {
    vm.pending().into_iter().fold(0, |newest, effect| match effect {
        Effect::Do(Work::Snapshot { cycle } | Work::Ship { cycle, .. }) => newest.max(cycle),
        Effect::Do(Work::Task { step: Step::ApplyTrackedChanges, .. }) => {
            newest.max(vm.delta.cycle)
        }
        Effect::Do(Work::Task { step: Step::PrepareForFailover, .. }) => {
            let under_way = matches!(vm.delta.stage, Stage::Snapshotting | Stage::Shipping { .. });
            newest.max(vm.delta.cycle + u64::from(under_way))
        }
        Effect::Do(_)
        | Effect::WatchTracking { .. }
        | Effect::RunReplica
        | Effect::KeepOff { .. }
        | Effect::AwaitVault { .. }
        | Effect::ReclaimSpace
        | Effect::WakeAt { .. } => newest,
    })
}

fn check_round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
    let config = bincode::config::standard();
    let bytes = bincode::serde::encode_to_vec(value, config).unwrap();
    let (read, length): (T, _) = bincode::serde::decode_from_slice(&bytes, config).unwrap();
    assert_eq!((&read, length), (value, bytes.len()));
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *value, "{text}");
}

fn check_history(moves: Vec<Move>) -> Story {
    let mut story = Story::new();
    let mut newest_in_vault = 0;
    for next in moves {
        let Some(command) = command(&mut story, next) else { continue };
        let before = story.vm.clone();
        let Ok(events) = story.try_tell(command.clone()) else {
            assert_eq!(story.vm, before);
            continue;
        };
        if events.is_empty() {
            assert_eq!(story.vm, before);
            story.told.pop();
            continue;
        }
        check_state(&story.vm);
        check_health(&story.vm, story.now);
        assert!(before.epoch <= story.vm.epoch);
        for event in &events {
            if let Event::TrackingStarted { first_cycle } = event {
                assert!(newest_in_vault < *first_cycle, "a chain that begins in an earlier one");
            }
            if let Event::FailedOver { .. } = event {
                assert!(1 < story.vm.epoch, "failed over without a fence");
            }
        }
        newest_in_vault = newest_in_vault.max(newest_cycle_in_vault(&story.vm));
        if is_report(&command) {
            let again = story.vm.decide(&command, story.now).unwrap_or_default();
            assert_eq!(again, [], "told twice: {command:?}");
        }
    }
    story
}

proptest! {
    #[test]
    fn every_history_leads_to_a_state_that_goes_on_or_says_whom_it_waits_for(
        moves in proptest::collection::vec(a_move(), 0..200)
    ) {
        check_history(moves);
    }

    /// Commands that begin a history are rarely drawn: half of the histories start protected.
    #[test]
    fn every_history_of_a_protected_vm_leads_to_such_a_state(
        moves in proptest::collection::vec(a_move(), 0..150)
    ) {
        let mut all = vec![Move::Discover, Move::Enable];
        all.extend(std::iter::repeat_n(Move::Succeed, 11));
        all.extend(moves);
        check_history(all);
    }

    #[test]
    fn the_log_gives_the_same_state_again_and_survives_both_encodings(
        moves in proptest::collection::vec(a_move(), 0..100)
    ) {
        let mut all = vec![Move::Discover, Move::Enable];
        all.extend(std::iter::repeat_n(Move::Succeed, 11));
        all.extend(moves);
        let story = check_history(all);
        let mut folded = Vm::default();
        for (at, command, events) in story.told {
            assert_eq!(folded.decide(&command, at).as_ref(), Ok(&events));
            for event in &events {
                folded.apply(event, at);
            }
            let entry = Entry::Vm { command, events };
            check_round_trip(&entry);
        }
        assert_eq!(folded, story.vm);
        check_round_trip(&folded);
    }

    /// After a crash only the state is left: with nobody to tell of the past, the work that it names
    /// leads to the end of every job.
    #[test]
    fn a_state_alone_says_how_to_go_on(moves in proptest::collection::vec(a_move(), 0..100)) {
        let mut all = vec![Move::Discover, Move::Enable];
        all.extend(std::iter::repeat_n(Move::Succeed, 8));
        all.extend(moves);
        let mut story = check_history(all);
        if matches!(story.vm.phase, Phase::Unprotected | Phase::Undiscovered) {
            return Ok(());
        }
        _ = story.try_tell(Command::ReleaseStart);
        if matches!(story.vm.trouble.as_ref().map(|it| it.next), Some(NextStep::Administrator)) {
            story.tell(Command::Retry { because: RetryReason::Administrator });
        }
        if story.vm.allowed_operations().contains(&"RepairReplication") {
            story.tell(Command::Resynchronize { job: job_id(5) });
        }
        if story.vm.is_resync_paused() {
            story.tell(Command::ResumeReplication);
        }
        let alarm = story.alarm();
        if let Some((_, Command::Wake { wake: Wake::Retry(_) | Wake::Resync, .. })) = alarm {
            story.wake();
        }
        story.work_off();
        if story.vm.waits_for_its_time().is_some() {
            story.wake();
            story.work_off();
        }
        // What a cancelled failover leads back to can wait for its window.
        if story.vm.allowed_operations().contains(&"RepairReplication") {
            story.tell(Command::Resynchronize { job: job_id(5) });
            story.work_off();
        }
        let settled = matches!(
            story.vm.phase,
            Phase::Unprotected
                | Phase::Protected
                | Phase::CommitPending(_)
                | Phase::FailedOver(_)
                | Phase::FailbackReady
                | Phase::FailbackCommitPending
                | Phase::FailedBack
                | Phase::UnprotectedAtRecovery
        );
        prop_assert!(settled, "{:?}", story.vm);
    }
}

/// A search that does not get anywhere finds nothing.
#[test]
fn the_histories_meet_every_phase_in_peace_and_in_every_kind_of_trouble() {
    let mut runner = TestRunner::deterministic();
    let histories = proptest::collection::vec(a_move(), 0..200);
    let mut met = BTreeSet::new();
    for _ in 0..2000 {
        let drawn = histories.new_tree(&mut runner).unwrap().current();
        let mut story = Story::new();
        for next in [Move::Discover, Move::Enable].into_iter().chain(drawn) {
            if let Some(command) = command(&mut story, next) {
                let _ = story.try_tell(command);
            }
            let trouble = match story.vm.trouble.as_ref().map(|trouble| trouble.next) {
                None => "in peace",
                Some(NextStep::RetryAt(_)) => "waiting for its time",
                Some(NextStep::Trying) => "trying again",
                Some(NextStep::Administrator) => "waiting for an administrator",
            };
            met.insert((word(&story.vm.phase), trouble));
        }
    }
    let idle = ["Unprotected", "FailedOver"];
    assert!(44 <= met.len(), "{met:#?}");
    assert!(idle.iter().all(|phase| met.contains(&((*phase).to_owned(), "in peace"))));
}
