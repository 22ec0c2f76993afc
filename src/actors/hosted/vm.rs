//! How the work of a VM is done.

use super::placing::{leave, place, place_back};
use super::watch::LONGEST_PAUSE;
use super::{Alarm, Hosted, Reporter, World, guarded};
use crate::actors::entity_actor::{EntityActor, load_entity};
use crate::actors::supervisor::Shelves;
use crate::domain::catalogue::Code;
use crate::domain::entity::{Kind, StreamId};
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::{HostId, JobId, VmId};
use crate::domain::job::{Job, JobKind, Step};
use crate::domain::placement::Purpose;
use crate::domain::retry::RetryLadder;
use crate::domain::vm::{
    Command, Effect, FailoverKind, LEASE_HOURS, NextStep, Outcome, Phase, RecoveryPoint,
    ResyncWindow, RetryReason, SCHEDULED_WITHIN, Side, SourceEnd, TestFailover, Vm, Wake, Work,
};
use crate::ports::hypervisor::Hypervisor;
use crate::ports::replication::{Compared, Guest, Restore, ServedDisk};
use actix::Addr;
use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{self, Either, LocalBoxFuture};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use uuid::Uuid;

/// How long an unplanned failover waits for the source VM to shut down before it cuts its power, and then
/// for that.
const STOP_SOURCE_WITHIN: Duration = Duration::from_secs(30);

/// How long an unplanned failover that synchronizes waits for what the source wrote last to be sent, before it goes on
/// without.
const SEND_LATEST_WITHIN: Duration = Duration::from_mins(10);

/// How long a guest may be at rest while its logs are cut, which takes milliseconds. Source: the time for
/// which Windows' volume shadow copies hold writes (VSS flush-and-hold, 10 s).
const FROZEN_AT_MOST: Duration = Duration::from_secs(10);

/// A copy reports its progress in steps of one part in so many.
const PROGRESS_PARTS: u64 = 20;

impl Hosted for Vm {
    const WORKER: &'static str = "agent";
    const STATE_SCHEMA: u16 = 14;

    fn shelf(shelves: &mut Shelves) -> &mut BTreeMap<Uuid, Addr<EntityActor<Self>>> {
        &mut shelves.vms
    }

    fn running_job(&self) -> Option<JobId> {
        self.job.as_ref().filter(|job| job.ended.is_none()).map(|job| job.id)
    }

    fn alarm(&self, effect: &Effect) -> Option<Alarm<Command>> {
        let Effect::WakeAt { due, wake } = *effect else { return None };
        let longest = match wake {
            Wake::Cycle(_) => self.policy.copy_frequency(),
            Wake::Retry(_) => RetryLadder::LONGEST_GAP,
            Wake::Resync => ResyncWindow::LONGEST_WAIT,
            Wake::InitialReplication => SCHEDULED_WITHIN,
            // Set once, for a moment that somebody chose.
            Wake::TestLease | Wake::Decision => Duration::from_hours(u64::from(*LEASE_HOURS.end())),
        };
        Some(Alarm { due, longest, command: Command::Wake { due, wake } })
    }

    fn waits_for_end_of(&self) -> Option<&Failure> {
        let trouble = self.trouble.as_ref()?;
        matches!(trouble.next, NextStep::RetryAt(_)).then_some(&trouble.failure)
    }

    fn perform(
        state: &Arc<Self>,
        effect: Effect,
        world: Arc<World>,
        reporter: Reporter<Self>,
    ) -> LocalBoxFuture<'static, Command> {
        let vm = Arc::clone(state);
        Box::pin(async move {
            match effect {
                Effect::Do(work) => {
                    let done = guarded(perform_work(&vm, work, &world, &reporter)).await;
                    done.unwrap_or_else(|failure| Command::ReportFailure { work, failure })
                }
                Effect::WatchTracking { first_cycle } => {
                    let log_volume = |short| reporter.report(Command::ReportLogVolume { short });
                    let reason = world.replication.tracking_lost(&vm, &log_volume).await;
                    Command::ReportTrackingLost { first_cycle, reason }
                }
                Effect::RunReplica => run_replica(&vm, &world).boxed_local().await,
                Effect::KeepOff { host } => {
                    keep_off_at(host, &vm, &world).boxed_local().await;
                    Command::ReportLeft { host }
                }
                Effect::ReclaimSpace => {
                    let id = vm.id;
                    drop(vm);
                    reclaim_space(id, &world, &reporter).boxed_local().await
                }
                Effect::WakeAt { due, wake } => Command::Wake { due, wake },
                Effect::AwaitVault { vault } => {
                    await_vault(&vm, &world).boxed_local().await;
                    Command::Retry { because: RetryReason::CauseEnded(Cause::Vault(vault)) }
                }
            }
        })
    }
}

