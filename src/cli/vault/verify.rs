//! `lifeboat vault verify`.

use super::{PlaceArgs, name_of, until_interrupted};
use crate::cli::{Answer, CommandError, Output, print};
use crate::replica::{Audit, Depth, VmAudit};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// Prove that every recovery point can be restored.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: PlaceArgs,
    /// Only check indexes and chains, not the data
    #[arg(long)]
    quick: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What `verify -o json` prints.
#[derive(Serialize)]
struct Verified<'a> {
    sound: bool,
    checked_bytes: u64,
    vms: Vec<VerifiedVm>,
    findings: &'a [String],
    /// Of no harm to any point.
    bad_checksums: &'a [String],
    old_keys: Vec<OldKey<'a>>,
}

#[derive(Serialize)]
struct VerifiedVm {
    vm: String,
    name: String,
    sound_points: Vec<u64>,
    broken_points: Vec<BrokenPoint>,
    unreadable_points: usize,
    deleted_meanwhile: bool,
    action: String,
}

#[derive(Serialize)]
struct BrokenPoint {
    cycle: u64,
    at: String,
    because: Vec<String>,
}

#[derive(Serialize)]
struct OldKey<'a> {
    key: String,
    objects: Vec<&'a str>,
}

pub(super) fn run(args: &Args) -> Result<Answer, CommandError> {
    let (runtime, vault) = args.place.open()?;
    let depth = if args.quick { Depth::Indexes } else { Depth::Everything };
    let bar = Bar::over(runtime.block_on(vault.disk_bytes())?);
    let audit = until_interrupted(&runtime, vault.audit(depth, &|done| bar.show(done)));
    bar.clear();
    let audit = audit?;
    match args.output {
        Output::Json => print(&serde_json::to_string(&Verified::of(&audit))?),
        Output::Table => show(&audit),
    }
    Ok(if audit.is_sound() { Answer::Done } else { Answer::No })
}

impl<'a> Verified<'a> {
    fn of(audit: &'a Audit) -> Self {
        let old_keys = audit.old_keys.iter().map(|(key, objects)| OldKey {
            key: key.to_string(),
            objects: objects.iter().map(String::as_str).collect(),
        });
        Self {
            sound: audit.is_sound(),
            checked_bytes: audit.checked_bytes,
            vms: audit.vms.iter().map(|vm| verified(vm, &audit.findings)).collect(),
            findings: &audit.findings,
            bad_checksums: &audit.bad_checksums,
            old_keys: old_keys.collect(),
        }
    }
}

fn verified(vm: &VmAudit, findings: &[String]) -> VerifiedVm {
    let sound = vm.points.iter().filter(|point| point.because.is_empty());
    let broken = vm.points.iter().filter(|point| !point.because.is_empty());
    let broken = broken.map(|point| BrokenPoint {
        cycle: point.cycle,
        at: point.at.to_string(),
        because: point.because.iter().map(|finding| findings[*finding].clone()).collect(),
    });
    VerifiedVm {
        vm: vm.vm.to_string(),
        name: name_of(vm.vm, &vm.names),
        sound_points: sound.map(|point| point.cycle).collect(),
        broken_points: broken.collect(),
        unreadable_points: vm.unreadable_points,
        deleted_meanwhile: vm.deleted_meanwhile,
        action: action(vm),
    }
}

/// What somebody can do about a VM.
fn action(vm: &VmAudit) -> String {
    let last_sound = vm.points.iter().rev().find(|point| point.because.is_empty());
    let newest_is_sound = vm.points.last().is_none_or(|point| point.because.is_empty());
    match last_sound {
        _ if newest_is_sound && vm.points.iter().all(|point| point.because.is_empty()) => {
            "nothing".to_owned()
        }
        Some(sound) if newest_is_sound => {
            format!("restore from point {} or another sound one", sound.cycle)
        }
        Some(sound) => format!(
            "resynchronize the VM, since later points will be broken as well; until then restore from \
             point {} of {}",
            sound.cycle, sound.at
        ),
        None => {
            "no point can be restored: resynchronize the VM while its source is there".to_owned()
        }
    }
}

fn show(audit: &Audit) {
    for finding in &audit.findings {
        print(&format!("damaged: {finding}"));
    }
    for finding in &audit.bad_checksums {
        print(&format!("damaged, of no harm to any recovery point: {finding}"));
        print("  a resynchronization reads the data instead, and takes longer");
    }
    for vm in &audit.vms {
        let broken: Vec<String> = vm
            .points
            .iter()
            .filter(|point| !point.because.is_empty())
            .map(|point| point.cycle.to_string())
            .collect();
        let (name, count) = (name_of(vm.vm, &vm.names), vm.points.len());
        if vm.deleted_meanwhile {
            print(&format!("{name}: its replica was deleted meanwhile"));
        } else if count + vm.unreadable_points == 0 {
            print(&format!("{name}: no recovery points"));
        } else if broken.is_empty() {
            print(&format!("{name}: all {count} recovery points can be restored"));
        } else {
            let which = broken.join(", ");
            print(&format!(
                "{name}: {} of {count} recovery points CANNOT be restored: {which}",
                broken.len()
            ));
            print(&format!("  {}", action(vm)));
        }
    }
    for (key, objects) in &audit.old_keys {
        print(&format!("key {key} is not active and still needed by {} objects:", objects.len()));
        for object in objects {
            print(&format!("  {object}"));
        }
    }
    let verdict = if audit.is_sound() { "sound" } else { "DAMAGED" };
    print(&format!("{} bytes of data checked: {verdict}", audit.checked_bytes));
}

/// A line on a terminal that tells how far it is.
pub(super) struct Bar {
    total: u64,
    shown: AtomicU64,
    visible: bool,
}

impl Bar {
    /// Steps of the bar.
    const STEPS: u64 = 200;

    pub(super) fn over(total: u64) -> Self {
        let visible = std::io::stderr().is_terminal();
        Self { total: total.max(1), shown: AtomicU64::new(0), visible }
    }

    pub(super) fn show(&self, done: u64) {
        let step = done.min(self.total) * Self::STEPS / self.total;
        if self.visible && self.shown.fetch_max(step, Ordering::Relaxed) < step {
            let percent = step * 100 / Self::STEPS;
            // A terminal that is gone needs no bar.
            let _ = write!(std::io::stderr(), "\r{percent:>3} % of {} MiB", self.total >> 20);
        }
    }

    pub(super) fn clear(&self) {
        if self.visible {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
