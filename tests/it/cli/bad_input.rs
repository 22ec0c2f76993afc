//! What is wrong is named, on standard error, with exit code 2; nothing panics and nothing is made.

use super::{Place, lifeboat, text};
use std::fs;

/// Configurations that cannot be used, and what must be said of each.
const CONFIGURATIONS: &[(&str, &str)] = &[
    ("", "missing field `data`"),
    ("dta = 'x'", "unknown field `dta`"),
    ("data = 5", "line 1"),
    ("data = ''", "data is empty"),
    ("data = 'x'\nlisten = 'localhost:1'", "line 2"),
    ("data = 'x'\n[policy]\ncopy_frequency_s = 0", "copy_frequency_s is 0"),
    ("data = 'x'\n[policy]\ncopy_frequency_s = 901", "copy_frequency_s is 901"),
    ("data = 'x'\n[policy]\ncopy_frequency_s = -1", "line 3"),
    ("data = 'x'\n[policy]\nrecovery_point_retention_h = 73", "recovery_point_retention_h is 73"),
    ("data = 'x'\n[vault]\nfolder = ''", "vault.folder is empty"),
    ("data = 'x'\n[alerts]\nwebhook = 'ftp://x'", "alerts.webhook is \"ftp://x\""),
    ("data = 'x'\n[bandwidth]\nwork_kbps = 9", "work_kbps of bandwidth is 9"),
    ("data = 'x'\n[bandwidth]\nwork_hours = '9-5'", "work_hours of bandwidth is \"9-5\""),
    (
        "data = 'x'\n[[host]]\nname = 'a'\n[host.bandwidth]\nwork_days = ['freitag']",
        "work_days of bandwidth of host a has \"freitag\"",
    ),
    ("data = 'x'\ncloud = 5", "the name of the only cloud, or a [[cloud]] for each"),
    ("data = 'x'\ncloud = 'a b'", "cloud a b must have"),
    ("data = 'x'\n[[cloud]]\nname = 'a'\n[[cloud]]\nname = 'a'", "cloud a is there twice"),
    ("data = 'x'\n[[cloud]]\nname = 'a'\npolicies = 1", "line 4"),
    (
        "data = 'x'\n[[cloud]]\nname = 'a'\npolicy = { copy_frequency_s = 901 }",
        "policy of cloud a copy_frequency_s is 901",
    ),
    (
        "data = 'x'\ncloud = 'a'\n[[host]]\nname = 'h'\ncloud = 'b'",
        "cloud of host h is \"b\", which is no cloud: there is a",
    ),
    (
        "data = 'x'\ncloud = [{ name = 'a' }, { name = 'b' }]\n[[host]]\nname = 'h'",
        "cloud of host h is missing: name one of a, b",
    ),
    (
        "data = 'x'\ncloud = [{ name = 'a' }, { name = 'b' }]\n\
         [[host]]\nname = 'h'\ncloud = 'a'\ncluster = 'c'\n\
         [[host]]\nname = 'i'\ncloud = 'b'\ncluster = 'c'",
        "cloud of host i is b, but cluster c has a host of a",
    ),
    ("data = 'x'\n[[host]]\nname = 'a b'", "host a b must have"),
    ("data = 'x'\n[[host]]\nname = 'a'\n[[host]]\nname = 'a'", "host a is there twice"),
];

/// VMs of one host that cannot be used, and what must be said of them.
const VMS: &[(&str, &str)] = &[
    ("name = 'a'\ndisk = []", "vm a has no disk"),
    ("name = '-a'\ndisk = []", "vm -a must have"),
    ("name = 'a'\ndisk = [{ name = 'c', path = '' }]", "disk c of a has no file name"),
    (
        "name = 'a'\ndisk = [{ name = 'c', path = '1' }, { name = 'c', path = '2' }]",
        "disk c of a is there twice",
    ),
    (
        "name = 'a'\ndisk = [{ name = 'c', path = '1' }, { name = 'd', path = './1' }]",
        "disk d of a has the image of another disk",
    ),
    (
        "name = 'a-b'\ndisk = [{ name = 'c', path = '1' }]\n\
         [[host.vm]]\nname = 'a'\ndisk = [{ name = 'b-c', path = '2' }]",
        "disk b-c of a has the export name of another disk, a-b-c",
    ),
    (
        "name = 'a'\ndisk = [{ name = 'c', path = '1', create_mib = 17592186044416 }]",
        "create_mib of disk c of a is 17592186044416",
    ),
    (
        "name = 'a'\ndisk = [{ name = 'c', path = '1' }]\n\
         guest = { seed = 1, writes_per_second = 0 }",
        "writes_per_second of vm a is 0",
    ),
];

