//! The world behind the ports: a data plane and hypervisors that keep to a script, remember every call,
//! and check what must never be.

use super::virtual_clock::{Fate, VirtualClock};
use async_trait::async_trait;
use lifeboat::actors::load_entity;
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::{Entity, Kind, StreamId};
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::{DiskId, HostId, VaultId, VmId};
use lifeboat::domain::job::{JobKind, Step};
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{
    AddedDisk, Effect, FailoverKind, Phase, RecoveryPoint, ResyncReason, Side, Vm, Work,
};
use lifeboat::ports::clock::Clock;
use lifeboat::ports::event_store::EventStore;
use lifeboat::ports::hypervisor::Hypervisor;
use lifeboat::ports::replication::{
    Compared, LogVolume, Progress, Replication, Restore, ServedDisk, Snapshot,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

/// An operation of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Op {
    CheckSource,
    ProbeVault,
    ReachVault,
    CheckVault,
    StartTracking,
    CopyDisk,
    CompareDisk,
    CompleteCopy,
    Snapshot,
    Ship,
    ShipThrough,
    Verify,
    Fence,
    Serve,
    KeepOnly,
    ReclaimSpace,
    TrackingLost,
    Heartbeat,
    ShutDown,
    SwitchOff,
    /// Shutting a source down again and again, for as long as its replica runs.
    KeepOff,
    Start,
    StopServing,
    ServeTest,
    DropTest,
    RestoreDisk,
    TrackRestored,
    StopTracking,
    DeleteReplica,
    Attach,
    ShutDownReplica,
    StartSource,
    StartTest,
    StopTest,
    Freeze,
    Thaw,
    LengthenDisk,
    FitDisks,
    CheckRoom,
    CheckImage,
    CheckDownload,
    DownloadDisk,
    LeaveVault,
}

impl Op {
    /// Whether it is done for a piece of work alone, and so never twice at a time.
    const fn is_work(self) -> bool {
        !matches!(
            self,
            Self::ProbeVault
                | Self::ReachVault
                | Self::Verify
                | Self::Serve
                | Self::Start
                | Self::ReclaimSpace
                | Self::KeepOff
                | Self::TrackingLost
                | Self::Heartbeat
                | Self::Freeze
                | Self::Thaw
                // A test has nothing to do with the VM's own work.
                | Self::ServeTest
                | Self::DropTest
                | Self::StartTest
                | Self::StopTest
        )
    }

    fn is_called_for_by(self, work: Option<Work>) -> bool {
        match (self, work) {
            (Self::Snapshot, Some(Work::Snapshot { .. }))
            | (Self::Ship, Some(Work::Ship { .. })) => true,
            (_, Some(Work::Task { step, .. })) => match self {
                Self::CheckSource => matches!(
                    step,
                    Step::CheckEnableProtection
                        | Step::CheckPlannedFailover
                        | Step::CheckReverseReplicate
                        | Step::CheckResize
                        | Step::CheckAddDisk
                ),
                Self::CheckVault => matches!(
                    step,
                    Step::IdentifyTarget
                        | Step::CheckPlannedFailover
                        | Step::CheckFailback
                        | Step::CheckReverseReplicate
                        | Step::CheckResize
                        | Step::CheckAddDisk
                ),
                Self::CheckRoom => step == Step::CheckFailback,
                Self::CheckImage => step == Step::CheckAddDisk,
                Self::LengthenDisk => matches!(step, Step::GrowDisk(_)),
                Self::FitDisks => matches!(
                    step,
                    Step::OfferGrownDisk(_) | Step::OfferAddedDisk(_) | Step::RestartTracking
                ),
                Self::StartTracking => {
                    matches!(step, Step::EnableReplication | Step::RestartTracking)
                }
                Self::CopyDisk => matches!(step, Step::CopyDisk(_)),
                Self::CompareDisk => matches!(step, Step::CompareDisk(_)),
                Self::CompleteCopy => step == Step::CompleteCopy,
                Self::ShipThrough => {
                    matches!(
                        step,
                        Step::ApplyTrackedChanges
                            | Step::SendBeforeResize
                            | Step::PrepareForFailover
                            | Step::FenceSource
                    )
                }
                Self::Fence => matches!(
                    step,
                    Step::FenceSource
                        | Step::FenceReplica
                        | Step::PrepareForFailover
                        | Step::RestartTracking
                ),
                Self::StopServing => step == Step::DeleteReplicaDisks,
                Self::RestoreDisk => matches!(step, Step::RestoreDisk(_)),
                Self::TrackRestored => step == Step::TrackRestored,
                Self::StopTracking => step == Step::StopTracking,
                Self::DeleteReplica => step == Step::DeleteReplica,
                Self::CheckDownload => step == Step::CheckDisable,
                Self::DownloadDisk => matches!(step, Step::DownloadDisk(_)),
                Self::LeaveVault => step == Step::LeaveVault,
                Self::Attach => matches!(step, Step::AttachSource | Step::StartSource),
                Self::ShutDownReplica => {
                    matches!(step, Step::ShutDownReplica | Step::StartFailover)
                }
                Self::StartSource => step == Step::StartSource,
                Self::KeepOnly => step == Step::DropOtherPoints,
                Self::ShutDown => {
                    matches!(step, Step::ShutDownSource | Step::FenceSource | Step::StartReplica)
                }
                Self::SwitchOff => matches!(step, Step::FenceSource | Step::StartReplica),
                _ => false,
            },
            _ => false,
        }
    }
}

