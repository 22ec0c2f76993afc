//! The vault: deltas, bases, fences and recovery points, over storage that works and that does not.

use super::faulty_store::{Fault, FaultyStore};
use super::*;
use lifeboat::domain::id::RecoveryPointId;
use lifeboat::replica::extent_map::ExtentMap;
use lifeboat::replica::segment::REGION_BYTES;
use lifeboat::replica::{
    Committed, Consistency, DiskPoint, FenceOutcome, Names, RecoveryPointRecord, Segment,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;

/// A delta of one extent.
async fn delta(vault: &Vault, header: DeltaHeader, offset: u64, data: &[u8]) -> Committed {
    try_delta(vault, header, offset, data).await.unwrap()
}

async fn try_delta(
    vault: &Vault,
    header: DeltaHeader,
    offset: u64,
    data: &[u8],
) -> Result<Committed, VaultError> {
    let mut writer = vault.delta(DISK, header);
    writer.data(offset, data).await?;
    writer.commit().await
}

/// A log of `count` deltas over an empty base, each of 4 KiB at its own place.
async fn log_of(vault: &Vault, count: u64) {
    empty_base(vault, MIB).await;
    let mut previous = SegmentHash::NONE;
    for sequence in 1..=count {
        let data = noise(sequence, 4096);
        previous = delta(vault, header(sequence, previous, MIB), sequence * 8192, &data).await.hash;
    }
}

fn segment_path(sequence: u64) -> Path {
    Path::from(format!("v1/{VAULT}/disk/{DISK}/log/{sequence:020}.seg"))
}

async fn read(
    vault: &Vault,
    sequence: u64,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, VaultError> {
    let image = vault.open_disk(DISK, sequence).await?;
    let mut buffer = vec![0xee; len];
    image.read_at(offset, &mut buffer).await?;
    Ok(buffer)
}

#[tokio::test]
async fn a_recovery_point_shows_the_deltas_up_to_it_and_none_after() {
    let (_, vault) = memory_vault().await;
    log_of(&vault, 3).await;
    assert_eq!(read(&vault, 2, 16384, 4096).await.unwrap(), noise(2, 4096));
    assert_eq!(read(&vault, 2, 24576, 4096).await.unwrap(), vec![0; 4096]);
    assert_eq!(read(&vault, 3, 24576, 4096).await.unwrap(), noise(3, 4096));
    let beyond = read(&vault, 3, MIB - 10, 11).await.unwrap_err();
    assert_code(&beyond, Code::ReplicaInvalid, "1048576 bytes");
}

#[tokio::test]
async fn an_acknowledgement_that_was_lost_is_made_good_by_repeating_the_commit() {
    let (memory, _) = memory_vault().await;
    let store = FaultyStore::over(memory);
    let vault = Vault::new(store.clone(), VAULT);
    empty_base(&vault, MIB).await;
    store.next_puts(&[Fault::AnswerLost]);
    let header = header(1, SegmentHash::NONE, MIB);
    let lost = try_delta(&vault, header, 0, &[7; 512]).await.unwrap_err();
    assert_code(&lost, Code::LinkDown, "00000000000000000001.seg");
    delta(&vault, header, 0, &[7; 512]).await;
    assert_eq!(read(&vault, 1, 0, 512).await.unwrap(), [7; 512]);
}

#[tokio::test]
async fn the_second_of_two_writers_of_a_sequence_is_told_so() {
    let (_, vault) = memory_vault().await;
    let first = header(1, SegmentHash::NONE, MIB);
    delta(&vault, first, 0, &[1; 512]).await;
    let error = try_delta(&vault, first, 0, &[2; 512]).await.unwrap_err();
    assert_code(&error, Code::ReplicaInvalid, "another writer of epoch 1");
    let other = DeltaHeader { epoch: 2, ..first };
    let error = try_delta(&vault, other, 0, &[1; 512]).await.unwrap_err();
    assert!(matches!(error, VaultError::OtherWriter { ours: 2, theirs: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_fence_stops_the_epochs_below_it_and_the_log_goes_on_above_it() {
    let (_, vault) = memory_vault().await;
    empty_base(&vault, MIB).await;
    let one = delta(&vault, header(1, SegmentHash::NONE, MIB), 0, &[1; 512]).await;
    let fence = |sequence, previous| DeltaHeader { epoch: 2, ..header(sequence, previous, MIB) };

    let lost = vault.fence(DISK, fence(1, SegmentHash::NONE)).await.unwrap();
    let FenceOutcome::LostTo(Segment { hash, .. }) = lost else { panic!("{lost:?}") };
    assert_eq!(hash, one.hash);
    let FenceOutcome::Fenced(fenced) = vault.fence(DISK, fence(2, hash)).await.unwrap() else {
        panic!("the sequence was free")
    };
    let again = vault.fence(DISK, fence(2, hash)).await.unwrap();
    assert_eq!(again, FenceOutcome::Fenced(fenced));
    assert_eq!(vault.head(DISK).await.unwrap(), Some(fenced));

    let zombie = header(2, one.hash, MIB);
    let error = try_delta(&vault, zombie, 0, &[2; 512]).await.unwrap_err();
    assert_code(&error, Code::ReplicaInvalid, "epoch 1 was fenced off by epoch 2");

    delta(&vault, fence(3, fenced.hash), 512, &[3; 512]).await;
    assert_eq!(read(&vault, 3, 0, 1024).await.unwrap(), [[1; 512], [3; 512]].concat());
}

#[tokio::test]
async fn a_segment_of_a_fenced_epoch_after_the_fence_is_refused() {
    let (_, vault) = memory_vault().await;
    empty_base(&vault, MIB).await;
    let fence = DeltaHeader { epoch: 5, ..header(1, SegmentHash::NONE, MIB) };
    let FenceOutcome::Fenced(fenced) = vault.fence(DISK, fence).await.unwrap() else {
        panic!("the sequence was free")
    };
    delta(&vault, header(2, fenced.hash, MIB), 0, &[2; 512]).await;
    let error = vault.open_disk(DISK, 2).await.unwrap_err();
    assert_code(&error, Code::ReplicaInvalid, "epoch 1 is below epoch 5");
}

#[tokio::test]
async fn a_missing_segment_is_named() {
    let (store, vault) = memory_vault().await;
    log_of(&vault, 4).await;
    store.delete(&segment_path(2)).await.unwrap();
    let error = vault.open_disk(DISK, 4).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, "00000000000000000002.seg: it is missing");
    assert!(vault.open_disk(DISK, 1).await.is_ok());
}

#[tokio::test]
async fn a_segment_that_follows_another_history_is_refused() {
    let (_, vault) = memory_vault().await;
    empty_base(&vault, MIB).await;
    delta(&vault, header(1, SegmentHash::NONE, MIB), 0, &[1; 512]).await;
    delta(&vault, header(2, SegmentHash([5; 32]), MIB), 0, &[1; 512]).await;
    let error = vault.open_disk(DISK, 2).await.unwrap_err();
    assert_code(&error, Code::ReplicaInvalid, "00000000000000000002.seg: it follows segment 0505");
}

#[tokio::test]
async fn a_segment_put_in_the_place_of_another_is_refused() {
    let (store, vault) = memory_vault().await;
    log_of(&vault, 2).await;
    let one = bytes_of(&*store, &segment_path(1)).await;
    overwrite(&*store, &segment_path(2), one).await;
    let error = vault.open_disk(DISK, 2).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, "sequence is 1 instead of 2");
}

#[tokio::test]
async fn a_flipped_bit_or_a_truncation_is_named_and_never_read() {
    let (store, vault) = memory_vault().await;
    log_of(&vault, 1).await;
    let path = segment_path(1);
    let whole = bytes_of(&*store, &path).await;
    for at in (0..whole.len()).step_by(37) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        overwrite(&*store, &path, bytes).await;
        let error = read(&vault, 1, 8192, 4096).await.unwrap_err();
        assert_code(&error, Code::ReplicaDamaged, "00000000000000000001.seg at byte");
        overwrite(&*store, &path, whole[..at].to_vec()).await;
        let error = read(&vault, 1, 8192, 4096).await.unwrap_err();
        assert_code(&error, Code::ReplicaDamaged, "00000000000000000001.seg at byte");
    }
}

#[tokio::test]
async fn a_folder_finds_truncated_objects_as_memory_does() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::in_folder(folder.path(), VAULT).unwrap();
    vault.establish().await.unwrap();
    log_of(&vault, 2).await;
    let file = folder.path().join(segment_path(2).as_ref());
    let whole = std::fs::read(&file).unwrap();
    for len in [0, 1, 127, 128, 150, 192, 2000, whole.len() - 1] {
        std::fs::write(&file, &whole[..len]).unwrap();
        let error = vault.open_disk(DISK, 2).await.unwrap_err();
        assert_code(&error, Code::ReplicaDamaged, "00000000000000000002.seg at byte");
    }
}

#[tokio::test]
async fn a_part_that_was_cut_short_after_opening_is_damage_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn ObjectStore>; 2] = [
        Arc::new(InMemory::new()),
        Arc::new(object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap()),
    ];
    for store in stores {
        let vault = Vault::new(store.clone(), VAULT);
        vault.establish().await.unwrap();
        log_of(&vault, 1).await;
        let image = vault.open_disk(DISK, 1).await.unwrap();
        let whole = bytes_of(&*store, &segment_path(1)).await;
        overwrite(&*store, &segment_path(1), whole[..140].to_vec()).await;
        let error = image.read_at(8192, &mut [0; 4096]).await.unwrap_err();
        assert_code(&error, Code::ReplicaDamaged, "00000000000000000001.seg at byte 140");
    }
}

