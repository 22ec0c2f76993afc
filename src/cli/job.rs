//! `lifeboat job`: the jobs of a running service.

use super::client::{Client, ServiceArgs, read};
use super::grid::{Format, columns, moment, or_dash, show};
use super::order::{answer_of, duration, looked_at, nothing, sentence, span, tell, watch};
use super::{Answer, CommandError, print};
use crate::api::Accepted;
use crate::sim::Span;
use crate::views::JobView;
use serde_json::{Value, json};
use std::fmt::Write;

/// The jobs of a running service.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The last jobs, the newest first
    List {
        /// Only those of this VM or recovery plan, by name or id
        #[arg(long)]
        vm: Option<String>,
        /// Only those in this state, as `InProgress` or `Failed`
        #[arg(long)]
        state: Option<String>,
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        service: ServiceArgs,
        /// How the result is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// A job with its tasks and errors
    Show {
        /// The job; the beginning of its id is enough
        job: String,
        #[command(flatten)]
        service: ServiceArgs,
        /// How the result is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Give a running job up; its VM is as well protected as before
    Cancel {
        /// The job; the beginning of its id is enough
        job: String,
        /// Only say whether it is allowed, what was checked, and what it would do
        #[arg(long)]
        dry_run: bool,
        /// An id of your own: the same order given twice under it is done once
        #[arg(long, value_name = "KEY")]
        request_id: Option<String>,
        #[command(flatten)]
        service: ServiceArgs,
        /// How the result is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Let a job go on that waits for somebody: what failed is tried again, a step of a plan was done
    Resume {
        /// The job; the beginning of its id is enough
        job: String,
        /// What is to be kept of it, of a run of a recovery plan
        #[arg(long, value_name = "TEXT", default_value = "")]
        notes: String,
        #[command(flatten)]
        act: ActArgs,
    },
    /// Begin a job again that failed or was cancelled, as another job
    Restart {
        /// The job; the beginning of its id is enough
        job: String,
        #[command(flatten)]
        act: ActArgs,
    },
    /// Show the tasks of a job as they are done, until it ends or waits for somebody
    Watch {
        /// The job; the beginning of its id is enough
        job: String,
        /// So long at most, as 90s or 10m; exit code 8 if the job runs still
        #[arg(long, value_name = "TIME", value_parser = span)]
        timeout: Option<Span>,
        #[command(flatten)]
        service: ServiceArgs,
    },
}

/// How something is done with a job.
#[derive(Debug, clap::Args)]
struct ActArgs {
    /// Only say whether it is allowed, what was checked, and what it would do
    #[arg(long)]
    dry_run: bool,
    /// An id of your own: the same order given twice under it is done once
    #[arg(long, value_name = "KEY")]
    request_id: Option<String>,
    /// Wait until the job has ended, or waits for somebody
    #[arg(long)]
    wait: bool,
    /// With --wait: so long at most, as 90s or 10m; exit code 8 if the job runs still
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = span)]
    timeout: Option<Span>,
    #[command(flatten)]
    service: ServiceArgs,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    match &args.command {
        Command::List { vm, state, limit, service, output } => {
            let client = Client::find(service)?;
            let mut query = vec![("limit", limit.to_string())];
            query.extend(vm.clone().map(|vm| ("vm", vm)));
            query.extend(state.clone().map(|state| ("state", state)));
            let answer = client.run(client.look(&["jobs"], &query))?;
            show(*output, &answer, || Ok(list(&read::<Vec<JobView>>(&answer)?)))?;
            Ok(Answer::Done)
        }
        Command::Show { job, service, output } => {
            let answer = Client::find(service)?.get(&["jobs", job])?;
            show(*output, &answer, || Ok(in_words(&read(&answer)?)))?;
            Ok(Answer::Done)
        }
        Command::Cancel { job, dry_run, request_id, service, output } => {
            let client = Client::find(service)?;
            let path = ["jobs", job, "cancel"];
            if *dry_run {
                return looked_at(&client, &path, &nothing(), *output);
            }
            let answer = client.post(&path, &[], &nothing(), request_id.as_deref())?;
            show(*output, &answer, || Ok(format!("job {job} is given up")))?;
            Ok(Answer::Done)
        }
        Command::Resume { job, notes, act } => {
            let body = if notes.is_empty() { nothing() } else { json!({ "notes": notes }) };
            act_on(job, "resume", &body, act)
        }
        Command::Restart { job, act } => act_on(job, "restart", &nothing(), act),
        Command::Watch { job, timeout, service } => {
            let client = Client::find(service)?;
            let job: JobView = read(&client.get(&["jobs", job])?)?;
            let last = watch(&client, &job, *timeout, &mut |line| print(line))?;
            print(&sentence(&last));
            Ok(answer_of(&last))
        }
    }
}

/// Does something with a job, and waits for what it starts if that is wanted.
fn act_on(job: &str, action: &str, body: &Value, act: &ActArgs) -> Result<Answer, CommandError> {
    let client = Client::find(&act.service)?;
    let path = ["jobs", job, action];
    if act.dry_run {
        return looked_at(&client, &path, body, act.output);
    }
    let answer = client.post(&path, &[], body, act.request_id.as_deref())?;
    let accepted: Accepted = read(&answer)?;
    let begun = match &accepted.job {
        Some(job) => job.clone(),
        None => read(&client.get(&["jobs", job])?)?,
    };
    if act.wait {
        let last = watch(&client, &begun, act.timeout, &mut |line| tell(line))?;
        let answer = serde_json::to_value(&last)?;
        show(act.output, &answer, || Ok(sentence(&last)))?;
        return Ok(answer_of(&last));
    }
    let (name, of) = (&begun.friendly_name, &begun.target_name);
    show(act.output, &answer, || Ok(format!("{name} of {of}: {action}, job {}", begun.id)))?;
    Ok(Answer::Done)
}

fn list(jobs: &[JobView]) -> String {
    let rows: Vec<_> = jobs
        .iter()
        .map(|job| {
            vec![
                job.id.to_string(),
                job.friendly_name.clone(),
                job.target_name.clone(),
                job.state.clone(),
                moment(job.started_at),
                duration(job.duration_seconds),
                or_dash(job.asked_by.as_ref()),
            ]
        })
        .collect();
    columns(&["ID", "JOB", "OF", "STATE", "STARTED", "TOOK", "ASKED BY"], &rows)
}

fn in_words(job: &JobView) -> String {
    let mut text = format!(
        "{} of {}, job {}\n{}, started {}, {}, asked for by {}\n",
        job.friendly_name,
        job.target_name,
        job.id,
        job.state,
        moment(job.started_at),
        duration(job.duration_seconds),
        or_dash(job.asked_by.as_ref())
    );
    if let Some(waits) = &job.waiting_for {
        let _ = writeln!(text, "waits for {waits}");
    }
    let rows: Vec<_> = job
        .tasks
        .iter()
        .map(|task| {
            let bytes = task.done_bytes.zip(task.total_bytes);
            vec![
                task.friendly_name.clone(),
                or_dash(task.disk.as_ref()),
                task.state.clone(),
                task.started_at.map_or_else(|| "-".to_owned(), moment),
                or_dash(bytes.map(|(done, total)| format!("{done} of {total}"))),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&columns(&["TASK", "DISK", "STATE", "STARTED", "BYTES"], &rows));
    for error in &job.errors {
        let _ = writeln!(
            text,
            "\n{} {}\n  next   {}\n  to do  {}",
            error.code,
            error.because(),
            error.next,
            error.action
        );
    }
    text
}
