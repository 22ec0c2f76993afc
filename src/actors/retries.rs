//! Which work is sent to be tried again before its time, and whom a failure makes suspect.

use crate::domain::catalogue::Code;
use crate::domain::entity::{Commit, Entry, Kind, StreamId};
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::{HostId, VaultId};
use crate::domain::vm::{self, RetryReason};
use crate::domain::{host, vault};
use std::collections::BTreeSet;
use uuid::Uuid;

/// What the supervisor remembers of early retries. It is the same for whatever runs the entities.
#[derive(Debug, Default)]
pub struct RetrySupervision {
    /// VMs whose last attempt was made since the cause of its failure had been seen to end.
    tried_early: BTreeSet<Uuid>,
}

impl RetrySupervision {
    /// Whether a commit can call for anything, or is to be remembered: of an everyday delta none is.
    pub fn is_concerned(entry: &Entry) -> bool {
        use vm::Event::{RetryScheduled, RetryStarted};
        match entry {
            Entry::Vm { events, .. } => {
                events.iter().any(|it| matches!(it, RetryStarted { .. } | RetryScheduled { .. }))
            }
            Entry::Vault { .. } | Entry::Host { .. } => true,
            Entry::Cloud { .. } | Entry::Plan { .. } | Entry::Fabric { .. } => false,
        }
    }

    /// What a durable commit calls for: commands, each with whom it is for. `vms` are those that are there.
    pub fn committed(
        &mut self,
        commit: &Commit,
        vms: impl Iterator<Item = Uuid>,
    ) -> Vec<(StreamId, Entry)> {
        let id = commit.stream.id;
        match &commit.entry {
            Entry::Vm { events, .. } => {
                events.iter().filter_map(|event| self.attempted(id, event)).collect()
            }
            Entry::Vault { events, .. } if events.contains(&vault::Event::VaultReachable) => {
                cause_ended(Cause::Vault(VaultId(id)), vms)
            }
            Entry::Host { events, .. } if events.contains(&host::Event::HeartbeatRestored) => {
                cause_ended(Cause::Host(HostId(id)), vms)
            }
            Entry::Vault { .. }
            | Entry::Host { .. }
            | Entry::Cloud { .. }
            | Entry::Plan { .. }
            | Entry::Fabric { .. } => vec![],
        }
    }

    /// An attempt made because the cause had ended, and failed all the same, shows that the cause is
    /// another one: suspecting it again would lead from attempt to attempt without a pause.
    fn attempted(&mut self, vm: Uuid, event: &vm::Event) -> Option<(StreamId, Entry)> {
        match event {
            vm::Event::RetryStarted { early: Some(RetryReason::CauseEnded(_)), .. } => {
                self.tried_early.insert(vm);
                None
            }
            vm::Event::RetryScheduled { because, attempt, .. }
                if !self.tried_early.remove(&vm) || *attempt == 1 =>
            {
                Self::suspect(because)
            }
            _ => None,
        }
    }

    /// A VM met a host that does not answer: the host's own watch may not have noticed, and only what it
    /// has seen end can it announce as ended. Whoever does not reach the vault looks for it itself
    /// ([`vm::Effect::AwaitVault`]): others may reach it.
    pub fn suspect(because: &Failure) -> Option<(StreamId, Entry)> {
        let failure = because.clone();
        match because.cause {
            Cause::Host(HostId(id)) if because.code == Code::HostLost => {
                let command = host::Command::ReportSilence { failure };
                Some((StreamId { kind: Kind::Host, id }, Entry::Host { command, events: vec![] }))
            }
            Cause::Vault(_) | Cause::Host(_) | Cause::Itself => None,
        }
    }
}

/// Sends all work that failed for this cause to be tried at once.
fn cause_ended(cause: Cause, vms: impl Iterator<Item = Uuid>) -> Vec<(StreamId, Entry)> {
    let because = RetryReason::CauseEnded(cause);
    let command = vm::Command::Retry { because };
    vms.map(|id| {
        let command = command.clone();
        (StreamId { kind: Kind::Vm, id }, Entry::Vm { command, events: vec![] })
    })
    .collect()
}
