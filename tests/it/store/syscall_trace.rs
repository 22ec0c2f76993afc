//! What a process did to its files, and the disk images that a power loss could have left of it.
//!
//! `syscall_trace.c` is built with `cc` and preloaded into a child. Only `fsync` and `fdatasync` make
//! content durable here; `sync_file_range`, which sled uses, does not. Names become durable when their
//! folder is synced; what was not is lost from the end, as a journal does it.

use super::kill::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the shim into `folder`; `None`, with a line that says so, if there is no C compiler.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub(super) fn build(test: &str, folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/store/syscall_trace.c");
    let shim = folder.join("syscall_trace.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&shim)
        .arg(&source)
        .args(["-ldl", "-lpthread"])
        .output();
    let Ok(output) = built else {
        println!("SKIPPED {test}: cc is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(shim)
}

/// One thing that was done. Paths are relative to the root.
#[derive(Debug)]
pub(super) enum Deed {
    Create(PathBuf),
    Folder(PathBuf),
    Write { path: PathBuf, at: u64, bytes: Vec<u8> },
    Cut { path: PathBuf, len: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Unlink(PathBuf),
    Sync(PathBuf),
}

/// Reads a trace; a record that was being written when the process died is left out.
pub(super) fn read(trace: &Path, root: &Path) -> Vec<Deed> {
    let bytes = std::fs::read(trace).unwrap();
    let mut rest = &bytes[..];
    let mut deeds = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<17>() {
        let at = u64::from_le_bytes(*head[1..].first_chunk().unwrap());
        let [a, b] =
            [9, 13].map(|at| u32::from_le_bytes(*head[at..].first_chunk().unwrap()) as usize);
        if after.len() < a + b {
            break;
        }
        let (path, second) = (&after[..a], &after[a..a + b]);
        rest = &after[a + b..];
        let relative = |path: &[u8]| {
            let path = PathBuf::from(String::from_utf8(path.to_vec()).unwrap());
            path.strip_prefix(root).unwrap().to_path_buf()
        };
        let path = relative(path);
        deeds.push(match head[0] {
            b'C' => Deed::Create(path),
            b'D' => Deed::Folder(path),
            b'W' => Deed::Write { path, at, bytes: second.to_vec() },
            b'T' => Deed::Cut { path, len: at },
            b'R' => Deed::Rename { from: path, to: relative(second) },
            b'U' => Deed::Unlink(path),
            b'S' => Deed::Sync(path),
            other => panic!("unknown deed {other}"),
        });
    }
    deeds
}

/// A change of a file's content that is not durable yet.
#[derive(Clone, Debug)]
enum Change<'a> {
    Write(u64, &'a [u8]),
    Cut(u64),
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
enum Naming<'a> {
    Create(&'a Path, usize),
    Folder(&'a Path),
    Rename(&'a Path, &'a Path),
    Unlink(&'a Path),
}

/// A disk while deeds are done to it.
#[derive(Debug, Default)]
pub(super) struct Disk<'a> {
    /// What the process sees: names of files.
    seen: BTreeMap<&'a Path, usize>,
    /// What is durable.
    names: BTreeMap<PathBuf, usize>,
    folders: BTreeSet<PathBuf>,
    files: Vec<Vec<u8>>,
    /// What is not, in order.
    changes: Vec<Vec<Change<'a>>>,
    namings: Vec<Naming<'a>>,
}

impl<'a> Disk<'a> {
    pub(super) fn perform(&mut self, deed: &'a Deed) {
        match deed {
            Deed::Create(path) => {
                self.files.push(Vec::new());
                self.changes.push(Vec::new());
                self.seen.insert(path, self.files.len() - 1);
                self.namings.push(Naming::Create(path, self.files.len() - 1));
            }
            Deed::Folder(path) => self.namings.push(Naming::Folder(path)),
            Deed::Write { path, at, bytes } => {
                self.changes[self.seen[&**path]].push(Change::Write(*at, bytes));
            }
            Deed::Cut { path, len } => self.changes[self.seen[&**path]].push(Change::Cut(*len)),
            Deed::Rename { from, to } => {
                let file = self.seen.remove(&**from).unwrap();
                self.seen.insert(to, file);
                self.namings.push(Naming::Rename(from, to));
            }
            Deed::Unlink(path) => {
                self.seen.remove(&**path);
                self.namings.push(Naming::Unlink(path));
            }
            Deed::Sync(path) => match self.seen.get(&**path) {
                Some(&file) => {
                    for change in std::mem::take(&mut self.changes[file]) {
                        apply(&mut self.files[file], &change);
                    }
                }
                None => self.sync_folder(path),
            },
        }
    }

    /// Makes the names up to the folder's last change durable: a journal commits in order.
    fn sync_folder(&mut self, folder: &Path) {
        let concerns = |naming: &Naming| match naming {
            Naming::Create(path, _) | Naming::Folder(path) | Naming::Unlink(path) => {
                path.parent() == Some(folder)
            }
            Naming::Rename(from, to) => {
                from.parent() == Some(folder) || to.parent() == Some(folder)
            }
        };
        let durable = self.namings.iter().rposition(concerns).map_or(0, |at| at + 1);
        for naming in self.namings.drain(..durable) {
            name(&mut self.names, &mut self.folders, &naming);
        }
    }

    /// Writes what is left after a power loss into `to`. Some of the names that were not durable are
    /// there, the first ones; of the content that was not durable nothing is, or with `torn` any part.
    pub(super) fn lose_power(&self, to: &Path, torn: bool, random: &mut Random) {
        let (mut names, mut folders) = (self.names.clone(), self.folders.clone());
        let kept = random.below(self.namings.len() as u64 + 1) as usize;
        for naming in &self.namings[..kept] {
            name(&mut names, &mut folders, naming);
        }
        std::fs::create_dir_all(to).unwrap();
        for folder in folders {
            std::fs::create_dir_all(to.join(folder)).unwrap();
        }
        for (path, file) in names {
            let mut content = self.files[file].clone();
            if torn {
                for change in &self.changes[file] {
                    tear(&mut content, change, random);
                }
            }
            std::fs::write(to.join(path), content).unwrap();
        }
    }
}

fn name(
    names: &mut BTreeMap<PathBuf, usize>,
    folders: &mut BTreeSet<PathBuf>,
    naming: &Naming<'_>,
) {
    match naming {
        Naming::Create(path, file) => {
            names.insert(path.to_path_buf(), *file);
        }
        Naming::Folder(path) => {
            folders.insert(path.to_path_buf());
        }
        Naming::Rename(from, to) => {
            let file = names.remove(*from).unwrap();
            names.insert(to.to_path_buf(), file);
        }
        Naming::Unlink(path) => {
            names.remove(*path);
        }
    }
}

fn apply(file: &mut Vec<u8>, change: &Change<'_>) {
    match change {
        Change::Write(at, bytes) => {
            let at = *at as usize;
            file.resize(file.len().max(at + bytes.len()), 0);
            file[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Change::Cut(len) => file.resize(*len as usize, 0),
    }
}

/// Lets half of the changes happen, and of half of those only some sectors.
fn tear(file: &mut Vec<u8>, change: &Change<'_>, random: &mut Random) {
    match (change, random.below(4)) {
        (_, 0 | 1) => {}
        (Change::Write(at, bytes), 2) => {
            for (nth, sector) in bytes.chunks(512).enumerate() {
                if random.below(2) == 0 {
                    apply(file, &Change::Write(at + nth as u64 * 512, sector));
                }
            }
        }
        (change, _) => apply(file, change),
    }
}
