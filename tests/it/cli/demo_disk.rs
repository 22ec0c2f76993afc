//! `lifeboat demo --disk`: somebody's own image, written to by somebody's own tool.

use super::{Place, Running, crash};
use std::fs::File;
use std::io::ErrorKind;
use std::process::Command;

/// Runs a command of qemu-io on the export; nothing if there is no qemu-io.
fn qemu_io(test: &str, uri: &str, commands: &[&str]) -> Option<()> {
    let mut tool = Command::new("qemu-io");
    tool.args(["-f", "raw"]);
    for command in commands {
        tool.args(["-c", command]);
    }
    match tool.arg(uri).output() {
        Ok(output) => {
            let said = super::text(&output.stdout);
            assert!(output.status.success() && !said.contains("failed"), "{commands:?}: {said}");
            Some(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("SKIPPED {test}: qemu-io is not installed");
            None
        }
        Err(error) => panic!("qemu-io: {error}"),
    }
}

#[test]
fn what_was_written_to_an_exported_image_is_there_after_a_kill() {
    let test = "what_was_written_to_an_exported_image_is_there_after_a_kill";
    let place = Place::new("");
    let image = place.file("my disk.img");
    File::create_new(&image).unwrap().set_len(8 << 20).unwrap();
    let data = place.data_text();
    let arguments = ["demo", "--disk", &image, "--data", &data];

    let mut demo = Running::start(&arguments);
    let uri = demo.first_line();
    assert!(uri.starts_with("nbd+unix:///my-disk-disk?socket="), "{uri}");
    let write = ["write -P 7 1M 2M", "flush"];
    let Some(()) = qemu_io(test, &uri, &write) else { return };
    demo.kill();

    let mut demo = Running::start(&arguments);
    assert_eq!(demo.first_line(), uri, "the address changed");
    qemu_io(test, &uri, &["read -P 7 1M 2M", "read -P 0 3M 5M", "write -P 8 3M 64k", "flush"]);
    assert_eq!(demo.stop().code(), Some(0));

    let bytes = std::fs::read(&image).unwrap();
    let written = |range: std::ops::Range<usize>, byte| bytes[range].iter().all(|own| *own == byte);
    assert!(written(1 << 20..3 << 20, 7) && written(3 << 20..(3 << 20) + (64 << 10), 8));
    let vms = crash::logged(&place.data()).0;
    assert_eq!(vms.iter().map(|vm| &*vm.name).collect::<Vec<_>>(), ["my-disk"]);
}
