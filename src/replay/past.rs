//! Every entity as it was after a commit.

use super::difference::{Change, between};
use super::history::Damage;
use crate::domain::entity::{Commit, Entity, Entry, Kind, Rejection, StreamId};
use crate::domain::id::{CloudId, FabricId, HostId, PlanId, VaultId, VmId};
use crate::domain::time::Timestamp;
use crate::domain::vm::Vm;
use crate::views::Site;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// A moment of a log, as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// After the commit of this global position.
    Position(u64),
    /// Before the first commit that is later than this. Where the clock was set, positions say more.
    Time(Timestamp),
}

impl Moment {
    /// Whether a commit is at or before the moment.
    pub fn includes(self, commit: &Commit) -> bool {
        match self {
            Self::Position(position) => commit.global <= position,
            Self::Time(time) => commit.at <= time,
        }
    }
}

impl Moment {
    /// Whether everything up to a position, whose latest time is this, is at or before the moment.
    pub(super) fn is_at_or_after(self, position: u64, latest_ms: i64) -> bool {
        match self {
            Self::Position(wanted) => position <= wanted,
            Self::Time(wanted) => latest_ms <= wanted.as_millis(),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    /// A global position, or a time as RFC 3339 has it.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        match chrono::DateTime::parse_from_rfc3339(text) {
            Ok(time) => Ok(Self::Time(Timestamp::from_millis(time.timestamp_millis()))),
            Err(error) => Err(format!(
                "{text:?} is neither a position, as in 4711, nor a time, as in \
                 2026-11-23T02:13:00Z: {error}"
            )),
        }
    }
}

/// What deciding a recorded command again came to, where that is not what was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// What deciding gives: events, or a refusal.
    pub again: Result<Value, String>,
    /// What the log has.
    pub recorded: Value,
    /// Field by field: as recorded, and as decided again.
    pub fields: Vec<Change>,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.again {
            Ok(again) => write!(f, "the log has {}, deciding gives {again}", self.recorded),
            Err(refusal) => write!(f, "the log has {}, deciding gives: {refusal}", self.recorded),
        }
    }
}

/// The state of every entity after a commit, folded from the events up to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// The global position of the last commit in it; 0 before the first.
    pub position: u64,
    /// When that was decided.
    pub at: Timestamp,
    /// The latest time of any commit in it: later than `at` where the clock was set back.
    pub latest: Timestamp,
    /// The states.
    #[serde(with = "states")]
    pub site: Site,
    /// The sequence number of each stream's last commit.
    pub(super) seqs: BTreeMap<StreamId, u64>,
    /// Streams of which commits are missing, with the position behind the first gap: their states are
    /// not certain.
    pub incomplete: BTreeMap<StreamId, u64>,
    /// Damage that was met on the way.
    pub damage: Vec<Damage>,
}

impl Past {
    /// Folds the next commit in.
    pub fn apply(&mut self, commit: &Commit) {
        self.follow(commit);
        self.site.apply(commit);
    }

    /// Decides the command of the next commit again, from the state before it, and folds it in as it was
    /// recorded.
    ///
    /// # Errors
    /// [`Divergence`] where deciding gives something else.
    pub fn apply_decided_again(&mut self, commit: &Commit) -> Result<(), Box<Divergence>> {
        self.follow(commit);
        let id = commit.stream.id;
        let Site { vms, hosts, clouds, vaults, plans, fabrics } = &mut self.site;
        match &commit.entry {
            Entry::Vm { .. } => fold_decided(vms.entry(VmId(id)).or_default(), commit),
            Entry::Host { .. } => fold_decided(hosts.entry(HostId(id)).or_default(), commit),
            Entry::Cloud { .. } => fold_decided(clouds.entry(CloudId(id)).or_default(), commit),
            Entry::Vault { .. } => fold_decided(vaults.entry(VaultId(id)).or_default(), commit),
            Entry::Plan { .. } => fold_decided(plans.entry(PlanId(id)).or_default(), commit),
            Entry::Fabric { .. } => fold_decided(fabrics.entry(FabricId(id)).or_default(), commit),
        }
    }

