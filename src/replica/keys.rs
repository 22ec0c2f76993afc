//! The keys of a vault, and the file that holds them.
//!
//! ```text
//! # anything
//! lifeboat vault keys 1
//! hash <32 bytes, base64>
//! key <id, 16 hexadecimal digits> <32 bytes, base64> active
//! key <id> <32 bytes, base64>
//! ```
//!
//! Every object has a random data key of its own, which the active key wraps (AES-256-GCM, a random
//! nonce, the object's header as additional data); the object names the key by its id, which follows
//! from the key. Keys that were active before only unwrap. The `hash` key makes the hashes of a vault
//! say nothing to whoever does not have it; it stays the same for as long as the vault lives, so that
//! the same data has the same hash whatever key is active.
//!
//! A random nonce allows about 2^32 objects under one key: a thousand VMs every 30 seconds for four
//! years. Rotating it in time is a matter of `lifeboat vault key rotate`.

use super::segment::{Flaw, HEADER_BYTES};
use crate::ports::random::Random;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// Length of the wrapped data key after an object's header: key id, nonce, data key, tag.
pub(super) const WRAPPED_KEY_BYTES: u64 = 68;

/// Length of AES-GCM's tag.
pub(super) const TAG_BYTES: usize = 16;

const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const TITLE: &str = "lifeboat vault keys 1";

/// Most keys in one file: one a month for 80 years.
const MAX_KEYS: usize = 1000;

/// A key's name: it follows from the key and says nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_BYTES]);

/// The content of a key file. Memory that held a key is overwritten when it is given up; the expanded
/// keys inside the cipher are not.
#[derive(Clone, Debug)]
pub struct KeyFile {
    hash: Secret,
    keys: BTreeMap<KeyId, Secret>,
    active: KeyId,
}

/// Why a key file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// A line is not what it should be. The line itself may hold a key and is not repeated.
    #[error("line {line}: {problem}")]
    Line {
        /// Which, from 1 on.
        line: usize,
        /// What is wrong, and what would be right.
        problem: &'static str,
    },
    /// Something that every key file has is not there.
    #[error("it has no {0}")]
    Absent(&'static str),
}

/// The keys of a vault with the randomness that its data keys come from.
#[derive(Debug)]
pub struct VaultKeys {
    hash: HashKey,
    keys: BTreeMap<KeyId, LessSafeKey>,
    active: KeyId,
    random: Arc<dyn Random>,
}

/// What makes the hashes of a vault: keyed where the vault is encrypted.
#[derive(Clone, Debug, Default)]
pub struct HashKey(Option<Secret>);

/// A data key, with what an object needs to tell it to readers.
#[derive(Debug)]
pub(super) struct DataKey {
    secret: Secret,
    wrapping: KeyId,
    nonce: [u8; NONCE_BYTES],
}

/// 32 bytes that nobody sees.
#[derive(Clone)]
struct Secret(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Secret {
    fn random(random: &dyn Random) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random.fill(&mut *bytes);
        Self(bytes)
    }

    fn derived(&self, context: &str) -> Self {
        Self(Zeroizing::new(blake3::derive_key(context, &*self.0)))
    }

    fn id(&self) -> KeyId {
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&self.derived("lifeboat 2026 vault key id").0[..ID_BYTES]);
        KeyId(id)
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &*self.0);
        LessSafeKey::new(key.expect("the key has the length that the cipher wants"))
    }

    fn parse(text: &str) -> Option<Self> {
        // The decoder wants room for the longest text of this length.
        let mut room = Zeroizing::new([0; KEY_BYTES + 4]);
        let length = BASE64.decode_slice(text, &mut *room).ok()?;
        let bytes: &[u8; KEY_BYTES] = room.get(..length)?.try_into().ok()?;
        Some(Self(Zeroizing::new(*bytes)))
    }

    fn write(&self, out: &mut Zeroizing<String>) {
        BASE64.encode_string(self.0.as_slice(), out);
    }
}

impl KeyFile {
    /// A file with one key, which is active, and the hash key of a vault that does not exist yet.
    pub fn generate(random: &dyn Random) -> Self {
        let key = Secret::random(random);
        let hash = key.derived("lifeboat 2026 vault hash key");
        let active = key.id();
        Self { hash, keys: BTreeMap::from([(active, key)]), active }
    }

    /// Adds a key and makes it the active one; the others still unwrap what they wrapped.
    pub fn rotate(&mut self, random: &dyn Random) -> KeyId {
        let key = Secret::random(random);
        self.active = key.id();
        self.keys.insert(self.active, key);
        self.active
    }