async fn perform_work(
    vm: &Vm,
    work: Work,
    world: &World,
    reporter: &Reporter<Vm>,
) -> Result<Command, Failure> {
    if let (Side::Recovery, Work::Snapshot { .. } | Work::Ship { .. }) = (vm.source, work) {
        serve_source(vm, world).boxed_local().await?;
    }
    // What is done now and then is apart, so that what is done every few seconds takes little memory.
    Ok(match work {
        Work::Task { job, task, step } => {
            let done = perform_step(vm, job, task, step, world, reporter).boxed_local();
            Command::ReportDone { job, task, outcome: done.await? }
        }
        Work::Snapshot { cycle } if vm.is_to_be_quiesced(cycle) => {
            quiesced_snapshot(vm, cycle, world).boxed_local().await?
        }
        Work::Snapshot { cycle } => {
            let snapshot = world.replication.snapshot(vm, cycle).await?;
            Command::ReportSnapshot { cycle, at: snapshot.at, log_bytes: snapshot.log_bytes }
        }
        Work::Ship { cycle, snapshot_at } => {
            let shipped_bytes = world.replication.ship(vm, cycle, snapshot_at).await?;
            Command::ReportShipped { cycle, shipped_bytes }
        }
    })
}

async fn perform_step(
    vm: &Vm,
    job: JobId,
    task: u32,
    step: Step,
    world: &World,
    reporter: &Reporter<Vm>,
) -> Result<Outcome, Failure> {
    let replication = &world.replication;
    if vm.source == Side::Recovery && step.is_at_source() {
        serve_source(vm, world).await?;
    }
    match step {
        Step::CheckEnableProtection => replication.check_source(vm).await?,
        // A source that is shut down for a vault that takes nothing would be down for nothing.
        Step::CheckPlannedFailover | Step::CheckReverseReplicate | Step::CheckResize => {
            replication.check_source(vm).await?;
            replication.check_vault(vm).await?;
            if step == Step::CheckPlannedFailover {
                return place(vm, Purpose::Planned, world, reporter).await;
            }
        }
        Step::IdentifyTarget => replication.check_vault(vm).await?,
        Step::EnableReplication => replication.start_tracking(vm).await?,
        Step::RestartTracking => {
            // It may be that they grew, and that the job which had to see to it was given up.
            if vm.source == Side::Primary {
                world.primary.fit_disks(vm).await?;
            }
            // Before anything of the new copy is there.
            let found = match vm.takes_replica_over() {
                Some(_) => Some(replication.fence(vm).await?),
                None => None,
            };
            replication.start_tracking(vm).await?;
            if let Some(found) = found {
                return Ok(Outcome::Fenced { found });
            }
        }
        Step::GrowDisk(disk) => {
            let resize = vm.resize.filter(|resize| resize.disk == disk);
            if let Some(resize) = resize {
                world.primary.lengthen_disk(vm, disk, resize.to_bytes).await?;
            }
        }
        Step::CheckAddDisk => {
            replication.check_source(vm).await?;
            replication.check_vault(vm).await?;
            if let Some(disk) = vm.disk_to_add() {
                world.primary.check_image(vm, disk).await?;
            }
        }
        Step::OfferGrownDisk(_) | Step::OfferAddedDisk(_) => world.primary.fit_disks(vm).await?,
        // The transitions themselves are the work; the commit that records them is what counts.
        Step::StartInitialReplication | Step::UpdateProviderState => {}
        Step::CopyDisk(disk) => {
            let bytes = replication.copy_disk(vm, disk, &in_parts(job, task, reporter)).await?;
            return Ok(Outcome::Copied { disk, bytes });
        }
        Step::CheckDisable => {
            serve_source(vm, world).await?;
            replication.verify(vm, chosen(vm)?).await?;
            replication.check_download(vm).await?;
        }
        Step::DownloadDisk(disk) => {
            serve_source(vm, world).await?;
            replication.download_disk(vm, disk, &in_parts(job, task, reporter)).await?;
        }
        Step::LeaveVault => {
            serve_source(vm, world).await?;
            replication.leave_vault(vm).await?;
        }
        Step::CompareDisk(disk) => {
            // Each report is of what need not be compared again, and so is recorded.
            let progress = |done_bytes, total_bytes| {
                reporter.report(Command::ReportProgress { job, task, done_bytes, total_bytes });
            };
            let done_bytes = done_bytes(vm);
            let Compared { compared_bytes, different_bytes } =
                replication.compare_disk(vm, disk, done_bytes, &progress).await?;
            return Ok(Outcome::Compared { disk, compared_bytes, different_bytes });
        }
        Step::RestoreDisk(disk) => {
            let progress = |done_bytes, total_bytes| {
                reporter.report(Command::ReportProgress { job, task, done_bytes, total_bytes });
            };
            let failback = vm.failback.as_ref();
            let restore = Restore {
                disk,
                point: latest(vm)?,
                from: failback.and_then(|failback| failback.restored),
                in_full: failback.is_some_and(|failback| failback.in_full),
                done_bytes: done_bytes(vm),
            };
            let Compared { compared_bytes, different_bytes } =
                replication.restore_disk(vm, restore, &progress).await?;
            return Ok(Outcome::Restored { disk, compared_bytes, different_bytes });
        }
        Step::CompleteCopy => replication.complete_copy(vm).await?,
        Step::ApplyTrackedChanges | Step::SendBeforeResize | Step::PrepareForFailover => {
            let points = replication.ship_through(vm, vm.last_cycle_of_job()).await?;
            if vm.is_in_planned_failover() {
                // Everything is there: whoever starts the source again behind Lifeboat's back adds nothing.
                return Ok(Outcome::Fenced { found: replication.fence(vm).await? });
            }
            return Ok(Outcome::Shipped { points });
        }
        Step::VerifyReplica => replication.verify(vm, latest(vm)?).await?,
        Step::ShutDownSource => world.primary.shut_down(vm).await?,
        Step::CheckUnplannedFailover | Step::CheckCommit => {
            replication.verify(vm, chosen(vm)?).await?;
            if step == Step::CheckUnplannedFailover {
                return place(vm, Purpose::Unplanned, world, reporter).await;
            }
        }
        Step::CheckTestFailover => {
            let test = tested(vm)?;
            replication.verify(vm, test.point).await?;
            return place(vm, Purpose::Test(&test.network), world, reporter).await;
        }
        Step::PrepareTest => drop(replication.serve_test(vm, tested(vm)?.point).await?),
        Step::StartTest => {
            let test = tested(vm)?;
            let disks = replication.serve_test(vm, test.point).await?;
            world.recovery.start_test(vm, &disks, &test.network).await?;
        }
        Step::StopTest => world.recovery.end_test(vm).await?,
        Step::DeleteTest => {
            replication.end_test(vm).await?;
            leave(vm, true, world, reporter).await?;
        }
        Step::ShutDownReplica => world.recovery.shut_down(vm).await?,
        Step::DeleteReplicaDisks => {
            replication.stop_serving(vm).await?;
            // The disks of another point take their place.
            if vm.job.as_ref().is_none_or(|own| own.kind != JobKind::ChangeRecoveryPoint) {
                leave(vm, false, world, reporter).await?;
            }
        }
        Step::AttachSource => world.primary.attach(vm).await?,
        Step::StartSource => {
            world.primary.attach(vm).await?;
            world.primary.start(vm, &[]).await?;
        }
        Step::CheckFailback => {
            world.primary.heartbeat(vm.host).await?;
            if vm.is_brought_to_host() {
                world.primary.check_room(vm).await?;
            }
            replication.check_vault(vm).await?;
            return place_back(vm, world);
        }
        Step::FenceReplica => {
            return Ok(Outcome::Fenced { found: replication.fence(vm).await? });
        }
        Step::TrackRestored => replication.track_restored(vm).await?,
        Step::StopTracking => replication.stop_tracking(vm).await?,
        Step::DeleteReplica => {
            replication.delete_replica(vm).await?;
            if !vm.has_left_vault() {
                leave(vm, false, world, reporter).await?;
            }
        }
        Step::FenceSource => {
            let source = end_source(vm, world).await;
            let unsent =
                if vm.synchronizes { send_the_latest(vm, world).await.err() } else { None };
            let found = replication.fence(vm).await?;
            return Ok(Outcome::SourceFenced { found, source, unsent });
        }
        Step::StartFailover => {
            let point = chosen(vm)?;
            replication.verify(vm, point).await?;
            // An earlier failover, of which this one took the place, may have come so far that its VM
            // runs: on disks that are another point's from here on.
            world.recovery.shut_down(vm).await?;
            replication.serve(vm, point).await?;
        }
        Step::StartReplica => {
            let point = chosen(vm)?;
            let disks = replication.serve(vm, point).await?;
            // Since the fence it may have come back into reach, all the more if a plan held the start.
            let is_away = vm.phase == Phase::FailingOver(FailoverKind::Unplanned)
                && matches!(end_source(vm, world).await, SourceEnd::OutOfReach(_));
            let started = if is_away {
                start_beside_source(vm, &disks, world).boxed_local().await
            } else {
                world.recovery.start(vm, &disks).await
            };
            if let Err(failure) = started {
                // Damaged data is the better reason: no retry mends it.
                replication.serve(vm, point).await?;
                return Err(failure);
            }
        }
        Step::DropOtherPoints => replication.keep_only(vm, chosen(vm)?).await?,
    }
    Ok(Outcome::Done)
}

