//! `lifeboat failback`: bring VMs back to the primary site.

use super::order::{Confirm, OrderArgs, give, nothing};
use super::vm::OrderOneArgs;
use super::{Answer, CommandError};
use serde_json::json;

/// Bring VMs back to the primary site.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Bring the disks of the primary site into step, while the VM runs at the recovery site
    Begin {
        /// The VM, by name or id
        vm: String,
        /// Download everything, instead of what differs
        #[arg(long)]
        in_full: bool,
        /// Bring it to this host of the primary site, where its disks are made if they are not there
        #[arg(long, value_name = "HOST")]
        to_host: Option<String>,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Shut the VM down, bring its last changes over, and start it at the primary site: nothing is lost
    Complete(OrderOneArgs),
    /// Give the failback up: the VM stays at the recovery site
    Cancel(OrderOneArgs),
    /// Replicate the VM from the primary site again, once the failback is committed
    Reverse(OrderOneArgs),
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    match &args.command {
        Command::Begin { vm, in_full, to_host, order } => {
            let body = json!({ "in_full": in_full, "to_host": to_host });
            give(order, vm, "failback", &body, Confirm::First)
        }
        Command::Complete(one) => {
            give(&one.order, &one.vm, "complete-failback", &nothing(), Confirm::First)
        }
        Command::Cancel(one) => {
            give(&one.order, &one.vm, "cancel-failback", &nothing(), Confirm::No)
        }
        Command::Reverse(one) => {
            give(&one.order, &one.vm, "reverse-replicate", &nothing(), Confirm::No)
        }
    }
}
