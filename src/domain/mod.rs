//! The domain: pure state machines. No clock, no I/O, no randomness; times and ids arrive inside
//! commands.

pub mod catalogue;
pub mod cloud;
pub mod entity;
pub mod fabric;
pub mod failure;
pub mod host;
pub mod id;
pub mod job;
pub mod machine;
pub mod placement;
pub mod plan;
pub mod policy;
pub mod prerequisites;
pub mod retention;
pub mod retry;
pub mod time;
pub mod vault;
pub mod vm;
