//! What the simulator promises about itself: the same run again, a run that the seed changes, the smallest
//! timeline that still fails, and expectations that can fail.

use super::{named, of, seeded, small};
use lifeboat::domain::entity::Entry;
use lifeboat::domain::policy::Policy;
use lifeboat::domain::{cloud, vm};
use lifeboat::sim::{
    Deed, Driver, RunOptions, Scenario, Schedule, Subject, Verdict, explore, run, shrink,
};
use std::collections::BTreeSet;

#[test]
fn the_same_scenario_and_seed_give_the_same_log_and_another_seed_another() {
    let scenario = Scenario::random(11);
    let first = of(&scenario, 11);
    let again = of(&scenario, 11);
    assert_eq!(first.log_hash, again.log_hash);
    assert_eq!(first.log, again.log);
    assert_ne!(first.log_hash, of(&scenario, 12).log_hash);
}

#[test]
fn an_expectation_that_does_not_hold_fails_the_run() {
    let outcome = of(&small("[[expect]]\nthat = \"points\"\nat_most = 1\n"), 1);
    assert!(!outcome.passed());
    assert_eq!(outcome.expectations[0].verdict, Verdict::Fail);
    assert_ne!(outcome.expectations[0].found, "");
}

#[test]
fn a_failing_run_shrinks_to_the_step_that_matters() {
    let scenario = small(
        r#"
        [[at]]
        t = "4m"
        do = "slow_link"
        rtt = "200ms"
        for = "1m"

        [[at]]
        t = "6m"
        do = "lossy_link"
        percent = 5
        for = "1m"

        [[at]]
        t = "7m"
        do = "power_loss"
        host = "host-1"
        for = "30s"

        [[at]]
        t = "12m"
        do = "jump_clock"
        forward = "1m"

        [[expect]]
        that = "resyncs"
        is = 0
        "#,
    );
    let smallest = shrink(&scenario, seeded(1), &|_| ()).unwrap().unwrap();
    let left: Vec<String> = smallest.at.iter().map(ToString::to_string).collect();
    assert_eq!(left, ["power_loss host-1 for 30s"]);
    // What is left is a scenario, and it fails as the whole one did.
    let text = smallest.to_toml().unwrap();
    let read = Scenario::parse("the smallest", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert!(!of(&read, 1).passed());
}

#[test]
fn what_passes_does_not_shrink() {
    assert!(shrink(&small(""), seeded(1), &|_| ()).unwrap().is_none());
}

#[test]
fn exploring_stops_at_a_seed_that_fails() {
    let failing = small("[[expect]]\nthat = \"points\"\nat_most = 1\n");
    let explored = explore(Subject::One(&failing), seeded(5), 50, &|_| ()).unwrap();
    assert_eq!(explored.failed.map(|outcome| outcome.seed), Some(5));
    assert!(explored.runs < 50);
}

#[test]
fn expectations_fail_where_the_fault_is_left_out() {
    let mut scenario = named("vault_unreachable");
    scenario.at.clear();
    let outcome = of(&scenario, 7);
    assert!(!outcome.passed(), "the scenario says nothing about its fault");
}

/// The shell of actors adds nothing to what the entities decide, and leaves nothing out.
#[test]
fn the_loop_and_the_actors_write_the_same_log() {
    for (scenario, seed) in [
        (named("vault_unreachable"), 7),
        (named("service_restart_mid_failover"), 7),
        (named("planned_failover"), 8),
        (named("split_brain"), 11),
        (named("disk_edited_offline"), 7),
        (named("second_service"), 7),
        (named("cluster_move"), 7),
        (named("mapped_networks"), 7),
        (named("operators_day"), 7),
        (named("recovery_plan_tested"), 7),
        (named("recovery_plan_there_and_back"), 7),
    ] {
        let by = |driver| run(&scenario, RunOptions { driver, ..seeded(seed) }).unwrap();
        let (one, other) = (by(Driver::Loop), by(Driver::Actix));
        let differs = one.log.iter().zip(&other.log).find(|(one, other)| one != other);
        assert_eq!(differs, None, "{}", scenario.title);
        assert_eq!(one.log_hash, other.log_hash, "{}", scenario.title);
    }
}

#[test]
fn expectations_fail_where_an_operator_does_nothing() {
    for deed in [Deed::ChangePolicy, Deed::Resync, Deed::DecideFailover, Deed::Failback] {
        let mut scenario = named("operators_day");
        scenario.at.retain(|step| *step.r#do.get_ref() != deed);
        assert!(!of(&scenario, 7).passed(), "without {deed:?}");
    }
}

/// What operators ask for reaches the entities as they said it.
#[test]
fn operators_are_understood() {
    let outcome = of(&named("operators_day"), 7);
    let mut said = BTreeSet::new();
    for commit in &outcome.log {
        match &commit.entry {
            Entry::Cloud { events, .. } => {
                said.extend(events.iter().filter_map(|event| match event {
                    cloud::Event::PolicyAssociated { policy }
                    | cloud::Event::PolicyConfigured { policy } => Some(format!("{policy:?}")),
                    _ => None,
                }));
            }
            Entry::Vm { events, .. } => {
                said.extend(events.iter().filter_map(|event| match event {
                    vm::Event::FailbackRequested { in_full } => Some(format!("in full: {in_full}")),
                    vm::Event::FailoverDecisionScheduled { then, .. } => Some(format!("{then:?}")),
                    vm::Event::DiskRestored { compared_bytes, .. } => {
                        Some(format!("{compared_bytes} compared"))
                    }
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    let policy = |copy_frequency_s, recovery_point_retention_h, app_consistent_frequency_h| {
        let policy =
            Policy { copy_frequency_s, recovery_point_retention_h, app_consistent_frequency_h };
        format!("{policy:?}")
    };
    let words = ["in full: true", "Commit", "Cancel", "0 compared"].map(ToOwned::to_owned);
    let policies = [policy(30, 2, 0), policy(30, 2, 1), policy(300, 1, 0), policy(60, 1, 0)];
    let expected: BTreeSet<String> = words.into_iter().chain(policies).collect();
    assert_eq!(said, expected);
}

#[test]
fn a_shuffled_schedule_is_another_run_that_can_be_had_again() {
    let mut scenario = named("region_outage");
    scenario.schedule = Schedule::Shuffle;
    let shuffled = of(&scenario, 7);
    assert!(shuffled.passed(), "{:?}", shuffled.violations);
    assert_eq!(shuffled.log_hash, of(&scenario, 7).log_hash);
    assert_ne!(shuffled.log_hash, of(&named("region_outage"), 7).log_hash);
}

/// A guest goes on where it was recorded: at the moments of its trace, and no further.
#[test]
fn recorded_writes_are_made_at_their_times_and_no_others() {
    let scenario = named("mapped_networks");
    let quiet = Scenario { at: vec![], expect: vec![], ..scenario };
    let outcome = of(&quiet, 3);
    assert!(outcome.passed(), "{:#?}", outcome.violations);
    let again = of(&quiet, 4);
    let written = |outcome: &lifeboat::sim::Outcome| {
        let cut = |commit: &lifeboat::domain::entity::Commit| match &commit.entry {
            lifeboat::domain::entity::Entry::Vm { events, .. } if is_db(commit, outcome) => {
                events.iter().find_map(|event| match event {
                    lifeboat::domain::vm::Event::SnapshotTaken { log_bytes, .. } => {
                        Some(*log_bytes)
                    }
                    _ => None,
                })
            }
            _ => None,
        };
        outcome.log.iter().filter_map(cut).sum::<u64>()
    };
    let (one, other) = (written(&outcome), written(&again));
    assert!(0 < one);
    // Other seeds give other moments of cuts, and the same writes.
    assert!(one.abs_diff(other) < one / 4, "{one} and {other}");
}

/// Whether a commit is of the VM whose writes were recorded.
fn is_db(commit: &lifeboat::domain::entity::Commit, outcome: &lifeboat::sim::Outcome) -> bool {
    use lifeboat::domain::entity::Entry;
    use lifeboat::domain::vm::Command;
    outcome.log.iter().any(|first| {
        let Entry::Vm { command: Command::Discover { name, .. }, .. } = &first.entry else {
            return false;
        };
        name == "db" && first.stream == commit.stream
    })
}
