//! Registration: a vault issues a key, and admits once whoever shows it within five days.

use super::{Control, Request, is_named};
use crate::api::operation::read_body;
use crate::api::outlook::Outlook;
use crate::api::problem::Problem;
use crate::api::routes::Accepted;
use crate::domain::entity::{Entity, Rejection};
use crate::domain::vault::{Command, Component, Vault};
use crate::views::{Moment, Site};
use actix_web::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use uuid::Uuid;

const OPERATION: &str = "register";
const KEY_OPERATION: &str = "registration-key";

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
        let _turn = self.commands.lock().await;
        let site = self.parts.live.site().await?;
        let vault = vault_named(&site, name)?;
        let job = self.job_of(vault.id.0, KEY_OPERATION, &request);
        // Nobody has kept it, so that it cannot be told again.
        if self.answered(job, &request).await?.is_some() {
            return Err(Problem::not_allowed(format!(
                "a key of {} was issued under this id before, and is told once: ask for another under another id",
                vault.name
            )));
        }
        let mut bytes = [0; SECRET_BYTES];
        self.parts.random.fill(&mut bytes);
        let secret = bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let (id, digest) = (vault.id.0, digest(&secret));
        let issue = Command::IssueRegistrationKey { digest: digest.clone() };
        self.tell::<Vault>(id, issue, job, &request).await?;
        let known: Vault = self.parts.live.state(id).await?;
        Ok(RegistrationKeyView {
            vault: vault.name.clone(),
            key: format!("{PREFIX}.{}.{secret}", id.simple()),
            expires: known.keys.get(&digest).map(|key| Moment(key.expires)),
        })
    }

    /// What issuing a key would do. Nothing is changed.
    pub(in crate::api) async fn key_outlook(&self, name: &str) -> Result<Outlook, Problem> {
        let site = self.parts.live.site().await?;
        let vault = &vault_named(&site, name)?.name;
        let consequence = format!(
            "A key of {vault} is issued and told once: it admits one host or provider within 5 days."
        );
        Ok(Outlook::of_change(KEY_OPERATION, vault, true, consequence))
    }

    /// Whoever is to be registered: the agent of a host, or without a name the provider of the primary site.
    fn registrant(&self, host: Option<&str>) -> Result<(Component, String), Problem> {
        let Some(name) = host else {
            let provider = Component::Provider(self.parts.outside.provider());
            return Ok((provider, "the provider".to_owned()));
        };
        let known = self.parts.outside.host_called(name);
        let known = known.ok_or_else(|| Problem::unknown("host in the configuration", name))?;
        Ok((Component::Host(known), name.to_owned()))
    }

    /// Registers the agent of a host; without one, the provider of the primary site.
    pub(in crate::api) async fn register(
        &self,
        host: Option<&str>,
        body: &[u8],
        request: Request,
    ) -> Result<Accepted, Problem> {
        let (by, name) = self.registrant(host)?;
        let _turn = self.commands.lock().await;
        let site = self.parts.live.site().await?;
        let (vault, admit) = admission(&site, by, &name, body)?;
        let id = vault.id.0;
        let job = self.job_of(id, &format!("{OPERATION} {name}"), &request);
        let changed = self.change::<Vault>(id, job, &request, async || Ok(admit)).await?;
        self.parts.outside.admitted(by);
        Ok(changed.accepted(OPERATION, &name))
    }

    /// What registering would do. Nothing is changed.
    pub(in crate::api) async fn register_outlook(
        &self,
        host: Option<&str>,
        body: &[u8],
    ) -> Result<Outlook, Problem> {
        let (by, name) = self.registrant(host)?;
        let site = self.parts.live.site().await?;
        let refused =
            |problem| Outlook::of_change(OPERATION, &name, false, String::new()).refused(problem);
        let (vault, admit) = match admission(&site, by, &name, body) {
            Ok(admission) => admission,
            Err(problem) if problem.status == StatusCode::CONFLICT => return Ok(refused(problem)),
            Err(problem) => return Err(problem),
        };
        let known = match by {
            Component::Host(_) => "its VMs are known and can be protected",
            Component::Provider(_) => "the networks are known",
        };
        let consequence = format!("{} admits {name}: {known} from then on.", vault.name);
        Ok(match vault.decide(&admit, self.parts.live.now()) {
            Ok(events) => Outlook::of_change(OPERATION, &name, !events.is_empty(), consequence),
            Err(rejection) => refused(rejection.into()),
        })
    }
}

fn vault_named<'a>(site: &'a Site, name: &str) -> Result<&'a Vault, Problem> {
    let vault = site.vaults.values().find(|vault| is_named(name, &vault.name, vault.id.0));
    vault.ok_or_else(|| Problem::unknown("vault", name))
}

/// The vault whose key is shown, and what it is to be told.
fn admission<'a>(
    site: &'a Site,
    by: Component,
    name: &str,
    body: &[u8],
) -> Result<(&'a Vault, Command), Problem> {
    let RegisterBody { key } = read_body(body)?;
    let refused = |because: String| Problem::from(Rejection::KeyRefused { because });
    let (id, secret) =
        parse(&key).ok_or_else(|| refused("is none: a part of it is missing".to_owned()))?;
    let vault = site.vaults.values().find(|vault| vault.id.0 == id);
    let vault = vault
        .ok_or_else(|| refused(format!("is of vault {id}, which this service does not have")))?;
    let digest = digest(secret);
    Ok((vault, Command::UseRegistrationKey { digest, by, name: name.to_owned() }))
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