/// What becomes of a call.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// It succeeds after this long.
    After(Duration),
    /// It fails at once.
    Fail(Failure),
    /// It fails after this long.
    FailAfter(Duration, Failure),
    /// It fails, unless the one before it did.
    FailEverySecond(Failure),
    /// It never ends by itself.
    Hang,
    /// It panics.
    Panic,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Succeeded,
    Failed,
    /// Whoever called stopped waiting.
    Dropped,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) op: Op,
    pub(crate) of: Uuid,
    pub(crate) began: Duration,
    pub(crate) ended: Option<(Duration, End)>,
}

/// What there is of a VM outside.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) tracking_lost: Option<ResyncReason>,
    pub(crate) log_volume_short: Option<Failure>,
    tracked: bool,
    copied: BTreeSet<DiskId>,
    /// What each comparison was told is done.
    pub(crate) compared_from: Vec<u64>,
    copy_complete: bool,
    cuts: BTreeMap<u64, Snapshot>,
    pub(crate) points: BTreeMap<u64, RecoveryPoint>,
    pub(crate) fenced: bool,
    /// The epoch of the last fence.
    fence: u64,
    pub(crate) runs_at_primary: bool,
    pub(crate) runs_at_recovery: bool,
    pub(crate) runs_test: bool,
    pub(crate) test_served: bool,
    pub(crate) attached: bool,
    /// The cycle that each disk of the primary site was brought to.
    pub(crate) restored: BTreeMap<DiskId, u64>,
    pub(crate) frozen: bool,
    /// What is on the disks of each site.
    pub(crate) disks: Disks,
    /// The host of the primary site that has its disks; the first one that they are attached to, or asked of.
    pub(crate) host: Option<HostId>,
    /// The disks of the recovery site that need nothing of the vault.
    whole: BTreeSet<DiskId>,
    /// How long their images are, and as how large they are offered, where they were resized.
    pub(crate) lengths: BTreeMap<DiskId, u64>,
    pub(crate) offered: BTreeMap<DiskId, u64>,
}

/// What a disk holds: the runs of the guest that wrote to it, each up to a moment. A guest writes all the time.
pub(crate) type Contents = Vec<(u32, Duration)>;

/// What is on the disks of a VM, and in its recovery points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disks {
    pub(crate) primary: Contents,
    pub(crate) recovery: Contents,
    served: Option<u64>,
    runs: u32,
    cuts: BTreeMap<u64, Contents>,
    pub(crate) points: BTreeMap<u64, Contents>,
}

impl Disks {
    fn of(&mut self, side: Side) -> &mut Contents {
        match side {
            Side::Primary => &mut self.primary,
            Side::Recovery => &mut self.recovery,
        }
    }

    /// The guest boots.
    fn boot(&mut self, side: Side, now: Duration) {
        self.runs += 1;
        let run = self.runs;
        self.of(side).push((run, now));
    }
}

impl Facts {
    /// What the guests that run have written by now.
    fn write(&mut self, now: Duration) {
        if self.disks.runs == 0 {
            self.disks.boot(Side::Primary, now);
        }
        for (side, runs) in
            [(Side::Primary, self.runs_at_primary), (Side::Recovery, self.runs_at_recovery)]
        {
            if let (true, Some(last)) = (runs, self.disks.of(side).last_mut()) {
                last.1 = now;
            }
        }
    }

    /// What the disks of a site hold at this moment.
    fn contents(&mut self, side: Side, now: Duration) -> Contents {
        self.write(now);
        self.disks.of(side).clone()
    }

    /// A guest is switched on, or off.
    pub(crate) fn switch(&mut self, side: Side, on: bool, now: Duration) {
        self.write(now);
        let runs = match side {
            Side::Primary => &mut self.runs_at_primary,
            Side::Recovery => &mut self.runs_at_recovery,
        };
        if std::mem::replace(runs, on) != on && on {
            self.disks.boot(side, now);
        }
    }
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            tracking_lost: None,
            log_volume_short: None,
            tracked: false,
            copied: BTreeSet::new(),
            compared_from: Vec::new(),
            copy_complete: false,
            cuts: BTreeMap::new(),
            points: BTreeMap::new(),
            fenced: false,
            fence: 0,
            runs_at_primary: true,
            runs_at_recovery: false,
            runs_test: false,
            test_served: false,
            attached: true,
            restored: BTreeMap::new(),
            frozen: false,
            disks: Disks::default(),
            host: None,
            whole: BTreeSet::new(),
            lengths: BTreeMap::new(),
            offered: BTreeMap::new(),
        }
    }
}

