//! Random scenarios: a site, and faults whose classes are on or off by the seed.
//!
//! Leaving classes out finds more than having all of them everywhere: a long outage hides what a short
//! one would show. Source: Groce, Zhang, Eide, Chen, Regehr, "Swarm testing" (2012).

use super::dice::Dice;
use super::quantity::{Size, Span, Window};
use super::scenario::{
    ActionWord, DecisionWord, Deed, Fidelity, GroupSpec, PlanSpec, PointWord, RunWord, Scenario,
    Schedule, SiteSpec, Step, VmSpec,
};
use super::topology::{BandwidthSpec, ClusterSpec, NetworkSpec, NicSpec};
use crate::domain::fabric::Subnet;
use crate::domain::plan::FailoverType;
use crate::domain::vm::ResyncWindow;
use toml::Spanned;

const MINUTE: u64 = 60_000;

/// Percent of all seeds in which a class of faults happens at all.
const CLASS_ON: u32 = 35;

/// Classes of what can happen in a swarm.
const CLASSES: &[Deed] = &[
    Deed::CutLink,
    Deed::FlapLink,
    Deed::LossyLink,
    Deed::SlowLink,
    Deed::IsolateHost,
    Deed::KillHost,
    Deed::PowerLoss,
    Deed::JumpClock,
    Deed::KillService,
    Deed::VaultUnreachable,
    Deed::ThrottleVault,
    Deed::FailVault,
    Deed::FillVault,
    Deed::LoseAnswers,
    Deed::ExpireCredentials,
    Deed::RotVault,
    Deed::FillDisk,
    Deed::CrowdDisk,
    Deed::FailDisk,
    Deed::PlannedFailover,
    Deed::UnplannedFailover,
    Deed::Commit,
    Deed::Retry,
    Deed::ShutGates,
    Deed::FailScripts,
    Deed::TestFailover,
    Deed::CleanUpTest,
    Deed::ChangePoint,
    Deed::CancelFailover,
    Deed::Failback,
    Deed::Failback,
    Deed::CompleteFailback,
    Deed::CancelFailback,
    Deed::ReverseReplicate,
    Deed::DisableProtection,
    Deed::Pause,
    Deed::Resume,
    Deed::TakePoint,
    Deed::CancelJob,
    Deed::RunPlan,
    Deed::ContinuePlan,
    Deed::StopService,
    Deed::EditDisk,
    Deed::SecondService,
    Deed::MoveVm,
    Deed::ResizeDisk,
    Deed::FailbackToHost,
    Deed::FailbackToHost,
    Deed::AddDisk,
    Deed::SynchronizedFailover,
    Deed::ChangePolicy,
    Deed::Resync,
    Deed::DecideFailover,
    Deed::Protect,
    Deed::ReleaseStart,
    Deed::EndPlan,
    Deed::MapNetwork,
    Deed::SilenceProvider,
];

/// How plans are run.
const RUNS: [RunWord; 6] = [
    RunWord::Test,
    RunWord::Planned,
    RunWord::Unplanned,
    RunWord::CleanUp,
    RunWord::Commit,
    RunWord::Reverse,
];

/// The recovery plan of every site.
const PLAN: &str = "plan";

