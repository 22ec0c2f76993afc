//! The engine: the replication port over trackers and a vault.

use super::copy::copy_disk;
use super::download;
use super::failures::{at_host, at_vault, cause, host, host_lost, invalid};
use super::pace::Lane;
use super::recovery::RecoverySite;
use super::restore::{restore_disk, written_after};
use super::resync::compare_disk;
use super::shipment::ship;
use super::source::{Source, Sources};
use super::upkeep::{self, Upkeep};
use crate::disk::tracker::{Broken, LowSpace, Suspect, TrackError};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure, in_full};
use crate::domain::id::{DiskId, VaultId};
use crate::domain::time::Timestamp;
use crate::domain::vm::{RecoveryPoint, ResyncReason, Side, Vm};
use crate::ports::block::BlockDevice;
use crate::ports::clock::Clock;
use crate::ports::replication::{
    Compared, Guest, LogVolume, Progress, Replication, Restore, ServedDisk, Snapshot,
};
use crate::replica::segment::{Header, Kind, SegmentHash};
use crate::replica::{
    Completion, DeltaHeader, FenceOutcome, RecoveryPointRecord, Segment, Vault, VaultError,
    generation_of_copy,
};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;

/// Time between two looks at whether a tracker has lost track. A loss stops replication of the VM
/// anyway, so noticing it is not urgent.
const TRACKING_LOOK: Duration = Duration::from_secs(1);

/// Time between two looks at a vault that is away, before logs that were too large are given up for good.
const VAULT_LOOK: Duration = Duration::from_secs(5);

/// What a cut and a fence are called in messages.
const CUTTING: &str = "cutting the replication logs";
const CLOSING: &str = "closing the replica to who wrote to it before";

/// What an engine is made of.
pub struct EngineParts {
    /// The vaults that VMs can be protected in.
    pub vaults: BTreeMap<VaultId, Vault>,
    /// The VMs that are at hand.
    pub sources: Sources,
    /// The recovery site.
    pub recovery: RecoverySite,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The data plane's runtime, which must have threads of its own.
    pub runtime: Handle,
}

/// Implements the replication port.
#[derive(Clone)]
pub struct Engine {
    parts: Arc<EngineParts>,
    upkeep: Arc<Upkeep>,
}

/// What one piece of work on a blocking thread has at hand.
pub(super) struct Work<'a> {
    pub(super) vm: &'a Vm,
    pub(super) vault: &'a Vault,
    /// Where the disks are that it is done with.
    side: Side,
    runtime: &'a Handle,
    /// Whoever waits for the result holds the other end.
    wanted: watch::Receiver<()>,
}

impl Work<'_> {
    /// Ends work whose result nobody waits for.
    pub(super) fn still_wanted(&self) -> Result<(), Failure> {
        if self.wanted.has_changed().is_ok() { Ok(()) } else { Err(given_up()) }
    }

    /// Waits for the vault, but not longer than the result is waited for: a storage that hangs must
    /// not keep the next attempt waiting.
    pub(super) fn vault_call<T>(
        &self,
        operation: &str,
        call: impl Future<Output = Result<T, VaultError>>,
    ) -> Result<T, Failure> {
        self.still_wanted()?;
        let mut wanted = self.wanted.clone();
        let answer = self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = wanted.changed() => Err(given_up()),
                answer = call => Ok(answer),
            }
        });
        self.checked(operation, answer?)
    }

    /// An answer of the vault.
    pub(super) fn checked<T>(
        &self,
        operation: &str,
        result: Result<T, VaultError>,
    ) -> Result<T, Failure> {
        result.map_err(|error| at_vault(self.vm, operation, &error))
    }

    /// An answer of the tracker or of its logs.
    pub(super) fn checked_at_host<T, E: Classified + 'static>(
        &self,
        operation: &str,
        result: Result<T, E>,
    ) -> Result<T, Failure> {
        result.map_err(|error| at_host(self.vm, self.side, operation, &error))
    }

    /// An answer of a disk.
    pub(super) fn disk_call<T>(
        &self,
        operation: &str,
        result: io::Result<T>,
    ) -> Result<T, Failure> {
        result.map_err(|error| {
            let lost = error.kind() == io::ErrorKind::NotConnected;
            let code = if lost { Code::HostLost } else { Code::HostResourcesShort };
            Failure::new(code, cause(self.vm, self.side), in_full(&error))
                .with("host", host(self.vm, self.side))
                .with("operation", operation)
        })
    }

    pub(super) fn disk_size(&self, disk: DiskId) -> Result<u64, Failure> {
        let known = self.vm.disks.iter().find(|known| known.id == disk);
        known.map(|disk| disk.size_bytes).ok_or_else(|| {
            invalid(self.vm, "sending a delta", "a log belongs to a disk that the VM does not have")
        })
    }

    /// The record of a recovery point, if the vault has it.
    pub(super) fn point(&self, cycle: u64) -> Result<Option<RecoveryPointRecord>, Failure> {
        self.vault_call("reading a recovery point", self.vault.point(self.vm.id, cycle))
    }

    /// The complete points from this cycle on.
    fn points_from(&self, mut cycle: u64) -> Result<Vec<RecoveryPoint>, Failure> {
        let mut points = Vec::new();
        while let Some(record) = self.point(cycle)? {
            points.push(recovery_point(&record));
            cycle += 1;
        }
        Ok(points)
    }

    /// The complete points that the VM does not know. A chain that began after a resynchronization
    /// left cycles out, so they need not follow one another.
    fn points_beyond_known(&self) -> Result<Vec<RecoveryPoint>, Failure> {
        let known = self.vm.latest_point().map(|point| point.cycle);
        let list = self.vault_call("listing recovery points", self.vault.points(self.vm.id))?;
        for damage in &list.damaged {
            tracing::warn!(vm = %self.vm.name, error = %in_full(damage), "skip a recovery point");
        }
        let beyond = list.points.iter().filter(|record| known < Some(record.cycle));
        Ok(beyond.map(recovery_point).collect())
    }
}

