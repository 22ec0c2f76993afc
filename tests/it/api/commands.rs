//! Commands: dry runs, jobs, requests that are repeated, policies.

use super::{Asked, nothing, with_protected_vm};
use serde_json::{Value, json};

#[test]
fn a_dry_run_tells_the_checks_and_the_loss_and_changes_nothing() {
    with_protected_vm(async |asked| {
        let path = "vms/web-01/unplanned-failover?dry_run=true";
        let outlook = asked.post(path, &json!({ "point": "latest" })).await;
        assert_eq!(outlook.status, 200, "{outlook:?}");
        let body = &outlook.body;
        assert_eq!(
            (&body["allowed"], &body["changes"], &body["ready"]),
            (&true.into(), &true.into(), &true.into())
        );
        let point = &body["recovery_point"];
        assert!(0 < point["cycle"].as_u64().unwrap(), "{body}");
        assert_eq!(body["lost_seconds"], point["age_seconds"]);
        assert!(body["lost_log_bytes"].is_u64(), "{body}");
        let words = body["consequence"].as_str().unwrap();
        let says = format!("from recovery point {} of 20", point["cycle"]);
        assert!(words.contains(&says) && words.contains("in no recovery point"), "{words}");
        let names: Vec<_> = checks(body).collect();
        assert_eq!(names, ["the state allows it", "vault vault-1 can be reached"]);

        let planned = asked.post("vms/web-01/planned-failover?dry_run=true", &nothing()).await.body;
        assert!(planned["consequence"].as_str().unwrap().contains("Nothing is lost"), "{planned}");
        assert_eq!(checks(&planned).count(), 3, "the host as well: {planned}");
        assert!(planned["recovery_point"].is_null());

        let commit = asked.post("vms/web-01/commit?dry_run=true", &nothing()).await;
        assert_eq!((commit.status, &commit.body["allowed"]), (200, &false.into()));
        assert_eq!(commit.body["problem"]["code"], "SR-3001", "{commit:?}");

        let jobs = asked.get("jobs").await.body;
        assert_eq!(jobs.as_array().unwrap().len(), 3, "no job was started: {jobs:#}");
        assert_eq!(asked.get("vms/web-01").await.body["state"], "Protected");
    });
}

fn checks(outlook: &Value) -> impl Iterator<Item = &str> {
    let checks = outlook["checks"].as_array().unwrap().iter();
    checks.filter(|check| check["ok"] == true).map(|check| check["name"].as_str().unwrap())
}

/// The id of the job is derived from that of the request: the log itself is the memory.
#[test]
fn a_command_given_twice_under_one_id_is_done_once_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = "vms/web-01/planned-failover";
    actix::System::new().block_on(async {
        let asked = Asked::start(&folder, "127.0.0.1:0").await;
        asked.until("Protected").await;
        let first = asked.post_as("order-1", path, &nothing()).await;
        assert_eq!((first.status, &first.body["repeated"]), (202, &false.into()), "{first:?}");
        assert_eq!(first.body["job"]["scenario_name"], "PlannedFailover");
        let again = asked.post_as("order-1", path, &nothing()).await;
        assert_same(&first.body, &again.body);
        asked.until("PlannedFailoverCommitRequired").await;
        assert_same(&first.body, &asked.post_as("order-1", path, &nothing()).await.body);

        let other = asked.post_as("order-2", path, &nothing()).await;
        assert_eq!(other.status, 409, "another request is another command: {other:?}");
        let commit = asked.post_as("order-1", "vms/web-01/commit", &nothing()).await;
        assert_eq!(commit.body["repeated"], false, "so is another operation: {commit:?}");
        asked.until("PlannedFailoverStatesBegin").await;
        asked.service.stop().await;

        let asked = Asked::start(&folder, "127.0.0.1:0").await;
        let again = asked.post_as("order-1", path, &nothing()).await;
        assert_eq!(again.status, 200, "it is over: {again:?}");
        assert_same(&first.body, &again.body);
        assert_eq!(again.body["job"]["state"], "Succeeded");
        assert_eq!(again.body["job"]["asked_by"], "alice");
        let jobs = asked.get("jobs?vm=web-01").await.body;
        let planned = jobs.as_array().unwrap().iter();
        let planned = planned.filter(|job| job["scenario_name"] == "PlannedFailover");
        assert_eq!(planned.count(), 1, "{jobs:#}");
        asked.service.stop().await;
    });
}

