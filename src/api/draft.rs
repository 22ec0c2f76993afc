//! A recovery plan as people write it: VMs by name, one key for what an action does.

use super::control::vm_named;
use super::problem::Problem;
use crate::domain::id::VmId;
use crate::domain::plan::{Action, ActionKind, Definition, FailoverType, Group, Probe};
use crate::views::Site;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A recovery plan. The same in a file and in the body of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanDraft {
    /// Its name, where nothing else says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Done before any VM is touched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<ActionDraft>,
    /// Done once the VMs are shut down, before they fail over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after_shutdown: Vec<ActionDraft>,
    /// Done once all VMs could start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after_failover: Vec<ActionDraft>,
    /// The groups, in the order in which they start.
    #[serde(rename = "group")]
    pub groups: Vec<GroupDraft>,
}

/// VMs that start together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupDraft {
    /// The VMs, by name or id.
    pub vms: Vec<String>,
    /// Done before they start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<ActionDraft>,
    /// Done once they run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<ActionDraft>,
}

/// An action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ActionFields", into = "ActionFields")]
pub struct ActionDraft(Action);

/// The keys of an action, of which one says what it does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionFields {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    script: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_s: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manual: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within_s: Option<u32>,
    /// The kinds of run that it is for; left out for all that fail over.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    only: BTreeSet<FailoverType>,
}

impl TryFrom<ActionFields> for ActionDraft {
    type Error = String;

    fn try_from(fields: ActionFields) -> Result<Self, String> {
        let ActionFields { name, script, timeout_s, manual, tcp, http, probe, within_s, only } =
            fields;
        let script = script.map(|command| {
            let timeout_s = timeout_s.ok_or("timeout_s")?;
            Ok(ActionKind::Script { command, timeout_s })
        });
        let gate = |probe| Ok(ActionKind::Gate { probe, within_s: within_s.ok_or("within_s")? });
        let kinds = [
            script,
            manual.map(|instructions| Ok(ActionKind::Manual { instructions })),
            tcp.map(|address| gate(Probe::Tcp { address })),
            http.map(|url| gate(Probe::Http { url })),
            probe.map(|command| gate(Probe::Script { command })),
        ];
        let mut kinds = kinds.into_iter().flatten();
        let (Some(kind), None) = (kinds.next(), kinds.next()) else {
            return Err(format!(
                "action {name:?} must have exactly one of `script`, `manual`, `tcp`, `http` and `probe`"
            ));
        };
        let kind = kind.map_err(|key: &str| {
            format!("action {name:?} must have `{key}`: after how many seconds it counts as failed")
        })?;
        let stray = match kind {
            ActionKind::Script { .. } => within_s.map(|_| "within_s"),
            ActionKind::Gate { .. } => timeout_s.map(|_| "timeout_s"),
            ActionKind::Manual { .. } => within_s.or(timeout_s).map(|_| "time limit"),
        };
        match stray {
            Some(key) => Err(format!("action {name:?} has no use for its {key}: leave it out")),
            None => Ok(Self(Action { name, kind, only })),
        }
    }
}

impl From<ActionDraft> for ActionFields {
    fn from(ActionDraft(Action { name, kind, only }): ActionDraft) -> Self {
        let fields = Self { name, only, ..Self::default() };
        match kind {
            ActionKind::Script { command, timeout_s } => {
                Self { script: Some(command), timeout_s: Some(timeout_s), ..fields }
            }
            ActionKind::Manual { instructions } => Self { manual: Some(instructions), ..fields },
            ActionKind::Gate { probe, within_s } => {
                let fields = Self { within_s: Some(within_s), ..fields };
                match probe {
                    Probe::Tcp { address } => Self { tcp: Some(address), ..fields },
                    Probe::Http { url } => Self { http: Some(url), ..fields },
                    Probe::Script { command } => Self { probe: Some(command), ..fields },
                }
            }
        }
    }
}

fn actions(drafts: &[ActionDraft]) -> Vec<Action> {
    drafts.iter().map(|draft| draft.0.clone()).collect()
}

fn drafts(actions: &[Action]) -> Vec<ActionDraft> {
    actions.iter().cloned().map(ActionDraft).collect()
}

impl PlanDraft {
    /// Every VM that it names.
    pub fn vms(&self) -> impl Iterator<Item = &String> {
        self.groups.iter().flat_map(|group| &group.vms)
    }

    /// The definition that this is at a site.
    pub(super) fn definition(&self, site: &Site) -> Result<Definition, Problem> {
        let group = |group: &GroupDraft| {
            let vms = group.vms.iter().map(|name| vm_named(site, name).map(|vm| vm.id));
            let (before, after) = (actions(&group.before), actions(&group.after));
            Ok(Group { before, vms: vms.collect::<Result<_, Problem>>()?, after })
        };
        Ok(Definition {
            before: actions(&self.before),
            after_shutdown: actions(&self.after_shutdown),
            after_failover: actions(&self.after_failover),
            groups: self.groups.iter().map(group).collect::<Result<_, Problem>>()?,
        })
    }

    /// How a definition is written at a site.
    pub(super) fn of(definition: &Definition, site: &Site) -> Self {
        let name =
            |vm: &VmId| site.vms.get(vm).map_or_else(|| vm.to_string(), |vm| vm.name.clone());
        let group = |group: &Group| GroupDraft {
            vms: group.vms.iter().map(name).collect(),
            before: drafts(&group.before),
            after: drafts(&group.after),
        };
        Self {
            name: None,
            before: drafts(&definition.before),
            after_shutdown: drafts(&definition.after_shutdown),
            after_failover: drafts(&definition.after_failover),
            groups: definition.groups.iter().map(group).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(action: &str) -> String {
        let text = format!("[[group]]\nvms = [\"a\"]\n\n[[group.after]]\n{action}\n");
        toml::from_str::<PlanDraft>(&text).expect_err("it is wrong").to_string()
    }

    #[test]
    fn an_action_does_one_thing_and_has_the_limit_that_goes_with_it() {
        for (action, says) in [
            ("name = \"x\"", "exactly one of"),
            ("name = \"x\"\nmanual = \"do\"\ntcp = \"a:1\"", "exactly one of"),
            ("name = \"x\"\nscript = [\"a\"]", "must have `timeout_s`"),
            ("name = \"x\"\ntcp = \"a:1\"", "must have `within_s`"),
            ("name = \"x\"\nmanual = \"do\"\nwithin_s = 1", "no use for"),
            ("name = \"x\"\nurl = \"do\"", "unknown field"),
            ("name = \"x\"\nmanual = \"do\"\nonly = [\"commit\"]", "unknown variant `commit`"),
        ] {
            let error = refused(action);
            assert!(error.contains(says) && error.contains("line "), "{error}");
        }
    }

    #[test]
    fn a_draft_is_the_same_after_it_was_a_body() {
        let text = r#"
            [[before]]
            name = "a"
            script = ["true", "x"]
            timeout_s = 3
            only = ["planned", "unplanned"]
            [[after_shutdown]]
            name = "d"
            manual = "look"
            [[group]]
            vms = ["a", "b"]
            [[group.before]]
            name = "b"
            http = "http://a"
            within_s = 4
            [[group.after]]
            name = "c"
            manual = "do"
        "#;
        let draft: PlanDraft = toml::from_str(text).expect("it is right");
        let body = serde_json::to_string(&draft).expect("it is text");
        assert_eq!(serde_json::from_str::<PlanDraft>(&body).expect("it is right"), draft);
    }
}
