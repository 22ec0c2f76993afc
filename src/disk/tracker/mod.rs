//! The write tracker: one per VM, over all its disks.
//!
//! ```text
//!            start                     log write fails, damage, power loss
//!   Off ----------------> On ------------------------------------------> Broken
//!    ^                    | \ cut: active log -> in transit, next log -> active
//!    |<------ stop -------+                                                |
//!    |<------ stop --------------------------------------------------------+
//!                         On <---------------- start (another chain) ------+
//! ```
//!
//! * A write is appended to the log, written to the disk, then acknowledged. Writes that overlap wait
//!   for each other, so replaying the log gives the disk. Several that were asked for at one time are
//!   all appended first, with two system calls, then written in the same order, then acknowledged.
//! * A flush of the guest makes the log durable (one `fdatasync`), not the disk. The disk is made
//!   durable before a log is deleted, and a start after a power loss applies the logs.
//! * A cut changes the logs of all disks at one instant. Writers are held up for two small writes to
//!   the page cache per disk; what must be durable is made so afterwards.
//! * A log that cannot be written never fails the guest: tracking is broken, with a reason that
//!   survives restarts, and writes go on to the disks. Only another chain of logs ends that.
//! * Logs that come near half of their disk are compacted: see [`Tracker::cut`] and
//!   [`Tracker::compact_large`]. Logs that take half of it all the same ([`Broken::LogsTooLarge`]) end
//!   tracking and are dropped.
//!   [`Tracker::status`] says how far away that is, and whether the volume of the logs is short of space.
//! * A flush of a disk that fails is told to nobody as long as its log has all that the disk may lack. The disk is
//!   written again from it before the log is dropped, or given up with tracking (module `redo`).
//!
//! What a start finds, and does:
//!
//! | the last run ended by | logs and disks | tracking |
//! |---|---|---|
//! | [`Tracker::close`] | agree | goes on |
//! | kill -9 | the logs have every acknowledged write, and are applied | goes on |
//! | power loss | flushed writes are in the logs, which are applied; the disks may have more than the logs | broken |
//!
//! A cut that was half done is completed; after a power loss only if all its logs were durable.
//!
//! **A disk that was changed while nothing tracked it** breaks tracking too. The state keeps what
//! identifies each disk's file ([`FileIdentity`]), and a start compares:
//!
//! | the last run ended by | must be the same | is not detected |
//! |---|---|---|
//! | [`Tracker::close`] | inode, length, time of the last change | a change within one tick of the file system's clock after the close, with the time set back, or in the seconds before a power loss that kept it and forgot its time |
//! | kill -9 | inode, length not less; the time not older than at the last start | a change in place between the kill and the start; where the logs have a write, they are applied over it |
//! | power loss | inode, length not less | a change in place |
//!
//! **A disk that is larger** than it was when the tracker was closed or killed is the same disk, and what was
//! added is suspect: it goes on, if nothing else is the matter. One that is smaller is another one.
//!
//! **A disk that was not there** joins the chain of the others, with all of it suspect, unless a cut is in transit:
//! that has a log of each disk. One that is gone breaks tracking.
//!
//! While tracking is off there is nothing to compare, and a device that is no file has no identity.
//!
//! **What may differ from the replica** is known at any time, also while tracking is broken:
//! [`Tracker::suspect`]. A resynchronization starts another chain, compares what is suspect, ships the
//! differences, and then says so with [`Tracker::resolve_suspect`]. Until it does, what was suspect stays
//! so, through restarts and other chains as well; what is written meanwhile is in the logs.

mod bitmap;
mod compact;
mod disk;
mod error;
mod frame;
mod gate;
mod joining;
mod log;
mod marks;
mod names;
mod range_guard;
mod redo;
mod reopen;
mod room;
mod state;
mod suspect;

pub use disk::TrackedDisk;
pub use error::{Broken, TrackError};
pub use marks::REGION_BYTES;
pub use room::LowSpace;
pub use suspect::{CHUNK_BYTES, Suspect};

use crate::disk::hrl::{EMPTY_LOG_BYTES, Header, LogTime, LogWriter, Tail};
use crate::domain::id::DiskId;
use crate::domain::time::Timestamp;
use crate::ports::block::BlockDevice;
use crate::ports::clock::Clock;
use crate::ports::files::Files;
use disk::Disk;
use gate::{Gate, Shared};
use joining::first_log;
use log::{DiskLogs, Log};
use names::Names;
use reopen::Reopened;
use serde::{Deserialize, Serialize};
use state::{Durable, State, StateFile, TrackedState, Tracking};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use suspect::LogsFound;
use uuid::Uuid;

/// One run of a machine, from its start to its end or power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootId(pub Uuid);