#[track_caller]
fn assert_same(first: &Value, again: &Value) {
    assert_eq!(again["repeated"], true, "{again:#}");
    assert_eq!(again["commit"], first["commit"]);
    assert_eq!(again["job"]["id"], first["job"]["id"]);
}

#[test]
fn a_job_can_be_waited_for_until_it_has_ended() {
    with_protected_vm(async |asked| {
        let body = json!({ "point": "latest-processed" });
        let accepted = asked.post("vms/web-01/unplanned-failover", &body).await;
        assert_eq!(accepted.status, 202, "{accepted:?}");
        let id = accepted.body["job"]["id"].as_str().unwrap().to_owned();
        let mut job = asked.get(&format!("jobs/{}", &id[..13])).await.body;
        assert_eq!(job["id"], id.as_str(), "the beginning of an id is enough");
        let mut changes = vec![];
        while job["ended_at"].is_null() {
            let after = job["last_commit"].as_u64().unwrap();
            changes.push(after);
            job = asked.get(&format!("jobs/{id}?after={after}&wait_seconds=20")).await.body;
        }
        assert_eq!(job["state"], "Succeeded", "{job:#}");
        assert!(changes.is_sorted_by(|a, b| a < b), "each answer was a change: {changes:?}");
        let tasks = job["tasks"].as_array().unwrap();
        assert!(tasks.iter().all(|task| task["state"] == "Succeeded"), "{job:#}");
        let vm = asked.until("UnplannedFailoverCommitPendingStatesBegin").await;
        assert_eq!(vm["active_location"], "Recovery");
    });
}

#[test]
fn a_policy_is_changed_in_part_and_taken_over_by_the_vms() {
    with_protected_vm(async |asked| {
        let change = json!({ "copy_frequency_seconds": 7 });
        let changed = asked.post_as("p-1", "clouds/cloud-1/policy", &change).await;
        assert_eq!((changed.status, &changed.body["changed"]), (200, &true.into()), "{changed:?}");
        let again = asked.post_as("p-1", "clouds/cloud-1/policy", &change).await.body;
        assert_eq!((&again["repeated"], &again["commit"]), (&true.into(), &changed.body["commit"]));
        let same = asked.post("clouds/cloud-1/policy", &change).await.body;
        assert_eq!((&same["changed"], &same["commit"]), (&false.into(), &Value::Null));
        let policy = &asked.get("policy").await.body[0]["policy"];
        assert_eq!(policy["copy_frequency_seconds"], 7);
        assert_eq!(policy["recovery_point_retention_hours"], 2, "what was not named stays");
        for _ in 0..super::LOOKS {
            if asked.get("vms/web-01").await.body["rpo_target_seconds"] == 7.0 {
                return;
            }
            actix::clock::sleep(super::LOOK).await;
        }
        panic!("the VM did not take the policy over");
    });
}

#[test]
fn a_command_without_a_job_is_done_once_as_well() {
    with_protected_vm(async |asked| {
        let path = "vms/web-01/resync-window";
        let nights = json!({ "window": "22:00-05:00" });
        let first = asked.post_as("w-1", path, &nights).await.body;
        assert_eq!(
            (&first["changed"], &first["repeated"]),
            (&true.into(), &false.into()),
            "{first}"
        );
        let manual = asked.post_as("w-2", path, &json!({ "window": "manual" })).await.body;
        assert_eq!(manual["changed"], true);
        // The answer to the first came late, and it is given again: it must not undo the second.
        let again = asked.post_as("w-1", path, &nights).await.body;
        assert_eq!((&again["repeated"], &again["commit"]), (&true.into(), &first["commit"]));
        assert_eq!(asked.get("vms/web-01").await.body["resync"]["window"], "manual");
        let retry = asked.post("vms/web-01/retry", &nothing()).await.body;
        assert_eq!((&retry["changed"], &retry["job"]), (&false.into(), &Value::Null), "{retry}");
    });
}
