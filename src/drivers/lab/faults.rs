//! Faults of the link and the vault, switched on and off while everything runs.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart,
};
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A fault between the primary site and its vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing reaches the vault; transfers under way break off. What the vault has already received
    /// it may still carry out.
    LinkCut,
    /// The vault takes nothing more; it can be read, and objects be deleted.
    VaultFull,
    /// The vault refuses the credentials.
    VaultRefuses,
    /// The vault answers "too many requests".
    VaultThrottles,
    /// The next object that is stored is stored, but the answer is lost. Ends by itself then.
    AnswerLost,
}

/// The switches of the faults, all off at first. Clones are the same switches.
#[derive(Clone, Debug)]
pub struct Faults(Arc<watch::Sender<Weather>>);

/// What is wrong at the moment.
#[derive(Clone, Debug, Default)]
struct Weather {
    faults: BTreeSet<Fault>,
    latency: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Weather::default())))
    }
}

/// What a request wants of the vault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    /// To read, list or delete.
    Read,
    /// To store.
    Store,
}

impl Faults {
    /// Switches a fault on.
    pub fn raise(&self, fault: Fault) {
        self.0.send_modify(|weather| _ = weather.faults.insert(fault));
    }

    /// Switches a fault off.
    pub fn clear(&self, fault: Fault) {
        self.0.send_modify(|weather| _ = weather.faults.remove(&fault));
    }

    /// The faults that are on.
    pub fn raised(&self) -> Vec<Fault> {
        self.0.borrow().faults.iter().copied().collect()
    }

    /// Makes every request wait this long before it reaches the vault; zero is the normal state.
    pub fn set_latency(&self, latency: Duration) {
        self.0.send_modify(|weather| weather.latency = latency);
    }

    /// Lets a request through, or answers the fault that it meets.
    async fn pass(&self, request: Request, location: &str) -> Result<()> {
        if self.is_raised(Fault::LinkCut) {
            return Err(generic(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                "the link to the vault is cut",
            )));
        }
        let latency = self.0.borrow().latency;
        if !latency.is_zero() {
            self.over_link(tokio::time::sleep(latency)).await?;
        }
        if self.is_raised(Fault::VaultRefuses) {
            let source = "the vault does not know these credentials".into();
            return Err(Error::Unauthenticated { path: location.to_owned(), source });
        }
        if self.is_raised(Fault::VaultThrottles) {
            // As the HTTP client of object_store words it.
            return Err(generic("Server returned non-2xx status code: 429 Too Many Requests"));
        }
        if request == Request::Store && self.is_raised(Fault::VaultFull) {
            return Err(generic(io::Error::new(
                io::ErrorKind::StorageFull,
                "the vault has no space left",
            )));
        }
        Ok(())
    }

    /// Does a request's work unless a fault keeps it from it, or the link is cut meanwhile.
    async fn carry<T>(
        &self,
        request: Request,
        location: &str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.pass(request, location).await?;
        self.over_link(work).await?
    }

    /// Stores something; the answer may be lost.
    async fn store<T>(
        &self,
        location: &str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let stored = self.carry(Request::Store, location, work).await?;
        if self.0.send_if_modified(|weather| weather.faults.remove(&Fault::AnswerLost)) {
            return Err(broken_off());
        }
        Ok(stored)
    }

    /// Waits for `work`, but not beyond the moment when the link is cut.
    async fn over_link<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let mut weather = self.0.subscribe();
        let cut = async {
            if weather.wait_for(|weather| weather.faults.contains(&Fault::LinkCut)).await.is_err() {
                // The switches are gone, so nobody can cut the link.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = cut => Err(broken_off()),
            done = work => Ok(done),
        }
    }

    /// The items of a transfer, up to the moment when the link is cut.
    fn transfer<T: Send + 'static>(
        &self,
        items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let faults = self.clone();
        stream::unfold(Some(items), move |rest| {
            let faults = faults.clone();
            async move {
                let mut items = rest?;
                match faults.over_link(items.next()).await {
                    Ok(item) => item.map(|item| (item, Some(items))),
                    Err(cut) => Some((Err(cut), None)),
                }
            }
        })
        .boxed()
    }

    /// A request that is answered with a transfer; it begins when it is first polled.
    fn transfer_after_pass<T: Send + 'static>(
        &self,
        location: &str,
        items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let (faults, location) = (self.clone(), location.to_owned());
        let transfer = self.transfer(items);
        let pass = async move { faults.pass(Request::Read, &location).await.map(|()| transfer) };
        stream::once(pass).try_flatten().boxed()
    }

    fn is_raised(&self, fault: Fault) -> bool {
        self.0.borrow().faults.contains(&fault)
    }
}

fn broken_off() -> Error {
    generic(io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the link to the vault was cut before the answer arrived",
    ))
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "lab vault", source: source.into() }
}

/// An object store behind the faults.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    store: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl FaultyStore {
    /// Puts `store` behind `faults`.
    pub fn new(store: Arc<dyn ObjectStore>, faults: Faults) -> Self {
        Self { store, faults }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} behind lab faults", self.store)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let put = self.store.put_opts(location, payload, options);
        self.faults.store(location.as_ref(), put).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begin = self.store.put_multipart_opts(location, options);
        let upload = self.faults.carry(Request::Store, location.as_ref(), begin).await?;
        Ok(Box::new(FaultyUpload {
            upload,
            faults: self.faults.clone(),
            location: location.to_string(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let get = self.store.get_opts(location, options);
        let got = self.faults.carry(Request::Read, location.as_ref(), get).await?;
        let (meta, range) = (got.meta.clone(), got.range.clone());
        let (attributes, extensions) = (got.attributes.clone(), got.extensions.clone());
        let payload = GetResultPayload::Stream(self.faults.transfer(got.into_stream()));
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let get = self.store.get_ranges(location, ranges);
        self.faults.carry(Request::Read, location.as_ref(), get).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.faults.transfer_after_pass("objects", self.store.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let location = prefix.map_or("", Path::as_ref);
        self.faults.transfer_after_pass(location, self.store.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let location = prefix.map_or("", Path::as_ref);
        self.faults.transfer_after_pass(location, self.store.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let location = prefix.map_or("", Path::as_ref);
        let list = self.store.list_with_delimiter(prefix);
        self.faults.carry(Request::Read, location, list).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faults.store(to.as_ref(), self.store.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.faults.store(to.as_ref(), self.store.rename_opts(from, to, options)).await
    }
}

/// An upload in parts behind the faults.
#[derive(Debug)]
struct FaultyUpload {
    upload: Box<dyn MultipartUpload>,
    faults: Faults,
    location: String,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (faults, location) = (self.faults.clone(), self.location.clone());
        let part = self.upload.put_part(data);
        Box::pin(async move { faults.carry(Request::Store, &location, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.faults.store(&self.location, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.faults.carry(Request::Read, &self.location, self.upload.abort()).await
    }
}
