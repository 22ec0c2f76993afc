//! The way to a running service: found by its data folder, or by address and token.

use super::CommandError;
use super::ending::{FAILED, Refusal, USAGE};
use crate::api::{ACTOR_HEADER, PREFIX, Problem, REQUEST_ID_HEADER};
use crate::service::{ENDPOINT_FILE, EndpointFile};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;

/// The longest that a service may take for an answer, beside what it is asked to wait.
const PATIENCE: Duration = Duration::from_mins(1);

/// The longest name of whoever asks.
const NAME_CHARS_MAX: usize = 60;

/// Which service.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServiceArgs {
    /// The data folder of the service; its endpoint.json says where it is
    #[arg(long, value_name = "DIR", default_value = "lifeboat-data", conflicts_with = "server")]
    data: PathBuf,
    /// The address of the service, as `http://127.0.0.1:7780`
    #[arg(long, value_name = "URL", requires = "token_file")]
    server: Option<String>,
    /// The file with its token
    #[arg(long, value_name = "FILE", requires = "server")]
    token_file: Option<PathBuf>,
}

/// A service that can be asked.
pub(super) struct Client {
    http: reqwest::Client,
    runtime: Runtime,
    url: Url,
    token: String,
}

impl Client {
    pub(super) fn find(args: &ServiceArgs) -> Result<Self, CommandError> {
        let endpoint = match (&args.server, &args.token_file) {
            (Some(url), Some(file)) => EndpointFile { url: url.clone(), token_file: file.clone() },
            _ => announced(&args.data)?,
        };
        let url = format!("{}{PREFIX}/", endpoint.url.trim_end_matches('/'));
        let url = Url::parse(&url).ok().filter(|url| !url.cannot_be_a_base());
        let url = url.ok_or_else(|| {
            Refusal::new(USAGE, format!("{:?} is no address of a service", endpoint.url))
        })?;
        let token = fs::read_to_string(&endpoint.token_file).map_err(|error| {
            let file = endpoint.token_file.display();
            Refusal::new(FAILED, format!("read token file {file}: {error}"))
        })?;
        // A provider that was installed before is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { http, runtime, url, token: token.trim().to_owned() })
    }

    /// Runs to its end whatever asks the service.
    pub(super) fn run<T>(&self, asking: impl Future<Output = T>) -> T {
        self.runtime.block_on(asking)
    }

    /// Asks for something.
    pub(super) fn get(&self, path: &[&str]) -> Result<Value, CommandError> {
        self.run(self.look(path, &[]))
    }

    /// Asks for something, with a query.
    pub(super) async fn look(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Value, CommandError> {
        self.send(Method::GET, path, query, None, None).await
    }

    /// Tells the service to do something.
    pub(super) fn post(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        body: &Value,
        request_id: Option<&str>,
    ) -> Result<Value, CommandError> {
        self.tell(Method::POST, path, query, body, request_id)
    }

    /// The same by another method.
    pub(super) fn tell(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: &Value,
        request_id: Option<&str>,
    ) -> Result<Value, CommandError> {
        self.run(self.send(method, path, query, Some(body), request_id))
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
        request_id: Option<&str>,
    ) -> Result<Value, CommandError> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self
            .http
            .request(method, url)
            .timeout(PATIENCE)
            .bearer_auth(&self.token)
            .header(ACTOR_HEADER, whoever_asks());
        if let Some(id) = request_id {
            request = request.header(REQUEST_ID_HEADER, id);
        }
        if let Some(body) = body {
            request = request.body(serde_json::to_vec(body)?);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body)?);
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(Refusal::from(problem).into()),
            Err(_) => Err(Refusal::new(FAILED, format!("{} answered {status}", self.url)).into()),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Refusal {
        if error.is_connect() {
            let text = format!(
                "no service answers at {}: is it running, and is this its data folder?",
                self.url
            );
            return Refusal::new(FAILED, text);
        }
        Refusal::new(FAILED, crate::domain::failure::in_full(error))
    }
}

/// What the service that has this data folder says of itself.
fn announced(data: &Path) -> Result<EndpointFile, CommandError> {
    let path = data.join(ENDPOINT_FILE);
    let text = fs::read_to_string(&path).map_err(|error| {
        let text = format!(
            "no service runs with the data folder {} ({}: {error}); name its folder with --data",
            data.display(),
            path.display()
        );
        Refusal::new(FAILED, text)
    })?;
    let wrong = |error| Refusal::new(FAILED, format!("read {}: {error}", path.display()));
    Ok(serde_json::from_str(&text).map_err(wrong)?)
}

/// Whoever uses the command line, for the log.
fn whoever_asks() -> String {
    let name = std::env::var("USER").unwrap_or_default();
    let name: String = name.chars().filter(char::is_ascii_graphic).take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "command line".to_owned() } else { format!("{name} (command line)") }
}

/// Reads an answer as what it must be.
pub(super) fn read<T: DeserializeOwned>(answer: &Value) -> Result<T, CommandError> {
    T::deserialize(answer).map_err(|error| {
        Refusal::new(FAILED, format!("the service answered something else: {error}")).into()
    })
}
