//! Drives one VM by commands alone, as its actor would, and writes down what happened.

use lifeboat::domain::catalogue::Code;
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::{CloudId, DiskId, HostId, JobId, VaultId, VmId};
use lifeboat::domain::job::Step;
use lifeboat::domain::machine::{DiskFormat, DiskRole, DiskTraits, Machine};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{
    Command, Disk, Effect, Event, Opening, Outcome, PointChoice, RecoveryPoint, ResyncReason,
    SourceEnd, Stage, Vm, Wake, Work,
};
use std::fmt::Write;
use std::time::Duration;
use uuid::Uuid;

/// When every story begins; times are told in seconds from here.
pub(crate) const BEGINNING: Timestamp = Timestamp::from_millis(1_800_000_000_000);

pub(crate) fn vault() -> VaultId {
    VaultId(Uuid::from_u128(4))
}

pub(crate) fn host() -> HostId {
    HostId(Uuid::from_u128(2))
}

pub(crate) fn job_id(n: u128) -> JobId {
    JobId(Uuid::from_u128(100 + n))
}

pub(crate) fn disk_id(n: u128) -> DiskId {
    DiskId(Uuid::from_u128(10 + n))
}

pub(crate) fn second(n: i64) -> Timestamp {
    Timestamp::from_millis(BEGINNING.as_millis() + n * 1000)
}

pub(crate) fn discover(disks: u128) -> Command {
    Command::Discover {
        id: VmId(Uuid::from_u128(1)),
        name: "sql-01".to_owned(),
        host: host(),
        cloud: CloudId(Uuid::from_u128(3)),
        disks: (0..disks)
            .map(|n| Disk { id: disk_id(n), name: format!("disk{n}"), size_bytes: 1 << 30 })
            .collect(),
    }
}

pub(crate) fn enable() -> Command {
    Command::EnableProtection { job: job_id(1), vault: vault(), policy: quiet() }
}

/// Without application-consistent points, which have stories of their own.
pub(crate) fn quiet() -> Policy {
    Policy { app_consistent_frequency_h: 0, ..Policy::default() }
}

pub(crate) fn planned() -> Command {
    Command::PlannedFailover { job: job_id(2) }
}

pub(crate) fn unplanned(point: PointChoice) -> Command {
    Command::UnplannedFailover { job: job_id(3), point }
}

/// An unplanned failover that first sends what its source wrote last.
pub(crate) fn synchronized() -> Command {
    Command::SynchronizeAndFailOver { job: job_id(16) }
}

/// Protection whose initial replication begins then.
pub(crate) fn enable_at(due: Timestamp) -> Command {
    Command::EnableProtectionAt { job: job_id(1), vault: vault(), policy: quiet(), due }
}

pub(crate) fn commit() -> Command {
    Command::CommitFailover { job: job_id(4) }
}

pub(crate) fn test_failover() -> Command {
    Command::TestFailover {
        job: job_id(6),
        point: PointChoice::Latest,
        network: "isolated".to_owned(),
        lease_h: 4,
    }
}

pub(crate) fn clean_up() -> Command {
    Command::CleanUpTestFailover { job: job_id(7), notes: "it booted".to_owned() }
}

pub(crate) fn cancel_failover() -> Command {
    Command::CancelFailover { job: job_id(8) }
}

pub(crate) fn change_point(point: PointChoice) -> Command {
    Command::ChangeRecoveryPoint { job: job_id(9), point }
}

pub(crate) fn failback() -> Command {
    Command::Failback { job: job_id(10), in_full: false }
}

/// The host that it can be brought to instead.
pub(crate) fn other_host() -> HostId {
    HostId(Uuid::from_u128(5))
}

pub(crate) fn failback_to_host() -> Command {
    let (host, cloud) = (other_host(), CloudId(Uuid::from_u128(3)));
    Command::FailbackToHost { job: job_id(15), in_full: false, host, cloud }
}

pub(crate) fn complete_failback() -> Command {
    Command::CompleteFailback { job: job_id(11) }
}

pub(crate) fn reverse() -> Command {
    Command::ReverseReplicate { job: job_id(12) }
}

pub(crate) fn disable() -> Command {
    Command::DisableProtection { job: job_id(13), source_gone: false }
}

/// The end of protection without the source.
pub(crate) fn remove() -> Command {
    Command::DisableProtection { job: job_id(17), source_gone: true }
}

