//! A recovery vault: whether it can be reached, and whom it admits.

use super::entity::{Entity, Kind, Rejection, check_name, entry_conversions};
use super::failure::Failure;
use super::id::{FabricId, HostId, VaultId};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a registration key admits somebody. Source: Site Recovery.
pub const KEY_VALID_FOR: Duration = Duration::from_hours(5 * 24);

/// Keys that are remembered, so that one that is refused can be told why.
const KEYS_KEPT: usize = 100;

/// Who is admitted by a registration key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Component {
    /// The agent of a host.
    Host(HostId),
    /// The provider of a fabric.
    Provider(FabricId),
}

/// A registration key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationKey {
    /// Until when it admits somebody.
    pub expires: Timestamp,
    /// Whom it admitted, by which name, and when.
    pub used: Option<(Component, String, Timestamp)>,
}

/// What a vault can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// It exists.
    Create {
        /// Its identity.
        id: VaultId,
        /// Its name.
        name: String,
    },
    /// It answered.
    ReportReachable,
    /// It did not answer.
    ReportUnreachable {
        /// How.
        failure: Failure,
    },
    /// Somebody may be admitted with a key that has this digest.
    IssueRegistrationKey {
        /// The digest; the key itself is nowhere kept.
        digest: String,
    },
    /// Somebody asks to be admitted.
    UseRegistrationKey {
        /// The digest of their key.
        digest: String,
        /// Who.
        by: Component,
        /// By which name.
        name: String,
    },
}

/// What can become true of a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It exists.
    Created {
        /// Its identity.
        id: VaultId,
        /// Its name.
        name: String,
    },
    /// It cannot be reached.
    VaultUnreachable {
        /// How.
        because: Failure,
    },
    /// It can be reached again.
    VaultReachable,
    /// A key admits somebody, once.
    RegistrationKeyIssued {
        /// Its digest.
        digest: String,
        /// Until when.
        expires: Timestamp,
    },
    /// A key admitted somebody.
    RegistrationKeyUsed {
        /// Its digest.
        digest: String,
        /// Whom.
        by: Component,
        /// By which name.
        name: String,
    },
}

/// The work that a vault calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Try it again and again, and report what changes.
    Watch,
}

/// A vault: the state folded from its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vault {
    /// Its identity.
    pub id: VaultId,
    /// Its name; empty before it is created.
    pub name: String,
    /// Since when it cannot be reached, and how.
    pub unreachable: Option<(Timestamp, Failure)>,
    /// Its registration keys, by their digests.
    pub keys: BTreeMap<String, RegistrationKey>,
}

impl Vault {
    fn admit(
        &self,
        digest: &str,
        by: Component,
        name: &str,
        now: Timestamp,
    ) -> Result<Vec<Event>, Rejection> {
        let refused = |because: String| Err(Rejection::KeyRefused { because });
        let Some(key) = self.keys.get(digest) else {
            return refused(format!("is none of vault {}: it was issued by another", self.name));
        };
        match &key.used {
            Some((known, _, _)) if *known == by => Ok(vec![]),
            Some((_, other, at)) => refused(format!("was used by {other} at {at}; get another")),
            None if key.expires <= now => {
                refused(format!("expired at {}; get another", key.expires))
            }
            None => {
                let (digest, name) = (digest.to_owned(), name.to_owned());
                Ok(vec![Event::RegistrationKeyUsed { digest, by, name }])
            }
        }
    }

    /// Whether somebody has registered with one of the keys that are kept.
    pub fn has_admitted(&self, who: Component) -> bool {
        let used = self.keys.values().filter_map(|key| key.used.as_ref());
        used.map(|(by, _, _)| *by).any(|by| by == who)
    }

    fn forget_old_keys(&mut self) {
        while KEYS_KEPT < self.keys.len() {
            let oldest = self.keys.iter().min_by_key(|(_, key)| key.expires);
            let Some(oldest) = oldest.map(|(digest, _)| digest.clone()) else { return };
            self.keys.remove(&oldest);
        }
    }
}

impl Entity for Vault {
    const KIND: Kind = Kind::Vault;
    type Command = Command;
    type Event = Event;
    type Effect = Effect;

    fn decide(&self, command: &Command, now: Timestamp) -> Result<Vec<Event>, Rejection> {
        let created = !self.name.is_empty();
        Ok(match command {
            Command::Create { id, name } if !created => {
                check_name(name)?;
                vec![Event::Created { id: *id, name: name.clone() }]
            }
            Command::ReportUnreachable { failure } if created && self.unreachable.is_none() => {
                vec![Event::VaultUnreachable { because: failure.clone() }]
            }
            Command::ReportReachable if self.unreachable.is_some() => vec![Event::VaultReachable],
            Command::IssueRegistrationKey { digest }
                if created && !self.keys.contains_key(digest) =>
            {
                let expires = now.after(KEY_VALID_FOR);
                vec![Event::RegistrationKeyIssued { digest: digest.clone(), expires }]
            }
            Command::UseRegistrationKey { digest, by, name } => {
                self.admit(digest, *by, name, now)?
            }
            Command::Create { .. }
            | Command::ReportUnreachable { .. }
            | Command::ReportReachable
            | Command::IssueRegistrationKey { .. } => vec![],
        })
    }

    fn apply(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::Created { id, name } => {
                self.id = *id;
                self.name.clone_from(name);
            }
            Event::VaultUnreachable { because } => self.unreachable = Some((at, because.clone())),
            Event::VaultReachable => self.unreachable = None,
            Event::RegistrationKeyIssued { digest, expires } => {
                let key = RegistrationKey { expires: *expires, used: None };
                self.keys.insert(digest.clone(), key);
                self.forget_old_keys();
            }
            Event::RegistrationKeyUsed { digest, by, name } => {
                if let Some(key) = self.keys.get_mut(digest) {
                    key.used = Some((*by, name.clone(), at));
                }
            }
        }
    }

    fn pending(&self) -> Vec<Effect> {
        if self.name.is_empty() { vec![] } else { vec![Effect::Watch] }
    }

    entry_conversions!(Vault);
}
