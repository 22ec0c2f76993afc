//! A fabric: one of the two sites as its management server, the provider, describes it: networks, sizes, how
//! the networks of the primary site map to those of the recovery site, and who holds which address there.

use super::entity::{Entity, Kind, Rejection, check_name, entry_conversions};
use super::failure::Failure;
use super::id::{FabricId, VaultId, VmId};
use super::time::Timestamp;
use super::vm::Side;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A network: a VM network at the primary site, a network of replicas at the recovery site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name, unique in the fabric.
    pub name: String,
    /// The logical network that a VM network stands on.
    pub logical: Option<String>,
    /// Whether nothing leads out of it: a test failover runs in such a one.
    pub isolated: bool,
    /// Its subnets, in order.
    pub subnets: Vec<Subnet>,
}

/// A subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its name, unique in the network.
    pub name: String,
    /// Its IPv4 addresses, as `10.0.1.0/24`.
    pub range: String,
}

/// A size that replicas can have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Its name, unique in the fabric.
    pub name: String,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory_mib: u64,
    /// Data disks that it takes at most.
    pub data_disks: u32,
    /// Network adapters that it takes at most.
    pub nics: u32,
}

/// Who holds addresses: a VM, or the copy of it that a test made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tenant {
    /// Which VM.
    pub vm: VmId,
    /// Whether it is the copy.
    pub test: bool,
}

/// An address in a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Which network.
    pub network: String,
    /// Which address, as `10.0.1.20`.
    pub address: String,
}

/// An address that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who.
    pub tenant: Tenant,
    /// Which.
    pub address: Address,
}

/// What a fabric can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// It exists.
    Create {
        /// Its identity.
        id: FabricId,
        /// Its name.
        name: String,
        /// Which of the two sites it is.
        side: Side,
    },
    /// What its provider found.
    Describe {
        /// Its networks.
        networks: Vec<Network>,
        /// Its sizes, the smallest first.
        sizes: Vec<Size>,
    },
    /// Replicas of VMs in one of its networks go into a network of the recovery site.
    MapNetwork {
        /// Its network.
        network: String,
        /// That of the recovery site.
        to: String,
    },
    /// They go into none.
    UnmapNetwork {
        /// Its network.
        network: String,
    },
    /// Somebody takes these addresses, and lets go of all others that it holds.
    Claim {
        /// Who.
        tenant: Tenant,
        /// Which.
        addresses: Vec<Address>,
    },
    /// Somebody lets go of all its addresses.
    Release {
        /// Who.
        tenant: Tenant,
    },
    /// Its provider was admitted to a vault.
    RegisterProvider {
        /// Which vault.
        vault: VaultId,
    },
    /// Its provider answered.
    ReportHeartbeat,
    /// Its provider did not answer.
    ReportSilence {
        /// How.
        failure: Failure,
    },
}

/// What can become true of a fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It exists.
    Created {
        /// Its identity.
        id: FabricId,
        /// Its name.
        name: String,
        /// Which of the two sites it is.
        side: Side,
    },
    /// This is what it has.
    Described {
        /// Its networks.
        networks: Vec<Network>,
        /// Its sizes, the smallest first.
        sizes: Vec<Size>,
    },
    /// A network is mapped.
    NetworkMapped {
        /// Its network.
        network: String,
        /// That of the recovery site.
        to: String,
    },
    /// A network is not mapped any more.
    NetworkUnmapped {
        /// Its network.
        network: String,
    },
    /// Addresses are held; all others that the tenant held are free.
    Claimed {
        /// By whom.
        tenant: Tenant,
        /// Which.
        addresses: Vec<Address>,
    },
    /// All its addresses are free.
    Released {
        /// Who held them.
        tenant: Tenant,
    },
    /// Its provider is admitted to a vault.
    ProviderRegistered {
        /// Which vault.
        vault: VaultId,
    },
    /// Its provider does not answer.
    HeartbeatLost {
        /// How.
        because: Failure,
    },
    /// It answers again.
    HeartbeatRestored,
}

/// The work that a fabric calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Ask its provider for a heartbeat again and again, and report what changes.
    Watch,
}

/// A fabric: the state folded from its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// Its identity.
    pub id: FabricId,
    /// Its name; empty before it is created.
    pub name: String,
    /// Which of the two sites it is.
    pub side: Side,
    /// Its networks.
    pub networks: Vec<Network>,
    /// Its sizes, the smallest first.
    pub sizes: Vec<Size>,
    /// Where its networks are mapped to.
    pub mapping: BTreeMap<String, String>,
    /// Who holds which address.
    pub leases: Vec<Lease>,
    /// The vault that its provider was admitted to, and when.
    pub provider: Option<(VaultId, Timestamp)>,
    /// Since when its provider does not answer, and how.
    pub silent: Option<(Timestamp, Failure)>,
}

