//! Payload version 1: it did not say which commit had led to this one. Frozen.

use crate::domain::entity::Entry;
use crate::domain::id::JobId;
use serde::{Deserialize, Serialize};

/// A payload of version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    /// Who asked.
    pub actor: String,
    /// The job that the commit belongs to.
    pub correlation: Option<JobId>,
    /// Command and events. Their shape is that of version 2.
    pub entry: Entry,
}

impl From<Payload> for super::Payload {
    fn from(Payload { actor, correlation, entry }: Payload) -> Self {
        Self { actor, correlation, causation: None, entry }
    }
}
