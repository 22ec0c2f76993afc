//! A scenario: a site, what happens to it, and what is expected of the service.
//!
//! Read from TOML. A file that cannot be used is refused with the line and the key that are wrong.

mod expectation;
mod order;

pub use expectation::{Expectation, Figure};
pub(super) use expectation::{Unit, Wanted};
pub(super) use order::{DecisionWord, PointWord};

use super::beside::text_of;
use super::quantity::{Size, Span, Window};
use super::report::Outage;
use super::topology::{BandwidthSpec, ClusterSpec, NetworkSpec, NicSpec, Topology};
use super::trace::Trace;
use crate::domain::fabric::Size as ReplicaSize;
use crate::domain::plan::FailoverType;
use crate::domain::policy::Policy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use toml::Spanned;

/// Most VMs of a scenario: their disks are in memory.
const VMS_MAX: usize = 1_000;

/// Largest disk of a scenario; every block of it is in memory several times.
const DISK_BYTES_MAX: u64 = 64 << 20;

/// The same where there are only sizes.
const FLEET_MAX: usize = 10_000;
const FLEET_DISK_BYTES_MAX: u64 = 64 << 40;

/// Why a scenario cannot be used.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("read scenario {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: std::io::Error,
    },
    /// It is not a scenario.
    #[error("read scenario {name}: {problem}")]
    Malformed {
        /// Its name.
        name: String,
        /// What is wrong, and where.
        problem: String,
    },
    /// A trace cannot be read.
    #[error("read trace {}", path.display())]
    TraceUnreadable {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: std::io::Error,
    },
    /// It is not a trace of the VM's writes.
    #[error("use trace {}, line {line}: {problem}", path.display())]
    TraceUnusable {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A value does not fit the rest.
    #[error("use scenario {name}, line {line}: {key}: {problem}")]
    Unusable {
        /// Its name.
        name: String,
        /// Where, from 1.
        line: usize,
        /// Which key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
}

/// A scenario as its file tells it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What happens, in a few words.
    pub title: String,
    /// What it is to show.
    pub why: String,
    /// How long the timeline is. What lasts longer ends with it.
    pub duration: Span,
    /// Time after that in which everything must come to rest.
    #[serde(default = "default_settle")]
    pub settle: Span,
    /// In which order the loop deals with what is ready at one instant.
    #[serde(default)]
    pub schedule: Schedule,
    /// What the run is made of.
    #[serde(default, skip_serializing_if = "Fidelity::is_blocks")]
    pub fidelity: Fidelity,
    /// The file that tells the site and its VMs, beside the scenario's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Spanned<String>>,
    /// The site.
    #[serde(default)]
    pub site: SiteSpec,
    /// Its VMs.
    #[serde(default)]
    pub vm: Vec<VmSpec>,
    /// Its recovery plans.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<PlanSpec>,
    /// What happens, in any order.
    #[serde(default)]
    pub at: Vec<Step>,
    /// What must be so in the end.
    #[serde(default)]
    pub expect: Vec<Expectation>,
}

/// The longest gap between two retries is 30 minutes, and a resynchronization comes on top.
const fn default_settle() -> Span {
    Span(45 * 60_000)
}

/// The order of what is ready at one instant. The actors have one order only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// As it became ready.
    #[default]
    Fifo,
    /// By the seed.
    Shuffle,
}

/// What a run is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fidelity {
    /// Real bytes on small disks, through trackers, segments and recovery points.
    #[default]
    Blocks,
    /// Sizes and rates only, through the same entities: for fleets, and for months.
    Sizes,
}

impl Fidelity {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks for it")]
    fn is_blocks(&self) -> bool {
        *self == Self::Blocks
    }

    const fn vms_max(self) -> usize {
        match self {
            Self::Blocks => VMS_MAX,
            Self::Sizes => FLEET_MAX,
        }
    }

    const fn disk_bytes_max(self) -> u64 {
        match self {
            Self::Blocks => DISK_BYTES_MAX,
            Self::Sizes => FLEET_DISK_BYTES_MAX,
        }
    }
}

