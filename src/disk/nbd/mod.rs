//! NBD, the network block device protocol: how a hypervisor reaches a disk.
//!
//! Source of everything here: <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

mod buffers;
mod client;
mod device;
mod exports;
pub mod protocol;
mod server;
mod session;
mod socket;
mod transmission;

pub use client::{BlockExtent, Client, ClientError};
pub use device::{NbdDisk, UriError};
pub use exports::Exports;
pub use server::Server;
pub use socket::{Endpoint, NbdUri};
