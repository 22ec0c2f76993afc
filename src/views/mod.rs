//! Views: what people and programs read of a site.
//!
//! Pure: states and commits go in, structs for serde come out, so that a running service, a replay of
//! its log and a simulation say the same of the same state. Names have their unit (`rpo_seconds`), moments
//! are RFC 3339 in UTC, and states, jobs and tasks carry the names that Site Recovery gives them. Fields may
//! be added; none is renamed.

mod alerts;
mod cloud;
mod compliance;
mod failure;
mod health;
mod host;
mod job;
mod jobs;
mod logs;
mod moment;
mod network;
mod plan;
mod site;
mod statistics;
mod vault;
mod vm;

pub use alerts::{AlertState, AlertView, Alerts};
pub use cloud::{CloudView, PolicyView};
pub use compliance::ComplianceView;
pub use failure::FailureView;
pub use health::{CauseView, HealthSummary, IssueView, Readiness, Verdict};
pub use host::HostView;
pub use job::{JobView, TaskView};
pub use jobs::{Again, Answered, Jobs};
pub use logs::LogsView;
pub use moment::{Moment, seconds};
pub use network::{
    FabricView, MappingView, NetworkView, NicView, PlacementView, PrerequisiteView, SizeView,
    TargetView,
};
pub use plan::{PlanView, RunView, StepView, StepVmView};
pub use site::{Site, StatusView};
pub use statistics::{IntervalView, StatisticsView};
pub use vault::VaultView;
pub use vm::{
    DecisionView, DiskView, FailbackView, FailoverView, PointView, ResyncView, TestResultView,
    TestView, TroubleView, VmView,
};
