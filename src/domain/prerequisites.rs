//! What a VM must be so that it can be protected: one table, looked at as a whole before anything is copied.
//!
//! Source: the support matrix of Site Recovery for Hyper-V. A VM that nobody described is not held to it.

use super::machine::{
    Architecture, DiskFormat, DiskRole, DiskTraits, Feature, Generation, Machine, System,
};
use super::vm::{Disk, Vm};

/// A check, with its rule as people read it and what is to be done about a VM that fails it.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its name, for programs; never changed.
    pub id: &'static str,
    /// What must be so.
    pub rule: &'static str,
    /// What to do if it is not.
    pub action: &'static str,
    /// What is not so, if it is not.
    finds: fn(&Subject<'_>) -> Option<String>,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The name of the check.
    pub id: &'static str,
    /// What must be so.
    pub rule: &'static str,
    /// What is not so; `None` if all is well.
    pub found: Option<String>,
    /// What to do if it is not.
    pub action: &'static str,
}

/// Bytes of a GB as the support matrix counts them.
const GB: u64 = 1 << 30;

/// The largest disk that a VM of generation 1 boots from.
const OS_DISK_GB_1: u64 = 2_048;

/// The largest disk that a VM of generation 2 boots from.
const OS_DISK_GB_2: u64 = 300;

/// The most data disks of a VM, and of one of generation 2.
const DATA_DISKS: usize = 16;
const DATA_DISKS_2: usize = 2;

/// The largest data disk.
const DATA_DISK_GB: u64 = 4_095;

const REBUILD: &str = "Protect it by other means, or build it anew with what the rule allows.";
const ONE_BY_ONE: &str =
    "Detach the disk from the VM, or give the VM a disk file of its own instead.";

