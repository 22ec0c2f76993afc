//! A VM that stays at the recovery site: its disks become whole there while it runs, whatever dies meanwhile, and from
//! then on it needs nothing of the vault.

use super::failback::three_points;
use super::tap::Death;
use super::{Rig, SIZES, VM, engine_on, job};
use lifeboat::disk::files::{MemoryFiles, RealFiles};
use lifeboat::disk::raw::RawDisk;
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::{Command, Phase};
use lifeboat::drivers::lab::Fault;
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::Open;
use lifeboat::ports::replication::Replication;

const ENDING: u128 = 8;

impl Rig {
    /// A VM that runs at the recovery site, and has written there.
    fn away_for_good() -> Self {
        let mut rig = three_points(Self::protected());
        rig.move_away();
        rig.write_away(10);
        rig
    }

    fn end_protection(&mut self) {
        self.tell(&Command::DisableProtection { job: job(ENDING), source_gone: false });
    }

    fn serve_away(&self) {
        let point = self.vm.failover_point().unwrap();
        self.runtime.block_on(self.engine.serve(&self.vm, point)).unwrap();
    }

    /// The service is killed, and starts again.
    fn restart_away(&mut self) {
        for disk in 0..SIZES.len() {
            self.exports.remove(&format!("sql-01-disk{disk}"));
        }
        self.restart_engine();
        self.serve_away();
    }

    /// The disks that the VM runs on hold every write.
    #[track_caller]
    fn expect_away_whole(&self) {
        let disks = self.away();
        let disks: Vec<&dyn BlockDevice> = disks.iter().map(|disk| &**disk as _).collect();
        assert_eq!(self.prove_disks(&disks), self.written);
    }

    /// And so do the files, as raw images.
    #[track_caller]
    fn expect_images_whole(&self) {
        let folders = self.recovery_folders();
        assert_eq!(folders.len(), 1, "{folders:?}");
        let folder = self.folder.path().join("recovery").join(VM.to_string()).join(&folders[0]);
        let open = |disk| {
            let path = folder.join(format!("disk{disk}.overlay"));
            RawDisk::open(&RealFiles, &path, Open::Read).unwrap()
        };
        let images: Vec<RawDisk> = (0..SIZES.len()).map(open).collect();
        let images: Vec<&dyn BlockDevice> = images.iter().map(|image| image as _).collect();
        assert_eq!(self.prove_disks(&images), self.written);
    }

    fn own_objects(&self) -> Vec<String> {
        let is_own = |object: &String| object.contains("/disk/") || object.contains("/vm/");
        self.objects().into_iter().filter(is_own).collect()
    }

    /// It goes on without the vault, also by a service that starts without it.
    #[track_caller]
    fn expect_vault_is_left(&mut self) {
        assert_eq!(self.vm.phase, Phase::UnprotectedAtRecovery);
        assert_eq!(self.own_objects(), [""; 0]);
        self.faults.raise(Fault::LinkCut);
        for _ in 0..2 {
            self.write_away(5);
            self.expect_away_whole();
            self.expect_images_whole();
            self.restart_away();
        }
        self.expect_away_whole();
    }
}

#[test]
fn a_vm_that_writes_on_stays_with_every_write_and_needs_the_vault_no_more() {
    let mut rig = Rig::away_for_good();
    rig.end_protection();
    while rig.vm.work().is_some() {
        rig.write_away(3);
        rig.step().unwrap();
        rig.expect_away_whole();
    }
    rig.expect_vault_is_left();
}

#[test]
fn a_service_that_is_killed_at_every_request_goes_on_with_what_it_has() {
    let mut rig = Rig::away_for_good();
    rig.end_protection();
    let mut deaths = 0;
    while rig.vm.work().is_some() {
        let before = rig.vm.work();
        for requests in 0.. {
            let death = if requests % 2 == 0 { Death::Before } else { Death::After };
            rig.tap.die_after(requests, death);
            let done = rig.perform();
            rig.tap.revive();
            // It may have done all of its work and not lived to say so.
            rig.restart_away();
            rig.write_away(1);
            if done.is_ok() {
                break;
            }
            deaths += 1;
        }
        assert_eq!(rig.vm.work(), before);
        rig.step().unwrap();
    }
    assert!(10 < deaths, "{deaths}");
    rig.expect_vault_is_left();
}

#[test]
fn an_end_of_protection_that_is_given_up_at_any_task_leaves_a_vm_that_can_be_failed_back() {
    for step in [Step::CheckDisable, Step::DownloadDisk(super::disk_id(1)), Step::LeaveVault] {
        for performed in [false, true] {
            let mut rig = Rig::away_for_good();
            rig.end_protection();
            rig.work_until(step);
            if performed {
                rig.perform().unwrap();
            }
            rig.tell(&Command::CancelJob { job: job(ENDING) });
            assert!(matches!(rig.vm.phase, Phase::FailedOver(_)), "{:?}", rig.vm.phase);
            rig.write_away(5);
            rig.expect_away_whole();
            rig.restart_away();
            rig.write_away(5);
            rig.synchronize();
            rig.come_back();
            rig.protect_again();
            rig.expect_replication();
        }
    }
}

#[test]
fn what_of_a_disk_is_there_already_is_not_downloaded_and_room_is_asked_for_the_rest() {
    let mut rig = Rig::away_for_good();
    rig.end_protection();
    let files = MemoryFiles::new(7);
    files.set_free_bytes(64 << 10);
    let (vault, sources, exports) = (&rig.vault, &rig.sources, &rig.exports);
    let (runtime, folder, clock) = (&rig.runtime, &rig.folder, &rig.clock);
    let small = engine_on(files.clone(), runtime, vault, sources, exports, folder, clock);
    let point = rig.vm.failover_point().unwrap();
    let check = async {
        small.serve(&rig.vm, point).await?;
        small.check_download(&rig.vm).await
    };
    let refused = rig.runtime.block_on(check).unwrap_err();
    assert_eq!(refused.code, Code::PrerequisiteFailed, "{refused}");
    assert!(refused.to_string().contains("room at the recovery site"), "{refused}");
    files.set_free_bytes(1 << 30);
    rig.runtime.block_on(small.check_download(&rig.vm)).unwrap();

    // Of sparse disks it is little, and once it is there it is nothing.
    rig.restart_away();
    rig.work_until(Step::LeaveVault);
    rig.faults.raise(Fault::LinkCut);
    rig.runtime.block_on(rig.engine.check_download(&rig.vm)).unwrap();
}
