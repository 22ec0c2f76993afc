//! Kill -9 at every instant of every kind of life: the next start goes on, and it comes to the same.

use super::outside::{Answer, Facts, Op, link_down};
use super::testbed::{
    DAY, HOUR, Running, SECOND, Testbed, every_30_s, job_id, other_host_id, vault_id, vm_id,
};
use lifeboat::domain::catalogue::Code;
use lifeboat::domain::failure::{Cause, Failure};
use lifeboat::domain::id::DiskId;
use lifeboat::domain::job::JobKind;
use lifeboat::domain::policy::Policy;
use lifeboat::domain::vm::{
    AfterFailover, Command, Disk, Event, FailoverKind, Phase, PointChoice, ResyncReason,
    Statistics, Vm, Work,
};
use lifeboat::ports::clock::Clock;
use uuid::Uuid;

const MIB: u64 = 1 << 20;

/// A kind of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Three deltas, a planned failover, its commit.
    Planned,
    /// Three deltas, an unplanned failover in the middle of the fourth, its commit.
    Unplanned,
    /// Three deltas, a loss of tracking, a resynchronization, three deltas.
    Resynchronized,
    /// A link that fails each piece of work once, then as `Planned`.
    OverABadLink,
    /// A planned failover and its commit, a failback and its commit, the reversal, the end of protection.
    ThereAndBack,
    /// A planned failover that is cancelled, then three deltas.
    Cancelled,
    /// Three deltas, a disk that grows, three deltas.
    Resized,
    /// A planned failover and its commit, a failback to another host and its commit, the reversal.
    ToAnotherHost,
    /// Three deltas, a disk that is added, three deltas.
    DiskAdded,
    /// A planned failover and its commit, the end of protection at the recovery site.
    StaysAtRecovery,
    /// Three deltas, an unplanned failover in the middle of the fourth that sends it first, its commit.
    Synchronized,
    /// Three deltas, a test failover and its clean-up, three deltas.
    Tested,
    /// As `Unplanned`, with the oldest point chosen before the commit.
    PointChanged,
    /// As `ThereAndBack`, with everything downloaded.
    BackInFull,
    /// Three deltas, the end of protection of a VM whose host is gone.
    Removed,
    /// An initial replication that begins in an hour, then as `Planned`.
    Scheduled,
    /// A planned failover that commits itself.
    CommitsItself,
    /// A planned failover that undoes itself, then three deltas.
    UndoesItself,
    /// Three deltas, a replica that is found damaged, a copy in full, three deltas.
    CopiedAnew,
}

const LIVES: [Life; 19] = [
    Life::Planned,
    Life::Unplanned,
    Life::Resynchronized,
    Life::OverABadLink,
    Life::ThereAndBack,
    Life::Cancelled,
    Life::Resized,
    Life::ToAnotherHost,
    Life::DiskAdded,
    Life::StaysAtRecovery,
    Life::Synchronized,
    Life::Tested,
    Life::PointChanged,
    Life::BackInFull,
    Life::Removed,
    Life::Scheduled,
    Life::CommitsItself,
    Life::UndoesItself,
    Life::CopiedAnew,
];

/// What a life comes to, but for the times of it.
#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<serde_json::Value>,
    vm: serde_json::Value,
    facts: String,
}

/// Replaces every moment: a kill costs time.
fn without_times(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Number(number)
            if number.as_i64().is_some_and(|number| 1_700_000_000_000 < number) =>
        {
            *value = serde_json::Value::Null;
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(without_times),
        serde_json::Value::Object(values) => values.values_mut().for_each(without_times),
        _ => {}
    }
}

pub(super) fn timeless(value: &impl serde::Serialize) -> serde_json::Value {
    let mut value = serde_json::to_value(value).unwrap();
    without_times(&mut value);
    value
}

fn outcome(bed: &Testbed) -> Outcome {
    let vm = vm_id(1);
    let events = bed.events_of(vm).into_iter().map(|(_, event)| event);
    // How often progress is told, and how often work fails, depends on how often it is begun. When a host that was
    // left answers has nothing to do with the rest.
    let events = events.filter(|event| {
        !matches!(
            event,
            Event::TaskProgressed { .. }
                | Event::RetryScheduled { .. }
                | Event::RetryStarted { .. }
                | Event::HostLeft { .. }
        )
    });
    let Facts { points, fenced, runs_at_primary, runs_at_recovery, .. } = bed.outside.facts(vm);
    let points: Vec<_> = points.into_keys().collect();
    let mut state = bed.logged(vm);
    // How long things took, and how often they failed, is what a kill changes.
    state.statistics = Statistics::default();
    Outcome {
        events: events.map(|event| timeless(&event)).collect(),
        vm: timeless(&state),
        facts: format!("{points:?} {fenced} {runs_at_primary} {runs_at_recovery}"),
    }
}