/// Every check, in the order in which people read them.
pub const CHECKS: &[Check] = &[
    Check {
        id: "vm-name",
        rule: "the name has 1 to 63 letters, digits and hyphens, with no hyphen at either end",
        action: "Rename the VM.",
        finds: |vm| (!is_good_name(vm.name)).then(|| format!("its name is {:?}", vm.name)),
    },
    Check {
        id: "architecture",
        rule: "the guest is of 64 bits",
        action: REBUILD,
        finds: |vm| {
            let is_32 = vm.machine.architecture == Architecture::X86;
            is_32.then(|| "its guest is of 32 bits".to_owned())
        },
    },
    Check {
        id: "generation",
        rule: "generation 1, or generation 2 with Windows and at most 2 data disks, all of them VHDX",
        action: "Convert the VM to generation 1, or its disks to VHDX.",
        finds: unsound_generation,
    },
    Check {
        id: "os-disk",
        rule: "there is one OS disk",
        action: "Say in the VM's description which disk it boots from.",
        finds: |vm| match vm.disks(DiskRole::Os).count() {
            1 => None,
            0 => Some("none of its disks is the OS disk".to_owned()),
            count => Some(format!("{count} of its disks are OS disks")),
        },
    },
    Check {
        id: "os-disk-size",
        rule: "the OS disk has at most 2,048 GB, with generation 2 at most 300 GB",
        action: "Shrink the OS disk, or move what is not the system to a data disk.",
        finds: |vm| {
            let most = match vm.machine.generation {
                Generation::One => OS_DISK_GB_1,
                Generation::Two => OS_DISK_GB_2,
            };
            too_large(vm.disks(DiskRole::Os), most)
        },
    },
    Check {
        id: "os-disk-basic",
        rule: "the OS disk is a basic disk",
        action: "Convert the OS disk to a basic one.",
        finds: |vm| vm.having(DiskRole::Os, "is a dynamic disk", |traits| traits.dynamic),
    },
    Check {
        id: "os-disk-lvm",
        rule: "logical volumes are on data disks only",
        action: "Move the system off the logical volume.",
        finds: |vm| vm.uses(Feature::LvmOnOsDisk, "it boots from a logical volume"),
    },
    Check {
        id: "data-disks",
        rule: "there are at most 16 data disks",
        action: "Put the data of several disks together on one.",
        finds: |vm| {
            let count = vm.disks(DiskRole::Data).count();
            (DATA_DISKS < count).then(|| format!("it has {count}"))
        },
    },
    Check {
        id: "data-disk-size",
        rule: "a data disk has at most 4,095 GB",
        action: "Spread the data over several disks.",
        finds: |vm| too_large(vm.disks(DiskRole::Data), DATA_DISK_GB),
    },
    Check {
        id: "disk-format",
        rule: "disks are VHD, VHDX or raw files",
        action: "Convert the file with `qemu-img convert`, or move a disk of the host into a file.",
        finds: |vm| {
            vm.any("has another format", |traits| {
                matches!(traits.format, DiskFormat::Qcow2 | DiskFormat::PassThrough)
            })
        },
    },
    Check {
        id: "disk-shared",
        rule: "no disk is shared with another VM",
        action: ONE_BY_ONE,
        finds: |vm| vm.any("is shared", |traits| traits.shared),
    },
    Check {
        id: "disk-fibre-channel",
        rule: "no disk is behind a virtual Fibre Channel adapter",
        action: ONE_BY_ONE,
        finds: |vm| vm.any("is behind Fibre Channel", |traits| traits.fibre_channel),
    },
    Check {
        id: "disk-encrypted",
        rule: "no disk is encrypted by the guest",
        action: "Decrypt the disk; the vault can encrypt the replica.",
        finds: |vm| vm.any("is encrypted", |traits| traits.encrypted),
    },
    Check {
        id: "disk-sectors",
        rule: "logical sectors have 512 bytes",
        action: "Convert the disk to one of 512 bytes a logical sector; 4 KiB physical ones are fine.",
        finds: |vm| vm.any("has others", |traits| traits.sector_bytes != 512),
    },
    Check {
        id: "hot-disks",
        rule: "disks do not come and go while the VM runs",
        action: "Attach the disks for good.",
        finds: |vm| vm.uses(Feature::HotDisks, "its disks are hot-plugged"),
    },
    Check {
        id: "guest-smb3",
        rule: "the guest uses no shares over SMB 3; the host may",
        action: "Move the data to a disk of the VM.",
        finds: |vm| vm.uses(Feature::GuestSmb3, "its guest does"),
    },
    Check {
        id: "ipv6",
        rule: "addresses are IPv4",
        action: "Give the guest IPv4 addresses alone.",
        finds: |vm| vm.uses(Feature::Ipv6, "it uses IPv6"),
    },
    Check {
        id: "nic-teaming",
        rule: "the guest does not team its network adapters; the host may",
        action: "Undo the team in the guest.",
        finds: |vm| vm.uses(Feature::NicTeaming, "its guest does"),
    },
    Check {
        id: "accelerated-networking",
        rule: "network adapters do not pass the host by",
        action: "Switch accelerated networking off.",
        finds: |vm| vm.uses(Feature::AcceleratedNetworking, "they do"),
    },
    Check {
        id: "linux-static-address",
        rule: "a Linux guest does not set its addresses itself",
        action: "Have the guest lease its address; a reservation may give it the same one always.",
        finds: |vm| {
            let linux = vm.machine.system == System::Linux;
            let fixed = vm.machine.nics.iter().filter(|nic| linux && nic.fixed);
            named(fixed.map(|nic| nic.name.as_str()), "has a static address")
        },
    },
    Check {
        id: "nano-server",
        rule: "the guest is no Nano Server",
        action: REBUILD,
        finds: |vm| vm.uses(Feature::NanoServer, "it is"),
    },
];

/// The VM that is looked at.
struct Subject<'a> {
    name: &'a str,
    disks: &'a [Disk],
    machine: &'a Machine,
}

