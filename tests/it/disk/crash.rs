//! A crash at every call that changes a file: kill -9 and power loss.
//!
//! One thread runs a script of writes, flushes and cuts against two tracked disks, and a model beside
//! it. The same script is run again and again, killed one call later each time.

use super::{BOOT, Machine, NEXT_BOOT, choices, content};
use lifeboat::disk::files::MemoryFiles;
use lifeboat::disk::hrl::{HeaderTrust, LogReader};
use lifeboat::disk::tracker::{Cut, TrackError, Tracker};
use lifeboat::ports::block::{BlockDevice, Write};
use std::collections::BTreeMap;
use std::sync::Arc;

const SECTORS: usize = 48;
const SIZE: u64 = SECTORS as u64 * 512;

/// One byte stands for a sector that is full of it.
type Sectors = [u8; SECTORS];

#[derive(Clone, Copy, Debug)]
enum Step {
    Write {
        disk: usize,
        sector: usize,
        count: usize,
        fua: bool,
    },
    /// Two writes together: of all the sectors, then of half of them.
    Both {
        disk: usize,
        sector: usize,
        count: usize,
    },
    Zero {
        disk: usize,
        sector: usize,
        count: usize,
    },
    Flush {
        disk: usize,
    },
    Cut,
    Acknowledge,
    Compact,
    Close,
}

fn script(seed: u64, length: usize) -> Vec<Step> {
    let mut below = choices(seed);
    (0..length)
        .map(|_| {
            let (disk, sector) = (below(2), below(SECTORS));
            let count = 1 + below((SECTORS - sector).min(20));
            match below(20) {
                0..=5 => Step::Write { disk, sector, count, fua: false },
                6..=8 => Step::Both { disk, sector, count },
                9 => Step::Write { disk, sector, count, fua: true },
                10 | 11 => Step::Zero { disk, sector, count },
                12..=14 => Step::Flush { disk },
                15 | 16 => Step::Cut,
                17 => Step::Compact,
                _ => Step::Acknowledge,
            }
        })
        .collect()
}

/// What must be true of the disks and the replica.
struct Model {
    /// What was acknowledged, by disk.
    disks: [Sectors; 2],
    /// What each sector may hold after a power loss: since the last flush, and the write in flight.
    possible: [Vec<Vec<u8>>; 2],
    /// The disk as it can be after a write that was not acknowledged, or after a part of several.
    in_flight: Option<(usize, Vec<Sectors>)>,
    /// The disks at each cut.
    cuts: BTreeMap<u64, [Sectors; 2]>,
    /// What was shipped.
    replica: [Sectors; 2],
    next_cut: u64,
    started: bool,
    closed: bool,
}

impl Model {
    fn new() -> Self {
        Self {
            disks: [[0; SECTORS]; 2],
            possible: [vec![vec![0]; SECTORS], vec![vec![0]; SECTORS]],
            in_flight: None,
            cuts: BTreeMap::new(),
            replica: [[0; SECTORS]; 2],
            next_cut: 1,
            started: false,
            closed: false,
        }
    }

    fn begin(&mut self, disk: usize, sectors: std::ops::Range<usize>, value: u8) {
        let (_, states) = self.in_flight.get_or_insert((disk, Vec::new()));
        let mut after = states.last().copied().unwrap_or(self.disks[disk]);
        after[sectors.clone()].fill(value);
        states.push(after);
        sectors.for_each(|sector| self.possible[disk][sector].push(value));
    }

    fn acknowledged(&mut self) {
        let (disk, states) = self.in_flight.take().unwrap();
        self.disks[disk] = *states.last().unwrap();
    }

    fn flushed(&mut self, disk: usize) {
        for (possible, value) in self.possible[disk].iter_mut().zip(self.disks[disk]) {
            *possible = vec![value];
        }
    }

