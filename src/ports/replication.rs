//! The replication port: what the life of a VM asks of the data plane.
//!
//! Every call may be made again after a crash in the middle of it, and then goes on where it was or
//! finds that it is done. Errors are catalogue entries; whoever calls owns the retries.

use crate::domain::failure::Failure;
use crate::domain::id::{DiskId, VaultId};
use crate::domain::time::Timestamp;
use crate::domain::vm::{RecoveryPoint, ResyncReason, Vm};
use async_trait::async_trait;

/// A cut of the logs of all disks of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The instant of the cut.
    pub at: Timestamp,
    /// Bytes in the logs that were cut.
    pub log_bytes: u64,
    /// Whether it was this call that cut them.
    pub fresh: bool,
}

/// A disk of a failed-over VM, served to the recovery site's hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedDisk {
    /// Which disk.
    pub disk: DiskId,
    /// Where: an NBD URI.
    pub uri: String,
}

/// What came of comparing a disk with its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Bytes of the disk that were compared.
    pub compared_bytes: u64,
    /// Bytes of them that differed, and were sent.
    pub different_bytes: u64,
}

/// How a disk of the primary site is brought to a recovery point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// Which disk.
    pub disk: DiskId,
    /// To which point.
    pub point: RecoveryPoint,
    /// The point that it was brought to before: only what lies between the two is looked at.
    pub from: Option<RecoveryPoint>,
    /// Everything is downloaded, and nothing of what is on the disk is relied on.
    pub in_full: bool,
    /// What was told last of an earlier call for the same point: so many bytes, from the start of the
    /// disk, are restored.
    pub done_bytes: u64,
}

/// Told how far a copy is: bytes dealt with, bytes in all.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Told what the volume of a VM's logs lacks, or that it lacks nothing.
pub type LogVolume<'a> = &'a (dyn Fn(Option<Failure>) + Send + Sync);

/// A guest that is brought to rest for a cut.
#[async_trait]
pub trait Guest: Send + Sync {
    /// Asks it to come to rest; returns when it is, or will not be in time.
    async fn freeze(&self);

    /// Lets it go on.
    async fn thaw(&self);
}

/// The data plane of a site.
#[async_trait]
pub trait Replication: Send + Sync {
    /// Checks that every disk of the VM is there, has its size and is served.
    ///
    /// # Errors
    /// `VmNotFound`, `DiskUnusable`, `HostLost`.
    async fn check_source(&self, vm: &Vm) -> Result<(), Failure>;

    /// Checks that the vault answers, by its cheapest request.
    ///
    /// # Errors
    /// Those of the vault: `LinkDown`, `VaultBusy`, `AuthenticationFailed`, ...
    async fn probe_vault(&self, vault: VaultId) -> Result<(), Failure>;

    /// Checks the same from where the VM's work is done that failed ([`Vm::fails_at_host`]): the way to the
    /// vault may be cut from there alone. Where the agents of all hosts are one process it is the same.
    ///
    /// # Errors
    /// Those of [`Replication::probe_vault`]; `HostLost`.
    async fn reach_vault(&self, vm: &Vm) -> Result<(), Failure> {
        self.probe_vault(vm.vault).await
    }

    /// Checks that the vault takes an object.
    ///
    /// # Errors
    /// Those of the vault: `LinkDown`, `VaultFull`, `VaultBusy`, `AuthenticationFailed`, ...
    async fn check_vault(&self, vm: &Vm) -> Result<(), Failure>;

    /// Starts a chain of logs from nothing on all disks at one instant. Tracking is durable when this
    /// returns.
    ///
    /// # Errors
    /// `LogVolumeFull`, `HostResourcesShort`, `DiskUnusable`, `HostLost`.
    async fn start_tracking(&self, vm: &Vm) -> Result<(), Failure>;

