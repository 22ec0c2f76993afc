//! Telling the entities what the configuration says, at each start and when somebody is admitted.

use super::clock::SystemClock;
use super::config::{CloudConfig, Config, HostConfig, Registration};
use super::host_agent::{AgentVm, HostAgent};
use super::inventory;
use super::running::{NAMES, ServiceError, vault_id};
use crate::actors::{Hosted, Origin, Site, TellError};
use crate::domain::cloud::{self, Cloud};
use crate::domain::fabric::{self, Fabric};
use crate::domain::host::{self, Host};
use crate::domain::id::{CloudId, FabricId, HostId, JobId, VaultId};
use crate::domain::policy::Policy;
use crate::domain::vault::{self, Component, Vault};
use crate::domain::vm::{self, Phase, RetryReason, Side, Vm};
use crate::replica;
use std::error::Error;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

/// What the two sites are called.
const PRIMARY_FABRIC: &str = "primary-site";
const RECOVERY_FABRIC: &str = "recovery-site";

/// The fabric whose provider can be admitted.
pub(super) fn primary_fabric() -> FabricId {
    FabricId::named(NAMES, PRIMARY_FABRIC)
}

/// A cloud by its name.
fn cloud_id(name: &str) -> CloudId {
    CloudId::named(NAMES, name)
}

/// A host by its name.
pub(super) fn host_id(name: &str) -> HostId {
    HostId::named(NAMES, name)
}

/// Tells the entities what the configuration says. Nothing changes where they know it already.
#[derive(Clone)]
pub(super) struct Enrolment {
    site: Site,
    config: Arc<Config>,
    agents: Vec<Arc<HostAgent>>,
    vault: VaultId,
}

impl Enrolment {
    pub(super) fn new(site: Site, config: Config, agents: Vec<Arc<HostAgent>>) -> Self {
        let vault = vault_id(&config);
        Self { site, config: Arc::new(config), agents, vault }
    }

    /// Everything, but for whom the vault does not admit.
    pub(super) async fn everything(&self, replicas: &replica::Vault) -> Result<(), ServiceError> {
        let (id, name) = (self.vault, self.config.vault.name.clone());
        if self.state::<Vault>(&name, id.0).await?.name.is_empty() {
            replicas.establish().await?;
        }
        let create = vault::Command::Create { id, name: name.clone() };
        self.tell::<Vault>(&name, id.0, create).await?;
        for cloud in &self.config.cloud {
            self.cloud(cloud).await?;
        }
        if self.admits(Component::Provider(primary_fabric())).await? {
            self.fabrics().await?;
        }
        for agent in &self.agents {
            if self.admits(Component::Host(agent.host)).await? {
                self.host(agent).await?;
            } else {
                tracing::warn!(host = %agent.name, "a host waits for `lifeboat host register`");
            }
        }
        Ok(())
    }

    /// Enrols whom the vault admits while the service runs; ends with the service.
    pub(super) async fn admit_all(self, mut admitted: UnboundedReceiver<Component>) {
        while let Some(component) = admitted.recv().await {
            let enrolled = match component {
                Component::Provider(_) => self.fabrics().await,
                Component::Host(id) => match self.agents.iter().find(|agent| agent.host == id) {
                    Some(agent) => self.host(agent).await,
                    None => Ok(()),
                },
            };
            if let Err(error) = enrolled {
                let because = error.source().map(ToString::to_string);
                tracing::error!(%error, because, "enrol what was admitted");
            }
        }
    }

    /// Whether the vault admits somebody: by itself, or because their key was used.
    async fn admits(&self, who: Component) -> Result<bool, ServiceError> {
        if self.config.vault.registration == Registration::Automatic {
            return Ok(true);
        }
        let vault = self.state::<Vault>(&self.config.vault.name, self.vault.0).await?;
        let known = match who {
            Component::Host(id) => self.state::<Host>("host", id.0).await?.agent.is_some(),
            Component::Provider(id) => {
                self.state::<Fabric>("provider", id.0).await?.provider.is_some()
            }
        };
        Ok(known || vault.has_admitted(who))
    }

    async fn cloud(&self, cloud: &CloudConfig) -> Result<(), ServiceError> {
        let (id, name) = (cloud_id(&cloud.name), &cloud.name);
        let create = cloud::Command::Create { id, name: name.clone() };
        self.tell::<Cloud>(name, id.0, create).await?;
        let policy = Policy::from(self.config.policy_of(cloud));
        self.tell::<Cloud>(name, id.0, cloud::Command::ConfigurePolicy { policy }).await
    }

    /// What the configuration has of an agent's host.
    fn config_of(&self, agent: &HostAgent) -> &HostConfig {
        let config = self.config.host.iter().find(|host| host.name == agent.name);
        config.expect("agents are of the hosts of the configuration")
    }

