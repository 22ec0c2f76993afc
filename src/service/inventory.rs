//! What the configuration says of VMs and networks, which a hypervisor and its management server would.

use super::config::VmConfig;
use crate::domain::fabric::{Network, Size, Subnet};
use crate::domain::id::{DiskId, VmId};
use crate::domain::machine::{
    Architecture, DiskFormat, DiskRole, DiskTraits, Feature, Generation, Machine, Nic, System,
};
use crate::domain::placement::is_range;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A network of either site.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Its name.
    pub name: String,
    /// The logical network that it stands on.
    pub logical: Option<String>,
    /// Whether nothing leads out of it, so that tests can run in it.
    #[serde(default)]
    pub isolated: bool,
    /// Its subnets, in order.
    #[serde(default)]
    pub subnet: Vec<SubnetConfig>,
}

/// A subnet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetConfig {
    /// Its name, unique in the network.
    pub name: String,
    /// Its IPv4 addresses, as `10.0.1.0/24`.
    pub range: String,
}

/// The recovery site.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecoveryConfig {
    /// Its networks.
    pub network: Vec<NetworkConfig>,
    /// The sizes that replicas can have.
    pub size: Vec<SizeConfig>,
}

/// A size that replicas can have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeConfig {
    /// Its name.
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

/// What a VM is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineConfig {
    /// 1 or 2.
    pub generation: u8,
    /// Its processors.
    pub architecture: Architecture,
    /// Its guest's operating system.
    pub system: System,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory_mib: u64,
    /// What it uses beyond that.
    pub features: BTreeSet<Feature>,
    /// Its network adapters.
    pub nic: Vec<NicConfig>,
}

/// A network adapter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicConfig {
    /// Its name, unique in the VM.
    pub name: String,
    /// The network that it is in.
    pub network: Option<String>,
    /// The subnet of that.
    pub subnet: Option<String>,
    /// Its IPv4 address; without one it is leased.
    pub address: Option<String>,
    /// Whether the guest set the address itself.
    #[serde(default)]
    pub fixed: bool,
}

/// What a disk is.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact that one rule asks for")]
pub struct TraitsConfig {
    /// What it is for; the first disk of a VM is its OS disk unless it is said.
    pub role: Option<DiskRole>,
    /// The format of its file at the hypervisor.
    pub format: DiskFormat,
    /// Whether the guest made it a dynamic disk.
    pub dynamic: bool,
    /// Whether other VMs use it as well.
    pub shared: bool,
    /// Whether it is behind a virtual Fibre Channel adapter.
    pub fibre_channel: bool,
    /// Whether the guest encrypts it.
    pub encrypted: bool,
    /// Bytes of a logical sector.
    pub sector_bytes: u32,
}

impl Default for MachineConfig {
    /// The smallest VM of generation 1, in no network.
    fn default() -> Self {
        Self {
            generation: 1,
            architecture: Architecture::default(),
            system: System::default(),
            cores: 1,
            memory_mib: 1024,
            features: BTreeSet::new(),
            nic: Vec::new(),
        }
    }
}

impl Default for TraitsConfig {
    /// A basic disk in a file of its own.
    fn default() -> Self {
        Self {
            role: None,
            format: DiskFormat::default(),
            dynamic: false,
            shared: false,
            fibre_channel: false,
            encrypted: false,
            sector_bytes: 512,
        }
    }
}

/// The networks as a fabric has them.
pub(super) fn networks(networks: &[NetworkConfig]) -> Vec<Network> {
    let subnet = |it: &SubnetConfig| Subnet { name: it.name.clone(), range: it.range.clone() };
    let network = |it: &NetworkConfig| Network {
        name: it.name.clone(),
        logical: it.logical.clone(),
        isolated: it.isolated,
        subnets: it.subnet.iter().map(subnet).collect(),
    };
    networks.iter().map(network).collect()
}

/// The sizes as a fabric has them, the smallest first.
pub(super) fn sizes(sizes: &[SizeConfig]) -> Vec<Size> {
    let size = |it: &SizeConfig| Size {
        name: it.name.clone(),
        cores: it.cores,
        memory_mib: it.memory_mib,
        data_disks: it.data_disks,
        nics: it.nics,
    };
    let mut sizes: Vec<_> = sizes.iter().map(size).collect();
    sizes.sort_by_key(|size| (size.cores, size.memory_mib, size.data_disks, size.nics));
    sizes
}

