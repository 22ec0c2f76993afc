//! Keeps what `replay` goes on from while a service writes its log, so that also the first look into a long
//! one finds its moment at once.

use super::checkpoints::Checkpoints;
use super::history::{History, Recorded};
use super::past::{Moment, Past};
use crate::ports::event_store::{EventStore, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Commits that are read at once.
const BATCH: usize = 1_000;

/// Follows the log in `folder`, which `store` has open, until it stops, and leaves its states and places
/// in `kept`. Nothing depends on them: what goes wrong is logged.
pub async fn keep(store: Arc<dyn EventStore>, folder: PathBuf, kept: Checkpoints) {
    if let Err(error) = follow(&store, &folder, &kept).await {
        tracing::warn!(%error, "keep the states of the event log for replay");
    }
}

async fn follow(
    store: &Arc<dyn EventStore>,
    folder: &Path,
    kept: &Checkpoints,
) -> Result<(), StoreError> {
    let mut past = last_kept(&**store, kept)?;
    loop {
        let commits = store.read_all(past.position + 1, BATCH)?;
        if commits.is_empty() {
            let Ok(_) = store.durable_after(past.position).await else { return Ok(()) };
        }
        for commit in commits {
            past.apply(&commit);
            if kept.keep(&past, &Recorded::of_store(commit)) {
                keep_places(folder, kept).await;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The last kept state that is one of this log.
fn last_kept(store: &dyn EventStore, kept: &Checkpoints) -> Result<Past, StoreError> {
    for state in kept.before(Moment::Position(store.durable())) {
        let commits = store.read_all(state.past.position, 1)?;
        if commits.first().is_some_and(|commit| state.is_after(commit)) {
            return Ok(state.past);
        }
    }
    Ok(Past::default())
}

/// Writes down where the commits lie. Away from the executor: what changed of the file is searched.
async fn keep_places(folder: &Path, kept: &Checkpoints) {
    let (folder, kept) = (folder.to_path_buf(), kept.clone());
    let searched =
        tokio::task::spawn_blocking(move || History::of_store_kept(&folder, &kept)).await;
    match searched {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "keep where commits lie"),
        Err(error) => tracing::warn!(%error, "keep where commits lie"),
    }
}
