//! A virtual machine: a QEMU process without acceleration, which works wherever QEMU does.

use super::qmp::Qmp;
use super::{Lab, command, wait_until};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

/// Time between two presses of the power button: one that comes before the guest listens is lost.
const PRESS: Duration = Duration::from_millis(1_500);

/// How long QEMU tries to get an export back before the guest sees an error.
const RECONNECT_S: u32 = 60;

/// What a machine has as its disk.
#[derive(Clone, Copy)]
pub(super) enum Disk<'a> {
    /// An export.
    Export {
        /// The server's socket.
        socket: &'a Path,
        /// Its name.
        name: &'a str,
    },
    /// A raw image.
    Image(&'a Path),
}

/// A running machine; killed if the test ends before it does.
pub(super) struct Machine {
    name: String,
    qemu: Child,
    serial: PathBuf,
    qmp: PathBuf,
}

impl Machine {
    /// Switches a machine on. `mode` goes on the kernel's command line; each machine of a test has a
    /// name of its own.
    pub(super) fn boot(lab: &Lab, name: &str, disk: Disk<'_>, mode: &str) -> Self {
        let (serial, qmp) = (lab.path(&format!("{name}.serial")), lab.path(&format!("{name}.qmp")));
        let said = File::create_new(lab.path(&format!("{name}.qemu"))).unwrap();
        let drive = match disk {
            Disk::Export { socket, name } => format!(
                "driver=nbd,node-name=disk,server.type=unix,server.path={},export={name},\
                 reconnect-delay={RECONNECT_S}",
                socket.display()
            ),
            Disk::Image(path) => format!("driver=file,node-name=disk,filename={}", path.display()),
        };
        let qemu = command("qemu-system-x86_64")
            .args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-m", &lab.memory_mib.to_string(), "-smp", "1"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-serial", &format!("file:{}", serial.display())])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", qmp.display())])
            .arg("-kernel")
            .arg(&lab.kernel)
            .arg("-initrd")
            .arg(&lab.initramfs)
            .args(["-append", &format!("console=ttyS0 quiet panic=-1 {mode}")])
            .args(["-blockdev", &drive, "-device", "virtio-blk-pci,drive=disk"])
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), qemu, serial, qmp }
    }

    /// Everything that the guest said.
    fn said(&self) -> String {
        let bytes = fs::read(&self.serial).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// What the guest said last after a word: `5` after `WROTE` of `GUEST WROTE 5`.
    pub(super) fn told(&self, word: &str) -> Option<String> {
        let said = self.said();
        // The last line may still be coming.
        let whole = &said[..said.rfind('\n').map_or(0, |end| end + 1)];
        assert!(!whole.contains("GUEST FAILED"), "{}: {said}", self.name);
        let after = |line: &str| {
            let rest = line.strip_prefix("GUEST ")?.strip_prefix(word)?;
            Some(rest.trim().to_owned())
        };
        whole.lines().rev().find_map(after)
    }

    /// The number that the guest told last after a word; 0 before it told any.
    pub(super) fn number(&self, word: &str) -> u64 {
        let told = self.told(word).unwrap_or_default();
        told.split_whitespace().next().map_or(0, |number| number.parse().unwrap())
    }

    /// Waits until the guest has told at least this number after a word.
    pub(super) fn wait_for(&mut self, word: &str, number: u64) {
        wait_until(&format!("{}: {word} {number}", self.name), || {
            let told = self.number(word);
            let ended = self.qemu.try_wait().unwrap();
            assert!(ended.is_none() || number <= told, "{} ended: {}", self.name, self.said());
            number <= told
        });
    }

    /// Waits until the guest has switched itself off; it must have let its disk go before. Answers
    /// what it told after a word.
    pub(super) fn ended(mut self, word: &str) -> String {
        let what = format!("{} to end", self.name);
        wait_until(&what, || self.qemu.try_wait().unwrap().is_some());
        self.end(word)
    }

    /// Presses the power button until the machine is off. Answers what the guest told after a word.
    pub(super) fn power_off(mut self, word: &str) -> String {
        let mut qmp = Qmp::connect(&self.qmp).unwrap();
        let mut looks = 0;
        let what = format!("{} to switch off", self.name);
        wait_until(&what, || {
            if looks % (PRESS.as_millis() / super::LOOK.as_millis()) == 0 {
                // A machine that has just ended does not answer.
                let _ = qmp.execute("system_powerdown");
            }
            looks += 1;
            self.qemu.try_wait().unwrap().is_some()
        });
        self.end(word)
    }

    fn end(&self, word: &str) -> String {
        let said = self.said();
        assert!(said.contains("GUEST UNMOUNTED"), "{}: {said}", self.name);
        assert!(!said.contains("I/O error") && !said.contains("EXT4-fs error"), "{said}");
        self.told(word).unwrap_or_else(|| panic!("{}: no {word}: {said}", self.name))
    }

    /// Takes its power away. What it told can still be asked for.
    pub(super) fn kill(&mut self) {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
