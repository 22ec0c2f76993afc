//! Upkeep against a model: cuts, points that are let go, merges, collections, readers and deaths in any
//! order; every point that is kept reads as the model remembers it, and the space is bounded.

use super::*;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use lifeboat::domain::id::RecoveryPointId;
use lifeboat::replica::segment::REGION_BYTES;
use lifeboat::replica::{
    Audit, Collected, Collection, Collector, Consistency, Depth, DiskImage, DiskPoint, GRACE,
    Names, Pins, RecoveryPointRecord, generation_of_copy,
};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

const BLOCK: u64 = 64 * 1024;
/// Blocks of the model, one every MiB, over three regions.
const BLOCKS: u64 = 160;
const SIZE: u64 = BLOCKS * MIB;

/// A storage that answers so many requests and then none, until it is revived.
#[derive(Debug)]
struct Mortal {
    inner: Arc<InMemory>,
    left: AtomicI64,
    requests: AtomicU64,
}

impl Mortal {
    fn over(inner: Arc<InMemory>) -> Arc<Self> {
        Arc::new(Self { inner, left: AtomicI64::new(i64::MAX), requests: AtomicU64::new(0) })
    }

    fn die_after(&self, requests: i64) {
        self.left.store(requests, Ordering::Relaxed);
    }

    fn revive(&self) {
        self.left.store(i64::MAX, Ordering::Relaxed);
    }

    fn pass(&self) -> StoreResult<()> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if 0 < self.left.fetch_sub(1, Ordering::Relaxed) {
            return Ok(());
        }
        let source = std::io::Error::from(std::io::ErrorKind::ConnectionReset).into();
        Err(Error::Generic { store: "mortal", source })
    }
}

