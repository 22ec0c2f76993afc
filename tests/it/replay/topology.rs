//! What is told of a site with plans, clusters and networks: of a moment, in a report, and in the scenario that
//! its log becomes.

use super::{lifeboat, text};
use lifeboat::replay::{History, incident, page};
use lifeboat::sim::{RunOptions, Scenario, recorded, run};
use lifeboat::store::{MemoryStore, jsonl};
use std::path::Path;
use tempfile::NamedTempFile;

/// The log of a scenario, as a file.
fn simulated(name: &str) -> NamedTempFile {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations");
    let scenario = Scenario::read(&folder.join(format!("{name}.toml"))).unwrap();
    let outcome = run(&scenario, RunOptions { seed: 7, ..RunOptions::default() }).unwrap();
    let file = NamedTempFile::new().unwrap();
    let store = MemoryStore::of_this_build(outcome.log).unwrap();
    jsonl::export(&store, &mut |_, _| None, &mut std::io::BufWriter::new(file.as_file())).unwrap();
    file
}

fn ask(log: &NamedTempFile, question: &[&str]) -> String {
    let log = log.path().to_str().unwrap();
    let output = lifeboat(&[&["replay", question[0], "--log", log], &question[1..]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The scenario of a log, which has to be one that can be run.
fn again(log: &NamedTempFile) -> (Scenario, Vec<String>) {
    let (scenario, remarks) =
        recorded(&mut History::of_file(log.path()).unwrap(), "again").unwrap();
    let toml = scenario.to_toml().unwrap();
    (Scenario::parse("again", &toml).unwrap_or_else(|error| panic!("{error}\n{toml}")), remarks)
}

fn steps(scenario: &Scenario) -> Vec<String> {
    scenario.at.iter().map(ToString::to_string).collect()
}

#[test]
fn a_run_of_a_plan_is_told_with_the_step_at_which_it_waits() {
    let log = simulated("recovery_plan_with_failing_gate");
    let before = ask(&log, &["at", "--time", "2026-01-05T08:11:00Z"]);
    assert!(before.contains("plan shop: 2 groups, no run"), "{before}");
    let waiting = ask(&log, &["at", "--time", "2026-01-05T08:24:00Z"]);
    let told =
        "plan shop: 2 groups, planned run waits for somebody to say how it goes on after step";
    assert!(waiting.contains(told), "{waiting}");
    assert!(waiting.contains("group 1 answers, since 2026-01-05T08:1"), "{waiting}");
    let changed = ask(&log, &["diff", "2026-01-05T08:11:00Z", "2026-01-05T08:24:00Z"]);
    assert!(changed.contains("plan shop: 2 groups, no run -> 2 groups, planned run"), "{changed}");

    let incident = incident(&mut History::of_file(log.path()).unwrap(), None, None).unwrap();
    let runs: Vec<_> = incident.jobs.iter().filter(|job| job.vm == "shop").collect();
    assert_eq!(runs[0].title, "planned run of the plan");
    assert!(runs[0].until.is_some() && runs[0].outcome.is_some());
    assert_eq!(incident.failovers.len(), 2);
    let page = page(&incident, &[], "Plan");
    assert!(!page.contains("plan/") && page.contains("plan shop"));

    let (scenario, remarks) = again(&log);
    assert_eq!((scenario.plan.len(), scenario.plan[0].group.len()), (1, 2));
    assert!(scenario.plan[0].group[0].script && scenario.plan[0].group[0].gate);
    let steps = steps(&scenario);
    assert!(steps.iter().any(|step| step.starts_with("run_plan shop")), "{steps:?}");
    assert!(!steps.iter().any(|step| step.starts_with("planned_failover")), "{steps:?}");
    assert!(remarks.iter().any(|it| it.contains("actions of plan shop")), "{remarks:?}");
}

#[test]
fn clusters_and_moves_are_told_and_taken_over() {
    let log = simulated("cluster_move");
    let end = ask(&log, &["at"]);
    assert!(end.contains("cluster "), "{end}");
    let (scenario, _) = again(&log);
    assert!(!scenario.site.cluster.is_empty());
    let steps = steps(&scenario);
    assert!(steps.iter().any(|step| step.starts_with("move_vm")), "{steps:?}");
}

#[test]
fn networks_and_where_they_lead_are_told_and_taken_over() {
    let log = simulated("mapped_networks");
    let end = ask(&log, &["at"]);
    assert!(end.contains("fabric ") && end.contains(" -> "), "{end}");
    let json = ask(&log, &["at", "-o", "json"]);
    assert!(json.contains("\"network_mappings\":[{"), "{json}");
    let (scenario, _) = again(&log);
    let mapped = scenario.site.network.iter().filter(|network| network.to.is_some()).count();
    assert!(0 < mapped && !scenario.site.recovery_network.is_empty());
    assert!(scenario.vm.iter().any(|vm| !vm.nic.is_empty()));
}
