//! A file system in memory that forgets what a real one may forget.
//!
//! What it models, per event:
//!
//! | event | survives |
//! |---|---|
//! | kill -9 ([`MemoryFiles::kill_after`]) | every completed call; the call that was cut short leaves a prefix of whole pages |
//! | power loss ([`MemoryFiles::lose_power`]) | synced content, with the time of its change only if [`File::identity`] was asked for; of the rest, any mix of 512-byte sectors, each new or old; either length; a prefix of the unsynced creations, renames and removals (one journal, as ext4 and xfs have) |
//!
//! A sync that is refused drops what it was to make durable, as Linux does: what is read stays, no later sync makes
//! it durable unless it is written again, and a power loss forgets it.
//!
//! Pages are also written back early now and then, so that an overwrite in place can reach the medium
//! before an append that came first. All choices follow from the seed and the order of calls.

use crate::ports::files::{File, FileIdentity, Files, Open};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// One call in this many also writes one dirty page back.
const WRITEBACK_ONE_IN: u64 = 4;

/// A file system in memory; see the module's table for what it forgets when.
#[derive(Debug)]
pub struct MemoryFiles {
    state: Arc<Mutex<State>>,
}

impl MemoryFiles {
    /// An empty file system whose choices follow from `seed`. Every folder exists.
    pub fn new(seed: u64) -> Arc<Self> {
        let state = State {
            choices: Choices(seed),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            journal: Vec::new(),
            inodes: BTreeMap::new(),
            dirty: BTreeSet::new(),
            next_inode: 0,
            life: 0,
            calls: 0,
            kill_at: None,
            refused: BTreeMap::new(),
            free_bytes: u64::MAX,
        };
        Arc::new(Self { state: Arc::new(Mutex::new(state)) })
    }

    /// Lets `calls` more calls succeed that change something, then kills: that call is cut short and
    /// it and all later ones answer an error, until [`MemoryFiles::restart`] or
    /// [`MemoryFiles::lose_power`].
    pub fn kill_after(&self, calls: u64) {
        let mut state = self.lock();
        state.kill_at = Some(state.calls.saturating_add(calls));
    }

    /// How many calls that change something were made.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Whether the kill that was asked for has happened.
    pub fn is_killed(&self) -> bool {
        self.lock().is_killed()
    }

