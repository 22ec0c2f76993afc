//! Recovery plans: their limits, the order of their steps, and what becomes of a failure.

use super::story::{BEGINNING, Story, check_failed, job_id, planned};
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::failure::Failure;
use lifeboat::domain::id::{PlanId, VmId};
use lifeboat::domain::plan::{
    Action, ActionKind, Command, Definition, Effect, Event, FailoverType, Group, Move, Plan, Probe,
    Run, RunKind, RunOptions, RunOutcome, StepState, Task, earlier, let_go, next_move,
};
use lifeboat::domain::vm::{Command as VmCommand, FailoverKind, Phase, PointChoice};
use uuid::Uuid;

fn vm(nth: u128) -> VmId {
    VmId(Uuid::from_u128(nth))
}

fn script(name: &str) -> Action {
    let command = vec![format!("/srv/{name}")];
    Action::of_every_run(name.to_owned(), ActionKind::Script { command, timeout_s: 60 })
}

fn gate(name: &str) -> Action {
    let probe = Probe::Tcp { address: "db:5432".to_owned() };
    Action::of_every_run(name.to_owned(), ActionKind::Gate { probe, within_s: 300 })
}

fn manual(name: &str) -> Action {
    let instructions = "look at it".to_owned();
    Action::of_every_run(name.to_owned(), ActionKind::Manual { instructions })
}

/// Two groups: a database with a gate behind it, then two VMs that somebody looks at first.
fn shop() -> Definition {
    Definition {
        before: vec![script("announce")],
        after_shutdown: vec![],
        after_failover: vec![],
        groups: vec![
            Group { before: vec![], vms: vec![vm(1)], after: vec![gate("db answers")] },
            Group { before: vec![manual("look")], vms: vec![vm(2), vm(3)], after: vec![] },
        ],
    }
}

/// A plan and what happened to it.
struct Told {
    plan: Plan,
}

impl Told {
    fn defined(definition: Definition) -> Self {
        let mut told = Self { plan: Plan::default() };
        let (id, name) = (PlanId(Uuid::from_u128(7)), "shop".to_owned());
        told.tell(Command::DefinePlan { id, name, definition });
        told
    }

    fn running(kind: RunKind) -> Self {
        let mut told = Self::defined(shop());
        told.tell(Command::Start { job: job_id(1), kind });
        told
    }

    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "commands are made where they are told")]
    fn tell(&mut self, command: Command) -> Vec<Event> {
        let events = self.plan.decide(&command, BEGINNING).expect("the state allows it");
        for event in &events {
            self.plan.apply(event, BEGINNING);
        }
        events
    }

    /// Everything that is called for is reported on; `failure` answers for a VM.
    fn go_on(&mut self, failure: impl Fn(VmId) -> Option<Failure>) {
        while let Some(effect) = self.plan.pending().first().copied() {
            self.tell(match effect {
                Effect::Act { job, step } => {
                    Command::ReportAction { job, step, output: "fine".to_owned(), failure: None }
                }
                Effect::Move { job, step, vm } => {
                    Command::ReportVm { job, step, vm, failure: failure(vm) }
                }
                Effect::LetGo { job, vm } => Command::ReportLetGo { job, vm },
            });
        }
    }

    fn run(&self) -> &Run {
        self.plan.run.as_ref().expect("it ran")
    }

    fn states(&self) -> Vec<String> {
        let run = self.run();
        let word = |step: &lifeboat::domain::plan::Step| {
            let task = match &step.task {
                Task::Act { action, .. } => action.name.clone(),
                Task::FailOver => "failover".to_owned(),
                Task::Boot { group } => format!("boot {group}"),
                Task::All => "all".to_owned(),
                Task::ShutDown => "shutdown".to_owned(),
            };
            format!("{task}: {}", super::story::word(&step.state))
        };
        run.steps.iter().map(word).collect()
    }

    fn outcome(&self) -> Option<RunOutcome> {
        self.plan.run.as_ref()?.ended.map(|(_, outcome)| outcome)
    }
}

