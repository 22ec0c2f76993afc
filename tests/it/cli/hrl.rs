//! `lifeboat hrl`: logs in the public format are shown, verified, and applied as a whole or not at all.

use super::{done, lifeboat, text};
use lifeboat::disk::files::RealFiles;
use lifeboat::disk::hrl::format::{
    BLOCK_BYTES, BlockHeader, Entry, HEADER_BYTES, Header, checksum,
};
use lifeboat::disk::hrl::{EMPTY_LOG_BYTES, LogTime, LogWriter, Tail};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use uuid::{Uuid, uuid};

/// The lengths, offsets and times that the specification's sample prints ([MS-HRL] 3).
const PRINTED: [(u32, u64, u32); 10] = [
    (4096, 3_626_340_352, 539_842_382),
    (4096, 3_626_344_448, 539_842_382),
    (8192, 3_626_348_544, 539_842_382),
    (4096, 3_628_871_680, 539_842_382),
    (4096, 10_188_185_600, 539_842_382),
    (31_232, 3_673_764_352, 539_842_382),
    (512, 139_058_688, 539_842_382),
    (512, 139_058_688, 539_842_381),
    (1024, 135_266_304, 539_842_382),
    (4096, 8_026_886_144, 539_842_381),
];

/// The rest of its 58 entries: only the sum of all lengths, 320,000, is printed.
const OTHERS: [(u32, usize); 2] = [(5120, 47), (17_408, 1)];

fn header(id: Uuid, previous: Uuid) -> Header {
    Header {
        created: LogTime(539_842_380),
        last_modified: LogTime(539_842_384),
        ..Header::open(id, previous, uuid!("b9be5c57-f8be-5503-98bb-6c44faf9ac87"), LogTime(0))
    }
}

/// A closed log with the writes in one block, as another product lays it out.
fn log(mut header: Header, writes: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES as usize];
    let block = |distance, entries: &[(Entry, Vec<u8>)]| {
        let head = BlockHeader { distance, entries: entries.len() as u32 };
        let mut block = head.encode().to_vec();
        block.extend(entries.iter().flat_map(|(entry, _)| entry.encode()));
        block.resize(BLOCK_BYTES as usize, 0);
        block
    };
    bytes.extend(block(0, &[]));
    bytes.extend(writes.iter().flat_map(|(_, data)| data));
    let distance = bytes.len() as u64 - HEADER_BYTES;
    bytes.extend(block(distance, writes));
    header.end_of_log = bytes.len() as u64;
    header.current_size = bytes.len() as u64;
    header.total_entries = writes.len() as u64;
    bytes[..HEADER_BYTES as usize].copy_from_slice(&header.encode());
    bytes
}

fn write(offset: u64, data: Vec<u8>) -> (Entry, Vec<u8>) {
    let (length, at) = (data.len() as u32, LogTime(539_842_382));
    (Entry { offset, length, at, data_checksum: checksum(&data) }, data)
}

