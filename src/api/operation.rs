//! The operations on a VM: each is a command of the domain, and says what it would do.

use super::control::Outside;
use super::failback;
use super::problem::Problem;
use super::target::{TargetBody, chosen};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::{DiskId, JobId};
use crate::domain::time::Timestamp;
use crate::domain::vm::{
    AfterFailover, Command, Disk, FailoverKind, Phase, PointChoice, RecoveryPoint, RetryReason, Vm,
};
use crate::views::{Moment, PolicyView, Site};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;
use std::time::Duration;

/// An operation on a VM.
pub struct Operation {
    /// Its place in the path of a request.
    pub path: &'static str,
    /// What people read.
    pub title: &'static str,
    /// What it asks of the primary site.
    pub(super) needs: Needs,
    /// The command that it is.
    pub(super) command: fn(&Asked<'_>) -> Result<Command, Problem>,
    /// What it would do, in plain words.
    pub(super) consequence: fn(&Asked<'_>) -> String,
}

/// What has to answer for an operation to go well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// The VM's host and its vault.
    HostAndVault,
    /// Its vault, and its host unless that is said to be gone, or has the VM no more.
    VaultAndSource,
    /// Its vault.
    Vault,
    /// Nothing.
    Nothing,
}

/// What was asked, of what.
pub(super) struct Asked<'a> {
    pub(super) vm: &'a Vm,
    pub(super) site: &'a Site,
    pub(super) outside: &'a dyn Outside,
    pub(super) now: Timestamp,
    /// The id of the job, if one starts.
    pub(super) job: JobId,
    pub(super) body: &'a [u8],
}

