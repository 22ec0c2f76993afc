//! Networks of the two sites, how they are mapped, and where replicas go.

use super::Moment;
use super::site::Site;
use crate::domain::fabric::{Address, Fabric, Network, Size};
use crate::domain::id::{FabricId, VmId};
use crate::domain::machine::Machine;
use crate::domain::placement::{NicRole, PlacedNic, Placement, Purpose, Remark, Sites, misfits};
use crate::domain::prerequisites;
use crate::domain::vm::{Phase, Vm};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A fabric: one of the two sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FabricView {
    /// Its identity.
    pub id: FabricId,
    /// Its name.
    pub name: String,
    /// `Primary` or `Recovery`.
    pub side: String,
    /// The vault that its provider is admitted to.
    pub provider_of: Option<String>,
    /// Since when its provider does not answer.
    pub provider_silent_since: Option<Moment>,
    /// Its networks.
    pub networks: Vec<NetworkView>,
    /// The sizes that replicas can have, the smallest first.
    pub sizes: Vec<Size>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// What it is.
    #[serde(flatten)]
    pub network: Network,
    /// Addresses that are held in it.
    pub addresses_held: usize,
}

/// A VM network of the primary site, and where its VMs go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingView {
    /// The VM network.
    pub network: String,
    /// The logical network that it stands on.
    pub logical: Option<String>,
    /// The network of the recovery site; `None` if it is mapped to none.
    pub to: Option<String>,
    /// Whether the recovery site has that.
    pub exists: bool,
    /// The VMs with an adapter in it.
    pub vms: Vec<String>,
}

/// What a failover of a VM would use at the recovery site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetView {
    /// Where its replica would go.
    #[serde(flatten)]
    pub place: PlacementView,
    /// The size that was chosen; `None` has the smallest that fits.
    pub chosen_size: Option<String>,
    /// Every size, and why it does not take the VM.
    pub sizes: Vec<SizeView>,
    /// What is not as at the primary site, and what to do about it.
    pub warnings: Vec<String>,
}

/// Where a replica goes, or has gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementView {
    /// Its size.
    pub size: Option<String>,
    /// Its network adapters.
    pub nics: Vec<NicView>,
}

/// A network adapter of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicView {
    /// Its name.
    pub name: String,
    /// Its network; `None` if it is connected to none.
    pub network: Option<String>,
    /// Its subnet.
    pub subnet: Option<String>,
    /// Its address; `None` where one is leased.
    pub address: Option<String>,
    /// Whether it is the primary one.
    pub primary: bool,
    /// Why it is not as at the primary site.
    pub remark: Option<String>,
}

/// A size, for a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeView {
    /// Its name.
    pub name: String,
    /// Why it does not take the VM; nothing if it does.
    pub errors: Vec<String>,
}

/// A check of the prerequisites of protection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrerequisiteView {
    /// Its name.
    pub id: String,
    /// What must be so.
    pub rule: String,
    /// Whether it is.
    pub ok: bool,
    /// What is not so.
    pub found: Option<String>,
    /// What to do, if it is not.
    pub action: String,
}

impl FabricView {
    pub(super) fn new(fabric: &Fabric, site: &Site) -> Self {
        let held =
            |name: &str| fabric.leases.iter().filter(|lease| lease.address.network == name).count();
        let vault = fabric.provider.and_then(|(vault, _)| site.vaults.get(&vault));
        Self {
            id: fabric.id,
            name: fabric.name.clone(),
            side: format!("{:?}", fabric.side),
            provider_of: vault.map(|vault| vault.name.clone()),
            provider_silent_since: fabric.silent.as_ref().map(|(since, _)| Moment(*since)),
            networks: fabric
                .networks
                .iter()
                .map(|it| NetworkView { network: it.clone(), addresses_held: held(&it.name) })
                .collect(),
            sizes: fabric.sizes.clone(),
        }
    }
}

