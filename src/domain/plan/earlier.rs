//! Recovery plans as logs have them that were written before an action could be for some kinds of run only, and before
//! anything could be done between shutting down and failing over.

use super::ActionKind;
use crate::domain::id::VmId;
use serde::{Deserialize, Serialize};

/// [`super::Action`] of every run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: ActionKind,
}

/// [`super::Group`] with such actions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Done before they start, in this order.
    pub before: Vec<Action>,
    /// The VMs.
    pub vms: Vec<VmId>,
    /// Done once they run, in this order.
    pub after: Vec<Action>,
}

/// [`super::Definition`] of such groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Done before any VM is touched, in this order.
    pub before: Vec<Action>,
    /// Done once all VMs could start, in this order.
    pub after_failover: Vec<Action>,
    /// The groups, in the order in which they start.
    pub groups: Vec<Group>,
}

fn actions(earlier: Vec<Action>) -> Vec<super::Action> {
    let action = |Action { name, kind }| super::Action::of_every_run(name, kind);
    earlier.into_iter().map(action).collect()
}

impl From<Group> for super::Group {
    fn from(Group { before, vms, after }: Group) -> Self {
        Self { before: actions(before), vms, after: actions(after) }
    }
}

impl From<Definition> for super::Definition {
    fn from(earlier: Definition) -> Self {
        Self {
            before: actions(earlier.before),
            after_shutdown: vec![],
            after_failover: actions(earlier.after_failover),
            groups: earlier.groups.into_iter().map(Into::into).collect(),
        }
    }
}
