//! The lab as a hypervisor.

use super::rack::{Arrived, Rack};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::Cause;
use lifeboat::domain::id::{DiskId, HostId, VmId};
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::{Disk, Failover, FailoverKind, RecoveryPoint, Side, Vm};
use lifeboat::drivers::lab::{AfterBoot, LabError, LabSite, LabVm, State, Workload};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::hypervisor::Hypervisor;
use lifeboat::ports::replication::ServedDisk;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const HOST: HostId = HostId(Uuid::from_u128(1));
const VM: VmId = VmId(Uuid::from_u128(2));

fn workload() -> Workload {
    Workload::new(5, vec![512 << 10, 256 << 10], 128 << 10).unwrap()
}

fn vm() -> Vm {
    let disk = |nth: u64| Disk {
        id: DiskId::derived(VM.0, nth),
        name: format!("disk-{nth}"),
        size_bytes: workload().disks()[nth as usize],
    };
    let mut vm = Vm::default();
    vm.id = VM;
    "sql-01".clone_into(&mut vm.name);
    vm.host = HOST;
    vm.disks = vec![disk(0), disk(1)];
    vm
}

/// The disks of a rack as a failover serves them, in another order than the VM's.
fn served(rack: &Rack) -> Vec<ServedDisk> {
    let vm = vm();
    let disk = |nth: usize| ServedDisk { disk: vm.disks[nth].id, uri: rack.uris()[nth].clone() };
    vec![disk(1), disk(0)]
}

fn site(racks: &[&Arc<Rack>]) -> LabSite {
    let site = LabSite::new(Rack::connect(racks), Duration::ZERO);
    site.add_host(HOST, "hv-01");
    site.define(
        VM,
        LabVm {
            name: "sql-01".to_owned(),
            host: HOST,
            workload: workload(),
            writes_per_second: NonZeroU32::new(10_000).unwrap(),
            after_boot: AfterBoot::KeepWriting,
        },
    );
    site
}

