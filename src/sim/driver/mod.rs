//! What runs the entities: the service's actors, or a discrete-event loop.

pub(super) mod actors;

use crate::actors::{Origin, TellError, Told, World};
use crate::domain::cloud::Cloud;
use crate::domain::entity::{Entry, StreamId};
use crate::domain::host::Host;
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

/// Which driver runs the entities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// The actors of the service, under virtual time.
    #[default]
    Actix,
}

impl Driver {
    pub(super) async fn start(self, world: Arc<World>) -> Rc<dyn Service> {
        match self {
            Self::Actix => Rc::new(actors::ActorService::start(world).await),
        }
    }
}
