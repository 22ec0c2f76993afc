//! The VMs whose disks are at hand: what a host's agent has attached, or what the recovery site serves.

use super::pace::Lane;
use crate::disk::tracker::Tracker;
use crate::domain::failure::Failure;
use crate::domain::id::{DiskId, VmId};
use crate::ports::files::Files;
use crate::replica::Overlay;
use crate::replica::segment::SegmentHash;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// By disk: a cycle, and where its log ended with it.
pub(super) type Heads = BTreeMap<DiskId, (u64, Head)>;

/// A VM's disks at one of its sites, tracked.
#[derive(Debug)]
pub struct Source {
    /// Tracks and serves its disks.
    pub tracker: Arc<Tracker>,
    /// The recovery point under each disk of the recovery site; none at the primary site.
    pub(super) overlays: BTreeMap<DiskId, Arc<Overlay>>,
    /// The host's files, in which the logs are.
    pub(super) files: Arc<dyn Files>,
    /// Its way to the vault, where its host's pace is limited.
    pub(super) lane: Option<Lane>,
    /// Held by whoever moves data of the VM: work that was given up may still be ending when the same
    /// work starts again.
    busy: Mutex<()>,
    /// Where each disk's log in the vault ended when the cycle was sent: spares asking the vault.
    heads: Mutex<Heads>,
}

impl Source {
    pub(super) fn new(
        tracker: Arc<Tracker>,
        overlays: BTreeMap<DiskId, Arc<Overlay>>,
        files: Arc<dyn Files>,
        lane: Option<Lane>,
    ) -> Self {
        let (busy, heads) = (Mutex::default(), Mutex::default());
        Self { tracker, overlays, files, lane, busy, heads }
    }

    /// Taken by whoever moves data of the VM, or ends that anybody does.
    pub(super) fn take(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets where the logs in the vault end: whoever brings disks and replica into step moves that,
    /// and so does a fence.
    pub(super) fn forget_heads(&self) {
        self.remember_heads(Heads::new());
    }

    pub(super) fn remember_heads(&self, heads: Heads) {
        *self.heads.lock().unwrap_or_else(PoisonError::into_inner) = heads;
    }

    /// Where the logs end, for one attempt to send: one that does not succeed looks anew, since something else
    /// may be there by then.
    pub(super) fn take_heads(&self) -> Heads {
        std::mem::take(&mut *self.heads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where a disk's log in the vault ends: what the next segment follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) sequence: u64,
    pub(super) hash: SegmentHash,
    pub(super) generation: u64,
}

/// The attached VMs. Shared; a host attaches its VMs when it comes up, and they go with it.
#[derive(Clone, Debug, Default)]
pub struct Sources(Arc<Mutex<Attached>>);

type Attached = BTreeMap<VmId, Result<Arc<Source>, Failure>>;

impl Sources {
    /// Attaches a VM, in place of what was attached as this VM before.
    pub fn attach(&self, vm: VmId, tracker: Arc<Tracker>, files: Arc<dyn Files>) {
        self.attach_at_pace(vm, tracker, files, None);
    }

    /// Attaches a VM whose uploads keep to a lane.
    pub fn attach_at_pace(
        &self,
        vm: VmId,
        tracker: Arc<Tracker>,
        files: Arc<dyn Files>,
        lane: Option<Lane>,
    ) {
        self.put(vm, Arc::new(Source::new(tracker, BTreeMap::new(), files, lane)));
    }

    pub(super) fn put(&self, vm: VmId, source: Arc<Source>) {
        self.all().insert(vm, Ok(source));
    }

    /// Keeps why a VM cannot be attached; that is what its work fails with.
    pub fn refuse(&self, vm: VmId, failure: Failure) {
        self.all().insert(vm, Err(failure));
    }

    /// Lets a VM go.
    pub fn detach(&self, vm: VmId) -> Option<Arc<Source>> {
        self.all().remove(&vm)?.ok()
    }

    /// The VM, if it is attached.
    ///
    /// # Errors
    /// Why it could not be attached; `None` if nobody tried, as when its host is away.
    pub fn find(&self, vm: VmId) -> Result<Arc<Source>, Option<Failure>> {
        self.all().get(&vm).cloned().ok_or(None)?.map_err(Some)
    }

    fn all(&self) -> MutexGuard<'_, Attached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
