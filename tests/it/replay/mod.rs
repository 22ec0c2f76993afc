//! Tests of `replay`: recorded incidents with their answers, damage, pseudonyms, and logs of a service that
//! is running.
//!
//! The incidents under `tests/fixtures/incidents/` are logs that `lifeboat simulate --log` wrote from the
//! scenarios beside them, with seed 7. They are frozen: a build that decides otherwise has to say so.

mod browser;
mod damage;
mod folders;
mod incidents;
mod long;
mod odd;
mod pseudonyms;
mod questions;
mod reports;
mod sentences;
mod topology;
mod versions;
mod what_if;

use lifeboat::domain::entity::Commit;
use lifeboat::replay::{History, Past, Recorded};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Every recorded incident.
const INCIDENTS: [&str; 4] =
    ["host_killed_in_failover", "link_flaps", "resync_storm", "vault_full"];

fn fixture(name: &str, ending: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/incidents");
    folder.join(format!("{name}.{ending}"))
}

fn log(name: &str) -> History {
    History::of_file(&fixture(name, "jsonl")).unwrap()
}

fn commits(history: &mut History) -> Vec<Commit> {
    let mut commits = Vec::new();
    history
        .each(|found| {
            let Recorded { commit, .. } = found.unwrap();
            commits.push(commit);
            ControlFlow::Continue(())
        })
        .unwrap();
    commits
}

fn folded(history: &mut History) -> Past {
    let mut past = Past::default();
    history
        .each(|found| {
            match found {
                Ok(Recorded { commit, .. }) => past.apply(&commit),
                Err(damage) => past.met(&damage),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    past
}

fn lifeboat(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(arguments).env_remove("LIFEBOAT_LOG").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
