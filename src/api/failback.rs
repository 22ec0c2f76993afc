//! A failback that is asked for: to the host that the VM came from, or to another one.

use super::operation::{Asked, size};
use super::outlook::Check;
use super::problem::Problem;
use crate::domain::host::Host;
use crate::domain::vm::Command;
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FailbackBody {
    in_full: bool,
    /// The host of the primary site that it is brought to, by name or id.
    to_host: Option<String>,
}

/// The command that it is.
pub(super) fn command(asked: &Asked<'_>) -> Result<Command, Problem> {
    let FailbackBody { in_full, .. } = asked.body()?;
    let job = asked.job;
    Ok(match chosen_host(asked)? {
        None => Command::Failback { job, in_full },
        Some(host) => Command::FailbackToHost { job, in_full, host: host.id, cloud: host.cloud },
    })
}

/// The host that the body chooses, if it does.
pub(super) fn chosen_host<'a>(asked: &Asked<'a>) -> Result<Option<&'a Host>, Problem> {
    let FailbackBody { to_host, .. } = asked.body()?;
    let Some(name) = to_host else { return Ok(None) };
    let mut hosts = asked.site.hosts.values().filter(|host| !host.name.is_empty());
    let found = hosts.find(|host| host.name == name || host.id.to_string() == name);
    found.map(Some).ok_or_else(|| Problem::unknown("host", &name))
}

/// What it would do, in plain words.
pub(super) fn consequence(asked: &Asked<'_>) -> String {
    let (vm, name) = (asked.vm, &asked.vm.name);
    let Ok(Some(host)) = chosen_host(asked) else {
        return format!(
            "The disks of {name} at the primary site are overwritten with what differs at the recovery \
             site, where the VM goes on running."
        );
    };
    let bytes = size(vm.disks.iter().map(|disk| disk.size_bytes).sum());
    let there = asked.outside.images(vm, host.id);
    let made = if there.is_empty() {
        format!("its disks ({bytes}) are made there")
    } else {
        format!("what it has there ({}) is overwritten with what differs", there.join(", "))
    };
    let text = format!("{name} is brought to {}: {made}, while it goes on running.", host.name);
    if host.id == vm.host {
        return text;
    }
    let left = asked.site.host_name(vm.host);
    let images = asked.outside.images(vm, vm.host);
    if images.is_empty() {
        return format!(
            "{text} Host {left} is asked for nothing; should it come back with {name} running, that is turned \
             off there."
        );
    }
    format!("{text} What {left} has stays as it is: {}.", images.join(", "))
}

/// Whether a host can take the VM.
pub(super) fn checks(asked: &Asked<'_>, host: &Host) -> Vec<Check> {
    let (vm, name) = (asked.vm, &asked.vm.name);
    let other_cloud = format!("it is of {}", asked.site.cloud_name(host.cloud));
    let mut vms = asked.site.vms.values().filter(|other| other.id != vm.id);
    let twin = vms.find(|other| other.host == host.id && other.name == *name);
    let cloud = (host.cloud != vm.cloud).then_some(other_cloud);
    let twin = twin.map(|twin| format!("it has another one, {}", twin.id));
    vec![
        Check::of(format!("{} is of the cloud of {name}", host.name), cloud),
        Check::of(format!("{} knows no other VM called {name}", host.name), twin),
        Check::of(
            format!("{} has room for the disks of {name}", host.name),
            asked.outside.no_room(vm, host.id),
        ),
    ]
}
