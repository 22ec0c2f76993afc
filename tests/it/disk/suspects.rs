//! What a tracker says may differ from the replica: a crash at every call that changes a file, and
//! whatever differs must be in it.
//!
//! A script of writes, cuts, broken logs and other chains runs against two disks of 16 regions, of which
//! few places are written. It is run again and again, killed one call later each time.

use super::{BOOT, Machine, NEXT_BOOT, choices};
use lifeboat::disk::files::MemoryFiles;
use lifeboat::disk::hrl::{HeaderTrust, LogReader};
use lifeboat::disk::tracker::{
    BootId, CHUNK_BYTES, Cut, REGION_BYTES, Suspect, TrackError, Tracker,
};
use lifeboat::ports::block::BlockDevice;
use lifeboat::ports::files::{Files, Open};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

const SIZE: u64 = 16 * REGION_BYTES;
const BLOCK: u64 = 4096;

/// The blocks that scripts write; nothing is ever written to regions 13 to 15.
const PLACES: [u64; 10] = [
    0,
    BLOCK,
    CHUNK_BYTES,
    5 * CHUNK_BYTES - BLOCK,
    REGION_BYTES - BLOCK,
    REGION_BYTES,
    4 * REGION_BYTES + 3 * CHUNK_BYTES,
    7 * REGION_BYTES + 9 * CHUNK_BYTES,
    10 * REGION_BYTES,
    11 * REGION_BYTES - 2 * BLOCK,
];

/// One byte stands for a sector of a place that is full of it.
type Places = [[u8; 8]; PLACES.len()];

#[derive(Clone, Copy, Debug)]
enum Step {
    Write {
        disk: usize,
        place: usize,
        sectors: usize,
        fua: bool,
    },
    Zero {
        disk: usize,
        place: usize,
    },
    Flush {
        disk: usize,
    },
    Cut,
    Acknowledge,
    /// The next writes meet files that cannot be written.
    Break {
        kind: usize,
        place: usize,
    },
    Start,
    StartAgain,
    Resynchronize,
    Close,
}

/// What is refused, by kind of [`Step::Break`].
const REFUSED: [&[&str]; 4] = [
    &["/vm/disk0.hrl.tail"],
    &["/vm/disk0.hrl.tail", "/vm/disk0.bm.next", "/vm/disk1.bm.next"],
    &["/vm/disk0.al"],
    &["/vm/disk0.hrl.tail", "/vm/tracking.state.next"],
];

/// The kind that refuses the marks.
const MARKS: usize = 2;

fn script(seed: u64, length: usize, breaks: bool) -> Vec<Step> {
    let mut below = choices(seed);
    let mut steps = Vec::new();
    while steps.len() < length {
        let (disk, place) = (below(2), below(PLACES.len()));
        steps.push(match below(if breaks { 24 } else { 19 }) {
            0..=8 => Step::Write { disk, place, sectors: 1 + below(8), fua: below(8) == 0 },
            9 => Step::Zero { disk, place },
            10 | 11 => Step::Flush { disk },
            12..=14 => Step::Cut,
            15..=18 => Step::Acknowledge,
            19 | 20 => Step::Break { kind: below(REFUSED.len()), place },
            21 => Step::StartAgain,
            22 => Step::Start,
            _ => Step::Resynchronize,
        });
    }
    steps
}

struct Model {
    /// What was acknowledged to the guest, and what may be on the disk besides.
    touched: [BTreeSet<usize>; 2],
    /// Of those, the ones that went with the cut in transit.
    in_transit: [BTreeSet<usize>; 2],
    /// The replica with everything shipped, and as of the last acknowledged cut.
    shipped: [Places; 2],
    acknowledged: [Places; 2],
    next_cut: u64,
    /// Whether it is right to know nothing.
    may_be_everything: bool,
    /// Whether logs and marks are all that was ever needed.
    plain: bool,
    closed: bool,
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

impl Model {
    fn new() -> Self {
        Self {
            touched: Default::default(),
            in_transit: Default::default(),
            shipped: Default::default(),
            acknowledged: Default::default(),
            next_cut: 1,
            may_be_everything: true,
            plain: true,
            closed: false,
        }
    }

