//! What if the policy or the schedule of retries had been another: the same outages, met by other deltas.
//!
//! A log knows when work failed and when it worked, not what would have happened at other moments. So an
//! outage is taken to last from the beginning of the first attempt that failed to that of the one which got
//! through, and delta replication is modelled in it: when the logs are cut, when an attempt is made, whether
//! that falls into an outage, and how long it takes. While a VM was not replicated, as in a failover or a
//! resynchronization, it is not in the model either. The same model is run with what was in force, and stands
//! beside the record, so that one sees how far to trust it.

use super::history::{Damage, History, HistoryError, Recorded};
use super::incident::thinned;
use super::past::Past;
use crate::domain::entity::{Commit, Entry, StreamId};
use crate::domain::id::VmId;
use crate::domain::policy::Policy;
use crate::domain::retry::RetryLadder;
use crate::domain::time::Timestamp;
use crate::domain::vm::{Event, Phase, RetryReason, Stage};
use crate::views;
use backoff::backoff::Backoff;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

/// What the answers do not know.
pub const UNKNOWN: &str = "What cannot be re-simulated: an outage is taken to last from the first attempt that \
    failed to the one that got through, so another attempt in between might have got through or not; a delta is \
    taken to last as long as the recorded ones did in the middle, whatever its size would be; failovers, \
    resynchronizations, pauses and what operators did stay where they were. Of a policy, the time between two \
    deltas alone is in the model: how long points are kept, and when resynchronizations begin, change no curve.";

/// What is meant by late.
pub const LATE: &str =
    "late: for how long the newest recovery point was older than two intervals of the policy";

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
    /// Whether the model comes to what was recorded; if not, what it says of other policies is of little worth.
    pub fits: bool,
    /// The model under what is asked about.
    pub what_if: Fate,
}

/// A policy that is asked about: what it does not say is as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Seconds between two deltas.
    pub copy_frequency_s: Option<u32>,
    /// Hours for which recovery points are kept.
    pub recovery_point_retention_h: Option<u32>,
    /// Hours between application-consistent points; 0 for none.
    pub app_consistent_frequency_h: Option<u32>,
}

impl Asked {
    /// The policy that was in force, changed by this.
    pub fn instead_of(self, policy: Policy) -> Policy {
        let hours = self.recovery_point_retention_h;
        let consistent = self.app_consistent_frequency_h;
        Policy {
            copy_frequency_s: self.copy_frequency_s.unwrap_or(policy.copy_frequency_s),
            recovery_point_retention_h: hours.unwrap_or(policy.recovery_point_retention_h),
            app_consistent_frequency_h: consistent.unwrap_or(policy.app_consistent_frequency_h),
        }
    }
}

/// Seconds by which a modelled RPO may be off without a word about it, and the same as a share.
const FITS_SECONDS: f64 = 10.0;
const FITS_SHARE: f64 = 0.1;

/// Whether the model of what was in force comes to what was recorded.
fn fits(recorded: &Fate, modelled: &Fate) -> bool {
    let off = (recorded.rpo_max_seconds - modelled.rpo_max_seconds).abs();
    let attempts = recorded.failed_attempts.abs_diff(modelled.failed_attempts);
    off <= FITS_SECONDS.max(recorded.rpo_max_seconds * FITS_SHARE)
        && attempts <= recorded.failed_attempts / 10
}

/// Compares what was with what would have been under another policy, another schedule, or both.
///
/// # Errors
/// [`HistoryError`].
pub fn what_if(
    history: &mut History,
    asked: Asked,
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
            let recorded = life.recorded();
            let modelled = life.modelled(life.policy, &in_force);
            let policy = asked.instead_of(life.policy);
            let what_if = life.modelled(policy, schedule.unwrap_or(&in_force));
            Comparison {
                vm: life.name.clone(),
                fits: fits(&recorded, &modelled),
                recorded: recorded.thinned(),
                modelled: modelled.thinned(),
                what_if: what_if.thinned(),
            }
        })
        .collect();
    comparisons.sort_by(|one, other| one.vm.cmp(&other.vm));
    Ok((comparisons, damage))
}

/// A time in which a VM's deltas failed.
#[derive(Clone, Debug, Default, PartialEq)]
struct Outage {
    /// When the first attempt that failed began.
    from: i64,
    /// When the one that got through did, or that was no longer tried.
    until: i64,
    /// How long the first attempt took to fail.
    fails_after: i64,
    /// When it was tried out of turn, and whether because a monitor saw the cause end; else somebody asked.
    nudges: Vec<(i64, bool)>,
    /// Whether nothing was due by itself: an administrator had to act.
    needs_somebody: bool,
}

