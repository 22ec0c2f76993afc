//! How fast a host may send, and in which turn its VMs: limits by working hours, a few uploads of each
//! VM at a time, and nobody waits behind a neighbour's initial copy.
//!
//! The host owes what it sent until the limit has let that much time pass, and sends the next object
//! once it owes nothing. So the limit holds over the time that an object takes, not within an object,
//! and an object of any size gets its turn. The turn is that of the VM which has sent the least; one
//! that sent nothing for a while has saved nothing up (start-time fair queueing, by Goyal and others).
//! What is merged in the vault takes turns beside them: [`Lane::for_merges`].

use crate::domain::id::VmId;
use crate::domain::time::Timestamp;
use crate::ports::clock::Clock;
use crate::replica::Admission;
use futures_util::future::BoxFuture;
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};

/// The most that a wait lasts before the limit is looked at again: it changes with the hour.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

/// What a host may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Uploads of one VM at a time, 1 to 32, beside one of what is merged for it. Site Recovery's
    /// `UploadThreadsPerVM`.
    pub uploads_per_vm: usize,
    /// Bytes a second in working hours; `None` for as many as there is room for.
    pub working: Option<u64>,
    /// The same at other times.
    pub otherwise: Option<u64>,
    /// When people work.
    pub hours: WorkingHours,
}

/// When people work, in the site's local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkingHours {
    /// Monday first.
    pub days: [bool; 7],
    /// In minutes after midnight.
    pub from_minute: u16,
    /// In minutes after midnight, excluded; not after `from_minute`, it is on the next day.
    pub to_minute: u16,
    /// What local time is ahead of UTC, in minutes.
    pub utc_offset_minutes: i16,
}

impl Default for Limits {
    /// No limit, and 4 uploads of each VM: Site Recovery's default.
    fn default() -> Self {
        Self { uploads_per_vm: 4, working: None, otherwise: None, hours: WorkingHours::default() }
    }
}

impl Default for WorkingHours {
    /// Monday to Friday, 9 to 18 o'clock UTC.
    fn default() -> Self {
        let days = [true, true, true, true, true, false, false];
        Self { days, from_minute: 9 * 60, to_minute: 18 * 60, utc_offset_minutes: 0 }
    }
}

impl Limits {
    /// Bytes a second at `now`; `None` for as many as there is room for.
    pub fn at(&self, now: Timestamp) -> Option<u64> {
        if self.hours.contain(now) { self.working } else { self.otherwise }
    }
}

impl WorkingHours {
    /// Whether people work at `now`. Hours that end after midnight belong to the day they began on.
    pub fn contain(&self, now: Timestamp) -> bool {
        let local = now.as_millis().saturating_add(i64::from(self.utc_offset_minutes) * MINUTE_MS);
        let from = i64::from(self.from_minute) * MINUTE_MS;
        let length = match (i64::from(self.to_minute) * MINUTE_MS - from).rem_euclid(DAY_MS) {
            0 => DAY_MS,
            length => length,
        };
        let since_begin = local.saturating_sub(from);
        // 1970-01-01 was a Thursday, the fourth day of the week.
        let weekday = (since_begin.div_euclid(DAY_MS) + 3).rem_euclid(7) as usize;
        self.days[weekday] && since_begin.rem_euclid(DAY_MS) < length
    }
}

/// The pace of one host.
#[derive(Debug)]
pub struct Pace {
    limits: Limits,
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    moved: Notify,
}

/// Who takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sender {
    Vm(VmId),
    /// The merges of all VMs.
    Merges,
}

#[derive(Debug)]
struct Queue {
    /// Bytes sent that the limit has not let pass yet, as of the moment beside it.
    owed: f64,
    owed_at: Instant,
    /// Who waits, in the order of arrival.
    waiting: BTreeMap<u64, Sender>,
    tickets: u64,
    /// Where each sender stands: bytes that it has had its turn for, and those it missed by not waiting.
    served: BTreeMap<Sender, u64>,
    /// Where the sender stood that had its turn last.
    reached: u64,
}

impl Pace {
    /// A pace by `limits`; `clock` tells the hour.
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Arc<Self> {
        let queue = Queue {
            owed: 0.0,
            owed_at: Instant::now(),
            waiting: BTreeMap::new(),
            tickets: 0,
            served: BTreeMap::new(),
            reached: 0,
        };
        Arc::new(Self { limits, clock, queue: Mutex::new(queue), moved: Notify::new() })
    }