    /// A host with its VMs.
    async fn host(&self, agent: &HostAgent) -> Result<(), ServiceError> {
        let config = self.config_of(agent);
        let of_host = self.config.cloud_of(config);
        let (cloud, cloud_name) = (cloud_id(&of_host.name), &of_host.name);
        let (vault, id, name) = (self.vault, agent.host, &agent.name);
        let known = self.state::<Host>(name, id.0).await?;
        if !known.name.is_empty() && known.cloud != cloud {
            let stays_in = self.state::<Cloud>("cloud", known.cloud.0).await?.name;
            tracing::error!(
                host = %name, configured = %cloud_name, %stays_in,
                "a host stays in the cloud in which it was registered, and its VMs go on as they were: give the \
                 configuration that cloud, and the host its name as `cloud`"
            );
            return Ok(());
        }
        let register = host::Command::Register { id, name: name.clone(), cloud };
        self.tell::<Host>(name, id.0, register).await?;
        self.tell::<Host>(name, id.0, host::Command::RegisterAgent { vault }).await?;
        let cluster = config.cluster.clone();
        self.tell::<Host>(name, id.0, host::Command::JoinCluster { cluster }).await?;
        let add = cloud::Command::AddHost { host: id };
        self.tell::<Cloud>(cloud_name, cloud.0, add).await?;
        for vm in agent.vms.iter().filter(|vm| vm.home) {
            let vm_name = &vm.config.name;
            if agent.inventory(vm).is_none() {
                continue;
            }
            match self.vm(vm, agent, of_host).await {
                // One VM, as with a disk that is gone, is no reason to leave the others alone.
                Err(error @ ServiceError::Enrol { source: TellError::Rejected(_), .. }) => {
                    let because = error.source().map(ToString::to_string);
                    tracing::error!(vm = %vm_name, %error, because, "enrol a VM");
                    continue;
                }
                enrolled => enrolled?,
            }
            let of_vm = self.state::<Vm>(vm_name, vm.id.0).await?.cloud;
            if of_vm != cloud {
                let stays_in = self.state::<Cloud>("cloud", of_vm.0).await?.name;
                tracing::error!(
                    vm = %vm_name, configured = %cloud_name, %stays_in,
                    "a VM stays in the cloud in which it was found first, by whose policy it is replicated: give it to a \
                     host of that cloud again"
                );
                continue;
            }
            let window = self.config.policy_of(of_host).resync_window;
            let window = window.at_site(SystemClock::utc_offset_minutes());
            let configure = vm::Command::ConfigureResyncWindow { window };
            self.tell::<Vm>(vm_name, vm.id.0, configure).await?;
            let schedule = self.config.statistics.at_site(SystemClock::utc_offset_minutes());
            let change = vm::Command::ChangeStatisticsSchedule { schedule };
            self.tell::<Vm>(vm_name, vm.id.0, change).await?;
            let add = cloud::Command::AddVm { vm: vm.id };
            self.tell::<Cloud>(cloud_name, cloud.0, add).await?;
        }
        Ok(())
    }

    /// Tells the two sites what they have, where the configuration describes them.
    async fn fabrics(&self) -> Result<(), ServiceError> {
        let (networks, recovery) = (&self.config.network, &self.config.recovery);
        if networks.is_empty() && recovery.network.is_empty() && recovery.size.is_empty() {
            return Ok(());
        }
        let sizes = inventory::sizes(&recovery.size);
        for (name, side, networks, sizes) in [
            (PRIMARY_FABRIC, Side::Primary, networks, vec![]),
            (RECOVERY_FABRIC, Side::Recovery, &recovery.network, sizes),
        ] {
            let id = FabricId::named(NAMES, name);
            let create = fabric::Command::Create { id, name: name.to_owned(), side };
            self.tell::<Fabric>(name, id.0, create).await?;
            let networks = inventory::networks(networks);
            let describe = fabric::Command::Describe { networks, sizes };
            self.tell::<Fabric>(name, id.0, describe).await?;
        }
        let register = fabric::Command::RegisterProvider { vault: self.vault };
        self.tell::<Fabric>(PRIMARY_FABRIC, primary_fabric().0, register).await
    }

    async fn vm(
        &self,
        vm: &AgentVm,
        agent: &HostAgent,
        of_host: &CloudConfig,
    ) -> Result<(), ServiceError> {
        let (cloud, vault, host) = (cloud_id(&of_host.name), self.vault, agent.host);
        let (id, name) = (vm.id, vm.config.name.as_str());
        let disks = agent.inventory(vm).unwrap_or_default();
        let discover = vm::Command::Discover { id, name: name.to_owned(), host, cloud, disks };
        self.tell::<Vm>(name, id.0, discover).await?;
        let machine = inventory::machine(id, &vm.config);
        self.tell::<Vm>(name, id.0, vm::Command::Describe { machine }).await?;
        let known = self.state::<Vm>(name, id.0).await?;
        // One whose protection was disabled stays as it is.
        if known.phase == Phase::Unprotected && known.jobs == 0 {
            let job = JobId::derived(id.0, known.jobs);
            let policy = Policy::from(self.config.policy_of(of_host));
            let enable = vm::Command::EnableProtection { job, vault, policy };
            self.tell::<Vm>(name, id.0, enable).await?;
        }
        // Its disks could be attached, and somebody started the service: what waited for that goes on.
        let because = RetryReason::Administrator;
        self.tell::<Vm>(name, id.0, vm::Command::Retry { because }).await
    }

    async fn tell<E: Hosted>(
        &self,
        name: &str,
        id: Uuid,
        command: E::Command,
    ) -> Result<(), ServiceError> {
        let told = self.site.tell::<E>(id, command, Origin::of("configuration")).await;
        told.map(drop).map_err(|source| ServiceError::Enrol { name: name.to_owned(), source })
    }

    pub(super) async fn state<E: Hosted>(&self, name: &str, id: Uuid) -> Result<E, ServiceError> {
        let state = self.site.state::<E>(id).await;
        state.map_err(|source| ServiceError::Enrol { name: name.to_owned(), source })
    }
}
