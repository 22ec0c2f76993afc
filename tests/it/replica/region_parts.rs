//! Base regions that leave in parts, so that a copy never holds a whole one.

use super::encryption::keys;
use super::faulty_store::{Fault, FaultyStore};
use super::*;
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use lifeboat::domain::id::RecoveryPointId;
use lifeboat::replica::Admission;
use lifeboat::replica::segment::{PART_BYTES, REGION_BYTES};
use lifeboat::replica::{Consistency, Depth, DiskPoint, Names, RecoveryPointRecord, RegionPresent};
use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Two parts and a rest, in the second region of a disk.
const DATA_BYTES: u64 = 2 * PART_BYTES + MIB / 2;
const DISK_BYTES: u64 = 2 * REGION_BYTES;

async fn vaults() -> [(Arc<InMemory>, Vault); 2] {
    let (store, plain) = memory_vault().await;
    let other = Arc::new(InMemory::new());
    let encrypted = Vault::new(other.clone(), VAULT).with_keys(keys(7));
    encrypted.establish().await.unwrap();
    [(store, plain), (other, encrypted)]
}

/// Copies the data of `seed` into region 1, up to the commit or to the death of whoever copies.
async fn copy_region(vault: &Vault, seed: u64, dies: bool) -> Option<RegionPresent> {
    let copy = vault.base(DISK, 1, 1, DISK_BYTES);
    let mut writer = copy.region(1);
    let data = noise(seed, DATA_BYTES as usize);
    writer.data(REGION_BYTES, &data).await.unwrap();
    if dies { None } else { writer.commit().await.unwrap() }
}

async fn protect(vault: &Vault) {
    vault.base(DISK, 1, 1, DISK_BYTES).complete(from_the_start()).await.unwrap();
    let first = vault.delta(DISK, header(1, SegmentHash::NONE, DISK_BYTES));
    first.commit().await.unwrap();
    let point = RecoveryPointRecord {
        id: RecoveryPointId::derived(VM.0, 1),
        vm: VM,
        cycle: 1,
        at: Timestamp::from_millis(1),
        consistency: Consistency::Crash,
        stored_bytes: 1,
        disks: BTreeMap::from([(DISK, DiskPoint { sequence: 1, generation: 1, epoch: 1 })]),
        names: Names { vm: "db-1".to_owned(), disks: BTreeMap::new() },
    };
    vault.put_point(&point).await.unwrap();
}

async fn parts_in(store: &InMemory) -> Vec<Path> {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let paths = listed.into_iter().map(|meta| meta.location);
    paths.filter(|path| path.filename().unwrap().contains(".p")).collect()
}

#[tokio::test]
async fn a_region_in_parts_reads_back_and_is_counted_with_them() {
    for (store, vault) in vaults().await {
        let present = copy_region(&vault, 3, false).await.unwrap();
        assert!(DATA_BYTES <= present.stored_bytes, "{present:?}");
        protect(&vault).await;
        assert_eq!(parts_in(&store).await.len(), 2);
        let image = vault.open_disk(DISK, 1).await.unwrap();
        let mut found = vec![0xee; DATA_BYTES as usize + 4096];
        image.read_at(REGION_BYTES, &mut found).await.unwrap();
        let (data, rest) = found.split_at(DATA_BYTES as usize);
        assert!(data == noise(3, DATA_BYTES as usize) && rest.iter().all(|byte| *byte == 0));
        let again = vault.base(DISK, 1, 1, DISK_BYTES).regions_present().await.unwrap();
        assert_eq!(again, BTreeMap::from([(1, present)]));
    }
}

#[tokio::test]
async fn a_copy_that_died_between_two_parts_begins_its_region_again() {
    for (store, vault) in vaults().await {
        copy_region(&vault, 4, true).await;
        assert!(vault.base(DISK, 1, 1, DISK_BYTES).regions_present().await.unwrap().is_empty());
        // The disk has changed meanwhile.
        copy_region(&vault, 5, false).await.unwrap();
        protect(&vault).await;
        // Of those that were on their way at the death, any may have arrived.
        let parts = parts_in(&store).await.len();
        assert!((2..=4).contains(&parts), "{parts}");
        let image = vault.open_disk(DISK, 1).await.unwrap();
        let mut found = vec![0; DATA_BYTES as usize];
        image.read_at(REGION_BYTES, &mut found).await.unwrap();
        assert!(found == noise(5, DATA_BYTES as usize));
        let audit = vault.audit(Depth::Everything, &|_| {}).await.unwrap();
        assert!(audit.is_sound(), "{:?}", audit.findings);
        assert_eq!(audit.checked_bytes, DATA_BYTES);
    }
}

