//! What comes after the handshake: requests until the client leaves.
//!
//! One thread does one request after the other, straight on the disk, until several writes have come at one
//! time. From then on there are two that take turns: while one writes to the disk, which is the longest part
//! and goes one at a time for a file, the other reads what comes next and logs it. Replies are then in
//! another order than requests, as the protocol allows: a client that wants one request to come before
//! another waits for its reply.

use super::buffers::{Input, Output, PIECE_BYTES};
use super::exports::Connected;
use super::protocol::{
    BASE_ALLOCATION_ID, CHUNK_MAGIC, REQUEST_BYTES, Request, SIMPLE_REPLY_MAGIC, WireError,
    allocation, chunk, command, flag,
};
use super::session::Failure;
use super::socket::Stream;
use crate::ports::block::{BlockDevice, Write};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ScopedJoinHandle};

/// Most writes that are done together: one group of a replication log.
const WRITES_MAX: usize = 127;

/// Runs of blocks in one answer to `BLOCK_STATUS`; a client asks again for the rest.
const EXTENTS_MAX: usize = 4096;

/// One connection that has chosen its export.
pub(super) struct Transmission<'a> {
    stream: &'a Stream,
    export: Connected,
    /// Whether `base:allocation` was chosen.
    allocation: bool,
    /// Held by the thread whose turn it is to read.
    requests: Mutex<Requests<'a>>,
    replies: Mutex<Replies<'a>>,
    /// How many threads do writes that they have taken.
    writing: AtomicUsize,
}

struct Requests<'a> {
    input: Input<'a>,
    /// Whether no more will come.
    ended: bool,
}

/// Writes that came one after the other.
struct Writes {
    requests: Vec<Request>,
    /// Where they are in the buffer that they were moved to, payloads included.
    at: Range<usize>,
}

impl<'a> Transmission<'a> {
    /// Serves `export` with what the handshake agreed on.
    pub(super) fn new(
        stream: &'a Stream,
        export: Connected,
        input: Input<'a>,
        output: Output<'a>,
        structured: bool,
        allocation: bool,
    ) -> Self {
        let replies = Replies { output, structured, export: export.name.clone(), refused: None };
        Self {
            stream,
            export,
            allocation,
            requests: Mutex::new(Requests { input, ended: false }),
            replies: Mutex::new(replies),
            writing: AtomicUsize::new(0),
        }
    }

    /// Serves until the client leaves.
    pub(super) fn run(&self) -> Result<(), Failure> {
        thread::scope(|scope| {
            let mut second = None;
            let first = self.take_turns(|| {
                second.get_or_insert_with(|| {
                    let name = format!("{}b", thread::current().name().unwrap_or("nbd"));
                    // Without it the first one goes on alone.
                    thread::Builder::new().name(name).spawn_scoped(scope, || self.take_turns(|| ()))
                });
            });
            let second = second.and_then(Result::ok).map(ScopedJoinHandle::join);
            first.and(second.and_then(Result::ok).unwrap_or(Ok(()))) // a panic there has been reported
        })
    }

    /// Reads when nobody else does, and does the writes that were read; `on_writes` is called before.
    fn take_turns(&self, mut on_writes: impl FnMut()) -> Result<(), Failure> {
        let _close = CloseOnPanic(self.stream);
        let mut buffer = Vec::new();
        while let Some(writes) = self.next_writes(&mut buffer)? {
            on_writes();
            self.write_each(&writes.requests, &buffer[writes.at])?;
        }
        Ok(())
    }

    /// Answers requests until several writes have come, which are moved to `buffer`. `None` once no more come.
    fn next_writes(&self, buffer: &mut Vec<u8>) -> Result<Option<Writes>, Failure> {
        let mut requests = lock(&self.requests);
        if requests.ended {
            return Ok(None);
        }
        requests.ended = true; // also where this thread panics
        let next = self.answer_until_writes(&mut requests.input, buffer);
        requests.ended = !matches!(next, Ok(Some(_)));
        next
    }

