//! Every reader of the vault, given bytes that were changed, cut or made up. The corpus, two small vaults
//! under `tests/fixtures/vault`, was written once and stays: it also proves that what is in somebody's
//! vault can still be read. `LIFEBOAT_FREEZE=1` writes one that is missing.

use super::*;
use lifeboat::domain::id::RecoveryPointId;
use lifeboat::ports::random::Random;
use lifeboat::replica::segment::{HEADER_BYTES, Header, Index, Kind, TRAILER_BYTES, Trailer};
use lifeboat::replica::{
    Collection, Collector, Compression, Consistency, Depth, DiskPoint, HashKey, KeyFile, Names,
    RecoveryPointRecord, Sealing, VaultKeys,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

const SIZE: u64 = 4 * MIB;

/// Randomness that protects nothing.
#[derive(Debug)]
struct Zeroes;

impl Random for Zeroes {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vault")
}

fn corpus_keys() -> Arc<VaultKeys> {
    let text = std::fs::read_to_string(fixtures().join("keys")).unwrap();
    Arc::new(VaultKeys::new(&KeyFile::parse(&text).unwrap(), Arc::new(Zeroes)))
}

/// What the disk of the corpus holds at its point.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; SIZE as usize];
    disk[..100_000].copy_from_slice(&noise(1, 100_000));
    disk[200_000..300_000].fill(b'x');
    disk[50_000..60_000].copy_from_slice(&noise(2, 10_000));
    disk[210_000..290_000].fill(b'y');
    disk[4096..8192].fill(0);
    disk
}

fn corpus_point() -> RecoveryPointRecord {
    RecoveryPointRecord {
        id: RecoveryPointId::derived(VM.0, 2),
        vm: VM,
        cycle: 2,
        at: Timestamp::from_millis(2_000),
        consistency: Consistency::Crash,
        stored_bytes: 1000,
        disks: BTreeMap::from([(DISK, DiskPoint { sequence: 2, generation: 1, epoch: 1 })]),
        names: Names { vm: "db-1".to_owned(), disks: BTreeMap::from([(DISK, "os".to_owned())]) },
    }
}

async fn write_corpus(vault: &Vault) {
    vault.establish().await.unwrap();
    let copy = vault.base(DISK, 1, 1, SIZE);
    let mut region = copy.region(0);
    region.data(0, &noise(1, 100_000)).await.unwrap();
    region.data(200_000, &vec![b'x'; 100_000]).await.unwrap();
    region.commit().await.unwrap();
    copy.complete(from_the_start()).await.unwrap();
    let mut delta = vault.delta(DISK, header(1, SegmentHash::NONE, SIZE));
    delta.zeroes(4096..8192).unwrap();
    delta.data(50_000, &noise(2, 10_000)).await.unwrap();
    let first = delta.commit().await.unwrap();
    let mut delta = vault.delta(DISK, header(2, first.hash, SIZE));
    delta.data(210_000, &vec![b'y'; 80_000]).await.unwrap();
    delta.commit().await.unwrap();
    vault.put_point(&corpus_point()).await.unwrap();
}

type Objects = Vec<(Path, Vec<u8>)>;

/// The objects of a vault of the corpus.
fn corpus(name: &str) -> Objects {
    let folder = fixtures().join(name);
    if !folder.exists() && std::env::var_os("LIFEBOAT_FREEZE").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(write_corpus(&dress(name, Vault::in_folder(&folder, VAULT).unwrap())));
    }
    let mut objects = Vec::new();
    let mut folders = vec![folder.clone()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&folder).unwrap().to_str().unwrap();
                objects.push((Path::from(name), std::fs::read(&path).unwrap()));
            }
        }
    }
    objects.sort();
    objects
}

/// The vault as its name says: `raw`, or `sealed` with compression and encryption.
fn dress(name: &str, vault: Vault) -> Vault {
    match name {
        "raw" => vault.with_compression(Compression::Off),
        _ => vault.with_keys(corpus_keys()),
    }
}

async fn vault_of(name: &str, objects: &Objects) -> Vault {
    let store = InMemory::new();
    for (path, bytes) in objects {
        overwrite(&store, path, bytes.clone()).await;
    }
    dress(name, Vault::new(Arc::new(store), VAULT))
}

