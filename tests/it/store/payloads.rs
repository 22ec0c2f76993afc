//! The stored shape of commits. Every version that was ever written is frozen under
//! `tests/fixtures/events/`, one line a payload: its bytes in hexadecimal, and what they mean.
//!
//! A changed line means that logs in the field can no longer be read. Variants may be added at the end
//! of an enum: then add samples here and run once with `LIFEBOAT_FREEZE=1`, which appends and never
//! changes a line. Anything else needs a payload version.

use lifeboat::domain::catalogue::ENTRIES;
use lifeboat::domain::entity::{Entity, Entry, Kind};
use lifeboat::domain::fabric::{self, Address, Network, Size, Subnet, Tenant};
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::{CloudId, DiskId, FabricId, HostId, JobId, PlanId, VaultId, VmId};
use lifeboat::domain::job::{JobKind, JobOutcome, Step};
use lifeboat::domain::machine::{
    Architecture, DiskFormat, DiskRole, DiskTraits, Feature, Generation, Machine, Nic, System,
};
use lifeboat::domain::placement::{NicRole, NicTarget, PlacedNic, Placement, Remark, Target};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{
    self, Disk, FailoverKind, Opening, Outcome, PointChoice, RecoveryPoint, ResyncReason,
    ResyncWindow, RetryReason, StatisticsSchedule, Vm, Wake, Work,
};
use lifeboat::domain::{cloud, host, plan, vault};
use lifeboat::ports::event_store::StoreError;
use lifeboat::store::payload::{self, VERSION, v1};
use lifeboat::store::record::{Record, StreamKey};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use uuid::Uuid;

fn id(nth: u8) -> Uuid {
    Uuid::from_bytes([nth; 16])
}

fn policy() -> Policy {
    Policy { copy_frequency_s: 30, recovery_point_retention_h: 24, app_consistent_frequency_h: 4 }
}

fn point(cycle: u64) -> RecoveryPoint {
    RecoveryPoint { cycle, at: at(cycle as i64), bytes: 1 << 33 }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + 1000 * seconds)
}

fn failure() -> Failure {
    Failure::new(ENTRIES[0].code, Cause::Vault(VaultId(id(5))), "503 Server Busy")
        .with("vault", "west")
        .with("age", 7)
}

fn disk() -> Disk {
    Disk { id: DiskId(id(3)), name: "system".to_owned(), size_bytes: 1 << 40 }
}

fn steps() -> Vec<Step> {
    vec![
        Step::CheckEnableProtection,
        Step::IdentifyTarget,
        Step::EnableReplication,
        Step::StartInitialReplication,
        Step::UpdateProviderState,
        Step::RestartTracking,
        Step::CopyDisk(DiskId(id(3))),
        Step::CompleteCopy,
        Step::ApplyTrackedChanges,
        Step::VerifyReplica,
        Step::CheckPlannedFailover,
        Step::ShutDownSource,
        Step::PrepareForFailover,
        Step::CheckUnplannedFailover,
        Step::FenceSource,
        Step::StartFailover,
        Step::StartReplica,
        Step::CheckCommit,
        Step::DropOtherPoints,
        Step::CompareDisk(DiskId(id(3))),
        Step::CheckTestFailover,
        Step::PrepareTest,
        Step::StartTest,
        Step::StopTest,
        Step::DeleteTest,
        Step::ShutDownReplica,
        Step::DeleteReplicaDisks,
        Step::StartSource,
        Step::CheckFailback,
        Step::AttachSource,
        Step::RestoreDisk(DiskId(id(3))),
        Step::FenceReplica,
        Step::TrackRestored,
        Step::CheckReverseReplicate,
        Step::StopTracking,
        Step::DeleteReplica,
        Step::CheckResize,
        Step::GrowDisk(DiskId(id(3))),
        Step::OfferGrownDisk(DiskId(id(3))),
        Step::SendBeforeResize,
        Step::CheckAddDisk,
        Step::OfferAddedDisk(DiskId(id(3))),
        Step::CheckDisable,
        Step::DownloadDisk(DiskId(id(3))),
        Step::LeaveVault,
    ]
}

fn window() -> ResyncWindow {
    ResyncWindow::Daily { from_minute: 1110, to_minute: 360, utc_offset_minutes: -150 }
}

fn schedule() -> StatisticsSchedule {
    StatisticsSchedule { hours: 12, start_minute: 540, utc_offset_minutes: -150 }
}

