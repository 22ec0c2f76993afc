//! The service: configuration, wiring of the adapters, start and stop.

mod alerts;
mod bandwidth;
mod clock;
mod cluster;
mod config;
mod control;
mod enrolment;
mod health;
mod host_agent;
mod images;
mod inventory;
mod key_file;
mod logging;
mod mail;
mod random;
mod running;
mod sites;
mod storage;

pub use alerts::AlertsConfig;
pub use bandwidth::BandwidthConfig;
pub use clock::SystemClock;
pub use config::{
    AzureConfig, Config, ConfigError, DiskConfig, GuestConfig, HostConfig, PolicyConfig,
    Registration, S3Config, VaultConfig, VmConfig,
};
pub use control::{ENDPOINT_FILE, EndpointFile};
pub use host_agent::AttachedDisk;
pub use inventory::{
    MachineConfig, NetworkConfig, NicConfig, RecoveryConfig, SizeConfig, SubnetConfig, TraitsConfig,
};
pub use key_file::{KeyFileProblem, create as create_key_file, rotate as rotate_key_file};
pub use logging::log_to_stderr;
pub use mail::MailConfig;
pub use random::KernelRandom;
pub use running::{ProtectedVm, Service, ServiceError, vault_id};
pub use storage::{StorageError, open_folder, open_storage, open_vault, with_keys};
