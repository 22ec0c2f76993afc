//! The contract of every entity, and the commit: what one command made true.

use super::id::JobId;
use super::time::Timestamp;
use super::{cloud, fabric, host, plan, vault, vm};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Debug};
use thiserror::Error;
use uuid::Uuid;

/// A state machine whose state comes from its events alone.
pub trait Entity:
    Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + Unpin + 'static
{
    /// Which streams hold entities of this type.
    const KIND: Kind;
    /// What it can be told.
    type Command: Clone + Debug + PartialEq + Send + Sync + Unpin + 'static;
    /// What can become true of it.
    type Event: Clone + Debug + PartialEq + Send + Sync + Unpin + 'static;
    /// The work that its state can call for. Performing one twice must be harmless.
    type Effect: Clone + Debug + Ord + Send + Sync + Unpin + 'static;

    /// What `command` makes true at `now`; no events where it is already so, or where the command
    /// reports on work that is not wanted any more. Changes nothing.
    ///
    /// # Errors
    /// A [`Rejection`] where the state does not allow the command.
    fn decide(
        &self,
        command: &Self::Command,
        now: Timestamp,
    ) -> Result<Vec<Self::Event>, Rejection>;

    /// Makes one event true; `at` is the time of its commit. The only way in which state changes.
    fn apply(&mut self, event: &Self::Event, at: Timestamp);

    /// The work that this state calls for. What is missing from the answer is to be stopped.
    fn pending(&self) -> Vec<Self::Effect>;

    /// Puts a command and its events into the log's form.
    fn entry(command: Self::Command, events: Vec<Self::Event>) -> Entry;

    /// Reads them back; `None` for an entry of another kind.
    fn of(entry: &Entry) -> Option<(&Self::Command, &[Self::Event])>;
}

/// Kinds of streams. Stored by number: variants are added at the end, never moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A virtual machine.
    Vm,
    /// A hypervisor host.
    Host,
    /// A cloud of hosts.
    Cloud,
    /// A recovery vault.
    Vault,
    /// A recovery plan.
    Plan,
    /// A fabric: one of the two sites.
    Fabric,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Vm, Self::Host, Self::Cloud, Self::Vault, Self::Plan, Self::Fabric];

    /// The word used in stream names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Host => "host",
            Self::Cloud => "cloud",
            Self::Vault => "vault",
            Self::Plan => "plan",
            Self::Fabric => "fabric",
        }
    }
}

/// A stream of the event log: one entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub id: Uuid,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.id)
    }
}

/// A command and the events that it caused. Stored with the log's payload schema: a change of any
/// type reachable from here is a new payload version (`store/payload`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// Of a VM.
    Vm {
        /// What was asked.
        command: vm::Command,
        /// What became true.
        events: Vec<vm::Event>,
    },
    /// Of a host.
    Host {
        /// What was asked.
        command: host::Command,
        /// What became true.
        events: Vec<host::Event>,
    },
    /// Of a cloud.
    Cloud {
        /// What was asked.
        command: cloud::Command,
        /// What became true.
        events: Vec<cloud::Event>,
    },
    /// Of a vault.
    Vault {
        /// What was asked.
        command: vault::Command,
        /// What became true.
        events: Vec<vault::Event>,
    },
    /// Of a recovery plan.
    Plan {
        /// What was asked.
        command: plan::Command,
        /// What became true.
        events: Vec<plan::Event>,
    },
    /// Of a fabric.
    Fabric {
        /// What was asked.
        command: fabric::Command,
        /// What became true.
        events: Vec<fabric::Event>,
    },
}

impl Entry {
    /// The kind of stream that it belongs to.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Vm { .. } => Kind::Vm,
            Self::Host { .. } => Kind::Host,
            Self::Cloud { .. } => Kind::Cloud,
            Self::Vault { .. } => Kind::Vault,
            Self::Plan { .. } => Kind::Plan,
            Self::Fabric { .. } => Kind::Fabric,
        }
    }
}

