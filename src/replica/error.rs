//! What can go wrong between here and the vault, with its place in the error catalogue.

use super::builder::ExtentError;
use super::marker::Mismatch;
use super::segment::{Damage, Flaw, SegmentHash};
use crate::domain::catalogue::Code;
use crate::domain::failure::Classified;
use crate::domain::id::{DiskId, RecoveryPointId};
use std::error::Error;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// Why an operation on the vault did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The storage did not do it.
    #[error("{operation} {object}: {source}")]
    Store {
        /// What was asked of it.
        operation: &'static str,
        /// The object.
        object: String,
        /// What it answered.
        #[source]
        source: object_store::Error,
    },
    /// The storage answers, but the vault is not in it: not mounted, or another storage.
    #[error("find vault: {object} is not there")]
    VaultNotThere {
        /// The object that marks the vault.
        object: String,
    },
    /// The vault is there, but not the one that is configured.
    #[error("open vault: {object} says that {mismatch}")]
    Mark {
        /// The object that marks the vault.
        object: String,
        /// What it says.
        #[source]
        mismatch: Mismatch,
    },
    /// The storage overwrites what it was told to create only if absent.
    #[error(
        "establish vault in {store}: it wrote {object} twice when told to create it only if absent; \
         a vault needs a storage that honours that"
    )]
    Unfit {
        /// The object that was used to find out.
        object: String,
        /// The storage, as it names itself.
        store: String,
    },
    /// An object is not what was written.
    #[error("read {object} {damage}")]
    Damaged {
        /// The object.
        object: String,
        /// Where and what.
        #[source]
        damage: Damage,
    },
    /// An object that others name is gone.
    #[error("read {object}: it is missing")]
    Missing {
        /// The object.
        object: String,
    },
    /// A segment does not follow the one before it.
    #[error("read {object}: it follows segment {found}, but the segment before it is {expected}")]
    ChainBroken {
        /// The segment.
        object: String,
        /// The hash that it names.
        found: SegmentHash,
        /// The hash of the segment before.
        expected: SegmentHash,
    },
    /// A segment was written by a writer that had been fenced off.
    #[error("read {object}: its epoch {found} is below epoch {before} before it")]
    EpochFell {
        /// The segment.
        object: String,
        /// Its epoch.
        found: u64,
        /// The epoch before.
        before: u64,
    },
    /// Another owner ended this writer's right to write.
    #[error("write {object}: epoch {ours} was fenced off by epoch {fence}")]
    Fenced {
        /// The segment that could not be written.
        object: String,
        /// The epoch of this writer.
        ours: u64,
        /// The epoch of the fence.
        fence: u64,
    },
    /// The name is taken by something else.
    #[error("write {object}: another writer of epoch {theirs} was there before epoch {ours}")]
    OtherWriter {
        /// The object.
        object: String,
        /// The epoch of this writer.
        ours: u64,
        /// The epoch of the other.
        theirs: u64,
    },
    /// A recovery point of the cycle exists and says something else.
    #[error("write {object}: it holds recovery point {found} with other content")]
    PointDiffers {
        /// The object.
        object: String,
        /// The point that is there.
        found: RecoveryPointId,
    },
    /// No finished base can stand under the point.
    #[error("open disk {disk} at sequence {sequence}: no finished base reaches that far back")]
    NoBase {
        /// The disk.
        disk: DiskId,
        /// The sequence that was asked for.
        sequence: u64,
    },
    /// An extent does not fit where it was added.
    #[error("write {object}: {source}")]
    Extent {
        /// The segment.
        object: String,
        /// Why not.
        #[source]
        source: ExtentError,
    },
    /// A read leaves the disk.
    #[error("read {range:?} of disk {disk}: it has {size} bytes")]
    OutOfRange {
        /// The disk.
        disk: DiskId,
        /// What was asked for.
        range: Range<u64>,
        /// The disk's size.
        size: u64,
    },
}

/// Why an overlay could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// A local file did not do it.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was asked.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// The overlay's map is not what was written.
    #[error("read {} at byte {at}: {what}", path.display())]
    Damaged {
        /// The map.
        path: PathBuf,
        /// Position in it.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The overlay was made for another disk or recovery point.
    #[error(
        "open {}: it belongs to disk {disk} at sequence {sequence} with {size} bytes, \
         not to disk {asked_disk} at sequence {asked_sequence} with {asked_size} bytes",
        path.display()
    )]
    OtherImage {
        /// The map.
        path: PathBuf,
        /// The disk it was made for.
        disk: DiskId,
        /// The sequence it was made for.
        sequence: u64,
        /// The size it was made for.
        size: u64,
        /// The disk that was asked for.
        asked_disk: DiskId,
        /// The sequence that was asked for.
        asked_sequence: u64,
        /// The size that was asked for.
        asked_size: u64,
    },
}