/// A point as the VM knows it.
fn recovery_point(record: &RecoveryPointRecord) -> RecoveryPoint {
    RecoveryPoint { cycle: record.cycle, at: record.at, bytes: record.stored_bytes }
}

/// That the logs of a VM will not find room before long.
fn log_volume_low(vm: &Vm, low: &LowSpace) -> Failure {
    Failure::new(Code::LogVolumeLow, cause(vm, vm.source), low)
        .with("vm", &vm.name)
        .with("path", low.folder.display())
}

/// How work ends whose result nobody waits for.
fn given_up() -> Failure {
    Failure::new(Code::HostResourcesShort, Cause::Itself, "given up")
        .with("host", "this service")
        .with("operation", "work that was given up")
}

impl Engine {
    /// An engine.
    pub fn new(parts: EngineParts) -> Self {
        Self { parts: Arc::new(parts), upkeep: Arc::default() }
    }

    /// Keeps the logs of a VM small until its changes are not tracked any more, and it is time to say so.
    /// `log_volume` is told when room for them becomes short, and when it is not any more. `vault_answers` is asked
    /// whether the vault does; `on_thread` does blocking work.
    pub(crate) async fn loss<'a>(
        &self,
        vm: &Vm,
        log_volume: LogVolume<'_>,
        vault_answers: &(dyn Fn() -> BoxFuture<'a, bool> + Send + Sync),
        on_thread: &(dyn Fn(Box<dyn FnOnce() + Send>) -> BoxFuture<'a, ()> + Send + Sync),
    ) -> ResyncReason {
        let mut was_short = None;
        loop {
            let source = self.source(vm, vm.source).ok();
            if let Some(source) = source.clone().filter(|source| source.tracker.has_large_logs()) {
                let name = vm.name.clone();
                on_thread(Box::new(move || compact(&source, &name))).await;
            }
            let status = source.map(|source| source.tracker.status());
            if let Some(status) = &status
                && was_short.replace(status.low_space.is_some()) != Some(status.low_space.is_some())
            {
                log_volume(status.low_space.as_ref().map(|low| log_volume_low(vm, low)));
            }
            if let Some(broken) = status.and_then(|status| status.broken) {
                // A chain that began while the vault is away would grow as large as this one. Until it
                // is back, what may differ is remembered by the chunk, and nothing else is needed.
                let is_large = matches!(broken, Broken::LogsTooLarge { .. });
                if !is_large || vault_answers().await {
                    return reason(&broken);
                }
                tokio::time::sleep(VAULT_LOOK).await;
            } else {
                tokio::time::sleep(TRACKING_LOOK).await;
            }
        }
    }

    /// Lets go of what is served, in an orderly way.
    pub fn close(&self) {
        self.parts.recovery.close();
    }

    fn vault(&self, vm: &Vm) -> Result<&Vault, Failure> {
        self.parts.vaults.get(&vm.vault).ok_or_else(|| {
            Failure::new(Code::ConfigurationInvalid, Cause::Itself, "")
                .with("setting", format!("vault {} is not configured", vm.vault))
        })
    }

    /// The VM's disks at a side: those that its host's agent has attached, or those that the recovery
    /// site serves.
    fn source(&self, vm: &Vm, side: Side) -> Result<Arc<Source>, Failure> {
        let sources = match side {
            Side::Primary => &self.parts.sources,
            Side::Recovery => self.parts.recovery.sources(),
        };
        let found = sources.find(vm.id);
        found.map_err(|refused| refused.unwrap_or_else(|| host_lost(vm, side)))
    }

    /// Runs `work` on a blocking thread; it is told if the caller stops waiting.
    async fn run<T: Send + 'static>(
        &self,
        vm: &Vm,
        work: impl FnOnce(&EngineParts, &Work<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let vault = self.vault(vm)?.clone();
        self.run_with(vm, vault, Side::Recovery, work).await
    }

    async fn run_with<T: Send + 'static>(
        &self,
        vm: &Vm,
        vault: Vault,
        side: Side,
        work: impl FnOnce(&EngineParts, &Work<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (vm, parts) = (vm.clone(), Arc::clone(&self.parts));
        let (waiting, wanted) = watch::channel(());
        let thread = self.parts.runtime.spawn_blocking(move || {
            let runtime = &parts.runtime;
            work(&parts, &Work { vm: &vm, vault: &vault, side, runtime, wanted })
        });
        let result = thread.await;
        drop(waiting);
        result.unwrap_or_else(|panic| Err(panicked(&panic)))
    }

    /// Runs `work` on the disks of the side whose writes are sent, one at a time.
    async fn run_at_source<T: Send + 'static>(
        &self,
        vm: &Vm,
        work: impl FnOnce(&Work<'_>, &Source) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.run_at(vm, vm.source, work).await
    }

    async fn run_at<T: Send + 'static>(
        &self,
        vm: &Vm,
        side: Side,
        work: impl FnOnce(&Work<'_>, &Source) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let source = self.source(vm, side)?;
        let vault = in_lane(self.vault(vm)?, source.lane.clone());
        self.run_with(vm, vault, side, move |_, context| {
            let _busy = source.take();
            context.still_wanted()?;
            work(context, &source)
        })
        .await
    }
}

/// The vault as it is reached on a way that is limited, or on one that is not.
fn in_lane(vault: &Vault, lane: Option<Lane>) -> Vault {
    lane.map_or_else(|| vault.clone(), |lane| vault.admitting(Arc::new(lane)))
}

/// Whatever keeps a VM's changes from being sent, what is written over and over takes room once.
fn compact(source: &Source, vm: &str) {
    if let Err(error) = source.tracker.compact_large() {
        tracing::warn!(vm, %error, "cannot compact a log");
    }
}

fn panicked(panic: &JoinError) -> Failure {
    tracing::error!(%panic, "data plane work panicked");
    Failure::new(Code::HostResourcesShort, Cause::Itself, panic)
        .with("host", "this service")
        .with("operation", "its work")
}

/// Waits for work that tells how far it is.
async fn passing_on<T>(
    work: impl Future<Output = Result<T, Failure>>,
    told: &mut UnboundedReceiver<(u64, u64)>,
    progress: Progress<'_>,
) -> Result<T, Failure> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            Some((done, total)) = told.recv() => progress(done, total),
            result = &mut work => {
                // What it told while it ended.
                while let Ok((done, total)) = told.try_recv() {
                    progress(done, total);
                }
                return result;
            }
        }
    }
}

