//! Everything outside the service: hosts with their files and guests, the vault, and what really was
//! written.
//!
//! The disks are raw images on [`MemoryFiles`], written through the real trackers; a guest issues the
//! numbered writes of the lab's workload, so that how far each disk came is known without looking.

use super::clock::SimClock;
use super::dice::{Dice, keyed};
use super::ghost::{CutState, Ghost, Invariant, Violation};
use super::inline::Inline;
use super::plant::Plant;
use super::scenario::{Burst, Scenario};
use super::storage::Storage;
use crate::disk::files::MemoryFiles;
use crate::disk::nbd::{Endpoint, Exports};
use crate::disk::raw::RawDisk;
use crate::disk::tracker::{BootId, DiskSpec, TrackError, Tracker};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure, in_full};
use crate::domain::id::{CloudId, DiskId, HostId, VaultId, VmId};
use crate::domain::vm::{Disk, Side, Vm};
use crate::drivers::lab::{LabFiles, Workload};
use crate::ports::block::BlockDevice;
use crate::ports::clock::Clock;
use crate::ports::files::{Files, Open};
use crate::replica::Vault;
use crate::replication::{Engine, EngineParts, RecoverySite, Sources};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use uuid::Uuid;

/// The root of all ids of a run.
const NAMES: Uuid = Uuid::from_u128(0x7369_6d75_6c61_7469_8000_6f6e_7369_7465);

/// Writes of a guest between two flushes.
const FLUSH_EVERY: u64 = 8;

/// The beginning of each disk that its first writes fill.
const INSTALL_BYTES: u64 = 256 * 1024;

/// Calls on files that a process at most still makes while it dies.
const LAST_CALLS: u64 = 12;

/// Requests to the vault that work at most still makes while it dies.
const LAST_REQUESTS: u64 = 6;

/// The world outside the service.
pub(super) struct Outside {
    pub(super) clock: Arc<SimClock>,
    pub(super) dice: Arc<Dice>,
    pub(super) inline: Inline,
    pub(super) storage: Storage,
    pub(super) ghost: Ghost,
    pub(super) plant: Option<Plant>,
    pub(super) vault: VaultId,
    pub(super) cloud: CloudId,
    /// The vault past all faults.
    pub(super) proof: Vault,
    state: Mutex<State>,
    recovery: Arc<MemoryFiles>,
    under_way: Mutex<UnderWay>,
}

/// Work that has begun and whose effects are still to come, by ticket.
#[derive(Default)]
struct UnderWay {
    tickets: u64,
    works: BTreeMap<u64, Begun>,
}

/// Work that has begun.
struct Begun {
    name: String,
    host: Option<HostId>,
    dying: DyingWork,
}

/// What a process still does of its work while it dies.
pub(super) type DyingWork = Box<dyn FnOnce(&Outside, Engine) + Send>;

struct State {
    hosts: BTreeMap<HostId, Host>,
    vms: BTreeMap<VmId, Machine>,
    /// What the running service has attached.
    life: Option<Life>,
    lives: u64,
    /// Milliseconds of a request's way to the vault and back.
    rtt_ms: u64,
    /// What a link carries in a millisecond.
    bytes_per_ms: u64,
}

/// A run of the service.
#[derive(Clone)]
struct Life {
    sources: Sources,
    exports: Arc<Exports>,
    engine: Engine,
    recovery_files: LabFiles,
}

/// A host.
struct Host {
    name: String,
    disk: Arc<MemoryFiles>,
    files: LabFiles,
    up: bool,
    /// Whether the service reaches it.
    managed: bool,
    full: bool,
    boots: u64,
    /// Changes whenever work that is under way there breaks off.
    upset: watch::Sender<u64>,
}

/// A VM and its guest.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) host: HostId,
    pub(super) disks: Vec<Disk>,
    pub(super) workload: Workload,
    /// The last write that was acknowledged.
    pub(super) acked: u64,
    /// The last write that a flush has made durable.
    flushed: u64,
    /// Whether the write after the last acknowledged one may be on the disks in part.
    torn: bool,
    /// Whether its guest runs at the primary site.
    pub(super) runs: bool,
    /// The last write on its disks at the recovery site, since it was started there.
    pub(super) away: Option<u64>,
    /// Whether somebody switched it off: nobody but a failover that fails switches it on again.
    switched_off: bool,
    writes_per_minute: u32,
    bursts: Vec<Burst>,
    tracker: Option<Arc<Tracker>>,
}

