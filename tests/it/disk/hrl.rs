//! Logs: what is appended is read back in order, and damage is never data.

use super::content;
use lifeboat::disk::files::MemoryFiles;
use lifeboat::disk::hrl::{
    Damage, Header, HeaderTrust, LogError, LogReader, LogTime, LogWriter, Tail, recover_after_kill,
    recover_after_power_loss,
};
use lifeboat::disk::raw::RawDisk;
use lifeboat::ports::files::{Files, Open};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

const LOG: &str = "/a.hrl";
const TAIL: &str = "/a.hrl.tail";
const DISK_BYTES: usize = 64 * 1024;
const AT: LogTime = LogTime(820_454_400);

#[derive(Clone, Debug)]
enum Write {
    Data { offset: u64, data: Vec<u8> },
    Zero { offset: u64, length: u64 },
}

fn writes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Write>> {
    let place = (0..DISK_BYTES as u64 / 512, 1..17_u64).prop_map(|(sector, length)| {
        (sector * 512, (length * 512).min(DISK_BYTES as u64 - sector * 512))
    });
    let write = (place, any::<u8>(), any::<bool>()).prop_map(|((offset, length), value, zero)| {
        if zero && value < 64 {
            Write::Zero { offset, length }
        } else {
            let mut data = vec![value; length as usize];
            data[..4].copy_from_slice(&(offset as u32).to_le_bytes());
            Write::Data { offset, data }
        }
    });
    prop::collection::vec(write, count)
}

fn create(files: &MemoryFiles) -> LogWriter {
    let tail = Tail::create(files, Path::new(TAIL)).unwrap();
    let header = Header::open(Uuid::from_u128(5), Uuid::nil(), Uuid::from_u128(6), AT);
    LogWriter::create(files, Path::new(LOG), tail, header).unwrap()
}

fn append(writer: &mut LogWriter, write: &Write) {
    match write {
        Write::Data { offset, data } => writer.append(data, *offset, AT).unwrap(),
        Write::Zero { offset, length } => {
            writer.append_zeroes(*offset..offset + length, AT).unwrap();
        }
    }
}

fn append_all(writer: &mut LogWriter, writes: &[Write]) {
    for write in writes {
        append(writer, write);
    }
}

/// What a disk of zeroes holds after each number of writes.
fn states(writes: &[Write]) -> Vec<Vec<u8>> {
    let mut states = vec![vec![0; DISK_BYTES]];
    for write in writes {
        let mut next = states[states.len() - 1].clone();
        apply(write, &mut next);
        states.push(next);
    }
    states
}

fn last_state(writes: &[Write]) -> Vec<u8> {
    let mut state = vec![0; DISK_BYTES];
    for write in writes {
        apply(write, &mut state);
    }
    state
}

fn apply(write: &Write, state: &mut [u8]) {
    match write {
        Write::Data { offset, data } => {
            state[*offset as usize..][..data.len()].copy_from_slice(data);
        }
        Write::Zero { offset, length } => state[*offset as usize..][..*length as usize].fill(0),
    }
}

fn replay(log: &LogReader) -> Result<Vec<u8>, LogError> {
    let files = MemoryFiles::new(0);
    let disk = RawDisk::create(&*files, Path::new("/copy"), DISK_BYTES as u64).unwrap();
    log.apply_to(&disk)?;
    Ok(content(&disk))
}

fn open(files: &dyn Files) -> Result<LogReader, LogError> {
    LogReader::open(files, Path::new(LOG), HeaderTrust::Verified)
}

fn recover(files: &dyn Files) -> Result<(LogWriter, LogReader), LogError> {
    recover_after_kill(files, Path::new(LOG), Tail::open(files, Path::new(TAIL))?)
}

