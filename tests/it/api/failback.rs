//! A VM whose host is lost comes back to another one, and the first one, once it is back, leaves it alone.

use super::{Asked, nothing};
use serde_json::{Value, json};

const SITE: &str = r#"
listen = "127.0.0.1:0"
[policy]
copy_frequency_s = 1
resync_window = "always"
[[host]]
name = "host-1"
[[host.vm]]
name = "web-01"
disk = [{ name = "os", path = "disks/web-01.img", create_mib = 4 }]
guest = { seed = 1, install_mib = 1, writes_per_second = 40 }
[[host]]
name = "host-2"
"#;

/// Asks for an operation, and waits for what it comes to.
async fn goes(asked: &Asked, operation: &str, body: &Value, state: &str) -> Value {
    let answer = asked.post(&format!("vms/web-01/{operation}"), body).await;
    assert!(matches!(answer.status, 200 | 202), "{operation}: {answer:?}");
    asked.until(state).await
}

fn verdict(outlook: &Value, of: &str) -> (bool, String) {
    let checks = outlook["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"].as_str().unwrap().contains(of));
    let check = check.unwrap_or_else(|| panic!("nothing says {of}: {outlook:#}"));
    (check["ok"] == true, check["because"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_vm_whose_host_is_lost_comes_back_to_another_and_stays_there_when_the_first_one_returns() {
    let folder = tempfile::tempdir().unwrap();
    actix::System::new().block_on(async {
        let text = format!("data = '{}'\n{SITE}", folder.path().join("data").display());
        let asked = Asked::start_of(&folder, &text).await;
        asked.until("Protected").await;
        let (web, first) = (asked.service.vms[0].id, asked.service.vms[0].host);
        asked.service.kill_host(first);
        goes(&asked, "unplanned-failover", &nothing(), "UnplannedFailoverCommitPendingStatesBegin")
            .await;
        goes(&asked, "commit", &nothing(), "UnplannedFailoverCommitted").await;

        let to_host = json!({ "to_host": "host-2" });
        let outlook = asked.post("vms/web-01/failback?dry_run=true", &to_host).await.body;
        assert_eq!((&outlook["allowed"], &outlook["ready"]), (&json!(true), &json!(true)));
        assert!(verdict(&outlook, "host host-2 answers").0);
        assert!(verdict(&outlook, "host-2 has room").0);
        let says = outlook["consequence"].as_str().unwrap();
        assert!(says.contains("Host host-1 is asked for nothing"), "{says}");
        let back = json!({ "to_host": "host-1" });
        let outlook = asked.post("vms/web-01/failback?dry_run=true", &back).await.body;
        assert_eq!(verdict(&outlook, "host-1 has room"), (false, "it does not answer".to_owned()));
        let unknown = asked.post("vms/web-01/failback", &json!({ "to_host": "host-9" })).await;
        assert_eq!(unknown.status, 404, "{unknown:?}");

        goes(&asked, "failback", &to_host, "WaitingForUserInputAfterDataSync").await;
        let vm = goes(&asked, "complete-failback", &nothing(), "FailbackCommitRequired").await;
        assert_eq!((&vm["host"], &vm["left_hosts"]), (&json!("host-2"), &json!(["host-1"])));
        let guest = asked.service.primary().guest(web).unwrap();
        assert!(!guest.state.ended(), "it found all that it wrote: {guest:?}");

        asked.service.revive_host(first).await.unwrap();
        goes(&asked, "commit", &nothing(), "FailbackCommitted").await;
        goes(&asked, "reverse-replicate", &nothing(), "Protected").await;
        for _ in 0..super::LOOKS {
            let vm = asked.get("vms/web-01").await.body;
            if vm["left_hosts"] == json!([]) && vm["health"] == "Normal" {
                break;
            }
            actix::clock::sleep(super::LOOK).await;
        }
        let vm = asked.get("vms/web-01").await.body;
        assert_eq!((&vm["left_hosts"], &vm["host"]), (&json!([]), &json!("host-2")), "{vm:#}");
        let guest = asked.service.primary().guest(web).unwrap();
        assert!(!guest.state.ended(), "what was turned off was the other one: {guest:?}");

        // The host that it is on is the one whose loss hits it.
        asked.service.kill_host(first);
        let points = async || asked.get("vms/web-01").await.body["recovery_points"].clone();
        let before = points().await;
        for _ in 0..super::LOOKS {
            if points().await != before {
                break;
            }
            actix::clock::sleep(super::LOOK).await;
        }
        assert_ne!(points().await, before, "it is replicated from there");
        asked.service.stop().await;
    });
}
