//! What sled 0.34.7 will find when it recovers its file, worked out before it is let near it.
//!
//! sled's recovery starts from its page table file (`snap.<lsn>`) and reads the segments written since.
//! A bad frame in them is the end of the log to sled: what follows is cut off and overwritten with
//! zeroes. So the same walk is done here first, on the unchanged file, and sled opens it only if every
//! acknowledged record is within its reach. The walk begins with the segment in which the page table
//! ends, and there sled cuts off even what the page table covers.
//!
//! The layout is that of sled 0.34.7, the version the crate is pinned to: `pagecache/logger.rs`
//! (`SegmentHeader`, `read_message`), `pagecache/iterator.rs`, `serialization.rs`.

use super::record::{self, RECORD_BYTES_MAX, Record, field};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a segment, as the store configures sled.
pub(crate) const SEGMENT_BYTES: usize = 4 << 20;

/// Sequence numbers count bytes, those of segment headers and gaps included.
const SEGMENT_LSNS: i64 = SEGMENT_BYTES as i64;

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

/// What the walk through the segments came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// Sled reads on at least to where its page table ends.
    Sound,
    /// In the segment in which the page table ends, sled stops before it.
    StopsAt {
        /// Position in the file.
        offset: u64,
    },
    /// The segment in which the page table ends, and the log with it, is not there.
    SegmentMissing,
}

