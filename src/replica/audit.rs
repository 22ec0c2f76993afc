//! Proving that the recovery points of a vault can be restored, from the vault alone.
//!
//! Every point is opened as a failover would open it, which proves chains and completeness, and every
//! object under it is read once, which proves the data. A damaged frame counts against the points that
//! show it: where a later write lies over it, the point is as good as before.
//!
//! The checksums by which a resynchronization compares are proved too, against the data. Damaged ones are
//! told apart: they cost that resynchronization the reading of the data, and no recovery point.
//!
//! The vault may be in use: a collection deletes points that were let go, and what they alone needed. Where
//! an object is missing, the points of its VM are listed and proved once more: what is missing then is. A VM that
//! had points when the audit began, and has none when it is its turn, had its replica deleted meanwhile: it is named,
//! since somebody may ask for it, and is nothing that is wrong.
//!
//! At most [`CHECKS`] objects are read at a time, 4 MiB of each. A storage that does not answer is no
//! damage: it ends the audit.

use super::error::VaultError;
use super::extent_map::Piece;
use super::fingerprint::RegionSums;
use super::image::{DiskImage, LogContent, Object, newest_usable, region_object};
use super::keys::KeyId;
use super::point::{Names, RecoveryPointRecord};
use super::seal::FrameOpener;
use super::segment::{Content, REGION_BYTES, Row};
use super::vault::{Vault, in_object};
use crate::domain::id::{DiskId, VaultId, VmId};
use crate::domain::time::Timestamp;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;
use object_store::path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Objects that are read at one time.
const CHECKS: usize = 4;

/// Most bytes of one request.
const REQUEST_BYTES: u64 = 4 * 1024 * 1024;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Points, lists and indexes.
    Indexes,
    /// All data as well.
    Everything,
}

/// What an audit found.
#[derive(Debug, Default)]
pub struct Audit {
    /// The VMs, by id.
    pub vms: Vec<VmAudit>,
    /// What is wrong, each once.
    pub findings: Vec<String>,
    /// Checksums of blocks that cannot be used: the data is read instead, and every point is as good.
    pub bad_checksums: Vec<String>,
    /// The objects whose data keys are wrapped by keys that are not the active one.
    pub old_keys: BTreeMap<KeyId, BTreeSet<String>>,
    /// Bytes of frames that were read and found good.
    pub checked_bytes: u64,
}

/// A VM in an audit.
#[derive(Debug)]
pub struct VmAudit {
    /// The VM.
    pub vm: VmId,
    /// What its newest point calls it and its disks.
    pub names: Names,
    /// Its points that can be read, oldest first.
    pub points: Vec<PointAudit>,
    /// How many points cannot be read at all.
    pub unreadable_points: usize,
    /// It had points when the audit began, and they are gone: its replica was deleted meanwhile.
    pub deleted_meanwhile: bool,
}

/// A recovery point in an audit.
#[derive(Debug)]
pub struct PointAudit {
    /// Its cycle.
    pub cycle: u64,
    /// Its time.
    pub at: Timestamp,
    /// What makes it impossible to restore, as places in [`Audit::findings`].
    pub because: BTreeSet<usize>,
}

/// What was read so far, for who waits.
type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// An audit that is under way.
struct Auditor<'a> {
    vault: &'a Vault,
    depth: Depth,
    done_bytes: AtomicU64,
    progress: Progress<'a>,
    findings: Vec<String>,
    /// Those of the VM under way that say that something is missing.
    missing: BTreeSet<String>,
    bad_checksums: Vec<String>,
    old_keys: BTreeMap<KeyId, BTreeSet<String>>,
    checked_bytes: u64,
    /// What was wrong with the frames of objects that were read, with their ranges of the disk.
    checked: BTreeMap<Path, Vec<(Range<u64>, usize)>>,
}

/// A range of the disk whose data in this object is damaged.
struct BadRange {
    object: Object,
    range: Range<u64>,
    finding: usize,
}

/// The frames of one object.
struct Frames {
    path: Path,
    opener: FrameOpener,
    rows: Vec<Row>,
    /// Of the base region that they belong to.
    sums: Option<Arc<RegionSums>>,
}

/// What came of reading the frames of an object.
#[derive(Default)]
struct Checked {
    good_bytes: u64,
    wrong: Vec<(Range<u64>, VaultError)>,
    /// Which checksums are not those of the data.
    bad_checksums: Option<String>,
}

