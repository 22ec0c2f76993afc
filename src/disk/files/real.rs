//! The machine's file system.

use super::{ZERO_PIECE, ZEROES};
use crate::ports::files::{File, FileIdentity, Files, Open};
use rustix::fs::{FallocateFlags, SeekFrom, XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;
use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `writev` takes at most this many buffers in one call. Source: `IOV_MAX`, linux `uio.h`.
const BUFFERS_MAX: usize = 1024;

/// The extended attribute that a marked file has. It goes where the file goes, whatever it is named.
const MARK: &str = "user.lifeboat.marked";

/// The machine's file system, through positioned system calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(how != Open::Read);
        match how {
            Open::Read | Open::Write => {}
            Open::CreateNew => _ = options.create_new(true),
            Open::Create => _ = options.create(true).truncate(false),
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        fs::File::open(folder)?.sync_all()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }

    fn folders(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut folders = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
        folders.sort();
        Ok(folders)
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let volume = rustix::fs::statvfs(path)?;
        Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_vectored_at(&self, buffers: &[&[u8]], mut offset: u64) -> io::Result<()> {
        if let [single] = buffers {
            return self.0.write_all_at(single, offset);
        }
        let mut slices: Vec<IoSlice<'_>> =
            buffers.iter().map(|buffer| IoSlice::new(buffer)).collect();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0); // drops leading empty buffers
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(BUFFERS_MAX)];
            match rustix::io::pwritev(&self.0, batch, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn reserve(&self, range: Range<u64>) {
        let (offset, length) = (range.start, range.end - range.start);
        // The next write says what is wrong.
        let _ = rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, offset, length);
    }

    fn zero(&self, range: Range<u64>, punch: bool) -> io::Result<()> {
        let range = range.start..range.end.min(self.len()?);
        if range.is_empty() {
            return Ok(());
        }
        let how = if punch { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        let (offset, length) = (range.start, range.end - range.start);
        loop {
            match rustix::fs::fallocate(&self.0, how | FallocateFlags::KEEP_SIZE, offset, length) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return self.write_zeroes(range),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len()?;
        if len <= from {
            return Ok(None);
        }
        // The cursor that these calls move is never read: every other call is positioned.
        let start = match rustix::fs::seek(&self.0, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(from..len)),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&self.0, SeekFrom::Hole(start))?;
        Ok(Some(start..end))
    }

    fn identity(&self) -> io::Result<Option<FileIdentity>> {
        self.0.sync_all()?;
        let found = self.0.metadata()?;
        let modified_ns =
            found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
        Ok(Some(FileIdentity { inode: found.ino(), bytes: found.len(), modified_ns }))
    }

    fn set_mark(&self, marked: bool) -> io::Result<()> {
        let done = if marked {
            fsetxattr(&self.0, MARK, b"1", XattrFlags::empty())
        } else {
            fremovexattr(&self.0, MARK)
        };
        match done {
            Err(Errno::NODATA | Errno::OPNOTSUPP) if !marked => Ok(()),
            done => done.map_err(io::Error::from).and_then(|()| self.0.sync_all()),
        }
    }

    fn is_marked(&self) -> io::Result<bool> {
        match fgetxattr(&self.0, MARK, &mut [0; 1][..]) {
            Ok(_) | Err(Errno::RANGE) => Ok(true),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl RealFile {
    fn write_zeroes(&self, range: Range<u64>) -> io::Result<()> {
        let mut offset = range.start;
        while offset < range.end {
            let piece = (range.end - offset).min(ZERO_PIECE as u64);
            self.0.write_all_at(&ZEROES[..piece as usize], offset)?;
            offset += piece;
        }
        Ok(())
    }
}
