//! Encrypted vaults: what a reader without the keys, or a storage that lies, gets to see.

use super::faulty_store::{Fault, FaultyStore};
use super::*;
use lifeboat::domain::id::RecoveryPointId;
use lifeboat::ports::random::Random;
use lifeboat::replica::{
    Compression, Consistency, DiskPoint, KeyFile, Names, RecoveryPointRecord, VaultKeys,
};
use std::collections::BTreeMap;
use std::sync::Mutex;

const OTHER_DISK: DiskId = DiskId(Uuid::from_u128(0xd15d));

/// Bytes that follow from a seed.
#[derive(Debug)]
struct Seeded(Mutex<blake3::OutputReader>);

impl Random for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap().fill(bytes);
    }
}

fn seeded(seed: u64) -> Arc<Seeded> {
    let reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    Arc::new(Seeded(Mutex::new(reader)))
}

pub(super) fn keys(seed: u64) -> Arc<VaultKeys> {
    let random = seeded(seed);
    Arc::new(VaultKeys::new(&KeyFile::generate(&*random), random))
}

async fn encrypted(store: Arc<dyn ObjectStore>) -> Vault {
    let vault = Vault::new(store, VAULT).with_keys(keys(1));
    vault.establish().await.unwrap();
    vault
}

/// Text that compresses and can be looked for.
fn text(len: usize) -> Vec<u8> {
    b"the quick brown fox jumps over the lazy dog. ".iter().copied().cycle().take(len).collect()
}

async fn delta(vault: &Vault, disk: DiskId, header: DeltaHeader, data: &[u8]) -> SegmentHash {
    let mut writer = vault.delta(disk, header);
    writer.data(4096, data).await.unwrap();
    writer.commit().await.unwrap().hash
}

async fn read(vault: &Vault, len: usize) -> Result<Vec<u8>, VaultError> {
    let mut buffer = vec![0xee; len];
    vault.open_disk(DISK, 1).await?.read_at(4096, &mut buffer).await?;
    Ok(buffer)
}

fn path(what: &str) -> Path {
    Path::from(format!("v1/{VAULT}/disk/{DISK}/{what}"))
}

fn first_segment() -> Path {
    path("log/00000000000000000001.seg")
}

async fn contents(store: &dyn ObjectStore) -> Vec<(Path, Vec<u8>)> {
    use futures_util::TryStreamExt;
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut contents = Vec::new();
    for meta in listed {
        let bytes = bytes_of(store, &meta.location).await;
        contents.push((meta.location, bytes));
    }
    contents
}

#[tokio::test]
async fn what_is_written_reads_back_and_its_text_is_in_no_object() {
    let store = Arc::new(InMemory::new());
    let vault = encrypted(store.clone()).await;
    let data = text(40 * MIB as usize);
    let copy = vault.base(DISK, 1, 1, 64 * MIB);
    let mut region = copy.region(0);
    region.data(0, &data).await.unwrap();
    region.commit().await.unwrap();
    copy.complete(from_the_start()).await.unwrap();
    delta(&vault, DISK, header(1, SegmentHash::NONE, 64 * MIB), &data).await;
    assert!(read(&vault, data.len()).await.unwrap() == data);

    let mut parts = 0;
    for (path, bytes) in contents(&*store).await {
        assert!(bytes.windows(9).all(|bytes| bytes != b"quick bro"), "{path}");
        parts += usize::from(path.as_ref().contains(".p"));
    }
    assert_eq!(parts, 18);
    let stored: usize = contents(&*store).await.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(stored < data.len() / 20, "80 MiB of text are stored in {stored} bytes");
}

#[tokio::test]
async fn noise_is_stored_as_it_is_and_compression_can_be_off() {
    for (compression, data) in
        [(Compression::Zstd, noise(1, 300_000)), (Compression::Off, text(300_000))]
    {
        let vault = encrypted(Arc::new(InMemory::new())).await.with_compression(compression);
        empty_base(&vault, MIB).await;
        let mut writer = vault.delta(DISK, header(1, SegmentHash::NONE, MIB));
        writer.data(4096, &data).await.unwrap();
        let committed = writer.commit().await.unwrap();
        let frames = committed.stored_bytes - committed.data_bytes;
        assert!(frames < 1000, "headers, rows and tags take {frames} bytes");
        assert!(read(&vault, data.len()).await.unwrap() == data);
    }
}

