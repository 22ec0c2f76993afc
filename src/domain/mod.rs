//! The domain: pure state machines. No clock, no I/O, no randomness; times and ids arrive inside
//! commands.

pub mod catalogue;
pub mod failure;
pub mod id;
pub mod retry;
pub mod time;
