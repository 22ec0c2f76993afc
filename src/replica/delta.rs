//! Writing one delta of a disk.

use super::error::VaultError;
use super::segment::{Header, Kind, MAX_ROWS, SegmentHash};
use super::stretch::Stretch;
use super::vault::Vault;
use super::writer::{Finished, Place, SegmentWriter};
use crate::domain::id::{DiskId, VaultId};
use crate::domain::time::Timestamp;
use std::ops::Range;

/// Rows after which a delta should be closed and another one begun: half of [`MAX_ROWS`].
const ROWS_TO_CLOSE_AT: usize = MAX_ROWS / 2;

/// What a segment of the log says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaHeader {
    /// Its sequence number: one more than that of the segment before.
    pub sequence: u64,
    /// The epoch of the writer.
    pub epoch: u64,
    /// The hash of the segment before; `NONE` for the first.
    pub previous: SegmentHash,
    /// When the disk was as it is at the end of the segment.
    pub cut_at: Timestamp,
    /// The disk's size in bytes at that time.
    pub disk_size: u64,
}

/// Sends the extents of one delta. Large deltas leave in parts of 4 MiB while they are written, so
/// that memory stays bounded; [`DeltaWriter::commit`] alone makes the delta exist.
#[derive(Debug)]
pub struct DeltaWriter {
    vault: Vault,
    header: Header,
    writer: SegmentWriter,
}

/// A delta that is in the vault for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its sequence.
    pub sequence: u64,
    /// Its hash, which the next delta must name.
    pub hash: SegmentHash,
    /// Bytes of its objects, parts included.
    pub stored_bytes: u64,
    /// Bytes of the disk that it carries, zeroes left out.
    pub data_bytes: u64,
}

impl DeltaHeader {
    pub(super) fn of(self, kind: Kind, vault: VaultId, disk: DiskId) -> Header {
        Header {
            kind,
            vault,
            disk,
            sequence: self.sequence,
            epoch: self.epoch,
            previous: self.previous,
            cut_at: self.cut_at,
            disk_size: self.disk_size,
            place: 0,
            encrypted: false,
        }
    }
}

impl DeltaWriter {
    pub(super) fn new(vault: Vault, header: Header) -> Self {
        let place = Place::Log(Stretch::single(header.sequence));
        let writer = SegmentWriter::new(&vault, header, place, vault.upload_slots());
        Self { vault, header, writer }
    }

    /// Adds data at `offset` of the disk, after every extent added before. May send a part.
    ///
    /// # Errors
    /// [`VaultError::Extent`] for an extent out of order or outside the disk; [`VaultError::Store`],
    /// after which the writer is of no use: the same delta is written again from its start, and parts
    /// that arrived are not sent a second time.
    pub async fn data(&mut self, offset: u64, data: &[u8]) -> Result<(), VaultError> {
        self.writer.data(offset, data).await
    }

    /// Adds a range that reads as zeroes, after every extent added before.
    ///
    /// # Errors
    /// [`VaultError::Extent`] for a range out of order or outside the disk.
    pub fn zeroes(&mut self, range: Range<u64>) -> Result<(), VaultError> {
        self.writer.zeroes(range)
    }

    /// Whether what remains should go into another delta. A log with more extents than one index can
    /// hold is sent as several deltas, of which the recovery point names the last.
    pub fn is_full(&self) -> bool {
        ROWS_TO_CLOSE_AT <= self.writer.rows()
    }

    /// Makes the delta exist: returns once the vault has it durably. Committing the same content
    /// again, after an acknowledgement that was lost, succeeds.
    ///
    /// # Errors
    /// [`VaultError::Fenced`] and [`VaultError::OtherWriter`] if the sequence is taken;
    /// [`VaultError::Store`], after which the delta may or may not exist: write it again.
    pub async fn commit(self) -> Result<Committed, VaultError> {
        let Finished { path, sealed, stored_bytes, data_bytes, .. } = self.writer.finish().await?;
        let hash = self.vault.commit(&path, self.header.epoch, sealed).await?;
        Ok(Committed { sequence: self.header.sequence, hash, stored_bytes, data_bytes })
    }
}
