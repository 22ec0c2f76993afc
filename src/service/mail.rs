//! Alerts by e-mail, over SMTP.

use crate::domain::failure::in_full;
use crate::views::{AlertState, AlertView};
use lettre::message::{Mailbox, Mailboxes, header};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use serde::Deserialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// The longest that a mail server may take for one step of its protocol.
const PATIENCE: Duration = Duration::from_secs(10);

/// Characters of a subject: what a list of mails shows.
const SUBJECT_CHARS_MAX: usize = 120;

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// `[alerts.mail]`: who is told by e-mail.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailConfig {
    /// The mail server, as `smtps://mail.example.org` or `smtp://mail.example.org:587?tls=required`.
    pub server: String,
    /// The name to log in with, if the server asks for one.
    #[serde(default)]
    pub user: Option<String>,
    /// The file with the password of that name.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// From whom the mails are.
    pub from: String,
    /// To whom they go.
    pub to: Vec<String>,
}

/// A way to send mails.
#[derive(Clone)]
pub(super) struct Mailer {
    transport: Transport,
    from: Mailbox,
    to: Mailboxes,
}

type Wrong = (String, String);

fn wrong<T>(name: &str, problem: impl std::fmt::Display) -> Result<T, Wrong> {
    Err((format!("alerts.mail.{name}"), problem.to_string()))
}

impl MailConfig {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        self.addresses()?;
        let Ok(server) = reqwest::Url::parse(&self.server) else {
            return wrong("server", format!("is {:?}, but must be a URL", self.server));
        };
        if !matches!(server.scheme(), "smtp" | "smtps") || !server.has_host() {
            let problem =
                "must be as smtps://mail.example.org or smtp://mail.example.org:587?tls=required";
            return wrong("server", format!("is {:?}, but {problem}", self.server));
        }
        if !server.username().is_empty() || server.password().is_some() {
            return wrong("server", "holds a name or password; use `user` and `password_file`");
        }
        if self.user.is_some() != self.password_file.is_some() {
            return wrong("user", "needs a `password_file`, and the other way round");
        }
        let plain = server.scheme() == "smtp" && server.query() != Some("tls=required");
        if plain && self.user.is_some() {
            let problem = "would carry the password in the open; use smtps:// or ?tls=required";
            return wrong("server", problem);
        }
        match Transport::from_url(&self.server) {
            Ok(_) => Ok(()),
            Err(error) => wrong("server", in_full(&error)),
        }
    }

    fn addresses(&self) -> Result<(Mailbox, Mailboxes), Wrong> {
        let address = |name: &str, text: &String| match text.parse::<Mailbox>() {
            Ok(mailbox) => Ok(mailbox),
            Err(error) => wrong(name, format!("is {text:?}, which is no address: {error}")),
        };
        if self.to.is_empty() {
            return wrong("to", "names nobody");
        }
        let to = self.to.iter().map(|text| address("to", text)).collect::<Result<Vec<_>, _>>()?;
        Ok((address("from", &self.from)?, to.into_iter().collect()))
    }

    /// The way to send mails; the password is read.
    ///
    /// # Errors
    /// The setting that cannot be used, and why.
    pub(super) fn mailer(&self) -> Result<Mailer, Wrong> {
        let (from, to) = self.addresses()?;
        let mut server = match Transport::from_url(&self.server) {
            Ok(server) => server.timeout(Some(PATIENCE)),
            Err(error) => return wrong("server", in_full(&error)),
        };
        if let (Some(user), Some(path)) = (&self.user, &self.password_file) {
            let password = match std::fs::read_to_string(path) {
                Ok(password) => password.trim_end_matches(['\n', '\r']).to_owned(),
                Err(error) => {
                    return wrong("password_file", format!("read {}: {error}", path.display()));
                }
            };
            server = server.credentials(Credentials::new(user.clone(), password));
        }
        Ok(Mailer { transport: server.build(), from, to })
    }
}

impl Mailer {
    /// Sends an alert; returns once the server has taken it.
    ///
    /// # Errors
    /// Why it has not.
    pub(super) async fn send(&self, alert: &AlertView) -> Result<(), String> {
        let message = Message::builder()
            .from(self.from.clone())
            .mailbox(header::To::from(self.to.clone()))
            .subject(subject(alert))
            .header(header::ContentType::TEXT_PLAIN)
            .body(text(alert))
            .map_err(|error| in_full(&error))?;
        self.transport.send(message).await.map(drop).map_err(|error| in_full(&error))
    }
}

/// What a list of mails shows: a line, of bounded length.
fn subject(alert: &AlertView) -> String {
    let cause = &alert.issue.cause;
    let state = match alert.state {
        AlertState::Active => cause.level.to_string(),
        AlertState::Cleared => "Cleared".to_owned(),
    };
    let text = format!("[Lifeboat] {state}: {}: {}", alert.issue.subject, cause.because);
    let line = text.chars().map(|it| if it.is_control() { ' ' } else { it });
    line.take(SUBJECT_CHARS_MAX).collect()
}

/// The same five facts as everywhere.
fn text(alert: &AlertView) -> String {
    let (cause, mut text) = (&alert.issue.cause, String::new());
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<8} {value}");
    };
    let at = alert.at.0.to_string();
    line("what", &alert.issue.subject);
    match alert.state {
        AlertState::Active => line("noticed", &at),
        AlertState::Cleared => line("ended", &at),
    }
    line("because", &cause.because);
    if let Some(since) = cause.since {
        line("since", &since.0.to_string());
    }
    line("affects", &alert.issue.affects.join(", "));
    if alert.state == AlertState::Active {
        line("next", &cause.next);
        line("do", &cause.action);
    }
    text
}
