//! What both drivers of a fleet act on: the world, the log with what it tells of every entity, and what is due.

use super::calls::Call;
use super::judge::Judge;
use super::world::{ANSWER_MS, Begun, World};
use crate::domain::entity::{Commit, Entity, Entry, Kind, NewCommit, StreamId};
use crate::domain::failure::Failure;
use crate::domain::id::DiskId;
use crate::domain::vm::{Effect, Outcome, ResyncReason, Vm};
use crate::domain::{cloud::Cloud, host::Host, vault::Vault};
use crate::ports::event_store::StoreError;
use crate::sim::dice::keyed;
use crate::sim::ghost::Invariant;
use crate::sim::run::TWO_PRIMARIES_MS;
use crate::sim::scenario::{Scenario, Schedule};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use uuid::Uuid;

/// Time between two looks at a tracker that may lose track, and at VMs that run as replicas, in milliseconds.
const LOOK_MS: u64 = 10_000;

/// Looks at a tracker that are left out at most: those of a day.
const LOOKS_LEFT_OUT_MAX: u64 = 24 * 60 * 6;

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: u64,
    /// Decides between what is due at one moment, where the schedule is shuffled.
    tie: u64,
    what: What,
}

/// What is due. Of what is due at the same moment, the order is that of the variants, then that of their fields: it
/// depends on nothing that one driver could do in another order than the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// A moment that a VM waits for, as the supervisor's timers have them: by when they were due, then by VM.
    Alarm { due_ms: i64, rank: usize, nth: u64 },
    /// Work of a VM goes on after a pause.
    Pause { vm: usize, nth: u64 },
    /// A change of the timeline.
    Change(usize),
    /// The faults have ended; an administrator comes.
    Administrator,
    /// A look at VMs that may not run at both sites.
    Look,
    /// A host answers, or does not.
    Heartbeat { host: usize, nth: u64 },
    /// The vault answers, or does not.
    Probe { nth: u64 },
    /// A call for a VM ends.
    Call { vm: usize, call: Call, nth: u64 },
}

/// An entity as its log tells it.
pub(super) struct Stream<E> {
    pub(super) id: StreamId,
    pub(super) state: E,
    /// The last commit.
    pub(super) seq: u64,
}

impl<E: Entity> Stream<E> {
    fn new(id: Uuid) -> Self {
        Self { id: StreamId { kind: E::KIND, id }, state: E::default(), seq: 0 }
    }
}

pub(super) struct Site {
    pub(super) world: World,
    pub(super) judge: Judge,
    pub(super) vms: Vec<Stream<Vm>>,
    pub(super) hosts: Vec<Stream<Host>>,
    pub(super) vault: Stream<Vault>,
    pub(super) cloud: Stream<Cloud>,
    places: BTreeMap<Uuid, usize>,
    queue: BinaryHeap<Reverse<Due>>,
    counted: u64,
    /// The seed, where the schedule is shuffled.
    shuffles: Option<u64>,
    /// The look at the tracker of each VM that is due.
    looks: Vec<u64>,
    /// VMs whose replica runs, and for how long they have run at both sites, in milliseconds.
    replicas: BTreeMap<usize, u64>,
}

impl Site {
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Self {
        let world = World::new(scenario, seed);
        let vms: Vec<_> = world.guests.iter().map(|guest| Stream::new(guest.id.0)).collect();
        let places = vms.iter().map(|vm: &Stream<Vm>| vm.id.id).zip(0..).collect();
        Self {
            judge: Judge::new(vms.len()),
            hosts: world.hosts.iter().map(|host| Stream::new(host.id.0)).collect(),
            vault: Stream::new(world.vault.0),
            cloud: Stream::new(World::cloud().0),
            places,
            queue: BinaryHeap::new(),
            counted: 0,
            shuffles: (scenario.schedule == Schedule::Shuffle).then_some(seed),
            looks: vec![0; vms.len()],
            replicas: BTreeMap::new(),
            vms,
            world,
        }
    }

    /// The place of a VM among all.
    pub(super) fn place(&self, vm: Uuid) -> Option<usize> {
        self.places.get(&vm).copied()
    }

    /// The place of a VM that is known to be there.
    pub(super) fn known(&self, vm: Uuid) -> usize {
        self.place(vm).expect("work is done only for VMs of the site")
    }

    /// VMs in the order of their ids.
    pub(super) fn ids(&self) -> impl Iterator<Item = (Uuid, usize)> {
        self.places.iter().map(|(id, vm)| (*id, *vm))
    }

    /// The place of a host among all.
    pub(super) fn host(&self, id: Uuid) -> Option<usize> {
        self.hosts.iter().position(|host| host.id.id == id)
    }
}

/// What is due.
impl Site {
    /// Notes what is due at a moment; answers its number.
    fn push(&mut self, at: u64, what: impl FnOnce(u64) -> What) -> u64 {
        self.counted += 1;
        let what = what(self.counted);
        let tie = self.shuffles.map_or(0, |seed| shuffled(seed ^ at.rotate_left(24), what));
        self.queue.push(Reverse(Due { at, tie, what }));
        self.counted
    }

