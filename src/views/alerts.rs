//! Alerts: what somebody has to be told who does not look.
//!
//! An alert belongs to a cause, not to everything that the cause hits, and is told twice: when it begins and
//! when it has ended. Told are what is Critical (a host that is silent, a vault that is away, a VM that waits
//! for an administrator or was left off by its plan are), providers that do not answer, failovers that failed,
//! and what waits for somebody: a run of a recovery plan, a failback that can be completed, a failover that
//! nobody has committed for a day.

use super::{CauseView, IssueView, Moment, PlanView, StatusView, VmView};
use crate::domain::catalogue::{self, Code};
use crate::domain::vm::Health;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Its cause has begun.
    Active,
    /// Its cause has ended.
    Cleared,
}

/// What somebody is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertView {
    /// What is the same when its end is told.
    pub key: String,
    /// Whether it has begun or ended.
    pub state: AlertState,
    /// When that was noticed.
    pub at: Moment,
    /// What it is about.
    #[serde(flatten)]
    pub issue: IssueView,
}

/// The alerts whose beginning was told, and not yet their end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alerts {
    told: BTreeMap<String, IssueView>,
}

impl Alerts {
    /// What is to be told of a site: first what has ended, then what has begun. It is asked for again until
    /// it was [`told`](Self::told).
    pub fn news(&self, status: &StatusView) -> Vec<AlertView> {
        let present: BTreeMap<String, IssueView> =
            alarming(status).map(|issue| (key(&issue), issue)).collect();
        let alert = |key: &String, state, issue: &IssueView| AlertView {
            key: key.clone(),
            state,
            at: status.at,
            issue: issue.clone(),
        };
        let ended = self.told.iter().filter(|(key, _)| !present.contains_key(*key));
        let ended = ended.map(|(key, issue)| alert(key, AlertState::Cleared, issue));
        let begun = present.iter().filter(|(key, _)| !self.told.contains_key(*key));
        let begun = begun.map(|(key, issue)| alert(key, AlertState::Active, issue));
        ended.chain(begun).collect()
    }

    /// Somebody was told.
    pub fn told(&mut self, alert: &AlertView) {
        match alert.state {
            AlertState::Active => drop(self.told.insert(alert.key.clone(), alert.issue.clone())),
            AlertState::Cleared => drop(self.told.remove(&alert.key)),
        }
    }
}

/// What somebody has to be told of.
fn alarming(status: &StatusView) -> impl Iterator<Item = IssueView> {
    let silent = catalogue::entry(Code::ProviderSilent).id;
    let is_told = move |cause: &CauseView| cause.level == Health::Critical || cause.code == silent;
    let told = status.issues.iter().filter(move |issue| is_told(&issue.cause));
    let failed = status.vms.iter().filter_map(VmView::failed_failover);
    let waiting = status.vms.iter().filter_map(|vm| vm.waits_for_somebody(status.at));
    let runs = status.plans.iter().filter_map(PlanView::waits_for_somebody);
    told.cloned().chain(failed).chain(waiting).chain(runs)
}

/// The same for the same cause, whatever its words say of the moment.
fn key(issue: &IssueView) -> String {
    format!("{} {}", issue.cause.code, issue.subject)
}
