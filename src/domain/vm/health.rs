//! The health of a VM: a level with every cause that holds, never a colour without a reason.

use super::{NextStep, Opening, Phase, ResyncReason, Stage, Vm};
use crate::domain::catalogue::{self, Code};
use crate::domain::job::Step;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How well the VM is protected at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Health {
    /// It is not protected, or runs at the recovery site.
    NotApplicable,
    /// It is replicated as the policy says.
    Normal,
    /// Something may come to hurt its protection.
    Warning,
    /// It is not being protected.
    Critical,
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotApplicable => "N/A",
            Self::Normal => "Normal",
            Self::Warning => "Warning",
            Self::Critical => "Critical",
        })
    }
}

/// One reason for a level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCause {
    /// The level that it stands for.
    pub level: Health,
    /// The entry of the catalogue that says more of it.
    pub code: Code,
    /// What is the case.
    pub because: String,
    /// What happens if nobody does anything.
    pub next: String,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
}

/// Copy intervals without a recovery point after which a VM is in Warning, and in Critical.
/// Source: the replication alerts of disaster-recovery dashboards built on Ramen, which compare the
/// age of the last synchronization with its schedule: more than 2 warns, 3 and more is critical.
const LATE_WARNING: u32 = 2;
const LATE_CRITICAL: u32 = 3;

/// Below this age a recovery point is never called late: with a copy frequency of a few seconds, one
/// slow delta is not an incident.
const LATE_FLOOR: Duration = Duration::from_secs(30);

const EARLIER: &str = "earlier recovery points can be used";
const NO_EARLIER: &str = "until then there is no recovery point to fail over to";
const SUSPECT: &str =
    "earlier recovery points are kept until another copy has one, and may be damaged";

fn resync_because(reason: &ResyncReason) -> String {
    match reason {
        ResyncReason::ReplicaSuspect(_) => reason.to_string(),
        ResyncReason::LogWriteFailed(_)
        | ResyncReason::LogDamaged(_)
        | ResyncReason::LogMissing(_)
        | ResyncReason::PowerLoss
        | ResyncReason::LogsTooLarge(_)
        | ResyncReason::DiskChanged(_) => {
            format!("the replica lost track of the disks: {reason}")
        }
    }
}

impl Vm {
    /// Age of the newest recovery point: what would be lost if the site were lost at `now`.
    pub fn rpo(&self, now: Timestamp) -> Option<Duration> {
        match self.phase {
            Phase::Protected
            | Phase::Resynchronizing(_)
            | Phase::Finalizing
            | Phase::FailbackReady
            | Phase::FailbackCommitPending
            | Phase::FailedBack => self.latest_point().map(|point| now.since(point.at)),
            Phase::Undiscovered
            | Phase::Unprotected
            | Phase::Enabling
            | Phase::InitialReplication
            | Phase::FailingOver(_)
            | Phase::CommitPending(_)
            | Phase::FailedOver(_)
            | Phase::CancellingFailover
            | Phase::FailingBack
            | Phase::Disabling
            | Phase::UnprotectedAtRecovery => None,
        }
    }

