//! A blocking NBD client: one request at a time. For workloads that are run against a disk, for checks
//! of what a guest would see, and for tests.

use super::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, CHUNK_MAGIC, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, MAGIC,
    OPTION_BYTES_MAX, OPTION_MAGIC, OPTION_REPLY_MAGIC, PAYLOAD_BYTES_MAX, Request,
    SIMPLE_REPLY_MAGIC, allocation, chunk, command, flag, info, option, reply, transmission,
};
use super::socket::Stream;
use super::{Endpoint, NbdUri};
use std::io::{self, BufReader, Read, Write};
use std::ops::Range;
use thiserror::Error;

/// A connection to one export.
#[derive(Debug)]
pub struct Client {
    input: BufReader<Socket>,
    output: Socket,
    size_bytes: u64,
    flags: u16,
    next_cookie: u64,
    /// Whether commands can be sent: the server has agreed to the export.
    agreed: bool,
}

/// A run of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockExtent {
    /// The bytes of the disk.
    pub range: Range<u64>,
    /// Whether it is not allocated.
    pub hole: bool,
    /// Whether it reads as zeroes.
    pub zero: bool,
}

/// Why a request was not done.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The connection broke; nothing is known about requests that were not answered.
    #[error("talk to NBD server {uri}")]
    Io {
        /// The export.
        uri: NbdUri,
        /// What the socket answered.
        #[source]
        source: io::Error,
    },
    /// The server refused an option of the handshake.
    #[error("connect to NBD export {uri}: the server answered {reply:#x} to option {option}")]
    Refused {
        /// The export.
        uri: NbdUri,
        /// The option.
        option: u32,
        /// The server's answer.
        reply: u32,
    },
    /// The server answered a request with an error.
    #[error("the NBD server answered errno {errno} to command {command}")]
    Answered {
        /// The command.
        command: u16,
        /// The error, as Linux numbers it.
        errno: u32,
    },
    /// The connection broke in the middle of a request.
    #[error("the NBD connection broke in command {command}")]
    Broke {
        /// The command.
        command: u16,
        /// What the socket answered.
        #[source]
        source: io::Error,
    },
}

