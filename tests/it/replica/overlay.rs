//! The overlay: what it shows, what it fetches, and what is left of it after a kill or a power loss.

use super::faulty_store::{Fault, FaultyStore};
use super::memory_files::MemoryFiles;
use super::{DISK, MIB, VAULT, empty_base, header, noise};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::Classified;
use lifeboat::ports::block::BlockDevice;
use lifeboat::replica::segment::SegmentHash;
use lifeboat::replica::{DiskImage, Overlay, OverlayError, Vault, VaultError};
use object_store::memory::InMemory;
use proptest::prelude::*;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, LazyLock};
use tokio::runtime::Runtime;

const CHUNK: u64 = 64 * 1024;
const PATH: &str = "/overlays/disk";

/// Carries requests to the storage, as the service's runtime does for the NBD threads.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

struct World {
    store: Arc<FaultyStore>,
    vault: Vault,
    image: Arc<DiskImage>,
    files: MemoryFiles,
}

/// A disk of `size` bytes that holds `extents`.
fn world(size: u64, extents: &[(u64, &[u8])]) -> World {
    let store = FaultyStore::over(Arc::new(InMemory::new()));
    let vault = Vault::new(store.clone(), VAULT);
    let image = RUNTIME.block_on(async {
        vault.establish().await.unwrap();
        empty_base(&vault, size).await;
        let mut writer = vault.delta(DISK, header(1, SegmentHash::NONE, size));
        for (offset, data) in extents {
            writer.data(*offset, data).await.unwrap();
        }
        writer.commit().await.unwrap();
        vault.open_disk(DISK, 1).await.unwrap()
    });
    World { store, vault, image: Arc::new(image), files: MemoryFiles::default() }
}

impl World {
    fn overlay(&self) -> Overlay {
        self.try_overlay().unwrap()
    }

    fn try_overlay(&self) -> Result<Overlay, OverlayError> {
        let runtime = RUNTIME.handle().clone();
        Overlay::open(&self.files, Path::new(PATH), self.image.clone(), runtime)
    }

    fn data(&self) -> Arc<super::memory_files::MemoryFile> {
        self.files.file(Path::new(PATH))
    }

    fn map(&self) -> Arc<super::memory_files::MemoryFile> {
        self.files.file(&Overlay::map_path(Path::new(PATH)))
    }

    fn gets(&self) -> usize {
        self.store.get_count.load(Ordering::Relaxed)
    }
}

fn read(overlay: &Overlay, offset: u64, len: u64) -> Vec<u8> {
    let mut buffer = vec![0xee; len as usize];
    overlay.read_at(&mut buffer, offset).unwrap();
    buffer
}

#[test]
fn a_chunk_is_fetched_once_however_many_readers_want_it() {
    let world = world(MIB, &[(0, &noise(1, 2 * CHUNK as usize))]);
    let overlay = world.overlay();
    let before = world.gets();
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for nth in 0..8 {
            let (overlay, start) = (&overlay, &start);
            scope.spawn(move || {
                start.wait();
                let at = nth * 4096;
                let expected = &noise(1, CHUNK as usize)[at..at + 4096];
                assert!(read(overlay, at as u64, 4096) == expected);
            });
        }
    });
    assert_eq!(world.gets() - before, 1);
}

#[test]
fn writers_that_share_absent_chunks_lose_nothing_of_each_other() {
    let image = noise(1, MIB as usize);
    let world = world(MIB, &[(0, &image)]);
    let overlay = world.overlay();
    std::thread::scope(|scope| {
        for nth in 0..4_u64 {
            let overlay = &overlay;
            scope.spawn(move || {
                for at in (nth * 1024..MIB).step_by(8192) {
                    overlay.write_at(&noise(at, 1024), at, false).unwrap();
                }
            });
        }
    });
    let mut expected = image;
    for at in (0..MIB as usize).step_by(1024).filter(|at| at % 8192 < 4096) {
        expected[at..at + 1024].copy_from_slice(&noise(at as u64, 1024));
    }
    assert!(read(&overlay, 0, MIB) == expected);
}

#[test]
fn reads_that_follow_each_other_are_met_by_what_was_read_ahead() {
    let world = world(4 * MIB, &[(0, &noise(1, 4 * MIB as usize))]);
    let overlay = world.overlay();
    let before = world.gets();
    for at in (0..2 * MIB).step_by(CHUNK as usize) {
        read(&overlay, at, CHUNK);
    }
    assert_eq!(world.gets() - before, 3, "the first chunk, then 1 MiB at a time");
}

