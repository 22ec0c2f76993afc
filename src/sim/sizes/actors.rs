//! A fleet by the actors of the service, under virtual time: the ports are made of sizes and rates.

use super::Service;
use super::calls::Call;
use super::site::{Site, Stream, What};
use crate::actors::{self, Hosted, Origin};
use crate::domain::entity::{Commit, Entity, Entry, Kind, NewCommit, StreamId};
use crate::domain::failure::Failure;
use crate::domain::id::{DiskId, HostId, VaultId};
use crate::domain::plan::Probe;
use crate::domain::time::Timestamp;
use crate::domain::vm::{Outcome, RecoveryPoint, ResyncReason, Vm};
use crate::ports::actions::{Actions, Ended};
use crate::ports::clock::Clock;
use crate::ports::event_store::{self, EventStore, StoreError};
use crate::ports::hypervisor::Hypervisor;
use crate::ports::replication::{
    Compared, LogVolume, Progress, Replication, Restore, ServedDisk, Snapshot,
};
use crate::sim::clock::SimClock;
use crate::sim::driver::State;
use crate::sim::driver::actors::{state, tell};
use crate::sim::ghost::Invariant;
use crate::sim::run::{RunError, WATCH_INTERVAL};
use async_trait::async_trait;
use futures_util::task::AtomicWaker;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::DerefMut;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio::time::{Sleep, sleep_until};

/// Space is not modelled: nobody comes to free any.
const NEVER: Duration = Duration::from_hours(100 * 365 * 24);

/// The site, as the ports reach it.
struct Shared {
    site: Mutex<Site>,
    clock: Arc<SimClock>,
    /// Whoever waits for something that is due, by its number.
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

impl Shared {
    fn site(&self) -> MutexGuard<'_, Site> {
        self.site.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when something is due.
    async fn turn(&self, nth: u64) {
        let mut waits = false;
        poll_fn(|context| {
            let mut waiting = self.waiting();
            if waits && !waiting.contains_key(&nth) {
                return Poll::Ready(());
            }
            waits = true;
            waiting.insert(nth, context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn call(&self, vm: &Vm, call: Call, disk: Option<DiskId>) -> Result<Outcome, Failure> {
        self.called(vm, call, disk, |_, _, outcome| outcome).await
    }

    /// Calls, and looks at the site once that has been done.
    async fn called<T>(
        &self,
        vm: &Vm,
        call: Call,
        disk: Option<DiskId>,
        look: impl FnOnce(&Site, usize, Outcome) -> T,
    ) -> Result<T, Failure> {
        let (place, nth, begun) = {
            let mut site = self.site();
            let place = site.known(vm.id.0);
            let (nth, begun) = site.begin_call(place, call, disk);
            (place, nth, begun)
        };
        self.turn(nth).await;
        let mut site = self.site();
        let outcome = site.end_call(place, begun)?;
        Ok(look(&site, place, outcome))
    }

    async fn done(&self, vm: &Vm, call: Call) -> Result<(), Failure> {
        self.call(vm, call, None).await.map(drop)
    }
}

pub(super) struct ActorService {
    // In this order they are dropped: what runs, then what it runs on.
    service: Option<actors::Site>,
    tasks: LocalSet,
    sleep: Option<Pin<Box<Sleep>>>,
    shared: Arc<Shared>,
    woken: Arc<Woken>,
    waker: Waker,
    runtime: Runtime,
}

/// Whether a task has something to do, and who else is to be told.
#[derive(Default)]
struct Woken {
    any: AtomicBool,
    outside: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.any.store(true, Ordering::Relaxed);
        self.outside.wake();
    }
}

impl Drop for ActorService {
    fn drop(&mut self) {
        self.kill();
    }
}

impl ActorService {
    pub(super) fn new(site: Site) -> Result<Self, RunError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        let clock = runtime.block_on(async { Arc::new(SimClock::new()) });
        let woken = Arc::new(Woken::default());
        Ok(Self {
            service: None,
            tasks: LocalSet::new(),
            sleep: None,
            shared: Arc::new(Shared { site: Mutex::new(site), clock, waiting: Mutex::default() }),
            waker: Waker::from(Arc::clone(&woken)),
            woken,
            runtime,
        })
    }

    /// Runs every task until all wait.
    fn settle(&mut self) {
        let _context = self.runtime.enter();
        settle(&mut self.tasks, &self.waker, &self.woken);
    }

    /// Does something beside the actors, which must need no time.
    fn asked<T: 'static>(&mut self, asking: impl Future<Output = T> + 'static) -> Option<T> {
        let answer = Rc::new(RefCell::new(None));
        let own = Rc::clone(&answer);
        self.tasks.spawn_local(async move {
            let answered = asking.await;
            *own.borrow_mut() = Some(answered);
        });
        self.woken.any.store(true, Ordering::Relaxed);
        self.settle();
        answer.take()
    }

    fn broken(&self, invariant: Invariant, what: String) {
        let mut site = self.shared.site();
        let now = site.world.now;
        site.judge.violation(now, invariant, what);
    }
}

fn settle(tasks: &mut LocalSet, waker: &Waker, woken: &Woken) {
    while woken.any.swap(false, Ordering::Relaxed) {
        // Ready where there are no tasks, which is nothing to act on.
        _ = Pin::new(&mut *tasks).poll(&mut Context::from_waker(waker));
    }
}

impl Service for ActorService {
    fn site(&mut self) -> impl DerefMut<Target = Site> {
        self.shared.site()
    }

