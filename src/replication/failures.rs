//! Errors of the data plane as entries of the catalogue, with the facts that their messages name.

use crate::disk::hrl::LogError;
use crate::disk::tracker::{Broken, TrackError};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure, in_full};
use crate::domain::vm::{Side, Vm};
use crate::replica::VaultError;
use std::error::Error;
use std::io;
use std::path::Path;

/// What the recovery site is called in messages.
pub(super) const RECOVERY_SITE: &str = "the recovery site";

/// A failure at the vault.
pub(super) fn at_vault(vm: &Vm, operation: &str, error: &VaultError) -> Failure {
    Failure::new(error.code(), Cause::Vault(vm.vault), in_full(error))
        .with("target", "the vault")
        .with("operation", operation)
        .with("vm", &vm.name)
        .with("object", error.object().unwrap_or("of the vault"))
        .with("damage", error)
}

/// A failure where the VM's disks are.
pub(super) fn at_host(
    vm: &Vm,
    side: Side,
    operation: &str,
    error: &(impl Classified + 'static),
) -> Failure {
    let code = if is_host_gone(error) { Code::HostLost } else { error.code() };
    let failure = Failure::new(code, cause(vm, side), in_full(error));
    with_tracking_facts(failure, vm, operation, error).with("host", host(vm, side))
}

/// What must recover where a VM's disks are at this side.
pub(super) fn cause(vm: &Vm, side: Side) -> Cause {
    match side {
        Side::Primary => Cause::Host(vm.host),
        Side::Recovery => Cause::Itself,
    }
}

/// Who has a VM's disks at this side.
pub(super) fn host(vm: &Vm, side: Side) -> String {
    match side {
        Side::Primary => vm.host.to_string(),
        Side::Recovery => RECOVERY_SITE.to_owned(),
    }
}

/// The facts of an error of the tracker or of its logs.
pub(super) fn with_tracking_facts(
    failure: Failure,
    vm: &Vm,
    operation: &str,
    error: &(dyn Error + 'static),
) -> Failure {
    let path = file_of(error).unwrap_or_else(|| Path::new("the VM's disks"));
    failure
        .with("vm", &vm.name)
        .with("disk", disk_of(vm, error))
        .with("path", path.display())
        .with("operation", operation)
        .with("check", format_args!("what {operation} needs"))
        .with("damage", error)
}

/// The file that an error of the tracker or of its logs is about.
fn file_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Path> {
    if let Some(error) = error.downcast_ref() {
        return match error {
            TrackError::File { path, .. } | TrackError::StateDamaged { path } => Some(path),
            TrackError::LowSpace(low) => Some(&low.folder),
            TrackError::Log(error) => file_of(error),
            TrackError::Broken(broken) => file_of(broken),
            TrackError::Disk { .. }
            | TrackError::NotDurable { .. }
            | TrackError::DiskName { .. }
            | TrackError::NotTracking
            | TrackError::InTransit { .. }
            | TrackError::NotInTransit { .. }
            | TrackError::NumberUsed { .. }
            | TrackError::ChainOver { .. }
            | TrackError::Closed => None,
        };
    }
    if let Some(
        Broken::LogWriteFailed { path, .. }
        | Broken::LogDamaged { path, .. }
        | Broken::LogMissing { path }
        | Broken::DiskChangedOffline { path, .. },
    ) = error.downcast_ref()
    {
        return Some(path);
    }
    match error.downcast_ref()? {
        LogError::Io { path, .. }
        | LogError::Damaged { path, .. }
        | LogError::Apply { path, .. } => Some(path),
    }
}

/// The disk that an error is about, or else all of the VM's.
fn disk_of<'a>(vm: &'a Vm, error: &(dyn Error + 'static)) -> &'a str {
    let id = match error.downcast_ref() {
        Some(TrackError::Disk { disk, .. } | TrackError::NotDurable { disk, .. }) => Some(*disk),
        _ => None,
    };
    let disk = vm.disks.iter().find(|disk| Some(disk.id) == id);
    disk.map_or(&vm.name, |disk| &disk.name)
}

/// The VM's host, or what stands for it here, does not answer. At the recovery site: nobody serves its
/// disks yet.
pub(super) fn host_lost(vm: &Vm, side: Side) -> Failure {
    let because = match side {
        Side::Primary => "its disks are not attached",
        Side::Recovery => "its disks are not served",
    };
    Failure::new(Code::HostLost, cause(vm, side), because)
        .with("host", host(vm, side))
        .with("vm", &vm.name)
}

/// A state that the operation cannot go on from.
pub(super) fn invalid(vm: &Vm, operation: &str, damage: &str) -> Failure {
    Failure::new(Code::ReplicaInvalid, Cause::Vault(vm.vault), "")
        .with("vm", &vm.name)
        .with("operation", operation)
        .with("damage", damage)
}

/// Whether an I/O error says that the whole host is gone, not a file of it.
fn is_host_gone(error: &(dyn Error + 'static)) -> bool {
    let causes =
        std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source());
    causes.into_iter().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::NotConnected)
    })
}
