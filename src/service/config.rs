//! The configuration file. Every key is checked before anything is touched; an error names the line.

use super::alerts::AlertsConfig;
use super::bandwidth::BandwidthConfig;
use super::host_agent::export_name;
use super::inventory::{self, MachineConfig, NetworkConfig, RecoveryConfig, TraitsConfig};
use crate::domain::policy::Policy;
use crate::domain::prerequisites::{NAME_RULE, is_good_name};
use crate::domain::vm::{ResyncWindow, StatisticsSchedule};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The largest image, 64 TiB: what Site Recovery's hypervisors allow a disk (VHDX).
const MAX_IMAGE_MIB: u64 = 64 << 20;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what a configuration is.
    #[error("configuration {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: toml::de::Error,
    },
    /// A value cannot be used.
    #[error("configuration {path}: {key} {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// A configuration. Relative paths are relative to `data`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The folder of everything that the service writes, but for the vault if that has its own place.
    pub data: PathBuf,
    /// Where `/healthz` and `/readyz` answer; port 0 takes a free one.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The clouds that the hosts form: the name of the only one, or a table for each.
    #[serde(default, deserialize_with = "one_or_more_clouds")]
    pub cloud: Vec<CloudConfig>,
    /// How the VMs of a cloud are replicated that has no policy of its own.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// Where replicas go.
    #[serde(default)]
    pub vault: VaultConfig,
    /// How fast each host may send.
    #[serde(default)]
    pub bandwidth: BandwidthConfig,
    /// The intervals in which replication is measured.
    #[serde(default)]
    pub statistics: StatisticsConfig,
    /// Who is told of what goes wrong.
    #[serde(default)]
    pub alerts: AlertsConfig,
    /// The VM networks of the primary site.
    #[serde(default)]
    pub network: Vec<NetworkConfig>,
    /// The recovery site.
    #[serde(default)]
    pub recovery: RecoveryConfig,
    /// The hosts.
    #[serde(default)]
    pub host: Vec<HostConfig>,
}

/// A cloud: hosts whose VMs are replicated by one policy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudConfig {
    /// Its name.
    pub name: String,
    /// How its VMs are replicated, where that is not what holds for all.
    pub policy: Option<PolicyConfig>,
}

/// The replication policy of a cloud.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// Seconds between two deltas.
    pub copy_frequency_s: u32,
    /// Hours for which recovery points are kept.
    pub recovery_point_retention_h: u32,
    /// Hours between application-consistent points; 0 for none.
    pub app_consistent_frequency_h: u32,
    /// When resynchronizations begin by themselves.
    pub resync_window: WindowConfig,
}

/// The intervals in which replication is measured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatisticsConfig {
    /// Hours of an interval, 1 to 168.
    pub interval_h: u16,
    /// A local time of the day at which one begins, as `09:00`.
    pub start: String,
}

impl Default for StatisticsConfig {
    /// 12 hours from 09:00, as Hyper-V Replica's default.
    fn default() -> Self {
        Self { interval_h: 12, start: "09:00".to_owned() }
    }
}

impl StatisticsConfig {
    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |name: &str, problem| Err((format!("statistics.{name}"), problem));
        if minute_of_day(&self.start).is_none() {
            let problem = format!("is {:?}, but must be a time as in \"09:00\"", self.start);
            return wrong("start", problem);
        }
        match self.at_site(0).check() {
            Ok(()) => Ok(()),
            Err(rejection) => wrong("interval_h", rejection.to_string()),
        }
    }

    /// The intervals at a site whose local time is ahead of UTC by so many minutes.
    pub fn at_site(&self, utc_offset_minutes: i16) -> StatisticsSchedule {
        let start_minute = minute_of_day(&self.start).unwrap_or_default();
        StatisticsSchedule { hours: self.interval_h, start_minute, utc_offset_minutes }
    }
}

/// A window of resynchronizations: `always`, `manual`, or local times of the day as `18:30-06:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum WindowConfig {
    /// At once.
    Always,
    /// Only when an operator asks.
    Manual,
    /// From the first to the second, in minutes after midnight.
    Daily(u16, u16),
}

/// Where replicas go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VaultConfig {
    /// Its name.
    pub name: String,
    /// Its folder, if it is in no object store. On a volume of its own it survives the loss of the
    /// others.
    pub folder: PathBuf,
    /// The file with its keys, which encrypts it; `lifeboat vault key new` makes one.
    pub keys: Option<PathBuf>,
    /// Whether what is written is compressed.
    pub compress: bool,
    /// Whom it admits.
    pub registration: Registration,
    /// Its place in Azure Blob Storage.
    pub azure: Option<AzureConfig>,
    /// Its place in a store that speaks S3.
    pub s3: Option<S3Config>,
}

