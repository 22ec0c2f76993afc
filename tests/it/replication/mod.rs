//! Tests of `replication`: one VM driven by commands and events, its disks written by the lab's
//! workload, its recovery points proven to be prefixes of the writes.

mod addition;
mod copying;
mod failback;
mod failing_over;
mod failures;
mod giving_up;
mod leaving;
mod pace;
mod resize;
mod resync;
mod shipping;
mod tap;
mod upkeep;

use lifeboat::disk::files::RealFiles;
use lifeboat::disk::nbd::{Endpoint, Exports};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{BootId, DiskSpec, Tracker};
use lifeboat::domain::entity::Entity;
use lifeboat::domain::failure::Failure;
use lifeboat::domain::id::{CloudId, DiskId, HostId, JobId, VaultId, VmId};
use lifeboat::domain::job::{Job, Step};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{
    Command, Disk, Effect, Outcome, Phase, RecoveryPoint, ResyncReason, Side, SourceEnd, Vm, Wake,
    Work,
};
use lifeboat::drivers::lab::{Fault, Faults, FaultyStore, LabFiles, LastWrite, Workload, check};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::clock::Clock;
use lifeboat::ports::files::{Files, Open};
use lifeboat::ports::replication::{Compared, Replication, Restore};
use lifeboat::replica::segment::SegmentHash;
use lifeboat::replica::{
    DeltaHeader, DiskImage, FenceOutcome, RecoveryPointRecord, Vault, VaultError,
};
use lifeboat::replication::{Engine, EngineParts, RecoverySite, Sources};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tap::{Death, Tap};
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;
use uuid::Uuid;

const VAULT: VaultId = VaultId(Uuid::from_u128(0xfa01));
const VM: VmId = VmId(Uuid::from_u128(0x7777));
const HOST: HostId = HostId(Uuid::from_u128(0x4057));
const BOOT: BootId = BootId(Uuid::from_u128(1));
const MIB: u64 = 1 << 20;

/// Two disks of more than one region of 64 MiB.
const SIZES: [u64; 2] = [80 * MIB, 70 * MIB];

/// Waits for what other threads bring about; a test that waits in vain fails.
#[track_caller]
fn wait_until(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "it never happens");
        std::thread::yield_now();
    }
}

fn disk_id(index: usize) -> DiskId {
    DiskId(Uuid::from_u128(0xd15c + index as u128))
}

/// A clock that goes on by a second whenever it is asked.
#[derive(Debug)]
struct Steps(AtomicI64);

impl Clock for Steps {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.fetch_add(1_000, Ordering::Relaxed))
    }
}

type Progresses = Arc<Mutex<Vec<(u64, u64)>>>;

/// A site with one VM, its vault and its recovery site.
struct Rig {
    runtime: Runtime,
    tap: Tap,
    faults: Faults,
    /// What the engine uses.
    vault: Vault,
    /// The same without faults.
    proof: Vault,
    objects: Arc<InMemory>,
    host: LabFiles,
    tracker: Arc<Tracker>,
    sources: Sources,
    exports: Arc<Exports>,
    engine: Engine,
    clock: Arc<Steps>,
    vm: Vm,
    workload: Workload,
    written: u64,
    /// Bytes that copies have sent.
    copied: u64,
    /// What comparisons of disks came to.
    compared: Vec<(u64, u64)>,
    /// What the restoring of disks came to.
    restored: Vec<(u64, u64)>,
    /// How far the work under way said that it is.
    progresses: Progresses,
    folder: TempDir,
}

impl Rig {
    /// A VM that has been discovered and has written its install.
    fn new() -> Self {
        Self::on(Arc::new(RealFiles))
    }

