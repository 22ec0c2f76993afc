//! How a host is watched.

use super::watch::watch;
use super::{Hosted, Reporter, World};
use crate::actors::entity_actor::EntityActor;
use crate::actors::supervisor::Shelves;
use crate::domain::host::{Command, Effect, Host};
use actix::Addr;
use futures_util::future::LocalBoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

impl Hosted for Host {
    const WORKER: &'static str = "monitor";
    const STATE_SCHEMA: u16 = 2;

    fn shelf(shelves: &mut Shelves) -> &mut BTreeMap<Uuid, Addr<EntityActor<Self>>> {
        &mut shelves.hosts
    }

    fn perform(
        state: &Arc<Self>,
        effect: Effect,
        world: Arc<World>,
        reporter: Reporter<Self>,
    ) -> LocalBoxFuture<'static, Command> {
        let host = state.id;
        let Effect::Watch = effect;
        Box::pin(async move {
            let report = |answer| match answer {
                Ok(()) => Command::ReportHeartbeat,
                Err(failure) => Command::ReportSilence { failure },
            };
            let every = world.watch_interval;
            watch(&reporter, every..=every, || world.primary.heartbeat(host), report).await
        })
    }
}
