//! The prerequisites of protection: each check fails for what it is about, and all are told at once.

use super::story::{discover, disk_id, enable, second};
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::machine::{
    Architecture, DiskFormat, DiskRole, DiskTraits, Feature, Generation, Machine, Nic, System,
};
use lifeboat::domain::prerequisites::{CHECKS, verdicts};
use lifeboat::domain::vm::{Command, Vm};
use std::collections::BTreeSet;

fn tell(vm: &mut Vm, command: &Command) {
    for event in vm.decide(command, second(0)).unwrap() {
        vm.apply(&event, second(0));
    }
}

fn traits(n: u128) -> DiskTraits {
    DiskTraits {
        disk: disk_id(n),
        role: if n == 0 { DiskRole::Os } else { DiskRole::Data },
        format: DiskFormat::Vhdx,
        dynamic: false,
        shared: false,
        fibre_channel: false,
        encrypted: false,
        sector_bytes: 512,
    }
}

/// A VM with disks of 1 GiB, of which the first is the OS disk, and with nothing that fails a check.
fn described(disks: u128, change: impl Fn(&mut Machine)) -> Vm {
    let mut vm = Vm::default();
    tell(&mut vm, &discover(disks));
    let mut machine = Machine { disks: (0..disks).map(traits).collect(), ..Machine::default() };
    change(&mut machine);
    tell(&mut vm, &Command::Describe { machine });
    vm
}

fn failing(vm: &Vm) -> Vec<&'static str> {
    verdicts(vm).iter().filter(|verdict| verdict.found.is_some()).map(|it| it.id).collect()
}

#[test]
fn every_check_fails_for_what_it_is_about_and_for_nothing_else() {
    let disk = |n: usize, change: fn(&mut DiskTraits)| {
        described(2, move |machine| change(&mut machine.disks[n]))
    };
    let uses = |feature| described(1, move |machine| machine.features.extend([feature]));
    let renamed = |name: &str| {
        let mut vm = described(1, |_| {});
        name.clone_into(&mut vm.name);
        vm
    };
    let sized = |n: usize, gib: u64, generation| {
        let mut vm = described(2, |machine| {
            machine.generation = generation;
            machine.system = System::Windows;
        });
        vm.disks[n].size_bytes = gib << 30;
        vm
    };
    let second_generation = |system, disks| {
        described(disks, move |machine| {
            (machine.generation, machine.system) = (Generation::Two, system);
        })
    };
    let fixed = described(1, |machine| {
        machine.nics.push(Nic {
            name: "eth0".to_owned(),
            network: None,
            subnet: None,
            address: Some("10.0.0.9".to_owned()),
            fixed: true,
        });
    });
    let cases = vec![
        (renamed("-web"), "vm-name"),
        (renamed("web 1"), "vm-name"),
        (renamed(&"a".repeat(64)), "vm-name"),
        (described(1, |machine| machine.architecture = Architecture::X86), "architecture"),
        (second_generation(System::Linux, 1), "generation"),
        (second_generation(System::Windows, 4), "generation"),
        (disk(0, |it| it.role = DiskRole::Data), "os-disk"),
        (disk(1, |it| it.role = DiskRole::Os), "os-disk"),
        (sized(0, 2049, Generation::One), "os-disk-size"),
        (sized(0, 301, Generation::Two), "os-disk-size"),
        (disk(0, |it| it.dynamic = true), "os-disk-basic"),
        (uses(Feature::LvmOnOsDisk), "os-disk-lvm"),
        (described(18, |_| {}), "data-disks"),
        (sized(1, 4096, Generation::One), "data-disk-size"),
        (disk(1, |it| it.format = DiskFormat::PassThrough), "disk-format"),
        (disk(1, |it| it.shared = true), "disk-shared"),
        (disk(1, |it| it.fibre_channel = true), "disk-fibre-channel"),
        (disk(1, |it| it.encrypted = true), "disk-encrypted"),
        (disk(1, |it| it.sector_bytes = 4096), "disk-sectors"),
        (uses(Feature::HotDisks), "hot-disks"),
        (uses(Feature::GuestSmb3), "guest-smb3"),
        (uses(Feature::Ipv6), "ipv6"),
        (uses(Feature::NicTeaming), "nic-teaming"),
        (uses(Feature::AcceleratedNetworking), "accelerated-networking"),
        (fixed, "linux-static-address"),
        (uses(Feature::NanoServer), "nano-server"),
    ];
    for (vm, check) in &cases {
        assert_eq!(failing(vm), [*check], "{:?}", vm.machine);
    }
    let tried: BTreeSet<_> = cases.iter().map(|(_, check)| *check).collect();
    let all: BTreeSet<_> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(tried, all, "every check is tried, and has a name of its own");
    assert_eq!(CHECKS.len(), all.len());
}

#[test]
fn what_just_keeps_to_the_rules_passes() {
    let fine = |vm: &Vm| assert_eq!(failing(vm), Vec::<&str>::new());
    fine(&described(17, |machine| machine.disks[1].dynamic = true));
    fine(&described(3, |machine| {
        (machine.generation, machine.system) = (Generation::Two, System::Windows);
        let nic = Nic {
            name: "eth0".to_owned(),
            network: None,
            subnet: None,
            address: None,
            fixed: true,
        };
        machine.nics.push(nic);
    }));
    let mut large = described(2, |_| {});
    (large.disks[0].size_bytes, large.disks[1].size_bytes) = (2048 << 30, 4095 << 30);
    fine(&large);
}

#[test]
fn protection_is_refused_with_every_check_that_fails() {
    let vm = described(2, |machine| {
        machine.architecture = Architecture::X86;
        machine.disks[0].encrypted = true;
        machine.features.insert(Feature::Ipv6);
    });
    let Err(Rejection::Prerequisites { name, failed }) = vm.decide(&enable(), second(1)) else {
        panic!("it was allowed");
    };
    assert_eq!((name.as_str(), failed.len()), ("sql-01", 3));
    assert!(failed[1].starts_with("disk-encrypted: disk0 is encrypted"), "{failed:?}");
    assert!(failed[1].contains("Decrypt the disk"), "with what to do: {failed:?}");
}

#[test]
fn a_vm_that_nobody_described_is_not_held_to_the_rules() {
    let mut vm = Vm::default();
    tell(&mut vm, &discover(30));
    assert_eq!(verdicts(&vm), []);
    assert!(vm.decide(&enable(), second(1)).is_ok());
}
