//! Where replicas are placed: networks, subnets, addresses, adapters and sizes.

use super::story::{discover, second};
use lifeboat::domain::entity::{Entity, Rejection};
use lifeboat::domain::fabric::{Command, Event, Fabric, Network, Size, Subnet, Tenant};
use lifeboat::domain::id::{FabricId, VmId};
use lifeboat::domain::machine::{Machine, Nic};
use lifeboat::domain::placement::{
    NicRole, NicTarget, PlacedNic, Placement, Purpose, Remark, Sites,
};
use lifeboat::domain::vm::{self, Side, Vm};
use proptest::prelude::*;
use uuid::Uuid;

fn tell<E: Entity>(entity: &mut E, command: &E::Command) -> Result<usize, Rejection> {
    let events = entity.decide(command, second(0))?;
    for event in &events {
        entity.apply(event, second(0));
    }
    Ok(events.len())
}

fn network(name: &str, isolated: bool, subnets: &[(&str, &str)]) -> Network {
    let subnet = |(name, range): &(&str, &str)| Subnet {
        name: (*name).to_owned(),
        range: (*range).to_owned(),
    };
    let subnets = subnets.iter().map(subnet).collect();
    Network { name: name.to_owned(), logical: None, isolated, subnets }
}

fn size(name: &str, cores: u32, memory_mib: u64, data_disks: u32, nics: u32) -> Size {
    Size { name: name.to_owned(), cores, memory_mib, data_disks, nics }
}

/// A pair of sites: networks web and db are mapped to one, mail to none.
struct Pair {
    primary: Fabric,
    recovery: Fabric,
}

impl Pair {
    fn new() -> Self {
        let fabric = |n, side, networks: Vec<Network>, sizes: Vec<Size>| {
            let mut fabric = Fabric::default();
            let id = FabricId(Uuid::from_u128(n));
            let create = Command::Create { id, name: format!("site-{n}"), side };
            tell(&mut fabric, &create).unwrap();
            tell(&mut fabric, &Command::Describe { networks, sizes }).unwrap();
            fabric
        };
        let networks =
            |names: &[&str]| names.iter().map(|name| network(name, false, &[])).collect();
        let mut primary = fabric(1, Side::Primary, networks(&["web", "db", "mail"]), vec![]);
        let dr = network("dr", false, &[("zone", "10.0.9.0/24"), ("front", "10.0.1.0/29")]);
        let lab = network("lab", true, &[("zone", "10.9.0.0/24"), ("alpha", "10.0.1.0/24")]);
        let sizes = vec![
            size("small", 2, 4096, 1, 1),
            size("medium", 2, 8192, 4, 2),
            size("large", 8, 65536, 16, 4),
        ];
        let recovery = fabric(2, Side::Recovery, vec![dr, lab], sizes);
        for name in ["web", "db"] {
            let to = "dr".to_owned();
            tell(&mut primary, &Command::MapNetwork { network: name.to_owned(), to }).unwrap();
        }
        Self { primary, recovery }
    }

    fn sites(&self) -> Sites<'_> {
        Sites::of([&self.recovery, &self.primary].into_iter()).unwrap()
    }

    #[track_caller]
    fn place(&self, vm: &Vm, purpose: Purpose<'_>) -> Placement {
        self.sites().place(vm, purpose).unwrap().unwrap()
    }

    /// Places a VM and has it hold what it got.
    fn hold(&mut self, vm: &Vm, purpose: Purpose<'_>) -> Placement {
        let placement = self.place(vm, purpose);
        let tenant = Tenant { vm: vm.id, test: matches!(purpose, Purpose::Test(_)) };
        let addresses = placement.addresses();
        tell(&mut self.recovery, &Command::Claim { tenant, addresses }).unwrap();
        placement
    }
}