/// A time in which a VM was not replicated by deltas.
#[derive(Clone, Copy, Debug)]
struct Hold {
    from: i64,
    until: i64,
    /// The moment of the recovery point that came of it, as of a resynchronization.
    point: Option<i64>,
}

/// The protected life of a VM, as far as deltas are concerned.
#[derive(Debug, Default)]
struct Life {
    name: String,
    policy: Policy,
    /// When deltas began.
    from: Option<i64>,
    /// The moment of the recovery point that there was then.
    first_point: Option<i64>,
    /// The last moment at which it was replicated.
    until: Option<i64>,
    outages: Vec<Outage>,
    /// The outage under way, and when its first attempt had failed.
    failing: Option<(Outage, i64)>,
    holds: Vec<Hold>,
    /// When it ceased to be replicated, and the point that came since.
    held: Option<(i64, Option<i64>)>,
    /// When the attempt under way, or the last one, began.
    attempt_began: i64,
    /// The moment of the newest recovery point, and when that arrived.
    newest: Option<(i64, i64)>,
    durations: Vec<i64>,
    recorded: Fate,
}

#[derive(Default)]
struct Reading {
    past: Past,
    lives: BTreeMap<VmId, Life>,
}

impl Reading {
    fn take(&mut self, commit: &Commit) {
        let Entry::Vm { events, .. } = &commit.entry else { return self.past.apply(commit) };
        self.sample(commit.stream, commit.at);
        self.past.apply(commit);
        let Some(vm) = self.past.vm(commit.stream.id) else { return };
        let life = self.lives.entry(VmId(commit.stream.id)).or_default();
        life.name = self.past.name(commit.stream);
        let at = commit.at.as_millis();
        for event in events {
            life.event(event, at);
        }
        let is_paused = matches!(vm.delta.stage, Stage::Paused { .. });
        if matches!(vm.phase, Phase::Protected) && !is_paused {
            life.policy = vm.policy;
            life.is_replicated(at);
        } else {
            life.is_held(at);
        }
        self.sample(commit.stream, commit.at);
    }

    fn sample(&mut self, stream: StreamId, at: Timestamp) {
        let Some(vm) = self.past.vm(stream.id) else { return };
        let Some(rpo) = vm.rpo(at).map(views::seconds) else { return };
        let life = self.lives.entry(VmId(stream.id)).or_default();
        if life.from.is_some() {
            life.recorded.rpo.push((at.as_millis(), rpo));
        }
    }
}

impl Life {
    fn is_replicated(&mut self, at: i64) {
        if self.from.is_none() {
            self.from = Some(at);
            self.first_point = self.newest.map(|(moment, _)| moment);
        }
        self.until = Some(at);
        if let Some((from, point)) = self.held.take() {
            self.holds.push(Hold { from, until: at, point });
        }
    }

    fn is_held(&mut self, at: i64) {
        if self.from.is_some() && self.held.is_none() {
            self.held = Some((at, None));
            self.ceases_to_fail(at);
        }
    }

    fn event(&mut self, event: &Event, at: i64) {
        match event {
            Event::CycleStarted { .. } => self.attempt_began = at,
            Event::RetryStarted { early, .. } => self.tries_again(early.as_ref(), at),
            Event::RetryScheduled { .. } => self.fails(false, at),
            Event::AdministratorNeeded { .. } => self.fails(true, at),
            Event::LogShipped { point } => self.has_point(point.at.as_millis(), at),
            _ => {}
        }
    }

    /// Whether what happens is part of delta replication.
    fn counts(&self) -> bool {
        self.from.is_some() && self.held.is_none()
    }

    fn fails(&mut self, needs_somebody: bool, at: i64) {
        if !self.counts() {
            return;
        }
        self.recorded.failed_attempts += 1;
        let from = self.attempt_began;
        let begin = || (Outage { from, fails_after: at - from, ..Outage::default() }, at);
        let (outage, _) = self.failing.get_or_insert_with(begin);
        outage.needs_somebody |= needs_somebody;
    }

    fn tries_again(&mut self, early: Option<&RetryReason>, at: i64) {
        self.attempt_began = at;
        let Some((outage, failed)) = &mut self.failing else { return };
        self.recorded.retry_minutes.push((at - *failed) / MINUTE_MS);
        let of_monitor = early.map(|it| matches!(it, RetryReason::CauseEnded(_)));
        outage.nudges.extend(of_monitor.map(|of_monitor| (at, of_monitor)));
    }