/// What the operator does when the VM is so; answers whether this life is complete.
async fn operate(service: &Running<'_>, life: Life, vm: &Vm) -> bool {
    let fail_over = 4 <= vm.points.len();
    let command = match &vm.phase {
        Phase::Undiscovered => super::testbed::discover(1, 2),
        Phase::Unprotected if 0 < vm.epoch && 3 < vm.jobs => return true,
        Phase::Unprotected => {
            // A delta that is tried again must not make the next one overdue.
            let every_5_min = Policy { copy_frequency_s: 300, ..every_30_s() };
            let policy = if life == Life::OverABadLink { every_5_min } else { every_30_s() };
            let (job, vault) = (job_id(1), vault_id());
            if life == Life::Scheduled {
                let due = service.bed.clock.now().after(HOUR);
                Command::EnableProtectionAt { job, vault, policy, due }
            } else {
                Command::EnableProtection { job, vault, policy }
            }
        }
        Phase::Protected if life == Life::ToAnotherHost && vm.epoch == 3 => {
            return vm.host == other_host_id() && vm.left.is_empty();
        }
        Phase::Protected if fail_over => match life {
            Life::ThereAndBack | Life::BackInFull if vm.epoch == 3 => {
                Command::DisableProtection { job: job_id(9), source_gone: false }
            }
            Life::Cancelled | Life::UndoesItself if vm.failover.is_none() && 3 < vm.jobs => {
                return 7 <= vm.points.len();
            }
            Life::CopiedAnew if 0 < vm.delta.generation => return true,
            Life::CopiedAnew if vm.allowed_operations().contains(&"RepairReplication") => {
                service.bed.outside.heal(vm.id.0, Op::Ship);
                Command::Resynchronize { job: job_id(2) }
            }
            Life::CopiedAnew => {
                let damaged = Failure::new(Code::ReplicaDamaged, Cause::Itself, "of this life");
                service.bed.outside.always(vm.id.0, Op::Ship, Answer::Fail(damaged));
                return false;
            }
            Life::Resized if vm.former_sizes.is_empty() && vm.resize.is_none() => {
                let Disk { id, size_bytes, .. } = vm.disks[0];
                Command::ResizeDisk { job: job_id(2), disk: id, size_bytes: size_bytes + MIB }
            }
            Life::DiskAdded if vm.added.is_empty() => {
                let disk = Disk {
                    id: DiskId(Uuid::from_u128(7)),
                    name: "data".to_owned(),
                    size_bytes: MIB,
                };
                Command::AddDisk { job: job_id(2), disk, image: "/data.img".to_owned() }
            }
            Life::Resized | Life::DiskAdded => return 9 <= vm.points.len(),
            Life::Removed => Command::DisableProtection { job: job_id(2), source_gone: true },
            Life::Tested if vm.last_test.is_some() => return 7 <= vm.points.len(),
            Life::Tested => match &vm.test {
                None => Command::TestFailover {
                    job: job_id(2),
                    point: PointChoice::Latest,
                    network: "apart".to_owned(),
                    lease_h: 24,
                },
                Some(test)
                    if test.job.kind == JobKind::TestFailover && test.job.ended.is_some() =>
                {
                    Command::CleanUpTestFailover { job: job_id(3), notes: "it booted".to_owned() }
                }
                Some(_) => return false,
            },
            Life::Planned
            | Life::Scheduled
            | Life::OverABadLink
            | Life::ThereAndBack
            | Life::BackInFull
            | Life::ToAnotherHost
            | Life::StaysAtRecovery
            | Life::CommitsItself
            | Life::UndoesItself
            | Life::Cancelled => Command::PlannedFailover { job: job_id(2) },
            Life::Unplanned | Life::PointChanged | Life::Synchronized => {
                // While the next delta is on its way, which hangs.
                service.bed.outside.always(vm.id.0, Op::Ship, Answer::Hang);
                if !matches!(vm.work(), Some(Work::Ship { .. })) {
                    return false;
                }
                if life == Life::Synchronized {
                    Command::SynchronizeAndFailOver { job: job_id(2) }
                } else {
                    Command::UnplannedFailover { job: job_id(2), point: PointChoice::Latest }
                }
            }
            Life::Resynchronized if vm.delta.chain_first_cycle == 1 => {
                let lost = Some(ResyncReason::PowerLoss);
                service.bed.outside.change(vm.id, |facts| facts.tracking_lost = lost);
                return false;
            }
            Life::Resynchronized => return 8 <= vm.points.len(),
        },
        Phase::CommitPending(_) if life == Life::Cancelled && vm.epoch == 2 => {
            Command::CancelFailover { job: job_id(4) }
        }
        Phase::CommitPending(_) if matches!(life, Life::CommitsItself | Life::UndoesItself) => {
            if vm.decision.is_some() || !vm.allowed_operations().contains(&"CancelFailover") {
                return false;
            }
            let commits = life == Life::CommitsItself;
            let then = if commits { AfterFailover::Commit } else { AfterFailover::Cancel };
            let due = service.bed.clock.now().after(HOUR);
            Command::DecideFailover { due, then }
        }
        Phase::CommitPending(_)
            if life == Life::PointChanged
                && vm.failover.is_some_and(|over| over.point.cycle != 1)
                && vm.allowed_operations().contains(&"ChangePit") =>
        {
            Command::ChangeRecoveryPoint { job: job_id(4), point: PointChoice::Cycle(1) }
        }
        Phase::FailedOver(_) if matches!(life, Life::ThereAndBack | Life::BackInFull) => {
            Command::Failback { job: job_id(5), in_full: life == Life::BackInFull }
        }
        Phase::FailedOver(_) if life == Life::ToAnotherHost => {
            let (host, cloud) = (other_host_id(), vm.cloud);
            Command::FailbackToHost { job: job_id(5), in_full: false, host, cloud }
        }
        Phase::FailedOver(_) if life == Life::StaysAtRecovery => {
            Command::DisableProtection { job: job_id(5), source_gone: false }
        }
        Phase::UnprotectedAtRecovery => return vm.points.is_empty(),
        Phase::FailbackReady => Command::CompleteFailback { job: job_id(6) },
        Phase::FailbackCommitPending if vm.allowed_operations().contains(&"Commit") => {
            Command::CommitFailover { job: job_id(7) }
        }
        Phase::FailedBack => Command::ReverseReplicate { job: job_id(8) },
        Phase::CommitPending(_) if vm.allowed_operations().contains(&"Commit") => {
            Command::CommitFailover { job: job_id(3) }
        }
        Phase::FailedOver(_) => return true,
        _ => return false,
    };
    // Refused where the state has moved on since it was looked at.
    let _ = service.tell_vm(vm_id(1), command).await;
    false
}

