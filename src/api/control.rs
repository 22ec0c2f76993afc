//! What the routes do: look at the live states, or tell an entity something.

use super::history::History;
use super::live::Live;
use super::operation::{Asked, Operation};
use super::outlook::Outlook;
use super::problem::Problem;
use super::routes::{Accepted, EventsView};
use super::token::Token;
use crate::actors::{Hosted, Origin};
use crate::domain::failure::Failure;
use crate::domain::id::{DiskId, FabricId, HostId, JobId, VmId};
use crate::domain::vault::Component;
use crate::domain::vm::{self, ResyncWindow, Vm};
use crate::ports::random::Random;
use crate::views::{JobView, LogsView, PointView, Site, StatusView, VmView};
use futures_util::future::BoxFuture;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use uuid::Uuid;

mod cluster;
mod job;
mod network;
mod plan;
mod policy;
mod registration;

pub use plan::{PlanAccepted, PlanDetails};
pub use registration::RegistrationKeyView;

/// Commits in one answer, at most.
const EVENTS_MAX: usize = 1_000;

/// What only the service that runs can say.
pub trait Outside: Send + Sync {
    /// The logs of a VM, of what is in no recovery point yet; `None` while its host is away.
    fn logs(&self, vm: VmId) -> Option<LogsView>;

    /// How long the image of a disk at the primary site is; `None` while its host is away.
    fn image_bytes(&self, vm: &Vm, disk: DiskId) -> Option<u64>;

    /// Where those disks of a VM are that a host of the primary site has; none while it does not answer.
    fn images(&self, vm: &Vm, host: HostId) -> Vec<String>;

    /// Why the disks of a VM cannot be made at a host of the primary site, if they cannot.
    fn no_room(&self, vm: &Vm, host: HostId) -> Option<String>;

    /// The bytes of an image that is to be a disk of a VM, at the VM's host.
    ///
    /// # Errors
    /// Why it cannot be: `HostLost`, `DiskUnusable`, `DiskInUse`.
    fn image(&self, vm: &Vm, disk: &str, image: &Path) -> Result<u64, Failure>;

    /// Why a program cannot be run here, if it cannot.
    fn program_missing(&self, program: &str) -> Option<String>;

    /// The host of the configuration that is called so.
    fn host_called(&self, name: &str) -> Option<HostId>;

    /// The hosts of the configuration that are members of a host's cluster, and the host; none outside of clusters.
    fn cluster_of(&self, host: HostId) -> Vec<&str>;

    /// How fast a host may send, in words.
    fn bandwidth(&self, host: &str) -> Option<String>;

    /// The fabric whose provider can be registered.
    fn provider(&self) -> FabricId;

    /// Told once the vault admits somebody, durably.
    fn admitted(&self, who: Component);

    /// Moves a VM that runs to another member of its cluster.
    ///
    /// # Errors
    /// `HostLost`, and why its disks cannot be used there.
    fn move_vm(&self, vm: VmId, to: HostId) -> BoxFuture<'static, Result<(), Failure>>;

    /// A resync window as people write it, at this site.
    ///
    /// # Errors
    /// What would be right.
    fn resync_window(&self, text: &str) -> Result<ResyncWindow, String>;
}

/// What a control API is made of.
pub struct ControlParts {
    /// The running site.
    pub live: Live,
    /// Ids of commands that came without.
    pub random: Arc<dyn Random>,
    /// What only the service can say.
    pub outside: Arc<dyn Outside>,
    /// The history of jobs; somebody has to let it [`follow`](super::follow) the log.
    pub history: Arc<History>,
    /// What opens it.
    pub token: Token,
}

/// The control of a running service.
pub struct Control {
    parts: ControlParts,
    /// One command at a time: a request that is repeated meets what the first one did.
    commands: Mutex<()>,
}

/// Who asked, and under which id.
pub(super) struct Request {
    /// Who.
    pub(super) actor: String,
    /// The id by which the request is known if it is repeated.
    pub(super) id: Option<String>,
}

/// What a command did.
struct Changed {
    /// The global position of the commit that records it, if it changed anything.
    commit: Option<u64>,
    /// Whether the same request had done it before.
    repeated: bool,
}