/// Cuts the logs for a cycle: [`Tracker::cut_at_rest`](crate::disk::tracker::Tracker::cut_at_rest) says when `rest`
/// and `go_on` are called.
fn snapshot(
    work: &Work<'_>,
    source: &Source,
    cycle: u64,
    rest: impl FnOnce(),
    go_on: impl FnOnce(),
) -> Result<Snapshot, Failure> {
    let fresh = source.tracker.transit().is_none_or(|cut| cut.number != cycle);
    let cut = source.tracker.cut_at_rest(cycle, rest, go_on);
    // A planned failover that led back may have sent this cycle already.
    if let Err(TrackError::NumberUsed { .. }) = cut
        && let Some(sent) = work.point(cycle)?
    {
        return Ok(Snapshot { at: sent.at, log_bytes: 0, fresh: false });
    }
    let cut = work.checked_at_host(CUTTING, cut)?;
    let log_bytes = cut.logs.iter().map(|log| log.bytes).sum();
    Ok(Snapshot { at: cut.at, log_bytes, fresh })
}

/// Sends every cut up to `last_cycle`: those that are in the vault already are only read back, one
/// that is in transit is sent, and what is missing is cut. What [`is_left`] then takes one more.
fn ship_through(
    work: &Work<'_>,
    source: &Source,
    last_cycle: u64,
) -> Result<Vec<RecoveryPoint>, Failure> {
    let known = work.vm.latest_point().map(|point| point.cycle);
    let first = known.map_or(0, |cycle| cycle + 1).max(work.vm.delta.chain_first_cycle);
    // Points that an earlier attempt made and could not report.
    let mut points = work.points_from(first)?;
    let is_first = known.is_none_or(|known| known < work.vm.delta.chain_first_cycle);
    if is_first || work.vm.has_added_something() {
        // The disks, or what was added, were copied, or compared: the vault lacks only what the logs hold.
        let resolved = source.tracker.resolve_suspect(source.tracker.chain());
        work.checked_at_host("noting what the vault holds", resolved)?;
    }
    loop {
        let last = points.last().map(|point| point.cycle).or(known);
        if let Some(cut) = source.tracker.transit().filter(|cut| Some(cut.number) <= last) {
            // Its point is in the vault; only the logs are left.
            let done = source.tracker.acknowledge(cut.number);
            work.checked_at_host("removing sent logs", done)?;
        }
        if Some(last_cycle) <= last && !is_left(work, source, last, last_cycle) {
            return Ok(points);
        }
        let cut = if let Some(cut) = source.tracker.transit() {
            cut
        } else {
            let next = last.map_or(first, |cycle| cycle + 1).max(work.vm.delta.cycle);
            work.checked_at_host(CUTTING, source.tracker.cut(next))?
        };
        points.push(ship(work, source, &cut, last)?);
    }
}

