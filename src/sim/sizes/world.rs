//! Hosts, guests, links and the vault as sizes and rates: how long a call takes, what becomes of it, and what
//! really was written.
//!
//! What a model leaves out: a delta waits for other deltas of its host and never for a copy, copies wait for each
//! other, a write overwrites nothing, and a guest at the recovery site only reads.

use super::calls::{Call, Place};
use crate::domain::catalogue::Code;
use crate::domain::failure::{Cause, Failure};
use crate::domain::id::{DiskId, HostId, VaultId, VmId};
use crate::domain::time::Timestamp;
use crate::domain::vm::{Disk, Outcome, RecoveryPoint, ResyncReason, Side, Stage, Vm};
use crate::sim::clock::BEGINNING;
use crate::sim::dice::keyed;
use crate::sim::recorded::WRITE_BYTES;
use crate::sim::scenario::{Burst, Deed, Scenario, Step};
use std::collections::VecDeque;
use uuid::Uuid;

/// The root of all ids of a run.
const NAMES: Uuid = Uuid::from_u128(0x7369_6d75_6c61_7469_8000_666c_6565_7400);

/// How long it takes to find out that nobody answers, in milliseconds. As with real bytes.
const NO_ANSWER_MS: (u64, u64) = (200, 3_000);

/// How long a host or the vault takes to answer whoever asks whether it is there, in milliseconds.
pub(super) const ANSWER_MS: u64 = 1;

/// How long it takes to find that a guest is off, or runs, as it shall, in milliseconds.
const IS_SO_MS: (u64, u64) = (1, 20);

/// The longest that it takes to turn a guest off whose host is within reach, in milliseconds.
const TURN_OFF_MS: u64 = Call::ShutDownSource.takes_ms().1 + Call::SwitchOff.takes_ms().1;

/// What a host reads of its disks in a millisecond: 200 MB a second, a disk that turns.
const READ_BYTES_PER_MS: u64 = 200_000;

/// Differences after a power loss for each byte that was written since the last point: regions are widened.
const WIDENED: u64 = 8;

/// A host.
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub(super) struct Host {
    pub(super) id: HostId,
    pub(super) name: String,
    pub(super) up: bool,
    managed: bool,
    full: bool,
    cut: bool,
    /// Changes when what runs there dies.
    lives: u64,
    /// Until when its link is busy with deltas, and with copies.
    deltas_until: u64,
    copies_until: u64,
}

/// A guest and its disks.
pub(super) struct Guest {
    pub(super) id: VmId,
    pub(super) name: String,
    pub(super) host: usize,
    pub(super) disks: Vec<Disk>,
    disk_bytes: u64,
    writes_per_minute: u64,
    write_bytes: u64,
    bursts: Vec<Burst>,
    pub(super) runs: bool,
    switched_off: bool,
    /// Bytes written in all, at `since`.
    written: u64,
    since: u64,
    /// How much was written when the chain of logs began, at the newest cut, and at each recovery point.
    tracked_from: u64,
    newest_cut: u64,
    points: VecDeque<(u64, u64)>,
    /// Points of what was sent in one go, which may not be recorded.
    sent: Vec<RecoveryPoint>,
    broken: Option<ResyncReason>,
    /// Bytes that are suspect for each that was written.
    widened: u64,
    /// What the disks at the recovery site hold.
    away: Option<u64>,
    /// Whether its replica runs.
    runs_away: bool,
    lost: Option<u64>,
    /// Draws of each call.
    draws: [u32; Call::COUNT],
}

/// What is wrong with the vault and the ways to it.
#[derive(Default)]
struct Weather {
    unreachable: bool,
    refuses: bool,
    full: bool,
    lossy: u32,
    busy: u32,
}

/// The world outside the service.
pub(super) struct World {
    seed: u64,
    pub(super) vault: VaultId,
    pub(super) now: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) guests: Vec<Guest>,
    weather: Weather,
    own_rtt_ms: u64,
    rtt_ms: u64,
    bytes_per_ms: u64,
}

/// A call that has begun.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) call: Call,
    disk: Option<DiskId>,
    lives: u64,
    since: u64,
    /// Whether its host was within reach.
    reached: bool,
    requests: u64,
    /// Rare, and large.
    fails: Option<Box<Failure>>,
}

/// What must never be, and is about to.
pub(super) type Broken = (crate::sim::ghost::Invariant, String);

