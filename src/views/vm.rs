//! A VM: where it stands, how well it is protected, and what can be done.

use super::compliance::ComplianceView;
use super::failure::FailureView;
use super::health::{CauseView, IssueView, Readiness, of_vm};
use super::job::JobView;
use super::logs::LogsView;
use super::network::{PlacementView, TargetView};
use super::site::Site;
use super::statistics::StatisticsView;
use super::{Moment, PolicyView, seconds};
use crate::domain::catalogue::Code;
use crate::domain::id::{DiskId, RecoveryPointId, VmId};
use crate::domain::machine::Machine;
use crate::domain::placement::Purpose;
use crate::domain::time::Timestamp;
use crate::domain::vm::{
    AfterFailover, FailoverKind, Health, NextStep, Opening, Phase, RecoveryPoint, SourceEnd,
    SourceEnded, Stage, TestFailover, TestStatus, Trouble, Vm, Work,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a failover may wait for its commit before somebody is told: whoever looks whether the VM works
/// needs a working day.
const COMMIT_PATIENCE: Duration = Duration::from_hours(24);

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmView {
    /// Its identity.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: String,
    /// Hosts that it was brought away from: it is turned off there as soon as they answer.
    #[serde(default)]
    pub left_hosts: Vec<String>,
    /// Its cloud.
    pub cloud: String,
    /// Its vault, once it was protected.
    pub vault: Option<String>,
    /// Where it stands, as one word.
    pub state: String,
    /// The same for people.
    pub state_description: String,
    /// Since when.
    pub state_since: Moment,
    /// `Primary` or `Recovery`: where it may run.
    pub active_location: String,
    /// How well it is protected.
    pub health: Health,
    /// Every cause of that, the worst first.
    pub causes: Vec<CauseView>,
    /// Whether it could be failed over.
    pub readiness: Readiness,
    /// Age of the newest recovery point: what would be lost if the site were lost.
    pub rpo_seconds: Option<f64>,
    /// What the policy asks for.
    pub rpo_target_seconds: f64,
    /// In which share of the time it had the recovery points that it should have, where the log was read for
    /// that.
    pub compliance: Option<ComplianceView>,
    /// How many recovery points it has.
    pub recovery_points: usize,
    /// The newest of them.
    pub latest_recovery_point: Option<PointView>,
    /// The newest for which applications had put their data in order.
    pub latest_application_consistent_point: Option<PointView>,
    /// When the next delta is due, if one is waited for.
    pub next_delta_at: Option<Moment>,
    /// Bytes of the logs of what is in no recovery point yet, where the host's agent can be asked.
    pub log_bytes: Option<u64>,
    /// More of these logs.
    pub logs: Option<LogsView>,
    /// What can be done, by the names of the API.
    pub allowed_operations: Vec<String>,
    /// The running job, or the last one.
    pub job: Option<JobView>,
    /// Work that failed, if any.
    pub trouble: Option<TroubleView>,
    /// The last failover.
    pub failover: Option<FailoverView>,
    /// When and how a failover that is not committed is decided by itself.
    pub failover_decision: Option<DecisionView>,
    /// The test failover that is not cleaned up.
    pub test_failover: Option<TestView>,
    /// What came of the last test failover.
    pub last_test_failover: Option<TestResultView>,
    /// Whether it is to be tested: an answer of its own, beside health and readiness.
    #[serde(default)]
    pub test_status: TestStatusView,
    /// The failback under way.
    pub failback: Option<FailbackView>,
    /// Since when replication is paused.
    pub paused_since: Option<Moment>,
    /// What replication did lately, once it has begun.
    pub statistics: Option<StatisticsView>,
    /// Resynchronization.
    pub resync: ResyncView,
    /// How it is replicated.
    pub policy: PolicyView,
    /// Its disks.
    pub disks: Vec<DiskView>,
    /// Bytes of its disks.
    pub disk_bytes: u64,
    /// The epoch of the replica's writer; each failover raises it.
    pub epoch: u64,
    /// What its hypervisor says that it is.
    pub machine: Option<Machine>,
    /// What a failover would use at the recovery site.
    pub target: Option<TargetView>,
    /// What the replica of its last failover was started with.
    pub placement: Option<PlacementView>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// Its identity.
    pub id: DiskId,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// The image that it was added from, which the configuration need not name.
    #[serde(default)]
    pub image: Option<String>,
}

/// A recovery point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointView {
    /// Its identity.
    pub id: RecoveryPointId,
    /// The cycle that made it; commands name it by this.
    pub cycle: u64,
    /// The moment to which it recovers.
    pub at: Moment,
    /// How long ago that is.
    pub age_seconds: f64,
    /// Bytes that it stored in the vault.
    pub stored_bytes: u64,
    /// Whether applications had put their data in order.
    pub application_consistent: bool,
}

