//! Reading a disk as it was at a recovery point.

use super::base::RegionPresent;
use super::error::VaultError;
use super::extent_map::{ExtentMap, Piece};
use super::seal::FrameOpener;
use super::segment::{
    Content, FRAME_BYTES, Flaw, Index, Kind, Part, REGION_BYTES, Row, SegmentHash, damage,
    impossible, same,
};
use super::stretch::{Stretch, cover};
use super::vault::{PARALLEL, Vault, damaged, in_object};
use crate::domain::id::DiskId;
use crate::domain::time::Timestamp;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Bytes between two frames that are read along rather than asked for apart: at 3 ms a request, a
/// gap of this size costs less than another request.
const GAP_BYTES: u64 = 64 * 1024;

/// Most bytes of one request.
const REQUEST_BYTES: u64 = 4 * 1024 * 1024;

/// Requests for the data of one read that run at one time.
const REQUESTS: usize = 8;

/// Indexes of base regions kept in memory: 128 of at most 49 KiB each.
const REGIONS_KEPT: usize = 128;

/// A disk at a sequence of its log. The indexes of the log are in memory, those of base regions are
/// read when they are needed, and data is read and checked on every call.
#[derive(Debug)]
pub struct DiskImage {
    vault: Vault,
    disk: DiskId,
    sequence: u64,
    size: u64,
    /// The last segment's hash and epoch.
    head: SegmentHash,
    epoch: u64,
    /// What the log says, the last segment on top.
    log: ExtentMap<LogContent>,
    /// The segments that hold data.
    segments: Vec<LogSegment>,
    generation: u64,
    base_size: u64,
    regions: BTreeMap<u64, RegionPresent>,
    indexes: Mutex<RegionIndexes>,
    /// When the last segment was cut.
    cut_at: Timestamp,
    /// Bytes that the log speaks of after its last fence.
    bytes_after_fence: u64,
}

/// The last segment that an image shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) hash: SegmentHash,
    pub(super) epoch: u64,
    pub(super) cut_at: Timestamp,
}

/// What an image can say of a range without reading its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is zero.
    Zeroes,
    /// Its data has this hash.
    Hash([u8; 16]),
    /// Nothing but its data would tell.
    Data,
}

/// A range and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct KnownPiece {
    pub(super) range: Range<u64>,
    pub(super) known: Known,
    /// Whether the log has it, not the base.
    pub(super) of_log: bool,
}

/// A base region as it stands in the vault.
pub(super) struct BaseRegion {
    region: Arc<Region>,
    pub(super) hash: SegmentHash,
    /// Where its checksums are, if it has any.
    pub(super) sums: Path,
}

/// What the log says about a range.
#[derive(Clone, Copy, Debug)]
pub(super) enum LogContent {
    Zeroes,
    /// The frame of `row` in the segment with this number in [`DiskImage::segments`].
    Frame {
        segment: u32,
        row: Row,
    },
}

#[derive(Debug)]
struct LogSegment {
    stretch: Stretch,
    opener: FrameOpener,
    /// With what opens their frames, once they were read.
    parts: Vec<(Part, OnceCell<FrameOpener>)>,
}

/// The index of a base region with what opens its frames.
#[derive(Debug)]
struct Region {
    index: Index,
    opener: FrameOpener,
    /// What opens the frames of its parts, once they were read.
    parts: Vec<OnceCell<FrameOpener>>,
}

type RegionCell = Arc<OnceCell<Arc<Region>>>;

/// The indexes of the base regions that were used last.
#[derive(Debug, Default)]
struct RegionIndexes {
    cells: BTreeMap<u64, (RegionCell, u64)>,
    uses: u64,
}

/// The object that a frame lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    Segment(u32),
    Part(u32, u16),
    Region(u64),
    /// Of a region, by its number and hash.
    RegionPart(u64, u16, SegmentHash),
}

/// A piece of a frame that a read wants.
#[derive(Clone, Debug)]
struct Wanted {
    object: Object,
    frame: Range<u64>,
    row: Row,
    /// First wanted byte of the frame.
    skip: usize,
    /// Where it goes in the reader's buffer.
    target: Range<usize>,
}

