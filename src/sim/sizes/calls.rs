//! What a piece of work asks of the data plane and of the hypervisors, call by call, as `actors/hosted/vm.rs` does it.

use crate::domain::job::Step;
use crate::domain::vm::{FailoverKind, Phase, Side, Vm, Work};

/// One call. Of what ends at the same moment for the same VM, the order is that of the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    /// A look at the tracker.
    Look,
    /// A look whether the vault answers.
    ReachVault,
    CheckSource,
    CheckVault,
    StartTracking,
    Copy,
    Compare,
    CompleteCopy,
    Cut,
    Ship,
    ShipAll,
    Verify,
    Fence,
    Serve,
    StopServing,
    StartTest,
    EndTest,
    Restore,
    TrackRestored,
    StopTracking,
    DeleteReplica,
    KeepOnly,
    Heartbeat,
    ShutDownSource,
    /// The same for an unplanned failover: where it cannot be done, the power is cut.
    StopSource,
    /// The failover goes on if this cannot be done either.
    SwitchOff,
    AttachSource,
    StartSource,
    ShutDownReplica,
    StartReplica,
}

/// What has to be there for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    HostAndVault,
    Vault,
    /// The host, and the way to it.
    Hypervisor,
    Service,
}

impl Call {
    /// How many there are.
    pub(super) const COUNT: usize = Self::StartReplica as usize + 1;

    pub(super) fn place(self, vm: &Vm) -> Place {
        let recovery = vm.source == Side::Recovery;
        match self {
            Self::ReachVault if vm.fails_at_host() => Place::HostAndVault,
            Self::CheckSource | Self::StartTracking | Self::Cut | Self::StopTracking
                if recovery =>
            {
                Place::Service
            }
            Self::Copy | Self::Compare | Self::Ship | Self::ShipAll if recovery => Place::Vault,
            Self::CheckSource
            | Self::StartTracking
            | Self::Cut
            | Self::StopTracking
            | Self::TrackRestored => Place::Host,
            Self::Copy | Self::Compare | Self::Ship | Self::ShipAll | Self::Restore => {
                Place::HostAndVault
            }
            Self::ReachVault
            | Self::CheckVault
            | Self::CompleteCopy
            | Self::Verify
            | Self::Fence
            | Self::Serve
            | Self::DeleteReplica
            | Self::KeepOnly => Place::Vault,
            Self::Heartbeat
            | Self::ShutDownSource
            | Self::StopSource
            | Self::SwitchOff
            | Self::AttachSource
            | Self::StartSource => Place::Hypervisor,
            Self::Look
            | Self::StopServing
            | Self::StartTest
            | Self::EndTest
            | Self::ShutDownReplica
            | Self::StartReplica => Place::Service,
        }
    }

    /// Requests to the vault.
    pub(super) const fn requests(self, disks: u64) -> u64 {
        match self {
            Self::CheckVault | Self::CompleteCopy => 1,
            Self::Verify | Self::Fence | Self::Serve | Self::KeepOnly | Self::DeleteReplica => {
                1 + disks
            }
            Self::Copy | Self::Compare | Self::Restore => 2,
            // A segment of each disk, then the point.
            Self::Ship | Self::ShipAll => 1 + disks,
            _ => 0,
        }
    }

    pub(super) const fn stores(self) -> bool {
        matches!(
            self,
            Self::CheckVault
                | Self::Copy
                | Self::Compare
                | Self::CompleteCopy
                | Self::Ship
                | Self::ShipAll
                | Self::Fence
        )
    }

    /// Whether it moves whole disks, and deltas go before it.
    pub(super) const fn is_bulk(self) -> bool {
        matches!(self, Self::Copy | Self::Compare | Self::Restore)
    }

    /// How long it takes beside its way and its bytes, in milliseconds. As with real bytes.
    pub(super) const fn takes_ms(self) -> (u64, u64) {
        match self {
            Self::ShutDownSource | Self::StopSource => (2_000, 9_000),
            Self::SwitchOff => (1, 20),
            Self::StartSource | Self::StartReplica | Self::StartTest => (4_000, 20_000),
            _ => (1, 40),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CheckVault => "checking the vault",
            Self::Copy => "copying a disk",
            Self::Compare => "comparing a disk",
            Self::CompleteCopy => "completing the copy",
            Self::Ship | Self::ShipAll => "sending a delta",
            Self::Verify => "proving a recovery point",
            Self::Fence => "closing the replica",
            Self::Serve => "serving a recovery point",
            Self::Restore => "restoring a disk",
            Self::DeleteReplica => "deleting the replica",
            Self::KeepOnly => "deleting recovery points",
            _ => "its work",
        }
    }
}

