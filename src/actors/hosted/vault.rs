//! How a vault is watched.

use super::watch::{LONGEST_PAUSE, watch};
use super::{Hosted, Reporter, World};
use crate::actors::entity_actor::EntityActor;
use crate::actors::supervisor::Shelves;
use crate::domain::vault::{Command, Effect, Vault};
use actix::Addr;
use futures_util::future::LocalBoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

impl Hosted for Vault {
    const WORKER: &'static str = "monitor";
    const STATE_SCHEMA: u16 = 2;

    fn shelf(shelves: &mut Shelves) -> &mut BTreeMap<Uuid, Addr<EntityActor<Self>>> {
        &mut shelves.vaults
    }

    fn perform(
        state: &Arc<Self>,
        effect: Effect,
        world: Arc<World>,
        reporter: Reporter<Self>,
    ) -> LocalBoxFuture<'static, Command> {
        let vault = state.id;
        let Effect::Watch = effect;
        Box::pin(async move {
            let report = |answer| match answer {
                Ok(()) => Command::ReportReachable,
                Err(failure) => Command::ReportUnreachable { failure },
            };
            let probe = || world.replication.probe_vault(vault);
            watch(&reporter, world.watch_interval..=LONGEST_PAUSE, probe, report).await
        })
    }
}