    /// Starts tracking of disks that equal their replicas, then runs the script until it ends or the
    /// process is killed.
    fn run(
        &mut self,
        files: &MemoryFiles,
        machine: &Machine,
        script: &[Step],
    ) -> Result<(), String> {
        let tracker = machine.open(BOOT).map_err(text)?;
        tracker.start().map_err(text)?;
        tracker.resolve_suspect(tracker.chain()).map_err(text)?;
        self.may_be_everything = false;
        for (index, step) in script.iter().enumerate() {
            self.step(files, machine, &tracker, index as u8 + 1, *step)?;
        }
        Ok(())
    }

    fn step(
        &mut self,
        files: &MemoryFiles,
        machine: &Machine,
        tracker: &Tracker,
        value: u8,
        step: Step,
    ) -> Result<(), String> {
        let disks = [0, 1].map(|disk| tracker.disk(Machine::id(disk)).unwrap());
        match step {
            Step::Write { disk, place, sectors, fua } => {
                self.touched[disk].insert(place);
                let data = vec![value; sectors * 512];
                disks[disk].write_at(&data, PLACES[place], fua).map_err(text)?;
            }
            Step::Zero { disk, place } => {
                self.touched[disk].insert(place);
                let range = PLACES[place]..PLACES[place] + BLOCK;
                disks[disk].zero(range, true, false).map_err(text)?;
            }
            Step::Flush { disk } => disks[disk].flush().map_err(text)?,
            Step::Cut => {
                if tracker.transit().is_none() && tracker.status().tracking {
                    let touched = std::mem::take(&mut self.touched);
                    self.in_transit = touched;
                    tracker.cut(self.next_cut).map_err(text)?;
                    self.next_cut += 1;
                }
            }
            Step::Acknowledge => {
                if let Some(cut) = tracker.transit() {
                    self.ship(files, &cut);
                    tracker.acknowledge(cut.number).map_err(text)?;
                    self.acknowledged = self.shipped;
                    self.in_transit = Default::default();
                }
            }
            Step::Break { kind, place } => {
                self.plain = false;
                // Marks that can be neither written nor removed: a restart knows nothing.
                self.may_be_everything |= kind == MARKS;
                self.touched[0].insert(place);
                let refuse = |kind: Option<ErrorKind>, paths: &[&str]| {
                    for path in paths {
                        files.refuse(Path::new(path), kind);
                    }
                };
                refuse(Some(ErrorKind::StorageFull), REFUSED[kind]);
                let written = disks[0].write_at(&[value; 4096], PLACES[place], false);
                refuse(None, REFUSED[kind]);
                written.map_err(text)?;
            }
            Step::Start | Step::StartAgain => {
                self.plain = false;
                self.may_be_everything = true;
                match step {
                    Step::Start => tracker.start().map_err(text)?,
                    _ => tracker.start_again().map_err(text)?,
                }
                // Only a kill in the middle of it may forget.
                self.may_be_everything = false;
            }
            Step::Resynchronize => {
                if tracker.status().tracking {
                    self.resynchronize(machine, tracker)?;
                }
            }
            Step::Close => {
                self.closed = true;
                tracker.close().map_err(text)?;
            }
        }
        Ok(())
    }

    /// Copies what is suspect, then says so.
    fn resynchronize(&mut self, machine: &Machine, tracker: &Tracker) -> Result<(), String> {
        for disk in 0..2 {
            let found = on_disk(machine, disk)?;
            let suspect = tracker.suspect(Machine::id(disk as u128));
            for (place, offset) in PLACES.iter().enumerate() {
                if holds(&suspect, *offset) {
                    self.shipped[disk][place] = found[place];
                }
            }
        }
        self.acknowledged = self.shipped;
        tracker.resolve_suspect(tracker.chain()).map_err(text)
    }

    fn ship(&mut self, files: &MemoryFiles, cut: &Cut) {
        for (disk, log) in cut.logs.iter().enumerate() {
            let Ok(log) = LogReader::open(files, &log.path, HeaderTrust::Verified) else {
                return; // the process is dead already
            };
            for write in log.entries() {
                let write = write.unwrap();
                let mut data = vec![0; write.length as usize];
                log.read_data(&write, 0, &mut data).unwrap();
                for (nth, sector) in data.chunks(512).enumerate() {
                    let at = write.offset + nth as u64 * 512;
                    let place =
                        PLACES.iter().position(|place| (*place..place + BLOCK).contains(&at));
                    let place = place.unwrap();
                    self.shipped[disk][place][((at - PLACES[place]) / 512) as usize] = sector[0];
                }
            }
        }
    }