    /// The process is back after a kill -9; files that were open before stay dead.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.life += 1;
        state.kill_at = None;
    }

    /// The machine is back after a power loss: what was not synced is partly gone.
    pub fn lose_power(&self) {
        let mut state = self.lock();
        state.life += 1;
        state.kill_at = None;
        state.forget();
    }

    /// The same files as they are at this moment, with what is not on the medium yet; from here on the two are apart.
    pub fn copy(&self) -> Arc<Self> {
        let state = self.lock().clone();
        Arc::new(Self { state: Arc::new(Mutex::new(state)) })
    }

    /// Numbers the files that are made from here on from `first`, so that no two hosts have one of the same number.
    pub fn number_from(&self, first: u64) {
        self.lock().next_inode = first;
    }

    /// Gives the files of `folder` to another host, as where both reach one medium. Where this one is lost,
    /// `forgets` says by which choices the other finds what was on the medium only.
    pub fn hand_over(&self, folder: &Path, to: &Self, forgets: Option<u64>) {
        let (mut from, mut to) = (self.lock(), to.lock());
        to.calls = to.calls.max(from.calls);
        let mut choices = forgets.map(Choices);
        let within = |path: &Path| path.parent() == Some(folder);
        let names = from.names.extract_if(.., |path, _| within(path)).collect::<Vec<_>>();
        for (path, inode) in names {
            if let Some(mut file) = from.inodes.remove(&inode) {
                if let Some(choices) = &mut choices {
                    file.forget(choices);
                }
                to.inodes.insert(inode, file);
                to.dirty.insert(inode);
            }
            to.synced_names.insert(path.clone(), inode);
            to.names.insert(path, inode);
        }
        from.synced_names.retain(|path, _| !within(path));
        from.journal.retain(|change| !change.paths().iter().any(|path| within(path)));
    }

    /// Makes every changing call on `path` fail with `kind`, or work again with `None`.
    pub fn refuse(&self, path: &Path, kind: Option<io::ErrorKind>) {
        let mut state = self.lock();
        match kind {
            Some(kind) => _ = state.refused.insert(path.to_owned(), kind),
            None => _ = state.refused.remove(path),
        }
    }

    /// What [`Files::free_bytes`] answers.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.lock().free_bytes = bytes;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for MemoryFiles {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = self.lock();
        state.check_alive()?;
        let inode = match (state.names.get(path).copied(), how) {
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), Open::Read | Open::Write | Open::Create) => inode,
            (None, Open::Read | Open::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, Open::CreateNew | Open::Create) => {
                state.change(path)?;
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.rename_journaled(NameChange::Set(path.to_owned(), inode));
                inode
            }
        };
        let life = state.life;
        let writable = how != Open::Read;
        let state = Arc::clone(&self.state);
        Ok(Arc::new(MemoryFile { state, path: path.to_owned(), inode, life, writable }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change(from)?;
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.rename_journaled(NameChange::Move(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change(path)?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename_journaled(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn make_folder(&self, _: &Path) -> io::Result<()> {
        // A file can be made in any folder here.
        self.lock().check_alive()
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change(folder)?;
        state.journal.clear();
        state.synced_names = state.names.clone();
        state.let_go_of_nameless();
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.lock();
        state.check_alive()?;
        Ok(state.names.keys().filter(|path| path.parent() == Some(folder)).cloned().collect())
    }

    fn folders(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.lock();
        state.check_alive()?;
        let below = |path: &PathBuf| {
            let mut above = path.ancestors().skip(1);
            above.find(|path| path.parent() == Some(folder)).map(Path::to_owned)
        };
        let folders: BTreeSet<PathBuf> = state.names.keys().filter_map(below).collect();
        Ok(folders.into_iter().collect())
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let names = state.names.keys();
        let within: Vec<_> = names.filter(|path| path.starts_with(folder)).cloned().collect();
        for path in within {
            state.change(&path)?;
            state.rename_journaled(NameChange::Remove(path));
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.lock().names.contains_key(path)
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.lock();
        state.check_alive()?;
        Ok(state.free_bytes)
    }
}

#[derive(Debug)]
struct MemoryFile {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    inode: u64,
    life: u64,
    writable: bool,
}

impl MemoryFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.life != self.life {
            return Err(killed());
        }
        state.check_alive()?;
        Ok(state)
    }

    /// Counts a changing call; the one that is cut short gets the lock back to leave its prefix.
    fn change(&self) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.lock()?;
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        match state.change(&self.path) {
            Ok(()) => Ok((state, true)),
            Err(_) if state.is_killed() => Ok((state, false)),
            Err(error) => Err(error),
        }
    }
}

impl File for MemoryFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.lock()?;
        let inode = state.inode(self.inode);
        let end = offset.checked_add(buffer.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        if inode.len < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inode.read(buffer, offset);
        Ok(())
    }

    fn write_all_vectored_at(&self, buffers: &[&[u8]], offset: u64) -> io::Result<()> {
        let (mut state, whole) = self.change()?;
        let mut data = buffers.concat();
        if !whole {
            // A kill is noticed between two pages of a write.
            let to_page_end = PAGE - (offset % PAGE as u64) as usize;
            let pages = 1 + data.len().saturating_sub(to_page_end).div_ceil(PAGE) as u64;
            let kept = match state.choices.below(pages) as usize {
                0 => 0,
                pages => to_page_end + (pages - 1) * PAGE,
            };
            data.truncate(kept);
        }
        let now = state.calls;
        let inode = state.inode(self.inode);
        inode.write(&data, offset);
        inode.modified = now;
        if whole { Ok(()) } else { Err(killed()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, whole) = match self.change() {
            Ok(changed) => changed,
            Err(refused) => {
                self.lock()?.inode(self.inode).drop_unsynced();
                return Err(refused);
            }
        };
        if !whole {
            return Err(killed());
        }
        let inode = state.inode(self.inode);
        inode.unsynced.clear();
        inode.synced_len = inode.len;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.lock()?;
        Ok(state.inode(self.inode).len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, whole) = self.change()?;
        if !whole {
            return Err(killed());
        }
        let now = state.calls;
        let inode = state.inode(self.inode);
        inode.set_len(len);
        inode.modified = now;
        Ok(())
    }

    fn zero(&self, range: Range<u64>, _punch: bool) -> io::Result<()> {
        let (mut state, whole) = self.change()?;
        if !whole {
            return Err(killed());
        }
        let now = state.calls;
        let inode = state.inode(self.inode);
        inode.zero(range);
        inode.modified = now;
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let mut state = self.lock()?;
        let inode = state.inode(self.inode);
        let page = PAGE as u64;
        let mut run: Option<Range<u64>> = None;
        for &index in inode.pages.range(from / page..).map(|(index, _)| index) {
            let start = (index * page).max(from);
            match &mut run {
                None => run = Some(start..(index + 1) * page),
                Some(run) if run.end == start => run.end += page,
                Some(_) => break,
            }
        }
        let len = inode.len;
        Ok(run.map(|run| run.start..run.end.min(len)).filter(|run| !run.is_empty()))
    }

    fn identity(&self) -> io::Result<Option<FileIdentity>> {
        self.sync_data()?;
        let mut state = self.lock()?;
        let inode = state.inode(self.inode);
        inode.synced_modified = inode.modified;
        let (bytes, modified_ns) = (inode.len, inode.modified as i64);
        Ok(Some(FileIdentity { inode: self.inode, bytes, modified_ns }))
    }

    fn set_mark(&self, marked: bool) -> io::Result<()> {
        let (mut state, whole) = self.change()?;
        if !whole {
            return Err(killed());
        }
        state.inode(self.inode).marked = marked;
        Ok(())
    }

    fn is_marked(&self) -> io::Result<bool> {
        let mut state = self.lock()?;
        Ok(state.inode(self.inode).marked)
    }
}

#[derive(Clone, Debug)]
struct State {
    choices: Choices,
    names: BTreeMap<PathBuf, u64>,
    synced_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since the last sync, in order.
    journal: Vec<NameChange>,
    inodes: BTreeMap<u64, Inode>,
    /// Those that may have pages to be written back: all that were touched since that was looked at.
    dirty: BTreeSet<u64>,
    next_inode: u64,
    /// Counts restarts: a file opened in an earlier life is dead.
    life: u64,
    calls: u64,
    kill_at: Option<u64>,
    refused: BTreeMap<PathBuf, io::ErrorKind>,
    free_bytes: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(PathBuf, u64),
    Move(PathBuf, PathBuf, u64),
    Remove(PathBuf),
}

impl NameChange {
    fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Set(path, _) | Self::Remove(path) => vec![path],
            Self::Move(from, to, _) => vec![from, to],
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Set(path, inode) => _ = names.insert(path.clone(), *inode),
            Self::Move(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Self::Remove(path) => _ = names.remove(path),
        }
    }
}

impl State {
    fn is_killed(&self) -> bool {
        self.kill_at.is_some_and(|at| at < self.calls)
    }

    fn check_alive(&self) -> io::Result<()> {
        if self.is_killed() { Err(killed()) } else { Ok(()) }
    }

    /// Counts one changing call and lets it fail where that was asked for.
    fn change(&mut self, path: &Path) -> io::Result<()> {
        self.check_alive()?;
        self.calls += 1;
        self.check_alive()?;
        if let Some(kind) = self.refused.get(path) {
            return Err((*kind).into());
        }
        if self.choices.below(WRITEBACK_ONE_IN) == 0 {
            self.write_one_page_back();
        }
        Ok(())
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.dirty.insert(inode);
        self.inodes.entry(inode).or_default()
    }

    fn rename_journaled(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.journal.push(change);
    }

    /// What nobody can find after a crash is not written back: a file whose name is gone for good.
    fn let_go_of_nameless(&mut self) {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        for id in self.dirty.extract_if(.., |id| !named.contains(id)) {
            if let Some(inode) = self.inodes.get_mut(&id) {
                inode.unsynced.clear();
            }
        }
    }

    fn write_one_page_back(&mut self) {
        let inodes = &self.inodes;
        self.dirty.retain(|id| inodes.get(id).is_some_and(|inode| !inode.unsynced.is_empty()));
        if self.dirty.is_empty() {
            return;
        }
        let nth = self.choices.below(self.dirty.len() as u64) as usize;
        let Some(inode) = self.dirty.iter().nth(nth).and_then(|id| self.inodes.get_mut(id)) else {
            return;
        };
        let nth = self.choices.below(inode.unsynced.len() as u64) as usize;
        if let Some(page) = inode.unsynced.keys().nth(nth).copied() {
            inode.unsynced.remove(&page);
        }
    }

    fn forget(&mut self) {
        let journaled = self.choices.below(self.journal.len() as u64 + 1) as usize;
        let mut names = std::mem::take(&mut self.synced_names);
        for change in &self.journal[..journaled] {
            change.apply(&mut names);
        }
        self.journal.clear();
        self.synced_names = names.clone();
        let named: BTreeSet<u64> = names.values().copied().collect();
        self.names = names;
        self.inodes.retain(|inode, _| named.contains(inode));
        for inode in self.inodes.values_mut() {
            inode.forget(&mut self.choices);
        }
    }
}

type Page = Arc<[u8; PAGE]>;

#[derive(Clone, Debug, Default)]
struct Inode {
    pages: BTreeMap<u64, Page>,
    len: u64,
    /// What the medium holds of each page that is newer in memory; `None` is a hole.
    unsynced: BTreeMap<u64, Option<Page>>,
    /// The same of each page that counts as synced, since a sync that failed dropped it.
    dropped: BTreeMap<u64, Option<Page>>,
    synced_len: u64,
    /// Which call changed the content last: what a real file system has the time for.
    modified: u64,
    synced_modified: u64,
    marked: bool,
}

impl Inode {
    fn read(&self, buffer: &mut [u8], offset: u64) {
        for (index, within, part) in pages_of(offset, buffer.len()) {
            match self.pages.get(&index) {
                Some(page) => {
                    buffer[part.clone()].copy_from_slice(&page[within..within + part.len()]);
                }
                None => buffer[part].fill(0),
            }
        }
    }

    fn write(&mut self, data: &[u8], offset: u64) {
        if data.is_empty() {
            return;
        }
        for (index, within, part) in pages_of(offset, data.len()) {
            self.remember(index);
            let page = self.pages.entry(index).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + part.len()].copy_from_slice(&data[part]);
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    fn zero(&mut self, range: Range<u64>) {
        let end = range.end.min(self.len);
        if end <= range.start {
            return;
        }
        for (index, within, part) in pages_of(range.start, (end - range.start) as usize) {
            if !self.pages.contains_key(&index) && !self.dropped.contains_key(&index) {
                continue;
            }
            self.remember(index);
            if part.len() == PAGE {
                self.pages.remove(&index);
            } else if let Some(page) = self.pages.get_mut(&index) {
                Arc::make_mut(page)[within..within + part.len()].fill(0);
            }
        }
    }

    fn set_len(&mut self, len: u64) {
        self.zero(len..self.len);
        self.len = len;
    }

    /// Keeps what the medium holds of a page, before the first change since it was written back.
    fn remember(&mut self, index: u64) {
        let dropped = self.dropped.remove(&index);
        let held = dropped.unwrap_or_else(|| self.pages.get(&index).cloned());
        self.unsynced.entry(index).or_insert(held);
    }

    fn drop_unsynced(&mut self) {
        self.dropped.append(&mut self.unsynced);
    }

    fn forget(&mut self, choices: &mut Choices) {
        self.unsynced.append(&mut self.dropped);
        for (index, held) in std::mem::take(&mut self.unsynced) {
            let new = self.pages.get(&index).map_or([0; PAGE], |page| **page);
            let mut mixed = held.as_ref().map_or([0; PAGE], |page| **page);
            for sector in (0..PAGE).step_by(SECTOR) {
                if choices.below(2) == 0 {
                    mixed[sector..sector + SECTOR].copy_from_slice(&new[sector..sector + SECTOR]);
                }
            }
            self.pages.insert(index, Arc::new(mixed));
        }
        let len = if choices.below(2) == 0 { self.synced_len } else { self.len };
        self.len = self.len.max(len);
        self.set_len(len);
        self.unsynced.clear();
        self.synced_len = len;
        self.modified = self.synced_modified;
    }
}

/// The pages that `length` bytes from `offset` on touch: page, first byte in it, part of the range.
fn pages_of(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let part = done..length.min(done + PAGE - within);
        done = part.end;
        Some((at / PAGE as u64, within, part))
    })
}

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

/// Choices that follow from a seed: `SplitMix64`.
#[derive(Clone, Debug)]
struct Choices(u64);

impl Choices {
    /// A number below `bound`, which is at least 1.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
