//! `lifeboat demo --once`: the whole life of three VMs, there and back, and the proof of its result.
//!
//! What must be where is known from the guests' workload, in which every byte of every write follows
//! from a seed and a number: the proof never asks the product what it believes it did.

use crate::actors::Origin;
use crate::cli::{Answer, CommandError, Output, print};
use crate::domain::failure::in_full;
use crate::domain::id::JobId;
use crate::domain::time::Timestamp;
use crate::domain::vm::{Command, FailoverKind, Health, Phase, PointChoice, RecoveryPoint, Vm};
use crate::drivers::lab::{AfterBoot, Fault, LastWrite, check};
use crate::ports::block::BlockDevice;
use crate::ports::clock::Clock;
use crate::ports::event_store::EventStore;
use crate::service::{Config, ProtectedVm, Service, SystemClock};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use steps::StepResult;

mod steps;

/// Recovery points that each VM has before something happens to it.
const POINTS_BEFORE: usize = 3;

/// How long the link is cut: several deltas are missed.
const CUT_FOR: Duration = Duration::from_secs(12);

/// The longest wait for any one thing.
const PATIENCE: Duration = Duration::from_mins(1);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes compared at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The result of one VM.
#[derive(Clone, Debug, Serialize)]
struct VmResult {
    name: String,
    failover: &'static str,
    rpo_seconds: Option<f64>,
    rto_seconds: Option<f64>,
    lost_bytes: u64,
    verified: bool,
}

/// The result of all.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    vms: Vec<VmResult>,
    steps: Vec<StepResult>,
    events: u64,
    verified: bool,
}

pub(super) fn run(
    mut config: Config,
    data: Option<&Path>,
    output: Output,
) -> Result<Answer, CommandError> {
    let own_folder = data.is_none();
    config.data = data.map_or_else(fresh_folder, Path::to_owned);
    if config.data.join("events").exists() {
        let place = config.data.display();
        return Err(format!("{place} has a demo already: --once needs a folder of its own").into());
    }
    let result = actix::System::new().block_on(live_through(&config, output));
    let kept = config.data.display();
    match &result {
        Ok(outcome) if outcome.verified && own_folder => std::fs::remove_dir_all(&config.data)?,
        Ok(_) | Err(_) => tell(output, &format!("everything is kept in {kept}")),
    }
    let outcome = result?;
    match output {
        Output::Json => print(&serde_json::to_string(&outcome)?),
        Output::Table => print(&in_words(&outcome)),
    }
    Ok(if outcome.verified { Answer::Done } else { Answer::No })
}

fn fresh_folder() -> PathBuf {
    std::env::temp_dir().join(format!("lifeboat-once-{}", std::process::id()))
}

/// Progress goes to people: standard output where the result is for them too.
fn tell(output: Output, text: &str) {
    use std::io::Write;
    // Nobody reading the progress is no reason to stop.
    let _ = match output {
        Output::Table => writeln!(std::io::stdout(), "{text}"),
        Output::Json => writeln!(std::io::stderr(), "{text}"),
    };
}

fn in_words(outcome: &Outcome) -> String {
    let mut text = format!(
        "\n{:<8} {:<10} {:>7} {:>7} {:>12}  PROOF\n",
        "VM", "FAILOVER", "RPO s", "RTO s", "LOST BYTES"
    );
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    for vm in &outcome.vms {
        let proof = if vm.verified { "verified byte by byte" } else { "NOT VERIFIED" };
        let _ = writeln!(
            text,
            "{:<8} {:<10} {:>7} {:>7} {:>12}  {proof}",
            vm.name,
            vm.failover,
            number(vm.rpo_seconds),
            number(vm.rto_seconds),
            vm.lost_bytes
        );
    }
    text.push('\n');
    for step in &outcome.steps {
        let _ = writeln!(text, "{step}");
    }
    let all = if outcome.verified { "all verified" } else { "NOT VERIFIED" };
    text + &format!("{} events in the log, {all}", outcome.events)
}