/// Reports how far a copy is, now and then.
fn in_parts(job: JobId, task: u32, reporter: &Reporter<Vm>) -> impl Fn(u64, u64) + Send + Sync {
    let reported = AtomicU64::new(0);
    move |done_bytes, total_bytes| {
        let part = done_bytes * PROGRESS_PARTS / total_bytes.max(1);
        if reported.fetch_max(part, Ordering::Relaxed) < part {
            reporter.report(Command::ReportProgress { job, task, done_bytes, total_bytes });
        }
    }
}

/// What the current task was told last to be done of its disk.
fn done_bytes(vm: &Vm) -> u64 {
    let told = vm.job.as_ref().and_then(Job::current).and_then(|(_, task)| task.progress);
    told.map_or(0, |(done_bytes, _)| done_bytes)
}

/// The disks of a VM that is replicated from the recovery site, or is to go on there without the vault, are those of its
/// failover: after a restart of the service they are served first.
async fn serve_source(vm: &Vm, world: &World) -> Result<(), Failure> {
    world.replication.serve(vm, chosen(vm)?).await.map(drop)
}

/// Cuts the logs while the guest is at rest. A guest that does not come to rest costs the point its
/// consistency, never the cycle; whatever happens, the guest is let go on.
async fn quiesced_snapshot(vm: &Vm, cycle: u64, world: &World) -> Result<Command, Failure> {
    let site = match vm.source {
        Side::Primary => &world.primary,
        Side::Recovery => &world.recovery,
    };
    let guest = SiteGuest { vm, site: &**site, frozen: OnceLock::new(), thawed: OnceLock::new() };
    let snapshot = guarded(world.replication.snapshot_at_rest(vm, cycle, &guest)).await;
    if guest.frozen.get().is_some() && guest.thawed.get().is_none() {
        guest.thaw().await;
    }
    let snapshot = snapshot?;
    let cut_meanwhile = if snapshot.fresh {
        Ok(())
    } else {
        Err(not_quiesced("the logs had been cut before, by an attempt that was interrupted"))
    };
    let told = [guest.frozen, guest.thawed].into_iter().filter_map(OnceLock::into_inner);
    let at_rest: Result<(), Failure> = told.collect();
    let missed = at_rest.and(cut_meanwhile).err().map(|failure| {
        let (cause, provider) = (failure.cause, failure.to_string());
        let provider =
            if failure.code == Code::GuestNotQuiesced { failure.provider } else { provider };
        Failure::new(Code::GuestNotQuiesced, cause, provider)
            .with("vm", &vm.name)
            .with("cycle", cycle)
    });
    let (at, log_bytes) = (snapshot.at, snapshot.log_bytes);
    Ok(Command::ReportQuiescedSnapshot { cycle, at, log_bytes, missed })
}

