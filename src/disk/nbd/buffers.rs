//! What goes through the socket of a connection, buffered either way.

#![expect(clippy::disallowed_methods, reason = "a client is waited for in real time")]

use super::protocol::REQUEST_BYTES;
use super::session::Failure;
use super::socket::Stream;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

/// Longest piece of a read or write that is in memory. Longer requests are done piece by piece.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Room of either buffer: a piece, or all extents, and what goes before them.
const BUFFER_BYTES: usize = PIECE_BYTES + 4096;

/// How long a client that asks for one thing after the other is looked for before the thread sleeps. To be
/// woken takes longer than most of its requests do. Source: the time for which KVM looks before it lets a
/// processor sleep, `halt_poll_ns` of Linux on x86.
const LOOK_OUT: Duration = Duration::from_micros(200);

/// What a client sends, through a buffer that holds a whole piece.
pub(super) struct Input<'a> {
    stream: &'a Stream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// When a handshake has taken too long.
    pub(super) deadline: Option<Instant>,
    /// Whether the client came back so soon that it is looked for before the thread sleeps.
    pub(super) looks_out: bool,
}

impl<'a> Input<'a> {
    pub(super) fn new(stream: &'a Stream, deadline: Option<Instant>) -> Self {
        let buffer = vec![0; BUFFER_BYTES];
        Self { stream, buffer, start: 0, end: 0, deadline, looks_out: false }
    }

    /// What has come and was not taken.
    pub(super) fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next `length` bytes, at most [`PIECE_BYTES`].
    pub(super) fn take(&mut self, length: usize) -> Result<&[u8], Failure> {
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
    pub(super) fn is_at_end(&mut self) -> Result<bool, Failure> {
        Ok(self.start == self.end && self.read(REQUEST_BYTES)? == 0)
    }

    /// Takes the next `length` bytes, which are buffered, without copying them: gives the buffer away in exchange for
    /// `into`, and answers where they are in it. Only what has come after them is copied.
    pub(super) fn hand_over(&mut self, length: usize, into: &mut Vec<u8>) -> Range<usize> {
        if into.is_empty() {
            *into = vec![0; BUFFER_BYTES];
        }
        std::mem::swap(&mut self.buffer, into);
        let taken = self.start..self.start + length;
        let rest = &into[taken.end..self.end];
        self.buffer[..rest.len()].copy_from_slice(rest);
        (self.start, self.end) = (0, rest.len());
        taken
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
pub(super) struct Output<'a> {
    stream: &'a Stream,
    buffer: Vec<u8>,
    pub(super) filled: usize,
}

impl<'a> Output<'a> {
    pub(super) fn new(stream: &'a Stream) -> Self {
        Self { stream, buffer: vec![0; BUFFER_BYTES], filled: 0 }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.room(bytes.len())?.copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok(())
    }

    /// Room for `length` bytes, which count once `filled` is moved.
    pub(super) fn room(&mut self, length: usize) -> io::Result<&mut [u8]> {
        if self.buffer.len() < self.filled + length {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.filled..self.filled + length])
    }

    /// Sends what there is. After an error nobody knows what of it the client has, so nothing may follow.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        let sent = (&mut &*self.stream).write_all(&self.buffer[..filled]);
        sent.inspect_err(|_| self.close())
    }

    /// Ends the connection, for whoever reads from it as well.
    pub(super) fn close(&self) {
        self.stream.shut_down();
    }
}
