//! Telling a service to do something: look at the consequence, confirm it, send it, wait for its job.

use super::client::{Client, ServiceArgs, read};
use super::ending::{FAILED, JOB_FAILED, JOB_WAITS, Refusal, STILL_RUNNING, USAGE, WRONG_STATE};
use super::grid::{Format, or_dash, show};
use super::{Answer, CommandError};
use crate::api::{Accepted, Check, Outlook};
use crate::sim::Span;
use crate::views::{JobView, VmView};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

/// Seconds for which the service holds a request back while nothing changes.
const HELD_SECONDS: u64 = 20;

/// How an order is given.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct OrderArgs {
    #[command(flatten)]
    pub(super) service: ServiceArgs,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
    /// Only say whether it is allowed, what was checked, and what it would do
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Wait until its job has ended
    #[arg(long)]
    pub(super) wait: bool,
    /// With --wait: so long at most, as 90s or 10m; exit code 8 if the job runs still
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = span)]
    pub(super) timeout: Option<Span>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(super) yes: bool,
    /// An id of your own: the same order given twice under it is done once
    #[arg(long, value_name = "KEY")]
    pub(super) request_id: Option<String>,
}

pub(super) fn span(text: &str) -> Result<Span, String> {
    Span::try_from(text.to_owned())
}

/// Whether an order is confirmed before it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirm {
    /// It stops a VM, loses data, or cannot be taken back.
    First,
    /// It does no harm.
    No,
}

/// Gives an order to a VM.
pub(super) fn give(
    args: &OrderArgs,
    vm: &str,
    operation: &str,
    body: &Value,
    confirm: Confirm,
) -> Result<Answer, CommandError> {
    let client = Client::find(&args.service)?;
    let path = ["vms", vm, operation];
    if args.dry_run || confirm == Confirm::First {
        let answer = client.post(&path, &[("dry_run", "true".to_owned())], body, None)?;
        if args.dry_run {
            return outlook_shown(args.output, &answer);
        }
        let outlook: Outlook = read(&answer)?;
        // An order that was given before under its id is answered again, whatever the state allows since.
        match outlook.problem {
            Some(problem) if args.request_id.is_none() => return Err(Refusal::from(problem).into()),
            Some(_) => {}
            None => confirmed(
                args,
                &outlook.operation,
                &outlook.vm,
                &outlook.consequence,
                &outlook.checks,
            )?,
        }
    }
    let answer = client.post(&path, &[], body, args.request_id.as_deref())?;
    let accepted: Accepted = read(&answer)?;
    if let (true, Some(job)) = (args.wait, &accepted.job) {
        let ended = watch(&client, job, args.timeout, &mut |line| tell(line))?;
        let ended = follow_on(&client, &accepted, ended, args.timeout)?;
        let answer = serde_json::to_value(&ended)?;
        show(args.output, &answer, || Ok(sentence(&ended)))?;
        return Ok(answer_of(&ended));
    }
    show(args.output, &answer, || Ok(accepted_in_words(&accepted)))?;
    if let Some(job) = accepted.job.filter(|job| !job.ended()) {
        tell(&format!("lifeboat job watch {}", job.id));
    }
    Ok(Answer::Done)
}

/// Protection is enabled by a chain of jobs: each begins when the one before has ended, and may itself have
/// ended before it is looked at.
fn follow_on(
    client: &Client,
    accepted: &Accepted,
    first: JobView,
    timeout: Option<Span>,
) -> Result<JobView, CommandError> {
    let mut last = first;
    while accepted.operation == "protect" && last.state == "Succeeded" {
        let vm: VmView = read(&client.get(&["vms", &accepted.target])?)?;
        match vm.job.filter(|job| job.id != last.id) {
            Some(next) => last = watch(client, &next, timeout, &mut |line| tell(line))?,
            None => break,
        }
    }
    Ok(last)
}

