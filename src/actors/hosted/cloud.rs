//! How the work of a cloud is done.

use super::{Hosted, Reporter, World};
use crate::actors::entity_actor::EntityActor;
use crate::actors::supervisor::Shelves;
use crate::domain::cloud::{Cloud, Command, Effect};
use crate::domain::vm::{self, Vm};
use actix::Addr;
use futures_util::future::LocalBoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

impl Hosted for Cloud {
    const WORKER: &'static str = "cloud";
    const STATE_SCHEMA: u16 = 2;

    fn shelf(shelves: &mut Shelves) -> &mut BTreeMap<Uuid, Addr<EntityActor<Self>>> {
        &mut shelves.clouds
    }

    fn perform(
        state: &Arc<Self>,
        effect: Effect,
        world: Arc<World>,
        reporter: Reporter<Self>,
    ) -> LocalBoxFuture<'static, Command> {
        let policy = state.policy;
        let Effect::HandPolicy { vm, revision } = effect;
        Box::pin(async move {
            let command = vm::Command::ChangePolicy { policy };
            while let Err(error) = reporter.tell::<Vm>(vm.0, command.clone()).await {
                tracing::warn!(%vm, %error, "hand the policy to a VM");
                actix::clock::sleep(world.watch_interval).await;
            }
            Command::ReportPolicyTaken { vm, revision }
        })
    }
}
