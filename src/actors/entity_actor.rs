//! The generic actor that hosts an entity.

use super::hosted::{ActorOutlet, Alarm, Hosted, Outlet, Reporter, World};
use super::retries::RetrySupervision;
use super::supervisor::{ClearTimer, SetTimer};
use super::supervisor::{Committed, Died, StoreFailed, Supervisor};
use super::timers::TimerId;
use super::woken::WhenWoken;
use crate::domain::entity::{Commit, NewCommit, Rejection, StreamId};
use crate::domain::failure::Failure;
use crate::domain::id::JobId;
use crate::ports::event_store::{EventStore, Snapshot, StoreError};
use actix::prelude::*;
use futures_util::FutureExt;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Commits of a stream between two snapshots of its state.
const SNAPSHOT_EVERY: u64 = 200;

/// Commits read from the store at a time while loading.
const LOAD_BATCH: usize = 1_000;

/// Pause before work that ended without any effect on the state is done again.
pub const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// Who sends a command, and in what context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// A person or a component.
    pub actor: String,
    /// The job that it belongs to; without one, the entity's running job.
    pub correlation: Option<JobId>,
    /// The commit that led to it.
    pub causation: Option<u64>,
}

impl Origin {
    /// A command that nothing else led to.
    pub fn of(actor: &str) -> Self {
        Self { actor: actor.to_owned(), ..Self::default() }
    }

    /// What came of work or a timer, with the commit that called for it, if that is known.
    pub fn called(actor: &str, called_by: Option<u64>) -> Self {
        Self { causation: called_by, ..Self::of(actor) }
    }

    /// A command of the supervisor, to which a commit led.
    pub fn caused_by(commit: &Commit) -> Self {
        Self { causation: Some(commit.global), ..Self::of("supervisor") }
    }
}

/// A command for an entity. Answered when what it caused is durable.
#[derive(Message)]
#[rtype(result = "Result<Told, TellError>")]
pub struct Tell<E: Hosted> {
    /// The command.
    pub command: E::Command,
    /// Who sends it.
    pub origin: Origin,
    /// The work whose end this reports.
    pub(super) ends: Option<E::Effect>,
}

impl<E: Hosted> Tell<E> {
    /// A command from outside.
    pub fn new(command: E::Command, origin: Origin) -> Self {
        Self { command, origin, ends: None }
    }
}

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The global position of its commit; `None` where nothing changed.
    pub commit: Option<u64>,
}

/// Why a command had no effect.
#[derive(Debug, Error)]
pub enum TellError {
    /// The entity's state does not allow it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It could not be recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The actor died on it; it is being built anew. Whether the command took effect is unknown.
    #[error(
        "the actor of {stream} stopped before it answered; look at its state and repeat the command if needed"
    )]
    Gone {
        /// The entity.
        stream: StreamId,
    },
}

/// Asks for the present state.
#[derive(Message)]
#[rtype(result = "E")]
pub(super) struct Inspect<E: Hosted>(pub(super) std::marker::PhantomData<E>);

/// Stops the actor in an orderly way.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Halt;

/// Hosts one entity.
pub struct EntityActor<E: Hosted> {
    stream: StreamId,
    /// Shared with the work that is done for it.
    state: Arc<E>,
    seq: u64,
    world: Arc<World>,
    supervisor: Addr<Supervisor>,
    /// The way back for work and timers: one for all, as an address of its own takes as long to make as a
    /// message does.
    outlet: Option<Arc<ActorOutlet<E>>>,
    /// The commit that the state comes from last; `None` before the first since it was loaded.
    last: Option<u64>,
    running: BTreeMap<E::Effect, Running>,
    timers_set: u64,
    _lifeline: Lifeline,
}

/// What is being done about an effect, and the commit that called for it.
struct Running {
    by: By,
    called_by: Option<u64>,
}

enum By {
    Work(SpawnHandle),
    Timer(TimerId),
}

/// Tells the supervisor when the actor is gone, also when it panicked.
struct Lifeline {
    stream: StreamId,
    supervisor: Addr<Supervisor>,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.supervisor.do_send(Died { stream: self.stream });
    }
}

impl<E: Hosted> EntityActor<E> {
    /// Loads an entity from the log.
    ///
    /// # Errors
    /// What the store answers.
    pub fn load(
        stream: StreamId,
        world: Arc<World>,
        supervisor: Addr<Supervisor>,
    ) -> Result<Self, StoreError> {
        let (state, seq) = load_entity(&*world.store, stream)?;
        let lifeline = Lifeline { stream, supervisor: supervisor.clone() };
        Ok(Self {
            stream,
            state: Arc::new(state),
            seq,
            world,
            supervisor,
            outlet: None,
            last: None,
            running: BTreeMap::new(),
            timers_set: 0,
            _lifeline: lifeline,
        })
    }

