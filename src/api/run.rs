//! A run of a recovery plan as it is asked for.

use super::operation::point_choice;
use super::problem::Problem;
use crate::domain::plan::{RunKind, RunOptions};
use serde::{Deserialize, Serialize};

/// The body of a request for a run.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunBody {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    point: Option<String>,
    #[serde(default)]
    synchronize: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_hours: Option<u32>,
    #[serde(default)]
    notes: String,
}

impl RunBody {
    /// How the same run is asked for again.
    pub(super) fn of(kind: &RunKind, options: &RunOptions) -> Self {
        let usual = RunOptions::default();
        let network = match kind {
            RunKind::Test { network } => Some(network.clone()),
            _ => None,
        };
        Self {
            kind: kind.name().to_owned(),
            network,
            point: (options.point != usual.point).then(|| options.point.to_string()),
            synchronize: options.synchronize,
            lease_hours: (options.lease_h != usual.lease_h).then_some(options.lease_h),
            notes: options.notes.clone(),
        }
    }

    /// What is run, and what was chosen for it. Whether the two go together is decided by the plan.
    pub(super) fn read(self) -> Result<(RunKind, RunOptions), Problem> {
        let usual = RunOptions::default();
        let options = RunOptions {
            point: match &self.point {
                Some(text) => point_choice(text).map_err(Problem::invalid)?,
                None => usual.point,
            },
            synchronize: self.synchronize,
            lease_h: self.lease_hours.unwrap_or(usual.lease_h),
            notes: self.notes,
        };
        let kind = match (self.kind.as_str(), self.network) {
            ("test", Some(network)) if !network.is_empty() => RunKind::Test { network },
            ("test", _) => return Err(Problem::invalid("a test needs a `network`")),
            (_, Some(_)) => return Err(Problem::invalid("only a test has a `network`")),
            ("planned", None) => RunKind::Planned,
            ("unplanned", None) => RunKind::Unplanned,
            ("clean-up", None) => RunKind::CleanUp,
            ("commit", None) => RunKind::Commit,
            ("reverse", None) => RunKind::Reverse,
            (other, None) => {
                return Err(Problem::invalid(format!(
                    "`kind` is {other:?}, but must be test, planned, unplanned, clean-up, commit or reverse"
                )));
            }
        };
        Ok((kind, options))
    }
}
