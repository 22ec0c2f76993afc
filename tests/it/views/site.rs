//! A whole site: health, readiness, issues with their roots.

use super::{json, log_of, site_of};
use crate::domain::story::{
    BEGINNING, Story, credentials_refused, host, job_id, link_down, planned, test_failover,
    unplanned, vault,
};
use lifeboat::domain::entity::{Commit, Entity, Kind, NewCommit, StreamId};
use lifeboat::domain::fabric::{Address, Fabric, Lease, Network, Size, Subnet, Tenant};
use lifeboat::domain::host::Host;
use lifeboat::domain::id::{FabricId, PlanId, VmId};
use lifeboat::domain::machine::{Machine, Nic};
use lifeboat::domain::placement::NicTarget;
use lifeboat::domain::plan::{self, Plan};
use lifeboat::domain::vault::{self, Vault};
use lifeboat::domain::vm::{self, Health, PointChoice, Side, TestStatus, Vm};
use lifeboat::views::{PointView, Site, StatusView};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

fn unreachable_vault() -> Vault {
    Vault {
        id: vault(),
        name: "vault-1".to_owned(),
        unreachable: Some((BEGINNING, link_down())),
        ..Vault::default()
    }
}

fn silent_host() -> Host {
    let silent = Some((BEGINNING, link_down()));
    Host { id: host(), name: "host-1".to_owned(), silent, ..Host::default() }
}

/// A site with copies of a VM under other names.
fn copies(vm: &Vm, count: u128) -> Site {
    let mut site = Site::default();
    for nth in 1..=count {
        let id = VmId(Uuid::from_u128(nth));
        let mut vm = vm.clone();
        vm.id = id;
        vm.name = format!("vm-{nth}");
        site.vms.insert(id, vm);
    }
    site
}

#[test]
fn folding_the_log_gives_the_states_that_lived_it() {
    let mut story = Story::protected_with_points(3);
    story.tell(planned());
    story.fail(link_down());
    let mut site = Site::default();
    for commit in log_of(&story, "operator") {
        site.apply(&commit);
    }
    let create = vault::Command::Create { id: vault(), name: "vault-1".to_owned() };
    let events = Vault::default().decide(&create, BEGINNING).unwrap();
    let NewCommit { stream, at, actor, correlation, causation, entry, .. } = NewCommit {
        stream: StreamId { kind: Kind::Vault, id: vault().0 },
        expected_seq: 0,
        at: BEGINNING,
        actor: String::new(),
        correlation: None,
        causation: None,
        entry: Vault::entry(create, events),
    };
    site.apply(&Commit { stream, seq: 1, global: 99, at, actor, correlation, causation, entry });
    let mut lived = site_of(&story);
    let name = "vault-1".to_owned();
    lived.vaults.insert(vault(), Vault { id: vault(), name, ..Vault::default() });
    assert_eq!(site, lived);
}

#[test]
fn forty_vms_behind_a_vault_that_is_away_are_one_issue() {
    let mut story = Story::shipping();
    story.fail(link_down());
    let mut site = copies(&story.vm, 40);
    site.vaults.insert(vault(), unreachable_vault());
    let issues = site.status(story.now).issues;
    assert_eq!(issues.len(), 1, "{issues:#?}");
    assert_eq!((issues[0].subject.as_str(), issues[0].affects.len()), ("vault vault-1", 40));
    assert_eq!(issues[0].cause.code, "SR-2101");

    // What is wrong with one VM alone stays its own, and the worst comes first.
    let mut refused = Story::shipping();
    refused.fail(credentials_refused());
    let late = refused.now.after(Duration::from_hours(1));
    let issues = copies(&refused.vm, 2).status(late).issues;
    assert_eq!(issues.len(), 2, "the refusal of each, which is why they are late: {issues:#?}");
    assert!(issues.iter().all(|issue| issue.cause.level == Health::Critical));
}

