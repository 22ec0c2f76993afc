//! Disks that grow, ordered from the command line.

use super::operate::Operated;
use super::{Running, done};
use lifeboat::disk::nbd::NbdDisk;
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

fn connect(operated: &Operated) -> NbdDisk {
    let socket = operated.place.data().join("nbd.sock");
    NbdDisk::connect(&format!("nbd+unix:///db-01-data?socket={}", socket.display())).unwrap()
}

#[test]
fn a_disk_grows_online_survives_a_kill_and_earlier_points_keep_its_size() {
    let operated = Operated::of(SITE, &["db-01", "web-01"]);
    connect(&operated).write_at(&[1; 4096], 0, true).unwrap();
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
    let disk = connect(&operated);
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
    assert_eq!(connect(&operated).size_bytes(), 16 * MIB);
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
