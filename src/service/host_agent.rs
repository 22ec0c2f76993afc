//! The agent of a host: attaches the disks of its VMs, tracks their writes and exports them.

use super::config::{DiskConfig, HostConfig, VmConfig};
use super::images::same_file;
use crate::disk::files::RealFiles;
use crate::disk::nbd::{Endpoint, Exports, NbdUri};
use crate::disk::raw::RawDisk;
use crate::disk::tracker::{BootId, DiskSpec, Tracker};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure, in_full};
use crate::domain::id::{DiskId, HostId, VmId};
use crate::domain::vm::{AddedDisk, Disk, Phase, Vm};
use crate::drivers::lab::LabFiles;
use crate::ports::block::BlockDevice;
use crate::ports::clock::Clock;
use crate::ports::files::{Files, Open};
use crate::ports::replication::ServedDisk;
use crate::replication::Sources;
use crate::replication::pace::Pace;
use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The folders below that of the service's data in which failbacks make disks: `hosts/HOST/VM`, `clusters/CLUSTER/VM`.
pub(super) const FAILBACK_FOLDERS: [&str; 2] = ["hosts", "clusters"];

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
    /// Makes its image, sparse, with so many MiB if it does not exist.
    create_mib: Option<u64>,
}

/// A VM of the host.
#[derive(Clone, Debug)]
pub(super) struct AgentVm {
    pub(super) id: VmId,
    pub(super) config: VmConfig,
    /// The disks of the configuration; those that it has are told by [`HostAgent::disks_of`].
    configured: Vec<AttachedDisk>,
    /// Whether the configuration has it here; else it may come here from another member of the cluster, or by a
    /// failback.
    pub(super) home: bool,
    /// Whether it comes here by a failback alone, which makes its disks here.
    pub(super) brought: bool,
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
    pub(super) known: Knowledge,
}

/// What the log says of the disks of the VMs that it knows.
pub(super) type Knowledge = Arc<Mutex<BTreeMap<VmId, KnownDisks>>>;

/// What the log says of the disks of a VM.
#[derive(Clone, Debug)]
pub(super) struct KnownDisks {
    /// Whether nothing depends on their sizes, since the VM is not protected.
    free: bool,
    disks: Vec<Disk>,
    added: Vec<AddedDisk>,
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
    /// Hosts of one cluster reach the same disks.
    pub(super) cluster: Option<String>,
    /// Those of the whole site: each may come here.
    pub(super) vms: Vec<AgentVm>,
    parts: AgentParts,
    /// The host's files; another set of them each time that the host comes up.
    files: Mutex<LabFiles>,
    /// The VMs whose disks it has, and the names of their exports.
    attached: Mutex<BTreeMap<VmId, Vec<String>>>,
}

/// Names of exports: what a hypervisor connects to.
pub(super) fn export_name(vm: &str, disk: &str) -> String {
    format!("{vm}-{disk}")
}

impl AgentVm {
    /// The paths of its disks are where they are at the host.
    pub(super) fn new(id: VmId, config: VmConfig, folder: PathBuf, server: &Endpoint) -> Self {
        let disk = |disk: &DiskConfig| AttachedDisk {
            id: DiskId::named(id.0, &disk.name),
            name: disk.name.clone(),
            image: disk.path.clone(),
            uri: uri(server, &config.name, &disk.name),
            create_mib: disk.create_mib,
        };
        let configured = config.disk.iter().map(disk).collect();
        Self { id, config, configured, home: true, brought: false, folder }
    }

    /// Where a failback makes a disk of it.
    pub(super) fn made_here(&self, disk: &str) -> PathBuf {
        self.folder.join(format!("{disk}.img"))
    }

    /// Whether an image is where a failback to another host makes a disk of it. The path alone says so, so that it stays so
    /// when that host is no more.
    pub(super) fn is_made_elsewhere(&self, image: &Path, disk: &str) -> bool {
        let Ok(here) = std::path::absolute(self.made_here(disk)) else { return false };
        let Some(data) = here.ancestors().nth(4) else { return false };
        let mut there = image.strip_prefix(data).into_iter().flatten();
        let [kind, _, vm, file] = [there.next(), there.next(), there.next(), there.next()];
        let is_place = kind.is_some_and(|kind| FAILBACK_FOLDERS.iter().any(|own| kind == *own))
            && vm == here.parent().and_then(Path::file_name)
            && file == here.file_name()
            && there.next().is_none();
        is_place && image != here
    }

    /// Where a disk is that was added: where its image was, unless that is another host's.
    fn place_of_added(&self, added: &AddedDisk) -> PathBuf {
        let image = PathBuf::from(&added.image);
        if self.brought || self.is_made_elsewhere(&image, &added.disk.name) {
            self.made_here(&added.disk.name)
        } else {
            image
        }
    }
}

