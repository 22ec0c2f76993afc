//! Tests of `sim`: every scenario of the product, the checkers on planted bugs, and what the simulator
//! promises about itself.

mod checkers;
mod files;
mod promises;
mod regressions;
mod scenarios;
mod sizes;

use lifeboat::sim::{Outcome, RunOptions, Scenario, run};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations")
}

/// The scenarios of the product, by name.
fn all() -> Vec<(String, Scenario)> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    paths.iter().map(|path| (path.display().to_string(), read(path))).collect()
}

fn read(path: &Path) -> Scenario {
    Scenario::read(path).unwrap_or_else(|error| panic!("{error}"))
}

fn named(name: &str) -> Scenario {
    read(&folder().join(format!("{name}.toml")))
}

fn seeded(seed: u64) -> RunOptions {
    RunOptions { seed, ..RunOptions::default() }
}

fn of(scenario: &Scenario, seed: u64) -> Outcome {
    run(scenario, seeded(seed)).unwrap()
}

/// What was not as it must be.
fn faults(outcome: &Outcome) -> Vec<String> {
    let all = outcome.expectations.iter().chain(&outcome.invariants);
    all.filter(|it| it.verdict == lifeboat::sim::Verdict::Fail)
        .map(|it| format!("{}: {}", it.what, it.found))
        .collect()
}

/// One VM that writes, for a few minutes.
const SMALL: &str = r#"
title = "small"
why = "to be quick"
duration = "16m"
settle = "6m"

[[vm]]
name = "web"
host = "host-1"
disks = ["512KiB"]
writes_per_minute = 12
"#;

fn small(timeline: &str) -> Scenario {
    Scenario::parse("small", &format!("{SMALL}{timeline}")).unwrap_or_else(|e| panic!("{e}"))
}
