//! A damaged log: what is before and behind the damage is used, the damage is named, nothing is made up.

use super::{commits, fixture, folded, log};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::{Commit, Entity, Kind, StreamId};
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::time::Timestamp;
use lifeboat::replay::{Checkpoints, History, Moment, Past, verify};
use std::fs;
use std::path::Path;

/// The log of an incident with some of its lines changed.
fn changed(folder: &Path, change: impl FnOnce(&mut Vec<String>)) -> History {
    let text = fs::read_to_string(fixture("link_flaps", "jsonl")).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    change(&mut lines);
    let file = folder.join("log.jsonl");
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    History::of_file(&file).unwrap()
}

fn named(past: &Past) -> Vec<String> {
    past.damage.iter().map(ToString::to_string).collect()
}

#[test]
fn a_damaged_line_is_named_and_its_stream_is_not_certain_from_there_on() {
    let all = commits(&mut log("link_flaps"));
    let folder = tempfile::tempdir().unwrap();
    let at = 50;
    let damaged = all[at - 1].stream;
    // The header is line 1.
    let mut history = changed(folder.path(), |lines| lines[at] = lines[at].replace("at", "ta"));
    let past = folded(&mut history);
    let said = named(&past);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("line 51 of log.jsonl: "), "{said:?}");
    assert_eq!(past.position, all.len() as u64);
    assert!(!past.is_complete(damaged));
    let sound = folded(&mut log("link_flaps"));
    assert_eq!(past.site.vaults, sound.site.vaults);
    assert_eq!(past.site.hosts, sound.site.hosts);
    // Before the damage nothing is amiss.
    let before = history.past(Moment::Position(at as u64 - 1), None).unwrap();
    assert_eq!(
        before.site,
        log("link_flaps").past(Moment::Position(at as u64 - 1), None).unwrap().site
    );
    assert!(before.is_complete(damaged));

    let result = verify(&mut history, vec![]).unwrap();
    let rest = all[at..].iter().filter(|commit| commit.stream == damaged).count() as u64;
    assert_eq!((result.diverging, result.undecidable), (0, rest));
    assert_eq!(result.damage.len(), 1);
    assert!(!result.is_sound());
}

type Change = fn(&mut Vec<String>);

#[test]
fn every_kind_of_damage_is_named_with_its_line() {
    let count = commits(&mut log("link_flaps")).len();
    let cases: [(&str, Change, String); 8] = [
        (
            "a changed digit",
            |lines| lines[7] = lines[7].replacen("\"seq\":", "\"seq\":1", 1),
            "line 8".into(),
        ),
        ("no JSON", |lines| lines[7].truncate(40), "line 8".into()),
        ("a line that is gone", |lines| _ = lines.remove(7), "line 8".into()),
        ("two lines that are gone", |lines| _ = lines.drain(7..9), "line 8".into()),
        ("a line twice", |lines| lines.insert(8, lines[7].clone()), "line 9".into()),
        ("no header", |lines| lines[0] = "{}".to_owned(), "line 1".into()),
        ("a line without end", |lines| lines[9] = "x".repeat(5 << 20), "line 10".into()),
        ("a missing end", |lines| _ = lines.pop(), format!("line {count}")),
    ];
    for (what, change, line) in cases {
        let folder = tempfile::tempdir().unwrap();
        let past = folded(&mut changed(folder.path(), change));
        let said = named(&past);
        assert_eq!(said.len(), 1, "{what}: {said:?}");
        assert!(said[0].starts_with(&format!("{line} of log.jsonl")), "{what}: {said:?}");
        assert!(count as u64 - 1 <= past.position, "{what}: the rest was not read");
    }
}

/// A kept state is only a shortcut: whatever is wrong with it, the answer is the same.
#[test]
fn kept_states_shorten_the_way_and_change_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Checkpoints::in_folder(&folder.path().join("kept"));
    let all = long_log(250_000);
    let whole = folded(&mut History::Commits(all.clone()));
    let wanted = Moment::Position(220_000);
    let mut history = History::Commits(all.clone());
    let first = history.past(wanted, Some(&kept)).unwrap();
    let files = || {
        let entries = fs::read_dir(folder.path().join("kept")).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    assert_eq!(files().len(), 2);
    assert_eq!(history.past(wanted, Some(&kept)).unwrap(), first);
    assert_eq!(history.past(Moment::Position(u64::MAX), Some(&kept)).unwrap(), whole);
    // Of a log that went another way, nothing is used.
    let mut other = all;
    for commit in &mut other {
        commit.actor = "another".to_owned();
    }
    let sound = folded(&mut History::Commits(other[..220_000].to_vec()));
    assert_eq!(History::Commits(other).past(wanted, Some(&kept)).unwrap(), sound);
    // Nor of a file that is damaged.
    for file in files() {
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
    }
    assert_eq!(history.past(wanted, Some(&kept)).unwrap(), first);
}

/// Hosts that come and go.
pub(super) fn long_log(commits: u64) -> Vec<Commit> {
    use lifeboat::domain::host::{Command, Event, Host};
    use lifeboat::domain::id::{CloudId, HostId};
    let id = HostId(uuid::Uuid::from_u128(7));
    let stream = StreamId { kind: Kind::Host, id: id.0 };
    let failure = Failure::new(Code::HostLost, Cause::Host(id), "no answer");
    let entry = |nth: u64| match nth {
        0 => {
            let (name, cloud) = ("host-1".to_owned(), CloudId::default());
            let event = Event::Registered { id, name: name.clone(), cloud };
            Host::entry(Command::Register { id, name, cloud }, vec![event])
        }
        nth if nth.is_multiple_of(2) => {
            Host::entry(Command::ReportHeartbeat, vec![Event::HeartbeatRestored])
        }
        _ => {
            let event = Event::HeartbeatLost { because: failure.clone() };
            Host::entry(Command::ReportSilence { failure: failure.clone() }, vec![event])
        }
    };
    let commit = |nth: u64| Commit {
        stream,
        seq: nth + 1,
        global: nth + 1,
        at: Timestamp::from_millis(nth as i64 * 1_000),
        actor: "monitor".to_owned(),
        correlation: None,
        causation: None,
        entry: entry(nth),
    };
    (0..commits).map(commit).collect()
}

#[test]
fn a_file_that_is_damaged_throughout_is_no_list_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut history = changed(folder.path(), |lines| {
        lines.resize(5_000, "noise".to_owned());
    });
    assert!(folded(&mut history).damage.len() < 1_100);
    assert!(verify(&mut history, vec![]).unwrap().damage.len() < 1_100);
}

#[test]
fn an_empty_file_is_a_log_without_a_header() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.jsonl");
    fs::write(&file, "").unwrap();
    let past = folded(&mut History::of_file(&file).unwrap());
    assert_eq!((past.position, past.damage.len()), (0, 1));
}
