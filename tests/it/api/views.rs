//! What is told of a running site.

use super::{nothing, with_protected_vm};

#[test]
fn everything_that_a_site_has_is_told() {
    with_protected_vm(async |asked| {
        let status = asked.get("status").await.body;
        assert_eq!(status["health"]["worst"], "Normal", "{status:#}");
        assert_eq!(status["vms"][0]["name"], "web-01");
        assert_eq!(asked.get("hosts").await.body[0]["vms"][0], "web-01");
        assert_eq!(asked.get("clouds").await.body[0]["hosts"][0], "host-1");
        assert_eq!(asked.get("vaults").await.body[0]["reachable"], true);
        let vm = asked.get("vms/web-01").await.body;
        assert_eq!((&vm["host"], &vm["vault"]), (&"host-1".into(), &"vault-1".into()));
        assert!(vm["log_bytes"].is_u64(), "{vm:#}");
        assert_eq!(vm["logs"]["bytes"], vm["log_bytes"]);
        assert!((0.0..0.5).contains(&vm["logs"]["share"].as_f64().unwrap()), "{vm:#}");
        assert_eq!(vm["compliance"]["day_ratio"], 1.0, "{vm:#}");
        let id = vm["id"].as_str().unwrap();
        assert_eq!(asked.get(&format!("vms/{id}")).await.body["name"], "web-01");
        let points = asked.get("vms/web-01/recovery-points").await.body;
        let points = points.as_array().unwrap();
        assert!(points.last().unwrap()["cycle"] == 1, "{points:?}");

        let jobs = asked.get("jobs").await.body;
        let names: Vec<_> =
            jobs.as_array().unwrap().iter().map(|job| &job["scenario_name"]).collect();
        assert_eq!(names, ["EnableProtection", "InitialReplication", "EnableDr"]);
        assert_eq!(jobs[2]["asked_by"], "configuration");
        assert_eq!(asked.get("jobs?limit=1").await.body.as_array().unwrap().len(), 1);
        assert!(asked.get("jobs?state=Failed").await.body.as_array().unwrap().is_empty());
    });
}

#[test]
fn the_log_can_be_read_to_its_end_in_parts_while_it_grows() {
    with_protected_vm(async |asked| {
        asked.post("vms/web-01/planned-failover", &nothing()).await;
        asked.until("PlannedFailoverCommitRequired").await;
        let mut positions = vec![];
        let mut after = 0;
        loop {
            let part = asked.get(&format!("events?after={after}&limit=7")).await.body;
            let events = part["events"].as_array().unwrap();
            assert!(events.len() <= 7);
            positions.extend(events.iter().map(|event| event["global"].as_u64().unwrap()));
            after = part["next_after"].as_u64().unwrap();
            if after == part["durable"] {
                break;
            }
        }
        assert!(20 < after && positions.iter().copied().eq(1..=after), "{positions:?}");
    });
}
