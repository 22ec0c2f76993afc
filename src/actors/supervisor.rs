//! The supervisor: timers, early retries, restarts.
//!
//! Which failure is tried again, and when, the VM decides ([`RetryLadder`](crate::domain::retry)) and
//! its log records. The supervisor carries it out: it holds the one timer of the service, sends the
//! work to be tried at once when its cause ends (the vault answers, the host is back), and builds an
//! actor that died anew from the log. It has no state worth keeping: everything is told to it again by
//! the actors' states after a restart.

use super::entity_actor::{EntityActor, Halt, Origin, Tell, TellError};
use super::hosted::{Hosted, World};
use super::retries::RetrySupervision;
use super::timers::{TimerId, Timers, Wake};
use crate::domain::cloud::Cloud;
use crate::domain::entity::{Commit, Entry, Kind, StreamId};
use crate::domain::fabric::Fabric;
use crate::domain::failure::Failure;
use crate::domain::host::Host;
use crate::domain::plan::Plan;
use crate::domain::vault::Vault;
use crate::domain::vm::Vm;
use actix::clock::Instant;
use actix::prelude::*;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// An actor that dies is built anew after this long, twice as long each time it dies again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// The longest wait before an actor is built anew.
const RESTART_AFTER_MAX: Duration = Duration::from_mins(1);

/// An actor that lived for this long is not the one that dies again and again.
const LIVES_AGAIN_AFTER: Duration = Duration::from_mins(10);

/// The actors of a site, by type.
#[derive(Default)]
pub struct Shelves {
    pub(super) vms: BTreeMap<Uuid, Addr<EntityActor<Vm>>>,
    pub(super) hosts: BTreeMap<Uuid, Addr<EntityActor<Host>>>,
    pub(super) clouds: BTreeMap<Uuid, Addr<EntityActor<Cloud>>>,
    pub(super) vaults: BTreeMap<Uuid, Addr<EntityActor<Vault>>>,
    pub(super) plans: BTreeMap<Uuid, Addr<EntityActor<Plan>>>,
    pub(super) fabrics: BTreeMap<Uuid, Addr<EntityActor<Fabric>>>,
}

/// How often an actor died lately.
struct Deaths {
    in_a_row: u32,
    last: Instant,
}

/// Supervises the actors of a site.
pub struct Supervisor {
    world: Arc<World>,
    shelves: Shelves,
    deaths: BTreeMap<StreamId, Deaths>,
    retries: RetrySupervision,
    timers: Timers,
    sleeping: Option<SpawnHandle>,
    stopping: bool,
    failed: watch::Sender<Option<String>>,
}

impl Supervisor {
    /// A supervisor without actors. `failed` is told if the service cannot go on.
    pub fn new(world: Arc<World>, failed: watch::Sender<Option<String>>) -> Self {
        Self {
            world,
            shelves: Shelves::default(),
            deaths: BTreeMap::new(),
            retries: RetrySupervision::default(),
            timers: Timers::default(),
            sleeping: None,
            stopping: false,
            failed,
        }
    }

    /// The actor of an entity; built from the log if there is none.
    fn actor<E: Hosted>(
        &mut self,
        id: Uuid,
        ctx: &mut Context<Self>,
    ) -> Result<Addr<EntityActor<E>>, TellError> {
        let stream = StreamId { kind: E::KIND, id };
        if let Some(actor) = E::shelf(&mut self.shelves).get(&id)
            && actor.connected()
        {
            return Ok(actor.clone());
        }
        if self.stopping {
            return Err(TellError::Gone { stream });
        }
        let actor = EntityActor::<E>::load(stream, Arc::clone(&self.world), ctx.address())?;
        if let Some(because) = actor.waits_for_end_of().cloned() {
            // Whether the cause was suspected before the log ended is unknown.
            ctx.address().do_send(Suspect { because });
        }
        let actor = actor.start();
        E::shelf(&mut self.shelves).insert(id, actor.clone());
        Ok(actor)
    }

