//! How the provider of a fabric is watched.

use super::watch::watch;
use super::{Hosted, Reporter, World};
use crate::actors::entity_actor::EntityActor;
use crate::actors::supervisor::Shelves;
use crate::domain::fabric::{Command, Effect, Fabric};
use crate::domain::vm::Side;
use actix::Addr;
use futures_util::future::LocalBoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

impl Hosted for Fabric {
    const WORKER: &'static str = "monitor";
    const STATE_SCHEMA: u16 = 1;

    fn shelf(shelves: &mut Shelves) -> &mut BTreeMap<Uuid, Addr<EntityActor<Self>>> {
        &mut shelves.fabrics
    }

    fn perform(
        state: &Arc<Self>,
        effect: Effect,
        world: Arc<World>,
        reporter: Reporter<Self>,
    ) -> LocalBoxFuture<'static, Command> {
        let side = state.side;
        let Effect::Watch = effect;
        Box::pin(async move {
            let site = match side {
                Side::Primary => &world.primary,
                Side::Recovery => &world.recovery,
            };
            let report = |answer| match answer {
                Ok(()) => Command::ReportHeartbeat,
                Err(failure) => Command::ReportSilence { failure },
            };
            let every = world.watch_interval;
            watch(&reporter, every..=every, || site.provider_heartbeat(), report).await
        })
    }
}