    fn start(&mut self) {
        let ports = Ports(Arc::clone(&self.shared));
        let world = Arc::new(actors::World {
            store: Arc::new(Log(Arc::clone(&self.shared))),
            clock: Arc::clone(&self.shared.clock) as Arc<dyn Clock>,
            replication: Arc::new(ports.clone()),
            primary: Arc::new(ports.clone()),
            recovery: Arc::new(Recovery(Arc::clone(&self.shared))),
            actions: Arc::new(ports),
            watch_interval: WATCH_INTERVAL,
            reclaim_interval: NEVER,
        });
        self.service = self.asked(async { actors::Site::start(world) });
        // What the actors began as soon as they were there.
        self.settle();
    }

    fn kill(&mut self) {
        let _context = self.runtime.enter();
        (self.service, self.tasks) = (None, LocalSet::new());
        self.shared.waiting().clear();
    }

    fn tell(&mut self, stream: StreamId, command: Entry, who: &str) -> Result<(), String> {
        let Some(service) = &self.service else { return Ok(()) };
        let telling = tell(service.clone(), stream, command, Origin::of(who));
        match self.asked(telling) {
            Some(told) => told.map(drop).map_err(|error| error.to_string()),
            None => Err(format!("{stream} does not answer")),
        }
    }

    fn next(&mut self, until: u64) -> Option<What> {
        let Self { tasks, sleep, shared, woken, waker, runtime, .. } = self;
        let next_at = || shared.site().next_at().unwrap_or(u64::MAX).min(until);
        let now = shared.site().world.now;
        if now < next_at() {
            runtime.block_on(poll_fn(|context| {
                // Time passes only while everybody sleeps.
                shared.clock.thaw();
                shared.clock.freeze();
                woken.outside.register(context.waker());
                loop {
                    let now = shared.clock.passed_ms();
                    shared.site().world.now = now;
                    settle(tasks, waker, woken);
                    let at = next_at();
                    if at <= now {
                        return Poll::Ready(());
                    }
                    let moment = shared.clock.moment(at);
                    let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(moment)));
                    if sleep.deadline() != moment {
                        sleep.as_mut().reset(moment);
                    }
                    if sleep.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }));
            woken.outside.take();
        }
        let mut site = shared.site();
        let at = site.next_at().filter(|at| *at <= site.world.now && *at <= until);
        at.and_then(|_| site.pop())
    }

    fn due(&mut self, what: What) {
        let (What::Heartbeat { nth, .. } | What::Probe { nth } | What::Call { nth, .. }) = what
        else {
            return;
        };
        let wake = self.shared.waiting().remove(&nth);
        if let Some(wake) = wake {
            wake.wake();
            self.settle();
        }
    }

    fn look_back(&mut self) {
        let Some(service) = self.service.clone() else { return };
        if let Some(because) = service.failed().borrow().clone() {
            self.broken(Invariant::Convergence, format!("the service failed: {because}"));
        }
        let streams: Vec<_> = self.shared.site().vms.iter().map(|vm| vm.id).collect();
        for (place, stream) in streams.into_iter().enumerate() {
            let state = self.asked(state(service.clone(), stream)).flatten();
            let told = State::from(self.shared.site().vms[place].state.clone());
            if state != Some(told) {
                let what = format!("{stream} is not what its log tells");
                self.broken(Invariant::ReplayEqualsLive, what);
            }
        }
    }
}

/// The log as the event store port: a stream is kept as what it came to.
struct Log(Arc<Shared>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("durable", &self.durable()).finish_non_exhaustive()
    }
}

#[async_trait]
impl EventStore for Log {
    async fn append(&self, commit: NewCommit) -> Result<Commit, StoreError> {
        self.0.site().append(commit)
    }

