//! Blocking work of the data plane, one piece at a time, in no virtual time.
//!
//! The engine does its work on blocking threads. Here whoever asks for it stands still until it is done:
//! at any moment one thread runs, so no thread can influence what another does, and the order of
//! everything is that of the virtual time. How long the work takes is for the simulated port to say.

use super::clock::SimClock;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use tokio::runtime::{Handle, Runtime};

/// The threads of the data plane, of which one runs at a time.
#[derive(Debug)]
pub(super) struct Inline {
    runtime: Option<Runtime>,
    clock: Arc<SimClock>,
}

impl Inline {
    pub(super) fn new(clock: Arc<SimClock>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("simulated-data-plane")
            .build()?;
        Ok(Self { runtime: Some(runtime), clock })
    }

    pub(super) fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("only `drop` takes it").handle()
    }

    /// Waits for `work` while virtual time stands still.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.clock.freeze();
        // The task's budget is not renewed here, so waiting must not use it up.
        let mut work = pin!(tokio::task::unconstrained(work));
        let waker = Waker::from(Arc::new(Parked(thread::current())));
        let mut context = Context::from_waker(&waker);
        let done = loop {
            match work.as_mut().poll(&mut context) {
                Poll::Ready(done) => break done,
                Poll::Pending => thread::park(),
            }
        };
        self.clock.thaw();
        done
    }

    /// Does blocking work.
    pub(super) fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        self.wait(self.handle().spawn_blocking(work))
    }
}

impl Drop for Inline {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Nothing is under way: every call was waited for.
            runtime.shutdown_background();
        }
    }
}

struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
