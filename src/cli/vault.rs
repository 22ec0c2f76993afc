//! `lifeboat vault`: a vault without its service, as on the worst day: what is in it, whether it is sound,
//! and its disks as files. Nothing but the vault and its keys is needed.

mod export;
mod lease;
mod verify;

use super::{Answer, CommandError, Output, print};
use crate::domain::id::{DiskId, VaultId, VmId};
use crate::replica::{Names, RecoveryPointRecord, Vault, vaults_in};
use crate::service::{self, Config, VaultConfig};
use serde::Serialize;
use std::future::Future;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// Read a vault, and make its keys.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The VMs, disks and recovery points in a vault
    List {
        #[command(flatten)]
        place: PlaceArgs,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// The vaults of a running service: whether they can be reached
    Show(super::site::ListArgs),
    /// Have the vault of a running service issue a key; it admits one host or provider within 5 days
    RegistrationKey(super::site::KeyArgs),
    /// Prove that every recovery point can be restored; exit code 1 if one cannot
    Verify(verify::Args),
    /// Write a disk as it was at a recovery point to a file
    Export(export::Args),
    /// Make and change the keys of a vault
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
}

#[derive(Debug, clap::Subcommand)]
enum KeyCommand {
    /// Make a key file, for a vault that does not exist yet
    New {
        /// The file; there must be none
        file: PathBuf,
    },
    /// Add a key and write with it from then on; the others still read what they wrote
    Rotate {
        /// The key file
        file: PathBuf,
    },
}

/// Where the vault is.
#[derive(Clone, Debug, clap::Args)]
struct PlaceArgs {
    /// The vault's folder
    #[arg(long, value_name = "FOLDER", required_unless_present = "config")]
    vault: Option<PathBuf>,
    /// The configuration of the service that writes it
    #[arg(long, value_name = "FILE", conflicts_with = "vault")]
    config: Option<PathBuf>,
    /// The vault's key file; with --config, that of the configuration unless it is given
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Which vault, where the folder holds several
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    match &args.command {
        Command::List { place, output } => list(place, *output),
        Command::Show(args) => super::site::vaults(args),
        Command::RegistrationKey(args) => super::site::registration_key(args),
        Command::Verify(args) => verify::run(args),
        Command::Export(args) => export::run(args),
        Command::Key { command: KeyCommand::New { file } } => {
            let key = service::create_key_file(file)?;
            print(&format!("{} holds key {key}", file.display()));
            print("Without this file nobody can read the vault: keep a copy of it elsewhere.");
            Ok(Answer::Done)
        }
        Command::Key { command: KeyCommand::Rotate { file } } => {
            let key = service::rotate_key_file(file)?;
            print(&format!("{} writes with key {key} from the next start on", file.display()));
            print(
                "Copy the file again. `lifeboat vault verify` names what still needs older keys.",
            );
            Ok(Answer::Done)
        }
    }
}

impl PlaceArgs {
    /// Opens the vault, and what runs its requests.
    fn open(&self) -> Result<(Runtime, Vault), CommandError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let vault = match (&self.vault, &self.config) {
            (Some(folder), _) => {
                let store = service::open_folder(folder)?;
                let found = runtime.block_on(vaults_in(&*store))?;
                let id = self.choose(&found)?;
                service::open_vault(store, id, &VaultConfig::default(), Path::to_path_buf)?
            }
            (None, config) => {
                let config = config.as_ref().expect("one of --vault and --config is required");
                let config = Config::read(config)?;
                let keys = config.vault.keys.clone().filter(|_| self.keys.is_none());
                let settings = VaultConfig { keys, ..config.vault.clone() };
                let store = service::open_storage(&config)?;
                let id = service::vault_id(&config);
                service::open_vault(store, id, &settings, |path| config.place(path))?
            }
        };
        let vault = match &self.keys {
            Some(keys) => service::with_keys(vault, keys)?,
            None => vault,
        };
        runtime.block_on(vault.probe())?;
        Ok((runtime, vault))
    }

    fn choose(&self, found: &[VaultId]) -> Result<VaultId, CommandError> {
        match (self.id.map(VaultId), found) {
            (Some(id), found) if found.contains(&id) => Ok(id),
            (None, [id]) => Ok(*id),
            (None, []) => Err("there is no vault in this folder".into()),
            (Some(_) | None, found) => {
                let ids: Vec<String> = found.iter().map(ToString::to_string).collect();
                Err(format!("choose a vault with --id: {}", ids.join(", ")).into())
            }
        }
    }
}

/// Runs until it is done, or until somebody has had enough.
fn until_interrupted<T, E: Into<CommandError>>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, CommandError> {
    runtime.block_on(async {
        tokio::select! {
            done = work => done.map_err(Into::into),
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    })
}

/// What a VM in the vault is called.
fn name_of(vm: VmId, names: &Names) -> String {
    if names.vm.is_empty() { vm.to_string() } else { names.vm.clone() }
}

fn disk_name(disk: DiskId, names: &Names) -> String {
    names.disks.get(&disk).cloned().unwrap_or_else(|| disk.to_string())
}

/// What `list -o json` prints, a line a VM.
#[derive(Serialize)]
struct Listed {
    vm: VmId,
    name: String,
    disks: Vec<ListedDisk>,
    points: Vec<ListedPoint>,
    unreadable_points: Vec<String>,
}

#[derive(Serialize)]
struct ListedDisk {
    id: DiskId,
    name: String,
}

#[derive(Serialize)]
struct ListedPoint {
    cycle: u64,
    at: String,
    consistency: String,
    stored_bytes: u64,
}

fn list(place: &PlaceArgs, output: Output) -> Result<Answer, CommandError> {
    let (runtime, vault) = place.open()?;
    for vm in runtime.block_on(vault.vms())? {
        let list = runtime.block_on(vault.points(vm))?;
        let listed = listed(vm, &list.points, list.damaged.iter().map(ToString::to_string));
        match output {
            Output::Json => print(&serde_json::to_string(&listed)?),
            Output::Table => show(&listed),
        }
    }
    Ok(Answer::Done)
}

fn listed(
    vm: VmId,
    points: &[RecoveryPointRecord],
    unreadable: impl Iterator<Item = String>,
) -> Listed {
    let last = points.last();
    let names = last.map(|point| point.names.clone()).unwrap_or_default();
    let disks = last.into_iter().flat_map(|point| point.disks.keys());
    let disks = disks.map(|disk| ListedDisk { id: *disk, name: disk_name(*disk, &names) });
    let point = |point: &RecoveryPointRecord| ListedPoint {
        cycle: point.cycle,
        at: point.at.to_string(),
        consistency: format!("{:?}", point.consistency).to_lowercase(),
        stored_bytes: point.stored_bytes,
    };
    Listed {
        vm,
        name: name_of(vm, &names),
        disks: disks.collect(),
        points: points.iter().map(point).collect(),
        unreadable_points: unreadable.collect(),
    }
}

fn show(listed: &Listed) {
    let disks: Vec<&str> = listed.disks.iter().map(|disk| disk.name.as_str()).collect();
    print(&format!("{}  ({})  disks: {}", listed.name, listed.vm, disks.join(", ")));
    for point in &listed.points {
        let ListedPoint { cycle, at, consistency, stored_bytes } = point;
        print(&format!("  {cycle:>8}  {at}  {consistency:<11}  {stored_bytes:>14} bytes"));
    }
    for unreadable in &listed.unreadable_points {
        print(&format!("  damaged: {unreadable}"));
    }
}
