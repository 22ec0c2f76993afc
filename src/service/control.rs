//! The control API of this service: its token, and the file by which the command line finds it.

use super::clock::SystemClock;
use super::cluster::Cluster;
use super::config::{Config, HostConfig, WindowConfig};
use super::enrolment;
use super::host_agent::HostAgent;
use super::images;
use super::random::KernelRandom;
use super::running::ServiceError;
use crate::api::{Control, ControlParts, History, Live, Outside, Token};
use crate::disk::tracker::DiskStatus;
use crate::domain::failure::Failure;
use crate::domain::id::{DiskId, FabricId, HostId, VmId};
use crate::domain::vault::Component;
use crate::domain::vm::{ResyncWindow, Vm};
use crate::ports::clock::Clock;
use crate::ports::hypervisor::Hypervisor;
use crate::replication::Sources;
use crate::views::LogsView;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// The file in the data folder with the token.
const TOKEN_FILE: &str = "control.token";

/// The file in the data folder that says where the service is.
pub const ENDPOINT_FILE: &str = "endpoint.json";

/// Permissions of everybody but the owner.
const OTHERS: u32 = 0o077;

/// Permission to run a file, of anybody.
const EXECUTE: u32 = 0o111;

/// Where a running service can be operated: the content of `endpoint.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointFile {
    /// What the paths of the API come after.
    pub url: String,
    /// The file with the token.
    pub token_file: PathBuf,
}

/// What the logs of a VM take, and when that is too much; `None` while its host is away.
pub(super) fn logs(sources: &Sources, vm: VmId) -> Option<LogsView> {
    let status = sources.find(vm).ok()?.tracker.status();
    let now = SystemClock.now();
    let half_full_at = status.disks.iter().filter_map(|disk| disk.full_at).min();
    Some(LogsView {
        bytes: status.disks.iter().map(|disk| disk.active_bytes + disk.transit_bytes).sum(),
        share: status.disks.iter().map(DiskStatus::log_share).fold(0.0, f64::max),
        half_full_in_seconds: half_full_at.map(|at| at.since(now).as_secs_f64()),
    })
}

/// What the API asks of this service.
pub(super) struct Here {
    sources: Sources,
    /// The hosts of the configuration.
    hosts: Vec<KnownHost>,
    admit: UnboundedSender<Component>,
    cluster: Cluster,
}

/// A host of the configuration.
struct KnownHost {
    name: String,
    cluster: Option<String>,
    /// How fast it may send, in words.
    bandwidth: String,
}

impl Here {
    fn known_host(&self, name: &str) -> Option<&KnownHost> {
        self.hosts.iter().find(|known| known.name == name)
    }

    fn agent_that_answers(&self, host: HostId) -> Option<&HostAgent> {
        // The lab answers at once.
        let answer = self.cluster.lab.heartbeat(host).now_or_never();
        let agent = self.cluster.agents.iter().find(|agent| agent.host == host);
        agent.filter(|_| matches!(answer, Some(Ok(())))).map(|agent| &**agent)
    }

    pub(super) fn new(
        config: &Config,
        sources: Sources,
        admit: UnboundedSender<Component>,
        cluster: Cluster,
    ) -> Self {
        let host = |host: &HostConfig| KnownHost {
            name: host.name.clone(),
            cluster: host.cluster.clone(),
            bandwidth: config.bandwidth_of(host).in_words(),
        };
        let hosts = config.host.iter().map(host).collect();
        Self { sources, hosts, admit, cluster }
    }
}

impl Outside for Here {
    fn logs(&self, vm: VmId) -> Option<LogsView> {
        logs(&self.sources, vm)
    }

    fn image_bytes(&self, vm: &Vm, disk: DiskId) -> Option<u64> {
        let agent = self.cluster.agents.iter().find(|agent| agent.host == vm.host)?;
        agent.image_bytes(vm.id, disk)
    }

    fn images(&self, vm: &Vm, host: HostId) -> Vec<String> {
        let images = self.agent_that_answers(host).map(|agent| agent.images(vm.id));
        images.into_iter().flatten().map(|image| image.display().to_string()).collect()
    }

    fn no_room(&self, vm: &Vm, host: HostId) -> Option<String> {
        match self.agent_that_answers(host) {
            Some(agent) => agent.check_room(vm).err(),
            None => Some("it does not answer".to_owned()),
        }
    }