impl Outside {
    /// The world of a scenario before anything happens. Must be made where virtual time passes.
    pub(super) fn new(
        scenario: &Scenario,
        seed: u64,
        plant: Option<Plant>,
    ) -> io::Result<Arc<Self>> {
        let clock = Arc::new(SimClock::new());
        let dice = Arc::new(Dice::new(seed));
        let inline = Inline::new(Arc::clone(&clock))?;
        let storage = Storage::new(Arc::clone(&dice));
        let vault = VaultId::named(NAMES, "vault");
        let proof = Vault::new(storage.objects(), vault);
        let mut hosts = BTreeMap::new();
        for name in &scenario.site.hosts {
            let name = name.get_ref().clone();
            let disk = MemoryFiles::new(keyed(seed, &name, 0));
            let files = LabFiles::new(Arc::clone(&disk) as Arc<dyn Files>, &name);
            let (up, managed, full, boots, upset) = (true, true, false, 0, watch::Sender::new(0));
            let id = HostId::named(NAMES, &name);
            hosts.insert(id, Host { name, disk, files, up, managed, full, boots, upset });
        }
        let mut vms = BTreeMap::new();
        for one in scenario.vms() {
            let id = VmId::named(NAMES, &one.name);
            let sizes: Vec<u64> = one.spec.disks.get_ref().iter().map(|size| size.0).collect();
            let disks = sizes.iter().enumerate().map(|(nth, size_bytes)| {
                let name = format!("disk{nth}");
                Disk { id: DiskId::named(id.0, &name), name, size_bytes: *size_bytes }
            });
            let machine = Machine {
                host: HostId::named(NAMES, one.spec.host.get_ref()),
                disks: disks.collect(),
                workload: Workload::new(keyed(seed, &one.name, 0), sizes, INSTALL_BYTES)
                    .map_err(io::Error::other)?,
                acked: 0,
                flushed: 0,
                torn: false,
                runs: false,
                switched_off: false,
                away: None,
                writes_per_minute: one.spec.writes_per_minute,
                bursts: one.spec.burst.clone(),
                tracker: None,
                name: one.name,
            };
            vms.insert(id, machine);
        }
        let state = State {
            hosts,
            vms,
            life: None,
            lives: 0,
            rtt_ms: scenario.site.rtt.0,
            bytes_per_ms: (scenario.site.mbit_per_s * 125).max(1),
        };
        let outside = Self {
            clock,
            dice,
            inline,
            storage,
            ghost: Ghost::default(),
            plant,
            vault,
            cloud: CloudId::named(NAMES, "cloud"),
            proof,
            state: Mutex::new(state),
            recovery: MemoryFiles::new(keyed(seed, "the recovery site", 0)),
            under_way: Mutex::default(),
        };
        outside.inline.wait(outside.proof.establish()).map_err(io::Error::other)?;
        for id in outside.vm_ids() {
            outside.make_images(id)?;
        }
        Ok(Arc::new(outside))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_images(&self, id: VmId) -> io::Result<()> {
        let (machine, files) = {
            let state = self.state();
            let machine = state.vms[&id].clone();
            let files = state.hosts[&machine.host].files.clone();
            (machine, files)
        };
        let folder = machine.folder();
        for disk in &machine.disks {
            RawDisk::create(&files, &folder.join(format!("{}.img", disk.name)), disk.size_bytes)
                .map_err(io::Error::other)?;
        }
        files.sync_dir(&folder)
    }

    pub(super) fn host_ids(&self) -> Vec<(HostId, String)> {
        self.state().hosts.iter().map(|(id, host)| (*id, host.name.clone())).collect()
    }

    pub(super) fn vm_ids(&self) -> Vec<VmId> {
        self.state().vms.keys().copied().collect()
    }

    pub(super) fn machine(&self, id: VmId) -> Machine {
        self.state().vms[&id].clone()
    }

    /// Whether a scenario's name, or the lack of one, means this host.
    pub(super) fn hosts_called(&self, name: Option<&str>) -> Vec<HostId> {
        let all = self.host_ids().into_iter();
        all.filter(|(_, known)| name.is_none_or(|name| name == known)).map(|(id, _)| id).collect()
    }

    pub(super) fn vms_called(&self, name: Option<&str>) -> Vec<VmId> {
        let state = self.state();
        let called = |machine: &Machine| name.is_none_or(|name| name == machine.name);
        state.vms.iter().filter(|(_, vm)| called(vm)).map(|(id, _)| *id).collect()
    }

    /// Whether the service reaches the host.
    pub(super) fn answers(&self, host: HostId) -> bool {
        self.state().hosts.get(&host).is_some_and(|host| host.up && host.managed)
    }

    pub(super) fn host_name(&self, host: HostId) -> String {
        self.state().hosts.get(&host).map_or_else(String::new, |host| host.name.clone())
    }

    /// Told whenever work under way on the host breaks off.
    pub(super) fn upsets(&self, host: HostId) -> Option<watch::Receiver<u64>> {
        self.state().hosts.get(&host).map(|host| host.upset.subscribe())
    }

    pub(super) fn set_rtt(&self, rtt_ms: u64) {
        self.state().rtt_ms = rtt_ms;
    }

    /// Milliseconds that so many requests and bytes take, one after the other.
    pub(super) fn transfer_ms(&self, requests: u64, bytes: u64) -> u64 {
        let state = self.state();
        requests * state.rtt_ms + bytes / state.bytes_per_ms
    }
}

/// What a VM may do at the primary site, by the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its disks stay closed.
    Away,
    /// Its disks are attached, so that what was tracked can be sent.
    Tracked,
    /// It runs.
    Runs,
}