/// Calls `seen` with every record that sled can find in the segments from `from_lsn` on. Its newest
/// page table ends at `covered_lsn`, there or later.
pub(crate) fn walk(
    db: &Path,
    from_lsn: i64,
    covered_lsn: i64,
    mut seen: impl FnMut(Record<'_>),
) -> io::Result<Walk> {
    let file = File::open(db)?;
    let covered_bytes = covered_lsn % SEGMENT_LSNS;
    let covered_base = covered_lsn - covered_bytes;
    let first_lsn = from_lsn - from_lsn % SEGMENT_LSNS;
    let segments = segments_from(&file, first_lsn)?;
    // From the segment in which the highest sequence number known to be stable lies, sled takes the
    // first bad frame, or missing segment, for the end; before, it only gives up the rest of a segment.
    let stable_lsn = segments.values().map(|segment| segment.stable_lsn).max().unwrap_or(0);
    let mut expected_in_tail = stable_lsn.max(covered_base) / SEGMENT_LSNS * SEGMENT_LSNS;
    // Once there are later segments, it may have been given up and used again.
    let must_be_there = covered_bytes != 0 && segments.range(covered_base + 1..).next().is_none();
    let mut walk = if must_be_there { Walk::SegmentMissing } else { Walk::Sound };
    let mut bytes = vec![0; SEGMENT_BYTES];
    for (lsn, Segment { base, .. }) in segments {
        let in_tail = expected_in_tail <= lsn;
        if in_tail && lsn != expected_in_tail {
            break;
        }
        let read = read_up_to(&file, &mut bytes, base)?;
        let mut messages = Messages::of(&bytes[..read], lsn);
        for body in messages.by_ref() {
            record::carve(body).for_each(&mut seen);
        }
        if lsn == covered_base && covered_bytes != 0 {
            let reached = covered_bytes <= messages.at as i64;
            let offset = base + messages.at as u64;
            walk = if reached { Walk::Sound } else { Walk::StopsAt { offset } };
        }
        if in_tail && messages.end == Some(End::Bad) {
            break;
        }
        expected_in_tail += if in_tail { SEGMENT_LSNS } else { 0 };
    }
    Ok(walk)
}

/// Calls `seen` with every sound record in sled's file, reachable for sled or not, current or stale;
/// some twice. A file that is not there has none.
pub(crate) fn carve_file(db: &Path, mut seen: impl FnMut(Record<'_>)) -> io::Result<()> {
    carve_file_places(db, |_, record| seen(record))
}

/// The same, each record with where it lies in the file.
pub(crate) fn carve_file_places(
    db: &Path,
    mut seen: impl FnMut(u64, Record<'_>),
) -> io::Result<()> {
    let file = match File::open(db) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut window = Vec::new();
    for base in (0..file.metadata()?.len()).step_by(SEGMENT_BYTES) {
        carve_segment(&file, base, &mut window, &mut seen)?;
    }
    Ok(())
}

/// Calls `seen` with every sound record that begins in the segment at `base`, with where it lies in the
/// file. `window` is room that is used again for the next one.
pub(crate) fn carve_segment(
    file: &File,
    base: u64,
    window: &mut Vec<u8>,
    mut seen: impl FnMut(u64, Record<'_>),
) -> io::Result<()> {
    // Windows overlap, so that each record lies in one of them as a whole.
    window.resize(SEGMENT_BYTES + RECORD_BYTES_MAX, 0);
    let read = read_up_to(file, window, base)?;
    record::carve_places(&window[..read])
        .take_while(|(at, _)| *at < SEGMENT_BYTES)
        .for_each(|(at, record)| seen(base + at as u64, record));
    Ok(())
}

/// A stretch of sled's file that one segment takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Where it starts in the file.
    pub(crate) base: u64,
    /// The sequence number of the segment there, if it is complete: as long as it is there, nothing in
    /// it changes.
    pub(crate) settled: Option<i64>,
}

/// The stretches of sled's file, those with the oldest segments first: of a record that lies in several,
/// the last is the one that sled keeps.
pub(crate) fn stretches(file: &File) -> io::Result<Vec<Stretch>> {
    let sound = segments_from(file, 0)?;
    let stable_lsn = sound.values().map(|segment| segment.stable_lsn).max().unwrap_or(0);
    let lsns: BTreeMap<u64, i64> = sound.iter().map(|(lsn, it)| (it.base, *lsn)).collect();
    let bases = (0..file.metadata()?.len()).step_by(SEGMENT_BYTES);
    let mut found: Vec<(Option<i64>, Stretch)> = bases
        .map(|base| {
            let lsn = lsns.get(&base).copied();
            let settled = lsn.filter(|lsn| lsn + SEGMENT_LSNS <= stable_lsn);
            (lsn, Stretch { base, settled })
        })
        .collect();
    found.sort_by_key(|(lsn, _)| *lsn);
    Ok(found.into_iter().map(|(_, stretch)| stretch).collect())
}

/// A segment with a sound header.
struct Segment {
    /// Where it starts in the file.
    base: u64,
    /// Up to which sequence number everything was stable when it was begun.
    stable_lsn: i64,
}

/// The segments with sound headers from `first_lsn` on, by their sequence numbers.
fn segments_from(file: &File, first_lsn: i64) -> io::Result<BTreeMap<i64, Segment>> {
    let mut segments = BTreeMap::new();
    for base in (0..file.metadata()?.len()).step_by(SEGMENT_BYTES) {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        let read = read_up_to(file, &mut header, base)?;
        let sound = u32::from_le_bytes(field(&header, 0)) == !crc32fast::hash(&header[4..]);
        let [lsn, stable_lsn] = [4, 12].map(|at| i64::from_le_bytes(field(&header, at)) ^ LSN_MASK);
        if read == header.len() && sound && first_lsn <= lsn {
            segments.insert(lsn, Segment { base, stable_lsn });
        }
    }
    Ok(segments)
}

/// Why a segment's messages end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is full.
    Full,
    /// What follows is no message, or a damaged one.
    Bad,
}

/// The bodies of a segment's messages.
struct Messages<'a> {
    segment: &'a [u8],
    number: u64,
    /// Where the next one starts.
    at: usize,
    end: Option<End>,
}

impl<'a> Messages<'a> {
    fn of(segment: &'a [u8], lsn: i64) -> Self {
        let number = lsn as u64 / SEGMENT_BYTES as u64;
        Self { segment, number, at: SEGMENT_HEADER_BYTES, end: None }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if SEGMENT_BYTES - RED_ZONE_BYTES < self.at {
            self.end = Some(End::Full);
            return None;
        }
        match self.segment.get(self.at..).and_then(|rest| message(rest, self.number)) {
            Some((KIND_CAP, ..)) => {
                self.end = Some(End::Full);
                None
            }
            Some((_, body, len)) => {
                self.at += len;
                Some(body)
            }
            None => {
                self.end = Some(End::Bad);
                None
            }
        }
    }
}

/// Kind, body and length of the message at the start of `bytes`, if it is sound.
fn message(bytes: &[u8], segment_number: u64) -> Option<(u8, &[u8], usize)> {
    let kind = *bytes.get(4)?;
    if kind == KIND_CORRUPTED || KIND_LAST < kind {
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
    (sound && number == segment_number).then_some((kind, body, header.len() + body_bytes))
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

pub(crate) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
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