    /// Runs the script until it ends or the process is killed.
    fn run(&mut self, machine: &Machine, script: &[Step]) -> Result<(), String> {
        let tracker = machine.open(BOOT).map_err(text)?;
        tracker.start().map_err(text)?;
        self.started = true;
        let disks = [0, 1].map(|disk| tracker.disk(Machine::id(disk)).unwrap());
        for (index, step) in script.iter().enumerate() {
            let value = index as u8 + 1;
            match *step {
                Step::Write { disk, sector, count, fua } => {
                    self.begin(disk, sector..sector + count, value);
                    let data = vec![value; count * 512];
                    disks[disk].write_at(&data, sector as u64 * 512, fua).map_err(text)?;
                    self.acknowledged();
                    if fua {
                        self.flushed(disk);
                    }
                }
                Step::Both { disk, sector, count } => {
                    let half = sector + count / 2;
                    self.begin(disk, sector..sector + count, value);
                    self.begin(disk, half..sector + count, value + 100);
                    let (all, some) = (vec![value; count * 512], vec![value + 100; count * 512]);
                    let all = Write { offset: sector as u64 * 512, data: &all };
                    let some = &some[..(sector + count - half) * 512];
                    let some = Write { offset: half as u64 * 512, data: some };
                    for outcome in disks[disk].write_each_at(&[all, some]) {
                        outcome.map_err(text)?;
                    }
                    self.acknowledged();
                }
                Step::Zero { disk, sector, count } => {
                    self.begin(disk, sector..sector + count, 0);
                    let range = sector as u64 * 512..(sector + count) as u64 * 512;
                    disks[disk].zero(range, true, false).map_err(text)?;
                    self.acknowledged();
                }
                Step::Flush { disk } => {
                    disks[disk].flush().map_err(text)?;
                    self.flushed(disk);
                }
                Step::Cut => {
                    if tracker.transit().is_none() {
                        self.cuts.insert(self.next_cut, self.disks);
                        tracker.cut(self.next_cut).map_err(text)?;
                        self.next_cut += 1;
                    }
                }
                Step::Acknowledge => {
                    if let Some(cut) = tracker.transit() {
                        self.ship(machine, &cut);
                        tracker.acknowledge(cut.number).map_err(text)?;
                    }
                }
                Step::Compact => tracker.compact_active().map_err(text)?,
                Step::Close => {
                    self.closed = true;
                    tracker.close().map_err(text)?;
                }
            }
        }
        Ok(())
    }

