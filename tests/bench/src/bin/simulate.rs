//! Measures simulated outages: how much faster than real time ten VMs are simulated on one thread, with real bytes
//! through trackers, segments and recovery points. One JSON line; the peer is real time.
//!
//! `simulate [minutes of virtual time]`.

use lifeboat::sim::{RunOptions, Scenario, run};
use lifeboat_bench::row;
use std::time::Instant;

fn main() {
    let minutes: u64 = std::env::args().nth(1).map_or(60, |text| text.parse().expect("minutes"));
    let text = format!(
        r#"
        title = "ten VMs"
        why = "to be measured"
        duration = "{minutes}m"
        settle = "1m"
        [[vm]]
        name = "web"
        count = 10
        host = "host-1"
        disks = ["1MiB"]
        writes_per_minute = 6
        [[at]]
        t = "10m"
        do = "vault_unreachable"
        for = "5m"
        "#
    );
    let scenario = Scenario::parse("ten VMs", &text).expect("it is a scenario");
    let begun = Instant::now();
    let outcome = run(&scenario, RunOptions::default()).expect("it runs");
    let seconds = begun.elapsed().as_secs_f64();
    assert!(outcome.passed(), "{:?}", outcome.violations);
    let virtual_seconds = outcome.virtual_ms as f64 / 1_000.0;
    row(
        "10 VMs simulated, virtual seconds per second",
        virtual_seconds / seconds,
        1.0,
        "real time",
    );
    eprintln!("{} commits, {:.0} a second", outcome.commits, outcome.commits as f64 / seconds);
}
