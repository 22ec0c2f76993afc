//! Where a replica goes at the recovery site: its size, its network adapters and their addresses; and where they
//! go when the VM comes back.
//!
//! Source of the rules: Site Recovery for Hyper-V. A VM network maps to one network of the recovery site; the
//! subnet is the one of the same name, else the first (in a test, the first by name). An adapter keeps its
//! address where the subnet has it and nobody holds it. On the way back the mapping is read backwards: an adapter
//! goes into the network that it came from, and one that is not connected stays so.

use super::fabric::{Address, Fabric, Network, Size, Subnet, Tenant};
use super::machine::{DiskRole, Machine, Nic};
use super::vm::{Disk, Vm};
use core::net::Ipv4Addr;
use serde::{Deserialize, Serialize};

/// What somebody chose for a replica; what is not chosen follows from the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its size.
    pub size: Option<String>,
    /// Its network adapters, by their names.
    pub nics: Vec<NicTarget>,
}

/// What somebody chose for a network adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicTarget {
    /// Which.
    pub nic: String,
    /// What it is for.
    pub role: NicRole,
    /// The network, instead of the one that is mapped.
    pub network: Option<String>,
    /// The subnet, instead of the one of the same name.
    pub subnet: Option<String>,
    /// The address, instead of the one at the primary site.
    pub address: Option<String>,
}

/// What a network adapter of a replica is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicRole {
    /// The first of those that are made is the primary one.
    #[default]
    Automatic,
    /// It is the primary one.
    Primary,
    /// It is another one.
    Secondary,
    /// It is not made.
    LeftOut,
}

/// Where a replica is placed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Its size; `None` where the site has none, or none that fits.
    pub size: Option<String>,
    /// Its network adapters, in order.
    pub nics: Vec<PlacedNic>,
    /// Whether the site has sizes, and none takes the VM.
    pub no_size_fits: bool,
}

/// A network adapter of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedNic {
    /// Its name.
    pub nic: String,
    /// Its network; `None` if it is connected to none.
    pub network: Option<String>,
    /// Its subnet.
    pub subnet: Option<String>,
    /// Its address; `None` where one is leased.
    pub address: Option<String>,
    /// Whether it is the primary one.
    pub primary: bool,
    /// Why it is not as at the primary site.
    pub remark: Option<Remark>,
}

/// Why a network adapter is not placed as its VM is at the primary site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remark {
    /// Its VM network is mapped to none: it is not connected.
    NotMapped {
        /// The VM network.
        network: String,
    },
    /// The recovery site has no such network: it is not connected.
    NoSuchNetwork {
        /// The network.
        network: String,
    },
    /// Somebody else holds the address: it has another.
    AddressTaken {
        /// The address.
        wanted: String,
    },
    /// The subnet does not have the address: it has another.
    AddressOutside {
        /// The address.
        wanted: String,
    },
    /// No address of the subnet is free: it leases one.
    NoAddressFree,
}

/// What a replica is placed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// A failover that was asked for while all was well: nothing that was chosen is given up.
    Planned,
    /// A failover of a site that was lost: the VM starts, with whatever it can get.
    Unplanned,
    /// A test in a network.
    Test(&'a str),
    /// A failback: the VM becomes at the primary site what it was there.
    Failback,
}

/// A site at which a replica is to be placed, and the one that it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Sites<'a> {
    /// Where the networks are mapped.
    pub primary: &'a Fabric,
    /// Where the replica goes.
    pub recovery: &'a Fabric,
}

impl<'a> Sites<'a> {
    /// The two sites among all fabrics, where the recovery site was described.
    pub fn of(fabrics: impl Iterator<Item = &'a Fabric>) -> Option<Self> {
        let (mut primary, mut recovery) = (None, None);
        for fabric in fabrics.filter(|fabric| !fabric.name.is_empty()) {
            match fabric.side {
                super::vm::Side::Primary => primary = primary.or(Some(fabric)),
                super::vm::Side::Recovery => recovery = recovery.or(Some(fabric)),
            }
        }
        let sites = Self { primary: primary?, recovery: recovery? };
        let described = !sites.recovery.networks.is_empty() || !sites.recovery.sizes.is_empty();
        described.then_some(sites)
    }

