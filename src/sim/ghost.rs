//! What really happened, kept apart from what the service believes: how far each guest was at the
//! moments at which its disks can have been cut, what failovers lost, and what must never be and was.

use crate::domain::id::{DiskId, VmId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What holds in every run. No scenario chooses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A recovery point holds what was acknowledged before its cut, byte for byte, and nothing else.
    Durability,
    /// A VM does not run at both sites where the service can help it.
    OnePrimary,
    /// A planned failover loses nothing.
    PlannedWithoutLoss,
    /// Every recovery point that is offered can be restored.
    Restorable,
    /// When the faults have ended, every VM becomes well or says whom it waits for.
    Convergence,
    /// Every job ends, or says what or whom it waits for.
    JobsEnd,
    /// Folding the log gives the states that the running service has.
    ReplayEqualsLive,
    /// Deciding every command of the log again gives its events.
    RedecideEqualsLog,
    /// Failed work is tried again when the schedule says so.
    RetrySchedule,
    /// Log and state grow no faster than the work.
    Bounded,
    /// What counts as application-consistent was cut while its guest was at rest.
    AtRest,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Durability,
        Self::OnePrimary,
        Self::PlannedWithoutLoss,
        Self::Restorable,
        Self::Convergence,
        Self::JobsEnd,
        Self::ReplayEqualsLive,
        Self::RedecideEqualsLog,
        Self::RetrySchedule,
        Self::Bounded,
        Self::AtRest,
    ];

    /// Its name in a report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Durability => "durability",
            Self::OnePrimary => "one primary",
            Self::PlannedWithoutLoss => "planned failover loses nothing",
            Self::Restorable => "recovery points restorable",
            Self::Convergence => "convergence",
            Self::JobsEnd => "jobs end",
            Self::ReplayEqualsLive => "replay equals live",
            Self::RedecideEqualsLog => "re-decide equals log",
            Self::RetrySchedule => "retry schedule",
            Self::Bounded => "bounded",
            Self::AtRest => "application-consistent",
        }
    }
}

/// Something that must never be, and was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What should have held.
    pub invariant: Invariant,
    /// When it was noticed, in milliseconds of virtual time.
    pub at_ms: u64,
    /// What was the case.
    pub what: String,
}

/// How far a guest was when its disks may have been cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CutState {
    /// The last acknowledged write.
    pub(super) acked: u64,
    /// Whether the next one had begun and failed.
    pub(super) torn: bool,
}

/// What really happened.
#[derive(Debug, Default)]
pub(super) struct Ghost(Mutex<Happened>);

#[derive(Debug, Default)]
struct Happened {
    /// By the second that a cut is named after.
    cuts: BTreeMap<(VmId, i64), BTreeSet<CutState>>,
    /// Cuts, named in the same way, at which the guest was at rest.
    at_rest: BTreeSet<(VmId, i64)>,
    violations: Vec<Violation>,
    /// VMs with objects that rotted.
    rotten: BTreeSet<VmId>,
    lost: BTreeMap<VmId, u64>,
    /// The write that the guest noted first on a disk that was added.
    noted_from: BTreeMap<DiskId, u64>,
}

/// Violations that are kept: one is enough, and a run may have very many.
const VIOLATIONS_MAX: usize = 50;

impl Ghost {
    fn lock(&self) -> MutexGuard<'_, Happened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn may_be_cut(&self, vm: VmId, second: i64, state: CutState) {
        self.lock().cuts.entry((vm, second)).or_default().insert(state);
    }

    pub(super) fn rests(&self, vm: VmId, second: i64) {
        self.lock().at_rest.insert((vm, second));
    }

    /// Whether the guest was at rest at a cut that is named after this second.
    pub(super) fn was_at_rest(&self, vm: VmId, second: i64) -> bool {
        self.lock().at_rest.contains(&(vm, second))
    }

    /// How far the guest can have been at a cut that is named after this second.
    pub(super) fn states_at(&self, vm: VmId, second: i64) -> BTreeSet<CutState> {
        self.lock().cuts.get(&(vm, second)).cloned().unwrap_or_default()
    }

    pub(super) fn violated(&self, violation: Violation) {
        let mut happened = self.lock();
        if happened.violations.len() < VIOLATIONS_MAX {
            happened.violations.push(violation);
        }
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    pub(super) fn noted(&self, disk: DiskId, n: u64) {
        self.lock().noted_from.entry(disk).or_insert(n);
    }

    /// From which write on a disk that was added must have notes.
    pub(super) fn noted_from(&self, disk: DiskId) -> u64 {
        self.lock().noted_from.get(&disk).copied().unwrap_or(u64::MAX)
    }

    pub(super) fn rotted(&self, vm: VmId) {
        self.lock().rotten.insert(vm);
    }

    pub(super) fn is_rotten(&self, vm: VmId) -> bool {
        self.lock().rotten.contains(&vm)
    }

    /// Bytes that a failover did not bring along.
    pub(super) fn lost(&self, vm: VmId, bytes: u64) {
        self.lock().lost.insert(vm, bytes);
    }

    pub(super) fn lost_bytes(&self, vm: VmId) -> Option<u64> {
        self.lock().lost.get(&vm).copied()
    }
}
