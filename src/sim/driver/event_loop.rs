//! A discrete-event loop over the entities: what the actors do, without actors.
//!
//! One queue holds the parts that have something to do, an entity or the supervisor each; a part is run until
//! it waits. The queue is in the order of their becoming ready, which is what the actors' executor does,
//! or shuffled by the seed. Time passes only when it is empty.

use super::{Service, State};
use crate::actors::{
    Alarm, Hosted, IDLE_PAUSE, Origin, Outlet, Reporter, RetrySupervision, TellError, TimerId,
    Timers, Told, World, load_entity,
};
use crate::domain::cloud::Cloud;
use crate::domain::entity::{Commit, Entity, Entry, Kind, NewCommit, StreamId};
use crate::domain::fabric::Fabric;
use crate::domain::failure::Failure;
use crate::domain::host::Host;
use crate::domain::plan::Plan;
use crate::domain::vault::Vault;
use crate::domain::vm::Vm;
use crate::ports::event_store::StoreError;
use crate::sim::dice::Dice;
use futures_util::future::{BoxFuture, FutureExt, LocalBoxFuture};
use futures_util::task::AtomicWaker;
use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

/// A part of the service that is run on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Supervisor,
    Entity(StreamId),
}

type Answer = oneshot::Sender<Result<Told, TellError>>;

/// What an entity is sent.
#[expect(clippy::large_enum_variant, reason = "nearly every letter is the large one")]
enum Letter {
    Tell {
        command: Entry,
        origin: Origin,
        ends: Option<Box<dyn Any + Send>>,
        answer: Option<Answer>,
    },
    Inspect(oneshot::Sender<State>),
}

/// What the supervisor is sent.
enum Notice {
    Find(StreamId, oneshot::Sender<Result<(), TellError>>),
    SetTimer { id: TimerId, longest: Duration, wake: Box<dyn FnOnce() + Send> },
    ClearTimer(TimerId),
    Committed(Arc<Commit>),
    Suspect(Failure),
}

/// The mail, and the queue of parts that have something to do.
struct Hub {
    inner: Mutex<Mail>,
    task: AtomicWaker,
}

#[derive(Default)]
struct Mail {
    letters: BTreeMap<StreamId, VecDeque<Letter>>,
    notices: VecDeque<Notice>,
    ready: VecDeque<Part>,
    queued: BTreeSet<Part>,
}

impl Hub {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_ready(&self, part: Part) {
        let mut mail = self.mail();
        if mail.queued.insert(part) {
            mail.ready.push_back(part);
        }
        drop(mail);
        self.task.wake();
    }

    /// The next part; by the dice where there are any.
    fn next_ready(&self, dice: Option<&Dice>) -> Option<Part> {
        let mut mail = self.mail();
        let count = mail.ready.len() as u64;
        let index = match dice {
            Some(dice) if 1 < count => (dice.next("what is ready") % count) as usize,
            _ => 0,
        };
        let part = mail.ready.remove(index)?;
        mail.queued.remove(&part);
        Some(part)
    }

    fn send(&self, to: StreamId, letter: Letter) {
        self.mail().letters.entry(to).or_default().push_back(letter);
        self.make_ready(Part::Entity(to));
    }

    fn notify(&self, notice: Notice) {
        self.mail().notices.push_back(notice);
        self.make_ready(Part::Supervisor);
    }

    fn letter(&self, to: StreamId) -> Option<Letter> {
        self.mail().letters.get_mut(&to)?.pop_front()
    }

    fn waker(self: &Arc<Self>, part: Part) -> Waker {
        Waker::from(Arc::new(PartWaker { hub: Arc::clone(self), part }))
    }

    /// Finds an entity, then tells it something.
    async fn tell(
        self: Arc<Self>,
        stream: StreamId,
        command: Entry,
        origin: Origin,
    ) -> Result<Told, TellError> {
        let gone = |_| TellError::Gone { stream };
        let (found, answer) = oneshot::channel();
        self.notify(Notice::Find(stream, found));
        answer.await.map_err(gone)??;
        let (told, answer) = oneshot::channel();
        self.send(stream, Letter::Tell { command, origin, ends: None, answer: Some(told) });
        answer.await.map_err(gone)?
    }
}

struct PartWaker {
    hub: Arc<Hub>,
    part: Part,
}

impl Wake for PartWaker {
    fn wake(self: Arc<Self>) {
        self.hub.make_ready(self.part);
    }
}