/// A guest at its site, and what came of asking it, if it was asked.
struct SiteGuest<'a> {
    vm: &'a Vm,
    site: &'a dyn Hypervisor,
    frozen: OnceLock<Result<(), Failure>>,
    thawed: OnceLock<Result<(), Failure>>,
}

#[async_trait]
impl Guest for SiteGuest<'_> {
    async fn freeze(&self) {
        let freeze = guarded(self.site.freeze(self.vm, FROZEN_AT_MOST));
        let frozen = actix::clock::timeout(FROZEN_AT_MOST, freeze).await;
        let late = |_| Err(not_quiesced("it did not come to rest in time"));
        let _ = self.frozen.set(frozen.unwrap_or_else(late));
    }

    async fn thaw(&self) {
        let thaw = guarded(self.site.thaw(self.vm));
        let thawed = actix::clock::timeout(FROZEN_AT_MOST, thaw).await;
        let _ = self.thawed.set(thawed.unwrap_or_else(|_| Err(not_quiesced("it does not answer"))));
    }
}

fn not_quiesced(because: &str) -> Failure {
    Failure::new(Code::GuestNotQuiesced, Cause::Itself, because)
}

/// Frees space again and again, with what the VM is at the time; ends only by being stopped.
async fn reclaim_space(id: VmId, world: &World, reporter: &Reporter<Vm>) -> Command {
    loop {
        actix::clock::sleep(world.reclaim_interval).await;
        let Some(vm) = present(id, world) else { continue };
        let done = guarded(world.replication.reclaim_space(&vm)).await;
        let failure = done.err().map(|failure| {
            Failure::new(Code::SpaceNotReclaimed, failure.cause, failure).with("vm", &vm.name)
        });
        reporter.report(Command::ReportSpace { failure });
    }
}