#[test]
fn what_comes_of_a_vault_or_host_that_is_lost_is_told_with_it_from_the_first_moment() {
    let story = Story::protected();
    let mut site = copies(&story.vm, 3);
    site.vaults.insert(vault(), unreachable_vault());
    // Nobody has noticed yet; then all are late, with and without an attempt that failed.
    let late = story.now.after(Duration::from_hours(1));
    for now in [story.now, late] {
        let issues = site.status(now).issues;
        assert_eq!(issues.len(), 1, "{issues:#?}");
        assert_eq!(issues[0].subject, "vault vault-1");
        assert_eq!(issues[0].affects, ["vm-1", "vm-2", "vm-3"]);
    }
    let mut failed = Story::shipping();
    failed.fail(link_down());
    let mut site = copies(&failed.vm, 3);
    // It answers again, and the VMs are still at their next attempts: the same issue, not three.
    let name = "vault-1".to_owned();
    site.vaults.insert(vault(), Vault { id: vault(), name, ..Vault::default() });
    let issues = site.status(late).issues;
    assert_eq!((issues.len(), issues[0].subject.as_str()), (1, "vault vault-1"), "{issues:#?}");
    assert_eq!((issues[0].cause.code.as_str(), issues[0].affects.len()), ("SR-2101", 3));

    let mut site = copies(&story.vm, 2);
    site.hosts.insert(host(), silent_host());
    let issues = site.status(story.now).issues;
    assert_eq!(issues.len(), 1, "{issues:#?}");
    assert_eq!((issues[0].subject.as_str(), issues[0].affects.len()), ("host host-1", 2));
}

#[test]
fn a_host_of_which_all_vms_are_critical_is_in_warning() {
    let mut refused = Story::shipping();
    refused.fail(credentials_refused());
    let mut site = copies(&refused.vm, 3);
    site.hosts.insert(host(), Host { silent: None, ..silent_host() });
    let seen = &site.hosts(refused.now)[0];
    assert_eq!(seen.health, Health::Warning);
    assert_eq!(seen.causes[0].because, "all 3 of its VMs are Critical: vm-1, vm-2, vm-3");
    assert_eq!(seen.causes[0].code, "SR-2012");
    let well = VmId(Uuid::from_u128(3));
    site.vms.insert(well, Story::protected().vm);
    assert_eq!(site.hosts(refused.now)[0].health, Health::Normal, "one of them does well");
}

#[test]
fn vms_that_a_plan_has_left_off_are_critical_and_one_issue_of_the_plan() {
    let mut story = Story::protected();
    let plan_id = PlanId(Uuid::from_u128(7));
    story.tell(vm::Command::HoldStart { plan: plan_id });
    story.tell(planned());
    story.work_off();
    let mut site = copies(&story.vm, 2);
    let vms = site.vms.keys().copied().collect();
    let groups = vec![plan::Group { vms, ..plan::Group::default() }];
    let definition = plan::Definition { groups, ..plan::Definition::default() };
    let mut shop = Plan::default();
    let mut tell = |site: &mut Site, command: plan::Command| {
        for event in shop.decide(&command, story.now).unwrap() {
            shop.apply(&event, story.now);
        }
        site.plans.insert(plan_id, shop.clone());
    };
    tell(&mut site, plan::Command::DefinePlan { id: plan_id, name: "shop".to_owned(), definition });
    let kind = plan::RunKind::Planned;
    tell(&mut site, plan::Command::Start { job: job_id(1), kind });
    assert_eq!(site.vms(story.now)[0].health, Health::Warning, "the run starts it");
    assert_eq!(site.plans(story.now)[0].left_off, [""; 0]);

    tell(&mut site, plan::Command::Cancel);
    let status = site.status(story.now);
    assert_eq!(status.vms[0].health, Health::Critical);
    assert_eq!(status.vms[0].causes[0].code, "SR-3033");
    assert_eq!(status.plans[0].left_off, ["vm-1", "vm-2"]);
    let issue = &status.issues[0];
    assert_eq!((issue.subject.as_str(), &issue.affects), ("plan shop", &status.plans[0].left_off));
    assert!(issue.cause.because.contains("was cancelled"), "{issue:#?}");
    assert!(issue.cause.action.contains("lifeboat plan run shop"), "{issue:#?}");
    assert_eq!(status.issues.len(), 1, "{:#?}", status.issues);
}

#[test]
fn health_counts_vms_hosts_and_vaults_and_names_the_worst() {
    let story = Story::protected();
    let mut site = copies(&story.vm, 3);
    assert_eq!(site.status(story.now).health.worst, Some(Health::Normal));
    site.vaults.insert(vault(), unreachable_vault());
    let status = site.status(story.now);
    assert_eq!((status.health.normal, status.health.critical), (3, 1));
    assert_eq!(status.health.worst, Some(Health::Critical));
    assert!(!status.vaults[0].reachable && status.vaults[0].health == Health::Critical);
}