fn vm_commands() -> Vec<vm::Command> {
    use vm::Command as C;
    let job = JobId(id(9));
    let mut commands = vec![
        C::Discover {
            id: VmId(id(1)),
            name: "web-1".to_owned(),
            host: HostId(id(2)),
            cloud: CloudId(id(4)),
            disks: vec![disk(), disk()],
        },
        C::EnableProtection { job, vault: VaultId(id(5)), policy: policy() },
        C::ChangePolicy { policy: policy() },
        C::PlannedFailover { job },
        C::UnplannedFailover { job, point: PointChoice::Latest },
        C::UnplannedFailover { job, point: PointChoice::Cycle(77) },
        C::CommitFailover { job },
        C::Retry { because: RetryReason::CauseEnded(Cause::Host(HostId(id(2)))) },
        C::Retry { because: RetryReason::Administrator },
        C::Wake { due: at(5), wake: Wake::Cycle(300) },
        C::Wake { due: at(5), wake: Wake::Retry(2) },
        C::ReportDone { job, task: 1, outcome: Outcome::Done },
        C::ReportDone {
            job,
            task: 2,
            outcome: Outcome::Copied { disk: DiskId(id(3)), bytes: 1 << 35 },
        },
        C::ReportDone {
            job,
            task: 3,
            outcome: Outcome::Shipped { points: vec![point(1), point(2)] },
        },
        C::ReportDone { job, task: 4, outcome: Outcome::Fenced { found: vec![point(3)] } },
        C::ReportProgress { job, task: 5, done_bytes: 250, total_bytes: 251 },
        C::ReportSnapshot { cycle: 65_536, at: at(9), log_bytes: 70_000 },
        C::ReportShipped { cycle: 9, shipped_bytes: 10 },
        C::ReportFailure { work: Work::Snapshot { cycle: 8 }, failure: failure() },
        C::ReportTrackingLost { first_cycle: 3, reason: ResyncReason::PowerLoss },
    ];
    commands.extend([
        C::UnplannedFailover { job, point: PointChoice::LatestProcessed },
        C::UnplannedFailover { job, point: PointChoice::LatestApplicationConsistent },
        C::ReportQuiescedSnapshot { cycle: 9, at: at(10), log_bytes: 11, missed: None },
        C::ReportQuiescedSnapshot { cycle: 9, at: at(10), log_bytes: 11, missed: Some(failure()) },
        C::ReportSpace { failure: None },
        C::ReportSpace { failure: Some(failure()) },
    ]);
    let reasons = [
        ResyncReason::LogWriteFailed("full".to_owned()),
        ResyncReason::LogDamaged("checksum".to_owned()),
        ResyncReason::LogMissing("gone".to_owned()),
        ResyncReason::DiskChanged("resized".to_owned()),
        ResyncReason::LogsTooLarge("half".to_owned()),
        ResyncReason::ReplicaSuspect("hash".to_owned()),
    ];
    commands.extend(reasons.map(|reason| C::ReportTrackingLost { first_cycle: 3, reason }));
    commands.extend([
        C::Resynchronize { job },
        C::ChangeResyncWindow { window: ResyncWindow::Always },
        C::ChangeResyncWindow { window: ResyncWindow::Manual },
        C::ChangeResyncWindow { window: window() },
        C::ConfigureResyncWindow { window: window() },
        C::ReportLogVolume { short: None },
        C::ReportLogVolume { short: Some(failure()) },
        C::Wake { due: at(5), wake: Wake::Resync },
        C::ReportDone {
            job,
            task: 6,
            outcome: Outcome::Compared {
                disk: DiskId(id(3)),
                compared_bytes: 1 << 36,
                different_bytes: 1 << 20,
            },
        },
    ]);
    commands.extend(operator_commands(job));
    commands
}

fn added_disk() -> Disk {
    Disk { id: DiskId(id(9)), name: "data".to_owned(), size_bytes: 1 << 30 }
}

fn operator_commands(job: JobId) -> Vec<vm::Command> {
    use vm::Command as C;
    let restored = Outcome::Restored {
        disk: DiskId(id(3)),
        compared_bytes: 1 << 36,
        different_bytes: 1 << 20,
    };
    vec![
        C::TestFailover {
            job,
            point: PointChoice::Latest,
            network: "lab".to_owned(),
            lease_h: 300,
        },
        C::CleanUpTestFailover { job, notes: "it booted".to_owned() },
        C::ChangeRecoveryPoint { job, point: PointChoice::Cycle(5) },
        C::CancelFailover { job },
        C::DecideFailover { due: at(6), then: vm::AfterFailover::Commit },
        C::DecideFailover { due: at(6), then: vm::AfterFailover::Cancel },
        C::Failback { job, in_full: true },
        C::CompleteFailback { job },
        C::CancelFailback,
        C::ReverseReplicate { job },
        C::DisableProtection { job, source_gone: true },
        C::PauseReplication,
        C::ResumeReplication,
        C::TakeRecoveryPoint { application_consistent: true },
        C::HoldStart { plan: PlanId(id(6)) },
        C::ReleaseStart,
        C::CancelJob { job },
        C::Wake { due: at(5), wake: Wake::TestLease },
        C::Wake { due: at(5), wake: Wake::Decision },
        C::ReportDone { job, task: 6, outcome: restored },
        C::ChangeStatisticsSchedule { schedule: schedule() },
        C::ResizeDisk { job, disk: DiskId(id(3)), size_bytes: 1 << 41 },
        C::FailbackToHost { job, in_full: true, host: HostId(id(2)), cloud: CloudId(id(4)) },
        C::ReportLeft { host: HostId(id(2)) },
        C::AddDisk { job, disk: added_disk(), image: "/disks/data.img".to_owned() },
        C::SynchronizeAndFailOver { job },
        C::EnableProtectionAt { job, vault: VaultId(id(5)), policy: policy(), due: at(6) },
        C::Wake { due: at(6), wake: Wake::InitialReplication },
        fenced(vm::SourceEnd::ShutDown, None),
        fenced(vm::SourceEnd::SwitchedOff, Some(failure())),
        fenced(vm::SourceEnd::OutOfReach(failure()), None),
    ]
}

