//! State snapshots as bytes: split into parts that fit a value, each proven by a checksum that covers
//! its key. A snapshot with a part missing or damaged does not exist; its stream is replayed.
//!
//! A part: magic `LBS1` (4), CRC32 of key and rest (4), schema (2), number of parts (1), bytes.

use super::record::{StreamKey, field};
use super::sled_tree::StateKey;

const MAGIC: [u8; 4] = *b"LBS1";
const HEADER_BYTES: usize = 11;

/// Bytes of a state snapshot in one part.
const PART_BYTES: usize = 32 << 10;

/// The largest state snapshot.
pub const STATE_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(STATE_BYTES_MAX / PART_BYTES <= u8::MAX as usize);

/// A state snapshot, as the byte level knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    /// Whose.
    pub stream: StreamKey,
    /// The sequence number of the last record in it.
    pub seq: u64,
    /// Version of the state's shape.
    pub schema: u16,
    /// The state.
    pub state: Vec<u8>,
}

impl StateRecord {
    /// The parts under their keys.
    pub(crate) fn parts(&self) -> Vec<(StateKey, Vec<u8>)> {
        let count = self.state.len().div_ceil(PART_BYTES).max(1);
        let count = u8::try_from(count).expect("a state snapshot is below its size limit");
        (0..count)
            .map(|part| {
                let start = usize::from(part) * PART_BYTES;
                let end = self.state.len().min(start + PART_BYTES);
                let key = StateKey { stream: self.stream, seq: self.seq, part };
                (key, self.part(key, count, &self.state[start..end]))
            })
            .collect()
    }

    fn part(&self, key: StateKey, count: u8, bytes: &[u8]) -> Vec<u8> {
        let mut part = MAGIC.to_vec();
        part.extend_from_slice(&[0; 4]);
        part.extend_from_slice(&self.schema.to_le_bytes());
        part.push(count);
        part.extend_from_slice(bytes);
        let crc = checksum(&key, &part);
        part[4..8].copy_from_slice(&crc.to_le_bytes());
        part
    }

    /// The snapshot of these parts, if they are all there, in order and sound. Parts beyond their
    /// number are left over from an earlier one at the same place.
    pub(crate) fn from_parts<B: AsRef<[u8]>>(
        parts: impl Iterator<Item = (StateKey, B)>,
    ) -> Option<Self> {
        let mut whole: Option<(Self, u8)> = None;
        for (at, (key, part)) in parts.enumerate() {
            let part = part.as_ref();
            if whole.as_ref().is_some_and(|(_, count)| usize::from(*count) == at) {
                break;
            }
            let (schema, count) = read_header(&key, part)?;
            if usize::from(key.part) != at {
                return None;
            }
            let (state, _) = whole.get_or_insert_with(|| {
                let state = Self { stream: key.stream, seq: key.seq, schema, state: Vec::new() };
                (state, count)
            });
            state.state.extend_from_slice(&part[HEADER_BYTES..]);
        }
        whole
            .filter(|(state, count)| {
                state.state.len().div_ceil(PART_BYTES).max(1) == usize::from(*count)
            })
            .map(|(state, _)| state)
    }
}

/// Schema and number of parts of a sound part.
fn read_header(key: &StateKey, part: &[u8]) -> Option<(u16, u8)> {
    let sound = HEADER_BYTES <= part.len()
        && part[..4] == MAGIC
        && checksum(key, part) == u32::from_le_bytes(field(part, 4));
    sound.then(|| (u16::from_le_bytes(field(part, 8)), part[10]))
}

fn checksum(key: &StateKey, part: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&key.encode());
    hasher.update(&part[8..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn state(bytes: usize) -> StateRecord {
        let stream = StreamKey { kind: 1, id: Uuid::from_u128(5) };
        let state = (0..bytes).map(|at| at as u8).collect();
        StateRecord { stream, seq: 9, schema: 3, state }
    }

    #[test]
    fn a_state_of_any_size_is_put_together_again() {
        for bytes in [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, STATE_BYTES_MAX] {
            let state = state(bytes);
            assert_eq!(StateRecord::from_parts(state.parts().into_iter()), Some(state));
        }
    }

    #[test]
    fn a_state_with_a_missing_or_damaged_part_is_none() {
        let parts = state(3 * PART_BYTES).parts();
        for missing in 0..parts.len() {
            let mut parts = parts.clone();
            parts.remove(missing);
            assert_eq!(StateRecord::from_parts(parts.into_iter()), None);
        }
        for damaged in [0, 4, 8, 10, 11, 5000] {
            let mut parts = parts.clone();
            parts[1].1[damaged] ^= 1;
            assert_eq!(StateRecord::from_parts(parts.into_iter()), None);
        }
    }

    #[test]
    fn parts_left_over_from_a_longer_state_are_passed_over() {
        let (long, short) = (state(3 * PART_BYTES), state(PART_BYTES));
        let mut parts = long.parts();
        parts[0] = short.parts().remove(0);
        assert_eq!(StateRecord::from_parts(parts.into_iter()), Some(short));
    }
}
