//! Recovery points: one segment of every disk of a VM, written when all of them are committed.
//!
//! A point is JSON, so that people can read a vault: `{"version":1,"point":{..},"blake3":".."}`, where
//! `blake3` is the hash of `point` written without spaces, fields in the order of the object; keyed, and
//! so a proof of origin, in an encrypted vault. Points are never encrypted: whoever lost everything but
//! the vault finds its VMs and disks by the names in them.

use super::error::VaultError;
use super::segment::{Flaw, damage, same};
use super::vault::{PARALLEL, PutOutcome, Vault, damaged, numbered};
use crate::domain::id::{DiskId, RecoveryPointId, VmId};
use crate::domain::time::Timestamp;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const VERSION: u32 = 1;

/// A moment to which a VM can be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPointRecord {
    /// Its id.
    pub id: RecoveryPointId,
    /// The VM.
    pub vm: VmId,
    /// The replication cycle that made it; points are ordered by it.
    pub cycle: u64,
    /// When the disks were as the point shows them.
    pub at: Timestamp,
    /// What the guest knew of it.
    pub consistency: Consistency,
    /// Bytes that its cycle stored in the vault.
    pub stored_bytes: u64,
    /// The state of every disk.
    pub disks: BTreeMap<DiskId, DiskPoint>,
    /// What people call the VM and its disks.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub names: Names,
}

/// What people call a VM and its disks; empty in points of writers that did not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The VM.
    pub vm: String,
    /// Its disks.
    pub disks: BTreeMap<DiskId, String>,
}

/// What the guest knew of a recovery point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Nothing: as after a power cut.
    Crash,
    /// Its applications had put their data in order.
    Application,
}

/// The state of one disk in a recovery point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPoint {
    /// The last segment that belongs to it.
    pub sequence: u64,
    /// The generation of the base when it was made.
    pub generation: u64,
    /// The epoch of the writer.
    pub epoch: u64,
}

/// The recovery points of a VM.
#[derive(Debug)]
pub struct PointList {
    /// Those that can be read, oldest cycle first.
    pub points: Vec<RecoveryPointRecord>,
    /// Why others cannot; a damaged point hides no other.
    pub damaged: Vec<VaultError>,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    point: Value,
    blake3: String,
}

impl Names {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Vault {
    /// Makes a recovery point exist, durably. Every segment that it names must be committed.
    /// Repeating it is fine.
    ///
    /// # Errors
    /// [`VaultError::PointDiffers`] if the cycle has a point with other content;
    /// [`VaultError::Store`].
    pub async fn put_point(&self, point: &RecoveryPointRecord) -> Result<(), VaultError> {
        let path = self.point_path(point.vm, point.cycle);
        match self.create(&path, vec![self.encode(point)]).await? {
            PutOutcome::Created => Ok(()),
            PutOutcome::Existed => {
                let there = self.read_point(point.vm, &path).await?;
                // Between two attempts what people call things may change, and so may what the same data
                // takes: it may have been compressed in another way.
                let (names, stored_bytes) = (point.names.clone(), point.stored_bytes);
                let there = RecoveryPointRecord { stored_bytes, names, ..there };
                if there == *point {
                    return Ok(());
                }
                Err(VaultError::PointDiffers { object: path.to_string(), found: there.id })
            }
        }
    }

