//! The service's own actors, under virtual time.

use super::{Service, State};
use crate::actors::{Origin, Site, TellError, Told, World};
use crate::domain::cloud::Cloud;
use crate::domain::entity::{Entry, Kind, StreamId};
use crate::domain::fabric::Fabric;
use crate::domain::host::Host;
use crate::domain::plan::Plan;
use crate::domain::vault::Vault;
use crate::domain::vm::Vm;
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// A site of actors, with all tasks of its own in one set that can be dropped.
pub(super) struct ActorService {
    site: Site,
    tasks: RefCell<Option<JoinHandle<()>>>,
}

impl ActorService {
    pub(super) async fn start(world: Arc<World>) -> Self {
        let tasks = LocalSet::new();
        let (tell_site, site) = oneshot::channel();
        tasks.spawn_local(async move { drop(tell_site.send(Site::start(world))) });
        let tasks = RefCell::new(Some(spawn_local(tasks)));
        let site = site.await.expect("the task that starts the site does nothing else");
        Self { site, tasks }
    }
}

impl Service for ActorService {
    fn tell(
        &self,
        stream: StreamId,
        command: Entry,
        origin: Origin,
    ) -> LocalBoxFuture<'static, Result<Told, TellError>> {
        Box::pin(tell(self.site.clone(), stream, command, origin))
    }

    fn state(&self, stream: StreamId) -> LocalBoxFuture<'static, Option<State>> {
        Box::pin(state(self.site.clone(), stream))
    }

    fn failed(&self) -> Option<String> {
        self.site.failed().borrow().clone()
    }

    fn kill(self: Rc<Self>) -> LocalBoxFuture<'static, ()> {
        let tasks = self.tasks.borrow_mut().take();
        Box::pin(async move {
            let Some(tasks) = tasks else { return };
            tasks.abort();
            // Cancelled is what was asked for.
            _ = tasks.await;
        })
    }
}

/// Tells an entity of a site something; the entry carries the command and no events.
pub(in crate::sim) async fn tell(
    site: Site,
    stream: StreamId,
    command: Entry,
    origin: Origin,
) -> Result<Told, TellError> {
    let id = stream.id;
    match command {
        Entry::Vm { command, .. } => site.tell::<Vm>(id, command, origin).await,
        Entry::Host { command, .. } => site.tell::<Host>(id, command, origin).await,
        Entry::Cloud { command, .. } => site.tell::<Cloud>(id, command, origin).await,
        Entry::Vault { command, .. } => site.tell::<Vault>(id, command, origin).await,
        Entry::Plan { command, .. } => site.tell::<Plan>(id, command, origin).await,
        Entry::Fabric { command, .. } => site.tell::<Fabric>(id, command, origin).await,
    }
}

/// The present state of an entity of a site.
pub(in crate::sim) async fn state(site: Site, stream: StreamId) -> Option<State> {
    let id = stream.id;
    Some(match stream.kind {
        Kind::Vm => State::Vm(Box::new(site.state::<Vm>(id).await.ok()?)),
        Kind::Host => State::Host(site.state::<Host>(id).await.ok()?),
        Kind::Cloud => State::Cloud(site.state::<Cloud>(id).await.ok()?),
        Kind::Vault => State::Vault(site.state::<Vault>(id).await.ok()?),
        Kind::Plan => State::Plan(Box::new(site.state::<Plan>(id).await.ok()?)),
        Kind::Fabric => State::Fabric(Box::new(site.state::<Fabric>(id).await.ok()?)),
    })
}
