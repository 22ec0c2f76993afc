//! A guest: a thread that boots from its disks and writes its workload to them, one write at a time.
//!
//! ```text
//!  Booting --content proven--> Running --stop--> Stopped
//!     |                          |
//!     '---- kill, disk gone -----'----> Crashed
//!        or content wrong
//! ```
//!
//! A disk that answers with an error is connected anew and the same write issued again, as long as the
//! patience lasts: the agent that serves it may have been killed and come back, and whether the write
//! whose answer was lost took place does not matter, because it leaves the same bytes.

#![expect(clippy::disallowed_methods, reason = "a guest paces its writes by real time")]

use super::workload::{CheckError, Checked, LastWrite, Workload, check};
use crate::ports::block::{BlockDevice, Connect};
use std::io;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Writes between two FLUSH commands: about what a journalling file system commits at once.
const FLUSH_EVERY: u64 = 64;

/// Writes in a transaction of the guest's application, which brings its data in order at the end of each.
pub const TRANSACTION_WRITES: u64 = FLUSH_EVERY;

/// The pause before a disk is connected anew.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How long [`Guest::kill`] waits for the call under way.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// A guest that fell behind its rate catches up at most this much, so that a stall is not followed by
/// a storm.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);

/// What a guest is made of.
#[derive(Clone)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its writes.
    pub workload: Workload,
    /// The NBD URIs of its disks, in the order of the workload's.
    pub uris: Vec<String>,
    /// Opens them.
    pub connect: Connect,
    /// How fast it writes after the install, which goes as fast as it can.
    pub writes_per_second: NonZeroU32,
    /// What it does once booted.
    pub after_boot: AfterBoot,
    /// How whole the last write on its disks must be for it to boot.
    pub last_write: LastWrite,
    /// For how long it tries to get a disk back.
    pub patience: Duration,
}

/// What a guest does once it is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterBoot {
    /// It goes on with the write after the last one on its disks.
    KeepWriting,
    /// It leaves its disks as they are.
    Idle,
}

/// What a guest is doing.
#[derive(Clone, Debug)]
pub enum State {
    /// It connects its disks and checks what they hold.
    Booting,
    /// It runs.
    Running,
    /// It was shut down: its writes are flushed.
    Stopped,
    /// It ended in another way.
    Crashed(Arc<Crash>),
}

impl State {
    /// Whether the guest is off.
    pub fn ended(&self) -> bool {
        matches!(self, Self::Stopped | Self::Crashed(_))
    }
}

/// How far a guest is.
#[derive(Clone, Debug)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// What its disks held when it booted.
    pub boot: Option<Checked>,
    /// The last write that it issued. Never falls.
    pub issued: u64,
    /// The last write that was answered; every write before it was, too. Never falls.
    pub acknowledged: u64,
    /// The last write that was answered before a FLUSH that was answered. Never falls.
    pub flushed: u64,
}

/// Why a guest is off without having been shut down.
#[derive(Debug, Error)]
pub enum Crash {
    /// It was killed.
    #[error("run {name}: it was killed")]
    Killed {
        /// The guest.
        name: String,
    },
    /// Its disks do not hold a prefix of its workload.
    #[error("boot {name}")]
    BootCheck {
        /// The guest.
        name: String,
        /// What they hold.
        source: CheckError,
    },
    /// A disk was away for longer than its patience.
    #[error("{operation} disk {disk} of {name}")]
    Disk {
        /// The guest.
        name: String,
        /// What it wanted to do.
        operation: &'static str,
        /// Index of the disk.
        disk: usize,
        /// What the last attempt met.
        source: io::Error,
    },
    /// Its thread panicked or could not be made.
    #[error("run {name}: {because}")]
    Thread {
        /// The guest.
        name: String,
        /// What happened.
        because: String,
    },
}

/// A VM that was switched on. Dropping it is [`Guest::kill`] without waiting.
#[derive(Clone)]
pub struct Guest(Arc<Console>);

impl Guest {
    /// Switches a VM on; it boots on a thread of its own.
    pub fn start(machine: Machine) -> Self {
        let status =
            Status { state: State::Booting, boot: None, issued: 0, acknowledged: 0, flushed: 0 };
        let panel = Arc::new(Panel {
            inside: Mutex::new(Inside { status, order: Order::Run, rest: Rest::None }),
            changed: Condvar::new(),
        });
        let guest = Self(Arc::new(Console { panel: panel.clone(), machine: machine.clone() }));
        let thread = thread::Builder::new().name(format!("guest-{}", machine.name));
        let life = Life { machine, panel };
        if let Err(error) = thread.spawn(move || life.run()) {
            let name = guest.0.machine.name.clone();
            let crash = Crash::Thread { name, because: error.to_string() };
            guest.0.panel.update(|status| status.state = State::Crashed(Arc::new(crash)));
        }
        guest
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        self.0.panel.lock().status.clone()
    }

