//! The file with a vault's keys: only its owner may read it, and it is never half written.

use super::random::KernelRandom;
use crate::replica::{KeyFile, KeyFileError, KeyId};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

/// Longest key file: some hundred keys.
const BYTES_MAX: u64 = 256 * 1024;

/// Permissions of everybody but the owner.
const OTHERS: u32 = 0o077;

/// Why a key file cannot be used or made.
#[derive(Debug, Error)]
pub enum KeyFileProblem {
    /// The file cannot be reached.
    #[error("{doing} key file {path}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// It is open to more than its owner.
    #[error(
        "read key file {path}: others may read or change it (mode {mode:o}): make it 600, \
         and change the keys if others have read it"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Its text is not what it should be.
    #[error("read key file {path}")]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: KeyFileError,
    },
}

/// Reads a key file.
///
/// # Errors
/// [`KeyFileProblem`].
pub(super) fn read(path: &Path) -> Result<KeyFile, KeyFileProblem> {
    let failed = |source| KeyFileProblem::File { doing: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    let mode = about.mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(KeyFileProblem::Open { path: path.to_owned(), mode });
    }
    if BYTES_MAX < about.len() {
        return Err(failed(io::Error::other("it is too long for a key file")));
    }
    // Room for everything, since growing would leave a copy of the keys behind.
    let mut text = Zeroizing::new(String::with_capacity(about.len() as usize + 1));
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    KeyFile::parse(&text).map_err(|source| KeyFileProblem::Text { path: path.to_owned(), source })
}

/// Makes a key file with one key; there must be no file of this name.
///
/// # Errors
/// [`KeyFileProblem::File`].
pub fn create(path: &Path) -> Result<KeyId, KeyFileProblem> {
    let failed = |source| KeyFileProblem::File { doing: "make", path: path.to_owned(), source };
    let keys = KeyFile::generate(&KernelRandom);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    write(&mut file, &keys).and_then(|()| sync_folder(path)).map_err(failed)?;
    Ok(keys.active())
}

/// Adds a key and makes it the active one. The file is replaced as a whole.
///
/// # Errors
/// [`KeyFileProblem`].
pub fn rotate(path: &Path) -> Result<KeyId, KeyFileProblem> {
    let mut keys = read(path)?;
    let active = keys.rotate(&KernelRandom);
    let failed = |source| KeyFileProblem::File { doing: "rotate", path: path.to_owned(), source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".rotating");
    let beside = PathBuf::from(beside);
    let replace = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        write(&mut file, &keys)?;
        fs::rename(&beside, path)?;
        sync_folder(path)
    };
    replace().map_err(failed)?;
    Ok(active)
}

fn write(file: &mut File, keys: &KeyFile) -> io::Result<()> {
    file.write_all(keys.text().as_bytes())?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}
