//! A recovery vault: whether it can be reached.

use super::entity::{Entity, Kind, Rejection, check_name, entry_conversions};
use super::failure::Failure;
use super::id::VaultId;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

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
}

impl Entity for Vault {
    const KIND: Kind = Kind::Vault;
    type Command = Command;
    type Event = Event;
    type Effect = Effect;

    fn decide(&self, command: &Command, _: Timestamp) -> Result<Vec<Event>, Rejection> {
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
            Command::Create { .. }
            | Command::ReportUnreachable { .. }
            | Command::ReportReachable => vec![],
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
        }
    }

    fn pending(&self) -> Vec<Effect> {
        if self.name.is_empty() { vec![] } else { vec![Effect::Watch] }
    }

    entry_conversions!(Vault);
}
