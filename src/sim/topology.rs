//! What a site is made of, as a scenario or a file of its own tells it: hosts and their clusters, networks, VMs.

use super::quantity::Window;
use super::scenario::{SiteSpec, VmSpec};
use crate::domain::fabric::{Network, Size, Subnet};
use crate::domain::machine::{DiskFormat, DiskRole, DiskTraits, Machine, Nic};
use crate::domain::placement::is_range;
use crate::domain::vm::{Disk, ResyncWindow};
use crate::replication::pace::{Limits, WorkingHours};
use crate::views::{FabricView, HostView, MappingView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use toml::Spanned;

/// The network of tests where the recovery site is not described.
const ANY_NETWORK: &str = "isolated";

/// A site in a file of its own.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The site.
    #[serde(default)]
    pub site: SiteSpec,
    /// Its VMs.
    #[serde(default)]
    pub vm: Vec<VmSpec>,
}

/// How fast each host may send, on every day of the week.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BandwidthSpec {
    /// When people work, in UTC.
    pub work_hours: Window,
    /// Kilobits a second in these hours; 0 for what the link carries.
    #[serde(default)]
    pub work_kbps: u64,
    /// The same at other times.
    #[serde(default)]
    pub other_kbps: u64,
}

/// Hosts that share disks and logs: a VM can move from one to another.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSpec {
    /// Its name.
    pub name: String,
    /// Its members.
    pub hosts: Vec<Spanned<String>>,
}

/// A network of either site.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name.
    pub name: Spanned<String>,
    /// Whether nothing leads out of it, so that tests can run in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Its subnets, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnet: Vec<Subnet>,
    /// The network of the recovery site that it is mapped to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Spanned<String>>,
}

/// A network adapter of a VM.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NicSpec {
    /// Its name.
    pub name: String,
    /// The network that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Spanned<String>>,
    /// The subnet of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Its IPv4 address; without one it is leased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl NetworkSpec {
    fn network(&self) -> Network {
        Network {
            name: self.name.get_ref().clone(),
            logical: None,
            isolated: self.isolated,
            subnets: self.subnet.clone(),
        }
    }
}

impl SiteSpec {
    /// What each host may send.
    pub(super) fn limits(&self) -> Limits {
        let Some(spec) = self.bandwidth else { return Limits::default() };
        let rate = |kbps: u64| (0 < kbps).then_some(kbps * 125);
        let (days, (from_minute, to_minute)) = match spec.work_hours.0 {
            ResyncWindow::Daily { from_minute, to_minute, .. } => {
                ([true; 7], (from_minute, to_minute))
            }
            ResyncWindow::Always => ([true; 7], (0, 0)),
            ResyncWindow::Manual => ([false; 7], (0, 0)),
        };
        let hours = WorkingHours { days, from_minute, to_minute, utc_offset_minutes: 0 };
        let (working, otherwise) = (rate(spec.work_kbps), rate(spec.other_kbps));
        Limits { working, otherwise, hours, ..Limits::default() }
    }

    /// Takes the clusters, networks and sizes of a site over.
    pub fn take_over(
        &mut self,
        hosts: &[HostView],
        fabrics: &[FabricView],
        mappings: &[MappingView],
    ) {
        for host in hosts {
            let Some(name) = &host.cluster else { continue };
            match self.cluster.iter_mut().find(|cluster| cluster.name == *name) {
                Some(cluster) => cluster.hosts.push(unplaced(&host.name)),
                None => self
                    .cluster
                    .push(ClusterSpec { name: name.clone(), hosts: vec![unplaced(&host.name)] }),
            }
        }
        self.network = networks(fabrics, mappings, "Primary");
        self.recovery_network = networks(fabrics, mappings, "Recovery");
        self.size = fabrics.iter().flat_map(|fabric| fabric.sizes.clone()).collect();
    }

    /// The networks of the primary site.
    pub(super) fn networks(&self) -> Vec<Network> {
        self.network.iter().map(NetworkSpec::network).collect()
    }

    /// The networks of the recovery site.
    pub(super) fn recovery_networks(&self) -> Vec<Network> {
        self.recovery_network.iter().map(NetworkSpec::network).collect()
    }

    /// The sizes that replicas can have, the smallest first.
    pub(super) fn sizes(&self) -> Vec<Size> {
        let mut sizes = self.size.clone();
        sizes.sort_by_key(|size| (size.cores, size.memory_mib, size.data_disks, size.nics));
        sizes
    }

    /// Which network leads to which.
    pub(super) fn mappings(&self) -> Vec<(String, String)> {
        let mapping = |network: &NetworkSpec| {
            let to = network.to.as_ref()?;
            Some((network.name.get_ref().clone(), to.get_ref().clone()))
        };
        self.network.iter().filter_map(mapping).collect()
    }

    /// The network that tests run in.
    pub(super) fn test_network(&self) -> String {
        let isolated = self.recovery_network.iter().find(|network| network.isolated);
        isolated.map_or(ANY_NETWORK, |network| network.name.get_ref()).to_owned()
    }

    /// The cluster that a host is a member of.
    pub(super) fn cluster_of(&self, host: &str) -> Option<&ClusterSpec> {
        let is_member =
            |cluster: &&ClusterSpec| cluster.hosts.iter().any(|it| it.get_ref() == host);
        self.cluster.iter().find(is_member)
    }