/// The way from work back into the loop.
struct LoopOutlet(Arc<Hub>);

impl Outlet for LoopOutlet {
    fn report(&self, stream: StreamId, command: Entry, origin: Origin) {
        self.0.send(stream, Letter::Tell { command, origin, ends: None, answer: None });
    }

    fn tell(
        &self,
        stream: StreamId,
        command: Entry,
        origin: Origin,
    ) -> BoxFuture<'static, Result<Told, TellError>> {
        Box::pin(Arc::clone(&self.0).tell(stream, command, origin))
    }
}

/// An entity with the work that it calls for.
struct Hosting<E: Hosted> {
    stream: StreamId,
    /// Shared with the work that is done for it.
    state: Arc<E>,
    seq: u64,
    hub: Arc<Hub>,
    world: Arc<World>,
    waker: Waker,
    /// The commit that the state comes from last; `None` before the first since it was loaded.
    last: Option<u64>,
    running: BTreeMap<E::Effect, Running>,
    works: Vec<Work<E>>,
    begun: Vec<Work<E>>,
    works_begun: u64,
    /// Work that is not wanted any more. As the actors do it, what comes first is polled before it goes.
    cancelled: Vec<u64>,
    timers_set: u64,
    appending: Option<Appending<E>>,
    /// What is answered without an append. As the actors do it, a piece of work is polled before.
    answered: Option<(Option<Answer>, Result<Told, TellError>)>,
    started: bool,
}