/// The same site with a network for replicas, one size of two cores, and VMs in it that have no address there.
fn described(mut site: Site) -> Site {
    let network = |name: &str| Network {
        name: name.to_owned(),
        logical: None,
        isolated: false,
        subnets: vec![Subnet { name: "front".to_owned(), range: "10.0.1.0/24".to_owned() }],
    };
    let size =
        Size { name: "small".to_owned(), cores: 2, memory_mib: 4096, data_disks: 4, nics: 2 };
    let fabrics = [
        (1, Side::Primary, network("web"), vec![], [("web".to_owned(), "dr".to_owned())].into()),
        (2, Side::Recovery, network("dr"), vec![size], BTreeMap::new()),
    ];
    for (id, side, network, sizes, mapping) in fabrics {
        let (id, networks) = (FabricId(Uuid::from_u128(id)), vec![network]);
        let name = format!("{side:?}");
        let fabric = Fabric { id, name, side, networks, sizes, mapping, ..Fabric::default() };
        site.fabrics.insert(id, fabric);
    }
    for vm in site.vms.values_mut() {
        let nic = Nic {
            name: "eth0".to_owned(),
            network: Some("web".to_owned()),
            subnet: None,
            address: Some("10.9.9.9".to_owned()),
            fixed: false,
        };
        let nics = vec![nic];
        vm.machine = Some(Machine { cores: 2, memory_mib: 1024, nics, ..Machine::default() });
    }
    site
}

fn fabric(site: &mut Site, side: Side) -> &mut Fabric {
    site.fabrics.values_mut().find(|fabric| fabric.side == side).unwrap()
}

fn choose_address(site: &mut Site, vm: VmId, address: &str) {
    let address = Some(address.to_owned());
    let nic = NicTarget { nic: "eth0".to_owned(), address, ..NicTarget::default() };
    site.vms.get_mut(&vm).unwrap().target.nics = vec![nic];
}

#[test]
fn only_an_address_of_ones_own_or_a_chosen_one_is_wanted_by_two() {
    let story = Story::protected();
    let mut site = described(copies(&story.vm, 3));
    let first = site.vms(story.now).remove(0).target.unwrap().place.nics.remove(0);
    assert_eq!(first.address.as_deref(), Some("10.0.1.1"), "its own is not in the subnet");
    assert_eq!(site.status(story.now).issues, [], "the others get the next");
    for nth in [1, 3] {
        choose_address(&mut site, VmId(Uuid::from_u128(nth)), "10.0.1.7");
    }
    let issues = site.status(story.now).issues;
    assert_eq!((issues.len(), issues[0].cause.code.as_str()), (1, "SR-3022"), "{issues:#?}");
    assert_eq!(issues[0].affects, ["vm-1", "vm-3"]);
}

#[test]
fn tests_and_runs_of_plans_are_jobs_that_run() {
    let mut story = Story::protected();
    story.tell(test_failover());
    let mut site = site_of(&story);
    let id = PlanId(Uuid::from_u128(7));
    let vms = vec![story.vm.id];
    let look = plan::ActionKind::Manual { instructions: "count the orders".to_owned() };
    let before = vec![plan::Action::of_every_run("look".to_owned(), look)];
    let groups = vec![plan::Group { vms, before, ..plan::Group::default() }];
    let definition = plan::Definition { groups, ..plan::Definition::default() };
    let mut shop = Plan::default();
    for command in [
        plan::Command::DefinePlan { id, name: "shop".to_owned(), definition },
        plan::Command::Start { job: job_id(1), kind: plan::RunKind::Unplanned },
    ] {
        for event in shop.decide(&command, story.now).unwrap() {
            shop.apply(&event, story.now);
        }
    }
    site.plans.insert(id, shop);
    let status = site.status(story.now);
    let running: Vec<_> = status.running_jobs.iter().map(|job| &*job.scenario_name).collect();
    assert_eq!(running, ["TestFailover", "UnplannedFailover"]);
    assert_eq!(status.running_jobs[1].target_name, "shop");
    assert_eq!(status.vms[0].test_status.state, TestStatus::TestRecommended);
    let advice = status.vms[0].test_status.advice.as_ref().unwrap();
    assert!(advice.starts_with("it was never tested; test it every 180 days"), "{advice}");
}

