//! Tests of the command `lifeboat`: the binary, as a user runs it.

mod bad_input;
mod crash;
mod demo_disk;
mod disks;
mod event_log;
mod failback;
mod hrl;
mod networks;
mod operate;
mod registration;
mod serve;
mod simulate;
mod vault;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};

fn command<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(arguments).env_remove("LIFEBOAT_LOG").env("RUST_BACKTRACE", "0");
    command
}

/// Runs to its end.
fn lifeboat<A: AsRef<OsStr>>(arguments: &[A]) -> Output {
    command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it printed, if it did what it was asked to.
fn done<A: AsRef<OsStr>>(arguments: &[A]) -> String {
    let output = lifeboat(arguments);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A `lifeboat` that runs until it is stopped; killed if the test ends before.
struct Running {
    child: Child,
    address: String,
    /// What it said until it served.
    said: Vec<String>,
    /// Kept: a process whose reader is gone could not tell anything more.
    stderr: BufReader<ChildStderr>,
}

impl Running {
    /// Starts it and waits until it says where its health checks are.
    fn start<A: AsRef<OsStr>>(arguments: &[A]) -> Self {
        let mut child =
            command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut running = Self { child, address: String::new(), said: Vec::new(), stderr };
        while running.address.is_empty() {
            let mut line = String::new();
            let length = running.stderr.read_line(&mut line).unwrap();
            assert_ne!(length, 0, "it ended before it served: {:#?}", running.said);
            let address = line.split("http://").nth(1).unwrap_or("");
            let ours = |c: &char| c.is_ascii_digit() || ".:".contains(*c);
            running.address = address.chars().take_while(ours).collect();
            running.said.push(line);
        }
        running
    }

    fn serve(config: &Path) -> Self {
        Self::start(&[OsStr::new("serve"), OsStr::new("--config"), config.as_os_str()])
    }

    /// The first line of standard output.
    fn first_line(&mut self) -> String {
        let mut line = String::new();
        // Read byte by byte: what follows stays where it is.
        let stdout = self.child.stdout.as_mut().unwrap();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0] as char);
        }
        line
    }

    /// Status and body of a GET.
    fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// Tells it to stop, as a service manager does, and waits until it has.
    fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }

    fn signal(&self, name: &str) {
        let process = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &process]).status().unwrap();
        assert!(status.success());
    }

    /// kill -9.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a configuration. Its data is beside the configuration.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// `hosts` is what the configuration has below its policy: a delta a second.
    fn new(hosts: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.configure(hosts);
        place
    }

    fn configure(&self, hosts: &str) {
        let data = self.data_text();
        let text = format!(
            "data = '{data}'\nlisten = \"127.0.0.1:0\"\n[policy]\ncopy_frequency_s = 1\nresync_window = \"always\"\n{hosts}\n"
        );
        std::fs::write(self.config(), text).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn data_text(&self) -> String {
        self.data().to_str().unwrap().to_owned()
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("lifeboat.toml")
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

/// A host with one VM whose guest writes by itself.
const ONE_GUEST: &str = r#"
[[host]]
name = "host-1"
[[host.vm]]
name = "web-01"
disk = [{ name = "os", path = "disks/web-01.img", create_mib = 4 }]
guest = { seed = 1, install_mib = 1, writes_per_second = 50 }
"#;