    /// The failure whose cause the entity waits to see end.
    pub(super) fn waits_for_end_of(&self) -> Option<&Failure> {
        self.state.waits_for_end_of()
    }

    /// Starts what the state newly calls for and stops what it calls for no more.
    fn align_work(&mut self, ctx: &mut Context<Self>) {
        let wanted = self.state.pending();
        let stale: Vec<_> =
            self.running.keys().filter(|effect| !wanted.contains(effect)).cloned().collect();
        for effect in stale {
            match self.running.remove(&effect).map(|running| running.by) {
                Some(By::Work(handle)) => {
                    ctx.cancel_future(handle);
                }
                Some(By::Timer(id)) => self.supervisor.do_send(ClearTimer { id }),
                None => {}
            }
        }
        for effect in wanted {
            if !self.running.contains_key(&effect) {
                let by = self.begin(effect.clone(), self.last, Duration::ZERO, ctx);
                self.running.insert(effect, Running { by, called_by: self.last });
            }
        }
    }

    fn begin(
        &mut self,
        effect: E::Effect,
        called_by: Option<u64>,
        pause: Duration,
        ctx: &mut Context<Self>,
    ) -> By {
        let outlet = self.outlet(ctx);
        if let Some(Alarm { due, longest, command }) = self.state.alarm(&effect) {
            self.timers_set += 1;
            let id = TimerId { due, stream: self.stream, nth: self.timers_set };
            let wake = move || {
                let origin = Origin::called("timer", called_by);
                outlet.entity.do_send(Tell::<E> { command, origin, ends: Some(effect) });
            };
            self.supervisor.do_send(SetTimer { id, longest, wake: Box::new(wake) });
            return By::Timer(id);
        }
        let way_back = Arc::clone(&outlet) as Arc<dyn Outlet>;
        let reporter = Reporter::through(way_back, self.stream, called_by);
        let work = E::perform(&self.state, effect.clone(), Arc::clone(&self.world), reporter);
        let work = if pause.is_zero() {
            work
        } else {
            let slept = async move {
                actix::clock::sleep(pause).await;
                work.await
            };
            slept.boxed_local()
        };
        let work = WhenWoken::new(AssertUnwindSafe(work).catch_unwind());
        By::Work(ctx.spawn(work.into_actor(self).map(move |ended, actor, ctx| {
            let Ok(command) = ended else {
                tracing::error!(stream = %actor.stream, ?effect, "work panicked; it is done again");
                return actor.ended_in_vain(Some(effect), ctx);
            };
            let origin = Origin::called(E::WORKER, called_by);
            outlet.entity.do_send(Tell::<E> { command, origin, ends: Some(effect) });
        })))
    }

    fn outlet(&mut self, ctx: &Context<Self>) -> Arc<ActorOutlet<E>> {
        let supervisor = &self.supervisor;
        let made =
            || Arc::new(ActorOutlet { entity: ctx.address(), supervisor: supervisor.clone() });
        Arc::clone(self.outlet.get_or_insert_with(made))
    }

    /// Forgets work whose report changed nothing. If the state still calls for it, it is done again
    /// after a pause, since doing it at once would spin.
    fn ended_in_vain(&mut self, effect: Option<E::Effect>, ctx: &mut Context<Self>) {
        let Some(effect) = effect else { return };
        let Some(Running { called_by, .. }) = self.running.remove(&effect) else { return };
        if self.state.pending().contains(&effect) {
            let by = self.begin(effect.clone(), called_by, IDLE_PAUSE, ctx);
            self.running.insert(effect, Running { by, called_by });
        }
    }

    fn committed(&mut self, commit: Commit, ctx: &mut Context<Self>) {
        // Work that has ended has let go of the state, so that this copies it only beside work that goes on.
        fold(Arc::make_mut(&mut self.state), &commit);
        (self.seq, self.last) = (commit.seq, Some(commit.global));
        if commit.seq.is_multiple_of(SNAPSHOT_EVERY) {
            self.keep_snapshot();
        }
        if RetrySupervision::is_concerned(&commit.entry) {
            self.supervisor.do_send(Committed(Box::new(commit)));
        }
        self.align_work(ctx);
    }

    fn keep_snapshot(&self) {
        let state = match bincode::serde::encode_to_vec(&*self.state, bincode::config::standard()) {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(stream = %self.stream, %error, "encode snapshot");
                return;
            }
        };
        let schema = E::STATE_SCHEMA;
        let snapshot = Snapshot { stream: self.stream, seq: self.seq, schema, state };
        if let Err(error) = self.world.store.save_snapshot(snapshot) {
            tracing::warn!(stream = %self.stream, %error, "save snapshot");
        }
    }
}

/// Folds the state of an entity, and the sequence number of the last commit in it, from snapshot and
/// log.
///
/// # Errors
/// What the store answers.
pub fn load_entity<E: Hosted>(
    store: &dyn EventStore,
    stream: StreamId,
) -> Result<(E, u64), StoreError> {
    let (mut state, mut seq) = from_snapshot::<E>(store, stream)?;
    catch_up(store, stream, &mut state, &mut seq)?;
    Ok((state, seq))
}

