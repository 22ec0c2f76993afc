//! Questions about logs that are empty, end early or are damaged, and about what was never there: each has an
//! answer that says so, and nothing is made up.

use super::{fixture, lifeboat, text};
use std::fs;
use std::path::PathBuf;

/// A log, and a folder to keep it in.
struct Log {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

impl Log {
    /// An incident's log with its lines changed.
    fn of(change: impl FnOnce(&mut Vec<String>)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let whole = fs::read_to_string(fixture("link_flaps", "jsonl")).unwrap();
        let mut lines: Vec<String> = whole.lines().map(|line| format!("{line}\n")).collect();
        change(&mut lines);
        let file = folder.path().join("log.jsonl");
        fs::write(&file, lines.concat()).unwrap();
        Self { _folder: folder, file }
    }

    /// Exit code, and everything that was said.
    fn ask(&self, question: &str) -> (Option<i32>, String) {
        let file = self.file.to_str().unwrap();
        let words = question.replace("LOG", file);
        let words = words.replace("RETRY", fixture("closer-retries", "toml").to_str().unwrap());
        let mut arguments = vec!["replay"];
        arguments.extend(words.split(' '));
        let output = lifeboat(&arguments);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }

    fn check(&self, question: &str, code: i32, said: &str) {
        let (exit, answer) = self.ask(question);
        assert_eq!(exit, Some(code), "{question}: {answer}");
        assert!(answer.contains(said), "{question}: {answer}");
        assert!(!answer.contains("panicked"), "{question}: {answer}");
    }
}

#[test]
fn an_empty_log_has_no_moment_and_its_damage_is_named() {
    let empty = Log::of(Vec::clear);
    let damage = "damaged: line 1 of log.jsonl: the file is empty";
    for question in ["at --log LOG", "diff --log LOG 1 2", "what-if --log LOG --retry RETRY"] {
        empty.check(question, 2, damage);
    }
    empty.check("to-scenario LOG", 2, "the file is empty");
    empty.check("why --log LOG 1", 2, "the log has no commits");
    empty.check("verify --log LOG", 1, damage);
    empty.check("run --log LOG", 2, damage);
    empty.check("report --log LOG", 2, "the log has nothing there");
}

#[test]
fn a_log_of_one_commit_answers_everything() {
    let one = Log::of(|lines| {
        lines.truncate(2);
        lines[0] = lines[0].replacen("\"count\":125", "\"count\":1", 1);
    });
    one.check("at --log LOG", 0, "vault vault: can be reached");
    one.check("why --log LOG 1", 0, "the configuration created vault vault");
    one.check("run --log LOG", 0, "vault vault exists");
    one.check("diff --log LOG 0 1", 0, "vault vault: +");
    one.check("verify --log LOG", 0, "1 of 1 commits decided again");
    one.check("report --log LOG", 0, "<!doctype html>");
    one.check("what-if --log LOG --retry RETRY", 2, "no VM that was replicated");
    one.check("to-scenario LOG", 2, "no VM that was replicated");
}

#[test]
fn moments_outside_of_the_log_are_told_as_that() {
    let whole = Log::of(|_| {});
    whole.check("at --log LOG --seq 0", 2, "nothing at or before");
    whole.check("at --log LOG --time 2020-01-01T00:00:00Z", 2, "nothing at or before");
    let end = "the log ends before, with commit 125 at 2026-01-05T08:15:37.100Z";
    whole.check("at --log LOG --seq 126", 0, end);
    whole.check("at --log LOG --time 2026-01-05T08:16:00Z", 0, end);
    whole.check("at --log LOG --time 2026-01-05T08:16:00Z -o json", 0, "\"log_ends_before\":true");
    for inside in ["--seq 125", "--seq 60", "--time 2026-01-05T08:10:00Z"] {
        let (_, answer) = whole.ask(&format!("at --log LOG {inside}"));
        assert!(!answer.contains("ends before"), "{inside}: {answer}");
    }
    whole.check("diff --log LOG 0 0", 2, "nothing at or before");
    whole.check("why --log LOG 0", 2, "the log has positions 1 to 125");
    whole.check("why --log LOG 126", 2, "the log has positions 1 to 125");
    whole.check("report --log LOG --from 60 --to 50", 2, "nothing there");
    whole.check("run --log LOG --from 2099-01-01T00:00:00Z", 2, "nothing there");
}

#[test]
fn a_name_that_no_vm_has_is_refused_with_those_that_there_are() {
    let whole = Log::of(|_| {});
    for question in ["run --log LOG --vm sbc", "why --log LOG --vm sbc", "run --log LOG --vm cloud"]
    {
        whole.check(question, 2, "the log knows web");
    }
}

#[test]
fn every_answer_about_a_damaged_log_names_the_damage() {
    let damaged = Log::of(|lines| lines[50] = lines[50].replace("\"at\"", "\"ta\""));
    let named = "damaged: line 51 of log.jsonl: missing field `at`";
    for question in ["at --log LOG", "diff --log LOG 40 60", "run --log LOG", "to-scenario LOG"] {
        damaged.check(question, 0, "line 51 of log.jsonl: missing field `at`");
    }
    damaged.check("verify --log LOG", 1, named);
    damaged.check("what-if --log LOG --retry RETRY", 0, named);
    damaged.check("report --log LOG", 0, "line 51 of log.jsonl: missing field");
    damaged.check("why --log LOG --vm web --state critical", 0, "not certain: line 51");
    for question in ["at --log LOG", "diff --log LOG 40 60"] {
        damaged.check(question, 0, "not certain: commits of web are missing before commit 5");
    }
    // What is asked of before it is certain.
    let (_, answer) = damaged.ask("at --log LOG --seq 40");
    assert!(!answer.contains("damaged") && !answer.contains("not certain"), "{answer}");
}
