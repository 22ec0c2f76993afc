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
