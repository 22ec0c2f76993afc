//! One connection: the handshake, then requests until the client leaves.

#![expect(
    clippy::disallowed_methods,
    reason = "a handshake is given up, and a client waited for, in real time"
)]

use super::exports::{Connected, Exports};
use super::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, BLOCK_SIZES, CHUNK_MAGIC, FLAG_FIXED_NEWSTYLE,
    FLAG_NO_ZEROES, Fields, InfoQuery, MAGIC, MetaQuery, OPTION_BYTES_MAX, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, REQUEST_BYTES, Request, SIMPLE_REPLY_MAGIC, Violation, WireError,
    allocation, chunk, command, flag, info, option, reply, transmission,
};
use super::socket::Stream;
use crate::ports::block::{BlockDevice, Write as DiskWrite};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A connection that has not chosen its export after this long is closed.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// How long a client that asks for one thing after the other is looked for before the thread sleeps. To be
/// woken takes longer than most of its requests do. Source: the time for which KVM looks before it lets a
/// processor sleep, `halt_poll_ns` of Linux on x86.
const LOOK_OUT: Duration = Duration::from_micros(200);

/// Longest piece of a read or write that is in memory. Longer requests are done piece by piece.
const PIECE_BYTES: usize = 1 << 20;

/// Most writes that are done together: one group of a replication log.
const WRITES_MAX: usize = 127;

/// Runs of blocks in one answer to `BLOCK_STATUS`; a client asks again for the rest.
const EXTENTS_MAX: usize = 4096;

/// Room of either buffer: a piece, or all extents, and what goes before them.
const BUFFER_BYTES: usize = PIECE_BYTES + 4096;

/// Why a connection ended before its client wanted it to.
pub(super) enum Failure {
    /// The socket broke, or the disk in the middle of an answer.
    Io(io::Error),
    /// The client does not speak the protocol.
    Violation(Violation),
    /// The client did not finish its handshake.
    HandshakeTime,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Only reads and writes of the handshake have a timeout.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::HandshakeTime,
            _ => Self::Io(error),
        }
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// Serves one connection until its client leaves.
pub(super) fn serve(stream: &Stream, exports: &Arc<Exports>) -> Result<(), Failure> {
    let mut handshake = Handshake {
        stream,
        exports,
        input: Input::new(stream, Some(Instant::now() + HANDSHAKE_TIME)),
        output: Output::new(stream),
        no_zeroes: false,
        structured: false,
        context_of: None,
    };
    stream.set_write_timeout(Some(HANDSHAKE_TIME))?;
    let Some((export, name)) = handshake.negotiate()? else { return Ok(()) };
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    let Handshake { mut input, output, structured, context_of, .. } = handshake;
    input.deadline = None;
    let allocation = context_of == Some(name);
    Transmission { export, input, output, structured, allocation, refused: None }.run()
}

struct Handshake<'a> {
    stream: &'a Stream,
    exports: &'a Arc<Exports>,
    input: Input<'a>,
    output: Output<'a>,
    no_zeroes: bool,
    structured: bool,
    /// The export that `base:allocation` was chosen for.
    context_of: Option<String>,
}

