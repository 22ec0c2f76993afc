//! Disks that grow, ordered from the command line.

use super::operate::Operated;
use super::{Running, done};
use lifeboat::ports::block::BlockDevice;
use std::fs;

const MIB: u64 = 1 << 20;

/// A VM that somebody else runs, beside one of the lab.
const SITE: &str = r#"
[[host]]
name = "host-1"
[[host.vm]]
name = "db-01"
disk = [{ name = "data", path = "disks/db-01.img", create_mib = 4 }]
[[host.vm]]
name = "web-01"
disk = [{ name = "os", path = "disks/web-01.img", create_mib = 4 }]
guest = { seed = 1, install_mib = 1, writes_per_second = 50 }
"#;

fn list(operated: &Operated, vm: &str) -> String {
    operated.done(&["vm", "disk", "list", vm])
}

#[test]
fn a_disk_grows_online_survives_a_kill_and_earlier_points_keep_its_size() {
    let operated = Operated::of(SITE, &["db-01", "web-01"]);
    operated.connect("", "db-01-data").write_at(&[1; 4096], 0, true).unwrap();
    operated.done(&["vm", "take-point", "db-01"]);
    let resize = ["vm", "disk", "resize", "db-01", "data"];
    let (_, no) = operated.ends(&[&resize[..], &["--to", "2MiB"]].concat(), 2);
    assert!(no.contains("cannot shrink"), "{no}");
    operated.ends(&["vm", "disk", "resize", "db-01", "none", "--to", "8MiB"], 3);
    let dry = operated.done(&[&resize[..], &["--to", "8MiB", "--dry-run"]].concat());
    assert!(dry.contains("becomes 8.0 MiB large"), "{dry}");
    assert!(list(&operated, "db-01").contains("4MiB"));

    operated.done(&[&resize[..], &["--to", "8MiB", "--wait", "--timeout", "30s"]].concat());
    assert!(list(&operated, "db-01").contains("8MiB"));
    let disk = operated.connect("", "db-01-data");
    assert_eq!(disk.size_bytes(), 8 * MIB);
    disk.write_at(&[2; 4096], 8 * MIB - 4096, true).unwrap();

    // A guest goes on with what it was made for, on a disk that is larger.
    let guests = ["vm", "disk", "resize", "web-01", "os", "--to", "6MiB", "--wait"];
    operated.done(&guests);

    // An image that somebody made longer is taken up when that is asked for, and not before.
    let image = operated.place.data().join("disks/db-01.img");
    fs::File::options().write(true).open(&image).unwrap().set_len(16 * MIB).unwrap();
    let Operated { place, service } = operated;
    service.kill();
    let service = Running::serve(&place.config());
    let operated = Operated { place, service };
    operated.until("db-01", |vm| vm["state"] == "Protected" && vm["health"] == "Normal");
    assert!(list(&operated, "db-01").contains("8MiB"));
    operated.done(&[&resize[..], &["--wait", "--timeout", "30s"]].concat());
    assert_eq!(operated.connect("", "db-01-data").size_bytes(), 16 * MIB);
    operated.until("web-01", |vm| vm["state"] == "Protected" && vm["health"] == "Normal");
    operated.done(&["failover", "planned", "web-01", "-y", "--wait", "--timeout", "60s"]);

    let Operated { place, service } = operated;
    assert_eq!(service.stop().code(), Some(0));
    let vault = place.data().join("vault");
    let export = |point: &str| {
        let file = place.file(&format!("{point}.img"));
        let vault = vault.to_str().unwrap();
        done(&[
            "vault", "export", "db-01", "--disk", "data", "--point", point, "--to", &file,
            "--vault", vault,
        ]);
        fs::read(file).unwrap()
    };
    assert_eq!(export("1").len() as u64, 4 * MIB);
    let latest = export("latest");
    assert_eq!(latest.len() as u64, 16 * MIB);
    assert_eq!((latest[0], latest[8 * MIB as usize - 1]), (1, 2));
}

