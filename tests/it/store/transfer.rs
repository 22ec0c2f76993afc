//! Moving a log as JSON Lines.

use super::{commit, fill, open};
use lifeboat::ports::event_store::EventStore;
use lifeboat::store::SledStore;
use lifeboat::store::jsonl::{TransferError, export, import};
use std::path::Path;
use tempfile::tempdir;

fn exported(store: &SledStore) -> String {
    let mut bytes = Vec::new();
    export(store, &mut bytes).unwrap();
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
    assert!(first.starts_with(r#"{"format":"lifeboat events","version":1,"count":5000,"first":1"#));
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
        ("a missing last line", without(20), 20),
        ("swapped lines", with(7, swapped), 8),
        ("a cut last line", text[..text.len() - 1].to_owned(), 21),
        ("another count", with(0, lines[0].replace(":20,", ":19,")), 21),
        ("another chain", with(0, lines[0].replace(r#""chain":""#, r#""chain":"0"#)), 21),
        ("a later format", with(0, lines[0].replace(r#""version":1"#, r#""version":2"#)), 1),
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