    /// Whether the recovery site has what the purpose asks for.
    ///
    /// # Errors
    /// What it does not have, and what to do.
    pub fn admits(self, purpose: Purpose<'_>) -> Result<(), String> {
        let Purpose::Test(name) = purpose else { return Ok(()) };
        let isolated = self.recovery.networks.iter().filter(|network| network.isolated);
        let isolated: Vec<_> = isolated.map(|network| network.name.as_str()).collect();
        if self.recovery.networks.is_empty() || isolated.contains(&name) {
            return Ok(());
        }
        let is = match self.recovery.network(name) {
            Some(_) => "is not isolated",
            None => "is none of the recovery site",
        };
        let have = if isolated.is_empty() { "none".to_owned() } else { isolated.join(", ") };
        Err(format!("network {name} {is}; a test runs in one of: {have}"))
    }

    /// Everything for which a VM could not be placed: what the recovery site does not have, or else what was chosen
    /// and cannot be had. Nothing for one that nobody described.
    pub fn hindrances(self, vm: &Vm, purpose: Purpose<'_>) -> Vec<String> {
        match self.admits(purpose) {
            Err(lacks) => vec![lacks],
            Ok(()) => self.place(vm, purpose).and_then(Result::err).unwrap_or_default(),
        }
    }

    /// The site that the VM goes to.
    pub const fn destination(self, purpose: Purpose<'_>) -> &'a Fabric {
        match purpose {
            Purpose::Failback => self.primary,
            Purpose::Planned | Purpose::Unplanned | Purpose::Test(_) => self.recovery,
        }
    }

    /// Where the replica of a VM would go, or the VM when it comes back; `None` for one that nobody described, and
    /// for a site without networks to come back into.
    ///
    /// # Errors
    /// Everything that was chosen and cannot be had, where the purpose does not do without.
    pub fn place(self, vm: &Vm, purpose: Purpose<'_>) -> Option<Result<Placement, Vec<String>>> {
        let machine = vm.machine.as_ref()?;
        let comes_back = purpose == Purpose::Failback;
        if comes_back && self.primary.networks.is_empty() {
            return None;
        }
        let mut wrong = Vec::new();
        let (size, no_size_fits) = match purpose {
            Purpose::Failback => (None, false),
            Purpose::Planned | Purpose::Unplanned | Purpose::Test(_) => {
                self.size(vm, machine, purpose, &mut wrong)
            }
        };
        let most = size.map_or(usize::MAX, |size| size.nics as usize);
        let tenant = Tenant { vm: vm.id, test: matches!(purpose, Purpose::Test(_)) };
        let mut placed: Vec<PlacedNic> = Vec::new();
        for nic in &machine.nics {
            let mut target = vm.target.nic(&nic.name);
            if comes_back {
                // What was chosen was chosen for the replica.
                target = NicTarget { network: self.came_from(vm, nic), ..NicTarget::default() };
            }
            if target.role == NicRole::LeftOut || most <= placed.len() {
                continue;
            }
            let at = At { sites: self, tenant, purpose, others: &placed };
            let nic = at.place(nic, &target, &mut wrong);
            placed.push(nic);
        }
        let chosen = |nic: &PlacedNic| vm.target.nic(&nic.nic).role == NicRole::Primary;
        let secondary = |nic: &PlacedNic| vm.target.nic(&nic.nic).role == NicRole::Secondary;
        let primary = placed.iter().position(chosen);
        let primary = primary.or_else(|| placed.iter().position(|nic| !secondary(nic)));
        if let Some(nic) = placed.get_mut(primary.unwrap_or(0)) {
            nic.primary = true;
        }
        let size = size.map(|size| size.name.clone());
        let placement = Placement { size, nics: placed, no_size_fits };
        Some(if wrong.is_empty() { Ok(placement) } else { Err(wrong) })
    }

    /// The network of the primary site that an adapter comes back into. One that the replica did not get was never
    /// moved; one that was not connected stays so, and so does one in a network that none is mapped to, if it
    /// was put there by hand.
    fn came_from(self, vm: &Vm, nic: &Nic) -> Option<String> {
        let own = nic.network.clone();
        let replica = vm.placement.as_ref().and_then(|placement| placement.nic(&nic.name));
        let Some(replica) = replica else { return own };
        let at = replica.network.as_ref()?;
        let leads_there = |network: &String| self.primary.mapping.get(network) == Some(at);
        let own_leads_there = own.clone().filter(leads_there);
        let mut mapping = self.primary.mapping.iter();
        let other = mapping.find(|(_, to)| *to == at).map(|(from, _)| from.clone());
        let was_chosen = vm.target.nic(&nic.name).network.is_some();
        own_leads_there.or(other).or(own.filter(|_| !was_chosen))
    }

    /// The chosen size, or else the smallest that fits; and whether there are sizes and none does.
    fn size(
        self,
        vm: &Vm,
        machine: &Machine,
        purpose: Purpose<'_>,
        wrong: &mut Vec<String>,
    ) -> (Option<&'a Size>, bool) {
        let sizes = &self.recovery.sizes;
        let chosen = vm.target.size.as_deref();
        if let Some(size) = chosen.and_then(|name| self.recovery.size(name)) {
            return (Some(size), false);
        }
        let strict = purpose == Purpose::Planned;
        if let (Some(name), true) = (chosen, strict) {
            wrong.push(format!(
                "the recovery site has no size {name}; choose one with `vm set --size`"
            ));
        }
        let fitting = sizes.iter().find(|size| misfits(size, vm, machine).is_empty());
        let none_fits = fitting.is_none() && !sizes.is_empty();
        if none_fits && strict {
            let most =
                "the recovery site has no size that takes the VM; choose one with `vm set --size`";
            wrong.push(most.to_owned());
        }
        (fitting, none_fits)
    }
}

/// Why a size does not take a VM, if it does not.
pub fn misfits(size: &Size, vm: &Vm, machine: &Machine) -> Vec<String> {
    let data = vm.disks.iter().filter(|disk| is_data(disk, machine)).count();
    let nics = machine.nics.iter().filter(|nic| vm.target.nic(&nic.name).role != NicRole::LeftOut);
    let needs = [
        ("cores", u64::from(machine.cores), u64::from(size.cores)),
        ("MiB of memory", machine.memory_mib, size.memory_mib),
        ("data disks", data as u64, u64::from(size.data_disks)),
        ("network adapters", nics.count() as u64, u64::from(size.nics)),
    ];
    let short = needs.into_iter().filter(|(_, needs, has)| has < needs);
    short.map(|(what, needs, has)| format!("it has {has} {what} of {needs}")).collect()
}

fn is_data(disk: &Disk, machine: &Machine) -> bool {
    let traits = machine.disks.iter().find(|traits| traits.disk == disk.id);
    traits.is_none_or(|traits| traits.role == DiskRole::Data)
}

impl Target {
    /// What was chosen for an adapter.
    pub fn nic(&self, name: &str) -> NicTarget {
        let found = self.nics.iter().find(|target| target.nic == name).cloned();
        found.unwrap_or_else(|| NicTarget { nic: name.to_owned(), ..NicTarget::default() })
    }

