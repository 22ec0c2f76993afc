//! What people and programs read: views made of states and of the log.

mod alerts;
mod compliance;
mod jobs;
mod site;

use crate::domain::story::Story;
use lifeboat::domain::entity::{Commit, Entity, Kind, StreamId};
use lifeboat::domain::id::JobId;
use lifeboat::domain::vm::Vm;
use lifeboat::views::{Jobs, Site};
use serde_json::Value;

/// The log of a story, as the VM's actor would have written it for `actor`.
fn log_of(story: &Story, actor: &str) -> Vec<Commit> {
    let told = story.told.iter().filter(|(_, _, events)| !events.is_empty()).zip(1..);
    told.map(|((at, command, events), nth)| Commit {
        stream: StreamId { kind: Kind::Vm, id: story.vm.id.0 },
        seq: nth,
        global: nth,
        at: *at,
        actor: actor.to_owned(),
        correlation: None,
        causation: None,
        entry: Vm::entry(command.clone(), events.clone()),
    })
    .collect()
}

fn jobs_of(story: &Story, kept: usize) -> Jobs {
    let mut jobs = Jobs::new(kept);
    for commit in log_of(story, "operator") {
        jobs.apply(&commit);
    }
    jobs
}

fn site_of(story: &Story) -> Site {
    Site { vms: [(story.vm.id, story.vm.clone())].into(), ..Site::default() }
}

fn json(view: &impl serde::Serialize) -> Value {
    serde_json::to_value(view).unwrap()
}

/// States of the jobs that a story has had, the first first.
fn history(story: &Story, kept: usize) -> Vec<(String, String)> {
    let jobs = jobs_of(story, kept);
    let mut history: Vec<_> =
        jobs.list(story.now).map(|job| (job.scenario_name, job.state)).collect();
    history.reverse();
    history
}

fn last_job(story: &Story) -> JobId {
    story.vm.job.as_ref().unwrap().id
}
