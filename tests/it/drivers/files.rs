//! The files of a lab host.

use lifeboat::drivers::lab::LabFiles;
use lifeboat::ports::files::{File, Files, Open};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Files in memory, as far as these tests need them.
#[derive(Debug, Default)]
struct Shelf(Mutex<BTreeMap<PathBuf, Arc<Sheet>>>);

#[derive(Debug, Default)]
struct Sheet(Mutex<Vec<u8>>);

impl Files for Shelf {
    fn open(&self, path: &Path, _: Open) -> io::Result<Arc<dyn File>> {
        Ok(self.0.lock().unwrap().entry(path.to_owned()).or_default().clone())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn make_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }

    fn folders(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        self.0.lock().unwrap().retain(|path, _| !path.starts_with(folder));
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.lock().unwrap().contains_key(path)
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(1 << 30)
    }
}

impl File for Sheet {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.0.lock().unwrap()[start..start + buffer.len()]);
        Ok(())
    }

    fn write_all_vectored_at(&self, buffers: &[&[u8]], offset: u64) -> io::Result<()> {
        let (data, start) = (buffers.concat(), offset as usize);
        let mut bytes = self.0.lock().unwrap();
        let end = bytes.len().max(start + data.len());
        bytes.resize(end, 0);
        bytes[start..start + data.len()].copy_from_slice(&data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn zero(&self, range: Range<u64>, _: bool) -> io::Result<()> {
        self.0.lock().unwrap()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len()?;
        Ok((from < len).then_some(from..len))
    }
}

const LOG: &str = "/vm/disk-0.hrl";
const DISK: &str = "/vm/disk-0.raw";

fn is_down<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| {
        error.kind() == io::ErrorKind::NotConnected && error.to_string() == "host hv-01 is down"
    })
}

#[test]
fn a_killed_host_does_nothing_more_and_what_it_wrote_stays() {
    let shelf = Arc::new(Shelf::default());
    let files = LabFiles::new(shelf.clone(), "hv-01");
    let (log, folder) = (Path::new(LOG), Path::new("/vm"));
    let open = files.open(log, Open::Create).unwrap();
    open.write_all_at(b"record", 0).unwrap();
    files.kill();

    assert!(is_down(open.write_all_at(b"more", 6)));
    assert!(is_down(open.read_exact_at(&mut [0; 4], 0)));
    assert!(is_down(open.sync_data()));
    assert!(is_down(open.len()));
    assert!(is_down(open.set_len(0)));
    assert!(is_down(open.zero(0..4, true)));
    assert!(is_down(open.next_data(0)));
    assert!(is_down(files.open(log, Open::Read)));
    assert!(is_down(files.rename(log, Path::new(DISK))));
    assert!(is_down(files.remove(log)));
    assert!(is_down(files.sync_dir(folder)));
    assert!(is_down(files.list(folder)));
    assert!(is_down(files.free_bytes(folder)));
    assert!(!files.exists(log));

    let successor = LabFiles::new(shelf, "hv-01");
    let mut kept = [0; 6];
    successor.open(log, Open::Read).unwrap().read_exact_at(&mut kept, 0).unwrap();
    assert_eq!(&kept, b"record");
}

#[test]
fn nothing_changes_once_kill_has_returned() {
    let shelf = Arc::new(Shelf::default());
    let files = LabFiles::new(shelf.clone(), "hv-01");
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let file = files.open(Path::new(LOG), Open::Create).unwrap();
            std::thread::spawn(move || {
                (0..u64::MAX).find(|n| file.write_all_at(&n.to_le_bytes(), writer * 8).is_err())
            })
        })
        .collect();
    while shelf.open(Path::new(LOG), Open::Read).unwrap().len().unwrap() < 32 {
        std::thread::yield_now();
    }
    files.kill();
    let content = || {
        let mut content = [0; 32];
        let file = shelf.open(Path::new(LOG), Open::Read).unwrap();
        file.read_exact_at(&mut content, 0).unwrap();
        content
    };
    let at_the_kill = content();
    for writer in writers {
        assert!(writer.join().unwrap().is_some());
    }
    assert_eq!(content(), at_the_kill);
}

#[test]
fn a_full_disk_takes_no_more_of_a_log_but_everything_else() {
    let files = LabFiles::new(Arc::new(Shelf::default()), "hv-01");
    let open = |path: &str| files.open(Path::new(path), Open::Create).unwrap();
    let transit = format!("{LOG}.7.transit");
    for log in [LOG, &transit] {
        open(log).write_all_at(b"record", 0).unwrap();
    }
    files.fill_disk();
    for log in [LOG, &transit] {
        let full = open(log).write_all_at(b"more", 4).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(full.to_string().contains(log), "{full}");
        assert_eq!(open(log).set_len(7).unwrap_err().kind(), io::ErrorKind::StorageFull);
        open(log).write_all_at(b"RECORD", 0).unwrap();
        assert_eq!(open(log).len().unwrap(), 6);
    }
    open(DISK).write_all_at(b"guest data", 0).unwrap();
    assert_eq!(files.free_bytes(Path::new("/vm")).unwrap(), 0);
    files.free_disk();
    open(LOG).write_all_at(b"more", 6).unwrap();
    assert_ne!(files.free_bytes(Path::new("/vm")).unwrap(), 0);
}