/// The outside world.
pub(crate) struct Outside {
    clock: Arc<VirtualClock>,
    fate: Arc<Fate>,
    /// The log that work is checked against; without one it is not checked.
    log: Option<Arc<dyn EventStore>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    next: BTreeMap<(Uuid, Op), VecDeque<Answer>>,
    standing: BTreeMap<(Uuid, Op), Answer>,
    facts: BTreeMap<VmId, Facts>,
    failed_last: BTreeSet<(Uuid, Op)>,
    under_way: BTreeSet<(Uuid, Op)>,
    violations: Vec<String>,
    latency: Duration,
    tracking_look: Duration,
    forgets_calls: bool,
    refuses_lost_chains: bool,
}

/// A call that is under way.
struct UnderWay<'a> {
    outside: &'a Outside,
    index: usize,
    op: Op,
    of: Uuid,
    end: End,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let at = self.outside.clock.elapsed();
        let mut state = self.outside.state.lock().unwrap();
        if let Some(call) = state.calls.get_mut(self.index) {
            call.ended = Some((at, self.end));
        }
        state.under_way.remove(&(self.of, self.op));
    }
}

impl Outside {
    pub(crate) fn new(
        clock: Arc<VirtualClock>,
        fate: Arc<Fate>,
        log: Option<Arc<dyn EventStore>>,
    ) -> Self {
        let state = State {
            latency: Duration::from_millis(200),
            tracking_look: Duration::from_secs(1),
            ..State::default()
        };
        Self { clock, fate, log, state: Mutex::new(state) }
    }

    /// The next calls do this, one after the other; then the standing answer counts.
    pub(crate) fn script(&self, of: Uuid, op: Op, next: impl IntoIterator<Item = Answer>) {
        self.state.lock().unwrap().next.entry((of, op)).or_default().extend(next);
    }

    /// All calls from here on do this.
    pub(crate) fn always(&self, of: Uuid, op: Op, answer: Answer) {
        self.state.lock().unwrap().standing.insert((of, op), answer);
    }

    /// Of two calls the first fails, over and over.
    pub(crate) fn fail_once_each(&self, of: Uuid, op: Op, failure: Failure) {
        let mut state = self.state.lock().unwrap();
        state.standing.insert((of, op), Answer::FailEverySecond(failure));
    }

    /// All calls from here on succeed.
    pub(crate) fn heal(&self, of: Uuid, op: Op) {
        let mut state = self.state.lock().unwrap();
        state.standing.remove(&(of, op));
        state.next.remove(&(of, op));
    }

    /// How long a call takes that nothing else was said of.
    pub(crate) fn set_latency(&self, latency: Duration) {
        self.state.lock().unwrap().latency = latency;
    }

    /// Keeps no calls and hardly looks for lost tracking; for runs with many VMs.
    pub(crate) fn relax(&self) {
        let mut state = self.state.lock().unwrap();
        state.forgets_calls = true;
        state.tracking_look = Duration::from_hours(1);
    }

    /// A chain of logs that was lost is not cut any more.
    pub(crate) fn refuse_lost_chains(&self) {
        self.state.lock().unwrap().refuses_lost_chains = true;
    }