#[tokio::test]
async fn a_large_delta_leaves_in_parts_and_goes_on_after_an_interruption() {
    let (memory, _) = memory_vault().await;
    let store = FaultyStore::over(memory);
    let vault = Vault::new(store.clone(), VAULT);
    let size = 64 * MIB;
    empty_base(&vault, size).await;
    let data = noise(1, 35 * MIB as usize);
    let header = header(1, SegmentHash::NONE, size);
    store.next_puts(&[Fault::None, Fault::None, Fault::Refused(io::ErrorKind::ConnectionReset)]);
    let error = try_delta(&vault, header, 4096, &data).await.unwrap_err();
    assert_code(&error, Code::LinkDown, "");
    assert!(vault.head(DISK).await.unwrap().is_none(), "parts alone are no delta");

    let puts = store.put_count.load(Ordering::Relaxed);
    let committed = delta(&vault, header, 4096, &data).await;
    assert_eq!(store.put_count.load(Ordering::Relaxed) - puts, 7, "two of 8 parts were there");
    assert_eq!(committed.data_bytes, 35 * MIB);
    assert!(committed.stored_bytes - committed.data_bytes < MIB);
    assert_eq!(read(&vault, 1, 4096, data.len()).await.unwrap(), data);
}

#[tokio::test]
async fn a_part_that_is_gone_is_named() {
    let (store, vault) = memory_vault().await;
    empty_base(&vault, 64 * MIB).await;
    delta(&vault, header(1, SegmentHash::NONE, 64 * MIB), 0, &noise(1, 17 * MIB as usize)).await;
    let log = Path::from(format!("v1/{VAULT}/disk/{DISK}/log"));
    let mut parts = store.list_with_delimiter(Some(&log)).await.unwrap().objects;
    parts.retain(|meta| meta.location.as_ref().contains(".p1."));
    store.delete(&parts[0].location).await.unwrap();
    let error = read(&vault, 1, 0, 512).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, "00000000000000000001.p1.");
}