#[test]
fn all_vms_fail_over_at_once_and_the_groups_start_one_after_the_other() {
    let mut told = Told::running(RunKind::Planned);
    assert_eq!(told.plan.pending().len(), 1, "the script comes first");
    let Some(Effect::Act { job, step }) = told.plan.pending().first().copied() else {
        panic!("{:?}", told.plan.pending());
    };
    told.tell(Command::ReportAction { job, step, output: "told".to_owned(), failure: None });
    assert_eq!(told.plan.pending().len(), 3, "all VMs at once");
    told.go_on(|_| None);
    assert!(told.plan.running().is_some_and(Run::waits_for_somebody));
    let step = told.plan.running().expect("it runs").current;
    told.tell(Command::Continue { step, notes: "looked".to_owned() });
    assert_eq!(told.plan.pending().len(), 2);
    told.go_on(|_| None);
    assert_eq!(told.outcome(), Some(RunOutcome::Completed));
    assert_eq!(
        told.states(),
        [
            "announce: Completed",
            "failover: Completed",
            "boot 1: Completed",
            "db answers: Completed",
            "look: Completed",
            "boot 2: Completed",
        ]
    );
}

#[test]
fn a_planned_run_stops_where_a_vm_fails_and_an_unplanned_one_goes_on_without_it() {
    let database_fails = |id: VmId| (id == vm(1)).then(check_failed);
    let mut planned = Told::running(RunKind::Planned);
    planned.go_on(database_fails);
    assert_eq!(planned.outcome(), Some(RunOutcome::Failed));
    assert_eq!(planned.states()[1..3], ["failover: Failed", "boot 1: NotStarted"]);

    let mut unplanned = Told::running(RunKind::Unplanned);
    unplanned.go_on(database_fails);
    let step = unplanned.plan.running().expect("it waits for somebody to look").current;
    unplanned.tell(Command::Continue { step, notes: String::new() });
    unplanned.go_on(database_fails);
    assert_eq!(unplanned.outcome(), Some(RunOutcome::PartiallySucceeded));
    // Nothing of the first group is left to start; the gate behind it is asked all the same.
    assert_eq!(unplanned.states()[2..4], ["boot 1: NotStarted", "db answers: Completed"]);
    assert_eq!(unplanned.states()[5], "boot 2: Completed");
}

#[test]
fn a_run_in_which_every_vm_fails_ends() {
    let mut told = Told::running(RunKind::Unplanned);
    told.go_on(|_| Some(check_failed()));
    let step = told.plan.running().expect("a manual action is left").current;
    told.tell(Command::Continue { step, notes: String::new() });
    assert_eq!(told.outcome(), Some(RunOutcome::PartiallySucceeded));
}

#[test]
fn a_gate_that_stays_shut_waits_for_somebody_in_every_kind_of_run() {
    for kind in [RunKind::Planned, RunKind::Unplanned, RunKind::Test { network: "x".to_owned() }] {
        let mut told = Told::running(kind);
        let at_gate = |plan: &Plan| {
            let step = plan.running().and_then(|run| run.step()).expect("it runs");
            matches!(&step.task, Task::Act { action, .. } if action.name == "db answers")
        };
        while !at_gate(&told.plan) {
            let command = match told.plan.pending()[0] {
                Effect::Act { job, step } => {
                    Command::ReportAction { job, step, output: String::new(), failure: None }
                }
                Effect::Move { job, step, vm } => {
                    Command::ReportVm { job, step, vm, failure: None }
                }
                Effect::LetGo { .. } => panic!("it runs"),
            };
            told.tell(command);
        }
        let Effect::Act { job, step } = told.plan.pending()[0] else { panic!("no gate") };
        let failure = Some(gate("db answers").failure("connection refused"));
        told.tell(Command::ReportAction { job, step, output: String::new(), failure });
        assert!(told.plan.running().is_some_and(Run::waits_for_somebody));
        assert_eq!(told.plan.pending(), []);
        let too_early = told.plan.decide(&Command::Retry { step: step + 1 }, BEGINNING);
        assert!(matches!(too_early, Err(Rejection::Unknown { .. })));
        told.tell(Command::Retry { step });
        assert_eq!(told.plan.pending(), [Effect::Act { job, step }]);
    }
}

#[test]
fn a_run_whose_last_gate_was_passed_over_did_not_wholly_succeed() {
    let groups =
        vec![Group { vms: vec![vm(1)], after: vec![gate("db answers")], ..Group::default() }];
    let mut told = Told::defined(Definition { groups, ..Definition::default() });
    told.tell(Command::Start { job: job_id(1), kind: RunKind::Unplanned });
    for _ in 0..2 {
        let Effect::Move { job, step, vm } = told.plan.pending()[0] else { panic!("no VM") };
        told.tell(Command::ReportVm { job, step, vm, failure: None });
    }
    let Effect::Act { job, step } = told.plan.pending()[0] else { panic!("no gate") };
    let failure = Some(gate("db answers").failure("connection refused"));
    told.tell(Command::ReportAction { job, step, output: String::new(), failure });
    told.tell(Command::Continue { step, notes: "it is slow".to_owned() });
    assert_eq!(told.outcome(), Some(RunOutcome::PartiallySucceeded));
}