    /// What the command of a commit causes in its stream, as an entry.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn decide(&self, commit: &Commit) -> Result<Entry, Rejection> {
        let (site, id) = (&self.site, commit.stream.id);
        match &commit.entry {
            Entry::Vm { .. } => decided(site.vms.get(&VmId(id)), commit),
            Entry::Host { .. } => decided(site.hosts.get(&HostId(id)), commit),
            Entry::Cloud { .. } => decided(site.clouds.get(&CloudId(id)), commit),
            Entry::Vault { .. } => decided(site.vaults.get(&VaultId(id)), commit),
            Entry::Plan { .. } => decided(site.plans.get(&PlanId(id)), commit),
            Entry::Fabric { .. } => decided(site.fabrics.get(&FabricId(id)), commit),
        }
    }

    /// Notes damage that was met in the place of commits.
    pub fn met(&mut self, damage: &Damage) {
        damage.clone().list(&mut self.damage);
    }

    /// Whether all commits of a stream so far are in it.
    pub fn is_complete(&self, stream: StreamId) -> bool {
        !self.incomplete.contains_key(&stream)
    }

    /// The sequence number of a stream's last commit; 0 before the first.
    pub fn seq(&self, stream: StreamId) -> u64 {
        self.seqs.get(&stream).copied().unwrap_or(0)
    }

    /// The VM called so, or with this id.
    pub fn vm_called(&self, name: &str) -> Option<(StreamId, &Vm)> {
        let mut vms = self.site.vms.iter();
        let found = vms.find(|(id, vm)| vm.name == name || id.to_string() == name);
        found.map(|(id, vm)| (StreamId { kind: Kind::Vm, id: id.0 }, vm))
    }

    /// The VM of a stream.
    pub fn vm(&self, id: Uuid) -> Option<&Vm> {
        self.site.vms.get(&VmId(id))
    }

    /// What people call the entity of a stream: its name where it has one.
    pub fn name(&self, stream: StreamId) -> String {
        let (site, id) = (&self.site, stream.id);
        let name = match stream.kind {
            Kind::Vm => site.vms.get(&VmId(id)).map(|it| &it.name),
            Kind::Host => site.hosts.get(&HostId(id)).map(|it| &it.name),
            Kind::Cloud => site.clouds.get(&CloudId(id)).map(|it| &it.name),
            Kind::Vault => site.vaults.get(&VaultId(id)).map(|it| &it.name),
            Kind::Plan => site.plans.get(&PlanId(id)).map(|it| &it.name),
            Kind::Fabric => site.fabrics.get(&FabricId(id)).map(|it| &it.name),
        };
        match name {
            Some(name) if !name.is_empty() => name.clone(),
            _ => stream.to_string(),
        }
    }

    /// What differs in `later`, entity by entity, by their names.
    pub fn changes_to(&self, later: &Self) -> Vec<Change> {
        between(&self.by_name(), &later.by_name())
    }

    /// Every entity under its kind and name.
    fn by_name(&self) -> Value {
        let Site { vms, hosts, clouds, vaults, plans, fabrics } = &self.site;
        let vms = vms.iter().map(|(id, vm)| (Kind::Vm, id.0, plain(vm)));
        let hosts = hosts.iter().map(|(id, host)| (Kind::Host, id.0, plain(host)));
        let clouds = clouds.iter().map(|(id, cloud)| (Kind::Cloud, id.0, plain(cloud)));
        let vaults = vaults.iter().map(|(id, vault)| (Kind::Vault, id.0, plain(vault)));
        let plans = plans.iter().map(|(id, plan)| (Kind::Plan, id.0, plain(plan)));
        let fabrics = fabrics.iter().map(|(id, it)| (Kind::Fabric, id.0, plain(it)));
        let all = vms.chain(hosts).chain(clouds).chain(vaults).chain(plans).chain(fabrics);
        let all = all.map(|(kind, id, state)| {
            (format!("{} {}", kind.name(), self.name(StreamId { kind, id })), state)
        });
        Value::Object(all.collect())
    }

    fn follow(&mut self, commit: &Commit) {
        self.position = commit.global;
        self.at = commit.at;
        self.latest = if self.seqs.is_empty() { commit.at } else { self.latest.max(commit.at) };
        let before = self.seqs.insert(commit.stream, commit.seq).unwrap_or(0);
        if before + 1 != commit.seq {
            self.incomplete.entry(commit.stream).or_insert(commit.global);
        }
    }
}