async fn live(service: Running<'_>, life: Life) {
    let born = service.bed.clock.elapsed();
    loop {
        assert!(service.bed.clock.elapsed() - born < DAY, "{:#?}", service.bed.logged(vm_id(1)));
        if let Ok(vm) = service.site.state::<Vm>(vm_id(1).0).await
            && operate(&service, life, &vm).await
        {
            return;
        }
        service.sleep(SECOND).await;
    }
}

fn testbed(life: Life) -> Testbed {
    let bed = Testbed::new();
    let vm = vm_id(1).0;
    match life {
        Life::Planned
        | Life::Unplanned
        | Life::Resynchronized
        | Life::ThereAndBack
        | Life::ToAnotherHost
        | Life::Resized
        | Life::DiskAdded
        | Life::StaysAtRecovery
        | Life::Synchronized
        | Life::Tested
        | Life::PointChanged
        | Life::BackInFull
        | Life::Removed
        | Life::Scheduled
        | Life::CommitsItself
        | Life::UndoesItself
        | Life::CopiedAnew
        | Life::Cancelled => {}
        Life::OverABadLink => {
            let work = [
                Op::CopyDisk,
                Op::CompleteCopy,
                Op::Ship,
                Op::ShipThrough,
                Op::Verify,
                Op::Serve,
                Op::Start,
            ];
            for op in work {
                bed.outside.fail_once_each(vm, op, link_down(vault_id()));
            }
        }
    }
    bed
}

/// Lives a life that is killed at these instants, each counted from the start before; then to its end.
fn live_through(life: Life, kills: impl IntoIterator<Item = usize>) -> (Testbed, Vec<String>) {
    let bed = testbed(life);
    let mut told = Vec::new();
    for kill in kills.into_iter().map(Some).chain([None]) {
        bed.fate.kill_at(kill);
        let complete = bed.run(async |service: Running| {
            bed.fate.until_killed(live(service, life)).await.is_some()
        });
        told.push(bed.fate.instants());
        if complete {
            break;
        }
    }
    (bed, told.into_iter().next_back().unwrap())
}