    /// The number of something that is due at once.
    pub(super) const fn number(&mut self) -> u64 {
        self.counted += 1;
        self.counted
    }

    pub(super) fn push_change(&mut self, at: u64, what: What) {
        self.push(at, |_| what);
    }

    pub(super) fn push_alarm(&mut self, at: u64, due_ms: i64, rank: usize) -> u64 {
        self.push(at, |nth| What::Alarm { due_ms, rank, nth })
    }

    pub(super) fn push_pause(&mut self, at: u64, vm: usize) -> u64 {
        self.push(at, |nth| What::Pause { vm, nth })
    }

    /// A host is asked whether it is there.
    pub(super) fn push_heartbeat(&mut self, after: u64, host: usize) -> u64 {
        self.push(self.world.now + after + ANSWER_MS, |nth| What::Heartbeat { host, nth })
    }

    /// The vault is asked whether it is there.
    pub(super) fn push_probe(&mut self, after: u64) -> u64 {
        self.push(self.world.now + after + ANSWER_MS, |nth| What::Probe { nth })
    }

    /// When something is due next.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse(due)| due.at)
    }

    /// What is due next, and the rest is not.
    pub(super) fn peek(&self) -> Option<(u64, What)> {
        self.queue.peek().map(|Reverse(due)| (due.at, due.what))
    }

    pub(super) fn pop(&mut self) -> Option<What> {
        self.queue.pop().map(|Reverse(due)| due.what)
    }
}

/// The place of something among all that is due at its moment.
fn shuffled(seed: u64, what: What) -> u64 {
    let who = match what {
        What::Heartbeat { host, .. } => host as u64,
        What::Probe { .. } => u64::from(u32::MAX),
        What::Call { vm, call, .. } => ((vm as u64) << 8 | call as u64) << 32,
        // As they come, and before all else.
        What::Alarm { .. }
        | What::Pause { .. }
        | What::Change(_)
        | What::Administrator
        | What::Look => return 0,
    };
    keyed(seed, "what is due", who) | 1
}

/// Calls for VMs.
impl Site {
    /// Begins a call; answers its number, by which it is due when it ends.
    pub(super) fn begin_call(
        &mut self,
        vm: usize,
        call: Call,
        disk: Option<DiskId>,
    ) -> (u64, Begun) {
        let (begun, takes) = self.world.begin(vm, &self.vms[vm].state, call, disk);
        let call = begun.call;
        let nth = if call == Call::Heartbeat {
            self.push_heartbeat(0, self.world.guests[vm].host)
        } else {
            self.push(self.world.now + takes, |nth| What::Call { vm, call, nth })
        };
        (nth, begun)
    }

    /// Ends a call.
    ///
    /// # Errors
    /// What kept it from being done.
    pub(super) fn end_call(&mut self, vm: usize, begun: Begun) -> Result<Outcome, Failure> {
        let mut broken = Vec::new();
        let done = self.world.end(vm, &self.vms[vm].state, begun, &mut broken);
        for (invariant, what) in broken {
            self.judge.violation(self.world.now, invariant, what);
        }
        done
    }

    /// Begins to look at the tracker of a VM; answers the number of the first look.
    pub(super) fn watch_tracker(&mut self, vm: usize) -> u64 {
        self.look_at_tracker(vm, ANSWER_MS)
    }

    /// Why the tracker of a VM lost track, or else the number of the next look.
    ///
    /// # Errors
    /// The number of the next look, where it did not.
    pub(super) fn tracking_lost(&mut self, vm: usize) -> Result<ResyncReason, u64> {
        let lost = self.world.tracking_lost(vm);
        lost.ok_or_else(|| self.look_at_tracker(vm, self.next_look(vm)))
    }

    /// Time to the next look at a tracker: that by which it could have lost track, since faults are looked at
    /// when they happen. A shuffled schedule has each look take its turn.
    fn next_look(&self, vm: usize) -> u64 {
        let looks = if self.shuffles.is_some() { 1 } else { self.world.tracks_for(vm) / LOOK_MS };
        looks.clamp(1, LOOKS_LEFT_OUT_MAX) * LOOK_MS
    }

    fn look_at_tracker(&mut self, vm: usize, after: u64) -> u64 {
        let at = self.world.now + after;
        self.looks[vm] = self.push(at, |nth| What::Call { vm, call: Call::Look, nth });
        self.looks[vm]
    }

    /// The look at its tracker that a VM has before it, where the next would find something.
    pub(super) fn broken_tracker(&self, vm: usize) -> Option<What> {
        self.world.tracking_lost(vm)?;
        Some(What::Call { vm, call: Call::Look, nth: self.looks[vm] })
    }

