//! The ports of the service, in a simulation: the real engine over the world outside, and hypervisors.
//!
//! A piece of work takes effect at one instant. Before it lies the time in which whoever does it can die,
//! and then only a part of it happens; after it the time that its requests and bytes take, in which its
//! answer can get lost.

use super::ghost::Invariant;
use super::outside::{Away, Outside};
use super::plant::Plant;
use super::proof;
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::{DiskId, HostId, VaultId};
use crate::domain::time::Timestamp;
use crate::domain::vm::{AddedDisk, RecoveryPoint, ResyncReason, Side, Vm};
use crate::ports::hypervisor::Hypervisor;
use crate::ports::replication::{
    Compared, LogVolume, Progress, Replication, Restore, ServedDisk, Snapshot,
};
use crate::replication::Engine;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// The longest that a piece of work waits before its effects come, in milliseconds.
const BEGINNING_MS: u64 = 40;

/// How long it takes to find out that nobody answers, in milliseconds.
const NO_ANSWER_MS: (u64, u64) = (200, 3_000);

/// How long a guest takes to shut down and to boot, in milliseconds.
const SHUT_DOWN_MS: (u64, u64) = (2_000, 9_000);
const REST_MS: (u64, u64) = (20, 400);
const BOOT_MS: (u64, u64) = (4_000, 20_000);

/// How long it takes to cut a guest's power, in milliseconds.
const SWITCH_OFF_MS: (u64, u64) = (1, 20);

/// The longest that it takes to turn a guest off whose host is within reach, in milliseconds.
const TURN_OFF_MS: u64 = SHUT_DOWN_MS.1 + SWITCH_OFF_MS.1;

/// Virtual time after which a planted hang begins, in milliseconds.
const PLANTED_AFTER_MS: u64 = 10 * 60_000;

/// The data plane.
pub(super) struct DataPlane {
    outside: Arc<Outside>,
    engine: Engine,
}

/// Where work is done, and on what.
struct Place<'a> {
    vm: &'a str,
    what: &'static str,
    host: Option<HostId>,
    vault: VaultId,
}

impl<'a> Place<'a> {
    fn at_host(vm: &'a Vm, what: &'static str) -> Self {
        Self { vm: &vm.name, what, host: Some(vm.host), vault: vm.vault }
    }

    /// Where the VM's disks are that are replicated.
    fn at_source(vm: &'a Vm, what: &'static str) -> Self {
        match vm.source {
            Side::Primary => Self::at_host(vm, what),
            Side::Recovery => Self::at_service(vm, what),
        }
    }

    fn at_service(vm: &'a Vm, what: &'static str) -> Self {
        Self { vm: &vm.name, what, host: None, vault: vm.vault }
    }
}

/// Work that has begun; dropped before its effects came, a part of it is done.
struct Begun<'a> {
    outside: &'a Outside,
    ticket: u64,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.outside.break_off(self.ticket);
    }
}

impl DataPlane {
    pub(super) fn new(outside: Arc<Outside>, engine: Engine) -> Self {
        Self { outside, engine }
    }