/// Makes the first disk larger by this many bytes.
pub(crate) fn resize(bytes: u64) -> Command {
    Command::ResizeDisk { job: job_id(14), disk: disk_id(0), size_bytes: (1 << 30) + bytes }
}

/// Adds a disk of a MiB.
pub(crate) fn add_disk() -> Command {
    let disk = Disk { id: disk_id(7), name: "data".to_owned(), size_bytes: 1 << 20 };
    Command::AddDisk { job: job_id(15), disk, image: "/disks/data.img".to_owned() }
}

/// The VM is one whose first disk its guest starts from.
pub(crate) fn described() -> Command {
    let os = DiskTraits {
        disk: disk_id(0),
        role: DiskRole::Os,
        format: DiskFormat::Raw,
        dynamic: false,
        shared: false,
        fibre_channel: false,
        encrypted: false,
        sector_bytes: 512,
    };
    let machine = Machine { cores: 1, memory_mib: 512, disks: vec![os], ..Machine::default() };
    Command::Describe { machine }
}

pub(crate) fn link_down() -> Failure {
    Failure::new(Code::LinkDown, Cause::Vault(vault()), "connection refused")
}

pub(crate) fn check_failed() -> Failure {
    Failure::new(Code::PrerequisiteFailed, Cause::Itself, "")
}

pub(crate) fn credentials_refused() -> Failure {
    Failure::new(Code::AuthenticationFailed, Cause::Vault(vault()), "401")
}

/// What comes of a task that goes well.
pub(crate) fn good_outcome(vm: &Vm, step: Step, now: Timestamp) -> Outcome {
    let point = |cycle| RecoveryPoint { cycle, at: now, bytes: 4096 };
    match step {
        Step::CopyDisk(disk) => Outcome::Copied { disk, bytes: 1 << 20 },
        Step::CompareDisk(disk) => {
            Outcome::Compared { disk, compared_bytes: 1 << 30, different_bytes: 1 << 20 }
        }
        Step::ApplyTrackedChanges | Step::SendBeforeResize => {
            Outcome::Shipped { points: vec![point(vm.delta.cycle)] }
        }
        Step::PrepareForFailover => {
            let cycle = vm.delta.cycle;
            let points = match vm.delta.stage {
                Stage::Off | Stage::Waiting { .. } | Stage::Paused { .. } => vec![point(cycle)],
                // The delta that was under way, and what was written since.
                Stage::Snapshotting | Stage::Shipping { .. } => {
                    vec![point(cycle), point(cycle + 1)]
                }
            };
            if vm.is_in_planned_failover() {
                return Outcome::Fenced { found: points };
            }
            Outcome::Shipped { points }
        }
        Step::RestoreDisk(disk) => {
            Outcome::Restored { disk, compared_bytes: 1 << 30, different_bytes: 1 << 20 }
        }
        Step::FenceSource => {
            Outcome::SourceFenced { found: vec![], source: SourceEnd::ShutDown, unsent: None }
        }
        Step::FenceReplica => Outcome::Fenced { found: vec![] },
        Step::RestartTracking if vm.takes_replica_over().is_some() => {
            Outcome::Fenced { found: vec![] }
        }
        _ => Outcome::Done,
    }
}

/// A VM and everything that happened to it.
#[derive(Clone, Default)]
pub(crate) struct Story {
    pub(crate) vm: Vm,
    pub(crate) now: Timestamp,
    pub(crate) told: Vec<(Timestamp, Command, Vec<Event>)>,
    /// What happened, for people.
    pub(crate) transcript: String,
}

impl Story {
    pub(crate) fn new() -> Self {
        Self { now: BEGINNING, ..Self::default() }
    }

    /// A VM with these disks, discovered.
    pub(crate) fn discovered(disks: u128) -> Self {
        let mut story = Self::new();
        story.tell(discover(disks));
        story
    }

    /// A VM with one disk in its initial replication.
    pub(crate) fn in_initial_replication() -> Self {
        let mut story = Self::discovered(1);
        story.tell(enable());
        story.until_step(|step| matches!(step, Step::CopyDisk(_)));
        story
    }

    /// A VM with one disk and its first recovery point, waiting for its next delta.
    pub(crate) fn protected() -> Self {
        let mut story = Self::discovered(1);
        story.tell(enable());
        story.work_off();
        story
    }