/// Failed work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroubleView {
    /// Which work, for people.
    pub work: String,
    /// Since when.
    pub since: Moment,
    /// How many attempts failed.
    pub failed_attempts: u32,
    /// `retry`, `trying` or `administrator`.
    pub next: String,
    /// When it is tried again.
    pub retry_at: Option<Moment>,
    /// The last failure.
    pub failure: FailureView,
}

/// The last failover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverView {
    /// How it came about.
    pub kind: FailoverKind,
    /// The point that the VM runs from.
    pub recovery_point_cycle: u64,
    /// The moment to which that recovered it.
    pub recovered_to: Moment,
    /// When it was asked for; another point that is chosen later is none.
    pub asked_at: Moment,
    /// When the replica ran first, from whatever point.
    pub started_at: Option<Moment>,
    /// From asking to running first.
    pub rto_seconds: Option<f64>,
    /// What is known of the VM at the primary site since: the evidence that there is one primary.
    #[serde(default)]
    pub source: Option<SourceEndView>,
}

/// What is known of the source that a failover ended. Whatever it does, the replica is closed to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceEndView {
    /// When.
    pub at: Moment,
    /// `ShutDown`, `SwitchedOff` or `OutOfReach`.
    pub how: String,
    /// The same for people.
    pub description: String,
    /// Why it could not be reached.
    pub failure: Option<FailureView>,
    /// Why what it wrote last could not be sent, where that was asked for.
    pub unsent: Option<FailureView>,
}

impl SourceEndView {
    fn new(ended: &SourceEnded) -> Self {
        let (how, failure) = match &ended.how {
            SourceEnd::ShutDown => ("ShutDown", None),
            SourceEnd::SwitchedOff => ("SwitchedOff", None),
            SourceEnd::OutOfReach(failure) => ("OutOfReach", Some(FailureView::new(failure))),
        };
        Self {
            at: ended.at.into(),
            how: how.to_owned(),
            description: ended.to_string(),
            failure,
            unsent: ended.unsent.as_ref().map(FailureView::new),
        }
    }
}

/// What is done with a failover by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionView {
    /// When, unless somebody has decided by then.
    pub at: Moment,
    /// What.
    pub then: AfterFailover,
}

/// A test failover that is not cleaned up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestView {
    /// The job that prepares it, or cleans it up.
    pub job: JobView,
    /// The point that it runs from.
    pub recovery_point_cycle: u64,
    /// The network that it runs in.
    pub network: String,
    /// When the copy ran.
    pub started_at: Option<Moment>,
    /// Whether it waits for its clean-up.
    pub waits_for_clean_up: bool,
    /// When it is cleaned up by itself.
    pub lease_ends: Moment,
    /// What went wrong.
    pub failure: Option<FailureView>,
    /// When its clean-up is tried again.
    pub retry_at: Option<Moment>,
    /// What the copy was started with.
    pub placement: Option<PlacementView>,
}

/// What came of a test failover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestResultView {
    /// When it was cleaned up: a test counts only then.
    pub at: Moment,
    /// Whether the copy ran.
    pub succeeded: bool,
    /// What its tester said.
    pub notes: String,
}

/// Whether a VM is to be tested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestStatusView {
    /// `TestRecommended`, `PerformedSuccessfully` or `NotApplicable`.
    pub state: TestStatus,
    /// Why a test is recommended, and how it is done.
    pub advice: Option<String>,
}

