//! Errors of the data plane as entries of the catalogue, with the facts that their messages name.

use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Classified, Failure};
use crate::domain::vm::Vm;
use crate::replica::VaultError;
use std::error::Error;
use std::io;

/// An error with everything that led to it, in one line.
pub(super) fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors print their source themselves.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A failure at the vault.
pub(super) fn at_vault(vm: &Vm, operation: &str, error: &VaultError) -> Failure {
    Failure::new(error.code(), Cause::Vault(vm.vault), in_full(error))
        .with("target", "the vault")
        .with("operation", operation)
        .with("vm", &vm.name)
        .with("object", error.object().unwrap_or("of the vault"))
        .with("damage", error)
}

/// A failure at the VM's host.
pub(super) fn at_host(vm: &Vm, operation: &str, error: &(impl Classified + 'static)) -> Failure {
    let code = if is_host_gone(error) { Code::HostLost } else { error.code() };
    Failure::new(code, Cause::Host(vm.host), in_full(error))
        .with("host", vm.host)
        .with("vm", &vm.name)
        .with("disk", &vm.name)
        .with("path", "the VM's disks")
        .with("operation", operation)
        .with("damage", error)
}

/// The VM's host, or what stands for it here, does not answer.
pub(super) fn host_lost(vm: &Vm) -> Failure {
    Failure::new(Code::HostLost, Cause::Host(vm.host), "its disks are not attached")
        .with("host", vm.host)
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
