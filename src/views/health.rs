//! Health, readiness and issues: three answers that are never blended.
//!
//! Health says how well a thing does, with every cause. Readiness says whether a failover would begin if it
//! were asked for at this moment. Issues put together what has one root: forty VMs behind a vault that is
//! away are one issue.

use super::Moment;
use super::site::Site;
use crate::domain::catalogue::{self, Code, Level};
use crate::domain::cloud::Cloud;
use crate::domain::fabric::Address;
use crate::domain::failure::{Cause, Failure};
use crate::domain::host::Host;
use crate::domain::id::VmId;
use crate::domain::time::Timestamp;
use crate::domain::vault::Vault;
use crate::domain::vm::{Health, HealthCause, NextStep, Vm};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One reason for a level of health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseView {
    /// The level that it stands for.
    pub level: Health,
    /// The id of the catalogue entry, where there is one.
    pub code: Option<String>,
    /// What is the case.
    pub because: String,
    /// Since when, where that is known.
    pub since: Option<Moment>,
    /// What happens if nobody does anything.
    pub next: String,
    /// What to do, where the catalogue knows.
    pub action: Option<String>,
}

impl CauseView {
    pub(super) fn new(cause: HealthCause) -> Self {
        // A cause that is a failure begins with its id.
        let entry = catalogue::ENTRIES.iter().find(|entry| cause.because.starts_with(entry.id));
        Self {
            level: cause.level,
            code: entry.map(|entry| entry.id.to_owned()),
            because: cause.because,
            since: cause.since.map(Moment),
            next: cause.next,
            action: entry.map(|entry| entry.action.to_owned()),
        }
    }

    /// A failure that lasts since a moment, of a thing that is watched.
    fn lasting((since, failure): &(Timestamp, Failure)) -> Self {
        let entry = catalogue::entry(failure.code);
        Self::new(HealthCause {
            level: match entry.level {
                Level::Warning => Health::Warning,
                Level::Critical => Health::Critical,
            },
            because: failure.to_string(),
            next: entry.next.to_owned(),
            since: Some(*since),
        })
    }
}

/// The worst level of causes; `Normal` without any.
pub(super) fn worst(causes: &[CauseView]) -> Health {
    causes.iter().map(|cause| cause.level).max().unwrap_or(Health::Normal)
}

pub(super) fn of_vm(vm: &Vm, now: Timestamp) -> Vec<CauseView> {
    vm.health_causes(now).into_iter().map(CauseView::new).collect()
}

pub(super) fn of_host(host: &Host) -> Vec<CauseView> {
    host.silent.iter().map(CauseView::lasting).collect()
}

pub(super) fn of_vault(vault: &Vault) -> Vec<CauseView> {
    vault.unreachable.iter().map(CauseView::lasting).collect()
}

/// The causes of a cloud's hosts and VMs. What stops one VM only warns of the cloud.
pub(super) fn of_cloud(cloud: &Cloud, site: &Site, now: Timestamp) -> Vec<CauseView> {
    let hosts = cloud.hosts.iter().filter_map(|id| site.hosts.get(id));
    let vms = cloud.vms.keys().filter_map(|id| site.vms.get(id));
    let of_vms = vms.flat_map(|vm| {
        of_vm(vm, now).into_iter().map(|cause| CauseView {
            level: cause.level.min(Health::Warning),
            because: format!("{}: {}", vm.name, cause.because),
            ..cause
        })
    });
    hosts.flat_map(of_host).chain(of_vms).collect()
}

/// How many things have which health.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSummary {
    /// The worst of all.
    pub worst: Option<Health>,
    /// How many are Normal.
    pub normal: usize,
    /// How many are in Warning.
    pub warning: usize,
    /// How many are Critical.
    pub critical: usize,
    /// How many have no health: not protected, or at the recovery site for good.
    pub not_applicable: usize,
}

impl HealthSummary {
    pub(super) fn of(healths: impl Iterator<Item = Health>) -> Self {
        let mut summary = Self::default();
        for health in healths {
            summary.worst = summary.worst.max(Some(health));
            *match health {
                Health::NotApplicable => &mut summary.not_applicable,
                Health::Normal => &mut summary.normal,
                Health::Warning => &mut summary.warning,
                Health::Critical => &mut summary.critical,
            } += 1;
        }
        summary
    }
}

/// Whether failovers would begin if they were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// A planned one, which loses nothing.
    pub planned_failover: Verdict,
    /// An unplanned one, which needs nothing of the primary site.
    pub unplanned_failover: Verdict,
}

/// Yes, or every reason why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it is.
    pub ready: bool,
    /// Every reason why it is not.
    pub because: Vec<String>,
}

impl Verdict {
    fn unless(because: Vec<String>) -> Self {
        Self { ready: because.is_empty(), because }
    }
}