/// A failback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailbackView {
    /// Whether everything is downloaded, instead of what differs.
    pub in_full: bool,
    /// The host that it was at, where it is brought to one that somebody chose.
    #[serde(default)]
    pub from_host: Option<String>,
    /// What it gets at the primary site, where that is described.
    #[serde(default)]
    pub placement: Option<PlacementView>,
    /// The moment that the primary site's disks hold, once they do.
    pub restored_to: Option<Moment>,
    /// Bytes of the disks that were compared.
    pub compared_bytes: u64,
    /// Bytes of them that differed.
    pub different_bytes: u64,
}

/// Resynchronization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncView {
    /// When one begins by itself.
    pub window: String,
    /// Why one is needed.
    pub because: Option<String>,
    /// When the one that is waited for begins.
    pub begins_at: Option<Moment>,
    /// Whether it waits until it is begun by hand.
    pub waits_for_operator: bool,
    /// Bytes compared in the one under way, or the last one.
    pub compared_bytes: u64,
    /// Bytes of them that differed.
    pub different_bytes: u64,
}

impl VmView {
    /// What is to be said of a VM at `now`.
    pub fn new(vm: &Vm, site: &Site, now: Timestamp) -> Self {
        let consistent = |point: &&RecoveryPoint| vm.application_consistent.contains(&point.cycle);
        let point = |point: RecoveryPoint| PointView::new(point, vm, now);
        let (health, causes) = of_vm(vm, site, now);
        Self {
            id: vm.id,
            name: vm.name.clone(),
            host: site.host_name(vm.host),
            left_hosts: vm.left.iter().map(|host| site.host_name(*host)).collect(),
            cloud: site.cloud_name(vm.cloud),
            vault: site.vaults.get(&vm.vault).map(|vault| vault.name.clone()),
            state: state(&vm.phase).to_owned(),
            state_description: vm.phase.to_string(),
            state_since: vm.phase_since.into(),
            active_location: (if vm.may_run_at_primary() { "Primary" } else { "Recovery" })
                .to_owned(),
            health,
            causes,
            readiness: Readiness::of(vm, site),
            rpo_seconds: vm.rpo(now).map(seconds),
            rpo_target_seconds: seconds(vm.policy.copy_frequency()),
            compliance: None,
            recovery_points: vm.points.len(),
            latest_recovery_point: vm.latest_point().map(point),
            latest_application_consistent_point: vm
                .points
                .iter()
                .rfind(consistent)
                .copied()
                .map(point),
            next_delta_at: match vm.delta.stage {
                Stage::Waiting { due } => Some(due.into()),
                _ => None,
            },
            log_bytes: None,
            logs: None,
            allowed_operations: vm.allowed_operations().into_iter().map(str::to_owned).collect(),
            job: vm.job.as_ref().map(|job| JobView::new(job, vm, None, &[], now)),
            trouble: vm.trouble.as_ref().map(TroubleView::new),
            failover: vm.failover.map(|over| FailoverView {
                kind: over.kind,
                recovery_point_cycle: over.point.cycle,
                recovered_to: over.point.at.into(),
                asked_at: over.asked_at.into(),
                started_at: over.first_started_at.map(Moment),
                rto_seconds: over.first_started_at.map(|at| seconds(at.since(over.asked_at))),
                source: vm.source_ended.as_ref().map(SourceEndView::new),
            }),
            failover_decision: vm.decision.map(|(at, then)| DecisionView { at: at.into(), then }),
            test_failover: vm.test.as_ref().map(|test| TestView::new(test, vm, now)),
            last_test_failover: vm.last_test.as_ref().map(|test| TestResultView {
                at: test.at.into(),
                succeeded: test.succeeded,
                notes: test.notes.clone(),
            }),
            test_status: TestStatusView::new(vm, now),
            failback: vm.failback.as_ref().map(|back| FailbackView {
                in_full: back.in_full,
                from_host: back.before.map(|before| site.host_name(before.host)),
                placement: back.placement.as_ref().map(PlacementView::new),
                restored_to: back.restored.map(|point| point.at.into()),
                compared_bytes: back.compared_bytes,
                different_bytes: back.different_bytes,
            }),
            paused_since: match vm.delta.stage {
                Stage::Paused { since } => Some(since.into()),
                _ => None,
            },
            statistics: StatisticsView::of(vm, now),
            resync: ResyncView::new(vm),
            policy: vm.policy.into(),
            disks: vm.disks.iter().map(|disk| DiskView::new(disk, vm)).collect(),
            disk_bytes: vm.disks.iter().map(|disk| disk.size_bytes).sum(),
            epoch: vm.epoch,
            machine: vm.machine.clone(),
            target: TargetView::new(vm, site, Purpose::Unplanned),
            placement: vm.placement.as_ref().map(PlacementView::new),
        }
    }
}

