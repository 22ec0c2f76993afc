//! Futures that are polled only when they were woken.
//!
//! An actor that hears of anything polls all that it does. Most of that waits for hours, each piece for something of
//! its own, and to look at all of it with every message would take longer than the message does.

use futures_util::task::AtomicWaker;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A future that is let alone until it is woken.
pub(super) struct WhenWoken<F> {
    future: F,
    bell: Arc<Bell>,
    waker: Waker,
    /// Whom the bell tells.
    told: Option<Waker>,
}

/// Whether the future was woken, and whom to tell.
struct Bell {
    rung: AtomicBool,
    outside: AtomicWaker,
}

impl<F> WhenWoken<F> {
    /// Polled once, as every future is, and then when it is woken.
    pub(super) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), outside: AtomicWaker::new() });
        Self { future, waker: Waker::from(Arc::clone(&bell)), bell, told: None }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.outside.wake();
    }
}

impl<F: Future + Unpin> Future for WhenWoken<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let is_told = this.told.as_ref().is_some_and(|told| told.will_wake(context.waker()));
        if is_told && !this.bell.rung.load(Ordering::Acquire) {
            // Nobody has rung since, so that whoever does tells the same.
            return Poll::Pending;
        }
        // Before the look, so that nothing that rings after it goes unheard.
        this.bell.outside.register(context.waker());
        this.told = Some(context.waker().clone());
        if !this.bell.rung.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::future::poll_fn;

    /// Whether it was woken.
    #[derive(Default)]
    struct Actor(AtomicBool);

    impl Wake for Actor {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_was_not_woken_is_let_alone_and_what_wakes_it_wakes_its_actor() {
        let (polls, waker) = (Cell::new(0), RefCell::new(None));
        let mut work = WhenWoken::new(poll_fn(|context: &mut Context<'_>| {
            polls.set(polls.get() + 1);
            let first = waker.replace(Some(context.waker().clone())).is_none();
            if first { Poll::Pending } else { Poll::Ready("done") }
        }));
        let actor = Arc::new(Actor::default());
        let actor_waker = Waker::from(Arc::clone(&actor));
        let mut look = || Pin::new(&mut work).poll(&mut Context::from_waker(&actor_waker));
        for _ in 0..3 {
            assert_eq!(look(), Poll::Pending);
        }
        assert_eq!(polls.get(), 1);
        assert!(!actor.0.load(Ordering::Relaxed));
        let wake = waker.borrow().clone().expect("it was polled");
        wake.wake();
        assert!(actor.0.load(Ordering::Relaxed));
        assert_eq!(look(), Poll::Ready("done"));
        assert_eq!(polls.get(), 2);
    }
}