impl Client {
    /// Connects and chooses the export.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(endpoint: &Endpoint, export: &str) -> Result<Self, ClientError> {
        let uri = NbdUri { endpoint: endpoint.clone(), export: export.to_owned() };
        let io = |source| ClientError::Io { uri: uri.clone(), source };
        let output = Stream::connect(endpoint).map(Socket).map_err(io)?;
        let input = BufReader::new(Socket(output.0.try_clone().map_err(io)?));
        let (size_bytes, flags, next_cookie, agreed) = Default::default();
        let mut client = Self { input, output, size_bytes, flags, next_cookie, agreed };
        match client.negotiate(export) {
            Ok(Ok(())) => {
                client.agreed = true;
                Ok(client)
            }
            Ok(Err((option, reply))) => Err(ClientError::Refused { uri, option, reply }),
            Err(source) => Err(ClientError::Io { uri, source }),
        }
    }

    /// Size of the disk.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether the export takes no writes.
    pub fn read_only(&self) -> bool {
        self.flags & transmission::READ_ONLY != 0
    }

    /// Fills `buffer` from `offset` on; at most 32 MiB.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), ClientError> {
        self.request(command::READ, 0, offset..offset + buffer.len() as u64, &[], |input, chunk| {
            match chunk {
                chunk::OFFSET_DATA => {
                    let at = input.within(buffer.len() as u64, offset)?;
                    let length = input.left;
                    let part = buffer.get_mut(at..at + length).ok_or_else(nonsense)?;
                    input.read_exact(part)
                }
                chunk::OFFSET_HOLE => {
                    let at = input.within(buffer.len() as u64, offset)?;
                    let length = input.u32()? as usize;
                    buffer.get_mut(at..at + length).ok_or_else(nonsense)?.fill(0);
                    Ok(())
                }
                _ => Err(nonsense()),
            }
        })
    }

    /// Writes `data` at `offset`; with `fua` it is durable on return. At most 32 MiB.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn write_at(&mut self, data: &[u8], offset: u64, fua: bool) -> Result<(), ClientError> {
        let flags = if fua { flag::FUA } else { 0 };
        let range = offset..offset + data.len() as u64;
        self.request(command::WRITE, flags, range, data, |_, _| Err(nonsense()))
    }

    /// Makes everything durable that was acknowledged.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.request(command::FLUSH, 0, 0..0, &[], |_, _| Err(nonsense()))
    }

    /// Gives the space of a range back; it reads as zeroes from then on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn trim(&mut self, range: Range<u64>) -> Result<(), ClientError> {
        self.request(command::TRIM, 0, range, &[], |_, _| Err(nonsense()))
    }

    /// Makes a range read as zeroes; with `punch` its space may be given back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn zero(&mut self, range: Range<u64>, punch: bool) -> Result<(), ClientError> {
        let flags = if punch { 0 } else { flag::NO_HOLE };
        self.request(command::WRITE_ZEROES, flags, range, &[], |_, _| Err(nonsense()))
    }

    /// Which parts of a range are allocated. The server may describe less than was asked for.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn block_status(&mut self, range: Range<u64>) -> Result<Vec<BlockExtent>, ClientError> {
        let mut extents = Vec::new();
        let mut at = range.start;
        self.request(command::BLOCK_STATUS, 0, range, &[], |input, kind| {
            if kind != chunk::BLOCK_STATUS || input.u32()? != BASE_ALLOCATION_ID {
                return Err(nonsense());
            }
            while 0 < input.left {
                let (length, flags) = (u64::from(input.u32()?), input.u32()?);
                let hole = flags & allocation::HOLE != 0;
                let zero = flags & allocation::ZERO != 0;
                let end = at.checked_add(length).ok_or_else(nonsense)?;
                extents.push(BlockExtent { range: at..end, hole, zero });
                at = end;
            }
            Ok(())
        })?;
        Ok(extents)
    }

    /// The handshake; a refusal is the option and the server's answer.
    fn negotiate(&mut self, export: &str) -> io::Result<Result<(), (u32, u32)>> {
        let mut greeting = Body::of(&mut self.input, 18);
        if greeting.u64()? != MAGIC || greeting.u64()? != OPTION_MAGIC {
            return Err(nonsense());
        }
        let offered = greeting.u16()? & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        self.output.write_all(&u32::from(offered).to_be_bytes())?;
        let name = [&(export.len() as u32).to_be_bytes(), export.as_bytes()].concat();
        let context = BASE_ALLOCATION.as_bytes();
        let query =
            [&name[..], &1_u32.to_be_bytes(), &(context.len() as u32).to_be_bytes(), context]
                .concat();
        let go = [&name[..], &0_u16.to_be_bytes()].concat();
        for (option, data) in [
            (option::STRUCTURED_REPLY, &[][..]),
            (option::SET_META_CONTEXT, &query),
            (option::GO, &go),
        ] {
            if let Err(refused) = self.option(option, data)? {
                return Ok(Err((option, refused)));
            }
        }
        Ok(Ok(()))
    }

    fn option(&mut self, option: u32, data: &[u8]) -> io::Result<Result<(), u32>> {
        self.output.write_all(&OPTION_MAGIC.to_be_bytes())?;
        self.output.write_all(&option.to_be_bytes())?;
        self.output.write_all(&(data.len() as u32).to_be_bytes())?;
        self.output.write_all(data)?;
        loop {
            let mut head = Body::of(&mut self.input, 20);
            if head.u64()? != OPTION_REPLY_MAGIC || head.u32()? != option {
                return Err(nonsense());
            }
            let (kind, length) = (head.u32()?, head.u32()?);
            if OPTION_BYTES_MAX < length {
                return Err(nonsense());
            }
            let mut body = Body::of(&mut self.input, length as usize);
            match kind {
                reply::ACK => return Ok(Ok(())),
                reply::INFO if body.u16()? == info::EXPORT => {
                    (self.size_bytes, self.flags) = (body.u64()?, body.u16()?);
                }
                reply::INFO | reply::META_CONTEXT => {}
                refused => {
                    body.skip()?;
                    return Ok(Err(refused));
                }
            }
            body.skip()?;
        }
    }

    /// Sends a request and takes its reply; `content` gets each chunk that carries something.
    fn request(
        &mut self,
        command: u16,
        flags: u16,
        range: Range<u64>,
        payload: &[u8],
        content: impl FnMut(&mut Body<'_>, u16) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let length = u32::try_from(range.end - range.start)
            .map_err(|_| ClientError::Answered { command, errno: 22 })?;
        let request = Request { flags, command, cookie, offset: range.start, length };
        let errno = self
            .exchange(&request, payload, content)
            .map_err(|source| ClientError::Broke { command, source })?;
        if errno == 0 { Ok(()) } else { Err(ClientError::Answered { command, errno }) }
    }

    fn exchange(
        &mut self,
        request: &Request,
        payload: &[u8],
        mut content: impl FnMut(&mut Body<'_>, u16) -> io::Result<()>,
    ) -> io::Result<u32> {
        self.output.write_all(&request.encode())?;
        self.output.write_all(payload)?;
        let mut errno = 0;
        loop {
            let magic = Body::of(&mut self.input, 4).u32()?;
            if magic == SIMPLE_REPLY_MAGIC {
                let mut head = Body::of(&mut self.input, 12);
                let answered = head.u32()?;
                let ours = head.u64()? == request.cookie;
                return if ours { Ok(answered) } else { Err(nonsense()) };
            }
            let mut head = Body::of(&mut self.input, 16);
            let (flags, kind, cookie) = (head.u16()?, head.u16()?, head.u64()?);
            let length = head.u32()?;
            if magic != CHUNK_MAGIC || cookie != request.cookie || PAYLOAD_BYTES_MAX + 8 < length {
                return Err(nonsense());
            }
            let mut body = Body::of(&mut self.input, length as usize);
            match kind {
                chunk::NONE => {}
                error if error & (1 << 15) != 0 => errno = body.u32()?.max(1),
                kind => content(&mut body, kind)?,
            }
            body.skip()?;
            if flags & chunk::DONE != 0 {
                return Ok(errno);
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.agreed {
            return; // a command would be taken for an option
        }
        let leave = Request { flags: 0, command: command::DISC, cookie: 0, offset: 0, length: 0 };
        _ = self.output.write_all(&leave.encode()); // the server may have left first
    }
}

/// A part of the stream with a known length.
struct Body<'a> {
    input: &'a mut BufReader<Socket>,
    left: usize,
}

impl<'a> Body<'a> {
    fn of(input: &'a mut BufReader<Socket>, left: usize) -> Self {
        Self { input, left }
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(buffer.len()).ok_or_else(nonsense)?;
        self.input.read_exact(buffer)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads the offset of a chunk; returns where it is in a request of `length` bytes from `start` on.
    fn within(&mut self, length: u64, start: u64) -> io::Result<usize> {
        let at = self.u64()?.checked_sub(start).filter(|at| *at <= length).ok_or_else(nonsense)?;
        Ok(at as usize)
    }

    fn skip(&mut self) -> io::Result<()> {
        let left = std::mem::take(&mut self.left) as u64;
        io::copy(&mut self.input.by_ref().take(left), &mut io::sink())?;
        Ok(())
    }
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the NBD server does not keep to the protocol")
}

/// One end of the connection.
#[derive(Debug)]
struct Socket(Stream);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&mut &self.0).read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&mut &self.0).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