impl BootId {
    /// The run of another machine that this one stands for: a host of the lab that can be lost by itself.
    #[must_use]
    pub fn standing_for(self, machine: Uuid) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() ^ machine.as_u128()))
    }

    /// The run that this process is in.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn of_this_machine() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let id = text.trim().parse().map_err(io::Error::other)?;
        Ok(Self(id))
    }
}

/// A disk to track.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    /// Whose disk.
    pub id: DiskId,
    /// File stem of its logs: `<name>.hrl`. Unique in the folder, without a path separator.
    pub name: String,
    /// The disk itself. Nobody else writes to it.
    pub device: Arc<dyn BlockDevice>,
}

/// A cut: the logs that hold every write of all disks between the cut before and one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The caller's number of it.
    pub number: u64,
    /// The instant, in whole seconds, as the logs' headers keep it.
    pub at: Timestamp,
    /// One closed and durable log for each disk, in the order of the disks.
    pub logs: Vec<TransitLog>,
}

/// One log of a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransitLog {
    /// Whose writes.
    pub disk: DiskId,
    /// The closed log.
    pub path: PathBuf,
    /// Its identity.
    pub unique_id: Uuid,
    /// The log before it; nil for the first of a chain.
    pub previous_unique_id: Uuid,
    /// Length of the log. Zeroes in it are holes, so it can take less on its volume.
    pub bytes: u64,
}

/// What a tracker does, as of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackStatus {
    /// Whether every write is logged.
    pub tracking: bool,
    /// Why it is not, where it should be.
    pub broken: Option<Broken>,
    /// Whether the volume of the logs is short of space: long before a log cannot be written.
    pub low_space: Option<LowSpace>,
    /// The disks, in the order of [`Tracker::open`].
    pub disks: Vec<DiskStatus>,
}

/// One disk of [`TrackStatus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    /// Which disk.
    pub disk: DiskId,
    /// Its size.
    pub size_bytes: u64,
    /// What its active log takes on the volume.
    pub active_bytes: u64,
    /// What its log in transit takes on the volume.
    pub transit_bytes: u64,
    /// When the logs reach the size that ends tracking, if they grow on as they did: at the mean rate of
    /// the last minutes, over the times that [`Tracker::status`] was called. `None` if they do not grow,
    /// or so slowly that it takes more than 30 days.
    pub full_at: Option<Timestamp>,
}

impl DiskStatus {
    /// What the logs take on the volume as a share of the disk; at 0.5 tracking ends.
    pub fn log_share(&self) -> f64 {
        (self.active_bytes + self.transit_bytes) as f64 / self.size_bytes.max(1) as f64
    }
}

/// Tracks the writes of one VM. All calls block; disks go on being read and written meanwhile, except
/// where a call says that it holds writers up.
#[derive(Debug)]
pub struct Tracker {
    shared: Arc<Shared>,
    /// Held by every call that changes which logs there are.
    control: Mutex<()>,
    transit: Mutex<Option<Transit>>,
    /// What the last look at the volume of the logs found.
    volume_is_low: AtomicBool,
}

/// A cut, and what its logs take on the volume.
#[derive(Clone, Debug)]
struct Transit {
    cut: Cut,
    allocated_bytes: Vec<u64>,
}