    fn answer_until_writes(
        &self,
        input: &mut Input<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Writes>, Failure> {
        loop {
            if !whole_request_is_buffered(input) {
                lock(&self.replies).output.flush()?;
            }
            // Who writes meanwhile has more use for the processor.
            input.looks_out &= self.writing.load(Ordering::Relaxed) == 0;
            if input.is_at_end()? {
                return Ok(None); // left without a word
            }
            let requests = self.buffered_writes(input);
            if 1 < requests.len() {
                // More come together while a thread sleeps, and are done with less work.
                input.looks_out = false;
                let at = input.hand_over(requests.iter().map(whole_bytes).sum(), buffer);
                return Ok(Some(Writes { requests, at }));
            }
            let request = input.take(REQUEST_BYTES)?;
            let request = request.try_into().expect("as many bytes were taken");
            let request = Request::decode(request)?;
            if request.command == command::DISC {
                lock(&self.replies).output.flush()?;
                return Ok(None);
            }
            self.answer(input, &request)?;
        }
    }

    /// The plain writes that have come one after the other, whole, up to [`WRITES_MAX`]: a disk that is
    /// tracked does them together with less work.
    fn buffered_writes(&self, input: &Input<'_>) -> Vec<Request> {
        let device = &self.export.device;
        let mut rest = input.buffered();
        let mut writes = Vec::new();
        while let Some((header, after)) = rest.split_first_chunk()
            && let Ok(request) = Request::decode(header)
            && request.command == command::WRITE
            && request.flags & flag::FUA == 0
            && request.payload_bytes() <= after.len()
            && request.check(device.size_bytes(), device.read_only()).is_ok()
            && writes.len() < WRITES_MAX
        {
            rest = &after[request.payload_bytes()..];
            writes.push(request);
        }
        writes
    }

    /// Does writes of which `bytes` has the requests and payloads, and answers them.
    fn write_each(&self, requests: &[Request], mut bytes: &[u8]) -> Result<(), Failure> {
        let mut writes = Vec::with_capacity(requests.len());
        for request in requests {
            let (whole, rest) = bytes.split_at(whole_bytes(request));
            writes.push(Write { offset: request.offset, data: &whole[REQUEST_BYTES..] });
            bytes = rest;
        }
        self.writing.fetch_add(1, Ordering::Relaxed);
        let outcomes = self.export.device.write_each_at(&writes);
        self.writing.fetch_sub(1, Ordering::Relaxed);
        let mut replies = lock(&self.replies);
        for (request, outcome) in requests.iter().zip(outcomes) {
            replies.finish(request, outcome)?;
        }
        Ok(replies.output.flush()?)
    }

    fn answer(&self, input: &mut Input<'_>, request: &Request) -> Result<(), Failure> {
        let device = &*self.export.device;
        if let Err(error) = request.check(device.size_bytes(), device.read_only()) {
            skip(input, request.payload_bytes())?;
            return lock(&self.replies).refuse(request, error);
        }
        let fua = request.flags & flag::FUA != 0;
        let outcome = match request.command {
            command::READ => return lock(&self.replies).read(request, device),
            command::BLOCK_STATUS if self.allocation => {
                return lock(&self.replies).block_status(request, device);
            }
            command::WRITE => write(input, request, device, fua)?,
            command::FLUSH => device.flush(),
            command::TRIM => device.zero(request.range(), true, fua),
            command::WRITE_ZEROES => {
                device.zero(request.range(), request.flags & flag::NO_HOLE == 0, fua)
            }
            command::CACHE => Ok(()), // the page cache knows better
            _ => return lock(&self.replies).refuse(request, WireError::Invalid),
        };
        lock(&self.replies).finish(request, outcome)
    }
}

/// A client whose request is never answered must see that its connection is over, whoever else serves it.
struct CloseOnPanic<'a>(&'a Stream);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.shut_down();
        }
    }
}

/// What the client is answered, whole replies at a time.
struct Replies<'a> {
    output: Output<'a>,
    structured: bool,
    export: String,
    /// How the disk refused a request last.
    refused: Option<io::ErrorKind>,
}