/// A piece of work: its number, what called for it, and its future; that gives nothing where it panics.
type Work<E> = (u64, <E as Entity>::Effect, LocalBoxFuture<'static, Option<Done<E>>>);

/// What work reports in the end, and the commit that called for it.
type Done<E> = (<E as Entity>::Command, Option<u64>);

/// What is being done about an effect, and the commit that called for it.
struct Running {
    by: By,
    called_by: Option<u64>,
}

enum By {
    Work(u64),
    Timer(TimerId),
}

struct Appending<E: Hosted> {
    append: LocalBoxFuture<'static, Result<Commit, StoreError>>,
    ends: Option<E::Effect>,
    answer: Option<Answer>,
}

/// An entity of any type.
trait Run {
    /// Runs it until it waits; answers why the service must end, if so.
    fn run(&mut self) -> Option<String>;
}

impl<E: Hosted> Hosting<E>
where
    State: From<E>,
{
    fn load(stream: StreamId, world: &Arc<World>, hub: &Arc<Hub>) -> Result<Self, StoreError> {
        let (state, seq) = load_entity::<E>(&*world.store, stream)?;
        Ok(Self {
            stream,
            state: Arc::new(state),
            seq,
            hub: Arc::clone(hub),
            world: Arc::clone(world),
            waker: hub.waker(Part::Entity(stream)),
            last: None,
            running: BTreeMap::new(),
            works: Vec::new(),
            begun: Vec::new(),
            works_begun: 0,
            cancelled: Vec::new(),
            timers_set: 0,
            appending: None,
            answered: None,
            started: false,
        })
    }

    fn align_work(&mut self) {
        let wanted = self.state.pending();
        let stale: Vec<_> =
            self.running.keys().filter(|effect| !wanted.contains(effect)).cloned().collect();
        for effect in stale {
            match self.running.remove(&effect).map(|running| running.by) {
                Some(By::Work(nth)) => self.cancelled.push(nth),
                Some(By::Timer(id)) => self.hub.notify(Notice::ClearTimer(id)),
                None => {}
            }
        }
        for effect in wanted {
            if !self.running.contains_key(&effect) {
                let by = self.begin(effect.clone(), self.last, Duration::ZERO);
                self.running.insert(effect, Running { by, called_by: self.last });
            }
        }
    }

    fn begin(&mut self, effect: E::Effect, called_by: Option<u64>, pause: Duration) -> By {
        if let Some(Alarm { due, longest, command }) = self.state.alarm(&effect) {
            self.timers_set += 1;
            let id = TimerId { due, stream: self.stream, nth: self.timers_set };
            let (hub, stream) = (Arc::clone(&self.hub), self.stream);
            let wake = move || {
                let (command, ends) = (E::entry(command, vec![]), Some(Box::new(effect) as _));
                let origin = Origin::called("timer", called_by);
                hub.send(stream, Letter::Tell { command, origin, ends, answer: None });
            };
            self.hub.notify(Notice::SetTimer { id, longest, wake: Box::new(wake) });
            return By::Timer(id);
        }
        let outlet = Arc::new(LoopOutlet(Arc::clone(&self.hub)));
        let reporter = Reporter::through(outlet, self.stream, called_by);
        let work = E::perform(&self.state, effect.clone(), Arc::clone(&self.world), reporter);
        let work = async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            work.await
        };
        let work = AssertUnwindSafe(work).catch_unwind();
        let work = work.map(move |ended| Some((ended.ok()?, called_by)));
        self.works_begun += 1;
        self.begun.push((self.works_begun, effect, work.boxed_local()));
        By::Work(self.works_begun)
    }

    fn ended_in_vain(&mut self, effect: Option<E::Effect>) {
        let Some(effect) = effect else { return };
        let Some(Running { called_by, .. }) = self.running.remove(&effect) else { return };
        if self.state.pending().contains(&effect) {
            let by = self.begin(effect.clone(), called_by, IDLE_PAUSE);
            self.running.insert(effect, Running { by, called_by });
        }
    }

    fn handle(&mut self, letter: Letter) {
        match letter {
            Letter::Inspect(answer) => drop(answer.send(State::from(E::clone(&self.state)))),
            Letter::Tell { command, origin, ends, answer } => {
                let Some((command, _)) = E::of(&command) else { return };
                let ends = ends.and_then(|ends| ends.downcast::<E::Effect>().ok());
                self.decide(command.clone(), origin, ends.map(|ends| *ends), answer);
            }
        }
    }

    fn decide(
        &mut self,
        command: E::Command,
        origin: Origin,
        ends: Option<E::Effect>,
        answer: Option<Answer>,
    ) {
        let now = self.world.clock.now();
        let events = match self.state.decide(&command, now) {
            Ok(events) => events,
            Err(rejection) => {
                self.ended_in_vain(ends);
                self.answered = Some((answer, Err(rejection.into())));
                return;
            }
        };
        if events.is_empty() {
            self.ended_in_vain(ends);
            self.answered = Some((answer, Ok(Told { commit: None })));
            return;
        }
        let commit = NewCommit {
            stream: self.stream,
            expected_seq: self.seq,
            at: now,
            actor: origin.actor,
            correlation: origin.correlation.or_else(|| self.state.running_job()),
            causation: origin.causation,
            entry: E::entry(command, events),
        };
        let store = Arc::clone(&self.world.store);
        let append = Box::pin(async move { store.append(commit).await });
        self.appending = Some(Appending { append, ends, answer });
    }

    fn appended(
        &mut self,
        result: Result<Commit, StoreError>,
        ends: Option<E::Effect>,
        answer: Option<Answer>,
    ) -> Option<String> {
        match result {
            Ok(commit) => {
                let global = commit.global;
                if let Some(effect) = ends {
                    self.running.remove(&effect);
                }
                if let Some((_, events)) = E::of(&commit.entry) {
                    let state = Arc::make_mut(&mut self.state);
                    for event in events {
                        state.apply(event, commit.at);
                    }
                }
                (self.seq, self.last) = (commit.seq, Some(commit.global));
                self.hub.notify(Notice::Committed(Arc::new(commit)));
                self.align_work();
                tell(answer, Ok(Told { commit: Some(global) }));
                None
            }
            Err(error @ StoreError::TooLarge { .. }) => {
                self.ended_in_vain(ends);
                tell(answer, Err(error.into()));
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }

    /// Whether something is to be appended or answered first.
    fn stands_still(&self) -> bool {
        self.appending.is_some() || self.answered.is_some()
    }

    /// Lets the work go on; answers whether all of it waits. While something is being appended it stands
    /// still, but for one piece, as the actors do it.
    fn run_works(&mut self) -> bool {
        let waker = self.waker.clone();
        let mut context = Context::from_waker(&waker);
        let mut index = 0;
        while let Some((_, _, work)) = self.works.get_mut(index) {
            let Poll::Ready(ended) = work.as_mut().poll(&mut context) else {
                if !self.cancelled.is_empty() {
                    self.drop_cancelled();
                    return false;
                }
                if self.stands_still() {
                    self.works.append(&mut self.begun);
                    let last = self.works.len() - 1;
                    self.works.swap(index, last);
                    return false;
                }
                index += 1;
                continue;
            };
            let (_, effect, _) = self.works.swap_remove(index);
            match ended {
                None => self.ended_in_vain(Some(effect)),
                Some((command, called_by)) => {
                    let (command, ends) = (E::entry(command, vec![]), Some(Box::new(effect) as _));
                    let origin = Origin::called(E::WORKER, called_by);
                    let letter = Letter::Tell { command, origin, ends, answer: None };
                    self.hub.send(self.stream, letter);
                }
            }
            if self.stands_still() {
                return false;
            }
        }
        if self.works.is_empty() {
            self.drop_cancelled();
        }
        self.begun.is_empty() && self.cancelled.is_empty()
    }

    fn drop_cancelled(&mut self) {
        while let Some(nth) = self.cancelled.pop() {
            for works in [&mut self.works, &mut self.begun] {
                if let Some(index) = works.iter().position(|(own, ..)| *own == nth) {
                    drop(works.swap_remove(index));
                }
            }
        }
    }
}

fn tell(answer: Option<Answer>, result: Result<Told, TellError>) {
    if let Some(answer) = answer {
        // Whoever asked may have stopped waiting.
        drop(answer.send(result));
    }
}

impl<E: Hosted> Run for Hosting<E>
where
    State: From<E>,
{
    fn run(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.started, true) {
            self.align_work();
            self.works.append(&mut self.begun);
        }
        loop {
            if let Some(mut appending) = self.appending.take() {
                let waker = self.waker.clone();
                let Poll::Ready(result) =
                    appending.append.as_mut().poll(&mut Context::from_waker(&waker))
                else {
                    self.appending = Some(appending);
                    return None;
                };
                let failed = self.appended(result, appending.ends, appending.answer);
                if failed.is_some() {
                    return failed;
                }
                self.works.append(&mut self.begun);
            }
            if let Some((answer, result)) = self.answered.take() {
                tell(answer, result);
                self.works.append(&mut self.begun);
            }
            while !self.stands_still()
                && let Some(letter) = self.hub.letter(self.stream)
            {
                self.handle(letter);
            }
            let all_wait = self.run_works();
            self.works.append(&mut self.begun);
            if all_wait && !self.stands_still() {
                return None;
            }
        }
    }
}

/// The whole loop.
struct EventLoop {
    hub: Arc<Hub>,
    world: Arc<World>,
    entities: BTreeMap<StreamId, Box<dyn Run>>,
    retries: RetrySupervision,
    timers: Timers,
    sleeping: Option<LocalBoxFuture<'static, ()>>,
    shuffle: Option<Arc<Dice>>,
    failed: Rc<RefCell<Option<String>>>,
}

impl EventLoop {
    fn start(&mut self) {
        match self.world.store.streams() {
            Ok(streams) => streams.into_iter().for_each(|(stream, _)| {
                if let Err(error) = self.find(stream) {
                    self.fail(error.to_string());
                }
            }),
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn fail(&self, because: String) {
        self.failed.borrow_mut().get_or_insert(because);
    }

    /// Loads an entity if it is not there.
    fn find(&mut self, stream: StreamId) -> Result<(), TellError> {
        if self.entities.contains_key(&stream) {
            return Ok(());
        }
        let entity: Box<dyn Run> = match stream.kind {
            Kind::Vm => {
                let vm = Hosting::<Vm>::load(stream, &self.world, &self.hub)?;
                if let Some(because) = vm.state.waits_for_end_of() {
                    self.hub.notify(Notice::Suspect(because.clone()));
                }
                Box::new(vm)
            }
            Kind::Host => Box::new(Hosting::<Host>::load(stream, &self.world, &self.hub)?),
            Kind::Cloud => Box::new(Hosting::<Cloud>::load(stream, &self.world, &self.hub)?),
            Kind::Vault => Box::new(Hosting::<Vault>::load(stream, &self.world, &self.hub)?),
            Kind::Plan => Box::new(Hosting::<Plan>::load(stream, &self.world, &self.hub)?),
            Kind::Fabric => Box::new(Hosting::<Fabric>::load(stream, &self.world, &self.hub)?),
        };
        self.entities.insert(stream, entity);
        self.hub.make_ready(Part::Entity(stream));
        Ok(())
    }

    /// Runs everything that is ready, until nothing is.
    fn run(&mut self) {
        while self.failed.borrow().is_none()
            && let Some(part) = self.hub.next_ready(self.shuffle.as_deref())
        {
            match part {
                Part::Supervisor => self.supervise(),
                Part::Entity(stream) => {
                    let Some(entity) = self.entities.get_mut(&stream) else { continue };
                    if let Some(because) = entity.run() {
                        self.fail(because);
                    }
                }
            }
        }
    }

    fn supervise(&mut self) {
        loop {
            let notice = self.hub.mail().notices.pop_front();
            let Some(notice) = notice else { break };
            self.notice(notice);
        }
        let waker = self.hub.waker(Part::Supervisor);
        while let Some(sleeping) = &mut self.sleeping
            && sleeping.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            self.sleeping = None;
            let (now, instant) = (self.world.clock.now(), Instant::now());
            while let Some(wake) = self.timers.pop_due(now, instant) {
                wake();
            }
            self.sleep_until_next_timer();
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Find(stream, answer) => {
                // Whoever asked may have stopped waiting.
                drop(answer.send(self.find(stream)));
            }
            Notice::SetTimer { id, longest, wake } => {
                let wait = id.due.since(self.world.clock.now()).min(longest);
                let passed_at = Instant::now() + wait;
                let first = self.timers.next().is_none_or(|next| passed_at < next);
                self.timers.set(id, passed_at, wake);
                if first {
                    self.sleep_until_next_timer();
                }
            }
            Notice::ClearTimer(id) => drop(self.timers.clear(id)),
            Notice::Committed(commit) => {
                let vms = self.entities.keys().filter(|it| it.kind == Kind::Vm).map(|it| it.id);
                for (to, command) in self.retries.committed(&commit, vms) {
                    self.command(to, command, Origin::caused_by(&commit));
                }
            }
            Notice::Suspect(because) => {
                if let Some((to, command)) = RetrySupervision::suspect(&because) {
                    self.command(to, command, Origin::of("supervisor"));
                }
            }
        }
    }

    fn command(&self, to: StreamId, command: Entry, origin: Origin) {
        if self.entities.contains_key(&to) {
            self.hub.send(to, Letter::Tell { command, origin, ends: None, answer: None });
        }
    }

    fn sleep_until_next_timer(&mut self) {
        self.sleeping = self.timers.next().map(|next| {
            let wait = Timers::wait_for(next, Instant::now());
            sleep(wait).boxed_local()
        });
    }
}

/// A site run by the loop.
pub(super) struct LoopService {
    hub: Arc<Hub>,
    failed: Rc<RefCell<Option<String>>>,
    task: RefCell<Option<JoinHandle<()>>>,
}

impl LoopService {
    pub(super) fn start(world: Arc<World>, shuffle: Option<Arc<Dice>>) -> Self {
        let hub = Arc::new(Hub { inner: Mutex::default(), task: AtomicWaker::new() });
        let failed = Rc::new(RefCell::new(None));
        let mut event_loop = EventLoop {
            hub: Arc::clone(&hub),
            world,
            entities: BTreeMap::new(),
            retries: RetrySupervision::default(),
            timers: Timers::default(),
            sleeping: None,
            shuffle,
            failed: Rc::clone(&failed),
        };
        let own = Arc::clone(&hub);
        let task = spawn_local(async move {
            event_loop.start();
            let parts = poll_fn(move |context| {
                own.task.register(context.waker());
                event_loop.run();
                Poll::<()>::Pending
            });
            // The budget of a task is not renewed while it runs many parts.
            tokio::task::unconstrained(parts).await;
        });
        Self { hub, failed, task: RefCell::new(Some(task)) }
    }
}

impl Service for LoopService {
    fn tell(
        &self,
        stream: StreamId,
        command: Entry,
        origin: Origin,
    ) -> LocalBoxFuture<'static, Result<Told, TellError>> {
        Arc::clone(&self.hub).tell(stream, command, origin).boxed_local()
    }

    fn state(&self, stream: StreamId) -> LocalBoxFuture<'static, Option<State>> {
        let hub = Arc::clone(&self.hub);
        Box::pin(async move {
            let (state, answer) = oneshot::channel();
            hub.send(stream, Letter::Inspect(state));
            answer.await.ok()
        })
    }

    fn failed(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    fn kill(self: Rc<Self>) -> LocalBoxFuture<'static, ()> {
        let task = self.task.borrow_mut().take();
        Box::pin(async move {
            let Some(task) = task else { return };
            task.abort();
            // Cancelled is what was asked for.
            _ = task.await;
        })
    }
}