impl Subject<'_> {
    fn traits(&self, disk: &Disk) -> Option<&DiskTraits> {
        self.machine.disks.iter().find(|traits| traits.disk == disk.id)
    }

    fn role(&self, disk: &Disk) -> DiskRole {
        self.traits(disk).map_or(DiskRole::Data, |traits| traits.role)
    }

    fn disks(&self, role: DiskRole) -> impl Iterator<Item = &Disk> {
        self.disks.iter().filter(move |disk| self.role(disk) == role)
    }

    /// The disks of which something holds.
    fn any(&self, what: &str, is: impl Fn(&DiskTraits) -> bool) -> Option<String> {
        let found = self.disks.iter().filter(|disk| self.traits(disk).is_some_and(&is));
        named(found.map(|disk| disk.name.as_str()), what)
    }

    /// The disks of a role of which something holds.
    fn having(
        &self,
        role: DiskRole,
        what: &str,
        is: impl Fn(&DiskTraits) -> bool,
    ) -> Option<String> {
        self.any(what, |traits| traits.role == role && is(traits))
    }

    fn uses(&self, feature: Feature, found: &str) -> Option<String> {
        self.machine.features.contains(&feature).then(|| found.to_owned())
    }
}

/// Every verdict on a VM; none on one that nobody described.
pub fn verdicts(vm: &Vm) -> Vec<Verdict> {
    let Some(machine) = &vm.machine else { return vec![] };
    let subject = Subject { name: &vm.name, disks: &vm.disks, machine };
    let verdict = |check: &Check| Verdict {
        id: check.id,
        rule: check.rule,
        found: (check.finds)(&subject),
        action: check.action,
    };
    CHECKS.iter().map(verdict).collect()
}

/// The verdict on the cluster of a VM's host, of which these members are not registered with the vault: what
/// the VM would write there, nobody would track. Only the configuration knows a host that is not registered.
pub fn of_cluster<'a>(unregistered: impl Iterator<Item = &'a str>) -> Verdict {
    Verdict {
        id: "cluster-registered",
        rule: "every member of the host's cluster is registered with the vault",
        found: named(unregistered, "is not registered"),
        action: "Register each of them with `lifeboat host register`.",
    }
}

/// What stands in the way of protecting a VM, a sentence each.
pub(super) fn failed(vm: &Vm) -> Vec<String> {
    verdicts(vm).iter().filter_map(Verdict::refusal).collect()
}

impl Verdict {
    /// What is not so, with its rule and what to do.
    pub fn refusal(&self) -> Option<String> {
        let found = self.found.as_ref()?;
        Some(format!("{}: {found}; required: {}. {}", self.id, self.rule, self.action))
    }
}

fn unsound_generation(vm: &Subject<'_>) -> Option<String> {
    if vm.machine.generation == Generation::One {
        return None;
    }
    if vm.machine.system != System::Windows {
        return Some("it is of generation 2 without Windows".to_owned());
    }
    let data = vm.disks(DiskRole::Data).count();
    if DATA_DISKS_2 < data {
        return Some(format!("it is of generation 2 and has {data} data disks"));
    }
    let found = "is no VHDX, of a VM of generation 2";
    vm.having(DiskRole::Data, found, |traits| traits.format != DiskFormat::Vhdx)
}

fn too_large<'a>(disks: impl Iterator<Item = &'a Disk>, most_gb: u64) -> Option<String> {
    let large: Vec<_> = disks
        .filter(|disk| most_gb * GB < disk.size_bytes)
        .map(|disk| format!("disk {} has {} GB", disk.name, disk.size_bytes.div_ceil(GB)))
        .collect();
    (!large.is_empty()).then(|| large.join(", "))
}

fn named<'a>(names: impl Iterator<Item = &'a str>, what: &str) -> Option<String> {
    let names: Vec<_> = names.collect();
    (!names.is_empty()).then(|| format!("{} {what}", names.join(", ")))
}

/// What the name of a VM, or of its disk, has. Site Recovery's rule for VMs; names become file names and export names.
pub const NAME_RULE: &str = "1 to 63 letters, digits and hyphens, with no hyphen at either end";

/// Whether a name is as [`NAME_RULE`] says.
pub fn is_good_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