/// Whether the VM, which is off, has written since its last cut: that one was then made by an earlier
/// failover, or before replication was paused, after which the VM ran on. One more cut takes all
/// of it, and may have been made by an attempt that could not send it.
fn is_left(work: &Work<'_>, source: &Source, last: Option<u64>, last_cycle: u64) -> bool {
    work.vm.sends_the_latest()
        && last == Some(last_cycle)
        && (source.tracker.has_writes() || source.tracker.transit().is_some())
}

/// Puts a fence after everything that the disk's log holds.
///
/// A fence of this epoch at the end of the log will do, unless something stands on it already: up to
/// the sequence `used`. Answers its sequence and hash.
pub(super) fn fence_disk(
    work: &Work<'_>,
    disk: DiskId,
    epoch: u64,
    used: u64,
    at: Timestamp,
) -> Result<(u64, SegmentHash), Failure> {
    let disk_size = work.disk_size(disk)?;
    let mut last = log_end(work, disk)?;
    loop {
        if last.fence_of == Some(epoch) && used < last.sequence {
            return Ok((last.sequence, last.hash));
        }
        if epoch < last.epoch {
            return Err(closed_off(work, epoch, &last));
        }
        let (sequence, previous) = (last.sequence + 1, last.hash);
        let header = DeltaHeader { sequence, epoch, previous, cut_at: at, disk_size };
        match work.vault_call(CLOSING, work.vault.fence(disk, header))? {
            FenceOutcome::Fenced(fence) => return Ok((sequence, fence.hash)),
            FenceOutcome::LostTo(segment) => last = LogEnd::of(Some(segment)),
        }
    }
}

/// Whoever has closed the log, as a failover does, keeps it: it is taken over from its own epoch only, but for the fence
/// that was put up `at` this moment by an attempt which could not report it.
fn check_not_closed(work: &Work<'_>, disk: DiskId, at: Timestamp) -> Result<(), Failure> {
    let (epoch, last) = (work.vm.epoch, log_end(work, disk)?);
    let is_own = last.fence_of == Some(epoch + 1) && last.cut_at == at;
    if last.epoch <= epoch || is_own { Ok(()) } else { Err(closed_off(work, epoch, &last)) }
}

fn closed_off(work: &Work<'_>, epoch: u64, last: &LogEnd) -> Failure {
    let damage = format!("epoch {epoch} was closed off by epoch {}", last.epoch);
    invalid(work.vm, CLOSING, &damage)
}