    fn image(&self, vm: &Vm, disk: &str, image: &Path) -> Result<u64, Failure> {
        let Cluster { agents, lab } = &self.cluster;
        // The lab answers at once.
        lab.heartbeat(vm.host).now_or_never().unwrap_or(Ok(()))?;
        images::look(agents, vm, disk, image)
    }

    fn program_missing(&self, program: &str) -> Option<String> {
        let runs = |path: &Path| {
            fs::metadata(path).is_ok_and(|about| about.is_file() && about.mode() & EXECUTE != 0)
        };
        let found = if program.contains('/') {
            runs(Path::new(program))
        } else {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&folders).any(|folder| runs(&folder.join(program)))
        };
        (!found).then(|| format!("there is no program {program} that this service can run"))
    }

    fn host_called(&self, name: &str) -> Option<HostId> {
        self.known_host(name).map(|host| enrolment::host_id(&host.name))
    }

    fn cluster_of(&self, host: HostId) -> Vec<&str> {
        let own = self.hosts.iter().find(|known| enrolment::host_id(&known.name) == host);
        let Some(cluster) = own.and_then(|own| own.cluster.as_ref()) else { return vec![] };
        let members = self.hosts.iter().filter(|known| known.cluster.as_ref() == Some(cluster));
        members.map(|known| known.name.as_str()).collect()
    }

    fn bandwidth(&self, name: &str) -> Option<String> {
        self.known_host(name).map(|host| host.bandwidth.clone())
    }

    fn provider(&self) -> FabricId {
        enrolment::primary_fabric()
    }

    fn admitted(&self, who: Component) {
        // A service that stops enrols at its next start.
        let _ = self.admit.send(who);
    }

    fn move_vm(&self, vm: VmId, to: HostId) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(self.cluster.clone().moved(vm, to))
    }

    fn resync_window(&self, text: &str) -> Result<ResyncWindow, String> {
        let window = WindowConfig::try_from(text.to_owned());
        let window = window.map_err(|problem| format!("window {problem}"))?;
        Ok(window.at_site(SystemClock::utc_offset_minutes()))
    }
}

/// The control API; `None` where others than this machine could reach it, since it has no TLS.
pub(super) fn control(
    config: &Config,
    live: Live,
    here: Here,
    history: Arc<History>,
) -> Result<Option<Control>, ServiceError> {
    if !config.listen.ip().is_loopback() {
        let listen = config.listen;
        tracing::warn!(%listen, "no control API: it has no TLS, and `listen` is not on loopback");
        return Ok(None);
    }
    let path = token_file(&config.data);
    let token = token(&path).map_err(|source| ServiceError::Folder {
        doing: "make token file",
        path,
        source,
    })?;
    Ok(Some(Control::new(ControlParts {
        live,
        random: Arc::new(KernelRandom),
        outside: Arc::new(here),
        history,
        token,
    })))
}

fn token_file(data: &Path) -> PathBuf {
    data.join(TOKEN_FILE)
}

/// The token that is kept, so that whoever copied it can go on using it. One that others could read, or
/// that is none, is replaced.
fn token(path: &Path) -> io::Result<Token> {
    match fs::metadata(path) {
        Ok(about) if about.mode() & OTHERS == 0 => {
            if let Some(token) = Token::parse(&fs::read_to_string(path)?) {
                return Ok(token);
            }
            tracing::warn!(path = %path.display(), "the token file held no token; it is made anew");
        }
        Ok(_) => {
            tracing::warn!(path = %path.display(), "others could read the token; it is made anew");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let token = Token::generate(&KernelRandom);
    replace(path, &format!("{}\n", token.text()))?;
    Ok(token)
}

/// Says where the service is.
pub(super) fn announce(data: &Path, address: SocketAddr) -> Result<(), ServiceError> {
    let path = data.join(ENDPOINT_FILE);
    let write = || {
        let token_file = std::path::absolute(token_file(data))?;
        let endpoint = EndpointFile { url: format!("http://{address}"), token_file };
        replace(&path, &format!("{}\n", serde_json::to_string(&endpoint)?))
    };
    write().map_err(|source| ServiceError::Folder { doing: "write", path: path.clone(), source })
}

/// Nobody is to look for the service any more.
pub(super) fn withdraw(data: &Path) {
    let path = data.join(ENDPOINT_FILE);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "remove the endpoint file");
    }
}

/// Writes a file that only its owner can read; it is there as a whole or not at all.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