/// Whom a vault admits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Every host of the configuration.
    #[default]
    Automatic,
    /// Hosts, and the site's provider, that were registered with a key.
    Key,
}

/// A container in Azure Blob Storage.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureConfig {
    /// The storage account.
    pub account: String,
    /// The container, which must exist.
    pub container: String,
    /// Where the account is served, if that is not Azure itself.
    pub endpoint: Option<String>,
    /// The environment variable with the account key or a shared access signature.
    pub credential_env: Option<String>,
    /// The file with it.
    pub credential_file: Option<PathBuf>,
}

/// A bucket in a store that speaks S3.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// The bucket, which must exist.
    pub bucket: String,
    /// Its region.
    #[serde(default = "default_region")]
    pub region: String,
    /// Where it is served, if that is not AWS itself.
    pub endpoint: Option<String>,
    /// The environment variable with `ACCESS_KEY_ID:SECRET_ACCESS_KEY`.
    pub credential_env: Option<String>,
    /// The file with it.
    pub credential_file: Option<PathBuf>,
}

/// A host with its VMs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// Its name.
    pub name: String,
    /// Its cloud; may be left out where there is one.
    pub cloud: Option<String>,
    /// How fast it may send, where that is not what holds for all.
    pub bandwidth: Option<BandwidthConfig>,
    /// The cluster that it is a member of: its VMs may move to the other members, whose disks are the same.
    pub cluster: Option<String>,
    /// Its VMs.
    #[serde(default)]
    pub vm: Vec<VmConfig>,
}

/// A VM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// Its name.
    pub name: String,
    /// What it is beside its disks.
    #[serde(default)]
    pub machine: MachineConfig,
    /// Its disks, in order.
    pub disk: Vec<DiskConfig>,
    /// The lab's guest: writes that the VM does by itself. Without it the VM's disks are written to
    /// by whoever connects to their exports.
    pub guest: Option<GuestConfig>,
}

/// A disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Its name, unique in the VM.
    pub name: String,
    /// Its raw image.
    pub path: PathBuf,
    /// Makes the image, sparse, with so many MiB if it does not exist.
    pub create_mib: Option<u64>,
    /// What it is at its hypervisor.
    #[serde(default)]
    pub traits: TraitsConfig,
}

/// The lab's guest.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// What it writes follows from this.
    pub seed: u64,
    /// MiB of each disk that it fills first.
    #[serde(default = "default_install_mib")]
    pub install_mib: u64,
    /// Writes a second, after that.
    #[serde(default = "default_writes_per_second")]
    pub writes_per_second: u32,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7780))
}

/// The cloud of a configuration that names none.
const DEFAULT_CLOUD: &str = "cloud-1";

/// `cloud = "NAME"`, or `[[cloud]]` for each.
fn one_or_more_clouds<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<CloudConfig>, D::Error> {
    struct OneOrMore;

    impl<'de> Visitor<'de> for OneOrMore {
        type Value = Vec<CloudConfig>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name of the only cloud, or a [[cloud]] for each")
        }

        fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
            Ok(vec![CloudConfig { name: name.to_owned(), policy: None }])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, tables: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(tables))
        }
    }

    from.deserialize_any(OneOrMore)
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

fn default_install_mib() -> u64 {
    64
}

fn default_writes_per_second() -> u32 {
    100
}

impl Default for PolicyConfig {
    fn default() -> Self {
        let Policy { copy_frequency_s, recovery_point_retention_h, .. } = Policy::default();
        let resync_window = WindowConfig::default();
        // Only guests of the lab can be asked; others would cause nothing but warnings.
        let app_consistent_frequency_h = 0;
        Self {
            copy_frequency_s,
            recovery_point_retention_h,
            app_consistent_frequency_h,
            resync_window,
        }
    }
}

impl Default for WindowConfig {
    /// 18:30 to 06:00: outside office hours, as Hyper-V Replica's default.
    fn default() -> Self {
        Self::Daily(18 * 60 + 30, 6 * 60)
    }
}

impl TryFrom<String> for WindowConfig {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "always" => return Ok(Self::Always),
            "manual" => return Ok(Self::Manual),
            _ => {}
        }
        let times = times_of_day(&text);
        times.map(|(from, to)| Self::Daily(from, to)).ok_or_else(|| {
            format!(
                "is {text:?}, but must be \"always\", \"manual\", or times as in \"18:30-06:00\""
            )
        })
    }
}

/// The minutes of the day of two times like `18:30-06:00`.
pub(super) fn times_of_day(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    Some((minute_of_day(from.trim())?, minute_of_day(to.trim())?))
}