    /// Copies a disk to the vault, holes skipped, going on where an earlier call was; answers the
    /// bytes that it sent.
    ///
    /// # Errors
    /// Those of the vault and of the disk.
    async fn copy_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        progress: Progress<'_>,
    ) -> Result<u64, Failure>;

    /// Compares a disk with its replica as it is in the vault, and sends what differs. `done_bytes` is
    /// what was told last of an earlier call for the same chain of logs: so many bytes, from the start
    /// of the disk, are in step but for what is tracked. `progress` is told of nothing that is not
    /// durable in the vault. Older recovery points stay what they are; there is no point of what is sent
    /// before the next cut.
    ///
    /// # Errors
    /// Those of the vault and of the disk; `ReplicaInvalid` if there is nothing to compare with.
    async fn compare_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        done_bytes: u64,
        progress: Progress<'_>,
    ) -> Result<Compared, Failure>;

    /// Declares the copies of all disks complete: from here on the vault can build recovery points.
    ///
    /// # Errors
    /// Those of the vault.
    async fn complete_copy(&self, vm: &Vm) -> Result<(), Failure>;

    /// Cuts the logs of all disks at one instant. Asked again for the same cycle it answers the same.
    ///
    /// # Errors
    /// `LogVolumeFull`, `LogChainBroken`, `HostLost`.
    async fn snapshot(&self, vm: &Vm, cycle: u64) -> Result<Snapshot, Failure>;

    /// The same with the guest at rest at the instant of the cut. What a cut may have to wait for is over before the
    /// guest is asked, and what is left to do once it is made is done after the guest was let go on. A guest is not
    /// asked for a cut that was made before, or that cannot be made.
    ///
    /// # Errors
    /// Those of [`Replication::snapshot`].
    async fn snapshot_at_rest(
        &self,
        vm: &Vm,
        cycle: u64,
        guest: &dyn Guest,
    ) -> Result<Snapshot, Failure> {
        // Enough where cuts wait for nothing.
        guest.freeze().await;
        let snapshot = self.snapshot(vm, cycle).await;
        guest.thaw().await;
        snapshot
    }

    /// Sends the logs that were cut, makes the recovery point and removes them; answers the bytes
    /// stored. Once it returns, the recovery point survives the loss of the primary site.
    ///
    /// # Errors
    /// Those of the vault; `LogChainBroken`, `ReplicaInvalid`, `HostLost`.
    async fn ship(&self, vm: &Vm, cycle: u64, snapshot_at: Timestamp) -> Result<u64, Failure>;

    /// Sends everything tracked up to and including the cut `last_cycle`, which is made if it was not,
    /// and answers the points that the VM does not know. In a planned failover nothing tracked is left
    /// when this returns: if an earlier one had made that cut and led back, there is one cut more.
    ///
    /// # Errors
    /// Those of [`Replication::snapshot`] and [`Replication::ship`].
    async fn ship_through(&self, vm: &Vm, last_cycle: u64) -> Result<Vec<RecoveryPoint>, Failure>;

    /// Proves that a recovery point is complete in the vault: chain, checksums of the indexes, and
    /// one point of every disk.
    ///
    /// # Errors
    /// `ReplicaDamaged`, `ReplicaInvalid`, and those of the vault.
    async fn verify(&self, vm: &Vm, point: RecoveryPoint) -> Result<(), Failure>;

    /// Closes the replica to who wrote to it before and answers the complete points that the vault holds
    /// beyond those the VM knows. After it returns, nothing that is sent under an earlier epoch becomes part
    /// of the replica. One that is [taken over](Vm::takes_replica_over) may not have been closed by somebody else.
    ///
    /// # Errors
    /// Those of the vault.
    async fn fence(&self, vm: &Vm) -> Result<Vec<RecoveryPoint>, Failure>;

    /// Serves the disks of a recovery point at the recovery site, lazily, with a tracked overlay for
    /// writes. Asked again it answers the same disks. Of a VM that has left its vault they are those that it was
    /// failed over to from this point: whole, and the vault is asked for nothing.
    ///
    /// # Errors
    /// Those of the vault; `HostResourcesShort`; `DiskUnusable` of disks that are whole.
    async fn serve(&self, vm: &Vm, point: RecoveryPoint) -> Result<Vec<ServedDisk>, Failure>;

    /// Stops serving a failed-over VM and deletes what was written to its disks. Nothing that is not
    /// served is an error.
    ///
    /// # Errors
    /// `HostResourcesShort`.
    async fn stop_serving(&self, vm: &Vm) -> Result<(), Failure>;

    /// Serves the disks of a recovery point for a test, beside whatever else is served of the VM, with
    /// an overlay of its own that is tracked by nobody. Asked again it answers the same disks.
    ///
    /// # Errors
    /// Those of [`Replication::serve`].
    async fn serve_test(&self, vm: &Vm, point: RecoveryPoint) -> Result<Vec<ServedDisk>, Failure>;

    /// Ends [`Replication::serve_test`] and deletes what the test wrote.
    ///
    /// # Errors
    /// `HostResourcesShort`.
    async fn end_test(&self, vm: &Vm) -> Result<(), Failure>;

    /// Brings a disk at the primary site, which its host has attached and nobody uses, to what it is in
    /// a recovery point; durable when this returns. `progress` is told of nothing that is not durable.
    ///
    /// # Errors
    /// Those of the vault and of the disk.
    async fn restore_disk(
        &self,
        vm: &Vm,
        restore: Restore,
        progress: Progress<'_>,
    ) -> Result<Compared, Failure>;

    /// Starts a chain of logs from nothing on disks that were all brought to the latest recovery point:
    /// nothing of them is suspect. Tracking is durable when this returns.
    ///
    /// # Errors
    /// Those of [`Replication::start_tracking`].
    async fn track_restored(&self, vm: &Vm) -> Result<(), Failure>;

    /// Ends tracking at the source, and deletes its logs. The disks stay.
    ///
    /// # Errors
    /// `HostLost`, `HostResourcesShort`.
    async fn stop_tracking(&self, vm: &Vm) -> Result<(), Failure>;

    /// Checks that the recovery site has room for what of the disks of a failed-over VM, which is served, is in the
    /// vault only. Nothing to do where no VM ever leaves its vault.
    ///
    /// # Errors
    /// `PrerequisiteFailed`; those of the vault.
    async fn check_download(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    /// Brings what of a disk of such a VM is in the vault only to the recovery site, going on where an earlier call
    /// was; durable when this returns. The VM runs on the disk meanwhile.
    ///
    /// # Errors
    /// Those of the vault; `HostResourcesShort`.
    async fn download_disk(&self, _: &Vm, _: DiskId, _: Progress<'_>) -> Result<(), Failure> {
        Ok(())
    }

    /// Has such a VM go on with nothing but its disks, which are all whole: what it writes is tracked no more. Durable
    /// when this returns.
    ///
    /// # Errors
    /// Those of [`Replication::download_disk`].
    async fn leave_vault(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    /// Deletes everything that the vault holds of the VM; the disks of one that has left it stay.
    ///
    /// # Errors
    /// Those of the vault.
    async fn delete_replica(&self, vm: &Vm) -> Result<(), Failure>;

    /// Deletes every recovery point but this one, and the disks of the VM that it does not have.
    ///
    /// # Errors
    /// Those of the vault.
    async fn keep_only(&self, vm: &Vm, point: RecoveryPoint) -> Result<(), Failure>;

    /// Frees what the vault keeps for nobody: points that the VM let go of are deleted, what lies
    /// between those that are left is merged, and what is not needed any more, by a reader neither, is
    /// deleted after a grace period. One pass; to be repeated. Points that the VM has, or has yet to
    /// learn of, stay readable throughout, whenever it is interrupted.
    ///
    /// # Errors
    /// Those of the vault; `ReplicaInvalid` if another owner has taken over.
    async fn reclaim_space(&self, vm: &Vm) -> Result<(), Failure>;

    /// Returns when the tracker has lost track of the VM's changes, with the reason. Meanwhile `log_volume` is told
    /// what the volume of the VM's logs lacks, when that begins, and `None` when it is over, or never was.
    async fn tracking_lost(&self, vm: &Vm, log_volume: LogVolume<'_>) -> ResyncReason;
}
