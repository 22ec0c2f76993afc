//! Networks, addresses, sizes and prerequisites of a running service, from the command line.

use super::operate::Operated;
use super::text;

/// Two VMs that write by themselves, in networks that are not mapped yet, and one that cannot be protected.
const SITE: &str = r#"
[[network]]
name = "web"
logical = "production"
subnet = [{ name = "front", range = "10.0.1.0/24" }]
[[network]]
name = "db"
subnet = [{ name = "front", range = "10.0.1.0/24" }]

[[recovery.network]]
name = "dr"
subnet = [{ name = "zone", range = "10.0.9.0/24" }, { name = "front", range = "10.0.1.0/24" }]
[[recovery.network]]
name = "lab"
isolated = true
subnet = [{ name = "front", range = "10.0.1.0/24" }]
[[recovery.size]]
name = "large"
cores = 8
memory_mib = 32768
data_disks = 8
nics = 4
[[recovery.size]]
name = "small"
cores = 1
memory_mib = 2048
data_disks = 2
nics = 1

[[host]]
name = "host-1"
[[host.vm]]
name = "web-01"
machine = { nic = [{ name = "eth0", network = "web", subnet = "front", address = "10.0.1.20" }] }
disk = [{ name = "os", path = "disks/web-01.img", create_mib = 4 }]
guest = { seed = 1, install_mib = 1, writes_per_second = 20 }
[[host.vm]]
name = "db-01"
machine = { cores = 4, nic = [{ name = "eth0", network = "db", address = "10.0.1.20" }] }
disk = [{ name = "os", path = "disks/db-01.img", create_mib = 4 }]
guest = { seed = 2, install_mib = 1, writes_per_second = 20 }
[[host.vm]]
name = "old-01"
machine = { architecture = "x86", features = ["ipv6"] }
disk = [{ name = "os", path = "disks/old-01.img", create_mib = 4, traits = { encrypted = true } }]
"#;

#[test]
fn what_a_replica_gets_is_told_chosen_and_used() {
    let operated = Operated::of(SITE, &["web-01", "db-01"]);
    let listed = operated.done(&["network-mapping", "list"]);
    assert!(listed.contains("none") && listed.contains("web-01"), "{listed}");
    let status = operated.done(&["status"]);
    assert!(status.contains("network web is mapped to none"), "{status}");
    let unplanned = ["failover", "unplanned", "web-01"];
    let dry = operated.done(&[&unplanned[..], &["--dry-run"]].concat());
    assert!(dry.contains("eth0 (primary) not connected"), "{dry}");
    assert!(dry.contains("lifeboat network-mapping set web --to"), "{dry}");

    let nowhere = ["failover", "test", "web-01", "--network", "nowhere", "--dry-run"];
    let (dry, _) = operated.ends(&nowhere, 5);
    assert!(dry.contains("test-failover of web-01: allowed, but a check says no"), "{dry}");

    operated.ends(&["network-mapping", "set", "web", "--to", "nowhere"], 3);
    operated.ends(&["network-mapping", "set", "home", "--to", "dr"], 3);
    let would = ["network-mapping", "set", "web", "--to", "dr", "--dry-run"];
    let would = operated.done(&would);
    assert!(would.contains("replicas go into dr: web-01"), "{would}");
    operated.done(&["network-mapping", "set", "web", "--to", "dr"]);
    assert!(
        operated.done(&["network-mapping", "set", "web", "--to", "dr"]).contains("nothing to do")
    );
    operated.done(&["network-mapping", "set", "db", "--to", "dr"]);
    let shown = operated.done(&["vm", "show", "db-01"]);
    assert!(shown.contains("size large; eth0 (primary) in dr/zone with 10.0.9.1"), "{shown}");
    operated.ends(&["vm", "set", "db-01", "--size", "small"], 2);
    operated.ends(&["vm", "set", "db-01", "--ip", "10.0.1.20"], 2);
    operated.ends(&["vm", "set", "db-01", "--nic", "eth9", "--ip", "10.0.1.20"], 3);
    operated.done(&["vm", "set", "db-01", "--subnet", "front", "--ip", "10.0.1.20"]);
    let clash = operated.done(&["vm", "show", "web-01"]);
    assert!(clash.contains("10.0.1.20 in dr is wanted by db-01 as well"), "{clash}");
    assert!(operated.done(&["status"]).contains("SR-3022"));

    operated.done(&[&unplanned[..], &["-y", "--wait"]].concat());
    let has = operated.done(&["vm", "show", "web-01"]);
    assert!(has.contains("replica has") && has.contains("in dr/front with 10.0.1.20"), "{has}");
    let planned = ["failover", "planned", "db-01"];
    let dry = operated.ends(&[&planned[..], &["--dry-run"]].concat(), 5).0;
    assert!(
        dry.contains("NO  there is a place") && dry.contains("somebody else holds 10.0.1.20"),
        "{dry}"
    );
    operated.ends(&[&planned[..], &["-y", "--wait"]].concat(), 6);
    assert_eq!(
        operated.json(&["vm", "show", "db-01"])["state"],
        "Protected",
        "nothing was changed"
    );
    operated.done(&["vm", "set", "db-01", "--ip", "10.0.1.21", "--size", "large"]);
    operated.done(&[&planned[..], &["-y", "--wait"]].concat());
    let placement = &operated.json(&["vm", "show", "db-01"])["placement"];
    assert_eq!(
        (&placement["size"], &placement["nics"][0]["address"]),
        (&"large".into(), &"10.0.1.21".into())
    );

    operated.done(&["failover", "cancel", "web-01", "-y", "--wait"]);
    assert!(operated.json(&["vm", "show", "web-01"])["placement"].is_null());
    let networks = operated.json(&["network", "list"]);
    let dr =
        networks[1]["networks"].as_array().unwrap().iter().find(|it| it["name"] == "dr").unwrap();
    assert_eq!(dr["addresses_held"], 1, "that of web-01 is free again: {dr}");
}

