//! The words of the protocol, and the parsing of what a client sends. No input or output.
//!
//! All numbers are big-endian.

use std::io;
use std::ops::Range;
use thiserror::Error;

/// First word of a server's greeting, `NBDMAGIC`.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting, and first of each option, `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054;
/// First word of a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply's chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: no 124 zeroes after `EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 2;

/// Options.
pub mod option {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options.
pub mod reply {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    pub const ERR_INVALID: u32 = 0x8000_0003;
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
}

/// Kinds of information in a reply to `INFO` and `GO`.
pub mod info {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub mod transmission {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
}

/// Commands.
pub mod command {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of commands.
pub mod flag {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Chunks of a structured reply.
pub mod chunk {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = (1 << 15) + 1;
}

/// What `base:allocation` says of a run of blocks.
pub mod allocation {
    /// The run is not allocated.
    pub const HOLE: u32 = 1;
    /// The run reads as zeroes.
    pub const ZERO: u32 = 2;
}

/// The only metadata context that is offered.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Its id on the wire.
pub const BASE_ALLOCATION_ID: u32 = 1;

/// Smallest, preferred and largest block, as `INFO_BLOCK_SIZE` says it. Any byte range is served;
/// 4 KiB is the page of the page cache; 32 MiB is what every client may assume to work.
pub const BLOCK_SIZES: [u32; 3] = [1, 4096, PAYLOAD_BYTES_MAX];

/// Longest payload of a request or a read, the protocol's default.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// Longest data of an option: a name of 4,096 bytes, which is the protocol's longest string, and as
/// much again for queries.
pub const OPTION_BYTES_MAX: u32 = 8192;

/// Longest name of an export, the protocol's longest string.
pub const NAME_BYTES_MAX: usize = 4096;

/// Length of a request without its payload.
pub const REQUEST_BYTES: usize = 28;

/// Errors as they go over the wire: values of Linux' `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum WireError {
    /// `EPERM`: the export is read-only.
    ReadOnly = 1,
    /// `EIO`.
    Io = 5,
    /// `ENOMEM`.
    NoMemory = 12,
    /// `EINVAL`.
    Invalid = 22,
    /// `ENOSPC`: no room, or a write beyond the end.
    NoSpace = 28,
    /// `ENOTSUP`.
    NotSupported = 95,
    /// `ESHUTDOWN`: the disk is being taken away.
    Shutdown = 108,
}

impl From<&io::Error> for WireError {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::OutOfMemory => Self::NoMemory,
            io::ErrorKind::InvalidInput => Self::Invalid,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::NoSpace,
            io::ErrorKind::Unsupported => Self::NotSupported,
            io::ErrorKind::NotConnected => Self::Shutdown,
            _ => Self::Io,
        }
    }
}

/// What a client did wrong. Its connection is closed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Violation {
    /// Flags of the handshake that were not offered.
    #[error("unknown handshake flags {0:#x}")]
    HandshakeFlags(u32),
    /// An option without its magic.
    #[error("option magic {0:#018x} is wrong")]
    OptionMagic(u64),
    /// An option longer than any that is useful.
    #[error("an option of {0} bytes is too long")]
    OptionLength(u32),
    /// An export was asked for by the one option that cannot be refused otherwise.
    #[error("the export that was asked for does not exist")]
    NoSuchExport,
    /// A request without its magic.
    #[error("request magic {0:#010x} is wrong")]
    RequestMagic(u32),
    /// A write longer than the limit.
    #[error("a write of {0} bytes is too long")]
    WriteLength(u32),
}

/// One request, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// The command.
    pub command: u16,
    /// What the reply repeats.
    pub cookie: u64,
    /// Byte offset on the disk.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

impl Request {
    /// The bytes of the request.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`Violation`] where what follows cannot be found in the stream.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, Violation> {
        let mut fields = Fields(bytes);
        let magic = fields.known_u32();
        if magic != REQUEST_MAGIC {
            return Err(Violation::RequestMagic(magic));
        }
        let request = Self {
            flags: fields.known_u16(),
            command: fields.known_u16(),
            cookie: fields.known_u64(),
            offset: fields.known_u64(),
            length: fields.known_u32(),
        };
        if request.command == command::WRITE && PAYLOAD_BYTES_MAX < request.length {
            return Err(Violation::WriteLength(request.length));
        }
        Ok(request)
    }

    /// Bytes of payload that follow the request.
    pub fn payload_bytes(&self) -> usize {
        if self.command == command::WRITE { self.length as usize } else { 0 }
    }

    /// The range on the disk.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.length))
    }

    /// What is wrong with the request for a disk of `size_bytes`, if anything.
    pub fn check(&self, size_bytes: u64, read_only: bool) -> Result<(), WireError> {
        let writes = matches!(self.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        let allowed = match self.command {
            command::READ => flag::DF,
            command::WRITE | command::TRIM => flag::FUA,
            command::WRITE_ZEROES => flag::FUA | flag::NO_HOLE,
            command::BLOCK_STATUS => flag::REQ_ONE,
            _ => 0,
        };
        // Clients may set FUA on anything.
        if self.flags & !(allowed | flag::FUA) != 0 {
            return Err(WireError::Invalid);
        }
        if self.command == command::FLUSH {
            return Ok(());
        }
        if writes && read_only {
            return Err(WireError::ReadOnly);
        }
        let beyond = self.offset.checked_add(u64::from(self.length)).is_none_or(|e| size_bytes < e);
        match (beyond, writes) {
            (true, true) => Err(WireError::NoSpace),
            (true, false) => Err(WireError::Invalid),
            (false, _) if self.length == 0 => Err(WireError::Invalid),
            (false, _) if self.command == command::READ && PAYLOAD_BYTES_MAX < self.length => {
                Err(WireError::Invalid)
            }
            (false, _) => Ok(()),
        }
    }
}

