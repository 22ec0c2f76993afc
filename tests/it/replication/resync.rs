//! Resynchronization: by comparison, exact and resumable; by another copy where the replica is suspect.

use super::tap::Death;
use super::{MIB, Rig, SIZES, VAULT, VM, assert_same, disk_id, is_named};
use lifeboat::disk::raw::RawDisk;
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::JobId;
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::{Command, Phase, RecoveryPoint, ResyncReason, RetryReason};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::replication::Replication;
use lifeboat::replica::{RecoveryPointRecord, VaultError};
use object_store::ObjectStoreExt;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use uuid::Uuid;

const KIB: u64 = 1 << 10;

impl Rig {
    /// Writes to a disk's image, unseen by everybody.
    fn write_unseen(&self, disk: usize, offset: u64, data: &[u8]) {
        self.image_file(disk).write_all_at(data, offset).unwrap();
    }

    fn punch_unseen(&self, disk: usize, offset: u64, length: u64) {
        let path = self.folder.path().join(format!("disk{disk}.img"));
        let raw = RawDisk::open(&self.host, &path, lifeboat::ports::files::Open::Write).unwrap();
        raw.zero(offset..offset + length, true, false).unwrap();
    }

    fn image_file(&self, disk: usize) -> std::fs::File {
        let path = self.folder.path().join(format!("disk{disk}.img"));
        std::fs::File::options().read(true).write(true).open(path).unwrap()
    }

    /// Differences of every kind on both disks, in all of their regions; answers their bytes.
    fn change_unseen(&self, salt: u8) -> u64 {
        let mut bytes = 0;
        for (disk, size) in SIZES.iter().enumerate() {
            let places = [
                (40 * MIB, 4 * KIB),
                (40 * MIB + 60 * KIB, 8 * KIB),
                (41 * MIB + 512, 512),
                (66 * MIB, 200 * KIB),
                (size - 4 * KIB, 4 * KIB),
            ];
            for (offset, length) in places {
                self.write_unseen(disk, offset, &vec![salt; length as usize]);
                bytes += length.next_multiple_of(4 * KIB);
            }
            // A block of the base and a whole chunk of it become zero.
            self.punch_unseen(disk, 100 * KIB, 4 * KIB);
            self.punch_unseen(disk, 128 * KIB, 64 * KIB);
        }
        bytes
    }

    /// Has a replica copied anew that cannot be relied on.
    fn copy_anew(&mut self, n: u128) {
        if self.vm.trouble.is_none() {
            self.wake();
            self.fail(Failure::new(Code::ReplicaInvalid, Cause::Vault(VAULT), "another writer"));
        }
        self.tell(&Command::Resynchronize { job: JobId(Uuid::from_u128(n)) });
    }

    #[track_caller]
    fn expect_replica_of_disks(&self) {
        for (disk, image) in self.images(self.latest().cycle).iter().enumerate() {
            assert_same(image, &*self.tracker.disk(disk_id(disk)).unwrap());
        }
    }

    /// How often the index of each region of the base was looked at: once for each comparison.
    fn looks(&self) -> BTreeMap<String, usize> {
        let opened = self.tap.opened().into_iter();
        opened.filter(|(object, _)| object.contains("/base/") && is_named(object, "seg")).collect()
    }
}

