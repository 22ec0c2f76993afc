//! Brings logs and disks together again when a tracker is opened.

use super::disk::Disk;
use super::gate::{GIVEN_UP_AND_NEEDED, Gate};
use super::joining::join;
use super::log::DiskLogs;
use super::names::{self, Names, Present};
use super::redo::{flushed_logs, out_of_chain};
use super::state::{Durable, State, TrackedState, Tracking};
use super::{BootId, Broken, TrackError, Transit, lineage};
use crate::disk::hrl::{
    Damage, EMPTY_LOG_BYTES, HeaderTrust, LogError, LogReader, LogTime, LogWriter, Tail,
    read_header_alone, recover_after_kill,
};
use crate::domain::id::DiskId;
use crate::ports::clock::Clock;
use crate::ports::files::{FileIdentity, Files, Open};
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// How a tracker goes on.
pub(super) struct Reopened {
    pub(super) gate: Gate,
    pub(super) transit: Option<Transit>,
    /// The disks that somebody else changed or replaced.
    pub(super) changed: Vec<DiskId>,
}

/// A gate, and the cut in transit.
type Stand = (Gate, Option<Transit>);

/// Why tracking does not go on.
enum Stop {
    /// The disks can be served, but the logs lack writes.
    Broken(Broken),
    /// The disks cannot be served.
    Fatal(TrackError),
}

/// Brings logs and disks together as the state says. Can be done again if it is interrupted.
pub(super) fn reopen(
    files: &dyn Files,
    folder: &Path,
    disks: &[Disk],
    state: &State,
    boot: BootId,
    clock: &dyn Clock,
) -> Result<Reopened, TrackError> {
    let is_known = |disk: &&Disk| state.disks.contains_key(&disk.id);
    let joins = disks.iter().find(|disk| state.tracking != Tracking::Off && !is_known(disk));
    let found = Found { files, folder, disks: disks.iter().filter(is_known).collect(), state };
    let ended = match (state.clean, state.lives_on(boot)) {
        (true, _) => Ended::Closed,
        (false, true) => Ended::Killed,
        (false, false) => Ended::PowerLost,
    };
    let (mut changed, mut because) = (Vec::new(), None);
    if state.tracking != Tracking::Off {
        for (disk, reason) in found.changed_files(ended)? {
            changed.push(disk);
            because.get_or_insert(reason);
        }
    }
    let (gate, transit) = match &state.tracking {
        Tracking::Off => (Gate::Off, None),
        Tracking::Broken(reason) => found.after_break(reason.clone(), ended, &changed)?,
        Tracking::On => {
            match (found.changed_set().or(because).or(found.ended_unrecorded()?), ended) {
                (reason, Ended::PowerLost) => {
                    found.after_power_loss(reason.unwrap_or(Broken::PowerLoss), &changed)?
                }
                (Some(reason), Ended::Closed | Ended::Killed) => found.break_on_the_way(reason)?,
                (None, Ended::Closed | Ended::Killed) => found.resume(clock)?,
            }
        }
    };
    let (gate, transit) = match (joins, gate, transit) {
        (None, gate, transit) => (gate, transit),
        (Some(_), Gate::On(logs), None) => {
            let at = LogTime::from(clock.now());
            (Gate::On(join(files, folder, disks, state, logs, at)?), None)
        }
        // A cut has a log of each disk.
        (Some(disk), Gate::On(_), Some(_)) => {
            found.flush_devices()?;
            (Gate::Broken(Broken::DiskChanged { disk: disk.id }), None)
        }
        (Some(_), gate, _) => (gate, None),
    };
    Ok(Reopened { gate, transit, changed })
}

/// How the last run of the tracker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Closed,
    Killed,
    PowerLost,
}

impl Ended {
    /// Whether a file that was `known` can be what is `found`, if only this tracker wrote to it.
    fn can_leave(self, known: &FileIdentity, found: &FileIdentity) -> bool {
        // A resize makes the file longer, and may have been killed before the tracker was told.
        let grown_at_most = known.inode == found.inode && known.bytes <= found.bytes;
        grown_at_most
            && match self {
                Self::Closed => {
                    (known.bytes, known.modified_ns) == (found.bytes, found.modified_ns)
                }
                Self::Killed => known.modified_ns <= found.modified_ns,
                // What a flush of the guest makes durable is the content, not the time.
                Self::PowerLost => true,
            }
    }
}

