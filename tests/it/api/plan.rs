//! Recovery plans: defined, checked and run over the VMs of a real service.

use super::{Answer, Asked, LOOK, LOOKS, answer, nothing};
use lifeboat::views::Moment;
use serde_json::{Value, json};
use std::net::TcpListener;

/// Another VM, beside that of every test.
const SECOND_VM: &str = r#"
[[host]]
name = "host-0"
[[host.vm]]
name = "db-01"
disk = [{ name = "os", path = "disks/db-01.img", create_mib = 4 }]
"#;

/// Runs a test against a service whose two VMs are protected.
fn with_two_vms(test: impl AsyncFnOnce(&Asked)) {
    with_site(SECOND_VM, test);
}

/// The same with what the site has beside the VM of every test.
fn with_site(more: &str, test: impl AsyncFnOnce(&Asked)) {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "data = '{}'\nlisten = \"127.0.0.1:0\"\n{}{more}",
        folder.path().join("data").display(),
        super::VM
    );
    actix::System::new().block_on(async {
        let asked = Asked::start_of(&folder, &config).await;
        asked.until("Protected").await;
        asked.until_true("vms/db-01", |vm| vm["state"] == "Protected").await;
        test(&asked).await;
        asked.service.stop().await;
    });
}

impl Asked {
    async fn until_true(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..LOOKS {
            last = self.get(path).await.body;
            if is_so(&last) {
                return last;
            }
            actix::clock::sleep(LOOK).await;
        }
        panic!("{path} did not come to it: {last:#}");
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        let request = self.request("PUT", path).bearer_auth(&self.token);
        answer(request.body(body.to_string())).await
    }

    /// Waits until the last run of the plan `shop` is in a state.
    async fn until_run(&self, state: &str) -> Value {
        self.until_true("plans/shop", |plan| plan["run"]["state"] == state).await
    }
}

/// The database, then what uses it, once the gate at this address is open.
fn shop(gate: &str) -> Value {
    let gate = json!({ "name": "the database listens", "tcp": gate, "within_s": 1 });
    json!({ "group": [
        { "vms": ["db-01"], "after": [gate] },
        { "vms": ["web-01"], "after": [{ "name": "look at it", "manual": "open the shop" }] },
    ]})
}

/// An address at which nobody listens, as far as one can know.
fn closed_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_plan_is_checked_tested_through_a_shut_gate_and_cleaned_up() {
    with_two_vms(async |asked| {
        let address = closed_address();
        let defined = asked.put("plans/shop", &shop(&address)).await;
        assert_eq!((defined.status, &defined.body["changed"]), (200, &true.into()), "{defined:#?}");
        let again = asked.put("plans/shop", &shop(&address)).await;
        assert_eq!((again.status, &again.body["changed"]), (200, &false.into()), "{again:#?}");
        let plan = asked.get("plans/shop").await.body;
        assert_eq!(plan["groups"], json!([["db-01"], ["web-01"]]), "{plan:#}");
        assert_eq!(plan["definition"], shop(&address), "it is told as it was written");
        assert_eq!(asked.get("plans").await.body[0]["name"], "shop");

        let test = json!({ "kind": "test", "network": "lab" });
        let check = asked.post("plans/shop/check", &test).await.body;
        let names: Vec<_> =
            check["checks"].as_array().unwrap().iter().map(|check| &check["name"]).collect();
        let wanted = ["the state of the plan allows it", "VM db-01", "VM web-01"];
        assert_eq!(&names[..3], wanted, "{check:#}");
        assert_eq!(check["ready"], true, "{check:#}");
        let dry = asked.post("plans/shop/run?dry_run=true", &test).await.body;
        assert_eq!(dry["checks"], check["checks"]);
        assert!(asked.get("plans/shop").await.body["run"].is_null(), "nothing was done");

        let run = asked.post_as("r1", "plans/shop/run", &test).await;
        assert_eq!(run.status, 202, "{run:#?}");
        let repeated = asked.post_as("r1", "plans/shop/run", &test).await.body;
        assert_eq!(repeated["repeated"], true, "{repeated:#}");
        assert_eq!(repeated["plan"]["run"]["id"], run.body["plan"]["run"]["id"]);
        let blocked = asked.until_run("Waiting").await;
        let step = &blocked["run"]["steps"][2];
        assert_eq!(
            (&step["name"], &step["state"]),
            (&"the database listens".into(), &"Blocked".into())
        );
        let waits = &asked.get("vms/web-01").await.body["test_failover"]["started_at"];
        assert!(waits.is_null(), "its group has not begun");

        let _listens = TcpListener::bind(&address).unwrap();
        let retry = asked.post("plans/shop/retry", &nothing()).await;
        assert_eq!(retry.status, 202, "{retry:#?}");
        asked.until_run("WaitingForManualAction").await;
        asked.post("plans/shop/continue", &json!({ "notes": "it sells" })).await;
        let done = asked.until_run("Succeeded").await;
        assert_eq!(done["run"]["steps"][4]["notes"], "it sells", "{done:#}");

        let check = asked.post("plans/shop/check", &test).await.body;
        let because = check["checks"][1]["because"].as_str().unwrap();
        assert!(because.contains("not cleaned up"), "both VMs are told: {check:#}");
        assert_eq!((&check["ready"], &check["checks"][2]["ok"]), (&false.into(), &false.into()));
        let clean_up = asked.post("plans/shop/run", &json!({ "kind": "clean-up" })).await;
        assert_eq!(clean_up.status, 202, "{clean_up:#?}");
        asked
            .until_true("plans/shop", |plan| {
                plan["run"]["kind"] == "clean-up" && plan["run"]["state"] == "Succeeded"
            })
            .await;
        for vm in ["vms/db-01", "vms/web-01"] {
            let vm = asked.get(vm).await.body;
            assert_eq!(vm["last_test_failover"]["succeeded"], true, "{vm:#}");
        }
        let delete = asked.request("DELETE", "plans/shop").bearer_auth(&asked.token);
        assert_eq!(answer(delete).await.status, 200);
        assert_eq!(asked.get("plans/shop").await.status, 404);
        assert_eq!(asked.get("plans").await.body, json!([]));
    });
}

