//! Where the vault's objects are: a local folder, Azure Blob Storage, or anything that speaks S3.
//!
//! Requests are never repeated here, since whoever calls the vault decides that by the kind of failure,
//! and every request has a limit, so that a link that swallows packets is noticed.

use super::config::{AzureConfig, Config, S3Config, VaultConfig};
use super::key_file::{self, KeyFileProblem};
use super::random::KernelRandom;
use crate::domain::id::VaultId;
use crate::replica::{Compression, Vault, VaultKeys};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::local::LocalFileSystem;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest request: a part of 4 MiB beside three others over a link of 0.5 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(5);

/// Longest credential file.
const CREDENTIAL_BYTES_MAX: u64 = 64 * 1024;

/// Why the storage of a vault cannot be used.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Its folder cannot be made or opened.
    #[error("open vault {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the file system answered.
        #[source]
        source: io::Error,
    },
    /// The settings of an object store do not go together.
    #[error("open vault in {place}")]
    Store {
        /// Which.
        place: String,
        /// Why not.
        #[source]
        source: object_store::Error,
    },
    /// The credential of an object store is not there.
    #[error("read credential of {place}: {from} {problem}")]
    Credential {
        /// Of which store.
        place: String,
        /// Where it should be.
        from: String,
        /// Why it cannot be used.
        problem: String,
    },
    /// The vault's keys cannot be used.
    #[error("open the vault's keys")]
    Keys(#[from] KeyFileProblem),
}

/// Opens the vault that a configuration names; nothing is asked of the storage yet but of a folder, which
/// is made.
///
/// # Errors
/// [`StorageError`].
pub fn open_storage(config: &Config) -> Result<Arc<dyn ObjectStore>, StorageError> {
    match (&config.vault.azure, &config.vault.s3) {
        (Some(azure), _) => {
            let credential_file = azure.credential_file.as_ref().map(|file| config.place(file));
            open_azure(&AzureConfig { credential_file, ..azure.clone() })
        }
        (None, Some(s3)) => {
            let credential_file = s3.credential_file.as_ref().map(|file| config.place(file));
            open_s3(&S3Config { credential_file, ..s3.clone() })
        }
        (None, None) => {
            let folder = config.place(&config.vault.folder);
            fs::create_dir_all(&folder)
                .map_err(|source| StorageError::Folder { path: folder.clone(), source })?;
            open_folder(&folder)
        }
    }
}

/// Opens a folder that exists; what is written to it is durable.
///
/// # Errors
/// [`StorageError::Folder`].
pub fn open_folder(folder: &Path) -> Result<Arc<dyn ObjectStore>, StorageError> {
    let local = LocalFileSystem::new_with_prefix(folder).map_err(|error| StorageError::Folder {
        path: folder.to_owned(),
        source: io::Error::other(error),
    })?;
    // Without fsync a power loss would take what was acknowledged.
    Ok(Arc::new(local.with_fsync(true)))
}

/// Puts a vault together from its storage and its settings.
///
/// # Errors
/// [`StorageError::Keys`].
pub fn open_vault(
    store: Arc<dyn ObjectStore>,
    id: VaultId,
    config: &VaultConfig,
    place: impl Fn(&Path) -> PathBuf,
) -> Result<Vault, StorageError> {
    let compression = if config.compress { Compression::Zstd } else { Compression::Off };
    let vault = Vault::new(store, id).with_compression(compression);
    match &config.keys {
        Some(path) => with_keys(vault, &place(path)),
        None => Ok(vault),
    }
}

/// The vault with the keys of a file.
///
/// # Errors
/// [`StorageError::Keys`].
pub fn with_keys(vault: Vault, path: &Path) -> Result<Vault, StorageError> {
    let keys = VaultKeys::new(&key_file::read(path)?, Arc::new(KernelRandom));
    Ok(vault.with_keys(Arc::new(keys)))
}