fn fenced(source: vm::SourceEnd, unsent: Option<Failure>) -> vm::Command {
    let outcome = Outcome::SourceFenced { found: vec![point(3)], source, unsent };
    vm::Command::ReportDone { job: JobId(id(9)), task: 4, outcome }
}

fn life_events() -> Vec<vm::Event> {
    use vm::Event as E;
    vec![
        E::TestFailoverRequested { point: point(3), network: "lab".to_owned(), lease_ends: at(99) },
        E::TestStarted,
        E::TestCleanUpRequested { notes: "it booted".to_owned() },
        E::TestCleanUpPutOff { due: at(7), because: failure() },
        E::TestCleanedUp { notes: "it booted".to_owned() },
        E::ReplicaShutDown,
        E::FailoverCancelled,
        E::FailoverDecisionScheduled { due: at(7), then: vm::AfterFailover::Cancel },
        E::FailbackRequested { in_full: false },
        E::DiskRestored { disk: DiskId(id(3)), compared_bytes: 1 << 36, different_bytes: 7 },
        E::DisksRestored { point: point(8) },
        E::FailbackReady,
        E::FailbackCancelled,
        E::RestoredTracked { first_cycle: 17 },
        E::FailedBack,
        E::FailbackCommitted,
        E::TrackingLost { reason: ResyncReason::PowerLoss },
        E::ProtectionDisabled,
        E::ReplicationPaused,
        E::ReplicationResumed,
        E::StartHeld { plan: PlanId(id(6)) },
        E::StartReleased,
        E::StatisticsScheduleChanged { schedule: schedule() },
        E::DiskResizeRequested { disk: DiskId(id(3)), size_bytes: 1 << 41 },
        E::DiskResized { disk: DiskId(id(3)), size_bytes: 1 << 41 },
        E::FailbackHostChosen { host: HostId(id(2)) },
        E::HostLeft { host: HostId(id(2)) },
        E::SourcePlaced { placement: placement() },
        E::DiskAddRequested { disk: added_disk(), image: "/disks/data.img".to_owned() },
        E::DiskAdded { disk: added_disk().id },
        E::VaultLeft,
        E::SynchronizationRequested,
        E::SourceEnded { how: vm::SourceEnd::ShutDown, unsent: None },
        E::SourceEnded { how: vm::SourceEnd::SwitchedOff, unsent: Some(failure()) },
        E::SourceEnded { how: vm::SourceEnd::OutOfReach(failure()), unsent: None },
        E::InitialReplicationScheduled { due: at(6) },
        E::InitialReplicationDue,
    ]
}

