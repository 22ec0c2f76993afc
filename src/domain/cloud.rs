//! A cloud: a group of hosts and VMs under one replication policy.

use super::entity::{Entity, Kind, Rejection, check_name, entry_conversions};
use super::id::{CloudId, HostId, VmId};
use super::policy::Policy;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a cloud can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// It exists.
    Create {
        /// Its identity.
        id: CloudId,
        /// Its name.
        name: String,
    },
    /// A host belongs to it.
    AddHost {
        /// Which.
        host: HostId,
    },
    /// A VM of it is replicated.
    AddVm {
        /// Which.
        vm: VmId,
    },
    /// Its VMs are replicated by this policy, also those that already replicate.
    AssociatePolicy {
        /// The policy.
        policy: Policy,
    },
    /// A VM took over the policy.
    ReportPolicyTaken {
        /// Which VM.
        vm: VmId,
        /// The revision that it took.
        revision: u32,
    },
    /// The configuration has this policy: it counts where the configuration is another one than before. A policy that
    /// somebody gave the cloud since stays.
    ConfigurePolicy {
        /// The policy.
        policy: Policy,
    },
}

/// What can become true of a cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It exists.
    Created {
        /// Its identity.
        id: CloudId,
        /// Its name.
        name: String,
    },
    /// A host belongs to it.
    HostAdded {
        /// Which.
        host: HostId,
    },
    /// A VM of it is replicated.
    VmAdded {
        /// Which.
        vm: VmId,
    },
    /// Its policy changed.
    PolicyAssociated {
        /// To this.
        policy: Policy,
    },
    /// A VM took over the policy.
    PolicyTaken {
        /// Which VM.
        vm: VmId,
        /// The revision that it took.
        revision: u32,
    },
    /// Its policy is the one of the configuration.
    PolicyConfigured {
        /// This.
        policy: Policy,
    },
}

/// The work that a cloud calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Hand the policy to a VM and report it.
    HandPolicy {
        /// Which VM.
        vm: VmId,
        /// The policy's revision.
        revision: u32,
    },
}

/// A cloud: the state folded from its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cloud {
    /// Its identity.
    pub id: CloudId,
    /// Its name; empty before it is created.
    pub name: String,
    /// Its hosts.
    pub hosts: BTreeSet<HostId>,
    /// Its policy.
    pub policy: Policy,
    /// Counts the changes of the policy.
    pub revision: u32,
    /// Its replicated VMs, with the revision that each has taken.
    pub vms: BTreeMap<VmId, u32>,
    /// The policy of the configuration, when it was last another one than before.
    pub configured: Option<Policy>,
}

impl Entity for Cloud {
    const KIND: Kind = Kind::Cloud;
    type Command = Command;
    type Event = Event;
    type Effect = Effect;

    fn decide(&self, command: &Command, _: Timestamp) -> Result<Vec<Event>, Rejection> {
        if self.name.is_empty() && !matches!(command, Command::Create { .. }) {
            return Err(Rejection::Unknown { what: "cloud", name: self.id.to_string() });
        }
        Ok(match command {
            Command::Create { id, name } if self.name.is_empty() => {
                check_name(name)?;
                vec![Event::Created { id: *id, name: name.clone() }]
            }
            Command::AddHost { host } if !self.hosts.contains(host) => {
                vec![Event::HostAdded { host: *host }]
            }
            Command::AddVm { vm } if !self.vms.contains_key(vm) => {
                vec![Event::VmAdded { vm: *vm }]
            }
            Command::AssociatePolicy { policy } => {
                policy.check()?;
                if *policy == self.policy && 0 < self.revision {
                    return Ok(vec![]);
                }
                vec![Event::PolicyAssociated { policy: *policy }]
            }
            Command::ConfigurePolicy { policy } if self.configured != Some(*policy) => {
                policy.check()?;
                vec![Event::PolicyConfigured { policy: *policy }]
            }
            Command::ReportPolicyTaken { vm, revision }
                if *revision <= self.revision
                    && self.vms.get(vm).is_some_and(|taken| taken < revision) =>
            {
                vec![Event::PolicyTaken { vm: *vm, revision: *revision }]
            }
            Command::Create { .. }
            | Command::AddHost { .. }
            | Command::AddVm { .. }
            | Command::ConfigurePolicy { .. }
            | Command::ReportPolicyTaken { .. } => vec![],
        })
    }

    fn apply(&mut self, event: &Event, _: Timestamp) {
        match event {
            Event::Created { id, name } => {
                self.id = *id;
                self.name.clone_from(name);
            }
            Event::HostAdded { host } => {
                self.hosts.insert(*host);
            }
            Event::VmAdded { vm } => {
                self.vms.insert(*vm, 0);
            }
            Event::PolicyAssociated { policy } => {
                self.policy = *policy;
                self.revision += 1;
            }
            Event::PolicyConfigured { policy } => {
                self.configured = Some(*policy);
                if *policy != self.policy || self.revision == 0 {
                    self.policy = *policy;
                    self.revision += 1;
                }
            }
            Event::PolicyTaken { vm, revision } => {
                self.vms.insert(*vm, *revision);
            }
        }
    }

    fn pending(&self) -> Vec<Effect> {
        let behind = self.vms.iter().filter(|(_, taken)| **taken < self.revision);
        behind.map(|(vm, _)| Effect::HandPolicy { vm: *vm, revision: self.revision }).collect()
    }

    entry_conversions!(Cloud);
}
