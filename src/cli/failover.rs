//! `lifeboat failover`: move VMs to the recovery site, or try it.

use super::order::{Confirm, OrderArgs, give, nothing, span};
use super::vm::OrderOneArgs;
use super::{Answer, CommandError};
use crate::api::point_choice;
use crate::sim::Span;
use clap::ValueEnum;
use serde_json::json;

/// Move VMs to the recovery site.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Shut the VM down, send what it wrote last, and start it at the recovery site: nothing is lost
    Planned(OrderOneArgs),
    /// Start the VM at the recovery site from a recovery point: says what would be lost, then does it
    Unplanned {
        /// The VM, by name or id
        vm: String,
        /// `latest`, `latest-processed`, `latest-application-consistent`, or the number of a point
        #[arg(long, default_value = "latest", value_parser = point)]
        point: String,
        /// First shut the source down and send what it wrote last, as far as host and vault answer; go on without
        /// where they do not
        #[arg(long, conflicts_with = "point")]
        synchronize: bool,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Make a failover final: the other recovery points are deleted; or a failback: the replica's disks at the recovery
    /// site are deleted
    Commit(OrderOneArgs),
    /// Undo a failover that is not committed: what the replica wrote since is lost
    Cancel(OrderOneArgs),
    /// Run from another recovery point, before the failover is committed
    ChangePoint {
        /// The VM, by name or id
        vm: String,
        /// `latest-processed`, `latest-application-consistent`, or the number of a point
        #[arg(long, value_parser = point)]
        point: String,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Commit a failover, or cancel it, after some time, unless somebody has done either by then
    Decide {
        /// The VM, by name or id
        vm: String,
        /// What is done then
        #[arg(value_enum)]
        then: Decision,
        /// When, as 30m or 2h
        #[arg(long = "in", value_name = "TIME", value_parser = span)]
        after: Span,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Start a VM that waits for its recovery plan at once
    Release(OrderOneArgs),
    /// Start a copy of the VM in a network apart; replication goes on
    Test {
        /// The VM, by name or id
        vm: String,
        /// The network in which the copy runs
        #[arg(long, value_name = "NAME")]
        network: String,
        /// `latest`, `latest-processed`, `latest-application-consistent`, or the number of a point
        #[arg(long, default_value = "latest", value_parser = point)]
        point: String,
        /// Hours after which it is cleaned up by itself, 1 to 336
        #[arg(long, value_name = "HOURS", default_value_t = 24)]
        lease: u32,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Stop and delete the copy of a test; a test counts only then
    Cleanup {
        /// The VM, by name or id
        vm: String,
        /// What is to be kept of the test
        #[arg(long, value_name = "TEXT", default_value = "")]
        notes: String,
        #[command(flatten)]
        order: OrderArgs,
    },
}

/// What is done with a failover by itself.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Decision {
    /// Make it final.
    Commit,
    /// Undo it.
    Cancel,
}

impl Decision {
    const fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Cancel => "cancel",
        }
    }
}

/// A recovery point as it is named.
pub(super) fn point(text: &str) -> Result<String, String> {
    point_choice(text).map(|_| text.to_owned())
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    match &args.command {
        Command::Planned(one) => {
            give(&one.order, &one.vm, "planned-failover", &nothing(), Confirm::First)
        }
        Command::Unplanned { vm, point, synchronize, order } => {
            let body = json!({ "point": point, "synchronize": synchronize });
            give(order, vm, "unplanned-failover", &body, Confirm::First)
        }
        Command::Commit(one) => give(&one.order, &one.vm, "commit", &nothing(), Confirm::First),
        Command::Cancel(one) => {
            give(&one.order, &one.vm, "cancel-failover", &nothing(), Confirm::First)
        }
        Command::Release(one) => {
            give(&one.order, &one.vm, "release-start", &nothing(), Confirm::First)
        }
        Command::ChangePoint { vm, point, order } => {
            give(order, vm, "change-point", &json!({ "point": point }), Confirm::First)
        }
        Command::Decide { vm, then, after, order } => {
            let body = json!({ "then": then.word(), "in_seconds": after.duration().as_secs() });
            give(order, vm, "decide-failover", &body, Confirm::No)
        }
        Command::Test { vm, network, point, lease, order } => {
            let body = json!({ "network": network, "point": point, "lease_hours": lease });
            give(order, vm, "test-failover", &body, Confirm::No)
        }
        Command::Cleanup { vm, notes, order } => {
            give(order, vm, "test-failover-cleanup", &json!({ "notes": notes }), Confirm::No)
        }
    }
}