    /// The key that wraps the data keys of objects that are written.
    pub fn active(&self) -> KeyId {
        self.active
    }

    /// All keys.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.keys().copied()
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// [`KeyFileError`], which never holds a key.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let (mut hash, mut active, mut keys) = (None, None, BTreeMap::new());
        let lines = text.lines().map(str::trim).enumerate().map(|(nth, line)| (nth + 1, line));
        let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        if lines.next().is_none_or(|(_, line)| line != TITLE) {
            return Err(KeyFileError::Absent("title line 'lifeboat vault keys 1'"));
        }
        for (line, text) in lines {
            let wrong = |problem| KeyFileError::Line { line, problem };
            let words: Vec<&str> = text.split_whitespace().take(5).collect();
            match words[..] {
                ["hash", key] => {
                    let key = Secret::parse(key).ok_or(wrong("give 32 bytes in base64"))?;
                    if hash.replace(key).is_some() {
                        return Err(wrong("there is a hash key before it: keep one"));
                    }
                }
                ["key", id, key, ref rest @ ..] => {
                    let key = Secret::parse(key).ok_or(wrong("give 32 bytes in base64"))?;
                    if key.id().to_string() != id {
                        return Err(wrong("the id is not that of the key"));
                    }
                    match rest {
                        [] => {}
                        ["active"] if active.is_none() => active = Some(key.id()),
                        _ => return Err(wrong("only 'active' may follow, for one key")),
                    }
                    keys.insert(key.id(), key);
                }
                _ => return Err(wrong("write 'hash KEY' or 'key ID KEY [active]'")),
            }
            if MAX_KEYS < keys.len() {
                return Err(wrong("there are more than 1000 keys"));
            }
        }
        let hash = hash.ok_or(KeyFileError::Absent("hash key"))?;
        let active = active.ok_or(KeyFileError::Absent("active key"))?;
        Ok(Self { hash, keys, active })
    }

    /// The text of the file.
    pub fn text(&self) -> Zeroizing<String> {
        // Room for everything, since growing would leave a copy behind.
        let mut out = Zeroizing::new(String::with_capacity(400 + self.keys.len() * 100));
        out.push_str(
            "# Whoever has this file can read the vault; without it nobody can. Keep a copy\n",
        );
        out.push_str("# apart from the vault and from this machine.\n");
        out.push_str(TITLE);
        out.push_str("\nhash ");
        self.hash.write(&mut out);
        for (id, key) in &self.keys {
            let _ = write!(out, "\nkey {id} ");
            key.write(&mut out);
            if *id == self.active {
                out.push_str(" active");
            }
        }
        out.push('\n');
        out
    }
}

impl VaultKeys {
    /// The keys of `file`; data keys come from `random`.
    pub fn new(file: &KeyFile, random: Arc<dyn Random>) -> Self {
        let keys = file.keys.iter().map(|(id, key)| (*id, key.cipher())).collect();
        Self { hash: HashKey(Some(file.hash.clone())), keys, active: file.active, random }
    }

    /// The key that wraps the data keys of objects that are written.
    pub fn active(&self) -> KeyId {
        self.active
    }

    pub(super) fn hash_key(&self) -> &HashKey {
        &self.hash
    }

    /// A random data key.
    pub(super) fn data_key(&self) -> DataKey {
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce);
        DataKey { secret: Secret::random(&*self.random), wrapping: self.active, nonce }
    }

    /// The data key in the form in which it follows the object's header.
    pub(super) fn wrap(
        &self,
        data_key: &DataKey,
        header: &[u8; HEADER_BYTES as usize],
    ) -> [u8; WRAPPED_KEY_BYTES as usize] {
        let DataKey { secret, wrapping, nonce } = data_key;
        let mut sealed = secret.0.clone();
        let nonce_of = Nonce::assume_unique_for_key(*nonce);
        let aad = Aad::from(header);
        let tag = self.keys[wrapping].seal_in_place_separate_tag(nonce_of, aad, &mut *sealed);
        let tag = tag.expect("32 bytes are not too many");
        let mut out = [0; WRAPPED_KEY_BYTES as usize];
        out[..8].copy_from_slice(&wrapping.0);
        out[8..20].copy_from_slice(nonce);
        out[20..52].copy_from_slice(&*sealed);
        out[52..].copy_from_slice(tag.as_ref());
        out
    }

    /// The cipher of an object from what follows its header, and the key that wrapped its data key.
    pub(super) fn unwrap(
        &self,
        wrapped: &[u8],
        header: &[u8],
    ) -> Result<(KeyId, LessSafeKey), Flaw> {
        let expected = WRAPPED_KEY_BYTES;
        let Ok(wrapped) = <&[u8; WRAPPED_KEY_BYTES as usize]>::try_from(wrapped) else {
            let found = wrapped.len() as u64;
            return Err(Flaw::Length { what: "the wrapped key", found, expected });
        };
        let id = wrapping(wrapped);
        let key = self.keys.get(&id).ok_or(Flaw::UnknownKey(id))?;
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&wrapped[8..20]);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let mut sealed = Zeroizing::new([0; KEY_BYTES + TAG_BYTES]);
        sealed.copy_from_slice(&wrapped[20..]);
        let opened = key.open_in_place(nonce, Aad::from(header), &mut *sealed);
        let opened = opened.map_err(|_| Flaw::Forged("data key"))?;
        let cipher = UnboundKey::new(&AES_256_GCM, opened).map(LessSafeKey::new);
        opened.zeroize();
        Ok((id, cipher.map_err(|_| Flaw::Forged("data key"))?))
    }
}

