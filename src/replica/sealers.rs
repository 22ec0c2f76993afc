//! The threads that seal frames: compression is what an initial copy waits for, 0.35 GB/s a core
//! (data-plane measurement 3), so every core takes part in it.
//!
//! Results are taken in the order in which the work was given, so that an object has the same bytes
//! whoever was faster.

use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};
use std::thread;

/// Most threads; with more, the disk is what is waited for.
const MAX_THREADS: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// The threads, started by the first work. They sleep when there is none and end with the process.
static SEALERS: LazyLock<Sealers> = LazyLock::new(Sealers::start);

struct Sealers {
    jobs: mpsc::Sender<Job>,
    threads: usize,
}

/// The result of work that was handed over.
#[derive(Debug)]
pub(super) struct Promise<T>(mpsc::Receiver<T>);

/// Hands work over; where no thread could be started, it is done at once.
pub(super) fn hand_over<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Promise<T> {
    let (tell, told) = mpsc::sync_channel(1);
    // Nobody who waits any more means that the object was given up.
    let job: Job = Box::new(move || drop(tell.send(work())));
    if SEALERS.threads == 0 {
        job();
    } else {
        SEALERS.jobs.send(job).expect("the threads end with the process");
    }
    Promise(told)
}

/// How much work is worth handing over before the first result is taken.
pub(super) fn in_flight() -> usize {
    2 * SEALERS.threads.max(1)
}

impl Sealers {
    fn start() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let inbox = Arc::new(Mutex::new(inbox));
        let wanted = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_THREADS);
        let started = (0..wanted).filter(|_| {
            let inbox = Arc::clone(&inbox);
            thread::Builder::new().name("sealer".to_owned()).spawn(move || work(&inbox)).is_ok()
        });
        Self { threads: started.count(), jobs }
    }
}

fn work(inbox: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        job();
    }
}

impl<T> Promise<T> {
    /// Waits for the result.
    pub(super) fn wait(self) -> T {
        self.0.recv().expect("sealing a frame does not panic")
    }
}