/// The vaults in a storage.
///
/// # Errors
/// [`VaultError::Store`].
pub async fn vaults_in(store: &dyn ObjectStore) -> Result<Vec<VaultId>, VaultError> {
    let folders = store.list_with_delimiter(Some(&Path::from("v1"))).await;
    let folders = folders.map_err(|source| VaultError::Store {
        operation: "list",
        object: "v1".to_owned(),
        source,
    })?;
    let ids = folders.common_prefixes.iter().filter_map(|path| path.filename()?.parse().ok());
    Ok(ids.map(VaultId).collect())
}

impl Audit {
    /// Whether every recovery point can be restored.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

impl Vault {
    /// Reads the vault and tells which recovery points can be restored and which cannot. `progress` is
    /// told bytes of objects that were read.
    ///
    /// # Errors
    /// [`VaultError::Store`], [`VaultError::VaultNotThere`], [`VaultError::Mark`]: it could not be told.
    pub async fn audit(&self, depth: Depth, progress: Progress<'_>) -> Result<Audit, VaultError> {
        self.probe().await?;
        let mut auditor = Auditor {
            vault: self,
            depth,
            done_bytes: AtomicU64::new(0),
            progress,
            findings: Vec::new(),
            missing: BTreeSet::new(),
            bad_checksums: Vec::new(),
            old_keys: BTreeMap::new(),
            checked_bytes: 0,
            checked: BTreeMap::new(),
        };
        let mut begun = Vec::new();
        for vm in self.vms().await? {
            begun.push((vm, !self.point_cycles(vm).await?.is_empty()));
        }
        let mut vms = Vec::new();
        for (vm, had_points) in begun {
            let mut audit = auditor.vm(vm).await?;
            let is_gone = audit.points.is_empty() && audit.unreadable_points == 0;
            audit.deleted_meanwhile = had_points && is_gone;
            vms.push(audit);
        }
        let Auditor { findings, bad_checksums, old_keys, checked_bytes, .. } = auditor;
        Ok(Audit { vms, findings, bad_checksums, old_keys, checked_bytes })
    }

    /// Bytes of all objects of disks: what an audit reads at most.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub async fn disk_bytes(&self) -> Result<u64, VaultError> {
        let listed = self.list(&Path::from(format!("v1/{}/disk", self.id()))).await?;
        Ok(listed.iter().map(|meta| meta.size).sum())
    }
}