impl std::fmt::Display for Mortal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mortal({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        self.pass()?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.pass()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        match self.pass() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => futures_util::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        match self.pass() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures_util::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.pass()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// What the first bytes of every MiB hold: the seed of their noise, 0 for zeroes.
type Model = Vec<u64>;

fn content(seed: u64) -> Bytes {
    static KNOWN: Mutex<BTreeMap<u64, Bytes>> = Mutex::new(BTreeMap::new());
    let fresh = || match seed {
        0 => vec![0; BLOCK as usize].into(),
        _ => noise(seed, BLOCK as usize).into(),
    };
    KNOWN.lock().unwrap().entry(seed).or_insert_with(fresh).clone()
}

struct Reader {
    cycle: u64,
    image: DiskImage,
    pins: Pins,
}

/// A vault with one disk, and what it must hold.
struct World {
    store: Arc<Mortal>,
    vault: Vault,
    /// The vault without deaths.
    proof: Vault,
    objects: Arc<InMemory>,
    collector: Collector,
    now: Timestamp,
    seed: u64,
    previous: SegmentHash,
    sequence: u64,
    present: Model,
    kept: BTreeMap<u64, (u64, Model)>,
    readers: Vec<Reader>,
    epoch: u64,
}

impl World {
    async fn new() -> Self {
        let (objects, proof) = memory_vault().await;
        let store = Mortal::over(objects.clone());
        let vault = Vault::new(store.clone(), VAULT);
        let copy = proof.base(DISK, generation_of_copy(0), 1, SIZE);
        let mut present = vec![0; BLOCKS as usize];
        for region in 0..SIZE.div_ceil(REGION_BYTES) {
            let mut writer = copy.region(region);
            let blocks = REGION_BYTES / MIB;
            for block in (region * blocks..((region + 1) * blocks).min(BLOCKS)).step_by(3) {
                present[block as usize] = 1_000_000 + block;
                writer.data(block * MIB, &content(1_000_000 + block)).await.unwrap();
            }
            writer.commit().await.unwrap();
        }
        copy.complete(from_the_start()).await.unwrap();
        Self {
            store,
            vault,
            proof,
            objects,
            collector: Collector::default(),
            now: Timestamp::from_millis(1_800_000_000_000),
            seed: 0,
            previous: SegmentHash::NONE,
            sequence: 0,
            present,
            kept: BTreeMap::new(),
            readers: Vec::new(),
            epoch: 1,
        }
    }

    /// The same world once more, without readers, after a start of the service.
    fn fork(&self) -> Self {
        let objects = Arc::new(self.objects.fork());
        let store = Mortal::over(objects.clone());
        Self {
            vault: Vault::new(store.clone(), VAULT),
            proof: Vault::new(objects.clone(), VAULT),
            store,
            objects,
            collector: Collector::default(),
            kept: self.kept.clone(),
            present: self.present.clone(),
            readers: Vec::new(),
            ..*self
        }
    }

    /// One delta with these blocks, and its point.
    async fn cut(&mut self, blocks: &BTreeSet<u64>) {
        let sequence = self.sequence + 1;
        let header = DeltaHeader { epoch: self.epoch, ..header(sequence, self.previous, SIZE) };
        let mut writer = self.proof.delta(DISK, header);
        for block in blocks {
            self.seed += 1;
            let seed = if self.seed.is_multiple_of(5) { 0 } else { self.seed };
            self.present[*block as usize] = seed;
            if seed == 0 {
                writer.zeroes(block * MIB..block * MIB + BLOCK).unwrap();
            } else {
                writer.data(block * MIB, &content(seed)).await.unwrap();
            }
        }
        self.previous = writer.commit().await.unwrap().hash;
        self.sequence = sequence;
        let cycle = sequence;
        let point = RecoveryPointRecord {
            id: RecoveryPointId::derived(VM.0, cycle),
            vm: VM,
            cycle,
            at: self.now,
            consistency: Consistency::Crash,
            stored_bytes: 0,
            names: Names { vm: "sql-01".to_owned(), ..Names::default() },
            disks: BTreeMap::from([(DISK, DiskPoint { sequence, generation: 0, epoch: 1 })]),
        };
        self.proof.put_point(&point).await.unwrap();
        self.kept.insert(cycle, (sequence, self.present.clone()));
    }

    async fn pass(&mut self) -> Result<Collected, VaultError> {
        self.pass_as(self.epoch).await
    }

    async fn pass_as(&mut self, epoch: u64) -> Result<Collected, VaultError> {
        self.pass_at(epoch, &Steps::from(self.now, 0)).await
    }

    async fn pass_at(&mut self, epoch: u64, clock: &Steps) -> Result<Collected, VaultError> {
        let kept: BTreeSet<u64> = self.kept.keys().copied().collect();
        let pass = Collection { vm: VM, disks: &[DISK], kept: &kept, epoch, pins: &[], clock };
        self.collector.collect(&self.vault, &pass).await
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// Lets go of everything but the cycles for which `keep` is so, and the newest.
    fn let_go(&mut self, keep: impl Fn(u64) -> bool) {
        let newest = self.kept.keys().last().copied();
        self.kept.retain(|cycle, _| Some(*cycle) == newest || keep(*cycle));
    }

    async fn open(&mut self, nth: usize) {
        let Some((cycle, (sequence, _))) = self.kept.iter().nth(nth % self.kept.len().max(1))
        else {
            return;
        };
        let image = self.proof.open_disk(DISK, *sequence).await.unwrap();
        let pins = Pins::of([&image]);
        let id = RecoveryPointId::derived(VM.0, *cycle);
        let expires = self.now.after(Duration::from_hours(5));
        self.proof.put_lease(VM, id, &pins, expires).await.unwrap();
        self.readers.push(Reader { cycle: *cycle, image, pins });
    }

    /// Every kept point reads as it was, block for block.
    async fn prove(&self) {
        for (cycle, (sequence, model)) in &self.kept {
            let image = self.proof.open_disk(DISK, *sequence).await.unwrap();
            compare(&image, model, *cycle).await;
        }
        let points = self.proof.points(VM).await.unwrap();
        assert!(points.damaged.is_empty());
        let cycles: BTreeSet<u64> = points.points.iter().map(|point| point.cycle).collect();
        assert!(self.kept.keys().all(|cycle| cycles.contains(cycle)));
    }

    /// Bytes of everything in the vault.
    async fn bytes(&self) -> u64 {
        let all: Vec<ObjectMeta> = self.objects.list(None).try_collect().await.unwrap();
        all.iter().map(|meta| meta.size).sum()
    }

    async fn count(&self, part: &str) -> usize {
        let all: Vec<ObjectMeta> = self.objects.list(None).try_collect().await.unwrap();
        all.iter().filter(|meta| meta.location.as_ref().contains(part)).count()
    }

    /// Bytes of the base and of what differs from each kept point to the next: what has to be kept.
    fn least_bytes(&self) -> u64 {
        let models: Vec<&Model> = self.kept.values().map(|(_, model)| model).collect();
        let base =
            models.first().map_or(0, |model| model.iter().filter(|seed| **seed != 0).count());
        let deltas: usize = models
            .windows(2)
            .map(|pair| pair[0].iter().zip(pair[1]).filter(|(one, other)| one != other).count())
            .sum();
        (base + deltas) as u64 * BLOCK
    }
}

async fn compare(image: &DiskImage, model: &Model, cycle: u64) {
    let mut buffer = vec![0xee; BLOCK as usize];
    for (block, seed) in (0..).zip(model) {
        image.read_at(block * MIB, &mut buffer).await.unwrap();
        assert!(buffer == content(*seed), "block {block} of point {cycle}");
    }
    let mut from = 0;
    while let Some(run) = image.next_data(from).await.unwrap() {
        let block = run.start / MIB;
        assert!(run.end <= block * MIB + BLOCK, "data where none was written: {run:?}");
        from = run.end;
    }
}

fn some_blocks(start: u64) -> BTreeSet<u64> {
    (0..6).map(|nth| (start * 7 + nth * nth * 5) % BLOCKS).collect()
}

#[tokio::test]
async fn what_lies_between_kept_points_becomes_one_segment_and_the_rest_goes_after_the_grace() {
    let mut world = World::new().await;
    for cut in 0..30 {
        world.cut(&some_blocks(cut)).await;
    }
    world.let_go(|cycle| cycle.is_multiple_of(10));
    let done = world.pass().await.unwrap();
    assert_eq!((done.points, done.objects), (27, 0));
    assert!(2 <= done.merges, "{done:?}");
    world.prove().await;
    assert_eq!(world.count("/log/").await, 30, "nothing goes before the grace is over");

    world.wait(GRACE);
    let done = world.pass().await.unwrap();
    assert!(20 < done.objects, "{done:?}");
    assert!(world.count("/log/").await <= 2, "the newest stays for the next delta");
    world.prove().await;
    let done = world.pass().await.unwrap();
    assert_eq!(done, Collected::default(), "there is nothing more to do");
    let (bytes, least) = (world.bytes().await, world.least_bytes());
    assert!(bytes < least * 3 / 2 + MIB, "{bytes} bytes for {least}");
}

#[tokio::test]
async fn expired_points_become_part_of_the_base_and_untouched_regions_are_not_copied() {
    let mut world = World::new().await;
    // All in the first of three regions.
    for cut in 0..40 {
        world.cut(&(0..8).map(|nth| (cut * 3 + nth) % 60).collect()).await;
    }
    world.let_go(|_| false);
    let before = world.count("/base/").await;
    world.pass().await.unwrap();
    assert_eq!(world.count("/base/").await, before + 2, "one region with its checksums");
    assert_eq!(world.count("/man/").await, 2);
    world.prove().await;
    world.wait(GRACE);
    world.pass().await.unwrap();
    assert_eq!((world.count("/base/").await, world.count("/man/").await), (before, 1));
    assert_eq!((world.count("/log/").await, world.count("/merged/").await), (1, 0));
    world.prove().await;
    world.cut(&some_blocks(1)).await;
    world.prove().await;
}

#[tokio::test]
async fn a_death_at_any_request_leaves_every_kept_point_and_the_next_pass_goes_on() {
    let mut start = World::new().await;
    for cut in 0..12 {
        start.cut(&some_blocks(cut)).await;
    }
    start.let_go(|cycle| cycle.is_multiple_of(5));
    let mut deaths = 0;
    for wait in [Duration::ZERO, GRACE] {
        for requests in 0.. {
            let mut world = start.fork();
            if !wait.is_zero() {
                world.pass().await.unwrap();
                world.wait(wait);
                world.let_go(|cycle| cycle == 10);
            }
            world.store.die_after(requests);
            let done = world.pass().await.is_ok();
            world.store.revive();
            world.prove().await;
            if done {
                break;
            }
            deaths += 1;
            // What comes after it is the same after most of them.
            if requests % 5 != 0 {
                continue;
            }
            // Half of the time the service starts anew after it.
            if requests % 2 == 0 {
                world.collector = Collector::default();
            }
            world.pass().await.unwrap();
            world.wait(GRACE);
            world.pass().await.unwrap();
            world.prove().await;
            assert!(world.bytes().await < world.least_bytes() * 2 + MIB);
        }
    }
    assert!(100 < deaths, "{deaths}");
}

#[tokio::test]
async fn what_a_reader_reads_stays_until_its_lease_is_over() {
    let mut world = World::new().await;
    for cut in 0..10 {
        world.cut(&some_blocks(cut)).await;
    }
    world.open(4).await;
    let model = world.kept[&5].1.clone();
    world.let_go(|_| false);
    for _ in 0..4 {
        world.pass().await.unwrap();
        compare(&world.readers[0].image, &model, 5).await;
        world.wait(GRACE);
    }
    assert_eq!(world.count("/lease/").await, 1);
    world.wait(GRACE);
    world.pass().await.unwrap();
    assert_eq!(world.count("/lease/").await, 0, "it is over");
    world.wait(GRACE);
    world.pass().await.unwrap();
    assert_eq!(world.count("/log/").await, 1);
    world.prove().await;
}

#[tokio::test]
async fn a_merge_that_takes_longer_than_the_grace_takes_none_of_it_from_readers() {
    let mut world = World::new().await;
    for cut in 0..10 {
        world.cut(&some_blocks(cut)).await;
    }
    world.let_go(|_| false);
    let slow = Steps::from(world.now, i64::try_from(GRACE.as_millis()).unwrap());
    let pass = world.pass_at(1, &slow).await.unwrap();
    assert!(0 < pass.merges);
    // When it ended somebody may just have found the way to what its merges made needless.
    world.wait(GRACE);
    assert_eq!(world.pass().await.unwrap().objects, 0);
    world.wait(GRACE);
    assert!(0 < world.pass().await.unwrap().objects);
    world.prove().await;
}

/// Audits the vault of a world, and when the first data was read does something with the world, on a
/// thread of its own, as another process would.
async fn audit_while(world: World, meanwhile: fn(&mut World, &tokio::runtime::Runtime)) -> Audit {
    let vault = world.proof.clone();
    let world = Mutex::new(Some(world));
    let progress = |_: u64| {
        let Some(mut world) = world.lock().unwrap().take() else { return };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            meanwhile(&mut world, &runtime);
        });
        thread.join().unwrap();
    };
    vault.audit(Depth::Everything, &progress).await.unwrap()
}

fn cycles(audit: &Audit) -> Vec<u64> {
    audit.vms[0].points.iter().map(|point| point.cycle).collect()
}

#[tokio::test]
async fn a_collection_in_the_middle_of_an_audit_breaks_no_point() {
    let mut world = World::new().await;
    for cut in 0..10 {
        world.cut(&some_blocks(cut)).await;
    }
    let audit = audit_while(world, |world, runtime| {
        world.let_go(|cycle| cycle == 5);
        for _ in 0..4 {
            runtime.block_on(world.pass()).unwrap();
            world.wait(GRACE);
        }
        assert_eq!(runtime.block_on(world.count("/rp/")), 2);
        assert!(runtime.block_on(world.count("/log/")) < 3, "segments were deleted");
    });
    let audit = audit.await;
    assert_eq!(audit.findings, Vec::<String>::new());
    assert_eq!(cycles(&audit), [5, 10]);
}

#[tokio::test]
async fn vms_that_are_deleted_in_the_middle_of_an_audit_are_told_as_that() {
    const OTHER: VmId = VmId(Uuid::from_u128(0x8888));
    let mut world = World::new().await;
    for cut in 0..3 {
        world.cut(&some_blocks(cut)).await;
    }
    let point = world.proof.point(VM, 2).await.unwrap().unwrap();
    world.proof.put_point(&RecoveryPointRecord { vm: OTHER, ..point }).await.unwrap();
    let audit = audit_while(world, |world, runtime| {
        runtime.block_on(world.proof.discard(VM, &[DISK])).unwrap();
        runtime.block_on(world.proof.discard(OTHER, &[])).unwrap();
    });
    let audit = audit.await;
    assert_eq!(audit.findings, Vec::<String>::new());
    let told: Vec<_> =
        audit.vms.iter().map(|vm| (vm.vm, vm.points.len(), vm.deleted_meanwhile)).collect();
    assert_eq!(told, [(VM, 0, true), (OTHER, 0, true)]);
    assert_eq!(audit.vms[0].names.vm, "sql-01", "it was read before");
}

#[tokio::test]
async fn what_is_missing_though_a_point_needs_it_is_told_in_the_middle_of_a_collection_too() {
    let mut world = World::new().await;
    for cut in 0..10 {
        world.cut(&some_blocks(cut)).await;
    }
    let audit = audit_while(world, |world, runtime| {
        world.let_go(|cycle| 4 <= cycle);
        runtime.block_on(world.pass()).unwrap();
        let lost = Path::from(format!("v1/{VAULT}/disk/{DISK}/log/{:020}.seg", 8));
        runtime.block_on(world.objects.delete(&lost)).unwrap();
    });
    let audit = audit.await;
    assert_eq!(cycles(&audit), [4, 5, 6, 7, 8, 9, 10]);
    let broken = audit.vms[0].points.iter().filter(|point| !point.because.is_empty());
    assert_eq!(broken.map(|point| point.cycle).collect::<Vec<_>>(), [8, 9, 10]);
    assert_eq!(audit.findings.len(), 1, "{:?}", audit.findings);
    assert!(audit.findings[0].contains("00000000000000000008.seg: it is missing"));
}

#[tokio::test]
async fn a_delta_and_a_copy_that_are_under_way_are_left_alone() {
    let mut world = World::new().await;
    for cut in 0..3 {
        world.cut(&some_blocks(cut)).await;
    }
    let mut delta = world.proof.delta(DISK, header(4, world.previous, SIZE));
    delta.data(0, &noise(1, 17 * MIB as usize)).await.unwrap();
    let copy = world.proof.base(DISK, generation_of_copy(1), 1, SIZE);
    let mut region = copy.region(0);
    region.data(0, &[1; 512]).await.unwrap();
    region.commit().await.unwrap();
    for _ in 0..5 {
        world.wait(GRACE);
        world.pass().await.unwrap();
    }
    assert_eq!(world.count("00000000000000000004.p1.").await, 1);
    assert_eq!(copy.regions_present().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_collector_of_an_earlier_epoch_stops_itself() {
    let mut world = World::new().await;
    for cut in 0..4 {
        world.cut(&some_blocks(cut)).await;
    }
    let header = DeltaHeader { epoch: 2, ..header(5, world.previous, SIZE) };
    world.proof.fence(DISK, header).await.unwrap();
    world.let_go(|_| false);
    let before = world.bytes().await;
    let error = world.pass().await.unwrap_err();
    assert_code(&error, Code::ReplicaInvalid, "epoch 1 was fenced off by epoch 2");
    assert_eq!(world.bytes().await, before);

    // The owner of the fence keeps one earlier point. What came after it stays: a failback reads the
    // end of the log.
    world.kept.retain(|cycle, _| *cycle == 4);
    for _ in 0..2 {
        world.pass_as(2).await.unwrap();
        world.wait(GRACE);
    }
    assert_eq!(world.count("/log/").await, 2);
    world.proof.open_disk(DISK, 5).await.unwrap();
    assert_eq!(world.proof.written_between(DISK, 4, 5).await.unwrap(), Some(Vec::new()));
    assert_eq!(world.proof.written_between(DISK, 1, 5).await.unwrap(), None, "2 and 3 are merged");
    world.prove().await;
}

#[tokio::test]
async fn a_damaged_point_or_lease_stops_the_collection_rather_than_hide_what_is_needed() {
    for what in ["/rp/", "/lease/"] {
        let mut world = World::new().await;
        for cut in 0..4 {
            world.cut(&some_blocks(cut)).await;
        }
        world.open(1).await;
        let all: Vec<ObjectMeta> = world.objects.list(None).try_collect().await.unwrap();
        let damaged = all.iter().rev().find(|meta| meta.location.as_ref().contains(what)).unwrap();
        overwrite(&*world.objects, &damaged.location, b"{".to_vec()).await;
        world.let_go(|cycle| cycle == 2);
        for _ in 0..3 {
            let error = world.pass().await.unwrap_err();
            assert_code(&error, Code::ReplicaDamaged, what);
            world.wait(GRACE);
        }
        assert_eq!(world.count("/log/").await, 4);
    }
}

/// A resynchronization copied the disk again: points on both sides of it stay readable.
#[tokio::test]
async fn points_before_a_later_copy_keep_the_earlier_base() {
    let mut world = World::new().await;
    for cut in 0..8 {
        world.cut(&some_blocks(cut)).await;
    }
    let copy = world.proof.base(DISK, generation_of_copy(1), 1, SIZE);
    for region in 0..SIZE.div_ceil(REGION_BYTES) {
        let mut writer = copy.region(region);
        let blocks = REGION_BYTES / MIB;
        for block in region * blocks..((region + 1) * blocks).min(BLOCKS) {
            writer.data(block * MIB, &content(world.present[block as usize])).await.unwrap();
        }
        writer.commit().await.unwrap();
    }
    let (from_seq, at) = (world.sequence, Timestamp::default());
    let completion =
        Completion { from_seq, from_hash: world.previous, usable_from: from_seq + 1, at };
    copy.complete(completion).await.unwrap();
    for cut in 8..20 {
        world.cut(&some_blocks(cut)).await;
    }
    for keep in [3, 4, 7, 12, 15, 30] {
        world.let_go(|cycle| keep < cycle && cycle % 4 != 1);
        world.pass().await.unwrap();
        world.prove().await;
        world.wait(GRACE);
        world.pass().await.unwrap();
        world.prove().await;
    }
    assert_eq!(world.count("/man/").await, 1);
    assert_eq!(world.count("/log/").await, 1);
}

#[derive(Clone, Debug)]
enum Step {
    Cut(BTreeSet<u64>),
    /// Lets go of all but one in so many.
    Thin(u64),
    /// Lets go of the oldest so many.
    Expire(usize),
    Pass,
    /// The service dies at this request of a pass and starts anew.
    Die(i64),
    Wait(u64),
    Open(usize),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => prop::collection::btree_set(0..BLOCKS, 0..12).prop_map(Step::Cut),
        2 => (2..5_u64).prop_map(Step::Thin),
        2 => (1..6_usize).prop_map(Step::Expire),
        4 => Just(Step::Pass),
        4 => (0..60_i64).prop_map(Step::Die),
        3 => (1..90_u64).prop_map(Step::Wait),
        2 => (0..20_usize).prop_map(Step::Open),
        1 => Just(Step::Close),
    ]
}

async fn live(steps: Vec<Step>) {
    let mut world = World::new().await;
    let mut read: BTreeMap<u64, Model> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Cut(blocks) => world.cut(&blocks).await,
            Step::Thin(one_in) => world.let_go(|cycle| cycle % one_in == 0),
            Step::Expire(count) => {
                let oldest = world.kept.keys().nth(count).copied();
                world.let_go(|cycle| Some(cycle) >= oldest && oldest.is_some());
            }
            Step::Pass => _ = world.pass().await.unwrap(),
            Step::Die(requests) => {
                world.store.die_after(requests);
                let _ = world.pass().await;
                world.store.revive();
                world.collector = Collector::default();
            }
            Step::Wait(minutes) => {
                world.wait(Duration::from_mins(minutes));
                // Readers renew their leases.
                for reader in &world.readers {
                    let id = RecoveryPointId::derived(VM.0, reader.cycle);
                    let expires = world.now.after(Duration::from_hours(5));
                    world.proof.put_lease(VM, id, &reader.pins, expires).await.unwrap();
                }
            }
            Step::Open(nth) => {
                world.open(nth).await;
                if let Some(reader) = world.readers.last() {
                    let model = world.kept[&reader.cycle].1.clone();
                    read.insert(reader.cycle, model);
                }
            }
            Step::Close => {
                world.readers.clear();
                read.clear();
            }
        }
        world.prove().await;
        for reader in &world.readers {
            compare(&reader.image, &read[&reader.cycle], reader.cycle).await;
        }
    }
    world.wait(Duration::from_hours(6));
    world.readers.clear();
    for _ in 0..3 {
        world.pass().await.unwrap();
        world.wait(GRACE);
    }
    world.prove().await;
    if !world.kept.is_empty() {
        let (bytes, least) = (world.bytes().await, world.least_bytes());
        assert!(bytes < least * 2 + 2 * MIB, "{bytes} bytes for {least}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn every_kept_point_and_every_reader_sees_what_was_written_whatever_happens(
        steps in prop::collection::vec(step(), 1..36)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(live(steps));
    }
}

/// A day of cuts every 5 minutes by the domain's levels, a pass with each.
#[tokio::test]
async fn a_day_of_cuts_takes_the_base_and_what_the_kept_points_differ_by() {
    use lifeboat::domain::retention::{Candidate, thinned_out};
    let mut world = World::new().await;
    let (mut ats, mut most_requests, mut worst) = (BTreeMap::new(), 0, 0.0_f64);
    for cut in 0..26 * 12 {
        world.wait(Duration::from_mins(5));
        world.cut(&some_blocks(cut)).await;
        ats.insert(world.sequence, world.now);
        let candidates: Vec<Candidate> = world
            .kept
            .keys()
            .map(|cycle| Candidate { cycle: *cycle, at: ats[cycle], application_consistent: false })
            .collect();
        let mut gone = thinned_out(&candidates, world.now);
        gone.extend(candidates.iter().filter_map(|point| {
            let expired = Duration::from_hours(24) < world.now.since(point.at);
            expired.then_some(point.cycle)
        }));
        world.let_go(|cycle| !gone.contains(&cycle));
        let before = world.store.requests.load(Ordering::Relaxed);
        world.pass().await.unwrap();
        most_requests = most_requests.max(world.store.requests.load(Ordering::Relaxed) - before);
        if 150 < cut && cut % 30 == 0 {
            worst = worst.max(world.bytes().await as f64 / world.least_bytes() as f64);
        }
    }
    world.prove().await;
    assert!(worst < 1.5, "{worst}");
    assert!(most_requests < 400, "{most_requests}");
}
