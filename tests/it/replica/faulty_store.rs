//! A storage that fails when it is told to.

use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// It does not arrive.
    Refused(io::ErrorKind),
    /// It is done, but its answer is lost.
    AnswerLost,
}

#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    puts: Mutex<VecDeque<Fault>>,
    gets: Mutex<VecDeque<Fault>>,
    /// It overwrites, whatever it is told.
    overwrites: AtomicBool,
    pub(super) put_count: AtomicUsize,
    pub(super) get_count: AtomicUsize,
}

impl FaultyStore {
    pub(super) fn over(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        let (puts, gets) = (Mutex::default(), Mutex::default());
        let (put_count, get_count) = (0.into(), 0.into());
        Arc::new(Self { inner, puts, gets, overwrites: false.into(), put_count, get_count })
    }

    pub(super) fn forget_create(&self) {
        self.overwrites.store(true, Ordering::Relaxed);
    }

    pub(super) fn next_puts(&self, faults: &[Fault]) {
        self.puts.lock().unwrap().extend(faults);
    }

    /// Reads, the look for the vault's mark included.
    pub(super) fn next_gets(&self, faults: &[Fault]) {
        self.gets.lock().unwrap().extend(faults);
    }
}

fn fault(queue: &Mutex<VecDeque<Fault>>) -> Fault {
    queue.lock().unwrap().pop_front().unwrap_or(Fault::None)
}

fn broken(kind: io::ErrorKind) -> Error {
    Error::Generic { store: "faulty", source: io::Error::from(kind).into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        if self.overwrites.load(Ordering::Relaxed) {
            options.mode = PutMode::Overwrite;
        }
        self.put_count.fetch_add(1, Ordering::Relaxed);
        match fault(&self.puts) {
            Fault::None => self.inner.put_opts(location, payload, options).await,
            Fault::Refused(kind) => Err(broken(kind)),
            Fault::AnswerLost => {
                self.inner.put_opts(location, payload, options).await?;
                Err(broken(io::ErrorKind::ConnectionReset))
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.get_count.fetch_add(1, Ordering::Relaxed);
        match fault(&self.gets) {
            Fault::None => self.inner.get_opts(location, options).await,
            Fault::Refused(kind) => Err(broken(kind)),
            Fault::AnswerLost => Err(broken(io::ErrorKind::ConnectionReset)),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
