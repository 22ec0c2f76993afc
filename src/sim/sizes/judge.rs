//! The log of a run and what is said of it: its hash, the figures of every VM, and the invariants.

use crate::domain::entity::{Commit, Entity, Entry};
use crate::domain::time::Timestamp;
use crate::domain::vm::{Event, Vm};
use crate::sim::ghost::{Invariant, Violation};
use crate::sim::observer::{Figures, Observer, WINDOW_MS};
use crate::store::payload;

/// Commits that are kept to be read; a longer log is only hashed.
const KEPT: usize = 200_000;

/// VMs whose commits are decided again and folded beside the run: at least so many, spread over all.
const SAMPLED: usize = 16;

/// Violations that are kept: one is enough, and a run may have very many.
const VIOLATIONS_MAX: usize = 50;

/// Bytes that are hashed at a time: many chunks, which the hash takes side by side.
const HASHED_AT_ONCE: usize = 256 << 10;

pub(super) struct Judge {
    pub(super) figures: Vec<Figures>,
    /// Sampled VMs as the log tells them.
    folded: Vec<Option<Box<Vm>>>,
    /// Commits of each VM in the present window of time.
    lately: Vec<(u64, u64)>,
    hasher: blake3::Hasher,
    unhashed: Vec<u8>,
    commits: u64,
    log: Vec<Commit>,
    violations: Vec<Violation>,
}

impl Judge {
    pub(super) fn new(vms: usize) -> Self {
        let every = vms.div_ceil(SAMPLED).max(1);
        Self {
            figures: vec![Figures::default(); vms],
            folded: (0..vms).map(|vm| vm.is_multiple_of(every).then(Box::default)).collect(),
            lately: vec![(0, 0); vms],
            hasher: blake3::Hasher::new_derive_key("lifeboat 2026 simulated event log"),
            unhashed: Vec::new(),
            commits: 0,
            log: Vec::new(),
            violations: Vec::new(),
        }
    }

    pub(super) const fn commits(&self) -> u64 {
        self.commits
    }

    pub(super) fn violation(&mut self, at_ms: u64, invariant: Invariant, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { invariant, at_ms, what });
        }
    }

    /// Looks at a VM before events become true. A recovery point that is late is never as late as just before
    /// the next one.
    pub(super) fn before(&mut self, vm: usize, state: &Vm, events: &[Event], at: Timestamp) {
        let shipped = events.iter().any(|event| matches!(event, Event::LogShipped { .. }));
        let late = state.policy.copy_frequency() * 2;
        if shipped && state.latest_point().is_some_and(|point| late < at.since(point.at)) {
            self.figures[vm].seen(state.health(at));
        }
    }

    /// Looks at a VM after a commit; answers whether that was one of its everyday life.
    pub(super) fn after(&mut self, vm: usize, state: &Vm, commit: &Commit, now: u64) -> bool {
        let Entry::Vm { events, .. } = &commit.entry else { return true };
        let mut calm = true;
        for event in events {
            calm &= matches!(
                event,
                Event::CycleStarted { .. }
                    | Event::SnapshotTaken { .. }
                    | Event::LogShipped { .. }
                    | Event::RecoveryPointsExpired { .. }
                    | Event::RecoveryPointsThinned { .. }
            );
            if let Err(after_s) = self.figures[vm].note(event, commit.at, now, false) {
                let name = &state.name;
                let what = format!("attempt of {name} due {after_s} s after the first failure");
                self.violation(now, Invariant::RetrySchedule, what);
            }
        }
        if state.trouble.is_none() {
            self.figures[vm].out_of_trouble();
        }
        if !calm {
            self.figures[vm].seen(state.health(commit.at));
        }
        self.bound(vm, state, now);
        self.decide_again(vm, commit, now);
        calm
    }

    fn bound(&mut self, vm: usize, state: &Vm, now: u64) {
        let lately = &mut self.lately[vm];
        if lately.0 != now / WINDOW_MS {
            *lately = (now / WINDOW_MS, 0);
        }
        lately.1 += 1;
        let commits = lately.1;
        if commits == self.figures[vm].commits_allowed(Some(state)) + 1 {
            let what =
                format!("{} made more than {} commits in 10 minutes", state.name, commits - 1);
            self.violation(now, Invariant::Bounded, what);
        }
        if self.figures[vm].points_allowed(state) < state.points.len() as u64 {
            let what = format!("{} keeps {} recovery points", state.name, state.points.len());
            self.violation(now, Invariant::Bounded, what);
        }
    }

    /// Decides a commit of a sampled VM again, from the state that its log tells, and folds it in.
    fn decide_again(&mut self, vm: usize, commit: &Commit, now: u64) {
        let Some(folded) = &mut self.folded[vm] else { return };
        let Entry::Vm { command, events } = &commit.entry else { return };
        let again = folded.decide(command, commit.at);
        for event in events {
            folded.apply(event, commit.at);
        }
        if again.as_ref() != Ok(events) {
            let what =
                format!("commit {} of {}: deciding gives {again:?}", commit.seq, commit.stream);
            self.violation(now, Invariant::RedecideEqualsLog, what);
        }
    }

    /// Takes the next commit into the log.
    pub(super) fn keep(&mut self, commit: &Commit) {
        self.commits += 1;
        let Commit { actor, correlation, causation, entry, .. } = commit;
        let bytes = &mut self.unhashed;
        bytes.push(commit.stream.kind as u8);
        bytes.extend_from_slice(commit.stream.id.as_bytes());
        bytes.extend_from_slice(&commit.seq.to_le_bytes());
        bytes.extend_from_slice(&commit.at.as_millis().to_le_bytes());
        // Its length goes before it.
        let length_at = bytes.len();
        bytes.extend_from_slice(&[0; 8]);
        payload::encode_into(bytes, actor, *correlation, *causation, entry);
        let length = (bytes.len() - length_at - 8) as u64;
        bytes[length_at..length_at + 8].copy_from_slice(&length.to_le_bytes());
        if HASHED_AT_ONCE <= bytes.len() {
            self.hasher.update(bytes);
            bytes.clear();
        }
        if self.commits <= KEPT as u64 {
            self.log.push(commit.clone());
        } else {
            self.log = Vec::new();
        }
    }

    /// The run is over.
    pub(super) fn end(&mut self, vm: usize, state: &Vm, now: u64, at: Timestamp) {
        self.figures[vm].end(state, now);
        self.figures[vm].seen(state.health(at));
        if let Err(what) = Observer::settled(state, at) {
            self.violation(now, Invariant::Convergence, what);
        }
        if let Err(what) = Observer::job_says_why(state) {
            self.violation(now, Invariant::JobsEnd, what);
        }
        if self.folded[vm].as_deref().is_some_and(|folded| folded != state) {
            let what = format!("{} is not what its log tells", state.name);
            self.violation(now, Invariant::ReplayEqualsLive, what);
        }
    }

    /// Hash, kept commits and violations.
    pub(super) fn close(&mut self) -> (String, Vec<Commit>, Vec<Violation>) {
        let unhashed = std::mem::take(&mut self.unhashed);
        let hash = self.hasher.update(&unhashed).finalize().to_hex().to_string();
        (hash, std::mem::take(&mut self.log), std::mem::take(&mut self.violations))
    }
}
