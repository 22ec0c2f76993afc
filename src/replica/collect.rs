//! Keeping a VM's vault small: points that were let go are deleted, the log between those that are left is
//! merged, and what nobody needs is deleted.
//!
//! What is needed follows from what is in the vault at the time, never from what an earlier pass left
//! undone, so that a pass can be interrupted at any request. Needed are, of every disk: what the recovery
//! points in the vault are read from, the newest base, whatever belongs to a delta or to a copy that is
//! still under way, the end of the log, and what leases pin. An object that is not needed is deleted only
//! once it was not needed for all of [`GRACE`]: a reader that found its way before has time to take a
//! lease. That time is counted in memory: it begins anew when the service starts. It counts from the end of the
//! merges, which can take longer than that where a host may not send faster, to the beginning of a pass, which
//! reads the leases then.

use super::error::VaultError;
use super::image::DiskImage;
use super::lease::{DiskPins, Pins};
use super::manifest::Manifest;
use super::merge::touched_regions;
use super::point::RecoveryPointRecord;
use super::stretch::{Stretch, cover};
use super::vault::{Vault, numbered};
use crate::domain::id::{DiskId, VmId};
use crate::domain::time::Timestamp;
use crate::ports::clock::Clock;
use object_store::path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long an object must not have been needed before it is deleted. Opening a recovery point, from
/// listing to lease, takes seconds; an hour is what a stalled reader or writer may take.
pub const GRACE: Duration = Duration::from_hours(1);

/// Bytes that a pass merges at most, or else one merge: replication has the link for itself most of the time.
const BYTES_PER_PASS: u64 = 1 << 30;

/// The log above a base is merged into it when it has this part of what the regions that it touches take:
/// each of them is written anew then.
const BASE_PART: u64 = 4;

/// Objects up to this size are merged whatever their neighbours have: they cost more in requests.
const SMALL_BYTES: u64 = 256 * 1024;

/// A pass over one VM.
#[derive(Debug)]
pub struct Collection<'a> {
    /// The VM.
    pub vm: VmId,
    /// Its disks.
    pub disks: &'a [DiskId],
    /// The cycles of its points. Others up to the newest of these were let go.
    pub kept: &'a BTreeSet<u64>,
    /// The epoch of whoever collects.
    pub epoch: u64,
    /// What readers in this process need.
    pub pins: &'a [Pins],
    /// The time.
    pub clock: &'a dyn Clock,
}

/// What a collector of one VM remembers between two passes; losing it costs time, never data.
#[derive(Debug, Default)]
pub struct Collector {
    points: BTreeMap<u64, RecoveryPointRecord>,
    unneeded_since: BTreeMap<Path, Timestamp>,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Points that were deleted.
    pub points: usize,
    /// Merged segments and bases that were made.
    pub merges: usize,
    /// Objects that were deleted.
    pub objects: usize,
    /// Bytes that they took.
    pub bytes: u64,
}

/// What there is of one disk.
struct Holdings {
    objects: Vec<(Path, Object, u64)>,
    manifests: BTreeMap<u64, Manifest>,
    /// In order.
    merged: Vec<Stretch>,
}

/// What an object is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    Manifest(u64),
    /// A segment or a part of one.
    Segment(u64),
    /// A merged segment or a part of one, by its first and last sequence.
    Merged(u64, u64),
    /// A region of a base and what belongs to it.
    Region(u64, u64),
}

impl Collector {
    /// Does one pass.
    ///
    /// # Errors
    /// [`VaultError::Fenced`] if a later epoch has taken over; [`VaultError::Damaged`] where it cannot be
    /// told what is needed; [`VaultError::Store`].
    pub async fn collect(
        &mut self,
        vault: &Vault,
        pass: &Collection<'_>,
    ) -> Result<Collected, VaultError> {
        let mut done = Collected::default();
        if pass.kept.is_empty() {
            return Ok(done);
        }
        let began = pass.clock.now();
        for disk in pass.disks {
            check_epoch(vault, *disk, pass.epoch).await?;
        }
        done.points = vault.drop_let_go(pass.vm, pass.kept).await?;
        self.read_points(vault, pass).await?;
        let mut pins = vault.leases(pass.vm, began).await?;
        pins.extend_from_slice(pass.pins);
        let mut unneeded = Vec::new();
        for disk in pass.disks {
            let kept: BTreeSet<u64> = self.sequences(*disk).collect();
            let mut holdings = Holdings::read(vault, *disk).await?;
            let merges = merge(vault, *disk, &holdings, &kept).await?;
            done.merges += merges;
            if 0 < merges {
                holdings = Holdings::read(vault, *disk).await?;
            }
            let pins: Vec<&DiskPins> = pins.iter().filter_map(|pins| pins.disk(*disk)).collect();
            let needs = Needs::of(&holdings, &kept, pins);
            unneeded.extend(holdings.objects.into_iter().filter(|(_, what, _)| !needs.has(*what)));
        }
        // A base whose list is gone is no base, so that nobody finds one with half of its regions.
        unneeded.sort_by_key(|(_, what, _)| !matches!(what, Object::Manifest(_)));
        self.note_unneeded(&unneeded, pass.clock.now());
        self.delete(vault, began, unneeded, &mut done).await?;
        Ok(done)
    }

