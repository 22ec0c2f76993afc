//! The service: configuration, wiring of the adapters, start and stop.

mod bandwidth;
mod clock;
mod config;
mod health;
mod host_agent;
mod logging;
mod random;
mod running;
mod sites;

pub use bandwidth::BandwidthConfig;
pub use clock::SystemClock;
pub use config::{
    Config, ConfigError, DiskConfig, GuestConfig, HostConfig, PolicyConfig, VaultConfig, VmConfig,
};
pub use host_agent::AttachedDisk;
pub use logging::log_to_stderr;
pub use random::KernelRandom;
pub use running::{ProtectedVm, Service, ServiceError};