impl Changed {
    /// The answer, where no job starts.
    fn accepted(self, operation: &str, target: &str) -> Accepted {
        let (operation, target) = (operation.to_owned(), target.to_owned());
        let Self { commit, repeated } = self;
        Accepted { operation, target, changed: commit.is_some(), commit, repeated, job: None }
    }
}

impl Control {
    /// Puts it together.
    pub fn new(parts: ControlParts) -> Self {
        Self { parts, commands: Mutex::new(()) }
    }

    pub(super) fn token(&self) -> &Token {
        &self.parts.token
    }

    pub(super) async fn status(&self) -> Result<StatusView, Problem> {
        let mut status = self.parts.live.site().await?.status(self.parts.live.now());
        status.vms.iter_mut().for_each(|vm| self.add_measures(vm));
        for host in &mut status.hosts {
            host.bandwidth = self.parts.outside.bandwidth(&host.name);
        }
        Ok(status)
    }

    pub(super) async fn vm(&self, name: &str) -> Result<VmView, Problem> {
        let (site, _) = self.site_of(name).await?;
        let vm = vm_named(&site, name)?;
        let mut view = VmView::new(vm, &site, self.parts.live.now());
        self.add_measures(&mut view);
        if let Some(target) = &mut view.target {
            let all = self.parts.live.site().await?;
            target.add_clashes(vm, &all.clashes(), &all);
        }
        Ok(view)
    }

    /// A VM, with what belongs to it of the site.
    async fn site_of(&self, name: &str) -> Result<(Site, VmId), Problem> {
        let live = &self.parts.live;
        let id = name.parse::<Uuid>().ok().map(VmId).or_else(|| self.parts.history.vm_named(name));
        if let Some(id) = id {
            return Ok((live.site_of(id).await?, id));
        }
        // One that the history has not read of yet.
        let site = live.site().await?;
        let id = vm_named(&site, name)?.id;
        Ok((site, id))
    }

    /// Adds what its state does not say.
    fn add_measures(&self, vm: &mut VmView) {
        vm.logs = self.parts.outside.logs(vm.id);
        vm.log_bytes = vm.logs.as_ref().map(|logs| logs.bytes);
        vm.compliance = self.parts.history.compliance(vm.id, self.parts.live.now());
    }

    pub(super) async fn points(&self, name: &str) -> Result<Vec<PointView>, Problem> {
        let (site, _) = self.site_of(name).await?;
        Ok(PointView::all(vm_named(&site, name)?, self.parts.live.now()))
    }

    pub(super) async fn jobs(
        &self,
        limit: usize,
        wanted: impl Fn(&JobView) -> bool,
    ) -> Result<Vec<JobView>, Problem> {
        self.parts.history.through(self.parts.live.store.durable()).await?;
        Ok(self.parts.history.list(self.parts.live.now(), limit, wanted))
    }

    /// A job, once it has changed after a position of the log, or that much time has passed.
    pub(super) async fn job(
        &self,
        id: &str,
        after: Option<u64>,
        wait: Duration,
    ) -> Result<JobView, Problem> {
        self.parts.history.through(self.parts.live.store.durable()).await?;
        let unknown = || Problem::unknown("job", id);
        let job = self.parts.history.find(id).ok_or_else(unknown)?;
        if let Some(after) = after {
            self.parts.history.changed(job, after, wait).await;
        }
        self.parts.history.job(job, self.parts.live.now()).ok_or_else(unknown)
    }

    pub(super) fn events(&self, after: u64, limit: usize) -> Result<EventsView, Problem> {
        let limit = limit.clamp(1, EVENTS_MAX);
        let events = self.parts.live.store.read_all(after.saturating_add(1), limit)?;
        let next = events.last().map_or(after, |commit| commit.global);
        Ok(EventsView { events, next_after: next, durable: self.parts.live.store.durable() })
    }

    /// What an operation would do. Nothing is changed.
    pub(super) async fn outlook(
        &self,
        operation: &Operation,
        name: &str,
        body: &[u8],
    ) -> Result<Outlook, Problem> {
        let (mut site, _) = self.site_of(name).await?;
        if !site.fabrics.is_empty() || operation.path == "failback" {
            // Other VMs may want the same addresses, or be where this one is to be brought.
            site = self.parts.live.site().await?;
        }
        let vm = vm_named(&site, name)?;
        Outlook::new(operation, &self.asked(&site, vm, JobId::default(), body))
    }

