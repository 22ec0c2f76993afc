//! `lifeboat failover`: move VMs to the recovery site.

use super::order::{Confirm, OrderArgs, give, nothing};
use super::vm::OrderOneArgs;
use super::{Answer, CommandError};
use crate::api::point_choice;
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
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Make a failover final: the other recovery points are deleted
    Commit(OrderOneArgs),
}

fn point(text: &str) -> Result<String, String> {
    point_choice(text).map(|_| text.to_owned())
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    match &args.command {
        Command::Planned(one) => {
            give(&one.order, &one.vm, "planned-failover", &nothing(), Confirm::First)
        }
        Command::Unplanned { vm, point, order } => {
            give(order, vm, "unplanned-failover", &json!({ "point": point }), Confirm::First)
        }
        Command::Commit(one) => give(&one.order, &one.vm, "commit", &nothing(), Confirm::First),
    }
}
