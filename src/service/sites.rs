//! The hypervisors of the two sites, as the service's configuration makes them: guests of the lab, and
//! VMs that somebody else runs and that reach their disks through the exports.

use super::host_agent::{HostAgent, export_name};
use super::images;
use crate::disk::nbd::Exports;
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::{DiskId, HostId, VmId};
use crate::domain::vm::{AddedDisk, Failback, Side, Vm};
use crate::drivers::lab::LabSite;
use crate::ports::hypervisor::Hypervisor;
use crate::ports::replication::ServedDisk;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The primary site.
pub(super) struct PrimarySite {
    pub(super) lab: LabSite,
    /// The other site's guests.
    pub(super) recovery: LabSite,
    pub(super) guests: BTreeSet<VmId>,
    pub(super) agents: Vec<Arc<HostAgent>>,
}

/// The recovery site.
pub(super) struct RecoveryGuests {
    pub(super) lab: LabSite,
    pub(super) guests: BTreeSet<VmId>,
    pub(super) exports: Arc<Exports>,
}

impl PrimarySite {
    /// Checks that a guest which was failed back found everything that it had written at the recovery site.
    fn brought_back(&self, vm: &Vm) -> Result<(), Failure> {
        let written = self.recovery.guest(vm.id).map_or(0, |status| status.acknowledged);
        let boot = self.lab.guest(vm.id).and_then(|status| status.boot);
        let found = boot.map_or(0, |boot| boot.last_write);
        if written <= found {
            return Ok(());
        }
        let because =
            format!("it had made {written} writes at the recovery site and finds {found}");
        Err(Failure::new(Code::ReplicaDidNotStart, Cause::Itself, because).with("vm", &vm.name))
    }

    /// Whoever still has a disk of the VM open is cut off: after this nothing is written to it.
    fn cut_off(&self, vm: &Vm) {
        for agent in self.agents.iter().filter(|agent| agent.host == vm.host) {
            agent.withdraw(vm);
        }
    }

    /// Whether the host that is meant is one that a failback brought the VM away from.
    fn was_left(&self, vm: &Vm) -> bool {
        vm.left.contains(&vm.host) && self.lab.host_of_vm(vm.id) != Some(vm.host)
    }

    /// Turns a VM off at such a host. The lab has a VM's guest at one host only: what is left to be done is that the
    /// agent lets the disks go.
    async fn leave(&self, vm: &Vm) -> Result<(), Failure> {
        self.lab.heartbeat(vm.host).await?;
        let id = vm.id;
        self.at_agent(vm, move |agent| {
            agent.release(id);
            Ok(())
        })
        .await
    }

    /// Every other host lets the disks of a VM go, and its guest is at its own from here on.
    async fn bring(&self, vm: &Vm) {
        let others = self.agents.iter().filter(|agent| agent.host != vm.host);
        let (others, id): (Vec<_>, _) = (others.cloned().collect(), vm.id);
        let released = tokio::task::spawn_blocking(move || {
            for agent in others {
                agent.release(id);
            }
        });
        if let Err(error) = released.await {
            tracing::error!(vm = %vm.name, %error, "let the disks of a VM go at another host");
        }
        self.lab.move_vm(vm.id, vm.host);
    }

    /// Does something at the agent of the VM's host, away from the executor.
    async fn at_agent<T: Default + Send + 'static>(
        &self,
        vm: &Vm,
        what: impl Fn(&HostAgent) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let Some(agent) = self.agents.iter().find(|agent| agent.host == vm.host).cloned() else {
            return Ok(T::default());
        };
        tokio::task::spawn_blocking(move || what(&agent)).await.unwrap_or_else(|panic| {
            Err(Failure::new(Code::HostResourcesShort, Cause::Itself, panic)
                .with("host", "this service")
                .with("operation", "attaching disks"))
        })
    }
}

#[async_trait]
impl Hypervisor for PrimarySite {
    async fn heartbeat(&self, host: HostId) -> Result<(), Failure> {
        self.lab.heartbeat(host).await
    }

    async fn provider_heartbeat(&self) -> Result<(), Failure> {
        self.lab.provider_heartbeat().await
    }

    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure> {
        if self.was_left(vm) {
            return self.leave(vm).await;
        }
        if self.guests.contains(&vm.id) {
            self.lab.shut_down(vm).await?;
        } else {
            self.lab.heartbeat(vm.host).await?;
        }
        self.cut_off(vm);
        Ok(())
    }

    async fn switch_off(&self, vm: &Vm) -> Result<(), Failure> {
        if self.was_left(vm) {
            return self.leave(vm).await;
        }
        if self.guests.contains(&vm.id) {
            Hypervisor::switch_off(&self.lab, vm).await?;
        } else {
            self.lab.heartbeat(vm.host).await?;
        }
        self.cut_off(vm);
        Ok(())
    }