/// Folds into a state what came after the commit of this sequence number, and moves the number on.
///
/// # Errors
/// What the store answers; what was folded until then stays.
pub(super) fn catch_up<E: Hosted>(
    store: &dyn EventStore,
    stream: StreamId,
    state: &mut E,
    seq: &mut u64,
) -> Result<(), StoreError> {
    loop {
        let commits = store.read_stream(stream, *seq + 1, LOAD_BATCH)?;
        let Some(last) = commits.last() else { return Ok(()) };
        *seq = last.seq;
        for commit in &commits {
            fold(state, commit);
        }
    }
}

fn from_snapshot<E: Hosted>(
    store: &dyn EventStore,
    stream: StreamId,
) -> Result<(E, u64), StoreError> {
    let Some(snapshot) = store.snapshot(stream, E::STATE_SCHEMA)? else {
        return Ok((E::default(), 0));
    };
    let config = bincode::config::standard().with_limit::<{ 64 << 20 }>();
    match bincode::serde::decode_from_slice(&snapshot.state, config) {
        Ok((state, _)) => Ok((state, snapshot.seq)),
        Err(error) => {
            tracing::warn!(%stream, %error, "decode snapshot; the whole log is read instead");
            Ok((E::default(), 0))
        }
    }
}

fn fold<E: Hosted>(state: &mut E, commit: &Commit) {
    let Some((_, events)) = E::of(&commit.entry) else { return };
    for event in events {
        state.apply(event, commit.at);
    }
}

impl<E: Hosted> Actor for EntityActor<E> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // The sender side waits for answers, so the mailbox needs no bound of its own.
        ctx.set_mailbox_capacity(0);
        self.align_work(ctx);
    }
}

impl<E: Hosted> Handler<Tell<E>> for EntityActor<E> {
    type Result = AtomicResponse<Self, Result<Told, TellError>>;

    fn handle(&mut self, tell: Tell<E>, ctx: &mut Context<Self>) -> Self::Result {
        let now = self.world.clock.now();
        let events = match self.state.decide(&tell.command, now) {
            Ok(events) => events,
            Err(rejection) => {
                if tell.ends.is_some() {
                    tracing::error!(stream = %self.stream, %rejection, "report of work refused");
                }
                self.ended_in_vain(tell.ends, ctx);
                return answer(Err(rejection.into()));
            }
        };
        if events.is_empty() {
            self.ended_in_vain(tell.ends, ctx);
            return answer(Ok(Told { commit: None }));
        }
        let commit = NewCommit {
            stream: self.stream,
            expected_seq: self.seq,
            at: now,
            actor: tell.origin.actor,
            correlation: tell.origin.correlation.or_else(|| self.state.running_job()),
            causation: tell.origin.causation,
            entry: E::entry(tell.command, events),
        };
        let store = Arc::clone(&self.world.store);
        let append = async move { store.append(commit).await };
        AtomicResponse::new(Box::pin(append.into_actor(self).map(move |result, actor, ctx| {
            match result {
                Ok(commit) => {
                    let global = commit.global;
                    if let Some(effect) = tell.ends {
                        actor.running.remove(&effect);
                    }
                    actor.committed(commit, ctx);
                    Ok(Told { commit: Some(global) })
                }
                Err(error @ StoreError::TooLarge { .. }) => {
                    tracing::error!(stream = %actor.stream, %error, "append");
                    actor.ended_in_vain(tell.ends, ctx);
                    Err(error.into())
                }
                Err(error) => {
                    actor.store_failed(&error, ctx);
                    Err(error.into())
                }
            }
        })))
    }
}

impl<E: Hosted> EntityActor<E> {
    /// A stream with another writer, or a store that stopped: the state held here cannot be trusted
    /// to be the log's. The supervisor loads it anew, or ends the service.
    fn store_failed(&mut self, error: &StoreError, ctx: &mut Context<Self>) {
        tracing::error!(stream = %self.stream, %error, "append");
        if !matches!(error, StoreError::WrongSequence { .. }) {
            self.supervisor.do_send(StoreFailed { because: error.to_string() });
        }
        ctx.stop();
    }
}

fn answer<E: Hosted>(
    result: Result<Told, TellError>,
) -> AtomicResponse<EntityActor<E>, Result<Told, TellError>> {
    AtomicResponse::new(Box::pin(fut::ready(result)))
}

impl<E: Hosted> Handler<Inspect<E>> for EntityActor<E> {
    type Result = MessageResult<Inspect<E>>;

    fn handle(&mut self, _: Inspect<E>, _: &mut Context<Self>) -> Self::Result {
        MessageResult(E::clone(&self.state))
    }
}

impl<E: Hosted> Handler<Halt> for EntityActor<E> {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}
