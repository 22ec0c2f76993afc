//! Fidelity `sizes`: the same decisions as with real bytes, and what it refuses.

use super::{faults, named, of, seeded};
use lifeboat::actors::RetrySupervision;
use lifeboat::domain::entity::Kind;
use lifeboat::sim::{
    Driver, Fidelity, RunOptions, Scenario, Schedule, Subject, Verdict, explore, run, survey,
};
use std::collections::BTreeSet;

/// Scenarios whose faults are all about sizes and rates.
const BOTH: [&str; 5] =
    ["vault_unreachable", "split_brain", "planned_failover", "region_outage", "host_loss"];

fn as_sizes(name: &str) -> Scenario {
    let mut scenario = named(name);
    for disk in scenario.vm.iter_mut().flat_map(|vm| vm.disks.get_mut()) {
        // Writes overwrite nothing there: the logs of a disk of a MiB are too large at once.
        disk.0 *= 1_024;
    }
    let text = Scenario { fidelity: Fidelity::Sizes, ..scenario }.to_toml().unwrap();
    let read = Scenario::parse(name, &text);
    read.unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn the_same_outage_leads_to_the_same_decisions_as_with_real_bytes() {
    for name in BOTH {
        let (blocks, sizes) = (of(&named(name), 7), of(&as_sizes(name), 7));
        let broken: Vec<_> =
            sizes.invariants.iter().filter(|it| it.verdict == Verdict::Fail).collect();
        assert!(broken.is_empty(), "{name}: {broken:#?}");
        for (one, other) in blocks.vms.iter().zip(&sizes.vms) {
            let told = |vm: &lifeboat::sim::VmReport| {
                (
                    vm.name.clone(),
                    vm.phase.clone(),
                    vm.health.clone(),
                    vm.resyncs,
                    vm.failures.clone(),
                )
            };
            assert_eq!(told(one), told(other), "{name}");
            let apart = one.rpo_ms[2].abs_diff(other.rpo_ms[2]);
            assert!(apart < 90_000, "{name}: {} ms and {} ms", one.rpo_ms[2], other.rpo_ms[2]);
        }
    }
}

#[test]
fn the_same_fleet_and_seed_give_the_same_log_and_another_seed_another() {
    let scenario = named("fleet");
    let (first, again) = (of(&scenario, 3), of(&scenario, 3));
    assert_eq!((&first.log_hash, first.commits), (&again.log_hash, again.commits));
    assert_ne!(first.log_hash, of(&scenario, 4).log_hash);
}

/// A fleet of twelve VMs with nearly everything that can happen to one.
const BUSY: &str = r#"
    title = "a busy fleet"
    why = "to have both drivers meet everything"
    duration = "5h"
    settle = "2h"
    fidelity = "sizes"
    [site]
    hosts = ["host-1", "host-2", "host-3"]
    copy_frequency = "30s"
    retention = "1h"
    mbit_per_s = 200
    [[vm]]
    name = "web"
    count = 6
    host = "host-1"
    disks = ["8GiB"]
    writes_per_minute = 120
    [[vm]]
    name = "app"
    count = 4
    host = "host-2"
    disks = ["4GiB", "2GiB"]
    writes_per_minute = 600
    burst = [{ at = "70m", for = "20m", writes_per_minute = 9000 }]
    [[vm]]
    name = "db"
    count = 2
    host = "host-3"
    disks = ["16GiB"]
    writes_per_minute = 300
    [[at]]
    t = "40m"
    do = "kill_service"
    for = "2m"
    [[at]]
    t = "50m"
    do = "vault_unreachable"
    for = "17m"
    [[at]]
    t = "55m"
    do = "kill_service"
    for = "90s"
    [[at]]
    t = "80m"
    do = "kill_host"
    host = "host-1"
    for = "4m"
    [[at]]
    t = "95m"
    do = "power_loss"
    host = "host-2"
    for = "3m"
    [[at]]
    t = "100m"
    do = "lossy_link"
    percent = 30
    for = "10m"
    [[at]]
    t = "2h"
    do = "unplanned_failover"
    vm = "web-1"
    [[at]]
    t = "2h1s"
    do = "isolate_host"
    host = "host-1"
    for = "5m"
    [[at]]
    t = "2h"
    do = "unplanned_failover"
    vm = "web-2"
    [[at]]
    t = "2h5m"
    do = "kill_service"
    for = "10s"
    [[at]]
    t = "2h10m"
    do = "planned_failover"
    vm = "db-1"
    [[at]]
    t = "2h11m"
    do = "decide_failover"
    vm = "web-2"
    after = "20m"
    then = "cancel"
    [[at]]
    t = "2h11m"
    do = "test_failover"
    vm = "db-2"
    [[at]]
    t = "2h20m"
    do = "commit"
    vm = "web-1"
    [[at]]
    t = "2h20m"
    do = "change_point"
    vm = "web-2"
    [[at]]
    t = "2h30m"
    do = "failback"
    vm = "web-1"
    full = true
    [[at]]
    t = "2h30m"
    do = "cancel_failover"
    vm = "db-1"
    [[at]]
    t = "3h"
    do = "complete_failback"
    vm = "web-1"
    [[at]]
    t = "3h20m"
    do = "commit"
    vm = "web-1"
    [[at]]
    t = "3h30m"
    do = "reverse_replicate"
    vm = "web-1"
    [[at]]
    t = "3h40m"
    do = "expire_credentials"
    for = "5m"
    [[at]]
    t = "3h50m"
    do = "kill_service"
    for = "20m"
    [[at]]
    t = "4h30m"
    do = "fill_disk"
    host = "host-3"
    for = "10m"
"#;

/// The shell of actors adds nothing to what the entities decide of a fleet, and leaves nothing out.
fn by_both(scenario: &Scenario, seed: u64) -> lifeboat::sim::Outcome {
    let by = |driver| run(scenario, RunOptions { driver, ..seeded(seed) }).unwrap();
    let (one, other) = (by(Driver::Loop), by(Driver::Actix));
    let differs = one.log.iter().zip(&other.log).find(|(one, other)| one != other);
    assert_eq!(differs, None, "{}, seed {seed}", scenario.title);
    assert_eq!(one.log_hash, other.log_hash, "{}, seed {seed}", scenario.title);
    let told = |outcome: &lifeboat::sim::Outcome| (faults(outcome), outcome.remarks.clone());
    assert_eq!(told(&one), told(&other), "{}, seed {seed}", scenario.title);
    assert_eq!(format!("{:?}", one.vms), format!("{:?}", other.vms));
    one
}

#[test]
fn the_loop_and_the_actors_write_the_same_log_of_a_fleet() {
    let busy = Scenario::parse("busy", BUSY).unwrap_or_else(|error| panic!("{error}"));
    let outcome = by_both(&busy, 1);
    assert!(outcome.passed(), "{:#?}", faults(&outcome));
    let failures: BTreeSet<_> = outcome.vms.iter().flat_map(|vm| &vm.failures).copied().collect();
    assert!(3 < failures.len(), "{failures:?}");
    let shuffled = Scenario { schedule: Schedule::Shuffle, ..busy.clone() };
    assert_ne!(by_both(&shuffled, 1).log_hash, of(&busy, 1).log_hash);
}

#[test]
fn the_supervisor_is_concerned_with_every_commit_that_calls_for_something() {
    let busy = Scenario::parse("busy", BUSY).unwrap_or_else(|error| panic!("{error}"));
    let log = of(&busy, 1).log;
    let of_vms = log.iter().map(|commit| commit.stream).filter(|it| it.kind == Kind::Vm);
    let vms: BTreeSet<_> = of_vms.map(|stream| stream.id).collect();
    let (mut told_all, mut told_some) = <(RetrySupervision, RetrySupervision)>::default();
    let (mut called_for, mut concerned) = (0, 0);
    for commit in &log {
        let all = told_all.committed(commit, vms.iter().copied());
        let is_concerned = RetrySupervision::is_concerned(&commit.entry);
        let some = is_concerned.then(|| told_some.committed(commit, vms.iter().copied()));
        called_for += all.len();
        concerned += usize::from(is_concerned);
        assert_eq!(all, some.unwrap_or_default(), "{commit:?}");
    }
    assert!(0 < called_for && concerned < log.len() / 10, "{called_for}, {concerned}");
}

#[test]
fn the_loop_and_the_actors_write_the_same_log_of_scenarios_with_few_vms() {
    for name in BOTH.into_iter().chain(["service_restart_mid_failover", "power_loss"]) {
        by_both(&as_sizes(name), 7);
    }
}

#[test]
fn the_loop_and_the_actors_write_the_same_log_of_random_fleets() {
    for seed in 1..=2 {
        by_both(&Scenario::random_fleet(seed), seed);
    }
}

/// What is tried beside the start of a replica too: to turn off a source that was out of reach.
#[test]
fn a_source_that_comes_back_while_its_replica_boots_is_turned_off_by_both() {
    let text = r#"
        title = "back in time"
        why = "to have a source come back just before its replica boots"
        duration = "40m"
        settle = "6m"
        fidelity = "sizes"
        [[vm]]
        name = "web"
        host = "host-1"
        disks = ["8GiB"]
        writes_per_minute = 12
        [[at]]
        t = "29m"
        do = "isolate_host"
        host = "host-1"
        for = "2m10s"
        [[at]]
        t = "31m"
        do = "unplanned_failover"
        vm = "web"
    "#;
    let scenario = Scenario::parse("back", text).unwrap_or_else(|error| panic!("{error}"));
    for seed in [6, 27] {
        let outcome = by_both(&scenario, seed);
        assert!(outcome.passed(), "seed {seed}: {:#?}", faults(&outcome));
    }
}

#[test]
fn random_faults_on_random_fleets_break_nothing() {
    let explored = explore(Subject::Fleets, seeded(1), 4, &|_| ()).unwrap();
    if let Some(failed) = explored.failed {
        let seed = failed.seed;
        panic!("`lifeboat simulate --swarm --sizes --seed {seed}` fails: {:#?}", faults(&failed));
    }
    assert_eq!(explored.worst.len(), 4);
}

#[test]
fn what_needs_bytes_is_told_as_not_checked() {
    let outcome = of(&as_sizes("planned_failover"), 7);
    let unchecked: Vec<_> = outcome
        .invariants
        .iter()
        .filter(|it| it.verdict == Verdict::Unchecked)
        .map(|it| it.what.as_str())
        .collect();
    assert_eq!(unchecked, ["durability", "recovery points restorable"]);
}

#[test]
fn what_needs_bytes_is_refused_with_its_line() {
    let mut scenario = named("bit_rot_in_vault");
    scenario.fidelity = Fidelity::Sizes;
    let text = scenario.to_toml().unwrap();
    let error = Scenario::parse("rot.toml", &text).unwrap_err().to_string();
    assert!(
        error.contains("rot_vault needs fidelity \"blocks\"") && error.contains("line"),
        "{error}"
    );
}

/// An age is outage as long as the fault lasts, and back-off until the next attempt.
#[test]
fn the_greatest_rpo_is_split_into_outage_and_back_off() {
    let outcome = of(&as_sizes("vault_unreachable"), 7);
    let vm = &outcome.vms[0];
    let [outage, waiting] = vm.rpo_max_of_ms;
    assert!(0 < outage && outage + waiting <= vm.rpo_ms[2], "{vm:?}");
}

/// Which attempts the class planned, and when each was made, in the hour without a vault and after it.
#[test]
fn attempts_stand_against_the_schedule_with_when_they_were_made() {
    let outcome = of(&named("fleet"), 7);
    let minutes = |ms: u64| ms / 60_000;
    let link: Vec<_> = outcome.attempts.iter().filter(|it| it.failure == "SR-2101").collect();
    let planned: Vec<_> = link.iter().filter_map(|it| it.planned_ms.map(minutes)).collect();
    assert_eq!(planned, [1, 2, 4, 8, 10, 40, 70]);
    for place in &link[..6] {
        let planned = place.planned_ms.expect("the class plans it");
        assert_eq!((place.times, place.on_time), (24, 24), "{place:?}");
        assert_eq!(place.made_ms, Some([planned; 2]), "{place:?}");
    }
    // The vault answered again before the last was due.
    let last = link[6];
    assert_eq!((last.times, last.on_time, last.cause_ended), (24, 0, 24), "{last:?}");
    let [first, latest] = last.made_ms.expect("all were made");
    assert!(40 <= minutes(first) && minutes(latest) < 70, "{last:?}");
    for place in &outcome.attempts {
        let came = place.on_time + place.cause_ended + place.by_hand + place.left_out;
        assert_eq!(place.times, came, "{place:?}");
    }
}

/// Each run of many is told of, also after one that failed.
#[test]
fn a_survey_goes_on_after_a_run_that_fails() {
    let mut scenario = named("fleet");
    scenario.duration = lifeboat::sim::Span::hours(4);
    scenario.at.truncate(1);
    let explored = survey(Subject::One(&scenario), seeded(5), 3, &|_| ()).unwrap();
    let seeds: Vec<_> = explored.all.iter().map(|run| (run.seed, run.verdict)).collect();
    let failed = Verdict::Fail;
    assert_eq!(seeds, [(5, failed), (6, failed), (7, failed)]);
    let run = &explored.all[0];
    assert!(run.broken.iter().any(|what| what.starts_with("phase of db-1")), "{:?}", run.broken);
    assert_eq!(run.failures.get("SR-2101"), Some(&24));
    assert_eq!(explored.attempts.iter().map(|it| it.times).max(), Some(3 * 24));
}

/// Looks that are left out find nothing, and leave the order of everything else as it is.
#[test]
fn a_tracker_that_loses_track_is_seen_at_the_same_look_in_a_day_as_in_ten_seconds() {
    let text = r#"
        title = "logs that grow too large"
        why = "to be seen at a look"
        duration = "30h"
        settle = "1h"
        fidelity = "sizes"
        [[vm]]
        name = "db"
        host = "host-1"
        disks = ["8GiB"]
        writes_per_minute = 60
        burst = [{ at = "20h", for = "6h", writes_per_minute = 600 }]
        [[at]]
        t = "1h"
        do = "pause"
        vm = "db"
        [[expect]]
        that = "resyncs"
        is = 1
    "#;
    let scenario = Scenario::parse("looks", text).unwrap_or_else(|error| panic!("{error}"));
    let shuffled = Scenario { schedule: Schedule::Shuffle, ..scenario.clone() };
    // A shuffled schedule looks every ten seconds.
    let lost = |scenario: &Scenario| {
        let outcome = of(scenario, 7);
        assert!(outcome.passed(), "{:#?}", faults(&outcome));
        let commit = outcome.log.into_iter().find(|commit| {
            matches!(&commit.entry, lifeboat::domain::entity::Entry::Vm { command, .. }
                if matches!(command, lifeboat::domain::vm::Command::ReportTrackingLost { .. }))
        });
        commit.expect("tracking is lost").at
    };
    let (at, in_turn) = (lost(&scenario), lost(&shuffled));
    let apart = at.since(in_turn).max(in_turn.since(at));
    assert!(apart.as_secs() <= 10, "{at} and {in_turn}");
}