impl Site {
    /// Its fabrics, by name.
    pub fn fabrics(&self) -> Vec<FabricView> {
        let fabrics = self.fabrics.values().filter(|fabric| !fabric.name.is_empty());
        let mut views: Vec<_> = fabrics.map(|fabric| FabricView::new(fabric, self)).collect();
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views
    }

    /// The two sites, where the recovery site is described.
    pub fn sites(&self) -> Option<Sites<'_>> {
        Sites::of(self.fabrics.values())
    }

    /// How the VM networks are mapped.
    pub fn mappings(&self) -> Vec<MappingView> {
        let Some(sites) = self.sites() else { return vec![] };
        let vms = |name: &str| {
            let is_in = |vm: &&Vm| {
                let machine = vm.machine.as_ref();
                machine.is_some_and(|it| {
                    it.nics.iter().any(|nic| nic.network.as_deref() == Some(name))
                })
            };
            self.vms.values().filter(is_in).map(|vm| vm.name.clone()).collect()
        };
        let mapping = |network: &Network| {
            let to = sites.primary.mapping.get(&network.name).cloned();
            MappingView {
                network: network.name.clone(),
                logical: network.logical.clone(),
                exists: to.as_ref().is_some_and(|to| sites.recovery.network(to).is_some()),
                to,
                vms: vms(&network.name),
            }
        };
        sites.primary.networks.iter().map(mapping).collect()
    }

    /// Addresses of the recovery site that several VMs would have.
    pub fn clashes(&self) -> BTreeMap<Address, Vec<VmId>> {
        let mut wanted: BTreeMap<Address, Vec<VmId>> = BTreeMap::new();
        let Some(sites) = self.sites() else { return wanted };
        // As if nobody held any: what counts is what each VM would have by itself.
        let empty = Fabric { leases: vec![], ..sites.recovery.clone() };
        let sites = Sites { recovery: &empty, ..sites };
        for vm in self.vms.values().filter(|vm| is_protected(vm)) {
            let Some(Ok(placement)) = sites.place(vm, Purpose::Unplanned) else { continue };
            // One that it is given since it has none there is any other, if that is taken.
            for address in placement.nics.iter().filter_map(PlacedNic::wanted) {
                wanted.entry(address).or_default().push(vm.id);
            }
        }
        wanted.retain(|_, vms| 1 < vms.len());
        wanted
    }

    /// VMs of which a planned failover would stop at its check, with everything that keeps them from a place.
    pub fn without_place(&self) -> BTreeMap<VmId, Vec<String>> {
        let Some(sites) = self.sites() else { return BTreeMap::new() };
        let at_primary = |vm: &&Vm| is_protected(vm) && vm.may_run_at_primary();
        let vms = self.vms.values().filter(at_primary);
        let hindered = vms.map(|vm| (vm.id, sites.hindrances(vm, Purpose::Planned)));
        hindered.filter(|(_, wrong)| !wrong.is_empty()).collect()
    }

    /// Networks that are mapped to none, with the VMs that would not be connected.
    pub fn unmapped(&self) -> BTreeMap<String, Vec<VmId>> {
        let mut unmapped: BTreeMap<String, Vec<VmId>> = BTreeMap::new();
        let Some(sites) = self.sites() else { return unmapped };
        for vm in self.vms.values().filter(|vm| is_protected(vm)) {
            let Some(Ok(placement)) = sites.place(vm, Purpose::Unplanned) else { continue };
            for nic in placement.nics {
                if let Some(Remark::NotMapped { network }) = nic.remark {
                    let vms = unmapped.entry(network).or_default();
                    if vms.last() != Some(&vm.id) {
                        vms.push(vm.id);
                    }
                }
            }
        }
        unmapped
    }
}

const fn is_protected(vm: &Vm) -> bool {
    !matches!(
        vm.phase,
        Phase::Undiscovered | Phase::Unprotected | Phase::Disabling | Phase::UnprotectedAtRecovery
    )
}