impl DataKey {
    pub(super) fn cipher(&self) -> LessSafeKey {
        self.secret.cipher()
    }
}

impl HashKey {
    /// A hasher with this key.
    pub fn hasher(&self) -> blake3::Hasher {
        match &self.0 {
            Some(key) => blake3::Hasher::new_keyed(&key.0),
            None => blake3::Hasher::new(),
        }
    }

    /// The hash of a frame's data: the first half of its BLAKE3.
    pub fn frame(&self, data: &[u8]) -> [u8; 16] {
        let hash = match &self.0 {
            Some(key) => blake3::keyed_hash(&key.0, data),
            None => blake3::hash(data),
        };
        let mut half = [0; 16];
        half.copy_from_slice(&hash.as_bytes()[..16]);
        half
    }
}

/// The id of the key that wrapped a data key.
fn wrapping(wrapped: &[u8; WRAPPED_KEY_BYTES as usize]) -> KeyId {
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&wrapped[..ID_BYTES]);
    KeyId(id)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Counting(std::sync::atomic::AtomicU8);

    impl Random for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill_with(|| self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
    }

    fn counting() -> Counting {
        Counting(0.into())
    }

    #[test]
    fn a_key_file_reads_back_with_every_key_and_the_active_one() {
        let random = counting();
        let mut file = KeyFile::generate(&random);
        let first = file.active();
        let second = file.rotate(&random);
        let read = KeyFile::parse(&file.text()).unwrap();
        assert_eq!(read.active(), second);
        assert!(read.ids().any(|id| id == first) && read.ids().count() == 2);
        assert_eq!(*read.text(), *file.text());
    }

    #[test]
    fn what_is_wrong_with_a_key_file_is_said_without_repeating_it() {
        let text = KeyFile::generate(&counting()).text().to_string();
        let key = text.lines().last().unwrap().to_owned();
        let said = |text: &str| KeyFile::parse(text).unwrap_err().to_string();
        assert_eq!(said(""), "it has no title line 'lifeboat vault keys 1'");
        assert_eq!(said(&text.replace(" active", "")), "it has no active key");
        assert_eq!(
            said(&text.replace(&key[..20], "key 0011223344556677")),
            "line 5: the id is not that of the key"
        );
        assert_eq!(
            said(&format!("{text}{key}\n")),
            "line 6: only 'active' may follow, for one key"
        );
        assert_eq!(
            said(&format!("{text}secret\n")),
            "line 6: write 'hash KEY' or 'key ID KEY [active]'"
        );
        let hash = text.lines().find(|line| line.starts_with("hash")).unwrap();
        let broken = text.replace(hash, "hash no");
        assert_eq!(said(&broken), "line 4: give 32 bytes in base64");
    }

    #[test]
    fn a_data_key_is_unwrapped_only_for_its_object_and_with_its_key() {
        let random = Arc::new(counting());
        let mut file = KeyFile::generate(&*random);
        let keys = VaultKeys::new(&file, random.clone());
        let header = [7; HEADER_BYTES as usize];
        let wrapped = keys.wrap(&keys.data_key(), &header);
        assert!(keys.unwrap(&wrapped, &header).is_ok());
        assert!(matches!(keys.unwrap(&wrapped, &[8; 128]), Err(Flaw::Forged("data key"))));
        file.rotate(&*random);
        let rotated = VaultKeys::new(&file, random.clone());
        assert!(rotated.unwrap(&wrapped, &header).is_ok(), "old keys unwrap");
        let other = VaultKeys::new(&KeyFile::generate(&*random), random);
        assert!(matches!(other.unwrap(&wrapped, &header), Err(Flaw::UnknownKey(_))));
    }
}
