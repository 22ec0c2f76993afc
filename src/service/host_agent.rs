//! The agent of a host: attaches the disks of its VMs, tracks their writes and exports them.

use super::config::{DiskConfig, HostConfig, VmConfig};
use crate::disk::files::RealFiles;
use crate::disk::nbd::{Endpoint, Exports, NbdUri};
use crate::disk::raw::RawDisk;
use crate::disk::tracker::{BootId, DiskSpec, Tracker};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure, in_full};
use crate::domain::id::{DiskId, HostId, VmId};
use crate::domain::vm::{Disk, Phase, Vm};
use crate::drivers::lab::LabFiles;
use crate::ports::block::BlockDevice;
use crate::ports::clock::Clock;
use crate::ports::files::{Files, Open};
use crate::ports::replication::ServedDisk;
use crate::replication::Sources;
use crate::replication::pace::Pace;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
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
    /// Whether the configuration has it here; else it may come here from another member of the cluster, or by a
    /// failback.
    pub(super) home: bool,
    /// Where its logs are, and its disks if they are made here.
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
    pub(super) sizes: Sizes,
}

/// How large disks are by the log, where it says so; the others are as large as their images.
pub(super) type Sizes = Arc<Mutex<BTreeMap<DiskId, u64>>>;

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
    /// Hosts of one cluster reach the same disks.
    pub(super) cluster: Option<String>,
    /// Those of the whole site: each may come here.
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
    /// The paths of its disks are where they are at the host.
    pub(super) fn new(id: VmId, config: VmConfig, folder: PathBuf, server: &Endpoint) -> Self {
        let disks = config
            .disk
            .iter()
            .map(|disk| AttachedDisk {
                id: DiskId::named(id.0, &disk.name),
                name: disk.name.clone(),
                image: disk.path.clone(),
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
    pub(super) fn new(
        host: HostId,
        config: &HostConfig,
        vms: Vec<AgentVm>,
        parts: AgentParts,
    ) -> Self {
        let files = Mutex::new(LabFiles::new(Arc::new(RealFiles), &config.name));
        let (name, cluster, attached) =
            (config.name.clone(), config.cluster.clone(), Mutex::default());
        Self { host, name, cluster, vms, parts, files, attached }
    }

    /// Whether what is on the disks of another host is on those of this one.
    pub(super) fn reaches_disks_of(&self, other: &Self) -> bool {
        self.host == other.host || (self.cluster.is_some() && self.cluster == other.cluster)
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

    /// Notes how large the disks of a VM are. Those of one that is not protected are as large as their images.
    pub(super) fn know(&self, vm: &Vm) {
        let mut sizes = self.parts.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = matches!(vm.phase, Phase::Undiscovered | Phase::Unprotected);
        for disk in &vm.disks {
            if is_free {
                sizes.remove(&disk.id);
            } else {
                sizes.insert(disk.id, disk.size_bytes);
            }
        }
    }

    /// Attaches the disks of a VM, or attaches them anew where one of them is not as large as the VM says: whoever
    /// uses them is cut off, and finds them again once they are offered.
    pub(super) fn fit(&self, vm: &Vm) -> Result<(), Failure> {
        self.know(vm);
        let Some(own) = self.vms.iter().find(|own| own.id == vm.id) else { return Ok(()) };
        let Ok(source) = self.parts.sources.find(vm.id) else { return self.open(own) };
        let fits = |disk: &Disk| {
            let tracked = source.tracker.disk(disk.id);
            tracked.is_none_or(|tracked| tracked.size_bytes() == disk.size_bytes)
        };
        if vm.disks.iter().all(fits) {
            return Ok(());
        }
        drop(source);
        self.let_go(vm.id);
        self.open(own)
    }

    /// The length of the image of a disk.
    pub(super) fn image_bytes(&self, id: VmId, disk: DiskId) -> Option<u64> {
        let disks = self.vms.iter().filter(|vm| vm.id == id).flat_map(|vm| &vm.disks);
        let image = &disks.into_iter().find(|it| it.id == disk)?.image;
        self.files().open(image, Open::Read).and_then(|file| file.len()).ok()
    }

    /// The images of those disks of a VM that are here.
    pub(super) fn images(&self, id: VmId) -> Vec<PathBuf> {
        let disks = self.vms.iter().filter(|vm| vm.id == id).flat_map(|vm| &vm.disks);
        let images = disks.map(|disk| disk.image.clone());
        images.filter(|image| self.files().exists(image)).collect()
    }

    /// Checks that there is room for those disks of a VM that are not here. The error says how much is missing.
    pub(super) fn check_room(&self, vm: &Vm) -> Result<(), String> {
        let Some(own) = self.vms.iter().find(|own| own.id == vm.id) else { return Ok(()) };
        let bytes = |disk: &Disk| {
            let there = self.image_bytes(vm.id, disk.id).unwrap_or(0);
            disk.size_bytes.saturating_sub(there)
        };
        let wanted: u64 = vm.disks.iter().map(bytes).sum();
        let files = self.files();
        let there = own.folder.ancestors().find(|folder| files.exists(folder));
        let (there, host) = (there.unwrap_or(&own.folder), &self.name);
        let free = files.free_bytes(there);
        let free = free.map_err(|error| format!("room on {host} ({})", in_full(&error)))?;
        if wanted <= free {
            return Ok(());
        }
        Err(format!("room on {host} (its disks take {wanted} bytes, and {free} are free)"))
    }

    /// Makes the images of those disks of a VM that are not here, empty and as large as its disks; durable on
    /// return.
    pub(super) fn make_disks(&self, vm: &Vm) -> Result<(), Failure> {
        let Some(own) = self.vms.iter().find(|own| own.id == vm.id) else { return Ok(()) };
        for (disk, size) in vm.disks.iter().map(|disk| (disk.id, disk.size_bytes)) {
            let Some(image) = own.disks.iter().find(|own| own.id == disk) else { continue };
            self.make_image(&image.image, size).map_err(|error| {
                let operation = format!("making disk image {}", image.image.display());
                Failure::new(Code::HostResourcesShort, Cause::Host(self.host), in_full(&error))
                    .with("host", &self.name)
                    .with("operation", operation)
            })?;
        }
        Ok(())
    }

    fn make_image(&self, image: &Path, bytes: u64) -> io::Result<()> {
        let files = self.files();
        let folder = image.parent().unwrap_or(Path::new("."));
        files.make_folder(folder)?;
        let file = files.open(image, Open::Create)?;
        if file.len()? < bytes {
            file.set_len(bytes)?;
        }
        file.sync_data()?;
        files.sync_dir(folder)
    }

    /// Makes the image of a disk at least so long; durable on return.
    pub(super) fn lengthen(&self, vm: &Vm, disk: DiskId, bytes: u64) -> Result<(), Failure> {
        let Some(own) = self.vms.iter().find(|own| own.id == vm.id) else { return Ok(()) };
        let Some(disk) = own.disks.iter().find(|own| own.id == disk) else { return Ok(()) };
        let lengthen = || {
            let file = self.files().open(&disk.image, Open::Write)?;
            if file.len()? < bytes {
                file.set_len(bytes)?;
            }
            file.sync_data()
        };
        lengthen().map_err(|error| {
            Failure::new(Code::HostResourcesShort, Cause::Host(self.host), in_full(&error))
                .with("host", &self.name)
                .with("operation", format!("growing disk image {}", disk.image.display()))
        })
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
        let whole = opened.map_err(|error| in_full(&error))?;
        let sizes = self.parts.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = sizes.get(&disk.id).copied() else { return Ok(Arc::new(whole)) };
        if known < whole.size_bytes() {
            let (image, bytes) = (disk.image.display(), whole.size_bytes());
            tracing::warn!(
                %image, bytes, known,
                "a disk image is longer than its disk: `lifeboat vm disk resize` makes the disk as large"
            );
        }
        Ok(Arc::new(whole.limited_to(known)))
    }

    /// The disks of a VM as its entity knows them.
    ///
    /// A VM that is not attached has none.
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

    /// Takes the exports of a VM away that is attached here: whoever is connected to them is cut off.
    pub(super) fn withdraw(&self, vm: &Vm) {
        if !self.attached().contains(&vm.id) {
            return;
        }
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
