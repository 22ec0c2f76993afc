//! A running service: adapters wired to actors, brought up and down in order.
//!
//! Up: event log, vault, export servers, disks, actors, guests. Down: the other way round. Every step
//! can be cut short by a kill; the next start finds its place in the log.

use super::alerts;
use super::clock::SystemClock;
use super::cluster::Cluster;
use super::config::{Config, HostConfig, VmConfig};
use super::control;
use super::enrolment::Enrolment;
use super::health;
use super::host_agent::{
    AgentParts, AgentVm, AttachedDisk, FAILBACK_FOLDERS, HostAgent, Knowledge, Standing,
    export_name,
};
use super::sites::{PrimarySite, RecoveryGuests};
use super::storage::{self, StorageError};
use crate::actors::{Site, TellError, World, load_entity};
use crate::api::{History, Live, follow};
use crate::disk::files::RealFiles;
use crate::disk::nbd::{Endpoint, Exports, NbdDisk, NbdUri, Server};
use crate::disk::tracker::BootId;
use crate::domain::entity::{Kind, StreamId};
use crate::domain::failure::Failure;
use crate::domain::id::{HostId, VaultId, VmId};
use crate::domain::vm::{FailoverKind, Phase, Vm};
use crate::drivers::actions::LocalActions;
use crate::drivers::lab::{
    AfterBoot, Faults, FaultyStore, LabSite, LabVm, Workload, WorkloadError,
};
use crate::ports::block::Connect;
use crate::ports::clock::Clock;
use crate::ports::event_store::{EventStore, StoreError};
use crate::replay::{self, Checkpoints};
use crate::replica::{self, VaultError};
use crate::replication::pace::Pace;
use crate::replication::{Engine, EngineParts, RecoverySite, Sources};
use crate::store::SledStore;
use crate::views::LogsView;
use actix_web::dev::ServerHandle;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Threads of the data plane's runtime; the blocking work has threads of its own.
const DATA_PLANE_THREADS: usize = 2;

/// Time between two looks at hosts and vaults.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Time between two passes over the space of a VM's replica: the window of the finest level of retention
/// that thins points out.
const RECLAIM_INTERVAL: Duration = Duration::from_mins(5);

/// How long guests get to flush and shut down when the service stops.
const GUEST_SHUTDOWN: Duration = Duration::from_secs(5);

/// How long work that was given up may take to end when the service stops.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

/// How long a guest tries to get a disk back.
const GUEST_PATIENCE: Duration = Duration::from_mins(1);

/// The root of the ids that are derived from names: the same configuration names the same things.
pub(super) const NAMES: Uuid = Uuid::from_u128(0x6c69_6665_626f_6174_8000_6e61_6d65_7321);

