//! Simulation of outages: a whole site in virtual time, with the code that runs in production.
//!
//! ```text
//!  Scenario (TOML) + seed --> run --> Outcome: verdict, figures, hash of the event log
//!
//!                    timeline: faults, operators
//!                         |                    |
//!                         v                    v
//!   guests ----> Outside: hosts, disks,     Driver: the entities, by actors
//!                trackers, storage             |       or by an event loop
//!                         ^                    |
//!                         '--- ports: Engine <-'---> Journal --> Observer, proofs
//! ```
//!
//! Real are the entities, the actors, the trackers and their logs, the engine, segments, recovery points
//! and what serves them. Simulated are time, hosts, guests, links, the storage below the vault, and the
//! files below the trackers. Everything is done by one thread at a time, and every choice follows from
//! the seed, so the same scenario and seed give the same log, byte for byte.

mod attempts;
mod beside;
mod clock;
mod dice;
mod driver;
mod errands;
mod explore;
mod ghost;
mod huge_pages;
mod inline;
mod journal;
mod observer;
mod outside;
mod plans;
mod plant;
mod ports;
mod proof;
mod quantity;
mod recorded;
mod report;
mod run;
mod scenario;
mod sizes;
mod storage;
mod swarm;
mod topology;
mod trace;

pub use attempts::RetryReport;
pub use clock::BEGINNING;
pub use driver::Driver;
pub use explore::{
    Broken, Explored, Percentiles, RunSummary, Subject, VmSpread, explore, percentiles, shrink,
    survey,
};
pub use ghost::{Invariant, Violation};
pub use huge_pages::use_huge_pages;
pub use plant::Plant;
pub use quantity::{Size, Span, Window};
pub use recorded::{fitting, recorded, writes_per_minute};
pub use report::{Finding, Outage, Outcome, Verdict, VmReport};
pub use run::{RunError, RunOptions, run};
pub use scenario::{
    Burst, Deed, Expectation, Fidelity, Figure, Scenario, ScenarioError, Schedule, SiteSpec, Step,
    VmSpec,
};
pub use topology::{ClusterSpec, NetworkSpec, NicSpec, Topology};
pub use trace::Trace;
