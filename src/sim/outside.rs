//! Everything outside the service: hosts with their files and guests, the vault, and what really was
//! written.
//!
//! The disks are raw images on [`MemoryFiles`], written through the real trackers; a guest issues the
//! numbered writes of the lab's workload, so that how far each disk came is known without looking.

mod added;
mod brought;
mod cluster;
mod copied;
mod edited;
mod guests;

pub(super) use added::{OpenDisk, added_disk, check_notes};

use super::clock::SimClock;
use super::dice::{Dice, keyed};
use super::ghost::Ghost;
use super::inline::Inline;
use super::plant::Plant;
use super::scenario::{Burst, Scenario};
use super::storage::{Cost, Storage};
use super::trace::Trace;
use crate::disk::files::MemoryFiles;
use crate::disk::nbd::{Endpoint, Exports};
use crate::disk::raw::RawDisk;
use crate::disk::tracker::{BootId, DiskSpec, TrackError, Tracker};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure, in_full};
use crate::domain::id::{CloudId, DiskId, HostId, VaultId, VmId};
use crate::domain::vm::Disk;
use crate::domain::vm::Vm;
use crate::drivers::lab::{LabFiles, Workload};
use crate::ports::block::BlockDevice;
use crate::ports::clock::Clock;
use crate::ports::files::{Files, Open};
use crate::replica::Vault;
use crate::replication::pace::Limits;
use crate::replication::{Engine, EngineParts, RecoverySite, Sources};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use uuid::Uuid;

/// The root of all ids of a run.
const NAMES: Uuid = Uuid::from_u128(0x7369_6d75_6c61_7469_8000_6f6e_7369_7465);

/// The beginning of each disk that its first writes fill.
const INSTALL_BYTES: u64 = 256 * 1024;

/// Free on a volume that has little room: half of what a tracker asks for at least, and enough for the logs of small disks.
const LITTLE_ROOM_BYTES: u64 = 32 << 20;

/// Calls on files that a process at most still makes while it dies.
const LAST_CALLS: u64 = 12;

/// Requests to the vault that work at most still makes while it dies.
const LAST_REQUESTS: u64 = 6;

/// The world outside the service.
pub(super) struct Outside {
    pub(super) clock: Arc<SimClock>,
    pub(super) dice: Arc<Dice>,
    pub(super) inline: Arc<Inline>,
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
    /// What a host may send.
    limits: Limits,
}

/// A run of the service.
#[derive(Clone)]
struct Life {
    sources: Sources,
    exports: Arc<Exports>,
    engine: Engine,
    recovery_files: LabFiles,
}

/// What is free on the volume of a host's replication logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    /// Some seconds of a guest that writes much.
    Little,
    None,
}

/// A host.
struct Host {
    name: String,
    cluster: Option<String>,
    disk: Arc<MemoryFiles>,
    files: LabFiles,
    up: bool,
    /// Whether the service reaches it.
    managed: bool,
    room: Room,
    boots: u64,
    /// Changes whenever work that is under way there breaks off.
    upset: watch::Sender<u64>,
}

impl Host {
    /// Has its volume be what its room says.
    fn make_room(&self) {
        if self.room == Room::None {
            self.files.fill_disk();
        } else {
            self.files.free_disk();
        }
        self.disk.set_free_bytes(if self.room == Room::Little {
            LITTLE_ROOM_BYTES
        } else {
            u64::MAX
        });
    }
}

/// A VM and its guest.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
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
    /// How it runs, or ran last, at the recovery site.
    pub(super) away: Option<Away>,
    /// Whether its disks were closed in good order and not attached since.
    closed: bool,
    /// Whether somebody switched it off: nobody but a failover that fails switches it on again.
    switched_off: bool,
    writes_per_minute: u32,
    bursts: Vec<Burst>,
    /// What it writes, where that was recorded.
    recorded: Option<Arc<Trace>>,
    /// What its hypervisor says of it.
    pub(super) described: Option<crate::domain::machine::Machine>,
    tracker: Option<Arc<Tracker>>,
    /// Hosts that it was brought away from while its guest ran there, out of reach.
    strays: BTreeSet<HostId>,
    /// Until when its guest is at rest, in milliseconds; then it goes on, whoever has forgotten it.
    rests_until_ms: u64,
}

