//! Why something happened: from a commit back to what led to it, until somebody acted, a schedule came
//! round, or something outside was seen.
//!
//! A commit names the one that led to it. Where it does not, as in logs of earlier builds, it follows from
//! the states: work is reported on, or a timer fires, because an earlier commit called for it.

use super::history::{Damage, History, HistoryError, Recorded};
use super::past::{Moment, Past};
use super::words::{Titles, clock, command_in_words, events_in_words, span};
use crate::domain::entity::{Commit, Entity, Entry, Kind, StreamId};
use crate::domain::failure::{Cause, Failure};
use crate::domain::host;
use crate::domain::time::Timestamp;
use crate::domain::vault;
use crate::domain::vm::{self, Command, Effect, Event, Health, RetryReason, Vm, Wake};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;
use thiserror::Error;
use uuid::Uuid;

/// Links of a chain that are told: ten failed attempts with what lies between them.
const LINKS_MAX: usize = 60;

/// Spells of things being away that are kept, the last ones.
const SPELLS_KEPT: usize = 1_000;

/// How long before and after a moment something still belongs to it.
const NEARBY: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Why there is this commit.
    Commit(u64),
    /// Why a VM came into a state of health the last time before a moment; by default, the state that it
    /// has at that moment.
    Vm {
        /// Its name or id.
        name: String,
        /// Which state.
        state: Option<Health>,
        /// Up to when.
        until: Moment,
    },
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum WhyError {
    /// The log cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The log has no such commit.
    #[error("find commit {position}: the log {}{}", positions(*.last), but_damaged(.damage))]
    NoCommit {
        /// What was asked for.
        position: u64,
        /// The last one.
        last: u64,
        /// Damage, for which it may not be there.
        damage: Vec<Damage>,
    },
    /// The log has no such VM.
    #[error("find VM {name}: the log knows {}{}", list(.known), but_damaged(.damage))]
    NoVm {
        /// What was asked for.
        name: String,
        /// The VMs that it has.
        known: Vec<String>,
        /// Damage, for which it may not know more.
        damage: Vec<Damage>,
    },
    /// The VM was never so, as far as the log tells.
    #[error("{name} was never {state} up to commit {position}{}", but_damaged(.damage))]
    NeverSo {
        /// The VM.
        name: String,
        /// The state.
        state: Health,
        /// Where the search ended.
        position: u64,
        /// Damage, for which that may not be known.
        damage: Vec<Damage>,
    },
}

impl WhyError {
    /// That the log, as far as it was read, has no VM called so.
    pub fn no_vm(name: &str, past: &Past) -> Self {
        Self::NoVm { name: name.to_owned(), known: past.vm_names(), damage: past.damage.clone() }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// What is explained, and the reasons that the entity itself gives.
    pub what: Vec<String>,
    /// From what is explained back to what started it.
    pub chain: Vec<Link>,
    /// What was also the case.
    pub meanwhile: Vec<String>,
    /// What is not certain, since something is damaged or missing.
    pub uncertain: Vec<String>,
}

/// One commit of the chain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Link {
    /// Its position in the log.
    pub seq: u64,
    /// When.
    pub at: String,
    /// Who said what to whom.
    pub command: String,
    /// What became true.
    pub events: Vec<String>,
    /// Where the chain ends: why it does.
    pub origin: Option<String>,
}

/// A time for which a vault or a host was away.
#[derive(Clone, Debug)]
struct Spell {
    stream: StreamId,
    from: (u64, Timestamp),
    until: Option<(u64, Timestamp)>,
    because: Failure,
}

/// A state of health, from when a VM came into it to when it left it.
#[derive(Clone, Debug)]
struct Episode {
    from: (u64, Timestamp),
    until: Option<(u64, Timestamp)>,
    /// The VM's last commit at that moment.
    commit: u64,
    reasons: Vec<String>,
    cause: Option<Cause>,
}

/// Explains.
///
/// # Errors
/// [`WhyError`].
pub fn explain(history: &mut History, question: &Question) -> Result<Explanation, WhyError> {
    let mut walk = Walk::of(question);
    history.each(|found| {
        match found {
            Ok(Recorded { commit, .. }) if walk.goes_on_to(&commit) => walk.take(&commit),
            Ok(_) => return ControlFlow::Break(()),
            Err(damage) => walk.past.met(&damage),
        }
        ControlFlow::Continue(())
    })?;
    let target = walk.target()?;
    let chain = walk.chain(target.commit);
    let read = walk.read_again(history, &chain, &target)?;
    Ok(walk.answer(&target, &chain, &read))
}

/// What is explained.
struct Target {
    headline: Vec<String>,
    commit: u64,
    from: Timestamp,
    until: Option<Timestamp>,
    cause: Option<Cause>,
}