    /// Looks at VMs that may not run at both sites.
    pub(super) fn look_at_replicas(&mut self) {
        for (vm, for_ms) in &mut self.replicas {
            *for_ms = if self.world.runs_twice(*vm) { *for_ms + LOOK_MS } else { 0 };
            if *for_ms == TWO_PRIMARIES_MS {
                let what =
                    format!("{} has run at both sites for 5 minutes", self.vms[*vm].state.name);
                self.judge.violation(self.world.now, Invariant::OnePrimary, what);
            }
        }
        self.push(self.world.now + LOOK_MS, |_| What::Look);
    }
}

/// The log.
impl Site {
    /// Appends a commit, which is durable at once.
    ///
    /// # Errors
    /// [`StoreError::WrongSequence`] where the stream has moved on, [`StoreError::WrongKind`] where nobody has it.
    pub(super) fn append(&mut self, commit: NewCommit) -> Result<Commit, StoreError> {
        let stream = commit.stream;
        let place = self.place_of(stream);
        let head = place.map(|place| self.seq(stream.kind, place));
        if head != Some(commit.expected_seq) {
            let expected = commit.expected_seq;
            let unknown = StoreError::WrongKind { stream, kind: commit.entry.kind() };
            let moved = |actual| StoreError::WrongSequence { expected, actual };
            return Err(head.map_or(unknown, moved));
        }
        let place = place.unwrap_or(0);
        Ok(match stream.kind {
            Kind::Vm => self.append_of_vm(place, commit),
            Kind::Host => append_of_other(&mut self.judge, &mut self.hosts[place], commit),
            Kind::Cloud => append_of_other(&mut self.judge, &mut self.cloud, commit),
            _ => append_of_other(&mut self.judge, &mut self.vault, commit),
        })
    }

    /// The place of a stream among those of its kind; `None` for one that nobody has.
    fn place_of(&self, stream: StreamId) -> Option<usize> {
        match stream.kind {
            Kind::Vm => self.place(stream.id),
            Kind::Host => self.host(stream.id),
            Kind::Cloud => (stream == self.cloud.id).then_some(0),
            Kind::Vault => (stream == self.vault.id).then_some(0),
            Kind::Plan | Kind::Fabric => None,
        }
    }

    /// The last commit of a stream that is there.
    fn seq(&self, kind: Kind, place: usize) -> u64 {
        match kind {
            Kind::Vm => self.vms[place].seq,
            Kind::Host => self.hosts[place].seq,
            Kind::Cloud => self.cloud.seq,
            Kind::Vault | Kind::Plan | Kind::Fabric => self.vault.seq,
        }
    }

    /// Appends a commit of a VM that was decided on its last one.
    pub(super) fn append_of_vm(&mut self, vm: usize, commit: NewCommit) -> Commit {
        let commit = numbered(commit, &self.judge);
        let stream = &mut self.vms[vm];
        if let Entry::Vm { events, .. } = &commit.entry {
            self.judge.before(vm, &stream.state, events, commit.at);
            for event in events {
                stream.state.apply(event, commit.at);
            }
        }
        stream.seq = commit.seq;
        let is_everyday = self.judge.after(vm, &stream.state, &commit, self.world.now);
        self.judge.keep(&commit);
        if stream.state.may_run_at_primary() {
            self.world.switch_on(vm);
        }
        if !is_everyday {
            if stream.state.calls_for(&Effect::RunReplica) {
                self.replicas.entry(vm).or_default();
            } else {
                self.replicas.remove(&vm);
            }
        }
        commit
    }

    /// The last commit of a stream; `None` for one that nobody has.
    pub(super) fn head(&self, stream: StreamId) -> Option<u64> {
        self.place_of(stream).map(|place| self.seq(stream.kind, place))
    }

    /// Every stream that has commits, with its last one, in order.
    pub(super) fn streams(&self) -> Vec<(StreamId, u64)> {
        let vms = self.ids().map(|(_, vm)| (self.vms[vm].id, self.vms[vm].seq));
        let hosts = self.hosts.iter().map(|host| (host.id, host.seq));
        let others = [(self.cloud.id, self.cloud.seq), (self.vault.id, self.vault.seq)];
        let mut all: Vec<_> = vms.chain(hosts).chain(others).filter(|it| 0 < it.1).collect();
        all.sort_unstable();
        all
    }
}

fn append_of_other<E: Entity>(
    judge: &mut Judge,
    stream: &mut Stream<E>,
    commit: NewCommit,
) -> Commit {
    let commit = numbered(commit, judge);
    if let Some((_, events)) = E::of(&commit.entry) {
        for event in events {
            stream.state.apply(event, commit.at);
        }
    }
    stream.seq = commit.seq;
    judge.keep(&commit);
    commit
}

fn numbered(commit: NewCommit, judge: &Judge) -> Commit {
    let NewCommit { stream, expected_seq, at, actor, correlation, causation, entry } = commit;
    let (seq, global) = (expected_seq + 1, judge.commits() + 1);
    Commit { stream, seq, global, at, actor, correlation, causation, entry }
}