impl Handshake<'_> {
    /// Answers options until the client chooses an export, or leaves.
    fn negotiate(&mut self) -> Result<Option<(Connected, String)>, Failure> {
        self.output.put(&MAGIC.to_be_bytes())?;
        self.output.put(&OPTION_MAGIC.to_be_bytes())?;
        self.output.put(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes())?;
        self.output.flush()?;
        let flags = Fields(self.input.take(4)?).known_u32();
        if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
            return Err(Violation::HandshakeFlags(flags).into());
        }
        self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
        loop {
            self.output.flush()?;
            let mut fields = Fields(self.input.take(16)?);
            let (magic, option, length) =
                (fields.known_u64(), fields.known_u32(), fields.known_u32());
            if magic != OPTION_MAGIC {
                return Err(Violation::OptionMagic(magic).into());
            }
            if OPTION_BYTES_MAX < length {
                return Err(Violation::OptionLength(length).into());
            }
            let data = self.input.take(length as usize)?.to_vec();
            match option {
                option::EXPORT_NAME => return self.export_name(data).map(Some),
                option::ABORT => {
                    self.reply(option, reply::ACK, &[])?;
                    // The client may be gone already, which is what it asked for.
                    _ = self.output.flush();
                    return Ok(None);
                }
                option::GO | option::INFO => {
                    if let Some(chosen) = self.info(option, &data)? {
                        return Ok(Some(chosen));
                    }
                }
                option::LIST => self.list(&data)?,
                option::STRUCTURED_REPLY if data.is_empty() => {
                    self.structured = true;
                    self.reply(option, reply::ACK, &[])?;
                }
                option::STRUCTURED_REPLY => self.reply(option, reply::ERR_INVALID, &[])?,
                option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                    self.meta_context(option, &data)?;
                }
                _ => self.reply(option, reply::ERR_UNSUP, &[])?,
            }
        }
    }

    /// The old way to choose: its answer has no error.
    fn export_name(&mut self, data: Vec<u8>) -> Result<(Connected, String), Failure> {
        let name = String::from_utf8(data).map_err(|_| Violation::NoSuchExport)?;
        let export = self.exports.connect(&name, self.stream).ok_or(Violation::NoSuchExport)?;
        self.output.put(&export.device.size_bytes().to_be_bytes())?;
        self.output.put(&transmission_flags(&*export.device).to_be_bytes())?;
        if !self.no_zeroes {
            self.output.put(&[0; 124])?;
        }
        self.output.flush()?;
        Ok((export, name))
    }

    fn info(&mut self, option: u32, data: &[u8]) -> Result<Option<(Connected, String)>, Failure> {
        let Some(query) = InfoQuery::decode(data) else {
            self.reply(option, reply::ERR_INVALID, &[])?;
            return Ok(None);
        };
        let Some(export) = self.exports.connect(&query.name, self.stream) else {
            self.reply(option, reply::ERR_UNKNOWN, &[])?;
            return Ok(None);
        };
        let size = export.device.size_bytes().to_be_bytes();
        let flags = transmission_flags(&*export.device).to_be_bytes();
        self.reply(option, reply::INFO, &[&info::EXPORT.to_be_bytes(), &size, &flags])?;
        if query.kinds.contains(&info::NAME) {
            let name = query.name.as_bytes();
            self.reply(option, reply::INFO, &[&info::NAME.to_be_bytes(), name])?;
        }
        if query.kinds.contains(&info::BLOCK_SIZE) {
            let sizes = BLOCK_SIZES.map(u32::to_be_bytes);
            self.reply(
                option,
                reply::INFO,
                &[&info::BLOCK_SIZE.to_be_bytes(), sizes.as_flattened()],
            )?;
        }
        self.reply(option, reply::ACK, &[])?;
        if option == option::INFO {
            return Ok(None);
        }
        self.output.flush()?;
        Ok(Some((export, query.name)))
    }

    fn list(&mut self, data: &[u8]) -> Result<(), Failure> {
        if !data.is_empty() {
            return self.reply(option::LIST, reply::ERR_INVALID, &[]);
        }
        for name in self.exports.names() {
            let length = (name.len() as u32).to_be_bytes();
            self.reply(option::LIST, reply::SERVER, &[&length, name.as_bytes()])?;
        }
        self.reply(option::LIST, reply::ACK, &[])
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) -> Result<(), Failure> {
        let sets = option == option::SET_META_CONTEXT;
        if sets {
            self.context_of = None;
        }
        let query = MetaQuery::decode(data).filter(|_| self.structured);
        let Some(query) = query else {
            return self.reply(option, reply::ERR_INVALID, &[]);
        };
        if self.exports.get(&query.name).is_none() {
            return self.reply(option, reply::ERR_UNKNOWN, &[]);
        }
        let chosen = if sets { query.selects_allocation() } else { query.lists_allocation() };
        if chosen {
            let id = BASE_ALLOCATION_ID.to_be_bytes();
            self.reply(option, reply::META_CONTEXT, &[&id, BASE_ALLOCATION.as_bytes()])?;
        }
        if chosen && sets {
            self.context_of = Some(query.name);
        }
        self.reply(option, reply::ACK, &[])
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[&[u8]]) -> Result<(), Failure> {
        let length: usize = data.iter().map(|part| part.len()).sum();
        self.output.put(&OPTION_REPLY_MAGIC.to_be_bytes())?;
        self.output.put(&option.to_be_bytes())?;
        self.output.put(&kind.to_be_bytes())?;
        self.output.put(&(length as u32).to_be_bytes())?;
        for part in data {
            self.output.put(part)?;
        }
        Ok(())
    }
}

