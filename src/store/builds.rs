//! Which build wrote which commits: a small file, `BUILDS`, beside a store's log.
//!
//! A build notes itself when it opens the store, before it writes. What was written before there was such a
//! file, or by whom the file does not prove, is of an unknown build. The file is replaced as a whole:
//! `{"crc":"…","builds":[{"from":…,"build":"…","payload_version":…}]}`, with the CRC32 of the list.

use super::payload::VERSION;
use crate::ports::event_store::WrittenBy;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Bytes of the largest file that is read: of some thousand builds.
const BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    crc: String,
    builds: Vec<WrittenBy>,
}

/// What this build calls itself: its version, and behind a `+` the commit that a release was built from.
pub const BUILD: &str = env!("LIFEBOAT_BUILD");

/// This build, for what it writes from a position on.
pub fn this_build(from: u64) -> WrittenBy {
    WrittenBy { from, build: BUILD.to_owned(), payload_version: VERSION }
}

/// What the file in a store's folder says; nothing where it is missing or damaged.
pub(crate) fn read(folder: &Path) -> Vec<WrittenBy> {
    let path = folder.join("BUILDS");
    let small = fs::metadata(&path).is_ok_and(|file| file.len() <= BYTES_MAX);
    let text = if small { fs::read(&path).unwrap_or_default() } else { Vec::new() };
    let document = serde_json::from_slice::<Document>(&text).ok();
    document.filter(|it| it.crc == checksum(&it.builds)).map_or_else(Vec::new, |it| it.builds)
}

/// Notes that this build writes from a position on. Returns once that is durable.
pub(crate) fn note(folder: &Path, from: u64) -> io::Result<()> {
    let noted = read(folder);
    let mut builds: Vec<_> = noted.iter().filter(|it| it.from < from).cloned().collect();
    let this = this_build(from);
    let is_known = builds.last().is_some_and(|last| {
        (&last.build, last.payload_version) == (&this.build, this.payload_version)
    });
    if !is_known {
        builds.push(this);
    }
    if builds == noted { Ok(()) } else { write(folder, builds) }
}

/// Replaces the file. Returns once that is durable.
pub(crate) fn write(folder: &Path, builds: Vec<WrittenBy>) -> io::Result<()> {
    let document = Document { crc: checksum(&builds), builds };
    let unfinished = folder.join("BUILDS.unfinished");
    let mut file = File::create(&unfinished)?;
    serde_json::to_writer(&mut file, &document)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join("BUILDS"))?;
    File::open(folder)?.sync_all()
}

/// Forgets what the file says: what is not certain is not claimed.
pub(crate) fn forget(folder: &Path) {
    if let Err(error) = fs::remove_file(folder.join("BUILDS"))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "forget which builds wrote the log");
    }
}

fn checksum(builds: &[WrittenBy]) -> String {
    let text =
        serde_json::to_vec(builds).expect("plain data with text keys always has a JSON form");
    format!("{:08x}", crc32fast::hash(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn earlier(from: u64) -> WrittenBy {
        WrittenBy { from, build: "0.0.9".to_owned(), payload_version: 1 }
    }

    #[test]
    fn a_build_notes_itself_once_and_what_it_never_wrote_is_not_its_own() {
        let folder = tempfile::tempdir().expect("folder");
        let folder = folder.path();
        note(folder, 1).expect("note");
        note(folder, 8).expect("note");
        assert_eq!(read(folder), [this_build(1)]);
        write(folder, vec![earlier(1)]).expect("write");
        note(folder, 8).expect("note");
        assert_eq!(read(folder), [earlier(1), this_build(8)]);
        // The build that opened the log at 8 wrote nothing, and another one does.
        write(folder, vec![this_build(1), earlier(8)]).expect("write");
        note(folder, 8).expect("note");
        assert_eq!(read(folder), [this_build(1)]);
    }

    #[test]
    fn a_damaged_file_says_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        write(folder.path(), vec![earlier(1), this_build(30)]).expect("write");
        let path = folder.path().join("BUILDS");
        let text = fs::read_to_string(&path).expect("read");
        fs::write(&path, text.replace("30", "20")).expect("write");
        assert!(read(folder.path()).is_empty());
        fs::write(&path, &text[..20]).expect("write");
        assert!(read(folder.path()).is_empty());
        note(folder.path(), 7).expect("note");
        assert_eq!(read(folder.path()), [this_build(7)]);
    }
}
