//! A second service: the site as it was some time ago wakes up beside what became of it, over the same vault.
//!
//! It is a copy of everything, service, hosts and disks, and believes what its log says. Nothing but the vault
//! can stop it: where the other one has closed a replica since, nothing that the second one sends may become part
//! of it.

use super::Run;
use crate::domain::id::VmId;
use crate::domain::time::Timestamp;
use crate::ports::clock::Clock;
use crate::sim::ghost::Invariant;
use crate::sim::run::RunError;
use crate::sim::scenario::{Deed, Step};
use std::rc::Rc;
use std::sync::Arc;
use tokio::task::spawn_local;
use tokio::time::sleep_until;

/// A second service.
pub(super) struct Second {
    run: Run,
    since: Timestamp,
    /// VMs whose replicas had been closed to it when it started.
    closed: Vec<VmId>,
}

impl Run {
    /// Copies the site for every second service of the timeline, at the moment that it will know.
    pub(super) fn prepare_second_services(&self, steps: &[Step]) {
        for (index, step) in steps.iter().enumerate() {
            if *step.r#do.get_ref() != Deed::SecondService {
                continue;
            }
            let back = step.back.map_or(0, |span| span.0);
            let moment = self.outside.clock.moment(step.t.get_ref().0.saturating_sub(back));
            let run = self.clone();
            spawn_local(async move {
                sleep_until(moment).await;
                match run.copied() {
                    Ok(second) => _ = run.seconds.borrow_mut().insert(index, second),
                    Err(error) => run.remark(format!("a second service cannot be: {error}")),
                }
            });
        }
    }

    fn copied(&self) -> Result<Second, RunError> {
        let outside = self.outside.copied()?;
        let journal = Arc::new(self.journal.copied(Arc::clone(&outside))?);
        let run = Self::of(Rc::clone(&self.scenario), self.options, outside, journal);
        Ok(Second { run, since: Timestamp::default(), closed: vec![] })
    }

    pub(super) async fn start_second_service(&self, index: usize) {
        let Some(mut second) = self.seconds.borrow_mut().remove(&index) else { return };
        second.since = self.outside.clock.now();
        let is_closed = |vm: &VmId| second.run.known(*vm).epoch < self.known(*vm).epoch;
        second.closed = self.outside.vm_ids().into_iter().filter(is_closed).collect();
        second.run.start_service().await;
        let service = Rc::clone(&second.run.service);
        second.run.run_guests(move || service.borrow().is_some());
        self.seconds.borrow_mut().insert(index, second);
    }

    /// The second service ends, and what became of it is told.
    pub(super) async fn end_second_service(&self, index: usize) {
        let Some(second) = self.seconds.borrow_mut().remove(&index) else { return };
        second.run.kill_service().await;
        for id in self.outside.vm_ids() {
            let failures = second.run.journal.observer().figures(id).failures;
            self.journal.observer().second_service_met(id, failures);
        }
        for id in &second.closed {
            let vm = second.run.known(*id);
            if let Some(point) = vm.points.iter().find(|point| second.since <= point.at) {
                let what = format!(
                    "a second service made recovery point {} of {}, whose replica was closed to it",
                    point.cycle, vm.name
                );
                self.broken(Invariant::OnePrimary, what);
            }
        }
    }
}