fn transmission_flags(device: &dyn BlockDevice) -> u16 {
    let common = transmission::HAS_FLAGS
        | transmission::SEND_FLUSH
        | transmission::SEND_FUA
        | transmission::CAN_MULTI_CONN // a flush covers the writes of all connections
        | transmission::SEND_CACHE;
    if device.read_only() {
        common | transmission::READ_ONLY
    } else {
        common | transmission::SEND_TRIM | transmission::SEND_WRITE_ZEROES
    }
}

struct Transmission<'a> {
    export: Connected,
    input: Input<'a>,
    output: Output<'a>,
    structured: bool,
    /// Whether `base:allocation` was chosen.
    allocation: bool,
    /// How the disk refused a request last.
    refused: Option<io::ErrorKind>,
}

impl Transmission<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        loop {
            if !self.whole_request_is_buffered() {
                self.output.flush()?;
            }
            if self.input.is_at_end()? {
                return Ok(()); // left without a word
            }
            let writes = self.buffered_writes();
            // More come together while the thread sleeps, and are done with less work.
            self.input.looks_out &= writes.len() <= 1;
            if 1 < writes.len() {
                self.write_each(&writes)?;
                continue;
            }
            let request = self.input.take(REQUEST_BYTES)?;
            let request = request.try_into().expect("as many bytes were taken");
            let request = Request::decode(request)?;
            if request.command == command::DISC {
                return Ok(self.output.flush()?);
            }
            self.answer(&request)?;
        }
    }

    /// Whether the next request can be done without waiting for the client.
    fn whole_request_is_buffered(&self) -> bool {
        let Some(header) = self.input.buffered().first_chunk() else { return false };
        let payload = Request::decode(header).map_or(0, |request| request.payload_bytes());
        REQUEST_BYTES + payload.min(PIECE_BYTES) <= self.input.buffered().len()
    }

    /// The plain writes that have come one after the other, whole, up to [`WRITES_MAX`]: a disk that is
    /// tracked does them together with less work.
    fn buffered_writes(&self) -> Vec<Request> {
        let device = &self.export.device;
        let mut rest = self.input.buffered();
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

    fn write_each(&mut self, requests: &[Request]) -> Result<(), Failure> {
        let device = Arc::clone(&self.export.device);
        let length = |request: &Request| REQUEST_BYTES + request.payload_bytes();
        let mut bytes = self.input.take(requests.iter().map(length).sum())?;
        let mut writes = Vec::with_capacity(requests.len());
        for request in requests {
            let (whole, rest) = bytes.split_at(length(request));
            writes.push(DiskWrite { offset: request.offset, data: &whole[REQUEST_BYTES..] });
            bytes = rest;
        }
        for (request, outcome) in requests.iter().zip(device.write_each_at(&writes)) {
            self.finish(request, outcome)?;
        }
        Ok(())
    }

    fn answer(&mut self, request: &Request) -> Result<(), Failure> {
        let device = Arc::clone(&self.export.device);
        if let Err(error) = request.check(device.size_bytes(), device.read_only()) {
            self.skip(request.payload_bytes())?;
            return self.refuse(request, error);
        }
        let fua = request.flags & flag::FUA != 0;
        let outcome = match request.command {
            command::READ => return self.read(request, &*device),
            command::BLOCK_STATUS => return self.block_status(request, &*device),
            command::WRITE => self.write(request, &*device, fua)?,
            command::FLUSH => device.flush(),
            command::TRIM => device.zero(request.range(), true, fua),
            command::WRITE_ZEROES => {
                device.zero(request.range(), request.flags & flag::NO_HOLE == 0, fua)
            }
            command::CACHE => Ok(()), // the page cache knows better
            _ => return self.refuse(request, WireError::Invalid),
        };
        self.finish(request, outcome)
    }

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
            let (command, export) = (request.command, &self.export.name);
            tracing::warn!(command, %error, export, "a disk refuses requests");
        }
    }

    /// Takes the payload piece by piece; after an error the rest is taken all the same.
    fn write(
        &mut self,
        request: &Request,
        device: &dyn BlockDevice,
        fua: bool,
    ) -> Result<io::Result<()>, Failure> {
        let length = request.payload_bytes();
        let in_one = length <= PIECE_BYTES;
        let mut outcome = Ok(());
        for part in pieces(length) {
            let data = self.input.take(part.len())?;
            if outcome.is_ok() {
                let offset = request.offset + part.start as u64;
                outcome = device.write_at(data, offset, fua && in_one);
            }
        }
        if fua && !in_one { Ok(outcome.and_then(|()| device.flush())) } else { Ok(outcome) }
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
                // A simple reply has no place for an error once it has begun.
                Err(error) if !self.structured && part.start != 0 => {
                    return Err(Failure::Io(error));
                }
                Err(error) => return self.refuse(request, WireError::from(&error)),
            }
        }
        Ok(())
    }

    fn block_status(&mut self, request: &Request, device: &dyn BlockDevice) -> Result<(), Failure> {
        if !self.allocation {
            return self.refuse(request, WireError::Invalid);
        }
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

    fn skip(&mut self, length: usize) -> Result<(), Failure> {
        for part in pieces(length) {
            self.input.take(part.len())?;
        }
        Ok(())
    }
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

/// What a client sends, through a buffer that holds a whole piece.
struct Input<'a> {
    stream: &'a Stream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    deadline: Option<Instant>,
    /// Whether the client came back so soon that it is looked for before the thread sleeps.
    looks_out: bool,
}