/// Gives the two logs of one disk the names that they have after a cut. Can be done again.
pub(super) fn rename_cut(files: &dyn Files, names: &Names, number: u64) -> io::Result<()> {
    let (next, active) = (names.next(number), names.active());
    if !files.exists(&next) {
        return Ok(());
    }
    if files.exists(&active) {
        files.rename(&active, &names.transit(number))?;
    }
    files.rename(&next, &active)
}

/// What is in the folder, and what the state says about it.
struct Found<'a> {
    files: &'a dyn Files,
    folder: &'a Path,
    /// Those that were there before.
    disks: Vec<&'a Disk>,
    state: &'a State,
}

impl Found<'_> {
    /// Goes on without tracking. When it broke, and when a guest flushed since, the disks were made durable, so there
    /// is nothing to apply, but to those that could not be. While the machine runs on, these show more than their
    /// logs hold.
    fn after_break(
        &self,
        reason: Broken,
        ended: Ended,
        changed: &[DiskId],
    ) -> Result<Stand, TrackError> {
        for disk in self.disks.iter().filter(|disk| !changed.contains(&disk.id)) {
            match (self.tracked(disk).durable, ended) {
                (Durable::Yes, _) | (Durable::Doubtful, Ended::PowerLost) => {}
                (_, Ended::Closed | Ended::Killed) => disk.doubt(),
                (Durable::WithItsLogs, Ended::PowerLost) => {
                    if let Some(error) = apply_flushed(disk, self.flushed_logs(disk)?)? {
                        tracing::error!(disk = %disk.name, %error, "a log that the disk needs cannot be read");
                    }
                    flush(disk)?;
                }
            }
        }
        self.stay_broken(reason)
    }

    fn stay_broken(&self, reason: Broken) -> Result<Stand, TrackError> {
        let transit = self.whole_transit()?;
        Ok((Gate::Broken(reason), transit))
    }

    /// The disks whose file is not what it was when the tracker knew it last.
    fn changed_files(&self, ended: Ended) -> Result<Vec<(DiskId, Broken)>, TrackError> {
        let mut changed = Vec::new();
        for disk in &self.disks {
            let expected = self.state.disks.get(&disk.id).and_then(|known| known.identity);
            if let (Some(expected), Some(found)) = (expected, disk.identity()?)
                && !ended.can_leave(&expected, &found.file)
            {
                let (disk, path, found) = (disk.id, found.path, found.file);
                changed.push((disk, Broken::DiskChangedOffline { disk, path, expected, found }));
            }
        }
        Ok(changed)
    }

    /// A disk that was there and is not, or that is smaller. One that grew is the same, and what was added is
    /// suspect.
    fn changed_set(&self) -> Option<Broken> {
        let same = |disk: &Disk| {
            let known = self.tracked(disk);
            known.name == disk.name && known.size_bytes <= disk.device.size_bytes()
        };
        let other = self.disks.iter().find(|disk| !same(disk)).map(|disk| disk.id);
        let is_there = |id| self.disks.iter().any(|disk| disk.id == id);
        let removed = || self.state.disks.keys().copied().find(|id| !is_there(*id));
        other.or_else(removed).map(|disk| Broken::DiskChanged { disk })
    }

    /// Where tracking broke, and only the mark on a disk says so.
    fn ended_unrecorded(&self) -> Result<Option<Broken>, TrackError> {
        for disk in &self.disks {
            if is_marked(disk)? {
                let (path, disk) = (disk.names.active(), disk.id);
                let error = "its volume took nothing more".to_owned();
                return Ok(Some(Broken::LogWriteFailed { disk, path, error }));
            }
        }
        Ok(None)
    }

    /// After a clean stop or kill -9: everything that was acknowledged is in the logs, or they are
    /// damaged. In that case the disks still have it, since the page cache lived on.
    fn resume(&self, clock: &dyn Clock) -> Result<Stand, TrackError> {
        match self.try_resume(clock) {
            Ok(stand) => Ok(stand),
            Err(Stop::Fatal(error)) => Err(error),
            Err(Stop::Broken(reason)) => self.break_on_the_way(reason),
        }
    }

    /// Ends tracking on a machine that has run on: its page cache has what the disks show.
    fn break_on_the_way(&self, reason: Broken) -> Result<Stand, TrackError> {
        tracing::error!(folder = %self.folder.display(), %reason, "tracking is broken");
        for disk in &self.disks {
            if self.tracked(disk).durable != Durable::Yes || self.needs_its_logs(disk)? {
                disk.doubt();
            } else {
                flush(disk)?;
            }
        }
        self.stay_broken(reason)
    }

    fn try_resume(&self, clock: &dyn Clock) -> Result<Stand, Stop> {
        self.finish_acknowledge()?;
        self.finish_cut(clock)?;
        let number = self.number_in_transit()?;
        let mut logs = Vec::new();
        let mut transit = Vec::new();
        let mut to_apply = Vec::new();
        for disk in self.disks.iter().copied() {
            let mut previous = self.tracked(disk).shipped;
            if let Some(number) = number {
                let reader = self.closed(&disk.names.transit(number))?;
                check_chain(&reader, disk, self.state.chain, previous)?;
                previous = reader.header().unique_id;
                let allocated = reader.allocated_bytes()?;
                for write in reader.entries_without_data() {
                    disk.suspects.touch_in_transit(&write?.range());
                }
                transit.push((disk, *reader.header(), allocated));
                to_apply.push((disk, reader));
            }
            let (writer, reader) = self.open_log(disk)?;
            check_chain(&reader, disk, self.state.chain, previous)?;
            for write in reader.entries_without_data() {
                disk.suspects.touch(&write?.range());
            }
            to_apply.push((disk, reader));
            logs.push(DiskLogs::of(writer));
        }
        if !self.state.clean {
            apply(to_apply)?;
        }
        let transit = number.map(|number| Transit::of(number, transit.into_iter()));
        Ok((Gate::On(logs), transit))
    }

    /// After a power loss: applies what is sure to have been flushed. The disks can hold more. A disk that took
    /// the place of another is not what the logs are about.
    fn after_power_loss(
        &self,
        mut reason: Broken,
        changed: &[DiskId],
    ) -> Result<Stand, TrackError> {
        for disk in self.disks.iter().filter(|disk| !changed.contains(&disk.id)) {
            // Tracking broke earlier, and the disk has more than its logs by then.
            if is_marked(disk)? {
                continue;
            }
            let logs = self.flushed_logs(disk)?;
            let given_up =
                |log: &&LogReader| ![0, GIVEN_UP_AND_NEEDED].contains(&log.header().error_code);
            if let Some(log) = logs.iter().flatten().find(given_up) {
                reason = Broken::log_unreadable(&log.given_up());
                continue;
            }
            if let Some(error) = apply_flushed(disk, logs)? {
                reason = Broken::log_unreadable(&error);
            }
        }
        tracing::error!(folder = %self.folder.display(), %reason, "tracking is broken");
        self.flush_devices()?;
        self.stay_broken(reason)
    }

    /// Whether a log says that its disk may lack what it holds.
    fn needs_its_logs(&self, disk: &Disk) -> Result<bool, TrackError> {
        let since = disk.names.since(self.files, self.state.acknowledged);
        let says_so = |path: &PathBuf| {
            read_header_alone(self.files, path).is_ok_and(|(header, checksum_holds)| {
                checksum_holds
                    && header.error_code == GIVEN_UP_AND_NEEDED
                    && header.data_write_guid == lineage(disk.id, self.state.chain)
            })
        };
        Ok(since.map_err(|source| file_error(self.folder, source))?.iter().any(says_so))
    }

    fn flushed_logs(&self, disk: &Disk) -> Result<Vec<Result<LogReader, LogError>>, TrackError> {
        flushed_logs(self.files, self.folder, disk, self.state)
    }

    /// Removes the logs of a cut that was acknowledged.
    fn finish_acknowledge(&self) -> Result<(), TrackError> {
        for disk in &self.disks {
            let present = self.present(disk)?;
            for number in present.transit {
                if number <= self.state.acknowledged {
                    self.remove(&disk.names.transit(number))?;
                }
            }
            for number in present.compact {
                self.remove(&disk.names.compact(number))?; // one that was not completed
            }
        }
        self.sync_folder()
    }

    /// Completes a cut that was half done if its logs were all prepared, else undoes it: only then can
    /// a log have been switched.
    fn finish_cut(&self, clock: &dyn Clock) -> Result<(), Stop> {
        let present = self.all_present()?;
        let Some(number) = present.iter().flat_map(|present| &present.next).max().copied() else {
            return Ok(());
        };
        let mut prepared = true;
        for (disk, present) in self.disks.iter().zip(&present) {
            prepared &= present.transit.contains(&number)
                || present.next.contains(&number) && self.is_prepared(&disk.names.next(number))?;
        }
        if prepared {
            self.close_cut_logs(number, clock)?;
            for disk in &self.disks {
                rename_cut(self.files, &disk.names, number)
                    .map_err(|source| file_error(&disk.names.active(), source))?;
            }
        }
        for (disk, present) in self.disks.iter().zip(&present) {
            for number in &present.next {
                self.remove(&disk.names.next(*number))?;
            }
        }
        Ok(self.sync_folder()?)
    }

    /// Whether the making of a log was completed: its first bytes are written in one call.
    fn is_prepared(&self, path: &Path) -> Result<bool, TrackError> {
        let len = self.files.open(path, Open::Read).and_then(|file| file.len());
        Ok(EMPTY_LOG_BYTES <= len.map_err(|source| file_error(path, source))?)
    }

    /// Closes the logs of a half done cut that are not closed yet, with the time of those that are.
    fn close_cut_logs(&self, number: u64, clock: &dyn Clock) -> Result<(), Stop> {
        let mut open = Vec::new();
        let mut at = None;
        for disk in &self.disks {
            let (next, active) = (disk.names.next(number), disk.names.active());
            let switched = !self.files.exists(&next) || !self.files.exists(&active);
            let path = if switched { disk.names.transit(number) } else { active };
            match LogReader::open(self.files, &path, HeaderTrust::Verified) {
                Ok(log) => at = Some(log.header().last_modified),
                Err(LogError::Damaged { damage: Damage::NotClosed, .. }) => open.push((disk, path)),
                Err(error) => return Err(error.into()),
            }
        }
        let at = at.unwrap_or_else(|| LogTime::from(clock.now()));
        for (disk, path) in open {
            let tail = Tail::open(self.files, &disk.names.tail())?;
            let (mut writer, _) = recover_after_kill(self.files, &path, tail)?;
            writer.close(at)?;
        }
        Ok(())
    }

    /// The number of the cut that every disk has a log in transit of, if any.
    fn number_in_transit(&self) -> Result<Option<u64>, Stop> {
        let present = self.all_present()?;
        let Some(number) = present.iter().flat_map(|present| &present.transit).max().copied()
        else {
            return Ok(None);
        };
        for (disk, present) in self.disks.iter().zip(&present) {
            if present.transit != [number] {
                let path = disk.names.transit(number);
                return Err(Stop::Broken(Broken::LogMissing { path }));
            }
        }
        Ok(Some(number))
    }

    /// The cut in transit if all its logs are there and whole; they were durable before they were
    /// named so.
    fn whole_transit(&self) -> Result<Option<Transit>, TrackError> {
        let Ok(Some(number)) = self.number_in_transit() else { return Ok(None) };
        if number <= self.state.acknowledged {
            return Ok(None);
        }
        let mut logs = Vec::new();
        for disk in self.disks.iter().copied() {
            let whole = self.closed(&disk.names.transit(number)).and_then(|mut log| {
                log.verify()?;
                let known = self.state.disks.get(&disk.id).map_or(Uuid::nil(), |d| d.shipped);
                check_chain(&log, disk, self.state.chain, known)?;
                Ok(log)
            });
            match whole {
                Ok(log) => logs.push((disk, *log.header(), log.allocated_bytes()?)),
                Err(Stop::Broken(_)) => return Ok(None),
                Err(Stop::Fatal(error)) => return Err(error),
            }
        }
        Ok(Some(Transit::of(number, logs.into_iter())))
    }

    fn open_log(&self, disk: &Disk) -> Result<(LogWriter, LogReader), Stop> {
        let tail = Tail::open(self.files, &disk.names.tail())?;
        Ok(recover_after_kill(self.files, &disk.names.active(), tail)?)
    }

    fn closed(&self, path: &Path) -> Result<LogReader, Stop> {
        Ok(LogReader::open(self.files, path, HeaderTrust::Verified)?)
    }

    fn tracked(&self, disk: &Disk) -> &TrackedState {
        self.state.disks.get(&disk.id).expect("those that are known were chosen")
    }

    fn present(&self, disk: &Disk) -> Result<Present, TrackError> {
        disk.names.present(self.files).map_err(|source| file_error(self.folder, source))
    }

    fn all_present(&self) -> Result<Vec<Present>, TrackError> {
        self.disks.iter().map(|disk| self.present(disk)).collect()
    }

    fn flush_devices(&self) -> Result<(), TrackError> {
        self.disks.iter().try_for_each(|disk| flush(disk))
    }

    fn remove(&self, path: &Path) -> Result<(), TrackError> {
        names::remove(self.files, path).map_err(|source| file_error(path, source))
    }

    fn sync_folder(&self) -> Result<(), TrackError> {
        self.files.sync_dir(self.folder).map_err(|source| file_error(self.folder, source))
    }
}

