//! What failures are called, whose recovery they wait for, and what their messages name.

use super::{HOST, Rig, VAULT, VM, disk_id};
use lifeboat::domain::catalogue::{Code, entry, render};
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::VaultId;
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::{Phase, ResyncReason};
use lifeboat::drivers::lab::Fault;
use lifeboat::ports::replication::Replication;
use std::path::PathBuf;
use uuid::Uuid;

/// A VM whose delta is due to be sent.
fn cut() -> Rig {
    let mut rig = Rig::protected();
    rig.write(5);
    rig.wake();
    rig.step().unwrap();
    rig
}

#[track_caller]
fn assert_failure(failure: &Failure, code: Code, cause: Cause, names: &str) {
    assert_eq!((failure.code, failure.cause), (code, cause), "{failure}");
    let entry = entry(failure.code);
    let message = render(entry.message, &failure.facts);
    assert!(!message.contains('{'), "'{message}' lacks a fact");
    assert!(message.contains(names), "'{message}' does not name '{names}'");
    for text in [entry.next, entry.action] {
        assert!(!render(text, &failure.facts).contains('{'), "'{text}' lacks a fact");
    }
}

#[test]
fn what_the_vault_refuses_is_classified_and_passes() {
    let mut rig = cut();
    for (fault, code, names) in [
        (Fault::LinkCut, Code::LinkDown, "the vault cannot be reached for sending a delta"),
        (Fault::VaultFull, Code::VaultFull, "the vault has no room for sending a delta"),
        (Fault::VaultRefuses, Code::AuthenticationFailed, "the vault refused the credentials"),
        (Fault::VaultThrottles, Code::VaultBusy, "the vault did not take sending a delta"),
    ] {
        rig.faults.raise(fault);
        assert_failure(&rig.perform().unwrap_err(), code, Cause::Vault(VAULT), names);
        let probe = rig.runtime.block_on(rig.engine.probe_vault(VAULT));
        if fault != Fault::VaultFull {
            assert_failure(&probe.unwrap_err(), code, Cause::Vault(VAULT), "the vault");
        }
        rig.faults.clear(fault);
    }
    rig.work_off().unwrap();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_host_that_is_gone_is_lost_whatever_was_asked_of_it() {
    let host = HOST.to_string();
    let lost = |failure: Failure| {
        assert_failure(&failure, Code::HostLost, Cause::Host(HOST), &host);
    };
    let rig = cut();
    rig.host.kill();
    lost(rig.perform().unwrap_err());
    rig.sources.detach(VM);
    lost(rig.perform().unwrap_err());

    let mut rig = Rig::protected();
    rig.wake();
    rig.host.kill();
    lost(rig.perform().unwrap_err());

    for step in [Step::CopyDisk(disk_id(0)), Step::EnableReplication, Step::ApplyTrackedChanges] {
        let mut rig = Rig::new();
        rig.enable();
        rig.work_until(step);
        rig.host.kill();
        lost(rig.perform().unwrap_err());
    }
}

fn transit_log(rig: &Rig, disk: usize) -> PathBuf {
    rig.tracker.transit().unwrap().logs[disk].path.clone()
}

#[test]
fn a_damaged_log_sends_nothing_and_the_resynchronization_leaves_it_behind() {
    let mut rig = cut();
    let path = transit_log(&rig, 0);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let sent = rig.sent();
    let failure = rig.perform().unwrap_err();
    assert_failure(&failure, Code::LogChainBroken, Cause::Host(HOST), &path.display().to_string());
    assert_eq!(rig.sent(), sent);

    rig.fail(failure);
    assert!(matches!(rig.vm.phase, Phase::Resynchronizing(ResyncReason::LogDamaged(_))));
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_log_that_is_gone_is_named() {
    let rig = cut();
    let path = transit_log(&rig, 1);
    std::fs::remove_file(&path).unwrap();
    let failure = rig.perform().unwrap_err();
    assert!(failure.to_string().contains(&path.display().to_string()), "{failure}");
    assert_failure(&failure, failure.code, Cause::Host(HOST), "");
}

#[test]
fn a_full_log_volume_is_named_and_nothing_is_cut() {
    let mut rig = Rig::protected();
    rig.write(3);
    rig.wake();
    rig.host.fill_disk();
    let failure = rig.perform().unwrap_err();
    assert_failure(
        &failure,
        Code::LogVolumeFull,
        Cause::Host(HOST),
        "has no room for replication logs",
    );
    rig.host.free_disk();
    rig.work_off().unwrap();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_damaged_object_is_named_and_the_points_before_it_stay() {
    let mut rig = cut();
    rig.work_off().unwrap();
    let sequence = rig.record(2).disks[&disk_id(1)].sequence;
    let object = format!("v1/{VAULT}/disk/{}/log/{sequence:020}.seg", disk_id(1));
    rig.damage(&object, 60);
    let verified = |point| rig.runtime.block_on(rig.engine.verify(&rig.vm, point));
    let failure = verified(rig.latest()).unwrap_err();
    assert_failure(&failure, Code::ReplicaDamaged, Cause::Vault(VAULT), &object);
    verified(rig.vm.points[0]).unwrap();
    rig.prove(1);
}

#[test]
fn what_the_state_does_not_allow_is_said_in_full() {
    let mut rig = Rig::protected();
    rig.wake();
    rig.tracker.stop().unwrap();
    let failure = rig.perform().unwrap_err();
    assert_failure(&failure, Code::PrerequisiteFailed, Cause::Host(HOST), "sql-01");
    let gone = rig.runtime.block_on(rig.engine.ship(&rig.vm, 9, rig.latest().at)).unwrap_err();
    assert_failure(&gone, Code::ReplicaInvalid, Cause::Vault(VAULT), "its logs are gone");
    let mut elsewhere = rig.vm.clone();
    elsewhere.vault = VaultId(Uuid::from_u128(5));
    let other = rig.runtime.block_on(rig.engine.check_vault(&elsewhere)).unwrap_err();
    let name = elsewhere.vault.to_string();
    assert_failure(&other, Code::ConfigurationInvalid, Cause::Itself, &name);
    let mut larger = rig.vm.clone();
    larger.disks[1].size_bytes += 512;
    let changed = rig.runtime.block_on(rig.engine.check_source(&larger)).unwrap_err();
    assert_failure(&changed, Code::DiskUnusable, Cause::Host(HOST), "disk1");
}