fn plan_entries() -> Vec<Entry> {
    use plan::{ActionKind, Command as C, Event as E, Probe, RunKind, RunOutcome};
    let action = |name: &str, kind| plan::earlier::Action { name: name.to_owned(), kind };
    let command = || vec!["/bin/true".to_owned()];
    let gate = |probe| ActionKind::Gate { probe, within_s: 300 };
    let definition = plan::earlier::Definition {
        before: vec![action("a", ActionKind::Script { command: command(), timeout_s: 60 })],
        after_failover: vec![action("b", ActionKind::Manual { instructions: "look".to_owned() })],
        groups: vec![plan::earlier::Group {
            before: vec![action("c", gate(Probe::Tcp { address: "db:5432".to_owned() }))],
            vms: vec![VmId(id(1))],
            after: vec![
                action("d", gate(Probe::Http { url: "http://web/".to_owned() })),
                action("e", gate(Probe::Script { command: command() })),
            ],
        }],
    };
    let (plan, job, vm) = (PlanId(id(6)), JobId(id(9)), VmId(id(1)));
    let (name, output) = ("shop".to_owned(), "ran".to_owned());
    let kinds = [
        RunKind::Test { network: "lab".to_owned() },
        RunKind::Planned,
        RunKind::Unplanned,
        RunKind::CleanUp,
        RunKind::Commit,
        RunKind::Reverse,
    ];
    let mut commands = vec![
        C::Define { id: plan, name: name.clone(), definition: definition.clone() },
        C::Delete,
        C::Continue { step: 3, notes: "done".to_owned() },
        C::Retry { step: 3 },
        C::Cancel,
        C::ReportAction { job, step: 1, output: output.clone(), failure: None },
        C::ReportVm { job, step: 1, vm, failure: Some(failure()) },
    ];
    commands.extend(kinds.map(|kind| C::Start { job, kind }));
    let events = vec![
        E::Defined { id: plan, name, definition },
        E::Deleted,
        E::RunStarted { job, kind: RunKind::Planned },
        E::StepStarted { step: 2 },
        E::VmDone { step: 2, vm, failure: None },
        E::StepCompleted { step: 2, output: output.clone() },
        E::StepFailed { step: 2, output: output.clone(), failure: failure() },
        E::StepBlocked { step: 2, output, failure: failure() },
        E::StepContinued { step: 2, notes: "done".to_owned() },
        E::RunEnded { outcome: RunOutcome::Completed },
        E::RunEnded { outcome: RunOutcome::PartiallySucceeded },
        E::RunEnded { outcome: RunOutcome::Failed },
        E::RunEnded { outcome: RunOutcome::Cancelled },
    ];
    let entry = |command| Entry::Plan { command, events: vec![] };
    let told = Entry::Plan { command: C::Delete, events };
    let let_go =
        Entry::Plan { command: C::ReportLetGo { job, vm }, events: vec![E::VmLetGo { vm }] };
    commands.into_iter().map(entry).chain([told, let_go]).collect()
}

/// Runs of plans for which something was chosen.
fn run_entries() -> Vec<Entry> {
    use plan::{Command, Event, RunKind, RunOptions};
    let usual = RunOptions::default();
    let options = [
        (RunKind::Unplanned, RunOptions { point: PointChoice::LatestProcessed, ..usual.clone() }),
        (RunKind::Unplanned, RunOptions { synchronize: true, ..usual.clone() }),
        (
            RunKind::Test { network: "lab".to_owned() },
            RunOptions {
                point: PointChoice::LatestApplicationConsistent,
                lease_h: 2,
                ..usual.clone()
            },
        ),
        (RunKind::CleanUp, RunOptions { notes: "it sold".to_owned(), ..usual }),
    ];
    let entry = |(kind, options): (RunKind, RunOptions)| Entry::Plan {
        command: Command::StartWith { job: JobId(id(9)), kind, options: options.clone() },
        events: vec![Event::OptionsChosen { options }],
    };
    options.into_iter().map(entry).collect()
}

/// A plan that does something between shutting down and failing over, and a VM that waits there.
fn between_entries() -> Vec<Entry> {
    use plan::{Action, ActionKind, FailoverType as F};
    let action = |name: &str, only: &[F]| Action {
        name: name.to_owned(),
        kind: ActionKind::Manual { instructions: "look".to_owned() },
        only: only.iter().copied().collect(),
    };
    let (plan, name) = (PlanId(id(6)), "shop".to_owned());
    let definition = plan::Definition {
        before: vec![action("a", &[])],
        after_shutdown: vec![action("b", &[F::Planned])],
        after_failover: vec![action("c", &[F::Unplanned, F::Test])],
        groups: vec![plan::Group {
            before: vec![action("d", &[F::Test])],
            vms: vec![VmId(id(1))],
            after: vec![action("e", &[])],
        }],
    };
    let event =
        plan::Event::PlanDefined { id: plan, name: name.clone(), definition: definition.clone() };
    vec![
        Entry::Plan {
            command: plan::Command::DefinePlan { id: plan, name, definition },
            events: vec![event],
        },
        Entry::Vm { command: vm::Command::HoldFailover, events: vec![vm::Event::FailoverHeld] },
        Entry::Vm {
            command: vm::Command::ReleaseFailover,
            events: vec![vm::Event::FailoverReleased],
        },
        Entry::Vm {
            command: vm::Command::ReplaceFailover {
                job: JobId(id(9)),
                point: PointChoice::LatestProcessed,
                synchronize: true,
            },
            events: vec![],
        },
    ]
}