/// The site.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SiteSpec {
    /// The names of its hosts.
    pub hosts: Vec<Spanned<String>>,
    /// Time between two deltas, in whole seconds.
    pub copy_frequency: Span,
    /// For how long recovery points are kept, in whole hours.
    pub retention: Span,
    /// Time between two application-consistent points, in whole hours; `0s` for none.
    pub app_consistent: Span,
    /// When resynchronizations begin by themselves.
    pub resync_window: Window,
    /// From a request to the vault to its answer.
    pub rtt: Span,
    /// What a host's link to the vault carries.
    pub mbit_per_s: u64,
    /// What a host may send of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<BandwidthSpec>,
    /// Whether the vault admits hosts with a key only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub registration_keys: bool,
    /// Hosts that share disks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cluster: Vec<ClusterSpec>,
    /// The networks of the primary site.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<NetworkSpec>,
    /// The networks of the recovery site.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recovery_network: Vec<NetworkSpec>,
    /// The sizes that replicas can have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub size: Vec<ReplicaSize>,
}

impl Default for SiteSpec {
    fn default() -> Self {
        Self {
            hosts: vec![Spanned::new(0..0, "host-1".to_owned())],
            copy_frequency: Span(30_000),
            retention: Span::hours(2),
            app_consistent: Span(0),
            resync_window: Window::default(),
            rtt: Span(10),
            mbit_per_s: 500,
            bandwidth: None,
            registration_keys: false,
            cluster: vec![],
            network: vec![],
            recovery_network: vec![],
            size: vec![],
        }
    }
}

impl SiteSpec {
    /// The policy of the site's cloud.
    pub fn policy(&self) -> Policy {
        Policy {
            copy_frequency_s: (self.copy_frequency.0 / 1_000) as u32,
            recovery_point_retention_h: (self.retention.0 / 3_600_000) as u32,
            app_consistent_frequency_h: (self.app_consistent.0 / 3_600_000) as u32,
        }
    }
}

/// A VM, or several alike.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Its name; several are called `name-1`, `name-2`, ...
    pub name: Spanned<String>,
    /// How many; one if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// The host that it runs on.
    pub host: Spanned<String>,
    /// The sizes of its disks.
    pub disks: Spanned<Vec<Size>>,
    /// How often its guest writes, 4 to 256 KiB each time.
    #[serde(default = "default_rate")]
    pub writes_per_minute: u32,
    /// How much it writes each time, where there are only sizes; 16 KiB if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_size: Option<Spanned<Size>>,
    /// Times at which it writes more.
    #[serde(default)]
    pub burst: Vec<Burst>,
    /// A file of recorded writes that it makes instead, at their times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Spanned<String>>,
    /// These.
    #[serde(skip)]
    pub recorded: Option<Arc<Trace>>,
    /// Its virtual processors, where its network adapters are told; one if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Its memory, as well; 1024 if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Its network adapters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nic: Vec<NicSpec>,
}

impl VmSpec {
    /// A VM of which nothing else is told.
    pub fn named(name: Spanned<String>, host: Spanned<String>, disks: Spanned<Vec<Size>>) -> Self {
        Self {
            name,
            count: None,
            host,
            disks,
            writes_per_minute: default_rate(),
            write_size: None,
            burst: vec![],
            trace: None,
            recorded: None,
            cores: None,
            memory_mib: None,
            nic: vec![],
        }
    }
}

const fn default_rate() -> u32 {
    12
}

/// A time at which a guest writes more.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    /// From when.
    pub at: Span,
    /// For how long.
    pub r#for: Span,
    /// How often it writes then.
    pub writes_per_minute: u32,
}

