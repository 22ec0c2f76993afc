//! The recovery site: recovery points served as disks at once, fetched as they are read, with a
//! tracked overlay for writes.

use super::engine::Work;
use super::failures::{at_vault, with_tracking_facts};
use super::upkeep::Leased;
use crate::disk::nbd::{Endpoint, Exports, NbdUri};
use crate::disk::tracker::{BootId, DiskSpec, Tracker};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure, in_full};
use crate::domain::id::VmId;
use crate::domain::time::Timestamp;
use crate::domain::vm::{Disk, Vm};
use crate::ports::clock::Clock;
use crate::ports::files::Files;
use crate::ports::replication::ServedDisk;
use crate::replica::{Overlay, Pins, RecoveryPointRecord};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;

/// Serves failed-over VMs.
pub struct RecoverySite {
    folder: PathBuf,
    files: Arc<dyn Files>,
    exports: Arc<Exports>,
    /// Where the exports can be reached.
    server: Endpoint,
    boot: BootId,
    served: Mutex<BTreeMap<VmId, Served>>,
}

struct Served {
    cycle: u64,
    lease: Leased,
    tracker: Arc<Tracker>,
    overlays: Vec<Arc<Overlay>>,
}

impl RecoverySite {
    /// A site whose overlays are in `folder`, one folder a VM and recovery point, and whose disks are in `exports`.
    pub fn new(
        folder: PathBuf,
        files: Arc<dyn Files>,
        exports: Arc<Exports>,
        server: Endpoint,
        boot: BootId,
    ) -> Self {
        Self { folder, files, exports, server, boot, served: Mutex::default() }
    }

    /// Serves a recovery point; once served it stays so until [`RecoverySite::close`], or until the VM
    /// is served from another point.
    ///
    /// # Errors
    /// Also, once, for damaged data that a read of the VM has met since: that is why it does not start.
    pub(super) fn serve(
        &self,
        work: &Work<'_>,
        record: &RecoveryPointRecord,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Vec<ServedDisk>, Failure> {
        let vm = work.vm;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if served.get(&vm.id).is_none_or(|served| served.cycle != record.cycle) {
            if let Some(before) = served.remove(&vm.id) {
                before.close(vm.id);
            }
            let opened = self.open(work, record, clock, runtime)?;
            served.insert(vm.id, opened);
        }
        let overlays = served.get(&vm.id).map_or(&[][..], |served| &served.overlays);
        if let Some(damage) = overlays.iter().find_map(|overlay| overlay.take_damage()) {
            return Err(at_vault(vm, "reading a recovery point", &damage));
        }
        let uri = |name| NbdUri { endpoint: self.server.clone(), export: name }.to_string();
        let disks = vm.disks.iter();
        Ok(disks
            .map(|disk| ServedDisk { disk: disk.id, uri: uri(export_name(vm, disk)) })
            .collect())
    }

    fn open(
        &self,
        work: &Work<'_>,
        record: &RecoveryPointRecord,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Served, Failure> {
        let vm = work.vm;
        // An overlay belongs to one point: a failover from another one must not meet it.
        let folder = self.folder.join(vm.id.to_string()).join(record.cycle.to_string());
        self.files.make_folder(&folder).map_err(|error| local(vm, &error))?;
        let mut images = Vec::new();
        for disk in &vm.disks {
            let Some(at) = record.disks.get(&disk.id) else { continue };
            let operation = "opening a recovery point";
            let image = work.vault_call(operation, work.vault.open_disk(disk.id, at.sequence))?;
            images.push((disk, Arc::new(image)));
        }
        let pins = Pins::of(images.iter().map(|(_, image)| &**image));
        let lease = Leased::take(work, record.cycle, pins, clock.now())?;
        let (mut specs, mut overlays) = (Vec::new(), Vec::new());
        for (disk, image) in images {
            let path = folder.join(format!("{}.overlay", disk.name));
            let overlay = Overlay::open(&*self.files, &path, image, runtime.clone());
            let device = Arc::new(overlay.map_err(|error| classified(vm, &error))?);
            overlays.push(Arc::clone(&device));
            specs.push(DiskSpec { id: disk.id, name: disk.name.clone(), device });
        }
        let (files, clock) = (Arc::clone(&self.files), Arc::clone(clock));
        let tracker = Tracker::open(files, &folder, specs, self.boot, clock)
            .map_err(|error| classified(vm, &error))?;
        if !tracker.status().tracking {
            tracker.start().map_err(|error| classified(vm, &error))?;
        }
        for disk in &vm.disks {
            if let Some(tracked) = tracker.disk(disk.id) {
                self.exports.add(&export_name(vm, disk), tracked);
            }
        }
        Ok(Served { cycle: record.cycle, lease, tracker, overlays })
    }

    /// What serving the VM needs, if it is served; the lease of it is renewed where that is due.
    pub(super) fn renewed_pins(
        &self,
        work: &Work<'_>,
        now: Timestamp,
    ) -> Result<Option<Pins>, Failure> {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(served) = served.get_mut(&work.vm.id) else { return Ok(None) };
        served.lease = served.lease.clone().renew(work, served.cycle, now)?;
        Ok(Some(served.lease.pins.clone()))
    }

    /// Stops serving, in an orderly way.
    pub fn close(&self) {
        let served =
            std::mem::take(&mut *self.served.lock().unwrap_or_else(PoisonError::into_inner));
        for (vm, served) in served {
            served.close(vm);
        }
    }
}

impl Served {
    fn close(&self, vm: VmId) {
        if let Err(error) = self.tracker.close() {
            tracing::error!(%vm, error = %in_full(&error), "close the disks of a replica");
        }
    }
}

fn export_name(vm: &Vm, disk: &Disk) -> String {
    format!("{}-{}", vm.name, disk.name)
}

fn local(vm: &Vm, error: &(dyn std::error::Error + 'static)) -> Failure {
    let failure = Failure::new(Code::HostResourcesShort, Cause::Itself, in_full(error));
    with_tracking_facts(failure, vm, "serving a recovery point", error)
        .with("host", "the recovery site")
}

fn classified(vm: &Vm, error: &(impl Classified + 'static)) -> Failure {
    Failure { code: error.code(), ..local(vm, error) }
}
