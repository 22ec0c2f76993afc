//! The page of an incident, and the scenario that it becomes.

use super::{INCIDENTS, commits, fixture, lifeboat, log, text};
use lifeboat::domain::entity::Entry;
use lifeboat::domain::vm::Event;
use lifeboat::replay::History;
use lifeboat::replay::{Moment, Question, explain, incident, page};
use lifeboat::sim::{RunOptions, Scenario, recorded, run};
use lifeboat::store::{MemoryStore, jsonl};

#[test]
fn the_figures_of_an_incident_are_those_of_its_log() {
    let incident = incident(&mut log("vault_full"), None, None).unwrap();
    let db = &incident.vms[0];
    assert_eq!((db.name.as_str(), db.resyncs), ("db", 0));
    assert!(db.failures.contains("SR-2201"), "{:?}", db.failures);
    // Full from minute 6 to 14, noticed with the first delta.
    assert!((475.0..485.0).contains(&db.critical_seconds), "{}", db.critical_seconds);
    assert!((480.0..=545.0).contains(&db.rpo_max_seconds), "{}", db.rpo_max_seconds);
    let highest = db.rpo.iter().map(|(_, rpo)| *rpo).fold(0.0, f64::max);
    assert!((highest - db.rpo_max_seconds).abs() < 1e-9);
    let retries = commits(&mut log("vault_full")).iter().fold(0, |sum, commit| {
        let Entry::Vm { events, .. } = &commit.entry else { return sum };
        sum + events.iter().filter(|it| matches!(it, Event::RetryScheduled { .. })).count()
    });
    assert_eq!(incident.attempts.len(), retries);
    assert!(0 < retries);
}

#[test]
fn a_report_can_be_of_a_part_of_the_log() {
    let from: Moment = "2026-01-05T08:10:00Z".parse().unwrap();
    let to: Moment = "2026-01-05T08:12:00Z".parse().unwrap();
    let part = incident(&mut log("host_killed_in_failover"), Some(from), Some(to)).unwrap();
    let whole = incident(&mut log("host_killed_in_failover"), None, None).unwrap();
    assert_eq!((part.from.to_string().as_str(), part.vms.len()), ("2026-01-05T08:10:00.000Z", 2));
    assert!(0 < part.commits && part.commits < whole.commits);
    // What began before and still lasts is in it.
    assert_eq!(part.away.len(), 1, "{:?}", part.away);
}

#[test]
fn a_page_needs_nothing_else_and_shows_names_as_text() {
    for name in INCIDENTS {
        let mut incident = incident(&mut log(name), None, None).unwrap();
        incident.vms[0].name = "<script>alert(1)</script>".to_owned();
        let vm = incident.vms.last().unwrap().name.clone();
        let question =
            Question::Vm { name: vm.clone(), state: None, until: Moment::Position(u64::MAX) };
        let explained: Vec<_> =
            explain(&mut log(name), &question).into_iter().map(|it| (vm.clone(), it)).collect();
        let page = page(&incident, &explained, "A \"title\"");
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        for forbidden in ["<script", "http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(forbidden), "{name}: {forbidden}");
        }
        for needed in
            ["prefers-color-scheme: dark", "@media print", "<svg", "polyline", "&quot;title"]
        {
            assert!(page.contains(needed), "{name}: {needed}");
        }
        for element in ["main", "svg", "table", "tr", "td", "h2", "p", "title", "text", "rect"] {
            let opened = page.matches(&format!("<{element}>")).count()
                + page.matches(&format!("<{element} ")).count();
            let closed = page.matches(&format!("</{element}>")).count();
            assert_eq!(opened, closed, "{name}: {element}");
        }
    }
}

#[test]
fn the_command_writes_a_page_and_no_file_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("incident.html");
    let (log, file) = (fixture("link_flaps", "jsonl"), file.to_str().unwrap());
    let arguments =
        ["replay", "report", "--log", log.to_str().unwrap(), "-o", "html", "--file", file];
    assert!(lifeboat(&arguments).status.success());
    assert!(std::fs::read_to_string(file).unwrap().contains("Why web became Critical"));
    let again = lifeboat(&arguments);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("create "), "{}", text(&again.stderr));
}

/// The scenario of an incident, run again, goes wrong in the same way.
#[test]
fn a_scenario_of_an_incident_fails_in_the_same_way() {
    for (name, failure, resyncs) in [
        ("vault_full", "SR-2201", 0),
        ("link_flaps", "SR-2101", 0),
        ("resync_storm", "", 1),
        ("host_killed_in_failover", "SR-2001", 0),
    ] {
        let (scenario, _) = recorded(&mut log(name), name).unwrap();
        let toml = scenario.to_toml().unwrap();
        let mut scenario = Scenario::parse(name, &toml).unwrap_or_else(|e| panic!("{e}\n{toml}"));
        scenario.settle = lifeboat::sim::Span(5 * 60_000);
        let outcome = run(&scenario, RunOptions { seed: 11, ..RunOptions::default() }).unwrap();
        let vm = &outcome.vms[0];
        assert_eq!(vm.resyncs, resyncs, "{name}");
        assert!(failure.is_empty() || vm.failures.contains(&failure), "{name}: {:?}", vm.failures);
    }
}

/// A flush that failed is told as a resource that the host is short of (SR-2303); in the scenario it is the VM's
/// disks that fail.
#[test]
fn a_flush_that_failed_becomes_a_fault_of_the_disks() {
    let outcome = simulated("disk_errors");
    let sick = outcome.vms.iter().find(|vm| vm.name == "sick").unwrap();
    assert_eq!(sick.failures, ["SR-2303"]);
    let (steps, _) = steps_of(outcome);
    assert!(steps.len() == 1 && steps[0].starts_with("fail_disk sick for "), "{steps:?}");
}

#[test]
fn what_operators_asked_for_is_asked_for_again() {
    let (steps, remarks) = steps_of(simulated("operators_day"));
    for step in [
        "change_policy copy_frequency 30s retention 2h app_consistent 1h",
        "change_policy copy_frequency 5m retention 1h app_consistent 0s",
        "change_policy copy_frequency 1m retention 1h app_consistent 0s",
        "resync app",
        "decide_failover web after 4m then cancel",
        "decide_failover db after 9m then commit",
        "failback db in full",
    ] {
        assert!(steps.iter().any(|it| it == step), "{step}: {steps:#?}");
    }
    assert!(!remarks.iter().any(|it| it.contains("not taken over")), "{remarks:#?}");
}

fn simulated(name: &str) -> lifeboat::sim::Outcome {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations");
    let scenario = Scenario::read(&folder.join(format!("{name}.toml"))).unwrap();
    run(&scenario, RunOptions { seed: 7, ..RunOptions::default() }).unwrap()
}

/// The timeline of the scenario that a run becomes, and what is said of it.
fn steps_of(outcome: lifeboat::sim::Outcome) -> (Vec<String>, Vec<String>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let store = MemoryStore::of_this_build(outcome.log).unwrap();
    jsonl::export(&store, &mut |_, _| None, &mut std::io::BufWriter::new(file.as_file())).unwrap();
    let (scenario, remarks) =
        recorded(&mut History::of_file(file.path()).unwrap(), "again").unwrap();
    (scenario.at.iter().map(ToString::to_string).collect(), remarks)
}
