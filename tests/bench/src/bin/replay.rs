//! Measures `lifeboat replay` on a log of a million commits that entities decided: how fast it is folded and
//! decided again, how long a moment takes to find, and how much memory that needs, both in a service's folder
//! and in an exported file. One JSON line per row; the peer is what is promised.
//!
//! `replay [folder] [commits]`; the folder should be on the disk that counts. Ten million commits need 12 GB
//! of it and some minutes.

use lifeboat::domain::entity::{Commit, Entity, Kind, NewCommit, StreamId};
use lifeboat::domain::id::{CloudId, DiskId, HostId, JobId, VaultId, VmId};
use lifeboat::domain::job::Step;
use lifeboat::domain::policy::Policy;
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{Command, Disk, Effect, Outcome, RecoveryPoint, Vm, Work};
use lifeboat::ports::event_store::EventStore;
use lifeboat::replay::{Checkpoints, History, Moment, Past, StatesOfExport, keep, verify};
use lifeboat::store::{SledStore, jsonl};
use lifeboat_bench::row;
use std::fs::File;
use std::io::BufWriter;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

const VMS: u64 = 100;

/// Commits that are handed to the store at once.
const BATCH: usize = 10_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, log, position] = &args[..]
        && mode == "at"
    {
        return at(Path::new(log), position.parse().expect("a position"));
    }
    let base = args.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let commits: u64 = args.get(1).map_or(1_000_000, |text| text.parse().expect("commits"));
    let folder =
        tempfile::Builder::new().prefix("lifeboat-bench").tempdir_in(base).expect("folder");
    let store = folder.path().join("events");
    fill(&store, commits);
    let mut history = History::of_store(&store).expect("open");
    let folded = seconds(|| fold(&mut history));
    row("commits folded a second", commits as f64 / folded, 1e6, "promised");
    let decided = seconds(|| decide_again(&mut history));
    row("commits decided again a second", commits as f64 / decided, 1e6, "promised");
    drop(history);
    moments(&store, commits, "of a folder, first time", 1);
    moments(&store, commits, "of a folder, later", 3);
    std::fs::remove_dir_all(kept_of(&store)).expect("remove");
    keep_as_a_service_does(&store);
    moments(&store, commits, "of a folder that a service kept, first time", 1);
    let file = folder.path().join("exported.jsonl");
    export(&store, &file);
    moments(&file, commits, "of an exported file", 3);
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn fold(history: &mut History) {
    let mut past = Past::default();
    let each = history.each(|found| {
        past.apply(&found.expect("sound").commit);
        ControlFlow::Continue(())
    });
    each.expect("read");
    assert_eq!(past.site.vms.len() as u64, VMS);
}

fn decide_again(history: &mut History) {
    let result = verify(history, vec![]).expect("read");
    assert!(result.is_sound(), "{:?}", result.first);
}

/// Two rows: how long it takes to find a moment, at worst, and how much memory.
fn moments(log: &Path, commits: u64, what: &str, rounds: usize) {
    let mut worst = (0.0_f64, 0.0_f64);
    for _ in 0..rounds {
        for moment in [commits / 3, commits / 2, commits - 7] {
            let (took, memory) = in_a_process(log, moment);
            worst = (worst.0.max(took), worst.1.max(memory));
        }
    }
    row(&format!("seconds to find a moment {what}, the worst"), worst.0, 1.0, "promised");
    row(&format!("MiB of memory meanwhile, {what}"), worst.1, 200.0, "promised");
}

/// Opens the store as a service does, until all is kept.
fn keep_as_a_service_does(store: &Path) {
    let open = Arc::new(SledStore::open(store).expect("open"));
    let kept = Checkpoints::in_folder(&kept_of(store));
    let log: Arc<dyn EventStore> = Arc::clone(&open) as Arc<dyn EventStore>;
    let keeping = keep(log, store.to_path_buf(), kept);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let runtime = runtime.expect("runtime");
    let keeping = runtime.spawn(keeping);
    let last = open.durable() / 100_000 * 100_000;
    let is_kept = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        name.to_str().is_some_and(|name| name.starts_with(&format!("{last:020}")))
    };
    while !std::fs::read_dir(kept_of(store)).is_ok_and(|mut entries| entries.any(is_kept)) {
        std::thread::sleep(Duration::from_millis(50));
    }
    open.close().expect("close");
    runtime.block_on(keeping).expect("kept");
}

fn export(store: &Path, file: &Path) {
    let store = SledStore::open(store).expect("open");
    let mut out = BufWriter::new(File::create(file).expect("create"));
    let mut states = StatesOfExport::default();
    let mut state_after = |commit: &Commit, place| states.after(commit, place);
    jsonl::export(&store, &mut state_after, &mut out).expect("export");
    store.close().expect("close");
}

/// Where the states of a log are kept.
fn kept_of(log: &Path) -> PathBuf {
    log.with_extension("replay")
}