    /// The same with its host's files here.
    fn on(files: Arc<dyn Files>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let objects = Arc::new(InMemory::new());
        let tap = Tap::over(objects.clone());
        let faults = Faults::default();
        let store = Arc::new(FaultyStore::new(Arc::new(tap.clone()), faults.clone()));
        let (vault, proof) = (Vault::new(store, VAULT), Vault::new(objects.clone(), VAULT));
        runtime.block_on(proof.establish()).unwrap();
        // In memory where that is possible: what a sync costs is no matter here.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let host = LabFiles::new(files, "host-1");
        let spec = |(index, size): (usize, &u64)| {
            let path = folder.path().join(format!("disk{index}.img"));
            let device = Arc::new(RawDisk::create(&host, &path, *size).unwrap());
            DiskSpec { id: disk_id(index), name: format!("disk{index}"), device }
        };
        let specs = SIZES.iter().enumerate().map(spec).collect();
        let clock = Arc::new(Steps(AtomicI64::new(1_800_000_000_000)));
        let tracker =
            Tracker::open(Arc::new(host.clone()), folder.path(), specs, BOOT, clock.clone());
        let tracker = tracker.unwrap();
        let sources = Sources::default();
        sources.attach(VM, tracker.clone(), Arc::new(host.clone()));
        let exports = Arc::new(Exports::default());
        let engine = engine(&runtime, &vault, &sources, &exports, &folder, &clock);
        let workload = Workload::new(11, SIZES.to_vec(), MIB / 2).unwrap();
        let (vm, written, copied) = (Vm::default(), 0, 0);
        let (compared, restored, progresses) = (Vec::new(), Vec::new(), Progresses::default());
        let mut rig = Self {
            runtime,
            tap,
            faults,
            vault,
            proof,
            objects,
            host,
            tracker,
            sources,
            exports,
            engine,
            clock,
            vm,
            workload,
            written,
            copied,
            compared,
            restored,
            progresses,
            folder,
        };
        rig.tell(&Command::Discover {
            id: VM,
            name: "sql-01".to_owned(),
            host: HOST,
            cloud: CloudId(Uuid::from_u128(3)),
            disks: SIZES.iter().enumerate().map(named_disk).collect(),
        });
        rig.write(20);
        rig
    }

    fn protected() -> Self {
        Self::new().being_protected()
    }

    fn being_protected(self) -> Self {
        let mut rig = self;
        rig.enable();
        rig.work_off().unwrap();
        assert_eq!(rig.vm.phase, Phase::Protected);
        rig
    }

    fn enable(&mut self) {
        self.enable_as(1);
    }

    fn enable_as(&mut self, nth: u128) {
        let policy = Policy { recovery_point_retention_h: 24, ..Policy::default() };
        self.tell(&Command::EnableProtection { job: job(nth), vault: VAULT, policy });
    }

    /// The service starts again: nothing but what is on disks and in the vault is known.
    fn restart_engine(&mut self) {
        // The host keeps its VM attached; what the engine remembers of it is gone.
        self.sources.attach(VM, self.tracker.clone(), Arc::new(self.host.clone()));
        self.engine = engine(
            &self.runtime,
            &self.vault,
            &self.sources,
            &self.exports,
            &self.folder,
            &self.clock,
        );
    }

    /// The host's agent starts again, in this run of its machine.
    fn reopen_host(&mut self, files: Arc<dyn Files>, boot: BootId) {
        self.host = LabFiles::new(files, "host-1");
        let spec = |index| {
            let path = self.folder.path().join(format!("disk{index}.img"));
            let device = Arc::new(RawDisk::open(&self.host, &path, Open::Write).unwrap());
            DiskSpec { id: disk_id(index), name: format!("disk{index}"), device }
        };
        // One that was added, or is not to be there any more, as the VM says.
        let disks = self.vm.disks.len();
        let (specs, host) = ((0..disks).map(spec).collect(), Arc::new(self.host.clone()));
        let tracker = Tracker::open(host, self.folder.path(), specs, boot, self.clock.clone());
        self.tracker = tracker.unwrap();
        self.restart_engine();
    }

    fn tell(&mut self, command: &Command) {
        let now = self.clock.now();
        for event in self.vm.decide(command, now).unwrap() {
            self.vm.apply(&event, now);
        }
    }

    /// Issues so many more writes, one after the other.
    fn write(&mut self, writes: u64) {
        for _ in 0..writes {
            self.written += 1;
            write_one(&self.workload, &self.tracker, self.written);
        }
    }

