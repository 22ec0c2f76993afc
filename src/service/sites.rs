//! The hypervisors of the two sites, as the service's configuration makes them: guests of the lab, and
//! VMs that somebody else runs and that reach their disks through the exports.

use super::host_agent::HostAgent;
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::HostId;
use crate::domain::vm::Vm;
use crate::drivers::lab::LabSite;
use crate::ports::hypervisor::Hypervisor;
use crate::ports::replication::ServedDisk;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::id::VmId;

/// The primary site.
pub(super) struct PrimarySite {
    pub(super) lab: LabSite,
    pub(super) guests: BTreeSet<VmId>,
    pub(super) agents: Vec<Arc<HostAgent>>,
}

/// The recovery site.
pub(super) struct RecoveryGuests {
    pub(super) lab: LabSite,
    pub(super) guests: BTreeSet<VmId>,
}

#[async_trait]
impl Hypervisor for PrimarySite {
    async fn heartbeat(&self, host: HostId) -> Result<(), Failure> {
        self.lab.heartbeat(host).await
    }

    /// Whoever still has a disk of the VM open is cut off: after this nothing is written to it.
    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) {
            self.lab.shut_down(vm).await?;
        } else {
            self.lab.heartbeat(vm.host).await?;
        }
        for agent in self.agents.iter().filter(|agent| agent.host == vm.host) {
            agent.withdraw(vm);
        }
        Ok(())
    }

    async fn start(&self, vm: &Vm, disks: &[ServedDisk]) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) { self.lab.start(vm, disks).await } else { Ok(()) }
    }

    async fn freeze(&self, vm: &Vm, at_most: Duration) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) {
            return self.lab.freeze(vm, at_most).await;
        }
        Err(cannot_ask(vm))
    }

    async fn thaw(&self, vm: &Vm) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) { self.lab.thaw(vm).await } else { Err(cannot_ask(vm)) }
    }
}

#[async_trait]
impl Hypervisor for RecoveryGuests {
    async fn heartbeat(&self, host: HostId) -> Result<(), Failure> {
        self.lab.heartbeat(host).await
    }

    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) { self.lab.shut_down(vm).await } else { Ok(()) }
    }

    async fn start(&self, vm: &Vm, disks: &[ServedDisk]) -> Result<(), Failure> {
        if !self.guests.contains(&vm.id) {
            for disk in disks {
                tracing::info!(vm = %vm.name, uri = %disk.uri, "a replica disk is served");
            }
            return Ok(());
        }
        self.lab.start(vm, disks).await
    }

    async fn freeze(&self, vm: &Vm, at_most: Duration) -> Result<(), Failure> {
        self.lab.freeze(vm, at_most).await
    }

    async fn thaw(&self, vm: &Vm) -> Result<(), Failure> {
        self.lab.thaw(vm).await
    }
}

/// Whoever runs such a VM cannot be asked to bring its guest to rest.
fn cannot_ask(vm: &Vm) -> Failure {
    let because = "the VM is reached through its disks alone: nobody can ask its guest";
    Failure::new(Code::GuestNotQuiesced, Cause::Itself, because).with("vm", &vm.name)
}