const OPERATIONS: &[Operation] = &[
    Operation {
        path: "protect",
        title: "Enable protection",
        needs: Needs::HostAndVault,
        command: protect,
        consequence: |asked| {
            format!(
                "{} of disks of {} are copied to the vault while the VM runs, then a delta follows \
                 every {}.",
                size(asked.vm.disks.iter().map(|disk| disk.size_bytes).sum()),
                asked.vm.name,
                age(asked.cloud_policy().copy_frequency()),
            )
        },
    },
    Operation {
        path: "planned-failover",
        title: "Planned failover",
        needs: Needs::HostAndVault,
        command: |asked| Ok(Command::PlannedFailover { job: asked.job }),
        consequence: |asked| {
            let unsent = match asked.log_bytes() {
                Some(bytes) => format!("its last changes ({} of logs) are sent", size(bytes)),
                None => "its last changes are sent".to_owned(),
            };
            let name = &asked.vm.name;
            format!(
                "{name} is shut down, {unsent}, and it starts at the recovery site. Nothing is lost; \
                 it does not run meanwhile."
            )
        },
    },
    Operation {
        path: "unplanned-failover",
        title: "Unplanned failover",
        needs: Needs::Vault,
        command: |asked| {
            let UnplannedBody { point, synchronize } = asked.body()?;
            let (job, point) = (asked.job, named_point(point.as_deref())?);
            match (synchronize, point) {
                (false, point) => Ok(Command::UnplannedFailover { job, point }),
                (true, PointChoice::Latest) => Ok(Command::SynchronizeAndFailOver { job }),
                (true, _) => Err(Problem::invalid(
                    "`synchronize` makes another, later point: `point` must be latest, or left out",
                )),
            }
        },
        consequence: |asked| match asked.body() {
            Ok(UnplannedBody { synchronize: true, .. }) => asked.loss_if_not_synchronized(),
            _ => asked.loss(),
        },
    },
    Operation {
        path: "commit",
        title: "Commit",
        needs: Needs::Vault,
        command: |asked| Ok(Command::CommitFailover { job: asked.job }),
        consequence: |asked| {
            let (name, points) = (&asked.vm.name, asked.vm.points.len());
            if asked.vm.phase == Phase::FailbackCommitPending {
                return format!(
                    "The failback of {name} becomes final: its replica's disks at the recovery site are deleted, its \
                     {points} recovery points stay. It is replicated again with `lifeboat failback reverse {name}`."
                );
            }
            let others = points.saturating_sub(1);
            format!(
                "The failover of {name} becomes final: the {others} other recovery points are deleted."
            )
        },
    },
    Operation {
        path: "resync",
        title: "Resynchronize",
        needs: Needs::HostAndVault,
        command: |asked| Ok(Command::Resynchronize { job: asked.job }),
        consequence: |asked| {
            format!(
                "The disks of {} ({}) are brought into step with the replica while the VM runs; what is \
                 equal is not sent, and recovery points stay unless the replica itself is damaged.",
                asked.vm.name,
                size(asked.vm.disks.iter().map(|disk| disk.size_bytes).sum()),
            )
        },
    },
    Operation {
        path: "retry",
        title: "Retry",
        needs: Needs::Nothing,
        command: |asked| {
            let Nothing {} = asked.body()?;
            Ok(Command::Retry { because: RetryReason::Administrator })
        },
        consequence: |asked| match &asked.vm.trouble {
            Some(trouble) => format!("What failed is tried again at once: {}.", trouble.failure),
            None => format!("No work of {} has failed: nothing is done.", asked.vm.name),
        },
    },
    Operation {
        path: "resync-window",
        title: "Change the resync window",
        needs: Needs::Nothing,
        command: |asked| {
            let WindowBody { window } = asked.body()?;
            let window = asked.outside.resync_window(&window).map_err(Problem::invalid)?;
            Ok(Command::ChangeResyncWindow { window })
        },
        consequence: |asked| {
            format!(
                "Resynchronizations of {} begin by themselves in this window, until the service starts \
                 again with the one of its configuration.",
                asked.vm.name
            )
        },
    },
    Operation {
        path: "unprotect",
        title: "Disable protection",
        needs: Needs::VaultAndSource,
        command: |asked| {
            let UnprotectBody { source_gone } = asked.body()?;
            if let Some((host, true)) = asked.source_that_is_gone()? {
                let check = format!("that {host} is gone, since it answers: let it end tracking,");
                let failure = Failure::new(Code::PrerequisiteFailed, Cause::Itself, "");
                return Err(Problem::new(&failure.with("check", check).with("vm", &asked.vm.name)));
            }
            Ok(Command::DisableProtection { job: asked.job, source_gone })
        },
        consequence: |asked| {
            let points = asked.vm.points.len();
            let name = &asked.vm.name;
            if let Phase::FailedOver(_) = asked.vm.phase {
                return format!(
                    "{name} stays at the recovery site and runs on meanwhile: what of its disks is in the vault only is \
                     downloaded, then its replica is deleted. Nothing protects it from there on, and it cannot be \
                     failed back. At the primary site it stays off, with its disks as they are."
                );
            }
            format!("The replica of {name} is deleted, with its {points} recovery points.")
        },
    },
    Operation {
        path: "pause",
        title: "Pause replication",
        needs: Needs::Nothing,
        command: |asked| {
            let Nothing {} = asked.body()?;
            Ok(Command::PauseReplication)
        },
        consequence: |asked| {
            format!(
                "Nothing of {} is sent until it is resumed: its logs grow, and so does what a lost site \
                 would cost.",
                asked.vm.name
            )
        },
    },
    Operation {
        path: "resume",
        title: "Resume replication",
        needs: Needs::HostAndVault,
        command: |asked| {
            let Nothing {} = asked.body()?;
            Ok(Command::ResumeReplication)
        },
        consequence: |asked| format!("What {} has written meanwhile is sent.", asked.vm.name),
    },
    Operation {
        path: "take-recovery-point",
        title: "Take a recovery point",
        needs: Needs::HostAndVault,
        command: |asked| {
            let TakeBody { application_consistent } = asked.body()?;
            Ok(Command::TakeRecoveryPoint { application_consistent })
        },
        consequence: |asked| format!("A recovery point of {} is made at once.", asked.vm.name),
    },
    Operation {
        path: "test-failover",
        title: "Test failover",
        needs: Needs::Vault,
        command: |asked| {
            let TestBody { point, network, lease_hours } = asked.body()?;
            let point = named_point(point.as_deref())?;
            let lease_h = lease_hours.unwrap_or(TEST_LEASE_HOURS);
            Ok(Command::TestFailover { job: asked.job, point, network, lease_h })
        },
        consequence: |asked| {
            format!(
                "A copy of {} starts in the network; the VM and its replication go on. The test counts \
                 once it is cleaned up.{}",
                asked.vm.name,
                asked.left_out(),
            )
        },
    },
    Operation {
        path: "test-failover-cleanup",
        title: "Clean up test failover",
        needs: Needs::Nothing,
        command: |asked| {
            let CleanUpBody { notes } = asked.body()?;
            Ok(Command::CleanUpTestFailover { job: asked.job, notes })
        },
        consequence: |asked| format!("The test copy of {} is stopped and deleted.", asked.vm.name),
    },
    Operation {
        path: "change-point",
        title: "Change recovery point",
        needs: Needs::Vault,
        command: |asked| {
            let PointBody { point } = asked.body()?;
            let point = named_point(point.as_deref())?;
            Ok(Command::ChangeRecoveryPoint { job: asked.job, point })
        },
        consequence: |asked| {
            format!(
                "The replica of {} is shut down and started again from the other recovery point; what it \
                 wrote since the failover is lost.{}",
                asked.vm.name,
                asked.left_out(),
            )
        },
    },
    Operation {
        path: "cancel-failover",
        title: "Cancel failover",
        needs: Needs::Nothing,
        command: |asked| {
            let Nothing {} = asked.body()?;
            Ok(Command::CancelFailover { job: asked.job })
        },
        consequence: |asked| {
            format!(
                "{} goes on at the primary site from where it was there; what its replica wrote since the \
                 failover is lost.",
                asked.vm.name
            )
        },
    },
    Operation {
        path: "decide-failover",
        title: "Decide a failover by itself",
        needs: Needs::Nothing,
        command: |asked| {
            let DecideBody { in_seconds, then } = asked.body()?;
            let then = match then.as_str() {
                "commit" => AfterFailover::Commit,
                "cancel" => AfterFailover::Cancel,
                _ => return Err(Problem::invalid("`then` must be commit or cancel")),
            };
            let due = asked.now.after(Duration::from_secs(in_seconds));
            Ok(Command::DecideFailover { due, then })
        },
        consequence: |asked| {
            format!(
                "The failover of {} is decided then, unless somebody has before.",
                asked.vm.name
            )
        },
    },
    Operation {
        path: "failback",
        title: "Synchronize for failback",
        needs: Needs::HostAndVault,
        command: failback::command,
        consequence: failback::consequence,
    },
    Operation {
        path: "complete-failback",
        title: "Complete failback",
        needs: Needs::HostAndVault,
        command: |asked| {
            let Nothing {} = asked.body()?;
            Ok(Command::CompleteFailback { job: asked.job })
        },
        consequence: |asked| {
            format!(
                "{} is shut down at the recovery site, its last changes are brought over, and it starts at \
                 the primary site. Nothing is lost; it does not run meanwhile.",
                asked.vm.name
            )
        },
    },
    Operation {
        path: "cancel-failback",
        title: "Cancel failback",
        needs: Needs::Nothing,
        command: |asked| {
            let Nothing {} = asked.body()?;
            Ok(Command::CancelFailback)
        },
        consequence: |asked| format!("{} stays at the recovery site.", asked.vm.name),
    },
    Operation {
        path: "reverse-replicate",
        title: "Reverse replicate",
        needs: Needs::HostAndVault,
        command: |asked| {
            let Nothing {} = asked.body()?;
            Ok(Command::ReverseReplicate { job: asked.job })
        },
        consequence: |asked| {
            format!("{} is replicated again; only what changed is sent.", asked.vm.name)
        },
    },
    Operation {
        path: "target",
        title: "Choose what its replica gets",
        needs: Needs::Nothing,
        command: |asked| {
            let target = chosen(asked, &asked.body::<TargetBody>()?)?;
            Ok(Command::ChangeTarget { target })
        },
        consequence: |asked| {
            format!("The next failover of {} uses it; one that has begun does not.", asked.vm.name)
        },
    },
    Operation {
        path: "resize-disk",
        title: "Resize a disk",
        needs: Needs::HostAndVault,
        command: |asked| {
            let (disk, size_bytes) = resized(asked)?;
            Ok(Command::ResizeDisk { job: asked.job, disk, size_bytes })
        },
        consequence: |asked| {
            let name = &asked.vm.name;
            let (Ok(ResizeBody { disk, .. }), Ok((_, bytes))) = (asked.body(), resized(asked))
            else {
                return format!("A disk of {name} becomes larger.");
            };
            format!(
                "Disk {disk} of {name} becomes {} large while the VM runs and is replicated; only what is added \
                 is sent. Recovery points from before keep its size. Whoever uses the disk loses it for a \
                 moment, and sees its size once connected again. It cannot shrink.",
                size(bytes),
            )
        },
    },
    Operation {
        path: "add-disk",
        title: "Add a disk",
        needs: Needs::HostAndVault,
        command: |asked| {
            let AddBody { image, .. } = asked.body()?;
            let disk = disk_to_add(asked)?.map_err(|failure| Problem::new(&failure))?;
            Ok(Command::AddDisk { job: asked.job, disk, image })
        },
        consequence: |asked| {
            let name = &asked.vm.name;
            let (Ok(AddBody { disk, image }), Ok(Ok(Disk { size_bytes, .. }))) =
                (asked.body(), disk_to_add(asked))
            else {
                return format!("{name} gets another disk.");
            };
            format!(
                "{name} gets disk {disk} of {} from {image} while it runs and is replicated; only what is on it is \
                 sent, and no recovery point is made meanwhile. Those from before are of {name} without it. \
                 Whoever uses the disks of {name} loses them for a moment. It cannot be taken away again.",
                size(size_bytes),
            )
        },
    },
    Operation {
        path: "release-start",
        title: "Release the start",
        needs: Needs::Nothing,
        command: |asked| {
            let Nothing {} = asked.body()?;
            Ok(Command::ReleaseStart)
        },
        consequence: |asked| {
            let (name, first) = (&asked.vm.name, "what it wrote last is sent first");
            match asked.vm.phase {
                Phase::FailingOver(FailoverKind::Planned) if asked.vm.held_off => {
                    format!(
                        "{name} is failed over and starts without waiting for its plan; {first}."
                    )
                }
                _ => format!("{name} starts without waiting for its plan."),
            }
        },
    },
];

