//! Failback and what goes with it: the way back byte for byte, whatever dies on it, and what it moves;
//! tests of a failover, another recovery point, a failover that is cancelled, protection that ends.

use super::tap::Death;
use super::{BOOT, MIB, Rig, SIZES, VAULT, VM, assert_same, disk_id, job};
use futures_util::TryStreamExt;
use lifeboat::disk::files::{MemoryFiles, RealFiles};
use lifeboat::disk::raw::RawDisk;
use lifeboat::disk::tracker::{BootId, DiskSpec, Tracker};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::{CloudId, HostId, VmId};
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::{Command, Phase, PointChoice, Side, Vm};
use lifeboat::drivers::lab::LabFiles;
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::Files;
use lifeboat::ports::replication::Replication;
use lifeboat::replica::GRACE;
use object_store::{ObjectMeta, ObjectStore};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

const KIB: u64 = 1 << 10;

impl Rig {
    pub(super) fn move_away(&mut self) {
        self.tell(&Command::PlannedFailover { job: job(2) });
        self.work_off().unwrap();
        self.commit();
    }

    /// Loses the primary site and runs from an earlier point.
    fn lose_to(&mut self, cycle: u64) {
        self.written = self.prove(cycle);
        let point = PointChoice::Cycle(cycle);
        self.tell(&Command::UnplannedFailover { job: job(2), point });
        self.work_off().unwrap();
        self.commit();
    }

    pub(super) fn commit(&mut self) {
        self.tell(&Command::CommitFailover { job: job(3) });
        self.work_off().unwrap();
    }

    /// The disks that the VM runs on at the recovery site.
    pub(super) fn away(&self) -> Vec<Arc<dyn BlockDevice>> {
        let export = |disk| self.exports.get(&format!("sql-01-disk{disk}"));
        (0..SIZES.len()).map(|disk| export(disk).unwrap()).collect()
    }

    /// The guest writes at the recovery site.
    pub(super) fn write_away(&mut self, writes: u64) {
        let disks = self.away();
        for _ in 0..writes {
            self.written += 1;
            let write = self.workload.write(self.written);
            let content = self.workload.content(self.written);
            disks[write.disk].write_at(&content, write.offset(), false).unwrap();
        }
    }

    fn begin_failback(&mut self, in_full: bool) {
        self.tell(&Command::Failback { job: job(4), in_full });
    }

    pub(super) fn synchronize(&mut self) {
        self.begin_failback(false);
        self.work_off().unwrap();
        assert_eq!(self.vm.phase, Phase::FailbackReady);
        self.expect_primary_is_latest_point();
    }

    /// Moves the VM back; the guest writes until it is shut down.
    pub(super) fn come_back(&mut self) {
        self.tell(&Command::CompleteFailback { job: job(5) });
        self.work_until(Step::ShutDownReplica);
        self.write_away(3);
        self.work_off().unwrap();
        assert_eq!(self.vm.phase, Phase::FailbackCommitPending);
        self.expect_primary_is_replica();
    }

    pub(super) fn protect_again(&mut self) {
        self.commit();
        self.tell(&Command::ReverseReplicate { job: job(6) });
        self.work_off().unwrap();
        assert_eq!((&self.vm.phase, self.vm.source), (&Phase::Protected, Side::Primary));
    }

    #[track_caller]
    fn expect_primary_is_replica(&self) {
        for (disk, away) in self.away().iter().enumerate() {
            assert_same(&**away, &*self.tracker.disk(disk_id(disk)).unwrap());
        }
    }

    #[track_caller]
    fn expect_primary_is_latest_point(&self) {
        for (disk, image) in self.images(self.latest().cycle).iter().enumerate() {
            assert_same(image, &*self.tracker.disk(disk_id(disk)).unwrap());
        }
    }

