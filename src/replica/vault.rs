//! The vault: where its objects lie, and the few things that are asked of the storage.

use super::admission::Admission;
use super::base::{BaseCopy, Completion};
use super::builder::{Sealed, SegmentBuilder};
use super::delta::{DeltaHeader, DeltaWriter};
use super::error::VaultError;
use super::image::DiskImage;
use super::keys::{HashKey, VaultKeys, WRAPPED_KEY_BYTES};
use super::marker::{self, Mismatch};
use super::seal::{Compression, FrameOpener, Sealing};
use super::segment::{
    self, Damage, Flaw, HEADER_BYTES, Header, Index, Kind, SegmentHash, TRAILER_BYTES, Trailer,
};
use crate::domain::id::{DiskId, VaultId, VmId};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{
    GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

/// Bytes at the end of an object that are read together, in the hope that the index is among them: the
/// index of a full base region has 49 KiB.
const TAIL_BYTES: u64 = 64 * 1024;

/// Objects that are asked for at one time.
pub(super) const PARALLEL: usize = 16;

/// Longest text object: a recovery point of some thousand disks.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;

/// One vault in a storage. Cloning is cheap; nothing is cached but that the vault's mark was read.
#[derive(Clone, Debug)]
pub struct Vault {
    store: Arc<dyn ObjectStore>,
    admission: Option<Arc<dyn Admission>>,
    /// Parts of a disk on their way to it at a time.
    uploads: usize,
    id: VaultId,
    sealing: Sealing,
    /// The mark was read, and it fits the keys.
    recognized: Arc<AtomicBool>,
}

/// A sealed object that was read: everything but its frames, checked.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) header: Header,
    pub(super) footer: Bytes,
    pub(super) trailer: Trailer,
    /// Length of the object.
    pub(super) stored_bytes: u64,
    /// What opens its frames.
    pub(super) opener: FrameOpener,
    head: Bytes,
}

/// A segment of a disk's log, as its header and trailer tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The header.
    pub header: Header,
    /// The hash, which the next segment names.
    pub hash: SegmentHash,
    /// Length of the object in bytes, without parts.
    pub stored_bytes: u64,
}

/// What became of a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceOutcome {
    /// It stands: no earlier epoch can commit this sequence, or follow it.
    Fenced(Segment),
    /// This segment was there first; the fence belongs after it.
    LostTo(Segment),
}

/// What became of a create-if-absent.
pub(super) enum PutOutcome {
    Created,
    Existed,
}

impl Vault {
    /// The vault `id` in `store`, compressed and not encrypted, with one upload of a disk at a time. The
    /// storage's own retries should be off: who calls retries.
    pub fn new(store: Arc<dyn ObjectStore>, id: VaultId) -> Self {
        let (admission, sealing, recognized) = Default::default();
        Self { store, admission, uploads: 1, id, sealing, recognized }
    }

    /// The same vault, with every object written only when `admission` lets it pass.
    #[must_use]
    pub fn admitting(&self, admission: Arc<dyn Admission>) -> Self {
        Self { admission: Some(admission), ..self.clone() }
    }

    /// The vault with as many parts of a disk, of 4 MiB of data each, on their way to it at a time.
    #[must_use]
    pub fn with_uploads(self, uploads: usize) -> Self {
        Self { uploads: uploads.max(1), ..self }
    }

    /// The vault encrypted with `keys`. Whether a vault is encrypted is decided when it is established.
    #[must_use]
    pub fn with_keys(self, keys: Arc<VaultKeys>) -> Self {
        let sealing = Sealing { keys: Some(keys), ..self.sealing };
        Self { sealing, recognized: Arc::default(), ..self }
    }