    fn build(&mut self, stream: StreamId, ctx: &mut Context<Self>) {
        let built = match stream.kind {
            Kind::Vm => self.actor::<Vm>(stream.id, ctx).map(drop),
            Kind::Host => self.actor::<Host>(stream.id, ctx).map(drop),
            Kind::Cloud => self.actor::<Cloud>(stream.id, ctx).map(drop),
            Kind::Vault => self.actor::<Vault>(stream.id, ctx).map(drop),
            Kind::Plan => self.actor::<Plan>(stream.id, ctx).map(drop),
            Kind::Fabric => self.actor::<Fabric>(stream.id, ctx).map(drop),
        };
        if let (Err(error), false) = (built, self.stopping) {
            tracing::error!(%stream, %error, "build an actor from the log");
            self.fail(error.to_string());
        }
    }

    /// The site cannot go on: its actors stop, and whoever started it is told.
    fn fail(&mut self, because: String) {
        self.stopping = true;
        self.timers.clear_all();
        halt(&self.shelves.vms);
        halt(&self.shelves.clouds);
        halt(&self.shelves.hosts);
        halt(&self.shelves.vaults);
        halt(&self.shelves.plans);
        halt(&self.shelves.fabrics);
        self.failed.send_replace(Some(because));
    }

    fn fire_due_timers(&mut self, ctx: &mut Context<Self>) {
        self.sleeping = None;
        let (now, instant) = (self.world.clock.now(), Instant::now());
        while let Some(wake) = self.timers.pop_due(now, instant) {
            wake();
        }
        self.sleep_until_next_timer(instant, ctx);
    }

    fn sleep_until_next_timer(&mut self, now: Instant, ctx: &mut Context<Self>) {
        if let Some(handle) = self.sleeping.take() {
            ctx.cancel_future(handle);
        }
        let Some(next) = self.timers.next() else { return };
        let wait = Timers::wait_for(next, now);
        self.sleeping = Some(ctx.run_later(wait, Self::fire_due_timers));
    }

    /// Sends a command to an entity that is there.
    fn command(&self, to: StreamId, command: Entry, origin: Origin) {
        let Shelves { vms, hosts, clouds, vaults, plans, fabrics } = &self.shelves;
        match command {
            Entry::Vm { command, .. } => send(vms, to, command, origin),
            Entry::Host { command, .. } => send(hosts, to, command, origin),
            Entry::Cloud { command, .. } => send(clouds, to, command, origin),
            Entry::Vault { command, .. } => send(vaults, to, command, origin),
            Entry::Plan { command, .. } => send(plans, to, command, origin),
            Entry::Fabric { command, .. } => send(fabrics, to, command, origin),
        }
    }
}

fn send<E: Hosted>(
    shelf: &BTreeMap<Uuid, Addr<EntityActor<E>>>,
    to: StreamId,
    command: E::Command,
    origin: Origin,
) {
    if let Some(actor) = shelf.get(&to.id) {
        actor.do_send(Tell::new(command, origin));
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if !self.stopping {
            self.failed.send_replace(Some("the supervisor died".to_owned()));
        }
    }
}

fn halt<E: Hosted>(shelf: &BTreeMap<Uuid, Addr<EntityActor<E>>>) {
    for actor in shelf.values() {
        actor.do_send(Halt);
    }
}

/// Returns when all are gone.
async fn halted<E: Hosted>(shelf: BTreeMap<Uuid, Addr<EntityActor<E>>>) {
    for actor in shelf.into_values() {
        // A closed mailbox means that the actor is gone already.
        let _ = actor.send(Halt).await;
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(0);
        match self.world.store.streams() {
            Ok(streams) => streams.into_iter().for_each(|(stream, _)| self.build(stream, ctx)),
            Err(error) => self.fail(error.to_string()),
        }
    }
}

/// Asks for the actor of an entity.
#[derive(Message)]
#[rtype(result = "Result<Addr<EntityActor<E>>, TellError>")]
pub(super) struct Find<E: Hosted> {
    id: Uuid,
    entity: PhantomData<E>,
}

impl<E: Hosted> Find<E> {
    pub(super) fn new(id: Uuid) -> Self {
        Self { id, entity: PhantomData }
    }
}

impl<E: Hosted> Handler<Find<E>> for Supervisor {
    type Result = Result<Addr<EntityActor<E>>, TellError>;

