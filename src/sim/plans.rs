//! The recovery plans of a scenario.

use super::scenario::{PlanSpec, RunWord};
use crate::domain::id::{PlanId, VmId};
use crate::domain::plan::{Action, ActionKind, Definition, Group, Probe, RunKind};
use uuid::Uuid;

/// The id of the plan of this name.
pub(super) fn plan_id(name: &str) -> PlanId {
    PlanId::named(Uuid::nil(), name)
}

/// How a plan is run; `network` is where tests are.
pub(super) fn run_kind(word: RunWord, network: String) -> RunKind {
    match word {
        RunWord::Test => RunKind::Test { network },
        RunWord::Planned => RunKind::Planned,
        RunWord::Unplanned => RunKind::Unplanned,
        RunWord::CleanUp => RunKind::CleanUp,
        RunWord::Commit => RunKind::Commit,
        RunWord::Reverse => RunKind::Reverse,
    }
}

/// What a plan of a scenario does; `called` answers the VMs that a name means.
pub(super) fn definition(spec: &PlanSpec, called: impl Fn(&str) -> Vec<VmId>) -> Definition {
    let action = |name: String, kind| Action { name, kind };
    let groups = spec.group.iter().zip(1..).map(|(group, number)| {
        let mut before = Vec::new();
        if group.script {
            let command = vec!["prepare".to_owned(), number.to_string()];
            let kind = ActionKind::Script { command, timeout_s: 60 };
            before.push(action(format!("prepare group {number}"), kind));
        }
        if group.manual {
            let kind = ActionKind::Manual { instructions: "look".to_owned() };
            before.push(action(format!("confirm group {number}"), kind));
        }
        let mut after = Vec::new();
        if group.gate {
            let probe = Probe::Tcp { address: format!("group-{number}:443") };
            let kind = ActionKind::Gate { probe, within_s: 300 };
            after.push(action(format!("group {number} answers"), kind));
        }
        let vms = group.vms.iter().flat_map(|name| called(name.get_ref())).collect();
        Group { before, vms, after }
    });
    Definition { groups: groups.collect(), ..Definition::default() }
}