    fn chain(&self, vm: &Vm) -> Result<(), Failure> {
        let refuses = self.state.lock().unwrap().refuses_lost_chains;
        match self.facts(vm.id).tracking_lost {
            Some(reason) if refuses => {
                Err(Failure::new(Code::LogChainBroken, Cause::Itself, reason))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.lock().unwrap().calls.clone()
    }

    /// The calls of one operation on one thing.
    pub(crate) fn calls_of(&self, of: Uuid, op: Op) -> Vec<Call> {
        let calls = self.calls().into_iter();
        calls.filter(|call| (call.of, call.op) == (of, op)).collect()
    }

    /// When they began.
    pub(crate) fn began(&self, of: Uuid, op: Op) -> Vec<Duration> {
        self.calls_of(of, op).into_iter().map(|call| call.began).collect()
    }

    pub(crate) fn facts(&self, vm: VmId) -> Facts {
        self.state.lock().unwrap().facts.get(&vm).cloned().unwrap_or_default()
    }

    pub(crate) fn change(&self, vm: VmId, change: impl FnOnce(&mut Facts)) {
        change(self.state.lock().unwrap().facts.entry(vm).or_default());
    }

    /// What must never be and was.
    #[track_caller]
    pub(crate) fn check(&self) {
        assert_eq!(self.state.lock().unwrap().violations, Vec::<String>::new());
    }

    fn violated(&self, what: String) {
        self.state.lock().unwrap().violations.push(what);
    }

    fn begin(&self, of: Uuid, op: Op) -> UnderWay<'_> {
        let mut state = self.state.lock().unwrap();
        if op.is_work() {
            let busy: Vec<_> = state
                .under_way
                .iter()
                .filter(|(other, _)| *other == of)
                .map(|(_, op)| *op)
                .collect();
            if !busy.is_empty() {
                state.violations.push(format!("{op:?} began during {busy:?}"));
            }
            state.under_way.insert((of, op));
        }
        let index = state.calls.len();
        if !state.forgets_calls {
            let call = Call { op, of, began: self.clock.elapsed(), ended: None };
            state.calls.push(call);
        }
        drop(state);
        if let (true, Some(log)) = (op.is_work(), &self.log) {
            let stream = StreamId { kind: Kind::Vm, id: of };
            let (vm, _) = load_entity::<Vm>(&**log, stream).unwrap();
            if !op.is_called_for_by(vm.work()) {
                self.violated(format!("{op:?} began, but the log calls for {:?}", vm.work()));
            }
        }
        UnderWay { outside: self, index, op, of, end: End::Dropped }
    }

    /// Makes a call: `effect` is what it does to the world, at its end.
    async fn call<T>(&self, of: Uuid, op: Op, effect: impl FnOnce() -> T) -> Result<T, Failure> {
        self.call_with_middle(of, op, || {}, effect).await
    }

    async fn call_with_middle<T>(
        &self,
        of: Uuid,
        op: Op,
        middle: impl FnOnce(),
        effect: impl FnOnce() -> T,
    ) -> Result<T, Failure> {
        let mut under_way = self.begin(of, op);
        self.fate.instant(|| format!("{op:?} begins")).await;
        match self.answer(of, op) {
            Answer::After(latency) => {
                pause(latency / 2).await;
                middle();
                pause(latency - latency / 2).await;
            }
            Answer::FailAfter(latency, failure) => {
                pause(latency).await;
                under_way.end = End::Failed;
                return Err(failure);
            }
            Answer::Fail(failure) | Answer::FailEverySecond(failure) => {
                under_way.end = End::Failed;
                return Err(failure);
            }
            Answer::Hang => std::future::pending().await,
            Answer::Panic => panic!("{op:?} panics"),
        }
        let result = effect();
        self.fate.instant(|| format!("{op:?} ends")).await;
        under_way.end = End::Succeeded;
        Ok(result)
    }

    fn answer(&self, of: Uuid, op: Op) -> Answer {
        let mut state = self.state.lock().unwrap();
        let next = state.next.get_mut(&(of, op)).and_then(VecDeque::pop_front);
        let answer = next.or_else(|| state.standing.get(&(of, op)).cloned());
        match answer {
            Some(Answer::FailEverySecond(_)) if state.failed_last.remove(&(of, op)) => {
                Answer::After(state.latency)
            }
            Some(Answer::FailEverySecond(failure)) => {
                state.failed_last.insert((of, op));
                Answer::Fail(failure)
            }
            Some(answer) => answer,
            None => Answer::After(state.latency),
        }
    }

    /// Does something to what there is of a VM.
    fn with<T>(&self, vm: &Vm, change: impl FnOnce(&mut Facts, Timestamp) -> T) -> T {
        let now = self.clock.now();
        change(self.state.lock().unwrap().facts.entry(vm.id).or_default(), now)
    }

    fn expect(&self, holds: bool, what: &str) {
        if !holds {
            self.violated(what.to_owned());
        }
    }

    fn is_whole(&self, vm: &Vm) -> bool {
        let whole = self.facts(vm.id).whole;
        vm.disks.iter().all(|disk| whole.contains(&disk.id))
    }

    fn has_point(&self, vm: &Vm, point: RecoveryPoint) -> bool {
        self.facts(vm.id).points.contains_key(&point.cycle)
    }
}

async fn pause(latency: Duration) {
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}

fn add_point(facts: &mut Facts, cycle: u64, at: Timestamp) -> RecoveryPoint {
    let contents = facts.disks.cuts.get(&cycle).cloned().unwrap_or_default();
    facts.disks.points.entry(cycle).or_insert(contents);
    *facts.points.entry(cycle).or_insert(RecoveryPoint { cycle, at, bytes: 4096 })
}

/// Cuts the logs, unless that was done before. What the guest wrote since then is in the next cut.
fn cut(vm: &Vm, facts: &mut Facts, cycle: u64, at: Timestamp, now: Duration) -> Snapshot {
    let contents = facts.contents(vm.source, now);
    facts.disks.cuts.entry(cycle).or_insert(contents);
    *facts.cuts.entry(cycle).or_insert(Snapshot { at, log_bytes: 8192, fresh: false })
}

fn ship_through(
    vm: &Vm,
    facts: &mut Facts,
    last: u64,
    (at, now): (Timestamp, Duration),
) -> Vec<RecoveryPoint> {
    let known = vm.latest_point().map_or(0, |point| point.cycle);
    let first = vm.delta.chain_first_cycle.max(known + 1);
    let before = facts.cuts.contains_key(&last);
    cut(vm, facts, last, at, now);
    let all = facts.contents(vm.source, now);
    let runs = match vm.source {
        Side::Primary => facts.runs_at_primary,
        Side::Recovery => facts.runs_at_recovery,
    };
    // An earlier attempt made that cut, and the guest has written since and writes no more.
    let last = if before && !runs && facts.disks.cuts.get(&last) != Some(&all) {
        cut(vm, facts, last + 1, at, now);
        last + 1
    } else {
        last
    };
    let cuts: Vec<_> =
        facts.cuts.range(first..=last).map(|(cycle, cut)| (*cycle, cut.at)).collect();
    cuts.into_iter().map(|(cycle, at)| add_point(facts, cycle, at)).collect()
}

#[async_trait]
impl Replication for Outside {
    async fn check_source(&self, vm: &Vm) -> Result<(), Failure> {
        self.call(vm.id.0, Op::CheckSource, || {}).await
    }