#[test]
fn a_planned_run_that_is_cancelled_says_which_vms_are_off_and_what_to_do() {
    with_two_vms(async |asked| {
        let look = json!({ "name": "look at it", "manual": "count the orders" });
        let plan = json!({ "group": [
            { "vms": ["db-01"] }, { "vms": ["web-01"], "before": [look] },
        ]});
        assert_eq!(asked.put("plans/shop", &plan).await.status, 200);
        let planned = json!({ "kind": "planned" });
        asked.post("plans/shop/run", &planned).await;
        let waits = asked.until_run("WaitingForManualAction").await;
        assert_eq!(waits["run"]["steps"][2]["instructions"], "count the orders", "{waits:#}");
        let vm = asked.get("vms/web-01").await.body;
        assert_eq!(vm["causes"][0]["code"], "SR-3032", "the run will start it: {vm:#}");
        let dry = asked.post("plans/shop/cancel?dry_run=true", &nothing()).await.body;
        let says = dry["consequence"].as_str().unwrap();
        assert!(says.contains("web-01: off at both sites"), "{says}");
        assert!(says.contains("failover release") && !says.contains("db-01"), "{says}");

        let cancelled = asked.post("plans/shop/cancel", &nothing()).await;
        assert_eq!(cancelled.status, 200, "{cancelled:#?}");
        let off = asked.get("plans/shop").await.body;
        assert_eq!(off["left_off"], json!(["web-01"]), "{off:#}");
        let vm = asked.get("vms/web-01").await.body;
        let why = (&vm["health"], &vm["causes"][0]["code"]);
        assert_eq!(why, (&"Critical".into(), &"SR-3033".into()), "{vm:#}");
        let status = asked.get("status").await.body;
        assert_eq!(status["issues"][0]["subject"], "plan shop", "{status:#}");
        let delete = || asked.request("DELETE", "plans/shop").bearer_auth(&asked.token);
        let refused = answer(delete()).await;
        assert_eq!(refused.status, 409, "{refused:#?}");
        assert!(refused.body["detail"].as_str().unwrap().contains("web-01"), "{refused:#?}");

        // It goes on where it was; the action is asked for again.
        asked.post("plans/shop/run", &planned).await;
        asked.until_run("WaitingForManualAction").await;
        asked.post("plans/shop/continue", &nothing()).await;
        asked.until_run("Succeeded").await;
        assert_eq!(asked.get("vms/web-01").await.body["state"], "PlannedFailoverCommitRequired");
        let unplanned = json!({ "kind": "unplanned" });
        let dry = asked.post("plans/shop/run?dry_run=true", &unplanned).await.body;
        let says = dry["consequence"].as_str().unwrap();
        assert!(says.contains("web-01 is passed over: it is "), "{says}");
        assert_eq!(dry["vms"][1]["begins"], false, "{dry:#}");
        assert!(dry["vms"][1]["recovery_point"].is_null(), "{dry:#}");
        assert_eq!(answer(delete()).await.status, 200);
    });
}