    /// Does the present work and answers what would be reported; the state stays.
    fn perform(&self) -> Result<Command, Failure> {
        let work = self.vm.work().unwrap();
        self.runtime.block_on(perform(&self.engine, &self.vm, work, &self.progresses))
    }

    /// Does the work that is due in a service that dies after the first request, after the second, ..., until it ends.
    fn perform_killed_at_every_request(&mut self) {
        for requests in 0.. {
            self.tap.die_after(requests, Death::After);
            let done = self.perform().is_ok();
            self.tap.revive();
            self.restart_engine();
            if done {
                break;
            }
        }
    }

    fn step(&mut self) -> Result<(), Failure> {
        let work = self.vm.work();
        let result = self.perform();
        let told = std::mem::take(&mut *self.progresses.lock().unwrap());
        if let Some(Work::Task { job, task, .. }) = work {
            for (done_bytes, total_bytes) in told {
                self.tell(&Command::ReportProgress { job, task, done_bytes, total_bytes });
            }
        }
        let command = result?;
        match command {
            Command::ReportDone { outcome: Outcome::Copied { bytes, .. }, .. } => {
                self.copied += bytes;
            }
            Command::ReportDone {
                outcome: Outcome::Compared { compared_bytes, different_bytes, .. },
                ..
            } => self.compared.push((compared_bytes, different_bytes)),
            Command::ReportDone {
                outcome: Outcome::Restored { compared_bytes, different_bytes, .. },
                ..
            } => self.restored.push((compared_bytes, different_bytes)),
            _ => {}
        }
        self.tell(&command);
        Ok(())
    }

    fn work_off(&mut self) -> Result<(), Failure> {
        while self.vm.work().is_some() {
            self.step()?;
        }
        Ok(())
    }

    fn work_until(&mut self, step: Step) {
        while !matches!(self.vm.work(), Some(Work::Task { step: at, .. }) if at == step) {
            self.step().unwrap();
        }
    }

    /// The time of the next delta comes.
    fn wake(&mut self) {
        let wake = self.vm.pending().into_iter().find_map(|effect| match effect {
            Effect::WakeAt { due, wake: wake @ Wake::Cycle(_) } => {
                Some(Command::Wake { due, wake })
            }
            _ => None,
        });
        self.tell(&wake.unwrap());
    }

    /// One whole delta.
    fn cycle(&mut self) {
        self.wake();
        self.work_off().unwrap();
    }

    fn fail(&mut self, failure: Failure) {
        let work = self.vm.work().unwrap();
        self.tell(&Command::ReportFailure { work, failure });
    }

    /// Loses the logs, and what was known of where disks and replica may differ.
    fn lose_tracking(&mut self) {
        self.tracker.stop().unwrap();
        let first_cycle = self.vm.delta.chain_first_cycle;
        let reason = ResyncReason::PowerLoss;
        self.tell(&Command::ReportTrackingLost { first_cycle, reason });
    }

    fn latest(&self) -> RecoveryPoint {
        self.vm.latest_point().unwrap()
    }

    fn record(&self, cycle: u64) -> RecoveryPointRecord {
        self.runtime.block_on(self.proof.point(VM, cycle)).unwrap().unwrap()
    }

    fn image(&self, disk: usize, sequence: u64) -> ImageDisk {
        let image = self.runtime.block_on(self.proof.open_disk(disk_id(disk), sequence)).unwrap();
        ImageDisk(image, self.runtime.handle().clone())
    }

    fn images(&self, cycle: u64) -> Vec<ImageDisk> {
        let record = self.record(cycle);
        assert!(SIZES.len() <= record.disks.len());
        let sequence = |disk| record.disks[&disk_id(disk)].sequence;
        (0..SIZES.len()).map(|disk| self.image(disk, sequence(disk))).collect()
    }

    /// Proves that a point is a prefix of the writes, and answers its last one.
    #[track_caller]
    fn prove(&self, cycle: u64) -> u64 {
        let images = self.images(cycle);
        self.prove_disks(&images.iter().map(|image| image as _).collect::<Vec<_>>())
    }