    /// The way of one VM to the vault. Every upload of the VM has to go the same way, but those of merges.
    pub fn lane(self: &Arc<Self>, vm: VmId) -> Lane {
        self.lane_of(Sender::Vm(vm), self.limits.uploads_per_vm.max(1))
    }

    fn lane_of(self: &Arc<Self>, sender: Sender, uploads: usize) -> Lane {
        Lane { pace: Arc::clone(self), sender, uploads: Arc::new(Semaphore::new(uploads)) }
    }

    /// Returns when it is the sender's turn to send `bytes`.
    async fn turn(&self, sender: Sender, bytes: u64) {
        let ticket = Ticket { pace: self, number: self.queue().arrive(sender) };
        loop {
            // Asked for before the look, so that nothing which moves in between is missed.
            let moved = self.moved.notified();
            let rate = self.limits.at(self.clock.now());
            let Some(wait) = self.queue().wait_of(ticket.number, sender, bytes, rate) else {
                return;
            };
            tokio::select! {
                biased;
                () = moved => {}
                () = sleep(wait.min(LOOK_AGAIN)) => {}
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those that wait, given up when it is dropped.
struct Ticket<'a> {
    pace: &'a Pace,
    number: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.pace.queue().waiting.remove(&self.number);
        self.pace.moved.notify_waiters();
    }
}

impl Queue {
    fn arrive(&mut self, sender: Sender) -> u64 {
        if !self.waiting.values().any(|waiting| *waiting == sender) {
            let served = self.served.entry(sender).or_default();
            *served = (*served).max(self.reached);
        }
        self.tickets += 1;
        self.waiting.insert(self.tickets, sender);
        self.tickets
    }

    /// `None` if it is this ticket's turn, which is then taken; else for how long to wait at most.
    fn wait_of(
        &mut self,
        ticket: u64,
        sender: Sender,
        bytes: u64,
        rate: Option<u64>,
    ) -> Option<Duration> {
        let Some(rate) = rate.filter(|rate| 0 < *rate) else {
            self.owed = 0.0;
            self.take(sender, bytes);
            return None;
        };
        let now = Instant::now();
        let passed = now.duration_since(self.owed_at).as_secs_f64() * rate as f64;
        self.owed = (self.owed - passed).max(0.0);
        self.owed_at = now;
        if 0.0 < self.owed {
            return Some(Duration::from_secs_f64(self.owed / rate as f64));
        }
        let served = |sender: &Sender| self.served.get(sender).copied().unwrap_or(0);
        let next = self.waiting.iter().min_by_key(|(number, sender)| (served(sender), **number));
        if next.is_some_and(|(number, _)| *number != ticket) {
            return Some(LOOK_AGAIN);
        }
        self.owed = bytes as f64;
        self.take(sender, bytes);
        None
    }

    fn take(&mut self, sender: Sender, bytes: u64) {
        let served = self.served.entry(sender).or_default();
        self.reached = *served;
        *served += bytes;
    }
}

/// A way to the vault: a VM's, or that of what is merged there.
#[derive(Clone, Debug)]
pub struct Lane {
    pace: Arc<Pace>,
    sender: Sender,
    uploads: Arc<Semaphore>,
}

impl Lane {
    /// The way of what is merged in the vault for a VM, at the pace of the VM's host: one upload at a time.
    ///
    /// It is not the VM's own way. A merge would hold one of the VM's few uploads there while it waits for its
    /// turn, and what it sends would be the VM's: a delta in the middle of a merge of a GiB would wait until its
    /// neighbours have had as much. Nor does it wait until nobody else does: a host that is always behind would
    /// never have its vault tidied. The merges of all VMs of a host take turns as though they were one VM more,
    /// so that a delta waits for one object of a merge, never for the merge, and many merges take from deltas
    /// and copies no more than one does.
    #[must_use]
    pub fn for_merges(&self) -> Self {
        self.pace.lane_of(Sender::Merges, 1)
    }
}

impl Admission for Lane {
    fn admit(&self, bytes: u64) -> BoxFuture<'_, Box<dyn Any + Send>> {
        Box::pin(async move {
            let upload = Arc::clone(&self.uploads).acquire_owned().await;
            self.pace.turn(self.sender, bytes).await;
            Box::new(upload) as Box<dyn Any + Send>
        })
    }
}