fn nic(name: &str, network: &str, subnet: Option<&str>, address: Option<&str>) -> Nic {
    Nic {
        name: name.to_owned(),
        network: Some(network.to_owned()),
        subnet: subnet.map(str::to_owned),
        address: address.map(str::to_owned),
        fixed: false,
    }
}

fn vm_with(n: u128, nics: Vec<Nic>) -> Vm {
    let mut vm = Vm::default();
    tell(&mut vm, &discover(2)).unwrap();
    let machine = Machine { cores: 2, memory_mib: 4096, nics, ..Machine::default() };
    tell(&mut vm, &vm::Command::Describe { machine }).unwrap();
    vm.id = VmId(Uuid::from_u128(n));
    vm
}

fn choose(vm: &mut Vm, nic: NicTarget) {
    let target = vm.target.clone().with_nic(nic);
    tell(vm, &vm::Command::ChangeTarget { target }).unwrap();
}

fn target(nic: &str) -> NicTarget {
    NicTarget { nic: nic.to_owned(), ..NicTarget::default() }
}

fn place_of(nic: &PlacedNic) -> (Option<&str>, Option<&str>, Option<&str>) {
    (nic.network.as_deref(), nic.subnet.as_deref(), nic.address.as_deref())
}

#[test]
fn an_adapter_goes_into_the_subnet_of_its_name_and_keeps_its_address() {
    let pair = Pair::new();
    let vm = vm_with(1, vec![nic("a", "web", Some("front"), Some("10.0.1.4"))]);
    let placed = pair.place(&vm, Purpose::Planned);
    assert_eq!(place_of(&placed.nics[0]), (Some("dr"), Some("front"), Some("10.0.1.4")));
    assert_eq!((placed.nics[0].remark.clone(), placed.nics[0].primary), (None, true));
}

#[test]
fn without_a_subnet_of_its_name_it_is_the_first_and_in_a_test_the_first_by_name() {
    let pair = Pair::new();
    let vm = vm_with(1, vec![nic("a", "db", Some("back"), None)]);
    let placed = pair.place(&vm, Purpose::Unplanned);
    assert_eq!(
        place_of(&placed.nics[0]),
        (Some("dr"), Some("zone"), None),
        "its address is leased"
    );
    let test = pair.place(&vm, Purpose::Test("lab"));
    assert_eq!(place_of(&test.nics[0]), (Some("lab"), Some("alpha"), None));
}

#[test]
fn an_address_that_is_held_or_outside_gives_way_to_the_next_free_one() {
    let mut pair = Pair::new();
    let with = |n, address| vm_with(n, vec![nic("a", "web", Some("front"), Some(address))]);
    pair.hold(&with(1, "10.0.1.1"), Purpose::Unplanned);
    let second = pair.hold(&with(2, "10.0.1.1"), Purpose::Unplanned);
    assert_eq!(second.nics[0].address.as_deref(), Some("10.0.1.2"));
    let taken = Some(Remark::AddressTaken { wanted: "10.0.1.1".to_owned() });
    assert_eq!(second.nics[0].remark, taken);
    for outside in ["10.0.1.0", "10.0.1.7", "10.0.2.1", "none"] {
        let placed = pair.place(&with(3, outside), Purpose::Unplanned);
        assert_eq!(placed.nics[0].address.as_deref(), Some("10.0.1.3"), "{outside}");
        let outside = Some(Remark::AddressOutside { wanted: outside.to_owned() });
        assert_eq!(placed.nics[0].remark, outside);
    }
    for n in 3..=6 {
        pair.hold(&with(n, "10.0.1.1"), Purpose::Unplanned);
    }
    let full = pair.place(&with(7, "10.0.1.1"), Purpose::Unplanned);
    assert_eq!(
        (full.nics[0].address.clone(), full.nics[0].remark.clone()),
        (None, Some(Remark::NoAddressFree))
    );
    let again = pair.place(&with(2, "10.0.1.1"), Purpose::Unplanned);
    assert_eq!(
        again.nics[0].address.as_deref(),
        Some("10.0.1.2"),
        "what it holds is free to itself"
    );
}