    async fn read_points(
        &mut self,
        vault: &Vault,
        pass: &Collection<'_>,
    ) -> Result<(), VaultError> {
        let cycles = vault.point_cycles(pass.vm).await?;
        self.points.retain(|cycle, _| cycles.contains(cycle));
        for cycle in cycles {
            if !self.points.contains_key(&cycle)
                && let Some(point) = vault.point(pass.vm, cycle).await?
            {
                self.points.insert(cycle, point);
            }
        }
        Ok(())
    }

    fn sequences(&self, disk: DiskId) -> impl Iterator<Item = u64> {
        self.points.values().filter_map(move |point| Some(point.disks.get(&disk)?.sequence))
    }

    /// Remembers since when each object is not needed, and no others.
    fn note_unneeded(&mut self, unneeded: &[(Path, Object, u64)], now: Timestamp) {
        let known = std::mem::take(&mut self.unneeded_since);
        let since = |path: &Path| known.get(path).copied().unwrap_or(now);
        self.unneeded_since =
            unneeded.iter().map(|(path, ..)| (path.clone(), since(path))).collect();
    }

    /// Deletes what was not needed for all of the grace before a pass `began`.
    async fn delete(
        &mut self,
        vault: &Vault,
        began: Timestamp,
        unneeded: Vec<(Path, Object, u64)>,
        done: &mut Collected,
    ) -> Result<(), VaultError> {
        for (path, _, bytes) in unneeded {
            if began.since(self.unneeded_since[&path]) < GRACE {
                continue;
            }
            vault.delete(&path).await?;
            self.unneeded_since.remove(&path);
            done.objects += 1;
            done.bytes += bytes;
        }
        Ok(())
    }
}

/// A later epoch has taken over: its owner collects, with what it alone knows.
async fn check_epoch(vault: &Vault, disk: DiskId, epoch: u64) -> Result<(), VaultError> {
    let Some(head) = vault.head(disk).await? else { return Ok(()) };
    if epoch < head.header.epoch {
        let object = vault.segment_path(disk, head.header.sequence).to_string();
        return Err(VaultError::Fenced { object, ours: epoch, fence: head.header.epoch });
    }
    Ok(())
}

impl Holdings {
    async fn read(vault: &Vault, disk: DiskId) -> Result<Self, VaultError> {
        let listed = vault.list(&vault.disk_folder(disk)).await?;
        let mut holdings =
            Self { objects: Vec::new(), manifests: BTreeMap::new(), merged: Vec::new() };
        for meta in listed {
            // What is none of ours is not touched.
            let Some(what) = Object::of(&meta.location) else { continue };
            if let Object::Manifest(generation) = what {
                let manifest = vault.read_manifest(disk, generation).await?;
                holdings.manifests.insert(generation, manifest);
            }
            if let Object::Merged(..) = what {
                holdings.merged.extend(meta.location.filename().and_then(Stretch::of_name));
            }
            holdings.objects.push((meta.location, what, meta.size));
        }
        holdings.merged.sort_unstable();
        Ok(holdings)
    }

    /// The base that a sequence is read from.
    fn base_of(&self, sequence: u64) -> Option<(u64, &Manifest)> {
        let mut newest_first = self.manifests.iter().rev();
        newest_first
            .find(|(_, manifest)| manifest.completion.usable_from <= sequence)
            .map(|(generation, manifest)| (*generation, manifest))
    }

    /// The stretches that a sequence is read from.
    fn cover_of(&self, sequence: u64) -> Vec<Stretch> {
        let base = self.base_of(sequence);
        base.map_or(Vec::new(), |(_, manifest)| {
            cover(&self.merged, manifest.completion.from_seq, sequence)
        })
    }