impl<'a> Input<'a> {
    fn new(stream: &'a Stream, deadline: Option<Instant>) -> Self {
        let buffer = vec![0; BUFFER_BYTES];
        Self { stream, buffer, start: 0, end: 0, deadline, looks_out: false }
    }

    /// What has come and was not taken.
    fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next `length` bytes, at most [`PIECE_BYTES`].
    fn take(&mut self, length: usize) -> Result<&[u8], Failure> {
        while self.end - self.start < length {
            if self.read(length)? == 0 {
                return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let taken = self.start..self.start + length;
        self.start = taken.end;
        Ok(&self.buffer[taken])
    }

    /// Whether the client has left between two requests. Waits for what comes next.
    fn is_at_end(&mut self) -> Result<bool, Failure> {
        Ok(self.start == self.end && self.read(REQUEST_BYTES)? == 0)
    }

    /// Reads what there is, with room for `length` bytes in one piece.
    fn read(&mut self, length: usize) -> Result<usize, Failure> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() < self.start + length {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::HandshakeTime);
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        let asked = Instant::now();
        let room = &mut self.buffer[self.end..];
        let come = if self.looks_out { look_out(self.stream, room, asked) } else { None };
        let read = match come {
            Some(read) => read?,
            None => loop {
                match (&mut &*self.stream).read(room) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            },
        };
        self.looks_out = asked.elapsed() < LOOK_OUT;
        self.end += read;
        Ok(read)
    }
}

/// Reads what comes within [`LOOK_OUT`] without sleeping; whoever else has something to do goes first.
fn look_out(stream: &Stream, room: &mut [u8], since: Instant) -> Option<io::Result<usize>> {
    while since.elapsed() < LOOK_OUT {
        match stream.read_now(room) {
            Ok(read) => return Some(Ok(read)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => thread::yield_now(),
                _ => return Some(Err(error)),
            },
        }
    }
    None
}

/// What the client is sent, through a buffer that holds a whole piece.
struct Output<'a> {
    stream: &'a Stream,
    buffer: Vec<u8>,
    filled: usize,
}

impl<'a> Output<'a> {
    fn new(stream: &'a Stream) -> Self {
        Self { stream, buffer: vec![0; BUFFER_BYTES], filled: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.room(bytes.len())?.copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok(())
    }

    /// Room for `length` bytes, which count once `filled` is moved.
    fn room(&mut self, length: usize) -> io::Result<&mut [u8]> {
        if self.buffer.len() < self.filled + length {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.filled..self.filled + length])
    }

    fn flush(&mut self) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        (&mut &*self.stream).write_all(&self.buffer[..filled])
    }
}