#[test]
fn a_disk_is_added_online_survives_a_kill_without_being_configured_and_fails_over() {
    let operated = Operated::of(SITE, &["db-01", "web-01"]);
    let image = |name: &str, bytes: u64| {
        let path = operated.place.file(name);
        fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    };
    let logs = image("logs.img", 8 * MIB);
    let add = |vm: &str, disk: &str, image: &str, more: &[&str]| {
        let order = ["vm", "disk", "add", vm, disk, "--image", image];
        [&order[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let ends = |arguments: Vec<String>, code| {
        operated.ends(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), code)
    };
    let missing = operated.place.file("none.img");
    for (image, says) in [
        (&missing, "SR-2004"),
        (&image("odd.img", MIB + 1), "not a multiple of 512"),
        (&operated.place.file("data/disks/web-01.img"), "SR-2006"),
    ] {
        let (_, talk) = ends(add("db-01", "logs", image, &[]), 5);
        assert!(talk.contains(says), "{talk}");
    }
    let (_, talk) = ends(add("db-01", "data", &logs, &[]), 5);
    assert!(talk.contains("the configuration has disk data"), "{talk}");
    // All verdicts at once.
    let (dry, _) = ends(add("db-01", "logs", &missing, &["--dry-run"]), 5);
    assert!(dry.contains("the image can be a disk") && dry.contains("host-1 answers"), "{dry}");
    let (dry, _) = ends(add("db-01", "logs", &logs, &["--dry-run"]), 0);
    assert!(dry.contains("gets disk logs of 8.0 MiB"), "{dry}");
    assert!(!list(&operated, "db-01").contains("logs"));

    operated.connect("", "db-01-data").write_at(&[1; 4096], 0, true).unwrap();
    ends(add("db-01", "logs", &logs, &["--wait", "--timeout", "30s"]), 0);
    assert!(list(&operated, "db-01").contains(&logs), "{}", list(&operated, "db-01"));
    let again = ends(add("db-01", "logs", &logs, &["--dry-run"]), 0).0;
    assert!(again.contains("nothing"), "{again}");
    let (_, talk) = ends(add("web-01", "logs", &logs, &[]), 5);
    assert!(talk.contains("disk logs of db-01"), "{talk}");
    let disk = |operated: &Operated, folder: &str| operated.connect(folder, "db-01-logs");
    disk(&operated, "").write_at(&[2; 4096], 4 * MIB, true).unwrap();
    // A guest goes on with the disks that it was made for.
    let more = image("more.img", 4 * MIB);
    ends(add("web-01", "more", &more, &["--wait", "--timeout", "30s"]), 0);

    let dry = operated.done(&["failover", "unplanned", "db-01", "--point", "1", "--dry-run"]);
    assert!(dry.contains("without disk logs"), "{dry}");

    let Operated { place, service } = operated;
    service.kill();
    let service = Running::serve(&place.config());
    let operated = Operated { place, service };
    for vm in ["db-01", "web-01"] {
        operated.until(vm, |vm| vm["state"] == "Protected" && vm["health"] == "Normal");
    }
    assert!(list(&operated, "db-01").contains("8MiB"));
    let mut found = [0; 4096];
    disk(&operated, "").read_at(&mut found, 4 * MIB).unwrap();
    assert_eq!(found, [2; 4096]);
    disk(&operated, "").write_at(&[3; 4096], 0, true).unwrap();
    for vm in ["db-01", "web-01"] {
        operated.done(&["failover", "planned", vm, "-y", "--wait", "--timeout", "60s"]);
    }
    let served = disk(&operated, "recovery");
    for (offset, byte) in [(0, 3), (4 * MIB, 2), (8 * MIB - 4096, 0)] {
        served.read_at(&mut found, offset).unwrap();
        assert_eq!(found, [byte; 4096], "at {offset}");
    }
    drop(served);
    assert_eq!(operated.service.stop().code(), Some(0));
}