    /// The same with another choice for an adapter.
    #[must_use]
    pub fn with_nic(mut self, nic: NicTarget) -> Self {
        self.nics.retain(|target| target.nic != nic.nic);
        self.nics.push(nic);
        self.nics.sort_by(|one, other| one.nic.cmp(&other.nic));
        self
    }
}

impl Placement {
    /// One of its adapters.
    fn nic(&self, name: &str) -> Option<&PlacedNic> {
        self.nics.iter().find(|nic| nic.nic == name)
    }

    /// The addresses that it takes.
    pub fn addresses(&self) -> Vec<Address> {
        self.nics.iter().filter_map(PlacedNic::address).collect()
    }
}

impl PlacedNic {
    fn address(&self) -> Option<Address> {
        Some(Address { network: self.network.clone()?, address: self.address.clone()? })
    }

    /// The address that it has since it is its own or was chosen, not since it was the next free one.
    pub fn wanted(&self) -> Option<Address> {
        self.address().filter(|_| self.remark.is_none())
    }
}

/// A placement under way.
struct At<'a> {
    sites: Sites<'a>,
    tenant: Tenant,
    purpose: Purpose<'a>,
    /// The adapters of the same VM that are placed.
    others: &'a [PlacedNic],
}

impl At<'_> {
    fn place(&self, nic: &Nic, target: &NicTarget, wrong: &mut Vec<String>) -> PlacedNic {
        let mut placed = PlacedNic {
            nic: nic.name.clone(),
            network: None,
            subnet: None,
            address: None,
            primary: false,
            remark: None,
        };
        let (name, chosen) = match self.network(nic, target) {
            Ok(Some(network)) => network,
            Ok(None) => return placed,
            Err(remark) => return PlacedNic { remark: Some(remark), ..placed },
        };
        let site = self.sites.destination(self.purpose);
        let Some(network) = site.network(&name) else {
            if self.purpose == Purpose::Failback {
                wrong.push(format!("{}: the primary site has no network {name}", nic.name));
            } else if chosen && self.purpose == Purpose::Planned {
                wrong.push(format!("{}: the recovery site has no network {name}", nic.name));
            }
            return PlacedNic { remark: Some(Remark::NoSuchNetwork { network: name }), ..placed };
        };
        placed.network = Some(network.name.clone());
        let Some(subnet) = self.subnet(network, nic, target) else { return placed };
        placed.subnet = Some(subnet.name.clone());
        let Some(wanted) = target.address.as_ref().or(nic.address.as_ref()) else { return placed };
        let address = Address { network: network.name.clone(), address: wanted.clone() };
        let remark = if !has(subnet, wanted) {
            Remark::AddressOutside { wanted: wanted.clone() }
        } else if self.is_held(&address) {
            Remark::AddressTaken { wanted: wanted.clone() }
        } else {
            return PlacedNic { address: Some(wanted.clone()), ..placed };
        };
        if target.address.is_some() && self.purpose == Purpose::Planned {
            wrong.push(format!("{}: {remark}; choose another with `vm set --ip`", nic.name));
        }
        let free = self.free(network, subnet);
        let remark = if free.is_some() { remark } else { Remark::NoAddressFree };
        PlacedNic { address: free, remark: Some(remark), ..placed }
    }

    /// The name of the network, and whether somebody chose it.
    fn network(&self, nic: &Nic, target: &NicTarget) -> Result<Option<(String, bool)>, Remark> {
        if let Purpose::Test(network) = self.purpose {
            return Ok(Some((network.to_owned(), false)));
        }
        if let Some(network) = &target.network {
            return Ok(Some((network.clone(), true)));
        }
        if self.purpose == Purpose::Failback {
            return Ok(None);
        }
        let Some(network) = &nic.network else { return Ok(None) };
        let mapped = self.sites.primary.mapping.get(network);
        mapped
            .map(|mapped| Some((mapped.clone(), false)))
            .ok_or_else(|| Remark::NotMapped { network: network.clone() })
    }

    fn subnet<'n>(
        &self,
        network: &'n Network,
        nic: &Nic,
        target: &NicTarget,
    ) -> Option<&'n Subnet> {
        let called = |name: &Option<String>| {
            network.subnets.iter().find(|subnet| Some(&subnet.name) == name.as_ref())
        };
        let first = || match self.purpose {
            Purpose::Test(_) => network.subnets.iter().min_by_key(|subnet| &subnet.name),
            Purpose::Planned | Purpose::Unplanned | Purpose::Failback => network.subnets.first(),
        };
        called(&target.subnet).or_else(|| called(&nic.subnet)).or_else(first)
    }

    /// Whether somebody else, or another adapter of the same VM, has an address.
    fn is_held(&self, address: &Address) -> bool {
        let own = self.others.iter().any(|nic| {
            nic.network.as_ref() == Some(&address.network)
                && nic.address.as_ref() == Some(&address.address)
        });
        let site = self.sites.destination(self.purpose);
        own || site.holder_other_than(self.tenant, address).is_some()
    }

    /// The first address of a subnet that nobody has.
    fn free(&self, network: &Network, subnet: &Subnet) -> Option<String> {
        let (first, last) = hosts(&subnet.range)?;
        // As many as are held, and one more: one of them is free.
        let most = self.sites.destination(self.purpose).leases.len() + self.others.len() + 1;
        (first..=last)
            .take(most)
            .map(|bits| Ipv4Addr::from_bits(bits).to_string())
            .map(|address| Address { network: network.name.clone(), address })
            .find(|address| !self.is_held(address))
            .map(|address| address.address)
    }
}

