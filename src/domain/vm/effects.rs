//! The work that a VM's state calls for.

use super::{Effect, NextStep, Opening, Phase, Side, Stage, Trouble, Vm, Wake, Work};
use crate::domain::catalogue::Code;
use crate::domain::failure::Cause;
use crate::domain::id::VaultId;
use crate::domain::job::Step;

/// Effects that a state calls for, as a rule: the work or the moment that is waited for, the watch over the tracker,
/// and freeing space.
pub(super) const USUAL: usize = 4;

impl Vm {
    /// Whether the state calls for an effect.
    pub fn calls_for(&self, effect: &Effect) -> bool {
        let mut calls = false;
        self.each_effect(|called_for| calls |= called_for == *effect);
        calls
    }

    /// Tells every effect that the state calls for, in order: [`Vm::pending`](Entity::pending) without a list.
    pub fn each_effect(&self, mut tell: impl FnMut(Effect)) {
        match self.trouble.as_ref().map(|trouble| (trouble.next, trouble.attempt)) {
            Some((NextStep::RetryAt(due), attempt)) => {
                tell(Effect::WakeAt { due, wake: Wake::Retry(attempt) });
                if let Some(vault) = self.trouble.as_ref().and_then(Trouble::vault_out_of_reach) {
                    tell(Effect::AwaitVault { vault });
                }
            }
            Some((NextStep::Administrator, _)) => {}
            Some((NextStep::Trying, _)) | None => {
                if let Some(work) = self.work() {
                    tell(Effect::Do(work));
                }
            }
        }
        if let Some(test) = &self.test {
            let held = self.held.is_some();
            if let Some(work) = test.work().filter(|work| !(held && work.starts_test())) {
                tell(Effect::Do(work));
            }
            if let Some(due) = test.waits_until() {
                tell(Effect::WakeAt { due, wake: Wake::TestLease });
            }
        }
        if let (Phase::CommitPending(_), Some((due, _))) = (&self.phase, self.decision) {
            tell(Effect::WakeAt { due, wake: Wake::Decision });
        }
        if let Some(due) = self.waits_for_its_time() {
            tell(Effect::WakeAt { due, wake: Wake::InitialReplication });
        }
        let job_runs = self.job.as_ref().is_some_and(|job| job.ended.is_none());
        if let (Stage::Waiting { due }, false) = (self.delta.stage, job_runs) {
            tell(Effect::WakeAt { due, wake: Wake::Cycle(self.delta.cycle) });
        }
        if let (Phase::Resynchronizing(_), Some(Opening::At(due))) =
            (&self.phase, self.resync.waits_for)
        {
            tell(Effect::WakeAt { due, wake: Wake::Resync });
        }
        if self.is_tracked() {
            tell(Effect::WatchTracking { first_cycle: self.delta.chain_first_cycle });
        }
        if self.runs_replica() {
            tell(Effect::RunReplica);
        }
        for host in &self.left {
            tell(Effect::KeepOff { host: *host });
        }
        if self.reclaims_space() {
            tell(Effect::ReclaimSpace);
        }
    }

    /// Whether the work that failed is done at the VM's host, whose way to the vault may be cut while others
    /// reach it.
    pub fn fails_at_host(&self) -> bool {
        let at_primary = self.source == Side::Primary;
        self.trouble.as_ref().is_some_and(|trouble| match trouble.work {
            Work::Task { step: Step::RestoreDisk(_), .. } => true,
            Work::Snapshot { .. }
            | Work::Ship { .. }
            | Work::Task { step: Step::CopyDisk(_) | Step::SendBeforeResize, .. } => at_primary,
            Work::Task { step, .. } => at_primary && step.is_at_source(),
        })
    }
}

impl Trouble {
    /// The vault that could not be reached, if its answer is looked for.
    fn vault_out_of_reach(&self) -> Option<VaultId> {
        match self.failure.cause {
            Cause::Vault(vault) if self.failure.code == Code::LinkDown && !self.tried_early => {
                Some(vault)
            }
            Cause::Vault(_) | Cause::Host(_) | Cause::Itself => None,
        }
    }
}
