//! Every scenario of the product does what it says, and random ones break nothing.

use super::{all, faults, of, seeded};
use lifeboat::sim::{Subject, explore};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::SystemTime;

/// Random scenarios of seeds that every run of the tests has in common.
const SWARM: u64 = 4;

/// Random scenarios of seeds that no run has had before.
const FRESH_SWARM: u64 = 2;

/// Seeds of every scenario.
const SEEDS: [u64; 2] = [7, 8];

#[test]
fn every_scenario_passes() {
    let scenarios = all();
    assert!(10 <= scenarios.len());
    let runs: Vec<_> =
        scenarios.iter().flat_map(|scenario| SEEDS.map(|seed| (scenario, seed))).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(((name, scenario), seed)) =
                    runs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let outcome = of(scenario, *seed);
                    if !outcome.passed() {
                        failed.lock().unwrap().push((name, seed, faults(&outcome)));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn random_faults_on_a_random_site_break_nothing() {
    check_swarm(1, SWARM);
    let fresh = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    check_swarm(fresh.as_secs(), FRESH_SWARM);
}

#[track_caller]
fn check_swarm(seed: u64, runs: u64) {
    let explored = explore(Subject::Swarm, seeded(seed), runs, &|_| ()).unwrap();
    if let Some(failed) = explored.failed {
        let seed = failed.seed;
        panic!("`lifeboat simulate --swarm --seed {seed}` fails: {:#?}", faults(&failed));
    }
}