    fn read_stream(
        &self,
        stream: StreamId,
        from_seq: u64,
        _: usize,
    ) -> Result<Vec<Commit>, StoreError> {
        let head = self.0.site().head(stream).unwrap_or(0);
        if from_seq <= head { Err(not_kept()) } else { Ok(vec![]) }
    }

    fn read_all(&self, from_global: u64, _: usize) -> Result<Vec<Commit>, StoreError> {
        if from_global <= self.durable() { Err(not_kept()) } else { Ok(vec![]) }
    }

    fn replay(&self, from_global: u64, _: &mut dyn FnMut(Commit)) -> Result<(), StoreError> {
        self.read_all(from_global, 0).map(drop)
    }

    fn streams(&self) -> Result<Vec<(StreamId, u64)>, StoreError> {
        Ok(self.0.site().streams())
    }

    fn durable(&self) -> u64 {
        self.0.site().judge.commits()
    }

    async fn durable_after(&self, global: u64) -> Result<u64, StoreError> {
        let durable = self.durable();
        if durable <= global {
            // Nobody follows the log of a run.
            std::future::pending::<()>().await;
        }
        Ok(durable)
    }

    /// What it would be, the log tells.
    fn save_snapshot(&self, _: event_store::Snapshot) -> Result<(), StoreError> {
        Ok(())
    }

    fn snapshot(
        &self,
        stream: StreamId,
        schema: u16,
    ) -> Result<Option<event_store::Snapshot>, StoreError> {
        let site = self.0.site();
        let id = stream.id;
        Ok(match stream.kind {
            Kind::Vm => site.place(id).and_then(|vm| told(&site.vms[vm], schema)),
            Kind::Host => site.host(id).and_then(|host| told(&site.hosts[host], schema)),
            Kind::Cloud => told(&site.cloud, schema),
            Kind::Vault => told(&site.vault, schema),
            Kind::Plan | Kind::Fabric => None,
        })
    }
}

/// Whoever loads an entity begins with the state that its whole stream came to.
fn not_kept() -> StoreError {
    let because = "of a fleet's log only what it came to is kept".to_owned();
    StoreError::Stopped { because }
}

/// What the log tells of an entity, as the snapshot of its state.
fn told<E: Hosted + Entity>(stream: &Stream<E>, schema: u16) -> Option<event_store::Snapshot> {
    if stream.seq == 0 || schema != E::STATE_SCHEMA {
        return None;
    }
    let state = bincode::serde::encode_to_vec(&stream.state, bincode::config::standard()).ok()?;
    Some(event_store::Snapshot { stream: stream.id, seq: stream.seq, schema, state })
}

/// The data plane, the primary site, and what recovery plans would do.
#[derive(Clone)]
struct Ports(Arc<Shared>);