    /// The vault with what it is given to write compressed in this way.
    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self { sealing: Sealing { compression, ..self.sealing }, ..self }
    }

    /// The vault `id` in a folder, which must exist. Whatever is written is durable (fsync of file
    /// and folders) before the call that wrote it returns.
    ///
    /// # Errors
    /// [`VaultError::Store`] if the folder cannot be reached.
    pub fn in_folder(folder: &std::path::Path, id: VaultId) -> Result<Self, VaultError> {
        let store = object_store::local::LocalFileSystem::new_with_prefix(folder)
            .map_err(|source| failed("open", &folder.display(), source))?;
        Ok(Self::new(Arc::new(store.with_fsync(true)), id))
    }

    /// The vault's id.
    pub fn id(&self) -> VaultId {
        self.id
    }

    /// What makes the hashes in the rows of this vault's indexes: keyed if it is encrypted.
    pub fn hash_key(&self) -> HashKey {
        self.sealing.hash_key()
    }

    /// How this vault's objects are made.
    pub fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    /// Marks the storage as holding this vault, encrypted or not. Needed once before anything is
    /// written; may be repeated.
    ///
    /// # Errors
    /// [`VaultError::Store`]; [`VaultError::Mark`] if the vault is there, but not with these keys;
    /// [`VaultError::Unfit`] if the storage cannot do what a vault needs.
    pub async fn establish(&self) -> Result<(), VaultError> {
        let text = marker::text(self.id, self.sealing.keys.as_deref());
        self.create(&self.marker(), vec![Bytes::from(text)]).await?;
        self.recognize().await?;
        self.prove_create_if_absent().await
    }

    /// Everything that must not happen twice rests on one request: create unless it exists. A store
    /// that takes the request and does something else would lose commits without a word.
    async fn prove_create_if_absent(&self) -> Result<(), VaultError> {
        let path = Path::from(format!("v1/{}/probe-create", self.id));
        let put = || self.create(&path, vec![Bytes::from_static(b"probe\n")]);
        put().await?;
        // It stays: what was proved is only true of an object that nobody deletes meanwhile.
        match put().await? {
            PutOutcome::Existed => Ok(()),
            PutOutcome::Created => {
                Err(VaultError::Unfit { object: path.to_string(), store: self.store.to_string() })
            }
        }
    }

    /// Whether the vault can be reached, by its cheapest request.
    ///
    /// # Errors
    /// [`VaultError::VaultNotThere`] where the storage answers without knowing the vault, such as a
    /// folder whose volume is not mounted; [`VaultError::Mark`] if the vault has other keys;
    /// [`VaultError::Store`].
    pub async fn probe(&self) -> Result<(), VaultError> {
        let marker = self.marker();
        if !self.recognized.load(Ordering::Acquire) {
            return self.recognize().await;
        }
        match self.store.head(&marker).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => {
                Err(VaultError::VaultNotThere { object: marker.to_string() })
            }
            Err(source) => Err(failed("probe", &marker, source)),
        }
    }

    /// Reads the vault's mark and checks that the vault is to be written with these keys.
    async fn recognize(&self) -> Result<(), VaultError> {
        let path = self.marker();
        let object = path.to_string();
        let text = match self.store.get(&path).await {
            Ok(found) if MAX_TEXT_BYTES < found.meta.size => {
                let mismatch = Mismatch::Unreadable("it is too long".to_owned());
                return Err(VaultError::Mark { object, mismatch });
            }
            Ok(found) => found.bytes().await,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(VaultError::VaultNotThere { object });
            }
            Err(source) => Err(source),
        };
        let text = text.map_err(|source| failed("read", &path, source))?;
        marker::check(&text, self.id, self.sealing.keys.as_deref())
            .map_err(|mismatch| VaultError::Mark { object, mismatch })?;
        self.recognized.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether the vault takes an object: writes one and deletes it.
    ///
    /// # Errors
    /// As [`Vault::probe`]; [`VaultError::Store`].
    pub async fn probe_write(&self) -> Result<(), VaultError> {
        self.probe().await?;
        let path = Path::from(format!("v1/{}/probe", self.id));
        self.create(&path, vec![Bytes::from_static(b"probe\n")]).await?;
        self.delete(&path).await
    }

    /// Starts the delta that `header` describes. Nothing is visible before
    /// [`DeltaWriter::commit`].
    pub fn delta(&self, disk: DiskId, header: DeltaHeader) -> DeltaWriter {
        DeltaWriter::new(self.clone(), header.of(Kind::Delta, self.id, disk))
    }

    /// Ends the right of every epoch below `header.epoch` to write to the disk's log, by taking the
    /// next sequence. A repetition of the same fence is `Fenced` again. The log goes on after a fence
    /// as after a delta: the next segment names its hash.
    ///
    /// # Errors
    /// [`VaultError::Store`], [`VaultError::Damaged`].
    pub async fn fence(
        &self,
        disk: DiskId,
        header: DeltaHeader,
    ) -> Result<FenceOutcome, VaultError> {
        let header = header.of(Kind::Fence, self.id, disk);
        let sealed = SegmentBuilder::new(header, &self.sealing).seal();
        let header = Header { encrypted: self.sealing.keys.is_some(), ..header };
        let ours = Segment { header, hash: sealed.hash, stored_bytes: sealed.length };
        let path = self.segment_path(disk, header.sequence);
        match self.create(&path, sealed.bytes).await? {
            PutOutcome::Created => Ok(FenceOutcome::Fenced(ours)),
            PutOutcome::Existed => {
                let there = self.read_segment(&path).await?;
                self.checked(&path, &there.header, disk, header.sequence)?;
                Ok(if there.hash == ours.hash {
                    FenceOutcome::Fenced(there)
                } else {
                    FenceOutcome::LostTo(there)
                })
            }
        }
    }

    /// The segment with this sequence, if it is there.
    ///
    /// # Errors
    /// [`VaultError::Store`], [`VaultError::Damaged`].
    pub async fn segment(
        &self,
        disk: DiskId,
        sequence: u64,
    ) -> Result<Option<Segment>, VaultError> {
        let path = self.segment_path(disk, sequence);
        match self.read_segment(&path).await {
            Ok(segment) => {
                self.checked(&path, &segment.header, disk, sequence)?;
                Ok(Some(segment))
            }
            Err(VaultError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The last segment of the disk's log, if it has one.
    ///
    /// # Errors
    /// [`VaultError::Store`], [`VaultError::Damaged`].
    pub async fn head(&self, disk: DiskId) -> Result<Option<Segment>, VaultError> {
        match self.last_sequence(disk).await? {
            Some(sequence) => self.segment(disk, sequence).await,
            None => Ok(None),
        }
    }

    /// The sequence of the last segment of the disk's log, whatever it holds.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub async fn last_sequence(&self, disk: DiskId) -> Result<Option<u64>, VaultError> {
        let log = self.list(&self.folder(disk, "log")).await?;
        Ok(log.iter().filter_map(|meta| numbered(&meta.location, "seg")).max())
    }

    /// Starts or goes on with the copy of a whole disk as the base `generation`.
    pub fn base(&self, disk: DiskId, generation: u64, epoch: u64, disk_size: u64) -> BaseCopy {
        BaseCopy::new(self.clone(), disk, generation, epoch, disk_size)
    }

    /// The disk as it was at the end of segment `sequence`. Reads the newest usable base's list and
    /// the index of every segment after it; data is read when it is asked for.
    ///
    /// # Errors
    /// [`VaultError::NoBase`]; [`VaultError::Missing`], [`VaultError::Damaged`],
    /// [`VaultError::ChainBroken`], [`VaultError::EpochFell`] for a log that cannot be trusted;
    /// [`VaultError::Store`].
    pub async fn open_disk(&self, disk: DiskId, sequence: u64) -> Result<DiskImage, VaultError> {
        DiskImage::open(self.clone(), disk, sequence).await
    }

    /// What the newest finished base of the disk says of itself, with its generation.
    ///
    /// # Errors
    /// [`VaultError::Store`], [`VaultError::Missing`], [`VaultError::Damaged`].
    pub async fn newest_base(&self, disk: DiskId) -> Result<Option<(u64, Completion)>, VaultError> {
        match self.generations(disk).await?.last() {
            Some(&generation) => {
                let manifest = self.read_manifest(disk, generation).await?;
                Ok(Some((generation, manifest.completion)))
            }
            None => Ok(None),
        }
    }

    /// The VMs that have, or had, recovery points.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub async fn vms(&self) -> Result<Vec<VmId>, VaultError> {
        let folder = Path::from(format!("v1/{}/vm", self.id));
        let listed = self.store.list_with_delimiter(Some(&folder)).await;
        let listed = listed.map_err(|source| failed("list", &folder, source))?;
        if listed.common_prefixes.is_empty() {
            self.probe().await?;
        }
        let mut vms: Vec<VmId> = listed
            .common_prefixes
            .iter()
            .filter_map(|path| path.filename()?.parse().ok().map(VmId))
            .collect();
        vms.sort_unstable();
        Ok(vms)
    }

    /// The generations of finished bases, ascending.
    pub(super) async fn generations(&self, disk: DiskId) -> Result<Vec<u64>, VaultError> {
        let listed = self.list(&self.folder(disk, "man")).await?;
        let mut generations: Vec<u64> =
            listed.iter().filter_map(|meta| numbered(&meta.location, "man")).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    fn marker(&self) -> Path {
        Path::from(format!("v1/{}/vault.json", self.id))
    }

    pub(super) fn disk_folder(&self, disk: DiskId) -> Path {
        Path::from(format!("v1/{}/disk/{disk}", self.id))
    }

    pub(super) fn folder(&self, disk: DiskId, what: &str) -> Path {
        Path::from(format!("v1/{}/disk/{disk}/{what}", self.id))
    }

    pub(super) fn segment_path(&self, disk: DiskId, sequence: u64) -> Path {
        self.folder(disk, "log").join(format!("{sequence:020}.seg"))
    }

    /// A part carries its hash in its name: two writers of one sequence never meet in a part, and a
    /// part that was already sent is found again.
    pub(super) fn part_path(
        &self,
        disk: DiskId,
        sequence: u64,
        part: u16,
        hash: SegmentHash,
    ) -> Path {
        let hash = hash.to_string();
        self.folder(disk, "log").join(format!("{sequence:020}.p{part}.{}", &hash[..32]))
    }

    pub(super) fn base_folder(&self, disk: DiskId, generation: u64) -> Path {
        self.folder(disk, "base").join(format!("{generation:08}"))
    }

    pub(super) fn region_path(&self, disk: DiskId, generation: u64, region: u64) -> Path {
        self.base_folder(disk, generation).join(format!("{region:08x}.seg"))
    }

    /// A part of a region, which carries its hash in its name as those of a delta do.
    pub(super) fn region_part_path(
        &self,
        disk: DiskId,
        generation: u64,
        region: u64,
        part: u16,
        hash: SegmentHash,
    ) -> Path {
        let hash = hash.to_string();
        let name = format!("{region:08x}.p{part}.{}", &hash[..32]);
        self.base_folder(disk, generation).join(name)
    }

    /// The checksums of a region carry its hash in their name: they are of no other content.
    pub(super) fn sums_path(
        &self,
        disk: DiskId,
        generation: u64,
        region: u64,
        hash: SegmentHash,
    ) -> Path {
        let hash = hash.to_string();
        self.base_folder(disk, generation).join(format!("{region:08x}.{}.sum", &hash[..32]))
    }

    pub(super) fn manifest_path(&self, disk: DiskId, generation: u64) -> Path {
        self.folder(disk, "man").join(format!("{generation:020}.man"))
    }

    pub(super) fn points_folder(&self, vm: VmId) -> Path {
        Path::from(format!("v1/{}/vm/{vm}/rp", self.id))
    }

    /// Writes an object that must not exist. The vault's mark is looked for first: a folder whose
    /// volume is not mounted would silently be filled otherwise, since the local store makes folders.
    pub(super) async fn create(
        &self,
        path: &Path,
        bytes: Vec<Bytes>,
    ) -> Result<PutOutcome, VaultError> {
        if *path != self.marker() {
            self.probe().await?;
        }
        let payload = PutPayload::from_iter(bytes);
        let _upload = match &self.admission {
            Some(admission) => Some(admission.admit(payload.content_length() as u64).await),
            None => None,
        };
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(path, payload, options).await {
            Ok(_) => Ok(PutOutcome::Created),
            // The object may be there from an earlier call that was cut off before it made the folder
            // durable. This call wrote and synced a file of its own in the same folder, which takes
            // the folder's earlier changes along in the journals of ext4 and XFS.
            Err(object_store::Error::AlreadyExists { .. }) => Ok(PutOutcome::Existed),
            Err(source) => Err(failed("write", path, source)),
        }
    }

    /// For the parts of a disk that are on their way at a time.
    pub(super) fn upload_slots(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.uploads))
    }

    /// Commits a segment and answers its hash. If the name is taken, the same content is a repeated PUT
    /// whose first acknowledgement was lost; it may have been compressed in another way.
    pub(super) async fn commit(
        &self,
        path: &Path,
        epoch: u64,
        sealed: Sealed,
    ) -> Result<SegmentHash, VaultError> {
        match self.create(path, sealed.bytes).await? {
            PutOutcome::Created => Ok(sealed.hash),
            PutOutcome::Existed => {
                let (there, _) = self.read_index(path).await?;
                let object = path.to_string();
                match there.header.kind {
                    _ if there.content(&self.hash_key()) == sealed.content => Ok(there.hash),
                    Kind::Fence => {
                        Err(VaultError::Fenced { object, ours: epoch, fence: there.header.epoch })
                    }
                    Kind::Delta | Kind::Base | Kind::Part | Kind::Manifest => {
                        let theirs = there.header.epoch;
                        Err(VaultError::OtherWriter { object, ours: epoch, theirs })
                    }
                }
            }
        }
    }

    /// Whether an object of this length is there.
    pub(super) async fn has(&self, path: &Path, length: u64) -> Result<bool, VaultError> {
        match self.store.head(path).await {
            Ok(meta) => Ok(meta.size == length),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(failed("look for", path, source)),
        }
    }

    /// Reads exactly `range`, with the length of the whole object.
    pub(super) async fn read(
        &self,
        path: &Path,
        range: Range<u64>,
    ) -> Result<(Bytes, u64), VaultError> {
        let wanted = range.end - range.start;
        let options = GetOptions::new().with_range(Some(range.clone()));
        let answer = async {
            let got = self.store.get_opts(path, options).await?;
            let length = got.meta.size;
            Ok((got.bytes().await?, length))
        };
        match answer.await {
            Ok((bytes, length)) if bytes.len() as u64 == wanted => Ok((bytes, length)),
            Ok((_, length)) => Err(too_short(path, length, range.end)),
            Err(source) => Err(self.unreadable(path, range.end, source).await),
        }
    }

    /// Reads a whole text object.
    pub(super) async fn read_text(&self, path: &Path) -> Result<Bytes, VaultError> {
        let answer = async {
            let got = self.store.get_opts(path, GetOptions::new()).await?;
            let found = got.meta.size;
            if MAX_TEXT_BYTES < found {
                return Ok(Err(found));
            }
            got.bytes().await.map(Ok)
        };
        match answer.await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(found)) => {
                let flaw = Flaw::Length { what: "the text", found, expected: MAX_TEXT_BYTES };
                Err(damaged(path, segment::damage(0, flaw)))
            }
            Err(source) => Err(self.unreadable(path, 0, source).await),
        }
    }

    /// Tells an object that is missing or too short from a storage that does not answer: a store
    /// reports a range beyond the end like any other fault.
    async fn unreadable(&self, path: &Path, end: u64, source: object_store::Error) -> VaultError {
        match source {
            object_store::Error::NotFound { .. } => match self.probe().await {
                Ok(()) => VaultError::Missing { object: path.to_string() },
                Err(error) => error,
            },
            object_store::Error::Generic { .. } => match self.store.head(path).await {
                Ok(meta) if meta.size < end => too_short(path, meta.size, end),
                _ => failed("read", path, source),
            },
            _ => failed("read", path, source),
        }
    }

    /// Reads a sealed object without its frames.
    pub(super) async fn open_object(&self, path: &Path) -> Result<Opened, VaultError> {
        let (head, header, opener, length) = self.read_head(path).await?;
        let shortest = HEADER_BYTES + header.wrapped_key_bytes() + TRAILER_BYTES;
        if length < shortest {
            return Err(too_short(path, length, shortest));
        }
        let tail_at = length.saturating_sub(TAIL_BYTES).max(HEADER_BYTES);
        let (tail, _) = self.read(path, tail_at..length).await?;
        let trailer_at = tail.len() - TRAILER_BYTES as usize;
        let trailer = Trailer::decode(&tail[trailer_at..], length).map_err(in_object(path))?;
        let footer_range = trailer.footer_range();
        let footer = if tail_at <= footer_range.start {
            tail.slice((footer_range.start - tail_at) as usize..trailer_at)
        } else {
            self.read(path, footer_range).await?.0
        };
        trailer.verify(&head, &footer, &self.hash_key()).map_err(in_object(path))?;
        Ok(Opened { header, footer, trailer, stored_bytes: length, opener, head })
    }

    /// Reads an object's header and what opens its frames, with the object's length.
    async fn read_head(
        &self,
        path: &Path,
    ) -> Result<(Bytes, Header, FrameOpener, u64), VaultError> {
        // No object that holds anything is shorter.
        let wrapped = if self.sealing.keys.is_some() { WRAPPED_KEY_BYTES } else { 0 };
        let (head, length) = self.read(path, 0..HEADER_BYTES + wrapped).await?;
        let fixed = head.slice(..HEADER_BYTES as usize);
        let header = Header::decode(&fixed).map_err(in_object(path))?;
        let opener = self.sealing.opener(&header, &head).map_err(in_object(path))?;
        Ok((fixed, header, opener, length))
    }

    /// What opens the frames of a part.
    pub(super) async fn open_part(
        &self,
        path: &Path,
        disk: DiskId,
        sequence: u64,
        part: u16,
    ) -> Result<FrameOpener, VaultError> {
        let (_, header, opener, _) = self.read_head(path).await?;
        self.checked(path, &header, disk, sequence)?;
        segment::same(112, "part", header.place, part.into()).map_err(in_object(path))?;
        Ok(opener)
    }

    /// Reads the index of a delta, base region or fence.
    pub(super) async fn read_index(&self, path: &Path) -> Result<(Index, u64), VaultError> {
        let (index, _, length) = self.open_index(path).await?;
        Ok((index, length))
    }

    /// Reads the index of a delta, base region or fence, and what opens the frames of its object.
    pub(super) async fn open_index(
        &self,
        path: &Path,
    ) -> Result<(Index, FrameOpener, u64), VaultError> {
        let Opened { head, footer, trailer, stored_bytes, opener, .. } =
            self.open_object(path).await?;
        let index = Index::decode(&head, &footer, &trailer, &self.hash_key());
        Ok((index.map_err(in_object(path))?, opener, stored_bytes))
    }

    pub(super) async fn read_segment(&self, path: &Path) -> Result<Segment, VaultError> {
        let Opened { header, trailer, stored_bytes, .. } = self.open_object(path).await?;
        Ok(Segment { header, hash: trailer.hash, stored_bytes })
    }

    /// Checks that the object at `path` says of itself what its name says.
    pub(super) fn checked(
        &self,
        path: &Path,
        header: &Header,
        disk: DiskId,
        sequence: u64,
    ) -> Result<(), VaultError> {
        header.expect(self.id, disk, sequence).map_err(in_object(path))
    }

    /// The objects below a folder, in no order. An empty answer is only believed of a vault that is
    /// there.
    pub(super) async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>, VaultError> {
        let listed = self.list_maybe(folder).await?;
        if listed.is_empty() {
            self.probe().await?;
        }
        Ok(listed)
    }

    /// The objects below a folder, for those to whom none is as good as no vault.
    pub(super) async fn list_maybe(&self, folder: &Path) -> Result<Vec<ObjectMeta>, VaultError> {
        let listed: Result<Vec<_>, _> = self.store.list(Some(folder)).try_collect().await;
        listed.map_err(|source| failed("list", folder, source))
    }

    /// Deletes an object; one that is gone already is fine.
    pub(super) async fn delete(&self, path: &Path) -> Result<(), VaultError> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(failed("delete", path, source)),
        }
    }
}

/// The number in the name `<number>.<extension>`.
pub(super) fn numbered(path: &Path, extension: &str) -> Option<u64> {
    let stem = path.filename()?.strip_suffix(extension)?.strip_suffix('.')?;
    stem.parse().ok()
}

pub(super) fn in_object(path: &Path) -> impl FnOnce(Damage) -> VaultError {
    let object = path.to_string();
    move |damage| VaultError::Damaged { object, damage }
}

pub(super) fn damaged(path: &Path, damage: Damage) -> VaultError {
    in_object(path)(damage)
}

fn too_short(path: &Path, found: u64, expected: u64) -> VaultError {
    damaged(path, segment::damage(found, Flaw::Length { what: "the object", found, expected }))
}

pub(super) fn failed(
    operation: &'static str,
    object: &impl std::fmt::Display,
    source: object_store::Error,
) -> VaultError {
    VaultError::Store { operation, object: object.to_string(), source }
}
