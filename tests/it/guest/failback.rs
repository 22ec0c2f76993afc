//! A guest that comes back: failed over, it boots from the recovery point and writes at the recovery site,
//! what it wrote is brought to the primary site's disk, and there it boots again. Everything is asked for
//! with the command line of the product.

use super::{Agent, Disk, Lab, Machine, PATIENCE, Replica, command, e2fsck, wait_until};
use serde_json::Value;
use std::fs;

/// Files that the guest writes in each of its lives, at least.
const FILES: u64 = 5;

/// `lifeboat ARGUMENTS vm-01 -y --wait`; it must be done.
fn order(lab: &Lab, arguments: &[&str]) {
    let output = command(env!("CARGO_BIN_EXE_lifeboat"))
        .args(arguments)
        .args(["vm-01", "-y", "--wait", "--timeout", &format!("{}s", PATIENCE.as_secs()), "--data"])
        .arg(lab.data())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
}

/// What `lifeboat vm show` tells.
fn shown(lab: &Lab) -> Value {
    let output = command(env!("CARGO_BIN_EXE_lifeboat"))
        .args(["vm", "show", "vm-01", "-o", "json", "--data"])
        .arg(lab.data())
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn a_guest_that_failed_over_comes_back_with_what_it_wrote_and_is_replicated_again() {
    let test = "a_guest_that_failed_over_comes_back_with_what_it_wrote_and_is_replicated_again";
    let Some(lab) = Lab::new(test) else { return };
    let image = lab.protect();
    let (here, there) = (lab.data().join("nbd.sock"), lab.data().join("recovery/nbd.sock"));
    let primary = Disk::Export { socket: &here, name: "vm-01-os" };
    let recovery = Disk::Export { socket: &there, name: "vm-01-os" };

    let agent = Agent::serve(&lab, "service");
    let mut source = Machine::boot(&lab, "source", primary, "mode=write");
    source.wait_for("WROTE", FILES);
    let replica = Replica::of(&lab.data());
    // What it writes while the point is made need not be in it.
    let at_least = source.number("WROTE");
    replica.wait_for_next_point();

    // The site is given up while the guest writes.
    order(&lab, &["failover", "unplanned"]);
    source.kill();
    order(&lab, &["failover", "commit"]);
    let before = fs::read(&image).unwrap();

    // It writes where it was failed over to, also while the primary's disk is compared and overwritten.
    let mut guest = Machine::boot(&lab, "replica", recovery, "mode=write");
    guest.wait_for("WROTE", 1);
    let recovered = guest.number("VERIFIED");
    assert_eq!(guest.told("VERIFIED").unwrap(), format!("{recovered} of {recovered}"));
    assert!(0 < recovered && at_least <= recovered, "{recovered} of {at_least}");
    guest.wait_for("WROTE", recovered + FILES);
    order(&lab, &["failback", "begin"]);
    guest.wait_for("WROTE", guest.number("WROTE") + FILES);
    let wrote: u64 = guest.power_off("WROTE").parse().unwrap();
    order(&lab, &["failback", "complete"]);
    assert!(before != fs::read(&image).unwrap(), "nothing came back");

    // Here it boots from the disk that it came from, and writes on.
    let mut back = Machine::boot(&lab, "back", primary, "mode=write");
    back.wait_for("WROTE", wrote + FILES);
    assert_eq!(back.told("VERIFIED").unwrap(), format!("{wrote} of {wrote}"));
    order(&lab, &["failover", "commit"]);
    order(&lab, &["failback", "reverse"]);
    let wrote: u64 = back.power_off("WROTE").parse().unwrap();
    wait_until("the VM to be protected", || shown(&lab)["state"] == "Protected");
    replica.wait_for_next_point();
    agent.stop();

    let newest = replica.points().pop().unwrap();
    assert!(replica.content(&newest) == fs::read(&image).unwrap(), "they differ");
    assert_eq!(e2fsck(&["-f", "-n"], &image), Some(0));
    let verified =
        Machine::boot(&lab, "checks", Disk::Image(&image), "mode=verify").ended("VERIFIED");
    assert_eq!(verified, format!("{wrote} of {wrote}"));
}
