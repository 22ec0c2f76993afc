//! Scripts and probes on this machine.

use crate::domain::plan::Probe;
use crate::ports::actions::{Actions, Ended, OUTPUT_MAX};
use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Runs programs as the service's user, each in a process group of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalActions;

/// A process group, ended with whoever waits for it.
struct ProcessGroup(Option<Pid>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[async_trait]
impl Actions for LocalActions {
    async fn run(&self, command: &[String], context: &str, at_most: Duration) -> Ended {
        let Some((program, arguments)) = command.split_first() else {
            return failed("there is no program to run");
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return failed(&format!("start {program}: {error}")),
        };
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let group = ProcessGroup(pid);
        let ended = timeout(at_most, to_its_end(&mut child, context)).await;
        drop(group);
        ended.unwrap_or_else(|_| {
            failed(&format!("{program} did not end within {} s and was killed", at_most.as_secs()))
        })
    }

    async fn probe(&self, probe: &Probe, at_most: Duration) -> Result<(), String> {
        match probe {
            Probe::Tcp { address } => match timeout(at_most, TcpStream::connect(address)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(format!("connect to {address}: {error}")),
                Err(_) => Err(format!("{address} does not answer")),
            },
            Probe::Http { url } => {
                let get = async {
                    let client = reqwest::Client::builder().timeout(at_most).build()?;
                    client.get(url).send().await
                };
                let answer = get.await.map_err(|error| format!("get {url}: {error}"))?;
                let status = answer.status().as_u16();
                let fine = (200..400).contains(&status);
                if fine { Ok(()) } else { Err(format!("{url} answers {status}")) }
            }
            Probe::Script { command } => {
                let ended = self.run(command, "", at_most).await;
                ended.failure.map_or(Ok(()), Err)
            }
        }
    }
}

/// Feeds a child, keeps the end of what it prints, and waits for it.
async fn to_its_end(child: &mut Child, context: &str) -> Ended {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A script need not read it.
            let _ = stdin.write_all(context.as_bytes()).await;
        }
    };
    let ((), output, errors, status) = tokio::join!(feed, tail(stdout), tail(stderr), child.wait());
    let mut output = output;
    output.extend(errors);
    let skipped = output.len().saturating_sub(OUTPUT_MAX);
    let output = String::from_utf8_lossy(&output[skipped..]).into_owned();
    let failure = match status {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("it ended with {status}")),
        Err(error) => Some(format!("wait for it: {error}")),
    };
    Ended { output, failure }
}

/// The last bytes of a stream; what comes before is read and forgotten.
async fn tail(stream: Option<impl AsyncReadExt + Unpin>) -> Vec<u8> {
    let Some(mut stream) = stream else { return vec![] };
    let (mut kept, mut buffer) = (Vec::new(), [0; OUTPUT_MAX]);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let skipped = kept.len().saturating_sub(OUTPUT_MAX);
        kept.drain(..skipped);
    }
    kept
}

fn failed(why: &str) -> Ended {
    Ended { output: String::new(), failure: Some(why.to_owned()) }
}