/// Something that happens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// When, from the beginning.
    pub t: Spanned<Span>,
    /// What.
    pub r#do: Spanned<Deed>,
    /// To which host; every one if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Spanned<String>>,
    /// To which VM; every one if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Spanned<String>>,
    /// For how long; to the end of the timeline if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#for: Option<Span>,
    /// Of a hundred requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Time that a request takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<Span>,
    /// How long a link is up, and then down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// By how much a clock goes forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Span>,
    /// By how much a clock goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Span>,
    /// Which network of the primary site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Spanned<String>>,
    /// To which network of the recovery site it leads from then on; to none if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Spanned<String>>,
    /// Which recovery plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Spanned<String>>,
    /// How it is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<RunWord>,
    /// Time between two deltas from then on, in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_frequency: Option<Span>,
    /// For how long recovery points are kept from then on, in whole hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Span>,
    /// Time between two application-consistent points from then on, in whole hours; `0s` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_consistent: Option<Span>,
    /// After which time it is done: a failover is decided, a replication begins, a key is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
    /// What is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<DecisionWord>,
    /// Whether everything is downloaded, instead of what differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
    /// From which recovery points a plan starts its VMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<PointWord>,
    /// Whether an unplanned run sends first what its VMs wrote last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronize: Option<bool>,
    /// After which time the copies of a test are cleaned up by themselves, in whole hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Span>,
    /// Whether protection ends without the VM's host, which does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_gone: Option<bool>,
}

/// How a recovery plan is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunWord {
    /// Copies start in a network apart.
    Test,
    /// Nothing is lost.
    Planned,
    /// The site is given up.
    Unplanned,
    /// Tests end.
    CleanUp,
    /// Failovers are made final.
    Commit,
    /// VMs that were failed back are replicated.
    Reverse,
}

/// A recovery plan.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlanSpec {
    /// Its name.
    pub name: String,
    /// What is done once its VMs are shut down, before they fail over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after_shutdown: Vec<ActionWord>,
    /// Its groups, in order.
    pub group: Vec<GroupSpec>,
}

/// An action of a recovery plan, of which a simulation has only that it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionWord {
    /// A script runs.
    Script,
    /// Somebody has to confirm.
    Manual,
}

/// A group of a recovery plan.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// Its VMs.
    pub vms: Vec<Spanned<String>>,
    /// Whether a script runs before they start.
    #[serde(default)]
    pub script: bool,
    /// Whether somebody has to confirm before they start.
    #[serde(default)]
    pub manual: bool,
    /// Whether a gate has to open once they run.
    #[serde(default)]
    pub gate: bool,
    /// The kinds of run that all this is for; empty for all that fail over.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub only: BTreeSet<FailoverType>,
}

