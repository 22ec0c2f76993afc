//! kill -9 of a whole service while its guests write: initial copies, deltas and starts are cut short,
//! and nothing is lost.

use super::{Place, Running, done};
use lifeboat::actors::load_entity;
use lifeboat::disk::files::RealFiles;
use lifeboat::disk::raw::RawDisk;
use lifeboat::domain::entity::{Kind, StreamId};
use lifeboat::domain::id::VaultId;
use lifeboat::domain::vm::{Health, Phase, Vm};
use lifeboat::drivers::lab::{LastWrite, Workload, check};
use lifeboat::ports::clock::Clock;
use lifeboat::ports::event_store::EventStore;
use lifeboat::ports::files::Open;
use lifeboat::replica::Vault;
use lifeboat::service::SystemClock;
use lifeboat::store::SledStore;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Kills in a row.
const KILLS: u64 = 10;

/// Milliseconds after the start within which a kill comes: from before the first guest is switched on
/// to after several deltas.
const KILL_WITHIN_MS: u64 = 1_600;

/// A run that is long enough for a delta, and how many there are at most.
const RUN: Duration = Duration::from_millis(1_500);
const RUNS: usize = 8;

const MIB: u64 = 1 << 20;

/// VM, seed, and sizes of its disks in MiB.
const GUESTS: [(&str, u64, &[u64]); 2] = [("web-01", 1, &[8]), ("db-01", 2, &[8, 12])];
const INSTALL_MIB: u64 = 3;

fn site() -> String {
    let mut text = "[[host]]\nname = \"host-1\"\n".to_owned();
    for (name, seed, disks) in GUESTS {
        let disk = |(number, mib)| {
            format!("{{ name = 'd{number}', path = 'disks/{name}-{number}', create_mib = {mib} }}")
        };
        let disks: Vec<_> = disks.iter().enumerate().map(disk).collect();
        let guest = format!("{{ seed = {seed}, install_mib = {INSTALL_MIB} }}");
        let disks = disks.join(", ");
        text += &format!("[[host.vm]]\nname = \"{name}\"\ndisk = [{disks}]\nguest = {guest}\n");
    }
    text
}

/// All VMs that the log of a stopped service knows, and its vault.
pub(super) fn logged(data: &Path) -> (Vec<Vm>, VaultId) {
    let store = SledStore::open(&data.join("events")).unwrap();
    let commits = store.read_all(1, 1_000_000).unwrap();
    let streams: BTreeSet<StreamId> = commits.iter().map(|commit| commit.stream).collect();
    let of = |kind| streams.iter().filter(move |stream| stream.kind == kind);
    let vms = of(Kind::Vm).map(|stream| load_entity::<Vm>(&store, *stream).unwrap().0).collect();
    let vault = VaultId(of(Kind::Vault).next().unwrap().id);
    store.close().unwrap();
    (vms, vault)
}

/// Runs the service, in several runs if need be, until each of these VMs is protected and Normal and
/// has a recovery point of the last run; answers them.
pub(super) fn protected_and_normal(place: &Place, names: &[&str]) -> (Vec<Vm>, VaultId) {
    let mut seen = Vec::new();
    for _ in 0..RUNS {
        let began = SystemClock.now();
        let service = Running::serve(&place.config());
        sleep(RUN);
        assert_eq!(service.stop().code(), Some(0));
        let (vms, vault) = logged(&place.data());
        let good = |name: &&str| {
            vms.iter().find(|vm| vm.name == **name).is_some_and(|vm| {
                vm.phase == Phase::Protected
                    && vm.health(SystemClock.now()) == Health::Normal
                    && vm.latest_point().is_some_and(|point| began <= point.at)
            })
        };
        if names.iter().all(good) {
            return (vms, vault);
        }
        seen = vms;
    }
    panic!("not all of {names:?} are protected and Normal after {RUNS} runs: {seen:#?}");
}

#[test]
fn whenever_a_service_is_killed_it_goes_on_where_it_was_and_loses_nothing() {
    let place = Place::new(&site());
    let mut written = vec![0; GUESTS.len()];
    let mut instant = 7_u64;
    for _ in 0..KILLS {
        let service = Running::serve(&place.config());
        instant = instant.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        sleep(Duration::from_millis((instant >> 33) % KILL_WITHIN_MS));
        service.kill();
        // A guest that had written once never comes back with less.
        for (guest, before) in GUESTS.iter().zip(&mut written) {
            let last = last_write_of_images(&place, guest);
            assert!(*before <= last, "{} went back from write {before} to {last}", guest.0);
            *before = last;
        }
    }
    let names: Vec<_> = GUESTS.iter().map(|(name, ..)| *name).collect();
    let (vms, vault) = protected_and_normal(&place, &names);
    let verified = done(&["events", "verify", "--data", &place.data_text()]);
    assert!(verified.contains("sound"), "{verified}");

    for (guest, killed_at) in GUESTS.iter().zip(written) {
        let vm = vms.iter().find(|vm| vm.name == guest.0).unwrap();
        let source = last_write_of_images(&place, guest);
        let replica = last_write_of_newest_point(&place, vault, vm, guest);
        assert!(replica <= source, "{}: the replica is ahead", guest.0);
        assert!(killed_at <= replica, "{}: {replica} of {killed_at} writes", guest.0);
    }
}

fn workload((_, seed, disks): &(&str, u64, &[u64])) -> Workload {
    let sizes = disks.iter().map(|mib| mib * MIB).collect();
    Workload::new(*seed, sizes, INSTALL_MIB * MIB).unwrap()
}

/// Proves that the files hold what the guest's first writes leave; answers how many.
fn last_write(guest: &(&str, u64, &[u64]), files: &[String], last: LastWrite) -> u64 {
    let open = |file| RawDisk::open(&RealFiles, Path::new(file), Open::Read).unwrap();
    let disks: Vec<_> = files.iter().map(open).collect();
    let disks: Vec<_> = disks.iter().map(|disk| disk as _).collect();
    check(&workload(guest), &disks, last, &|_, _| {}).unwrap().last_write
}

fn last_write_of_images(place: &Place, guest: &(&str, u64, &[u64])) -> u64 {
    let file = |number| format!("{}/disks/{}-{number}", place.data_text(), guest.0);
    let files: Vec<_> = (0..guest.2.len()).map(file).collect();
    if files.iter().any(|file| !Path::new(file).exists()) {
        return 0;
    }
    last_write(guest, &files, LastWrite::MayBeTorn)
}

/// Reads the newest recovery point from the vault. Its disks must be of one instant.
fn last_write_of_newest_point(
    place: &Place,
    vault: VaultId,
    vm: &Vm,
    guest: &(&str, u64, &[u64]),
) -> u64 {
    let vault = Vault::in_folder(&place.data().join("vault"), vault).unwrap();
    let cycle = vm.latest_point().unwrap().cycle;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut files = Vec::new();
    for disk in &vm.disks {
        let file = place.file(&format!("{}-{}", guest.0, disk.name));
        let bytes = runtime.block_on(async {
            let point = vault.point(vm.id, cycle).await.unwrap().unwrap();
            let sequence = point.disks.get(&disk.id).unwrap().sequence;
            let image = vault.open_disk(disk.id, sequence).await.unwrap();
            let mut bytes = vec![0; image.size_bytes() as usize];
            image.read_at(0, &mut bytes).await.unwrap();
            bytes
        });
        fs::write(&file, bytes).unwrap();
        files.push(file);
    }
    last_write(guest, &files, LastWrite::Whole)
}