fn log_end(work: &Work<'_>, disk: DiskId) -> Result<LogEnd, Failure> {
    match work.vault_call(CLOSING, work.vault.head(disk)) {
        // Points before a damaged end can still be used, so it must not stand in the way.
        Err(failure) if failure.code == Code::ReplicaDamaged => {
            let sequence = work.vault_call(CLOSING, work.vault.last_sequence(disk))?;
            Ok(LogEnd { sequence: sequence.unwrap_or(0), ..LogEnd::NONE })
        }
        head => Ok(LogEnd::of(head?)),
    }
}

/// Where a disk's log in the vault ends.
struct LogEnd {
    sequence: u64,
    hash: SegmentHash,
    epoch: u64,
    cut_at: Timestamp,
    /// The epoch of the fence that it ends with, if it does.
    fence_of: Option<u64>,
}

impl LogEnd {
    const NONE: Self = Self {
        sequence: 0,
        hash: SegmentHash::NONE,
        epoch: 0,
        cut_at: Timestamp::from_millis(0),
        fence_of: None,
    };

    fn of(last: Option<Segment>) -> Self {
        let Some(last) = last else { return Self::NONE };
        let Header { kind, sequence, epoch, cut_at, .. } = last.header;
        let fence_of = (kind == Kind::Fence).then_some(epoch);
        Self { sequence, hash: last.hash, epoch, cut_at, fence_of }
    }
}

/// Closes the base that was copied for the present chain of logs.
fn complete_copy(work: &Work<'_>, disk: DiskId, now: Timestamp) -> Result<(), Failure> {
    let operation = "completing the copy";
    let generation = generation_of_copy(work.vm.delta.generation);
    let epoch = work.vm.epoch;
    if 0 < generation {
        // A delta of the chain before, still under way, must not land on top of the base.
        // Nor on the base before, whose fence it may name as its predecessor.
        let before = work.vault_call(operation, work.vault.newest_base(disk))?;
        let before = before.filter(|(before, _)| *before < generation);
        let used = before.map_or(0, |(_, completion)| completion.from_seq);
        fence_disk(work, disk, epoch, used, now)?;
    }
    let head = work.vault_call(operation, work.vault.head(disk))?;
    let (from_seq, from_hash) =
        head.map_or((0, SegmentHash::NONE), |head| (head.header.sequence, head.hash));
    let completion = Completion { from_seq, from_hash, usable_from: from_seq + 1, at: now };
    let base = work.vault.base(disk, generation, epoch, work.disk_size(disk)?);
    work.vault_call(operation, base.complete(completion)).map(drop)
}

/// A disk that was added has no replica yet, but for what an addition that was given up may have left: it begins
/// with one of zeroes.
fn begin_replica(work: &Work<'_>, disk: DiskId, now: Timestamp) -> Result<(), Failure> {
    let own = work.vm.disks.iter().find(|own| own.id == disk).zip(work.vm.latest_point());
    if own.is_none_or(|(own, point)| work.vm.is_in_point(own, point.cycle)) {
        return Ok(());
    }
    let begun = work.vault_call("beginning a replica", work.vault.newest_base(disk))?;
    if begun.is_none() { complete_copy(work, disk, now) } else { Ok(()) }
}

fn verify(work: &Work<'_>, point: RecoveryPoint) -> Result<(), Failure> {
    let operation = "proving a recovery point";
    let record = required_point(work, point)?;
    for disk in work.vm.disks_in_point(point.cycle) {
        let Some(at) = record.disks.get(&disk.id) else {
            return Err(invalid(work.vm, operation, "a disk has no place in it"));
        };
        work.vault_call(operation, work.vault.open_disk(disk.id, at.sequence))?;
    }
    Ok(())
}

pub(super) fn required_point(
    work: &Work<'_>,
    point: RecoveryPoint,
) -> Result<RecoveryPointRecord, Failure> {
    work.point(point.cycle)?
        .ok_or_else(|| invalid(work.vm, "reading a recovery point", "it is not in the vault"))
}

/// Why the logs of a cycle are gone that was not sent: they were dropped with their chain, or nobody knows.
fn logs_gone(work: &Work<'_>, source: &Source) -> Failure {
    match source.tracker.status().broken {
        Some(broken) => at_host(work.vm, work.side, "sending a delta", &TrackError::Broken(broken)),
        None => invalid(
            work.vm,
            "sending a delta",
            "its logs are gone and the vault has no recovery point of it",
        ),
    }
}