    fn handle(&mut self, find: Find<E>, ctx: &mut Context<Self>) -> Self::Result {
        self.actor(find.id, ctx)
    }
}

/// Sets a timer.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SetTimer {
    pub(super) id: TimerId,
    /// The longest that it can be away.
    pub(super) longest: Duration,
    pub(super) wake: Wake,
}

impl Handler<SetTimer> for Supervisor {
    type Result = ();

    fn handle(&mut self, timer: SetTimer, ctx: &mut Context<Self>) {
        let wait = timer.id.due.since(self.world.clock.now()).min(timer.longest);
        let now = Instant::now();
        let passed_at = now + wait;
        let first = self.timers.next().is_none_or(|next| passed_at < next);
        self.timers.set(timer.id, passed_at, timer.wake);
        if first {
            self.sleep_until_next_timer(now, ctx);
        }
    }
}

/// Takes a timer back.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ClearTimer {
    pub(super) id: TimerId,
}

impl Handler<ClearTimer> for Supervisor {
    type Result = ();

    fn handle(&mut self, timer: ClearTimer, _: &mut Context<Self>) {
        self.timers.clear(timer.id);
    }
}

/// Something that the supervisor is concerned with became true and is durable.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Committed(pub(super) Box<Commit>);

impl Handler<Committed> for Supervisor {
    type Result = ();

    fn handle(&mut self, Committed(commit): Committed, _: &mut Context<Self>) {
        let vms = self.shelves.vms.keys().copied();
        for (to, command) in self.retries.committed(&commit, vms) {
            self.command(to, command, Origin::caused_by(&commit));
        }
    }
}

/// An entity that was just loaded waits for the cause of a failure to end.
#[derive(Message)]
#[rtype(result = "()")]
struct Suspect {
    because: Failure,
}

impl Handler<Suspect> for Supervisor {
    type Result = ();

    fn handle(&mut self, Suspect { because }: Suspect, _: &mut Context<Self>) {
        if let Some((to, command)) = RetrySupervision::suspect(&because) {
            self.command(to, command, Origin::of("supervisor"));
        }
    }
}

/// An actor is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Died {
    pub(super) stream: StreamId,
}

impl Handler<Died> for Supervisor {
    type Result = ();

    fn handle(&mut self, Died { stream }: Died, ctx: &mut Context<Self>) {
        self.timers.clear_of(stream);
        if self.stopping {
            return;
        }
        let last = Instant::now();
        let deaths = self.deaths.entry(stream).or_insert(Deaths { in_a_row: 0, last });
        if LIVES_AGAIN_AFTER <= last - deaths.last {
            deaths.in_a_row = 0;
        }
        let wait = RESTART_AFTER_MAX.min(RESTART_AFTER * 2u32.saturating_pow(deaths.in_a_row));
        *deaths = Deaths { in_a_row: deaths.in_a_row + 1, last };
        tracing::error!(%stream, ?wait, "an actor died; it is built anew from the log");
        ctx.run_later(wait, move |supervisor, ctx| supervisor.build(stream, ctx));
    }
}

/// The store does not take commits any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct StoreFailed {
    pub(super) because: String,
}

impl Handler<StoreFailed> for Supervisor {
    type Result = ();

    fn handle(&mut self, failed: StoreFailed, _: &mut Context<Self>) {
        self.fail(failed.because);
    }
}

/// Stops every actor, then the supervisor.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct StopAll;

impl Handler<StopAll> for Supervisor {
    // Nothing else is dealt with meanwhile, another `StopAll` in particular.
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: StopAll, _: &mut Context<Self>) -> Self::Result {
        self.stopping = true;
        self.timers.clear_all();
        let shelves = std::mem::take(&mut self.shelves);
        let halt = async move {
            halted(shelves.vms).await;
            halted(shelves.clouds).await;
            halted(shelves.hosts).await;
            halted(shelves.vaults).await;
            halted(shelves.plans).await;
            halted(shelves.fabrics).await;
        };
        AtomicResponse::new(Box::pin(halt.into_actor(self).map(|(), _, ctx| ctx.stop())))
    }
}