#[test]
fn readiness_is_not_health() {
    let story = Story::protected();
    let mut site = site_of(&story);
    let readiness = |site: &Site| site.vms(story.now)[0].readiness.clone();
    assert!(readiness(&site).planned_failover.ready && readiness(&site).unplanned_failover.ready);

    // Health is Normal still, since nothing was due to be sent.
    site.vaults.insert(vault(), unreachable_vault());
    assert_eq!(site.vms(story.now)[0].health, Health::Normal);
    for verdict in [readiness(&site).planned_failover, readiness(&site).unplanned_failover] {
        assert!(!verdict.ready && verdict.because[0].contains("SR-2101"), "{verdict:?}");
    }

    // A lost host is what an unplanned failover is for.
    let mut lost = site_of(&story);
    lost.hosts.insert(host(), silent_host());
    assert!(!readiness(&lost).planned_failover.ready);
    assert!(readiness(&lost).unplanned_failover.ready);

    // Everything is well, but what was chosen for its replica cannot be had.
    let mut placed = described(site_of(&story));
    let issues = |site: &Site| site.status(story.now).issues;
    assert!(readiness(&placed).planned_failover.ready, "{:?}", readiness(&placed));
    assert_eq!(issues(&placed), []);
    let held = placed.clone();
    choose_address(&mut placed, story.vm.id, "10.0.1.4");
    let other = Tenant { vm: VmId(Uuid::from_u128(99)), test: false };
    let address = Address { network: "dr".to_owned(), address: "10.0.1.4".to_owned() };
    fabric(&mut placed, Side::Recovery).leases.push(Lease { tenant: other, address });
    let mut small = held;
    fabric(&mut small, Side::Recovery).sizes[0].cores = 1;
    for (site, says) in [(placed, "somebody else holds 10.0.1.4"), (small, "no size")] {
        let seen = readiness(&site);
        assert!(!seen.planned_failover.ready, "{seen:?}");
        assert!(seen.planned_failover.because[0].contains(says), "{seen:?}");
        assert!(seen.unplanned_failover.ready, "it starts with what there is: {seen:?}");
        let issues = issues(&site);
        assert_eq!((issues.len(), issues[0].cause.code.as_str()), (1, "SR-3023"), "{issues:#?}");
        assert!(issues[0].cause.because.contains(says), "{issues:#?}");
        assert_eq!(site.vms(story.now)[0].health, Health::Normal);
    }

    let waiting = Story::in_initial_replication();
    let view = &site_of(&waiting).vms(waiting.now)[0];
    assert_eq!(view.readiness.unplanned_failover.because, ["it has no recovery point"]);
}

#[test]
fn a_program_reads_names_units_and_moments_in_utc() {
    let mut story = Story::protected_with_points(2);
    let waiting = json(&site_of(&story).vms(story.now)[0]);
    assert_eq!(waiting["state"], "Protected");
    assert_eq!(waiting["rpo_target_seconds"], 300.0);
    assert!(waiting["next_delta_at"].as_str().unwrap().ends_with('Z'), "{waiting}");
    assert_eq!(waiting["recovery_points"], 2);
    assert_eq!(waiting["allowed_operations"][0], "PlannedFailover");

    story.tell(unplanned(PointChoice::Latest));
    story.work_off();
    let status = site_of(&story).status(story.now);
    let vm = &json(&status)["vms"][0];
    assert_eq!(vm["state"], "UnplannedFailoverCommitPendingStatesBegin");
    assert_eq!(
        (&vm["active_location"], &vm["failover"]["kind"]),
        (&"Recovery".into(), &"Unplanned".into())
    );
    assert!(vm["failover"]["rto_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(vm["job"]["state"], "Succeeded");
    let read: StatusView = serde_json::from_value(json(&status)).unwrap();
    assert_eq!(read, status);
}

#[test]
fn recovery_points_are_told_the_newest_first_with_their_age() {
    let story = Story::protected_with_points(3);
    let points = PointView::all(&story.vm, story.now.after(Duration::from_secs(5)));
    let cycles: Vec<_> = points.iter().map(|point| point.cycle).collect();
    assert_eq!(cycles, [3, 2, 1]);
    assert!(5.0 <= points[0].age_seconds && points[0].age_seconds < points[1].age_seconds);
    assert_eq!(points[0].stored_bytes, 4096);
}