/// The description of a VM.
pub(super) fn machine(id: VmId, vm: &VmConfig) -> Machine {
    let config = &vm.machine;
    let said = vm.disk.iter().any(|disk| disk.traits.role == Some(DiskRole::Os));
    let disks = vm.disk.iter().enumerate().map(|(nth, disk)| {
        let is = disk.traits;
        let first = if nth == 0 && !said { DiskRole::Os } else { DiskRole::Data };
        DiskTraits {
            disk: DiskId::named(id.0, &disk.name),
            role: is.role.unwrap_or(first),
            format: is.format,
            dynamic: is.dynamic,
            shared: is.shared,
            fibre_channel: is.fibre_channel,
            encrypted: is.encrypted,
            sector_bytes: is.sector_bytes,
        }
    });
    let nic = |nic: &NicConfig| Nic {
        name: nic.name.clone(),
        network: nic.network.clone(),
        subnet: nic.subnet.clone(),
        address: nic.address.clone(),
        fixed: nic.fixed,
    };
    Machine {
        generation: if config.generation == 2 { Generation::Two } else { Generation::One },
        architecture: config.architecture,
        system: config.system,
        cores: config.cores,
        memory_mib: config.memory_mib,
        disks: disks.collect(),
        nics: config.nic.iter().map(nic).collect(),
        features: config.features.clone(),
    }
}

type Wrong = (String, String);

/// Checks the networks of a site; `whose` is how errors call it.
pub(super) fn check_networks(whose: &str, networks: &[NetworkConfig]) -> Result<(), Wrong> {
    let mut names = BTreeSet::new();
    for network in networks {
        let key = format!("{whose} {}", network.name);
        unique(&mut names, &network.name, &key)?;
        let mut subnets = BTreeSet::new();
        for subnet in &network.subnet {
            let key = format!("subnet {} of {key}", subnet.name);
            unique(&mut subnets, &subnet.name, &key)?;
            if !is_range(&subnet.range) {
                let range = &subnet.range;
                let problem = format!("has the range {range:?}: give one as 10.0.1.0/24");
                return Err((key, problem));
            }
        }
    }
    Ok(())
}

/// Checks the sizes of the recovery site.
pub(super) fn check_sizes(sizes: &[SizeConfig]) -> Result<(), Wrong> {
    let mut names = BTreeSet::new();
    for size in sizes {
        let key = format!("recovery.size {}", size.name);
        unique(&mut names, &size.name, &key)?;
        if size.cores == 0 || size.memory_mib == 0 {
            return Err((key, "has no cores or no memory".to_owned()));
        }
    }
    Ok(())
}

/// Checks the description of a VM; `key` is how errors call it.
pub(super) fn check_machine(
    key: &str,
    machine: &MachineConfig,
    networks: &[NetworkConfig],
) -> Result<(), Wrong> {
    let wrong = |problem: String| Err((key.to_owned(), problem));
    if !matches!(machine.generation, 1 | 2) {
        return wrong(format!("is of generation {}: give 1 or 2", machine.generation));
    }
    let networks: BTreeMap<_, _> = networks.iter().map(|it| (it.name.as_str(), it)).collect();
    let mut names = BTreeSet::new();
    for nic in &machine.nic {
        let key = format!("nic {} of {key}", nic.name);
        unique(&mut names, &nic.name, &key)?;
        let wrong = |problem: String| Err((key.clone(), problem));
        let network = nic.network.as_deref().map(|name| (name, networks.get(name)));
        match network {
            Some((name, None)) => {
                return wrong(format!("is in network {name}, which is no [[network]]"));
            }
            Some((name, Some(network))) => {
                let subnet = nic.subnet.as_ref();
                let known = |subnet: &String| network.subnet.iter().any(|it| it.name == *subnet);
                if let Some(subnet) = subnet.filter(|subnet| !known(subnet)) {
                    return wrong(format!("is in subnet {subnet}, which network {name} has not"));
                }
            }
            None => {}
        }
        if let Some(address) = nic.address.as_ref().filter(|it| it.parse::<Ipv4Addr>().is_err()) {
            return wrong(format!("has the address {address:?}: give an IPv4 address"));
        }
    }
    Ok(())
}

fn unique(seen: &mut BTreeSet<String>, name: &str, key: &str) -> Result<(), Wrong> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err((key.to_owned(), "has no name that people can read".to_owned()));
    }
    if seen.insert(name.to_owned()) {
        return Ok(());
    }
    Err((key.to_owned(), "is there twice".to_owned()))
}
