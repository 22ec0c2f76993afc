//! A virtual machine as its hypervisor describes it: what the prerequisites look at, and what its replica
//! needs at the recovery site.
//!
//! Names and addresses are texts, which are compared and never taken apart where something is decided.

use super::id::DiskId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The description of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its firmware and virtual hardware.
    pub generation: Generation,
    /// Its processors.
    pub architecture: Architecture,
    /// Its guest's operating system.
    pub system: System,
    /// Its virtual processors.
    pub cores: u32,
    /// Its memory.
    pub memory_mib: u64,
    /// What its disks are; one that is not named is a plain data disk.
    pub disks: Vec<DiskTraits>,
    /// Its network adapters, in order.
    pub nics: Vec<Nic>,
    /// What it uses beyond that.
    pub features: BTreeSet<Feature>,
}

/// The virtual hardware of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generation {
    /// BIOS.
    #[default]
    One,
    /// UEFI.
    Two,
}

/// Processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// 64 bits, Intel and AMD.
    #[default]
    X64,
    /// 32 bits, Intel and AMD.
    X86,
    /// 64 bits, ARM.
    Arm64,
}

/// Guest operating systems, as far as a rule tells them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// Linux.
    #[default]
    Linux,
    /// Windows.
    Windows,
    /// Another.
    Other,
}

/// What a disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact that one rule asks for")]
pub struct DiskTraits {
    /// Which disk.
    pub disk: DiskId,
    /// What it is for.
    pub role: DiskRole,
    /// The format of its file.
    pub format: DiskFormat,
    /// Whether the guest made it a dynamic disk, instead of a basic one.
    pub dynamic: bool,
    /// Whether other VMs use it as well.
    pub shared: bool,
    /// Whether it is a logical unit behind a virtual Fibre Channel adapter.
    pub fibre_channel: bool,
    /// Whether the guest encrypts it.
    pub encrypted: bool,
    /// Bytes of a logical sector.
    pub sector_bytes: u32,
}

/// What a disk is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskRole {
    /// The guest boots from it.
    Os,
    /// Everything else.
    #[default]
    Data,
}

/// Formats of disk files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The bytes of the disk.
    #[default]
    Raw,
    /// Virtual hard disk, version 1.
    Vhd,
    /// Virtual hard disk, version 2.
    Vhdx,
    /// QEMU's.
    Qcow2,
    /// No file: a disk of the host.
    PassThrough,
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its name, unique in the VM.
    pub name: String,
    /// The VM network that it is in; `None` if it is in none.
    pub network: Option<String>,
    /// The subnet of that.
    pub subnet: Option<String>,
    /// Its IPv4 address; `None` where one is leased.
    pub address: Option<String>,
    /// Whether the guest set the address itself, instead of being given it.
    pub fixed: bool,
}

/// What a VM can use that some sites cannot give its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// IPv6 addresses.
    Ipv6,
    /// Network adapters that the guest puts together.
    NicTeaming,
    /// Network adapters that pass the host by.
    AcceleratedNetworking,
    /// Shares over SMB 3 that the guest mounts.
    GuestSmb3,
    /// Disks that come and go while it runs.
    HotDisks,
    /// Windows Nano Server.
    NanoServer,
    /// Linux' logical volumes for the disk that it boots from.
    LvmOnOsDisk,
}
