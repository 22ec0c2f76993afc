//! A cluster whose member is lost, and a provider that is silent.

use super::Asked;
use serde_json::{Value, json};

const SITE: &str = r#"
listen = "127.0.0.1:0"
[policy]
copy_frequency_s = 1
resync_window = "always"
[[network]]
name = "web"
[[recovery.network]]
name = "dr"
[bandwidth]
work_kbps = 800000
[[host]]
name = "host-1"
cluster = "blue"
[[host.vm]]
name = "web-01"
disk = [{ name = "os", path = "disks/web-01.img", create_mib = 64 }]
guest = { seed = 1, install_mib = 1, writes_per_second = 40 }
[[host]]
name = "host-2"
cluster = "blue"
"#;

fn with_cluster(test: impl AsyncFnOnce(&Asked)) {
    let folder = tempfile::tempdir().unwrap();
    actix::System::new().block_on(async {
        let text = format!("data = '{}'\n{SITE}", folder.path().join("data").display());
        let asked = Asked::start_of(&folder, &text).await;
        asked.until("Protected").await;
        test(&asked).await;
        asked.service.stop().await;
    });
}

#[test]
fn a_vm_whose_host_is_lost_goes_on_at_another_member_and_what_it_lost_track_of_is_compared() {
    with_cluster(async |asked| {
        let host = asked.service.vms[0].host;
        asked.service.kill_host(host);
        let moved = asked.post("vms/web-01/move", &json!({ "to": "host-2" })).await;
        assert_eq!(moved.status, 200, "{moved:?}");
        let resyncs = |jobs: &Value| {
            let jobs = jobs.as_array().unwrap().clone();
            jobs.into_iter().find(|job| job["scenario_name"] == "RepairReplication")
        };
        let mut job = None;
        for _ in 0..super::LOOKS {
            job = resyncs(&asked.get("jobs?vm=web-01").await.body);
            if job.as_ref().is_some_and(|job| job["state"] == "Succeeded") {
                break;
            }
            actix::clock::sleep(super::LOOK).await;
        }
        assert_eq!(job.expect("it was marked")["state"], "Succeeded");
        let log = asked.get("events?limit=1000").await.body;
        let events = log["events"].as_array().unwrap().iter();
        let events = events.filter_map(|commit| commit["entry"]["Vm"]["events"].as_array());
        let mut reasons = events.flatten().map(|event| event["MarkedForResync"]["reason"].clone());
        let reason = reasons.find(|reason| !reason.is_null());
        // Whether the watch of the tracker or a cut of its logs met it first.
        let says = reason.expect("it was marked with the reason").to_string();
        assert!(says.contains("PowerLoss") || says.contains("lost power"), "{says}");
        let vm = asked.until("Protected").await;
        assert_eq!(vm["host"], "host-2");
        let guest = asked.service.primary().guest(asked.service.vms[0].id).unwrap();
        assert!(!guest.state.ended(), "it runs again: {guest:?}");
    });
}

#[test]
fn a_provider_that_is_silent_is_told_and_stops_nothing() {
    with_cluster(async |asked| {
        let hosts = asked.get("hosts").await.body;
        assert_eq!(
            hosts[0]["bandwidth"],
            "800000 kbit/s on mon,tue,wed,thu,fri 09:00-18:00, else no limit"
        );
        asked.service.primary().silence_provider(true);
        let told = async |wanted: bool| {
            for _ in 0..super::LOOKS {
                let status = asked.get("status").await.body;
                if status["issues"].to_string().contains("SR-2005") == wanted {
                    return;
                }
                actix::clock::sleep(super::LOOK).await;
            }
            panic!("its silence is told: {}", !wanted);
        };
        told(true).await;
        let cycle = async || {
            let vm = asked.get("vms/web-01").await.body;
            assert_eq!(
                (&vm["state"], &vm["health"]),
                (&"Protected".into(), &"Normal".into()),
                "{vm}"
            );
            vm["latest_recovery_point"]["cycle"].as_u64().unwrap()
        };
        let before = cycle().await;
        for _ in 0..super::LOOKS {
            if before + 1 < cycle().await {
                break;
            }
            actix::clock::sleep(super::LOOK).await;
        }
        assert!(before + 1 < cycle().await, "deltas go on");
        let failover = asked.post("vms/web-01/unplanned-failover", &json!({})).await;
        assert_eq!(failover.status, 202, "{failover:?}");
        asked.until("UnplannedFailoverCommitPendingStatesBegin").await;
        asked.service.primary().silence_provider(false);
        told(false).await;
    });
}