/// The sample: what is printed of it, with the header checksum that does not reproduce.
fn sample() -> Vec<u8> {
    let filler = OTHERS.iter().flat_map(|(length, count)| vec![(*length, 0, 539_842_382); *count]);
    let writes: Vec<_> = PRINTED
        .into_iter()
        .chain(filler)
        .map(|(length, offset, at)| {
            let entry = Entry { offset, length, at: LogTime(at), data_checksum: 0 };
            (entry, vec![7; length as usize])
        })
        .collect();
    let id = uuid!("572fc7ff-1f03-49ab-b3c5-30a665b8e20c");
    let mut bytes = log(header(id, uuid!("a8ae4b46-f7ad-4402-87aa-5b33e9f89c77")), &writes);
    assert_eq!(bytes.len(), 332_288, "the length that is printed");
    bytes[40..44].copy_from_slice(&4_294_959_739_u32.to_le_bytes());
    bytes
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

const ID: Uuid = Uuid::from_u128(11);
const NEXT_ID: Uuid = Uuid::from_u128(12);
const DISK: usize = 16 * 1024;

fn first() -> Vec<u8> {
    log(header(ID, Uuid::nil()), &[write(0, vec![1; 4096]), write(2048, vec![2; 4096])])
}

fn second() -> Vec<u8> {
    log(header(NEXT_ID, ID), &[write(512, vec![3; 512]), write(8192, vec![0; 1024])])
}

#[test]
fn the_sample_of_the_specification_is_shown_and_verified_on_request() {
    let files = Files::new();
    let file = files.put("sample.hrl", &sample());
    let shown = done(&["hrl", "inspect", &file]);
    for part in [
        "572fc7ff-1f03-49ab-b3c5-30a665b8e20c",
        "a8ae4b46-f7ad-4402-87aa-5b33e9f89c77",
        "b9be5c57-f8be-5503-98bb-6c44faf9ac87",
        "2017-02-08T04:13:00.000Z",
        "DOES NOT HOLD",
        "332288",
        "328192",
        "320000",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&done(&["hrl", "inspect", &file, "-o", "json"])).unwrap();
    assert_eq!(json["version"], "2.0");
    assert_eq!(json["total_entries"], 58);
    assert_eq!(json["header_checksum_holds"], false);
    assert_eq!(json["blocks"][0]["at"], 4096);
    assert_eq!(json["blocks"][1]["entries"], 58);
    assert_eq!(json["blocks"][1]["data_bytes"], 320_000);
    assert_eq!(json["blocks"][1]["disk_end"], 10_188_189_696_u64);

    let output = lifeboat(&["hrl", "verify", &file]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(
        said.contains("sample.hrl") && said.contains("checksum does not hold at byte 0"),
        "{said}"
    );
    assert!(done(&["hrl", "verify", &file, "--foreign"]).contains("58 writes"));
}

#[test]
fn a_header_of_version_1_is_read() {
    let files = Files::new();
    let header = Header { version: 0x0001_0000, ..header(ID, Uuid::nil()) };
    let file = files.put("old.hrl", &log(header, &[write(0, vec![1; 512])]));
    assert!(done(&["hrl", "verify", &file]).contains("1 writes"));
    assert!(done(&["hrl", "inspect", &file]).contains("version             1.0"));
}

#[test]
fn what_does_not_hold_is_named_with_file_and_offset() {
    let files = Files::new();
    let whole = first();
    let last_block = whole.len() as u64 - BLOCK_BYTES;
    let cases: [(&str, usize, String); 5] = [
        ("cookie", 0, "byte 0".to_owned()),
        ("data", 8192 + 5000, "the data's checksum does not hold at byte 12288".to_owned()),
        ("block", last_block as usize, format!("byte {last_block}")),
        ("entry", last_block as usize + 40, format!("byte {}", last_block + 32)),
        ("total", 96, "byte 0".to_owned()),
    ];
    for (name, at, said) in cases {
        let mut harmed = whole.clone();
        harmed[at] ^= 1;
        let file = files.put(&format!("{name}.hrl"), &harmed);
        let output = lifeboat(&["hrl", "verify", &file]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let out = text(&output.stdout);
        assert!(out.contains(&format!("{name}.hrl")) && out.contains(&said), "{name}: {out}");
    }
    for length in [0, 100, 4096, 9000, whole.len() - 1] {
        let file = files.put("short.hrl", &whole[..length]);
        assert_eq!(lifeboat(&["hrl", "verify", &file]).status.code(), Some(1), "{length}");
    }
    let missing = files.0.path().join("missing.hrl");
    assert_eq!(lifeboat(&["hrl", "verify", missing.to_str().unwrap()]).status.code(), Some(2));
}

#[test]
fn logs_are_applied_in_order() {
    let files = Files::new();
    let (a, b) = (files.put("a.hrl", &first()), files.put("b.hrl", &second()));
    let image = files.put("disk.img", &[9; DISK]);
    assert!(done(&["hrl", "apply", &a, &b, "--to", &image]).contains("4 writes of 2 logs"));
    let mut expected = vec![9; DISK];
    expected[..4096].fill(1);
    expected[2048..2048 + 4096].fill(2);
    expected[512..1024].fill(3);
    expected[8192..9216].fill(0);
    assert!(fs::read(&image).unwrap() == expected);
}

#[test]
fn a_log_without_a_data_write_guid_follows_any() {
    let files = Files::new();
    let previous = files.put("first.hrl", &first());
    let nil = Header { data_write_guid: Uuid::nil(), ..header(NEXT_ID, ID) };
    for (name, header) in
        [("old", Header { version: 0x0001_0000, ..header(NEXT_ID, ID) }), ("nil", nil)]
    {
        let next = files.put(&format!("{name}.hrl"), &log(header, &[write(0, vec![5; 512])]));
        let image = files.put("disk.img", &[9; DISK]);
        done(&["hrl", "apply", &previous, &next, "--to", &image]);
        assert_eq!(fs::read(&image).unwrap()[..512], [5; 512], "{name}");
    }
}

#[test]
fn nothing_is_applied_where_one_log_is_bad() {
    let files = Files::new();
    let good = files.put("good.hrl", &first());
    let mut harmed = second();
    harmed[8192] ^= 1;
    let mut unknown = second();
    unknown[40] ^= 1;
    let beyond = log(header(NEXT_ID, ID), &[write(DISK as u64 - 512, vec![1; 1024])]);
    let other_chain = log(header(NEXT_ID, NEXT_ID), &[write(0, vec![1; 512])]);
    let other_content = Header { data_write_guid: NEXT_ID, ..header(NEXT_ID, ID) };
    let other_content = log(other_content, &[write(0, vec![1; 512])]);
    for (name, bytes, said) in [
        ("harmed", harmed, "data's checksum does not hold at byte 8192"),
        ("beyond", beyond, "beyond its 16384 bytes"),
        ("chain", other_chain, "does not continue its chain at byte 76"),
        ("content", other_content, "data write GUID 00000000-0000-0000-0000-00000000000c"),
        ("header", unknown, "header's checksum does not hold at byte 0"),
    ] {
        let bad = files.put(&format!("{name}.hrl"), &bytes);
        let image = files.put("disk.img", &[9; DISK]);
        let output = lifeboat(&["hrl", "apply", &good, &bad, "--to", &image]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        let error = text(&output.stderr);
        assert!(error.contains(&format!("{name}.hrl")) && error.contains(said), "{name}: {error}");
        assert!(fs::read(&image).unwrap() == [9; DISK], "{name} was applied in part");
    }
    // The order of the files is the order of the chain.
    let image = files.put("disk.img", &[9; DISK]);
    let next = files.put("next.hrl", &second());
    assert_eq!(lifeboat(&["hrl", "apply", &next, &good, "--to", &image]).status.code(), Some(2));
    assert!(fs::read(&image).unwrap() == [9; DISK]);
    let missing = Path::new(&image).with_extension("none");
    let to = missing.to_str().unwrap();
    assert_eq!(lifeboat(&["hrl", "apply", &good, "--to", to]).status.code(), Some(2));
    assert!(!missing.exists());
}

#[test]
fn a_log_that_was_not_closed_is_read_by_a_search_with_a_warning() {
    let files = Files::new();
    let mut bytes = first();
    let mut open = Header::decode(bytes[..4096].try_into().unwrap()).unwrap().0;
    (open.end_of_log, open.total_entries) = (0, 0);
    bytes[..4096].copy_from_slice(&open.encode());
    // Data after the last block, which nobody sealed; and data that looks like a block of another place.
    let forged = BlockHeader { distance: 4096, entries: 0 }.encode();
    bytes.extend([5; 1536]);
    bytes.extend(forged);
    bytes.extend([0; 5000]);
    let file = files.put("open.hrl", &bytes);
    for command in ["verify", "inspect"] {
        let output = lifeboat(&["hrl", command, &file]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("was not closed"), "{}", text(&output.stderr));
    }
    assert!(done(&["hrl", "verify", &file]).contains("2 writes"));
    assert!(done(&["hrl", "inspect", &file]).contains("(not closed)"));
    let image = files.put("disk.img", &[9; DISK]);
    done(&["hrl", "apply", &file, "--to", &image]);
    assert_eq!(fs::read(&image).unwrap()[..2048], [1; 2048]);
    assert_eq!(fs::read(&image).unwrap()[2048..6144], [2; 4096]);
}

/// A log of ours that was not closed, with its tail: one write that was sealed, one that was flushed
/// after it, and two that are in the tail alone.
struct Unclosed {
    files: Files,
    log: Vec<u8>,
    tail: Vec<u8>,
}

impl Unclosed {
    fn new() -> Self {
        let files = Files::new();
        let path = files.0.path().join("ours.hrl");
        let beside = files.0.path().join("ours.hrl.tail");
        let tail = Tail::create(&RealFiles, &beside).unwrap();
        let header = header(ID, Uuid::nil());
        let mut writer = LogWriter::create(&RealFiles, &path, tail, header).unwrap();
        let at = LogTime(539_842_382);
        writer.append(&[1; 512], 0, at).unwrap();
        writer.seal().unwrap();
        writer.append(&[2; 512], 512, at).unwrap();
        writer.seal_for_flush().unwrap();
        writer.append(&[3; 512], 1024, at).unwrap();
        writer.append(&[4; 512], 1536, at).unwrap();
        let (log, tail) = (fs::read(&path).unwrap(), fs::read(&beside).unwrap());
        fs::remove_file(&path).unwrap();
        fs::remove_file(&beside).unwrap();
        Self { files, log, tail }
    }

    /// Where the flushed block is: after the empty log, a write, its block, and another write.
    const FLUSHED: usize = EMPTY_LOG_BYTES as usize + 512 + BLOCK_BYTES as usize + 512;

    /// Verifies such bytes under a name of their own; exit code, and both outputs.
    fn verify(&self, name: &str, log: &[u8], tail: Option<&[u8]>) -> (i32, String) {
        let file = self.files.put(&format!("{name}.hrl"), log);
        if let Some(tail) = tail {
            self.files.put(&format!("{name}.hrl.tail"), tail);
        }
        let output = lifeboat(&["hrl", "verify", &file]);
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        (output.status.code().unwrap(), said)
    }
}

#[test]
fn a_log_of_ours_that_was_not_closed_is_read_as_far_as_it_is_known() {
    let ours = Unclosed::new();
    let (code, said) = ours.verify("alone", &ours.log, None);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("2 writes") && said.contains("no tail beside it"), "{said}");
    let (code, said) = ours.verify("whole", &ours.log, Some(&ours.tail));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("4 writes") && said.contains("last write that was ack"), "{said}");
    let file = ours.files.0.path().join("whole.hrl");
    let shown = done(&["hrl", "inspect", file.to_str().unwrap(), "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["blocks"][3]["entries"], 2, "{shown}");
    assert_eq!(shown["damage"], serde_json::Value::Null);
    let image = ours.files.put("disk.img", &[9; DISK]);
    let applied = done(&["hrl", "apply", file.to_str().unwrap(), "--to", &image]);
    assert!(applied.contains("4 writes"), "{applied}");
    let expected: Vec<u8> = (1..=4).flat_map(|value| [value; 512]).collect();
    assert_eq!(fs::read(&image).unwrap()[..2048], expected);
    assert!(fs::read(&file).unwrap() == ours.log, "the log is only read");
    let tail = fs::read(file.with_extension("hrl.tail")).unwrap();
    assert!(tail == ours.tail, "the tail is only read");
}

#[test]
fn a_log_of_ours_that_was_not_closed_and_lacks_what_was_flushed_is_damaged() {
    let ours = Unclosed::new();
    let cut = |length: usize| ours.log[..length].to_vec();
    let flipped = |at: usize| {
        let mut log = ours.log.clone();
        log[at] ^= 1;
        log
    };
    let block = Unclosed::FLUSHED;
    for (name, log, check) in [
        ("cut", cut(8704), format!("the file ends early at byte {block}")),
        ("short", cut(block + 4095), format!("the file ends early at byte {block}")),
        ("block", flipped(block + 1), format!("block's checksum does not hold at byte {block}")),
        ("entry", flipped(block + 40), format!("checksum does not hold at byte {}", block + 32)),
        ("data", flipped(block - 1), format!("checksum does not hold at byte {}", block - 512)),
    ] {
        for tail in [None, Some(&ours.tail[..])] {
            let (code, said) = ours.verify(name, &log, tail);
            assert_eq!(code, 1, "{name}: {said}");
            assert!(said.contains("damaged: ") && said.contains(name), "{name}: {said}");
            // Where the data of the tail is gone too, that is met first.
            let expected = check.as_str();
            assert!(tail.is_some() || said.contains(expected), "{name}: {said}");
        }
    }
    // What only the tail knows must be there as well.
    let (code, said) = ours.verify("last", &cut(ours.log.len() - 512), Some(&ours.tail));
    assert_eq!(code, 1, "{said}");
    let (code, said) = ours.verify("stale", &ours.log, Some(&vec![0; ours.tail.len()]));
    assert_eq!((code, said.contains("tail beside the log lacks writes")), (1, true), "{said}");
    let (code, said) = ours.verify("brief", &ours.log, Some(&ours.tail[..100]));
    assert_eq!((code, said.contains("hrl.tail: the file ends early")), (1, true), "{said}");
}