/// What describes the sites, and where replicas are placed.
fn site_entries() -> Vec<Entry> {
    use fabric::{Command as F, Event as E};
    let (fabric, vault, host) = (FabricId(id(7)), VaultId(id(5)), HostId(id(2)));
    let text = str::to_owned;
    let networks = vec![Network {
        name: text("web"),
        logical: Some(text("production")),
        isolated: true,
        subnets: vec![Subnet { name: text("front"), range: text("10.0.1.0/24") }],
    }];
    let sizes =
        vec![Size { name: text("small"), cores: 2, memory_mib: 4096, data_disks: 4, nics: 2 }];
    let tenant = Tenant { vm: VmId(id(1)), test: true };
    let addresses = vec![Address { network: text("dr-web"), address: text("10.0.1.20") }];
    let (network, to) = (text("web"), text("dr-web"));
    let (digest, name) = (text("c0ffee"), text("host-1"));
    let fabric_commands = vec![
        F::Create { id: fabric, name: text("primary"), side: vm::Side::Primary },
        F::Describe { networks: networks.clone(), sizes: sizes.clone() },
        F::MapNetwork { network: network.clone(), to: to.clone() },
        F::UnmapNetwork { network: network.clone() },
        F::Claim { tenant, addresses: addresses.clone() },
        F::Release { tenant },
        F::RegisterProvider { vault },
        F::ReportHeartbeat,
        F::ReportSilence { failure: failure() },
    ];
    let fabric_events = vec![
        E::Created { id: fabric, name: text("recovery"), side: vm::Side::Recovery },
        E::Described { networks, sizes },
        E::NetworkMapped { network: network.clone(), to },
        E::NetworkUnmapped { network },
        E::Claimed { tenant, addresses },
        E::Released { tenant },
        E::ProviderRegistered { vault },
        E::HeartbeatLost { because: failure() },
        E::HeartbeatRestored,
    ];
    let mut entries: Vec<_> = fabric_commands
        .into_iter()
        .map(|command| Entry::Fabric { command, events: vec![] })
        .collect();
    entries.push(Entry::Fabric { command: F::ReportHeartbeat, events: fabric_events });
    let components = [vault::Component::Host(host), vault::Component::Provider(fabric)];
    for by in components {
        entries.push(Entry::Vault {
            command: vault::Command::UseRegistrationKey {
                digest: digest.clone(),
                by,
                name: name.clone(),
            },
            events: vec![vault::Event::RegistrationKeyUsed {
                digest: digest.clone(),
                by,
                name: name.clone(),
            }],
        });
    }
    entries.extend([
        Entry::Vault {
            command: vault::Command::IssueRegistrationKey { digest: digest.clone() },
            events: vec![vault::Event::RegistrationKeyIssued { digest, expires: at(9) }],
        },
        Entry::Host {
            command: host::Command::RegisterAgent { vault },
            events: vec![host::Event::AgentRegistered { vault }],
        },
        Entry::Host {
            command: host::Command::JoinCluster { cluster: Some(text("blue")) },
            events: vec![host::Event::ClusterChanged { cluster: None }],
        },
    ]);
    let commands = [
        vm::Command::Describe { machine: machine() },
        vm::Command::Describe { machine: Machine::default() },
        vm::Command::Describe {
            machine: Machine {
                architecture: Architecture::X86,
                system: System::Other,
                ..Machine::default()
            },
        },
        vm::Command::ChangeTarget { target: target() },
        vm::Command::ReportMoved { host },
        vm::Command::ReportDone {
            job: JobId(id(9)),
            task: 0,
            outcome: Outcome::Placed { placement: placement() },
        },
    ];
    entries.extend(commands.map(|command| Vm::entry(command, vec![])));
    let events = vec![
        vm::Event::Described { machine: machine() },
        vm::Event::TargetChanged { target: target() },
        vm::Event::ReplicaPlaced { placement: placement() },
        vm::Event::TestPlaced { placement: placement() },
        vm::Event::Moved { host },
    ];
    entries.push(Vm::entry(vm::Command::PauseReplication, events));
    entries
}

fn machine() -> Machine {
    let formats = [
        DiskFormat::Raw,
        DiskFormat::Vhd,
        DiskFormat::Vhdx,
        DiskFormat::Qcow2,
        DiskFormat::PassThrough,
    ];
    let traits = formats.map(|format| DiskTraits {
        disk: DiskId(id(3)),
        role: if format == DiskFormat::Raw { DiskRole::Os } else { DiskRole::Data },
        format,
        dynamic: true,
        shared: false,
        fibre_channel: true,
        encrypted: false,
        sector_bytes: 4096,
    });
    Machine {
        generation: Generation::Two,
        architecture: Architecture::Arm64,
        system: System::Windows,
        cores: 300,
        memory_mib: 65_536,
        disks: traits.to_vec(),
        nics: vec![Nic {
            name: "eth0".to_owned(),
            network: Some("web".to_owned()),
            subnet: None,
            address: Some("10.0.1.20".to_owned()),
            fixed: true,
        }],
        features: [
            Feature::Ipv6,
            Feature::NicTeaming,
            Feature::AcceleratedNetworking,
            Feature::GuestSmb3,
            Feature::HotDisks,
            Feature::NanoServer,
            Feature::LvmOnOsDisk,
        ]
        .into(),
    }
}