    async fn probe_vault(&self, vault: VaultId) -> Result<(), Failure> {
        self.call(vault.0, Op::ProbeVault, || {}).await
    }

    async fn reach_vault(&self, vm: &Vm) -> Result<(), Failure> {
        self.call(vm.id.0, Op::ReachVault, || {}).await
    }

    async fn check_vault(&self, vm: &Vm) -> Result<(), Failure> {
        self.call(vm.id.0, Op::CheckVault, || {}).await
    }

    async fn start_tracking(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || {
            self.with(vm, |facts, _| {
                facts.tracking_lost = None;
                facts.tracked = true;
                if vm.points.is_empty() || vm.resync.suspect.is_some() {
                    facts.copied.clear();
                    facts.copy_complete = false;
                }
                facts.cuts.clear();
                facts.disks.cuts.clear();
            });
        };
        self.call(vm.id.0, Op::StartTracking, effect).await
    }

    async fn copy_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        progress: Progress<'_>,
    ) -> Result<u64, Failure> {
        let effect = || {
            self.expect(self.facts(vm.id).tracked, "a disk is copied untracked");
            self.with(vm, |facts, _| facts.copied.insert(disk));
            1 << 20
        };
        self.call_with_middle(vm.id.0, Op::CopyDisk, || progress(1 << 19, 1 << 20), effect).await
    }

