//! `replay at`: a moment, as a table or a document.

use super::super::{Answer, CommandError, Output, print};
use super::{check_not_empty, ends_before, uncertain};
use crate::domain::time::Timestamp;
use crate::replay::{Checkpoints, Damage, History, Moment, Past, Seen, span, told};
use crate::views::{CauseView, HostView, Site, StatusView, VmView};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) fn show(
    history: &mut History,
    checkpoints: &Checkpoints,
    moment: Moment,
    output: Output,
) -> Result<Answer, CommandError> {
    let seen = history.seen_at(moment, Some(checkpoints))?;
    let past = &seen.past;
    check_not_empty(past)?;
    let beyond = ends_before(&seen, moment);
    // What comes behind a log's end is not known: nothing gets older there.
    let now = match moment {
        Moment::Time(time) if beyond.is_none() => time,
        Moment::Time(_) | Moment::Position(_) | Moment::End => past.at,
    };
    let site = past.site_told();
    let status = site.status(now);
    match output {
        Output::Json => print(&document(&seen, &site, &status, beyond.is_some())?),
        Output::Table => {
            let lines = table(past, &site, &status, now);
            let behind = Damage::told(&seen.behind)
                .into_iter()
                .map(|damage| format!("behind this moment, and of no account for it: {damage}"));
            let told = uncertain(past).into_iter().chain(behind).chain(beyond);
            lines.into_iter().chain(told).for_each(|line| print(&line));
        }
    }
    Ok(Answer::Done)
}

/// The status as the service answers it, its networks and clusters, and where in the log it is from.
fn document(
    seen: &Seen,
    site: &Site,
    status: &StatusView,
    is_beyond: bool,
) -> Result<String, serde_json::Error> {
    let past = &seen.past;
    let incomplete: Vec<_> = past
        .incomplete
        .iter()
        .map(|(stream, since)| json!({ "stream": stream.to_string(), "since_seq": since }))
        .collect();
    serde_json::to_string(&json!({
        "seq": past.position,
        "log_ends_before": is_beyond,
        "status": status,
        "fabrics": site.fabrics(),
        "network_mappings": site.mappings(),
        "clusters": clusters(&status.hosts),
        "damage": past.damage,
        "damage_behind": seen.behind,
        "incomplete": incomplete,
    }))
}

/// The hosts of each cluster.
fn clusters(hosts: &[HostView]) -> BTreeMap<&str, Vec<&str>> {
    let mut clusters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for host in hosts {
        let Some(cluster) = &host.cluster else { continue };
        clusters.entry(cluster).or_default().push(&host.name);
    }
    clusters
}

fn table(past: &Past, site: &Site, status: &StatusView, now: Timestamp) -> Vec<String> {
    let mut lines = vec![format!("after commit {} of {}, at {now}", past.position, past.at)];
    lines.push(String::new());
    lines.push(format!(
        "{:<14} {:<36} {:<9} {:>10} {:>7}  {}",
        "VM", "STATE", "HEALTH", "RPO", "POINTS", "JOB"
    ));
    for vm in &status.vms {
        lines.push(vm_line(vm));
        lines.extend(vm.causes.iter().map(cause_line));
        lines.extend(vm.trouble.as_ref().map(|trouble| format!("  {}", told::trouble(trouble))));
    }
    lines.push(String::new());
    for host in &status.hosts {
        lines.push(format!("host {}: {}", host.name, told::host(host)));
        lines.extend(host.causes.iter().map(cause_line));
    }
    for (cluster, hosts) in clusters(&status.hosts) {
        lines.push(format!("cluster {cluster}: {}", hosts.join(", ")));
    }
    for cloud in &status.clouds {
        lines.push(format!("cloud {}: {}", cloud.name, told::cloud(cloud)));
    }
    for vault in &status.vaults {
        lines.push(format!("vault {}: {}", vault.name, told::vault(vault)));
        lines.extend(vault.causes.iter().map(cause_line));
    }
    let mappings = site.mappings();
    for fabric in &site.fabrics() {
        lines.push(format!("fabric {}: {}", fabric.name, told::fabric(fabric, &mappings)));
    }
    for plan in &status.plans {
        lines.push(format!("plan {}: {}", plan.name, told::plan(plan)));
    }
    lines
}

fn vm_line(vm: &VmView) -> String {
    let rpo = vm.rpo_seconds.map_or("-".to_owned(), |rpo| span(Duration::from_secs_f64(rpo)));
    let job = vm.job.as_ref().filter(|job| !job.ended()).map_or("-".to_owned(), |job| {
        let done = job.tasks.iter().filter(|task| task.state == "Succeeded").count();
        format!("{}, {done} of {} tasks", job.friendly_name, job.tasks.len())
    });
    format!(
        "{:<14} {:<36} {:<9} {rpo:>10} {:>7}  {job}",
        vm.name,
        vm.state_description,
        vm.health.to_string(),
        vm.recovery_points
    )
}

fn cause_line(cause: &CauseView) -> String {
    format!("  {}", told::cause(cause))
}