/// Why the service cannot start, or cannot go on.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// A folder or file cannot be used.
    #[error("{doing} {path}")]
    Folder {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// The event log cannot be used.
    #[error("open the event log")]
    Store(#[from] StoreError),
    /// The vault cannot be used.
    #[error("open the vault")]
    Vault(#[from] VaultError),
    /// The vault's storage or keys cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The disks cannot be exported.
    #[error("export disks at {endpoint}: the path of a socket has at most 107 bytes")]
    Exports {
        /// Where.
        endpoint: Endpoint,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The health checks cannot be served.
    #[error("listen on {address}: choose another address with `listen`")]
    Listen {
        /// Where.
        address: String,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A VM, host, cloud or vault does not take its configuration.
    #[error("apply the configuration of {name}")]
    Enrol {
        /// Of what.
        name: String,
        /// Why not.
        #[source]
        source: TellError,
    },
    /// A guest of the lab cannot be made.
    #[error("make the guest of {name}")]
    Guest {
        /// The VM.
        name: String,
        /// Why not.
        #[source]
        source: WorkloadError,
    },
    /// The threads of the data plane cannot be made.
    #[error("start the data plane")]
    Threads(#[source] io::Error),
}

/// A VM of the configuration.
#[derive(Clone, Debug)]
pub struct ProtectedVm {
    /// Its identity.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: HostId,
    /// The disks that it was made with.
    pub disks: Vec<AttachedDisk>,
    /// The writes of its guest, if it has one.
    pub workload: Option<Workload>,
}

/// A running service.
pub struct Service {
    /// The way into the actors.
    pub site: Site,
    /// The event log.
    pub store: Arc<SledStore>,
    /// The VMs, in the order of the configuration.
    pub vms: Vec<ProtectedVm>,
    /// Failures of the lab that can be switched on.
    pub faults: Faults,
    /// The replicas.
    pub vault: replica::Vault,
    /// Where `/healthz`, `/readyz` and the control API answer.
    pub address: SocketAddr,
    /// How disks are opened, as a hypervisor would.
    pub connect: Connect,
    enrolment: Enrolment,
    primary: LabSite,
    recovery: LabSite,
    agents: Vec<Arc<HostAgent>>,
    sources: Sources,
    engine: Engine,
    primary_server: Server,
    recovery_server: Server,
    health: ServerHandle,
    data: PathBuf,
    alerts: Vec<JoinHandle<()>>,
    data_plane: DataPlane,
}

/// The threads of the data plane. They may not be waited for where a future runs, as when a start
/// fails: dropped, they end by themselves.
struct DataPlane(Option<Runtime>);

impl DataPlane {
    fn start() -> Result<Self, ServiceError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(DATA_PLANE_THREADS)
            .thread_name("data-plane")
            .enable_all()
            .build();
        Ok(Self(Some(runtime.map_err(ServiceError::Threads)?)))
    }

    fn handle(&self) -> Handle {
        self.0.as_ref().expect("only `stop` and `drop` take it").handle().clone()
    }

    /// Waits for work that has begun, so long at most.
    fn stop(mut self, patience: Duration) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(patience);
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Service {
    /// Starts everything that `config` names. Must run on an actix system. `after_boot` is what the
    /// lab's guests do at the recovery site.
    ///
    /// # Errors
    /// [`ServiceError`]; nothing is left running then. A VM whose disks cannot be used is no error:
    /// the others start, and its failure says why.
    pub async fn start(config: &Config, after_boot: AfterBoot) -> Result<Self, ServiceError> {
        let recovery_host = HostId::named(NAMES, "recovery host");
        make_folder(&config.data)?;
        let store = Arc::new(SledStore::open(&config.data.join("events"))?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let faults = Faults::default();
        let vault = open_vault(config, &faults)?;
        let data_plane = DataPlane::start()?;

        let recovery_folder = config.data.join("recovery");
        make_folder(&recovery_folder)?;
        let primary_exports = Arc::new(Exports::default());
        let primary_server = serve_exports(&config.data, &primary_exports)?;
        let recovery_exports = Arc::new(Exports::default());
        let recovery_server = serve_exports(&recovery_folder, &recovery_exports)?;

        let boot = BootId::of_this_machine().map_err(|source| ServiceError::Folder {
            doing: "read",
            path: PathBuf::from("/proc/sys/kernel/random/boot_id"),
            source,
        })?;
        let sources = Sources::default();
        let (known, mut agents) = (Knowledge::default(), Vec::new());
        for host in &config.host {
            let limits = config.bandwidth_of(host).limits(SystemClock::utc_offset_minutes());
            let limits = limits.expect("the configuration was checked");
            let parts = AgentParts {
                pace: Pace::new(limits, Arc::clone(&clock)),
                exports: Arc::clone(&primary_exports),
                server: primary_server.endpoint().clone(),
                sources: sources.clone(),
                boot,
                clock: Arc::clone(&clock),
                known: Knowledge::clone(&known),
            };
            agents.push(Arc::new(agent(config, host, parts)));
        }
        let states = states(&*store, &agents)?;
        let standings: Vec<_> =
            agents.iter().map(|agent| standings(&states, agent, &agents)).collect();
        let vms = protected_vms(config, &agents)?;
        for (agent, standing) in agents.iter().zip(standings) {
            agent.attach_all(standing);
        }

        let connect: Connect = Arc::new(|uri| Ok(Arc::new(NbdDisk::connect(uri)?)));
        let primary = LabSite::new(Arc::clone(&connect), GUEST_PATIENCE);
        let recovery = LabSite::new(Arc::clone(&connect), GUEST_PATIENCE);
        recovery.add_host(recovery_host, "recovery-host");
        for agent in &agents {
            primary.add_host(agent.host, &agent.name);
        }
        for vm in &vms {
            if let Some(guest) = lab_vm(config, vm) {
                let known = states.get(&vm.id).filter(|known| known.phase != Phase::Undiscovered);
                let at = known.map_or(vm.host, |known| known.host);
                primary.define(vm.id, LabVm { host: at, ..guest.clone() });
                let host = recovery_host;
                recovery.define(vm.id, LabVm { host, after_boot, ..guest });
            }
        }
        let guests: BTreeSet<_> =
            vms.iter().filter(|vm| vm.workload.is_some()).map(|vm| vm.id).collect();

        let recovery_site = RecoverySite::new(
            recovery_folder,
            Arc::new(RealFiles),
            Arc::clone(&recovery_exports),
            recovery_server.endpoint().clone(),
            boot,
        );
        let engine = Engine::new(EngineParts {
            vaults: BTreeMap::from([(vault_id(config), vault.clone())]),
            sources: sources.clone(),
            recovery: recovery_site,
            clock: Arc::clone(&clock),
            runtime: data_plane.handle(),
        });
        let site = Site::start(Arc::new(World {
            store: Arc::clone(&store) as Arc<dyn EventStore>,
            clock,
            replication: Arc::new(engine.clone()),
            primary: Arc::new(PrimarySite {
                lab: primary.clone(),
                recovery: recovery.clone(),
                guests: guests.clone(),
                agents: agents.clone(),
            }),
            recovery: Arc::new(RecoveryGuests {
                lab: recovery.clone(),
                guests,
                exports: recovery_exports,
            }),
            actions: Arc::new(LocalActions),
            watch_interval: WATCH_INTERVAL,
            reclaim_interval: RECLAIM_INTERVAL,
        }));
        let log = Arc::clone(&store) as Arc<dyn EventStore>;
        let history = Arc::new(History::default());
        let follower = follow(Arc::clone(&log), Arc::clone(&history));
        let clock = Arc::new(SystemClock);
        let live = Live { site: site.clone(), store: log, clock };
        let (admit, admitted) = mpsc::unbounded_channel();
        let cluster = Cluster { agents: agents.clone(), lab: primary.clone() };
        let here = control::Here::new(config, sources.clone(), admit, cluster);
        let control = control::control(config, live.clone(), here, history)?;
        let controlled = control.is_some();
        let (health, address) =
            health::serve(config.listen, site.clone(), vault_id(config).0, control)?;
        let enrolment = Enrolment::new(site.clone(), config.clone(), agents.clone());
        let mut service = Self {
            site,
            enrolment,
            store,
            vms,
            faults,
            vault,
            address,
            connect,
            primary,
            recovery,
            agents,
            sources,
            engine,
            primary_server,
            recovery_server,
            health,
            data: config.data.clone(),
            alerts: Vec::new(),
            data_plane,
        };
        service.keep_for_replay(&config.data);
        service.enrolment.everything(&service.vault).await?;
        service.boot_guests().await?;
        actix::spawn(service.enrolment.clone().admit_all(admitted));
        if controlled {
            control::announce(&service.data, address)?;
            actix::spawn(follower);
        }
        for channel in config.alerts.channels() {
            let watch = alerts::watch(live.clone(), channel, config.data.clone());
            service.alerts.push(actix::spawn(watch));
        }
        Ok(service)
    }

    /// Lets `replay` find any moment of the log at once, also when it is first looked at.
    fn keep_for_replay(&self, data: &Path) {
        let log = Arc::clone(&self.store) as Arc<dyn EventStore>;
        let keep = replay::keep(log, data.join("events"), Checkpoints::of_data(data));
        self.data_plane.handle().spawn(keep);
    }

    /// Switches the guests on whose VMs may run at the primary site.
    async fn boot_guests(&self) -> Result<(), ServiceError> {
        for vm in &self.vms {
            let known = self.enrolment.state::<Vm>(&vm.name, vm.id.0).await?;
            let may_run = known.may_run_at_primary();
            if known.phase != Phase::Undiscovered {
                self.primary.move_vm(vm.id, known.host);
            }
            if vm.workload.is_some() && may_run && self.sources.find(vm.id).is_ok() {
                let (site, id) = (self.primary.clone(), vm.id);
                let uris: Vec<_> = vm.disks.iter().map(|disk| disk.uri.clone()).collect();
                let name = vm.name.clone();
                self.data_plane.handle().spawn_blocking(move || {
                    if let Err(error) = site.boot(id, &uris) {
                        tracing::error!(vm = %name, %error, "boot a guest");
                    }
                });
            }
        }
        Ok(())
    }

    /// Why the service cannot go on, once that is so.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.site.failed()
    }

    /// What the logs of a VM's disks take; `None` while its host is away.
    pub fn logs(&self, vm: VmId) -> Option<LogsView> {
        control::logs(&self.sources, vm)
    }

    /// Why the disks of a VM cannot be used, if that is so.
    pub fn refused(&self, vm: VmId) -> Option<Failure> {
        self.sources.find(vm).err().flatten()
    }

    /// Where the disks of a VM's replica are served once it has failed over, in the order of its disks.
    pub fn replica_uris(&self, vm: &ProtectedVm) -> Vec<String> {
        let uri = |disk: &AttachedDisk| NbdUri {
            endpoint: self.recovery_server.endpoint().clone(),
            export: export_name(&vm.name, &disk.name),
        };
        vm.disks.iter().map(|disk| uri(disk).to_string()).collect()
    }

    /// The guests of the primary site.
    pub fn primary(&self) -> &LabSite {
        &self.primary
    }

    /// The guests of the recovery site.
    pub fn recovery(&self) -> &LabSite {
        &self.recovery
    }

    /// Kills a host of the lab in the middle of whatever it does, as a power switch would: its guests
    /// and its agent are gone, nothing is closed.
    pub fn kill_host(&self, host: HostId) {
        for agent in self.agents.iter().filter(|agent| agent.host == host) {
            agent.die();
        }
        self.primary.kill_host(host);
    }

    /// Brings a host of the lab back, and the VMs that may run there.
    ///
    /// # Errors
    /// [`ServiceError`] if the states of its VMs cannot be had.
    pub async fn revive_host(&self, host: HostId) -> Result<(), ServiceError> {
        let states = states(&*self.store, &self.agents)?;
        for agent in self.agents.iter().filter(|agent| agent.host == host) {
            agent.come_up(standings(&states, agent, &self.agents));
        }
        self.primary.revive_host(host);
        self.boot_guests().await
    }

    /// Stops everything in order: guests flush and shut down, work stops where it is, disks and logs
    /// are closed.
    pub async fn stop(self) {
        let sites = [self.primary.clone(), self.recovery.clone()];
        let guests: Vec<_> = self.vms.iter().map(|vm| (vm.id, vm.name.clone())).collect();
        let stopped = self.data_plane.handle().spawn_blocking(move || {
            for site in &sites {
                for (vm, name) in &guests {
                    if site.guest(*vm).is_some_and(|guest| !guest.state.ended())
                        && let Err(error) = site.stop(*vm)
                    {
                        tracing::warn!(vm = %name, %error, "shut a guest down");
                    }
                }
            }
        });
        // A guest whose disk refuses to flush, as on a full volume, would wait as long as its patience.
        match actix::clock::timeout(GUEST_SHUTDOWN, stopped).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "shut the guests down"),
            Err(_) => tracing::warn!("not every guest shut down in time: they are switched off"),
        }
        control::withdraw(&self.data);
        self.alerts.iter().for_each(JoinHandle::abort);
        self.health.stop(true).await;
        self.site.stop().await;
        let Self { agents, engine, primary_server, recovery_server, store, data_plane, .. } = self;
        let closed = tokio::task::spawn_blocking(move || {
            for agent in &agents {
                agent.detach_all();
            }
            engine.close();
            drop(primary_server);
            drop(recovery_server);
            // Work that was given up may be waiting for the vault; it is not waited for.
            data_plane.stop(SHUTDOWN_PATIENCE);
            store.close()
        });
        match closed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "close the event log"),
            Err(error) => tracing::error!(%error, "close the service"),
        }
    }
}

fn make_folder(path: &Path) -> Result<(), ServiceError> {
    std::fs::create_dir_all(path).map_err(|source| ServiceError::Folder {
        doing: "make folder",
        path: path.to_owned(),
        source,
    })
}

/// The id of the vault that a configuration names.
pub fn vault_id(config: &Config) -> VaultId {
    VaultId::named(NAMES, &config.vault.name)
}

fn open_vault(config: &Config, faults: &Faults) -> Result<replica::Vault, StorageError> {
    let store = Arc::new(FaultyStore::new(storage::open_storage(config)?, faults.clone()));
    let vault =
        storage::open_vault(store, vault_id(config), &config.vault, |path| config.place(path))?;
    Ok(vault.with_uploads(config.bandwidth.uploads_per_vm))
}

fn serve_exports(folder: &Path, exports: &Arc<Exports>) -> Result<Server, ServiceError> {
    let folder = std::path::absolute(folder).map_err(|source| ServiceError::Folder {
        doing: "find folder",
        path: folder.to_owned(),
        source,
    })?;
    let endpoint = Endpoint::Unix(folder.join("nbd.sock"));
    Server::bind(&endpoint, Arc::clone(exports))
        .map_err(|source| ServiceError::Exports { endpoint, source })
}

fn agent(config: &Config, host: &HostConfig, parts: AgentParts) -> HostAgent {
    let id = HostId::named(NAMES, &host.name);
    let is_member = |other: &&HostConfig| {
        other.name == host.name || (other.cluster.is_some() && other.cluster == host.cluster)
    };
    let all = config.host.iter().flat_map(|at| at.vm.iter().map(move |vm| (at, vm)));
    let vms = all
        .map(|(at, vm)| {
            // What members of a cluster share is in one place.
            let [hosts, clusters] = FAILBACK_FOLDERS.map(|folder| config.data.join(folder));
            let folder = match &host.cluster {
                Some(cluster) => clusters.join(cluster),
                None => hosts.join(&host.name),
            };
            let (vm_id, folder) = (VmId::named(NAMES, &vm.name), folder.join(&vm.name));
            let mut vm = vm.clone();
            for disk in &mut vm.disk {
                if is_member(&at) {
                    disk.path = config.place(&disk.path);
                } else {
                    // A failback makes its disks here, and nothing else does.
                    disk.path = folder.join(format!("{}.img", disk.name));
                    disk.create_mib = None;
                }
            }
            let mut own = AgentVm::new(vm_id, vm, folder, &parts.server);
            own.home = at.name == host.name;
            own.brought = !is_member(&at);
            own
        })
        .collect();
    // Members of a cluster lose power one by one: what one had in its memory another has not.
    let boot = if host.cluster.is_some() { parts.boot.standing_for(id.0) } else { parts.boot };
    HostAgent::new(id, host, vms, AgentParts { boot, ..parts })
}

fn protected_vms(
    config: &Config,
    agents: &[Arc<HostAgent>],
) -> Result<Vec<ProtectedVm>, ServiceError> {
    let mut vms = Vec::new();
    for agent in agents {
        for vm in agent.vms.iter().filter(|vm| vm.home) {
            let mut disks = agent.disks_of(vm);
            disks.retain(|disk| !agent.was_added(vm.id, disk.id));
            vms.push(ProtectedVm {
                id: vm.id,
                name: vm.config.name.clone(),
                host: agent.host,
                workload: workload(config, &vm.config, &disks)?,
                disks,
            });
        }
    }
    Ok(vms)
}

/// The writes of a VM's guest, over disks of the sizes that they have, or were or will be made with.
fn workload(
    config: &Config,
    vm: &VmConfig,
    disks: &[AttachedDisk],
) -> Result<Option<Workload>, ServiceError> {
    let Some(guest) = vm.guest else { return Ok(None) };
    let mut sizes = Vec::new();
    for disk in vm.disk.iter().filter(|disk| disks.iter().any(|own| own.name == disk.name)) {
        let path = config.place(&disk.path);
        let size = match (std::fs::metadata(&path), disk.create_mib) {
            // A guest goes on with the disks that it was made for.
            (Ok(image), Some(mib)) => image.len().min(mib << 20),
            (Ok(image), None) => image.len(),
            (Err(_), Some(mib)) => mib << 20,
            // The agent refuses the VM's disks, and says why; the other VMs go on.
            (Err(_), None) => return Ok(None),
        };
        sizes.push(size);
    }
    let workload = Workload::new(guest.seed, sizes, guest.install_mib << 20);
    workload.map(Some).map_err(|source| ServiceError::Guest { name: vm.name.clone(), source })
}

fn lab_vm(config: &Config, vm: &ProtectedVm) -> Option<LabVm> {
    let guest =
        config.host.iter().flat_map(|host| &host.vm).find(|own| own.name == vm.name)?.guest?;
    Some(LabVm {
        name: vm.name.clone(),
        host: vm.host,
        workload: vm.workload.clone()?,
        writes_per_second: NonZeroU32::new(guest.writes_per_second).unwrap_or(NonZeroU32::MIN),
        after_boot: AfterBoot::KeepWriting,
    })
}

/// What the log says of each VM.
fn states(
    store: &dyn EventStore,
    agents: &[Arc<HostAgent>],
) -> Result<BTreeMap<VmId, Vm>, StoreError> {
    let load = |vm: &AgentVm| {
        let stream = StreamId { kind: Kind::Vm, id: vm.id.0 };
        load_entity::<Vm>(store, stream).map(|(state, _)| (vm.id, state))
    };
    let vms = agents.iter().flat_map(|agent| &agent.vms);
    vms.filter(|vm| vm.home).map(load).collect()
}

/// What the log allows at a host.
fn standings(
    states: &BTreeMap<VmId, Vm>,
    agent: &HostAgent,
    all: &[Arc<HostAgent>],
) -> impl Fn(VmId) -> Standing + use<> {
    let mut standings = BTreeMap::new();
    for vm in &agent.vms {
        let Some(state) = states.get(&vm.id) else { continue };
        agent.know(state);
        let is_here = if state.phase == Phase::Undiscovered {
            vm.home
        } else {
            host_with_disks(state, all) == Some(agent.host)
        };
        standings.insert(vm.id, if is_here { standing(state) } else { Standing::Away });
    }
    move |vm| standings.get(&vm).copied().unwrap_or(Standing::Away)
}

/// The host that is to attach the disks of a VM: its own, where that has them. A host that is none of the cluster
/// any more leaves its VMs where their disks were made.
fn host_with_disks(vm: &Vm, all: &[Arc<HostAgent>]) -> Option<HostId> {
    let has_at_home =
        |agent: &&Arc<HostAgent>| agent.vms.iter().any(|own| own.home && own.id == vm.id);
    let keeper = match vm.brought_to {
        Some(host) => all.iter().find(|agent| agent.host == host),
        None => all.iter().find(has_at_home),
    }?;
    let own = all.iter().find(|agent| agent.host == vm.host);
    let own = own.filter(|agent| agent.reaches_disks_of(keeper));
    Some(own.map_or(keeper.host, |agent| agent.host))
}

fn standing(vm: &Vm) -> Standing {
    match vm.phase {
        _ if vm.may_run_at_primary() => Standing::Runs,
        // A planned failover still has to send what its source wrote last, and to shut it down.
        Phase::FailingOver(FailoverKind::Planned) => Standing::Runs,
        // A failback moves data to its disks; it offers them once the VM is to be started. A failover may still have to
        // send what was written to them last.
        _ if vm.needs_disks_of_source() => Standing::Attached,
        _ => Standing::Away,
    }
}
