//! The agent of a host: attaches the disks of its VMs, tracks their writes and exports them.

use super::config::{DiskConfig, VmConfig};
use crate::disk::files::RealFiles;
use crate::disk::nbd::{Endpoint, Exports, NbdUri};
use crate::disk::raw::RawDisk;
use crate::disk::tracker::{BootId, DiskSpec, Tracker};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure, in_full};
use crate::domain::id::{DiskId, HostId, VmId};
use crate::domain::vm::{Disk, Vm};
use crate::drivers::lab::LabFiles;
use crate::ports::block::BlockDevice;
use crate::ports::clock::Clock;
use crate::ports::files::{Files, Open};
use crate::ports::replication::ServedDisk;
use crate::replication::Sources;
use crate::replication::pace::Pace;
use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A disk of a VM, where it is and how it can be reached.
#[derive(Clone, Debug)]
pub struct AttachedDisk {
    /// Its identity.
    pub id: DiskId,
    /// Its name.
    pub name: String,
    /// Its raw image.
    pub image: PathBuf,
    /// Its export at the primary site.
    pub uri: String,
}

/// A VM of the host.
#[derive(Clone, Debug)]
pub(super) struct AgentVm {
    pub(super) id: VmId,
    pub(super) config: VmConfig,
    pub(super) disks: Vec<AttachedDisk>,
    /// Whether the configuration has it here; else it may come here from another member of the cluster.
    pub(super) home: bool,
    /// Where its logs are.
    folder: PathBuf,
}

/// What all agents of a service share.
#[derive(Clone)]
pub(super) struct AgentParts {
    pub(super) exports: Arc<Exports>,
    pub(super) server: Endpoint,
    pub(super) sources: Sources,
    pub(super) boot: BootId,
    /// How fast the host may send.
    pub(super) pace: Arc<Pace>,
    pub(super) clock: Arc<dyn Clock>,
}

/// What is done with the disks of a VM here, by the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// They stay closed.
    Away,
    /// They are attached for the data plane alone.
    Attached,
    /// They are offered to whoever runs the VM.
    Runs,
}

/// The agent of one host.
pub(super) struct HostAgent {
    pub(super) host: HostId,
    pub(super) name: String,
    pub(super) vms: Vec<AgentVm>,
    parts: AgentParts,
    /// The host's files; another set of them each time that the host comes up.
    files: Mutex<LabFiles>,
    /// The VMs whose disks it has.
    attached: Mutex<BTreeSet<VmId>>,
}

/// Names of exports: what a hypervisor connects to.
pub(super) fn export_name(vm: &str, disk: &str) -> String {
    format!("{vm}-{disk}")
}

impl AgentVm {
    pub(super) fn new(
        id: VmId,
        config: VmConfig,
        folder: PathBuf,
        place: impl Fn(&DiskConfig) -> PathBuf,
        server: &Endpoint,
    ) -> Self {
        let disks = config
            .disk
            .iter()
            .map(|disk| AttachedDisk {
                id: DiskId::named(id.0, &disk.name),
                name: disk.name.clone(),
                image: place(disk),
                uri: NbdUri {
                    endpoint: server.clone(),
                    export: export_name(&config.name, &disk.name),
                }
                .to_string(),
            })
            .collect();
        Self { id, config, disks, home: true, folder }
    }
}

impl HostAgent {
    pub(super) fn new(host: HostId, name: &str, vms: Vec<AgentVm>, parts: AgentParts) -> Self {
        let files = Mutex::new(LabFiles::new(Arc::new(RealFiles), name));
        let attached = Mutex::default();
        Self { host, name: name.to_owned(), vms, parts, files, attached }
    }

