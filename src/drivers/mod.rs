//! Drivers: what reaches the machines of a site. The hypervisors of each kind are a module of their own
//! behind [`Hypervisor`](crate::ports::hypervisor::Hypervisor).

pub mod actions;
pub mod lab;