    /// What of clusters and networks does not fit: where, which key, and how.
    pub(super) fn misfit(&self) -> Option<(usize, &'static str, String)> {
        let mut members = BTreeSet::new();
        for host in self.cluster.iter().flat_map(|cluster| &cluster.hosts) {
            let (name, at) = (host.get_ref(), host.span().start);
            if !self.hosts.iter().any(|known| known.get_ref() == name) {
                return Some((at, "hosts", format!("the site has no host {name:?}")));
            }
            if !members.insert(name) {
                return Some((at, "hosts", format!("{name} is a member of two clusters")));
            }
        }
        for networks in [&self.network, &self.recovery_network] {
            let mut names = BTreeSet::new();
            for network in networks {
                let (name, at) = (network.name.get_ref(), network.name.span().start);
                if !names.insert(name) {
                    return Some((at, "name", format!("{name} is used twice")));
                }
                if let Some(subnet) = network.subnet.iter().find(|it| !is_range(&it.range)) {
                    let problem =
                        format!("{:?} is no range: give one as 10.0.1.0/24", subnet.range);
                    return Some((at, "subnet", problem));
                }
            }
        }
        let is_there = |to: &Spanned<String>| {
            self.recovery_network.iter().any(|it| it.name.get_ref() == to.get_ref())
        };
        let lost = self.network.iter().filter_map(|network| network.to.as_ref());
        let lost = lost.into_iter().find(|to| !is_there(to))?;
        let problem = format!("the recovery site has no network {:?}", lost.get_ref());
        Some((lost.span().start, "to", problem))
    }
}

fn networks(fabrics: &[FabricView], mappings: &[MappingView], side: &str) -> Vec<NetworkSpec> {
    let fabrics = fabrics.iter().filter(|fabric| fabric.side == side);
    let networks = fabrics.flat_map(|fabric| &fabric.networks).map(|it| &it.network);
    let mapping = |name: &str| {
        let own = mappings.iter().find(|mapping| mapping.network == name)?;
        own.to.as_ref().filter(|_| own.exists && side == "Primary")
    };
    networks
        .map(|network| NetworkSpec {
            name: unplaced(&network.name),
            isolated: network.isolated,
            subnet: network.subnets.clone(),
            to: mapping(&network.name).map(|name| unplaced(name)),
        })
        .collect()
}

fn unplaced(name: &str) -> Spanned<String> {
    Spanned::new(0..0, name.to_owned())
}

impl VmSpec {
    /// Takes over what its hypervisor says that it is, as far as the site has its networks.
    pub fn take_over(&mut self, machine: Option<&Machine>, site: &SiteSpec) {
        let Some(machine) = machine else { return };
        let is_known = |name: &&String| site.network.iter().any(|it| it.name.get_ref() == *name);
        let nic = |nic: &Nic| {
            let network = nic.network.as_ref().filter(is_known);
            NicSpec {
                name: nic.name.clone(),
                network: network.map(|name| unplaced(name)),
                subnet: nic.subnet.clone().filter(|_| network.is_some()),
                address: nic.address.clone().filter(|_| network.is_some()),
            }
        };
        self.cores = Some(machine.cores);
        self.memory_mib = Some(machine.memory_mib);
        self.nic = machine.nics.iter().map(nic).collect();
    }

    /// What its hypervisor says that it is, where its network adapters are told.
    pub(super) fn machine(&self, disks: &[Disk]) -> Option<Machine> {
        if self.nic.is_empty() {
            return None;
        }
        let traits = disks.iter().enumerate().map(|(nth, disk)| DiskTraits {
            disk: disk.id,
            role: if nth == 0 { DiskRole::Os } else { DiskRole::Data },
            format: DiskFormat::Raw,
            dynamic: false,
            shared: false,
            fibre_channel: false,
            encrypted: false,
            sector_bytes: 512,
        });
        let nic = |nic: &NicSpec| Nic {
            name: nic.name.clone(),
            network: nic.network.as_ref().map(|network| network.get_ref().clone()),
            subnet: nic.subnet.clone(),
            address: nic.address.clone(),
            fixed: false,
        };
        Some(Machine {
            cores: self.cores.unwrap_or(1),
            memory_mib: self.memory_mib.unwrap_or(1024),
            disks: traits.collect(),
            nics: self.nic.iter().map(nic).collect(),
            ..Machine::default()
        })
    }

    /// What of its network adapters does not fit the site: where, which key, and how.
    pub(super) fn misfit(&self, site: &SiteSpec) -> Option<(usize, &'static str, String)> {
        let at = self.name.span().start;
        for nic in &self.nic {
            let Some(name) = &nic.network else { continue };
            let network = site.network.iter().find(|it| it.name.get_ref() == name.get_ref());
            let Some(network) = network else {
                let problem = format!("the site has no network {:?}", name.get_ref());
                return Some((name.span().start, "network", problem));
            };
            let is_there = |name: &&String| network.subnet.iter().any(|it| it.name == **name);
            if let Some(subnet) = nic.subnet.as_ref().filter(|it| !is_there(it)) {
                let problem = format!("network {} has no subnet {subnet:?}", name.get_ref());
                return Some((name.span().start, "subnet", problem));
            }
            let is_address = |address: &&String| address.parse::<Ipv4Addr>().is_ok();
            if let Some(address) = nic.address.as_ref().filter(|it| !is_address(it)) {
                let problem = format!("{address:?} is no IPv4 address");
                return Some((name.span().start, "address", problem));
            }
        }
        let unconnected =
            self.nic.iter().find(|nic| nic.network.is_none() && nic.address.is_some());
        unconnected.map(|nic| (at, "address", format!("{} has one and no network", nic.name)))
    }
}
