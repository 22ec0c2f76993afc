//! Serves disks over NBD: a thread per connection, outside of any async executor, and a second one where
//! writes come several at a time.
//!
//! They do requests straight on the disk, and send replies in batches: after several writes, and when no whole
//! request is left in the input buffer. Of the engines that were
//! measured this one is the fastest at any queue depth (an async one reaches 0.3 to 0.6 of it).

use super::protocol::Violation;
use super::session::{self, Failure};
use super::socket::{Endpoint, Listener, Stream};
use super::{Exports, NbdUri};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Connections at a time: several for each disk of a large host. Bounds threads, of which each has two at most,
/// and buffers.
const CONNECTIONS_MAX: usize = 256;

/// How long to wait before accepting again when the machine is short of something.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A listening server. Dropping it shuts it down.
#[derive(Debug)]
pub struct Server {
    listener: Arc<Listener>,
    endpoint: Endpoint,
    connections: Arc<Connections>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens and serves. The file of a Unix socket that nobody listens behind is replaced.
    ///
    /// # Errors
    /// What the system answers; `AddrInUse` if another server listens there.
    pub fn bind(endpoint: &Endpoint, exports: Arc<Exports>) -> io::Result<Self> {
        let listener = Arc::new(Listener::bind(endpoint)?);
        let endpoint = listener.endpoint()?;
        let connections = Arc::new(Connections { exports, ..Connections::default() });
        let accepting = {
            let (listener, connections) = (Arc::clone(&listener), Arc::clone(&connections));
            thread::Builder::new()
                .name("nbd-accept".to_owned())
                .spawn(move || connections.accept_all(&listener))?
        };
        Ok(Self { listener, endpoint, connections, accepting: Some(accepting) })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How a client names one of the exports.
    pub fn uri(&self, export: &str) -> NbdUri {
        NbdUri { endpoint: self.endpoint.clone(), export: export.to_owned() }
    }

    /// Stops listening, closes all connections and waits until their threads have ended, which takes
    /// as long as the requests that they are in.
    pub fn shutdown(&mut self) {
        self.connections.close();
        self.listener.shut_down();
        if let Some(accepting) = self.accepting.take() {
            _ = accepting.join(); // a panic there has been reported
        }
        self.connections.wait_until_all_ended();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The connections of one server.
#[derive(Debug, Default)]
struct Connections {
    exports: Arc<Exports>,
    live: Mutex<Live>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Live {
    closing: bool,
    streams: BTreeMap<u64, Stream>,
    next: u64,
}

impl Connections {
    fn accept_all(self: &Arc<Self>, listener: &Listener) {
        loop {
            let accepted = listener.accept().and_then(|stream| self.admit(stream));
            let live = self.lock();
            if live.closing {
                return;
            }
            if let Err(error) = accepted {
                tracing::warn!(%error, "cannot accept an NBD connection");
                let waited = self.changed.wait_timeout(live, ACCEPT_AGAIN);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: Stream) -> io::Result<()> {
        let mut live = self.lock();
        if live.closing {
            return Ok(());
        }
        if CONNECTIONS_MAX <= live.streams.len() {
            tracing::warn!(max = CONNECTIONS_MAX, "refused an NBD connection: there are too many");
            return Ok(());
        }
        let number = live.next;
        live.next += 1;
        live.streams.insert(number, stream.try_clone()?);
        drop(live);
        let ending = Ending { connections: Arc::clone(self), number };
        let serve = move || {
            let ending = ending;
            let exports = &ending.connections.exports;
            report(number, session::serve(&stream, exports));
            stream.shut_down();
        };
        thread::Builder::new().name(format!("nbd-{number}")).spawn(serve).map(drop)
    }

    fn close(&self) {
        let mut live = self.lock();
        live.closing = true;
        live.streams.values().for_each(Stream::shut_down);
        self.changed.notify_all();
    }

    fn wait_until_all_ended(&self) {
        let live = self.lock();
        let ended = self.changed.wait_while(live, |live| !live.streams.is_empty());
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Strikes a connection off when its thread ends, however it ends.
struct Ending {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.connections.lock().streams.remove(&self.number);
        self.connections.changed.notify_all();
    }
}

fn report(connection: u64, outcome: Result<(), Failure>) {
    match outcome {
        Ok(()) => tracing::debug!(connection, "NBD connection ended"),
        Err(Failure::Io(error)) => tracing::debug!(connection, %error, "NBD connection broke"),
        Err(Failure::Violation(violation @ Violation::NoSuchExport)) => {
            tracing::warn!(connection, %violation, "closed an NBD connection");
        }
        Err(Failure::Violation(violation)) => {
            tracing::warn!(connection, %violation, "closed an NBD connection: it does not speak NBD");
        }
        Err(Failure::HandshakeTime) => {
            tracing::warn!(connection, "closed an NBD connection: its handshake took too long");
        }
    }
}