impl Readiness {
    pub(super) fn of(vm: &Vm, site: &Site) -> Self {
        let allowed = vm.allowed_operations();
        let forbidden = |operation: &str| {
            let reason = if vm.points.is_empty() {
                "it has no recovery point".to_owned()
            } else {
                format!("it is {}", vm.phase)
            };
            (!allowed.contains(&operation)).then_some(reason)
        };
        let lasting = |failed: Option<&(Timestamp, Failure)>| failed.map(|it| it.1.to_string());
        let vault = lasting(site.vaults.get(&vm.vault).and_then(|it| it.unreachable.as_ref()));
        let host = lasting(site.hosts.get(&vm.host).and_then(|it| it.silent.as_ref()));
        let needs_somebody = vm.trouble.as_ref().filter(|it| it.next == NextStep::Administrator);
        let planned = forbidden("PlannedFailover")
            .into_iter()
            .chain(host)
            .chain(vault.clone())
            .chain(needs_somebody.map(|trouble| trouble.failure.to_string()));
        let unplanned = forbidden("UnplannedFailover").into_iter().chain(vault);
        Self {
            planned_failover: Verdict::unless(planned.collect()),
            unplanned_failover: Verdict::unless(unplanned.collect()),
        }
    }
}

/// Something that is not as it should be, with all that it hits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueView {
    /// The root: as in `vault vault-1`, `host host-1`, `vm web-01`.
    pub subject: String,
    /// What is the case.
    #[serde(flatten)]
    pub cause: CauseView,
    /// The VMs that it hits.
    pub affects: Vec<String>,
}

/// Every issue, the worst first, and among equals that which hits most.
pub(super) fn issues(site: &Site, now: Timestamp) -> Vec<IssueView> {
    let mut roots: BTreeMap<Cause, IssueView> = BTreeMap::new();
    for host in site.hosts.values() {
        for cause in of_host(host) {
            let subject = format!("host {}", host.name);
            roots.insert(Cause::Host(host.id), IssueView { subject, cause, affects: vec![] });
        }
    }
    for vault in site.vaults.values() {
        for cause in of_vault(vault) {
            let subject = format!("vault {}", vault.name);
            roots.insert(Cause::Vault(vault.id), IssueView { subject, cause, affects: vec![] });
        }
    }
    let mut issues = Vec::new();
    for vm in site.vms.values() {
        for cause in vm.health_causes(now) {
            match root_of(vm, &cause).and_then(|root| roots.get_mut(&root)) {
                Some(issue) => issue.affects.push(vm.name.clone()),
                None => issues.push(IssueView {
                    subject: format!("vm {}", vm.name),
                    cause: CauseView::new(cause),
                    affects: vec![vm.name.clone()],
                }),
            }
        }
    }
    issues.extend(roots.into_values());
    issues.extend(network_issues(site));
    issues.sort_by_key(|issue| {
        (std::cmp::Reverse((issue.cause.level, issue.affects.len())), issue.subject.clone())
    });
    issues
}

/// What failovers would meet at the recovery site, and what the providers have to say.
fn network_issues(site: &Site) -> Vec<IssueView> {
    let names = |vms: &[VmId]| vms.iter().map(|vm| site.vm_name(*vm)).collect();
    let issue = |subject: String, failure: &Failure, affects| {
        let (next, because) = (catalogue::entry(failure.code).next.to_owned(), failure.to_string());
        let cause = HealthCause { level: Health::Warning, because, next, since: None };
        IssueView { subject, cause: CauseView::new(cause), affects }
    };
    let unmapped = site.unmapped().into_iter().map(|(network, vms)| {
        let failure = Failure::new(Code::NetworkNotMapped, Cause::Itself, "");
        let failure = failure.with("network", &network);
        issue(format!("network {network}"), &failure, names(&vms))
    });
    let clashes = site.clashes().into_iter().map(|(Address { network, address }, vms)| {
        let failure = Failure::new(Code::AddressClash, Cause::Itself, "");
        let failure = failure.with("network", &network).with("address", &address);
        issue(format!("address {address}"), &failure, names(&vms))
    });
    let silent = site.fabrics.values().filter_map(|fabric| {
        let cause = CauseView::lasting(fabric.silent.as_ref()?);
        Some(IssueView { subject: format!("fabric {}", fabric.name), cause, affects: vec![] })
    });
    unmapped.chain(clashes).chain(silent).collect()
}

/// What must recover for a cause of a VM's health to end, where that is not the VM.
fn root_of(vm: &Vm, cause: &HealthCause) -> Option<Cause> {
    let failure = vm.trouble.as_ref().map(|trouble| &trouble.failure)?;
    (cause.because == failure.to_string()).then_some(failure.cause)
}
