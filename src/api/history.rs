//! The history of jobs of a running service: a view that follows the log.

use super::problem::Problem;
use crate::domain::entity::Commit;
use crate::domain::id::{JobId, VmId};
use crate::domain::time::Timestamp;
use crate::ports::event_store::EventStore;
use crate::views::{Again, Answered, ComplianceView, JobView, Jobs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Jobs that are kept: a site of 100 VMs that fails over every week is known for a year.
const KEPT: usize = 10_000;

/// Commits that are read at a time; other work of the thread goes on in between.
const BATCH: usize = 256;

/// How long a reader waits for a history that is behind, as after a start with a long log.
const PATIENCE: Duration = Duration::from_secs(10);

/// The history, up to some position of the log.
#[derive(Debug)]
pub struct History {
    jobs: Mutex<Jobs>,
    position: watch::Sender<u64>,
}

impl Default for History {
    fn default() -> Self {
        Self { jobs: Mutex::new(Jobs::new(KEPT)), position: watch::Sender::new(0) }
    }
}

impl History {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // A panic while a commit was taken leaves a view that is behind, which is no reason to have none.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next commits of the log.
    fn take(&self, commits: &[Commit]) {
        let mut jobs = self.jobs();
        for commit in commits {
            jobs.apply(commit);
        }
        let reached = jobs.global();
        // Whoever waits looks at the jobs.
        drop(jobs);
        self.position.send_replace(reached);
    }

    /// Waits until everything up to a position of the log is in it.
    ///
    /// # Errors
    /// `ServiceNotReady` if that takes too long.
    pub(super) async fn through(&self, position: u64) -> Result<(), Problem> {
        let mut follows = self.position.subscribe();
        let reached = follows.wait_for(|reached| position <= *reached);
        if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, reached).await {
            return Ok(());
        }
        let because = format!("{} of {position} commits are read", self.jobs().global());
        Err(Problem::not_ready("the history of jobs", because))
    }

    /// Waits until a job has changed after a position of the log, or has ended; so long at most.
    pub(super) async fn changed(&self, job: JobId, after: u64, at_most: Duration) {
        let mut follows = self.position.subscribe();
        let changed = follows.wait_for(|_| {
            let jobs = self.jobs();
            jobs.last_commit(job).is_none_or(|last| after < last) || jobs.ended(job)
        });
        // Too long is as good: whoever asked looks again.
        let _ = tokio::time::timeout(at_most, changed).await;
    }

    pub(super) fn answered(&self, id: JobId) -> Option<Answered> {
        self.jobs().answered(id)
    }

    pub(super) fn job(&self, id: JobId, now: Timestamp) -> Option<JobView> {
        self.jobs().job(id, now)
    }

    /// Compliance of a VM, as far as the log is read.
    pub(super) fn compliance(&self, vm: VmId, now: Timestamp) -> Option<ComplianceView> {
        self.jobs().compliance(vm, now)
    }

    /// The job whose id begins like this, if it is the only one.
    pub(super) fn find(&self, beginning: &str) -> Option<JobId> {
        self.jobs().find(beginning)
    }

    /// How a job is begun again, as another.
    pub(super) fn again(&self, id: JobId, as_job: JobId) -> Option<Again> {
        self.jobs().again(id, as_job)
    }

    /// The VM of a name, as far as the log is read.
    pub(super) fn vm_named(&self, name: &str) -> Option<VmId> {
        self.jobs().vm_named(name)
    }

    pub(super) fn list(
        &self,
        now: Timestamp,
        limit: usize,
        wanted: impl Fn(&JobView) -> bool,
    ) -> Vec<JobView> {
        self.jobs().list(now).filter(wanted).take(limit).collect()
    }
}

/// Follows the log until it stops.
pub async fn follow(store: Arc<dyn EventStore>, history: Arc<History>) {
    loop {
        let position = history.jobs().global();
        match store.read_all(position + 1, BATCH) {
            Ok(commits) if !commits.is_empty() => {
                history.take(&commits);
                tokio::task::yield_now().await;
            }
            Ok(_) => {
                if store.durable_after(position).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, position, "follow the event log for the history of jobs");
                return;
            }
        }
    }
}
