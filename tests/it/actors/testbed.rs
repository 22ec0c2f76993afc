//! A site with a scripted world around it.

use super::outside::{Guests, Outside};
use super::scripted_store::ScriptedStore;
use super::steps::Steps;
use super::virtual_clock::{Fate, VirtualClock, run};
use lifeboat::actors::{Hosted, Origin, Site, TellError, Told, World, load_entity};
use lifeboat::domain::entity::{Commit, Entity, Entry, Kind, StreamId};
use lifeboat::domain::host::{self, Host};
use lifeboat::domain::id::{CloudId, DiskId, HostId, JobId, VaultId, VmId};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::vault::{self, Vault};
use lifeboat::domain::vm::{Command, Disk, Event, Phase, RetryReason, Side, Vm};
use lifeboat::ports::event_store::EventStore;
use lifeboat::store::MemoryStore;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_mins(1);
pub(crate) const HOUR: Duration = Duration::from_hours(1);
pub(crate) const DAY: Duration = Duration::from_hours(24);

/// Virtual time after which a test that waits for something fails.
const PATIENCE: Duration = Duration::from_hours(7 * 24);

pub(crate) fn vm_id(n: u128) -> VmId {
    VmId(Uuid::from_u128(0x1000 + n))
}

pub(crate) fn disk_id(vm: u128, n: u128) -> DiskId {
    DiskId(Uuid::from_u128(0x10_0000 + 0x100 * vm + n))
}

pub(crate) fn host_id() -> HostId {
    HostId(Uuid::from_u128(2))
}

/// A host that a VM can be brought to.
pub(crate) fn other_host_id() -> HostId {
    HostId(Uuid::from_u128(0x4058))
}

pub(crate) fn vault_id() -> VaultId {
    VaultId(Uuid::from_u128(4))
}

pub(crate) fn job_id(n: u128) -> JobId {
    JobId(Uuid::from_u128(0x2000 + n))
}

pub(crate) fn stream_of(vm: VmId) -> StreamId {
    StreamId { kind: Kind::Vm, id: vm.0 }
}

/// Deltas every 30 s.
pub(crate) fn every_30_s() -> Policy {
    Policy { copy_frequency_s: 30, app_consistent_frequency_h: 0, ..Policy::default() }
}

/// Everything that outlives a kill of the service.
pub(crate) struct Testbed {
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) fate: Arc<Fate>,
    pub(crate) store: Arc<ScriptedStore>,
    pub(crate) outside: Arc<Outside>,
    pub(crate) steps: Arc<Steps>,
    pub(crate) watch_interval: Duration,
}

impl Testbed {
    pub(crate) fn new() -> Self {
        Self::on(MemoryStore::default(), true)
    }

    /// A testbed that does not look at the log at each call; for long runs.
    pub(crate) fn unchecked() -> Self {
        Self::on(MemoryStore::default(), false)
    }

    /// A testbed with a log.
    pub(crate) fn on(log: MemoryStore, checked: bool) -> Self {
        let (clock, fate) = (Arc::new(VirtualClock::default()), Arc::new(Fate::default()));
        let store = Arc::new(ScriptedStore::new(log, Arc::clone(&clock), Arc::clone(&fate)));
        let log = checked.then(|| Arc::clone(&store) as Arc<dyn EventStore>);
        let outside = Arc::new(Outside::new(Arc::clone(&clock), Arc::clone(&fate), log));
        let steps = Arc::default();
        Self { clock, fate, store, outside, steps, watch_interval: 2 * SECOND }
    }

    /// One life of the service; killed when `life` returns.
    pub(crate) fn run<'a, T, F: Future<Output = T>>(
        &'a self,
        life: impl FnOnce(Running<'a>) -> F,
    ) -> T {
        run(&self.clock, async {
            let site = Site::start(self.world());
            life(Running { site, bed: self }).await
        })
    }

    fn world(&self) -> Arc<World> {
        Arc::new(World {
            store: Arc::clone(&self.store) as Arc<dyn EventStore>,
            clock: Arc::clone(&self.clock) as _,
            replication: Arc::clone(&self.outside) as _,
            primary: Arc::new(Guests { outside: Arc::clone(&self.outside), side: Side::Primary }),
            recovery: Arc::new(Guests { outside: Arc::clone(&self.outside), side: Side::Recovery }),
            actions: Arc::clone(&self.steps) as _,
            watch_interval: self.watch_interval,
            reclaim_interval: 5 * MINUTE,
        })
    }