impl Auditor<'_> {
    /// Audits a VM, until nothing is missing that was there, or not asked for, the time before.
    async fn vm(&mut self, vm: VmId) -> Result<VmAudit, VaultError> {
        let (findings, old_keys) = (self.findings.len(), self.old_keys.clone());
        let (mut missing_before, mut names) = (BTreeSet::new(), Names::default());
        loop {
            self.missing.clear();
            let mut audit = self.vm_as_it_is(vm).await?;
            // One that was deleted is still called what it was.
            if audit.points.is_empty() {
                audit.names.clone_from(&names);
            }
            names.clone_from(&audit.names);
            if self.missing.is_subset(&missing_before) {
                return Ok(audit);
            }
            missing_before.clone_from(&self.missing);
            self.findings.truncate(findings);
            // What was good is not read again.
            self.checked.retain(|_, wrong| wrong.iter().all(|(_, finding)| *finding < findings));
            self.old_keys.clone_from(&old_keys);
        }
    }

    /// Audits a VM once.
    async fn vm_as_it_is(&mut self, vm: VmId) -> Result<VmAudit, VaultError> {
        let list = self.vault.points(vm).await?;
        for damaged in &list.damaged {
            self.fault(damaged);
        }
        let mut points: Vec<PointAudit> = list
            .points
            .iter()
            .map(|point| PointAudit { cycle: point.cycle, at: point.at, because: BTreeSet::new() })
            .collect();
        let disks: BTreeSet<DiskId> =
            list.points.iter().flat_map(|point| point.disks.keys().copied()).collect();
        for disk in disks {
            self.disk(disk, &list.points, &mut points).await?;
        }
        for (record, point) in list.points.iter().zip(&mut points) {
            for (disk, name) in &record.names.disks {
                if !record.disks.contains_key(disk) {
                    let cycle = record.cycle;
                    let missing = format!("recovery point {cycle} of VM {vm} lacks disk {name}");
                    point.because.insert(self.finding(&missing));
                }
            }
        }
        let names = list.points.last().map(|point| point.names.clone()).unwrap_or_default();
        let unreadable_points = list.damaged.len();
        Ok(VmAudit { vm, names, points, unreadable_points, deleted_meanwhile: false })
    }

    /// Proves the points of one disk, oldest first, on one image that goes along.
    async fn disk(
        &mut self,
        disk: DiskId,
        records: &[RecoveryPointRecord],
        points: &mut [PointAudit],
    ) -> Result<(), VaultError> {
        let mut image: Option<DiskImage> = None;
        let mut bad = Vec::new();
        // The generation whose log broke, and how: every later point on it is broken as well.
        let mut broken: Option<(u64, usize)> = None;
        for (record, point) in records.iter().zip(points) {
            let Some(sequence) = record.disks.get(&disk).map(|at| at.sequence) else { continue };
            let usable = damage_or(newest_usable(self.vault, disk, sequence).await)?;
            let generation = match usable {
                Ok((generation, manifest)) => {
                    let path = self.vault.manifest_path(disk, generation);
                    self.note_key(manifest.key, &path);
                    generation
                }
                Err(error) => {
                    point.because.insert(self.fault(&error));
                    continue;
                }
            };
            if let Some((_, finding)) = broken.filter(|(which, _)| *which == generation) {
                point.because.insert(finding);
                continue;
            }
            let known = image
                .take()
                .filter(|image| image.generation() == generation && image.sequence() <= sequence);
            let from = known.as_ref().map_or(0, DiskImage::segment_count);
            let is_new = known.is_none();
            let opened = match known {
                Some(mut image) => image.advance(sequence).await.map(|()| image),
                None => self.vault.open_disk(disk, sequence).await,
            };
            match damage_or(opened)? {
                Ok(opened) => {
                    if is_new {
                        bad.clear();
                        self.regions(&opened, &mut bad).await?;
                    }
                    self.segments(&opened, from, &mut bad).await?;
                    let shown = bad.iter().filter(|bad: &&BadRange| shows(&opened, bad));
                    point.because.extend(shown.map(|bad| bad.finding));
                    image = Some(opened);
                }
                Err(error) => {
                    let finding = self.fault(&error);
                    point.because.insert(finding);
                    broken = Some((generation, finding));
                }
            }
        }
        Ok(())
    }

    /// Checks the regions of a base.
    async fn regions(
        &mut self,
        image: &DiskImage,
        bad: &mut Vec<BadRange>,
    ) -> Result<(), VaultError> {
        let regions: Vec<u64> = image.regions().collect();
        let mut reads = stream::iter(regions)
            .map(|region| async move { (region, image.read_index_of(region).await) })
            .buffered(CHECKS);
        let mut objects = Vec::new();
        while let Some((region, read)) = reads.next().await {
            let object = Object::Region(region);
            match damage_or(read)? {
                Ok((index, opener)) => {
                    let object_of = |part| region_object(&index, region, part);
                    let found = self.objects(image, &index.rows, &opener, object_of, bad).await?;
                    let sums = self.sums(image, region).await?;
                    objects.extend(
                        found.into_iter().map(|(object, frames)| {
                            (object, Frames { sums: sums.clone(), ..frames })
                        }),
                    );
                }
                Err(error) => {
                    let range = region * REGION_BYTES..(region + 1) * REGION_BYTES;
                    let finding = self.fault(&error);
                    bad.push(BadRange { object, range, finding });
                }
            }
            if CHECKS <= objects.len() {
                self.check(std::mem::take(&mut objects), bad).await?;
            }
        }
        self.check(objects, bad).await
    }

    /// The checksums of a region, if it has good ones.
    async fn sums(
        &mut self,
        image: &DiskImage,
        region: u64,
    ) -> Result<Option<Arc<RegionSums>>, VaultError> {
        match damage_or(image.region_sums(region).await)? {
            Ok(sums) => {
                let bytes = sums.as_ref().map_or(0, RegionSums::bytes);
                (self.progress)(self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes);
                Ok(sums.map(Arc::new))
            }
            Err(error) => {
                self.note_bad_checksums(error.to_string());
                Ok(None)
            }
        }
    }

    /// Checks the segments from the `from`th that the image stands on.
    async fn segments(
        &mut self,
        image: &DiskImage,
        from: usize,
        bad: &mut Vec<BadRange>,
    ) -> Result<(), VaultError> {
        for segment in (from..image.segment_count()).map(|nth| nth as u32) {
            let path = image.path(Object::Segment(segment));
            let (index, opener, _) = match damage_or(self.vault.open_index(&path).await)? {
                Ok(opened) => opened,
                // It was read a moment ago: the vault changes under us.
                Err(error) => {
                    let (object, range) = (Object::Segment(segment), 0..image.size_bytes());
                    let finding = self.fault(&error);
                    bad.push(BadRange { object, range, finding });
                    continue;
                }
            };
            let object_of = |part| match part {
                0 => Object::Segment(segment),
                part => Object::Part(segment, part),
            };
            let objects = self.objects(image, &index.rows, &opener, object_of, bad).await?;
            self.check(objects, bad).await?;
        }
        Ok(())
    }

    /// The objects that hold the frames of an index: its own, which `opener` opens, and its parts.
    async fn objects(
        &mut self,
        image: &DiskImage,
        rows: &[Row],
        opener: &FrameOpener,
        object_of: impl Fn(u16) -> Object,
        bad: &mut Vec<BadRange>,
    ) -> Result<Vec<(Object, Frames)>, VaultError> {
        let mut by_part: BTreeMap<u16, Vec<Row>> = BTreeMap::from([(0, Vec::new())]);
        for row in rows {
            if let Content::Frame { part, .. } = row.content {
                by_part.entry(part).or_default().push(*row);
            }
        }
        let mut objects = Vec::new();
        for (part, rows) in by_part {
            let object = object_of(part);
            let path = image.path(object);
            let opened = match part {
                0 => Ok(opener.clone()),
                _ => damage_or(image.opener(object, &path).await)?,
            };
            match opened {
                Ok(opener) => objects.push((object, Frames { path, opener, rows, sums: None })),
                Err(error) => {
                    let (object, finding) = (object_of(0), self.fault(&error));
                    let all =
                        rows.iter().map(|row| BadRange { object, range: row.range(), finding });
                    bad.extend(all);
                }
            }
        }
        Ok(objects)
    }

    /// Reads the frames of objects that were not read before, several at a time.
    async fn check(
        &mut self,
        objects: Vec<(Object, Frames)>,
        bad: &mut Vec<BadRange>,
    ) -> Result<(), VaultError> {
        for (_, frames) in &objects {
            self.note_key(frames.opener.key(), &frames.path);
        }
        let (vault, depth, checked) = (self.vault, self.depth, &self.checked);
        let (done_bytes, progress) = (&self.done_bytes, self.progress);
        let results: Vec<_> = stream::iter(objects)
            .map(|(object, frames)| async move {
                let path = frames.path.clone();
                if depth == Depth::Indexes || checked.contains_key(&path) {
                    return Ok((object, path, None));
                }
                let bytes = frames.stored_bytes();
                // On a task of its own, so that every core decodes.
                let check = tokio::spawn(check_frames(vault.clone(), frames));
                let found = check.await.expect("checking a frame does not panic")?;
                progress(done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes);
                Ok::<_, VaultError>((object, path, Some(found)))
            })
            .buffer_unordered(CHECKS)
            .try_collect()
            .await?;
        for (object, path, found) in results {
            if let Some(Checked { good_bytes, wrong, bad_checksums }) = found {
                self.checked_bytes += good_bytes;
                if let Some(text) = bad_checksums {
                    self.note_bad_checksums(text);
                }
                let wrong = wrong.into_iter();
                let wrong = wrong.map(|(range, error)| (range, self.fault(&error)));
                let wrong: Vec<_> = wrong.collect();
                self.checked.insert(path.clone(), wrong);
            }
            let object = match object {
                Object::Part(segment, _) => Object::Segment(segment),
                Object::RegionPart(region, ..) => Object::Region(region),
                object => object,
            };
            for (range, finding) in self.checked.get(&path).into_iter().flatten() {
                bad.push(BadRange { object, range: range.clone(), finding: *finding });
            }
        }
        Ok(())
    }

    /// The place of what is wrong as a finding.
    fn fault(&mut self, error: &VaultError) -> usize {
        let text = error.to_string();
        let place = self.finding(&text);
        if matches!(error, VaultError::Missing { .. } | VaultError::NoBase { .. }) {
            self.missing.insert(text);
        }
        place
    }

    /// The place of a finding, which is new or was there before.
    fn finding(&mut self, text: &str) -> usize {
        if let Some(place) = self.findings.iter().position(|known| known == text) {
            return place;
        }
        self.findings.push(text.to_owned());
        self.findings.len() - 1
    }

    fn note_bad_checksums(&mut self, text: String) {
        if !self.bad_checksums.contains(&text) {
            self.bad_checksums.push(text);
        }
    }

    fn note_key(&mut self, key: Option<KeyId>, path: &Path) {
        let active = self.vault.sealing().keys.as_ref().map(|keys| keys.active());
        if let Some(key) = key.filter(|key| Some(*key) != active) {
            self.old_keys.entry(key).or_default().insert(path.to_string());
        }
    }
}

