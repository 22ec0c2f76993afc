//! `lifeboat vm`: the VMs of a running service.

use super::client::{Client, ServiceArgs, read};
use super::ending::WRONG_STATE;
use super::grid::{Format, columns, moment, or_dash, show};
use super::order::{ChangeArgs, Confirm, OrderArgs, change, duration, give, nothing};
use super::{Answer, CommandError};
use crate::views::{
    IntervalView, LogsView, PlacementView, PointView, PrerequisiteView, TargetView, VmView,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::fmt::Write;

/// The VMs of a running service.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Every VM: state, health, age of the newest recovery point
    List {
        #[command(flatten)]
        service: ServiceArgs,
        /// How the result is written
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// All that is known of a VM
    Show(OneArgs),
    /// The moments to which a VM can be recovered, the newest first
    RecoveryPoints(OneArgs),
    /// Begin to replicate a VM that is not protected
    Protect {
        /// The VM, by name or id
        vm: String,
        /// Into which vault; need not be said where there is one
        #[arg(long, value_name = "NAME")]
        vault: Option<String>,
        /// When its initial replication begins, within 24 hours, as 2026-01-31T22:00:00Z; at once unless it is said
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Everything that a VM must be so that it can be protected, and whether it is
    Check(OneArgs),
    /// Choose what the replica of a VM gets at the recovery site; `automatic` takes a choice back
    Set {
        /// The VM, by name or id
        vm: String,
        /// The size; the smallest that fits unless it is chosen
        #[arg(long, value_name = "SIZE")]
        size: Option<String>,
        /// The network adapter that the rest is about; the first unless it is said
        #[arg(long, value_name = "NAME")]
        nic: Option<String>,
        /// The network of the recovery site, instead of the one that is mapped
        #[arg(long, value_name = "NETWORK")]
        network: Option<String>,
        /// The subnet, instead of the one of the same name
        #[arg(long, value_name = "SUBNET")]
        subnet: Option<String>,
        /// The IPv4 address, instead of the one at the primary site
        #[arg(long, value_name = "ADDRESS")]
        ip: Option<String>,
        /// What the adapter is for
        #[arg(long, value_name = "ROLE", value_parser = ["primary", "secondary", "left-out", "automatic"])]
        role: Option<String>,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// The disks of a VM: their sizes, and making one larger
    #[command(subcommand)]
    Disk(super::disk::Command),
    /// Move a VM of the lab to another member of its host's cluster; it stays protected
    Move {
        /// The VM, by name or id
        vm: String,
        /// The host, by name or id
        #[arg(long, value_name = "HOST")]
        to: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// End the protection of a VM: its replica is deleted, with every recovery point
    Unprotect {
        /// The VM, by name or id
        vm: String,
        /// Its host does not answer, and is left as it is
        #[arg(long)]
        source_gone: bool,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Send nothing until told to; writes are tracked
    Pause(OrderOneArgs),
    /// Go on with replication
    Resume(OrderOneArgs),
    /// Make a recovery point at once
    TakePoint {
        /// The VM, by name or id
        vm: String,
        /// With the guest brought to rest
        #[arg(long)]
        application_consistent: bool,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Bring a replica that lost track into step at once, whatever the window says
    Resync(OrderOneArgs),
    /// Try at once again what failed
    Retry(OrderOneArgs),
    /// Change when resynchronizations begin by themselves
    ResyncWindow {
        /// The VM, by name or id
        vm: String,
        /// `always`, `manual`, or local times of the day as 18:30-06:00
        window: String,
        #[command(flatten)]
        order: OrderArgs,
    },
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    /// The VM, by name or id
    vm: String,
    #[command(flatten)]
    service: ServiceArgs,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct OrderOneArgs {
    /// The VM, by name or id
    pub(super) vm: String,
    #[command(flatten)]
    pub(super) order: OrderArgs,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    match &args.command {
        Command::List { service, output } => {
            let answer = Client::find(service)?.get(&["vms"])?;
            show(*output, &answer, || Ok(super::status::vms(&read::<Vec<VmView>>(&answer)?)))?;
            Ok(Answer::Done)
        }
        Command::Show(one) => {
            let answer = Client::find(&one.service)?.get(&["vms", &one.vm])?;
            show(one.output, &answer, || Ok(in_words(&read(&answer)?)))?;
            Ok(Answer::Done)
        }
        Command::RecoveryPoints(one) => {
            let answer = Client::find(&one.service)?.get(&["vms", &one.vm, "recovery-points"])?;
            show(one.output, &answer, || Ok(points(&read::<Vec<PointView>>(&answer)?)))?;
            Ok(Answer::Done)
        }
        Command::Protect { vm, vault, at, order } => {
            let body = json!({ "vault": vault, "start_at": at });
            give(order, vm, "protect", &body, Confirm::No)
        }
        Command::Check(one) => {
            let answer = Client::find(&one.service)?.get(&["vms", &one.vm, "checks"])?;
            let checks = read::<Vec<PrerequisiteView>>(&answer)?;
            show(one.output, &answer, || Ok(verdicts(&checks)))?;
            let fine = checks.iter().all(|check| check.ok);
            Ok(if fine { Answer::Done } else { Answer::Code(WRONG_STATE) })
        }
        Command::Disk(command) => super::disk::run(command),
        Command::Move { vm, to, change: args } => {
            change(args, Method::POST, &["vms", vm, "move"], &json!({ "to": to }))
        }
        Command::Set { vm, size, nic, network, subnet, ip, role, order } => {
            let fields = [
                ("size", size),
                ("nic", nic),
                ("network", network),
                ("subnet", subnet),
                ("address", ip),
                ("role", role),
            ];
            let said = fields.into_iter().filter_map(|(name, value)| {
                value.clone().map(|value| (name.to_owned(), Value::String(value)))
            });
            give(order, vm, "target", &Value::Object(said.collect()), Confirm::No)
        }
        Command::Unprotect { vm, source_gone, order } => {
            give(order, vm, "unprotect", &json!({ "source_gone": source_gone }), Confirm::First)
        }
        Command::Pause(one) => give(&one.order, &one.vm, "pause", &nothing(), Confirm::No),
        Command::Resume(one) => give(&one.order, &one.vm, "resume", &nothing(), Confirm::No),
        Command::TakePoint { vm, application_consistent, order } => {
            let body = json!({ "application_consistent": application_consistent });
            give(order, vm, "take-recovery-point", &body, Confirm::No)
        }
        Command::Resync(one) => give(&one.order, &one.vm, "resync", &nothing(), Confirm::No),
        Command::Retry(one) => give(&one.order, &one.vm, "retry", &nothing(), Confirm::No),
        Command::ResyncWindow { vm, window, order } => {
            give(order, vm, "resync-window", &json!({ "window": window }), Confirm::No)
        }
    }
}

fn points(points: &[PointView]) -> String {
    let rows: Vec<_> = points
        .iter()
        .map(|point| {
            let kind = if point.application_consistent { "application" } else { "crash" };
            vec![
                point.cycle.to_string(),
                moment(point.at),
                duration(point.age_seconds),
                kind.to_owned(),
                point.stored_bytes.to_string(),
            ]
        })
        .collect();
    columns(&["POINT", "AT", "AGE", "CONSISTENT", "STORED BYTES"], &rows)
}

/// Every check, those that fail first, with what to do.
fn verdicts(checks: &[PrerequisiteView]) -> String {
    let mut text = String::new();
    for check in checks.iter().filter(|check| !check.ok).chain(checks.iter().filter(|it| it.ok)) {
        let mark = if check.ok { "ok" } else { "NO" };
        let _ = writeln!(text, "{mark}  {:<22}  {}", check.id, check.rule);
        if let Some(found) = &check.found {
            let _ = writeln!(text, "    {:<22}  {found}. {}", "", check.action);
        }
    }
    text
}

/// Where a replica would go, and what to know about it.
pub(super) fn target_in_words(site: &str, target: &TargetView) -> String {
    let mut text = format!("at the {site} site: {}\n", place_in_words(&target.place));
    for warning in &target.warnings {
        let _ = writeln!(text, "  Warning: {warning}");
    }
    text
}

fn place_in_words(place: &PlacementView) -> String {
    let size = place.size.as_ref().map_or_else(|| "as it is".to_owned(), |it| format!("size {it}"));
    let nics = place.nics.iter().map(|nic| {
        let primary = if nic.primary { " (primary)" } else { "" };
        match &nic.network {
            Some(network) => {
                let subnet = nic.subnet.as_ref().map_or_else(String::new, |it| format!("/{it}"));
                let address = nic.address.as_deref().unwrap_or("a leased address");
                format!("{}{primary} in {network}{subnet} with {address}", nic.name)
            }
            None => format!("{}{primary} not connected", nic.name),
        }
    });
    [size].into_iter().chain(nics).collect::<Vec<_>>().join("; ")
}

fn interval_in_words(interval: &IntervalView) -> String {
    let latency = interval.average_latency_seconds.map(|seconds| format!("{seconds:.1} s"));
    format!(
        "{}: {} of {} cycles, {} missed, {} on average, {} bytes each, {} at most, {} errors",
        moment(interval.since),
        interval.successful_cycles,
        interval.total_cycles,
        interval.missed_cycles,
        or_dash(latency),
        or_dash(interval.average_bytes),
        interval.largest_bytes,
        interval.errors,
    )
}

fn in_words(vm: &VmView) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<16} {value}");
    };
    line("name", &vm.name);
    line("id", &vm.id.to_string());
    line("state", &format!("{} since {}", vm.state_description, moment(vm.state_since)));
    line("health", &vm.health.to_string());
    for cause in &vm.causes {
        line("", &format!("{} {}; {}", cause.level, cause.because, cause.next));
    }
    line("runs at", &vm.active_location);
    line("host, cloud", &format!("{}, {}", vm.host, vm.cloud));
    if !vm.left_hosts.is_empty() {
        line("left", &format!("{}: turned off there once that answers", vm.left_hosts.join(", ")));
    }
    line("vault", &or_dash(vm.vault.as_ref()));
    let rpo = vm.rpo_seconds.map_or_else(|| "-".to_owned(), duration);
    line("RPO", &format!("{rpo}, a delta every {}", duration(vm.rpo_target_seconds)));
    line("resync window", &vm.resync.window);
    if let Some(compliance) = vm.compliance {
        let percent = |ratio: Option<f64>| or_dash(ratio.map(|it| format!("{:.2} %", it * 100.0)));
        let (day, week) = (percent(compliance.day_ratio), percent(compliance.week_ratio));
        let month = percent(compliance.month_ratio);
        line("within RPO", &format!("{day} of 24 h, {week} of 7 d, {month} of 30 d"));
    }
    if let Some(statistics) = &vm.statistics {
        line("since", &interval_in_words(&statistics.current));
        if let Some(previous) = &statistics.previous {
            line("before", &interval_in_words(previous));
        }
        line(
            "not sent",
            &format!("{} bytes", or_dash(vm.log_bytes.or(Some(statistics.cut_bytes)))),
        );
    }
    let newest = vm.latest_recovery_point.as_ref();
    let newest = newest.map(|point| format!("#{} of {}", point.cycle, moment(point.at)));
    line("recovery points", &format!("{}, newest {}", vm.recovery_points, or_dash(newest)));
    line("logs, disks", &format!("{} of {} bytes", or_dash(vm.log_bytes), vm.disk_bytes));
    for warning in vm.logs.iter().filter_map(LogsView::warning) {
        line("", &warning);
    }
    line("allowed", &vm.allowed_operations.join(", "));
    for (name, verdict) in [
        ("planned", &vm.readiness.planned_failover),
        ("unplanned", &vm.readiness.unplanned_failover),
    ] {
        let ready = if verdict.ready { "ready".to_owned() } else { verdict.because.join("; ") };
        line(&format!("{name} failover"), &ready);
    }
    if let Some(job) = &vm.job {
        line("last job", &format!("{} {}, {}", job.friendly_name, job.id, job.state));
        if let Some(waits) = &job.waiting_for {
            line("waits for", waits);
        }
    }
    if let Some(trouble) = &vm.trouble {
        let next = trouble.retry_at.map_or_else(|| trouble.next.clone(), moment);
        line(
            "failed",
            &format!("{}, {} attempts, next: {next}", trouble.work, trouble.failed_attempts),
        );
    }
    if let Some(since) = vm.paused_since {
        line("paused", &format!("since {}", moment(since)));
    }
    if let Some(test) = &vm.test_failover {
        let next = if test.waits_for_clean_up { "waits for its clean-up" } else { &test.job.state };
        let ends = moment(test.lease_ends);
        line("test failover", &format!("in {}, {next}, by itself at {ends}", test.network));
    }
    if let Some(test) = &vm.last_test_failover {
        let result = if test.succeeded { "succeeded" } else { "did not start" };
        line("last test", &format!("{result}, cleaned up {} {}", moment(test.at), test.notes));
    }
    let advice = vm.test_status.advice.as_ref().map_or_else(String::new, |it| format!(": {it}"));
    line("tested", &format!("{}{advice}", vm.test_status.state));
    if let Some(target) = &vm.target {
        let chosen = if target.chosen_size.is_some() { " (chosen)" } else { "" };
        line("failover gets", &format!("{}{chosen}", place_in_words(&target.place)));
        for warning in &target.warnings {
            line("", &format!("Warning: {warning}"));
        }
    }
    if let Some(placement) = &vm.placement {
        line("replica has", &place_in_words(placement));
    }
    if let Some(placement) = vm.failback.as_ref().and_then(|back| back.placement.as_ref()) {
        line("failback gets", &place_in_words(placement));
    }
    if let Some(placement) = vm.test_failover.as_ref().and_then(|test| test.placement.as_ref()) {
        line("test copy has", &place_in_words(placement));
    }
    if let Some(decision) = &vm.failover_decision {
        line("decided", &format!("{:?} at {}", decision.then, moment(decision.at)));
    }
    if let Some(over) = &vm.failover {
        let rto = over.rto_seconds.map_or_else(|| "-".to_owned(), |rto| format!("{rto:.1} s"));
        let text = format!("{:?} to {}, RTO {rto}", over.kind, moment(over.recovered_to));
        line("failover", &text);
        if let Some(source) = &over.source {
            line("source", &format!("{}, {}", moment(source.at), source.description));
        }
    }
    text
}
