//! The lease of who reads a disk of a vault that others write and collect at the same time.

use crate::cli::complain;
use crate::domain::id::{RecoveryPointId, VmId};
use crate::ports::clock::Clock;
use crate::ports::random::Random;
use crate::replica::{DiskImage, Pins, Vault, VaultError};
use crate::service::{KernelRandom, SystemClock};
use std::convert::Infallible;
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;
use uuid::Builder;

/// For how long a lease is taken; it is renewed when half of it is over. What was killed holds its lease
/// for no longer than this.
const LEASE_FOR: Duration = Duration::from_hours(6);

/// One reader, and the VM whose lease it took or tried to take.
pub(super) struct Reader {
    id: RecoveryPointId,
    vm: OnceLock<VmId>,
}

/// Somebody reads on without a lease.
#[derive(Debug, thiserror::Error)]
#[error(
    "no lease of the recovery point could be taken: should its service let the point go meanwhile, what \
     is read may be deleted"
)]
struct NoLease(#[source] VaultError);

impl Reader {
    /// A reader with an id of its own, so that none gives up the lease of another.
    pub(super) fn new() -> Self {
        let mut bytes = [0; 16];
        KernelRandom.fill(&mut bytes);
        let id = RecoveryPointId(Builder::from_random_bytes(bytes).into_uuid());
        Self { id, vm: OnceLock::new() }
    }

    /// Does something under a lease of what the image reads, however long it takes. A vault that is only
    /// readable, or full, is read without one.
    pub(super) async fn hold<T>(
        &self,
        vault: &Vault,
        vm: VmId,
        image: &DiskImage,
        work: impl Future<Output = T>,
    ) -> T {
        let vm = *self.vm.get_or_init(|| vm);
        let pins = Pins::of([image]);
        if let Err(error) = self.put(vault, vm, &pins).await {
            complain(&NoLease(error));
            return work.await;
        }
        tokio::select! {
            done = work => done,
            never = self.renew(vault, vm, &pins) => match never {},
        }
    }

    async fn put(&self, vault: &Vault, vm: VmId, pins: &Pins) -> Result<(), VaultError> {
        vault.put_lease(vm, self.id, pins, SystemClock.now().after(LEASE_FOR)).await
    }

    async fn renew(&self, vault: &Vault, vm: VmId, pins: &Pins) -> Infallible {
        loop {
            tokio::time::sleep(LEASE_FOR / 2).await;
            if let Err(error) = self.put(vault, vm, pins).await {
                complain(&NoLease(error));
            }
        }
    }

    /// Gives the lease up, also after work that did not come to its end.
    pub(super) async fn release(&self, vault: &Vault) {
        if let Some(vm) = self.vm.get() {
            // One that stays is over by itself.
            let _ = vault.release_lease(*vm, self.id).await;
        }
    }
}