    async fn carry<T: Send + 'static>(
        &self,
        place: Place<'_>,
        call: impl Fn(Engine) -> BoxFuture<'static, Result<T, Failure>> + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        let outside = &self.outside;
        let key = format!("{} {}", place.what, place.vm);
        let call = Arc::new(call);
        let (dying, host) = (Arc::clone(&call), place.host);
        let dying = move |outside: &Outside, engine: Engine| {
            outside.storage.begin(host);
            // Nobody is left to hear what comes of it.
            drop(outside.inline.wait(dying(engine)));
        };
        let ticket = outside.begin_work(key.clone(), place.host, Box::new(dying));
        let begun = Begun { outside, ticket };
        let mut upsets = place.host.and_then(|host| outside.upsets(host));
        let pause = outside.dice.between(&key, 1, BEGINNING_MS);
        let calm = undisturbed(upsets.as_mut(), pause).await;
        if !outside.end_work(begun.ticket) || !calm {
            return Err(self.host_lost(place.host.unwrap_or_default()));
        }
        drop(begun);
        let before = outside.storage.begin(place.host);
        let result = outside.inline.wait(call(self.engine.clone()));
        let cost = outside.storage.cost_since(before);
        let mut ms = 1 + outside.transfer_ms(cost, place.host.is_some());
        if result.is_err() {
            ms += outside.dice.between(&key, NO_ANSWER_MS.0, NO_ANSWER_MS.1);
        }
        if !undisturbed(upsets.as_mut(), ms).await {
            return Err(self.host_lost(place.host.unwrap_or_default()));
        }
        let weather = outside.storage.weather();
        let cut = weather.unreachable || host.is_some_and(|host| weather.cut.contains(&host));
        if cut && 0 < cost.requests && result.is_ok() {
            let text = "the connection broke off before the answer";
            let failure = Failure::new(Code::LinkDown, Cause::Vault(place.vault), text);
            return Err(failure.with("target", "the vault").with("operation", place.what));
        }
        result
    }

    /// Carries what is done for a VM, as the VM is now.
    async fn carry_of<T: Send + 'static>(
        &self,
        place: Place<'_>,
        vm: &Vm,
        call: impl Fn(Engine, Vm) -> BoxFuture<'static, Result<T, Failure>> + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        let own = vm.clone();
        self.carry(place, move |engine| call(engine, own.clone())).await
    }

    /// The same for what tells how far it is.
    async fn carry_telling<T: Send + 'static>(
        &self,
        place: Place<'_>,
        vm: &Vm,
        progress: Progress<'_>,
        call: impl Fn(Engine, Vm, Told) -> BoxFuture<'static, Result<T, Failure>>
        + Send
        + Sync
        + 'static,
    ) -> Result<T, Failure> {
        let told = Told::default();
        let telling = told.clone();
        let done = self.carry_of(place, vm, move |engine, vm| call(engine, vm, telling.clone()));
        let done = done.await;
        told.pass_on(progress);
        done
    }

    fn host_lost(&self, host: HostId) -> Failure {
        host_lost(&self.outside, host)
    }
}

fn host_lost(outside: &Outside, host: HostId) -> Failure {
    Failure::new(Code::HostLost, Cause::Host(host), "no answer")
        .with("host", outside.host_name(host))
}

/// Lets time pass; answers whether the host went on meanwhile.
async fn undisturbed(upsets: Option<&mut watch::Receiver<u64>>, ms: u64) -> bool {
    let pause = sleep(Duration::from_millis(ms));
    let Some(upsets) = upsets else {
        pause.await;
        return true;
    };
    tokio::select! {
        biased;
        _ = upsets.changed() => false,
        () = pause => true,
    }
}

/// Progress that was told inside, to be told on outside.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(u64, u64)>>>);

impl Told {
    fn note(&self, done: u64, total: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((done, total));
    }

    fn pass_on(&self, progress: Progress<'_>) {
        let told = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (done, total) in told {
            progress(done, total);
        }
    }
}

