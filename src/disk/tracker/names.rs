//! The names of a disk's files, and which of them are there.
//!
//! | name | what |
//! |---|---|
//! | `<disk>.hrl` | the active log |
//! | `<disk>.hrl.tail` | the tail of the active log |
//! | `<disk>.hrl.<number>.transit` | the log of cut `<number>` |
//! | `<disk>.hrl.<number>.next` | the log that becomes active with cut `<number>` |
//! | `<disk>.hrl.<number>.compact` | what replaces the log of cut `<number>`, smaller |
//! | `<disk>.bm` | what may differ from the replica apart from what the logs hold |
//! | `<disk>.al` | the regions that were written |
//! | `<file>.next` | what a file is replaced by |

use crate::ports::files::{Files, Open};
use std::io;
use std::path::{Path, PathBuf};

/// The file names of one disk.
#[derive(Clone, Debug)]
pub(super) struct Names {
    folder: PathBuf,
    name: String,
}

/// Which logs of a disk are there.
#[derive(Clone, Debug, Default)]
pub(super) struct Present {
    pub(super) active: bool,
    pub(super) transit: Vec<u64>,
    pub(super) next: Vec<u64>,
    pub(super) compact: Vec<u64>,
}

impl Names {
    pub(super) fn new(folder: &Path, name: &str) -> Self {
        Self { folder: folder.to_owned(), name: name.to_owned() }
    }

    pub(super) fn active(&self) -> PathBuf {
        self.folder.join(format!("{}.hrl", self.name))
    }

    pub(super) fn tail(&self) -> PathBuf {
        self.folder.join(format!("{}.hrl.tail", self.name))
    }

    pub(super) fn transit(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{}.hrl.{number}.transit", self.name))
    }

    pub(super) fn next(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{}.hrl.{number}.next", self.name))
    }

    pub(super) fn compact(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{}.hrl.{number}.compact", self.name))
    }

    pub(super) fn suspects(&self) -> PathBuf {
        self.folder.join(format!("{}.bm", self.name))
    }

    pub(super) fn marks(&self) -> PathBuf {
        self.folder.join(format!("{}.al", self.name))
    }

    /// Looks which logs are there.
    pub(super) fn present(&self, files: &dyn Files) -> io::Result<Present> {
        let prefix = format!("{}.hrl.", self.name);
        let mut present = Present { active: files.exists(&self.active()), ..Present::default() };
        for path in files.list(&self.folder)? {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(rest) = name.and_then(|name| name.strip_prefix(&prefix)) else { continue };
            let Some((number, kind)) = rest.split_once('.') else { continue };
            match (number.parse(), kind) {
                (Ok(number), "transit") => present.transit.push(number),
                (Ok(number), "next") => present.next.push(number),
                (Ok(number), "compact") => present.compact.push(number),
                (Ok(_) | Err(_), _) => {}
            }
        }
        Ok(present)
    }

    /// The logs that hold what was written since cut `acknowledged`, the oldest first.
    pub(super) fn since(&self, files: &dyn Files, acknowledged: u64) -> io::Result<Vec<PathBuf>> {
        let present = self.present(files)?;
        let unshipped = present.transit.iter().filter(|number| acknowledged < **number);
        let mut paths: Vec<PathBuf> = unshipped.map(|number| self.transit(*number)).collect();
        // After half a rename the active log is the one in transit, and the next has no other name yet.
        if present.active || present.next.is_empty() {
            paths.push(self.active());
        }
        paths.extend(present.next.iter().map(|number| self.next(*number)));
        Ok(paths)
    }

    /// Removes every log of the disk and its tail.
    pub(super) fn remove_logs(&self, files: &dyn Files) -> io::Result<()> {
        let present = self.present(files)?;
        let mut paths = vec![self.active(), self.tail()];
        paths.extend(present.transit.iter().map(|number| self.transit(*number)));
        paths.extend(present.next.iter().map(|number| self.next(*number)));
        paths.extend(present.compact.iter().map(|number| self.compact(*number)));
        paths.iter().try_for_each(|path| remove(files, path))
    }
}

/// Replaces a file as a whole: written beside, synced, renamed, folder synced. Durable on return.
pub(super) fn replace(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".next");
    let beside = PathBuf::from(beside);
    let file = files.open(&beside, Open::Create)?;
    file.set_len(0)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    files.rename(&beside, path)?;
    files.sync_dir(path.parent().unwrap_or(path))
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove(files: &dyn Files, path: &Path) -> io::Result<()> {
    match files.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