/// What the second reading found.
#[derive(Default)]
struct Read {
    commits: BTreeMap<u64, Commit>,
    /// Other VMs that failed for the same cause.
    others: BTreeSet<Uuid>,
}

/// The first reading: who led to whom, and how the VM fared.
struct Walk {
    question: Question,
    past: Past,
    titles: Titles,
    /// By position: the commit that led to it, or 0.
    parents: Vec<u64>,
    /// Which commit called for the work that a VM does.
    called: BTreeMap<Uuid, BTreeMap<Effect, u64>>,
    /// The last commit of each VM.
    last: BTreeMap<Uuid, u64>,
    spells: Vec<Spell>,
    health: Option<Health>,
    episodes: BTreeMap<Health, Episode>,
}

impl Walk {
    fn of(question: &Question) -> Self {
        Self {
            question: question.clone(),
            past: Past::default(),
            titles: Titles::default(),
            parents: Vec::new(),
            called: BTreeMap::new(),
            last: BTreeMap::new(),
            spells: Vec::new(),
            health: None,
            episodes: BTreeMap::new(),
        }
    }

    fn goes_on_to(&self, commit: &Commit) -> bool {
        match &self.question {
            // What follows at once belongs to it: a vault is suspected because a VM could not reach it.
            Question::Commit(position) => {
                let is_none = *position == 0;
                let is_near = commit.at <= self.past.at.after(NEARBY);
                is_none || commit.global <= *position || is_near
            }
            Question::Vm { until, .. } => until.includes(commit),
        }
    }

    fn take(&mut self, commit: &Commit) {
        let parent = commit.causation.or_else(|| self.caller(commit)).unwrap_or(0);
        self.parents.resize(commit.global as usize + 1, 0);
        self.parents[commit.global as usize] = parent;
        self.past.apply(commit);
        self.titles.note(&self.past, commit);
        self.note_spells(commit);
        if commit.stream.kind == Kind::Vm {
            self.note_calls(commit);
        }
        self.note_health(commit);
    }

    /// The commit whose state called for what a command reports on.
    fn caller(&self, commit: &Commit) -> Option<u64> {
        let Entry::Vm { command, .. } = &commit.entry else { return None };
        let vm = self.past.vm(commit.stream.id)?;
        self.called.get(&commit.stream.id)?.get(&reported_on(command, vm)?).copied()
    }

    fn note_calls(&mut self, commit: &Commit) {
        let id = commit.stream.id;
        self.last.insert(id, commit.global);
        let Some(vm) = self.past.vm(id) else { return };
        let wanted = vm.pending();
        let called = self.called.entry(id).or_default();
        called.retain(|effect, _| wanted.contains(effect));
        for effect in wanted {
            called.entry(effect).or_insert(commit.global);
        }
    }

    fn note_spells(&mut self, commit: &Commit) {
        let moment = (commit.global, commit.at);
        let begun = match &commit.entry {
            Entry::Vault { events, .. } => events.iter().find_map(|event| match event {
                vault::Event::VaultUnreachable { because } => Some(Some(because)),
                vault::Event::VaultReachable => Some(None),
                vault::Event::Created { .. }
                | vault::Event::RegistrationKeyIssued { .. }
                | vault::Event::RegistrationKeyUsed { .. } => None,
            }),
            Entry::Host { events, .. } => events.iter().find_map(|event| match event {
                host::Event::HeartbeatLost { because } => Some(Some(because)),
                host::Event::HeartbeatRestored => Some(None),
                host::Event::Registered { .. }
                | host::Event::AgentRegistered { .. }
                | host::Event::ClusterChanged { .. } => None,
            }),
            Entry::Vm { .. } | Entry::Cloud { .. } | Entry::Plan { .. } | Entry::Fabric { .. } => {
                None
            }
        };
        match begun {
            Some(Some(because)) => {
                if self.spells.len() == SPELLS_KEPT {
                    self.spells.remove(0);
                }
                let (stream, because) = (commit.stream, because.clone());
                self.spells.push(Spell { stream, from: moment, until: None, because });
            }
            Some(None) => {
                let open = self.spells.iter_mut().rev().find(|it| it.stream == commit.stream);
                if let Some(spell) = open {
                    spell.until = Some(moment);
                }
            }
            None => {}
        }
    }