fn assert_refused(arguments: &[&str], because: &str) {
    let output = lifeboat(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(said.contains(because), "{arguments:?} must say {because:?}: {said}");
    assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_with_its_reason() {
    let place = Place::new("");
    let config = place.config();
    let check = |content: &[u8], because: &str| {
        fs::write(&config, content).unwrap();
        assert_refused(&["serve", "--check", "--config", config.to_str().unwrap()], because);
    };
    for (configuration, because) in CONFIGURATIONS {
        check(configuration.as_bytes(), because);
    }
    for (vm, because) in VMS {
        let configuration = format!("data = 'x'\n[[host]]\nname = 'h'\n[[host.vm]]\n{vm}");
        check(configuration.as_bytes(), because);
    }
    check(&[0xff, 0xfe, 0x00, 0x80], "read configuration");
}

#[test]
fn the_configurations_that_are_shipped_are_valid() {
    let root = env!("CARGO_MANIFEST_DIR");
    for name in ["lifeboat.toml", "demo.toml"] {
        super::done(&["serve", "--check", "--config", &format!("{root}/config/{name}")]);
    }
}

#[test]
fn a_file_or_folder_that_cannot_be_used_is_named() {
    let place = Place::new("");
    let missing = place.file("missing");
    let empty = place.file("empty.img");
    let odd = place.file("odd.img");
    let folder = place.file("folder.img");
    fs::write(&empty, "").unwrap();
    fs::write(&odd, [0; 1000]).unwrap();
    fs::create_dir(&folder).unwrap();
    let data = place.data_text();
    let table: &[(&[&str], &str)] = &[
        (&["serve", "--config", &missing], &missing),
        (&["serve", "--config", &folder], "Is a directory"),
        (&["demo", "--data", &data, "--disk", &missing], &missing),
        (&["demo", "--data", &data, "--disk", &empty], "multiple of 512 bytes and not 0"),
        (&["demo", "--data", &data, "--disk", &odd], "multiple of 512 bytes and not 0"),
        (&["demo", "--data", &data, "--disk", &folder], "it is not a file"),
        (&["events", "tail", "--data", &missing], "no event log in"),
        (&["events", "show", "--data", &folder], "no event log in"),
        (&["events", "export", "--data", &folder], "no event log in"),
        (&["events", "verify", "--data", &folder], "no event log in"),
        (&["events", "import", "--data", &data, "--from", &missing], &missing),
    ];
    for (arguments, because) in table {
        assert_refused(arguments, because);
    }
    assert!(!place.data().exists(), "something was made for a request that was refused");
}

#[test]
fn a_data_folder_that_cannot_be_used_is_refused_without_panic() {
    let place = Place::new("");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let file = place.file("file");
    fs::write(&file, "").unwrap();
    let long = place.file(&"x".repeat(120));
    let free = "127.0.0.1:0";
    let data = place.data_text();
    let table: [(&str, &str, &str); 4] = [
        (&file, free, "make folder"),
        ("/proc/lifeboat", free, "make folder /proc/lifeboat"),
        (&long, free, "at most 107 bytes"),
        (&data, &taken, "choose another address with `listen`"),
    ];
    for (data, listen, because) in table {
        fs::write(place.config(), format!("data = {data:?}\nlisten = {listen:?}")).unwrap();
        assert_refused(&["serve", "--config", place.config().to_str().unwrap()], because);
    }
}