fn uri(server: &Endpoint, vm: &str, disk: &str) -> String {
    NbdUri { endpoint: server.clone(), export: export_name(vm, disk) }.to_string()
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

    /// Notes what disks a VM has. Those of one that is not protected are as large as their images.
    pub(super) fn know(&self, vm: &Vm) {
        let mut known = self.parts.known.lock().unwrap_or_else(PoisonError::into_inner);
        if vm.phase == Phase::Undiscovered {
            known.remove(&vm.id);
            return;
        }
        let free = vm.phase == Phase::Unprotected;
        let (disks, added) = (vm.disks.clone(), vm.added.clone());
        known.insert(vm.id, KnownDisks { free, disks, added });
    }

    fn known(&self, vm: VmId) -> Option<KnownDisks> {
        self.parts.known.lock().unwrap_or_else(PoisonError::into_inner).get(&vm).cloned()
    }

    /// The disks that a VM has, in its order: those of the log, where the configuration says that they are, or else
    /// the log. What only the configuration has is a disk of a VM that is not protected.
    pub(super) fn disks_of(&self, vm: &AgentVm) -> Vec<AttachedDisk> {
        let Some(known) = self.known(vm.id) else { return vm.configured.clone() };
        let added = |disk: &Disk| {
            let added = known.added.iter().find(|added| added.disk.id == disk.id)?;
            Some(AttachedDisk {
                id: disk.id,
                name: disk.name.clone(),
                image: vm.place_of_added(added),
                uri: uri(&self.parts.server, &vm.config.name, &disk.name),
                create_mib: None,
            })
        };
        let configured = |disk: &Disk| vm.configured.iter().find(|own| own.id == disk.id).cloned();
        let place = |disk: &Disk| configured(disk).or_else(|| added(disk));
        let mut disks: Vec<_> = known.disks.iter().filter_map(place).collect();
        let is_new = |own: &&AttachedDisk| known.disks.iter().all(|disk| disk.id != own.id);
        let only_configured = vm.configured.iter().filter(is_new);
        if known.free {
            disks.extend(only_configured.cloned());
        }
        disks
    }

    /// Whether a disk was added to a VM that had its guest before: a guest of the lab goes on with the disks that it
    /// was made for.
    pub(super) fn was_added(&self, vm: VmId, disk: DiskId) -> bool {
        let known = self.known(vm);
        known.is_some_and(|known| known.added.iter().any(|added| added.disk.id == disk))
    }

    /// Where the guest of a VM finds the disks that it was made for.
    pub(super) fn guest_uris(&self, vm: VmId) -> Vec<String> {
        let own = self.vms.iter().filter(|own| own.id == vm);
        let disks = own.flat_map(|own| self.disks_of(own));
        disks.filter(|disk| !self.was_added(vm, disk.id)).map(|disk| disk.uri).collect()
    }

    /// Attaches the disks of a VM, or attaches them anew where they are not those that the VM says, or not as large:
    /// whoever uses them is cut off, and finds them again once they are offered. Where that cannot be done, those
    /// that were attached stay so.
    pub(super) fn fit(&self, vm: &Vm) -> Result<(), Failure> {
        self.know(vm);
        let Some(own) = self.vms.iter().find(|own| own.id == vm.id) else { return Ok(()) };
        let Ok(source) = self.parts.sources.find(vm.id) else { return self.open(own) };
        let attached = source.tracker.status().disks;
        let wanted = self.disks_of(own);
        let is_attached =
            |disk: &AttachedDisk| attached.iter().any(|status| status.disk == disk.id);
        let fits = |disk: &Disk| {
            let status = attached.iter().find(|status| status.disk == disk.id);
            status.is_none_or(|status| status.size_bytes == disk.size_bytes)
        };
        let others = wanted.iter().filter(|disk| !is_attached(disk)).collect::<Vec<_>>();
        if others.is_empty() && wanted.len() == attached.len() && vm.disks.iter().all(fits) {
            return Ok(());
        }
        drop(source);
        for disk in others {
            // Nobody is cut off for an image that is not there.
            self.open_image(own, disk).map_err(|error| self.unusable(disk, error))?;
        }
        let before: Vec<_> = wanted.iter().filter(|disk| is_attached(disk)).cloned().collect();
        let offered = self.is_offered(vm.id);
        self.let_go(vm.id);
        self.open_disks(own, &wanted).inspect_err(|_| {
            if let Err(failure) = self.open_disks(own, &before) {
                tracing::error!(vm = %vm.name, %failure, "attach the disks of a VM as they were");
            } else if offered {
                self.offer_disks(own);
            }
        })
    }

    /// The length of the image of a disk.
    pub(super) fn image_bytes(&self, id: VmId, disk: DiskId) -> Option<u64> {
        let vm = self.vms.iter().find(|vm| vm.id == id)?;
        let disk = self.disks_of(vm).into_iter().find(|own| own.id == disk)?;
        self.files().open(&disk.image, Open::Read).and_then(|file| file.len()).ok()
    }

    /// The bytes of a file that can be a disk.
    pub(super) fn bytes_of(&self, image: &Path) -> Result<u64, String> {
        let opened = RawDisk::open(&self.files(), image, Open::Write);
        opened.map(|disk| disk.size_bytes()).map_err(|error| in_full(&error))
    }

    /// Whose disk an image is, in words; `None` if it is nobody's.
    pub(super) fn owner_of(&self, image: &Path) -> Option<String> {
        self.owner_where(|_, disk| same_file(&disk.image, image))
    }

    /// Whose disk has this export, in words.
    pub(super) fn owner_of_export(&self, export: &str) -> Option<String> {
        self.owner_where(|vm, disk| export_name(&vm.config.name, &disk.name) == export)
    }

    fn owner_where(&self, is_it: impl Fn(&AgentVm, &AttachedDisk) -> bool) -> Option<String> {
        self.vms.iter().find_map(|vm| {
            let own = self.disks_of(vm).into_iter().find(|disk| is_it(vm, disk))?;
            Some(format!("disk {} of {}", own.name, vm.config.name))
        })
    }

    /// Checks that a file may become the disk `name` of a VM here, by where it is. The error says why not.
    pub(super) fn check_place(&self, vm: VmId, name: &str, image: &Path) -> Result<(), String> {
        let Some(own) = self.vms.iter().find(|own| own.id == vm) else { return Ok(()) };
        if own.brought {
            // At the host that has the VM by the configuration nobody could say where it is.
            let place =
                std::path::absolute(own.made_here(name)).map_err(|error| error.to_string())?;
            if image != place {
                let place = place.display();
                return Err(format!(
                    "a failback brought the VM to {}: put it at {place}",
                    self.name
                ));
            }
        } else if own.is_made_elsewhere(image, name) {
            return Err("a failback of the VM to another host makes the disk there".to_owned());
        }
        Ok(())
    }

    /// Where the configuration has a disk of a VM.
    pub(super) fn configured(&self, vm: VmId, disk: &str) -> Option<&Path> {
        let vm = self.vms.iter().find(|own| own.id == vm)?;
        let disk = vm.configured.iter().find(|own| own.name == disk)?;
        Some(&disk.image)
    }

    /// The images of those disks of a VM that are here.
    pub(super) fn images(&self, id: VmId) -> Vec<PathBuf> {
        let disks = self.vms.iter().filter(|vm| vm.id == id).flat_map(|vm| self.disks_of(vm));
        let images = disks.map(|disk| disk.image);
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
        self.know(vm);
        let Some(own) = self.vms.iter().find(|own| own.id == vm.id) else { return Ok(()) };
        let disks = self.disks_of(own);
        for (disk, size) in vm.disks.iter().map(|disk| (disk.id, disk.size_bytes)) {
            let Some(image) = disks.iter().find(|own| own.id == disk) else { continue };
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
        let disks = self.disks_of(own);
        let Some(disk) = disks.iter().find(|own| own.id == disk) else { return Ok(()) };
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
        let served = |disk: AttachedDisk| ServedDisk { disk: disk.id, uri: disk.uri };
        self.disks_of(vm).into_iter().map(served).collect()
    }

    fn is_offered(&self, vm: VmId) -> bool {
        let names = self.attached().get(&vm).cloned().unwrap_or_default();
        names.iter().any(|name| self.parts.exports.get(name).is_some())
    }

    /// Whoever uses them already is not disturbed.
    fn offer_disks(&self, vm: &AgentVm) {
        let Ok(source) = self.parts.sources.find(vm.id) else { return };
        for disk in self.disks_of(vm) {
            let name = export_name(&vm.config.name, &disk.name);
            if self.parts.exports.get(&name).is_none()
                && let Some(tracked) = source.tracker.disk(disk.id)
            {
                self.parts.exports.add(&name, tracked);
            }
        }
    }

    fn open(&self, vm: &AgentVm) -> Result<(), Failure> {
        let disks = self.disks_of(vm);
        for own in vm.configured.iter().filter(|own| disks.iter().all(|disk| disk.id != own.id)) {
            let (vm, disk) = (&vm.config.name, &own.name);
            tracing::warn!(
                %vm, %disk,
                "a disk is configured that its VM does not have: `lifeboat vm disk add` adds it"
            );
        }
        self.open_disks(vm, &disks)
    }

    fn unusable(&self, disk: &AttachedDisk, error: String) -> Failure {
        Failure::new(Code::DiskUnusable, Cause::Host(self.host), error)
            .with("disk", disk.image.display())
    }

    fn open_disks(&self, vm: &AgentVm, disks: &[AttachedDisk]) -> Result<(), Failure> {
        let mut specs = Vec::new();
        for disk in disks {
            let device = self.open_image(vm, disk).map_err(|error| self.unusable(disk, error))?;
            specs.push(DiskSpec { id: disk.id, name: disk.name.clone(), device });
        }
        let parts = &self.parts;
        let files: Arc<dyn Files> = Arc::new(self.files());
        let (log_files, clock) = (Arc::clone(&files), Arc::clone(&parts.clock));
        let tracker = std::fs::create_dir_all(&vm.folder)
            .map_err(|error| self.failure(Code::HostResourcesShort, vm, &error))
            .and_then(|()| {
                Tracker::open(log_files, &vm.folder, specs, parts.boot, clock)
                    .and_then(|tracker| {
                        // Its protection may have ended while nobody reached this host.
                        if self.known(vm.id).is_some_and(|known| known.free) {
                            tracker.stop()?;
                        }
                        Ok(tracker)
                    })
                    .map_err(|error| self.failure(error.code(), vm, &error))
            })?;
        let export = |disk: &AttachedDisk| export_name(&vm.config.name, &disk.name);
        self.attached().insert(vm.id, disks.iter().map(export).collect());
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
        vm: &AgentVm,
        disk: &AttachedDisk,
    ) -> Result<Arc<dyn BlockDevice>, String> {
        let files = self.files();
        let in_words = |doing: &str, error: io::Error| format!("{doing}: {error}");
        if let (Some(mib), false) = (disk.create_mib, files.exists(&disk.image)) {
            let parent = disk.image.parent().map_or(Ok(()), std::fs::create_dir_all);
            parent
                .and_then(|()| files.open(&disk.image, Open::CreateNew))
                .and_then(|file| file.set_len(mib << 20))
                .map_err(|error| in_words("create the image", error))?;
        }
        let opened = RawDisk::open(&files, &disk.image, Open::Write);
        let whole = opened.map_err(|error| in_full(&error))?;
        let known = self.known(vm.id).filter(|known| !known.free);
        let own = known.as_ref().and_then(|it| it.disks.iter().find(|own| own.id == disk.id));
        let Some(known) = own.map(|own| own.size_bytes) else { return Ok(Arc::new(whole)) };
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
        self.disks_of(vm)
            .into_iter()
            .map(|disk| {
                let size_bytes = size(&disk)?;
                Some(Disk { id: disk.id, name: disk.name, size_bytes })
            })
            .collect()
    }

    /// Takes the exports of a VM away that is attached here: whoever is connected to them is cut off.
    pub(super) fn withdraw(&self, vm: &Vm) {
        let names = self.attached().get(&vm.id).cloned().unwrap_or_default();
        self.take_away(&names);
    }

    fn take_away(&self, exports: &[String]) {
        for name in exports {
            self.parts.exports.remove(name);
        }
    }

    /// Lets all VMs go in an orderly way: the next start finds nothing to redo.
    pub(super) fn detach_all(&self) {
        let all: Vec<VmId> = self.attached().keys().copied().collect();
        for id in all {
            self.let_go(id);
        }
    }

    /// Lets a VM go in an orderly way, as to another member of the cluster. One that is not here is no error.
    pub(super) fn release(&self, id: VmId) {
        if self.attached().contains_key(&id) {
            self.let_go(id);
        }
    }

    fn let_go(&self, id: VmId) {
        let names = self.attached().remove(&id).unwrap_or_default();
        self.take_away(&names);
        let Some(source) = self.parts.sources.detach(id) else { return };
        if let Err(error) = source.tracker.close() {
            tracing::error!(vm = %id, %error, "close the disks of a VM");
        }
    }

    fn attached(&self) -> MutexGuard<'_, BTreeMap<VmId, Vec<String>>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dies as the process of an agent does by kill -9: files and exports are gone at once, nothing is
    /// closed.
    pub(super) fn die(&self) {
        self.files().kill();
        let attached = std::mem::take(&mut *self.attached());
        for (vm, names) in attached {
            self.take_away(&names);
            self.parts.sources.detach(vm);
        }
    }

    /// Comes up again after [`HostAgent::die`].
    pub(super) fn come_up(&self, standing: impl Fn(VmId) -> Standing) {
        let fresh = LabFiles::new(Arc::new(RealFiles), &self.name);
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.attach_all(standing);
    }
}
