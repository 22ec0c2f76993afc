//! `replay report`: the page of an incident.

use super::super::{Answer, CommandError, print};
use super::{SourceArg, check_order, write_new};
use crate::domain::vm::Health;
use crate::replay::{Explanation, History, Incident, Moment, Question, explain, incident, page};
use std::path::PathBuf;

/// VMs whose way to Critical is told; where more are hit, they mostly are for the same cause.
const EXPLAINED_MAX: usize = 4;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArg,
    /// The first moment: a position, or a time as in 2026-11-23T02:13:00Z
    #[arg(long, value_name = "MOMENT")]
    from: Option<Moment>,
    /// The last moment
    #[arg(long, value_name = "MOMENT")]
    to: Option<Moment>,
    /// What the page is called
    #[arg(long, default_value = "Incident report")]
    title: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// Where it goes; standard output if it is not given
    #[arg(long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What a report is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// One page with everything in it.
    #[default]
    Html,
    /// The figures.
    Json,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    check_order(args.from, args.to)?;
    let mut history = args.source.open()?;
    let incident = incident(&mut history, args.from, args.to)?;
    if incident.commits == 0 {
        return Err("the log has nothing there".into());
    }
    let text = match args.output {
        Form::Json => serde_json::to_string(&incident)?,
        Form::Html => page(&incident, &explained(&mut history, &incident, args.to)?, &args.title),
    };
    match &args.file {
        Some(path) => {
            write_new(path, text.as_bytes())?;
            print(&format!("{} commits reported in {}", incident.commits, path.display()));
        }
        None => print(text.trim_end()),
    }
    Ok(Answer::Done)
}

/// Why the VMs that were Critical longest became so.
fn explained(
    history: &mut History,
    incident: &Incident,
    to: Option<Moment>,
) -> Result<Vec<(String, Explanation)>, CommandError> {
    let was_critical = |health: &[(i64, Health)]| health.iter().any(|it| it.1 == Health::Critical);
    let mut hit: Vec<_> = incident.vms.iter().filter(|vm| was_critical(&vm.health)).collect();
    hit.sort_by(|one, other| other.critical_seconds.total_cmp(&one.critical_seconds));
    let mut explained = Vec::new();
    for vm in hit.into_iter().take(EXPLAINED_MAX) {
        let question = Question::Vm {
            name: vm.name.clone(),
            state: Some(Health::Critical),
            until: to.unwrap_or(Moment::End),
        };
        explained.push((vm.name.clone(), explain(history, &question)?));
    }
    Ok(explained)
}
