//! Why tracking is broken, and why a tracker refuses.

use super::LowSpace;
use crate::disk::hrl::LogError;
use crate::domain::catalogue::Code;
use crate::domain::failure::Classified;
use crate::domain::id::DiskId;
use crate::ports::files::FileIdentity;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why logs and disks no longer agree: the VM must be resynchronized.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum Broken {
    /// A write could not be logged.
    #[error("write replication log {path}: {error}")]
    LogWriteFailed {
        /// Whose log.
        disk: DiskId,
        /// The log.
        path: PathBuf,
        /// What the file system answered.
        error: String,
    },
    /// A log does not hold what it must.
    #[error("read replication log {path}: {damage}")]
    LogDamaged {
        /// The log.
        path: PathBuf,
        /// What is wrong, and where.
        damage: String,
    },
    /// A log is not there.
    #[error("find replication log {path}: it is gone")]
    LogMissing {
        /// The log.
        path: PathBuf,
    },
    /// Writes that were never flushed can have reached the disks and not the logs.
    #[error("the machine lost power or crashed while the disks were in use")]
    PowerLoss,
    /// A write failed and what the disk holds there cannot be read.
    #[error("read back disk {disk} at byte {offset} after a write that failed: {error}")]
    DiskUnknown {
        /// Which disk.
        disk: DiskId,
        /// Where on it.
        offset: u64,
        /// What the disk answered.
        error: String,
    },
    /// The VM has another set of disks, or a disk another size or name, than when tracking started.
    #[error("disk {disk} was added, removed, renamed or resized while nothing tracked it")]
    DiskChanged {
        /// Which disk.
        disk: DiskId,
    },
    /// Somebody else changed or replaced the file of a disk.
    #[error("find disk {path} as it was left: expected {expected}, found {found}")]
    DiskChangedOffline {
        /// Which disk.
        disk: DiskId,
        /// Its file.
        path: PathBuf,
        /// What it was when the tracker knew it last.
        expected: FileIdentity,
        /// What it is.
        found: FileIdentity,
    },
    /// Comparing the disk with its replica is cheaper than shipping so much.
    #[error(
        "keep the replication logs of disk {disk}: {log_bytes} bytes reach half of its {size_bytes}"
    )]
    LogsTooLarge {
        /// Whose logs.
        disk: DiskId,
        /// What they took on the volume.
        log_bytes: u64,
        /// Size of the disk.
        size_bytes: u64,
    },
}

impl Broken {
    pub(super) fn log_write_failed(disk: DiskId, error: &LogError) -> Self {
        let (path, error) = describe(error);
        Self::LogWriteFailed { disk, path, error }
    }

    pub(super) fn log_unreadable(error: &LogError) -> Self {
        let (path, damage) = describe(error);
        match error {
            LogError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Self::LogMissing { path }
            }
            LogError::Io { .. } | LogError::Damaged { .. } | LogError::Apply { .. } => {
                Self::LogDamaged { path, damage }
            }
        }
    }
}

/// The file that an error is about, and what was wrong with it.
pub(super) fn describe(error: &LogError) -> (PathBuf, String) {
    match error {
        LogError::Damaged { path, at, damage } => (path.clone(), format!("{damage} at byte {at}")),
        LogError::Io { path, source } | LogError::Apply { path, source, .. } => {
            (path.clone(), source.to_string())
        }
    }
}

impl Classified for Broken {
    fn code(&self) -> Code {
        Code::LogChainBroken
    }
}

/// Why a tracker refuses.
#[derive(Debug, Error)]
pub enum TrackError {
    /// A file of the tracker cannot be used.
    #[error("use tracking file {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// The state does not read back.
    #[error(
        "read {path}: it is damaged, so whether logs must be applied is not known; restore it, or \
         remove it and resynchronize the VM"
    )]
    StateDamaged {
        /// The state file.
        path: PathBuf,
    },
    /// A log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A disk cannot be made durable.
    #[error("flush disk {disk}")]
    Disk {
        /// Which disk.
        disk: DiskId,
        /// What the disk answered.
        #[source]
        source: io::Error,
    },
    /// A disk cannot be made durable. Its logs are kept, and applied to it when it is tried again.
    #[error("flush disk {disk}; its logs are kept until that works")]
    NotDurable {
        /// Which disk.
        disk: DiskId,
        /// What the disk answered.
        #[source]
        source: io::Error,
    },
    /// No log can have such a name.
    #[error("name the logs of a disk {name:?}: the name is empty, used twice, or has a separator")]
    DiskName {
        /// The name.
        name: String,
    },
    /// There is no room for the files of a cut. Nothing was cut, and tracking goes on.
    #[error(transparent)]
    LowSpace(#[from] LowSpace),
    /// Nothing is tracked.
    #[error("cut the logs: tracking is off")]
    NotTracking,
    /// The logs lack writes.
    #[error("cut the logs: they lack writes")]
    Broken(#[source] Broken),
    /// Only one cut is in transit at a time.
    #[error("another cut, {number}, is in transit")]
    InTransit {
        /// Its number.
        number: u64,
    },
    /// No such cut is in transit.
    #[error("cut {number} is not in transit")]
    NotInTransit {
        /// The number asked for.
        number: u64,
    },
    /// Numbers of cuts only grow.
    #[error("cut {number} was acknowledged already; the last one was {last}")]
    NumberUsed {
        /// The number asked for.
        number: u64,
        /// The last one acknowledged.
        last: u64,
    },
    /// Another chain of logs was started since.
    #[error("chain {asked} of the logs is over; the present one is {chain}")]
    ChainOver {
        /// The chain asked for.
        asked: u64,
        /// The present one.
        chain: u64,
    },
    /// The tracker was closed.
    #[error("the tracker is closed")]
    Closed,
}

impl Classified for TrackError {
    fn code(&self) -> Code {
        match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Code::LogVolumeFull
            }
            Self::File { .. } | Self::NotDurable { .. } | Self::Closed => Code::HostResourcesShort,
            Self::Log(error) => error.code(),
            Self::LowSpace(low) => low.code(),
            Self::Disk { .. } => Code::DiskUnusable,
            Self::Broken(broken) => broken.code(),
            Self::StateDamaged { .. } => Code::LogChainBroken,
            Self::DiskName { .. } => Code::ConfigurationInvalid,
            Self::NotTracking
            | Self::InTransit { .. }
            | Self::NotInTransit { .. }
            | Self::ChainOver { .. }
            | Self::NumberUsed { .. } => Code::PrerequisiteFailed,
        }
    }
}