fn check_disks(work: &Work<'_>, source: &Source) -> Result<(), Failure> {
    let vm = work.vm;
    for disk in &vm.disks {
        let size = source.tracker.disk(disk.id).map(|device| device.size_bytes());
        if size != Some(disk.size_bytes) {
            let found = size.map_or("it is not attached".to_owned(), |size| {
                format!("it has {size} bytes, not {}", disk.size_bytes)
            });
            let cause = cause(vm, work.side);
            return Err(Failure::new(Code::DiskUnusable, cause, found).with("disk", &disk.name));
        }
    }
    Ok(())
}

/// What of a disk may differ from the end of its log in the vault. Of one that grew, what was added: all else
/// is tracked.
///
/// At the recovery site the log may go on after the point that the VM was failed over from: what was
/// sent then is not on the disk. And only what is in the overlay can differ from that point.
fn suspect(work: &Work<'_>, source: &Source, disk: DiskId) -> Result<Suspect, Failure> {
    if let Some(added) = work.vm.added_range(disk) {
        return Ok(Suspect::Ranges(vec![added]));
    }
    let tracked = source.tracker.suspect(disk);
    let Some(overlay) = source.overlays.get(&disk) else { return Ok(tracked) };
    let operation = "finding the end of the replica";
    let last = work.vault_call(operation, work.vault.last_sequence(disk))?.unwrap_or(0);
    match written_after(work, disk, overlay.sequence(), last)? {
        Suspect::Everything => Ok(Suspect::Everything),
        Suspect::Ranges(later) => Ok(tracked.within(overlay.present()).with(later)),
    }
}

fn reason(broken: &Broken) -> ResyncReason {
    let text = in_full(broken);
    match broken {
        Broken::LogWriteFailed { .. } => ResyncReason::LogWriteFailed(text),
        Broken::LogDamaged { .. } => ResyncReason::LogDamaged(text),
        Broken::LogMissing { .. } => ResyncReason::LogMissing(text),
        Broken::PowerLoss => ResyncReason::PowerLoss,
        Broken::DiskUnknown { .. }
        | Broken::DiskChanged { .. }
        | Broken::DiskChangedOffline { .. } => ResyncReason::DiskChanged(text),
        Broken::LogsTooLarge { .. } => ResyncReason::LogsTooLarge(text),
    }
}

#[async_trait]
impl Replication for Engine {
    async fn check_source(&self, vm: &Vm) -> Result<(), Failure> {
        self.run_at_source(vm, check_disks).await
    }

    async fn check_vault(&self, vm: &Vm) -> Result<(), Failure> {
        let operation = "a test object";
        self.run(vm, move |_, work| work.vault_call(operation, work.vault.probe_write())).await
    }

    async fn probe_vault(&self, vault: VaultId) -> Result<(), Failure> {
        let mut vm = Vm::default();
        vm.vault = vault;
        let probed = self.vault(&vm)?.clone();
        let probe = self.parts.runtime.spawn(async move { probed.probe().await }).await;
        match probe {
            Ok(result) => result.map_err(|error| at_vault(&vm, "a probe", &error)),
            Err(panic) => Err(Failure::new(Code::VaultBusy, Cause::Vault(vault), panic)),
        }
    }

    async fn start_tracking(&self, vm: &Vm) -> Result<(), Failure> {
        self.run_at_source(vm, |work, source| {
            let operation = "starting to track";
            check_disks(work, source)?;
            // Where the replica's logs end changes with what brings it into step.
            source.forget_heads();
            // A chain that is whole to the tracker can still hold a log that cannot be sent. What may
            // differ from the replica is still known.
            work.checked_at_host(operation, source.tracker.start_again())
        })
        .await
    }