#[tokio::test]
async fn a_base_copy_goes_on_where_it_was_killed() {
    let (memory, _) = memory_vault().await;
    let store = FaultyStore::over(memory);
    let vault = Vault::new(store.clone(), VAULT);
    let size = 3 * REGION_BYTES + 4096;
    let copy = vault.base(DISK, 1, 1, size);
    let mut region = copy.region(1);
    region.data(REGION_BYTES + 512, &[1; 512]).await.unwrap();
    region.commit().await.unwrap().unwrap();
    assert!(copy.region(2).commit().await.unwrap().is_none(), "zeroes are not sent");
    let mut outside = copy.region(2);
    assert!(outside.data(3 * REGION_BYTES, &[1; 512]).await.is_err());

    let copy = vault.base(DISK, 1, 1, size);
    assert_eq!(copy.regions_present().await.unwrap().into_keys().collect::<Vec<_>>(), [1]);
    let mut again = copy.region(1);
    again.data(REGION_BYTES + 512, &[9; 512]).await.unwrap();
    again.commit().await.unwrap().unwrap();
    let mut last = copy.region(3);
    last.data(3 * REGION_BYTES, &[3; 4096]).await.unwrap();
    // Its checksums go before it.
    store.next_puts(&[Fault::None, Fault::AnswerLost]);
    assert!(last.commit().await.is_err());

    assert_code(&vault.open_disk(DISK, 0).await.unwrap_err(), Code::ReplicaInvalid, "no finished");
    let completion = Completion { usable_from: 1, ..from_the_start() };
    copy.complete(completion).await.unwrap();
    let later = Completion { usable_from: 9, at: Timestamp::from_millis(99), ..completion };
    let stands = vault.base(DISK, 1, 1, size).complete(later).await.unwrap();
    assert_eq!(stands, completion);
    let error = vault.base(DISK, 1, 2, size).complete(later).await.unwrap_err();
    assert_code(&error, Code::ReplicaInvalid, "another writer of epoch 1");

    let error = vault.open_disk(DISK, 0).await.unwrap_err();
    assert_code(&error, Code::ReplicaInvalid, "no finished base");
    let next = header(1, SegmentHash::NONE, size);
    vault.delta(DISK, next).commit().await.unwrap();
    assert_eq!(read(&vault, 1, REGION_BYTES + 512, 512).await.unwrap(), [1; 512]);
    assert_eq!(read(&vault, 1, 3 * REGION_BYTES, 4096).await.unwrap(), [3; 4096]);
    assert_eq!(vault.newest_base(DISK).await.unwrap(), Some((1, completion)));
}

