//! What a replication log leaves on the disk: for each range, the write that it was written by last.
//!
//! A log has as many writes as a guest made since the last cut, which after a long outage are more than
//! fit into memory. They are therefore merged a part of the disk at a time, in ascending order: as much of
//! it as has no more than [`EXTENTS_MAX`] extents, in one pass over the log's metadata each.

use crate::disk::hrl::{LogError, LogReader, LoggedWrite};
use crate::replica::extent_map::ExtentMap;

/// Extents in memory at a time: some 100 bytes each, so 13 MiB.
pub(super) const EXTENTS_MAX: usize = 1 << 17;

/// The parts of a disk that a log speaks of.
pub(super) struct LastWrites<'a> {
    log: &'a LogReader,
    extents_max: usize,
    /// Where the next part begins; `None` after the last.
    next: Option<u64>,
}

impl<'a> LastWrites<'a> {
    pub(super) fn of(log: &'a LogReader, extents_max: usize) -> Self {
        Self { log, extents_max, next: Some(0) }
    }

    /// The next part of the disk. The data of the log is verified with the first.
    pub(super) fn next(&mut self) -> Result<Option<ExtentMap<LoggedWrite>>, LogError> {
        let Some(start) = self.next.take() else { return Ok(None) };
        let entries = if start == 0 { self.log.entries() } else { self.log.entries_without_data() };
        let mut part = ExtentMap::new();
        let mut end = u64::MAX;
        for write in entries {
            let write = write?;
            let range = write.range();
            let range = range.start.max(start)..range.end.min(end);
            if range.start < range.end {
                part.insert(range, write);
            }
            if self.extents_max < part.len()
                && let Some(middle) = part.halve()
            {
                end = middle;
                self.next = Some(middle);
            }
        }
        Ok(Some(part))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
mod tests {
    use super::*;
    use crate::disk::files::MemoryFiles;
    use crate::disk::hrl::{Header, HeaderTrust, LogTime, LogWriter, Tail};
    use std::path::Path;
    use uuid::Uuid;

    const SECTORS: usize = 200;

    #[test]
    fn parts_hold_no_more_than_they_may_and_together_all_that_a_log_leaves() {
        let files = MemoryFiles::new(1);
        let (path, nil) = (Path::new("/log"), Uuid::nil());
        let tail = Tail::create(&*files, Path::new("/tail")).unwrap();
        let header = Header::open(Uuid::from_u128(1), nil, nil, LogTime(0));
        let mut writer = LogWriter::create(&*files, path, tail, header).unwrap();
        let mut expected = [None; SECTORS];
        for nth in 0..400 {
            let (at, count) = (nth * 37 % SECTORS, 1 + nth % 5);
            let count = count.min(SECTORS - at);
            let data = vec![nth as u8; count * 512];
            writer.append(&data, at as u64 * 512, LogTime(0)).unwrap();
            expected[at..at + count].fill(Some(nth as u8));
        }
        writer.close(LogTime(0)).unwrap();
        let log = LogReader::open(&*files, path, HeaderTrust::Verified).unwrap();
        for (extents_max, parts_min) in [(1, 40), (7, 6), (1000, 1)] {
            let mut writes = LastWrites::of(&log, extents_max);
            let (mut found, mut parts, mut end) = ([None; SECTORS], 0, 0);
            while let Some(part) = writes.next().unwrap() {
                parts += 1;
                assert!(part.len() <= extents_max.max(2), "{} extents", part.len());
                for extent in part.iter() {
                    assert!(end <= extent.range.start, "they come in order");
                    end = extent.range.end;
                    let mut data = vec![0; (extent.range.end - extent.range.start) as usize];
                    let from = (extent.range.start - extent.value.offset) as u32;
                    log.read_data(extent.value, from, &mut data).unwrap();
                    for (nth, sector) in data.chunks(512).enumerate() {
                        found[extent.range.start as usize / 512 + nth] = Some(sector[0]);
                    }
                }
            }
            assert_eq!(found, expected);
            assert!(parts_min <= parts, "{parts} parts of {extents_max}");
        }
    }
}
