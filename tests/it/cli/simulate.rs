//! Tests of `lifeboat simulate`.

use super::{lifeboat, text};
use std::path::Path;

fn scenario(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations");
    folder.join(format!("{name}.toml")).display().to_string()
}

fn last_line(arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let output = lifeboat(arguments);
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    let line = said.lines().last().unwrap_or_else(|| panic!("nothing was said: {complained}"));
    (output.status.code(), serde_json::from_str(line).unwrap())
}

#[test]
fn the_same_seed_gives_the_same_hash_in_every_process() {
    let path = scenario("planned_failover");
    let arguments = ["simulate", &path, "--seed", "7", "-o", "json"];
    let (code, first) = last_line(&arguments);
    assert_eq!(code, Some(0), "{first:#}");
    assert_eq!(first["verdict"], "pass");
    assert_eq!(first["log_hash"].as_str().map(str::len), Some(64));
    for _ in 1..20 {
        assert_eq!(last_line(&arguments).1, first);
    }
}

#[test]
fn a_run_that_fails_says_so_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("impossible.toml");
    let demand = "title = \"t\"\nwhy = \"w\"\nduration = \"5m\"\nsettle = \"5m\"\n\
                  [[vm]]\nname = \"a\"\nhost = \"host-1\"\ndisks = [\"256KiB\"]\n\
                  [[expect]]\nthat = \"rpo_max\"\nat_most = \"1s\"\n";
    std::fs::write(&path, demand).unwrap();
    let path = path.display().to_string();
    let (code, outcome) = last_line(&["simulate", &path, "-o", "json"]);
    assert_eq!((code, &outcome["verdict"]), (Some(1), &"fail".into()));
    let (code, outcome) = last_line(&["simulate", &path, "--runs", "4", "-o", "json"]);
    assert_eq!((code, &outcome["failed_seed"]), (Some(1), &1.into()));
}

#[test]
fn a_scenario_that_cannot_be_read_is_an_error() {
    let output = lifeboat(&["simulate", "nowhere.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("nowhere.toml"));
    let output = lifeboat(&["simulate"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_log_of_a_run_is_read_by_the_event_log() {
    let folder = tempfile::tempdir().unwrap();
    let (log, data) = (folder.path().join("log.jsonl"), folder.path().join("data"));
    let (log, data) = (log.display().to_string(), data.display().to_string());
    let swarm = ["simulate", "--swarm", "--seed", "2", "--log", &log];
    assert_eq!(lifeboat(&swarm).status.code(), Some(0));
    super::done(&["events", "import", "--from", &log, "--data", &data]);
    assert!(super::done(&["events", "tail", "--data", &data]).contains("vm/"));
}

#[test]
fn a_run_has_a_page_and_is_played_and_stands_beside_another_policy() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (scenario, page, log) = (scenario("flapping_link"), path("run.html"), path("log.jsonl"));

    super::done(&["simulate", &scenario, "--seed", "7", "--report", &page]);
    let page = std::fs::read_to_string(page).unwrap();
    for part in ["Verdict: pass", "one primary", "flap_link", "RPO p50", "<svg"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<script") && !page.contains("src="), "it stands for itself");

    let played = super::done(&["simulate", "show", &scenario, "--seed", "7", "--log", &log]);
    assert!(played.contains("web-1 is protected") || played.contains("recovery point"), "{played}");
    assert!(Path::new(&log).exists());

    let policy = path("policy.toml");
    std::fs::write(&policy, "copy_frequency = \"5m\"\n").unwrap();
    let arguments = ["simulate", &scenario, "--seed", "7", "--against", &policy, "-o", "json"];
    let (code, both) = last_line(&arguments);
    assert_eq!(code, Some(0), "{both:#}");
    let points = |side: &str| both[side]["vms"][0]["points"].as_u64().expect("a number of points");
    assert!(points("against") < points("as_it_is"), "fewer deltas, fewer points");
}

#[test]
fn many_runs_have_one_page_that_stands_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("runs.html").display().to_string();
    let path = scenario("flapping_link");
    let arguments = ["simulate", &path, "--runs", "4", "--seed", "7", "--report", &page];
    let said = super::done(&arguments);
    assert!(said.contains("pass: 4 runs"), "{said}");
    let page = std::fs::read_to_string(page).unwrap();
    let opened = format!("lifeboat simulate {path} --seed 10 --report seed-10.html");
    for part in [
        "4 runs, 4 passed, 0 failed",
        "Verdict: pass",
        "Greatest RPO of each run",
        "<rect class=\"job\"",
        "The worst seeds",
        "Failures of the sites",
        "4 of 4",
        "Attempts against the schedule",
        &opened,
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<script") && !page.contains("src="), "it stands for itself");
}

#[test]
fn a_page_of_runs_that_fail_has_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, page) = (path("impossible.toml"), path("runs.html"));
    let demand = "title = \"<t>\"\nwhy = \"w\"\nduration = \"5m\"\nsettle = \"5m\"\n\
                  [[vm]]\nname = \"a\"\nhost = \"host-1\"\ndisks = [\"256KiB\"]\n\
                  [[expect]]\nthat = \"rpo_max\"\nat_most = \"1s\"\n";
    std::fs::write(&file, demand).unwrap();
    let arguments = ["simulate", &file, "--runs", "3", "--report", &page, "-o", "json"];
    let (code, told) = last_line(&arguments);
    assert_eq!((code, &told["runs"], &told["failed_runs"]), (Some(1), &3.into(), &3.into()));
    let page = std::fs::read_to_string(page).unwrap();
    for part in [
        "&lt;t&gt;: 3 runs",
        "Verdict: fail",
        "rpo_max of a at most &quot;1s&quot;",
        "<rect class=\"critical\"",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("Failures of the sites"), "nothing failed there");
}
