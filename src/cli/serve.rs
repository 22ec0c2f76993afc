//! `lifeboat serve`: the service, until it is told to stop.

use super::{Answer, CommandError};
use crate::drivers::lab::AfterBoot;
use crate::service::{Config, Service, log_to_stderr};
use std::path::PathBuf;
use tokio::signal::unix::{Signal, SignalKind, signal};
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
        let mut stop = StopSignals::catch()?;
        let service = tokio::select! {
            started = Service::start(&config, AfterBoot::KeepWriting) => started?,
            () = stop.received() => return Ok(Answer::Done),
        };
        tracing::info!(health = %format!("http://{}", service.address), "the service runs");
        for vm in service.vms.iter().filter(|vm| service.refused(vm.id).is_none()) {
            for disk in &vm.disks {
                tracing::info!(vm = %vm.name, disk = %disk.name, uri = %disk.uri, "disk exported");
            }
        }
        let ended = stop.received_or_failed(service.failed()).await;
        tracing::info!("stopping");
        service.stop().await;
        ended.map_or(Ok(Answer::Done), |because| Err(because.into()))
    })
}

/// SIGTERM and SIGINT, caught before anything is started: whoever sees that the service runs can stop
/// it.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) fn catch() -> Result<Self, CommandError> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for one of them, or until the service cannot go on, which is why then.
    pub(super) async fn received_or_failed(
        &mut self,
        mut failed: watch::Receiver<Option<String>>,
    ) -> Option<String> {
        tokio::select! {
            biased;
            because = failed.wait_for(Option::is_some) => because.ok().and_then(|because| because.clone()),
            () = self.received() => None,
        }
    }
}
