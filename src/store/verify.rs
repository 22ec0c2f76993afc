//! Reads everything in a store's folder and names what is damaged, without changing anything in it.
//!
//! sled writes while it opens, so its folder is copied first and the copy is opened. Whatever sled
//! cannot give back is looked for in the raw file: records lie in it uncompressed and prove themselves.

use super::index::Index;
use super::log::{self, place, records};
use super::opening::{check_before_sled, read_watermark};
use super::payload;
use super::record::{Record, StreamKey, chain};
use super::segments;
use super::sled_tree::{SledTree, io};
use super::watermark::{Reading, State};
use crate::ports::event_store::StoreError;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// How far the search goes on at once where sled answers with an error.
const STEP_OVER_DAMAGE: u64 = 16;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sound commits, in order and without gaps from the first.
    pub commits: u64,
    /// The last commit that was acknowledged, if the watermark can be read.
    pub acknowledged: Option<u64>,
    /// What is damaged. Empty for a sound store.
    pub findings: Vec<Finding>,
    /// What can be got back; only looked for if something is damaged.
    pub recoverable: Option<Recoverable>,
}

/// One damaged thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// File, block or commit.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
}

/// Commits that can be read or carved out of the raw file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recoverable {
    /// How many, each counted once.
    pub commits: u64,
    /// Global positions that are gone.
    pub missing: Vec<RangeInclusive<u64>>,
    /// The same by stream, as far as it follows from what is left; the end of a stream does not.
    pub missing_of_streams: Vec<(StreamKey, RangeInclusive<u64>)>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl Report {
    fn found(&mut self, place: impl fmt::Display, what: impl fmt::Display) {
        self.findings.push(Finding { place: place.to_string(), what: what.to_string() });
    }

    fn found_error(&mut self, place: impl fmt::Display, error: StoreError) {
        match error {
            StoreError::Damaged { place, what } => self.found(place, what),
            error => self.found(place, error),
        }
    }
}

/// Verifies the store in `folder`, which nobody may have open. The copy that sled opens is made in
/// `scratch` and removed at the end; it needs as much space as the store.
///
/// # Errors
/// [`StoreError::InUse`], [`StoreError::Io`]. Damage is not an error: it is what the report is about.
pub fn verify(folder: &Path, scratch: &Path) -> Result<Report, StoreError> {
    let _lock = lock_shared(folder)?;
    let mut report = Report::default();
    let reading = check_watermark(folder, &mut report)?;
    if let Some(reading) = &reading {
        match check_before_sled(folder, &reading.watermark) {
            Ok(()) => {}
            Err(error) => report.found_error("log/db", error),
        }
    }
    let mut sound = BTreeMap::new();
    let copy = Copy::of(&folder.join("log"), scratch)?;
    match SledTree::open(&copy.path) {
        Ok(tree) => read_everything(&tree, reading.as_ref(), &mut report, &mut sound),
        Err(error) => report.found_error("log", error),
    }
    report.commits =
        sound.keys().zip(1..).take_while(|(global, at)| **global == *at).count() as u64;
    if !report.findings.is_empty() {
        let db = folder.join("log/db");
        let mut carved = |record: Record<'_>| {
            sound.entry(record.global).or_insert((record.stream, record.seq));
        };
        segments::carve_file(&db, &mut carved).map_err(io("read", &db))?;
        report.recoverable = Some(recoverable(&sound, report.acknowledged.unwrap_or(0)));
    }
    Ok(report)
}

/// What is known of a sound record: whose it is.
type Sound = BTreeMap<u64, (StreamKey, u64)>;

fn lock_shared(folder: &Path) -> Result<Option<File>, StoreError> {
    let path = folder.join("LOCK");
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open", &path)(error)),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { folder: folder.to_path_buf() }),
        Err(TryLockError::Error(error)) => Err(io("lock", &path)(error)),
    }
}

fn check_watermark(folder: &Path, report: &mut Report) -> Result<Option<Reading>, StoreError> {
    let Some(reading) = read_watermark(folder)? else {
        report.found("HEAD", "is missing, or neither slot is sound");
        return Ok(None);
    };
    let closed = matches!(reading.watermark.state, State::Closed { .. });
    if closed && reading.sound_slots < 2 {
        report.found("HEAD", "one of its two slots is damaged");
    }
    report.acknowledged = Some(reading.watermark.last);
    Ok(Some(reading))
}

fn read_everything(
    tree: &SledTree,
    reading: Option<&Reading>,
    report: &mut Report,
    sound: &mut Sound,
) {
    if let Err(error) = tree.check_format() {
        report.found_error("log", error);
    }
    let running = read_blocks(tree, report, sound);
    let last = sound.last_key_value().map_or(0, |(global, _)| *global);
    if let Some(Reading { watermark, .. }) = reading {
        if last < watermark.last {
            let what = format!("acknowledged up to {} and missing", watermark.last);
            report.found(place(last + 1), what);
        }
        let chain = running.get(&watermark.last).copied();
        if chain.is_some_and(|chain| chain != watermark.chain) {
            report.found("HEAD", "does not match the running checksum of the log");
        }
    }
    check_pages(tree, report, sound);
    check_states(tree, report);
}

