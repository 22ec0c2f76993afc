//! States kept beside a log, so that any moment of a long one is found again at once.
//!
//! The first reading of a log leaves a file every hundred thousand commits; later ones go on from the last that is
//! before the moment they look for. Each file proves itself and names the commit that it belongs to, and one
//! that does not hold is as good as none: the log is read from further back. They can be deleted at any
//! time, and are written without being synced: a torn one is passed over.
//!
//! | at | bytes | what |
//! |---:|------:|------|
//! |  0 |     4 | magic `LBP1` |
//! |  4 |     4 | CRC32 of all that follows |
//! |  8 |     4 | CRC32 of the schemas of the states of every kind, 2 bytes each |
//! | 12 |     4 | bytes of the states before compression |
//! | 16 |     … | the states in bincode, compressed by zstd |
//!
//! Integers are little-endian. An exported log has such states within it. The name of a file is the position and the latest time of a commit so far.

use super::history::{Place, Recorded};
use super::past::{Moment, Past};
use super::verify::snapshot_schema;
use crate::domain::entity::{Commit, Kind};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Commits between two files: as many as are read in a tenth of a second.
const EVERY: u64 = 100_000;

const MAGIC: [u8; 4] = *b"LBP1";
const HEADER_BYTES: usize = 16;
const ENDING: &str = "past";

/// The largest states that are kept: those of some thousand VMs with all their recovery points.
const STATES_BYTES_MAX: usize = 256 << 20;

/// A folder of kept states.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

/// A kept state, and the commit that it comes after.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) past: Past,
    pub(super) place: Place,
    crc: u32,
}

impl Checkpoint {
    fn of(past: &Past, commit: &Commit, place: Place) -> Self {
        Self { past: past.clone(), place, crc: checksum(commit) }
    }

    /// What was kept after a commit; `None` if it is damaged, or of states that this build does not have.
    pub(super) fn read(bytes: &[u8], after: u64) -> Option<Self> {
        decode(bytes).filter(|kept| kept.past.position == after)
    }

    /// Whether this is the commit that it comes after.
    pub(super) fn is_after(&self, commit: &Commit) -> bool {
        commit.global == self.past.position && checksum(commit) == self.crc
    }
}

impl Checkpoints {
    /// Keeps states in this folder, which need not be there.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// Keeps the states of a service's log, whose data lie in this folder.
    pub fn of_data(data: &Path) -> Self {
        Self::in_folder(&data.join("replay"))
    }

    /// The file with where the commits of a service's log lie.
    pub(super) fn places(&self) -> PathBuf {
        self.folder.join("places")
    }

    /// The kept states at or before a moment, the last first.
    pub(super) fn before(&self, moment: Moment) -> impl Iterator<Item = Checkpoint> {
        let mut names = self.names();
        names.retain(|(position, latest_ms)| moment.is_at_or_after(*position, *latest_ms));
        names.sort_unstable();
        names.into_iter().rev().filter_map(|(position, latest_ms)| {
            let bytes = fs::read(self.path(position, latest_ms)).ok()?;
            Checkpoint::read(&bytes, position)
        })
    }

    /// Keeps a state, if it is one that is to be kept, and is not there yet; whether it was.
    pub(super) fn keep(&self, past: &Past, recorded: &Recorded) -> bool {
        let path = self.path(past.position, past.latest.as_millis());
        if !is_kept(past) || path.exists() {
            return false;
        }
        let written = self.write(&path, &Checkpoint::of(past, &recorded.commit, recorded.place));
        if let Err(error) = &written {
            tracing::warn!(path = %path.display(), %error, "keep the states of a moment");
        }
        written.is_ok()
    }

    fn write(&self, path: &Path, kept: &Checkpoint) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, encode(kept)?)?;
        fs::rename(&unfinished, path)
    }

    fn names(&self) -> Vec<(u64, i64)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.path()).filter_map(|path| {
            let ending = path.extension()?.to_str()?;
            let (position, latest_ms) = path.file_stem()?.to_str()?.split_once('-')?;
            (ending == ENDING).then_some((position.parse().ok()?, latest_ms.parse().ok()?))
        });
        names.collect()
    }

    fn path(&self, position: u64, latest_ms: i64) -> PathBuf {
        self.folder.join(format!("{position:020}-{latest_ms}.{ENDING}"))
    }
}

/// Follows the commits of a log that is exported, and gives the states for it to have with it.
#[derive(Debug, Default)]
pub struct StatesOfExport {
    past: Past,
}

impl StatesOfExport {
    /// Folds the next commit, whose line begins behind these lines and bytes, in; the state after it if
    /// that is one to keep.
    pub fn after(&mut self, commit: &Commit, (line, offset): (u64, u64)) -> Option<Vec<u8>> {
        self.past.apply(commit);
        let kept = is_kept(&self.past)
            .then(|| encode(&Checkpoint::of(&self.past, commit, Place { line, offset })))?;
        kept.inspect_err(|error| tracing::warn!(%error, "export the states of a moment")).ok()
    }
}

fn is_kept(past: &Past) -> bool {
    past.position.is_multiple_of(EVERY) && past.damage.is_empty()
}

fn checksum(commit: &Commit) -> u32 {
    crc32fast::hash(&serde_json::to_vec(commit).expect("a commit always has a JSON form"))
}

fn schemas() -> [u8; 4] {
    let all: Vec<u8> =
        Kind::ALL.iter().flat_map(|kind| snapshot_schema(*kind).to_le_bytes()).collect();
    crc32fast::hash(&all).to_le_bytes()
}

fn encode(kept: &Checkpoint) -> io::Result<Vec<u8>> {
    let states = bincode::serde::encode_to_vec(kept, bincode::config::standard())
        .map_err(io::Error::other)?;
    if STATES_BYTES_MAX < states.len() {
        return Err(io::Error::other(format!("{} bytes are too many", states.len())));
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&schemas());
    bytes.extend_from_slice(&(states.len() as u32).to_le_bytes());
    bytes.extend(zstd::bulk::compress(&states, 1)?);
    let crc = crc32fast::hash(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Option<Checkpoint> {
    let (header, compressed) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let crc = u32::from_le_bytes(*header[4..].first_chunk()?);
    if header[..4] != MAGIC || crc32fast::hash(&bytes[8..]) != crc || header[8..12] != schemas() {
        return None;
    }
    let length = u32::from_le_bytes(*header[12..].first_chunk()?) as usize;
    if STATES_BYTES_MAX < length {
        return None;
    }
    let states = zstd::bulk::decompress(compressed, length).ok()?;
    let config = bincode::config::standard().with_limit::<{ STATES_BYTES_MAX }>();
    let (kept, _) = bincode::serde::decode_from_slice(&states, config).ok()?;
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_state_is_read_back_and_a_damaged_one_is_not() {
        let past = Past { position: EVERY, ..Past::default() };
        let kept = Checkpoint { past: past.clone(), place: Place { line: 3, offset: 99 }, crc: 7 };
        let bytes = encode(&kept).expect("it is small");
        assert_eq!(decode(&bytes).expect("it is sound").past, past);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_none(), "byte {at}");
            assert!(decode(&bytes[..at]).is_none());
        }
    }
}
