//! What a disk lost with a flush that failed is written to it again.
//!
//! The kernel reports such an error once, and then forgets both the error and the data: a later flush that
//! succeeds proves nothing, and what is read may be of before. But logs are only dropped once the disk is
//! durable, so whatever it can have lost is in the logs that are left. They are applied again, as after
//! kill -9; a flush that succeeds after that proves everything.

use super::disk::Disk;
use super::gate::Gate;
use super::{TrackError, Tracker};
use crate::disk::hrl::{HeaderTrust, LogError, LogReader, recover_after_power_loss};
use std::io;
use std::path::PathBuf;

impl Tracker {
    /// Makes the disks durable. Where an earlier flush failed, writers are held up while the logs of that
    /// disk are applied to it.
    ///
    /// # Errors
    /// [`TrackError::NotDurable`], with the logs as they are: it can be tried again.
    pub(super) fn flush_disks(&self) -> Result<(), TrackError> {
        for (index, disk) in self.shared.disks.iter().enumerate() {
            if disk.flush_has_failed() {
                self.redo(index, disk)?;
            }
            disk.flush_device().map_err(not_durable(disk))?;
        }
        Ok(())
    }

    fn redo(&self, index: usize, disk: &Disk) -> Result<(), TrackError> {
        let gate = self.shared.write_gate();
        // What the logs of another state hold is not all that was written.
        let Gate::On(logs) = &*gate else { return Ok(()) };
        let files = &*self.shared.files;
        let active = &logs[index].active;
        active.flush()?;
        let mut to_apply = Vec::new();
        if let Some(path) = self.path_in_transit(disk) {
            let mut log = LogReader::open(files, &path, HeaderTrust::Verified)?;
            log.verify()?;
            to_apply.push(log);
        }
        to_apply.push(recover_after_power_loss(files, &active.path())?);
        for log in to_apply {
            log.apply_to(&*disk.device).map_err(|error| match error {
                LogError::Apply { source, .. } => not_durable(disk)(source),
                error => error.into(),
            })?;
        }
        disk.device.flush().map_err(not_durable(disk))?;
        disk.accept_as_it_is();
        tracing::info!(disk = %disk.name, "a disk that could not be flushed has all of its logs again");
        Ok(())
    }

    fn path_in_transit(&self, disk: &Disk) -> Option<PathBuf> {
        let transit = self.lock_transit();
        let log = transit.as_ref()?.cut.logs.iter().find(|log| log.disk == disk.id)?;
        Some(log.path.clone())
    }
}

fn not_durable(disk: &Disk) -> impl FnOnce(io::Error) -> TrackError {
    let disk = disk.id;
    move |source| TrackError::NotDurable { disk, source }
}