    /// Whether it is switched on and nobody has asked it to end.
    pub fn is_on(&self) -> bool {
        let inside = self.0.panel.lock();
        inside.order == Order::Run && !inside.status.state.ended()
    }

    /// The URIs of the disks that it was started on.
    pub fn uris(&self) -> &[String] {
        &self.0.machine.uris
    }

    /// Blocks until `reached` is true of its status, or it is off; answers the status.
    pub fn wait_until(&self, reached: impl Fn(&Status) -> bool) -> Status {
        let panel = &self.0.panel;
        panel
            .changed
            .wait_while(panel.lock(), |inside| {
                !inside.status.state.ended() && !reached(&inside.status)
            })
            .unwrap_or_else(PoisonError::into_inner)
            .status
            .clone()
    }

    /// Blocks until it has booted and answers what its disks held.
    ///
    /// # Errors
    /// It crashed before.
    pub fn wait_booted(&self) -> Result<Checked, Arc<Crash>> {
        let status = self.wait_until(|status| status.boot.is_some());
        match (status.boot, status.state) {
            (Some(checked), _) => Ok(checked),
            (None, State::Crashed(crash)) => Err(crash),
            // Only a guest that has booted obeys an order to stop.
            (None, State::Booting | State::Running | State::Stopped) => {
                unreachable!("a guest stops or runs only after its boot check")
            }
        }
    }

    /// Shuts it down: it ends its write, flushes all disks and disconnects. Blocks until it is off and
    /// what it wrote is durable. The disks of one that crashed are flushed on its behalf; one that was
    /// shut down stays off.
    ///
    /// # Errors
    /// A disk could not be flushed; the guest is off. May be called again.
    pub fn stop(&self) -> Result<(), Arc<Crash>> {
        self.0.panel.order(Order::Stop);
        match self.wait_until(|_| false).state {
            State::Crashed(_) => self.0.machine.flush().map_err(Arc::new),
            State::Booting | State::Running | State::Stopped => Ok(()),
        }
    }

    /// Brings it to rest: it finishes its transaction as fast as it can, flushes, and writes nothing more
    /// until [`Guest::thaw`] or `at_most` later. Blocks until it is at rest.
    ///
    /// # Errors
    /// Why it is not; it goes on.
    pub fn freeze(&self, at_most: Duration) -> Result<(), &'static str> {
        let panel = &self.0.panel;
        let until = Instant::now() + at_most;
        {
            let mut inside = panel.lock();
            if !matches!(inside.status.state, State::Running) {
                return Err("the guest does not run");
            }
            inside.rest = Rest::Asked { until };
        }
        panel.changed.notify_all();
        let waits = |inside: &mut Inside| {
            matches!(inside.rest, Rest::Asked { .. }) && !inside.status.state.ended()
        };
        let waited = panel.changed.wait_timeout_while(panel.lock(), at_most, waits);
        let (mut inside, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Rest::Held { .. } = inside.rest {
            return Ok(());
        }
        inside.rest = Rest::None;
        Err("the guest did not finish its transaction in time")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It was not at rest up to this moment.
    pub fn thaw(&self) -> Result<(), &'static str> {
        let rest = std::mem::replace(&mut self.0.panel.lock().rest, Rest::None);
        self.0.panel.changed.notify_all();
        match rest {
            Rest::Held { until } if Instant::now() < until => Ok(()),
            Rest::Held { .. } | Rest::Asked { .. } | Rest::None => {
                Err("the guest was not at rest, or not for long enough")
            }
        }
    }

    /// Cuts its power: it issues nothing more and drops its connections. Blocks until the call under
    /// way has returned, but for a second at most; what that call was doing may still take place.
    pub fn kill(&self) {
        let panel = &self.0.panel;
        panel.order(Order::Kill);
        let running = |inside: &mut Inside| !inside.status.state.ended();
        drop(panel.changed.wait_timeout_while(panel.lock(), KILL_WAIT, running));
    }
}

/// The side from which the guest is operated.
struct Console {
    panel: Arc<Panel>,
    machine: Machine,
}

impl Drop for Console {
    fn drop(&mut self) {
        self.panel.order(Order::Kill);
    }
}

