//! The frame around everything that a tracker keeps in files of its own.
//!
//! | offset | field | type |
//! |---|---|---|
//! | 0 | Magic | u8\[8\] |
//! | 8 | Version | u32 |
//! | 12 | length of the payload | u32 |
//! | 16 | CRC32 of the payload | u32 |
//! | 20 | payload | |

use crate::disk::hrl::format::Take;

/// Bytes before the payload.
pub(super) const HEAD_BYTES: usize = 20;

/// Frames a payload, of less than 4 GiB.
pub(super) fn frame(magic: [u8; 8], version: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
    bytes.extend(magic);
    bytes.extend(version.to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(payload).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// The version and payload of a frame at the start of `bytes`, if it is whole.
pub(super) fn unframe(magic: [u8; 8], bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let mut fields = Take(head);
    let (found, version, length, crc): ([u8; 8], _, _, _) =
        (fields.array(), fields.u32(), fields.u32(), fields.u32());
    let payload = rest.get(..length as usize)?;
    (found == magic && crc == crc32fast::hash(payload)).then_some((version, payload))
}