/// Reads all blocks; returns the running checksum after each block's last record, as long as nothing
/// is missing.
fn read_blocks(tree: &SledTree, report: &mut Report, sound: &mut Sound) -> BTreeMap<u64, u32> {
    let mut seqs: BTreeMap<StreamKey, u64> = BTreeMap::new();
    let mut running = BTreeMap::from([(0, 0)]);
    let mut next = 1;
    let mut in_damage = false;
    loop {
        match tree.block_from(next) {
            Ok(None) => return running,
            Ok(Some((first, block))) => {
                if next < first && !in_damage {
                    report.found(place(next), format!("missing, up to {}", first - 1));
                }
                in_damage = false;
                let mut chain_so_far = running.get(&(first - 1)).copied();
                next = first + 1;
                for record in records(first, &block) {
                    match record
                        .and_then(|record| check_record(&record, &mut seqs).map(|()| record))
                    {
                        Ok(record) => {
                            sound.insert(record.global, (record.stream, record.seq));
                            next = record.global + 1;
                            chain_so_far = chain_so_far.map(|before| chain(before, record.crc));
                        }
                        Err(error) => {
                            report.found_error(place(next), error);
                            chain_so_far = None;
                        }
                    }
                }
                running.extend(chain_so_far.map(|chain| (next - 1, chain)));
            }
            Err(error) => {
                if !in_damage {
                    report.found_error(place(next), error);
                }
                in_damage = true;
                let last = report.acknowledged.unwrap_or(u64::MAX >> 1);
                if last < next || report.acknowledged.is_none() {
                    return running;
                }
                next += STEP_OVER_DAMAGE;
            }
        }
    }
}

/// Checks that a record follows the one before it in its stream, and that it can be decoded.
fn check_record(
    record: &Record<'_>,
    seqs: &mut BTreeMap<StreamKey, u64>,
) -> Result<(), StoreError> {
    let before = seqs.insert(record.stream, record.seq).unwrap_or(0);
    if before + 1 != record.seq {
        let what = format!("{} goes from {before} to {}", record.stream, record.seq);
        return Err(StoreError::damaged(place(record.global), what));
    }
    payload::decode(record).map(drop)
}

fn check_pages(tree: &SledTree, report: &mut Report, sound: &Sound) {
    let mut index = Index::default();
    for page in tree.pages() {
        let at = format!("index page after {}", place(index.last()));
        match page {
            Ok(page) if index.add_page(&page).is_some() => {}
            Ok(_) => return report.found(at, "is damaged, or does not continue the one before"),
            Err(error) => return report.found_error(at, error),
        }
    }
    for (stream, seq) in index.streams() {
        let globals = index.globals(stream, 1, usize::MAX);
        for (global, seq) in globals.into_iter().zip(1..=seq) {
            if sound.get(&global).is_some_and(|found| *found != (stream, seq)) {
                report.found(format!("index of {}", place(global)), "names another stream");
            }
        }
    }
}

fn check_states(tree: &SledTree, report: &mut Report) {
    for found in log::states(tree) {
        match found {
            Ok((_, _, Some(_))) => {}
            Ok((stream, seq, None)) => {
                let at = format!("state snapshot of {stream} at {seq}");
                report.found(at, "is damaged; its stream is replayed instead");
            }
            Err(error) => return report.found_error("state snapshots", error),
        }
    }
}

fn recoverable(sound: &Sound, acknowledged: u64) -> Recoverable {
    let last = sound.last_key_value().map_or(0, |(global, _)| *global).max(acknowledged);
    let mut streams: BTreeMap<StreamKey, BTreeSet<u64>> = BTreeMap::new();
    for (stream, seq) in sound.values() {
        streams.entry(*stream).or_default().insert(*seq);
    }
    let missing_of_streams = streams.into_iter().flat_map(|(stream, seqs)| {
        let last = seqs.last().copied().unwrap_or(0);
        gaps(seqs.into_iter(), last).into_iter().map(move |gap| (stream, gap))
    });
    Recoverable {
        commits: sound.len() as u64,
        missing: gaps(sound.keys().copied(), last),
        missing_of_streams: missing_of_streams.collect(),
    }
}

/// The numbers of `1..=last` that are not in `present`, which is in order.
fn gaps(present: impl Iterator<Item = u64>, last: u64) -> Vec<RangeInclusive<u64>> {
    let mut gaps = Vec::new();
    let mut next = 1;
    for number in present.chain([last + 1]) {
        if next < number {
            gaps.push(next..=number - 1);
        }
        next = number + 1;
    }
    gaps
}

/// A copy of sled's folder, removed when dropped.
struct Copy {
    path: PathBuf,
}

impl Copy {
    fn of(log: &Path, scratch: &Path) -> Result<Self, StoreError> {
        let copy = Self { path: fresh_folder(scratch)? };
        copy_folder(log, &copy.path)?;
        Ok(copy)
    }
}

/// Makes a folder in `scratch` that nobody else uses.
fn fresh_folder(scratch: &Path) -> Result<PathBuf, StoreError> {
    let mut nth = 0;
    loop {
        let path = scratch.join(format!("lifeboat-verify-{nth}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => nth += 1,
            Err(error) => return Err(io("create", &path)(error)),
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "copy made for verifying not removed");
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(to).map_err(io("create", to))?;
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("list", from)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io("list", from))?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &copy)?;
        } else {
            fs::copy(&path, &copy).map_err(io("copy", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_not_there() {
        assert_eq!(gaps([2, 3, 6].into_iter(), 8), [1..=1, 4..=5, 7..=8]);
        assert_eq!(gaps([1, 2].into_iter(), 2), []);
        assert_eq!(gaps([].into_iter(), 2), [1..=2]);
    }
}
