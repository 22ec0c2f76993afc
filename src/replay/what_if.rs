//! What if the policy or the schedule of retries had been another: the same outages, met by other deltas.
//!
//! A log knows when work failed and when it worked, not what would have happened at other moments. So the
//! outages are taken as they were noticed, and delta replication is modelled in them: when the logs are cut,
//! when an attempt is made, whether that falls into an outage, and how long a delta takes. The same model is
//! run with what was in force, and stands beside the record, so that one sees how far to trust it.

use super::history::{Damage, History, HistoryError, Recorded};
use super::incident::thinned;
use super::past::Past;
use crate::domain::entity::{Commit, Entry, StreamId};
use crate::domain::failure::Cause;
use crate::domain::id::{HostId, VaultId, VmId};
use crate::domain::policy::Policy;
use crate::domain::retry::RetryLadder;
use crate::domain::time::Timestamp;
use crate::domain::vm::{Event, Phase};
use crate::domain::{host, vault};
use crate::views;
use backoff::backoff::Backoff;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

/// What the answers do not know.
pub const UNKNOWN: &str = "What cannot be re-simulated: an outage is known only as far as an attempt or a monitor \
    met it, so another attempt in between might have got through or not; a delta is taken to last as long as \
    the recorded ones did in the middle, whatever its size would be; failovers, resynchronizations and what \
    operators did stay where they were.";

/// Retries of a schedule in one outage that are followed; a month of half hours.
const RETRIES_MAX: u32 = 1_500;

const MINUTE_MS: i64 = 60_000;

/// A schedule of retries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Minutes after the first failed attempt, ascending.
    pub minutes: Vec<u32>,
    /// Minutes between the attempts after those.
    pub then_every_minutes: u32,
    /// Whether it is tried at once when a monitor sees the cause end.
    #[serde(default = "yes")]
    pub when_the_cause_ends: bool,
}

const fn yes() -> bool {
    true
}

impl Schedule {
    /// The one that is in force.
    pub fn in_force() -> Self {
        let mut ladder = RetryLadder::default();
        let mut at = Duration::ZERO;
        let mut minutes = Vec::new();
        while let Some(gap) = ladder.next_backoff().filter(|gap| *gap < RetryLadder::LONGEST_GAP) {
            at += gap;
            minutes.push((at.as_secs() / 60) as u32);
        }
        let then_every_minutes = (RetryLadder::LONGEST_GAP.as_secs() / 60) as u32;
        Self { minutes, then_every_minutes, when_the_cause_ends: true }
    }

    /// Checks that it goes on, and forward.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let rises = self.minutes.is_sorted_by(|one, other| one < other);
        if !rises || self.minutes.first() == Some(&0) {
            return Err("minutes must ascend, and begin after 0".to_owned());
        }
        if self.then_every_minutes == 0 {
            return Err("then_every_minutes must be 1 or more".to_owned());
        }
        Ok(())
    }

    /// Minutes after the first failure at which the `nth` retry is due, from 0.
    fn minute(&self, nth: u32) -> i64 {
        let last = self.minutes.last().copied().unwrap_or(0);
        let more = (nth as usize + 1).saturating_sub(self.minutes.len()) as i64;
        let listed = self.minutes.get(nth as usize).copied().map(i64::from);
        listed.unwrap_or(i64::from(last) + more * i64::from(self.then_every_minutes))
    }
}

/// How a VM fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Fate {
    /// The greatest age of its newest recovery point.
    pub rpo_max_seconds: f64,
    /// For how long that was more than twice of what the policy asks for.
    pub late_seconds: f64,
    /// Deltas that arrived.
    pub deltas: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// Minutes after the first failure at which attempts were made.
    pub retry_minutes: Vec<i64>,
    /// The age of the newest recovery point over time.
    pub rpo: Vec<(i64, f64)>,
}