    /// Bytes of each stretch, parts included, by its first and last sequence.
    fn sizes(&self) -> BTreeMap<(u64, u64), u64> {
        let mut sizes = BTreeMap::new();
        for (_, what, bytes) in &self.objects {
            let range = match what {
                Object::Segment(sequence) => (*sequence, *sequence),
                Object::Merged(from, to) => (*from, *to),
                Object::Manifest(_) | Object::Region(..) => continue,
            };
            *sizes.entry(range).or_default() += bytes;
        }
        sizes
    }
}

impl Object {
    fn of(path: &Path) -> Option<Self> {
        let mut parts = path.parts().collect::<Vec<_>>().into_iter().rev();
        let (name, folder) = (parts.next()?, parts.next()?);
        let number = name.as_ref().split('.').next()?;
        match folder.as_ref() {
            "man" => numbered(path, "man").map(Self::Manifest),
            "log" => number.parse().ok().map(Self::Segment),
            "merged" => {
                let (from, to) = number.split_once('-')?;
                Some(Self::Merged(from.parse().ok()?, to.parse().ok()?))
            }
            generation if parts.next().is_some_and(|base| base.as_ref() == "base") => {
                let region = u64::from_str_radix(number, 16).ok()?;
                Some(Self::Region(generation.parse().ok()?, region))
            }
            _ => None,
        }
    }
}

/// What of a disk is needed.
struct Needs<'a> {
    manifests: BTreeSet<u64>,
    regions: BTreeSet<(u64, u64)>,
    segments: BTreeSet<u64>,
    merged: BTreeSet<(u64, u64)>,
    /// Everything from here on, since it may be under way.
    segments_from: u64,
    /// Everything above this generation, for the same reason.
    copies_after: Option<u64>,
    pins: Vec<&'a DiskPins>,
}

impl<'a> Needs<'a> {
    fn of(holdings: &Holdings, kept: &BTreeSet<u64>, pins: Vec<&'a DiskPins>) -> Self {
        let newest = holdings.manifests.last_key_value().map(|(generation, _)| *generation);
        let mut manifests: BTreeSet<u64> = newest.into_iter().collect();
        manifests.extend(pins.iter().map(|pins| pins.generation));
        let (mut segments, mut merged) = (BTreeSet::new(), BTreeSet::new());
        for sequence in kept {
            manifests.extend(holdings.base_of(*sequence).map(|(generation, _)| generation));
            for Stretch { from, to, end } in holdings.cover_of(*sequence) {
                if end.is_some() {
                    merged.insert((from, to))
                } else {
                    segments.insert(to)
                };
            }
        }
        let listed = manifests.iter().filter_map(|generation| holdings.manifests.get(generation));
        let regions = listed
            .flat_map(|manifest| &manifest.regions)
            .map(|(region, present)| (present.generation, *region))
            .collect();
        // The next delta asks for the segment of the newest point. What was sent after the point that a
        // VM was failed over from stays as well: a failback has to know what of it to overwrite.
        let segments_from = kept.last().copied().unwrap_or(0);
        Self { manifests, regions, segments, merged, segments_from, copies_after: newest, pins }
    }

    fn has(&self, what: Object) -> bool {
        match what {
            Object::Manifest(generation) => self.manifests.contains(&generation),
            Object::Region(generation, region) => {
                self.copies_after < Some(generation)
                    || self.copies_after.is_none()
                    || self.regions.contains(&(generation, region))
            }
            Object::Segment(sequence) => {
                self.segments_from <= sequence
                    || self.segments.contains(&sequence)
                    || self.pins.iter().any(|pins| pins.needs_segment(sequence))
            }
            Object::Merged(from, to) => {
                self.merged.contains(&(from, to))
                    || self.pins.iter().any(|pins| pins.needs_merged(from, to))
            }
        }
    }
}

