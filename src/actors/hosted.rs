//! What the actors need of an entity beside its state machine: how its work is done.

use super::entity_actor::{EntityActor, Origin, Tell, TellError, Told};
use super::supervisor::{Find, Shelves, Supervisor};
use crate::domain::catalogue::Code;
use crate::domain::cloud::Cloud;
use crate::domain::entity::{Entity, Entry, StreamId};
use crate::domain::fabric::Fabric;
use crate::domain::failure::{Cause, Failure};
use crate::domain::host::Host;
use crate::domain::id::JobId;
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::domain::vault::Vault;
use crate::domain::vm::Vm;
use crate::ports::actions::Actions;
use crate::ports::clock::Clock;
use crate::ports::event_store::EventStore;
use crate::ports::hypervisor::Hypervisor;
use crate::ports::replication::Replication;
use actix::Addr;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, LocalBoxFuture};
use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

mod cloud;
mod fabric;
mod host;
mod placing;
mod plan;
mod vault;
mod vm;
mod watch;

/// Everything that the actors reach the world through.
pub struct World {
    /// The event log.
    pub store: Arc<dyn EventStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The data plane.
    pub replication: Arc<dyn Replication>,
    /// The primary site's VMs.
    pub primary: Arc<dyn Hypervisor>,
    /// The recovery site's VMs.
    pub recovery: Arc<dyn Hypervisor>,
    /// Scripts and probes of recovery plans.
    pub actions: Arc<dyn Actions>,
    /// Time between two looks at a host or a vault.
    pub watch_interval: Duration,
    /// Time between two passes over the space of a VM's replica.
    pub reclaim_interval: Duration,
}

/// An entity that an actor can host.
pub trait Hosted: Entity {
    /// Who reports on its work, in the log.
    const WORKER: &'static str;
    /// The schema of the state as it is kept in snapshots: one more with every change of its shape.
    const STATE_SCHEMA: u16;

    /// Its actors, among all.
    fn shelf(shelves: &mut Shelves) -> &mut BTreeMap<Uuid, Addr<EntityActor<Self>>>;

    /// The job that its commits belong to.
    fn running_job(&self) -> Option<JobId> {
        None
    }

    /// What an effect that is a timer waits for.
    fn alarm(&self, _: &Self::Effect) -> Option<Alarm<Self::Command>> {
        None
    }

    /// The failure whose cause the entity waits to see end.
    fn waits_for_end_of(&self) -> Option<&Failure> {
        None
    }

    /// Does the work that this state calls for and answers the command that reports on it. Dropping the future
    /// stops the work at its next wait; it may be done again at any time, from the start. The state is shared, as
    /// work of every few seconds looks at one that is large; it stays as it was when the work began.
    fn perform(
        state: &Arc<Self>,
        effect: Self::Effect,
        world: Arc<World>,
        reporter: Reporter<Self>,
    ) -> LocalBoxFuture<'static, Self::Command>;
}

/// A moment that an entity waits for.
pub struct Alarm<C> {
    /// When, by the wall clock.
    pub due: Timestamp,
    /// The longest that it can be away: the wall clock may have been set back while nobody looked.
    pub longest: Duration,
    /// What the entity is told then.
    pub command: C,
}

/// The way from running work back to the entities.
pub struct Reporter<E: Hosted> {
    outlet: Arc<dyn Outlet>,
    stream: StreamId,
    called_by: Option<u64>,
    entity: PhantomData<fn(E)>,
}

/// Where reports go: to the actors, or to whatever else runs the entities. A command travels as an entry
/// without events.
pub trait Outlet: Send + Sync {
    /// Reports something without waiting for the answer.
    fn report(&self, stream: StreamId, command: Entry, origin: Origin);

    /// Tells an entity something; answered when it is durable.
    fn tell(
        &self,
        stream: StreamId,
        command: Entry,
        origin: Origin,
    ) -> BoxFuture<'static, Result<Told, TellError>>;
}

impl<E: Hosted> Reporter<E> {
    /// The way back for the work of an entity, with the commit that called for it, if that is known.
    pub fn through(outlet: Arc<dyn Outlet>, stream: StreamId, called_by: Option<u64>) -> Self {
        Self { outlet, stream, called_by, entity: PhantomData }
    }

    /// Reports something without waiting for the answer.
    pub fn report(&self, command: E::Command) {
        let origin = Origin::called(E::WORKER, self.called_by);
        self.outlet.report(self.stream, E::entry(command, vec![]), origin);
    }

    /// Tells another entity something and waits until it is durable.
    ///
    /// # Errors
    /// What that entity answers.
    pub async fn tell<F: Hosted>(&self, id: Uuid, command: F::Command) -> Result<(), TellError> {
        let origin = Origin::called(&self.stream.to_string(), self.called_by);
        let stream = StreamId { kind: F::KIND, id };
        self.outlet.tell(stream, F::entry(command, vec![]), origin).await.map(|_| ())
    }
}

/// The way back to the actors.
pub(super) struct ActorOutlet<E: Hosted> {
    pub(super) entity: Addr<EntityActor<E>>,
    pub(super) supervisor: Addr<Supervisor>,
}

impl<E: Hosted> Outlet for ActorOutlet<E> {
    fn report(&self, _: StreamId, command: Entry, origin: Origin) {
        if let Some((command, _)) = E::of(&command) {
            self.entity.do_send(Tell::new(command.clone(), origin));
        }
    }

    fn tell(
        &self,
        stream: StreamId,
        command: Entry,
        origin: Origin,
    ) -> BoxFuture<'static, Result<Told, TellError>> {
        let supervisor = self.supervisor.clone();
        let id = stream.id;
        Box::pin(async move {
            match command {
                Entry::Vm { command, .. } => told::<Vm>(&supervisor, id, command, origin).await,
                Entry::Host { command, .. } => told::<Host>(&supervisor, id, command, origin).await,
                Entry::Cloud { command, .. } => {
                    told::<Cloud>(&supervisor, id, command, origin).await
                }
                Entry::Vault { command, .. } => {
                    told::<Vault>(&supervisor, id, command, origin).await
                }
                Entry::Plan { command, .. } => told::<Plan>(&supervisor, id, command, origin).await,
                Entry::Fabric { command, .. } => {
                    told::<Fabric>(&supervisor, id, command, origin).await
                }
            }
        })
    }
}

/// Finds an actor, then tells it something.
pub(super) async fn told<E: Hosted>(
    supervisor: &Addr<Supervisor>,
    id: Uuid,
    command: E::Command,
    origin: Origin,
) -> Result<Told, TellError> {
    let gone = |_| TellError::Gone { stream: StreamId { kind: E::KIND, id } };
    let entity = supervisor.send(Find::<E>::new(id)).await.map_err(gone)??;
    entity.send(Tell::new(command, origin)).await.map_err(gone)?
}

/// Runs work so that a panic in it becomes a failure of that work alone.
async fn guarded<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(panic = %what, "work panicked");
        Err(Failure::new(Code::HostResourcesShort, Cause::Itself, format!("panic: {what}"))
            .with("host", "this service")
            .with("operation", "its work"))
    })
}
