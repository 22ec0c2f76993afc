//! `lifeboat host`, `lifeboat cloud`, `lifeboat policy`, `lifeboat vault show`: what a site has beside VMs.

use super::client::{Client, ServiceArgs, read};
use super::grid::{Format, columns, moment, or_dash, show};
use super::order::{ChangeArgs, change, looked_at, tell};
use super::status::with_causes;
use super::{Answer, CommandError};
use crate::api::RegistrationKeyView;
use crate::views::{CloudView, FabricView, HostView, VaultView};
use reqwest::Method;
use serde_json::json;

/// Shows what a service has.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub(super) service: ServiceArgs,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

/// The hosts of a running service.
#[derive(Debug, clap::Args)]
pub(super) struct HostArgs {
    #[command(subcommand)]
    command: HostCommand,
}

#[derive(Debug, clap::Subcommand)]
enum HostCommand {
    /// Every host: whether it answers, and its VMs
    List(ListArgs),
    /// Register a host's agent with a vault; its VMs can be protected from then on
    Register {
        /// The host, as the configuration calls it
        host: String,
        #[command(flatten)]
        register: RegisterArgs,
    },
}

/// How somebody registers.
#[derive(Debug, clap::Args)]
pub(super) struct RegisterArgs {
    /// A key of the vault: `lifeboat vault registration-key`
    #[arg(long, value_name = "KEY")]
    key: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// The provider of the primary site: its management server.
#[derive(Debug, clap::Args)]
pub(super) struct ProviderArgs {
    #[command(subcommand)]
    command: ProviderCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ProviderCommand {
    /// The sites: which vault their providers are registered with, and whether they answer
    List(ListArgs),
    /// Register the provider with a vault; networks are known from then on
    Register(RegisterArgs),
}

/// Has a vault issue a key.
#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    /// The vault, by name or id
    vault: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// The clouds of a running service.
#[derive(Debug, clap::Args)]
pub(super) struct CloudArgs {
    #[command(subcommand)]
    command: CloudCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CloudCommand {
    /// Every cloud: its policy, hosts and VMs
    List(ListArgs),
}

/// The replication policies of a running service.
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// The policy of every cloud
    List(ListArgs),
    /// Change the policy of a cloud, also for the VMs that replicate; it stays until the configuration has another
    /// one than before
    Set {
        /// The cloud, by name or id
        cloud: String,
        /// Seconds between two deltas, 1 to 900
        #[arg(long, value_name = "SECONDS")]
        copy_frequency: Option<u32>,
        /// Hours for which recovery points are kept, 0 to 72
        #[arg(long, value_name = "HOURS")]
        retention: Option<u32>,
        /// Hours between application-consistent points, 1 to 12, or 0 for none
        #[arg(long, value_name = "HOURS")]
        app_consistent: Option<u32>,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

pub(super) fn hosts(args: &HostArgs) -> Result<Answer, CommandError> {
    let list = match &args.command {
        HostCommand::List(list) => list,
        HostCommand::Register { host, register: args } => {
            return register(args, &["hosts", host, "register"]);
        }
    };
    let answer = Client::find(&list.service)?.get(&["hosts"])?;
    show(list.output, &answer, || {
        let hosts = read::<Vec<HostView>>(&answer)?;
        let causes = hosts.iter().map(|it| (format!("host {}", it.name), it.causes.as_slice()));
        let rows = hosts.iter().cloned().map(|host| {
            let answers = if host.connected { "yes" } else { "no" }.to_owned();
            let registered = or_dash(host.registered_at.map(moment));
            let (health, vms) = (host.health.to_string(), host.vms.join(", "));
            let (cluster, bandwidth) = (or_dash(host.cluster), or_dash(host.bandwidth));
            vec![host.name, host.cloud, cluster, registered, answers, health, bandwidth, vms]
        });
        let heads =
            ["HOST", "CLOUD", "CLUSTER", "REGISTERED", "ANSWERS", "HEALTH", "BANDWIDTH", "VMS"];
        Ok(with_causes(columns(&heads, &rows.collect::<Vec<_>>()), causes))
    })?;
    Ok(Answer::Done)
}

fn register(args: &RegisterArgs, path: &[&str]) -> Result<Answer, CommandError> {
    change(&args.change, Method::POST, path, &json!({ "key": args.key }))
}

pub(super) fn providers(args: &ProviderArgs) -> Result<Answer, CommandError> {
    let list = match &args.command {
        ProviderCommand::List(list) => list,
        ProviderCommand::Register(args) => return register(args, &["provider", "register"]),
    };
    let answer = Client::find(&list.service)?.get(&["fabrics"])?;
    show(list.output, &answer, || {
        let rows = read::<Vec<FabricView>>(&answer)?.into_iter().map(|fabric| {
            let silent = fabric.provider_silent_since.map(moment);
            let silent = silent.map(|since| format!("silent since {since}"));
            let answers = silent.unwrap_or_else(|| "yes".to_owned());
            let answers = if fabric.provider_of.is_some() { answers } else { "-".to_owned() };
            vec![fabric.name, fabric.side, or_dash(fabric.provider_of), answers]
        });
        Ok(columns(&["SITE", "SIDE", "REGISTERED WITH", "ANSWERS"], &rows.collect::<Vec<_>>()))
    })?;
    Ok(Answer::Done)
}

pub(super) fn registration_key(args: &KeyArgs) -> Result<Answer, CommandError> {
    let ChangeArgs { service, output, dry_run, request_id } = &args.change;
    let client = Client::find(service)?;
    let path = ["vaults", args.vault.as_str(), "registration-key"];
    if *dry_run {
        return looked_at(&client, &path, &json!({}), *output);
    }
    let answer = client.post(&path, &[], &json!({}), request_id.as_deref())?;
    let issued: RegistrationKeyView = read(&answer)?;
    show(*output, &answer, || Ok(issued.key.clone()))?;
    let expires = or_dash(issued.expires.map(moment));
    tell(&format!("it admits one host or provider to {}, until {expires}", issued.vault));
    Ok(Answer::Done)
}

pub(super) fn clouds(args: &CloudArgs) -> Result<Answer, CommandError> {
    let CloudCommand::List(list) = &args.command;
    let answer = Client::find(&list.service)?.get(&["clouds"])?;
    show(list.output, &answer, || {
        let clouds = read::<Vec<CloudView>>(&answer)?;
        let causes = clouds.iter().map(|it| (format!("cloud {}", it.name), it.causes.as_slice()));
        let rows = clouds.iter().map(|cloud| {
            let (hosts, vms) = (cloud.hosts.join(", "), cloud.vms.join(", "));
            vec![cloud.name.clone(), cloud.health.to_string(), hosts, vms]
        });
        let heads = ["CLOUD", "HEALTH", "HOSTS", "VMS"];
        Ok(with_causes(columns(&heads, &rows.collect::<Vec<_>>()), causes))
    })?;
    Ok(Answer::Done)
}

pub(super) fn policies(args: &PolicyArgs) -> Result<Answer, CommandError> {
    match &args.command {
        PolicyCommand::List(list) => {
            let answer = Client::find(&list.service)?.get(&["clouds"])?;
            show(list.output, &answer, || Ok(policy_table(&read::<Vec<CloudView>>(&answer)?)))?;
            Ok(Answer::Done)
        }
        PolicyCommand::Set { cloud, copy_frequency, retention, app_consistent, change: args } => {
            let body = json!({
                "copy_frequency_seconds": copy_frequency,
                "recovery_point_retention_hours": retention,
                "app_consistent_frequency_hours": app_consistent,
            });
            change(args, Method::POST, &["clouds", cloud, "policy"], &body)
        }
    }
}

fn policy_table(clouds: &[CloudView]) -> String {
    let rows: Vec<_> = clouds
        .iter()
        .map(|cloud| {
            let policy = cloud.policy;
            vec![
                cloud.name.clone(),
                format!("every {} s", policy.copy_frequency_seconds),
                format!("{} h", policy.recovery_point_retention_hours),
                match policy.app_consistent_frequency_hours {
                    0 => "never".to_owned(),
                    hours => format!("every {hours} h"),
                },
                match cloud.policy_pending.len() {
                    0 => "all VMs".to_owned(),
                    count => format!("all but {count} VMs"),
                },
            ]
        })
        .collect();
    columns(&["CLOUD", "DELTA", "KEPT", "APPLICATION-CONSISTENT", "TAKEN BY"], &rows)
}

pub(super) fn vaults(list: &ListArgs) -> Result<Answer, CommandError> {
    let answer = Client::find(&list.service)?.get(&["vaults"])?;
    show(list.output, &answer, || {
        let vaults = read::<Vec<VaultView>>(&answer)?;
        let causes = vaults.iter().map(|it| (format!("vault {}", it.name), it.causes.as_slice()));
        let rows = vaults.iter().cloned().map(|vault| {
            let reachable = if vault.reachable { "yes" } else { "no" }.to_owned();
            let points = vault.recovery_points.to_string();
            vec![vault.name, reachable, vault.health.to_string(), points, vault.vms.join(", ")]
        });
        let heads = ["VAULT", "REACHABLE", "HEALTH", "POINTS", "VMS"];
        Ok(with_causes(columns(&heads, &rows.collect::<Vec<_>>()), causes))
    })?;
    Ok(Answer::Done)
}