    fn has_point(&mut self, moment: i64, at: i64) {
        if let Some((_, point)) = &mut self.held {
            *point = Some(moment);
        }
        let newest = self.newest.replace((moment, at));
        if self.from.is_none() {
            return;
        }
        let interval = self.policy.copy_frequency().as_millis() as i64;
        self.recorded.late_seconds += late(newest.unwrap_or((at, at)), at, interval);
        if self.held.is_some() {
            return;
        }
        self.recorded.deltas += 1;
        if self.failing.is_some() {
            self.ceases_to_fail(self.attempt_began);
        } else {
            self.durations.push((at - self.attempt_began).max(0));
        }
    }

    fn ceases_to_fail(&mut self, until: i64) {
        let ended = self.failing.take().map(|(outage, _)| Outage { until, ..outage });
        self.outages.extend(ended);
    }

    /// What was, up to the last moment at which it was replicated.
    fn recorded(&self) -> Fate {
        let mut fate = self.recorded.clone();
        fate.rpo.retain(|(at, _)| self.until.is_some_and(|until| *at <= until));
        fate.rpo_max_seconds = fate.rpo.iter().map(|(_, rpo)| *rpo).fold(0.0, f64::max);
        fate
    }

    /// Delta replication under a policy and a schedule, through the outages of this life.
    fn modelled(&self, policy: Policy, schedule: &Schedule) -> Fate {
        let (Some(from), Some(until)) = (self.from, self.until) else { return Fate::default() };
        let interval = policy.copy_frequency().as_millis() as i64;
        let took = self.median();
        let mut fate = Fate::default();
        let mut holds = self.holds.iter().peekable();
        let mut newest = (self.first_point.unwrap_or(from), from);
        let mut cut = from.max(newest.0 + interval);
        loop {
            let end = holds.peek().map_or(until, |hold| hold.from);
            if cut < end
                && let Some(arrived) = self.arrival(cut, took, end, schedule, &mut fate)
            {
                fate.aged(newest, arrived, interval);
                fate.deltas += 1;
                newest = (cut, arrived);
                fate.rpo.push((arrived, (arrived - cut) as f64 / 1_000.0));
                cut = (cut + interval).max(arrived);
                continue;
            }
            let Some(hold) = holds.next() else { break };
            if let Some(point) = hold.point {
                fate.aged(newest, hold.until, interval);
                newest = (point, hold.until);
            }
            cut = hold.until.max(newest.0 + interval);
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
        let (mut attempt, mut first, mut nth) = (cut, None, 0);
        while let Some(outage) = self.outage_at(attempt) {
            let failed = attempt + outage.fails_after;
            fate.failed_attempts += u64::from(failed < end);
            let first = *first.get_or_insert(failed);
            let mut rungs =
                (nth..RETRIES_MAX).map(|nth| (nth + 1, first + schedule.minute(nth) * MINUTE_MS));
            let rung = rungs.find(|(_, due)| failed < *due);
            let rung = rung.filter(|_| !outage.needs_somebody);
            let next = outage.nudged_after(failed, schedule);
            attempt = match (rung, next) {
                (Some((_, due)), Some(nudge)) if nudge < due => nudge,
                (Some((rung, due)), _) => {
                    nth = rung;
                    due
                }
                (None, nudge) => nudge?,
            };
            if end <= attempt {
                return None;
            }
            fate.retry_minutes.push((attempt - first) / MINUTE_MS);
        }
        Some(attempt + took).filter(|arrived| *arrived <= end)
    }

    fn outage_at(&self, at: i64) -> Option<&Outage> {
        self.outages.iter().find(|outage| (outage.from..outage.until).contains(&at))
    }

    fn median(&self) -> i64 {
        let mut durations = self.durations.clone();
        durations.sort_unstable();
        durations.get(durations.len() / 2).copied().unwrap_or(0)
    }
}

impl Outage {
    /// When it is tried out of turn, after an attempt that failed then.
    fn nudged_after(&self, failed: i64, schedule: &Schedule) -> Option<i64> {
        let mut nudges = self.nudges.iter();
        let counts = |of_monitor: bool| schedule.when_the_cause_ends || !of_monitor;
        nudges.find(|(at, of_monitor)| failed <= *at && counts(*of_monitor)).map(|(at, _)| *at)
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
        let outage = Outage { from: 600_000, until: 1_500_000, ..Outage::default() };
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
        seen.outages[0].nudges.push((1_500_000, true));
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
