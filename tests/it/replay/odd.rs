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
    // Nothing gets older behind the end of the log.
    let (_, late) = whole.ask("at --log LOG --time 2100-01-01T00:00:00Z");
    let (_, last) = whole.ask("at --log LOG");
    assert_eq!(
        late.strip_prefix(&*last).map(|rest| rest.contains("how things were then")),
        Some(true)
    );
    whole.check("at --log LOG --seq 18446744073709551615", 0, end);
    whole.check("diff --log LOG 60 9999", 0, end);
    for inside in ["--seq 125", "--seq 60", "--time 2026-01-05T08:10:00Z"] {
        let (_, answer) = whole.ask(&format!("at --log LOG {inside}"));
        assert!(!answer.contains("ends before"), "{inside}: {answer}");
    }
    whole.check("diff --log LOG 0 0", 2, "nothing at or before");
    whole.check("why --log LOG 0", 2, "the log has positions 1 to 125");
    whole.check("why --log LOG 126", 2, "the log has positions 1 to 125");
    for question in ["report", "run"] {
        let behind = format!("{question} --log LOG --from 60 --to 50");
        whole.check(&behind, 2, "--from 60 is behind --to 50");
    }
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
    let told = "line 51 of log.jsonl: is not as it was written: missing field `at` (column ";
    let named = &format!("damaged: {told}");
    for question in ["at --log LOG", "diff --log LOG 40 60", "run --log LOG", "to-scenario LOG"] {
        damaged.check(question, 0, told);
    }
    damaged.check("verify --log LOG", 1, named);
    damaged.check("what-if --log LOG --retry RETRY", 0, named);
    damaged.check("report --log LOG", 0, "line 51 of log.jsonl: is not as it was written");
    damaged.check("why --log LOG --vm web --state critical", 0, "not certain: line 51");
    for question in ["at --log LOG", "diff --log LOG 40 60"] {
        damaged.check(question, 0, "not certain: commits of web are missing before commit 5");
    }
    // What is asked of before it is certain.
    let (_, answer) = damaged.ask("at --log LOG --seq 40");
    assert!(!answer.contains("damaged") && !answer.contains("not certain"), "{answer}");
}

#[test]
fn damage_is_no_word_against_what_was_decided() {
    let twice = Log::of(|lines| lines.insert(60, lines[60].clone()));
    twice.check("verify --log LOG", 1, "125 of 125 commits decided again: as recorded");
    twice.check("verify --log LOG", 1, "the log is damaged in 1 place");
    let empty = Log::of(|lines| {
        lines.truncate(1);
        lines[0] = lines[0].replacen("\"count\":125", "\"count\":0", 1);
    });
    empty.check("verify --log LOG", 0, "the log is empty: there is nothing to decide again");
}

#[test]
fn a_log_without_its_beginning_is_told_by_ids() {
    let late = Log::of(|lines| _ = lines.drain(1..40));
    late.check("at --log LOG", 0, "not certain: the first commits of vm/");
    let (_, answer) = late.ask("at --log LOG");
    assert!(answer.contains("\nvm/") && !answer.contains("host :"), "{answer}");
    late.check("why --log LOG --vm web", 2, "the log knows vm/");
    late.check(
        "why --log LOG --vm web",
        2,
        "damaged: line 2 of log.jsonl: commits 1 to 39 are missing",
    );
    // Without the first line alone, nothing but how much there should be is lost.
    let headless = Log::of(|lines| _ = lines.remove(0));
    headless.check("verify --log LOG", 1, "125 of 125 commits decided again: as recorded");
    headless.check("at --log LOG", 0, "damaged: line 1 of log.jsonl: holds a commit");
}

#[test]
fn lines_that_are_not_in_their_order_are_read_in_it() {
    let swapped = Log::of(|lines| lines.swap(60, 61));
    let told = "line 62 of log.jsonl: holds commit 60 behind commit 61: it is read in its turn";
    swapped.check("verify --log LOG", 1, told);
    swapped.check("verify --log LOG", 1, "125 of 125 commits decided again: as recorded");
    let (_, answer) = swapped.ask("at --log LOG");
    assert!(!answer.contains("not certain"), "{answer}");
}

