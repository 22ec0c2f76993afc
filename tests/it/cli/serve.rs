//! `lifeboat serve`, from its start to its end.

use super::{ONE_GUEST, Place, Running, done, lifeboat, text};
use std::fs;

#[test]
fn a_service_answers_its_health_checks_and_ends_cleanly_when_it_is_told_to() {
    let place = Place::new(ONE_GUEST);
    let service = Running::serve(&place.config());
    let (status, body) = service.get("/healthz");
    assert!(status.ends_with("200 OK"), "{status}");
    assert_eq!(body, "ok\n");
    let (status, body) = service.get("/readyz");
    assert!(status.ends_with("200 OK"), "{status}");
    let readiness: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(readiness["ready"], true, "{body}");
    let checks = readiness["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["ok"] == true), "{body}");
    assert_eq!(service.stop().code(), Some(0));
    assert!(!place.data().join("nbd.sock").exists(), "the socket was left behind");
}

#[test]
fn one_service_at_a_time_has_a_data_folder_and_its_log_is_not_opened_by_others_meanwhile() {
    let place = Place::new(ONE_GUEST);
    let service = Running::serve(&place.config());
    let data = place.data_text();
    let config = place.file("lifeboat.toml");
    let log = place.file("log.jsonl");
    done(&["events", "export", "--data", &data, "--to", &log]);
    let attempts: [&[&str]; 3] = [
        &["serve", "--config", &config],
        &["events", "import", "--data", &data, "--from", &log],
        &["events", "verify", "--data", &data],
    ];
    for attempt in attempts {
        let output = lifeboat(attempt);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{attempt:?}: {said}");
        assert!(said.contains("another process has it open, stop that first"), "{said}");
    }
    assert!(service.get("/readyz").0.ends_with("200 OK"));
    assert_eq!(service.stop().code(), Some(0));
}

#[test]
fn a_vm_without_its_image_is_named_and_the_others_are_protected_also_once_it_is_back() {
    let bad = r#"
[[host.vm]]
name = "bad-01"
disk = [{ name = "os", path = "disks/bad-01.img" }]
guest = { seed = 2, install_mib = 1 }
"#;
    let place = Place::new(&format!("{ONE_GUEST}{bad}"));
    let service = Running::serve(&place.config());
    let named = |line: &String| line.contains("SR-2004") && line.contains("bad-01.img");
    assert!(service.said.iter().any(named), "{:#?}", service.said);
    assert_eq!(service.stop().code(), Some(0));
    super::crash::protected_and_normal(&place, &["web-01"]);

    let image = place.data().join("disks/bad-01.img");
    fs::File::create_new(&image).unwrap().set_len(4 << 20).unwrap();
    super::crash::protected_and_normal(&place, &["web-01", "bad-01"]);

    // Gone again, and back: what waited for an administrator goes on with the start.
    let away = place.file("away.img");
    fs::rename(&image, &away).unwrap();
    super::crash::protected_and_normal(&place, &["web-01"]);
    fs::rename(&away, &image).unwrap();
    super::crash::protected_and_normal(&place, &["web-01", "bad-01"]);
}

#[test]
fn a_disk_image_that_grew_while_nobody_watched_is_compared_and_its_vm_protected_at_the_size_it_had()
{
    let other = r#"
[[host.vm]]
name = "db-01"
disk = [{ name = "os", path = "disks/db-01.img", create_mib = 2 }]
"#;
    let place = Place::new(&format!("{ONE_GUEST}{other}"));
    super::crash::protected_and_normal(&place, &["web-01", "db-01"]);
    let image = place.data().join("disks/db-01.img");
    fs::File::options().write(true).open(image).unwrap().set_len(4 << 20).unwrap();
    super::crash::protected_and_normal(&place, &["web-01", "db-01"]);
    let (vms, _) = super::crash::logged(&place.data());
    let vm = vms.iter().find(|vm| vm.name == "db-01").unwrap();
    assert_eq!(vm.disks[0].size_bytes, 2 << 20);
}
