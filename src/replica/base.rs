//! Writing a base: a copy of the whole disk, region by region.
//!
//! The disk may be written to while it is copied, as long as every write since the copy began is in a
//! segment after `from_seq`: such a region is newer than others, and the log on top evens that out.

use super::error::VaultError;
use super::fingerprint::sums_object;
use super::manifest::Manifest;
use super::segment::{Header, Kind, SegmentHash, same};
use super::vault::{PARALLEL, PutOutcome, Vault, damaged};
use super::writer::{Finished, Place, SegmentWriter};
use crate::domain::id::DiskId;
use crate::domain::time::Timestamp;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// The copy of one disk as one generation of its base. A generation is copied once; after a copy that
/// cannot be trusted (writes were missed) the next one begins a generation of its own.
#[derive(Debug)]
pub struct BaseCopy {
    vault: Vault,
    disk: DiskId,
    generation: u64,
    epoch: u64,
    disk_size: u64,
    /// For the parts of all its regions.
    slots: Arc<Semaphore>,
    /// Regions that were sent or read back by this value.
    known: Mutex<BTreeMap<u64, RegionPresent>>,
}

/// Collects one region of the copy. What it holds in memory leaves in parts of 4 MiB;
/// [`RegionWriter::commit`] alone makes the region exist.
#[derive(Debug)]
pub struct RegionWriter<'a> {
    copy: &'a BaseCopy,
    region: u64,
    writer: SegmentWriter,
}

/// A region that is in the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionPresent {
    /// Its hash.
    pub hash: SegmentHash,
    /// Bytes of its object and its parts.
    pub stored_bytes: u64,
    /// The generation that it was written for.
    pub generation: u64,
}

/// How a finished base goes together with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The last segment whose changes the base already holds everywhere: later ones apply on top.
    pub from_seq: u64,
    /// The hash of that segment; `NONE` if there is none or if the log begins anew after it.
    pub from_hash: SegmentHash,
    /// The first sequence at which the base can be read: for the copy of a disk in use, the first cut
    /// after the copy ended, since earlier points would show what was written after them.
    pub usable_from: u64,
    /// When the copy ended.
    pub at: Timestamp,
}

impl BaseCopy {
    pub(super) fn new(
        vault: Vault,
        disk: DiskId,
        generation: u64,
        epoch: u64,
        disk_size: u64,
    ) -> Self {
        let slots = vault.upload_slots();
        Self { vault, disk, generation, epoch, disk_size, slots, known: Mutex::default() }
    }

