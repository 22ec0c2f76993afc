//! The recovery site: recovery points served as disks at once, fetched as they are read, with an overlay
//! for writes. That of a VM that was failed over is tracked, so that what it writes can be sent back; that
//! of a test is tracked by nobody.
//!
//! ```text
//! <folder>/<vm>/<cycle>/       overlays, logs and tracking state of a VM that runs from this point
//! <folder>/<vm>/test-<cycle>/  overlays of a test
//! ```
//!
//! The overlays of a VM that has left its vault are whole: each is a raw image of its disk, and served as one.

use super::engine::Work;
use super::failures::{RECOVERY_SITE, at_vault, with_tracking_facts};
use super::source::{Source, Sources};
use super::upkeep::Leased;
use crate::disk::nbd::{Endpoint, Exports, NbdUri};
use crate::disk::raw::RawDisk;
use crate::disk::tracker::{BootId, DiskSpec, TrackError, Tracker};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure, in_full};
use crate::domain::id::{DiskId, RecoveryPointId, VmId};
use crate::domain::time::Timestamp;
use crate::domain::vm::{Disk, Vm};
use crate::ports::block::BlockDevice;
use crate::ports::clock::Clock;
use crate::ports::files::{Files, Open};
use crate::ports::replication::ServedDisk;
use crate::replica::{Overlay, Pins, RecoveryPointRecord};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

/// Serves failed-over VMs, and tests.
pub struct RecoverySite {
    folder: PathBuf,
    files: Arc<dyn Files>,
    exports: Arc<Exports>,
    /// Where the exports can be reached.
    server: Endpoint,
    boot: BootId,
    /// The VMs that are served after a failover.
    sources: Sources,
    served: Mutex<BTreeMap<VmId, Served>>,
    tests: Mutex<BTreeMap<VmId, Tested>>,
}

/// What a recovery point is opened for, by its cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Failover(u64),
    Test(u64),
}

/// A VM that was failed over.
struct Served {
    cycle: u64,
    lease: Leased,
    source: Arc<Source>,
}

/// A VM whose failover is tested.
struct Tested {
    cycle: u64,
    lease: Leased,
    overlays: BTreeMap<DiskId, Arc<Overlay>>,
}

impl Purpose {
    fn folder(self) -> String {
        match self {
            Self::Failover(cycle) => cycle.to_string(),
            Self::Test(cycle) => format!("test-{cycle}"),
        }
    }

    fn of_folder(folder: &Path) -> Option<Self> {
        let name = folder.file_name()?.to_str()?;
        match name.strip_prefix("test-") {
            Some(cycle) => cycle.parse().ok().map(Self::Test),
            None => name.parse().ok().map(Self::Failover),
        }
    }

    /// Who reads, by the lease.
    fn reader(self, vm: VmId) -> RecoveryPointId {
        match self {
            Self::Failover(cycle) => RecoveryPointId::derived(vm.0, cycle),
            Self::Test(_) => RecoveryPointId::named(vm.0, &self.folder()),
        }
    }

    fn export(self, vm: &Vm, disk: &Disk) -> String {
        match self {
            Self::Failover(_) => format!("{}-{}", vm.name, disk.name),
            Self::Test(_) => format!("test-{}-{}", vm.name, disk.name),
        }
    }
}

impl RecoverySite {
    /// A site whose overlays are below `folder` and whose disks are in `exports`.
    pub fn new(
        folder: PathBuf,
        files: Arc<dyn Files>,
        exports: Arc<Exports>,
        server: Endpoint,
        boot: BootId,
    ) -> Self {
        let (sources, served, tests) = Default::default();
        Self { folder, files, exports, server, boot, sources, served, tests }
    }

    /// The failed-over VMs that are served.
    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    pub(super) fn serves(&self, vm: VmId) -> bool {
        self.lock_served().contains_key(&vm)
    }

