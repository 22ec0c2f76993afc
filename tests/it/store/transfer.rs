//! Moving a log as JSON Lines.

use super::{commit, fill, open};
use lifeboat::domain::entity::Commit;
use lifeboat::ports::event_store::EventStore;
use lifeboat::store::SledStore;
use lifeboat::store::jsonl::{LogFile, TransferError, export, import};
use std::path::Path;
use tempfile::tempdir;

fn exported(store: &SledStore) -> String {
    let mut bytes = Vec::new();
    // A state after every tenth commit.
    let state_after = &mut |commit: &Commit, place| {
        let text = format!("after {} at {place:?}", commit.global);
        commit.global.is_multiple_of(10).then(|| text.into_bytes())
    };
    export(store, state_after, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn import_text(folder: &Path, text: &str) -> Result<SledStore, TransferError> {
    let file = folder.join("log.jsonl");
    std::fs::write(&file, text).unwrap();
    let store = open(&folder.join("imported"));
    import(&file, &store).await?;
    Ok(store)
}

#[tokio::test]
async fn an_imported_log_exports_to_the_same_bytes() {
    let dir = tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let commits = fill(&store, 5000, 60).await;
    let text = exported(&store);
    let imported = import_text(dir.path(), &text).await.unwrap();
    assert_eq!(imported.read_all(1, usize::MAX).unwrap(), commits);
    assert_eq!(exported(&imported), text);
    let first = text.lines().next().unwrap();
    assert!(first.starts_with(r#"{"format":"lifeboat events","version":2,"count":5000,"first":1"#));
    assert!(text.contains(r#""actor":"tests""#) && text.contains("Registered"));
}

#[tokio::test]
async fn an_empty_log_can_be_moved() {
    let dir = tempdir().unwrap();
    let text = exported(&open(&dir.path().join("store")));
    assert_eq!(text.lines().count(), 1);
    assert_eq!(import_text(dir.path(), &text).await.unwrap().durable(), 0);
}

#[tokio::test]
async fn a_store_with_commits_takes_no_import() {
    let dir = tempdir().unwrap();
    let store = open(&dir.path().join("imported"));
    store.append(commit(1, 0)).await.unwrap();
    let text = exported(&store);
    drop(store);
    let refused = import_text(dir.path(), &text).await.unwrap_err();
    assert!(matches!(refused, TransferError::NotEmpty { commits: 1, .. }), "{refused}");
}

#[tokio::test]
async fn a_damaged_line_is_named_and_nothing_is_imported() {
    let dir = tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    fill(&store, 20, 60).await;
    let text = exported(&store);
    let lines: Vec<&str> = text.lines().collect();
    let without = |gone: usize| {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != gone);
        kept.fold(String::new(), |text, (_, line)| text + line + "\n")
    };
    let with = |at: usize, line: String| {
        let mut lines = lines.clone();
        lines[at] = &line;
        lines.iter().fold(String::new(), |text, line| text + line + "\n")
    };
    let swapped = format!("{}\n{}", lines[8], lines[7]);
    let cases = [
        ("a changed letter", with(7, lines[7].replace("tests", "tesst")), 8),
        ("a changed number", with(7, lines[7].replace(r#""seq":2"#, r#""seq":3"#)), 8),
        ("no JSON", with(7, lines[7][..50].to_owned()), 8),
        ("a missing line", without(7), 8),
        ("a missing last commit", without(20), 21),
        ("swapped lines", with(7, swapped), 8),
        ("a cut last line", text[..text.len() - 1].to_owned(), 24),
        ("another count", with(0, lines[0].replace(":20,", ":19,")), 22),
        ("another chain", with(0, lines[0].replace(r#""chain":""#, r#""chain":"0"#)), 22),
        ("a later format", with(0, lines[0].replace(r#""version":2"#, r#""version":3"#)), 1),
        ("a changed state", with(21, lines[21].replace(r#""after":10"#, r#""after":11"#)), 22),
        ("a commit behind the states", text.clone() + lines[20] + "\n", 25),
        ("an empty file", String::new(), 1),
        ("no header", without(0), 1),
    ];
    for (what, text, line) in cases {
        let folder = tempdir().unwrap();
        match import_text(folder.path(), &text).await {
            Err(TransferError::Damaged { line: named, .. }) => assert_eq!(named, line, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(open(&folder.path().join("imported")).durable(), 0, "{what}");
    }
}

#[tokio::test]
async fn states_lie_behind_the_commits_and_say_where() {
    let dir = tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    fill(&store, 35, 60).await;
    let text = exported(&store);
    let file = dir.path().join("log.jsonl");
    std::fs::write(&file, &text).unwrap();
    let mut log = LogFile::open(&file).unwrap();
    let places = log.states().unwrap();
    assert_eq!(places.iter().map(|at| at.after).collect::<Vec<_>>(), [10, 20, 30]);
    for at in places {
        let state = String::from_utf8(log.state(at).unwrap().unwrap()).unwrap();
        let before: u64 = text.lines().take(at.after as usize).map(|it| it.len() as u64 + 1).sum();
        assert_eq!(state, format!("after {0} at ({0}, {before})", at.after));
        log.go_to((at.after, before)).unwrap();
        assert_eq!(log.next_commit().unwrap().unwrap().unwrap().global, at.after);
    }
    let rest = std::iter::from_fn(|| log.next_commit().unwrap());
    assert_eq!(rest.map(|found| found.unwrap().global).collect::<Vec<_>>(), [31, 32, 33, 34, 35]);
}

#[tokio::test]
async fn a_log_of_the_first_version_is_read() {
    let dir = tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let commits = fill(&store, 9, 60).await;
    let text = exported(&store).replacen(r#""version":2"#, r#""version":1"#, 1);
    let imported = import_text(dir.path(), &text).await.unwrap();
    assert_eq!(imported.read_all(1, usize::MAX).unwrap(), commits);
}
