//! What an operation would do if it were asked for: allowed or not, the checks, and the consequence.

use super::operation::{Asked, Needs, Operation};
use super::problem::Problem;
use crate::domain::entity::Entity;
use crate::domain::failure::Failure;
use crate::domain::time::Timestamp;
use crate::views::PointView;
use serde::{Deserialize, Serialize};

/// The answer to `?dry_run=true`. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outlook {
    /// What was asked.
    pub operation: String,
    /// Of which VM.
    pub vm: String,
    /// Whether the state allows it.
    pub allowed: bool,
    /// Whether it changes anything: what is so already is allowed and changes nothing.
    pub changes: bool,
    /// Whether everything that it needs is there as well.
    pub ready: bool,
    /// Each thing that was looked at.
    pub checks: Vec<Check>,
    /// What it would do, in plain words.
    pub consequence: String,
    /// The recovery point that the VM would start from.
    pub recovery_point: Option<PointView>,
    /// Seconds of writes that would be lost at most.
    pub lost_seconds: Option<f64>,
    /// Bytes of logs that would be lost, where that is known.
    pub lost_log_bytes: Option<u64>,
    /// Why the state does not allow it.
    pub problem: Option<Problem>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What should be the case.
    pub name: String,
    /// Whether it is.
    pub ok: bool,
    /// Why not.
    pub because: Option<String>,
}

impl Check {
    fn of(name: String, because: Option<String>) -> Self {
        Self { name, ok: because.is_none(), because }
    }
}

impl Outlook {
    /// Looks at an operation. The state machine itself is asked: on a state that is thrown away.
    pub(super) fn new(operation: &Operation, asked: &Asked<'_>) -> Result<Self, Problem> {
        let command = (operation.command)(asked)?;
        let decided = asked.vm.decide(&command, asked.now);
        let changes = decided.as_ref().is_ok_and(|events| !events.is_empty());
        let problem = decided.err().map(Problem::from);
        let loses = operation.path == "unplanned-failover" && problem.is_none();
        let point = asked.point().filter(|_| loses);
        let recovery_point = point.map(|point| PointView::new(point, asked.vm, asked.now));
        let refused = problem.as_ref().map(|problem| problem.detail.clone());
        let mut checks = vec![Check::of("the state allows it".to_owned(), refused)];
        checks.extend(outside_checks(operation.needs, asked));
        Ok(Self {
            operation: operation.path.to_owned(),
            vm: asked.vm.name.clone(),
            allowed: problem.is_none(),
            changes,
            ready: checks.iter().all(|check| check.ok),
            checks,
            consequence: (operation.consequence)(asked),
            lost_seconds: recovery_point.as_ref().map(|point| point.age_seconds),
            lost_log_bytes: asked.log_bytes().filter(|_| loses),
            recovery_point,
            problem,
        })
    }
}

/// Whether those answer that the operation needs.
fn outside_checks(needs: Needs, asked: &Asked<'_>) -> Vec<Check> {
    let because = |failed: &Option<(Timestamp, Failure)>| {
        failed.as_ref().map(|(since, failure)| format!("{failure}, since {since}"))
    };
    let mut checks = Vec::new();
    let host = asked.site.hosts.get(&asked.vm.host);
    if let (Needs::HostAndVault, Some(host)) = (needs, host) {
        checks.push(Check::of(format!("host {} answers", host.name), because(&host.silent)));
    }
    let vault = asked.site.vaults.get(&asked.vm.vault);
    if let (Needs::HostAndVault | Needs::Vault, Some(vault)) = (needs, vault) {
        let name = format!("vault {} can be reached", vault.name);
        checks.push(Check::of(name, because(&vault.unreachable)));
    }
    checks
}
