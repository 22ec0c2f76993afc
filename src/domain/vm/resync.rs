//! What is known of a VM's resynchronizations, and when they begin by themselves.
//!
//! The window is the configuration's until somebody gives the VM another one, and from then on that, also after the
//! service has started anew; until the configuration itself has another window.

use super::rules::begin_resync;
use super::{Event, Opening, Phase, RecoveryPoint, ResyncReason, ResyncWindow, Side, Stage, Vm};
use crate::domain::job::Step;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Resynchronization.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// When one begins by itself.
    pub window: ResyncWindow,
    /// What a marked VM waits for; `None` while it does not wait.
    pub waits_for: Option<Opening>,
    /// Why the replica itself is suspect, until it has been replaced.
    pub suspect: Option<ResyncReason>,
    /// Why tracking was lost while nothing was replicated: that is made good when it is again.
    pub lost: Option<ResyncReason>,
    /// Bytes of the disks that were compared in the resynchronization under way, or the last one.
    pub compared_bytes: u64,
    /// Bytes of them that differed.
    pub different_bytes: u64,
    /// The window of the configuration, when it last counted.
    pub configured: Option<ResyncWindow>,
}

impl Resync {
    pub(super) fn configure(&mut self, window: ResyncWindow) {
        self.window = window;
        self.configured = Some(window);
    }

    /// Whether a window of the configuration is to be taken over. One that differs only by the site's distance to UTC,
    /// as with summer time, is the same configuration.
    fn takes(&self, window: ResyncWindow) -> bool {
        let Some(known) = self.configured else { return true };
        let by_hand = known != self.window;
        if by_hand { !known.is_same_by_local_time(window) } else { known != window }
    }
}

impl Vm {
    /// Whether its resynchronization stands still until somebody resumes it, and goes on then from where it was.
    pub const fn is_resync_paused(&self) -> bool {
        matches!((&self.phase, self.delta.stage), (Phase::Resynchronizing(_), Stage::Paused { .. }))
    }

    /// Since when the task under way takes over a replica that cannot be relied on: it closes it to whoever else may
    /// write to it, and has it copied anew.
    pub fn takes_replica_over(&self) -> Option<Timestamp> {
        let job = self.job.as_ref().filter(|_| self.resync.suspect.is_some())?;
        let (_, task) = job.current().filter(|_| self.source == Side::Primary)?;
        (task.step == Step::RestartTracking).then_some(job.started_at)
    }
}

/// Tracking begins anew under an epoch that nobody has written under, with a cycle of which nobody can have made a
/// recovery point: whoever wrote to the replica as well may have made those that were found, and one more that was
/// all there but for its record.
pub(super) fn taken_over(vm: &Vm, found: &[RecoveryPoint]) -> Vec<Event> {
    let unused = found.iter().map(|point| point.cycle + 2).max().unwrap_or(0);
    let first_cycle = vm.first_cycle_of_new_chain().max(unused);
    vec![Event::SourceFenced { epoch: vm.epoch + 1 }, Event::TrackingStarted { first_cycle }]
}

pub(super) fn change_window(vm: &Vm, window: ResyncWindow, now: Timestamp) -> Vec<Event> {
    if vm.resync.window == window || vm.phase == Phase::Undiscovered {
        return vec![];
    }
    with_who_waits(vm, Event::ResyncWindowChanged { window }, window, now)
}

pub(super) fn configure_window(vm: &Vm, window: ResyncWindow, now: Timestamp) -> Vec<Event> {
    if !vm.resync.takes(window) || vm.phase == Phase::Undiscovered {
        return vec![];
    }
    let configured = Event::ResyncWindowConfigured { window };
    if vm.resync.window == window {
        return vec![configured];
    }
    with_who_waits(vm, configured, window, now)
}

/// The window counts for a VM that is marked and waits.
fn with_who_waits(vm: &Vm, changed: Event, window: ResyncWindow, now: Timestamp) -> Vec<Event> {
    let mut events = vec![changed];
    if let (Phase::Resynchronizing(_), Some(_)) = (&vm.phase, vm.resync.waits_for) {
        events.extend(begin_resync(vm, window, now));
    }
    events
}