fn target() -> Target {
    let roles = [NicRole::Automatic, NicRole::Primary, NicRole::Secondary, NicRole::LeftOut];
    let nic = |role| NicTarget {
        nic: "eth0".to_owned(),
        role,
        network: Some("dr-web".to_owned()),
        subnet: Some("front".to_owned()),
        address: None,
    };
    Target { size: Some("small".to_owned()), nics: roles.map(nic).to_vec() }
}

fn placement() -> Placement {
    let network = || "web".to_owned();
    let wanted = || "10.0.1.20".to_owned();
    let remarks = [
        None,
        Some(Remark::NotMapped { network: network() }),
        Some(Remark::NoSuchNetwork { network: network() }),
        Some(Remark::AddressTaken { wanted: wanted() }),
        Some(Remark::AddressOutside { wanted: wanted() }),
        Some(Remark::NoAddressFree),
    ];
    let nic = |remark| PlacedNic {
        nic: "eth0".to_owned(),
        network: Some(network()),
        subnet: None,
        address: Some(wanted()),
        primary: true,
        remark,
    };
    Placement { size: None, nics: remarks.map(nic).to_vec(), no_size_fits: true }
}

fn vm_events() -> Vec<vm::Event> {
    use vm::Event as E;
    let job = JobId(id(9));
    let mut events = vec![
        E::Discovered {
            id: VmId(id(1)),
            name: "web-1".to_owned(),
            host: HostId(id(2)),
            cloud: CloudId(id(4)),
            disks: vec![disk()],
        },
        E::TaskStarted { job, task: 2 },
        E::TaskProgressed { job, task: 2, done_bytes: 5, total_bytes: 6 },
        E::TaskCompleted { job, task: 2 },
        E::TaskFailed { job, task: 2, failure: failure() },
        E::ProtectionEnabled { vault: VaultId(id(5)), policy: policy() },
        E::TrackingStarted { first_cycle: 4 },
        E::DiskCopied { disk: DiskId(id(3)), bytes: 12 },
        E::PolicyChanged { policy: policy() },
        E::Protected,
        E::CycleStarted { cycle: 13 },
        E::SnapshotTaken { cycle: 13, at: at(14), log_bytes: 15 },
        E::LogShipped { point: point(13) },
        E::RecoveryPointsExpired { kept_from_cycle: 3 },
        E::MarkedForResync { reason: ResyncReason::PowerLoss },
        E::RetryScheduled {
            work: Work::Ship { cycle: 14, snapshot_at: at(15) },
            attempt: 3,
            due: at(16),
            because: failure(),
        },
        E::RetryStarted { attempt: 3, early: None },
        E::RetryStarted { attempt: 3, early: Some(RetryReason::CauseEnded(Cause::Itself)) },
        E::AdministratorNeeded { work: Work::Snapshot { cycle: 1 }, because: failure() },
        E::FailoverRequested { point: PointChoice::Latest },
        E::SourceShutDown,
        E::SourceFenced { epoch: 2 },
        E::FailedOver { kind: FailoverKind::Planned, point: point(20) },
        E::FailedOver { kind: FailoverKind::Unplanned, point: point(20) },
        E::ReplicaStarted,
        E::FailoverCommitted,
        E::ResyncWindowChanged { window: window() },
        E::ResyncWindowConfigured { window: window() },
        E::LogVolumeLow { because: failure() },
        E::LogVolumeFreed,
        E::ResyncScheduled { opening: Opening::At(at(21)) },
        E::ResyncScheduled { opening: Opening::ByHand },
        E::DiskCompared { disk: DiskId(id(3)), compared_bytes: 1 << 36, different_bytes: 1 << 20 },
        E::RecoveryPointsDropped {
            kept_from_cycle: 5,
            because: ResyncReason::ReplicaSuspect("hash".to_owned()),
        },
        E::RecoveryPointsThinned { cycles: vec![3, 4, 300] },
        E::ApplicationConsistencyRequested { cycle: 13 },
        E::ApplicationConsistent { cycle: 13 },
        E::ApplicationConsistencyMissed { cycle: 13, because: failure() },
        E::SpaceNotReclaimed { because: failure() },
        E::SpaceReclaimed,
    ];
    let kinds = [
        JobKind::EnableProtection,
        JobKind::InitialReplication,
        JobKind::FinalizeProtection,
        JobKind::Resynchronize,
        JobKind::PlannedFailover,
        JobKind::UnplannedFailover,
        JobKind::CommitFailover,
        JobKind::ResynchronizeDifferences,
        JobKind::TestFailover,
        JobKind::TestFailoverCleanup,
        JobKind::ChangeRecoveryPoint,
        JobKind::CancelFailover,
        JobKind::Failback,
        JobKind::CompleteFailback,
        JobKind::CommitFailback,
        JobKind::ReverseReplicate,
        JobKind::ResumeReplication,
        JobKind::DisableProtection,
        JobKind::RemoveProtection,
        JobKind::ResizeDisk,
        JobKind::AddDisk,
        JobKind::DisableAtRecovery,
    ];
    events.extend(kinds.map(|kind| E::JobStarted { job, kind }));
    let outcomes = [JobOutcome::Completed, JobOutcome::Failed, JobOutcome::Cancelled];
    events.extend(outcomes.map(|outcome| E::JobEnded { job, outcome }));
    events.extend(steps().into_iter().map(|step| {
        let work = Work::Task { job, task: 6, step };
        E::AdministratorNeeded { work, because: failure() }
    }));
    events.extend(life_events());
    events.extend(ENTRIES.iter().map(|entry| E::TaskFailed {
        job,
        task: 7,
        failure: Failure::new(entry.code, Cause::Host(HostId(id(2))), ""),
    }));
    events
}