#[test]
fn what_was_chosen_and_cannot_be_had_stops_a_planned_failover_and_no_other() {
    let mut pair = Pair::new();
    pair.hold(
        &vm_with(1, vec![nic("a", "web", Some("front"), Some("10.0.1.1"))]),
        Purpose::Planned,
    );
    let mut vm = vm_with(2, vec![nic("a", "web", Some("front"), Some("10.0.1.5"))]);
    choose(&mut vm, NicTarget { address: Some("10.0.1.1".to_owned()), ..target("a") });
    vm.target.size = Some("huge".to_owned());
    let wrong = pair.sites().place(&vm, Purpose::Planned).unwrap().unwrap_err();
    assert_eq!(wrong.len(), 2, "all at once: {wrong:?}");
    assert!(wrong[0].contains("no size huge") && wrong[1].contains("somebody else holds 10.0.1.1"));
    let placed = pair.place(&vm, Purpose::Unplanned);
    assert_eq!(placed.nics[0].address.as_deref(), Some("10.0.1.2"));
    assert_eq!(placed.size.as_deref(), Some("medium"), "the smallest that fits");
}

#[test]
fn a_network_that_is_not_mapped_leaves_the_adapter_unconnected_unless_another_is_chosen() {
    let pair = Pair::new();
    let mut vm = vm_with(1, vec![nic("a", "mail", None, Some("10.0.9.4"))]);
    let placed = pair.place(&vm, Purpose::Planned);
    assert_eq!(place_of(&placed.nics[0]), (None, None, None));
    assert_eq!(placed.nics[0].remark, Some(Remark::NotMapped { network: "mail".to_owned() }));
    choose(&mut vm, NicTarget { network: Some("dr".to_owned()), ..target("a") });
    let placed = pair.place(&vm, Purpose::Planned);
    assert_eq!(place_of(&placed.nics[0]), (Some("dr"), Some("zone"), Some("10.0.9.4")));
}

#[test]
fn exactly_one_adapter_is_primary_and_as_many_are_made_as_the_size_takes() {
    let pair = Pair::new();
    let nics = || ["a", "b", "c"].map(|name| nic(name, "web", None, None)).to_vec();
    let mut vm = vm_with(1, nics());
    let names = |placed: &Placement| {
        placed.nics.iter().map(|it| (it.nic.clone(), it.primary)).collect::<Vec<_>>()
    };
    let is = |name: &str, primary| (name.to_owned(), primary);
    let placed = pair.place(&vm, Purpose::Planned);
    assert_eq!(placed.size.as_deref(), Some("large"), "one that takes all its adapters");
    assert_eq!(names(&placed), [is("a", true), is("b", false), is("c", false)]);
    choose(&mut vm, NicTarget { role: NicRole::LeftOut, ..target("a") });
    choose(&mut vm, NicTarget { role: NicRole::Primary, ..target("c") });
    let placed = pair.place(&vm, Purpose::Planned);
    assert_eq!(
        (names(&placed), placed.size.as_deref()),
        (vec![is("b", false), is("c", true)], Some("medium"))
    );
    vm.target.size = Some("small".to_owned());
    let placed = pair.place(&vm, Purpose::Planned);
    assert_eq!(names(&placed), [is("b", true)], "the size that was chosen takes one");
}

#[test]
fn a_vm_that_no_size_takes_is_told_of_it() {
    let pair = Pair::new();
    let mut vm = vm_with(1, vec![]);
    vm.machine.as_mut().unwrap().cores = 64;
    let wrong = pair.sites().place(&vm, Purpose::Planned).unwrap().unwrap_err();
    assert!(wrong[0].contains("no size that takes the VM"), "{wrong:?}");
    assert!(pair.place(&vm, Purpose::Unplanned).no_size_fits);
}