impl TargetView {
    /// What a failover of a VM would use; `None` where the recovery site, or the VM, is not described.
    pub fn new(vm: &Vm, site: &Site, purpose: Purpose<'_>) -> Option<Self> {
        let (sites, machine) = (site.sites()?, vm.machine.as_ref()?);
        let (placement, warnings) = match sites.place(vm, purpose)? {
            Ok(placement) => {
                let warnings = warnings_of(&placement, machine, vm);
                (placement, warnings)
            }
            Err(wrong) if purpose == Purpose::Failback => (Placement::default(), wrong),
            Err(wrong) => (sites.place(vm, Purpose::Unplanned)?.unwrap_or_default(), wrong),
        };
        let size =
            |size: &Size| SizeView { name: size.name.clone(), errors: misfits(size, vm, machine) };
        Some(Self {
            place: PlacementView::new(&placement),
            chosen_size: vm.target.size.clone().filter(|_| purpose != Purpose::Failback),
            sizes: sites.destination(purpose).sizes.iter().map(size).collect(),
            warnings,
        })
    }

    /// Adds the VMs that want an address of this one as well.
    pub fn add_clashes(&mut self, vm: &Vm, clashes: &BTreeMap<Address, Vec<VmId>>, site: &Site) {
        for (Address { network, address }, vms) in clashes {
            if vms.contains(&vm.id) {
                let others = vms.iter().filter(|other| **other != vm.id);
                let others: Vec<_> = others.map(|other| site.vm_name(*other)).collect();
                self.warnings.push(format!(
                    "{address} in {network} is wanted by {} as well: whoever is first gets it; choose \
                     another with `lifeboat vm set --ip`",
                    others.join(", ")
                ));
            }
        }
    }
}

fn warnings_of(placement: &Placement, machine: &Machine, vm: &Vm) -> Vec<String> {
    let mut warnings = Vec::new();
    for nic in &placement.nics {
        let Some(remark) = &nic.remark else { continue };
        let what = match remark {
            Remark::NotMapped { network } => format!(
                "map it with `lifeboat network-mapping set {network} --to NETWORK`, or choose one with \
                 `lifeboat vm set --network`"
            ),
            Remark::NoSuchNetwork { .. } => "map its network to another".to_owned(),
            Remark::AddressTaken { .. } | Remark::AddressOutside { .. } => {
                format!("it gets {}", nic.address.as_deref().unwrap_or("a leased one"))
            }
            Remark::NoAddressFree => "make the subnet larger".to_owned(),
        };
        warnings.push(format!("{}: {remark}; {what}", nic.nic));
    }
    if placement.no_size_fits {
        warnings.push(
            "no size of the recovery site takes it; choose one with `lifeboat vm set --size`"
                .to_owned(),
        );
    }
    let wanted =
        machine.nics.iter().filter(|nic| vm.target.nic(&nic.name).role != NicRole::LeftOut);
    let missing = wanted.count().saturating_sub(placement.nics.len());
    if 0 < missing {
        warnings.push(format!("its size takes {missing} of its network adapters too few"));
    }
    warnings
}

impl PlacementView {
    pub(super) fn new(placement: &Placement) -> Self {
        let nics = placement.nics.iter().map(|nic| NicView {
            name: nic.nic.clone(),
            network: nic.network.clone(),
            subnet: nic.subnet.clone(),
            address: nic.address.clone(),
            primary: nic.primary,
            remark: nic.remark.as_ref().map(ToString::to_string),
        });
        Self { size: placement.size.clone(), nics: nics.collect() }
    }
}

impl PrerequisiteView {
    /// Every check of a VM; none of one that nobody described.
    pub fn all(vm: &Vm) -> Vec<Self> {
        prerequisites::verdicts(vm).into_iter().map(Self::from).collect()
    }
}

impl From<prerequisites::Verdict> for PrerequisiteView {
    fn from(verdict: prerequisites::Verdict) -> Self {
        Self {
            id: verdict.id.to_owned(),
            rule: verdict.rule.to_owned(),
            ok: verdict.found.is_none(),
            found: verdict.found,
            action: verdict.action.to_owned(),
        }
    }
}
