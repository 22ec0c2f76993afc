//! kill -9 of the agent under a guest that writes.

use super::{Agent, Disk, Lab, Machine, Replica, e2fsck};
use std::fs;

const KILLS: u64 = 6;

/// Files that the guest writes between two kills, at least.
const FILES_BETWEEN: u64 = 3;

#[test]
fn a_guest_whose_agent_is_killed_writes_on_and_its_replica_comes_to_equal_its_disk() {
    let test = "a_guest_whose_agent_is_killed_writes_on_and_its_replica_comes_to_equal_its_disk";
    let Some(lab) = Lab::new(test) else { return };
    let image = lab.protect();
    let socket = lab.data().join("nbd.sock");
    let disk = Disk::Export { socket: &socket, name: "vm-01-os" };

    let mut agent = Agent::serve(&lab, "agent-0");
    let mut guest = Machine::boot(&lab, "writes", disk, "mode=write");
    guest.wait_for("WROTE", FILES_BETWEEN);
    for kill in 1..=KILLS {
        agent.kill();
        let before = guest.number("WROTE");
        agent = Agent::serve(&lab, &format!("agent-{kill}"));
        guest.wait_for("WROTE", before + FILES_BETWEEN);
    }
    let wrote: u64 = guest.power_off("WROTE").parse().unwrap();
    assert!(KILLS * FILES_BETWEEN <= wrote);

    let verified = Machine::boot(&lab, "verifies", disk, "mode=verify").ended("VERIFIED");
    assert_eq!(verified, format!("{wrote} of {wrote}"));

    let replica = Replica::of(&lab.data());
    replica.wait_for_next_point();
    agent.stop();
    let newest = replica.points().pop().unwrap();
    assert!(replica.content(&newest) == fs::read(&image).unwrap(), "they differ");
    assert_eq!(e2fsck(&["-f", "-n"], &image), Some(0));
}