    /// A protected VM with `count` recovery points.
    pub(crate) fn protected_with_points(count: usize) -> Self {
        let mut story = Self::protected();
        while story.vm.points.len() < count {
            story.wake();
            story.work_off();
        }
        story
    }

    /// A protected VM in the middle of sending a delta.
    pub(crate) fn shipping() -> Self {
        let mut story = Self::protected();
        story.wake();
        story.succeed();
        assert!(matches!(story.vm.work(), Some(Work::Ship { .. })));
        story
    }

    /// A VM whose tracking was lost when it was protected.
    pub(crate) fn resynchronizing() -> Self {
        let mut story = Self::protected();
        story.tell(story.tracking_lost());
        story
    }

    /// A VM that runs at the recovery site for good.
    pub(crate) fn failed_over() -> Self {
        let mut story = Self::protected_with_points(3);
        story.tell(unplanned(PointChoice::Latest));
        story.work_off();
        story.tell(commit());
        story.work_off();
        story
    }

    /// A VM that runs at the recovery site, with the primary site's disks in step.
    pub(crate) fn ready_to_fail_back() -> Self {
        let mut story = Self::failed_over();
        story.tell(failback());
        story.work_off();
        story
    }

    /// A VM that runs at the primary site again.
    pub(crate) fn failed_back() -> Self {
        let mut story = Self::ready_to_fail_back();
        story.tell(complete_failback());
        story.work_off();
        story
    }

    /// Tells a command that must be accepted; returns its events.
    #[track_caller]
    pub(crate) fn tell(&mut self, command: Command) -> Vec<Event> {
        self.try_tell(command).expect("the state allows it")
    }

    /// Tells a command.
    pub(crate) fn try_tell(&mut self, command: Command) -> Result<Vec<Event>, Rejection> {
        let events = self.vm.decide(&command, self.now)?;
        let _ = writeln!(self.transcript, "when {}", word(&command));
        for event in &events {
            self.vm.apply(event, self.now);
            let words = self.event_in_words(event);
            let _ = writeln!(self.transcript, "  then {words}");
        }
        // Space is reclaimed in the background: it would be in every line.
        let in_the_foreground = |effect: &Effect| *effect != Effect::ReclaimSpace;
        for effect in self.vm.pending().into_iter().filter(in_the_foreground) {
            let words = self.effect_in_words(effect);
            let _ = writeln!(self.transcript, "    do {words}");
        }
        self.told.push((self.now, command, events.clone()));
        Ok(events)
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
    }

    /// The report that the work in progress went well; that of a test is only named where there is no
    /// other.
    pub(crate) fn success(&self) -> Option<Command> {
        self.vm.work().or(self.test_work()).map(|work| self.success_of(work))
    }

    /// The work for a test failover that is to be done.
    pub(crate) fn test_work(&self) -> Option<Work> {
        let job = self.vm.test.as_ref()?.job.id;
        self.vm.pending().into_iter().find_map(|effect| match effect {
            Effect::Do(work @ Work::Task { job: own, .. }) if own == job => Some(work),
            _ => None,
        })
    }

    /// The work of a test goes well, a second later.
    #[track_caller]
    pub(crate) fn succeed_in_test(&mut self) -> Vec<Event> {
        self.wait(Duration::from_secs(1));
        let work = self.test_work().expect("a test is to be prepared or cleaned up");
        self.tell(self.success_of(work))
    }

    fn success_of(&self, work: Work) -> Command {
        match work {
            Work::Task { job, task, step } => {
                Command::ReportDone { job, task, outcome: good_outcome(&self.vm, step, self.now) }
            }
            Work::Snapshot { cycle } if self.vm.is_to_be_quiesced(cycle) => {
                let (at, log_bytes) = (self.now, 8192);
                Command::ReportQuiescedSnapshot { cycle, at, log_bytes, missed: None }
            }
            Work::Snapshot { cycle } => {
                Command::ReportSnapshot { cycle, at: self.now, log_bytes: 8192 }
            }
            Work::Ship { cycle, .. } => Command::ReportShipped { cycle, shipped_bytes: 4096 },
        }
    }

    /// The work in progress goes well, a second later.
    #[track_caller]
    pub(crate) fn succeed(&mut self) -> Vec<Event> {
        assert!(
            self.vm.pending().iter().any(|effect| matches!(effect, Effect::Do(_))),
            "nothing is to be done"
        );
        self.wait(Duration::from_secs(1));
        self.tell(self.success().expect("there is work"))
    }