/// The life of the service and of its hosts' agents, which are one process.
impl Outside {
    /// A start of the service: the engine over what its agents can attach. `standing` says which VMs
    /// those are, by the log.
    pub(super) fn begin_life(&self, standing: &dyn Fn(VmId) -> Standing) -> Engine {
        let sources = Sources::default();
        let exports = Arc::new(Exports::default());
        let mut state = self.state();
        state.lives += 1;
        if 1 < state.lives {
            self.recovery.restart();
        }
        let recovery_files =
            LabFiles::new(Arc::clone(&self.recovery) as Arc<dyn Files>, "the recovery site");
        let recovery = RecoverySite::new(
            PathBuf::from("/recovery"),
            Arc::new(recovery_files.clone()),
            Arc::clone(&exports),
            Endpoint::Unix(PathBuf::from("/recovery/nbd.sock")),
            BootId(Uuid::from_u128(1)),
        );
        let engine = Engine::new(EngineParts {
            vaults: BTreeMap::from([(
                self.vault,
                Vault::new(Arc::new(self.storage.clone()), self.vault),
            )]),
            sources: sources.clone(),
            recovery,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            runtime: self.inline.handle().clone(),
        });
        let life = Life { sources, exports, engine: engine.clone(), recovery_files };
        state.life = Some(life);
        drop(state);
        for (host, _) in self.host_ids() {
            self.attach_host(host, standing);
        }
        engine
    }

    /// The service is about to be killed: its processes get only a little further.
    pub(super) fn doom_life(&self) {
        for (host, name) in self.host_ids() {
            self.doom(host, &name);
        }
        let calls = self.dice.next("the recovery site dies") % LAST_CALLS;
        self.recovery.kill_after(calls);
        self.break_off_all(None);
    }

    /// Kill -9 of the service, and of the agents in it.
    pub(super) fn end_life(&self) {
        for (host, _) in self.host_ids() {
            self.kill_agent(host);
        }
        self.recovery.kill_after(0);
        if let Some(life) = self.state().life.take() {
            life.recovery_files.kill();
        }
    }

    /// Lets a host's agent get a few calls further and no more.
    fn doom(&self, host: HostId, name: &str) {
        let calls = self.dice.next(&format!("{name} dies")) % LAST_CALLS;
        if let Some(host) = self.state().hosts.get(&host).filter(|host| host.up) {
            host.disk.kill_after(calls);
        }
    }

