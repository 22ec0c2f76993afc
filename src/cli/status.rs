//! `lifeboat status`: how a running service and its VMs are.

use super::client::{Client, ServiceArgs, read};
use super::ending::{CRITICAL, WARNING};
use super::grid::{Format, columns, moment, or_dash, show};
use super::order::duration;
use super::{Answer, CommandError};
use crate::domain::vm::Health;
use crate::views::{CauseView, JobView, LogsView, PlanView, StatusView, VmView};
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
    text.push_str(&runs(&status.plans));
    for vm in &status.vms {
        for warning in vm.logs.iter().filter_map(LogsView::warning) {
            let _ = writeln!(text, "\n{}: {warning}", vm.name);
        }
    }
    let waiting = status.plans.iter().filter_map(PlanView::waits_for_somebody);
    let waiting: Vec<_> = waiting.collect();
    for issue in waiting.iter().chain(&status.issues) {
        text.push('\n');
        text.push_str(&cause_in_words(&issue.subject, &issue.cause, &issue.affects));
    }
    text
}

/// The recovery plans that run, a line each; nothing without any.
fn runs(plans: &[PlanView]) -> String {
    let row = |plan: &PlanView| {
        let run = plan.run.as_ref().filter(|run| run.ended_at.is_none())?;
        let name = run.steps.get(run.current_step as usize).map_or("", |step| step.name.as_str());
        let step = format!("{} of {}: {name}", run.current_step + 1, run.steps.len());
        Some(vec![plan.name.clone(), run.kind.clone(), run.state.clone(), step])
    };
    let rows: Vec<_> = plans.iter().filter_map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{}", columns(&["PLAN", "RUN", "STATE", "STEP"], &rows))
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

/// A table, and below it the causes of what is in it, each with its subject.
pub(super) fn with_causes<'a>(
    mut table: String,
    causes: impl Iterator<Item = (String, &'a [CauseView])>,
) -> String {
    for (subject, causes) in causes {
        for cause in causes {
            table.push('\n');
            table.push_str(&cause_in_words(&subject, cause, &[]));
        }
    }
    table
}

fn cause_in_words(subject: &str, cause: &CauseView, affects: &[String]) -> String {
    let mut text = format!("{} {subject}: {}\n", cause.level, cause.because);
    if let Some(since) = cause.since {
        let _ = writeln!(text, "  since    {}", moment(since));
    }
    if 1 < affects.len() {
        let _ = writeln!(text, "  affects  {} VMs: {}", affects.len(), affects.join(", "));
    }
    let _ = writeln!(text, "  next     {}", cause.next);
    let _ = writeln!(text, "  to do    {}", cause.action);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_followed_by_the_causes_of_what_is_in_it() {
        let cause = CauseView {
            level: Health::Critical,
            code: "SR-2001".to_owned(),
            because: "host host-1 does not answer".to_owned(),
            since: None,
            next: "It is asked again.".to_owned(),
            action: "Look at it.".to_owned(),
        };
        let causes = [("host host-1".to_owned(), &[cause][..]), ("host host-2".to_owned(), &[])];
        let text = with_causes("HOST\n".to_owned(), causes.into_iter());
        let lines: Vec<_> = text.lines().collect();
        let wanted = [
            "HOST",
            "",
            "Critical host host-1: host host-1 does not answer",
            "  next     It is asked again.",
            "  to do    Look at it.",
        ];
        assert_eq!(lines, wanted);
    }
}
