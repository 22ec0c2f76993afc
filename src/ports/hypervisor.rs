//! The hypervisor port: the VMs of a site.

use super::replication::ServedDisk;
use crate::domain::failure::Failure;
use crate::domain::id::{DiskId, HostId};
use crate::domain::vm::{AddedDisk, Vm};
use async_trait::async_trait;
use std::time::Duration;

/// The hypervisors of a site. The same trait serves the primary and the recovery site.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Asks a host whether it is there.
    ///
    /// # Errors
    /// `HostLost`.
    async fn heartbeat(&self, host: HostId) -> Result<(), Failure>;

    /// Asks the provider, the site's management server, whether it is there. A site without one always is.
    ///
    /// # Errors
    /// `ProviderSilent`.
    async fn provider_heartbeat(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Shuts a VM down in an orderly way and returns when it is off: what its guest had written is
    /// flushed. A VM that is off stays off.
    ///
    /// # Errors
    /// `SourceDidNotStop`, `HostLost`, `VmNotFound`.
    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure>;

    /// Cuts the power of a VM that cannot be shut down in an orderly way, as one whose disk takes no
    /// writes, and returns when it is off. What its guest had not flushed is lost.
    ///
    /// # Errors
    /// `HostLost`, `VmNotFound`.
    async fn switch_off(&self, vm: &Vm) -> Result<(), Failure>;

    /// Starts a VM on these disks and returns when it runs. A VM that runs on them goes on running. None
    /// are named at the primary site: there they are those of the VM's host, tracked.
    ///
    /// # Errors
    /// `ReplicaDidNotStart`, `HostLost`.
    async fn start(&self, vm: &Vm, disks: &[ServedDisk]) -> Result<(), Failure>;

    /// Checks that the host of a VM, which may be one that it never was on, has room for those of its disks that
    /// are not there.
    ///
    /// # Errors
    /// `HostLost`, `PrerequisiteFailed`.
    async fn check_room(&self, vm: &Vm) -> Result<(), Failure>;

    /// Attaches the disks of a VM that is off to its host's agent, for the data plane and for nobody
    /// else. Those that are attached stay so; where another host has them, it lets them go. Disks that are not
    /// there are made, empty, if that is what a failback calls for
    /// ([`Failback::makes_disks`](crate::domain::vm::Failback::makes_disks)).
    ///
    /// # Errors
    /// `HostLost`, `DiskUnusable`, `HostResourcesShort`.
    async fn attach(&self, vm: &Vm) -> Result<(), Failure>;

    /// Makes the file of a disk at least so long, with zeroes; durable when this returns. The disk is served
    /// as large as before. Nothing to do where no disk is ever resized.
    ///
    /// # Errors
    /// `HostLost`, `HostResourcesShort`.
    async fn lengthen_disk(&self, _: &Vm, _: DiskId, _size_bytes: u64) -> Result<(), Failure> {
        Ok(())
    }

    /// Checks that the image of a disk which is to be added is there, has its size, and is no disk of a VM yet.
    /// Nothing to do where no disk is ever added.
    ///
    /// # Errors
    /// `HostLost`, `DiskUnusable`, `DiskInUse`.
    async fn check_image(&self, _: &Vm, _: &AddedDisk) -> Result<(), Failure> {
        Ok(())
    }

    /// Has the attached disks of a VM be those that the VM says, as large as it says, tracked. Where one is not, all
    /// are taken away for a moment, and whoever uses them connects to them again. Where they cannot be had, those
    /// that were attached stay as they were.
    ///
    /// # Errors
    /// `HostLost`, `DiskUnusable`, `HostResourcesShort`.
    async fn fit_disks(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    /// Starts a copy of a VM for a test, on these disks and in this network, beside the VM itself. One
    /// that runs on them goes on running.
    ///
    /// # Errors
    /// `ReplicaDidNotStart`, `HostLost`.
    async fn start_test(&self, vm: &Vm, disks: &[ServedDisk], network: &str)
    -> Result<(), Failure>;

    /// Stops and deletes the copy that a test made. None is no error.
    ///
    /// # Errors
    /// `HostLost`.
    async fn end_test(&self, vm: &Vm) -> Result<(), Failure>;

    /// Brings the guest's applications to rest: returns when they have put their data in order, it is
    /// on the disks, and nothing more is written. The guest goes on by itself after `at_most`, also if
    /// whoever asked has died meanwhile.
    ///
    /// # Errors
    /// `GuestNotQuiesced` if it does not come to rest in time, which leaves it running; `HostLost`.
    async fn freeze(&self, vm: &Vm, at_most: Duration) -> Result<(), Failure>;

    /// Lets a guest go on, whatever came of [`Hypervisor::freeze`]. Success means that it was at rest
    /// until this moment.
    ///
    /// # Errors
    /// `GuestNotQuiesced` if it was not, or had gone on by itself; `HostLost`.
    async fn thaw(&self, vm: &Vm) -> Result<(), Failure>;
}
