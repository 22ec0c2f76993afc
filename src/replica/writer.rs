//! Writing a segment: its parts leave while it is made, several at a time.

use super::builder::{ExtentError, Sealed, SegmentBuilder};
use super::error::VaultError;
use super::segment::{Header, SegmentHash};
use super::stretch::Stretch;
use super::vault::{PutOutcome, Vault, failed};
use crate::domain::id::DiskId;
use object_store::path::Path;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

/// Most bytes that are taken before full parts are sent.
const SLICE_BYTES: usize = 1024 * 1024;

/// Which segment of its disk it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Of the log, or one that a stretch of it was merged into.
    Log(Stretch),
    /// A region of the base.
    Base {
        /// Of the base.
        generation: u64,
        /// Its number.
        region: u64,
    },
}

/// Sends the extents of one segment. What is too much for one object leaves in parts while more is added, so
/// that memory stays bounded: by the parts that are under way, and one that is made. Only with the
/// object that [`SegmentWriter::finish`] answers does the segment exist.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    vault: Vault,
    disk: DiskId,
    place: Place,
    builder: SegmentBuilder,
    /// Each is held by a part that is under way.
    slots: Arc<Semaphore>,
    under_way: JoinSet<Result<(), VaultError>>,
    parts_bytes: u64,
}

/// A segment whose parts are in the vault for good.
#[derive(Debug)]
pub(super) struct Finished {
    /// Where the rest of it belongs.
    pub(super) path: Path,
    /// The rest of it.
    pub(super) sealed: Sealed,
    /// The records of its blocks' checksums, if it is of a base.
    pub(super) sums: Vec<u8>,
    /// Bytes of all its objects.
    pub(super) stored_bytes: u64,
    /// Bytes of the disk that it carries, zeroes left out.
    pub(super) data_bytes: u64,
}

impl Place {
    fn path(&self, vault: &Vault, disk: DiskId) -> Path {
        match self {
            Self::Log(stretch) => stretch.path(vault, disk),
            Self::Base { generation, region } => vault.region_path(disk, *generation, *region),
        }
    }

    fn part_path(&self, vault: &Vault, disk: DiskId, part: u16, hash: SegmentHash) -> Path {
        match self {
            Self::Log(stretch) => stretch.part_path(vault, disk, part, hash),
            Self::Base { generation, region } => {
                vault.region_part_path(disk, *generation, *region, part, hash)
            }
        }
    }
}

impl SegmentWriter {
    /// An empty segment. At most as many of its parts are under way as `slots` has permits, which
    /// several segments may share.
    pub(super) fn new(vault: &Vault, header: Header, place: Place, slots: Arc<Semaphore>) -> Self {
        Self {
            vault: vault.clone(),
            disk: header.disk,
            place,
            builder: SegmentBuilder::new(header, vault.sealing()),
            slots,
            under_way: JoinSet::new(),
            parts_bytes: 0,
        }
    }

    /// Adds data at `offset` of the disk, after every extent added before. May begin to send a part, once
    /// another one has arrived if too many are under way.
    ///
    /// # Errors
    /// [`VaultError::Extent`] for an extent out of order or outside the disk or region;
    /// [`VaultError::Store`] if a part could not be sent, after which the writer is of no use: the same
    /// segment is written again from its start, and parts that arrived are not sent a second time.
    pub(super) async fn data(&mut self, offset: u64, data: &[u8]) -> Result<(), VaultError> {
        let mut offset = offset;
        for slice in data.chunks(SLICE_BYTES) {
            self.builder.data(offset, slice).map_err(|source| self.refused(source))?;
            offset += slice.len() as u64;
            self.send_parts().await?;
        }
        Ok(())
    }

    /// Adds a range that reads as zeroes, after every extent added before.
    ///
    /// # Errors
    /// [`VaultError::Extent`] for a range out of order or outside the disk.
    pub(super) fn zeroes(&mut self, range: Range<u64>) -> Result<(), VaultError> {
        self.builder.zeroes(range).map_err(|source| self.refused(source))
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> usize {
        self.builder.rows()
    }

    /// Closes the segment: returns once the vault has all its parts durably.
    ///
    /// # Errors
    /// [`VaultError::Store`], as of [`SegmentWriter::data`].
    pub(super) async fn finish(mut self) -> Result<Finished, VaultError> {
        self.builder.finish();
        self.send_parts().await?;
        while let Some(sent) = self.under_way.join_next().await {
            self.arrived(sent)?;
        }
        let path = self.path();
        let data_bytes = self.builder.data_bytes();
        let (sealed, sums) = self.builder.seal_with_sums();
        let stored_bytes = self.parts_bytes + sealed.length;
        Ok(Finished { path, sealed, sums, stored_bytes, data_bytes })
    }

    async fn send_parts(&mut self) -> Result<(), VaultError> {
        while let Some((part, sealed)) = self.builder.take_part() {
            let path = self.place.part_path(&self.vault, self.disk, part, sealed.hash);
            let slot = Arc::clone(&self.slots).acquire_owned().await;
            while let Some(sent) = self.under_way.try_join_next() {
                self.arrived(sent)?;
            }
            self.parts_bytes += sealed.length;
            let vault = self.vault.clone();
            self.under_way.spawn(async move {
                let _slot = slot;
                send_part(&vault, &path, sealed).await
            });
        }
        Ok(())
    }

    /// What became of a part that was under way.
    fn arrived(&self, sent: Result<Result<(), VaultError>, JoinError>) -> Result<(), VaultError> {
        sent.unwrap_or_else(|ended| match ended.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Its runtime is ending.
            Err(ended) => Err(failed("write", &self.path(), ended.into())),
        })
    }

    fn path(&self) -> Path {
        self.place.path(&self.vault, self.disk)
    }

    fn refused(&self, source: ExtentError) -> VaultError {
        VaultError::Extent { object: self.path().to_string(), source }
    }
}

/// Returns once the vault has the part durably. One that was sent before an interruption is found again
/// by its name.
async fn send_part(vault: &Vault, path: &Path, sealed: Sealed) -> Result<(), VaultError> {
    if vault.has(path, sealed.length).await? {
        return Ok(());
    }
    match vault.create(path, sealed.bytes).await? {
        PutOutcome::Created | PutOutcome::Existed => Ok(()),
    }
}