/// Commit 50 is of the VM, 51 of the vault: what is missing shows only with commit 53.
#[test]
fn a_lost_commit_makes_its_stream_uncertain_from_its_own_position_on() {
    let lost = Log::of(|lines| _ = lines.remove(50));
    for moment in ["--seq 50", "--seq 51", "--seq 52", "--time 2026-01-05T08:05:01.370Z"] {
        let (_, answer) = lost.ask(&format!("at --log LOG {moment}"));
        assert!(answer.contains("not certain: commits of web are missing"), "{moment}: {answer}");
        assert_eq!(answer.matches("not certain").count(), 1, "{moment}: {answer}");
    }
    let (_, json) = lost.ask("at --log LOG --seq 51 -o json");
    assert!(json.contains("\"incomplete\":[{"), "{json}");
    let (_, before) = lost.ask("at --log LOG --seq 49");
    assert!(!before.contains("not certain") && !before.contains("\ndamaged"), "{before}");
    // Where nothing of a stream follows, it may be the one.
    let (all, cut) = (
        Log::of(|_| {}),
        Log::of(|lines| {
            lines.remove(50);
            lines.truncate(51);
            lines[0] = lines[0].replacen("\"count\":125", "\"count\":51", 1);
        }),
    );
    let (_, answer) = cut.ask("at --log LOG");
    assert!(answer.contains("web") && answer.contains("not certain"), "{answer}");
    assert!(!answer.contains("not certain: commits of vault"), "{answer}");
    let (_, answer) = all.ask("at --log LOG");
    assert!(!answer.contains("not certain"), "{answer}");
}

#[test]
fn damage_behind_a_moment_is_told_as_that() {
    let damaged = Log::of(|lines| lines[50] = lines[50].replace("\"at\"", "\"ta\""));
    let (_, answer) = damaged.ask("at --log LOG --seq 49");
    assert!(answer.contains("behind this moment, and of no account for it: line 51"), "{answer}");
    assert!(!answer.contains("\ndamaged"), "{answer}");
}

#[test]
fn much_damage_is_told_by_its_number() {
    let noise = Log::of(|lines| lines[20..70].fill("noise\n".to_owned()));
    for question in ["at --log LOG", "verify --log LOG", "diff --log LOG 1 100"] {
        let (_, answer) = noise.ask(question);
        assert!(answer.contains("and 40 more places of the log"), "{question}: {answer}");
        assert!(answer.matches("damaged: ").count() <= 11, "{question}: {answer}");
    }
}

#[test]
fn differences_are_told_for_people_and_all_of_them_where_that_is_asked() {
    let whole = Log::of(|_| {});
    let (_, told) = whole.ask("diff --log LOG 60 70");
    for raw in ["statistics", "1970", "{", "null", "_since"] {
        assert!(!told.contains(raw), "{raw}: {told}");
    }
    let changed = "vm web: delta: 13: its logs are being cut -> \
                   14: its logs, cut at 2026-01-05T08:07:33.000Z, are being sent";
    assert!(told.contains(changed), "{told}");
    whole.check("diff --log LOG 60 70 --all", 0, "vm web.delta.cycle: 13 -> 14");
}

#[test]
fn of_two_logs_the_first_commit_that_differs_is_told_of_each() {
    let (whole, short) = (Log::of(|_| {}), Log::of(|lines| lines.truncate(51)));
    let other = short.file.to_str().unwrap().to_owned();
    let (_, told) = whole.ask(&format!("diff --log LOG --log {other}"));
    assert!(told.contains("the first 50 commits are the same"), "{told}");
    let next = "the one goes on with commit 51, 2026-01-05T08:05:01.369Z: the supervisor saw that vault vault";
    assert!(told.contains(next) || told.contains("the one goes on with commit 51"), "{told}");
    assert!(
        told.contains("the other is damaged there: line 51")
            || told.contains("the other ends there"),
        "{told}"
    );
}