/// Hours after which a test is cleaned up by itself, unless it is said otherwise: a working day and a night.
const TEST_LEASE_HOURS: u32 = 24;

/// The operation of a path.
pub fn operation(path: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.path == path)
}

/// Every path, for whoever asked for another.
pub(super) fn paths() -> String {
    OPERATIONS.iter().map(|operation| operation.path).collect::<Vec<_>>().join(", ")
}

/// A body in which nothing can be said.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PointBody {
    point: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UnplannedBody {
    point: Option<String>,
    synchronize: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UnprotectBody {
    source_gone: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TakeBody {
    application_consistent: bool,
}

/// The network of a test that is asked for.
pub(super) fn test_network(asked: &Asked<'_>) -> Option<String> {
    asked.body::<TestBody>().ok().map(|body| body.network)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestBody {
    #[serde(default)]
    point: Option<String>,
    network: String,
    #[serde(default)]
    lease_hours: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CleanUpBody {
    notes: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecideBody {
    in_seconds: u64,
    then: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeBody {
    disk: String,
    size_bytes: Option<u64>,
}

/// Which disk is to have which size: the one that is said, or that of its image.
fn resized(asked: &Asked<'_>) -> Result<(DiskId, u64), Problem> {
    let ResizeBody { disk: name, size_bytes } = asked.body()?;
    let found = asked.vm.disks.iter().find(|it| it.name == name || it.id.to_string() == name);
    let disk = found.ok_or_else(|| Problem::unknown("disk", &name))?;
    let size_bytes = size_bytes.or_else(|| asked.outside.image_bytes(asked.vm, disk.id));
    let unknown = || Problem::invalid("`size_bytes` must be given: the image cannot be looked at");
    Ok((disk.id, size_bytes.ok_or_else(unknown)?))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    disk: String,
    image: String,
}

/// The disk that is to be added, as large as its image, or why the image cannot be one.
pub(super) fn disk_to_add(asked: &Asked<'_>) -> Result<Result<Disk, Failure>, Problem> {
    let AddBody { disk: name, image } = asked.body()?;
    let id = DiskId::named(asked.vm.id.0, &name);
    // Asked again: the image is its own.
    if let Some(added) = asked.vm.added_disk(id).filter(|added| added.image == image) {
        return Ok(Ok(added.disk.clone()));
    }
    let bytes = asked.outside.image(asked.vm, &name, Path::new(&image));
    Ok(bytes.map(|size_bytes| Disk { id, name, size_bytes }))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowBody {
    window: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ProtectBody {
    vault: Option<String>,
    policy: Option<PolicyView>,
    start_at: Option<Moment>,
}

/// Reads a body; one that is empty says nothing.
pub(super) fn read_body<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    if body.is_empty() {
        return Ok(T::default());
    }
    // An object first: a struct could be read from a list as well, without a word on what was meant.
    let fields = serde_json::from_slice::<Map<String, Value>>(body);
    let read = fields.and_then(|fields| T::deserialize(Value::Object(fields)));
    read.map_err(|error| Problem::invalid(format!("its body: {error}")))
}

/// A recovery point as people name it: `latest`, `latest-processed`, `latest-application-consistent`, or the
/// number of its cycle.
///
/// # Errors
/// What would be right.
pub fn point_choice(text: &str) -> Result<PointChoice, String> {
    match text {
        "latest" => Ok(PointChoice::Latest),
        "latest-processed" => Ok(PointChoice::LatestProcessed),
        "latest-application-consistent" => Ok(PointChoice::LatestApplicationConsistent),
        number => number.parse().map(PointChoice::Cycle).map_err(|_| {
            format!(
                "point is {text:?}, but must be latest, latest-processed, \
                 latest-application-consistent, or the number of a recovery point"
            )
        }),
    }
}

/// A point that need not be named: the latest.
fn named_point(text: Option<&str>) -> Result<PointChoice, Problem> {
    text.map_or(Ok(PointChoice::Latest), |text| point_choice(text).map_err(Problem::invalid))
}

fn protect(asked: &Asked<'_>) -> Result<Command, Problem> {
    let ProtectBody { vault, policy, start_at } = asked.body()?;
    let mut vaults = asked.site.vaults.values().filter(|it| !it.name.is_empty());
    let found = match &vault {
        Some(name) => vaults.find(|it| it.name == *name || it.id.to_string() == *name),
        None => vaults.next().filter(|_| vaults.next().is_none()),
    };
    let found = found.ok_or_else(|| match &vault {
        Some(name) => Problem::unknown("vault", name),
        None => Problem::invalid("`vault` must name one of the vaults"),
    })?;
    let policy = policy.map_or_else(|| asked.cloud_policy(), Into::into);
    let (job, vault) = (asked.job, found.id);
    Ok(match start_at {
        None => Command::EnableProtection { job, vault, policy },
        Some(Moment(due)) => Command::EnableProtectionAt { job, vault, policy, due },
    })
}

impl Asked<'_> {
    pub(super) fn body<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        read_body(self.body)
    }

    fn cloud_policy(&self) -> crate::domain::policy::Policy {
        self.site.clouds.get(&self.vm.cloud).map(|cloud| cloud.policy).unwrap_or_default()
    }

    /// The recovery point that the body chooses.
    fn choice(&self) -> Result<PointChoice, Problem> {
        let UnplannedBody { point, .. } = self.body()?;
        named_point(point.as_deref())
    }

    /// The same, as far as it is known.
    pub(super) fn point(&self) -> Option<RecoveryPoint> {
        self.vm.known_point(self.choice().ok()?)
    }

    /// Bytes of logs that no recovery point holds yet.
    pub(super) fn log_bytes(&self) -> Option<u64> {
        self.outside.logs(self.vm.id).map(|logs| logs.bytes)
    }

    /// What an unplanned failover would lose.
    pub(super) fn loss(&self) -> String {
        let name = &self.vm.name;
        let Some(point) = self.point() else {
            return format!("{name} has no such recovery point.");
        };
        let unsent = match self.log_bytes() {
            Some(bytes) => format!("{} of logs are in no recovery point", size(bytes)),
            None => "how much that is cannot be told, since its host does not answer".to_owned(),
        };
        let later: Vec<_> = self.vm.points.iter().filter(|it| point.cycle < it.cycle).collect();
        let unused = match later.len() {
            0 => String::new(),
            count => {
                let bytes = later.iter().map(|point| point.bytes).sum();
                format!(", and {count} later recovery points ({}) are not used", size(bytes))
            }
        };
        format!(
            "{name} starts at the recovery site from recovery point {} of {}, {} old. What was written \
             since then is lost: {unsent}{unused}. The replica is closed to the primary site first.{}",
            point.cycle,
            point.at,
            age(self.now.since(point.at)),
            self.left_out(),
        )
    }

    /// What an unplanned failover does that sends first what can be had, and would lose otherwise.
    pub(super) fn loss_if_not_synchronized(&self) -> String {
        let name = &self.vm.name;
        if !self.vm.can_send_the_latest() {
            let state = &self.vm.phase;
            return format!(
                "Nothing of {name} can be sent first, since it is {state}. {}",
                self.loss()
            );
        }
        let unsent = match self.log_bytes() {
            Some(bytes) => format!("{} of logs are sent", size(bytes)),
            None => "what it wrote last is sent".to_owned(),
        };
        format!(
            "{name} is shut down at the primary site and {unsent}, as far as its host and the vault answer. Where \
             they do: {name} starts at the recovery site and nothing is lost. Where they do not: {}",
            self.loss()
        )
    }

    /// Whether the end of protection has the VM's host end tracking.
    pub(super) fn asks_source(&self) -> bool {
        let source_gone = self.body::<UnprotectBody>().is_ok_and(|body| body.source_gone);
        !source_gone && !matches!(self.vm.phase, Phase::FailedOver(_))
    }

    /// The host that is said to be gone, and whether it answers.
    pub(super) fn source_that_is_gone(&self) -> Result<Option<(&str, bool)>, Problem> {
        let UnprotectBody { source_gone } = self.body()?;
        let is_there = !matches!(self.vm.phase, Phase::FailedOver(_));
        let host = self.site.hosts.get(&self.vm.host).filter(|_| source_gone && is_there);
        Ok(host.map(|host| (host.name.as_str(), host.silent.is_none())))
    }

    /// The disks that the chosen recovery point does not have, since they were added after it.
    fn left_out(&self) -> String {
        // That of a test is named beside other things.
        let named = self.body::<TestBody>().ok().map(|body| named_point(body.point.as_deref()));
        let choice = named.unwrap_or_else(|| self.choice());
        let Some(point) = choice.ok().and_then(|choice| self.vm.known_point(choice)) else {
            return String::new();
        };
        let left = self.vm.disks.iter().filter(|disk| !self.vm.is_in_point(disk, point.cycle));
        let names: Vec<_> = left.map(|disk| disk.name.as_str()).collect();
        match names.as_slice() {
            [] => String::new(),
            [name] => format!(" It starts without disk {name}, which was added later."),
            names => {
                format!(" It starts without disks {}, which were added later.", names.join(", "))
            }
        }
    }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while 1024.0 <= value && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration for people.
fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_by_a_word_or_by_its_number() {
        assert_eq!(point_choice("latest"), Ok(PointChoice::Latest));
        assert_eq!(point_choice("17"), Ok(PointChoice::Cycle(17)));
        for wrong in ["", "-1", "Latest", "17 "] {
            let error = point_choice(wrong).expect_err("it is no point");
            assert!(error.contains("latest-processed"), "{error}");
        }
    }

    #[test]
    fn sizes_and_ages_are_told_in_units_that_fit() {
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
        assert_eq!(age(Duration::from_secs(119)), "119 s");
        assert_eq!(age(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(age(Duration::from_mins(116)), "116 min 0 s");
        assert_eq!(age(Duration::from_mins(121)), "2 h 1 min");
    }

    #[test]
    fn every_operation_has_a_path_of_its_own() {
        for listed in OPERATIONS {
            let found = operation(listed.path).expect("it is listed");
            assert_eq!(found.title, listed.title);
        }
    }
}