    async fn copy_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        progress: Progress<'_>,
    ) -> Result<u64, Failure> {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let copy = self.run_at_source(vm, move |work, source| {
            check_disks(work, source)?;
            let device = source.tracker.disk(disk).ok_or_else(|| host_lost(work.vm, work.side))?;
            let generation = generation_of_copy(work.vm.delta.generation);
            let base = work.vault.base(disk, generation, work.vm.epoch, device.size_bytes());
            // Nobody listening means that the work was given up, which it notices itself.
            let progress = move |done, total| _ = tell.send((done, total));
            copy_disk(work, &*device, &base, &progress)
        });
        passing_on(copy, &mut told, progress).await
    }

    async fn compare_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        done_bytes: u64,
        progress: Progress<'_>,
    ) -> Result<Compared, Failure> {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let now = self.parts.clock.now();
        let comparison = self.run_at_source(vm, move |work, source| {
            check_disks(work, source)?;
            let device = source.tracker.disk(disk).ok_or_else(|| host_lost(work.vm, work.side))?;
            // What it sends moves the end of the disk's log.
            source.forget_heads();
            begin_replica(work, disk, now)?;
            let suspect = suspect(work, source, disk)?;
            let progress = move |done, total| _ = tell.send((done, total));
            compare_disk(work, disk, &*device, &suspect, done_bytes, now, &progress)
        });
        passing_on(comparison, &mut told, progress).await
    }

    async fn complete_copy(&self, vm: &Vm) -> Result<(), Failure> {
        let now = self.parts.clock.now();
        self.run(vm, move |_, work| {
            work.vm.disks.iter().try_for_each(|disk| complete_copy(work, disk.id, now))
        })
        .await
    }

    async fn snapshot(&self, vm: &Vm, cycle: u64) -> Result<Snapshot, Failure> {
        self.run_at_source(vm, move |work, source| snapshot(work, source, cycle, || (), || ()))
            .await
    }

    async fn snapshot_at_rest(
        &self,
        vm: &Vm,
        cycle: u64,
        guest: &dyn Guest,
    ) -> Result<Snapshot, Failure> {
        let (ask, asked) = oneshot::channel();
        let (rested, is_at_rest) = oneshot::channel();
        let (cut, is_cut) = oneshot::channel();
        let cutting = self.run_at_source(vm, move |work, source| {
            // Where nobody is at the other end, the work was given up, and nobody has to be waited for.
            let rest = || {
                let _ = ask.send(());
                let _ = is_at_rest.blocking_recv();
            };
            snapshot(work, source, cycle, rest, || _ = cut.send(()))
        });
        let resting = async move {
            if asked.await.is_ok() {
                guest.freeze().await;
                let _ = rested.send(());
                let _ = is_cut.await;
                guest.thaw().await;
            }
        };
        tokio::join!(cutting, resting).0
    }

    async fn ship(&self, vm: &Vm, cycle: u64, _: Timestamp) -> Result<u64, Failure> {
        self.run_at_source(vm, move |work, source| {
            match source.tracker.transit().filter(|cut| cut.number == cycle) {
                Some(cut) => {
                    let last = work.vm.latest_point().map(|point| point.cycle);
                    Ok(ship(work, source, &cut, last)?.bytes)
                }
                // Sent and removed, but the service stopped before that was recorded.
                None => match work.point(cycle)? {
                    Some(record) => Ok(record.stored_bytes),
                    None => Err(logs_gone(work, source)),
                },
            }
        })
        .await
    }

    async fn ship_through(&self, vm: &Vm, last_cycle: u64) -> Result<Vec<RecoveryPoint>, Failure> {
        self.run_at_source(vm, move |work, source| ship_through(work, source, last_cycle)).await
    }

    async fn verify(&self, vm: &Vm, point: RecoveryPoint) -> Result<(), Failure> {
        self.run(vm, move |_, work| verify(work, point)).await
    }

    async fn fence(&self, vm: &Vm) -> Result<Vec<RecoveryPoint>, Failure> {
        let now = self.parts.clock.now();
        self.run(vm, move |parts, work| {
            for sources in [&parts.sources, parts.recovery.sources()] {
                sources.find(work.vm.id).iter().for_each(|source| source.forget_heads());
            }
            let taken_over = work.vm.takes_replica_over();
            if let Some(at) = taken_over {
                work.vm.disks.iter().try_for_each(|disk| check_not_closed(work, disk.id, at))?;
            }
            for disk in &work.vm.disks {
                fence_disk(work, disk.id, work.vm.epoch + 1, 0, taken_over.unwrap_or(now))?;
            }
            work.points_beyond_known()
        })
        .await
    }

    async fn serve(&self, vm: &Vm, point: RecoveryPoint) -> Result<Vec<ServedDisk>, Failure> {
        if vm.has_left_vault() {
            let (own, parts) = (vm.clone(), Arc::clone(&self.parts));
            let serve = move || parts.recovery.serve_whole(&own, point.cycle);
            let served = self.parts.runtime.spawn_blocking(serve).await;
            return served.unwrap_or_else(|panic| Err(panicked(&panic)));
        }
        self.run(vm, move |parts, work| {
            let record = required_point(work, point)?;
            parts.recovery.serve(work, &record, &parts.clock, &parts.runtime)
        })
        .await
    }

    async fn stop_serving(&self, vm: &Vm) -> Result<(), Failure> {
        self.run(vm, |parts, work| parts.recovery.stop_serving(work)).await
    }

    async fn serve_test(&self, vm: &Vm, point: RecoveryPoint) -> Result<Vec<ServedDisk>, Failure> {
        let now = self.parts.clock.now();
        self.run(vm, move |parts, work| {
            let record = required_point(work, point)?;
            parts.recovery.serve_test(work, &record, now, &parts.runtime)
        })
        .await
    }

    async fn end_test(&self, vm: &Vm) -> Result<(), Failure> {
        self.run(vm, |parts, work| parts.recovery.end_test(work)).await
    }

    async fn restore_disk(
        &self,
        vm: &Vm,
        restore: Restore,
        progress: Progress<'_>,
    ) -> Result<Compared, Failure> {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let restoration = self.run_at(vm, Side::Primary, move |work, source| {
            check_disks(work, source)?;
            let progress = move |done, total| _ = tell.send((done, total));
            restore_disk(work, source, restore, &progress)
        });
        passing_on(restoration, &mut told, progress).await
    }

    async fn track_restored(&self, vm: &Vm) -> Result<(), Failure> {
        self.run_at(vm, Side::Primary, |work, source| {
            let operation = "starting to track";
            check_disks(work, source)?;
            source.forget_heads();
            work.checked_at_host(operation, source.tracker.start_again())?;
            let resolved = source.tracker.resolve_suspect(source.tracker.chain());
            work.checked_at_host(operation, resolved)
        })
        .await
    }

    async fn stop_tracking(&self, vm: &Vm) -> Result<(), Failure> {
        self.run_at_source(vm, |work, source| {
            work.checked_at_host("ending tracking", source.tracker.end())
        })
        .await
    }

    async fn check_download(&self, vm: &Vm) -> Result<(), Failure> {
        let parts = Arc::clone(&self.parts);
        self.run_at(vm, Side::Recovery, move |work, source| {
            let free = parts.recovery.free_bytes(work.vm)?;
            download::check_room(work, source, free)
        })
        .await
    }

    async fn download_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let download = self.run_at(vm, Side::Recovery, move |work, source| {
            let progress = move |done, total| _ = tell.send((done, total));
            download::download(work, source, disk, &progress)
        });
        passing_on(download, &mut told, progress).await
    }

    async fn leave_vault(&self, vm: &Vm) -> Result<(), Failure> {
        self.run_at(vm, Side::Recovery, download::leave_vault).await
    }

    async fn delete_replica(&self, vm: &Vm) -> Result<(), Failure> {
        let upkeep = Arc::clone(&self.upkeep);
        self.run(vm, move |parts, work| upkeep::delete_replica(parts, &upkeep, work)).await
    }

    async fn keep_only(&self, vm: &Vm, point: RecoveryPoint) -> Result<(), Failure> {
        self.run(vm, move |_, work| {
            let keep = [point.id(work.vm.id)];
            let dropped = work.vault.drop_points(work.vm.id, &keep);
            work.vault_call("deleting recovery points", dropped)?;
            // A test may read what it was started from.
            let disks = work.vm.disks.iter().filter(|_| work.vm.test.is_none());
            let left = disks.filter(|disk| !work.vm.is_in_point(disk, point.cycle));
            let left: Vec<DiskId> = left.map(|disk| disk.id).collect();
            let discarded = work.vault.discard_disks(&left);
            work.vault_call("deleting the disks of recovery points", discarded).map(drop)
        })
        .await
    }

    async fn reclaim_space(&self, vm: &Vm) -> Result<(), Failure> {
        let upkeep = Arc::clone(&self.upkeep);
        // At the pace of the VM's host, without having its source: deltas go on. Nobody's pace counts for a host
        // that is silent, or for the recovery site.
        let source = self.source(vm, vm.source).ok();
        let lane = source.and_then(|source| Some(source.lane.as_ref()?.for_merges()));
        let vault = in_lane(self.vault(vm)?, lane);
        self.run_with(vm, vault, Side::Recovery, move |parts, work| {
            upkeep::reclaim_space(parts, &upkeep, work)
        })
        .await
    }

    async fn tracking_lost(&self, vm: &Vm, log_volume: LogVolume<'_>) -> ResyncReason {
        let vault = vm.vault;
        let answers = || -> BoxFuture<'_, bool> {
            Box::pin(async move { self.probe_vault(vault).await.is_ok() })
        };
        let on_thread = |work: Box<dyn FnOnce() + Send>| -> BoxFuture<'_, ()> {
            let thread = self.parts.runtime.spawn_blocking(work);
            Box::pin(async move { drop(thread.await) })
        };
        self.loss(vm, log_volume, &answers, &on_thread).await
    }
}