/// Lets everything pass after a while, and counts what is on its way.
#[derive(Debug, Default)]
struct Slow {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// One upload, until it is dropped.
struct Upload(Arc<Slow>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// [`Slow`], shared with its uploads.
#[derive(Debug)]
struct Gate(Arc<Slow>);

impl Admission for Gate {
    fn admit(&self, _: u64) -> BoxFuture<'_, Box<dyn Any + Send>> {
        let now = self.0.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.most.fetch_max(now, Ordering::Relaxed);
        let upload = Upload(Arc::clone(&self.0));
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Box::new(upload) as Box<dyn Any + Send>
        })
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_parts_are_on_their_way_as_are_allowed_of_all_segments_of_a_disk() {
    let (_, vault) = memory_vault().await;
    let slow = Arc::new(Slow::default());
    let vault = vault.with_uploads(3).admitting(Arc::new(Gate(Arc::clone(&slow))));
    let (copy, data) = (vault.base(DISK, 1, 1, DISK_BYTES), noise(1, 6 * PART_BYTES as usize));
    let mut regions = [copy.region(0), copy.region(1)];
    let start = Instant::now();
    for (region, writer) in regions.iter_mut().enumerate() {
        writer.data(region as u64 * REGION_BYTES, &data).await.unwrap();
    }
    assert_eq!(slow.most.load(Ordering::Relaxed), 3);
    for writer in regions {
        writer.commit().await.unwrap().unwrap();
    }
    // Five parts of each region three at a time, then checksums and the rest of each.
    assert_eq!(start.elapsed().as_secs(), 4 + 2 * 2);
}

#[tokio::test]
async fn what_a_part_did_not_survive_fails_its_segment() {
    let (memory, _) = memory_vault().await;
    let store = FaultyStore::over(memory);
    let vault = Vault::new(store.clone(), VAULT).with_uploads(4);
    store.next_puts(&[Fault::None, Fault::Refused(io::ErrorKind::TimedOut)]);
    let copy = vault.base(DISK, 1, 1, DISK_BYTES);
    let mut writer = copy.region(0);
    let sent = writer.data(0, &noise(1, 3 * PART_BYTES as usize)).await;
    let sent = async { Ok((sent?, writer.commit().await?)) }.await;
    assert_code(&sent.unwrap_err(), Code::LinkDown, ".p2.");
    assert!(copy.regions_present().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_part_that_rotted_is_named_and_counts_against_the_points_that_show_it() {
    for (store, vault) in vaults().await {
        copy_region(&vault, 6, false).await.unwrap();
        protect(&vault).await;
        let part = parts_in(&store).await.remove(1);
        let mut bytes = bytes_of(&*store, &part).await;
        bytes[1_000_000] ^= 1;
        overwrite(&*store, &part, bytes).await;
        let audit = vault.audit(Depth::Everything, &|_| {}).await.unwrap();
        assert!(audit.findings[0].contains(part.as_ref()), "{:?}", audit.findings);
        assert!(!audit.vms[0].points[0].because.is_empty());
        store.delete(&part).await.unwrap();
        let image = vault.open_disk(DISK, 1).await.unwrap();
        let mut found = vec![0; DATA_BYTES as usize];
        let error = image.read_at(REGION_BYTES, &mut found).await.unwrap_err();
        assert_code(&error, Code::ReplicaDamaged, part.as_ref());
    }
}

/// A collector that is held up in a merge for hours: another one took what it had sent for unneeded.
#[tokio::test]
async fn a_base_is_not_closed_over_a_region_that_is_gone() {
    let (store, vault) = memory_vault().await;
    let copy = vault.base(DISK, 1, 1, DISK_BYTES);
    for region in 0..2 {
        let mut writer = copy.region(region);
        writer.data(region * REGION_BYTES, &noise(region, 4096)).await.unwrap();
        writer.commit().await.unwrap();
    }
    let gone = Path::from(format!("v1/{VAULT}/disk/{DISK}/base/00000001/00000001.seg"));
    store.delete(&gone).await.unwrap();
    let error = copy.complete(from_the_start()).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, gone.as_ref());
    assert!(vault.newest_base(DISK).await.unwrap().is_none());
}