#[async_trait]
impl Replication for DataPlane {
    async fn check_source(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_source(vm, "check the source"), vm, |engine, vm| {
            Box::pin(async move { engine.check_source(&vm).await })
        })
        .await
    }

    async fn probe_vault(&self, vault: VaultId) -> Result<(), Failure> {
        let place = Place { vm: "", what: "probe", host: None, vault };
        self.carry(place, move |engine| Box::pin(async move { engine.probe_vault(vault).await }))
            .await
    }

    async fn reach_vault(&self, vm: &Vm) -> Result<(), Failure> {
        let (host, vault) = (vm.fails_at_host().then_some(vm.host), vm.vault);
        let place = Place { vm: &vm.name, what: "reach the vault", host, vault };
        self.carry(place, move |engine| Box::pin(async move { engine.probe_vault(vault).await }))
            .await
    }

    async fn check_vault(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_service(vm, "check the vault"), vm, |engine, vm| {
            Box::pin(async move { engine.check_vault(&vm).await })
        })
        .await
    }

    async fn start_tracking(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_source(vm, "start tracking"), vm, |engine, vm| {
            Box::pin(async move { engine.start_tracking(&vm).await })
        })
        .await
    }

    async fn copy_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        progress: Progress<'_>,
    ) -> Result<u64, Failure> {
        if self.outside.plant == Some(Plant::HangingCopy) {
            std::future::pending::<()>().await;
        }
        let place = Place::at_source(vm, "copy a disk");
        self.carry_telling(place, vm, progress, move |engine, vm, told| {
            Box::pin(async move {
                engine.copy_disk(&vm, disk, &|done, total| told.note(done, total)).await
            })
        })
        .await
    }

    async fn compare_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        done_bytes: u64,
        progress: Progress<'_>,
    ) -> Result<Compared, Failure> {
        let place = Place::at_source(vm, "compare a disk");
        self.carry_telling(place, vm, progress, move |engine, vm, told| {
            Box::pin(async move {
                let note = |done: u64, total: u64| told.note(done, total);
                engine.compare_disk(&vm, disk, done_bytes, &note).await
            })
        })
        .await
    }

    async fn complete_copy(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_service(vm, "complete the copy"), vm, |engine, vm| {
            Box::pin(async move { engine.complete_copy(&vm).await })
        })
        .await
    }

    async fn snapshot(&self, vm: &Vm, cycle: u64) -> Result<Snapshot, Failure> {
        let outside = Arc::clone(&self.outside);
        self.carry_of(Place::at_source(vm, "cut"), vm, move |engine, vm| {
            outside.may_be_cut(&vm);
            Box::pin(async move { engine.snapshot(&vm, cycle).await })
        })
        .await
    }

    async fn ship(&self, vm: &Vm, cycle: u64, at: Timestamp) -> Result<u64, Failure> {
        let late = PLANTED_AFTER_MS < self.outside.clock.passed_ms();
        if late && self.outside.plant == Some(Plant::HangingShip) {
            std::future::pending::<()>().await;
        }
        let shipped = self
            .carry_of(Place::at_source(vm, "ship"), vm, move |engine, vm| {
                Box::pin(async move { engine.ship(&vm, cycle, at).await })
            })
            .await;
        if late && self.outside.plant == Some(Plant::LostObject) {
            self.outside.inline.wait(proof::lose_newest_object(&self.outside, vm));
        }
        shipped
    }

    async fn ship_through(&self, vm: &Vm, last_cycle: u64) -> Result<Vec<RecoveryPoint>, Failure> {
        let outside = Arc::clone(&self.outside);
        self.carry_of(Place::at_source(vm, "ship everything"), vm, move |engine, vm| {
            outside.may_be_cut(&vm);
            Box::pin(async move { engine.ship_through(&vm, last_cycle).await })
        })
        .await
    }

    async fn verify(&self, vm: &Vm, point: RecoveryPoint) -> Result<(), Failure> {
        self.carry_of(Place::at_service(vm, "verify"), vm, move |engine, vm| {
            Box::pin(async move { engine.verify(&vm, point).await })
        })
        .await
    }

    async fn fence(&self, vm: &Vm) -> Result<Vec<RecoveryPoint>, Failure> {
        self.carry_of(Place::at_service(vm, "fence"), vm, |engine, vm| {
            Box::pin(async move { engine.fence(&vm).await })
        })
        .await
    }

    async fn serve(&self, vm: &Vm, point: RecoveryPoint) -> Result<Vec<ServedDisk>, Failure> {
        self.carry_of(Place::at_service(vm, "serve"), vm, move |engine, vm| {
            Box::pin(async move { engine.serve(&vm, point).await })
        })
        .await
    }

    async fn stop_serving(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_service(vm, "stop serving"), vm, |engine, vm| {
            Box::pin(async move { engine.stop_serving(&vm).await })
        })
        .await
    }

    async fn serve_test(&self, vm: &Vm, point: RecoveryPoint) -> Result<Vec<ServedDisk>, Failure> {
        self.carry_of(Place::at_service(vm, "serve a test"), vm, move |engine, vm| {
            Box::pin(async move { engine.serve_test(&vm, point).await })
        })
        .await
    }

    async fn end_test(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_service(vm, "end a test"), vm, |engine, vm| {
            Box::pin(async move { engine.end_test(&vm).await })
        })
        .await
    }

    async fn restore_disk(
        &self,
        vm: &Vm,
        restore: Restore,
        progress: Progress<'_>,
    ) -> Result<Compared, Failure> {
        let place = Place::at_host(vm, "restore a disk");
        self.carry_telling(place, vm, progress, move |engine, vm, told| {
            Box::pin(async move {
                let note = |done: u64, total: u64| told.note(done, total);
                engine.restore_disk(&vm, restore, &note).await
            })
        })
        .await
    }

    async fn track_restored(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_host(vm, "track restored disks"), vm, |engine, vm| {
            Box::pin(async move { engine.track_restored(&vm).await })
        })
        .await
    }

    async fn stop_tracking(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_source(vm, "stop tracking"), vm, |engine, vm| {
            Box::pin(async move { engine.stop_tracking(&vm).await })
        })
        .await
    }

    async fn check_download(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_service(vm, "check the download"), vm, |engine, vm| {
            Box::pin(async move { engine.check_download(&vm).await })
        })
        .await
    }

    async fn download_disk(
        &self,
        vm: &Vm,
        disk: DiskId,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let place = Place::at_service(vm, "download a disk");
        self.carry_telling(place, vm, progress, move |engine, vm, told| {
            Box::pin(async move {
                engine.download_disk(&vm, disk, &|done, total| told.note(done, total)).await
            })
        })
        .await
    }

    async fn leave_vault(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_service(vm, "leave the vault"), vm, |engine, vm| {
            Box::pin(async move { engine.leave_vault(&vm).await })
        })
        .await
    }

    async fn delete_replica(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_service(vm, "delete the replica"), vm, |engine, vm| {
            Box::pin(async move { engine.delete_replica(&vm).await })
        })
        .await
    }

    async fn keep_only(&self, vm: &Vm, point: RecoveryPoint) -> Result<(), Failure> {
        self.carry_of(Place::at_service(vm, "drop points"), vm, move |engine, vm| {
            Box::pin(async move { engine.keep_only(&vm, point).await })
        })
        .await
    }

    async fn reclaim_space(&self, vm: &Vm) -> Result<(), Failure> {
        self.carry_of(Place::at_service(vm, "reclaim space"), vm, |engine, vm| {
            Box::pin(async move { engine.reclaim_space(&vm).await })
        })
        .await
    }

    async fn tracking_lost(&self, vm: &Vm, log_volume: LogVolume<'_>) -> ResyncReason {
        // The vault is asked over the simulated network, in virtual time.
        let vault = vm.vault;
        let answers = || -> BoxFuture<'_, bool> {
            Box::pin(async move { self.probe_vault(vault).await.is_ok() })
        };
        let on_thread = |work: Box<dyn FnOnce() + Send>| -> BoxFuture<'_, ()> {
            // It fails by itself, if it does.
            drop(self.outside.inline.call(work));
            Box::pin(std::future::ready(()))
        };
        self.engine.loss(vm, log_volume, &answers, &on_thread).await
    }
}