#[test]
fn between_shutting_down_and_failing_over_a_run_waits_for_what_somebody_does_there() {
    with_two_vms(async |asked| {
        let look = json!({ "name": "look at it", "manual": "open the shop", "only": ["test"] });
        let plan = json!({
            "after_shutdown": [{ "name": "move the names", "manual": "as the handbook says" }],
            "group": [{ "vms": ["db-01"], "after": [look] }, { "vms": ["web-01"] }],
        });
        asked.put("plans/shop", &plan).await;
        assert_eq!(asked.get("plans/shop").await.body["definition"], plan, "as it was written");
        for kind in ["planned", "unplanned"] {
            let check = asked.post("plans/shop/check", &json!({ "kind": kind })).await.body;
            assert_eq!(check["ready"], true, "{check:#}");
            assert_eq!(check["vms"][0]["begins"], true, "{check:#}");
        }
        asked.post("plans/shop/run", &json!({ "kind": "planned" })).await;
        let waits = asked.until_run("WaitingForManualAction").await;
        let names = |run: &Value| -> Vec<String> {
            let steps = run["run"]["steps"].as_array().unwrap().iter();
            steps.map(|step| step["name"].as_str().unwrap().to_owned()).collect()
        };
        let steps = [
            "Shutdown of all VMs",
            "move the names",
            "Failover of all VMs",
            "Start of group 1",
            "Start of group 2",
        ];
        assert_eq!(names(&waits), steps, "nobody looks at a planned run");
        for name in ["db-01", "web-01"] {
            let vm = asked.get(&format!("vms/{name}")).await.body;
            assert_eq!(vm["health"], "Warning", "{vm:#}");
            let cause = &vm["causes"][0];
            assert_eq!(cause["code"], "SR-3032", "{vm:#}");
            assert!(cause["because"].as_str().unwrap().contains("was shut down for its failover"));
        }
        let again = asked.post("plans/shop/run?dry_run=true", &json!({ "kind": "planned" })).await;
        assert_eq!(again.body["allowed"], false, "it runs: {again:#?}");

        // Ended here, both are off and found by the name of the plan, which goes on from here.
        asked.post("plans/shop/cancel", &nothing()).await;
        let off = asked
            .until_true("plans/shop", |plan| plan["left_off"] == json!(["db-01", "web-01"]))
            .await;
        assert_eq!(off["run"]["state"], "Cancelled", "{off:#}");
        let dry = asked.post("plans/shop/run?dry_run=true", &json!({ "kind": "planned" })).await;
        let says = dry.body["consequence"].as_str().unwrap();
        assert!(says.contains("db-01 is shut down already, and goes on from there."), "{says}");
        asked.post("plans/shop/run", &json!({ "kind": "planned" })).await;
        asked.until_run("WaitingForManualAction").await;
        asked.post("plans/shop/continue", &nothing()).await;
        asked.until_run("Succeeded").await;
        let vm = asked.get("vms/web-01").await.body;
        assert_eq!(vm["state"], "PlannedFailoverCommitRequired", "{vm:#}");
    });
}

/// A recovery site with one size, which one of the VMs takes, and a network for tests.
const RECOVERY: &str = r#"
[[network]]
name = "web"
[[recovery.network]]
name = "dr"
[[recovery.network]]
name = "lab"
isolated = true
[[recovery.size]]
name = "small"
cores = 1
memory_mib = 2048
data_disks = 4
nics = 2
[[host]]
name = "host-0"
[[host.vm]]
name = "db-01"
machine = { cores = 4 }
disk = [{ name = "os", path = "disks/db-01.img", create_mib = 4 }]
"#;

#[test]
fn a_check_says_of_which_vms_a_run_would_find_no_place() {
    with_site(RECOVERY, async |asked| {
        let plan = json!({ "group": [{ "vms": ["db-01"] }, { "vms": ["web-01"] }] });
        asked.put("plans/shop", &plan).await;
        let test = |network: &str| json!({ "kind": "test", "network": network });
        for (run, found) in [
            (test("nolab"), [Some("is none of the recovery site"); 2]),
            (test("dr"), [Some("is not isolated"); 2]),
            (test("lab"), [None; 2]),
            (json!({ "kind": "planned" }), [Some("no size that takes the VM"), None]),
            (json!({ "kind": "unplanned" }), [None; 2]),
        ] {
            for path in ["plans/shop/check", "plans/shop/run?dry_run=true"] {
                let told = asked.post(path, &run).await.body;
                for (check, found) in [1, 2].into_iter().zip(found) {
                    let because = told["checks"][check]["because"].as_str();
                    assert_eq!(because.is_some(), found.is_some(), "{told:#}");
                    assert!(because.unwrap_or("").contains(found.unwrap_or("")), "{told:#}");
                }
                assert_eq!(told["ready"], found == [None; 2], "{told:#}");
            }
        }
    });
}