impl Frames {
    fn stored_bytes(&self) -> u64 {
        self.rows.iter().map(|row| frame_of(row).map_or(0, |frame| frame.end - frame.start)).sum()
    }
}

/// Reads and opens every frame.
async fn check_frames(vault: Vault, frames: Frames) -> Result<Checked, VaultError> {
    let mut rows: Vec<Row> =
        frames.rows.iter().filter(|row| frame_of(row).is_some()).copied().collect();
    rows.sort_unstable_by_key(|row| frame_of(row).map(|frame| frame.start));
    let mut checked = Checked::default();
    let mut rest = &rows[..];
    while let Some(start) = rest.first().and_then(frame_of).map(|frame| frame.start) {
        let fits = |row: &Row| frame_of(row).is_some_and(|it| it.end - start <= REQUEST_BYTES);
        let count = rest.iter().take_while(|row| fits(row)).count().max(1);
        let (request, after) = rest.split_at(count);
        rest = after;
        let end = request.iter().filter_map(frame_of).map(|it| it.end).max().unwrap_or(start);
        match damage_or(vault.read(&frames.path, start..end).await)? {
            Ok((bytes, _)) => {
                for row in request {
                    let frame = frame_of(row).unwrap_or(start..start);
                    let place = (frame.start - start) as usize..(frame.end - start) as usize;
                    checked.add(&frames, row, &bytes.slice(place));
                }
            }
            // One by one: what is there may still be good.
            Err(_) if 1 < count => {
                for row in request {
                    let frame = frame_of(row).unwrap_or(start..start);
                    match damage_or(vault.read(&frames.path, frame).await)? {
                        Ok((bytes, _)) => checked.add(&frames, row, &bytes),
                        Err(error) => checked.wrong.push((row.range(), error)),
                    }
                }
            }
            Err(error) => checked.wrong.extend(request.first().map(|row| (row.range(), error))),
        }
    }
    Ok(checked)
}