impl Tracker {
    /// Opens the tracker of a VM in `folder`, where its logs are. If tracking was on, completes or
    /// undoes what was half done, applies the logs to the disks after a crash, and goes on; what it
    /// found is in [`Tracker::status`] and [`Tracker::transit`]. Only one tracker may be open.
    ///
    /// # Errors
    /// [`TrackError`] if the disks cannot be brought to a state that keeps what was acknowledged;
    /// nothing may be served then.
    pub fn open(
        files: Arc<dyn Files>,
        folder: &Path,
        disks: Vec<DiskSpec>,
        boot: BootId,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, TrackError> {
        check_names(&disks)?;
        let named = |spec: DiskSpec| {
            let names = Names::new(folder, &spec.name);
            Disk::new(spec.id, spec.name, names, spec.device)
        };
        let disks: Vec<Disk> = disks.into_iter().map(named).collect();
        let state_file = StateFile::new(folder);
        let state = state_file.read(&*files)?;
        let mut state = state.unwrap_or_else(|| State {
            boot,
            clean: true,
            chain: 0,
            tracking: Tracking::Off,
            acknowledged: 0,
            disks: BTreeMap::new(),
        });
        let brought = reopen::reopen(&*files, folder, &disks, &state, boot, &*clock)
            .and_then(|reopened| opened(&*files, &disks, &state, reopened, boot));
        let Opened { gate, transit, state } = match brought {
            Ok(opened) => opened,
            Err(error) => {
                // It may be a flush that failed, which the kernel does not tell the next start again.
                if state.lives_on(boot) && state.tracking != Tracking::Off {
                    state.doubt(|_| true);
                    if let Err(error) = state_file.write(&*files, &state) {
                        tracing::error!(folder = %folder.display(), %error, "cannot record a start that failed");
                    }
                }
                return Err(error);
            }
        };
        if state.tracking != Tracking::Off {
            state_file.write(&*files, &state)?;
        }
        let shared = Shared::new(files, folder.to_owned(), clock, disks, state, gate);
        let tracker = Self {
            shared: Arc::new(shared),
            control: Mutex::new(()),
            transit: Mutex::new(None),
            volume_is_low: AtomicBool::new(false),
        };
        tracker.set_transit(transit);
        tracker.drop_too_large(&tracker.lock_control());
        Ok(Arc::new(tracker))
    }

    /// The disk to serve.
    pub fn disk(&self, id: DiskId) -> Option<Arc<TrackedDisk>> {
        let index = self.shared.disks.iter().position(|disk| disk.id == id)?;
        Some(Arc::new(TrackedDisk::new(Arc::clone(&self.shared), index)))
    }

    /// Starts a chain of logs: every write from some instant during the call on is in them. Does
    /// nothing if tracking is on. Drops all earlier logs, also those in transit: what they held is
    /// suspect, and so is what was. Holds writers up while the last bytes of the disks, what is suspect
    /// and the empty logs are made durable.
    ///
    /// # Errors
    /// [`TrackError`]; tracking is then off, or broken as before.
    pub fn start(&self) -> Result<(), TrackError> {
        let _control = self.lock_control();
        match &*self.shared.read_gate() {
            Gate::On(_) => return Ok(()),
            Gate::Closed => return Err(TrackError::Closed),
            Gate::Off | Gate::Broken(_) => {}
        }
        self.start_chain()
    }

    /// As [`Tracker::start`], also where tracking is on: for a chain that is whole here and of no use
    /// there, as when a resynchronization was interrupted. Who else counts on the chain before is not told: that a
    /// tracker has one service is for its callers to see to.
    ///
    /// # Errors
    /// As [`Tracker::start`].
    pub fn start_again(&self) -> Result<(), TrackError> {
        let _control = self.lock_control();
        if let Gate::Closed = &*self.shared.read_gate() {
            return Err(TrackError::Closed);
        }
        self.start_chain()
    }

    /// What of a disk may differ from its replica as of the last acknowledged cut, in chunks of
    /// [`CHUNK_BYTES`]. A write that was acknowledged before the call is in it.
    pub fn suspect(&self, disk: DiskId) -> Suspect {
        let _gate = self.shared.read_gate(); // what was written before is seen
        let known = self.shared.disks.iter().find(|known| known.id == disk);
        known.map_or(Suspect::Everything, |disk| disk.suspects.suspect())
    }

    /// Counts the chains of logs; 0 before the first. Another one never has the same number.
    pub fn chain(&self) -> u64 {
        self.shared.state().chain
    }

    /// Says that every part that was suspect when `chain` was started has been brought to the replica, so
    /// that only its logs are missing there. Durable on return; holds writers up until then.
    ///
    /// # Errors
    /// [`TrackError::Broken`], [`TrackError::NotTracking`] and [`TrackError::ChainOver`] where the logs
    /// are no longer those that go on from what was compared; else [`TrackError::File`]. What was suspect
    /// then stays so.
    pub fn resolve_suspect(&self, chain: u64) -> Result<(), TrackError> {
        let _control = self.lock_control();
        let gate = self.shared.write_gate();
        match &*gate {
            Gate::On(_) => {}
            Gate::Off => return Err(TrackError::NotTracking),
            Gate::Broken(reason) => return Err(TrackError::Broken(reason.clone())),
            Gate::Closed => return Err(TrackError::Closed),
        }
        let present = self.chain();
        if chain != present {
            return Err(TrackError::ChainOver { asked: chain, chain: present });
        }
        let files = &*self.shared.files;
        self.shared.disks.iter().try_for_each(|disk| disk.suspects.resolve(files, chain))
    }

    fn start_chain(&self) -> Result<(), TrackError> {
        self.flush_disks()?; // the bulk, without holding writers up
        let mut gate = self.shared.write_gate();
        self.shared.flush_devices()?;
        let chain = self.chain() + 1;
        for disk in &self.shared.disks {
            disk.suspects.settle();
            disk.suspects.save(&*self.shared.files, chain)?;
        }
        self.shared.change_state(|state| {
            state.tracking = Tracking::Off;
            state.chain = chain;
            state.acknowledged = 0;
            state.disks.clear();
        })?;
        *gate = Gate::Off;
        let started = self.make_logs(chain).map(|logs| *gate = Gate::On(logs));
        if started.is_err() {
            // What is written while tracking is off is known to nobody.
            self.shared.disks.iter().for_each(|disk| disk.suspects.forget());
        }
        started
    }

    /// Makes the empty logs of a chain and says in the state that they count.
    fn make_logs(&self, chain: u64) -> Result<Vec<DiskLogs>, TrackError> {
        self.drop_logs()?;
        self.shared.disks.iter().try_for_each(take_mark_off)?;
        let mut logs = Vec::new();
        for disk in &self.shared.disks {
            logs.push(first_log(&*self.shared.files, disk, chain, self.log_time())?);
        }
        self.sync_folder()?;
        let mut disks = self.shared.disks.iter().map(tracked_state).collect();
        disk::identify(&self.shared.disks, &mut disks)?;
        self.shared.change_state(|state| {
            state.tracking = Tracking::On;
            state.disks = disks;
        })?;
        Ok(logs)
    }

    /// Ends tracking and drops all logs, also those in transit, and what is known of the difference to
    /// the replica: everything is suspect. Does nothing if tracking is off. Holds writers up while the last bytes of the disks are made durable.
    ///
    /// # Errors
    /// [`TrackError`]; call again.
    pub fn stop(&self) -> Result<(), TrackError> {
        let _control = self.lock_control();
        match &*self.shared.read_gate() {
            Gate::Closed => return Err(TrackError::Closed),
            Gate::Off if self.shared.state().chain == 0 => return Ok(()),
            Gate::Off | Gate::On(_) | Gate::Broken(_) => {}
        }
        self.flush_disks()?;
        let mut gate = self.shared.write_gate();
        self.shared.flush_devices()?;
        self.shared.change_state(|state| {
            state.tracking = Tracking::Off;
            state.disks.clear();
        })?;
        *gate = Gate::Off;
        for disk in &self.shared.disks {
            disk.suspects.forget();
        }
        drop(gate);
        self.drop_logs()?;
        for disk in &self.shared.disks {
            for path in [disk.names.suspects(), disk.names.marks()] {
                names::remove(&*self.shared.files, &path)
                    .map_err(|source| TrackError::File { path, source })?;
            }
        }
        self.sync_folder()
    }

    /// As [`Tracker::stop`], and leaves no file of the tracker beside the disks. They are served as
    /// before, and tracking can be started again.
    ///
    /// # Errors
    /// [`TrackError`]; call again.
    pub fn end(&self) -> Result<(), TrackError> {
        self.stop()?;
        let _control = self.lock_control();
        let gate = self.shared.write_gate();
        match &*gate {
            Gate::Off => self.shared.forget_state(),
            Gate::On(_) | Gate::Broken(_) => Ok(()), // somebody has started it meanwhile
            Gate::Closed => Err(TrackError::Closed),
        }
    }

    /// Cuts the logs of all disks at one instant; what they hold is durable and closed on return, and
    /// in transit until [`Tracker::acknowledge`]. The same number again answers the same cut.
    ///
    /// Where the logs of a disk take 40 % of it, a log in transit with much that it overwrites itself is
    /// compacted: the same log by identity, chain and result. Nobody is held up by that but the caller.
    ///
    /// # Errors
    /// [`TrackError::LowSpace`] where there is no room for the files of a cut;
    /// [`TrackError::Broken`] with the reason if the logs lack writes; [`TrackError::InTransit`] and
    /// [`TrackError::NumberUsed`]; else nothing was cut and tracking goes on.
    pub fn cut(&self, number: u64) -> Result<Cut, TrackError> {
        self.cut_at_rest(number, || (), || ())
    }

    /// A cut with the guest at rest at its instant. `rest` is called once nothing is left to wait for, and returns
    /// when the guest is at rest, or will not be; `go_on` is called when the instant is over, before anything is made
    /// durable or compacted. Neither is called for a cut that was made before, or that cannot be made.
    ///
    /// # Errors
    /// As [`Tracker::cut`].
    pub fn cut_at_rest(
        &self,
        number: u64,
        rest: impl FnOnce(),
        go_on: impl FnOnce(),
    ) -> Result<Cut, TrackError> {
        let cut = self.cut_as_it_is(number, rest, go_on)?;
        match self.compact_in_transit(number) {
            Ok(None) => Ok(cut),
            Ok(Some(compacted)) => Ok(compacted),
            Err(error) => {
                tracing::warn!(folder = %self.shared.folder.display(), %error, "cannot compact a log");
                Ok(cut)
            }
        }
    }

    fn cut_as_it_is(
        &self,
        number: u64,
        rest: impl FnOnce(),
        go_on: impl FnOnce(),
    ) -> Result<Cut, TrackError> {
        let control = self.lock_control();
        self.drop_too_large(&control);
        if let Some(transit) = &*self.lock_transit() {
            let cut = &transit.cut;
            let other = || TrackError::InTransit { number: cut.number };
            return if cut.number == number { Ok(cut.clone()) } else { Err(other()) };
        }
        let last = self.shared.state().acknowledged;
        if number <= last {
            return Err(TrackError::NumberUsed { number, last });
        }
        self.check_room(room::cut_bytes(self.shared.disks.len()))?;
        let next = self.prepare(number).inspect_err(|_| self.remove_prepared(number))?;
        rest();
        let switched = self.switch(next);
        go_on();
        let (retired, at) = match switched {
            Ok(switched) => switched,
            Err(error) => {
                self.remove_prepared(number);
                return Err(error);
            }
        };
        let finished = self.finish(number, &retired, at);
        let transit = finished.map_err(|reason| self.break_with(reason))?;
        let cut = transit.cut.clone();
        self.set_transit(Some(transit));
        Ok(cut)
    }

    /// What the logs of a disk take on the volume.
    fn log_bytes(&self, index: usize) -> u64 {
        let active = match &*self.shared.read_gate() {
            Gate::On(logs) => logs[index].active.writer().allocated_bytes(),
            Gate::Off | Gate::Broken(_) | Gate::Closed => 0,
        };
        active + self.shared.disks[index].transit_bytes.load(Ordering::Relaxed)
    }

    /// Drops the logs of a VM whose logs were too large. Not where they may still hold something that is
    /// not durable on the disks.
    fn drop_too_large(&self, _control: &MutexGuard<'_, ()>) {
        let Gate::Broken(Broken::LogsTooLarge { .. }) = &*self.shared.read_gate() else { return };
        let left = |disk: &Disk| self.shared.files.exists(&disk.names.active());
        if self.transit().is_none() && !self.shared.disks.iter().any(left) {
            return;
        }
        let dropped = self.shared.flush_devices().and_then(|()| self.drop_logs());
        if let Err(error) = dropped {
            let folder = self.shared.folder.display();
            tracing::error!(%folder, %error, "cannot drop logs that are too large");
        }
    }

    fn low_volume(&self, disks_bytes: u64) -> Option<LowSpace> {
        let was_low = self.volume_is_low.load(Ordering::Relaxed);
        let low = self.low_space(room::low_bytes(disks_bytes, was_low));
        self.volume_is_low.store(low.is_some(), Ordering::Relaxed);
        low
    }

    fn low_space(&self, needed_bytes: u64) -> Option<LowSpace> {
        let folder = self.shared.folder.clone();
        // Where nobody can tell what is free, a log that cannot be written says so.
        let free_bytes = self.shared.files.free_bytes(&folder).ok()?;
        (free_bytes < needed_bytes).then_some(LowSpace { folder, free_bytes, needed_bytes })
    }

    fn check_room(&self, needed_bytes: u64) -> Result<(), LowSpace> {
        self.low_space(needed_bytes).map_or(Ok(()), Err)
    }

    /// The cut that is in transit, also after a restart.
    pub fn transit(&self) -> Option<Cut> {
        self.lock_transit().as_ref().map(|transit| transit.cut.clone())
    }

    /// Whether anything was written since the last cut, as far as the logs know.
    pub fn has_writes(&self) -> bool {
        match &*self.shared.read_gate() {
            Gate::On(logs) => logs.iter().any(|logs| EMPTY_LOG_BYTES < logs.active.writer().end()),
            Gate::Off | Gate::Broken(_) | Gate::Closed => false,
        }
    }

    /// Says that a cut is safe elsewhere: makes the disks durable, then drops its logs. Does nothing
    /// for a cut that was acknowledged already. What a disk may have lost with an earlier flush that
    /// failed is written to it again from the logs, with writers held up.
    ///
    /// # Errors
    /// [`TrackError`]; the logs are kept where the disks cannot be made durable, and it can be tried again.
    pub fn acknowledge(&self, number: u64) -> Result<(), TrackError> {
        let _control = self.lock_control();
        let transit = self.lock_transit().clone();
        let cut = match transit {
            Some(transit) if transit.cut.number == number => transit.cut,
            Some(_) | None if number <= self.shared.state().acknowledged => return Ok(()),
            Some(_) | None => {
                return Err(match &*self.shared.read_gate() {
                    Gate::Broken(reason) => TrackError::Broken(reason.clone()),
                    Gate::Off | Gate::On(_) | Gate::Closed => TrackError::NotInTransit { number },
                });
            }
        };
        self.flush_disks()?;
        self.shared.change_state(|state| {
            state.acknowledged = number;
            for log in &cut.logs {
                if let Some(disk) = state.disks.get_mut(&log.disk) {
                    disk.shipped = log.unique_id;
                }
            }
        })?;
        self.settle_acknowledged();
        for log in &cut.logs {
            names::remove(&*self.shared.files, &log.path)
                .map_err(|source| TrackError::File { path: log.path.clone(), source })?;
        }
        self.sync_folder()?;
        self.set_transit(None);
        Ok(())
    }

    /// The writes of the cut in transit are on the disks and in the replica: they are not suspect, and
    /// their regions need no mark.
    fn settle_acknowledged(&self) {
        for disk in &self.shared.disks {
            disk.suspects.acknowledged();
        }
        let gate = self.shared.write_gate();
        // While broken, marks stand for more than what is known to be written since the last cut.
        let Gate::On(_) = &*gate else { return };
        for disk in &self.shared.disks {
            disk.suspects.keep_current_marks();
        }
        drop(gate);
        for disk in &self.shared.disks {
            if let Err(error) = disk.suspects.marks.save() {
                // There are more marks on the volume than needed.
                tracing::warn!(disk = %disk.name, %error, "cannot clear marks");
            }
        }
    }

    /// What the tracker does.
    pub fn status(&self) -> TrackStatus {
        if let Ok(control) = self.control.try_lock() {
            self.drop_too_large(&control);
        }
        let now = self.shared.clock.now();
        let gate = self.shared.read_gate();
        let disk_status = |(index, disk): (usize, &Disk)| {
            let size_bytes = disk.device.size_bytes();
            let active_bytes = match &*gate {
                Gate::On(logs) => logs[index].active.writer().allocated_bytes(),
                Gate::Off | Gate::Broken(_) | Gate::Closed => 0,
            };
            let transit_bytes = disk.transit_bytes.load(Ordering::Relaxed);
            let limit = room::limit_bytes(size_bytes);
            let full_at = disk.growth().forecast(now, active_bytes + transit_bytes, limit);
            DiskStatus { disk: disk.id, size_bytes, active_bytes, transit_bytes, full_at }
        };
        let disks: Vec<DiskStatus> =
            self.shared.disks.iter().enumerate().map(disk_status).collect();
        TrackStatus {
            tracking: matches!(*gate, Gate::On(_)),
            broken: match &*gate {
                Gate::Broken(reason) => Some(reason.clone()),
                Gate::Off | Gate::On(_) | Gate::Closed => None,
            },
            low_space: self.low_volume(disks.iter().map(|disk| disk.size_bytes).sum()),
            disks,
        }
    }

    /// Ends the use of the disks: makes logs and disks durable and says so in the state, so that the
    /// next start has nothing to apply. Writes are refused from then on.
    ///
    /// # Errors
    /// [`TrackError`]; writes are refused all the same, and the next start does as after kill -9.
    pub fn close(&self) -> Result<(), TrackError> {
        let _control = self.lock_control();
        let gate = std::mem::replace(&mut *self.shared.write_gate(), Gate::Closed);
        match &gate {
            Gate::Closed => return Ok(()),
            Gate::On(logs) => {
                logs.iter().try_for_each(DiskLogs::flush)?;
                logs.iter().try_for_each(|logs| logs.active.flush_with_tail())?;
            }
            Gate::Off | Gate::Broken(_) => {}
        }
        self.shared.flush_devices()?;
        if let Gate::Broken(_) = &gate {
            let chain = self.chain();
            let files = &*self.shared.files;
            self.shared.disks.iter().try_for_each(|disk| disk.suspects.save(files, chain))?;
        }
        match gate {
            Gate::On(_) | Gate::Broken(_) => {
                let mut disks = self.shared.state().disks;
                disk::identify(&self.shared.disks, &mut disks)?;
                self.shared.change_state(|state| {
                    state.clean = true;
                    state.disks = disks;
                })
            }
            Gate::Off | Gate::Closed => Ok(()),
        }
    }

    /// Makes the logs that become active with a cut; durable, also their names, on return.
    fn prepare(&self, number: u64) -> Result<Vec<LogWriter>, TrackError> {
        let logs = match &*self.shared.read_gate() {
            Gate::On(logs) => logs.clone(),
            Gate::Off => return Err(TrackError::NotTracking),
            Gate::Broken(reason) => return Err(TrackError::Broken(reason.clone())),
            Gate::Closed => return Err(TrackError::Closed),
        };
        let chain = self.shared.state().chain;
        let mut next = Vec::new();
        for (disk, logs) in self.shared.disks.iter().zip(&logs) {
            let header = header(disk, chain, logs.active.unique_id(), number, self.log_time());
            let path = disk.names.next(number);
            let tail = Tail::open(&*self.shared.files, &disk.names.tail())?;
            next.push(LogWriter::create(&*self.shared.files, &path, tail, header)?);
        }
        self.sync_folder()?;
        Ok(next)
    }

    /// The instant of a cut: no write is half done on any disk.
    fn switch(&self, next: Vec<LogWriter>) -> Result<(Vec<Arc<Log>>, LogTime), TrackError> {
        let mut gate = self.shared.write_gate();
        let logs = match &mut *gate {
            Gate::On(logs) => logs,
            Gate::Off => return Err(TrackError::NotTracking),
            Gate::Broken(reason) => return Err(TrackError::Broken(reason.clone())),
            Gate::Closed => return Err(TrackError::Closed),
        };
        let at = LogTime::from(self.shared.clock.now());
        for (disk, logs) in self.shared.disks.iter().zip(&*logs) {
            let sealed = logs.active.writer().seal_for_cut();
            if let Err(error) = sealed {
                drop(gate);
                return Err(self.break_with(Broken::log_write_failed(disk.id, &error)));
            }
        }
        let mut retired = Vec::new();
        for (logs, next) in logs.iter_mut().zip(next) {
            let active = std::mem::replace(&mut logs.active, Arc::new(Log::new(next)));
            logs.retired = Some(Arc::clone(&active));
            retired.push(active);
        }
        self.shared.disks.iter().for_each(|disk| disk.suspects.cut());
        Ok((retired, at))
    }

    /// Closes the logs of a cut, then gives all files the names that say so. In this order: a log in
    /// transit is whole, whatever happens.
    fn finish(&self, number: u64, retired: &[Arc<Log>], at: LogTime) -> Result<Transit, Broken> {
        let disks = &self.shared.disks;
        for (disk, log) in disks.iter().zip(retired) {
            log.close(at, &disk.names.transit(number))
                .map_err(|error| Broken::log_write_failed(disk.id, &error))?;
        }
        for disk in disks {
            let renamed = reopen::rename_cut(&*self.shared.files, &disk.names, number);
            renamed.map_err(|error| rename_failed(disk, &error))?;
        }
        if let (Err(TrackError::File { source, .. }), Some(disk)) =
            (self.sync_folder(), disks.first())
        {
            return Err(rename_failed(disk, &source));
        }
        if let Gate::On(logs) = &*self.shared.read_gate() {
            for (disk, logs) in disks.iter().zip(logs) {
                logs.active.writer().renamed(&disk.names.active());
            }
        }
        let headers = disks.iter().zip(retired).map(|(disk, log)| {
            let writer = log.writer();
            (disk, *writer.header(), writer.allocated_bytes())
        });
        Ok(Transit::of(number, headers))
    }

    /// Breaks tracking; returns the error that the caller answers.
    fn break_with(&self, reason: Broken) -> TrackError {
        self.shared.break_with(reason.clone());
        TrackError::Broken(reason)
    }

    fn remove_prepared(&self, number: u64) {
        for disk in &self.shared.disks {
            let path = disk.names.next(number);
            if let Err(error) = names::remove(&*self.shared.files, &path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an unused log");
            }
        }
    }

    /// Removes all logs. They do not count any more, by the state.
    fn drop_logs(&self) -> Result<(), TrackError> {
        self.set_transit(None);
        for disk in &self.shared.disks {
            disk.names
                .remove_logs(&*self.shared.files)
                .map_err(|source| TrackError::File { path: disk.names.active(), source })?;
        }
        Ok(())
    }

    fn log_time(&self) -> LogTime {
        LogTime::from(self.shared.clock.now())
    }

    fn sync_folder(&self) -> Result<(), TrackError> {
        let folder = &self.shared.folder;
        let failed = |source| TrackError::File { path: folder.clone(), source };
        self.shared.files.sync_dir(folder).map_err(failed)
    }

    fn set_transit(&self, transit: Option<Transit>) {
        for (index, disk) in self.shared.disks.iter().enumerate() {
            let bytes = transit.as_ref().map_or(0, |transit| transit.allocated_bytes[index]);
            disk.transit_bytes.store(bytes, Ordering::Relaxed);
        }
        *self.lock_transit() = transit;
    }

    fn lock_control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_transit(&self) -> MutexGuard<'_, Option<Transit>> {
        self.transit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transit {
    /// A cut by the headers of its closed logs, in the order of the disks.
    fn of<'a>(number: u64, logs: impl Iterator<Item = (&'a Disk, Header, u64)>) -> Self {
        let mut at = LogTime(0);
        let mut allocated_bytes = Vec::new();
        let logs = logs
            .map(|(disk, header, allocated)| {
                at = header.last_modified;
                allocated_bytes.push(allocated);
                TransitLog {
                    disk: disk.id,
                    path: disk.names.transit(number),
                    unique_id: header.unique_id,
                    previous_unique_id: header.previous_unique_id,
                    bytes: header.end_of_log,
                }
            })
            .collect();
        Self { cut: Cut { number, at: at.into(), logs }, allocated_bytes }
    }
}

