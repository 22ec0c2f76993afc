//! Ports: what the actors and the data plane ask of the world, as traits. Each has a real adapter and
//! one that a test or a simulation can break.

pub mod actions;
pub mod block;
pub mod clock;
pub mod event_store;
pub mod files;
pub mod hypervisor;
pub mod random;
pub mod replication;