impl Scenario {
    /// The random scenario of a seed.
    pub fn random(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let minutes = dice.between("duration", 20, 60);
        let hosts: Vec<String> =
            (1..=dice.between("hosts", 1, 2)).map(|nth| format!("host-{nth}")).collect();
        let mut vms: Vec<VmSpec> =
            (1..=dice.between("vms", 1, 3)).map(|nth| random_vm(&dice, nth, &hosts)).collect();
        let mut at = Vec::new();
        let cluster = random_cluster(&dice, &hosts);
        let networks = random_networks(&dice);
        for class in CLASSES {
            let is_possible = match class {
                Deed::MoveVm => !cluster.is_empty(),
                Deed::MapNetwork => !networks.network.is_empty(),
                _ => true,
            };
            if is_possible && dice.happens(&format!("{} happens", class.word()), CLASS_ON) {
                for _ in 0..dice.between("how often", 1, 3) {
                    at.push(random_step(&dice, *class, &hosts, &vms, minutes));
                }
            }
        }
        let registration_keys = dice.happens("registration keys", KEYS_ON);
        if registration_keys {
            for host in &hosts {
                let host = Some(spanned(host.clone()));
                let t = Span(dice.between("registered", 0, minutes * MINUTE / 2));
                let after = Some(Span(dice.between("registered after", 0, 5 * MINUTE)));
                at.push(Step { host, after, ..Step::of(t, Deed::RegisterHost) });
            }
        }
        edit_while_down(&dice, &mut at);
        keep_second_services_apart(&mut at);
        let group = |vm: &VmSpec| GroupSpec {
            vms: vec![vm.name.clone()],
            script: dice.happens("script", 30),
            manual: dice.happens("manual", 20),
            gate: dice.happens("gate", 40),
            only: [FailoverType::Test, FailoverType::Planned, FailoverType::Unplanned]
                .into_iter()
                .filter(|_| dice.happens("only for some runs", 20))
                .collect(),
        };
        let between = [(ActionWord::Script, 20), (ActionWord::Manual, 15)].into_iter();
        let between = between.filter(|(_, percent)| dice.happens("after shutdown", *percent));
        let retention_h = dice.between("retention", 0, 2);
        if !networks.network.is_empty() {
            for vm in &mut vms {
                vm.nic = vec![random_nic(&dice)];
            }
        }
        let plan = PlanSpec {
            name: PLAN.to_owned(),
            after_shutdown: between.map(|(word, _)| word).collect(),
            group: vms.iter().map(group).collect(),
        };
        Self {
            title: format!("swarm {seed}"),
            why: "What random faults do to a random site.".to_owned(),
            duration: Span(minutes * MINUTE),
            settle: Span(45 * MINUTE),
            schedule: if dice.happens("shuffle", 50) { Schedule::Shuffle } else { Schedule::Fifo },
            fidelity: Fidelity::Blocks,
            topology: None,
            site: SiteSpec {
                hosts: hosts.into_iter().map(spanned).collect(),
                copy_frequency: Span(dice.between("copy frequency", 1, 4) * 30_000),
                retention: Span::hours(retention_h),
                app_consistent: random_rest(&dice, retention_h),
                resync_window: random_window(&dice),
                rtt: Span(dice.between("rtt", 1, 60)),
                mbit_per_s: dice.between("bandwidth", 2, 1_000),
                bandwidth: dice.happens("limits", SITE_ON).then(|| BandwidthSpec {
                    work_hours: Window(ResyncWindow::Daily {
                        from_minute: 8 * 60,
                        to_minute: (8 * 60 + dice.between("work", 5, 60)) as u16,
                        utc_offset_minutes: 0,
                    }),
                    work_kbps: dice.between("limit", 4_000, 40_000),
                    other_kbps: 0,
                }),
                registration_keys,
                cluster,
                ..networks
            },
            vm: vms,
            plan: vec![plan],
            at,
            expect: vec![],
        }
    }
}

/// VMs, hosts and hours of a random fleet.
const FLEET: (usize, usize, u64) = (40, 4, 4);

impl Scenario {
    /// The random fleet of a seed: 40 VMs for 4 hours, of sizes and rates.
    pub fn random_fleet(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let (count, hosts, hours) = FLEET;
        let hosts: Vec<String> = (1..=hosts).map(|nth| format!("host-{nth}")).collect();
        let vms: Vec<VmSpec> = (1..=count as u64)
            .map(|nth| VmSpec {
                disks: spanned(vec![Size(dice.between("disk size", 1, 64) << 30)]),
                write_size: Some(spanned(Size(dice.between("write size", 4, 64) << 10))),
                ..random_vm(&dice, nth, &hosts)
            })
            .collect();
        let mut at = Vec::new();
        for class in CLASSES.iter().filter(|class| class.has_sizes()) {
            if dice.happens(&format!("{} happens", class.word()), CLASS_ON) {
                for _ in 0..dice.between("how often", 1, 6) {
                    at.push(random_step(&dice, *class, &hosts, &vms, hours * 60));
                }
            }
        }
        Self {
            title: format!("fleet {seed}"),
            why: "What random faults do to a random fleet.".to_owned(),
            duration: Span::hours(hours),
            settle: Span::hours(2),
            fidelity: Fidelity::Sizes,
            topology: None,
            site: SiteSpec {
                mbit_per_s: dice.between("bandwidth", 2_000, 20_000),
                retention: Span::hours(dice.between("retention", 1, 24)),
                app_consistent: Span(0),
                bandwidth: None,
                registration_keys: false,
                cluster: vec![],
                ..Self::random(seed).site
            },
            schedule: if dice.happens("shuffle", 50) { Schedule::Shuffle } else { Schedule::Fifo },
            vm: vms,
            plan: vec![],
            at,
            expect: vec![],
        }
        .on(hosts)
    }

