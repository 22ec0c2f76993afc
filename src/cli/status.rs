//! `lifeboat status`: how a running service and its VMs are.

use super::client::{Client, ServiceArgs, read};
use super::ending::{CRITICAL, WARNING};
use super::grid::{Format, columns, moment, or_dash, show};
use super::order::duration;
use super::{Answer, CommandError};
use crate::domain::vm::Health;
use crate::views::{IssueView, JobView, LogsView, StatusView, VmView};
use std::fmt::Write;

/// How a running service and its VMs are.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    service: ServiceArgs,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Exit with 10 if something is in Warning, with 11 if something is Critical
    #[arg(long)]
    exit_code: bool,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    let answer = Client::find(&args.service)?.get(&["status"])?;
    let status: StatusView = read(&answer)?;
    show(args.output, &answer, || Ok(in_words(&status)))?;
    Ok(match status.health.worst {
        Some(Health::Warning) if args.exit_code => Answer::Code(WARNING),
        Some(Health::Critical) if args.exit_code => Answer::Code(CRITICAL),
        _ => Answer::Done,
    })
}

fn in_words(status: &StatusView) -> String {
    let health = &status.health;
    let mut text = format!(
        "{} Normal, {} Warning, {} Critical, {} without protection; {} jobs run\n\n",
        health.normal,
        health.warning,
        health.critical,
        health.not_applicable,
        status.running_jobs.len()
    );
    text.push_str(&vms(&status.vms));
    for vm in &status.vms {
        for warning in vm.logs.iter().filter_map(LogsView::warning) {
            let _ = writeln!(text, "\n{}: {warning}", vm.name);
        }
    }
    for issue in &status.issues {
        text.push('\n');
        text.push_str(&issue_in_words(issue));
    }
    text
}

/// VMs, a line each.
pub(super) fn vms(vms: &[VmView]) -> String {
    let heads = ["VM", "STATE", "HEALTH", "RPO", "LOG", "LAST RECOVERY POINT", "POINTS", "JOB"];
    let rows: Vec<_> = vms.iter().map(row).collect();
    columns(&heads, &rows)
}

fn row(vm: &VmView) -> Vec<String> {
    let point = vm.latest_recovery_point.as_ref().map(|point| {
        let consistent = if point.application_consistent { " app" } else { "" };
        format!("#{} {}{consistent}", point.cycle, moment(point.at))
    });
    let job = vm.job.as_ref().filter(|job| !job.ended() || job.waits());
    let named = |job: &JobView| {
        let waits = if job.waits() { ", waits for somebody" } else { "" };
        format!("{}{waits}", job.friendly_name)
    };
    vec![
        vm.name.clone(),
        vm.state_description.clone(),
        vm.health.to_string(),
        vm.rpo_seconds.map_or_else(|| "-".to_owned(), duration),
        share(vm),
        point.unwrap_or_else(|| "-".to_owned()),
        vm.recovery_points.to_string(),
        or_dash(job.map(named)),
    ]
}

/// What its logs take of a disk, where the host can be asked.
fn share(vm: &VmView) -> String {
    let logs = vm.logs.as_ref();
    logs.map_or_else(|| "-".to_owned(), |logs| format!("{:.1} %", logs.share * 100.0))
}

fn issue_in_words(issue: &IssueView) -> String {
    let cause = &issue.cause;
    let mut text = format!("{} {}: {}\n", cause.level, issue.subject, cause.because);
    if let Some(since) = cause.since {
        let _ = writeln!(text, "  since    {}", moment(since));
    }
    if 1 < issue.affects.len() {
        let _ =
            writeln!(text, "  affects  {} VMs: {}", issue.affects.len(), issue.affects.join(", "));
    }
    let _ = writeln!(text, "  next     {}", cause.next);
    let _ = writeln!(text, "  to do    {}", cause.action);
    text
}
