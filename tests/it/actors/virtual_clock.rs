//! Time that jumps, and the instants at which the service can be killed.

use lifeboat::domain::time::Timestamp;
use lifeboat::ports::clock::Clock;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// When every test begins.
pub(crate) const BEGINNING: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// The clocks of a test: the time that really passed, over all its runs, and a wall clock that can be
/// set.
#[derive(Debug, Default)]
pub(crate) struct VirtualClock {
    passed: Mutex<Passed>,
}

#[derive(Debug, Default)]
struct Passed {
    in_earlier_runs: Duration,
    this_run_began: Option<Instant>,
    wall_is_ahead_ms: i64,
}

impl VirtualClock {
    /// The time that really passed since the beginning of the test.
    pub(crate) fn elapsed(&self) -> Duration {
        let passed = self.passed.lock().unwrap();
        passed.in_earlier_runs + passed.this_run_began.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Somebody sets the wall clock.
    pub(crate) fn set_wall(&self, ahead_by: Duration) {
        self.passed.lock().unwrap().wall_is_ahead_ms += ahead_by.as_millis() as i64;
    }

    /// Somebody sets the wall clock back.
    pub(crate) fn set_wall_back(&self, by: Duration) {
        self.passed.lock().unwrap().wall_is_ahead_ms -= by.as_millis() as i64;
    }

    fn enter_run(&self) {
        self.passed.lock().unwrap().this_run_began = Some(Instant::now());
    }

    fn leave_run(&self) {
        let elapsed = self.elapsed();
        let mut passed = self.passed.lock().unwrap();
        passed.in_earlier_runs = elapsed;
        passed.this_run_began = None;
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.elapsed().as_millis() as i64;
        let ahead = self.passed.lock().unwrap().wall_is_ahead_ms;
        Timestamp::from_millis(BEGINNING.as_millis() + elapsed + ahead)
    }
}

/// Runs one life of a service on a paused clock. What is left at its end is dropped as a kill would
/// drop it.
pub(crate) fn run<T>(clock: &VirtualClock, life: impl Future<Output = T>) -> T {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    actix::System::with_tokio_rt(runtime).block_on(async {
        clock.enter_run();
        let result = life.await;
        clock.leave_run();
        result
    })
}

/// Counts the instants at which a kill makes a difference, and kills at one of them.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    state: Mutex<FateState>,
    dead: AtomicBool,
    killed: Notify,
}

#[derive(Debug, Default)]
struct FateState {
    /// What happened; kept only where a kill is planned or told of.
    instants: Option<Vec<String>>,
    kill_at: Option<usize>,
}

impl Fate {
    /// The service is killed at this instant of its life, counted from here; at none if there is none.
    pub(crate) fn kill_at(&self, instant: Option<usize>) {
        let mut state = self.state.lock().unwrap();
        state.instants = Some(Vec::new());
        state.kill_at = instant;
        self.dead.store(false, Ordering::Relaxed);
    }

    /// What happened since, in order.
    pub(crate) fn instants(&self) -> Vec<String> {
        self.state.lock().unwrap().instants.clone().unwrap_or_default()
    }

    /// One instant. Does not return if the service is killed by then.
    pub(crate) async fn instant(&self, what: impl FnOnce() -> String) {
        if !self.dead.load(Ordering::Relaxed) {
            let mut state = self.state.lock().unwrap();
            let kill_at = state.kill_at;
            if let Some(instants) = &mut state.instants {
                if kill_at == Some(instants.len()) {
                    self.dead.store(true, Ordering::Relaxed);
                    self.killed.notify_one();
                }
                instants.push(what());
            }
        }
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// Lives until the kill; `None` if that came first.
    pub(crate) async fn until_killed<T>(&self, life: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.killed.notified() => None,
            result = life => Some(result),
        }
    }
}