    /// Replication goes on as if nothing had been.
    #[track_caller]
    pub(super) fn expect_replication(&mut self) {
        for _ in 0..2 {
            self.write(4);
            self.cycle();
            assert_eq!(self.prove(self.latest().cycle), self.written);
        }
        self.restart_engine();
        self.write(4);
        self.cycle();
        assert_eq!(self.prove(self.latest().cycle), self.written);
    }

    pub(super) fn objects(&self) -> BTreeSet<String> {
        let all: Vec<ObjectMeta> =
            self.runtime.block_on(async { self.objects.list(None).try_collect().await }).unwrap();
        all.into_iter().map(|meta| meta.location.to_string()).collect()
    }

    pub(super) fn recovery_folders(&self) -> Vec<String> {
        let folder = self.folder.path().join("recovery").join(VM.to_string());
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }
}

/// A VM with three points, whose guest has written on since.
pub(super) fn three_points(rig: Rig) -> Rig {
    let mut rig = rig;
    for _ in 0..2 {
        rig.write(10);
        rig.cycle();
    }
    rig.write(5);
    rig
}

/// The replica was suspect and being copied anew when the site was lost: what was copied is of no use, and in
/// nobody's way.
#[test]
fn a_vm_that_was_lost_in_the_middle_of_a_full_copy_comes_back() {
    for copied in [disk_id(0), disk_id(1)] {
        let mut rig = three_points(Rig::protected());
        rig.wake();
        let damaged = Failure::new(Code::ReplicaDamaged, Cause::Vault(VAULT), "a checksum");
        rig.fail(damaged);
        rig.tell(&Command::Resynchronize { job: job(9) });
        rig.work_until(Step::CopyDisk(copied));
        rig.lose_to(3);
        rig.write_away(10);
        rig.synchronize();
        rig.write_away(5);
        rig.cycle();
        assert_eq!(rig.prove(rig.latest().cycle), rig.written);
        rig.come_back();
        rig.protect_again();
        rig.expect_replication();
    }
}

#[test]
fn what_a_vm_wrote_at_the_recovery_site_comes_back_with_it_and_nothing_else_moves() {
    let mut rig = three_points(Rig::protected());
    rig.move_away();
    let before = rig.written;
    rig.write_away(10);
    rig.synchronize();
    let written = rig.workload.written_bytes(before, rig.written);
    let sum = |all: &[(u64, u64)]| all.iter().fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    let (compared, different) = sum(&rig.compared);
    assert!(0 < different && different <= written, "{different} of {written} were sent");
    assert!(compared <= 3 * written + 20 * 64 * KIB, "{compared} bytes of the overlay were read");
    let (compared, different) = sum(&rig.restored);
    assert_eq!(compared, SIZES.iter().sum::<u64>(), "of the primary's disks nothing is known");
    assert!(0 < different && different <= written, "{different} of {written} were fetched");

    // It is replicated from there, and the rest of the way is short.
    rig.write_away(5);
    rig.cycle();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
    rig.restored.clear();
    let before = rig.written - 5;
    rig.come_back();
    let (compared, different) = sum(&rig.restored);
    let written = rig.workload.written_bytes(before, rig.written);
    assert!(different <= written, "{different} of {written}");
    assert!(compared <= 2 * written, "{compared} of {written} were looked at");
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
    assert_eq!(rig.recovery_folders().len(), 1);
    rig.protect_again();
    assert_eq!((rig.recovery_folders(), rig.exports.names()), (vec![], vec![]));
    assert!(!rig.objects().iter().any(|object| object.contains("/lease/")));
    rig.expect_replication();
    assert_eq!(rig.tracker.status().broken, None);
}

