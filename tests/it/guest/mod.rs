//! The data plane under a real guest: a Linux with an ext4 in a QEMU, whose disk is an export.
//!
//! The guest (`init.sh`) writes files with checksums and syncs them, and later checks what it finds; it
//! knows nothing of Lifeboat. Whatever it needs is a kernel, busybox and its first process in an
//! initramfs, so that the disk holds nothing but what is under test.

mod agent;
mod failback;
mod failover;
mod initramfs;
mod kill;
mod machine;
mod power_loss;
mod qmp;

use agent::{Agent, Replica};
use initramfs::Initramfs;
use machine::{Disk, Machine};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;
use tempfile::TempDir;

/// Names the folder with `vmlinuz` and the folder `modules`; set by `tests/run`.
const KERNEL: &str = "LIFEBOAT_GUEST_KERNEL";

/// What the tests call.
const TOOLS: [&str; 7] =
    ["qemu-system-x86_64", "busybox", "mkfs.ext4", "e2fsck", "debugfs", "setpriv", "strip"];

/// The longest wait for any one thing. A guest without acceleration boots in 3 s on a machine that does
/// nothing else; beside the other tests on two slow cores it took a minute and more.
const PATIENCE: Duration = Duration::from_mins(4);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Memory of a guest that only writes files.
const MEMORY_MIB: u32 = 192;

/// Size of a guest's disk.
const DISK_BYTES: u64 = 128 << 20;

/// What a test has: a folder of its own, and everything that a machine boots from.
struct Lab {
    folder: TempDir,
    kernel: PathBuf,
    initramfs: PathBuf,
    memory_mib: u32,
}

impl Lab {
    /// Nothing, if something is missing here; says what.
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
    fn new(test: &str) -> Option<Self> {
        if let Some(missing) = TOOLS.iter().find(|tool| find(tool).is_none()) {
            println!("SKIPPED {test}: {missing} is not installed");
            return None;
        }
        let given = std::env::var_os(KERNEL).map(PathBuf::from);
        let Some(kernel) = given.filter(|folder| folder.join("vmlinuz").exists()) else {
            println!("SKIPPED {test}: {KERNEL} names no kernel for guests");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let own = Self {
            initramfs: folder.path().join("initramfs"),
            kernel: kernel.join("vmlinuz"),
            folder,
            memory_mib: MEMORY_MIB,
        };
        own.pack(own.system());
        Some(own)
    }

    /// What every guest has.
    fn system(&self) -> Initramfs {
        let busybox = find("busybox").unwrap();
        let modules = self.kernel.with_file_name("modules");
        Initramfs::new(include_str!("init.sh"), &busybox, &modules)
    }

    fn pack(&self, initramfs: Initramfs) {
        fs::write(&self.initramfs, initramfs.finish()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the service keeps everything but the source's disk.
    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn config(&self) -> PathBuf {
        self.path("lifeboat.toml")
    }

    /// Makes an empty ext4 as the disk of the one VM, and the configuration that protects it with a
    /// delta every second.
    fn protect(&self) -> PathBuf {
        let image = self.path("vm-01.img");
        File::create_new(&image).unwrap().set_len(DISK_BYTES).unwrap();
        make_ext4(&image, &[]);
        let (data, image_text) = (self.data(), image.display());
        let data = data.display();
        let config = format!(
            "data = '{data}'\nlisten = \"127.0.0.1:0\"\n[policy]\ncopy_frequency_s = 1\nresync_window = \"always\"\n\
             [[host]]\nname = \"host-1\"\n[[host.vm]]\nname = \"vm-01\"\n\
             disk = [{{ name = \"os\", path = '{image_text}' }}]\n"
        );
        fs::write(self.config(), config).unwrap();
        image
    }
}

/// A command whose process ends with the thread that began it: a test that is killed leaves no machine
/// behind.
fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]).stdin(Stdio::null());
    command
}

/// Where a program is.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn make_ext4(image: &Path, options: &[&OsStr]) {
    let made = Command::new("mkfs.ext4").arg("-q").args(options).arg(image).status().unwrap();
    assert!(made.success());
}

/// Runs e2fsck on an image; answers its exit code: 0 is a file system without any error, 1 one that was
/// corrected. Source: e2fsck(8).
fn e2fsck(arguments: &[&str], image: &Path) -> Option<i32> {
    let checked = Command::new("e2fsck").args(arguments).arg(image).output().unwrap();
    let code = checked.status.code();
    assert!(matches!(code, Some(0 | 1)), "e2fsck {arguments:?} {}: {checked:?}", image.display());
    code
}

fn text_of(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}

/// Looks again and again until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        if is_so() {
            return;
        }
        sleep(LOOK);
    }
    panic!("waited {PATIENCE:?} for {what}");
}
