//! The live table of VMs.

use crate::domain::failure::Failure;
use crate::domain::job::Step;
use crate::domain::time::Timestamp;
use crate::domain::vm::{Disk, Health, Phase, Vm};
use crate::drivers::lab::{State, Status};
use crate::service::{ProtectedVm, Service};
use crate::views::LogsView;
use std::fmt::Write;

/// Columns of a progress bar.
const BAR_COLUMNS: u64 = 30;

/// One VM at one moment.
pub(super) struct Row {
    name: String,
    vm: Vm,
    /// Why its disks cannot be used. A VM that was never protected has no other place for it.
    refused: Option<Failure>,
    /// Its logs, while its host can be asked.
    logs: Option<LogsView>,
    /// Its guest, and whether that is at the recovery site.
    guest: Option<(Status, bool)>,
}

/// Looks at every VM.
pub(super) async fn look(service: &Service) -> Vec<Row> {
    let mut rows = Vec::new();
    for known in &service.vms {
        // A VM whose actor is being built anew is there again at the next look.
        if let Ok(vm) = service.site.state::<Vm>(known.id.0).await {
            rows.push(row(service, known, vm));
        }
    }
    rows
}

fn row(service: &Service, known: &ProtectedVm, vm: Vm) -> Row {
    let logs = service.logs(known.id);
    let at_recovery = service.recovery().guest(known.id);
    let guest = at_recovery
        .map(|guest| (guest, true))
        .or_else(|| service.primary().guest(known.id).map(|guest| (guest, false)));
    Row { name: known.name.clone(), vm, refused: service.refused(known.id), logs, guest }
}

/// The table, a line a VM, with the copies under way and every reason for what is not Normal.
pub(super) fn render(rows: &[Row], now: Timestamp, colour: bool) -> String {
    let mut out = format!(
        "{:<10} {:<34} {:<9} {:>7} {:>7}  {:<22} {:>9}\n",
        "VM", "STATE", "HEALTH", "RPO", ".HRL", "LAST RECOVERY POINT", "WRITES"
    );
    for row in rows {
        line(&mut out, row, now, colour);
    }
    for row in rows {
        for progress in copies(&row.vm) {
            out.push_str(&progress);
        }
    }
    for row in rows {
        for warning in row.logs.iter().filter_map(LogsView::warning) {
            let _ = writeln!(out, "  {}: {warning}", row.name);
        }
        for cause in row.vm.health_causes(now) {
            let _ = writeln!(out, "  {}: {}; {}", row.name, cause.because, cause.next);
        }
        if let (Phase::Undiscovered, Some(failure)) = (&row.vm.phase, &row.refused) {
            let _ = writeln!(out, "  {}: {failure}", row.name);
        }
    }
    out
}

fn line(out: &mut String, row: &Row, now: Timestamp, colour: bool) {
    let vm = &row.vm;
    let health = vm.health(now);
    let (begin, end) = paint(health, colour);
    let rpo = vm.rpo(now).map_or("-".to_owned(), |rpo| format!("{} s", rpo.as_secs()));
    let hrl = row.logs.as_ref();
    let hrl = hrl.map_or_else(|| "-".to_owned(), |logs| format!("{:.1} %", logs.share * 100.0));
    let point = vm.latest_point().map_or("-".to_owned(), |point| {
        let at = point.at.to_string();
        format!("#{} {}", point.cycle, at.get(11..19).unwrap_or(&at))
    });
    let writes = match &row.guest {
        Some((guest, false)) => writes(guest),
        Some((guest, true)) => format!("{} R", writes(guest)),
        None => "-".to_owned(),
    };
    let state = vm.phase.to_string();
    let _ = writeln!(
        out,
        "{:<10} {state:<34} {begin}{:<9}{end} {rpo:>7} {hrl:>7}  {point:<22} {writes:>9}",
        row.name,
        health.to_string()
    );
}

/// The writes that a guest had answered, or why it does none.
fn writes(guest: &Status) -> String {
    match guest.state {
        State::Booting => "boots".to_owned(),
        State::Crashed(_) => "crashed".to_owned(),
        State::Running | State::Stopped => guest.acknowledged.to_string(),
    }
}

/// Colour, never without the word.
fn paint(health: Health, colour: bool) -> (&'static str, &'static str) {
    match health {
        _ if !colour => ("", ""),
        Health::Normal => ("\x1b[32m", "\x1b[0m"),
        Health::Warning => ("\x1b[33m", "\x1b[0m"),
        Health::Critical => ("\x1b[31m", "\x1b[0m"),
        Health::NotApplicable => ("\x1b[2m", "\x1b[0m"),
    }
}

/// A progress bar for each disk that is copied or compared.
fn copies(vm: &Vm) -> Vec<String> {
    if !matches!(vm.phase, Phase::InitialReplication | Phase::Resynchronizing(_)) {
        return vec![];
    }
    let Some(job) = &vm.job else { return vec![] };
    let copies = job.tasks.iter().filter_map(|task| match task.step {
        Step::CopyDisk(disk) | Step::CompareDisk(disk) => {
            Some((vm.disks.iter().find(|known| known.id == disk)?, task))
        }
        _ => None,
    });
    copies.map(|(disk, task)| bar(&vm.name, disk, task.done_bytes(disk.size_bytes))).collect()
}

fn bar(vm: &str, disk: &Disk, done: u64) -> String {
    let total = disk.size_bytes.max(1);
    let filled = (done * BAR_COLUMNS / total) as usize;
    let bar = format!("{}{}", "#".repeat(filled), "-".repeat(BAR_COLUMNS as usize - filled));
    let percent = done * 100 / total;
    format!("  {vm} {:<6} [{bar}] {percent:>3} % of {} MiB\n", disk.name, total >> 20)
}
