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
use crate::domain::id::{HostId, PlanId, VaultId, VmId};
use crate::domain::placement::Purpose;
use crate::domain::plan::{Plan, RunOutcome};
use crate::domain::time::Timestamp;
use crate::domain::vault::Vault;
use crate::domain::vm::{Health, HealthCause, NextStep, Phase, Vm};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One reason for a level of health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseView {
    /// The level that it stands for.
    pub level: Health,
    /// The id of the catalogue entry.
    pub code: String,
    /// What is the case.
    pub because: String,
    /// Since when, where that is known.
    pub since: Option<Moment>,
    /// What happens if nobody does anything.
    pub next: String,
    /// What to do.
    pub action: String,
}

impl CauseView {
    fn new(cause: HealthCause) -> Self {
        let HealthCause { level, code, because, next, since } = cause;
        let entry = catalogue::entry(code);
        Self {
            level,
            code: entry.id.to_owned(),
            because,
            since: since.map(Moment),
            next,
            action: entry.action.to_owned(),
        }
    }

    /// What the catalogue says of a code, with words of its own for what is the case.
    pub(super) fn of(code: Code, because: String, since: Option<Moment>) -> Self {
        let entry = catalogue::entry(code);
        let level = match entry.level {
            Level::Warning => Health::Warning,
            Level::Critical => Health::Critical,
        };
        let (code, next) = (entry.id.to_owned(), entry.next.to_owned());
        Self { level, code, because, since, next, action: entry.action.to_owned() }
    }

    /// A failure that lasts since a moment, of a thing that is watched.
    fn lasting((since, failure): &(Timestamp, Failure)) -> Self {
        Self::of(failure.code, failure.to_string(), Some(Moment(*since)))
    }
}

/// The worst level of causes; `Normal` without any.
pub(super) fn worst(causes: &[CauseView]) -> Health {
    causes.iter().map(|cause| cause.level).max().unwrap_or(Health::Normal)
}

/// The causes of a VM, the worst first. Whether somebody is to start one that waits for its plan, the plan
/// alone knows.
fn causes(vm: &Vm, site: &Site, now: Timestamp) -> Vec<HealthCause> {
    let mut causes = vm.health_causes(now);
    for cause in &mut causes {
        if cause.code == Code::StartHeld && site.keeps_off(vm) {
            let entry = catalogue::entry(Code::StartForgotten);
            cause.level = Health::Critical;
            cause.code = Code::StartForgotten;
            let because = if vm.held_off {
                "the VM was shut down for its failover and is off at both sites: no run of a recovery plan is to go on with it"
            } else {
                "the VM could start at the recovery site and is off at both: no run of a recovery plan is to start it"
            };
            because.clone_into(&mut cause.because);
            entry.next.clone_into(&mut cause.next);
        }
    }
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.level));
    causes
}

/// The health of a VM with every cause.
pub(super) fn of_vm(vm: &Vm, site: &Site, now: Timestamp) -> (Health, Vec<CauseView>) {
    let causes: Vec<_> = causes(vm, site, now).into_iter().map(CauseView::new).collect();
    let health = causes.first().map_or_else(|| vm.health(now), |cause| cause.level);
    (health, causes)
}

/// The causes of a host: its own, and that all of its VMs are Critical, which is seldom by chance.
pub(super) fn of_host(host: &Host, site: &Site, now: Timestamp) -> Vec<CauseView> {
    let vms: Vec<_> = site.vms.values().filter(|vm| depends_on_host(vm, host.id)).collect();
    let critical = vms.iter().filter(|vm| of_vm(vm, site, now).0 == Health::Critical).count();
    let all = (0 < critical && critical == vms.len()).then(|| {
        let names = vms.iter().map(|vm| &*vm.name).collect::<Vec<_>>().join(", ");
        let because = match critical {
            1 => format!("its VM is Critical: {names}"),
            many => format!("all {many} of its VMs are Critical: {names}"),
        };
        CauseView::of(Code::VmsCritical, because, None)
    });
    host.silent.iter().map(CauseView::lasting).chain(all).collect()
}

pub(super) fn of_vault(vault: &Vault) -> Vec<CauseView> {
    vault.unreachable.iter().map(CauseView::lasting).collect()
}

/// The causes of a cloud's hosts and VMs. What stops one VM only warns of the cloud.
pub(super) fn of_cloud(cloud: &Cloud, site: &Site, now: Timestamp) -> Vec<CauseView> {
    let hosts = cloud.hosts.iter().filter_map(|id| site.hosts.get(id));
    let vms = cloud.vms.keys().filter_map(|id| site.vms.get(id));
    let of_vms = vms.flat_map(|vm| {
        of_vm(vm, site, now).1.into_iter().map(|cause| CauseView {
            level: cause.level.min(Health::Warning),
            because: format!("{}: {}", vm.name, cause.because),
            ..cause
        })
    });
    let of_hosts = hosts.flat_map(|host| of_host(host, site, now));
    of_hosts.chain(of_vms).collect()
}