/// One sample of everything that a commit can hold.
fn samples() -> Vec<Entry> {
    use vm::Command::CommitFailover;
    let job = JobId(id(9));
    let mut samples: Vec<Entry> =
        vm_commands().into_iter().map(|command| Vm::entry(command, vec![])).collect();
    samples.extend(
        vm_events().into_iter().map(|event| Vm::entry(CommitFailover { job }, vec![event])),
    );
    let (host_id, cloud_id, vault_id) = (HostId(id(2)), CloudId(id(4)), VaultId(id(5)));
    let name = || "name".to_owned();
    samples.extend([
        Entry::Host {
            command: host::Command::Register { id: host_id, name: name(), cloud: cloud_id },
            events: vec![
                host::Event::Registered { id: host_id, name: name(), cloud: cloud_id },
                host::Event::HeartbeatLost { because: failure() },
                host::Event::HeartbeatRestored,
            ],
        },
        Entry::Host { command: host::Command::ReportHeartbeat, events: vec![] },
        Entry::Host {
            command: host::Command::ReportSilence { failure: failure() },
            events: vec![],
        },
        Entry::Cloud {
            command: cloud::Command::Create { id: cloud_id, name: name() },
            events: vec![
                cloud::Event::Created { id: cloud_id, name: name() },
                cloud::Event::HostAdded { host: host_id },
                cloud::Event::VmAdded { vm: VmId(id(1)) },
                cloud::Event::PolicyAssociated { policy: policy() },
                cloud::Event::PolicyTaken { vm: VmId(id(1)), revision: 300 },
            ],
        },
        Entry::Cloud { command: cloud::Command::AddHost { host: host_id }, events: vec![] },
        Entry::Cloud { command: cloud::Command::AddVm { vm: VmId(id(1)) }, events: vec![] },
        Entry::Cloud {
            command: cloud::Command::AssociatePolicy { policy: policy() },
            events: vec![],
        },
        Entry::Cloud {
            command: cloud::Command::ConfigurePolicy { policy: policy() },
            events: vec![cloud::Event::PolicyConfigured { policy: policy() }],
        },
        Entry::Cloud {
            command: cloud::Command::ReportPolicyTaken { vm: VmId(id(1)), revision: 2 },
            events: vec![],
        },
        Entry::Vault {
            command: vault::Command::Create { id: vault_id, name: name() },
            events: vec![
                vault::Event::Created { id: vault_id, name: name() },
                vault::Event::VaultUnreachable { because: failure() },
                vault::Event::VaultReachable,
            ],
        },
        Entry::Vault { command: vault::Command::ReportReachable, events: vec![] },
        Entry::Vault {
            command: vault::Command::ReportUnreachable { failure: failure() },
            events: vec![],
        },
    ]);
    samples.extend(plan_entries());
    samples.extend(site_entries());
    samples.extend(run_entries());
    samples.extend(between_entries());
    samples
}

