//! What is refused, with which entry of the catalogue.

use super::{Answer, Asked, answer, nothing, with_protected_vm};
use serde_json::json;

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, says: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.content, "application/problem+json");
    let body = &answer.body;
    assert_eq!((&body["code"], &body["status"]), (&code.into(), &status.into()), "{body}");
    assert!(body["detail"].as_str().unwrap().contains(says), "{body}");
    for field in ["type", "title", "class", "next"] {
        assert!(!body[field].as_str().unwrap().is_empty(), "{field} of {body}");
    }
    assert!(!body["actions"][0].as_str().unwrap().is_empty(), "{body}");
}

async fn with_authorization(asked: &Asked, value: &str) -> Answer {
    answer(asked.request("GET", "status").header("Authorization", value)).await
}

#[test]
fn nothing_is_told_or_done_without_the_token() {
    with_protected_vm(async |asked| {
        for path in ["status", "vms", "jobs", "events", "no-route"] {
            refused(&answer(asked.request("GET", path)).await, 401, "SR-1021", path);
        }
        let failover = asked.request("POST", "vms/web-01/planned-failover");
        refused(&answer(failover).await, 401, "SR-1021", "planned-failover");
        let mut other = asked.token.clone();
        let last = if other.ends_with('0') { "1" } else { "0" };
        other.replace_range(63.., last);
        for wrong in ["", "Bearer", &format!("Bearer {other}"), &asked.token, "Bearer \u{e9}"] {
            refused(&with_authorization(asked, wrong).await, 401, "SR-1021", "token");
        }
        assert_eq!(asked.get("vms/web-01").await.body["state"], "Protected");
        let health = asked.http.get(format!("http://{}/healthz", asked.service.address));
        assert_eq!(answer(health).await.status, 200, "health needs no token");
    });
}

#[test]
fn what_does_not_exist_is_named() {
    with_protected_vm(async |asked| {
        let vm = asked.get("vms/web-02").await;
        refused(&vm, 404, "SR-1023", "VM web-02 does not exist");
        refused(&asked.get("vms/web-02/recovery-points").await, 404, "SR-1023", "VM web-02");
        refused(&asked.get("jobs/nothing").await, 404, "SR-1023", "job nothing");
        refused(&asked.get("nowhere").await, 404, "SR-1023", "GET /lifeboat/v1/nowhere");
        refused(&asked.post("status", &nothing()).await, 404, "SR-1023", "POST");
        let operation = asked.post("vms/web-01/explode", &nothing()).await;
        refused(&operation, 404, "SR-1023", "explode; there are protect, planned-failover");
        let vm = asked.post("vms/web-02/planned-failover", &nothing()).await;
        refused(&vm, 404, "SR-1023", "VM web-02");
        let point = asked.post("vms/web-01/unplanned-failover", &json!({ "point": "9999" })).await;
        refused(&point, 404, "SR-1023", "recovery point 9999");
        let cloud = asked.post("clouds/none/policy", &nothing()).await;
        refused(&cloud, 404, "SR-1023", "cloud none");
    });
}

#[test]
fn what_the_state_forbids_is_refused_with_what_it_allows() {
    with_protected_vm(async |asked| {
        for operation in ["commit", "protect", "resync"] {
            let path = format!("vms/web-01/{operation}");
            let answer = asked.post(&path, &nothing()).await;
            refused(&answer, 409, "SR-3001", "is not allowed while web-01 is protected");
            let allowed = &answer.body["allowed_operations"];
            assert_eq!(*allowed, asked.get("vms/web-01").await.body["allowed_operations"]);
        }
        let jobs = asked.get("jobs").await.body;
        assert_eq!(jobs.as_array().unwrap().len(), 3, "no job was started: {jobs:#}");
    });
}

#[test]
fn a_request_that_cannot_be_used_says_why_and_changes_nothing() {
    with_protected_vm(async |asked| {
        let path = "vms/web-01/unplanned-failover";
        let bodies: [(&[u8], &str); 7] = [
            (b"{", "its body"),
            (b"\xff\xfe", "its body"),
            (b"[]", "its body"),
            (b"{\"point\": 5}", "its body"),
            (b"{\"point\": \"newest\"}", "latest-processed"),
            (b"{\"pint\": \"latest\"}", "unknown field"),
            (&[b'['; 10_000], "its body"),
        ];
        for (body, says) in bodies {
            let request = asked.request("POST", path).bearer_auth(&asked.token).body(body);
            refused(&answer(request).await, 400, "SR-1022", says);
        }
        let large = vec![b' '; (64 << 10) + 1];
        let request = asked.request("POST", path).bearer_auth(&asked.token).body(large);
        refused(&answer(request).await, 413, "SR-1022", "more than 65536 bytes");

        let window = json!({ "window": "25:00-26:00" });
        let answer_ = asked.post("vms/web-01/resync-window", &window).await;
        refused(&answer_, 400, "SR-1022", "18:30-06:00");
        refused(
            &asked.post("vms/web-01/resync-window", &nothing()).await,
            400,
            "SR-1022",
            "window",
        );
        let policy = json!({ "copy_frequency_seconds": 0 });
        refused(
            &asked.post("clouds/cloud-1/policy", &policy).await,
            400,
            "SR-1022",
            "from 1 to 900",
        );
        refused(&asked.get("jobs?limit=many").await, 400, "SR-1022", "its query");
        refused(&asked.get("events?before=1").await, 400, "SR-1022", "its query");
        let dry = asked.post("vms/web-01/planned-failover?dry_run=maybe", &nothing()).await;
        refused(&dry, 400, "SR-1022", "its query");
        for header in ["Lifeboat-Request-Id", "Lifeboat-Actor"] {
            let long = asked
                .request("POST", "vms/web-01/planned-failover")
                .bearer_auth(&asked.token)
                .header(header, "x".repeat(101));
            refused(&answer(long).await, 400, "SR-1022", header);
        }
        assert_eq!(asked.get("vms/web-01").await.body["state"], "Protected");
    });
}
