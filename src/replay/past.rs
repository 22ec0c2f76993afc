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
use std::collections::{BTreeMap, BTreeSet};
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
    /// The end of the log.
    End,
}

impl Moment {
    /// Whether a commit is at or before the moment.
    pub fn includes(self, commit: &Commit) -> bool {
        match self {
            Self::Position(position) => commit.global <= position,
            Self::Time(time) => commit.at <= time,
            Self::End => true,
        }
    }

    /// Whether the moment is later than another of its kind; how a position and a time lie to each other, only
    /// a log tells.
    pub fn is_behind(self, other: Self) -> bool {
        match (self, other) {
            (Self::Position(one), Self::Position(other)) => other < one,
            (Self::Time(one), Self::Time(other)) => other < one,
            _ => false,
        }
    }

    /// The last position that may be at or before the moment, where the commit of the next one that there is
    /// is not. Of those between, nobody knows when they were.
    pub(super) fn last_before(self, next: u64) -> u64 {
        match self {
            Self::Position(wanted) => wanted.min(next - 1),
            Self::Time(_) | Self::End => next - 1,
        }
    }

    /// Whether everything up to a position, whose latest time is this, is at or before the moment.
    pub(super) fn is_at_or_after(self, position: u64, latest_ms: i64) -> bool {
        match self {
            Self::Position(wanted) => position <= wanted,
            Self::Time(wanted) => latest_ms <= wanted.as_millis(),
            Self::End => true,
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => write!(f, "{position}"),
            Self::Time(time) => write!(f, "{time}"),
            Self::End => f.write_str("the end of the log"),
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
    /// Positions that were not met. States are kept only where there are none.
    #[serde(skip)]
    pub(super) gaps: Gaps,
}

/// Positions of the log that are missing. Each is one of some stream, whose next commit shows it: where a
/// stream goes on without a gap, nothing of it was missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Gaps {
    /// The last of them.
    pub(super) last: u64,
    /// How many there are of which no stream is known.
    unsettled: u64,
    /// The streams that have not gone on since.
    suspects: BTreeSet<StreamId>,
}

impl Gaps {
    /// Notes that all positions behind one and up to another are missing, which may be of these streams.
    pub(super) fn miss<'a>(
        &mut self,
        position: u64,
        last: u64,
        streams: impl Iterator<Item = &'a StreamId>,
    ) {
        self.last = last;
        self.unsettled += last - position;
        self.suspects = streams.copied().collect();
    }

    /// Takes the next commit that there is, of a stream whose last number was `before`; whether commits of
    /// that stream are missing.
    pub(super) fn follow(&mut self, position: u64, before: Option<u64>, commit: &Commit) -> bool {
        self.unsettled += commit.global.saturating_sub(position + 1);
        let missing = commit.seq.saturating_sub(before.unwrap_or(0) + 1);
        self.unsettled = self.unsettled.saturating_sub(missing);
        self.suspects.remove(&commit.stream);
        before.unwrap_or(0) + 1 != commit.seq
    }

    pub(super) const fn are_settled(&self) -> bool {
        self.unsettled == 0
    }

    pub(super) fn may_be_of(&self, stream: StreamId) -> bool {
        self.suspects.contains(&stream)
    }

    /// The streams that what is missing may be of, where that is not known.
    pub(super) fn into_suspects(self) -> BTreeSet<StreamId> {
        if self.are_settled() { BTreeSet::new() } else { self.suspects }
    }
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
        let found = vms.find(|(id, vm)| {
            let stream = StreamId { kind: Kind::Vm, id: id.0 };
            vm.name == name || id.to_string() == name || stream.to_string() == name
        });
        found.map(|(id, vm)| (StreamId { kind: Kind::Vm, id: id.0 }, vm))
    }

    /// Whether the beginning of a stream is in it: of what has none, not even the name is known.
    pub fn begins(&self, stream: StreamId) -> bool {
        self.name(stream) != stream.to_string()
    }

    /// What its VMs are called.
    pub fn vm_names(&self) -> Vec<String> {
        let streams = self.site.vms.keys().map(|id| StreamId { kind: Kind::Vm, id: id.0 });
        streams.map(|stream| self.name(stream)).collect()
    }

    /// Whether nothing is missing of what was folded in.
    pub(super) fn is_whole(&self) -> bool {
        self.incomplete.is_empty() && self.gaps.are_settled()
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

    /// The site with ids in place of the names that are not known, as where the beginning of a log is lost.
    pub fn site_told(&self) -> Site {
        let mut site = self.site.clone();
        let told = |name: &mut String, kind, id| {
            if name.is_empty() {
                *name = StreamId { kind, id }.to_string();
            }
        };
        for (id, vm) in &mut site.vms {
            vm.id = *id;
            told(&mut vm.name, Kind::Vm, id.0);
        }
        for (id, host) in &mut site.hosts {
            host.id = *id;
            told(&mut host.name, Kind::Host, id.0);
        }
        site.clouds.iter_mut().for_each(|(id, it)| told(&mut it.name, Kind::Cloud, id.0));
        site.vaults.iter_mut().for_each(|(id, it)| told(&mut it.name, Kind::Vault, id.0));
        site.plans.iter_mut().for_each(|(id, it)| told(&mut it.name, Kind::Plan, id.0));
        site.fabrics.iter_mut().for_each(|(id, it)| told(&mut it.name, Kind::Fabric, id.0));
        site
    }

    fn follow(&mut self, commit: &Commit) {
        if self.position + 1 < commit.global {
            self.gaps.last = commit.global - 1;
            self.gaps.suspects = self.seqs.keys().copied().collect();
        }
        self.latest = if self.seqs.is_empty() { commit.at } else { self.latest.max(commit.at) };
        let before = self.seqs.insert(commit.stream, commit.seq);
        if self.gaps.follow(self.position, before, commit) {
            self.incomplete.entry(commit.stream).or_insert(commit.global);
        }
        self.position = commit.global;
        self.at = commit.at;
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
