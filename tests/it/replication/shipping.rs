//! Deltas, interrupted between any two of their steps.

use super::tap::Death;
use super::{Rig, VAULT, job};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::job::Step;
use lifeboat::domain::vm::{Command, Outcome, Phase, PointChoice, Stage};

#[test]
fn a_delta_killed_at_any_request_makes_exactly_one_point_when_it_is_sent_again() {
    let mut rig = Rig::protected();
    for death in [Death::Before, Death::After] {
        for requests in 0.. {
            rig.write(3);
            rig.wake();
            rig.step().unwrap();
            let cycle = rig.vm.delta.cycle;
            rig.tap.die_after(requests, death);
            let result = rig.step();
            assert_eq!(result.is_err(), rig.tap.revive(), "{result:?}");
            if let Err(failure) = &result {
                assert_eq!(failure.code, Code::LinkDown, "{failure}");
                assert!(rig.tracker.transit().is_some(), "the logs went without an answer");
                if requests % 2 == 0 {
                    rig.restart_engine();
                }
                rig.step().unwrap();
            }
            assert_eq!(rig.tracker.transit(), None);
            assert_eq!(rig.cycles_in_vault(), rig.cycles_known());
            assert_eq!(rig.latest().cycle, cycle);
            assert_eq!(rig.prove(cycle), rig.written);
            if result.is_ok() {
                assert!(5 < requests, "the whole delta has {requests} requests");
                break;
            }
        }
    }
}

#[test]
fn an_answer_that_is_lost_on_its_way_to_the_vm_is_given_again() {
    let mut rig = Rig::protected();
    rig.write(3);
    rig.wake();
    let snapshot = rig.perform().unwrap();
    rig.write(3);
    assert_eq!(rig.perform().unwrap(), snapshot);
    rig.step().unwrap();
    let shipped = rig.perform().unwrap();
    rig.restart_engine();
    assert_eq!(rig.perform().unwrap(), shipped);
    rig.step().unwrap();
    assert_eq!(rig.prove(rig.latest().cycle), rig.written - 3);
}

/// Where the delta stands that a planned failover meets.
#[derive(Clone, Copy, Debug)]
enum Met {
    Waiting,
    NotCut,
    CutUnreported,
    InTransit,
    ShippedUnreported,
}

impl Met {
    const ALL: [Self; 5] = [
        Self::Waiting,
        Self::NotCut,
        Self::CutUnreported,
        Self::InTransit,
        Self::ShippedUnreported,
    ];

    fn reach(self, rig: &mut Rig) {
        rig.write(2);
        if let Self::Waiting = self {
            return;
        }
        rig.wake();
        match self {
            Self::Waiting | Self::NotCut => {}
            Self::CutUnreported => _ = rig.perform().unwrap(),
            Self::InTransit => rig.step().unwrap(),
            Self::ShippedUnreported => {
                rig.step().unwrap();
                rig.perform().unwrap();
            }
        }
    }
}

#[test]
fn a_planned_failover_sends_everything_in_the_cycles_that_are_its_own() {
    for met in Met::ALL {
        for (requests, death) in [
            (0, Death::Before),
            (3, Death::After),
            (6, Death::Before),
            (9, Death::After),
            (12, Death::Before),
            (14, Death::After),
            (17, Death::After),
            (1000, Death::Before),
        ] {
            let mut rig = Rig::protected();
            met.reach(&mut rig);
            let next = rig.vm.delta.cycle;
            rig.write(2);
            rig.tell(&Command::PlannedFailover { job: job(2) });
            rig.work_until(Step::PrepareForFailover);
            let own = next..=rig.vm.last_cycle_of_job();
            assert!(*own.end() <= next + 1);
            rig.tap.die_after(requests, death);
            let attempt = rig.perform();
            assert_eq!(attempt.is_err(), rig.tap.revive());
            rig.restart_engine();
            let Command::ReportDone { outcome: Outcome::Fenced { found: points }, .. } =
                rig.perform().unwrap()
            else {
                panic!("no points");
            };
            assert!(points.iter().all(|point| own.contains(&point.cycle)), "{met:?} {points:?}");
            rig.step().unwrap();
            assert_eq!(rig.cycles_known(), rig.cycles_in_vault(), "{met:?}");
            assert_eq!(rig.prove(rig.latest().cycle), rig.written, "{met:?} {requests}");
            assert_eq!(rig.tracker.transit(), None);
            assert!(!rig.tracker.has_writes());
        }
    }
}

/// A planned failover has sent its last cut, which the VM never hears of, and led back.
fn led_back(met: Met) -> Rig {
    let mut rig = Rig::protected();
    rig.write(1);
    rig.cycle();
    met.reach(&mut rig);
    rig.tell(&Command::PlannedFailover { job: job(2) });
    rig.work_until(Step::PrepareForFailover);
    rig.perform().unwrap();
    let point = PointChoice::Cycle(1);
    rig.tell(&Command::UnplannedFailover { job: job(3), point });
    let failure = Failure::new(Code::ReplicaDamaged, Cause::Vault(VAULT), "its point is damaged");
    rig.fail(failure);
    assert_eq!(rig.vm.phase, Phase::Protected);
    rig
}

#[test]
fn a_delta_goes_on_after_a_planned_failover_that_led_back() {
    for met in [Met::Waiting, Met::InTransit] {
        let mut rig = led_back(met);
        rig.write(5);
        rig.work_off().unwrap();
        while !matches!(rig.vm.delta.stage, Stage::Waiting { .. })
            || rig.prove(rig.latest().cycle) < rig.written
        {
            rig.cycle();
        }
        assert_eq!(rig.cycles_in_vault(), rig.cycles_known(), "{met:?}");
    }
}

#[test]
fn a_planned_failover_loses_nothing_after_one_that_led_back() {
    for met in Met::ALL {
        let mut rig = led_back(met);
        rig.write(5);
        rig.tell(&Command::PlannedFailover { job: job(4) });
        rig.work_until(Step::StartFailover);
        assert_eq!(rig.prove(rig.latest().cycle), rig.written, "{met:?}");
        assert!(!rig.tracker.has_writes());
    }
}

/// The cut that was under way when it was paused is not the last one.
#[test]
fn a_failover_of_a_paused_vm_loses_nothing_wherever_its_sending_breaks_off() {
    let planned = (Command::PlannedFailover { job: job(2) }, Step::PrepareForFailover);
    let synchronized = (Command::SynchronizeAndFailOver { job: job(2) }, Step::FenceSource);
    for (requests, (command, sends)) in
        (0..20).flat_map(|requests| [(requests, &planned), (requests, &synchronized)])
    {
        let mut rig = Rig::protected();
        Met::InTransit.reach(&mut rig);
        rig.tell(&Command::PauseReplication);
        rig.write(3);
        rig.tell(command);
        rig.work_until(*sends);
        rig.tap.die_after(requests, if requests % 2 == 0 { Death::Before } else { Death::After });
        let attempt = rig.perform();
        assert_eq!(attempt.is_err(), rig.tap.revive());
        rig.restart_engine();
        rig.work_until(Step::StartFailover);
        assert_eq!(rig.prove(rig.latest().cycle), rig.written, "after {requests} requests");
    }
}