    #[track_caller]
    fn prove_disks(&self, disks: &[&dyn BlockDevice]) -> u64 {
        check(&self.workload, disks, LastWrite::Whole, &|_, _| ()).unwrap().last_write
    }

    /// How often each object was sent.
    fn sent(&self) -> BTreeMap<String, usize> {
        self.tap.sent()
    }

    /// The hash that the next segment of a disk must name.
    fn hash(&self, disk: usize, sequence: u64) -> SegmentHash {
        let segment = self.runtime.block_on(self.proof.segment(disk_id(disk), sequence));
        segment.unwrap().unwrap().hash
    }

    /// A delta of the primary site that lands when nobody expects it.
    fn late_delta(&self, disk: usize, after: u64, hash: SegmentHash) -> Result<(), VaultError> {
        let header = DeltaHeader {
            sequence: after + 1,
            epoch: 1,
            previous: hash,
            cut_at: self.clock.now(),
            disk_size: SIZES[disk],
        };
        let mut delta = self.proof.delta(disk_id(disk), header);
        self.runtime.block_on(async {
            delta.data(0, &[7; 4096]).await?;
            delta.commit().await.map(drop)
        })
    }

    /// A fence that lands when nobody expects it.
    fn late_fence(&self, disk: usize, after: u64, epoch: u64) {
        let header = DeltaHeader {
            sequence: after + 1,
            epoch,
            previous: self.hash(disk, after),
            cut_at: self.clock.now(),
            disk_size: SIZES[disk],
        };
        let put_up = self.runtime.block_on(self.proof.fence(disk_id(disk), header));
        assert!(matches!(put_up, Ok(FenceOutcome::Fenced(_))));
    }

    /// Damages a byte of an object.
    fn damage(&self, object: &str, at: usize) {
        self.runtime.block_on(async {
            let path = object.into();
            let mut bytes = self.objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
            bytes[at] ^= 0xff;
            self.objects.put(&path, bytes.into()).await.unwrap();
        });
    }

    /// Takes an object away.
    fn remove(&self, object: &str) {
        self.runtime.block_on(self.objects.delete(&object.into())).unwrap();
    }

    /// Starts the present work without waiting for it.
    fn begin(&self) -> JoinHandle<Result<Command, Failure>> {
        let (engine, vm) = (self.engine.clone(), self.vm.clone());
        let work = vm.work().unwrap();
        let progresses = Arc::clone(&self.progresses);
        self.runtime.spawn(async move { perform(&engine, &vm, work, &progresses).await })
    }

    /// The cycles of the points in the vault.
    fn cycles_in_vault(&self) -> Vec<u64> {
        let list = self.runtime.block_on(self.proof.points(VM)).unwrap();
        assert!(list.damaged.is_empty());
        list.points.iter().map(|point| point.cycle).collect()
    }

    fn cycles_known(&self) -> Vec<u64> {
        self.vm.points.iter().map(|point| point.cycle).collect()
    }
}

/// A test that failed while the vault hung must end.
impl Drop for Rig {
    fn drop(&mut self) {
        self.faults.raise(Fault::LinkCut);
        self.tap.release();
    }
}

/// Whether an object's name ends so.
fn is_named(object: &str, extension: &str) -> bool {
    std::path::Path::new(object).extension().is_some_and(|found| found == extension)
}

fn named_disk((index, size): (usize, &u64)) -> Disk {
    Disk { id: disk_id(index), name: format!("disk{index}"), size_bytes: *size }
}

fn job(n: u128) -> JobId {
    JobId(Uuid::from_u128(100 + n))
}

fn write_one(workload: &Workload, tracker: &Tracker, n: u64) {
    let write = workload.write(n);
    let disk = tracker.disk(disk_id(write.disk)).unwrap();
    disk.write_at(&workload.content(n), write.offset(), false).unwrap();
}

