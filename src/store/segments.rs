//! What sled 0.34.7 will find when it recovers its file, worked out before it is let near it.
//!
//! sled's recovery starts from its page table file (`snap.<lsn>`) and reads the segments written since.
//! A bad frame in them is the end of the log to sled: what follows is cut off and overwritten with
//! zeroes. So after an unclean shutdown the same walk is done here first, on the unchanged file, and
//! sled opens it only if every acknowledged record is within its reach.
//!
//! The layout is that of sled 0.34.7, the version the crate is pinned to: `pagecache/logger.rs`
//! (`SegmentHeader`, `read_message`), `pagecache/iterator.rs`, `serialization.rs`.

use super::record::{self, Record, field};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a segment, as the store configures sled.
pub(crate) const SEGMENT_BYTES: usize = 4 << 20;

const SEGMENT_HEADER_BYTES: usize = 20;
/// No message starts within this many bytes of a segment's end (`MAX_MSG_HEADER_LEN`).
const RED_ZONE_BYTES: usize = 32;
/// sled stores both numbers of a segment header mixed with this.
const LSN_MASK: i64 = i64::MAX;

const KIND_CORRUPTED: u8 = 0;
const KIND_CAP: u8 = 2;
const KIND_LAST: u8 = 11;

/// The page table file that sled starts from: the highest log sequence number it covers, or 0.
pub(crate) fn covered_lsn(log: &Path) -> io::Result<i64> {
    let mut highest = 0;
    for entry in log.read_dir()? {
        let name = entry?.file_name();
        let lsn = name.to_str().and_then(|name| name.strip_prefix("snap."));
        if let Some(lsn) = lsn.and_then(|hex| i64::from_str_radix(hex, 16).ok()) {
            highest = highest.max(lsn);
        }
    }
    Ok(highest)
}

/// Removes page table files that sled was writing when it died: it would take a torn one for the
/// newest and refuse to open (spacejam/sled#1527).
pub(crate) fn remove_unfinished_page_tables(log: &Path) -> io::Result<()> {
    for entry in log.read_dir()? {
        let entry = entry?;
        let unfinished = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating"));
        if unfinished {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Calls `seen` with every record that sled will find in the segments from `covered_lsn` on.
pub(crate) fn reachable(
    db: &Path,
    covered_lsn: i64,
    mut seen: impl FnMut(Record<'_>),
) -> io::Result<()> {
    let file = File::open(db)?;
    let mut segment = vec![0; SEGMENT_BYTES];
    for base in (0..file.metadata()?.len()).step_by(SEGMENT_BYTES) {
        let header_bytes = read_up_to(&file, &mut segment[..SEGMENT_HEADER_BYTES], base)?;
        let Some(lsn) = segment_lsn(&segment[..header_bytes]) else { continue };
        if lsn < covered_lsn / SEGMENT_BYTES as i64 * SEGMENT_BYTES as i64 {
            continue;
        }
        let bytes = read_up_to(&file, &mut segment, base)?;
        for body in messages(&segment[..bytes], lsn) {
            record::carve(body).for_each(&mut seen);
        }
    }
    Ok(())
}

/// The sequence number of a segment with a sound header.
fn segment_lsn(segment: &[u8]) -> Option<i64> {
    let header = segment.first_chunk::<SEGMENT_HEADER_BYTES>()?;
    let sound = u32::from_le_bytes(field(header, 0)) == !crc32fast::hash(&header[4..]);
    sound.then(|| i64::from_le_bytes(field(header, 4)) ^ LSN_MASK)
}

/// The bodies of a segment's messages, up to the first one that sled would stop at.
fn messages(segment: &[u8], lsn: i64) -> impl Iterator<Item = &[u8]> {
    let number = lsn as u64 / SEGMENT_BYTES as u64;
    let mut at = SEGMENT_HEADER_BYTES;
    std::iter::from_fn(move || {
        if SEGMENT_BYTES - RED_ZONE_BYTES < at {
            return None;
        }
        let (body, len) = message(segment.get(at..)?, number)?;
        at += len;
        Some(body)
    })
}

/// The message at the start of `bytes` and its length, if sled would go on after it.
fn message(bytes: &[u8], segment_number: u64) -> Option<(&[u8], usize)> {
    let kind = *bytes.get(4)?;
    if kind == KIND_CORRUPTED || kind == KIND_CAP || KIND_LAST < kind {
        return None;
    }
    let mut rest = &bytes[5..];
    let body_bytes = usize::try_from(varint(&mut rest)?).ok()?;
    let number = varint(&mut rest)?;
    varint(&mut rest)?;
    let header = &bytes[..bytes.len() - rest.len()];
    let body = rest.get(..body_bytes)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    hasher.update(&header[4..]);
    let sound = !hasher.finalize() == u32::from_le_bytes(field(header, 0));
    (sound && number == segment_number).then_some((body, header.len() + body_bytes))
}

/// sled's variable-length integer.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    let len = match first {
        0..=240 => 0,
        241..=248 => 1,
        249 => 2,
        250..=255 => usize::from(first) - 247,
    };
    let tail = rest.get(..len)?;
    *bytes = &rest[len..];
    Some(match first {
        0..=240 => u64::from(first),
        241..=248 => 240 + 256 * (u64::from(first) - 241) + u64::from(tail[0]),
        249 => 2288 + 256 * u64::from(tail[0]) + u64::from(tail[1]),
        250..=255 => {
            let mut number = [0; 8];
            number[..len].copy_from_slice(tail);
            u64::from_le_bytes(number)
        }
    })
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