#[tokio::test]
async fn a_vault_is_opened_only_with_its_keys() {
    let store = Arc::new(InMemory::new());
    let vault = encrypted(store.clone()).await;
    empty_base(&vault, MIB).await;
    delta(&vault, DISK, header(1, SegmentHash::NONE, MIB), &text(5000)).await;

    let without = Vault::new(store.clone(), VAULT);
    let with_others = Vault::new(store.clone(), VAULT).with_keys(keys(2));
    let next = header(2, SegmentHash::NONE, MIB);
    for (vault, says) in [(without, "is encrypted"), (with_others, "with other keys")] {
        let write = vault.delta(DISK, next).commit().await.unwrap_err();
        assert_code(&write, Code::ConfigurationInvalid, "vault.json says that the vault is encryp");
        assert!(write.to_string().contains(says), "{write}");
        assert!(vault.establish().await.is_err());
        let read = read(&vault, 5000).await.unwrap_err();
        assert_code(&read, Code::ConfigurationInvalid, "00000000000000000001.");
    }

    let store = Arc::new(InMemory::new());
    let plain = Vault::new(store.clone(), VAULT);
    plain.establish().await.unwrap();
    empty_base(&plain, MIB).await;
    let keyed = Vault::new(store, VAULT).with_keys(keys(1));
    let error = keyed.probe().await.unwrap_err();
    assert_code(&error, Code::ConfigurationInvalid, "the vault is not encrypted");
    let error = keyed.open_disk(DISK, 0).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, "it is not encrypted, though the vault is");
}

#[tokio::test]
async fn a_rotated_key_file_reads_what_the_old_key_wrote() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let random = seeded(1);
    let mut file = KeyFile::generate(&*random);
    let open = |file: &KeyFile, seed| {
        Vault::new(store.clone(), VAULT).with_keys(Arc::new(VaultKeys::new(file, seeded(seed))))
    };
    let vault = open(&file, 7);
    vault.establish().await.unwrap();
    empty_base(&vault, MIB).await;
    let first = delta(&vault, DISK, header(1, SegmentHash::NONE, MIB), &text(5000)).await;
    file.rotate(&*random);
    let rotated = open(&file, 8);
    rotated.establish().await.unwrap();
    assert_eq!(read(&rotated, 5000).await.unwrap(), text(5000));
    // A repetition whose first answer was lost before the rotation is still the same segment.
    let again = delta(&rotated, DISK, header(1, SegmentHash::NONE, MIB), &text(5000)).await;
    assert_eq!(again, first);
    delta(&rotated, DISK, header(2, first, MIB), &text(6000)).await;
    rotated.open_disk(DISK, 2).await.unwrap();

    let error = vault.open_disk(DISK, 2).await.unwrap_err();
    let needed =
        format!("00000000000000000002.seg at byte 128: its data key needs key {}", file.active());
    assert_code(&error, Code::ConfigurationInvalid, &needed);
}

#[tokio::test]
async fn the_same_data_is_never_the_same_ciphertext_and_a_repetition_is_recognized() {
    let memory = Arc::new(InMemory::new());
    let store = FaultyStore::over(memory.clone());
    let vault = encrypted(store.clone()).await;
    empty_base(&vault, 64 * MIB).await;
    let data = noise(3, 20 * MIB as usize);
    let header = header(1, SegmentHash::NONE, 64 * MIB);
    // The parts arrive; the answer to the segment that commits them is lost.
    store.next_puts(&[Fault::None; 4]);
    store.next_puts(&[Fault::AnswerLost]);
    let mut writer = vault.delta(DISK, header);
    writer.data(4096, &data).await.unwrap();
    assert_code(&writer.commit().await.unwrap_err(), Code::LinkDown, "");
    delta(&vault, DISK, header, &data).await;
    // With another compression the rows differ, the content does not.
    let off = vault.clone().with_compression(Compression::Off);
    delta(&off, DISK, header, &data).await;
    assert!(read(&vault, data.len()).await.unwrap() == data);

    delta(&vault, OTHER_DISK, header, &data[..5000]).await;
    let one = bytes_of(&*memory, &first_segment()).await;
    let other =
        Path::from(first_segment().as_ref().replace(&DISK.to_string(), &OTHER_DISK.to_string()));
    assert_ne!(one[196..1196], bytes_of(&*memory, &other).await[196..1196]);
}