    /// The recovery point that a cycle made, if it made one.
    ///
    /// # Errors
    /// [`VaultError::Store`], [`VaultError::Damaged`].
    pub async fn point(
        &self,
        vm: VmId,
        cycle: u64,
    ) -> Result<Option<RecoveryPointRecord>, VaultError> {
        match self.read_point(vm, &self.point_path(vm, cycle)).await {
            Ok(point) => Ok(Some(point)),
            Err(VaultError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The recovery points of a VM.
    ///
    /// # Errors
    /// [`VaultError::Store`]. Damaged points are part of the answer.
    pub async fn points(&self, vm: VmId) -> Result<PointList, VaultError> {
        let mut list = PointList { points: Vec::new(), damaged: Vec::new() };
        for (_, read) in self.read_points(vm).await? {
            match read {
                Ok(point) => list.points.push(point),
                Err(error) => list.damaged.push(error),
            }
        }
        Ok(list)
    }

    /// Deletes every recovery point of the VM but those to keep and those that cannot be read.
    /// Segments stay. Returns how many were deleted.
    ///
    /// # Errors
    /// [`VaultError::Store`]; what was deleted stays deleted, and the call can be repeated.
    pub async fn drop_points(
        &self,
        vm: VmId,
        keep: &[RecoveryPointId],
    ) -> Result<usize, VaultError> {
        let mut dropped = 0;
        for (path, read) in self.read_points(vm).await? {
            if read.is_ok_and(|point| !keep.contains(&point.id)) {
                self.delete(&path).await?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// Deletes the recovery points whose cycles are not among `kept`, up to the newest that is: later
    /// ones may not be known yet. Returns how many were deleted.
    pub(super) async fn drop_let_go(
        &self,
        vm: VmId,
        kept: &BTreeSet<u64>,
    ) -> Result<usize, VaultError> {
        let mut dropped = 0;
        for cycle in self.point_cycles(vm).await? {
            if Some(&cycle) < kept.last() && !kept.contains(&cycle) {
                self.delete(&self.point_path(vm, cycle)).await?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// The cycles of all recovery points, readable or not.
    pub(super) async fn point_cycles(&self, vm: VmId) -> Result<BTreeSet<u64>, VaultError> {
        let listed = self.list(&self.points_folder(vm)).await?;
        Ok(listed.iter().filter_map(|meta| numbered(&meta.location, "json")).collect())
    }

    fn point_path(&self, vm: VmId, cycle: u64) -> Path {
        self.points_folder(vm).join(format!("{cycle:020}.json"))
    }

    /// Every point by path, ascending by cycle, or why it cannot be read.
    async fn read_points(
        &self,
        vm: VmId,
    ) -> Result<Vec<(Path, Result<RecoveryPointRecord, VaultError>)>, VaultError> {
        let listed = self.list(&self.points_folder(vm)).await?;
        let mut paths: Vec<Path> = listed.into_iter().map(|meta| meta.location).collect();
        paths.retain(|path| numbered(path, "json").is_some());
        paths.sort_unstable();
        stream::iter(paths)
            .map(|path| async move {
                match self.read_point(vm, &path).await {
                    Err(error @ (VaultError::Store { .. } | VaultError::VaultNotThere { .. })) => {
                        Err(error)
                    }
                    read => Ok((path, read)),
                }
            })
            .buffered(PARALLEL)
            // A point that another call deletes meanwhile is not missing.
            .try_filter(|(_, read)| {
                let there = !matches!(read, Err(VaultError::Missing { .. }));
                async move { there }
            })
            .try_collect()
            .await
    }

    async fn read_point(&self, vm: VmId, path: &Path) -> Result<RecoveryPointRecord, VaultError> {
        let text = self.read_text(path).await?;
        let wrong = |flaw| damaged(path, damage(0, flaw));
        let not_json = |error: serde_json::Error| wrong(Flaw::Text(error.to_string()));
        let envelope: Envelope = serde_json::from_slice(&text).map_err(not_json)?;
        if envelope.version != VERSION {
            return Err(wrong(Flaw::Version(envelope.version as u16)));
        }
        if self.point_hash(&envelope.point) != envelope.blake3 {
            return Err(wrong(Flaw::Checksum("recovery point")));
        }
        let point: RecoveryPointRecord =
            serde_json::from_value(envelope.point).map_err(not_json)?;
        if point.vm != vm {
            return Err(wrong(Flaw::OtherId { field: "vm", found: point.vm.0, expected: vm.0 }));
        }
        let cycle = numbered(path, "json").unwrap_or_default();
        same(0, "cycle", point.cycle, cycle).map_err(|damage| damaged(path, damage))?;
        Ok(point)
    }

    fn encode(&self, point: &RecoveryPointRecord) -> Bytes {
        let point = serde_json::to_value(point).expect("ids, names and numbers have a JSON form");
        let envelope = Envelope { version: VERSION, blake3: self.point_hash(&point), point };
        Bytes::from(serde_json::to_vec(&envelope).expect("a JSON value has a JSON form"))
    }

    fn point_hash(&self, point: &Value) -> String {
        let mut hasher = self.hash_key().hasher();
        hasher.update(point.to_string().as_bytes()).finalize().to_string()
    }
}
