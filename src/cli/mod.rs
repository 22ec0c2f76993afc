//! The command line. Results go to standard output, everything else to standard error.
//!
//! Exit codes: 0 done, also if a signal ended what runs until it is stopped; 1 the answer is no (a
//! verification failed, damage was found); 2 error. Commands that operate a running service tell more
//! kinds of no apart, see `ending`.

mod client;
mod demo;
mod disk;
mod ending;
mod events;
mod explain;
mod failback;
mod failover;
mod grid;
mod hrl;
mod job;
mod network;
mod order;
mod plan;
mod replay;
mod serve;
mod simulate;
mod site;
mod status;
mod table;
mod vault;
mod vm;

use crate::store::BUILD;
use clap::{Parser, Subcommand, ValueEnum};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Self-hosted site recovery for virtual machines.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version = BUILD, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(serve::Args),
    /// Show protection, replication and failover on VMs of the lab
    Demo(demo::Args),
    /// How a running service and its VMs are
    Status(status::Args),
    /// The VMs of a running service
    Vm(vm::Args),
    /// Move VMs to the recovery site
    Failover(failover::Args),
    /// Bring VMs back to the primary site
    Failback(failback::Args),
    /// Recovery plans: many VMs failed over in an order
    Plan(plan::Args),
    /// The jobs of a running service
    Job(job::Args),
    /// The replication policies of a running service
    Policy(site::PolicyArgs),
    /// The hosts of a running service
    Host(site::HostArgs),
    /// The provider of the primary site: its management server
    Provider(site::ProviderArgs),
    /// The networks and sizes of both sites
    Network(network::NetworkArgs),
    /// Which network of the recovery site the VMs of a network go into
    NetworkMapping(network::MappingArgs),
    /// The clouds of a running service
    Cloud(site::CloudArgs),
    /// Explain an error: what it is, why it happens, what to do
    Explain(explain::Args),
    /// Read the event log
    Events(events::Args),
    /// Explain an incident from the event log
    Replay(replay::Args),
    /// Look into replication logs, verify and apply them
    Hrl(hrl::Args),
    /// Run an outage in virtual time
    Simulate(simulate::Args),
    /// Read a vault, and make its keys
    Vault(vault::Args),
}

/// How a result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON document, or one a line for lists.
    Json,
}

/// Why a command ended without a result.
type CommandError = Box<dyn std::error::Error>;

/// What a command found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    No,
    /// Another kind of no, by its exit code.
    Code(u8),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Failover(args) => failover::run(&args),
        Command::Failback(args) => failback::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Job(args) => job::run(&args),
        Command::Policy(args) => site::policies(&args),
        Command::Host(args) => site::hosts(&args),
        Command::Provider(args) => site::providers(&args),
        Command::Network(args) => network::networks(&args),
        Command::NetworkMapping(args) => network::mappings(&args),
        Command::Cloud(args) => site::clouds(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Hrl(args) => hrl::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Simulate(args) => simulate::run_command(&args),
        Command::Vault(args) => vault::run(&args),
    };
    match result {
        Ok(Answer::Done) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Ok(Answer::Code(code)) => ExitCode::from(code),
        Err(error) => {
            complain(&*error);
            let refusal = error.downcast_ref::<ending::Refusal>();
            ExitCode::from(refusal.map_or(2, |refusal| refusal.exit_code))
        }
    }
}

/// Prints an error with its causes, one a line.
#[expect(clippy::print_stderr, reason = "the command line talks to a person")]
fn complain(error: &dyn std::error::Error) {
    eprintln!("error: {error}");
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !told.contains(&text) {
            eprintln!("  because: {text}");
        }
        told.push_str(&text);
        source = cause.source();
    }
}

/// Standard output for results. Somebody who stopped reading wants no more of it: the process ends as if
/// all were said. Every other failure is one: a result on a full disk is not there.
struct Results<W>(W);

impl<W: Write> Results<W> {
    fn or_end<T>(result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() == ErrorKind::BrokenPipe
        {
            std::process::exit(0);
        }
        result
    }
}

impl<W: Write> Write for Results<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::or_end(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::or_end(self.0.flush())
    }
}

/// Prints a line of the result.
fn print(line: &str) {
    if let Err(error) = writeln!(Results(io::stdout().lock()), "{line}") {
        complain(&error);
        std::process::exit(2);
    }
}

/// The folder with a service's data.
#[derive(Clone, Debug, clap::Args)]
struct DataArg {
    /// The folder with the service's data
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}