/// Whether a host that is silent stops the VM's replication.
fn depends_on_host(vm: &Vm, host: HostId) -> bool {
    vm.host == host && vm.may_run_at_primary() && is_protected(vm)
}

/// Whether a vault that is away stops the VM's replication.
fn depends_on_vault(vm: &Vm, vault: VaultId) -> bool {
    vm.vault == vault && is_protected(vm)
}

const fn is_protected(vm: &Vm) -> bool {
    !matches!(vm.phase, Phase::Undiscovered | Phase::Unprotected | Phase::UnprotectedAtRecovery)
}

impl Site {
    /// Whether the VM's failover waits for a plan of which no run is to go on with it.
    pub(super) fn keeps_off(&self, vm: &Vm) -> bool {
        let Some(plan) = vm.held else { return false };
        let run = self.plans.get(&plan).and_then(Plan::running);
        matches!(vm.phase, Phase::FailingOver(_))
            && vm.failover_waits_for_plan()
            && !run.is_some_and(|run| run.will_start(vm.id))
    }

    /// The VMs that wait for a plan of which no run is to start them.
    pub fn kept_off_by(&self, plan: PlanId) -> impl Iterator<Item = &Vm> {
        let waiting = self.vms.values().filter(move |vm| vm.held == Some(plan));
        waiting.filter(|vm| self.keeps_off(vm))
    }
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
        let sites = site.sites().filter(|_| allowed.contains(&"PlannedFailover"));
        let place = sites.map(|sites| sites.hindrances(vm, Purpose::Planned)).unwrap_or_default();
        let planned = planned.chain(place);
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
    let of_vms: Vec<_> = site
        .vms
        .values()
        .flat_map(|vm| causes(vm, site, now).into_iter().map(move |cause| (vm, cause)))
        .collect();
    let mut roots = roots(site);
    // What VMs cannot reach is a root as well while it answers others, or already does again.
    for (vm, cause) in of_vms.iter().filter(|(vm, cause)| is_trouble(vm, cause)) {
        let Some(thing) = met_by(vm, site) else { continue };
        let issue = || IssueView {
            subject: subject(thing, site),
            cause: CauseView::new(cause.clone()),
            affects: vec![],
        };
        let known = roots.entry(thing).or_insert_with(issue);
        if known.cause.level < cause.level {
            known.cause = CauseView::new(cause.clone());
        }
    }
    let mut issues = Vec::new();
    for (vm, cause) in of_vms {
        match root_of(vm, &cause, site) {
            Some(Root::Thing(thing)) => {
                let Some(issue) = roots.get_mut(&thing) else { continue };
                issue.cause.level = issue.cause.level.max(cause.level);
                if !issue.affects.contains(&vm.name) {
                    issue.affects.push(vm.name.clone());
                }
            }
            Some(Root::OtherCause) => {}
            None => issues.push(IssueView {
                subject: format!("vm {}", vm.name),
                cause: CauseView::new(cause),
                affects: vec![vm.name.clone()],
            }),
        }
    }
    issues.extend(roots.into_values());
    issues.extend(network_issues(site));
    issues.sort_by_key(|issue| {
        (std::cmp::Reverse((issue.cause.level, issue.affects.len())), issue.subject.clone())
    });
    issues
}

/// The hosts that are silent, the vaults that are away and the plans that leave VMs off, with the VMs that
/// each hits, also those that have not noticed yet.
fn roots(site: &Site) -> BTreeMap<Thing, IssueView> {
    let hit = |is_hit: &dyn Fn(&Vm) -> bool| {
        site.vms.values().filter(|vm| is_hit(vm)).map(|vm| vm.name.clone()).collect::<Vec<_>>()
    };
    let issue = |thing, cause, affects| {
        (thing, IssueView { subject: subject(thing, site), cause, affects })
    };
    let hosts = site.hosts.values().filter_map(|host| {
        let cause = CauseView::lasting(host.silent.as_ref()?);
        Some(issue(Thing::Host(host.id), cause, hit(&|vm| depends_on_host(vm, host.id))))
    });
    let vaults = site.vaults.values().filter_map(|vault| {
        let cause = CauseView::lasting(vault.unreachable.as_ref()?);
        Some(issue(Thing::Vault(vault.id), cause, hit(&|vm| depends_on_vault(vm, vault.id))))
    });
    let plans = site.plans.values().filter_map(|plan| {
        let off: Vec<_> = site.kept_off_by(plan.id).map(|vm| vm.name.clone()).collect();
        (!off.is_empty()).then(|| issue(Thing::Plan(plan.id), left_off(plan, &off), off))
    });
    hosts.chain(vaults).chain(plans).collect()
}