    /// Starts region `region`: the bytes from `region` x 64 MiB on.
    pub fn region(&self, region: u64) -> RegionWriter<'_> {
        let place = Place::Base { generation: self.generation, region };
        let slots = Arc::clone(&self.slots);
        let writer = SegmentWriter::new(&self.vault, self.header(region), place, slots);
        RegionWriter { copy: self, region, writer }
    }

    /// The regions that an earlier run has sent, read back and checked; regions of zeroes alone are
    /// never among them.
    ///
    /// # Errors
    /// [`VaultError::OtherWriter`] if one is of another epoch; [`VaultError::Damaged`];
    /// [`VaultError::Store`].
    pub async fn regions_present(&self) -> Result<BTreeMap<u64, RegionPresent>, VaultError> {
        let listed = self.vault.list(&self.vault.base_folder(self.disk, self.generation)).await?;
        let regions: BTreeMap<u64, RegionPresent> = stream::iter(listed)
            .map(|meta| async move {
                let Some(region) = region_number(&meta.location) else { return Ok(None) };
                let present = match self.known(region) {
                    Some(known) => known,
                    None => self.read_back(region, &meta.location).await?,
                };
                Ok::<_, VaultError>(Some((region, present)))
            })
            .buffer_unordered(PARALLEL)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await?;
        Ok(regions)
    }

    /// Closes the base with all regions that are present: from then on recovery points can stand on
    /// it. Repeating it is fine; what the first call wrote stands and is returned.
    ///
    /// # Errors
    /// As [`BaseCopy::regions_present`]; [`VaultError::Missing`] if a region that was sent is gone;
    /// [`VaultError::OtherWriter`] if the generation was completed by another epoch or from another
    /// sequence.
    pub async fn complete(&self, completion: Completion) -> Result<Completion, VaultError> {
        self.complete_over(BTreeMap::new(), completion).await
    }

    /// Closes the base with all regions that are present, and those of earlier generations that it
    /// takes over as they are.
    pub(super) async fn complete_over(
        &self,
        taken_over: BTreeMap<u64, RegionPresent>,
        completion: Completion,
    ) -> Result<Completion, VaultError> {
        let present = self.regions_present().await?;
        self.none_is_gone(&present, &taken_over).await?;
        let mut regions = taken_over;
        regions.extend(present);
        let Self { epoch, disk_size, .. } = *self;
        let manifest = Manifest { epoch, disk_size, completion, regions, key: None };
        let sealed = manifest.seal(&self.vault, self.disk, self.generation);
        let path = self.vault.manifest_path(self.disk, self.generation);
        match self.vault.create(&path, sealed.bytes).await? {
            PutOutcome::Created => Ok(completion),
            PutOutcome::Existed => {
                let there = self.vault.read_manifest(self.disk, self.generation).await?;
                let from = (there.epoch, there.completion.from_seq, there.completion.from_hash);
                if from == (epoch, completion.from_seq, completion.from_hash) {
                    return Ok(there.completion);
                }
                let object = path.to_string();
                Err(VaultError::OtherWriter { object, ours: epoch, theirs: there.epoch })
            }
        }
    }

    /// Checks that no region that was sent, or is to be taken over, is missing. Somebody who was held up
    /// for longer than what nobody needs is kept would close a base over regions that were deleted.
    async fn none_is_gone(
        &self,
        present: &BTreeMap<u64, RegionPresent>,
        taken_over: &BTreeMap<u64, RegionPresent>,
    ) -> Result<(), VaultError> {
        let gone = |generation, region| {
            let path = self.vault.region_path(self.disk, generation, region);
            Err(VaultError::Missing { object: path.to_string() })
        };
        let sent: Vec<u64> = self.lock_known().keys().copied().collect();
        if let Some(region) = sent.into_iter().find(|region| !present.contains_key(region)) {
            return gone(self.generation, region);
        }
        let generations: BTreeSet<u64> =
            taken_over.values().map(|taken| taken.generation).collect();
        for generation in generations {
            let listed = self.vault.list(&self.vault.base_folder(self.disk, generation)).await?;
            let there: BTreeSet<u64> =
                listed.iter().filter_map(|meta| region_number(&meta.location)).collect();
            let mut wanted = taken_over.iter().filter(|(_, taken)| taken.generation == generation);
            if let Some((region, _)) = wanted.find(|(region, _)| !there.contains(region)) {
                return gone(generation, *region);
            }
        }
        Ok(())
    }

    fn header(&self, region: u64) -> Header {
        Header {
            kind: Kind::Base,
            vault: self.vault.id(),
            disk: self.disk,
            sequence: self.generation,
            epoch: self.epoch,
            previous: SegmentHash::NONE,
            cut_at: Timestamp::default(),
            disk_size: self.disk_size,
            place: region,
            encrypted: false,
        }
    }

    fn known(&self, region: u64) -> Option<RegionPresent> {
        self.lock_known().get(&region).copied()
    }

    fn learn(&self, region: u64, present: RegionPresent) -> RegionPresent {
        self.lock_known().insert(region, present);
        present
    }

    fn lock_known(&self) -> MutexGuard<'_, BTreeMap<u64, RegionPresent>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, region: u64, finished: Finished) -> Result<RegionPresent, VaultError> {
        let Finished { path, sealed, stored_bytes, .. } = finished;
        let ours = RegionPresent { hash: sealed.hash, stored_bytes, generation: self.generation };
        match self.vault.create(&path, sealed.bytes).await? {
            PutOutcome::Created => Ok(self.learn(region, ours)),
            // Sent before, maybe from an older state of the disk: as good, the log goes on top.
            PutOutcome::Existed => self.read_back(region, &path).await,
        }
    }

    async fn read_back(&self, region: u64, path: &Path) -> Result<RegionPresent, VaultError> {
        let (there, length) = self.vault.read_index(path).await?;
        self.vault.checked(path, &there.header, self.disk, self.generation)?;
        same(112, "region", there.header.place, region)
            .and_then(|()| same(104, "disk size", there.header.disk_size, self.disk_size))
            .map_err(|damage| damaged(path, damage))?;
        if there.header.epoch != self.epoch {
            let (ours, theirs) = (self.epoch, there.header.epoch);
            return Err(VaultError::OtherWriter { object: path.to_string(), ours, theirs });
        }
        let stored_bytes = length + there.parts_bytes();
        let present = RegionPresent { hash: there.hash, stored_bytes, generation: self.generation };
        Ok(self.learn(region, present))
    }
}

impl RegionWriter<'_> {
    /// Adds data at `offset` of the disk, after all data added before; what is left out is zero, and
    /// zeroes are left out. May send a part.
    ///
    /// # Errors
    /// [`VaultError::Extent`] for data out of order or outside the region; [`VaultError::Store`], after which
    /// the writer is of no use: the region is written again, and parts that arrived and say the same
    /// are not sent a second time.
    pub async fn data(&mut self, offset: u64, data: &[u8]) -> Result<(), VaultError> {
        self.writer.data(offset, data).await
    }

    /// Sends what remains of the region, after its parts and the checksums of its blocks: returns once the vault
    /// has it durably, or `None` if all of it is zero and nothing had to be sent. A region that is there
    /// already stands as it is.
    ///
    /// # Errors
    /// [`VaultError::OtherWriter`] if it was sent by another epoch; [`VaultError::Store`].
    pub async fn commit(self) -> Result<Option<RegionPresent>, VaultError> {
        let Self { copy, region, writer } = self;
        let mut finished = writer.finish().await?;
        let sums = std::mem::take(&mut finished.sums);
        if sums.is_empty() {
            return Ok(None);
        }
        let hash = finished.sealed.hash;
        let path = copy.vault.sums_path(copy.disk, copy.generation, region, hash);
        match copy.vault.create(&path, sums_object(hash, sums)).await? {
            PutOutcome::Created | PutOutcome::Existed => {}
        }
        copy.send(region, finished).await.map(Some)
    }
}

/// The region number in `<region:08x>.seg`.
fn region_number(path: &Path) -> Option<u64> {
    u64::from_str_radix(path.filename()?.strip_suffix(".seg")?, 16).ok()
}