    async fn compare_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        done_bytes: u64,
        progress: Progress<'_>,
    ) -> Result<Compared, Failure> {
        self.with(vm, |facts, _| facts.compared_from.push(done_bytes));
        let effect = || {
            let facts = self.facts(vm.id);
            self.expect(facts.tracked, "a disk is compared untracked");
            let has_copy = facts.copy_complete || !facts.points.is_empty();
            self.expect(has_copy, "a disk is compared with nothing");
            // With what is there of an earlier copy, where one was not completed.
            self.with(vm, |facts, _| facts.copy_complete = true);
            if let Some(added) = vm.added_range(disk) {
                let tracked = facts.offered.get(&disk) == Some(&added.end);
                self.expect(tracked, "what was added is compared before it is tracked");
            }
            Compared { compared_bytes: 1 << 20, different_bytes: 4096 }
        };
        self.call_with_middle(vm.id.0, Op::CompareDisk, || progress(1 << 19, 1 << 20), effect).await
    }

    async fn complete_copy(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || {
            let copied = self.with(vm, |facts, _| {
                facts.copy_complete = true;
                facts.copied.len()
            });
            self.expect(copied == vm.disks.len(), "a copy is complete without all disks");
        };
        self.call(vm.id.0, Op::CompleteCopy, effect).await
    }

    async fn snapshot(&self, vm: &Vm, cycle: u64) -> Result<Snapshot, Failure> {
        let effect = || {
            self.with(vm, |facts, at| {
                let fresh = !facts.cuts.contains_key(&cycle);
                Snapshot { fresh, ..cut(vm, facts, cycle, at, self.clock.elapsed()) }
            })
        };
        self.chain(vm)?;
        self.call(vm.id.0, Op::Snapshot, effect).await
    }

    async fn ship(&self, vm: &Vm, cycle: u64, snapshot_at: Timestamp) -> Result<u64, Failure> {
        let effect = || {
            let (is_cut, copy_complete, fence) = self.with(vm, |facts, _| {
                let cut = facts.cuts.get(&cycle).map(|cut| cut.at);
                (cut == Some(snapshot_at), facts.copy_complete, facts.fence)
            });
            self.expect(is_cut, "a delta is sent that was not cut");
            self.expect(copy_complete, "a delta is sent without a copy");
            self.expect(fence <= vm.epoch, "a delta is sent past the fence");
            self.with(vm, |facts, _| add_point(facts, cycle, snapshot_at).bytes)
        };
        self.call(vm.id.0, Op::Ship, effect).await
    }

    async fn ship_through(&self, vm: &Vm, last_cycle: u64) -> Result<Vec<RecoveryPoint>, Failure> {
        let effect = || {
            let now = self.clock.elapsed();
            self.with(vm, |facts, at| ship_through(vm, facts, last_cycle, (at, now)))
        };
        self.chain(vm)?;
        self.call(vm.id.0, Op::ShipThrough, effect).await
    }

    async fn verify(&self, vm: &Vm, point: RecoveryPoint) -> Result<(), Failure> {
        let effect =
            || self.expect(self.has_point(vm, point), "a point is proven that is not there");
        self.call(vm.id.0, Op::Verify, effect).await
    }

    async fn fence(&self, vm: &Vm) -> Result<Vec<RecoveryPoint>, Failure> {
        let effect = || {
            let known = vm.latest_point().map_or(0, |point| point.cycle);
            self.with(vm, |facts, _| {
                facts.fenced = true;
                facts.fence = vm.epoch + 1;
                facts.points.range(known + 1..).map(|(_, point)| *point).collect()
            })
        };
        self.call(vm.id.0, Op::Fence, effect).await
    }

    async fn serve(&self, vm: &Vm, point: RecoveryPoint) -> Result<Vec<ServedDisk>, Failure> {
        let effect = || {
            let there = vm.has_left_vault() || self.has_point(vm, point);
            if !there && self.is_whole(vm) {
                // By somebody who does not know yet that it has left its vault.
                return Err(Failure::new(Code::ReplicaInvalid, Cause::Itself, "its point is gone"));
            }
            self.expect(there, "a point is served that is not there");
            self.with(vm, |facts, _| {
                if facts.disks.served != Some(point.cycle) {
                    facts.disks.served = Some(point.cycle);
                    facts.whole.clear();
                    let contents = facts.disks.points.get(&point.cycle).cloned();
                    facts.disks.recovery = contents.unwrap_or_default();
                }
            });
            let disks = vm.disks.iter().map(|disk| disk.id);
            Ok(disks.map(|disk| ServedDisk { disk, uri: format!("nbd:///{disk}") }).collect())
        };
        self.call(vm.id.0, Op::Serve, effect).await?
    }

    async fn stop_serving(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || {
            let runs = self.facts(vm.id).runs_at_recovery;
            self.expect(!runs, "the disks of a running replica are deleted");
            self.with(vm, |facts, _| facts.disks.served = None);
        };
        self.call(vm.id.0, Op::StopServing, effect).await
    }

    async fn serve_test(&self, vm: &Vm, point: RecoveryPoint) -> Result<Vec<ServedDisk>, Failure> {
        let effect = || {
            self.expect(self.has_point(vm, point), "a point is tested that is not there");
            self.with(vm, |facts, _| facts.test_served = true);
            let disks = vm.disks.iter().map(|disk| disk.id);
            disks.map(|disk| ServedDisk { disk, uri: format!("nbd:///test-{disk}") }).collect()
        };
        self.call(vm.id.0, Op::ServeTest, effect).await
    }

    async fn end_test(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || {
            let runs = self.with(vm, |facts, _| {
                facts.test_served = false;
                facts.runs_test
            });
            self.expect(!runs, "the disks of a running test are deleted");
        };
        self.call(vm.id.0, Op::DropTest, effect).await
    }

    async fn restore_disk(
        &self,
        vm: &Vm,
        restore: Restore,
        progress: Progress<'_>,
    ) -> Result<Compared, Failure> {
        let effect = || {
            let facts = self.facts(vm.id);
            self.expect(facts.attached, "a disk is restored that is not attached");
            self.expect(!facts.runs_at_primary, "a disk is restored under a running VM");
            self.expect(self.has_point(vm, restore.point), "a disk is restored from no point");
            let before = facts.restored.get(&restore.disk).copied();
            let from = restore.from.map(|point| point.cycle);
            self.expect(from <= before, "a disk is brought on from where it is not");
            self.with(vm, |facts, _| {
                facts.restored.insert(restore.disk, restore.point.cycle);
                let contents = facts.disks.points.get(&restore.point.cycle).cloned();
                facts.disks.primary = contents.unwrap_or_default();
            });
            Compared { compared_bytes: 1 << 20, different_bytes: 4096 }
        };
        self.call_with_middle(vm.id.0, Op::RestoreDisk, || progress(1 << 19, 1 << 20), effect).await
    }

    async fn track_restored(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || {
            let latest = vm.latest_point().map(|point| point.cycle);
            let facts = self.facts(vm.id);
            let all = vm.disks.iter().all(|disk| facts.restored.get(&disk.id).copied() == latest);
            self.expect(all, "a disk is tracked as restored that is not");
            self.expect(!facts.runs_at_recovery, "tracking moves while the replica runs");
            self.with(vm, |facts, _| {
                facts.cuts.clear();
                facts.disks.cuts.clear();
                facts.tracking_lost = None;
                facts.fenced = false;
            });
        };
        self.call(vm.id.0, Op::TrackRestored, effect).await
    }

    async fn stop_tracking(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || {
            self.with(vm, |facts, _| {
                facts.tracked = false;
                facts.cuts.clear();
                facts.disks.cuts.clear();
            });
        };
        self.call(vm.id.0, Op::StopTracking, effect).await
    }

    async fn check_download(&self, vm: &Vm) -> Result<(), Failure> {
        self.call(vm.id.0, Op::CheckDownload, || {}).await
    }

    async fn download_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let effect = || {
            let served = self.with(vm, |facts, _| {
                facts.whole.insert(disk);
                facts.disks.served.is_some()
            });
            self.expect(served, "a disk is downloaded that is not served");
        };
        self.call_with_middle(vm.id.0, Op::DownloadDisk, || progress(1 << 19, 1 << 20), effect)
            .await
    }

    async fn leave_vault(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || self.expect(self.is_whole(vm), "the vault is left with what a disk lacks");
        self.call(vm.id.0, Op::LeaveVault, effect).await
    }

    async fn delete_replica(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || {
            let facts = self.facts(vm.id);
            self.expect(!facts.test_served, "a replica is deleted under a test");
            let is_on_it = facts.runs_at_recovery && !(vm.has_left_vault() && self.is_whole(vm));
            self.expect(!is_on_it, "a replica is deleted under its VM");
            self.with(vm, |facts, _| {
                facts.points.clear();
                facts.disks.points.clear();
                facts.copied.clear();
                facts.copy_complete = false;
            });
        };
        self.call(vm.id.0, Op::DeleteReplica, effect).await
    }

    async fn keep_only(&self, vm: &Vm, point: RecoveryPoint) -> Result<(), Failure> {
        let effect =
            || self.with(vm, |facts, _| facts.points.retain(|cycle, _| *cycle == point.cycle));
        self.call(vm.id.0, Op::KeepOnly, effect).await
    }

    async fn reclaim_space(&self, vm: &Vm) -> Result<(), Failure> {
        self.call(vm.id.0, Op::ReclaimSpace, || {}).await
    }

    async fn tracking_lost(&self, vm: &Vm, log_volume: LogVolume<'_>) -> ResyncReason {
        let mut told = None;
        loop {
            let short = self.with(vm, |facts, _| facts.log_volume_short.clone());
            if told.as_ref() != Some(&short) {
                log_volume(short.clone());
                told = Some(short);
            }
            if let Some(reason) = self.with(vm, |facts, _| facts.tracking_lost.clone()) {
                return reason;
            }
            // Without a script it is never lost; the answer of a script is over at once.
            assert!(!self.scripted_panic(vm.id.0, Op::TrackingLost), "the tracker panics");
            let look_again = self.state.lock().unwrap().tracking_look;
            tokio::time::sleep(look_again).await;
        }
    }
}