macro_rules! deeds {
    ($($(#[$doc:meta])* $name:ident = $word:literal, needs [$($need:literal),*], takes [$($take:literal),*];)+) => {
        /// What can happen: faults first, then what an operator does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
        pub enum Deed { $($(#[$doc])* #[serde(rename = $word)] $name,)+ }

        impl Deed {
            /// Everything that can happen.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its word in a scenario.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// Keys that it cannot do without.
            const fn needs(self) -> &'static [&'static str] {
                match self { $(Self::$name => &[$($need),*],)+ }
            }

            /// Keys that it can have besides.
            const fn takes(self) -> &'static [&'static str] {
                match self { $(Self::$name => &[$($take),*],)+ }
            }
        }
    };
}

deeds! {
    /// A host's link to the vault is down.
    CutLink = "cut_link", needs [], takes ["host", "for"];
    /// A link is up and down by turns.
    FlapLink = "flap_link", needs ["every"], takes ["host", "for"];
    /// Requests of all hosts to the vault get lost.
    LossyLink = "lossy_link", needs ["percent"], takes ["for"];
    /// Requests of all hosts to the vault take longer.
    SlowLink = "slow_link", needs ["rtt"], takes ["for"];
    /// The service does not reach a host, which goes on working.
    IsolateHost = "isolate_host", needs ["host"], takes ["for"];
    /// A host's agent and its guests are killed; what was written stays in the host's memory.
    KillHost = "kill_host", needs ["host"], takes ["for"];
    /// A host loses power: what was not flushed is gone, or half there.
    PowerLoss = "power_loss", needs ["host"], takes ["for"];
    /// The wall clock is set.
    JumpClock = "jump_clock", needs [], takes ["forward", "back"];
    /// The service is killed with the agents in it, and started again.
    KillService = "kill_service", needs ["for"], takes [];
    /// Nobody reaches the vault.
    VaultUnreachable = "vault_unreachable", needs [], takes ["for"];
    /// The vault throttles.
    ThrottleVault = "throttle_vault", needs ["percent"], takes ["for"];
    /// The vault fails requests.
    FailVault = "fail_vault", needs ["percent"], takes ["for"];
    /// The vault takes nothing more.
    FillVault = "fill_vault", needs [], takes ["for"];
    /// The vault stores, and its answer is lost.
    LoseAnswers = "lose_answers", needs ["percent"], takes ["for"];
    /// The vault refuses the credentials.
    ExpireCredentials = "expire_credentials", needs [], takes ["for"];
    /// A bit of the newest segment of a VM flips in the vault.
    RotVault = "rot_vault", needs ["vm"], takes [];
    /// The volume of a host's replication logs is full.
    FillDisk = "fill_disk", needs ["host"], takes ["for"];
    /// The volume of a host's replication logs has little room left.
    CrowdDisk = "crowd_disk", needs ["host"], takes ["for"];
    /// Writing the disks of a VM fails.
    FailDisk = "fail_disk", needs ["vm"], takes ["for"];
    /// What the gates of recovery plans probe does not answer.
    ShutGates = "shut_gates", needs [], takes ["for"];
    /// Scripts of recovery plans end with an error.
    FailScripts = "fail_scripts", needs [], takes ["for"];
    /// The primary site's provider does not answer.
    SilenceProvider = "silence_provider", needs [], takes ["for"];
    /// The service is stopped in good order, with the agents in it, and started again.
    StopService = "stop_service", needs ["for"], takes [];
    /// Somebody runs a VM elsewhere, from its disks, while its agent is down.
    EditDisk = "edit_disk", needs ["vm"], takes [];
    /// A second service starts, with the site and all that it knew as they were some time ago.
    SecondService = "second_service", needs ["back"], takes ["for"];
    /// An operator moves a VM to the recovery site.
    PlannedFailover = "planned_failover", needs ["vm"], takes [];
    /// An operator gives a VM's site up.
    UnplannedFailover = "unplanned_failover", needs [], takes ["vm"];
    /// An operator makes a failover final.
    Commit = "commit", needs ["vm"], takes [];
    /// An operator has failed work tried again.
    Retry = "retry", needs [], takes ["vm"];
    /// An operator starts a copy of a VM, in a network apart.
    TestFailover = "test_failover", needs ["vm"], takes [];
    /// An operator ends a test.
    CleanUpTest = "clean_up_test", needs ["vm"], takes [];
    /// An operator runs a failed-over VM from its oldest recovery point.
    ChangePoint = "change_point", needs ["vm"], takes [];
    /// An operator undoes a failover.
    CancelFailover = "cancel_failover", needs ["vm"], takes [];
    /// An operator brings the primary site into step.
    Failback = "failback", needs ["vm"], takes ["full"];
    /// An operator brings another host of the primary site into step.
    FailbackToHost = "failback_to_host", needs ["vm", "host"], takes ["full"];
    /// An operator moves a VM back.
    CompleteFailback = "complete_failback", needs ["vm"], takes [];
    /// An operator gives a failback up.
    CancelFailback = "cancel_failback", needs ["vm"], takes [];
    /// An operator has a VM replicated that was failed back.
    ReverseReplicate = "reverse_replicate", needs ["vm"], takes [];
    /// An operator ends the protection of a VM.
    DisableProtection = "disable_protection", needs ["vm"], takes ["source_gone"];
    /// An operator has a VM replicated whose protection had ended, at once or after a time.
    Protect = "protect", needs ["vm"], takes ["after"];
    /// An operator stops replication for a while.
    Pause = "pause", needs ["vm"], takes [];
    /// An operator lets it go on.
    Resume = "resume", needs ["vm"], takes [];
    /// An operator has a recovery point made.
    TakePoint = "take_point", needs ["vm"], takes [];
    /// An operator makes the first disk of a VM half as large again.
    ResizeDisk = "resize_disk", needs ["vm"], takes [];
    /// An operator gives a VM another disk, whose image holds something.
    AddDisk = "add_disk", needs ["vm"], takes [];
    /// An operator gives a VM's site up, and has what it wrote last sent first, if that can be had.
    SynchronizedFailover = "synchronized_failover", needs ["vm"], takes [];
    /// An operator gives the running job of a VM up.
    CancelJob = "cancel_job", needs ["vm"], takes [];
    /// A VM is moved to another member of its host's cluster, while it runs.
    MoveVm = "move_vm", needs ["vm", "host"], takes [];
    /// An operator changes the replication policy, also of VMs that already replicate.
    ChangePolicy = "change_policy", needs [], takes ["copy_frequency", "retention", "app_consistent"];
    /// An operator has a VM resynchronized that waits, or whose replica is damaged.
    Resync = "resync", needs ["vm"], takes [];
    /// An operator sets what becomes of a failover after a time, unless somebody decides before.
    DecideFailover = "decide_failover", needs ["vm", "after", "then"], takes [];
    /// An operator runs a recovery plan.
    RunPlan = "run_plan", needs ["plan", "kind"], takes ["point", "synchronize", "lease"];
    /// An operator has a run go on that waits for somebody.
    ContinuePlan = "continue_plan", needs ["plan"], takes [];
    /// An operator ends the run of a recovery plan where it is.
    EndPlan = "end_plan", needs ["plan"], takes [];
    /// An operator lets a VM start that waits for its recovery plan.
    ReleaseStart = "release_start", needs ["vm"], takes [];
    /// An operator has a network lead elsewhere.
    MapNetwork = "map_network", needs ["network"], takes ["to"];
    /// An operator registers a host, with a key that the vault issued before.
    RegisterHost = "register_host", needs ["host"], takes ["after"];
}

impl Deed {
    /// Whether it has this key.
    pub(super) fn knows(self, key: &str) -> bool {
        self.needs().contains(&key) || self.takes().contains(&key)
    }

    /// Whether it can be had where there are only sizes: it is not about bytes, wall clocks, policies or plans.
    pub(super) const fn has_sizes(self) -> bool {
        !matches!(
            self,
            Self::JumpClock
                | Self::LoseAnswers
                | Self::RotVault
                | Self::CrowdDisk
                | Self::FailDisk
                | Self::StopService
                | Self::EditDisk
                | Self::SecondService
                | Self::MoveVm
                | Self::FailbackToHost
                | Self::ResizeDisk
                | Self::AddDisk
                | Self::SynchronizedFailover
                | Self::ChangePolicy
                | Self::Protect
                | Self::ShutGates
                | Self::FailScripts
                | Self::RunPlan
                | Self::ContinuePlan
                | Self::EndPlan
                | Self::ReleaseStart
                | Self::MapNetwork
                | Self::RegisterHost
                | Self::SilenceProvider
        )
    }

    /// Whether it is over as soon as it has happened.
    pub(super) const fn is_instant(self) -> bool {
        self.is_operation() || matches!(self, Self::JumpClock | Self::RotVault | Self::EditDisk)
    }

    /// Whether a person at the service does it.
    pub const fn is_operation(self) -> bool {
        self as u32 >= Self::PlannedFailover as u32
    }

    /// Whether it is done to a recovery plan.
    pub(super) const fn is_of_plan(self) -> bool {
        matches!(self, Self::RunPlan | Self::ContinuePlan | Self::EndPlan)
    }
}

/// The VMs of a scenario, one each.
#[derive(Clone, Debug)]
pub(super) struct OneVm<'a> {
    pub(super) name: String,
    pub(super) spec: &'a VmSpec,
}

impl Scenario {
    /// Reads a scenario and checks that it can be run. `name` is what errors call it. Files that it names are
    /// relative to the working directory.
    ///
    /// # Errors
    /// [`ScenarioError`].
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        Self::parse_beside(name, text, Path::new(""))
    }

    /// Reads the scenario of a file. Files that it names are relative to the folder of the one that names them.
    ///
    /// # Errors
    /// [`ScenarioError`].
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        Self::parse_beside(&path.display().to_string(), &read_text(path)?, folder_of(path))
    }

    fn parse_beside(name: &str, text: &str, folder: &Path) -> Result<Self, ScenarioError> {
        let mut scenario: Self = from_toml(name, text)?;
        let Some(file) = scenario.topology.take() else {
            let check = Check { name, text, scenario: &scenario };
            check.site()?;
            check.timeline()?;
            read_traces(&mut scenario.vm, folder)?;
            return Ok(scenario);
        };
        let has_site = text.parse::<toml::Table>().is_ok_and(|keys| keys.contains_key("site"));
        if has_site || !scenario.vm.is_empty() {
            let problem = "tells site and VMs, so there can be no [site] and no [[vm]] beside it";
            let check = Check { name, text, scenario: &scenario };
            return Err(check.at(file.span().start, "topology", problem));
        }
        let path = folder.join(file.get_ref());
        let (of_site, site_text) = (path.display().to_string(), read_text(&path)?);
        let Topology { site, vm } = from_toml(&of_site, &site_text)?;
        (scenario.site, scenario.vm) = (site, vm);
        Check { name: &of_site, text: &site_text, scenario: &scenario }.site()?;
        Check { name, text, scenario: &scenario }.timeline()?;
        read_traces(&mut scenario.vm, folder_of(&path))?;
        Ok(scenario)
    }

    /// Every VM by its own name.
    pub(super) fn vms(&self) -> Vec<OneVm<'_>> {
        let mut all = Vec::new();
        for spec in &self.vm {
            match spec.count {
                None => all.push(OneVm { name: spec.name.get_ref().clone(), spec }),
                Some(count) => all.extend(
                    (1..=count)
                        .map(|nth| OneVm { name: format!("{}-{nth}", spec.name.get_ref()), spec }),
                ),
            }
        }
        all
    }

    /// The timeline in order.
    pub(super) fn timeline(&self) -> Vec<&Step> {
        let mut steps: Vec<_> = self.at.iter().collect();
        steps.sort_by_key(|step| *step.t.get_ref());
        steps
    }

    /// The faults of the timeline.
    pub(super) fn faults(&self) -> Vec<Outage> {
        let steps = self.timeline().into_iter();
        let steps = steps.filter(|step| !step.r#do.get_ref().is_instant());
        let end = self.duration.0;
        let lasting = steps.map(|step| {
            let from_ms = step.t.get_ref().0;
            let of = step.host().or(step.vm()).map(str::to_owned);
            Outage { what: step.to_string(), of, from_ms, until_ms: step.until(end) }
        });
        lasting.collect()
    }

    /// When something was wrong, in milliseconds.
    pub(super) fn outages(&self) -> Vec<(u64, u64)> {
        self.faults().into_iter().map(|it| (it.from_ms, it.until_ms)).collect()
    }

    /// As a file that [`Scenario::parse`] reads.
    ///
    /// # Errors
    /// Where a value cannot be written, which no scenario that was read has.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

fn read_text(path: &Path) -> Result<String, ScenarioError> {
    text_of(path).map_err(|source| ScenarioError::Unreadable { path: path.to_owned(), source })
}

fn from_toml<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T, ScenarioError> {
    toml::from_str(text).map_err(|error| ScenarioError::Malformed {
        name: name.to_owned(),
        problem: error.to_string(),
    })
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Reads the recorded writes of VMs. Their files are named so that a scenario that is written elsewhere finds them.
fn read_traces(vms: &mut [VmSpec], folder: &Path) -> Result<(), ScenarioError> {
    for vm in vms {
        let Some(file) = &vm.trace else { continue };
        let path = folder.join(file.get_ref());
        let path = std::path::absolute(&path)
            .map_err(|source| ScenarioError::TraceUnreadable { path, source })?;
        vm.recorded = Some(Arc::new(Trace::read(&path, vm.disks.get_ref())?));
        vm.trace = Some(Spanned::new(file.span(), path.display().to_string()));
    }
    Ok(())
}

/// A scenario that is being checked, with its text to find lines in.
struct Check<'a> {
    name: &'a str,
    text: &'a str,
    scenario: &'a Scenario,
}

impl Check<'_> {
    /// The site and its VMs.
    fn site(&self) -> Result<(), ScenarioError> {
        let site = &self.scenario.site;
        if self.scenario.vm.is_empty() {
            return Err(self.at(0, "vm", "a scenario has at least one [[vm]]"));
        }
        if site.hosts.is_empty() {
            return Err(self.at(0, "site.hosts", "a site has at least one host"));
        }
        site.policy().check().map_err(|rejection| self.at(0, "site", &rejection.to_string()))?;
        let vms = self.scenario.vms();
        let fidelity = self.scenario.fidelity;
        for (key, is_given) in [
            ("site.app_consistent", site.app_consistent != Span(0)),
            ("site.bandwidth", site.bandwidth.is_some()),
            ("site.registration_keys", site.registration_keys),
        ] {
            if fidelity == Fidelity::Sizes && is_given {
                return Err(self.at(0, key, "needs fidelity \"blocks\""));
            }
        }
        let most = fidelity.vms_max();
        if most < vms.len() {
            return Err(self.at(0, "vm", &format!("at most {most} VMs can be simulated")));
        }
        let misfit = |(place, key, problem): (usize, &str, String)| self.at(place, key, &problem);
        if let Some(wrong) = site.misfit() {
            return Err(misfit(wrong));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = vms.iter().find(|one| !names.insert(&one.name)) {
            let problem = format!("{} is used twice", twice.name);
            return Err(self.at(twice.spec.name.span().start, "name", &problem));
        }
        for vm in &self.scenario.vm {
            self.host(&vm.host)?;
            let sizes = vm.disks.get_ref();
            let fits = |size: &Size| {
                size.0.is_multiple_of(4096) && (4096..=fidelity.disk_bytes_max()).contains(&size.0)
            };
            if sizes.is_empty() || !sizes.iter().all(fits) {
                let largest = Size(fidelity.disk_bytes_max()).to_string().replace('M', " M");
                let problem =
                    format!("one size or more of 4 KiB to {largest}, in multiples of 4 KiB");
                return Err(self.at(vm.disks.span().start, "disks", &problem));
            }
            if let (Fidelity::Blocks, Some(size)) = (fidelity, &vm.write_size) {
                let problem = "is for fidelity \"sizes\"";
                return Err(self.at(size.span().start, "write_size", problem));
            }
            if let (Fidelity::Sizes, Some(trace)) = (fidelity, &vm.trace) {
                let problem = "is for fidelity \"blocks\"";
                return Err(self.at(trace.span().start, "trace", problem));
            }
            if let Some(wrong) = vm.misfit(site) {
                return Err(misfit(wrong));
            }
        }
        Ok(())
    }

    /// What happens, and what is expected.
    fn timeline(&self) -> Result<(), ScenarioError> {
        if self.scenario.fidelity == Fidelity::Sizes && !self.scenario.plan.is_empty() {
            return Err(self.at(0, "plan", "recovery plans need fidelity \"blocks\""));
        }
        for vm in
            self.scenario.plan.iter().flat_map(|plan| &plan.group).flat_map(|group| &group.vms)
        {
            self.vm(vm)?;
        }
        self.scenario.at.iter().try_for_each(|step| self.step(step))?;
        self.scenario.expect.iter().try_for_each(|expect| self.expectation(expect))
    }

    fn step(&self, step: &Step) -> Result<(), ScenarioError> {
        let deed = *step.r#do.get_ref();
        let given = step.given();
        let place = step.r#do.span().start;
        if let Some(missing) = deed.needs().iter().find(|key| !given.contains(key)) {
            return Err(self.at(place, missing, &format!("{} needs it", deed.word())));
        }
        if let Some(extra) = given.iter().find(|key| !deed.knows(key)) {
            return Err(self.at(place, extra, &format!("{} does not take it", deed.word())));
        }
        if self.scenario.fidelity == Fidelity::Sizes && !deed.has_sizes() {
            let problem = format!("{} needs fidelity \"blocks\"", deed.word());
            return Err(self.at(place, "do", &problem));
        }
        if deed == Deed::JumpClock && step.forward.is_some() == step.back.is_some() {
            return Err(self.at(place, "do", "jump_clock needs either forward or back"));
        }
        if self.scenario.duration <= *step.t.get_ref() {
            let problem = format!("is after the end of the timeline, {}", self.scenario.duration);
            return Err(self.at(step.t.span().start, "t", &problem));
        }
        if let (Deed::MoveVm, Some(host)) = (deed, &step.host)
            && self.scenario.site.cluster_of(host.get_ref()).is_none()
        {
            let problem = format!("{} is a member of no cluster", host.get_ref());
            return Err(self.at(host.span().start, "host", &problem));
        }
        let checked = match deed {
            Deed::ChangePolicy => step.check_policy(&self.scenario.site),
            Deed::RunPlan => step.check_run(),
            Deed::MapNetwork => step.check_mapping(&self.scenario.site),
            Deed::RegisterHost if !self.scenario.site.registration_keys => {
                Err("every host is admitted: the site has no registration_keys".to_owned())
            }
            _ => Ok(()),
        };
        if let Err(problem) = checked {
            return Err(self.at(place, "do", &problem));
        }
        if step.percent.is_some_and(|percent| 100 < percent) {
            return Err(self.at(place, "percent", "is more than 100"));
        }
        if step.every == Some(Span(0)) {
            return Err(self.at(place, "every", "is nothing"));
        }
        if let Some(host) = &step.host {
            self.host(host)?;
        }
        step.plan.as_ref().map_or(Ok(()), |plan| self.plan(plan))?;
        step.vm.as_ref().map_or(Ok(()), |vm| self.vm(vm))
    }

    fn expectation(&self, expect: &Expectation) -> Result<(), ScenarioError> {
        if let Some(vm) = &expect.vm {
            self.vm(vm)?;
        }
        let figure = *expect.that.get_ref();
        let comparisons = expect.comparisons();
        if comparisons.is_empty() {
            let problem = "needs one of is, at_most, at_least, includes";
            return Err(self.at(expect.that.span().start, "that", problem));
        }
        for (word, value) in comparisons {
            let fits = match (figure.unit(), word) {
                (Unit::Numbers | Unit::Texts, "includes") => true,
                (Unit::Numbers, "is") => value.get_ref().is_array(),
                (Unit::Numbers | Unit::Texts, _) | (_, "includes") => false,
                (Unit::Text, word) => word == "is",
                _ => true,
            };
            if !fits {
                let problem = format!("{} cannot be compared so", figure.word());
                return Err(self.at(value.span().start, word, &problem));
            }
            let read = figure.unit().read(value.get_ref());
            read.map_err(|problem| self.at(value.span().start, word, &problem))?;
        }
        Ok(())
    }

    fn host(&self, host: &Spanned<String>) -> Result<(), ScenarioError> {
        let hosts = &self.scenario.site.hosts;
        if hosts.iter().any(|known| known.get_ref() == host.get_ref()) {
            return Ok(());
        }
        let problem = format!("the site has no host {:?}", host.get_ref());
        Err(self.at(host.span().start, "host", &problem))
    }

    fn vm(&self, vm: &Spanned<String>) -> Result<(), ScenarioError> {
        if self.scenario.vms().iter().any(|known| known.name == *vm.get_ref()) {
            return Ok(());
        }
        let problem = format!("the site has no VM {:?}", vm.get_ref());
        Err(self.at(vm.span().start, "vm", &problem))
    }

    fn plan(&self, plan: &Spanned<String>) -> Result<(), ScenarioError> {
        if self.scenario.plan.iter().any(|known| known.name == *plan.get_ref()) {
            return Ok(());
        }
        let problem = format!("the scenario has no recovery plan {:?}", plan.get_ref());
        Err(self.at(plan.span().start, "plan", &problem))
    }

    fn at(&self, place: usize, key: &str, problem: &str) -> ScenarioError {
        let before = self.text.get(..place).unwrap_or_default();
        ScenarioError::Unusable {
            name: self.name.to_owned(),
            line: before.matches('\n').count() + 1,
            key: key.to_owned(),
            problem: problem.to_owned(),
        }
    }
}