/// How a tracker goes on, and what its state is from then on.
struct Opened {
    gate: Gate,
    transit: Option<Transit>,
    state: State,
}

fn opened(
    files: &dyn Files,
    disks: &[Disk],
    before: &State,
    reopened: Reopened,
    boot: BootId,
) -> Result<Opened, TrackError> {
    let Reopened { gate, transit, changed } = reopened;
    load_suspects(files, disks, before, &gate, &changed)?;
    let mut state = State { boot, clean: false, ..before.clone() };
    if let Gate::Broken(reason) = &gate {
        state.tracking = Tracking::Broken(reason.clone());
    }
    if state.tracking != Tracking::Off {
        for disk in disks {
            let (id, joined) = tracked_state(disk);
            let known = state.disks.entry(id).or_insert(joined);
            known.size_bytes = known.size_bytes.max(disk.device.size_bytes());
            known.durable = match (disk.flush_has_failed(), known.durable) {
                (false, _) => Durable::Yes,
                (true, Durable::Yes) => Durable::WithItsLogs,
                (true, durable) => durable,
            };
        }
        disk::identify(disks, &mut state.disks)?;
    }
    Ok(Opened { gate, transit, state })
}

/// Finds what is suspect of each disk, after a start has brought logs and disks together.
fn load_suspects(
    files: &dyn Files,
    disks: &[Disk],
    state: &State,
    gate: &Gate,
    changed: &[DiskId],
) -> Result<(), TrackError> {
    let logs = match gate {
        Gate::On(_) => LogsFound::Whole,
        Gate::Broken(_) => LogsFound::Broken,
        Gate::Off | Gate::Closed => return Ok(()),
    };
    for disk in disks {
        if !state.disks.contains_key(&disk.id) {
            disk.suspects.forget();
            disk.suspects.save(files, state.chain)?;
        } else if changed.contains(&disk.id) {
            disk.suspects.forget_durably(files)?;
        } else {
            let known = state.disks.get(&disk.id).map(|known| known.size_bytes);
            match known.filter(|known| *known < disk.device.size_bytes()) {
                Some(before) => disk.suspects.load_grown(files, state.chain, logs, before)?,
                None => disk.suspects.load(files, state.chain, logs),
            }
        }
    }
    Ok(())
}

