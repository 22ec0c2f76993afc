//! A whole site at one moment.

use super::health::{self, HealthSummary, IssueView};
use super::{CloudView, HostView, JobView, Moment, PlanView, VaultView, VmView};
use crate::domain::cloud::Cloud;
use crate::domain::entity::{Commit, Entity, Entry};
use crate::domain::fabric::Fabric;
use crate::domain::host::Host;
use crate::domain::id::{CloudId, FabricId, HostId, PlanId, VaultId, VmId};
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::domain::vault::Vault;
use crate::domain::vm::Vm;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The states of everything that a site has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Site {
    /// Its VMs.
    pub vms: BTreeMap<VmId, Vm>,
    /// Its hosts.
    pub hosts: BTreeMap<HostId, Host>,
    /// Its clouds.
    pub clouds: BTreeMap<CloudId, Cloud>,
    /// Its vaults.
    pub vaults: BTreeMap<VaultId, Vault>,
    /// Its recovery plans.
    pub plans: BTreeMap<PlanId, Plan>,
    /// Its fabrics: the primary and the recovery site.
    pub fabrics: BTreeMap<FabricId, Fabric>,
}

/// How a site is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// The moment of which this is true.
    pub at: Moment,
    /// How well its VMs, hosts and vaults do.
    pub health: HealthSummary,
    /// What is not as it should be, the worst first.
    pub issues: Vec<IssueView>,
    /// Its VMs, by name.
    pub vms: Vec<VmView>,
    /// Its hosts, by name.
    pub hosts: Vec<HostView>,
    /// Its clouds, by name.
    pub clouds: Vec<CloudView>,
    /// Its vaults, by name.
    pub vaults: Vec<VaultView>,
    /// Its recovery plans, by name.
    pub plans: Vec<PlanView>,
    /// The jobs that run: of VMs, of their tests, and the runs of recovery plans.
    pub running_jobs: Vec<JobView>,
}

impl Site {
    /// Takes the next commit of a log.
    pub fn apply(&mut self, commit: &Commit) {
        let (id, at) = (commit.stream.id, commit.at);
        match &commit.entry {
            Entry::Vm { events, .. } => fold(self.vms.entry(VmId(id)).or_default(), events, at),
            Entry::Host { events, .. } => {
                fold(self.hosts.entry(HostId(id)).or_default(), events, at);
            }
            Entry::Cloud { events, .. } => {
                fold(self.clouds.entry(CloudId(id)).or_default(), events, at);
            }
            Entry::Vault { events, .. } => {
                fold(self.vaults.entry(VaultId(id)).or_default(), events, at);
            }
            Entry::Plan { events, .. } => {
                fold(self.plans.entry(PlanId(id)).or_default(), events, at);
            }
            Entry::Fabric { events, .. } => {
                fold(self.fabrics.entry(FabricId(id)).or_default(), events, at);
            }
        }
    }

    /// How it is at `now`.
    pub fn status(&self, now: Timestamp) -> StatusView {
        let vms = self.vms(now);
        let hosts = self.hosts(now);
        let vaults = self.vaults();
        let healths = vms.iter().map(|vm| vm.health);
        let healths = healths
            .chain(hosts.iter().map(|host| host.health))
            .chain(vaults.iter().map(|vault| vault.health));
        let tests = |vm: &VmView| vm.test_failover.as_ref().map(|test| test.job.clone());
        let of_vms = vms.iter().flat_map(|vm| vm.job.clone().into_iter().chain(tests(vm)));
        let runs = self
            .plans
            .values()
            .filter_map(|plan| Some(JobView::of_run(plan.running()?, plan, None, &[], now)));
        let running = of_vms.filter(|job| !job.ended()).chain(runs);
        StatusView {
            at: now.into(),
            health: HealthSummary::of(healths),
            issues: health::issues(self, now),
            running_jobs: running.collect(),
            clouds: self.clouds(now),
            plans: self.plans(now),
            vms,
            hosts,
            vaults,
        }
    }

    /// Its VMs, by name.
    pub fn vms(&self, now: Timestamp) -> Vec<VmView> {
        by_name(self.vms.values().map(|vm| VmView::new(vm, self, now)), |vm| &vm.name)
    }

    /// Its hosts, by name.
    pub fn hosts(&self, now: Timestamp) -> Vec<HostView> {
        by_name(self.hosts.values().map(|host| HostView::new(host, self, now)), |host| &host.name)
    }

    /// Its clouds, by name.
    pub fn clouds(&self, now: Timestamp) -> Vec<CloudView> {
        let clouds = self.clouds.values().map(|cloud| CloudView::new(cloud, self, now));
        by_name(clouds, |cloud| &cloud.name)
    }

    /// Its vaults, by name.
    pub fn vaults(&self) -> Vec<VaultView> {
        by_name(self.vaults.values().map(|vault| VaultView::new(vault, self)), |vault| &vault.name)
    }

    /// Its recovery plans, by name; those that were deleted are none.
    pub fn plans(&self, now: Timestamp) -> Vec<PlanView> {
        let plans = self.plans.values().filter(|plan| !plan.name.is_empty());
        by_name(plans.map(|plan| PlanView::new(plan, self, now)), |plan| &plan.name)
    }

    pub(super) fn vm_name(&self, id: VmId) -> String {
        self.vms.get(&id).map_or_else(|| id.to_string(), |vm| vm.name.clone())
    }

    /// What a host is called.
    pub fn host_name(&self, id: HostId) -> String {
        self.hosts.get(&id).map_or_else(|| id.to_string(), |host| host.name.clone())
    }

    /// What a cloud is called.
    pub fn cloud_name(&self, id: CloudId) -> String {
        self.clouds.get(&id).map_or_else(|| id.to_string(), |cloud| cloud.name.clone())
    }
}

fn fold<E: Entity>(state: &mut E, events: &[E::Event], at: Timestamp) {
    for event in events {
        state.apply(event, at);
    }
}

fn by_name<V>(views: impl Iterator<Item = V>, name: impl Fn(&V) -> &String) -> Vec<V> {
    let mut views: Vec<V> = views.collect();
    views.sort_by(|a, b| name(a).cmp(name(b)));
    views
}