impl Checked {
    /// Opens the frame of a row and compares it with its checksums.
    fn add(&mut self, frames: &Frames, row: &Row, stored: &Bytes) {
        let data = match frames.opener.open(row, stored) {
            Ok(data) => data,
            Err(damage) => {
                return self.wrong.push((row.range(), in_object(&frames.path)(damage)));
            }
        };
        self.good_bytes += row.length;
        let Some(sums) = &frames.sums else { return };
        if self.bad_checksums.is_none() && !sums.fit(row.offset, &data) {
            let (object, offset) = (sums.path(), row.offset);
            self.bad_checksums = Some(format!(
                "object {object}: its checksums are not those of the data at byte {offset} of the disk"
            ));
        }
    }
}

/// Where the frame of a row lies in its object.
fn frame_of(row: &Row) -> Option<Range<u64>> {
    match row.content {
        Content::Frame { position, stored, .. } => Some(position..position + u64::from(stored)),
        Content::Zeroes => None,
    }
}

/// Whether a reader of the image comes upon this damage.
fn shows(image: &DiskImage, bad: &BadRange) -> bool {
    let range = bad.range.start..bad.range.end.min(image.size_bytes());
    image.log_pieces(range).any(|piece| match (piece, bad.object) {
        (Piece::Gap(_), Object::Region(_) | Object::RegionPart(..)) => true,
        (Piece::Extent(extent), Object::Segment(segment) | Object::Part(segment, _)) => {
            matches!(*extent.value, LogContent::Frame { segment: shown, .. } if shown == segment)
        }
        (Piece::Gap(_), Object::Segment(_) | Object::Part(..))
        | (Piece::Extent(_), Object::Region(_) | Object::RegionPart(..)) => false,
    })
}

/// Tells damage, which an audit notes, from a storage that does not answer, which ends it.
fn damage_or<T>(result: Result<T, VaultError>) -> Result<Result<T, VaultError>, VaultError> {
    match result {
        Err(
            error @ (VaultError::Store { .. }
            | VaultError::VaultNotThere { .. }
            | VaultError::Mark { .. }),
        ) => Err(error),
        result => Ok(result),
    }
}