impl Rig {
    /// The agent of another host makes the disks of the VM, and attaches them.
    fn attach_at_other_host(&mut self) {
        let home = self.folder.path().join("host-2");
        std::fs::create_dir_all(&home).unwrap();
        self.host = LabFiles::new(Arc::new(RealFiles), "host-2");
        let spec = |(index, size): (usize, &u64)| {
            let path = home.join(format!("disk{index}.img"));
            let device = Arc::new(RawDisk::create(&self.host, &path, *size).unwrap());
            DiskSpec { id: disk_id(index), name: format!("disk{index}"), device }
        };
        let (specs, host) = (SIZES.iter().enumerate().map(spec), Arc::new(self.host.clone()));
        let tracker = Tracker::open(host, &home, specs.collect(), BOOT, self.clock.clone());
        self.tracker = tracker.unwrap();
        self.sources.attach(VM, self.tracker.clone(), Arc::new(self.host.clone()));
    }
}

#[test]
fn a_vm_comes_back_onto_empty_disks_of_another_host_which_are_all_that_is_written() {
    let mut rig = three_points(Rig::protected());
    rig.move_away();
    rig.write_away(10);
    let former = rig.tracker.clone();
    let content = |tracker: &Tracker| {
        let disk = tracker.disk(disk_id(0)).unwrap();
        let mut bytes = vec![0; MIB as usize];
        disk.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    let before = content(&former);
    let (host, cloud) = (HostId(Uuid::from_u128(0x4058)), rig.vm.cloud);
    rig.tell(&Command::FailbackToHost { job: job(4), in_full: false, host, cloud });
    rig.work_until(Step::AttachSource);
    rig.attach_at_other_host();
    rig.work_until(Step::RestoreDisk(disk_id(1)));
    // The engine knows nothing of before, and the second disk is still empty.
    rig.restart_engine();
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::FailbackReady);
    rig.expect_primary_is_latest_point();
    let fetched: u64 = rig.restored.iter().map(|(_, different)| different).sum();
    assert!(
        fetched < SIZES.iter().sum::<u64>() / 4,
        "{fetched} bytes: what is zero is not fetched"
    );
    rig.write_away(5);
    rig.come_back();
    rig.protect_again();
    rig.expect_replication();
    assert_eq!(rig.tracker.status().broken, None);
    assert!(content(&former) == before, "the disks of the host before were written");
}

#[test]
fn a_diverged_primary_is_brought_back_from_an_older_point_byte_for_byte() {
    for in_full in [false, true] {
        let mut rig = three_points(Rig::protected());
        rig.lose_to(2);
        // Long after the commit, when upkeep has freed all that it may.
        for _ in 0..3 {
            rig.runtime.block_on(rig.engine.reclaim_space(&rig.vm)).unwrap();
            let grace = i64::try_from(GRACE.as_millis()).unwrap();
            rig.clock.0.fetch_add(grace, Ordering::Relaxed);
        }
        for (disk, size) in SIZES.iter().enumerate() {
            let primary = rig.tracker.disk(disk_id(disk)).unwrap();
            primary.write_at(&vec![7; 64 << 10], 66 * MIB + 512, false).unwrap();
            primary.zero(128 * KIB..256 * KIB, true, false).unwrap();
            primary.write_at(&[7; 4096], size - 4096, false).unwrap();
        }
        rig.write_away(10);
        let away = rig.away();
        away[0].zero(64 * KIB..192 * KIB, true, false).unwrap();
        away[1].write_at(&[9; 700], 67 * MIB - 300, false).unwrap();
        rig.begin_failback(in_full);
        rig.work_off().unwrap();
        rig.expect_primary_is_latest_point();
        rig.expect_primary_is_replica();
        // What only the lost primary wrote there is zero again, and a hole.
        let primary = rig.tracker.disk(disk_id(0)).unwrap();
        let after = primary.next_data(66 * MIB).unwrap();
        assert!(after.as_ref().is_none_or(|data| 66 * MIB + 64 * KIB < data.start), "{after:?}");
        away[0].write_at(&[3; 4096], 70 * MIB, false).unwrap();
        rig.come_back();
        rig.protect_again();
        rig.write(3);
        rig.cycle();
        rig.expect_primary_is_latest_point();
    }
}

