//! The check against every way in which disks can hold something else than a prefix of the writes.

use super::rack::MemoryDisk;
use lifeboat::drivers::lab::{
    BLOCK_BYTES, CheckError, Checked, Content, LastWrite, Model, Workload, check,
};
use lifeboat::ports::block::BlockDevice;
use proptest::prelude::*;
use std::io;
use std::ops::Range;
use std::sync::Mutex;

type Image = Vec<Vec<u8>>;

fn blank(workload: &Workload) -> Image {
    workload.disks().iter().map(|size| vec![0; *size as usize]).collect()
}

/// Writes the blocks of write `n` that `take` names, counted from 0.
fn apply(workload: &Workload, image: &mut Image, n: u64, take: impl Fn(usize) -> bool) {
    let write = workload.write(n);
    for (index, block) in workload.content(n).chunks(BLOCK_BYTES).enumerate() {
        if take(index) {
            let start = write.offset() as usize + index * BLOCK_BYTES;
            image[write.disk][start..start + BLOCK_BYTES].copy_from_slice(block);
        }
    }
}

/// The disks after 0, 1, 2, ... writes.
fn prefixes(workload: &Workload, writes: u64) -> Vec<Image> {
    let mut images = vec![blank(workload)];
    for n in 1..=writes {
        let mut image = images[n as usize - 1].clone();
        apply(workload, &mut image, n, |_| true);
        images.push(image);
    }
    images
}

fn after(workload: &Workload, writes: u64) -> Image {
    prefixes(workload, writes).pop().unwrap()
}

fn verdict(
    workload: &Workload,
    image: &Image,
    last_write: LastWrite,
) -> Result<Checked, CheckError> {
    let disks: Vec<_> = image.iter().cloned().map(MemoryDisk::holding).collect();
    let disks: Vec<&dyn BlockDevice> = disks.iter().map(|disk| disk as _).collect();
    check(workload, &disks, last_write, &|_, _| ())
}

/// Whether every block of `image` is as in one of two images.
fn is_between(image: &Image, before: &Image, after: &Image) -> bool {
    image.iter().zip(before.iter().zip(after)).all(|(disk, (before, after))| {
        let [mut disk, mut before, mut after] =
            [disk, before, after].map(|bytes| bytes.chunks(BLOCK_BYTES));
        disk.all(|block| {
            let (before, after) = (before.next().unwrap(), after.next().unwrap());
            block == before || block == after
        })
    })
}

/// What can go wrong with a write on its way.
#[derive(Clone, Debug)]
enum Mishap {
    None,
    Lost(u64),
    Swapped(u64, u64),
    Torn { write: u64, blocks: u64 },
    Flipped { disk: usize, at: u64, by: u8 },
    Stale { disk: usize, at: u64, from: u64 },
    Misplaced { disk: usize, from: u64, to: u64 },
    Zeroed { disk: usize, at: u64 },
}

fn mishap() -> impl Strategy<Value = Mishap> {
    let n = any::<u64>;
    prop_oneof![
        Just(Mishap::None),
        n().prop_map(Mishap::Lost),
        (n(), n()).prop_map(|(a, b)| Mishap::Swapped(a, b)),
        (n(), n()).prop_map(|(write, blocks)| Mishap::Torn { write, blocks }),
        (any::<usize>(), n(), 1..=u8::MAX).prop_map(|(disk, at, by)| Mishap::Flipped {
            disk,
            at,
            by
        }),
        (any::<usize>(), n(), n()).prop_map(|(disk, at, from)| Mishap::Stale { disk, at, from }),
        (any::<usize>(), n(), n()).prop_map(|(disk, from, to)| Mishap::Misplaced {
            disk,
            from,
            to
        }),
        (any::<usize>(), n()).prop_map(|(disk, at)| Mishap::Zeroed { disk, at }),
    ]
}

