//! The page of an incident in a real browser: nothing is fetched, there is no script, everything is there.
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use super::{INCIDENTS, fixture, lifeboat, text};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Whom the browser itself asks, whatever it shows.
const OWN_ERRANDS: [&str; 3] = [".google.com/", ".googleapis.com/", ".gvt1.com/"];

/// Runs the browser over a page; answers what it printed. `None` if there is no browser.
fn browse(page: &Path, profile: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("timeout");
    command.args(["120", "chromium", "--headless", "--no-sandbox", "--disable-gpu"]);
    command.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    command.args(arguments).arg(format!("file://{}", page.display()));
    let output = command.output().ok().filter(|output| output.status.code() != Some(127))?;
    assert!(output.status.success(), "{}", text(&output.stderr));
    Some(text(&output.stdout))
}

fn report(incident: &str, folder: &Path) -> std::path::PathBuf {
    let page = folder.join(format!("{incident}.html"));
    let log = fixture(incident, "jsonl");
    let (log, file) = (log.to_str().unwrap(), page.to_str().unwrap());
    let output = lifeboat(&["replay", "report", "--log", log, "--file", file]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    page
}

#[test]
fn a_browser_shows_all_of_a_page_and_fetches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for incident in INCIDENTS {
        let page = report(incident, folder.path());
        let requests = folder.path().join("requests.json");
        let log = format!("--log-net-log={}", requests.display());
        let Some(dom) = browse(&page, &folder.path().join("profile"), &["--dump-dom", &log]) else {
            println!(
                "SKIPPED a_browser_shows_all_of_a_page_and_fetches_nothing: chromium is not installed"
            );
            return;
        };
        for needed in [
            "<h2>What happened</h2>",
            "<h2>Age of the newest recovery point</h2>",
            "<polyline class=\"rpo\"",
            "<rect class=\"critical\"",
            "became Critical</h2>",
            "<ol class=\"chain\">",
            "<h2>Jobs</h2>",
            "<table class=\"timeline\">",
        ] {
            assert!(dom.contains(needed), "{incident}: {needed}");
        }
        for foreign in
            ["<script", " onload", " onclick", "<link", "<iframe", "<img", "src=", "href=", "error"]
        {
            let found = dom.to_lowercase().replace("vault error", "").contains(foreign);
            assert!(!found, "{incident}: {foreign}");
        }
        let requests = fs::read_to_string(&requests).unwrap();
        let urls = requests.split("\"url\":\"").skip(1).filter_map(|it| it.split('"').next());
        let is_own = |url: &str| OWN_ERRANDS.iter().any(|host| url.contains(host));
        let foreign: Vec<_> = urls.filter(|url| url.starts_with("http") && !is_own(url)).collect();
        assert!(foreign.is_empty(), "{incident}: {foreign:?}");
    }
}

#[test]
fn a_page_is_light_dark_and_printed() {
    let folder = tempfile::tempdir().unwrap();
    let page = report("host_killed_in_failover", folder.path());
    let mut pictures = Vec::new();
    for (nth, scheme) in ["preferredColorScheme=1", "preferredColorScheme=0"].iter().enumerate() {
        let picture = folder.path().join(format!("{nth}.png"));
        let file = format!("--screenshot={}", picture.display());
        let settings = format!("--blink-settings={scheme}");
        let arguments = [file.as_str(), &settings, "--window-size=1000,1400"];
        if browse(&page, &folder.path().join("profile"), &arguments).is_none() {
            println!("SKIPPED a_page_is_light_dark_and_printed: chromium is not installed");
            return;
        }
        pictures.push(fs::read(picture).unwrap());
    }
    assert!(20_000 < pictures[0].len() && 20_000 < pictures[1].len());
    assert_ne!(pictures[0], pictures[1]);
    let paper = folder.path().join("paper.pdf");
    let file = format!("--print-to-pdf={}", paper.display());
    browse(&page, &folder.path().join("profile"), &[&file, "--no-pdf-header-footer"]).unwrap();
    let paper = fs::read(paper).unwrap();
    assert!(paper.starts_with(b"%PDF") && 20_000 < paper.len());
}