#[test]
fn a_vm_that_went_back_and_forth_twice_is_what_it_wrote() {
    let mut rig = three_points(Rig::protected());
    for round in 0..2 {
        if round == 0 {
            rig.move_away();
        } else {
            let latest = rig.latest().cycle;
            rig.write(4);
            rig.lose_to(latest);
        }
        rig.write_away(10);
        rig.restart_engine();
        rig.synchronize();
        rig.write_away(4);
        rig.cycle();
        rig.come_back();
        rig.protect_again();
        assert_eq!(rig.prove(rig.latest().cycle), rig.written);
        rig.expect_replication();
    }
}

#[test]
fn a_replica_that_was_killed_brings_back_what_it_had_acknowledged() {
    let mut rig = three_points(Rig::protected());
    rig.move_away();
    rig.write_away(10);
    rig.begin_failback(false);
    rig.work_until(Step::CompareDisk(disk_id(1)));
    rig.write_away(5);
    // The service dies and starts again: what is served is opened anew.
    rig.restart_engine();
    rig.step().unwrap();
    rig.write_away(5);
    rig.work_off().unwrap();
    rig.restart_engine();
    rig.come_back();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
    rig.protect_again();
    rig.expect_replication();
}

/// A VM that was lost and is to be restored, with disks that differ in every region.
fn before_restore(files: Arc<dyn Files>) -> Rig {
    let mut rig = three_points(Rig::on(files).being_protected());
    rig.lose_to(2);
    for disk in 0..SIZES.len() {
        let primary = rig.tracker.disk(disk_id(disk)).unwrap();
        for offset in [MIB, 20 * MIB, 65 * MIB] {
            primary.write_at(&[7; 8192], offset, false).unwrap();
        }
    }
    rig.write_away(10);
    rig.begin_failback(false);
    rig.work_until(Step::RestoreDisk(disk_id(0)));
    rig
}

#[test]
fn a_restoring_killed_at_any_request_to_the_vault_goes_on() {
    for requests in 0.. {
        let mut rig = before_restore(MemoryFiles::new(1));
        rig.tap.die_after(requests, if requests % 2 == 0 { Death::Before } else { Death::After });
        let result = rig.work_off();
        assert_eq!(result.is_err(), rig.tap.revive(), "{result:?}");
        if let Err(failure) = &result {
            assert_eq!(failure.code, Code::LinkDown, "{failure}");
            rig.restart_engine();
            rig.work_off().unwrap();
        }
        rig.expect_primary_is_latest_point();
        if result.is_ok() {
            assert!(10 < requests, "the whole run has {requests} requests");
            rig.come_back();
            rig.protect_again();
            rig.expect_replication();
            break;
        }
    }
}

#[test]
fn a_restoring_whose_host_dies_at_any_call_on_its_files_goes_on() {
    for calls in (0..).step_by(3) {
        let files = MemoryFiles::new(calls);
        let mut rig = before_restore(files.clone());
        files.kill_after(calls);
        let result = rig.work_off();
        assert_eq!(result.is_err(), files.is_killed(), "{result:?}");
        let boot = if calls % 2 == 0 {
            files.restart();
            BootId(Uuid::from_u128(1))
        } else {
            files.lose_power();
            BootId(Uuid::from_u128(2))
        };
        rig.reopen_host(files.clone(), boot);
        rig.work_off().unwrap();
        rig.expect_primary_is_latest_point();
        rig.come_back();
        if result.is_ok() {
            assert!(20 < calls, "the whole run has {calls} calls");
            break;
        }
    }
}

#[test]
fn a_primary_that_dies_once_it_is_tracked_again_is_in_step() {
    let files = MemoryFiles::new(5);
    let mut rig = before_restore(files.clone());
    rig.work_off().unwrap();
    rig.come_back();
    rig.write(4);
    files.restart();
    rig.reopen_host(files, BootId(Uuid::from_u128(1)));
    assert_eq!(rig.tracker.status().broken, None, "it is no change that nobody tracked");
    rig.protect_again();
    rig.expect_primary_is_latest_point();
    assert_eq!(rig.compared.len(), SIZES.len(), "nothing is compared but for the failback");
}

