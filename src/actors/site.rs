//! The way into the actors.

use super::entity_actor::{Inspect, Origin, Tell, TellError, Told};
use super::hosted::{Hosted, World};
use super::supervisor::{Find, StopAll, Supervisor};
use crate::domain::entity::StreamId;
use actix::prelude::*;
use std::marker::PhantomData;
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

/// A running site: every entity of the log as an actor. Must live on an actix system.
#[derive(Clone)]
pub struct Site {
    supervisor: Addr<Supervisor>,
    failed: watch::Receiver<Option<String>>,
}

impl Site {
    /// Builds the actors of every stream in the log; they take up the work that their states call for.
    pub fn start(world: Arc<World>) -> Self {
        let (tell_failed, failed) = watch::channel(None);
        Self { supervisor: Supervisor::new(world, tell_failed).start(), failed }
    }

    /// Tells an entity something; answered when what it caused is durable.
    ///
    /// # Errors
    /// See [`TellError`].
    pub async fn tell<E: Hosted>(
        &self,
        id: Uuid,
        command: E::Command,
        origin: Origin,
    ) -> Result<Told, TellError> {
        let gone = |_| TellError::Gone { stream: StreamId { kind: E::KIND, id } };
        let actor = self.supervisor.send(Find::<E>::new(id)).await.map_err(gone)??;
        actor.send(Tell::new(command, origin)).await.map_err(gone)?
    }

    /// The present state of an entity; that of a stranger is its default.
    ///
    /// # Errors
    /// See [`TellError`].
    pub async fn state<E: Hosted>(&self, id: Uuid) -> Result<E, TellError> {
        let gone = |_| TellError::Gone { stream: StreamId { kind: E::KIND, id } };
        let actor = self.supervisor.send(Find::<E>::new(id)).await.map_err(gone)??;
        actor.send(Inspect(PhantomData)).await.map_err(gone)
    }

    /// Why the site cannot go on, once that is so. The service must end then.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.clone()
    }

    /// Stops the work and the actors. The log is all that a later start needs.
    pub async fn stop(&self) {
        // Already stopped is what was asked for.
        let _ = self.supervisor.send(StopAll).await;
    }
}