/// The disks after all but the blank one of `prefixes`, with a mishap.
fn after_mishap(workload: &Workload, prefixes: &[Image], mishap: &Mishap) -> Image {
    let writes = prefixes.len() as u64 - 1;
    let mut order: Vec<u64> = (1..=writes).collect();
    let mut torn = (0, 0);
    match *mishap {
        Mishap::Lost(n) => _ = order.remove((n % writes) as usize),
        Mishap::Swapped(a, b) => order.swap((a % writes) as usize, (b % writes) as usize),
        Mishap::Torn { write, blocks } => {
            let n = write % writes + 1;
            torn = (n, (blocks % u64::from(workload.write(n).blocks)) as usize);
        }
        Mishap::None
        | Mishap::Flipped { .. }
        | Mishap::Stale { .. }
        | Mishap::Misplaced { .. }
        | Mishap::Zeroed { .. } => {}
    }
    let mut image = blank(workload);
    for n in order {
        apply(workload, &mut image, n, |block| n != torn.0 || block < torn.1);
    }

    let block_of = |disk: usize, at: u64| {
        let disk = disk % workload.disks().len();
        let block = (at % (workload.disks()[disk] / BLOCK_BYTES as u64)) as usize;
        (disk, block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES)
    };
    match *mishap {
        Mishap::None | Mishap::Lost(_) | Mishap::Swapped(..) | Mishap::Torn { .. } => {}
        Mishap::Flipped { disk, at, by } => {
            let disk = disk % image.len();
            let at = (at % workload.disks()[disk]) as usize;
            image[disk][at] ^= by;
        }
        Mishap::Stale { disk, at, from } => {
            let (disk, block) = block_of(disk, at);
            let old = &prefixes[(from % writes) as usize][disk][block.clone()];
            image[disk][block].copy_from_slice(old);
        }
        Mishap::Misplaced { disk, from, to } => {
            let ((disk, from), (_, to)) = (block_of(disk, from), block_of(disk, to));
            image[disk].copy_within(from, to.start);
        }
        Mishap::Zeroed { disk, at } => {
            let (disk, block) = block_of(disk, at);
            image[disk][block].fill(0);
        }
    }
    image
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_check_accepts_exactly_what_prefixes_of_the_writes_leave(
        seed: u64,
        blocks in prop::collection::vec(1_u64..12, 1..4),
        tail in prop_oneof![Just(0_u64), Just(512)],
        install_blocks in 0_u64..6,
        writes in 1_u64..24,
        mishap in mishap(),
    ) {
        let disks = blocks.iter().map(|blocks| blocks * BLOCK_BYTES as u64 + tail).collect();
        let workload = Workload::new(seed, disks, install_blocks * BLOCK_BYTES as u64).unwrap();
        let prefixes = prefixes(&workload, writes);
        let image = after_mishap(&workload, &prefixes, &mishap);

        let is_prefix = prefixes.iter().position(|prefix| *prefix == image);
        let whole = verdict(&workload, &image, LastWrite::Whole);
        prop_assert_eq!(whole.ok().map(|checked| checked.last_write as usize), is_prefix);

        let step = prefixes.windows(2).position(|step| is_between(&image, &step[0], &step[1]));
        let torn = verdict(&workload, &image, LastWrite::MayBeTorn).ok();
        match (is_prefix, step) {
            (Some(k), _) => {
                let checked = torn.unwrap();
                prop_assert_eq!((checked.last_write as usize, checked.torn), (k, false));
            }
            (None, Some(k)) => {
                let checked = torn.unwrap();
                prop_assert_eq!((checked.last_write as usize, checked.torn), (k, true));
            }
            (None, None) => prop_assert!(torn.is_none()),
        }
    }
}

const WRITES: u64 = 40;

fn two_disks() -> Workload {
    Workload::new(11, vec![1 << 20, 512 << 10], 32 << 10).unwrap()
}

/// A write before the last whose first block is the last word on that block.
fn visible_write(workload: &Workload, disk: usize, blocks: Range<u32>) -> u64 {
    let model = Model::after(workload, WRITES);
    (1..WRITES)
        .rev()
        .find(|n| {
            let write = workload.write(*n);
            write.disk == disk
                && blocks.contains(&write.blocks)
                && write.range().all(|block| model.content(disk, block) == Content::Write(*n))
        })
        .unwrap()
}