#[tokio::test]
async fn a_region_that_is_not_the_one_of_the_manifest_is_damage() {
    let (store, vault) = memory_vault().await;
    let copy = vault.base(DISK, 1, 1, MIB);
    let mut region = copy.region(0);
    region.data(0, &[1; 512]).await.unwrap();
    region.commit().await.unwrap();
    copy.complete(from_the_start()).await.unwrap();
    let path = Path::from(format!("v1/{VAULT}/disk/{DISK}/base/00000001/00000000.seg"));
    store.delete(&path).await.unwrap();
    let error = read(&vault, 0, 0, 512).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, "base/00000001/00000000.seg: it is missing");
    let mut other = copy.region(0);
    other.data(0, &[2; 512]).await.unwrap();
    other.commit().await.unwrap();
    let error = read(&vault, 0, 0, 512).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, "region in its manifest");
}

#[tokio::test]
async fn a_disk_that_shrank_and_grew_reads_zeroes_where_it_was_cut_off() {
    let (_, vault) = memory_vault().await;
    let copy = vault.base(DISK, 1, 1, MIB);
    let mut region = copy.region(0);
    region.data(0, &noise(1, MIB as usize)).await.unwrap();
    region.commit().await.unwrap();
    copy.complete(from_the_start()).await.unwrap();
    let small = vault.delta(DISK, header(1, SegmentHash::NONE, MIB / 2)).commit().await.unwrap();
    vault.delta(DISK, header(2, small.hash, 2 * MIB)).commit().await.unwrap();
    let image = vault.open_disk(DISK, 2).await.unwrap();
    assert_eq!(image.size_bytes(), 2 * MIB);
    let mut got = vec![0; 2 * MIB as usize];
    image.read_at(0, &mut got).await.unwrap();
    let mut expected = noise(1, MIB as usize / 2);
    expected.resize(2 * MIB as usize, 0);
    assert!(got == expected);
    assert_eq!(image.next_data(0).await.unwrap(), Some(0..MIB / 2));
    assert_eq!(image.next_data(MIB / 2).await.unwrap(), None);
}

