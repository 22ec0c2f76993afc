//! A storage that dies at a chosen request, hangs when told to, and remembers what was sent.

use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// What becomes of the request at which the storage dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// It does not arrive.
    Before,
    /// It is done, but its answer is lost.
    After,
}

/// Clones are the same storage.
#[derive(Clone, Debug)]
pub(super) struct Tap {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
    open: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Default)]
struct State {
    death: Option<(usize, Death)>,
    dead: bool,
    waiting: usize,
    most_waiting: usize,
    /// How often each object was sent so that it arrived.
    sent: BTreeMap<String, usize>,
    /// How often each object was asked for from its beginning.
    opened: BTreeMap<String, usize>,
    /// Bytes that were sent and read.
    moved_bytes: u64,
}

impl Tap {
    pub(super) fn over(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, state: Arc::default(), open: Arc::new(watch::Sender::new(true)) }
    }

    /// Lets so many requests through; the next one is the last.
    pub(super) fn die_after(&self, requests: usize, death: Death) {
        self.state.lock().unwrap().death = Some((requests, death));
    }

    /// Brings it back; answers whether it had died.
    pub(super) fn revive(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        state.death = None;
        std::mem::take(&mut state.dead)
    }

    /// Answers nothing until [`Tap::release`].
    pub(super) fn hold(&self) {
        self.open.send_replace(false);
    }

    pub(super) fn release(&self) {
        self.open.send_replace(true);
    }

    /// Requests that wait for an answer, and the most that ever did at one time.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.waiting, state.most_waiting)
    }

    pub(super) fn sent(&self) -> BTreeMap<String, usize> {
        self.state.lock().unwrap().sent.clone()
    }

    pub(super) fn opened(&self) -> BTreeMap<String, usize> {
        self.state.lock().unwrap().opened.clone()
    }

    /// Bytes of objects that went either way.
    pub(super) fn moved_bytes(&self) -> u64 {
        self.state.lock().unwrap().moved_bytes
    }

    fn note_sent(&self, location: &Path, bytes: u64) {
        let mut state = self.state.lock().unwrap();
        *state.sent.entry(location.to_string()).or_default() += 1;
        state.moved_bytes += bytes;
    }

    async fn pass<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        if !*self.open.borrow() {
            let _waiting = Waiting::new(self);
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
        }
        match self.fate() {
            None => work.await,
            Some(Death::Before) => Err(dead()),
            Some(Death::After) => work.await.and_then(|_| Err(dead())),
        }
    }

    fn fate(&self) -> Option<Death> {
        let mut state = self.state.lock().unwrap();
        if state.dead {
            return Some(Death::Before);
        }
        match state.death.as_mut() {
            None => None,
            Some((0, death)) => {
                let death = *death;
                state.dead = true;
                Some(death)
            }
            Some((left, _)) => {
                *left -= 1;
                None
            }
        }
    }
}

/// One request that waits.
struct Waiting<'a>(&'a Tap);

impl<'a> Waiting<'a> {
    fn new(tap: &'a Tap) -> Self {
        let mut state = tap.state.lock().unwrap();
        state.waiting += 1;
        state.most_waiting = state.most_waiting.max(state.waiting);
        Self(tap)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().waiting -= 1;
    }
}

fn dead() -> Error {
    Error::Generic { store: "tap", source: io::Error::from(io::ErrorKind::ConnectionReset).into() }
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tap({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Tap {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.pass(async {
            self.note_sent(location, payload.content_length() as u64);
            self.inner.put_opts(location, payload, options).await
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(GetRange::Bounded(Range { start: 0, .. })) = options.range {
            *self.state.lock().unwrap().opened.entry(location.to_string()).or_default() += 1;
        }
        let asks_only = options.head;
        let got = self.pass(self.inner.get_opts(location, options)).await?;
        if !asks_only {
            self.state.lock().unwrap().moved_bytes += got.range.end - got.range.start;
        }
        Ok(got)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (tap, items) = (self.clone(), self.inner.list(prefix));
        let listed = async move { tap.pass(async { Ok(items) }).await };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.pass(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
