//! Names the commit that a release is built from, for the event log to say who wrote it, and for
//! `lifeboat --version`: `LIFEBOAT_BUILD` is the version, with the commit behind it where that is known. Debug
//! builds are not told apart: each commit would compile everything again.

use std::process::Command;

fn main() {
    let mut build = env!("CARGO_PKG_VERSION").to_owned();
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if is_release && let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        let is_changed = git(&["status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock"])
            .is_none_or(|changes| !changes.is_empty());
        build = format!("{build}+{commit}{}", if is_changed { ".changed" } else { "" });
    }
    println!("cargo::rustc-env=LIFEBOAT_BUILD={build}");
    println!("cargo::rerun-if-changed=src");
    // Git's diary of what is checked out, which a source archive does not have.
    let diary = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    if let Some(diary) = diary.filter(|diary| std::path::Path::new(diary).exists()) {
        println!("cargo::rerun-if-changed={diary}");
    }
}

/// What git answers; `None` where there is no git, or this is no checkout of it.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
