//! Nothing is answered, and nothing is done, before it is durable.

use super::outside::{Answer, Op};
use super::scripted_store::Append;
use super::testbed::{
    DAY, MINUTE, Running, SECOND, Testbed, discover, every_30_s, job_id, stream_of, vault_id, vm_id,
};
use lifeboat::actors::TellError;
use lifeboat::domain::entity::{Entry, NewCommit, Rejection};
use lifeboat::domain::policy::Policy;
use lifeboat::domain::vm::{Command, Event, Phase, PointChoice, RetryReason, Work};
use lifeboat::ports::clock::Clock;
use lifeboat::ports::event_store::{EventStore, StoreError};

fn enable(n: u128) -> Command {
    let policy = Policy::default();
    Command::EnableProtection { job: job_id(n), vault: vault_id(), policy }
}

/// Something else writes to the stream of a VM.
async fn write_behind_its_back(bed: &Testbed, command: Command) {
    use lifeboat::domain::entity::Entity;
    let vm = bed.logged(vm_id(1));
    let at = bed.clock.now();
    let events = vm.decide(&command, at).unwrap();
    let last = bed.store.inner.read_stream(stream_of(vm.id), 1, usize::MAX).unwrap();
    let commit = NewCommit {
        stream: stream_of(vm.id),
        expected_seq: last.len() as u64,
        at,
        actor: "somebody else".to_owned(),
        correlation: None,
        causation: None,
        entry: Entry::Vm { command, events },
    };
    bed.store.inner.append(commit).await.unwrap();
}

#[test]
fn a_command_is_answered_when_it_is_durable_and_its_work_begins_no_earlier() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.discover(1, 1).await;
        bed.store.script(stream_of(vm), [Append::After(7 * SECOND)]);
        let asked = bed.clock.elapsed();
        let told = service.tell_vm(vm, enable(1)).await.unwrap();
        let durable = bed.store.durable_at(told.commit.unwrap());
        assert_eq!(durable, asked + 7 * SECOND);
        assert_eq!(bed.clock.elapsed(), durable);
        service.until(vm, |vm| vm.phase == Phase::Protected).await;
        assert_eq!(bed.outside.began(vm.0, Op::CheckSource), [durable]);
    });
    bed.outside.check();
}

#[test]
fn a_commit_that_never_becomes_durable_is_never_answered_and_leads_to_no_work() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.discover(1, 1).await;
        bed.store.script(stream_of(vm), [Append::Hang]);
        let answer = tokio::time::timeout(DAY, service.tell_vm(vm, enable(1))).await;
        assert!(answer.is_err(), "{answer:?}");
    });
    assert_eq!(bed.outside.calls(), []);
    bed.run(async |service: Running| {
        assert_eq!(service.vm(vm_id(1)).await.phase, Phase::Unprotected);
        service.enable(1, Policy::default()).await;
    });
}

#[test]
fn of_two_commands_at_once_the_second_is_decided_on_the_state_after_the_first() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.discover(1, 1).await;
        bed.store.script(stream_of(vm), [Append::After(3 * SECOND)]);
        let (first, second) =
            tokio::join!(biased; service.tell_vm(vm, enable(1)), service.tell_vm(vm, enable(2)));
        assert!(first.unwrap().commit.is_some());
        let refused = Rejection::NotAllowed {
            operation: "EnableProtection",
            name: "sql-01".to_owned(),
            state: "enabling protection".to_owned(),
            allowed: vec!["DisableProtection"],
        };
        assert!(matches!(second, Err(TellError::Rejected(why)) if why == refused));
    });
}

#[test]
fn a_state_is_told_as_it_is_after_every_command_that_was_sent_before() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        bed.store.script(stream_of(vm_id(1)), [Append::After(3 * SECOND)]);
        let (told, state) =
            tokio::join!(biased; service.tell_vm(vm_id(1), discover(1, 1)), service.vm(vm_id(1)));
        assert!(told.unwrap().commit.is_some());
        assert_eq!(state.phase, Phase::Unprotected);
    });
}

#[test]
fn when_the_store_stops_the_site_says_so_and_nothing_more_is_done() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        service.create_surroundings().await;
        let unlucky = service.protected(1, every_30_s()).await;
        let busy = service.protected(2, every_30_s()).await;
        bed.outside.always(busy.0, Op::Ship, Answer::After(5 * MINUTE));
        service.until(busy, |vm| matches!(vm.work(), Some(Work::Ship { .. }))).await;
        let mut failed = service.site.failed();
        assert_eq!(*failed.borrow_and_update(), None);

        bed.store.script(stream_of(unlucky), [Append::Stop]);
        let policy = Policy { copy_frequency_s: 60, ..every_30_s() };
        let answer = service.tell_vm(unlucky, Command::ChangePolicy { policy }).await;
        assert!(matches!(answer, Err(TellError::Store(StoreError::Stopped { .. }))), "{answer:?}");
        failed.changed().await.unwrap();
        assert!(failed.borrow().as_ref().unwrap().contains("the disk is gone"));

        service.sleep(SECOND).await;
        let calls = bed.outside.calls();
        assert!(calls.iter().all(|call| call.ended.is_some()), "{calls:#?}");
        service.sleep(DAY).await;
        assert_eq!(bed.outside.calls().len(), calls.len());
        let answer = service.tell_vm(busy, Command::PlannedFailover { job: job_id(9) }).await;
        assert!(matches!(answer, Err(TellError::Gone { .. })), "{answer:?}");
    });
}

