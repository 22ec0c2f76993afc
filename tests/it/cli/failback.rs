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
    let begun = operated.done(&[&begin[..], &["-y", "--wait"]].concat());
    assert!(begun.contains("lifeboat failback complete db-01"), "{begun}");
    let status = operated.done(&["status"]);
    assert!(status.contains("Synchronize for failback, waits for somebody"), "{status}");
    let jobs = operated.done(&["job", "list", "--vm", "db-01"]);
    assert!(jobs.contains("WaitingForUserInputAfterDataSync"), "{jobs}");
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

#[test]
fn a_vm_whose_protection_is_ended_at_the_recovery_site_stays_there_on_images_of_its_own() {
    let operated = Operated::of(SITE, &["db-01", "web-01"]);
    operated.connect("", "db-01-data").write_at(&[1; 4096], 0, true).unwrap();
    operated.done(&["failover", "planned", "db-01", "-y", "--wait"]);
    let unprotect = ["vm", "unprotect", "db-01"];
    let (_, refused) = operated.ends(&[&unprotect[..], &["-y"]].concat(), 5);
    assert!(refused.contains("allowed: Commit"), "{refused}");
    operated.done(&["failover", "commit", "db-01", "-y", "--wait"]);
    move_away(&operated, "web-01");
    let disk = operated.connect("recovery", "db-01-data");
    disk.write_at(&[2; 4096], 64 * KIB, true).unwrap();

    let dry = operated.done(&[&unprotect[..], &["--dry-run"]].concat());
    assert!(dry.contains("db-01 stays at the recovery site and runs on meanwhile"), "{dry}");
    operated.done(&[&unprotect[..], &["-y", "--wait"]].concat());
    // Whoever uses the disk is not cut off.
    disk.write_at(&[3; 4096], 128 * KIB, false).unwrap();
    operated.done(&["vm", "unprotect", "web-01", "-y", "--wait"]);
    let stays = |vm: &Value| {
        vm["state"] == "UnprotectedAtRecovery"
            && vm["active_location"] == "Recovery"
            && vm["recovery_points"] == 0
    };
    operated.until("db-01", stays);
    operated.until("web-01", stays);
    let (_, refused) = operated.ends(&["vm", "protect", "db-01"], 5);
    assert!(refused.contains("not protected, at the recovery site"), "{refused}");

    let Operated { place, service } = operated;
    service.kill();
    let operated = Operated { service: Running::serve(&place.config()), place };
    operated.until("db-01", stays);
    let disk = operated.connect("recovery", "db-01-data");
    assert_eq!([0, 64, 128, 192].map(|at| read(&disk, at * KIB)), [1, 2, 3, 0]);
    // At the primary site it is not offered, and its disk there is as it was left.
    let primary = fs::read(operated.place.data().join("disks/db-01.img")).unwrap();
    assert_eq!([0, 64].map(|at: u64| primary[(at * KIB) as usize]), [1, 0]);
    let socket = operated.place.data().join("nbd.sock");
    let uri = format!("nbd+unix:///db-01-data?socket={}", socket.display());
    assert!(NbdDisk::connect(&uri).is_err(), "it could run twice");
}

#[test]
fn a_disk_that_was_added_at_another_host_comes_back_with_its_vm() {
    let operated = Operated::of(SITE, &["db-01"]);
    move_away(&operated, "db-01");
    let come_back = |host: &str| {
        operated.done(&["failback", "begin", "db-01", "--to-host", host, "-y", "--wait"]);
        operated.done(&["failback", "complete", "db-01", "-y", "--wait"]);
        operated.done(&["failover", "commit", "db-01", "-y", "--wait"]);
        operated.done(&["failback", "reverse", "db-01", "--wait"]);
        operated.until("db-01", |vm| vm["state"] == "Protected" && vm["host"] == host);
    };
    let image = |path: &str| {
        let path = operated.place.data().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        fs::canonicalize(path).unwrap().into_os_string().into_string().unwrap()
    };
    let (there, elsewhere) = (image("hosts/host-2/db-01/logs.img"), image("logs.img"));
    let add = |image: &str, code| {
        operated.ends(&["vm", "disk", "add", "db-01", "logs", "--image", image, "--wait"], code).1
    };
    come_back("host-1");
    let refused = add(&there, 5);
    assert!(refused.contains("to another host makes the disk there"), "{refused}");
    move_away(&operated, "db-01");
    come_back("host-2");
    let refused = add(&elsewhere, 5);
    assert!(refused.contains("host-2: put it at") && refused.contains(&there), "{refused}");
    add(&there, 0);
    operated.connect("", "db-01-logs").write_at(&[1; 4096], 64 * KIB, true).unwrap();
    move_away(&operated, "db-01");
    operated.connect("recovery", "db-01-logs").write_at(&[2; 4096], 0, true).unwrap();
    let left = fs::read(&there).unwrap();

    // At the host that has it by the configuration it is made beside that host's other such disks.
    come_back("host-1");
    let disk = operated.connect("", "db-01-logs");
    assert_eq!([0, 64, 128].map(|at| read(&disk, at * KIB)), [2, 1, 0]);
    assert!(operated.place.data().join("hosts/host-1/db-01/logs.img").exists());
    assert!(fs::read(&there).unwrap() == left, "the disks of the host before were written");
    let Operated { place, service } = operated;
    service.kill();
    let operated = Operated { service: Running::serve(&place.config()), place };
    operated.until("db-01", |vm| vm["state"] == "Protected" && vm["health"] == "Normal");
    assert_eq!(read(&operated.connect("", "db-01-logs"), 0), 2);
}
