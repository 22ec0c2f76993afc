//! The write tracker, its `.hrl` files, and the NBD server that a hypervisor writes to.
//!
//! ```text
//! hypervisor -- NBD --> nbd::Server --> tracker::TrackedDisk --> hrl::LogWriter   <disk>.hrl
//!                                                          \--> BlockDevice       the disk itself
//! ```
//!
//! Everything here blocks; it runs on threads of its own, never on an async executor.

mod bounds;
pub mod files;
pub mod hrl;
pub mod nbd;
pub mod raw;
pub mod tracker;