    /// The work in progress fails, at this moment.
    #[track_caller]
    pub(crate) fn fail(&mut self, failure: Failure) -> Vec<Event> {
        let work = self.vm.work().expect("there is work");
        self.tell(Command::ReportFailure { work, failure })
    }

    /// The report that the chain of logs that is tracked was lost.
    pub(crate) fn tracking_lost(&self) -> Command {
        Command::ReportTrackingLost {
            first_cycle: self.vm.delta.chain_first_cycle,
            reason: ResyncReason::PowerLoss,
        }
    }

    /// Everything that is to be done goes well.
    pub(crate) fn work_off(&mut self) {
        while self.vm.pending().iter().any(|effect| matches!(effect, Effect::Do(_))) {
            self.succeed();
        }
    }

    /// All goes well up to a task.
    #[track_caller]
    pub(crate) fn until_step(&mut self, wanted: impl Fn(Step) -> bool) {
        while !matches!(self.vm.work(), Some(Work::Task { step, .. }) if wanted(step)) {
            self.succeed();
        }
    }

    /// The timer that the VM asked for, as a command.
    ///
    /// That of a test's lease is only named where there is no other.
    pub(crate) fn alarm(&self) -> Option<(Timestamp, Command)> {
        let alarms: Vec<_> = self.alarms().collect();
        let of_test = |wake: &Wake| *wake == Wake::TestLease;
        let alarm = alarms.iter().find(|(_, wake)| !of_test(wake)).or(alarms.first());
        alarm.map(|(due, wake)| (*due, Command::Wake { due: *due, wake: *wake }))
    }

    /// All timers that the VM asked for.
    pub(crate) fn alarms(&self) -> impl Iterator<Item = (Timestamp, Wake)> {
        self.vm.pending().into_iter().filter_map(|effect| match effect {
            Effect::WakeAt { due, wake } => Some((due, wake)),
            Effect::Do(_)
            | Effect::WatchTracking { .. }
            | Effect::RunReplica
            | Effect::KeepOff { .. }
            | Effect::AwaitVault { .. }
            | Effect::ReclaimSpace => None,
        })
    }

    /// Time passes until the timer rings.
    #[track_caller]
    pub(crate) fn wake(&mut self) -> Vec<Event> {
        let (due, command) = self.alarm().expect("a timer is wanted");
        self.now = due;
        self.tell(command)
    }

    pub(crate) fn transcript_from_here(&mut self) {
        self.transcript.clear();
    }

    fn step_of(&self, id: JobId, task: u32) -> String {
        let test = self.vm.test.as_ref().map(|test| &test.job);
        let job = self.vm.job.iter().chain(test).find(|job| job.id == id);
        job.map_or_else(String::new, |job| word(&job.tasks[task as usize].step))
    }