impl Entry {
    /// How many events it has.
    pub const fn event_count(&self) -> usize {
        match self {
            Self::Vm { events, .. } => events.len(),
            Self::Host { events, .. } => events.len(),
            Self::Cloud { events, .. } => events.len(),
            Self::Vault { events, .. } => events.len(),
            Self::Plan { events, .. } => events.len(),
            Self::Fabric { events, .. } => events.len(),
        }
    }
}

/// A commit that is about to be appended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewCommit {
    /// The entity.
    pub stream: StreamId,
    /// The sequence number of the stream's last commit; 0 for a stream without commits.
    pub expected_seq: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// Who asked: a person, `supervisor`, `agent`, ...
    pub actor: String,
    /// The job that this belongs to.
    pub correlation: Option<JobId>,
    /// The global position of the commit that led to this one.
    pub causation: Option<u64>,
    /// Command and events.
    pub entry: Entry,
}

/// One command and the events that it caused, durable in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The entity.
    pub stream: StreamId,
    /// Position in the stream, from 1, without gaps.
    pub seq: u64,
    /// Position in the whole log, from 1, without gaps: the order of everything.
    pub global: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// Who asked.
    pub actor: String,
    /// The job that this belongs to.
    pub correlation: Option<JobId>,
    /// The global position of the commit that led to this one.
    pub causation: Option<u64>,
    /// Command and events.
    pub entry: Entry,
}

/// Why a command was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The state does not allow the operation.
    #[error("{operation} is not allowed while {name} is {state}; allowed: {}", allowed_list(.allowed))]
    NotAllowed {
        /// What was asked.
        operation: &'static str,
        /// The entity's name.
        name: String,
        /// Its state in words.
        state: String,
        /// What would be allowed.
        allowed: Vec<&'static str>,
    },
    /// A value of the command is out of range.
    #[error("{what} is {value}, but must be {allowed}")]
    OutOfRange {
        /// Which value.
        what: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The command names something that is not there.
    #[error("{what} {name} does not exist")]
    Unknown {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The thing exists already, with other properties.
    #[error("{name} exists already with another {difference}")]
    Conflict {
        /// Its name.
        name: String,
        /// In what it differs.
        difference: &'static str,
    },
    /// The VM is not what it must be to be protected.
    #[error("{name} cannot be protected: {}", failed.join(" "))]
    Prerequisites {
        /// The VM's name.
        name: String,
        /// Every check that it fails, with what to do.
        failed: Vec<String>,
    },
    /// A registration key does not admit anybody.
    #[error("the registration key {because}")]
    KeyRefused {
        /// What is wrong with it.
        because: String,
    },
    /// Something else has it already, or is in the way.
    #[error("{because}")]
    Refused {
        /// What is in the way.
        because: String,
    },
}

/// Checks the name of something that is to be created: an entity without one does not exist.
pub(super) fn check_name(name: &str) -> Result<(), Rejection> {
    if !name.is_empty() {
        return Ok(());
    }
    Err(Rejection::OutOfRange { what: "name", value: "empty".to_owned(), allowed: "given" })
}

fn allowed_list(allowed: &[&'static str]) -> String {
    if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") }
}

/// Implements the two conversions between an entity's types and [`Entry`].
macro_rules! entry_conversions {
    ($variant:ident) => {
        fn entry(
            command: Self::Command,
            events: Vec<Self::Event>,
        ) -> $crate::domain::entity::Entry {
            $crate::domain::entity::Entry::$variant { command, events }
        }

        fn of(entry: &$crate::domain::entity::Entry) -> Option<(&Self::Command, &[Self::Event])> {
            if let $crate::domain::entity::Entry::$variant { command, events } = entry {
                Some((command, events))
            } else {
                None
            }
        }
    };
}
pub(super) use entry_conversions;