impl Machine {
    /// Connects all disks and flushes them.
    fn flush(&self) -> Result<(), Crash> {
        for (disk, uri) in self.uris.iter().enumerate() {
            (self.connect)(uri).and_then(|device| device.flush()).map_err(|source| {
                Crash::Disk { name: self.name.clone(), operation: "flush", disk, source }
            })?;
        }
        Ok(())
    }
}

/// What the thread of a guest shares with those who operate it.
struct Panel {
    inside: Mutex<Inside>,
    changed: Condvar,
}

struct Inside {
    status: Status,
    order: Order,
    rest: Rest,
}

/// Whether the guest is to be at rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    None,
    /// It is asked to.
    Asked {
        until: Instant,
    },
    /// It is.
    Held {
        until: Instant,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Run,
    Stop,
    Kill,
}

impl Panel {
    /// A panic while the lock is held leaves every field whole.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock().status);
        self.changed.notify_all();
    }

    /// Gives an order, which a harder one outlasts.
    fn order(&self, order: Order) {
        let mut inside = self.lock();
        inside.order = inside.order.max(order);
        self.changed.notify_all();
    }

    /// Waits until `time` has passed, an order beyond `heeded` is given, or rest is asked for; answers
    /// the order.
    fn wait(&self, time: Duration, heeded: Order) -> Order {
        let calm = |inside: &mut Inside| {
            let asked = heeded == Order::Run && matches!(inside.rest, Rest::Asked { .. });
            inside.order <= heeded && !asked
        };
        match self.changed.wait_timeout_while(self.lock(), time, calm) {
            Ok((inside, _)) => inside.order,
            Err(poisoned) => poisoned.into_inner().0.order,
        }
    }
}

/// What runs on the thread of a guest.
struct Life {
    machine: Machine,
    panel: Arc<Panel>,
}

type Disks = Vec<Option<Arc<dyn BlockDevice>>>;

