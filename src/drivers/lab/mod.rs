//! The lab: VMs made of real disks and a seeded write workload, for the demo and the tests.
//!
//! ```text
//!  LabSite  hosts that can be lost, VMs that start and shut down     (the hypervisor port)
//!    Guest  a thread: boot check, then write after write, FLUSH every 64
//!      Workload  write n is a pure function of (seed, n), byte for byte
//!        check  proves that disks hold exactly what the first k writes leave
//! ```
//!
//! Because a guest issues its writes one after the other over all of its disks, disks that pass the
//! [`check`] are one crash-consistent point of the whole VM, and its `last_write` says which.
//! [`Faults`] and [`LabFiles`] break what is around the guests: the link, the vault, a host.

mod faults;
mod files;
mod guest;
mod site;
mod workload;

pub use faults::{Fault, Faults, FaultyStore};
pub use files::LabFiles;
pub use guest::{AfterBoot, Crash, Guest, Machine, State, Status, TRANSACTION_WRITES};
pub use site::{LabError, LabSite, LabVm};
pub use workload::{
    BLOCK_BYTES, CheckError, Checked, Content, LastWrite, Mismatch, Model, Workload, WorkloadError,
    Write, check,
};
