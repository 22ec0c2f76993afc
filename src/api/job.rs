//! Jobs of VMs as they are asked for: given up, and begun again.

use super::operation::{Asked, Needs, Operation, operation};
use crate::domain::id::JobId;
use crate::domain::job::JobKind;
use crate::domain::vm::Command;
use crate::views::{Moment, PolicyView};
use serde::Deserialize;
use serde_json::{Value, json};

/// Gives the running job of a VM up. It is asked for by the job, not by the VM.
pub(super) const CANCEL_JOB: Operation = Operation {
    path: "cancel-job",
    title: "Cancel a job",
    needs: Needs::Nothing,
    command: |asked| {
        let CancelBody { job } = asked.body()?;
        Ok(Command::CancelJob { job })
    },
    consequence,
};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    job: JobId,
}

/// What becomes of a VM whose job is given up.
fn consequence(asked: &Asked<'_>) -> String {
    let name = &asked.vm.name;
    let Ok(CancelBody { job }) = asked.body() else { return String::new() };
    let tested = asked.vm.test.as_ref().map(|test| &test.job);
    let Some(job) = asked.vm.job.iter().chain(tested).find(|own| own.id == job) else {
        return String::new();
    };
    let as_operation =
        |path| operation(path).map_or_else(String::new, |it| (it.consequence)(asked));
    match job.kind {
        JobKind::EnableProtection | JobKind::InitialReplication | JobKind::FinalizeProtection => {
            format!(
                "{name} is not protected, and goes on as it is: what was copied of its disks is deleted."
            )
        }
        JobKind::Resynchronize | JobKind::ResynchronizeDifferences => format!(
            "The resynchronization of {name} stops until somebody begins it with `lifeboat vm resync {name}`. Its recovery \
             points stay; no new one is made meanwhile."
        ),
        JobKind::PlannedFailover | JobKind::UnplannedFailover | JobKind::ChangeRecoveryPoint => {
            as_operation("cancel-failover")
        }
        JobKind::Failback | JobKind::CompleteFailback => as_operation("cancel-failback"),
        JobKind::TestFailover => as_operation("test-failover-cleanup"),
        JobKind::ResizeDisk | JobKind::AddDisk => {
            format!("{name} keeps the disks that it has, and is replicated as before.")
        }
        JobKind::DisableAtRecovery => {
            format!(
                "{name} stays failed over, and still needs the vault. What was downloaded stays on its disks."
            )
        }
        // What these undo or make final is half done: they cannot be given up.
        JobKind::CommitFailover
        | JobKind::CommitFailback
        | JobKind::CancelFailover
        | JobKind::ReverseReplicate
        | JobKind::ResumeReplication
        | JobKind::DisableProtection
        | JobKind::RemoveProtection
        | JobKind::TestFailoverCleanup => String::new(),
    }
}

/// The operation, and its body, that has a VM do what a command did.
pub(super) fn asked_as(command: &Command) -> Option<(&'static Operation, Value)> {
    let (path, body) = match command {
        Command::EnableProtection { vault, policy, .. } => {
            ("protect", json!({ "vault": vault, "policy": PolicyView::from(*policy) }))
        }
        Command::EnableProtectionAt { vault, policy, due, .. } => {
            let (policy, due) = (PolicyView::from(*policy), Moment(*due));
            ("protect", json!({ "vault": vault, "policy": policy, "start_at": due }))
        }
        Command::PlannedFailover { .. } => ("planned-failover", json!({})),
        Command::UnplannedFailover { point, .. } => {
            ("unplanned-failover", json!({ "point": point.to_string() }))
        }
        Command::SynchronizeAndFailOver { .. } => {
            ("unplanned-failover", json!({ "synchronize": true }))
        }
        Command::CommitFailover { .. } => ("commit", json!({})),
        Command::Resynchronize { .. } => ("resync", json!({})),
        Command::TestFailover { point, network, lease_h, .. } => {
            let point = point.to_string();
            ("test-failover", json!({ "point": point, "network": network, "lease_hours": lease_h }))
        }
        Command::CleanUpTestFailover { notes, .. } => {
            ("test-failover-cleanup", json!({ "notes": notes }))
        }
        Command::ChangeRecoveryPoint { point, .. } => {
            ("change-point", json!({ "point": point.to_string() }))
        }
        Command::CancelFailover { .. } => ("cancel-failover", json!({})),
        Command::Failback { in_full, .. } => ("failback", json!({ "in_full": in_full })),
        Command::FailbackToHost { in_full, host, .. } => {
            ("failback", json!({ "in_full": in_full, "to_host": host }))
        }
        Command::CompleteFailback { .. } => ("complete-failback", json!({})),
        Command::ReverseReplicate { .. } => ("reverse-replicate", json!({})),
        Command::DisableProtection { source_gone, .. } => {
            ("unprotect", json!({ "source_gone": source_gone }))
        }
        Command::ResizeDisk { disk, size_bytes, .. } => {
            ("resize-disk", json!({ "disk": disk, "size_bytes": size_bytes }))
        }
        Command::AddDisk { disk, image, .. } => {
            ("add-disk", json!({ "disk": disk.name, "image": image }))
        }
        _ => return None,
    };
    Some((operation(path)?, body))
}