/// Everything that the vault gives: point, base, disk.
async fn read_all(vault: &Vault) -> Result<(Option<RecoveryPointRecord>, Vec<u8>), VaultError> {
    vault.probe().await?;
    let mut points = vault.points(VM).await?;
    if let Some(damaged) = points.damaged.pop() {
        return Err(damaged);
    }
    vault.newest_base(DISK).await?;
    let image = vault.open_disk(DISK, 2).await?;
    let mut from = 0;
    while let Some(run) = image.next_data(from).await? {
        from = run.end;
    }
    let mut buffer = vec![0; image.size_bytes().min(SIZE) as usize];
    image.read_at(0, &mut buffer).await?;
    Ok((points.points.pop(), buffer))
}

#[tokio::test]
async fn what_was_written_once_is_read_for_ever() {
    for name in ["raw", "sealed"] {
        let objects = corpus(name);
        assert_eq!(objects.len(), 7, "{name}");
        let vault = vault_of(name, &objects).await;
        let (point, found) = read_all(&vault).await.unwrap();
        assert_eq!(point, Some(corpus_point()), "{name}");
        assert!(found == disk(), "{name}");
        let audit = vault.audit(Depth::Everything, &|_| {}).await.unwrap();
        assert!(audit.is_sound(), "{name}: {:?}", audit.findings);
    }
}

#[derive(Clone, Debug)]
enum Change {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Append(Vec<u8>),
    Overwrite(prop::sample::Index, Vec<u8>),
    /// The bytes of another object of the vault.
    Replace(prop::sample::Index),
    Remove,
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let bytes = || prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        at().prop_map(Change::Cut),
        bytes().prop_map(Change::Append),
        (at(), bytes()).prop_map(|(at, bytes)| Change::Overwrite(at, bytes)),
        at().prop_map(Change::Replace),
        Just(Change::Remove),
    ]
}

fn apply(change: &Change, objects: &mut Objects, which: usize) {
    let mut bytes = objects[which].1.clone();
    match change {
        Change::Flip(at, bit) => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Change::Append(more) => bytes.extend_from_slice(more),
        Change::Overwrite(at, with) => {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + with.len());
            bytes[at..end].copy_from_slice(&with[..end - at]);
        }
        Change::Replace(other) => bytes.clone_from(&objects[other.index(objects.len())].1),
        Change::Remove => {
            objects.remove(which);
            return;
        }
    }
    objects[which].1 = bytes;
}

/// The corpus without keys, whose list of the base is changed and sealed again, as a faulty or hostile
/// writer would: `change` is given the header and the footer.
fn with_list(change: impl FnOnce(&mut [u8], &mut Vec<u8>)) -> Objects {
    let mut objects = corpus("raw");
    let list = objects.iter_mut().find(|(path, _)| path.as_ref().contains("/man/")).unwrap();
    let bytes = &list.1;
    let trailer_at = bytes.len() - TRAILER_BYTES as usize;
    let trailer = Trailer::decode(&bytes[trailer_at..], bytes.len() as u64).unwrap();
    let start = trailer.footer_range().start as usize;
    let mut header = bytes[..HEADER_BYTES as usize].to_vec();
    let mut footer = bytes[start..trailer_at].to_vec();
    let mut end = bytes[trailer_at..].to_vec();
    change(&mut header, &mut footer);
    let checksum = crc32fast::hash(&header[..124]).to_le_bytes();
    header[124..].copy_from_slice(&checksum);
    end[8..16].copy_from_slice(&(footer.len() as u64).to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header).update(&footer).update(&end[..16]);
    end[16..48].copy_from_slice(hasher.finalize().as_bytes());
    list.1 = [header, footer, end].concat();
    objects
}

/// Everything that reads lists, given one.
async fn read_list(objects: &Objects) -> Result<(), VaultError> {
    let vault = vault_of("raw", objects).await;
    let read = read_all(&vault).await;
    let _ = vault.audit(Depth::Everything, &|_| {}).await;
    let (kept, clock) = (BTreeSet::from([2]), Steps::from(Timestamp::from_millis(5_000), 0));
    let pass =
        Collection { vm: VM, disks: &[DISK], kept: &kept, epoch: 1, pins: &[], clock: &clock };
    let _ = Collector::default().collect(&vault, &pass).await;
    read.map(drop)
}