impl Fabric {
    /// One of its networks.
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == name)
    }

    /// One of its sizes.
    pub fn size(&self, name: &str) -> Option<&Size> {
        self.sizes.iter().find(|size| size.name == name)
    }

    /// Who else holds an address.
    pub fn holder_other_than(&self, tenant: Tenant, address: &Address) -> Option<Tenant> {
        let mut others = self.leases.iter().filter(|lease| lease.tenant != tenant);
        others.find(|lease| lease.address == *address).map(|lease| lease.tenant)
    }

    /// What somebody holds, in order.
    fn held_by(&self, tenant: Tenant) -> Vec<Address> {
        let own = self.leases.iter().filter(|lease| lease.tenant == tenant);
        own.map(|lease| lease.address.clone()).collect()
    }

    fn claim(&self, tenant: Tenant, addresses: &[Address]) -> Result<Vec<Event>, Rejection> {
        if self.held_by(tenant) == addresses {
            return Ok(vec![]);
        }
        let taken = addresses.iter().find(|it| self.holder_other_than(tenant, it).is_some());
        match taken {
            Some(Address { network, address }) => {
                let because =
                    format!("address {address} in network {network} is held by another VM");
                Err(Rejection::Refused { because })
            }
            None => Ok(vec![Event::Claimed { tenant, addresses: addresses.to_vec() }]),
        }
    }
}

impl Entity for Fabric {
    const KIND: Kind = Kind::Fabric;
    type Command = Command;
    type Event = Event;
    type Effect = Effect;

    fn decide(&self, command: &Command, _: Timestamp) -> Result<Vec<Event>, Rejection> {
        if self.name.is_empty() && !matches!(command, Command::Create { .. }) {
            return Err(Rejection::Unknown { what: "fabric", name: self.id.to_string() });
        }
        Ok(match command {
            Command::Create { id, name, side } if self.name.is_empty() => {
                check_name(name)?;
                vec![Event::Created { id: *id, name: name.clone(), side: *side }]
            }
            Command::Describe { networks, sizes }
                if (networks, sizes) != (&self.networks, &self.sizes) =>
            {
                vec![Event::Described { networks: networks.clone(), sizes: sizes.clone() }]
            }
            Command::MapNetwork { network, to } if self.mapping.get(network) != Some(to) => {
                vec![Event::NetworkMapped { network: network.clone(), to: to.clone() }]
            }
            Command::UnmapNetwork { network } if self.mapping.contains_key(network) => {
                vec![Event::NetworkUnmapped { network: network.clone() }]
            }
            Command::Claim { tenant, addresses } => self.claim(*tenant, addresses)?,
            Command::Release { tenant } if !self.held_by(*tenant).is_empty() => {
                vec![Event::Released { tenant: *tenant }]
            }
            Command::RegisterProvider { vault }
                if self.provider.is_none_or(|(known, _)| known != *vault) =>
            {
                vec![Event::ProviderRegistered { vault: *vault }]
            }
            Command::ReportSilence { failure } if self.silent.is_none() => {
                vec![Event::HeartbeatLost { because: failure.clone() }]
            }
            Command::ReportHeartbeat if self.silent.is_some() => vec![Event::HeartbeatRestored],
            Command::Create { .. }
            | Command::Describe { .. }
            | Command::MapNetwork { .. }
            | Command::UnmapNetwork { .. }
            | Command::Release { .. }
            | Command::RegisterProvider { .. }
            | Command::ReportSilence { .. }
            | Command::ReportHeartbeat => vec![],
        })
    }

    fn apply(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::Created { id, name, side } => {
                self.id = *id;
                self.name.clone_from(name);
                self.side = *side;
            }
            Event::Described { networks, sizes } => {
                self.networks.clone_from(networks);
                self.sizes.clone_from(sizes);
            }
            Event::NetworkMapped { network, to } => {
                self.mapping.insert(network.clone(), to.clone());
            }
            Event::NetworkUnmapped { network } => {
                self.mapping.remove(network);
            }
            Event::Claimed { tenant, addresses } => {
                self.leases.retain(|lease| lease.tenant != *tenant);
                let lease = |address: &Address| Lease { tenant: *tenant, address: address.clone() };
                self.leases.extend(addresses.iter().map(lease));
            }
            Event::Released { tenant } => self.leases.retain(|lease| lease.tenant != *tenant),
            Event::ProviderRegistered { vault } => self.provider = Some((*vault, at)),
            Event::HeartbeatLost { because } => self.silent = Some((at, because.clone())),
            Event::HeartbeatRestored => self.silent = None,
        }
    }

    /// Only a provider that was admitted is expected to answer.
    fn pending(&self) -> Vec<Effect> {
        if self.provider.is_some() { vec![Effect::Watch] } else { vec![] }
    }

    entry_conversions!(Fabric);
}
