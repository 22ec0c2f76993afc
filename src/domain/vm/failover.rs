//! A failover: what is kept of it from its request until it is undone, or failed back.

use super::{Event, FailoverKind, Phase, RecoveryPoint, Stage, Vm, operations};
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What is known of the last failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// How it came about.
    pub kind: FailoverKind,
    /// The recovery point that it runs from.
    pub point: RecoveryPoint,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// When the replica VM ran from that point.
    pub started_at: Option<Timestamp>,
    /// When the replica VM ran first, from whatever point.
    pub first_started_at: Option<Timestamp>,
}

/// What one event makes of a failover; those of its job are dealt with like those of any job.
pub(super) fn apply(vm: &mut Vm, event: &Event, at: Timestamp) {
    match event {
        Event::FailoverRequested { point } => {
            vm.chosen = Some(*point);
            vm.synchronizes = false;
            // Another point of a failover that has ended its source already.
            if !matches!(vm.phase, Phase::CommitPending(_)) {
                vm.source_ended = None;
            }
        }
        Event::SynchronizationRequested => vm.synchronizes = true,
        Event::SourceFenced { epoch } => vm.epoch = *epoch,
        Event::FailedOver { kind, point } => {
            let before = vm.failover.filter(|_| operations::is_changing_point(vm));
            let asked_at = vm.job.as_ref().map_or(at, |job| job.started_at);
            vm.failover = Some(Failover {
                kind: *kind,
                point: *point,
                asked_at: before.map_or(asked_at, |before| before.asked_at),
                started_at: None,
                first_started_at: before.and_then(|before| before.first_started_at),
            });
        }
        Event::ReplicaStarted => {
            vm.delta.stage = Stage::Off;
            if let Some(failover) = vm.failover.as_mut() {
                failover.started_at = Some(at);
                failover.first_started_at.get_or_insert(at);
                let kind = failover.kind;
                vm.enter(Phase::CommitPending(kind), at);
            }
        }
        _ => {}
    }
}