#[test]
fn a_test_runs_in_an_isolated_network_of_the_recovery_site() {
    let pair = Pair::new();
    assert_eq!(pair.sites().admits(Purpose::Test("lab")), Ok(()));
    for (wrong, says) in [("dr", "is not isolated"), ("home", "is none of")] {
        let refused = pair.sites().admits(Purpose::Test(wrong)).unwrap_err();
        assert!(refused.contains(says) && refused.ends_with("one of: lab"), "{refused}");
    }
    assert!(Sites::of([&pair.primary].into_iter()).is_none(), "without a recovery site");
}

#[test]
fn an_address_is_held_by_one_until_it_is_released() {
    let mut pair = Pair::new();
    let vm = |n| vm_with(n, vec![nic("a", "web", Some("front"), Some("10.0.1.1"))]);
    let placement = pair.hold(&vm(1), Purpose::Unplanned);
    let claim = |n, test| {
        let tenant = Tenant { vm: VmId(Uuid::from_u128(n)), test };
        Command::Claim { tenant, addresses: placement.addresses() }
    };
    let refused = tell(&mut pair.recovery, &claim(2, false)).unwrap_err();
    assert_eq!(refused.to_string(), "address 10.0.1.1 in network dr is held by another VM");
    assert!(tell(&mut pair.recovery, &claim(1, true)).is_err(), "not by its own test either");
    assert_eq!(tell(&mut pair.recovery, &claim(1, false)), Ok(0), "it holds it already");
    let tenant = Tenant { vm: VmId(Uuid::from_u128(1)), test: false };
    assert_eq!(tell(&mut pair.recovery, &Command::Release { tenant }), Ok(1));
    assert_eq!(tell(&mut pair.recovery, &Command::Release { tenant }), Ok(0));
    assert_eq!(tell(&mut pair.recovery, &claim(2, false)), Ok(1));
}

/// A VM that runs at the recovery site where these adapters were placed.
fn placed_there(pair: &Pair, vm: &mut Vm) {
    vm.placement = Some(pair.place(vm, Purpose::Unplanned));
}

#[test]
fn on_the_way_back_an_adapter_goes_into_the_network_that_it_came_from() {
    let pair = Pair::new();
    let mut vm = vm_with(1, vec![nic("a", "web", None, None), nic("b", "db", None, None)]);
    placed_there(&pair, &mut vm);
    let back = pair.place(&vm, Purpose::Failback);
    let networks: Vec<_> = back.nics.iter().map(|nic| nic.network.as_deref()).collect();
    assert_eq!(networks, [Some("web"), Some("db")], "both are mapped to one");
    assert_eq!((back.size, back.no_size_fits), (None, false), "the VM is what it was");
}

#[test]
fn on_the_way_back_the_mapping_of_that_moment_is_read() {
    let remap = |pair: &mut Pair, network: &str, to: &str| {
        let (network, to) = (network.to_owned(), to.to_owned());
        tell(&mut pair.primary, &Command::MapNetwork { network, to }).unwrap();
    };
    let unmap = |pair: &mut Pair, network: &str| {
        let network = network.to_owned();
        tell(&mut pair.primary, &Command::UnmapNetwork { network }).unwrap();
    };
    let back = |pair: &Pair, vm: &Vm| pair.place(vm, Purpose::Failback).nics[0].network.clone();
    let mut pair = Pair::new();
    let mut vm = vm_with(1, vec![nic("a", "web", None, None)]);
    placed_there(&pair, &mut vm);
    remap(&mut pair, "web", "lab");
    assert_eq!(back(&pair, &vm).as_deref(), Some("db"), "what leads to where it is");
    unmap(&mut pair, "db");
    assert_eq!(back(&pair, &vm).as_deref(), Some("web"), "nobody moved it");

    // One that was put by hand where nothing leads to is not connected.
    choose(&mut vm, NicTarget { network: Some("lab".to_owned()), ..target("a") });
    placed_there(&pair, &mut vm);
    assert_eq!(back(&pair, &vm).as_deref(), Some("web"), "web leads there");
    unmap(&mut pair, "web");
    assert_eq!(back(&pair, &vm), None);

    let mut vm = vm_with(1, vec![nic("a", "mail", None, None)]);
    placed_there(&pair, &mut vm);
    assert_eq!(back(&pair, &vm), None, "its replica was not connected either");
}