/// The primary site's hypervisors.
pub(super) struct PrimarySite(pub(super) Arc<Outside>);

impl PrimarySite {
    /// Lets the time pass that something takes at the VM's host, which must be there throughout.
    async fn reach(&self, vm: &Vm, what: &str, takes: (u64, u64)) -> Result<(), Failure> {
        if !self.0.answers(vm.host) {
            pause(&self.0, what, NO_ANSWER_MS).await;
            return Err(host_lost(&self.0, vm.host));
        }
        pause(&self.0, what, takes).await;
        if self.0.answers(vm.host) { Ok(()) } else { Err(host_lost(&self.0, vm.host)) }
    }
}

#[async_trait]
impl Hypervisor for PrimarySite {
    async fn heartbeat(&self, host: HostId) -> Result<(), Failure> {
        let name = format!("heartbeat {}", self.0.host_name(host));
        pause(&self.0, &name, (1, 20)).await;
        if self.0.plant == Some(Plant::Chatter) && self.0.dice.happens("chatter", 50) {
            return Err(host_lost(&self.0, host));
        }
        if self.0.answers(host) {
            return Ok(());
        }
        pause(&self.0, &name, NO_ANSWER_MS).await;
        Err(host_lost(&self.0, host))
    }

    async fn provider_heartbeat(&self) -> Result<(), Failure> {
        pause(&self.0, "heartbeat of the provider", (1, 20)).await;
        if !self.0.storage.weather().provider_silent {
            return Ok(());
        }
        pause(&self.0, "heartbeat of the provider", NO_ANSWER_MS).await;
        Err(Failure::new(Code::ProviderSilent, Cause::Itself, "").with("fabric", "the site"))
    }

    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure> {
        let name = format!("shut down {}", vm.name);
        if self.0.is_elsewhere(vm) {
            self.reach(vm, &name, SHUT_DOWN_MS).await?;
            self.0.end_stray(vm.id, vm.host);
            return Ok(());
        }
        if !self.0.answers(vm.host) {
            pause(&self.0, &name, NO_ANSWER_MS).await;
        }
        if self.0.answers(vm.host) && self.0.machine(vm.id).runs {
            pause(&self.0, &name, SHUT_DOWN_MS).await;
        }
        if !self.0.answers(vm.host) {
            return Err(host_lost(&self.0, vm.host));
        }
        self.0.shut_down(vm.id).map_err(|error| {
            Failure::new(Code::SourceDidNotStop, Cause::Host(vm.host), error)
                .with("vm", &vm.name)
                .with("host", self.0.host_name(vm.host))
        })
    }