/// A VM as it fared and as it would have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Its name.
    pub vm: String,
    /// As the log tells it.
    pub recorded: Fate,
    /// The model under what was in force.
    pub modelled: Fate,
    /// The model under what is asked about.
    pub what_if: Fate,
}

/// Compares what was with what would have been under another policy, another schedule, or both.
///
/// # Errors
/// [`HistoryError`].
pub fn what_if(
    history: &mut History,
    policy: Option<Policy>,
    schedule: Option<&Schedule>,
) -> Result<(Vec<Comparison>, Vec<Damage>), HistoryError> {
    let mut reading = Reading::default();
    let mut damage = Vec::new();
    history.each(|found| {
        match found {
            Ok(Recorded { commit, .. }) => reading.take(&commit),
            Err(met) => met.list(&mut damage),
        }
        ControlFlow::Continue(())
    })?;
    let in_force = Schedule::in_force();
    let mut comparisons: Vec<_> = reading
        .lives
        .values()
        .filter(|life| life.until.is_some())
        .map(|life| {
            let asked = policy.unwrap_or(life.policy);
            Comparison {
                vm: life.name.clone(),
                recorded: life.recorded.clone().thinned(),
                modelled: life.modelled(life.policy, &in_force).thinned(),
                what_if: life.modelled(asked, schedule.unwrap_or(&in_force)).thinned(),
            }
        })
        .collect();
    comparisons.sort_by(|one, other| one.vm.cmp(&other.vm));
    Ok((comparisons, damage))
}

/// A time in which a VM's work failed.
#[derive(Clone, Copy, Debug)]
struct Outage {
    from: i64,
    until: i64,
    /// Whether a monitor saw it end.
    seen_ending: bool,
}

/// The protected life of a VM, as far as deltas are concerned.
#[derive(Debug, Default)]
struct Life {
    name: String,
    policy: Policy,
    /// When deltas began.
    from: Option<i64>,
    /// The last moment at which it was replicated.
    until: Option<i64>,
    outages: Vec<Outage>,
    /// The outage under way: since when, for what.
    failing: Option<(i64, Cause)>,
    cycle_began: i64,
    /// The moment of the newest recovery point, and when that arrived.
    newest: Option<(i64, i64)>,
    durations: Vec<i64>,
    recorded: Fate,
}

#[derive(Default)]
struct Reading {
    past: Past,
    lives: BTreeMap<VmId, Life>,
    /// When a monitor saw a cause end last.
    ended: BTreeMap<Cause, i64>,
}

impl Reading {
    fn take(&mut self, commit: &Commit) {
        let at = commit.at;
        if let Entry::Vm { events, .. } = &commit.entry {
            self.sample(commit.stream, at);
            self.past.apply(commit);
            for event in events {
                self.event(VmId(commit.stream.id), event, at);
            }
            self.sample(commit.stream, at);
            return;
        }
        self.past.apply(commit);
        let id = commit.stream.id;
        let cause = match &commit.entry {
            Entry::Vault { events, .. } if events.contains(&vault::Event::VaultReachable) => {
                Cause::Vault(VaultId(id))
            }
            Entry::Host { events, .. } if events.contains(&host::Event::HeartbeatRestored) => {
                Cause::Host(HostId(id))
            }
            _ => return,
        };
        self.ended.insert(cause, at.as_millis());
    }

    fn sample(&mut self, stream: StreamId, at: Timestamp) {
        let Some(vm) = self.past.vm(stream.id) else { return };
        let Some(rpo) = vm.rpo(at).map(views::seconds) else { return };
        let life = self.lives.entry(vm.id).or_default();
        if life.from.is_some() {
            life.recorded.rpo_max_seconds = life.recorded.rpo_max_seconds.max(rpo);
            life.recorded.rpo.push((at.as_millis(), rpo));
        }
    }

