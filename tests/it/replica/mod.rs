//! Tests of `replica`.

mod encryption;
mod extent_map;
mod faulty_store;
mod hostile;
mod memory_files;
mod overlay;
mod region_parts;
mod segment;
mod stores;
mod upkeep;
mod vault;

use bytes::Bytes;
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::Classified;
use lifeboat::domain::id::{DiskId, VaultId, VmId};
use lifeboat::domain::time::Timestamp;
use lifeboat::ports::clock::Clock;
use lifeboat::replica::segment::SegmentHash;
use lifeboat::replica::{Completion, DeltaHeader, Vault, VaultError};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use uuid::Uuid;

const VAULT: VaultId = VaultId(Uuid::from_u128(0xfa01));
const DISK: DiskId = DiskId(Uuid::from_u128(0xd15c));
const VM: VmId = VmId(Uuid::from_u128(0x7777));
const MIB: u64 = 1024 * 1024;

/// A clock that goes on by so many milliseconds whenever it is asked.
#[derive(Debug)]
struct Steps {
    next: AtomicI64,
    step: i64,
}

impl Steps {
    fn from(now: Timestamp, step: i64) -> Self {
        Self { next: AtomicI64::new(now.as_millis()), step }
    }
}

impl Clock for Steps {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.next.fetch_add(self.step, Ordering::Relaxed))
    }
}

/// Bytes that follow from a seed and do not repeat.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn header(sequence: u64, previous: SegmentHash, disk_size: u64) -> DeltaHeader {
    let cut_at = Timestamp::from_millis(1_000 * sequence.cast_signed());
    DeltaHeader { sequence, epoch: 1, previous, cut_at, disk_size }
}

/// A base of zeroes alone, usable from the first segment on.
async fn empty_base(vault: &Vault, disk_size: u64) {
    vault.base(DISK, 1, 1, disk_size).complete(from_the_start()).await.unwrap();
}

fn from_the_start() -> Completion {
    Completion {
        from_seq: 0,
        from_hash: SegmentHash::NONE,
        usable_from: 0,
        at: Timestamp::from_millis(5),
    }
}

async fn memory_vault() -> (Arc<InMemory>, Vault) {
    let store = Arc::new(InMemory::new());
    let vault = Vault::new(store.clone(), VAULT);
    vault.establish().await.unwrap();
    (store, vault)
}

async fn bytes_of(store: &dyn ObjectStore, path: &Path) -> Vec<u8> {
    store.get(path).await.unwrap().bytes().await.unwrap().to_vec()
}

async fn overwrite(store: &dyn ObjectStore, path: &Path, bytes: Vec<u8>) {
    store.put(path, Bytes::from(bytes).into()).await.unwrap();
}

#[track_caller]
fn assert_code(error: &VaultError, code: Code, names: &str) {
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(names), "'{error}' does not name '{names}'");
}