/// A guest at the recovery site.
#[derive(Clone, Debug)]
pub(super) struct Away {
    /// The cycle of the recovery point that it was started from.
    pub(super) point: u64,
    /// The last write on its disks that was acknowledged.
    pub(super) acked: u64,
    /// Whether the one after it may be there in part.
    pub(super) torn: bool,
    pub(super) runs: bool,
    /// Its disks, with the names of their exports.
    pub(super) exports: Vec<(DiskId, String)>,
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
        let inline = Arc::new(Inline::new(Arc::clone(&clock))?);
        let storage = Storage::new(Arc::clone(&dice), plant == Some(Plant::NoFence));
        let vault = VaultId::named(NAMES, "vault");
        let proof = Vault::new(storage.objects(), vault);
        let mut hosts = BTreeMap::new();
        for (name, nth) in scenario.site.hosts.iter().zip(1..) {
            let name = name.get_ref().clone();
            let cluster = scenario.site.cluster_of(&name).map(|cluster| cluster.name.clone());
            let disk = MemoryFiles::new(keyed(seed, &name, 0));
            disk.number_from(nth << 32);
            let files = LabFiles::new(Arc::clone(&disk) as Arc<dyn Files>, &name);
            let (up, managed, boots, upset) = (true, true, 0, watch::Sender::new(0));
            let id = HostId::named(NAMES, &name);
            hosts.insert(
                id,
                Host { name, cluster, disk, files, up, managed, room: Room::Enough, boots, upset },
            );
        }
        let mut vms = BTreeMap::new();
        for one in scenario.vms() {
            let id = VmId::named(NAMES, &one.name);
            let sizes: Vec<u64> = one.spec.disks.get_ref().iter().map(|size| size.0).collect();
            let disks = sizes.iter().enumerate().map(|(nth, size_bytes)| {
                let name = format!("disk{nth}");
                Disk { id: DiskId::named(id.0, &name), name, size_bytes: *size_bytes }
            });
            let disks: Vec<Disk> = disks.collect();
            let workload = Workload::new(keyed(seed, &one.name, 0), sizes.clone(), INSTALL_BYTES);
            let machine = Machine {
                described: one.spec.machine(&disks),
                host: HostId::named(NAMES, one.spec.host.get_ref()),
                disks,
                workload: match &one.spec.recorded {
                    Some(trace) => {
                        workload.map_err(io::Error::other)?.with_recorded(trace.writes.clone())
                    }
                    None => workload.map_err(io::Error::other)?,
                },
                recorded: one.spec.recorded.clone(),
                acked: 0,
                flushed: 0,
                torn: false,
                runs: false,
                switched_off: false,
                away: None,
                closed: false,
                writes_per_minute: one.spec.writes_per_minute,
                bursts: one.spec.burst.clone(),
                tracker: None,
                strays: BTreeSet::new(),
                rests_until_ms: 0,
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
            limits: scenario.site.limits(),
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

    /// Milliseconds that requests take, one after the other; what a host sends keeps to its limit of this hour.
    pub(super) fn transfer_ms(&self, cost: Cost, of_host: bool) -> u64 {
        let state = self.state();
        let limit = state.limits.at(self.clock.now()).filter(|_| of_host);
        let sent_per_ms = limit
            .map_or(state.bytes_per_ms, |limit| state.bytes_per_ms.min((limit / 1_000).max(1)));
        cost.requests * state.rtt_ms + cost.sent / sent_per_ms + cost.received / state.bytes_per_ms
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

    /// The service ends in good order: guests are shut down, and what was attached is closed.
    pub(super) fn close_life(&self) {
        for vm in self.vm_ids() {
            self.let_go(vm);
        }
        let engine = self.state().life.as_ref().map(|life| life.engine.clone());
        if let Some(engine) = engine {
            // What cannot be closed is as after a kill.
            _ = self.inline.call(move || engine.close());
        }
        self.end_life();
    }

    /// A VM's guest is shut down and its disks are closed, so that whoever attaches them next has nothing to redo.
    fn let_go(&self, id: VmId) {
        let machine = self.machine(id);
        let Some(tracker) = &machine.tracker else { return };
        if let Some(life) = self.state().life.as_ref() {
            life.sources.detach(id);
        }
        let flushed = !machine.runs || guests::flush(&machine, tracker).is_ok();
        let closed = tracker.close().is_ok();
        if let Some(machine) = self.state().vms.get_mut(&id) {
            if machine.runs && flushed {
                machine.flushed = machine.acked;
            }
            machine.runs = false;
            machine.tracker = None;
            machine.closed = closed;
        }
    }

    /// Kill -9 of the service, and of the agents in it.
    pub(super) fn end_life(&self) {
        for vm in self.vm_ids() {
            self.replica_writes(vm);
        }
        for (host, _) in self.host_ids() {
            self.kill_agent(host);
        }
        self.recovery.kill_after(0);
        let life = self.state().life.take();
        if let Some(life) = life {
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
            host.make_room();
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

    /// Whether the attached disks of a VM are those that the VM says, and as large.
    pub(super) fn fits(&self, vm: &Vm) -> bool {
        let size = |disk: &Disk, tracker: &Tracker| Some(tracker.disk(disk.id)?.size_bytes());
        self.machine(vm.id).tracker.is_some_and(|tracker| {
            tracker.status().disks.len() == vm.disks.len()
                && vm.disks.iter().all(|disk| size(disk, &tracker) == Some(disk.size_bytes))
        })
    }

    /// Attaches the disks of a VM anew, as the VM says; a guest that runs goes on.
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
            let boot = BootId(Uuid::from_u128(machine.host.0.as_u128() ^ u128::from(host.boots)));
            let Some(life) = state.life.clone() else { return };
            (machine, host.files.clone(), boot, life)
        };
        let files: Arc<dyn Files> = Arc::new(files);
        match self.open_tracker(&machine, &files, boot) {
            Ok(tracker) => {
                life.sources.attach(id, Arc::clone(&tracker), files);
                if let Some(machine) = self.state().vms.get_mut(&id) {
                    machine.tracker = Some(tracker);
                    machine.closed = false;
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
        self.lose_strays(host);
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

    /// So much is free on the volume of a host's logs.
    pub(super) fn set_room(&self, host: HostId, room: Room) {
        let mut state = self.state();
        let Some(host) = state.hosts.get_mut(&host) else { return };
        host.room = room;
        host.make_room();
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

impl Machine {
    fn folder(&self) -> PathBuf {
        PathBuf::from("/vms").join(&self.name)
    }
}
