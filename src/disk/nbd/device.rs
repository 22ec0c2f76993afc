//! An NBD export as a disk, as a hypervisor has it.

use super::client::{Client, ClientError};
use super::protocol::PAYLOAD_BYTES_MAX;
use super::socket::{Endpoint, NbdUri};
use crate::ports::block::BlockDevice;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// A disk behind an NBD export, over one connection: requests go one after the other. When the
/// connection broke, every request fails; connect again.
#[derive(Debug)]
pub struct NbdDisk {
    client: Mutex<Client>,
    size_bytes: u64,
    read_only: bool,
}

/// A text that is no NBD URI.
#[derive(Debug, Error)]
#[error("read NBD URI {0}: expected nbd+unix:///EXPORT?socket=PATH or nbd://ADDRESS:PORT/EXPORT")]
pub struct UriError(String);

impl NbdDisk {
    /// Connects to an export by its URI.
    ///
    /// # Errors
    /// What the server or the socket answered; `InvalidInput` for a text that is no URI.
    pub fn connect(uri: &str) -> io::Result<Self> {
        let uri: NbdUri =
            uri.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let client = Client::connect(&uri.endpoint, &uri.export).map_err(as_io)?;
        let (size_bytes, read_only) = (client.size_bytes(), client.read_only());
        Ok(Self { client: Mutex::new(client), size_bytes, read_only })
    }

    fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the kind of an I/O error, so that a broken connection can be told from a broken disk.
fn as_io(error: ClientError) -> io::Error {
    let kind = match &error {
        ClientError::Io { source, .. } | ClientError::Broke { source, .. } => source.kind(),
        ClientError::Answered { errno, .. } => {
            io::Error::from_raw_os_error(i32::try_from(*errno).unwrap_or(0)).kind()
        }
        ClientError::Refused { .. } => io::ErrorKind::NotFound,
    };
    io::Error::new(kind, error)
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let most = PAYLOAD_BYTES_MAX as u64;
    let end = range.end;
    range.step_by(most as usize).map(move |start| start..(start + most).min(end))
}

impl BlockDevice for NbdDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        for piece in pieces(0..buffer.len() as u64) {
            let part = &mut buffer[piece.start as usize..piece.end as usize];
            self.client().read_at(part, offset + piece.start).map_err(as_io)?;
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64, fua: bool) -> io::Result<()> {
        for piece in pieces(0..data.len() as u64) {
            let part = &data[piece.start as usize..piece.end as usize];
            self.client().write_at(part, offset + piece.start, fua).map_err(as_io)?;
        }
        Ok(())
    }

    fn zero(&self, range: Range<u64>, punch: bool, fua: bool) -> io::Result<()> {
        for piece in pieces(range) {
            self.client().zero(piece, punch).map_err(as_io)?;
        }
        if fua { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> io::Result<()> {
        self.client().flush().map_err(as_io)
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let mut at = from;
        while at < self.size_bytes {
            let extents = self.client().block_status(at..self.size_bytes).map_err(as_io)?;
            let Some(last) = extents.last() else { break };
            let next = last.range.end;
            if let Some(data) = extents.into_iter().find(|extent| !extent.zero) {
                return Ok(Some(data.range));
            }
            at = next;
        }
        Ok(None)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }
}

impl FromStr for NbdUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let bad = || UriError(text.to_owned());
        if let Some(rest) = text.strip_prefix("nbd+unix:///") {
            let (export, query) = rest.split_once('?').ok_or_else(bad)?;
            let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="));
            let path = unescape(socket.ok_or_else(bad)?).ok_or_else(bad)?;
            let export = unescape(export).ok_or_else(bad)?;
            return Ok(Self { endpoint: Endpoint::Unix(PathBuf::from(path)), export });
        }
        let rest = text.strip_prefix("nbd://").ok_or_else(bad)?;
        let (address, export) = rest.split_once('/').ok_or_else(bad)?;
        let endpoint = Endpoint::Tcp(address.parse().map_err(|_| bad())?);
        Ok(Self { endpoint, export: unescape(export).ok_or_else(bad)? })
    }
}

/// Undoes the percent-encoding of a part of a URI.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_reads_back() {
        let unix = Endpoint::Unix(PathBuf::from("/a b/%/nbd.sock"));
        let tcp = Endpoint::Tcp(([127, 0, 0, 1], 10809).into());
        for endpoint in [unix, tcp] {
            let uri = NbdUri { endpoint, export: "web-01-os".to_owned() };
            assert_eq!(uri.to_string().parse::<NbdUri>().ok(), Some(uri));
        }
        for bad in ["", "nbd://", "nbd+unix:///x", "http://x/y", "nbd+unix:///x?socket=%2"] {
            assert!(bad.parse::<NbdUri>().is_err(), "{bad}");
        }
    }
}