#[tokio::test]
async fn a_sparse_disk_of_a_tebibyte_opens_with_few_requests() {
    let (memory, _) = memory_vault().await;
    let store = FaultyStore::over(memory);
    let vault = Vault::new(store.clone(), VAULT);
    let size = 1 << 40;
    let copy = vault.base(DISK, 1, 1, size);
    let mut region = copy.region(9000);
    region.data(9000 * REGION_BYTES + 65536, &[4; 4096]).await.unwrap();
    region.commit().await.unwrap();
    copy.complete(from_the_start()).await.unwrap();
    delta(&vault, header(1, SegmentHash::NONE, size), size - 512, &[5; 512]).await;
    store.get_count.store(0, Ordering::Relaxed);
    let image = vault.open_disk(DISK, 1).await.unwrap();
    let run = image.next_data(0).await.unwrap().unwrap();
    assert_eq!(run, 9000 * REGION_BYTES + 65536..9000 * REGION_BYTES + 69632);
    assert_eq!(image.next_data(run.end).await.unwrap(), Some(size - 512..size));
    assert!(store.get_count.load(Ordering::Relaxed) <= 6);
}

#[tokio::test]
async fn a_vault_whose_volume_is_not_mounted_is_unreachable_and_not_filled() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::in_folder(folder.path(), VAULT).unwrap();
    let no_vault = [
        vault.probe().await.unwrap_err(),
        try_delta(&vault, header(1, SegmentHash::NONE, MIB), 0, &[1]).await.unwrap_err(),
        vault.points(VM).await.unwrap_err(),
        vault.open_disk(DISK, 1).await.unwrap_err(),
    ];
    for error in no_vault {
        assert_code(&error, Code::LinkDown, "vault.json is not there");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    vault.establish().await.unwrap();
    vault.establish().await.unwrap();
    vault.probe().await.unwrap();
}

#[tokio::test]
async fn a_storage_without_room_is_full_and_one_without_answer_is_a_lost_link() {
    let (memory, _) = memory_vault().await;
    let store = FaultyStore::over(memory);
    let vault = Vault::new(store.clone(), VAULT);
    log_of(&vault, 1).await;
    store.next_puts(&[Fault::Refused(io::ErrorKind::StorageFull)]);
    let error = try_delta(&vault, header(2, SegmentHash::NONE, MIB), 0, &[1]).await.unwrap_err();
    assert_code(&error, Code::VaultFull, "00000000000000000002.seg");
    let reset = Fault::Refused(io::ErrorKind::ConnectionReset);
    store.next_gets(&[reset]);
    assert_code(&vault.probe().await.unwrap_err(), Code::LinkDown, "probe");
    store.next_gets(&[reset, reset]);
    assert_code(&vault.open_disk(DISK, 1).await.unwrap_err(), Code::LinkDown, "read");
    assert!(vault.open_disk(DISK, 1).await.is_ok());
}

fn point(cycle: u64) -> RecoveryPointRecord {
    RecoveryPointRecord {
        id: RecoveryPointId::derived(VM.0, cycle),
        vm: VM,
        cycle,
        at: Timestamp::from_millis(30_000 * cycle.cast_signed()),
        stored_bytes: 1000 * cycle,
        consistency: if cycle.is_multiple_of(2) {
            Consistency::Application
        } else {
            Consistency::Crash
        },
        disks: BTreeMap::from([(DISK, DiskPoint { sequence: cycle, generation: 1, epoch: 1 })]),
        names: Names::default(),
    }
}