    fn on(mut self, hosts: Vec<String>) -> Self {
        self.site.hosts = hosts.into_iter().map(spanned).collect();
        self
    }
}

fn random_vm(dice: &Dice, nth: u64, hosts: &[String]) -> VmSpec {
    let disks = (0..dice.between("disks", 1, 2))
        .map(|_| Size(dice.between("disk size", 64, 256) * 4096))
        .collect();
    let host = spanned(chosen(dice, "host of a VM", hosts));
    VmSpec {
        writes_per_minute: dice.between("writes", 1, 60) as u32,
        ..VmSpec::named(spanned(format!("vm-{nth}")), host, spanned(disks))
    }
}

fn random_step(dice: &Dice, deed: Deed, hosts: &[String], vms: &[VmSpec], minutes: u64) -> Step {
    let key = deed.word();
    let names: Vec<String> = vms.iter().map(|vm| vm.name.get_ref().clone()).collect();
    let takes = |what: &str| deed.knows(what);
    let some_host = takes("host").then(|| spanned(chosen(dice, key, hosts)));
    let some_vm = takes("vm").then(|| spanned(chosen(dice, key, &names)));
    // Short ones and long ones, to the millisecond: what happens meets what is under way.
    let longest = if dice.happens(key, 50) { 90_000 } else { 15 * MINUTE };
    let percent = takes("percent").then(|| dice.between(key, 5, 60) as u32);
    let jump = Span(dice.between(key, 1, 120) * MINUTE);
    let forward = deed == Deed::JumpClock && dice.happens(key, 50);
    let back = takes("back") && !forward;
    let t = Span(dice.between(key, 0, minutes * MINUTE - 1));
    let later = dice.happens("commit later", 50);
    let kind = takes("kind").then(|| RUNS[(dice.next(key) % RUNS.len() as u64) as usize]);
    let (is_test, is_unplanned) = (kind == Some(RunWord::Test), kind == Some(RunWord::Unplanned));
    let point = (is_test || is_unplanned) && dice.happens("point of a run", 30);
    let synchronize = is_unplanned && !point && dice.happens("run that synchronizes", 50);
    let retention_h = takes("retention").then(|| dice.between(key, 0, 4));
    let lease = is_test && dice.happens("lease of a run", 50);
    Step {
        host: some_host,
        vm: some_vm,
        r#for: takes("for").then(|| Span(dice.between(key, 100, longest))),
        percent,
        rtt: takes("rtt").then(|| Span(dice.between(key, 100, 5_000))),
        every: takes("every").then(|| Span(dice.between(key, 2_000, 120_000))),
        forward: forward.then_some(jump),
        back: back.then_some(jump),
        network: takes("network").then(|| spanned("web".to_owned())),
        to: (takes("to") && dice.happens("mapped", 70)).then(|| spanned("dr".to_owned())),
        plan: takes("plan").then(|| spanned(PLAN.to_owned())),
        kind,
        point: point.then_some(PointWord::LatestProcessed),
        synchronize: synchronize.then_some(true),
        lease: lease.then(|| Span::hours(1)),
        copy_frequency: takes("copy_frequency").then(|| Span(dice.between(key, 1, 10) * 30_000)),
        retention: retention_h.map(Span::hours),
        app_consistent: retention_h.map(|hours| random_rest(dice, hours)),
        after: takes("after").then(|| Span(dice.between(key, 100, longest))),
        then: takes("then").then_some(if later {
            DecisionWord::Commit
        } else {
            DecisionWord::Cancel
        }),
        source_gone: (takes("source_gone") && dice.happens("source gone", 50)).then_some(true),
        full: (takes("full") && dice.happens("in full", 30)).then_some(true),
        ..Step::of(t, deed)
    }
}