fn take_mark_off(disk: &Disk) -> Result<(), TrackError> {
    let device = &disk.device;
    let taken = device.is_marked().and_then(|is| if is { device.set_mark(false) } else { Ok(()) });
    taken.map_err(|source| TrackError::Disk { disk: disk.id, source })
}

fn rename_failed(disk: &Disk, error: &io::Error) -> Broken {
    let (path, error) = (disk.names.active(), error.to_string());
    Broken::LogWriteFailed { disk: disk.id, path, error }
}

fn check_names(disks: &[DiskSpec]) -> Result<(), TrackError> {
    let mut used = BTreeSet::new();
    for disk in disks {
        let plain = !disk.name.is_empty() && !disk.name.contains(['/', '\0']);
        if !plain || !used.insert(&disk.name) {
            return Err(TrackError::DiskName { name: disk.name.clone() });
        }
    }
    Ok(())
}

fn tracked_state(disk: &Disk) -> (DiskId, TrackedState) {
    let (name, size_bytes) = (disk.name.clone(), disk.device.size_bytes());
    (
        disk.id,
        TrackedState {
            name,
            size_bytes,
            shipped: Uuid::nil(),
            identity: None,
            durable: Durable::Yes,
        },
    )
}

/// The header of an empty log.
fn header(disk: &Disk, chain: u64, previous: Uuid, number: u64, at: LogTime) -> Header {
    let unique_id = log_id(disk.id, chain, previous, number);
    Header::open(unique_id, previous, lineage(disk.id, chain), at)
}

/// The identity of a log, the same for the same place in the same chain.
fn log_id(disk: DiskId, chain: u64, previous: Uuid, number: u64) -> Uuid {
    let parts: [&[u8]; 4] =
        [disk.0.as_bytes(), &chain.to_le_bytes(), previous.as_bytes(), &number.to_le_bytes()];
    derive("lifeboat 2026 hrl log", &parts)
}

/// The identity of the content that a chain of logs continues.
fn lineage(disk: DiskId, chain: u64) -> Uuid {
    derive("lifeboat 2026 hrl lineage", &[disk.0.as_bytes(), &chain.to_le_bytes()])
}

fn derive(context: &str, parts: &[&[u8]]) -> Uuid {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
