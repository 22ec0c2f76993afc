//! The block port: what an NBD export serves and a tracker stands on.

use crate::ports::files::FileIdentity;
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// The file that a disk is in, as it is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub file: FileIdentity,
}

/// One write of several.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Where it goes.
    pub offset: u64,
    /// What goes there.
    pub data: &'a [u8],
}

/// A disk of fixed size, read and written at byte positions, shared between threads. Calls block.
///
/// A write is acknowledged by returning; it survives kill -9 from then on, and power loss after the
/// next [`BlockDevice::flush`] (or if it was written with `fua`). Ranges beyond the end are refused
/// with `InvalidInput`. An error of the medium keeps its `io::Error` kind, so that "no space" can be
/// told from "broken".
pub trait BlockDevice: Send + Sync + Debug {
    /// Size in bytes; a multiple of 512.
    fn size_bytes(&self) -> u64;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// `InvalidInput` for a range beyond the end; else what the medium answers.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes `data` at `offset`; with `fua` it is durable when this returns.
    ///
    /// # Errors
    /// `InvalidInput` for a range beyond the end; else what the medium answers.
    fn write_at(&self, data: &[u8], offset: u64, fua: bool) -> io::Result<()>;

    /// Writes one after the other, as [`BlockDevice::write_at`] does, and answers how each went. For a
    /// device that does several with less work; none counts as acknowledged before all are done.
    fn write_each_at(&self, writes: &[Write<'_>]) -> Vec<io::Result<()>> {
        writes.iter().map(|write| self.write_at(write.data, write.offset, false)).collect()
    }

    /// Makes the range read as zeroes; `punch` gives the space back where that is possible.
    ///
    /// # Errors
    /// `InvalidInput` for a range beyond the end; else what the medium answers.
    fn zero(&self, range: Range<u64>, punch: bool, fua: bool) -> io::Result<()>;

    /// Makes every write that was acknowledged before the call durable.
    ///
    /// # Errors
    /// What the medium answers; what was not durable before may be lost.
    fn flush(&self) -> io::Result<()>;

    /// The first run of allocated data at or after `from`, or `None` if everything after reads as
    /// zeroes. Used for holes: a device that cannot tell answers with everything up to the end.
    ///
    /// # Errors
    /// What the medium answers.
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>>;

    /// Makes everything durable and answers what identifies the disk's file. `None` where there is no
    /// such file: then nobody can tell whether the disk was changed while nothing tracked it.
    ///
    /// # Errors
    /// What the medium answers.
    fn identity(&self) -> io::Result<Option<DiskIdentity>> {
        Ok(None)
    }

    /// Puts a mark on the disk's file, as [`File::set_mark`](crate::ports::files::File::set_mark).
    ///
    /// # Errors
    /// `Unsupported` where there is no such file; else what the medium answers.
    fn set_mark(&self, marked: bool) -> io::Result<()> {
        if marked { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    /// Whether the mark is on the disk's file.
    ///
    /// # Errors
    /// What the medium answers.
    fn is_marked(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Whether nothing can be written.
    fn read_only(&self) -> bool {
        false
    }
}

/// Opens a disk by its NBD URI, as the hypervisor that a VM runs on would.
pub type Connect =
    std::sync::Arc<dyn Fn(&str) -> io::Result<std::sync::Arc<dyn BlockDevice>> + Send + Sync>;
