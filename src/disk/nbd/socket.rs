//! Sockets of either family, and how an export is named in a URI.

use rustix::net::{RecvFlags, Shutdown};
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// One export of one server, written as clients take it: `nbd+unix:///export?socket=/path` or
/// `nbd://host:port/export`. Source: the NBD URI specification, doc/uri.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdUri {
    /// The server.
    pub endpoint: Endpoint,
    /// The export.
    pub export: String,
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = Escaped(&self.export);
        match &self.endpoint {
            Endpoint::Unix(path) => {
                write!(f, "nbd+unix:///{export}?socket={}", Escaped(&path.to_string_lossy()))
            }
            Endpoint::Tcp(address) => write!(f, "nbd://{address}/{export}"),
        }
    }
}

/// A part of a URI, with what has a meaning there percent-encoded (RFC 3986, 2).
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    write!(f, "{}", char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens. A Unix socket's file that nobody listens behind is what a killed server left, and is
    /// replaced.
    pub(super) fn bind(endpoint: &Endpoint) -> io::Result<Self> {
        match endpoint {
            Endpoint::Tcp(address) => TcpListener::bind(address).map(Self::Tcp),
            Endpoint::Unix(path) => {
                let listener = match UnixListener::bind(path) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        match UnixStream::connect(path) {
                            Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                                fs::remove_file(path)?;
                                UnixListener::bind(path)
                            }
                            Ok(_) | Err(_) => Err(error),
                        }
                    }
                    outcome => outcome,
                }?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    /// Where it listens; the port of a TCP endpoint that asked for any is known by then.
    pub(super) fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Self::Unix(_, path) => Ok(Endpoint::Unix(path.clone())),
            Self::Tcp(listener) => listener.local_addr().map(Endpoint::Tcp),
        }
    }

    pub(super) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener, _) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }

    /// Makes a blocked and every later [`Listener::accept`] fail.
    pub(super) fn shut_down(&self) {
        let fd: BorrowedFd<'_> = match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        };
        _ = rustix::net::shutdown(fd, Shutdown::Both); // an error means that it is shut already
        if let Self::Unix(_, path) = self {
            _ = fs::remove_file(path); // somebody else may have replaced it
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub(super) fn connect(endpoint: &Endpoint) -> io::Result<Self> {
        match endpoint {
            Endpoint::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }

    /// Bounds each read; `None` waits forever.
    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(timeout),
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
        }
    }

    /// Bounds each write; `None` waits forever.
    pub(super) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_write_timeout(timeout),
            Self::Tcp(stream) => stream.set_write_timeout(timeout),
        }
    }

    /// Reads what has come; `WouldBlock` where nothing has.
    pub(super) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let fd: BorrowedFd<'_> = match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        };
        let (read, _) = rustix::net::recv(fd, buffer, RecvFlags::DONTWAIT)?;
        Ok(read)
    }

    /// Ends both directions, for every clone.
    pub(super) fn shut_down(&self) {
        let how = std::net::Shutdown::Both;
        // An error means that the peer was faster.
        _ = match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp(stream) => stream.shutdown(how),
        };
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buffer),
            Stream::Tcp(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(buffer),
            Stream::Tcp(stream) => (&*stream).write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_written_as_clients_take_them() {
        let unix = Endpoint::Unix(PathBuf::from("/run/vm 1.sock"));
        let uri = NbdUri { endpoint: unix, export: "sda".to_owned() };
        assert_eq!(uri.to_string(), "nbd+unix:///sda?socket=/run/vm%201.sock");
        let tcp = Endpoint::Tcp(([127, 0, 0, 1], 10809).into());
        let uri = NbdUri { endpoint: tcp, export: "vm/a?b".to_owned() };
        assert_eq!(uri.to_string(), "nbd://127.0.0.1:10809/vm/a%3Fb");
    }
}
