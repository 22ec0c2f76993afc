//! Registration keys, the provider, clusters and the policy of a running service, from the command line.

use super::operate::Operated;
use serde_json::{Value, json};

/// A vault that admits hosts with a key, and a cluster of two.
const SITE: &str = r#"
[vault]
registration = "key"
[[network]]
name = "web"
[[recovery.network]]
name = "dr"
[[host]]
name = "host-1"
cluster = "blue"
[[host.vm]]
name = "web-01"
machine = { nic = [{ name = "eth0", network = "web" }] }
disk = [{ name = "os", path = "disks/web-01.img", create_mib = 4 }]
guest = { seed = 1, install_mib = 1, writes_per_second = 20 }
[[host]]
name = "host-2"
cluster = "blue"
[[host]]
name = "host-3"
"#;

fn is_protected(vm: &Value) -> bool {
    vm["state"] == "Protected" && vm["health"] == "Normal"
}

fn key_of(operated: &Operated) -> String {
    operated.done(&["vault", "registration-key", "vault-1"]).trim().to_owned()
}

#[test]
fn a_host_is_admitted_once_with_a_key_of_its_vault() {
    let operated = Operated::of(SITE, &[]);
    assert!(!operated.done(&["host", "list"]).contains("host-1"), "nobody is admitted yet");
    operated.ends(&["vm", "show", "web-01"], 3);
    let register = |host: &str, key: &str, code| {
        operated.ends(&["host", "register", host, "--key", key], code).1
    };
    assert!(register("host-1", "secret", 5).contains("is none"));
    let foreign = format!("lifeboat.{}.{}", "7".repeat(32), "a1".repeat(32));
    assert!(register("host-1", &foreign, 5).contains("which this service does not have"));
    let key = key_of(&operated);
    let forged = format!("{}{}", &key[..key.len() - 64], "a1".repeat(32));
    assert!(register("host-1", &forged, 5).contains("is none of vault vault-1"));
    register("host-9", &key, 3);
    let dry = |key: &str, code| {
        let register = ["host", "register", "host-1", "--key", key, "--dry-run"];
        operated.ends(&register, code).0
    };
    assert!(dry(&forged, 5).contains("is none of vault vault-1"));
    assert!(dry("secret", 5).contains("is none"));
    assert!(dry(&key, 0).contains("vault-1 admits host-1"));
    assert!(!operated.done(&["host", "list"]).contains("host-1"), "nothing was done");
    let once = ["host", "register", "host-1", "--key", &key, "--request-id", "once"];
    operated.done(&once);
    assert!(operated.done(&once).contains("asked for before"));
    register("host-1", &key, 0);
    let issue = ["vault", "registration-key", "vault-1"];
    let would = operated.done(&[&issue[..], &["--dry-run"]].concat());
    assert!(would.contains("A key of vault-1 is issued"), "{would}");
    let issue = [&issue[..], &["--request-id", "once"]].concat();
    operated.done(&issue);
    assert!(operated.ends(&issue, 5).1.contains("is told once"), "nobody has kept it");
    assert!(register("host-2", &key, 5).contains("was used by host-1 at"));
    operated.until("web-01", is_protected);
    assert!(operated.done(&["host", "list"]).contains("blue"));
    let (checks, _) = operated.ends(&["vm", "check", "web-01"], 5);
    assert!(checks.contains("host-2 is not registered"), "{checks}");
    assert!(checks.contains("lifeboat host register"), "{checks}");

    assert!(operated.json(&["network", "list"]).as_array().unwrap().is_empty());
    operated.done(&["provider", "register", "--key", &key_of(&operated)]);
    for _ in 0..100 {
        if operated.done(&["provider", "list"]).contains("vault-1") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(operated.done(&["provider", "list"]).contains("primary-site"));

    let Operated { place, service } = operated;
    assert_eq!(service.stop().code(), Some(0));
    let again = Operated { service: super::Running::serve(&place.config()), place };
    again.until("web-01", is_protected);
    assert!(!again.done(&["host", "list"]).contains("host-2"), "it was never admitted");
}

#[test]
fn a_vm_that_moves_within_its_cluster_stays_protected() {
    let operated = Operated::of(SITE, &[]);
    for host in ["host-1", "host-2", "host-3"] {
        operated.done(&["host", "register", host, "--key", &key_of(&operated)]);
    }
    operated.until("web-01", is_protected);
    let checks = operated.done(&["vm", "check", "web-01"]);
    assert!(checks.contains("member of the host's cluster is registered"), "{checks}");
    let (_, talk) = operated.ends(&["vm", "move", "web-01", "--to", "host-3"], 5);
    assert!(talk.contains("host-3 is in no cluster with web-01"), "{talk}");
    operated.ends(&["vm", "move", "web-01", "--to", "host-9"], 3);
    let points = |vm: &Value| vm["latest_recovery_point"]["cycle"].as_u64().unwrap_or(0);
    let before = points(&operated.json(&["vm", "show", "web-01"]));
    let dry = |host: &str, code| {
        operated.ends(&["vm", "move", "web-01", "--to", host, "--dry-run"], code).0
    };
    assert!(
        dry("host-3", 5).contains("NO  the state allows it: host-3 is in no cluster with web-01")
    );
    let would = dry("host-2", 0);
    assert!(
        would.contains("ok  host host-2 answers") && would.contains("goes on at host-2"),
        "{would}"
    );
    let once = ["vm", "move", "web-01", "--to", "host-2", "--request-id", "once"];
    operated.done(&once);
    assert!(operated.done(&once).contains("asked for before"));
    assert!(operated.done(&["vm", "move", "web-01", "--to", "host-2"]).contains("nothing to do"));
    operated.until("web-01", |vm| {
        vm["host"] == "host-2" && is_protected(vm) && before + 1 < points(vm)
    });
    let jobs = operated.done(&["job", "list", "--vm", "web-01"]);
    assert!(!jobs.contains("Resynchronize"), "it was let go in an orderly way: {jobs}");

    let Operated { place, service } = operated;
    assert_eq!(service.stop().code(), Some(0));
    let again = Operated { service: super::Running::serve(&place.config()), place };
    let before = points(&again.json(&["vm", "show", "web-01"]));
    again.until("web-01", |vm| vm["host"] == "host-2" && is_protected(vm) && before < points(vm));
    assert!(!again.done(&["job", "list", "--vm", "web-01"]).contains("Resynchronize"));
    again.done(&["failover", "planned", "web-01", "-y", "--wait"]);
}

#[test]
fn a_policy_that_is_changed_holds_for_a_vm_that_replicates_already() {
    let operated = Operated::of(super::ONE_GUEST, &["web-01"]);
    let due = |vm: &Value| vm["rpo_target_seconds"].as_f64().unwrap_or(0.0);
    assert!((due(&operated.json(&["vm", "show", "web-01"])) - 1.0).abs() < 0.1);
    let set = ["policy", "set", "cloud-1", "--copy-frequency", "900", "--retention", "3"];
    let would = operated.json(&[&set[..], &["--dry-run"]].concat());
    let told = would["consequence"].as_str().unwrap_or_default();
    assert!(told.contains("web-01: a delta every 900 s") && !told.contains("let go"), "{would}");
    assert!(would["allowed"] == true && would["changes"] == true, "{would}");
    let fewer = operated.done(&["policy", "set", "cloud-1", "--retention", "1", "--dry-run"]);
    assert!(fewer.contains("points older than that are let go for good"), "{fewer}");
    let refused = ["policy", "set", "cloud-1", "--retention", "73", "--dry-run"];
    operated.ends(&refused, 2);
    assert!((due(&operated.json(&["vm", "show", "web-01"])) - 1.0).abs() < 0.1);
    operated.done(&set);
    operated.until("web-01", |vm| (due(vm) - 900.0).abs() < 0.1);
    let vm = operated.json(&["vm", "show", "web-01"]);
    assert_eq!(vm["policy"]["recovery_point_retention_hours"], 3);
    let taken = operated.done(&["policy", "list"]);
    assert!(taken.contains("every 900 s") && taken.contains("all VMs"), "{taken}");
    let held = vm["latest_recovery_point"]["cycle"].as_u64();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let later = operated.json(&["vm", "show", "web-01"]);
    let made = later["latest_recovery_point"]["cycle"].as_u64().zip(held);
    assert!(made.is_some_and(|(now, then)| now <= then + 1), "a delta every 900 s: {made:?}");
    operated.done(&["policy", "set", "cloud-1", "--copy-frequency", "1"]);
    operated.until("web-01", |vm| held < vm["latest_recovery_point"]["cycle"].as_u64());
    operated.done(&["policy", "set", "cloud-1", "--copy-frequency", "300"]);
    let Operated { place, service } = operated;
    assert_eq!(service.stop().code(), Some(0));
    let again = Operated { service: super::Running::serve(&place.config()), place };
    let kept = again.done(&["policy", "list"]);
    assert!(kept.contains("every 300 s"), "not what the configuration has: {kept}");
}

/// Two clouds, of which one has a policy of its own.
const TWO_CLOUDS: &str = r#"
[[cloud]]
name = "production"
[[cloud]]
name = "offices"
policy = { copy_frequency_s = 600, recovery_point_retention_h = 12, resync_window = "manual" }
[[host]]
name = "host-1"
cloud = "production"
[[host.vm]]
name = "web-01"
disk = [{ name = "os", path = "disks/web-01.img", create_mib = 4 }]
[[host]]
name = "host-2"
cloud = "offices"
[[host.vm]]
name = "files-01"
disk = [{ name = "os", path = "disks/files-01.img", create_mib = 4 }]
"#;

#[test]
fn each_cloud_has_its_hosts_and_its_policy() {
    let operated = Operated::of(TWO_CLOUDS, &["web-01", "files-01"]);
    let clouds = operated.json(&["cloud", "list"]);
    let of = |name: &str| {
        let cloud = clouds.as_array().unwrap().iter().find(|cloud| cloud["name"] == name);
        let cloud = cloud.unwrap_or_else(|| panic!("no {name} in {clouds}"));
        (
            cloud["hosts"].clone(),
            cloud["vms"].clone(),
            cloud["policy"]["copy_frequency_seconds"].clone(),
        )
    };
    assert_eq!(of("production"), (json!(["host-1"]), json!(["web-01"]), json!(1)));
    assert_eq!(of("offices"), (json!(["host-2"]), json!(["files-01"]), json!(600)));
    let files = operated.json(&["vm", "show", "files-01"]);
    assert_eq!(files["cloud"], "offices");
    assert_eq!(files["policy"]["recovery_point_retention_hours"], 12);
    operated.done(&["policy", "set", "offices", "--copy-frequency", "300"]);
    let due = |vm: &Value| vm["rpo_target_seconds"].as_f64().unwrap_or(0.0);
    operated.until("files-01", |vm| (due(vm) - 300.0).abs() < 0.1);
    assert!((due(&operated.json(&["vm", "show", "web-01"])) - 1.0).abs() < 0.1);
    operated.done(&["failover", "unplanned", "web-01", "-y", "--wait"]);
    let dry = ["failback", "begin", "web-01", "--to-host", "host-2", "--dry-run"];
    let (refused, _) = operated.ends(&dry, 5);
    assert!(
        refused.contains("NO  host-2 is of the cloud of web-01: it is of offices"),
        "{refused}"
    );
}

#[test]
fn a_host_that_is_given_to_another_cloud_is_told_so_and_goes_on_where_it_is() {
    let operated = Operated::of(TWO_CLOUDS, &["web-01", "files-01"]);
    let Operated { place, service } = operated;
    assert_eq!(service.stop().code(), Some(0));
    place.configure(&TWO_CLOUDS.replace(
        "name = \"host-2\"\ncloud = \"offices\"",
        "name = \"host-2\"\ncloud = \"production\"",
    ));
    let again = Operated { service: super::Running::serve(&place.config()), place };
    let told = |line: &String| {
        line.contains("host-2") && line.contains("offices") && line.contains("stays in the cloud")
    };
    assert!(again.service.said.iter().any(told), "{:#?}", again.service.said);
    let files = again.json(&["vm", "show", "files-01"]);
    assert_eq!((&files["cloud"], &files["state"]), (&json!("offices"), &json!("Protected")));
    let points = |vm: &Value| vm["latest_recovery_point"]["cycle"].as_u64();
    again.done(&["vm", "take-point", "files-01"]);
    again.until("files-01", |vm| points(&files) < points(vm));
}
