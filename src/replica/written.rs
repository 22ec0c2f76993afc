//! Which parts of a disk a stretch of its log speaks of.

use super::error::VaultError;
use super::image::DiskImage;
use super::stretch::cover;
use super::vault::Vault;
use crate::domain::id::DiskId;
use std::ops::Range;

/// Rows that are held in memory at most, of about 100 bytes each.
const ROWS_MAX: usize = 1 << 20;

impl Vault {
    /// What the segments after `after` up to `through` say something about, ascending and apart from
    /// each other: two points of the log differ nowhere else. `None` where it cannot be told: the
    /// segments were merged with others, the disk has changed its size, or there is too much.
    ///
    /// # Errors
    /// [`VaultError::Damaged`], [`VaultError::ChainBroken`], [`VaultError::EpochFell`];
    /// [`VaultError::Store`].
    pub async fn written_between(
        &self,
        disk: DiskId,
        after: u64,
        through: u64,
    ) -> Result<Option<Vec<Range<u64>>>, VaultError> {
        if through <= after {
            return Ok(Some(Vec::new()));
        }
        let merged = self.merged_stretches(disk).await?;
        let stretches = cover(&merged, after, through);
        let image = match DiskImage::of_log(self, disk, stretches, ROWS_MAX).await {
            Err(VaultError::Missing { .. }) => return Ok(None),
            image => image?,
        };
        Ok(image.map(|(image, _)| joined(image.log_extents().map(|(range, _)| range))))
    }
}

/// Ascending ranges, those that touch as one.
fn joined(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}
