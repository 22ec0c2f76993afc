//! Guests on disks whose connections break.

use super::rack::{Arrived, Rack};
use lifeboat::drivers::lab::{
    AfterBoot, CheckError, Crash, Guest, LastWrite, Machine, State, TRANSACTION_WRITES, Workload,
};
use lifeboat::ports::block::BlockDevice;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

fn workload() -> Workload {
    Workload::new(5, vec![1 << 20, 512 << 10], 256 << 10).unwrap()
}

fn machine(rack: &Arc<Rack>) -> Machine {
    Machine {
        name: "sql-01".to_owned(),
        workload: workload(),
        uris: rack.uris(),
        connect: Rack::connect(&[rack]),
        writes_per_second: NonZeroU32::new(10_000).unwrap(),
        after_boot: AfterBoot::KeepWriting,
        last_write: LastWrite::Whole,
        patience: Duration::from_mins(1),
    }
}

fn impatient(rack: &Arc<Rack>) -> Machine {
    Machine { patience: Duration::ZERO, ..machine(rack) }
}

fn crash(guest: &Guest) -> Arc<Crash> {
    match guest.wait_until(|_| false).state {
        State::Crashed(crash) => crash,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_writes_its_workload_and_stop_flushes_it() {
    let rack = Rack::new("a", &workload());
    let guest = Guest::start(machine(&rack));
    assert_eq!(guest.wait_booted().unwrap().last_write, 0);
    guest.wait_until(|status| 200 <= status.acknowledged);
    assert!(matches!(guest.status().state, State::Running));
    guest.stop().unwrap();

    let status = guest.status();
    assert!(matches!(status.state, State::Stopped));
    assert_eq!(status.issued, status.acknowledged);
    assert_eq!(status.flushed, status.acknowledged);
    assert_eq!(rack.last_write(&workload()), status.acknowledged);
    let arrived = rack.arrived();
    assert_eq!(
        arrived[arrived.len() - 2..],
        [Arrived::Flush { disk: 0 }, Arrived::Flush { disk: 1 }]
    );
    let before_flush = arrived.iter().position(|it| matches!(it, Arrived::Flush { .. }));
    assert_eq!(before_flush, Some(64));
    guest.stop().unwrap();
    assert_eq!(rack.arrived(), arrived, "a second stop does nothing");
    assert_eq!(Arc::strong_count(&rack), 2, "the guest is disconnected; connect holds the rack");
}

#[test]
fn a_guest_survives_an_agent_that_goes_and_comes_back() {
    let rack = Rack::new("a", &workload());
    let guest = Guest::start(machine(&rack));
    guest.wait_until(|status| 50 <= status.acknowledged);
    rack.break_connections();
    guest.wait_until(|status| 150 <= status.acknowledged);
    rack.go_down();
    let stuck = guest.wait_until(|status| status.acknowledged < status.issued);
    rack.come_up();
    guest.wait_until(|status| stuck.issued + 100 <= status.acknowledged);
    guest.stop().unwrap();
    assert_eq!(rack.last_write(&workload()), guest.status().acknowledged);
}

#[test]
fn a_write_whose_answer_was_lost_is_issued_again() {
    let rack = Rack::new("a", &workload());
    let guest = Guest::start(machine(&rack));
    guest.wait_until(|status| 30 <= status.acknowledged);
    rack.lose_next_answer();
    guest.wait_until(|status| 200 <= status.acknowledged);
    guest.stop().unwrap();
    let writes = |it: &&Arrived| matches!(it, Arrived::Write { .. });
    let arrived = rack.arrived().iter().filter(writes).count() as u64;
    assert_eq!(arrived, guest.status().acknowledged + 1);
    assert_eq!(rack.last_write(&workload()), guest.status().acknowledged);
}

#[test]
fn a_disk_that_stays_away_crashes_the_guest_and_stop_flushes_once_it_is_back() {
    let rack = Rack::new("a", &workload());
    let guest = Guest::start(impatient(&rack));
    guest.wait_until(|status| 30 <= status.acknowledged);
    rack.go_down();
    assert!(matches!(*crash(&guest), Crash::Disk { .. }));
    let refused = guest.stop().unwrap_err();
    assert!(matches!(*refused, Crash::Disk { operation: "flush", disk: 0, .. }));
    rack.come_up();
    let before = rack.arrived().len();
    guest.stop().unwrap();
    assert_eq!(rack.arrived()[before..], [Arrived::Flush { disk: 0 }, Arrived::Flush { disk: 1 }]);
}

#[test]
fn a_killed_guest_leaves_a_prefix_and_writes_nothing_more() {
    for wanted in [1, 3, 40, 130] {
        let rack = Rack::new("a", &workload());
        let guest = Guest::start(machine(&rack));
        guest.wait_until(|status| wanted <= status.acknowledged);
        guest.kill();
        let arrived = rack.arrived();
        let status = guest.status();
        assert!(matches!(*crash(&guest), Crash::Killed { .. }));
        let last = rack.last_write(&workload());
        assert!((status.acknowledged..=status.issued).contains(&last), "{last} {status:?}");
        assert_eq!(rack.arrived(), arrived);
        assert_eq!(Arc::strong_count(&rack), 2, "its connections are dropped");
    }
}

#[test]
fn a_dropped_guest_ends() {
    let rack = Rack::new("a", &workload());
    let guest = Guest::start(machine(&rack));
    guest.wait_until(|status| 1 <= status.acknowledged);
    drop(guest);
    // The thread lets go of the rack when it ends.
    while Arc::strong_count(&rack) != 1 {
        std::thread::yield_now();
    }
}

#[test]
fn a_guest_goes_on_after_the_last_write_on_its_disks() {
    let rack = Rack::after("a", &workload(), 77);
    let guest = Guest::start(machine(&rack));
    assert_eq!(guest.wait_booted().unwrap().last_write, 77);
    guest.wait_until(|status| 150 <= status.acknowledged);
    guest.stop().unwrap();
    let write = workload().write(78);
    let first = Arrived::Write { disk: write.disk, offset: write.offset() };
    assert_eq!(rack.arrived()[0], first);
    assert_eq!(rack.last_write(&workload()), guest.status().acknowledged);
}

#[test]
fn a_write_that_the_host_was_killed_in_is_made_whole() {
    let workload = workload();
    let torn = (20..100).find(|n| 1 < workload.write(*n).blocks).unwrap();
    let rack = Rack::after("a", &workload, torn - 1);
    let write = workload.write(torn);
    rack.disks[write.disk]
        .write_at(&workload.content(torn)[..4096], write.offset(), false)
        .unwrap();

    let strict = Guest::start(machine(&rack));
    let crash = strict.wait_booted().unwrap_err();
    assert!(matches!(&*crash, Crash::BootCheck { source: CheckError::Mismatch(_), .. }));

    let guest = Guest::start(Machine { last_write: LastWrite::MayBeTorn, ..machine(&rack) });
    let checked = guest.wait_booted().unwrap();
    assert_eq!((checked.last_write, checked.torn), (torn - 1, true));
    guest.wait_until(|status| torn <= status.acknowledged);
    guest.stop().unwrap();
    assert_eq!(rack.last_write(&workload), guest.status().acknowledged);
}

#[test]
fn a_guest_does_not_boot_from_damaged_disks_and_leaves_them_alone() {
    let rack = Rack::after("a", &workload(), 50);
    rack.disks[1].change(|bytes| bytes[5000] ^= 1);
    let guest = Guest::start(machine(&rack));
    let crash = guest.wait_booted().unwrap_err();
    assert!(matches!(&*crash, Crash::BootCheck { source: CheckError::Mismatch(_), .. }));
    assert_eq!(rack.arrived(), []);
    assert!(guest.status().boot.is_none());
}

#[test]
fn an_idle_guest_leaves_its_disks_as_they_are() {
    let rack = Rack::after("a", &workload(), 50);
    let guest = Guest::start(Machine { after_boot: AfterBoot::Idle, ..machine(&rack) });
    guest.wait_booted().unwrap();
    guest.stop().unwrap();
    assert_eq!(rack.arrived(), [Arrived::Flush { disk: 0 }, Arrived::Flush { disk: 1 }]);
    assert_eq!(rack.last_write(&workload()), 50);
}

#[test]
fn a_guest_whose_disk_code_panics_is_off() {
    let rack = Rack::new("a", &workload());
    let connect = Arc::new(|_: &str| panic!("no such disk"));
    let guest = Guest::start(Machine { connect, ..machine(&rack) });
    assert!(guest.wait_booted().unwrap_err().to_string().contains("no such disk"));
}

#[test]
fn a_guest_at_rest_has_finished_its_transaction_and_writes_nothing_until_it_is_let_go_on() {
    let rack = Rack::new("a", &workload());
    let slow = NonZeroU32::new(20).unwrap();
    let guest = Guest::start(Machine { writes_per_second: slow, ..machine(&rack) });
    guest.wait_until(|status| 20 < status.acknowledged);
    // At 20 writes a second the rest of the transaction would take three; it hurries.
    guest.freeze(Duration::from_mins(1)).unwrap();
    let status = guest.status();
    assert!(status.acknowledged.is_multiple_of(TRANSACTION_WRITES), "{status:?}");
    assert_eq!((status.flushed, status.issued), (status.acknowledged, status.acknowledged));
    let arrived = rack.arrived();
    assert_eq!(rack.last_write(&workload()), status.acknowledged);
    guest.thaw().unwrap();
    guest.wait_until(|later| status.acknowledged + 2 < later.acknowledged);
    assert_eq!(rack.arrived()[..arrived.len()], arrived);
    assert!(guest.thaw().is_err(), "it was not at rest");
    guest.stop().unwrap();
    assert!(guest.freeze(Duration::from_secs(1)).is_err(), "it is off");
}

#[test]
fn a_guest_that_nobody_lets_go_on_does_so_by_itself() {
    let rack = Rack::new("a", &workload());
    let guest = Guest::start(machine(&rack));
    guest.wait_booted().unwrap();
    guest.freeze(Duration::from_millis(300)).unwrap();
    let at_rest = guest.status().acknowledged;
    guest.wait_until(|status| at_rest + 100 <= status.acknowledged);
    assert!(guest.thaw().is_err(), "nobody may believe that it was at rest until here");
    guest.freeze(Duration::from_mins(1)).unwrap();
    guest.stop().unwrap();
    assert!(matches!(guest.status().state, State::Stopped), "a guest at rest can be shut down");
}

#[test]
fn a_guest_whose_disk_is_away_does_not_come_to_rest_and_goes_on_later() {
    let rack = Rack::new("a", &workload());
    let guest = Guest::start(machine(&rack));
    guest.wait_until(|status| 10 < status.acknowledged);
    rack.go_down();
    assert!(guest.freeze(Duration::from_millis(200)).is_err());
    rack.come_up();
    let before = guest.status().acknowledged;
    guest.wait_until(|status| before + 100 <= status.acknowledged);
    let idle = Guest::start(Machine {
        after_boot: AfterBoot::Idle,
        ..machine(&Rack::new("b", &workload()))
    });
    idle.wait_booted().unwrap();
    idle.freeze(Duration::from_mins(1)).unwrap();
    idle.thaw().unwrap();
}
