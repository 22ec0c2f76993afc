//! The store in RAM and the one on disk answer the same, whatever is asked of them.

use super::{commit_of_bytes, stream};
use lifeboat::ports::event_store::{EventStore, Snapshot};
use lifeboat::store::{MemoryStore, SledStore};
use proptest::prelude::*;
use std::fmt::Debug;
use tempfile::tempdir;

#[derive(Clone, Debug)]
enum Step {
    /// Append on the right sequence number, plus this.
    Append {
        nth: u64,
        off_by: u64,
        bytes: usize,
    },
    ReadStream {
        nth: u64,
        from: u64,
        limit: usize,
    },
    ReadAll {
        from: u64,
        limit: usize,
    },
    Streams,
    Replay {
        from: u64,
    },
    Save {
        nth: u64,
        back: u64,
        schema: u16,
        bytes: usize,
    },
    Load {
        nth: u64,
        schema: u16,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let nth = 0..4_u64;
    prop_oneof![
        8 => (nth.clone(), prop_oneof![9 => Just(0), 1 => 1..3_u64], 0..5000_usize)
            .prop_map(|(nth, off_by, bytes)| Step::Append { nth, off_by, bytes }),
        1 => (nth.clone(), Just(0), Just(60_000_usize))
            .prop_map(|(nth, off_by, bytes)| Step::Append { nth, off_by, bytes }),
        2 => (nth.clone(), 0..12_u64, 0..9_usize)
            .prop_map(|(nth, from, limit)| Step::ReadStream { nth, from, limit }),
        2 => (0..40_u64, 0..30_usize).prop_map(|(from, limit)| Step::ReadAll { from, limit }),
        1 => Just(Step::Streams),
        1 => (0..40_u64).prop_map(|from| Step::Replay { from }),
        2 => (nth.clone(), 0..4_u64, 1..3_u16, 0..70_000_usize)
            .prop_map(|(nth, back, schema, bytes)| Step::Save { nth, back, schema, bytes }),
        2 => (nth, 1..3_u16).prop_map(|(nth, schema)| Step::Load { nth, schema }),
        1 => Just(Step::Reopen),
    ]
}

/// What a store answers, comparable.
async fn answer(store: &dyn EventStore, step: &Step) -> String {
    let seq = |nth| {
        let streams = store.streams().unwrap();
        streams.iter().find(|(known, _)| *known == stream(nth)).map_or(0, |(_, seq)| *seq)
    };
    match *step {
        Step::Append { nth, off_by, bytes } => {
            text(store.append(commit_of_bytes(nth, seq(nth) + off_by, bytes)).await)
        }
        Step::ReadStream { nth, from, limit } => text(store.read_stream(stream(nth), from, limit)),
        Step::ReadAll { from, limit } => text(store.read_all(from, limit)),
        Step::Streams => text(store.streams()),
        Step::Replay { from } => {
            let mut commits = Vec::new();
            let result = store.replay(from, &mut |commit| commits.push(commit));
            text(result.map(|()| commits))
        }
        Step::Save { nth, back, schema, bytes } => {
            let seq = (seq(nth) + 1).saturating_sub(back);
            let state = vec![nth as u8; bytes];
            text(store.save_snapshot(Snapshot { stream: stream(nth), seq, schema, state }))
        }
        Step::Load { nth, schema } => text(store.snapshot(stream(nth), schema)),
        Step::Reopen => text(Ok::<_, ()>(store.durable())),
    }
}

fn text<T: Debug, E: Debug>(result: Result<T, E>) -> String {
    result.map_or_else(|error| format!("{error:?}"), |value| format!("{value:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_answer_the_same(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempdir().unwrap();
        let memory = MemoryStore::default();
        let mut on_disk = SledStore::open(dir.path()).unwrap();
        for step in steps {
            if matches!(step, Step::Reopen) {
                drop(on_disk);
                on_disk = SledStore::open(dir.path()).unwrap();
            }
            let expected = runtime.block_on(answer(&memory, &step));
            prop_assert_eq!(runtime.block_on(answer(&on_disk, &step)), expected, "{:?}", step);
        }
        let all = memory.read_all(1, usize::MAX).unwrap();
        let again = MemoryStore::of(all.clone()).unwrap();
        prop_assert_eq!(again.read_all(1, usize::MAX).unwrap(), all);
    }
}
