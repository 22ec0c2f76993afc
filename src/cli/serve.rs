//! `lifeboat serve`: the service, until it is told to stop.

use super::{Answer, CommandError};
use crate::drivers::lab::AfterBoot;
use crate::service::{Config, Service, log_to_stderr};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Run the service.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "config/lifeboat.toml")]
    config: PathBuf,
    /// Only check the configuration
    #[arg(long)]
    check: bool,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    let config = Config::read(&args.config)?;
    if args.check {
        super::print(&format!("{} is a valid configuration", args.config.display()));
        return Ok(Answer::Done);
    }
    log_to_stderr("info");
    actix::System::new().block_on(async {
        let service = Service::start(&config, AfterBoot::KeepWriting).await?;
        tracing::info!(health = %format!("http://{}", service.address), "the service runs");
        for vm in service.vms.iter().filter(|vm| service.refused(vm.id).is_none()) {
            for disk in &vm.disks {
                tracing::info!(vm = %vm.name, disk = %disk.name, uri = %disk.uri, "disk exported");
            }
        }
        let ended = told_to_stop(service.failed()).await?;
        tracing::info!("stopping");
        service.stop().await;
        ended.map_or(Ok(Answer::Done), |because| Err(because.into()))
    })
}

/// Waits for SIGTERM or SIGINT, or until the service cannot go on, which is why then.
pub(super) async fn told_to_stop(
    mut failed: watch::Receiver<Option<String>>,
) -> Result<Option<String>, CommandError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        because = failed.wait_for(Option::is_some) => Ok(because.ok().and_then(|because| because.clone())),
        _ = terminate.recv() => Ok(None),
        _ = interrupt.recv() => Ok(None),
    }
}