impl World {
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Self {
        let hosts: Vec<Host> =
            scenario.site.hosts.iter().map(|name| Host::new(name.get_ref())).collect();
        let guests = scenario.vms().into_iter().map(|one| {
            let id = VmId::named(NAMES, &one.name);
            let disks: Vec<Disk> = (0..)
                .zip(one.spec.disks.get_ref())
                .map(|(nth, size)| {
                    let name = format!("disk{nth}");
                    Disk { id: DiskId::named(id.0, &name), name, size_bytes: size.0 }
                })
                .collect();
            let host = hosts.iter().position(|host| host.name == *one.spec.host.get_ref());
            Guest {
                id,
                host: host.unwrap_or(0),
                disk_bytes: disks.iter().map(|disk| disk.size_bytes).sum(),
                disks,
                writes_per_minute: u64::from(one.spec.writes_per_minute),
                write_bytes: one
                    .spec
                    .write_size
                    .as_ref()
                    .map_or(WRITE_BYTES, |size| size.get_ref().0),
                bursts: one.spec.burst.clone(),
                runs: true,
                switched_off: false,
                written: 0,
                since: 0,
                tracked_from: 0,
                newest_cut: 0,
                points: VecDeque::new(),
                sent: Vec::new(),
                broken: None,
                widened: 1,
                away: None,
                runs_away: false,
                lost: None,
                draws: [0; Call::COUNT],
                name: one.name,
            }
        });
        let guests = guests.collect();
        Self {
            seed,
            vault: VaultId::named(NAMES, "vault"),
            now: 0,
            hosts,
            guests,
            weather: Weather::default(),
            own_rtt_ms: scenario.site.rtt.0,
            rtt_ms: scenario.site.rtt.0,
            bytes_per_ms: (scenario.site.mbit_per_s * 125).max(1),
        }
    }

    pub(super) fn cloud() -> crate::domain::id::CloudId {
        crate::domain::id::CloudId::named(NAMES, "cloud")
    }

    pub(super) const fn wall(&self) -> Timestamp {
        Timestamp::from_millis(BEGINNING.as_millis() + self.now as i64)
    }

    /// Virtual time at a moment of the wall clock, which nobody sets here.
    pub(super) fn passed(at: Timestamp) -> u64 {
        u64::try_from(at.as_millis() - BEGINNING.as_millis()).unwrap_or(0)
    }

    pub(super) fn answers(&self, guest: usize) -> bool {
        let host = &self.hosts[self.guests[guest].host];
        host.up && host.managed
    }

    pub(super) fn lost(&self, guest: usize) -> Option<u64> {
        self.guests[guest].lost
    }

    /// A draw for a call of a guest. What else goes on has no part in it.
    fn draw(&mut self, guest: usize, call: Call, (low, high): (u64, u64)) -> u64 {
        let drawn = &mut self.guests[guest].draws[call as usize];
        *drawn += 1;
        let key = self.seed ^ (guest as u64).rotate_left(32) ^ (call as u64).rotate_left(56);
        low + keyed(key, "", u64::from(*drawn)) % (high - low + 1)
    }

