//! The live states of a running site, as views are made of them.

use super::problem::Problem;
use crate::actors::{self, Hosted, load_entity};
use crate::domain::cloud::Cloud;
use crate::domain::entity::{Kind, StreamId};
use crate::domain::fabric::Fabric;
use crate::domain::host::Host;
use crate::domain::id::{CloudId, FabricId, HostId, PlanId, VaultId, VmId};
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::domain::vault::Vault;
use crate::domain::vm::Vm;
use crate::ports::clock::Clock;
use crate::ports::event_store::EventStore;
use crate::views::Site;
use std::sync::Arc;
use uuid::Uuid;

/// A running site, to be looked at.
#[derive(Clone)]
pub struct Live {
    /// The way into the actors.
    pub site: actors::Site,
    /// The event log.
    pub store: Arc<dyn EventStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Live {
    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The states of everything.
    ///
    /// # Errors
    /// `EventLogFailed` if the log, which says what there is, cannot be read.
    pub async fn site(&self) -> Result<Site, Problem> {
        let mut site = Site::default();
        for (StreamId { kind, id }, _) in self.store.streams()? {
            match kind {
                Kind::Vm => drop(site.vms.insert(VmId(id), self.state::<Vm>(id).await?)),
                Kind::Host => drop(site.hosts.insert(HostId(id), self.state::<Host>(id).await?)),
                Kind::Cloud => {
                    drop(site.clouds.insert(CloudId(id), self.state::<Cloud>(id).await?));
                }
                Kind::Vault => {
                    drop(site.vaults.insert(VaultId(id), self.state::<Vault>(id).await?));
                }
                Kind::Plan => drop(site.plans.insert(PlanId(id), self.state::<Plan>(id).await?)),
                Kind::Fabric => {
                    drop(site.fabrics.insert(FabricId(id), self.state::<Fabric>(id).await?));
                }
            }
        }
        Ok(site)
    }

    /// A VM with what belongs to it: its cloud, the plan that it waits for, and the hosts and vaults, of which
    /// there are few.
    ///
    /// # Errors
    /// As of [`Live::site`].
    pub async fn site_of(&self, vm: VmId) -> Result<Site, Problem> {
        let streams = self.store.streams()?;
        let is_there =
            |kind, id| streams.iter().any(|(stream, _)| *stream == StreamId { kind, id });
        let mut site = Site::default();
        // Whoever asks for the actor of a stranger makes one.
        if !is_there(Kind::Vm, vm.0) {
            return Ok(site);
        }
        let state = self.state::<Vm>(vm.0).await?;
        let (cloud, held) = (state.cloud, state.held);
        site.vms.insert(vm, state);
        if let Some(plan) = held.filter(|plan| is_there(Kind::Plan, plan.0)) {
            site.plans.insert(plan, self.state(plan.0).await?);
        }
        for (StreamId { id, .. }, _) in streams.iter().filter(|(it, _)| it.kind == Kind::Host) {
            site.hosts.insert(HostId(*id), self.state(*id).await?);
        }
        if is_there(Kind::Cloud, cloud.0) {
            site.clouds.insert(cloud, self.state(cloud.0).await?);
        }
        for (StreamId { id, .. }, _) in streams.iter().filter(|(it, _)| it.kind == Kind::Vault) {
            site.vaults.insert(VaultId(*id), self.state(*id).await?);
        }
        for (StreamId { id, .. }, _) in streams.iter().filter(|(it, _)| it.kind == Kind::Fabric) {
            site.fabrics.insert(FabricId(*id), self.state(*id).await?);
        }
        Ok(site)
    }

    /// The state of an entity; from the log while its actor is being built anew.
    pub(super) async fn state<E: Hosted>(&self, id: Uuid) -> Result<E, Problem> {
        if let Ok(state) = self.site.state::<E>(id).await {
            return Ok(state);
        }
        let stream = StreamId { kind: E::KIND, id };
        Ok(load_entity::<E>(&*self.store, stream)?.0)
    }
}
