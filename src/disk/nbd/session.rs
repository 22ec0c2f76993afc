//! One connection: its handshake, by which the client chooses an export.

#![expect(clippy::disallowed_methods, reason = "a handshake is given up in real time")]

use super::buffers::{Input, Output};
use super::exports::{Connected, Exports};
use super::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, BLOCK_SIZES, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, Fields,
    InfoQuery, MAGIC, MetaQuery, OPTION_BYTES_MAX, OPTION_MAGIC, OPTION_REPLY_MAGIC, Violation,
    info, option, reply, transmission,
};
use super::socket::Stream;
use super::transmission::Transmission;
use crate::ports::block::BlockDevice;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection that has not chosen its export after this long is closed.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

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
    Transmission::new(stream, export, input, output, structured, allocation).run()
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
