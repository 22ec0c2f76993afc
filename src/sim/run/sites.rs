//! What surrounds the VMs of a run: clusters that move them, and the networks of the two sites.

use super::Run;
use crate::domain::entity::{Entity, Kind, StreamId};
use crate::domain::fabric::{Command, Fabric};
use crate::domain::id::{FabricId, HostId, VmId};
use crate::domain::vault::{self, Component, Vault};
use crate::domain::vm::{self, Side};
use crate::ports::clock::Clock;
use crate::sim::scenario::Step;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::sleep;
use uuid::Uuid;

/// How long a cluster waits for another member to answer.
const LOOKS_AGAIN: Duration = Duration::from_secs(10);

impl Run {
    /// Tells the service what the two sites have, where the scenario describes it.
    pub(super) async fn describe_sites(&self) {
        let site = &self.scenario.site;
        if site.network.is_empty() && site.recovery_network.is_empty() && site.size.is_empty() {
            return;
        }
        let (primary, recovery) = (fabric("primary-site"), fabric("recovery-site"));
        let (own, other) = (site.networks(), site.recovery_networks());
        for (id, name, side, networks, sizes) in [
            (primary, "primary-site", Side::Primary, own, vec![]),
            (recovery, "recovery-site", Side::Recovery, other, site.sizes()),
        ] {
            let create = Command::Create { id, name: name.to_owned(), side };
            self.configure(Kind::Fabric, id.0, create).await;
            self.configure(Kind::Fabric, id.0, Command::Describe { networks, sizes }).await;
        }
        // What an operator has mapped since the first start stays over others.
        let known = self.journal.observer().past.site.fabrics.get(&primary).cloned();
        if known.is_some_and(|known| known.provider.is_some()) {
            return;
        }
        for (network, to) in site.mappings() {
            self.configure(Kind::Fabric, primary.0, Command::MapNetwork { network, to }).await;
        }
        let register = Command::RegisterProvider { vault: self.outside.vault };
        self.configure(Kind::Fabric, primary.0, register).await;
    }

    /// An operator has a network lead elsewhere.
    pub(super) fn map_network(&self, step: &Step) {
        let Some(network) = step.network.as_ref().map(|name| name.get_ref().clone()) else {
            return;
        };
        let command = match &step.to {
            Some(to) => Command::MapNetwork { network, to: to.get_ref().clone() },
            None => Command::UnmapNetwork { network },
        };
        let run = self.clone();
        spawn_local(async move {
            let stream = StreamId { kind: Kind::Fabric, id: fabric("primary-site").0 };
            run.tell(stream, Fabric::entry(command, vec![]), "operator").await;
        });
    }

    /// Whether the vault admits a host: by itself, or because its key was used.
    pub(super) fn admits(&self, host: HostId) -> bool {
        let observer = self.journal.observer();
        let vault = observer.past.site.vaults.get(&self.outside.vault);
        !self.scenario.site.registration_keys
            || vault.is_some_and(|vault| vault.has_admitted(Component::Host(host)))
    }

    /// An operator gets a key from the vault, and registers a host with it, at once or later.
    pub(super) fn register_host(&self, step: &Step) {
        let later = step.after.unwrap_or_default().duration();
        let vault = StreamId { kind: Kind::Vault, id: self.outside.vault.0 };
        for host in self.outside.hosts_called(step.host()) {
            let run = self.clone();
            spawn_local(async move {
                let name = run.outside.host_name(host);
                let digest = format!("key of {name} at {}", run.outside.clock.now());
                let issue = vault::Command::IssueRegistrationKey { digest: digest.clone() };
                run.tell(vault, Vault::entry(issue, vec![]), "operator").await;
                sleep(later).await;
                let by = Component::Host(host);
                let register = vault::Command::UseRegistrationKey { digest, by, name };
                run.tell(vault, Vault::entry(register, vec![]), "operator").await;
                if run.admits(host) {
                    run.enrol().await;
                }
            });
        }
    }

    /// Somebody has a VM moved.
    pub(super) fn order_move(&self, step: &Step) {
        let Some(to) = self.outside.hosts_called(step.host()).first().copied() else { return };
        for vm in self.outside.vms_called(step.vm()) {
            let run = self.clone();
            spawn_local(async move { run.move_vm(vm, to).await });
        }
    }

    async fn move_vm(&self, id: VmId, to: HostId) {
        let standing = self.standing()(id);
        if let Err(because) = self.outside.move_vm(id, to, standing) {
            let name = self.outside.machine(id).name;
            return self.remark(format!("{name} cannot be moved: {because}"));
        }
        self.weather();
        self.configure(Kind::Vm, id.0, vm::Command::ReportMoved { host: to }).await;
    }

    /// The cluster of a host that is down gives its VMs to another member, unless it is back before.
    pub(super) fn let_cluster_take_over(&self, host: HostId) {
        let Some(after) = self.outside.takes_over_after_ms(host) else { return };
        let run = self.clone();
        spawn_local(async move {
            sleep(Duration::from_millis(after)).await;
            while run.hosts_down().contains(&host) {
                let taken = run.outside.taken_over(host, &run.standing());
                if let Some((to, vms)) = taken {
                    for vm in vms {
                        run.remark(format!(
                            "{} goes to {}",
                            run.outside.machine(vm).name,
                            run.outside.host_name(to)
                        ));
                        run.move_vm(vm, to).await;
                    }
                    return;
                }
                sleep(LOOKS_AGAIN).await;
            }
        });
    }
}

fn fabric(name: &str) -> FabricId {
    FabricId::named(Uuid::nil(), name)
}
