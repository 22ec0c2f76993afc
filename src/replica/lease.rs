//! Leases: what a reader of a recovery point needs, so that nobody deletes it under the reader.
//!
//! A lease is JSON, `{"version":1,"disks":{"<disk>":{"generation":..,"segments":[[first,last],..],"merged":[..]}}}`.
//! Its name says until when it holds; it is renewed by one with a later end, since no object is changed.

use super::error::VaultError;
use super::image::DiskImage;
use super::segment::{Flaw, damage};
use super::stretch::Stretch;
use super::vault::{Vault, damaged};
use crate::domain::id::{DiskId, RecoveryPointId, VmId};
use crate::domain::time::Timestamp;
use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const VERSION: u32 = 1;

/// What readers of a VM's disks need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    disks: BTreeMap<DiskId, DiskPins>,
}

/// What the reader of one disk needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DiskPins {
    /// The generation of the base, with every region that its list names.
    pub(super) generation: u64,
    /// Runs of single segments, first and last.
    segments: Vec<(u64, u64)>,
    /// Merged segments, first and last.
    merged: Vec<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
struct Lease {
    version: u32,
    disks: BTreeMap<DiskId, DiskPins>,
}

impl Pins {
    /// What the readers of these images need.
    pub fn of<'a>(images: impl IntoIterator<Item = &'a DiskImage>) -> Self {
        let pins = |image: &DiskImage| {
            let mut pins = DiskPins { generation: image.base().0, ..DiskPins::default() };
            for stretch in image.stretches() {
                pins.add(stretch);
            }
            pins
        };
        Self { disks: images.into_iter().map(|image| (image.disk(), pins(image))).collect() }
    }

    pub(super) fn disk(&self, disk: DiskId) -> Option<&DiskPins> {
        self.disks.get(&disk)
    }
}

impl DiskPins {
    fn add(&mut self, stretch: &Stretch) {
        if stretch.end.is_some() {
            self.merged.push((stretch.from, stretch.to));
            return;
        }
        match self.segments.last_mut() {
            Some((_, last)) if *last + 1 == stretch.from => *last = stretch.to,
            _ => self.segments.push((stretch.from, stretch.to)),
        }
    }

    pub(super) fn needs_segment(&self, sequence: u64) -> bool {
        self.segments.iter().any(|(first, last)| (*first..=*last).contains(&sequence))
    }

    pub(super) fn needs_merged(&self, from: u64, to: u64) -> bool {
        self.merged.contains(&(from, to))
    }
}

impl Vault {
    /// Takes or renews the lease of a reader of a recovery point: until `expires`, what `pins` names is
    /// not deleted. Returns once it is durable.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub async fn put_lease(
        &self,
        vm: VmId,
        reader: RecoveryPointId,
        pins: &Pins,
        expires: Timestamp,
    ) -> Result<(), VaultError> {
        let lease = Lease { version: VERSION, disks: pins.disks.clone() };
        let text = serde_json::to_vec(&lease).expect("ids and numbers have a JSON form");
        let name = format!("{reader}.{:020}.json", expires.as_millis());
        self.create(&self.lease_folder(vm).join(name), vec![Bytes::from(text)]).await.map(drop)
    }

    /// Gives up the leases of a reader; none is fine.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub async fn release_lease(&self, vm: VmId, reader: RecoveryPointId) -> Result<(), VaultError> {
        let own = format!("{reader}.");
        for meta in self.list_maybe(&self.lease_folder(vm)).await? {
            if meta.location.filename().is_some_and(|name| name.starts_with(&own)) {
                self.delete(&meta.location).await?;
            }
        }
        Ok(())
    }

    /// What live leases pin at `now`. Those that are over are deleted.
    pub(super) async fn leases(&self, vm: VmId, now: Timestamp) -> Result<Vec<Pins>, VaultError> {
        let mut live = Vec::new();
        for meta in self.list_maybe(&self.lease_folder(vm)).await? {
            let path = meta.location;
            match expiry(&path) {
                Some(expires) if expires <= now => self.delete(&path).await?,
                Some(_) | None => live.push(self.read_lease(&path).await?),
            }
        }
        Ok(live)
    }

    async fn read_lease(&self, path: &Path) -> Result<Pins, VaultError> {
        let text = self.read_text(path).await?;
        let lease: Lease = serde_json::from_slice(&text)
            .map_err(|error| damaged(path, damage(0, Flaw::Text(error.to_string()))))?;
        if lease.version != VERSION {
            return Err(damaged(path, damage(0, Flaw::Version(lease.version as u16))));
        }
        Ok(Pins { disks: lease.disks })
    }

    pub(super) fn lease_folder(&self, vm: VmId) -> Path {
        Path::from(format!("v1/{}/vm/{vm}/lease", self.id()))
    }
}

/// The end of a lease, by its name.
fn expiry(path: &Path) -> Option<Timestamp> {
    let millis = path.filename()?.strip_suffix(".json")?.rsplit_once('.')?.1;
    Some(Timestamp::from_millis(millis.parse().ok()?))
}