/// The minute of the day of a time like `18:30`.
fn minute_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two_digits = |text: &str| text.len() == 2 && text.bytes().all(|it| it.is_ascii_digit());
    if !two_digits(hours) || !two_digits(minutes) {
        return None;
    }
    let (hours, minutes) = (hours.parse::<u16>().ok()?, minutes.parse::<u16>().ok()?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

impl WindowConfig {
    /// The window at a site whose local time is ahead of UTC by so many minutes.
    pub fn at_site(self, utc_offset_minutes: i16) -> ResyncWindow {
        match self {
            Self::Always => ResyncWindow::Always,
            Self::Manual => ResyncWindow::Manual,
            Self::Daily(from_minute, to_minute) => {
                ResyncWindow::Daily { from_minute, to_minute, utc_offset_minutes }
            }
        }
    }
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            name: "vault-1".to_owned(),
            folder: PathBuf::from("vault"),
            keys: None,
            compress: true,
            registration: Registration::default(),
            azure: None,
            s3: None,
        }
    }
}

impl From<PolicyConfig> for Policy {
    fn from(config: PolicyConfig) -> Self {
        Self {
            copy_frequency_s: config.copy_frequency_s,
            recovery_point_retention_h: config.recovery_point_retention_h,
            app_consistent_frequency_h: config.app_consistent_frequency_h,
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] naming file, place and remedy.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads and checks a text; `path` is what errors call it.
    ///
    /// # Errors
    /// [`ConfigError`] naming file, place and remedy.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        if config.cloud.is_empty() {
            config.cloud.push(CloudConfig { name: DEFAULT_CLOUD.to_owned(), policy: None });
        }
        config.check().map_err(|(key, problem)| ConfigError::Value {
            path: path.to_owned(),
            key,
            problem,
        })?;
        Ok(config)
    }

    /// A path of the configuration, made absolute or relative to the working folder.
    pub fn place(&self, path: &Path) -> PathBuf {
        self.data.join(path)
    }

    /// The cloud of a host.
    pub(super) fn cloud_of(&self, host: &HostConfig) -> &CloudConfig {
        let named = self.cloud.iter().find(|cloud| Some(&cloud.name) == host.cloud.as_ref());
        named.unwrap_or(&self.cloud[0])
    }

    /// How a cloud's VMs are replicated.
    pub(super) fn policy_of(&self, cloud: &CloudConfig) -> PolicyConfig {
        cloud.policy.unwrap_or(self.policy)
    }

    /// How fast a host may send.
    pub(super) fn bandwidth_of<'a>(&'a self, host: &'a HostConfig) -> &'a BandwidthConfig {
        host.bandwidth.as_ref().unwrap_or(&self.bandwidth)
    }

    /// Clouds have names and policies, every host one of them, and all hosts of a cluster the same.
    fn check_clouds(&self) -> Result<(), (String, String)> {
        let mut names = BTreeSet::new();
        for cloud in &self.cloud {
            let key = format!("cloud {}", cloud.name);
            check_name(&key, &cloud.name)?;
            once(&mut names, &cloud.name, &key, "is there twice")?;
            check_policy(&format!("policy of {key}"), self.policy_of(cloud))?;
        }
        let known =
            self.cloud.iter().map(|cloud| cloud.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut clusters = BTreeMap::new();
        for host in &self.host {
            let key = format!("cloud of host {}", host.name);
            match &host.cloud {
                Some(name) if !names.contains(name) => {
                    return Err((key, format!("is {name:?}, which is no cloud: there is {known}")));
                }
                None if 1 < self.cloud.len() => {
                    return Err((key, format!("is missing: name one of {known}")));
                }
                _ => {}
            }
            let Some(cluster) = &host.cluster else { continue };
            let cloud = &self.cloud_of(host).name;
            let of_first = *clusters.entry(cluster).or_insert(cloud);
            if of_first != cloud {
                let problem = format!(
                    "is {cloud}, but cluster {cluster} has a host of {of_first}: VMs move within one cloud"
                );
                return Err((key, problem));
            }
        }
        Ok(())
    }

    /// Checks what the types cannot.
    fn check(&self) -> Result<(), (String, String)> {
        if self.data.as_os_str().is_empty() {
            return Err(("data".to_owned(), "is empty: give a folder".to_owned()));
        }
        check_policy("policy", self.policy)?;
        if self.vault.folder.as_os_str().is_empty() {
            return Err(("vault.folder".to_owned(), "is empty: give a folder".to_owned()));
        }
        check_bandwidth("bandwidth", &self.bandwidth)?;
        self.alerts.check()?;
        self.statistics.check()?;
        super::storage::check(&self.vault)?;
        self.check_clouds()?;
        check_name("vault.name", &self.vault.name)?;
        inventory::check_networks("network", &self.network)?;
        inventory::check_networks("recovery.network", &self.recovery.network)?;
        inventory::check_sizes(&self.recovery.size)?;
        let mut hosts = BTreeSet::new();
        let mut vms = BTreeSet::new();
        let mut paths = BTreeSet::new();
        let mut exports = BTreeSet::new();
        for host in &self.host {
            let key = format!("host {}", host.name);
            check_name(&key, &host.name)?;
            once(&mut hosts, &host.name, &key, "is there twice")?;
            if let Some(cluster) = &host.cluster {
                check_name(&format!("cluster of {key}"), cluster)?;
            }
            if let Some(bandwidth) = &host.bandwidth {
                check_bandwidth(&format!("bandwidth of {key}"), bandwidth)?;
            }
            for vm in &host.vm {
                let key = format!("vm {}", vm.name);
                check_name(&key, &vm.name)?;
                once(&mut vms, &vm.name, &key, "is there twice, names of VMs are unique")?;
                if vm.disk.is_empty() {
                    return Err((key, "has no disk: give at least one".to_owned()));
                }
                inventory::check_machine(&key, &vm.machine, &self.network)?;
                let mut disks = BTreeSet::new();
                for disk in &vm.disk {
                    let key = format!("disk {} of {}", disk.name, vm.name);
                    check_name(&key, &disk.name)?;
                    once(&mut disks, &disk.name, &key, "is there twice")?;
                    let export = export_name(&vm.name, &disk.name);
                    let problem = format!("has the export name of another disk, {export}");
                    once(&mut exports, &export, &key, &problem)?;
                    if disk.path.file_name().is_none() {
                        return Err((key, "has no file name in its path".to_owned()));
                    }
                    // Components, because `./a` and `a` are one file.
                    let path = self.place(&disk.path).components().collect::<PathBuf>();
                    once(&mut paths, &path, &key, "has the image of another disk")?;
                    if let Some(mib) = disk.create_mib {
                        check_range(&format!("create_mib of {key}"), mib, 1, MAX_IMAGE_MIB)?;
                    }
                }
                if let Some(guest) = vm.guest {
                    let (mib, writes) = (guest.install_mib, guest.writes_per_second);
                    check_range(&format!("install_mib of {key}"), mib, 0, MAX_IMAGE_MIB)?;
                    let key = format!("writes_per_second of {key}");
                    check_range(&key, u64::from(writes), 1, u64::from(u32::MAX))?;
                }
            }
        }
        Ok(())
    }
}