#[test]
fn a_plan_that_cannot_be_is_refused_and_says_why() {
    with_two_vms(async |asked| {
        for (plan, status, says) in [
            (json!({}), 400, "1 to 7"),
            (json!({ "group": [{ "vms": ["mail-01"] }] }), 404, "VM mail-01"),
            (json!({ "group": [{ "vms": ["db-01", "db-01"] }] }), 400, "one place"),
            (json!({ "group": [{ "vms": ["db-01"] }], "befor": [] }), 400, "unknown field"),
            (json!({ "name": "x", "group": [{ "vms": ["db-01"] }] }), 400, "`name`"),
            (
                json!({ "group": [{ "vms": ["db-01"], "after": [{ "name": "g" }] }] }),
                400,
                "exactly one of",
            ),
        ] {
            let answer = asked.put("plans/shop", &plan).await;
            assert_eq!(answer.status, status, "{answer:#?}");
            assert!(answer.body["detail"].as_str().unwrap().contains(says), "{answer:#?}");
        }
        assert_eq!(asked.get("plans").await.body, json!([]), "none of them was taken");
        assert_eq!(asked.post("plans/shop/cancel", &nothing()).await.status, 404);

        let script = json!({ "name": "tell", "script": ["/nowhere/tell"], "timeout_s": 5 });
        let plan = json!({ "before": [script], "group": [{ "vms": ["db-01"] }] });
        assert_eq!(asked.put("plans/shop?dry_run=true", &plan).await.body["allowed"], true);
        assert_eq!(asked.get("plans/shop").await.status, 404, "a dry run defines nothing");
        assert_eq!(asked.put("plans/shop", &plan).await.status, 200);
        let check = asked.post("plans/shop/check", &json!({ "kind": "commit" })).await.body;
        assert!(check["checks"][1]["because"].as_str().unwrap().contains("Commit"), "{check:#}");
        let check = asked.post("plans/shop/check", &json!({ "kind": "planned" })).await.body;
        let script = check["checks"].as_array().unwrap().last().unwrap();
        assert!(script["because"].as_str().unwrap().contains("/nowhere/tell"), "{check:#}");
        for (operation, body, status) in [
            ("run", json!({ "kind": "test" }), 400),
            ("run", json!({ "kind": "sideways" }), 400),
            ("continue", nothing(), 409),
            ("retry", nothing(), 409),
            ("cancel", nothing(), 409),
            ("define", nothing(), 404),
            ("explode", nothing(), 404),
        ] {
            let answer = asked.post(&format!("plans/shop/{operation}"), &body).await;
            assert_eq!(answer.status, status, "{operation}: {answer:#?}");
        }
    });
}

