//! What happens to a frame between the disk and an object: hashed, compressed, encrypted; and back.
//!
//! The hash is that of the data, so that it does not depend on the rest. Encryption is AES-256-GCM under
//! the data key of the object. The nonce is the frame's offset on the disk, which no two frames of an
//! object share, and no data key is used for two objects. Additional data, 57 bytes: vault id, disk id,
//! sequence, disk offset, length on the disk, codec. A frame therefore opens only in the place that it
//! was written for.

use super::keys::{DataKey, HashKey, KeyId, VaultKeys, WRAPPED_KEY_BYTES};
use super::segment::{
    Codec, Content, Damage, FRAME_BYTES, Flaw, HEADER_BYTES, Header, Row, damage,
};
use bytes::Bytes;
use ring::aead::{Aad, LessSafeKey, Nonce};
use std::cell::RefCell;
use std::sync::Arc;
use zstd::bulk::{Compressor, Decompressor};

/// The level with the best ratio of size to time (data-plane measurement 3).
const ZSTD_LEVEL: i32 = 1;

/// Data of which a try with this much shows whether the rest is worth it.
const SAMPLE_BYTES: usize = 4096;

/// A frame is stored compressed if that saves a 32nd of it: less is not worth the time of reading it.
const LEAST_SAVING: usize = 32;

/// How a vault's data is compressed. Readers read everything, whatever is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Off,
    /// Zstandard at level 1; what does not shrink is stored as it is.
    #[default]
    Zstd,
}

/// How the objects of a vault are made.
#[derive(Clone, Debug, Default)]
pub struct Sealing {
    /// How they are compressed.
    pub compression: Compression,
    /// What they are encrypted with; `None` for a vault that is not encrypted.
    pub keys: Option<Arc<VaultKeys>>,
}

/// Seals the frames of one object.
#[derive(Debug)]
pub(super) struct FrameSealer {
    place: Place,
    compression: Compression,
    hash: HashKey,
    cipher: Option<LessSafeKey>,
}

/// What a frame became.
#[derive(Clone, Copy, Debug)]
pub(super) struct SealedFrame {
    /// Its length in the object.
    pub(super) stored: u32,
    pub(super) codec: Codec,
    pub(super) hash: [u8; 16],
}

/// Opens the frames of one object.
#[derive(Clone, Debug)]
pub struct FrameOpener {
    key: Option<KeyId>,
    place: Place,
    hash: HashKey,
    cipher: Option<LessSafeKey>,
}

/// The part of the additional data that all frames of an object have in common.
#[derive(Clone, Copy, Debug)]
struct Place([u8; 40]);

/// An object that is being made: its data key waits until its header is known.
#[derive(Debug)]
pub(super) struct ObjectSeal {
    pub(super) frames: Arc<FrameSealer>,
    sealing: Sealing,
    data_key: Option<DataKey>,
}

impl Sealing {
    /// What makes the hashes of the vault.
    pub fn hash_key(&self) -> HashKey {
        self.keys.as_ref().map(|keys| keys.hash_key().clone()).unwrap_or_default()
    }

    /// A data key and what seals with it, for an object of the disk and sequence in `header`.
    pub(super) fn object(&self, header: &Header) -> ObjectSeal {
        let data_key = self.keys.as_ref().map(|keys| keys.data_key());
        let frames = FrameSealer {
            place: Place::of(header),
            compression: self.compression,
            hash: self.hash_key(),
            cipher: data_key.as_ref().map(DataKey::cipher),
        };
        ObjectSeal { frames: Arc::new(frames), sealing: self.clone(), data_key }
    }

    /// Reads how an object's frames open, from its header and what follows it. `bytes` may go on.
    ///
    /// # Errors
    /// [`Damage`] if the object needs a key that is not there, is not encrypted in a vault that is, or
    /// was moved or tampered with.
    pub fn opener(&self, header: &Header, bytes: &[u8]) -> Result<FrameOpener, Damage> {
        let (key, cipher) = match (&self.keys, header.encrypted) {
            (None, false) => (None, None),
            (None, true) => return Err(damage(12, Flaw::Encrypted)),
            (Some(_), false) => return Err(damage(12, Flaw::NotEncrypted)),
            (Some(keys), true) => {
                let (head, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES as usize));
                let wrapped = &rest[..rest.len().min(WRAPPED_KEY_BYTES as usize)];
                let unwrapped = keys.unwrap(wrapped, head);
                let (key, cipher) = unwrapped.map_err(|flaw| damage(HEADER_BYTES, flaw))?;
                (Some(key), Some(cipher))
            }
        };
        Ok(FrameOpener { key, place: Place::of(header), hash: self.hash_key(), cipher })
    }
}

impl ObjectSeal {
    /// The bytes before the frames: header and wrapped data key.
    pub(super) fn head(&self, header: &Header) -> Vec<u8> {
        let mut head = header.encode().to_vec();
        if let (Some(keys), Some(data_key)) = (&self.sealing.keys, &self.data_key) {
            head.extend_from_slice(&keys.wrap(data_key, &header.encode()));
        }
        head
    }

    /// Length of [`ObjectSeal::head`].
    pub(super) fn head_bytes(&self) -> u64 {
        HEADER_BYTES + if self.data_key.is_some() { WRAPPED_KEY_BYTES } else { 0 }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.data_key.is_some()
    }

    pub(super) fn hash_key(&self) -> &HashKey {
        &self.frames.hash
    }

    /// What seals the object after this one, with a data key of its own.
    pub(super) fn next(&self, header: &Header) -> Self {
        self.sealing.object(header)
    }
}