fn engine(
    runtime: &Runtime,
    vault: &Vault,
    sources: &Sources,
    exports: &Arc<Exports>,
    folder: &TempDir,
    clock: &Arc<Steps>,
) -> Engine {
    engine_on(Arc::new(RealFiles), runtime, vault, sources, exports, folder, clock)
}

/// The same with the recovery site's files here.
fn engine_on(
    files: Arc<dyn Files>,
    runtime: &Runtime,
    vault: &Vault,
    sources: &Sources,
    exports: &Arc<Exports>,
    folder: &TempDir,
    clock: &Arc<Steps>,
) -> Engine {
    let recovery = RecoverySite::new(
        folder.path().join("recovery"),
        files,
        exports.clone(),
        Endpoint::Unix("/run/lifeboat/recovery.sock".into()),
        BOOT,
    );
    Engine::new(EngineParts {
        vaults: BTreeMap::from([(VAULT, vault.clone())]),
        sources: sources.clone(),
        recovery,
        clock: clock.clone(),
        runtime: runtime.handle().clone(),
    })
}

/// What the VM's actor does.
async fn perform(
    engine: &Engine,
    vm: &Vm,
    work: Work,
    told: &Progresses,
) -> Result<Command, Failure> {
    let chosen = || vm.failover_point().unwrap();
    let at_source = match work {
        Work::Task { step, .. } => step.is_at_source(),
        Work::Snapshot { .. } | Work::Ship { .. } => true,
    };
    if vm.source == Side::Recovery && at_source {
        engine.serve(vm, chosen()).await?;
    }
    let (job, task, step) = match work {
        Work::Task { job, task, step } => (job, task, step),
        Work::Snapshot { cycle } => {
            let snapshot = engine.snapshot(vm, cycle).await?;
            let (at, log_bytes) = (snapshot.at, snapshot.log_bytes);
            return Ok(Command::ReportSnapshot { cycle, at, log_bytes });
        }
        Work::Ship { cycle, snapshot_at } => {
            let shipped_bytes = engine.ship(vm, cycle, snapshot_at).await?;
            return Ok(Command::ReportShipped { cycle, shipped_bytes });
        }
    };
    let mut outcome = Outcome::Done;
    match step {
        Step::CheckEnableProtection => engine.check_source(vm).await?,
        Step::IdentifyTarget | Step::CheckFailback => engine.check_vault(vm).await?,
        Step::CheckPlannedFailover
        | Step::CheckReverseReplicate
        | Step::CheckResize
        | Step::CheckAddDisk => {
            engine.check_source(vm).await?;
            engine.check_vault(vm).await?;
        }
        Step::RestartTracking if vm.takes_replica_over().is_some() => {
            outcome = Outcome::Fenced { found: engine.fence(vm).await? };
            engine.start_tracking(vm).await?;
        }
        Step::EnableReplication | Step::RestartTracking => engine.start_tracking(vm).await?,
        Step::CopyDisk(disk) => {
            let bytes = engine.copy_disk(vm, disk, &|_, _| ()).await?;
            outcome = Outcome::Copied { disk, bytes };
        }
        Step::CompareDisk(disk) => {
            let before = vm.job.as_ref().and_then(Job::current).and_then(|(_, task)| task.progress);
            let done_bytes = before.map_or(0, |(done_bytes, _)| done_bytes);
            let progress = |done, total| told.lock().unwrap().push((done, total));
            let compared = engine.compare_disk(vm, disk, done_bytes, &progress).await?;
            let Compared { compared_bytes, different_bytes } = compared;
            outcome = Outcome::Compared { disk, compared_bytes, different_bytes };
        }
        Step::CompleteCopy => engine.complete_copy(vm).await?,
        Step::ApplyTrackedChanges | Step::SendBeforeResize | Step::PrepareForFailover => {
            let points = engine.ship_through(vm, vm.last_cycle_of_job()).await?;
            outcome = if vm.is_in_planned_failover() {
                Outcome::Fenced { found: engine.fence(vm).await? }
            } else {
                Outcome::Shipped { points }
            };
        }
        Step::VerifyReplica => engine.verify(vm, vm.latest_point().unwrap()).await?,
        Step::CheckUnplannedFailover | Step::CheckCommit => engine.verify(vm, chosen()).await?,
        Step::FenceSource => {
            let unsent = if vm.synchronizes {
                engine.ship_through(vm, vm.last_cycle_of_job()).await.err()
            } else {
                None
            };
            let found = engine.fence(vm).await?;
            outcome = Outcome::SourceFenced { found, source: SourceEnd::ShutDown, unsent };
        }
        Step::FenceReplica => outcome = Outcome::Fenced { found: engine.fence(vm).await? },
        Step::StartFailover => {
            engine.verify(vm, chosen()).await?;
            engine.serve(vm, chosen()).await?;
        }
        Step::StartReplica => _ = engine.serve(vm, chosen()).await?,
        Step::DropOtherPoints => engine.keep_only(vm, chosen()).await?,
        Step::DeleteReplicaDisks => engine.stop_serving(vm).await?,
        Step::RestoreDisk(disk) => outcome = restore(engine, vm, disk, told).await?,
        Step::TrackRestored => engine.track_restored(vm).await?,
        Step::CheckDisable => {
            engine.serve(vm, chosen()).await?;
            engine.check_download(vm).await?;
        }
        Step::DownloadDisk(disk) => {
            engine.serve(vm, chosen()).await?;
            let progress = |done, total| told.lock().unwrap().push((done, total));
            engine.download_disk(vm, disk, &progress).await?;
        }
        Step::LeaveVault => {
            engine.serve(vm, chosen()).await?;
            engine.leave_vault(vm).await?;
        }
        Step::StopTracking => engine.stop_tracking(vm).await?,
        Step::DeleteReplica => engine.delete_replica(vm).await?,
        Step::StartInitialReplication
        | Step::UpdateProviderState
        | Step::ShutDownSource
        | Step::ShutDownReplica
        | Step::AttachSource
        | Step::GrowDisk(_)
        | Step::OfferGrownDisk(_)
        | Step::OfferAddedDisk(_)
        | Step::StartSource => {}
        Step::CheckTestFailover
        | Step::PrepareTest
        | Step::StartTest
        | Step::StopTest
        | Step::DeleteTest => unreachable!("the job of a test is not the VM's own work"),
    }
    Ok(Command::ReportDone { job, task, outcome })
}