#[test]
fn a_test_runs_beside_everything_and_leaves_nothing_behind() {
    let mut rig = three_points(Rig::protected());
    let (point, proven) = (rig.vm.points[1], rig.prove(2));
    let before = (rig.objects(), rig.tracker.transit());
    let serve = |rig: &Rig| rig.runtime.block_on(rig.engine.serve_test(&rig.vm, point)).unwrap();
    let uris = serve(&rig);
    assert_eq!(uris[0].uri, "nbd+unix:///test-sql-01-disk0?socket=/run/lifeboat/recovery.sock");
    let disk =
        |rig: &Rig, disk: usize| rig.exports.get(&format!("test-sql-01-disk{disk}")).unwrap();
    let disks = [disk(&rig, 0), disk(&rig, 1)];
    assert_eq!(rig.prove_disks(&[&*disks[0], &*disks[1]]), proven);
    disks[0].write_at(&[9; 4096], MIB, true).unwrap();
    assert_eq!(serve(&rig), uris);
    assert!(Arc::ptr_eq(&disk(&rig, 0), &disks[0]), "it is asked for again and stays as it is");
    let added: Vec<String> = rig.objects().difference(&before.0).cloned().collect();
    assert!(added.len() == 1 && added[0].contains("/lease/"), "{added:?}");
    assert_eq!(rig.tracker.transit(), before.1);
    rig.cycle();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);

    // While it runs, its VM is lost and failed over.
    rig.lose_to(3);
    rig.write_away(3);
    assert_eq!(rig.recovery_folders(), ["3", "test-2"]);
    for _ in 0..3 {
        rig.runtime.block_on(rig.engine.reclaim_space(&rig.vm)).unwrap();
        rig.clock.0.fetch_add(i64::try_from(GRACE.as_millis()).unwrap(), Ordering::Relaxed);
    }
    let mut block = [0; 4096];
    disks[0].read_at(&mut block, MIB).unwrap();
    assert_eq!(block, [9; 4096]);
    disks[1].read_at(&mut block, 0).unwrap();

    // Nobody knows of it after a restart but its folder.
    drop(disks);
    rig.restart_engine();
    let end = |rig: &Rig| rig.runtime.block_on(rig.engine.end_test(&rig.vm)).unwrap();
    end(&rig);
    end(&rig);
    assert_eq!(rig.recovery_folders(), ["3"]);
    let leases = rig.objects().into_iter().filter(|object| object.contains("/lease/"));
    assert_eq!(leases.count(), 1, "that of the failover");
}

#[test]
fn another_point_takes_the_place_of_the_first_and_what_was_written_over_that_is_gone() {
    let mut rig = three_points(Rig::protected());
    let point = PointChoice::Cycle(3);
    rig.tell(&Command::UnplannedFailover { job: job(2), point });
    rig.work_off().unwrap();
    rig.away()[0].write_at(&[9; 4096], 0, true).unwrap();
    for (cycle, restarted) in [(2, false), (3, true), (1, true)] {
        if restarted {
            rig.restart_engine();
        }
        let point = PointChoice::Cycle(cycle);
        rig.tell(&Command::ChangeRecoveryPoint { job: job(u128::from(cycle) + 10), point });
        rig.work_off().unwrap();
        assert_eq!(rig.vm.failover.unwrap().point.cycle, cycle);
        assert_eq!(rig.recovery_folders(), [cycle.to_string()]);
        let disks = rig.away();
        assert_eq!(rig.prove_disks(&[&*disks[0], &*disks[1]]), rig.prove(cycle));
        disks[0].write_at(&[9; 4096], 0, true).unwrap();
    }
}

