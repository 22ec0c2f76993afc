//! `lifeboat events`: what was logged can be read, moved and verified, and damage is named.

use super::{ONE_GUEST, Place, Running, command, done, lifeboat, text};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

/// A place where a service ran for a while, and stopped.
fn lived() -> Place {
    let place = Place::new(ONE_GUEST);
    super::crash::protected_and_normal(&place, &["web-01"]);
    place
}

#[test]
fn an_exported_log_is_imported_as_it_was() {
    let place = lived();
    let (data, copy, file) = (place.data_text(), place.file("copy"), place.file("log.jsonl"));
    done(&["events", "export", "--data", &data, "--to", &file]);
    done(&["events", "import", "--data", &copy, "--from", &file]);
    let exported = fs::read_to_string(&file).unwrap();
    assert_eq!(done(&["events", "export", "--data", &copy]), exported);
    assert_eq!(done(&["events", "export", "--data", &data]), exported);
    assert!(done(&["events", "verify", "--data", &copy]).contains("sound"));
    // Every commit, and the header.
    let commits = done(&["events", "tail", "--data", &copy, "-n", "1000000", "-o", "json"]);
    assert_eq!(commits.lines().count() + 1, exported.lines().count());
    assert!(done(&["events", "show", "--data", &copy, "--from", "1"]).contains("Created"));

    // Neither a log nor a file is written over.
    let again = lifeboat(&["events", "import", "--data", &copy, "--from", &file]);
    assert_eq!(again.status.code(), Some(2), "{}", text(&again.stderr));
    let again = lifeboat(&["events", "export", "--data", &data, "--to", &file]);
    assert_eq!(again.status.code(), Some(2), "{}", text(&again.stderr));
    assert_eq!(fs::read_to_string(&file).unwrap(), exported);
}

#[test]
fn an_exported_log_that_was_changed_or_cut_is_not_imported() {
    let place = lived();
    let file = place.file("log.jsonl");
    let exported = done(&["events", "export", "--data", &place.data_text()]);
    let changed = exported.replacen("web-01", "web-02", 1);
    let cut = &exported[..exported.len() - 10];
    for (number, bad) in [&changed, cut].into_iter().enumerate() {
        fs::write(&file, bad).unwrap();
        let copy = place.file(&format!("copy{number}"));
        let output = lifeboat(&["events", "import", "--data", &copy, "--from", &file]);
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output.stderr);
        assert!(said.contains("import line"), "{said}");
        assert_eq!(done(&["events", "tail", "--data", &copy]), "", "a part was imported");
    }
}

#[test]
fn the_log_of_a_running_service_is_replayed_and_a_redacted_export_as_well() {
    let place = lived();
    let (data, file) = (place.data_text(), place.file("redacted.jsonl"));
    let service = Running::serve(&place.config());
    let now = done(&["replay", "at", "--data", &data, "-o", "json"]);
    let now: serde_json::Value = serde_json::from_str(&now).unwrap();
    assert_eq!(now["status"]["vms"][0]["name"], "web-01");
    assert_eq!(now["damage"].as_array().unwrap().len(), 0);
    let verified = done(&["replay", "verify", "--data", &data]);
    assert!(verified.contains("another process has it open"), "{verified}");
    assert!(verified.contains("decided again: as recorded"), "{verified}");
    // It is exported and listed beside the service as well.
    let live = place.file("live.jsonl");
    done(&["events", "export", "--data", &data, "--to", &live]);
    done(&["replay", "verify", "--log", &live]);
    done(&["events", "import", "--data", &place.file("copy"), "--from", &live]);
    assert_eq!(
        done(&["events", "tail", "--data", &data, "-n", "3", "-o", "json"]).lines().count(),
        3
    );
    assert!(done(&["events", "show", "--data", &data, "--from", "1"]).contains("Created"));
    assert!(service.stop().success());

    let verified = done(&["replay", "verify", "--data", &data]);
    assert!(verified.contains("state snapshots compared"), "{verified}");
    done(&["events", "export", "--data", &data, "--redact", "--to", &file]);
    assert!(!fs::read_to_string(&file).unwrap().contains("web-01"));
    done(&["replay", "verify", "--log", &file]);
}

#[test]
fn damage_is_named_and_the_service_does_not_start_on_it() {
    let place = lived();
    let log = place.data().join("events/log/db");
    // The whole log is far smaller than a segment; what lies behind it is not written yet.
    let file = OpenOptions::new().read(true).write(true).open(&log).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1_000).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], 1_000).unwrap();
    let data = place.data_text();

    let verified = lifeboat(&["events", "verify", "--data", &data]);
    assert_eq!(verified.status.code(), Some(1), "{}", text(&verified.stderr));
    assert!(text(&verified.stdout).contains("damaged: "), "{}", text(&verified.stdout));
    let verified = lifeboat(&["events", "verify", "--data", &data, "-o", "json"]);
    assert_eq!(verified.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(report["sound"], false);

    let served = lifeboat(&["serve", "--config", &place.file("lifeboat.toml")]);
    assert_eq!(served.status.code(), Some(2));
    let said = text(&served.stderr);
    assert!(said.contains("event store damaged") && said.contains("events verify"), "{said}");
}

#[test]
fn a_reader_that_stops_reading_ends_the_command_in_silence_and_a_full_disk_does_not() {
    let place = lived();
    let data = place.data_text();
    let listings: [&[&str]; 3] = [
        &["events", "export", "--data", &data],
        &["events", "tail", "--data", &data, "-n", "1000"],
        &["events", "show", "--data", &data, "--to", "1000"],
    ];
    for arguments in listings {
        let mut child =
            command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::with_capacity(64, child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");

        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command(arguments).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains("No space left"), "{}", text(&output.stderr));
    }
}