fn bytes_of(files: &dyn Files, path: &str) -> Vec<u8> {
    let file = files.open(Path::new(path), Open::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn with_file(path: &str, bytes: &[u8]) -> Arc<MemoryFiles> {
    let files = MemoryFiles::new(0);
    add_file(&files, path, bytes);
    files
}

fn add_file(files: &MemoryFiles, path: &str, bytes: &[u8]) {
    files.open(Path::new(path), Open::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_closed_log_replays_to_what_was_written(
        writes in writes(0..300),
        seals in prop::collection::btree_set(0_usize..300, 0..4),
    ) {
        let files = MemoryFiles::new(1);
        let mut writer = create(&files);
        for (index, write) in writes.iter().enumerate() {
            append(&mut writer, write);
            if seals.contains(&index) {
                writer.seal_for_flush().unwrap();
            }
        }
        writer.close(AT).unwrap();
        let log = open(&*files).unwrap();
        prop_assert_eq!(log.total_entries(), writes.len() as u64);
        prop_assert_eq!(log.end(), writer.end());
        prop_assert_eq!(log.header().unique_id, Uuid::from_u128(5));
        for (logged, write) in log.entries().zip(&writes) {
            let logged = logged.unwrap();
            let (offset, data) = match write {
                Write::Data { offset, data } => (*offset, data.clone()),
                Write::Zero { offset, length } => {
                    prop_assert!(logged.zero);
                    (*offset, vec![0; *length as usize])
                }
            };
            let mut read = vec![1; data.len()];
            log.read_data(&logged, 0, &mut read).unwrap();
            prop_assert_eq!((logged.offset, &read), (offset, &data));
            prop_assert_eq!(logged.at, AT.into());
        }
        prop_assert_eq!(&replay(&log).unwrap(), &last_state(&writes));
        let header = &bytes_of(&*files, LOG)[..4096];
        prop_assert!(header[126..].iter().all(|byte| *byte == 0), "seal records are gone");
    }

    #[test]
    fn a_killed_writer_loses_nothing_and_can_go_on(
        first in writes(0..200),
        second in writes(0..200),
        flush: bool,
    ) {
        let files = MemoryFiles::new(1);
        let mut writer = create(&files);
        append_all(&mut writer, &first);
        if flush {
            writer.seal_for_flush().unwrap();
        }
        let (mut writer, log) = recover(&*files).unwrap();
        prop_assert_eq!(&replay(&log).unwrap(), &last_state(&first));
        append_all(&mut writer, &second);
        let (_, log) = recover(&*files).unwrap();
        let all: Vec<Write> = first.into_iter().chain(second).collect();
        prop_assert_eq!(&replay(&log).unwrap(), &last_state(&all));
        let (mut writer, _) = recover(&*files).unwrap();
        writer.close(AT).unwrap();
        prop_assert_eq!(&replay(&open(&*files).unwrap()).unwrap(), &last_state(&all));
    }

    #[test]
    fn a_power_loss_takes_only_what_was_not_flushed(
        seed: u64,
        writes in writes(1..200),
        flushed in 0_usize..200,
        cut: bool,
    ) {
        let files = MemoryFiles::new(seed);
        let mut writer = create(&files);
        files.sync_dir(Path::new("/")).unwrap();
        let mut flushed_entries = 0;
        for (index, write) in writes.iter().enumerate() {
            if index % 40 == 39 || index == flushed {
                writer.seal_for_flush().unwrap();
                writer.file().sync_data().unwrap();
                flushed_entries = index as u64;
            }
            append(&mut writer, write);
        }
        if cut {
            writer.seal_for_cut().unwrap();
        } else {
            writer.seal_for_flush().unwrap();
        }
        files.lose_power();
        let log = recover_after_power_loss(&*files, Path::new(LOG)).unwrap();
        prop_assert!(flushed_entries <= log.total_entries());
        let states = states(&writes);
        prop_assert_eq!(&replay(&log).unwrap(), &states[log.total_entries() as usize]);
    }
}

/// A log at its cut, and the one that follows it in the same tail.
fn cut_and_next(files: &MemoryFiles) -> (LogWriter, LogWriter) {
    let mut writer = create(files);
    for sector in 0..3 {
        writer.append(&[1; 512], sector * 512, AT).unwrap();
    }
    writer.seal_for_cut().unwrap();
    let header = Header::open(Uuid::from_u128(9 << 100), Uuid::nil(), Uuid::nil(), AT);
    let tail = Tail::open(files, Path::new(TAIL)).unwrap();
    let next = LogWriter::create(files, Path::new("/b.hrl"), tail, header).unwrap();
    (writer, next)
}

#[test]
fn a_kill_in_a_cut_finds_the_end_of_a_log_whose_tail_the_next_one_uses() {
    let files = MemoryFiles::new(1);
    let (_, mut next) = cut_and_next(&files);
    for sector in 0..5 {
        next.append(&[2; 512], sector * 512, AT).unwrap();
    }
    let (mut writer, log) = recover(&*files).unwrap();
    assert_eq!(log.total_entries(), 3);
    writer.close(AT).unwrap();
    assert_eq!(open(&*files).unwrap().total_entries(), 3);
    let tail = Tail::open(&*files, Path::new(TAIL)).unwrap();
    let (_, log) = recover_after_kill(&*files, Path::new("/b.hrl"), tail).unwrap();
    assert_eq!(log.total_entries(), 5);
}

/// A small closed log, and the states of its disk after each write.
fn small_log() -> (Vec<u8>, Vec<Vec<u8>>) {
    let files = MemoryFiles::new(1);
    let writes: Vec<Write> = (0..4)
        .map(|nth: u64| Write::Data { offset: nth * 256, data: vec![nth as u8 + 1; 512] })
        .collect();
    let mut writer = create(&files);
    append(&mut writer, &writes[0]);
    writer.seal().unwrap();
    append_all(&mut writer, &writes[1..]);
    writer.close(AT).unwrap();
    (bytes_of(&*files, LOG), states(&writes))
}

#[test]
fn a_closed_log_that_is_cut_short_anywhere_is_an_error() {
    let (whole, _) = small_log();
    for length in 0..whole.len() {
        let error = open(&*with_file(LOG, &whole[..length])).unwrap_err();
        assert!(matches!(error, LogError::Damaged { .. }), "cut at {length}: {error}");
        assert!(error.to_string().contains("/a.hrl"), "{error}");
    }
}

#[test]
fn a_flipped_bit_of_a_closed_log_is_an_error_or_changes_nothing() {
    let (whole, states) = small_log();
    let mut unseen = 0;
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        let Ok(mut log) = open(&*with_file(LOG, &flipped)) else { continue };
        if log.verify().is_err() {
            continue;
        }
        unseen += 1;
        assert_eq!(replay(&log).unwrap(), states[states.len() - 1], "byte {at}");
    }
    // Reserved bytes of the header, and the unused entries of three blocks.
    assert!(unseen < 4096 + 3 * 4096, "{unseen}");
}

#[test]
fn damage_to_an_open_log_or_its_tail_is_an_error_or_a_prefix() {
    let files = MemoryFiles::new(1);
    let writes: Vec<Write> = (0..5)
        .map(|nth: u64| Write::Data { offset: nth * 512, data: vec![nth as u8 + 1; 1024] })
        .collect();
    let mut writer = create(&files);
    append(&mut writer, &writes[0]);
    writer.seal_for_flush().unwrap();
    append_all(&mut writer, &writes[1..]);
    let (log, tail) = (bytes_of(&*files, LOG), bytes_of(&*files, TAIL));
    let states = states(&writes);
    let check = |log: &[u8], tail: &[u8], what: &str, at: usize| {
        let files = with_file(LOG, log);
        add_file(&files, TAIL, tail);
        let Ok((_, mut recovered)) = recover(&*files) else { return };
        if recovered.verify().is_ok() {
            let entries = recovered.total_entries() as usize;
            assert!(1 <= entries, "{what} {at}: a flushed write is lost");
            assert_eq!(replay(&recovered).unwrap(), states[entries], "{what} {at}");
        }
    };
    for length in (0..log.len()).step_by(7) {
        check(&log[..length], &tail, "log cut at", length);
    }
    for length in 0..512 {
        check(&log, &tail[..length], "tail cut at", length);
    }
    for at in 0..log.len() {
        let mut flipped = log.clone();
        flipped[at] ^= 1 << (at % 8);
        check(&flipped, &tail, "log byte", at);
    }
    for at in 0..512 {
        let mut flipped = tail.clone();
        flipped[at] ^= 1 << (at % 8);
        check(&log, &flipped, "tail byte", at);
    }
}

#[test]
fn a_lost_tail_is_noticed_where_a_flush_promised_more() {
    let files = MemoryFiles::new(1);
    let mut writer = create(&files);
    writer.append(&[1; 512], 0, AT).unwrap();
    writer.seal_for_flush().unwrap();
    files.remove(Path::new(TAIL)).unwrap();
    let tail = Tail::create(&*files, Path::new(TAIL)).unwrap();
    let error = recover_after_kill(&*files, Path::new(LOG), tail).unwrap_err();
    assert!(matches!(error, LogError::Damaged { damage: Damage::TailIncomplete, .. }), "{error}");
}

#[test]
fn a_foreign_header_with_a_wrong_checksum_is_read_only_on_request() {
    let (mut foreign, states) = small_log();
    foreign[40] ^= 1;
    let files = with_file(LOG, &foreign);
    let error = open(&*files).unwrap_err();
    assert!(matches!(error, LogError::Damaged { damage: Damage::HeaderChecksum, .. }), "{error}");
    let log = LogReader::open(&*files, Path::new(LOG), HeaderTrust::Foreign).unwrap();
    assert_eq!(replay(&log).unwrap(), states[states.len() - 1]);
}

#[test]
fn a_log_that_was_not_closed_is_not_read_as_one() {
    let files = MemoryFiles::new(1);
    create(&files).append(&[1; 512], 0, AT).unwrap();
    let error = open(&*files).unwrap_err();
    assert!(
        matches!(error, LogError::Damaged { damage: Damage::NotClosed, at: 44, .. }),
        "{error}"
    );
}

#[test]
fn a_long_trim_takes_entries_but_no_room() {
    let files = MemoryFiles::new(1);
    let mut writer = create(&files);
    writer.append_zeroes(512..1 << 30, AT).unwrap();
    assert!(writer.end() > 1 << 30);
    assert!(writer.allocated_bytes() < 1 << 16, "{}", writer.allocated_bytes());
    let (mut writer, _) = recover(&*files).unwrap();
    writer.close(AT).unwrap();
    let log = open(&*files).unwrap();
    assert_eq!(log.total_entries(), 1024);
    assert!(log.allocated_bytes().unwrap() < 1 << 16);
    let first = log.entries().next().unwrap().unwrap();
    assert!(first.zero && first.offset == 512 && first.length == 1 << 20);
}