    fn event(&mut self, id: VmId, event: &Event, at: Timestamp) {
        let Some(vm) = self.past.site.vms.get(&id) else { return };
        let life = self.lives.entry(id).or_default();
        let at = at.as_millis();
        life.name.clone_from(&vm.name);
        if matches!(vm.phase, Phase::Protected) {
            life.policy = vm.policy;
            life.from.get_or_insert(at);
            life.until = Some(at);
        }
        match event {
            Event::CycleStarted { .. } => life.cycle_began = at,
            Event::RetryScheduled { due, because, .. } => {
                let (since, _) = *life.failing.get_or_insert((at, because.cause));
                life.recorded.failed_attempts += 1;
                life.recorded.retry_minutes.push((due.as_millis() - since) / MINUTE_MS);
            }
            Event::MarkedForResync { .. } => {
                life.failing.get_or_insert((at, Cause::Itself));
            }
            Event::LogShipped { point } => {
                life.recorded.deltas += 1;
                let newest = life.newest.replace((point.at.as_millis(), at));
                let interval = life.policy.copy_frequency().as_millis() as i64;
                life.recorded.late_seconds += late(newest.unwrap_or((at, at)), at, interval);
                if let Some((from, cause)) = life.failing.take() {
                    let ended = self.ended.get(&cause).copied().filter(|ended| from <= *ended);
                    let until = ended.unwrap_or(at);
                    life.outages.push(Outage { from, until, seen_ending: ended.is_some() });
                } else if 0 < life.cycle_began {
                    life.durations.push((at - life.cycle_began).max(0));
                }
            }
            _ => {}
        }
    }
}

impl Life {
    /// Delta replication under a policy and a schedule, through the outages of this life.
    fn modelled(&self, policy: Policy, schedule: &Schedule) -> Fate {
        let (Some(from), Some(until)) = (self.from, self.until) else { return Fate::default() };
        let interval = policy.copy_frequency().as_millis() as i64;
        let took = self.median();
        let mut fate = Fate::default();
        let (mut newest, mut cut) = ((from, from), from + interval);
        while cut < until {
            let Some(arrived) = self.arrival(cut, took, until, schedule, &mut fate) else { break };
            fate.aged(newest, arrived, interval);
            fate.deltas += 1;
            newest = (cut, arrived);
            fate.rpo.push((arrived, (arrived - cut) as f64 / 1_000.0));
            cut = (cut + interval).max(arrived);
        }
        fate.aged(newest, until, interval);
        fate
    }

    /// When a delta that was cut arrives; `None` if not before the end.
    fn arrival(
        &self,
        cut: i64,
        took: i64,
        end: i64,
        schedule: &Schedule,
        fate: &mut Fate,
    ) -> Option<i64> {
        let mut attempt = cut;
        let mut nth = 0;
        while let Some(outage) = self.outage_at(attempt) {
            fate.failed_attempts += 1;
            let due = (nth..RETRIES_MAX)
                .map(|nth| (nth, cut + schedule.minute(nth) * MINUTE_MS))
                .find(|(_, due)| attempt < *due);
            let (at, next) = match due {
                Some((at, due)) => (at + 1, due),
                None => return None,
            };
            let sees_end = schedule.when_the_cause_ends && outage.seen_ending;
            attempt = if sees_end && outage.until < next { outage.until } else { next };
            fate.retry_minutes.push((attempt - cut) / MINUTE_MS);
            nth = if attempt == next { at } else { nth };
            if end <= attempt {
                return None;
            }
        }
        Some(attempt + took).filter(|arrived| *arrived < end)
    }

    fn outage_at(&self, at: i64) -> Option<Outage> {
        self.outages.iter().copied().find(|outage| (outage.from..outage.until).contains(&at))
    }

    fn median(&self) -> i64 {
        let mut durations = self.durations.clone();
        durations.sort_unstable();
        durations.get(durations.len() / 2).copied().unwrap_or(0)
    }
}

/// Seconds for which a recovery point, of this moment and arrived then, was the newest and older than two
/// intervals, until another arrived at `at`.
fn late((newest, arrived): (i64, i64), at: i64, interval: i64) -> f64 {
    (at - (newest + 2 * interval).max(arrived)).max(0) as f64 / 1_000.0
}