impl DiskImage {
    pub(super) async fn open(
        vault: Vault,
        disk: DiskId,
        sequence: u64,
    ) -> Result<Self, VaultError> {
        let (generation, manifest) = newest_usable(&vault, disk, sequence).await?;
        let mut image = Self {
            vault,
            disk,
            sequence,
            size: manifest.disk_size,
            head: manifest.completion.from_hash,
            epoch: 0,
            log: ExtentMap::new(),
            segments: Vec::new(),
            generation,
            base_size: manifest.disk_size,
            regions: manifest.regions,
            indexes: Mutex::default(),
            cut_at: manifest.completion.at,
            bytes_after_fence: 0,
        };
        let from_seq = manifest.completion.from_seq;
        let merged = image.vault.merged_stretches(disk).await?;
        image.stack_log(cover(&merged, from_seq, sequence)).await?;
        Ok(image)
    }

    /// What these stretches of the log say and nothing else; for merging them. `None` if they cannot be
    /// merged into one: the disk changed its size between them, or there are too many rows.
    pub(super) async fn of_log(
        vault: &Vault,
        disk: DiskId,
        stretches: Vec<Stretch>,
        rows_max: usize,
    ) -> Result<Option<(Self, SegmentHash)>, VaultError> {
        let (Some(first), Some(last)) = (stretches.first(), stretches.last()) else {
            return Ok(None);
        };
        let sequence = last.to;
        let (_, index, _) = read_stretch(vault, disk, first).await?;
        let previous = index.header.previous;
        let mut image = Self {
            vault: vault.clone(),
            disk,
            sequence,
            size: index.header.disk_size,
            log: ExtentMap::new(),
            segments: Vec::new(),
            generation: 0,
            base_size: 0,
            regions: BTreeMap::new(),
            indexes: Mutex::default(),
            head: previous,
            epoch: 0,
            cut_at: index.header.cut_at,
            bytes_after_fence: 0,
        };
        let size = image.size;
        let mut rows = 0;
        for stretch in stretches {
            image.stack_log(vec![stretch]).await?;
            rows = image.log.len().max(rows);
            if image.size != size || rows_max < rows {
                return Ok(None);
            }
        }
        Ok(Some((image, previous)))
    }

    /// The last segment.
    pub(super) fn end(&self) -> End {
        End { hash: self.head, epoch: self.epoch, cut_at: self.cut_at }
    }

    /// What the log lays over the base, ascending: ranges, and whether they are zeroes.
    pub(super) fn log_extents(&self) -> impl Iterator<Item = (Range<u64>, bool)> {
        let extents = self.log.iter();
        extents.map(|extent| (extent.range, matches!(extent.value, LogContent::Zeroes)))
    }

    /// The regions of the base under the log.
    pub(super) fn base_regions(&self) -> &BTreeMap<u64, RegionPresent> {
        &self.regions
    }

    /// The generation of the base, and the disk's size when it was made.
    pub(super) fn base(&self) -> (u64, u64) {
        (self.generation, self.base_size)
    }

    /// The stretches of the log over the base.
    pub(super) fn stretches(&self) -> impl Iterator<Item = &Stretch> {
        self.segments.iter().map(|segment| &segment.stretch)
    }

    /// The disk.
    pub fn disk(&self) -> DiskId {
        self.disk
    }

    /// The sequence whose end the image shows.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// The generation of the base that it stands on.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// How many segments it stands on.
    pub(super) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The regions of its base.
    pub(super) fn regions(&self) -> impl Iterator<Item = u64> {
        self.regions.keys().copied()
    }

    /// What its log says about a range.
    pub(super) fn log_pieces(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = Piece<'_, LogContent>> {
        self.log.pieces(range)
    }

    /// The index of a base region with what opens the frames of its own object, not kept.
    pub(super) async fn read_index_of(
        &self,
        region: u64,
    ) -> Result<(Index, FrameOpener), VaultError> {
        let Some(present) = self.regions.get(&region) else {
            let object = self.path(Object::Region(region)).to_string();
            return Err(VaultError::Missing { object });
        };
        let read = self.read_region(region, present).await?;
        Ok((read.index.clone(), read.opener.clone()))
    }

    /// Goes on to a later sequence on the same base.
    pub(super) async fn advance(&mut self, sequence: u64) -> Result<(), VaultError> {
        let from = self.sequence;
        self.sequence = sequence;
        let merged = self.vault.merged_stretches(self.disk).await?;
        self.stack_log(cover(&merged, from, sequence)).await
    }

