//! `lifeboat vm disk`: the disks of a VM of a running service.

use super::client::{Client, ServiceArgs, read};
use super::grid::{Format, columns, show};
use super::order::{Confirm, OrderArgs, give};
use super::{Answer, CommandError};
use crate::sim::Size;
use crate::views::{DiskView, VmView};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// The disks of a VM
    List {
        /// The VM, by name or id
        vm: String,
        #[command(flatten)]
        service: ServiceArgs,
        /// How the result is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Give a VM another disk while it runs and is replicated; only what is on it is sent
    Add {
        /// The VM, by name or id
        vm: String,
        /// What the disk is called: letters, digits and hyphens
        disk: String,
        /// Its raw image at the VM's host, which exists and has the size of the disk
        #[arg(long, value_name = "FILE")]
        image: PathBuf,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Make a disk larger while its VM runs and is replicated; only what is added is sent
    Resize {
        /// The VM, by name or id
        vm: String,
        /// The disk, by name
        disk: String,
        /// Its size then, as 20GiB; as large as its image is, unless it is said
        #[arg(long, value_name = "SIZE", value_parser = size)]
        to: Option<Size>,
        #[command(flatten)]
        order: OrderArgs,
    },
}

fn size(text: &str) -> Result<Size, String> {
    Size::try_from(text.to_owned())
}

pub(super) fn run(command: &Command) -> Result<Answer, CommandError> {
    match command {
        Command::List { vm, service, output } => {
            let answer = Client::find(service)?.get(&["vms", vm])?;
            let vm: VmView = read(&answer)?;
            show(*output, &serde_json::to_value(&vm.disks)?, || Ok(disks(&vm)))?;
            Ok(Answer::Done)
        }
        Command::Add { vm, disk, image, order } => {
            let image = std::path::absolute(image)?;
            give(order, vm, "add-disk", &json!({ "disk": disk, "image": image }), Confirm::No)
        }
        Command::Resize { vm, disk, to, order } => {
            let body = json!({ "disk": disk, "size_bytes": to.map(|size| size.0) });
            give(order, vm, "resize-disk", &body, Confirm::No)
        }
    }
}

fn disks(vm: &VmView) -> String {
    let row = |disk: &DiskView| {
        let image = disk.image.clone().unwrap_or_default();
        vec![disk.name.clone(), Size(disk.size_bytes).to_string(), disk.id.to_string(), image]
    };
    columns(&["DISK", "SIZE", "ID", "ADDED FROM"], &vm.disks.iter().map(row).collect::<Vec<_>>())
}
