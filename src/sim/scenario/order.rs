//! What an operator asks for beside the deed and the VM.

use super::{Deed, RunWord, SiteSpec, Step};
use crate::domain::plan::RunOptions;
use crate::domain::policy::Policy;
use crate::domain::vm::{AfterFailover, PointChoice};
use crate::sim::plans::run_kind;
use crate::sim::quantity::Span;
use serde::{Deserialize, Serialize};
use std::fmt;
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

/// From which recovery points a plan starts its VMs: each from its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PointWord {
    /// The newest, also if it is found only when the source is fenced.
    Latest,
    /// The newest that is known.
    LatestProcessed,
    /// The newest that is application-consistent.
    LatestApplicationConsistent,
}

impl PointWord {
    /// Its word in a scenario.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::LatestProcessed => "latest_processed",
            Self::LatestApplicationConsistent => "latest_application_consistent",
        }
    }

    /// The word of a choice, if it is one for many VMs.
    pub(in crate::sim) const fn of(choice: PointChoice) -> Option<Self> {
        match choice {
            PointChoice::Latest => Some(Self::Latest),
            PointChoice::LatestProcessed => Some(Self::LatestProcessed),
            PointChoice::LatestApplicationConsistent => Some(Self::LatestApplicationConsistent),
            PointChoice::Cycle(_) => None,
        }
    }
}

impl From<PointWord> for PointChoice {
    fn from(word: PointWord) -> Self {
        match word {
            PointWord::Latest => Self::Latest,
            PointWord::LatestProcessed => Self::LatestProcessed,
            PointWord::LatestApplicationConsistent => Self::LatestApplicationConsistent,
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
            network: None,
            to: None,
            plan: None,
            kind: None,
            copy_frequency: None,
            retention: None,
            app_consistent: None,
            after: None,
            then: None,
            full: None,
            point: None,
            synchronize: None,
            lease: None,
            source_gone: None,
        }
    }

    /// Whether everything is to be downloaded.
    pub(in crate::sim) fn in_full(&self) -> bool {
        self.full == Some(true)
    }

    /// Whether it is to be done without the VM's host.
    pub(in crate::sim) fn source_is_gone(&self) -> bool {
        self.source_gone == Some(true)
    }

    /// What is chosen for the run of a plan.
    pub(in crate::sim) fn options(&self) -> RunOptions {
        let usual = RunOptions::default();
        RunOptions {
            point: self.point.map_or(usual.point, PointChoice::from),
            synchronize: self.synchronize == Some(true),
            lease_h: self.lease.map_or(usual.lease_h, |span| (span.0 / 3_600_000) as u32),
            notes: usual.notes,
        }
    }

    /// The step with what was chosen for the run of a plan.
    pub(in crate::sim) fn with_options(self, options: &RunOptions) -> Self {
        let usual = RunOptions::default();
        let lease = (options.lease_h != usual.lease_h).then_some(options.lease_h);
        Self {
            point: PointWord::of(options.point).filter(|_| options.point != usual.point),
            synchronize: options.synchronize.then_some(true),
            lease: lease.map(|hours| Span::hours(u64::from(hours))),
            ..self
        }
    }

    pub(super) fn check_run(&self) -> Result<(), String> {
        let Some(word) = self.kind else { return Ok(()) };
        let checked = self.options().check(&run_kind(word, String::new()));
        checked.map_err(|rejection| rejection.to_string())
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

    pub(super) fn check_mapping(&self, site: &SiteSpec) -> Result<(), String> {
        for (name, networks) in [(&self.network, &site.network), (&self.to, &site.recovery_network)]
        {
            let Some(name) = name.as_ref().map(Spanned::get_ref) else { continue };
            if !networks.iter().any(|network| network.name.get_ref() == name) {
                return Err(format!("the site has no network {name:?} there"));
            }
        }
        Ok(())
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

impl Step {
    /// The keys that it has.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let keys = [
            ("host", self.host.is_some()),
            ("vm", self.vm.is_some()),
            ("for", self.r#for.is_some()),
            ("percent", self.percent.is_some()),
            ("rtt", self.rtt.is_some()),
            ("every", self.every.is_some()),
            ("forward", self.forward.is_some()),
            ("back", self.back.is_some()),
            ("network", self.network.is_some()),
            ("to", self.to.is_some()),
            ("plan", self.plan.is_some()),
            ("kind", self.kind.is_some()),
            ("copy_frequency", self.copy_frequency.is_some()),
            ("retention", self.retention.is_some()),
            ("app_consistent", self.app_consistent.is_some()),
            ("after", self.after.is_some()),
            ("then", self.then.is_some()),
            ("full", self.full.is_some()),
            ("point", self.point.is_some()),
            ("synchronize", self.synchronize.is_some()),
            ("lease", self.lease.is_some()),
            ("source_gone", self.source_gone.is_some()),
        ];
        keys.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.r#do.get_ref().word())?;
        for name in [&self.host, &self.vm, &self.network, &self.plan].into_iter().flatten() {
            write!(f, " {}", name.get_ref())?;
        }
        if let Some(to) = &self.to {
            write!(f, " to {}", to.get_ref())?;
        }
        if let Some(kind) = self.kind {
            write!(f, " {}", kind.word())?;
        }
        if let Some(percent) = self.percent {
            write!(f, " {percent}%")?;
        }
        for (word, span) in [
            ("rtt", self.rtt),
            ("forward", self.forward),
            ("back", self.back),
            ("for", self.r#for),
            ("copy_frequency", self.copy_frequency),
            ("retention", self.retention),
            ("app_consistent", self.app_consistent),
            ("after", self.after),
            ("lease", self.lease),
        ] {
            if let Some(span) = span {
                write!(f, " {word} {span}")?;
            }
        }
        if let Some(then) = self.then {
            write!(f, " then {}", then.word())?;
        }
        if let Some(point) = self.point {
            write!(f, " from {}", point.word())?;
        }
        if self.source_is_gone() {
            f.write_str(" without its source")?;
        }
        if self.synchronize == Some(true) {
            f.write_str(" synchronized")?;
        }
        if self.in_full() { f.write_str(" in full") } else { Ok(()) }
    }
}
