//! The same site twice: as it was some time ago, beside what became of it since.

use super::super::dice::{Dice, keyed};
use super::super::ghost::Ghost;
use super::{Host, INSTALL_BYTES, Machine, Outside, State};
use crate::drivers::lab::Workload;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

impl Outside {
    /// The site as it is at this moment, down: another set of the same hosts and VMs, over the same vault and the
    /// same ways to it. What its guests write from here on is nothing that the others ever write.
    pub(in crate::sim) fn copied(&self) -> io::Result<Arc<Self>> {
        let seed = self.dice.next("a second site");
        let state = self.state();
        let hosts = state.hosts.iter().map(|(id, host)| (*id, host.copied()));
        let vms = state.vms.iter().map(|(id, machine)| Ok((*id, machine.copied(seed)?)));
        let copy = State {
            hosts: hosts.collect(),
            vms: vms.collect::<io::Result<_>>()?,
            life: None,
            // It has lived before: its recovery site is found as it was left.
            lives: state.lives,
            rtt_ms: state.rtt_ms,
            bytes_per_ms: state.bytes_per_ms,
            limits: state.limits,
        };
        Ok(Arc::new(Self {
            clock: Arc::clone(&self.clock),
            dice: Arc::new(Dice::new(seed)),
            inline: Arc::clone(&self.inline),
            storage: self.storage.clone(),
            ghost: Ghost::default(),
            plant: None,
            vault: self.vault,
            cloud: self.cloud,
            proof: self.proof.clone(),
            state: Mutex::new(copy),
            recovery: self.recovery.copy(),
            under_way: Mutex::default(),
        }))
    }
}

impl Host {
    fn copied(&self) -> Self {
        Self {
            name: self.name.clone(),
            cluster: self.cluster.clone(),
            disk: self.disk.copy(),
            files: self.files.clone(),
            upset: watch::Sender::new(0),
            ..*self
        }
    }
}

impl Machine {
    fn copied(&self, seed: u64) -> io::Result<Self> {
        let seed = keyed(seed, &self.name, 0);
        let sizes = self.workload.disks().to_vec();
        Ok(Self {
            workload: Workload::new(seed, sizes, INSTALL_BYTES).map_err(io::Error::other)?,
            torn: self.torn || self.runs,
            runs: false,
            tracker: None,
            away: None,
            strays: BTreeSet::new(),
            ..self.clone()
        })
    }
}