#[tokio::test]
async fn a_list_that_counts_other_regions_than_it_has_is_refused() {
    read_list(&with_list(|_, _| {})).await.unwrap();
    // With a disk that could have as many.
    let huge = (64_u64 << 40).to_le_bytes();
    for (count, said) in [
        (0, "length of the list"),
        (2, "length of the list"),
        (1 << 20, "length of the list"),
        ((1 << 20) + 1, "number of regions"),
        (u32::MAX, "number of regions"),
    ] {
        let objects = with_list(|header, footer| {
            header[104..112].copy_from_slice(&huge);
            footer[8..12].copy_from_slice(&count.to_le_bytes());
        });
        let error = read_list(&objects).await.unwrap_err();
        assert_code(&error, Code::ReplicaDamaged, said);
    }
    for length in 0..64 {
        let objects = with_list(|_, footer| footer.truncate(length));
        let error = read_list(&objects).await.unwrap_err();
        assert_code(&error, Code::ReplicaDamaged, "/man/");
    }
}

type Edits = Vec<(prop::sample::Index, u8)>;

fn edits(count: std::ops::Range<usize>) -> impl Strategy<Value = Edits> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), count)
}

fn edit(bytes: &mut [u8], edits: &Edits) {
    for (at, byte) in edits {
        bytes[at.index(bytes.len())] = *byte;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// A list with a right hash but wrong content: what it says of sizes, places and counts is believed
    /// nowhere, and what it has is read or refused.
    #[test]
    fn nonsense_in_a_list_under_a_right_hash_never_panics(
        of_header in edits(0..3),
        of_footer in edits(0..6),
        more in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let objects = with_list(|header, footer| {
            edit(&mut header[48..120], &of_header);
            footer.extend(&more);
            edit(footer, &of_footer);
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(read_list(&objects));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever is done to an object, it is noticed, or what is read is what was written.
    #[test]
    fn a_vault_never_gives_what_was_not_written(
        name in prop::sample::select(vec!["raw", "sealed"]),
        which in any::<prop::sample::Index>(),
        change in change(),
    ) {
        let mut objects = corpus(name);
        let which = which.index(objects.len());
        let path = objects[which].0.clone();
        apply(&change, &mut objects, which);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let vault = vault_of(name, &objects).await;
            // A base whose list is gone, or a point, was never there to a reader.
            let gone = matches!(change, Change::Remove);
            if let Ok((point, found)) = read_all(&vault).await {
                assert!(found == disk(), "{path}");
                assert!(point == Some(corpus_point()) || (gone && point.is_none()), "{path}");
            }
            let _ = vault.audit(Depth::Everything, &|_| {}).await;
        });
    }

    #[test]
    fn bytes_that_nobody_wrote_are_refused_without_a_panic(
        head in prop::collection::vec(any::<u8>(), 0..300),
        footer in prop::collection::vec(any::<u8>(), 0..300),
        tail in prop::collection::vec(any::<u8>(), 0..80),
        object_bytes in any::<u64>(),
    ) {
        prop_assert!(Header::decode(&head).is_err());
        let trailer = Trailer::decode(&tail, object_bytes);
        prop_assert!(trailer.is_err());
        let trailer = Trailer { footer: (128, footer.len() as u64), hash: SegmentHash::NONE };
        prop_assert!(Index::decode(&head, &footer, &trailer, &HashKey::default()).is_err());
        let keys = Some(super::encryption::keys(1));
        let sealing = Sealing { keys, ..Sealing::default() };
        let header = Header {
            kind: Kind::Delta,
            vault: VAULT,
            disk: DISK,
            sequence: 1,
            epoch: 1,
            previous: SegmentHash::NONE,
            cut_at: Timestamp::default(),
            disk_size: SIZE,
            place: 0,
            encrypted: true,
        };
        prop_assert!(sealing.opener(&header, &head).is_err());
    }

    #[test]
    fn a_key_file_that_nobody_wrote_is_refused_without_a_panic(
        lines in prop::collection::vec("(hash|key|#|lifeboat vault keys 1)?[ -~]{0,60}", 0..6),
        titled in any::<bool>(),
    ) {
        let title = if titled { "lifeboat vault keys 1\n" } else { "" };
        let text = [title, &lines.join("\n")].concat();
        prop_assert!(KeyFile::parse(&text).is_err());
    }
}