#[test]
fn a_test_runs_in_an_isolated_network_beside_the_vm() {
    let operated = Operated::of(SITE, &["web-01"]);
    for (network, says) in [("dr", "is not isolated"), ("home", "is none of")] {
        let test = ["failover", "test", "web-01", "--network", network];
        let dry = operated.ends(&[&test[..], &["--dry-run"]].concat(), 5).0;
        assert!(dry.contains(says) && dry.contains("one of: lab"), "{dry}");
        operated.ends(&[&test[..], &["--wait"]].concat(), 6);
    }
    operated.done(&["failover", "test", "web-01", "--network", "lab", "--wait"]);
    let shown = operated.done(&["vm", "show", "web-01"]);
    assert!(
        shown.contains("test copy has") && shown.contains("in lab/front with 10.0.1.20"),
        "{shown}"
    );
    operated.done(&["failover", "cleanup", "web-01", "--wait"]);
    let held = operated.json(&["network", "list"]);
    assert!(!held.to_string().contains("\"addresses_held\":1"), "{held}");
}

#[test]
fn a_vm_that_cannot_be_protected_is_told_every_reason_before_anything_is_copied() {
    let operated = Operated::of(SITE, &["web-01"]);
    assert_eq!(operated.json(&["vm", "show", "old-01"])["state"], "Unprotected");
    let (said, _) = operated.ends(&["vm", "check", "old-01"], 5);
    for failed in ["NO  architecture", "NO  disk-encrypted", "NO  ipv6", "os is encrypted. Decrypt"]
    {
        assert!(said.contains(failed), "{failed}: {said}");
    }
    assert!(said.contains("ok  data-disks"), "{said}");
    let (dry, _) = operated.ends(&["vm", "protect", "old-01", "--dry-run"], 5);
    assert!(dry.contains("NO  disk-encrypted") && dry.contains("ok  vm-name"), "{dry}");
    let (_, talk) = operated.ends(&["vm", "protect", "old-01"], 5);
    assert!(talk.contains("SR-3003 architecture, disk-encrypted, ipv6"), "{talk}");
    operated.done(&["vm", "check", "web-01"]);
}

#[test]
fn a_configuration_of_networks_that_cannot_be_is_refused_with_what_is_wrong() {
    for (wrong, says) in [
        (
            "[[network]]\nname = \"a\"\nsubnet = [{ name = \"s\", range = \"10.0.0.0/33\" }]",
            "10.0.1.0/24",
        ),
        ("[[network]]\nname = \"a\"\n[[network]]\nname = \"a\"", "is there twice"),
        (
            "[[recovery.size]]\nname = \"a\"\ncores = 0\nmemory_mib = 1\ndata_disks = 1\nnics = 1",
            "no cores",
        ),
        (
            "[[host]]\nname = \"h\"\n[[host.vm]]\nname = \"v\"\ndisk = [{ name = \"o\", path = \"p\" }]\nmachine = { nic = [{ name = \"n\", network = \"x\" }] }",
            "no [[network]]",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("site.toml");
        std::fs::write(&file, format!("data = \"d\"\n{wrong}\n")).unwrap();
        let output = super::lifeboat(&["serve", "--check", "--config", file.to_str().unwrap()]);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(says), "{wrong}: {said}");
    }
}

/// What a running service is made of becomes the topology of a scenario, which runs.
#[test]
fn an_exported_topology_runs_as_a_scenario() {
    let operated = Operated::of(SITE, &["web-01", "db-01"]);
    operated.done(&["network-mapping", "set", "web", "--to", "dr"]);
    let folder = tempfile::tempdir().unwrap();
    let (site, run) = (folder.path().join("site.toml"), folder.path().join("run.toml"));
    let said = operated.done(&["simulate", "export-topology", "-o", &site.display().to_string()]);
    assert!(said.contains("1 hosts and 3 VMs"), "{said}");
    let scenario = "title = \"t\"\nwhy = \"w\"\nduration = \"15m\"\nsettle = \"10m\"\n\
                    topology = \"site.toml\"\n\
                    [[at]]\nt = \"10m\"\ndo = \"unplanned_failover\"\nvm = \"web-01\"\n\
                    [[expect]]\nthat = \"networks\"\nvm = \"web-01\"\n\
                    includes = \"eth0 in dr/front with 10.0.1.20\"\n";
    std::fs::write(&run, scenario).unwrap();
    let output = super::lifeboat(&["simulate", &run.display().to_string(), "--seed", "7"]);
    let exported = std::fs::read_to_string(&site).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}{exported}", text(&output.stdout));
    for part in ["small", "db-01", "4MiB", "isolated = true"] {
        assert!(exported.contains(part), "{part:?} is not in: {exported}");
    }
}