impl VmView {
    /// The failover that was asked for last, if it failed.
    pub(super) fn failed_failover(&self) -> Option<IssueView> {
        let job = self.job.as_ref().filter(|job| job.state == "Failed")?;
        let is_failover = job.scenario_name.ends_with("Failover");
        let because = format!("{} of {} failed", job.friendly_name, self.name);
        is_failover.then(|| IssueView {
            subject: format!("job {}", job.id),
            cause: CauseView::of(Code::FailoverFailed, because, job.ended_at),
            affects: vec![self.name.clone()],
        })
    }

    /// Whether it was moved, and that is not final.
    fn can_be_committed(&self) -> bool {
        self.allowed_operations.iter().any(|operation| operation == "Commit")
    }

    /// What the VM waits for that somebody has to do: to complete a failback that is ready, or to make final
    /// what nobody has for a day and nothing decides by itself.
    pub(super) fn waits_for_somebody(&self, now: Moment) -> Option<IssueView> {
        if self.job.as_ref().is_some_and(|job| !job.ended()) {
            return None;
        }
        let waits = now.0.since(self.state_since.0);
        let (code, because) = match self.state.as_str() {
            "WaitingForUserInputAfterDataSync" => (
                Code::FailbackReady,
                format!("the failback of {} is ready to be completed", self.name),
            ),
            _ if self.can_be_committed()
                && self.failover_decision.is_none()
                && COMMIT_PATIENCE <= waits =>
            {
                let because =
                    format!("{} has not been committed or cancelled for a day", self.name);
                (Code::CommitRequired, because)
            }
            _ => return None,
        };
        Some(IssueView {
            subject: format!("vm {}", self.name),
            cause: CauseView::of(code, because, Some(self.state_since)),
            affects: vec![self.name.clone()],
        })
    }
}

impl TestView {
    fn new(test: &TestFailover, vm: &Vm, now: Timestamp) -> Self {
        Self {
            job: JobView::new(&test.job, vm, None, &[], now),
            recovery_point_cycle: test.point.cycle,
            network: test.network.clone(),
            started_at: test.started_at.map(Moment),
            waits_for_clean_up: test.waits_for_clean_up(),
            lease_ends: test.lease_ends.into(),
            failure: test.failure.as_ref().map(FailureView::new),
            retry_at: test.retry_at.map(Moment),
            placement: test.placement.as_ref().map(PlacementView::new),
        }
    }
}

impl TestStatusView {
    fn new(vm: &Vm, now: Timestamp) -> Self {
        let state = vm.test_status(now);
        let why = match &vm.last_test {
            None => "it was never tested".to_owned(),
            Some(test) if !test.succeeded => "its last test did not succeed".to_owned(),
            Some(test) => {
                format!("its last test was {} days ago", now.since(test.at).as_secs() / 86_400)
            }
        };
        let advice = (state == TestStatus::TestRecommended).then(|| {
            let name = &vm.name;
            format!("{why}; test it every 180 days with `lifeboat failover test {name} --network NETWORK`")
        });
        Self { state, advice }
    }
}

