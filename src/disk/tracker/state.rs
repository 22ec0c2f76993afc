//! What a tracker must know after a restart: one small file, `tracking.state`.
//!
//! In the tracker's [frame](super::frame), version 3; 2 is read too, which lacks what is not durable, and 1, which
//! also lacks the identities. The payload is [`State`] in bincode 2's standard encoding.
//!
//! Replaced as a whole.

use super::frame::{HEAD_BYTES, frame, unframe};
use super::{BootId, Broken, TrackError, names};
use crate::domain::id::DiskId;
use crate::ports::files::{FileIdentity, Files, Open};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const MAGIC: [u8; 8] = *b"lbtrack\0";
const VERSION: u32 = 3;

/// Far more than the disks of any VM need; bounds what is read into memory.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;

/// What `tracking.state` holds.
pub(super) type State = StateOf<TrackedState>;

impl State {
    /// Whether the machine has run on since, so that its page cache has what a flush has not made durable.
    pub(super) fn lives_on(&self, boot: BootId) -> bool {
        !self.clean && self.boot == boot
    }

    /// Says of some disks that a flush failed since tracking broke.
    pub(super) fn doubt(&mut self, of: impl Fn(&DiskId) -> bool) {
        for (_, known) in self.disks.iter_mut().filter(|(disk, _)| of(disk)) {
            if known.durable == Durable::Yes {
                known.durable = Durable::Doubtful;
            }
        }
    }
}

/// [`State`], with what is known of each disk as a `D`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StateOf<D> {
    /// The machine's run in which the tracker was open last.
    pub(super) boot: BootId,
    /// Whether it was closed: nothing was written since.
    pub(super) clean: bool,
    /// Counts chains of logs; never goes back, so that no identity is given twice.
    pub(super) chain: u64,
    /// What is done with writes.
    pub(super) tracking: Tracking,
    /// The last cut that was acknowledged, 0 if none in this chain.
    pub(super) acknowledged: u64,
    /// The disks that are tracked.
    pub(super) disks: BTreeMap<DiskId, D>,
}

/// One disk of [`State`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TrackedState {
    /// File stem of its logs.
    pub(super) name: String,
    /// Its size when tracking started.
    pub(super) size_bytes: u64,
    /// The last log that was acknowledged, which the chain goes on from; nil if none.
    pub(super) shipped: Uuid,
    /// Its file when this state was written; `None` where nobody can tell.
    pub(super) identity: Option<FileIdentity>,
    /// Whether the medium has what the disk shows.
    pub(super) durable: Durable,
}

/// Whether the medium has what a disk shows, apart from what was written since the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Durable {
    /// It has, or will have after the next flush; while tracking is on, together with the logs.
    Yes,
    /// A flush failed since tracking broke.
    Doubtful,
    /// The disk could not be made durable when tracking broke: it may lack what its logs hold.
    WithItsLogs,
}

/// What is done with writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Tracking {
    /// They go to the disks only.
    Off,
    /// They go to the logs, then to the disks.
    On,
    /// They go to the disks only, and the logs lack some.
    Broken(Broken),
}

/// `tracking.state` of one VM.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(super) fn new(folder: &Path) -> Self {
        Self { path: folder.join("tracking.state") }
    }

    /// The state, or `None` if there is none.
    pub(super) fn read(&self, files: &dyn Files) -> Result<Option<State>, TrackError> {
        let file = match files.open(&self.path, Open::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io(source)),
        };
        let len = file.len().map_err(|source| self.io(source))?;
        if PAYLOAD_BYTES_MAX < len {
            return Err(self.damaged());
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).map_err(|source| self.io(source))?;
        decode(&bytes).map(Some).ok_or_else(|| self.damaged())
    }

    /// Replaces the state; durable on return.
    pub(super) fn write(&self, files: &dyn Files, state: &State) -> Result<(), TrackError> {
        names::replace(files, &self.path, &encode(state)).map_err(|source| self.io(source))
    }

    /// Removes the state; durable on return. None is fine.
    pub(super) fn remove(&self, files: &dyn Files) -> Result<(), TrackError> {
        let folder = self.path.parent().unwrap_or(&self.path);
        names::remove(files, &self.path)
            .and_then(|()| files.sync_dir(folder))
            .map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> TrackError {
        TrackError::File { path: self.path.clone(), source }
    }

    fn damaged(&self) -> TrackError {
        TrackError::StateDamaged { path: self.path.clone() }
    }
}

