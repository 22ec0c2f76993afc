//! A running service, operated by the command line.

use super::{ONE_GUEST, Place, Running, command, lifeboat, text};
use lifeboat::disk::nbd::NbdDisk;
use lifeboat::ports::block::BlockDevice;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

/// Looks at something that must come.
const LOOKS: usize = 200;

pub(super) struct Operated {
    pub(super) place: Place,
    pub(super) service: Running,
}

impl Operated {
    /// A service whose VM is protected.
    fn new() -> Self {
        Self::of(ONE_GUEST, &["web-01"])
    }

    /// A service of this site, some of whose VMs are protected.
    pub(super) fn of(site: &str, vms: &[&str]) -> Self {
        let place = Place::new(site);
        let service = Running::serve(&place.config());
        let operated = Self { place, service };
        for name in vms {
            let protected = |vm: &Value| vm["state"] == "Protected" && vm["health"] == "Normal";
            operated.until(name, protected);
        }
        operated
    }

    /// Waits until something holds of a VM.
    #[track_caller]
    pub(super) fn until(&self, name: &str, is_so: impl Fn(&Value) -> bool) {
        for _ in 0..LOOKS {
            if is_so(&self.json(&["vm", "show", name])) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("it did not come to that: {:#}", self.json(&["vm", "show", name]));
    }

    /// Connects to the export of a disk; those of the recovery site are in a folder of their own.
    pub(super) fn connect(&self, folder: &str, export: &str) -> NbdDisk {
        let socket = self.place.data().join(folder).join("nbd.sock");
        NbdDisk::connect(&format!("nbd+unix:///{export}?socket={}", socket.display())).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let data = self.place.data_text();
        lifeboat(&[arguments, &["--data", &data]].concat())
    }

    /// The result of a command that must go well.
    #[track_caller]
    pub(super) fn done(&self, arguments: &[&str]) -> String {
        self.ends(arguments, 0).0
    }

    #[track_caller]
    pub(super) fn json(&self, arguments: &[&str]) -> Value {
        let result = self.done(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&result).unwrap()
    }

    /// Result and talk of a command that must end with an exit code.
    #[track_caller]
    pub(super) fn ends(&self, arguments: &[&str], code: i32) -> (String, String) {
        let output = self.run(arguments);
        let (result, talk) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{result}{talk}");
        (result, talk)
    }
}

#[test]
fn a_vm_is_failed_over_and_committed_from_the_command_line() {
    let operated = Operated::new();
    let status = operated.done(&["status", "--exit-code"]);
    assert!(status.contains("web-01  protected"), "{status}");
    assert!(operated.done(&["vm", "list"]).contains("Normal"));
    assert!(operated.done(&["vm", "recovery-points", "web-01"]).lines().count() > 1);

    let unplanned = ["failover", "unplanned", "web-01"];
    let dry = operated.done(&[&unplanned[..], &["--dry-run"]].concat());
    assert!(dry.contains("allowed") && dry.contains("is lost"), "{dry}");
    let (_, talk) = operated.ends(&unplanned, 2);
    assert!(talk.contains("is lost") && talk.contains("give -y"), "{talk}");
    assert_eq!(operated.json(&["vm", "show", "web-01"])["state"], "Protected");

    let (job, talk) = operated.ends(&[&unplanned[..], &["-y", "--wait", "-o", "json"]].concat(), 0);
    assert!(talk.contains("is lost") && talk.contains("[2/4] Closing the replica"), "{talk}");
    let job: Value = serde_json::from_str(&job).unwrap();
    assert_eq!((&job["state"], &job["target_name"]), (&"Succeeded".into(), &"web-01".into()));
    assert!(job["asked_by"].as_str().unwrap().contains("command line"), "{job}");

    let id = job["id"].as_str().unwrap();
    let watched = operated.done(&["job", "watch", id]);
    let ends = "[4/4] Start the replica virtual machine: Succeeded\nUnplanned failover of web-01: Succeeded";
    assert!(watched.contains(ends), "{watched}");
    assert!(
        operated.done(&["job", "show", &id[..13]]).contains("Start the replica virtual machine")
    );
    assert!(operated.done(&["job", "list", "--vm", "web-01"]).contains(id));

    let warned = operated.ends(&["status", "--exit-code"], 10).0;
    assert!(warned.contains("commit the failover"), "{warned}");
    let (_, talk) = operated.ends(&[&unplanned[..], &["-y"]].concat(), 5);
    assert!(talk.contains("SR-3001") && talk.contains("allowed: Commit"), "{talk}");
    operated.done(&["failover", "commit", "web-01", "-y", "--wait", "--timeout", "30s"]);
    assert_eq!(operated.json(&["vm", "show", "web-01"])["state"], "UnplannedFailoverCommitted");
    assert_eq!(operated.service.stop().code(), Some(0));
}

#[test]
fn every_kind_of_no_has_its_exit_code() {
    let operated = Operated::new();
    let (_, talk) = operated.ends(&["vm", "show", "web-02"], 3);
    assert!(talk.contains("SR-1023 VM web-02 does not exist"), "{talk}");
    operated.ends(&["job", "show", "none"], 3);
    operated.ends(&["failover", "planned", "../jobs", "-y"], 3);
    operated.ends(&["failover", "unplanned", "web-01", "--point", "newest", "-y"], 2);
    operated.ends(&["policy", "set", "cloud-1", "--copy-frequency", "0"], 2);
    operated.ends(&["failover", "commit", "web-01", "-y"], 5);
    operated.ends(&["failover", "commit", "web-01", "--dry-run"], 5);
    operated.ends(&["vm", "protect", "web-01"], 5);

    let url = format!("http://{}", operated.service.address);
    let wrong = operated.place.file("wrong.token");
    std::fs::write(&wrong, "0".repeat(64)).unwrap();
    let at = |token: &str| lifeboat(&["status", "--server", &url, "--token-file", token]);
    assert_eq!(at(&wrong).status.code(), Some(4));
    let right = operated.place.data().join("control.token");
    assert_eq!(at(right.to_str().unwrap()).status.code(), Some(0));
    assert_eq!(lifeboat(&["status", "--server", &url]).status.code(), Some(2), "without a token");

    let Operated { place, service } = operated;
    let data = place.data_text();
    service.kill();
    let gone = lifeboat(&["status", "--data", &data]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("no service answers at"), "{}", text(&gone.stderr));
    let none = lifeboat(&["status", "--data", &place.file("nowhere")]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("name its folder with --data"));
}

#[test]
fn settings_are_changed_and_results_are_told_as_json_and_yaml() {
    let operated = Operated::new();
    operated.done(&["policy", "set", "cloud-1", "--copy-frequency", "2", "--retention", "5"]);
    let policies = operated.done(&["policy", "list"]);
    assert!(policies.contains("every 2 s") && policies.contains("5 h"), "{policies}");
    operated.done(&["vm", "resync-window", "web-01", "22:00-05:00"]);
    let vm = operated.json(&["vm", "show", "web-01"]);
    assert!(vm["resync"]["window"].as_str().unwrap().starts_with("22:00-05:00"), "{vm}");
    assert!(operated.done(&["vm", "retry", "web-01"]).contains("nothing to do"));
    assert!(operated.done(&["host", "list"]).contains("host-1"));
    assert!(operated.done(&["cloud", "list", "-o", "yaml"]).contains("name: cloud-1"));
    assert!(operated.done(&["vault", "show"]).contains("vault-1"));

    let planned = ["failover", "planned", "web-01", "-y", "--request-id", "k", "-o", "json"];
    let first = operated.json(&planned[..6]);
    let again = operated.json(&planned[..6]);
    assert_eq!((&again["repeated"], &again["job"]["id"]), (&true.into(), &first["job"]["id"]));
}

#[test]
fn a_failover_is_tested_and_replication_paused_from_the_command_line() {
    let operated = Operated::new();
    let test = ["failover", "test", "web-01", "--network", "lab", "--wait"];
    assert!(operated.done(&test).contains("Test failover of web-01: Succeeded"));
    assert!(operated.done(&["vm", "show", "web-01"]).contains("waits for its clean-up"));
    operated.done(&["failover", "cleanup", "web-01", "--notes", "fine", "--wait"]);
    assert!(operated.done(&["vm", "show", "web-01"]).contains("succeeded, cleaned up"));
    operated.done(&["vm", "pause", "web-01"]);
    assert!(operated.done(&["vm", "show", "web-01"]).contains("paused"));
    operated.done(&["vm", "resume", "web-01"]);
    operated.ends(&["failback", "begin", "web-01", "-y"], 5);
    operated.ends(&["failback", "complete", "web-01", "--dry-run"], 5);
    operated.ends(&["vm", "unprotect", "web-01"], 2);
    operated.done(&["vm", "unprotect", "web-01", "-y", "--wait"]);
    assert_eq!(operated.json(&["vm", "show", "web-01"])["state"], "Unprotected");
    let protect = operated.done(&["vm", "protect", "web-01", "--wait", "--timeout", "60s"]);
    assert!(protect.contains("Finalize protection"), "every job of the chain: {protect}");
}

#[test]
fn an_error_is_explained_without_a_service() {
    let output = lifeboat(&["explain", "sr-2101"]);
    let said = text(&output.stdout);
    assert!(
        output.status.success() && said.starts_with("SR-2101 The vault cannot be reached"),
        "{said}"
    );
    let entry = text(&lifeboat(&["explain", "SR-3001", "-o", "json"]).stdout);
    let entry: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!(entry["class"], "NonRecoverable");
    assert_eq!(lifeboat(&["explain", "SR-0000"]).status.code(), Some(3));
}

#[test]
fn whoever_stops_reading_gets_no_panic() {
    let mut child = command(&["explain", "SR-2101"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let _ = std::io::stderr().flush();
    assert!(!text(&output.stderr).contains("panic"), "{}", text(&output.stderr));
}

#[test]
fn a_recovery_plan_is_applied_checked_and_run_from_the_command_line() {
    let operated = Operated::new();
    let file = operated.place.file("shop.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let apply = ["plan", "apply", "-f", &file];
    write("[[group]]\nvms = [\"web-01\"]\n[[group.after]]\nname = \"x\"\n");
    let (_, talk) = operated.ends(&apply, 2);
    assert!(talk.contains("line 3") && talk.contains("exactly one of"), "{talk}");
    write("[[group]]\nvms = [\n  \"web-09\",\n]\n");
    let (_, talk) = operated.ends(&apply, 3);
    assert!(talk.contains("line 3: there is no VM web-09"), "{talk}");

    write("[[group]]\nvms = [\"web-01\"]\n[[group.after]]\nname = \"look\"\nmanual = \"see\"\n");
    assert!(operated.done(&apply).contains("define of shop: done"));
    assert!(operated.done(&apply).contains("nothing to do"));
    assert!(operated.done(&["plan", "list"]).contains("shop"));
    let shown = operated.done(&["plan", "show", "shop"]);
    assert!(shown.contains("manual = \"see\""), "{shown}");
    let check = operated.done(&["plan", "check", "shop", "--kind", "test", "--network", "lab"]);
    assert!(check.contains("ok  VM web-01"), "{check}");
    let (commit, _) = operated.ends(&["plan", "check", "shop", "--kind", "commit"], 5);
    assert!(commit.contains("NO  VM web-01"), "{commit}");
    operated.ends(&["plan", "run", "shop", "--kind", "test"], 2);
    operated.ends(&["plan", "run", "shop", "--kind", "planned"], 2);

    let lease = ["plan", "run", "shop", "--kind", "planned", "--lease", "2", "-y"];
    let (_, talk) = operated.ends(&lease, 2);
    assert!(talk.contains("lease"), "{talk}");
    let test = ["plan", "run", "shop", "--kind", "test", "--network", "lab", "--wait"];
    let test = [&test[..], &["--lease", "2", "--point", "latest-processed"]].concat();
    let (result, talk) = operated.ends(&test, 7);
    let shown = operated.done(&["plan", "show", "shop"]);
    let chosen = "from latest-processed of each VM; cleaned up by itself after 2 h";
    assert!(shown.contains(chosen), "{shown}");
    assert!(result.contains("test run of shop: WaitingForManualAction"), "{result}");
    assert!(talk.contains("[3/3]   to do: see"), "{talk}");
    assert!(talk.contains("[2/3] Start of group 1: Succeeded"), "{talk}");
    let went_on = operated.done(&["plan", "continue", "shop", "--notes", "fine", "--wait"]);
    assert!(went_on.contains("test run of shop: Succeeded"), "{went_on}");
    operated.done(&["plan", "run", "shop", "--kind", "clean-up", "--notes", "it sold", "--wait"]);
    let vm = operated.json(&["vm", "show", "web-01"]);
    assert_eq!(vm["last_test_failover"]["notes"], "it sold", "{vm:#}");
    // Why it failed is told wherever it is told that it did.
    let commit = ["plan", "run", "shop", "--kind", "commit", "--wait", "-y"];
    let (result, talk) = operated.ends(&commit, 6);
    let why = "Commit of web-01 is not allowed while it is protected";
    assert!(result.contains(why), "{result}");
    assert!(talk.contains("[1/1]   because: step commit of a recovery plan failed"), "{talk}");
    assert!(operated.done(&["plan", "show", "shop"]).contains(why));
    let run = last_run(&operated);
    let shown = operated.done(&["job", "show", run["id"].as_str().unwrap()]);
    assert_eq!(shown.matches(why).count(), 1, "once: {shown}");
    operated.ends(&["plan", "retry", "shop"], 5);
    operated.ends(&["failover", "release", "web-01", "-y"], 5);
    operated.done(&["plan", "delete", "shop", "-y"]);
    operated.ends(&["plan", "show", "shop"], 3);
}

/// The job of the last run of the plan `shop`, as the list of jobs tells it.
fn last_run(operated: &Operated) -> Value {
    operated.json(&["job", "list", "--vm", "shop", "-n", "1"])[0].clone()
}

#[test]
fn runs_of_a_plan_are_jobs_that_are_watched_resumed_cancelled_and_begun_again() {
    let operated = Operated::new();
    let file = operated.place.file("shop.toml");
    let plan =
        "[[group]]\nvms = [\"web-01\"]\n[[group.after]]\nname = \"look\"\nmanual = \"see\"\n";
    std::fs::write(&file, plan).unwrap();
    operated.done(&["plan", "apply", "-f", &file]);
    let run = |kind: &str, code| {
        let network: &[&str] = if kind == "test" { &["--network", "lab"] } else { &[] };
        let run = ["plan", "run", "shop", "--kind", kind, "-y", "--wait"];
        operated.ends(&[&run[..], network].concat(), code);
        last_run(&operated)
    };

    let first = run("test", 7);
    assert_eq!(first["target_type"], "RecoveryPlan", "{first:#}");
    assert_eq!(first["scenario_name"], "TestFailover");
    assert_eq!(first["state"], "WaitingForManualAction");
    assert_eq!(first["allowed_actions"], serde_json::json!(["Cancel", "Resume"]));
    let status = operated.done(&["status"]);
    assert!(status.contains("0 without protection; 1 jobs run"), "{status}");
    assert!(status.contains("WaitingForManualAction  3 of 3: look"), "{status}");
    assert!(status.contains("the test run of shop waits: \"look\" is to be done: see"), "{status}");
    let id = first["id"].as_str().unwrap();
    let shown = operated.done(&["job", "show", &id[..13]]);
    assert!(shown.contains("waits for somebody who does \"look\""), "{shown}");
    assert!(shown.contains("Start of group 1"), "{shown}");
    operated.ends(&["job", "watch", id, "--timeout", "1s"], 7);
    operated.ends(&["job", "restart", id], 5);
    operated.ends(&["job", "restart", id, "--dry-run"], 5);
    let dry = operated.done(&["job", "cancel", id, "--dry-run"]);
    assert!(dry.contains("cancel of shop: allowed"), "{dry}");
    let dry = operated.done(&["job", "resume", id, "--dry-run"]);
    assert!(dry.contains("goes on with the next step"), "{dry}");
    let resumed = operated.done(&["job", "resume", id, "--notes", "it sells", "--wait"]);
    assert!(resumed.contains("Test failover of shop: Succeeded"), "{resumed}");
    let plan = operated.json(&["plan", "show", "shop"]);
    assert_eq!(plan["run"]["steps"][2]["notes"], "it sells", "{plan:#}");
    assert_eq!(last_run(&operated)["allowed_actions"], serde_json::json!([]), "it is done");
    assert_eq!(run("clean-up", 0)["scenario_name"], "TestFailoverCleanup");

    let given_up = run("test", 7);
    operated.done(&["job", "cancel", given_up["id"].as_str().unwrap()]);
    let given_up = last_run(&operated);
    assert_eq!(given_up["state"], "Cancelled");
    assert_eq!(given_up["allowed_actions"], serde_json::json!(["Restart"]));
    run("clean-up", 0);
    let id = given_up["id"].as_str().unwrap();
    let again = ["job", "restart", id, "--request-id", "once", "-o", "json"];
    let begun = operated.json(&again[..5]);
    let repeated = operated.json(&again[..5]);
    assert_eq!(
        (&repeated["repeated"], &repeated["job"]["id"]),
        (&true.into(), &begun["job"]["id"])
    );
    let begun = begun["job"]["id"].as_str().unwrap();
    assert_ne!(begun, id);
    operated.ends(&["job", "watch", begun], 7);
    operated.done(&["job", "resume", begun, "--wait"]);
    run("clean-up", 0);

    run("planned", 7);
    let id = last_run(&operated)["id"].as_str().unwrap().to_owned();
    operated.done(&["job", "resume", &id, "--wait"]);
    assert_eq!(operated.json(&["vm", "show", "web-01"])["state"], "PlannedFailoverCommitRequired");
    assert_eq!(run("commit", 0)["state"], "Succeeded");
    assert_eq!(operated.json(&["vm", "show", "web-01"])["state"], "PlannedFailoverStatesBegin");
}

#[test]
fn an_unplanned_run_of_a_plan_is_committed_and_reversed_from_the_command_line() {
    let operated = Operated::new();
    let file = operated.place.file("shop.toml");
    std::fs::write(&file, "[[group]]\nvms = [\"web-01\"]\n").unwrap();
    operated.done(&["plan", "apply", "-f", &file]);
    let run = |kind: &str, code| {
        operated.ends(&["plan", "run", "shop", "--kind", kind, "-y", "--wait"], code);
        operated.json(&["vm", "show", "web-01"])["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(run("unplanned", 0), "UnplannedFailoverCommitPendingStatesBegin");
    // What is done already is passed over.
    let dry = ["plan", "run", "shop", "--kind", "unplanned", "--synchronize", "--dry-run"];
    assert!(operated.done(&dry).contains("what they wrote last is sent"));
    assert_eq!(run("unplanned", 0), "UnplannedFailoverCommitPendingStatesBegin");
    assert_eq!(run("commit", 0), "UnplannedFailoverCommitted");
    assert_eq!(run("test", 2), "UnplannedFailoverCommitted", "a test needs a network");
    operated.done(&["failback", "begin", "web-01", "-y", "--wait"]);
    operated.done(&["failback", "complete", "web-01", "-y", "--wait"]);
    let dry = operated.done(&["plan", "run", "shop", "--kind", "commit", "--dry-run"]);
    assert!(
        dry.contains("The failback of 1 VMs of shop becomes final: the replicas' disks"),
        "{dry}"
    );
    operated.done(&["failover", "commit", "web-01", "-y", "--wait"]);
    assert_eq!(run("reverse", 0), "Protected");
    let runs = operated.json(&["job", "list", "--vm", "shop"]);
    let names: Vec<_> = runs.as_array().unwrap().iter().map(|run| &run["scenario_name"]).collect();
    let reverse = "ReprotectReplicationGroup";
    assert_eq!(names, [reverse, "CommitFailover", "UnplannedFailover", "UnplannedFailover"]);
    assert!(operated.done(&["job", "list"]).contains("shop"));
}

#[test]
fn what_replication_did_lately_is_told_of_a_vm() {
    let operated = Operated::new();
    let shown = operated.done(&["vm", "show", "web-01"]);
    assert!(shown.contains(" cycles, 0 missed, "), "{shown}");
    assert!(shown.contains("not sent"), "{shown}");
    let statistics = &operated.json(&["vm", "show", "web-01"])["statistics"];
    let current = &statistics["current"];
    assert_eq!(current["missed_cycles"], 0, "{statistics:#}");
    assert_eq!(current["total_cycles"], current["successful_cycles"]);
    let span = |name: &str| current[name].as_str().unwrap().to_owned();
    assert!(span("begins") <= span("since") && span("since") < span("ends"), "{statistics:#}");
}

/// A VM that somebody else runs.
const EXTERNAL: &str = r#"
[[host]]
name = "host-1"
[[host.vm]]
name = "db-01"
disk = [{ name = "data", path = "disks/db-01.img", create_mib = 4 }]
"#;

#[test]
fn an_unplanned_failover_of_a_source_that_answers_can_be_had_without_a_loss() {
    let operated = Operated::of(EXTERNAL, &["db-01"]);
    operated.done(&["vm", "pause", "db-01"]);
    operated.connect("", "db-01-data").write_at(&[7; 4096], 0, true).unwrap();
    let unplanned = ["failover", "unplanned", "db-01", "--synchronize"];
    let (_, both) = operated.ends(&[&unplanned[..], &["--point", "latest"]].concat(), 2);
    assert!(both.contains("cannot be used with"), "{both}");
    let dry = operated.done(&[&unplanned[..], &["--dry-run"]].concat());
    assert!(dry.contains("of logs are sent") && dry.contains("nothing is lost"), "{dry}");
    operated.done(&[&unplanned[..], &["-y", "--wait"]].concat());
    let mut found = [0; 4096];
    operated.connect("recovery", "db-01-data").read_at(&mut found, 0).unwrap();
    assert_eq!(found, [7; 4096]);
    let shown = operated.done(&["vm", "show", "db-01"]);
    assert!(shown.contains("the source was shut down"), "{shown}");
    let source = &operated.json(&["vm", "show", "db-01"])["failover"]["source"];
    assert_eq!((&source["how"], &source["unsent"]), (&"ShutDown".into(), &Value::Null));
}

#[test]
fn a_vm_is_copied_from_its_time_on_and_left_without_its_host_only_where_that_is_silent() {
    let operated = Operated::of(EXTERNAL, &["db-01"]);
    let gone = ["vm", "unprotect", "db-01", "--source-gone", "-y"];
    let (_, refused) = operated.ends(&gone, 5);
    assert!(refused.contains("host-1 is gone, since it answers"), "{refused}");
    let (dry, _) = operated.ends(&[&gone[..4], &["--dry-run"]].concat(), 5);
    assert!(dry.contains("unprotect of db-01: not allowed"), "{dry}");
    assert!(dry.contains("ok  the state allows it"), "{dry}");
    assert!(dry.contains("NO  host host-1 is gone: it answers"), "{dry}");
    let dry = operated.done(&["vm", "unprotect", "db-01", "--dry-run"]);
    assert!(dry.contains("ok  host host-1 answers"), "{dry}");
    operated.done(&["vm", "unprotect", "db-01", "-y", "--wait"]);

    let at = |hours: i64| {
        let moment = chrono::DateTime::from_timestamp(unix_now() + hours * 3_600, 0).unwrap();
        moment.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    let protect = |at: &str, code| operated.ends(&["vm", "protect", "db-01", "--at", at], code).1;
    let refused = protect(&at(48), 2);
    assert!(refused.contains("within 24 hours from now"), "{refused}");
    let refused = protect("tonight", 2);
    assert!(refused.contains("\"tonight\" is no moment"), "{refused}");
    let due = at(2);
    protect(&due, 0);
    let waits = |vm: &Value| {
        let next = vm["causes"][0]["next"].as_str().unwrap_or_default();
        vm["state"] == "EnablingProtection" && next.contains(&due[..19])
    };
    operated.until("db-01", waits);
    operated.done(&["vm", "unprotect", "db-01", "-y", "--wait"]);
}

#[test]
fn a_host_that_is_gone_is_waited_for_by_nobody_and_ends_tracking_if_it_comes_back() {
    let operated = Operated::of(&format!("{EXTERNAL}[[host]]\nname = \"host-2\""), &["db-01"]);
    let Operated { place, service } = operated;
    service.stop();
    place.configure("[[host]]\nname = \"host-2\"");
    let operated = Operated { service: Running::serve(&place.config()), place };
    let waits = ["vm", "unprotect", "db-01", "-y", "--wait", "--timeout", "2s"];
    let (_, talk) = operated.ends(&waits, 8);
    assert!(talk.contains("SR-2001"), "{talk}");
    operated.done(&["vm", "unprotect", "db-01", "--source-gone", "-y", "--wait"]);
    let Operated { place, service } = operated;
    service.stop();

    place.configure(EXTERNAL);
    let operated = Operated { service: Running::serve(&place.config()), place };
    operated.connect("", "db-01-data").write_at(&[7; 4096], 0, true).unwrap();
    let logs = || {
        let folder = fs::read_dir(operated.place.data().join("hosts/host-1/db-01")).unwrap();
        let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".hrl")).collect::<Vec<_>>()
    };
    assert_eq!(logs(), [""; 0], "it is tracked for nobody");
}

fn unix_now() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    since.as_secs() as i64
}
