//! Replication: from the tracked disks of running VMs into the vault, and from the vault to disks that
//! a failed-over VM runs on.
//!
//! ```text
//!  Tracker --cut--> logs in transit --merge--> DeltaWriter --commit--> segments --> recovery point
//!  Tracker --read--> region of 64 MiB ------> BaseCopy ----complete--> base
//!  Tracker --read--> chunks that differ from the vault's checksums --> DeltaWriter --commit--> segments
//!  recovery point --> DiskImage --> Overlay --> Tracker --> NBD export at the recovery site
//!  DiskImage --what an Overlay lacks--> Overlay, which is a raw image then
//! ```
//!
//! What is durable when: a base region or segment once its create-if-absent PUT is acknowledged; a
//! delta once the last segment of every disk is, and its recovery point after that; logs are removed
//! only after the point is. A crash between any two of these is taken up by doing the step again:
//! names and contents of the objects follow from the logs, so what is there already is recognized.
//!
//! Nothing here retries or waits for better times; failures are catalogue entries, and the VM's actor
//! decides. Everything runs on the data plane's own runtime and its blocking threads.

mod copy;
mod differences;
mod download;
mod engine;
mod failures;
mod last_writes;
pub mod pace;
mod recovery;
mod restore;
mod resync;
mod shipment;
mod source;
mod upkeep;

pub use engine::{Engine, EngineParts};
pub use recovery::RecoverySite;
pub use source::{Source, Sources};
