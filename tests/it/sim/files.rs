//! Scenario files that cannot be used are refused with the line and the key.

use lifeboat::sim::Scenario;

#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let error = Scenario::parse("bad.toml", text).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

const HEAD: &str = r#"title = "t"
why = "w"
duration = "1h"

[[vm]]
name = "web"
host = "host-1"
disks = ["1MiB"]
"#;

fn with(more: &str) -> String {
    format!("{HEAD}{more}")
}

#[test]
fn what_is_not_toml_or_has_an_unknown_key_names_its_line() {
    refused(&with("[[at]]\nt = \n"), &["bad.toml", "line 10"]);
    refused(
        &with("[[at]]\nt = \"1m\"\ndo = \"cut_link\"\nhots = \"host-1\"\n"),
        &["line 12", "hots"],
    );
    refused(&with("[[at]]\nt = \"1m\"\ndo = \"cut_lnik\"\n"), &["line 11", "cut_lnik", "cut_link"]);
    refused(&with("[[at]]\nt = \"1 hour\"\ndo = \"cut_link\"\n"), &["line 10", "1 hour", "90s"]);
}

#[test]
fn what_does_not_fit_names_line_and_key() {
    refused("title = \"t\"\nwhy = \"w\"\nduration = \"1h\"\n", &["vm", "at least one"]);
    let step = |rest: &str| with(&format!("[[at]]\nt = \"1m\"\n{rest}\n"));
    refused(&step("do = \"power_loss\""), &["line 11", "host", "needs"]);
    refused(&step("do = \"cut_link\"\npercent = 3"), &["line 11", "percent", "does not take"]);
    refused(&step("do = \"power_loss\"\nhost = \"host-9\""), &["line 12", "host-9"]);
    refused(&step("do = \"commit\"\nvm = \"wbe\""), &["line 12", "wbe"]);
    refused(&step("do = \"jump_clock\""), &["line 11", "forward or back"]);
    refused(&step("do = \"change_policy\""), &["line 11", "copy_frequency, retention"]);
    refused(&step("do = \"change_policy\"\nretention = \"100h\""), &["line 11", "from 0 to 72"]);
    refused(&step("do = \"change_policy\"\nvm = \"web\""), &["vm", "does not take"]);
    refused(&step("do = \"resync\""), &["line 11", "vm", "needs"]);
    let decide = "do = \"decide_failover\"\nvm = \"web\"\nafter = \"5m\"\n";
    refused(&step(decide), &["line 11", "then", "needs"]);
    refused(&step(&format!("{decide}then = \"undo\"")), &["line 14", "undo", "cancel"]);
    refused(&step("do = \"commit\"\nvm = \"web\"\nfull = true"), &["full", "does not take"]);
    refused(
        &with("[[at]]\nt = \"2h\"\ndo = \"retry\"\n"),
        &["line 10", "t", "end of the timeline"],
    );
    let expect = |rest: &str| with(&format!("[[expect]]\nthat = \"rpo_max\"\n{rest}\n"));
    refused(&expect(""), &["line 10", "at_most"]);
    refused(&expect("at_most = 5"), &["line 11", "at_most", "text in quotes"]);
    refused(&expect("includes = \"1m\""), &["line 11", "includes", "compared"]);
    refused(&HEAD.replace("1MiB", "1GiB"), &["line 8", "disks", "64 MiB"]);
    refused(&HEAD.replace("\"host-1\"", "\"elsewhere\""), &["line 7", "host", "elsewhere"]);
}

#[test]
fn a_scenario_reads_back_as_it_is_written() {
    for seed in 0..20 {
        let scenario = Scenario::random(seed);
        let text = scenario.to_toml().unwrap();
        let read = Scenario::parse("random", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(read.to_toml().unwrap(), text);
    }
}

/// What is said of a scenario in a folder with these files, of which the first is the scenario.
#[track_caller]
fn refused_in_folder(files: &[(&str, &str)], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let error = Scenario::read(&folder.path().join(files[0].0)).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

const NAMES_SITE: &str =
    "title = \"t\"\nwhy = \"w\"\nduration = \"1h\"\ntopology = \"site.toml\"\n";

#[test]
fn what_is_wrong_in_a_topology_or_a_trace_names_that_file_and_its_line() {
    let vm = "[[vm]]\nname = \"web\"\nhost = \"host-1\"\ndisks = [\"1MiB\"]\n";
    let site = |more: &str| format!("{vm}{more}");
    let both = |text: &str, words: &[&str]| {
        refused_in_folder(&[("run.toml", NAMES_SITE), ("site.toml", text)], words);
    };
    refused_in_folder(&[("run.toml", NAMES_SITE)], &["read scenario", "site.toml"]);
    both(&site("hots = 3\n"), &["site.toml", "line 5", "hots"]);
    both(&vm.replace("host-1", "host-9"), &["site.toml", "line 3", "host-9"]);
    both(&site("[[site.cluster]]\nname = \"c\"\nhosts = [\"host-2\"]\n"), &["line 7", "host-2"]);
    let network = "[[site.network]]\nname = \"web\"\nto = \"dr\"\n";
    both(&site(network), &["site.toml", "line 7", "to", "dr"]);
    both(&site("nic = [{ name = \"eth0\", network = \"web\" }]\n"), &["line 5", "network", "web"]);
    both(&site("trace = \"web.trace\"\n"), &["read trace", "web.trace"]);
    let traced = site("trace = \"web.trace\"\n");
    let traces = |trace: &str, words: &[&str]| {
        let files = [("run.toml", NAMES_SITE), ("site.toml", &traced), ("web.trace", trace)];
        refused_in_folder(&files, words);
    };
    traces("1s 0 0 4KiB\n2s 0 1MiB 4KiB\n", &["web.trace", "line 2", "behind the disk"]);
    traces("1s 0 0\n", &["web.trace", "line 1", "time, disk, offset, length"]);
    let beside = format!("{NAMES_SITE}{vm}");
    refused_in_folder(
        &[("run.toml", &beside), ("site.toml", vm)],
        &["run.toml", "line 4", "topology", "no [[vm]]"],
    );
    let moved = format!(
        "{NAMES_SITE}[[at]]\nt = \"1m\"\ndo = \"move_vm\"\nvm = \"web\"\nhost = \"host-1\"\n"
    );
    refused_in_folder(
        &[("run.toml", &moved), ("site.toml", vm)],
        &["run.toml", "line 9", "host", "no cluster"],
    );
}

#[test]
fn a_scenario_with_files_reads_back_as_it_is_written_elsewhere() {
    let scenario = super::named("mapped_networks");
    let text = scenario.to_toml().unwrap();
    let read = Scenario::parse("elsewhere", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(read.to_toml().unwrap(), text);
    assert_eq!(read.vm[1].recorded, scenario.vm[1].recorded);
    assert!(read.vm[1].recorded.is_some());
}
