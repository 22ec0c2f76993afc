//! States behind the commits of an exported log, so that a reader of a long one need not begin with its
//! first commit.
//!
//! Behind the last commit come lines `{"crc":"…","state":{"after":…,"bytes":"…"}}`, and a last one,
//! `{"crc":"…","states":[{"after":…,"latest_ms":…,"offset":…},…]}`, says where in the file each of them
//! begins. `crc` is the CRC32 of the JSON that follows it. What the bytes mean is up to who exports; they
//! say nothing that the commits do not, and a log without them is as good.

use super::jsonl::{checked, json, write_checked};
use crate::domain::time::Timestamp;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

/// Bytes of all states of a file, as they are in memory while it is written.
const BYTES_MAX: usize = 64 << 20;

/// States of a file.
const STATES_MAX: usize = 1_000;

/// Bytes of the longest line with a state: it has all that a file may have, in Base64.
pub(super) const LINE_BYTES_MAX: u64 = (BYTES_MAX as u64).div_ceil(3) * 4 + 100;

/// Bytes of the longest last line: a state takes fewer than 100 there.
const INDEX_BYTES_MAX: u64 = STATES_MAX as u64 * 100 + 100;

/// Where a state lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateAt {
    /// The position of the commit that it comes after.
    pub after: u64,
    /// The latest time of a commit up to it.
    pub latest_ms: i64,
    /// Where its line begins.
    offset: u64,
}

#[derive(Serialize, Deserialize)]
struct State {
    after: u64,
    bytes: String,
}

/// The states of a file that is being written. If they become too many or too large, every second one of
/// them is given up, as is every second one of those that follow.
pub(super) struct Attached {
    states: Vec<(StateAt, Vec<u8>)>,
    bytes: usize,
    offered: usize,
    stride: usize,
    latest_ms: i64,
}

impl Attached {
    pub(super) fn new() -> Self {
        Self { states: Vec::new(), bytes: 0, offered: 0, stride: 1, latest_ms: i64::MIN }
    }

    /// Notes that a commit of this position and time was written, and the state after it if there is one.
    pub(super) fn after(&mut self, position: u64, at: Timestamp, state: Option<Vec<u8>>) {
        self.latest_ms = self.latest_ms.max(at.as_millis());
        let Some(state) = state else { return };
        self.offered += 1;
        if self.offered.is_multiple_of(self.stride) {
            let at = StateAt { after: position, latest_ms: self.latest_ms, offset: 0 };
            self.bytes += state.len();
            self.states.push((at, state));
        }
        while BYTES_MAX < self.bytes || STATES_MAX < self.states.len() {
            self.thin_out();
        }
    }

    fn thin_out(&mut self) {
        let mut nth = 0_usize;
        self.states.retain(|_| {
            nth += 1;
            nth.is_multiple_of(2)
        });
        self.stride *= 2;
        self.bytes = self.states.iter().map(|(_, state)| state.len()).sum();
    }

    /// Writes their lines, of which the first begins at `offset`.
    pub(super) fn write(self, mut offset: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut index = Vec::with_capacity(self.states.len());
        for (at, bytes) in self.states {
            index.push(StateAt { offset, ..at });
            let state = State { after: at.after, bytes: BASE64_STANDARD.encode(bytes) };
            offset += write_checked(out, "state", &json(&state))?;
        }
        if !index.is_empty() {
            write_checked(out, "states", &json(&index))?;
        }
        Ok(())
    }
}

/// Whether a line, or the beginning of one, is behind the commits.
pub(super) fn is_behind_commits(line: &[u8]) -> bool {
    line.starts_with(br#"{"crc":""#)
        && line.get(16..).is_some_and(|it| it.starts_with(br#"","state"#))
}

/// Where the states of a file lie, in its order; nothing if its last line does not say so.
pub(super) fn index(file: &mut (impl Read + Seek)) -> io::Result<Vec<StateAt>> {
    let bytes = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(INDEX_BYTES_MAX)))?;
    let mut end = Vec::new();
    file.take(INDEX_BYTES_MAX).read_to_end(&mut end)?;
    let last = end.strip_suffix(b"\n").unwrap_or_default();
    let last = last.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(parsed(last, "states").unwrap_or_default())
}

/// The state that lies there; `None` if it does not.
pub(super) fn state(file: &mut (impl BufRead + Seek), at: StateAt) -> io::Result<Option<Vec<u8>>> {
    file.seek(SeekFrom::Start(at.offset))?;
    let mut line = Vec::new();
    file.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    let state = parsed::<State>(&line, "state").filter(|state| state.after == at.after);
    Ok(state.and_then(|state| BASE64_STANDARD.decode(state.bytes).ok()))
}

/// Whether a line behind the commits is what was written.
pub(super) fn is_sound(line: &str) -> bool {
    checked(line, "state").or_else(|| checked(line, "states")).is_some()
}

fn parsed<T: DeserializeOwned>(line: &[u8], key: &str) -> Option<T> {
    let (_, json) = checked(str::from_utf8(line).ok()?, key)?;
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn written(states: impl Iterator<Item = (u64, Vec<u8>)>) -> Vec<u8> {
        let mut attached = Attached::new();
        for (after, state) in states {
            attached.after(after, Timestamp::from_millis(7), Some(state));
        }
        let mut file = b"commits\n".to_vec();
        attached.write(8, &mut file).expect("written");
        file
    }

    #[test]
    fn states_are_found_again_by_the_last_line() {
        let file = written((1..=3).map(|nth| (nth * 10, vec![nth as u8; 100])));
        let mut file = Cursor::new(file);
        let index = index(&mut file).expect("read");
        assert_eq!(index.iter().map(|at| at.after).collect::<Vec<_>>(), [10, 20, 30]);
        let second = state(&mut file, index[1]).expect("read");
        assert_eq!(second, Some(vec![2; 100]));
        let text = String::from_utf8(file.into_inner()).expect("text");
        assert!(
            text.lines().skip(1).all(|line| is_sound(line) && is_behind_commits(line.as_bytes()))
        );
        assert!(!is_behind_commits(br#"{"crc":"00000000","commit":{}}"#));
    }

    #[test]
    fn what_is_damaged_is_as_good_as_not_there() {
        let whole = written((1..=2).map(|nth| (nth, vec![nth as u8; 10])));
        for at in 8..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            let mut damaged = Cursor::new(damaged);
            for at in index(&mut damaged).expect("read") {
                let state = state(&mut damaged, at).expect("read");
                assert!(state.is_none_or(|state| state == vec![at.after as u8; 10]));
            }
            let mut cut = Cursor::new(&whole[..at]);
            assert_eq!(index(&mut cut).expect("read"), []);
        }
    }

    #[test]
    fn too_many_are_thinned_out_evenly() {
        let file = written((1..=5 * STATES_MAX as u64).map(|nth| (nth, vec![7])));
        let index = index(&mut Cursor::new(file)).expect("read");
        assert!((STATES_MAX / 2..=STATES_MAX).contains(&index.len()), "{}", index.len());
        let steps: Vec<_> = index.windows(2).map(|two| two[1].after - two[0].after).collect();
        assert!(steps.iter().all(|step| *step == 8), "{steps:?}");
        assert_eq!(index[0].after, 8);
    }

    #[test]
    fn too_large_ones_are_left_out() {
        let file = written((1..=3).map(|nth| (nth, vec![0; BYTES_MAX / 2])));
        let index = index(&mut Cursor::new(file)).expect("read");
        assert_eq!(index.iter().map(|at| at.after).collect::<Vec<_>>(), [2]);
    }
}