impl Outside {
    fn scripted_panic(&self, of: Uuid, op: Op) -> bool {
        let mut state = self.state.lock().unwrap();
        let next = state.next.get_mut(&(of, op)).and_then(VecDeque::pop_front);
        matches!(next, Some(Answer::Panic))
    }
}

/// The hypervisor of a site.
pub(crate) struct Guests {
    pub(crate) outside: Arc<Outside>,
    pub(crate) side: Side,
}

impl Guests {
    /// Whether the disks of a VM are at another host than the one that is meant.
    fn is_elsewhere(&self, vm: &Vm) -> bool {
        self.outside.facts(vm.id).host.is_some_and(|host| host != vm.host)
    }
}

#[async_trait]
impl Hypervisor for Guests {
    async fn heartbeat(&self, host: HostId) -> Result<(), Failure> {
        self.outside.call(host.0, Op::Heartbeat, || {}).await
    }

    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || {
            let now = self.outside.clock.elapsed();
            let is_elsewhere = self.side == Side::Primary && self.is_elsewhere(vm);
            if !is_elsewhere {
                self.outside.with(vm, |facts, _| facts.switch(self.side, false, now));
            }
        };
        let op = match self.side {
            Side::Recovery => Op::ShutDownReplica,
            Side::Primary if vm.left.contains(&vm.host) => Op::KeepOff,
            Side::Primary if vm.pending().contains(&Effect::RunReplica) => Op::KeepOff,
            Side::Primary => Op::ShutDown,
        };
        self.outside.call(vm.id.0, op, effect).await
    }

    async fn switch_off(&self, vm: &Vm) -> Result<(), Failure> {
        let keeps_off = vm.pending().contains(&Effect::RunReplica) || vm.left.contains(&vm.host);
        let op = if keeps_off { Op::KeepOff } else { Op::SwitchOff };
        let effect = || {
            if !self.is_elsewhere(vm) {
                self.outside.with(vm, |facts, _| facts.runs_at_primary = false);
            }
        };
        self.outside.call(vm.id.0, op, effect).await
    }

    async fn start(&self, vm: &Vm, disks: &[ServedDisk]) -> Result<(), Failure> {
        if self.side == Side::Primary {
            let effect = || {
                let now = self.outside.clock.elapsed();
                let whole = self.outside.with(vm, |facts, _| brought_back(vm, facts, now));
                self.outside.expect(whole, "a failback loses what the VM wrote");
                let safe = self.outside.with(vm, |facts, _| {
                    facts.switch(Side::Primary, true, now);
                    facts.fenced = false;
                    facts.attached && !facts.runs_at_recovery
                });
                self.outside.expect(safe, "a VM runs at both sites again");
            };
            return self.outside.call(vm.id.0, Op::StartSource, effect).await;
        }
        let effect = || {
            let now = self.outside.clock.elapsed();
            let whole = self.outside.with(vm, |facts, _| moved_whole(vm, facts, now));
            self.outside.expect(whole, "a planned failover loses what the VM wrote");
            let safe = self.outside.with(vm, |facts, _| {
                facts.switch(Side::Recovery, true, now);
                !facts.runs_at_primary || facts.fenced
            });
            self.outside.expect(safe, "a VM runs at both sites");
            self.outside.expect(disks.len() == vm.disks.len(), "a VM starts without all disks");
        };
        self.outside.call(vm.id.0, Op::Start, effect).await
    }

    async fn check_room(&self, vm: &Vm) -> Result<(), Failure> {
        self.outside.call(vm.id.0, Op::CheckRoom, || {}).await
    }

    async fn attach(&self, vm: &Vm) -> Result<(), Failure> {
        let now = self.outside.clock.elapsed();
        let effect = || {
            self.outside.with(vm, |facts, _| {
                facts.attached = true;
                if facts.host.replace(vm.host).is_some_and(|before| before != vm.host) {
                    // Nothing is on the disks that are made for it.
                    facts.restored.clear();
                }
                // Whoever still uses the disks is cut off.
                if vm.source == Side::Recovery {
                    facts.switch(Side::Primary, false, now);
                }
            });
        };
        self.outside.call(vm.id.0, Op::Attach, effect).await
    }

    async fn lengthen_disk(&self, vm: &Vm, disk: DiskId, bytes: u64) -> Result<(), Failure> {
        let effect = || {
            self.outside.with(vm, |facts, _| facts.lengths.insert(disk, bytes));
        };
        self.outside.call(vm.id.0, Op::LengthenDisk, effect).await
    }

    async fn check_image(&self, vm: &Vm, disk: &AddedDisk) -> Result<(), Failure> {
        let is_new = vm.disks.iter().all(|own| own.id != disk.disk.id);
        let effect = || self.outside.expect(is_new, "an image is looked at that is a disk already");
        self.outside.call(vm.id.0, Op::CheckImage, effect).await
    }

    async fn fit_disks(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || {
            let sizes = vm.disks.iter().map(|disk| (disk.id, disk.size_bytes));
            let long = self.outside.with(vm, |facts, _| {
                facts.offered = sizes.collect();
                let longer = |(disk, length)| facts.offered.get(disk) <= Some(length);
                facts.lengths.iter().all(longer)
            });
            self.outside.expect(long, "a disk is offered larger than its image");
        };
        self.outside.call(vm.id.0, Op::FitDisks, effect).await
    }

    async fn start_test(&self, vm: &Vm, disks: &[ServedDisk], _: &str) -> Result<(), Failure> {
        let effect = || {
            self.outside.with(vm, |facts, _| facts.runs_test = true);
            let apart = disks.iter().all(|disk| disk.uri.contains("test-"));
            self.outside.expect(apart, "a test runs on the disks of the VM");
        };
        self.outside.call(vm.id.0, Op::StartTest, effect).await
    }

    async fn end_test(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || self.outside.with(vm, |facts, _| facts.runs_test = false);
        self.outside.call(vm.id.0, Op::StopTest, effect).await
    }

    async fn freeze(&self, vm: &Vm, _: Duration) -> Result<(), Failure> {
        let effect = || self.outside.with(vm, |facts, _| facts.frozen = true);
        self.outside.call(vm.id.0, Op::Freeze, effect).await
    }

    async fn thaw(&self, vm: &Vm) -> Result<(), Failure> {
        let effect = || self.outside.with(vm, |facts, _| facts.frozen = false);
        self.outside.call(vm.id.0, Op::Thaw, effect).await
    }
}

