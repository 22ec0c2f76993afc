//! What became of the VM at the primary site when a failover ended it: the evidence that there is one primary.

use super::{Event, Vm};
use crate::domain::failure::Failure;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the VM at the primary site was ended before its replica starts: what is known of there being one primary. The
/// replica is closed to it whatever it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceEnd {
    /// It was shut down.
    ShutDown,
    /// It did not shut down, and its power was cut.
    SwitchedOff,
    /// Nobody could reach it. It may run on, and is turned off once it is reached.
    OutOfReach(Failure),
}

/// What is known of the source since a failover ended it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEnded {
    /// When.
    pub at: Timestamp,
    /// How.
    pub how: SourceEnd,
    /// Why what it wrote last could not be sent, where that was asked for.
    pub unsent: Option<Failure>,
}

impl fmt::Display for SourceEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            SourceEnd::ShutDown => f.write_str("the source was shut down")?,
            SourceEnd::SwitchedOff => {
                f.write_str("the source did not shut down in time, and its power was cut")?;
            }
            SourceEnd::OutOfReach(failure) => write!(
                f,
                "the source could not be reached ({failure}): it may run on, and is turned off once it is reached"
            )?,
        }
        match &self.unsent {
            None => Ok(()),
            Some(failure) => write!(f, "; what it wrote last could not be sent ({failure})"),
        }
    }
}

/// What one event tells of the source.
pub(super) fn apply(vm: &mut Vm, event: &Event, at: Timestamp) {
    let (how, unsent) = match event {
        Event::SourceShutDown => (SourceEnd::ShutDown, None),
        Event::SourceEnded { how, unsent } => (how.clone(), unsent.clone()),
        _ => return,
    };
    vm.source_ended = Some(SourceEnded { at, how, unsent });
}
