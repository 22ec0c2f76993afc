//! Fidelity `sizes`: the same decisions as with real bytes, and what it refuses.

use super::{faults, named, of, seeded};
use lifeboat::sim::{Driver, Fidelity, RunOptions, Scenario, Subject, Verdict, explore, run};

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
    let by_actors = RunOptions { driver: Driver::Actix, ..seeded(1) };
    assert!(run(&as_sizes("power_loss"), by_actors).is_err());
}

/// An age is outage as long as the fault lasts, and back-off until the next attempt.
#[test]
fn the_greatest_rpo_is_split_into_outage_and_back_off() {
    let outcome = of(&as_sizes("vault_unreachable"), 7);
    let vm = &outcome.vms[0];
    let [outage, waiting] = vm.rpo_max_of_ms;
    assert!(0 < outage && outage + waiting <= vm.rpo_ms[2], "{vm:?}");
}