/// A plan whose last run left VMs off at both sites.
fn left_off(plan: &Plan, off: &[String]) -> CauseView {
    let run = plan.run.as_ref();
    let outcome = match run.and_then(|run| run.ended) {
        Some((_, RunOutcome::Failed)) => "failed",
        Some((_, RunOutcome::Cancelled)) => "was cancelled",
        _ => "does not start them",
    };
    let kind = run.map_or("planned", |run| run.kind.name());
    let because = format!(
        "{} {} off at both sites: the {kind} run of {} {outcome}",
        off.join(", "),
        if off.len() == 1 { "is" } else { "are" },
        plan.name,
    );
    let since = run.and_then(|run| run.ended).map(|(at, _)| Moment(at));
    let action = format!(
        "Go on with `lifeboat plan run {} --kind planned`; or start them with `lifeboat failover release VM`, or take \
         them back with `lifeboat failover cancel VM`.",
        plan.name
    );
    CauseView { action, ..CauseView::of(Code::StartForgotten, because, since) }
}

/// What can be the root of what VMs meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Host(HostId),
    Vault(VaultId),
    Plan(PlanId),
}

fn subject(thing: Thing, site: &Site) -> String {
    match thing {
        Thing::Host(id) => format!("host {}", site.host_name(id)),
        Thing::Vault(id) => {
            let name = site.vaults.get(&id).map_or_else(|| id.to_string(), |it| it.name.clone());
            format!("vault {name}")
        }
        Thing::Plan(id) => {
            let name = site.plans.get(&id).map_or_else(|| id.to_string(), |it| it.name.clone());
            format!("plan {name}")
        }
    }
}

/// What failovers would meet at the recovery site, and what the providers have to say.
fn network_issues(site: &Site) -> Vec<IssueView> {
    let names = |vms: &[VmId]| vms.iter().map(|vm| site.vm_name(*vm)).collect();
    let issue = |subject: String, failure: &Failure, affects| IssueView {
        subject,
        cause: CauseView::of(failure.code, failure.to_string(), None),
        affects,
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
    let without = site.without_place().into_iter().map(|(vm, wrong)| {
        let name = site.vm_name(vm);
        let failure = Failure::new(Code::NoPlace, Cause::Itself, "");
        let failure = failure.with("vm", &name).with("damage", wrong.join("; "));
        issue(format!("vm {name}"), &failure, vec![name])
    });
    unmapped.chain(clashes).chain(without).chain(silent).collect()
}

/// Where a cause of a VM's health comes from.
enum Root {
    /// What has to recover, which other VMs may share.
    Thing(Thing),
    /// Another cause of the same VM, which is told.
    OtherCause,
}

/// Whether a cause is the failure that the VM's work has met.
fn is_trouble(vm: &Vm, cause: &HealthCause) -> bool {
    vm.trouble.as_ref().is_some_and(|trouble| cause.because == trouble.failure.to_string())
}

/// What the VM's work cannot reach, if that is why it fails.
fn met_by(vm: &Vm, site: &Site) -> Option<Thing> {
    match vm.trouble.as_ref()?.failure.cause {
        Cause::Host(id) => site.hosts.contains_key(&id).then_some(Thing::Host(id)),
        Cause::Vault(id) => site.vaults.contains_key(&id).then_some(Thing::Vault(id)),
        Cause::Itself => None,
    }
}

/// Where a cause of a VM's health comes from, if it is not one of its own. What comes of a standstill, as that
/// the newest recovery point grows old, comes from whatever brought the standstill.
fn root_of(vm: &Vm, cause: &HealthCause, site: &Site) -> Option<Root> {
    if is_trouble(vm, cause) {
        return met_by(vm, site).map(Root::Thing);
    }
    match cause.code {
        Code::StartForgotten => {
            let plan = vm.held.filter(|id| site.plans.contains_key(id))?;
            Some(Root::Thing(Thing::Plan(plan)))
        }
        Code::PointLate | Code::CyclesMissed | Code::LatencyHigh => {
            let host = site.hosts.get(&vm.host).filter(|it| it.silent.is_some());
            let vault = site.vaults.get(&vm.vault).filter(|it| it.unreachable.is_some());
            let thing = met_by(vm, site)
                .or(host.map(|_| Thing::Host(vm.host)))
                .or(vault.map(|_| Thing::Vault(vm.vault)));
            let other = vm.trouble.as_ref().map(|_| Root::OtherCause);
            thing.map(Root::Thing).or(other)
        }
        _ => None,
    }
}