#[test]
fn a_storage_that_does_not_answer_fails_the_read_with_its_reason_and_no_later_one() {
    let world = world(MIB, &[(0, &[7; 4096])]);
    let overlay = world.overlay();
    world.store.next_gets(&[Fault::Refused(io::ErrorKind::ConnectionReset); 2]);
    let error = overlay.read_at(&mut [0; 512], 0).unwrap_err();
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<VaultError>()).unwrap();
    assert_eq!(reason.code(), Code::LinkDown);
    assert_eq!(read(&overlay, 0, 512), [7; 512]);
}

#[test]
fn a_local_volume_without_room_fails_writes_but_not_reads() {
    let world = world(MIB, &[(0, &[7; 4096])]);
    let overlay = world.overlay();
    world.data().no_room(true);
    assert_eq!(read(&overlay, 0, 512), [7; 512]);
    let error = overlay.write_at(&[1; 512], 0, false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    world.data().no_room(false);
    overlay.write_at(&[1; 512], 512, false).unwrap();
    assert_eq!(read(&overlay, 0, 1024), [[7; 512], [1; 512]].concat());
}

#[test]
fn a_range_beyond_the_end_is_refused() {
    let world = world(MIB, &[]);
    let overlay = world.overlay();
    let refused = [
        overlay.read_at(&mut [0; 2], MIB - 1),
        overlay.write_at(&[0; 2], MIB - 1, false),
        overlay.write_at(&[0; 2], u64::MAX, false),
        overlay.zero(MIB - 1..MIB + 1, true, false),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn after_a_refused_sync_no_flush_is_believed_until_the_overlay_is_opened_again() {
    let world = world(MIB, &[]);
    let overlay = world.overlay();
    overlay.write_at(&[1; 512], 0, true).unwrap();
    overlay.write_at(&[2; 512], 3 * CHUNK, false).unwrap();
    world.data().refuse_sync(true);
    assert!(overlay.flush().is_err());
    world.data().refuse_sync(false);
    assert!(overlay.flush().is_err());
    drop(overlay);
    let overlay = world.overlay();
    assert_eq!(read(&overlay, 0, 512), [1; 512]);
    assert_eq!(read(&overlay, 3 * CHUNK, 512), [0; 512], "it was never durable");
}

#[test]
fn a_map_that_could_not_be_synced_is_saved_by_the_next_flush() {
    let world = world(MIB, &[]);
    let overlay = world.overlay();
    overlay.write_at(&[1; 512], 0, false).unwrap();
    world.map().refuse_sync(true);
    assert!(overlay.flush().is_err());
    world.map().refuse_sync(false);
    overlay.close().unwrap();
    world.files.lose_power(|| false);
    assert_eq!(read(&world.overlay(), 0, 512), [1; 512]);
}

#[test]
fn what_a_disk_lacks_ends_with_it_also_in_the_middle_of_a_chunk() {
    let size = 3 * CHUNK + 4096;
    let world = world(size, &[]);
    let overlay = world.overlay();
    assert_eq!(overlay.absent(0), Some(0..size));
    assert_eq!(overlay.absent(size), None);
    overlay.fill_zeroes(0..2 * CHUNK).unwrap();
    assert_eq!(overlay.absent(0), Some(2 * CHUNK..size));
    overlay.fill(&vec![0; (CHUNK + 4096) as usize], 2 * CHUNK).unwrap();
    assert_eq!(overlay.absent(0), None);
}

#[test]
fn an_overlay_opens_only_with_the_point_that_it_was_made_for() {
    let mut world = world(MIB, &[]);
    world.overlay().close().unwrap();
    let base = RUNTIME.block_on(world.vault.open_disk(DISK, 0)).unwrap();
    world.image = Arc::new(base);
    let error = world.try_overlay().unwrap_err();
    assert!(matches!(error, OverlayError::OtherImage { sequence: 1, asked_sequence: 0, .. }));
    assert!(error.to_string().contains("at sequence 1 with 1048576 bytes, not to"), "{error}");
}

#[test]
fn a_damaged_map_is_named_and_not_believed() {
    let world = world(MIB, &[]);
    let overlay = world.overlay();
    for byte in [1, 2] {
        overlay.write_at(&[byte; 512], u64::from(byte) * CHUNK, true).unwrap();
    }
    drop(overlay);
    let refused = |at: &[u64], names: &str| {
        for at in at {
            world.map().flip(*at);
        }
        let error = world.try_overlay().unwrap_err();
        assert_eq!(error.code(), Code::DiskUnusable);
        assert!(error.to_string().contains(names), "{error}");
        for at in at {
            world.map().flip(*at);
        }
    };
    refused(&[3], "at byte 0: the magic number");
    refused(&[33], "at byte 48: the checksum");
    refused(&[4096 + 20, 8192 + 20], "at byte 4096: neither copy");
    assert_eq!(read(&world.overlay(), CHUNK, 512), [1; 512]);
    assert_eq!(read(&world.overlay(), 2 * CHUNK, 512), [2; 512]);
}

#[test]
fn a_sparse_disk_of_a_tebibyte_opens_fast_and_small() {
    let size = 1 << 40;
    let world = world(size, &[(1 << 39, &[5; 4096])]);
    let overlay = world.overlay();
    assert_eq!(overlay.next_data(0).unwrap(), Some(1 << 39..(1 << 39) + 4096));
    overlay.write_at(&[6; 512], size - 512, true).unwrap();
    overlay.zero(0..size - 2 * CHUNK, true, false).unwrap();
    drop(overlay);
    let overlay = world.overlay();
    assert_eq!(read(&overlay, 1 << 39, 512), [5; 512], "the zeroes were not flushed");
    assert_eq!(read(&overlay, size - 512, 512), [6; 512]);
    assert!(world.data().allocated_bytes() + world.map().allocated_bytes() < MIB);
    overlay.zero(0..size - 2 * CHUNK, true, true).unwrap();
    drop(overlay);
    let overlay = world.overlay();
    assert!(size - CHUNK <= overlay.next_data(0).unwrap().unwrap().start);
    read(&overlay, 1 << 38, 8 * MIB);
    assert!(world.data().allocated_bytes() < MIB, "zeroes that are read take no room");
}

const SECTOR: usize = 512;
/// 19 chunks and a short one, so that reads cross a window.
const SIZE: u64 = 19 * CHUNK + 3 * SECTOR as u64;

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u64),
    Write(u64, u64, u64),
    Zero(u64, u64),
    Flush,
    /// The process dies.
    Kill,
    /// The power goes; the number decides which sectors were written.
    PowerLoss(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let range = || {
        let len = prop_oneof![3 => 1..5_000_u64, 1 => 50_000..400_000_u64];
        (0..SIZE, len).prop_map(|(at, len)| (at, len.min(SIZE - at)))
    };
    prop_oneof![
        4 => range().prop_map(|(at, len)| Step::Read(at, len)),
        5 => (range(), any::<u64>()).prop_map(|((at, len), seed)| Step::Write(at, len, seed)),
        2 => range().prop_map(|(at, len)| Step::Zero(at, len)),
        2 => Just(Step::Flush),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::PowerLoss),
    ]
}

/// Reads everything after a restart: every sector is as it was flushed or as it was last written.
fn survived(overlay: &Overlay, flushed: &[u8], written: &[u8]) -> Vec<u8> {
    let got = read(overlay, 0, SIZE);
    let sectors = got.chunks(SECTOR).zip(flushed.chunks(SECTOR)).zip(written.chunks(SECTOR));
    for (nth, ((got, flushed), written)) in sectors.enumerate() {
        assert!(got == flushed || got == written, "sector {nth} holds neither");
    }
    got
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_shows_what_was_written_and_a_restart_takes_back_only_what_was_not_flushed(
        steps in prop::collection::vec(step(), 1..24)
    ) {
        let mut model = noise(9, SIZE as usize);
        model[5 * CHUNK as usize..9 * CHUNK as usize].fill(0);
        let (head, tail) = (&model[..5 * CHUNK as usize], &model[9 * CHUNK as usize..]);
        let world = world(SIZE, &[(0, head), (9 * CHUNK, tail)]);
        let mut overlay = world.overlay();
        let mut flushed = model.clone();
        for step in steps {
            match step {
                Step::Read(at, len) => {
                    let expected = &model[at as usize..(at + len) as usize];
                    prop_assert!(read(&overlay, at, len) == expected, "read of {len} at {at}");
                }
                Step::Write(at, len, seed) => {
                    let data = noise(seed, len as usize);
                    overlay.write_at(&data, at, false).unwrap();
                    model[at as usize..(at + len) as usize].copy_from_slice(&data);
                }
                Step::Zero(at, len) => {
                    overlay.zero(at..at + len, true, false).unwrap();
                    model[at as usize..(at + len) as usize].fill(0);
                }
                Step::Flush => {
                    overlay.flush().unwrap();
                    flushed.clone_from(&model);
                }
                Step::Kill => {
                    drop(overlay);
                    overlay = world.overlay();
                    model = survived(&overlay, &flushed, &model);
                }
                Step::PowerLoss(mut seed) => {
                    drop(overlay);
                    world.files.lose_power(|| {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        seed >> 63 == 1
                    });
                    overlay = world.overlay();
                    model = survived(&overlay, &flushed, &model);
                    flushed.clone_from(&model);
                }
            }
        }
        let mut from = 0;
        while let Some(run) = overlay.next_data(from).unwrap() {
            prop_assert!(from <= run.start && run.start < run.end && run.end <= SIZE);
            prop_assert!(model[from as usize..run.start as usize].iter().all(|byte| *byte == 0));
            from = run.end;
        }
        prop_assert!(model[from as usize..].iter().all(|byte| *byte == 0));
    }
}