#[tokio::test]
async fn objects_and_frames_in_the_place_of_others_do_not_open() {
    let store = Arc::new(InMemory::new());
    let vault = encrypted(store.clone()).await;
    empty_base(&vault, MIB).await;
    let data = noise(1, 200_000);
    delta(&vault, DISK, header(1, SegmentHash::NONE, MIB), &data).await;
    let ours = bytes_of(&*store, &first_segment()).await;
    let error_with = async |bytes: Vec<u8>| {
        overwrite(&*store, &first_segment(), bytes).await;
        read(&vault, data.len()).await.unwrap_err()
    };

    // The segment of another disk under this name.
    delta(&vault, OTHER_DISK, header(1, SegmentHash::NONE, MIB), &data).await;
    let other =
        Path::from(first_segment().as_ref().replace(&DISK.to_string(), &OTHER_DISK.to_string()));
    let other = bytes_of(&*store, &other).await;
    let error = error_with(other.clone()).await;
    assert_code(&error, Code::ReplicaDamaged, &format!("disk is {OTHER_DISK} instead of {DISK}"));

    // Its frames and data key under our header and index; the other way round; two frames swapped.
    let frames = 128..ours.len() - 64 - 16 - 4 * 48;
    let mut mixed = ours.clone();
    mixed[frames.clone()].copy_from_slice(&other[frames.clone()]);
    let error = error_with(mixed).await;
    assert_code(&error, Code::ReplicaDamaged, "at byte 128: the data key does not open");
    let mut mixed = ours.clone();
    mixed[196..frames.end].copy_from_slice(&other[196..frames.end]);
    let error = error_with(mixed).await;
    assert_code(&error, Code::ReplicaDamaged, "at byte 196: the frame does not open");
    let mut swapped = ours.clone();
    let frame = 65536 + 16;
    let first = 196 + 61440 + 16;
    swapped[first..first + frame].copy_from_slice(&ours[first + frame..first + 2 * frame]);
    swapped[first + frame..first + 2 * frame].copy_from_slice(&ours[first..first + frame]);
    let error = error_with(swapped).await;
    assert_code(&error, Code::ReplicaDamaged, "the frame does not open");

    for at in (0..ours.len()).step_by(997).chain([12, 128, 140, 150, 190, 196]) {
        let mut bytes = ours.clone();
        bytes[at] ^= 4;
        let error = error_with(bytes).await;
        assert!(error.to_string().contains("00000000000000000001.seg at byte"), "{at}: {error}");
    }
}

#[tokio::test]
async fn a_recovery_point_that_the_keys_did_not_make_is_refused() {
    let store = Arc::new(InMemory::new());
    let vault = encrypted(store.clone()).await;
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
    let renamed = Names { vm: "db-2".to_owned(), disks: BTreeMap::new() };
    vault.put_point(&RecoveryPointRecord { names: renamed, ..point.clone() }).await.unwrap();
    assert_eq!(vault.point(VM, 1).await.unwrap(), Some(point.clone()));

    let forged = Arc::new(InMemory::new());
    let plain = Vault::new(forged.clone(), VAULT);
    plain.establish().await.unwrap();
    plain.put_point(&point).await.unwrap();
    let path = Path::from(format!("v1/{VAULT}/vm/{VM}/rp/00000000000000000001.json"));
    overwrite(&*store, &path, bytes_of(&*forged, &path).await).await;
    let error = vault.point(VM, 1).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, "the checksum of the recovery point");
}
