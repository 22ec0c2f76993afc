//! The disks that servers offer, by name.

use super::socket::Stream;
use crate::ports::block::BlockDevice;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The disks that are offered, by name. Several servers can share one; names come and go while they
/// run.
#[derive(Debug, Default)]
pub struct Exports {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    exports: BTreeMap<String, Export>,
    next_connection: u64,
}

#[derive(Debug)]
struct Export {
    device: Arc<dyn BlockDevice>,
    /// Who uses it, by the number of the connection.
    connections: BTreeMap<u64, Stream>,
}

impl Exports {
    /// Offers a disk. One that had the name is removed first.
    pub fn add(&self, name: &str, device: Arc<dyn BlockDevice>) {
        self.remove(name);
        let export = Export { device, connections: BTreeMap::new() };
        self.lock().exports.insert(name.to_owned(), export);
    }

    /// Takes a disk away and closes the connections that use it. A request that runs already still
    /// ends by itself. Returns whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        let Some(export) = self.lock().exports.remove(name) else { return false };
        export.connections.values().for_each(Stream::shut_down);
        true
    }

    /// The names that are offered, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().exports.keys().cloned().collect()
    }

    /// The disk of a name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn BlockDevice>> {
        self.lock().exports.get(name).map(|export| Arc::clone(&export.device))
    }

    /// The disk of a name for a connection that uses it until the return value is dropped.
    pub(super) fn connect(self: &Arc<Self>, name: &str, stream: &Stream) -> Option<Connected> {
        let stream = stream.try_clone().ok()?;
        let mut table = self.lock();
        let number = table.next_connection;
        table.next_connection += 1;
        let export = table.exports.get_mut(name)?;
        export.connections.insert(number, stream);
        let device = Arc::clone(&export.device);
        Some(Connected { exports: Arc::clone(self), name: name.to_owned(), number, device })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's use of an export.
#[derive(Debug)]
pub(super) struct Connected {
    exports: Arc<Exports>,
    pub(super) name: String,
    number: u64,
    pub(super) device: Arc<dyn BlockDevice>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(export) = self.exports.lock().exports.get_mut(&self.name) {
            export.connections.remove(&self.number);
        }
    }
}
