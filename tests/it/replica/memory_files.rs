//! Files in memory that lose what was not synced when the power goes, sector by sector.

use lifeboat::ports::files::{File, Files, Open};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const SECTOR: u64 = 512;

type Sectors = BTreeMap<u64, Vec<u8>>;

#[derive(Debug, Default)]
pub(super) struct MemoryFiles {
    files: Mutex<BTreeMap<PathBuf, Arc<MemoryFile>>>,
}

#[derive(Debug, Default)]
pub(super) struct MemoryFile {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    len: u64,
    now: Sectors,
    synced: Sectors,
    unsynced: BTreeSet<u64>,
    no_room: bool,
    refuse_sync: bool,
}

impl MemoryFiles {
    pub(super) fn file(&self, path: &Path) -> Arc<MemoryFile> {
        self.files.lock().unwrap()[path].clone()
    }

    /// Of every sector that was not synced, `survives` says whether its last write reached the disk.
    pub(super) fn lose_power(&self, mut survives: impl FnMut() -> bool) {
        for file in self.files.lock().unwrap().values() {
            let state = &mut *file.state.lock().unwrap();
            for sector in std::mem::take(&mut state.unsynced) {
                if survives() {
                    copy(&state.now, &mut state.synced, sector);
                } else {
                    copy(&state.synced, &mut state.now, sector);
                }
            }
        }
    }
}

fn copy(from: &Sectors, to: &mut Sectors, sector: u64) {
    match from.get(&sector) {
        Some(bytes) => to.insert(sector, bytes.clone()),
        None => to.remove(&sector),
    };
}

impl MemoryFile {
    pub(super) fn no_room(&self, no_room: bool) {
        self.state.lock().unwrap().no_room = no_room;
    }

    pub(super) fn refuse_sync(&self, refuse: bool) {
        self.state.lock().unwrap().refuse_sync = refuse;
    }

    pub(super) fn flip(&self, at: u64) {
        let state = &mut *self.state.lock().unwrap();
        let sector = state.now.entry(at / SECTOR).or_insert_with(|| vec![0; SECTOR as usize]);
        sector[(at % SECTOR) as usize] ^= 1;
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        self.state.lock().unwrap().now.len() as u64 * SECTOR
    }
}

impl State {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = (SECTOR - at % SECTOR) as usize;
            let (head, tail) = rest.split_at(room.min(rest.len()));
            let sector = self.now.entry(at / SECTOR).or_insert_with(|| vec![0; SECTOR as usize]);
            sector[(at % SECTOR) as usize..][..head.len()].copy_from_slice(head);
            self.unsynced.insert(at / SECTOR);
            at += head.len() as u64;
            rest = tail;
        }
        self.len = self.len.max(at);
    }

    fn forget(&mut self, sectors: Range<u64>) {
        let gone: Vec<u64> = self.now.range(sectors).map(|(sector, _)| *sector).collect();
        for sector in gone {
            self.now.remove(&sector);
            self.unsynced.insert(sector);
        }
    }
}

impl Files for MemoryFiles {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut files = self.files.lock().unwrap();
        match (how, files.get(path)) {
            (Open::CreateNew, Some(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            (Open::Read | Open::Write, None) => Err(io::ErrorKind::NotFound.into()),
            (_, Some(file)) => Ok(file.clone()),
            (Open::Create | Open::CreateNew, None) => {
                Ok(files.entry(path.to_owned()).or_default().clone())
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.files.lock().unwrap().remove(path);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn make_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let files = self.files.lock().unwrap();
        Ok(files.keys().filter(|path| path.parent() == Some(folder)).cloned().collect())
    }

    fn folders(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        self.files.lock().unwrap().retain(|path, _| !path.starts_with(folder));
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.files.lock().unwrap().contains_key(path)
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl File for MemoryFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        if state.len < offset + buffer.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        for (sector, bytes) in state.now.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let start = sector * SECTOR;
            let part = start.max(offset)..(start + SECTOR).min(end);
            let from = (part.start - start) as usize..(part.end - start) as usize;
            let to = (part.start - offset) as usize..(part.end - offset) as usize;
            buffer[to].copy_from_slice(&bytes[from]);
        }
        Ok(())
    }

    fn write_all_vectored_at(&self, buffers: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.no_room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.write(&buffers.concat(), offset);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.state.lock().unwrap();
        if state.refuse_sync {
            return Err(io::Error::other("the medium refused"));
        }
        for sector in std::mem::take(&mut state.unsynced) {
            copy(&state.now, &mut state.synced, sector);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.forget(len.div_ceil(SECTOR)..u64::MAX);
        state.len = len;
        Ok(())
    }

    fn zero(&self, range: Range<u64>, _punch: bool) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let whole = range.start.div_ceil(SECTOR)..range.end / SECTOR;
        if whole.start < whole.end {
            state.forget(whole.clone());
            state.write(&vec![0; (whole.start * SECTOR - range.start) as usize], range.start);
            state.write(&vec![0; (range.end - whole.end * SECTOR) as usize], whole.end * SECTOR);
        } else {
            state.write(&vec![0; (range.end - range.start) as usize], range.start);
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let state = self.state.lock().unwrap();
        let next = state.now.range(from / SECTOR..).next();
        Ok(next.map(|(sector, _)| (sector * SECTOR).max(from)..(sector + 1) * SECTOR))
    }
}