async fn live_through(config: &Config, output: Output) -> Result<Outcome, CommandError> {
    let service = Service::start(config, AfterBoot::Idle).await?;
    let scene = Scene { service: &service, output };
    let result = scene.play().await;
    let stopped = result.as_ref().map(drop).map_err(ToString::to_string);
    if let Err(error) = stopped {
        scene.say(&error);
    }
    let events = count_events(&*service.store)?;
    service.stop().await;
    let (vms, steps) = result?;
    let verified = vms.iter().all(|vm| vm.verified) && steps.iter().all(|step| step.verified);
    Ok(Outcome { vms, steps, events, verified })
}

fn count_events(store: &dyn EventStore) -> Result<u64, CommandError> {
    let (mut events, mut from) = (0, 1);
    loop {
        let commits = store.read_all(from, 1_000)?;
        let Some(last) = commits.last() else { return Ok(events) };
        from = last.global + 1;
        events += commits.iter().map(|commit| commit.entry.event_count() as u64).sum::<u64>();
    }
}

struct Scene<'a> {
    service: &'a Service,
    output: Output,
}

/// What the guest of a VM had done at a moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Timestamp,
    issued: u64,
    acknowledged: u64,
}

impl Scene<'_> {
    async fn play(&self) -> Result<(Vec<VmResult>, Vec<StepResult>), CommandError> {
        let [web, db, app] = &self.service.vms[..] else {
            return Err("the demo's site must have three VMs".into());
        };
        self.say("protecting 3 VMs while they write: initial copy, then a delta every 5 s");
        for vm in [web, db, app] {
            let ready =
                |state: &Vm| state.phase == Phase::Protected && POINTS_BEFORE <= state.points.len();
            let state = self.wait_for(vm, "protected", ready).await?;
            self.say(&format!(
                "  {} is protected, {} recovery points",
                vm.name,
                state.points.len()
            ));
        }
        let web_result = self.planned(web).await?;
        self.cut_link(app).await?;
        let db_result = self.unplanned(db).await?;
        for vm in [web, db] {
            self.commit(vm).await?;
        }
        let app_result = self.converge(app).await?;
        let steps = vec![
            self.test_failover(app).await?,
            self.failback(web).await?,
            self.recovery_plan([app, web]).await?,
        ];
        Ok((vec![web_result, db_result, app_result], steps))
    }

    fn say(&self, text: &str) {
        tell(self.output, text);
    }

    async fn state(&self, vm: &ProtectedVm) -> Result<Vm, CommandError> {
        Ok(self.service.site.state::<Vm>(vm.id.0).await?)
    }

    async fn order(&self, vm: &ProtectedVm, command: Command) -> Result<(), CommandError> {
        self.service.site.tell::<Vm>(vm.id.0, command, Origin::of("demo")).await?;
        Ok(())
    }

    async fn new_job(&self, vm: &ProtectedVm) -> Result<JobId, CommandError> {
        Ok(JobId::derived(vm.id.0, self.state(vm).await?.jobs))
    }

    async fn wait_for(
        &self,
        vm: &ProtectedVm,
        what: &str,
        reached: impl Fn(&Vm) -> bool,
    ) -> Result<Vm, CommandError> {
        for _ in 0..looks() {
            let state = self.state(vm).await?;
            if reached(&state) {
                return Ok(state);
            }
            actix::clock::sleep(LOOK).await;
        }
        let state = self.state(vm).await?;
        let causes: Vec<_> =
            state.health_causes(SystemClock.now()).into_iter().map(|cause| cause.because).collect();
        let waited = PATIENCE.as_secs();
        let name = &vm.name;
        Err(format!(
            "{name} did not become {what} within {waited} s: it is {}; {}",
            state.phase,
            causes.join("; ")
        )
        .into())
    }

    fn sample(&self, vm: &ProtectedVm) -> Option<Sample> {
        let guest = self.service.primary().guest(vm.id)?;
        let at = SystemClock.now();
        Some(Sample { at, issued: guest.issued, acknowledged: guest.acknowledged })
    }

    /// A planned failover: nothing may be lost.
    async fn planned(&self, vm: &ProtectedVm) -> Result<VmResult, CommandError> {
        self.say(&format!("planned failover of {}", vm.name));
        let job = self.new_job(vm).await?;
        self.order(vm, Command::PlannedFailover { job }).await?;
        let arrived = Phase::CommitPending(FailoverKind::Planned);
        let state = self.wait_for(vm, "failed over", |state| state.phase == arrived).await?;
        let guest = self.service.primary().guest(vm.id);
        let acknowledged = guest.map_or(0, |guest| guest.acknowledged);
        let replica = self.check_replica(vm).await?;
        let same = self.compare_with_images(vm).await?;
        let lost_bytes = lost_bytes(vm, replica, acknowledged);
        let verified = same && replica == acknowledged;
        self.say(&format!(
            "  replica holds all {replica} of {acknowledged} writes; bytes as at shutdown: {same}"
        ));
        Ok(result(vm, &state, "planned", lost_bytes, verified, None))
    }

    /// The link is cut for a while; the guests must not notice, and the VM recovers by itself.
    async fn cut_link(&self, vm: &ProtectedVm) -> Result<(), CommandError> {
        self.say(&format!("the link to the vault is cut for {} s", CUT_FOR.as_secs()));
        let before = self.sample(vm).map_or(0, |sample| sample.acknowledged);
        self.service.faults.raise(Fault::LinkCut);
        actix::clock::sleep(CUT_FOR).await;
        let during = self.state(vm).await?;
        let after = self.sample(vm).map_or(0, |sample| sample.acknowledged);
        self.service.faults.clear(Fault::LinkCut);
        let health = during.health(SystemClock.now());
        let causes = during.health_causes(SystemClock.now());
        let because = causes.first().map_or(String::new(), |cause| cause.because.clone());
        self.say(&format!("  {} is {health}: {because}", vm.name));
        self.say(&format!("  its guest wrote on: {} writes meanwhile", after - before));
        if health != Health::Critical || after == before {
            return Err("the cut link was not noticed, or the guest waited for it".into());
        }
        let shipped = during.latest_point().map_or(0, |point| point.cycle);
        self.wait_for(vm, "healthy again", |state| {
            state.health(SystemClock.now()) == Health::Normal
                && state.latest_point().is_some_and(|point| shipped < point.cycle)
        })
        .await?;
        self.say("  link healed: retried at once, Normal again");
        Ok(())
    }

    /// The host is killed in the middle of writes; the replica must be the VM as it was at its point.
    async fn unplanned(&self, vm: &ProtectedVm) -> Result<VmResult, CommandError> {
        self.say(&format!("the host of {} is killed in the middle of writes", vm.name));
        let mut samples = self.watch(vm).await?;
        self.service.kill_host(vm.host);
        let killed_at = SystemClock.now();
        let last = self.sample(vm).ok_or("the VM has no guest")?;
        samples.push(last);
        let job = self.new_job(vm).await?;
        let point = PointChoice::Latest;
        self.order(vm, Command::UnplannedFailover { job, point }).await?;
        let arrived = Phase::CommitPending(FailoverKind::Unplanned);
        let state = self.wait_for(vm, "failed over", |state| state.phase == arrived).await?;
        let replica = self.check_replica(vm).await?;
        let lost_bytes = lost_bytes(vm, replica, last.acknowledged);
        let point = state.failover.map(|failover| failover.point.at).unwrap_or_default();
        let in_place = is_between(&samples, point, replica);
        self.say(&format!(
            "  replica is the VM after write {replica} of {}: exactly its recovery point: {in_place}",
            last.acknowledged
        ));
        Ok(result(vm, &state, "unplanned", lost_bytes, in_place, Some(killed_at)))
    }

    /// Watches the guest until there is a recovery point that was begun meanwhile: only such a one can
    /// be placed among its writes.
    async fn watch(&self, vm: &ProtectedVm) -> Result<Vec<Sample>, CommandError> {
        let mut samples = Vec::new();
        for _ in 0..looks() {
            samples.extend(self.sample(vm));
            let watched_since = samples.first().ok_or("the VM has no guest")?.at;
            let state = self.state(vm).await?;
            if state.latest_point().is_some_and(|point| watched_since <= point.at) {
                return Ok(samples);
            }
            actix::clock::sleep(LOOK).await;
        }
        let waited = PATIENCE.as_secs();
        Err(format!("{} has no recovery point of the last {waited} s", vm.name).into())
    }

    async fn commit(&self, vm: &ProtectedVm) -> Result<(), CommandError> {
        let job = self.new_job(vm).await?;
        self.order(vm, Command::CommitFailover { job }).await?;
        let over = |state: &Vm| matches!(state.phase, Phase::FailedOver(_));
        self.wait_for(vm, "committed", over).await?;
        self.say(&format!("failover of {} committed", vm.name));
        Ok(())
    }

    /// The host is back: the VM that was not failed over goes on, and its replica must come to equal
    /// its disks.
    async fn converge(&self, vm: &ProtectedVm) -> Result<VmResult, CommandError> {
        self.say(&format!("the host is back; {} goes on", vm.name));
        let before = self.state(vm).await?.latest_point().map_or(0, |point| point.cycle);
        self.service.revive_host(vm.host).await?;
        self.wait_for(vm, "replicated again", |state| {
            state.latest_point().is_some_and(|point| before + 2 <= point.cycle)
                && state.health(SystemClock.now()) == Health::Normal
        })
        .await?;
        let (point, acknowledged, same) = self.stop_and_compare(vm).await?;
        self.say(&format!(
            "  all {acknowledged} writes are in recovery point {}; bytes equal: {same}",
            point.cycle
        ));
        let state = self.state(vm).await?;
        let mut result = result(vm, &state, "none", 0, same, None);
        result.rpo_seconds = state.rpo(SystemClock.now()).map(|rpo| rpo.as_secs_f64());
        Ok(result)
    }

    /// Shuts the guest at the primary site down and waits for a recovery point after that; answers the
    /// point, the guest's last write, and whether every byte of the two is the same.
    async fn stop_and_compare(
        &self,
        vm: &ProtectedVm,
    ) -> Result<(RecoveryPoint, u64, bool), CommandError> {
        let site = self.service.primary().clone();
        let id = vm.id;
        tokio::task::spawn_blocking(move || site.stop(id)).await??;
        let stopped = self.state(vm).await?.delta.cycle;
        let state = self
            .wait_for(vm, "converged", |state| {
                state.latest_point().is_some_and(|point| stopped < point.cycle)
            })
            .await?;
        let guest = self.service.primary().guest(vm.id);
        let acknowledged = guest.map_or(0, |guest| guest.acknowledged);
        let point = state.latest_point().ok_or("no recovery point")?;
        let same = self.compare_vault_with_images(vm, point.cycle).await?;
        Ok((point, acknowledged, same))
    }

    /// Reads the replica through its exports and proves it against the workload; answers the last
    /// write that it holds.
    async fn check_replica(&self, vm: &ProtectedVm) -> Result<u64, CommandError> {
        let devices = self.open_replica(vm).await?;
        let workload = vm.workload.clone().ok_or("the VM has no guest")?;
        let checked = tokio::task::spawn_blocking(move || {
            let disks: Vec<&dyn BlockDevice> = devices.iter().map(|disk| &**disk).collect();
            check(&workload, &disks, LastWrite::Whole, &|_, _| {}).map_err(|error| in_full(&error))
        });
        Ok(checked.await??.last_write)
    }

    async fn open_replica(
        &self,
        vm: &ProtectedVm,
    ) -> Result<Vec<Arc<dyn BlockDevice>>, CommandError> {
        let uris = self.service.replica_uris(vm);
        let connect = Arc::clone(&self.service.connect);
        let opened = tokio::task::spawn_blocking(move || {
            uris.iter().map(|uri| connect(uri)).collect::<std::io::Result<Vec<_>>>()
        });
        Ok(opened.await??)
    }

    /// Whether every byte of the replica, read through its exports, is that of the source's images.
    async fn compare_with_images(&self, vm: &ProtectedVm) -> Result<bool, CommandError> {
        let devices = self.open_replica(vm).await?;
        let images: Vec<_> = vm.disks.iter().map(|disk| disk.image.clone()).collect();
        let compared = tokio::task::spawn_blocking(move || {
            for (device, image) in devices.iter().zip(&images) {
                let read = |buffer: &mut [u8], at| device.read_at(buffer, at);
                if !same_bytes(image, device.size_bytes(), read)? {
                    return Ok(false);
                }
            }
            std::io::Result::Ok(true)
        });
        Ok(compared.await??)
    }

    /// Whether every byte of a recovery point, read from the vault, is that of the source's images.
    async fn compare_vault_with_images(
        &self,
        vm: &ProtectedVm,
        cycle: u64,
    ) -> Result<bool, CommandError> {
        let vault = &self.service.vault;
        let point = vault.point(vm.id, cycle).await?.ok_or("the recovery point is missing")?;
        for disk in &vm.disks {
            let at = point.disks.get(&disk.id).ok_or("a disk is missing in the point")?;
            let image = vault.open_disk(disk.id, at.sequence).await?;
            let path = disk.image.clone();
            let runtime = tokio::runtime::Handle::current();
            let compared = tokio::task::spawn_blocking(move || {
                same_bytes(&path, image.size_bytes(), |buffer, at| {
                    runtime.block_on(image.read_at(at, buffer)).map_err(std::io::Error::from)
                })
            });
            if !compared.await?? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Looks until the patience is over.
fn looks() -> u128 {
    PATIENCE.as_millis() / LOOK.as_millis()
}

fn result(
    vm: &ProtectedVm,
    state: &Vm,
    failover: &'static str,
    lost_bytes: u64,
    verified: bool,
    lost_at: Option<Timestamp>,
) -> VmResult {
    let over = state.failover;
    let rto = over.and_then(|over| Some(over.first_started_at?.since(over.asked_at)));
    let rpo = match (lost_at, over) {
        (Some(lost_at), Some(over)) => Some(lost_at.since(over.point.at)),
        // The source was off: the point is its last state, however old.
        (None, Some(_)) => Some(Duration::ZERO),
        (_, None) => None,
    };
    VmResult {
        name: vm.name.clone(),
        failover,
        rpo_seconds: rpo.map(|rpo| rpo.as_secs_f64()),
        rto_seconds: rto.map(|rto| rto.as_secs_f64()),
        lost_bytes,
        verified,
    }
}

/// Bytes of the acknowledged writes that the replica does not hold.
fn lost_bytes(vm: &ProtectedVm, replica: u64, acknowledged: u64) -> u64 {
    let workload = vm.workload.as_ref();
    workload.map_or(0, |workload| workload.written_bytes(replica, acknowledged))
}

/// Whether the guest, as it was watched until it was killed, did that write at the recovery point's
/// time. Points are dated in whole seconds.
fn is_between(samples: &[Sample], point: Timestamp, write: u64) -> bool {
    let end = point.after(Duration::from_secs(1));
    let before = samples.iter().rev().find(|sample| sample.at <= point);
    let after = samples.iter().find(|sample| end <= sample.at).or(samples.last());
    before.is_some_and(|before| before.acknowledged <= write)
        && after.is_some_and(|after| write <= after.issued)
}

fn same_bytes(
    image: &Path,
    size: u64,
    read: impl Fn(&mut [u8], u64) -> std::io::Result<()>,
) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let source = std::fs::File::open(image)?;
    if source.metadata()?.len() != size {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    for at in (0..size).step_by(PIECE_BYTES) {
        let length = PIECE_BYTES.min((size - at) as usize);
        source.read_exact_at(&mut ours[..length], at)?;
        read(&mut theirs[..length], at)?;
        if ours[..length] != theirs[..length] {
            return Ok(false);
        }
    }
    Ok(true)
}