/// A call of a piece of work, by its place among them, from 0; the last one has the outcome.
pub(super) fn call(vm: &Vm, work: Work, place: usize) -> Option<Call> {
    // The disks of a VM that is replicated from the recovery site are served first.
    let serves = vm.source == Side::Recovery
        && match work {
            Work::Snapshot { .. } | Work::Ship { .. } => true,
            Work::Task { step, .. } => step.is_at_source(),
        };
    match place {
        0 if serves => Some(Call::Serve),
        _ => calls(vm, work).get(place - usize::from(serves)).copied(),
    }
}

const fn calls(vm: &Vm, work: Work) -> &'static [Call] {
    let step = match work {
        Work::Snapshot { .. } => return &[Call::Cut],
        Work::Ship { .. } => return &[Call::Ship],
        Work::Task { step, .. } => step,
    };
    match step {
        Step::CheckEnableProtection => &[Call::CheckSource],
        Step::CheckPlannedFailover
        | Step::CheckReverseReplicate
        | Step::CheckResize
        | Step::CheckAddDisk => &[Call::CheckSource, Call::CheckVault],
        Step::IdentifyTarget => &[Call::CheckVault],
        Step::EnableReplication | Step::RestartTracking => &[Call::StartTracking],
        // Nothing but the commit that records them; and no disk grows or is added here.
        Step::StartInitialReplication
        | Step::UpdateProviderState
        | Step::GrowDisk(_)
        | Step::OfferGrownDisk(_)
        | Step::OfferAddedDisk(_) => &[],
        Step::CopyDisk(_) => &[Call::Copy],
        Step::CompareDisk(_) => &[Call::Compare],
        Step::RestoreDisk(_) => &[Call::Restore],
        Step::CompleteCopy => &[Call::CompleteCopy],
        // Whoever starts the source again behind Lifeboat's back adds nothing.
        Step::PrepareForFailover if vm.is_in_planned_failover() => &[Call::ShipAll, Call::Fence],
        Step::ApplyTrackedChanges | Step::SendBeforeResize | Step::PrepareForFailover => {
            &[Call::ShipAll]
        }
        Step::VerifyReplica
        | Step::CheckUnplannedFailover
        | Step::CheckCommit
        | Step::CheckTestFailover => &[Call::Verify],
        Step::ShutDownSource => &[Call::ShutDownSource],
        Step::PrepareTest | Step::DownloadDisk(_) | Step::LeaveVault => &[Call::Serve],
        Step::CheckDisable => &[Call::Serve, Call::Verify],
        Step::StartTest => &[Call::Serve, Call::StartTest],
        Step::StopTest | Step::DeleteTest => &[Call::EndTest],
        Step::ShutDownReplica => &[Call::ShutDownReplica],
        Step::DeleteReplicaDisks => &[Call::StopServing],
        Step::AttachSource => &[Call::AttachSource],
        Step::StartSource => &[Call::AttachSource, Call::StartSource],
        Step::CheckFailback => &[Call::Heartbeat, Call::CheckVault],
        Step::FenceReplica => &[Call::Fence],
        Step::TrackRestored => &[Call::TrackRestored],
        Step::StopTracking => &[Call::StopTracking],
        Step::DeleteReplica => &[Call::DeleteReplica],
        Step::FenceSource => &[Call::StopSource, Call::SwitchOff, Call::Fence],
        Step::StartFailover => &[Call::Verify, Call::ShutDownReplica, Call::Serve],
        Step::StartReplica if matches!(vm.phase, Phase::FailingOver(FailoverKind::Unplanned)) => {
            &[Call::Serve, Call::StopSource, Call::SwitchOff, Call::StartReplica]
        }
        Step::StartReplica => &[Call::Serve, Call::StartReplica],
        Step::DropOtherPoints => &[Call::KeepOnly],
    }
}

/// The place of the call that follows one which ended; `None` where the work failed with it.
pub(super) const fn next_place(ended: Call, place: usize, is_done: bool) -> Option<usize> {
    match (ended, is_done) {
        // It is off, so that its power need not be cut.
        (Call::StopSource, true) => Some(place + 2),
        (Call::StopSource | Call::SwitchOff, false) | (_, true) => Some(place + 1),
        (_, false) => None,
    }
}

/// The disk that a piece of work is about.
pub(super) const fn disk_of(work: Work) -> Option<crate::domain::id::DiskId> {
    match work {
        Work::Task {
            step: Step::CopyDisk(disk) | Step::CompareDisk(disk) | Step::RestoreDisk(disk),
            ..
        } => Some(disk),
        _ => None,
    }
}
