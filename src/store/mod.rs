//! The event store on sled.
//!
//! The lower level is a log of records that knows nothing of the domain: [`record`] (bytes),
//! [`log`] (open, append, read, close), the committer, the watermark and the index. The upper level is
//! typed: [`SledStore`] and [`MemoryStore`] implement the port, [`payload`] turns commits into bytes,
//! [`jsonl`] into text, [`verify`] finds what is damaged.

mod committer;
mod index;
pub mod log;
pub mod record;
mod segments;
mod sled_tree;
pub mod state;
mod watermark;