/// Whether a planned failover that starts its VM brings everything that was written.
fn moved_whole(vm: &Vm, facts: &mut Facts, now: Duration) -> bool {
    let planned = vm.phase == Phase::FailingOver(FailoverKind::Planned);
    let changes = vm.job.as_ref().is_some_and(|job| job.kind == JobKind::ChangeRecoveryPoint);
    let written = facts.contents(Side::Primary, now);
    !planned || changes || facts.runs_at_recovery || written == facts.disks.recovery
}

/// Whether a failback that starts its VM brings back everything that was written.
fn brought_back(vm: &Vm, facts: &mut Facts, now: Duration) -> bool {
    let completes = vm.job.as_ref().is_some_and(|job| job.kind == JobKind::CompleteFailback);
    let written = facts.contents(Side::Recovery, now);
    !completes || facts.runs_at_primary || written == facts.disks.primary
}

/// A failure of the link to a vault.
pub(crate) fn link_down(vault: VaultId) -> Failure {
    Failure::new(Code::LinkDown, Cause::Vault(vault), "connection refused")
        .with("target", "the vault")
        .with("operation", "a delta")
}

/// A host that does not answer.
pub(crate) fn host_lost(host: HostId) -> Failure {
    Failure::new(Code::HostLost, Cause::Host(host), "no route").with("host", host)
}

/// Credentials that the vault does not take.
pub(crate) fn credentials_refused(vault: VaultId) -> Failure {
    Failure::new(Code::AuthenticationFailed, Cause::Vault(vault), "401")
}
