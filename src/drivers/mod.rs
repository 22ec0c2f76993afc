//! Drivers: the hypervisors of a site. Each kind is a module of its own behind
//! [`Hypervisor`](crate::ports::hypervisor::Hypervisor).

pub mod lab;