    fn files(&self) -> LabFiles {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Attaches every VM as it stands here. A VM whose disks cannot be used is left out, with the
    /// reason as its failure; the others go on.
    pub(super) fn attach_all(&self, standing: impl Fn(VmId) -> Standing) {
        for vm in &self.vms {
            let standing = standing(vm.id);
            if standing == Standing::Away {
                continue;
            }
            match self.open(vm) {
                Ok(()) if standing == Standing::Runs => self.offer_disks(vm),
                Ok(()) => {}
                Err(failure) => {
                    tracing::error!(vm = %vm.config.name, %failure, "attach the disks of a VM");
                    self.parts.sources.refuse(vm.id, failure);
                }
            }
        }
    }

    /// Attaches the disks of a VM to this agent, where they are not, and offers them to nobody.
    pub(super) fn attach(&self, id: VmId) -> Result<(), Failure> {
        let Some(vm) = self.vms.iter().find(|vm| vm.id == id) else { return Ok(()) };
        if self.parts.sources.find(id).is_ok() { Ok(()) } else { self.open(vm) }
    }

    /// Offers the disks of a VM, which are attached, to whoever runs it. Answers where.
    pub(super) fn offer(&self, id: VmId) -> Vec<ServedDisk> {
        let Some(vm) = self.vms.iter().find(|vm| vm.id == id) else { return Vec::new() };
        self.offer_disks(vm);
        let served = |disk: &AttachedDisk| ServedDisk { disk: disk.id, uri: disk.uri.clone() };
        vm.disks.iter().map(served).collect()
    }

    /// Whoever uses them already is not disturbed.
    fn offer_disks(&self, vm: &AgentVm) {
        let Ok(source) = self.parts.sources.find(vm.id) else { return };
        for disk in &vm.disks {
            let name = export_name(&vm.config.name, &disk.name);
            if self.parts.exports.get(&name).is_none()
                && let Some(tracked) = source.tracker.disk(disk.id)
            {
                self.parts.exports.add(&name, tracked);
            }
        }
    }

    fn open(&self, vm: &AgentVm) -> Result<(), Failure> {
        let mut specs = Vec::new();
        for (disk, config) in vm.disks.iter().zip(&vm.config.disk) {
            let device = self.open_image(disk, config).map_err(|error| {
                Failure::new(Code::DiskUnusable, Cause::Host(self.host), error)
                    .with("disk", disk.image.display())
            })?;
            specs.push(DiskSpec { id: disk.id, name: disk.name.clone(), device });
        }
        let parts = &self.parts;
        let files: Arc<dyn Files> = Arc::new(self.files());
        let (log_files, clock) = (Arc::clone(&files), Arc::clone(&parts.clock));
        let tracker = std::fs::create_dir_all(&vm.folder)
            .map_err(|error| self.failure(Code::HostResourcesShort, vm, &error))
            .and_then(|()| {
                Tracker::open(log_files, &vm.folder, specs, parts.boot, clock)
                    .map_err(|error| self.failure(error.code(), vm, &error))
            })?;
        self.attached().insert(vm.id);
        let lane = parts.pace.lane(vm.id);
        parts.sources.attach_at_pace(vm.id, tracker, files, Some(lane));
        Ok(())
    }

    fn failure(&self, code: Code, vm: &AgentVm, error: &dyn Error) -> Failure {
        Failure::new(code, Cause::Host(self.host), in_full(error))
            .with("host", &self.name)
            .with("vm", &vm.config.name)
            .with("path", vm.folder.display())
            .with("operation", "attaching disks")
            .with("damage", error)
    }

    fn open_image(
        &self,
        disk: &AttachedDisk,
        config: &DiskConfig,
    ) -> Result<Arc<dyn BlockDevice>, String> {
        let files = self.files();
        let in_words = |doing: &str, error: io::Error| format!("{doing}: {error}");
        if let (Some(mib), false) = (config.create_mib, files.exists(&disk.image)) {
            let parent = disk.image.parent().map_or(Ok(()), std::fs::create_dir_all);
            parent
                .and_then(|()| files.open(&disk.image, Open::CreateNew))
                .and_then(|file| file.set_len(mib << 20))
                .map_err(|error| in_words("create the image", error))?;
        }
        let opened = RawDisk::open(&files, &disk.image, Open::Write);
        let device = opened.map_err(|error| in_full(&error))?;
        Ok(Arc::new(device))
    }

    /// The disks of a VM as its entity knows them.
    ///
    /// The sizes are those of the images; a VM that is not attached has none.
    pub(super) fn inventory(&self, vm: &AgentVm) -> Option<Vec<Disk>> {
        let source = self.parts.sources.find(vm.id).ok()?;
        let size = |disk: &AttachedDisk| source.tracker.disk(disk.id).map(|own| own.size_bytes());
        vm.disks
            .iter()
            .map(|disk| {
                let (id, name) = (disk.id, disk.name.clone());
                size(disk).map(|size_bytes| Disk { id, name, size_bytes })
            })
            .collect()
    }

    /// Takes the exports of a VM away: whoever is connected to them is cut off.
    pub(super) fn withdraw(&self, vm: &Vm) {
        for disk in &vm.disks {
            self.parts.exports.remove(&export_name(&vm.name, &disk.name));
        }
    }

    /// Lets all VMs go in an orderly way: the next start finds nothing to redo.
    pub(super) fn detach_all(&self) {
        for id in std::mem::take(&mut *self.attached()) {
            self.let_go(id);
        }
    }

    /// Lets a VM go in an orderly way, as to another member of the cluster. One that is not here is no error.
    pub(super) fn release(&self, id: VmId) {
        if self.attached().remove(&id) {
            self.let_go(id);
        }
    }

    fn let_go(&self, id: VmId) {
        let Some(vm) = self.vms.iter().find(|vm| vm.id == id) else { return };
        for disk in &vm.disks {
            self.parts.exports.remove(&export_name(&vm.config.name, &disk.name));
        }
        let Some(source) = self.parts.sources.detach(id) else { return };
        if let Err(error) = source.tracker.close() {
            tracing::error!(vm = %vm.config.name, %error, "close the disks of a VM");
        }
    }

    fn attached(&self) -> MutexGuard<'_, BTreeSet<VmId>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dies as the process of an agent does by kill -9: files and exports are gone at once, nothing is
    /// closed.
    pub(super) fn die(&self) {
        self.files().kill();
        let attached = std::mem::take(&mut *self.attached());
        for vm in self.vms.iter().filter(|vm| attached.contains(&vm.id)) {
            for disk in &vm.disks {
                self.parts.exports.remove(&export_name(&vm.config.name, &disk.name));
            }
            self.parts.sources.detach(vm.id);
        }
    }

    /// Comes up again after [`HostAgent::die`].
    pub(super) fn come_up(&self, standing: impl Fn(VmId) -> Standing) {
        let fresh = LabFiles::new(Arc::new(RealFiles), &self.name);
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.attach_all(standing);
    }
}
