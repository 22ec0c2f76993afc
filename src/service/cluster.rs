//! Clusters of the lab: a VM moves from one member to another, on the same disks and logs.

use super::host_agent::HostAgent;
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::{HostId, VmId};
use crate::drivers::lab::LabSite;
use crate::ports::hypervisor::Hypervisor;
use futures_util::FutureExt;
use std::sync::Arc;

/// Hosts between which VMs can move.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) agents: Vec<Arc<HostAgent>>,
    pub(super) lab: LabSite,
}

impl Cluster {
    /// Moves a VM, away from the executor.
    pub(super) async fn moved(self, vm: VmId, to: HostId) -> Result<(), Failure> {
        let moved = tokio::task::spawn_blocking(move || self.move_vm(vm, to)).await;
        moved.unwrap_or_else(|panic| {
            Err(Failure::new(Code::HostResourcesShort, Cause::Host(to), panic)
                .with("host", "the one that it was moved to")
                .with("operation", "attaching disks"))
        })
    }

    /// Moves a VM that runs to another member. Where it was is let go of in an orderly way, if it is still there:
    /// else the member that gets it sees from the logs that they were not closed. Its guest gets its disks back
    /// where they were; one that was killed with its host boots again.
    fn move_vm(&self, vm: VmId, to: HostId) -> Result<(), Failure> {
        // The lab answers at once.
        self.lab.heartbeat(to).now_or_never().unwrap_or(Ok(()))?;
        for agent in self.agents.iter().filter(|agent| agent.host != to) {
            agent.release(vm);
        }
        self.lab.move_vm(vm, to);
        let Some(agent) = self.agents.iter().find(|agent| agent.host == to) else { return Ok(()) };
        agent.attach(vm)?;
        agent.offer(vm);
        let is_off = self.lab.guest(vm).is_some_and(|guest| guest.state.ended());
        if is_off && let Err(error) = self.lab.boot(vm, &agent.guest_uris(vm)) {
            tracing::error!(%vm, %error, "boot a guest where it was moved");
        }
        Ok(())
    }
}
