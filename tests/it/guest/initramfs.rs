//! The guest's root file system: a cpio archive in the kernel's `newc` format.
//!
//! Source: <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Types of files, with their permissions.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// What `ldd` says of a program that needs no libraries.
const STATIC: &str = "not a dynamic executable";

/// An archive in the making. A folder comes before what is in it.
pub(super) struct Initramfs {
    archive: Vec<u8>,
    folders: Vec<PathBuf>,
    entries: u32,
}

impl Initramfs {
    /// An archive with `init` as the first process, busybox as all its tools, and the modules of a
    /// kernel.
    pub(super) fn new(init: &str, busybox: &Path, modules: &Path) -> Self {
        let mut own = Self { archive: Vec::new(), folders: Vec::new(), entries: 0 };
        own.file("/init", init.as_bytes());
        own.file("/bin/busybox", &fs::read(busybox).unwrap());
        own.libraries_of(busybox);
        own.file("/etc/acpi/PWRF/00000080", b"#!/bin/sh\ntouch /off\n");
        for module in fs::read_dir(modules).unwrap() {
            let module = module.unwrap();
            let place = Path::new("/modules").join(module.file_name());
            own.file(place.to_str().unwrap(), &fs::read(module.path()).unwrap());
        }
        own
    }

    /// Adds a file that may be run.
    pub(super) fn file(&mut self, place: &str, content: &[u8]) {
        self.folder(Path::new(place).parent().unwrap());
        self.entry(place, PROGRAM, content);
    }

    /// Adds the libraries that a program is linked to.
    pub(super) fn libraries_of(&mut self, program: &Path) {
        let listed = Command::new("ldd").arg(program).output().unwrap();
        let said = String::from_utf8(listed.stdout).unwrap();
        assert!(
            listed.status.success() || String::from_utf8_lossy(&listed.stderr).contains(STATIC),
            "ldd {}: {said}",
            program.display()
        );
        // `libc.so.6 => /lib/libc.so.6 (0x..)`, or the path alone.
        for library in said.split_whitespace().filter(|word| word.starts_with('/')) {
            if !self.folders.iter().any(|known| known == Path::new(library)) {
                self.file(library, &fs::read(library).unwrap());
                self.folders.push(PathBuf::from(library));
            }
        }
    }

    /// The archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("/TRAILER!!!", 0, b"");
        self.archive
    }

    fn folder(&mut self, folder: &Path) {
        if folder == Path::new("/") || self.folders.iter().any(|known| known == folder) {
            return;
        }
        self.folder(folder.parent().unwrap());
        self.entry(folder.to_str().unwrap(), FOLDER, b"");
        self.folders.push(folder.to_owned());
    }

    fn entry(&mut self, place: &str, mode: u32, content: &[u8]) {
        let name = place.trim_start_matches('/');
        self.entries += 1;
        // Inode, mode, owner, group, links, time, length, two devices of two numbers, length of the
        // name with its end, checksum.
        let length = content.len() as u32;
        let name_length = name.len() as u32 + 1;
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        self.archive.extend(b"070701");
        for field in fields {
            self.archive.extend(format!("{field:08x}").bytes());
        }
        self.archive.extend(name.bytes().chain([0]));
        self.pad();
        self.archive.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(4), 0);
    }
}
