//! Images that are to be disks of VMs.

use super::host_agent::{HostAgent, export_name};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure};
use crate::domain::vm::Vm;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Looks at an image that is to be the disk `name` of a VM: answers its bytes.
///
/// # Errors
/// `HostLost`, `DiskUnusable`, `DiskInUse`.
pub(super) fn look(
    agents: &[Arc<HostAgent>],
    vm: &Vm,
    name: &str,
    image: &Path,
) -> Result<u64, Failure> {
    let cause = Cause::Host(vm.host);
    let unusable = |because: String| {
        Failure::new(Code::DiskUnusable, cause, because).with("disk", image.display())
    };
    let in_use = |by: String| {
        Failure::new(Code::DiskInUse, cause, "")
            .with("path", image.display())
            .with("vm", &vm.name)
            .with("damage", by)
    };
    let Some(agent) = agents.iter().find(|agent| agent.host == vm.host) else {
        let lost = Failure::new(Code::HostLost, cause, "the configuration does not have it");
        return Err(lost.with("host", vm.host));
    };
    if !image.is_absolute() {
        return Err(unusable("its path does not begin with /".to_owned()));
    }
    agent.check_place(vm.id, name, image).map_err(unusable)?;
    if let Some(configured) = agent.configured(vm.id, name)
        && !same_file(configured, image)
    {
        let place = configured.display();
        return Err(unusable(format!("the configuration has disk {name} at {place}")));
    }
    if let Some(owner) = agents.iter().find_map(|agent| agent.owner_of(image)) {
        return Err(in_use(owner));
    }
    let export = export_name(&vm.name, name);
    if let Some(owner) = agents.iter().find_map(|agent| agent.owner_of_export(&export)) {
        return Err(in_use(format!("to be exported as {export}, and so is {owner}")));
    }
    agent.bytes_of(image).map_err(unusable)
}

/// Whether two paths lead to one file, or would if there were one.
pub(super) fn same_file(one: &Path, other: &Path) -> bool {
    let file = |path| fs::metadata(path).map(|about| (about.dev(), about.ino())).ok();
    one.components().eq(other.components())
        || file(one).zip(file(other)).is_some_and(|(one, other)| one == other)
}
