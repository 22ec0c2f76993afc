//! Each checker finds the bug that is planted for it: one that finds nothing is none.

use super::small;
use lifeboat::sim::{Invariant, Outcome, Plant, RunOptions, Scenario, run};

fn with(plant: Plant, scenario: &Scenario) -> Outcome {
    let options = RunOptions { seed: 3, plant: Some(plant), ..RunOptions::default() };
    run(scenario, options).unwrap()
}

/// Runs with the bug, and without it to see that the bug is what is found.
#[track_caller]
fn finds(invariant: Invariant, plant: Plant, timeline: &str) {
    let scenario = small(timeline);
    let outcome = with(plant, &scenario);
    let found = outcome.violations.iter().any(|violation| violation.invariant == invariant);
    assert!(found, "{plant:?} was not found: {:#?}", outcome.violations);
    assert!(!outcome.passed());
    let sound = run(&scenario, RunOptions { seed: 3, ..RunOptions::default() }).unwrap();
    assert!(sound.passed(), "{:#?}", sound.violations);
}

const PLANNED: &str = r#"
[[at]]
t = "8m"
do = "planned_failover"
vm = "web"
"#;

#[test]
fn a_write_past_the_tracker_breaks_durability() {
    finds(Invariant::Durability, Plant::UntrackedWrite, "");
}

#[test]
fn a_source_that_runs_on_is_a_second_primary() {
    finds(Invariant::OnePrimary, Plant::ShutDownLies, PLANNED);
}

const BROUGHT_AWAY: &str = r#"
title = "A failback to another host"
why = "The guest at the first one runs on, out of reach."
duration = "32m"
settle = "15m"
[site]
hosts = ["host-1", "host-2"]
[[vm]]
name = "web"
host = "host-1"
disks = ["256KiB"]
[[at]]
t = "5m"
do = "isolate_host"
host = "host-1"
for = "17m"
[[at]]
t = "6m"
do = "unplanned_failover"
vm = "web"
[[at]]
t = "8m"
do = "commit"
vm = "web"
[[at]]
t = "10m"
do = "failback_to_host"
vm = "web"
host = "host-2"
[[at]]
t = "14m"
do = "complete_failback"
vm = "web"
[[at]]
t = "18m"
do = "commit"
vm = "web"
[[at]]
t = "19m"
do = "reverse_replicate"
vm = "web"
"#;

#[test]
fn a_guest_that_runs_on_at_the_host_that_its_vm_was_brought_away_from_is_a_second_primary() {
    let scenario = Scenario::parse("brought away", BROUGHT_AWAY).unwrap();
    let outcome = with(Plant::ShutDownLies, &scenario);
    let twice = |what: &str| what.starts_with("web has run twice");
    assert!(outcome.violations.iter().any(|it| twice(&it.what)), "{:#?}", outcome.violations);
    let sound = run(&scenario, RunOptions { seed: 3, ..RunOptions::default() }).unwrap();
    assert!(sound.passed(), "{:#?}", sound.violations);
}

#[test]
fn writes_after_the_last_log_are_a_loss_of_a_planned_failover() {
    let busy =
        format!("[[vm.burst]]\nat = \"7m\"\nfor = \"4m\"\nwrites_per_minute = 400\n{PLANNED}");
    finds(Invariant::PlannedWithoutLoss, Plant::ShutDownLies, &busy);
}

#[test]
fn an_object_that_disappears_makes_recovery_points_unrestorable() {
    finds(Invariant::Restorable, Plant::LostObject, "");
}

#[test]
fn work_that_hangs_is_no_convergence() {
    finds(Invariant::Convergence, Plant::HangingShip, "");
}

#[test]
fn a_copy_that_hangs_is_a_job_without_end() {
    finds(Invariant::JobsEnd, Plant::HangingCopy, "");
}

#[test]
fn a_log_that_tells_something_else_is_not_the_live_state() {
    finds(Invariant::ReplayEqualsLive, Plant::ForgedEvent, "");
}

#[test]
fn an_event_that_nobody_decided_is_found() {
    finds(Invariant::RedecideEqualsLog, Plant::UndecidedEvent, "");
}

#[test]
fn a_retry_off_the_schedule_is_found() {
    let cut = "[[at]]\nt = \"5m\"\ndo = \"cut_link\"\nfor = \"5m\"\n";
    finds(Invariant::RetrySchedule, Plant::HastyTimer, cut);
}

#[test]
fn a_log_that_fills_up_is_found() {
    finds(Invariant::Bounded, Plant::Chatter, "");
}

#[test]
fn a_disk_that_was_changed_without_a_trace_breaks_durability() {
    let edited = "[[at]]\nt = \"6m\"\ndo = \"kill_service\"\nfor = \"1m\"\n\
                  [[at]]\nt = \"6m30s\"\ndo = \"edit_disk\"\nvm = \"web\"\n";
    finds(Invariant::Durability, Plant::UnseenEdit, edited);
}

/// The second service gets into the replica that was closed to it: as a second primary, and as what the recovery
/// points hold.
#[test]
fn a_vault_that_keeps_no_writers_apart_is_found() {
    let scenario = super::named("second_service");
    let outcome = with(Plant::NoFence, &scenario);
    for invariant in [Invariant::OnePrimary, Invariant::Durability] {
        let found = outcome.violations.iter().any(|it| it.invariant == invariant);
        assert!(found, "{invariant:?}: {:#?}", outcome.violations);
    }
}

#[test]
fn a_guest_that_is_not_at_rest_makes_no_application_consistent_point() {
    let hourly = r#"
[[at]]
t = "3m"
do = "change_policy"
app_consistent = "1h"
"#;
    finds(Invariant::AtRest, Plant::RestlessGuest, hourly);
}