/// Plain data as JSON.
pub(super) fn plain(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("plain data with text keys always has a JSON form")
}

/// The states of a site as they are kept; as a view, a site is written in another way.
mod states {
    use super::{
        BTreeMap, CloudId, Deserialize, FabricId, HostId, PlanId, Serialize, Site, VaultId, Vm,
        VmId,
    };
    use crate::domain::cloud::Cloud;
    use crate::domain::fabric::Fabric;
    use crate::domain::host::Host;
    use crate::domain::plan::Plan;
    use crate::domain::vault::Vault;
    use serde::{Deserializer, Serializer};

    type Kept = (
        BTreeMap<VmId, Vm>,
        BTreeMap<HostId, Host>,
        BTreeMap<CloudId, Cloud>,
        BTreeMap<VaultId, Vault>,
        BTreeMap<PlanId, Plan>,
        BTreeMap<FabricId, Fabric>,
    );

    pub(super) fn serialize<S: Serializer>(site: &Site, to: S) -> Result<S::Ok, S::Error> {
        (&site.vms, &site.hosts, &site.clouds, &site.vaults, &site.plans, &site.fabrics)
            .serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Site, D::Error> {
        let (vms, hosts, clouds, vaults, plans, fabrics) = Kept::deserialize(from)?;
        Ok(Site { vms, hosts, clouds, vaults, plans, fabrics })
    }
}

fn fold<E: Entity>(state: &mut E, commit: &Commit) {
    let Some((_, events)) = E::of(&commit.entry) else { return };
    for event in events {
        state.apply(event, commit.at);
    }
}

fn fold_decided<E: Entity>(state: &mut E, commit: &Commit) -> Result<(), Box<Divergence>> {
    let Some((command, events)) = E::of(&commit.entry) else { return Ok(()) };
    let again = state.decide(command, commit.at);
    fold(state, commit);
    if again.as_deref() == Ok(events) {
        return Ok(());
    }
    let recorded = events_as_json::<E>(command, events.to_vec());
    let again = again
        .map(|events| events_as_json::<E>(command, events))
        .map_err(|rejection| rejection.to_string());
    let decided = again.clone().unwrap_or(Value::Null);
    let fields = between(&recorded, &decided);
    Err(Box::new(Divergence { again, recorded, fields }))
}

fn decided<E: Entity>(state: Option<&E>, commit: &Commit) -> Result<Entry, Rejection> {
    let Some((command, _)) = E::of(&commit.entry) else { return Ok(commit.entry.clone()) };
    let events = state.unwrap_or(&E::default()).decide(command, commit.at)?;
    Ok(E::entry(command.clone(), events))
}

/// The events alone of the entry that they would make.
fn events_as_json<E: Entity>(command: &E::Command, events: Vec<E::Event>) -> Value {
    let entry = plain(&E::entry(command.clone(), events));
    let body = entry.as_object().and_then(|entry| entry.values().next());
    body.and_then(|body| body.get("events")).cloned().unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_position_or_a_time() {
        assert_eq!("17".parse(), Ok(Moment::Position(17)));
        let time = Moment::Time(Timestamp::from_millis(1_767_600_000_000));
        assert_eq!("2026-01-05T08:00:00Z".parse(), Ok(time));
        assert_eq!("2026-01-05T09:00:00+01:00".parse(), Ok(time));
        assert!("yesterday".parse::<Moment>().is_err());
    }
}