#[tokio::test]
async fn recovery_points_are_listed_in_order_and_dropped_by_what_to_keep() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::in_folder(folder.path(), VAULT).unwrap();
    vault.establish().await.unwrap();
    for cycle in [3, 1, 20, 2, 3] {
        vault.put_point(&point(cycle)).await.unwrap();
    }
    let listed = vault.points(VM).await.unwrap();
    assert_eq!(listed.points, [1, 2, 3, 20].map(point));
    let differs = RecoveryPointRecord { consistency: Consistency::Crash, ..point(2) };
    let error = vault.put_point(&differs).await.unwrap_err();
    assert_code(&error, Code::ReplicaInvalid, "00000000000000000002.json");

    let file = |cycle: u64| folder.path().join(format!("v1/{VAULT}/vm/{VM}/rp/{cycle:020}.json"));
    let edited = std::fs::read_to_string(file(3)).unwrap().replace("90000", "90001");
    std::fs::write(file(3), edited).unwrap();
    std::fs::write(file(4), "{").unwrap();
    let listed = vault.points(VM).await.unwrap();
    assert_eq!(listed.points, [1, 2, 20].map(point));
    assert_eq!(listed.damaged.len(), 2);
    assert_code(&listed.damaged[0], Code::ReplicaDamaged, "00000000000000000003.json");

    assert_eq!(vault.drop_points(VM, &[point(20).id]).await.unwrap(), 2);
    let listed = vault.points(VM).await.unwrap();
    assert_eq!((listed.points, listed.damaged.len()), (vec![point(20)], 2));
}

#[tokio::test]
async fn a_point_whose_acknowledgement_was_lost_is_made_good_whatever_it_takes_the_next_time() {
    let (memory, _) = memory_vault().await;
    let store = FaultyStore::over(memory);
    let vault = Vault::new(store.clone(), VAULT);
    store.next_puts(&[Fault::AnswerLost]);
    let lost = vault.put_point(&point(1)).await.unwrap_err();
    assert_code(&lost, Code::LinkDown, "00000000000000000001.json");
    // Its segments were compressed in another way, and the VM has another name.
    let names = Names { vm: "db-2".to_owned(), ..Names::default() };
    let again = RecoveryPointRecord { stored_bytes: 999, names, ..point(1) };
    vault.put_point(&again).await.unwrap();
    assert_eq!(vault.points(VM).await.unwrap().points, [point(1)]);
    let other = RecoveryPointRecord { at: Timestamp::from_millis(7), ..again };
    let error = vault.put_point(&other).await.unwrap_err();
    assert_code(&error, Code::ReplicaInvalid, "00000000000000000001.json");
}

/// A disk of two windows: its first 192 KiB, and 192 KiB around the border of the first two regions.
/// The model has only these; everything between is zero.
const WINDOW: u64 = 192 * 1024;
const SIZE: u64 = REGION_BYTES + WINDOW;

fn disk_offset(at: u64) -> u64 {
    if at < WINDOW { at } else { at - WINDOW + REGION_BYTES - WINDOW / 2 }
}

#[derive(Clone, Debug)]
struct Write {
    at: u64,
    len: u64,
    seed: u64,
    zero: bool,
}

impl Write {
    fn apply(&self, model: &mut [u8]) {
        let target = &mut model[self.at as usize..(self.at + self.len) as usize];
        if self.zero {
            target.fill(0);
        } else {
            target.copy_from_slice(&noise(self.seed, self.len as usize));
        }
    }
}

fn write() -> impl Strategy<Value = Write> {
    let len = prop_oneof![4 => 1..9000_u64, 1 => 60_000..150_000_u64];
    (0..2 * WINDOW, len, any::<u64>(), prop::bool::weighted(0.2)).prop_map(
        |(at, len, seed, zero)| {
            let end = if at < WINDOW { WINDOW } else { 2 * WINDOW };
            Write { at, len: len.min(end - at), seed, zero }
        },
    )
}

