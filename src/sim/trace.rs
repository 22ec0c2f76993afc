//! Recorded writes of a VM: a text file, a line for each write.
//!
//! ```text
//! # when, from the beginning   disk, from 0   offset   length
//! 250ms                        0              64KiB    4KiB
//! 1m30s                        1              8192     512
//! ```
//!
//! Lines are in the order of their times. Offsets and lengths are bytes, or have a unit; each write is widened to
//! whole blocks of 4 KiB, the unit in which what a disk holds is proven. Empty lines, and what follows a `#`, are
//! left out.

use super::beside::text_of;
use super::quantity::{Size, Span};
use super::scenario::ScenarioError;
use crate::drivers::lab::{BLOCK_BYTES, Write};
use std::path::Path;

/// The longest write that is recorded.
const WRITE_BYTES_MAX: u64 = 4 << 20;

/// The longest trace: it is held in memory.
const WRITES_MAX: usize = 1_000_000;

/// Recorded writes, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Trace {
    /// When each was made, in milliseconds from the beginning.
    pub(super) at_ms: Vec<u64>,
    pub(super) writes: Vec<Write>,
}

impl Trace {
    /// Reads a trace of a VM with disks of these sizes.
    ///
    /// # Errors
    /// [`ScenarioError`] with the file and the line that cannot be used.
    pub(super) fn read(path: &Path, disks: &[Size]) -> Result<Self, ScenarioError> {
        let text = text_of(path)
            .map_err(|source| ScenarioError::TraceUnreadable { path: path.to_owned(), source })?;
        Self::parse(&text, disks).map_err(|(line, problem)| ScenarioError::TraceUnusable {
            path: path.to_owned(),
            line,
            problem,
        })
    }

    /// Reads the text of a trace.
    ///
    /// # Errors
    /// The number of the line that cannot be used, from 1, and why.
    fn parse(text: &str, disks: &[Size]) -> Result<Self, (usize, String)> {
        let mut trace = Self { at_ms: Vec::new(), writes: Vec::new() };
        for (line, number) in text.lines().zip(1..) {
            let fields: Vec<_> =
                line.split('#').next().unwrap_or_default().split_whitespace().collect();
            if fields.is_empty() {
                continue;
            }
            let (at_ms, write) = entry(&fields, disks).map_err(|problem| (number, problem))?;
            if trace.at_ms.last().is_some_and(|last| at_ms < *last) {
                return Err((number, "it was made before the one above it".to_owned()));
            }
            if trace.writes.len() == WRITES_MAX {
                return Err((number, format!("there are more than {WRITES_MAX} writes")));
            }
            trace.at_ms.push(at_ms);
            trace.writes.push(write);
        }
        if trace.writes.is_empty() {
            return Err((1, "there is no write in it".to_owned()));
        }
        Ok(trace)
    }
}

fn entry(fields: &[&str], disks: &[Size]) -> Result<(u64, Write), String> {
    let &[at, disk, offset, length] = fields else {
        return Err(format!("it has {} fields: time, disk, offset, length", fields.len()));
    };
    let at = Span::try_from(at.to_owned())?;
    let size = disk.parse().ok().and_then(|nth: usize| Some((nth, disks.get(nth)?)));
    let (disk, size) = size.ok_or_else(|| format!("the VM has no disk {disk:?}"))?;
    let (offset, length) = (bytes(offset)?, bytes(length)?);
    if length == 0 || WRITE_BYTES_MAX < length {
        return Err(format!("a write has 1 to {WRITE_BYTES_MAX} bytes, not {length}"));
    }
    let end = offset.checked_add(length).filter(|end| *end <= size.0);
    let end = end.ok_or_else(|| format!("it ends behind the disk, which has {} bytes", size.0))?;
    let block = BLOCK_BYTES as u64;
    let first_block = offset / block;
    let blocks = (end.div_ceil(block) - first_block) as u32;
    Ok((at.0, Write { disk, first_block, blocks }))
}

fn bytes(text: &str) -> Result<u64, String> {
    text.parse().or_else(|_| Size::try_from(text.to_owned()).map(|size| size.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISKS: [Size; 2] = [Size(1 << 20), Size(64 << 10)];

    #[test]
    fn a_trace_is_read_and_its_writes_are_widened_to_blocks() {
        let text =
            "# recorded\n\n250ms 0 64KiB 4KiB\n1m30s 1 8192 512 # the log\n1m30s 0 4000 200\n";
        let trace = Trace::parse(text, &DISKS).expect("it is a trace");
        assert_eq!(trace.at_ms, [250, 90_000, 90_000]);
        let write = |disk, first_block, blocks| Write { disk, first_block, blocks };
        assert_eq!(trace.writes, [write(0, 16, 1), write(1, 2, 1), write(0, 0, 2)]);
    }

    #[test]
    fn what_cannot_be_used_names_its_line() {
        for (text, line, problem) in [
            ("", 1, "no write"),
            ("1s 0 0", 1, "3 fields"),
            ("\n1s 2 0 4KiB", 2, "no disk \"2\""),
            ("1s 1 60KiB 8KiB", 1, "behind the disk"),
            ("1s 0 0 0", 1, "1 to 4194304 bytes"),
            ("soon 0 0 4KiB", 1, "soon"),
            ("2s 0 0 4KiB\n1s 0 0 4KiB", 2, "before"),
        ] {
            let (found, because) = Trace::parse(text, &DISKS).expect_err("it is none");
            assert_eq!(found, line, "{text:?}: {because}");
            assert!(because.contains(problem), "{text:?}: {because}");
        }
    }
}