#[test]
fn a_run_that_is_cancelled_or_late_reports_change_nothing() {
    let mut told = Told::running(RunKind::Unplanned);
    let late = told.plan.pending()[0];
    told.tell(Command::Cancel);
    assert_eq!(told.outcome(), Some(RunOutcome::Cancelled));
    let Effect::Act { job, step } = late else { panic!("a script comes first") };
    let report = Command::ReportAction { job, step, output: String::new(), failure: None };
    assert_eq!(told.tell(report), []);
    assert!(told.plan.decide(&Command::Cancel, BEGINNING).is_err());
}

#[test]
fn a_plan_that_runs_is_not_changed() {
    let told = Told::running(RunKind::Planned);
    let (id, name) = (told.plan.id, told.plan.name.clone());
    let change = Command::DefinePlan { id, name, definition: shop() };
    assert!(matches!(told.plan.decide(&change, BEGINNING), Err(Rejection::NotAllowed { .. })));
    assert!(told.plan.decide(&Command::Delete, BEGINNING).is_err());
    let again = Command::Start { job: job_id(2), kind: RunKind::Planned };
    assert!(told.plan.decide(&again, BEGINNING).is_err());
}

#[test]
fn limits_are_refused_by_name() {
    let refused = |definition: Definition| match definition.check() {
        Err(Rejection::OutOfRange { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let group = |vms: Vec<VmId>| Group { vms, ..Group::default() };
    let of = |groups: Vec<Group>| Definition { groups, ..Definition::default() };
    assert!(refused(of(vec![])).contains("groups"));
    assert!(refused(of((0..8).map(|nth| group(vec![vm(nth)])).collect())).contains("groups"));
    assert!(refused(of(vec![group((0..101).map(vm).collect())])).contains("VMs"));
    assert!(refused(of(vec![group(vec![vm(1), vm(1)])])).contains("plan"));
    let mut nameless = of(vec![group(vec![vm(1)])]);
    nameless.before.push(manual(""));
    assert!(refused(nameless).contains("name"));
    let mut endless = of(vec![group(vec![vm(1)])]);
    let kind = ActionKind::Script { command: vec!["x".to_owned()], timeout_s: 0 };
    endless.before.push(Action::of_every_run("x".to_owned(), kind));
    assert!(refused(endless).contains("time limit"));
    let mut idle = of(vec![group(vec![vm(1)])]);
    let only = [FailoverType::Test].into();
    idle.after_shutdown.push(Action { only, ..manual("look") });
    assert!(refused(idle).contains("after the shutdown"));
    assert!(of((0..7).map(|nth| group(vec![vm(nth)])).collect()).check().is_ok());
}

/// A plan of the one VM of a story.
fn plan_of(story: &Story, kind: RunKind) -> Told {
    plan_with(story, kind, RunOptions::default())
}

/// The same, run with what was chosen.
fn plan_with(story: &Story, kind: RunKind, options: RunOptions) -> Told {
    let groups = vec![Group { vms: vec![story.vm.id], ..Group::default() }];
    let mut told = Told::defined(Definition { groups, ..Definition::default() });
    let job = job_id(50 + kind.name().len() as u128);
    told.tell(Command::start(job, kind, options));
    told
}

/// What the VM is told first, once its start is held.
fn first_order(told: &Told, story: &mut Story) -> VmCommand {
    loop {
        let run = told.plan.running().expect("it runs");
        let Move::Tell(command) = next_move(&told.plan, run, &story.vm) else { panic!("no order") };
        match *command {
            VmCommand::HoldStart { .. } => drop(story.tell(*command)),
            order => return order,
        }
    }
}

#[test]
fn what_is_chosen_for_a_run_is_what_each_vm_is_asked_for() {
    let usual = RunOptions::default();
    let network = || RunKind::Test { network: "isolated".to_owned() };
    let mut story = Story::protected();

    let point = PointChoice::LatestProcessed;
    let told = plan_with(&story, RunKind::Unplanned, RunOptions { point, ..usual.clone() });
    let order = first_order(&told, &mut story);
    assert!(matches!(order, VmCommand::UnplannedFailover { point: asked, .. } if asked == point));

    let told =
        plan_with(&story, RunKind::Unplanned, RunOptions { synchronize: true, ..usual.clone() });
    let order = first_order(&told, &mut story);
    assert!(matches!(order, VmCommand::SynchronizeAndFailOver { .. }), "{order:?}");

    let mut told = plan_with(&story, network(), RunOptions { point, lease_h: 2, ..usual.clone() });
    let order = first_order(&told, &mut story);
    let VmCommand::TestFailover { point: asked, lease_h, .. } = &order else { panic!("{order:?}") };
    assert_eq!((*asked, *lease_h), (point, 2));
    for _ in 0..2 {
        bring_along(&mut told, &mut story).expect("the copy starts");
    }
    let notes = "it sold".to_owned();
    let mut told =
        plan_with(&story, RunKind::CleanUp, RunOptions { notes: notes.clone(), ..usual });
    bring_along(&mut told, &mut story).expect("it is cleaned up");
    assert_eq!(story.vm.last_test.as_ref().map(|test| &test.notes), Some(&notes));
}

#[test]
fn a_vm_without_such_a_point_fails_and_a_run_without_choices_is_told_as_it_always_was() {
    let mut story = Story::protected();
    let point = PointChoice::LatestApplicationConsistent;
    let options = RunOptions { point, ..RunOptions::default() };
    let told = plan_with(&story, RunKind::Unplanned, options);
    let order = first_order(&told, &mut story);
    assert!(matches!(story.vm.decide(&order, BEGINNING), Err(Rejection::Unknown { .. })));

    let (job, kind) = (job_id(1), RunKind::Planned);
    let start = Command::start(job, kind.clone(), RunOptions::default());
    assert_eq!(start, Command::Start { job, kind });
}

#[test]
fn a_choice_that_such_a_run_does_not_have_is_refused() {
    let usual = RunOptions::default();
    let told = Told::defined(shop());
    let network = RunKind::Test { network: "isolated".to_owned() };
    let (processed, synchronize) = (PointChoice::LatestProcessed, true);
    for (kind, options) in [
        (RunKind::Planned, RunOptions { point: processed, ..usual.clone() }),
        (RunKind::Unplanned, RunOptions { point: PointChoice::Cycle(3), ..usual.clone() }),
        (RunKind::Unplanned, RunOptions { point: processed, synchronize, ..usual.clone() }),
        (network.clone(), RunOptions { synchronize, ..usual.clone() }),
        (RunKind::Unplanned, RunOptions { lease_h: 2, ..usual.clone() }),
        (network, RunOptions { lease_h: 337, ..usual.clone() }),
        (RunKind::Commit, RunOptions { notes: "it sold".to_owned(), ..usual }),
    ] {
        let start = Command::start(job_id(1), kind, options);
        let decided = told.plan.decide(&start, BEGINNING);
        assert!(matches!(decided, Err(Rejection::OutOfRange { .. })), "{start:?}: {decided:?}");
    }
}

/// Does what the plan has the VM do, until it has done its part of the step.
fn bring_along(told: &mut Told, story: &mut Story) -> Result<(), String> {
    for _ in 0..100 {
        let run = told.plan.running().expect("it runs");
        match next_move(&told.plan, run, &story.vm) {
            Move::Done => {
                let Effect::Move { job, step, vm } = told.plan.pending()[0] else { panic!("act") };
                told.tell(Command::ReportVm { job, step, vm, failure: None });
                return Ok(());
            }
            Move::Fail(why) => return Err(why),
            Move::Tell(command) => drop(story.tell(*command)),
            Move::Wait if story.test_work().is_some() => drop(story.succeed_in_test()),
            Move::Wait => drop(story.succeed()),
        }
    }
    panic!("it does not get on: {:?}", story.vm)
}

#[test]
fn a_vm_of_a_plan_waits_before_it_starts_and_is_started_with_its_group() {
    for kind in [RunKind::Planned, RunKind::Unplanned] {
        let mut story = Story::protected();
        let mut told = plan_of(&story, kind);
        bring_along(&mut told, &mut story).expect("it fails over");
        assert!(story.vm.waits_for_plan());
        assert!(matches!(story.vm.phase, Phase::FailingOver(_)));
        bring_along(&mut told, &mut story).expect("it starts");
        assert!(matches!(story.vm.phase, Phase::CommitPending(_)));
        assert_eq!((told.outcome(), story.vm.held), (Some(RunOutcome::Completed), None));

        let mut told = plan_of(&story, RunKind::Commit);
        bring_along(&mut told, &mut story).expect("it is committed");
        assert!(matches!(story.vm.phase, Phase::FailedOver(_)));
    }
}

/// A plan of the one VM of a story, in which somebody looks at what was shut down, run.
fn looking_plan(story: &Story, kind: RunKind) -> Told {
    let groups = vec![Group { vms: vec![story.vm.id], ..Group::default() }];
    let after_shutdown = vec![manual("look")];
    let mut told = Told::defined(Definition { after_shutdown, groups, ..Definition::default() });
    told.tell(Command::Start { job: job_id(90 + kind.name().len() as u128), kind });
    told
}

/// Confirms what the run waits for.
fn confirm(told: &mut Told) {
    let step = told.run().current;
    assert_eq!(told.run().steps[step as usize].state, StepState::WaitingForManualAction);
    told.tell(Command::Continue { step, notes: "seen".to_owned() });
}

#[test]
fn between_shutting_down_and_failing_over_a_plan_does_what_it_has_to_do_there() {
    for kind in [RunKind::Planned, RunKind::Unplanned] {
        let mut story = Story::protected();
        let mut told = looking_plan(&story, kind);
        assert_eq!(told.run().step().map(|step| &step.task), Some(&Task::ShutDown));
        bring_along(&mut told, &mut story).expect("it is shut down");
        assert!(story.vm.waits_for_plan() && story.vm.held_off);
        assert_eq!(story.vm.work(), None, "nothing is done meanwhile");
        assert!(story.vm.source_ended.is_some(), "the source is off, or closed out");
        confirm(&mut told);
        assert_eq!(told.run().step().map(|step| &step.task), Some(&Task::FailOver));
        bring_along(&mut told, &mut story).expect("it fails over");
        assert!(story.vm.waits_for_plan() && !story.vm.held_off, "it could start");
        bring_along(&mut told, &mut story).expect("it starts");
        assert!(matches!(story.vm.phase, Phase::CommitPending(_)));
        assert_eq!(told.outcome(), Some(RunOutcome::Completed));
        assert_eq!((story.vm.held, story.vm.held_off), (None, false));
    }
    let story = Story::protected();
    let told = looking_plan(&story, RunKind::Test { network: "isolated".to_owned() });
    assert!(
        told.run().steps.iter().all(|step| step.task != Task::ShutDown),
        "nothing is shut down"
    );
    assert_eq!(told.run().steps.len(), 2);
}

#[test]
fn a_run_that_is_cancelled_after_shutting_down_leaves_a_way_on_and_a_way_back() {
    // A planned run can be run again and goes on from there.
    let mut story = Story::protected();
    let mut told = looking_plan(&story, RunKind::Planned);
    bring_along(&mut told, &mut story).expect("it is shut down");
    told.tell(Command::Cancel);
    let_vm_go(&mut told, &mut story);
    assert!(story.vm.waits_for_plan() && story.vm.held_off, "somebody decides");
    told.tell(Command::Start { job: job_id(91), kind: RunKind::Planned });
    bring_along(&mut told, &mut story).expect("it is shut down already");
    confirm(&mut told);
    bring_along(&mut told, &mut story).expect("it fails over");
    bring_along(&mut told, &mut story).expect("it starts");
    assert!(matches!(story.vm.phase, Phase::CommitPending(_)), "{}", story.vm.phase);

    // Or somebody takes it back: nothing was closed to the primary site yet.
    let mut story = Story::protected();
    let mut told = looking_plan(&story, RunKind::Planned);
    bring_along(&mut told, &mut story).expect("it is shut down");
    let epoch = story.vm.epoch;
    told.tell(Command::Cancel);
    let_vm_go(&mut told, &mut story);
    story.tell(VmCommand::CancelFailover { job: job_id(92) });
    story.work_off();
    assert_eq!((&story.vm.phase, story.vm.epoch), (&Phase::Protected, epoch));
    assert_eq!((story.vm.held, story.vm.held_off), (None, false));

    // Or lets it go on by hand.
    for kind in [RunKind::Planned, RunKind::Unplanned] {
        let mut story = Story::protected();
        let mut told = looking_plan(&story, kind);
        bring_along(&mut told, &mut story).expect("it is shut down");
        told.tell(Command::Cancel);
        let_vm_go(&mut told, &mut story);
        _ = story.try_tell(VmCommand::ReleaseStart);
        story.work_off();
        assert!(matches!(story.vm.phase, Phase::CommitPending(_)), "{}", story.vm.phase);
    }
}

#[test]
fn an_unplanned_run_takes_the_place_of_a_planned_one_that_has_shut_its_vms_down() {
    let mut story = Story::protected();
    let mut told = looking_plan(&story, RunKind::Planned);
    bring_along(&mut told, &mut story).expect("it is shut down");
    told.tell(Command::Cancel);
    let_vm_go(&mut told, &mut story);
    let (job, kind) = (job_id(91), RunKind::Unplanned);
    told.tell(Command::Start { job, kind });
    let Move::Tell(order) = next_move(&told.plan, told.run(), &story.vm) else {
        panic!("no order")
    };
    assert!(matches!(*order, VmCommand::ReplaceFailover { synchronize: false, .. }), "{order:?}");
    bring_along(&mut told, &mut story).expect("nobody waits for its host");
    assert!(matches!(story.vm.phase, Phase::FailingOver(FailoverKind::Unplanned)));
    assert!(story.vm.failover_waits_for_plan() && story.vm.held_off, "it is held as before");
    confirm(&mut told);
    bring_along(&mut told, &mut story).expect("it fails over");
    assert!(story.vm.failover_waits_for_plan() && !story.vm.held_off);
    bring_along(&mut told, &mut story).expect("it starts");
    assert_eq!(story.vm.phase, Phase::CommitPending(FailoverKind::Unplanned));

    // One that could start has sent everything: nothing takes its place.
    let mut story = Story::protected();
    let mut told = plan_of(&story, RunKind::Planned);
    bring_along(&mut told, &mut story).expect("it could start");
    told.tell(Command::Cancel);
    let_vm_go(&mut told, &mut story);
    told.tell(Command::Start { job: job_id(92), kind: RunKind::Unplanned });
    bring_along(&mut told, &mut story).expect("it could start");
    bring_along(&mut told, &mut story).expect("it starts");
    assert_eq!(story.vm.phase, Phase::CommitPending(FailoverKind::Planned));
}

#[test]
fn a_vm_that_is_not_off_any_more_is_not_shut_down_again_after_what_was_done_for_that() {
    let mut story = Story::protected();
    let mut told = looking_plan(&story, RunKind::Planned);
    bring_along(&mut told, &mut story).expect("it is shut down");
    story.tell(VmCommand::ReleaseStart);
    story.work_off();
    story.tell(VmCommand::CancelFailover { job: job_id(92) });
    story.work_off();
    assert_eq!(story.vm.phase, Phase::Protected);
    confirm(&mut told);
    let why = next_move(&told.plan, told.run(), &story.vm);
    let Move::Fail(why) = why else { panic!("{why:?}") };
    assert!(why.contains("is not shut down any more: it is protected"), "{why}");
}

#[test]
fn the_end_of_a_test_lets_nothing_go_that_a_plan_holds_for_a_failover() {
    let mut story = Story::protected();
    story.tell(super::story::test_failover());
    let mut told = looking_plan(&story, RunKind::Planned);
    bring_along_the_failover(&mut told, &mut story);
    while story.test_work().is_some() {
        story.succeed_in_test();
    }
    story.tell(super::story::clean_up());
    while story.test_work().is_some() {
        story.succeed_in_test();
    }
    assert!(story.vm.test.is_none(), "{:?}", story.vm.test);
    assert!(story.vm.failover_waits_for_plan() && story.vm.held_off, "nobody has looked yet");
}

/// As [`bring_along`], while a test has work of its own.
fn bring_along_the_failover(told: &mut Told, story: &mut Story) {
    for _ in 0..40 {
        match next_move(&told.plan, told.run(), &story.vm) {
            Move::Done => return,
            Move::Fail(why) => panic!("{why}"),
            Move::Tell(command) => drop(story.tell(*command)),
            Move::Wait => drop(story.succeed()),
        }
    }
    panic!("it does not get on: {:?}", story.vm)
}

#[test]
fn an_action_is_done_in_the_runs_that_it_is_for() {
    let only = |action: Action, only: &[FailoverType]| Action {
        only: only.iter().copied().collect(),
        ..action
    };
    let definition = Definition {
        before: vec![only(script("tell users"), &[FailoverType::Planned])],
        after_shutdown: vec![only(script("move names"), &[FailoverType::Unplanned])],
        groups: vec![Group {
            vms: vec![vm(1)],
            after: vec![
                only(gate("probe"), &[FailoverType::Test, FailoverType::Planned]),
                script("always"),
            ],
            ..Group::default()
        }],
        ..Definition::default()
    };
    let steps = |kind: RunKind| {
        let mut told = Told::defined(definition.clone());
        told.tell(Command::Start { job: job_id(1), kind });
        let name = |task: &Task| match task {
            Task::Act { action, .. } => action.name.clone(),
            other => format!("{other:?}"),
        };
        told.run().steps.iter().map(|step| name(&step.task)).collect::<Vec<_>>()
    };
    let boot = "Boot { group: 1 }";
    assert_eq!(
        steps(RunKind::Planned),
        ["tell users", "FailOver", boot, "probe", "always"],
        "nothing is done between, so nobody waits there"
    );
    assert_eq!(steps(RunKind::Unplanned), ["ShutDown", "move names", "FailOver", boot, "always"]);
    let test = RunKind::Test { network: "isolated".to_owned() };
    assert_eq!(steps(test), ["FailOver", boot, "probe", "always"]);
    assert_eq!(steps(RunKind::Commit), ["All"]);
}

#[test]
fn a_plan_that_was_defined_before_actions_had_runs_is_the_same_plan() {
    let action = |name: &str| {
        let Action { name, kind, .. } = script(name);
        earlier::Action { name, kind }
    };
    let group =
        earlier::Group { vms: vec![vm(1)], before: vec![action("b")], after: vec![action("c")] };
    let definition = earlier::Definition {
        before: vec![action("a")],
        after_failover: vec![action("d")],
        groups: vec![group],
    };
    let mut told = Told { plan: Plan::default() };
    let (id, name) = (PlanId(Uuid::from_u128(7)), "shop".to_owned());
    let define = Command::Define { id, name: name.clone(), definition: definition.clone() };
    assert_eq!(told.tell(define.clone()), [Event::Defined { id, name: name.clone(), definition }]);
    assert_eq!(told.tell(define), [], "as it was");
    let definition = Definition {
        before: vec![script("a")],
        after_failover: vec![script("d")],
        groups: vec![Group {
            vms: vec![vm(1)],
            before: vec![script("b")],
            after: vec![script("c")],
        }],
        ..Definition::default()
    };
    assert_eq!(told.tell(Command::DefinePlan { id, name, definition }), [], "it is that already");
}

/// Does what is called for once a run has ended: lets go of the VM of a story.
fn let_vm_go(told: &mut Told, story: &mut Story) {
    let Effect::LetGo { job, vm } = told.plan.pending()[0] else { panic!("it runs") };
    let run = told.plan.run.clone().expect("it ran");
    while let Move::Tell(command) = let_go(&told.plan, &run, &story.vm) {
        story.tell(*command);
    }
    assert_eq!(let_go(&told.plan, &run, &story.vm), Move::Done);
    told.tell(Command::ReportLetGo { job, vm });
    assert_eq!(told.plan.pending(), []);
    assert_eq!(told.tell(Command::ReportLetGo { job, vm }), [], "once");
}

#[test]
fn an_unplanned_run_or_test_that_is_cancelled_lets_its_vms_start() {
    let mut story = Story::protected();
    let mut told = plan_of(&story, RunKind::Unplanned);
    bring_along(&mut told, &mut story).expect("it fails over");
    told.tell(Command::Cancel);
    let_vm_go(&mut told, &mut story);
    story.work_off();
    assert!(matches!(story.vm.phase, Phase::CommitPending(_)), "{}", story.vm.phase);

    let mut story = Story::protected();
    let mut told = plan_of(&story, RunKind::Test { network: "isolated".to_owned() });
    bring_along(&mut told, &mut story).expect("the copy could start");
    told.tell(Command::Cancel);
    let_vm_go(&mut told, &mut story);
    while story.test_work().is_some() {
        story.succeed_in_test();
    }
    assert!(story.vm.test.as_ref().is_some_and(|test| test.started_at.is_some()));
}

#[test]
fn a_planned_run_that_is_cancelled_keeps_what_was_shut_down_and_can_go_on() {
    let mut story = Story::protected();
    let mut told = plan_of(&story, RunKind::Planned);
    bring_along(&mut told, &mut story).expect("it fails over");
    told.tell(Command::Cancel);
    let_vm_go(&mut told, &mut story);
    assert!(story.vm.waits_for_plan(), "somebody decides");
    told.tell(Command::Start { job: job_id(90), kind: RunKind::Planned });
    bring_along(&mut told, &mut story).expect("it was failed over");
    bring_along(&mut told, &mut story).expect("it starts");
    assert!(matches!(story.vm.phase, Phase::CommitPending(_)), "{}", story.vm.phase);

    // One that was not shut down yet waits for no plan when it is failed over by hand.
    let mut story = Story::protected();
    let mut told = plan_of(&story, RunKind::Planned);
    story.tell(VmCommand::HoldStart { plan: told.plan.id });
    told.tell(Command::Cancel);
    let_vm_go(&mut told, &mut story);
    assert_eq!(story.vm.held, None);
}

#[test]
fn a_run_that_touched_no_vm_or_started_all_has_none_to_let_go_of() {
    let mut told = Told::running(RunKind::Planned);
    told.tell(Command::Cancel);
    assert_eq!(told.plan.pending(), []);
    let mut story = Story::protected();
    let mut told = plan_of(&story, RunKind::Planned);
    for _ in 0..2 {
        bring_along(&mut told, &mut story).expect("it gets on");
    }
    assert_eq!((told.outcome(), told.plan.pending()), (Some(RunOutcome::Completed), vec![]));
}

#[test]
fn a_vm_that_another_plan_keeps_fails_at_once() {
    let mut story = Story::protected();
    let mut told = plan_of(&story, RunKind::Planned);
    bring_along(&mut told, &mut story).expect("it fails over");
    told.tell(Command::Cancel);
    let_vm_go(&mut told, &mut story);
    let mut other = plan_of(&story, RunKind::Planned);
    other.plan.id = PlanId(Uuid::from_u128(8));
    let why = bring_along(&mut other, &mut story).expect_err("it is the other's");
    assert!(why.contains("another recovery plan"), "{why}");
}

#[test]
fn a_test_of_a_plan_is_cleaned_up_with_it() {
    let mut story = Story::protected();
    let mut told = plan_of(&story, RunKind::Test { network: "isolated".to_owned() });
    bring_along(&mut told, &mut story).expect("the copy could start");
    assert!(story.vm.test.as_ref().is_some_and(|test| test.started_at.is_none()));
    bring_along(&mut told, &mut story).expect("the copy starts");
    assert!(story.vm.test.as_ref().is_some_and(|test| test.started_at.is_some()));
    let mut told = plan_of(&story, RunKind::CleanUp);
    bring_along(&mut told, &mut story).expect("it is cleaned up");
    assert_eq!((story.vm.test.as_ref(), &story.vm.phase), (None, &Phase::Protected));
}

#[test]
fn a_failback_of_a_plan_is_reversed_with_it() {
    let mut story = Story::failed_back();
    story.tell(super::story::commit());
    story.work_off();
    let mut told = plan_of(&story, RunKind::Reverse);
    bring_along(&mut told, &mut story).expect("it is replicated again");
    assert_eq!(story.vm.phase, Phase::Protected);
}

#[test]
fn what_somebody_did_by_hand_is_passed_over_and_what_cannot_be_is_said() {
    let mut story = Story::protected();
    story.tell(planned());
    story.work_off();
    let mut told = plan_of(&story, RunKind::Planned);
    bring_along(&mut told, &mut story).expect("it is there already");
    bring_along(&mut told, &mut story).expect("it runs already");

    let mut story = Story::discovered(1);
    let mut told = plan_of(&story, RunKind::Unplanned);
    let why = bring_along(&mut told, &mut story).expect_err("it is not protected");
    assert!(why.contains("sql-01") && why.contains("not protected"), "{why}");
}

#[test]
fn a_failover_whose_check_fails_fails_its_vm_once() {
    let mut story = Story::protected();
    let mut told = plan_of(&story, RunKind::Planned);
    story.tell(VmCommand::HoldStart { plan: told.plan.id });
    let run = told.plan.running().expect("it runs");
    let Move::Tell(command) = next_move(&told.plan, run, &story.vm) else { panic!("no order") };
    story.tell(*command);
    story.fail(check_failed());
    assert_eq!(story.vm.held, None);
    let why = bring_along(&mut told, &mut story).expect_err("it is not tried again");
    assert!(why.contains("failed"), "{why}");
    assert!(matches!(
        told.plan.running().and_then(|run| run.step()).map(|step| &step.state),
        Some(StepState::InProgress)
    ));
}

#[test]
fn a_failed_failover_is_not_ordered_again_while_the_vm_does_something_else() {
    let mut story = Story::resynchronizing();
    let mut told = plan_of(&story, RunKind::Unplanned);
    story.tell(VmCommand::HoldStart { plan: told.plan.id });
    let run = told.plan.running().expect("it runs");
    let Move::Tell(command) = next_move(&told.plan, run, &story.vm) else { panic!("no order") };
    story.tell(*command);
    story.fail(check_failed());
    story.succeed();
    assert!(matches!(story.vm.phase, Phase::Resynchronizing(_)), "{}", story.vm.phase);
    let why = bring_along(&mut told, &mut story).expect_err("it is not tried again");
    assert!(why.contains("the failover of sql-01 failed"), "{why}");
}
