//! A host.

use super::Moment;
use super::health::{CauseView, of_host, worst};
use super::site::Site;
use crate::domain::host::Host;
use crate::domain::id::HostId;
use crate::domain::time::Timestamp;
use crate::domain::vm::Health;
use serde::{Deserialize, Serialize};

/// A hypervisor host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// Its identity.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// Its cloud.
    pub cloud: String,
    /// Whether it answers.
    pub connected: bool,
    /// How well it does.
    pub health: Health,
    /// Why, if that is not Normal.
    pub causes: Vec<CauseView>,
    /// The VMs that it runs, or ran.
    pub vms: Vec<String>,
    /// Since when its agent is registered with a vault.
    pub registered_at: Option<Moment>,
    /// The cluster that it is a member of.
    pub cluster: Option<String>,
    /// How fast it may send, where the service says.
    pub bandwidth: Option<String>,
}

impl HostView {
    /// What is to be said of a host at `now`.
    pub fn new(host: &Host, site: &Site, now: Timestamp) -> Self {
        let causes = of_host(host, site, now);
        let vms = site.vms.values().filter(|vm| vm.host == host.id);
        Self {
            id: host.id,
            name: host.name.clone(),
            cloud: site.cloud_name(host.cloud),
            connected: host.silent.is_none(),
            health: worst(&causes),
            causes,
            vms: vms.map(|vm| vm.name.clone()).collect(),
            registered_at: host.agent.map(|(_, at)| Moment(at)),
            cluster: host.cluster.clone(),
            bandwidth: None,
        }
    }
}
