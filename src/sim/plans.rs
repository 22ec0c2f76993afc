//! The recovery plans of a scenario.

use super::scenario::{ActionWord, PlanSpec, RunWord};
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
    let groups = spec.group.iter().zip(1..).map(|(group, number)| {
        let action = |name: String, kind| Action { name, kind, only: group.only.clone() };
        let mut before = Vec::new();
        if group.script {
            before.push(action(format!("prepare group {number}"), script(number)));
        }
        if group.manual {
            before.push(action(format!("confirm group {number}"), manual()));
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
    let of_all = |word: &ActionWord| match word {
        ActionWord::Script => Action::of_every_run("prepare failover".to_owned(), script(0)),
        ActionWord::Manual => Action::of_every_run("confirm failover".to_owned(), manual()),
    };
    let after_shutdown = spec.after_shutdown.iter().map(of_all).collect();
    Definition { after_shutdown, groups: groups.collect(), ..Definition::default() }
}

/// A script of the group of this number, or of all.
fn script(group: u32) -> ActionKind {
    ActionKind::Script { command: vec!["prepare".to_owned(), group.to_string()], timeout_s: 60 }
}

fn manual() -> ActionKind {
    ActionKind::Manual { instructions: "look".to_owned() }
}
