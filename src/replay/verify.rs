//! Whether this build would have decided the same: every recorded command is decided again, from the
//! state of that time.

use super::checkpoints::Checkpoint;
use super::history::{Damage, History, HistoryError, Recorded};
use super::past::{Divergence, Past};
use super::words::command_word;
use crate::actors::Hosted;
use crate::domain::cloud::Cloud;
use crate::domain::entity::{Commit, Entity, Kind, StreamId};
use crate::domain::fabric::Fabric;
use crate::domain::host::Host;
use crate::domain::id::{CloudId, FabricId, HostId, PlanId, VaultId, VmId};
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::domain::vault::Vault;
use crate::domain::vm::Vm;
use crate::ports::event_store::{Snapshot, WrittenBy};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Divergences that are kept; the others are counted. One cause can repeat a million times.
const KEPT: usize = 20;

/// A commit that this build decides otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Diverging {
    /// Its stream.
    pub stream: StreamId,
    /// What that is called.
    pub name: String,
    /// Its position in the stream.
    pub seq: u64,
    /// Its position in the log.
    pub global: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// The command, by its name.
    pub command: String,
    /// The version of its payload, where that is known.
    pub version: Option<u16>,
    /// The version of the build that wrote it, where that is known.
    pub build: Option<String>,
    /// What differs.
    pub divergence: Divergence,
}

/// What verifying came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verification {
    /// Commits that were read.
    pub commits: u64,
    /// Commits that were decided again.
    pub decided: u64,
    /// Commits whose stream is not complete: what they were decided on is not known.
    pub undecidable: u64,
    /// Commits that are decided otherwise.
    pub diverging: u64,
    /// The first of them.
    pub first: Vec<Diverging>,
    /// Damage that was met.
    pub damage: Vec<Damage>,
    /// State snapshots that were compared with what their commits fold to.
    pub snapshots: u64,
    /// Those that hold something else.
    pub wrong_snapshots: Vec<String>,
    /// Which builds wrote the log; of what lies before the first, that is not known.
    pub written_by: Vec<WrittenBy>,
}

impl Verification {
    /// Whether every command that could be decided again was decided as it is recorded.
    pub fn is_as_recorded(&self) -> bool {
        self.diverging == 0
    }

    /// Whether everything was as it must be.
    pub fn is_sound(&self) -> bool {
        self.is_as_recorded() && self.damage.is_empty() && self.wrong_snapshots.is_empty()
    }
}

/// Decides every command of a log again and compares the events, and compares `snapshots`, and the states
/// that an exported log has with it, with those that their commits fold to. After a divergence it goes on from what was recorded.
///
/// # Errors
/// [`HistoryError`].
pub fn verify(
    history: &mut History,
    snapshots: Vec<Snapshot>,
) -> Result<Verification, HistoryError> {
    let mut snapshots: BTreeMap<(StreamId, u64), Snapshot> =
        snapshots.into_iter().map(|it| ((it.stream, it.seq), it)).collect();
    let mut attached = history.attached()?;
    let mut past = Past::default();
    let mut result = Verification { written_by: history.written_by(), ..Verification::default() };
    history.each(|found| {
        match found {
            Err(damage) => damage.list(&mut result.damage),
            Ok(Recorded { commit, version, .. }) => {
                result.take(&mut past, &commit, version);
                if let Some(snapshot) = snapshots.remove(&(commit.stream, commit.seq)) {
                    result.compare(&past, &snapshot);
                }
                if let Some(states) = attached.remove(&commit.global) {
                    result.compare_all(&past, &states);
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    let left = snapshots.into_values().map(|it| format!("{}: its commit is missing", place(&it)));
    result.wrong_snapshots.extend(left);
    let left = attached.keys().map(|after| format!("{}: its commit is missing", place_of(*after)));
    result.wrong_snapshots.extend(left);
    Ok(result)
}

impl Verification {
    fn take(&mut self, past: &mut Past, commit: &Commit, version: Option<u16>) {
        self.commits += 1;
        let follows = past.seq(commit.stream) + 1 == commit.seq;
        if !follows || !past.is_complete(commit.stream) {
            self.undecidable += 1;
            return past.apply(commit);
        }
        self.decided += 1;
        let Err(divergence) = past.apply_decided_again(commit) else { return };
        self.diverging += 1;
        if self.first.len() < KEPT {
            let build = self.written_by.iter().rev().find(|it| it.from <= commit.global);
            self.first.push(Diverging {
                stream: commit.stream,
                name: past.name(commit.stream),
                seq: commit.seq,
                global: commit.global,
                at: commit.at,
                command: command_word(&commit.entry),
                version: version.or(build.map(|it| it.payload_version)),
                build: build.map(|it| it.build.clone()),
                divergence: *divergence,
            });
        }
    }

    /// States of a build whose states are others cannot be compared, and are not used either.
    fn compare_all(&mut self, past: &Past, states: &[u8]) {
        let Some(Checkpoint { past: kept, .. }) = Checkpoint::read(states, past.position) else {
            return;
        };
        if !past.is_whole() {
            return;
        }
        self.snapshots += 1;
        if kept != *past {
            let what = format!("{}: are not what its commits fold to", place_of(past.position));
            self.wrong_snapshots.push(what);
        }
    }

    fn compare(&mut self, past: &Past, snapshot: &Snapshot) {
        if !past.is_complete(snapshot.stream) {
            return;
        }
        self.snapshots += 1;
        let (site, id) = (&past.site, snapshot.stream.id);
        let compared = match snapshot.stream.kind {
            Kind::Vm => is_state(site.vms.get(&VmId(id)), snapshot),
            Kind::Host => is_state(site.hosts.get(&HostId(id)), snapshot),
            Kind::Cloud => is_state(site.clouds.get(&CloudId(id)), snapshot),
            Kind::Vault => is_state(site.vaults.get(&VaultId(id)), snapshot),
            Kind::Plan => is_state(site.plans.get(&PlanId(id)), snapshot),
            Kind::Fabric => is_state(site.fabrics.get(&FabricId(id)), snapshot),
        };
        if let Err(what) = compared {
            self.wrong_snapshots.push(format!("{}: {what}", place(snapshot)));
        }
    }
}

fn place_of(after: u64) -> String {
    format!("states behind the log after commit {after}")
}

fn place(snapshot: &Snapshot) -> String {
    format!("state snapshot of {} at {}", snapshot.stream, snapshot.seq)
}

/// The schema under which snapshots of a kind of entity are kept.
pub fn snapshot_schema(kind: Kind) -> u16 {
    match kind {
        Kind::Vm => Vm::STATE_SCHEMA,
        Kind::Host => Host::STATE_SCHEMA,
        Kind::Cloud => Cloud::STATE_SCHEMA,
        Kind::Vault => Vault::STATE_SCHEMA,
        Kind::Plan => Plan::STATE_SCHEMA,
        Kind::Fabric => Fabric::STATE_SCHEMA,
    }
}

fn is_state<E: Entity>(folded: Option<&E>, snapshot: &Snapshot) -> Result<(), String> {
    let config = bincode::config::standard().with_limit::<{ 64 << 20 }>();
    let (kept, _): (E, usize) = bincode::serde::decode_from_slice(&snapshot.state, config)
        .map_err(|error| error.to_string())?;
    if folded == Some(&kept) {
        return Ok(());
    }
    Err("is not what its commits fold to".to_owned())
}