    async fn check_room(&self, vm: &Vm) -> Result<(), Failure> {
        self.lab.heartbeat(vm.host).await?;
        let own = vm.clone();
        self.at_agent(vm, move |agent| {
            agent.check_room(&own).map_err(|because| {
                Failure::new(Code::PrerequisiteFailed, Cause::Itself, "")
                    .with("check", because)
                    .with("vm", &own.name)
            })
        })
        .await
    }

    async fn start(&self, vm: &Vm, _: &[ServedDisk]) -> Result<(), Failure> {
        self.lab.heartbeat(vm.host).await?;
        let own = vm.clone();
        let disks = self
            .at_agent(vm, move |agent| {
                agent.fit(&own)?;
                Ok(agent.offer(own.id))
            })
            .await?;
        if !self.guests.contains(&vm.id) {
            return Ok(());
        }
        self.lab.start(vm, &disks).await?;
        if vm.failback.is_some()
            && let Err(failure) = self.brought_back(vm)
        {
            self.lab.shut_down(vm).await?;
            return Err(failure);
        }
        Ok(())
    }

    /// As long as its replica is what counts, whoever still has a disk of the VM open is cut off.
    async fn attach(&self, vm: &Vm) -> Result<(), Failure> {
        self.lab.heartbeat(vm.host).await?;
        self.bring(vm).await;
        if self.guests.contains(&vm.id) {
            self.lab.attach(vm).await?;
        } else {
            self.lab.heartbeat(vm.host).await?;
        }
        let own = vm.clone();
        self.at_agent(vm, move |agent| {
            if own.source == Side::Recovery {
                agent.withdraw(&own);
            }
            if own.failback.as_ref().is_some_and(Failback::makes_disks) {
                agent.make_disks(&own)?;
            }
            agent.fit(&own)
        })
        .await
    }

    async fn lengthen_disk(&self, vm: &Vm, disk: DiskId, bytes: u64) -> Result<(), Failure> {
        self.lab.heartbeat(vm.host).await?;
        let own = vm.clone();
        self.at_agent(vm, move |agent| agent.lengthen(&own, disk, bytes)).await
    }

    async fn check_image(&self, vm: &Vm, disk: &AddedDisk) -> Result<(), Failure> {
        self.lab.heartbeat(vm.host).await?;
        let bytes = images::look(&self.agents, vm, &disk.disk.name, Path::new(&disk.image))?;
        if bytes == disk.disk.size_bytes {
            return Ok(());
        }
        let because = format!("it has {bytes} bytes, not {}", disk.disk.size_bytes);
        Err(Failure::new(Code::DiskUnusable, Cause::Host(vm.host), because)
            .with("disk", &disk.image))
    }

    async fn fit_disks(&self, vm: &Vm) -> Result<(), Failure> {
        self.lab.heartbeat(vm.host).await?;
        let own = vm.clone();
        self.at_agent(vm, move |agent| {
            agent.fit(&own)?;
            // Also where an attempt before this one was interrupted.
            agent.offer(own.id);
            Ok(())
        })
        .await
    }

    async fn start_test(
        &self,
        vm: &Vm,
        disks: &[ServedDisk],
        network: &str,
    ) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) {
            return self.lab.start_test(vm, disks, network).await;
        }
        Ok(())
    }

    async fn end_test(&self, vm: &Vm) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) { self.lab.end_test(vm).await } else { Ok(()) }
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

impl RecoveryGuests {
    /// As at the primary site: after this nothing is written to its disks.
    fn cut_off(&self, vm: &Vm) {
        for disk in &vm.disks {
            self.exports.remove(&export_name(&vm.name, &disk.name));
        }
    }
}

#[async_trait]
impl Hypervisor for RecoveryGuests {
    async fn heartbeat(&self, host: HostId) -> Result<(), Failure> {
        self.lab.heartbeat(host).await
    }

    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) {
            self.lab.shut_down(vm).await?;
        }
        self.cut_off(vm);
        Ok(())
    }

    async fn switch_off(&self, vm: &Vm) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) {
            Hypervisor::switch_off(&self.lab, vm).await?;
        }
        self.cut_off(vm);
        Ok(())
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

    /// Replicas need none: they read from the vault.
    async fn check_room(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    /// Its disks are attached when they are served.
    async fn attach(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    async fn start_test(
        &self,
        vm: &Vm,
        disks: &[ServedDisk],
        network: &str,
    ) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) {
            return self.lab.start_test(vm, disks, network).await;
        }
        for disk in disks {
            tracing::info!(vm = %vm.name, uri = %disk.uri, network, "a test disk is served");
        }
        Ok(())
    }

    async fn end_test(&self, vm: &Vm) -> Result<(), Failure> {
        if self.guests.contains(&vm.id) { self.lab.end_test(vm).await } else { Ok(()) }
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
