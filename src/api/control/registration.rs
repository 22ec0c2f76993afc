//! Registration: a vault issues a key, and admits once whoever shows it within five days.

use super::{Changed, Control, Request, is_named};
use crate::api::operation::read_body;
use crate::api::problem::Problem;
use crate::api::routes::Accepted;
use crate::domain::entity::Rejection;
use crate::domain::id::JobId;
use crate::domain::vault::{Command, Component, Vault};
use crate::views::Moment;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use uuid::Uuid;

/// Random bytes of a key.
const SECRET_BYTES: usize = 32;

/// What every key begins with.
const PREFIX: &str = "lifeboat";

/// A key that was issued; told this once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationKeyView {
    /// The vault.
    pub vault: String,
    /// The key.
    pub key: String,
    /// Until when it admits somebody.
    pub expires: Option<Moment>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegisterBody {
    key: String,
}

/// What the vault keeps of a secret.
fn digest(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

/// The vault that a key is of, and its secret; `None` for a text that is no key.
fn parse(key: &str) -> Option<(Uuid, &str)> {
    let (vault, secret) = key.trim().strip_prefix(PREFIX)?.strip_prefix('.')?.split_once('.')?;
    let is_secret =
        secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|it| it.is_ascii_hexdigit());
    Some((Uuid::parse_str(vault).ok()?, secret)).filter(|_| is_secret)
}

impl Control {
    /// Has a vault issue a key.
    pub(in crate::api) async fn registration_key(
        &self,
        name: &str,
        request: Request,
    ) -> Result<RegistrationKeyView, Problem> {
        let site = self.parts.live.site().await?;
        let vault = site.vaults.values().find(|vault| is_named(name, &vault.name, vault.id.0));
        let vault = vault.ok_or_else(|| Problem::unknown("vault", name))?;
        let mut bytes = [0; SECRET_BYTES];
        self.parts.random.fill(&mut bytes);
        let secret = bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let (id, digest) = (vault.id.0, digest(&secret));
        let job = self.job_of(id, "registration-key", &request);
        let issue = Command::IssueRegistrationKey { digest: digest.clone() };
        self.tell::<Vault>(id, issue, job, &request).await?;
        let known: Vault = self.parts.live.state(id).await?;
        Ok(RegistrationKeyView {
            vault: vault.name.clone(),
            key: format!("{PREFIX}.{}.{secret}", id.simple()),
            expires: known.keys.get(&digest).map(|key| Moment(key.expires)),
        })
    }

    /// Registers the agent of a host.
    pub(in crate::api) async fn register_host(
        &self,
        name: &str,
        body: &[u8],
        request: Request,
    ) -> Result<Accepted, Problem> {
        let host = self.parts.outside.host_called(name);
        let host = host.ok_or_else(|| Problem::unknown("host in the configuration", name))?;
        self.register(Component::Host(host), name, body, request).await
    }

    /// Registers the provider of the primary site.
    pub(in crate::api) async fn register_provider(
        &self,
        body: &[u8],
        request: Request,
    ) -> Result<Accepted, Problem> {
        let by = Component::Provider(self.parts.outside.provider());
        self.register(by, "the provider", body, request).await
    }

    async fn register(
        &self,
        by: Component,
        name: &str,
        body: &[u8],
        request: Request,
    ) -> Result<Accepted, Problem> {
        let _turn = self.commands.lock().await;
        let RegisterBody { key } = read_body(body)?;
        let refused = |because: String| Problem::from(Rejection::KeyRefused { because });
        let (id, secret) =
            parse(&key).ok_or_else(|| refused("is none: a part of it is missing".to_owned()))?;
        let site = self.parts.live.site().await?;
        if !site.vaults.values().any(|vault| vault.id.0 == id) {
            return Err(refused(format!("is of vault {id}, which this service does not have")));
        }
        let digest = digest(secret);
        let admit = Command::UseRegistrationKey { digest, by, name: name.to_owned() };
        let job: JobId = self.job_of(id, &format!("register {name}"), &request);
        let commit = self.tell::<Vault>(id, admit, job, &request).await?;
        self.parts.outside.admitted(by);
        Ok(Changed { commit, repeated: false }.accepted("register", name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_vault_and_what_is_no_key_is_none() {
        let (vault, secret) = (Uuid::from_u128(7), "a1".repeat(SECRET_BYTES));
        let key = format!("{PREFIX}.{}.{secret}", vault.simple());
        assert_eq!(parse(&format!(" {key}\n")), Some((vault, secret.as_str())));
        for wrong in ["", "lifeboat", &key[1..], &key[..key.len() - 1], &format!("{key}0")] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
