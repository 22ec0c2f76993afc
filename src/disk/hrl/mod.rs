//! Replication logs: the public `.hrl` format, version 2. Source: [MS-HRL] v6.0, an open
//! specification.
//!
//! A log records every write to one disk in order: first the data of a group of writes, then a
//! metadata block that says where they belong.
//!
//! ```text
//! 0        4096     8192
//! | header | block 0 | data of group 1 | block 1 | data of group 2 | block 2 | ...
//!            (empty)   ^ back to back    ^ up to 127 entries, and how far back block 0 is
//! ```
//!
//! Metadata follows its data, so the format alone loses the last group in a crash. Two records of ours
//! close that gap while a log is open; both are gone when it is closed, so a closed log is exactly what
//! the specification says.
//!
//! * **Tail slots** ([`tail`]), in a file beside the log: the entries of the group that has no block
//!   yet, each written after its data and before the disk is touched.
//! * **Seal records** ([`format::SealRecord`]), in the header's reserved sectors: where the last
//!   flushed blocks are and where a cut was made. They are in the log itself so that one `fdatasync`
//!   covers both; and a reader never has to search the log for something that looks like a block,
//!   which a guest could have written.
//!
//! | after | kill -9 keeps | power loss keeps |
//! |---|---|---|
//! | data written | nothing of this write | - |
//! | tail slot written | **the write** | - |
//! | block written ([`LogWriter::seal`]) | the write | - |
//! | seal record written and `fdatasync` | the write | **the write** |

mod compaction;
pub mod format;
mod reader;
mod recovery;
mod scan;
mod tail;
mod writer;

pub use compaction::{begin_compacted, compact, unique_bytes};
pub use format::{Damage, Header, LogTime};
pub use reader::{HeaderTrust, LogReader, LoggedWrite};
pub use recovery::{Ending, open_unclosed, recover_after_kill, recover_after_power_loss};
pub use scan::{BlockSummary, read_header_alone};
pub use tail::Tail;
pub use writer::{EMPTY_LOG_BYTES, LogWriter};

use crate::domain::catalogue::Code;
use crate::domain::failure::Classified;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a log cannot be read, or not be written.
#[derive(Debug, Error)]
pub enum LogError {
    /// The file system refused.
    #[error("use replication log {path}")]
    Io {
        /// The log, or the tail beside it.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// The log does not hold what a log holds.
    #[error("read replication log {path}: {damage} at byte {at}")]
    Damaged {
        /// The log, or the tail beside it.
        path: PathBuf,
        /// Where in the file.
        at: u64,
        /// What is wrong there.
        #[source]
        damage: Damage,
    },
    /// The disk did not take a write of the log.
    #[error("apply replication log {path} to its disk at byte {offset}")]
    Apply {
        /// The log.
        path: PathBuf,
        /// Where on the disk.
        offset: u64,
        /// What the disk answered.
        #[source]
        source: io::Error,
    },
}

impl Classified for LogError {
    fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Code::LogVolumeFull
            }
            Self::Io { .. } => Code::HostResourcesShort,
            Self::Damaged { .. } => Code::LogChainBroken,
            Self::Apply { .. } => Code::DiskUnusable,
        }
    }
}

impl LogError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self + Copy + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }

    fn damaged(path: &Path, at: u64, damage: Damage) -> Self {
        Self::Damaged { path: path.to_owned(), at, damage }
    }
}