    /// Attaches the VMs of a host that is up, and boots their guests.
    pub(super) fn attach_host(&self, host: HostId, standing: &dyn Fn(VmId) -> Standing) {
        {
            let mut state = self.state();
            if state.life.is_none() {
                return;
            }
            let Some(host) = state.hosts.get_mut(&host).filter(|host| host.up) else { return };
            host.disk.restart();
            host.files = LabFiles::new(Arc::clone(&host.disk) as Arc<dyn Files>, &host.name);
            if host.full {
                host.files.fill_disk();
            }
        }
        for vm in self.vm_ids() {
            if self.machine(vm).host == host {
                self.attach(vm, standing(vm));
            }
        }
    }

    /// An administrator has a VM attached that could not be.
    pub(super) fn attach_again(&self, id: VmId, standing: Standing) {
        let machine = self.machine(id);
        let up = self.state().hosts.get(&machine.host).is_some_and(|host| host.up);
        if up && machine.tracker.is_none() {
            self.attach(id, standing);
        }
    }

    /// Notes how large the disks of a VM are by the log.
    pub(super) fn know(&self, vm: &Vm) {
        if let Some(machine) = self.state().vms.get_mut(&vm.id)
            && machine.disks != vm.disks
        {
            machine.disks.clone_from(&vm.disks);
        }
    }

    /// Whether the attached disks of a VM are as large as the VM says.
    pub(super) fn fits(&self, vm: &Vm) -> bool {
        let size = |disk: &Disk, tracker: &Tracker| Some(tracker.disk(disk.id)?.size_bytes());
        self.machine(vm.id).tracker.is_some_and(|tracker| {
            vm.disks.iter().all(|disk| size(disk, &tracker) == Some(disk.size_bytes))
        })
    }

    /// Attaches the disks of a VM anew, as large as the VM says; a guest that runs goes on.
    pub(super) fn fit(&self, vm: &Vm) {
        self.know(vm);
        let tracker = self.state().vms.get_mut(&vm.id).and_then(|it| it.tracker.take());
        if let Some(tracker) = tracker {
            if let Some(life) = self.state().life.as_ref() {
                life.sources.detach(vm.id);
            }
            // What could not be closed is found as after a kill.
            _ = tracker.close();
        }
        self.attach_again(vm.id, Standing::Tracked);
    }

    /// Makes the image of a disk at least so long.
    pub(super) fn lengthen(&self, id: VmId, disk: DiskId, bytes: u64) -> io::Result<()> {
        let machine = self.machine(id);
        let disk =
            machine.disks.iter().find(|own| own.id == disk).ok_or(io::ErrorKind::NotFound)?;
        let files = self.state().hosts[&machine.host].files.clone();
        let image = machine.folder().join(format!("{}.img", disk.name));
        let file = files.open(&image, Open::Write)?;
        if file.len()? < bytes {
            file.set_len(bytes)?;
        }
        file.sync_data()
    }

    /// The run is over: what is under way breaks off without a trace.
    pub(super) fn close(&self) {
        self.state().life = None;
    }

    fn attach(&self, id: VmId, standing: Standing) {
        if standing == Standing::Away {
            return;
        }
        let (machine, files, boot, life) = {
            let state = self.state();
            let machine = state.vms[&id].clone();
            let host = &state.hosts[&machine.host];
            let boot = BootId(Uuid::from_u128(0x100 + u128::from(host.boots)));
            let Some(life) = state.life.clone() else { return };
            (machine, host.files.clone(), boot, life)
        };
        let files: Arc<dyn Files> = Arc::new(files);
        match self.open_tracker(&machine, &files, boot) {
            Ok(tracker) => {
                life.sources.attach(id, Arc::clone(&tracker), files);
                if let Some(machine) = self.state().vms.get_mut(&id) {
                    machine.tracker = Some(tracker);
                }
                if standing == Standing::Runs && !machine.switched_off {
                    self.boot(id);
                }
            }
            Err(failure) => life.sources.refuse(id, failure),
        }
    }

    fn open_tracker(
        &self,
        machine: &Machine,
        files: &Arc<dyn Files>,
        boot: BootId,
    ) -> Result<Arc<Tracker>, Failure> {
        let cause = Cause::Host(machine.host);
        let folder = machine.folder();
        let mut specs = Vec::new();
        for disk in &machine.disks {
            let image = folder.join(format!("{}.img", disk.name));
            let opened = RawDisk::open(&**files, &image, Open::Write);
            let whole = opened.map_err(|error| {
                Failure::new(Code::DiskUnusable, cause, in_full(&error)).with("disk", &disk.name)
            })?;
            let device: Arc<dyn BlockDevice> = Arc::new(whole.limited_to(disk.size_bytes));
            specs.push(DiskSpec { id: disk.id, name: disk.name.clone(), device });
        }
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Tracker::open(Arc::clone(files), &folder, specs, boot, clock).map_err(
            |error: TrackError| {
                Failure::new(error.code(), cause, in_full(&error))
                    .with("host", self.host_name(machine.host))
                    .with("vm", &machine.name)
                    .with("path", folder.display())
                    .with("operation", "attaching disks")
                    .with("damage", &error)
            },
        )
    }

