//! An object store behind the faults of the lab.

use futures_util::{StreamExt, TryStreamExt, join};
use lifeboat::drivers::lab::{Fault, Faults, FaultyStore};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

fn store() -> (FaultyStore, Faults) {
    let faults = Faults::default();
    (FaultyStore::new(Arc::new(InMemory::new()), faults.clone()), faults)
}

fn object() -> Path {
    Path::from("vm/disk/segment")
}

fn io_kind(error: &Error) -> io::ErrorKind {
    assert!(matches!(error, Error::Generic { .. }), "{error:?}");
    error.source().unwrap().downcast_ref::<io::Error>().unwrap().kind()
}

#[tokio::test]
async fn nothing_is_wrong_at_first() {
    let (store, faults) = store();
    store.put(&object(), "content".into()).await.unwrap();
    assert_eq!(store.get(&object()).await.unwrap().bytes().await.unwrap(), "content");
    assert_eq!(store.get_range(&object(), 1..3).await.unwrap(), "on");
    assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 1);
    store.delete(&object()).await.unwrap();
    assert_eq!(faults.raised(), []);
}

#[tokio::test]
async fn nothing_passes_a_cut_link_and_all_does_once_it_is_whole() {
    let (store, faults) = store();
    store.put(&object(), "content".into()).await.unwrap();
    faults.raise(Fault::LinkCut);
    for error in [
        store.put(&object(), "other".into()).await.unwrap_err(),
        store.get(&object()).await.unwrap_err(),
        store.head(&object()).await.unwrap_err(),
        store.get_ranges(&object(), &[0..1, 2..3]).await.unwrap_err(),
        store.list(None).try_collect::<Vec<_>>().await.unwrap_err(),
        store.list_with_delimiter(None).await.unwrap_err(),
        store.delete(&object()).await.unwrap_err(),
        store.copy(&object(), &Path::from("copy")).await.unwrap_err(),
        store.put_multipart(&object()).await.unwrap_err(),
    ] {
        assert_eq!(io_kind(&error), io::ErrorKind::ConnectionRefused);
    }
    faults.clear(Fault::LinkCut);
    assert_eq!(store.get(&object()).await.unwrap().bytes().await.unwrap(), "content");
}

#[tokio::test]
async fn a_put_under_way_breaks_off_when_the_link_is_cut() {
    let (store, faults) = store();
    faults.set_latency(Duration::from_secs(3600));
    let object = object();
    let (put, ()) = join!(store.put(&object, "content".into()), async {
        faults.raise(Fault::LinkCut);
    });
    assert_eq!(io_kind(&put.unwrap_err()), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_download_under_way_breaks_off_when_the_link_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let files = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let store = FaultyStore::new(Arc::new(files), faults.clone());
    store.put(&object(), vec![7; 1 << 20].into()).await.unwrap();

    let mut download = store.get(&object()).await.unwrap().into_stream();
    assert!(!download.next().await.unwrap().unwrap().is_empty());
    faults.raise(Fault::LinkCut);
    let broken_off = download.next().await.unwrap().unwrap_err();
    assert_eq!(io_kind(&broken_off), io::ErrorKind::ConnectionReset);
    assert!(download.next().await.is_none());
}

#[tokio::test]
async fn a_lost_answer_leaves_the_object_behind_once() {
    let (store, faults) = store();
    faults.raise(Fault::AnswerLost);
    let object = object();
    let create = || store.put_opts(&object, "content".into(), PutMode::Create.into());
    assert_eq!(io_kind(&create().await.unwrap_err()), io::ErrorKind::ConnectionReset);
    assert!(matches!(create().await, Err(Error::AlreadyExists { .. })));
    assert_eq!(faults.raised(), []);
    store.put(&object, "other".into()).await.unwrap();
}

#[tokio::test]
async fn a_put_that_fails_by_itself_does_not_use_up_the_lost_answer() {
    let (store, faults) = store();
    store.put(&object(), "content".into()).await.unwrap();
    faults.raise(Fault::AnswerLost);
    let create = store.put_opts(&object(), "content".into(), PutMode::Create.into()).await;
    assert!(matches!(create, Err(Error::AlreadyExists { .. })));
    assert_eq!(faults.raised(), [Fault::AnswerLost]);
}

#[tokio::test]
async fn a_full_vault_can_be_read_and_cleaned_but_takes_nothing() {
    let (store, faults) = store();
    store.put(&object(), "content".into()).await.unwrap();
    let mut upload = store.put_multipart(&Path::from("large")).await.unwrap();
    faults.raise(Fault::VaultFull);
    for error in [
        store.put(&Path::from("other"), "other".into()).await.unwrap_err(),
        store.put_multipart(&Path::from("other")).await.unwrap_err(),
        upload.put_part("part".into()).await.unwrap_err(),
        upload.complete().await.unwrap_err(),
    ] {
        assert_eq!(io_kind(&error), io::ErrorKind::StorageFull);
    }
    upload.abort().await.unwrap();
    store.get(&object()).await.unwrap();
    store.delete(&object()).await.unwrap();
    assert!(store.list(None).next().await.is_none());
}

#[tokio::test]
async fn refused_credentials_and_throttling_are_answered_as_a_cloud_does() {
    let (store, faults) = store();
    faults.raise(Fault::VaultThrottles);
    let throttled = store.get(&object()).await.unwrap_err();
    assert!(throttled.to_string().contains("status code: 429"), "{throttled}");
    faults.raise(Fault::VaultRefuses);
    let refused = store.put(&object(), "content".into()).await.unwrap_err();
    assert!(matches!(refused, Error::Unauthenticated { .. }), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn latency_delays_a_request() {
    let (store, faults) = store();
    faults.set_latency(Duration::from_millis(250));
    let start = tokio::time::Instant::now();
    store.put(&object(), "content".into()).await.unwrap();
    assert_eq!(start.elapsed().as_millis(), 250);
}
