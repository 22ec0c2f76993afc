//! `replay run`: the log commit by commit, at its own pace, faster, or by the Enter key.

use super::super::{Answer, CommandError, print};
use super::{SourceArg, check_order};
use crate::domain::entity::{Commit, Entry, Kind};
use crate::domain::job::JobKind;
use crate::domain::time::Timestamp;
use crate::domain::vm::{Event, Health};
use crate::replay::{
    Found, History, Moment, Past, Recorded, Titles, WhyError, clock, command_in_words,
    events_in_words, span,
};
use std::fmt;
use std::io::{BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::Duration;

/// The longest wait between two commits: a night in which nothing happens is not waited for.
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArg,
    #[command(flatten)]
    pace: PaceArgs,
}

/// What of a log is played, and how fast.
#[derive(Debug, clap::Args)]
pub(in super::super) struct PaceArgs {
    /// Times the pace of the log, as in 60x; `step` waits for Enter; `all` does not wait
    #[arg(long, default_value = "all")]
    speed: Speed,
    /// The first moment that is shown: a position, or a time as in 2026-11-23T02:13:00Z
    #[arg(long, value_name = "MOMENT")]
    from: Option<Moment>,
    /// The last one
    #[arg(long, value_name = "MOMENT")]
    to: Option<Moment>,
    /// Only what happens to this VM
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Wait for Enter when a VM becomes Critical, is failed over, or is marked for resynchronization
    #[arg(long, value_enum, value_delimiter = ',')]
    pause_on: Vec<Pause>,
}

/// How fast a log is played.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Speed {
    All,
    Step,
    Times(f64),
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let times = |text: &str| text.parse().ok().filter(|it: &f64| it.is_finite() && 0.0 < *it);
        match text {
            "all" => Ok(Self::All),
            "step" => Ok(Self::Step),
            _ => text
                .strip_suffix('x')
                .and_then(times)
                .map(Self::Times)
                .ok_or_else(|| format!("{text:?} is no speed: write 60x, step or all")),
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Step => f.write_str("step"),
            Self::Times(times) => write!(f, "{times}x"),
        }
    }
}

/// What stops the play.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Pause {
    Critical,
    Failover,
    Resync,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    play(&mut args.source.open()?, &args.pace)
}

pub(super) fn play(history: &mut History, args: &PaceArgs) -> Result<Answer, CommandError> {
    check_order(args.from, args.to)?;
    let mut play = Play { args, past: Past::default(), titles: Titles::default(), shown: None };
    history.each(|found| play.take(found))?;
    if let Some(name) = &args.vm
        && play.past.vm_called(name).is_none()
    {
        return Err(WhyError::no_vm(name, &play.past).into());
    }
    if play.shown.is_none() {
        return Err("the log has nothing there".into());
    }
    Ok(Answer::Done)
}

struct Play<'a> {
    args: &'a PaceArgs,
    past: Past,
    titles: Titles,
    /// When the commit was decided that was shown last.
    shown: Option<Timestamp>,
}

impl Play<'_> {
    fn take(&mut self, found: Found) -> ControlFlow<()> {
        let commit = match found {
            Ok(Recorded { commit, .. }) => commit,
            Err(damage) => {
                self.past.met(&damage);
                print(&format!("damaged: {damage}"));
                return ControlFlow::Continue(());
            }
        };
        if self.args.to.is_some_and(|to| !to.includes(&commit)) {
            return ControlFlow::Break(());
        }
        let before = self.standing(&commit);
        self.past.apply(&commit);
        self.titles.note(&self.past, &commit);
        let after = self.standing(&commit);
        if self.is_shown(&commit) {
            self.wait_for(commit.at);
            self.show(&commit, &before, &after);
            self.shown = Some(commit.at);
            if self.args.speed == Speed::Step || self.pauses(&commit, &before, &after) {
                wait_for_enter();
            }
        }
        ControlFlow::Continue(())
    }

    fn is_shown(&self, commit: &Commit) -> bool {
        let begun = self.args.from.is_none_or(|from| match from {
            Moment::Position(position) => position <= commit.global,
            Moment::Time(time) => time <= commit.at,
            Moment::End => false,
        });
        let is_of = |name: &String| {
            self.past.vm_called(name).is_some_and(|(stream, _)| stream == commit.stream)
        };
        begun && self.args.vm.as_ref().is_none_or(is_of)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a log is played at a pace that a person follows"
    )]
    fn wait_for(&self, at: Timestamp) {
        let (Speed::Times(times), Some(shown)) = (self.args.speed, self.shown) else { return };
        std::thread::sleep(at.since(shown).div_f64(times).min(WAIT_MAX));
    }

    fn show(&self, commit: &Commit, before: &Standing, after: &Standing) {
        let name = self.past.name(commit.stream);
        print(&format!(
            "{:>6}  {}  {}",
            commit.global,
            clock(commit.at),
            command_in_words(commit, &name, &self.titles)
        ));
        for event in events_in_words(commit, &self.titles) {
            print(&format!("{:22}{event}", ""));
        }
        for (what, before, after) in
            [("state", &before.phase, &after.phase), ("health", &before.health(), &after.health())]
        {
            match (before.as_str(), after.as_str()) {
                (before, after) if before == after => {}
                ("", after) => print(&format!("{:22}=> {what} {after}", "")),
                (before, after) => print(&format!("{:22}=> {what} {before} -> {after}", "")),
            }
        }
    }

    /// How the VM of a commit stands at its time.
    fn standing(&self, commit: &Commit) -> Standing {
        let vm = self.past.vm(commit.stream.id).filter(|_| commit.stream.kind == Kind::Vm);
        let Some(vm) = vm else { return Standing::default() };
        let rpo = vm.rpo(commit.at);
        Standing { phase: vm.phase.to_string(), health: Some(vm.health(commit.at)), rpo }
    }

    fn pauses(&self, commit: &Commit, before: &Standing, after: &Standing) -> bool {
        let Entry::Vm { events, .. } = &commit.entry else { return false };
        self.args.pause_on.iter().any(|pause| match pause {
            Pause::Critical => {
                before.health != after.health && after.health == Some(Health::Critical)
            }
            Pause::Failover => events.iter().any(|event| {
                matches!(
                    event,
                    Event::JobStarted {
                        kind: JobKind::PlannedFailover | JobKind::UnplannedFailover,
                        ..
                    } | Event::ReplicaStarted
                )
            }),
            Pause::Resync => {
                events.iter().any(|event| matches!(event, Event::MarkedForResync { .. }))
            }
        })
    }
}

/// What people look at first.
#[derive(Default)]
struct Standing {
    phase: String,
    health: Option<Health>,
    rpo: Option<Duration>,
}

impl Standing {
    fn health(&self) -> String {
        let Some(health) = self.health else { return String::new() };
        match (health, self.rpo) {
            (Health::Warning | Health::Critical, Some(rpo)) => {
                format!("{health} (RPO {})", span(rpo))
            }
            _ => health.to_string(),
        }
    }
}

/// Waits for a line, if somebody is there to type it.
fn wait_for_enter() {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let mut line = String::new();
        // A terminal that is gone is as good as Enter: the play goes on.
        let _ = stdin.lock().read_line(&mut line);
    }
}
