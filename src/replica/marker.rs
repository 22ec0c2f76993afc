//! The object that marks a vault, `vault.json`: which vault it is, and whether it is encrypted.
//!
//! `{"version":1,"vault":"<id>","encryption":{"cipher":"aes-256-gcm","check":"<32 digits>"}}`, without
//! `encryption` for a vault that is not. `check` is the first half of the BLAKE3 of the vault's id with
//! the vault's hash key: the keys of another vault are recognized before anything is read or written.

use super::keys::VaultKeys;
use crate::domain::id::VaultId;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const CIPHER: &str = "aes-256-gcm";

#[derive(Serialize, Deserialize)]
struct Mark {
    version: u32,
    vault: VaultId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption: Option<Encryption>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Encryption {
    cipher: String,
    check: String,
}

/// What a vault's mark says that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It cannot be read.
    #[error("nothing that can be read: {0}")]
    Unreadable(String),
    /// It was written by a version that this one cannot read.
    #[error("its format is version {0}, which is not known")]
    Version(u32),
    /// It marks another vault.
    #[error("it marks vault {0}")]
    OtherVault(VaultId),
    /// It is encrypted, and there are no keys.
    #[error("the vault is encrypted: name its key file")]
    Encrypted,
    /// It is encrypted in a way that is not known.
    #[error("the vault is encrypted with {0}, which is not known")]
    Cipher(String),
    /// It is not encrypted, and there are keys.
    #[error("the vault is not encrypted: name no key file, or another vault")]
    NotEncrypted,
    /// The keys are not its keys.
    #[error("the vault is encrypted with other keys than those of the key file")]
    OtherKeys,
}

/// The text of the mark.
pub(super) fn text(vault: VaultId, keys: Option<&VaultKeys>) -> String {
    let encryption = keys.map(|keys| Encryption::of(vault, keys));
    let mark = Mark { version: VERSION, vault, encryption };
    let mut text = serde_json::to_string(&mark).expect("an id and texts have a JSON form");
    text.push('\n');
    text
}

/// Checks that the vault is the expected one and is encrypted with these keys, or with none.
pub(super) fn check(text: &[u8], vault: VaultId, keys: Option<&VaultKeys>) -> Result<(), Mismatch> {
    let unreadable = |error: serde_json::Error| Mismatch::Unreadable(error.to_string());
    let mark: Mark = serde_json::from_slice(text).map_err(unreadable)?;
    if mark.version != VERSION {
        return Err(Mismatch::Version(mark.version));
    }
    if mark.vault != vault {
        return Err(Mismatch::OtherVault(mark.vault));
    }
    match (mark.encryption, keys) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Mismatch::NotEncrypted),
        (Some(_), None) => Err(Mismatch::Encrypted),
        (Some(there), Some(_)) if there.cipher != CIPHER => Err(Mismatch::Cipher(there.cipher)),
        (Some(there), Some(keys)) if there == Encryption::of(vault, keys) => Ok(()),
        (Some(_), Some(_)) => Err(Mismatch::OtherKeys),
    }
}

impl Encryption {
    fn of(vault: VaultId, keys: &VaultKeys) -> Self {
        let hash = keys.hash_key().frame(vault.0.as_bytes());
        let check = uuid::Uuid::from_bytes(hash).simple().to_string();
        Self { cipher: CIPHER.to_owned(), check }
    }
}