/// The first and the last address of a range that a VM can have: neither the network's nor the broadcast
/// address.
fn hosts(range: &str) -> Option<(u32, u32)> {
    let (base, prefix) = range.split_once('/')?;
    let (base, prefix) = (base.parse::<Ipv4Addr>().ok()?, prefix.parse::<u32>().ok()?);
    if 30 < prefix {
        return None;
    }
    let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
    let network = base.to_bits() & mask;
    Some((network + 1, (network | !mask) - 1))
}

/// Whether a subnet has an address that a VM can have.
pub fn has(subnet: &Subnet, address: &str) -> bool {
    let Some((first, last)) = hosts(&subnet.range) else { return false };
    address.parse::<Ipv4Addr>().is_ok_and(|address| (first..=last).contains(&address.to_bits()))
}

/// Whether a text is a range of addresses, as `10.0.1.0/24`.
pub fn is_range(text: &str) -> bool {
    hosts(text).is_some()
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotMapped { network } => {
                write!(f, "network {network} is mapped to none: it is not connected")
            }
            Self::NoSuchNetwork { network } => {
                write!(f, "the recovery site has no network {network}: it is not connected")
            }
            Self::AddressTaken { wanted } => write!(f, "somebody else holds {wanted}"),
            Self::AddressOutside { wanted } => write!(f, "the subnet does not have {wanted}"),
            Self::NoAddressFree => f.write_str("the subnet has no free address: one is leased"),
        }
    }
}
