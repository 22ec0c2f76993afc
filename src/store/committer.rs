//! The committer: the one thread that writes. It gathers what many writers want while the last group
//! is being synced, so that one sync serves them all, and it numbers the records: gapless, because
//! numbers are given out in the order in which records become durable.

use super::index::{Index, PAGE_RECORDS};
use super::log::{Draft, Placed, Shared};
use super::record::{Record, StreamKey, chain};
use super::sled_tree::io;
use super::watermark::{Watermark, WatermarkFile};
use crate::ports::event_store::StoreError;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Bytes after which a block is full. Bigger blocks cost less per record; but sled keeps pages of 8 to
/// 16 of them in RAM by the thousand while the log is read.
const BLOCK_BYTES: usize = 8 << 10;

/// Records in a group at most; with one page's they must fit the next page.
const GROUP_RECORDS: usize = 512;

/// Bytes in a group after which it takes no more. Far below two segments: sled reuses a segment only
/// two segments later, so that there is always a sync between.
const GROUP_BYTES: usize = 256 << 10;

/// How often the committer lets others run to let a group grow to the size of the last one; about a
/// third of a millisecond on an idle core, the time that a sync takes.
const GATHER_YIELDS: u32 = 1000;

/// Bytes of blocks after which sled must cover them by a page table: walked in about a tenth of a second.
const COVER_BYTES_MIN: u64 = 32 << 20;

/// And this share of the store at least, for a page table names all of its pages: what covering costs
/// in all grows with the store, not with its square.
const COVER_SHARE: u64 = 8;

const _: () = assert!(GROUP_RECORDS as u64 <= PAGE_RECORDS / 2);

/// The way back to whoever waits for a record.
type Reply = oneshot::Sender<Result<Placed, StoreError>>;

/// A record that somebody waits for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) draft: Draft,
    pub(crate) reply: Reply,
}

/// Everything that only the committer touches.
#[derive(Debug)]
pub(crate) struct Committer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) watermark: WatermarkFile,
    /// What is acknowledged, and what a page table of sled covers.
    pub(crate) mark: Watermark,
    /// Bytes of blocks put since sled wrote a page table.
    pub(crate) uncovered: u64,
}

/// The records of one group, encoded.
#[derive(Default)]
struct Group {
    blocks: Vec<(u64, Vec<u8>)>,
    placed: Vec<(StreamKey, Placed, Reply)>,
    refused: Vec<(StoreError, Reply)>,
    last: u64,
    chain: u32,
}

