//! The whole life of a VM, as an operator leads it.

use super::{Asked, LOOK, LOOKS, nothing, with_protected_vm};
use serde_json::{Value, json};

/// Gives an order that must be accepted, and waits until its job has ended well, if it has one.
async fn done(asked: &Asked, operation: &str, body: Value) {
    let accepted = asked.post(&format!("vms/web-01/{operation}"), &body).await;
    assert!(matches!(accepted.status, 200 | 202), "{operation}: {accepted:#?}");
    assert_eq!(accepted.body["changed"], true, "{operation}: {accepted:#?}");
    let Some(id) = accepted.body["job"]["id"].as_str() else { return };
    for _ in 0..LOOKS {
        let job = asked.get(&format!("jobs/{id}?after=0&wait_seconds=1")).await.body;
        if !job["ended_at"].is_null() {
            // A failback whose data is there has done its part, and waits for somebody.
            let waits = operation == "failback";
            let state = if waits { "WaitingForUserInputAfterDataSync" } else { "Succeeded" };
            assert_eq!(job["state"], state, "{operation}: {job:#}");
            return;
        }
        actix::clock::sleep(LOOK).await;
    }
    panic!("{operation} did not end: {:#}", asked.get("vms/web-01").await.body);
}

fn allows(vm: &Value, operation: &str) -> bool {
    vm["allowed_operations"].as_array().unwrap().iter().any(|allowed| allowed == operation)
}

#[test]
fn a_test_runs_beside_the_vm_and_counts_once_it_is_cleaned_up() {
    with_protected_vm(async |asked| {
        let unnamed = asked.post("vms/web-01/test-failover", &nothing()).await;
        assert_eq!((unnamed.status, &unnamed.body["code"]), (400, &"SR-1022".into()), "a network");
        done(asked, "test-failover", json!({ "network": "lab", "lease_hours": 2 })).await;
        let vm = asked.until("Protected").await;
        let test = &vm["test_failover"];
        assert_eq!((&test["network"], &test["waits_for_clean_up"]), (&"lab".into(), &true.into()));
        assert!(allows(&vm, "TestFailoverCleanup") && vm["last_test_failover"].is_null(), "{vm:#}");
        done(asked, "test-failover-cleanup", json!({ "notes": "all well" })).await;
        let vm = asked.get("vms/web-01").await.body;
        let last = &vm["last_test_failover"];
        assert_eq!((&last["succeeded"], &last["notes"]), (&true.into(), &"all well".into()));
        assert!(vm["test_failover"].is_null(), "{vm:#}");
        let jobs = asked.get("jobs?limit=2").await.body;
        let names: Vec<_> =
            jobs.as_array().unwrap().iter().map(|job| &job["scenario_name"]).collect();
        assert_eq!(names, ["TestFailoverCleanup", "TestFailover"], "tests are in the history");
    });
}

#[test]
fn a_failover_is_changed_and_cancelled_before_it_is_committed() {
    with_protected_vm(async |asked| {
        while asked.get("vms/web-01").await.body["recovery_points"].as_u64() < Some(2) {
            actix::clock::sleep(LOOK).await;
        }
        done(asked, "unplanned-failover", json!({ "point": "latest" })).await;
        let vm = asked.until("UnplannedFailoverCommitPendingStatesBegin").await;
        let latest = vm["failover"]["recovery_point_cycle"].as_u64().unwrap();
        let oldest = asked.get("vms/web-01/recovery-points").await.body;
        let oldest = oldest.as_array().unwrap().last().unwrap()["cycle"].as_u64().unwrap();
        assert!(oldest < latest, "there is another point to choose");
        done(asked, "change-point", json!({ "point": oldest.to_string() })).await;
        let vm = asked.until("UnplannedFailoverCommitPendingStatesBegin").await;
        assert_eq!(vm["failover"]["recovery_point_cycle"], oldest);
        done(asked, "decide-failover", json!({ "in_seconds": 3600, "then": "commit" })).await;
        assert_eq!(asked.get("vms/web-01").await.body["failover_decision"]["then"], "Commit");
        let job = asked.get("jobs?limit=1").await.body[0]["id"].as_str().unwrap().to_owned();
        let cancel = asked.post(&format!("jobs/{job}/cancel"), &nothing()).await;
        assert_eq!(cancel.status, 404, "it has ended: {cancel:?}");
        done(asked, "cancel-failover", nothing()).await;
        assert_eq!(asked.until("Protected").await["active_location"], "Primary");
    });
}

#[test]
fn a_vm_fails_over_and_back_and_is_protected_again() {
    with_protected_vm(async |asked| {
        done(asked, "planned-failover", nothing()).await;
        done(asked, "commit", nothing()).await;
        asked.until("PlannedFailoverStatesBegin").await;
        done(asked, "failback", json!({ "in_full": false })).await;
        let vm = asked.until("WaitingForUserInputAfterDataSync").await;
        assert!(allows(&vm, "CompleteFailback") && !vm["failback"].is_null(), "{vm:#}");
        let path = format!("jobs/{}", vm["job"]["id"].as_str().unwrap());
        let job = asked.get(&path).await.body;
        assert_eq!(job["state"], "WaitingForUserInputAfterDataSync", "{job:#}");
        let next = job["waiting_for"].as_str().unwrap();
        assert!(next.contains("lifeboat failback complete web-01"), "{next}");
        let waiting = asked.get("jobs?state=WaitingForUserInputAfterDataSync").await.body;
        assert_eq!(waiting[0]["id"], job["id"], "{waiting:#}");
        done(asked, "complete-failback", nothing()).await;
        assert_eq!(asked.get(&path).await.body["state"], "Succeeded", "it is completed");
        let points = asked.until("FailbackCommitRequired").await["recovery_points"].clone();
        let dry = asked.post("vms/web-01/commit?dry_run=true", &nothing()).await.body;
        let says = dry["consequence"].as_str().unwrap();
        assert!(says.contains("disks at the recovery site are deleted"), "{says}");
        assert!(says.contains(&format!("{points} recovery points stay")), "{says}");
        done(asked, "commit", nothing()).await;
        assert_eq!(asked.until("FailbackCommitted").await["recovery_points"], points);
        done(asked, "reverse-replicate", nothing()).await;
        assert_eq!(asked.until("Protected").await["active_location"], "Primary");
    });
}

#[test]
fn replication_is_paused_and_resumed_and_protection_is_ended_and_enabled() {
    with_protected_vm(async |asked| {
        done(asked, "pause", nothing()).await;
        let vm = asked.get("vms/web-01").await.body;
        assert!(vm["paused_since"].is_string() && allows(&vm, "ResumeReplication"), "{vm:#}");
        done(asked, "resume", nothing()).await;
        assert!(asked.get("vms/web-01").await.body["paused_since"].is_null());
        let points = asked.post("vms/web-01/take-recovery-point", &nothing()).await;
        assert!(matches!(points.status, 200 | 409), "a delta may be under way: {points:?}");
        done(asked, "unprotect", json!({ "source_gone": false })).await;
        let vm = asked.until("Unprotected").await;
        assert_eq!(vm["recovery_points"], 0, "{vm:#}");
        done(asked, "protect", json!({ "vault": "vault-1" })).await;
        asked.until("Protected").await;
    });
}