    /// Every cause that holds at `now`, the worst first.
    pub fn health_causes(&self, now: Timestamp) -> Vec<HealthCause> {
        let mut causes = Vec::new();
        causes.extend(self.trouble_cause());
        causes.extend(self.phase_cause());
        causes.extend(self.late_cause(now));
        causes.extend(self.interval_causes(now));
        causes.extend(self.background_causes());
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.level));
        causes
    }

    /// The worst level of all causes.
    pub fn health(&self, now: Timestamp) -> Health {
        let good = match self.phase {
            Phase::Undiscovered
            | Phase::Unprotected
            | Phase::FailedOver(_)
            | Phase::UnprotectedAtRecovery => Health::NotApplicable,
            Phase::Enabling
            | Phase::InitialReplication
            | Phase::Finalizing
            | Phase::Protected
            | Phase::Resynchronizing(_)
            | Phase::FailingOver(_)
            | Phase::CommitPending(_)
            | Phase::CancellingFailover
            | Phase::FailingBack
            | Phase::FailbackReady
            | Phase::FailbackCommitPending
            | Phase::FailedBack
            | Phase::Disabling => Health::Normal,
        };
        self.health_causes(now).first().map_or(good, |cause| cause.level)
    }

    fn trouble_cause(&self) -> Option<HealthCause> {
        let trouble = self.trouble.as_ref()?;
        let entry = catalogue::entry(trouble.failure.code);
        let level = match (trouble.next, entry.level) {
            (NextStep::Administrator, _) | (_, catalogue::Level::Critical) => Health::Critical,
            (NextStep::RetryAt(_) | NextStep::Trying, catalogue::Level::Warning) => Health::Warning,
        };
        let attempt = trouble.attempt;
        let next = match trouble.next {
            NextStep::RetryAt(due) => format!("attempt {} at {due}; {}", attempt + 1, entry.next),
            NextStep::Trying => format!("attempt {} is running", attempt + 1),
            NextStep::Administrator => format!("{} {}", entry.next, entry.action),
        };
        let since = Some(trouble.since);
        let (code, because) = (trouble.failure.code, trouble.failure.to_string());
        Some(HealthCause { level, code, because, next, since })
    }

    fn phase_cause(&self) -> Option<HealthCause> {
        let (level, code, because, next) = match &self.phase {
            Phase::Enabling if self.copy_due.is_some() => (
                Health::Warning,
                Code::FirstPointMissing,
                "its initial replication has not begun".to_owned(),
                self.copy_due.map_or(String::new(), |due| format!("it begins at {due}")),
            ),
            Phase::InitialReplication | Phase::Enabling | Phase::Finalizing => (
                Health::Warning,
                Code::FirstPointMissing,
                "the first recovery point is not complete".to_owned(),
                "it is when the initial replication has ended".to_owned(),
            ),
            Phase::Resynchronizing(reason) => {
                (Health::Critical, Code::OutOfStep, resync_because(reason), self.resync_next())
            }
            Phase::FailingOver(_) if self.held_off && self.failover_waits_for_plan() => (
                Health::Warning,
                Code::StartHeld,
                "the VM was shut down for its failover, which waits for its recovery plan"
                    .to_owned(),
                "it goes on when the plan has done what it does between, or release it by hand"
                    .to_owned(),
            ),
            Phase::FailingOver(_) if self.failover_waits_for_plan() => (
                Health::Warning,
                Code::StartHeld,
                "the VM could start at the recovery site and waits for its recovery plan"
                    .to_owned(),
                "the plan starts it when its group's turn comes, or release it by hand".to_owned(),
            ),
            Phase::FailingOver(_) => (
                Health::Warning,
                Code::FailoverRunning,
                "the VM is being failed over and is not replicated meanwhile".to_owned(),
                "it runs at the recovery site when the job has ended".to_owned(),
            ),
            Phase::CommitPending(_) => (
                Health::Warning,
                Code::CommitRequired,
                "the VM runs at the recovery site and is not replicated".to_owned(),
                "commit the failover when the VM works as it should".to_owned(),
            ),
            Phase::CancellingFailover => (
                Health::Warning,
                Code::FailoverBeingUndone,
                "the failover is being undone and the VM is off meanwhile".to_owned(),
                "it is started at the primary site, then replicated again".to_owned(),
            ),
            Phase::FailingBack => (
                Health::Warning,
                Code::FailbackRunning,
                "the VM is being failed back and is not replicated meanwhile".to_owned(),
                "its disks at the primary site are brought into step".to_owned(),
            ),
            Phase::FailbackCommitPending => (
                Health::Warning,
                Code::CommitRequired,
                "the VM runs at the primary site again and is not replicated".to_owned(),
                "commit the failback when the VM works as it should".to_owned(),
            ),
            Phase::FailedBack => (
                Health::Warning,
                Code::NotReversed,
                "the VM was failed back and is not replicated; its writes are tracked".to_owned(),
                "reverse the replication to protect it again".to_owned(),
            ),
            Phase::Protected | Phase::FailbackReady => {
                let Stage::Paused { since } = self.delta.stage else { return None };
                return Some(HealthCause {
                    level: Health::Warning,
                    code: Code::ReplicationPaused,
                    because: "replication was paused; writes are tracked".to_owned(),
                    next: "nothing is sent until it is resumed".to_owned(),
                    since: Some(since),
                });
            }
            Phase::Undiscovered
            | Phase::Unprotected
            | Phase::FailedOver(_)
            | Phase::Disabling
            | Phase::UnprotectedAtRecovery => return None,
        };
        Some(HealthCause { level, code, because, next, since: Some(self.phase_since) })
    }

    /// When the resynchronization begins, or how far it is.
    fn resync_next(&self) -> String {
        let earlier = match (self.points.is_empty(), &self.resync.suspect) {
            (true, _) => NO_EARLIER,
            (false, None) => EARLIER,
            (false, Some(_)) => SUSPECT,
        };
        match self.resync.waits_for {
            Some(Opening::At(due)) => {
                return format!(
                    "it is resynchronized at {due}, in the window {}, or at once by hand; {earlier}",
                    self.resync.window
                );
            }
            Some(Opening::ByHand) => {
                return format!("it waits until its resynchronization is begun by hand; {earlier}");
            }
            None if self.is_resync_paused() => {
                return format!("its resynchronization is paused, until it is resumed; {earlier}");
            }
            None => {}
        }
        let tasks = self.job.iter().flat_map(|job| &job.tasks);
        let disks = tasks.filter_map(|task| match task.step {
            Step::CompareDisk(disk) | Step::CopyDisk(disk) => {
                let size = self.disks.iter().find(|known| known.id == disk)?.size_bytes;
                Some((task.done_bytes(size), size))
            }
            _ => None,
        });
        let (done, all) = disks.fold((0, 0), |sum, disk| (sum.0 + disk.0, sum.1 + disk.1));
        let different = self.resync.different_bytes;
        format!(
            "the disks are being resynchronized, {} of {} MiB so far, {} MiB of finished disks \
             differed; {earlier}",
            done >> 20,
            all >> 20,
            different >> 20,
        )
    }

    /// What goes wrong beside replication, which goes on.
    fn background_causes(&self) -> impl Iterator<Item = HealthCause> {
        let missed = self.quiescence.missed.iter().filter(|_| self.phase == Phase::Protected);
        let lost = self.resync.lost.iter().map(|reason| HealthCause {
            level: Health::Critical,
            code: Code::OutOfStep,
            because: resync_because(reason),
            next: "the disks are compared with the replica when replication goes on".to_owned(),
            since: None,
        });
        let test = self.test.iter().filter(|test| test.retry_at.is_some());
        let test = test.filter_map(|test| {
            Some(HealthCause {
                level: Health::Warning,
                code: Code::TestNotCleanedUp,
                because: format!("the test failover is not cleaned up: {}", test.failure.as_ref()?),
                next: format!("it is tried again at {}", test.retry_at?),
                since: Some(test.job.started_at),
            })
        });
        // Where nothing is to be freed, what kept it from being is no concern.
        let space = self.space.iter().filter(|_| self.reclaims_space());
        // And where nothing is logged, so is the volume that the logs would be on.
        let log_volume = self.log_volume.iter().filter(|_| self.is_tracked());
        let background =
            missed.chain(space).chain(log_volume).map(|(since, failure)| HealthCause {
                level: Health::Warning,
                code: failure.code,
                because: failure.to_string(),
                next: catalogue::entry(failure.code).next.to_owned(),
                since: Some(*since),
            });
        background.chain(lost).chain(test)
    }

    /// Cycles that were left out or took long in the present interval, even where the newest recovery point is young
    /// again.
    fn interval_causes(&self, now: Timestamp) -> Vec<HealthCause> {
        let (Phase::Protected | Phase::FailbackReady) = self.phase else { return vec![] };
        let Some(interval) = self.statistics_at(now).current else { return vec![] };
        let cause = |code, because, next| HealthCause {
            level: Health::Warning,
            code,
            because,
            next,
            since: Some(interval.since),
        };
        let missed = interval.misses_too_many(self.policy.copy_frequency()).then(|| {
            let because = format!("{} of {} cycles were missed", interval.missed, interval.total());
            let next = format!("they are counted until {}; replication goes on", interval.ends);
            cause(Code::CyclesMissed, because, next)
        });
        let slow = interval.too_slow().map(|latency| {
            let seconds = latency.as_secs();
            let because = format!(
                "a cycle takes {seconds} s to its recovery point on average, 300 s are normal"
            );
            let next = format!("it is measured until {}; replication goes on", interval.ends);
            cause(Code::LatencyHigh, because, next)
        });
        missed.into_iter().chain(slow).collect()
    }

    fn late_cause(&self, now: Timestamp) -> Option<HealthCause> {
        let (Phase::Protected | Phase::FailbackReady) = self.phase else { return None };
        let age = self.rpo(now)?;
        let interval = self.policy.copy_frequency();
        let level = if age < LATE_FLOOR || age <= interval * LATE_WARNING {
            return None;
        } else if age < interval * LATE_CRITICAL {
            Health::Warning
        } else {
            Health::Critical
        };
        Some(HealthCause {
            level,
            code: Code::PointLate,
            because: format!(
                "the newest recovery point is {} s old, the policy asks for one every {} s",
                age.as_secs(),
                interval.as_secs()
            ),
            next: "replication goes on with the next delta".to_owned(),
            since: self.latest_point().map(|point| point.at.after(interval)),
        })
    }
}
