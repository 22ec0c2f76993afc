//! Measures simulated outages, on one thread and with huge pages, as the command has them. One JSON line each; the peer is a promise, or the other driver.
//!
//! - ten VMs with real bytes through trackers, segments and recovery points, by the loop and by the actors, and for
//!   six times as long by the loop, against 1,000 times real time;
//! - a fleet of sizes and rates, against 30 days of 1,000 VMs in 5 minutes; and by the actors, in 20;
//! - random fleets of 40 VMs for 4 hours, on all processors, against 500 of them in a minute.
//!
//! `simulate [minutes of ten VMs] [VMs of the fleet] [days of the fleet] [random fleets] [days by the actors]`.

use lifeboat::sim::{Driver, Outcome, RunOptions, Scenario, Subject, explore, run, use_huge_pages};
use lifeboat_bench::row;
use std::time::Instant;

fn main() {
    use_huge_pages();
    let numbers: Vec<u64> =
        std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let number = |nth: usize, default| numbers.get(nth).copied().unwrap_or(default);
    blocks(number(0, 60));
    let (vms, days) = (number(1, 200), number(2, 2));
    fleet(vms, days, number(4, days.min(1)));
    random_fleets(number(3, 50));
}

fn measured(scenario: &Scenario, driver: Driver) -> (Outcome, f64) {
    let begun = Instant::now();
    let outcome = run(scenario, RunOptions { driver, ..RunOptions::default() }).expect("it runs");
    let seconds = begun.elapsed().as_secs_f64();
    assert!(outcome.passed(), "{:?}", outcome.violations);
    let commits = outcome.commits;
    eprintln!("{driver:?}: {commits} commits, {:.0} a second", commits as f64 / seconds);
    (outcome, seconds)
}

/// Virtual seconds per second that are promised for ten VMs, whatever the length.
const TIMES_REAL_TIME: f64 = 1_000.0;

fn blocks(minutes: u64) {
    if minutes == 0 {
        return;
    }
    let scenario = ten_vms(minutes);
    let (outcome, by_loop) = measured(&scenario, Driver::Loop);
    let per_second = |outcome: &Outcome, seconds| outcome.virtual_ms as f64 / 1_000.0 / seconds;
    let work = "10 VMs simulated, virtual seconds per second";
    let peer = "1,000 times real time";
    row(work, per_second(&outcome, by_loop), TIMES_REAL_TIME, peer);
    let (by_actors, seconds) = measured(&scenario, Driver::Actix);
    assert_eq!(outcome.log_hash, by_actors.log_hash, "both write the same log");
    let work = "10 VMs simulated by the loop, virtual seconds per second";
    row(work, per_second(&outcome, by_loop), per_second(&outcome, seconds), "by the actors");
    let (outcome, seconds) = measured(&ten_vms(6 * minutes), Driver::Loop);
    let work = "10 VMs simulated for six times as long, virtual seconds per second";
    row(work, per_second(&outcome, seconds), TIMES_REAL_TIME, peer);
}

fn ten_vms(minutes: u64) -> Scenario {
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
    Scenario::parse("ten VMs", &text).expect("it is a scenario")
}

fn fleet(vms: u64, days: u64, by_actors: u64) {
    let vms = vms.next_multiple_of(10);
    if 0 < vms * days {
        let (outcome, seconds) = measured(&fleet_of(vms, days), Driver::Loop);
        let work = "a fleet of sizes, cycles per second";
        row(
            work,
            cycles(&outcome, vms) / seconds,
            promised(300.0),
            "30 days of 1,000 VMs in 5 min",
        );
    }
    if 0 < vms * by_actors {
        let scenario = fleet_of(vms, by_actors);
        let (by_loop, loop_seconds) = measured(&scenario, Driver::Loop);
        let (outcome, seconds) = measured(&scenario, Driver::Actix);
        assert_eq!(by_loop.log_hash, outcome.log_hash, "both write the same log");
        let work = "a fleet of sizes by the actors, cycles per second";
        let peer = "30 days of 1,000 VMs in 20 min";
        row(work, cycles(&outcome, vms) / seconds, promised(1_200.0), peer);
        let each = |seconds: f64| outcome.commits as f64 / seconds;
        let work = "a fleet of sizes by the loop, events per second";
        row(work, each(loop_seconds), each(seconds), "by the actors");
    }
}

/// Cycles of 30 seconds.
fn cycles(outcome: &Outcome, vms: u64) -> f64 {
    outcome.virtual_ms as f64 / 30_000.0 * vms as f64
}

fn promised(seconds: f64) -> f64 {
    1_000.0 * 30.0 * 2_880.0 / seconds
}

fn fleet_of(vms: u64, days: u64) -> Scenario {
    let names: Vec<String> = (1..=10).map(|host| format!("\"host-{host}\"")).collect();
    let mut text = format!(
        "title = \"fleet\"\nwhy = \"to be measured\"\nfidelity = \"sizes\"\nduration = \"{days}d\"\n\
         settle = \"1h\"\n[site]\nhosts = [{}]\nmbit_per_s = 10000\n",
        names.join(", ")
    );
    let each = vms / 10;
    for host in 1..=10 {
        text += &format!(
            "[[vm]]\nname = \"vm-{host}\"\ncount = {each}\nhost = \"host-{host}\"\n\
             disks = [\"40GiB\"]\nwrites_per_minute = 60\n"
        );
    }
    text += "[[at]]\nt = \"20h\"\ndo = \"vault_unreachable\"\nfor = \"40m\"\n";
    Scenario::parse("fleet", &text).expect("it is a scenario")
}

fn random_fleets(runs: u64) {
    if runs == 0 {
        return;
    }
    let begun = Instant::now();
    let explored =
        explore(Subject::Fleets, RunOptions::default(), runs, &|_| ()).expect("they run");
    let failed = explored.failed.map(|outcome| (outcome.seed, outcome.violations));
    assert!(failed.is_none(), "{failed:?}");
    let each = runs as f64 / begun.elapsed().as_secs_f64();
    row("random fleets of 40 VMs for 4 h, per second", each, 500.0 / 60.0, "500 in a minute");
}