    /// Kill -9 of a host's agent, which is doomed.
    fn kill_agent(&self, host: HostId) {
        if !self.state().hosts.get(&host).is_some_and(|host| host.up) {
            return;
        }
        self.break_off_all(Some(host));
        let own = |vm: &VmId| self.machine(*vm).host == host;
        let vms: Vec<VmId> = self.vm_ids().into_iter().filter(own).collect();
        if let Some(life) = self.state().life.as_ref() {
            for vm in &vms {
                life.sources.detach(*vm);
            }
        }
        if let Some(host) = self.state().hosts.get(&host) {
            host.upset.send_modify(|upsets| *upsets += 1);
        }
        for vm in vms {
            let was_acked = self.machine(vm).acked;
            self.guest_writes(vm);
            let mut state = self.state();
            let Some(machine) = state.vms.get_mut(&vm) else { continue };
            machine.torn |= machine.runs && machine.acked == was_acked;
            machine.runs = false;
            machine.tracker = None;
        }
        let mut state = self.state();
        if let Some(host) = state.hosts.get_mut(&host) {
            host.disk.kill_after(0);
            host.files.kill();
        }
    }

    /// A host goes down: its agent and its guests are killed, and with `power` gone its memory too.
    pub(super) fn host_down(&self, host: HostId, power: bool) {
        self.doom(host, &self.host_name(host));
        self.kill_agent(host);
        let mut state = self.state();
        let State { hosts, vms, .. } = &mut *state;
        let Some(down) = hosts.get_mut(&host) else { return };
        down.up = false;
        if power {
            down.boots += 1;
            down.disk.lose_power();
            for machine in vms.values_mut().filter(|vm| vm.host == host) {
                // Its guest finds out, at boot, what of this is there.
                machine.torn = true;
            }
        }
    }

    /// A host comes up again.
    pub(super) fn host_up(&self, host: HostId, standing: &dyn Fn(VmId) -> Standing) {
        if let Some(host) = self.state().hosts.get_mut(&host) {
            host.up = true;
        }
        self.attach_host(host, standing);
    }

    /// The service reaches a host, or does not.
    pub(super) fn set_managed(&self, host: HostId, managed: bool) {
        if let Some(host) = self.state().hosts.get_mut(&host) {
            host.managed = managed;
        }
    }

    /// The volume of a host's logs is full, or is not.
    pub(super) fn set_full(&self, host: HostId, full: bool) {
        let mut state = self.state();
        let Some(host) = state.hosts.get_mut(&host) else { return };
        host.full = full;
        if full { host.files.fill_disk() } else { host.files.free_disk() }
    }

    /// Writing the disks of a VM fails, or does not.
    pub(super) fn set_failing(&self, vm: VmId, failing: bool) {
        let mut state = self.state();
        let State { hosts, vms, .. } = &mut *state;
        let Some(machine) = vms.get(&vm) else { return };
        for disk in &machine.disks {
            let image = machine.folder().join(format!("{}.img", disk.name));
            let kind = failing.then_some(io::ErrorKind::Other);
            hosts[&machine.host].disk.refuse(&image, kind);
        }
    }

    /// The disk that the recovery site serves under an export's name.
    pub(super) fn served(&self, export: &str) -> Option<Arc<dyn BlockDevice>> {
        self.state().life.as_ref()?.exports.get(export)
    }

    /// Work begins; `dying` is what becomes of it if its process dies before its effects.
    pub(super) fn begin_work(&self, name: String, host: Option<HostId>, dying: DyingWork) -> u64 {
        let mut under_way = self.under_way();
        under_way.tickets += 1;
        let ticket = under_way.tickets;
        under_way.works.insert(ticket, Begun { name, host, dying });
        ticket
    }