async fn until_acknowledged(site: &LabSite, write: u64) {
    while site.guest(VM).unwrap().acknowledged < write {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn start_boots_from_the_served_disks_and_a_running_vm_goes_on() {
    let rack = Rack::after("a", &workload(), 30);
    let site = site(&[&rack]);
    site.start(&vm(), &served(&rack)).await.unwrap();
    assert_eq!(site.guest(VM).unwrap().boot.unwrap().last_write, 30);
    until_acknowledged(&site, 100).await;
    site.start(&vm(), &served(&rack)).await.unwrap();
    let status = site.guest(VM).unwrap();
    assert_eq!(status.boot.unwrap().last_write, 30, "it was not booted a second time");
    assert!(matches!(status.state, State::Running));
    site.shut_down(&vm()).await.unwrap();
    assert_eq!(rack.last_write(&workload()), site.guest(VM).unwrap().acknowledged);
}

#[tokio::test]
async fn start_on_other_disks_ends_the_vm_on_the_old_ones() {
    let [old, other] = ["old", "other"].map(|name| Rack::after(name, &workload(), 30));
    let site = site(&[&old, &other]);
    site.start(&vm(), &served(&old)).await.unwrap();
    until_acknowledged(&site, 50).await;
    site.start(&vm(), &served(&other)).await.unwrap();
    assert_eq!(site.guest(VM).unwrap().boot.unwrap().last_write, 30);
    let arrived = old.arrived();
    until_acknowledged(&site, 100).await;
    assert_eq!(old.arrived(), arrived);
}

#[tokio::test]
async fn a_replica_that_is_no_prefix_does_not_start_and_the_failure_says_why() {
    let rack = Rack::after("a", &workload(), 30);
    rack.disks[0].change(|bytes| bytes[4096 + 100] ^= 1);
    let site = site(&[&rack]);
    let failure = site.start(&vm(), &served(&rack)).await.unwrap_err();
    assert_eq!((failure.code, failure.cause), (Code::ReplicaDidNotStart, Cause::Itself));
    assert_eq!(failure.facts["vm"], "sql-01");
    assert!(failure.provider.contains("block 1 of disk 0"), "{}", failure.provider);
}

#[tokio::test]
async fn a_torn_write_is_refused_in_a_recovery_point_and_accepted_where_the_vm_has_run() {
    let workload = workload();
    let torn = (20..100).find(|n| 1 < workload.write(*n).blocks).unwrap();
    let rack = Rack::after("a", &workload, torn - 1);
    let write = workload.write(torn);
    rack.disks[write.disk]
        .write_at(&workload.content(torn)[..4096], write.offset(), false)
        .unwrap();
    let site = site(&[&rack]);
    let failure = site.start(&vm(), &served(&rack)).await.unwrap_err();
    assert_eq!(failure.code, Code::ReplicaDidNotStart);

    let mut started = vm();
    started.failover = Some(Failover {
        kind: FailoverKind::Unplanned,
        point: RecoveryPoint { cycle: 1, at: Timestamp::default(), bytes: 0 },
        asked_at: Timestamp::default(),
        first_started_at: None,
        started_at: Some(Timestamp::default()),
    });
    site.start(&started, &served(&rack)).await.unwrap();
}

#[tokio::test]
async fn a_lost_host_answers_nothing_and_its_vms_stay_off_when_it_is_back() {
    let rack = Rack::new("a", &workload());
    let site = site(&[&rack]);
    site.heartbeat(HOST).await.unwrap();
    site.start(&vm(), &served(&rack)).await.unwrap();
    until_acknowledged(&site, 20).await;
    site.kill_host(HOST);
    assert!(matches!(site.guest(VM).unwrap().state, State::Crashed(_)));
    for failure in [
        site.heartbeat(HOST).await.unwrap_err(),
        site.shut_down(&vm()).await.unwrap_err(),
        site.start(&vm(), &served(&rack)).await.unwrap_err(),
    ] {
        assert_eq!((failure.code, failure.cause), (Code::HostLost, Cause::Host(HOST)));
        assert_eq!(failure.facts["host"], "hv-01");
    }

    site.revive_host(HOST);
    site.heartbeat(HOST).await.unwrap();
    assert!(matches!(site.guest(VM).unwrap().state, State::Crashed(_)));
    let again = site.clone();
    let checked = tokio::task::spawn_blocking(move || again.boot(VM, &rack.uris())).await.unwrap();
    assert!(20 <= checked.unwrap().last_write);
}

#[tokio::test]
async fn shut_down_can_be_asked_again_and_of_a_vm_that_never_ran() {
    let rack = Rack::new("a", &workload());
    let site = site(&[&rack]);
    site.shut_down(&vm()).await.unwrap();
    site.start(&vm(), &served(&rack)).await.unwrap();
    site.shut_down(&vm()).await.unwrap();
    let arrived = rack.arrived();
    assert_eq!(arrived.last(), Some(&Arrived::Flush { disk: 1 }));
    site.shut_down(&vm()).await.unwrap();
    assert_eq!(rack.arrived(), arrived);
}

#[tokio::test]
async fn a_vm_that_cannot_flush_did_not_shut_down_until_it_can() {
    let rack = Rack::new("a", &workload());
    let site = site(&[&rack]);
    site.start(&vm(), &served(&rack)).await.unwrap();
    rack.go_down();
    let failure = site.shut_down(&vm()).await.unwrap_err();
    assert_eq!((failure.code, failure.cause), (Code::SourceDidNotStop, Cause::Itself));
    assert_eq!((&*failure.facts["host"], &*failure.facts["vm"]), ("hv-01", "sql-01"));
    rack.come_up();
    site.shut_down(&vm()).await.unwrap();
}

#[tokio::test]
async fn what_the_site_does_not_know_is_named() {
    let rack = Rack::new("a", &workload());
    let site = site(&[&rack]);
    let mut stranger = vm();
    stranger.id = VmId(Uuid::from_u128(9));
    assert_eq!(site.shut_down(&stranger).await.unwrap_err().code, Code::VmNotFound);
    let nowhere = HostId(Uuid::from_u128(9));
    assert_eq!(site.heartbeat(nowhere).await.unwrap_err().code, Code::HostLost);
    let failure = site.start(&vm(), &served(&rack)[..1]).await.unwrap_err();
    assert_eq!(failure.code, Code::ReplicaDidNotStart);
    assert!(failure.provider.contains("disk-0"), "{}", failure.provider);
    assert!(matches!(site.boot(stranger.id, &[]), Err(LabError::NoSuchVm { .. })));
    assert!(site.guest(VM).is_none());
}

#[tokio::test]
async fn a_guest_that_comes_back_goes_on_from_what_it_wrote_at_the_other_site() {
    let rack = Rack::after("a", &workload(), 30);
    let [recovery, primary] = [site(&[&rack]), site(&[&rack])];
    recovery.start(&vm(), &served(&rack)).await.unwrap();
    until_acknowledged(&recovery, 100).await;
    recovery.shut_down(&vm()).await.unwrap();
    let written = recovery.guest(VM).unwrap().acknowledged;
    primary.attach(&vm()).await.unwrap();
    primary.start(&vm(), &served(&rack)).await.unwrap();
    assert_eq!(primary.guest(VM).unwrap().boot.unwrap().last_write, written);
    until_acknowledged(&primary, written + 50).await;
}

#[tokio::test]
async fn attaching_switches_off_a_guest_whose_replica_counts_and_no_other() {
    let rack = Rack::after("a", &workload(), 30);
    let site = site(&[&rack]);
    site.start(&vm(), &served(&rack)).await.unwrap();
    site.attach(&vm()).await.unwrap();
    assert!(matches!(site.guest(VM).unwrap().state, State::Running));
    let mut away = vm();
    away.source = Side::Recovery;
    site.attach(&away).await.unwrap();
    assert!(matches!(site.guest(VM).unwrap().state, State::Crashed(_)));
    site.kill_host(HOST);
    assert_eq!(site.attach(&vm()).await.unwrap_err().code, Code::HostLost);
}

#[tokio::test]
async fn a_test_copy_proves_its_disks_beside_the_vm_and_leaves_them_as_they_are() {
    let [own, copy] = ["own", "copy"].map(|name| Rack::after(name, &workload(), 30));
    let site = site(&[&own, &copy]);
    site.start(&vm(), &served(&own)).await.unwrap();
    site.start_test(&vm(), &served(&copy), "test-net").await.unwrap();
    assert_eq!(site.test_guest(VM).unwrap().boot.unwrap().last_write, 30);
    until_acknowledged(&site, 60).await;
    site.start_test(&vm(), &served(&copy), "test-net").await.unwrap();
    site.end_test(&vm()).await.unwrap();
    site.end_test(&vm()).await.unwrap();
    assert!(site.test_guest(VM).is_none());
    assert!(matches!(site.guest(VM).unwrap().state, State::Running), "the VM itself goes on");
    let writes = copy.arrived().into_iter().filter(|it| matches!(it, Arrived::Write { .. }));
    assert_eq!(writes.count(), 0);

    copy.disks[0].change(|bytes| bytes[4096 + 100] ^= 1);
    let failure = site.start_test(&vm(), &served(&copy), "test-net").await.unwrap_err();
    assert_eq!(failure.code, Code::ReplicaDidNotStart);
    assert!(failure.provider.contains("block 1 of disk 0"), "{}", failure.provider);
}
