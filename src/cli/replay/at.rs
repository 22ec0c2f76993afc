//! `replay at`: a moment, as a table or a document.

use super::super::{Answer, CommandError, Output, print};
use super::{check_not_empty, uncertain};
use crate::domain::time::Timestamp;
use crate::replay::{Checkpoints, History, Moment, Past, span};
use crate::views::{CauseView, StatusView, VmView};
use serde_json::json;
use std::time::Duration;

pub(super) fn show(
    history: &mut History,
    checkpoints: &Checkpoints,
    moment: Moment,
    output: Output,
) -> Result<Answer, CommandError> {
    let (past, ends) = history.past_or_end(moment, Some(checkpoints))?;
    check_not_empty(&past)?;
    let beyond = beyond(&past, moment).filter(|_| ends);
    let now = match moment {
        Moment::Time(time) => time,
        Moment::Position(_) => past.at,
    };
    let status = past.site.status(now);
    match output {
        Output::Json => print(&document(&past, &status, beyond.is_some())?),
        Output::Table => {
            let lines = table(&past, &status, now);
            lines.iter().chain(&beyond).for_each(|line| print(line));
        }
    }
    Ok(Answer::Done)
}

/// That the log ends before the moment, if it does: what is told is then what would follow from its end.
fn beyond(past: &Past, moment: Moment) -> Option<String> {
    let is_beyond = match moment {
        Moment::Position(wanted) => wanted != u64::MAX && past.position < wanted,
        Moment::Time(time) => past.at < time,
    };
    let (last, at) = (past.position, past.at);
    is_beyond.then(|| format!("the log ends before, with commit {last} at {at}"))
}

/// The status as the service answers it, and where in the log it is from.
fn document(
    past: &Past,
    status: &StatusView,
    is_beyond: bool,
) -> Result<String, serde_json::Error> {
    let incomplete: Vec<_> = past
        .incomplete
        .iter()
        .map(|(stream, since)| json!({ "stream": stream.to_string(), "since_seq": since }))
        .collect();
    serde_json::to_string(&json!({
        "seq": past.position,
        "log_ends_before": is_beyond,
        "status": status,
        "damage": past.damage,
        "incomplete": incomplete,
    }))
}

fn table(past: &Past, status: &StatusView, now: Timestamp) -> Vec<String> {
    let mut lines = vec![format!("after commit {} of {}, at {now}", past.position, past.at)];
    lines.push(String::new());
    lines.push(format!(
        "{:<14} {:<36} {:<9} {:>10} {:>7}  {}",
        "VM", "STATE", "HEALTH", "RPO", "POINTS", "JOB"
    ));
    for vm in &status.vms {
        lines.push(vm_line(vm));
        lines.extend(vm.causes.iter().map(cause_line));
        lines.extend(trouble_line(vm));
    }
    lines.push(String::new());
    for host in &status.hosts {
        let answers = if host.connected { "answers" } else { "does not answer" };
        lines.push(format!("host {}: {answers}, {} VMs", host.name, host.vms.len()));
        lines.extend(host.causes.iter().map(cause_line));
    }
    for cloud in &status.clouds {
        let every = cloud.policy.copy_frequency_seconds;
        lines.push(format!(
            "cloud {}: a delta every {every} s, recovery points for {} h, {} VMs",
            cloud.name,
            cloud.policy.recovery_point_retention_hours,
            cloud.vms.len()
        ));
    }
    for vault in &status.vaults {
        let reachable = if vault.reachable { "can be reached" } else { "cannot be reached" };
        let points = vault.recovery_points;
        lines.push(format!("vault {}: {reachable}, {points} recovery points", vault.name));
        lines.extend(vault.causes.iter().map(cause_line));
    }
    lines.extend(uncertain(past));
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
    let since = cause.since.map_or(String::new(), |since| format!(", since {since}"));
    format!("  {}: {}{since}; {}", cause.level, cause.because, cause.next)
}

fn trouble_line(vm: &VmView) -> Option<String> {
    let trouble = vm.trouble.as_ref()?;
    let next = match (&trouble.retry_at, trouble.next.as_str()) {
        (Some(at), _) => format!("the next is due at {at}"),
        (None, "administrator") => "an administrator must act".to_owned(),
        (None, _) => "another is being made".to_owned(),
    };
    let (work, attempts, since) = (&trouble.work, trouble.failed_attempts, trouble.since);
    Some(format!("  {work} failed, {attempts} attempts since {since}; {next}"))
}
