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
    let broken = "rpo_max of a at most \"1s\"";
    assert_eq!(outcome["broken"][0]["what"], broken, "{outcome:#}");
    let said = lifeboat(&["simulate", &path, "--runs", "4"]);
    assert!(text(&said.stdout).contains(&format!("seed 1 failed: {broken}")));
    let said = lifeboat(&["simulate", "show", &path]);
    assert_eq!(said.status.code(), Some(1), "{}", text(&said.stdout));
}

#[test]
fn many_runs_have_one_hash_and_the_figures_of_each_vm() {
    let path = scenario("planned_failover");
    let arguments = ["simulate", &path, "--runs", "3", "--seed", "7", "-o", "json"];
    let (code, told) = last_line(&arguments);
    assert_eq!(code, Some(0), "{told:#}");
    assert_eq!(told["log_hash"].as_str().map(str::len), Some(64));
    assert_eq!(last_line(&arguments).1, told);
    let mut other = arguments;
    other[5] = "8";
    assert_ne!(last_line(&other).1["log_hash"], told["log_hash"]);
    for figures in told["vms"].as_array().unwrap() {
        let [half, most, max] = [0, 1, 2].map(|nth| figures["rpo_max_ms"][nth].as_u64().unwrap());
        assert!(0 < half && half <= most && most <= max, "{figures:#}");
    }
    let moved = told["vms"].as_array().unwrap().iter().any(|vm| vm["rto_ms"][2].is_u64());
    assert!(moved, "{told:#}");
}

#[test]
fn what_cannot_be_is_refused() {
    let path = scenario("flapping_link");
    for (arguments, because) in [
        (vec!["simulate", &path, "--runs", "0"], "--runs"),
        (vec!["simulate", &path, "--sizes"], "--sizes"),
        (vec!["simulate", &path, "--log", "/nowhere/log.jsonl"], "write /nowhere/log.jsonl"),
        (vec!["simulate", &path, "--report", "/nowhere/run.html"], "write /nowhere/run.jsonl"),
        (vec!["simulate", &path, "--runs", "1", "--report", "/nowhere/all.html"], "/nowhere/all"),
    ] {
        let output = lifeboat(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains(because), "{arguments:?}: {said}");
    }
}

#[test]
fn two_policies_stand_side_by_side_of_one_run_and_of_many_and_on_their_pages() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (scenario, policy, page) = (scenario("host_loss"), path("policy.toml"), path("run.html"));
    std::fs::write(&policy, "copy_frequency = \"5m\"\n").unwrap();
    let against = ["simulate", &scenario, "--seed", "7", "--against", &policy];

    lifeboat(&[&against[..], &["--report", &page]].concat());
    let drawn = std::fs::read_to_string(&page).unwrap();
    for part in ["Two policies, side by side", "As it is", "Against: Verdict", "<svg"] {
        assert!(drawn.contains(part), "{part}");
    }

    let (_, both) = last_line(&[&against[..], &["--runs", "2", "-o", "json"]].concat());
    let most = |side: &str| both[side]["rpo_max_ms"][2].as_u64().expect("a time");
    assert!(most("as_it_is") < most("against"), "{both:#}");
    lifeboat(&[&against[..], &["--runs", "2", "--report", &page]].concat());
    let drawn = std::fs::read_to_string(&page).unwrap();
    for part in ["2 runs under two policies", "RTO p95", "Against: The worst seeds"] {
        assert!(drawn.contains(part), "{part}");
    }
}

#[test]
fn an_outage_is_drawn_behind_the_rpo_of_those_that_it_hit() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("run.html").display().to_string();
    super::done(&["simulate", &scenario("one_link_cut"), "--report", &page]);
    let page = std::fs::read_to_string(page).unwrap();
    let curve = |name: &str| {
        let begin = page.find(&format!("RPO and logs of {name}")).expect("the curve of the VM");
        page[begin..].split("</svg>").next().unwrap()
    };
    assert!(curve("cut-off").contains("class=\"behind\""));
    assert!(!curve("at-ease").contains("class=\"behind\""), "its link is well");
}

#[test]
fn the_rpo_of_a_lost_host_is_outage() {
    let (code, told) =
        last_line(&["simulate", &scenario("host_loss"), "--seed", "7", "-o", "json"]);
    assert_eq!(code, Some(0), "{told:#}");
    let vms = told["vms"].as_array().unwrap();
    let sql = vms.iter().find(|vm| vm["name"] == "sql").unwrap();
    let (outage, max) = (&sql["rpo_max_of_ms"][0], &sql["rpo_ms"][2]);
    // The host was off for the minute before the failover was asked for.
    let outage = outage.as_u64().unwrap();
    assert!((60_000..60_100).contains(&outage), "{outage} of {max} ms");
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
    let again = super::done(&["simulate", "show", &scenario, "--seed", "7"]);
    assert_eq!(again, played);
    let of_one = super::done(&["simulate", "show", &scenario, "--seed", "7", "--vm", "web-2"]);
    assert!(of_one.contains("web-2") && of_one.len() < played.len(), "{of_one}");

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