/// What the log says that a VM is.
fn present(id: VmId, world: &World) -> Option<Vm> {
    let stream = StreamId { kind: Kind::Vm, id: id.0 };
    match load_entity::<Vm>(&*world.store, stream) {
        Ok((vm, _)) => Some(vm),
        Err(error) => {
            tracing::error!(%stream, %error, "read what a VM is");
            None
        }
    }
}

/// Turns the source off if it can still be reached: the site may be cut off rather than lost. The fence
/// holds either way.
async fn end_source(vm: &Vm, world: &World) -> SourceEnd {
    turn_source_off(vm, world).await.unwrap_or_else(|failure| {
        tracing::warn!(vm = %vm.name, %failure, "turn the source off");
        SourceEnd::OutOfReach(failure)
    })
}

/// Sends what the source wrote until it was ended. It is found in the vault by whoever closes the replica next.
async fn send_the_latest(vm: &Vm, world: &World) -> Result<(), Failure> {
    let send = guarded(world.replication.ship_through(vm, vm.last_cycle_of_job()));
    let sent = actix::clock::timeout(SEND_LATEST_WITHIN, send).await;
    let late = |_| {
        let late = Failure::new(Code::LinkDown, Cause::Vault(vm.vault), "not all was sent in time");
        Err(late.with("target", "the vault").with("operation", "sending what was written last"))
    };
    sent.unwrap_or_else(late).map(drop).inspect_err(|failure| {
        tracing::warn!(vm = %vm.name, %failure, "send what the source wrote last");
    })
}