#[test]
fn a_failover_that_is_cancelled_leaves_replication_where_it_was() {
    for cut in [false, true] {
        let mut rig = three_points(Rig::protected());
        if cut {
            rig.wake();
            rig.step().unwrap();
        }
        let point = PointChoice::Latest;
        rig.tell(&Command::UnplannedFailover { job: job(2), point });
        rig.work_off().unwrap();
        rig.away()[0].write_at(&[9; 4096], 0, true).unwrap();
        rig.tell(&Command::CancelFailover { job: job(3) });
        rig.work_off().unwrap();
        assert_eq!(rig.vm.phase, Phase::Protected);
        assert_eq!(rig.recovery_folders(), [""; 0]);
        assert_eq!(rig.prove(rig.latest().cycle), rig.written);
        rig.expect_replication();
    }
}

#[test]
fn protection_ends_without_a_trace_and_begins_again_from_nothing() {
    let mut rig = three_points(Rig::protected());
    rig.runtime.block_on(rig.engine.reclaim_space(&rig.vm)).unwrap();
    rig.tell(&Command::DisableProtection { job: job(8), source_gone: false });
    rig.work_until(Step::DeleteReplica);
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let left: BTreeSet<_> = std::fs::read_dir(rig.folder.path()).unwrap().map(name).collect();
    assert_eq!(left, ["disk0.img", "disk1.img"].map(Into::into).into());
    rig.write(4);
    for requests in 0.. {
        rig.tap.die_after(requests, if requests % 2 == 0 { Death::Before } else { Death::After });
        let done = rig.perform().is_ok();
        rig.tap.revive();
        if done {
            break;
        }
        // Whatever is left, every point that there is can be read.
        for cycle in rig.cycles_in_vault() {
            rig.prove(cycle);
        }
    }
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Unprotected);
    let own = rig
        .objects()
        .into_iter()
        .filter(|object| object.contains("/disk/") || object.contains("/vm/"));
    assert_eq!(own.collect::<Vec<_>>(), [""; 0]);

    rig.write(4);
    rig.enable_as(20);
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
    rig.expect_replication();

    // The same by a service that knows nothing of the life before.
    rig.tell(&Command::DisableProtection { job: job(21), source_gone: false });
    rig.work_off().unwrap();
    let discovered = rig.vm.disks.clone();
    rig.vm = Vm::default();
    rig.tell(&Command::Discover {
        id: VM,
        name: "sql-01".to_owned(),
        host: super::HOST,
        cloud: CloudId(Uuid::from_u128(3)),
        disks: discovered,
    });
    rig.enable_as(22);
    rig.work_off().unwrap();
    rig.write(4);
    for _ in 0..3 {
        rig.write(4);
        rig.cycle();
        rig.runtime.block_on(rig.engine.reclaim_space(&rig.vm)).unwrap();
        rig.clock.0.fetch_add(i64::try_from(GRACE.as_millis()).unwrap(), Ordering::Relaxed);
    }
    for cycle in rig.cycles_known() {
        rig.prove(cycle);
    }
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_replica_that_a_vm_runs_on_is_not_deleted_under_it() {
    let mut rig = three_points(Rig::protected());
    rig.move_away();
    let refused = rig.runtime.block_on(rig.engine.delete_replica(&rig.vm)).unwrap_err();
    assert_eq!(refused.code, Code::ReplicaInvalid);
    assert!(refused.to_string().contains("runs on it"), "{refused}");
    rig.prove(rig.latest().cycle);
}

#[test]
fn a_replica_that_nobody_serves_is_waited_for() {
    let mut rig = three_points(Rig::protected());
    rig.move_away();
    rig.write_away(4);
    rig.restart_engine();
    let mut vm = rig.vm.clone();
    vm.source = Side::Recovery;
    let failure = rig.runtime.block_on(rig.engine.start_tracking(&vm)).unwrap_err();
    assert_eq!(failure.code, Code::HostLost, "{failure}");
    assert!(failure.to_string().contains("the recovery site"), "{failure}");
    assert_ne!(vm.id, VmId::default());
}