/// Says what the order would do, and has it confirmed.
pub(super) fn confirmed(
    args: &OrderArgs,
    operation: &str,
    target: &str,
    consequence: &str,
    checks: &[Check],
) -> Result<(), CommandError> {
    tell(consequence);
    for check in checks.iter().filter(|check| !check.ok) {
        tell(&format!("but not: {}: {}", check.name, check.because.as_deref().unwrap_or("-")));
    }
    if args.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let text = format!("{operation} was not confirmed: give -y to confirm it");
        return Err(Refusal::new(USAGE, text).into());
    }
    ask(&format!("Type {target} to go on: "));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() == target {
        return Ok(());
    }
    Err(Refusal::new(FAILED, "not confirmed: nothing was done").into())
}

/// Waits until a job has ended, waits for somebody, or the time is over; tells each step.
pub(super) fn watch(
    client: &Client,
    job: &JobView,
    timeout: Option<Span>,
    tell: &mut dyn FnMut(&str),
) -> Result<JobView, CommandError> {
    let mut told = BTreeSet::new();
    let mut last = job.clone();
    let asking = async {
        loop {
            steps(&last, &mut told, tell);
            if last.ended() || last.waits() {
                return Ok(());
            }
            let id = last.id.to_string();
            let after = last.last_commit.unwrap_or(0).to_string();
            let query = [("after", after), ("wait_seconds", HELD_SECONDS.to_string())];
            last = read(&client.look(&["jobs", &id], &query).await?)?;
        }
    };
    let timed = async {
        match timeout.map(Span::duration) {
            Some(limit) => tokio::time::timeout(limit, asking).await.unwrap_or(Ok(())),
            None => asking.await,
        }
    };
    let result: Result<(), CommandError> = client.run(timed);
    result.map(|()| last)
}

/// Tells what has changed since the last look, a line each.
fn steps(job: &JobView, told: &mut BTreeSet<String>, tell: &mut dyn FnMut(&str)) {
    let count = job.tasks.len();
    for (task, nth) in job.tasks.iter().zip(1..) {
        if task.state == "NotStarted" {
            continue;
        }
        let disk = task.disk.as_ref().map_or_else(String::new, |disk| format!(" {disk}"));
        let line = format!("[{nth}/{count}] {}{disk}: {}", task.friendly_name, task.state);
        if told.insert(line.clone()) {
            tell(&line);
        }
    }
    if let Some(waits) = &job.waiting_for {
        let line = format!("waits for {waits}");
        if told.insert(line.clone()) {
            tell(&line);
        }
    }
}

/// How a command ends that waited for a job.
pub(super) fn answer_of(job: &JobView) -> Answer {
    match job.state.as_str() {
        "Succeeded" => Answer::Done,
        "PartiallySucceeded" | "Failed" | "Cancelled" => Answer::Code(JOB_FAILED),
        // It did what it was asked for; that somebody goes on is another order.
        _ if job.waits() && job.ended() => Answer::Done,
        _ if job.waits() => Answer::Code(JOB_WAITS),
        _ => Answer::Code(STILL_RUNNING),
    }
}

pub(super) fn sentence(job: &JobView) -> String {
    let mut text = format!(
        "{} of {}: {} after {:.1} s",
        job.friendly_name, job.target_name, job.state, job.duration_seconds
    );
    if job.waits() && job.ended() {
        let _ = write!(text, "\n  waits for {}", or_dash(job.waiting_for.as_ref()));
    } else if let Some(error) = job.errors.last().filter(|_| job.state != "Succeeded") {
        let _ = write!(text, "\n  {} {}; {}", error.code, error.because(), error.action);
    }
    text
}