    /// Makes the world as the active faults say.
    pub(super) fn change_weather<'a>(&mut self, active: &(impl Iterator<Item = &'a Step> + Clone)) {
        let of = |deed: Deed| active.clone().filter(move |step| *step.r#do.get_ref() == deed);
        let percent = |deed| of(deed).filter_map(|step| step.percent).max().unwrap_or(0);
        self.weather = Weather {
            unreachable: of(Deed::VaultUnreachable).next().is_some(),
            refuses: of(Deed::ExpireCredentials).next().is_some(),
            full: of(Deed::FillVault).next().is_some(),
            lossy: percent(Deed::LossyLink),
            busy: percent(Deed::ThrottleVault).max(percent(Deed::FailVault)),
        };
        let rtt = of(Deed::SlowLink).filter_map(|step| step.rtt).map(|span| span.0).max();
        self.rtt_ms = rtt.unwrap_or(self.own_rtt_ms);
        for host in &mut self.hosts {
            let hit = |deed| of(deed).any(|step| step.host().is_none_or(|name| name == host.name));
            host.cut = hit(Deed::CutLink) || hit(Deed::FlapLink);
            host.managed = !hit(Deed::IsolateHost);
            host.full = hit(Deed::FillDisk);
        }
        for index in 0..self.guests.len() {
            if self.hosts[self.guests[index].host].full && self.guests[index].runs {
                let text = "no space left on device".to_owned();
                self.guests[index].broken.get_or_insert(ResyncReason::LogWriteFailed(text));
            }
        }
    }

    /// What runs at a host dies; with `power` gone, tracking is lost too.
    pub(super) fn host_down(&mut self, host: usize, power: bool) {
        self.agents_die(host);
        self.hosts[host].up = false;
        let now = self.now;
        for guest in self.guests.iter_mut().filter(|guest| guest.host == host && power) {
            guest.settle(now);
            guest.broken.get_or_insert(ResyncReason::PowerLoss);
        }
    }

    pub(super) fn agents_die(&mut self, host: usize) {
        self.hosts[host].lives += 1;
        let now = self.now;
        for guest in self.guests.iter_mut().filter(|guest| guest.host == host) {
            guest.settle(now);
            guest.runs = false;
        }
    }

    /// A guest is attached; it boots where the log lets it.
    pub(super) fn attach(&mut self, guest: usize, may_run: bool) {
        if self.hosts[self.guests[guest].host].up && may_run && !self.guests[guest].switched_off {
            self.guests[guest].run(self.now);
        }
    }

    /// Switches a guest on whose failover was called off.
    pub(super) fn switch_on(&mut self, guest: usize) {
        if std::mem::take(&mut self.guests[guest].switched_off) {
            self.attach(guest, true);
        }
    }

    /// Why the tracker lost track, once its agent can tell and the vault could take what differs.
    pub(super) fn tracking_lost(&self, index: usize) -> Option<ResyncReason> {
        let guest = &self.guests[index];
        let host = &self.hosts[guest.host];
        if !host.up {
            return None;
        }
        if guest.broken.is_some() {
            return guest.broken.clone();
        }
        let logged = guest.written_at(self.now).saturating_sub(guest.base());
        let too_large = guest.disk_bytes / 2 < logged;
        let vault = !self.weather.unreachable && !host.cut;
        (too_large && vault).then(|| {
            ResyncReason::LogsTooLarge(format!(
                "{logged} bytes were logged of {}",
                guest.disk_bytes
            ))
        })
    }

    /// How long the logs cannot become too large, in milliseconds: as if the guest wrote without a pause, as fast
    /// as it ever does.
    pub(super) fn tracks_for(&self, index: usize) -> u64 {
        let guest = &self.guests[index];
        let logged = guest.written_at(self.now).saturating_sub(guest.base());
        let room = u128::from((guest.disk_bytes / 2).saturating_sub(logged));
        let bursts = guest.bursts.iter().map(|burst| u64::from(burst.writes_per_minute));
        let fastest = bursts.max().unwrap_or(0).max(guest.writes_per_minute);
        let in_a_minute = u128::from(fastest) * u128::from(guest.write_bytes);
        let ms = (room * 60_000).checked_div(in_a_minute).unwrap_or(u128::MAX);
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    /// Begins a call; also answers how long it takes, in milliseconds.
    pub(super) fn begin(
        &mut self,
        guest: usize,
        vm: &Vm,
        call: Call,
        disk: Option<DiskId>,
    ) -> (Begun, u64) {
        // As whoever watches the source sees it.
        let call = if call == Call::StopSource { Call::ShutDownSource } else { call };
        let requests = call.requests(vm.disks.len() as u64);
        let lives = self.hosts[self.guests[guest].host].lives;
        let (since, reached) = (self.now, self.answers(guest));
        let mut begun = Begun { call, disk, lives, since, reached, requests, fails: None };
        if matches!(call, Call::Heartbeat | Call::ReachVault) {
            return (begun, ANSWER_MS);
        }
        begun.fails = self.failure(guest, vm, &begun).map(Box::new);
        if begun.fails.is_some() {
            return (begun, self.draw(guest, call, NO_ANSWER_MS));
        }
        let own = &self.guests[guest];
        let is_so = match call {
            Call::ShutDownSource => !own.runs,
            Call::StartReplica => own.runs_away,
            _ => false,
        };
        let pause = self.draw(guest, call, if is_so { IS_SO_MS } else { call.takes_ms() });
        let way = requests * self.rtt_ms;
        let (sent, read) = self.bytes(guest, vm, call, disk);
        let took = pause + way / 2 + self.draw(guest, call, (0, way)) + read / READ_BYTES_PER_MS;
        let host = &mut self.hosts[self.guests[guest].host];
        let until = if call.is_bulk() { &mut host.copies_until } else { &mut host.deltas_until };
        if sent == 0 {
            return (begun, took.max(1));
        }
        *until = (*until).max(self.now) + sent / self.bytes_per_ms;
        (begun, (*until - self.now + took).max(1))
    }

    /// Bytes that a call sends, and bytes of disks that it reads.
    fn bytes(&self, index: usize, vm: &Vm, call: Call, disk: Option<DiskId>) -> (u64, u64) {
        let guest = &self.guests[index];
        let size = disk.map_or(0, |disk| guest.size(disk));
        match call {
            Call::Ship => (guest.newest_cut.saturating_sub(guest.shipped()), 0),
            Call::ShipAll => (guest.differing(vm, self.now), 0),
            Call::Copy => (size, size),
            Call::Compare | Call::Restore => {
                let (compared, different) = self.compared(index, vm, call, disk);
                (different, compared)
            }
            _ => (0, 0),
        }
    }

    /// Of one disk: bytes that are compared, and bytes of them that differ.
    fn compared(&self, index: usize, vm: &Vm, call: Call, disk: Option<DiskId>) -> (u64, u64) {
        let guest = &self.guests[index];
        let size = disk.map_or(0, |disk| guest.size(disk));
        if call == Call::Restore && vm.failback.as_ref().is_some_and(|failback| failback.in_full) {
            return (0, size);
        }
        let since = guest.written_at(self.now).saturating_sub(guest.shipped());
        let part = u128::from(since) * u128::from(size) / u128::from(guest.disk_bytes.max(1));
        let different = u64::try_from(part).unwrap_or(u64::MAX).min(size);
        (different.saturating_mul(guest.widened).min(size), different)
    }

    /// What keeps a call from being done at this moment.
    fn failure(&mut self, index: usize, vm: &Vm, begun: &Begun) -> Option<Failure> {
        let host = &self.hosts[self.guests[index].host];
        let place = begun.call.place(vm);
        let at_host = matches!(place, Place::Host | Place::HostAndVault | Place::Hypervisor);
        let gone = !host.up || host.lives != begun.lives;
        if at_host && (gone || (place == Place::Hypervisor && !host.managed)) {
            return Some(host_lost(host));
        }
        if begun.call == Call::StartTracking && host.full {
            let failure =
                Failure::new(Code::LogVolumeFull, Cause::Host(host.id), "no space left on device");
            return Some(failure.with("path", format_args!("/vms/{}", vm.name)));
        }
        if !matches!(place, Place::Vault | Place::HostAndVault) {
            return None;
        }
        let at_vault = |code, text| {
            Some(
                Failure::new(code, Cause::Vault(vm.vault), text)
                    .with("target", "the vault")
                    .with("operation", begun.call.name())
                    .with("vm", &vm.name),
            )
        };
        if self.weather.unreachable || (place == Place::HostAndVault && host.cut) {
            return at_vault(Code::LinkDown, "the link to the vault is down");
        }
        if self.weather.refuses {
            return at_vault(Code::AuthenticationFailed, "the credentials have expired");
        }
        if self.weather.full && begun.call.stores() {
            return at_vault(Code::VaultFull, "the vault has no space left");
        }
        // At its end only: once for all of its requests.
        let (lossy, busy) = (self.weather.lossy, self.weather.busy);
        if lossy == 0 && busy == 0 {
            return None;
        }
        for _ in 0..begun.requests {
            let drawn = self.draw(index, begun.call, (0, 199)) as u32;
            if drawn < lossy {
                return at_vault(Code::LinkDown, "the connection to the vault broke off");
            }
            if drawn < lossy + busy {
                return at_vault(Code::VaultBusy, "429 Too Many Requests");
            }
        }
        None
    }

    /// A call ends.
    ///
    /// # Errors
    /// What kept it from being done.
    pub(super) fn end(
        &mut self,
        index: usize,
        vm: &Vm,
        mut begun: Begun,
        broken: &mut Vec<Broken>,
    ) -> Result<Outcome, Failure> {
        if begun.call == Call::Heartbeat {
            return self.heartbeat(self.guests[index].host).map(|()| Outcome::Done);
        }
        let before = begun.fails.take().map(|failure| *failure);
        if let Some(failure) = before.or_else(|| self.failure(index, vm, &begun)) {
            return Err(failure);
        }
        let (now, wall) = (self.now, self.wall());
        let answers = self.answers(index);
        let point_of = |cycle, at, bytes| RecoveryPoint { cycle, at, bytes };
        let disk = begun.disk.unwrap_or_default();
        if let Call::Compare | Call::Restore = begun.call {
            let (compared_bytes, different_bytes) =
                self.compared(index, vm, begun.call, begun.disk);
            return Ok(if begun.call == Call::Compare {
                Outcome::Compared { disk, compared_bytes, different_bytes }
            } else {
                Outcome::Restored { disk, compared_bytes, different_bytes }
            });
        }
        let guest = &mut self.guests[index];
        match begun.call {
            Call::StartTracking | Call::TrackRestored => {
                let lost = guest.broken.take();
                guest.widened = if lost == Some(ResyncReason::PowerLoss) { WIDENED } else { 1 };
                guest.tracked_from = guest.written_at(now);
                guest.newest_cut = guest.tracked_from;
            }
            Call::Copy => return Ok(Outcome::Copied { disk, bytes: guest.size(disk) }),
            Call::Cut => guest.newest_cut = guest.source_bytes(vm, now),
            Call::Ship => guest.shipped_point(vm, vm.delta.cycle, guest.newest_cut),
            Call::ShipAll => {
                let bytes = guest.differing(vm, now);
                let mut points = Vec::new();
                if let Stage::Shipping { snapshot_at } = vm.delta.stage {
                    points.push(point_of(vm.delta.cycle, snapshot_at, 0));
                    guest.shipped_point(vm, vm.delta.cycle, guest.newest_cut);
                }
                guest.newest_cut = guest.source_bytes(vm, now);
                guest.shipped_point(vm, vm.last_cycle_of_job(), guest.newest_cut);
                points.push(point_of(vm.last_cycle_of_job(), wall, bytes));
                guest.sent.clone_from(&points);
                return Ok(Outcome::Shipped { points });
            }
            Call::Fence => {
                let known = vm.latest_point().map_or(0, |point| point.cycle);
                let mut found = std::mem::take(&mut guest.sent);
                found.retain(|point| known < point.cycle);
                return Ok(Outcome::Fenced { found });
            }
            Call::ShutDownSource | Call::SwitchOff => guest.shut_down(now),
            Call::ShutDownReplica | Call::StopServing => guest.runs_away = false,
            Call::AttachSource if vm.source == Side::Recovery => guest.shut_down(now),
            Call::StartSource => {
                guest.switched_off = false;
                if let (Some(away), true) = (guest.away.take(), vm.failback.is_some()) {
                    guest.settle(now);
                    guest.written = away;
                    (guest.tracked_from, guest.newest_cut) = (away, away);
                }
                guest.run(now);
            }
            // One that runs goes on running.
            Call::StartReplica if !guest.runs_away => {
                guest.runs_away = true;
                // As with real bytes: a source that came back just before may be about to be off.
                let could_be_off = TURN_OFF_MS < now - begun.since;
                let within_reach = begun.reached && answers && could_be_off;
                broken.extend(guest.started_away(vm, now, within_reach));
            }
            _ => {}
        }
        Ok(Outcome::Done)
    }

    /// Bytes of the logs that were cut last.
    pub(super) fn cut_bytes(&self, guest: usize) -> u64 {
        let guest = &self.guests[guest];
        guest.newest_cut.saturating_sub(guest.base())
    }

    /// Bytes between the newest recovery point and the one before it.
    pub(super) fn shipped_bytes(&self, guest: usize) -> u64 {
        let mut points = self.guests[guest].points.iter().rev().map(|(_, written)| *written);
        let newest = points.next().unwrap_or(0);
        newest.saturating_sub(points.next().unwrap_or(0))
    }

    /// Whether both sites run it while the service could help it.
    pub(super) fn runs_twice(&self, guest: usize) -> bool {
        self.guests[guest].runs && self.answers(guest)
    }

    /// Whether the vault answers a probe.
    pub(super) fn probed(&self) -> Result<(), Failure> {
        if !self.weather.unreachable {
            return Ok(());
        }
        let failure =
            Failure::new(Code::LinkDown, Cause::Vault(self.vault), "the link to the vault is down");
        Err(failure.with("target", "the vault").with("operation", "probe"))
    }

    /// Whether a host answers.
    pub(super) fn heartbeat(&self, host: usize) -> Result<(), Failure> {
        let host = &self.hosts[host];
        if host.up && host.managed { Ok(()) } else { Err(host_lost(host)) }
    }
}

fn host_lost(host: &Host) -> Failure {
    Failure::new(Code::HostLost, Cause::Host(host.id), "no answer").with("host", &host.name)
}

impl Host {
    fn new(name: &str) -> Self {
        Self {
            id: HostId::named(NAMES, name),
            name: name.to_owned(),
            up: true,
            managed: true,
            full: false,
            cut: false,
            lives: 0,
            deltas_until: 0,
            copies_until: 0,
        }
    }
}

impl Guest {
    fn size(&self, disk: DiskId) -> u64 {
        self.disks.iter().find(|own| own.id == disk).map_or(0, |own| own.size_bytes)
    }

    /// Bytes written up to a moment since it was settled last.
    fn written_at(&self, now: u64) -> u64 {
        if !self.runs {
            return self.written;
        }
        let during = |from: u64, until: u64, rate: u64| {
            let ms = u128::from(until.min(now).saturating_sub(from.max(self.since)));
            ms * u128::from(rate) * u128::from(self.write_bytes) / 60_000
        };
        let mut bytes = during(self.since, now, self.writes_per_minute);
        for burst in &self.bursts {
            let (from, until) = (burst.at.0, burst.at.0.saturating_add(burst.r#for.0));
            bytes += during(from, until, u64::from(burst.writes_per_minute));
            bytes = bytes.saturating_sub(during(from, until, self.writes_per_minute));
        }
        self.written.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    fn settle(&mut self, now: u64) {
        self.written = self.written_at(now);
        self.since = now;
    }

    fn run(&mut self, now: u64) {
        self.settle(now);
        self.runs = true;
    }

    fn shut_down(&mut self, now: u64) {
        self.settle(now);
        (self.runs, self.switched_off) = (false, true);
    }

    /// What the newest recovery point holds.
    fn shipped(&self) -> u64 {
        self.points.back().map_or(0, |(_, written)| *written)
    }

    /// Where the logs that are not sent begin.
    fn base(&self) -> u64 {
        self.tracked_from.max(self.shipped())
    }

    /// What the disks hold on the side that is replicated.
    fn source_bytes(&self, vm: &Vm, now: u64) -> u64 {
        match vm.source {
            Side::Primary => self.written_at(now),
            Side::Recovery => self.away.unwrap_or(0),
        }
    }

    /// Bytes that are not in the newest recovery point.
    fn differing(&self, vm: &Vm, now: u64) -> u64 {
        if vm.source == Side::Recovery {
            0
        } else {
            self.written_at(now).saturating_sub(self.base())
        }
    }

    fn shipped_point(&mut self, vm: &Vm, cycle: u64, holds: u64) {
        let oldest = vm.points.first().map_or(0, |point| point.cycle);
        while self.points.front().is_some_and(|(own, _)| *own < oldest) {
            self.points.pop_front();
        }
        self.points.push_back((cycle, holds));
    }

    /// The replica starts: what it holds, and what it does not.
    fn started_away(&mut self, vm: &Vm, now: u64, within_reach: bool) -> Vec<Broken> {
        use crate::sim::ghost::Invariant;
        let mut broken = Vec::new();
        if self.runs && within_reach {
            let what = format!("{} was started while its source ran, within reach", vm.name);
            broken.push((Invariant::OnePrimary, what));
        }
        let Some(point) = vm.failover_point() else { return broken };
        let holds = self.points.iter().rev().find(|(cycle, _)| *cycle == point.cycle);
        let holds = holds.map_or(0, |(_, written)| *written);
        let written = self.written_at(now);
        if vm.failover.is_some_and(|failover| failover.started_at.is_none()) {
            let lost = written.saturating_sub(holds);
            self.lost = Some(lost);
            let planned =
                vm.failover.is_some_and(|it| it.kind == crate::domain::vm::FailoverKind::Planned);
            if planned && 0 < lost && Some(point) == vm.latest_point() {
                let what = format!("{} was moved without its last {lost} bytes", vm.name);
                broken.push((Invariant::PlannedWithoutLoss, what));
            }
        }
        self.away = Some(holds);
        broken
    }
}
