//! Deleting a replica.

use super::error::VaultError;
use super::vault::{PARALLEL, Vault};
use crate::domain::id::{DiskId, VmId};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;

impl Vault {
    /// Deletes everything that the vault holds of a VM with these disks; answers how many objects.
    ///
    /// In this order, so that nothing claims to be there which is not: recovery points, the lists of
    /// bases, everything else of the disks, leases. After an error the call can be repeated.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub async fn discard(&self, vm: VmId, disks: &[DiskId]) -> Result<usize, VaultError> {
        let mut deleted = self.empty(&self.points_folder(vm)).await?;
        deleted += self.discard_disks(disks).await?;
        Ok(deleted + self.empty(&self.lease_folder(vm)).await?)
    }

    /// Deletes everything that the vault holds of disks that no recovery point has; answers how many objects.
    /// After an error the call can be repeated.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub async fn discard_disks(&self, disks: &[DiskId]) -> Result<usize, VaultError> {
        let mut folders: Vec<_> = disks.iter().map(|disk| self.folder(*disk, "man")).collect();
        folders.extend(disks.iter().map(|disk| self.disk_folder(*disk)));
        let mut deleted = 0;
        for folder in &folders {
            deleted += self.empty(folder).await?;
        }
        Ok(deleted)
    }

    /// Deletes the objects below a folder.
    async fn empty(&self, folder: &Path) -> Result<usize, VaultError> {
        let listed = self.list(folder).await?;
        stream::iter(&listed)
            .map(|meta| self.delete(&meta.location))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        Ok(listed.len())
    }
}