    fn event_in_words(&self, event: &Event) -> String {
        let word = word(event);
        match event {
            Event::JobStarted { kind, .. } => format!("{word} {kind:?}"),
            Event::TaskStarted { job, task }
            | Event::TaskCompleted { job, task }
            | Event::TaskFailed { job, task, .. } => {
                format!("{word} {}", self.step_of(*job, *task))
            }
            Event::JobEnded { outcome, .. } => format!("{word} {outcome:?}"),
            Event::TrackingStarted { first_cycle } | Event::RestoredTracked { first_cycle } => {
                format!("{word} from {first_cycle}")
            }
            Event::CycleStarted { cycle }
            | Event::SnapshotTaken { cycle, .. }
            | Event::ApplicationConsistencyRequested { cycle }
            | Event::ApplicationConsistent { cycle }
            | Event::ApplicationConsistencyMissed { cycle, .. } => {
                format!("{word} {cycle}")
            }
            Event::LogShipped { point } => format!("{word} {}", point.cycle),
            Event::RecoveryPointsExpired { kept_from_cycle }
            | Event::RecoveryPointsDropped { kept_from_cycle, .. } => {
                format!("{word} before {kept_from_cycle}")
            }
            Event::RecoveryPointsThinned { cycles } => format!("{word} {cycles:?}"),
            Event::RetryScheduled { attempt, due, .. } => {
                format!("{word} attempt {attempt}, due at {}", seconds(*due))
            }
            Event::RetryStarted { attempt, early } => {
                let why = early.as_ref().map_or_else(|| "as due".to_owned(), self::word);
                format!("{word} after attempt {attempt}, {why}")
            }
            Event::MarkedForResync { reason } => format!("{word} {reason:?}"),
            Event::SourceFenced { epoch } => format!("{word} epoch {epoch}"),
            Event::FailedOver { kind, point } => format!("{word} {kind:?} at {}", point.cycle),
            Event::FailoverRequested { point } => format!("{word} {point:?}"),
            Event::SourceEnded { how, .. } => format!("{word} {}", self::word(how)),
            Event::ResyncScheduled { opening } => match opening {
                Opening::At(due) => format!("{word} at {}", seconds(*due)),
                Opening::ByHand => format!("{word} by hand"),
            },
            Event::DisksRestored { point } => format!("{word} to {}", point.cycle),
            Event::TestFailoverRequested { point, .. } => format!("{word} at {}", point.cycle),
            Event::TestCleanUpPutOff { due, .. } => format!("{word} to {}", seconds(*due)),
            Event::FailoverDecisionScheduled { due, then } => {
                format!("{word} {then:?} at {}", seconds(*due))
            }
            Event::Discovered { .. }
            | Event::TestStarted
            | Event::TestCleanUpRequested { .. }
            | Event::TestCleanedUp { .. }
            | Event::ReplicaShutDown
            | Event::FailoverCancelled
            | Event::FailbackRequested { .. }
            | Event::DiskRestored { .. }
            | Event::FailbackReady
            | Event::FailbackCancelled
            | Event::FailedBack
            | Event::FailbackCommitted
            | Event::TrackingLost { .. }
            | Event::ProtectionDisabled
            | Event::ReplicationPaused
            | Event::StartHeld { .. }
            | Event::StartReleased
            | Event::FailoverHeld
            | Event::FailoverReleased
            | Event::StatisticsScheduleChanged { .. }
            | Event::ReplicationResumed
            | Event::DiskCompared { .. }
            | Event::ResyncWindowChanged { .. }
            | Event::ResyncWindowConfigured { .. }
            | Event::TaskProgressed { .. }
            | Event::ProtectionEnabled { .. }
            | Event::DiskCopied { .. }
            | Event::PolicyChanged { .. }
            | Event::Protected
            | Event::AdministratorNeeded { .. }
            | Event::SourceShutDown
            | Event::ReplicaStarted
            | Event::SpaceNotReclaimed { .. }
            | Event::SpaceReclaimed
            | Event::LogVolumeLow { .. }
            | Event::LogVolumeFreed
            | Event::Described { .. }
            | Event::TargetChanged { .. }
            | Event::ReplicaPlaced { .. }
            | Event::TestPlaced { .. }
            | Event::Moved { .. }
            | Event::FailbackHostChosen { .. }
            | Event::HostLeft { .. }
            | Event::SourcePlaced { .. }
            | Event::DiskResizeRequested { .. }
            | Event::DiskResized { .. }
            | Event::DiskAddRequested { .. }
            | Event::DiskAdded { .. }
            | Event::VaultLeft
            | Event::SynchronizationRequested
            | Event::InitialReplicationScheduled { .. }
            | Event::InitialReplicationDue
            | Event::FailoverCommitted => word,
        }
    }

    fn effect_in_words(&self, effect: Effect) -> String {
        match effect {
            Effect::Do(Work::Task { job, task, .. }) => self.step_of(job, task),
            Effect::Do(Work::Snapshot { cycle }) => format!("Snapshot {cycle}"),
            Effect::Do(Work::Ship { cycle, .. }) => format!("Ship {cycle}"),
            Effect::WatchTracking { first_cycle } => format!("WatchTracking from {first_cycle}"),
            Effect::RunReplica => "RunReplica".to_owned(),
            Effect::KeepOff { .. } => "KeepOff".to_owned(),
            Effect::ReclaimSpace => "ReclaimSpace".to_owned(),
            Effect::AwaitVault { .. } => "AwaitVault".to_owned(),
            Effect::WakeAt { due, wake } => format!("WakeAt {} for {wake:?}", seconds(due)),
        }
    }
}

fn seconds(moment: Timestamp) -> String {
    format!("{}s", (moment.as_millis() - BEGINNING.as_millis()) / 1000)
}

/// The name of a variant.
pub(crate) fn word(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}