    /// Applies a cut to the replica, which must then be the disks at that cut.
    fn ship(&mut self, machine: &Machine, cut: &Cut) {
        for (disk, log) in cut.logs.iter().enumerate() {
            let Ok(log) = LogReader::open(&*machine.files, &log.path, HeaderTrust::Verified) else {
                return; // the process is dead already
            };
            for write in log.entries() {
                let write = write.unwrap();
                let mut data = vec![0; write.length as usize];
                log.read_data(&write, 0, &mut data).unwrap();
                for (nth, sector) in data.chunks(512).enumerate() {
                    self.replica[disk][write.offset as usize / 512 + nth] = whole(sector);
                }
            }
        }
        assert_eq!(self.replica, self.cuts[&cut.number], "cut {}", cut.number);
    }
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// The byte that a sector is full of.
fn whole(sector: &[u8]) -> u8 {
    assert!(sector.iter().all(|byte| *byte == sector[0]), "a torn sector");
    sector[0]
}

fn sectors(machine: &Machine, disk: usize) -> Sectors {
    let bytes = content(&machine.raw(disk as u128));
    let mut sectors = [0; SECTORS];
    for (sector, bytes) in sectors.iter_mut().zip(bytes.chunks(512)) {
        *sector = whole(bytes);
    }
    sectors
}

/// Ships what is in transit and all that follows: the replica must then equal the disks.
fn check_replica(model: &mut Model, machine: &Machine, tracker: &Tracker) {
    let found = [0, 1].map(|disk| sectors(machine, disk));
    if let Some(cut) = tracker.transit() {
        // A cut that was interrupted is the disks at the crash, or before the write in flight.
        let at_cut = model.cuts[&cut.number];
        assert_eq!(cut.logs.len(), 2);
        model.cuts.insert(cut.number, at_cut);
        model.ship(machine, &cut);
        tracker.acknowledge(cut.number).unwrap();
        model.next_cut = model.next_cut.max(cut.number + 1);
    }
    model.cuts.insert(model.next_cut, found);
    let cut = match tracker.cut(model.next_cut) {
        Err(TrackError::NumberUsed { last, .. }) => {
            model.next_cut = last + 1;
            model.cuts.insert(model.next_cut, found);
            tracker.cut(model.next_cut).unwrap()
        }
        cut => cut.unwrap(),
    };
    model.ship(machine, &cut);
    tracker.acknowledge(cut.number).unwrap();
}

fn for_every_call(seed: u64, script: &[Step], check: impl Fn(Arc<MemoryFiles>, Machine, Model)) {
    let (files, machine) = Machine::in_memory(seed, 2, SIZE);
    let before = files.calls();
    Model::new().run(&machine, script).unwrap();
    let calls = files.calls() - before;
    for call in 0..=calls {
        let (files, machine) = Machine::in_memory(seed, 2, SIZE);
        files.kill_after(call);
        let mut model = Model::new();
        assert_eq!(model.run(&machine, script).is_ok(), call == calls);
        check(files, machine, model);
    }
}

fn after_kill(files: &MemoryFiles, machine: &Machine, mut model: Model) {
    files.restart();
    let tracker = machine.open(BOOT).unwrap();
    for (disk, acknowledged) in model.disks.iter().enumerate() {
        let found = sectors(machine, disk);
        let in_flight = model.in_flight.iter().filter(|(which, _)| *which == disk);
        let partly = in_flight.flat_map(|(_, states)| states).any(|state| *state == found);
        assert!(found == *acknowledged || partly, "disk {disk} lost a write");
    }
    let status = tracker.status();
    assert_eq!(status.broken, None);
    if model.started {
        assert!(status.tracking);
    }
    if status.tracking {
        check_replica(&mut model, machine, &tracker);
    }
}

#[test]
fn a_kill_at_any_call_loses_nothing_that_was_acknowledged() {
    for seed in 1..7 {
        for_every_call(seed, &script(seed, 24), |files, machine, model| {
            after_kill(&files, &machine, model);
        });
    }
}

#[test]
fn a_kill_or_a_power_loss_while_logs_are_compacted_loses_nothing_either() {
    let write = |sector, fua| Step::Write { disk: 0, sector, count: 12, fua };
    let script = [
        write(0, false),
        write(4, false),
        Step::Zero { disk: 0, sector: 2, count: 5 },
        write(6, false),
        Step::Compact,
        write(3, false),
        Step::Flush { disk: 0 },
        write(8, false),
        Step::Compact,
        Step::Compact,
        Step::Cut,
        write(1, true),
        write(2, false),
        Step::Compact,
        write(30, false),
        Step::Acknowledge,
        Step::Cut,
    ];
    for_every_call(3, &script, |files, machine, model| after_kill(&files, &machine, model));
    for_every_call(4, &script, |files, machine, model| {
        files.lose_power();
        machine.open(NEXT_BOOT).unwrap();
        for (sector, found) in sectors(&machine, 0).iter().enumerate() {
            let possible = &model.possible[0][sector];
            assert!(possible.contains(found), "sector {sector} holds {found} of {possible:?}");
        }
    });
}

#[test]
fn a_kill_at_any_call_of_the_next_start_loses_nothing_either() {
    let script = script(3, 20);
    let mut first = 25;
    loop {
        let mut ended = true;
        let mut second = 0;
        loop {
            let (files, machine) = Machine::in_memory(3, 2, SIZE);
            files.kill_after(first);
            let mut model = Model::new();
            ended &= model.run(&machine, &script).is_ok();
            files.restart();
            files.kill_after(second);
            let opened = machine.open(BOOT).is_ok();
            after_kill(&files, &machine, model);
            second += 3;
            if opened {
                break;
            }
        }
        first += 11;
        if ended {
            break;
        }
    }
}

#[test]
fn a_power_loss_at_any_call_keeps_what_was_flushed_and_breaks_tracking() {
    for seed in 1..7 {
        let mut script = script(seed, 24);
        if seed % 2 == 0 {
            script.push(Step::Close);
        }
        for_every_call(seed, &script, |files, machine, mut model| {
            files.lose_power();
            let tracker = machine.open(NEXT_BOOT).unwrap();
            for (disk, possible) in model.possible.iter().enumerate() {
                for (sector, found) in sectors(&machine, disk).iter().enumerate() {
                    let possible = &possible[sector];
                    assert!(
                        possible.contains(found),
                        "sector {sector} of disk {disk} holds {found}, not one of {possible:?}"
                    );
                }
            }
            let status = tracker.status();
            if status.tracking {
                // Only where the tracker was closed before the power went.
                assert!(model.closed);
                check_replica(&mut model, &machine, &tracker);
            } else if let Some(cut) = tracker.transit() {
                model.ship(&machine, &cut);
                tracker.acknowledge(cut.number).unwrap();
            }
            tracker.start().unwrap();
            assert!(tracker.status().tracking);
        });
    }
}