    async fn switch_off(&self, vm: &Vm) -> Result<(), Failure> {
        self.reach(vm, &format!("switch off {}", vm.name), SWITCH_OFF_MS).await?;
        if self.0.is_elsewhere(vm) {
            self.0.end_stray(vm.id, vm.host);
        } else {
            self.0.switch_off(vm.id);
        }
        Ok(())
    }

    async fn start(&self, vm: &Vm, _: &[ServedDisk]) -> Result<(), Failure> {
        let outside = &self.0;
        self.reach(vm, &format!("boot {}", vm.name), BOOT_MS).await?;
        // After a failover that was cancelled its disks are those that it left, perhaps by a power loss.
        if vm.failback.is_none() {
            let boots = outside.boot_again(vm.id);
            return boots
                .then_some(())
                .ok_or_else(|| did_not_start(vm, "its disks take no writes"));
        }
        let restored =
            proof::restored_prefix(outside, vm).map_err(|why| did_not_start(vm, &why))?;
        outside.start_restored(vm.id, restored);
        Ok(())
    }

    /// There is always room.
    async fn check_room(&self, vm: &Vm) -> Result<(), Failure> {
        self.reach(vm, &format!("check the room for {}", vm.name), (1, 20)).await
    }

    async fn attach(&self, vm: &Vm) -> Result<(), Failure> {
        self.reach(vm, &format!("attach {}", vm.name), (1, 20)).await?;
        self.0.bring(vm).map_err(|error| {
            Failure::new(Code::HostResourcesShort, Cause::Host(vm.host), error)
                .with("host", self.0.host_name(vm.host))
                .with("operation", "making disk images")
        })?;
        if vm.source == Side::Recovery {
            self.0.switch_off(vm.id);
        }
        if !self.0.fits(vm) {
            self.0.fit(vm);
        }
        Ok(())
    }

    async fn lengthen_disk(&self, vm: &Vm, disk: DiskId, bytes: u64) -> Result<(), Failure> {
        self.reach(vm, &format!("lengthen a disk of {}", vm.name), (1, 20)).await?;
        self.0.lengthen(vm.id, disk, bytes).map_err(|error| {
            Failure::new(Code::HostResourcesShort, Cause::Host(vm.host), error)
                .with("host", self.0.host_name(vm.host))
                .with("operation", "growing a disk image")
        })
    }

    async fn check_image(&self, vm: &Vm, disk: &AddedDisk) -> Result<(), Failure> {
        self.reach(vm, &format!("look at an image for {}", vm.name), (1, 20)).await?;
        self.0.check_image(vm.id, disk).map_err(|error| {
            Failure::new(Code::DiskUnusable, Cause::Host(vm.host), error).with("disk", &disk.image)
        })
    }

    async fn fit_disks(&self, vm: &Vm) -> Result<(), Failure> {
        if self.0.fits(vm) {
            return Ok(());
        }
        self.reach(vm, &format!("fit the disks of {}", vm.name), (1, 20)).await?;
        self.0.fit(vm);
        Ok(())
    }

    async fn start_test(&self, vm: &Vm, _: &[ServedDisk], _: &str) -> Result<(), Failure> {
        Err(did_not_start(vm, "tests are made at the recovery site"))
    }

