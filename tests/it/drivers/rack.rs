//! Disks in memory and the connections to them, which can be broken.

use lifeboat::drivers::lab::{LastWrite, Workload, check};
use lifeboat::ports::block::{BlockDevice, Connect};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;

/// A disk in memory; sectors of zeroes are its holes.
#[derive(Debug)]
pub(crate) struct MemoryDisk(Mutex<Vec<u8>>);

impl MemoryDisk {
    pub(crate) fn holding(content: Vec<u8>) -> Self {
        Self(Mutex::new(content))
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.0.lock().unwrap());
    }
}

impl BlockDevice for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.0.lock().unwrap()[start..start + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64, _fua: bool) -> io::Result<()> {
        let start = offset as usize;
        self.0.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, range: Range<u64>, _punch: bool, _fua: bool) -> io::Result<()> {
        self.0.lock().unwrap()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let bytes = self.0.lock().unwrap();
        let is_data = |index: &usize| bytes[*index * SECTOR..][..SECTOR] != [0; SECTOR];
        let sectors = bytes.len() / SECTOR;
        let first = from as usize / SECTOR;
        let Some(start) = (first..sectors).find(is_data) else { return Ok(None) };
        let end = (start..sectors).find(|index| !is_data(index)).unwrap_or(sectors);
        Ok(Some((start * SECTOR).max(from as usize) as u64..(end * SECTOR) as u64))
    }
}

/// What reached a disk of the rack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    Write { disk: usize, offset: u64 },
    Flush { disk: usize },
}

/// The disks of a VM, at the URIs `<name>/0`, `<name>/1`, ...
#[derive(Debug)]
pub(crate) struct Rack {
    name: String,
    pub(crate) disks: Vec<Arc<MemoryDisk>>,
    wires: Mutex<Wires>,
}

#[derive(Debug, Default)]
struct Wires {
    down: bool,
    /// Connections made before the last break are dead.
    broken: u64,
    lose_next_answer: bool,
    arrived: Vec<Arrived>,
}

impl Rack {
    pub(crate) fn new(name: &str, workload: &Workload) -> Arc<Self> {
        let blank = |size: &u64| Arc::new(MemoryDisk::holding(vec![0; *size as usize]));
        let disks = workload.disks().iter().map(blank).collect();
        Arc::new(Self { name: name.to_owned(), disks, wires: Mutex::default() })
    }

    /// As [`Rack::new`], but the first `writes` writes are on the disks.
    pub(crate) fn after(name: &str, workload: &Workload, writes: u64) -> Arc<Self> {
        let rack = Self::new(name, workload);
        for n in 1..=writes {
            let write = workload.write(n);
            rack.disks[write.disk].write_at(&workload.content(n), write.offset(), false).unwrap();
        }
        rack
    }

    pub(crate) fn uris(&self) -> Vec<String> {
        (0..self.disks.len()).map(|disk| format!("{}/{disk}", self.name)).collect()
    }

    /// Connects to the disks of these racks.
    pub(crate) fn connect(racks: &[&Arc<Self>]) -> Connect {
        let racks: Vec<Arc<Self>> = racks.iter().copied().cloned().collect();
        Arc::new(move |uri| {
            let (name, disk) = uri.split_once('/').unwrap();
            let rack = racks.iter().find(|rack| rack.name == name).unwrap().clone();
            let wires = rack.wires.lock().unwrap();
            if wires.down {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let made_at = wires.broken;
            drop(wires);
            Ok(Arc::new(Connection { rack, disk: disk.parse().unwrap(), made_at }))
        })
    }

    /// Breaks all connections; others can be made.
    pub(crate) fn break_connections(&self) {
        self.wires.lock().unwrap().broken += 1;
    }

    /// Breaks all connections and refuses others.
    pub(crate) fn go_down(&self) {
        let mut wires = self.wires.lock().unwrap();
        wires.down = true;
        wires.broken += 1;
    }

    pub(crate) fn come_up(&self) {
        self.wires.lock().unwrap().down = false;
    }

    /// Lets the next write take place and breaks all connections before its answer.
    pub(crate) fn lose_next_answer(&self) {
        self.wires.lock().unwrap().lose_next_answer = true;
    }

    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.wires.lock().unwrap().arrived.clone()
    }

    /// The last write on the disks, which must hold exactly the writes up to it.
    pub(crate) fn last_write(&self, workload: &Workload) -> u64 {
        let disks: Vec<&dyn BlockDevice> =
            self.disks.iter().map(|disk| disk.as_ref() as _).collect();
        check(workload, &disks, LastWrite::Whole, &|_, _| ()).unwrap().last_write
    }
}

/// A connection to a disk of a rack.
#[derive(Debug)]
struct Connection {
    rack: Arc<Rack>,
    disk: usize,
    made_at: u64,
}

impl Connection {
    fn request<T>(
        &self,
        what: impl FnOnce(&mut Wires, &MemoryDisk) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut wires = self.rack.wires.lock().unwrap();
        if self.made_at != wires.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        what(&mut wires, &self.rack.disks[self.disk])
    }
}

impl BlockDevice for Connection {
    fn size_bytes(&self) -> u64 {
        self.rack.disks[self.disk].size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.request(|_, disk| disk.read_at(buffer, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64, fua: bool) -> io::Result<()> {
        self.request(|wires, disk| {
            wires.arrived.push(Arrived::Write { disk: self.disk, offset });
            disk.write_at(data, offset, fua)?;
            if std::mem::take(&mut wires.lose_next_answer) {
                wires.broken += 1;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(())
        })
    }

    fn zero(&self, range: Range<u64>, punch: bool, fua: bool) -> io::Result<()> {
        self.request(|_, disk| disk.zero(range, punch, fua))
    }

    fn flush(&self) -> io::Result<()> {
        self.request(|wires, disk| {
            wires.arrived.push(Arrived::Flush { disk: self.disk });
            disk.flush()
        })
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.request(|_, disk| disk.next_data(from))
    }
}
