//! A hypervisor host: whether it answers.

use super::entity::{Entity, Kind, Rejection, check_name, entry_conversions};
use super::failure::Failure;
use super::id::{CloudId, HostId, VaultId};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What a host can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// It belongs to a cloud from here on.
    Register {
        /// Its identity.
        id: HostId,
        /// Its name.
        name: String,
        /// Its cloud.
        cloud: CloudId,
    },
    /// It answered.
    ReportHeartbeat,
    /// It did not answer.
    ReportSilence {
        /// How.
        failure: Failure,
    },
    /// Its agent was admitted to a vault.
    RegisterAgent {
        /// Which vault.
        vault: VaultId,
    },
    /// It is a member of this cluster, or of none.
    JoinCluster {
        /// The name of the cluster.
        cluster: Option<String>,
    },
}

/// What can become true of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It belongs to a cloud.
    Registered {
        /// Its identity.
        id: HostId,
        /// Its name.
        name: String,
        /// Its cloud.
        cloud: CloudId,
    },
    /// It does not answer.
    HeartbeatLost {
        /// How.
        because: Failure,
    },
    /// It answers again.
    HeartbeatRestored,
    /// Its agent is admitted to a vault.
    AgentRegistered {
        /// Which vault.
        vault: VaultId,
    },
    /// It is a member of this cluster, or of none.
    ClusterChanged {
        /// The name of the cluster.
        cluster: Option<String>,
    },
}

/// The work that a host calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Ask it for a heartbeat again and again, and report what changes.
    Watch,
}

/// A host: the state folded from its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its identity.
    pub id: HostId,
    /// Its name; empty before it is registered.
    pub name: String,
    /// Its cloud.
    pub cloud: CloudId,
    /// Since when it does not answer, and how.
    pub silent: Option<(Timestamp, Failure)>,
    /// The vault that its agent was admitted to, and when.
    pub agent: Option<(VaultId, Timestamp)>,
    /// The cluster that it is a member of: its VMs may move to the other members.
    pub cluster: Option<String>,
}

impl Host {
    /// Whether its VMs may move to another host.
    pub fn shares_cluster_with(&self, other: &Self) -> bool {
        self.cluster.is_some() && self.cluster == other.cluster && self.id != other.id
    }
}

impl Entity for Host {
    const KIND: Kind = Kind::Host;
    type Command = Command;
    type Event = Event;
    type Effect = Effect;

    fn decide(&self, command: &Command, _: Timestamp) -> Result<Vec<Event>, Rejection> {
        let registered = !self.name.is_empty();
        Ok(match command {
            Command::Register { id, name, cloud } if !registered => {
                check_name(name)?;
                vec![Event::Registered { id: *id, name: name.clone(), cloud: *cloud }]
            }
            Command::Register { cloud, .. } if self.cloud != *cloud => {
                return Err(Rejection::Conflict { name: self.name.clone(), difference: "cloud" });
            }
            Command::ReportSilence { failure } if registered && self.silent.is_none() => {
                vec![Event::HeartbeatLost { because: failure.clone() }]
            }
            Command::ReportHeartbeat if self.silent.is_some() => vec![Event::HeartbeatRestored],
            Command::RegisterAgent { vault }
                if registered && self.agent.is_none_or(|(known, _)| known != *vault) =>
            {
                vec![Event::AgentRegistered { vault: *vault }]
            }
            Command::JoinCluster { cluster } if registered && self.cluster != *cluster => {
                vec![Event::ClusterChanged { cluster: cluster.clone() }]
            }
            Command::Register { .. }
            | Command::ReportSilence { .. }
            | Command::ReportHeartbeat
            | Command::RegisterAgent { .. }
            | Command::JoinCluster { .. } => vec![],
        })
    }

    fn apply(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::Registered { id, name, cloud } => {
                self.id = *id;
                self.name.clone_from(name);
                self.cloud = *cloud;
            }
            Event::HeartbeatLost { because } => self.silent = Some((at, because.clone())),
            Event::HeartbeatRestored => self.silent = None,
            Event::AgentRegistered { vault } => self.agent = Some((*vault, at)),
            Event::ClusterChanged { cluster } => self.cluster.clone_from(cluster),
        }
    }

    fn pending(&self) -> Vec<Effect> {
        if self.name.is_empty() { vec![] } else { vec![Effect::Watch] }
    }

    entry_conversions!(Host);
}