    async fn end_test(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    async fn freeze(&self, vm: &Vm, at_most: Duration) -> Result<(), Failure> {
        self.reach(vm, &format!("bring {} to rest", vm.name), REST_MS).await?;
        bring_to_rest(&self.0, vm, at_most)
    }

    async fn thaw(&self, vm: &Vm) -> Result<(), Failure> {
        self.reach(vm, &format!("let {} go on", vm.name), (1, 20)).await?;
        self.0.wake(vm.id);
        Ok(())
    }
}

/// The recovery site's hypervisors.
pub(super) struct RecoveryHypervisors(pub(super) Arc<Outside>);

#[async_trait]
impl Hypervisor for RecoveryHypervisors {
    async fn heartbeat(&self, _: HostId) -> Result<(), Failure> {
        Ok(())
    }

    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure> {
        if self.0.machine(vm.id).away.is_some_and(|away| away.runs) {
            pause(&self.0, &format!("shut down {}", vm.name), SHUT_DOWN_MS).await;
        }
        self.0.ends_away(vm.id);
        Ok(())
    }

    async fn switch_off(&self, vm: &Vm) -> Result<(), Failure> {
        self.0.ends_away(vm.id);
        Ok(())
    }

    async fn start(&self, vm: &Vm, disks: &[ServedDisk]) -> Result<(), Failure> {
        let outside = &self.0;
        let (began, was_within_reach) = (outside.clock.passed_ms(), outside.answers(vm.host));
        pause(outside, &format!("boot {}", vm.name), BOOT_MS).await;
        let source = outside.machine(vm.id);
        // Nobody knows of a host that did not answer that it has come back just now. From here on it can be known, so
        // that a source that is not off after the time that this takes is one that nobody turns off.
        let could_be_off = TURN_OFF_MS < outside.clock.passed_ms() - began;
        if source.runs && could_be_off && was_within_reach && outside.answers(vm.host) {
            let what = format!("{} was started while its source ran, within reach", vm.name);
            outside.violation(Invariant::OnePrimary, what);
        }
        let served = proof::served_prefix(outside, vm, disks).map_err(|why| {
            // A guest that finds nonsense on its disks does not start either.
            did_not_start(vm, &why)
        })?;
        proof::judge_failover(outside, vm, served, &source);
        let point = vm.failover_point().map_or(0, |point| point.cycle);
        let exports = proof::exports(disks);
        outside.runs_away(vm.id, Away { point, acked: served, torn: false, runs: true, exports });
        Ok(())
    }

    async fn check_room(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    async fn attach(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    async fn start_test(&self, vm: &Vm, disks: &[ServedDisk], _: &str) -> Result<(), Failure> {
        pause(&self.0, &format!("boot the test of {}", vm.name), BOOT_MS).await;
        proof::test_prefix(&self.0, vm, disks).map_err(|why| did_not_start(vm, &why))
    }

    async fn end_test(&self, _: &Vm) -> Result<(), Failure> {
        Ok(())
    }

    async fn freeze(&self, vm: &Vm, at_most: Duration) -> Result<(), Failure> {
        pause(&self.0, &format!("bring {} to rest", vm.name), REST_MS).await;
        bring_to_rest(&self.0, vm, at_most)
    }

    async fn thaw(&self, vm: &Vm) -> Result<(), Failure> {
        pause(&self.0, &format!("let {} go on", vm.name), (1, 20)).await;
        self.0.wake(vm.id);
        Ok(())
    }
}

/// One guest in ten is too busy to come to rest in time.
fn bring_to_rest(outside: &Outside, vm: &Vm, at_most: Duration) -> Result<(), Failure> {
    let not = |why: &str| {
        Err(Failure::new(Code::GuestNotQuiesced, Cause::Itself, why).with("vm", &vm.name))
    };
    if outside.dice.happens(&format!("{} is busy", vm.name), 10) {
        return not("its applications did not finish in time");
    }
    match outside.rest(vm.id, at_most) {
        Ok(true) => Ok(()),
        Ok(false) => not("it does not run"),
        Err(error) => not(&error.to_string()),
    }
}

fn did_not_start(vm: &Vm, why: &str) -> Failure {
    Failure::new(Code::ReplicaDidNotStart, Cause::Itself, why).with("vm", &vm.name)
}

async fn pause(outside: &Outside, what: &str, (low, high): (u64, u64)) {
    sleep(Duration::from_millis(outside.dice.between(what, low, high))).await;
}
