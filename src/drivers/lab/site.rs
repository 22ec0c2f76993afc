//! A lab site: hosts that can be lost, and the guests on them, behind the hypervisor port.

use super::guest::{AfterBoot, Crash, Guest, Machine, Status};
use super::workload::{Checked, LastWrite, Workload};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure, in_full};
use crate::domain::id::{HostId, VmId};
use crate::domain::placement::Placement;
use crate::domain::vm::{Side, Vm};
use crate::ports::block::Connect;
use crate::ports::hypervisor::Hypervisor;
use crate::ports::replication::ServedDisk;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;

/// A VM as the site knows it before it is switched on.
#[derive(Clone, Debug)]
pub struct LabVm {
    /// Its name.
    pub name: String,
    /// The host that it runs on.
    pub host: HostId,
    /// Its writes.
    pub workload: Workload,
    /// How fast it writes after the install.
    pub writes_per_second: NonZeroU32,
    /// What it does once booted.
    pub after_boot: AfterBoot,
}

/// Why the site did not do it.
#[derive(Debug, Error)]
pub enum LabError {
    /// The host is down.
    #[error("reach host {name}: it is down")]
    HostDown {
        /// The host.
        host: HostId,
        /// Its name.
        name: String,
    },
    /// The site has no such host.
    #[error("reach host {host}: the site has no such host")]
    NoSuchHost {
        /// The host.
        host: HostId,
    },
    /// The site has no such VM.
    #[error("find VM {vm}: it is not defined at this site")]
    NoSuchVm {
        /// The VM.
        vm: VmId,
    },
    /// A disk of the VM is not served.
    #[error("start {name}: its disk {disk} is not served")]
    NotServed {
        /// The VM.
        name: String,
        /// The disk's name.
        disk: String,
    },
    /// The guest did not boot.
    #[error("start the guest")]
    DidNotBoot(#[source] Arc<Crash>),
    /// The guest is off, but what it wrote may not be durable.
    #[error("shut the guest down")]
    DidNotStop(#[source] Arc<Crash>),
    /// The guest is not at rest.
    #[error("bring the guest to rest: {0}")]
    NotAtRest(&'static str),
    /// The thread that waits for the guest ended.
    #[error("wait for the guest")]
    Waiting(#[from] tokio::task::JoinError),
}

impl Classified for LabError {
    fn code(&self) -> Code {
        match self {
            Self::HostDown { .. } | Self::NoSuchHost { .. } => Code::HostLost,
            Self::NoSuchVm { .. } => Code::VmNotFound,
            Self::NotServed { .. } | Self::DidNotBoot(_) => Code::ReplicaDidNotStart,
            Self::DidNotStop(_) => Code::SourceDidNotStop,
            Self::NotAtRest(_) => Code::GuestNotQuiesced,
            Self::Waiting(_) => Code::HostResourcesShort,
        }
    }
}

/// The hypervisors of one site. Clones are the same site.
#[derive(Clone)]
pub struct LabSite(Arc<Inside>);

struct Inside {
    connect: Connect,
    patience: Duration,
    hosts: Mutex<BTreeMap<HostId, LabHost>>,
    vms: Mutex<BTreeMap<VmId, Slot>>,
    provider_silent: AtomicBool,
}

struct LabHost {
    name: String,
    up: bool,
}

/// A defined VM and the guest that last ran as it.
struct Slot {
    vm: LabVm,
    guest: Option<Guest>,
    /// The guest of the last test.
    test: Option<Guest>,
    /// Where it was placed when it was started last, and the copy of its last test.
    placed: Option<Placement>,
    test_placed: Option<Placement>,
}

impl LabSite {
    /// A site without hosts. Guests reach their disks through `connect` and try for `patience` to get
    /// one back.
    pub fn new(connect: Connect, patience: Duration) -> Self {
        let (hosts, vms) = (Mutex::default(), Mutex::default());
        let provider_silent = AtomicBool::new(false);
        Self(Arc::new(Inside { connect, patience, hosts, vms, provider_silent }))
    }

    /// Adds a host that is up.
    pub fn add_host(&self, host: HostId, name: &str) {
        let name = name.to_owned();
        self.hosts().insert(host, LabHost { name, up: true });
    }

    /// Defines a VM, or defines it anew; a guest that runs as it goes on as it was.
    pub fn define(&self, id: VmId, vm: LabVm) {
        let mut vms = self.vms();
        let slot = match vms.remove(&id) {
            Some(slot) => Slot { vm, ..slot },
            None => Slot { vm, guest: None, test: None, placed: None, test_placed: None },
        };
        vms.insert(id, slot);
    }

    /// From its next boot on a VM does this once it has booted.
    ///
    /// # Errors
    /// `NoSuchVm`.
    pub fn set_after_boot(&self, vm: VmId, after_boot: AfterBoot) -> Result<(), LabError> {
        let mut vms = self.vms();
        vms.get_mut(&vm).ok_or(LabError::NoSuchVm { vm })?.vm.after_boot = after_boot;
        Ok(())
    }

    /// Switches a VM on, on the disks at `uris`, and blocks until it has booted. One that boots or
    /// runs on them goes on; one that runs on others is killed first. A write that is partly there is
    /// accepted at the end of the disks and made whole, as after the loss of a host.
    ///
    /// # Errors
    /// `HostDown`, `NoSuchHost`, `NoSuchVm`, `DidNotBoot`.
    pub fn boot(&self, vm: VmId, uris: &[String]) -> Result<Checked, LabError> {
        self.boot_from(vm, uris, LastWrite::MayBeTorn)
    }

    /// Shuts a VM down and blocks until it is off and its writes are durable; see [`Guest::stop`].
    ///
    /// # Errors
    /// `HostDown`, `NoSuchHost`, `NoSuchVm`, `DidNotStop`.
    pub fn stop(&self, vm: VmId) -> Result<(), LabError> {
        let guest = {
            let vms = self.vms();
            let slot = vms.get(&vm).ok_or(LabError::NoSuchVm { vm })?;
            self.reach(slot.vm.host)?;
            slot.guest.clone()
        };
        guest.map_or(Ok(()), |guest| guest.stop().map_err(LabError::DidNotStop))
    }

    /// Loses a host: it no longer answers, and the guests on it are killed. What serves their disks is
    /// the caller's to kill. Unknown hosts stay unknown.
    pub fn kill_host(&self, host: HostId) {
        if let Some(known) = self.hosts().get_mut(&host) {
            known.up = false;
        }
        let guests: Vec<_> = self
            .vms()
            .values()
            .filter(|slot| slot.vm.host == host)
            .flat_map(|slot| slot.guest.iter().chain(&slot.test).cloned())
            .collect();
        guests.iter().for_each(Guest::kill);
    }

    /// Brings a host back. Its VMs stay off until they are booted: they may run elsewhere.
    pub fn revive_host(&self, host: HostId) {
        if let Some(known) = self.hosts().get_mut(&host) {
            known.up = true;
        }
    }

    /// A VM is on another host from here on; its guest goes on as it was.
    pub fn move_vm(&self, vm: VmId, to: HostId) {
        if let Some(slot) = self.vms().get_mut(&vm) {
            slot.vm.host = to;
        }
    }

    /// The host that a VM is on.
    pub fn host_of_vm(&self, vm: VmId) -> Option<HostId> {
        self.vms().get(&vm).map(|slot| slot.vm.host)
    }

    /// Whether the site's provider, its management server, is silent from here on.
    pub fn silence_provider(&self, silent: bool) {
        self.0.provider_silent.store(silent, Ordering::Relaxed);
    }

    /// Does something with the guest that runs as a VM.
    fn with_guest(
        &self,
        vm: VmId,
        what: impl FnOnce(&Guest) -> Result<(), &'static str>,
    ) -> Result<(), LabError> {
        let guest = {
            let vms = self.vms();
            let slot = vms.get(&vm).ok_or(LabError::NoSuchVm { vm })?;
            self.reach(slot.vm.host)?;
            slot.guest.clone()
        };
        let guest = guest.ok_or(LabError::NotAtRest("the VM was never switched on"))?;
        what(&guest).map_err(LabError::NotAtRest)
    }

    /// How far a VM is; `None` if it was never switched on.
    pub fn guest(&self, vm: VmId) -> Option<Status> {
        self.vms().get(&vm)?.guest.as_ref().map(Guest::status)
    }

    /// How far the copy of a VM is that a test made; `None` if there is none.
    pub fn test_guest(&self, vm: VmId) -> Option<Status> {
        self.vms().get(&vm)?.test.as_ref().map(Guest::status)
    }

    /// The size, network adapters and addresses with which a VM was started last, where it was told any.
    pub fn placed(&self, vm: VmId) -> Option<Placement> {
        self.vms().get(&vm)?.placed.clone()
    }

    /// The same of the copy that a test made; `None` once it is deleted.
    pub fn test_placed(&self, vm: VmId) -> Option<Placement> {
        self.vms().get(&vm)?.test_placed.clone()
    }

    fn note_placement(&self, vm: &Vm, test: bool) {
        let placement = if test {
            vm.test.as_ref().and_then(|test| test.placement.clone())
        } else {
            vm.placement.clone()
        };
        if let Some(placement) = &placement {
            let (size, addresses) = (&placement.size, placement.addresses());
            tracing::info!(vm = %vm.name, test, ?size, ?addresses, "a replica gets its place");
        }
        if let Some(slot) = self.vms().get_mut(&vm.id) {
            *(if test { &mut slot.test_placed } else { &mut slot.placed }) = placement;
        }
    }

    /// Switches a VM off as its power switch would, if it is on.
    ///
    /// # Errors
    /// `HostDown`, `NoSuchHost`, `NoSuchVm`.
    pub fn switch_off(&self, vm: VmId) -> Result<(), LabError> {
        let guest = {
            let vms = self.vms();
            let slot = vms.get(&vm).ok_or(LabError::NoSuchVm { vm })?;
            self.reach(slot.vm.host)?;
            slot.guest.clone()
        };
        guest.iter().filter(|guest| guest.is_on()).for_each(Guest::kill);
        Ok(())
    }

    /// Boots a copy of a VM that proves its disks and leaves them as they are.
    fn boot_test(&self, vm: VmId, uris: &[String]) -> Result<Checked, LabError> {
        let guest = {
            let mut vms = self.vms();
            let slot = vms.get_mut(&vm).ok_or(LabError::NoSuchVm { vm })?;
            self.reach(slot.vm.host)?;
            if let Some(test) = slot.test.clone().filter(|it| it.is_on() && it.uris() == uris) {
                test
            } else {
                let machine = self.machine(&slot.vm, uris, LastWrite::Whole);
                let name = format!("test-{}", machine.name);
                let test = Machine { name, after_boot: AfterBoot::Idle, ..machine };
                slot.test.insert(Guest::start(test)).clone()
            }
        };
        guest.wait_booted().map_err(LabError::DidNotBoot)
    }

    fn delete_test(&self, vm: VmId) -> Result<(), LabError> {
        let test = {
            let mut vms = self.vms();
            let Some(slot) = vms.get_mut(&vm) else { return Ok(()) };
            self.reach(slot.vm.host)?;
            slot.test_placed = None;
            slot.test.take()
        };
        test.iter().for_each(Guest::kill);
        Ok(())
    }

    fn boot_from(
        &self,
        vm: VmId,
        uris: &[String],
        last_write: LastWrite,
    ) -> Result<Checked, LabError> {
        let guest = {
            let mut vms = self.vms();
            let slot = vms.get_mut(&vm).ok_or(LabError::NoSuchVm { vm })?;
            self.reach(slot.vm.host)?;
            match slot.guest.clone().filter(Guest::is_on) {
                Some(guest) if guest.uris() == uris => guest,
                other => {
                    other.iter().for_each(Guest::kill);
                    slot.guest
                        .insert(Guest::start(self.machine(&slot.vm, uris, last_write)))
                        .clone()
                }
            }
        };
        guest.wait_booted().map_err(LabError::DidNotBoot)
    }

    fn machine(&self, vm: &LabVm, uris: &[String], last_write: LastWrite) -> Machine {
        Machine {
            name: vm.name.clone(),
            workload: vm.workload.clone(),
            uris: uris.to_vec(),
            connect: self.0.connect.clone(),
            writes_per_second: vm.writes_per_second,
            after_boot: vm.after_boot,
            last_write,
            patience: self.0.patience,
        }
    }

    /// Whether the VM has booted here from the disks at `uris` before, so that it may have been killed
    /// while it wrote to them.
    fn has_run_on(&self, vm: VmId, uris: &[String]) -> bool {
        let vms = self.vms();
        let guest = vms.get(&vm).and_then(|slot| slot.guest.as_ref());
        guest.is_some_and(|guest| guest.uris() == uris && guest.status().boot.is_some())
    }

    fn reach(&self, host: HostId) -> Result<(), LabError> {
        match self.hosts().get(&host) {
            Some(known) if known.up => Ok(()),
            Some(known) => Err(LabError::HostDown { host, name: known.name.clone() }),
            None => Err(LabError::NoSuchHost { host }),
        }
    }

    /// Only whole changes are made under the locks, so a panic of another thread leaves them usable.
    fn hosts(&self) -> MutexGuard<'_, BTreeMap<HostId, LabHost>> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vms(&self) -> MutexGuard<'_, BTreeMap<VmId, Slot>> {
        self.0.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host of a VM: this site's, or else the one that the VM names.
    fn host_of(&self, vm: &Vm) -> HostId {
        self.vms().get(&vm.id).map_or(vm.host, |slot| slot.vm.host)
    }

    /// Does blocking work for a VM away from the executor.
    async fn work<T: Send + 'static>(
        &self,
        vm: &Vm,
        what: impl FnOnce(&Self) -> Result<T, LabError> + Send + 'static,
    ) -> Result<T, Failure> {
        let site = self.clone();
        let done = tokio::task::spawn_blocking(move || what(&site)).await;
        done.map_err(LabError::from)
            .and_then(|result| result)
            .map_err(|error| self.failure(self.host_of(vm), &error).with("vm", &vm.name))
    }

    fn failure(&self, host: HostId, error: &LabError) -> Failure {
        let cause = match error {
            LabError::HostDown { host, .. } | LabError::NoSuchHost { host } => Cause::Host(*host),
            LabError::NoSuchVm { .. }
            | LabError::NotServed { .. }
            | LabError::DidNotBoot(_)
            | LabError::DidNotStop(_)
            | LabError::NotAtRest(_)
            | LabError::Waiting(_) => Cause::Itself,
        };
        let name = self.hosts().get(&host).map_or_else(|| host.to_string(), |it| it.name.clone());
        Failure::new(error.code(), cause, in_full(error)).with("host", name)
    }
}

#[async_trait]
impl Hypervisor for LabSite {
    async fn heartbeat(&self, host: HostId) -> Result<(), Failure> {
        self.reach(host).map_err(|error| self.failure(host, &error))
    }

    async fn provider_heartbeat(&self) -> Result<(), Failure> {
        if !self.0.provider_silent.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Failure::new(Code::ProviderSilent, Cause::Itself, "").with("fabric", "the site"))
    }

    async fn shut_down(&self, vm: &Vm) -> Result<(), Failure> {
        let id = vm.id;
        self.work(vm, move |site| site.stop(id)).await
    }

    async fn switch_off(&self, vm: &Vm) -> Result<(), Failure> {
        let id = vm.id;
        self.work(vm, move |site| site.switch_off(id)).await
    }

    async fn start(&self, vm: &Vm, disks: &[ServedDisk]) -> Result<(), Failure> {
        let uris = uris(vm, disks);
        let id = vm.id;
        let ran_before = vm.failover.is_some_and(|failover| failover.started_at.is_some());
        self.work(vm, move |site| {
            let uris = uris?;
            let torn = ran_before || site.has_run_on(id, &uris);
            let last_write = if torn { LastWrite::MayBeTorn } else { LastWrite::Whole };
            site.boot_from(id, &uris, last_write)
        })
        .await?;
        self.note_placement(vm, false);
        Ok(())
    }

    /// Files are the agents' matter.
    async fn check_room(&self, vm: &Vm) -> Result<(), Failure> {
        self.heartbeat(vm.host).await
    }

    /// A guest that still runs on the disks, as one that was out of reach when its VM was failed over,
    /// is switched off.
    async fn attach(&self, vm: &Vm) -> Result<(), Failure> {
        let (id, replica_counts) = (vm.id, vm.source == Side::Recovery);
        self.work(vm, move |site| {
            let reached =
                site.reach(site.vms().get(&id).ok_or(LabError::NoSuchVm { vm: id })?.vm.host);
            if replica_counts { site.switch_off(id) } else { reached }
        })
        .await
    }

    async fn start_test(
        &self,
        vm: &Vm,
        disks: &[ServedDisk],
        network: &str,
    ) -> Result<(), Failure> {
        let (uris, id) = (uris(vm, disks), vm.id);
        tracing::info!(vm = %vm.name, network, "a test copy starts; guests of the lab use no network");
        self.work(vm, move |site| site.boot_test(id, &uris?)).await?;
        self.note_placement(vm, true);
        Ok(())
    }

    async fn end_test(&self, vm: &Vm) -> Result<(), Failure> {
        let id = vm.id;
        self.work(vm, move |site| site.delete_test(id)).await
    }

    async fn freeze(&self, vm: &Vm, at_most: Duration) -> Result<(), Failure> {
        let id = vm.id;
        self.work(vm, move |site| site.with_guest(id, |guest| guest.freeze(at_most))).await
    }

    async fn thaw(&self, vm: &Vm) -> Result<(), Failure> {
        let id = vm.id;
        self.work(vm, move |site| site.with_guest(id, Guest::thaw)).await
    }
}

/// The URIs of a VM's disks in the VM's order, without those that were added to it: a guest goes on with the disks
/// that it was made for.
fn uris(vm: &Vm, served: &[ServedDisk]) -> Result<Vec<String>, LabError> {
    let uri = |disk: &crate::domain::vm::Disk| {
        let found = served.iter().find(|served| served.disk == disk.id);
        found
            .map(|served| served.uri.clone())
            .ok_or_else(|| LabError::NotServed { name: vm.name.clone(), disk: disk.name.clone() })
    };
    vm.disks.iter().filter(|disk| vm.added_disk(disk.id).is_none()).map(uri).collect()
}