impl FrameSealer {
    /// Seals the data at `offset` of the disk to the end of `out`.
    pub(super) fn seal(&self, offset: u64, data: &[u8], out: &mut Vec<u8>) -> SealedFrame {
        let hash = self.hash.frame(data);
        let start = out.len();
        let codec = match self.compression {
            Compression::Zstd if compress(data, out) => Codec::Zstd,
            Compression::Zstd | Compression::Off => {
                out.extend_from_slice(data);
                Codec::Raw
            }
        };
        if let Some(cipher) = &self.cipher {
            let aad = Aad::from(self.place.additional_data(offset, data.len() as u64, codec));
            let tag = cipher
                .seal_in_place_separate_tag(nonce(offset), aad, &mut out[start..])
                .expect("a frame is not too long for the cipher");
            out.extend_from_slice(tag.as_ref());
        }
        SealedFrame { stored: (out.len() - start) as u32, codec, hash }
    }

    /// What becomes of data that is stored as it is, neither compressed nor encrypted; `None` where something is done to it.
    pub(super) fn as_it_is(&self, data: &[u8]) -> Option<SealedFrame> {
        let is_plain = matches!(self.compression, Compression::Off) && self.cipher.is_none();
        let (stored, codec) = (data.len() as u32, Codec::Raw);
        is_plain.then(|| SealedFrame { stored, codec, hash: self.hash.frame(data) })
    }
}

impl FrameOpener {
    /// The key that wraps the object's data key.
    pub(super) fn key(&self) -> Option<KeyId> {
        self.key
    }

    /// Decrypts, decompresses and checks the frame of `row` from its stored bytes.
    ///
    /// # Errors
    /// [`Damage`] at the frame's position if the bytes are not those that were written.
    pub fn open(&self, row: &Row, stored: &Bytes) -> Result<Bytes, Damage> {
        let Content::Frame { position, hash, codec, .. } = row.content else {
            return Ok(Bytes::new());
        };
        let wrong = |flaw| damage(position, flaw);
        let mut data = stored.clone();
        if let Some(cipher) = &self.cipher {
            let mut bytes = stored.to_vec();
            let aad = Aad::from(self.place.additional_data(row.offset, row.length, codec));
            let opened = cipher.open_in_place(nonce(row.offset), aad, &mut bytes);
            let length = opened.map_err(|_| wrong(Flaw::Forged("frame")))?.len();
            bytes.truncate(length);
            data = Bytes::from(bytes);
        }
        if codec == Codec::Zstd {
            data = decompress(&data, row.length).ok_or(wrong(Flaw::Compression))?;
        }
        if data.len() as u64 != row.length {
            let (found, expected) = (data.len() as u64, row.length);
            return Err(wrong(Flaw::Length { what: "a frame", found, expected }));
        }
        if self.hash.frame(&data) != hash {
            return Err(wrong(Flaw::Checksum("frame")));
        }
        Ok(data)
    }
}

impl Place {
    fn of(header: &Header) -> Self {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(header.vault.0.as_bytes());
        bytes[16..32].copy_from_slice(header.disk.0.as_bytes());
        bytes[32..].copy_from_slice(&header.sequence.to_le_bytes());
        Self(bytes)
    }

    fn additional_data(&self, offset: u64, length: u64, codec: Codec) -> [u8; 57] {
        let mut bytes = [0; 57];
        bytes[..40].copy_from_slice(&self.0);
        bytes[40..48].copy_from_slice(&offset.to_le_bytes());
        bytes[48..56].copy_from_slice(&length.to_le_bytes());
        bytes[56] = codec.byte();
        bytes
    }
}

fn nonce(offset: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&offset.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// A compressor with room for its result, one a thread: making one costs more than a small frame.
struct Press {
    compressor: Option<Compressor<'static>>,
    room: Vec<u8>,
}

thread_local! {
    static PRESS: RefCell<Press> = RefCell::new(Press {
        // Without memory for it, data is stored as it is.
        compressor: Compressor::new(ZSTD_LEVEL).ok(),
        room: vec![0; FRAME_BYTES as usize],
    });
}

/// Adds the data compressed to `out`; not where that saves too little.
fn compress(data: &[u8], out: &mut Vec<u8>) -> bool {
    let added = PRESS.with_borrow_mut(|press| {
        let sample = SAMPLE_BYTES..2 * SAMPLE_BYTES;
        if let Some(sample) = data.get(sample).filter(|_| 8 * SAMPLE_BYTES <= data.len()) {
            press.smaller(sample)?;
        }
        press.smaller(data).map(|pressed| out.extend_from_slice(pressed))
    });
    added.is_some()
}

impl Press {
    fn smaller(&mut self, data: &[u8]) -> Option<&[u8]> {
        let most = data.len() - data.len().div_ceil(LEAST_SAVING);
        let room = self.room.get_mut(..most)?;
        let length = self.compressor.as_mut()?.compress_to_buffer(data, room).ok()?;
        Some(&self.room[..length])
    }
}

thread_local! {
    static UNPRESS: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

/// The data of a frame that has `length` bytes when it is whole, at most [`FRAME_BYTES`].
fn decompress(pressed: &[u8], length: u64) -> Option<Bytes> {
    let mut data = vec![0; length.min(FRAME_BYTES) as usize];
    let found = UNPRESS.with_borrow_mut(|unpress| {
        unpress.as_mut()?.decompress_to_buffer(pressed, &mut data[..]).ok()
    })?;
    data.truncate(found);
    Some(Bytes::from(data))
}
