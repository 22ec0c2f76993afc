//! `lifeboat network`, `lifeboat network-mapping`: the networks of both sites, and which leads to which.

use super::client::{Client, read};
use super::grid::{columns, or_dash, show};
use super::order::{ChangeArgs, change, nothing};
use super::site::ListArgs;
use super::{Answer, CommandError};
use crate::views::{FabricView, MappingView};
use reqwest::Method;
use serde_json::json;

/// The networks and sizes of both sites.
#[derive(Debug, clap::Args)]
pub(super) struct NetworkArgs {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, clap::Subcommand)]
enum NetworkCommand {
    /// Every network of both sites, with its subnets
    List(ListArgs),
    /// The sizes that replicas can have
    Sizes(ListArgs),
}

/// Which network of the recovery site the VMs of a network go into.
#[derive(Debug, clap::Args)]
pub(super) struct MappingArgs {
    #[command(subcommand)]
    command: MappingCommand,
}

#[derive(Debug, clap::Subcommand)]
enum MappingCommand {
    /// Every VM network, and where it leads
    List(ListArgs),
    /// Have the replicas of VMs in a network go into one of the recovery site; several may lead to one
    Set {
        /// The VM network
        network: String,
        /// The network of the recovery site
        #[arg(long, value_name = "NETWORK")]
        to: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Have them go into none: they start without being connected
    Remove {
        /// The VM network
        network: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

pub(super) fn networks(args: &NetworkArgs) -> Result<Answer, CommandError> {
    let (NetworkCommand::List(list) | NetworkCommand::Sizes(list)) = &args.command;
    let answer = Client::find(&list.service)?.get(&["fabrics"])?;
    show(list.output, &answer, || {
        let fabrics = read::<Vec<FabricView>>(&answer)?;
        Ok(match args.command {
            NetworkCommand::List(_) => network_table(&fabrics),
            NetworkCommand::Sizes(_) => size_table(&fabrics),
        })
    })?;
    Ok(Answer::Done)
}

fn network_table(fabrics: &[FabricView]) -> String {
    let mut rows = Vec::new();
    for fabric in fabrics {
        for it in &fabric.networks {
            let subnets = it.network.subnets.iter();
            let subnets = subnets.map(|subnet| format!("{} {}", subnet.name, subnet.range));
            rows.push(vec![
                it.network.name.clone(),
                fabric.name.clone(),
                or_dash(it.network.logical.as_ref()),
                (if it.network.isolated { "yes" } else { "no" }).to_owned(),
                it.addresses_held.to_string(),
                subnets.collect::<Vec<_>>().join(", "),
            ]);
        }
    }
    columns(&["NETWORK", "SITE", "LOGICAL", "ISOLATED", "HELD", "SUBNETS"], &rows)
}

fn size_table(fabrics: &[FabricView]) -> String {
    let sizes = fabrics.iter().flat_map(|fabric| &fabric.sizes);
    let rows: Vec<_> = sizes
        .map(|size| {
            let numbers =
                [size.cores.into(), size.memory_mib, size.data_disks.into(), size.nics.into()];
            let numbers = numbers.iter().map(|number: &u64| number.to_string());
            [size.name.clone()].into_iter().chain(numbers).collect()
        })
        .collect();
    columns(&["SIZE", "CORES", "MEMORY MIB", "DATA DISKS", "NICS"], &rows)
}

pub(super) fn mappings(args: &MappingArgs) -> Result<Answer, CommandError> {
    match &args.command {
        MappingCommand::List(list) => {
            let answer = Client::find(&list.service)?.get(&["network-mappings"])?;
            show(list.output, &answer, || Ok(mapping_table(&read::<Vec<MappingView>>(&answer)?)))?;
            Ok(Answer::Done)
        }
        MappingCommand::Set { network, to, change: args } => {
            change(args, Method::PUT, &["network-mappings", network], &json!({ "to": to }))
        }
        MappingCommand::Remove { network, change: args } => {
            change(args, Method::DELETE, &["network-mappings", network], &nothing())
        }
    }
}

fn mapping_table(mappings: &[MappingView]) -> String {
    let rows: Vec<_> = mappings
        .iter()
        .map(|mapping| {
            let to = match &mapping.to {
                Some(to) if mapping.exists => to.clone(),
                Some(to) => format!("{to} (is gone)"),
                None => "none".to_owned(),
            };
            let logical = or_dash(mapping.logical.as_ref());
            vec![mapping.network.clone(), logical, to, mapping.vms.join(", ")]
        })
        .collect();
    columns(&["NETWORK", "LOGICAL", "LEADS TO", "VMS"], &rows)
}
