//! `lifeboat plan`: the recovery plans of a running service.

use super::client::{Client, ServiceArgs, read};
use super::ending::{JOB_FAILED, JOB_WAITS, NOT_FOUND, Refusal, STILL_RUNNING, USAGE, WRONG_STATE};
use super::failover::point;
use super::grid::{Format, columns, moment, or_dash, show};
use super::order::{
    Confirm, OrderArgs, checks_in_words, confirmed, duration, nothing, tell, verdict,
};

use super::{Answer, CommandError};
use crate::api::{PlanAccepted, PlanDetails, PlanDraft, PlanOutlook};
use crate::domain::id::JobId;
use crate::sim::Span;
use crate::views::{FailureView, PlanView, RunView, StepView, VmView};
use clap::ValueEnum;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two looks at a run that is waited for.
const LOOK: Duration = Duration::from_millis(500);

/// The recovery plans of a running service.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Every plan with its last run
    List {
        #[command(flatten)]
        service: ServiceArgs,
        /// How the result is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// A plan: its groups, and the steps of its last run
    Show {
        /// The plan, by name or id
        plan: String,
        #[command(flatten)]
        service: ServiceArgs,
        /// How the result is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Make a plan what a file says
    Apply {
        /// The file; without `name` in it, the plan has the name of the file
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Delete a plan; its VMs stay as they are. One that left VMs off is not deleted before they are dealt with
    Delete(OneArgs),
    /// Say what would fail if a plan were run: VMs, scripts, hosts, vaults
    Check {
        /// The plan, by name or id
        plan: String,
        /// As what it would be run
        #[arg(long, value_enum, default_value_t = Kind::Planned)]
        kind: Kind,
        #[command(flatten)]
        options: RunArgs,
        #[command(flatten)]
        service: ServiceArgs,
        /// How the result is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Run a plan
    Run {
        /// The plan, by name or id
        plan: String,
        /// As what
        #[arg(long, value_enum)]
        kind: Kind,
        #[command(flatten)]
        options: RunArgs,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Go on: a manual action was done, or a step that failed is passed over
    Continue {
        /// The plan, by name or id
        plan: String,
        /// What is to be kept of it
        #[arg(long, value_name = "TEXT", default_value = "")]
        notes: String,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Try the step that failed once more
    Retry(OneArgs),
    /// End the run where it is: says what becomes of the VMs that it has not started
    Cancel(OneArgs),
}

/// What is chosen for a run.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The network of a test
    #[arg(long, value_name = "NAME", required_if_eq("kind", "test"))]
    network: Option<String>,
    /// Of an unplanned run or a test: `latest`, `latest-processed` or `latest-application-consistent`, of each VM
    #[arg(long, value_parser = point)]
    point: Option<String>,
    /// Of an unplanned run: first shut the VMs down and send what they wrote last, as far as hosts and vault answer;
    /// go on without where they do not
    #[arg(long, conflicts_with = "point")]
    synchronize: bool,
    /// Of a test: hours after which its copies are cleaned up by themselves, 1 to 336; 24 unless it is given
    #[arg(long, value_name = "HOURS")]
    lease: Option<u32>,
    /// Of a clean-up: what is to be kept of the tests
    #[arg(long, value_name = "TEXT", default_value = "")]
    notes: String,
}

impl RunArgs {
    fn body(&self, kind: Kind) -> Value {
        json!({ "kind": kind.word(), "network": self.network, "point": self.point,
            "synchronize": self.synchronize, "lease_hours": self.lease, "notes": self.notes })
    }
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    /// The plan, by name or id
    plan: String,
    #[command(flatten)]
    order: OrderArgs,
}

/// What a run does with the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Start copies of them in a network apart
    Test,
    /// Move them to the recovery site without loss
    Planned,
    /// Start them at the recovery site
    Unplanned,
    /// End their tests
    CleanUp,
    /// Make their failovers final
    Commit,
    /// Replicate them again after a failback
    Reverse,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Planned => "planned",
            Self::Unplanned => "unplanned",
            Self::CleanUp => "clean-up",
            Self::Commit => "commit",
            Self::Reverse => "reverse",
        }
    }

    const fn confirm(self) -> Confirm {
        match self {
            Self::Planned | Self::Unplanned | Self::Commit => Confirm::First,
            Self::Test | Self::CleanUp | Self::Reverse => Confirm::No,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    match &args.command {
        Command::List { service, output } => {
            let answer = Client::find(service)?.get(&["plans"])?;
            show(*output, &answer, || Ok(list(&read::<Vec<PlanView>>(&answer)?)))?;
            Ok(Answer::Done)
        }
        Command::Show { plan, service, output } => {
            let answer = Client::find(service)?.get(&["plans", plan])?;
            show(*output, &answer, || in_words(&read(&answer)?))?;
            Ok(Answer::Done)
        }
        Command::Apply { file, order } => apply(file, order),
        Command::Delete(one) => {
            let path = ["plans", one.plan.as_str()];
            give(&one.order, Method::DELETE, &path, &nothing(), Confirm::First)
        }
        Command::Check { plan, kind, options, service, output } => {
            let body = options.body(*kind);
            let answer =
                Client::find(service)?.post(&["plans", plan, "check"], &[], &body, None)?;
            outlook_shown(*output, &answer)
        }
        Command::Run { plan, kind, options, order } => {
            let body = options.body(*kind);
            give(order, Method::POST, &["plans", plan, "run"], &body, kind.confirm())
        }
        Command::Continue { plan, notes, order } => {
            let body = json!({ "notes": notes });
            give(order, Method::POST, &["plans", plan, "continue"], &body, Confirm::No)
        }
        Command::Retry(one) => {
            let path = ["plans", one.plan.as_str(), "retry"];
            give(&one.order, Method::POST, &path, &nothing(), Confirm::No)
        }
        Command::Cancel(one) => {
            let path = ["plans", one.plan.as_str(), "cancel"];
            give(&one.order, Method::POST, &path, &nothing(), Confirm::First)
        }
    }
}

/// Makes a plan what a file says.
fn apply(file: &Path, order: &OrderArgs) -> Result<Answer, CommandError> {
    let named =
        |what| move |error| Refusal::new(USAGE, format!("{what} {}: {error}", file.display()));
    let text = fs::read_to_string(file).map_err(named("read"))?;
    let draft = toml::from_str::<PlanDraft>(&text).map_err(|error| {
        Refusal::new(USAGE, format!("recovery plan {}: {error}", file.display()))
    })?;
    let stem = file.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
    let name = draft.name.clone().or(stem).filter(|name| !name.is_empty()).ok_or_else(|| {
        Refusal::new(USAGE, format!("recovery plan {}: give it a `name`", file.display()))
    })?;
    let vms: Vec<VmView> = read(&Client::find(&order.service)?.get(&["vms"])?)?;
    let is_known = |name: &str| vms.iter().any(|vm| vm.name == name || vm.id.to_string() == name);
    if let Some(unknown) = draft.vms().find(|name| !is_known(name)) {
        let place = place_of(&text, unknown);
        let file = file.display();
        let text = format!(
            "recovery plan {file}{place}: there is no VM {unknown}; name one of those of `lifeboat vm list`"
        );
        return Err(Refusal::new(NOT_FOUND, text).into());
    }
    let body = serde_json::to_value(&draft)?;
    give(order, Method::PUT, &["plans", &name], &body, Confirm::No)
}

/// The line that names something.
fn place_of(text: &str, name: &str) -> String {
    let quoted = [format!("\"{name}\""), format!("'{name}'")];
    let names = |line: &str| quoted.iter().any(|quoted| line.contains(quoted));
    let line = text.lines().zip(1..).find(|(line, _)| names(line));
    line.map_or_else(String::new, |(_, number)| format!(", line {number}"))
}

/// Gives an order to a plan.
fn give(
    args: &OrderArgs,
    method: Method,
    path: &[&str],
    body: &Value,
    confirm: Confirm,
) -> Result<Answer, CommandError> {
    let client = Client::find(&args.service)?;
    if args.dry_run || confirm == Confirm::First {
        let dry = [("dry_run", "true".to_owned())];
        match client.tell(method.clone(), path, &dry, body, None) {
            Ok(answer) if args.dry_run => return outlook_shown(args.output, &answer),
            Ok(answer) => {
                let outlook: PlanOutlook = read(&answer)?;
                let (operation, plan) = (&outlook.operation, &outlook.plan);
                match outlook.problem {
                    Some(problem) if args.request_id.is_none() => {
                        return Err(Refusal::from(problem).into());
                    }
                    // What was asked for before under its id is answered again.
                    Some(_) => {}
                    None => {
                        confirmed(args, operation, plan, &outlook.consequence, &outlook.checks)?;
                    }
                }
            }
            Err(error) if args.dry_run || args.request_id.is_none() => return Err(error),
            // A plan that was deleted under this id is not there to be looked at.
            Err(_) => {}
        }
    }
    let answer = client.tell(method, path, &[], body, args.request_id.as_deref())?;
    let accepted: PlanAccepted = read(&answer)?;
    let runs = matches!(accepted.operation.as_str(), "run" | "continue" | "retry");
    if let (true, true, Some(run)) = (args.wait, runs, &accepted.plan.run) {
        let plan = accepted.plan.id.to_string();
        let last = watch(&client, &plan, run, args.timeout)?;
        let answer = serde_json::to_value(&last)?;
        let plan: PlanDetails = read(&client.get(&["plans", &plan])?)?;
        show(args.output, &answer, || Ok(sentence(&plan.plan, &last)))?;
        return Ok(answer_of(&last));
    }
    show(args.output, &answer, || Ok(accepted_in_words(&accepted)))?;
    Ok(Answer::Done)
}

fn outlook_shown(output: Format, answer: &Value) -> Result<Answer, CommandError> {
    let outlook: PlanOutlook = read(answer)?;
    show(output, answer, || {
        let verdict = verdict(outlook.allowed, outlook.ready, outlook.changes);
        let mut text = format!("{} of {}: {verdict}\n", outlook.operation, outlook.plan);
        text.push_str(&checks_in_words(&outlook.checks));
        if outlook.allowed {
            text.push_str(&outlook.consequence);
        }
        Ok(text)
    })?;
    Ok(if outlook.ready { Answer::Done } else { Answer::Code(WRONG_STATE) })
}

/// Waits until a run has ended, waits for somebody, or the time is over; tells each step.
fn watch(
    client: &Client,
    plan: &str,
    run: &RunView,
    timeout: Option<Span>,
) -> Result<RunView, CommandError> {
    let mut told = BTreeSet::new();
    let mut last = run.clone();
    let asking = async {
        loop {
            steps(&last, &mut told);
            if last.ended_at.is_some() || last.state.starts_with("Waiting") {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
            let seen: PlanDetails = read(&client.look(&["plans", plan], &[]).await?)?;
            match seen.plan.run.filter(|seen| seen.id == last.id) {
                Some(seen) => last = seen,
                None => return Err(overtaken(last.id)),
            }
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

fn overtaken(run: JobId) -> CommandError {
    let text = format!("run {run} has ended, and another one of its plan has begun since");
    Refusal::new(STILL_RUNNING, text).into()
}

/// Tells what has changed since the last look, a line each.
fn steps(run: &RunView, told: &mut BTreeSet<String>) {
    let count = run.steps.len();
    for (step, nth) in run.steps.iter().zip(1..) {
        if step.state == "NotStarted" {
            continue;
        }
        let mut lines = vec![format!("[{nth}/{count}] {}: {}", step.name, step.state)];
        let done = step.vms.iter().filter(|vm| vm.state != "Waiting");
        lines.extend(done.map(|vm| format!("[{nth}/{count}]   {}: {}", vm.name, vm.state)));
        lines.extend(remarks(step).iter().map(|remark| format!("[{nth}/{count}]   {remark}")));
        for line in lines {
            if told.insert(line.clone()) {
                tell(&line);
            }
        }
    }
}

/// What there is to be known of a step: what a person has to do, what its action printed, why it failed.
fn remarks(step: &StepView) -> Vec<String> {
    let asked = step.instructions.iter().filter(|_| step.state == "WaitingForManualAction");
    let asked = asked.map(|it| format!("to do: {it}"));
    let printed = step.output.lines().map(|line| format!("| {line}"));
    let why = |failure: &FailureView| format!("because: {}", failure.because());
    let of_vms: Vec<_> = step.vms.iter().filter_map(|vm| vm.failure.as_ref()).collect();
    // A step fails with what one of its VMs failed with.
    let own = step.failure.iter().filter(|own| !of_vms.contains(own));
    let failures = of_vms.iter().copied().chain(own).map(why);
    asked.chain(printed).chain(failures).collect()
}

/// The VMs that a run left off, and what can be done about them.
fn left_off(plan: &PlanView) -> Option<String> {
    let vms = plan.left_off.join(", ");
    let name = &plan.name;
    (!vms.is_empty()).then(|| {
        format!(
            "off at both sites: {vms}\n  go on with `lifeboat plan run {name} \
             --kind planned`; or `lifeboat failover release VM` starts one, `lifeboat failover cancel VM` takes it back"
        )
    })
}

/// How a command ends that waited for a run.
fn answer_of(run: &RunView) -> Answer {
    match run.state.as_str() {
        "Succeeded" => Answer::Done,
        "PartiallySucceeded" | "Failed" | "Cancelled" => Answer::Code(JOB_FAILED),
        state if state.starts_with("Waiting") => Answer::Code(JOB_WAITS),
        _ => Answer::Code(STILL_RUNNING),
    }
}

fn sentence(plan: &PlanView, run: &RunView) -> String {
    let name = &plan.name;
    let mut text =
        format!("{} run of {name}: {} after {:.1} s", run.kind, run.state, run.duration_seconds);
    if run.state.starts_with("Waiting") {
        let step = run.steps.get(run.current_step as usize);
        let at = step.map_or("its step", |step| &step.name);
        let _ = write!(text, "\n  at {at:?}: lifeboat plan continue {name}, retry or cancel");
    }
    for step in run.steps.iter().filter(|step| step.failure.is_some()) {
        for remark in remarks(step) {
            let _ = write!(text, "\n  {}: {remark}", step.name);
        }
    }
    if let Some(left_off) = left_off(plan) {
        let _ = write!(text, "\n{left_off}");
    }
    text
}

fn accepted_in_words(accepted: &PlanAccepted) -> String {
    let (operation, plan) = (&accepted.operation, &accepted.plan);
    match &plan.run {
        _ if accepted.repeated => "asked for before: nothing was done again".to_owned(),
        _ if !accepted.changed => format!("{operation} of {}: nothing to do", plan.name),
        Some(run) if operation == "run" => {
            format!("{} run of {} has begun: {}", run.kind, plan.name, run.id)
        }
        _ if operation == "delete" => "delete: done".to_owned(),
        _ => {
            let left_off = left_off(plan).map_or_else(String::new, |it| format!("\n{it}"));
            format!("{operation} of {}: done{left_off}", plan.name)
        }
    }
}

fn list(plans: &[PlanView]) -> String {
    let rows: Vec<_> = plans
        .iter()
        .map(|plan| {
            let run = plan.run.as_ref();
            vec![
                plan.name.clone(),
                plan.groups.len().to_string(),
                plan.groups.iter().map(Vec::len).sum::<usize>().to_string(),
                or_dash(run.map(|run| &run.kind)),
                or_dash(run.map(|run| &run.state)),
                or_dash(run.map(|run| moment(run.started_at))),
                or_dash(run.map(|run| duration(run.duration_seconds))),
            ]
        })
        .collect();
    columns(&["PLAN", "GROUPS", "VMS", "LAST RUN", "STATE", "STARTED", "TOOK"], &rows)
}

/// What was chosen for a run, to follow what is said of it.
fn chosen(run: &RunView) -> String {
    let parts = [
        run.point.as_ref().map(|point| format!("from {point} of each VM")),
        run.synchronize.then(|| "sends first what was written last".to_owned()),
        run.lease_hours.map(|hours| format!("cleaned up by itself after {hours} h")),
        (!run.notes.is_empty()).then(|| format!("notes {:?}", run.notes)),
    ];
    parts.into_iter().flatten().fold(String::new(), |text, part| text + "; " + &part)
}

fn in_words(details: &PlanDetails) -> Result<String, CommandError> {
    let mut text = format!("# {}\n{}", details.plan.name, toml::to_string(&details.definition)?);
    let Some(run) = &details.plan.run else { return Ok(text) };
    let _ = writeln!(
        text,
        "\n{} run {}, {}, started {}, {}{}\n",
        run.kind,
        run.id,
        run.state,
        moment(run.started_at),
        duration(run.duration_seconds),
        chosen(run)
    );
    let rows: Vec<_> = run
        .steps
        .iter()
        .map(|step| {
            let vms = step.vms.iter().map(|vm| format!("{} {}", vm.name, vm.state));
            let started = or_dash(step.started_at.map(moment));
            let vms = vms.collect::<Vec<_>>().join(", ");
            vec![step.name.clone(), step.state.clone(), started, vms]
        })
        .collect();
    text.push_str(&columns(&["STEP", "STATE", "STARTED", "VMS"], &rows));
    for step in &run.steps {
        let remarks = remarks(step);
        if !remarks.is_empty() {
            let _ = writeln!(text, "\n{}", step.name);
            for remark in remarks {
                let _ = writeln!(text, "  {remark}");
            }
        }
    }
    if let Some(left_off) = left_off(&details.plan) {
        let _ = writeln!(text, "\n{left_off}");
    }
    Ok(text)
}