    /// Looks at the VM that is asked about: its health can change with time alone.
    fn note_health(&mut self, commit: &Commit) {
        let Question::Vm { name, .. } = &self.question else { return };
        let Some((stream, vm)) = self.past.vm_called(name) else { return };
        let level = vm.health(commit.at);
        if self.health == Some(level) {
            return;
        }
        let moment = (commit.global, commit.at);
        if let Some(left) = self.health.and_then(|before| self.episodes.get_mut(&before)) {
            left.until = Some(moment);
        }
        let causes = vm.health_causes(commit.at);
        let reasons = causes.iter().map(|it| format!("{}; {}", it.because, it.next)).collect();
        let cause = vm.trouble.as_ref().map(|trouble| trouble.failure.cause);
        let commit = self.last.get(&stream.id).copied().unwrap_or(commit.global);
        self.health = Some(level);
        self.episodes.insert(level, Episode { from: moment, until: None, commit, reasons, cause });
    }

    fn target(&self) -> Result<Target, WhyError> {
        match &self.question {
            Question::Commit(position) => {
                let last = self.past.position;
                let parents = self.parents.len() as u64;
                if *position == 0 || parents <= *position {
                    let damage = self.past.damage.clone();
                    return Err(WhyError::NoCommit { position: *position, last, damage });
                }
                let from = self.past.at;
                Ok(Target { headline: vec![], commit: *position, from, until: None, cause: None })
            }
            Question::Vm { name, state, .. } => {
                let Some((stream, _)) = self.past.vm_called(name) else {
                    return Err(WhyError::no_vm(name, &self.past));
                };
                let state = state.or(self.health).unwrap_or(Health::NotApplicable);
                let name = self.past.name(stream);
                let episode = self.episodes.get(&state).ok_or_else(|| WhyError::NeverSo {
                    name: name.clone(),
                    state,
                    position: self.past.position,
                    damage: self.past.damage.clone(),
                })?;
                Ok(self.episode_told(&name, state, episode))
            }
        }
    }

    fn episode_told(&self, name: &str, state: Health, episode: &Episode) -> Target {
        let (global, at) = episode.from;
        let mut headline = vec![format!("{name} became {state} at {at} (commit {global})")];
        headline.extend(episode.reasons.iter().map(|reason| format!("because {reason}")));
        headline.push(match episode.until {
            Some((global, left)) => {
                let lasted = span(left.since(at));
                format!("it was so for {lasted}, until {left} (commit {global})")
            }
            None => format!("it was still so at commit {}", self.past.position),
        });
        let until = episode.until.map(|(_, at)| at);
        Target { headline, commit: episode.commit, from: at, until, cause: episode.cause }
    }

    /// The positions from a commit back to where it began.
    fn chain(&self, from: u64) -> Vec<u64> {
        let mut chain = vec![from];
        while let Some(parent) = chain.last().and_then(|at| self.parents.get(*at as usize)) {
            if *parent == 0 || chain.len() == LINKS_MAX || chain.contains(parent) {
                break;
            }
            chain.push(*parent);
        }
        chain
    }

    fn read_again(
        &self,
        history: &mut History,
        chain: &[u64],
        target: &Target,
    ) -> Result<Read, HistoryError> {
        let mut read = Read::default();
        let wanted: BTreeSet<u64> = chain.iter().copied().collect();
        history.each(|found| {
            let Ok(Recorded { commit, .. }) = found else { return ControlFlow::Continue(()) };
            if self.past.position < commit.global {
                return ControlFlow::Break(());
            }
            if target.is_near(commit.at) && fails_for(&commit, target.cause) {
                read.others.insert(commit.stream.id);
            }
            if wanted.contains(&commit.global) {
                read.commits.insert(commit.global, commit);
            }
            ControlFlow::Continue(())
        })?;
        Ok(read)
    }

    fn answer(&self, target: &Target, chain: &[u64], read: &Read) -> Explanation {
        let mut links = Vec::new();
        for position in chain {
            let Some(commit) = read.commits.get(position) else { break };
            let has_parent = self.parents.get(*position as usize).is_some_and(|it| *it != 0);
            let origin = self.origin(commit, has_parent);
            let ends = origin.is_some();
            links.push(Link {
                seq: *position,
                at: commit.at.to_string(),
                command: command_in_words(commit, &self.past.name(commit.stream), &self.titles),
                events: events_in_words(commit, &self.titles),
                origin,
            });
            if ends {
                break;
            }
        }
        Explanation {
            what: target.headline.clone(),
            meanwhile: self.meanwhile(target, &links, read),
            uncertain: self.uncertain(read),
            chain: links,
        }
    }

    /// Why a commit is where the chain begins, if it is.
    fn origin(&self, commit: &Commit, has_parent: bool) -> Option<String> {
        if let Entry::Vm { command: Command::Wake { wake: Wake::Cycle(_), .. }, .. } = &commit.entry
        {
            let vm = self.past.vm(commit.stream.id);
            let every = vm.map_or(0, |vm| vm.policy.copy_frequency_s);
            return Some(format!("the policy asks for a delta every {every} s"));
        }
        match commit.actor.as_str() {
            "monitor" => Some("a monitor saw it; what was before is outside of the log".to_owned()),
            _ if has_parent => None,
            "agent" | "timer" => {
                Some("no commit says what led to it, as after a restart of the service".to_owned())
            }
            "supervisor" => Some("the supervisor did it on its own".to_owned()),
            "configuration" => Some("the configuration asks for it at each start".to_owned()),
            actor => Some(format!("{actor} asked for it")),
        }
    }

