//! A cloud with its replication policy.

use super::health::{CauseView, of_cloud, worst};
use super::site::Site;
use crate::domain::cloud::Cloud;
use crate::domain::id::CloudId;
use crate::domain::policy::Policy;
use crate::domain::time::Timestamp;
use crate::domain::vm::Health;
use serde::{Deserialize, Serialize};

/// A replication policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyView {
    /// Seconds between two deltas.
    pub copy_frequency_seconds: u32,
    /// Hours for which recovery points are kept.
    pub recovery_point_retention_hours: u32,
    /// Hours between application-consistent points; 0 for none.
    pub app_consistent_frequency_hours: u32,
}

impl From<Policy> for PolicyView {
    fn from(policy: Policy) -> Self {
        Self {
            copy_frequency_seconds: policy.copy_frequency_s,
            recovery_point_retention_hours: policy.recovery_point_retention_h,
            app_consistent_frequency_hours: policy.app_consistent_frequency_h,
        }
    }
}

impl From<PolicyView> for Policy {
    fn from(policy: PolicyView) -> Self {
        Self {
            copy_frequency_s: policy.copy_frequency_seconds,
            recovery_point_retention_h: policy.recovery_point_retention_hours,
            app_consistent_frequency_h: policy.app_consistent_frequency_hours,
        }
    }
}

/// A cloud: hosts whose VMs are replicated by one policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudView {
    /// Its identity.
    pub id: CloudId,
    /// Its name.
    pub name: String,
    /// Its policy.
    pub policy: PolicyView,
    /// How often the policy was changed.
    pub policy_revision: u32,
    /// VMs that have not taken over the policy's last change.
    pub policy_pending: Vec<String>,
    /// How well it does.
    pub health: Health,
    /// Why, if that is not Normal.
    pub causes: Vec<CauseView>,
    /// Its hosts.
    pub hosts: Vec<String>,
    /// Its replicated VMs.
    pub vms: Vec<String>,
}

impl CloudView {
    /// What is to be said of a cloud at `now`.
    pub fn new(cloud: &Cloud, site: &Site, now: Timestamp) -> Self {
        let causes = of_cloud(cloud, site, now);
        let behind = cloud.vms.iter().filter(|(_, taken)| **taken < cloud.revision);
        Self {
            id: cloud.id,
            name: cloud.name.clone(),
            policy: cloud.policy.into(),
            policy_revision: cloud.revision,
            policy_pending: behind.map(|(id, _)| site.vm_name(*id)).collect(),
            health: worst(&causes),
            causes,
            hosts: cloud.hosts.iter().map(|id| site.host_name(*id)).collect(),
            vms: cloud.vms.keys().map(|id| site.vm_name(*id)).collect(),
        }
    }
}
