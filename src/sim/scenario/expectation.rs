//! What a scenario expects of its VMs in the end.

use crate::sim::quantity::{Size, Span};
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// Something that must be so in the end.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Of which figure.
    pub that: Spanned<Figure>,
    /// Of which VM; of each one if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Spanned<String>>,
    /// It is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<Spanned<toml::Value>>,
    /// It is this or less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Spanned<toml::Value>>,
    /// It is this or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Spanned<toml::Value>>,
    /// It is among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub includes: Option<Spanned<toml::Value>>,
}

/// What is known of a VM after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// The greatest age that its newest recovery point reached: a length of time.
    RpoMax,
    /// The longest time from an order to fail over to the replica's start: a length of time.
    RtoMax,
    /// What its guest had written and a failover did not bring along: a size.
    Lost,
    /// How often its replica had to be brought into step: a number.
    Resyncs,
    /// How often work was tried again: a number.
    Retries,
    /// Minutes after a first failure at which attempts were due: numbers.
    RetryMinutes,
    /// The catalogue entries of its failures: texts such as SR-2101.
    Failures,
    /// Its health in the end: a text.
    Health,
    /// The worst that its health was after it was protected first: a text.
    WorstHealth,
    /// Where it stands in the end: a text, as in `protected`.
    Phase,
    /// How many recovery points it has in the end: a number.
    Points,
    /// How often it needed an administrator: a number.
    AdministratorNeeded,
    /// Cycles that did not begin in time, in the last interval and the one before: a number.
    MissedCycles,
    /// Why its replica had to be brought into step: texts such as `a disk changed`.
    ResyncReasons,
    /// The catalogue entries of what a second service met with it: texts.
    SecondService,
    /// The host that it is on in the end: a text.
    Host,
    /// How its last test that was cleaned up ended: `succeeded`, `failed`, or `none`.
    LastTest,
    /// What its replica has, while it is failed over: texts such as `eth0 in dr/front with 10.0.1.20`.
    Networks,
}

/// How the value of a figure is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Unit {
    Time,
    Size,
    Number,
    Text,
    Numbers,
    Texts,
}

impl Figure {
    /// Its word in a scenario.
    pub const fn word(self) -> &'static str {
        match self {
            Self::RpoMax => "rpo_max",
            Self::RtoMax => "rto_max",
            Self::Lost => "lost",
            Self::Resyncs => "resyncs",
            Self::Retries => "retries",
            Self::RetryMinutes => "retry_minutes",
            Self::Failures => "failures",
            Self::Health => "health",
            Self::WorstHealth => "worst_health",
            Self::Phase => "phase",
            Self::Points => "points",
            Self::AdministratorNeeded => "administrator_needed",
            Self::MissedCycles => "missed_cycles",
            Self::ResyncReasons => "resync_reasons",
            Self::SecondService => "second_service",
            Self::Host => "host",
            Self::LastTest => "last_test",
            Self::Networks => "networks",
        }
    }

    pub(in crate::sim) const fn unit(self) -> Unit {
        match self {
            Self::RpoMax | Self::RtoMax => Unit::Time,
            Self::Lost => Unit::Size,
            Self::Resyncs
            | Self::Retries
            | Self::Points
            | Self::AdministratorNeeded
            | Self::MissedCycles => Unit::Number,
            Self::Health | Self::WorstHealth | Self::Phase | Self::Host | Self::LastTest => {
                Unit::Text
            }
            Self::RetryMinutes => Unit::Numbers,
            Self::Failures | Self::ResyncReasons | Self::SecondService | Self::Networks => {
                Unit::Texts
            }
        }
    }
}

/// A value that a figure is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Wanted {
    Number(u64),
    Text(String),
    Numbers(Vec<u64>),
}

impl Unit {
    /// Reads a value of the file.
    pub(in crate::sim) fn read(self, value: &toml::Value) -> Result<Wanted, String> {
        let text = || value.as_str().map(ToOwned::to_owned).ok_or("a text in quotes is needed");
        Ok(match self {
            Self::Time => Wanted::Number(Span::try_from(text()?)?.0),
            Self::Size => Wanted::Number(Size::try_from(text()?)?.0),
            Self::Text | Self::Texts => Wanted::Text(text()?),
            Self::Number => Wanted::Number(number(value)?),
            Self::Numbers => match value.as_array() {
                Some(values) => {
                    Wanted::Numbers(values.iter().map(number).collect::<Result<_, _>>()?)
                }
                None => Wanted::Number(number(value)?),
            },
        })
    }
}

fn number(value: &toml::Value) -> Result<u64, String> {
    let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| "a whole number that is not negative is needed".to_owned())
}

impl Expectation {
    /// The comparisons that it asks for, with the word of each.
    pub(in crate::sim) fn comparisons(&self) -> Vec<(&'static str, &Spanned<toml::Value>)> {
        let all = [
            ("is", &self.is),
            ("at_most", &self.at_most),
            ("at_least", &self.at_least),
            ("includes", &self.includes),
        ];
        all.into_iter().filter_map(|(word, value)| Some((word, value.as_ref()?))).collect()
    }
}