#[test]
fn a_vm_that_lost_track_is_compared_and_its_older_points_stay_what_they_were() {
    let mut rig = Rig::protected();
    rig.write(5);
    rig.cycle();
    let older = [(1, rig.prove(1)), (2, rig.prove(2))];
    let records = [rig.record(1), rig.record(2)];
    let ends = [0, 1].map(|disk| {
        let sequence = records[1].disks[&disk_id(disk)].sequence;
        (disk, sequence, rig.hash(disk, sequence))
    });

    rig.host.fill_disk();
    rig.write(5);
    rig.host.free_disk();
    assert!(!rig.tracker.status().tracking);
    let reason = rig.runtime.block_on(rig.engine.tracking_lost(&rig.vm, &|_| {}));
    assert!(matches!(&reason, ResyncReason::LogWriteFailed(text) if text.contains("disk")));
    let first_cycle = rig.vm.delta.chain_first_cycle;
    rig.tell(&Command::ReportTrackingLost { first_cycle, reason });
    rig.write(5);
    rig.work_until(Step::ApplyTrackedChanges);
    rig.write(5);
    rig.work_off().unwrap();
    assert_eq!((&rig.vm.phase, rig.vm.delta.generation), (&Phase::Protected, 0));
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
    assert_eq!(older, [(1, rig.prove(1)), (2, rig.prove(2))]);
    assert_eq!(records, [rig.record(1), rig.record(2)]);
    for (disk, sequence, hash) in ends {
        let late = rig.late_delta(disk, sequence, hash);
        assert!(matches!(late, Err(VaultError::Fenced { .. })), "{late:?}");
    }
    let different: u64 = rig.compared.iter().map(|(_, different)| different).sum();
    assert!(
        0 < different && different <= rig.workload.written_bytes(rig.written - 15, rig.written)
    );
    // Only what was written since the last acknowledged cut was looked at.
    let compared: u64 = rig.compared.iter().map(|(all, _)| all).sum();
    assert!(different <= compared && compared < SIZES.iter().sum::<u64>() / 8, "{compared}");
    rig.write(5);
    rig.cycle();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn differences_of_every_kind_are_found_and_nothing_else_is_sent() {
    let mut rig = Rig::protected();
    let changed = rig.change_unseen(7);
    rig.lose_tracking();
    rig.work_off().unwrap();
    rig.expect_replica_of_disks();
    let different: u64 = rig.compared.iter().map(|(_, different)| different).sum();
    let zeroed = 2 * 68 * KIB;
    assert!((changed..=changed + zeroed).contains(&different), "{different} of {changed}");
    let before = rig.sent();
    // Back to what it was: now the replica's log has what must be found.
    rig.change_unseen(0);
    rig.lose_tracking();
    rig.work_off().unwrap();
    rig.expect_replica_of_disks();
    // And with nothing to find, one fence a disk and the first delta.
    let between = rig.sent();
    assert!(before.len() < between.len());
    rig.lose_tracking();
    rig.work_off().unwrap();
    assert_eq!(rig.compared[4..], [(SIZES[0], 0), (SIZES[1], 0)]);
    let sent = rig.sent().into_keys();
    let sent: Vec<_> = sent.filter(|object| !between.contains_key(object)).collect();
    assert_eq!(sent.len(), 2 + 2 + 1, "{sent:#?}");
    rig.expect_replica_of_disks();
}

/// Bytes that no compressor shortens.
fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn what_moves_is_about_what_differs_however_often_the_same_places_changed_before() {
    let rig = Rig::new();
    rig.write_unseen(0, 8 * MIB, &noise(0, 16 * MIB));
    let mut rig = rig.being_protected();
    for round in 1..=4_u64 {
        for nth in 0..160 {
            // Half of the chunks, others and others of their blocks in each round.
            let chunk = (nth * 7 + round * 31) % 256;
            let block = (nth * 5 + round) % 16;
            let data = noise(round * 1000 + nth, 4 * KIB);
            rig.write_unseen(0, 8 * MIB + chunk * 64 * KIB + block * 4 * KIB, &data);
        }
        // Across chunks and within blocks, over what was written before.
        for nth in 0..4 {
            let at = 12 * MIB + nth * MIB + round * 7 * KIB + 512;
            rig.write_unseen(0, at, &noise(round * 2000 + nth, 24 * KIB));
        }
        rig.lose_tracking();
        let (before, compared) = (rig.tap.moved_bytes(), rig.compared.len());
        rig.work_off().unwrap();
        let moved = rig.tap.moved_bytes() - before;
        rig.expect_replica_of_disks();
        let different: u64 = rig.compared[compared..].iter().map(|(_, different)| different).sum();
        let written = 160 * 4 * KIB + 4 * 32 * KIB;
        assert!((600 * KIB..=written).contains(&different), "{different} differ");
        // The rest is checksums, indexes, and data where writes that lie across blocks hid each other.
        assert!(moved < different * 4, "round {round}: {moved} moved for {different}");
    }
}

#[test]
fn checksums_of_another_content_do_not_hide_a_difference() {
    let rig = Rig::new();
    rig.write_unseen(0, 8 * MIB, &noise(0, 64 * KIB));
    let mut rig = rig.being_protected();
    let written = |rig: &Rig| rig.sent().into_keys().filter(|name| is_named(name, "sum"));
    let disk = disk_id(0).to_string();
    let object = written(&rig).find(|name| name.contains(&disk) && name.contains("00000000."));
    let object = object.unwrap();
    // Records that say of each block what the disk will hold, as if it had been sent.
    let other = {
        let other = Rig::new();
        other.write_unseen(0, 8 * MIB, &noise(1, 64 * KIB));
        let other = other.being_protected();
        let name = written(&other).find(|name| name.contains(&disk) && name.contains("00000000."));
        let path = name.unwrap().as_str().into();
        other.runtime.block_on(async {
            other.objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec()
        })
    };
    rig.runtime.block_on(async {
        let path = object.as_str().into();
        let ours = rig.objects.get(&path).await.unwrap().bytes().await.unwrap();
        let forged = [&ours[..64], &other[64..]].concat();
        assert_eq!(forged.len(), ours.len());
        rig.objects.put(&path, forged.into()).await.unwrap();
    });
    let audit = rig.proof.audit(lifeboat::replica::Depth::Everything, &|_| {});
    let audit = rig.runtime.block_on(audit).unwrap();
    assert!(audit.is_sound());
    assert!(audit.bad_checksums[0].contains(&object), "{:?}", audit.bad_checksums);
    rig.write_unseen(0, 8 * MIB, &noise(1, 64 * KIB));
    rig.lose_tracking();
    rig.work_off().unwrap();
    rig.expect_replica_of_disks();
}

#[test]
fn checksums_that_are_gone_or_damaged_cost_only_time() {
    for damage in [true, false] {
        let mut rig = Rig::protected();
        let sums: Vec<_> = rig.sent().into_keys().filter(|name| is_named(name, "sum")).collect();
        assert!(!sums.is_empty());
        for (nth, object) in sums.iter().enumerate() {
            if damage {
                rig.damage(object, [10, 70, 20][nth % 3]);
            } else {
                rig.remove(object);
            }
        }
        rig.change_unseen(9);
        rig.write_unseen(0, 4 * KIB, &[9; 512]);
        rig.lose_tracking();
        rig.work_off().unwrap();
        rig.expect_replica_of_disks();
    }
}

#[test]
fn what_is_written_during_the_comparison_is_in_the_next_point() {
    let mut rig = Rig::protected();
    rig.change_unseen(3);
    rig.lose_tracking();
    rig.work_until(Step::CompareDisk(disk_id(0)));
    for _ in 0..2 {
        rig.write(4);
        rig.step().unwrap();
    }
    rig.write(4);
    rig.step().unwrap();
    rig.expect_replica_of_disks();
    rig.work_off().unwrap();
    rig.write(4);
    rig.cycle();
    rig.expect_replica_of_disks();
}

#[test]
fn a_comparison_killed_or_paused_at_any_request_goes_on_where_it_was() {
    // Every request dies in one way or the other; that a request was lost and that its answer was
    // are the same to whoever reads.
    for (death, first) in [(Death::Before, 0), (Death::After, 1)] {
        for requests in (first..).step_by(2) {
            let mut rig = Rig::protected();
            rig.change_unseen(5);
            rig.lose_tracking();
            rig.work_until(Step::CompareDisk(disk_id(0)));
            let before = rig.looks();
            rig.tap.die_after(requests, death);
            let result = rig.work_off();
            assert_eq!(result.is_err(), rig.tap.revive(), "{result:?}");
            if let Err(failure) = &result {
                assert_eq!(failure.code, Code::LinkDown, "{failure}");
                if matches!(death, Death::After) {
                    rig.tell(&Command::PauseReplication);
                    assert_eq!(rig.vm.work(), None);
                }
                rig.restart_engine();
                rig.write(2);
                if matches!(death, Death::After) {
                    rig.tell(&Command::ResumeReplication);
                }
                rig.work_off().unwrap();
            }
            assert_eq!(rig.vm.phase, Phase::Protected);
            rig.write(1);
            rig.cycle();
            rig.expect_replica_of_disks();
            let looks: Vec<_> = rig
                .looks()
                .into_iter()
                .map(|(object, looks)| looks - before.get(&object).copied().unwrap_or_default())
                .collect();
            let again: usize = looks.iter().map(|looks| looks.saturating_sub(1)).sum();
            // The one that was on its way to the vault, and the one that had been begun.
            assert!(again <= 2, "{looks:?} after {requests} requests");
            for (object, times) in rig.tap.sent() {
                let is_segment = object.contains("/log/") && is_named(&object, "seg");
                assert!(times <= 2 || !is_segment, "{object} was sent {times} times");
            }
            if result.is_ok() {
                assert!(30 < requests, "the whole run has {requests} requests");
                break;
            }
        }
    }
}

#[test]
fn a_delta_of_a_chain_that_was_lost_before_its_first_point_is_refused_too() {
    let mut rig = Rig::protected();
    rig.lose_tracking();
    rig.write(3);
    rig.work_until(Step::ApplyTrackedChanges);
    let ends = [0, 1].map(|disk| {
        let head = rig.runtime.block_on(rig.proof.head(disk_id(disk))).unwrap().unwrap();
        (disk, head.header.sequence, head.hash)
    });
    rig.lose_tracking();
    rig.tell(&Command::Retry { because: RetryReason::Administrator });
    rig.write(3);
    rig.work_until(Step::ApplyTrackedChanges);
    for (disk, sequence, hash) in ends {
        let late = rig.late_delta(disk, sequence, hash);
        assert!(matches!(late, Err(VaultError::Fenced { .. })), "{late:?}");
    }
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

#[test]
fn a_primary_site_that_was_closed_off_does_not_write_past_the_fence() {
    let mut rig = Rig::protected();
    rig.lose_tracking();
    rig.work_until(Step::CompareDisk(disk_id(0)));
    rig.runtime.block_on(rig.engine.fence(&rig.vm)).unwrap();
    let objects = rig.sent();
    let failure = rig.step().unwrap_err();
    assert_eq!(failure.code, Code::ReplicaInvalid, "{failure}");
    assert_eq!(rig.sent(), objects);
    rig.prove(1);
}

#[test]
fn a_replica_that_is_damaged_is_copied_anew() {
    let mut rig = Rig::protected();
    let head = rig.record(1).disks[&disk_id(0)].sequence;
    let name = format!("{head:020}.seg");
    let disk = disk_id(0).to_string();
    let sent = rig.sent().into_keys();
    let object = sent.into_iter().find(|it| it.ends_with(&name) && it.contains(&disk)).unwrap();
    rig.damage(&object, 20);
    rig.lose_tracking();
    rig.work_until(Step::CompareDisk(disk_id(0)));
    let failure = rig.step().unwrap_err();
    assert_eq!(failure.code, Code::ReplicaDamaged, "{failure}");
    rig.fail(failure);
    rig.tell(&Command::Resynchronize { job: JobId(Uuid::from_u128(77)) });
    rig.write(3);
    rig.work_until(Step::CompleteCopy);
    assert_eq!(rig.cycles_known(), [1]);
    rig.perform().unwrap();
    let objects = rig.sent().len();
    rig.restart_engine();
    rig.perform().unwrap();
    assert_eq!(rig.sent().len(), objects, "a copy is declared complete once");
    rig.work_off().unwrap();
    assert_eq!((&rig.vm.phase, rig.vm.delta.generation), (&Phase::Protected, 1));
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
    assert_eq!(rig.cycles_known(), [rig.latest().cycle]);
    // What follows is compared with the new copy.
    rig.change_unseen(4);
    rig.lose_tracking();
    rig.work_off().unwrap();
    rig.expect_replica_of_disks();
}

/// What another writer sends, of the same epoch as the VM until then, is refused from before the copy on, and what it made
/// before is no recovery point of the VM. Work that was killed while it closed the replica does so again.
#[test]
fn a_replica_with_another_writer_is_closed_to_it_before_it_is_copied_anew() {
    let mut rig = Rig::protected();
    rig.write(3);
    rig.copy_anew(77);
    let cycle = rig.vm.first_cycle_of_new_chain();
    let id = RecoveryPoint { cycle, ..rig.latest() }.id(VM);
    let foreign = RecoveryPointRecord { id, cycle, ..rig.record(1) };
    rig.runtime.block_on(rig.proof.put_point(&foreign)).unwrap();
    rig.perform_killed_at_every_request();
    let objects = rig.sent().len();
    rig.step().unwrap();
    assert_eq!((rig.sent().len(), rig.vm.epoch), (objects, 2));
    for disk in [0, 1] {
        let head = rig.runtime.block_on(rig.proof.head(disk_id(disk))).unwrap().unwrap();
        let late = rig.late_delta(disk, head.header.sequence - 1, head.header.previous);
        assert!(matches!(late, Err(VaultError::Fenced { .. })), "{late:?}");
    }
    rig.work_off().unwrap();
    assert_eq!(rig.vm.phase, Phase::Protected);
    assert!(cycle < rig.latest().cycle);
    assert_eq!(rig.cycles_known(), [rig.latest().cycle]);
    assert_eq!(rig.prove(rig.latest().cycle), rig.written);
}

/// Whoever was closed off does not get the replica back by copying it anew, however often that is asked for.
#[test]
fn a_replica_that_somebody_else_has_closed_is_not_taken_over() {
    let mut rig = Rig::protected();
    rig.runtime.block_on(rig.engine.fence(&rig.vm)).unwrap();
    let objects = rig.sent();
    for n in 77..80 {
        rig.copy_anew(n);
        let failure = rig.step().unwrap_err();
        assert_eq!(failure.code, Code::ReplicaInvalid, "{failure}");
        rig.fail(failure);
        assert_eq!((rig.sent(), rig.vm.epoch), (objects.clone(), 1));
    }
    rig.prove(1);
}
