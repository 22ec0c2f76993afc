//! What runs the entities: the service's actors, or a discrete-event loop.

pub(super) mod actors;
mod event_loop;

use super::dice::Dice;
use crate::actors::{Origin, TellError, Told, World};
use crate::domain::cloud::Cloud;
use crate::domain::entity::{Entry, StreamId};
use crate::domain::fabric::Fabric;
use crate::domain::host::Host;
use crate::domain::plan::Plan;
use crate::domain::vault::Vault;
use crate::domain::vm::Vm;
use futures_util::future::LocalBoxFuture;
use std::rc::Rc;
use std::sync::Arc;

/// The state of an entity.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    Vm(Box<Vm>),
    Host(Host),
    Cloud(Cloud),
    Vault(Vault),
    Plan(Box<Plan>),
    Fabric(Box<Fabric>),
}

/// A running service. Killed with [`Service::kill`], as by kill -9.
pub(super) trait Service {
    /// Tells an entity something; the entry carries the command and no events.
    fn tell(
        &self,
        stream: StreamId,
        command: Entry,
        origin: Origin,
    ) -> LocalBoxFuture<'static, Result<Told, TellError>>;

    /// The present state of an entity.
    fn state(&self, stream: StreamId) -> LocalBoxFuture<'static, Option<State>>;

    /// Why it cannot go on, if that is so.
    fn failed(&self) -> Option<String>;

    /// Ends it at this instant; nothing of it runs when this returns.
    fn kill(self: Rc<Self>) -> LocalBoxFuture<'static, ()>;
}

impl From<Vm> for State {
    fn from(vm: Vm) -> Self {
        Self::Vm(Box::new(vm))
    }
}

impl From<Host> for State {
    fn from(host: Host) -> Self {
        Self::Host(host)
    }
}

impl From<Cloud> for State {
    fn from(cloud: Cloud) -> Self {
        Self::Cloud(cloud)
    }
}

impl From<Plan> for State {
    fn from(plan: Plan) -> Self {
        Self::Plan(Box::new(plan))
    }
}

impl From<Fabric> for State {
    fn from(fabric: Fabric) -> Self {
        Self::Fabric(Box::new(fabric))
    }
}

impl From<Vault> for State {
    fn from(vault: Vault) -> Self {
        Self::Vault(vault)
    }
}

/// Which driver runs the entities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// A discrete-event loop.
    #[default]
    Loop,
    /// The actors of the service, under virtual time.
    Actix,
}

impl Driver {
    /// Starts a service; with `shuffle`, the loop deals with what is ready in an order by the dice.
    pub(super) async fn start(
        self,
        world: Arc<World>,
        shuffle: Option<Arc<Dice>>,
    ) -> Rc<dyn Service> {
        match self {
            Self::Loop => Rc::new(event_loop::LoopService::start(world, shuffle)),
            Self::Actix => Rc::new(actors::ActorService::start(world).await),
        }
    }
}