impl Fate {
    fn thinned(mut self) -> Self {
        self.rpo = thinned(self.rpo);
        self
    }

    /// The newest recovery point, of a moment and arrived then, is followed by another at `at`.
    fn aged(&mut self, newest: (i64, i64), at: i64, interval: i64) {
        let age = (at - newest.0).max(0);
        self.rpo_max_seconds = self.rpo_max_seconds.max(age as f64 / 1_000.0);
        self.late_seconds += late(newest, at, interval);
        self.rpo.push((at, age as f64 / 1_000.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> Life {
        let outage = Outage { from: 600_000, until: 1_500_000, seen_ending: false };
        Life {
            from: Some(0),
            until: Some(3_600_000),
            outages: vec![outage],
            durations: vec![1_000],
            ..Life::default()
        }
    }

    fn every(seconds: u32) -> Policy {
        Policy { copy_frequency_s: seconds, ..Policy::default() }
    }

    #[test]
    fn the_schedule_in_force_is_that_of_the_ladder() {
        let schedule = Schedule::in_force();
        assert_eq!(
            (schedule.minutes.as_slice(), schedule.then_every_minutes),
            (&[1, 2, 4, 8, 10][..], 30)
        );
        let minutes: Vec<i64> = (0..8).map(|nth| schedule.minute(nth)).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 10, 40, 70, 100]);
    }

    #[test]
    fn an_outage_of_which_nobody_sees_the_end_lasts_to_the_next_rung() {
        let fate = life().modelled(every(60), &Schedule::in_force());
        // Cut at minute 10, down until 25: the rungs at 11, 12, 14, 18 and 20 fail, the one at 50 does not.
        assert_eq!(fate.retry_minutes, [1, 2, 4, 8, 10, 40]);
        assert_eq!(fate.failed_attempts, 6);
        // The point of minute 9 is late from minute 11 to 50, that of minute 10 not for long after that.
        assert!((fate.late_seconds - 39.0 * 60.0).abs() < 5.0, "{}", fate.late_seconds);
        assert!(
            (fate.rpo_max_seconds - (41.0 * 60.0 + 1.0)).abs() < 1.5,
            "{}",
            fate.rpo_max_seconds
        );
    }

    #[test]
    fn a_closer_schedule_or_a_monitor_shortens_it() {
        let close =
            Schedule { minutes: vec![1], then_every_minutes: 1, when_the_cause_ends: false };
        let fate = life().modelled(every(60), &close);
        assert!(
            (fate.rpo_max_seconds - (16.0 * 60.0 + 1.0)).abs() < 1.5,
            "{}",
            fate.rpo_max_seconds
        );
        let mut seen = life();
        seen.outages[0].seen_ending = true;
        let fate = seen.modelled(every(60), &Schedule::in_force());
        assert!(
            (fate.rpo_max_seconds - (16.0 * 60.0 + 1.0)).abs() < 1.5,
            "{}",
            fate.rpo_max_seconds
        );
    }

    #[test]
    fn without_an_outage_the_age_is_what_the_policy_asks_for() {
        let calm = Life { outages: vec![], ..life() };
        for seconds in [30, 300] {
            let fate = calm.modelled(every(seconds), &Schedule::in_force());
            assert!((fate.rpo_max_seconds - f64::from(seconds) - 1.0).abs() < 0.5);
            assert_eq!((fate.failed_attempts, fate.retry_minutes.len()), (0, 0));
        }
    }

    #[test]
    fn a_schedule_that_does_not_go_on_is_refused() {
        for minutes in [vec![2, 1], vec![0], vec![1, 1]] {
            let schedule = Schedule { minutes, then_every_minutes: 1, when_the_cause_ends: true };
            assert!(schedule.check().is_err());
        }
        assert!(Schedule::in_force().check().is_ok());
    }
}
