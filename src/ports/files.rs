//! The file port: every file of the data plane is reached through it, so that a simulation can lose,
//! tear or refuse a write, and a lab host can be killed in the middle of one.

use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Debug};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
    /// A file that is made if it does not exist, for reading and writing; content is kept.
    Create,
}

/// What changes when somebody else changes or replaces a file, as far as a file system tells.
///
/// The device number is left out: it changes when a machine finds its disks in another order. The time of
/// the last change of attributes is too: hypervisors change the owner of an image when a VM starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Number of the file in its file system: another one where the file was replaced.
    pub inode: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// When its content was changed last, in nanoseconds since 1970, as finely as the file system
    /// counts.
    pub modified_ns: i64,
}

impl fmt::Display for FileIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inode, bytes, modified_ns } = self;
        let at = Timestamp::from_millis(modified_ns.div_euclid(1_000_000));
        let nanos = modified_ns.rem_euclid(1_000_000_000);
        write!(f, "inode {inode}, {bytes} bytes, changed {at} ({nanos} ns)")
    }
}

/// A file system as the data plane needs it. Calls block; never call them on an async executor.
pub trait Files: Send + Sync + Debug {
    /// Opens `path`.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;

    /// Renames a file over whatever `to` is. Durable after [`Files::sync_dir`].
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Files::sync_dir`].
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in the folder durable.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;

    /// Makes a folder and those above it; one that is there is fine. Durable after
    /// [`Files::sync_dir`] of the folder above.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// The files of a folder, by full path, sorted.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// The folders in a folder, by full path, sorted; none if there is no such folder.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn folders(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// Removes a folder with everything in it; one that is not there is fine. May end half done. Durable
    /// after [`Files::sync_dir`] of the folder above.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn remove_folder(&self, folder: &Path) -> io::Result<()>;

    /// Whether something is at `path`.
    fn exists(&self, path: &Path) -> bool;

    /// Bytes free for this process on the volume that holds `path`.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file. All positions and lengths are bytes. Shared between threads without a cursor.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait File: Send + Sync + Debug {
    /// Fills `buffer` from `offset` on; a file that ends earlier is an `UnexpectedEof`.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes the buffers, one after the other, from `offset` on. Survives kill -9 once returned;
    /// survives power loss after [`File::sync_data`]. A failed call may have written a part.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn write_all_vectored_at(&self, buffers: &[&[u8]], offset: u64) -> io::Result<()>;

    /// Writes one buffer at `offset`; durability as [`File::write_all_vectored_at`].
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_vectored_at(&[buffer], offset)
    }

    /// Makes content and length durable (`fdatasync`). After an error nothing about earlier writes
    /// may be assumed: the kernel can have dropped them.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn len(&self) -> io::Result<u64>;

    /// Cuts or extends (with a hole) the file to `len` bytes.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Asks for room behind the end of the file, so that appending there costs less. Neither its length nor
    /// what it holds changes, and nothing is promised: a volume that cannot do it, or is full, shows when
    /// it is written to. [`File::set_len`] gives back what was not used.
    fn reserve(&self, _range: Range<u64>) {}

    /// Makes a range read as zeroes. `punch` asks for its space back as well; without it the space
    /// may stay allocated. Falls back to writing zeroes where the file system cannot.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn zero(&self, range: Range<u64>, punch: bool) -> io::Result<()>;

    /// The first run of data (not hole) at or after `from`, or `None` if only holes follow. A file
    /// system without holes answers with everything up to the end.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>>;

    /// Makes content and attributes durable (`fsync`) and answers what identifies the file, so that a
    /// start after a power loss finds the same if nobody changed it. `None` from a file system that
    /// cannot tell.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn identity(&self) -> io::Result<Option<FileIdentity>> {
        Ok(None)
    }

    /// Puts a mark on the file, apart from its content, or takes it off; durable on return.
    ///
    /// # Errors
    /// `Unsupported` from a file system that has no place for it; else what the file system answers.
    fn set_mark(&self, marked: bool) -> io::Result<()> {
        if marked { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    /// Whether the mark is on the file.
    ///
    /// # Errors
    /// What the file system answers, unchanged.
    fn is_marked(&self) -> io::Result<bool> {
        Ok(false)
    }
}