/// Shuts the source down, or else cuts its power: it may not run beside its replica, whatever keeps it
/// from ending in an orderly way.
async fn turn_source_off(vm: &Vm, world: &World) -> Result<SourceEnd, Failure> {
    let shut_down = guarded(world.primary.shut_down(vm));
    match actix::clock::timeout(STOP_SOURCE_WITHIN, shut_down).await {
        Ok(Ok(())) => return Ok(SourceEnd::ShutDown),
        Ok(Err(failure)) => tracing::warn!(vm = %vm.name, %failure, "shut the source down"),
        Err(_) => tracing::warn!(vm = %vm.name, "the source did not shut down in time"),
    }
    let switch_off = guarded(world.primary.switch_off(vm));
    let in_time = actix::clock::timeout(STOP_SOURCE_WITHIN, switch_off).await;
    let silent = |_| {
        let silent = Failure::new(Code::HostLost, Cause::Host(vm.host), "no answer in time");
        Err(silent.with("vm", &vm.name))
    };
    in_time.unwrap_or_else(silent).map(|()| SourceEnd::SwitchedOff)
}

/// Returns once the vault answers from where the VM's failed work is done. Every VM in trouble asks for itself:
/// the longer it lasts, the less often.
async fn await_vault(vm: &Vm, world: &World) {
    let mut pause = world.watch_interval;
    loop {
        actix::clock::sleep(pause).await;
        if guarded(world.replication.reach_vault(vm)).await.is_ok() {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Keeps the replica running and the source off; ends only by being stopped.
async fn run_replica(vm: &Vm, world: &World) -> Command {
    future::join(keep_source_off(vm, world), keep_replica_on(vm, world)).await;
    future::pending().await
}

/// Serves and starts the replica, and keeps at it until it runs.
async fn keep_replica_on(vm: &Vm, world: &World) {
    let mut vm = vm.clone();
    while let Err(failure) = guarded(serve_and_start(&vm, world)).await {
        tracing::error!(vm = %vm.name, %failure, "keep the replica running");
        actix::clock::sleep(world.watch_interval).await;
        // It may have left its vault meanwhile, which serves nothing of it then.
        vm = present(vm.id, world).unwrap_or(vm);
    }
}

/// Turns the source off, and keeps at it until it is: a site that was cut off when its VM was failed over
/// comes back with the VM running, and it may not run at both.
async fn keep_source_off(vm: &Vm, world: &World) {
    while let Err(failure) = turn_source_off(vm, world).await {
        tracing::debug!(vm = %vm.name, %failure, "keep the source off");
        actix::clock::sleep(world.watch_interval).await;
    }
}

/// The same at a host that the VM was brought away from.
async fn keep_off_at(host: HostId, vm: &Vm, world: &World) {
    let mut there = vm.clone();
    there.host = host;
    keep_source_off(&there, world).await;
}

/// Starts the replica of a source that is out of reach. One that comes back before the replica runs is turned off
/// at once.
async fn start_beside_source(vm: &Vm, disks: &[ServedDisk], world: &World) -> Result<(), Failure> {
    let keep_off = keep_source_off(vm, world).boxed_local();
    match future::select(world.recovery.start(vm, disks), keep_off).await {
        Either::Left((started, _)) => started,
        Either::Right(((), start)) => start.await,
    }
}

async fn serve_and_start(vm: &Vm, world: &World) -> Result<(), Failure> {
    let disks = world.replication.serve(vm, chosen(vm)?).await?;
    world.recovery.start(vm, &disks).await
}

fn latest(vm: &Vm) -> Result<RecoveryPoint, Failure> {
    vm.latest_point().ok_or_else(|| no_point(vm))
}

/// The point that the VM failed over to, or the one that its running failover uses.
fn chosen(vm: &Vm) -> Result<RecoveryPoint, Failure> {
    vm.failover_point().ok_or_else(|| no_point(vm))
}

fn tested(vm: &Vm) -> Result<&TestFailover, Failure> {
    vm.test.as_ref().ok_or_else(|| no_point(vm))
}

fn no_point(vm: &Vm) -> Failure {
    Failure::new(Code::PrerequisiteFailed, Cause::Itself, "")
        .with("check", "a recovery point")
        .with("vm", &vm.name)
}