async fn restore(
    engine: &Engine,
    vm: &Vm,
    disk: DiskId,
    told: &Progresses,
) -> Result<Outcome, Failure> {
    let before = vm.job.as_ref().and_then(Job::current).and_then(|(_, task)| task.progress);
    let failback = vm.failback.as_ref().unwrap();
    let restore = Restore {
        disk,
        point: vm.latest_point().unwrap(),
        from: failback.restored,
        in_full: failback.in_full,
        done_bytes: before.map_or(0, |(done_bytes, _)| done_bytes),
    };
    let progress = |done, total| told.lock().unwrap().push((done, total));
    let restored = engine.restore_disk(vm, restore, &progress).await?;
    let Compared { compared_bytes, different_bytes } = restored;
    Ok(Outcome::Restored { disk, compared_bytes, different_bytes })
}

/// A recovery point's disk, to be read.
#[derive(Debug)]
struct ImageDisk(DiskImage, Handle);

impl BlockDevice for ImageDisk {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        Ok(self.1.block_on(self.0.read_at(offset, buffer))?)
    }

    fn write_at(&self, _: &[u8], _: u64, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn zero(&self, _: Range<u64>, _: bool, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        Ok(self.1.block_on(self.0.next_data(from))?)
    }

    fn read_only(&self) -> bool {
        true
    }
}

/// Whether two disks hold the same bytes.
#[track_caller]
fn assert_same(one: &dyn BlockDevice, other: &dyn BlockDevice) {
    assert_eq!(one.size_bytes(), other.size_bytes());
    let (mut left, mut right) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    for at in (0..one.size_bytes()).step_by(MIB as usize) {
        one.read_at(&mut left, at).unwrap();
        other.read_at(&mut right, at).unwrap();
        assert!(left == right, "they differ in the MiB at {at}");
    }
}