/// Merges what is worth it and answers how many merges there were.
async fn merge(
    vault: &Vault,
    disk: DiskId,
    holdings: &Holdings,
    kept: &BTreeSet<u64>,
) -> Result<usize, VaultError> {
    let Some(oldest) = kept.first() else { return Ok(0) };
    let sizes = holdings.sizes();
    let size = |stretch: &Stretch| sizes.get(&(stretch.from, stretch.to)).copied().unwrap_or(0);
    let mut merges = 0;
    let below_oldest = holdings.cover_of(*oldest);
    if !below_oldest.is_empty() {
        let bytes = below_oldest.iter().map(&size).sum();
        let image = vault.open_disk(disk, *oldest).await?;
        if is_worth_a_base(&image, bytes) {
            vault.merge_into_base(&image).await?;
            merges += 1;
        }
    }
    let mut merged_bytes = 0;
    for group in groups(holdings, kept) {
        // The base that was just made holds them.
        if 0 < merges && group.last().is_some_and(|last| last.to <= *oldest) {
            continue;
        }
        let group = worth_merging(&group, &size);
        if group.len() < 2 || BYTES_PER_PASS <= merged_bytes {
            continue;
        }
        merged_bytes += group.iter().map(&size).sum::<u64>();
        if vault.merge(disk, group).await?.is_some() {
            merges += 1;
        }
    }
    Ok(merges)
}

fn is_worth_a_base(image: &DiskImage, log_bytes: u64) -> bool {
    let touched = touched_regions(image);
    let regions = image.base_regions().iter().filter(|(region, _)| touched.contains(region));
    let rewritten: u64 = regions.map(|(_, present)| present.stored_bytes).sum();
    rewritten <= log_bytes.saturating_mul(BASE_PART)
}

/// Neighbouring stretches between which nobody needs to stop.
fn groups(holdings: &Holdings, kept: &BTreeSet<u64>) -> Vec<Vec<Stretch>> {
    let bases = holdings.manifests.values().map(|manifest| manifest.completion.from_seq);
    let borders: BTreeSet<u64> = kept.iter().copied().chain(bases).collect();
    let used: BTreeSet<Stretch> =
        kept.iter().flat_map(|sequence| holdings.cover_of(*sequence)).collect();
    let mut groups: Vec<Vec<Stretch>> = Vec::new();
    for stretch in used {
        match groups.last_mut() {
            Some(group)
                if group.last().is_some_and(|last| {
                    last.to + 1 == stretch.from && !borders.contains(&last.to)
                }) =>
            {
                group.push(stretch);
            }
            _ => groups.push(vec![stretch]),
        }
    }
    groups
}

/// The end of a group in which no stretch is much larger than all after it together: what is large is
/// not written anew for every little that is added, and yet only a few stretches are left.
fn worth_merging<'a>(group: &'a [Stretch], size: &impl Fn(&Stretch) -> u64) -> &'a [Stretch] {
    let mut after = 0;
    let mut first = group.len();
    for (index, stretch) in group.iter().enumerate().rev() {
        let bytes = size(stretch);
        if first < group.len() && after * 2 + SMALL_BYTES < bytes {
            break;
        }
        first = index;
        after += bytes;
    }
    &group[first..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_stretch_is_left_alone_until_what_follows_it_has_grown() {
        let group: Vec<_> = (1..=4).map(Stretch::single).collect();
        let of = |sizes: [u64; 4]| {
            let size = move |stretch: &Stretch| sizes[stretch.to as usize - 1] << 20;
            worth_merging(&group, &size).iter().map(|stretch| stretch.to).collect::<Vec<_>>()
        };
        assert_eq!(of([1, 1, 1, 1]), [1, 2, 3, 4]);
        assert_eq!(of([100, 1, 1, 1]), [2, 3, 4]);
        assert_eq!(of([6, 1, 1, 1]), [1, 2, 3, 4]);
        assert_eq!(of([1, 1, 100, 1]), [4]);
    }

    #[test]
    fn an_object_is_known_by_its_name_and_what_is_none_of_ours_is_left_alone() {
        let of = |name: &str| Object::of(&Path::from(format!("v1/vault/disk/disk/{name}")));
        assert_eq!(of("log/00000000000000000012.seg"), Some(Object::Segment(12)));
        assert_eq!(of("log/00000000000000000012.p3.ab"), Some(Object::Segment(12)));
        assert_eq!(of("merged/02-09.ab.seg"), Some(Object::Merged(2, 9)));
        assert_eq!(of("merged/02-09.p1.ab"), Some(Object::Merged(2, 9)));
        assert_eq!(of("base/00000003/0000000f.seg"), Some(Object::Region(3, 15)));
        assert_eq!(of("base/00000003/0000000f.ab.sum"), Some(Object::Region(3, 15)));
        assert_eq!(of("man/00000000000000000003.man"), Some(Object::Manifest(3)));
        for other in ["man/3.txt", "log/notes.txt", "base/notes", "other/1.seg"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
