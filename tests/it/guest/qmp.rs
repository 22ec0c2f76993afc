//! QEMU's machine protocol, as far as a power button goes: JSON, a line a message.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long QEMU may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A connection to a running QEMU.
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and agrees on the protocol.
    pub(super) fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let mut own = Self { stream: BufReader::new(stream) };
        own.message()?;
        own.execute("qmp_capabilities")?;
        Ok(own)
    }

    /// Executes a command that takes nothing, and waits until it is done.
    pub(super) fn execute(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.stream.get_mut(), "{}", json!({ "execute": command }))?;
        loop {
            let message = self.message()?;
            if message.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = message.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
        }
    }

    /// The greeting, an answer, or an event.
    fn message(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}