impl DiskView {
    fn new(disk: &crate::domain::vm::Disk, vm: &Vm) -> Self {
        let image = vm.added_disk(disk.id).map(|added| added.image.clone());
        Self { id: disk.id, name: disk.name.clone(), size_bytes: disk.size_bytes, image }
    }
}

impl PointView {
    /// What is to be said of a VM's recovery point at `now`.
    pub fn new(point: RecoveryPoint, vm: &Vm, now: Timestamp) -> Self {
        Self {
            id: point.id(vm.id),
            cycle: point.cycle,
            at: point.at.into(),
            age_seconds: seconds(now.since(point.at)),
            stored_bytes: point.bytes,
            application_consistent: vm.application_consistent.contains(&point.cycle),
        }
    }

    /// Every point of a VM at `now`, the newest first.
    pub fn all(vm: &Vm, now: Timestamp) -> Vec<Self> {
        vm.points.iter().rev().map(|point| Self::new(*point, vm, now)).collect()
    }
}

impl TroubleView {
    fn new(trouble: &Trouble) -> Self {
        let (next, retry_at) = match trouble.next {
            NextStep::RetryAt(due) => ("retry", Some(due)),
            NextStep::Trying => ("trying", None),
            NextStep::Administrator => ("administrator", None),
        };
        let work = match trouble.work {
            Work::Task { step, .. } => step.title().to_owned(),
            Work::Snapshot { cycle } => format!("Cutting the logs of cycle {cycle}"),
            Work::Ship { cycle, .. } => format!("Sending the delta of cycle {cycle}"),
        };
        Self {
            work,
            since: trouble.since.into(),
            failed_attempts: trouble.attempt,
            next: next.to_owned(),
            retry_at: retry_at.map(Moment),
            failure: FailureView::new(&trouble.failure),
        }
    }
}

impl ResyncView {
    fn new(vm: &Vm) -> Self {
        let reason = match &vm.phase {
            Phase::Resynchronizing(reason) => Some(reason.to_string()),
            _ => None,
        };
        Self {
            window: vm.resync.window.to_string(),
            because: reason,
            begins_at: match vm.resync.waits_for {
                Some(Opening::At(due)) => Some(due.into()),
                Some(Opening::ByHand) | None => None,
            },
            waits_for_operator: vm.resync.waits_for == Some(Opening::ByHand)
                || vm.is_resync_paused(),
            compared_bytes: vm.resync.compared_bytes,
            different_bytes: vm.resync.different_bytes,
        }
    }
}

/// A phase as one word. Site Recovery's for Hyper-V, where it has one; what it calls a committed unplanned failover
/// was seen for Azure VMs only.
pub(super) fn state(phase: &Phase) -> &'static str {
    match phase {
        Phase::Undiscovered => "Undiscovered",
        Phase::Unprotected => "Unprotected",
        Phase::Enabling => "EnablingProtection",
        Phase::InitialReplication => "InitialReplication",
        Phase::Finalizing => "FinalizingProtection",
        Phase::Protected => "Protected",
        Phase::Resynchronizing(_) => "Resynchronizing",
        Phase::FailingOver(FailoverKind::Planned) => "PlannedFailover",
        Phase::FailingOver(FailoverKind::Unplanned) => "UnplannedFailover",
        Phase::CommitPending(FailoverKind::Planned) => "PlannedFailoverCommitRequired",
        Phase::CommitPending(FailoverKind::Unplanned) => {
            "UnplannedFailoverCommitPendingStatesBegin"
        }
        Phase::FailedOver(FailoverKind::Planned) => "PlannedFailoverStatesBegin",
        Phase::FailedOver(FailoverKind::Unplanned) => "UnplannedFailoverCommitted",
        Phase::CancellingFailover => "CancellingFailover",
        Phase::FailingBack => "Failback",
        Phase::FailbackReady => "WaitingForUserInputAfterDataSync",
        Phase::FailbackCommitPending => "FailbackCommitRequired",
        Phase::FailedBack => "FailbackCommitted",
        Phase::Disabling => "DisablingProtection",
        Phase::UnprotectedAtRecovery => "UnprotectedAtRecovery",
    }
}