impl VaultError {
    /// The object that it is about, if it is about one.
    pub fn object(&self) -> Option<&str> {
        match self {
            Self::Store { object, .. }
            | Self::VaultNotThere { object }
            | Self::Mark { object, .. }
            | Self::Unfit { object, .. }
            | Self::Damaged { object, .. }
            | Self::Missing { object }
            | Self::ChainBroken { object, .. }
            | Self::EpochFell { object, .. }
            | Self::Fenced { object, .. }
            | Self::OtherWriter { object, .. }
            | Self::PointDiffers { object, .. }
            | Self::Extent { object, .. } => Some(object),
            Self::NoBase { .. } | Self::OutOfRange { .. } => None,
        }
    }
}

impl Classified for VaultError {
    fn code(&self) -> Code {
        match self {
            Self::Store { source, .. } => store_code(source),
            Self::VaultNotThere { .. } => Code::LinkDown,
            Self::Mark { .. } | Self::Unfit { .. } => Code::ConfigurationInvalid,
            Self::Damaged { damage, .. } => match damage.flaw {
                Flaw::Encrypted | Flaw::UnknownKey(_) => Code::ConfigurationInvalid,
                _ => Code::ReplicaDamaged,
            },
            Self::Missing { .. } => Code::ReplicaDamaged,
            // A fence of ours, put up for a job that was cancelled: what follows it is found the next time.
            Self::Fenced { ours, fence, .. } if fence <= ours => Code::VaultBusy,
            Self::ChainBroken { .. }
            | Self::EpochFell { .. }
            | Self::Fenced { .. }
            | Self::OtherWriter { .. }
            | Self::PointDiffers { .. }
            | Self::NoBase { .. }
            | Self::Extent { .. }
            | Self::OutOfRange { .. } => Code::ReplicaInvalid,
        }
    }
}

impl Classified for OverlayError {
    fn code(&self) -> Code {
        match self {
            Self::File { .. } => Code::HostResourcesShort,
            Self::Damaged { .. } => Code::DiskUnusable,
            Self::OtherImage { .. } => Code::PrerequisiteFailed,
        }
    }
}

impl From<VaultError> for io::Error {
    /// The error stays reachable as the source; its class decides the kind.
    fn from(error: VaultError) -> Self {
        let kind = match error.code() {
            Code::ReplicaDamaged | Code::ReplicaInvalid => io::ErrorKind::InvalidData,
            Code::AuthenticationFailed | Code::AuthorizationFailed => {
                io::ErrorKind::PermissionDenied
            }
            _ => io::ErrorKind::HostUnreachable,
        };
        Self::new(kind, error)
    }
}

/// What the storage's answer means. What is not understood counts as a lost link: it is tried again.
fn store_code(error: &object_store::Error) -> Code {
    use object_store::Error as Store;
    match error {
        Store::Unauthenticated { .. } => Code::AuthenticationFailed,
        Store::PermissionDenied { .. } => Code::AuthorizationFailed,
        Store::NotSupported { .. }
        | Store::NotImplemented { .. }
        | Store::InvalidPath { .. }
        | Store::UnknownConfigurationKey { .. } => Code::ConfigurationInvalid,
        _ => causes(error).find_map(cause_code).unwrap_or(Code::LinkDown),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

fn cause_code(cause: &(dyn Error + 'static)) -> Option<Code> {
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(Code::VaultFull),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Some(Code::AuthorizationFailed)
            }
            _ => None,
        };
    }
    http_status(&cause.to_string()).and_then(|status| match status {
        507 => Some(Code::VaultFull),
        429 | 500..=599 => Some(Code::VaultBusy),
        _ => None,
    })
}

/// The status in the message of `object_store`'s HTTP client, whose error type is only there when one of
/// its cloud features is compiled in ("Server returned non-2xx status code: 503 Service Unavailable").
fn http_status(message: &str) -> Option<u16> {
    let (_, rest) = message.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(source: impl Into<Box<dyn Error + Send + Sync>>) -> Code {
        let source = object_store::Error::Generic { store: "test", source: source.into() };
        VaultError::Store { operation: "write", object: "o".to_owned(), source }.code()
    }

    #[test]
    fn an_answer_of_the_storage_has_its_place_in_the_catalogue() {
        assert_eq!(generic(io::Error::from(io::ErrorKind::StorageFull)), Code::VaultFull);
        assert_eq!(
            generic(io::Error::from(io::ErrorKind::PermissionDenied)),
            Code::AuthorizationFailed
        );
        assert_eq!(generic(io::Error::from(io::ErrorKind::ConnectionReset)), Code::LinkDown);
        let answer = "Server returned non-2xx status code: 503 Service Unavailable: later";
        assert_eq!(generic(answer), Code::VaultBusy);
        assert_eq!(generic("status code: 429 Too Many Requests"), Code::VaultBusy);
        assert_eq!(generic("name resolution gave up"), Code::LinkDown);
    }

    #[test]
    fn an_io_error_keeps_the_vault_error_as_its_source() {
        let error = io::Error::from(VaultError::Missing { object: "o".to_owned() });
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<VaultError>());
        assert!(matches!(inner, Some(VaultError::Missing { .. })));
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