fn open_azure(config: &AzureConfig) -> Result<Arc<dyn ObjectStore>, StorageError> {
    prepare_tls();
    let place = format!("Azure container {} of {}", config.container, config.account);
    let credential =
        credential(&place, config.credential_env.as_deref(), config.credential_file.as_deref())?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(&config.account)
        .with_container_name(&config.container)
        .with_retry(no_retry())
        .with_client_options(client(config.endpoint.as_ref()))
        .with_allow_http(is_plain(config.endpoint.as_ref()));
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    // A shared access signature is a query; an account key is base64.
    builder = match credential.strip_prefix('?').unwrap_or(&credential) {
        sas if sas.contains("sig=") => builder.with_sas_authorization(pairs(sas)),
        key => builder.with_access_key(key),
    };
    let store = builder.build().map_err(|source| StorageError::Store { place, source })?;
    Ok(Arc::new(store))
}

fn open_s3(config: &S3Config) -> Result<Arc<dyn ObjectStore>, StorageError> {
    prepare_tls();
    let place = format!("S3 bucket {}", config.bucket);
    let credential =
        credential(&place, config.credential_env.as_deref(), config.credential_file.as_deref())?;
    let Some((id, secret)) = credential.split_once(':') else {
        let from = from(config.credential_env.as_deref(), config.credential_file.as_deref());
        let problem = "is not ACCESS_KEY_ID:SECRET_ACCESS_KEY".to_owned();
        return Err(StorageError::Credential { place, from, problem });
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_access_key_id(id)
        .with_secret_access_key(secret)
        .with_retry(no_retry())
        .with_client_options(client(config.endpoint.as_ref()))
        .with_allow_http(is_plain(config.endpoint.as_ref()));
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    let store = builder.build().map_err(|source| StorageError::Store { place, source })?;
    Ok(Arc::new(store))
}

/// TLS takes its ciphers from the library that the vault's encryption is from.
fn prepare_tls() {
    // Whoever was first chose the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn client(endpoint: Option<&String>) -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_allow_http(is_plain(endpoint))
}

/// Plain HTTP is for emulators and for storage on a network of its own.
fn is_plain(endpoint: Option<&String>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect()
}

/// The text of a percent-encoded value, as signatures are in a query.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        if let Some(code) = code.filter(|_| byte == b'%') {
            bytes.push(code);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn from(variable: Option<&str>, file: Option<&Path>) -> String {
    match (variable, file) {
        (Some(variable), _) => format!("variable {variable}"),
        (None, Some(file)) => file.display().to_string(),
        (None, None) => "credential_env or credential_file".to_owned(),
    }
}

fn credential(
    place: &str,
    variable: Option<&str>,
    file: Option<&Path>,
) -> Result<String, StorageError> {
    let found = match (variable, file) {
        (Some(variable), _) => env::var(variable).map_err(|error| error.to_string()),
        (None, Some(file)) => read_credential(file).map_err(|error| error.to_string()),
        (None, None) => Err("is not given".to_owned()),
    };
    let found = found.and_then(|text| match text.trim() {
        "" => Err("is empty".to_owned()),
        text => Ok(text.to_owned()),
    });
    found.map_err(|problem| {
        let from = from(variable, file);
        StorageError::Credential { place: place.to_owned(), from, problem }
    })
}

fn read_credential(path: &Path) -> io::Result<String> {
    if CREDENTIAL_BYTES_MAX < fs::metadata(path)?.len() {
        return Err(io::Error::other("is too long for a credential"));
    }
    fs::read_to_string(path)
}

/// The rule that the types of a configuration cannot say: a vault is in one place.
pub(super) fn check(config: &VaultConfig) -> Result<(), (String, String)> {
    let wrong = |key: &str, problem: &str| Err((key.to_owned(), problem.to_owned()));
    if config.azure.is_some() && config.s3.is_some() {
        return wrong("vault", "is in Azure and in S3: keep one");
    }
    let azure = config.azure.as_ref().map(|it| (&it.credential_env, &it.credential_file));
    let s3 = config.s3.as_ref().map(|it| (&it.credential_env, &it.credential_file));
    for (key, credential) in [("vault.azure", azure), ("vault.s3", s3)] {
        if credential.is_some_and(|(variable, file)| variable.is_some() == file.is_some()) {
            return wrong(key, "needs credential_env or credential_file, and not both");
        }
    }
    Ok(())
}