/// One disk as version 1 knew it.
#[derive(Deserialize)]
struct TrackedStateV1 {
    name: String,
    size_bytes: u64,
    shipped: Uuid,
}

/// One disk as version 2 knew it.
#[derive(Deserialize)]
struct TrackedStateV2 {
    name: String,
    size_bytes: u64,
    shipped: Uuid,
    identity: Option<FileIdentity>,
}

impl From<TrackedStateV1> for TrackedState {
    fn from(TrackedStateV1 { name, size_bytes, shipped }: TrackedStateV1) -> Self {
        Self { name, size_bytes, shipped, identity: None, durable: Durable::Yes }
    }
}

impl From<TrackedStateV2> for TrackedState {
    fn from(old: TrackedStateV2) -> Self {
        let TrackedStateV2 { name, size_bytes, shipped, identity } = old;
        Self { name, size_bytes, shipped, identity, durable: Durable::Yes }
    }
}

impl<D: Into<TrackedState>> StateOf<D> {
    fn upgraded(self) -> State {
        let Self { boot, clean, chain, tracking, acknowledged, disks } = self;
        let disks = disks.into_iter().map(|(id, disk)| (id, disk.into())).collect();
        State { boot, clean, chain, tracking, acknowledged, disks }
    }
}

fn encode(state: &State) -> Vec<u8> {
    let payload = bincode::serde::encode_to_vec(state, bincode::config::standard())
        .expect("plain data always encodes");
    frame(MAGIC, VERSION, &payload)
}

fn decode(bytes: &[u8]) -> Option<State> {
    let (version, payload) = unframe(MAGIC, bytes)?;
    if payload.len() + HEAD_BYTES != bytes.len() {
        return None;
    }
    match version {
        1 => whole::<StateOf<TrackedStateV1>>(payload).map(StateOf::upgraded),
        2 => whole::<StateOf<TrackedStateV2>>(payload).map(StateOf::upgraded),
        VERSION => whole(payload),
        _ => None,
    }
}

/// Decodes all of `payload`.
fn whole<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    let config = bincode::config::standard().with_limit::<{ PAYLOAD_BYTES_MAX as usize }>();
    let (value, read) = bincode::serde::decode_from_slice(payload, config).ok()?;
    (read == payload.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let identity = Some(FileIdentity { inode: 7, bytes: 4096, modified_ns: -1 });
        let (name, shipped) = ("sda".to_owned(), Uuid::nil());
        let disk = TrackedState {
            name,
            size_bytes: 4096,
            shipped,
            identity,
            durable: Durable::WithItsLogs,
        };
        State {
            boot: BootId(Uuid::from_u128(7)),
            clean: false,
            chain: 3,
            tracking: Tracking::Broken(Broken::PowerLoss),
            acknowledged: 9,
            disks: BTreeMap::from([(DiskId(Uuid::from_u128(1)), disk)]),
        }
    }

    #[test]
    fn a_state_reads_back() {
        assert_eq!(decode(&encode(&state())), Some(state()));
    }

    #[test]
    fn states_of_earlier_versions_are_read() {
        // Written by the programs that had those versions.
        let version_1 = "6c62747261636b000100000040000000a64b4210100000000000000000000000000000000700\
             0302030901100000000000000000000000000000000103736461fb0010100000000000000000\
             0000000000000000";
        let version_2 = "6c62747261636b0002000000460000001ab541691000000000000000000000000000000007000\
             302030901100000000000000000000000000000000103736461fb001010000000000000000000\
             000000000000000107fb001001";
        let mut expected = state();
        expected.disks.values_mut().for_each(|disk| disk.durable = Durable::Yes);
        assert_eq!(decode(&bytes(version_2)), Some(expected.clone()));
        expected.disks.values_mut().for_each(|disk| disk.identity = None);
        assert_eq!(decode(&bytes(version_1)), Some(expected));
    }

    fn bytes(text: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&text[2 * at..][..2], 16).expect("hexadecimal");
        (0..text.len() / 2).map(byte).collect()
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_seen() {
        let whole = encode(&state());
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length]), None, "cut at {length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
    }
}
