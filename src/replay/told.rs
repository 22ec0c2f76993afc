//! How things stand, in words: what a moment is told by, and by which two moments are compared.
//!
//! A state has much that only matters to the entity itself, as counters and the numbers of its cycles. What
//! people ask for is here, one fact a line, from the same views that a running service answers with.

use super::past::Past;
use super::words::{bytes, policy_in_words, span};
use crate::domain::time::Timestamp;
use crate::domain::vm::{Stage, Vm};
use crate::views::{
    CauseView, CloudView, FabricView, HostView, MappingView, PlanView, Site, TroubleView,
    VaultView, VmView,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// A fact that is another at another moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Of what, as in `vm web-1`.
    pub of: String,
    /// Which fact, as in `state`; nothing where there is one only.
    pub what: &'static str,
    /// What it was; `None` where it was not there.
    pub before: Option<String>,
    /// What it is; `None` where it is not there any more.
    pub after: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.of)?;
        if !self.what.is_empty() {
            write!(f, " {}:", self.what)?;
        }
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, " {before} -> {after}"),
            (before, after) => {
                before.iter().try_for_each(|before| write!(f, " - {before}"))?;
                after.iter().try_for_each(|after| write!(f, " + {after}"))
            }
        }
    }
}

/// What is told of everything at a moment, by what it is of and which fact it is.
type Facts = BTreeMap<String, Vec<(&'static str, String)>>;

/// What is told otherwise of one moment than of another.
pub fn differences(one: &Past, other: &Past) -> Vec<Difference> {
    let (one, other) = (facts(one), facts(other));
    let things: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let none = Vec::new();
    let mut differences = Vec::new();
    for of in things {
        let (before, after) = (one.get(of).unwrap_or(&none), other.get(of).unwrap_or(&none));
        let gone = before.iter().map(|(what, _)| *what).filter(|what| !has(after, what));
        let order: Vec<&str> = after.iter().map(|(what, _)| *what).chain(gone).collect();
        for what in order {
            let (before, after) = (fact(before, what), fact(after, what));
            if before != after {
                differences.push(Difference { of: of.clone(), what, before, after });
            }
        }
    }
    differences
}

fn has(facts: &[(&'static str, String)], what: &str) -> bool {
    facts.iter().any(|(it, _)| *it == what)
}

fn fact(facts: &[(&'static str, String)], what: &str) -> Option<String> {
    facts.iter().find(|(it, _)| *it == what).map(|(_, told)| told.clone())
}

fn facts(past: &Past) -> Facts {
    let (site, now) = (past.site_told(), past.at);
    let mappings = site.mappings();
    let mut facts = Facts::new();
    for vm in site.vms.values() {
        facts.insert(format!("vm {}", vm.name), vm_facts(vm, &site, now));
    }
    let mut tell = |kind: &str, name: &str, told: String| {
        facts.insert(format!("{kind} {name}"), vec![("", told)]);
    };
    site.hosts(now).iter().for_each(|it| tell("host", &it.name, host(it)));
    site.clouds(now).iter().for_each(|it| tell("cloud", &it.name, cloud(it)));
    site.vaults().iter().for_each(|it| tell("vault", &it.name, vault(it)));
    site.fabrics().iter().for_each(|it| tell("fabric", &it.name, fabric(it, &mappings)));
    site.plans(now).iter().for_each(|it| tell("plan", &it.name, plan(it)));
    facts
}

fn vm_facts(vm: &Vm, site: &Site, now: Timestamp) -> Vec<(&'static str, String)> {
    let view = VmView::new(vm, site, now);
    let disks: u64 = view.disks.iter().map(|disk| disk.size_bytes).sum();
    let mut facts = vec![
        ("state", format!("{}, since {}", view.state_description, view.state_since)),
        ("health", view.health.to_string()),
        ("host", view.host.clone()),
        ("policy", policy_in_words(&vm.policy)),
        ("disks", format!("{}, {}", view.disks.len(), bytes(disks))),
        ("recovery points", view.recovery_points.to_string()),
    ];
    let mut tell = |what, told: Option<String>| facts.extend(told.map(|told| (what, told)));
    let causes = view.causes.iter().map(cause).collect::<Vec<_>>();
    tell("because", (!causes.is_empty()).then(|| causes.join("; ")));
    let rpo = view.rpo_seconds.map(|rpo| span(Duration::from_secs_f64(rpo)));
    tell("RPO", rpo);
    let newest = view.latest_recovery_point.as_ref();
    tell("newest point", newest.map(|point| format!("of {} (delta {})", point.at, point.cycle)));
    tell("delta", delta(vm));
    tell("failed work", view.trouble.as_ref().map(trouble));
    tell("resynchronization", view.resync.because.clone());
    tell("job", job(&view));
    tell("failover", failover(&view));
    let test = view.test_failover.as_ref();
    tell(
        "test failover",
        test.map(|test| {
            format!("in network {}, delta {}", test.network, test.recovery_point_cycle)
        }),
    );
    let failback = view.failback.as_ref();
    tell("failback", failback.map(|it| format!("{} compared", bytes(it.compared_bytes))));
    facts
}

fn delta(vm: &Vm) -> Option<String> {
    let cycle = vm.delta.cycle;
    match vm.delta.stage {
        Stage::Off => None,
        Stage::Waiting { due } => Some(format!("{cycle} is due at {due}")),
        Stage::Snapshotting => Some(format!("{cycle}: its logs are being cut")),
        Stage::Shipping { snapshot_at } => {
            Some(format!("{cycle}: its logs, cut at {snapshot_at}, are being sent"))
        }
        Stage::Paused { since } => Some(format!("paused since {since}")),
    }
}

/// The running job of a VM, or the last one.
fn job(vm: &VmView) -> Option<String> {
    let job = vm.job.as_ref()?;
    let done = job.tasks.iter().filter(|task| task.state == "Succeeded").count();
    let (name, tasks) = (&job.friendly_name, job.tasks.len());
    Some(match &job.ended_at {
        Some(at) => format!("{name}: {} at {at}", job.state),
        None => format!("{name}, begun at {}: {done} of {tasks} tasks", job.started_at),
    })
}

fn failover(vm: &VmView) -> Option<String> {
    let failover = vm.failover.as_ref()?;
    let kind = format!("{:?}", failover.kind).to_lowercase();
    let rto = failover.rto_seconds.map(|rto| span(Duration::from_secs_f64(rto)));
    let rto = rto.map_or("the replica does not run yet".to_owned(), |rto| format!("RTO {rto}"));
    Some(format!("{kind}, to {}, asked for at {}; {rto}", failover.recovered_to, failover.asked_at))
}

/// Why something does not do well, and what happens next.
pub fn cause(cause: &CauseView) -> String {
    let since = cause.since.map_or(String::new(), |since| format!(", since {since}"));
    format!("{}: {}{since}; {}", cause.level, cause.because, cause.next)
}

/// Work of a VM that failed.
pub fn trouble(trouble: &TroubleView) -> String {
    let next = match (&trouble.retry_at, trouble.next.as_str()) {
        (Some(at), _) => format!("the next is due at {at}"),
        (None, "administrator") => "an administrator must act".to_owned(),
        (None, _) => "another is being made".to_owned(),
    };
    let (work, attempts, since) = (&trouble.work, trouble.failed_attempts, trouble.since);
    format!("{work} failed, {attempts} attempts since {since}; {next}")
}

/// A host, as it stands.
pub fn host(host: &HostView) -> String {
    let answers = if host.connected { "answers" } else { "does not answer" };
    format!("{answers}, {} VMs", host.vms.len())
}

/// A cloud, as it stands.
pub fn cloud(cloud: &CloudView) -> String {
    format!("{}, {} VMs", policy_in_words(&cloud.policy.into()), cloud.vms.len())
}

/// A vault, as it stands.
pub fn vault(vault: &VaultView) -> String {
    let reachable = if vault.reachable { "can be reached" } else { "cannot be reached" };
    format!("{reachable}, {} recovery points", vault.recovery_points)
}

/// A fabric, as it stands: its provider, its networks and where they lead.
pub fn fabric(fabric: &FabricView, mappings: &[MappingView]) -> String {
    let provider = match (&fabric.provider_of, &fabric.provider_silent_since) {
        (_, Some(since)) => format!("its provider does not answer since {since}"),
        (Some(_), None) => "its provider answers".to_owned(),
        (None, None) => "it has no provider".to_owned(),
    };
    let is_primary = fabric.side == "Primary";
    let networks = fabric.networks.iter().map(|it| {
        let name = &it.network.name;
        let mapping = mappings.iter().find(|mapping| is_primary && mapping.network == *name);
        match mapping.map(|mapping| (&mapping.to, mapping.exists)) {
            Some((Some(to), true)) => format!("{name} -> {to}"),
            Some((Some(to), false)) => format!("{name} -> {to}, which is not there"),
            Some((None, _)) => format!("{name} -> none"),
            None => name.clone(),
        }
    });
    let networks: Vec<String> = networks.collect();
    let networks = if networks.is_empty() { "none".to_owned() } else { networks.join(", ") };
    format!("{provider}; networks: {networks}")
}

/// A recovery plan, and where its run stands.
pub fn plan(plan: &PlanView) -> String {
    let groups = plan.groups.len();
    let Some(run) = &plan.run else { return format!("{groups} groups, no run") };
    let (kind, nth, steps) = (&run.kind, run.current_step + 1, run.steps.len());
    if let Some(at) = &run.ended_at {
        return format!("{groups} groups, {kind} run {} at {at}", run.state);
    }
    let does = match run.state.as_str() {
        "WaitingForManualAction" => "waits for somebody to do",
        "Waiting" => "waits for somebody to say how it goes on after",
        _ => "does",
    };
    let step = run.steps.get(run.current_step as usize);
    let what = step.map_or("", |step| &step.name);
    let since = step.and_then(|step| step.started_at);
    let since = since.map_or(String::new(), |at| format!(", since {at}"));
    let because = step.and_then(|step| step.failure.as_ref());
    let because = because.map_or(String::new(), |failure| format!(": {}", failure.detail));
    format!("{groups} groups, {kind} run {does} step {nth} of {steps}, {what}{since}{because}")
}
