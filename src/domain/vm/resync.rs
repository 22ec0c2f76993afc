//! What is known of a VM's resynchronizations, and when they begin by themselves.
//!
//! The window is the configuration's until somebody gives the VM another one, and from then on that, also after the
//! service has started anew; until the configuration itself has another window.

use super::rules::begin_resync;
use super::{Event, Opening, Phase, ResyncReason, ResyncWindow, Vm};
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
