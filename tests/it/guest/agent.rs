//! The product on the host: a `lifeboat serve` that can be killed, and what it put into its vault.

use super::{Lab, command, text_of, wait_until};
use lifeboat::actors::load_entity;
use lifeboat::domain::entity::{Kind, StreamId};
use lifeboat::domain::id::{DiskId, VaultId, VmId};
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::Vm;
use lifeboat::ports::clock::Clock;
use lifeboat::replica::{RecoveryPointRecord, Vault};
use lifeboat::service::SystemClock;
use lifeboat::store::SledStore;
use std::fs::{self, File};
use std::path::Path;
use std::process::Child;
use tokio::runtime::Runtime;

/// A process that serves disks; killed if the test ends before it does.
pub(super) struct Agent {
    process: Child,
}

impl Agent {
    /// `lifeboat serve`; returns when it serves.
    pub(super) fn serve(lab: &Lab, name: &str) -> Self {
        let log = lab.path(&format!("{name}.log"));
        let process = command(env!("CARGO_BIN_EXE_lifeboat"))
            .args(["serve", "--config"])
            .arg(lab.config())
            .env_remove("LIFEBOAT_LOG")
            .stderr(File::create_new(&log).unwrap())
            .spawn()
            .unwrap();
        Self::started(process, &log, "the service runs")
    }

    /// A process that says in its log when it serves.
    pub(super) fn started(mut process: Child, log: &Path, serving: &str) -> Self {
        wait_until(&format!("`{serving}` in {}", log.display()), || {
            let said = text_of(log);
            assert!(process.try_wait().unwrap().is_none(), "it ended: {said}");
            said.contains(serving)
        });
        Self { process }
    }

    /// kill -9.
    pub(super) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGTERM; it must end well.
    pub(super) fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let mut ended = None;
        wait_until("the service to stop", || {
            ended = self.process.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().code(), Some(0));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The replica of the one VM of a data folder. Its ids are read from the names of the vault's folders,
/// so that nothing has to stop for it.
pub(super) struct Replica {
    vault: Vault,
    vm: VmId,
    runtime: Runtime,
}

impl Replica {
    /// Waits until there is a recovery point.
    pub(super) fn of(data: &Path) -> Self {
        let objects = data.join("vault/v1");
        let only_name = |folder: &Path| {
            let names: Vec<_> = fs::read_dir(folder).ok()?.flatten().collect();
            names.first().and_then(|entry| entry.file_name().to_str()?.parse().ok())
        };
        let mut found = None;
        wait_until("the first recovery point", || {
            found = only_name(&objects).and_then(|vault: uuid::Uuid| {
                only_name(&objects.join(vault.to_string()).join("vm")).map(|vm| (vault, vm))
            });
            found.is_some()
        });
        let (vault, vm) = found.unwrap();
        let vault = Vault::in_folder(&data.join("vault"), VaultId(vault)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { vault, vm: VmId(vm), runtime }
    }

    /// The recovery points, oldest first.
    pub(super) fn points(&self) -> Vec<RecoveryPointRecord> {
        let list = self.runtime.block_on(self.vault.points(self.vm)).unwrap();
        assert!(list.damaged.is_empty(), "{:?}", list.damaged);
        list.points
    }

    /// Waits for a recovery point of a later second than this one.
    pub(super) fn wait_for_point_after(&self, moment: Timestamp) {
        wait_until("a recovery point of what is there now", || {
            self.points().last().is_some_and(|point| moment < point.at)
        });
    }

    /// Waits for a recovery point of a later second than the present one.
    pub(super) fn wait_for_next_point(&self) {
        self.wait_for_point_after(SystemClock.now());
    }

    /// The VM as the event log of a stopped service has it.
    pub(super) fn state_of_vm(&self, data: &Path) -> Vm {
        let store = SledStore::open(&data.join("events")).unwrap();
        let stream = StreamId { kind: Kind::Vm, id: self.vm.0 };
        let (vm, _) = load_entity(&store, stream).unwrap();
        store.close().unwrap();
        vm
    }

    /// Every byte of the only disk at a point.
    pub(super) fn content(&self, point: &RecoveryPointRecord) -> Vec<u8> {
        let disks: Vec<(&DiskId, _)> = point.disks.iter().collect();
        let [(disk, at)] = disks[..] else { panic!("{point:?}") };
        self.runtime.block_on(async {
            let image = self.vault.open_disk(*disk, at.sequence).await.unwrap();
            let mut bytes = vec![0; image.size_bytes() as usize];
            image.read_at(0, &mut bytes).await.unwrap();
            bytes
        })
    }
}
