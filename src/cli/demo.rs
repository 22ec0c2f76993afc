//! `lifeboat demo`: a site of the lab, live or as one proof.

mod once;

use super::serve::StopSignals;
use super::table::{look, render};
use super::{Answer, CommandError, Output, print};
use crate::drivers::lab::AfterBoot;
use crate::ports::clock::Clock;
use crate::service::{
    Config, DiskConfig, HostConfig, MachineConfig, Service, SystemClock, TraitsConfig, VmConfig,
    log_to_stderr,
};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The site of the demo.
const SITE: &str = include_str!("../../config/demo.toml");

/// Time between two looks on a terminal, and elsewhere.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_UNSEEN: Duration = Duration::from_secs(10);

/// Show protection, replication and failover on VMs of the lab.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keep everything in this folder; a demo that is started again in it goes on where it was
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Do the whole life of three VMs unattended, and prove the result byte by byte
    #[arg(long, conflicts_with = "disk")]
    once: bool,
    /// Protect this raw image instead of VMs of the lab; prints the NBD URI to write to
    #[arg(long, value_name = "IMAGE")]
    disk: Option<PathBuf>,
    /// How the result of --once is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    let mut config = Config::parse(SITE, Path::new("config/demo.toml"))?;
    if args.once {
        // The disks of a host that is killed on purpose complain of it.
        log_to_stderr("error,lifeboat::disk=off,lifeboat::drivers=off");
        return once::run(config, args.data.as_deref(), args.output);
    }
    log_to_stderr("warn");
    if let Some(data) = &args.data {
        config.data.clone_from(data);
    }
    if let Some(image) = &args.disk {
        config.host = vec![host_of(image)?];
        // Nobody can ask the guest of whoever runs it.
        config.policy.app_consistent_frequency_h = 0;
        if args.data.is_none() {
            let name = &config.host[0].vm[0].name;
            config.data = PathBuf::from(format!("lifeboat-data-{name}"));
        }
    }
    actix::System::new().block_on(live(&config, args.disk.is_some()))
}

/// A host with one VM that has this one disk.
fn host_of(image: &Path) -> Result<HostConfig, CommandError> {
    let path = std::fs::canonicalize(image)
        .map_err(|error| format!("open disk image {}: {error}", image.display()))?;
    let metadata = std::fs::metadata(&path)?;
    if !metadata.is_file() {
        return Err(format!("use disk image {}: it is not a file", image.display()).into());
    }
    let size = metadata.len();
    if size == 0 || !size.is_multiple_of(512) {
        let problem = "its size must be a multiple of 512 bytes and not 0";
        return Err(format!("use disk image {}: {problem}", image.display()).into());
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let name = name.trim_matches('-');
    let name = if name.is_empty() { "vm" } else { name }.to_owned();
    let disk = vec![DiskConfig {
        name: "disk".to_owned(),
        path,
        create_mib: None,
        traits: TraitsConfig::default(),
    }];
    let vm = vec![VmConfig { name, disk, guest: None, machine: MachineConfig::default() }];
    Ok(HostConfig { name: "host-1".to_owned(), cloud: None, bandwidth: None, cluster: None, vm })
}

async fn live(config: &Config, print_uri: bool) -> Result<Answer, CommandError> {
    let mut signals = StopSignals::catch()?;
    let service = tokio::select! {
        started = Service::start(config, AfterBoot::KeepWriting) => started?,
        () = signals.received() => return Ok(Answer::Done),
    };
    if print_uri {
        let refused = service.vms.iter().find_map(|vm| service.refused(vm.id));
        if let Some(failure) = refused {
            service.stop().await;
            return Err(failure.to_string().into());
        }
        for disk in service.vms.iter().flat_map(|vm| &vm.disks) {
            print(&disk.uri);
        }
    }
    let screen = Screen::new(print_uri);
    let headline = format!(
        "data in {}, health on http://{}/readyz, Ctrl-C stops; start again to go on",
        config.data.display(),
        service.address
    );
    screen.begin(&headline);
    let stop = signals.received_or_failed(service.failed());
    let mut stop = std::pin::pin!(stop);
    let ended = loop {
        let table = render(&look(&service).await, SystemClock.now(), screen.colour);
        screen.show(&table);
        tokio::select! {
            biased;
            ended = &mut stop => break ended,
            () = actix::clock::sleep(screen.pause()) => {}
        }
    };
    screen.write("stopping\n");
    service.stop().await;
    ended.map_or(Ok(Answer::Done), |because| Err(because.into()))
}

/// Where the live table is drawn.
struct Screen {
    on_stderr: bool,
    terminal: bool,
    colour: bool,
}

impl Screen {
    /// Standard output belongs to the URI where one is printed.
    fn new(on_stderr: bool) -> Self {
        let terminal = if on_stderr {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { on_stderr, terminal, colour }
    }

    fn pause(&self) -> Duration {
        if self.terminal { LOOK } else { LOOK_UNSEEN }
    }

    fn begin(&self, headline: &str) {
        let clear = if self.terminal { "\x1b[2J\x1b[H" } else { "" };
        self.write(&format!("{clear}{headline}\n"));
    }

    fn show(&self, table: &str) {
        // Below the headline: the table with each line cleared to its end, and nothing after it.
        let drawn = if self.terminal {
            format!("\x1b[2H{}\x1b[J", table.replace('\n', "\x1b[K\n"))
        } else {
            format!("{table}\n")
        };
        self.write(&drawn);
    }

    fn write(&self, text: &str) {
        // Nobody watching is no reason to stop replicating.
        let _ = if self.on_stderr {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush())
        };
    }
}
