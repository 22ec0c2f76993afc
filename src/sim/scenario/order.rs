//! What an operator asks for beside the deed and the VM.

use super::{Deed, RunWord, SiteSpec, Step};
use crate::domain::policy::Policy;
use crate::domain::vm::AfterFailover;
use crate::sim::quantity::Span;
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// What becomes of a failover at the time that is set for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionWord {
    /// It is made final.
    Commit,
    /// It is undone.
    Cancel,
}

impl DecisionWord {
    /// Its word in a scenario.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Cancel => "cancel",
        }
    }
}

impl RunWord {
    /// Its word in a scenario.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Planned => "planned",
            Self::Unplanned => "unplanned",
            Self::CleanUp => "clean_up",
            Self::Commit => "commit",
            Self::Reverse => "reverse",
        }
    }
}

impl From<DecisionWord> for AfterFailover {
    fn from(word: DecisionWord) -> Self {
        match word {
            DecisionWord::Commit => Self::Commit,
            DecisionWord::Cancel => Self::Cancel,
        }
    }
}

impl From<AfterFailover> for DecisionWord {
    fn from(then: AfterFailover) -> Self {
        match then {
            AfterFailover::Commit => Self::Commit,
            AfterFailover::Cancel => Self::Cancel,
        }
    }
}

impl Step {
    /// A step with no keys but these.
    pub(in crate::sim) fn of(t: Span, deed: Deed) -> Self {
        Self {
            t: Spanned::new(0..0, t),
            r#do: Spanned::new(0..0, deed),
            host: None,
            vm: None,
            r#for: None,
            percent: None,
            rtt: None,
            every: None,
            forward: None,
            back: None,
            plan: None,
            kind: None,
            copy_frequency: None,
            retention: None,
            app_consistent: None,
            after: None,
            then: None,
            full: None,
        }
    }

    /// Whether everything is to be downloaded.
    pub(in crate::sim) fn in_full(&self) -> bool {
        self.full == Some(true)
    }

    /// The policy that this one becomes.
    pub(in crate::sim) fn policy(&self, before: Policy) -> Policy {
        let hours = |span: Span| (span.0 / 3_600_000) as u32;
        let Policy { copy_frequency_s, recovery_point_retention_h, app_consistent_frequency_h } =
            before;
        let frequency = self.copy_frequency.map(|span| (span.0 / 1_000) as u32);
        Policy {
            copy_frequency_s: frequency.unwrap_or(copy_frequency_s),
            recovery_point_retention_h: self.retention.map_or(recovery_point_retention_h, hours),
            app_consistent_frequency_h: self
                .app_consistent
                .map_or(app_consistent_frequency_h, hours),
        }
    }

    pub(super) fn check_policy(&self, site: &SiteSpec) -> Result<(), String> {
        if self.copy_frequency.or(self.retention).or(self.app_consistent).is_none() {
            return Err(
                "change_policy needs copy_frequency, retention or app_consistent".to_owned()
            );
        }
        self.policy(site.policy()).check().map_err(|rejection| rejection.to_string())
    }
}