fn check_policy(key: &str, policy: PolicyConfig) -> Result<(), (String, String)> {
    let checked = Policy::from(policy).check();
    checked.map_err(|rejection| (key.to_owned(), rejection.to_string()))
}

fn check_bandwidth(name: &str, bandwidth: &BandwidthConfig) -> Result<(), (String, String)> {
    let limits = bandwidth.limits(0);
    limits.map(drop).map_err(|(key, problem)| (format!("{key} of {name}"), problem))
}

fn once<T: Ord + Clone>(
    seen: &mut BTreeSet<T>,
    value: &T,
    key: &str,
    problem: &str,
) -> Result<(), (String, String)> {
    if seen.insert(value.clone()) {
        return Ok(());
    }
    Err((key.to_owned(), problem.to_owned()))
}

fn check_range(key: &str, value: u64, least: u64, most: u64) -> Result<(), (String, String)> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err((key.to_owned(), format!("is {value}, but must be from {least} to {most}")))
}

fn check_name(key: &str, name: &str) -> Result<(), (String, String)> {
    if is_good_name(name) {
        return Ok(());
    }
    Err((key.to_owned(), format!("must have {NAME_RULE}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(text: &str) -> Result<WindowConfig, String> {
        let text = format!("data = \"d\"\n[policy]\nresync_window = {text:?}\n");
        let config = Config::parse(&text, Path::new("test.toml"));
        config.map(|config| config.policy.resync_window).map_err(|error| {
            std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
        })
    }

    #[test]
    fn a_window_is_a_word_or_two_times_of_the_day() {
        assert_eq!(window("always"), Ok(WindowConfig::Always));
        assert_eq!(window("manual"), Ok(WindowConfig::Manual));
        assert_eq!(window("18:30-06:00"), Ok(WindowConfig::Daily(1110, 360)));
        assert_eq!(window("00:00 - 23:59"), Ok(WindowConfig::Daily(0, 1439)));
        assert_eq!(WindowConfig::default().at_site(-90).to_string(), "18:30-06:00 (UTC-01:30)");
        for wrong in
            ["", "18:30", "18:30-24:00", "6:00-7:00", "18:60-06:00", "+1:00-02:00", "é:00-1"]
        {
            let error = window(wrong).expect_err("it is no window");
            assert!(error.contains("line 3") && error.contains("18:30-06:00"), "{error}");
        }
    }
}