    /// Fills `buffer` from `offset` on. Every frame is checked against its hash on every read.
    ///
    /// # Errors
    /// [`VaultError::OutOfRange`]; [`VaultError::Missing`] and [`VaultError::Damaged`] for an object
    /// that does not hold what it should; [`VaultError::Store`]. The buffer's content is undefined
    /// then.
    pub async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), VaultError> {
        let range = self.checked(offset..offset.saturating_add(buffer.len() as u64))?;
        let wanted = self.wanted(range).await?;
        self.fill(buffer, wanted).await
    }

    /// The data of several ranges, gathered into as few requests as there can be.
    pub(super) async fn read_each(
        &self,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Vec<u8>>, VaultError> {
        let (mut wanted, mut length) = (Vec::new(), 0);
        for range in ranges {
            let mut of_range = self.wanted(self.checked(range.clone())?).await?;
            for wanted in &mut of_range {
                let Range { start, end } = wanted.target;
                wanted.target = length + start..length + end;
            }
            wanted.append(&mut of_range);
            length += (range.end - range.start) as usize;
        }
        let mut data = vec![0; length];
        self.fill(&mut data, wanted).await?;
        let mut rest = &data[..];
        let mut take = |range: &Range<u64>| {
            let (head, tail) = rest.split_at((range.end - range.start) as usize);
            rest = tail;
            head.to_vec()
        };
        Ok(ranges.iter().map(&mut take).collect())
    }

    async fn fill(&self, buffer: &mut [u8], wanted: Vec<Wanted>) -> Result<(), VaultError> {
        buffer.fill(0);
        let mut answers = stream::iter(requests(wanted))
            .map(|request| self.fetch(request))
            .buffer_unordered(REQUESTS);
        while let Some(found) = answers.try_next().await? {
            for (target, data) in found {
                buffer[target].copy_from_slice(&data);
            }
        }
        Ok(())
    }

    /// The first run of data at or after `from`, or `None` if only zeroes follow. Runs that touch may
    /// be reported one by one.
    ///
    /// # Errors
    /// As [`DiskImage::read_at`].
    pub async fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, VaultError> {
        for piece in self.log.pieces(from.min(self.size)..self.size) {
            match piece {
                Piece::Extent(extent) if matches!(extent.value, LogContent::Zeroes) => {}
                Piece::Extent(extent) => return Ok(Some(extent.range)),
                Piece::Gap(gap) => {
                    if let Some(run) = self.next_base_data(gap).await? {
                        return Ok(Some(run));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Bytes of the disk that the segments after the log's last fence speak of, each counted once.
    pub fn bytes_after_fence(&self) -> u64 {
        self.bytes_after_fence
    }

    pub(super) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// What is known of `range`, ascending and without gaps, in pieces that do not cross a multiple
    /// of `chunk` bytes.
    pub(super) async fn known(
        &self,
        range: Range<u64>,
        chunk: u64,
    ) -> Result<Vec<KnownPiece>, VaultError> {
        let mut pieces = Vec::new();
        let mut add = |range: Range<u64>, known, of_log| {
            let mut start = range.start;
            while start < range.end {
                let end = ((start / chunk + 1) * chunk).min(range.end);
                pieces.push(KnownPiece { range: start..end, known, of_log });
                start = end;
            }
        };
        for piece in self.log.pieces(range) {
            match piece {
                Piece::Extent(extent) => {
                    let known = match extent.value {
                        LogContent::Zeroes => Known::Zeroes,
                        LogContent::Frame { row, .. } => known_by(row, &extent.range),
                    };
                    add(extent.range, known, true);
                }
                Piece::Gap(gap) => {
                    let mut at = gap.start;
                    for region in regions_of(&gap) {
                        let Some(found) = self.region(region).await? else { continue };
                        for row in rows_in(&found.index, &gap) {
                            let part = row.offset.max(at)..row.range().end.min(gap.end);
                            add(at..part.start, Known::Zeroes, false);
                            at = part.end;
                            add(part.clone(), known_by(row, &part), false);
                        }
                    }
                    add(at..gap.end, Known::Zeroes, false);
                }
            }
        }
        Ok(pieces)
    }

    /// A region of the base; `None` where the base has none.
    pub(super) async fn base_region(&self, region: u64) -> Result<Option<BaseRegion>, VaultError> {
        let Some(found) = self.region(region).await? else { return Ok(None) };
        let hash = found.index.hash;
        let generation = self.region_generation(region);
        let sums = self.vault.sums_path(self.disk, generation, region, hash);
        Ok(Some(BaseRegion { region: found, hash, sums }))
    }

    fn checked(&self, range: Range<u64>) -> Result<Range<u64>, VaultError> {
        if self.size < range.end {
            let Self { disk, size, .. } = *self;
            return Err(VaultError::OutOfRange { disk, range, size });
        }
        Ok(range)
    }

    /// Lays stretches of the log over what there is, and proves that they are one chain.
    async fn stack_log(&mut self, stretches: Vec<Stretch>) -> Result<(), VaultError> {
        let (vault, disk) = (self.vault.clone(), self.disk);
        let mut indexes = stream::iter(stretches)
            .map(|stretch| {
                let vault = &vault;
                async move {
                    let (path, index, opener) = read_stretch(vault, disk, &stretch).await?;
                    Ok::<_, VaultError>((path, index, opener, stretch))
                }
            })
            .buffered(PARALLEL);
        let (mut before, mut epoch) = (self.head, self.epoch);
        while let Some((path, index, opener, stretch)) = indexes.try_next().await? {
            let object = path.to_string();
            let header = index.header;
            if header.previous != before {
                let (found, expected) = (header.previous, before);
                return Err(VaultError::ChainBroken { object, found, expected });
            }
            if header.epoch < epoch {
                return Err(VaultError::EpochFell { object, found: header.epoch, before: epoch });
            }
            if header.kind == Kind::Base {
                return Err(damaged(&path, impossible(10, "kind", header.kind.byte().into())));
            }
            (before, epoch) = (stretch.end.unwrap_or(index.hash), header.epoch);
            (self.head, self.epoch, self.cut_at) = (before, epoch, header.cut_at);
            self.stack(index, opener, stretch);
        }
        Ok(())
    }

    fn stack(&mut self, index: Index, opener: FrameOpener, stretch: Stretch) {
        let segment = self.segments.len() as u32;
        if index.header.kind == Kind::Fence {
            self.bytes_after_fence = 0;
        }
        for row in &index.rows {
            self.bytes_after_fence += row.length;
            let content = match row.content {
                Content::Zeroes => LogContent::Zeroes,
                Content::Frame { .. } => LogContent::Frame { segment, row: *row },
            };
            self.log.insert(row.range(), content);
        }
        // A disk that shrinks and grows again has zeroes where it was cut off.
        let size = index.header.disk_size;
        self.log.insert(size..self.size.max(size), LogContent::Zeroes);
        self.size = size;
        let parts = index.parts.into_iter().map(|part| (part, OnceCell::new())).collect();
        self.segments.push(LogSegment { stretch, opener, parts });
    }

    /// The frames that hold the data of `range`; what has none is zero.
    async fn wanted(&self, range: Range<u64>) -> Result<Vec<Wanted>, VaultError> {
        let start = range.start;
        let target = |part: &Range<u64>| (part.start - start) as usize..(part.end - start) as usize;
        let mut wanted = Vec::new();
        for piece in self.log.pieces(range) {
            match piece {
                Piece::Extent(extent) => {
                    if let LogContent::Frame { segment, row } = *extent.value {
                        let skip = extent.skip as usize;
                        wanted.extend(Wanted::of(
                            |part| match part {
                                0 => Object::Segment(segment),
                                _ => Object::Part(segment, part),
                            },
                            row,
                            skip,
                            target(&extent.range),
                        ));
                    }
                }
                Piece::Gap(gap) => {
                    for region in regions_of(&gap) {
                        let Some(found) = self.region(region).await? else { continue };
                        for row in rows_in(&found.index, &gap) {
                            let part = row.offset.max(gap.start)..row.range().end.min(gap.end);
                            let skip = (part.start - row.offset) as usize;
                            let place = target(&part);
                            wanted.extend(Wanted::of(
                                |part| found.object(region, part),
                                *row,
                                skip,
                                place,
                            ));
                        }
                    }
                }
            }
        }
        Ok(wanted)
    }

    async fn next_base_data(&self, gap: Range<u64>) -> Result<Option<Range<u64>>, VaultError> {
        let regions = regions_of(&gap);
        for (&region, _) in self.regions.range(regions) {
            let Some(found) = self.region(region).await? else { continue };
            let mut rows = rows_in(&found.index, &gap);
            if let Some(first) = rows.next() {
                let mut end = first.range().end;
                for row in rows.take_while(|row| row.content != Content::Zeroes) {
                    if row.offset != end {
                        break;
                    }
                    end = row.range().end;
                }
                return Ok(Some(first.offset.max(gap.start)..end.min(gap.end)));
            }
        }
        Ok(None)
    }

    /// The index of a base region; `None` where the base has none.
    async fn region(&self, region: u64) -> Result<Option<Arc<Region>>, VaultError> {
        let Some(present) = self.regions.get(&region) else { return Ok(None) };
        let cell = self.indexes.lock().unwrap_or_else(PoisonError::into_inner).cell(region);
        let found = cell.get_or_try_init(|| self.read_region(region, present)).await?;
        Ok(Some(Arc::clone(found)))
    }

    async fn read_region(
        &self,
        region: u64,
        present: &RegionPresent,
    ) -> Result<Arc<Region>, VaultError> {
        let path = self.vault.region_path(self.disk, present.generation, region);
        let (index, opener, length) = self.vault.open_index(&path).await?;
        self.vault.checked(&path, &index.header, self.disk, present.generation)?;
        same(112, "region", index.header.place, region)
            .and_then(|()| same(104, "disk size", index.header.disk_size, self.base_size))
            .and_then(|()| {
                let stored_bytes = length.saturating_add(index.parts_bytes());
                same(length, "length of the object", stored_bytes, present.stored_bytes)
            })
            .map_err(in_object(&path))?;
        if index.hash != present.hash || index.header.kind != Kind::Base {
            return Err(damaged(&path, damage(length, Flaw::Checksum("region in its manifest"))));
        }
        let parts = index.parts.iter().map(|_| OnceCell::new()).collect();
        Ok(Arc::new(Region { index, opener, parts }))
    }

    /// Reads the frames of one request and checks each.
    async fn fetch(&self, request: Vec<Wanted>) -> Result<Vec<(Range<usize>, Bytes)>, VaultError> {
        let Some(first) = request.first() else { return Ok(Vec::new()) };
        let start = first.frame.start;
        let end = request.iter().map(|wanted| wanted.frame.end).max().unwrap_or(start);
        let path = self.path(first.object);
        let (bytes, _) = self.vault.read(&path, start..end).await?;
        let opener = self.opener(first.object, &path).await?;
        let mut found = Vec::with_capacity(request.len());
        for wanted in request {
            let stored = (wanted.frame.start - start) as usize..(wanted.frame.end - start) as usize;
            let stored = bytes.slice(stored);
            let data = opener.open(&wanted.row, &stored).map_err(in_object(&path))?;
            let piece = wanted.skip..wanted.skip + wanted.target.len();
            found.push((wanted.target, data.slice(piece)));
        }
        Ok(found)
    }

    /// What opens the frames of an object.
    pub(super) async fn opener(
        &self,
        object: Object,
        path: &Path,
    ) -> Result<FrameOpener, VaultError> {
        match object {
            Object::Segment(segment) => Ok(self.segments[segment as usize].opener.clone()),
            Object::Part(segment, part) => {
                let LogSegment { stretch, parts, .. } = &self.segments[segment as usize];
                let (_, cell) = &parts[usize::from(part) - 1];
                let open = || self.vault.open_part(path, self.disk, stretch.to, part);
                cell.get_or_try_init(open).await.cloned()
            }
            Object::Region(region) => Ok(self.found_region(region, path).await?.opener.clone()),
            Object::RegionPart(region, part, _) => {
                let found = self.found_region(region, path).await?;
                let generation = self.region_generation(region);
                let open = || self.vault.open_part(path, self.disk, generation, part);
                found.parts[usize::from(part) - 1].get_or_try_init(open).await.cloned()
            }
        }
    }

    /// A region that must be there, since a frame of the object at `path` is wanted.
    async fn found_region(&self, region: u64, path: &Path) -> Result<Arc<Region>, VaultError> {
        let missing = || VaultError::Missing { object: path.to_string() };
        self.region(region).await?.ok_or_else(missing)
    }

    /// The generation that a region of the base was written for.
    fn region_generation(&self, region: u64) -> u64 {
        self.regions.get(&region).map_or(self.generation, |present| present.generation)
    }

    pub(super) fn path(&self, object: Object) -> Path {
        match object {
            Object::Region(region) => {
                let generation = self.region_generation(region);
                self.vault.region_path(self.disk, generation, region)
            }
            Object::RegionPart(region, part, hash) => {
                let generation = self.region_generation(region);
                self.vault.region_part_path(self.disk, generation, region, part, hash)
            }
            Object::Segment(segment) => {
                self.segments[segment as usize].stretch.path(&self.vault, self.disk)
            }
            Object::Part(segment, part) => {
                let LogSegment { stretch, parts, .. } = &self.segments[segment as usize];
                let hash = parts[usize::from(part) - 1].0.hash;
                stretch.part_path(&self.vault, self.disk, part, hash)
            }
        }
    }
}

impl Wanted {
    fn of(
        object: impl FnOnce(u16) -> Object,
        row: Row,
        skip: usize,
        target: Range<usize>,
    ) -> Option<Self> {
        let Content::Frame { position, stored, part, .. } = row.content else { return None };
        let frame = position..position + u64::from(stored);
        Some(Self { object: object(part), frame, row, skip, target })
    }
}

impl RegionIndexes {
    /// The cell of a region's index; makes room by forgetting the one that was not used for longest.
    fn cell(&mut self, region: u64) -> RegionCell {
        self.uses += 1;
        if REGIONS_KEPT <= self.cells.len() && !self.cells.contains_key(&region) {
            let oldest = self.cells.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(region, _)| *region) {
                self.cells.remove(&oldest);
            }
        }
        let (cell, used) = self.cells.entry(region).or_default();
        *used = self.uses;
        Arc::clone(cell)
    }
}

impl Region {
    /// Where the frames of part `part` of `region` lie, which this is the index of.
    fn object(&self, region: u64, part: u16) -> Object {
        region_object(&self.index, region, part)
    }
}

/// Where the frames of part `part` of a base region lie.
pub(super) fn region_object(index: &Index, region: u64, part: u16) -> Object {
    match part {
        0 => Object::Region(region),
        _ => Object::RegionPart(region, part, index.parts[usize::from(part) - 1].hash),
    }
}

impl BaseRegion {
    /// The numbers on the disk of the chunks of 64 KiB that are not all zeroes, ascending.
    pub(super) fn chunks(&self) -> Vec<u64> {
        let data = self.region.index.rows.iter().filter(|row| row.content != Content::Zeroes);
        let mut chunks: Vec<u64> = data.map(|row| row.offset / FRAME_BYTES).collect();
        chunks.dedup();
        chunks
    }
}

/// What a row says of `part`, which it covers: its hash is that of all of it.
fn known_by(row: &Row, part: &Range<u64>) -> Known {
    match row.content {
        Content::Zeroes => Known::Zeroes,
        Content::Frame { hash, .. } if row.range() == *part => Known::Hash(hash),
        Content::Frame { .. } => Known::Data,
    }
}

/// The newest finished base that can be read at `sequence`.
pub(super) async fn newest_usable(
    vault: &Vault,
    disk: DiskId,
    sequence: u64,
) -> Result<(u64, super::manifest::Manifest), VaultError> {
    for generation in vault.generations(disk).await?.into_iter().rev() {
        let manifest = vault.read_manifest(disk, generation).await?;
        if manifest.completion.usable_from <= sequence {
            return Ok((generation, manifest));
        }
    }
    Err(VaultError::NoBase { disk, sequence })
}

/// Reads the index of a stretch and checks that it is what its name says.
async fn read_stretch(
    vault: &Vault,
    disk: DiskId,
    stretch: &Stretch,
) -> Result<(Path, Index, FrameOpener), VaultError> {
    let path = stretch.path(vault, disk);
    let (index, opener, _) = vault.open_index(&path).await?;
    vault.checked(&path, &index.header, disk, stretch.to)?;
    if stretch.end.is_some() {
        same(112, "first sequence", index.header.place, stretch.from).map_err(in_object(&path))?;
    }
    Ok((path, index, opener))
}

pub(super) fn regions_of(range: &Range<u64>) -> Range<u64> {
    range.start / REGION_BYTES..range.end.div_ceil(REGION_BYTES)
}

/// The rows that touch `range`, ascending.
fn rows_in<'a>(index: &'a Index, range: &Range<u64>) -> impl Iterator<Item = &'a Row> {
    let first = index.rows.partition_point(|row| row.range().end <= range.start);
    let end = range.end;
    index.rows[first..].iter().take_while(move |row| row.offset < end)
}

/// Gathers frames that lie near each other in one object into one request.
fn requests(mut wanted: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    wanted.sort_unstable_by_key(|wanted| (wanted.object, wanted.frame.start));
    let mut requests: Vec<Vec<Wanted>> = Vec::new();
    for next in wanted {
        match requests.last_mut() {
            Some(request) if joins(request, &next) => request.push(next),
            _ => requests.push(vec![next]),
        }
    }
    requests
}

fn joins(request: &[Wanted], next: &Wanted) -> bool {
    let (Some(first), Some(last)) = (request.first(), request.last()) else { return true };
    last.object == next.object
        && next.frame.start <= last.frame.end + GAP_BYTES
        && next.frame.end - first.frame.start <= REQUEST_BYTES
}