/// Applies whole logs: all are verified before the first is applied, since a part of a log is no state
/// of its disk. The disks are not flushed: the logs stay, and are applied again after a power loss.
fn apply(mut logs: Vec<(&Disk, LogReader)>) -> Result<(), Stop> {
    for (_, log) in &mut logs {
        log.verify()?;
    }
    for (disk, log) in &logs {
        log.apply_to(&*disk.device)?;
    }
    Ok(())
}

/// Applies the logs of a disk that can be read, the oldest first; answers why one cannot be.
fn apply_flushed(
    disk: &Disk,
    logs: Vec<Result<LogReader, LogError>>,
) -> Result<Option<LogError>, TrackError> {
    let mut unreadable = None;
    for log in logs {
        match log {
            Ok(log) => log.apply_to(&*disk.device)?,
            Err(error) => unreadable = Some(error),
        }
    }
    Ok(unreadable)
}

/// Refuses a log that belongs to another disk or chain, or does not follow `previous`.
fn check_chain(log: &LogReader, disk: &Disk, chain: u64, previous: Uuid) -> Result<(), Stop> {
    let header = log.header();
    let continues =
        header.data_write_guid == lineage(disk.id, chain) && header.previous_unique_id == previous;
    if continues { Ok(()) } else { Err(out_of_chain(log).into()) }
}

fn is_marked(disk: &Disk) -> Result<bool, TrackError> {
    disk.device.is_marked().map_err(|source| TrackError::Disk { disk: disk.id, source })
}

fn flush(disk: &Disk) -> Result<(), TrackError> {
    disk.flush_device().map_err(|source| TrackError::Disk { disk: disk.id, source })
}

pub(super) fn file_error(path: &Path, source: io::Error) -> TrackError {
    TrackError::File { path: path.to_owned(), source }
}

/// `EIO`: the medium does not give the log back. Source: Linux `errno-base.h`.
const EIO: i32 = 5;

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        let unreadable = match &error {
            LogError::Damaged { .. } => true,
            LogError::Io { source, .. } => {
                source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(EIO)
            }
            LogError::Apply { .. } => false,
        };
        if unreadable {
            Self::Broken(Broken::log_unreadable(&error))
        } else {
            Self::Fatal(error.into())
        }
    }
}

impl From<TrackError> for Stop {
    fn from(error: TrackError) -> Self {
        Self::Fatal(error)
    }
}
