//! Tells a webhook of alerts, each once when its cause begins and once when it has ended.
//!
//! What was told is kept in the data folder, so that a service that starts again does not tell it again. A
//! webhook that does not answer is told at the next look.

use super::control::replace;
use crate::api::Live;
use crate::domain::failure::in_full;
use crate::views::{AlertView, Alerts};
use serde::Deserialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file in the data folder with the alerts that were told.
const FILE: &str = "alerts.json";

/// Time between two looks at the site.
const LOOK: Duration = Duration::from_secs(2);

/// The longest that a webhook may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `[alerts]`: who is told.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    /// Where each alert is posted as JSON.
    pub webhook: Option<String>,
}

impl AlertsConfig {
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        let Some(webhook) = &self.webhook else { return Ok(()) };
        let url = reqwest::Url::parse(webhook);
        if url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            return Ok(());
        }
        let problem = format!("is {webhook:?}, but must be an address as https://example.org/hook");
        Err(("alerts.webhook".to_owned(), problem))
    }
}

/// Looks at the site for as long as the service runs, and tells the webhook.
pub(super) async fn watch(live: Live, webhook: String, data: PathBuf) {
    // A provider that was installed before is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = match reqwest::Client::builder().timeout(PATIENCE).build() {
        Ok(http) => http,
        Err(error) => {
            return tracing::error!(error = %in_full(&error), "make the client for alerts");
        }
    };
    let path = data.join(FILE);
    let mut alerts = kept(&path);
    loop {
        actix::clock::sleep(LOOK).await;
        let status = match live.site().await {
            Ok(site) => site.status(live.now()),
            Err(problem) => {
                tracing::debug!(%problem, "look for alerts");
                continue;
            }
        };
        for alert in alerts.news(&status) {
            if let Err(error) = post(&http, &webhook, &alert).await {
                tracing::warn!(key = %alert.key, error = %in_full(&error), "tell the webhook of an alert");
                break;
            }
            alerts.told(&alert);
            keep(&path, &alerts);
        }
    }
}

async fn post(
    http: &reqwest::Client,
    webhook: &str,
    alert: &AlertView,
) -> Result<(), reqwest::Error> {
    let body = serde_json::to_vec(alert).unwrap_or_default();
    let request = http.post(webhook).header("content-type", "application/json").body(body);
    request.send().await?.error_for_status().map(drop)
}

/// What was told before the service started. If that cannot be read, it is told again, which does less harm
/// than silence.
fn kept(path: &Path) -> Alerts {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "read which alerts were told");
            Alerts::default()
        }),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "read which alerts were told");
            }
            Alerts::default()
        }
    }
}

fn keep(path: &Path, alerts: &Alerts) {
    let text = serde_json::to_string(alerts).unwrap_or_default();
    if let Err(error) = replace(path, &text) {
        tracing::warn!(path = %path.display(), %error, "keep which alerts were told");
    }
}