    /// Serves a recovery point; once served it stays so until [`RecoverySite::close`] or
    /// [`RecoverySite::stop_serving`], or until the VM is served from another point: what was written
    /// over this one is deleted then.
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
        let (vm, purpose) = (work.vm, Purpose::Failover(record.cycle));
        let mut served = self.lock_served();
        if served.get(&vm.id).is_none_or(|served| served.cycle != record.cycle) {
            if let Some(before) = served.remove(&vm.id) {
                self.let_go(vm, &before);
            }
            self.withdraw(vm, purpose);
            self.delete(work, |other| matches!(other, Purpose::Failover(_)) && other != purpose)?;
            let opened = self.open(work, record, clock, runtime)?;
            self.sources.put(vm.id, Arc::clone(&opened.source));
            served.insert(vm.id, opened);
        }
        let Some(served) = served.get(&vm.id) else { return Ok(Vec::new()) };
        check_data(work, &served.source.overlays)?;
        let tracker = &served.source.tracker;
        Ok(self.export(vm, purpose, |disk| Some(tracker.disk(disk)? as Arc<dyn BlockDevice>)))
    }

    /// Serves a VM that has left its vault, on the disks that it was failed over to from the recovery point of this
    /// cycle. Where it is served since then it stays so.
    pub(super) fn serve_whole(&self, vm: &Vm, cycle: u64) -> Result<Vec<ServedDisk>, Failure> {
        let purpose = Purpose::Failover(cycle);
        let served = self.lock_served();
        if let Some(served) = served.get(&vm.id) {
            let tracker = &served.source.tracker;
            let device = |disk| Some(tracker.disk(disk)? as Arc<dyn BlockDevice>);
            return Ok(self.export(vm, purpose, device));
        }
        let mut images = BTreeMap::new();
        for disk in &vm.disks {
            let offered = self.exports.get(&purpose.export(vm, disk));
            let image = offered.map_or_else(|| self.open_whole(vm, disk, purpose), Ok)?;
            images.insert(disk.id, image);
        }
        Ok(self.export(vm, purpose, |disk| images.get(&disk).cloned()))
    }

    fn open_whole(
        &self,
        vm: &Vm,
        disk: &Disk,
        purpose: Purpose,
    ) -> Result<Arc<dyn BlockDevice>, Failure> {
        let path = overlay_path(&self.folder_of(vm.id, purpose), disk);
        let unusable = |because: String| {
            Failure::new(Code::DiskUnusable, Cause::Itself, because).with("disk", path.display())
        };
        let image = RawDisk::open(&*self.files, &path, Open::Write);
        let image = image.map_err(|error| unusable(in_full(&error)))?;
        if image.size_bytes() == disk.size_bytes {
            return Ok(Arc::new(image));
        }
        let bytes = image.size_bytes();
        Err(unusable(format!("it has {bytes} bytes, not {}", disk.size_bytes)))
    }

    /// Bytes that are free where the overlays are.
    pub(super) fn free_bytes(&self, vm: &Vm) -> Result<u64, Failure> {
        self.files.free_bytes(&self.folder).map_err(|error| local(vm, &error))
    }

    /// Stops serving a failed-over VM, and deletes what was written to its disks, also by an earlier run
    /// of this process.
    pub(super) fn stop_serving(&self, work: &Work<'_>) -> Result<(), Failure> {
        let mut served = self.lock_served();
        if let Some(before) = served.remove(&work.vm.id) {
            self.let_go(work.vm, &before);
        }
        self.delete(work, |purpose| matches!(purpose, Purpose::Failover(_)))
    }

    /// Serves a recovery point for a test.
    pub(super) fn serve_test(
        &self,
        work: &Work<'_>,
        record: &RecoveryPointRecord,
        now: Timestamp,
        runtime: &Handle,
    ) -> Result<Vec<ServedDisk>, Failure> {
        let (vm, purpose) = (work.vm, Purpose::Test(record.cycle));
        let mut tests = self.lock_tests();
        if tests.get(&vm.id).is_none_or(|test| test.cycle != record.cycle) {
            tests.remove(&vm.id);
            self.withdraw(vm, purpose);
            self.delete(work, |other| matches!(other, Purpose::Test(_)) && other != purpose)?;
            let (lease, overlays) = self.open_overlays(work, record, purpose, now, runtime)?;
            tests.insert(vm.id, Tested { cycle: record.cycle, lease, overlays });
        }
        let Some(test) = tests.get(&vm.id) else { return Ok(Vec::new()) };
        check_data(work, &test.overlays)?;
        let device = |disk| Some(Arc::clone(test.overlays.get(&disk)?) as Arc<dyn BlockDevice>);
        Ok(self.export(vm, purpose, device))
    }

    /// Ends a test and deletes what it wrote, also by an earlier run of this process.
    pub(super) fn end_test(&self, work: &Work<'_>) -> Result<(), Failure> {
        let mut tests = self.lock_tests();
        if let Some(test) = tests.remove(&work.vm.id) {
            self.withdraw(work.vm, Purpose::Test(test.cycle));
        }
        self.delete(work, |purpose| matches!(purpose, Purpose::Test(_)))
    }

    fn open(
        &self,
        work: &Work<'_>,
        record: &RecoveryPointRecord,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Served, Failure> {
        let (vm, purpose) = (work.vm, Purpose::Failover(record.cycle));
        let (lease, overlays) = self.open_overlays(work, record, purpose, clock.now(), runtime)?;
        let spec = |disk: &Disk| {
            let device = Arc::clone(overlays.get(&disk.id)?) as Arc<dyn BlockDevice>;
            Some(DiskSpec { id: disk.id, name: disk.name.clone(), device })
        };
        let specs = vm.disks.iter().filter_map(spec).collect();
        let folder = self.folder_of(vm.id, purpose);
        let files = Arc::clone(&self.files);
        let tracker = Tracker::open(files, &folder, specs, self.boot, Arc::clone(clock))
            .map_err(|error| classified(vm, &error))?;
        track(&tracker).map_err(|error| classified(vm, &error))?;
        let source = Source::new(tracker, overlays, Arc::clone(&self.files), None);
        Ok(Served { cycle: record.cycle, lease, source: Arc::new(source) })
    }

    /// The overlays of a recovery point, those that are there already or empty ones, and the lease of
    /// what they read.
    fn open_overlays(
        &self,
        work: &Work<'_>,
        record: &RecoveryPointRecord,
        purpose: Purpose,
        now: Timestamp,
        runtime: &Handle,
    ) -> Result<(Leased, BTreeMap<DiskId, Arc<Overlay>>), Failure> {
        let vm = work.vm;
        // An overlay belongs to one point: a failover from another one must not meet it.
        let folder = self.folder_of(vm.id, purpose);
        self.files.make_folder(&folder).map_err(|error| local(vm, &error))?;
        let mut images = Vec::new();
        for disk in &vm.disks {
            let Some(at) = record.disks.get(&disk.id) else { continue };
            let operation = "opening a recovery point";
            let image = work.vault_call(operation, work.vault.open_disk(disk.id, at.sequence))?;
            images.push((disk, Arc::new(image)));
        }
        let pins = Pins::of(images.iter().map(|(_, image)| &**image));
        let lease = Leased::take(work, purpose.reader(vm.id), pins, now)?;
        let mut overlays = BTreeMap::new();
        for (disk, image) in images {
            let path = overlay_path(&folder, disk);
            let overlay = Overlay::open(&*self.files, &path, image, runtime.clone());
            let overlay = overlay.map_err(|error| classified(vm, &error))?;
            overlays.insert(disk.id, Arc::new(overlay));
        }
        Ok((lease, overlays))
    }

    /// Offers the disks of a VM that the point has; those that are offered stay as they are.
    fn export(
        &self,
        vm: &Vm,
        purpose: Purpose,
        device: impl Fn(DiskId) -> Option<Arc<dyn BlockDevice>>,
    ) -> Vec<ServedDisk> {
        let mut disks = Vec::new();
        for disk in &vm.disks {
            // One that was added later is not in the point.
            let Some(device) = device(disk.id) else { continue };
            let name = purpose.export(vm, disk);
            if self.exports.get(&name).is_none() {
                self.exports.add(&name, device);
            }
            let uri = NbdUri { endpoint: self.server.clone(), export: name };
            disks.push(ServedDisk { disk: disk.id, uri: uri.to_string() });
        }
        disks
    }

    /// Takes the disks of a VM away from whoever uses them.
    fn withdraw(&self, vm: &Vm, purpose: Purpose) {
        for disk in &vm.disks {
            self.exports.remove(&purpose.export(vm, disk));
        }
    }

    /// Ends all use of a failed-over VM's disks, in an orderly way; waits for whoever moves their data.
    fn let_go(&self, vm: &Vm, served: &Served) {
        self.withdraw(vm, Purpose::Failover(served.cycle));
        self.sources.detach(vm.id);
        let _busy = served.source.take();
        served.close(vm.id);
    }

    /// Deletes the overlays of the VM that nobody uses any more.
    fn delete(&self, work: &Work<'_>, unused: impl Fn(Purpose) -> bool) -> Result<(), Failure> {
        let vm = work.vm;
        let all = self.folder.join(vm.id.to_string());
        let folders = self.files.folders(&all).map_err(|error| local(vm, &error))?;
        let mut deleted = false;
        for folder in folders {
            let Some(purpose) = Purpose::of_folder(&folder) else { continue };
            if !unused(purpose) {
                continue;
            }
            let release = work.vault.release_lease(vm.id, purpose.reader(vm.id));
            if let Err(failure) = work.vault_call("releasing a recovery point", release) {
                // It ends by itself, in a day.
                tracing::warn!(vm = %vm.name, %failure, "a lease stays");
            }
            self.files.remove_folder(&folder).map_err(|error| local(vm, &error))?;
            deleted = true;
        }
        if deleted {
            self.files.sync_dir(&all).map_err(|error| local(vm, &error))?;
        }
        Ok(())
    }

    fn folder_of(&self, vm: VmId, purpose: Purpose) -> PathBuf {
        self.folder.join(vm.to_string()).join(purpose.folder())
    }

    /// What serving the VM needs, if it is served; leases of it are renewed where that is due.
    pub(super) fn renewed_pins(
        &self,
        work: &Work<'_>,
        now: Timestamp,
    ) -> Result<Vec<Pins>, Failure> {
        let mut pins = Vec::new();
        if let Some(served) = self.lock_served().get_mut(&work.vm.id) {
            served.lease = served.lease.clone().renew(work, now)?;
            pins.push(served.lease.pins.clone());
        }
        if let Some(test) = self.lock_tests().get_mut(&work.vm.id) {
            test.lease = test.lease.clone().renew(work, now)?;
            pins.push(test.lease.pins.clone());
        }
        Ok(pins)
    }

    /// Stops serving, in an orderly way; what was written stays.
    pub fn close(&self) {
        for (vm, served) in std::mem::take(&mut *self.lock_served()) {
            self.sources.detach(vm);
            served.close(vm);
        }
        self.lock_tests().clear();
    }

    fn lock_served(&self) -> MutexGuard<'_, BTreeMap<VmId, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_tests(&self) -> MutexGuard<'_, BTreeMap<VmId, Tested>> {
        self.tests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overlay_path(folder: &Path, disk: &Disk) -> PathBuf {
    folder.join(format!("{}.overlay", disk.name))
}

/// Fails with the damage that a read of these disks has met since this was last asked.
fn check_data(work: &Work<'_>, overlays: &BTreeMap<DiskId, Arc<Overlay>>) -> Result<(), Failure> {
    let damage = overlays.values().find_map(|overlay| overlay.take_damage());
    let failed = |damage| at_vault(work.vm, "reading a recovery point", &damage);
    damage.map_or(Ok(()), |damage| Err(failed(damage)))
}

impl Served {
    fn close(&self, vm: VmId) {
        if let Err(error) = self.source.tracker.close() {
            tracing::error!(%vm, error = %in_full(&error), "close the disks of a replica");
        }
    }
}

/// Sees to it that every write is tracked. The first chain begins with disks that are their recovery
/// point; of a later one nobody knows but the tracker.
fn track(tracker: &Tracker) -> Result<(), TrackError> {
    if tracker.status().tracking {
        return Ok(());
    }
    let is_first = tracker.chain() == 0;
    tracker.start()?;
    if is_first { tracker.resolve_suspect(tracker.chain()) } else { Ok(()) }
}

fn local(vm: &Vm, error: &(dyn std::error::Error + 'static)) -> Failure {
    let failure = Failure::new(Code::HostResourcesShort, Cause::Itself, in_full(error));
    with_tracking_facts(failure, vm, "serving a recovery point", error).with("host", RECOVERY_SITE)
}

fn classified(vm: &Vm, error: &(impl Classified + 'static)) -> Failure {
    Failure { code: error.code(), ..local(vm, error) }
}