    fn meanwhile(&self, target: &Target, links: &[Link], read: &Read) -> Vec<String> {
        let mut lines = Vec::new();
        let root = links.last().and_then(|link| read.commits.get(&link.seq));
        let from = root.map_or(target.from, |commit| commit.at.min(target.from));
        let until = target.until.unwrap_or(target.from).after(NEARBY);
        for spell in &self.spells {
            let over = spell.until.is_some_and(|(_, end)| end < from);
            if spell.from.1 <= until && !over {
                lines.push(self.spell_told(spell));
            }
        }
        let own = read.commits.get(&target.commit).map(|commit| commit.stream.id);
        let others: Vec<String> = read
            .others
            .iter()
            .filter(|id| Some(**id) != own)
            .map(|id| self.past.name(StreamId { kind: Kind::Vm, id: *id }))
            .collect();
        if !others.is_empty() {
            lines.push(format!("for the same cause failed: {}", others.join(", ")));
        }
        lines
    }

    fn spell_told(&self, spell: &Spell) -> String {
        let what = match spell.stream.kind {
            Kind::Vault => "could not be reached",
            Kind::Host | Kind::Vm | Kind::Cloud | Kind::Plan | Kind::Fabric => "did not answer",
        };
        let (kind, name) = (spell.stream.kind.name(), self.past.name(spell.stream));
        let (global, from) = spell.from;
        let end = match spell.until {
            Some((global, until)) => {
                let lasted = span(until.since(from));
                format!("until {} (commit {global}), {lasted}", clock(until))
            }
            None => "and still did not".to_owned(),
        };
        let because = &spell.because;
        format!("{kind} {name} {what} from {} (commit {global}) {end}: {because}", clock(from))
    }

    fn uncertain(&self, read: &Read) -> Vec<String> {
        let mut lines = Damage::told(&self.past.damage);
        let streams: BTreeSet<StreamId> = read.commits.values().map(|it| it.stream).collect();
        for stream in streams {
            if let Some(since) = self.past.incomplete.get(&stream) {
                let name = self.past.name(stream);
                lines.push(format!("commits of {name} are missing before commit {since}"));
            }
        }
        lines
    }
}

impl Target {
    fn is_near(&self, at: Timestamp) -> bool {
        let until = self.until.unwrap_or(self.from).after(NEARBY);
        self.from <= at.after(NEARBY) && at <= until
    }
}

fn fails_for(commit: &Commit, cause: Option<Cause>) -> bool {
    let (Some(cause), Entry::Vm { events, .. }) = (cause, &commit.entry) else { return false };
    cause != Cause::Itself
        && events.iter().any(
            |event| matches!(event, Event::RetryScheduled { because, .. } if because.cause == cause),
        )
}

/// The effect whose end, or progress, a command reports.
fn reported_on(command: &Command, vm: &Vm) -> Option<Effect> {
    match command {
        Command::Wake { due, wake } => Some(Effect::WakeAt { due: *due, wake: *wake }),
        Command::ReportDone { .. }
        | Command::ReportProgress { .. }
        | Command::ReportSnapshot { .. }
        | Command::ReportQuiescedSnapshot { .. }
        | Command::ReportShipped { .. } => vm.work().map(Effect::Do),
        Command::ReportFailure { work, .. } => Some(vm::Effect::Do(*work)),
        Command::ReportTrackingLost { first_cycle, .. } => {
            Some(Effect::WatchTracking { first_cycle: *first_cycle })
        }
        Command::ReportLogVolume { .. } => {
            Some(Effect::WatchTracking { first_cycle: vm.delta.chain_first_cycle })
        }
        Command::ReportSpace { .. } => Some(Effect::ReclaimSpace),
        Command::Retry { because: RetryReason::CauseEnded(Cause::Vault(vault)) } => {
            Some(Effect::AwaitVault { vault: *vault })
        }
        Command::ReportLeft { host } => Some(Effect::KeepOff { host: *host }),
        _ => None,
    }
}

fn positions(last: u64) -> String {
    if last == 0 { "has no commits".to_owned() } else { format!("has positions 1 to {last}") }
}

/// Damage behind an answer, a line each.
fn but_damaged(damage: &[Damage]) -> String {
    Damage::told(damage).iter().fold(String::new(), |text, it| format!("{text}\n  damaged: {it}"))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