/// Finds a moment in a process of its own; answers seconds and MiB.
fn in_a_process(log: &Path, position: u64) -> (f64, f64) {
    let program = std::env::current_exe().expect("this program");
    let start = Instant::now();
    let output = std::process::Command::new(program)
        .args(["at", log.to_str().expect("a path"), &position.to_string()])
        .output()
        .expect("start");
    let took = start.elapsed().as_secs_f64();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let memory = String::from_utf8_lossy(&output.stdout).trim().parse().expect("kilobytes");
    let memory: f64 = memory;
    (took, memory / 1024.0)
}

/// Finds a moment and prints the most memory that took, in KiB.
fn at(log: &Path, position: u64) {
    let kept = Checkpoints::in_folder(&kept_of(log));
    let mut history = if log.is_dir() {
        History::of_store_kept(log, &kept).expect("open")
    } else {
        History::of_file(log).expect("open")
    };
    let past = history.past(Moment::Position(position), Some(&kept)).expect("read");
    assert_eq!(past.position, position);
    let status = past.site.status(past.at);
    assert_eq!(status.vms.len() as u64, VMS);
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    println!("{}", peak.trim().trim_end_matches("kB").trim());
}

/// Fills a store with what VMs decide that are protected and then replicated every 30 seconds.
fn fill(folder: &Path, commits: u64) {
    let store = SledStore::open(folder).expect("open");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut fleet: Vec<Machine> = (0..VMS).map(Machine::new).collect();
    let mut batch = Vec::with_capacity(BATCH);
    for nth in 0..commits {
        batch.push(fleet[(nth % VMS) as usize].next());
        if batch.len() == BATCH || nth + 1 == commits {
            let appended = store.append_in_order(std::mem::take(&mut batch));
            runtime.block_on(appended).expect("append");
        }
    }
    store.close().expect("close");
}

/// A VM whose work always succeeds.
struct Machine {
    vm: Vm,
    id: VmId,
    seq: u64,
    now: Timestamp,
}

impl Machine {
    fn new(nth: u64) -> Self {
        let id = VmId(Uuid::from_u128(u128::from(nth) + 1));
        Self { vm: Vm::default(), id, seq: 0, now: Timestamp::from_millis(1_700_000_000_000) }
    }

    fn next(&mut self) -> NewCommit {
        self.now = self.now.after(Duration::from_millis(500));
        let command = self.command();
        let events = self.vm.decide(&command, self.now).expect("allowed");
        assert!(!events.is_empty(), "{command:?} changes nothing");
        events.iter().for_each(|event| self.vm.apply(event, self.now));
        self.seq += 1;
        NewCommit {
            stream: StreamId { kind: Kind::Vm, id: self.id.0 },
            expected_seq: self.seq - 1,
            at: self.now,
            actor: "agent".to_owned(),
            correlation: None,
            causation: Some(self.seq),
            entry: Vm::entry(command, events),
        }
    }

    fn command(&mut self) -> Command {
        let job = JobId::derived(self.id.0, self.vm.jobs);
        match self.seq {
            0 => Command::Discover {
                id: self.id,
                name: format!("vm-{}", self.id),
                host: HostId(Uuid::from_u128(7)),
                cloud: CloudId(Uuid::from_u128(8)),
                disks: vec![Disk {
                    id: DiskId(self.id.0),
                    name: "system".to_owned(),
                    size_bytes: 64 << 30,
                }],
            },
            1 => Command::EnableProtection {
                job,
                vault: VaultId(Uuid::from_u128(9)),
                policy: Policy { copy_frequency_s: 30, ..Policy::default() },
            },
            _ => self.report(),
        }
    }

    /// What came of the work that the state calls for.
    fn report(&mut self) -> Command {
        let now = self.now;
        match self.vm.work() {
            Some(Work::Task { job, task, step }) => {
                Command::ReportDone { job, task, outcome: outcome(step, &self.vm, now) }
            }
            Some(Work::Snapshot { cycle }) => {
                Command::ReportSnapshot { cycle, at: now, log_bytes: 12_000_000 }
            }
            Some(Work::Ship { cycle, .. }) => {
                Command::ReportShipped { cycle, shipped_bytes: 9_000_000 }
            }
            None => {
                let pending = self.vm.pending();
                let wake = pending.iter().find_map(|effect| match effect {
                    Effect::WakeAt { due, wake } => Some((*due, *wake)),
                    _ => None,
                });
                let (due, wake) = wake.expect("a VM that does nothing waits for a delta");
                self.now = self.now.max(due);
                Command::Wake { due, wake }
            }
        }
    }
}

fn outcome(step: Step, vm: &Vm, at: Timestamp) -> Outcome {
    match step {
        Step::CopyDisk(disk) => Outcome::Copied { disk, bytes: 1 << 30 },
        Step::ApplyTrackedChanges => {
            let cycle = vm.last_cycle_of_job();
            Outcome::Shipped { points: vec![RecoveryPoint { cycle, at, bytes: 1 << 20 }] }
        }
        _ => Outcome::Done,
    }
}