#[test]
fn a_run_has_a_point_a_lease_and_notes_and_is_begun_again_with_them() {
    with_two_vms(async |asked| {
        let plan = json!({ "group": [{ "vms": ["db-01"] }, { "vms": ["web-01"] }] });
        asked.put("plans/shop", &plan).await;
        let consistent = json!({ "kind": "unplanned", "point": "latest-application-consistent" });
        let check = asked.post("plans/shop/check", &consistent).await.body;
        let because = check["checks"][1]["because"].as_str().unwrap_or_default();
        assert!(
            because.contains("application-consistent"),
            "neither VM has such a point: {check:#}"
        );
        let unplanned = json!({ "kind": "unplanned" });
        let dry = asked.post("plans/shop/run?dry_run=true", &unplanned).await.body;
        let says = dry["consequence"].as_str().unwrap();
        for name in ["db-01", "web-01"] {
            let loss = format!("{name} starts at the recovery site from recovery point ");
            assert!(says.contains(&loss), "{says}");
        }
        assert!(says.contains(" old. What was written since then is lost: "), "{says}");
        for (nth, name) in ["db-01", "web-01"].into_iter().enumerate() {
            let of_vm = &dry["vms"][nth];
            assert_eq!((&of_vm["vm"], &of_vm["begins"]), (&name.into(), &true.into()), "{dry:#}");
            assert!(of_vm["recovery_point"]["cycle"].as_u64().is_some(), "{dry:#}");
            assert!(of_vm["lost_seconds"].as_f64().is_some_and(|lost| 0.0 <= lost), "{dry:#}");
            assert!(of_vm["lost_log_bytes"].as_u64().is_some(), "{dry:#}");
            assert!(says.contains(of_vm["consequence"].as_str().unwrap()), "{dry:#}");
        }
        let synchronizes = json!({ "kind": "unplanned", "synchronize": true });
        let dry = asked.post("plans/shop/run?dry_run=true", &synchronizes).await.body;
        assert!(dry["vms"][0]["lost_seconds"].is_null(), "it is sent first: {dry:#}");
        let wrong = json!({ "kind": "planned", "lease_hours": 2 });
        let refused = asked.post("plans/shop/run", &wrong).await;
        assert!(refused.body["detail"].as_str().unwrap().contains("lease"), "{refused:#?}");

        let test = json!({ "kind": "test", "network": "lab", "point": "latest-processed", "lease_hours": 2 });
        let dry = asked.post("plans/shop/run?dry_run=true", &test).await.body;
        assert!(dry["consequence"].as_str().unwrap().contains("after 2 h"), "{dry:#}");
        let run = asked.post("plans/shop/run", &test).await.body;
        asked.until_run("Succeeded").await;
        let run = &run["plan"]["run"];
        assert_eq!((&run["point"], &run["lease_hours"]), (&"latest-processed".into(), &2.into()));
        let vm = asked.get("vms/web-01").await.body;
        let ends = &vm["test_failover"]["lease_ends"];
        assert_eq!(hours_between(&run["started_at"], ends), 2, "{vm:#}");

        asked.post("plans/shop/run", &json!({ "kind": "clean-up", "notes": "it sold" })).await;
        asked
            .until_true("plans/shop", |plan| {
                plan["run"]["kind"] == "clean-up" && plan["run"]["state"] == "Succeeded"
            })
            .await;
        let vm = asked.get("vms/web-01").await.body;
        assert_eq!(vm["last_test_failover"]["notes"], "it sold", "{vm:#}");
    });
}

/// Hours between two moments, to the nearest.
fn hours_between(from: &Value, to: &Value) -> i64 {
    let ms = |moment: &Value| {
        let moment: Moment = serde_json::from_value(moment.clone()).unwrap();
        moment.0.as_millis()
    };
    (ms(to) - ms(from) + 1_800_000) / 3_600_000
}

#[test]
fn what_would_become_of_a_job_is_told_and_nothing_is_done() {
    with_two_vms(async |asked| {
        let look = json!({ "name": "look at it", "manual": "count the orders" });
        let plan = json!({ "group": [
            { "vms": ["db-01"] }, { "vms": ["web-01"], "before": [look] },
        ]});
        asked.put("plans/shop", &plan).await;
        asked.post("plans/shop/run", &json!({ "kind": "planned" })).await;
        let run = asked.until_run("WaitingForManualAction").await["run"]["id"].clone();
        let job = asked.get("vms/web-01").await.body["job"]["id"].clone();
        let path = |job: &Value, action: &str| format!("jobs/{}/{action}", job.as_str().unwrap());
        let told = async |job: &Value, action: &str| {
            let path = path(job, &format!("{action}?dry_run=true"));
            let answer = asked.post(&path, &nothing()).await;
            assert_eq!(answer.status, 200, "{answer:#?}");
            let verdict = (answer.body["allowed"] == true, answer.body["ready"] == true);
            assert_eq!(verdict.0, verdict.1, "{answer:#?}");
            (verdict.0, answer.body["consequence"].as_str().unwrap().to_owned())
        };
        let is_told = |found: (bool, String), says: &str| {
            assert!(found.0 && found.1.contains(says), "{says}: {found:?}");
        };
        is_told(told(&job, "cancel").await, "web-01 goes on at the primary site");
        is_told(told(&run, "cancel").await, "web-01: off at both sites");
        is_told(told(&run, "resume").await, "goes on with the next step");
        assert!(!told(&job, "resume").await.0, "nobody is waited for");
        assert!(!told(&run, "restart").await.0, "it runs");
        asked.until_run("WaitingForManualAction").await;

        asked.post("plans/shop/cancel", &nothing()).await;
        is_told(told(&run, "restart").await, "are shut down");
        asked.post(&path(&job, "cancel"), &nothing()).await;
        asked.until("Protected").await;
        assert!(!told(&job, "cancel").await.0, "it has ended");
        is_told(told(&job, "restart").await, "it starts at the recovery site");
        assert_eq!(asked.get("vms/web-01").await.body["state"], "Protected");
    });
}