fn check_every_kill(life: Life) {
    let (bed, instants) = live_through(life, []);
    bed.outside.check();
    let expected = outcome(&bed);
    assert!(70 < instants.len(), "{instants:#?}");
    for (kill, instant) in instants.iter().enumerate() {
        let (bed, _) = live_through(life, [kill]);
        let place = format!("{life:?}, killed at {kill}: {instant}");
        let found = outcome(&bed);
        let differs = found.events.iter().zip(&expected.events).position(|(one, two)| one != two);
        if let Some(at) = differs {
            let (found, expected) = (&found.events[at], &expected.events[at]);
            panic!("{place}: event {at} is {found}, not {expected}");
        }
        assert_eq!(found, expected, "{place}");
        bed.outside.check();
    }
    println!("{life:?}: {} instants", instants.len());
}

#[test]
fn a_life_with_a_planned_failover_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::Planned);
}

#[test]
fn a_life_with_an_unplanned_failover_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::Unplanned);
}

#[test]
fn a_life_with_a_resynchronization_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::Resynchronized);
}

#[test]
fn a_life_over_a_bad_link_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::OverABadLink);
}

#[test]
fn a_life_there_and_back_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::ThereAndBack);
}

#[test]
fn a_life_with_a_cancelled_failover_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::Cancelled);
}

#[test]
fn a_life_with_a_disk_that_grows_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::Resized);
}

#[test]
fn a_life_that_goes_on_at_another_host_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::ToAnotherHost);
}

#[test]
fn a_life_with_a_disk_that_is_added_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::DiskAdded);
}

#[test]
fn a_life_that_stays_at_the_recovery_site_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::StaysAtRecovery);
}

#[test]
fn a_life_with_a_failover_that_synchronizes_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::Synchronized);
}

#[test]
fn a_life_with_a_test_failover_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::Tested);
}

#[test]
fn a_life_in_which_another_point_is_chosen_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::PointChanged);
}

#[test]
fn a_life_that_comes_back_in_full_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::BackInFull);
}

#[test]
fn a_life_that_ends_without_its_host_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::Removed);
}

#[test]
fn a_life_that_begins_at_its_time_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::Scheduled);
}

#[test]
fn a_life_whose_failover_commits_itself_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::CommitsItself);
}

#[test]
fn a_life_whose_failover_undoes_itself_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::UndoesItself);
}

#[test]
fn a_life_whose_replica_is_copied_anew_comes_to_the_same_whenever_it_is_killed() {
    check_every_kill(Life::CopiedAnew);
}

#[test]
fn a_life_that_is_killed_again_and_again_comes_to_the_same() {
    for life in LIVES {
        let (bed, _) = live_through(life, []);
        let expected = outcome(&bed);
        for first in 0..6 {
            // Not at a fixed distance, which can go on hitting the same work.
            let kills = (0..40).map(|nth| 5 + (first + 7 * nth) % 23);
            let (bed, _) = live_through(life, kills);
            assert_eq!(outcome(&bed), expected, "{life:?}, first killed at {}", 5 + first);
            bed.outside.check();
        }
    }
}

#[test]
fn the_lives_are_what_their_names_say() {
    let kinds = LIVES.map(|life| outcome_kind(&live_through(life, []).0));
    let planned = (Phase::FailedOver(FailoverKind::Planned), false);
    let unplanned = (Phase::FailedOver(FailoverKind::Unplanned), false);
    let expected = [
        planned.clone(),
        unplanned.clone(),
        (Phase::Protected, true),
        planned.clone(),
        (Phase::Unprotected, true),
        (Phase::Protected, false),
        (Phase::Protected, false),
        (Phase::Protected, true),
        (Phase::Protected, false),
        (Phase::UnprotectedAtRecovery, false),
        unplanned.clone(),
        (Phase::Protected, false),
        unplanned,
        (Phase::Unprotected, true),
        (Phase::Unprotected, false),
        planned.clone(),
        planned,
        (Phase::Protected, false),
        (Phase::Protected, true),
    ];
    assert_eq!(kinds, expected);
}

fn outcome_kind(bed: &Testbed) -> (Phase, bool) {
    let vm = bed.logged(vm_id(1));
    let was_resynchronized = 1 < vm.delta.chain_first_cycle;
    (vm.phase, was_resynchronized)
}