    /// Whatever differs must be suspect.
    fn check(&self, machine: &Machine, tracker: &Tracker, when: &str) {
        // A kill in the middle of an acknowledgement leaves it open which one counts.
        let replica = if tracker.transit().is_some() { &self.acknowledged } else { &self.shipped };
        for (disk, replica) in replica.iter().enumerate() {
            let found = on_disk(machine, disk).unwrap();
            let suspect = tracker.suspect(Machine::id(disk as u128));
            for (place, offset) in PLACES.iter().enumerate() {
                assert!(
                    found[place] == replica[place] || holds(&suspect, *offset),
                    "{when}: place {place} of disk {disk} differs and is not in {suspect:?}"
                );
            }
            match &suspect {
                Suspect::Everything => assert!(self.may_be_everything, "{when}: disk {disk}"),
                Suspect::Ranges(ranges) => {
                    check_form(ranges);
                    assert!(!holds(&suspect, 15 * REGION_BYTES), "{when}: {suspect:?}");
                }
            }
        }
    }

    /// Where the logs are whole, exactly the chunks that were written are suspect.
    fn check_exact(&self, tracker: &Tracker) {
        for disk in 0..2 {
            let Suspect::Ranges(ranges) = tracker.suspect(Machine::id(disk as u128)) else {
                panic!("everything")
            };
            let written: BTreeSet<u64> = self.touched[disk]
                .union(&self.in_transit[disk])
                .map(|place| PLACES[*place] / CHUNK_BYTES)
                .collect();
            let chunks = |range: &Range<u64>| range.start / CHUNK_BYTES..range.end / CHUNK_BYTES;
            let extra: Vec<u64> =
                ranges.iter().flat_map(chunks).filter(|chunk| !written.contains(chunk)).collect();
            assert!(extra.is_empty(), "chunks {extra:?} of disk {disk} were not written");
        }
    }
}

fn holds(suspect: &Suspect, offset: u64) -> bool {
    match suspect {
        Suspect::Everything => true,
        Suspect::Ranges(ranges) => {
            ranges.iter().any(|range| range.start <= offset && offset + BLOCK <= range.end)
        }
    }
}

fn check_form(ranges: &[Range<u64>]) {
    assert!(ranges.iter().all(|range| range.start < range.end && range.end <= SIZE), "{ranges:?}");
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{ranges:?}");
}

fn on_disk(machine: &Machine, disk: usize) -> Result<Places, String> {
    let files = &machine.files;
    let image = files.open(&machine.image(disk as u128), Open::Read).map_err(text)?;
    let mut places = Places::default();
    for (place, offset) in places.iter_mut().zip(PLACES) {
        let mut block = [0; BLOCK as usize];
        image.read_exact_at(&mut block, offset).map_err(text)?;
        for (sector, bytes) in place.iter_mut().zip(block.chunks(512)) {
            *sector = bytes[0];
        }
    }
    Ok(places)
}

fn for_every_call(
    seed: u64,
    script: &[Step],
    check: impl Fn(Arc<MemoryFiles>, Machine, Model, &str),
) {
    let (files, machine) = Machine::in_memory(seed, 2, SIZE);
    let before = files.calls();
    Model::new().run(&files, &machine, script).unwrap();
    let calls = files.calls() - before;
    for call in 0..=calls {
        let (files, machine) = Machine::in_memory(seed, 2, SIZE);
        files.kill_after(call);
        let mut model = Model::new();
        assert_eq!(model.run(&files, &machine, script).is_ok(), call == calls);
        check(files, machine, model, &format!("seed {seed}, call {call} of {calls}"));
    }
}

/// Goes on after a crash: with writes, a second crash, and a resynchronization of what is suspect alone.
fn live_on(files: &MemoryFiles, machine: &Machine, mut model: Model, boot: BootId, when: &str) {
    let tracker = machine.open(boot).unwrap();
    model.check(machine, &tracker, when);
    if model.plain && tracker.status().tracking && !model.may_be_everything {
        model.check_exact(&tracker);
    }
    if !tracker.status().tracking && tracker.status().broken.is_none() {
        return; // the first start was not completed, or another one forgot what it knew
    }
    for (nth, place) in [2, 8, 9].into_iter().enumerate() {
        let write = Step::Write { disk: nth % 2, place, sectors: 3, fua: false };
        model.step(files, machine, &tracker, 200 + nth as u8, write).unwrap();
    }
    model.check(machine, &tracker, when);
    drop(tracker);
    files.lose_power();
    let tracker = machine.open(NEXT_BOOT).unwrap();
    model.shipped = if tracker.transit().is_some() { model.acknowledged } else { model.shipped };
    model.check(machine, &tracker, &format!("{when}, then power loss"));
    tracker.start().unwrap();
    let write = Step::Write { disk: 0, place: 6, sectors: 8, fua: false };
    model.step(files, machine, &tracker, 210, write).unwrap();
    model.resynchronize(machine, &tracker).unwrap();
    model.next_cut += 1;
    model.step(files, machine, &tracker, 0, Step::Cut).unwrap();
    model.step(files, machine, &tracker, 0, Step::Acknowledge).unwrap();
    for disk in 0..2 {
        assert_eq!(model.shipped[disk], on_disk(machine, disk).unwrap(), "{when}: disk {disk}");
        assert_eq!(tracker.suspect(Machine::id(disk as u128)), Suspect::Ranges(vec![]), "{when}");
    }
}

#[test]
fn after_a_kill_at_any_call_whatever_differs_is_suspect() {
    for seed in 1..7 {
        for_every_call(seed, &script(seed, 20, seed % 2 == 0), |files, machine, model, when| {
            files.restart();
            live_on(&files, &machine, model, BOOT, when);
        });
    }
}

#[test]
fn after_a_power_loss_at_any_call_whatever_differs_is_suspect() {
    for seed in 11..17 {
        let mut script = script(seed, 20, seed % 2 == 0);
        if seed % 3 == 0 {
            script.push(Step::Close);
        }
        for_every_call(seed, &script, |files, machine, model, when| {
            files.lose_power();
            live_on(&files, &machine, model, NEXT_BOOT, when);
        });
    }
}

#[test]
fn a_broken_log_leaves_the_chunks_since_the_last_acknowledged_cut() {
    let (files, machine) = Machine::in_memory(1, 2, SIZE);
    let mut model = Model::new();
    let script = [
        Step::Write { disk: 0, place: 0, sectors: 1, fua: false },
        Step::Cut,
        Step::Acknowledge,
        Step::Write { disk: 0, place: 6, sectors: 1, fua: false },
        Step::Cut,
        Step::Write { disk: 1, place: 7, sectors: 1, fua: false },
        Step::Break { kind: 0, place: 2 },
        Step::Write { disk: 0, place: 8, sectors: 1, fua: false },
        Step::Close,
    ];
    model.run(&files, &machine, &script).unwrap();
    let chunk = |place: usize| {
        let start = PLACES[place] / CHUNK_BYTES * CHUNK_BYTES;
        start..start + CHUNK_BYTES
    };
    let tracker = machine.open(BOOT).unwrap();
    assert!(tracker.status().broken.is_some());
    let expected = [vec![chunk(2), chunk(6), chunk(8)], vec![chunk(7)]];
    for (disk, expected) in (0..).zip(expected) {
        assert_eq!(tracker.suspect(Machine::id(disk)), Suspect::Ranges(expected));
    }

    // A guest that was killed while tracking was broken: regions stand for what was written after that.
    tracker.disk(Machine::id(0)).unwrap().write_at(&[1; 512], PLACES[9], false).unwrap();
    files.restart();
    let tracker = machine.open(BOOT).unwrap();
    let region = 10 * REGION_BYTES..11 * REGION_BYTES;
    let expected = vec![chunk(2), chunk(6), region.clone()];
    assert_eq!(tracker.suspect(Machine::id(0)), Suspect::Ranges(expected));

    // Another chain keeps it, until it is said to be resolved.
    let chain = tracker.chain();
    tracker.start().unwrap();
    assert!(matches!(
        tracker.resolve_suspect(chain),
        Err(TrackError::ChainOver { asked, chain: present }) if asked == chain && present == chain + 1
    ));
    tracker.disk(Machine::id(0)).unwrap().write_at(&[1; 512], 0, false).unwrap();
    tracker.cut(1).unwrap();
    tracker.acknowledge(1).unwrap();
    let expected = vec![chunk(2), chunk(6), region];
    assert_eq!(tracker.suspect(Machine::id(0)), Suspect::Ranges(expected));
    tracker.resolve_suspect(chain + 1).unwrap();
    tracker.disk(Machine::id(0)).unwrap().write_at(&[1; 512], 0, false).unwrap();
    for _ in 0..2 {
        files.restart();
        let tracker = machine.open(BOOT).unwrap();
        assert_eq!(tracker.suspect(Machine::id(0)), Suspect::Ranges(vec![chunk(0)]));
        assert_eq!(tracker.suspect(Machine::id(1)), Suspect::Ranges(vec![]));
    }
}

#[test]
fn what_is_not_known_is_everything() {
    let harms: [fn(&MemoryFiles); 4] = [
        |files| files.remove(Path::new("/vm/disk0.bm")).unwrap(),
        |files| files.remove(Path::new("/vm/disk0.al")).unwrap(),
        |files| {
            let file = files.open(Path::new("/vm/disk0.bm"), Open::Write).unwrap();
            file.write_all_at(&[0xff], 70).unwrap();
        },
        |files| files.open(Path::new("/vm/disk0.al"), Open::Write).unwrap().set_len(10).unwrap(),
    ];
    for (index, harm) in harms.into_iter().enumerate() {
        let (files, machine) = Machine::in_memory(1, 2, SIZE);
        let tracker = machine.open(BOOT).unwrap();
        assert_eq!(tracker.suspect(Machine::id(0)), Suspect::Everything);
        assert!(matches!(tracker.resolve_suspect(0), Err(TrackError::NotTracking)));
        tracker.start().unwrap();
        assert_eq!(tracker.suspect(Machine::id(0)), Suspect::Everything);
        assert_eq!(tracker.suspect(Machine::id(7)), Suspect::Everything, "an unknown disk");
        tracker.resolve_suspect(1).unwrap();
        files.restart();
        harm(&files);
        for _ in 0..2 {
            let tracker = machine.open(BOOT).unwrap();
            assert!(tracker.status().tracking, "harm {index}");
            assert_eq!(tracker.suspect(Machine::id(0)), Suspect::Everything, "harm {index}");
            assert_eq!(tracker.suspect(Machine::id(1)), Suspect::Ranges(vec![]), "harm {index}");
            tracker.disk(Machine::id(0)).unwrap().write_at(&[1; 512], 0, false).unwrap();
            files.restart();
        }
        let tracker = machine.open(BOOT).unwrap();
        tracker.resolve_suspect(1).unwrap();
        let expected = Suspect::Ranges(std::iter::once(0..CHUNK_BYTES).collect());
        assert_eq!(tracker.suspect(Machine::id(0)), expected, "harm {index}");
        tracker.stop().unwrap();
        assert_eq!(tracker.suspect(Machine::id(1)), Suspect::Everything, "harm {index}");
        let left = files.list(Path::new("/vm")).unwrap();
        assert!(left.iter().all(|path| path.extension().is_some_and(|kind| kind != "bm")));
    }
}

#[test]
fn a_disk_that_was_changed_offline_is_suspect_as_a_whole() {
    let (files, machine) = Machine::in_memory(1, 2, SIZE);
    let tracker = machine.tracking();
    tracker.resolve_suspect(1).unwrap();
    tracker.close().unwrap();
    let image = files.open(&machine.image(1), Open::Write).unwrap();
    image.write_all_at(b"patched", 0).unwrap();
    for _ in 0..2 {
        let tracker = machine.open(BOOT).unwrap();
        assert!(tracker.status().broken.is_some());
        assert_eq!(tracker.suspect(Machine::id(0)), Suspect::Ranges(vec![]));
        assert_eq!(tracker.suspect(Machine::id(1)), Suspect::Everything);
        files.restart();
    }
    // Also one that is changed while tracking is broken.
    let tracker = machine.open(BOOT).unwrap();
    tracker.close().unwrap();
    let image = files.open(&machine.image(0), Open::Write).unwrap();
    image.write_all_at(b"patched", 0).unwrap();
    let tracker = machine.open(BOOT).unwrap();
    assert_eq!(tracker.suspect(Machine::id(0)), Suspect::Everything);
}