impl Replies<'_> {
    /// Answers a request that has no data to answer with.
    fn finish(&mut self, request: &Request, outcome: io::Result<()>) -> Result<(), Failure> {
        match outcome {
            Ok(()) => self.simple(request, 0),
            Err(error) => {
                self.note(request, &error);
                self.refuse(request, WireError::from(&error))
            }
        }
    }

    /// Tells the first time that a disk refuses in some way. A guest that goes on trying on a full
    /// disk must not fill the log as well.
    fn note(&mut self, request: &Request, error: &io::Error) {
        if self.refused.replace(error.kind()) != Some(error.kind()) {
            let (command, export) = (request.command, &self.export);
            tracing::warn!(command, %error, export, "a disk refuses requests");
        }
    }

    /// Reads straight into the output, piece by piece.
    fn read(&mut self, request: &Request, device: &dyn BlockDevice) -> Result<(), Failure> {
        let length = request.length as usize;
        for part in pieces(length) {
            let offset = request.offset + part.start as u64;
            let head = if self.structured {
                let done = if part.end == length { chunk::DONE } else { 0 };
                let head = chunk_head(request, done, chunk::OFFSET_DATA, 8 + part.len());
                [&head[..], &offset.to_be_bytes()].concat()
            } else if part.start == 0 {
                simple_head(request, 0).to_vec()
            } else {
                Vec::new()
            };
            let room = self.output.room(head.len() + part.len())?;
            let (head_room, data_room) = room.split_at_mut(head.len());
            head_room.copy_from_slice(&head);
            match device.read_at(data_room, offset) {
                Ok(()) => self.output.filled += head.len() + part.len(),
                // A simple reply has no place for an error once it has begun, nor may another reply follow it.
                Err(error) if !self.structured && part.start != 0 => {
                    self.output.close();
                    return Err(Failure::Io(error));
                }
                Err(error) => return self.refuse(request, WireError::from(&error)),
            }
        }
        Ok(())
    }

    fn block_status(&mut self, request: &Request, device: &dyn BlockDevice) -> Result<(), Failure> {
        let count = if request.flags & flag::REQ_ONE == 0 { EXTENTS_MAX } else { 1 };
        let extents = match extents(device, request.range(), count) {
            Ok(extents) => extents,
            Err(error) => return self.refuse(request, WireError::from(&error)),
        };
        let length = 4 + 8 * extents.len();
        self.output.put(&chunk_head(request, chunk::DONE, chunk::BLOCK_STATUS, length))?;
        self.output.put(&BASE_ALLOCATION_ID.to_be_bytes())?;
        for (length, flags) in extents {
            self.output.put(&length.to_be_bytes())?;
            self.output.put(&flags.to_be_bytes())?;
        }
        Ok(())
    }

    /// Answers with an error, in the kind of reply that the command has.
    fn refuse(&mut self, request: &Request, error: WireError) -> Result<(), Failure> {
        let has_chunks = matches!(request.command, command::READ | command::BLOCK_STATUS);
        if !(self.structured && has_chunks) {
            return self.simple(request, error as u32);
        }
        self.output.put(&chunk_head(request, chunk::DONE, chunk::ERROR, 6))?;
        self.output.put(&(error as u32).to_be_bytes())?;
        Ok(self.output.put(&[0; 2])?) // no message
    }

    fn simple(&mut self, request: &Request, error: u32) -> Result<(), Failure> {
        Ok(self.output.put(&simple_head(request, error))?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the next request can be done without waiting for the client.
fn whole_request_is_buffered(input: &Input<'_>) -> bool {
    let Some(header) = input.buffered().first_chunk() else { return false };
    let payload = Request::decode(header).map_or(0, |request| request.payload_bytes());
    REQUEST_BYTES + payload.min(PIECE_BYTES) <= input.buffered().len()
}

fn whole_bytes(request: &Request) -> usize {
    REQUEST_BYTES + request.payload_bytes()
}

/// Takes the payload piece by piece; after an error the rest is taken all the same.
fn write(
    input: &mut Input<'_>,
    request: &Request,
    device: &dyn BlockDevice,
    fua: bool,
) -> Result<io::Result<()>, Failure> {
    let length = request.payload_bytes();
    let in_one = length <= PIECE_BYTES;
    let mut outcome = Ok(());
    for part in pieces(length) {
        let data = input.take(part.len())?;
        if outcome.is_ok() {
            let offset = request.offset + part.start as u64;
            outcome = device.write_at(data, offset, fua && in_one);
        }
    }
    if fua && !in_one { Ok(outcome.and_then(|()| device.flush())) } else { Ok(outcome) }
}

fn skip(input: &mut Input<'_>, length: usize) -> Result<(), Failure> {
    for part in pieces(length) {
        input.take(part.len())?;
    }
    Ok(())
}

fn simple_head(request: &Request, error: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    head[4..8].copy_from_slice(&error.to_be_bytes());
    head[8..].copy_from_slice(&request.cookie.to_be_bytes());
    head
}

fn chunk_head(request: &Request, flags: u16, kind: u16, length: usize) -> [u8; 20] {
    let mut head = [0; 20];
    head[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    head[4..6].copy_from_slice(&flags.to_be_bytes());
    head[6..8].copy_from_slice(&kind.to_be_bytes());
    head[8..16].copy_from_slice(&request.cookie.to_be_bytes());
    head[16..].copy_from_slice(&(length as u32).to_be_bytes());
    head
}

/// `length` bytes in pieces.
fn pieces(length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(PIECE_BYTES).map(move |start| start..length.min(start + PIECE_BYTES))
}

/// Which parts of a range are holes, in at most `count` runs of length and flags.
fn extents(
    device: &dyn BlockDevice,
    range: Range<u64>,
    count: usize,
) -> io::Result<Vec<(u32, u32)>> {
    let mut extents = Vec::new();
    let mut at = range.start;
    while at < range.end && extents.len() < count {
        let (end, flags) = match device.next_data(at)? {
            Some(data) if at < data.start => (data.start, allocation::HOLE | allocation::ZERO),
            Some(data) if at < data.end => (data.end, 0),
            Some(_) => (range.end, 0), // a device that cannot tell
            None => (range.end, allocation::HOLE | allocation::ZERO),
        };
        let end = end.min(range.end);
        extents.push(((end - at) as u32, flags)); // a request is shorter than 4 GiB
        at = end;
    }
    Ok(extents)
}