    fn asked<'a>(&'a self, site: &'a Site, vm: &'a Vm, job: JobId, body: &'a [u8]) -> Asked<'a> {
        Asked { vm, site, outside: &*self.parts.outside, now: self.parts.live.now(), job, body }
    }

    /// Tells a VM to do something, unless this very request told it before.
    pub(super) async fn operate(
        &self,
        operation: &Operation,
        name: &str,
        body: &[u8],
        request: Request,
    ) -> Result<Accepted, Problem> {
        let give = |asked: &Asked<'_>| (operation.command)(asked);
        self.order(operation.path, name, body, request, give).await
    }

    /// Gives a VM the command that is made of its state, unless this very request gave it before.
    async fn order(
        &self,
        operation: &str,
        name: &str,
        body: &[u8],
        request: Request,
        command: impl FnOnce(&Asked<'_>) -> Result<vm::Command, Problem>,
    ) -> Result<Accepted, Problem> {
        let _turn = self.commands.lock().await;
        let (site, id) = self.site_of(name).await?;
        let vm = vm_named(&site, name)?;
        let target = vm.name.clone();
        let job = self.job_of(id.0, operation, &request);
        let command = async || command(&self.asked(&site, vm, job, body));
        let changed = self.change::<Vm>(id.0, job, &request, command).await?;
        let vm: Vm = self.parts.live.state(id.0).await?;
        let own = vm.job.as_ref().filter(|own| own.id == job);
        let job = match own {
            Some(own) => {
                Some(JobView::new(own, &vm, Some(&request.actor), &[], self.parts.live.now()))
            }
            None => self.parts.history.job(job, self.parts.live.now()),
        };
        Ok(Accepted { job, ..changed.accepted(operation, &target) })
    }

    /// The id of the job of a request: the same for the same request, so that the log knows it again.
    fn job_of(&self, target: Uuid, operation: &str, request: &Request) -> JobId {
        if let Some(id) = &request.id {
            return JobId::named(target, &format!("{operation} asked for as {id}"));
        }
        let mut bytes = [0; 16];
        self.parts.random.fill(&mut bytes);
        JobId(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// The commit of the same request, if there was one before.
    async fn answered(&self, job: JobId, request: &Request) -> Result<Option<u64>, Problem> {
        if request.id.is_none() {
            return Ok(None);
        }
        self.parts.history.through(self.parts.live.store.durable()).await?;
        Ok(self.parts.history.answered(job).map(|answered| answered.commit))
    }

    /// Gives an entity a command, unless this very request gave it before: then it is not even made.
    async fn change<E: Hosted>(
        &self,
        id: Uuid,
        job: JobId,
        request: &Request,
        command: impl AsyncFnOnce() -> Result<E::Command, Problem>,
    ) -> Result<Changed, Problem> {
        if let Some(commit) = self.answered(job, request).await? {
            return Ok(Changed { commit: Some(commit), repeated: true });
        }
        let commit = self.tell::<E>(id, command().await?, job, request).await?;
        Ok(Changed { commit, repeated: false })
    }

    async fn tell<E: Hosted>(
        &self,
        id: Uuid,
        command: E::Command,
        job: JobId,
        request: &Request,
    ) -> Result<Option<u64>, Problem> {
        let (actor, correlation) = (request.actor.clone(), Some(job));
        let origin = Origin { actor, correlation, causation: None };
        Ok(self.parts.live.site.tell::<E>(id, command, origin).await?.commit)
    }
}

/// A VM by its name or its id.
pub(super) fn vm_named<'a>(site: &'a Site, name: &str) -> Result<&'a Vm, Problem> {
    let found = site.vms.values().find(|vm| is_named(name, &vm.name, vm.id.0));
    found.ok_or_else(|| Problem::unknown("VM", name))
}

fn is_named(asked: &str, name: &str, id: Uuid) -> bool {
    !name.is_empty() && (asked == name || asked == id.to_string())
}