    /// The state of a VM by the log.
    pub(crate) fn logged(&self, vm: VmId) -> Vm {
        load_entity::<Vm>(&*self.store, stream_of(vm)).unwrap().0
    }

    /// What became true of a VM, with the commits.
    pub(crate) fn events_of(&self, vm: VmId) -> Vec<(Commit, Event)> {
        let commits = self.store.commits().into_iter();
        let commits = commits.filter(|commit| commit.stream == stream_of(vm));
        let with_events = |commit: Commit| {
            let Entry::Vm { events, .. } = commit.entry.clone() else { unreachable!() };
            events.into_iter().map(move |event| (commit.clone(), event)).collect::<Vec<_>>()
        };
        commits.flat_map(with_events).collect()
    }
}

/// A service that runs.
#[derive(Clone)]
pub(crate) struct Running<'a> {
    pub(crate) site: Site,
    pub(crate) bed: &'a Testbed,
}

impl Running<'_> {
    pub(crate) async fn tell<E: Hosted>(
        &self,
        id: Uuid,
        command: E::Command,
    ) -> Result<Told, TellError> {
        self.site.tell::<E>(id, command, Origin::of("ada")).await
    }

    pub(crate) async fn tell_vm(&self, vm: VmId, command: Command) -> Result<Told, TellError> {
        self.tell::<Vm>(vm.0, command).await
    }

    pub(crate) async fn vm(&self, vm: VmId) -> Vm {
        self.site.state::<Vm>(vm.0).await.unwrap()
    }

    pub(crate) async fn retry(&self, vm: VmId) -> Told {
        let because = RetryReason::Administrator;
        self.tell_vm(vm, Command::Retry { because }).await.unwrap()
    }

    /// Creates vault and host, which are watched from here on.
    pub(crate) async fn create_surroundings(&self) {
        let create = vault::Command::Create { id: vault_id(), name: "west".to_owned() };
        self.tell::<Vault>(vault_id().0, create).await.unwrap();
        let (name, cloud) = ("host-1".to_owned(), CloudId(Uuid::from_u128(3)));
        let register = host::Command::Register { id: host_id(), name, cloud };
        self.tell::<Host>(host_id().0, register).await.unwrap();
    }

    pub(crate) async fn discover(&self, n: u128, disks: u128) -> VmId {
        self.tell_vm(vm_id(n), discover(n, disks)).await.unwrap();
        vm_id(n)
    }

    pub(crate) async fn enable(&self, n: u128, policy: Policy) {
        let enable = Command::EnableProtection { job: job_id(n), vault: vault_id(), policy };
        self.tell_vm(vm_id(n), enable).await.unwrap();
    }

    /// A VM with one disk, discovered and protected.
    pub(crate) async fn protected(&self, n: u128, policy: Policy) -> VmId {
        let vm = self.discover(n, 1).await;
        self.enable(n, policy).await;
        self.until(vm, |vm| vm.phase == Phase::Protected).await;
        vm
    }

    /// Waits until a VM is so.
    pub(crate) async fn until(&self, vm: VmId, is_so: impl Fn(&Vm) -> bool) -> Vm {
        let asked_at = self.bed.clock.elapsed();
        loop {
            let state = self.site.state::<Vm>(vm.0).await;
            match state {
                Ok(state) if is_so(&state) => return state,
                state => {
                    let waited = self.bed.clock.elapsed() - asked_at;
                    assert!(waited < PATIENCE, "it never comes to that: {state:#?}");
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

pub(crate) fn discover(n: u128, disks: u128) -> Command {
    Command::Discover {
        id: vm_id(n),
        name: format!("sql-{n:02}"),
        host: host_id(),
        cloud: CloudId(Uuid::from_u128(3)),
        disks: (0..disks)
            .map(|disk| Disk {
                id: disk_id(n, disk),
                name: format!("disk{disk}"),
                size_bytes: 1 << 30,
            })
            .collect(),
    }
}

/// What an entity is by its commits alone.
pub(crate) fn folded<E: Entity>(commits: &[Commit], stream: StreamId) -> E {
    let mut state = E::default();
    for commit in commits.iter().filter(|commit| commit.stream == stream) {
        for event in E::of(&commit.entry).unwrap().1 {
            state.apply(event, commit.at);
        }
    }
    state
}
