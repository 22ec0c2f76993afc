//! What a run of a recovery plan is asked for with, beside what it does.

use super::RunKind;
use crate::domain::entity::Rejection;
use crate::domain::vm::{LEASE_HOURS, PointChoice};
use serde::{Deserialize, Serialize};

/// What can be chosen for a run. The default is what a run does for which nothing was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOptions {
    /// The recovery points from which VMs, or the copies of a test, start: each VM from its own.
    pub point: PointChoice,
    /// Whether an unplanned run first has the VMs shut down and sends what they wrote last.
    pub synchronize: bool,
    /// Hours after which the copies of a test are cleaned up by themselves.
    pub lease_h: u32,
    /// What is to be kept of tests that are cleaned up; empty for the words of the plan.
    pub notes: String,
}

impl RunOptions {
    /// The lease of a test, unless it is said otherwise: a working day and a night.
    const LEASE_H: u32 = 24;

    /// Whether anything was chosen.
    pub fn are_given(&self) -> bool {
        *self != Self::default()
    }

    /// Checks that nothing is chosen which such a run does not do, nor does for many VMs.
    ///
    /// # Errors
    /// [`Rejection::OutOfRange`] that names what is wrong.
    pub fn check(&self, kind: &RunKind) -> Result<(), Rejection> {
        let wrong = |what, value: &dyn ToString, allowed| {
            Err(Rejection::OutOfRange { what, value: value.to_string(), allowed })
        };
        let is_test = matches!(kind, RunKind::Test { .. });
        let chooses = is_test || *kind == RunKind::Unplanned;
        match self.point {
            PointChoice::Cycle(cycle) => {
                let allowed = "latest, latest-processed or latest-application-consistent: a number is that of one VM";
                wrong("the recovery point of a run", &cycle, allowed)
            }
            PointChoice::Latest => Ok(()),
            _ if !chooses => {
                let allowed = "left out, except of unplanned runs and tests";
                wrong("the recovery point of a run", &kind.name(), allowed)
            }
            _ if self.synchronize => {
                let allowed = "latest, or left out: it makes another, later point";
                wrong("the recovery point of a run that synchronizes", &"another", allowed)
            }
            _ => Ok(()),
        }?;
        if self.synchronize && *kind != RunKind::Unplanned {
            let allowed = "left out, except of unplanned runs";
            return wrong("synchronize", &kind.name(), allowed);
        }
        if self.lease_h != Self::LEASE_H && !is_test {
            return wrong("the lease of a run", &kind.name(), "left out, except of tests");
        }
        if !LEASE_HOURS.contains(&self.lease_h) {
            return wrong("the lease of a test failover in hours", &self.lease_h, "1 to 336");
        }
        if !self.notes.is_empty() && *kind != RunKind::CleanUp {
            return wrong("the notes of a run", &kind.name(), "left out, except of a clean-up");
        }
        Ok(())
    }
}

impl Default for RunOptions {
    fn default() -> Self {
        let (point, lease_h) = (PointChoice::Latest, Self::LEASE_H);
        Self { point, synchronize: false, lease_h, notes: String::new() }
    }
}