#[async_trait]
impl Replication for Ports {
    async fn check_source(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::CheckSource).await
    }

    async fn probe_vault(&self, _: VaultId) -> Result<(), Failure> {
        let nth = self.0.site().push_probe(0);
        self.0.turn(nth).await;
        self.0.site().world.probed()
    }

    async fn reach_vault(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::ReachVault).await
    }

    async fn check_vault(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::CheckVault).await
    }

    async fn start_tracking(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::StartTracking).await
    }

    async fn copy_disk(&self, vm: &Vm, disk: DiskId, _: Progress<'_>) -> Result<u64, Failure> {
        match self.0.call(vm, Call::Copy, Some(disk)).await? {
            Outcome::Copied { bytes, .. } => Ok(bytes),
            _ => Ok(0),
        }
    }

    async fn compare_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        _: u64,
        _: Progress<'_>,
    ) -> Result<Compared, Failure> {
        Ok(compared(&self.0.call(vm, Call::Compare, Some(disk)).await?))
    }

    async fn complete_copy(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::CompleteCopy).await
    }

    async fn snapshot(&self, vm: &Vm, _: u64) -> Result<Snapshot, Failure> {
        let cut = |site: &Site, place, _| {
            let log_bytes = site.world.cut_bytes(place);
            Snapshot { at: site.world.wall(), log_bytes, fresh: true }
        };
        self.0.called(vm, Call::Cut, None, cut).await
    }

    async fn ship(&self, vm: &Vm, _: u64, _: Timestamp) -> Result<u64, Failure> {
        let shipped = |site: &Site, place, _| site.world.shipped_bytes(place);
        self.0.called(vm, Call::Ship, None, shipped).await
    }

    async fn ship_through(&self, vm: &Vm, _: u64) -> Result<Vec<RecoveryPoint>, Failure> {
        match self.0.call(vm, Call::ShipAll, None).await? {
            Outcome::Shipped { points } => Ok(points),
            _ => Ok(vec![]),
        }
    }

    async fn verify(&self, vm: &Vm, _: RecoveryPoint) -> Result<(), Failure> {
        self.0.done(vm, Call::Verify).await
    }

    async fn fence(&self, vm: &Vm) -> Result<Vec<RecoveryPoint>, Failure> {
        match self.0.call(vm, Call::Fence, None).await? {
            Outcome::Fenced { found } => Ok(found),
            _ => Ok(vec![]),
        }
    }

    async fn serve(&self, vm: &Vm, _: RecoveryPoint) -> Result<Vec<ServedDisk>, Failure> {
        self.0.done(vm, Call::Serve).await.map(|()| vec![])
    }

    async fn stop_serving(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::StopServing).await
    }

    async fn serve_test(&self, vm: &Vm, _: RecoveryPoint) -> Result<Vec<ServedDisk>, Failure> {
        self.0.done(vm, Call::Serve).await.map(|()| vec![])
    }

    async fn end_test(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::EndTest).await
    }

    async fn restore_disk(
        &self,
        vm: &Vm,
        restore: Restore,
        _: Progress<'_>,
    ) -> Result<Compared, Failure> {
        Ok(compared(&self.0.call(vm, Call::Restore, Some(restore.disk)).await?))
    }

    async fn track_restored(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::TrackRestored).await
    }

    async fn stop_tracking(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::StopTracking).await
    }

    async fn delete_replica(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::DeleteReplica).await
    }

    async fn keep_only(&self, vm: &Vm, _: RecoveryPoint) -> Result<(), Failure> {
        self.0.done(vm, Call::KeepOnly).await
    }

    async fn reclaim_space(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    async fn tracking_lost(&self, vm: &Vm, _: LogVolume<'_>) -> ResyncReason {
        let place = self.0.site().known(vm.id.0);
        let mut nth = self.0.site().watch_tracker(place);
        loop {
            self.0.turn(nth).await;
            let looked = self.0.site().tracking_lost(place);
            match looked {
                Ok(reason) => return reason,
                Err(next) => nth = next,
            }
        }
    }
}

fn compared(outcome: &Outcome) -> Compared {
    match *outcome {
        Outcome::Compared { compared_bytes, different_bytes, .. }
        | Outcome::Restored { compared_bytes, different_bytes, .. } => {
            Compared { compared_bytes, different_bytes }
        }
        _ => Compared { compared_bytes: 0, different_bytes: 0 },
    }
}

#[async_trait]
impl Hypervisor for Ports {
    async fn heartbeat(&self, host: HostId) -> Result<(), Failure> {
        let place = self.0.site().host(host.0).unwrap_or(0);
        let nth = self.0.site().push_heartbeat(0, place);
        self.0.turn(nth).await;
        self.0.site().world.heartbeat(place)
    }

    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::ShutDownSource).await
    }

    async fn switch_off(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::SwitchOff).await
    }

    async fn start(&self, vm: &Vm, _: &[ServedDisk]) -> Result<(), Failure> {
        self.0.done(vm, Call::StartSource).await
    }

    async fn check_room(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    async fn attach(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::AttachSource).await
    }

    async fn start_test(&self, _: &Vm, _: &[ServedDisk], _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn end_test(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    async fn freeze(&self, _: &Vm, _: Duration) -> Result<(), Failure> {
        Ok(())
    }

    async fn thaw(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }
}

/// The recovery site's hypervisors.
struct Recovery(Arc<Shared>);

#[async_trait]
impl Hypervisor for Recovery {
    async fn heartbeat(&self, _: HostId) -> Result<(), Failure> {
        Ok(())
    }

    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::ShutDownReplica).await
    }

    async fn switch_off(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::ShutDownReplica).await
    }

    async fn start(&self, vm: &Vm, _: &[ServedDisk]) -> Result<(), Failure> {
        self.0.done(vm, Call::StartReplica).await
    }

    async fn check_room(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    async fn attach(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    async fn start_test(&self, vm: &Vm, _: &[ServedDisk], _: &str) -> Result<(), Failure> {
        self.0.done(vm, Call::StartTest).await
    }

    async fn end_test(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.done(vm, Call::EndTest).await
    }

    async fn freeze(&self, _: &Vm, _: Duration) -> Result<(), Failure> {
        Ok(())
    }

    async fn thaw(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }
}

/// There are no plans where there are only sizes.
#[async_trait]
impl Actions for Ports {
    async fn run(&self, _: &[String], _: &str, _: Duration) -> Ended {
        Ended::default()
    }

    async fn probe(&self, _: &Probe, _: Duration) -> Result<(), String> {
        Ok(())
    }
}
