//! What an operator chooses for the replica of a VM: read from a request, and checked against the sites.

use super::operation::Asked;
use super::problem::Problem;
use crate::domain::fabric::Network;
use crate::domain::placement::{NicRole, NicTarget, Sites, Target, has, misfits};
use crate::domain::vm::Vm;
use serde::Deserialize;

/// What takes a choice back.
const AUTOMATIC: &str = "automatic";

/// A change of what was chosen; what it does not name stays as it is.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TargetBody {
    /// The size, or `automatic`.
    size: Option<String>,
    /// Which network adapter the rest is about; the first, unless it is said.
    nic: Option<String>,
    /// `primary`, `secondary`, `left-out` or `automatic`.
    role: Option<NicRole>,
    /// The network of the recovery site, or `automatic`.
    network: Option<String>,
    /// The subnet of that, or `automatic`.
    subnet: Option<String>,
    /// The address in that, or `automatic`.
    address: Option<String>,
}

/// What would be chosen with a change.
pub(super) fn chosen(asked: &Asked<'_>, body: &TargetBody) -> Result<Target, Problem> {
    let (vm, sites) = (asked.vm, asked.site.sites());
    let sites = sites.ok_or_else(|| {
        Problem::invalid("the configuration describes no recovery site: there is nothing to choose")
    })?;
    let mut target = vm.target.clone();
    if let Some(size) = &body.size {
        target.size = choice(size);
        check_size(vm, sites, target.size.as_deref())?;
    }
    if !body.is_about_a_nic() {
        return Ok(target);
    }
    let nic = nic_named(vm, body.nic.as_deref())?;
    let mut of_nic = target.nic(&nic);
    let set = |into: &mut Option<String>, said: &Option<String>| {
        if let Some(said) = said {
            *into = choice(said);
        }
    };
    set(&mut of_nic.network, &body.network);
    set(&mut of_nic.subnet, &body.subnet);
    set(&mut of_nic.address, &body.address);
    of_nic.role = body.role.unwrap_or(of_nic.role);
    check_nic(vm, sites, &of_nic)?;
    if of_nic.role == NicRole::Primary {
        for other in &mut target.nics {
            if other.role == NicRole::Primary {
                other.role = NicRole::Automatic;
            }
        }
    }
    Ok(target.with_nic(of_nic))
}

impl TargetBody {
    const fn is_about_a_nic(&self) -> bool {
        self.nic.is_some()
            || self.role.is_some()
            || self.network.is_some()
            || self.subnet.is_some()
            || self.address.is_some()
    }
}

fn choice(said: &str) -> Option<String> {
    (said != AUTOMATIC).then(|| said.to_owned())
}

fn check_size(vm: &Vm, sites: Sites<'_>, size: Option<&str>) -> Result<(), Problem> {
    let Some(name) = size else { return Ok(()) };
    let size = sites.recovery.size(name).ok_or_else(|| Problem::unknown("size", name))?;
    let wrong = vm.machine.as_ref().map_or(vec![], |machine| misfits(size, vm, machine));
    // Fewer adapters than the VM has are a choice.
    let wrong: Vec<_> = wrong.into_iter().filter(|it| !it.contains("adapters")).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Problem::invalid(format!("size {name} does not take {}: {}", vm.name, wrong.join(", "))))
}

fn nic_named(vm: &Vm, name: Option<&str>) -> Result<String, Problem> {
    let nics = vm.machine.as_ref().map_or(&[][..], |machine| &machine.nics);
    let found = match name {
        Some(name) => nics.iter().find(|nic| nic.name == name),
        None => nics.first(),
    };
    let called = || name.unwrap_or("of any name").to_owned();
    found
        .map(|nic| nic.name.clone())
        .ok_or_else(|| Problem::unknown(&format!("network adapter of {}", vm.name), &called()))
}

/// A choice has to be possible at this moment, as far as the sites say.
fn check_nic(vm: &Vm, sites: Sites<'_>, target: &NicTarget) -> Result<(), Problem> {
    let nics = vm.machine.as_ref().map_or(&[][..], |machine| &machine.nics);
    let nic = nics.iter().find(|nic| nic.name == target.nic);
    let mapped = nic.and_then(|nic| sites.primary.mapping.get(nic.network.as_ref()?));
    let name = target.network.as_ref().or(mapped);
    let network = match name {
        Some(name) => {
            let network = sites.recovery.network(name);
            Some(network.ok_or_else(|| Problem::unknown("network of the recovery site", name))?)
        }
        None => None,
    };
    if target.subnet.is_none() && target.address.is_none() {
        return Ok(());
    }
    let network = network.ok_or_else(|| {
        Problem::invalid(
            "a subnet or an address needs a network: choose one, or map the VM network",
        )
    })?;
    if let Some(subnet) = &target.subnet
        && !network.subnets.iter().any(|it| it.name == *subnet)
    {
        return Err(Problem::unknown(&format!("subnet of {}", network.name), subnet));
    }
    match &target.address {
        Some(address) => {
            check_address(network, nic.and_then(|nic| nic.subnet.as_ref()), target, address)
        }
        None => Ok(()),
    }
}

fn check_address(
    network: &Network,
    of_source: Option<&String>,
    target: &NicTarget,
    address: &str,
) -> Result<(), Problem> {
    let called =
        |name: Option<&String>| network.subnets.iter().find(|subnet| Some(&subnet.name) == name);
    let subnet = called(target.subnet.as_ref())
        .or_else(|| called(of_source))
        .or_else(|| network.subnets.first());
    match subnet {
        Some(subnet) if has(subnet, address) => Ok(()),
        Some(subnet) => {
            let (name, range) = (&subnet.name, &subnet.range);
            Err(Problem::invalid(format!("subnet {name} has {range}, which {address} is not in")))
        }
        None => Err(Problem::invalid(format!("network {} has no subnet", network.name))),
    }
}
