//! The vault's storage: objects in memory behind everything that can go wrong on the way to them.
//!
//! Requests take no virtual time here; what they cost is counted, and the simulated port spends it.

use super::dice::Dice;
use crate::domain::id::HostId;
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is wrong with the vault and the ways to it.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Debug, Default)]
pub(super) struct Weather {
    /// Nothing reaches the vault.
    pub(super) unreachable: bool,
    /// Hosts whose own link to the vault is cut.
    pub(super) cut: BTreeSet<HostId>,
    /// The credentials are refused.
    pub(super) refuses: bool,
    /// Nothing more can be stored.
    pub(super) full: bool,
    /// Requests of a hundred that are answered with "too many requests".
    pub(super) throttled: u32,
    /// Requests of a hundred that the vault fails.
    pub(super) failing: u32,
    /// Requests of a hundred that are lost on the way.
    pub(super) lossy: u32,
    /// Stored objects of a hundred whose acknowledgement is lost.
    pub(super) answers_lost: u32,
    /// What recovery plans probe does not answer.
    pub(super) gates_shut: bool,
    /// Scripts of recovery plans end with an error.
    pub(super) scripts_fail: bool,
    /// The primary site's provider does not answer.
    pub(super) provider_silent: bool,
}

/// What requests have cost so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) requests: u64,
    /// Bytes on their way to the storage.
    pub(super) sent: u64,
    /// Bytes on their way back.
    pub(super) received: u64,
}

/// The storage. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    objects: Arc<InMemory>,
    state: Arc<Mutex<State>>,
    dice: Arc<Dice>,
    /// A planted bug: what is there is overwritten.
    overwrites: bool,
}

#[derive(Debug, Default)]
struct State {
    weather: Weather,
    /// Whose work is being done.
    caller: Option<HostId>,
    cost: Cost,
    /// Requests that are still let through before whoever makes them dies.
    last_requests: Option<u64>,
}

enum Fate {
    Passes,
    /// It is carried out, and the answer is lost.
    AnswerLost,
    Fails(Error),
}

impl Storage {
    pub(super) fn new(dice: Arc<Dice>, overwrites: bool) -> Self {
        Self { objects: Arc::new(InMemory::new()), state: Arc::default(), dice, overwrites }
    }

    /// The objects themselves, past all faults.
    pub(super) fn objects(&self) -> Arc<InMemory> {
        Arc::clone(&self.objects)
    }

    pub(super) fn change_weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.lock().weather);
    }

    pub(super) fn weather(&self) -> Weather {
        self.lock().weather.clone()
    }

    /// Says whose requests the following ones are, and answers what all requests have cost so far.
    pub(super) fn begin(&self, caller: Option<HostId>) -> Cost {
        let mut state = self.lock();
        state.caller = caller;
        state.cost
    }

    /// What requests have cost since `before`.
    pub(super) fn cost_since(&self, before: Cost) -> Cost {
        let Cost { requests, sent, received } = self.lock().cost;
        Cost {
            requests: requests - before.requests,
            sent: sent - before.sent,
            received: received - before.received,
        }
    }

    /// Lets so many more requests through, then none; `None` lets all through.
    pub(super) fn die_after(&self, requests: Option<u64>) {
        self.lock().last_requests = requests;
    }

    /// Flips one bit of an object. Answers whether it is there and holds something.
    pub(super) async fn rot(&self, object: &Path, at: u64) -> bool {
        let Ok(got) = self.objects.get(object).await else { return false };
        let Ok(bytes) = got.bytes().await else { return false };
        let mut bytes = bytes.to_vec();
        let Some(index) = at.checked_rem(bytes.len() as u64) else { return false };
        bytes[index as usize] ^= 1 << (at % 8);
        self.objects.put(object, bytes.into()).await.is_ok()
    }

    /// The objects whose path contains `part`, in order.
    pub(super) async fn named(&self, part: &str) -> Vec<Path> {
        let listed: Vec<_> = self.objects.list(None).collect().await;
        let mut paths: Vec<_> =
            listed.into_iter().flatten().map(|object| object.location).collect();
        paths.retain(|path| path.as_ref().contains(part));
        paths.sort();
        paths
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, location: &str, stores: bool, bytes: u64) -> Fate {
        let mut state = self.lock();
        state.cost.requests += 1;
        state.cost.sent += bytes;
        match &mut state.last_requests {
            Some(0) => return Fate::Fails(broken_off()),
            Some(left) => {
                *left -= 1;
                // The last one of a process that dies may still be carried out.
                if *left == 0 && stores && self.dice.happens("the last request arrives", 50) {
                    return Fate::AnswerLost;
                }
            }
            None => {}
        }
        let caller = state.caller;
        let weather = &state.weather;
        let happens = |what: &str, percent| self.dice.happens(what, percent);
        if weather.unreachable || caller.is_some_and(|host| weather.cut.contains(&host)) {
            return Fate::Fails(generic(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                "the link to the vault is down",
            )));
        }
        if happens("loss", weather.lossy) {
            return Fate::Fails(broken_off());
        }
        if weather.refuses {
            let source = "the credentials have expired".into();
            return Fate::Fails(Error::Unauthenticated { path: location.to_owned(), source });
        }
        if happens("throttling", weather.throttled) {
            let text = "Server returned non-2xx status code: 429 Too Many Requests";
            return Fate::Fails(generic(text));
        }
        if happens("vault errors", weather.failing) {
            let text = "Server returned non-2xx status code: 503 Service Unavailable";
            return Fate::Fails(generic(text));
        }
        if stores && weather.full {
            let text = "the vault has no space left";
            return Fate::Fails(generic(io::Error::new(io::ErrorKind::StorageFull, text)));
        }
        if stores && happens("lost answers", weather.answers_lost) {
            return Fate::AnswerLost;
        }
        Fate::Passes
    }

    async fn carry<T>(
        &self,
        location: &str,
        stores: bool,
        bytes: u64,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match self.fate(location, stores, bytes) {
            Fate::Passes => work.await,
            Fate::AnswerLost => {
                work.await?;
                Err(broken_off())
            }
            Fate::Fails(error) => Err(error),
        }
    }
}

fn broken_off() -> Error {
    generic(io::Error::new(io::ErrorKind::ConnectionReset, "the connection to the vault broke off"))
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "simulated vault", source: source.into() }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated vault")
    }
}

#[async_trait]
impl ObjectStore for Storage {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        if self.overwrites {
            options.mode = PutMode::Overwrite;
        }
        let bytes = payload.content_length() as u64;
        let put = self.objects.put_opts(location, payload, options);
        self.carry(location.as_ref(), true, bytes, put).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let put = self.objects.put_multipart_opts(location, options);
        self.carry(location.as_ref(), true, 0, put).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let get = self.objects.get_opts(location, options);
        let got = self.carry(location.as_ref(), false, 0, get).await?;
        self.lock().cost.received += got.range.end - got.range.start;
        Ok(got)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.fate("objects", false, 0) {
            Fate::Fails(error) => stream::once(async { Err(error) }).boxed(),
            Fate::Passes | Fate::AnswerLost => self.objects.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fate(prefix.map_or("", Path::as_ref), false, 0) {
            Fate::Fails(error) => stream::once(async { Err(error) }).boxed(),
            Fate::Passes | Fate::AnswerLost => self.objects.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let location = prefix.map_or("", Path::as_ref);
        self.carry(location, false, 0, self.objects.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.carry(to.as_ref(), true, 0, self.objects.copy_opts(from, to, options)).await
    }
}
