//! The file port: the real file system and the one in memory give the same answers.

use lifeboat::disk::files::{MemoryFiles, RealFiles};
use lifeboat::disk::raw::RawDisk;
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::{Files, Open};
use proptest::prelude::*;
use std::io::ErrorKind;
use std::path::Path;

fn on_both(check: impl Fn(&dyn Files, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    check(&RealFiles, folder.path());
    check(&*MemoryFiles::new(1), Path::new("/folder"));
}

#[test]
fn vectored_writes_lie_one_after_the_other() {
    on_both(|files, folder| {
        let file = files.open(&folder.join("a"), Open::CreateNew).unwrap();
        let many: Vec<Vec<u8>> = (0..3000_u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let mut buffers: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        buffers.insert(7, &[]);
        file.write_all_vectored_at(&buffers, 5).unwrap();
        let mut read = vec![0; 12_000];
        file.read_exact_at(&mut read, 5).unwrap();
        assert_eq!(read, many.concat());
        assert_eq!(file.len().unwrap(), 12_005);
        assert_eq!(
            file.read_exact_at(&mut [0; 2], 12_004).unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
    });
}

#[test]
fn zeroed_ranges_read_as_zeroes_and_punched_ones_become_holes() {
    on_both(|files, folder| {
        let file = files.open(&folder.join("a"), Open::CreateNew).unwrap();
        let size = 1 << 20;
        file.write_all_at(&vec![7; size], 0).unwrap();
        file.zero(4096..65_536, true).unwrap();
        file.zero(100_001..100_007, false).unwrap();
        file.zero(size as u64 - 10..u64::MAX, true).unwrap();
        let mut read = vec![1; size];
        file.read_exact_at(&mut read, 0).unwrap();
        let zero = |at: usize| {
            (4096..65_536).contains(&at) || (100_001..100_007).contains(&at) || size - 10 <= at
        };
        assert!((0..size).all(|at| (read[at] == 0) == zero(at)));
        assert_eq!(file.len().unwrap(), size as u64);
        assert_eq!(file.next_data(0).unwrap(), Some(0..4096));
        assert_eq!(file.next_data(4096).unwrap().unwrap().start, 65_536);
        assert_eq!(file.next_data(size as u64).unwrap(), None);
    });
}

#[test]
fn names_are_made_moved_and_removed() {
    on_both(|files, folder| {
        let (a, b) = (folder.join("a"), folder.join("b"));
        assert_eq!(files.open(&a, Open::Read).unwrap_err().kind(), ErrorKind::NotFound);
        files.open(&a, Open::CreateNew).unwrap().write_all_at(b"x", 0).unwrap();
        let taken = files.open(&a, Open::CreateNew).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        files.rename(&a, &b).unwrap();
        files.sync_dir(folder).unwrap();
        assert_eq!(files.list(folder).unwrap(), std::slice::from_ref(&b));
        assert!(files.exists(&b) && !files.exists(&a));
        files.remove(&b).unwrap();
        assert_eq!(files.remove(&b).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(files.free_bytes(folder).unwrap() > 0);
    });
}

#[test]
fn an_image_with_half_a_sector_is_refused_with_the_remedy() {
    on_both(|files, folder| {
        let path = folder.join("odd.img");
        files.open(&path, Open::CreateNew).unwrap().set_len(1000).unwrap();
        let error = RawDisk::open(files, &path, Open::Write).unwrap_err().to_string();
        assert!(error.contains("odd.img") && error.contains("truncate --size=%512"), "{error}");
    });
}

#[test]
fn a_read_only_disk_refuses_writes() {
    on_both(|files, folder| {
        let path = folder.join("a.img");
        RawDisk::create(files, &path, 4096).unwrap();
        let disk = RawDisk::open(files, &path, Open::Read).unwrap();
        assert!(disk.read_only());
        let kind = |outcome: std::io::Result<()>| outcome.unwrap_err().kind();
        assert_eq!(kind(disk.write_at(&[1], 0, false)), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(kind(disk.zero(0..512, true, false)), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(kind(disk.read_at(&mut [0; 2], 4095)), ErrorKind::InvalidInput);
        disk.flush().unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What was synced is there after a power loss; what was not is, by sectors, new or old.
    #[test]
    fn a_power_loss_takes_only_what_was_not_synced(
        seed: u64,
        synced in prop::collection::vec((0_u64..20_000, 1_usize..6000, 1_u8..), 0..6),
        unsynced in prop::collection::vec((0_u64..20_000, 1_usize..6000, 1_u8..), 0..6),
    ) {
        let files = MemoryFiles::new(seed);
        let path = Path::new("/a");
        let file = files.open(path, Open::CreateNew).unwrap();
        file.set_len(32_768).unwrap();
        files.sync_dir(Path::new("/")).unwrap();
        let mut old = vec![0; 32_768];
        for (offset, length, value) in synced {
            file.write_all_at(&vec![value; length], offset).unwrap();
            old[offset as usize..][..length].fill(value);
        }
        file.sync_data().unwrap();
        let mut possible = vec![old];
        for (offset, length, value) in unsynced {
            file.write_all_at(&vec![value; length], offset).unwrap();
            let mut next = possible[possible.len() - 1].clone();
            next[offset as usize..][..length].fill(value);
            possible.push(next);
        }
        files.lose_power();
        prop_assert!(file.len().is_err(), "a file from before is dead");
        let file = files.open(path, Open::Read).unwrap();
        let mut read = vec![0; 32_768];
        file.read_exact_at(&mut read, 0).unwrap();
        for (index, sector) in read.chunks(512).enumerate() {
            let at = index * 512;
            prop_assert!(possible.iter().any(|state| state[at..at + 512] == *sector));
        }
    }
}

#[test]
fn a_kill_stops_at_the_given_call_and_keeps_what_was_completed() {
    let files = MemoryFiles::new(3);
    let path = Path::new("/a");
    let file = files.open(path, Open::CreateNew).unwrap();
    files.kill_after(1);
    file.write_all_at(&[1; 10_000], 0).unwrap();
    assert!(!files.is_killed());
    file.write_all_at(&[2; 10_000], 0).unwrap_err();
    assert!(files.is_killed());
    files.open(path, Open::Read).unwrap_err();
    files.restart();
    file.len().unwrap_err();
    let file = files.open(path, Open::Read).unwrap();
    let mut read = vec![0; 10_000];
    file.read_exact_at(&mut read, 0).unwrap();
    let kept = read.iter().take_while(|byte| **byte == 2).count();
    assert!(kept % 4096 == 0 && kept < 10_000, "{kept}");
    assert!(read[kept..].iter().all(|byte| *byte == 1));
}

#[test]
fn a_mark_stays_with_its_file_and_is_no_part_of_its_content() {
    on_both(|files, folder| {
        let file = files.open(&folder.join("a"), Open::CreateNew).unwrap();
        file.write_all_at(&[1; 512], 0).unwrap();
        assert!(!file.is_marked().unwrap());
        file.set_mark(false).unwrap();
        match file.set_mark(true) {
            Err(error) if error.kind() == ErrorKind::Unsupported => return,
            marked => marked.unwrap(),
        }
        files.rename(&folder.join("a"), &folder.join("b")).unwrap();
        let file = files.open(&folder.join("b"), Open::Write).unwrap();
        assert!(file.is_marked().unwrap());
        file.set_mark(true).unwrap();
        assert_eq!(file.len().unwrap(), 512);
        file.set_mark(false).unwrap();
        assert!(!file.is_marked().unwrap());
    });
}