pub(super) fn accepted_in_words(accepted: &Accepted) -> String {
    match &accepted.job {
        Some(job) if accepted.repeated => {
            format!(
                "asked for before: {} of {} is {}",
                job.friendly_name, accepted.target, job.state
            )
        }
        Some(job) => {
            format!("{} of {} has begun: job {}", job.friendly_name, accepted.target, job.id)
        }
        None if accepted.repeated => "asked for before: nothing was done again".to_owned(),
        None if accepted.changed => format!("{} of {}: done", accepted.operation, accepted.target),
        None => format!("{} of {}: nothing to do", accepted.operation, accepted.target),
    }
}

fn in_words(outlook: &Outlook) -> String {
    let verdict = verdict(outlook.allowed, outlook.ready, outlook.changes);
    let mut text = format!("{} of {}: {verdict}\n", outlook.operation, outlook.vm);
    text.push_str(&checks_in_words(&outlook.checks));
    if let Some(target) = &outlook.target {
        let site = if outlook.operation == "failback" { "primary" } else { "recovery" };
        text.push_str(&super::vm::target_in_words(site, target));
    }
    if outlook.allowed {
        text.push_str(&outlook.consequence);
    }
    text
}

/// Whether something is allowed, would go well, and would do anything.
pub(super) const fn verdict(allowed: bool, ready: bool, changes: bool) -> &'static str {
    match (allowed, ready, changes) {
        (false, _, _) => "not allowed",
        (true, false, _) => "allowed, but a check says no",
        (true, true, false) => "allowed; nothing to do",
        (true, true, true) => "allowed",
    }
}

/// Each thing that was looked at, a line each.
pub(super) fn checks_in_words(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let mark = if check.ok { "ok" } else { "NO" };
        let because = check.because.as_ref().map_or_else(String::new, |it| format!(": {it}"));
        let _ = writeln!(text, "  {mark}  {}{because}", check.name);
    }
    text
}

/// How something of the site is changed that is no VM: at once, and without a job.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ChangeArgs {
    #[command(flatten)]
    pub(super) service: ServiceArgs,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
    /// Only say whether it is allowed, and what it would do
    #[arg(long)]
    pub(super) dry_run: bool,
    /// An id of your own: the same order given twice under it is done once
    #[arg(long, value_name = "KEY")]
    pub(super) request_id: Option<String>,
}

/// Changes something of the site.
pub(super) fn change(
    args: &ChangeArgs,
    method: Method,
    path: &[&str],
    body: &Value,
) -> Result<Answer, CommandError> {
    let client = Client::find(&args.service)?;
    if args.dry_run {
        let answer = client.tell(method, path, &[("dry_run", "true".to_owned())], body, None)?;
        return outlook_shown(args.output, &answer);
    }
    let answer = client.tell(method, path, &[], body, args.request_id.as_deref())?;
    let accepted: Accepted = read(&answer)?;
    show(args.output, &answer, || Ok(accepted_in_words(&accepted)))?;
    Ok(Answer::Done)
}

/// Shows what an order would do.
pub(super) fn looked_at(
    client: &Client,
    path: &[&str],
    body: &Value,
    output: Format,
) -> Result<Answer, CommandError> {
    let answer = client.post(path, &[("dry_run", "true".to_owned())], body, None)?;
    outlook_shown(output, &answer)
}

fn outlook_shown(output: Format, answer: &Value) -> Result<Answer, CommandError> {
    let outlook: Outlook = read(answer)?;
    show(output, answer, || Ok(in_words(&outlook)))?;
    Ok(if outlook.ready { Answer::Done } else { Answer::Code(WRONG_STATE) })
}

/// A body without anything in it.
pub(super) fn nothing() -> Value {
    json!({})
}

/// How long something takes or took.
pub(super) fn duration(seconds: f64) -> String {
    format!("{} s", Duration::from_secs_f64(seconds.max(0.0)).as_secs())
}

/// Talk goes to standard error: standard output is for results.
pub(super) fn tell(line: &str) {
    // Nobody listening is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn ask(text: &str) {
    let _ = write!(std::io::stderr(), "{text}");
}
