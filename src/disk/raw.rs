//! A disk in a raw image file.

use super::bounds;
use crate::domain::catalogue::Code;
use crate::domain::failure::Classified;
use crate::ports::block::{BlockDevice, DiskIdentity, Write};
use crate::ports::files::{File, Files, Open};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// The unit that a disk's size is a multiple of.
pub const SECTOR_BYTES: u64 = 512;

/// A disk whose byte `n` is byte `n` of a file, which may be longer. A flush is an `fdatasync` of the file.
#[derive(Debug)]
pub struct RawDisk {
    file: Arc<dyn File>,
    path: PathBuf,
    size_bytes: u64,
    read_only: bool,
    /// Held for several writes: a file system lets one at a time into a file, and who waits there spins.
    turn: Mutex<()>,
}

/// Why a raw image cannot be used as a disk.
#[derive(Debug, Error)]
pub enum RawDiskError {
    /// The file cannot be opened or made.
    #[error("open disk image {path}")]
    Open {
        /// The image.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// No disk has such a size.
    #[error(
        "use disk image {path}: its {size_bytes} bytes are not a multiple of {SECTOR_BYTES}; \
         extend it with `truncate --size=%{SECTOR_BYTES} {path}`"
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its length.
        size_bytes: u64,
    },
}

impl Classified for RawDiskError {
    fn code(&self) -> Code {
        Code::DiskUnusable
    }
}

impl RawDisk {
    /// Opens an image that exists; with [`Open::Read`] the disk is read-only.
    ///
    /// # Errors
    /// [`RawDiskError`]: not recoverable until somebody puts the file right.
    pub fn open(files: &dyn Files, path: &Path, how: Open) -> Result<Self, RawDiskError> {
        let failed = |source| RawDiskError::Open { path: path.to_owned(), source };
        let file = files.open(path, how).map_err(failed)?;
        let size_bytes = file.len().map_err(failed)?;
        if !size_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(RawDiskError::Size { path: path.to_owned(), size_bytes });
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            size_bytes,
            read_only: how == Open::Read,
            turn: Mutex::default(),
        })
    }

    /// Makes an image of `size_bytes` zeroes, all of it a hole. Durable with the next flush and a
    /// sync of the folder.
    ///
    /// # Errors
    /// [`RawDiskError`]; a file that exists is left as it is.
    pub fn create(files: &dyn Files, path: &Path, size_bytes: u64) -> Result<Self, RawDiskError> {
        if !size_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(RawDiskError::Size { path: path.to_owned(), size_bytes });
        }
        let failed = |source| RawDiskError::Open { path: path.to_owned(), source };
        let file = files.open(path, Open::CreateNew).map_err(failed)?;
        file.set_len(size_bytes).map_err(failed)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            size_bytes,
            read_only: false,
            turn: Mutex::default(),
        })
    }

    /// The first `size_bytes` of it as a disk of that size; all of it where it is no longer than that.
    #[must_use]
    pub fn limited_to(self, size_bytes: u64) -> Self {
        Self { size_bytes: self.size_bytes.min(size_bytes), ..self }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }
}

impl BlockDevice for RawDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        bounds::check(self.size_bytes, offset, buffer.len() as u64)?;
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64, fua: bool) -> io::Result<()> {
        self.check_writable()?;
        bounds::check(self.size_bytes, offset, data.len() as u64)?;
        self.file.write_all_at(data, offset)?;
        if fua { self.file.sync_data() } else { Ok(()) }
    }

    fn write_each_at(&self, writes: &[Write<'_>]) -> Vec<io::Result<()>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        writes.iter().map(|write| self.write_at(write.data, write.offset, false)).collect()
    }

    fn zero(&self, range: Range<u64>, punch: bool, fua: bool) -> io::Result<()> {
        self.check_writable()?;
        bounds::check(self.size_bytes, range.start, range.end.saturating_sub(range.start))?;
        self.file.zero(range, punch)?;
        if fua { self.file.sync_data() } else { Ok(()) }
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.file.sync_data() }
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let data = self.file.next_data(from)?;
        let data = data.filter(|data| data.start < self.size_bytes);
        Ok(data.map(|data| data.start..data.end.min(self.size_bytes)))
    }

    fn identity(&self) -> io::Result<Option<DiskIdentity>> {
        let path = self.path.clone();
        Ok(self.file.identity()?.map(|file| DiskIdentity { path, file }))
    }

    fn set_mark(&self, marked: bool) -> io::Result<()> {
        self.file.set_mark(marked)
    }

    fn is_marked(&self) -> io::Result<bool> {
        self.file.is_marked()
    }

    fn read_only(&self) -> bool {
        self.read_only
    }
}
