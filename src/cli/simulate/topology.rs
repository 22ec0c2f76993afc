//! `simulate export-topology`: the site of a running service as a scenario's topology.

use super::super::client::{Client, ServiceArgs, read};
use super::{Answer, CommandError, print, write_file};
use crate::sim::{SiteSpec, Size, Span, Topology, VmSpec, Window, fitting, writes_per_minute};
use crate::views::{CloudView, FabricView, HostView, MappingView, VmView};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Which site, and where it is written to.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Where the topology goes
    #[arg(short = 'o', long = "to", value_name = "FILE")]
    to: PathBuf,
    /// Keep the sizes of disks, for scenarios with `fidelity = "sizes"`
    #[arg(long)]
    sizes: bool,
}

/// What the service tells of its site.
struct Told {
    hosts: Vec<HostView>,
    clouds: Vec<CloudView>,
    vms: Vec<VmView>,
    fabrics: Vec<FabricView>,
    mappings: Vec<MappingView>,
}

pub(super) fn export(args: &ExportArgs) -> Result<Answer, CommandError> {
    let client = Client::find(&args.service)?;
    let told = Told {
        hosts: read(&client.get(&["hosts"])?)?,
        clouds: read(&client.get(&["clouds"])?)?,
        vms: read(&client.get(&["vms"])?)?,
        fabrics: read(&client.get(&["fabrics"])?)?,
        mappings: read(&client.get(&["network-mappings"])?)?,
    };
    let topology = Topology { site: told.site(), vm: told.vms(args.sizes) };
    write(&topology, &args.to)?;
    for remark in told.remarks(args.sizes) {
        print(&remark);
    }
    let (hosts, vms) = (topology.site.hosts.len(), topology.vm.len());
    print(&format!("{hosts} hosts and {vms} VMs are in {}", args.to.display()));
    Ok(Answer::Done)
}

fn write(topology: &Topology, to: &Path) -> Result<(), CommandError> {
    let how =
        "# A scenario beside it names it: topology = \"FILE\", without [site] and [[vm]].\n\n";
    write_file(to, format!("{how}{}", toml::to_string(topology)?))
}

impl Told {
    fn site(&self) -> SiteSpec {
        let mut site = SiteSpec {
            hosts: self.hosts.iter().map(|host| unplaced(&host.name)).collect(),
            ..SiteSpec::default()
        };
        site.take_over(&self.hosts, &self.fabrics, &self.mappings);
        if let Some(cloud) = self.clouds.first() {
            site.copy_frequency = Span(u64::from(cloud.policy.copy_frequency_seconds) * 1_000);
            site.retention = Span::hours(u64::from(cloud.policy.recovery_point_retention_hours));
        }
        let window =
            self.vms.first().and_then(|vm| Window::try_from(vm.resync.window.clone()).ok());
        site.resync_window = window.unwrap_or(site.resync_window);
        site
    }

    fn vms(&self, sizes: bool) -> Vec<VmSpec> {
        let site = self.site();
        self.vms.iter().map(|vm| spec_of(vm, &site, sizes)).collect()
    }

    /// What is not as it is at the site.
    fn remarks(&self, sizes: bool) -> Vec<String> {
        let disks = |vm: &VmView| {
            let real: Vec<u64> = vm.disks.iter().map(|disk| disk.size_bytes).collect();
            let shrunk = !sizes && real.iter().any(|bytes| fitting(*bytes).0 < *bytes);
            shrunk.then(|| {
                format!(
                    "the disks of {} are smaller there: {} bytes are simulated by --sizes",
                    vm.name,
                    real.iter().sum::<u64>()
                )
            })
        };
        let several = (1 < self.clouds.len())
            .then(|| "a scenario has one cloud: its policy is that of the first".to_owned());
        self.vms.iter().filter_map(disks).chain(several).collect()
    }
}

fn spec_of(vm: &VmView, site: &SiteSpec, sizes: bool) -> VmSpec {
    let size = |bytes: u64| if sizes { whole_blocks(bytes) } else { fitting(bytes) };
    let disks = vm.disks.iter().map(|disk| size(disk.size_bytes)).collect();
    let interval = vm.statistics.as_ref().map(|it| it.previous.as_ref().unwrap_or(&it.current));
    let bytes = interval.and_then(|interval| interval.average_bytes).unwrap_or(0);
    let every_s = u64::from(vm.policy.copy_frequency_seconds).max(1);
    let mut spec = VmSpec {
        writes_per_minute: writes_per_minute(bytes.saturating_mul(60) / every_s),
        ..VmSpec::named(unplaced(&vm.name), unplaced(&vm.host), unplaced_sizes(disks))
    };
    spec.take_over(vm.machine.as_ref(), site);
    spec
}

fn whole_blocks(bytes: u64) -> Size {
    Size((bytes / 4096 * 4096).max(4096))
}

fn unplaced(name: &str) -> Spanned<String> {
    Spanned::new(0..0, name.to_owned())
}

fn unplaced_sizes(sizes: Vec<Size>) -> Spanned<Vec<Size>> {
    Spanned::new(0..0, sizes)
}
