//! Clusters: a VM moves to another member, by itself where its host is gone.

use super::guests::flush;
use super::{Outside, Standing};
use crate::domain::id::{HostId, VmId};
use crate::sim::dice::keyed;

/// How long a cluster waits for a member that does not answer, in milliseconds.
const TAKES_OVER_MS: (u64, u64) = (20_000, 60_000);

impl Outside {
    /// The other members of a host's cluster, in order.
    fn other_members(&self, host: HostId) -> Vec<HostId> {
        let state = self.state();
        let cluster = state.hosts.get(&host).and_then(|host| host.cluster.clone());
        let Some(cluster) = cluster else { return vec![] };
        let others = state
            .hosts
            .iter()
            .filter(|(id, other)| **id != host && other.cluster.as_ref() == Some(&cluster));
        others.map(|(id, _)| *id).collect()
    }

    /// Whether two hosts reach the same disks.
    pub(in crate::sim) fn share_disks(&self, one: HostId, other: HostId) -> bool {
        one == other || self.other_members(one).contains(&other)
    }

    /// The name of a host's cluster.
    pub(in crate::sim) fn cluster_of(&self, host: HostId) -> Option<String> {
        self.state().hosts.get(&host).and_then(|host| host.cluster.clone())
    }

    /// How long the cluster of a host that went down waits for it; `None` if it is in none.
    pub(in crate::sim) fn takes_over_after_ms(&self, host: HostId) -> Option<u64> {
        if self.other_members(host).is_empty() {
            return None;
        }
        let what = format!("{} is missed", self.host_name(host));
        Some(self.dice.between(&what, TAKES_OVER_MS.0, TAKES_OVER_MS.1))
    }

    /// Where the VMs of a host that is down can go, with those that are to run.
    pub(in crate::sim) fn taken_over(
        &self,
        host: HostId,
        standing: &dyn Fn(VmId) -> Standing,
    ) -> Option<(HostId, Vec<VmId>)> {
        let is_up = |host: &HostId| {
            let state = self.state();
            state.life.is_some() && state.hosts.get(host).is_some_and(|host| host.up)
        };
        if is_up(&host) {
            return None;
        }
        let to = self.other_members(host).into_iter().find(|other| is_up(other))?;
        let is_to_run =
            |vm: &VmId| self.machine(*vm).host == host && standing(*vm) == Standing::Runs;
        Some((to, self.vm_ids().into_iter().filter(is_to_run).collect()))
    }

    /// Moves a VM to another member: where it was is let go of in good order, if it is still there, and its guest
    /// goes on. Else the member gets what the lost one had on its medium, and the guest boots there.
    ///
    /// # Errors
    /// Why it cannot.
    pub(in crate::sim) fn move_vm(
        &self,
        id: VmId,
        to: HostId,
        standing: Standing,
    ) -> Result<(), String> {
        let machine = self.machine(id);
        let from = machine.host;
        if from == to {
            return Err("it is there".to_owned());
        }
        if !self.other_members(from).contains(&to) {
            return Err("they are in no cluster together".to_owned());
        }
        if !self.answers(to) || self.state().life.is_none() {
            return Err("nobody answers there".to_owned());
        }
        if standing != Standing::Runs {
            return Err("it does not run at the primary site".to_owned());
        }
        let is_there = self.answers(from);
        let ran = machine.runs && is_there;
        if let Some(life) = self.state().life.as_ref() {
            life.sources.detach(id);
        }
        let closed = machine.tracker.as_ref().is_some_and(|tracker| {
            let flushed = flush(&machine, tracker).is_ok();
            tracker.close().is_ok() && flushed
        });
        // What fails of its disks there does not fail here, unless it is said again.
        self.set_failing(id, false);
        let mut state = self.state();
        let forgets = keyed(state.lives, &machine.name, machine.acked);
        let memory = if is_there { None } else { Some(forgets) };
        state.hosts[&from].disk.hand_over(&machine.folder(), &state.hosts[&to].disk, memory);
        if let Some(machine) = state.vms.get_mut(&id) {
            machine.host = to;
            machine.strays.remove(&to);
            machine.tracker = None;
            machine.closed = closed;
            machine.runs = false;
            machine.torn |= !closed;
            if closed {
                machine.flushed = machine.acked;
            }
        }
        drop(state);
        if !closed {
            // It was killed with its host, and boots again before anybody looks at its disks.
            self.attach(id, standing);
            return Ok(());
        }
        self.attach(id, Standing::Tracked);
        let mut state = self.state();
        if let Some(machine) = state.vms.get_mut(&id).filter(|machine| machine.tracker.is_some()) {
            machine.runs = ran;
        }
        Ok(())
    }
}