impl Life {
    fn run(&self) {
        let end = catch_unwind(AssertUnwindSafe(|| self.live())).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
            let because = format!("it panicked: {}", said.unwrap_or("without a message"));
            Err(Crash::Thread { name: self.name(), because })
        });
        // The connections are dropped by here: whoever sees the end can rely on that.
        self.panel.update(|status| {
            status.state = match end {
                Ok(()) => State::Stopped,
                Err(crash) => State::Crashed(Arc::new(crash)),
            };
        });
    }

    fn live(&self) -> Result<(), Crash> {
        let mut disks: Disks = vec![None; self.machine.uris.len()];
        let booted_at = self.boot(&mut disks)?;
        let stop = match self.machine.after_boot {
            AfterBoot::Idle => self.idle(&mut disks),
            AfterBoot::KeepWriting => self.write_from(booted_at + 1, &mut disks),
        };
        stop.and_then(|()| self.flush(&mut disks))
    }

    /// Connects the disks and proves what they hold; answers the last write.
    fn boot(&self, disks: &mut Disks) -> Result<u64, Crash> {
        for disk in 0..disks.len() {
            self.persist(disks, disk, "connect", |_| Ok(()))?;
        }
        let connected: Vec<_> = disks.iter().flatten().map(AsRef::as_ref).collect();
        let checked =
            check(&self.machine.workload, &connected, self.machine.last_write, &|_, _| ())
                .map_err(|source| Crash::BootCheck { name: self.name(), source })?;
        self.obey(Duration::ZERO, Order::Stop)?;
        self.panel.update(|status| {
            status.state = State::Running;
            status.boot = Some(checked);
            status.issued = checked.last_write;
            status.acknowledged = checked.last_write;
        });
        Ok(checked.last_write)
    }

    fn idle(&self, disks: &mut Disks) -> Result<(), Crash> {
        while self.obey(Duration::MAX, Order::Run)? != Order::Stop {
            self.rest(disks)?;
        }
        Ok(())
    }

    /// Rests if that is asked for, with everything flushed, until it may go on, its time is over, or an
    /// order comes.
    fn rest(&self, disks: &mut Disks) -> Result<(), Crash> {
        if !self.rest_asked() {
            return Ok(());
        }
        self.flush(disks)?;
        let mut inside = self.panel.lock();
        let Rest::Asked { until } = inside.rest else { return Ok(()) };
        inside.rest = Rest::Held { until };
        self.panel.changed.notify_all();
        let left = until.saturating_duration_since(Instant::now());
        let rests = |inside: &mut Inside| {
            inside.order == Order::Run && matches!(inside.rest, Rest::Held { .. })
        };
        let waited = self.panel.changed.wait_timeout_while(inside, left, rests);
        waited.unwrap_or_else(PoisonError::into_inner).0.rest = Rest::None;
        Ok(())
    }

    fn rest_asked(&self) -> bool {
        matches!(self.panel.lock().rest, Rest::Asked { .. })
    }

    /// Issues one write after the other until the order to stop.
    fn write_from(&self, first: u64, disks: &mut Disks) -> Result<(), Crash> {
        let install_writes = self.machine.workload.install_writes();
        let mut pace = Pace::of(self.machine.writes_per_second);
        for n in first.. {
            if (n - 1).is_multiple_of(TRANSACTION_WRITES) {
                self.rest(disks)?;
            }
            let hurries = n <= install_writes || self.rest_asked();
            let pause = if hurries { Duration::ZERO } else { pace.pause(Instant::now()) };
            if self.obey(pause, Order::Run)? == Order::Stop {
                break;
            }
            self.issue(n, disks)?;
            if n.is_multiple_of(FLUSH_EVERY) {
                self.flush(disks)?;
            }
        }
        Ok(())
    }

    fn issue(&self, n: u64, disks: &mut Disks) -> Result<(), Crash> {
        let write = self.machine.workload.write(n);
        let content = self.machine.workload.content(n);
        self.panel.update(|status| status.issued = n);
        self.persist(disks, write.disk, "write to", |device| {
            device.write_at(&content, write.offset(), false)
        })?;
        self.panel.update(|status| status.acknowledged = n);
        Ok(())
    }

    fn flush(&self, disks: &mut Disks) -> Result<(), Crash> {
        for disk in 0..disks.len() {
            self.persist(disks, disk, "flush", |device| device.flush())?;
        }
        self.panel.update(|status| status.flushed = status.acknowledged);
        Ok(())
    }

    /// Does `attempt` with a disk until it succeeds, connecting anew after an error; gives up when the
    /// patience has run out.
    fn persist(
        &self,
        disks: &mut Disks,
        disk: usize,
        operation: &'static str,
        attempt: impl Fn(&dyn BlockDevice) -> io::Result<()>,
    ) -> Result<(), Crash> {
        let mut patience = self.machine.patience;
        loop {
            let device = match disks[disk].take() {
                Some(device) => Ok(device),
                None => (self.machine.connect)(&self.machine.uris[disk]),
            };
            let source = match device.and_then(|device| attempt(device.as_ref()).map(|()| device)) {
                Ok(device) => {
                    disks[disk] = Some(device);
                    return Ok(());
                }
                Err(error) => error,
            };
            if patience.is_zero() {
                return Err(Crash::Disk { name: self.name(), operation, disk, source });
            }
            // A guest that shuts down still has to get its writes to the disk.
            self.obey(RECONNECT_PAUSE.min(patience), Order::Stop)?;
            patience = patience.saturating_sub(RECONNECT_PAUSE);
        }
    }

    /// Waits for `time` or an order beyond `heeded`; answers the order, except that to be killed.
    fn obey(&self, time: Duration, heeded: Order) -> Result<Order, Crash> {
        match self.panel.wait(time, heeded) {
            Order::Kill => Err(Crash::Killed { name: self.name() }),
            order @ (Order::Run | Order::Stop) => Ok(order),
        }
    }

    fn name(&self) -> String {
        self.machine.name.clone()
    }
}

/// The guest's clock: spaces writes evenly.
struct Pace {
    interval: Duration,
    due: Instant,
}

impl Pace {
    fn of(writes_per_second: NonZeroU32) -> Self {
        let interval = Duration::from_secs(1) / writes_per_second.get();
        Self { interval, due: Instant::now() }
    }

    /// How long to wait before the next write, asked at `present`.
    fn pause(&mut self, present: Instant) -> Duration {
        let earliest = present.checked_sub(CATCH_UP_MAX).unwrap_or(present);
        self.due = (self.due + self.interval).max(earliest);
        self.due.saturating_duration_since(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_spaced_evenly_and_a_stall_is_not_made_up_for() {
        let start = Instant::now();
        let interval = Duration::from_millis(10);
        let mut pace = Pace { interval, due: start };
        assert_eq!(pace.pause(start), interval);
        assert_eq!(pace.pause(start), 2 * interval);
        let after_stall = start + Duration::from_mins(1);
        let at_once = (0..100).take_while(|_| pace.pause(after_stall).is_zero()).count();
        assert_eq!(at_once, 11, "100 ms at one write per 10 ms, and the one that is due");
    }
}
