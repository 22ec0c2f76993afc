//! Tells a webhook and mail boxes of alerts, each once when its cause begins and once when it has ended.
//!
//! What was told is kept in the data folder, for each of the two, so that a service that starts again does not
//! tell it again. Whoever does not answer is told at the next look.

use super::control::replace;
use super::mail::{MailConfig, Mailer};
use crate::api::Live;
use crate::domain::failure::in_full;
use crate::views::{AlertView, Alerts};
use serde::Deserialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// Where each alert is mailed to.
    pub mail: Option<MailConfig>,
}

impl AlertsConfig {
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        if let Some(mail) = &self.mail {
            mail.check()?;
        }
        let Some(webhook) = &self.webhook else { return Ok(()) };
        let url = reqwest::Url::parse(webhook);
        if url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            return Ok(());
        }
        let problem = format!("is {webhook:?}, but must be an address as https://example.org/hook");
        Err(("alerts.webhook".to_owned(), problem))
    }

    /// Everybody who is to be told. Who cannot be is told of in the log, and left out.
    pub(super) fn channels(&self) -> Vec<Channel> {
        // A provider that was installed before is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let webhook = self.webhook.as_ref().and_then(|url| {
            let http = reqwest::Client::builder().timeout(PATIENCE).build();
            let failed =
                |error: &reqwest::Error| tracing::error!(error = %in_full(error), "make the client for alerts");
            Some(Channel::Webhook { http: http.inspect_err(failed).ok()?, url: url.clone() })
        });
        let mail = self.mail.as_ref().and_then(|mail| {
            let failed = |(setting, problem): &(String, String)| {
                tracing::error!(%setting, %problem, "no alerts by e-mail");
            };
            mail.mailer().inspect_err(failed).ok().map(|mailer| Channel::Mail(Box::new(mailer)))
        });
        webhook.into_iter().chain(mail).collect()
    }
}

/// A way to tell somebody of alerts.
pub(super) enum Channel {
    /// As JSON.
    Webhook {
        /// What asks.
        http: reqwest::Client,
        /// Where.
        url: String,
    },
    /// As e-mail.
    Mail(Box<Mailer>),
}

impl Channel {
    /// The file in the data folder with the alerts that were told.
    const fn file(&self) -> &'static str {
        match self {
            Self::Webhook { .. } => "alerts.json",
            Self::Mail(_) => "alerts-mail.json",
        }
    }

    async fn tell(&self, alert: &AlertView) -> Result<(), String> {
        match self {
            Self::Webhook { http, url } => {
                post(http, url, alert).await.map_err(|error| in_full(&error))
            }
            Self::Mail(mailer) => mailer.send(alert).await,
        }
    }
}

/// Looks at the site for as long as the service runs, and tells whoever is to be told.
pub(super) async fn watch(live: Live, channel: Channel, data: PathBuf) {
    let path = data.join(channel.file());
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
            if let Err(error) = channel.tell(&alert).await {
                tracing::warn!(key = %alert.key, to = channel.file(), %error, "tell somebody of an alert");
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