#[test]
fn a_command_over_the_size_limit_is_refused_and_nobody_else_notices() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        bed.store.script(stream_of(vm), [Append::TooLarge]);
        let policy = Policy { copy_frequency_s: 60, ..every_30_s() };
        let answer = service.tell_vm(vm, Command::ChangePolicy { policy }).await;
        assert!(matches!(answer, Err(TellError::Store(StoreError::TooLarge { .. }))), "{answer:?}");
        assert_eq!(*service.site.failed().borrow(), None);
        assert_eq!(service.vm(vm).await.policy, every_30_s());
        service.until(vm, |vm| 3 <= vm.points.len()).await;
    });
    bed.outside.check();
}

#[test]
fn a_report_over_the_size_limit_is_made_again_after_a_pause() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.discover(1, 1).await;
        let fine = Append::After(std::time::Duration::ZERO);
        bed.store.script(stream_of(vm), [fine, Append::TooLarge, Append::TooLarge]);
        service.enable(1, every_30_s()).await;
        service.until(vm, |vm| vm.phase == Phase::Protected).await;
        let began = bed.outside.began(vm.0, Op::CheckSource);
        assert_eq!(began.len(), 3);
        assert!(began.windows(2).all(|two| SECOND <= two[1] - two[0]), "{began:?}");
    });
    bed.outside.check();
}

#[test]
fn an_actor_whose_stream_was_written_by_another_is_built_anew_and_goes_on() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        let policy = Policy { copy_frequency_s: 60, ..every_30_s() };
        write_behind_its_back(&bed, Command::ChangePolicy { policy }).await;
        let answer =
            service.tell_vm(vm, Command::PlannedFailover { job: job_id(9) }).await.unwrap_err();
        assert!(matches!(answer, TellError::Store(StoreError::WrongSequence { .. })), "{answer:?}");
        // At once: whoever asks does not wait for the supervisor.
        assert_eq!(service.vm(vm).await.policy, policy);
        service.until(vm, |vm| 4 <= vm.points.len()).await;
        service.tell_vm(vm, Command::PlannedFailover { job: job_id(9) }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
        assert_eq!(*service.site.failed().borrow(), None);
    });
    bed.outside.check();
}

#[test]
fn an_actor_that_nobody_asks_finds_by_itself_that_another_wrote_to_its_stream() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        let vm = service.protected(1, every_30_s()).await;
        let policy = Policy { copy_frequency_s: 60, ..every_30_s() };
        write_behind_its_back(&bed, Command::ChangePolicy { policy }).await;
        service.sleep(10 * MINUTE).await;
        let points = bed.logged(vm).points;
        assert!(8 <= points.len(), "{points:?}");
    });
    bed.outside.check();
}

/// The commit of a command is told to the supervisor before its answer is sent: what the answer leads
/// to cannot overtake what the commit leads to.
#[test]
fn every_commit_names_who_asked_and_what_led_to_it() {
    let bed = Testbed::new();
    bed.run(async |service: Running| {
        service.create_surroundings().await;
        let vm = service.protected(1, every_30_s()).await;
        let down = super::outside::link_down(vault_id());
        bed.outside.script(vm.0, Op::Ship, [Answer::Fail(down)]);
        service.until(vm, |vm| vm.trouble.is_some()).await;
        service.until(vm, |vm| vm.trouble.is_none()).await;
        let point = PointChoice::Latest;
        service.tell_vm(vm, Command::UnplannedFailover { job: job_id(7), point }).await.unwrap();
        service.until(vm, |vm| matches!(vm.phase, Phase::CommitPending(_))).await;
    });
    let commits = bed.store.commits();
    let retried = commits
        .iter()
        .find(|commit| {
            matches!(
                &commit.entry,
                Entry::Vm { command: Command::Retry { because: RetryReason::CauseEnded(_) }, .. }
            )
        })
        .unwrap();
    // Delta failed -> the vault is looked for; it answers -> delta tried again.
    let cause = &commits[retried.causation.unwrap() as usize - 1];
    assert!(matches!(&cause.entry, Entry::Vm { events, .. }
        if matches!(events[0], Event::RetryScheduled { .. })));
    let of_the_failover = commits.iter().filter(|commit| commit.correlation == Some(job_id(7)));
    assert_eq!(of_the_failover.count(), 4, "one for each task");
    assert!(commits.iter().all(|commit| !commit.actor.is_empty()));
}
