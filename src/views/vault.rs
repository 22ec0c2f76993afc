//! A recovery vault.

use super::health::{CauseView, of_vault, worst};
use super::site::Site;
use crate::domain::id::VaultId;
use crate::domain::vault::Vault;
use crate::domain::vm::Health;
use serde::{Deserialize, Serialize};

/// A recovery vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultView {
    /// Its identity.
    pub id: VaultId,
    /// Its name.
    pub name: String,
    /// Whether it can be reached.
    pub reachable: bool,
    /// How well it does.
    pub health: Health,
    /// Why, if that is not Normal.
    pub causes: Vec<CauseView>,
    /// The VMs whose replicas it keeps.
    pub vms: Vec<String>,
    /// How many recovery points they have.
    pub recovery_points: usize,
}

impl VaultView {
    /// What is to be said of a vault.
    pub fn new(vault: &Vault, site: &Site) -> Self {
        let causes = of_vault(vault);
        let vms: Vec<_> = site.vms.values().filter(|vm| vm.vault == vault.id).collect();
        Self {
            id: vault.id,
            name: vault.name.clone(),
            reachable: vault.unreachable.is_none(),
            health: worst(&causes),
            causes,
            recovery_points: vms.iter().map(|vm| vm.points.len()).sum(),
            vms: vms.into_iter().map(|vm| vm.name.clone()).collect(),
        }
    }
}