#[test]
fn an_adapter_that_its_replica_did_not_get_is_what_it_was() {
    let pair = Pair::new();
    let mut vm = vm_with(1, vec![nic("a", "web", None, None), nic("b", "db", None, None)]);
    choose(&mut vm, NicTarget { role: NicRole::LeftOut, ..target("b") });
    placed_there(&pair, &mut vm);
    assert_eq!(vm.placement.as_ref().map(|placement| placement.nics.len()), Some(1));
    let back = pair.place(&vm, Purpose::Failback);
    assert_eq!(back.nics[1].network.as_deref(), Some("db"));
}

#[test]
fn a_network_that_is_gone_stops_the_way_back_by_its_name() {
    let mut pair = Pair::new();
    let mut vm = vm_with(1, vec![nic("a", "web", None, None), nic("b", "db", None, None)]);
    placed_there(&pair, &mut vm);
    let networks = vec![network("db", false, &[])];
    tell(&mut pair.primary, &Command::Describe { networks, sizes: vec![] }).unwrap();
    let wrong = pair.sites().place(&vm, Purpose::Failback).unwrap().unwrap_err();
    assert_eq!(wrong, ["a: the primary site has no network web"]);
}

proptest! {
    /// Whatever they want, and whoever comes and goes, no two hold one address, and each has one of its subnet.
    #[test]
    fn no_two_vms_ever_hold_one_address(
        moves in proptest::collection::vec((1_u128..9, 0_u8..9, any::<bool>()), 1..40)
    ) {
        let mut pair = Pair::new();
        for (n, wanted, comes) in moves {
            let wanted = format!("10.0.1.{wanted}");
            let vm = vm_with(n, vec![nic("a", "web", Some("front"), Some(&wanted))]);
            if comes {
                pair.hold(&vm, Purpose::Unplanned);
            } else {
                let tenant = Tenant { vm: vm.id, test: false };
                tell(&mut pair.recovery, &Command::Release { tenant }).unwrap();
            }
            let mut held: Vec<_> = pair.recovery.leases.iter().map(|it| &it.address).collect();
            held.sort();
            let all = held.len();
            held.dedup();
            prop_assert_eq!(held.len(), all);
            for lease in &pair.recovery.leases {
                let last: u8 = lease.address.address.rsplit('.').next().unwrap().parse().unwrap();
                prop_assert!((1..=6).contains(&last), "{:?}", lease);
            }
        }
    }
}

#[test]
fn mapping_a_network_again_changes_what_is_used_and_the_same_again_says_nothing() {
    let mut pair = Pair::new();
    let map = |to: &str| Command::MapNetwork { network: "web".to_owned(), to: to.to_owned() };
    assert_eq!(tell(&mut pair.primary, &map("dr")), Ok(0));
    assert_eq!(tell(&mut pair.primary, &map("lab")), Ok(1));
    let vm = vm_with(1, vec![nic("a", "web", None, None)]);
    assert_eq!(pair.place(&vm, Purpose::Planned).nics[0].network.as_deref(), Some("lab"));
    let unmap = Command::UnmapNetwork { network: "web".to_owned() };
    let events = pair.primary.decide(&unmap, second(0)).unwrap();
    assert_eq!(events, [Event::NetworkUnmapped { network: "web".to_owned() }]);
    tell(&mut pair.primary, &unmap).unwrap();
    assert_eq!(tell(&mut pair.primary, &unmap), Ok(0));
}