fn mismatch(workload: &Workload, image: &Image) -> (Content, Content) {
    match verdict(workload, image, LastWrite::Whole) {
        Err(CheckError::Mismatch(mismatch)) => (mismatch.expected, mismatch.found),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lost_write_is_named() {
    let workload = two_disks();
    let lost = visible_write(&workload, 0, 1..64);
    let mut image = blank(&workload);
    (1..=WRITES).filter(|n| *n != lost).for_each(|n| apply(&workload, &mut image, n, |_| true));
    let (expected, found) = mismatch(&workload, &image);
    assert_eq!(expected, Content::Write(lost));
    assert_ne!(found, Content::Damaged);
}

#[test]
fn a_torn_write_in_the_middle_is_caught_even_where_the_last_may_be_torn() {
    let workload = two_disks();
    let torn = visible_write(&workload, 1, 2..64);
    let mut image = blank(&workload);
    (1..=WRITES).for_each(|n| apply(&workload, &mut image, n, |block| n != torn || block == 0));
    assert_eq!(mismatch(&workload, &image).0, Content::Write(torn));
    assert!(verdict(&workload, &image, LastWrite::MayBeTorn).is_err());
}

#[test]
fn one_disk_that_is_behind_the_other_is_caught() {
    let workload = two_disks();
    let last_on = |disk, end| (1..end).rev().find(|n| workload.write(*n).disk == disk).unwrap();
    let ahead = last_on(0, WRITES);
    let missing = last_on(1, ahead);
    let mut image = after(&workload, ahead);
    image[1] = after(&workload, missing - 1)[1].clone();
    assert_eq!(mismatch(&workload, &image).0, Content::Write(missing));
}

#[test]
fn a_flipped_bit_is_caught_wherever_it_is() {
    let workload = two_disks();
    let image = after(&workload, WRITES);
    for offset in [0, 16, 39, 40, 2047, 2048, 4095] {
        let mut image = image.clone();
        image[0][offset] ^= 0x10;
        assert_eq!(mismatch(&workload, &image).1, Content::Damaged, "byte {offset}");
    }
}

#[test]
fn data_of_another_seed_is_caught() {
    let workload = two_disks();
    let other = Workload::new(12, workload.disks().to_vec(), 32 << 10).unwrap();
    assert_eq!(mismatch(&workload, &after(&other, 1)).1, Content::Damaged);
}

#[test]
fn holes_are_not_read_and_count_as_progress() {
    let workload = Workload::new(3, vec![16 << 20, 8 << 20], 2 << 20).unwrap();
    let image = after(&workload, workload.install_writes());
    let disks: Vec<_> = image.into_iter().map(MemoryDisk::holding).collect();
    let disks: Vec<&dyn BlockDevice> = disks.iter().map(|disk| disk as _).collect();
    let told = Mutex::new(Vec::new());
    let checked = check(&workload, &disks, LastWrite::Whole, &|done, total| {
        told.lock().unwrap().push((done, total));
    })
    .unwrap();
    assert_eq!(checked.bytes_read, 4 << 20);
    assert_eq!(checked.last_write, workload.install_writes());
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted());
    assert_eq!(told.last(), Some(&(24 << 20, 24 << 20)));
}

#[test]
fn other_disks_than_the_workloads_are_refused() {
    let workload = two_disks();
    let mut image = blank(&workload);
    image[1].truncate(64 << 10);
    let wrong_size = verdict(&workload, &image, LastWrite::Whole);
    assert!(matches!(wrong_size, Err(CheckError::WrongSize { disk: 1, .. })));
    image.truncate(1);
    let wrong_count = verdict(&workload, &image, LastWrite::Whole);
    assert!(matches!(wrong_count, Err(CheckError::WrongCount { expected: 2, found: 1 })));
}

/// A device that answers about its data as it was told, the last answer first.
#[derive(Debug)]
struct Scripted(MemoryDisk, Mutex<Vec<Option<Range<u64>>>>);

impl BlockDevice for Scripted {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64, fua: bool) -> io::Result<()> {
        self.0.write_at(data, offset, fua)
    }

    fn zero(&self, range: Range<u64>, punch: bool, fua: bool) -> io::Result<()> {
        self.0.zero(range, punch, fua)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn next_data(&self, _: u64) -> io::Result<Option<Range<u64>>> {
        Ok(self.1.lock().unwrap().pop().unwrap())
    }
}

fn check_scripted(disk: Vec<u8>, answers: &[Option<Range<u64>>]) -> Result<Checked, CheckError> {
    let workload = Workload::new(3, vec![disk.len() as u64], 0).unwrap();
    let disk = Scripted(MemoryDisk::holding(disk), Mutex::new(answers.to_vec()));
    check(&workload, &[&disk], LastWrite::Whole, &|_, _| ())
}

#[test]
fn a_device_that_answers_nonsense_about_its_holes_ends_the_check() {
    for nonsense in [0..4096, 8192..8192, 0..65 << 10] {
        let answers = vec![Some(nonsense.clone()); 2];
        let verdict = check_scripted(vec![0; 64 << 10], &answers);
        assert!(matches!(verdict, Err(CheckError::Unreadable { .. })), "{nonsense:?}");
    }
}

#[test]
fn data_may_begin_and_end_in_the_middle_of_a_block() {
    let size = 64 << 10;
    let workload = Workload::new(3, vec![size], 0).unwrap();
    let image = after(&workload, 1).remove(0);
    let write = workload.write(1);
    let (start, end) = (write.offset(), write.offset() + write.bytes());
    assert!(start != 0 && end != size, "{write:?}");
    let checked = check_scripted(image, &[None, Some(start - 512..end + 512)]).unwrap();
    assert_eq!((checked.last_write, checked.bytes_read), (1, write.bytes() + 2 * 4096));
}

#[test]
fn what_is_left_of_a_disk_after_its_last_block_must_be_zero() {
    let workload = Workload::new(3, vec![(64 << 10) + 512], 0).unwrap();
    let mut image = after(&workload, 3);
    assert_eq!(verdict(&workload, &image, LastWrite::Whole).unwrap().last_write, 3);
    *image[0].last_mut().unwrap() = 1;
    assert_eq!(mismatch(&workload, &image), (Content::Untouched, Content::Damaged));
}