/// Time between two application-consistent points, which has to be less than they are kept.
fn random_rest(dice: &Dice, retention_h: u64) -> Span {
    Span::hours(u64::from(1 < retention_h && dice.happens("rest", 50)))
}

/// Percent of all seeds in which the vault admits hosts with a key.
const KEYS_ON: u32 = 15;

/// Percent of all seeds in which hosts are a cluster, and in which networks are told.
const SITE_ON: u32 = 40;

/// Percent of all seeds in which resynchronizations begin by hand only.
const BY_HAND: u32 = 15;

fn random_window(dice: &Dice) -> Window {
    let by_hand = dice.happens("by hand", BY_HAND);
    Window(if by_hand { ResyncWindow::Manual } else { ResyncWindow::Always })
}

fn random_cluster(dice: &Dice, hosts: &[String]) -> Vec<ClusterSpec> {
    if hosts.len() < 2 || !dice.happens("cluster", SITE_ON) {
        return vec![];
    }
    let hosts = hosts.iter().cloned().map(spanned).collect();
    vec![ClusterSpec { name: "cluster".to_owned(), hosts }]
}

/// A site with a network that is mapped, sometimes, to a small one.
fn random_networks(dice: &Dice) -> SiteSpec {
    if !dice.happens("networks", SITE_ON) {
        return SiteSpec::default();
    }
    let network = |name: &str, range: &str, isolated, to: Option<&str>| NetworkSpec {
        name: spanned(name.to_owned()),
        isolated,
        subnet: vec![Subnet { name: "front".to_owned(), range: range.to_owned() }],
        to: to.map(|to| spanned(to.to_owned())),
    };
    let to = dice.happens("mapped", 70).then_some("dr");
    // Two addresses, for up to three VMs.
    let range = if dice.happens("small network", 50) { "10.0.1.0/30" } else { "10.0.1.0/24" };
    SiteSpec {
        network: vec![network("web", "10.0.1.0/24", false, to)],
        recovery_network: vec![
            network("dr", range, false, None),
            network("lab", "10.0.1.0/24", true, None),
        ],
        ..SiteSpec::default()
    }
}

fn random_nic(dice: &Dice) -> NicSpec {
    NicSpec {
        name: "eth0".to_owned(),
        network: Some(spanned("web".to_owned())),
        subnet: Some("front".to_owned()),
        address: Some(format!("10.0.1.{}", dice.between("address", 1, 3))),
    }
}

/// Puts the changes of disks to where agents are down: elsewhere nobody can change one.
fn edit_while_down(dice: &Dice, at: &mut [Step]) {
    let is = |step: &Step, deeds: &[Deed]| deeds.contains(step.r#do.get_ref());
    let downs = [Deed::KillService, Deed::StopService, Deed::KillHost, Deed::PowerLoss];
    let times: Vec<(u64, u64)> = at
        .iter()
        .filter(|step| is(step, &downs))
        .map(|step| (step.t.get_ref().0, step.r#for.map_or(0, |span| span.0)))
        .collect();
    for step in at.iter_mut().filter(|step| is(step, &[Deed::EditDisk]) && !times.is_empty()) {
        let (from, lasts) = times[(dice.next("edited when") % times.len() as u64) as usize];
        step.t = spanned(Span(from + dice.next("edited when") % lasts.max(1)));
    }
}

/// A failover takes over what it finds in the vault; what a second service of the same epoch put there while the
/// first one could not send cannot be told from what that one sent. Nor is tracking that one of them starts anew
/// noticed by the other one. So there is none where there are failovers, or where tracking is lost.
fn keep_second_services_apart(at: &mut Vec<Step>) {
    let forbids = |step: &Step| {
        let deed = *step.r#do.get_ref();
        matches!(
            deed,
            Deed::PlannedFailover
                | Deed::UnplannedFailover
                | Deed::SynchronizedFailover
                | Deed::RunPlan
                | Deed::PowerLoss
                | Deed::EditDisk
                | Deed::FillDisk
                | Deed::FailDisk
        )
    };
    if at.iter().any(forbids) {
        at.retain(|step| *step.r#do.get_ref() != Deed::SecondService);
    }
}

fn chosen(dice: &Dice, what: &str, names: &[String]) -> String {
    names[(dice.next(what) % names.len() as u64) as usize].clone()
}

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