/// What `INFO` and `GO` ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoQuery {
    /// The export.
    pub name: String,
    /// Kinds of information.
    pub kinds: Vec<u16>,
}

impl InfoQuery {
    /// Reads the data of the option; `None` if it does not add up.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.u16()?;
        let kinds = (0..count).map(|_| fields.u16()).collect::<Option<_>>()?;
        fields.is_empty().then_some(Self { name, kinds })
    }
}

/// What `LIST_META_CONTEXT` and `SET_META_CONTEXT` ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaQuery {
    /// The export.
    pub name: String,
    /// Names or beginnings of contexts.
    pub queries: Vec<String>,
}

impl MetaQuery {
    /// Reads the data of the option; `None` if it does not add up.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.string()?); // ends with the data, whatever the count says
        }
        fields.is_empty().then_some(Self { name, queries })
    }

    /// Whether `base:allocation` is among what `SET_META_CONTEXT` selects.
    pub fn selects_allocation(&self) -> bool {
        self.queries.iter().any(|query| query == BASE_ALLOCATION)
    }

    /// Whether `base:allocation` is among what `LIST_META_CONTEXT` asks about.
    pub fn lists_allocation(&self) -> bool {
        self.queries.is_empty() || self.queries.iter().any(|q| q == "base:" || q == BASE_ALLOCATION)
    }
}

/// Reads fields out of bytes that may end too early.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn known_u16(&mut self) -> u16 {
        self.u16().expect("the caller has all bytes")
    }

    pub(super) fn known_u32(&mut self) -> u32 {
        self.u32().expect("the caller has all bytes")
    }

    pub(super) fn known_u64(&mut self) -> u64 {
        self.u64().expect("the caller has all bytes")
    }

    /// A length, then as many bytes of UTF-8.
    fn string(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        if NAME_BYTES_MAX < length {
            return None;
        }
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(string.to_vec()).ok()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: u16, offset: u64, length: u32) -> Request {
        Request { flags: 0, command, cookie: 7, offset, length }
    }

    #[test]
    fn a_request_reads_back() {
        let request = Request { flags: flag::FUA, ..request(command::WRITE, 512, 1024) };
        assert_eq!(Request::decode(&request.encode()), Ok(request));
        assert_eq!(request.payload_bytes(), 1024);
    }

    #[test]
    fn a_request_that_hides_what_follows_is_a_violation() {
        let mut bytes = request(command::READ, 0, 1).encode();
        bytes[0] ^= 1;
        assert!(matches!(Request::decode(&bytes), Err(Violation::RequestMagic(_))));
        let long = request(command::WRITE, 0, PAYLOAD_BYTES_MAX + 1).encode();
        assert!(matches!(Request::decode(&long), Err(Violation::WriteLength(_))));
    }

    #[test]
    fn ranges_flags_and_rights_are_checked() {
        let size = 1 << 20;
        let check = |request: Request| request.check(size, false);
        assert_eq!(check(request(command::READ, size - 1, 1)), Ok(()));
        assert_eq!(check(request(command::READ, size, 1)), Err(WireError::Invalid));
        assert_eq!(check(request(command::WRITE, size, 1)), Err(WireError::NoSpace));
        assert_eq!(check(request(command::WRITE, u64::MAX, 2)), Err(WireError::NoSpace));
        assert_eq!(check(request(command::READ, 0, 0)), Err(WireError::Invalid));
        assert_eq!(check(request(command::FLUSH, 0, 0)), Ok(()));
        let fast = Request { flags: flag::FAST_ZERO, ..request(command::WRITE_ZEROES, 0, 1) };
        assert_eq!(check(fast), Err(WireError::Invalid));
        assert_eq!(request(command::TRIM, 0, 1).check(size, true), Err(WireError::ReadOnly));
    }

    #[test]
    fn queries_end_with_their_data() {
        let mut data = vec![0, 0, 0, 2, b'h', b'd', 0, 2, 0, 3, 0, 1];
        let query = InfoQuery { name: "hd".to_owned(), kinds: vec![3, 1] };
        assert_eq!(InfoQuery::decode(&data), Some(query));
        data.push(0);
        assert_eq!(InfoQuery::decode(&data), None);
        assert_eq!(InfoQuery::decode(&data[..5]), None);
        let endless = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(MetaQuery::decode(&endless), None);
    }

    #[test]
    fn errors_of_a_disk_become_errno() {
        let wire = |kind: io::ErrorKind| WireError::from(&io::Error::from(kind)) as u32;
        assert_eq!(wire(io::ErrorKind::StorageFull), 28);
        assert_eq!(wire(io::ErrorKind::ReadOnlyFilesystem), 1);
        assert_eq!(wire(io::ErrorKind::NotConnected), 108);
        assert_eq!(wire(io::ErrorKind::Other), 5);
    }
}
