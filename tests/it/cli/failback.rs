//! The way back to another host than the one that a VM came from, from the command line.

use super::operate::Operated;
use super::{Running, done};
use lifeboat::disk::nbd::NbdDisk;
use lifeboat::ports::block::BlockDevice;
use serde_json::Value;
use std::fs;

const KIB: u64 = 1 << 10;

/// A VM that somebody else runs and one of the lab, with a host that has none.
const SITE: &str = r#"
[[network]]
name = "web"
subnet = [{ name = "front", range = "10.0.1.0/24" }]
[[recovery.network]]
name = "dr"
subnet = [{ name = "front", range = "10.0.1.0/24" }]
[[host]]
name = "host-1"
[[host.vm]]
name = "db-01"
disk = [{ name = "data", path = "disks/db-01.img", create_mib = 4 }]
[[host.vm]]
name = "web-01"
machine = { nic = [{ name = "eth0", network = "web", subnet = "front", address = "10.0.1.20" }] }
disk = [{ name = "os", path = "disks/web-01.img", create_mib = 4 }]
guest = { seed = 1, install_mib = 1, writes_per_second = 50 }
[[host]]
name = "host-2"
"#;

fn read(disk: &NbdDisk, offset: u64) -> u8 {
    let mut bytes = [0; 4096];
    disk.read_at(&mut bytes, offset).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

fn move_away(operated: &Operated, vm: &str) {
    operated.done(&["failover", "planned", vm, "-y", "--wait"]);
    operated.done(&["failover", "commit", vm, "-y", "--wait"]);
}

#[test]
fn a_vm_comes_back_to_another_host_survives_a_kill_and_is_replicated_from_there() {
    let operated = Operated::of(SITE, &["db-01"]);
    operated.connect("", "db-01-data").write_at(&[1; 4096], 0, true).unwrap();
    move_away(&operated, "db-01");
    operated.connect("recovery", "db-01-data").write_at(&[2; 4096], 64 * KIB, true).unwrap();
    let left = operated.place.data().join("disks/db-01.img");
    let before = fs::read(&left).unwrap();

    let begin = ["failback", "begin", "db-01", "--to-host", "host-2"];
    let (_, unknown) = operated.ends(&["failback", "begin", "db-01", "--to-host", "host-3"], 3);
    assert!(unknown.contains("host host-3 does not exist"), "{unknown}");
    let dry = operated.done(&[&begin[..], &["--dry-run"]].concat());
    for verdict in [
        "ok  host host-2 answers",
        "ok  host-2 is of the cloud of db-01",
        "ok  host-2 knows no other VM called db-01",
        "ok  host-2 has room for the disks of db-01",
        "its disks (4.0 MiB) are made there",
        "What host-1 has stays as it is",
        "disks/db-01.img",
    ] {
        assert!(dry.contains(verdict), "{verdict}: {dry}");
    }
    operated.done(&[&begin[..], &["-y", "--wait"]].concat());
    operated.connect("recovery", "db-01-data").write_at(&[3; 4096], 128 * KIB, true).unwrap();

    let Operated { place, service } = operated;
    service.kill();
    let operated = Operated { service: Running::serve(&place.config()), place };
    operated.until("db-01", |vm| {
        vm["state"] == "WaitingForUserInputAfterDataSync" && vm["health"] == "Normal"
    });
    operated.done(&["failback", "complete", "db-01", "-y", "--wait"]);
    let disk = operated.connect("", "db-01-data");
    assert_eq!([0, 64, 128, 192].map(|at| read(&disk, at * KIB)), [1, 2, 3, 0]);
    operated.done(&["failover", "commit", "db-01", "-y", "--wait"]);
    operated.done(&["failback", "reverse", "db-01", "--wait"]);
    let on_other_host = |vm: &Value| {
        vm["state"] == "Protected"
            && vm["host"] == "host-2"
            && vm["left_hosts"] == Value::Array(vec![])
    };
    operated.until("db-01", on_other_host);

    // Started again, the agent of the host before leaves the VM alone, which is written to at the other.
    let Operated { place, service } = operated;
    service.stop();
    let operated = Operated { service: Running::serve(&place.config()), place };
    operated.until("db-01", |vm| on_other_host(vm) && vm["health"] == "Normal");
    operated.connect("", "db-01-data").write_at(&[4; 4096], 192 * KIB, true).unwrap();
    let cycle = |vm: &Value| vm["latest_recovery_point"]["cycle"].as_u64().unwrap();
    let before_write = cycle(&operated.json(&["vm", "show", "db-01"]));
    // The delta under way may have been cut before.
    operated.until("db-01", |vm| before_write + 1 < cycle(vm));
    assert!(fs::read(&left).unwrap() == before, "the disks of the host before were written");
    let Operated { place, service } = operated;
    service.stop();
    let (vault, copy) = (place.data().join("vault"), place.file("copy.img"));
    let export = ["vault", "export", "db-01", "--disk", "data", "--point", "latest"];
    done(&[&export[..], &["--to", &copy, "--vault", vault.to_str().unwrap()]].concat());
    let bytes = fs::read(&copy).unwrap();
    let at = |place: u64| bytes[(place * KIB) as usize];
    assert_eq!([at(0), at(64), at(128), at(192)], [1, 2, 3, 4]);
}

#[test]
fn a_guest_comes_back_into_its_network_at_a_host_where_its_disks_are_made() {
    let operated = Operated::of(SITE, &["web-01"]);
    operated.done(&["network-mapping", "set", "web", "--to", "dr"]);
    move_away(&operated, "web-01");
    let begin = ["failback", "begin", "web-01", "--to-host", "host-2"];
    let dry = operated.done(&[&begin[..], &["--dry-run"]].concat());
    let place = "eth0 (primary) in web/front with 10.0.1.20";
    assert!(dry.contains("at the primary site: ") && dry.contains(place), "{dry}");
    operated.done(&[&begin[..], &["-y", "--wait"]].concat());
    let shown = operated.done(&["vm", "show", "web-01"]);
    assert!(shown.contains("failback gets") && shown.contains("host-2, "), "{shown}");
    // Given up, it is that of the host before, and what was made stays for the next time.
    operated.done(&["failback", "cancel", "web-01"]);
    assert_eq!(operated.json(&["vm", "show", "web-01"])["host"], "host-1");
    let dry = operated.done(&[&begin[..], &["--dry-run"]].concat());
    assert!(dry.contains("hosts/host-2/web-01/os.img) is overwritten"), "{dry}");
    operated.done(&[&begin[..], &["-y", "--wait"]].concat());
    // A guest that does not find all that it wrote does not start.
    operated.done(&["failback", "complete", "web-01", "-y", "--wait"]);
    operated.done(&["failover", "commit", "web-01", "-y", "--wait"]);
    operated.done(&["failback", "reverse", "web-01", "--wait"]);
    operated.until("web-01", |vm| {
        vm["state"] == "Protected" && vm["health"] == "Normal" && vm["host"] == "host-2"
    });
}