fn fixture(version: u16) -> PathBuf {
    let name = format!("tests/fixtures/events/v{version}.jsonl");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn frozen(version: u16) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(version)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Adds payloads to a fixture, if that is asked for.
fn freeze(version: u16, frozen: &[Value], payloads: &[(Vec<u8>, Value)]) {
    if std::env::var_os("LIFEBOAT_FREEZE").is_none() || payloads.len() <= frozen.len() {
        return;
    }
    let known: Vec<&Value> = frozen.iter().map(|line| &line["bytes"]).collect();
    let mut text = std::fs::read_to_string(fixture(version)).unwrap_or_default();
    for (bytes, means) in payloads {
        if !known.contains(&&Value::from(hex(bytes))) {
            writeln!(text, "{}", json!({ "bytes": hex(bytes), "means": means })).unwrap();
        }
    }
    std::fs::write(fixture(version), text).unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn decode(version: u16, kind: Kind, payload: &[u8]) -> Result<Value, StoreError> {
    let stream = StreamKey { kind: kind as u8, id: id(1) };
    let record = Record { global: 7, stream, seq: 3, at_ms: 0, version, payload, crc: 0 };
    let commit = payload::decode(&record)?;
    Ok(json!({
        "actor": commit.actor, "correlation": commit.correlation, "causation": commit.causation,
        "entry": commit.entry,
    }))
}

fn kind_of(means: &Value) -> Kind {
    let names = means["entry"].as_object().unwrap();
    let name = names.keys().next().unwrap().to_lowercase();
    Kind::ALL.into_iter().find(|kind| kind.name() == name).unwrap()
}

#[test]
fn everything_is_written_as_it_always_was() {
    let (actor, correlation, causation) = ("operator anna", Some(JobId(id(8))), Some(70_000));
    let payloads: Vec<_> = samples()
        .iter()
        .map(|entry| {
            let means = json!({
                "actor": actor, "correlation": correlation, "causation": causation, "entry": entry,
            });
            (payload::encode(actor, correlation, causation, entry), means)
        })
        .collect();
    freeze(VERSION, &frozen(VERSION), &payloads);
    let frozen = frozen(VERSION);
    for (bytes, means) in &payloads {
        let line = frozen.iter().find(|line| line["means"] == *means);
        let line = line.unwrap_or_else(|| panic!("not frozen: {means}"));
        assert_eq!(line["bytes"], hex(bytes), "the stored shape changed: {means}");
    }
    assert_eq!(frozen.len(), payloads.len(), "a frozen payload has no sample any more");
}

#[test]
fn every_version_that_was_ever_written_is_read() {
    for version in 1..=VERSION {
        let frozen = frozen(version);
        assert!(!frozen.is_empty(), "nothing is frozen of version {version}");
        for line in frozen {
            let kind = kind_of(&line["means"]);
            let read = decode(version, kind, &unhex(&line["bytes"])).unwrap();
            assert_eq!(read, line["means"]);
        }
    }
}

/// Version 1 is written by nobody; its bytes were made once by the type that still reads them.
#[test]
fn version_one_is_what_its_frozen_type_writes() {
    let commands = vm_commands().into_iter().take(20).step_by(3);
    let reachable = vault::Command::ReportReachable;
    let entries = commands
        .map(|command| Vm::entry(command, vec![vm::Event::Protected]))
        .chain([Entry::Vault { command: reachable, events: vec![vault::Event::VaultReachable] }]);
    let entries = entries.map(|entry| v1::Payload {
        actor: "supervisor".to_owned(),
        correlation: Some(JobId(id(8))),
        entry,
    });
    let payloads: Vec<_> = entries
        .map(|payload| {
            let bytes = bincode::serde::encode_to_vec(&payload, bincode::config::standard());
            let means = json!({
                "actor": payload.actor, "correlation": payload.correlation, "causation": null,
                "entry": payload.entry,
            });
            (bytes.unwrap(), means)
        })
        .collect();
    freeze(1, &frozen(1), &payloads);
    let frozen = frozen(1);
    for (bytes, means) in payloads {
        assert!(frozen.contains(&json!({ "bytes": hex(&bytes), "means": means })), "{means}");
    }
}

#[test]
fn bytes_that_are_no_payload_are_an_error() {
    let payload = payload::encode("anna", None, None, &samples()[0]);
    assert!(decode(VERSION, Kind::Vm, &payload).is_ok());
    for cut in 0..payload.len() {
        assert!(decode(VERSION, Kind::Vm, &payload[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [&payload[..], &[0]].concat();
    assert!(matches!(decode(VERSION, Kind::Vm, &longer), Err(StoreError::Damaged { .. })));
    assert!(matches!(decode(VERSION, Kind::Host, &payload), Err(StoreError::Damaged { .. })));
    assert!(matches!(decode(0, Kind::Vm, &payload), Err(StoreError::Unsupported { .. })));
    let later = decode(VERSION + 1, Kind::Vm, &payload).unwrap_err();
    assert!(matches!(later, StoreError::Unsupported { global: 7, version: 3, supported: 2 }));
    for byte in 0..payload.len() {
        for value in [0, 251, 252, 253, 255] {
            let mut changed = payload.clone();
            changed[byte] = value;
            let _ = decode(VERSION, Kind::Vm, &changed);
        }
    }
}