    /// The effects of work come; answers whether it had not died before.
    pub(super) fn end_work(&self, ticket: u64) -> bool {
        self.under_way().works.remove(&ticket).is_some()
    }

    /// Work breaks off: a part of it is done.
    pub(super) fn break_off(&self, ticket: u64) {
        let Some(Begun { name, dying, .. }) = self.under_way().works.remove(&ticket) else {
            return;
        };
        let Some(engine) = self.state().life.as_ref().map(|life| life.engine.clone()) else {
            return;
        };
        let requests = self.dice.next(&format!("{name} dies")) % LAST_REQUESTS;
        self.storage.die_after(Some(requests));
        dying(self, engine);
        self.storage.die_after(None);
    }

    /// All work that is under way breaks off, at one host or everywhere.
    pub(super) fn break_off_all(&self, at: Option<HostId>) {
        let mut works: Vec<(String, u64)> = {
            let under_way = self.under_way();
            let works = under_way.works.iter();
            let there = works.filter(|(_, begun)| at.is_none() || begun.host == at);
            there.map(|(ticket, begun)| (begun.name.clone(), *ticket)).collect()
        };
        works.sort();
        for (_, ticket) in works {
            self.break_off(ticket);
        }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guests.
impl Outside {
    /// Milliseconds until a guest writes again.
    pub(super) fn pause_ms(&self, id: VmId) -> u64 {
        let machine = self.machine(id);
        let now = self.clock.passed_ms();
        let in_burst =
            |burst: &&Burst| burst.at.0 <= now && now < burst.at.0.saturating_add(burst.r#for.0);
        let burst = machine.bursts.iter().find(in_burst);
        let rate = burst.map_or(machine.writes_per_minute, |burst| burst.writes_per_minute);
        let mean = 60_000 / u64::from(rate.max(1));
        let pace = format!("{} pace", machine.name);
        // A burst is looked for often enough not to be slept through.
        self.dice.between(&pace, mean / 2, mean + mean / 2).clamp(1, 60_000)
    }

    /// The guest's turn: it writes, or tries to boot.
    pub(super) fn guest_turn(&self, id: VmId, standing: Standing) {
        let machine = self.machine(id);
        if machine.runs {
            self.guest_writes(id);
        } else if machine.tracker.is_some() && !machine.switched_off && standing == Standing::Runs {
            self.boot(id);
        }
    }

    /// The guest's next write.
    fn guest_writes(&self, id: VmId) {
        let machine = self.machine(id);
        let Some(tracker) = machine.tracker.as_ref().filter(|_| machine.runs) else { return };
        let n = machine.acked + 1;
        if self.write(&machine, tracker, n).is_err() {
            if let Some(machine) = self.state().vms.get_mut(&id) {
                machine.torn = true;
            }
            return;
        }
        let flushed = n.is_multiple_of(FLUSH_EVERY) && flush(&machine, tracker).is_ok();
        let mut state = self.state();
        if let Some(machine) = state.vms.get_mut(&id) {
            machine.acked = n;
            machine.torn = false;
            if flushed {
                machine.flushed = n;
            }
        }
    }

    fn write(&self, machine: &Machine, tracker: &Arc<Tracker>, n: u64) -> io::Result<()> {
        let write = machine.workload.write(n);
        let content = machine.workload.content(n);
        if self.plant == Some(Plant::UntrackedWrite) && n.is_multiple_of(9) {
            let disk = &machine.disks[write.disk];
            let files = self.state().hosts[&machine.host].files.clone();
            let image = machine.folder().join(format!("{}.img", disk.name));
            let device = RawDisk::open(&files, &image, Open::Write).map_err(io::Error::other)?;
            return device.write_at(&content, write.offset(), false);
        }
        let disk = tracker.disk(machine.disks[write.disk].id);
        disk.ok_or(io::ErrorKind::NotFound)?.write_at(&content, write.offset(), false)
    }

    /// A guest boots: it proves that what it had flushed is there, and writes the rest again, as a file
    /// system does from its journal.
    fn boot(&self, id: VmId) {
        let machine = self.machine(id);
        let Some(tracker) = machine.tracker.clone() else { return };
        let last = match (machine.acked, machine.torn) {
            // The very first boot installs the guest.
            (0, _) => machine.workload.install_writes(),
            (acked, true) => acked + 1,
            (acked, false) => acked,
        };
        let first = if machine.torn || machine.acked == 0 { machine.flushed } else { last };
        for n in first + 1..=last {
            if self.write(&machine, &tracker, n).is_err() {
                return;
            }
        }
        let mut state = self.state();
        let Some(booted) = state.vms.get_mut(&id) else { return };
        booted.acked = last;
        booted.torn = false;
        booted.runs = true;
    }

    /// Shuts a guest down in an orderly way.
    pub(super) fn shut_down(&self, id: VmId) -> io::Result<()> {
        if self.plant == Some(Plant::ShutDownLies) {
            return Ok(());
        }
        let machine = self.machine(id);
        if let Some(tracker) = machine.tracker.as_ref().filter(|_| machine.runs) {
            flush(&machine, tracker)?;
        }
        let mut state = self.state();
        if let Some(off) = state.vms.get_mut(&id) {
            off.runs = false;
            off.switched_off = true;
            off.flushed = off.acked;
        }
        Ok(())
    }

    /// The VM runs at the recovery site, on disks with the writes up to this one.
    pub(super) fn runs_away(&self, id: VmId, last_write: u64) {
        if let Some(machine) = self.state().vms.get_mut(&id) {
            machine.away = Some(last_write);
        }
    }

    /// Cuts a guest's power for good: only [`Outside::start_restored`] switches it on again.
    pub(super) fn switch_off(&self, id: VmId) {
        if let Some(machine) = self.state().vms.get_mut(&id) {
            machine.runs = false;
            machine.switched_off = true;
        }
    }

    /// Switches a guest on whose disks hold the writes up to `last_write`. One that runs goes on.
    pub(super) fn start_restored(&self, id: VmId, last_write: u64) {
        let mut state = self.state();
        let Some(machine) = state.vms.get_mut(&id).filter(|machine| !machine.runs) else { return };
        (machine.acked, machine.flushed) = (last_write, last_write);
        machine.torn = false;
        machine.switched_off = false;
        machine.away = None;
        machine.runs = true;
    }

    /// The disks of a VM that its host has attached.
    pub(super) fn attached(&self, id: VmId) -> Option<Vec<Arc<dyn BlockDevice>>> {
        let machine = self.machine(id);
        let tracker = machine.tracker.as_ref()?;
        let device = |disk: &Disk| Some(tracker.disk(disk.id)? as Arc<dyn BlockDevice>);
        machine.disks.iter().map(device).collect()
    }

    /// Switches a guest on whose failover was called off.
    pub(super) fn switch_on(&self, id: VmId) {
        let off = {
            let mut state = self.state();
            state.vms.get_mut(&id).is_some_and(|vm| std::mem::take(&mut vm.switched_off))
        };
        if off {
            self.boot(id);
        }
    }

    /// Boots a guest that is off, from its disks as they are; answers whether it runs.
    pub(super) fn boot_again(&self, id: VmId) -> bool {
        if let Some(machine) = self.state().vms.get_mut(&id) {
            machine.switched_off = false;
            machine.away = None;
        }
        if !self.machine(id).runs {
            self.boot(id);
        }
        self.machine(id).runs
    }

    /// Notes that the guest's disks may be cut at this moment, on the side that is replicated.
    pub(super) fn may_be_cut(&self, vm: &Vm) {
        let Machine { acked, torn, away, .. } = self.machine(vm.id);
        let second = self.clock.now().as_millis().div_euclid(1_000);
        let state = match vm.source {
            Side::Primary => CutState { acked, torn },
            // There it only reads.
            Side::Recovery => CutState { acked: away.unwrap_or(0), torn: false },
        };
        self.ghost.may_be_cut(vm.id, second, state);
    }

    /// Notes something that must never be.
    pub(super) fn violation(&self, invariant: Invariant, what: String) {
        self.ghost.violated(Violation { invariant, at_ms: self.clock.passed_ms(), what });
    }
}

impl Machine {
    fn folder(&self) -> PathBuf {
        PathBuf::from("/vms").join(&self.name)
    }
}

fn flush(machine: &Machine, tracker: &Arc<Tracker>) -> io::Result<()> {
    machine.disks.iter().filter_map(|disk| tracker.disk(disk.id)).try_for_each(|disk| disk.flush())
}
