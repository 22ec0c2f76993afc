//! The event store on sled.
//!
//! The lower level is a log of records that knows nothing of the domain: [`record`] (bytes),
//! [`log`] (open, append, read, close), the committer, the watermark and the index. The upper level is
//! typed: [`SledStore`] and [`MemoryStore`] implement the port, [`payload`] turns commits into bytes,
//! [`jsonl`] into text, [`verify`] finds what is damaged, [`raw`] reads a log that somebody else has open.

mod attached;
mod builds;
mod committer;
mod index;
pub mod jsonl;
pub mod log;
mod memory;
mod opening;
pub mod payload;
mod places;
pub mod raw;
pub mod record;
mod segments;
mod sled_store;
mod sled_tree;
pub mod state;
pub mod verify;
mod watermark;

pub use attached::StateAt;
pub use builds::{BUILD, this_build};
pub use memory::MemoryStore;
pub use sled_store::SledStore;