async fn send(vault: &Vault, header: DeltaHeader, writes: &[Write]) -> Committed {
    let mut merged = ExtentMap::new();
    for write in writes {
        let start = disk_offset(write.at);
        merged.insert(start..start + write.len, write);
    }
    let mut writer = vault.delta(DISK, header);
    for extent in merged.iter() {
        if extent.value.zero {
            writer.zeroes(extent.range).unwrap();
        } else {
            let data = noise(extent.value.seed, extent.value.len as usize);
            let skip = extent.skip as usize;
            let len = (extent.range.end - extent.range.start) as usize;
            writer.data(extent.range.start, &data[skip..skip + len]).await.unwrap();
        }
    }
    writer.commit().await.unwrap()
}

async fn copy_base(vault: &Vault, generation: u64, model: &[u8], completion: Completion) {
    let copy = vault.base(DISK, generation, 1, SIZE);
    for region in 0..2_u64 {
        let mut writer = copy.region(region);
        for (at, chunk) in (0..).step_by(4096).zip(model.chunks(4096)) {
            if disk_offset(at) / REGION_BYTES == region {
                writer.data(disk_offset(at), chunk).await.unwrap();
            }
        }
        writer.commit().await.unwrap();
    }
    copy.complete(completion).await.unwrap();
}

/// Compares a recovery point with the model: by windows, by odd ranges, and by its runs of data.
async fn compare(vault: &Vault, sequence: u64, model: &[u8], odd: (u64, u64)) {
    let image = vault.open_disk(DISK, sequence).await.unwrap();
    let window = WINDOW as usize;
    let mut buffer = vec![0xee; window];
    for part in 0..2 {
        image.read_at(disk_offset(part * WINDOW), &mut buffer).await.unwrap();
        let expected = &model[part as usize * window..][..window];
        assert!(buffer == expected, "window {part} of point {sequence}");
    }
    let (start, end) = (odd.0.min(odd.1), odd.0.max(odd.1));
    buffer.resize((end - start) as usize, 0xee);
    image.read_at(start, &mut buffer).await.unwrap();
    assert!(buffer == model[start as usize..end as usize], "odd range of point {sequence}");

    let mut covered = vec![false; model.len()];
    let mut from = 0;
    while let Some(run) = image.next_data(from).await.unwrap() {
        assert!(from <= run.start && run.start < run.end && run.end <= SIZE);
        from = run.end;
        for (at, covered) in (0..).zip(&mut covered) {
            *covered |= run.contains(&disk_offset(at));
        }
    }
    assert!(model.iter().zip(covered).all(|(byte, covered)| covered || *byte == 0));
}

async fn every_point_reads_back(
    vault: Vault,
    deltas: &[Vec<Write>],
    base_at: usize,
    odd: (u64, u64),
) {
    vault.establish().await.unwrap();
    let mut model = vec![0; 2 * WINDOW as usize];
    model[..50_000].copy_from_slice(&noise(42, 50_000));
    copy_base(&vault, 1, &model, from_the_start()).await;
    let mut states = vec![model.clone()];
    let mut previous = SegmentHash::NONE;
    for (sequence, writes) in (1..).zip(deltas) {
        previous = send(&vault, header(sequence, previous, SIZE), writes).await.hash;
        for write in writes {
            write.apply(&mut model);
        }
        states.push(model.clone());
        if sequence as usize == base_at {
            let (from_seq, at) = (sequence, Timestamp::default());
            let completion =
                Completion { from_seq, from_hash: previous, usable_from: from_seq, at };
            copy_base(&vault, 2, &model, completion).await;
        }
    }
    for (sequence, state) in (0..).zip(&states) {
        compare(&vault, sequence, state, odd).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_recovery_point_reads_back_exactly(
        deltas in prop::collection::vec(prop::collection::vec(write(), 0..8), 1..5),
        base_at in 0..5_usize,
        odd in (0..WINDOW, 0..WINDOW),
        in_folder in prop::bool::weighted(0.3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            if in_folder {
                let folder = tempfile::tempdir().unwrap();
                let vault = Vault::in_folder(folder.path(), VAULT).unwrap();
                every_point_reads_back(vault, &deltas, base_at, odd).await;
            } else {
                let vault = Vault::new(Arc::new(InMemory::new()), VAULT);
                every_point_reads_back(vault, &deltas, base_at, odd).await;
            }
        });
    }
}