impl Committer {
    /// Commits until every sender is gone, or until something fails; then answers the rest.
    pub(crate) fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) -> Self {
        let _guard = StopOnPanic(Arc::clone(&self.shared));
        let mut expected = 0;
        while let Some(first) = requests.blocking_recv() {
            if self.shared.stopped().is_some() {
                let _ = first.reply.send(Err(self.shared.stopped_error()));
                continue;
            }
            let group = gather(first, expected, &mut requests);
            expected = group.len();
            if let Err(error) = self.commit(group) {
                self.shared.stop(error.to_string());
            }
        }
        self
    }

    fn commit(&mut self, requests: Vec<Request>) -> Result<(), StoreError> {
        let group = self.encode(requests);
        if !group.placed.is_empty()
            && let Err(error) = self.make_durable(&group)
        {
            self.shared.stop(error.to_string());
        }
        self.answer(group);
        self.cut_page_if_due()?;
        self.cover_if_due()
    }

    /// Numbers and encodes what fits the streams' heads, including those that the group moves itself.
    fn encode(&self, requests: Vec<Request>) -> Group {
        let index = self.shared.index();
        let mut heads: BTreeMap<StreamKey, u64> = BTreeMap::new();
        let mut group = Group { last: index.last(), chain: self.mark.chain, ..Group::default() };
        for Request { draft, reply } in requests {
            let head = heads.entry(draft.stream).or_insert_with(|| index.seq(draft.stream));
            if draft.expected_seq == *head {
                *head += 1;
                group.push(&draft, *head, reply);
            } else {
                let refusal =
                    StoreError::WrongSequence { expected: draft.expected_seq, actual: *head };
                group.refused.push((refusal, reply));
            }
        }
        group
    }

    fn make_durable(&mut self, group: &Group) -> Result<(), StoreError> {
        self.shared.with_tree(|tree| {
            for (first, block) in &group.blocks {
                tree.put_block(*first, block)?;
            }
            tree.sync()
        })?;
        self.uncovered += group.blocks.iter().map(|(_, block)| block.len() as u64).sum::<u64>();
        let mark = Watermark { last: group.last, chain: group.chain, ..self.mark };
        self.watermark.write(mark).map_err(io("write", &self.shared.folder.join("HEAD")))
    }

    /// Tells everybody what became of their record: after it is durable, and readable.
    fn answer(&mut self, group: Group) {
        if self.shared.stopped().is_some() {
            let waiting = group.placed.into_iter().map(|(_, _, reply)| reply);
            for reply in waiting.chain(group.refused.into_iter().map(|(_, reply)| reply)) {
                let _ = reply.send(Err(self.shared.stopped_error()));
            }
            return;
        }
        self.mark = Watermark { last: group.last, chain: group.chain, ..self.mark };
        self.shared.advance(group.placed.iter().map(|(stream, ..)| *stream));
        for (_, placed, reply) in group.placed {
            let _ = reply.send(Ok(placed));
        }
        for (refusal, reply) in group.refused {
            let _ = reply.send(Err(refusal));
        }
    }

    fn cut_page_if_due(&self) -> Result<(), StoreError> {
        if self.shared.index().unpaged() < PAGE_RECORDS {
            return Ok(());
        }
        let (last, page) =
            self.shared.change_index(|index: &mut Index| index.cut_page(self.mark.chain));
        self.shared.with_tree(|tree| tree.put_page(last, &page))
    }

    /// Bounds what an opening after a kill has to walk. sled writes its page table only when it is
    /// opened, so it is closed and opened again; records wait for that, everything is acknowledged.
    fn cover_if_due(&mut self) -> Result<(), StoreError> {
        let db = self.shared.folder.join("log").join("db");
        if self.uncovered < COVER_BYTES_MIN || self.shared.stopped().is_some() {
            return Ok(());
        }
        let bytes = std::fs::metadata(&db).map_err(io("measure", &db))?.len();
        if self.uncovered < bytes / COVER_SHARE {
            return Ok(());
        }
        self.mark = self.shared.cover(self.mark)?;
        self.uncovered = 0;
        self.watermark.write(self.mark).map_err(io("write", &self.shared.folder.join("HEAD")))
    }
}

/// Lets nobody wait for a committer that is no more.
struct StopOnPanic(Arc<Shared>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop("its committer panicked".to_owned());
        }
    }
}

/// The first request and what else is waiting, up to a full group. Writers that were served together
/// come back together, a moment after their answers: as long as fewer than `expected` are there, it
/// lets them run, or every second group would have just the quickest of them.
fn gather(
    first: Request,
    expected: usize,
    requests: &mut mpsc::UnboundedReceiver<Request>,
) -> Vec<Request> {
    let mut bytes = first.draft.bytes();
    let mut group = vec![first];
    let mut patience = GATHER_YIELDS;
    while group.len() < GROUP_RECORDS && bytes < GROUP_BYTES {
        match requests.try_recv() {
            Ok(next) => {
                bytes += next.draft.bytes();
                group.push(next);
            }
            Err(_) if group.len() < expected && 0 < patience => {
                patience -= 1;
                std::thread::yield_now();
            }
            Err(_) => break,
        }
    }
    group
}

impl Group {
    fn push(&mut self, draft: &Draft, seq: u64, reply: Reply) {
        self.last += 1;
        let fits = |block: &Vec<u8>| block.len() + draft.bytes() <= BLOCK_BYTES;
        if !self.blocks.last().is_some_and(|(_, block)| fits(block)) {
            self.blocks.push((self.last, Vec::with_capacity(BLOCK_BYTES.min(2 * draft.bytes()))));
        }
        let (_, block) = self.blocks.last_mut().expect("a block was pushed");
        let record = Record {
            global: self.last,
            stream: draft.stream,
            seq,
            at_ms: draft.at_ms,
            version: draft.version,
            payload: &draft.payload,
            crc: 0,
        };
        self.chain = chain(self.chain, record.write(block));
        self.placed.push((draft.stream, Placed { global: self.last, seq }, reply));
    }
}
